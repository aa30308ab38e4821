//! The state machine as openraft sees it: applies committed entries to the store, in order, and answers proposers.
//!
//! Entries of one chunk are applied on an overlay, so that they see each other, and reach the store as a single batch
//! with the log id of the last of them. Only then are proposers answered, views told of the new revision and jobs woken:
//! whoever has a reply finds its effect in every later view of this node.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use holdfast_core::apply::apply;
use holdfast_core::effect::Effect;
use holdfast_core::kv::{Batch, Kv as _, KvError, Overlay};
use holdfast_core::view::View;
use openraft::storage::{ApplyResponder, EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, Snapshot};
use tokio::sync::{Notify, broadcast, watch};

use super::Committed;
use super::engine::{self, EngineView};
use super::error::Error;
use super::raft::{LogId, Outcome, SnapshotMeta, StoredMembership, TypeConfig};
use super::space::Space;
use super::store::Store;
use super::threads::Threads;

/// Most entries and command bytes of one batch.
const CHUNK_ENTRIES_MAX: usize = 1024;
const CHUNK_BYTES_MAX: usize = 4 << 20;
/// Chunks of effects that a slow subscriber may be behind before it loses some.
const EFFECTS_MAX: usize = 1024;

/// Hints for jobs, by chunk.
pub type Effects = Arc<[Effect]>;

/// Revision of the last applied entry. Who waits for one is woken in the order of coming.
#[derive(Default)]
pub(super) struct Applied {
    revision: AtomicU64,
    advanced: Notify,
}

impl Applied {
    pub(super) fn get(&self) -> u64 {
        self.revision.load(Ordering::Acquire)
    }

    fn set(&self, revision: u64) {
        self.revision.store(revision, Ordering::Release);
        self.advanced.notify_waiters();
    }

    /// Resolves when `revision` is applied, with what is by then.
    pub(super) async fn reaches(&self, revision: u64) -> u64 {
        loop {
            let mut advanced = std::pin::pin!(self.advanced.notified());
            // From here on no advance is missed.
            advanced.as_mut().enable();
            let applied = self.get();
            if applied >= revision {
                return applied;
            }
            advanced.await;
        }
    }
}

/// What the state machine shares with the rest of the cluster.
pub(super) struct Shared {
    pub store: Store,
    pub applied: Applied,
    /// What to add to a log index to get a revision.
    revision_offset: AtomicU64,
    /// State time as of the last applied command: the largest stamp of any.
    pub state_ms: AtomicU64,
    pub effects: broadcast::Sender<Effects>,
    /// Why the state machine cannot go on.
    pub failure: watch::Sender<Option<String>>,
    /// Keeps the store from writing to a full disk.
    space: Option<Arc<Space>>,
    pub threads: Threads,
    /// What the last snapshot of this process covers.
    snapshot: Mutex<Option<SnapshotMeta>>,
}

impl Shared {
    pub(super) fn new(store: Store, space: Option<Arc<Space>>, threads: Threads) -> Self {
        Self {
            store,
            space,
            threads,
            applied: Applied::default(),
            revision_offset: AtomicU64::new(0),
            state_ms: AtomicU64::new(0),
            effects: broadcast::Sender::new(EFFECTS_MAX),
            failure: watch::Sender::new(None),
            snapshot: Mutex::new(None),
        }
    }

    /// The revision of the entry at `index`.
    pub(super) fn revision(&self, index: u64) -> u64 {
        index + self.revision_offset.load(Ordering::Acquire)
    }

    fn failed(&self, error: KvError) -> io::Error {
        let error = self.store.failed(error);
        self.stop(&error);
        error.into()
    }

    fn stop(&self, error: &Error) {
        let mut reason = error.to_string();
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            reason = format!("{reason}: {cause}");
            source = cause.source();
        }
        self.failure.send_if_modified(|failure| {
            let first = failure.is_none();
            failure.get_or_insert(reason);
            first
        });
    }

    fn covered(&self, view: &EngineView) -> Result<SnapshotMeta, KvError> {
        Ok(SnapshotMeta { last_log_id: engine::applied(view)?, last_membership: engine::membership(view)? })
    }

    fn set_snapshot(&self, meta: SnapshotMeta) {
        *self.snapshot.lock().expect("only held for a moment") = Some(meta);
    }
}

/// A snapshot on its way.
pub enum SnapshotData {
    /// Taken here in constant time, streamed on demand.
    View(EngineView),
    /// Received in a file of the state's directory; installing it removes it.
    File(PathBuf),
}

/// The state machine.
pub struct Machine {
    shared: Arc<Shared>,
    membership: StoredMembership,
}

impl Machine {
    pub(super) fn new(shared: Arc<Shared>) -> Result<Self, Error> {
        let mut machine = Self { shared, membership: StoredMembership::default() };
        machine.reload().map_err(|error| machine.shared.store.failed(error))?;
        Ok(machine)
    }

    /// Takes over what the store says.
    fn reload(&mut self) -> Result<(), KvError> {
        let view = self.shared.store.view();
        self.membership = engine::membership(&view)?;
        self.shared.revision_offset.store(engine::revision_offset(&view)?, Ordering::Release);
        let applied = engine::applied(&view)?.map_or(0, |id| self.shared.revision(id.index));
        let state_ms = View::new(&view, applied).now_ms().map_err(stopped)?;
        self.shared.state_ms.store(state_ms, Ordering::Release);
        self.shared.applied.set(applied);
        Ok(())
    }

