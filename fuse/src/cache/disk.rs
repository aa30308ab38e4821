//! The disk tier: one file for each fragment, one thread that finds, writes and evicts them. Readers read by themselves.
//!
//! ```text
//! <dir>/lock
//! <dir>/v1/xx/yy/<blob, 32 hex digits>-<start, 16>-<length, 8>      xx, yy: 64 x 64 directories by a hash of the name
//! <dir>/v1/new                                                       the file being written
//! ```
//! A file is magic (8 bytes), blob (16), start (u64, little endian), length (u32), CRC-32C of these and of the bytes (u32),
//! then the bytes.
//!
//! Eviction is CLOCK over the order of writing: a fragment that was read since it was last looked at gets another round.
//! Across restarts the order is that of the time of modification, which a read renews if it is older than an hour.

use std::collections::VecDeque;
use std::fs::{DirBuilder, File, FileTimes, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use rustix::fs::FlockOperation;

use super::index::{Index, Key, OnDisk, disk_bytes};
use super::{
    DISK_BLOCK_BYTES, DISK_FRAGMENTS_MAX, ENTRY_BYTES, ERRORS_IN_A_ROW_MAX, Error, FRAGMENT_BYTES_MAX, QUEUE_BYTES_MAX,
    Result, Tally, count, lock,
};

/// Bytes before those of the fragment.
pub(super) const HEADER_BYTES: usize = 40;
const MAGIC: [u8; 8] = *b"HFCACHE1";
const LOCK: &str = "lock";
const ROOT: &str = "v1";
const TEMPORARY: &str = "new";
const DIRECTORIES: u32 = 64;
const NAME_LENGTH: usize = 32 + 1 + 16 + 1 + 8;
const RENEW_AFTER: Duration = Duration::from_secs(3600);
/// Keys of files that are gone stay in the order of eviction until there are so many and they are the majority.
const STALE_MIN: usize = 1024;

/// Bounds of the disk tier.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) bytes: u64,
    pub(super) free_floor_bytes: u64,
}

/// The disk tier.
#[derive(Debug)]
pub(super) struct Disk {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
    /// Holds the lock of the directory until it is dropped.
    _lock: Lock,
}

#[derive(Debug)]
struct Shared {
    root: PathBuf,
    limits: Limits,
    index: Arc<Mutex<Index>>,
    tally: Arc<Tally>,
    queue: Mutex<Queue>,
    /// Something was queued, or the end was announced.
    filled: Condvar,
    /// A job was taken or finished.
    drained: Condvar,
    errors_in_a_row: AtomicU64,
    off: AtomicBool,
    scanning: AtomicBool,
}

#[derive(Debug, Default)]
struct Queue {
    jobs: VecDeque<(Key, Bytes)>,
    bytes: u64,
    queued: u64,
    done: u64,
    closed: bool,
    #[cfg(test)]
    paused: bool,
}

impl Queue {
    fn pop(&mut self) -> Option<(Key, Bytes)> {
        #[cfg(test)]
        if self.paused {
            return None;
        }
        self.jobs.pop_front()
    }
}

impl Disk {
    pub(super) fn open(dir: PathBuf, limits: Limits, index: Arc<Mutex<Index>>, tally: Arc<Tally>) -> Result<Self> {
        let root = dir.join(ROOT);
        make_dirs(&root).map_err(Error::io("create", &root))?;
        let lock = take_lock(&dir)?;
        // A directory that cannot be written to is said now.
        let temporary = root.join(TEMPORARY);
        create(&temporary).and_then(|_| std::fs::remove_file(&temporary)).map_err(Error::io("write", &temporary))?;
        let shared = Arc::new(Shared {
            root,
            limits,
            index,
            tally,
            queue: Mutex::default(),
            filled: Condvar::new(),
            drained: Condvar::new(),
            errors_in_a_row: AtomicU64::new(0),
            off: AtomicBool::new(false),
            scanning: AtomicBool::new(true),
        });
        let writer = Writer { shared: Arc::clone(&shared), order: VecDeque::new(), tickets: 0 };
        let thread = std::thread::Builder::new().name("cache-writer".into());
        let writer = thread.spawn(move || writer.run()).map_err(Error::io("start a thread for", &dir))?;
        Ok(Self { shared, writer: Some(writer), _lock: lock })
    }

