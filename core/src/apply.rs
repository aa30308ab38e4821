//! The state machine: one command on one view gives a reply and a batch of writes.
//!
//! `apply` is a pure function. The same command at the same revision over the same rows gives the same bytes on every
//! node, forever; what it may do is bound by the feature level in the state. The caller commits the batch together with
//! the applied index, and chains the commands of one log batch through an [`crate::kv::Overlay`].
//!
//! - A command that was applied before changes nothing and gives its first reply, refusals too.
//! - A refusal writes nothing but its reply; that of an expired or impossible stamp not even that.
//! - State time is the largest stamp of any command; no clock is read.

use std::collections::{BTreeMap, BTreeSet};

use crate::command::{Command, Extracted, Op, Reply};
use crate::effect::Effect;
use crate::error::Error;
use crate::event::EventRow;
use crate::id::{MILLIS_MAX, Millis, Place, RequestId, Revision};
use crate::index::ENTRIES_MAX;
use crate::keyspace::{Keyspace, key};
use crate::kv::{Batch, KeyRange, KvRead, Overlay};
use crate::record::{ContentId, Record, ReplyRow, StateRow};
use crate::rules::{
    REPLIES_MAX, REPLIES_MS, bucket, index, lock, maintain, mount, multipart, notify, object, range, rename, topic,
};
use crate::state::{FEATURE_LEVEL, Reader, Stop};

/// What a command came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The revision at which it took effect: an earlier one when it was applied before.
    pub revision: Revision,
    /// The answer, for whoever proposed it.
    pub reply: Reply,
    /// Hints for jobs.
    pub effects: Vec<Effect>,
    /// The writes, to be committed with the applied index.
    pub batch: Batch,
}

/// Applies `command` at `revision` over `view`.
///
/// # Errors
/// [`Stop::Engine`] and [`Stop::Corrupt`], after which the node must stop; never [`Stop::Refused`].
pub fn apply<'a>(view: &'a dyn KvRead, revision: Revision, command: &'a Command) -> Result<Applied, Stop> {
    let reader = Reader(view);
    let reply_key = key::reply(command.stamp_ms, command.request);
    if let Some(row) = reader.row::<ReplyRow>(Keyspace::Dedupe, &reply_key)? {
        return Ok(unchanged(row.revision, Reply::decode(&row.reply)?));
    }
    if command.stamp_ms > MILLIS_MAX {
        return Ok(unchanged(revision, Reply::Refused(Error::invalid("the command's stamp is not a time"))));
    }
    let mut state = reader.state()?;
    if command.stamp_ms <= state.replies_floor_ms {
        return Ok(unchanged(revision, Reply::Refused(Error::Expired)));
    }
    state.now_ms = state.now_ms.max(command.stamp_ms);
    let extracted = command.extracted.as_deref().unwrap_or_default();
    let mut txn = Txn::new(view, revision, state, extracted);
    let reply = match decide(&mut txn, command) {
        Ok(reply) => reply,
        Err(Stop::Refused(refusal)) => {
            txn = Txn::new(view, revision, state, &[]);
            Reply::Refused(refusal)
        }
        Err(fatal) => return Err(fatal),
    };
    index::flush(&mut txn);
    txn.write_events(command.request)?;
    txn.remember(reply_key, &reply)?;
    Ok(txn.finish(reply))
}

fn unchanged(revision: Revision, reply: Reply) -> Applied {
    Applied { revision, reply, effects: Vec::new(), batch: Batch::default() }
}

fn decide(txn: &mut Txn<'_>, command: &Command) -> Result<Reply, Stop> {
    if txn.state.feature_level > FEATURE_LEVEL {
        return Err(Error::NotBuilt.into());
    }
    // What was done is told, whatever has become of the fences and the lease since.
    if let Op::MountCommit(op) = &command.op
        && let Some(reply) = mount::answered(txn.reader(), op)?
    {
        return Ok(reply);
    }
    lock::check_fences(txn, command.fences.as_deref().unwrap_or_default())?;
    run(txn, &command.op)
}

