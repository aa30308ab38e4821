//! Opening a cluster: the checks that decide whether this directory may go on, and the tasks that run beside it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver as _;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::engine;
use super::error::Error;
use super::identity::{self, DirLock, Identity, IdentityFile};
use super::log::{Log, LogConfig};
use super::machine::{self, Machine};
use super::network::NoPeers;
use super::raft::{self, Consensus};
use super::space::{Space, WORK_BYTES};
use super::store::{Found, Store};
use super::{Cluster, ClusterConfig, LOG_DIR, SNAPSHOT_ENTRIES, STATE_DIR};

/// Threads of the consensus: its core, and the state machine beside it.
const CONSENSUS_THREADS: usize = 2;
/// Longest wait for the first linearizable state, replay included.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// How often it is decided whether a snapshot or a purge is due.
const KEEP_INTERVAL: Duration = Duration::from_millis(500);

/// What the directory holds, checked.
struct Opened {
    lock: DirLock,
    file: IdentityFile,
    identity: Identity,
    log: Log,
    space: Arc<Space>,
    store: Store,
}

impl Cluster {
    /// Opens the cluster in a directory, or begins a cluster of one in an empty one. Ready for proposals and views when it
    /// returns.
    ///
    /// # Errors
    /// [`Error::InUse`]; [`Error::LogDamaged`], [`Error::StateMismatch`], [`Error::Identity`] when an operator must act;
    /// [`Error::Io`], [`Error::Store`]; [`Error::Unavailable`] when the node did not become ready.
    pub async fn open(config: ClusterConfig) -> Result<Self, Error> {
        let own = config.clone();
        let opened = tokio::task::spawn_blocking(move || open_directory(&own));
        let opened = opened.await.map_err(|error| Error::Fatal(error.to_string()))??;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(CONSENSUS_THREADS)
            .thread_name("holdfast-raft")
            .enable_all()
            .build()
            .map_err(|source| Error::io("start threads for", &config.data_dir, source))?;
        let machine = Arc::new(machine::Shared::new(opened.store, Some(opened.space.clone())));
        let raft = start_consensus(&runtime, &config, opened.identity.node_id, &opened.log, &machine).await?;
        let view = machine.store.view();
        let revision_offset = engine::revision_offset(&view).map_err(|error| machine.store.failed(error))?;
        let mut cluster = Self {
            identity: opened.identity,
            raft,
            log: opened.log,
            space: opened.space,
            machine,
            revision_offset,
            log_hold: Arc::new(AtomicU64::new(u64::MAX)),
            sole_leader: Arc::new(AtomicBool::new(false)),
            fatal: watch::Sender::new(None),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            runtime: Mutex::new(Some(runtime)),
            _lock: opened.lock,
        };
        cluster.begin(&config, &opened.file).await?;
        cluster.watch_over(&config).await?;
        Ok(cluster)
    }

    /// Becomes the leader and applies all there is.
    async fn begin(&mut self, config: &ClusterConfig, file: &IdentityFile) -> Result<(), Error> {
        let fatal = |error: &dyn std::fmt::Display| Error::Fatal(error.to_string());
        if self.raft.is_initialized().await.map_err(|error| fatal(&error))? {
            // Nobody else can lead: there is nothing to wait for.
            self.raft.trigger().elect(false).await.map_err(|error| fatal(&error))?;
        } else {
            let members = BTreeMap::from([(self.identity.node_id, config.node.clone())]);
            self.raft.initialize(members).await.map_err(|error| fatal(&error))?;
        }
        self.linearize(Instant::now() + READY_TIMEOUT).await?;
        if !self.identity.initialized {
            self.identity.initialized = true;
            file.write(&self.identity)?;
        }
        Ok(())
    }

