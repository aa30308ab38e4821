//! The notification configuration of a bucket.

use holdfast_core::command::Document;
use holdfast_core::error::Error as Refusal;
use s3s::dto::*;
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response, S3Result};

use super::convert::bucket_name;
use super::error::{invalid, not_built};
use super::service::{S3Api, call_of, refuse, reply};
use crate::error::Error;
use crate::notify::rules::{Rules, RulesError};
use crate::notify::settings::shown;
use crate::ops::{Call, Done};

pub(super) async fn get_bucket_notification_configuration(
    api: &S3Api,
    req: S3Request<GetBucketNotificationConfigurationInput>,
) -> S3Result<S3Response<GetBucketNotificationConfigurationOutput>> {
    let call = call_of(&req)?;
    let name = bucket_name(&req.input.bucket)?;
    let (revision, configuration) = match api.gateway.document(&call, &name, Document::Notification).await {
        Ok(Done { revision, value }) => {
            let rules = Rules::parse(&value).map_err(S3Error::internal_error)?;
            (revision, rules.into_configuration())
        }
        // None is an empty one.
        Err(Error::NoSuchDocument(_)) => {
            let Done { revision, .. } = api.gateway.bucket_settings(&call, &name).await.map_err(refuse(&call))?;
            (revision, NotificationConfiguration::default())
        }
        Err(error) => return Err(refuse(&call)(error)),
    };
    let output = GetBucketNotificationConfigurationOutput {
        queue_configurations: configuration.queue_configurations,
        ..GetBucketNotificationConfigurationOutput::default()
    };
    Ok(reply(revision, output))
}

pub(super) async fn put_bucket_notification_configuration(
    api: &S3Api,
    req: S3Request<PutBucketNotificationConfigurationInput>,
) -> S3Result<S3Response<PutBucketNotificationConfigurationOutput>> {
    let call = call_of(&req)?;
    let name = bucket_name(&req.input.bucket)?;
    let rules = Rules::new(req.input.notification_configuration).map_err(|error| match error {
        RulesError::Malformed => S3Error::new(S3ErrorCode::MalformedXML),
        RulesError::Invalid(message) => invalid(message),
        RulesError::NotBuilt(what) => not_built(what),
    })?;
    check_targets(api, &call, &rules).await?;
    let document = (!rules.is_empty()).then(|| rules.to_xml());
    let set = api.gateway.set_document(&call, &name, Document::Notification, document).await;
    let Done { revision, .. } = set.map_err(refuse(&call))?;
    Ok(reply(revision, PutBucketNotificationConfigurationOutput {}))
}

/// A rule for a target that is not there would send nothing, silently.
async fn check_targets(api: &S3Api, call: &Call, rules: &Rules) -> S3Result<()> {
    for (target, kind) in rules.targets() {
        let row = match api.gateway.target(call, target).await {
            Ok(found) => found.value,
            Err(Error::Refused(Refusal::NoSuchTarget)) => {
                let what = "Unable to validate the following destination configurations: there is no target";
                return Err(invalid(format!("{what} {target}")));
            }
            Err(error) => return Err(refuse(call)(error)),
        };
        let actual = shown(&row.settings).get("kind").and_then(|kind| kind.as_str().map(str::to_owned));
        if !kind.is_empty() && actual.as_deref() != Some(kind) {
            let actual = actual.unwrap_or_default();
            return Err(invalid(format!("the target {target} is of the kind {actual}, and the ARN says {kind}")));
        }
    }
    Ok(())
}
