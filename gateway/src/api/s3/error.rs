//! Outside meets inside: the S3 code and status of each error. Inner text goes to the log, the client gets the request id.
//!
//! Source: S3 API, "Error responses". 503 is retried by every client, so it means "the same request may work later"; a full
//! disk is 507, which the common SDKs do not retry, because only an operator can help.

use std::error::Error as StdError;

use holdfast_core::command::Document;
use holdfast_core::error::Error as Refusal;
use holdfast_core::id::RequestId;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use s3s::{S3Error, S3ErrorCode};

use super::body::BodyError;
use super::convert::http_date;
use crate::backend::chain;
use crate::error::{Error, Kind};
use crate::{blobs, cluster};

/// Seconds after which a busy node may be asked again.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// A code with its status.
type Answer = (S3ErrorCode, StatusCode);

/// The S3 error of `error`. What an operator must know is logged, once, here.
#[must_use]
pub fn to_s3(error: &Error, request: RequestId) -> S3Error {
    match error.kind() {
        Kind::Corrupt | Kind::Internal => {
            tracing::error!(request_id = %request, error = chain(error), "a request failed");
        }
        Kind::Unavailable => tracing::warn!(request_id = %request, error = chain(error), "a request failed"),
        Kind::NotFound | Kind::Invalid | Kind::Denied | Kind::Conflict | Kind::Busy => {
            tracing::debug!(request_id = %request, error = chain(error), "a request was refused");
        }
    }
    let (code, status) = answer(error);
    let mut out = match message(error) {
        Some(message) => S3Error::with_message(code, message),
        None => S3Error::new(code),
    };
    out.set_status_code(status);
    if let Some(headers) = headers(error, status) {
        out.set_headers(headers);
    }
    out
}

/// An argument that cannot be right.
pub(crate) fn invalid(message: impl Into<String>) -> S3Error {
    S3Error::with_message(S3ErrorCode::InvalidArgument, message.into())
}

/// A request that cannot be right.
pub(crate) fn invalid_request(message: impl Into<String>) -> S3Error {
    S3Error::with_message(S3ErrorCode::InvalidRequest, message.into())
}

/// What is not built.
pub(crate) fn not_built(what: &str) -> S3Error {
    S3Error::with_message(S3ErrorCode::NotImplemented, format!("{what} is not implemented."))
}

fn custom(code: &str, status: StatusCode) -> Answer {
    (S3ErrorCode::Custom(code.into()), status)
}

fn answer(error: &Error) -> Answer {
    match error {
        Error::Refused(refusal) => refused(refusal),
        Error::NotModified { .. } => (S3ErrorCode::NotModified, StatusCode::NOT_MODIFIED),
        Error::DeleteMarker { named: false, .. } => (S3ErrorCode::NoSuchKey, StatusCode::NOT_FOUND),
        Error::DeleteMarker { named: true, .. } => (S3ErrorCode::MethodNotAllowed, StatusCode::METHOD_NOT_ALLOWED),
        Error::SourceIsDeleteMarker | Error::SourceTooLarge { .. } => {
            (S3ErrorCode::InvalidRequest, StatusCode::BAD_REQUEST)
        }
        Error::RangeNotSatisfiable { .. } => (S3ErrorCode::InvalidRange, StatusCode::RANGE_NOT_SATISFIABLE),
        Error::NoSuchPart { .. } => custom("InvalidPartNumber", StatusCode::RANGE_NOT_SATISFIABLE),
        Error::NoSuchDocument(Document::Cors) => (S3ErrorCode::NoSuchCORSConfiguration, StatusCode::NOT_FOUND),
        // Never asked so: a bucket without one has an empty one.
        Error::NoSuchDocument(Document::Notification) => (S3ErrorCode::NoSuchKey, StatusCode::NOT_FOUND),
        Error::NoSuchDocument(Document::Tags) => (S3ErrorCode::NoSuchTagSet, StatusCode::NOT_FOUND),
        Error::NotBuilt(_) => (S3ErrorCode::NotImplemented, StatusCode::NOT_IMPLEMENTED),
        Error::Cluster(error) => of_cluster(error),
        Error::Blobs(error) => of_blobs(error),
        Error::State(_) | Error::UnexpectedReply => (S3ErrorCode::InternalError, StatusCode::INTERNAL_SERVER_ERROR),
        Error::HeldBack(_) | Error::Stopping => (S3ErrorCode::ServiceUnavailable, StatusCode::SERVICE_UNAVAILABLE),
    }
}

