//! Directories that survive a power cut.
//!
//! A name is durable only once the directory that holds it is synced. A data directory whose own name was lost takes every
//! fsync inside of it along, so each directory that holds durable files is created here and nowhere else.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Creates the directory and makes it, and every ancestor it had to create, durable. Nobody but the owner may enter them.
///
/// # Errors
/// When one cannot be created or synced.
pub fn create(directory: &Path) -> io::Result<PathBuf> {
    let missing: Vec<&Path> =
        directory.ancestors().filter(|path| !path.as_os_str().is_empty()).take_while(|path| !path.exists()).collect();
    for path in missing.iter().rev() {
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    let directory = directory.canonicalize()?;
    // One parent more than was created: an earlier run may have died between creating the directory and syncing it.
    for path in directory.ancestors().skip(1).take(missing.len().max(1)) {
        match File::open(path).and_then(|parent| parent.sync_all()) {
            // A parent that this process may not read was not created by it.
            Err(error) if error.kind() != io::ErrorKind::PermissionDenied => return Err(error),
            _ => {}
        }
    }
    Ok(directory)
}
