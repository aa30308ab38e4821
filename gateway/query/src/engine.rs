//! The engine: threads, memory and room on the disk of its own, so that a query never costs the node its leadership.
//!
//! Statements in SQL ([`crate::sql`]) and S3 Select ([`crate::select`]) take turns on it; results cross to the caller through
//! a queue.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use datafusion::execution::context::SessionState;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::sql::{self, Budget, Caches, Error, Kind, Progress};

/// Pieces of a result that wait for their reader.
const RESULT_PIECES_MAX: usize = 4;
/// Stack of a thread: an expression is planned by recursion, whose depth the parser bounds.
const STACK_BYTES: usize = 16 << 20;
/// Threads for work that blocks, such as files of spilled rows.
const BLOCKING_THREADS_MAX: usize = 8;

/// What the queries of one process may use.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Threads.
    pub threads: NonZeroUsize,
    /// Memory of sorts, groups and joins of all queries together.
    pub memory_bytes: usize,
    /// Where rows go that do not fit into memory.
    pub spill_dir: PathBuf,
    /// Bytes of them.
    pub spill_bytes_max: u64,
    /// Memory of what is kept of objects between queries: footers, and columns of samples.
    pub cache_bytes: u64,
    /// Queries that run at once.
    pub concurrent_max: usize,
    /// Queries that wait for their turn; more are refused.
    pub queue_max: usize,
    /// Time of one query, with its wait.
    pub time_max: Duration,
    /// Bytes of objects that one query reads.
    pub scan_bytes_max: u64,
    /// Bytes of the result of one query, as they are in memory.
    pub result_bytes_max: u64,
}

/// Runs queries. One per process.
pub struct Engine {
    shared: Arc<Shared>,
    /// Taken when the engine is dropped.
    threads: Option<tokio::runtime::Runtime>,
}

struct Shared {
    limits: Limits,
    session: SessionState,
    caches: Caches,
    permits: Arc<Semaphore>,
    queued: AtomicUsize,
    stop: CancellationToken,
    tasks: TaskTracker,
    handle: tokio::runtime::Handle,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("limits", &self.shared.limits).finish_non_exhaustive()
    }
}

impl Engine {
    /// Starts the threads.
    ///
    /// # Errors
    /// When threads cannot be started, or rows cannot be spilled to the directory.
    pub fn new(limits: Limits) -> Result<Self, Error> {
        let threads = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(limits.threads.get())
            .max_blocking_threads(BLOCKING_THREADS_MAX)
            .thread_name("holdfast-query")
            .thread_stack_size(STACK_BYTES)
            .enable_all()
            .build()
            .map_err(|error| Error::new(Kind::Internal, "InternalError", format!("no threads: {error}")))?;
        let memory = sql::runtime(&limits).map_err(Error::from)?;
        let shared = Shared {
            session: sql::session(&limits, memory).map_err(Error::from)?,
            caches: Caches::new(limits.cache_bytes),
            permits: Arc::new(Semaphore::new(limits.concurrent_max.max(1))),
            queued: AtomicUsize::new(0),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            handle: threads.handle().clone(),
            limits,
        };
        Ok(Self { shared: Arc::new(shared), threads: Some(threads) })
    }

    /// When a query that is asked for now must have ended.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.shared.limits.time_max
    }

    /// Runs work on the threads of the engine, which have the stack for recursion. Dropping the future ends it.
    pub(crate) async fn run<T: Send + 'static, E: From<Error> + Send + 'static>(
        &self,
        deadline: Instant,
        work: impl Future<Output = Result<T, E>> + Send + 'static,
    ) -> Result<T, E> {
        self.shared.run(deadline, work).await
    }

    /// Waits for a place among the queries that run.
    pub(crate) async fn turn(&self, deadline: Instant) -> Result<Turn, Error> {
        let permit = self.shared.admit(deadline).await?;
        Ok(Turn { shared: Arc::clone(&self.shared), deadline, progress: Arc::default(), _permit: permit })
    }

    /// Queries that run, or are planned.
    #[must_use]
    pub fn running(&self) -> usize {
        self.shared.limits.concurrent_max.max(1) - self.shared.permits.available_permits()
    }

    /// Queries that wait for their turn.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.shared.queued.load(Ordering::Acquire)
    }

    /// Ends all queries; waits until they have, or so long. Whether they have.
    pub async fn shutdown(&self, wait: Duration) -> bool {
        self.shared.stop.cancel();
        self.shared.tasks.close();
        tokio::time::timeout(wait, self.shared.tasks.wait()).await.is_ok()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.shared.stop.cancel();
        if let Some(threads) = self.threads.take() {
            // It may be dropped by a task, where waiting for threads is not allowed.
            threads.shutdown_background();
        }
    }
}

