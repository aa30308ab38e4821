//! Groups: who gets which message, and what becomes of it.
//!
//! ```text
//!                 claim                      acknowledge
//! never delivered ─────▶ held by a lease ───────────────────▶ done
//!                            │      ▲ claim, before new ones
//!          lease ends:       ▼      │
//!          released, expired ───▶ to be delivered again ── past the group's deliveries ─▶ dead-letter topic
//! ```
//! A claim is a lease like a lock's: it is renewed, released and expired by the same commands, so claims have no clock of
//! their own and end late, never early. Its row says which group it is of; the messages that it holds are rows under it. A
//! message is in one place of the picture at a time, so no two live claims of a group hold it.
//!
//! Rows hang on the group's id, not on its name: a group that is deleted, or begins anew, has nothing to do with the claims of
//! the old one.

use super::{
    CLAIM_BYTES_MAX, CLAIM_MESSAGES_MAX, CLAIM_TTL_MS_DEFAULT, DELIVERIES_MAX, GROUPS_MAX, append, check_name, doom,
    save,
};
use crate::apply::Txn;
use crate::command::{Acknowledge, Acknowledged, Claim, Claimed, Delivery, Reply, SetGroup};
use crate::effect::Effect;
use crate::error::Error;
use crate::event::EventKind;
use crate::id::Revision;
use crate::keyspace::{Keyspace, key::topic as key};
use crate::kv::KeyRange;
use crate::lock::LeaseRow;
use crate::record::Record as _;
use crate::rules::lock;
use crate::state::Stop;
use crate::topic::{ClaimRow, DeadLetter, DeliveryRow, GroupRow, Message, Start, TopicRow, ahead};

fn save_group(txn: &mut Txn<'_>, topic: Revision, name: &str, row: &GroupRow) {
    txn.put(Keyspace::Topics, key::group(topic, name), row);
}

/// A group that begins at an offset. It counts with its topic.
fn new_group(txn: &mut Txn<'_>, name: &str, topic: &mut TopicRow, next: u64) -> Result<GroupRow, Stop> {
    if topic.groups >= GROUPS_MAX {
        return Err(Error::invalid("a topic has at most 1,000 groups").into());
    }
    topic.groups += 1;
    save(txn, name, topic);
    Ok(GroupRow {
        id: txn.revision(),
        next,
        pending: 0,
        redeliver: 0,
        ttl_ms: CLAIM_TTL_MS_DEFAULT,
        max_deliveries: None,
        dead_letter: None,
        missed: 0,
        given_up: 0,
        acknowledged: 0,
    })
}

pub(crate) fn set(txn: &mut Txn<'_>, op: &SetGroup) -> Result<Reply, Stop> {
    check_name(&op.group)?;
    let mut topic = txn.reader().topic(&op.topic)?;
    let from = match op.from.as_slice() {
        [] => None,
        [Start::Oldest] => Some(topic.oldest),
        [Start::Latest] => Some(topic.next),
        [Start::Offset(offset)] if *offset > topic.next => return Err(ahead().into()),
        [Start::Offset(offset)] => Some((*offset).max(topic.oldest)),
        _ => return Err(Error::invalid("a group begins at one offset").into()),
    };
    let mut row = match txn.reader().group(topic.id, &op.group)? {
        None => {
            let next = from.unwrap_or(topic.oldest);
            new_group(txn, &op.topic, &mut topic, next)?
        }
        Some(row) => match from {
            None => row,
            Some(next) => {
                doom(txn, row.id);
                GroupRow { id: txn.revision(), next, pending: 0, redeliver: 0, ..row }
            }
        },
    };
    row.ttl_ms = op.ttl_ms.unwrap_or(row.ttl_ms);
    lock::check_lease("", row.ttl_ms)?;
    if let Some(most) = op.max_deliveries {
        row.max_deliveries = (most > 0).then_some(most);
    }
    if let Some(name) = &op.dead_letter {
        row.dead_letter = (!name.is_empty()).then(|| name.clone());
    }
    if row.max_deliveries.is_some_and(|most| most > DELIVERIES_MAX) {
        return Err(Error::invalid("max_deliveries is at most 1,000; 0 is without end").into());
    }
    if let Some(name) = &row.dead_letter {
        check_name(name)?;
        if *name == op.topic || row.max_deliveries.is_none() {
            return Err(Error::invalid("a dead-letter topic is another topic, and needs max_deliveries").into());
        }
    }
    save_group(txn, topic.id, &op.group, &row);
    txn.effect(Effect::Topic(topic.id));
    Ok(Reply::Done)
}

