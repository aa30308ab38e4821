//! Why a round of a job failed.

use std::error::Error as StdError;
use std::sync::Arc;

use holdfast_core::error::Error as Refusal;
use holdfast_core::state::Stop;

use crate::{backend, blobs};

/// What to do about a failed round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The work is old news: look again.
    Changed,
    /// Later.
    Unavailable,
    /// Stored bytes are damaged: an operator must act.
    Corrupt,
    /// The node is broken and must stop.
    Internal,
}

/// Why a round failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Bytes could not be read or stored.
    #[error("blobs")]
    Blobs(#[from] blobs::Error),
    /// The backend failed.
    #[error("the backend failed to {doing}")]
    Backend {
        /// What was tried.
        doing: &'static str,
        /// Why not.
        #[source]
        source: backend::Error,
    },
    /// The rules refuse the command.
    #[error("the command was refused")]
    Refused(#[from] Refusal),
    /// The state cannot be read.
    #[error("the state cannot be read")]
    State(#[source] Stop),
    /// The command was not committed, and nothing was done.
    #[error("the command was not committed")]
    NotCommitted(#[source] Arc<dyn StdError + Send + Sync>),
    /// The command may be applied, or not.
    #[error("the outcome of the command is unknown")]
    UnknownOutcome(#[source] Arc<dyn StdError + Send + Sync>),
    /// The joined blob is not what its sources are.
    #[error("the joined blob {path} has checksum {got:08x} where its sources have {wanted:08x}; it is dropped")]
    BadJoin {
        /// Where it was.
        path: String,
        /// CRC-32C of the sources.
        wanted: u32,
        /// CRC-32C of what the backend gave back.
        got: u32,
    },
    /// The process shuts down.
    #[error("the node is stopping")]
    Closed,
}

impl Error {
    /// What to do.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Blobs(error) => match error.kind() {
                blobs::Kind::Changed => Kind::Changed,
                blobs::Kind::Corrupt => Kind::Corrupt,
                blobs::Kind::Busy | blobs::Kind::Unavailable | blobs::Kind::Invalid => Kind::Unavailable,
                blobs::Kind::Internal => Kind::Internal,
            },
            Self::Refused(_) => Kind::Changed,
            Self::Backend { .. } | Self::NotCommitted(_) | Self::UnknownOutcome(_) | Self::Closed => Kind::Unavailable,
            Self::BadJoin { .. } => Kind::Corrupt,
            Self::State(_) => Kind::Internal,
        }
    }
}

impl From<Stop> for Error {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Refused(refusal) => Self::Refused(refusal),
            stop => Self::State(stop),
        }
    }
}
