//! A disk whose power can go: at once, or in the middle of the next write. What was not written by then is lost.

use std::fs::OpenOptions;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::cluster::log::files::{LogFile, LogFiles, RealFiles};

/// Nothing is torn.
const WHOLE: usize = usize::MAX;

/// Of one start of a node.
pub(super) struct Power {
    gone: AtomicBool,
    /// Bytes of the next write that still reach the disk.
    tear_after: AtomicUsize,
}

impl Power {
    pub(super) fn on() -> Arc<Self> {
        Arc::new(Self { gone: AtomicBool::new(false), tear_after: AtomicUsize::new(WHOLE) })
    }

    /// The process is dead: what it still does reaches nothing.
    pub(super) fn cut(&self) {
        self.gone.store(true, Ordering::Relaxed);
    }

    /// It goes in the middle of the next write.
    pub(super) fn cut_after(&self, bytes: usize) {
        self.tear_after.store(bytes, Ordering::Relaxed);
    }

    pub(super) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    fn check(&self) -> io::Result<()> {
        if self.is_gone() { Err(io::Error::other("the power is gone")) } else { Ok(()) }
    }
}

/// Real files without syncs: the simulation decides what survives.
#[derive(Clone)]
pub(super) struct SimFiles(pub Arc<Power>);

struct SimFile {
    file: Arc<dyn LogFile>,
    power: Arc<Power>,
}

impl LogFiles for SimFiles {
    fn create(&self, path: &Path, bytes: u64) -> io::Result<Arc<dyn LogFile>> {
        self.0.check()?;
        OpenOptions::new().write(true).create_new(true).open(path)?.set_len(bytes)?;
        self.open(path)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn LogFile>> {
        Ok(Arc::new(SimFile { file: RealFiles.open(path)?, power: self.0.clone() }))
    }

    fn names(&self, dir: &Path) -> io::Result<Vec<String>> {
        RealFiles.names(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.check()?;
        RealFiles.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.check()?;
        RealFiles.remove(path)
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        self.0.check()
    }

    fn free_bytes(&self, _: &Path) -> io::Result<u64> {
        Ok(u64::MAX / 2)
    }
}

impl LogFile for SimFile {
    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.power.check()?;
        let keep = self.power.tear_after.swap(WHOLE, Ordering::Relaxed);
        if keep < bytes.len() {
            self.file.write_at(&bytes[..keep], offset)?;
            self.power.cut();
            return self.power.check();
        }
        self.file.write_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.power.check()
    }
}
