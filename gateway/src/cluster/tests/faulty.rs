//! The log's file seam with faults: failing syncs, a full disk, torn writes, and a record of what happened in which order.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::cluster::log::files::{LogFile, LogFiles, RealFiles};

/// What was done to files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cluster) enum Event {
    Write {
        offset: u64,
        bytes: usize,
    },
    Sync,
    /// Noted by a test.
    Note(&'static str),
}

/// Switches, shared by all files.
#[derive(Default)]
pub(in crate::cluster) struct Faults {
    pub fail_sync: AtomicBool,
    /// Neither new files nor writes outside a file's allocation.
    pub no_creation: AtomicBool,
    /// Writes into files fail as on a disk that cannot allocate ahead.
    pub no_writes: AtomicBool,
    /// Only this many bytes of the next write reach the file, then it fails. `u64::MAX`: off.
    pub tear_after: AtomicU64,
    pub free_bytes: AtomicU64,
    sync_gate: Mutex<()>,
    events: Mutex<Vec<Event>>,
}

#[derive(Clone)]
pub(in crate::cluster) struct FaultyFiles(pub Arc<Faults>);

impl FaultyFiles {
    pub fn new() -> Self {
        let faults = Faults::default();
        faults.tear_after.store(u64::MAX, Ordering::SeqCst);
        faults.free_bytes.store(u64::MAX, Ordering::SeqCst);
        Self(Arc::new(faults))
    }

    pub fn note(&self, what: &'static str) {
        self.0.events.lock().unwrap().push(Event::Note(what));
    }

    /// Lets no sync return until the result is dropped.
    pub async fn hold_syncs(&self) -> HeldSyncs {
        let (release, hold) = std::sync::mpsc::channel::<()>();
        let (ready, held) = tokio::sync::oneshot::channel();
        let faults = self.0.clone();
        let thread = std::thread::spawn(move || {
            let _gate = faults.sync_gate.lock().unwrap();
            ready.send(()).unwrap();
            // Ends when the other side is dropped.
            let _ = hold.recv();
        });
        held.await.unwrap();
        HeldSyncs { release: Some(release), thread: Some(thread) }
    }

    pub fn take_events(&self) -> Vec<Event> {
        std::mem::take(&mut self.0.events.lock().unwrap())
    }
}

/// See [`FaultyFiles::hold_syncs`].
pub(in crate::cluster) struct HeldSyncs {
    release: Option<std::sync::mpsc::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for HeldSyncs {
    fn drop(&mut self) {
        self.release.take();
        self.thread.take().unwrap().join().unwrap();
    }
}

fn full() -> io::Error {
    io::Error::from_raw_os_error(28)
}

impl LogFiles for FaultyFiles {
    fn create(&self, path: &Path, bytes: u64) -> io::Result<Arc<dyn LogFile>> {
        if self.0.no_creation.load(Ordering::SeqCst) {
            return Err(full());
        }
        Ok(Arc::new(FaultyFile { file: RealFiles.create(path, bytes)?, faults: self.0.clone() }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn LogFile>> {
        Ok(Arc::new(FaultyFile { file: RealFiles.open(path)?, faults: self.0.clone() }))
    }

    fn names(&self, dir: &Path) -> io::Result<Vec<String>> {
        RealFiles.names(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealFiles.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        RealFiles.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        RealFiles.sync_dir(dir)
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        match self.0.free_bytes.load(Ordering::SeqCst) {
            u64::MAX => RealFiles.free_bytes(dir),
            bytes => Ok(bytes),
        }
    }
}

struct FaultyFile {
    file: Arc<dyn LogFile>,
    faults: Arc<Faults>,
}

impl LogFile for FaultyFile {
    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if self.faults.no_writes.load(Ordering::SeqCst) {
            // A part may reach the file before the disk is full.
            self.file.write_at(&bytes[..bytes.len() / 2], offset)?;
            return Err(full());
        }
        let keep = self.faults.tear_after.swap(u64::MAX, Ordering::SeqCst);
        if keep < bytes.len() as u64 {
            self.file.write_at(&bytes[..keep as usize], offset)?;
            return Err(io::Error::other("power is gone"));
        }
        self.file.write_at(bytes, offset)?;
        self.faults.events.lock().unwrap().push(Event::Write { offset, bytes: bytes.len() });
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let _gate = self.faults.sync_gate.lock().unwrap();
        if self.faults.fail_sync.load(Ordering::SeqCst) {
            return Err(io::Error::other("the device says no"));
        }
        self.file.sync_data()?;
        self.faults.events.lock().unwrap().push(Event::Sync);
        Ok(())
    }
}
