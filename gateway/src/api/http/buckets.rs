//! `GET`, `PUT /_holdfast/v1/buckets/{bucket}`: settings, as JSON; a PUT changes the ones it names.

use std::time::Duration;

use holdfast_core::record::{BucketSettings, Durability, HISTORY_MS_DEFAULT, OnParseError, Versioning};
use s3s::{Body, S3Request, S3Response, S3Result};
use serde::Deserialize;
use serde_json::json as object;

use super::{DOCUMENT_BYTES_MAX, body, decoded, json};
use crate::api::s3::convert::bucket_name;
use crate::api::s3::error::invalid;
use crate::api::s3::{call_of, to_s3};
use crate::clock::{duration_text, iso_8601, parse_duration};
use crate::gateway::Gateway;
use crate::ops::Done;

/// What a PUT may say. `history` is a duration such as `10m`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    durability: Option<String>,
    inline_bytes: Option<u64>,
    history: Option<String>,
    on_parse_error: Option<String>,
}

pub(super) async fn show(gateway: &Gateway, request: &S3Request<Body>, name: &str) -> S3Result<S3Response<Body>> {
    let (name, call) = (bucket_name(&decoded(name)?)?, call_of(request)?);
    let found = gateway.bucket_settings(&call, &name).await.map_err(|error| to_s3(&error, call.request))?;
    let Done { revision, value } = found;
    let (row, settings) = (&value.row, &value.row.settings);
    let history = Duration::from_millis(settings.history_ms.unwrap_or(HISTORY_MS_DEFAULT));
    let answer = object!({
        "bucket": name.as_str(),
        "id": row.id.0,
        "created": iso_8601(row.created_ms),
        "versioning": match row.versioning {
            Versioning::Never => "never",
            Versioning::Enabled => "enabled",
            Versioning::Suspended => "suspended",
        },
        "durability": match settings.durability.unwrap_or(Durability::Backend) {
            Durability::Backend => "backend",
            Durability::Quorum => "quorum",
            Durability::Bucket => "bucket",
        },
        "inline_bytes": settings.inline_bytes.unwrap_or(gateway.inline_bytes()),
        "history": duration_text(history),
        "on_parse_error": match settings.on_parse_error.unwrap_or(OnParseError::Record) {
            OnParseError::Record => "record",
            OnParseError::Strict => "strict",
        },
        "objects": row.usage.objects,
        "versions": row.usage.versions,
        "bytes": row.usage.bytes,
        "uploads": row.usage.uploads,
    });
    Ok(json(answer, Some(revision)))
}

pub(super) async fn set(gateway: &Gateway, mut request: S3Request<Body>, name: &str) -> S3Result<S3Response<Body>> {
    let (name, call) = (bucket_name(&decoded(name)?)?, call_of(&request)?);
    let body = body(&mut request, DOCUMENT_BYTES_MAX, "the settings cannot be read").await?;
    let settings = understood(&body)?;
    gateway.set_settings(&call, &name, settings).await.map_err(|error| to_s3(&error, call.request))?;
    show(gateway, &request, name.as_str()).await
}

fn understood(document: &[u8]) -> S3Result<BucketSettings> {
    let settings: Settings = serde_json::from_slice(document).map_err(|error| invalid(error.to_string()))?;
    let durability = settings.durability.map(|text| match text.as_str() {
        "backend" => Ok(Durability::Backend),
        "quorum" => Ok(Durability::Quorum),
        "bucket" => Ok(Durability::Bucket),
        _ => Err(invalid("durability must be backend, quorum or bucket")),
    });
    let on_parse_error = settings.on_parse_error.map(|text| match text.as_str() {
        "record" => Ok(OnParseError::Record),
        "strict" => Ok(OnParseError::Strict),
        _ => Err(invalid("on_parse_error must be record or strict")),
    });
    let history_ms = settings.history.map(|text: String| {
        parse_duration(&text).ok_or_else(|| invalid("history must be a duration such as 30s, 10m, 24h or 7d"))
    });
    Ok(BucketSettings {
        durability: durability.transpose()?,
        inline_bytes: settings.inline_bytes,
        history_ms: history_ms.transpose()?,
        on_parse_error: on_parse_error.transpose()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_named_or_refused() {
        let settings = understood(br#"{"durability":"quorum","history":"1h"}"#).unwrap();
        assert_eq!((settings.durability, settings.history_ms), (Some(Durability::Quorum), Some(3_600_000)));
        for bad in [r#"{"durable":1}"#, r#"{"durability":"none"}"#, r#"{"history":"soon"}"#, "", "[]"] {
            assert!(understood(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
