//! Bytes of a base: out of the block cache, or on their way from the repository.
//!
//! What is asked for is a *flight*: a range of a generation. Whoever needs a byte of it meanwhile waits for the same flight,
//! so nothing is fetched twice at a time; what landed is in the cache. A handle that reads on has flights begun before it
//! gets there, more the longer it does; one that jumps fetches blocks of [`FETCH_BYTES_MIN`] and nothing else.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use holdfast_core::command::mount::FileRef;
use holdfast_core::id::{BlobId, Revision};
use holdfast_core::mount::{Answer, Call, Map, ReadFile};
use holdfast_core::record::Extent;
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::Vfs;
use crate::client::Error;
use crate::error::Errno;
use crate::file::{Base, File};

/// Bytes that are fetched at least, from a multiple of it in the file.
const FETCH_BYTES_MIN: u64 = 128 << 10;
/// Bytes of one flight at most.
const FLIGHT_BYTES_MAX: u64 = 4 << 20;
/// Bytes that are fetched ahead of one handle at most.
const AHEAD_BYTES_MAX: u64 = 16 << 20;
/// Blocks of [`FETCH_BYTES_MIN`] that are on their way ahead of all handles at most.
pub(super) const AHEAD_BLOCKS_MAX: usize = 1_024;
/// The kernel reads ahead itself, and not always in order: reads so near to where the last one ended go on there.
const NEAR_BYTES: u64 = 1 << 20;
/// Bytes of a fragment in the cache, of a flight that has so many.
const KEPT_BYTES: u64 = 512 << 10;
/// Files up to this size are fetched whole, without asking where their bytes are.
const WHOLE_BYTES_MAX: u64 = 128 << 10;
/// Bytes whose extents are asked for at once.
const MAP_BYTES: u64 = 256 << 20;

/// What a handle has seen of a file, to read ahead.
#[derive(Debug, Default)]
pub struct Window {
    /// Where the last read ended.
    next: u64,
    /// Bytes that were read in order up to there.
    run: u64,
    /// Everything up to here is fetched, or on its way.
    ahead: u64,
}

impl Window {
    /// A read. What is to be fetched ahead of it: up to twice as much as was read in order so far, and to `most`.
    pub(super) fn read(&mut self, offset: u64, length: u64, most: u64) -> Range<u64> {
        let end = offset.saturating_add(length);
        let goes_on = self.run > 0 && offset.abs_diff(self.next) <= NEAR_BYTES;
        if !goes_on {
            *self = Self { next: end, run: length, ahead: end };
            return 0..0;
        }
        self.run = self.run.saturating_add(length);
        self.next = self.next.max(end);
        let bytes = self.run.saturating_mul(2).clamp(FETCH_BYTES_MIN, most.max(FETCH_BYTES_MIN));
        let (from, to) = (self.ahead.max(self.next), self.next.saturating_add(bytes));
        // Few long flights rather than one for every read.
        if to.saturating_sub(from) < bytes / 4 {
            return 0..0;
        }
        self.ahead = to;
        from..to
    }
}

/// A range of a generation that is on its way.
#[derive(Clone, Debug)]
pub struct Flight {
    generation: Revision,
    range: Range<u64>,
    landed: watch::Receiver<Option<Result<Bytes, Missed>>>,
}

impl Flight {
    fn brings(&self, generation: Revision, at: u64) -> bool {
        self.generation == generation && self.range.contains(&at)
    }

    /// Waits for its bytes.
    async fn land(mut self) -> Result<Bytes, Missed> {
        let landed = self.landed.wait_for(Option::is_some).await.map(|landed| landed.clone());
        // Whoever brought them ended with the mount.
        landed.ok().flatten().unwrap_or(Err(Missed::Failed(Errno::EIO)))
    }
}

/// Why bytes of a base are not to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missed {
    /// The file is another by now.
    Changed,
    /// The repository failed.
    Failed(Errno),
}

