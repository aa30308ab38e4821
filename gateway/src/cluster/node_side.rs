//! What peers may ask of this node: the receiving end of the peer seam.
//!
//! A [`NodeSide`] exists before the cluster is open, because peers that begin a cluster ask each other who they are. Until
//! then it answers [`wire::HELLO`] and nothing else. After that each message passes, in this order:
//!
//! 1. a bound on how many of its kind are under way; more wait, snapshots are refused;
//! 2. its head: the same cluster and generation, and the node id that the sender's certificate proves;
//! 3. membership: the sender is a member of the last committed membership known here, or knows a newer one (a node that
//!    was away must listen to members it has not heard of). So a removed node is refused by everybody who knows it;
//! 4. starts: of two live starts of one node id the older is refused. A data directory was copied.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, RwLock};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use openraft::Snapshot;
use openraft::async_runtime::watch::WatchReceiver as _;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::time::{Duration, Instant};
use tokio_util::task::TaskTracker;

use super::bootstrap::Candidate;
use super::forward::Attempt;
use super::local::Local;
use super::machine::SnapshotData;
use super::membership::Roster;
use super::network::{Links, Temporary};
use super::peer::{PeerHandler, Sender, Upload};
use super::raft::{Proposal, SnapshotMeta, Vote};
use super::space::LOW_WATER_BYTES;
use super::store::Store;
use super::wire::{self, Control, ControlReply, Head, HelloReply, Input, Join, MemberOf};
use super::{Identity, ProposeOptions, reads};

/// Messages of the consensus under way at once.
const MESSAGES_MAX: usize = 128;
/// Commands of others under way at once.
const PROPOSALS_MAX: usize = 1024;
/// Everything else under way at once.
const CONTROLS_MAX: usize = 64;
/// Snapshots received at once.
const SNAPSHOTS_MAX: usize = 1;
/// A snapshot is a file first, and then a state.
const SNAPSHOT_SPACE_FACTOR: u64 = 2;
/// Longest time that a question of a peer is worked on, whatever it says.
const CONTROL_TIMEOUT: Duration = Duration::from_secs(10);

/// The receiving end. Give it to the transport, and to [`super::PeersConfig`].
pub struct NodeSide {
    candidate: Mutex<Option<Candidate>>,
    running: RwLock<Option<Arc<Running>>>,
    identity: watch::Sender<Option<Identity>>,
    messages: Semaphore,
    proposals: Semaphore,
    controls: Semaphore,
    snapshots: Semaphore,
    /// Installations: they end although a peer hangs up.
    tasks: TaskTracker,
}

/// What an open cluster answers with.
pub(super) struct Running {
    pub local: Local,
    pub links: Arc<Links>,
    pub roster: Arc<Roster>,
    /// When the leader was last heard of.
    pub heard: Mutex<Option<Instant>>,
    starts: Mutex<BTreeMap<u64, Starts>>,
}

#[derive(Default)]
struct Starts {
    boots: u64,
    nonce: u64,
}

/// A message with its head read, and whether its sender is listened to.
type Asked = (Arc<Running>, Head, Input, Result<(), Refusal>);

/// Why a sender is not listened to.
enum Refusal {
    Foreign(String),
    Removed(String),
    Superseded(String),
}

impl Refusal {
    fn text(self) -> String {
        match self {
            Self::Foreign(text) | Self::Removed(text) | Self::Superseded(text) => text,
        }
    }
}

