//! Sessions: who mounts, by which lease, and what is kept for it.
//!
//! A session is its client's: opening it again ends the older lease, as a release does, and keeps what the session holds. A
//! session that ends lets go of all: files without a name, the upload whose parts it used, and versions that it left open,
//! which are sealed. So much at once as is little work, the rest by [`trim`]. Opening it again lets go of all but the first.
//!
//! When the lease ends by itself, the row stays for [`MOUNT_IDLE_MS_MAX`], so that a commit that comes again much later finds
//! its answer, unless the table is full. When it is released, nothing will come: a client does that when all is answered.

use crate::apply::Txn;
use crate::command::{BucketRef, MountCommit, MountOpened, OpenMount, Reply, UploadRef};
use crate::error::Error;
use crate::event::EventKind;
use crate::id::{BucketId, Millis, ObjectId, Revision};
use crate::keyspace::{Keyspace, key, key::Queue};
use crate::kv::KeyRange;
use crate::lock::LeaseRow;
use crate::mount::{MOUNT_IDLE_MS_MAX, MountId, MountRow, Orphan};
use crate::record::ObjectRow;
use crate::rules::mount::open_files;
use crate::rules::{JOB_WRITES_MAX, bucket, content, links, lock, multipart};
use crate::state::{Reader, Stop};

/// Sessions that are remembered.
pub(crate) const MOUNTS_MAX: u64 = 10_000;

impl Reader<'_> {
    pub(crate) fn mount(self, client: MountId) -> Result<Option<MountRow>, Stop> {
        self.row(Keyspace::Locks, &key::mount(client))
    }

    /// A file without a name.
    pub(crate) fn orphan(self, object: ObjectId) -> Result<Option<Orphan>, Stop> {
        Ok(links::object_row(self, object)?.and_then(|row| row.orphan))
    }

    /// Sessions that are remembered.
    fn mounts(self) -> Result<u64, Stop> {
        let count = self.0.get(Keyspace::Locks, &key::mount_count())?;
        Ok(count.and_then(|count| count.as_ref().try_into().ok()).map_or(0, u64::from_be_bytes))
    }
}

fn save(txn: &mut Txn<'_>, client: MountId, row: &MountRow) {
    txn.put(Keyspace::Locks, key::mount(client), row);
}

fn count(txn: &mut Txn<'_>, sessions: u64) {
    match sessions {
        0 => txn.delete(Keyspace::Locks, key::mount_count()),
        _ => txn.put_bytes(Keyspace::Locks, key::mount_count(), sessions.to_be_bytes().to_vec()),
    }
}

pub(crate) fn open(txn: &mut Txn<'_>, op: &OpenMount) -> Result<Reply, Stop> {
    bucket::load(txn, &op.bucket)?;
    lock::check_lease(&op.owner, op.ttl_ms)?;
    let lease = txn.revision();
    let fresh = MountRow {
        bucket: op.bucket.clone(),
        owner: op.owner.clone(),
        lease,
        applied: 0,
        id: 0,
        seen_ms: txn.now_ms(),
        orphans: 0,
        due_ms: None,
        applied_at: None,
        upload: None,
        released: None,
    };
    let row = match txn.reader().mount(op.client)? {
        None => {
            let others = make_room(txn)?;
            count(txn, others + 1);
            fresh
        }
        Some(old) if old.bucket == op.bucket => {
            let MountRow { applied, id, orphans, applied_at, upload, .. } = take_over(txn, op.client, old)?;
            MountRow { applied, id, orphans, applied_at, upload, ..fresh }
        }
        Some(old) if is_there(txn.reader(), &old.bucket)? => {
            return Err(Error::invalid("the client has a session of another bucket").into());
        }
        Some(old) => {
            let mut old = take_over(txn, op.client, old)?;
            // What is too much for now stays the session's, until it ends or is opened again.
            release_all(txn, op.client, &mut old)?;
            txn.delete(Keyspace::Locks, key::mount_reply(op.client));
            MountRow { orphans: old.orphans, ..fresh }
        }
    };
    save(txn, op.client, &row);
    txn.put_bytes(Keyspace::Locks, key::mount_of_lease(lease), op.client.0.to_vec());
    let granted = LeaseRow { owner: op.owner.clone(), ttl_ms: op.ttl_ms, renewals: 0, lock: None, keys: 0 };
    lock::save_lease(txn, lease, &granted);
    Ok(Reply::MountOpened(MountOpened { lease, applied: row.applied, revision: row.applied_at }))
}

