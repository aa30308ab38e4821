//! PutObject, the browser's form, DeleteObject, DeleteObjects.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use holdfast_core::command::{DeleteEntry, Deleted, Match, Written};
use holdfast_core::error::Error as Refusal;
use holdfast_core::rules::{DELETE_ENTRIES_MAX, PART_BYTES_MAX};
use http::{HeaderValue, header};
use s3s::dto::*;
use s3s::stream::ByteStream as _;
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response, S3Result};

use super::body::{DeclaredChecksum, Expectation};
use super::convert::*;
use super::error::{entry_error, invalid, not_built};
use super::incoming::incoming;
use super::service::{S3Api, call_of, refuse, reply};
use crate::ops::Done;
use crate::ops::put::Put;

pub(super) async fn put_object(
    api: &S3Api,
    mut req: S3Request<PutObjectInput>,
) -> S3Result<S3Response<PutObjectOutput>> {
    let call = call_of(&req)?;
    let expect = Expectation::from_request(&req.headers, &req.uri, req.trailing_headers.take())?;
    let mut input = req.input;
    check_size(expect.length)?;
    let body = input.body.take().unwrap_or_else(|| StreamingBlob::from_bytes(bytes::Bytes::new()));
    let put = Put {
        bucket: bucket_name(&input.bucket)?,
        key: object_key(&input.key)?,
        conditions: conditions(input.if_match.as_ref(), input.if_none_match.as_ref())?,
        attributes: given!(input).attributes()?,
        body: incoming(body, expect, api.budget.clone()),
    };
    let offset = match input.write_offset_bytes {
        None => None,
        Some(offset) => {
            Some(u64::try_from(offset).map_err(|_| invalid("x-amz-write-offset-bytes must not be negative"))?)
        }
    };
    let done = match offset {
        None => api.gateway.put(&call, put).await,
        Some(offset) => api.gateway.append(&call, put, offset).await,
    };
    let Done { revision, value: written } = done.map_err(refuse(&call))?;
    let mut output = put_output(&written);
    output.size = offset.map(|_| size(written.size));
    Ok(reply(revision, output))
}

fn check_size(length: Option<u64>) -> S3Result<()> {
    match length {
        Some(length) if length > PART_BYTES_MAX => Err(S3Error::new(S3ErrorCode::EntityTooLarge)),
        _ => Ok(()),
    }
}

fn put_output(written: &Written) -> PutObjectOutput {
    let mut output = PutObjectOutput {
        checksum_type: written.checksum.as_ref().map(|checksum| checksum_type_out(checksum.kind)),
        e_tag: Some(etag(&written.etag)),
        version_id: written.version.map(|id| id.to_string()),
        ..PutObjectOutput::default()
    };
    if let Some(checksum) = &written.checksum {
        set_checksum!(output, checksum.algorithm, checksum_text(checksum, &written.etag));
    }
    output
}

pub(super) async fn post_object(
    api: &S3Api,
    req: S3Request<PostObjectInput>,
) -> S3Result<S3Response<PostObjectOutput>> {
    let call = call_of(&req)?;
    let mut input = req.input;
    check_form(&input)?;
    let body = input.body.take().unwrap_or_else(|| StreamingBlob::from_bytes(bytes::Bytes::new()));
    let expect = Expectation {
        length: body.remaining_length().exact().map(|length| length as u64),
        md5: form_md5(input.content_md5.as_deref())?,
        checksum: checksum_of!(input)?.map(|sum| DeclaredChecksum::Value(sum.algorithm, sum.value)),
        ..Expectation::default()
    };
    check_size(expect.length)?;
    let put = Put {
        bucket: bucket_name(&input.bucket)?,
        key: object_key(&input.key)?,
        conditions: conditions(input.if_match.as_ref(), input.if_none_match.as_ref())?,
        attributes: given!(input).attributes()?,
        body: incoming(body, expect, api.budget.clone()),
    };
    let Done { revision, value: written } = api.gateway.put(&call, put).await.map_err(refuse(&call))?;
    let location = format!("/{}/{}", input.bucket, url_encoded(&input.key));
    let PutObjectOutput { e_tag, version_id, .. } = put_output(&written);
    let mut output = PostObjectOutput::default();
    output.version_id.clone_from(&version_id);
    output.e_tag = e_tag;
    let mut response = reply(revision, output);
    let mut insert = |name: header::HeaderName, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            response.headers.insert(name, value);
        }
    };
    insert(header::ETAG, &format!("\"{}\"", written.etag));
    if let Some(version) = version_id {
        insert(header::HeaderName::from_static("x-amz-version-id"), &version);
    }
    if input.success_action_redirect.is_none() {
        insert(header::LOCATION, &location);
    }
    Ok(response)
}

