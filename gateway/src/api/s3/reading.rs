//! GetObject, HeadObject, GetObjectAttributes.

use holdfast_core::record::{Boundary, Checksum, ChecksumType, Version};
use http::{HeaderMap, HeaderValue};
use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result};

use super::convert::*;
use super::error::invalid_request;
use super::service::{S3Api, call_of, refuse, reply};
use crate::clock::iso_8601;
use crate::ops::Done;
use crate::ops::attributes::Attributes;
use crate::ops::get::{Get, Got};

/// Parts that one reply lists. Source: S3 API, GetObjectAttributes.
const PARTS_LISTED_MAX: usize = 1000;

pub(super) async fn get_object(api: &S3Api, req: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
    let call = call_of(&req)?;
    let input = req.input;
    let get = Get {
        bucket: bucket_name(&input.bucket)?,
        key: object_key(&input.key)?,
        version: version_id(input.version_id.as_deref())?,
        conditions: source_conditions(
            input.if_match.as_ref(),
            input.if_none_match.as_ref(),
            input.if_modified_since,
            input.if_unmodified_since,
        ),
        part: part(input.range, input.part_number)?,
    };
    let with_checksum = input.checksum_mode.is_some_and(|mode| mode.as_str() == ChecksumMode::ENABLED);
    let Done { revision, value: (got, body) } = api.gateway.get(&call, &get).await.map_err(refuse(&call))?;
    let body = match body.into_whole() {
        Ok(bytes) => StreamingBlob::from_bytes(bytes),
        Err(stream) => StreamingBlob::wrap(stream),
    };
    let version = got.version();
    let mut output = GetObjectOutput {
        accept_ranges: Some("bytes".to_owned()),
        body: Some(body),
        cache_control: version.attributes.headers.cache_control.clone(),
        content_disposition: version.attributes.headers.content_disposition.clone(),
        content_encoding: version.attributes.headers.content_encoding.clone(),
        content_language: version.attributes.headers.content_language.clone(),
        content_length: Some(size(got.range.end - got.range.start)),
        content_range: content_range(&got),
        content_type: Some(content_type(version)),
        e_tag: Some(etag(&version.etag)),
        expires: version.attributes.headers.expires.clone(),
        last_modified: Some(timestamp(got.found.row.modified_ms)),
        metadata: metadata(version),
        parts_count: parts_count(&got),
        tag_count: tag_count(version),
        version_id: got.found.shown_version().map(|id| id.to_string()),
        ..GetObjectOutput::default()
    };
    if let Some(checksum) = shown_checksum(&got).filter(|_| with_checksum) {
        output.checksum_type = Some(checksum_type_out(checksum.kind));
        set_checksum!(output, checksum.algorithm, checksum_text(&checksum, &version.etag));
    }
    let headers = own_headers(&got);
    let mut response = reply(revision, output);
    response.headers.extend(headers);
    Ok(response)
}

pub(super) async fn head_object(
    api: &S3Api,
    req: S3Request<HeadObjectInput>,
) -> S3Result<S3Response<HeadObjectOutput>> {
    let call = call_of(&req)?;
    let input = req.input;
    let get = Get {
        bucket: bucket_name(&input.bucket)?,
        key: object_key(&input.key)?,
        version: version_id(input.version_id.as_deref())?,
        conditions: source_conditions(
            input.if_match.as_ref(),
            input.if_none_match.as_ref(),
            input.if_modified_since,
            input.if_unmodified_since,
        ),
        part: part(input.range, input.part_number)?,
    };
    let with_checksum = input.checksum_mode.is_some_and(|mode| mode.as_str() == ChecksumMode::ENABLED);
    let Done { revision, value: got } = api.gateway.head(&call, &get).await.map_err(refuse(&call))?;
    let version = got.version();
    let stored = &version.attributes.headers;
    let expires = input.response_expires.map(|expires| http_date(millis(expires)));
    let mut output = HeadObjectOutput {
        accept_ranges: Some("bytes".to_owned()),
        cache_control: input.response_cache_control.or_else(|| stored.cache_control.clone()),
        content_disposition: input.response_content_disposition.or_else(|| stored.content_disposition.clone()),
        content_encoding: input.response_content_encoding.or_else(|| stored.content_encoding.clone()),
        content_language: input.response_content_language.or_else(|| stored.content_language.clone()),
        content_length: Some(size(got.range.end - got.range.start)),
        content_range: content_range(&got),
        content_type: Some(input.response_content_type.unwrap_or_else(|| content_type(version))),
        e_tag: Some(etag(&version.etag)),
        expires: expires.or_else(|| stored.expires.clone()),
        last_modified: Some(timestamp(got.found.row.modified_ms)),
        metadata: metadata(version),
        parts_count: parts_count(&got),
        tag_count: tag_count(version),
        version_id: got.found.shown_version().map(|id| id.to_string()),
        ..HeadObjectOutput::default()
    };
    if let Some(checksum) = shown_checksum(&got).filter(|_| with_checksum) {
        output.checksum_type = Some(checksum_type_out(checksum.kind));
        set_checksum!(output, checksum.algorithm, checksum_text(&checksum, &version.etag));
    }
    let headers = own_headers(&got);
    let mut response = reply(revision, output);
    response.headers.extend(headers);
    Ok(response)
}

fn content_type(version: &Version) -> String {
    version.attributes.headers.content_type.clone().unwrap_or_else(|| CONTENT_TYPE_DEFAULT.to_owned())
}

fn metadata(version: &Version) -> Option<Metadata> {
    let metadata = &version.attributes.metadata;
    (!metadata.is_empty()).then(|| metadata.clone().into_iter().collect())
}

