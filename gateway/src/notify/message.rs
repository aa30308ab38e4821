//! An event as a target gets it: AWS's record, CloudEvents, or EventBridge's envelope.
//!
//! Sources: S3 user guide, "Event message structure" and "EventBridge event message structure"; CloudEvents 1.0.2, JSON event
//! format; the CloudEvents adapter for AWS S3 (types `com.amazonaws.s3.<name>`).

use bytes::Bytes;
use holdfast_core::event::EventKind;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::clock::iso_8601;
use crate::feed::{Event, forms};
use crate::gateway::OWNER_ACCOUNT;

/// How events are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// `{"Records": [...]}` as S3 writes it, with the `EventName` and `Key` that MinIO puts in front.
    #[default]
    S3,
    /// CloudEvents 1.0, structured mode.
    CloudEvents,
    /// Amazon EventBridge's envelope.
    EventBridge,
}

/// What is sent for one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The same at every attempt, in the order of events: a target may tell copies by it.
    pub id: String,
    /// As `id`, and of no other cluster.
    pub unique: String,
    /// Revision and ordinal of the event.
    pub place: (u64, u16),
    /// `bucket/key`: what belongs to one object has one.
    pub key: String,
    /// `ObjectCreated:Put`.
    pub name: &'static str,
    /// When it happened, ISO 8601.
    pub time: String,
    /// Its media type.
    pub content_type: &'static str,
    /// JSON.
    pub body: Bytes,
}

impl Message {
    /// An event in a form, of a region and cluster. `rule` is the id of the rule that asked for it.
    #[must_use]
    pub fn of(event: &Event, format: Format, (region, cluster): (&str, &str), rule: &str) -> Self {
        let bucket = event.row.bucket.as_ref().map_or("", |bucket| bucket.as_str());
        let key = format!("{bucket}/{}", event.row.key.as_deref().unwrap_or_default());
        let name = event.row.kind.name();
        let (content_type, value) = match format {
            Format::S3 => {
                let records = [forms::s3(event, region, rule)];
                ("application/json", json!({ "EventName": format!("s3:{name}"), "Key": key, "Records": records }))
            }
            Format::CloudEvents => ("application/cloudevents+json", cloud_event(event, region, rule)),
            Format::EventBridge => ("application/json", bridge_event(event, region)),
        };
        let body = Bytes::from(value.to_string());
        let place = (event.place.revision, event.place.ordinal);
        let id = forms::sequencer(event.place);
        Self {
            unique: format!("{cluster}-{id}"),
            id,
            place,
            key,
            name,
            time: iso_8601(event.row.at_ms),
            content_type,
            body,
        }
    }
}

impl Message {
    /// Messages with S3 records as one.
    #[must_use]
    pub fn joined(messages: &[Self]) -> Bytes {
        let records = messages.iter().filter_map(|message| serde_json::from_slice::<Value>(&message.body).ok());
        let records = records.flat_map(|mut value| match value["Records"].take() {
            Value::Array(records) => records,
            _ => Vec::new(),
        });
        let records: Vec<Value> = records.collect();
        Bytes::from(json!({ "Records": records }).to_string())
    }
}

fn cloud_event(event: &Event, region: &str, rule: &str) -> Value {
    let bucket = event.row.bucket.as_ref().map_or("", |bucket| bucket.as_str());
    let (family, what) = event.row.kind.name().split_once(':').unwrap_or((event.row.kind.name(), ""));
    json!({
        "specversion": "1.0",
        "id": format!("{}.{}", event.row.request, event.place.ordinal),
        "source": format!("aws:s3.{region}.{bucket}"),
        "type": format!("com.amazonaws.s3.{family}.{what}"),
        "subject": event.row.key.as_deref().unwrap_or_default(),
        "time": iso_8601(event.row.at_ms),
        "datacontenttype": "application/json",
        "sequence": forms::sequencer(event.place),
        "data": forms::s3(event, region, rule),
    })
}

