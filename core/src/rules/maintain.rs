//! What jobs change: condemned blobs, rows whose time is over, joined contents, pending digests.

use crate::apply::Txn;
use crate::command::{Blobs, Join, Reply, SetDigest, Trim, TrimEvents};
use crate::error::Error;
use crate::event::EventRow;
use crate::id::{BlobId, BucketId, ObjectKey, Place};
use crate::keyspace::{Keyspace, key, key::Queue};
use crate::kv::KeyRange;
use crate::record::{BlobRow, Envelope, Extent, HistoryRow, NameRow, Record as _};
use crate::rules::{JOB_ROWS_MAX, JOB_WRITES_MAX, content, links, mount, notify};
use crate::state::Stop;

fn check_bound(rows: usize) -> Result<(), Error> {
    if rows > JOB_ROWS_MAX { Err(Error::invalid("too many rows for one command")) } else { Ok(()) }
}

/// Writes a tombstone for each blob that no row knows, so that a stalled writer's command is refused from now on, until
/// the blob is too old to be named. The reply names those whose bytes may be deleted: these, and any that were condemned
/// before.
pub(crate) fn condemn(txn: &mut Txn<'_>, op: &Blobs) -> Result<Reply, Stop> {
    check_bound(op.blobs.len())?;
    let mut condemned = Vec::new();
    for blob in &op.blobs {
        match txn.reader().blob(*blob)? {
            Some(row) if row.condemned.is_none() => continue,
            Some(_) => {}
            None => {
                let row = BlobRow {
                    length: 0,
                    refs: 0,
                    locations: Vec::new(),
                    envelope: Envelope::None,
                    crcs: Vec::new(),
                    condemned: Some(txn.revision()),
                };
                txn.put(Keyspace::Blobs, key::blob(*blob), &row);
                queue_tombstone(txn, *blob);
            }
        }
        condemned.push(*blob);
    }
    Ok(Reply::Condemned(condemned))
}

fn queue_tombstone(txn: &mut Txn<'_>, blob: BlobId) {
    let due_ms = content::tombstone_due_ms(txn.now_ms(), blob);
    txn.put_bytes(Keyspace::Queues, key::queued_blob(Queue::Forgotten, due_ms, blob), Vec::new());
}

/// The bytes of condemned blobs are gone: their tombstones stay until no command may name them any more.
pub(crate) fn forget(txn: &mut Txn<'_>, op: &Blobs) -> Result<Reply, Stop> {
    check_bound(op.blobs.len())?;
    for blob in &op.blobs {
        let Some(row) = txn.reader().blob(*blob)? else { continue };
        // A row without locations is a tombstone already, and queued as one.
        let Some(condemned) = row.condemned.filter(|_| !row.locations.is_empty()) else { continue };
        txn.delete(Keyspace::Queues, key::queued_blob(Queue::Condemned, condemned, *blob));
        content::delete_checksum_pages(txn, *blob, row.length);
        let tombstone = BlobRow { length: 0, locations: Vec::new(), crcs: Vec::new(), ..row };
        txn.put(Keyspace::Blobs, key::blob(*blob), &tombstone);
        queue_tombstone(txn, *blob);
    }
    Ok(Reply::Done)
}

/// Removes rows that are due: ended history, finished uploads, tombstones, sessions of mounts.
pub(crate) fn trim(txn: &mut Txn<'_>, op: &Trim) -> Result<Reply, Stop> {
    check_bound(op.rows as usize)?;
    let mut removed = 0;
    for queue in [Queue::Ended, Queue::Finished, Queue::Forgotten, Queue::Session] {
        let (rows, more) = due(txn, queue, (op.rows - removed) as usize)?;
        for row_key in rows {
            if txn.writes() > JOB_WRITES_MAX {
                return Ok(Reply::Trimmed { rows: removed, more: true });
            }
            remove_due(txn, queue, &row_key)?;
            txn.delete(Keyspace::Queues, row_key);
            removed += 1;
        }
        if more {
            return Ok(Reply::Trimmed { rows: removed, more });
        }
    }
    Ok(Reply::Trimmed { rows: removed, more: false })
}