/// The group is gone with this commit; what its claims hold goes with their leases.
pub(super) fn delete(txn: &mut Txn<'_>, of: &str, name: &str) -> Result<Reply, Stop> {
    let mut topic = txn.reader().topic(of)?;
    let row = txn.reader().group(topic.id, name)?.ok_or(Error::NoSuchGroup)?;
    txn.delete(Keyspace::Topics, key::group(topic.id, name));
    doom(txn, row.id);
    topic.groups -= 1;
    save(txn, of, &topic);
    // Whoever waits for its messages finds that it is gone.
    txn.effect(Effect::Topic(topic.id));
    Ok(Reply::Done)
}

/// Gives a new lease messages: those to be delivered again first, then new ones, each in order.
pub(crate) fn claim(txn: &mut Txn<'_>, op: &Claim) -> Result<Reply, Stop> {
    check_name(&op.group)?;
    if !(1..=CLAIM_MESSAGES_MAX).contains(&op.max) {
        return Err(Error::invalid("a claim is for 1 to 1,000 messages").into());
    }
    let mut topic = txn.reader().topic(&op.topic)?;
    let old = txn.reader().group(topic.id, &op.group)?;
    let mut group = match old.clone() {
        Some(group) => group,
        None => {
            let oldest = topic.oldest;
            new_group(txn, &op.topic, &mut topic, oldest)?
        }
    };
    let ttl_ms = op.ttl_ms.unwrap_or(group.ttl_ms);
    lock::check_lease(&op.owner, ttl_ms)?;
    let messages = take(txn, &topic, &mut group, op.max as usize)?;
    let lease = (!messages.is_empty()).then(|| txn.revision());
    if let Some(lease) = lease {
        let row = LeaseRow { owner: op.owner.clone(), ttl_ms, renewals: 0, lock: None, keys: 0 };
        lock::save_lease(txn, lease, &row);
        for Delivery { offset, deliveries } in messages.iter().copied() {
            txn.put(Keyspace::Topics, key::pending(lease, offset), &DeliveryRow { deliveries });
        }
        let count = u32::try_from(messages.len()).unwrap_or(u32::MAX);
        group.pending += count;
        let (topic_id, group_id) = (topic.id, group.id);
        let row = ClaimRow { topic_id, topic: op.topic.clone(), group_id, group: op.group.clone(), messages: count };
        txn.put(Keyspace::Topics, key::claim(lease), &row);
    }
    if old.as_ref() != Some(&group) {
        save_group(txn, topic.id, &op.group, &group);
    }
    Ok(Reply::Claimed(Claimed { topic: topic.id, lease, ttl_ms, messages }))
}

/// Takes messages out of what the group has not delivered, or is to deliver again.
fn take(txn: &mut Txn<'_>, topic: &TopicRow, group: &mut GroupRow, max: usize) -> Result<Vec<Delivery>, Stop> {
    let (mut taken, mut bytes) = (Vec::new(), 0);
    let again = txn.reader().rows(Keyspace::Topics, KeyRange::prefix(&key::redeliveries(group.id)));
    let again: Vec<_> = again.take(CLAIM_MESSAGES_MAX as usize).collect::<Result<_, _>>()?;
    for (row_key, value) in again {
        if taken.len() >= max || bytes >= CLAIM_BYTES_MAX {
            return Ok(taken);
        }
        let (offset, row) = (key::offset(&row_key)?, DeliveryRow::decode(&value)?);
        txn.delete(Keyspace::Topics, row_key.to_vec());
        group.redeliver -= 1;
        match size_of(txn, topic, offset)? {
            Some(size) => {
                bytes += size;
                taken.push(Delivery { offset, deliveries: row.deliveries.saturating_add(1) });
            }
            None => group.missed += 1,
        }
    }
    if group.redeliver > 0 {
        // Only trimmed ones were looked at, as many as one command may: the next claim looks further.
        return Ok(taken);
    }
    if group.next < topic.oldest {
        group.missed += topic.oldest - group.next;
        group.next = topic.oldest;
    }
    while taken.len() < max && bytes < CLAIM_BYTES_MAX && group.next < topic.next {
        let held =
            GroupRow { pending: group.pending + u32::try_from(taken.len()).unwrap_or(u32::MAX), ..group.clone() };
        if !held.has_room() {
            break;
        }
        bytes += size_of(txn, topic, group.next)?.unwrap_or_default();
        taken.push(Delivery { offset: group.next, deliveries: 1 });
        group.next += 1;
    }
    Ok(taken)
}