/// Fields of a form are not seen by the gate: what promises something that is not built is refused here.
fn check_form(input: &PostObjectInput) -> S3Result<()> {
    let acl = input.acl.as_ref().map(ObjectCannedACL::as_str);
    let class = input.storage_class.as_ref().map(StorageClass::as_str);
    let unbuilt = [
        ("acl", acl.is_some_and(|acl| !["private", "bucket-owner-full-control"].contains(&acl))),
        ("x-amz-storage-class", class.is_some_and(|class| class != StorageClass::STANDARD)),
        ("x-amz-grant-full-control", input.grant_full_control.is_some()),
        ("x-amz-grant-read", input.grant_read.is_some()),
        ("x-amz-grant-read-acp", input.grant_read_acp.is_some()),
        ("x-amz-grant-write-acp", input.grant_write_acp.is_some()),
        ("x-amz-object-lock-legal-hold", input.object_lock_legal_hold_status.is_some()),
        ("x-amz-object-lock-mode", input.object_lock_mode.is_some()),
        ("x-amz-object-lock-retain-until-date", input.object_lock_retain_until_date.is_some()),
        ("x-amz-server-side-encryption", input.server_side_encryption.is_some()),
        ("x-amz-server-side-encryption-aws-kms-key-id", input.ssekms_key_id.is_some()),
        ("x-amz-server-side-encryption-context", input.ssekms_encryption_context.is_some()),
        ("x-amz-server-side-encryption-bucket-key-enabled", input.bucket_key_enabled.is_some()),
        ("x-amz-server-side-encryption-customer-algorithm", input.sse_customer_algorithm.is_some()),
        ("x-amz-server-side-encryption-customer-key", input.sse_customer_key.is_some()),
        ("x-amz-website-redirect-location", input.website_redirect_location.is_some()),
        ("x-amz-write-offset-bytes", input.write_offset_bytes.is_some()),
        ("x-amz-checksum-md5", input.checksum_md5.is_some()),
        ("x-amz-checksum-sha512", input.checksum_sha512.is_some()),
        ("x-amz-checksum-xxhash3", input.checksum_xxhash3.is_some()),
        ("x-amz-checksum-xxhash64", input.checksum_xxhash64.is_some()),
        ("x-amz-checksum-xxhash128", input.checksum_xxhash128.is_some()),
    ];
    match unbuilt.iter().find(|(_, given)| *given) {
        Some((name, _)) => Err(not_built(&format!("The form field {name}"))),
        None => Ok(()),
    }
}

fn form_md5(text: Option<&str>) -> S3Result<Option<[u8; 16]>> {
    let Some(text) = text else { return Ok(None) };
    let bytes = BASE64.decode(text).ok().and_then(|bytes| bytes.try_into().ok());
    bytes.map(Some).ok_or_else(|| S3Error::new(S3ErrorCode::InvalidDigest))
}

pub(super) async fn delete_object(
    api: &S3Api,
    req: S3Request<DeleteObjectInput>,
) -> S3Result<S3Response<DeleteObjectOutput>> {
    let call = call_of(&req)?;
    let input = req.input;
    let bucket = bucket_name(&input.bucket)?;
    let entry = DeleteEntry {
        key: object_key(&input.key)?,
        version: version_id(input.version_id.as_deref())?,
        if_match: conditions(input.if_match.as_ref(), None)?.if_match,
        if_size: input.if_match_size.map(|size| u64::try_from(size).unwrap_or(u64::MAX)),
        if_modified_ms: input.if_match_last_modified_time.map(millis),
    };
    let Done { revision, value } = api.gateway.delete(&call, &bucket, vec![entry]).await.map_err(refuse(&call))?;
    let Some(deleted) = value.into_iter().next() else {
        return Err(refuse(&call)(crate::error::Error::UnexpectedReply));
    };
    if let Some(refusal) = deleted.refused.into_iter().next() {
        return Err(refuse(&call)(refusal.into()));
    }
    let output = DeleteObjectOutput {
        delete_marker: deleted.delete_marker.then_some(true),
        version_id: deleted.version.map(|id| id.to_string()),
        ..DeleteObjectOutput::default()
    };
    Ok(reply(revision, output))
}

