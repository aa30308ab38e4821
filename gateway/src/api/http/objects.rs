//! `GET /_holdfast/v1/objects/{bucket}/{key}[?versions]`: metadata of the latest version, or of every one.

use holdfast_core::record::{Checksum, ChecksumType, Location, Version};
use holdfast_core::rules::digest::hex;
use s3s::{Body, S3Request, S3Response, S3Result};
use serde_json::{Value, json as object};

use super::{decoded, json, no_route};
use crate::api::s3::convert::{bucket_name, checksum_text, object_key};
use crate::api::s3::digest::algorithm_name;
use crate::api::s3::{call_of, to_s3};
use crate::clock::iso_8601;
use crate::gateway::Gateway;
use crate::ops::inspect::Inspected;

pub(super) async fn show(gateway: &Gateway, request: &S3Request<Body>, rest: &str) -> S3Result<S3Response<Body>> {
    let (bucket, key) = rest.split_once('/').ok_or_else(no_route)?;
    let (bucket, key) = (bucket_name(&decoded(bucket)?)?, object_key(&decoded(key)?)?);
    let call = call_of(request)?;
    let every = request.uri.query().is_some_and(|query| query.split('&').any(|pair| pair.starts_with("versions")));
    let found = gateway.inspect(&call, &bucket, &key, every).await.map_err(|error| to_s3(&error, call.request))?;
    let versions: Vec<Value> = found.value.versions.iter().map(version).collect();
    let answer = object!({
        "bucket": bucket.as_str(),
        "key": key.as_str(),
        "versions": versions,
        "truncated": found.value.truncated,
    });
    Ok(json(answer, Some(found.revision)))
}

fn version(inspected: &Inspected) -> Value {
    let found = &inspected.found;
    let mut value = object!({
        "version_id": found.row.version_id(found.place).to_string(),
        "revision": found.place.revision,
        "is_latest": found.is_latest,
        "is_delete_marker": found.row.version.is_none(),
        "last_modified": iso_8601(found.row.modified_ms),
    });
    if let Some(version) = &found.row.version {
        describe(&mut value, version);
        value["location"] = inspected.blobs.iter().map(|(blob, places)| location(&blob.to_string(), places)).collect();
        value["more_locations"] = inspected.more_blobs.into();
    }
    value
}

fn describe(value: &mut Value, version: &Version) {
    value["size"] = version.size.into();
    value["etag"] = version.etag.clone().into();
    value["sha256"] = version.sha256.map_or("pending".to_owned(), |sha256| hex(&sha256)).into();
    value["checksum"] = version.shown_checksum().map_or("pending".into(), |shown| checksum(&shown, &version.etag));
    value["created"] = iso_8601(version.created_ms).into();
    value["content_type"] = version.attributes.headers.content_type.clone().into();
    value["metadata"] = object!(version.attributes.metadata);
    value["tags"] = object!(version.attributes.tags);
    value["parts"] = version.parts.map(|parts| parts.count).into();
}

fn checksum(shown: &Checksum, etag: &str) -> Value {
    let kind = if shown.kind == ChecksumType::FullObject { "FULL_OBJECT" } else { "COMPOSITE" };
    object!({ "algorithm": algorithm_name(shown.algorithm), "type": kind, "value": checksum_text(shown, etag) })
}

fn location(blob: &str, places: &[Location]) -> Value {
    let places: Vec<String> = places
        .iter()
        .map(|place| match place {
            Location::Inline => "inline".to_owned(),
            Location::Path(path) => path.clone(),
        })
        .collect();
    object!({ "blob": blob, "at": places })
}
