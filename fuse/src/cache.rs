//! Cache of immutable bytes, for reads of a mount: fragments of blobs, in memory and on a local disk.
//!
//! ```text
//! put ─┬► memory (CLOCK-PRO: a scan does not wash out what is used again, from about a hundred fragments on)
//!      └► queue, bounded ─► writer thread ─► file, renamed into place      get: memory, then disk, then a miss
//! ```
//!
//! Promised:
//! - What [`BlockCache::get`] gives is what was put for that blob and place; blobs never change, so nothing is invalidated,
//!   only evicted. A fragment on disk carries a CRC-32C; one that does not check out is deleted and is a miss.
//! - No read or put ever fails for the disk: an I/O error is counted, and after [`ERRORS_IN_A_ROW_MAX`] of them the disk is
//!   not used any more until the next open, which one warning says.
//! - The files stay below `disk_bytes`, and are given up before the file system has less than `free_floor_bytes` left. Both
//!   are looked after before each write.
//! - The disk survives a restart. After a power cut fragments may be gone, never wrong: files are not synced.
//! - Everything is bounded: memory by `memory_bytes`, the queue by [`QUEUE_BYTES_MAX`] (when full, puts reach memory only
//!   and are counted as dropped), the index by its fragments. Those in memory weigh at least [`ENTRY_BYTES`], those on disk
//!   a block of [`DISK_BLOCK_BYTES`], so there are at most `memory_bytes / 512 + min(disk_bytes / 4096,`
//!   [`DISK_FRAGMENTS_MAX`]`)`, of about 150 bytes each.
//!
//! The index is one sorted map of fragments by blob, start and length. A range is looked up by the fragment that contains its first byte,
//! and goes on with the one that contains the byte behind that. Fragments may overlap.
//!
//! Deliberately absent: fetching, single flight, read-ahead, any knowledge of what a blob is.

mod disk;
mod index;
#[cfg(test)]
mod tests;

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use quick_cache::{DefaultHashBuilder, Lifecycle, OptionsBuilder, Weighter};

use disk::Disk;
use index::{Index, Key};

/// Bytes of a fragment at most; larger puts are split.
pub const FRAGMENT_BYTES_MAX: usize = 1 << 20;
/// Bytes of one [`BlockCache::get`] at most; larger ranges are a miss.
pub const GET_BYTES_MAX: u64 = 64 << 20;
/// Bytes that wait to be written to the disk at most.
pub const QUEUE_BYTES_MAX: u64 = 32 << 20;
/// Fragments on disk at most: 128 GiB of them at 128 KiB each.
pub const DISK_FRAGMENTS_MAX: usize = 1 << 20;
/// What a file on disk is counted in.
pub const DISK_BLOCK_BYTES: u64 = 4096;
/// I/O errors in a row after which the disk is not used any more.
pub const ERRORS_IN_A_ROW_MAX: u64 = 4;
/// What a fragment in memory, and a job in the queue, is counted in addition to its bytes.
pub const ENTRY_BYTES: u64 = 512;
/// Memory of a part of the memory tier at least: with few fragments in it, it would forget what is used like the rest.
const SHARD_BYTES_MIN: u64 = 64 << 20;
const SHARDS_MAX: u64 = 16;
/// For the initial size of tables only.
const FRAGMENT_BYTES_USUAL: u64 = 64 << 10;

/// Identity of a blob.
pub type Blob = [u8; 16];

/// Why the cache cannot be opened. Nothing else fails.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another mount uses the directory.
    #[error("cache directory {} is in use by another mount", dir.display())]
    Locked {
        /// The directory.
        dir: PathBuf,
    },
    /// The system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl Error {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }
}

/// Result of [`BlockCache::open`].
pub type Result<T> = std::result::Result<T, Error>;

/// Bounds of a cache, and where it is.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Directory of the disk tier, created if missing; without it there is memory only. It must not be inside the mount.
    pub dir: Option<PathBuf>,
    /// Bytes of the files at most, in blocks of [`DISK_BLOCK_BYTES`].
    pub disk_bytes: u64,
    /// Bytes of the memory tier at most.
    pub memory_bytes: u64,
    /// Bytes that the file system of `dir` keeps free.
    pub free_floor_bytes: u64,
}

