//! Opening a cluster: the checks that decide whether this directory may go on, and the tasks that run beside it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use holdfast_core::kv::Kv as _;
use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver as _;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::attendance::Attendance;
use super::bootstrap::{self, Candidate, FirstStart};
use super::engine;
use super::error::Error;
use super::identity::{self, DirLock, Identity, IdentityFile};
use super::local::Local;
use super::log::{Log, LogConfig};
use super::machine::{self, Machine};
use super::membership::Roster;
use super::network::{Factory, Links, Own};
use super::node_side::Running;
use super::raft::{self, Consensus, Node};
use super::reads::Rounds;
use super::space::{IN_FLIGHT_BYTES_MAX, Space, WORK_BYTES};
use super::store::{Found, Store};
use super::{Cluster, ClusterConfig, LOG_DIR, PeersConfig, PeersRun, SNAPSHOT_ENTRIES, STATE_DIR};

/// Longest wait for the first linearizable state, replay included.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the other first voters wait for the one that wrote the claim to begin. Not a matter of safety: all of them
/// begin with the same list.
const BEGIN_GRACE: Duration = Duration::from_secs(3);
/// How often they look.
const BEGIN_LOOK: Duration = Duration::from_millis(50);
/// How often it is decided whether a snapshot or a purge is due.
const KEEP_INTERVAL: Duration = Duration::from_millis(500);

/// What the directory holds, checked.
struct Opened {
    file: IdentityFile,
    identity: Identity,
    log: Log,
    space: Arc<Space>,
    store: Store,
}

impl Cluster {
    /// Opens the cluster in a directory. Without peers it begins a cluster of one in an empty one, and is ready for
    /// proposals and views when it returns. With peers an empty directory becomes a member first, however long that takes
    /// (see `bootstrap`); when it returns the node takes part, and [`Cluster::wait_ready`] waits until it can serve.
    ///
    /// # Errors
    /// [`Error::InUse`]; [`Error::LogDamaged`], [`Error::StateMismatch`], [`Error::Identity`] when an operator must act;
    /// [`Error::Io`], [`Error::Store`]; [`Error::Unavailable`] when the node did not become ready.
    ///
    /// # Cancel safety
    /// Dropped before the node has become a member, it has become none.
    pub async fn open(config: ClusterConfig) -> Result<Self, Error> {
        let lock = take_directory(&config).await?;
        let first = match &config.peers {
            Some(peers) => Some(become_member(&config, peers).await?),
            None => None,
        };
        let own = config.clone();
        let threads = config.threads.clone();
        let opened = threads.blocking(move || open_directory(&own)).await??;
        let runtime = threads.consensus();
        let (runtime, handle) = runtime.map_err(|source| Error::io("start threads for", &config.data_dir, source))?;
        let machine = Arc::new(machine::Shared::new(opened.store, Some(opened.space.clone()), threads.clone()));
        let links = config.peers.as_ref().map(|peers| links(&config, peers, &opened.identity, &opened.file, &machine));
        let links = links.transpose()?;
        let raft = start_consensus(&handle, &config, opened.identity.node_id, &opened.log, &machine, &links).await?;
        let local = Local {
            node: opened.identity.node_id,
            raft,
            log: opened.log,
            space: opened.space,
            machine,
            admission: Arc::default(),
            threads,
            clock: config.clock.clone(),
            clocks: links.as_ref().map(|links| links.clocks().clone()).unwrap_or_default(),
        };
        let (fatal, stop, tasks) = (watch::Sender::new(None), CancellationToken::new(), TaskTracker::new());
        let (removed, no_member) = watch::channel(None);
        let peers = links.map(|links| {
            let peers = config.peers.clone().expect("links are made of them");
            join_in(&handle, peers, links, &local, &tasks, &stop, no_member)
        });
        let mut cluster = Self {
            identity: opened.identity,
            local,
            peers,
            forwards: Semaphore::new(IN_FLIGHT_BYTES_MAX),
            log_hold: Arc::new(AtomicU64::new(u64::MAX)),
            sole_leader: Arc::new(AtomicBool::new(false)),
            fatal,
            tasks,
            stop,
            handle,
            runtime: Mutex::new(runtime),
            _lock: lock,
        };
        match first {
            None => cluster.begin(&config, &opened.file).await?,
            Some(first) => cluster.begin_among(&config, &first, opened.file, removed).await?,
        }
        cluster.watch_over(&config).await?;
        Ok(cluster)
    }