    async fn watch_over(&self, config: &ClusterConfig) -> Result<(), Error> {
        let gate = Gate { node: self.identity.node_id, raft: self.raft.clone(), open: self.sole_leader.clone() };
        let opened = tokio::time::timeout(READY_TIMEOUT, gate.opened()).await;
        opened.map_err(|_| Error::Unavailable("the node did not become the leader".into()))?;
        let runtime = self.runtime.lock().expect("only held for a moment");
        let handle = runtime.as_ref().expect("the cluster was just opened").handle();
        let watcher =
            gate.run(self.log.failure(), self.machine.failure.subscribe(), self.fatal.clone(), self.stop.clone());
        self.tasks.spawn_on(watcher, handle);
        let keeper = Keeper {
            raft: self.raft.clone(),
            log: self.log.clone(),
            snapshot_bytes: config.snapshot_bytes,
            keep_bytes: config.log_keep_bytes,
            hold: self.log_hold.clone(),
        };
        self.tasks.spawn_on(keeper.run(self.stop.clone()), handle);
        Ok(())
    }
}

fn open_directory(config: &ClusterConfig) -> Result<Opened, Error> {
    let dir = &config.data_dir;
    let lock = identity::lock(dir)?;
    make_room(config)?;
    let file = IdentityFile::new(dir);
    let identity = file.begin()?;
    let log_dir = dir.join(LOG_DIR);
    if identity.initialized && !log_dir.is_dir() {
        return Err(log_missing(&log_dir));
    }
    let log = Log::open(LogConfig {
        dir: log_dir.clone(),
        owner: identity.owner(&file.path)?,
        segment_bytes: config.segment_bytes,
        files: config.files.clone(),
    })?;
    if identity.initialized && log.last().is_none() {
        return Err(log_missing(&log_dir));
    }
    let (store, found) = Store::open(&dir.join(STATE_DIR), config.cache_bytes)?;
    check_fit(&log, &store, found)?;
    let space = Space::start(log.clone(), dir.clone(), config.files.clone())?;
    Ok(Opened { lock, file, identity, log, space, store })
}

/// On a full disk even a start needs a little: the balloon is what it was kept for.
fn make_room(config: &ClusterConfig) -> Result<(), Error> {
    let failed = |source| Error::io("tell the free space of", &config.data_dir, source);
    let balloon = config.data_dir.join(super::space::BALLOON);
    if config.files.free_bytes(&config.data_dir).map_err(failed)? < WORK_BYTES && balloon.exists() {
        config.files.remove(&balloon).map_err(|source| Error::io("remove", &balloon, source))?;
        tracing::warn!("the disk is full: the balloon was given up so that the node can start");
    }
    Ok(())
}

fn log_missing(dir: &Path) -> Error {
    Error::StateMismatch(format!(
        "the log in {} is missing, but this node has run before: starting empty would lose acknowledged writes; restore the data directory from a copy, or recover it from the backend",
        dir.display()
    ))
}

/// State and log must meet: the log continues where the state ends.
fn check_fit(log: &Log, store: &Store, found: Found) -> Result<(), Error> {
    let applied = engine::applied(&store.view()).map_err(|error| store.failed(error))?;
    let engine = store.engine();
    let (state_dir, log_dir) = (engine.dir().display(), log.config().dir.display());
    let ends = applied.map_or_else(|| "is empty".into(), |id| format!("ends at entry {}", id.index));
    let advice = "restore the data directory from one copy, or recover it from the backend";
    if let Some(purged) = log.purged().filter(|purged| applied.map(|id| id.index) < Some(purged.index)) {
        return Err(Error::StateMismatch(format!(
            "the state in {state_dir} {ends}, the log in {log_dir} begins at entry {}: the entries between are gone; {advice}",
            purged.index + 1
        )));
    }
    let Some(applied) = applied else {
        if found == Found::New && log.last().is_some() {
            tracing::warn!(dir = %state_dir, "the state is missing; the log is complete and rebuilds it");
        }
        return Ok(());
    };
    // The log is synced before an entry is applied, and a cluster of one has no other log to have applied from.
    if log.last().map(|id| id.index) < Some(applied.index) {
        return Err(Error::StateMismatch(format!(
            "the state in {state_dir} {ends}, the log in {log_dir} at {}: the log has lost acknowledged entries; {advice}",
            log.last().map_or(0, |id| id.index)
        )));
    }
    let logged = log.log_id_at(applied.index)?;
    if logged.is_some_and(|logged| logged != applied) {
        return Err(Error::StateMismatch(format!(
            "the state in {state_dir} {ends} of another history than the log in {log_dir}; {advice}"
        )));
    }
    Ok(())
}

