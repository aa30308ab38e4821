//! The types that openraft is used with, and its settings.
//!
//! A log entry carries a [`Proposal`]: a command with its stored bytes, encoded once by the proposer, so that the log
//! writes them as they are and the state machine applies the command without decoding. What the proposer gets back is an
//! [`Outcome`]. Nothing else of the crate knows openraft.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use holdfast_core::command::{Command, Reply};
use holdfast_core::record::Record;
use minicbor::{Decode, Encode};
use openraft::raft::responder::Responder;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::Committed;
use super::space::Held;

/// Where a node can be reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[cbor(map)]
pub struct Node {
    /// Host and port of the peer listener; empty in a cluster of one.
    #[n(0)]
    pub peer: String,
    /// URL of the client-facing listener, for redirects; may be empty.
    #[n(1)]
    pub api: String,
    /// Random, made by the node at its very first start: whoever asks to join again with it is the same node.
    #[n(2)]
    pub nonce: Option<String>,
}

/// Holdfast's choice of openraft types.
#[derive(Debug, Clone, Copy, Default, Eq, PartialEq, Ord, PartialOrd)]
pub struct TypeConfig;

// Written out because openraft's macro does not take a generic responder.
impl openraft::RaftTypeConfig for TypeConfig {
    type D = Proposal;
    type R = Outcome;
    type NodeId = u64;
    type Node = Node;
    type Term = u64;
    type LeaderId = openraft::impls::leader_id_adv::LeaderId<u64, u64>;
    type Vote = openraft::impls::Vote<Self::LeaderId>;
    type Payload = openraft::EntryPayload<Proposal, u64, Node>;
    type Entry = openraft::Entry<LeaderId, Self::Payload>;
    type Responder<T>
        = Pending<T>
    where
        T: Send + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: Send + 'static;
    // The runtime's own crate is not a dependency of ours; openraft re-exports it under a name it wants to drop.
    #[allow(deprecated)]
    #[cfg(not(test))]
    type AsyncRuntime = openraft::impls::TokioRuntime;
    // The same, but what it draws can be repeated.
    #[cfg(test)]
    type AsyncRuntime = super::tests::sim::runtime::SeededRuntime;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

/// The running consensus.
pub(super) type Consensus = openraft::Raft<TypeConfig, super::machine::Machine>;
pub(super) type LogId = openraft::alias::LogIdOf<TypeConfig>;
pub(super) type Vote = openraft::alias::VoteOf<TypeConfig>;
pub(super) type Entry = openraft::alias::EntryOf<TypeConfig>;
pub(super) type LeaderId = openraft::alias::CommittedLeaderIdOf<TypeConfig>;
pub(super) type StoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
pub(super) type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;
pub(super) type Membership = openraft::Membership<u64, Node>;

/// A command on its way through the log.
#[derive(Clone, Debug)]
pub struct Proposal {
    /// The command.
    pub command: Arc<Command>,
    /// Its stored form.
    pub bytes: Bytes,
}

impl Proposal {
    /// Encodes `command`.
    #[must_use]
    pub fn new(command: Command) -> Self {
        Self { bytes: Bytes::from(command.encode()), command: Arc::new(command) }
    }

    /// Decodes what [`Proposal::new`] encoded.
    ///
    /// # Errors
    /// When the bytes are not a command this release knows.
    pub fn decode(bytes: Bytes) -> Result<Self, holdfast_core::record::DecodeError> {
        Ok(Self { command: Arc::new(Command::decode(&bytes)?), bytes })
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "command of {} bytes", self.bytes.len())
    }
}

// openraft asks for serde on what it may put on a wire; both forms are the stored bytes.
impl Serialize for Proposal {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.bytes.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Proposal {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::decode(Vec::<u8>::deserialize(deserializer)?.into()).map_err(serde::de::Error::custom)
    }
}

/// What applying an entry came to; empty for entries that carry no command.
#[derive(Clone, Debug)]
pub struct Outcome(pub Option<Committed>);

impl Serialize for Outcome {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.as_ref().map(|done| (done.revision, Record::encode(&done.reply))).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Outcome {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let stored = Option::<(u64, Vec<u8>)>::deserialize(deserializer)?;
        let decode = |(revision, bytes): (u64, Vec<u8>)| {
            let reply = <Reply as Record>::decode(&bytes)?;
            Ok(Committed { revision, reply })
        };
        let decoded: Result<_, holdfast_core::record::DecodeError> = stored.map(decode).transpose();
        Ok(Self(decoded.map_err(serde::de::Error::custom)?))
    }
}

/// A proposal in flight: where its result goes and what it holds until then. The consensus owns it from the moment it
/// accepts the proposal, so a caller that is gone leaves the bounds exact.
pub struct Pending<T> {
    result: oneshot::Sender<T>,
    held: Held,
}

impl<T> Pending<T> {
    pub(super) fn new(held: Held) -> (Self, oneshot::Receiver<T>) {
        let (result, waiting) = oneshot::channel();
        (Self { result, held }, waiting)
    }
}

impl<T: Send + 'static> Responder<TypeConfig, T> for Pending<T> {
    fn on_complete(self, result: T) {
        // Given back first: whoever hears the result finds the room free.
        drop(self.held);
        // A receiver that is gone gave up at its deadline and reported an unknown outcome.
        let _ = self.result.send(result);
    }
}

/// Longest transfer of one snapshot, its export and installation included.
const SNAPSHOT_TIMEOUT_MS: u64 = 600_000;
/// A follower drops its leader's lease when it has heard nothing for the longer time, and calls an election after another
/// time between the two: 1.1 to 1.4 s after the leader's last word. openraft adds the two, so these are not what other
/// implementations mean by the name; with 500 and 1000 a failover took 1.8 s.
const ELECTION_TIMEOUT_MS_MIN: u64 = 400;
pub(super) const ELECTION_TIMEOUT_MS_MAX: u64 = 700;

/// openraft's settings for a local network. The rest of the defaults are right.
pub(super) fn config(cluster: &str) -> openraft::Config {
    openraft::Config {
        cluster_name: cluster.to_owned(),
        heartbeat_interval: 100,
        election_timeout_min: ELECTION_TIMEOUT_MS_MIN,
        election_timeout_max: ELECTION_TIMEOUT_MS_MAX,
        install_snapshot_timeout: SNAPSHOT_TIMEOUT_MS,
        enable_pre_vote: Some(true),
        // Restoring leadership without an election could serve a state machine that is behind its own past.
        enable_leader_restore: Some(false),
        // A member whose log went back (its directory is a copy, or was restored from one) gets what it lacks again. A leader
        // that stopped instead would leave the rest to elect that member.
        allow_log_reversion: Some(true),
        // Snapshots and purges are driven by bytes, not by counts: see `keeper`.
        snapshot_policy: openraft::SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        ..openraft::Config::default()
    }
}
