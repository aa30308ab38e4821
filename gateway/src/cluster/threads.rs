//! Where the work of a cluster runs.
//!
//! A node has threads of its own: two for the consensus and the state machine, one that writes the log, one that watches the
//! disk, and what blocks goes to the runtime's pool. A simulation wants the opposite: everything on one thread and in one
//! order, so that a seed repeats a run. Nothing else differs between the two.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};

use super::error::Error;

/// Threads of the consensus: its core, and the state machine beside it.
const CONSENSUS_THREADS: usize = 2;

/// How long the next write and sync of the log take.
pub type Pace = Arc<dyn Fn() -> Duration + Send + Sync>;

/// Where the work of a cluster runs.
#[derive(Clone, Default)]
pub enum Threads {
    /// On threads of its own.
    #[default]
    Own,
    /// On the runtime of whoever opens the cluster, which must have one thread. What blocks blocks it. The log writes and
    /// syncs what has come together after each pause of `Pace`.
    Caller(Pace),
}

impl Threads {
    /// The runtime of the consensus: an own one, or the caller's.
    pub(super) fn consensus(&self) -> std::io::Result<(Option<Runtime>, Handle)> {
        if let Self::Caller(_) = self {
            return Ok((None, Handle::current()));
        }
        let mut builder = Builder::new_multi_thread();
        let runtime = builder.worker_threads(CONSENSUS_THREADS).thread_name("holdfast-raft").enable_all().build()?;
        let handle = runtime.handle().clone();
        Ok((Some(runtime), handle))
    }

    /// Does what blocks.
    ///
    /// # Errors
    /// [`Error::Fatal`] when it panicked.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        match self {
            Self::Own => tokio::task::spawn_blocking(work).await.map_err(|error| Error::Fatal(error.to_string())),
            Self::Caller(_) => Ok(work()),
        }
    }
}
