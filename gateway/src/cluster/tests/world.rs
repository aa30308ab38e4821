//! Several nodes in one process, over a switchboard, with real logs and states in temporary directories.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use tempfile::TempDir;
use tokio::sync::watch;

use super::*;
use crate::cluster::claim::MemoryClaim;
use crate::cluster::peer::switchboard::Switchboard;
use crate::cluster::{Node, NodeSide, PeersConfig};

/// Everything that nodes have in common.
pub(super) struct World {
    pub board: Switchboard,
    pub claim: Arc<MemoryClaim>,
    pub candidates: watch::Sender<BTreeSet<String>>,
    expect: usize,
    /// Where the nodes' directories are.
    root: std::path::PathBuf,
    dirs: Mutex<BTreeMap<String, TempDir>>,
    /// Follow who nodes are, for their certificates.
    certifiers: Mutex<JoinSet<()>>,
}

impl World {
    pub(super) fn new(seed: u64, expect: usize) -> Arc<Self> {
        Self::new_in(std::env::temp_dir(), seed, expect)
    }

    pub(super) fn new_in(root: std::path::PathBuf, seed: u64, expect: usize) -> Arc<Self> {
        Arc::new(Self {
            board: Switchboard::new(seed),
            claim: Arc::new(MemoryClaim::default()),
            candidates: watch::Sender::new(BTreeSet::new()),
            expect,
            root,
            dirs: Mutex::new(BTreeMap::new()),
            certifiers: Mutex::new(JoinSet::new()),
        })
    }

    pub(super) fn dir(&self, address: &str) -> std::path::PathBuf {
        let mut dirs = self.dirs.lock().unwrap();
        dirs.entry(address.to_owned()).or_insert_with(|| tempfile::tempdir_in(&self.root).unwrap()).path().to_owned()
    }

    /// The next start at the address finds an empty directory.
    pub(super) fn wipe(&self, address: &str) {
        self.dirs.lock().unwrap().remove(address);
    }

    pub(super) fn config(&self, address: &str) -> ClusterConfig {
        let side = NodeSide::new();
        let mut identity = side.identity();
        self.board.certify(address, None);
        self.board.listen(address, side.clone());
        let (board, own) = (self.board.clone(), address.to_owned());
        self.certifiers.lock().unwrap().spawn(async move {
            loop {
                if let Some(identity) = identity.borrow_and_update().as_ref() {
                    board.certify(&own, Some(identity.node_id));
                }
                if identity.changed().await.is_err() {
                    return;
                }
            }
        });
        self.candidates.send_modify(|candidates| {
            candidates.insert(address.to_owned());
        });
        let peers = PeersConfig {
            transport: self.board.line(address),
            side,
            advertise: address.to_owned(),
            candidates: self.candidates.subscribe(),
            expect: self.expect,
            claim: self.claim.clone(),
        };
        let node = Node { peer: address.to_owned(), ..Node::default() };
        ClusterConfig { node, peers: Some(peers), ..config(&self.dir(address)) }
    }

    pub(super) async fn start(&self, address: &str) -> Arc<Cluster> {
        self.start_with(self.config(address)).await
    }

    pub(super) async fn start_with(&self, config: ClusterConfig) -> Arc<Cluster> {
        let opened = tokio::time::timeout(Duration::from_secs(30), open_when_let_go(config)).await;
        Arc::new(opened.expect("it becomes a member in time").unwrap())
    }

    /// Starts nodes at once and waits until all are ready.
    pub(super) async fn form(&self, addresses: &[&str]) -> Vec<Arc<Cluster>> {
        let nodes = futures::future::join_all(addresses.iter().map(|address| self.start(address))).await;
        for node in &nodes {
            node.wait_ready(soon()).await.unwrap();
        }
        nodes
    }

    /// Off the network at once; then its process ends.
    pub(super) async fn kill(&self, address: &str, node: Arc<Cluster>) {
        self.board.hang_up(address);
        node.close(soon()).await.unwrap();
        // A process that ends lets go of everything; here calls that are still under way hold on to the directory.
        let (cluster, machine) = (Arc::downgrade(&node), Arc::downgrade(&node.local.machine));
        drop(node);
        let end = soon();
        while cluster.strong_count() + machine.strong_count() > 0 {
            assert!(Instant::now() < end, "{address} is not let go of");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

pub(super) async fn stop(nodes: Vec<Arc<Cluster>>) {
    let stopped = nodes.iter().map(|node| node.close(soon()));
    for stopped in futures::future::join_all(stopped).await {
        stopped.unwrap();
    }
}

/// Makes the tests' bucket; its id.
pub(super) async fn make_bucket(node: &Cluster) -> u64 {
    sample::bucket_id(&node.propose(sample::create_bucket(), normal()).await.unwrap().reply)
}

pub(super) async fn put_in(node: &Cluster, bucket: u64, key: &str, value: &[u8]) -> Result<u64, Error> {
    put_until(node, bucket, key, value, soon()).await
}

pub(super) async fn put_until(
    node: &Cluster,
    bucket: u64,
    key: &str,
    value: &[u8],
    deadline: Instant,
) -> Result<u64, Error> {
    let command = sample::in_bucket(sample::put(key, value), bucket);
    let committed = node.propose(command, ProposeOptions { deadline, frees_space: false }).await?;
    assert!(!matches!(committed.reply, holdfast_core::command::Reply::Refused(_)), "{:?}", committed.reply);
    Ok(committed.revision)
}

/// The place of the leader, once there is one among `nodes`.
pub(super) async fn leader(nodes: &[Arc<Cluster>]) -> usize {
    let until = soon();
    loop {
        if let Some(at) = nodes.iter().position(|node| node.local.leads() && node.is_ready()) {
            return at;
        }
        assert!(Instant::now() < until, "no leader in time");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until `holds`.
pub(super) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let end = soon();
    while !holds().await {
        assert!(Instant::now() < end, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