fn run(txn: &mut Txn<'_>, op: &Op) -> Result<Reply, Stop> {
    match op {
        Op::CreateBucket(op) => bucket::create(txn, op),
        Op::DeleteBucket(op) => bucket::delete(txn, op),
        Op::SetVersioning(op) => bucket::set_versioning(txn, op),
        Op::SetDocument(op) => bucket::set_document(txn, op),
        Op::SetSettings(op) => bucket::set_settings(txn, op),
        Op::PutObject(op) => object::put(txn, op),
        Op::DeleteObjects(op) => object::delete(txn, op),
        Op::CopyObject(op) => object::copy(txn, op),
        Op::RenameObject(op) => rename::rename(txn, op),
        Op::AppendObject(op) => object::append(txn, op),
        Op::SetTags(op) => object::set_tags(txn, op),
        Op::CreateUpload(op) => multipart::create(txn, op),
        Op::PutPart(op) => multipart::put_part(txn, op),
        Op::CopyPart(op) => multipart::copy_part(txn, op),
        Op::CompleteUpload(op) => multipart::complete(txn, op),
        Op::AbortUpload(op) => multipart::abort(txn, op),
        Op::Condemn(op) => maintain::condemn(txn, op),
        Op::Forget(op) => maintain::forget(txn, op),
        Op::Trim(op) => maintain::trim(txn, op),
        Op::Join(op) => maintain::join(txn, op),
        Op::SetDigest(op) => maintain::set_digest(txn, op),
        Op::AcquireLock(op) => lock::acquire(txn, op),
        Op::RenewLease(op) => lock::renew(txn, op),
        Op::ReleaseLease(op) => lock::release(txn, op),
        Op::ExpireLease(op) => lock::expire(txn, op),
        Op::GrantLease(op) => lock::grant_lease(txn, op),
        Op::PutEphemeral(op) => lock::put_ephemeral(txn, op),
        Op::RemoveEphemeral(op) => lock::remove_ephemeral(txn, op),
        Op::TrimEvents(op) => maintain::trim_events(txn, op),
        Op::SetTarget(op) => notify::set_target(txn, op),
        Op::RemoveTarget(op) => notify::remove_target(txn, op),
        Op::AdvanceTarget(op) => notify::advance_target(txn, op),
        Op::SetRange(op) => range::set(txn, op),
        Op::CancelRange(op) => range::cancel(txn, op),
        Op::SetTopic(op) => topic::set(txn, op),
        Op::DeleteTopic(op) => topic::delete(txn, op),
        Op::Publish(op) => topic::publish(txn, op),
        Op::SetGroup(op) => topic::group::set(txn, op),
        Op::Claim(op) => topic::group::claim(txn, op),
        Op::Acknowledge(op) => topic::group::acknowledge(txn, op),
        Op::TrimTopic(op) => topic::trim(txn, op),
        Op::CreateIndex(op) => index::create(txn, op),
        Op::DropIndex(op) => index::drop(txn, op),
        Op::IndexObjects(op) => index::index_objects(txn, op),
        Op::TrimIndexes(op) => index::trim(txn, op),
        Op::BeginRun(op) => index::runs::begin(txn, op),
        Op::AddRun(op) => index::runs::add(txn, op),
        Op::DemoteEntries(op) => index::runs::demote(txn, op),
        Op::LoseRun(op) => index::runs::lose(txn, op),
        Op::ForgetRuns(op) => index::runs::forget(txn, op),
        Op::OpenMount(op) => mount::open(txn, op),
        Op::MountCommit(op) => mount::commit(txn, op),
        Op::CompactPage(op) => mount::compact(txn, op),
    }
}

