//! The open directory: its capability, its unfinished files, its state after a failed sync.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, RwLock};
use std::time::{Duration, SystemTime};

use cap_std::ambient_authority;
use cap_std::fs::{Dir, OpenOptions};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use super::super::path::RESERVED_SEGMENT;
use super::super::{Error, Result, Swept};
use super::durable::{Durable, Syncer};
use crate::durable_dir;

const TEMP_PREFIX: &str = "put-";
/// Puts that sync at once; further ones wait. Enough for the file system to serve many with one commit of its journal.
const PUBLISHING_MAX: usize = 128;
const LOCK_FILE: &str = "lock";

/// The open directory.
pub(super) struct Store {
    pub root: Dir,
    pub temps: Dir,
    pub durable: Durable,
    pub syncer: Syncer,
    /// Held for reading by deletes and for writing by puts that replace a certain version, so these are one after the other.
    pub replacing: RwLock<()>,
    pub tracker: TaskTracker,
    /// Bounds the puts that sync at once, so that these never take all blocking threads from the reads.
    pub publishing: Semaphore,
    directory: PathBuf,
    name: String,
    /// Why the store is closed for writes, once it is.
    poison: OnceLock<String>,
    /// Tells the unfinished files of this process apart.
    temp_run: u64,
    temp_count: AtomicU64,
    /// Keeps the shared lock.
    lock: File,
    #[cfg(test)]
    pub hooks: std::sync::Mutex<Hooks>,
}

/// What tests make syncs do, and what they see of them.
#[cfg(test)]
#[derive(Default)]
pub(super) struct Hooks {
    pub fail: Option<io::ErrorKind>,
    pub delay: Duration,
    pub synced: Vec<String>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("directory", &self.directory)
            .field("poison", &self.poison)
            .finish_non_exhaustive()
    }
}

impl Store {
    pub fn open(directory: &Path) -> Result<Self> {
        let shown = directory.display().to_string();
        let failed = |error| io_error("open", &shown, error);
        let directory = durable_dir::create(directory).map_err(failed)?;
        let root = Dir::open_ambient_dir(&directory, ambient_authority()).map_err(failed)?;
        match root.create_dir(RESERVED_SEGMENT) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
            _ => {}
        }
        let temps = root.open_dir(RESERVED_SEGMENT).map_err(failed)?;
        let mut lock_options = OpenOptions::new();
        lock_options.write(true).create(true);
        let lock = temps.open_with(LOCK_FILE, &lock_options).map_err(failed)?.into_std();
        let alone = try_lock(&lock).map_err(failed)?;
        let store = Store {
            root,
            temps,
            durable: Durable::default(),
            syncer: Syncer::default(),
            replacing: RwLock::default(),
            tracker: TaskTracker::new(),
            publishing: Semaphore::new(PUBLISHING_MAX),
            name: format!("file:{shown}"),
            directory,
            poison: OnceLock::new(),
            temp_run: rand::random(),
            temp_count: AtomicU64::new(0),
            lock,
            #[cfg(test)]
            hooks: Default::default(),
        };
        if alone {
            let swept = store.sweep(Duration::ZERO)?;
            if swept.removed > 0 {
                tracing::info!(
                    store = store.name,
                    removed = swept.removed,
                    "removed unfinished writes of an earlier run"
                );
            }
            rustix::fs::flock(&store.lock, FlockOperation::NonBlockingLockShared)
                .map_err(|error| failed(error.into()))?;
        }
        Ok(store)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs file work on a blocking thread. The work runs to its end even when the caller stops waiting.
    pub async fn blocking<T, F>(self: &Arc<Self>, action: &'static str, job: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Arc<Store>) -> Result<T> + Send + 'static,
    {
        let store = Arc::clone(self);
        match self.tracker.spawn_blocking(move || job(&store)).await {
            Ok(result) => result,
            Err(cause) if cause.is_panic() => std::panic::resume_unwind(cause.into_panic()),
            // The runtime is going down.
            Err(cause) => Err(Error::unavailable(action, &self.name, cause)),
        }
    }

    pub async fn close(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }

    /// # Errors
    /// [`Error::Poisoned`] after a failed sync.
    pub fn check_writable(&self) -> Result<()> {
        match self.poison.get() {
            None => Ok(()),
            Some(cause) => Err(Error::Poisoned { cause: cause.clone() }),
        }
    }

    /// Closes the store for writes, for good. The kernel may have dropped the dirty pages after it reported the failure, so
    /// a second sync that succeeds would prove nothing.
    pub fn poison(&self, what: &str, error: &io::Error) -> Error {
        let cause = self.poison.get_or_init(|| format!("sync of {what}: {error}"));
        tracing::error!(store = self.name, cause, "the store is closed for writes; this process must be restarted");
        Error::Poisoned { cause: cause.clone() }
    }

    /// Syncs an unfinished file. Only lack of space is forgiven: the caller drops the file, and nothing else was at stake.
    pub fn sync_file(&self, file: &File, path: &str) -> Result<()> {
        match self.raw_sync(path, file.as_fd()) {
            Ok(()) => Ok(()),
            Err(error) if is_no_space(&error) => Err(io_error("put", path, error)),
            Err(error) => Err(self.poison(path, &error)),
        }
    }

    /// Syncs a directory. One that is gone needs no sync: whoever removed it syncs its parent.
    ///
    /// # Errors
    /// [`Error::Poisoned`] when the sync failed, another error when it could not even begin.
    pub fn sync_directory(&self, directory: &str) -> Result<()> {
        let file = match self.open_directory(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            opened => opened.map_err(|error| io_error("sync", directory, error))?,
        };
        self.raw_sync(directory, file.as_fd()).map_err(|error| self.poison(directory, &error))
    }

    fn raw_sync(&self, what: &str, file: impl AsFd) -> io::Result<()> {
        #[cfg(test)]
        self.run_hooks(what)?;
        tracing::trace!(store = self.name, what, "sync");
        Ok(rustix::fs::fsync(file)?)
    }

    #[cfg(test)]
    fn run_hooks(&self, what: &str) -> io::Result<()> {
        let (delay, fail) = {
            let mut hooks = self.hooks.lock().expect("no panic while held");
            hooks.synced.push(what.to_owned());
            (hooks.delay, hooks.fail)
        };
        std::thread::sleep(delay);
        fail.map_or(Ok(()), |kind| Err(kind.into()))
    }

    /// Opens a directory for reading and syncing. The capability alone gives handles that can only be walked through.
    pub fn open_directory(&self, directory: &str) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = match directory {
            "" => rustix::fs::openat(&self.root, ".", flags, Mode::empty()),
            _ => rustix::fs::openat(self.root.open_dir(directory)?, ".", flags, Mode::empty()),
        };
        Ok(File::from(opened?))
    }