fn is_there(reader: Reader<'_>, bucket: &BucketRef) -> Result<bool, Stop> {
    Ok(reader.bucket(&bucket.name)?.is_some_and(|row| row.id == bucket.id))
}

/// Makes room for one more session: of those that have no lease the oldest is forgotten. Gives how many others there are.
fn make_room(txn: &mut Txn<'_>) -> Result<u64, Stop> {
    let known = txn.reader().mounts()?;
    if known < MOUNTS_MAX {
        return Ok(known);
    }
    let oldest = txn.reader().rows(Keyspace::Queues, KeyRange::prefix(&key::queue(Queue::Session))).next();
    let (row_key, _) = oldest.transpose()?.ok_or(Error::QueueFull)?;
    let (due_ms, client) = key::queued_session_parts(&row_key).ok_or(Error::QueueFull)?;
    let row = txn.reader().mount(client)?.filter(|row| row.due_ms == Some(due_ms));
    let mut row = row.ok_or(Error::QueueFull)?;
    if !let_go(txn, client, &mut row)? {
        return Err(Error::QueueFull.into());
    }
    txn.delete(Keyspace::Queues, row_key.to_vec());
    forget(txn, client)?;
    Ok(known - 1)
}

fn forget(txn: &mut Txn<'_>, client: MountId) -> Result<(), Stop> {
    txn.delete(Keyspace::Locks, key::mount(client));
    txn.delete(Keyspace::Locks, key::mount_reply(client));
    let others = txn.reader().mounts()?.saturating_sub(1);
    count(txn, others);
    Ok(())
}

/// Ends the lease of a session, if it lives; files without a name stay.
fn take_over(txn: &mut Txn<'_>, client: MountId, mut row: MountRow) -> Result<MountRow, Stop> {
    if let Some(due_ms) = row.due_ms {
        txn.delete(Keyspace::Queues, key::queued_session(due_ms, client));
    }
    txn.delete(Keyspace::Locks, key::mount_of_lease(row.lease));
    if let Some(lease) = txn.reader().lease(row.lease)? {
        lock::end(txn, row.lease, lease, EventKind::LockReleased)?;
    }
    open_files::seal_all(txn, client, &row.bucket)?;
    drop_upload(txn, &mut row)?;
    Ok(row)
}

/// The session of a commit, if it lives by the commit's lease.
pub(super) fn load(txn: &Txn<'_>, op: &MountCommit, bucket: BucketId) -> Result<MountRow, Stop> {
    let row = txn.reader().mount(op.client)?.filter(|row| row.bucket.id == bucket).ok_or(Error::NoSuchMount)?;
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
        row.bucket == op.bucket && row.applied_at.is_some() && (row.applied, row.id) == (op.number, op.id)
    };
    match reader.mount(op.client)?.filter(is_last) {
        Some(_) => reader.row(Keyspace::Locks, &key::mount_reply(op.client)),
        None => Ok(None),
    }
}

/// Remembers the upload that a commit names, if it is there; one that another commit named before is aborted.
pub(super) fn use_upload(txn: &mut Txn<'_>, op: &MountCommit, row: &mut MountRow) -> Result<(), Stop> {
    if op.upload.is_none() || op.upload == row.upload {
        return Ok(());
    }
    drop_upload(txn, row)?;
    row.upload = op.upload.clone();
    let Some(upload) = upload_of(row) else { return Ok(()) };
    match multipart::load(txn, &upload) {
        Ok(_) => Ok(()),
        Err(Stop::Refused(_)) => {
            row.upload = None;
            Ok(())
        }
        Err(fatal) => Err(fatal),
    }
}

