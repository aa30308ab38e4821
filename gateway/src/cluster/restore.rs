//! A state rebuilt from outside: rows of a snapshot, then entries, applied by the same rules as in a running node.
//!
//! [`Restore`] makes the cluster directory of a new node. Its identity is written last: a directory that was left half done
//! has a state and no identity, and no node starts from that. The consensus' rows of the old cluster are dropped: the node is
//! the only member, and its log begins anew after an entry of index 0 that is purged from its first moment, so that whoever
//! joins gets a snapshot and never a log without the state that it stands on. The revision offset is raised by whoever
//! restores: no revision repeats, and no node id, because ids of nodes that join are made of revisions.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use holdfast_core::apply::apply;
use holdfast_core::keyspace::Keyspace;
use holdfast_core::kv::{Batch, Kv as _, KvError, Overlay};
use holdfast_core::snapshot::SnapshotRow;
use openraft::EntryPayload;

use super::engine::{self, EngineView};
use super::error::Error;
use super::identity::{self, DirLock, Identity, IdentityFile};
use super::log::{Log, LogConfig};
use super::membership::JOINED_IDS;
use super::raft::{LeaderId, LogId, Membership, StoredMembership};
use super::store::{Found, Store};
use super::{ClusterConfig, LOG_DIR, Node, STATE_DIR, StoredEntry, codec};

/// The entry that the restored state stands for.
const FIRST: LogId = LogId { leader_id: LeaderId { term: 0, node_id: 0 }, index: 0 };

/// A state in the making.
pub struct Restore {
    dir: PathBuf,
    store: Store,
    _lock: DirLock,
}

impl Restore {
    /// Begins in a directory that holds no node yet.
    ///
    /// # Errors
    /// [`Error::StateMismatch`] when it does; [`Error::InUse`], [`Error::Io`], [`Error::Store`].
    pub fn begin(dir: &Path, cache_bytes: u64) -> Result<Self, Error> {
        let lock = identity::lock(dir)?;
        for name in [identity::FILE, LOG_DIR, STATE_DIR] {
            if dir.join(name).exists() {
                return Err(Error::StateMismatch(format!(
                    "{} is there already: recover into a new directory, or move the old {} away first",
                    dir.join(name).display(),
                    dir.display()
                )));
            }
        }
        let (store, found) = Store::open(&dir.join(STATE_DIR), cache_bytes)?;
        debug_assert_eq!(found, Found::New);
        Ok(Self { dir: dir.to_owned(), store, _lock: lock })
    }

    /// Adds rows of a snapshot.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn load(&mut self, rows: Vec<SnapshotRow>) -> Result<(), Error> {
        let mut batch = Batch::default();
        for row in rows {
            batch.put(row.keyspace, row.key.to_vec(), row.value);
        }
        self.commit(batch)
    }

    /// Applies consecutive entries; the revision of each is its index plus `offset`.
    ///
    /// # Errors
    /// [`Error::StateMismatch`] when one cannot be read or applied; [`Error::Store`].
    pub fn apply(&mut self, entries: &[StoredEntry], offset: u64) -> Result<(), Error> {
        let engine = self.store.engine();
        let mut overlay = Overlay::new(engine.view());
        let unreadable = |index: u64, why: &dyn std::fmt::Display| {
            Error::StateMismatch(format!("entry {index} of the archive cannot be applied: {why}"))
        };
        for stored in entries {
            let entry = codec::entry(&stored.bytes).map_err(|error| unreadable(stored.index, &error))?;
            match entry.payload {
                EntryPayload::Blank | EntryPayload::Membership(_) => {}
                EntryPayload::Normal(proposal) => {
                    let applied = apply(&overlay, entry.log_id.index + offset, &proposal.command);
                    overlay.merge(applied.map_err(|stop| unreadable(stored.index, &stop))?.batch);
                }
            }
        }
        self.commit(overlay.into_batch())
    }

    /// The state as it is now.
    #[must_use]
    pub fn view(&self) -> EngineView {
        self.store.view()
    }

    /// Replaces the consensus' rows: the log begins anew, so that its first revision is `revision`. Gives the id of the only
    /// member, which no node of the cluster had.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn begin_log_at(&mut self, revision: u64) -> Result<u64, Error> {
        let offset = revision - FIRST.index - 1;
        let node_id = JOINED_IDS + offset;
        let members = Membership::new(vec![BTreeSet::from([node_id])], BTreeMap::from([(node_id, Node::default())]));
        let members = members.map_err(|error| Error::StateMismatch(error.to_string()))?;
        let mut batch = Batch::default();
        engine::restart_log(&FIRST, &StoredMembership::new(Some(FIRST), members), offset, &mut batch);
        self.commit(batch)?;
        Ok(node_id)
    }

    /// Makes the state durable, begins the log, and then names whose it is: from here on the node `node_id` starts from the
    /// directory.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Io`].
    pub fn finish(self, cluster_id: String, generation: u64, node_id: u64) -> Result<Identity, Error> {
        self.store.engine().sync().map_err(|error| self.store.failed(error))?;
        let identity = Identity::restored(cluster_id, generation, node_id);
        let file = IdentityFile::new(&self.dir);
        let ClusterConfig { segment_bytes, files, threads, .. } = ClusterConfig::new(&self.dir);
        let owner = identity.owner(&file.path)?;
        Log::begin_after(LogConfig { dir: self.dir.join(LOG_DIR), owner, segment_bytes, files, threads }, FIRST)?;
        file.write(&identity)?;
        Ok(identity)
    }

    /// Gives up: removes what was made.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn discard(self) -> Result<(), Error> {
        let Self { dir, store, _lock: lock } = self;
        drop(store);
        let state = dir.join(STATE_DIR);
        std::fs::remove_dir_all(&state).map_err(|source| Error::io("remove", &state, source))?;
        drop(lock);
        Ok(())
    }

    fn commit(&self, batch: Batch) -> Result<(), Error> {
        self.store.engine().commit(batch).map_err(|error| self.store.failed(error))
    }
}

/// Whether a row is the consensus' own: two nodes with equal states differ there.
#[must_use]
pub fn is_consensus_row(keyspace: Keyspace, key: &[u8]) -> bool {
    keyspace == Keyspace::Sys && key.get(2..).is_some_and(|name| name.starts_with(b"raft."))
}

/// The revision offset that a state carries.
///
/// # Errors
/// [`KvError`] when it cannot be read.
pub fn revision_offset(view: &EngineView) -> Result<u64, KvError> {
    engine::revision_offset(view)
}
