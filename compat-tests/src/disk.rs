//! A small disk: a file system in memory, of a size that is filled in seconds.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};

use crate::skip::skip;

/// Large enough for the reserve that deletes need, small enough to fill.
const SIZE: &str = "size=700m";

/// A mounted disk; dropping it unmounts it.
#[derive(Debug)]
pub struct Disk(PathBuf);

impl Disk {
    /// Mounts one on `path`, which is made.
    ///
    /// # Errors
    /// A skip without root; otherwise when it cannot be mounted.
    pub fn mount(path: PathBuf) -> Result<Self> {
        std::fs::create_dir(&path)?;
        if !rustix::process::geteuid().is_root() {
            return Err(skip("mounting a small disk needs root"));
        }
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", SIZE, "tmpfs"]).arg(&path).status()?;
        ensure!(status.success(), "cannot mount a tmpfs");
        Ok(Self(path))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Bytes that are free.
    ///
    /// # Errors
    /// When the system cannot tell.
    pub fn free(&self) -> Result<u64> {
        let stat = rustix::fs::statvfs(&self.0)?;
        Ok(stat.f_bavail * stat.f_frsize)
    }

    /// Fills it with one file, `ballast`.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn fill(&self, ballast: &Path) -> Result<()> {
        let mut left = self.free()?;
        let mut file = std::fs::File::create(ballast)?;
        while left > 0 {
            let step = left.min(1 << 20);
            if std::io::copy(&mut std::io::Read::take(std::io::repeat(1), step), &mut file).is_err() {
                break;
            }
            left = self.free()?;
        }
        Ok(())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
