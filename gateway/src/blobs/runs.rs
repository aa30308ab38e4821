//! Runs of indexes in the backend: lookups by range, whole scans for merges, and new runs.
//!
//! ```text
//! lookup: row of the run ─▶ opened before? ─▶ fence blocks, filters in memory ─▶ one range: the block ─▶ entries
//!                           └ no: one range, from the fence blocks to the end ─┘  └ absent: the filter comes to memory
//! ```
//! Promises:
//! - A lookup of one tuple in a run that was opened before is one ranged read of at most a few blocks; none where the filter is
//!   in memory and rules the tuple out. [`RunStats`] counts every read.
//! - Memory: what [`OPEN_BYTES_MAX_ALL`] bounds for runs that are open, and of each search [`RUNS_AT_ONCE`] reads of at most
//!   [`READ_BYTES_MAX`].
//! - Bytes of a run are checked by their checksums before an entry of them is believed. What is damaged or missing, two times
//!   in a row, is told apart from a backend that does not answer: the one is for good.
//!
//! Absent: who may read; which entries are live. The state knows both.

mod scan;
mod write;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use holdfast_core::id::Revision;
use holdfast_core::index::run::{Block, Blocks, Located, Opened, Read, Run, TAIL_BYTES};
use holdfast_core::index::{IndexRun, Interval, RunHit, Seek, read_hit};
use tokio::time::Instant;

pub use self::scan::{Cut, Scanned};
pub use self::write::{NewRun, Sink, WRITE_PATIENCE};
use super::Error;
use crate::backend::{self, Backend, ErrorKind, GetOptions, HeadOptions, ObjectPath};

/// Bytes of fence blocks and filters in memory, of all runs together.
pub const OPEN_BYTES_MAX_ALL: u64 = 128 << 20;
/// Bytes that opening a run reads at most; fence blocks that do not fit come when they are needed.
const OPEN_BYTES_MAX: u64 = 4 << 20;
/// Bytes of neighbouring blocks that are read at once.
pub const READ_BYTES_MAX: u64 = 1 << 20;
/// Runs of one search that are read at a time.
pub const RUNS_AT_ONCE: usize = 8;
/// Reads of one search; what needs more is answered by a scan.
pub const READS_MAX: usize = 2_000;
/// How long one read may take.
const READ_PATIENCE: Duration = Duration::from_secs(30);
/// Blocks that are decoded without leaving the reactor.
const BLOCKS_INLINE_MAX: usize = 4;

/// Counters since start, and sizes of now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunStats {
    /// Ranges read for lookups.
    pub reads: u64,
    /// Their bytes.
    pub read_bytes: u64,
    /// Of the ranges, those that opened a run.
    pub opened: u64,
    /// Runs that were damaged or missing, by searches and by jobs.
    pub lost: u64,
    /// Bytes of fence blocks and filters in memory, roughly.
    pub memory_bytes: u64,
}

/// Why a run gave no answer.
#[derive(Debug)]
pub enum Failed {
    /// Its file is damaged, missing or another one.
    Lost {
        /// The revision that began the run.
        run: Revision,
        /// What is wrong.
        why: String,
    },
    /// It could not be read now.
    Unavailable(Error),
}

/// What runs hold of a lookup.
#[derive(Debug, PartialEq, Eq)]
pub enum Sought {
    /// Everything.
    Hits(Vec<RunHit>),
    /// More than was to be found, or it takes more than [`READS_MAX`] reads.
    TooMany,
}

/// The runs that this node reads.
pub struct Runs {
    backend: Arc<dyn Backend>,
    open: moka::future::Cache<(Revision, Revision), Arc<Run>>,
    reads: AtomicU64,
    read_bytes: AtomicU64,
    opened: AtomicU64,
    lost: AtomicU64,
}

/// What a search may still find and read.
struct Budget {
    hits: AtomicUsize,
    reads: AtomicUsize,
}

fn spend(from: &AtomicUsize, count: usize) -> bool {
    from.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(count)).is_ok()
}

