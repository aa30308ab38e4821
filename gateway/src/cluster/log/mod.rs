//! The write-ahead log: votes, entries, truncations and purges in one ordered stream, durable by group commit.
//!
//! ```text
//! openraft ── append/vote/truncate/purge ──▶ queue ──▶ writer thread: one frame, one sync, then callbacks in order
//!      ▲                                      │
//!      └── reads: cache of new entries, else the place on disk
//! ```
//! Promises:
//! - nothing is acknowledged before a sync that covers it returned; completions come in order;
//! - an entry is readable when `append` returns; a log has no holes;
//! - after a failed sync or write nothing is accepted any more, and [`Log::failure`] tells the owner to stop the node. The
//!   exception is a full disk: the frame is written again until there is room, and is not acknowledged before;
//! - one frame is at most [`FRAME_BYTES_MAX`]; the caller bounds what is queued (see `space`);
//! - damage other than a torn end is found at start, and the node does not start.
//!
//! The directory holds segments `<number>.wal`, oldest first, and two allocated files that wait to become segments:
//! `spare`, and `reserve`, which only votes, purges and proposals that free space can reach on a full disk (`space`
//! refuses others before). Segments that hold no live entry are recycled or removed after a purge is durable; each
//! segment starts with a checkpoint of the marks, so nothing is lost with the older ones.
//!
//! Deliberately absent: compression, encryption, more than one stream, a sync interval.

pub mod files;
mod open;
mod segment;
mod state;
#[cfg(test)]
mod tests;
mod wal;

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;

use bytes::Bytes;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot, watch};

use self::files::LogFiles;
pub use self::segment::LogOwner;
use self::state::{Done, Found, Item, State};
use self::wal::Writer;
use super::codec;
use super::error::Error;
use super::raft::{Entry, LogId, TypeConfig, Vote};
use super::threads::{Pace, Threads};

/// Most bytes that one sync makes durable.
pub const FRAME_BYTES_MAX: usize = 4 << 20;
/// Default size of a segment.
pub const SEGMENT_BYTES: u64 = 16 << 20;
/// Part of a segment that one command may take: the rest of a segment that is given up is smaller than that.
const COMMAND_SHARE: u64 = 4;

/// Where and how a log is kept.
#[derive(Clone)]
pub struct LogConfig {
    /// Its directory.
    pub dir: PathBuf,
    /// Whose log it is.
    pub owner: LogOwner,
    /// Size of each segment.
    pub segment_bytes: u64,
    /// The file system.
    pub files: Arc<dyn LogFiles>,
    /// Where it is written.
    pub threads: Threads,
}

impl LogConfig {
    /// Most bytes of one command.
    #[must_use]
    pub fn command_bytes_max(&self) -> usize {
        FRAME_BYTES_MAX.min(usize::try_from(self.segment_bytes / COMMAND_SHARE).unwrap_or(usize::MAX))
    }

    /// Most bytes of an entry: what an empty segment takes.
    fn entry_bytes_max(&self) -> usize {
        let heads = segment::HEADER_BYTES + segment::RECORD_HEAD_BYTES + wal::FRAME_OVERHEAD;
        usize::try_from(self.segment_bytes).unwrap_or(usize::MAX).saturating_sub(heads)
    }
}

/// Handle of the log; clones share it.
#[derive(Clone)]
pub struct Log {
    shared: Arc<Shared>,
}

/// Counters and sizes, for metrics and admission.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogStats {
    /// Syncs since start.
    pub syncs: u64,
    /// Entries made durable since start.
    pub entries_synced: u64,
    /// Bytes of all segments, without spare and reserve.
    pub bytes: u64,
    /// Index of the first and last entry.
    pub first_index: Option<u64>,
    /// Index of the last entry.
    pub last_index: Option<u64>,
}

/// What was appended since the last snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Growth {
    pub bytes: u64,
    pub entries: u64,
}

/// Bytes that can be written without asking the file system for space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Room {
    /// For everybody.
    pub common: u64,
    /// With the reserve.
    pub with_reserve: u64,
}

pub(super) struct Shared {
    config: LogConfig,
    state: Mutex<State>,
    /// Wakes the writer.
    work: Condvar,
    syncs: AtomicU64,
    entries_synced: AtomicU64,
    room_common: AtomicU64,
    room_reserve: AtomicU64,
    active_left: AtomicU64,
    /// Number of the next allocated file.
    spares: AtomicU64,
    failure: watch::Sender<Option<String>>,
    writer: Mutex<Option<JoinHandle<()>>>,
    /// The writer where there is no thread for it, and what wakes its task.
    inline: Mutex<Option<Writer>>,
    asked: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of the log's mutex panics")
    }
}