impl NodeSide {
    /// A side that answers nobody yet.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            candidate: Mutex::new(None),
            running: RwLock::new(None),
            identity: watch::Sender::new(None),
            messages: Semaphore::new(MESSAGES_MAX),
            proposals: Semaphore::new(PROPOSALS_MAX),
            controls: Semaphore::new(CONTROLS_MAX),
            snapshots: Semaphore::new(SNAPSHOTS_MAX),
            tasks: TaskTracker::new(),
        })
    }

    /// Who this node is, once it is known: the transport's certificate must name the node id from then on.
    #[must_use]
    pub fn identity(&self) -> watch::Receiver<Option<Identity>> {
        self.identity.subscribe()
    }

    pub(super) fn set_candidate(&self, candidate: Candidate) {
        *self.candidate.lock().expect("only held for a moment") = Some(candidate);
    }

    pub(super) fn set_identity(&self, identity: &Identity) {
        self.identity.send_replace(Some(identity.clone()));
    }

    pub(super) fn attach(&self, running: Arc<Running>) {
        *self.running.write().expect("only held for a moment") = Some(running);
    }

    pub(super) fn detach(&self) {
        *self.running.write().expect("only held for a moment") = None;
    }

    fn running(&self) -> Result<Arc<Running>, String> {
        let running = self.running.read().expect("only held for a moment").clone();
        running.ok_or_else(|| "this node is not open yet, or stopping".to_owned())
    }

    fn hello(&self, body: &[u8]) -> Result<Bytes, String> {
        let _: wire::Hello = wire::from_json(body)?;
        let candidate = self.candidate.lock().expect("only held for a moment").clone();
        let candidate = candidate.ok_or("this node does not know yet who it is")?;
        let member = self.identity.borrow().as_ref().map(|identity| MemberOf {
            cluster_id: identity.cluster_id.clone(),
            generation: identity.generation,
            node_id: identity.node_id,
        });
        let candidates = candidate.candidates();
        let Candidate { name, address, nonce, .. } = candidate;
        Ok(wire::json(&HelloReply { name, address, nonce, candidates, member }))
    }

    async fn join(&self, body: &[u8]) -> Result<Bytes, String> {
        let join: Join = wire::from_json(body)?;
        let running = self.running()?;
        let deadline = Instant::now() + CONTROL_TIMEOUT;
        let reply = running.roster.ask(Control::Join(join), deadline).await.map_err(|error| error.to_string())?;
        Ok(wire::json(&reply))
    }

    /// Reads the head and decides whether its sender is listened to.
    fn admit(&self, from: Sender, body: Bytes) -> Result<Asked, String> {
        let running = self.running()?;
        let mut input = Input(body);
        let head = Head::take(&mut input).map_err(|error| error.to_string())?;
        let admitted = running.admit(from, &head);
        Ok((running, head, input, admitted))
    }

    fn admit_member(&self, from: Sender, body: Bytes) -> Result<(Arc<Running>, Head, Input), String> {
        let (running, head, input, admitted) = self.admit(from, body)?;
        admitted.map_err(Refusal::text)?;
        Ok((running, head, input))
    }

    async fn consensus(&self, from: Sender, method: &str, body: Bytes) -> Result<Vec<u8>, String> {
        let (running, _, input) = self.admit_member(from, body)?;
        let raft = &running.local.raft;
        match method {
            wire::APPEND => {
                let rpc = wire::append(input).map_err(text)?;
                running.local.space.check_entries(&rpc.entries).map_err(text)?;
                let reply = raft.append_entries(rpc).await.map_err(text)?;
                if !matches!(reply, openraft::raft::AppendEntriesResponse::HigherVote(_)) {
                    running.hear();
                }
                Ok(wire::put_append_reply(&reply, (running.local.clock)()))
            }
            wire::VOTE => {
                let rpc = wire::vote(input).map_err(text)?;
                Ok(wire::put_vote_reply(&raft.vote(rpc).await.map_err(text)?))
            }
            wire::PRE_VOTE => {
                let rpc = wire::vote(input).map_err(text)?;
                Ok(wire::put_vote_reply(&raft.pre_vote(rpc).await.map_err(text)?))
            }
            wire::TRANSFER => {
                let rpc = wire::transfer(input).map_err(text)?;
                raft.handle_transfer_leader(rpc).await.map_err(text)?.map_err(text)?;
                Ok(vec![0])
            }
            other => Err(format!("this release does not know the message {other:?}")),
        }
    }

    async fn read_index(&self, from: Sender, body: Bytes) -> Result<Bytes, String> {
        let (running, _, _) = self.admit_member(from, body)?;
        let asked = tokio::time::timeout(CONTROL_TIMEOUT, reads::read_index(&running.local)).await;
        let revision = asked.map_err(text)?.map_err(text)?;
        let revision = revision.ok_or("this node does not lead, or no majority confirms it")?;
        Ok(Bytes::copy_from_slice(&revision.to_le_bytes()))
    }

    async fn propose(&self, from: Sender, body: Bytes) -> Result<Bytes, String> {
        let (running, _, mut input) = self.admit_member(from, body)?;
        let (frees_space, left_ms) = (input.byte().map_err(text)? == 1, input.u32().map_err(text)?);
        let most = running.local.log.config().command_bytes_max();
        let bytes = input.0.len();
        if bytes > most {
            let error = super::Error::TooLarge { bytes, most };
            return Ok(wire::put_attempt(&Attempt::Failed(error)).into());
        }
        let proposal = Proposal::decode(input.0).map_err(text)?;
        let deadline = Instant::now() + Duration::from_millis(left_ms.into()).min(CONTROL_TIMEOUT);
        let options = ProposeOptions { deadline, frees_space };
        Ok(wire::put_attempt(&running.local.propose_once(proposal, options).await).into())
    }

    async fn control(&self, from: Sender, body: Bytes) -> Result<Bytes, String> {
        let (running, head, input, admitted) = self.admit(from, body)?;
        let reply = match admitted {
            Ok(()) => {
                let control: Control = wire::from_json(&input.0)?;
                let worked = running.roster.lead(head.node, control);
                tokio::time::timeout(CONTROL_TIMEOUT, worked).await.map_err(text)?
            }
            Err(Refusal::Foreign(why)) => return Err(why),
            Err(Refusal::Removed(why)) => ControlReply::Removed(why),
            Err(Refusal::Superseded(why)) => ControlReply::Superseded(why),
        };
        Ok(wire::json(&reply))
    }

    async fn snapshot(&self, from: Sender, head: Bytes, body: Upload) -> Result<Bytes, String> {
        let _permit = self.snapshots.try_acquire().map_err(|_| "this node receives a snapshot already".to_owned())?;
        let (running, _, input) = self.admit_member(from, head)?;
        let (vote, length, meta) = wire::snapshot(input).map_err(text)?;
        let need = length.saturating_mul(SNAPSHOT_SPACE_FACTOR).saturating_add(LOW_WATER_BYTES);
        let (_, free) = running.local.space.disk();
        if free < need {
            return Err(format!("a snapshot of {length} bytes needs {need} bytes of disk, and {free} are free"));
        }
        let file = Temporary(running.local.machine.store.snapshot_path());
        receive(&file, length, body, || running.hear()).await?;
        let installing = self.tasks.spawn(install(running, vote, meta, file));
        let vote = installing.await.map_err(text)??;
        Ok(wire::put_vote_only(&vote).into())
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

async fn bound(semaphore: &Semaphore) -> SemaphorePermit<'_> {
    semaphore.acquire().await.expect("the semaphore is never closed")
}

