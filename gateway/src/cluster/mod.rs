//! The replicated state machine of this node: propose a command, view the state.
//!
//! ```text
//! propose ─▶ [the leader ─▶] space (may it enter?) ─▶ openraft ─▶ log (fsync) ─▶ machine (apply) ─▶ reply
//! view ────▶ read gate, or a quorum round [of the leader] ───────▶ engine snapshot + its revision
//! ```
//! A cluster has one node, or several that agree through the peer seam: any of them takes commands and views, and sends
//! them to the leader as need be (`forward`, `reads`). How a node becomes a member is `bootstrap`, how members change is
//! `membership`, what peers may ask is `node_side`. openraft, its log writer and the state machine run on
//! threads of their own, so that neither a big body being hashed nor a stalled disk write delays the other.
//!
//! Promises:
//! - a reply means that the command is durable on a majority and applied here; its effect is in every later view;
//! - once a proposal was handed to the log it runs to its end, whether or not the caller waits. A caller that gave up at
//!   its deadline hears [`Error::UnknownOutcome`], never "failed";
//! - a linearizable view contains every command acknowledged anywhere before the call;
//! - a full disk refuses what needs space, never reads; see [`space`];
//! - when the node must stop, [`Cluster::fatal`] resolves, and every later call fails.

mod attendance;
mod bootstrap;
pub mod claim;
mod clocks;
mod codec;
mod committed;
pub mod discovery;
mod engine;
mod error;
mod forward;
mod identity;
mod local;
pub mod log;
mod machine;
mod membership;
mod network;
mod node_side;
pub mod peer;
mod raft;
mod reads;
pub mod restore;
pub mod space;
mod start;
mod status;
mod store;
#[cfg(test)]
mod tests;
pub mod threads;
mod wire;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use holdfast_core::command::Reply;
use holdfast_core::keyspace::Keyspace;
use holdfast_core::kv::{Direction, KeyRange, KvError, KvRead, Rows};
use tokio::sync::{Semaphore, broadcast, watch};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::claim::ClusterClaim;
pub use self::committed::{CommittedEntries, StoredEntry};
pub use self::engine::EngineView;
pub use self::engine::{CACHE_BYTES, Engine};
pub use self::error::{Error, Kind};
pub use self::identity::Identity;
pub use self::local::Admission;
use self::local::Local;
use self::log::SEGMENT_BYTES;
use self::log::files::{LogFiles, RealFiles};
pub use self::machine::{Effects, SnapshotData};
pub use self::membership::Member;
use self::network::Links;
pub use self::node_side::NodeSide;
use self::peer::Peers;
pub use self::raft::Node;
pub use self::status::Status;
use self::threads::Threads;
use crate::clock::{Clock, system_clock};

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
/// Longest time that a node which stops waits for another to take leadership.
const DRAIN: Duration = Duration::from_secs(3);

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
    /// Where its work runs.
    pub threads: Threads,
    /// The node's clock.
    pub clock: Clock,
    /// How to be one of several nodes; `None` is a cluster of one.
    pub peers: Option<PeersConfig>,
}

