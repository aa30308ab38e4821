//! What peers say to each other, as bytes.
//!
//! A message of a member begins with a [`Head`]: which cluster it is of, who sends, in which of its starts, and how new
//! the membership is that it knows. What follows belongs to the method:
//!
//! | method | after the head | reply |
//! | --- | --- | --- |
//! | [`APPEND`] | vote, previous log id, commit, count, then each entry with its length in front | milliseconds since 1970, kind, log id or vote |
//! | [`VOTE`], [`PRE_VOTE`] | vote, last log id, whether a transfer | vote, granted, last log id |
//! | [`TRANSFER`] | vote, target, last log id | one byte |
//! | [`SNAPSHOT`] (an upload) | vote, length, last log id, membership; then the file | vote |
//! | [`READ_INDEX`] | nothing | revision |
//! | [`PROPOSE`] | frees space, milliseconds left, the command's bytes | kind and its fields |
//! | [`CONTROL`] | [`Control`] as JSON | JSON |
//!
//! [`HELLO`] and [`JOIN`] have no head, because who sends them may be no member yet: they are JSON. Numbers are
//! little-endian; log ids, votes, memberships and entries have their stored form (`codec`).

use bytes::Bytes;
use holdfast_core::command::Reply;
use holdfast_core::record::Record as _;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest, VoteResponse};
use serde::{Deserialize, Serialize};

use super::codec::{self, CodecError};
use super::error::Error;
use super::forward::Attempt;
use super::raft::{Entry, LogId, SnapshotMeta, TypeConfig, Vote};
use super::{Committed, Member};

pub(super) const APPEND: &str = "append";
pub(super) const VOTE: &str = "vote";
pub(super) const PRE_VOTE: &str = "pre-vote";
pub(super) const TRANSFER: &str = "transfer";
pub(super) const SNAPSHOT: &str = "snapshot";
pub(super) const READ_INDEX: &str = "read-index";
pub(super) const PROPOSE: &str = "propose";
pub(super) const CONTROL: &str = "control";
pub(super) const HELLO: &str = "hello";
pub(super) const JOIN: &str = "join";

const FORMAT: u8 = 1;
const VOTE_BYTES: usize = 17;

type Result<T> = std::result::Result<T, CodecError>;

/// Who sends, and what it knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub cluster: [u8; 16],
    pub generation: u64,
    pub node: u64,
    /// Which of its starts, and the random number of that start.
    pub boots: u64,
    pub nonce: u64,
    /// Log id of the membership that the sender goes by.
    pub members: Option<LogId>,
}

/// Bytes that are read from the front.
pub(super) struct Input(pub Bytes);

impl Input {
    fn take(&mut self, bytes: usize) -> Result<Bytes> {
        if self.0.len() < bytes {
            return Err(CodecError("a message that is too short"));
        }
        Ok(self.0.split_to(bytes))
    }

    pub(super) fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    pub(super) fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.take(4)?.as_ref().try_into().expect("four bytes")))
    }

    pub(super) fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.take(8)?.as_ref().try_into().expect("eight bytes")))
    }

    fn vote(&mut self) -> Result<Vote> {
        codec::vote(&self.take(VOTE_BYTES)?)
    }

    fn log_id(&mut self) -> Result<Option<LogId>> {
        match self.byte()? {
            0 => Ok(None),
            1 => codec::log_id(&self.take(codec::LOG_ID_BYTES)?).map(Some),
            _ => Err(CodecError("an optional log id")),
        }
    }

    fn end(self) -> Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(CodecError("a message that is too long")) }
    }

    fn text(self) -> String {
        String::from_utf8_lossy(&self.0).into_owned()
    }
}

impl Head {
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        out.push(FORMAT);
        out.extend_from_slice(&self.cluster);
        for number in [self.generation, self.node, self.boots, self.nonce] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        codec::put_optional_log_id(self.members.as_ref(), out);
    }

    pub(super) fn take(input: &mut Input) -> Result<Self> {
        if input.byte()? != FORMAT {
            return Err(CodecError("a message of another release: its head"));
        }
        let cluster = input.take(16)?.as_ref().try_into().expect("sixteen bytes");
        let (generation, node, boots, nonce) = (input.u64()?, input.u64()?, input.u64()?, input.u64()?);
        Ok(Self { cluster, generation, node, boots, nonce, members: input.log_id()? })
    }
}

