//! Buckets and their configurations.

use std::sync::Arc;

use holdfast_core::command::Document;
use holdfast_core::record::Versioning;
use s3s::dto::*;
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response, S3Result};

use super::convert::*;
use super::error::{invalid, invalid_request, not_built};
use super::service::{S3Api, call_of, refuse, reply};
use super::token::Token;
use crate::api::gate::cors::{CorsError, CorsRules, CorsSource};
use crate::gateway::Gateway;
use crate::ops::Done;
use crate::ops::bucket::BUCKETS_MAX;

/// The region whose buckets have no location constraint. Source: S3 API, GetBucketLocation.
const FIRST_REGION: &str = "us-east-1";

pub(super) async fn list_buckets(
    api: &S3Api,
    req: S3Request<ListBucketsInput>,
) -> S3Result<S3Response<ListBucketsOutput>> {
    let call = call_of(&req)?;
    let input = req.input;
    let limit = match input.max_buckets {
        None => BUCKETS_MAX,
        Some(asked) => usize::try_from(asked)
            .ok()
            .filter(|asked| (1..=BUCKETS_MAX).contains(asked))
            .ok_or_else(|| invalid("Argument max-buckets must be an integer between 1 and 10000"))?,
    };
    let after = match &input.continuation_token {
        None => None,
        Some(text) => {
            let token = Token::decode(text).ok_or_else(|| invalid("The continuation token provided is incorrect"))?;
            Some(token.after)
        }
    };
    let prefix = input.prefix.clone().unwrap_or_default();
    let listed = api.gateway.list_buckets(&call, prefix, after, limit).await;
    let Done { revision, value: page } = listed.map_err(refuse(&call))?;
    let region = api.gateway.region();
    let here = input.bucket_region.as_deref().is_none_or(|wanted| wanted == region);
    let last = page.buckets.last().filter(|_| page.truncated && here).map(|bucket| bucket.name.to_string());
    let bucket = |bucket: holdfast_core::view::Bucket| Bucket {
        bucket_region: Some(region.to_owned()),
        creation_date: Some(timestamp(bucket.row.created_ms)),
        name: Some(bucket.name.to_string()),
        ..Bucket::default()
    };
    let output = ListBucketsOutput {
        buckets: Some(page.buckets.into_iter().filter(|_| here).map(bucket).collect()),
        continuation_token: last.map(|after| Token { revision, after }.encode()),
        owner: Some(owner()),
        prefix: input.prefix,
    };
    Ok(reply(revision, output))
}

pub(super) async fn create_bucket(
    api: &S3Api,
    req: S3Request<CreateBucketInput>,
) -> S3Result<S3Response<CreateBucketOutput>> {
    let call = call_of(&req)?;
    let input = req.input;
    let name = bucket_name(&input.bucket)?;
    if let Some(configuration) = &input.create_bucket_configuration {
        check_configuration(configuration, api.gateway.region())?;
    }
    let Done { revision, .. } = api.gateway.create_bucket(&call, &name).await.map_err(refuse(&call))?;
    let output = CreateBucketOutput { location: Some(format!("/{name}")), ..CreateBucketOutput::default() };
    Ok(reply(revision, output))
}

/// A bucket is where its gateway is: a constraint may only say so.
fn check_configuration(configuration: &CreateBucketConfiguration, region: &str) -> S3Result<()> {
    let wanted = configuration.location_constraint.as_ref().map(BucketLocationConstraint::as_str);
    // The old name of Ireland.
    let wanted = wanted.map(|wanted| if wanted == "EU" { "eu-west-1" } else { wanted });
    if wanted.is_some_and(|wanted| !wanted.is_empty() && wanted != region) {
        let message = "The specified location-constraint is not valid";
        return Err(S3Error::with_message(S3ErrorCode::InvalidLocationConstraint, message));
    }
    if configuration.bucket.is_some() || configuration.location.is_some() {
        return Err(not_built("A directory bucket"));
    }
    if configuration.tags.as_ref().is_some_and(|tags| !tags.is_empty()) {
        return Err(not_built("Creating a bucket with tags"));
    }
    Ok(())
}

pub(super) async fn head_bucket(
    api: &S3Api,
    req: S3Request<HeadBucketInput>,
) -> S3Result<S3Response<HeadBucketOutput>> {
    let call = call_of(&req)?;
    let name = bucket_name(&req.input.bucket)?;
    let Done { revision, .. } = api.gateway.head_bucket(&call, &name).await.map_err(refuse(&call))?;
    let output =
        HeadBucketOutput { bucket_region: Some(api.gateway.region().to_owned()), ..HeadBucketOutput::default() };
    Ok(reply(revision, output))
}

pub(super) async fn delete_bucket(
    api: &S3Api,
    req: S3Request<DeleteBucketInput>,
) -> S3Result<S3Response<DeleteBucketOutput>> {
    let call = call_of(&req)?;
    let name = bucket_name(&req.input.bucket)?;
    let Done { revision, .. } = api.gateway.delete_bucket(&call, &name).await.map_err(refuse(&call))?;
    Ok(reply(revision, DeleteBucketOutput {}))
}

pub(super) async fn get_bucket_location(
    api: &S3Api,
    req: S3Request<GetBucketLocationInput>,
) -> S3Result<S3Response<GetBucketLocationOutput>> {
    let call = call_of(&req)?;
    let name = bucket_name(&req.input.bucket)?;
    let Done { revision, .. } = api.gateway.bucket_settings(&call, &name).await.map_err(refuse(&call))?;
    let region = api.gateway.region();
    let location_constraint = (region != FIRST_REGION).then(|| BucketLocationConstraint::from(region.to_owned()));
    Ok(reply(revision, GetBucketLocationOutput { location_constraint }))
}

