//! The directory of a journal: its lock, its identity, and making changes of names durable.
//!
//! The file `leases` has a line for each lease of the running client. The identity file `client` is magic (8 bytes), format
//! version (u32, little endian), id (16 bytes), CRC-32C of these (u32).

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::FlockOperation;

use super::{Error, Result, segment};

const LOCK: &str = "lock";
const IDENTITY: &str = "client";
const IDENTITY_TEMPORARY: &str = "client.tmp";
const LEASES: &str = "leases";
const LEASES_TEMPORARY: &str = "leases.tmp";
const MAGIC: [u8; 8] = *b"HFCLIENT";
const VERSION: u32 = 1;
const IDENTITY_BYTES: usize = 32;

/// The lock of a directory. It is given up by itself when the process ends, in whatever way.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Drop for Lock {
    /// Closing is not enough: a child that was forked, and did not execute its program yet, has the file open too.
    fn drop(&mut self) {
        let _ = rustix::fs::flock(&self.0, FlockOperation::Unlock);
    }
}

/// Creates the directory if needed and takes it, until the lock is dropped.
pub(super) fn lock(dir: &Path) -> Result<Lock> {
    if !dir.exists() {
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(Error::io("create", dir))?;
        if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            sync(parent)?;
        }
    }
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

/// Reads the id of the client; a directory without segments gets one.
pub(super) fn client(dir: &Path) -> Result<[u8; 16]> {
    let path = dir.join(IDENTITY);
    match File::open(&path) {
        Ok(file) => read(&path, file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if !segment::list(dir)?.is_empty() {
                let what = "the identity is missing, but there are segments";
                return Err(Error::Damaged { path, offset: 0, what });
            }
            mint(dir, &path)
        }
        Err(error) => Err(Error::io("open", &path)(error)),
    }
}

fn read(path: &Path, file: File) -> Result<[u8; 16]> {
    let mut bytes = Vec::with_capacity(IDENTITY_BYTES);
    file.take(IDENTITY_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(Error::io("read", path))?;
    let damaged = |what| Error::Damaged { path: path.to_owned(), offset: 0, what };
    let bytes: [u8; IDENTITY_BYTES] = bytes.try_into().map_err(|_| damaged("an identity has 32 bytes"))?;
    let [body @ .., c0, c1, c2, c3] = bytes;
    if body[..8] != MAGIC || crc32c::crc32c(&body) != u32::from_le_bytes([c0, c1, c2, c3]) {
        return Err(damaged("not an identity, or its checksum is wrong"));
    }
    let version = u32::from_le_bytes([body[8], body[9], body[10], body[11]]);
    if version != VERSION {
        return Err(Error::Version { path: path.to_owned(), version });
    }
    let mut client = [0; 16];
    client.copy_from_slice(&body[12..]);
    Ok(client)
}

fn mint(dir: &Path, path: &Path) -> Result<[u8; 16]> {
    let client: [u8; 16] = rand::random();
    let mut bytes = Vec::with_capacity(IDENTITY_BYTES);
    bytes.extend(MAGIC);
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend(client);
    bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
    let temporary = dir.join(IDENTITY_TEMPORARY);
    let written = (|| {
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    })();
    written.map_err(Error::io("create", path))?;
    sync(dir)?;
    Ok(client)
}

/// Leases that the client has, to be given back by its next life should this one end without a word. That is worth no sync:
/// a machine that crashed comes back when they have ended.
pub(super) fn keep_leases(dir: &Path, leases: &[u64]) -> Result<()> {
    let (path, temporary) = (dir.join(LEASES), dir.join(LEASES_TEMPORARY));
    let text: String = leases.iter().map(|lease| format!("{lease}\n")).collect();
    let written = std::fs::write(&temporary, text).and_then(|()| std::fs::rename(&temporary, &path));
    written.map_err(Error::io("write", &path))
}

/// The leases of the client's last life; none that cannot be read.
pub(super) fn leases(dir: &Path) -> Vec<u64> {
    let text = std::fs::read_to_string(dir.join(LEASES)).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

/// Makes creations, renames and deletions in the directory durable.
pub(super) fn sync(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|file| file.sync_all()).map_err(Error::io("sync", dir))
}
