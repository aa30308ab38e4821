//! The engine: threads, memory and room on the disk of its own, so that a query never costs the node its leadership.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::execution::TaskContext;
use datafusion::execution::context::SessionState;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use super::ddl::{CreateIndex, DropIndex};
use super::error::{Error, Kind};
use super::in_order::InOrderExec;
use super::plan;
use super::read::{Budget, Progress};
use super::session;
use super::statement::{self, Parsed};
use super::table::Caches;
use crate::repository::Repository;

/// Batches of a result that wait for their reader.
const RESULT_BATCHES_MAX: usize = 4;
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

/// A statement that makes sense.
pub enum Statement {
    /// It asks for rows.
    Query(Query),
    /// It asks the gateway for an index.
    CreateIndex(CreateIndex),
    /// It asks the gateway to drop one.
    DropIndex(DropIndex),
}

/// A query that is planned, and holds its place among those that run.
pub struct Query {
    plan: Arc<dyn ExecutionPlan>,
    context: Arc<TaskContext>,
    revision: u64,
    progress: Arc<Progress>,
    deadline: Instant,
    permit: OwnedSemaphorePermit,
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("limits", &self.shared.limits).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Query {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Query").field("revision", &self.revision).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Statement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Query(query) => query.fmt(f),
            Self::CreateIndex(create) => create.fmt(f),
            Self::DropIndex(remove) => remove.fmt(f),
        }
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
        let memory = session::runtime(&limits).map_err(Error::from)?;
        let shared = Shared {
            session: session::session(&limits, memory).map_err(Error::from)?,
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

    /// Parses one statement. One that asks for rows waits for its turn, and is planned against a view of the repository.
    ///
    /// # Errors
    /// `InvalidSql` and `NotImplemented` for what makes no sense or is not built, `InvalidData` when objects do not hold
    /// what is asked of them, `TooManyQueries` when too many wait already, and those of the repository.
    ///
    /// # Cancel safety
    /// Dropping the future ends the work.
    pub async fn prepare(&self, repository: Arc<dyn Repository>, sql: &str) -> Result<Statement, Error> {
        let deadline = Instant::now() + self.shared.limits.time_max;
        let text = sql.to_owned();
        // Trees are walked by recursion, for which the threads of the engine have the stack.
        let tree = match self.shared.run(deadline, async move { statement::parse(&text) }).await? {
            Parsed::CreateIndex(create) => return Ok(Statement::CreateIndex(create)),
            Parsed::DropIndex(remove) => return Ok(Statement::DropIndex(remove)),
            Parsed::Query(tree) => tree,
        };
        let permit = self.shared.admit(deadline).await?;
        let progress = Arc::new(Progress::default());
        let budget = Budget { progress: Arc::clone(&progress), bytes_max: self.shared.limits.scan_bytes_max };
        let (session, caches) = (self.shared.session.clone(), self.shared.caches.clone());
        let work = plan::plan(session, caches, repository, budget, tree);
        let (plan, context, revision) = self.shared.run(deadline, work).await?;
        let shared = Arc::clone(&self.shared);
        Ok(Statement::Query(Query { plan, context, revision, progress, deadline, permit, shared }))
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
    async fn run<T: Send + 'static>(
        &self,
        deadline: Instant,
        work: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        let (stop, time_max) = (self.stop.clone(), self.limits.time_max);
        let bounded = async move {
            tokio::select! {
                biased;
                () = stop.cancelled() => Err(stopped()),
                done = tokio::time::timeout_at(deadline, work) => done.unwrap_or_else(|_| Err(late(time_max))),
            }
        };
        let task = AbortOnDropHandle::new(self.tasks.spawn_on(bounded, &self.handle));
        task.await.unwrap_or_else(|error| Err(of_task(&error)))
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

impl Query {
    /// Columns of the result.
    #[must_use]
    pub fn schema(&self) -> SchemaRef {
        plain_schema(&self.plan.schema())
    }

    /// The revision that it reads at.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// What it did until now.
    #[must_use]
    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// Runs it. Dropping the stream ends the work.
    #[must_use]
    pub fn run(self) -> BoxStream<'static, Result<RecordBatch, Error>> {
        let (sender, receiver) = mpsc::channel(RESULT_BATCHES_MAX);
        let shared = Arc::clone(&self.shared);
        let work = async move { shared.run(self.deadline, self.deliver(sender)).await };
        // The work runs on threads of its own as soon as the stream is polled, and ends when it is dropped.
        let state = (receiver, Some(Box::pin(work)));
        stream::unfold(state, |(mut receiver, mut work)| async move {
            loop {
                let Some(running) = &mut work else {
                    // What was sent before the end is still to be read.
                    return receiver.recv().await.map(|batch| (Ok(batch), (receiver, work)));
                };
                tokio::select! {
                    biased;
                    Some(batch) = receiver.recv() => return Some((Ok(batch), (receiver, work))),
                    done = running => {
                        work = None;
                        if let Err(error) = done {
                            receiver.close();
                            return Some((Err(error), (receiver, work)));
                        }
                    }
                }
            }
        })
        .boxed()
    }
}

impl Query {
    async fn deliver(self, sender: mpsc::Sender<RecordBatch>) -> Result<(), Error> {
        let plan = match self.plan.output_partitioning().partition_count() {
            1 => Arc::clone(&self.plan),
            _ => InOrderExec::over(Arc::clone(&self.plan), None),
        };
        let schema = self.schema();
        let mut rows = plan.execute(0, Arc::clone(&self.context))?;
        let bytes_max = self.shared.limits.result_bytes_max;
        let mut bytes = 0;
        while let Some(batch) = rows.try_next().await? {
            let batch = plain_batch(&batch, &schema)?;
            bytes += size(&batch)?;
            if bytes > bytes_max {
                let message = format!("the result has more than the {bytes_max} bytes that one may have");
                return Err(Error::new(Kind::Invalid, "ResultTooLarge", message));
            }
            self.progress.add_rows(batch.num_rows());
            if sender.send(batch).await.is_err() {
                return Ok(());
            }
        }
        drop(self.permit);
        Ok(())
    }
}

/// The schema with plain text, where the engine computes with views: not every client knows those.
fn plain_schema(schema: &SchemaRef) -> SchemaRef {
    let fields = schema.fields().iter().map(plain_field);
    Arc::new(Schema::new(fields.collect::<Vec<FieldRef>>()))
}

fn plain_field(field: &FieldRef) -> FieldRef {
    Arc::new(Field::new(field.name(), plain_type(field.data_type()), field.is_nullable()))
}

fn plain_type(kind: &DataType) -> DataType {
    match kind {
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::List(item) => DataType::List(plain_field(item)),
        DataType::LargeList(item) => DataType::LargeList(plain_field(item)),
        DataType::FixedSizeList(item, length) => DataType::FixedSizeList(plain_field(item), *length),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(plain_field).collect()),
        DataType::Map(entries, sorted) => DataType::Map(plain_field(entries), *sorted),
        DataType::Dictionary(_, values) => plain_type(values),
        kind => kind.clone(),
    }
}

fn plain_batch(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, Error> {
    let columns = batch.columns().iter().zip(schema.fields());
    let columns = columns.map(|(column, field)| arrow::compute::cast(column, field.data_type()));
    let columns = columns.collect::<Result<Vec<_>, _>>().map_err(super::of_arrow)?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options).map_err(super::of_arrow)
}

/// Bytes of the rows of a batch, whatever buffers it shares.
fn size(batch: &RecordBatch) -> Result<u64, Error> {
    let mut bytes = 0;
    for column in batch.columns() {
        bytes += column.to_data().get_slice_memory_size().map_err(super::of_arrow)? as u64;
    }
    Ok(bytes)
}
