//! What can go wrong between a body and the backend, and what a caller can do about it.

use std::error::Error as StdError;
use std::sync::Arc;

use holdfast_core::error::Error as Refusal;
use holdfast_core::id::BlobId;
use holdfast_core::state::Stop;

use crate::backend;

/// A caller's one question: what now?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The request can never work as it is; [`Error::body`] may tell more.
    Invalid,
    /// What was to be read is not there any more: look it up again.
    Changed,
    /// Again, later.
    Busy,
    /// The backend cannot be reached, is full, or took too long.
    Unavailable,
    /// Stored bytes are damaged or missing: an operator must act.
    Corrupt,
    /// This node is broken and must stop.
    Internal,
}

/// Why bytes could not be stored or read. Cheap to clone: many readers may wait for one fetch.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The body that was to be stored failed before its verified end. Nothing was stored.
    #[error("the body failed before its end")]
    Body(#[source] Arc<dyn StdError + Send + Sync>),
    /// The body has another length than declared. Nothing was stored.
    #[error("the body has {got} bytes, {declared} were declared")]
    Length {
        /// Declared bytes.
        declared: u64,
        /// Bytes seen.
        got: u64,
    },
    /// The backend failed.
    #[error("the backend failed to {doing} blob {blob}")]
    Backend {
        /// What was tried.
        doing: &'static str,
        /// On which blob.
        blob: BlobId,
        /// Why not.
        #[source]
        source: Arc<backend::Error>,
    },
    /// The backend failed with a run of an index.
    #[error("the backend failed to {doing} the run {path}")]
    Run {
        /// What was tried.
        doing: &'static str,
        /// Name of its file.
        path: String,
        /// Why not.
        #[source]
        source: Arc<backend::Error>,
    },
    /// The rules refuse the read: the range passes the end, or the bytes went since the version was found.
    #[error("refused")]
    Refused(#[source] Refusal),
    /// The state cannot be read.
    #[error("the state cannot be read")]
    State(#[source] Arc<Stop>),
    /// A block of a blob does not have its checksum.
    #[error("block {block} of blob {blob} is damaged: its checksum is {got:08x}, not {wanted:08x}")]
    Damaged {
        /// The blob.
        blob: BlobId,
        /// Which block of 128 KiB.
        block: u64,
        /// CRC-32C in the table.
        wanted: u32,
        /// CRC-32C of what came.
        got: u32,
    },
    /// The table and the backend do not agree about a blob.
    #[error("blob {blob} {what}")]
    Mismatch {
        /// The blob.
        blob: BlobId,
        /// How.
        what: &'static str,
    },
    /// A task of this module ended early: the process shuts down.
    #[error("the store of blobs is closing")]
    Closed,
}

impl Error {
    /// What the caller can do.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Body(_) | Self::Length { .. } => Kind::Invalid,
            Self::Refused(Refusal::Changed) => Kind::Changed,
            Self::Refused(_) => Kind::Invalid,
            Self::Backend { source, .. } | Self::Run { source, .. } => backend_kind(source),
            Self::State(_) => Kind::Internal,
            Self::Damaged { .. } | Self::Mismatch { .. } => Kind::Corrupt,
            Self::Closed => Kind::Unavailable,
        }
    }

    /// The body's own error, when it failed and its error is of this type.
    #[must_use]
    pub fn body<E: StdError + 'static>(&self) -> Option<&E> {
        match self {
            Self::Body(source) => source.downcast_ref(),
            _ => None,
        }
    }

    /// Whether the backend is full: reads and deletes go on.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        matches!(self, Self::Backend { source, .. } | Self::Run { source, .. } if source.is_no_space())
    }

    pub(super) fn backend(doing: &'static str, blob: BlobId, error: backend::Error) -> Self {
        match error {
            backend::Error::Body { source, .. } => Self::Body(Arc::from(source)),
            backend::Error::LengthMismatch { declared, got, .. } => Self::Length { declared, got },
            other => Self::Backend { doing, blob, source: Arc::new(other) },
        }
    }
}

/// A blob that the table has is never "not found": that is damage.
fn backend_kind(error: &backend::Error) -> Kind {
    match error.kind() {
        backend::ErrorKind::Busy => Kind::Busy,
        backend::ErrorKind::Denied | backend::ErrorKind::Unavailable => Kind::Unavailable,
        backend::ErrorKind::NotFound | backend::ErrorKind::Corrupt => Kind::Corrupt,
        backend::ErrorKind::Conflict | backend::ErrorKind::Invalid | backend::ErrorKind::Internal => Kind::Internal,
    }
}

impl From<Stop> for Error {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Refused(refusal) => Self::Refused(refusal),
            stop => Self::State(Arc::new(stop)),
        }
    }
}
