//! The replicated state machine of this node: propose a command, view the state.
//!
//! ```text
//! propose ─▶ space (may it enter?) ─▶ openraft ─▶ log (fsync) ─▶ machine (apply) ─▶ reply
//! view ────▶ read gate, or a quorum round ───────▶ engine snapshot + its revision
//! ```
//! Today a cluster has one node; the types are those of many. openraft, its log writer and the state machine run on
//! threads of their own, so that neither a big body being hashed nor a stalled disk write delays the other.
//!
//! Promises:
//! - a reply means that the command is durable on a majority and applied here; its effect is in every later view;
//! - once a proposal was handed to the log it runs to its end, whether or not the caller waits. A caller that gave up at
//!   its deadline hears [`Error::UnknownOutcome`], never "failed";
//! - a linearizable view contains every command acknowledged anywhere before the call;
//! - a full disk refuses what needs space, never reads; see [`space`];
//! - when the node must stop, [`Cluster::fatal`] resolves, and every later call fails.

mod codec;
mod committed;
mod engine;
mod error;
mod identity;
pub mod log;
mod machine;
mod network;
pub mod peer;
mod raft;
pub mod restore;
pub mod space;
mod start;
mod store;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use holdfast_core::command::{Command, Reply};
use holdfast_core::keyspace::Keyspace;
use holdfast_core::kv::{Direction, KeyRange, KvError, KvRead, Rows};
use openraft::ReadPolicy;
use openraft::errors::{ClientWriteError, LinearizableReadError, RaftError};
use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::committed::{CommittedEntries, StoredEntry};
pub use self::engine::EngineView;
pub use self::engine::{CACHE_BYTES, Engine};
pub use self::error::{Error, Kind};
pub use self::identity::Identity;
use self::log::files::{LogFiles, RealFiles};
use self::log::{Log, LogStats, SEGMENT_BYTES};
pub use self::machine::{Effects, SnapshotData};
pub use self::raft::Node;
use self::raft::{Consensus, Outcome, Pending, Proposal};
use self::space::Space;

const LOG_DIR: &str = "log";
const STATE_DIR: &str = "state";
/// A snapshot is taken after this many bytes or entries, so that a restart replays no more.
const SNAPSHOT_BYTES: u64 = 64 << 20;
const SNAPSHOT_ENTRIES: u64 = 100_000;
/// Log kept although a snapshot covers it, so that a peer that was away needs no snapshot.
const LOG_KEEP_BYTES: u64 = 64 << 20;
/// Log beyond which nobody can hold back a purge.
const LOG_HELD_BYTES_MAX: u64 = 512 << 20;
/// Pause before a proposal or read is tried again while there is no leader.
const NO_LEADER_RETRY: Duration = Duration::from_millis(20);

/// How to open a cluster.
#[derive(Clone)]
pub struct ClusterConfig {
    /// The node's directory. Nothing else may be kept in it.
    pub data_dir: PathBuf,
    /// Name of the cluster, for logs.
    pub name: String,
    /// Where this node can be reached.
    pub node: Node,
    /// Cache of the state.
    pub cache_bytes: u64,
    /// Size of a log segment; a command may have a quarter of it.
    pub segment_bytes: u64,
    /// Bytes of log after which a snapshot is taken.
    pub snapshot_bytes: u64,
    /// Bytes of log kept behind a snapshot.
    pub log_keep_bytes: u64,
    /// The file system of log and balloon.
    pub files: Arc<dyn LogFiles>,
}

impl ClusterConfig {
    /// The defaults for a directory.
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            name: "holdfast".into(),
            node: Node::default(),
            cache_bytes: CACHE_BYTES,
            segment_bytes: SEGMENT_BYTES,
            snapshot_bytes: SNAPSHOT_BYTES,
            log_keep_bytes: LOG_KEEP_BYTES,
            files: Arc::new(RealFiles),
        }
    }
}

