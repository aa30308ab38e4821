//! What POSIX and Linux promise of files, each promise as one function of a directory, written from the standard
//! (IEEE Std 1003.1, and the manual pages of Linux for what it does not know).
//!
//! Each check gets an empty directory of its own. Where the standard leaves a choice, every allowed answer is accepted.

mod attributes;
mod data;
mod locks;
mod tree;

use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use rustix::io::Errno;

pub use locks::counter;

/// A check on a directory.
pub type Check = fn(&Path) -> Result<()>;

/// All checks by name, in one order.
pub fn checks() -> impl Iterator<Item = (&'static str, Check)> {
    [tree::CHECKS, data::CHECKS, attributes::CHECKS, locks::CHECKS].into_iter().flatten().copied()
}

/// Runs the check `name` in a new directory of that name below `dir`, and removes it.
///
/// # Errors
/// When the promise is broken.
pub fn run(dir: &Path, name: &str, check: Check) -> Result<()> {
    let own = dir.join(name);
    std::fs::create_dir(&own)?;
    check(&own)?;
    std::fs::remove_dir_all(&own).context("cannot remove what the check left")
}

/// Fails unless `result` is one of the errors `expected`.
fn refused<T: Debug>(result: rustix::io::Result<T>, expected: &[Errno]) -> Result<()> {
    match result {
        Ok(value) => bail!("{value:?} instead of {expected:?}"),
        Err(error) => {
            ensure!(expected.contains(&error), "{error:?} instead of {expected:?}");
            Ok(())
        }
    }
}

/// As [`refused`], for what the standard library returns.
fn refused_io<T: Debug>(result: io::Result<T>, expected: &[Errno]) -> Result<()> {
    refused(result.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO)), expected)
}

/// Fails unless both are equal.
fn equal<T: PartialEq + Debug>(what: &str, have: T, want: T) -> Result<()> {
    ensure!(have == want, "{what}: {have:?} instead of {want:?}");
    Ok(())
}

/// A new file for reading and writing.
fn new_file(path: &Path, content: &[u8]) -> Result<File> {
    let file = File::options().read(true).write(true).create_new(true).open(path)?;
    std::os::unix::fs::FileExt::write_all_at(&file, content, 0)?;
    Ok(file)
}
