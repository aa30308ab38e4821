//! The S3 API on top of the verbs. Each method decodes, calls one verb, and encodes; what is not here is answered with
//! `NotImplemented` by s3s.

use holdfast_core::command::Fence;
use holdfast_core::id::Revision;
use holdfast_core::rules::authorize::{Caller, Context};
use http::{HeaderMap, HeaderValue};
use s3s::dto::*;
use s3s::{S3, S3Request, S3Response, S3Result};

use super::body::BodyBudget;
use super::error::{invalid, to_s3};
use super::{buckets, copying, listing, multipart, notifications, reading, select, tags, writing};
use crate::api::gate::Peer;
use crate::api::request_id::{self, RequestId};
use crate::error::Error;
use crate::gateway::Gateway;
use crate::ops::{Call, Freshness};

/// The S3 operations of a gateway.
pub struct S3Api {
    pub(super) gateway: Gateway,
    pub(super) budget: BodyBudget,
}

impl S3Api {
    /// The operations of `gateway`, whose bodies share `budget` with the gate.
    #[must_use]
    pub fn new(gateway: Gateway, budget: BodyBudget) -> Self {
        Self { gateway, budget }
    }
}

/// Who asks, and how: what every front door over HTTP reads from a request in the same way. Only root has keys, so that
/// whose signature s3s has verified is root.
///
/// # Errors
/// When one of Holdfast's headers has a wrong value.
pub fn call_of<T>(req: &S3Request<T>) -> S3Result<Call> {
    let secure_transport = req.extensions.get::<Peer>().is_some_and(|peer| peer.tls);
    Ok(Call {
        caller: if req.credentials.is_some() { Caller::Root } else { Caller::Anonymous },
        context: Context { secure_transport },
        request: request_of(req),
        freshness: freshness(&req.headers)?,
        fences: fences(&req.headers)?,
    })
}

/// The request's id; the gate has given it one.
fn request_of<T>(req: &S3Request<T>) -> RequestId {
    req.extensions.get::<RequestId>().copied().unwrap_or_else(request_id::mint)
}

/// `x-holdfast-fence: NAME=TOKEN`, once for each lock; `=LEASE` of a lease that must live.
fn fences(headers: &HeaderMap) -> S3Result<Vec<Fence>> {
    /// More are a mistake.
    const FENCES_MAX: usize = 16;
    let mut fences = Vec::new();
    for value in headers.get_all("x-holdfast-fence") {
        let parts = value.to_str().ok().and_then(|text| text.trim().rsplit_once('='));
        let fence = parts.and_then(|(name, token)| {
            let name = percent_encoding::percent_decode_str(name).decode_utf8().ok()?.into_owned();
            Some(Fence { name, token: token.parse().ok()? })
        });
        fences
            .push(fence.ok_or_else(|| invalid("x-holdfast-fence is NAME=TOKEN or =LEASE, token and lease a number"))?);
    }
    if fences.len() > FENCES_MAX {
        return Err(invalid("at most 16 fences"));
    }
    Ok(fences)
}

fn freshness(headers: &HeaderMap) -> S3Result<Freshness> {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or_default().trim());
    let local = match text("x-holdfast-consistency") {
        None | Some("linearizable") => false,
        Some("local") => true,
        Some(_) => return Err(invalid("x-holdfast-consistency is linearizable or local")),
    };
    let min_revision = match text("x-holdfast-min-revision") {
        None => None,
        Some(text) => Some(text.parse().map_err(|_| invalid("x-holdfast-min-revision is a revision"))?),
    };
    Ok(Freshness { local, min_revision })
}

/// The S3 error of a verb's error.
pub(super) fn refuse(call: &Call) -> impl Fn(Error) -> s3s::S3Error {
    let request = call.request;
    move |error| to_s3(&error, request)
}

/// A reply with the revision that it tells of.
pub(super) fn reply<T>(revision: Revision, output: T) -> S3Response<T> {
    let mut response = S3Response::new(output);
    response.headers.insert("x-holdfast-revision", HeaderValue::from(revision));
    response
}

/// Methods that call the function of the same name in a module.
macro_rules! operations {
    ($($module:ident :: $name:ident($input:ty) -> $output:ty;)*) => {
        #[async_trait::async_trait]
        impl S3 for S3Api {
            $(async fn $name(&self, req: S3Request<$input>) -> S3Result<S3Response<$output>> {
                $module::$name(self, req).await
            })*
        }
    };
}

