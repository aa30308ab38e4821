//! Messages to other members: what openraft sends, and what this node asks of the leader.
//!
//! [`Links`] is the way out, shared by all: it puts the [`Head`] in front of each message. [`Link`] is openraft's client
//! for one target. Entries travel in their stored form, at most [`APPEND_BYTES_MAX`] of them in one message; the rest
//! follows in the next. A snapshot is exported into a file block by block, streamed from there and removed; one at a time.
//!
//! Deliberately absent: several appends to one peer under way at once. The seam does not keep the order of two calls, and
//! an append that overtakes another is a conflict that costs more than it saves; batches grow instead.

use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use openraft::alias::{SnapshotOf, VoteOf};
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use openraft::{RaftNetworkFactory, RaftNetworkV2};
use tokio::sync::Semaphore;
use tokio::time::{Duration, Instant};
use tokio_util::io::ReaderStream;

use super::clocks::Clocks;
use super::error::Error;
use super::forward::Attempt;
use super::machine::{self, SnapshotData};
use super::peer::{PeerAddress, PeerError, Peers};
use super::raft::{Node, StoredMembership, TypeConfig};
use super::wire::{self, Control, ControlReply, Head, Input};
use crate::clock::Clock;

/// Most bytes of entries in one message.
const APPEND_BYTES_MAX: usize = 4 << 20;
/// Shortest time that an append with entries gets: it includes a sync of the other's disk.
const APPEND_TIMEOUT: Duration = Duration::from_secs(1);
/// Bytes of a snapshot that are read at once.
const CHUNK_BYTES: usize = 1 << 20;
/// Snapshots that are exported and sent at once.
const EXPORTS_MAX: usize = 1;
/// Pauses before an unreachable peer is tried again; the last one repeats.
const BACKOFF_MS: [u64; 3] = [20, 50, 100];

/// Who this node is, in this start.
#[derive(Clone, Debug)]
pub(super) struct Own {
    pub name: String,
    pub cluster_id: String,
    pub cluster: [u8; 16],
    pub generation: u64,
    pub node: u64,
    pub boots: u64,
    pub nonce: u64,
}

type KnownMembers = Box<dyn Fn() -> Arc<StoredMembership> + Send + Sync>;

/// The way to the other members.
pub(super) struct Links {
    pub own: Own,
    peers: Arc<dyn Peers>,
    machine: Arc<machine::Shared>,
    /// The membership that this node goes by; set when the consensus runs.
    members: OnceLock<KnownMembers>,
    exports: Semaphore,
    clock: Clock,
    clocks: Clocks,
}

impl Links {
    pub(super) fn new(own: Own, peers: Arc<dyn Peers>, machine: Arc<machine::Shared>, clock: Clock) -> Self {
        let (members, exports) = (OnceLock::new(), Semaphore::new(EXPORTS_MAX));
        Self { own, peers, machine, members, exports, clock, clocks: Clocks::default() }
    }

    /// The clocks of the other members, while this node leads.
    pub(super) fn clocks(&self) -> &Clocks {
        &self.clocks
    }

    pub(super) fn set_members(&self, members: impl Fn() -> Arc<StoredMembership> + Send + Sync + 'static) {
        assert!(self.members.set(Box::new(members)).is_ok(), "the consensus is started once");
    }

    /// What each message begins with.
    pub(super) fn head(&self) -> Vec<u8> {
        let Own { cluster, generation, node, boots, nonce, .. } = self.own;
        let members = self.members.get().and_then(|members| *members().log_id());
        let mut out = Vec::with_capacity(128);
        Head { cluster, generation, node, boots, nonce, members }.put(&mut out);
        out
    }

    /// Where a member is now, if it is one.
    fn address_of(&self, node: u64) -> Option<PeerAddress> {
        let members = self.members.get()?();
        Some(address((node, members.get_node(&node)?.clone())))
    }

