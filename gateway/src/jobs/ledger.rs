//! What jobs need of the cluster.

use std::sync::Arc;

use async_trait::async_trait;
use holdfast_core::command::Reply;
use holdfast_core::effect::Effect;
use holdfast_core::id::Revision;
use holdfast_core::rules::authorize::AuthorizedOp;
use tokio::sync::broadcast;
use tokio::time::Instant;

use super::Error;
use crate::blobs::Facts;

/// Hints, in the order of the commands that gave them.
pub type Effects = Arc<[Effect]>;

/// The replicated state, as jobs use it.
#[async_trait]
pub trait Ledger: Facts {
    /// Commits a command and gives its reply, refusals too.
    ///
    /// # Errors
    /// [`Error::NotCommitted`] when nothing was done, [`Error::UnknownOutcome`].
    async fn commit(&self, op: AuthorizedOp, deadline: Instant) -> Result<Reply, Error>;

    /// Hints from now on; some may be lost.
    fn effects(&self) -> broadcast::Receiver<Effects>;

    /// Whether this node leads: only then jobs work.
    fn leads(&self) -> bool;

    /// Revision up to which a recovery from the backend would get: what was condemned later may be needed again.
    fn archived(&self) -> Revision;
}
