//! Three nodes of Holdfast (with one MinIO as their backend) or of etcd, on this machine's loopback, as processes that can
//! be killed, restarted and wiped.
//!
//! Both run with their defaults, addresses and data directories aside. Holdfast's peers speak mutual TLS, which has no
//! switch; etcd's speak plain HTTP, which is its default.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::etcd;
use crate::client::{Client, Endpoint, Payload};
use crate::sign::{Credentials, payload_hash};
use crate::system;
use crate::target::{self, Backend, Cpu, Server, free_address, new_credentials};

/// Nodes of each side.
pub const NODES: usize = 3;
/// Bucket of all objects; etcd has its name in front of each key.
pub const BUCKET: &str = "bench";
/// How long a node may take to answer, its catching up included.
pub const READY_WITHIN: Duration = Duration::from_secs(120);
/// Longest single question to a node.
const ASK_WITHIN: Duration = Duration::from_secs(5);
/// How long a node may take to find out that watchers have left.
const WATCHERS_WITHIN: Duration = Duration::from_secs(30);
/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(10);
const SHOWN_LINES: usize = 20;

/// Which side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Holdfast,
    Etcd,
}

impl Kind {
    /// Its name in results.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Holdfast => "holdfast",
            Self::Etcd => "etcd",
        }
    }
}

/// Programs to start.
#[derive(Clone, Debug)]
pub struct Programs {
    pub holdfast: PathBuf,
    pub minio: PathBuf,
    pub etcd: PathBuf,
    pub etcdctl: PathBuf,
}

/// Where a client connects.
#[derive(Clone)]
pub enum Door {
    Holdfast(Endpoint),
    Etcd(String),
}

/// A client's connection to one node.
pub enum Caller {
    Holdfast(Client),
    Etcd(etcd::Client),
}

impl Caller {
    /// Connects.
    ///
    /// # Errors
    /// When nobody listens there.
    pub async fn connect(door: &Door) -> Result<Self> {
        Ok(match door {
            Door::Holdfast(endpoint) => Self::Holdfast(Client::connect(endpoint).await?),
            Door::Etcd(address) => Self::Etcd(etcd::Client::connect(address).await?),
        })
    }

    /// Stores a small value.
    ///
    /// # Errors
    /// When it is not acknowledged.
    pub async fn write(&mut self, key: &str, payload: &Payload) -> Result<()> {
        match self {
            Self::Holdfast(client) => client.put(key, payload).await,
            Self::Etcd(client) => client.put(key.as_bytes(), &payload.bytes).await,
        }
    }

    /// Reads linearizably: HEAD, or a range of one key. Gives the length of the value.
    ///
    /// # Errors
    /// When the key is not there, or the node does not answer.
    pub async fn read(&mut self, key: &str) -> Result<u64> {
        match self {
            Self::Holdfast(client) => client.head_length(key).await,
            Self::Etcd(client) => client.get_length(key.as_bytes()).await,
        }
    }
}

/// One node.
struct Node {
    name: String,
    /// Where clients reach it, and peers.
    api: String,
    peer: String,
    data: PathBuf,
    log: PathBuf,
    child: Option<Child>,
}

/// Three nodes, and the backend of Holdfast's.
pub struct Cluster {
    pub kind: Kind,
    pub version: String,
    programs: Programs,
    credentials: Credentials,
    secret: String,
    nodes: Vec<Node>,
    backend: Option<(Server, Backend)>,
}