fn refused(refusal: &Refusal) -> Answer {
    match refusal {
        Refusal::NoSuchBucket => (S3ErrorCode::NoSuchBucket, StatusCode::NOT_FOUND),
        // us-east-1 answers 200 here, a relic that no other region has; 409 tells a caller that it created nothing.
        Refusal::BucketExists => (S3ErrorCode::BucketAlreadyOwnedByYou, StatusCode::CONFLICT),
        Refusal::BucketNotEmpty => (S3ErrorCode::BucketNotEmpty, StatusCode::CONFLICT),
        Refusal::NoSuchKey => (S3ErrorCode::NoSuchKey, StatusCode::NOT_FOUND),
        Refusal::NoSuchVersion => (S3ErrorCode::NoSuchVersion, StatusCode::NOT_FOUND),
        Refusal::IsDeleteMarker => (S3ErrorCode::MethodNotAllowed, StatusCode::METHOD_NOT_ALLOWED),
        Refusal::NoSuchUpload => (S3ErrorCode::NoSuchUpload, StatusCode::NOT_FOUND),
        Refusal::InvalidPart { .. } => (S3ErrorCode::InvalidPart, StatusCode::BAD_REQUEST),
        Refusal::InvalidPartOrder => (S3ErrorCode::InvalidPartOrder, StatusCode::BAD_REQUEST),
        Refusal::PartTooSmall { .. } => (S3ErrorCode::EntityTooSmall, StatusCode::BAD_REQUEST),
        Refusal::TooLarge => (S3ErrorCode::EntityTooLarge, StatusCode::BAD_REQUEST),
        Refusal::PreconditionFailed { .. } | Refusal::PrefixExists => {
            (S3ErrorCode::PreconditionFailed, StatusCode::PRECONDITION_FAILED)
        }
        Refusal::ContentMismatch { what } if what == "checksum" => (S3ErrorCode::BadDigest, StatusCode::BAD_REQUEST),
        Refusal::ContentMismatch { .. } | Refusal::TooManyRows { .. } | Refusal::CopyToItself => {
            (S3ErrorCode::InvalidRequest, StatusCode::BAD_REQUEST)
        }
        Refusal::InvalidRange => (S3ErrorCode::InvalidRange, StatusCode::RANGE_NOT_SATISFIABLE),
        Refusal::InvalidWriteOffset { .. } => custom("InvalidWriteOffset", StatusCode::BAD_REQUEST),
        Refusal::TooManyExtents => custom("TooManyParts", StatusCode::BAD_REQUEST),
        Refusal::InvalidArgument { .. } => (S3ErrorCode::InvalidArgument, StatusCode::BAD_REQUEST),
        Refusal::InvalidTag { .. } => (S3ErrorCode::InvalidTag, StatusCode::BAD_REQUEST),
        Refusal::BlobCondemned | Refusal::Expired => (S3ErrorCode::ServiceUnavailable, StatusCode::SERVICE_UNAVAILABLE),
        Refusal::Changed => (S3ErrorCode::ConditionalRequestConflict, StatusCode::CONFLICT),
        Refusal::NotBuilt => (S3ErrorCode::NotImplemented, StatusCode::NOT_IMPLEMENTED),
        Refusal::Denied => (S3ErrorCode::AccessDenied, StatusCode::FORBIDDEN),
        Refusal::LockHeld => custom("LockHeld", StatusCode::CONFLICT),
        Refusal::QueueFull => (S3ErrorCode::SlowDown, StatusCode::SERVICE_UNAVAILABLE),
        Refusal::NoSuchLease => custom("NoSuchLease", StatusCode::NOT_FOUND),
        Refusal::NoSuchTarget => custom("NoSuchTarget", StatusCode::NOT_FOUND),
        Refusal::FencingTokenStale { .. } => custom("FencingTokenStale", StatusCode::PRECONDITION_FAILED),
        Refusal::RangeHeld { .. } => custom("RangeHeld", StatusCode::CONFLICT),
        Refusal::Deadlock => custom("Deadlock", StatusCode::CONFLICT),
        Refusal::NoLocks => custom("NoLocks", StatusCode::CONFLICT),
        Refusal::FenceLeaseEnded { .. } => custom("FencingTokenStale", StatusCode::PRECONDITION_FAILED),
        Refusal::Compacted { .. } => custom("Compacted", StatusCode::GONE),
        Refusal::NoSuchTopic => custom("NoSuchTopic", StatusCode::NOT_FOUND),
        Refusal::NoSuchGroup => custom("NoSuchGroup", StatusCode::NOT_FOUND),
        Refusal::OffsetGone { .. } => custom("OffsetGone", StatusCode::GONE),
        Refusal::NoSuchIndex => custom("NoSuchIndex", StatusCode::NOT_FOUND),
        Refusal::IndexExists => custom("IndexAlreadyExists", StatusCode::CONFLICT),
        Refusal::DuplicateValue { .. } => custom("DuplicateValue", StatusCode::CONFLICT),
        Refusal::Unparsed { .. } => custom("ContentDoesNotParse", StatusCode::BAD_REQUEST),
        Refusal::NotRead { .. } => custom("NotIndexable", StatusCode::BAD_REQUEST),
        Refusal::FileExists => custom("FileExists", StatusCode::CONFLICT),
        Refusal::NotEmpty => custom("DirectoryNotEmpty", StatusCode::CONFLICT),
        Refusal::IsDirectory => custom("IsDirectory", StatusCode::CONFLICT),
        Refusal::NotDirectory => custom("NotADirectory", StatusCode::CONFLICT),
        Refusal::TooManyLinks => custom("TooManyLinks", StatusCode::CONFLICT),
        Refusal::NoSuchMount => custom("NoSuchMount", StatusCode::NOT_FOUND),
    }
}

