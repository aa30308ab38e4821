//! Sessions: who mounts, by which lease, and which files without a name are held.
//!
//! A session is its client's: opening it again ends the older lease, as a release does, and keeps what the session holds.
//! When the current lease ends by itself, files without a name are given up: at once while that is little work, the rest
//! by [`trim`]. The row stays for [`MOUNT_IDLE_MS_MAX`], so that a commit that comes again much later finds its answer.

use crate::apply::Txn;
use crate::command::{MountCommit, MountOpened, OpenMount, Reply};
use crate::error::Error;
use crate::event::EventKind;
use crate::id::{BucketId, Millis, ObjectId, Revision};
use crate::keyspace::{Keyspace, key};
use crate::kv::KeyRange;
use crate::lock::LeaseRow;
use crate::mount::{MOUNT_IDLE_MS_MAX, MountId, MountRow, Orphan};
use crate::record::{BucketRow, ObjectRow, Record as _};
use crate::rules::{JOB_WRITES_MAX, bucket, content, links, lock};
use crate::state::{Reader, Stop};

/// Sessions that are remembered.
pub(crate) const MOUNTS_MAX: usize = 10_000;

impl Reader<'_> {
    pub(crate) fn mount(self, client: MountId) -> Result<Option<MountRow>, Stop> {
        self.row(Keyspace::Locks, &key::mount(client))
    }

    /// A file without a name.
    pub(crate) fn orphan(self, object: ObjectId) -> Result<Option<Orphan>, Stop> {
        Ok(links::object_row(self, object)?.and_then(|row| row.orphan))
    }
}

fn save(txn: &mut Txn<'_>, client: MountId, row: &MountRow) {
    txn.put(Keyspace::Locks, key::mount(client), row);
}

pub(crate) fn open(txn: &mut Txn<'_>, op: &OpenMount) -> Result<Reply, Stop> {
    let bucket = bucket::load(txn, &op.bucket)?;
    lock::check_lease(&op.owner, op.ttl_ms)?;
    let lease = txn.revision();
    let fresh = MountRow {
        bucket: bucket.id,
        owner: op.owner.clone(),
        lease,
        applied: 0,
        id: 0,
        seen_ms: txn.now_ms(),
        orphans: 0,
        due_ms: None,
        applied_at: None,
    };
    let row = match txn.reader().mount(op.client)? {
        None => {
            let known = txn.reader().rows(Keyspace::Locks, KeyRange::prefix(&key::mounts())).take(MOUNTS_MAX).count();
            if known >= MOUNTS_MAX {
                return Err(Error::QueueFull.into());
            }
            fresh
        }
        Some(old) if old.bucket == bucket.id => {
            take_over(txn, op.client, &old)?;
            let MountRow { applied, id, orphans, applied_at, .. } = old;
            MountRow { applied, id, orphans, applied_at, ..fresh }
        }
        Some(old) if is_there(txn.reader(), old.bucket)? => {
            return Err(Error::invalid("the client has a session of another bucket").into());
        }
        Some(mut old) => {
            take_over(txn, op.client, &old)?;
            release_all(txn, op.client, &mut old, u64::MAX)?;
            txn.delete(Keyspace::Locks, key::mount_reply(op.client));
            fresh
        }
    };
    save(txn, op.client, &row);
    txn.put_bytes(Keyspace::Locks, key::mount_of_lease(lease), op.client.0.to_vec());
    let granted = LeaseRow { owner: op.owner.clone(), ttl_ms: op.ttl_ms, renewals: 0, lock: None, keys: 0 };
    lock::save_lease(txn, lease, &granted);
    Ok(Reply::MountOpened(MountOpened { lease, applied: row.applied, revision: row.applied_at }))
}

