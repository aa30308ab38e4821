//! Work that nobody waits for: queues of the state that are drained, and the sweep for what no row knows.
//!
//! ```text
//! effect or timer ─▶ round: look at a local view ─▶ move bytes ─▶ commit a command that drains the rows
//! ```
//! Facts are rows: whatever is lost in a crash is still in its queue. A round that is dropped at any point leaves work that
//! the next one finds; a command that the rules refuse is old news. Each job is one task with one round at a time, bounded
//! pages, and a pause after failures.
//!
//! - [`gc`]: bytes of condemned blobs go, when no reader of this node needs them.
//! - [`orphans`]: blobs that no row knows go, when they are old and of this cluster's generation.
//! - [`join`]: a content of many blobs becomes one, when clients are quiet.
//! - [`compact`]: many short extents of a page, which a mount left, become one.
//! - [`digest`]: digests of what was put together without reading it.
//! - [`trim`]: rows whose time is over. [`feed`]: events beyond what is kept.
//! - [`topics`]: messages beyond what their topic keeps.
//! - [`runs`]: entries of large indexes move to runs in the backend, runs are merged, old ones go. Every node opens them.
//! - [`index`]: indexes are built, what waits for them is read, what they lost goes.
//! - `leases`: leases that were not renewed.
//!
//! Absent: schedules, priorities, jobs on a node that does not lead.

pub mod compact;
pub mod digest;
mod error;
pub mod feed;
pub mod gc;
pub mod index;
pub mod join;
mod leases;
mod ledger;
pub mod orphans;
pub mod runs;
pub mod topics;
pub mod trim;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use holdfast_core::command::{Op, Reply};
use holdfast_core::effect::Effect;
use holdfast_core::queue::maintain_permit;
use holdfast_core::rules::authorize::{AuthorizedOp, Caller, Context as AuthContext, Permit};
use holdfast_core::state::Stop;
use holdfast_core::view::View;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::error::{Error, Kind};
pub use self::ledger::{Effects, Ledger};
use crate::blobs::Blobs;

/// How long a command of a job may take.
pub const COMMIT_PATIENCE: Duration = Duration::from_secs(30);
/// Pause after a failed round; doubled each time, up to [`PAUSE_MAX`].
pub const PAUSE_MIN: Duration = Duration::from_secs(1);
/// Longest pause after failed rounds.
pub const PAUSE_MAX: Duration = Duration::from_secs(60);
/// After a hint, so that a burst of changes is one round.
const SETTLE: Duration = Duration::from_millis(100);
/// While another node leads.
const FOLLOWER_PAUSE: Duration = Duration::from_secs(5);

/// How jobs work.
#[derive(Clone, Copy, Debug)]
pub struct JobsConfig {
    /// How old a blob without a row must be before it goes.
    pub orphan_age: Duration,
    /// How often the backend is searched for them.
    pub sweep_every: Duration,
    /// Whether contents of many blobs are joined.
    pub join: bool,
    /// How long clients must have moved no bytes before work that can wait begins.
    pub quiet: Duration,
    /// How long a digest waits for that.
    pub quiet_patience: Duration,
    /// How long a version that a mount wrote to rests before it is read for its digest: it may be written to again soon.
    pub patched_rest: Duration,
    /// How long a condemned blob is kept for reads of other nodes; zero where there are none. A longer read may be cut.
    pub peers_read_max: Duration,
    /// How long events are kept, and how many bytes of them.
    pub events_keep: (Duration, u64),
    /// Bytes of entries of one index in the state; past them they move to a run.
    pub index_head_bytes: u64,
}

impl Default for JobsConfig {
    fn default() -> Self {
        let day = Duration::from_secs(24 * 60 * 60);
        Self {
            orphan_age: day,
            sweep_every: day / 4,
            join: true,
            quiet: Duration::from_secs(1),
            quiet_patience: Duration::from_secs(60),
            patched_rest: Duration::from_secs(60),
            peers_read_max: Duration::ZERO,
            events_keep: (day, 1 << 30),
            index_head_bytes: 32 << 20,
        }
    }
}

/// What jobs did since start, for metrics.
#[derive(Debug, Default)]
pub struct JobStats {
    /// Condemned blobs deleted.
    pub blobs_deleted: AtomicU64,
    /// Orphans deleted.
    pub orphans_deleted: AtomicU64,
    /// Contents joined.
    pub contents_joined: AtomicU64,
    /// Extents that compaction put into fewer.
    pub extents_compacted: AtomicU64,
    /// Digests filled in.
    pub digests_set: AtomicU64,
    /// Objects read for indexes.
    pub objects_indexed: AtomicU64,
    /// Runs of indexes written, merged ones too.
    pub runs_written: AtomicU64,
    /// Objects whose entries left the state for a run.
    pub postings_demoted: AtomicU64,
    /// Runs merged away.
    pub runs_merged: AtomicU64,
    /// Files of runs deleted.
    pub runs_deleted: AtomicU64,
    /// Rows trimmed.
    pub rows_trimmed: AtomicU64,
    /// Rounds that failed.
    pub rounds_failed: AtomicU64,
}

/// The running jobs.
#[derive(Debug)]
pub struct Jobs {
    tasks: TaskTracker,
    stop: CancellationToken,
    stats: Arc<JobStats>,
}