pub(super) async fn get_bucket_versioning(
    api: &S3Api,
    req: S3Request<GetBucketVersioningInput>,
) -> S3Result<S3Response<GetBucketVersioningOutput>> {
    let call = call_of(&req)?;
    let name = bucket_name(&req.input.bucket)?;
    let Done { revision, value } = api.gateway.bucket_settings(&call, &name).await.map_err(refuse(&call))?;
    let status = match value.row.versioning {
        Versioning::Never => None,
        Versioning::Enabled => Some(BucketVersioningStatus::from_static(BucketVersioningStatus::ENABLED)),
        Versioning::Suspended => Some(BucketVersioningStatus::from_static(BucketVersioningStatus::SUSPENDED)),
    };
    Ok(reply(revision, GetBucketVersioningOutput { status, ..GetBucketVersioningOutput::default() }))
}

pub(super) async fn put_bucket_versioning(
    api: &S3Api,
    req: S3Request<PutBucketVersioningInput>,
) -> S3Result<S3Response<PutBucketVersioningOutput>> {
    let call = call_of(&req)?;
    let name = bucket_name(&req.input.bucket)?;
    let configuration = req.input.versioning_configuration;
    if req.input.mfa.is_some() || configuration.mfa_delete.is_some_and(|mfa| mfa.as_str() == MFADelete::ENABLED) {
        return Err(not_built("MFA delete"));
    }
    let enabled = match configuration.status.as_ref().map(BucketVersioningStatus::as_str) {
        Some(BucketVersioningStatus::ENABLED) => true,
        Some(BucketVersioningStatus::SUSPENDED) => false,
        _ => {
            let code = S3ErrorCode::Custom("IllegalVersioningConfigurationException".into());
            let message = "The Versioning element must be specified";
            let mut error = S3Error::with_message(code, message);
            error.set_status_code(http::StatusCode::BAD_REQUEST);
            return Err(error);
        }
    };
    let Done { revision, .. } = api.gateway.set_versioning(&call, &name, enabled).await.map_err(refuse(&call))?;
    Ok(reply(revision, PutBucketVersioningOutput {}))
}

pub(super) async fn get_bucket_cors(
    api: &S3Api,
    req: S3Request<GetBucketCorsInput>,
) -> S3Result<S3Response<GetBucketCorsOutput>> {
    let call = call_of(&req)?;
    let name = bucket_name(&req.input.bucket)?;
    let document = api.gateway.document(&call, &name, Document::Cors).await;
    let Done { revision, value } = document.map_err(refuse(&call))?;
    let rules = CorsRules::parse(&value).map_err(S3Error::internal_error)?;
    Ok(reply(revision, GetBucketCorsOutput { cors_rules: Some(rules.into_configuration().cors_rules) }))
}

pub(super) async fn put_bucket_cors(
    api: &S3Api,
    req: S3Request<PutBucketCorsInput>,
) -> S3Result<S3Response<PutBucketCorsOutput>> {
    let call = call_of(&req)?;
    let name = bucket_name(&req.input.bucket)?;
    let rules = CorsRules::new(req.input.cors_configuration).map_err(|error| match error {
        CorsError::Malformed => S3Error::new(S3ErrorCode::MalformedXML),
        CorsError::Invalid(message) => invalid_request(message),
    })?;
    let set = api.gateway.set_document(&call, &name, Document::Cors, Some(rules.to_xml())).await;
    let Done { revision, .. } = set.map_err(refuse(&call))?;
    Ok(reply(revision, PutBucketCorsOutput {}))
}

pub(super) async fn delete_bucket_cors(
    api: &S3Api,
    req: S3Request<DeleteBucketCorsInput>,
) -> S3Result<S3Response<DeleteBucketCorsOutput>> {
    let call = call_of(&req)?;
    let name = bucket_name(&req.input.bucket)?;
    let removed = api.gateway.set_document(&call, &name, Document::Cors, None).await;
    let Done { revision, .. } = removed.map_err(refuse(&call))?;
    Ok(reply(revision, DeleteBucketCorsOutput {}))
}

/// The gate's way to a bucket's CORS rules.
pub struct BucketCors(pub Gateway);

#[async_trait::async_trait]
impl CorsSource for BucketCors {
    async fn cors(&self, bucket: &str) -> Option<Arc<CorsRules>> {
        let name = bucket.parse().ok()?;
        let document = match self.0.cors_document(&name).await {
            Ok(document) => document?,
            Err(error) => {
                // Without its rules a browser is refused, which is the safe answer.
                tracing::warn!(bucket, error = crate::backend::chain(&error), "cannot read CORS rules");
                return None;
            }
        };
        CorsRules::parse(&document).ok().map(Arc::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_constraint_may_only_name_the_region() {
        let check = |constraint: Option<&'static str>, region: &str, fits: bool| {
            let location_constraint = constraint.map(BucketLocationConstraint::from_static);
            let configuration =
                CreateBucketConfiguration { location_constraint, ..CreateBucketConfiguration::default() };
            assert_eq!(check_configuration(&configuration, region).is_ok(), fits, "{constraint:?} in {region}");
        };
        check(None, "us-east-1", true);
        check(Some("us-east-1"), "us-east-1", true);
        check(Some("eu-west-1"), "us-east-1", false);
        check(Some("EU"), "eu-west-1", true);
        check(Some(""), "eu-west-1", true);
        let tags = Some(vec![Tag { key: Some("k".into()), value: None }]);
        let configuration = CreateBucketConfiguration { tags, ..CreateBucketConfiguration::default() };
        assert!(check_configuration(&configuration, "us-east-1").is_err());
    }
}