impl Runs {
    pub(super) fn new(backend: Arc<dyn Backend>) -> Self {
        let weight = |_: &(Revision, Revision), run: &Arc<Run>| {
            u32::try_from(run.memory_bytes()).unwrap_or(u32::MAX).saturating_add(1024)
        };
        let open = moka::future::Cache::builder().max_capacity(OPEN_BYTES_MAX_ALL).weigher(weight).build();
        let [reads, read_bytes, opened, lost] = std::array::from_fn(|_| AtomicU64::new(0));
        Self { backend, open, reads, read_bytes, opened, lost }
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> RunStats {
        RunStats {
            reads: self.reads.load(Ordering::Relaxed),
            read_bytes: self.read_bytes.load(Ordering::Relaxed),
            opened: self.opened.load(Ordering::Relaxed),
            lost: self.lost.load(Ordering::Relaxed),
            memory_bytes: self.open.weighted_size(),
        }
    }

    /// What `runs` of one index hold of `seeks`, at most `hits_max` entries.
    ///
    /// # Errors
    /// [`Failed`].
    pub async fn search(&self, runs: &[IndexRun], seeks: &[Seek], hits_max: usize) -> Result<Sought, Failed> {
        let budget = Budget { hits: AtomicUsize::new(hits_max), reads: AtomicUsize::new(READS_MAX) };
        // A loop: of a closure the compiler cannot tell that its futures are `Send`.
        let mut all = Vec::with_capacity(runs.len());
        for run in runs {
            all.push(self.search_twice(run, seeks, &budget));
        }
        let mut all = stream::iter(all).buffer_unordered(RUNS_AT_ONCE);
        let mut hits = Vec::new();
        while let Some(found) = all.next().await {
            match found? {
                Some(found) => hits.extend(found),
                None => return Ok(Sought::TooMany),
            }
        }
        Ok(Sought::Hits(hits))
    }

    /// A run that seems lost is read once more: one wrong answer of the backend must not cost an index.
    async fn search_twice(
        &self,
        run: &IndexRun,
        seeks: &[Seek],
        budget: &Budget,
    ) -> Result<Option<Vec<RunHit>>, Failed> {
        let found = self.search_one(run, seeks, budget).await;
        let Err(Failed::Lost { why, .. }) = found else { return found };
        tracing::warn!(path = run.row.path, why, "a run seems lost, and is read once more");
        self.forget(run.index, run.revision).await;
        let found = self.search_one(run, seeks, budget).await;
        self.lost.fetch_add(u64::from(matches!(found, Err(Failed::Lost { .. }))), Ordering::Relaxed);
        found
    }

    /// `None` when the budget is spent.
    async fn search_one(&self, run: &IndexRun, seeks: &[Seek], budget: &Budget) -> Result<Option<Vec<RunHit>>, Failed> {
        let mut reader = Reader { runs: self, run, opened: self.opened(run).await?, budget, last: None };
        let mut hits = Vec::new();
        for seek in seeks {
            let Some(found) = reader.seek(seek).await? else { return Ok(None) };
            hits.extend(found);
        }
        Ok(Some(hits))
    }

    /// Opens a run: the next lookup in it is one read.
    ///
    /// # Errors
    /// [`Failed`].
    pub async fn open(&self, run: &IndexRun) -> Result<(), Failed> {
        self.opened(run).await.map(drop)
    }

    /// An open run: from memory, or by one read.
    async fn opened(&self, run: &IndexRun) -> Result<Arc<Run>, Failed> {
        let key = (run.index, run.revision);
        if let Some(opened) = self.open.get(&key).await {
            return Ok(opened);
        }
        let all = run.row.bytes.saturating_sub(run.row.fences_at);
        let wanted = if all <= OPEN_BYTES_MAX { all.max(1) } else { TAIL_BYTES };
        let mut range = run.row.bytes.saturating_sub(wanted)..run.row.bytes;
        let opened = loop {
            let tail = self.read(run, range.clone()).await?;
            self.opened.fetch_add(1, Ordering::Relaxed);
            match Run::open(&tail, run.row.bytes).map_err(|error| lost(run, error))? {
                Opened::Run(opened) => break opened,
                // Each is longer than the one before, up to a bound.
                Opened::More(more) if more.start < range.start => range = more,
                Opened::More(_) => return Err(lost(run, "it asks for bytes that were read")),
            }
        };
        let info = opened.info();
        let of = (info.index, info.revision, info.entries);
        if of != (run.index, run.revision, run.row.entries) {
            return Err(lost(run, format!("it says that it is another one: {of:?}")));
        }
        let opened = Arc::new(*opened);
        self.open.insert(key, Arc::clone(&opened)).await;
        Ok(opened)
    }

    /// A range of a run's file, for a lookup.
    async fn read(&self, run: &IndexRun, range: Range<u64>) -> Result<Bytes, Failed> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.read_bytes.fetch_add(range.end - range.start, Ordering::Relaxed);
        self.fetch(run, range).await
    }

