//! The writer of the log: one thread that owns the end of the newest segment.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::storage::IOFlushed;

use super::files::{LogFile, is_full};
use super::segment::{FRAME_HEAD_BYTES, FrameBuilder, HEADER_BYTES, Header, Link, RECORD_HEAD_BYTES};
use super::state::{Item, Marks, Place, Segment, Spare, State};
use super::{FRAME_BYTES_MAX, Shared};
use crate::cluster::codec;
use crate::cluster::error::Error;
use crate::cluster::raft::TypeConfig;

/// Kinds of records. A number never changes meaning.
pub(super) const ENTRY: u8 = 1;
pub(super) const VOTE: u8 = 2;
pub(super) const COMMITTED: u8 = 3;
pub(super) const TRUNCATE: u8 = 4;
pub(super) const PURGE: u8 = 5;
pub(super) const CHECKPOINT: u8 = 6;

/// How often a full disk is tried again.
const FULL_RETRY: Duration = Duration::from_millis(250);
/// Room that a frame takes beside its items: heads, padding, a checkpoint and a committed record.
pub(super) const FRAME_OVERHEAD: usize = FRAME_HEAD_BYTES + 8 + 2 * RECORD_HEAD_BYTES + 18 + 4 * 25 + 25;

/// Allocated files that wait to become segments end in this; which of them is the reserve is decided at start.
pub(super) const SPARE_SUFFIX: &str = ".spare";

pub(super) fn segment_name(number: u32) -> String {
    format!("{number:010}.wal")
}

/// The newest segment, as the writer sees it.
pub(super) struct Active {
    pub number: u32,
    pub file: Arc<dyn LogFile>,
    pub salt: [u8; 16],
    pub bytes: u64,
    /// Where the next frame goes.
    pub end: u64,
    /// The next frame is the segment's first and carries the marks.
    pub fresh: bool,
}

pub(super) struct Writer {
    pub shared: Arc<Shared>,
    pub active: Active,
    pub link: Link,
    /// The marks at the written end of the stream.
    pub marks: Marks,
    pub frame: FrameBuilder,
}

/// Why the writer stops.
enum Stop {
    Closed,
    Failed(String),
}

struct Batch {
    items: VecDeque<Item>,
    committed: Option<Option<crate::cluster::raft::LogId>>,
}

impl Writer {
    pub(super) fn run(mut self) {
        let reason = loop {
            match self.step() {
                Ok(()) => {}
                Err(Stop::Closed) => break "the log is closed".to_owned(),
                Err(Stop::Failed(reason)) => break reason,
            }
        };
        self.end(&reason);
    }

    /// Writes what is queued; false when the log has failed.
    pub(super) fn write_queued(&mut self) -> bool {
        while !self.shared.lock().queue.is_empty() {
            match self.step() {
                Ok(()) => {}
                Err(Stop::Closed) => return false,
                Err(Stop::Failed(reason)) => {
                    self.end(&reason);
                    return false;
                }
            }
        }
        true
    }

    fn step(&mut self) -> Result<(), Stop> {
        let limit = self.remaining();
        let Some(batch) = self.next_batch(limit)? else { return self.roll() };
        let places = self.encode(&batch);
        self.write()?;
        self.publish(batch, &places);
        Ok(())
    }

    /// Bytes of items that the active segment still takes.
    fn remaining(&self) -> usize {
        let left = self.active.bytes.saturating_sub(self.active.end);
        usize::try_from(left).unwrap_or(usize::MAX).saturating_sub(FRAME_OVERHEAD)
    }

    /// Waits for work and takes as much as one frame may hold; `None` when the segment is too full for the next item.
    fn next_batch(&self, limit: usize) -> Result<Option<Batch>, Stop> {
        let mut state = self.shared.lock();
        while state.queue.is_empty() {
            if state.closing {
                if !state.committed_dirty {
                    return Err(Stop::Closed);
                }
                break;
            }
            state = self.shared.work.wait(state).expect("no holder of the log's mutex panics");
        }
        let (mut items, mut bytes) = (VecDeque::new(), 0);
        while let Some(item) = state.queue.front() {
            let more = item.bytes();
            if bytes + more > limit || (bytes + more > FRAME_BYTES_MAX && bytes > 0) {
                break;
            }
            bytes += more;
            items.extend(state.queue.pop_front());
        }
        if items.is_empty() && (!state.queue.is_empty() || limit == 0) {
            return Ok(None);
        }
        let dirty = std::mem::take(&mut state.committed_dirty);
        Ok(Some(Batch { items, committed: dirty.then_some(state.marks.committed) }))
    }

