//! Bytes and trees to move about: deterministic content, real source trees, and their comparison.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// Bytes that depend on `seed` and position alone, and do not compress.
#[must_use]
pub fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(length + 8);
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    while out.len() < length {
        // xorshift64*: fast, and no dependency decides what the bytes are.
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        out.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    out.truncate(length);
    out
}

/// Writes a file of `length` such bytes.
///
/// # Errors
/// When it cannot be written.
pub fn big_file(path: &Path, seed: u64, length: usize) -> Result<()> {
    const STEP: usize = 1 << 20;
    let mut file = File::create(path)?;
    let mut left = length;
    let mut part = seed;
    while left > 0 {
        let now = left.min(STEP);
        file.write_all(&bytes(part, now))?;
        left -= now;
        part += 1;
    }
    Ok(())
}

/// Hexadecimal SHA-256 of a file.
///
/// # Errors
/// When it cannot be read.
pub fn file_hash(path: &Path) -> Result<String> {
    let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(hex::encode(hasher.finalize()));
        }
        hasher.update(&buffer[..read]);
    }
}

/// A temporary directory for what only a client touches: in memory where there is `/dev/shm`, so that the disk is left to
/// the servers under test.
///
/// # Errors
/// When none can be made.
pub fn client_dir() -> Result<TempDir> {
    let memory = Path::new("/dev/shm");
    if memory.is_dir()
        && let Ok(dir) = tempfile::Builder::new().prefix("holdfast-client-").tempdir_in(memory)
    {
        return Ok(dir);
    }
    Ok(tempfile::tempdir()?)
}

/// Relative path and hash of every file below `root`.
///
/// # Errors
/// When a file cannot be read.
pub fn tree_hashes(root: &Path) -> Result<BTreeMap<PathBuf, String>> {
    let mut hashes = BTreeMap::new();
    for file in files_below(root, usize::MAX)? {
        let hash = file_hash(&file)?;
        hashes.insert(file.strip_prefix(root)?.to_owned(), hash);
    }
    Ok(hashes)
}

/// Fails unless both trees hold the same files with the same content.
///
/// # Errors
/// With the first few differences.
pub fn same_tree(left: &BTreeMap<PathBuf, String>, right: &BTreeMap<PathBuf, String>) -> Result<()> {
    let wrong: Vec<String> = left
        .iter()
        .filter_map(|(path, hash)| match right.get(path) {
            None => Some(format!("missing {}", path.display())),
            Some(other) if other != hash => Some(format!("different {}", path.display())),
            Some(_) => None,
        })
        .chain(right.keys().filter(|path| !left.contains_key(*path)).map(|path| format!("extra {}", path.display())))
        .collect();
    if wrong.is_empty() {
        return Ok(());
    }
    bail!("{} of {} files differ: {}", wrong.len(), left.len(), wrong[..wrong.len().min(5)].join(", "))
}

/// Makes `dir` a real source tree of exactly `files` regular files: linked from the crates or Go modules on this machine,
/// and filled up with made files where those do not reach.
///
/// # Errors
/// When files cannot be read or written.
pub fn source_tree(dir: &Path, files: usize) -> Result<()> {
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let roots = [home.join(".cargo/registry/src"), home.join("go/pkg/mod")];
    let mut taken = 0;
    for (number, root) in roots.iter().enumerate().filter(|(_, root)| root.is_dir()) {
        for file in files_below(root, files - taken)? {
            let to = dir.join(format!("tree{number}")).join(file.strip_prefix(root)?);
            std::fs::create_dir_all(to.parent().context("a file has a directory")?)?;
            std::fs::copy(&file, &to).with_context(|| format!("cannot copy {}", file.display()))?;
            taken += 1;
        }
    }
    for number in taken..files {
        let to = dir.join(format!("made/{:03}/{number:06}.bin", number % 100));
        std::fs::create_dir_all(to.parent().context("a file has a directory")?)?;
        std::fs::write(to, bytes(number as u64, 100 + number % 5000))?;
    }
    Ok(())
}

/// At most `limit` regular files of at most 1 MiB below `root`, in order, with names that every client accepts.
fn files_below(root: &Path, limit: usize) -> Result<Vec<PathBuf>> {
    const FILE_BYTES_MAX: u64 = 1 << 20;
    let mut found = Vec::new();
    let mut pending = vec![root.to_owned()];
    while let Some(dir) = pending.pop() {
        let mut entries: Vec<_> = std::fs::read_dir(&dir)?.collect::<std::io::Result<_>>()?;
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let kind = entry.file_type()?;
            if entry.file_name().to_str().is_none() {
                continue;
            }
            if kind.is_dir() {
                pending.push(entry.path());
            } else if kind.is_file() && entry.metadata()?.len() <= FILE_BYTES_MAX {
                found.push(entry.path());
                if found.len() >= limit {
                    return Ok(found);
                }
            }
        }
    }
    Ok(found)
}