    /// Becomes the leader and applies all there is.
    async fn begin(&mut self, config: &ClusterConfig, file: &IdentityFile) -> Result<(), Error> {
        let fatal = |error: &dyn std::fmt::Display| Error::Fatal(error.to_string());
        let raft = &self.local.raft;
        if raft.is_initialized().await.map_err(|error| fatal(&error))? {
            let voters = self.metrics().membership_config.voter_ids().count();
            if voters != 1 {
                return Err(Error::Unavailable(format!(
                    "this directory is of a member of a cluster with {voters} voters: start it with the cluster's settings"
                )));
            }
            // Nobody else can lead: there is nothing to wait for.
            raft.trigger().elect(false).await.map_err(|error| fatal(&error))?;
        } else {
            let members = BTreeMap::from([(self.identity.node_id, config.node.clone())]);
            raft.initialize(members).await.map_err(|error| fatal(&error))?;
        }
        self.linearize(Instant::now() + READY_TIMEOUT).await?;
        if !self.identity.initialized {
            self.identity.initialized = true;
            file.write(&self.identity)?;
        }
        Ok(())
    }

    /// Takes part; begins the cluster with the other first voters if that was not done before.
    async fn begin_among(
        &self,
        config: &ClusterConfig,
        first: &FirstStart,
        file: IdentityFile,
        removed: watch::Sender<Option<String>>,
    ) -> Result<(), Error> {
        let peers = self.peers.as_ref().expect("the caller has them");
        let own = first.voters.iter().any(|voter| voter.id == self.identity.node_id);
        // The log decides again when the consensus is asked: this only spares the wait.
        if own && self.local.log.last().is_none() {
            let members = first.voters.iter().map(|voter| {
                let node = Node { peer: voter.address.clone(), api: String::new(), nonce: Some(voter.nonce.clone()) };
                (voter.id, node)
            });
            let (members, raft, stop) = (members.collect(), self.local.raft.clone(), self.stop.clone());
            let grace = if first.won { Duration::ZERO } else { BEGIN_GRACE };
            self.spawn(async move {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => {}
                    () = begin_with(raft, members, grace) => {}
                }
            });
        }
        let settings = config.peers.as_ref().expect("the caller has them");
        let attendance = Attendance {
            roster: peers.running.roster.clone(),
            address: settings.advertise.clone(),
            api: config.node.api.clone(),
            fatal: self.fatal.clone(),
            removed,
            identity: self.identity.clone(),
            file,
            log: self.local.log.clone(),
            threads: self.local.threads.clone(),
        };
        self.spawn(attendance.run(self.stop.clone()));
        settings.side.set_identity(&self.identity);
        Ok(())
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn_on(task, &self.handle);
    }

    async fn watch_over(&self, config: &ClusterConfig) -> Result<(), Error> {
        let Local { node, raft, log, machine, .. } = self.local.clone();
        let (alone, open) = (self.peers.is_none(), self.sole_leader.clone());
        let gate = Gate { node, raft: raft.clone(), alone, open };
        if alone {
            let opened = tokio::time::timeout(READY_TIMEOUT, gate.opened()).await;
            opened.map_err(|_| Error::Unavailable("the node did not become the leader".into()))?;
        }
        self.spawn(gate.run(log.failure(), machine.failure.subscribe(), self.fatal.clone(), self.stop.clone()));
        let keeper = Keeper {
            raft,
            log,
            snapshot_bytes: config.snapshot_bytes,
            keep_bytes: config.log_keep_bytes,
            hold: self.log_hold.clone(),
        };
        self.spawn(keeper.run(self.stop.clone()));
        Ok(())
    }
}

async fn take_directory(config: &ClusterConfig) -> Result<DirLock, Error> {
    let own = config.clone();
    let taken = config.threads.blocking(move || {
        let lock = identity::lock(&own.data_dir)?;
        make_room(&own)?;
        Ok(lock)
    });
    taken.await?
}

/// An identity is there when this returns, and peers can ask who this node is.
async fn become_member(config: &ClusterConfig, peers: &PeersConfig) -> Result<FirstStart, Error> {
    let file = IdentityFile::new(&config.data_dir);
    let mut first = FirstStart::open(&config.data_dir)?;
    if file.exists() {
        peers.side.set_candidate(Candidate::new(&config.name, &peers.advertise, &first.nonce));
        return Ok(first);
    }
    file.check_new()?;
    let member = bootstrap::decide(config, peers, &mut first).await?;
    tracing::info!(cluster = member.cluster_id, node = member.node_id, "this node is a member now");
    file.adopt(member.cluster_id, member.generation, member.node_id)?;
    Ok(first)
}

