//! The events of an answer. Source: S3 API, "Response" of SelectObjectContent, Appendix "Select Object Content Response".

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use datafusion::common::runtime::SpawnedTask;
use futures::TryStreamExt as _;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::aggregate::Seen;
use super::error::Error;
use super::eval::Row;
use super::open::{Asked, Work};
use super::request::{Format, Stats};
use super::run::{self, Part, Running, write_items};
use crate::sql::Progress;

/// Bytes of records that are sent at once.
const RECORDS_BYTES_MAX: usize = 1 << 20;
/// Bytes of records that are gathered, if they come soon.
const RECORDS_BYTES_ENOUGH: usize = 128 << 10;
/// How often the client hears something.
const TICK: Duration = Duration::from_secs(1);

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Records, cut anywhere.
    Records(Bytes),
    /// Nothing yet; the connection lives.
    Cont,
    /// How far it is.
    Progress(Stats),
    /// What it took.
    Stats(Stats),
    /// All was sent.
    End,
}

/// The client has left.
struct Gone;

/// How a step ends early.
enum Stop {
    Gone,
    Failed(Error),
}

impl From<Gone> for Stop {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Runs the work, and sends its events.
pub(super) async fn deliver(work: Work, progress: Arc<Progress>, sender: mpsc::Sender<Event>) -> Result<(), Error> {
    let Work { asked, mut jobs, processed, threads } = work;
    let mut answer = Answer::new(&asked, progress, processed, sender);
    // Pieces are read while those before are worked on.
    let (feed, mut running) = mpsc::channel(threads);
    // A document is held whole, so there is one at a time.
    let document = asked.request.input.format == Format::JsonDocument;
    let places = Arc::new(Semaphore::new(if document { 1 } else { threads + 2 }));
    let of_tasks = Arc::clone(&asked);
    let feeder = SpawnedTask::spawn(async move {
        while let Ok(place) = Arc::clone(&places).acquire_owned().await {
            let Some(job) = jobs.try_next().await? else { break };
            if feed.send(run::start(Arc::clone(&of_tasks), job, place)).await.is_err() {
                break;
            }
        }
        Ok::<_, Error>(())
    });
    match answer.all(&mut running, feeder).await {
        Err(Stop::Failed(error)) => Err(error),
        // Nobody hears of what happens after the client has left.
        Ok(()) | Err(Stop::Gone) => Ok(()),
    }
}

struct Answer<'a> {
    asked: &'a Asked,
    sender: mpsc::Sender<Event>,
    progress: Arc<Progress>,
    processed: Arc<AtomicU64>,
    returned: u64,
    pending: Vec<u8>,
    seen: Vec<Seen>,
    left: u64,
    tick: Interval,
    quiet: bool,
}

impl<'a> Answer<'a> {
    fn new(asked: &'a Asked, progress: Arc<Progress>, processed: Arc<AtomicU64>, sender: mpsc::Sender<Event>) -> Self {
        let mut tick = tokio::time::interval_at(Instant::now() + TICK, TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let seen = vec![Seen::default(); asked.statement.aggregates.len()];
        let left = asked.statement.limit.unwrap_or(u64::MAX);
        let (pending, quiet) = (Vec::new(), true);
        Self { asked, sender, progress, processed, returned: 0, pending, seen, left, tick, quiet }
    }

    async fn all(
        &mut self,
        running: &mut mpsc::Receiver<Running>,
        feeder: SpawnedTask<Result<(), Error>>,
    ) -> Result<(), Stop> {
        while self.left > 0 {
            let Some(mut task) = self.next(running).await? else {
                feeder.join().await.map_err(|error| panicked(&error))??;
                break;
            };
            while self.left > 0 {
                let Some(part) = self.next(&mut task.parts).await? else {
                    task.task.join().await.map_err(|error| panicked(&error))??;
                    break;
                };
                self.take(part).await?;
            }
        }
        if !self.asked.statement.aggregates.is_empty() && self.left > 0 {
            self.result()?;
        }
        self.flush(0).await?;
        if self.asked.request.progress {
            self.send(Event::Progress(self.stats())).await?;
        }
        self.send(Event::Stats(self.stats())).await?;
        self.send(Event::End).await?;
        Ok(())
    }

    /// The next of what comes; the client hears something meanwhile.
    async fn next<T>(&mut self, receiver: &mut mpsc::Receiver<T>) -> Result<Option<T>, Gone> {
        loop {
            tokio::select! {
                biased;
                next = receiver.recv() => return Ok(next),
                _ = self.tick.tick() => self.on_tick().await?,
            }
        }
    }

    async fn on_tick(&mut self) -> Result<(), Gone> {
        self.flush(0).await?;
        if std::mem::replace(&mut self.quiet, true) {
            self.send(Event::Cont).await?;
        }
        if self.asked.request.progress {
            self.send(Event::Progress(self.stats())).await?;
        }
        Ok(())
    }

    async fn take(&mut self, part: Part) -> Result<(), Stop> {
        for (number, seen) in part.seen.into_iter().enumerate() {
            self.seen[number].merge(&self.asked.statement.aggregates[number], seen)?;
        }
        let mut bytes = part.bytes;
        if self.asked.statement.limit.is_some() {
            let records = part.ends.len() as u64;
            if records > self.left {
                let last = usize::try_from(self.left).ok().and_then(|left| left.checked_sub(1));
                bytes.truncate(last.map_or(0, |last| part.ends[last]));
            }
            self.left -= records.min(self.left);
        }
        if self.pending.is_empty() {
            self.pending = bytes;
        } else {
            self.pending.extend_from_slice(&bytes);
        }
        Ok(self.flush(RECORDS_BYTES_ENOUGH).await?)
    }

    /// Writes the one record of a statement with aggregates.
    fn result(&mut self) -> Result<(), Error> {
        let results =
            self.asked.statement.aggregates.iter().zip(&self.seen).map(|(aggregate, seen)| seen.result(aggregate));
        let results = results.collect::<Result<Vec<_>, _>>()?;
        let row = Row { columns: &[], aggregates: &results };
        write_items(&self.asked.statement, row, &self.asked.request.output, &mut self.pending)
    }

    /// Sends what is pending, when it is more than so much.
    async fn flush(&mut self, enough: usize) -> Result<(), Gone> {
        if self.pending.len() <= enough {
            return Ok(());
        }
        let mut bytes = Bytes::from(std::mem::take(&mut self.pending));
        while !bytes.is_empty() {
            let records = bytes.split_to(bytes.len().min(RECORDS_BYTES_MAX));
            self.returned += records.len() as u64;
            self.send(Event::Records(records)).await?;
        }
        Ok(())
    }

    async fn send(&mut self, event: Event) -> Result<(), Gone> {
        self.quiet = false;
        self.sender.send(event).await.map_err(|_| Gone)
    }

    fn stats(&self) -> Stats {
        Stats {
            scanned: self.progress.bytes_scanned(),
            processed: self.processed.load(Ordering::Relaxed),
            returned: self.returned,
        }
    }
}

fn panicked(error: &tokio::task::JoinError) -> Error {
    tracing::error!(%error, "a task of S3 Select stopped");
    Error::internal("the query failed by a defect of the engine")
}
