//! What the log holds, in memory: the marks, the newest entries, and where older ones lie on disk.
//!
//! Two positions of one stream of records live here. The **logical** one (`marks`, `cache`) is what readers see: an
//! append is readable when it returns. The **written** one (`places`, `segments`) follows when the writer has synced.
//! The cache is a suffix of the log and holds at least everything that is not written, so a reader looks there first and
//! never sees an entry on disk that a later, still queued truncation has replaced.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use openraft::storage::IOFlushed;
use tokio::sync::oneshot;

use super::files::LogFile;
use crate::cluster::codec;
use crate::cluster::raft::{Entry, LogId, TypeConfig, Vote};

/// Written entries kept decoded. Entries are applied right after they are flushed, so few are enough.
const CACHE_BYTES_MAX: usize = 8 << 20;

/// Results of the writer.
pub(super) type Done = oneshot::Sender<Result<(), String>>;

/// What the writer has to do, in order.
pub(super) enum Item {
    Entry(Entry),
    /// All items before this one must be durable; then this is called.
    Flushed(IOFlushed<TypeConfig>),
    Vote(Vote, Done),
    Truncate(Option<LogId>, Done),
    Purge(LogId),
}

impl Item {
    /// Upper bound of the bytes of its record.
    pub(super) fn bytes(&self) -> usize {
        const SMALL: usize = super::segment::RECORD_HEAD_BYTES + 1 + codec::LOG_ID_BYTES;
        match self {
            Self::Entry(entry) => super::segment::RECORD_HEAD_BYTES + codec::entry_bytes(entry),
            Self::Flushed(_) => 0,
            Self::Vote(..) | Self::Truncate(..) | Self::Purge(_) => SMALL,
        }
    }
}

/// The log's pointers at one position of its stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Marks {
    pub vote: Option<Vote>,
    pub committed: Option<LogId>,
    pub purged: Option<LogId>,
    /// The last entry, or `purged` when there is none.
    pub last: Option<LogId>,
}

impl Marks {
    pub(super) fn truncate(&mut self, after: Option<&LogId>) {
        if self.last.as_ref() > after {
            self.last = after.copied().max(self.purged);
        }
    }

    pub(super) fn purge(&mut self, upto: LogId) {
        self.purged = self.purged.max(Some(upto));
        self.last = self.last.max(self.purged);
    }
}

/// Where an entry lies on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub segment: u32,
    pub offset: u32,
    pub bytes: u32,
}

/// A segment of the log.
pub(super) struct Segment {
    pub path: PathBuf,
    pub file: Arc<dyn LogFile>,
    pub bytes: u64,
    /// Largest index of an entry ever written here.
    pub max_index: Option<u64>,
}

struct Cached {
    entry: Entry,
    bytes: usize,
    written: bool,
}

#[derive(Default)]
pub(super) struct State {
    pub marks: Marks,
    cache: VecDeque<Cached>,
    cache_bytes: usize,
    /// Index of the first place.
    places_first: u64,
    places: VecDeque<Place>,
    pub segments: BTreeMap<u32, Segment>,
    pub queue: VecDeque<Item>,
    /// `marks.committed` changed since it was last written. It rides along with the next frame.
    pub committed_dirty: bool,
    pub closing: bool,
    /// Why the log accepts nothing any more.
    pub failed: Option<String>,
    /// Allocated files for coming segments. The reserve is for what frees space, and for votes.
    pub spare: Option<Spare>,
    pub reserve: Option<Spare>,
    pub growth: super::Growth,
}

/// An allocated file that waits to become a segment.
pub(super) struct Spare {
    pub path: PathBuf,
    pub file: Arc<dyn LogFile>,
    pub bytes: u64,
}

/// An entry as found by a reader.
pub(super) enum Found {
    Cached(Entry),
    OnDisk(Arc<dyn LogFile>, Place),
}

impl State {
    /// Adds entries at the logical end.
    pub(super) fn append(&mut self, entry: Entry) -> Result<(), String> {
        self.check_next(&entry.log_id)?;
        self.marks.last = Some(entry.log_id);
        let bytes = codec::entry_bytes(&entry);
        self.cache_bytes += bytes;
        self.cache.push_back(Cached { entry, bytes, written: false });
        Ok(())
    }

