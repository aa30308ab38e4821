//! The state on disk: the core's key-value seam on fjall, one fjall keyspace per [`Keyspace`].
//!
//! A commit is one cross-keyspace batch and is not synced: the log carries durability, and what a power cut takes from
//! here is replayed. What is left after one is a whole prefix of the batches: the journal keeps their order, a torn end
//! is cut off (`journal`), and fjall syncs it before it writes a keyspace's table, so no keyspace runs ahead of the
//! others (a release of fjall that does not may never be used). [`Kv::sync`] comes before a snapshot is reported, because
//! then the log may go. The consensus' own rows live in `sys`, in the same batch as the rows they describe:
//!
//! | key (after the group id) | value |
//! | --- | --- |
//! | `raft.applied` | log id of the last applied entry |
//! | `raft.membership` | log id and value of the last applied membership |
//! | `raft.revision_offset` | u64, big-endian: revision = log index + offset; absent is 0; raised by recovery |

mod journal;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use fjall::{CompressionType, Database, KeyspaceCreateOptions, PersistMode, Readable};
use holdfast_core::keyspace::Keyspace;
use holdfast_core::kv::{Batch, Direction, KeyRange, Kv, KvError, KvRead, Row, Rows};
use tracing::warn;

use super::codec;
use super::error::Error;
use super::raft::{LogId, StoredMembership};

/// Default size of the cache of blocks and blob values.
pub const CACHE_BYTES: u64 = 64 << 20;
/// Most bytes of journals. Reopening replays them, so few.
const JOURNAL_BYTES_MAX: u64 = 128 << 20;
/// A memtable is flushed above this.
const MEMTABLE_BYTES: u64 = 16 << 20;

const APPLIED: &[u8] = b"\0\0raft.applied";
const MEMBERSHIP: &[u8] = b"\0\0raft.membership";
const REVISION_OFFSET: &[u8] = b"\0\0raft.revision_offset";

/// An engine on disk.
pub struct Engine {
    dir: PathBuf,
    db: Database,
    spaces: Arc<[fjall::Keyspace]>,
    /// How many entries of the log the last sync made sure of.
    durable: AtomicU64,
}

impl Engine {
    /// Opens the engine in `dir`, creating it when the directory is absent or empty.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn open(dir: &Path, cache_bytes: u64) -> Result<Self, Error> {
        let failed = |source: fjall::Error| store_error(dir, "opening it", source);
        let db = match open_database(dir, cache_bytes) {
            Err(fjall::Error::JournalRecovery(_)) if cut_torn_journal(dir)? => open_database(dir, cache_bytes),
            opened => opened,
        };
        let db = db.map_err(failed)?;
        let open = |keyspace: &Keyspace| db.keyspace(keyspace.name(), options);
        let spaces: Vec<_> = Keyspace::ALL.iter().map(open).collect::<Result<_, _>>().map_err(failed)?;
        Ok(Self { dir: dir.to_owned(), db, spaces: spaces.into(), durable: AtomicU64::new(0) })
    }

    /// How many entries of the log are in here for sure, whatever happens to the power: these the log may forget.
    #[must_use]
    pub fn durable_entries(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    /// Its directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

fn open_database(dir: &Path, cache_bytes: u64) -> Result<Database, fjall::Error> {
    Database::builder(dir)
        .cache_size(cache_bytes)
        .max_journaling_size(JOURNAL_BYTES_MAX)
        .journal_compression(CompressionType::None)
        .open()
}

/// Whether there was a torn end to cut off.
fn cut_torn_journal(dir: &Path) -> Result<bool, Error> {
    let torn = journal::cut_torn_end(dir).map_err(|source| Error::io("repair the journal in", dir, source))?;
    if let Some(torn) = &torn {
        warn!(journal = %torn.journal.display(), kept = torn.kept, dropped = torn.dropped,
            "cut off the torn end of the state's journal; the log replays it");
    }
    Ok(torn.is_some())
}

/// Values stay in the tables, also those of `inline`. Blob files would spare compactions their rewriting, but fjall's
/// (lsm-tree 3.1.10) syncs a blob file and not the directory that names it, and its manifest relies on the name: a power
/// cut in between leaves a state that cannot be opened. Ext4 happens to keep such a name, fsync(2) does not promise it.
fn options() -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES)
}

fn store_error(dir: &Path, doing: &'static str, source: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Store { dir: dir.to_owned(), doing, source: Arc::new(source) }
}

fn kv_error(doing: &'static str, source: impl std::error::Error + Send + Sync + 'static) -> KvError {
    KvError { doing, source: Box::new(source) }
}

impl Kv for Engine {
    type View = EngineView;

    fn view(&self) -> EngineView {
        EngineView { snapshot: self.db.snapshot(), spaces: self.spaces.clone() }
    }