impl From<Error> for Missed {
    fn from(error: Error) -> Self {
        match error {
            Error::Changed | Error::NotFound { .. } => Self::Changed,
            error => Self::Failed(error.errno()),
        }
    }
}

/// Which generation of which file.
#[derive(Clone, Debug)]
struct Source {
    file: Arc<File>,
    reference: FileRef,
    base: Base,
}

impl Vfs {
    /// What to fetch ahead of a read of a handle.
    pub(super) fn read_by(&self, window: &Mutex<Window>, offset: u64, length: u32) -> Range<u64> {
        // What is fetched ahead must still be there when it is read.
        let most = AHEAD_BYTES_MAX.min(self.cache.memory_bytes() / 4);
        window.lock().unwrap_or_else(PoisonError::into_inner).read(offset, u64::from(length), most)
    }

    /// Bytes of a generation, within which `range` is. What is `ahead` is fetched, too.
    pub(super) async fn base_bytes(
        self: &Arc<Self>,
        file: &Arc<File>,
        base: &Base,
        range: &Range<u64>,
        ahead: Range<u64>,
    ) -> Result<Bytes, Missed> {
        let reference = self.tree().file(file.ino).ok_or(Missed::Changed)?;
        let reference = FileRef { object: file.state().object, ..reference };
        let source = Source { file: Arc::clone(file), reference, base: base.clone() };
        if base.size <= WHOLE_BYTES_MAX {
            let whole = match self.cache.get(source.whole(), 0..base.size) {
                Some(whole) => whole,
                None => self.flight(&source, 0..base.size, None).land().await?,
            };
            return part(&whole, range);
        }
        let mut gathered = BytesMut::new();
        let mut ahead = Some(ahead);
        for extent in self.extents(&source, range).await? {
            let mut at = extent.offset;
            let end = extent.offset + extent.length;
            while at < end {
                let piece = match self.cached(&extent, at) {
                    Some(piece) => piece,
                    None => {
                        let flight = self.flight(&source, at..end, None);
                        if let Some(ahead) = ahead.take() {
                            self.fetch_ahead(&source, ahead);
                        }
                        let brought = flight.range.clone();
                        let bytes = flight.land().await?;
                        part(&bytes, &(at - brought.start..end.min(brought.end) - brought.start))?
                    }
                };
                at += piece.len() as u64;
                if piece.len() as u64 == range.end - range.start {
                    if let Some(ahead) = ahead.take() {
                        self.fetch_ahead(&source, ahead);
                    }
                    return Ok(piece);
                }
                gathered.reserve((range.end - range.start) as usize - gathered.len());
                gathered.extend_from_slice(&piece);
            }
        }
        if let Some(ahead) = ahead {
            self.fetch_ahead(&source, ahead);
        }
        Ok(gathered.freeze())
    }

    /// An extent from a place of the file on, if it is a hole or in the cache.
    fn cached(&self, extent: &Extent, at: u64) -> Option<Bytes> {
        let (within, end) = (at - extent.offset, extent.length);
        if extent.blob == BlobId::HOLE {
            return Some(Bytes::from(vec![0; (end - within) as usize]));
        }
        self.cache.get(extent.blob.0, extent.blob_offset + within..extent.blob_offset + end)
    }

