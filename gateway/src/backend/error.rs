//! What a backend refuses or cannot do.
//!
//! `kind()` answers what the caller should do now; the variant and its fields say what was tried. Two facts have a variant of
//! their own because the gateway acts on them: [`Error::NoSpace`] (reads and deletes go on, writes are refused until space
//! returns) and [`Error::Unknown`] (the write may or may not have happened; never reported as failed or as done).

use std::fmt;
use std::time::Duration;

use super::ObjectPath;

/// A cause from below: the operating system, the S3 client, or the caller's own body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What every call of a backend returns.
pub type Result<T> = std::result::Result<T, Error>;

/// What the caller should do about an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The blob is not there.
    NotFound,
    /// The request can never succeed as it is.
    Invalid,
    /// The backend refuses these credentials or this process.
    Denied,
    /// A condition (create only, or a named version) does not hold.
    Conflict,
    /// The backend asks for less load; try later.
    Busy,
    /// The backend cannot be reached, has no space, or the outcome is unknown.
    Unavailable,
    /// The backend delivered something other than what was stored.
    Corrupt,
    /// This process must not go on writing.
    Internal,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No blob has this name.
    #[error("no blob named {path}")]
    NotFound {
        /// The name that was asked for.
        path: String,
    },
    /// A create-only write found the name taken.
    #[error("blob {path} already exists")]
    Exists {
        /// The name that is taken.
        path: String,
    },
    /// A conditional write named a version that is not the current one.
    #[error("blob {path} has changed since the version in the condition")]
    Changed {
        /// The blob of the condition.
        path: String,
    },
    /// The arguments make no sense.
    #[error("{what}")]
    Invalid {
        /// What is wrong, in words.
        what: String,
    },
    /// A range reaches past the end of the blob.
    #[error("range {start}..{end} is outside of blob {path}")]
    RangeOutside {
        /// The blob.
        path: String,
        /// First byte of the range.
        start: u64,
        /// One past its last byte.
        end: u64,
    },
    /// The caller's body failed before its end; nothing was stored.
    #[error("the body of {path} failed before its end")]
    Body {
        /// The blob that was being written.
        path: String,
        /// The body's own error.
        #[source]
        source: BoxError,
    },
    /// The caller's body was longer or shorter than declared; nothing was stored.
    #[error("the body of {path} has {got} bytes, {declared} were declared")]
    LengthMismatch {
        /// The blob that was being written.
        path: String,
        /// The declared length.
        declared: u64,
        /// Bytes seen until the mismatch was certain.
        got: u64,
    },
    /// The backend refused access.
    #[error("the backend denied {action} {path}")]
    Denied {
        /// What was tried.
        action: &'static str,
        /// On which name.
        path: String,
        /// The refusal.
        #[source]
        source: BoxError,
    },
    /// The clocks of this machine and of the backend differ too much for signed requests.
    #[error("the backend refused {action} {path} because the clocks differ too much")]
    ClockSkew {
        /// What was tried.
        action: &'static str,
        /// On which name.
        path: String,
        /// The refusal.
        #[source]
        source: BoxError,
    },
    /// The backend asked for less load, or a local limit is reached.
    #[error("the backend is too busy for {action} {path}")]
    Busy {
        /// What was tried.
        action: &'static str,
        /// On which name.
        path: String,
        /// How long the backend asked to wait, if it said so.
        retry_after: Option<Duration>,
        /// The refusal.
        #[source]
        source: BoxError,
    },
    /// The backend could not be reached or failed.
    #[error("the backend failed to {action} {path}")]
    Unavailable {
        /// What was tried.
        action: &'static str,
        /// On which name.
        path: String,
        /// The failure.
        #[source]
        source: BoxError,
    },
    /// The caller's deadline, or the limit for a call without progress, passed. Nothing is claimed about a write.
    #[error("{action} {path} did not finish in time")]
    Deadline {
        /// What was tried.
        action: &'static str,
        /// On which name.
        path: String,
    },
    /// A write whose outcome could not be found out.
    #[error("it is unknown whether {action} {path} took place")]
    Unknown {
        /// What was tried.
        action: &'static str,
        /// On which name.
        path: String,
        /// The last failure.
        #[source]
        source: BoxError,
    },
    /// The backend has no space or quota left.
    #[error("the backend has no space left to {action} {path}")]
    NoSpace {
        /// What was tried.
        action: &'static str,
        /// On which name.
        path: String,
        /// The refusal.
        #[source]
        source: BoxError,
    },
    /// The backend ended a blob before the length it promised.
    #[error("blob {path} ended after {got} of {expected} bytes")]
    Truncated {
        /// The blob.
        path: String,
        /// Bytes promised.
        expected: u64,
        /// Bytes delivered.
        got: u64,
    },
    /// A failed fsync: what the disk holds is unknown, so nothing more is written. The process should exit.
    #[error("the store is closed for writes since a failed sync ({cause})")]
    Poisoned {
        /// The sync that failed.
        cause: String,
    },
    /// The backend does not know how to do this.
    #[error("the backend does not support {what}")]
    Unsupported {
        /// The missing ability.
        what: String,
    },
}

impl Error {
    /// What the caller should do now.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::NotFound { .. } => ErrorKind::NotFound,
            Error::Exists { .. } | Error::Changed { .. } => ErrorKind::Conflict,
            Error::Invalid { .. }
            | Error::RangeOutside { .. }
            | Error::Body { .. }
            | Error::LengthMismatch { .. }
            | Error::Unsupported { .. } => ErrorKind::Invalid,
            Error::Denied { .. } | Error::ClockSkew { .. } => ErrorKind::Denied,
            Error::Busy { .. } => ErrorKind::Busy,
            Error::Unavailable { .. } | Error::Deadline { .. } | Error::Unknown { .. } | Error::NoSpace { .. } => {
                ErrorKind::Unavailable
            }
            Error::Truncated { .. } => ErrorKind::Corrupt,
            Error::Poisoned { .. } => ErrorKind::Internal,
        }
    }

    /// Whether the backend is full: reads and deletes still work and writes will, once space returns.
    pub fn is_no_space(&self) -> bool {
        matches!(self, Error::NoSpace { .. })
    }

    /// Whether a write that got this error may still have taken place.
    pub fn is_unknown_outcome(&self) -> bool {
        matches!(self, Error::Unknown { .. } | Error::Deadline { .. })
    }

    pub(crate) fn not_found(path: &ObjectPath) -> Self {
        Error::NotFound { path: path.to_string() }
    }

    pub(crate) fn exists(path: &ObjectPath) -> Self {
        Error::Exists { path: path.to_string() }
    }

    pub(crate) fn invalid(what: impl fmt::Display) -> Self {
        Error::Invalid { what: what.to_string() }
    }

    pub(crate) fn unavailable(action: &'static str, path: impl fmt::Display, source: impl Into<BoxError>) -> Self {
        Error::Unavailable { action, path: path.to_string(), source: source.into() }
    }

    pub(crate) fn deadline(action: &'static str, path: impl fmt::Display) -> Self {
        Error::Deadline { action, path: path.to_string() }
    }
}

/// Prints an error with its whole chain of causes, the way a log line or a finding shows it.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Layers of the S3 client often repeat the text of the layer below.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