/// The queue's rows that are due, at most `most`, and whether there are more.
fn due(txn: &Txn<'_>, queue: Queue, most: usize) -> Result<(Vec<Vec<u8>>, bool), Stop> {
    let mut rows = Vec::new();
    for row in txn.reader().rows(Keyspace::Queues, KeyRange::prefix(&key::queue(queue))) {
        let (row_key, _) = row?;
        // The due time is the first component of these queues' keys.
        if key::due_ms(&row_key).is_none_or(|due_ms| due_ms > txn.now_ms()) {
            break;
        }
        if rows.len() == most {
            return Ok((rows, true));
        }
        rows.push(row_key.to_vec());
    }
    Ok((rows, false))
}

fn remove_due(txn: &mut Txn<'_>, queue: Queue, row_key: &[u8]) -> Result<(), Stop> {
    match queue {
        Queue::Ended => match key::ended_parts(row_key) {
            Some((_, bucket, object, place)) => remove_ended(txn, bucket, &object, place),
            None => Ok(()),
        },
        Queue::Finished => {
            if let Some((_, upload)) = key::queued_upload_parts(row_key) {
                txn.delete(Keyspace::Parts, key::finished(upload));
            }
            Ok(())
        }
        Queue::Session => match key::queued_session_parts(row_key) {
            Some((due_ms, client)) => mount::session::trim(txn, client, due_ms),
            None => Ok(()),
        },
        _ => {
            if let Some((_, blob)) = key::queued_blob_parts(row_key) {
                txn.delete(Keyspace::Blobs, key::blob(blob));
            }
            Ok(())
        }
    }
}

fn remove_ended(txn: &mut Txn<'_>, bucket: BucketId, object: &str, place: Place) -> Result<(), Stop> {
    let row_key = key::history(bucket, object, place);
    let Some(row) = txn.reader().row::<HistoryRow>(Keyspace::History, &row_key)? else { return Ok(()) };
    let Some(ended) = row.ended else { return Ok(()) };
    if let Some(version) = &row.version {
        content::release_version(txn, version)?;
    }
    txn.delete(Keyspace::History, row_key);
    txn.delete(Keyspace::Queues, key::queued_digest(bucket, object, place));
    raise_floor(txn, bucket, ended)
}

/// Reads of the bucket at a revision below `ended` are not exact any more. A bucket that is gone has no such row.
fn raise_floor(txn: &mut Txn<'_>, bucket: BucketId, ended: u64) -> Result<(), Stop> {
    if txn.reader().history_floor(bucket)?.is_some_and(|floor| floor < ended) {
        txn.put_bytes(Keyspace::Settings, key::history_floor(bucket), ended.to_be_bytes().to_vec());
    }
    Ok(())
}

/// Puts one blob in place of a content's many. Refused as changed when the content is not what the job read, or shares
/// pages: the job finds it again later.
pub(crate) fn join(txn: &mut Txn<'_>, op: &Join) -> Result<Reply, Stop> {
    let row = txn.reader().content(op.content)?.ok_or(Error::Changed)?;
    let (below, above) = content::neighbours(txn, op.content)?;
    if row.size != op.size || row.extents as usize != op.joined.len() {
        return Err(Error::Changed.into());
    }
    if row.refs != 1 || row.extents == 0 || row.hole_bytes.is_some() || below.is_some() || above.is_some() {
        return Err(Error::Changed.into());
    }
    let extents = crate::view::content_extents(txn.reader(), op.content, 0..row.size)?;
    // A mount may have changed which part of a blob is where, and nothing else.
    if extents != op.joined {
        return Err(Error::Changed.into());
    }
    content::bring_in_blob(txn, &op.blob, row.size)?;
    let extent = Extent { offset: 0, length: row.size, blob: op.blob.id, blob_offset: 0 };
    content::replace_pages(txn, op.content, extent)?;
    Ok(Reply::Done)
}