/// Counts a query among those that wait.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Shared {
    /// Waits for a place.
    async fn admit(&self, deadline: Instant) -> Result<OwnedSemaphorePermit, Error> {
        if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
            return Ok(permit);
        }
        let waiting = Waiting(&self.queued);
        if self.queued.fetch_add(1, Ordering::AcqRel) >= self.limits.queue_max {
            return Err(Error::new(
                Kind::Unavailable,
                "TooManyQueries",
                "too many queries wait already: try again later",
            ));
        }
        let permit = tokio::select! {
            () = self.stop.cancelled() => return Err(stopped()),
            permit = tokio::time::timeout_at(deadline, Arc::clone(&self.permits).acquire_owned()) => permit,
        };
        drop(waiting);
        match permit {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) => Err(stopped()),
            Err(_) => Err(late(self.limits.time_max)),
        }
    }

    /// Runs work on the threads of the engine. Dropping the future ends it.
    async fn run<T: Send + 'static, E: From<Error> + Send + 'static>(
        &self,
        deadline: Instant,
        work: impl Future<Output = Result<T, E>> + Send + 'static,
    ) -> Result<T, E> {
        self.spawn(deadline, work).await.unwrap_or_else(|error| Err(of_task(&error).into()))
    }

    fn spawn<T: Send + 'static, E: From<Error> + Send + 'static>(
        &self,
        deadline: Instant,
        work: impl Future<Output = Result<T, E>> + Send + 'static,
    ) -> AbortOnDropHandle<Result<T, E>> {
        let (stop, time_max) = (self.stop.clone(), self.limits.time_max);
        let bounded = async move {
            tokio::select! {
                biased;
                () = stop.cancelled() => Err(stopped().into()),
                done = tokio::time::timeout_at(deadline, work) => done.unwrap_or_else(|_| Err(late(time_max).into())),
            }
        };
        AbortOnDropHandle::new(self.tasks.spawn_on(bounded, &self.handle))
    }
}

/// The place of one query among those that run, until it is dropped.
pub(crate) struct Turn {
    shared: Arc<Shared>,
    deadline: Instant,
    progress: Arc<Progress>,
    _permit: OwnedSemaphorePermit,
}

impl Turn {
    pub(crate) fn limits(&self) -> &Limits {
        &self.shared.limits
    }

    pub(crate) fn session(&self) -> &SessionState {
        &self.shared.session
    }

    pub(crate) fn caches(&self) -> &Caches {
        &self.shared.caches
    }

    pub(crate) fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }

    pub(crate) fn budget(&self) -> Budget {
        Budget { progress: Arc::clone(&self.progress), bytes_max: self.shared.limits.scan_bytes_max }
    }

    /// Runs a part of the query. Dropping the future ends it.
    pub(crate) async fn run<T: Send + 'static, E: From<Error> + Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, E>> + Send + 'static,
    ) -> Result<T, E> {
        self.shared.run(self.deadline, work).await
    }

    /// Runs the rest of the query: what it sends, then how it ended. Its place is free when it ends, at the deadline at the
    /// latest, whether the stream is read or not. Dropping the stream ends it.
    pub(crate) fn stream<T, E, F>(self, work: impl FnOnce(mpsc::Sender<T>) -> F) -> BoxStream<'static, Result<T, E>>
    where
        T: Send + 'static,
        E: From<Error> + Send + 'static,
        F: Future<Output = Result<(), E>> + Send + 'static,
    {
        let (sender, receiver) = mpsc::channel(RESULT_PIECES_MAX);
        let Self { shared, deadline, _permit: permit, .. } = self;
        let work = work(sender);
        let held = async move {
            let done = work.await;
            drop(permit);
            done
        };
        let state = (receiver, Some(shared.spawn(deadline, held)));
        stream::unfold(state, |(mut receiver, mut task)| async move {
            loop {
                let Some(running) = &mut task else {
                    // What was sent before the end is still to be read.
                    return receiver.recv().await.map(|piece| (Ok(piece), (receiver, task)));
                };
                tokio::select! {
                    biased;
                    Some(piece) = receiver.recv() => return Some((Ok(piece), (receiver, task))),
                    done = running => {
                        task = None;
                        if let Err(error) = done.unwrap_or_else(|error| Err(of_task(&error).into())) {
                            receiver.close();
                            return Some((Err(error), (receiver, task)));
                        }
                    }
                }
            }
        })
        .boxed()
    }
}

fn stopped() -> Error {
    Error::new(Kind::Unavailable, "ServiceUnavailable", "the node is stopping")
}

fn late(time_max: Duration) -> Error {
    Error::new(Kind::Invalid, "QueryTimeout", format!("the query took longer than {} s", time_max.as_secs_f64()))
}

/// A task that panicked, or that ended with its engine.
fn of_task(error: &tokio::task::JoinError) -> Error {
    if error.is_cancelled() {
        return stopped();
    }
    tracing::error!(%error, "a query panicked");
    Error::new(Kind::Internal, "InternalError", "the query failed by a defect of the engine")
}
