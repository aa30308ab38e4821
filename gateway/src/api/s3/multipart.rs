//! The multipart family, but for copies of parts.

use holdfast_core::command::CompletedPart;
use holdfast_core::list::{Entry, Query};
use holdfast_core::record::{ChecksumAlgorithm, PartRow};
use holdfast_core::rules::digest::{default_type, has_type};
use holdfast_core::rules::{PART_BYTES_MAX, PARTS_MAX};
use http::header;
use s3s::dto::*;
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response, S3Result};

use super::body::{DeclaredChecksum, Expectation};
use super::convert::*;
use super::digest::algorithm_name;
use super::error::{invalid, invalid_request};
use super::incoming::incoming;
use super::listing::Encoding;
use super::service::{S3Api, call_of, refuse, reply};
use crate::api::gate::Peer;
use crate::ops::Done;
use crate::ops::list::PAGE_ENTRIES_MAX;
use crate::ops::multipart::{Completion, NewUpload, UploadName};

pub(super) async fn create_multipart_upload(
    api: &S3Api,
    req: S3Request<CreateMultipartUploadInput>,
) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
    let call = call_of(&req)?;
    let mut input = req.input;
    let checksum = algorithm(input.checksum_algorithm.as_ref())?;
    let kind = checksum_type(input.checksum_type.as_ref())?;
    match (checksum, kind) {
        (None, Some(_)) => {
            return Err(invalid_request(
                "The x-amz-checksum-type header can only be used with the x-amz-checksum-algorithm header.",
            ));
        }
        (Some(algorithm), Some(kind)) if !has_type(algorithm, kind) => {
            let (kind, name) = (checksum_type_out(kind), algorithm_name(algorithm).to_lowercase());
            let kind = kind.as_str();
            return Err(invalid_request(format!(
                "The {kind} checksum type cannot be used with the {name} checksum algorithm."
            )));
        }
        _ => {}
    }
    let new = NewUpload {
        bucket: bucket_name(&input.bucket)?,
        key: object_key(&input.key)?,
        attributes: given!(input).attributes()?,
        checksum,
        checksum_type: kind,
    };
    let Done { revision, value: upload } = api.gateway.create_upload(&call, new).await.map_err(refuse(&call))?;
    let output = CreateMultipartUploadOutput {
        bucket: Some(input.bucket),
        checksum_algorithm: checksum.map(algorithm_out),
        checksum_type: checksum.map(|algorithm| checksum_type_out(kind.unwrap_or_else(|| default_type(algorithm)))),
        key: Some(input.key),
        upload_id: Some(upload.to_string()),
        ..CreateMultipartUploadOutput::default()
    };
    Ok(reply(revision, output))
}

pub(super) async fn upload_part(
    api: &S3Api,
    mut req: S3Request<UploadPartInput>,
) -> S3Result<S3Response<UploadPartOutput>> {
    let call = call_of(&req)?;
    let expect = Expectation::from_request(&req.headers, &req.uri, req.trailing_headers.take())?;
    let mut input = req.input;
    if expect.length.is_some_and(|length| length > PART_BYTES_MAX) {
        return Err(S3Error::new(S3ErrorCode::EntityTooLarge));
    }
    let number = part_number(input.part_number)?;
    let name = UploadName {
        bucket: bucket_name(&input.bucket)?,
        key: object_key(&input.key)?,
        upload: upload_id(&input.upload_id)?,
    };
    let open = api.gateway.open_upload(&call, &name).await.map_err(refuse(&call))?;
    let expect = for_upload(expect, open.row.checksum)?;
    let body = input.body.take().unwrap_or_else(|| StreamingBlob::from_bytes(bytes::Bytes::new()));
    let body = incoming(body, expect, api.budget.clone());
    let stored = api.gateway.put_part(&call, open, name, number, body).await;
    let Done { revision, value: written } = stored.map_err(refuse(&call))?;
    let mut output = UploadPartOutput { e_tag: Some(etag(&written.etag)), ..UploadPartOutput::default() };
    if let Some(checksum) = &written.checksum {
        set_checksum!(output, checksum.algorithm, checksum_text(checksum, &written.etag));
    }
    Ok(reply(revision, output))
}

/// A part has the checksum that its upload declared; what the client did not send is computed.
fn for_upload(expect: Expectation, declared: Option<ChecksumAlgorithm>) -> S3Result<Expectation> {
    match (declared, expect.checksum.as_ref().map(DeclaredChecksum::algorithm)) {
        (Some(declared), Some(given)) if declared != given => Err(invalid_request(format!(
            "Checksum Type mismatch occurred, expected checksum Type: {}, actual checksum Type: {}",
            algorithm_name(declared).to_lowercase(),
            algorithm_name(given).to_lowercase()
        ))),
        _ => Ok(expect.or_compute(declared)),
    }
}