/// One command's transaction: reads see its own writes.
pub(crate) struct Txn<'a> {
    rows: Overlay<&'a dyn KvRead>,
    revision: Revision,
    next_ordinal: u16,
    state: StateRow,
    effects: BTreeSet<Effect>,
    events: Vec<EventRow>,
    writes: u64,
    /// What the command brings for indexes on content.
    pub(crate) extracted: &'a [Extracted],
    /// The name that the next one is a copy of.
    pub(crate) carried: Option<index::Carried>,
    /// Indexes of the buckets that were touched.
    pub(crate) indexes: index::Indexes,
    /// Entries that the command may still bring in.
    pub(crate) entries_left: usize,
    /// Postings of indexes so far.
    pub(crate) next_posting: u32,
    /// Nobody reads the bytes of what is written here before the commit: for indexes on content it is pending.
    pub(crate) unread: bool,
    /// Pages that were too full for a step that was refused: they are queued for compaction all the same, each with what
    /// its row in the queue says.
    pub(crate) crowded: BTreeMap<(ContentId, u32), Vec<u8>>,
}

/// Where a transaction was, so that a step of it can be taken back.
pub(crate) struct Savepoint {
    next_ordinal: u16,
    state: StateRow,
    effects: BTreeSet<Effect>,
    events: usize,
    indexes: index::Indexes,
    entries_left: usize,
    next_posting: u32,
}

/// Every how many revisions old replies are looked for, and how many rows are removed then. The second is the larger,
/// so that removal keeps up.
const REPLIES_TRIM_EVERY: u64 = 32;
const REPLIES_TRIM_ROWS: usize = 128;

impl<'a> Txn<'a> {
    fn new(view: &'a dyn KvRead, revision: Revision, state: StateRow, extracted: &'a [Extracted]) -> Self {
        Self {
            rows: Overlay::new(view),
            revision,
            next_ordinal: 0,
            state,
            effects: BTreeSet::new(),
            events: Vec::new(),
            writes: 0,
            extracted,
            carried: None,
            indexes: index::Indexes::new(),
            entries_left: ENTRIES_MAX,
            next_posting: 0,
            unread: false,
            crowded: BTreeMap::new(),
        }
    }

    /// Begins a step: [`Txn::rollback`] takes it back, [`Txn::keep`] does not. Steps do not nest.
    pub(crate) fn savepoint(&mut self) -> Savepoint {
        self.rows.mark();
        Savepoint {
            next_ordinal: self.next_ordinal,
            state: self.state,
            effects: self.effects.clone(),
            events: self.events.len(),
            indexes: self.indexes.clone(),
            entries_left: self.entries_left,
            next_posting: self.next_posting,
        }
    }

    pub(crate) fn keep(&mut self) {
        self.rows.keep();
        self.carried = None;
    }

    /// Takes back everything since `to`. Writes stay counted: they were work.
    pub(crate) fn rollback(&mut self, to: Savepoint) {
        self.rows.rollback();
        self.next_ordinal = to.next_ordinal;
        self.state = to.state;
        self.effects = to.effects;
        self.events.truncate(to.events);
        self.carried = None;
        self.indexes = to.indexes;
        self.entries_left = to.entries_left;
        self.next_posting = to.next_posting;
    }