fn upload_of(row: &MountRow) -> Option<UploadRef> {
    let upload = row.upload.as_ref()?;
    Some(UploadRef { bucket: row.bucket.clone(), key: upload.key.clone(), upload: upload.upload })
}

/// Aborts the upload of a session, if it is still there, unless the command has written much already.
fn drop_upload(txn: &mut Txn<'_>, row: &mut MountRow) -> Result<(), Stop> {
    let Some(upload) = upload_of(row) else { return Ok(()) };
    if txn.writes() > JOB_WRITES_MAX {
        return Ok(());
    }
    row.upload = None;
    match multipart::abort(txn, &upload) {
        // It was completed or aborted, or its bucket is gone.
        Ok(_) | Err(Stop::Refused(_)) => Ok(()),
        Err(fatal) => Err(fatal),
    }
}

/// A lease has ended: if a session lived by it, so has that. One that was released is forgotten.
pub(crate) fn end_of_lease(txn: &mut Txn<'_>, lease: Revision, released: bool) -> Result<(), Stop> {
    let row_key = key::mount_of_lease(lease);
    let Some(client) = txn.reader().0.get(Keyspace::Locks, &row_key)? else { return Ok(()) };
    txn.delete(Keyspace::Locks, row_key);
    let Ok(client) = client.as_ref().try_into().map(MountId) else { return Ok(()) };
    let Some(mut row) = txn.reader().mount(client)?.filter(|row| row.lease == lease) else { return Ok(()) };
    let done = let_go(txn, client, &mut row)?;
    if done && released {
        return forget(txn, client);
    }
    row.seen_ms = txn.now_ms();
    row.released = released.then_some(true);
    let due_ms = if done { row.seen_ms + MOUNT_IDLE_MS_MAX } else { row.seen_ms };
    queue(txn, client, row, due_ms);
    Ok(())
}

fn queue(txn: &mut Txn<'_>, client: MountId, row: MountRow, due_ms: Millis) {
    txn.put_bytes(Keyspace::Queues, key::queued_session(due_ms, client), Vec::new());
    save(txn, client, &MountRow { due_ms: Some(due_ms), ..row });
}

/// A session without a lease is due: it lets go of what it holds, then it is forgotten. The caller removes the row of the
/// queue.
pub(crate) fn trim(txn: &mut Txn<'_>, client: MountId, due_ms: Millis) -> Result<(), Stop> {
    let Some(mut row) = txn.reader().mount(client)?.filter(|row| row.due_ms == Some(due_ms)) else { return Ok(()) };
    let forgotten_ms = row.seen_ms + MOUNT_IDLE_MS_MAX;
    if !let_go(txn, client, &mut row)? {
        let soon_ms = txn.now_ms() + 1;
        queue(txn, client, row, soon_ms);
    } else if row.released != Some(true) && forgotten_ms > txn.now_ms() {
        queue(txn, client, row, forgotten_ms);
    } else {
        forget(txn, client)?;
    }
    Ok(())
}

/// Lets go of what a session holds, until the command has written more than [`JOB_WRITES_MAX`] rows; whether that was all.
fn let_go(txn: &mut Txn<'_>, client: MountId, row: &mut MountRow) -> Result<bool, Stop> {
    release_all(txn, client, row)?;
    let sealed = open_files::seal_all(txn, client, &row.bucket)?;
    drop_upload(txn, row)?;
    Ok(row.orphans == 0 && sealed && row.upload.is_none())
}

/// Gives up the files without a name of a session, until the command has written more than [`JOB_WRITES_MAX`] rows.
fn release_all(txn: &mut Txn<'_>, client: MountId, row: &mut MountRow) -> Result<(), Stop> {
    let mut objects = Vec::new();
    for held in txn.reader().rows(Keyspace::Locks, KeyRange::prefix(&key::mount_orphans(client))) {
        objects.push(key::mount_orphan_object(&held?.0)?);
    }
    for object in objects {
        if txn.writes() > JOB_WRITES_MAX {
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
