//! Targets, and the notification documents of buckets.

use crate::apply::Txn;
use crate::command::{AdvanceTarget, RemoveTarget, Reply, SetTarget};
use crate::effect::Effect;
use crate::error::Error;
use crate::id::{BucketName, Place, Revision};
use crate::keyspace::{Keyspace, key};
use crate::kv::KeyRange;
use crate::notify::TargetRow;
use crate::rules::lock::check_name;
use crate::state::Stop;

/// Targets of a cluster.
pub const TARGETS_MAX: usize = 100;
/// Bytes of a target's settings.
pub const TARGET_BYTES_MAX: usize = 64 << 10;
/// Bytes of what a target says of its problem.
pub const PROBLEM_BYTES_MAX: usize = 1024;
/// Bytes of a bucket's notification document.
pub const NOTIFICATION_BYTES_MAX: usize = 64 << 10;
/// Documents of one bucket that are kept for events of the past.
pub const NOTIFICATIONS_MAX: usize = 1000;
/// Documents that one trimming of events removes.
const DOCUMENTS_TRIMMED: usize = 100;

pub(crate) fn set_target(txn: &mut Txn<'_>, op: &SetTarget) -> Result<Reply, Stop> {
    check_name(&op.name)?;
    if op.settings.len() > TARGET_BYTES_MAX {
        return Err(Error::invalid("the settings of a target have at most 64 KiB").into());
    }
    let (revision, old) = (txn.revision(), txn.reader().target(&op.name)?);
    if old.is_none() {
        let all = txn.reader().rows(Keyspace::Targets, KeyRange::prefix(&key::target("")));
        if all.take(TARGETS_MAX).count() >= TARGETS_MAX {
            return Err(Error::invalid("there are 100 targets already").into());
        }
    }
    let fresh = TargetRow {
        id: revision,
        settings: Vec::new(),
        cursor: Place { revision, ordinal: u16::MAX },
        delivered: 0,
        dead_lettered: 0,
        lost: 0,
        problem: None,
        changed: revision,
    };
    let row = TargetRow { settings: op.settings.clone(), changed: revision, problem: None, ..old.unwrap_or(fresh) };
    txn.put(Keyspace::Targets, key::target(&op.name), &row);
    txn.effect(Effect::TargetsChanged);
    Ok(Reply::Done)
}

pub(crate) fn remove_target(txn: &mut Txn<'_>, op: &RemoveTarget) -> Result<Reply, Stop> {
    txn.reader().target(&op.name)?.ok_or(Error::NoSuchTarget)?;
    txn.delete(Keyspace::Targets, key::target(&op.name));
    txn.effect(Effect::TargetsChanged);
    Ok(Reply::Done)
}

/// Refused as changed when another has delivered meanwhile: it goes on from the row.
pub(crate) fn advance_target(txn: &mut Txn<'_>, op: &AdvanceTarget) -> Result<Reply, Stop> {
    let row = txn.reader().target(&op.name)?.filter(|row| row.id == op.id).ok_or(Error::NoSuchTarget)?;
    if row.cursor != op.from || op.to < op.from {
        return Err(Error::Changed.into());
    }
    if op.problem.as_ref().is_some_and(|problem| problem.len() > PROBLEM_BYTES_MAX) {
        return Err(Error::invalid("a problem is told in at most 1,024 bytes").into());
    }
    let row = TargetRow {
        cursor: op.to,
        delivered: row.delivered.saturating_add(op.delivered),
        dead_lettered: row.dead_lettered.saturating_add(op.dead_lettered),
        lost: row.lost.saturating_add(op.lost),
        problem: op.problem.clone(),
        ..row
    };
    txn.put(Keyspace::Targets, key::target(&op.name), &row);
    Ok(Reply::Done)
}

/// Sets, or removes, the document of a bucket from this revision on. The one before goes when no event needs it.
pub(crate) fn set_notification(txn: &mut Txn<'_>, bucket: &BucketName, document: &[u8]) -> Result<(), Stop> {
    if document.len() > NOTIFICATION_BYTES_MAX {
        return Err(Error::invalid("a notification configuration has at most 64 KiB").into());
    }
    let revision = txn.revision();
    let kept = txn.reader().rows(Keyspace::Targets, KeyRange::prefix(&key::notifications(bucket)));
    let kept = kept.take(NOTIFICATIONS_MAX).map(|row| {
        let (row_key, value) = row?;
        Ok((key::notification_revision(&row_key)?, value.is_empty()))
    });
    let kept = kept.collect::<Result<Vec<(Revision, bool)>, Stop>>()?;
    // Removing one is always possible, so that a bucket can be removed.
    if kept.len() >= NOTIFICATIONS_MAX && !document.is_empty() {
        let what = "the configuration was changed 1,000 times within the time that events are kept";
        return Err(Error::invalid(what).into());
    }
    let newest = kept.first().map(|(revision, _)| *revision);
    if document.is_empty() && kept.first().is_none_or(|(_, empty)| *empty) {
        return Ok(());
    }
    txn.put_bytes(Keyspace::Targets, key::notification(bucket, revision), document.to_vec());
    // An empty one says no more than none at all, once nothing is left that it ends.
    let ended = newest.into_iter().chain(document.is_empty().then_some(revision));
    for old in ended {
        txn.put_bytes(Keyspace::Targets, key::ended_notification(revision, old, bucket), Vec::new());
    }
    Ok(())
}

/// Removes documents that no event up to the `floor` of the feed needs any more.
pub(crate) fn trim_notifications(txn: &mut Txn<'_>, floor: Revision) -> Result<(), Stop> {
    let mut due = Vec::new();
    for row in txn.reader().rows(Keyspace::Targets, KeyRange::prefix(&key::ended_notifications())) {
        let (row_key, _) = row?;
        let (ended, old, bucket) = key::ended_notification_parts(&row_key)?;
        if ended > floor || due.len() >= DOCUMENTS_TRIMMED {
            break;
        }
        due.push((row_key.to_vec(), key::notification(&bucket, old)));
    }
    for (queued, document) in due {
        txn.delete(Keyspace::Targets, queued);
        txn.delete(Keyspace::Targets, document);
    }
    Ok(())
}
