//! The archive: the log and the state of the cluster, kept in the backend so that it can be rebuilt from there alone.
//!
//! ```text
//! applied entries ─▶ ship ─▶ metadata/<generation>/log/<first revision>.log
//! state of now ───▶ checkpoint ─▶ .../checkpoint/rows/<keyspace>/<sha256>.blocks, those that are not there yet
//!                              ─▶ .../checkpoint/<revision>/versions.parquet ─▶ .../manifest/<revision>.json
//! generation ─────▶ fence ─▶ .../heartbeat.json, metadata/cluster.json read back
//! recover: newest valid manifest ─▶ rows ─▶ log segments, applied ─▶ a new data directory of the next generation
//! ```
//! Promises:
//! - in normal work the bucket is at most a second or a segment behind; how far is in [`Archive::status`];
//! - names are written once; a restart or another leader goes on where the bucket ends;
//! - [`Archive::allows`] is false from [`Settings::verified_for`] after the last moment at which this cluster was known to
//!   own the repository, and while more than [`Settings::unshipped_bytes_max`] of log are not archived;
//! - [`Archive::await_shipped`] returns when a revision is in the bucket;
//! - a checkpoint is never in memory as a whole, and no write waits for it.
//!
//! Deliberately absent: encryption, compression of segments, and a decision who leads: only the leader ships, because it
//! says so.

mod checkpoint;
mod document;
mod error;
mod fence;
mod manifest;
mod names;
mod pipe;
mod recover;
mod segment;
mod ship;
#[cfg(test)]
mod tests;
mod versions;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::watch;
use tokio::time::{Duration, Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::error::{Error, Kind};
use self::fence::Fence;
pub use self::manifest::Manifest;
pub use self::recover::{RecoverOptions, Report, Verify, recover};
use crate::backend::Backend;
use crate::cluster::{Admission, Cluster, Identity};

/// Longest time for which a verified generation lets writes be acknowledged.
pub const VERIFIED_FOR: Duration = Duration::from_secs(60);
/// Most bytes of log that may wait for the bucket.
pub const UNSHIPPED_BYTES_MAX: u64 = 256 << 20;
/// Checkpoints kept.
pub const MANIFESTS_KEPT: usize = 3;
/// How often lag and the need of a checkpoint are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long the rest of the log may take at the end.
const LAST_DEADLINE: Duration = Duration::from_secs(5);

/// Bounds and intervals.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How often the generation is verified.
    pub verify_every: Duration,
    /// See [`VERIFIED_FOR`].
    pub verified_for: Duration,
    /// Longest time that an entry waits for others.
    pub ship_every: Duration,
    /// Bytes of entries after which a segment does not wait.
    pub segment_bytes: usize,
    /// See [`UNSHIPPED_BYTES_MAX`].
    pub unshipped_bytes_max: u64,
    /// A checkpoint is due after this many bytes of segments, or as many as the last checkpoint has.
    pub checkpoint_bytes: u64,
    /// A checkpoint is due after this time when anything changed; the longer, the larger the last one was.
    pub checkpoint_every: Duration,
    /// See [`MANIFESTS_KEPT`].
    pub manifests_kept: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            verify_every: Duration::from_secs(20),
            verified_for: VERIFIED_FOR,
            ship_every: Duration::from_millis(500),
            segment_bytes: 4 << 20,
            unshipped_bytes_max: UNSHIPPED_BYTES_MAX,
            checkpoint_bytes: 64 << 20,
            checkpoint_every: Duration::from_secs(60 * 60),
            manifests_kept: MANIFESTS_KEPT,
        }
    }
}

/// Whose archive it is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Owner {
    cluster_id: String,
    cluster: [u8; 16],
    generation: u64,
}

impl Owner {
    fn new(cluster_id: &str, generation: u64) -> Result<Self, Error> {
        let mut cluster = [0; 16];
        let bad = |_| Error::Foreign(format!("{cluster_id:?} is not the id of a cluster"));
        hex::decode_to_slice(cluster_id, &mut cluster).map_err(bad)?;
        Ok(Self { cluster_id: cluster_id.to_owned(), cluster, generation })
    }

    fn of(identity: &Identity) -> Result<Self, Error> {
        Self::new(&identity.cluster_id, identity.generation)
    }
}

/// Where the next segment begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Position {
    next_index: u64,
}

/// How far the archive is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Everything up to here is in the bucket.
    pub shipped: u64,
    /// Revisions that are applied here and not in the bucket.
    pub lag_revisions: u64,
    /// Their bytes in the log.
    pub lag_bytes: u64,
    /// How long the oldest of them has waited.
    pub lag: Duration,
    /// Revision of the newest checkpoint; 0 when there is none.
    pub checkpoint: u64,
    /// Segments shipped since start.
    pub segments: u64,
    /// When the generation was last verified.
    pub verified_ago: Option<Duration>,
    /// What keeps it from working, if anything does.
    pub problem: Option<String>,
}

#[derive(Debug, Default)]
struct Progress {
    position: Option<Position>,
    behind_since: Option<Instant>,
    checkpoint: Checkpointed,
    problem: Option<String>,
}

