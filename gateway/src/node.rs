//! A node: settings become a running process, and a process ends in order.
//!
//! ```text
//! data directory locked, keys ─▶ listener, not ready ─▶ peers ─▶ backend opened and proven ─▶ Gateway ─▶ jobs ─▶ gate opened
//! signal ─▶ not ready ─▶ listener drained ─▶ jobs stopped ─▶ commits ended, state synced
//! ```
//! A backend that is not consistent is refused here, with what was found. A node that hits a fatal error stops at once: a dead
//! node is recoverable, a wrong one is not.

mod ledger;
mod metrics;
mod peers;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper::Request;
use hyper::Response;
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use s3s::service::S3ServiceBuilder;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::peers::{PeerPart, PeersError};
use crate::api::gate::entrance::Entrance;
use crate::api::gate::host::Hosts;
use crate::api::gate::keys::Keys;
use crate::api::gate::metrics::HttpMetrics;
use crate::api::gate::{Gate, GateOptions, ReplyBody, s3s_config};
use crate::api::http::HttpRoute;
use crate::api::s3::body::BodyBudget;
use crate::api::s3::{BucketCors, S3Api};
use crate::archive::{self, Archive};
use crate::backend::{self, BackendUrl};
use crate::config::{Config, credentials};
use crate::doctor::{self, DataLock, LockError, Report};
use crate::durable_dir;
use crate::gateway::{CLUSTER_DIR, Gateway, OWNER_ACCOUNT, Options, StartError};
use crate::jobs::{Jobs, JobsConfig};
use crate::notify::settings::Sealer;
use crate::notify::{Notifications, NotifyContext};
use crate::outbound::{self, Reach};
use crate::server::tls::{Tls, TlsError};
use crate::server::{self, Limits, Server};
use crate::telemetry::{self, Metrics};
use crate::{claim, cluster, error};

/// How long what was accepted may take to end after the listener is drained.
const STOP_DEADLINE: Duration = Duration::from_secs(10);
/// How long leadership may take to move when a node drains.
const HAND_OVER_WITHIN: Duration = Duration::from_secs(5);
/// How long condemned blobs are kept for reads of other nodes.
const PEERS_READ_MAX: Duration = Duration::from_secs(15 * 60);
/// Most memory of the cache when none is configured.
const CACHE_BYTES_MAX: u64 = 4 << 30;
/// Most memory that queries take by default.
const QUERY_MEMORY_MAX: u64 = 2 << 30;
/// Most memory for footers and samples that are kept between queries.
const QUERY_CACHE_MAX: u64 = 256 << 20;
/// Queries that wait for their turn.
const QUERIES_WAITING_MAX: usize = 64;
/// Bytes of one result.
const QUERY_RESULT_MAX: u64 = 64 << 30;
/// Where queries spill, under the node's directory.
const SPILL_DIR: &str = "spill";