/// How to propose.
#[derive(Clone, Copy, Debug)]
pub struct ProposeOptions {
    /// When to stop waiting.
    pub deadline: Instant,
    /// The command gives space back, so it may use the reserves of a full disk.
    pub frees_space: bool,
}

/// A command that is durable and applied.
#[derive(Clone, Debug)]
pub struct Committed {
    /// Its place in the history of the state.
    pub revision: u64,
    /// What the rules say.
    pub reply: Reply,
}

/// Which state a view may show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// All commands acknowledged anywhere before the call.
    Linearizable,
    /// Whatever this node has applied.
    Local,
    /// At least this revision.
    AtLeast(u64),
}

/// One state, with its revision.
#[derive(Clone)]
pub struct StateView {
    view: EngineView,
    revision: u64,
}

impl StateView {
    /// Revision of the last command that the state includes.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }
}

impl KvRead for StateView {
    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        self.view.get(keyspace, key)
    }

    fn scan<'a>(&'a self, keyspace: Keyspace, range: KeyRange, direction: Direction) -> Rows<'a> {
        self.view.scan(keyspace, range, direction)
    }
}

/// What the node knows about itself.
#[derive(Clone, Debug)]
pub struct Status {
    /// Who it is.
    pub identity: Identity,
    /// "Leader", "Follower", "Candidate" or "Learner".
    pub role: String,
    /// Election term.
    pub term: u64,
    /// The leader, if known.
    pub leader: Option<u64>,
    /// Revision of the last applied command.
    pub revision: u64,
    /// Voters and learners.
    pub members: Vec<(u64, Node)>,
    /// The log.
    pub log: LogStats,
    /// Index that the last snapshot covers.
    pub snapshot_index: Option<u64>,
    /// Bytes of commands in flight.
    pub in_flight_bytes: usize,
    /// Whether only what frees space is accepted.
    pub disk_full: bool,
    /// Bytes free on the data file system.
    pub free_bytes: u64,
    /// Why the node must stop.
    pub fatal: Option<String>,
}

/// The cluster, as this node takes part in it.
pub struct Cluster {
    identity: Identity,
    raft: Consensus,
    log: Log,
    space: Arc<Space>,
    machine: Arc<machine::Shared>,
    revision_offset: u64,
    /// Entries from here on are not purged yet: see [`Cluster::hold_log_from`].
    log_hold: Arc<AtomicU64>,
    /// This node alone decides: see [`Cluster::view`].
    sole_leader: Arc<AtomicBool>,
    fatal: watch::Sender<Option<String>>,
    tasks: TaskTracker,
    stop: CancellationToken,
    runtime: Mutex<Option<tokio::runtime::Runtime>>,
    _lock: identity::DirLock,
}

impl Cluster {
    /// Proposes a command and waits until it is durable and applied.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::NoSpace`], [`Error::Busy`], [`Error::Unavailable`]: nothing was done.
    /// [`Error::UnknownOutcome`]: it may be applied, or not; ask again with the same request id. [`Error::Fatal`].
    ///
    /// # Cancel safety
    /// Dropped before it was handed to the log, nothing happens; after that the command runs to its end.
    pub async fn propose(&self, command: Command, options: ProposeOptions) -> Result<Committed, Error> {
        let proposal = Proposal::new(command);
        let most = self.log.config().command_bytes_max();
        if proposal.bytes.len() > most {
            return Err(Error::TooLarge { bytes: proposal.bytes.len(), most });
        }
        loop {
            self.check_alive()?;
            if let Some(committed) = self.propose_once(proposal.clone(), options).await? {
                return Ok(committed);
            }
            // Refused before it was appended: there is no leader at this moment.
            if Instant::now() + NO_LEADER_RETRY >= options.deadline {
                return Err(Error::Unavailable("the cluster has no leader".into()));
            }
            tokio::time::sleep(NO_LEADER_RETRY).await;
        }
    }