/// Takes exactly `length` bytes into the file.
async fn receive(file: &Temporary, length: u64, mut body: Upload, progress: impl Fn()) -> Result<(), String> {
    let mut out = tokio::fs::File::create(&file.0).await.map_err(text)?;
    let mut left = length;
    while let Some(piece) = body.next().await {
        let piece = piece.map_err(text)?;
        left = left.checked_sub(piece.len() as u64).ok_or("the snapshot is longer than it said")?;
        out.write_all(&piece).await.map_err(text)?;
        progress();
    }
    out.flush().await.map_err(text)?;
    if left > 0 { Err(format!("the snapshot ended {left} bytes early")) } else { Ok(()) }
}

/// Verified first: openraft takes a failed installation as the end of the node.
async fn install(running: Arc<Running>, vote: Vote, meta: SnapshotMeta, file: Temporary) -> Result<Vote, String> {
    let described = meta.clone();
    let threads = running.local.threads.clone();
    let verified = threads.blocking(move || {
        Store::verify(&described, &file.0)?;
        Ok::<_, super::Error>(file)
    });
    let file = verified.await.map_err(text)?.map_err(text)?;
    let snapshot = Snapshot { meta, snapshot: SnapshotData::File(file.0.clone()) };
    let reply = running.local.raft.install_full_snapshot(vote, snapshot).await.map_err(text)?;
    running.hear();
    Ok(reply.vote)
}