/// How to be one of several nodes.
#[derive(Clone)]
pub struct PeersConfig {
    /// Sends messages to peers.
    pub transport: Arc<dyn Peers>,
    /// Receives them; the transport has it already.
    pub side: Arc<NodeSide>,
    /// Host and port at which peers reach this node.
    pub advertise: String,
    /// Where peers may be. A hint; this node's own address may be among them.
    pub candidates: watch::Receiver<BTreeSet<String>>,
    /// Voters that a new cluster begins with, and below which none is removed.
    pub expect: usize,
    /// What says which cluster the repository belongs to.
    pub claim: Arc<dyn ClusterClaim>,
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
            threads: Threads::default(),
            clock: system_clock(),
            peers: None,
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
    /// Its place in the history of the state: where it was applied first, if several copies of it came.
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

/// How long those who wait for a client's sake give a linearizable view.
pub const VIEW_DEADLINE: Duration = Duration::from_secs(10);

/// The cluster, as this node takes part in it.
pub struct Cluster {
    identity: Identity,
    local: Local,
    peers: Option<PeersRun>,
    /// Bytes of commands that are on their way to the leader.
    forwards: Semaphore,
    /// Entries from here on are not purged yet: see [`Cluster::hold_log_from`].
    log_hold: Arc<AtomicU64>,
    /// This node alone decides: see [`Cluster::view`].
    sole_leader: Arc<AtomicBool>,
    fatal: watch::Sender<Option<String>>,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// Where the consensus runs, and what runs beside it.
    handle: tokio::runtime::Handle,
    runtime: Mutex<Option<tokio::runtime::Runtime>>,
    _lock: identity::DirLock,
}

/// What runs among several nodes.
struct PeersRun {
    side: Arc<NodeSide>,
    links: Arc<Links>,
    running: Arc<node_side::Running>,
    rounds: reads::Rounds,
    /// Why this node is no member any more.
    removed: watch::Receiver<Option<String>>,
}

impl Cluster {
    /// A view of the state.
    ///
    /// In a cluster of one a linearizable view needs no round to anybody. Proof: let `sole_leader` be true, that is,
    /// this node leads the current term, has applied its first entry, and is the only voter of the only membership in
    /// effect. (a) No other node can commit a command or let one in: that takes a majority of the voters, and this node
    /// is each of them. The data directory is locked, so no second process is this node. A later change of the voters
    /// needs peers, and a node that was opened with peers never sets the flag (`start::Gate`). (b) A command is acknowledged only after this node has applied it
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
            Consistency::AtLeast(revision) => self.local.wait_applied(revision, deadline).await?,
        }
        self.local.view()
    }

    /// What this node has applied now. Waits for nobody.
    ///
    /// # Errors
    /// [`Error::Store`] when the engine fails.
    pub fn view_now(&self) -> Result<StateView, Error> {
        self.local.view()
    }

    /// From here on `admission` is asked before a command enters the log of this node, also for commands of other nodes:
    /// what it refuses is [`Error::Unavailable`]. Only the first call counts.
    pub fn admit_by(&self, admission: Admission) {
        let _ = self.local.admission.set(admission);
    }

    /// Milliseconds since 1970 in the state's own time, which is the largest stamp of any command: a command stamped by a
    /// clock that is behind it would be forgotten too early.
    #[must_use]
    pub fn state_ms(&self) -> u64 {
        self.local.state_ms()
    }

    /// Hints for jobs, from now on. A subscriber that is too slow loses some.
    #[must_use]
    pub fn effects(&self) -> broadcast::Receiver<Effects> {
        self.local.machine.effects.subscribe()
    }

    /// Who this node is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Resolves when the node can serve: it leads, or follows a leader that it hears of.
    ///
    /// # Errors
    /// [`Error::Unavailable`] with what is missing, at the deadline; [`Error::Fatal`].
    pub async fn wait_ready(&self, deadline: Instant) -> Result<(), Error> {
        loop {
            let Some(why) = self.not_ready() else { return Ok(()) };
            if self.fatal.borrow().is_some() {
                return Err(Error::Fatal(why));
            }
            if Instant::now() + NO_LEADER_RETRY >= deadline {
                return Err(Error::Unavailable(why));
            }
            tokio::time::sleep(NO_LEADER_RETRY).await;
        }
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

    /// Stops: leadership moves, no new proposals, what is in the log's queue becomes durable, the state is synced.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when something did not end before the deadline; the directory may then still be in use.
    pub async fn shutdown(&self, deadline: Instant) -> Result<(), Error> {
        self.drain(deadline.min(Instant::now() + DRAIN)).await;
        self.close(deadline).await
    }

    async fn close(&self, deadline: Instant) -> Result<(), Error> {
        self.stop.cancel();
        self.sole_leader.store(false, Ordering::Release);
        self.tasks.close();
        let late = |what: &str| Error::Unavailable(format!("{what} did not end before the deadline"));
        timeout_at(deadline, self.tasks.wait()).await.map_err(|_| late("background work"))?;
        // First of all: a state machine that waits for space must not be waited for.
        let space = self.local.space.clone();
        let threads = &self.local.threads;
        let closing = threads.blocking(move || space.close());
        timeout_at(deadline, closing).await.map_err(|_| late("the probe of the disk"))??;
        let stopped = timeout_at(deadline, self.local.raft.shutdown()).await.map_err(|_| late("the consensus"))?;
        stopped.map_err(|error| Error::Fatal(error.to_string()))?;
        if let Some(peers) = &self.peers {
            peers.side.detach();
        }
        let (log, machine) = (self.local.log.clone(), self.local.machine.clone());
        let runtime = self.runtime.lock().expect("only held for a moment").take();
        let left = deadline.saturating_duration_since(Instant::now());
        let closing = threads.blocking(move || {
            log.close();
            if let Some(runtime) = runtime {
                runtime.shutdown_timeout(left);
            }
            use holdfast_core::kv::Kv as _;
            machine.store.engine().sync().map_err(|error| machine.store.failed(error))
        });
        timeout_at(deadline, closing).await.map_err(|_| late("the log"))??
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(peers) = &self.peers {
            peers.side.detach();
        }
        self.local.space.close();
        self.local.log.close();
        if let Some(runtime) = self.runtime.lock().expect("only held for a moment").take() {
            runtime.shutdown_background();
        }
    }
}