    /// Whether the disk is not used any more.
    pub(super) fn is_off(&self) -> bool {
        self.shared.off.load(Ordering::Relaxed)
    }

    pub(super) fn is_scanning(&self) -> bool {
        self.shared.scanning.load(Ordering::Relaxed)
    }

    /// Queues a fragment to be written, or drops it if the queue is full.
    pub(super) fn queue(&self, key: Key, bytes: Bytes) {
        self.queue_patiently(key, bytes, Duration::ZERO);
    }

    /// Queues a fragment as soon as there is room; `false` when it was dropped.
    pub(super) fn queue_patiently(&self, key: Key, bytes: Bytes, patience: Duration) -> bool {
        let shared = &*self.shared;
        let weight = bytes.len() as u64 + ENTRY_BYTES;
        let deadline = Instant::now() + patience;
        let mut queue = lock(&shared.queue);
        while queue.bytes + weight > QUEUE_BYTES_MAX && !self.is_off() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                count(&shared.tally.dropped);
                return false;
            }
            queue = shared.drained.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        if self.is_off() {
            return false;
        }
        let mut index = lock(&shared.index);
        if index.on_disk(&key) != OnDisk::No {
            return true;
        }
        index.set_disk(key, OnDisk::Queued);
        drop(index);
        queue.jobs.push_back((key, bytes));
        queue.bytes += weight;
        queue.queued += 1;
        shared.filled.notify_one();
        true
    }

    /// Waits for what is queued now.
    pub(super) fn flush(&self, patience: Duration) -> bool {
        let shared = &*self.shared;
        let deadline = Instant::now() + patience;
        let mut queue = lock(&shared.queue);
        let wanted = queue.queued;
        while queue.done < wanted {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            queue = shared.drained.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Reads and checks a whole fragment.
    pub(super) fn read(&self, key: &Key) -> Option<Bytes> {
        let shared = &*self.shared;
        let before = lock(&shared.index).ticket(key)?;
        let path = shared.root.join(relative_path(key));
        match read_file(&path, key) {
            Ok(Some(bytes)) => {
                shared.worked();
                Some(bytes)
            }
            outcome => {
                // A file leaves the index before it is deleted, so one with the same ticket was there all the time.
                let mut index = lock(&shared.index);
                let expected = index.ticket(key) == Some(before);
                if expected {
                    index.set_disk(*key, OnDisk::No);
                    let _ = std::fs::remove_file(&path);
                }
                drop(index);
                match outcome {
                    Err(error) if expected => shared.failed("read", &path, &error),
                    // Evicted since it was looked up.
                    Err(_) => {}
                    Ok(_) => count(&shared.tally.corrupt),
                }
                None
            }
        }
    }
}

impl Drop for Disk {
    /// Writes what is queued, and ends the thread.
    fn drop(&mut self) {
        lock(&self.shared.queue).closed = true;
        self.shared.filled.notify_all();
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

impl Shared {
    fn worked(&self) {
        if self.errors_in_a_row.load(Ordering::Relaxed) > 0 {
            self.errors_in_a_row.store(0, Ordering::Relaxed);
        }
    }

    /// Counts an error; the one that is too many ends the use of the disk.
    fn failed(&self, action: &str, path: &Path, error: &io::Error) {
        count(&self.tally.errors);
        tracing::debug!(action, path = %path.display(), %error, "the cache disk failed");
        let in_a_row = self.errors_in_a_row.fetch_add(1, Ordering::Relaxed) + 1;
        if in_a_row < ERRORS_IN_A_ROW_MAX {
            return;
        }
        // Under the mutex of the queue: nothing is queued after it was emptied.
        let queue = lock(&self.queue);
        if self.off.swap(true, Ordering::Relaxed) {
            return;
        }
        self.abandon(queue);
        tracing::warn!(
            action,
            path = %path.display(),
            %error,
            "the cache disk failed {in_a_row} times in a row: the cache is in memory only until the next start"
        );
    }

    /// Drops what is queued, and forgets all files.
    fn abandon(&self, mut queue: MutexGuard<'_, Queue>) {
        queue.done += queue.jobs.len() as u64;
        self.tally.dropped.fetch_add(queue.jobs.len() as u64, Ordering::Relaxed);
        queue.bytes -= queue.jobs.drain(..).map(|(_, bytes)| bytes.len() as u64 + ENTRY_BYTES).sum::<u64>();
        lock(&self.index).forget_disk();
        drop(queue);
        self.drained.notify_all();
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.root)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

#[cfg(test)]
impl Disk {
    /// Nothing is written while `work` runs; what was taken from the queue before still is.
    pub(super) fn pause(&self, work: impl FnOnce()) {
        lock(&self.shared.queue).paused = true;
        work();
        lock(&self.shared.queue).paused = false;
        self.shared.filled.notify_all();
    }
}

/// The thread.
struct Writer {
    shared: Arc<Shared>,
    /// Files in the order in which they are looked at for eviction, with their tickets; some are gone already.
    order: VecDeque<(Key, u64)>,
    tickets: u64,
}

impl Writer {
    fn run(mut self) {
        if !self.scan() {
            // How much room the rest takes is not known, so nothing may be written.
            self.shared.abandon(lock(&self.shared.queue));
            self.shared.scanning.store(false, Ordering::Relaxed);
            return;
        }
        self.make_room(0);
        self.shared.scanning.store(false, Ordering::Relaxed);
        while let Some((key, bytes)) = self.next_job() {
            let weight = bytes.len() as u64 + ENTRY_BYTES;
            if !self.shared.off.load(Ordering::Relaxed) {
                self.write(key, &bytes);
            }
            let mut queue = lock(&self.shared.queue);
            // What is being written counts: it is in memory still.
            queue.bytes -= weight;
            queue.done += 1;
            drop(queue);
            self.shared.drained.notify_all();
        }
    }

    fn next_job(&self) -> Option<(Key, Bytes)> {
        let mut queue = lock(&self.shared.queue);
        loop {
            if let Some(job) = queue.pop() {
                return Some(job);
            }
            if queue.closed {
                return None;
            }
            queue = self.shared.filled.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn write(&mut self, key: Key, bytes: &Bytes) {
        let shared = Arc::clone(&self.shared);
        if !self.make_room(disk_bytes(key.length)) {
            count(&shared.tally.dropped);
            lock(&shared.index).set_disk(key, OnDisk::No);
            return;
        }
        let path = shared.root.join(relative_path(&key));
        let written = write_file(&shared.root.join(TEMPORARY), &path, &key, bytes);
        let mut index = lock(&shared.index);
        // The disk may have been given up meanwhile.
        if written.is_ok() && !shared.off.load(Ordering::Relaxed) {
            self.tickets += 1;
            index.set_disk(key, OnDisk::Stored { ticket: self.tickets, used: false });
            self.order.push_back((key, self.tickets));
        } else {
            index.set_disk(key, OnDisk::No);
        }
        drop(index);
        match written {
            Ok(()) => {
                shared.worked();
                count(&shared.tally.written);
            }
            // Someone else filled the disk. That is no failure of it: give some room back.
            Err(error) if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
                count(&shared.tally.dropped);
                self.evict(disk_bytes(key.length), 0);
            }
            Err(error) => shared.failed("write", &path, &error),
        }
    }

    /// Evicts until `bytes` more keep the cap and the floor; `false` when that cannot be.
    fn make_room(&mut self, bytes: u64) -> bool {
        let limits = self.shared.limits;
        if bytes > limits.bytes {
            return false;
        }
        let (used, fragments) = lock(&self.shared.index).stored();
        let surplus = (used + bytes).saturating_sub(limits.bytes);
        let more = u64::from(bytes > 0);
        self.evict(surplus, (fragments + more).saturating_sub(DISK_FRAGMENTS_MAX as u64));
        if lock(&self.shared.index).stored().0 + bytes > limits.bytes {
            return false;
        }
        let wanted = limits.free_floor_bytes.saturating_add(bytes);
        let shared = Arc::clone(&self.shared);
        let shortage = || shared.free_bytes().map(|free| wanted.saturating_sub(free));
        // At most once: a file system may give the room of deleted files back later.
        match shortage() {
            Ok(0) => true,
            Ok(missing) => {
                self.evict(missing, 0);
                shortage().is_ok_and(|missing| missing == 0)
            }
            Err(error) => {
                shared.failed("measure", &shared.root, &error);
                false
            }
        }
    }

    /// Deletes files of at least so many bytes, and so many files, if there are.
    fn evict(&mut self, mut bytes: u64, mut fragments: u64) {
        while bytes > 0 || fragments > 0 {
            let Some((key, ticket)) = self.order.pop_front() else { return };
            let mut index = lock(&self.shared.index);
            match index.on_disk(&key) {
                OnDisk::Stored { ticket: current, used } if current == ticket => {
                    if used {
                        index.set_disk(key, OnDisk::Stored { ticket, used: false });
                        self.order.push_back((key, ticket));
                        continue;
                    }
                    index.set_disk(key, OnDisk::No);
                }
                _ => continue,
            }
            drop(index);
            let path = self.shared.root.join(relative_path(&key));
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => self.shared.failed("delete", &path, &error),
                _ => {}
            }
            count(&self.shared.tally.evicted_disk);
            bytes = bytes.saturating_sub(disk_bytes(key.length));
            fragments = fragments.saturating_sub(1);
        }
        self.forget_stale();
    }

    fn forget_stale(&mut self) {
        let index = lock(&self.shared.index);
        let (_, stored) = index.stored();
        if self.order.len() > STALE_MIN + 2 * stored as usize {
            self.order.retain(|(key, ticket)| index.ticket(key) == Some(*ticket));
        }
    }

    /// Finds the files from before the start; `false` when it was stopped.
    fn scan(&mut self) -> bool {
        let shared = Arc::clone(&self.shared);
        let _ = std::fs::remove_file(shared.root.join(TEMPORARY));
        let mut found = Vec::new();
        for outer in 0..DIRECTORIES {
            let outer = shared.root.join(format!("{outer:02x}"));
            let inners = if outer.exists() { DIRECTORIES } else { 0 };
            for inner in 0..inners {
                let dir = outer.join(format!("{inner:02x}"));
                match self.scan_directory(&dir, &mut found) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => shared.failed("list", &dir, &error),
                    _ => {}
                }
                if lock(&shared.queue).closed || shared.off.load(Ordering::Relaxed) {
                    return false;
                }
            }
        }
        found.sort_unstable();
        self.order.extend(found.into_iter().map(|(_, key, ticket)| (key, ticket)));
        true
    }

    fn scan_directory(&mut self, dir: &Path, found: &mut Vec<(SystemTime, Key, u64)>) -> io::Result<()> {
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            let Some(key) = entry.file_name().to_str().and_then(parse_name) else { continue };
            let metadata = entry.metadata()?;
            let whole = metadata.len() == HEADER_BYTES as u64 + u64::from(key.length);
            let placed = entry.path() == self.shared.root.join(relative_path(&key));
            if !whole || !placed || found.len() >= DISK_FRAGMENTS_MAX {
                std::fs::remove_file(entry.path())?;
                continue;
            }
            self.tickets += 1;
            let stored = OnDisk::Stored { ticket: self.tickets, used: false };
            // One that is queued was put meanwhile. Its file will be replaced by the same.
            lock(&self.shared.index).set_disk(key, stored);
            found.push((metadata.modified()?, key, self.tickets));
        }
        Ok(())
    }
}

fn make_dirs(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

/// The lock of a directory. It is given up by itself when the process ends, in whatever way.
#[derive(Debug)]
struct Lock(File);

impl Drop for Lock {
    /// Closing is not enough: a child that was forked, and did not execute its program yet, has the file open too.
    fn drop(&mut self) {
        let _ = rustix::fs::flock(&self.0, FlockOperation::Unlock);
    }
}

fn take_lock(dir: &Path) -> Result<Lock> {
    let path = dir.join(LOCK);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let file = options.open(&path).map_err(Error::io("open", &path))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Lock(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::Locked { dir: dir.to_owned() }),
        Err(error) => Err(Error::io("lock", &path)(error.into())),
    }
}

/// Where the file of a fragment is, below the root.
pub(super) fn relative_path(key: &Key) -> PathBuf {
    let mut name = String::with_capacity(NAME_LENGTH);
    for byte in key.blob {
        name.push_str(&format!("{byte:02x}"));
    }
    name.push_str(&format!("-{:016x}-{:08x}", key.start, key.length));
    let hash = crc32c::crc32c(name.as_bytes());
    let mut path = PathBuf::from(format!("{:02x}", hash % DIRECTORIES));
    path.push(format!("{:02x}", hash / DIRECTORIES % DIRECTORIES));
    path.push(name);
    path
}

fn parse_name(name: &str) -> Option<Key> {
    if name.len() != NAME_LENGTH {
        return None;
    }
    let mut fields = name.split('-');
    let blob = u128::from_str_radix(fields.next()?, 16).ok()?.to_be_bytes();
    let start = u64::from_str_radix(fields.next()?, 16).ok()?;
    let length = u32::from_str_radix(fields.next()?, 16).ok()?;
    let fits = length > 0 && length as usize <= FRAGMENT_BYTES_MAX && start.checked_add(u64::from(length)).is_some();
    fits.then_some(Key { blob, start, length })
}

/// The header of a file with this content.
fn header(key: &Key, bytes: &[u8]) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(&MAGIC);
    header[8..24].copy_from_slice(&key.blob);
    header[24..32].copy_from_slice(&key.start.to_le_bytes());
    header[32..36].copy_from_slice(&key.length.to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&header[..36]), bytes);
    header[36..].copy_from_slice(&crc.to_le_bytes());
    header
}