    pub fn create_temp(self: &Arc<Self>) -> io::Result<TempFile> {
        let count = self.temp_count.fetch_add(1, Ordering::Relaxed);
        let name = format!("{TEMP_PREFIX}{:016x}-{count}", self.temp_run);
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        let file = self.temps.open_with(&name, &options)?.into_std();
        Ok(TempFile { store: Arc::clone(self), name, file, is_moved: false, written: 0, started: 0 })
    }

    /// Removes unfinished files that nobody touched for a while.
    pub fn sweep(&self, older_than: Duration) -> Result<Swept> {
        let failed = |error| io_error("sweep", &self.name, error);
        let now = SystemTime::now();
        let mut swept = Swept::default();
        for entry in self.temps.entries().map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            if !name.to_str().is_some_and(|name| name.starts_with(TEMP_PREFIX)) {
                continue;
            }
            let is_old = |modified: SystemTime| now.duration_since(modified).is_ok_and(|age| age >= older_than);
            let is_due = older_than.is_zero()
                || entry.metadata().and_then(|metadata| metadata.modified()).is_ok_and(|time| is_old(time.into_std()));
            match is_due && self.temps.remove_file(&name).is_ok() {
                true => swept.removed += 1,
                false => swept.kept += 1,
            }
        }
        Ok(swept)
    }

    pub fn free_bytes(&self) -> Result<u64> {
        let root = self.open_directory("").map_err(|error| io_error("probe", &self.name, error))?;
        let stat = rustix::fs::fstatvfs(&root).map_err(|error| io_error("probe", &self.name, error.into()))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

/// An unfinished file; removed when dropped, unless it was moved to its name.
pub(super) struct TempFile {
    store: Arc<Store>,
    pub name: String,
    pub file: File,
    pub is_moved: bool,
    /// Bytes written so far.
    pub written: u64,
    /// How many of these the kernel was asked to bring to the disk.
    pub started: u64,
}

impl Drop for TempFile {
    fn drop(&mut self) {
        if self.is_moved {
            return;
        }
        let (store, name) = (Arc::clone(&self.store), std::mem::take(&mut self.name));
        let remove = move || {
            // What cannot be removed now is removed by a sweep.
            if let Err(error) = store.temps.remove_file(&name) {
                tracing::warn!(store = store.name, name, %error, "cannot remove an unfinished file");
            }
        };
        // Freeing a large file takes a while, so it must not happen on the reactor, where a dropped put ends up.
        match Handle::try_current() {
            Ok(_) => drop(self.store.tracker.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

/// Takes the lock; says whether nobody else has it.
fn try_lock(lock: &File) -> io::Result<bool> {
    match rustix::fs::flock(lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => return Ok(true),
        Err(Errno::WOULDBLOCK) => {}
        Err(error) => return Err(error.into()),
    }
    match rustix::fs::flock(lock, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(false),
        Err(Errno::WOULDBLOCK) => {
            Err(io::Error::new(io::ErrorKind::ResourceBusy, "another process is starting on this directory; try again"))
        }
        Err(error) => Err(error.into()),
    }
}

pub(super) fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Says what an error of the operating system means to the caller.
pub(super) fn io_error(action: &'static str, path: impl fmt::Display, error: io::Error) -> Error {
    let path = path.to_string();
    let is_fd_limit = matches!(Errno::from_io_error(&error), Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM));
    match error.kind() {
        // A file where the name wants a directory: nothing with that name can exist.
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Error::NotFound { path },
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            Error::Denied { action, path, source: error.into() }
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Error::NoSpace { action, path, source: error.into() }
        }
        io::ErrorKind::ResourceBusy => Error::Busy { action, path, retry_after: None, source: error.into() },
        io::ErrorKind::InvalidFilename => {
            Error::invalid(format_args!("the file system refuses the name {path}: {error}"))
        }
        _ if is_fd_limit => Error::Busy { action, path, retry_after: None, source: error.into() },
        _ => Error::Unavailable { action, path, source: error.into() },
    }
}