async fn start_consensus(
    runtime: &tokio::runtime::Runtime,
    config: &ClusterConfig,
    node: u64,
    log: &Log,
    machine: &Arc<machine::Shared>,
) -> Result<Consensus, Error> {
    let settings = raft::config(&config.name).validate().map_err(|error| Error::Fatal(error.to_string()))?;
    let state_machine = Machine::new(machine.clone())?;
    let start = Consensus::new(node, Arc::new(settings), NoPeers, log.clone(), state_machine);
    let started = runtime.spawn(start).await.map_err(|error| Error::Fatal(error.to_string()))?;
    started.map_err(|error| Error::Fatal(error.to_string()))
}

/// Follows who leads, and whether the node can go on.
struct Gate {
    node: u64,
    raft: Consensus,
    open: Arc<AtomicBool>,
}

impl Gate {
    /// See the proof at [`Cluster::view`].
    fn update(&self) {
        let metrics = self.raft.server_metrics().borrow_watched().clone();
        let leads = metrics.state == ServerState::Leader
            && metrics.vote.committed
            && metrics.vote.leader_id.node_id == self.node;
        let voters = metrics.membership_config.get_joint_config();
        let alone = voters.len() == 1 && voters[0].len() == 1 && voters[0].contains(&self.node);
        self.open.store(leads && alone, Ordering::Release);
    }

    /// Resolves when the gate is open, or when the consensus has ended.
    async fn opened(&self) {
        let mut server = self.raft.server_metrics();
        self.update();
        while !self.open.load(Ordering::Acquire) && server.changed().await.is_ok() {
            self.update();
        }
    }

    async fn run(
        self,
        mut log: watch::Receiver<Option<String>>,
        mut machine: watch::Receiver<Option<String>>,
        fatal: watch::Sender<Option<String>>,
        stop: CancellationToken,
    ) {
        let mut server = self.raft.server_metrics();
        let reason = loop {
            tokio::select! {
                () = stop.cancelled() => return,
                failed = log.wait_for(Option::is_some) => break failed.ok().and_then(|reason| reason.clone()),
                failed = machine.wait_for(Option::is_some) => break failed.ok().and_then(|reason| reason.clone()),
                changed = server.changed() => match changed {
                    Ok(()) => self.update(),
                    Err(_) => break self.raft.metrics().borrow_watched().running_state.clone().err().map(|error| error.to_string()),
                },
            }
        };
        self.open.store(false, Ordering::Release);
        if stop.is_cancelled() {
            return;
        }
        let reason = reason.unwrap_or_else(|| "the consensus has stopped".into());
        tracing::error!(reason, "the node must stop");
        fatal.send_replace(Some(reason));
    }
}

/// Takes snapshots and purges the log.
struct Keeper {
    raft: Consensus,
    log: Log,
    snapshot_bytes: u64,
    keep_bytes: u64,
    /// See [`Cluster::hold_log_from`].
    hold: Arc<AtomicU64>,
}

impl Keeper {
    async fn run(self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(KEEP_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            if let Err(error) = self.look().await {
                tracing::warn!(%error, "snapshots and purges have ended");
                return;
            }
        }
    }

    async fn look(&self) -> Result<(), openraft::errors::Fatal<raft::TypeConfig>> {
        let growth = self.log.growth();
        if growth.bytes >= self.snapshot_bytes || growth.entries >= SNAPSHOT_ENTRIES {
            self.log.reset_growth();
            self.raft.trigger().snapshot().await?;
        }
        let covered = self.raft.metrics().borrow_watched().snapshot;
        let held = match self.hold.load(Ordering::Acquire) {
            _ if self.log.stats().bytes > super::LOG_HELD_BYTES_MAX => u64::MAX,
            hold => hold,
        };
        let purge = covered
            .map(|id| id.index.min(held.saturating_sub(1)))
            .and_then(|upto| self.log.purge_candidate(upto, self.keep_bytes));
        if let Some(upto) = purge {
            self.raft.trigger().purge_log(upto).await?;
        }
        Ok(())
    }
}
