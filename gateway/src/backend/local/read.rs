//! Reading a file: one blocking job for opening, checking and the first bytes, then one per chunk, a chunk ahead.

use std::fs::{File, Metadata};
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use futures::stream;
use rustix::buffer::spare_capacity;
use rustix::fs::Advice;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::super::body::exact;
use super::super::{ETag, Error, Fetched, GetOptions, Head, ObjectPath, Result, covered, within};
use super::CHUNK_BYTES;
use super::store::{Store, io_error};

pub(super) async fn head(store: &Arc<Store>, path: &ObjectPath) -> Result<Head> {
    let path = path.clone();
    store.blocking("head", move |store| open(store, "head", &path).map(|(_, head)| head)).await
}

pub(super) async fn get(store: &Arc<Store>, path: &ObjectPath, options: GetOptions) -> Result<Fetched> {
    let (wanted, opened_path) = (options.range, path.clone());
    let opened = store.blocking("get", move |store| {
        let (file, head) = open(store, "get", &opened_path)?;
        let range = covered(&opened_path, wanted.as_ref(), head.length)?;
        let first = range.start..range.end.min(range.start + CHUNK_BYTES);
        if first.end < range.end {
            // Only advice: a file system may ignore it.
            let _ = rustix::fs::fadvise(&file, range.start, None, Advice::Sequential);
        }
        let bytes = read(&file, &opened_path, first.clone())?;
        Ok((file, head, range, first.end, bytes))
    });
    let (file, head, range, next, first) = opened.await?;
    let length = range.end - range.start;
    let rest = Chunks::new(store, path, file, next..range.end, options.deadline);
    let pieces = stream::unfold((Some(first), rest), |(first, mut rest)| async move {
        match first {
            Some(first) if !first.is_empty() => Some((Ok(first), (None, rest))),
            _ => rest.next().await.map(|piece| (piece, (None, rest))),
        }
    });
    Ok(Fetched { length, head, stream: exact(path, length, pieces) })
}

pub(super) fn open(store: &Store, action: &'static str, path: &ObjectPath) -> Result<(File, Head)> {
    let failed = |error| io_error(action, path, error);
    let file = store.root.open(path.as_str()).map_err(failed)?.into_std();
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(Error::not_found(path));
    }
    Ok((file, head_of(&metadata)))
}

pub(super) fn head_of(metadata: &Metadata) -> Head {
    // Each put makes a new file, so inode and time of change tell versions of a name apart.
    let etag = format!("{:x}-{:x}.{:09}-{:x}", metadata.ino(), metadata.mtime(), metadata.mtime_nsec(), metadata.len());
    Head {
        length: metadata.len(),
        etag: ETag(etag.into()),
        last_modified: metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH),
    }
}

fn read(file: &File, path: &ObjectPath, range: Range<u64>) -> Result<Bytes> {
    // A chunk fits into memory.
    let wanted = (range.end - range.start) as usize;
    let mut bytes = Vec::with_capacity(wanted);
    while bytes.len() < wanted {
        let offset = range.start + bytes.len() as u64;
        let got = match rustix::io::pread(file, spare_capacity(&mut bytes), offset) {
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(io_error("get", path, error.into())),
            Ok(got) => got,
        };
        if got == 0 {
            return Err(Error::Truncated { path: path.to_string(), expected: range.end, got: offset });
        }
    }
    // A vector may have got more room than asked for, and read into it.
    bytes.truncate(wanted);
    Ok(bytes.into())
}

/// The chunks after the first one. While one is on its way to the caller the next is being read.
struct Chunks {
    store: Arc<Store>,
    file: Arc<File>,
    path: ObjectPath,
    left: Range<u64>,
    ahead: Option<JoinHandle<Result<Bytes>>>,
    deadline: Option<Instant>,
}

impl Chunks {
    fn new(store: &Arc<Store>, path: &ObjectPath, file: File, left: Range<u64>, deadline: Option<Instant>) -> Self {
        let (store, file, path) = (Arc::clone(store), Arc::new(file), path.clone());
        let mut chunks = Chunks { store, file, path, left, ahead: None, deadline };
        chunks.read_ahead();
        chunks
    }

    fn read_ahead(&mut self) {
        if self.left.is_empty() {
            return;
        }
        let chunk = self.left.start..self.left.end.min(self.left.start + CHUNK_BYTES);
        self.left.start = chunk.end;
        let (file, path) = (Arc::clone(&self.file), self.path.clone());
        self.ahead = Some(self.store.tracker.spawn_blocking(move || read(&file, &path, chunk)));
    }

    async fn next(&mut self) -> Option<Result<Bytes>> {
        let ahead = self.ahead.take()?;
        let read = async { ahead.await.unwrap_or_else(|cause| Err(Error::unavailable("get", &self.path, cause))) };
        let piece = within(self.deadline, "get", &self.path, read).await;
        if piece.is_ok() {
            self.read_ahead();
        }
        Some(piece)
    }
}
