//! Tags of objects and buckets.

use std::collections::BTreeMap;

use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result};

use super::convert::*;
use super::service::{S3Api, call_of, refuse, reply};
use crate::ops::Done;

pub(super) async fn get_object_tagging(
    api: &S3Api,
    req: S3Request<GetObjectTaggingInput>,
) -> S3Result<S3Response<GetObjectTaggingOutput>> {
    let call = call_of(&req)?;
    let (bucket, key) = (bucket_name(&req.input.bucket)?, object_key(&req.input.key)?);
    let version = version_id(req.input.version_id.as_deref())?;
    let Done { revision, value } = api.gateway.tagged(&call, &bucket, &key, version).await.map_err(refuse(&call))?;
    let tags = value.row.version.as_ref().map(|version| tag_set(&version.attributes.tags)).unwrap_or_default();
    let version_id = value.shown_version().map(|id| id.to_string());
    Ok(reply(revision, GetObjectTaggingOutput { tag_set: tags, version_id }))
}

pub(super) async fn put_object_tagging(
    api: &S3Api,
    req: S3Request<PutObjectTaggingInput>,
) -> S3Result<S3Response<PutObjectTaggingOutput>> {
    let call = call_of(&req)?;
    let input = req.input;
    let (bucket, key) = (bucket_name(&input.bucket)?, object_key(&input.key)?);
    let version = version_id(input.version_id.as_deref())?;
    let tags = document_tags(input.tagging.tag_set, OBJECT_TAGS_MAX)?;
    let set = api.gateway.set_tags(&call, &bucket, &key, version, tags).await;
    let Done { revision, value } = set.map_err(refuse(&call))?;
    Ok(reply(revision, PutObjectTaggingOutput { version_id: value.version.map(|id| id.to_string()) }))
}

pub(super) async fn delete_object_tagging(
    api: &S3Api,
    req: S3Request<DeleteObjectTaggingInput>,
) -> S3Result<S3Response<DeleteObjectTaggingOutput>> {
    let call = call_of(&req)?;
    let (bucket, key) = (bucket_name(&req.input.bucket)?, object_key(&req.input.key)?);
    let version = version_id(req.input.version_id.as_deref())?;
    let set = api.gateway.set_tags(&call, &bucket, &key, version, BTreeMap::new()).await;
    let Done { revision, value } = set.map_err(refuse(&call))?;
    Ok(reply(revision, DeleteObjectTaggingOutput { version_id: value.version.map(|id| id.to_string()) }))
}

pub(super) async fn get_bucket_tagging(
    api: &S3Api,
    req: S3Request<GetBucketTaggingInput>,
) -> S3Result<S3Response<GetBucketTaggingOutput>> {
    let call = call_of(&req)?;
    let bucket = bucket_name(&req.input.bucket)?;
    let Done { revision, value } = api.gateway.bucket_tags(&call, &bucket).await.map_err(refuse(&call))?;
    Ok(reply(revision, GetBucketTaggingOutput { tag_set: tag_set(&value) }))
}

pub(super) async fn put_bucket_tagging(
    api: &S3Api,
    req: S3Request<PutBucketTaggingInput>,
) -> S3Result<S3Response<PutBucketTaggingOutput>> {
    let call = call_of(&req)?;
    let bucket = bucket_name(&req.input.bucket)?;
    let tags = document_tags(req.input.tagging.tag_set, BUCKET_TAGS_MAX)?;
    let Done { revision, .. } = api.gateway.set_bucket_tags(&call, &bucket, &tags).await.map_err(refuse(&call))?;
    Ok(reply(revision, PutBucketTaggingOutput {}))
}

pub(super) async fn delete_bucket_tagging(
    api: &S3Api,
    req: S3Request<DeleteBucketTaggingInput>,
) -> S3Result<S3Response<DeleteBucketTaggingOutput>> {
    let call = call_of(&req)?;
    let bucket = bucket_name(&req.input.bucket)?;
    let removed = api.gateway.set_bucket_tags(&call, &bucket, &BTreeMap::new()).await;
    let Done { revision, .. } = removed.map_err(refuse(&call))?;
    Ok(reply(revision, DeleteBucketTaggingOutput {}))
}
