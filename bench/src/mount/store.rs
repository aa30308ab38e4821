//! The other way to a side's files: its bucket by S3. Fills directories, and looks for what a mount says is stored.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use holdfast_compat_tests::client::raw::{Call, Raw};
use holdfast_compat_tests::target::Endpoint;

/// How long bytes may take from a `close` that returned before to the store.
const STORED_WITHIN: Duration = Duration::from_secs(300);
/// Pause between two looks at an object: the store must not be busy with them.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Pause between two looks at a listing, which costs the store something.
const LIST_EVERY: Duration = Duration::from_millis(100);
/// How long the store may take for one answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(300);
/// Connections that fill a directory.
const FILLERS: usize = 16;
/// Bytes of each of its files.
const SMALL: &[u8] = b"a small file of the bench";
/// 1 January 2024.
const MTIME: &str = "1704067200";

/// What a directory should have.
#[derive(Clone, Copy, Debug)]
pub struct Count {
    pub files: usize,
    /// How many of their names begin so, when that matters.
    pub named: Option<(&'static str, usize)>,
}

/// A bucket.
#[derive(Clone, Debug)]
pub struct Store {
    endpoint: Endpoint,
    bucket: &'static str,
}

impl Store {
    pub(super) fn new(endpoint: Endpoint, bucket: &'static str) -> Self {
        Self { endpoint, bucket }
    }

    fn raw(&self) -> Raw {
        self.endpoint.raw().within(ANSWER_WITHIN)
    }

    /// Whether the object `key` is `length` bytes long and holds `bytes` at `at`.
    ///
    /// # Errors
    /// When the store does not answer.
    pub fn has(&self, key: &str, length: u64, at: u64, bytes: &[u8]) -> Result<bool> {
        self.has_by(&mut self.raw(), key, length, at, bytes)
    }

    fn has_by(&self, raw: &mut Raw, key: &str, length: u64, at: u64, bytes: &[u8]) -> Result<bool> {
        let range = format!("bytes={at}-{}", at + bytes.len() as u64 - 1);
        let headers = [("range", range.as_str())];
        let call = Call { method: "GET", bucket: self.bucket, key, query: &[], headers: &headers, body: b"" };
        let reply = raw.send(&call)?;
        let total = reply.header("content-range").and_then(|range| range.rsplit_once('/')?.1.parse().ok());
        Ok(reply.status == 206 && total == Some(length) && reply.body == bytes)
    }

    /// Waits until [`Store::has`] says so.
    ///
    /// # Errors
    /// When it takes too long.
    pub fn await_bytes(&self, key: &str, length: u64, at: u64, bytes: &[u8]) -> Result<()> {
        let (began, mut raw) = (Instant::now(), self.raw());
        while !self.has_by(&mut raw, key, length, at, bytes)? {
            ensure!(began.elapsed() < STORED_WITHIN, "the bytes are not in the store within {STORED_WITHIN:?}");
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    /// Whether there is an object `key`.
    ///
    /// # Errors
    /// When the store does not answer.
    pub fn exists(&self, key: &str) -> Result<bool> {
        Ok(self.raw().head(self.bucket, key)?.status == 200)
    }

    /// Whether the object `from` is gone and `to` is there.
    ///
    /// # Errors
    /// When the store does not answer.
    pub fn moved(&self, from: &str, to: &str) -> Result<bool> {
        Ok(self.exists(to)? && !self.exists(from)?)
    }

    /// Waits until [`Store::moved`] says so.
    ///
    /// # Errors
    /// When it takes too long.
    pub fn await_moved(&self, from: &str, to: &str) -> Result<()> {
        let began = Instant::now();
        while !self.moved(from, to)? {
            ensure!(began.elapsed() < STORED_WITHIN, "the object is not moved within {STORED_WITHIN:?}");
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    /// Whether a directory has so many files. Objects that are directories do not count.
    ///
    /// # Errors
    /// When the store does not answer.
    pub fn counts(&self, prefix: &str, wanted: Count) -> Result<bool> {
        let keys = self.raw().list(self.bucket, prefix)?;
        let files = || keys.iter().filter(|key| !key.ends_with('/'));
        let named = |start: &str| {
            files().filter(|key| key.rsplit('/').next().is_some_and(|name| name.starts_with(start))).count()
        };
        Ok(files().count() == wanted.files && wanted.named.is_none_or(|(start, count)| named(start) == count))
    }

    /// Waits until [`Store::counts`] says so.
    ///
    /// # Errors
    /// When it takes too long.
    pub fn await_count(&self, prefix: &str, wanted: Count) -> Result<()> {
        let began = Instant::now();
        while !self.counts(prefix, wanted)? {
            ensure!(began.elapsed() < STORED_WITHIN, "the store does not have {wanted:?} within {STORED_WITHIN:?}");
            std::thread::sleep(LIST_EVERY);
        }
        Ok(())
    }

    /// Deletes an object.
    ///
    /// # Errors
    /// When it is refused.
    pub fn delete(&self, key: &str) -> Result<()> {
        self.raw().delete(self.bucket, key, &[])?.expect(204).map(drop)
    }

    /// Makes a directory of `count` small files, with the attributes that s3fs writes.
    ///
    /// # Errors
    /// When an object is refused.
    pub fn fill(&self, directory: &str, count: usize) -> Result<()> {
        self.put(&mut self.raw(), &format!("{directory}/"), "16877", "application/x-directory", b"")?;
        let next = AtomicUsize::new(0);
        let work = || -> Result<()> {
            let mut raw = self.raw();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return Ok(());
                }
                let key = format!("{directory}/file-{number:06}");
                self.put(&mut raw, &key, "33188", "application/octet-stream", SMALL)?;
            }
        };
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..FILLERS).map(|_| scope.spawn(work)).collect();
            workers.into_iter().try_for_each(|worker| worker.join().expect("a filler does not panic"))
        })
    }

    fn put(&self, raw: &mut Raw, key: &str, mode: &str, kind: &str, body: &[u8]) -> Result<()> {
        let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        let (uid, gid) = (uid.to_string(), gid.to_string());
        let headers = [
            ("content-type", kind),
            ("x-amz-meta-mode", mode),
            ("x-amz-meta-uid", uid.as_str()),
            ("x-amz-meta-gid", gid.as_str()),
            ("x-amz-meta-mtime", MTIME),
        ];
        raw.put(self.bucket, key, &headers, body)?.expect(200).with_context(|| key.to_owned()).map(drop)
    }
}
