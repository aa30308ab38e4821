//! What can go wrong in the archive.

use std::sync::Arc;

use holdfast_core::state::Stop;

use crate::{backend, cluster};

/// Why the archive cannot be written, or read back.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The backend failed.
    #[error("cannot {doing} {name}")]
    Backend {
        /// What was tried.
        doing: &'static str,
        /// On which name.
        name: String,
        /// Why not.
        #[source]
        source: Arc<backend::Error>,
    },
    /// The log or state of this node failed.
    #[error("cannot {doing}")]
    Cluster {
        /// What was tried.
        doing: &'static str,
        /// Why not.
        #[source]
        source: cluster::Error,
    },
    /// The state cannot be read.
    #[error("the state cannot be read")]
    State(#[source] Arc<Stop>),
    /// A file of the archive is not what it should be.
    #[error("{name} is damaged: {what}")]
    Damaged {
        /// Which.
        name: String,
        /// What is wrong with it.
        what: String,
    },
    /// This node is not the one that may write here.
    #[error("{0}")]
    Foreign(String),
    /// The table of versions cannot be encoded.
    #[error("the table of versions cannot be encoded")]
    Table(#[source] Arc<parquet::errors::ParquetError>),
    /// What is archived does not suffice.
    #[error("{0}")]
    Incomplete(String),
}

/// A caller's one question: what now?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Again, later.
    Unavailable,
    /// Stored bytes are damaged or missing: an operator must act.
    Corrupt,
    /// This node must stop.
    Conflict,
    /// This node is broken.
    Internal,
}

impl Error {
    /// What the caller can do.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Backend { .. } => Kind::Unavailable,
            Self::Damaged { .. } | Self::Incomplete(_) => Kind::Corrupt,
            Self::Foreign(_) => Kind::Conflict,
            Self::Cluster { source, .. } => match source.kind() {
                cluster::Kind::Busy | cluster::Kind::Unavailable => Kind::Unavailable,
                cluster::Kind::Corrupt => Kind::Corrupt,
                cluster::Kind::Invalid | cluster::Kind::Internal => Kind::Internal,
            },
            Self::State(_) | Self::Table(_) => Kind::Internal,
        }
    }
}

impl Error {
    /// Whether the store is full.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        matches!(self, Self::Backend { source, .. } if source.is_no_space())
    }
}

impl From<Stop> for Error {
    fn from(stop: Stop) -> Self {
        Self::State(Arc::new(stop))
    }
}

impl From<parquet::errors::ParquetError> for Error {
    fn from(error: parquet::errors::ParquetError) -> Self {
        Self::Table(Arc::new(error))
    }
}
