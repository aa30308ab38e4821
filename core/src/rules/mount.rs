//! The mount: sessions, and commits of files and directories.
//!
//! A commit is one entry of an ordered stream: it names its session, the lease that the session lives by, its number and its
//! id. The last commit again, by number and id, gives the stored reply, before anything else is asked ([`answered`]); so a
//! commit is applied once, however often and late it is sent, and a refusal of a commit says that it never was. Its steps
//! are applied in order, each in a savepoint: a refused step writes nothing, and the others go on.
//!
//! ```text
//! session   who mounts: lease, number, files without a name       open_files  which session has which version open
//! names     create, link, unlink, rename                          files       what a step names, and what it is
//! patch     bytes and attributes of a file, cuts                  pages       extents that change where they are
//! compact   one blob in place of many extents
//! ```
//!
//! **Names.** A file is an object; its key has no slash at the end. A directory is an object whose key ends with one (its
//! marker), or only the start of other keys. Whatever is made must have a parent; a change of entries makes the parent's
//! marker real and sets its times.
//!
//! **Attributes** are user metadata, changed in place: no version is made, and all names of a file change together.
//!
//! **Bytes** are changed in place too: in a bucket that was never versioned, of the "null" version of a suspended one, and
//! of a version that the same mount has *open*. A version of an enabled bucket that is not, gives way to a new one, which is
//! open from then on, so that a session of writes is one version. A *cut* closes it, and so does the end of its session:
//! only then is its digest computed, may its pieces be joined, and is a watcher of S3 told of an object that was put. Until
//! then its ETag has a dash and is another with every patch, and it shows no checksum.
//!
//! **Files without a name** are what an open file becomes when its last name goes: kept by the session until it gives them
//! up or its lease ends.

mod compact;
pub(crate) mod files;
mod names;
pub(crate) mod open_files;
mod pages;
mod patch;
pub(crate) mod session;

use std::collections::BTreeSet;

use crate::apply::Txn;
use crate::command::mount::{MOUNT_STEPS_MAX, MOUNT_WRITES_MAX, Step, StepOutcome};
use crate::command::{MountCommit, Reply, UploadRef};
use crate::effect::Effect;
use crate::error::Error;
use crate::event::{EventKind, EventRow};
use crate::id::{ObjectId, ObjectKey};
use crate::keyspace::{Keyspace, key};
use crate::record::{BucketRow, Extent, PageRow};
use crate::rules::{bucket, content, multipart};
use crate::state::Stop;

pub(crate) use self::compact::compact;
pub(crate) use self::session::{answered, open};

/// Rows that a commit may have written before a further step is refused: names, extents and links multiply.
const COMMIT_WRITES_MAX: u64 = 200_000;
/// Bytes of metadata that a reply may tell of before a further step is refused: the reply is kept.
const REPLY_BYTES_MAX: usize = 8 << 20;
/// Extents that the writes of a commit may bring, clones of long files among them.
const COMMIT_EXTENTS_MAX: usize = 131_072;

/// Rows that a commit may have read, or as much other work, before a further step is refused. A step that is refused costs
/// what it costs, so that a commit of many of them is bounded, too.
const COMMIT_WORK_MAX: u64 = 400_000;
/// What a step costs beside what is counted of it.
const STEP_WORK: u64 = 8;
/// Extents of a page, and of a part, that are as much work as a row that is looked for.
const SHARE_OF_ROW: u64 = 32;

/// A commit while it is applied.
struct Commit<'c> {
    op: &'c MountCommit,
    /// The bytes that came with it. The commit holds one reference until it is done.
    sent: Option<Extent>,
    state: State,
    /// Rows read so far, by steps that were refused as well.
    work: u64,
}

/// What steps change besides rows.
#[derive(Clone)]
struct State {
    bucket: BucketRow,
    /// Files without a name that the session holds.
    orphans: u32,
    /// Parts of the upload that were used.
    used: BTreeSet<u16>,
    /// Extents that writes may still bring.
    extents_left: usize,
}

impl Commit<'_> {
    /// An event of a key of the commit's bucket.
    fn event(&self, kind: EventKind, key: &ObjectKey, object: ObjectId) -> EventRow {
        EventRow { object: Some(object), ..EventRow::of_object(kind, &self.op.bucket.name, key.as_str()) }
    }

    /// Counts work that was done.
    fn spend(&mut self, rows: u64) {
        self.work = self.work.saturating_add(rows);
    }

    /// Refuses to go on when so much more work is too much.
    fn check(&self, more: u64) -> Result<(), Error> {
        match self.work.saturating_add(more) > COMMIT_WORK_MAX {
            true => Err(Error::TooManyRows { most: COMMIT_WORK_MAX as u32 }),
            false => Ok(()),
        }
    }

    /// Counts work that was done, or is about to be; refuses to go on when it is too much.
    fn charge(&mut self, rows: u64) -> Result<(), Error> {
        self.spend(rows);
        self.check(0)
    }

    /// The upload whose parts are used.
    fn upload(&self) -> Option<UploadRef> {
        let upload = self.op.upload.as_ref()?;
        Some(UploadRef { bucket: self.op.bucket.clone(), key: upload.key.clone(), upload: upload.upload })
    }
}