    async fn fetch(&self, run: &IndexRun, range: Range<u64>) -> Result<Bytes, Failed> {
        let failed = |source| failed(run, source);
        let path = ObjectPath::new(&run.row.path).map_err(failed)?;
        let length = range.end - range.start;
        let options = GetOptions { range: Some(range), deadline: Some(Instant::now() + READ_PATIENCE) };
        let fetched = self.backend.get(&path, options).await.map_err(failed)?;
        if fetched.head.length != run.row.bytes {
            return Err(lost(run, format!("it has {} bytes, not {}", fetched.head.length, run.row.bytes)));
        }
        let bytes = fetched.stream.try_fold(BytesMut::new(), |mut bytes, piece| async move {
            bytes.extend_from_slice(&piece);
            Ok(bytes)
        });
        let bytes = bytes.await.map_err(failed)?.freeze();
        if bytes.len() as u64 != length {
            return Err(lost(run, "the backend gave another length than was asked for"));
        }
        Ok(bytes)
    }

    /// Whether the file of a run is there, with its length.
    ///
    /// # Errors
    /// [`Failed::Unavailable`] when that cannot be told.
    pub async fn is_there(&self, run: &IndexRun) -> Result<bool, Failed> {
        let path = ObjectPath::new(&run.row.path).map_err(|source| failed(run, source))?;
        let options = HeadOptions { deadline: Some(Instant::now() + READ_PATIENCE) };
        match self.backend.head(&path, options).await {
            Ok(head) if head.length == run.row.bytes => Ok(true),
            Ok(_) | Err(backend::Error::NotFound { .. }) => {
                self.lost.fetch_add(1, Ordering::Relaxed);
                Ok(false)
            }
            Err(source) => Err(failed(run, source)),
        }
    }

    /// Drops what is in memory of a run whose file was deleted.
    pub async fn forget(&self, index: Revision, run: Revision) {
        self.open.invalidate(&(index, run)).await;
    }
}

/// One search in one run.
struct Reader<'a> {
    runs: &'a Runs,
    run: &'a IndexRun,
    opened: Arc<Run>,
    budget: &'a Budget,
    /// The block that was read last: the next interval often lies in it, too.
    last: Option<(u64, Block)>,
}

