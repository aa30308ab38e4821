//! What is done to files, and the content that proves it.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use holdfast_compat_tests::fixture::bytes;

use super::peers::Mount;
use super::store::Store;

/// Bytes of a small write, and of what carries a stamp.
pub const PAGE: usize = 4 << 10;
/// Bytes of one call of `write` or `read` in order.
pub const STEP: usize = 1 << 20;
const PAGES: u64 = (STEP / PAGE) as u64;
const STAMP: usize = size_of::<u64>();

/// The content of a file: random bytes, and in each page of 4 KiB a stamp that no other page of any file has.
pub struct Content {
    block: Vec<u8>,
    seed: u64,
}

impl Content {
    /// The content that `seed` makes.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { block: bytes(seed, STEP), seed }
    }

    fn stamp(&self, page: u64) -> [u8; STAMP] {
        ((self.seed << 40) | page).to_le_bytes()
    }

    /// Makes `step`, which holds the random bytes, the step at page `first`.
    fn stamp_all(&self, step: &mut [u8], first: u64) {
        for (page, number) in step.chunks_exact_mut(PAGE).zip(first..) {
            page[..STAMP].copy_from_slice(&self.stamp(number));
        }
    }

    /// The 4 KiB of page `number`.
    #[must_use]
    pub fn page(&self, number: u64) -> Vec<u8> {
        let at = (number % PAGES) as usize * PAGE;
        let mut page = self.block[at..at + PAGE].to_vec();
        page[..STAMP].copy_from_slice(&self.stamp(number));
        page
    }

    /// Writes `length` bytes to a new file, in order, and syncs and closes it.
    ///
    /// # Errors
    /// When that fails.
    pub fn write(&self, path: &Path, length: u64) -> Result<()> {
        let mut file = File::create(path)?;
        let mut step = self.block.clone();
        for number in 0..length / STEP as u64 {
            self.stamp_all(&mut step, number * PAGES);
            file.write_all(&step)?;
        }
        file.sync_all().context("fsync")
    }

    /// Reads a file of `length` bytes, in order, and looks at the stamp of each page.
    ///
    /// # Errors
    /// When that fails, or the file holds something else.
    pub fn read(&self, path: &Path, length: u64) -> Result<()> {
        let mut file = File::open(path)?;
        let mut step = vec![0; STEP];
        for number in 0..length / STEP as u64 {
            file.read_exact(&mut step)?;
            for (page, at) in step.chunks_exact(PAGE).zip(number * PAGES..) {
                ensure!(page[..STAMP] == self.stamp(at), "page {at} holds something else");
            }
        }
        ensure!(file.read(&mut step)? == 0, "the file is too long");
        Ok(())
    }

    /// The last page of a file of `length` bytes: where it begins, and its bytes.
    #[must_use]
    pub fn last_page(&self, length: u64) -> (u64, Vec<u8>) {
        let number = length / PAGE as u64 - 1;
        (number * PAGE as u64, self.page(number))
    }
}

/// Writes a new file through a mount until it is in the store, which is then asked.
///
/// # Errors
/// When that fails, or the mount said so and the store has it not.
pub fn write_stored(mount: &Mount, store: &Store, key: &str, content: &Content, length: u64) -> Result<Duration> {
    let (path, (at, last)) = (mount.path().join(key), content.last_page(length));
    let took = mount.within("writing in order", || {
        let began = Instant::now();
        content.write(&path, length)?;
        if mount.side().returns_early() {
            store.await_bytes(key, length, at, &last)?;
        }
        Ok(began.elapsed())
    })?;
    ensure!(store.has(key, length, at, &last)?, "fsync and close returned, and the store does not have the file");
    Ok(took)
}

/// Writes a page of a file that is there until it is in the store, which is then asked.
///
/// # Errors
/// As [`write_stored`].
pub fn overwrite_stored(
    mount: &Mount,
    store: &Store,
    key: &str,
    length: u64,
    at: u64,
    page: &[u8],
) -> Result<Duration> {
    let path = mount.path().join(key);
    let took = mount.within("overwriting 4 KiB", || {
        let began = Instant::now();
        let file = File::options().write(true).open(&path)?;
        file.write_all_at(page, at)?;
        file.sync_all().context("fsync")?;
        drop(file);
        if mount.side().returns_early() {
            store.await_bytes(key, length, at, page)?;
        }
        Ok(began.elapsed())
    })?;
    ensure!(store.has(key, length, at, page)?, "fsync and close returned, and the store does not have the bytes");
    Ok(took)
}

/// Numbers in no order, the same in every run.
#[derive(Debug)]
pub struct Luck(u64);

impl Luck {
    /// Those that `seed` makes.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next one, below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        // xorshift64*.
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) % end.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let (path, content, length) = (dir.path().join("f"), Content::new(7), 3 * STEP as u64);
        content.write(&path, length).unwrap();
        content.read(&path, length).unwrap();
        let whole = std::fs::read(&path).unwrap();
        let (at, last) = content.last_page(length);
        assert_eq!(whole[at as usize..], last[..]);
        assert_eq!(whole[STEP + PAGE..STEP + 2 * PAGE], content.page(PAGES + 1)[..]);
        assert!(Content::new(8).read(&path, length).is_err());
        assert!(content.read(&path, length - STEP as u64).is_err());
    }

    #[test]
    fn luck_stays_below_its_end() {
        let mut luck = Luck::new(3);
        let found: std::collections::BTreeSet<u64> = (0..1000).map(|_| luck.below(10)).collect();
        assert_eq!(found, (0..10).collect());
    }
}