fn bridge_event(event: &Event, region: &str) -> Value {
    let row = &event.row;
    let bucket = row.bucket.as_ref().map_or("", |bucket| bucket.as_str());
    let (detail_type, reason, deletion) = match row.kind {
        EventKind::Put => ("Object Created", Some("PutObject"), None),
        EventKind::Copy => ("Object Created", Some("CopyObject"), None),
        EventKind::Complete => ("Object Created", Some("CompleteMultipartUpload"), None),
        EventKind::Append => ("Object Created", Some("AppendObject"), None),
        EventKind::RenamedTo => ("Object Created", Some("RenameObject"), None),
        EventKind::RenamedFrom => ("Object Deleted", Some("RenameObject"), Some("Permanently Deleted")),
        EventKind::Delete => ("Object Deleted", Some("DeleteObject"), Some("Permanently Deleted")),
        EventKind::Marker => ("Object Deleted", Some("DeleteObject"), Some("Delete Marker Created")),
        EventKind::Tagged => ("Object Tags Added", None, None),
        EventKind::Untagged => ("Object Tags Deleted", None, None),
        EventKind::PrefixRenamed => ("Object Prefix Renamed", Some("RenameObject"), None),
        _ => (row.kind.name(), None, None),
    };
    let mut object = json!({ "sequencer": forms::sequencer(event.place) });
    let fields = [
        ("key", row.key.as_ref().map(|key| json!(key))),
        ("size", row.size.map(|size| json!(size))),
        ("etag", row.etag.as_ref().map(|etag| json!(etag))),
        ("version-id", row.version.map(|version| json!(version.to_string()))),
    ];
    for (name, value) in fields {
        if let Some(value) = value {
            object[name] = value;
        }
    }
    let mut detail = json!({
        "version": "0",
        "bucket": { "name": bucket },
        "object": object,
        "request-id": row.request.to_string(),
        "requester": OWNER_ACCOUNT,
        "source-ip-address": "",
    });
    for (name, value) in [("reason", reason), ("deletion-type", deletion)] {
        if let Some(value) = value {
            detail[name] = json!(value);
        }
    }
    json!({
        "version": "0",
        "id": uuid(event),
        "detail-type": detail_type,
        "source": "aws.s3",
        "account": OWNER_ACCOUNT,
        "time": iso_8601(row.at_ms),
        "region": region,
        "resources": [format!("arn:aws:s3:::{bucket}")],
        "detail": detail,
    })
}

/// A UUID that is the same at every attempt. Source: RFC 9562, version 8.
fn uuid(event: &Event) -> String {
    use sha2::Digest as _;
    let digest = sha2::Sha256::digest(format!("{}.{}", event.row.request, forms::sequencer(event.place)));
    let mut bytes: [u8; 16] = digest[..16].try_into().expect("a digest is longer");
    bytes[6] = (bytes[6] & 0x0f) | 0x80;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let text = hex::encode(bytes);
    format!("{}-{}-{}-{}-{}", &text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..])
}

#[cfg(test)]
mod tests {
    use holdfast_core::event::EventRow;
    use holdfast_core::id::{Place, RequestId};

    use super::*;

    fn event(kind: EventKind) -> Event {
        let row = EventRow {
            bucket: Some("abc".parse().unwrap()),
            key: Some("a b/ü.jpg".into()),
            size: Some(3),
            etag: Some("0123".into()),
            at_ms: 1_700_000_000_123,
            request: RequestId::new(1_700_000_000_000, [7; 10]),
            ..EventRow::new(kind)
        };
        Event { place: Place { revision: 300, ordinal: 2 }, row }
    }

    fn value(format: Format, kind: EventKind) -> (Message, Value) {
        let message = Message::of(&event(kind), format, ("eu-west-1", "a-cluster"), "rule-1");
        let value = serde_json::from_slice(&message.body).unwrap();
        (message, value)
    }

    #[test]
    fn a_record_reads_as_minios_clients_and_awss_expect() {
        let (message, value) = value(Format::S3, EventKind::Put);
        assert_eq!((message.key.as_str(), message.name), ("abc/a b/ü.jpg", "ObjectCreated:Put"));
        assert_eq!(value["EventName"], "s3:ObjectCreated:Put");
        assert_eq!(value["Key"], "abc/a b/ü.jpg");
        let record = &value["Records"][0];
        assert_eq!(record["s3"]["object"]["key"], "a+b/%C3%BC.jpg");
        assert_eq!(record["s3"]["object"]["sequencer"], message.id.as_str());
        assert_eq!(record["s3"]["configurationId"], "rule-1");
        assert_eq!(record["awsRegion"], "eu-west-1");
    }

    #[test]
    fn envelopes_have_what_their_specifications_require() {
        let (message, value) = value(Format::CloudEvents, EventKind::Marker);
        assert_eq!(message.content_type, "application/cloudevents+json");
        for (name, wanted) in [
            ("specversion", "1.0"),
            ("type", "com.amazonaws.s3.ObjectRemoved.DeleteMarkerCreated"),
            ("source", "aws:s3.eu-west-1.abc"),
            ("subject", "a b/ü.jpg"),
            ("time", "2023-11-14T22:13:20.123Z"),
        ] {
            assert_eq!(value[name], wanted, "{name}");
        }
        assert!(!value["id"].as_str().unwrap().is_empty());
    }

    #[test]
    fn bridge_events_name_what_happened() {
        let (message, one) = value(Format::EventBridge, EventKind::Marker);
        assert_eq!(one["detail-type"], "Object Deleted");
        assert_eq!(one["detail"]["deletion-type"], "Delete Marker Created");
        assert_eq!(one["detail"]["object"]["key"], "a b/ü.jpg");
        assert_eq!(one["resources"][0], "arn:aws:s3:::abc");
        assert_eq!(one["id"].as_str().unwrap().len(), 36);
        let (again, two) = value(Format::EventBridge, EventKind::Marker);
        assert_eq!((one["id"].clone(), message.id), (two["id"].clone(), again.id), "the same at every attempt");
    }
}