/// Puts the entries that fit into `most` bytes, at least one; says how many.
pub(super) fn put_append(rpc: &AppendEntriesRequest<TypeConfig>, most: usize, out: &mut Vec<u8>) -> usize {
    codec::put_vote(&rpc.vote, out);
    codec::put_optional_log_id(rpc.prev_log_id.as_ref(), out);
    codec::put_optional_log_id(rpc.leader_commit.as_ref(), out);
    let (mut bytes, mut count) = (0, 0);
    for entry in &rpc.entries {
        bytes += codec::entry_bytes(entry);
        if bytes > most && count > 0 {
            break;
        }
        count += 1;
    }
    out.extend_from_slice(&u32::try_from(count).expect("a batch is small").to_le_bytes());
    for entry in &rpc.entries[..count] {
        let at = out.len();
        out.extend_from_slice(&[0; 4]);
        codec::put_entry(entry, out);
        let length = u32::try_from(out.len() - at - 4).expect("an entry fits a segment");
        out[at..at + 4].copy_from_slice(&length.to_le_bytes());
    }
    count
}

pub(super) fn append(mut input: Input) -> Result<AppendEntriesRequest<TypeConfig>> {
    let (vote, prev_log_id, leader_commit) = (input.vote()?, input.log_id()?, input.log_id()?);
    let count = input.u32()?;
    let mut entries: Vec<Entry> = Vec::new();
    for _ in 0..count {
        let length = input.u32()? as usize;
        entries.push(codec::entry(&input.take(length)?)?);
    }
    input.end()?;
    Ok(AppendEntriesRequest { vote, prev_log_id, entries, leader_commit })
}

pub(super) fn put_append_reply(reply: &AppendEntriesResponse<TypeConfig>, now_ms: u64) -> Vec<u8> {
    let mut out = now_ms.to_le_bytes().to_vec();
    match reply {
        AppendEntriesResponse::Success => out.push(0),
        AppendEntriesResponse::PartialSuccess(upto) => {
            out.push(1);
            codec::put_optional_log_id(upto.as_ref(), &mut out);
        }
        AppendEntriesResponse::Conflict => out.push(2),
        AppendEntriesResponse::HigherVote(vote) => {
            out.push(3);
            codec::put_vote(vote, &mut out);
        }
    }
    out
}

/// The reply, and the other's clock.
pub(super) fn append_reply(bytes: Bytes) -> Result<(AppendEntriesResponse<TypeConfig>, u64)> {
    let mut input = Input(bytes);
    let now_ms = input.u64()?;
    let reply = match input.byte()? {
        0 => AppendEntriesResponse::Success,
        1 => AppendEntriesResponse::PartialSuccess(input.log_id()?),
        2 => AppendEntriesResponse::Conflict,
        3 => AppendEntriesResponse::HigherVote(input.vote()?),
        _ => return Err(CodecError("a reply to an append")),
    };
    input.end()?;
    Ok((reply, now_ms))
}

pub(super) fn put_vote(rpc: &VoteRequest<TypeConfig>, out: &mut Vec<u8>) {
    codec::put_vote(&rpc.vote, out);
    codec::put_optional_log_id(rpc.last_log_id.as_ref(), out);
    out.push(u8::from(rpc.leadership_transfer));
}

pub(super) fn vote(mut input: Input) -> Result<VoteRequest<TypeConfig>> {
    let mut rpc = VoteRequest::new(input.vote()?, input.log_id()?);
    rpc.leadership_transfer = input.byte()? == 1;
    input.end()?;
    Ok(rpc)
}

pub(super) fn put_vote_reply(reply: &VoteResponse<TypeConfig>) -> Vec<u8> {
    let mut out = Vec::new();
    codec::put_vote(&reply.vote, &mut out);
    out.push(u8::from(reply.vote_granted));
    codec::put_optional_log_id(reply.last_log_id.as_ref(), &mut out);
    out
}

pub(super) fn vote_reply(bytes: Bytes) -> Result<VoteResponse<TypeConfig>> {
    let mut input = Input(bytes);
    let (vote, granted, last) = (input.vote()?, input.byte()? == 1, input.log_id()?);
    input.end()?;
    Ok(VoteResponse::new(vote, last, granted))
}

pub(super) fn put_transfer(rpc: &TransferLeaderRequest<TypeConfig>, out: &mut Vec<u8>) {
    codec::put_vote(rpc.from_leader(), out);
    out.extend_from_slice(&rpc.to_node_id().to_le_bytes());
    codec::put_optional_log_id(rpc.last_log_id(), out);
}

pub(super) fn transfer(mut input: Input) -> Result<TransferLeaderRequest<TypeConfig>> {
    let rpc = TransferLeaderRequest::new(input.vote()?, input.u64()?, input.log_id()?);
    input.end()?;
    Ok(rpc)
}