impl Cluster {
    /// Starts three nodes under `directory` and waits until each answers.
    ///
    /// # Errors
    /// When one does not start; shows what it printed.
    pub async fn start(kind: Kind, programs: &Programs, directory: &Path) -> Result<Self> {
        let directory = directory.join(kind.name());
        fs::create_dir(&directory)?;
        let backend = match kind {
            Kind::Etcd => None,
            Kind::Holdfast => {
                let mut minio = Server::minio(&programs.minio, &directory)?;
                minio.wait_ready().await?;
                let backend = target::repository(&minio.endpoint()).await?;
                Some((minio, backend))
            }
        };
        let credentials = new_credentials(kind.name());
        let secret = payload_hash(credentials.secret_key.as_bytes());
        let version = version(kind, programs);
        let nodes = (1..=NODES).map(|number| Node::new(&directory, number)).collect::<Result<_>>()?;
        let mut cluster = Self { kind, version, programs: programs.clone(), credentials, secret, nodes, backend };
        for at in 0..NODES {
            cluster.launch(at, "new")?;
        }
        for at in 0..NODES {
            cluster.await_health(at).await?;
        }
        if kind == Kind::Holdfast {
            cluster.make_bucket().await?;
        }
        Ok(cluster)
    }

    /// Small objects travel inside the log only where a bucket asks for it: that is what is compared with etcd.
    async fn make_bucket(&self) -> Result<()> {
        let Door::Holdfast(endpoint) = self.door(0) else { return Ok(()) };
        let mut client = Client::connect(&endpoint).await?;
        client.put(&format!("/{BUCKET}"), &Payload::empty()).await?;
        let settings = Bytes::from_static(br#"{"durability":"quorum"}"#);
        let settings = Payload { hash: payload_hash(&settings), bytes: settings };
        client.put(&format!("/_holdfast/v1/buckets/{BUCKET}"), &settings).await
    }

    /// Whether an object's bytes are inside the log and state, not in the backend: else something else is measured.
    ///
    /// # Errors
    /// When they are not.
    pub async fn check_inline(&self, key: &str) -> Result<()> {
        let Door::Holdfast(endpoint) = self.door(0) else { return Ok(()) };
        let found = Client::connect(&endpoint).await?.get(&format!("/_holdfast/v1/objects{key}"), "").await?;
        let found = String::from_utf8_lossy(&found);
        ensure!(found.contains("\"inline\""), "{key} is not inline: {found}");
        Ok(())
    }

    /// Where clients reach a node.
    #[must_use]
    pub fn door(&self, at: usize) -> Door {
        let address = self.nodes[at].api.clone();
        match self.kind {
            Kind::Holdfast => Door::Holdfast(Endpoint { address, credentials: self.credentials.clone() }),
            Kind::Etcd => Door::Etcd(address),
        }
    }

    /// All of them.
    #[must_use]
    pub fn doors(&self) -> Vec<Door> {
        (0..NODES).map(|at| self.door(at)).collect()
    }

    /// The full name of a key.
    #[must_use]
    pub fn key(name: &str) -> String {
        format!("/{BUCKET}/{name}")
    }

    /// Starts the process of a node; `state` is what etcd calls the initial cluster's.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn launch(&mut self, at: usize, state: &str) -> Result<()> {
        let mut command = match self.kind {
            Kind::Holdfast => self.holdfast(at, "serve"),
            Kind::Etcd => self.etcd(at, state),
        };
        let node = &mut self.nodes[at];
        let log = File::options().create(true).append(true).open(&node.log)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        node.child = Some(command.spawn().with_context(|| format!("{} cannot be started", self.kind.name()))?);
        Ok(())
    }

    fn holdfast(&self, at: usize, verb: &str) -> Command {
        let (node, peers) = (&self.nodes[at], self.joined(",", |node| node.peer.clone()));
        let mut command = self.holdfast_on(&node.data, verb);
        command.args(["--listen", &node.api, "--cluster", BUCKET, "--peer-listen", &node.peer]);
        command.args(["--peer-advertise", &node.peer, "--discovery", &format!("static:{peers}"), "--log", "warn"]);
        command.env("HOLDFAST_CLUSTER_SECRET", &self.secret);
        command
    }

