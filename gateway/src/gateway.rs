//! The gateway of a node: what the verbs in [`crate::ops`] stand on, composed once.
//!
//! ```text
//! api ─▶ Gateway (ops) ─┬─▶ Cluster   view, commit
//!                       └─▶ Blobs ─▶ Backend
//! ```
//! Promises: a command that was proposed runs to its end in a task of the gateway, whether or not its client waits; bytes
//! that a refused command would have named are given back; every wait has a deadline; no stamp of a
//! command is before state time.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use holdfast_core::command::{Command, Extracted, Fence, Reply};
use holdfast_core::error::Error as Refusal;
use holdfast_core::id::{BucketName, RequestId, Revision};
use holdfast_core::keyspace::Keyspace;
use holdfast_core::kv::{KeyRange, KvError, KvRead, Rows};
use holdfast_core::record::Durability;
use holdfast_core::rules::authorize::AuthorizedOp;
use holdfast_core::view::View;
use holdfast_query::engine::{Engine as Queries, Limits as QueryLimits};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::archive::Archive;
use crate::backend::{self, Backend, BackendUrl, Credentials, ProbeOptions};
use crate::blobs::{self, Blobs, Facts, LocalState, Written};
use crate::claim::BackendClaim;
use crate::clock::now_ms;
use crate::cluster::peer::Peers;
use crate::cluster::{
    self, Cluster, ClusterConfig, Committed, Consistency, Node, NodeSide, PeersConfig, ProposeOptions, StateView,
    Status, VIEW_DEADLINE,
};
use crate::error::Error;
use crate::feed::Feed;
use crate::feed::notifier::Notifier;

/// How long a command may take from proposal to reply.
pub const COMMIT_DEADLINE: Duration = Duration::from_secs(30);
/// How long the backend may take to give a sign of life.
pub const PROBE_DEADLINE: Duration = Duration::from_secs(5);
/// The account that owns every bucket.
pub const OWNER_ACCOUNT: &str = "000000000000";
/// Its canonical user id: the SHA-256 of `holdfast root`.
pub const OWNER_ID: &str = "1a5cd3c49d0cfeb04bddf6de3017b1126402ac5c51ed2fef712df5045cbd6af9";
/// Its display name.
pub const OWNER_NAME: &str = "root";
/// Most bytes that a small object may have: a command must fit into the log.
pub const INLINE_BYTES_MAX: u64 = 1 << 20;

/// Where, in a node's directory, its part of the cluster is.
pub const CLUSTER_DIR: &str = "cluster";

/// How a node is one of several.
#[derive(Clone)]
pub struct PeerOptions {
    /// Name of the cluster.
    pub name: String,
    /// Sends messages to peers.
    pub transport: Arc<dyn Peers>,
    /// Receives them.
    pub side: Arc<NodeSide>,
    /// Where peers reach this node.
    pub advertise: String,
    /// Where clients reach it.
    pub api: String,
    /// Where peers may be.
    pub candidates: watch::Receiver<BTreeSet<String>>,
    /// Voters that a new cluster begins with.
    pub expect: usize,
}

/// What a node is started with.
#[derive(Clone)]
pub struct Options {
    /// The node's directory.
    pub data: PathBuf,
    /// Where blobs live.
    pub backend: BackendUrl,
    /// Credentials for it.
    pub credentials: Credentials,
    /// The region that buckets are in.
    pub region: String,
    /// Bytes of hot blobs in memory.
    pub cache_bytes: u64,
    /// Objects up to this size travel inside commands, at most [`INLINE_BYTES_MAX`].
    pub inline_bytes: u64,
    /// The other nodes; `None` is a cluster of one.
    pub peers: Option<PeerOptions>,
    /// What queries may use.
    pub queries: QueryLimits,
}

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The backend cannot be opened.
    #[error("cannot open the backend {url}")]
    Backend {
        /// Which.
        url: String,
        /// Why not.
        #[source]
        source: backend::Error,
    },
    /// Queries cannot be run.
    #[error("cannot start the query engine")]
    Queries(#[source] holdfast_query::sql::Error),
    /// The node's directory cannot be opened.
    #[error("cannot open the node's directory {}", dir.display())]
    Cluster {
        /// Which.
        dir: PathBuf,
        /// Why not.
        #[source]
        source: cluster::Error,
    },
}

