//! Events in the forms that others read: Holdfast's own JSON, and S3's event records.
//!
//! Source: S3 user guide, "Event message structure", version 2.3 of the record.

use holdfast_core::event::EventKind;
use holdfast_core::id::Place;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use crate::clock::iso_8601;
use crate::feed::Event;

/// What a form leaves as it is: S3 writes keys in records like that.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// The id of a position: `<revision>.<n>`.
#[must_use]
pub fn id(place: Place) -> String {
    format!("{}.{}", place.revision, place.ordinal)
}

/// The position that an id or a revision names; a revision, and `<revision>.end`, name the end of its commit.
#[must_use]
pub fn position(text: &str) -> Option<Place> {
    let (revision, ordinal) = match text.split_once('.') {
        None => (text, u16::MAX),
        Some((revision, "end")) => (revision, u16::MAX),
        Some((revision, ordinal)) => (revision, ordinal.parse().ok()?),
    };
    let digits = !revision.is_empty() && revision.bytes().all(|byte| byte.is_ascii_digit());
    Some(Place { revision: digits.then(|| revision.parse().ok()).flatten()?, ordinal })
}

/// Sorts as text like its place: twenty hexadecimal digits.
#[must_use]
pub fn sequencer(place: Place) -> String {
    format!("{:016X}{:04X}", place.revision, place.ordinal)
}

/// Holdfast's own form. Absent fields are left out.
#[must_use]
pub fn plain(event: &Event) -> Value {
    let Event { place, row } = event;
    let mut out = json!({
        "revision": place.revision,
        "n": place.ordinal,
        "last": row.last,
        "event": row.kind.name(),
        "time": iso_8601(row.at_ms),
        "request_id": row.request.to_string(),
    });
    let fields = [
        ("bucket", row.bucket.as_ref().map(|bucket| json!(bucket.as_str()))),
        (name_of_key(row.kind), row.key.as_ref().map(|key| json!(key))),
        ("version_id", row.version.map(|version| json!(version.to_string()))),
        ("size", row.size.map(|size| json!(size))),
        ("etag", row.etag.as_ref().map(|etag| json!(etag))),
        ("source", row.source.as_ref().map(|source| json!(source))),
        ("token", row.token.map(|token| json!(token))),
        ("owner", row.owner.as_ref().map(|owner| json!(owner))),
        ("object", row.object.map(|object| json!(object.0))),
    ];
    for (name, value) in fields {
        if let Some(value) = value {
            out[name] = value;
        }
    }
    out
}

fn name_of_key(kind: EventKind) -> &'static str {
    match kind {
        EventKind::LockGranted | EventKind::LockReleased | EventKind::LockExpired => "lock",
        _ => "key",
    }
}

/// One record of S3's. `config` is the id of the configuration that asked for it.
#[must_use]
pub fn s3(event: &Event, region: &str, config: &str) -> Value {
    let Event { place, row } = event;
    let bucket = row.bucket.as_ref().map_or("", |bucket| bucket.as_str());
    let mut object = json!({ "sequencer": sequencer(*place) });
    if let Some(key) = &row.key {
        object["key"] = json!(utf8_percent_encode(key, PLAIN).to_string().replace("%20", "+"));
    }
    if let Some(size) = row.size {
        object["size"] = json!(size);
    }
    if let Some(etag) = &row.etag {
        object["eTag"] = json!(etag);
    }
    if let Some(version) = row.version {
        object["versionId"] = json!(version.to_string());
    }
    json!({
        "eventVersion": "2.3",
        "eventSource": "aws:s3",
        "awsRegion": region,
        "eventTime": iso_8601(row.at_ms),
        "eventName": row.kind.name(),
        "userIdentity": { "principalId": crate::gateway::OWNER_ACCOUNT },
        "requestParameters": { "sourceIPAddress": "" },
        "responseElements": {
            "x-amz-request-id": row.request.to_string(),
            "x-holdfast-revision": place.revision.to_string(),
        },
        "s3": {
            "s3SchemaVersion": "1.0",
            "configurationId": config,
            "bucket": {
                "name": bucket,
                "ownerIdentity": { "principalId": crate::gateway::OWNER_ACCOUNT },
                "arn": format!("arn:aws:s3:::{bucket}"),
            },
            "object": object,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_come_and_go() {
        let place = Place { revision: 12, ordinal: 3 };
        assert_eq!(position(&id(place)), Some(place));
        for (text, ordinal) in [("12", u16::MAX), ("12.end", u16::MAX), ("12.0", 0)] {
            assert_eq!(position(text), Some(Place { revision: 12, ordinal }), "{text}");
        }
        for bad in ["", ".", "a", "12.", "12.x", "-1", "+1", "12.99999", "99999999999999999999"] {
            assert_eq!(position(bad), None, "{bad}");
        }
    }

    #[test]
    fn sequencers_sort_like_their_places() {
        let places = [(1, 0), (1, 9), (1, 10), (2, 0), (16, 0), (1 << 40, 65535)];
        let all: Vec<_> = places.iter().map(|&(revision, ordinal)| sequencer(Place { revision, ordinal })).collect();
        assert!(all.is_sorted() && all.iter().all(|text| text.len() == 20), "{all:?}");
    }
}