pub(super) async fn complete_multipart_upload(
    api: &S3Api,
    req: S3Request<CompleteMultipartUploadInput>,
) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
    let call = call_of(&req)?;
    let location = location(&req);
    let input = req.input;
    let parts = input.multipart_upload.and_then(|upload| upload.parts).unwrap_or_default();
    let completion = Completion {
        name: UploadName {
            bucket: bucket_name(&input.bucket)?,
            key: object_key(&input.key)?,
            upload: upload_id(&input.upload_id)?,
        },
        conditions: conditions(input.if_match.as_ref(), input.if_none_match.as_ref())?,
        parts: completed_parts(parts)?,
        checksum: checksum_of!(input)?,
        checksum_type: checksum_type(input.checksum_type.as_ref())?,
        size: match input.mpu_object_size {
            None => None,
            Some(size) => Some(u64::try_from(size).map_err(|_| invalid("x-amz-mp-object-size must not be negative"))?),
        },
    };
    let completed = api.gateway.complete_upload(&call, completion).await;
    let Done { revision, value: written } = completed.map_err(refuse(&call))?;
    let mut output = CompleteMultipartUploadOutput {
        bucket: Some(input.bucket),
        checksum_type: written.checksum.as_ref().map(|checksum| checksum_type_out(checksum.kind)),
        e_tag: Some(etag(&written.etag)),
        key: Some(input.key),
        location: Some(location),
        version_id: written.version.map(|id| id.to_string()),
        ..CompleteMultipartUploadOutput::default()
    };
    if let Some(checksum) = &written.checksum {
        set_checksum!(output, checksum.algorithm, checksum_text(checksum, &written.etag));
    }
    Ok(reply(revision, output))
}

fn completed_parts(parts: Vec<s3s::dto::CompletedPart>) -> S3Result<Vec<CompletedPart>> {
    if parts.is_empty() || parts.len() > usize::from(PARTS_MAX) {
        return Err(S3Error::new(S3ErrorCode::MalformedXML));
    }
    let malformed = || S3Error::new(S3ErrorCode::MalformedXML);
    let convert = |part: s3s::dto::CompletedPart| {
        Ok(CompletedPart {
            number: part_number(part.part_number.ok_or_else(malformed)?)?,
            etag: part.e_tag.as_ref().ok_or_else(malformed)?.value().to_owned(),
            checksum: checksum_of!(part)?,
        })
    };
    parts.into_iter().map(convert).collect()
}

/// The address of the object, as the client addressed the bucket.
fn location(req: &S3Request<CompleteMultipartUploadInput>) -> String {
    let scheme = if req.extensions.get::<Peer>().is_some_and(|peer| peer.tls) { "https" } else { "http" };
    let host = req.headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let host = host.or_else(|| req.uri.authority().map(http::uri::Authority::as_str)).unwrap_or_default();
    format!("{scheme}://{host}{}", req.uri.path())
}

pub(super) async fn abort_multipart_upload(
    api: &S3Api,
    req: S3Request<AbortMultipartUploadInput>,
) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
    let call = call_of(&req)?;
    let input = req.input;
    if input.if_match_initiated_time.is_some() {
        return Err(super::error::not_built("x-amz-if-match-initiated-time"));
    }
    let name = UploadName {
        bucket: bucket_name(&input.bucket)?,
        key: object_key(&input.key)?,
        upload: upload_id(&input.upload_id)?,
    };
    let Done { revision, .. } = api.gateway.abort_upload(&call, name).await.map_err(refuse(&call))?;
    Ok(reply(revision, AbortMultipartUploadOutput::default()))
}

pub(super) async fn list_parts(api: &S3Api, req: S3Request<ListPartsInput>) -> S3Result<S3Response<ListPartsOutput>> {
    let call = call_of(&req)?;
    let input = req.input;
    let (bucket, key, upload) = (bucket_name(&input.bucket)?, object_key(&input.key)?, upload_id(&input.upload_id)?);
    let limit = page_limit(input.max_parts, PAGE_ENTRIES_MAX, "maxParts")?;
    let marker = input.part_number_marker.unwrap_or_default();
    let after = u16::try_from(marker.max(0)).unwrap_or(u16::MAX);
    let listed = api.gateway.list_parts(&call, &bucket, &key, upload, after, limit).await;
    let Done { revision, value: page } = listed.map_err(refuse(&call))?;
    let (declared, kind) = (page.upload.checksum, page.upload.checksum_type);
    let output = ListPartsOutput {
        bucket: Some(input.bucket),
        checksum_algorithm: declared.map(algorithm_out),
        checksum_type: declared.map(|algorithm| checksum_type_out(kind.unwrap_or_else(|| default_type(algorithm)))),
        initiator: Some(initiator()),
        is_truncated: Some(page.truncated),
        key: Some(input.key),
        max_parts: i32::try_from(limit).ok(),
        next_part_number_marker: page.parts.last().map(|(number, _)| i32::from(*number)),
        owner: Some(owner()),
        part_number_marker: Some(marker),
        parts: Some(page.parts.iter().map(|(number, row)| part_out(*number, row, declared)).collect()),
        storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
        upload_id: Some(input.upload_id),
        ..ListPartsOutput::default()
    };
    Ok(reply(revision, output))
}