/// Bytes of a message's row, if it is kept.
fn size_of(txn: &Txn<'_>, topic: &TopicRow, offset: u64) -> Result<Option<usize>, Stop> {
    Ok(txn.reader().0.get(Keyspace::Topics, &key::message(topic.id, offset))?.map(|value| value.len()))
}

/// The lease holds these messages no more, and they are done. A lease that holds none ends by the same commit.
pub(crate) fn acknowledge(txn: &mut Txn<'_>, op: &Acknowledge) -> Result<Reply, Stop> {
    let claim: Option<ClaimRow> = txn.reader().row(Keyspace::Topics, &key::claim(op.lease))?;
    let mut claim =
        claim.filter(|claim| claim.topic == op.topic && claim.group == op.group).ok_or(Error::NoSuchLease)?;
    let group = txn.reader().group(claim.topic_id, &claim.group)?;
    let mut group = group.filter(|group| group.id == claim.group_id).ok_or(Error::NoSuchGroup)?;
    let mut done = match &op.offsets {
        Some(offsets) if offsets.len() > CLAIM_MESSAGES_MAX as usize => {
            return Err(Error::invalid("a claim holds at most 1,000 messages").into());
        }
        Some(offsets) => offsets.iter().map(|offset| key::pending(op.lease, *offset)).collect(),
        None => {
            pending(txn, op.lease)?.into_iter().map(|(offset, _)| key::pending(op.lease, offset)).collect::<Vec<_>>()
        }
    };
    done.sort_unstable();
    done.dedup();
    let mut count = 0;
    for row_key in done {
        if txn.reader().0.get(Keyspace::Topics, &row_key)?.is_some() {
            txn.delete(Keyspace::Topics, row_key);
            count += 1;
        }
    }
    group.pending -= count;
    group.acknowledged += u64::from(count);
    claim.messages -= count;
    save_group(txn, claim.topic_id, &claim.group, &group);
    txn.put(Keyspace::Topics, key::claim(op.lease), &claim);
    if claim.messages == 0 {
        let row = lock::load(txn, op.lease)?;
        lock::end(txn, op.lease, row, EventKind::LockReleased)?;
    }
    if count > 0 {
        // A group that held as many as it may can claim again.
        txn.effect(Effect::Topic(claim.topic_id));
    }
    Ok(Reply::Acknowledged(Acknowledged { count, left: claim.messages }))
}

/// The messages that a lease holds.
fn pending(txn: &Txn<'_>, lease: Revision) -> Result<Vec<(u64, DeliveryRow)>, Stop> {
    let rows = txn.reader().rows(Keyspace::Topics, KeyRange::prefix(&key::pending_of(lease)));
    rows.map(|row| {
        let (row_key, value) = row?;
        Ok((key::offset(&row_key)?, DeliveryRow::decode(&value)?))
    })
    .collect()
}

/// The lease has ended: what it still holds is delivered again, or given up.
pub(crate) fn end_claim(txn: &mut Txn<'_>, lease: Revision) -> Result<(), Stop> {
    let claim: Option<ClaimRow> = txn.reader().row(Keyspace::Topics, &key::claim(lease))?;
    let Some(claim) = claim else { return Ok(()) };
    txn.delete(Keyspace::Topics, key::claim(lease));
    let held = pending(txn, lease)?;
    for (offset, _) in &held {
        txn.delete(Keyspace::Topics, key::pending(lease, *offset));
    }
    let group = txn.reader().group(claim.topic_id, &claim.group)?;
    let Some(mut group) = group.filter(|group| group.id == claim.group_id && !held.is_empty()) else { return Ok(()) };
    let mut dead: Vec<(Message, Option<DeadLetter>)> = Vec::new();
    for (offset, row) in held {
        group.pending -= 1;
        let given_up = group.max_deliveries.is_some_and(|most| row.deliveries >= most);
        match txn.reader().message(claim.topic_id, offset)? {
            None => group.missed += 1,
            Some(_) if !given_up => {
                group.redeliver += 1;
                txn.put(Keyspace::Topics, key::redelivery(group.id, offset), &row);
            }
            Some(message) => {
                group.given_up += 1;
                let (topic, name) = (claim.topic.clone(), claim.group.clone());
                let from = DeadLetter { topic, offset, group: name, deliveries: row.deliveries };
                dead.push((message.message, Some(from)));
            }
        }
    }
    save_group(txn, claim.topic_id, &claim.group, &group);
    txn.effect(Effect::Topic(claim.topic_id));
    if let Some(name) = group.dead_letter.filter(|_| !dead.is_empty()) {
        append(txn, &name, false, dead)?;
    }
    Ok(())
}