    async fn propose_once(&self, proposal: Proposal, options: ProposeOptions) -> Result<Option<Committed>, Error> {
        let ProposeOptions { deadline, frees_space } = options;
        let held = self.space.admit(proposal.bytes.len(), frees_space, deadline).await?;
        let (pending, result) = Pending::new(held);
        match timeout_at(deadline, self.raft.client_write_ff(proposal, Some(pending))).await {
            Err(_) => return Err(Error::Busy),
            Ok(Err(fatal)) => return Err(Error::Fatal(fatal.to_string())),
            Ok(Ok(())) => {}
        }
        let unknown = |why: &str| Error::UnknownOutcome(why.into());
        let result = timeout_at(deadline, result).await.map_err(|_| unknown("the deadline passed"))?;
        match result.map_err(|_| unknown("the node is stopping"))? {
            Ok(done) => match done.data {
                Outcome(Some(reply)) => {
                    Ok(Some(Committed { revision: done.log_id.index + self.revision_offset, reply }))
                }
                Outcome(None) => Err(Error::Fatal("a command was applied without a reply".into())),
            },
            Err(ClientWriteError::ForwardToLeader(_)) => Ok(None),
            Err(error @ ClientWriteError::LogEntryDiscarded(_)) => Err(Error::UnknownOutcome(error.to_string())),
            // Answers to calls that this node does not make.
            Err(error @ (ClientWriteError::ChangeMembershipError(_) | ClientWriteError::PreconditionFailed(_))) => {
                Err(Error::Fatal(error.to_string()))
            }
        }
    }

    /// A view of the state.
    ///
    /// In a cluster of one a linearizable view needs no round to anybody. Proof: let `sole_leader` be true, that is,
    /// this node leads the current term, has applied its first entry, and is the only voter of the only membership in
    /// effect. (a) No other node can commit a command or let one in: that takes a majority of the voters, and this node
    /// is each of them. The data directory is locked, so no second process is this node. A later change of the voters
    /// starts from this membership and needs this node's vote and log, and whoever builds it must clear the flag before
    /// proposing it; no such call exists today. (b) A command is acknowledged only after this node has applied it
    /// (`machine`: commit to the store, then reply), and commands acknowledged before a restart were durable and were
    /// applied again before the flag was first set. So every command acknowledged before this call is in the store's
    /// state of now, which is what the view shows.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the deadline passes first; [`Error::Fatal`].
    pub async fn view(&self, consistency: Consistency, deadline: Instant) -> Result<StateView, Error> {
        match consistency {
            Consistency::Local => {}
            Consistency::Linearizable if self.sole_leader.load(Ordering::Acquire) => {}
            Consistency::Linearizable => self.linearize(deadline).await?,
            Consistency::AtLeast(revision) => self.wait_applied(revision, deadline).await?,
        }
        self.view_now()
    }

    fn view_now(&self) -> Result<StateView, Error> {
        let view = self.machine.store.view();
        let applied = engine::applied(&view).map_err(|error| self.machine.store.failed(error))?;
        Ok(StateView { view, revision: applied.map_or(0, |id| id.index + self.revision_offset) })
    }

    /// One quorum round, which openraft shares among all reads that were waiting when it began.
    async fn linearize(&self, deadline: Instant) -> Result<(), Error> {
        loop {
            self.check_alive()?;
            let round = self.raft.ensure_linearizable(ReadPolicy::ReadIndex);
            let late = |_| Error::Unavailable("the read could not be confirmed before its deadline".into());
            match timeout_at(deadline, round).await.map_err(late)? {
                Ok(_) => return Ok(()),
                Err(RaftError::Fatal(fatal)) => return Err(Error::Fatal(fatal.to_string())),
                // A retry is a new round with a new index.
                Err(RaftError::APIError(
                    LinearizableReadError::ForwardToLeader(_) | LinearizableReadError::QuorumNotEnough(_),
                )) => timeout_at(deadline, tokio::time::sleep(NO_LEADER_RETRY)).await.map_err(late)?,
            }
        }
    }