fn tag_count(version: &Version) -> Option<i32> {
    i32::try_from(version.attributes.tags.len()).ok().filter(|count| *count > 0)
}

/// How many parts there are: told only to whoever asks for one of them.
fn parts_count(got: &Got) -> Option<i32> {
    got.boundary.as_ref()?;
    i32::try_from(got.version().parts?.count).ok()
}

fn content_range(got: &Got) -> Option<String> {
    let (range, size) = (&got.range, got.version().size);
    (got.partial && !range.is_empty()).then(|| format!("bytes {}-{}/{size}", range.start, range.end - 1))
}

/// The checksum of exactly the bytes of the reply; a range that is no part has none, nor has what nobody has read yet.
fn shown_checksum(got: &Got) -> Option<Checksum> {
    let whole = got.version().shown_checksum()?;
    match &got.boundary {
        Some(boundary) => {
            let value = boundary.checksum.clone()?;
            // A part's own value covers the part in full.
            Some(Checksum { kind: ChecksumType::FullObject, value, ..whole })
        }
        None => (got.range == (0..got.version().size)).then_some(whole),
    }
}

/// `x-holdfast-*` of a read.
fn own_headers(got: &Got) -> HeaderMap {
    let version = got.version();
    let sha256 = version.sha256.map_or_else(|| "pending".to_owned(), hex::encode);
    let mut headers = HeaderMap::new();
    for (name, value) in [("x-holdfast-sha256", sha256), ("x-holdfast-created", iso_8601(version.created_ms))] {
        headers.insert(name, HeaderValue::from_str(&value).expect("digits, letters and punctuation of ASCII"));
    }
    headers
}

/// Which attributes a request asks for, by AWS's names.
struct Wanted(Vec<String>);

impl Wanted {
    fn parse(list: &[ObjectAttributes]) -> S3Result<Self> {
        const KNOWN: [&str; 5] = ["ETag", "Checksum", "ObjectParts", "StorageClass", "ObjectSize"];
        let names = list.iter().flat_map(|names| names.as_str().split(',')).map(|name| name.trim().to_owned());
        let names: Vec<_> = names.collect();
        match names.iter().find(|name| !KNOWN.contains(&name.as_str())) {
            Some(_) => Err(super::error::invalid("Invalid attribute name specified.")),
            None if names.is_empty() => Err(invalid_request("x-amz-object-attributes is missing.")),
            None => Ok(Self(names)),
        }
    }

    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|wanted| wanted == name)
    }
}

pub(super) async fn get_object_attributes(
    api: &S3Api,
    req: S3Request<GetObjectAttributesInput>,
) -> S3Result<S3Response<GetObjectAttributesOutput>> {
    let call = call_of(&req)?;
    let input = req.input;
    let wanted = Wanted::parse(&input.object_attributes)?;
    let (bucket, key) = (bucket_name(&input.bucket)?, object_key(&input.key)?);
    let version = version_id(input.version_id.as_deref())?;
    let limit = page_limit(input.max_parts, PARTS_LISTED_MAX, "maxParts")?;
    let after = input.part_number_marker.unwrap_or_default();
    let looked_up = api.gateway.attributes(&call, &bucket, &key, version, wanted.has("ObjectParts")).await;
    let Done { revision, value: Attributes { found, parts } } = looked_up.map_err(refuse(&call))?;
    let version = found.row.version.as_ref().expect("a delete marker is an error of the verb");
    let shown = version.shown_checksum();
    let output = GetObjectAttributesOutput {
        checksum: shown.as_ref().filter(|_| wanted.has("Checksum")).map(|shown| {
            let kind = Some(checksum_type_out(shown.kind));
            let mut out = s3s::dto::Checksum { checksum_type: kind, ..Default::default() };
            set_checksum!(out, shown.algorithm, checksum_text(shown, &version.etag));
            out
        }),
        e_tag: wanted.has("ETag").then(|| etag(&version.etag)),
        last_modified: Some(timestamp(found.row.modified_ms)),
        object_parts: (!parts.is_empty()).then(|| parts_page(&parts, shown.as_ref(), after, limit)),
        object_size: wanted.has("ObjectSize").then(|| size(version.size)),
        storage_class: wanted.has("StorageClass").then(|| StorageClass::from_static(StorageClass::STANDARD)),
        version_id: found.shown_version().map(|id| id.to_string()),
        ..GetObjectAttributesOutput::default()
    };
    Ok(reply(revision, output))
}

fn parts_page(parts: &[Boundary], shown: Option<&Checksum>, after: i32, limit: usize) -> GetObjectAttributesParts {
    use base64::Engine as _;
    let first = parts.partition_point(|part| i32::from(part.number) <= after);
    let page: Vec<_> = parts[first..].iter().take(limit).collect();
    let last = page.last().map_or(after, |part| i32::from(part.number));
    let listed = page.iter().map(|part| {
        let (part_number, part_size) = (Some(i32::from(part.number)), Some(size(part.size)));
        let mut out = ObjectPart { part_number, size: part_size, ..Default::default() };
        if let (Some(value), Some(shown)) = (&part.checksum, shown) {
            set_checksum!(out, shown.algorithm, base64::engine::general_purpose::STANDARD.encode(value));
        }
        out
    });
    GetObjectAttributesParts {
        is_truncated: Some(limit > 0 && first + page.len() < parts.len()),
        max_parts: i32::try_from(limit).ok(),
        next_part_number_marker: Some(last),
        part_number_marker: Some(after),
        parts: Some(listed.collect()),
        total_parts_count: i32::try_from(parts.len()).ok(),
    }
}