/// Where a command comes from.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The request's id, and the command's.
    pub request: RequestId,
    /// Grants of locks that must be live when it is applied.
    pub fences: Vec<Fence>,
    /// What indexes want to know of the bytes that it brings in.
    pub extracted: Vec<Extracted>,
}

/// An operation that was not committed, or whose fate is not known.
#[derive(Debug)]
pub struct NotCommitted {
    /// Why.
    pub error: Error,
    /// The bytes that it named, when they are kept for another.
    pub written: Option<Written>,
}

impl From<Error> for NotCommitted {
    fn from(error: Error) -> Self {
        Self { error, written: None }
    }
}

/// A running node. Clones share it.
#[derive(Clone)]
pub struct Gateway(Arc<Inner>);

struct Inner {
    cluster: Arc<Cluster>,
    facts: Arc<dyn Facts>,
    blobs: Blobs,
    archive: OnceLock<Archive>,
    region: String,
    inline_bytes: u64,
    inline_always: bool,
    /// Cancelled when the node leaves: streams without an end end then.
    leaving: CancellationToken,
    feed: Feed,
    notifier: Notifier,
    published: AtomicU64,
    queries: Queries,
    background: TaskTracker,
    commits: TaskTracker,
}

fn cluster_config(dir: &Path, peers: Option<PeerOptions>, backend: &Arc<dyn Backend>) -> ClusterConfig {
    let mut config = ClusterConfig::new(dir);
    if let Some(peers) = peers {
        config.name = peers.name;
        config.node = Node { peer: peers.advertise.clone(), api: peers.api, nonce: None };
        config.peers = Some(PeersConfig {
            transport: peers.transport,
            side: peers.side,
            advertise: peers.advertise,
            candidates: peers.candidates,
            expect: peers.expect,
            claim: Arc::new(BackendClaim(Arc::clone(backend))),
        });
    }
    config
}

/// A member waits for the others as long as it takes: alone it can promise nothing.
async fn await_leader(cluster: &Cluster) -> Result<(), cluster::Error> {
    loop {
        match cluster.wait_ready(Instant::now() + VIEW_DEADLINE).await {
            Err(error) if error.kind() == cluster::Kind::Unavailable => {
                tracing::warn!(reason = cluster.not_ready(), "this node waits for its cluster");
            }
            waited => return waited,
        }
    }
}