/// Whether a bucket of this id is there. Buckets are few and this is asked once in a client's life.
fn is_there(reader: Reader<'_>, id: BucketId) -> Result<bool, Stop> {
    for row in reader.rows(Keyspace::Buckets, KeyRange::prefix(&key::buckets())) {
        if BucketRow::decode(&row?.1)?.id == id {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Ends the lease of a session, if it lives; what the session holds stays.
fn take_over(txn: &mut Txn<'_>, client: MountId, row: &MountRow) -> Result<(), Stop> {
    if let Some(due_ms) = row.due_ms {
        txn.delete(Keyspace::Queues, key::queued_session(due_ms, client));
    }
    txn.delete(Keyspace::Locks, key::mount_of_lease(row.lease));
    match txn.reader().lease(row.lease)? {
        Some(lease) => lock::end(txn, row.lease, lease, EventKind::LockReleased),
        None => Ok(()),
    }
}

/// The session of a commit, if it lives by the commit's lease.
pub(super) fn load(txn: &Txn<'_>, op: &MountCommit, bucket: BucketId) -> Result<MountRow, Stop> {
    let row = txn.reader().mount(op.client)?.filter(|row| row.bucket == bucket).ok_or(Error::NoSuchMount)?;
    if row.lease != op.lease {
        return Err(Error::NoSuchLease.into());
    }
    lock::load(txn, op.lease)?;
    Ok(row)
}

/// Remembers what a commit came to.
pub(super) fn applied(txn: &mut Txn<'_>, op: &MountCommit, row: MountRow, orphans: u32, reply: &Reply) {
    let (seen_ms, applied_at) = (txn.now_ms(), Some(txn.revision()));
    txn.put(Keyspace::Locks, key::mount_reply(op.client), reply);
    save(txn, op.client, &MountRow { applied: op.number, id: op.id, applied_at, seen_ms, orphans, ..row });
}

/// The reply to a commit that is the last one of its session, come again: whatever has become of its lease.
pub(crate) fn answered(reader: Reader<'_>, op: &MountCommit) -> Result<Option<Reply>, Stop> {
    let is_last = |row: &MountRow| {
        row.bucket == op.bucket.id && row.applied_at.is_some() && (row.applied, row.id) == (op.number, op.id)
    };
    match reader.mount(op.client)?.filter(is_last) {
        Some(_) => reader.row(Keyspace::Locks, &key::mount_reply(op.client)),
        None => Ok(None),
    }
}

/// A lease has ended: if a session lived by it, so has that.
pub(crate) fn end_of_lease(txn: &mut Txn<'_>, lease: Revision) -> Result<(), Stop> {
    let row_key = key::mount_of_lease(lease);
    let Some(client) = txn.reader().0.get(Keyspace::Locks, &row_key)? else { return Ok(()) };
    txn.delete(Keyspace::Locks, row_key);
    let Ok(client) = client.as_ref().try_into().map(MountId) else { return Ok(()) };
    let Some(mut row) = txn.reader().mount(client)?.filter(|row| row.lease == lease) else { return Ok(()) };
    release_all(txn, client, &mut row, JOB_WRITES_MAX)?;
    row.seen_ms = txn.now_ms();
    let due_ms = if row.orphans > 0 { row.seen_ms } else { row.seen_ms + MOUNT_IDLE_MS_MAX };
    queue(txn, client, row, due_ms);
    Ok(())
}

fn queue(txn: &mut Txn<'_>, client: MountId, row: MountRow, due_ms: Millis) {
    txn.put_bytes(Keyspace::Queues, key::queued_session(due_ms, client), Vec::new());
    save(txn, client, &MountRow { due_ms: Some(due_ms), ..row });
}

/// A session without a lease is due: its files without a name are given up, then it is forgotten. The caller removes the
/// row of the queue.
pub(crate) fn trim(txn: &mut Txn<'_>, client: MountId, due_ms: Millis) -> Result<(), Stop> {
    let Some(mut row) = txn.reader().mount(client)?.filter(|row| row.due_ms == Some(due_ms)) else { return Ok(()) };
    release_all(txn, client, &mut row, JOB_WRITES_MAX)?;
    let forgotten_ms = row.seen_ms + MOUNT_IDLE_MS_MAX;
    if row.orphans > 0 {
        let soon_ms = txn.now_ms() + 1;
        queue(txn, client, row, soon_ms);
    } else if forgotten_ms > txn.now_ms() {
        queue(txn, client, row, forgotten_ms);
    } else {
        txn.delete(Keyspace::Locks, key::mount(client));
        txn.delete(Keyspace::Locks, key::mount_reply(client));
    }
    Ok(())
}

/// Gives up the files without a name of a session, until the command has written more than `most` rows.
fn release_all(txn: &mut Txn<'_>, client: MountId, row: &mut MountRow, most: u64) -> Result<(), Stop> {
    let mut objects = Vec::new();
    for held in txn.reader().rows(Keyspace::Locks, KeyRange::prefix(&key::mount_orphans(client))) {
        objects.push(key::mount_orphan_object(&held?.0)?);
    }
    for object in objects {
        if txn.writes() > most {
            break;
        }
        give_up(txn, client, object)?;
        row.orphans = row.orphans.saturating_sub(1);
    }
    Ok(())
}

/// Gives up one file without a name.
fn give_up(txn: &mut Txn<'_>, client: MountId, object: ObjectId) -> Result<(), Stop> {
    let orphan = txn.reader().orphan(object)?;
    txn.delete(Keyspace::Locks, key::mount_orphan(client, object));
    txn.delete(Keyspace::Objects, key::object(object));
    match orphan {
        Some(orphan) => content::release_version(txn, &orphan.version),
        None => Ok(()),
    }
}

/// A step gives up a file that its session holds.
pub(super) fn release(txn: &mut Txn<'_>, client: MountId, object: ObjectId) -> Result<(), Stop> {
    let orphan = txn.reader().orphan(object)?.filter(|orphan| orphan.client == client);
    orphan.ok_or(Error::NoSuchKey)?;
    give_up(txn, client, object)
}

/// The session holds a file that is about to lose its last name.
pub(super) fn hold(txn: &mut Txn<'_>, orphan: Orphan) -> Result<(), Stop> {
    content::retain_version(txn, &orphan.version)?;
    let object = orphan.version.object;
    txn.put_bytes(Keyspace::Locks, key::mount_orphan(orphan.client, object), Vec::new());
    txn.put(Keyspace::Objects, key::object(object), &ObjectRow { links: 0, orphan: Some(orphan) });
    Ok(())
}