impl Jobs {
    /// Starts all jobs.
    #[must_use]
    pub fn start(blobs: Blobs, ledger: Arc<dyn Ledger>, config: JobsConfig) -> Self {
        let (tasks, stop, stats) = (TaskTracker::new(), CancellationToken::new(), Arc::new(JobStats::default()));
        let context = Context { blobs, ledger, config, stats: Arc::clone(&stats) };
        let jobs = Self { tasks, stop, stats };
        jobs.spawn(&context, gc::Gc::default());
        jobs.spawn(&context, orphans::Sweep::default());
        jobs.spawn(&context, digest::Digest::default());
        jobs.spawn(&context, compact::Compact::default());
        if config.join {
            jobs.spawn(&context, join::Join::default());
        }
        jobs.spawn(&context, trim::Trim);
        jobs.spawn(&context, feed::TrimFeed);
        jobs.spawn(&context, topics::TrimTopics::default());
        jobs.spawn(&context, index::Build::default());
        jobs.spawn(&context, runs::Runs::default());
        let (own, stop) = (context.clone(), jobs.stop.clone());
        jobs.tasks.spawn(async move {
            stop.run_until_cancelled(runs::open::run(own)).await;
        });
        let (own, stop) = (context, jobs.stop.clone());
        jobs.tasks.spawn(async move {
            stop.run_until_cancelled(leases::run(own)).await;
        });
        jobs
    }

    fn spawn<J: Job + 'static>(&self, context: &Context, job: J) {
        let (context, stop) = (context.clone(), self.stop.clone());
        self.tasks.spawn(async move {
            stop.run_until_cancelled(run(job, context)).await;
        });
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> &JobStats {
        &self.stats
    }

    /// Stops all jobs. What they were at is found again by the next start.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// What all jobs work with.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) blobs: Blobs,
    pub(crate) ledger: Arc<dyn Ledger>,
    pub(crate) config: JobsConfig,
    pub(crate) stats: Arc<JobStats>,
}

impl Context {
    /// Looks at the state of now on this node, off the reactor.
    pub(crate) async fn look<T, F>(&self, look: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&View<'_>, &Permit) -> Result<T, Stop> + Send + 'static,
    {
        let ledger = Arc::clone(&self.ledger);
        let looked = tokio::task::spawn_blocking(move || {
            let local = ledger.local();
            let permit = maintain_permit()?;
            Ok::<_, Error>(look(&local.view(), &permit)?)
        });
        looked.await.map_err(|_| Error::Closed)?
    }

    /// Commits a command of a job.
    pub(crate) async fn commit(&self, op: Op) -> Result<Reply, Error> {
        let op = AuthorizedOp::authorize(op, Caller::System, &AuthContext::default())?;
        let reply = self.ledger.commit(op, Instant::now() + COMMIT_PATIENCE).await?;
        Ok(reply.into_result()?)
    }

    /// Whether clients have moved no bytes for a while.
    pub(crate) fn is_quiet(&self) -> bool {
        self.blobs.busy().quiet_for().is_some_and(|quiet| quiet >= self.config.quiet)
    }
}

/// What a round came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Round {
    /// There is more: at once.
    More,
    /// There may be more, later.
    Again(Duration),
    /// Nothing left: at the next hint, or after the job's interval.
    Done,
}

/// A job: one round at a time.
pub(crate) trait Job: Send {
    /// Its name in logs.
    const NAME: &'static str;
    /// How often it looks without a hint.
    const EVERY: Duration;
    /// The hint that wakes it.
    const WAKES_ON: Option<Effect>;

    /// Does a bounded piece of work. May be dropped at any point.
    fn round(&mut self, context: &Context) -> impl Future<Output = Result<Round, Error>> + Send;
}

async fn run<J: Job>(mut job: J, context: Context) {
    let mut effects = context.ledger.effects();
    let mut pause = PAUSE_MIN;
    loop {
        if !context.ledger.leads() {
            sleep(FOLLOWER_PAUSE).await;
            continue;
        }
        let next = match job.round(&context).await {
            Ok(round) => {
                pause = PAUSE_MIN;
                round
            }
            Err(error) => {
                context.stats.rounds_failed.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(
                    job = J::NAME,
                    error = crate::backend::chain(&error),
                    "a round failed and is tried again"
                );
                let jittered = pause.mul_f64(rand::random_range(0.5..1.0));
                pause = (pause * 2).min(PAUSE_MAX);
                Round::Again(jittered)
            }
        };
        match next {
            Round::More => tokio::task::yield_now().await,
            Round::Again(after) => sleep(after).await,
            Round::Done => wait(&mut effects, J::WAKES_ON, J::EVERY).await,
        }
    }
}

/// Waits for a hint, or for the interval to pass.
async fn wait(effects: &mut broadcast::Receiver<Effects>, wakes_on: Option<Effect>, every: Duration) {
    let hinted = async {
        let Some(effect) = wakes_on else { return std::future::pending().await };
        loop {
            match effects.recv().await {
                Ok(some) if some.contains(&effect) => break,
                Ok(_) => {}
                // Some were lost: one of them may have been ours.
                Err(RecvError::Lagged(_)) => break,
                Err(RecvError::Closed) => return std::future::pending().await,
            }
        }
        sleep(SETTLE).await;
    };
    // Past the interval the round runs anyway.
    let _ = tokio::time::timeout(every, hinted).await;
}

#[cfg(test)]
mod tests;