    /// Entries are consecutive; a new log may begin anywhere.
    fn check_next(&self, id: &LogId) -> Result<(), String> {
        match &self.marks.last {
            Some(last) if id.index != last.index + 1 => {
                Err(format!("entry {} does not follow the last entry {}", id.index, last.index))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn truncate(&mut self, after: Option<&LogId>) {
        self.marks.truncate(after);
        let keep = after.map_or(0, |id| id.index + 1);
        while self.cache.back().is_some_and(|cached| cached.entry.log_id.index >= keep) {
            self.uncache_back();
        }
    }

    pub(super) fn purge(&mut self, upto: LogId) {
        self.marks.purge(upto);
        while self.cache.front().is_some_and(|cached| cached.entry.log_id.index <= upto.index) {
            self.uncache_front();
        }
    }

    fn uncache_back(&mut self) {
        if let Some(cached) = self.cache.pop_back() {
            self.cache_bytes -= cached.bytes;
        }
    }

    fn uncache_front(&mut self) {
        if let Some(cached) = self.cache.pop_front() {
            self.cache_bytes -= cached.bytes;
        }
    }

    /// The entry at `index` is on disk now.
    pub(super) fn written(&mut self, id: &LogId, place: Place) {
        if self.places.is_empty() {
            self.places_first = id.index;
        }
        self.places.push_back(place);
        self.growth.bytes += u64::from(place.bytes);
        self.growth.entries += 1;
        if let Some(segment) = self.segments.get_mut(&place.segment) {
            segment.max_index = segment.max_index.max(Some(id.index));
        }
        let first = self.cache.front().map_or(u64::MAX, |cached| cached.entry.log_id.index);
        let at = id.index.checked_sub(first).and_then(|at| self.cache.get_mut(usize::try_from(at).ok()?));
        // The entry may have been truncated and replaced meanwhile: equal log ids mean equal entries.
        if let Some(cached) = at.filter(|cached| cached.entry.log_id == *id) {
            cached.written = true;
        }
        while self.cache_bytes > CACHE_BYTES_MAX && self.cache.front().is_some_and(|cached| cached.written) {
            self.uncache_front();
        }
    }

    /// A truncation is on disk now.
    pub(super) fn truncated(&mut self, after: Option<&LogId>) {
        let keep = after.map_or(0, |id| id.index + 1);
        let places = usize::try_from(keep.saturating_sub(self.places_first)).unwrap_or(usize::MAX);
        self.places.truncate(places);
    }

    /// A purge is on disk now.
    pub(super) fn purged(&mut self, upto: &LogId) {
        while !self.places.is_empty() && self.places_first <= upto.index {
            self.places.pop_front();
            self.places_first += 1;
        }
    }

    /// Bytes of the written entries from `index` on.
    pub(super) fn bytes_from(&self, index: u64) -> u64 {
        let skip = usize::try_from(index.saturating_sub(self.places_first)).unwrap_or(usize::MAX);
        self.places.iter().skip(skip).map(|place| u64::from(place.bytes)).sum()
    }

    /// Index of the first entry that is on disk.
    pub(super) fn first_place(&self) -> Option<u64> {
        (!self.places.is_empty()).then_some(self.places_first)
    }

    /// The entries of `[from, to)` that the log contains.
    pub(super) fn find(&self, from: u64, to: u64) -> Result<Vec<Found>, String> {
        let Some(last) = self.marks.last else { return Ok(Vec::new()) };
        let lowest = self.marks.purged.map_or(0, |id| id.index + 1);
        let cached_first = self.cache.front().map(|cached| cached.entry.log_id.index);
        let first = cached_first.map_or(u64::MAX, |index| index).min(self.first_place().unwrap_or(u64::MAX));
        let (from, to) = (from.max(lowest).max(first), to.min(last.index + 1));
        (from..to).map(|index| self.find_one(index, cached_first)).collect()
    }

    fn find_one(&self, index: u64, cached_first: Option<u64>) -> Result<Found, String> {
        if let Some(at) = cached_first.and_then(|first| index.checked_sub(first)) {
            let cached = usize::try_from(at).ok().and_then(|at| self.cache.get(at));
            return cached.map(|cached| Found::Cached(cached.entry.clone())).ok_or_else(|| hole(index));
        }
        let at = index.checked_sub(self.places_first).and_then(|at| usize::try_from(at).ok());
        let place = at.and_then(|at| self.places.get(at)).ok_or_else(|| hole(index))?;
        let segment = self.segments.get(&place.segment).ok_or_else(|| hole(index))?;
        Ok(Found::OnDisk(segment.file.clone(), *place))
    }

    /// Segments, oldest first, whose entries are all purged; the newest is never among them.
    pub(super) fn take_purged_segments(&mut self) -> Vec<Segment> {
        let upto = self.marks_written_purged();
        let mut taken = Vec::new();
        while self.segments.len() > 1 {
            let Some(oldest) = self.segments.first_entry() else { break };
            if oldest.get().max_index > upto {
                break;
            }
            taken.push(oldest.remove());
        }
        taken
    }

    fn marks_written_purged(&self) -> Option<u64> {
        // `purged` has been called for what is on disk; entries below the first place are gone for good.
        match self.first_place() {
            Some(first) => first.checked_sub(1),
            None => self.marks.purged.map(|id| id.index),
        }
    }
}

fn hole(index: u64) -> String {
    format!("entry {index} is missing inside the log")
}