fn of_cluster(error: &cluster::Error) -> Answer {
    match error {
        cluster::Error::NoSpace { .. } => custom("InsufficientStorage", StatusCode::INSUFFICIENT_STORAGE),
        cluster::Error::Busy => (S3ErrorCode::SlowDown, StatusCode::SERVICE_UNAVAILABLE),
        cluster::Error::TooLarge { .. } => (S3ErrorCode::EntityTooLarge, StatusCode::BAD_REQUEST),
        cluster::Error::Conflict(_) => custom("MembershipConflict", StatusCode::CONFLICT),
        cluster::Error::Unavailable(_) | cluster::Error::UnknownOutcome(_) | cluster::Error::Fatal(_) => {
            (S3ErrorCode::ServiceUnavailable, StatusCode::SERVICE_UNAVAILABLE)
        }
        cluster::Error::InUse { .. }
        | cluster::Error::Io { .. }
        | cluster::Error::Identity { .. }
        | cluster::Error::LogDamaged { .. }
        | cluster::Error::StateMismatch(_)
        | cluster::Error::Store { .. }
        | cluster::Error::Snapshot { .. } => (S3ErrorCode::InternalError, StatusCode::INTERNAL_SERVER_ERROR),
    }
}

fn of_blobs(error: &blobs::Error) -> Answer {
    if let Some(body) = body_error(error) {
        return body.code();
    }
    if error.is_no_space() {
        return custom("InsufficientStorage", StatusCode::INSUFFICIENT_STORAGE);
    }
    match error {
        blobs::Error::Body(_) | blobs::Error::Length { .. } => (S3ErrorCode::IncompleteBody, StatusCode::BAD_REQUEST),
        blobs::Error::Refused(refusal) => refused(refusal),
        blobs::Error::Backend { .. } | blobs::Error::Run { .. } => match error.kind() {
            blobs::Kind::Busy => (S3ErrorCode::SlowDown, StatusCode::SERVICE_UNAVAILABLE),
            blobs::Kind::Unavailable => (S3ErrorCode::ServiceUnavailable, StatusCode::SERVICE_UNAVAILABLE),
            blobs::Kind::Invalid | blobs::Kind::Changed | blobs::Kind::Corrupt | blobs::Kind::Internal => {
                (S3ErrorCode::InternalError, StatusCode::INTERNAL_SERVER_ERROR)
            }
        },
        blobs::Error::State(_) | blobs::Error::Damaged { .. } | blobs::Error::Mismatch { .. } => {
            (S3ErrorCode::InternalError, StatusCode::INTERNAL_SERVER_ERROR)
        }
        blobs::Error::Closed => (S3ErrorCode::ServiceUnavailable, StatusCode::SERVICE_UNAVAILABLE),
    }
}