/// Why a node does not run, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The log filter does not parse.
    #[error("the log filter is not one")]
    Log(#[source] tracing_subscriber::filter::ParseError),
    /// The backend's URL does not parse.
    #[error("the backend's URL is not one")]
    BackendUrl(#[source] backend::UrlError),
    /// The data directory cannot be made.
    #[error("cannot create the data directory {}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Another process runs on it.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// Root's keys cannot be read or written.
    #[error(transparent)]
    Credentials(#[from] credentials::CredentialsError),
    /// The backend cannot be opened.
    #[error("cannot open the backend")]
    Backend(#[source] backend::Error),
    /// The backend or directory is not fit.
    #[error("not fit to serve from:\n{0}")]
    Unfit(Box<Report>),
    /// The repository is another cluster's.
    #[error(transparent)]
    Claim(#[from] claim::ClaimError),
    /// The part that speaks with peers does not start.
    #[error(transparent)]
    Peers(#[from] PeersError),
    /// The archive cannot be written, or a recovery cannot be done.
    #[error(transparent)]
    Archive(#[from] archive::Error),
    /// The parts do not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The listener does not start.
    #[error(transparent)]
    Listen(#[from] server::Error),
    /// The region is no region name.
    #[error("{0}")]
    Region(String),
    /// Signals cannot be handled.
    #[error("cannot handle signals")]
    Signals(#[source] std::io::Error),
    /// The node must not go on.
    #[error("the node had to stop")]
    Fatal(#[source] cluster::Error),
    /// Something did not end in time.
    #[error("the node did not stop in order")]
    Stop(#[source] error::Error),
}

impl Error {
    /// Whether the user's settings are at fault: exit code 2.
    #[must_use]
    pub fn is_configuration(&self) -> bool {
        matches!(
            self,
            Self::Log(_)
                | Self::BackendUrl(_)
                | Self::Region(_)
                | Self::Tls(_)
                | Self::Peers(PeersError::Trust(_) | PeersError::Discovery(_) | PeersError::Advertise(_))
        )
    }
}

/// Runs a node until it is told to stop. `announce` gets the lines for whoever started it.
///
/// # Errors
/// [`Error`] when it cannot start or must stop.
pub async fn serve(config: Config, announce: impl Fn(&str)) -> Result<(), Error> {
    telemetry::init(&config.log).map_err(Error::Log)?;
    for notice in &config.notices {
        tracing::info!("{notice}");
    }
    server::raise_file_limit();
    outbound::use_one_provider();
    let _lock = take_directory(&config.data)?;
    let root = credentials::root(config.root.clone(), &config.data)?;
    let notify = notify_context(&config, &root);
    let (http, metrics) = (HttpMetrics::default(), Arc::new(Metrics::default()));
    metrics.register(|registry| http.register(registry));
    let tls = config.tls.as_ref().map(|(certificate, key)| Tls::load(certificate, key)).transpose()?.map(Arc::new);
    let server = Server::bind(&config.listen, tls, Limits::default(), http.clone()).await?;
    let endpoint = format!("{}://{}", server.scheme(), server.address());

    // Listening comes first: whoever asks hears that the node starts, however long it waits for its cluster.
    let (shutdown, entrance) = (CancellationToken::new(), Entrance::new(http.clone()));
    // Aborted when it is dropped.
    let mut tasks = JoinSet::new();
    tasks.spawn(signals(shutdown.clone()));
    let serving = server.serve(service(entrance.clone()), shutdown.clone());
    tokio::pin!(serving);
    let node = tokio::select! {
        node = Node::start(&config, &endpoint, notify.clone()) => node?,
        // Told to stop before it had started.
        _ = &mut serving => return Ok(()),
    };
    metrics::register(&metrics, &node.gateway, &node.jobs, &notify.stats);
    let keys = Keys::root_only(root.credentials.clone());
    let budget = BodyBudget::default();
    entrance.open(build_gate(
        &config,
        &node.gateway,
        keys,
        http,
        HttpRoute::new(node.gateway.clone(), metrics, notify, budget.clone()),
        budget,
    )?);
    greet(&endpoint, &root, &config, announce);
    tasks.spawn(leave(node.gateway.clone(), shutdown));
    let ended = tokio::select! {
        drained = &mut serving => {
            if drained.unfinished > 0 {
                tracing::warn!(connections = drained.unfinished, "cut at the deadline of the drain");
            }
            Ok(())
        }
        fatal = node.gateway.fatal() => Err(Error::Fatal(fatal)),
    };
    let stopped = node.stop().await;
    ended?;
    stopped.map_err(Error::Stop)?;
    tracing::info!("stopped");
    Ok(())
}

/// What delivering events needs: the key of their targets' secrets, and where it may connect to.
fn notify_context(config: &Config, root: &credentials::Root) -> NotifyContext {
    NotifyContext {
        sealer: Sealer::new(root.credentials.secret_key.expose()),
        reach: Reach { local: config.targets_allow_local },
        stats: Arc::default(),
    }
}

/// What a node consists of, apart from its listener.
struct Node {
    gateway: Gateway,
    jobs: Arc<Jobs>,
    notifications: Notifications,
    peers: Option<PeerPart>,
}

impl Node {
    async fn start(config: &Config, endpoint: &str, notify: NotifyContext) -> Result<Self, Error> {
        let peers = match &config.cluster {
            Some(settings) => Some(PeerPart::start(settings, endpoint.to_owned()).await?),
            None => None,
        };
        let gateway = start_gateway(config, peers.as_ref()).await?;
        let peers_read_max = if peers.is_some() { PEERS_READ_MAX } else { Duration::ZERO };
        let jobs_config = JobsConfig {
            peers_read_max,
            events_keep: config.events_keep,
            index_head_bytes: config.index_head_bytes,
            ..JobsConfig::default()
        };
        let jobs = Arc::new(Jobs::start(gateway.blobs().clone(), ledger::ledger(&gateway), jobs_config));
        let notifications = Notifications::start(gateway.clone(), notify);
        Ok(Self { gateway, jobs, notifications, peers })
    }

    async fn stop(self) -> Result<(), error::Error> {
        self.notifications.stop().await;
        self.jobs.stop().await;
        let stopped = self.gateway.stop(Instant::now() + STOP_DEADLINE).await;
        if let Some(peers) = self.peers {
            peers.stop().await;
        }
        stopped
    }
}

/// Checks what a node would stand on: its directory, and its backend.
///
/// # Errors
/// [`Error`] when a check cannot run at all.
pub async fn doctor(config: &Config) -> Result<Vec<Report>, Error> {
    let url = backend_url(config)?;
    let data = config.data.clone();
    let directory = tokio::task::spawn_blocking(move || doctor::check_data_directory(&data, None));
    let directory = directory.await.expect("the check does not panic");
    let backend = backend::open(&url, backend_credentials(config)).await.map_err(Error::Backend)?;
    let report = doctor::check_backend(&*backend).await;
    backend.close().await;
    Ok(vec![directory, report])
}

/// Builds a cluster from the backend alone, into the data directory of `config`. `tell` gets lines about what takes long.
///
/// # Errors
/// [`Error`] when it cannot; the report says what is missing when it can.
pub async fn recover(config: &Config, recover: RecoverWords, tell: impl Fn(String)) -> Result<archive::Report, Error> {
    let url = backend_url(config)?;
    let _lock = take_directory(&config.data)?;
    let backend = backend::open(&url, backend_credentials(config)).await.map_err(Error::Backend)?;
    let RecoverWords { force, dry_run, verify } = recover;
    let options = archive::RecoverOptions { dir: config.data.join(CLUSTER_DIR), force, dry_run, verify };
    let recovered = archive::recover(&*backend, &options, tell).await;
    backend.close().await;
    Ok(recovered?)
}

/// How to recover, as the command line says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecoverWords {
    /// See [`archive::RecoverOptions`].
    pub force: bool,
    /// See [`archive::RecoverOptions`].
    pub dry_run: bool,
    /// See [`archive::RecoverOptions`].
    pub verify: archive::Verify,
}

fn take_directory(data: &Path) -> Result<DataLock, Error> {
    durable_dir::create(data).map_err(|source| Error::Directory { path: data.to_owned(), source })?;
    Ok(doctor::lock_data_directory(data)?)
}

fn backend_url(config: &Config) -> Result<BackendUrl, Error> {
    config.backend.parse().map_err(Error::BackendUrl)
}

fn backend_credentials(config: &Config) -> backend::Credentials {
    match &config.backend_keys {
        None => backend::Credentials::Chain,
        Some(keys) => backend::Credentials::Fixed {
            access_key_id: keys.access_key.clone(),
            secret_access_key: keys.secret_key.expose().to_owned().into(),
        },
    }
}

async fn start_gateway(config: &Config, peers: Option<&PeerPart>) -> Result<Gateway, Error> {
    let options = Options {
        data: config.data.clone(),
        backend: backend_url(config)?,
        credentials: backend_credentials(config),
        region: config.region.clone(),
        cache_bytes: config.cache_bytes.unwrap_or_else(|| quarter_of_memory(CACHE_BYTES_MAX)),
        inline_bytes: config.inline_bytes,
        peers: peers.map(PeerPart::options),
        queries: query_limits(config),
    };
    let gateway = Gateway::start(options).await?;
    let report = doctor::check_backend(&**gateway.blobs().backend()).await;
    if !report.is_fit() {
        return Err(Error::Unfit(Box::new(report)));
    }
    claim::claim(&**gateway.blobs().backend(), gateway.cluster().identity()).await?;
    let archive = Archive::start(
        Arc::clone(gateway.cluster()),
        Arc::clone(gateway.blobs().backend()),
        archive::Settings::default(),
    );
    gateway.guard_with(archive.await?);
    tracing::info!(backend = report.subject, took_ms = report.took.as_millis() as u64, "the backend is fit");
    Ok(gateway)
}

/// What queries may use on this node.
fn query_limits(config: &Config) -> holdfast_query::engine::Limits {
    let queries = config.queries;
    let memory = queries.memory_bytes.unwrap_or_else(|| quarter_of_memory(QUERY_MEMORY_MAX));
    holdfast_query::engine::Limits {
        threads: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
        memory_bytes: usize::try_from(memory).unwrap_or(usize::MAX),
        spill_dir: config.data.join(SPILL_DIR),
        spill_bytes_max: queries.spill_bytes,
        cache_bytes: (memory / 8).min(QUERY_CACHE_MAX),
        concurrent_max: queries.concurrent,
        queue_max: QUERIES_WAITING_MAX,
        time_max: queries.time_max,
        scan_bytes_max: queries.scan_bytes,
        result_bytes_max: QUERY_RESULT_MAX,
    }
}

/// A quarter of the machine's memory, at most so much.
fn quarter_of_memory(most: u64) -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse().ok());
    kib.map_or(most / 4, |kib: u64| (kib * 1024 / 4).min(most))
}

fn build_gate(
    config: &Config,
    gateway: &Gateway,
    keys: Keys,
    http: HttpMetrics,
    route: HttpRoute,
    budget: BodyBudget,
) -> Result<Gate, Error> {
    let hosts = Hosts::new(&config.domains);
    let mut builder = S3ServiceBuilder::new(S3Api::new(gateway.clone(), budget.clone()));
    builder.set_config(Arc::new(s3s::config::StaticConfigProvider::new(Arc::new(
        s3s_config(&config.region).map_err(Error::Region)?,
    ))));
    builder.set_host(hosts.clone());
    builder.set_auth(keys.clone());
    builder.set_route(route);
    let options = GateOptions {
        hosts,
        owner_id: OWNER_ACCOUNT.to_owned(),
        host_id: gateway.cluster().identity().cluster_id.to_string(),
        cors: Arc::new(BucketCors(gateway.clone())),
        budget,
        metrics: http,
    };
    Ok(Gate::new(builder.build(), options))
}

/// What a user needs to begin.
fn greet(endpoint: &str, root: &credentials::Root, config: &Config, announce: impl Fn(&str)) {
    announce(&format!("holdfast {} serves {}", env!("CARGO_PKG_VERSION"), config.backend));
    announce(&format!("endpoint {endpoint}"));
    let Some(file) = &root.file else { return };
    if !root.generated {
        announce(&format!("keys     in {}", file.display()));
        return;
    }
    let (access, secret) = (&root.credentials.access_key, root.credentials.secret_key.expose());
    announce(&format!("keys     generated, printed this once, kept in {}", file.display()));
    announce(&format!("  export AWS_ACCESS_KEY_ID={access} AWS_SECRET_ACCESS_KEY={secret}"));
    announce(&format!("  export AWS_DEFAULT_REGION={} AWS_ENDPOINT_URL={endpoint}", config.region));
    announce(&format!("try      aws --endpoint-url {endpoint} s3 mb s3://photos"));
}

/// Turns the first signal into a shutdown.
async fn signals(shutdown: CancellationToken) {
    if let Err(error) = server::shutdown_on_signals(shutdown).await {
        tracing::error!(%error, "cannot handle signals");
    }
}

/// Once the node is told to stop: gets requests and leadership elsewhere.
async fn leave(gateway: Gateway, shutdown: CancellationToken) {
    shutdown.cancelled().await;
    gateway.drain();
    gateway.cluster().drain(Instant::now() + HAND_OVER_WITHIN).await;
}

fn service(
    entrance: Entrance,
) -> impl Service<Request<Incoming>, Response = Response<ReplyBody>, Error = std::convert::Infallible, Future: Send>
+ Clone
+ Send
+ 'static {
    service_fn(move |request| {
        let entrance = entrance.clone();
        async move { Ok(entrance.handle(request).await) }
    })
}
