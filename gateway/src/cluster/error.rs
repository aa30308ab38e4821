//! What can go wrong in the cluster, and what a caller can do about it.

use std::path::PathBuf;
use std::sync::Arc;

/// A caller's one question: what now?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The request can never work.
    Invalid,
    /// Again, later.
    Busy,
    /// Not now, on this node.
    Unavailable,
    /// Stored bytes are damaged or missing: an operator must act.
    Corrupt,
    /// This node is broken and must stop.
    Internal,
}

/// What went wrong.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Another process has the data directory.
    #[error("the data directory {} is in use by another process", dir.display())]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// A file of the data directory cannot be read or written.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: Arc<std::io::Error>,
    },
    /// The identity file is damaged or does not fit the rest of the directory.
    #[error("{} {what}", path.display())]
    Identity {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        what: String,
    },
    /// The log is damaged elsewhere than at a torn end.
    #[error("the log is damaged: {} at byte {offset}: {what}; acknowledged writes may be lost, so the node does not start: restore this data directory from a copy, or recover it from the backend", path.display())]
    LogDamaged {
        /// The segment.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// What is wrong.
        what: String,
    },
    /// State and log do not fit together.
    #[error("{0}")]
    StateMismatch(String),
    /// The state cannot be opened, read or written.
    #[error("the state in {} failed while {doing}", dir.display())]
    Store {
        /// The store's directory.
        dir: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// Why not.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// A snapshot cannot be written, read or installed.
    #[error("snapshot {}: {what}", path.display())]
    Snapshot {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The disk is too full for anything but what frees space.
    #[error("the disk is full: {free_bytes} bytes are free; only deletes are accepted until space returns")]
    NoSpace {
        /// Bytes free when last looked at.
        free_bytes: u64,
    },
    /// More proposals are in flight than the bounds allow, and none ended before the deadline.
    #[error("too many writes are in flight")]
    Busy,
    /// The command is larger than the log takes.
    #[error("the command has {bytes} bytes, the most is {most}")]
    TooLarge {
        /// Its bytes.
        bytes: usize,
        /// The bound.
        most: usize,
    },
    /// The node has no leader, or is not ready; nothing was done.
    #[error("{0}")]
    Unavailable(String),
    /// A change of the membership that the cluster does not allow as it is now; nothing was done.
    #[error("{0}")]
    Conflict(String),
    /// The command was handed to the log and its fate was not known at the deadline: it may be applied, or not.
    #[error("the outcome is unknown: {0}")]
    UnknownOutcome(String),
    /// This node is broken and must stop.
    #[error("the node must stop: {0}")]
    Fatal(String),
}

impl Error {
    /// What the caller can do.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::TooLarge { .. } | Self::Conflict(_) => Kind::Invalid,
            Self::Busy => Kind::Busy,
            Self::InUse { .. } | Self::NoSpace { .. } | Self::Unavailable(_) | Self::UnknownOutcome(_) => {
                Kind::Unavailable
            }
            Self::Identity { .. } | Self::LogDamaged { .. } | Self::StateMismatch(_) | Self::Snapshot { .. } => {
                Kind::Corrupt
            }
            Self::Io { .. } | Self::Store { .. } | Self::Fatal(_) => Kind::Internal,
        }
    }

    pub(super) fn io(doing: &'static str, path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Io { doing, path: path.into(), source: Arc::new(source) }
    }
}

/// openraft wants `io::Error`; the chain is kept.
impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        std::io::Error::other(error)
    }
}