impl Gateway {
    /// Opens backend and cluster. Ready for requests when it returns.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(options: Options) -> Result<Self, StartError> {
        let url = options.backend.to_string();
        let backend = backend::open(&options.backend, options.credentials).await;
        let backend = backend.map_err(|source| StartError::Backend { url, source })?;
        let dir = options.data.join(CLUSTER_DIR);
        let cluster = Cluster::open(cluster_config(&dir, options.peers, &backend)).await;
        let cluster = Arc::new(cluster.map_err(|source| StartError::Cluster { dir: dir.clone(), source })?);
        await_leader(&cluster).await.map_err(|source| StartError::Cluster { dir, source })?;
        let generation = u32::try_from(cluster.identity().generation).unwrap_or(u32::MAX);
        let settings = blobs::Settings { cache_bytes: options.cache_bytes, generation };
        let facts: Arc<dyn Facts> = Arc::new(ClusterFacts(Arc::clone(&cluster)));
        let (leaving, background) = (CancellationToken::new(), TaskTracker::new());
        let feed = Feed::start(Arc::clone(&cluster), &background, leaving.clone());
        let notifier = Notifier::start(cluster.effects(), &background, leaving.clone());
        let blobs = Blobs::new(backend, Arc::clone(&facts), settings);
        let queries = Queries::new(options.queries).map_err(StartError::Queries)?;
        Ok(Self(Arc::new(Inner {
            cluster,
            facts,
            blobs,
            archive: OnceLock::new(),
            region: options.region,
            inline_bytes: options.inline_bytes.min(INLINE_BYTES_MAX),
            inline_always: matches!(options.backend, BackendUrl::File { .. }),
            leaving,
            feed,
            notifier,
            published: AtomicU64::new(0),
            queries,
            background,
            commits: TaskTracker::new(),
        })))
    }

    /// From here on the archive is asked before anything is acknowledged. Called once, before the node serves; without an
    /// archive nothing holds writes back. The leader's archive is asked for commands of other nodes, too: it alone knows how
    /// much is not in the bucket.
    pub fn guard_with(&self, archive: Archive) {
        self.0.cluster.admit_by(archive.admission());
        // A second one would be of the same cluster and backend: the first stays.
        let _ = self.0.archive.set(archive);
    }

    /// The archive, once there is one.
    #[must_use]
    pub fn archive(&self) -> Option<&Archive> {
        self.0.archive.get()
    }

    /// The state, as of now or as the consistency says.
    ///
    /// # Errors
    /// [`Error::Cluster`] when it cannot be had before [`VIEW_DEADLINE`].
    pub async fn view(&self, consistency: Consistency) -> Result<StateView, Error> {
        Ok(self.0.cluster.view(consistency, Instant::now() + VIEW_DEADLINE).await?)
    }

    /// Commits an operation: durable and applied when it returns, unless refused. A refusal is an error.
    ///
    /// # Errors
    /// [`Error::Refused`]; [`Error::Cluster`], of which [`cluster::Error::UnknownOutcome`] may have been done.
    ///
    /// # Cancel safety
    /// Once called, the operation runs to its end.
    pub async fn commit(&self, op: AuthorizedOp, origin: Origin) -> Result<(Revision, Reply), Error> {
        self.commit_with(op, origin, None).await
    }

    /// As [`Gateway::commit`], for a job, which has no client.
    ///
    /// # Errors
    /// As [`Gateway::commit`].
    pub async fn commit_job(&self, op: AuthorizedOp, request: RequestId) -> Result<(Revision, Reply), Error> {
        self.commit_with(op, Origin { request, fences: Vec::new(), extracted: Vec::new() }, None).await
    }

    /// As [`Gateway::commit`], for an operation that names the bytes `written`: they are held while its fate is open and
    /// given up when it is refused.
    ///
    /// # Errors
    /// As [`Gateway::commit`].
    pub async fn commit_with(
        &self,
        op: AuthorizedOp,
        origin: Origin,
        written: Option<Written>,
    ) -> Result<(Revision, Reply), Error> {
        let gateway = self.clone();
        let work = async move { gateway.propose(op, origin, written, |_| false).await };
        self.0.commits.spawn(work).await.map_err(|_| Error::Stopping)?.map_err(|refused| refused.error)
    }

    /// As [`Gateway::commit_with`]; when it is refused and `keeps` says so, the bytes come back with the refusal, to be named
    /// by another operation.
    ///
    /// # Errors
    /// As [`Gateway::commit`].
    pub async fn commit_keeping(
        &self,
        op: AuthorizedOp,
        origin: Origin,
        written: Written,
        keeps: fn(&Refusal) -> bool,
    ) -> Result<(Revision, Reply), NotCommitted> {
        let gateway = self.clone();
        let work = async move { gateway.propose(op, origin, Some(written), keeps).await };
        let task = self.0.commits.spawn(work).await;
        task.unwrap_or(Err(NotCommitted { error: Error::Stopping, written: None }))
    }

    async fn propose(
        &self,
        op: AuthorizedOp,
        origin: Origin,
        written: Option<Written>,
        keeps: fn(&Refusal) -> bool,
    ) -> Result<(Revision, Reply), NotCommitted> {
        let Origin { request, fences, extracted } = origin;
        let fences = (!fences.is_empty()).then_some(fences);
        let extracted = (!extracted.is_empty()).then_some(extracted);
        let command = Command { request, stamp_ms: self.stamp_ms(), op: op.into_op(), fences, extracted };
        let bucket = command.op.bucket().cloned();
        let frees_space = command.frees_space();
        if let Err(why) = self.0.archive.get().map_or(Ok(()), |archive| archive.allows(frees_space)) {
            if let Some(written) = written {
                self.0.blobs.discard(written);
            }
            return Err(Error::HeldBack(why).into());
        }
        let options = ProposeOptions { deadline: Instant::now() + COMMIT_DEADLINE, frees_space };
        let committed = self.0.cluster.propose(command, options).await;
        if let Ok(Committed { reply: Reply::Refused(refusal), .. }) = &committed
            && keeps(refusal)
        {
            return Err(NotCommitted { error: refusal.clone().into(), written });
        }
        let nothing_done = match &committed {
            // Expired: a copy of it may have been applied before its reply was forgotten.
            Ok(committed) => matches!(&committed.reply, Reply::Refused(refusal) if *refusal != Refusal::Expired),
            Err(error) => is_certainly_not_done(error),
        };
        if let Some(written) = written.filter(|_| nothing_done) {
            self.0.blobs.discard(written);
        }
        let committed = committed.map_err(Error::from)?;
        self.may_acknowledge(committed.revision, bucket.as_ref(), options).await?;
        Ok((committed.revision, committed.reply.into_result().map_err(Error::from)?))
    }

    /// The last question before a reply: is this still the cluster that owns the repository, and is the command where its
    /// bucket wants it?
    async fn may_acknowledge(
        &self,
        revision: Revision,
        bucket: Option<&BucketName>,
        options: ProposeOptions,
    ) -> Result<(), Error> {
        let ProposeOptions { deadline, frees_space } = options;
        let Some(archive) = self.0.archive.get() else { return Ok(()) };
        let unknown = |why: String| Error::Cluster(cluster::Error::UnknownOutcome(why));
        if let Some(bucket) = bucket {
            // It is committed: whatever fails from here on, nobody may believe that nothing was done.
            let view = self.0.cluster.view(Consistency::AtLeast(revision), deadline).await;
            let view = view.map_err(|error| unknown(error.to_string()))?;
            let durability = View::new(&view, view.revision()).durability(bucket);
            if durability.map_err(|stop| unknown(stop.to_string()))? == Durability::Bucket {
                archive.await_shipped(revision, deadline).await.map_err(unknown)?;
            }
        }
        archive.allows(frees_space).map_err(unknown)
    }

    /// The wall clock, held back where it went back or another node's was ahead.
    fn stamp_ms(&self) -> u64 {
        now_ms().max(self.0.cluster.state_ms())
    }

    /// The store of blobs.
    #[must_use]
    pub fn blobs(&self) -> &Blobs {
        &self.0.blobs
    }

    /// The feed of events.
    #[must_use]
    pub fn feed(&self) -> &Feed {
        &self.0.feed
    }

    /// Who waits for leases or messages on this node.
    pub(crate) fn notifier(&self) -> &Notifier {
        &self.0.notifier
    }

    /// Messages that were published through this node.
    pub(crate) fn published(&self) -> &AtomicU64 {
        &self.0.published
    }

    /// The engine of queries.
    pub(crate) fn queries(&self) -> &Queries {
        &self.0.queries
    }

    /// Runs something that the node waits for when it stops.
    pub(crate) fn in_background(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.0.commits.spawn(work);
    }

    /// Resolves when the node is about to leave.
    pub async fn left(&self) {
        self.0.leaving.cancelled().await;
    }

    /// The cluster.
    #[must_use]
    pub fn cluster(&self) -> &Arc<Cluster> {
        &self.0.cluster
    }

    /// The facts of this node's own state.
    #[must_use]
    pub fn facts(&self) -> &Arc<dyn Facts> {
        &self.0.facts
    }

    /// The region that buckets are in.
    #[must_use]
    pub fn region(&self) -> &str {
        &self.0.region
    }

    /// Objects up to this size travel inside commands, unless the bucket says otherwise.
    #[must_use]
    pub fn inline_bytes(&self) -> u64 {
        self.0.inline_bytes
    }

    /// Whether small objects travel inside commands in every bucket: on a directory, where a file costs more than a row.
    #[must_use]
    pub fn is_inline_always(&self) -> bool {
        self.0.inline_always
    }

    /// What the node knows about itself now.
    #[must_use]
    pub fn status(&self) -> Status {
        self.0.cluster.status()
    }

    /// Whether requests should come here.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let superseded = self.0.archive.get().is_some_and(Archive::is_superseded);
        !superseded && !self.0.leaving.is_cancelled() && self.0.cluster.is_ready()
    }

    /// Whether the backend gives a sign of life.
    pub async fn is_backend_alive(&self) -> bool {
        let options = ProbeOptions { deadline: Some(Instant::now() + PROBE_DEADLINE) };
        self.0.blobs.backend().probe(options).await.is_ok()
    }

    /// Resolves when the node must stop, with the reason.
    pub async fn fatal(&self) -> cluster::Error {
        let Some(archive) = self.0.archive.get() else { return self.0.cluster.fatal().await };
        tokio::select! {
            fatal = self.0.cluster.fatal() => fatal,
            reason = archive.superseded() => cluster::Error::Fatal(reason),
        }
    }

    /// Asks whoever sends requests to send them elsewhere; requests are still served.
    pub fn drain(&self) {
        self.0.leaving.cancel();
    }

    /// Stops: what was proposed ends, background work ends, the state is synced.
    ///
    /// # Errors
    /// [`Error::Cluster`] when something did not end before the deadline.
    pub async fn stop(&self, deadline: Instant) -> Result<(), Error> {
        self.drain();
        self.0.commits.close();
        let late = |what: &str| cluster::Error::Unavailable(format!("{what} did not end before the deadline"));
        self.0.background.close();
        timeout_at(deadline, self.0.background.wait()).await.map_err(|_| late("the feed"))?;
        timeout_at(deadline, self.0.commits.wait()).await.map_err(|_| late("commits"))?;
        if let Some(archive) = self.0.archive.get() {
            timeout_at(deadline, archive.stop()).await.map_err(|_| late("the archive"))?;
        }
        timeout_at(deadline, self.0.blobs.close()).await.map_err(|_| late("the store of blobs"))?;
        timeout_at(deadline, self.0.blobs.backend().close()).await.map_err(|_| late("the backend"))?;
        Ok(self.0.cluster.shutdown(deadline).await?)
    }
}