impl Running {
    pub(super) fn new(local: Local, links: Arc<Links>, roster: Arc<Roster>) -> Arc<Self> {
        Arc::new(Self { local, links, roster, heard: Mutex::new(None), starts: Mutex::new(BTreeMap::new()) })
    }

    fn hear(&self) {
        *self.heard.lock().expect("only held for a moment") = Some(Instant::now());
    }

    fn admit(&self, from: Sender, head: &Head) -> Result<(), Refusal> {
        let own = &self.links.own;
        if (head.cluster, head.generation) != (own.cluster, own.generation) {
            let theirs = hex::encode(head.cluster);
            return Err(Refusal::Foreign(format!(
                "this is cluster {} in generation {}, the message is of cluster {theirs} in generation {}",
                own.cluster_id, own.generation, head.generation
            )));
        }
        if from.node != Some(head.node) {
            let proved = from.node.map_or_else(|| "no node".to_owned(), |node| format!("node {node}"));
            return Err(Refusal::Foreign(format!(
                "the message is of node {}, the certificate names {proved}",
                head.node
            )));
        }
        let committed = self.local.raft.metrics().borrow_watched().committed_membership_config.clone();
        if committed.get_node(&head.node).is_none() && head.members <= *committed.log_id() {
            return Err(Refusal::Removed(format!(
                "node {} is not a member of the cluster (any more): to join as a new node, start with an empty data directory",
                head.node
            )));
        }
        self.admit_start(head)
    }

    fn admit_start(&self, head: &Head) -> Result<(), Refusal> {
        let mut starts = self.starts.lock().expect("only held for a moment");
        let known = starts.entry(head.node).or_default();
        if known.nonce == head.nonce {
            return Ok(());
        }
        // The same order on every node: they must not disagree about which of two copies goes on.
        if (head.boots, head.nonce) < (known.boots, known.nonce) {
            return Err(Refusal::Superseded(format!(
                "a newer start of node {} is active (start {}, this is start {}): another process runs on a copy of its data \
                 directory; keep one and remove the other",
                head.node, known.boots, head.boots
            )));
        }
        (known.boots, known.nonce) = (head.boots, head.nonce);
        Ok(())
    }
}

#[async_trait]
impl PeerHandler for NodeSide {
    async fn call(&self, from: Sender, method: &str, body: Bytes) -> Result<Bytes, String> {
        match method {
            wire::HELLO => {
                let _permit = bound(&self.controls).await;
                self.hello(&body)
            }
            wire::JOIN => {
                let _permit = bound(&self.controls).await;
                self.join(&body).await
            }
            wire::CONTROL => {
                let _permit = bound(&self.controls).await;
                self.control(from, body).await
            }
            wire::READ_INDEX => {
                let _permit = bound(&self.messages).await;
                self.read_index(from, body).await
            }
            wire::PROPOSE => {
                let _permit = bound(&self.proposals).await;
                self.propose(from, body).await
            }
            _ => {
                let _permit = bound(&self.messages).await;
                Ok(self.consensus(from, method, body).await?.into())
            }
        }
    }

    async fn upload(&self, from: Sender, method: &str, head: Bytes, body: Upload) -> Result<Bytes, String> {
        match method {
            wire::SNAPSHOT => self.snapshot(from, head, body).await,
            other => Err(format!("this release does not know the upload {other:?}")),
        }
    }
}