    /// The flight that brings the first byte of a range: one that is under way, or one that begins with it and brings as much
    /// of the range as no other does.
    fn flight(self: &Arc<Self>, source: &Source, range: Range<u64>, room: Option<OwnedSemaphorePermit>) -> Flight {
        let generation = source.base.generation;
        let mut flights = source.file.flights();
        if let Some(flight) = flights.iter().find(|flight| flight.brings(generation, range.start)) {
            return flight.clone();
        }
        let start = range.start / FETCH_BYTES_MIN * FETCH_BYTES_MIN;
        let others = flights.iter().filter(|flight| flight.generation == generation);
        let next = others.map(|flight| flight.range.start).filter(|other| *other > range.start).min();
        let end = range.end.min(start + FLIGHT_BYTES_MAX).next_multiple_of(FETCH_BYTES_MIN);
        let end = end.min(source.base.size).min(next.unwrap_or(u64::MAX));
        let (tell, landed) = watch::channel(None);
        let flight = Flight { generation, range: start..end, landed };
        flights.push(flight.clone());
        let (vfs, source, range) = (Arc::clone(self), source.clone(), start..end);
        self.tasks.spawn(async move {
            let stopping = vfs.stopping();
            let fetched = stopping.run_until_cancelled(vfs.fetch(&source, range.clone())).await;
            let landed = fetched.unwrap_or(Err(Missed::Failed(Errno::EIO)));
            // Whoever waits goes on first.
            let _ = tell.send(Some(landed.clone()));
            if let Ok(bytes) = landed {
                vfs.keep(&source, range.clone(), bytes).await;
            }
            source.file.flights().retain(|flight| flight.generation != generation || flight.range != range);
            drop(room);
        });
        flight
    }

    /// Begins flights for what is not in the cache of a range that will be read, as far as there is room.
    fn fetch_ahead(self: &Arc<Self>, source: &Source, range: Range<u64>) {
        let mut at = range.start / FETCH_BYTES_MIN * FETCH_BYTES_MIN;
        let end = range.end.next_multiple_of(FETCH_BYTES_MIN).min(source.base.size);
        while at < end {
            let to = (at + FLIGHT_BYTES_MAX).min(end);
            let Some(missing) = self.missing(source, &(at..to)) else {
                at = to;
                continue;
            };
            let blocks = (missing.end - missing.start).div_ceil(FETCH_BYTES_MIN) as u32 + 1;
            let Ok(room) = Arc::clone(&self.ahead).try_acquire_many_owned(blocks) else { return };
            at = self.flight(source, missing, Some(room)).range.end;
        }
    }

    /// The part of a range that is neither a hole nor in the cache; all of it while nobody knows where its bytes are.
    fn missing(&self, source: &Source, range: &Range<u64>) -> Option<Range<u64>> {
        let Some(extents) = source.file.state().map.of(source.base.generation, range) else {
            return Some(range.clone());
        };
        let is_missing = |extent: &&Extent| {
            let bytes = extent.blob_offset..extent.blob_offset + extent.length;
            extent.blob != BlobId::HOLE && !self.cache.contains(extent.blob.0, bytes)
        };
        let first = extents.iter().find(is_missing)?;
        let last = extents.iter().rfind(is_missing)?;
        Some(first.offset..last.offset + last.length)
    }

    async fn fetch(&self, source: &Source, range: Range<u64>) -> Result<Bytes, Missed> {
        let length = range.end - range.start;
        let deadline = Vfs::deadline();
        let (reference, base) = (&source.reference, &source.base);
        let bytes = match &reference.key {
            Some(key) => self.remote.read(key, &base.etag, range, deadline).await?,
            None => {
                let generation = Some(base.generation);
                let read = ReadFile { file: reference.clone(), generation, offset: range.start, length };
                self.remote.call(&Call::Read(read), Bytes::new(), &[], deadline).await?.raw
            }
        };
        self.counters.fetched_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if bytes.len() as u64 == length { Ok(bytes) } else { Err(Error::unexpected().into()) }
    }

    /// Keeps what landed, in fragments that end where blocks of the blob do: larger ones of what is read in order, as each is
    /// a file on the cache's disk.
    async fn keep(&self, source: &Source, range: Range<u64>, bytes: Bytes) {
        if source.base.size <= WHOLE_BYTES_MAX {
            self.cache.put(source.whole(), 0, &bytes);
            return;
        }
        let block = if range.end - range.start >= KEPT_BYTES { KEPT_BYTES } else { FETCH_BYTES_MIN };
        // Without its place it is fetched again.
        let Ok(extents) = self.extents(source, &range).await else { return };
        for extent in extents.iter().filter(|extent| extent.blob != BlobId::HOLE) {
            let mut done = 0;
            while done < extent.length {
                let at = extent.blob_offset + done;
                let length = (extent.length - done).min(block - at % block);
                let from = extent.offset - range.start + done;
                self.cache.put(extent.blob.0, at, &bytes.slice(from as usize..(from + length) as usize));
                done += length;
            }
        }
    }

