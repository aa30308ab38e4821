//! Stored forms of the consensus' own values: log ids, votes, memberships, entries.
//!
//! Numbers are little-endian. A log id is term, node, index (8 bytes each). A vote is term, node, granted (17 bytes). A
//! membership is CBOR: the voter sets and the nodes. An entry is its log id, a kind byte and the kind's bytes.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use minicbor::{Decode, Encode};
use openraft::EntryPayload;

use super::raft::{Entry, LeaderId, LogId, Membership, Node, Proposal, StoredMembership, Vote};

pub(super) const LOG_ID_BYTES: usize = 24;
const VOTE_BYTES: usize = 17;
const BLANK: u8 = 0;
const COMMAND: u8 = 1;
const MEMBERSHIP: u8 = 2;

/// Bytes that are not what they should be; says what.
#[derive(Debug, thiserror::Error)]
#[error("{0} does not decode")]
pub struct CodecError(pub &'static str);

type Result<T> = std::result::Result<T, CodecError>;

pub(super) fn put_log_id(id: &LogId, out: &mut Vec<u8>) {
    out.extend_from_slice(&id.leader_id.term.to_le_bytes());
    out.extend_from_slice(&id.leader_id.node_id.to_le_bytes());
    out.extend_from_slice(&id.index.to_le_bytes());
}

pub(super) fn log_id(bytes: &[u8]) -> Result<LogId> {
    if bytes.len() != LOG_ID_BYTES {
        return Err(CodecError("log id"));
    }
    Ok(LogId { leader_id: LeaderId { term: u64_at(bytes, 0), node_id: u64_at(bytes, 8) }, index: u64_at(bytes, 16) })
}

/// An optional value is a presence byte and the value.
pub(super) fn put_optional_log_id(id: Option<&LogId>, out: &mut Vec<u8>) {
    out.push(u8::from(id.is_some()));
    if let Some(id) = id {
        put_log_id(id, out);
    }
}

pub(super) fn optional_log_id(bytes: &[u8]) -> Result<(Option<LogId>, &[u8])> {
    match bytes.split_first() {
        Some((0, rest)) => Ok((None, rest)),
        Some((1, rest)) if rest.len() >= LOG_ID_BYTES => {
            let (id, rest) = rest.split_at(LOG_ID_BYTES);
            Ok((Some(log_id(id)?), rest))
        }
        _ => Err(CodecError("optional log id")),
    }
}

pub(super) fn put_vote(vote: &Vote, out: &mut Vec<u8>) {
    out.extend_from_slice(&vote.leader_id.term.to_le_bytes());
    out.extend_from_slice(&vote.leader_id.node_id.to_le_bytes());
    out.push(u8::from(vote.committed));
}

pub(super) fn vote(bytes: &[u8]) -> Result<Vote> {
    if bytes.len() != VOTE_BYTES || bytes[16] > 1 {
        return Err(CodecError("vote"));
    }
    Ok(Vote { leader_id: LeaderId { term: u64_at(bytes, 0), node_id: u64_at(bytes, 8) }, committed: bytes[16] == 1 })
}

#[derive(Encode, Decode)]
struct MembershipRecord {
    #[n(0)]
    voters: Vec<Vec<u64>>,
    #[n(1)]
    nodes: BTreeMap<u64, Node>,
}

pub(super) fn put_membership(membership: &Membership, out: &mut Vec<u8>) {
    let record = MembershipRecord {
        voters: membership.get_joint_config().iter().map(|set| set.iter().copied().collect()).collect(),
        nodes: membership.nodes().map(|(id, node)| (*id, node.clone())).collect(),
    };
    minicbor::encode(&record, out).expect("writing to a vector cannot fail");
}

pub(super) fn membership(bytes: &[u8]) -> Result<Membership> {
    let record: MembershipRecord = minicbor::decode(bytes).map_err(|_| CodecError("membership"))?;
    let voters: Vec<BTreeSet<u64>> = record.voters.into_iter().map(|set| set.into_iter().collect()).collect();
    if voters.is_empty() && record.nodes.is_empty() {
        return Ok(Membership::default());
    }
    Membership::new(voters, record.nodes).map_err(|_| CodecError("membership"))
}

pub(super) fn put_stored_membership(stored: &StoredMembership, out: &mut Vec<u8>) {
    put_optional_log_id(stored.log_id().as_ref(), out);
    put_membership(stored.membership(), out);
}

pub(super) fn stored_membership(bytes: &[u8]) -> Result<StoredMembership> {
    let (id, rest) = optional_log_id(bytes)?;
    Ok(StoredMembership::new(id, membership(rest)?))
}

pub(super) fn put_entry(entry: &Entry, out: &mut Vec<u8>) {
    put_log_id(&entry.log_id, out);
    match &entry.payload {
        EntryPayload::Blank => out.push(BLANK),
        EntryPayload::Normal(proposal) => {
            out.push(COMMAND);
            out.extend_from_slice(&proposal.bytes);
        }
        EntryPayload::Membership(membership) => {
            out.push(MEMBERSHIP);
            put_membership(membership, out);
        }
    }
}

/// Upper bound of what [`put_entry`] writes.
pub(super) fn entry_bytes(entry: &Entry) -> usize {
    const MEMBERSHIP_BYTES: usize = 64;
    const NODE_BYTES: usize = 64;
    let payload = match &entry.payload {
        EntryPayload::Blank => 0,
        EntryPayload::Normal(proposal) => proposal.bytes.len(),
        EntryPayload::Membership(membership) => {
            let nodes = membership.nodes().map(|(_, node)| NODE_BYTES + node.peer.len() + node.api.len());
            let voters = membership.get_joint_config().iter().map(|set| NODE_BYTES + 9 * set.len());
            MEMBERSHIP_BYTES + nodes.sum::<usize>() + voters.sum::<usize>()
        }
    };
    LOG_ID_BYTES + 1 + payload
}

/// Only the log id of a stored entry.
pub(super) fn entry_log_id(bytes: &[u8]) -> Result<LogId> {
    log_id(bytes.get(..LOG_ID_BYTES).ok_or(CodecError("entry"))?)
}

pub(super) fn entry(bytes: &Bytes) -> Result<Entry> {
    let log_id = entry_log_id(bytes)?;
    let payload = match bytes.get(LOG_ID_BYTES) {
        Some(&BLANK) => EntryPayload::Blank,
        Some(&COMMAND) => {
            let proposal = Proposal::decode(bytes.slice(LOG_ID_BYTES + 1..));
            EntryPayload::Normal(proposal.map_err(|_| CodecError("command of an entry"))?)
        }
        Some(&MEMBERSHIP) => EntryPayload::Membership(membership(&bytes[LOG_ID_BYTES + 1..])?),
        _ => return Err(CodecError("kind of an entry")),
    };
    Ok(Entry { log_id, payload })
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