    /// Fills the frame and returns the place of each entry.
    fn encode(&mut self, batch: &Batch) -> VecDeque<Place> {
        self.frame.clear();
        let mut places = VecDeque::new();
        if self.active.fresh {
            let marks = self.marks.clone();
            self.frame.record(CHECKPOINT, |out| put_marks(&marks, out));
        }
        for item in &batch.items {
            match item {
                Item::Entry(entry) => {
                    let range = self.frame.record(ENTRY, |out| codec::put_entry(entry, out));
                    let offset = u32::try_from(self.active.end).expect("segments are below 4 GiB");
                    places.push_back(Place {
                        segment: self.active.number,
                        offset: offset + u32::try_from(range.start).expect("frames are bounded"),
                        bytes: u32::try_from(range.len()).expect("frames are bounded"),
                    });
                }
                Item::Vote(vote, _) => drop(self.frame.record(VOTE, |out| codec::put_vote(vote, out))),
                Item::Truncate(after, _) => {
                    self.frame.record(TRUNCATE, |out| codec::put_optional_log_id(after.as_ref(), out));
                }
                Item::Purge(upto) => drop(self.frame.record(PURGE, |out| codec::put_log_id(upto, out))),
                Item::Flushed(_) => {}
            }
        }
        if let Some(committed) = &batch.committed {
            self.frame.record(COMMITTED, |out| codec::put_optional_log_id(committed.as_ref(), out));
        }
        places
    }

    /// Writes and syncs the frame. A full disk is waited for; any other failure is final.
    fn write(&mut self) -> Result<(), Stop> {
        if self.frame.is_empty() {
            return Ok(());
        }
        // Sealed once: what a retry writes is what the first try wrote.
        let mut frame = std::mem::take(&mut self.frame);
        let (bytes, next) = frame.seal(self.link, &self.active.salt);
        while let Err(error) = self.active.file.write_at(bytes, self.active.end) {
            if !is_full(&error) {
                return Err(Stop::Failed(format!("writing the log failed: {error}")));
            }
            self.wait_for_space()?;
        }
        self.sync(&*self.active.file)?;
        self.active.end += bytes.len() as u64;
        (self.active.fresh, self.link) = (false, next);
        self.frame = frame;
        Ok(())
    }

    fn sync(&self, file: &dyn LogFile) -> Result<(), Stop> {
        self.shared.syncs.fetch_add(1, Ordering::Relaxed);
        // The page cache may drop what it could not write and then report success: a second sync proves nothing.
        file.sync_data().map_err(|error| Stop::Failed(format!("syncing the log failed: {error}")))
    }

    /// Makes the batch's results known: places for readers, then callbacks in order.
    fn publish(&mut self, batch: Batch, places: &VecDeque<Place>) {
        let mut state = self.shared.lock();
        if let Some(committed) = batch.committed {
            self.marks.committed = committed;
        }
        let mut places = places.iter();
        let (mut purged, mut entries) = (false, 0);
        for item in &batch.items {
            match item {
                Item::Entry(entry) => {
                    let place = places.next().expect("a place for each entry");
                    state.written(&entry.log_id, *place);
                    self.marks.last = Some(entry.log_id);
                    entries += 1;
                }
                Item::Vote(vote, _) => self.marks.vote = Some(*vote),
                Item::Truncate(after, _) => {
                    state.truncated(after.as_ref());
                    self.marks.truncate(after.as_ref());
                }
                Item::Purge(upto) => {
                    state.purged(upto);
                    self.marks.purge(*upto);
                    purged = true;
                }
                Item::Flushed(_) => {}
            }
        }
        let old = if purged { state.take_purged_segments() } else { Vec::new() };
        self.measure(&state);
        drop(state);
        self.shared.entries_synced.fetch_add(entries, Ordering::Relaxed);
        complete(batch.items, &Ok(()));
        self.discard(old);
    }

