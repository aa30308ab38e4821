//! The one document that says which cluster a repository belongs to, as the cluster sees it.
//!
//! Nodes that begin a cluster together agree on nothing but this: whoever's create-only put stands has decided who the
//! first voters are. The repository itself is behind [`ClusterClaim`].

use std::sync::Mutex;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

/// Why a document could not be read or written.
pub type ClaimFailure = Box<dyn std::error::Error + Send + Sync>;

/// What the document says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// 32 hexadecimal digits.
    pub cluster_id: String,
    /// Raised by a recovery.
    pub generation: u64,
    /// The first voters; empty when the cluster began as a cluster of one, or was recovered.
    pub voters: Vec<FirstVoter>,
    /// Of whoever wrote it.
    pub nonce: String,
}

/// One of the nodes that begin a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirstVoter {
    /// The node id that it gets.
    pub id: u64,
    /// Its peer listener.
    pub address: String,
    /// Made at its very first start and kept in its directory: a node that was wiped since is another one.
    pub nonce: String,
}

/// Where the document is kept.
#[async_trait]
pub trait ClusterClaim: Send + Sync + 'static {
    /// The document that stands, if any.
    ///
    /// # Errors
    /// When that is not known.
    async fn read(&self) -> Result<Option<Claim>, ClaimFailure>;

    /// Writes the document unless there is one, and returns the one that stands: read back, so that a lost reply and a
    /// lost race look the same.
    ///
    /// # Errors
    /// When it is not known which one stands.
    async fn create(&self, claim: &Claim) -> Result<Claim, ClaimFailure>;
}

/// A document in memory, for clusters that live in one process.
#[derive(Debug, Default)]
pub struct MemoryClaim(Mutex<Option<Claim>>);

#[async_trait]
impl ClusterClaim for MemoryClaim {
    async fn read(&self) -> Result<Option<Claim>, ClaimFailure> {
        Ok(self.0.lock().expect("only held for a moment").clone())
    }

    async fn create(&self, claim: &Claim) -> Result<Claim, ClaimFailure> {
        Ok(self.0.lock().expect("only held for a moment").get_or_insert_with(|| claim.clone()).clone())
    }
}