/// What the body itself says: the first of its errors in the chain.
fn body_error(error: &blobs::Error) -> Option<&BodyError> {
    let blobs::Error::Body(source) = error else { return None };
    // From the error inside of the `Arc`: the `Arc` itself is one, too, of another type.
    let mut link: Option<&(dyn StdError + 'static)> = Some(source.as_ref());
    while let Some(cause) = link {
        if let Some(body) = cause.downcast_ref() {
            return Some(body);
        }
        link = cause.source();
    }
    None
}

/// What the client reads, where the code's usual text would not do.
fn message(error: &Error) -> Option<String> {
    const UNKNOWN: &str = "The outcome of the request is not known: it may have been carried out, or not.";
    match error {
        Error::Refused(refusal) => refusal_message(refusal),
        Error::SourceIsDeleteMarker => {
            Some("The source of a copy request may not specifically refer to a delete marker by version id.".to_owned())
        }
        Error::SourceTooLarge { most } => Some(format!(
            "The specified copy source is larger than the maximum allowable size for a copy source: {most}"
        )),
        Error::NoSuchPart { .. } => Some("The requested partnumber is not satisfiable".to_owned()),
        Error::NotBuilt(what) => Some(format!("{what} is not implemented.")),
        Error::HeldBack(why) | Error::Cluster(cluster::Error::Unavailable(why) | cluster::Error::Conflict(why)) => {
            Some(sentence(why))
        }
        Error::Cluster(cluster::Error::UnknownOutcome(_)) => Some(UNKNOWN.to_owned()),
        Error::Cluster(cluster::Error::NoSpace { .. }) => Some(full()),
        Error::Blobs(error) if error.is_no_space() => Some(full()),
        Error::Blobs(error) => body_error(error).map(ToString::to_string),
        Error::NotModified { .. }
        | Error::DeleteMarker { .. }
        | Error::RangeNotSatisfiable { .. }
        | Error::NoSuchDocument(_)
        | Error::Cluster(_)
        | Error::State(_)
        | Error::UnexpectedReply
        | Error::Stopping => None,
    }
}

fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| format!("{}{}.", first.to_uppercase(), chars.as_str())).unwrap_or_default()
}

fn full() -> String {
    "The storage is full. Reads and deletes go on; writes are accepted again when there is space.".to_owned()
}