    /// Starts the next segment.
    fn roll(&mut self) -> Result<(), Stop> {
        let number = self.active.number + 1;
        let spare = self.take_spare()?;
        let header = Header {
            owner: self.shared.config.owner,
            number: u64::from(number),
            first: self.link,
            salt: rand::random(),
        };
        while let Err(error) = spare.file.write_at(&header.encode(), 0) {
            if !is_full(&error) {
                return Err(Stop::Failed(format!("writing the log failed: {error}")));
            }
            self.wait_for_space()?;
        }
        self.sync(&*spare.file)?;
        let path = self.shared.config.dir.join(segment_name(number));
        let files = &self.shared.config.files;
        files
            .rename(&spare.path, &path)
            .and_then(|()| files.sync_dir(&self.shared.config.dir))
            .map_err(|error| Stop::Failed(format!("starting a log segment failed: {error}")))?;
        self.active = Active {
            number,
            file: spare.file.clone(),
            salt: header.salt,
            bytes: spare.bytes,
            end: HEADER_BYTES as u64,
            fresh: true,
        };
        let mut state = self.shared.lock();
        state.segments.insert(number, Segment { path, file: spare.file, bytes: spare.bytes, max_index: None });
        self.measure(&state);
        Ok(())
    }

    /// An allocated file: the spare, else the reserve, else a new one as soon as there is room.
    fn take_spare(&self) -> Result<Spare, Stop> {
        loop {
            {
                let mut state = self.shared.lock();
                if let Some(spare) = state.spare.take() {
                    return Ok(spare);
                }
                if let Some(reserve) = state.reserve.take() {
                    return Ok(reserve);
                }
            }
            match self.shared.allocate() {
                Ok(spare) => return Ok(spare),
                Err(error) if is_full(&error) => self.wait_for_space()?,
                Err(error) => return Err(Stop::Failed(format!("allocating a log segment failed: {error}"))),
            }
        }
    }

    fn wait_for_space(&self) -> Result<(), Stop> {
        let state = self.shared.lock();
        if state.closing {
            return Err(Stop::Failed("the log was closed while its disk was full".into()));
        }
        let _ = self.shared.work.wait_timeout(state, FULL_RETRY).expect("no holder of the log's mutex panics");
        Ok(())
    }

    fn measure(&self, state: &State) {
        self.shared.measure(state, self.active.bytes.saturating_sub(self.active.end));
    }

    /// Recycles or removes segments that hold nothing any more.
    fn discard(&self, old: Vec<Segment>) {
        if old.is_empty() {
            return;
        }
        let config = &self.shared.config;
        for segment in old {
            if !self.recycle(&segment)
                && let Err(error) = config.files.remove(&segment.path)
            {
                tracing::warn!(path = %segment.path.display(), %error, "cannot remove an old log segment");
            }
        }
        if let Err(error) = config.files.sync_dir(&config.dir) {
            tracing::warn!(%error, "cannot sync the log's directory after removing segments");
        }
    }

    fn recycle(&self, segment: &Segment) -> bool {
        // A reader that still holds the file must not see it change under its hands.
        if segment.bytes != self.shared.config.segment_bytes || Arc::strong_count(&segment.file) != 1 {
            return false;
        }
        let path = self.shared.spare_path();
        let mut state = self.shared.lock();
        let State { reserve, spare, .. } = &mut *state;
        let slot = [reserve, spare].into_iter().find(|slot| slot.is_none());
        let renamed = |_: &&mut Option<Spare>| self.shared.config.files.rename(&segment.path, &path).is_ok();
        let Some(slot) = slot.filter(renamed) else { return false };
        *slot = Some(Spare { path, file: segment.file.clone(), bytes: segment.bytes });
        self.measure(&state);
        true
    }

    /// Refuses everything from now on.
    fn end(&mut self, reason: &str) {
        let items = {
            let mut state = self.shared.lock();
            if state.failed.is_none() {
                state.failed = Some(reason.to_owned());
                if !state.closing {
                    tracing::error!(reason, "the log has failed; the node must stop");
                    self.shared.failure.send_replace(Some(reason.to_owned()));
                }
            }
            std::mem::take(&mut state.queue)
        };
        complete(items, &Err(reason.to_owned()));
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Also when the thread panics: nobody may wait for a writer that is gone.
        self.end("the log's writer has ended");
    }
}

