//! What can become of a request, and what a refusal means.

use http::{HeaderMap, StatusCode};

use crate::error::{Errno, errno_of_client};

/// Why, of any kind.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why a request was not done, or may not have been.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A gateway refused.
    #[error("{status} {code}: {message} (request {request_id})")]
    Refused {
        /// HTTP status.
        status: u16,
        /// Code of the error.
        code: String,
        /// Its text.
        message: String,
        /// To find it in the gateway's log.
        request_id: String,
    },
    /// It is about a state that is no more: another generation of a file, another object behind a name.
    #[error("the file has changed meanwhile")]
    Changed,
    /// No such key, version or bucket.
    #[error("{code}: {message}")]
    NotFound {
        /// Code of the error.
        code: String,
        /// Its text.
        message: String,
    },
    /// No gateway could be connected to.
    #[error("cannot reach {endpoint}")]
    Unreachable {
        /// The last that was tried.
        endpoint: String,
        /// Why.
        #[source]
        source: Cause,
    },
    /// It was sent and not answered, or answered with 5xx: it was done, or not.
    #[error("no answer from {endpoint}: what was asked may have been done, or not")]
    Unavailable {
        /// The last that was asked.
        endpoint: String,
        /// HTTP status, if any.
        status: Option<u16>,
        /// Why.
        #[source]
        source: Cause,
    },
    /// The gateway has no mount protocol.
    #[error(
        "the gateway at {endpoint} is too old for this mount: it does not speak the mount protocol, or is no Holdfast"
    )]
    TooOld {
        /// Which.
        endpoint: String,
    },
    /// The keys are not known, or may not do this.
    #[error("access denied: {code}: {message} (request {request_id})")]
    Denied {
        /// Code of the error.
        code: String,
        /// Its text.
        message: String,
        /// To find it in the gateway's log.
        request_id: String,
    },
    /// There are no keys to sign with, for now or at all.
    #[error("no credentials")]
    Credentials {
        /// Why.
        #[source]
        source: Cause,
    },
    /// A setting cannot be used.
    #[error("{what}")]
    Setting {
        /// What is wrong.
        what: String,
    },
    /// The request cannot be sent as it is.
    #[error("the request cannot be sent: {what}")]
    Request {
        /// What is wrong.
        what: String,
    },
    /// The answer is none to what was asked.
    #[error("{endpoint} gave {what}")]
    Form {
        /// Which.
        endpoint: String,
        /// What it gave.
        what: String,
    },
}

impl Error {
    /// An answer of another kind than the question's.
    #[must_use]
    pub fn unexpected() -> Self {
        Self::Form { endpoint: "the gateway".to_owned(), what: "an answer to another question".to_owned() }
    }

    /// What an answer that is no success means.
    #[must_use]
    pub fn of_answer(endpoint: &str, status: u16, code: &str, message: &str, request_id: &str) -> Self {
        let endpoint = endpoint.to_owned();
        let (code, message, request_id) = (code.to_owned(), message.to_owned(), request_id.to_owned());
        match (status, code.as_str()) {
            (409, "ConditionalRequestConflict") | (412, "PreconditionFailed") => Self::Changed,
            (404, "NoSuchEndpoint") | (501, _) => Self::TooOld { endpoint },
            (404, "NoSuchKey" | "NoSuchVersion" | "NoSuchBucket") => Self::NotFound { code, message },
            (401 | 403, _) => Self::Denied { code, message, request_id },
            (408 | 429 | 500 | 502 | 503 | 504, _) => {
                let source = format!("{status} {code}: {message} (request {request_id})").into();
                Self::Unavailable { endpoint, status: Some(status), source }
            }
            _ => Self::Refused { status, code, message, request_id },
        }
    }

    /// The number that a process reads.
    #[must_use]
    pub fn errno(&self) -> Errno {
        errno_of_client(self)
    }

    /// Whether the same may be done when it is asked again, as it is: nobody has refused.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Unavailable { .. } | Self::Credentials { .. })
    }

    /// Whether the session of the mount has ended: it is opened again.
    #[must_use]
    pub fn is_session_lost(&self) -> bool {
        self.is_refused_as(&["NoSuchLease", "NoSuchMount"])
    }

    /// Whether the number of a commit is another's by now.
    #[must_use]
    pub fn is_superseded(&self) -> bool {
        self.is_refused_as(&["Expired"])
    }

    /// Whether another has what this mount held.
    #[must_use]
    pub fn is_fenced(&self) -> bool {
        self.is_refused_as(&["FencingTokenStale"])
    }

    /// Whether the upload, or a part of it, is gone.
    #[must_use]
    pub fn is_staging_lost(&self) -> bool {
        self.is_refused_as(&["NoSuchUpload", "InvalidPart"])
    }

    /// Whether another holds the lock.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.is_refused_as(&["LockHeld"])
    }

    /// Whether the feed does not go back as far as was asked.
    #[must_use]
    pub fn is_compacted(&self) -> bool {
        self.is_refused_as(&["Compacted"])
    }

    fn is_refused_as(&self, codes: &[&str]) -> bool {
        matches!(self, Self::Refused { code, .. } if codes.contains(&code.as_str()))
    }

    /// Whether the gateway tried and failed.
    pub(super) fn is_failure(&self) -> bool {
        matches!(self, Self::Unavailable { status: Some(500), .. })
    }

    /// A failure that is not tried again.
    pub(super) fn given_up(self) -> Self {
        match self {
            Self::Unavailable { status: Some(status), source, .. } => Self::Refused {
                status,
                code: "InternalError".to_owned(),
                message: source.to_string(),
                request_id: String::new(),
            },
            other => other,
        }
    }

    /// What an answer means: JSON on our own paths, XML on those of S3.
    pub(super) fn of_reply(endpoint: &str, own: bool, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Self {
        let document = Document::of(body);
        // Another S3 server takes our path for a bucket.
        if own && document.is_none() && matches!(status.as_u16(), 400 | 404 | 405) {
            return Self::TooOld { endpoint: endpoint.to_owned() };
        }
        let text = String::from_utf8_lossy(body);
        let document = document.unwrap_or_else(|| Document {
            code: element(&text, "Code").unwrap_or_default(),
            message: element(&text, "Message").unwrap_or_default(),
        });
        let request_id = headers.get("x-amz-request-id").and_then(|id| id.to_str().ok()).unwrap_or("unknown");
        Self::of_answer(endpoint, status.as_u16(), &document.code, &document.message, request_id)
    }
}

/// Whether new keys may help.
pub(super) fn is_of_keys(code: &str) -> bool {
    matches!(code, "ExpiredToken" | "InvalidToken" | "InvalidAccessKeyId" | "SignatureDoesNotMatch")
}

struct Document {
    code: String,
    message: String,
}

impl Document {
    fn of(body: &[u8]) -> Option<Self> {
        let json: serde_json::Value = serde_json::from_slice(body).ok()?;
        let text = |name: &str| json[name].as_str().map(str::to_owned);
        Some(Self { code: text("code")?, message: text("message").unwrap_or_default() })
    }
}

/// The text of the first element of a name, in XML whose elements of that name hold only text and have no attributes, as
/// the answers of S3 do.
pub(super) fn element(xml: &str, name: &str) -> Option<String> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    if text.contains('<') {
        return None;
    }
    let plain = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&apos;", "'"), ("&amp;", "&")];
    Some(plain.iter().fold(text.to_owned(), |text, (entity, plain)| text.replace(entity, plain)))
}