fn refusal_message(refusal: &Refusal) -> Option<String> {
    match refusal {
        Refusal::PreconditionFailed { condition } => {
            Some(format!("At least one of the pre-conditions you specified did not hold: {condition}"))
        }
        Refusal::CopyToItself => Some(
            "This copy request is illegal because it is trying to copy an object to itself without changing the object's \
             metadata, storage class, website redirect location or encryption attributes."
                .to_owned(),
        ),
        Refusal::PartTooSmall { .. }
        | Refusal::InvalidPart { .. }
        | Refusal::ContentMismatch { .. }
        | Refusal::InvalidRange
        | Refusal::InvalidWriteOffset { .. }
        | Refusal::TooManyExtents
        | Refusal::TooManyRows { .. }
        | Refusal::PrefixExists
        | Refusal::InvalidArgument { .. }
        | Refusal::InvalidTag { .. }
        | Refusal::BlobCondemned
        | Refusal::Expired
        | Refusal::Changed
        | Refusal::LockHeld
        | Refusal::QueueFull
        | Refusal::NoSuchLease
        | Refusal::NoSuchTarget
        | Refusal::FencingTokenStale { .. }
        | Refusal::RangeHeld { .. }
        | Refusal::Deadlock
        | Refusal::NoLocks
        | Refusal::FenceLeaseEnded { .. }
        | Refusal::Compacted { .. }
        | Refusal::NoSuchTopic
        | Refusal::NoSuchGroup
        | Refusal::OffsetGone { .. }
        | Refusal::NoSuchIndex
        | Refusal::IndexExists
        | Refusal::DuplicateValue { .. }
        | Refusal::Unparsed { .. }
        | Refusal::NotRead { .. }
        | Refusal::FileExists
        | Refusal::NotEmpty
        | Refusal::IsDirectory
        | Refusal::NotDirectory
        | Refusal::TooManyLinks
        | Refusal::NoSuchMount => {
            Some(sentence(&refusal.to_string()))
        }
        Refusal::NoSuchBucket
        | Refusal::BucketExists
        | Refusal::BucketNotEmpty
        | Refusal::NoSuchKey
        | Refusal::NoSuchVersion
        | Refusal::IsDeleteMarker
        | Refusal::NoSuchUpload
        | Refusal::InvalidPartOrder
        | Refusal::TooLarge
        | Refusal::NotBuilt
        | Refusal::Denied => None,
    }
}

/// Headers that belong to an error. s3s sends them in place of its own.
fn headers(error: &Error, status: StatusCode) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    let mut insert = |name: &'static str, value: String| {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    };
    match error {
        Error::NotModified { etag: value, modified_ms, revision } => {
            insert("etag", format!("\"{value}\""));
            insert("last-modified", http_date(*modified_ms));
            insert("x-holdfast-revision", revision.to_string());
        }
        Error::DeleteMarker { version, modified_ms, named } => {
            insert("x-amz-delete-marker", "true".to_owned());
            insert("x-amz-version-id", version.to_string());
            if *named {
                insert("last-modified", http_date(*modified_ms));
                insert("allow", "DELETE".to_owned());
            }
        }
        Error::RangeNotSatisfiable { size } => {
            insert("content-range", format!("bytes */{size}"));
            insert("accept-ranges", "bytes".to_owned());
        }
        _ if status == StatusCode::SERVICE_UNAVAILABLE => {
            headers.insert(header::RETRY_AFTER, RETRY_AFTER);
        }
        _ => return None,
    }
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/xml"));
    Some(headers)
}