/// The newest checkpoint.
#[derive(Clone, Copy, Debug, Default)]
struct Checkpointed {
    revision: u64,
    bytes: u64,
    created_ms: u64,
}

struct Inner {
    cluster: Arc<Cluster>,
    backend: Arc<dyn Backend>,
    owner: Owner,
    settings: Settings,
    fence: Arc<Fence>,
    /// Revision through which everything is in the bucket.
    shipped: watch::Sender<u64>,
    /// Revision that somebody waits for.
    wanted: watch::Sender<u64>,
    progress: Mutex<Progress>,
    /// Bytes of segments since the newest checkpoint.
    shipped_bytes: AtomicU64,
    segments: AtomicU64,
    /// The store took the last segment for too much.
    out_of_space: AtomicBool,
    stop: CancellationToken,
}

/// The archive of a running node. Clones share it.
#[derive(Clone)]
pub struct Archive {
    inner: Arc<Inner>,
    tasks: TaskTracker,
}

impl Archive {
    /// Verifies the generation, finds where the bucket ends, and begins to ship.
    ///
    /// # Errors
    /// [`Error::Foreign`] when this node must not write; [`Error::Backend`], [`Error::Damaged`].
    pub async fn start(cluster: Arc<Cluster>, backend: Arc<dyn Backend>, settings: Settings) -> Result<Self, Error> {
        let owner = Owner::of(cluster.identity())?;
        let inner = Arc::new(Inner {
            cluster,
            backend,
            owner,
            settings,
            fence: Arc::new(Fence::new()),
            shipped: watch::Sender::new(0),
            wanted: watch::Sender::new(0),
            progress: Mutex::default(),
            shipped_bytes: AtomicU64::new(0),
            segments: AtomicU64::new(0),
            out_of_space: AtomicBool::new(false),
            stop: CancellationToken::new(),
        });
        // The log is whole in the bucket without a checkpoint; the first one comes after its interval.
        inner.progress().checkpoint.created_ms = crate::clock::now_ms();
        fence::verify(&inner).await?;
        if inner.leads() {
            ship::resume(&inner).await?;
        }
        let archive = Self { inner, tasks: TaskTracker::new() };
        archive.spawn(|inner| async move { fence::run(&inner).await });
        archive.spawn(|inner| async move { ship::run(&inner).await });
        archive.spawn(|inner| async move { inner.watch_lag().await });
        archive.spawn(|inner| async move { inner.keep_checkpoints().await });
        Ok(archive)
    }

    fn spawn<F: Future<Output = ()> + Send + 'static>(&self, work: impl FnOnce(Arc<Inner>) -> F) {
        let (work, stop) = (work(Arc::clone(&self.inner)), self.inner.stop.clone());
        self.tasks.spawn(async move {
            stop.run_until_cancelled(work).await;
        });
    }

    /// Whether a write may be acknowledged now. What only frees space may be longer, on a store that is full.
    ///
    /// # Errors
    /// Why not, for whoever asked.
    pub fn allows(&self, frees_space: bool) -> Result<(), String> {
        self.inner.fence.allows(frees_space, &self.inner.settings)
    }

    /// [`Archive::allows`] for the cluster to ask, which the archive itself holds on to.
    #[must_use]
    pub fn admission(&self) -> Admission {
        let (fence, settings) = (Arc::clone(&self.inner.fence), self.inner.settings);
        Box::new(move |frees_space| fence.allows(frees_space, &settings))
    }

    /// Revision up to which bytes that were freed may be deleted. On a store that is full all of them may: what waits to be
    /// archived would wait for the space that they take.
    #[must_use]
    pub fn may_delete_through(&self) -> u64 {
        if self.inner.out_of_space.load(Ordering::Relaxed) { u64::MAX } else { *self.inner.shipped.borrow() }
    }

    /// Follows the revision through which everything is in the bucket.
    #[must_use]
    pub fn shipped(&self) -> watch::Receiver<u64> {
        self.inner.shipped.subscribe()
    }

    /// Waits until `revision` is in the bucket, and makes that sooner.
    ///
    /// # Errors
    /// When it is not before the deadline.
    pub async fn await_shipped(&self, revision: u64, deadline: Instant) -> Result<(), String> {
        self.inner.wanted.send_if_modified(|wanted| {
            let later = *wanted < revision;
            *wanted = revision.max(*wanted);
            later
        });
        let mut shipped = self.shipped();
        match timeout_at(deadline, shipped.wait_for(|shipped| *shipped >= revision)).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(format!("revision {revision} is not archived yet; it is committed and will be")),
        }
    }

    /// How far the archive is.
    #[must_use]
    pub fn status(&self) -> Status {
        self.inner.status()
    }

    /// Resolves when this node may never write again, with the reason.
    pub async fn superseded(&self) -> String {
        let mut superseded = self.inner.fence.superseded.subscribe();
        match superseded.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            // The sender lives in `self`.
            Err(_) => std::future::pending().await,
        }
    }

    /// Whether this node may never write again.
    #[must_use]
    pub fn is_superseded(&self) -> bool {
        self.inner.fence.superseded.borrow().is_some()
    }

    /// Takes a checkpoint now.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn checkpoint(&self) -> Result<Manifest, Error> {
        ship::take_checkpoint(&self.inner).await
    }

    /// Stops. What is committed and not in the bucket is shipped first, if the bucket takes it soon.
    pub async fn stop(&self) {
        self.inner.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.inner.cluster.hold_log_from(u64::MAX);
        if self.is_superseded() {
            return;
        }
        let rest = tokio::time::timeout(LAST_DEADLINE, self.inner.ship_rest()).await;
        if !matches!(rest, Ok(Ok(()))) {
            tracing::warn!("the end of the log is not archived yet; the next start does it");
        }
    }
}