    fn holdfast_on(&self, data: &Path, verb: &str) -> Command {
        let mut command = Command::new(&self.programs.holdfast);
        command.args([verb, "--data"]).arg(data);
        if let Some((_, backend)) = &self.backend {
            command.args(["--backend", &backend.url]);
            command.env("HOLDFAST_BACKEND_ACCESS_KEY_ID", &backend.credentials.access_key);
            command.env("HOLDFAST_BACKEND_SECRET_ACCESS_KEY", &backend.credentials.secret_key);
        }
        command.env("HOLDFAST_ROOT_USER", &self.credentials.access_key);
        command.env("HOLDFAST_ROOT_PASSWORD", &self.credentials.secret_key);
        command
    }

    fn etcd(&self, at: usize, state: &str) -> Command {
        let node = &self.nodes[at];
        let (api, peer) = (format!("http://{}", node.api), format!("http://{}", node.peer));
        let all = self.joined(",", |node| format!("{}=http://{}", node.name, node.peer));
        let mut command = Command::new(&self.programs.etcd);
        command.args(["--name", &node.name, "--log-level", "warn", "--data-dir"]).arg(&node.data);
        command.args(["--listen-client-urls", &api, "--advertise-client-urls", &api]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &all, "--initial-cluster-state", state]);
        command
    }

    fn joined(&self, between: &str, of: impl Fn(&Node) -> String) -> String {
        self.nodes.iter().map(of).collect::<Vec<_>>().join(between)
    }

    async fn await_health(&mut self, at: usize) -> Result<()> {
        let path = match self.kind {
            Kind::Holdfast => "/_holdfast/health/ready",
            Kind::Etcd => "/readyz",
        };
        let ends = Instant::now() + READY_WITHIN;
        loop {
            self.check_runs(at)?;
            if matches!(ask(&self.nodes[at].api, path).await, Ok((200, _))) {
                return Ok(());
            }
            ensure!(Instant::now() < ends, "not ready within {READY_WITHIN:?}: {}", self.printed(at));
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Waits until a node answers a linearizable read of `key`, which also says that it has caught up.
    ///
    /// # Errors
    /// When it ends, or does not answer in time.
    pub async fn await_read(&mut self, at: usize, key: &str) -> Result<()> {
        let (door, ends) = (self.door(at), Instant::now() + READY_WITHIN);
        loop {
            self.check_runs(at)?;
            let read = async { Caller::connect(&door).await?.read(key).await };
            if matches!(tokio::time::timeout(ASK_WITHIN, read).await, Ok(Ok(_))) {
                return Ok(());
            }
            ensure!(Instant::now() < ends, "no read within {READY_WITHIN:?}: {}", self.printed(at));
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn check_runs(&mut self, at: usize) -> Result<()> {
        let child = self.nodes[at].child.as_mut().context("the node is not started")?;
        if let Some(status) = child.try_wait()? {
            bail!("a node of {} has ended with {status}: {}", self.kind.name(), self.printed(at));
        }
        Ok(())
    }

    /// The number of the node that leads.
    ///
    /// # Errors
    /// When none says so in time.
    pub async fn leader(&self) -> Result<usize> {
        let ends = Instant::now() + READY_WITHIN;
        loop {
            for at in 0..NODES {
                if self.nodes[at].child.is_some() && self.leads(at).await {
                    return Ok(at);
                }
            }
            ensure!(Instant::now() < ends, "{} has no leader within {READY_WITHIN:?}", self.kind.name());
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn leads(&self, at: usize) -> bool {
        match self.kind {
            Kind::Holdfast => self.status(at).await.is_ok_and(|status| status["role"] == "leader"),
            Kind::Etcd => ask(&self.nodes[at].api, "/metrics").await.is_ok_and(|(_, text)| {
                std::str::from_utf8(&text).is_ok_and(|text| text.contains("\netcd_server_is_leader 1\n"))
            }),
        }
    }

    /// What a node of Holdfast says of itself.
    ///
    /// # Errors
    /// When it does not answer, or is none.
    pub async fn status(&self, at: usize) -> Result<Value> {
        let Door::Holdfast(endpoint) = self.door(at) else { bail!("etcd has no such status") };
        let status = async { Client::connect(&endpoint).await?.get("/_holdfast/v1/status", "").await };
        let status = tokio::time::timeout(ASK_WITHIN, status).await.context("no status in time")??;
        Ok(serde_json::from_slice(&status)?)
    }

    /// A number of the nodes' pages of metrics, added up.
    ///
    /// # Errors
    /// When a node does not answer, or its page does not name it.
    pub async fn metric(&self, name: &str) -> Result<u64> {
        let mut sum = 0.0;
        for door in self.doors() {
            let page = match door {
                Door::Holdfast(endpoint) => Client::connect(&endpoint).await?.get("/_holdfast/metrics", "").await?,
                Door::Etcd(address) => ask(&address, "/metrics").await?.1,
            };
            let page = String::from_utf8_lossy(&page);
            let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            let value = value.with_context(|| format!("{} has no metric {name}", self.kind.name()))?;
            // Large numbers of etcd have an exponent.
            sum += value.trim().parse::<f64>()?;
        }
        Ok(sum as u64)
    }

    /// Waits until the nodes have so many watchers.
    ///
    /// # Errors
    /// When they have another number for too long.
    pub async fn await_watchers(&self, wanted: usize) -> Result<()> {
        let name = match self.kind {
            Kind::Holdfast => "holdfast_feed_watchers",
            Kind::Etcd => "etcd_debugging_mvcc_watcher_total",
        };
        let ends = Instant::now() + WATCHERS_WITHIN;
        loop {
            let found = self.metric(name).await?;
            if found == wanted as u64 {
                return Ok(());
            }
            ensure!(Instant::now() < ends, "{} has {found} watchers and not {wanted}", self.kind.name());
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Ends the process of a node at once.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self, at: usize) -> Result<()> {
        let mut child = self.nodes[at].child.take().context("the node does not run")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Removes a killed node's directory, and does what the system wants before it comes back empty: etcd must be told
    /// that the old member is gone and a new one comes.
    ///
    /// # Errors
    /// When the directory cannot be removed or etcd refuses.
    pub fn wipe(&mut self, at: usize) -> Result<()> {
        fs::remove_dir_all(&self.nodes[at].data)?;
        if self.kind == Kind::Holdfast {
            return Ok(());
        }
        let name = self.nodes[at].name.clone();
        let members = self.etcdctl(at, &["member", "list"])?;
        let line = members.lines().find(|line| line.contains(&format!(", {name}, "))).context("no such member")?;
        let id = line.split(',').next().unwrap_or_default();
        self.etcdctl(at, &["member", "remove", id])?;
        let peer = format!("--peer-urls=http://{}", self.nodes[at].peer);
        self.etcdctl(at, &["member", "add", &name, &peer])?;
        Ok(())
    }

    /// Runs etcdctl against all nodes but `without`.
    fn etcdctl(&self, without: usize, arguments: &[&str]) -> Result<String> {
        let endpoints: Vec<_> = (0..NODES).filter(|at| *at != without).map(|at| self.nodes[at].api.as_str()).collect();
        let mut command = Command::new(&self.programs.etcdctl);
        let output = command.args(["--endpoints", &endpoints.join(",")]).args(arguments).output()?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "etcdctl {arguments:?}: {error}");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Whether a node of Holdfast votes, and nobody else is listed with its address: the dead voter that it replaces stays
    /// until it takes the place.
    ///
    /// # Errors
    /// When no leader answers.
    pub async fn is_voter(&self, at: usize) -> Result<bool> {
        let status = self.status(self.leader().await?).await?;
        let address = self.nodes[at].peer.as_str();
        let peers = status["peers"].as_array().map(Vec::as_slice).unwrap_or_default();
        let own: Vec<_> = peers.iter().filter(|peer| peer["address"] == address).collect();
        Ok(matches!(own[..], [peer] if peer["role"] == "follower" || peer["role"] == "leader"))
    }

    /// Builds a new cluster of Holdfast from the backend; gives its report and directory. All nodes must be gone.
    ///
    /// # Errors
    /// When the command fails; shows what it printed.
    pub async fn recover(&self) -> Result<(Value, PathBuf)> {
        let data = self.nodes[0].data.with_file_name("recovered");
        let mut command = tokio::process::Command::from(self.holdfast_on(&data, "recover"));
        command.args(["--force", "--verify", "sample", "--json"]).kill_on_drop(true);
        let output = command.output().await?;
        let (text, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "recover failed: {text}{error}");
        let from = text.find('{').with_context(|| format!("no report in {text}"))?;
        Ok((serde_json::from_str(&text[from..])?, data))
    }

    /// Makes `data` the directory of a node.
    pub fn adopt(&mut self, at: usize, data: PathBuf) {
        self.nodes[at].data = data;
    }

    /// Processor time of the nodes, and with the backend's.
    ///
    /// # Errors
    /// When a server has ended.
    pub fn cpu(&self) -> Result<Cpu> {
        let pids = self.nodes.iter().filter_map(|node| node.child.as_ref().map(Child::id));
        let front: Duration = pids.map(system::cpu_of).sum::<Result<_>>()?;
        let backend = self.backend.as_ref().map(|(minio, _)| system::cpu_of(minio.pid())).transpose()?;
        Ok(Cpu { all: front + backend.unwrap_or_default(), front })
    }

    /// Resident memory of each node, and of the backend, in MiB.
    ///
    /// # Errors
    /// When a server has ended.
    pub fn memory(&self) -> Result<(Vec<f64>, Option<f64>)> {
        let mib = |pid| Ok(system::memory_of(pid)?.resident_mib);
        let nodes = self.nodes.iter().filter_map(|node| node.child.as_ref().map(|child| mib(child.id())));
        let backend = self.backend.as_ref().map(|(minio, _)| mib(minio.pid())).transpose()?;
        Ok((nodes.collect::<Result<_>>()?, backend))
    }

    /// Bytes that the directories of the nodes take on the disk.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        self.nodes.iter().map(|node| system::disk_bytes(&node.data)).sum()
    }

    fn printed(&self, at: usize) -> String {
        let text = fs::read_to_string(&self.nodes[at].log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // The directory is removed next: an orderly end would gain nothing.
        for node in &mut self.nodes {
            if let Some(mut child) = node.child.take() {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

impl Node {
    fn new(directory: &Path, number: usize) -> Result<Self> {
        let name = format!("node{number}");
        let (data, log) = (directory.join(&name), directory.join(format!("{name}.log")));
        Ok(Self { api: free_address()?, peer: free_address()?, name, data, log, child: None })
    }
}

fn version(kind: Kind, programs: &Programs) -> String {
    match kind {
        Kind::Holdfast => {
            let own = target::version_of(&programs.holdfast, &["--version"]);
            format!("{own} on {}", target::version_of_minio(&programs.minio))
        }
        Kind::Etcd => target::version_of(&programs.etcd, &["--version"]),
    }
}

/// A plain GET over a connection of its own: status and body.
async fn ask(address: &str, path: &str) -> Result<(u16, Bytes)> {
    let asked = async {
        let stream = TcpStream::connect(address).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let mut driver = JoinSet::new();
        driver.spawn(async move { drop(connection.await) });
        let request = Request::get(path).header("host", address).body(Empty::<Bytes>::new())?;
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        anyhow::Ok((status, response.into_body().collect().await?.to_bytes()))
    };
    tokio::time::timeout(ASK_WITHIN, asked).await.context("no answer in time")?
}