    async fn call(
        &self,
        peer: &PeerAddress,
        method: &'static str,
        body: Vec<u8>,
        deadline: Instant,
    ) -> Result<Bytes, PeerError> {
        self.peers.call(peer, method, body.into(), deadline).await
    }

    /// Has the leader propose a command.
    pub(super) async fn forward(&self, leader: (u64, Node), body: Bytes, deadline: Instant) -> Attempt {
        match self.peers.call(&address(leader), wire::PROPOSE, body, deadline).await {
            Ok(reply) => match wire::attempt(reply) {
                Ok(attempt) => attempt,
                Err(error) => Attempt::Unknown(error.to_string()),
            },
            Err(error @ PeerError::NoAnswer { .. }) => Attempt::Unknown(error.to_string()),
            Err(error @ (PeerError::Unreachable { .. } | PeerError::Refused { .. })) => {
                tracing::debug!(%error, "the leader did not take a command");
                Attempt::NoLeader
            }
        }
    }

    /// Asks the leader for the revision that a read must see.
    pub(super) async fn read_index(&self, leader: (u64, Node), deadline: Instant) -> Result<u64, String> {
        let reply = self.call(&address(leader), wire::READ_INDEX, self.head(), deadline).await;
        Input(reply.map_err(|error| error.to_string())?).u64().map_err(|error| error.to_string())
    }

    /// Asks the leader for something.
    pub(super) async fn control(
        &self,
        leader: (u64, Node),
        control: &Control,
        deadline: Instant,
    ) -> Result<ControlReply, PeerError> {
        let peer = address(leader);
        let mut body = self.head();
        body.extend_from_slice(&wire::json(control));
        let reply = self.call(&peer, wire::CONTROL, body, deadline).await?;
        wire::from_json(&reply).map_err(|why| PeerError::NoAnswer { address: peer.address, why })
    }
}

fn address((node, at): (u64, Node)) -> PeerAddress {
    PeerAddress { address: at.peer, node: Some(node) }
}

/// Makes openraft's clients.
pub(super) struct Factory(pub Option<Arc<Links>>);

impl RaftNetworkFactory<TypeConfig> for Factory {
    type Network = Link;

    async fn new_client(&mut self, target: u64, node: &Node) -> Link {
        Link { node: target, first: address((target, node.clone())), links: self.0.clone(), refused: false }
    }
}

/// openraft's client for one peer. The consensus keeps it when the peer moves, so the address is looked up for each message.
pub(super) struct Link {
    node: u64,
    /// Where it was when this was made.
    first: PeerAddress,
    links: Option<Arc<Links>>,
    /// It took no entries the last time, as its disk may be full: then one at a time is enough to hear when it does.
    refused: bool,
}

impl Link {
    fn links(&self) -> Result<&Arc<Links>, Unreachable<TypeConfig>> {
        let why = "this node was started without a cluster, and its directory is that of a member: start it with one";
        self.links.as_ref().ok_or_else(|| Unreachable::from_string(why))
    }

    fn peer(&self, links: &Links) -> PeerAddress {
        links.address_of(self.node).unwrap_or_else(|| self.first.clone())
    }

    async fn send<T>(
        &self,
        method: &'static str,
        timeout: Duration,
        put: impl FnOnce(&mut Vec<u8>),
        take: impl FnOnce(Bytes) -> Result<T, super::codec::CodecError>,
    ) -> Result<T, RPCError<TypeConfig>> {
        let links = self.links()?;
        let mut body = links.head();
        put(&mut body);
        let reply = links.call(&self.peer(links), method, body, Instant::now() + timeout).await;
        let reply = reply.map_err(|error| Unreachable::new(&error))?;
        Ok(take(reply).map_err(|error| Unreachable::new(&error))?)
    }