    fn commit(&self, batch: Batch) -> Result<(), KvError> {
        let mut writes = self.db.batch();
        for (keyspace, key, value) in batch.into_writes() {
            let space = &self.spaces[keyspace as usize];
            match value {
                Some(value) => writes.insert(space, key, value),
                None => writes.remove(space, key),
            }
        }
        writes.commit().map_err(|source| kv_error("committing", source))
    }

    fn sync(&self) -> Result<(), KvError> {
        let entries = applied(&self.view())?.map_or(0, |id| id.index + 1);
        self.db.persist(PersistMode::SyncAll).map_err(|source| kv_error("syncing", source))?;
        self.durable.fetch_max(entries, Ordering::AcqRel);
        Ok(())
    }
}

/// A state of the engine.
#[derive(Clone)]
pub struct EngineView {
    snapshot: fjall::Snapshot,
    spaces: Arc<[fjall::Keyspace]>,
}

impl KvRead for EngineView {
    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        let value = self.snapshot.get(&self.spaces[keyspace as usize], key);
        Ok(value.map_err(|source| kv_error("reading a key", source))?.map(Bytes::from))
    }

    fn scan<'a>(&'a self, keyspace: Keyspace, range: KeyRange, direction: Direction) -> Rows<'a> {
        if range.is_empty() {
            return Box::new(std::iter::empty());
        }
        let space = &self.spaces[keyspace as usize];
        let rows = match &range.to {
            Some(to) => self.snapshot.range(space, range.from.as_slice()..to.as_slice()),
            None => self.snapshot.range(space, range.from.as_slice()..),
        };
        match direction {
            Direction::Forward => Box::new(until_error(rows.map(row))),
            Direction::Reverse => Box::new(until_error(rows.rev().map(row))),
        }
    }
}

fn row(guard: fjall::Guard) -> Result<Row, KvError> {
    let (key, value) = guard.into_inner().map_err(|source| kv_error("scanning", source))?;
    Ok((key.into(), value.into()))
}

/// The rows up to and including the first error.
fn until_error(rows: impl Iterator<Item = Result<Row, KvError>>) -> impl Iterator<Item = Result<Row, KvError>> {
    rows.scan(false, |failed, row| {
        let go_on = !std::mem::replace(failed, row.is_err());
        go_on.then_some(row)
    })
}

#[derive(Debug, thiserror::Error)]
#[error("the row {0} of the state is damaged")]
struct DamagedRow(&'static str);

/// Log id of the last entry that the state includes.
pub(super) fn applied(view: &impl KvRead) -> Result<Option<LogId>, KvError> {
    let Some(bytes) = view.get(Keyspace::Sys, APPLIED)? else { return Ok(None) };
    codec::log_id(&bytes).map(Some).map_err(|_| kv_error("reading", DamagedRow("raft.applied")))
}

/// The last membership that the state includes.
pub(super) fn membership(view: &impl KvRead) -> Result<StoredMembership, KvError> {
    let Some(bytes) = view.get(Keyspace::Sys, MEMBERSHIP)? else { return Ok(StoredMembership::default()) };
    codec::stored_membership(&bytes).map_err(|_| kv_error("reading", DamagedRow("raft.membership")))
}

/// What to add to a log index to get a revision.
pub(super) fn revision_offset(view: &impl KvRead) -> Result<u64, KvError> {
    let Some(bytes) = view.get(Keyspace::Sys, REVISION_OFFSET)? else { return Ok(0) };
    let bytes = bytes.as_ref().try_into().map_err(|_| kv_error("reading", DamagedRow("raft.revision_offset")))?;
    Ok(u64::from_be_bytes(bytes))
}

/// Adds the consensus' rows to a batch.
pub(super) fn put_applied(applied: &LogId, membership: Option<&StoredMembership>, batch: &mut Batch) {
    let mut bytes = Vec::with_capacity(codec::LOG_ID_BYTES);
    codec::put_log_id(applied, &mut bytes);
    batch.put(Keyspace::Sys, APPLIED.to_vec(), bytes);
    if let Some(membership) = membership {
        let mut bytes = Vec::new();
        codec::put_stored_membership(membership, &mut bytes);
        batch.put(Keyspace::Sys, MEMBERSHIP.to_vec(), bytes);
    }
}

/// Makes the consensus begin anew: `applied` and `membership` instead of what was, revisions counted from `offset`.
pub(super) fn restart_log(applied: &LogId, membership: &StoredMembership, offset: u64, batch: &mut Batch) {
    put_applied(applied, Some(membership), batch);
    batch.put(Keyspace::Sys, REVISION_OFFSET.to_vec(), offset.to_be_bytes().to_vec());
}
