//! CopyObject, UploadPartCopy, RenameObject: what gives existing bytes another name.

use holdfast_core::command::SourceConditions;
use holdfast_core::id::BucketName;
use percent_encoding::percent_decode_str;
use s3s::dto::*;
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response, S3Result};

use super::convert::*;
use super::error::{invalid, invalid_request, not_built};
use super::service::{S3Api, call_of, refuse, reply};
use crate::ops::Done;
use crate::ops::copy::{Copy, CopySource as Source};
use crate::ops::multipart::UploadName;
use crate::ops::rename::Rename;

pub(super) async fn copy_object(
    api: &S3Api,
    req: S3Request<CopyObjectInput>,
) -> S3Result<S3Response<CopyObjectOutput>> {
    let call = call_of(&req)?;
    let mut input = req.input;
    let source_conditions = source_conditions(
        input.copy_source_if_match.as_ref(),
        input.copy_source_if_none_match.as_ref(),
        input.copy_source_if_modified_since.take(),
        input.copy_source_if_unmodified_since.take(),
    );
    let replace_metadata = match input.metadata_directive.as_ref().map(MetadataDirective::as_str) {
        None | Some(MetadataDirective::COPY) => false,
        Some(MetadataDirective::REPLACE) => true,
        Some(_) => return Err(invalid("Unknown metadata directive.")),
    };
    let replace_tags = match input.tagging_directive.as_ref().map(TaggingDirective::as_str) {
        None | Some(TaggingDirective::COPY) => false,
        Some(TaggingDirective::REPLACE) => true,
        Some(_) => return Err(invalid("Unknown tagging directive.")),
    };
    let given = given!(input).attributes()?;
    let copy = Copy {
        source: source(&input.copy_source, source_conditions)?,
        bucket: bucket_name(&input.bucket)?,
        key: object_key(&input.key)?,
        conditions: conditions(input.if_match.as_ref(), input.if_none_match.as_ref())?,
        tags: replace_tags.then(|| given.tags.clone()),
        attributes: replace_metadata.then_some(given),
        checksum: algorithm(input.checksum_algorithm.as_ref())?,
    };
    let Done { revision, value: written } = api.gateway.copy(&call, copy).await.map_err(refuse(&call))?;
    let mut result = CopyObjectResult {
        checksum_type: written.checksum.as_ref().map(|checksum| checksum_type_out(checksum.kind)),
        e_tag: Some(etag(&written.etag)),
        last_modified: Some(timestamp(written.modified_ms)),
        ..CopyObjectResult::default()
    };
    if let Some(checksum) = &written.checksum {
        set_checksum!(result, checksum.algorithm, checksum_text(checksum, &written.etag));
    }
    let output = CopyObjectOutput {
        copy_object_result: Some(result),
        copy_source_version_id: written.source_version.map(|id| id.to_string()),
        version_id: written.version.map(|id| id.to_string()),
        ..CopyObjectOutput::default()
    };
    Ok(reply(revision, output))
}

fn source(source: &CopySource, conditions: SourceConditions) -> S3Result<Source> {
    match source {
        CopySource::Bucket { bucket, key, version_id: version } => Ok(Source {
            bucket: bucket_name(bucket)?,
            key: object_key(key)?,
            version: version_id(version.as_deref())?,
            conditions,
        }),
        CopySource::AccessPoint { .. } | CopySource::Outpost { .. } => Err(not_built("A copy from an access point")),
    }
}

pub(super) async fn upload_part_copy(
    api: &S3Api,
    req: S3Request<UploadPartCopyInput>,
) -> S3Result<S3Response<UploadPartCopyOutput>> {
    let call = call_of(&req)?;
    let mut input = req.input;
    let conditions = source_conditions(
        input.copy_source_if_match.as_ref(),
        input.copy_source_if_none_match.as_ref(),
        input.copy_source_if_modified_since.take(),
        input.copy_source_if_unmodified_since.take(),
    );
    let name = UploadName {
        bucket: bucket_name(&input.bucket)?,
        key: object_key(&input.key)?,
        upload: upload_id(&input.upload_id)?,
    };
    let from = source(&input.copy_source, conditions)?;
    let part = copy_range(input.copy_source_range.as_deref())?;
    let number = part_number(input.part_number)?;
    let copied = api.gateway.copy_part(&call, &name, number, &from, part).await;
    let Done { revision, value: written } = copied.map_err(refuse(&call))?;
    let mut result = CopyPartResult {
        e_tag: Some(etag(&written.etag)),
        last_modified: Some(timestamp(written.modified_ms)),
        ..CopyPartResult::default()
    };
    if let Some(checksum) = &written.checksum {
        set_checksum!(result, checksum.algorithm, checksum_text(checksum, &written.etag));
    }
    let output = UploadPartCopyOutput {
        copy_part_result: Some(result),
        copy_source_version_id: written.source_version.map(|id| id.to_string()),
        ..UploadPartCopyOutput::default()
    };
    Ok(reply(revision, output))
}

/// `x-amz-client-token` is accepted and not remembered: every SDK sends one. A rename that is repeated after it succeeded
/// finds no source, so nothing is moved twice.
pub(super) async fn rename_object(
    api: &S3Api,
    req: S3Request<RenameObjectInput>,
) -> S3Result<S3Response<RenameObjectOutput>> {
    let call = call_of(&req)?;
    let input = req.input;
    if input.destination_if_modified_since.is_some() || input.destination_if_unmodified_since.is_some() {
        return Err(not_built("A time condition on the destination of a rename"));
    }
    let bucket = bucket_name(&input.bucket)?;
    let rename = Rename {
        source: object_key(&rename_source(&input.rename_source, &bucket)?)?,
        source_conditions: source_conditions(
            etag_condition(input.source_if_match.as_deref())?.as_ref(),
            etag_condition(input.source_if_none_match.as_deref())?.as_ref(),
            input.source_if_modified_since,
            input.source_if_unmodified_since,
        ),
        target: object_key(&input.key)?,
        conditions: conditions(input.destination_if_match.as_ref(), input.destination_if_none_match.as_ref())?,
        bucket,
    };
    if rename.source == rename.target {
        return Err(invalid_request("The source and the destination of a rename are the same key."));
    }
    let Done { revision, .. } = api.gateway.rename(&call, rename).await.map_err(refuse(&call))?;
    Ok(reply(revision, RenameObjectOutput {}))
}

/// The key in `x-amz-rename-source`: URL-encoded; a key, or as some clients write it, `/key` or `/bucket/key`.
fn rename_source(text: &str, bucket: &BucketName) -> S3Result<String> {
    let invalid = || S3Error::with_message(S3ErrorCode::InvalidArgument, "x-amz-rename-source is not URL-encoded text");
    let decoded = percent_decode_str(text).decode_utf8().map_err(|_| invalid())?;
    let Some(path) = decoded.strip_prefix('/') else { return Ok(decoded.into_owned()) };
    let key = path.strip_prefix(bucket.as_str()).and_then(|rest| rest.strip_prefix('/'));
    Ok(key.unwrap_or(path).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rename_source_is_a_key_of_the_bucket() {
        let bucket = "photos".parse().unwrap();
        let check = |text: &str, key: &str| assert_eq!(rename_source(text, &bucket).unwrap(), key, "{text}");
        check("a/b.txt", "a/b.txt");
        check("/a/b.txt", "a/b.txt");
        check("/photos/a/b.txt", "a/b.txt");
        check("photos/a", "photos/a");
        check("a%20b/%C3%BC%2B%25", "a b/ü+%");
        assert!(rename_source("%FF", &bucket).is_err());
    }
}