fn complete(items: VecDeque<Item>, result: &Result<(), String>) {
    let flushed = |callback: IOFlushed<TypeConfig>| {
        callback.io_completed(result.clone().map_err(io::Error::other));
    };
    for item in items {
        match item {
            Item::Flushed(callback) => flushed(callback),
            // The waiting side is gone only when the consensus is.
            Item::Vote(_, done) | Item::Truncate(_, done) => drop(done.send(result.clone())),
            Item::Entry(_) | Item::Purge(_) => {}
        }
    }
}

pub(super) fn put_marks(marks: &Marks, out: &mut Vec<u8>) {
    out.push(u8::from(marks.vote.is_some()));
    if let Some(vote) = &marks.vote {
        codec::put_vote(vote, out);
    }
    for id in [&marks.committed, &marks.purged, &marks.last] {
        codec::put_optional_log_id(id.as_ref(), out);
    }
}

pub(super) fn marks(bytes: &[u8]) -> Result<Marks, codec::CodecError> {
    const VOTE_BYTES: usize = 17;
    let (vote, rest) = match bytes.split_first() {
        Some((0, rest)) => (None, rest),
        Some((1, rest)) if rest.len() >= VOTE_BYTES => {
            let (vote, rest) = rest.split_at(VOTE_BYTES);
            (Some(codec::vote(vote)?), rest)
        }
        _ => return Err(codec::CodecError("checkpoint")),
    };
    let (committed, rest) = codec::optional_log_id(rest)?;
    let (purged, rest) = codec::optional_log_id(rest)?;
    let (last, _) = codec::optional_log_id(rest)?;
    Ok(Marks { vote, committed, purged, last })
}

impl Shared {
    /// A name that no allocated file ever had: the handle in a slot must be of the file that is renamed later.
    fn spare_path(&self) -> PathBuf {
        let number = self.spares.fetch_add(1, Ordering::Relaxed);
        self.config.dir.join(format!("{number:010}{SPARE_SUFFIX}"))
    }

    /// Creates an allocated file.
    pub(super) fn allocate(&self) -> io::Result<Spare> {
        let path = self.spare_path();
        let file = self.config.files.create(&path, self.config.segment_bytes)?;
        Ok(Spare { path, file, bytes: self.config.segment_bytes })
    }

    /// Puts `file` into an empty slot, the reserve first, or gives it back.
    pub(super) fn keep(&self, file: Spare) -> Option<Spare> {
        let mut state = self.lock();
        let slot = if state.reserve.is_none() { &mut state.reserve } else { &mut state.spare };
        if slot.is_some() {
            return Some(file);
        }
        *slot = Some(file);
        self.measure(&state, self.active_left.load(Ordering::Acquire));
        None
    }

    /// Publishes how much can be written without new space. The end of each segment that an unlucky entry may not fit in
    /// is not counted.
    pub(super) fn measure(&self, state: &State, active_left: u64) {
        let margin = self.config.command_bytes_max() as u64 + FRAME_OVERHEAD as u64;
        let usable = |bytes: u64| bytes.saturating_sub(margin);
        let file = |spare: &Option<Spare>| spare.as_ref().map_or(0, |spare| usable(spare.bytes - HEADER_BYTES as u64));
        self.room_common.store(usable(active_left) + file(&state.spare), Ordering::Release);
        self.room_reserve.store(file(&state.reserve), Ordering::Release);
        self.active_left.store(active_left, Ordering::Release);
    }
}

impl super::Log {
    /// Allocates what is missing of the reserve and, if `spare`, the spare; returns whether the disk had no room for it.
    pub(in crate::cluster) fn refill(&self, spare: bool) -> Result<bool, Error> {
        loop {
            let wanted = {
                let state = self.shared.lock();
                state.reserve.is_none() || (spare && state.spare.is_none())
            };
            if !wanted {
                return Ok(false);
            }
            let file = match self.shared.allocate() {
                Ok(file) => file,
                Err(error) if is_full(&error) => return Ok(true),
                Err(source) => return Err(Error::io("allocate in", &self.shared.config.dir, source)),
            };
            if let Some(surplus) = self.shared.keep(file) {
                // The writer recycled a segment meanwhile.
                let _ = self.shared.config.files.remove(&surplus.path);
            }
        }
    }
}