pub(super) async fn delete_objects(
    api: &S3Api,
    req: S3Request<DeleteObjectsInput>,
) -> S3Result<S3Response<DeleteObjectsOutput>> {
    let call = call_of(&req)?;
    let DeleteObjectsInput { bucket, delete, .. } = req.input;
    let bucket = bucket_name(&bucket)?;
    if delete.objects.is_empty() || delete.objects.len() > DELETE_ENTRIES_MAX {
        return Err(S3Error::new(S3ErrorCode::MalformedXML));
    }
    let quiet = delete.quiet.unwrap_or(false);
    let (mut deleted, mut errors) = (Vec::new(), Vec::new());
    let mut named = Vec::with_capacity(delete.objects.len());
    let mut entries = Vec::with_capacity(delete.objects.len());
    for object in delete.objects {
        match delete_entry(&object) {
            Ok(entry) => {
                entries.push(entry);
                named.push(object);
            }
            Err(refusal) => errors.push(failed(&object, &refusal)),
        }
    }
    let revision = if entries.is_empty() {
        api.gateway.head_bucket(&call, &bucket).await.map_err(refuse(&call))?.revision
    } else {
        let done = api.gateway.delete(&call, &bucket, entries).await.map_err(refuse(&call))?;
        for (object, outcome) in named.iter().zip(done.value) {
            match outcome.refused.first() {
                Some(refusal) => errors.push(failed(object, refusal)),
                None if quiet => {}
                None => deleted.push(deleted_object(object, &outcome)),
            }
        }
        done.revision
    };
    let output = DeleteObjectsOutput {
        deleted: (!deleted.is_empty()).then_some(deleted),
        errors: (!errors.is_empty()).then_some(errors),
        ..DeleteObjectsOutput::default()
    };
    Ok(reply(revision, output))
}

/// An entry as the rules have it. One that names what cannot exist is refused by itself.
fn delete_entry(object: &ObjectIdentifier) -> Result<DeleteEntry, Refusal> {
    let key = object.key.parse().map_err(|error: holdfast_core::id::InvalidId| Refusal::invalid(error.to_string()))?;
    let version = match object.version_id.as_deref() {
        None | Some("") => None,
        Some(text) => Some(text.parse().map_err(|_| Refusal::NoSuchVersion)?),
    };
    let if_match = object.e_tag.as_ref().map(|etag| match etag.value() {
        "*" => Match::Any,
        value => Match::Etag(value.to_owned()),
    });
    Ok(DeleteEntry {
        key,
        version,
        if_match: if_match.into_iter().collect(),
        if_size: object.size.map(|size| u64::try_from(size).unwrap_or(u64::MAX)),
        if_modified_ms: object.last_modified_time.clone().map(millis),
    })
}

fn failed(object: &ObjectIdentifier, refusal: &Refusal) -> s3s::dto::Error {
    let (code, message) = entry_error(refusal);
    s3s::dto::Error {
        code: Some(code),
        key: Some(object.key.clone()),
        message: Some(message),
        version_id: object.version_id.clone(),
    }
}

fn deleted_object(object: &ObjectIdentifier, outcome: &Deleted) -> DeletedObject {
    DeletedObject {
        delete_marker: outcome.delete_marker.then_some(true),
        delete_marker_version_id: outcome.version.filter(|_| outcome.delete_marker).map(|id| id.to_string()),
        key: Some(object.key.clone()),
        version_id: object.version_id.clone().filter(|id| !id.is_empty()),
    }
}