    fn apply_chunk(&mut self, chunk: Vec<EntryResponder<TypeConfig>>) -> Result<(), KvError> {
        let Some(last) = chunk.last().map(|(entry, _)| entry.log_id) else { return Ok(()) };
        let engine = self.shared.store.engine();
        let mut overlay = Overlay::new(engine.view());
        let (mut replies, mut effects, mut members) = (Vec::with_capacity(chunk.len()), Vec::new(), false);
        for (entry, responder) in chunk {
            let outcome = match entry.payload {
                EntryPayload::Blank => Outcome(None),
                EntryPayload::Normal(proposal) => {
                    let applied = apply(&overlay, self.shared.revision(entry.log_id.index), &proposal.command)
                        .map_err(stopped)?;
                    overlay.merge(applied.batch);
                    effects.extend(applied.effects);
                    Outcome(Some(Committed { revision: applied.revision, reply: applied.reply }))
                }
                EntryPayload::Membership(membership) => {
                    self.membership = StoredMembership::new(Some(entry.log_id), membership);
                    members = true;
                    Outcome(None)
                }
            };
            replies.extend(responder.map(|responder| (responder, outcome)));
        }
        let state_ms = View::new(&overlay, self.shared.revision(last.index)).now_ms().map_err(stopped)?;
        let mut batch = overlay.into_batch();
        engine::put_applied(&last, members.then_some(&self.membership), &mut batch);
        self.await_room(&batch)?;
        engine.commit(batch)?;
        self.shared.state_ms.store(state_ms, Ordering::Release);
        self.tell(last, effects, replies);
        Ok(())
    }

    fn await_room(&self, batch: &Batch) -> Result<(), KvError> {
        let Some(space) = &self.shared.space else { return Ok(()) };
        let bytes: usize = batch.writes().map(|(_, key, value)| key.len() + value.map_or(0, Bytes::len)).sum();
        if space.await_store_room(bytes as u64) {
            return Ok(());
        }
        let source = io::Error::new(io::ErrorKind::StorageFull, "the node is closing while its disk is full");
        Err(KvError { doing: "waiting for space", source: Box::new(source) })
    }

    fn tell(&self, last: LogId, effects: Vec<Effect>, replies: Vec<(ApplyResponder<TypeConfig>, Outcome)>) {
        self.shared.applied.set(self.shared.revision(last.index));
        if !effects.is_empty() {
            // Without a subscriber nobody needs them.
            let _ = self.shared.effects.send(effects.into());
        }
        for (responder, outcome) in replies {
            responder.send(outcome);
        }
    }
}

fn stopped(stop: holdfast_core::state::Stop) -> KvError {
    KvError { doing: "applying a command", source: Box::new(stop) }
}

fn command_bytes(item: &EntryResponder<TypeConfig>) -> usize {
    match &item.0.payload {
        EntryPayload::Normal(proposal) => proposal.bytes.len(),
        _ => 0,
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let view = self.shared.store.view();
        let applied = engine::applied(&view).map_err(|error| self.shared.failed(error))?;
        Ok((applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + Send,
    {
        let (mut chunk, mut bytes) = (Vec::new(), 0);
        while let Some(item) = entries.next().await {
            let item = item?;
            bytes += command_bytes(&item);
            chunk.push(item);
            if chunk.len() >= CHUNK_ENTRIES_MAX || bytes >= CHUNK_BYTES_MAX {
                self.apply_chunk(std::mem::take(&mut chunk)).map_err(|error| self.shared.failed(error))?;
                bytes = 0;
            }
        }
        self.apply_chunk(chunk).map_err(|error| self.shared.failed(error))
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder { shared: self.shared.clone(), view: self.shared.store.view() }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotData) -> io::Result<()> {
        let (shared, meta, threads) = (self.shared.clone(), meta.clone(), self.shared.threads.clone());
        let installed = threads.blocking(move || {
            let path = match snapshot {
                SnapshotData::File(path) => path,
                SnapshotData::View(view) => {
                    let path = shared.store.snapshot_path();
                    shared.store.export(&view, meta.last_log_id.map_or(0, |id| id.index), &path)?;
                    path
                }
            };
            shared.store.install(&meta, &path)?;
            shared.set_snapshot(meta);
            Ok::<(), Error>(())
        });
        installed.await??;
        self.reload().map_err(|error| self.shared.failed(error))
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> io::Result<Option<Snapshot<LeaderIdOf, u64, super::raft::Node, SnapshotData>>> {
        if self.shared.snapshot.lock().expect("only held for a moment").is_none() {
            return Ok(None);
        }
        // The state of now covers the last snapshot and more, and pins no old versions while nobody asks for it.
        let view = self.shared.store.view();
        let meta = self.shared.covered(&view).map_err(|error| self.shared.failed(error))?;
        Ok(Some(Snapshot { meta, snapshot: SnapshotData::View(view) }))
    }
}

type LeaderIdOf = super::raft::LeaderId;

/// Makes what a view shows survive power loss. That is all a snapshot is here: the store keeps the rows.
pub struct Builder {
    shared: Arc<Shared>,
    view: EngineView,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot<LeaderIdOf, u64, super::raft::Node, SnapshotData>> {
        let shared = self.shared.clone();
        // The log up to here is purged once this is reported: the sync comes first.
        let synced =
            self.shared.threads.blocking(move || shared.store.engine().sync().map_err(|error| shared.failed(error)));
        synced.await??;
        let meta = self.shared.covered(&self.view).map_err(|error| self.shared.failed(error))?;
        self.shared.set_snapshot(meta.clone());
        Ok(Snapshot { meta, snapshot: SnapshotData::View(self.view.clone()) })
    }
}
