//! Versions that a mount has left open: which session writes which name.
//!
//! A version says who writes it. For each of its names the session has a row, put and removed wherever a version comes to
//! be, changes or goes, so that whatever ends the session finds what it left open and *seals* it, as a cut does: a version
//! that nobody cuts would never get its digest, and no watcher of S3 would hear of it.

use crate::apply::Txn;
use crate::command::BucketRef;
use crate::event::{EventKind, EventRow};
use crate::id::ObjectKey;
use crate::keyspace::{Keyspace, key};
use crate::kv::KeyRange;
use crate::mount::MountId;
use crate::record::{Body, BucketRow};
use crate::rules::mount::files::{self, Named};
use crate::rules::{JOB_WRITES_MAX, content, links, object};
use crate::state::Stop;
use crate::view::shown_version;

/// The version of a name is written by another session than before, or by none.
pub(crate) fn changed(txn: &mut Txn<'_>, object: &ObjectKey, was: Option<MountId>, is: Option<MountId>) {
    if was == is {
        return;
    }
    if let Some(client) = was {
        txn.delete(Keyspace::Locks, key::mount_open_file(client, object.as_str()));
    }
    if let Some(client) = is {
        txn.put_bytes(Keyspace::Locks, key::mount_open_file(client, object.as_str()), Vec::new());
    }
}

/// Seals what a session has left open, until the command has written more than [`JOB_WRITES_MAX`] rows; whether that was
/// all.
pub(super) fn seal_all(txn: &mut Txn<'_>, client: MountId, bucket: &BucketRef) -> Result<bool, Stop> {
    let prefix = key::mount_open_files(client);
    let mut left = Vec::new();
    for row in txn.reader().rows(Keyspace::Locks, KeyRange::prefix(&prefix)).take(JOB_WRITES_MAX as usize) {
        left.push(row?.0.to_vec());
    }
    for row_key in left {
        if txn.writes() > JOB_WRITES_MAX {
            return Ok(false);
        }
        let object = key::mount_open_file_key(&row_key)?.parse().ok();
        txn.delete(Keyspace::Locks, row_key);
        let row = txn.reader().bucket(&bucket.name)?.filter(|row| row.id == bucket.id);
        if let (Some(object), Some(row)) = (object, row) {
            seal(txn, client, bucket, &row, &object)?;
        }
    }
    Ok(!txn.reader().any(Keyspace::Locks, &prefix)?)
}

/// Seals one file, with all its names.
fn seal(
    txn: &mut Txn<'_>,
    client: MountId,
    of: &BucketRef,
    bucket: &BucketRow,
    object: &ObjectKey,
) -> Result<(), Stop> {
    let Some(Named { name, version, .. }) = files::named(txn.reader(), bucket.id, object)? else { return Ok(()) };
    if version.open != Some(client) {
        return Ok(());
    }
    for other in links::names(txn.reader(), version.object, object)? {
        let Some(name) = txn.reader().name(bucket.id, &other)? else { continue };
        let Some(mut row) = txn.reader().history(bucket.id, &other, name.place)? else { continue };
        if let Some(version) = row.version.as_mut() {
            changed(txn, &other, version.open.take(), None);
        }
        txn.put(Keyspace::History, key::history(bucket.id, other.as_str(), name.place), &row);
    }
    if version.sha256.is_none() {
        object::queue_digest(txn, bucket, object, name.place);
    }
    if let Body::Pages(id) = version.body {
        content::queue_written(txn, id, bucket.id, object)?;
    }
    let Some(row) = txn.reader().history(bucket.id, object, name.place)? else { return Ok(()) };
    let told = EventRow::of_object(EventKind::Put, &of.name, object.as_str());
    let (version, size, etag) = (shown_version(bucket, &row, name.place), Some(name.size), Some(name.etag));
    txn.event(EventRow { object: Some(name.object), version, size, etag, ..told });
    Ok(())
}