impl Log {
    /// Opens the log of `config`, creating it when its directory is empty, and starts its writer.
    ///
    /// # Errors
    /// [`Error::LogDamaged`] unless the log is whole up to a torn end; [`Error::Io`].
    pub fn open(config: LogConfig) -> Result<Self, Error> {
        let threads = config.threads.clone();
        let (shared, writer) = open::open(config)?;
        if let Threads::Caller(pace) = threads {
            *shared.inline.lock().expect("only held for a moment") = Some(writer);
            // It ends when the log is closed, which takes the writer away.
            Handle::current().spawn(write_at_pace(Arc::clone(&shared), pace));
            return Ok(Self { shared });
        }
        let thread = std::thread::Builder::new()
            .name("holdfast-log".into())
            .spawn(move || writer.run())
            .map_err(|source| Error::io("start the writer of", &shared.config.dir, source))?;
        *shared.writer.lock().expect("only held for a moment") = Some(thread);
        Ok(Self { shared })
    }

    /// Makes a log in an empty directory whose entries up to `purged` are gone from the beginning. Durable when it returns.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn begin_after(config: LogConfig, purged: LogId) -> Result<(), Error> {
        let dir = config.dir.clone();
        let log = Self::open(config)?;
        let begun = log.purge_through(purged);
        log.close();
        let failure = log.failure().borrow().clone();
        let begun = begun.and_then(|()| failure.map_or(Ok(()), |reason| Err(io::Error::other(reason))));
        begun.map_err(|source| Error::io("begin the log in", dir, source))
    }

    fn purge_through(&self, log_id: LogId) -> io::Result<()> {
        let change = |state: &mut State| {
            state.purge(log_id);
            Ok(())
        };
        self.submit(change, |()| vec![Item::Purge(log_id)])
    }

    /// Resolves to the reason when the log has failed.
    #[must_use]
    pub fn failure(&self) -> watch::Receiver<Option<String>> {
        self.shared.failure.subscribe()
    }

    /// Counters and sizes now.
    #[must_use]
    pub fn stats(&self) -> LogStats {
        let state = self.shared.lock();
        LogStats {
            syncs: self.shared.syncs.load(Ordering::Relaxed),
            entries_synced: self.shared.entries_synced.load(Ordering::Relaxed),
            bytes: state.segments.values().map(|segment| segment.bytes).sum(),
            first_index: state.first_place(),
            last_index: state.marks.last.map(|id| id.index),
        }
    }

    pub(super) fn config(&self) -> &LogConfig {
        &self.shared.config
    }

    pub(super) fn room(&self) -> Room {
        let common = self.shared.room_common.load(Ordering::Acquire);
        Room { common, with_reserve: common + self.shared.room_reserve.load(Ordering::Acquire) }
    }

    /// Bytes and number of entries since [`Log::reset_growth`]; at start, of all that are retained.
    pub(super) fn growth(&self) -> Growth {
        self.shared.lock().growth
    }

    pub(super) fn reset_growth(&self) {
        self.shared.lock().growth = Growth::default();
    }

    /// The index up to which to purge so that the segments take at most `keep` bytes, never beyond `snapshot`.
    pub(super) fn purge_candidate(&self, snapshot: u64, keep: u64) -> Option<u64> {
        let state = self.shared.lock();
        let mut bytes: u64 = state.segments.values().map(|segment| segment.bytes).sum();
        let mut candidate = None;
        for segment in state.segments.values().take(state.segments.len().saturating_sub(1)) {
            if bytes <= keep || segment.max_index > Some(snapshot) {
                break;
            }
            bytes -= segment.bytes;
            candidate = candidate.max(segment.max_index);
        }
        candidate.filter(|index| Some(*index) > state.marks.purged.map(|id| id.index))
    }

    /// Log id of the entry at `index`, or of the purge that ended there.
    pub(super) fn log_id_at(&self, index: u64) -> Result<Option<LogId>, Error> {
        if let Some(purged) = self.purged().filter(|id| id.index == index) {
            return Ok(Some(purged));
        }
        let entries = self.read(index, index + 1).map_err(|source| Error::io("read", &self.config().dir, source))?;
        Ok(entries.first().map(|entry| entry.log_id))
    }

    pub(super) fn last(&self) -> Option<LogId> {
        self.shared.lock().marks.last
    }

    pub(super) fn purged(&self) -> Option<LogId> {
        self.shared.lock().marks.purged
    }

    /// Ends the writer after it has made everything queued durable. Blocks.
    pub fn close(&self) {
        self.shared.lock().closing = true;
        self.shared.work.notify_all();
        let inline = self.shared.inline.lock().expect("only held for a moment").take();
        if let Some(writer) = inline {
            writer.run();
            self.shared.asked.notify_one();
        }
        let thread = self.shared.writer.lock().expect("only held for a moment").take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the log's writer panicked");
        }
    }

    /// Queues `items` while `change` makes them visible.
    fn submit<R>(
        &self,
        change: impl FnOnce(&mut State) -> Result<R, String>,
        items: impl FnOnce(R) -> Vec<Item>,
    ) -> io::Result<()> {
        let mut state = self.shared.lock();
        if let Some(reason) = &state.failed {
            return Err(io::Error::other(reason.clone()));
        }
        if state.closing {
            return Err(io::Error::other("the log is closed"));
        }
        let changed = change(&mut state).map_err(io::Error::other)?;
        state.queue.extend(items(changed));
        drop(state);
        match self.shared.config.threads {
            Threads::Own => self.shared.work.notify_one(),
            Threads::Caller(_) => self.shared.asked.notify_one(),
        }
        Ok(())
    }

    /// Bytes of the entries from `index` on that are on disk.
    pub(super) fn bytes_from(&self, index: u64) -> u64 {
        self.shared.lock().bytes_from(index)
    }

    /// Entries of `[from, to)` until they have `bytes_max` bytes; at least one when there is one.
    pub(super) fn read_bounded(&self, from: u64, to: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let found = self.shared.lock().find(from, to).map_err(io::Error::other)?;
        let (mut entries, mut bytes) = (Vec::new(), 0);
        for found in found {
            let entry = load(found)?;
            bytes += codec::entry_bytes(&entry);
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    fn read(&self, from: u64, to: u64) -> io::Result<Vec<Entry>> {
        let found = self.shared.lock().find(from, to).map_err(io::Error::other)?;
        found.into_iter().map(load).collect()
    }
}

/// Writes what has come together after each pause, until the log is closed.
async fn write_at_pace(shared: Arc<Shared>, pace: Pace) {
    loop {
        shared.asked.notified().await;
        tokio::time::sleep(pace()).await;
        let mut inline = shared.inline.lock().expect("only held for a moment");
        let Some(writer) = inline.as_mut() else { return };
        if !writer.write_queued() {
            *inline = None;
            return;
        }
    }
}

/// Reads an entry from disk unless it was cached.
fn load(found: Found) -> io::Result<Entry> {
    let (file, place) = match found {
        Found::Cached(entry) => return Ok(entry),
        Found::OnDisk(file, place) => (file, place),
    };
    let mut record = vec![0; place.bytes as usize];
    file.read_at(&mut record, u64::from(place.offset))?;
    if segment::record_payload(&record).is_none() {
        let what = format!("an entry in segment {} at byte {} is damaged", place.segment, place.offset);
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    let payload = Bytes::from(record).slice(segment::RECORD_HEAD_BYTES..);
    codec::entry(&payload).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let from = match range.start_bound() {
        Bound::Included(from) => *from,
        Bound::Excluded(from) => from.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let to = match range.end_bound() {
        Bound::Included(to) => to.saturating_add(1),
        Bound::Excluded(to) => *to,
        Bound::Unbounded => u64::MAX,
    };
    (from, to)
}

async fn durable(waiting: oneshot::Receiver<Result<(), String>>) -> io::Result<()> {
    match waiting.await {
        Ok(result) => result.map_err(io::Error::other),
        Err(_) => Err(io::Error::other("the log's writer has ended")),
    }
}

impl RaftLogReader<TypeConfig> for Log {
    // Reads run on the consensus' own threads and are mostly served from the cache, so they block there.
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: R,
    ) -> io::Result<Vec<Entry>> {
        let (from, to) = bounds(&range);
        self.read(from, to)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.shared.lock().marks.vote)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.read_bounded(start, end, FRAME_BYTES_MAX)
    }
}

impl RaftLogStorage<TypeConfig> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let state = self.shared.lock();
        Ok(LogState { last_purged_log_id: state.marks.purged, last_log_id: state.marks.last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let (done, waiting): (Done, _) = oneshot::channel();
        let vote = *vote;
        let change = |state: &mut State| {
            state.marks.vote = Some(vote);
            Ok(())
        };
        self.submit(change, |()| vec![Item::Vote(vote, done)])?;
        durable(waiting).await
    }

    // Not durable by itself: it rides along with the next frame. After a crash a smaller value only means that the
    // leader of the next term commits the rest again.
    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        let mut state = self.shared.lock();
        state.committed_dirty |= state.marks.committed != committed;
        state.marks.committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.shared.lock().marks.committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let most = self.shared.config.entry_bytes_max();
        let change = |state: &mut State| {
            for entry in &entries {
                if codec::entry_bytes(entry) > most {
                    return Err(format!("entry {} is larger than a segment of the log", entry.log_id.index));
                }
                state.append(entry.clone())?;
            }
            Ok(())
        };
        let items = |()| {
            let flushed = Item::Flushed(callback);
            entries.iter().cloned().map(Item::Entry).chain(std::iter::once(flushed)).collect()
        };
        self.submit(change, items)
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        let (done, waiting): (Done, _) = oneshot::channel();
        let change = |state: &mut State| {
            state.truncate(last_log_id.as_ref());
            Ok(())
        };
        self.submit(change, |()| vec![Item::Truncate(last_log_id, done)])?;
        durable(waiting).await
    }

    // In order with all else, and not waited for: a purge that is lost in a crash leaves entries that are not needed.
    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        self.purge_through(log_id)
    }
}