/// Fills in digests, of a version that is still what was read. One that a mount has changed meanwhile stays as it is, and
/// stays queued if it is: whoever reads it again finds it.
pub(crate) fn set_digest(txn: &mut Txn<'_>, op: &SetDigest) -> Result<Reply, Stop> {
    let row = txn.reader().history(op.bucket, &op.key, op.place)?;
    let version = row.as_ref().and_then(|row| row.version.as_ref());
    if version.is_some_and(|version| !version.is_as_read(op.generation)) {
        return Ok(Reply::Done);
    }
    txn.delete(Keyspace::Queues, key::queued_digest(op.bucket, op.key.as_str(), op.place));
    let (Some(version), Some(sha256)) = (version.cloned(), op.sha256) else { return Ok(Reply::Done) };
    fill_in(txn, op, &op.key, op.place, sha256)?;
    // The names of a file that has several: their versions are the same, also when it was an older row that was read.
    for other in links::names(txn.reader(), version.object, &op.key)? {
        let name = txn.reader().name(op.bucket, &other)?;
        let same = |name: &NameRow| name.object == version.object && name.etag == version.etag;
        if let Some(name) = name.filter(|name| same(name) && (&other, name.place) != (&op.key, op.place)) {
            fill_in(txn, op, &other, name.place, sha256)?;
            txn.delete(Keyspace::Queues, key::queued_digest(op.bucket, other.as_str(), name.place));
        }
    }
    Ok(Reply::Done)
}

fn fill_in(txn: &mut Txn<'_>, op: &SetDigest, object: &ObjectKey, place: Place, sha256: [u8; 32]) -> Result<(), Stop> {
    let Some(mut row) = txn.reader().history(op.bucket, object, place)? else { return Ok(()) };
    let Some(version) = row.version.as_mut() else { return Ok(()) };
    let crc = op.crc64nvme.filter(|_| version.crc_pending == Some(true));
    if version.sha256.is_some() && crc.is_none() {
        return Ok(());
    }
    version.sha256 = version.sha256.or(Some(sha256));
    if let Some(crc64nvme) = crc {
        (version.crc64nvme, version.crc_pending) = (crc64nvme, None);
    }
    txn.put(Keyspace::History, key::history(op.bucket, object.as_str(), place), &row);
    Ok(())
}

/// Removes events from the old end, commit by commit, and raises the floor of the feed.
pub(crate) fn trim_events(txn: &mut Txn<'_>, op: &TrimEvents) -> Result<Reply, Stop> {
    check_bound(op.rows as usize)?;
    let mut feed = txn.reader().feed()?;
    let (mut old, mut commit, mut more) = (Vec::new(), Vec::new(), false);
    for row in txn.reader().rows(Keyspace::Events, KeyRange::prefix(&key::events())) {
        let (row_key, value) = row?;
        let event = EventRow::decode(&value)?;
        if commit.is_empty() {
            if event.at_ms >= op.before_ms && feed.bytes <= op.keep_bytes {
                break;
            }
            if old.len() >= op.rows as usize {
                more = true;
                break;
            }
        }
        feed.rows -= 1;
        feed.bytes -= (row_key.len() + value.len()) as u64;
        commit.push(row_key.to_vec());
        if event.last {
            let place = key::event_place(&row_key)?;
            (feed.floor, feed.floor_ordinal) = (place.revision, place.ordinal);
            old.append(&mut commit);
        }
    }
    let rows = u32::try_from(old.len()).unwrap_or(u32::MAX);
    for row_key in old {
        txn.delete(Keyspace::Events, row_key);
    }
    if rows > 0 {
        txn.put(Keyspace::Sys, key::sys("feed"), &feed);
        notify::trim_notifications(txn, feed.floor)?;
    }
    Ok(Reply::Trimmed { rows, more })
}
