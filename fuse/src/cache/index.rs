//! Which fragments there are, and where. Plain data under one mutex; no I/O.

use std::collections::BTreeMap;
use std::ops::Range;

use super::{Blob, DISK_BLOCK_BYTES};

/// Fragments before a place that are looked at for one that contains it. Only overlapping fragments need more than one.
const LOOK_BACK_MAX: usize = 32;
/// Fragments that one range is gathered from at most.
const GATHER_MAX: usize = 16_384;

/// Identity of a fragment. `length` is never 0, and `start + length` does not overflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) blob: Blob,
    pub(super) start: u64,
    pub(super) length: u32,
}

impl Key {
    pub(super) fn end(&self) -> u64 {
        self.start + u64::from(self.length)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// One map for all blobs: most blobs are small files of one fragment, and a map of their own would cost more than that.
    fragments: BTreeMap<Key, Entry>,
    stored_bytes: u64,
    stored: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    memory: bool,
    disk: OnDisk,
}

/// A fragment's life on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum OnDisk {
    /// No file.
    #[default]
    No,
    /// Waits to be written.
    Queued,
    /// Has a file.
    Stored {
        /// Tells this file from an earlier one of the same name.
        ticket: u64,
        /// Read since it was last looked at for eviction.
        used: bool,
    },
}

impl Entry {
    fn is_readable(self) -> bool {
        self.memory || matches!(self.disk, OnDisk::Stored { .. })
    }

    fn is_kept(self) -> bool {
        self.disk != OnDisk::No
    }
}

impl Index {
    /// Fragments that together cover the range, in order. Those with a file count as used.
    pub(super) fn find(&mut self, blob: Blob, range: &Range<u64>) -> Option<Vec<Key>> {
        let found = self.cover(blob, range, Entry::is_readable)?;
        let keys = found.into_iter().map(|(key, entry)| {
            if let OnDisk::Stored { ticket, used: false } = entry.disk {
                self.set_disk(key, OnDisk::Stored { ticket, used: true });
            }
            key
        });
        Some(keys.collect())
    }

    /// Whether fragments cover the range, in memory or with a file, or with one that is to be written.
    pub(super) fn covers(&self, blob: Blob, range: &Range<u64>) -> bool {
        self.cover(blob, range, |entry| entry.memory || entry.is_kept()).is_some()
    }

    /// Whether one fragment in memory contains this one.
    pub(super) fn is_in_memory(&self, key: &Key) -> bool {
        self.is_contained(key, |entry| entry.memory)
    }

    /// Whether one fragment that has a file, or is to get one, contains this one.
    pub(super) fn is_kept(&self, key: &Key) -> bool {
        self.is_contained(key, Entry::is_kept)
    }

    pub(super) fn set_memory(&mut self, key: Key, memory: bool) {
        self.change(key, |entry| entry.memory = memory);
    }

    pub(super) fn on_disk(&self, key: &Key) -> OnDisk {
        self.fragments.get(key).map_or(OnDisk::No, |entry| entry.disk)
    }

    /// Ticket of the fragment's file, if it has one.
    pub(super) fn ticket(&self, key: &Key) -> Option<u64> {
        match self.on_disk(key) {
            OnDisk::Stored { ticket, .. } => Some(ticket),
            OnDisk::No | OnDisk::Queued => None,
        }
    }

    pub(super) fn set_disk(&mut self, key: Key, disk: OnDisk) {
        let mut before = OnDisk::No;
        self.change(key, |entry| before = std::mem::replace(&mut entry.disk, disk));
        if matches!(before, OnDisk::Stored { .. }) {
            self.stored -= 1;
            self.stored_bytes -= disk_bytes(key.length);
        }
        if matches!(disk, OnDisk::Stored { .. }) {
            self.stored += 1;
            self.stored_bytes += disk_bytes(key.length);
        }
    }

    /// Bytes in blocks, and number, of the fragments that have a file.
    pub(super) fn stored(&self) -> (u64, u64) {
        (self.stored_bytes, self.stored)
    }

    /// Forgets all files.
    pub(super) fn forget_disk(&mut self) {
        self.fragments.retain(|_, entry| {
            entry.disk = OnDisk::No;
            entry.memory
        });
        (self.stored, self.stored_bytes) = (0, 0);
    }

    fn change(&mut self, key: Key, change: impl FnOnce(&mut Entry)) {
        let entry = self.fragments.entry(key).or_default();
        change(entry);
        if !entry.memory && entry.disk == OnDisk::No {
            self.fragments.remove(&key);
        }
    }

    fn is_contained(&self, key: &Key, accept: impl Fn(Entry) -> bool) -> bool {
        self.before(key.blob, key.start).any(|(found, entry)| found.end() >= key.end() && accept(entry))
    }

    fn cover(&self, blob: Blob, range: &Range<u64>, accept: impl Fn(Entry) -> bool) -> Option<Vec<(Key, Entry)>> {
        let mut found = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let (key, entry) = self.before(blob, at).find(|&(key, entry)| key.end() > at && accept(entry))?;
            if found.len() == GATHER_MAX {
                return None;
            }
            found.push((key, entry));
            at = key.end();
        }
        Some(found)
    }

    /// Fragments that start at or before a place, nearest and longest first.
    fn before(&self, blob: Blob, at: u64) -> impl Iterator<Item = (Key, Entry)> {
        let key = |start, length| Key { blob, start, length };
        let nearest = self.fragments.range(key(0, 0)..=key(at, u32::MAX)).rev().take(LOOK_BACK_MAX);
        nearest.map(|(&key, &entry)| (key, entry))
    }
}

/// Bytes that the file of a fragment counts for.
pub(super) fn disk_bytes(length: u32) -> u64 {
    (super::disk::HEADER_BYTES as u64 + u64::from(length)).next_multiple_of(DISK_BLOCK_BYTES)
}