/// One entry of a multi-delete that was refused: its code and message.
pub(crate) fn entry_error(refusal: &Refusal) -> (String, String) {
    let (code, _) = refused(refusal);
    let message = refusal_message(refusal).or_else(|| S3Error::new(code.clone()).message().map(str::to_owned));
    (code.as_str().to_owned(), message.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(error: Error, code: &str, status: u16) {
        let out = to_s3(&error, RequestId::default());
        assert_eq!(
            (out.code().as_str(), out.status_code().map(|status| status.as_u16())),
            (code, Some(status)),
            "{error:?}"
        );
    }

    #[test]
    fn each_refusal_has_the_code_that_aws_gives() {
        let table: [(Refusal, &str, u16); 40] = [
            (Refusal::NoSuchBucket, "NoSuchBucket", 404),
            (Refusal::BucketExists, "BucketAlreadyOwnedByYou", 409),
            (Refusal::BucketNotEmpty, "BucketNotEmpty", 409),
            (Refusal::NoSuchKey, "NoSuchKey", 404),
            (Refusal::NoSuchVersion, "NoSuchVersion", 404),
            (Refusal::IsDeleteMarker, "MethodNotAllowed", 405),
            (Refusal::NoSuchUpload, "NoSuchUpload", 404),
            (Refusal::InvalidPart { number: 1 }, "InvalidPart", 400),
            (Refusal::InvalidPartOrder, "InvalidPartOrder", 400),
            (Refusal::PartTooSmall { number: 1 }, "EntityTooSmall", 400),
            (Refusal::TooLarge, "EntityTooLarge", 400),
            (Refusal::failed("If-Match"), "PreconditionFailed", 412),
            (Refusal::ContentMismatch { what: "checksum".into() }, "BadDigest", 400),
            (Refusal::ContentMismatch { what: "size".into() }, "InvalidRequest", 400),
            (Refusal::InvalidRange, "InvalidRange", 416),
            (Refusal::InvalidWriteOffset { size: 1 }, "InvalidWriteOffset", 400),
            (Refusal::TooManyExtents, "TooManyParts", 400),
            (Refusal::TooManyRows { most: 1 }, "InvalidRequest", 400),
            (Refusal::invalid("x"), "InvalidArgument", 400),
            (Refusal::InvalidTag { what: "x".into() }, "InvalidTag", 400),
            (Refusal::BlobCondemned, "ServiceUnavailable", 503),
            (Refusal::Expired, "ServiceUnavailable", 503),
            (Refusal::Changed, "ConditionalRequestConflict", 409),
            (Refusal::NotBuilt, "NotImplemented", 501),
            (Refusal::Denied, "AccessDenied", 403),
            (Refusal::CopyToItself, "InvalidRequest", 400),
            (Refusal::LockHeld, "LockHeld", 409),
            (Refusal::QueueFull, "SlowDown", 503),
            (Refusal::NoSuchLease, "NoSuchLease", 404),
            (Refusal::NoSuchTarget, "NoSuchTarget", 404),
            (Refusal::FencingTokenStale { name: "x".into() }, "FencingTokenStale", 412),
            (Refusal::Compacted { oldest: 1 }, "Compacted", 410),
            (Refusal::NoSuchTopic, "NoSuchTopic", 404),
            (Refusal::NoSuchGroup, "NoSuchGroup", 404),
            (Refusal::OffsetGone { oldest: 1 }, "OffsetGone", 410),
            (Refusal::NoSuchIndex, "NoSuchIndex", 404),
            (Refusal::IndexExists, "IndexAlreadyExists", 409),
            (Refusal::DuplicateValue { index: "i".into() }, "DuplicateValue", 409),
            (Refusal::Unparsed { index: "i".into(), why: "x".into() }, "ContentDoesNotParse", 400),
            (Refusal::NotRead { index: "i".into() }, "NotIndexable", 400),
        ];
        for (refusal, code, status) in table {
            check(Error::Refused(refusal), code, status);
        }
    }

    #[test]
    fn an_unknown_outcome_is_neither_success_nor_failure() {
        let error = Error::Cluster(cluster::Error::UnknownOutcome("the deadline passed".into()));
        check(error.clone(), "ServiceUnavailable", 503);
        let out = to_s3(&error, RequestId::default());
        assert!(out.message().is_some_and(|message| message.contains("not known")));
        assert_eq!(out.headers().and_then(|headers| headers.get("retry-after")), Some(&RETRY_AFTER));
    }

    #[test]
    fn a_full_disk_is_not_retried_and_an_overload_is() {
        check(Error::Cluster(cluster::Error::NoSpace { free_bytes: 0 }), "InsufficientStorage", 507);
        check(Error::Cluster(cluster::Error::Busy), "SlowDown", 503);
        let busy = blobs::Error::Body(std::sync::Arc::new(BodyError::Busy));
        check(Error::Blobs(busy), "SlowDown", 503);
        let bad = blobs::Error::Body(std::sync::Arc::new(BodyError::BadDigest("CRC32")));
        check(Error::Blobs(bad), "BadDigest", 400);
    }

    #[test]
    fn a_delete_marker_is_told_in_headers() {
        let version = holdfast_core::id::VersionId::Null;
        let out = to_s3(&Error::DeleteMarker { version, modified_ms: 0, named: true }, RequestId::default());
        let headers = out.headers().unwrap();
        assert_eq!(out.status_code(), Some(StatusCode::METHOD_NOT_ALLOWED));
        assert_eq!(headers["x-amz-delete-marker"], "true");
        assert_eq!(headers["x-amz-version-id"], "null");
        assert_eq!(headers["allow"], "DELETE");
        check(Error::DeleteMarker { version, modified_ms: 0, named: false }, "NoSuchKey", 404);
    }
}
