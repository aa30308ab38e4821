//! A store in memory, for tests. Keeps every promise except durability; a capacity makes it run full like a disk does.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::stream;

use super::body::{Body, BodyReader, exact};
use super::{
    Backend, Capabilities, Condition, DeleteOptions, ETag, Entry, Error, Fetched, GetOptions, Head, HeadOptions,
    JoinOptions, JoinSource, ListOptions, ObjectPath, Page, Probe, ProbeOptions, PutOptions, Result, Stored,
    SweepOptions, Swept, check_limit, covered, within,
};

/// Pieces in which a blob is delivered.
const PIECE_BYTES: usize = 64 * 1024;

/// A store in memory.
#[derive(Debug)]
pub struct Memory {
    blobs: Mutex<BTreeMap<ObjectPath, Blob>>,
    versions: AtomicU64,
    capacity_bytes: u64,
}

#[derive(Clone, Debug)]
struct Blob {
    bytes: Bytes,
    etag: ETag,
    last_modified: SystemTime,
}

impl Blob {
    fn head(&self) -> Head {
        Head { length: self.bytes.len() as u64, etag: self.etag.clone(), last_modified: self.last_modified }
    }
}

impl Memory {
    /// An empty store without a limit.
    pub fn new() -> Self {
        Memory::with_capacity(u64::MAX)
    }

    /// An empty store that takes this many bytes.
    pub fn with_capacity(bytes: u64) -> Self {
        Memory { blobs: Mutex::default(), versions: AtomicU64::new(1), capacity_bytes: bytes }
    }

    fn blobs(&self) -> MutexGuard<'_, BTreeMap<ObjectPath, Blob>> {
        self.blobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, path: &ObjectPath) -> Result<Blob> {
        self.blobs().get(path).cloned().ok_or_else(|| Error::not_found(path))
    }

    fn store(&self, path: &ObjectPath, bytes: Bytes, condition: &Condition) -> Result<Stored> {
        let etag = ETag(self.versions.fetch_add(1, Ordering::Relaxed).to_string().into());
        let stored = Stored { length: bytes.len() as u64, etag: etag.clone() };
        let mut blobs = self.blobs();
        let used: u64 = blobs.values().map(|blob| blob.bytes.len() as u64).sum();
        if used.saturating_add(stored.length) > self.capacity_bytes {
            return Err(Error::NoSpace {
                action: "put",
                path: path.to_string(),
                source: "memory store is full".into(),
            });
        }
        let blob = Blob { bytes, etag, last_modified: SystemTime::now() };
        match (blobs.entry(path.clone()), condition) {
            (Slot::Occupied(_), Condition::IfAbsent) => return Err(Error::exists(path)),
            (Slot::Vacant(_), Condition::IfMatch(_)) => return Err(Error::not_found(path)),
            (Slot::Occupied(slot), Condition::IfMatch(wanted)) if slot.get().etag != *wanted => {
                return Err(Error::Changed { path: path.to_string() });
            }
            (Slot::Occupied(mut slot), Condition::IfMatch(_) | Condition::Overwrite) => {
                slot.insert(blob);
            }
            (Slot::Vacant(slot), Condition::IfAbsent | Condition::Overwrite) => {
                slot.insert(blob);
            }
        }
        Ok(stored)
    }
}

impl Default for Memory {
    fn default() -> Self {
        Memory::new()
    }
}

#[async_trait]
impl Backend for Memory {
    fn name(&self) -> &str {
        "memory"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { shared: false, join_source_bytes_min: Some(0), blob_bytes_max: u64::MAX }
    }

    async fn put(&self, path: &ObjectPath, body: Body, options: PutOptions) -> Result<Stored> {
        within(options.deadline, "put", path, async {
            let mut reader = BodyReader::new(path, body, options.length)?;
            let mut bytes = BytesMut::new();
            while let Some(piece) = reader.next().await? {
                bytes.extend_from_slice(&piece);
            }
            self.store(path, bytes.freeze(), &options.condition)
        })
        .await
    }

