//! Hot bytes of blobs in memory, verified when they came in.
//!
//! An entry is a whole blob of at most [`WHOLE_BYTES_MAX`], or an aligned chunk of [`CHUNK_BYTES`] of a longer one. Blob
//! ids are never reused and blobs never change, so an entry is right for as long as it is kept, whatever became of the
//! row. Many readers of one cold entry make one fetch. Long reads pass by, so that a scan does not wash out what is hot.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::FutureExt as _;
use holdfast_core::id::BlobId;
use holdfast_core::rules::BLOCK_BYTES;

use super::Error;

/// Longest blob that is kept whole.
pub const WHOLE_BYTES_MAX: u64 = 1 << 20;
/// Bytes of a chunk of a longer blob: a whole number of blocks.
pub const CHUNK_BYTES: u64 = 2 * BLOCK_BYTES;
/// Longest read of longer blobs that goes through the cache.
pub const CACHED_READ_BYTES_MAX: u64 = 1 << 20;
/// What an entry costs besides its bytes, roughly.
const ENTRY_OVERHEAD_BYTES: u32 = 256;

/// Which bytes of which blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Entry {
    /// All.
    Whole(BlobId),
    /// The chunk of this number.
    Chunk(BlobId, u64),
}

impl Entry {
    /// The entry that holds byte `offset` of a blob of `length` bytes, and the bytes of the blob that it has.
    pub(crate) fn at(blob: BlobId, length: u64, offset: u64) -> (Self, Range<u64>) {
        if length <= WHOLE_BYTES_MAX {
            return (Self::Whole(blob), 0..length);
        }
        let number = offset / CHUNK_BYTES;
        let start = number * CHUNK_BYTES;
        (Self::Chunk(blob, number), start..length.min(start + CHUNK_BYTES))
    }
}

/// Counters since start, and sizes of now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Reads that found their entry.
    pub hits: u64,
    /// Reads that had to fetch, or waited for another's fetch.
    pub misses: u64,
    /// Entries, roughly.
    pub entries: u64,
    /// Bytes held, roughly.
    pub bytes: u64,
}

/// The cache.
pub struct Cache {
    entries: moka::future::Cache<Entry, Bytes>,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl Cache {
    /// A cache of at most `bytes`.
    pub(super) fn new(bytes: u64) -> Self {
        let weight = |_: &Entry, bytes: &Bytes| {
            u32::try_from(bytes.len()).unwrap_or(u32::MAX).saturating_add(ENTRY_OVERHEAD_BYTES)
        };
        let entries = moka::future::Cache::builder().max_capacity(bytes).weigher(weight).build();
        Self { entries, hits: AtomicU64::new(0), misses: AtomicU64::new(0) }
    }

    /// A whole blob, if it is here.
    pub(super) fn whole(&self, blob: BlobId) -> Option<Bytes> {
        // Never waits in truth; if it did, this would be a miss.
        let found = self.entries.get(&Entry::Whole(blob)).now_or_never().flatten();
        if found.is_some() {
            self.hits.fetch_add(1, Ordering::Relaxed);
        }
        found
    }

    /// An entry; `fetch` is asked for it by one of many readers.
    pub(super) async fn get(
        &self,
        entry: Entry,
        fetch: impl Future<Output = Result<Bytes, Error>>,
    ) -> Result<Bytes, Error> {
        if let Some(found) = self.entries.get(&entry).await {
            self.hits.fetch_add(1, Ordering::Relaxed);
            return Ok(found);
        }
        self.misses.fetch_add(1, Ordering::Relaxed);
        self.entries.try_get_with(entry, fetch).await.map_err(|error| Error::clone(&error))
    }

    /// Drops a blob that was deleted, where it is whole; chunks leave by age.
    pub(super) async fn forget(&self, blob: BlobId) {
        self.entries.invalidate(&Entry::Whole(blob)).await;
    }

    /// Counters.
    pub(super) fn stats(&self) -> CacheStats {
        CacheStats {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            entries: self.entries.entry_count(),
            bytes: self.entries.weighted_size(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_cover_a_blob_without_gaps() {
        let blob = BlobId([1; 16]);
        assert_eq!(Entry::at(blob, WHOLE_BYTES_MAX, 7), (Entry::Whole(blob), 0..WHOLE_BYTES_MAX));
        let length = WHOLE_BYTES_MAX + 1;
        assert_eq!(Entry::at(blob, length, CHUNK_BYTES - 1), (Entry::Chunk(blob, 0), 0..CHUNK_BYTES));
        assert_eq!(Entry::at(blob, length, CHUNK_BYTES), (Entry::Chunk(blob, 1), CHUNK_BYTES..2 * CHUNK_BYTES));
        assert_eq!(Entry::at(blob, length, length - 1), (Entry::Chunk(blob, 4), WHOLE_BYTES_MAX..length));
    }

    #[tokio::test]
    async fn many_readers_of_a_cold_entry_fetch_once() {
        let cache = Cache::new(1 << 20);
        let fetches = AtomicU64::new(0);
        let entry = Entry::Whole(BlobId([1; 16]));
        let fetch = || async {
            fetches.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
            Ok(Bytes::from_static(b"abc"))
        };
        let readers = (0..1000).map(|_| cache.get(entry, fetch()));
        let found = futures::future::join_all(readers).await;
        assert!(found.into_iter().all(|bytes| bytes.unwrap() == "abc"));
        assert_eq!(fetches.load(Ordering::Relaxed), 1);
        assert_eq!(cache.whole(BlobId([1; 16])).unwrap(), "abc");
        let stats = cache.stats();
        assert_eq!(stats.hits + stats.misses, 1001);
    }

    #[tokio::test]
    async fn a_failed_fetch_is_tried_again_and_nothing_stays_past_the_bound() {
        let cache = Cache::new(64 << 10);
        let entry = |n| Entry::Whole(BlobId([n; 16]));
        cache.get(entry(0), async { Err(Error::Closed) }).await.unwrap_err();
        for n in 0..100 {
            let bytes = Bytes::from(vec![n; 10 << 10]);
            assert_eq!(cache.get(entry(n), async { Ok(bytes.clone()) }).await.unwrap(), bytes);
        }
        cache.entries.run_pending_tasks().await;
        assert!(cache.stats().bytes <= 64 << 10);
    }
}