    async fn send_snapshot(
        &self,
        vote: VoteOf<TypeConfig>,
        snapshot: SnapshotOf<TypeConfig, SnapshotData>,
        deadline: Instant,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let unreachable = |what: String| StreamingError::Unreachable(Unreachable::from_string(what));
        let links = self.links()?;
        let _permit = links.exports.acquire().await.expect("the semaphore is never closed");
        let (machine, meta) = (links.machine.clone(), snapshot.meta.clone());
        let index = meta.last_log_id.map_or(0, |id| id.index);
        let started = Instant::now();
        let threads = machine.threads.clone();
        let exported = threads.blocking(move || export(&machine, snapshot.snapshot, index)).await;
        let file = exported.map_err(|error| unreachable(error.to_string()))?.map_err(|e| unreachable(e.to_string()))?;
        let opened = tokio::fs::File::open(&file.0).await.map_err(|error| unreachable(error.to_string()))?;
        let length = opened.metadata().await.map_err(|error| unreachable(error.to_string()))?.len();
        let mut head = links.head();
        wire::put_snapshot(&vote, &meta, length, &mut head);
        let body = Box::pin(ReaderStream::with_capacity(opened, CHUNK_BYTES));
        let sent = links.peers.upload(&self.peer(links), wire::SNAPSHOT, head.into(), body, deadline).await;
        let reply = sent.map_err(|error| unreachable(error.to_string()))?;
        let vote = wire::vote_only(&reply).map_err(|error| unreachable(error.to_string()))?;
        let took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::info!(peer = self.node, bytes = length, took_ms, "sent a snapshot");
        Ok(SnapshotResponse::new(vote))
    }
}

/// A file that goes when it is not needed any more.
pub(super) struct Temporary(pub PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%error, path = %self.0.display(), "cannot remove a snapshot in transfer");
        }
    }
}

fn export(machine: &machine::Shared, snapshot: SnapshotData, index: u64) -> Result<Temporary, Error> {
    match snapshot {
        SnapshotData::File(path) => Ok(Temporary(path)),
        SnapshotData::View(view) => {
            let file = Temporary(machine.store.snapshot_path());
            machine.store.export(&view, index, &file.0)?;
            Ok(file)
        }
    }
}

impl RaftNetworkV2<TypeConfig> for Link {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let timeout = if rpc.entries.is_empty() { option.hard_ttl() } else { option.hard_ttl().max(APPEND_TIMEOUT) };
        let mut sent = 0;
        let most = if self.refused { 0 } else { APPEND_BYTES_MAX };
        let put = |out: &mut Vec<u8>| sent = wire::put_append(&rpc, most, out);
        let links = self.links()?.clone();
        let asked_ms = (links.clock)();
        let answer = self.send(wire::APPEND, timeout, put, wire::append_reply).await;
        if !rpc.entries.is_empty() {
            self.refused = answer.is_err();
        }
        let (reply, their_ms) = answer?;
        links.clocks.hear(self.node, their_ms, asked_ms, (links.clock)());
        match reply {
            AppendEntriesResponse::Success if sent < rpc.entries.len() => {
                Ok(AppendEntriesResponse::PartialSuccess(Some(rpc.entries[sent - 1].log_id)))
            }
            reply => Ok(reply),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.send(wire::VOTE, option.hard_ttl(), |out| wire::put_vote(&rpc, out), wire::vote_reply).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.send(wire::PRE_VOTE, option.hard_ttl(), |out| wire::put_vote(&rpc, out), wire::vote_reply).await
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<TypeConfig>,
        snapshot: SnapshotOf<TypeConfig, SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        tokio::select! {
            biased;
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = self.send_snapshot(vote, snapshot, Instant::now() + option.hard_ttl()) => sent,
        }
    }

    async fn transfer_leader(
        &mut self,
        rpc: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        let done = |_| Ok(Ok(()));
        self.send(wire::TRANSFER, option.hard_ttl(), |out| wire::put_transfer(&rpc, out), done).await
    }

    fn backoff(&self) -> Option<Backoff> {
        let last = BACKOFF_MS[BACKOFF_MS.len() - 1];
        let pauses = BACKOFF_MS.into_iter().chain(std::iter::repeat(last));
        Some(Backoff::new(pauses.map(Duration::from_millis)))
    }
}
