//! Committed entries of the log, in their stored form, for whoever keeps them elsewhere.
//!
//! What is handed out has been applied on this node, so it is committed and never changes. An entry is given as the log
//! stores it (`codec`): log id, kind, bytes. Reading is bounded; entries that were purged are reported, not skipped.

use bytes::Bytes;
use std::sync::atomic::Ordering;

use super::codec;
use super::error::Error;
use super::log::Log;
use super::{Cluster, raft};

/// An entry in its stored form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEntry {
    /// Its index in the log.
    pub index: u64,
    /// Election term that made it.
    pub term: u64,
    /// Log id, kind byte and bytes of the kind.
    pub bytes: Bytes,
}

impl StoredEntry {
    pub(super) fn of(entry: &raft::Entry) -> Self {
        let mut bytes = Vec::with_capacity(codec::entry_bytes(entry));
        codec::put_entry(entry, &mut bytes);
        Self { index: entry.log_id.index, term: entry.log_id.leader_id.term, bytes: bytes.into() }
    }

    /// Reads index and term off the stored form.
    ///
    /// # Errors
    /// [`codec::CodecError`] when the bytes are no entry.
    pub fn parse(bytes: Bytes) -> Result<Self, codec::CodecError> {
        let id = codec::entry_log_id(&bytes)?;
        Ok(Self { index: id.index, term: id.leader_id.term, bytes })
    }
}

/// What the log answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommittedEntries {
    /// Consecutive entries from the one asked for; none when nothing newer is committed.
    Entries(Vec<StoredEntry>),
    /// The log begins only after it: the entry is gone.
    Purged {
        /// The first entry that is left.
        first: u64,
    },
}

impl Cluster {
    /// What to add to a log index to get a revision.
    #[must_use]
    pub fn revision_offset(&self) -> u64 {
        self.local.machine.revision(0)
    }

    /// Resolves when something newer than `revision` is applied here, with what is.
    pub async fn applied_after(&self, revision: u64) -> u64 {
        self.local.machine.applied.reaches(revision + 1).await
    }

    /// Committed entries from `index` on, until they have `bytes_max` bytes; at least one when there is one.
    ///
    /// # Errors
    /// [`Error::Io`] when the log cannot be read.
    pub async fn committed_entries(&self, index: u64, bytes_max: usize) -> Result<CommittedEntries, Error> {
        let applied = self.local.machine.applied.get().checked_sub(self.revision_offset());
        let Some(applied) = applied else { return Ok(CommittedEntries::Entries(Vec::new())) };
        let log = self.local.log.clone();
        self.local.threads.blocking(move || read(&log, index, applied, bytes_max)).await?
    }

    /// Bytes of the entries after `index` that the log holds.
    #[must_use]
    pub fn log_bytes_after(&self, index: Option<u64>) -> u64 {
        self.local.log.bytes_from(index.map_or(0, |index| index + 1))
    }

    /// Keeps the log from `index` on from being purged, as long as its bounds allow; `u64::MAX` keeps nothing.
    pub fn hold_log_from(&self, index: u64) {
        self.log_hold.store(index, Ordering::Release);
    }
}

fn read(log: &Log, index: u64, applied: u64, bytes_max: usize) -> Result<CommittedEntries, Error> {
    /// Entries looked up at a time: each costs a place in memory before its bytes are counted.
    const LOOKUP: u64 = 1024;
    if let Some(purged) = log.purged().filter(|purged| purged.index >= index) {
        return Ok(CommittedEntries::Purged { first: purged.index + 1 });
    }
    let (mut entries, mut bytes, mut from) = (Vec::new(), 0, index);
    while from <= applied && bytes < bytes_max {
        let read = log.read_bounded(from, (from + LOOKUP).min(applied + 1), bytes_max - bytes);
        let read = read.map_err(|source| Error::io("read", &log.config().dir, source))?;
        let Some(last) = read.last() else { break };
        from = last.log_id.index + 1;
        for entry in &read {
            let stored = StoredEntry::of(entry);
            bytes += stored.bytes.len();
            entries.push(stored);
        }
    }
    match entries.first() {
        // A purge came in between.
        Some(first) if first.index != index => Ok(CommittedEntries::Purged { first: first.index }),
        _ => Ok(CommittedEntries::Entries(entries)),
    }
}