/// Whether a command that failed so was never handed to the log. What is not sure counts as done.
fn is_certainly_not_done(error: &cluster::Error) -> bool {
    match error {
        cluster::Error::NoSpace { .. }
        | cluster::Error::Busy
        | cluster::Error::TooLarge { .. }
        | cluster::Error::Conflict(_)
        | cluster::Error::Unavailable(_) => true,
        cluster::Error::UnknownOutcome(_)
        | cluster::Error::Fatal(_)
        | cluster::Error::InUse { .. }
        | cluster::Error::Io { .. }
        | cluster::Error::Identity { .. }
        | cluster::Error::LogDamaged { .. }
        | cluster::Error::StateMismatch(_)
        | cluster::Error::Store { .. }
        | cluster::Error::Snapshot { .. } => false,
    }
}

/// The facts of this node's own state.
struct ClusterFacts(Arc<Cluster>);

impl Facts for ClusterFacts {
    fn local(&self) -> LocalState {
        // A local view waits for nobody.
        match self.0.view(Consistency::Local, Instant::now()).now_or_never() {
            Some(Ok(view)) => {
                let revision = view.revision();
                LocalState::new(view, revision)
            }
            Some(Err(error)) => LocalState::new(Unreadable(error), 0),
            None => LocalState::new(Unreadable(cluster::Error::Unavailable("no local view".into())), 0),
        }
    }
}

/// A state that cannot be read: each read says why.
struct Unreadable(cluster::Error);

impl Unreadable {
    fn error(&self) -> KvError {
        KvError { doing: "taking a view of the state", source: Box::new(self.0.clone()) }
    }
}

impl KvRead for Unreadable {
    fn get(&self, _: Keyspace, _: &[u8]) -> Result<Option<Bytes>, KvError> {
        Err(self.error())
    }

    fn scan<'a>(&'a self, _: Keyspace, _: KeyRange, _: holdfast_core::kv::Direction) -> Rows<'a> {
        Box::new(std::iter::once(Err(self.error())))
    }
}