pub(crate) fn commit(txn: &mut Txn<'_>, op: &MountCommit) -> Result<Reply, Stop> {
    let found = bucket::load(txn, &op.bucket)?;
    let mut session = session::load(txn, op, found.id)?;
    check_number(op.number, session.applied)?;
    check_bounds(op)?;
    session::use_upload(txn, op, &mut session)?;
    let bucket = bucket::load(txn, &op.bucket)?;
    txn.unread = true;
    let sent = match &op.sent {
        Some(sent) => content::bring_in(txn, sent)?,
        None => None,
    };
    let orphans = session.orphans;
    let state = State { bucket, orphans, used: BTreeSet::new(), extents_left: COMMIT_EXTENTS_MAX };
    let mut commit = Commit { op, sent, state, work: 0 };
    let mut outcomes = Vec::with_capacity(op.steps.len());
    let mut told_bytes = 0;
    for step in &op.steps {
        let outcome = match told_bytes > REPLY_BYTES_MAX {
            true => StepOutcome::Refused(Error::TooLarge),
            false => run(txn, &mut commit, step)?,
        };
        if let StepOutcome::Node(node) = &outcome {
            told_bytes += node.metadata.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        }
        outcomes.push(outcome);
    }
    if let Some(sent) = commit.sent {
        content::release_blob(txn, sent.blob)?;
    }
    if let Some(upload) = commit.upload().filter(|_| !commit.state.used.is_empty()) {
        multipart::drop_used(txn, &upload, &commit.state.used)?;
    }
    queue_crowded(txn)?;
    // A part that was used is gone from its upload, whose count of extents is its own; the bucket's row is the commit's.
    bucket::save(txn, &op.bucket, &commit.state.bucket);
    let reply = Reply::Mounted(outcomes);
    session::applied(txn, op, session, commit.state.orphans, &reply);
    Ok(reply)
}

/// Whether a commit of this number is the next one. That the last one came again was found out before.
fn check_number(number: u64, applied: u64) -> Result<(), Error> {
    if number == 0 || number > applied.saturating_add(1) {
        return Err(Error::invalid("the number of a commit is one more than that of the last"));
    }
    if number <= applied { Err(Error::Changed) } else { Ok(()) }
}

fn check_bounds(op: &MountCommit) -> Result<(), Error> {
    let writes = op.steps.iter().map(|step| match step {
        Step::Create(step) => step.bytes.len(),
        Step::Patch(step) => step.writes.len(),
        _ => 0,
    });
    if op.steps.len() > MOUNT_STEPS_MAX || writes.sum::<usize>() > MOUNT_WRITES_MAX {
        return Err(Error::invalid("a commit has at most 1,024 steps, with 4,096 writes"));
    }
    Ok(())
}

/// One step: whole, or refused and without a trace.
fn run(txn: &mut Txn<'_>, commit: &mut Commit<'_>, step: &Step) -> Result<StepOutcome, Stop> {
    if txn.writes() > COMMIT_WRITES_MAX {
        return Ok(StepOutcome::Refused(Error::TooManyRows { most: COMMIT_WRITES_MAX as u32 }));
    }
    if let Err(refusal) = commit.charge(STEP_WORK) {
        return Ok(StepOutcome::Refused(refusal));
    }
    let (savepoint, state) = (txn.savepoint(), commit.state.clone());
    let outcome = match step {
        Step::Create(step) => names::create(txn, commit, step),
        Step::Link(step) => names::link(txn, commit, step),
        Step::Unlink(step) => names::unlink(txn, commit, step),
        Step::RemoveDirectory(file) => names::remove_directory(txn, commit, file),
        Step::Rename(step) => names::rename(txn, commit, step),
        Step::SetAttributes(step) => patch::set_attributes(txn, commit, step),
        Step::Patch(step) => patch::patch(txn, commit, step),
        Step::Cut(file) => patch::cut(txn, commit, file),
        Step::Release(object) => release(txn, commit, *object),
        Step::Adopt(file) => names::adopt(txn, commit, file),
    };
    match outcome {
        Ok(outcome) => {
            txn.keep();
            Ok(outcome)
        }
        Err(Stop::Refused(refusal)) => {
            txn.rollback(savepoint);
            commit.state = state;
            Ok(StepOutcome::Refused(refusal))
        }
        Err(fatal) => Err(fatal),
    }
}

fn release(txn: &mut Txn<'_>, commit: &mut Commit<'_>, object: ObjectId) -> Result<StepOutcome, Stop> {
    session::release(txn, commit.op.client, object)?;
    commit.state.orphans = commit.state.orphans.saturating_sub(1);
    Ok(StepOutcome::Done)
}

/// Pages that were too full for a step wait for compaction, so that the step may succeed later.
fn queue_crowded(txn: &mut Txn<'_>) -> Result<(), Stop> {
    for ((id, number), name) in std::mem::take(&mut txn.crowded) {
        let page: Option<PageRow> = match txn.reader().content(id)? {
            Some(_) => txn.reader().page(id, number)?,
            None => None,
        };
        if page.is_some_and(|page| page.extents.len() > 1) {
            let row_key = key::queued_page(id, number);
            if txn.reader().0.get(Keyspace::Queues, &row_key)?.is_none() {
                txn.put_bytes(Keyspace::Queues, row_key, name);
                txn.effect(Effect::CompactQueued);
            }
        }
    }
    Ok(())
}