fn initiator() -> Initiator {
    let Owner { display_name, id } = owner();
    Initiator { display_name, id }
}

fn part_out(number: u16, row: &PartRow, declared: Option<ChecksumAlgorithm>) -> Part {
    let mut part = Part {
        e_tag: Some(etag(&hex::encode(row.md5))),
        last_modified: Some(timestamp(row.modified_ms)),
        part_number: Some(i32::from(number)),
        size: Some(size(row.size)),
        ..Part::default()
    };
    let shown = row.shown_checksum().filter(|sum| row.checksum.is_some() || declared == Some(sum.algorithm));
    if let Some(checksum) = shown {
        set_checksum!(part, checksum.algorithm, checksum_text(&checksum, ""));
    }
    part
}

pub(super) async fn list_multipart_uploads(
    api: &S3Api,
    req: S3Request<ListMultipartUploadsInput>,
) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
    let call = call_of(&req)?;
    let input = req.input;
    let bucket = bucket_name(&input.bucket)?;
    let encoding = Encoding::parse(input.encoding_type.as_ref())?;
    let limit = page_limit(input.max_uploads, PAGE_ENTRIES_MAX, "maxUploads")?;
    let query = Query {
        prefix: input.prefix.clone().unwrap_or_default(),
        delimiter: input.delimiter.clone().filter(|delimiter| !delimiter.is_empty()),
        after: input.key_marker.clone().unwrap_or_default(),
        limit,
    };
    // Without a key marker, an upload marker is ignored. Source: S3 API, ListMultipartUploads.
    let marker = input.upload_id_marker.as_deref().filter(|marker| !marker.is_empty() && !query.after.is_empty());
    let marker = match marker {
        None => None,
        Some(text) => Some(text.parse().map_err(|_| invalid("Invalid uploadId marker"))?),
    };
    let listed = api.gateway.list_uploads(&call, &bucket, query, marker).await;
    let Done { revision, value: page } = listed.map_err(refuse(&call))?;
    let (mut uploads, mut prefixes, mut last_upload) = (Vec::new(), Vec::new(), None);
    let last = page.entries.last().map(|entry| encoding.text(entry.marker()));
    for entry in &page.entries {
        match entry {
            Entry::Item(key, (upload, row)) => {
                last_upload = Some(upload.to_string());
                let kind = |algorithm| row.checksum_type.unwrap_or_else(|| default_type(algorithm));
                uploads.push(MultipartUpload {
                    checksum_algorithm: row.checksum.map(algorithm_out),
                    checksum_type: row.checksum.map(|algorithm| checksum_type_out(kind(algorithm))),
                    initiated: Some(timestamp(row.initiated_ms)),
                    initiator: Some(initiator()),
                    key: Some(encoding.text(key)),
                    owner: Some(owner()),
                    storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
                    upload_id: last_upload.clone(),
                });
            }
            Entry::Prefix(prefix) => {
                last_upload = None;
                prefixes.push(CommonPrefix { prefix: Some(encoding.text(prefix)) });
            }
        }
    }
    let output = ListMultipartUploadsOutput {
        bucket: Some(input.bucket),
        common_prefixes: (!prefixes.is_empty()).then_some(prefixes),
        delimiter: input.delimiter.map(|text| encoding.text(&text)),
        encoding_type: input.encoding_type,
        is_truncated: Some(page.truncated),
        key_marker: Some(encoding.text(&input.key_marker.unwrap_or_default())),
        max_uploads: i32::try_from(limit).ok(),
        next_key_marker: last.filter(|_| page.truncated),
        next_upload_id_marker: last_upload.filter(|_| page.truncated),
        prefix: Some(encoding.text(&input.prefix.unwrap_or_default())),
        upload_id_marker: Some(input.upload_id_marker.unwrap_or_default()),
        uploads: (!uploads.is_empty()).then_some(uploads),
        ..ListMultipartUploadsOutput::default()
    };
    Ok(reply(revision, output))
}
