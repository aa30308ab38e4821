//! Why a body is refused, in the words of the S3 API.

use std::error::Error as StdErrorTrait;

use s3s::stream::aws_chunked_stream::AwsChunkedStreamError;
use s3s::stream::upload_stream::UploadStreamError;
use s3s::{BodySizeLimitExceeded, S3Error, S3ErrorCode, StdError};

/// The client sent fewer bytes in the window than the floor demands; the gate's body wrapper raises it.
#[derive(Debug, thiserror::Error)]
#[error("the body came slower than {bytes_per_second} bytes per second")]
pub struct BodyTooSlow {
    /// The floor.
    pub bytes_per_second: u64,
}

/// Why a body is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BodyError {
    /// Content-MD5 is not the base64 of 16 bytes.
    #[error("the content-md5 header is not valid")]
    InvalidDigest,
    /// A checksum header's value has the wrong form.
    #[error("the value of the {0} header is not valid")]
    InvalidChecksum(&'static str),
    /// Headers about the body contradict each other.
    #[error("{0}")]
    InvalidRequest(&'static str),
    /// Fewer or more bytes came than declared.
    #[error("the body has {got} bytes where {expected} were declared")]
    Incomplete {
        /// Declared length.
        expected: u64,
        /// Bytes seen.
        got: u64,
    },
    /// The framing of the chunks is broken or ended early.
    #[error("the body's chunked framing is broken or incomplete")]
    Framing,
    /// A declared digest does not match.
    #[error("the {0} you specified did not match what was received")]
    BadDigest(&'static str),
    /// `x-amz-content-sha256` does not match.
    #[error("the x-amz-content-sha256 you specified did not match what was received")]
    Sha256Mismatch,
    /// A declared trailer is missing, or an undeclared checksum came.
    #[error("the trailer does not hold the checksum that x-amz-trailer declared")]
    MalformedTrailer,
    /// A chunk's or trailer's signature is wrong.
    #[error("the signature of a chunk or trailer does not match")]
    SignatureMismatch,
    /// A chunk or the body is larger than allowed.
    #[error("a chunk or the body is larger than allowed")]
    TooLarge,
    /// The client is below the floor.
    #[error("the body came too slowly")]
    TooSlow,
    /// No budget within [`BODY_BUDGET_WAIT`].
    #[error("too many bytes are in flight")]
    Busy,
    /// The connection ended.
    #[error("the connection ended before the body did")]
    Broken(#[source] StdError),
    /// The consumer dropped the stream before its end.
    #[error("the body was not read to its end")]
    Unread,
}

impl BodyError {
    /// The S3 error code and HTTP status.
    #[must_use]
    pub fn code(&self) -> (S3ErrorCode, http::StatusCode) {
        use http::StatusCode as Status;
        match self {
            Self::InvalidDigest => (S3ErrorCode::InvalidDigest, Status::BAD_REQUEST),
            Self::InvalidChecksum(_) | Self::InvalidRequest(_) => (S3ErrorCode::InvalidRequest, Status::BAD_REQUEST),
            Self::Incomplete { .. } | Self::Framing | Self::Broken(_) => {
                (S3ErrorCode::IncompleteBody, Status::BAD_REQUEST)
            }
            Self::BadDigest(_) => (S3ErrorCode::BadDigest, Status::BAD_REQUEST),
            Self::Sha256Mismatch => (S3ErrorCode::Custom("XAmzContentSHA256Mismatch".into()), Status::BAD_REQUEST),
            Self::MalformedTrailer => (S3ErrorCode::Custom("MalformedTrailerError".into()), Status::BAD_REQUEST),
            Self::SignatureMismatch => (S3ErrorCode::SignatureDoesNotMatch, Status::FORBIDDEN),
            Self::TooLarge => (S3ErrorCode::EntityTooLarge, Status::BAD_REQUEST),
            Self::TooSlow => (S3ErrorCode::RequestTimeout, Status::REQUEST_TIMEOUT),
            Self::Busy => (S3ErrorCode::SlowDown, Status::SERVICE_UNAVAILABLE),
            Self::Unread => (S3ErrorCode::InternalError, Status::INTERNAL_SERVER_ERROR),
        }
    }

    /// What an error of the body's source means: the deepest error that we know decides.
    pub(super) fn from_source(error: StdError) -> Self {
        let mut found = None;
        let mut link: Option<&(dyn StdErrorTrait + 'static)> = Some(error.as_ref());
        while let Some(cause) = link {
            found = known_cause(cause).or(found);
            link = cause.source();
        }
        found.unwrap_or(Self::Broken(error))
    }
}

fn known_cause(cause: &(dyn StdErrorTrait + 'static)) -> Option<BodyError> {
    if cause.is::<BodyTooSlow>() {
        return Some(BodyError::TooSlow);
    }
    if cause.is::<BodySizeLimitExceeded>() {
        return Some(BodyError::TooLarge);
    }
    if let Some(chunked) = cause.downcast_ref::<AwsChunkedStreamError>() {
        return match chunked {
            AwsChunkedStreamError::Underlying(_) => None,
            AwsChunkedStreamError::SignatureMismatch => Some(BodyError::SignatureMismatch),
            AwsChunkedStreamError::ChunkMetaTooLarge(..) | AwsChunkedStreamError::ChunkDataTooLarge(..) => {
                Some(BodyError::TooLarge)
            }
            AwsChunkedStreamError::FormatError
            | AwsChunkedStreamError::Incomplete
            | AwsChunkedStreamError::LengthMismatch
            | AwsChunkedStreamError::TrailersTooLarge(..)
            | AwsChunkedStreamError::TooManyTrailerHeaders(..) => Some(BodyError::Framing),
        };
    }
    match cause.downcast_ref::<UploadStreamError>()? {
        UploadStreamError::Underlying(_) => None,
        UploadStreamError::Sha256Mismatch => Some(BodyError::Sha256Mismatch),
        UploadStreamError::LengthMismatch | UploadStreamError::Incomplete => Some(BodyError::Framing),
    }
}

impl From<BodyError> for S3Error {
    fn from(error: BodyError) -> Self {
        let (code, status) = error.code();
        let mut out = S3Error::with_message(code, error.to_string());
        out.set_status_code(status);
        out.set_source(Box::new(error));
        out
    }
}

impl From<BodyError> for std::io::Error {
    fn from(error: BodyError) -> Self {
        Self::new(std::io::ErrorKind::InvalidData, error)
    }
}
