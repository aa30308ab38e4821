//! Blobs: immutable bytes, from a verified body to the backend, and back, verified again.
//!
//! ```text
//! write:  body ─▶ small? ─▶ collected, travels in the command        Written ─▶ caller proposes ─▶ dropped
//!                 └ big ──▶ backend.put under a name never used ─▶   (not collected while it lives)
//! read:   Found ─▶ plan: extents, rows, checksums ─▶ open: inline | cache | backend ─▶ verified pieces
//! ```
//!
//! Promises:
//! - What [`Blobs::write`] returns is durable and verified to its end; nothing is visible before the command is applied.
//! - No byte leaves [`Blobs::open`] before the checksum of its block of 128 KiB was found right. A body that cannot be
//!   delivered whole ends with an error, never early.
//! - A blob is not deleted while a read that may need it runs on this node ([`Readers`]), nor while its upload or the
//!   command that brings it in runs ([`InFlight`]).
//! - [`runs`] of indexes lie in the same backend and are held back for readers in the same way.
//! - A read holds no view of the state while it streams, and a bounded number of bytes ([`read::AHEAD_BYTES`]).
//!
//! Absent: packs, envelopes, other locations than inline and path (the core refuses rows that have them).

pub mod cache;
pub mod compact;
mod error;
mod guard;
pub mod read;
pub mod runs;
pub mod write;

use std::fmt;
use std::sync::Arc;

use holdfast_core::id::{BlobId, Revision};
use holdfast_core::kv::KvRead;
use holdfast_core::view::View;
use tokio_util::task::TaskTracker;

pub use self::cache::{Cache, CacheStats};
pub use self::error::{Error, Kind};
pub use self::guard::{Busy, InFlight, InFlightGuard, ReadGuard, Readers};
pub use self::read::{BodyStream, ReadPlan};
pub use self::runs::Runs;
pub use self::write::{Incoming, Verified, WriteOptions, Written};
use crate::backend::Backend;
use crate::clock::now_ms;

/// The facts that this node has applied, without asking anyone.
pub trait Facts: Send + Sync + 'static {
    /// The state of now on this node; it may lag behind other nodes. When there is none, its reads fail.
    fn local(&self) -> LocalState;
}

/// One state of this node. Short-lived: it pins old rows.
pub struct LocalState {
    rows: Box<dyn KvRead>,
    revision: Revision,
}

impl LocalState {
    /// The state that `rows` hold, which is that of `revision`.
    #[must_use]
    pub fn new(rows: impl KvRead + 'static, revision: Revision) -> Self {
        Self { rows: Box::new(rows), revision }
    }

    /// Its revision.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The view.
    #[must_use]
    pub fn view(&self) -> View<'_> {
        View::new(self.rows.as_ref(), self.revision)
    }
}

/// How blobs are kept.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Bytes of hot blobs in memory.
    pub cache_bytes: u64,
    /// The cluster's generation, part of each blob id.
    pub generation: u32,
}

/// The store of blobs. Clones share it.
#[derive(Clone)]
pub struct Blobs {
    shared: Arc<Shared>,
}

struct Shared {
    backend: Arc<dyn Backend>,
    facts: Arc<dyn Facts>,
    settings: Settings,
    cache: Cache,
    runs: Runs,
    readers: Readers,
    in_flight: InFlight,
    busy: Busy,
    /// Clean-up and read-ahead.
    tasks: TaskTracker,
}

impl fmt::Debug for Blobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blobs").field("backend", &self.shared.backend).finish_non_exhaustive()
    }
}

impl Blobs {
    /// Blobs in `backend`, whose rows are `facts`.
    #[must_use]
    pub fn new(backend: Arc<dyn Backend>, facts: Arc<dyn Facts>, settings: Settings) -> Self {
        let shared = Shared {
            runs: Runs::new(Arc::clone(&backend)),
            backend,
            facts,
            settings,
            cache: Cache::new(settings.cache_bytes),
            readers: Readers::default(),
            in_flight: InFlight::default(),
            busy: Busy::default(),
            tasks: TaskTracker::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// An id that no other blob has; also the random part of version ids.
    #[must_use]
    pub fn mint(&self) -> BlobId {
        BlobId::new(self.shared.settings.generation, now_ms(), rand::random())
    }

    /// The store of the bytes.
    #[must_use]
    pub fn backend(&self) -> &Arc<dyn Backend> {
        &self.shared.backend
    }

    /// The cluster's generation.
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.shared.settings.generation
    }

    /// Reads that are running.
    #[must_use]
    pub fn readers(&self) -> &Readers {
        &self.shared.readers
    }

    /// Uploads that are running.
    #[must_use]
    pub fn in_flight(&self) -> &InFlight {
        &self.shared.in_flight
    }

    /// Whether clients move bytes now; jobs wait for quiet.
    #[must_use]
    pub fn busy(&self) -> &Busy {
        &self.shared.busy
    }

    /// Runs of indexes.
    #[must_use]
    pub fn runs(&self) -> &Runs {
        &self.shared.runs
    }

    /// Counters of the cache, for metrics.
    #[must_use]
    pub fn cache_stats(&self) -> CacheStats {
        self.shared.cache.stats()
    }

    /// Drops what the cache holds of a blob that was deleted.
    pub async fn forget(&self, blob: BlobId) {
        self.shared.cache.forget(blob).await;
    }

    /// Waits for clean-up that runs in the background. Nothing is written after it.
    pub async fn close(&self) {
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }
}

#[cfg(test)]
pub(crate) mod tests;