/// What happened since the cache was opened, and what is in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Gets that memory alone answered.
    pub hits_memory: u64,
    /// Gets that needed the disk.
    pub hits_disk: u64,
    /// Gets that were not answered.
    pub misses: u64,
    /// Bytes given.
    pub hit_bytes: u64,
    /// Bytes of the memory tier, with [`ENTRY_BYTES`] for each fragment.
    pub memory_bytes: u64,
    /// Bytes of the files, in blocks.
    pub disk_bytes: u64,
    /// Files.
    pub disk_fragments: u64,
    /// Fragments that were written to the disk.
    pub written: u64,
    /// Fragments that left memory for others.
    pub evicted_memory: u64,
    /// Files that were deleted for others, or for the floor.
    pub evicted_disk: u64,
    /// Fragments that were not written: the queue was full, or the floor or the cap left no room.
    pub dropped: u64,
    /// Files that did not check out.
    pub corrupt: u64,
    /// I/O errors of the disk.
    pub errors: u64,
    /// Whether the disk is in use.
    pub disk_in_use: bool,
    /// Whether the files from before the start are still being looked for.
    pub scanning: bool,
}

/// The cache. Any thread may call; reads of the disk block.
#[derive(Debug)]
pub struct BlockCache {
    memory: Memory,
    index: Arc<Mutex<Index>>,
    tally: Arc<Tally>,
    disk: Option<Disk>,
}

type Memory = quick_cache::sync::Cache<Key, Bytes, Weight, DefaultHashBuilder, Collect>;

#[derive(Debug, Default)]
struct Tally {
    hits_memory: AtomicU64,
    hits_disk: AtomicU64,
    misses: AtomicU64,
    hit_bytes: AtomicU64,
    written: AtomicU64,
    evicted_memory: AtomicU64,
    evicted_disk: AtomicU64,
    dropped: AtomicU64,
    corrupt: AtomicU64,
    errors: AtomicU64,
}

impl BlockCache {
    /// Opens a cache. The files in its directory become available one after the other, in the background.
    ///
    /// # Errors
    /// [`Error::Locked`], and [`Error::Io`] when the directory cannot be made, locked or written to.
    pub fn open(options: Options) -> Result<Self> {
        let shards = (options.memory_bytes / SHARD_BYTES_MIN).clamp(1, SHARDS_MAX);
        let usual = (options.memory_bytes / FRAGMENT_BYTES_USUAL).clamp(16, 1 << 20);
        let shape = OptionsBuilder::new()
            .shards(shards as usize)
            .estimated_items_capacity(usual as usize)
            .weight_capacity(options.memory_bytes)
            .build()
            .expect("capacities are given");
        let memory = Memory::with_options(shape, Weight, DefaultHashBuilder::default(), Collect);
        let index = Arc::new(Mutex::new(Index::default()));
        let tally = Arc::new(Tally::default());
        let disk = match options.dir {
            Some(dir) if options.disk_bytes > 0 => {
                let limits = disk::Limits { bytes: options.disk_bytes, free_floor_bytes: options.free_floor_bytes };
                Some(Disk::open(dir, limits, Arc::clone(&index), Arc::clone(&tally))?)
            }
            _ => None,
        };
        Ok(Self { memory, index, tally, disk })
    }