    async fn wait_applied(&self, revision: u64, deadline: Instant) -> Result<(), Error> {
        let mut applied = self.machine.applied.subscribe();
        let reached = timeout_at(deadline, applied.wait_for(|applied| *applied >= revision)).await;
        match reached {
            Ok(Ok(_)) => Ok(()),
            _ => Err(Error::Unavailable(format!("revision {revision} is not applied on this node yet"))),
        }
    }

    /// Hints for jobs, from now on. A subscriber that is too slow loses some.
    #[must_use]
    pub fn effects(&self) -> broadcast::Receiver<Effects> {
        self.machine.effects.subscribe()
    }

    /// Who this node is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// What the node knows about itself now.
    #[must_use]
    pub fn status(&self) -> Status {
        use openraft::async_runtime::watch::WatchReceiver as _;
        // The borrow blocks the consensus core: it ends with the statement.
        let metrics = self.raft.metrics().borrow_watched().clone();
        let (disk_full, free_bytes) = self.space.disk();
        Status {
            identity: self.identity.clone(),
            role: format!("{:?}", metrics.state),
            term: metrics.current_term,
            leader: metrics.current_leader,
            revision: *self.machine.applied.borrow(),
            members: metrics.membership_config.nodes().map(|(id, node)| (*id, node.clone())).collect(),
            log: self.log.stats(),
            snapshot_index: metrics.snapshot.map(|id| id.index),
            in_flight_bytes: self.space.in_flight_bytes(),
            disk_full,
            free_bytes,
            fatal: self.fatal.borrow().clone(),
        }
    }

    /// Whether commands can be proposed here now.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.sole_leader.load(Ordering::Acquire) && self.fatal.borrow().is_none()
    }

    /// Resolves when the node must stop, with the reason.
    pub async fn fatal(&self) -> Error {
        let mut fatal = self.fatal.subscribe();
        let reason = fatal.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
        Error::Fatal(reason.unwrap_or_else(|| "the cluster is closed".into()))
    }

    fn check_alive(&self) -> Result<(), Error> {
        match &*self.fatal.borrow() {
            Some(reason) => Err(Error::Fatal(reason.clone())),
            None if self.stop.is_cancelled() => Err(Error::Unavailable("the node is stopping".into())),
            None => Ok(()),
        }
    }

    /// Stops: no new proposals, what is in the log's queue becomes durable, the state is synced.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when something did not end before the deadline; the directory may then still be in use.
    pub async fn shutdown(&self, deadline: Instant) -> Result<(), Error> {
        self.stop.cancel();
        self.sole_leader.store(false, Ordering::Release);
        self.tasks.close();
        let late = |what: &str| Error::Unavailable(format!("{what} did not end before the deadline"));
        timeout_at(deadline, self.tasks.wait()).await.map_err(|_| late("background work"))?;
        // First of all: a state machine that waits for space must not be waited for.
        let space = self.space.clone();
        let closing = tokio::task::spawn_blocking(move || space.close());
        timeout_at(deadline, closing)
            .await
            .map_err(|_| late("the probe of the disk"))?
            .map_err(|error| Error::Fatal(error.to_string()))?;
        let stopped = timeout_at(deadline, self.raft.shutdown()).await.map_err(|_| late("the consensus"))?;
        stopped.map_err(|error| Error::Fatal(error.to_string()))?;
        let (log, machine) = (self.log.clone(), self.machine.clone());
        let runtime = self.runtime.lock().expect("only held for a moment").take();
        let left = deadline.saturating_duration_since(Instant::now());
        let closing = tokio::task::spawn_blocking(move || {
            log.close();
            if let Some(runtime) = runtime {
                runtime.shutdown_timeout(left);
            }
            use holdfast_core::kv::Kv as _;
            machine.store.engine().sync().map_err(|error| machine.store.failed(error))
        });
        timeout_at(deadline, closing)
            .await
            .map_err(|_| late("the log"))?
            .map_err(|error| Error::Fatal(error.to_string()))?
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop.cancel();
        self.space.close();
        self.log.close();
        if let Some(runtime) = self.runtime.lock().expect("only held for a moment").take() {
            runtime.shutdown_background();
        }
    }
}