impl Inner {
    fn leads(&self) -> bool {
        self.cluster.status().leader == Some(self.cluster.identity().node_id)
    }

    /// For good: nothing is written any more.
    fn supersede(&self, reason: String) {
        self.fence.superseded.send_replace(Some(reason));
        self.stop.cancel();
    }

    fn offset(&self) -> u64 {
        self.cluster.revision_offset()
    }

    fn progress(&self) -> std::sync::MutexGuard<'_, Progress> {
        self.progress.lock().expect("only held for a moment")
    }

    fn position(&self) -> Option<Position> {
        self.progress().position
    }

    fn set_position(&self, position: Option<Position>) {
        self.progress().position = position;
    }

    fn set_problem(&self, problem: Option<String>) {
        self.progress().problem = problem;
    }

    fn behind_since(&self, moment: Option<Instant>) {
        let mut progress = self.progress();
        progress.behind_since = match moment {
            // What already waits has waited longer.
            Some(moment) => progress.behind_since.or(Some(moment)),
            None => None,
        };
    }

    fn set_checkpoint(&self, manifest: &Manifest) {
        self.progress().checkpoint =
            Checkpointed { revision: manifest.revision, bytes: manifest.bytes(), created_ms: manifest.created_ms };
        self.shipped_bytes.store(0, Ordering::Relaxed);
    }

    fn shipped_through(&self, revision: u64) {
        self.shipped.send_if_modified(|shipped| {
            let later = *shipped < revision;
            *shipped = revision.max(*shipped);
            later
        });
    }

    /// Bytes of log from `position` on.
    fn unshipped(&self, position: &Position) -> u64 {
        self.cluster.log_bytes_after(position.next_index.checked_sub(1))
    }

    /// Tells the fence how much is not in the bucket.
    fn look_behind(&self) {
        let shipped = *self.shipped.borrow();
        let last_index = (shipped + 1).checked_sub(self.offset() + 1);
        let bytes = if self.leads() { self.cluster.log_bytes_after(last_index) } else { 0 };
        self.fence.unshipped_bytes.store(bytes, Ordering::Relaxed);
    }

    async fn watch_lag(&self) {
        loop {
            self.look_behind();
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn keep_checkpoints(&self) {
        /// Pause after a checkpoint that failed.
        const PAUSE: Duration = Duration::from_secs(30);
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if !self.leads() || !self.is_checkpoint_due() {
                continue;
            }
            if let Err(error) = ship::take_checkpoint(self).await {
                tracing::warn!(error = crate::backend::chain(&error), "a checkpoint failed and is tried again");
                self.set_problem(Some(crate::backend::chain(&error)));
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    fn is_checkpoint_due(&self) -> bool {
        /// A checkpoint of this size is worth one interval.
        const BYTES_PER_INTERVAL: u64 = 256 << 20;
        let bytes = self.shipped_bytes.load(Ordering::Relaxed);
        let last = self.progress().checkpoint;
        if bytes >= self.settings.checkpoint_bytes.max(last.bytes) {
            return true;
        }
        let intervals = u32::try_from(last.bytes / BYTES_PER_INTERVAL).unwrap_or(u32::MAX).saturating_add(1);
        let age = Duration::from_millis(crate::clock::now_ms().saturating_sub(last.created_ms));
        bytes > 0 && last.created_ms > 0 && age >= self.settings.checkpoint_every.saturating_mul(intervals)
    }

    async fn ship_rest(&self) -> Result<(), Error> {
        // What was cut off may have arrived.
        self.set_position(None);
        while self.leads() && *self.shipped.borrow() < self.cluster.status().revision {
            let position = match self.position() {
                Some(position) => position,
                None => ship::resume(self).await?,
            };
            ship::ship(self, position).await?;
        }
        Ok(())
    }

    fn status(&self) -> Status {
        let shipped = *self.shipped.borrow();
        let progress = self.progress();
        let lag_revisions = self.cluster.status().revision.saturating_sub(shipped);
        Status {
            shipped,
            lag_revisions,
            lag_bytes: self.fence.unshipped_bytes.load(Ordering::Relaxed),
            lag: progress.behind_since.filter(|_| lag_revisions > 0).map(|since| since.elapsed()).unwrap_or_default(),
            checkpoint: progress.checkpoint.revision,
            segments: self.segments.load(Ordering::Relaxed),
            verified_ago: self.fence.verified_ago(),
            problem: progress.problem.clone(),
        }
    }
}