impl Reader<'_> {
    async fn seek(&mut self, seek: &Seek) -> Result<Option<Vec<RunHit>>, Failed> {
        let interval = match seek {
            Seek::Subject(subject) => self.opened.interval_of(subject),
            Seek::Interval(interval) => interval.clone(),
        };
        let mut rest = Some(interval.clone());
        let (mut hits, mut unasked) = (Vec::new(), Vec::new());
        while let Some(from) = rest.take() {
            let subject = match seek {
                Seek::Subject(subject) if from == interval => Some(&subject[..]),
                _ => None,
            };
            let Some(blocks) = self.locate(&from, subject).await? else { return Ok(None) };
            unasked.extend(blocks.unasked.iter().cloned());
            for read in blocks.reads(READ_BYTES_MAX) {
                let Some(found) = self.hits_of(&read, &interval).await? else { return Ok(None) };
                hits.extend(found);
            }
            rest = blocks.rest;
        }
        if hits.is_empty() {
            // Their filter would have spared this: the next time it does.
            for filter in unasked {
                self.feed(filter).await?;
            }
        }
        Ok(Some(hits))
    }

    async fn locate(&mut self, interval: &Interval, subject: Option<&[u8]>) -> Result<Option<Blocks>, Failed> {
        loop {
            let located = match subject {
                Some(subject) => self.opened.find(subject),
                None => self.opened.locate(interval),
            };
            match located.map_err(|error| lost(self.run, error))? {
                Located::Blocks(blocks) => return Ok(Some(blocks)),
                Located::Fences(range) => {
                    if !spend(&self.budget.reads, 1) {
                        return Ok(None);
                    }
                    self.feed(range).await?;
                }
            }
        }
    }

    /// Takes fence blocks or a filter to memory.
    async fn feed(&mut self, range: Range<u64>) -> Result<(), Failed> {
        let bytes = self.runs.read(self.run, range.clone()).await?;
        let mut fed = (*self.opened).clone();
        fed.feed(range.start, &bytes).map_err(|error| lost(self.run, error))?;
        self.opened = Arc::new(fed);
        // Of two searches that feed at a time one is lost; a later one feeds that again.
        self.runs.open.insert((self.run.index, self.run.revision), Arc::clone(&self.opened)).await;
        Ok(())
    }

    async fn hits_of(&mut self, read: &Read, interval: &Interval) -> Result<Option<Vec<RunHit>>, Failed> {
        let blocks = match &self.last {
            Some((at, block)) if read.blocks.len() == 1 && read.range.start == *at => vec![block.clone()],
            _ if !spend(&self.budget.reads, 1) => return Ok(None),
            _ => {
                let bytes = self.runs.read(self.run, read.range.clone()).await?;
                decoded(self.run, &self.opened, read, bytes).await?
            }
        };
        let mut hits = Vec::new();
        for entry in blocks.iter().flat_map(|block| block.range(interval)) {
            if !spend(&self.budget.hits, 1) {
                return Ok(None);
            }
            let hit = read_hit(&entry.key, &entry.value);
            hits.push(hit.ok_or_else(|| lost(self.run, "an entry that no index has"))?);
        }
        if let (Some(at), Some(block)) = (read.blocks.last(), blocks.last()) {
            self.last = Some((at.at, block.clone()));
        }
        Ok(Some(hits))
    }
}

/// The blocks of a read; many are decoded off the reactor.
async fn decoded(run: &IndexRun, opened: &Arc<Run>, read: &Read, bytes: Bytes) -> Result<Vec<Block>, Failed> {
    let blocks = if read.blocks.len() <= BLOCKS_INLINE_MAX {
        opened.decode_blocks(read, &bytes)
    } else {
        let (opened, read) = (Arc::clone(opened), read.clone());
        let decoding = tokio::task::spawn_blocking(move || opened.decode_blocks(&read, &bytes));
        decoding.await.map_err(|_| Failed::Unavailable(Error::Closed))?
    };
    blocks.map_err(|error| lost(run, error))
}

fn lost(run: &IndexRun, why: impl ToString) -> Failed {
    Failed::Lost { run: run.revision, why: why.to_string() }
}

/// What a failure of the backend says of a run: a file that the state names is never just "not found".
fn failed(run: &IndexRun, source: backend::Error) -> Failed {
    match source.kind() {
        ErrorKind::NotFound | ErrorKind::Corrupt => lost(run, backend::chain(&source)),
        ErrorKind::Invalid if matches!(source, backend::Error::RangeOutside { .. }) => {
            lost(run, "it is shorter than it was")
        }
        _ => {
            let path = run.row.path.clone();
            Failed::Unavailable(Error::Run { doing: "read", path, source: Arc::new(source) })
        }
    }
}

#[cfg(test)]
mod tests;