    async fn get(&self, path: &ObjectPath, options: GetOptions) -> Result<Fetched> {
        let blob = self.find(path)?;
        let head = blob.head();
        let range = covered(path, options.range.as_ref(), head.length)?;
        let length = range.end - range.start;
        // A blob in memory is shorter than usize.
        let bytes = blob.bytes.slice(range.start as usize..range.end as usize);
        let pieces = stream::unfold(bytes, |mut left| async move {
            (!left.is_empty()).then(|| {
                let piece = left.split_to(left.len().min(PIECE_BYTES));
                (Ok(piece), left)
            })
        });
        Ok(Fetched { length, head, stream: exact(path, length, pieces) })
    }

    async fn head(&self, path: &ObjectPath, _options: HeadOptions) -> Result<Head> {
        self.find(path).map(|blob| blob.head())
    }

    async fn delete(&self, path: &ObjectPath, _options: DeleteOptions) -> Result<()> {
        self.blobs().remove(path);
        Ok(())
    }

    async fn list(&self, options: ListOptions) -> Result<Page> {
        check_limit(options.limit)?;
        let start = match &options.start_after {
            Some(after) if after.as_str() >= options.prefix.as_str() => Bound::Excluded(after.as_str()),
            _ => Bound::Included(options.prefix.as_str()),
        };
        let blobs = self.blobs();
        let mut found = blobs
            .range::<str, _>((start, Bound::Unbounded))
            .take_while(|(path, _)| path.as_str().starts_with(&options.prefix));
        let entries: Vec<Entry> = found
            .by_ref()
            .take(options.limit)
            .map(|(path, blob)| Entry {
                path: path.clone(),
                length: blob.bytes.len() as u64,
                last_modified: blob.last_modified,
            })
            .collect();
        let next = found.next().and(entries.last()).map(|entry| entry.path.clone());
        Ok(Page { entries, next })
    }

    async fn join(&self, sources: &[JoinSource], target: &ObjectPath, options: JoinOptions) -> Result<Stored> {
        let mut bytes = BytesMut::new();
        for source in sources {
            let blob = self.find(&source.path)?;
            let (expected, got) = (source.length, blob.bytes.len() as u64);
            if expected != got {
                return Err(Error::Truncated { path: source.path.to_string(), expected, got });
            }
            bytes.extend_from_slice(&blob.bytes);
        }
        self.store(target, bytes.freeze(), &options.condition)
    }

    async fn sweep_unfinished(&self, _options: SweepOptions) -> Result<Swept> {
        Ok(Swept::default())
    }

    async fn probe(&self, _options: ProbeOptions) -> Result<Probe> {
        let used: u64 = self.blobs().values().map(|blob| blob.bytes.len() as u64).sum();
        let free_bytes = (self.capacity_bytes != u64::MAX).then(|| self.capacity_bytes.saturating_sub(used));
        Ok(Probe { took: Duration::ZERO, free_bytes })
    }

    async fn close(&self) {}
}

/// Shares a store between a test and the code under test.
impl Memory {
    /// An empty store behind the seam.
    pub fn shared() -> Arc<dyn Backend> {
        Arc::new(Memory::new())
    }
}

#[cfg(test)]
mod tests {
    use super::super::conformance;
    use super::*;

    #[tokio::test]
    async fn memory_passes_the_suite() {
        let passed = conformance::run(|| async { Memory::shared() }).await.expect("conformance");
        assert!(passed.len() > 10, "{passed:?}");
    }

    #[tokio::test]
    async fn a_full_store_says_so_and_recovers() {
        let store = Memory::with_capacity(10);
        let path = |name| ObjectPath::new(name).expect("valid");
        store.put(&path("a"), Body::from(vec![0; 8]), PutOptions::default()).await.expect("fits");
        let error = store.put(&path("b"), Body::from(vec![0; 8]), PutOptions::default()).await.expect_err("full");
        assert!(error.is_no_space());
        store.delete(&path("a"), DeleteOptions::default()).await.expect("deletes work");
        store.put(&path("b"), Body::from(vec![0; 8]), PutOptions::default()).await.expect("fits again");
    }
}