    /// The extents of a range of a generation.
    async fn extents(&self, source: &Source, range: &Range<u64>) -> Result<Vec<Extent>, Missed> {
        let Source { file, reference, base } = source;
        if let Some(extents) = file.state().map.of(base.generation, range) {
            return Ok(extents);
        }
        let mut at = range.start / MAP_BYTES * MAP_BYTES;
        while at < range.end {
            let map = Map { file: reference.clone(), offset: at, length: MAP_BYTES.min(base.size - at) };
            let told = self.remote.call(&Call::Map(map), Bytes::new(), &[], Vfs::deadline()).await?;
            let Answer::Mapped(mapped) = told.answer else { return Err(Error::unexpected().into()) };
            if mapped.node.generation != base.generation {
                return Err(Missed::Changed);
            }
            let Some(last) = mapped.extents.last() else { return Err(Error::unexpected().into()) };
            at = last.offset + last.length;
            file.state().map.learn(base.generation, &mapped.extents);
        }
        file.state().map.of(base.generation, range).ok_or(Missed::Changed)
    }
}

impl Source {
    /// What stands for a whole small file in the cache, in place of a blob: a hash of all that a change of its bytes changes.
    fn whole(&self) -> [u8; 16] {
        let half = |salt: u8| {
            let mut hasher = DefaultHasher::new();
            let Base { generation, etag, size, .. } = &self.base;
            (salt, self.reference.object.0, generation, etag, size).hash(&mut hasher);
            hasher.finish().to_be_bytes()
        };
        let mut blob = [0; 16];
        blob[..8].copy_from_slice(&half(1));
        blob[8..].copy_from_slice(&half(2));
        blob
    }
}

/// A part of bytes, of which there should be so many.
fn part(bytes: &Bytes, range: &Range<u64>) -> Result<Bytes, Missed> {
    let (start, end) = (range.start as usize, range.end as usize);
    if start <= end && end <= bytes.len() { Ok(bytes.slice(start..end)) } else { Err(Missed::Changed) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_in_order_fetch_ahead_up_to_a_bound() {
        let mut window = Window::default();
        let (mut at, mut ahead) = (0, 0);
        for _ in 0..1_000 {
            let next = window.read(at, FETCH_BYTES_MIN, AHEAD_BYTES_MAX);
            at += FETCH_BYTES_MIN;
            if !next.is_empty() {
                assert!(next.start >= ahead && next.end > at, "nothing twice, and nothing that was read");
                assert!(next.end - at <= AHEAD_BYTES_MAX.min(2 * at));
                ahead = next.end;
            }
        }
        assert!(ahead - at >= AHEAD_BYTES_MAX / 2);
    }

    #[test]
    fn reads_in_a_slightly_other_order_go_on() {
        let mut window = Window::default();
        let mut read = |block| window.read(block * FETCH_BYTES_MIN, FETCH_BYTES_MIN, AHEAD_BYTES_MAX);
        let ahead: Vec<Range<u64>> =
            [0, 2, 1, 4, 3].into_iter().map(&mut read).filter(|next| !next.is_empty()).collect();
        assert!(ahead.len() > 1 && ahead.windows(2).all(|two| two[1].start >= two[0].end), "{ahead:?}");
    }

    #[test]
    fn reads_at_random_fetch_nothing_ahead() {
        let mut window = Window::default();
        for place in [5, 900, 3, 77, 400, 12] {
            assert!(window.read(place * (2 * NEAR_BYTES), 4096, AHEAD_BYTES_MAX).is_empty());
        }
    }
}