operations! {
    buckets::list_buckets(ListBucketsInput) -> ListBucketsOutput;
    buckets::create_bucket(CreateBucketInput) -> CreateBucketOutput;
    buckets::head_bucket(HeadBucketInput) -> HeadBucketOutput;
    buckets::delete_bucket(DeleteBucketInput) -> DeleteBucketOutput;
    buckets::get_bucket_location(GetBucketLocationInput) -> GetBucketLocationOutput;
    buckets::get_bucket_versioning(GetBucketVersioningInput) -> GetBucketVersioningOutput;
    buckets::put_bucket_versioning(PutBucketVersioningInput) -> PutBucketVersioningOutput;
    buckets::get_bucket_cors(GetBucketCorsInput) -> GetBucketCorsOutput;
    buckets::put_bucket_cors(PutBucketCorsInput) -> PutBucketCorsOutput;
    notifications::get_bucket_notification_configuration(GetBucketNotificationConfigurationInput) -> GetBucketNotificationConfigurationOutput;
    notifications::put_bucket_notification_configuration(PutBucketNotificationConfigurationInput) -> PutBucketNotificationConfigurationOutput;
    buckets::delete_bucket_cors(DeleteBucketCorsInput) -> DeleteBucketCorsOutput;
    tags::get_bucket_tagging(GetBucketTaggingInput) -> GetBucketTaggingOutput;
    tags::put_bucket_tagging(PutBucketTaggingInput) -> PutBucketTaggingOutput;
    tags::delete_bucket_tagging(DeleteBucketTaggingInput) -> DeleteBucketTaggingOutput;
    tags::get_object_tagging(GetObjectTaggingInput) -> GetObjectTaggingOutput;
    tags::put_object_tagging(PutObjectTaggingInput) -> PutObjectTaggingOutput;
    tags::delete_object_tagging(DeleteObjectTaggingInput) -> DeleteObjectTaggingOutput;
    listing::list_objects(ListObjectsInput) -> ListObjectsOutput;
    listing::list_objects_v2(ListObjectsV2Input) -> ListObjectsV2Output;
    listing::list_object_versions(ListObjectVersionsInput) -> ListObjectVersionsOutput;
    reading::get_object(GetObjectInput) -> GetObjectOutput;
    reading::head_object(HeadObjectInput) -> HeadObjectOutput;
    reading::get_object_attributes(GetObjectAttributesInput) -> GetObjectAttributesOutput;
    select::select_object_content(SelectObjectContentInput) -> SelectObjectContentOutput;
    writing::put_object(PutObjectInput) -> PutObjectOutput;
    writing::post_object(PostObjectInput) -> PostObjectOutput;
    writing::delete_object(DeleteObjectInput) -> DeleteObjectOutput;
    writing::delete_objects(DeleteObjectsInput) -> DeleteObjectsOutput;
    copying::copy_object(CopyObjectInput) -> CopyObjectOutput;
    copying::rename_object(RenameObjectInput) -> RenameObjectOutput;
    copying::upload_part_copy(UploadPartCopyInput) -> UploadPartCopyOutput;
    multipart::create_multipart_upload(CreateMultipartUploadInput) -> CreateMultipartUploadOutput;
    multipart::upload_part(UploadPartInput) -> UploadPartOutput;
    multipart::complete_multipart_upload(CompleteMultipartUploadInput) -> CompleteMultipartUploadOutput;
    multipart::abort_multipart_upload(AbortMultipartUploadInput) -> AbortMultipartUploadOutput;
    multipart::list_parts(ListPartsInput) -> ListPartsOutput;
    multipart::list_multipart_uploads(ListMultipartUploadsInput) -> ListMultipartUploadsOutput;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freshness_is_linearizable_unless_told_otherwise() {
        let parse = |pairs: &[(&'static str, &'static str)]| {
            let headers = pairs.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)));
            freshness(&headers.collect::<HeaderMap>()).ok()
        };
        assert_eq!(parse(&[]), Some(Freshness { local: false, min_revision: None }));
        assert_eq!(parse(&[("x-holdfast-consistency", "local")]), Some(Freshness { local: true, min_revision: None }));
        assert_eq!(
            parse(&[("x-holdfast-consistency", "linearizable"), ("x-holdfast-min-revision", "7")]),
            Some(Freshness { local: false, min_revision: Some(7) })
        );
        assert_eq!(parse(&[("x-holdfast-consistency", "eventual")]), None);
        assert_eq!(parse(&[("x-holdfast-min-revision", "-1")]), None);
    }
}
