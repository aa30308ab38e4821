//! What a verb can answer besides its result. Protocols map each variant to their own code in one exhaustive match.

use std::sync::Arc;

use holdfast_core::error::{Error as Refusal, Kind as RefusalKind};
use holdfast_core::id::{Millis, Revision, VersionId};
use holdfast_core::state::Stop;

use crate::{blobs, cluster};

/// A caller's one question: what now?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It is not there.
    NotFound,
    /// The request cannot be right.
    Invalid,
    /// Not allowed.
    Denied,
    /// It does not fit the state.
    Conflict,
    /// Again, later or afresh.
    Busy,
    /// Not now, on this node.
    Unavailable,
    /// Stored bytes are damaged or missing.
    Corrupt,
    /// This node is broken.
    Internal,
}

/// Why a verb has no result.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The rules refuse.
    #[error("refused")]
    Refused(#[source] Refusal),
    /// The reader has it already.
    #[error("not modified")]
    NotModified {
        /// Without quotes.
        etag: String,
        /// Last modified.
        modified_ms: Millis,
        /// What was read.
        revision: Revision,
    },
    /// What was asked for is a delete marker.
    #[error("it is a delete marker")]
    DeleteMarker {
        /// Its version id.
        version: VersionId,
        /// Last modified.
        modified_ms: Millis,
        /// Whether the request named it; else it is the latest, and the key counts as absent.
        named: bool,
    },
    /// The source of a copy names a delete marker.
    #[error("the source is a delete marker")]
    SourceIsDeleteMarker,
    /// The byte range begins past the end.
    #[error("the range is not satisfiable for {size} bytes")]
    RangeNotSatisfiable {
        /// Bytes of the object.
        size: u64,
    },
    /// The object has no such part.
    #[error("the object has no part {number}")]
    NoSuchPart {
        /// As asked for.
        number: u16,
    },
    /// The source of a copy is larger than one copy may move.
    #[error("the source has more than {most} bytes")]
    SourceTooLarge {
        /// The bound.
        most: u64,
    },
    /// The document that was asked for does not exist.
    #[error("the bucket has no such document")]
    NoSuchDocument(holdfast_core::command::Document),
    /// A setting that is specified and not built.
    #[error("{0} is not implemented")]
    NotBuilt(&'static str),
    /// The cluster.
    #[error("the cluster cannot do it")]
    Cluster(#[source] cluster::Error),
    /// The store of blobs.
    #[error("the bytes cannot be moved")]
    Blobs(#[source] blobs::Error),
    /// The state cannot be read.
    #[error("the state cannot be read")]
    State(#[source] Arc<Stop>),
    /// A reply that this operation cannot have.
    #[error("the state machine answered something else")]
    UnexpectedReply,
    /// Writes are not acknowledged now: the archive or the backend holds them back. Nothing was done.
    #[error("writes are held back: {0}")]
    HeldBack(String),
    /// The node is draining.
    #[error("the node is stopping")]
    Stopping,
}

impl Error {
    /// What the caller can do.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Refused(refusal) => match refusal.kind() {
                RefusalKind::NotFound => Kind::NotFound,
                RefusalKind::Invalid => Kind::Invalid,
                RefusalKind::Denied => Kind::Denied,
                RefusalKind::Conflict => Kind::Conflict,
                RefusalKind::Busy => Kind::Busy,
            },
            Self::NotModified { .. } => Kind::Conflict,
            Self::DeleteMarker { .. } | Self::NoSuchPart { .. } | Self::NoSuchDocument(_) => Kind::NotFound,
            Self::SourceIsDeleteMarker
            | Self::RangeNotSatisfiable { .. }
            | Self::SourceTooLarge { .. }
            | Self::NotBuilt(_) => Kind::Invalid,
            Self::Cluster(error) => match error.kind() {
                cluster::Kind::Invalid => Kind::Invalid,
                cluster::Kind::Busy => Kind::Busy,
                cluster::Kind::Unavailable => Kind::Unavailable,
                cluster::Kind::Corrupt => Kind::Corrupt,
                cluster::Kind::Internal => Kind::Internal,
            },
            Self::Blobs(error) => match error.kind() {
                blobs::Kind::Invalid => Kind::Invalid,
                blobs::Kind::Changed | blobs::Kind::Busy => Kind::Busy,
                blobs::Kind::Unavailable => Kind::Unavailable,
                blobs::Kind::Corrupt => Kind::Corrupt,
                blobs::Kind::Internal => Kind::Internal,
            },
            Self::State(_) | Self::UnexpectedReply => Kind::Internal,
            Self::HeldBack(_) | Self::Stopping => Kind::Unavailable,
        }
    }

    /// What was prepared does not fit any more: look again, and prepare it anew.
    #[must_use]
    pub fn is_changed(&self) -> bool {
        match self {
            Self::Refused(refusal) => *refusal == Refusal::Changed,
            Self::Blobs(error) => error.kind() == blobs::Kind::Changed,
            _ => false,
        }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
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

impl From<cluster::Error> for Error {
    fn from(error: cluster::Error) -> Self {
        Self::Cluster(error)
    }
}

impl From<blobs::Error> for Error {
    fn from(error: blobs::Error) -> Self {
        match error {
            blobs::Error::Refused(refusal) => Self::Refused(refusal),
            error => Self::Blobs(error),
        }
    }
}