    pub(crate) fn reader(&self) -> Reader<'_> {
        Reader(&self.rows)
    }

    pub(crate) fn revision(&self) -> Revision {
        self.revision
    }

    pub(crate) fn now_ms(&self) -> Millis {
        self.state.now_ms
    }

    /// Writes so far, to one key again counted again, and rows that [`Txn::looked_at`] was told of: the measure of a job's
    /// work.
    pub(crate) fn writes(&self) -> u64 {
        self.writes
    }

    /// Rows were read to find those that are written.
    pub(crate) fn looked_at(&mut self, rows: u64) {
        self.writes += rows;
    }

    pub(crate) fn put<R: Record>(&mut self, keyspace: Keyspace, key: Vec<u8>, row: &R) {
        self.put_bytes(keyspace, key, row.encode());
    }

    pub(crate) fn put_bytes(&mut self, keyspace: Keyspace, key: Vec<u8>, value: impl Into<bytes::Bytes>) {
        self.writes += 1;
        self.rows.put(keyspace, key, value);
    }

    pub(crate) fn delete(&mut self, keyspace: Keyspace, key: Vec<u8>) {
        self.writes += 1;
        self.rows.delete(keyspace, key);
    }

    pub(crate) fn effect(&mut self, effect: Effect) {
        self.effects.insert(effect);
    }

    /// Something happened that others want to hear of.
    pub(crate) fn event(&mut self, event: EventRow) {
        self.events.push(event);
    }

    /// All events of a commit are rows of the same commit.
    fn write_events(&mut self, request: RequestId) -> Result<(), Stop> {
        let events = std::mem::take(&mut self.events);
        let count = events.len();
        if count == 0 {
            return Ok(());
        }
        let mut feed = self.reader().feed()?;
        for (number, event) in events.into_iter().enumerate() {
            let ordinal = u16::try_from(number).map_err(|_| Error::invalid("too many changes in one command"))?;
            let row = EventRow { at_ms: self.state.now_ms, request, last: number + 1 == count, ..event };
            let (row_key, value) = (key::event(Place { revision: self.revision, ordinal }), row.encode());
            feed.rows += 1;
            feed.bytes += (row_key.len() + value.len()) as u64;
            self.put_bytes(Keyspace::Events, row_key, value);
        }
        self.put(Keyspace::Sys, key::sys("feed"), &feed);
        Ok(())
    }

    /// The next place of this command.
    pub(crate) fn next_place(&mut self) -> Result<Place, Stop> {
        let ordinal = self.next_ordinal;
        self.next_ordinal = ordinal.checked_add(1).ok_or(Error::invalid("too many changes in one command"))?;
        Ok(Place { revision: self.revision, ordinal })
    }

    /// An object id that was never used.
    pub(crate) fn next_object(&mut self) -> crate::id::ObjectId {
        let id = crate::id::ObjectId(self.state.next_object);
        self.state.next_object += 1;
        id
    }

    /// Stores the reply, and now and then forgets replies that are too old or too many.
    fn remember(&mut self, reply_key: Vec<u8>, reply: &Reply) -> Result<(), Stop> {
        let row = ReplyRow { reply: reply.encode(), revision: self.revision };
        self.put(Keyspace::Dedupe, reply_key, &row);
        self.state.replies += 1;
        if self.revision.is_multiple_of(REPLIES_TRIM_EVERY) {
            self.forget_replies()?;
        }
        Ok(())
    }

    fn forget_replies(&mut self) -> Result<(), Stop> {
        let range = KeyRange { from: key::replies_from(self.state.replies_floor_ms), to: None };
        let mut old = Vec::new();
        for row in self.reader().rows(Keyspace::Dedupe, range).take(REPLIES_TRIM_ROWS) {
            let (row_key, _) = row?;
            let stamp = key::reply_stamp(&row_key).unwrap_or_default();
            let many = self.state.replies - old.len() as u64 > REPLIES_MAX;
            if stamp + REPLIES_MS >= self.state.now_ms && !many {
                break;
            }
            old.push((row_key.to_vec(), stamp));
        }
        self.state.replies -= old.len() as u64;
        for (row_key, stamp) in old {
            self.state.replies_floor_ms = self.state.replies_floor_ms.max(stamp);
            self.delete(Keyspace::Dedupe, row_key);
        }
        Ok(())
    }

    fn finish(mut self, reply: Reply) -> Applied {
        let state = self.state;
        self.put(Keyspace::Sys, key::sys("state"), &state);
        Applied {
            revision: self.revision,
            reply,
            effects: self.effects.into_iter().collect(),
            batch: self.rows.into_batch(),
        }
    }
}