    /// Bytes of the memory tier at most.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.memory.capacity()
    }

    /// The bytes of `range` of a blob, if all of them are cached. Copies only when several fragments are needed.
    ///
    /// Reads whole fragments from the disk, which blocks, and keeps them in memory. A range of more than
    /// [`GET_BYTES_MAX`] is a miss, an empty one is empty.
    #[must_use]
    pub fn get(&self, blob: Blob, range: Range<u64>) -> Option<Bytes> {
        if range.is_empty() {
            return Some(Bytes::new());
        }
        let found = self.gather(blob, &range);
        match &found {
            Some((bytes, from_disk)) => {
                count(if *from_disk { &self.tally.hits_disk } else { &self.tally.hits_memory });
                self.tally.hit_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            }
            None => count(&self.tally.misses),
        }
        found.map(|(bytes, _)| bytes)
    }

    /// Caches bytes of a blob from `start` on, in memory at once and on disk soon. They are copied, so that a slice of a
    /// larger buffer does not keep that alive. What is cached already is left alone.
    pub fn put(&self, blob: Blob, start: u64, bytes: &Bytes) {
        for (key, piece) in pieces(blob, start, bytes) {
            let (covered, written) = {
                let index = lock(&self.index);
                let disk = self.disk.as_ref().is_none_or(|disk| disk.is_off() || index.is_kept(&key));
                (index.is_in_memory(&key), disk)
            };
            if covered && written {
                continue;
            }
            let piece = Bytes::copy_from_slice(&piece);
            if !covered {
                self.remember(key, piece.clone());
            }
            if let Some(disk) = self.disk.as_ref().filter(|_| !written) {
                disk.queue(key, piece);
            }
        }
    }

    /// Caches bytes that nobody reads now: on disk only, if there is one, so that memory keeps what is in use. Waits up to
    /// `patience` for room in the queue. Gives whether all was taken.
    pub fn warm(&self, blob: Blob, start: u64, bytes: &Bytes, patience: Duration) -> bool {
        let Some(disk) = self.disk.as_ref().filter(|disk| !disk.is_off()) else {
            self.put(blob, start, bytes);
            return true;
        };
        pieces(blob, start, bytes).all(|(key, piece)| {
            let kept = lock(&self.index).is_kept(&key);
            kept || disk.queue_patiently(key, Bytes::copy_from_slice(&piece), patience)
        })
    }

    /// Whether a get of the range would likely be answered, now or when what is queued is written.
    #[must_use]
    pub fn contains(&self, blob: Blob, range: Range<u64>) -> bool {
        range.is_empty() || lock(&self.index).covers(blob, &range)
    }

    /// Waits until what was queued so far is written or dropped; `false` when `patience` runs out before.
    pub fn flush(&self, patience: Duration) -> bool {
        self.disk.as_ref().is_none_or(|disk| disk.flush(patience))
    }

    /// What happened and what is there, each number for itself.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let tally = &*self.tally;
        let (disk_bytes, disk_fragments) = lock(&self.index).stored();
        Counters {
            hits_memory: load(&tally.hits_memory),
            hits_disk: load(&tally.hits_disk),
            misses: load(&tally.misses),
            hit_bytes: load(&tally.hit_bytes),
            memory_bytes: self.memory.weight(),
            disk_bytes,
            disk_fragments,
            written: load(&tally.written),
            evicted_memory: load(&tally.evicted_memory),
            evicted_disk: load(&tally.evicted_disk),
            dropped: load(&tally.dropped),
            corrupt: load(&tally.corrupt),
            errors: load(&tally.errors),
            disk_in_use: self.disk.as_ref().is_some_and(|disk| !disk.is_off()),
            scanning: self.disk.as_ref().is_some_and(Disk::is_scanning),
        }
    }

    /// The bytes, and whether the disk was needed.
    fn gather(&self, blob: Blob, range: &Range<u64>) -> Option<(Bytes, bool)> {
        if range.end - range.start > GET_BYTES_MAX {
            return None;
        }
        let keys = lock(&self.index).find(blob, range)?;
        let mut from_disk = false;
        let mut gathered = BytesMut::new();
        let mut at = range.start;
        for key in &keys {
            let fragment = match self.memory.get(key) {
                Some(bytes) => bytes,
                None => {
                    from_disk = true;
                    let bytes = self.disk.as_ref()?.read(key)?;
                    self.remember(*key, bytes.clone());
                    bytes
                }
            };
            let end = key.end().min(range.end);
            let slice = (at - key.start) as usize..(end - key.start) as usize;
            if keys.len() == 1 {
                return Some((fragment.slice(slice), from_disk));
            }
            if gathered.is_empty() {
                gathered.reserve((range.end - range.start) as usize);
            }
            gathered.extend_from_slice(&fragment[slice]);
            at = end;
        }
        Some((gathered.freeze(), from_disk))
    }

    /// Puts a fragment into memory. The index follows: what is in it under its mutex decides, so that neither an eviction
    /// nor an insertion by another thread in between leaves it wrong for good.
    fn remember(&self, key: Key, bytes: Bytes) {
        let evicted = self.memory.insert_with_lifecycle(key, bytes);
        self.tally.evicted_memory.fetch_add(evicted.len() as u64, Ordering::Relaxed);
        let mut index = lock(&self.index);
        for key in evicted.into_iter().chain([key]) {
            index.set_memory(key, self.memory.contains_key(&key));
        }
    }
}

fn pieces(blob: Blob, start: u64, bytes: &Bytes) -> impl Iterator<Item = (Key, Bytes)> {
    // No blob reaches the end of the number range; a put that would is ignored.
    let fits = start.checked_add(bytes.len() as u64).is_some();
    let ends = if fits { bytes.len() } else { 0 };
    (0..ends).step_by(FRAGMENT_BYTES_MAX).map(move |at| {
        let piece = bytes.slice(at..ends.min(at + FRAGMENT_BYTES_MAX));
        (Key { blob, start: start + at as u64, length: piece.len() as u32 }, piece)
    })
}

#[derive(Clone, Debug)]
struct Weight;

impl Weighter<Key, Bytes> for Weight {
    fn weight(&self, _: &Key, bytes: &Bytes) -> u64 {
        bytes.len() as u64 + ENTRY_BYTES
    }
}

/// Hands the evicted keys to whoever inserted.
#[derive(Clone, Debug)]
struct Collect;

impl Lifecycle<Key, Bytes> for Collect {
    type RequestState = Vec<Key>;

    fn begin_request(&self) -> Vec<Key> {
        Vec::new()
    }

    fn on_evict(&self, evicted: &mut Vec<Key>, key: Key, _: Bytes) {
        evicted.push(key);
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// A cache goes on after a panic elsewhere: at worst it has forgotten something.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