fn write_file(temporary: &Path, path: &Path, key: &Key, bytes: &Bytes) -> io::Result<()> {
    let written = create(temporary).and_then(|mut file| {
        file.write_all(&header(key, bytes))?;
        file.write_all(bytes)
    });
    let renamed = written.and_then(|()| match std::fs::rename(temporary, path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make_dirs(path.parent().unwrap_or(path))?;
            std::fs::rename(temporary, path)
        }
        other => other,
    });
    if renamed.is_err() {
        let _ = std::fs::remove_file(temporary);
    }
    renamed
}

/// The bytes of a fragment, or `None` when the file is not what was written.
fn read_file(path: &Path, key: &Key) -> io::Result<Option<Bytes>> {
    let mut file = File::open(path)?;
    let length = HEADER_BYTES + key.length as usize;
    let mut bytes = Vec::with_capacity(length + 1);
    (&mut file).take(length as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() != length || header(key, &bytes[HEADER_BYTES..]) != bytes[..HEADER_BYTES] {
        return Ok(None);
    }
    let now = SystemTime::now();
    let modified = file.metadata()?.modified()?;
    if now.duration_since(modified).is_ok_and(|age| age > RENEW_AFTER) {
        // Only for the order after a restart.
        let _ = file.set_times(FileTimes::new().set_modified(now));
    }
    Ok(Some(Bytes::from(bytes).slice(HEADER_BYTES..)))
}

const _: () = assert!(DISK_BLOCK_BYTES > HEADER_BYTES as u64);