/// Larger for a later start, also of a copy of the directory that counts as many; never nought.
fn start_nonce(now_ms: u64) -> u64 {
    const CHANCE_BITS: u32 = 16;
    (now_ms.max(1) << CHANCE_BITS) | u64::from(rand::random::<u16>())
}

fn links(
    config: &ClusterConfig,
    peers: &PeersConfig,
    identity: &Identity,
    file: &IdentityFile,
    machine: &Arc<machine::Shared>,
) -> Result<Arc<Links>, Error> {
    let own = Own {
        name: config.name.clone(),
        cluster_id: identity.cluster_id.clone(),
        cluster: identity.owner(&file.path)?.cluster,
        generation: identity.generation,
        node: identity.node_id,
        boots: identity.boots,
        nonce: start_nonce((config.clock)()),
    };
    // The transport proves this id from its first message on.
    peers.side.set_identity(identity);
    Ok(Arc::new(Links::new(own, peers.transport.clone(), machine.clone(), config.clock.clone())))
}

/// Starts what runs among peers, and opens the receiving end.
fn join_in(
    handle: &Handle,
    peers: PeersConfig,
    links: Arc<Links>,
    local: &Local,
    tasks: &TaskTracker,
    stop: &CancellationToken,
    removed: watch::Receiver<Option<String>>,
) -> PeersRun {
    let server = local.raft.server_metrics();
    links.set_members(move || server.borrow_watched().membership_config.clone());
    let roster = Arc::new(Roster::new(local.clone(), links.clone(), peers.expect));
    let running = Running::new(local.clone(), links.clone(), roster.clone());
    peers.side.attach(running.clone());
    let (rounds, serve) = Rounds::new(local.clone(), links.clone(), stop.clone());
    tasks.spawn_on(serve, handle);
    tasks.spawn_on(roster.run(stop.clone()), handle);
    PeersRun { side: peers.side, links, running, rounds, removed }
}

/// Begins the cluster with its first voters, unless one of the others does within `grace`.
async fn begin_with(raft: Consensus, members: BTreeMap<u64, Node>, grace: Duration) {
    let until = Instant::now() + grace;
    while Instant::now() < until {
        match raft.is_initialized().await {
            Ok(false) => tokio::time::sleep(BEGIN_LOOK).await,
            Ok(true) | Err(_) => return,
        }
    }
    match raft.initialize(members).await {
        Ok(()) => tracing::info!("the cluster begins"),
        // It has begun meanwhile.
        Err(error) => tracing::debug!(%error, "the cluster was not begun here"),
    }
}

fn open_directory(config: &ClusterConfig) -> Result<Opened, Error> {
    let dir = &config.data_dir;
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
        threads: config.threads.clone(),
    })?;
    if identity.initialized && log.last().is_none() {
        return Err(log_missing(&log_dir));
    }
    let (store, found) = Store::open(&dir.join(STATE_DIR), config.cache_bytes)?;
    check_fit(&log, &store, found, config.peers.is_some())?;
    let space = Space::start(log.clone(), dir.clone(), config.files.clone(), &config.threads)?;
    Ok(Opened { file, identity, log, space, store })
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
fn check_fit(log: &Log, store: &Store, found: Found, among_peers: bool) -> Result<(), Error> {
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
    // A follower may apply what a majority has before its own log has it: the log then continues where the state ends. A
    // cluster of one has no other log to have applied from.
    if among_peers && log.last().map(|id| id.index) < Some(applied.index) {
        tracing::warn!(state = applied.index, log = log.last().map(|id| id.index), "the state is ahead of the log");
        // The consensus lets the log begin where the state ends: from then on nothing else has what the state has.
        return engine.sync().map_err(|error| store.failed(error));
    }
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
    handle: &Handle,
    config: &ClusterConfig,
    node: u64,
    log: &Log,
    machine: &Arc<machine::Shared>,
    links: &Option<Arc<Links>>,
) -> Result<Consensus, Error> {
    let settings = raft::config(&config.name).validate().map_err(|error| Error::Fatal(error.to_string()))?;
    let state_machine = Machine::new(machine.clone())?;
    let start = Consensus::new(node, Arc::new(settings), Factory(links.clone()), log.clone(), state_machine);
    let started = handle.spawn(start).await.map_err(|error| Error::Fatal(error.to_string()))?;
    started.map_err(|error| Error::Fatal(error.to_string()))
}

/// Follows who leads, and whether the node can go on.
struct Gate {
    node: u64,
    raft: Consensus,
    /// Opened without peers: nobody can add a voter.
    alone: bool,
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
        let alone = self.alone && voters.len() == 1 && voters[0].len() == 1 && voters[0].contains(&self.node);
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
                biased;
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
                biased;
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