pub(super) fn put_snapshot(vote: &Vote, meta: &SnapshotMeta, length: u64, out: &mut Vec<u8>) {
    codec::put_vote(vote, out);
    out.extend_from_slice(&length.to_le_bytes());
    codec::put_optional_log_id(meta.last_log_id.as_ref(), out);
    codec::put_stored_membership(&meta.last_membership, out);
}

pub(super) fn snapshot(mut input: Input) -> Result<(Vote, u64, SnapshotMeta)> {
    let (vote, length, last_log_id) = (input.vote()?, input.u64()?, input.log_id()?);
    let last_membership = codec::stored_membership(&input.0)?;
    Ok((vote, length, SnapshotMeta { last_log_id, last_membership }))
}

pub(super) fn put_vote_only(vote: &Vote) -> Vec<u8> {
    let mut out = Vec::new();
    codec::put_vote(vote, &mut out);
    out
}

pub(super) fn vote_only(bytes: &[u8]) -> Result<Vote> {
    codec::vote(bytes)
}

/// What became of a forwarded command.
pub(super) fn put_attempt(attempt: &Attempt) -> Vec<u8> {
    let with_text = |kind: u8, text: &str| [&[kind], text.as_bytes()].concat();
    match attempt {
        Attempt::Done(Committed { revision, reply }) => {
            [&[0], revision.to_le_bytes().as_slice(), reply.encode().as_slice()].concat()
        }
        Attempt::NoLeader => vec![1],
        Attempt::Unknown(why) => with_text(2, why),
        Attempt::Failed(Error::Busy) => vec![3],
        Attempt::Failed(Error::TooLarge { bytes, most }) => {
            [&[4], (*bytes as u64).to_le_bytes().as_slice(), (*most as u64).to_le_bytes().as_slice()].concat()
        }
        Attempt::Failed(Error::NoSpace { free_bytes }) => [&[5], free_bytes.to_le_bytes().as_slice()].concat(),
        Attempt::Failed(Error::Unavailable(why)) => with_text(6, why),
        // The leader is broken before it handed the command on; another one will be found.
        Attempt::Failed(_) => vec![1],
    }
}

pub(super) fn attempt(bytes: Bytes) -> Result<Attempt> {
    let mut input = Input(bytes);
    Ok(match input.byte()? {
        0 => {
            let revision = input.u64()?;
            let reply = Reply::decode(&input.0).map_err(|_| CodecError("the reply of a forwarded command"))?;
            Attempt::Done(Committed { revision, reply })
        }
        1 => Attempt::NoLeader,
        2 => Attempt::Unknown(input.text()),
        3 => Attempt::Failed(Error::Busy),
        4 => {
            let (bytes, most) = (input.u64()?, input.u64()?);
            let most = usize::try_from(most).unwrap_or(usize::MAX);
            Attempt::Failed(Error::TooLarge { bytes: usize::try_from(bytes).unwrap_or(usize::MAX), most })
        }
        5 => Attempt::Failed(Error::NoSpace { free_bytes: input.u64()? }),
        6 => Attempt::Failed(Error::Unavailable(input.text())),
        _ => return Err(CodecError("the outcome of a forwarded command")),
    })
}

/// Asks who a peer is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hello {
    /// Name of the cluster that the sender belongs to or wants to begin.
    pub name: String,
}

/// Who a peer is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct HelloReply {
    pub name: String,
    pub address: String,
    /// Of its very first start.
    pub nonce: String,
    /// The candidates that it sees, itself included, sorted.
    pub candidates: Vec<String>,
    /// Once it has an identity.
    pub member: Option<MemberOf>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MemberOf {
    pub cluster_id: String,
    pub generation: u64,
    pub node_id: u64,
}

/// Asks to become a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Join {
    pub name: String,
    pub address: String,
    pub api: String,
    pub nonce: String,
}

/// What members ask of the leader.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Control {
    /// Somebody asked the sender to join.
    Join(Join),
    /// The sender is alive and can be reached there.
    Announce {
        address: String,
        api: String,
    },
    Members,
    Remove(u64),
    Promote(u64),
}

/// What the leader answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum ControlReply {
    Joined(MemberOf),
    Announced,
    Members(Vec<Member>),
    Done,
    /// The receiver does not lead; nothing was done.
    NotLeader,
    /// A newer start of the sender's node is active: two processes run on copies of one data directory.
    Superseded(String),
    /// The sender is not a member any more.
    Removed(String),
    Refused(String),
}

pub(super) fn json<T: Serialize>(value: &T) -> Bytes {
    serde_json::to_vec(value).expect("plain fields are JSON").into()
}

pub(super) fn from_json<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> std::result::Result<T, String> {
    serde_json::from_slice(bytes).map_err(|error| format!("a message of another release: {error}"))
}
