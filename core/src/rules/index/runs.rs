//! Runs of indexes: files in the backend that hold entries which the state then needs no more.
//!
//! ```text
//! begin ─▶ the file's name: a job writes it ─▶ add: searches read it ─▶ demote, in pages: its entries leave the state
//!          └ gave up, or another began: condemned         └ merged, lost, dropped: condemned ─▶ file deleted ─▶ forget
//! ```
//! The name of a file comes from the revision that began it, so no two writers ever share one, and whoever comes too late
//! with a run that was condemned meanwhile is refused. Nothing here looks at a file.
//!
//! Invariant: of each live posting with entries, the entries are in the state or in a live run. A posting is live only from
//! the revision that is its number, so what a state of revision R showed of postings up to R holds for good.

use super::{Defined, Stop, Txn, defined, erase_entries};
use crate::command::{AddRun, BeginRun, BucketRef, DemoteEntries, ForgetRuns, LoseRun, Reply, WrittenRun};
use crate::effect::Effect;
use crate::error::Error;
use crate::id::Revision;
use crate::index::row::{CondemnedRunRow, ObjectIndexRow, Posting, PostingRow, RunRow, RunState};
use crate::index::run::{RunName, run_path};
use crate::index::{IndexState, RUNS_MAX};
use crate::keyspace::{Keyspace, key::index as rows};
use crate::kv::KeyRange;
use crate::record::Record as _;
use crate::rules::{JOB_ROWS_MAX, JOB_WRITES_MAX, bucket};

type Runs = Vec<(Revision, RunRow)>;

/// Does something with an index that must be the one that is meant.
fn on_index(
    txn: &mut Txn<'_>,
    bucket: &BucketRef,
    name: &str,
    id: Revision,
    work: impl FnOnce(&mut Txn<'_>, &mut Defined) -> Result<(), Stop>,
) -> Result<Reply, Stop> {
    let bucket = bucket::load(txn, bucket)?;
    let mut indexes = defined(txn, &bucket)?;
    let found = indexes.iter_mut().find(|index| index.name == name && index.row.id == id);
    work(txn, found.ok_or(Error::NoSuchIndex)?)?;
    txn.indexes.insert(bucket.id, indexes);
    Ok(Reply::Done)
}

/// The runs of an index by revision, those that are being written too: at most one more than [`RUNS_MAX`].
fn runs_of(txn: &Txn<'_>, index: Revision) -> Result<Runs, Stop> {
    let mut runs = Vec::new();
    for row in txn.reader().rows(Keyspace::Indexes, KeyRange::prefix(&rows::runs(index))) {
        let (row_key, value) = row?;
        runs.push((rows::run_revision(&row_key)?, RunRow::decode(&value)?));
    }
    Ok(runs)
}

pub(crate) fn begin(txn: &mut Txn<'_>, op: &BeginRun) -> Result<Reply, Stop> {
    on_index(txn, &op.bucket, &op.name, op.index, |txn, index| {
        if index.row.unique {
            return Err(Error::invalid("the entries of a unique index stay in the state").into());
        }
        if matches!(index.row.state, IndexState::Failed(_)) {
            return Err(Error::Changed.into());
        }
        for (revision, row) in runs_of(txn, index.row.id)? {
            if row.state == RunState::Writing {
                condemn(txn, index.row.id, revision, row);
            }
        }
        let path = run_path(&RunName {
            bucket: &op.bucket.name,
            prefix: &index.row.prefix,
            name: &op.name,
            index: index.row.id,
            revision: txn.revision(),
            kind: index.row.kind,
        });
        let row =
            RunRow { path, state: RunState::Writing, through: 0, bytes: 0, entries: 0, fences_at: 0, trimmed: false };
        txn.put(Keyspace::Indexes, rows::run(index.row.id, txn.revision()), &row);
        Ok(())
    })
}

pub(crate) fn add(txn: &mut Txn<'_>, op: &AddRun) -> Result<Reply, Stop> {
    on_index(txn, &op.bucket, &op.name, op.index, |txn, index| {
        if op.replaces.len() > RUNS_MAX || !op.replaces.is_sorted_by(|a, b| a < b) {
            return Err(Error::invalid("runs are replaced in the order of their revisions, each once").into());
        }
        let runs = runs_of(txn, index.row.id)?;
        let is_at = |revision, state| runs.iter().any(|(of, row)| *of == revision && row.state == state);
        if !is_at(op.run, RunState::Writing) || !op.replaces.iter().all(|run| is_at(*run, RunState::Live)) {
            return Err(Error::Changed.into());
        }
        let live = runs.iter().filter(|(_, row)| row.state == RunState::Live).count();
        let (replaced, others): (Runs, Runs) = runs.into_iter().partition(|(of, _)| op.replaces.contains(of));
        let begun = others.into_iter().find(|(of, _)| *of == op.run).ok_or(Error::Changed)?.1;
        match &op.written {
            Some(written) => {
                if live - replaced.len() >= RUNS_MAX {
                    return Err(Error::invalid("an index has at most 64 runs").into());
                }
                let row = named(txn, begun, written, &replaced)?;
                count(index, 1, i128::from(row.bytes));
                txn.put(Keyspace::Indexes, rows::run(index.row.id, op.run), &row);
            }
            None => condemn(txn, index.row.id, op.run, begun),
        }
        for (revision, row) in replaced {
            count(index, -1, -i128::from(row.bytes));
            condemn(txn, index.row.id, revision, row);
        }
        txn.effect(Effect::IndexQueued);
        Ok(())
    })
}

/// The row of a run that was written in place of `replaced`.
fn named(txn: &Txn<'_>, begun: RunRow, written: &WrittenRun, replaced: &Runs) -> Result<RunRow, Stop> {
    let WrittenRun { through, bytes, entries, fences_at } = *written;
    let oldest = replaced.iter().map(|(_, row)| row.through).max().unwrap_or_default();
    if through < oldest || through >= txn.revision() || entries == 0 || fences_at > bytes {
        return Err(Error::invalid("a run cannot be of this state, or of this form").into());
    }
    let trimmed = !replaced.is_empty() && through == oldest && replaced.iter().all(|(_, row)| row.trimmed);
    Ok(RunRow { state: RunState::Live, through, bytes, entries, fences_at, trimmed, ..begun })
}

/// Counts runs that came to be live, or ceased to be.
fn count(index: &mut Defined, runs: i64, bytes: i128) {
    let all = i64::from(index.counts.runs.unwrap_or_default()) + runs;
    index.counts.runs = u32::try_from(all).ok().filter(|runs| *runs > 0);
    let all = i128::from(index.counts.run_bytes.unwrap_or_default()) + bytes;
    index.counts.run_bytes = u64::try_from(all).ok().filter(|bytes| *bytes > 0);
    index.counted = true;
}

/// No state from here on names the run; a job deletes its file.
fn condemn(txn: &mut Txn<'_>, index: Revision, run: Revision, row: RunRow) {
    txn.delete(Keyspace::Indexes, rows::run(index, run));
    let condemned = CondemnedRunRow { path: row.path, state: row.state };
    txn.put(Keyspace::Indexes, rows::condemned_run(txn.revision(), index, run), &condemned);
    txn.effect(Effect::IndexQueued);
}

/// The runs of an index that is dropped.
pub(super) fn condemn_all(txn: &mut Txn<'_>, index: Revision) -> Result<(), Stop> {
    for (revision, row) in runs_of(txn, index)? {
        condemn(txn, index, revision, row);
    }
    Ok(())
}

pub(crate) fn demote(txn: &mut Txn<'_>, op: &DemoteEntries) -> Result<Reply, Stop> {
    if op.postings.len() > JOB_ROWS_MAX {
        return Err(Error::invalid("too many rows for one command").into());
    }
    on_index(txn, &op.bucket, &op.name, op.index, |txn, index| {
        let live: Runs =
            runs_of(txn, index.row.id)?.into_iter().filter(|(_, row)| row.state == RunState::Live).collect();
        let through = live.iter().map(|(_, row)| row.through).max().unwrap_or_default();
        let above = |revision: &Revision| *revision > through;
        if op.postings.iter().any(|posting| above(&posting.revision)) || op.trimmed.as_ref().is_some_and(above) {
            return Err(Error::Changed.into());
        }
        let before = txn.writes();
        for posting in &op.postings {
            demote_posting(txn, index, *posting)?;
            if txn.writes() - before > JOB_WRITES_MAX {
                return Err(Error::invalid("too many rows for one command").into());
            }
        }
        for (revision, mut row) in live {
            if op.trimmed.is_some_and(|trimmed| row.through <= trimmed) && !row.trimmed {
                row.trimmed = true;
                txn.put(Keyspace::Indexes, rows::run(index.row.id, revision), &row);
            }
        }
        Ok(())
    })
}

/// Removes the entries of a posting that a run holds. Of one that is not live a job removes everything, and its bytes are not
/// counted any more.
fn demote_posting(txn: &mut Txn<'_>, index: &mut Defined, posting: Posting) -> Result<(), Stop> {
    let id = index.row.id;
    let Some(of) = txn.reader().row::<PostingRow>(Keyspace::Indexes, &rows::posting(id, posting))? else {
        return Ok(());
    };
    let object: Option<ObjectIndexRow> = txn.reader().row(Keyspace::Indexes, &rows::object(id, &of.key))?;
    let Some(object) = object.filter(|object| object.posting == Some(posting) && object.entries > 0) else {
        return Ok(());
    };
    if erase_entries(txn, id, Some(index.row.kind), posting)?.entries.is_empty() {
        return Ok(());
    }
    index.counts.bytes = index.counts.bytes.saturating_sub(object.bytes.unwrap_or_default());
    index.counted = true;
    Ok(())
}

pub(crate) fn lose(txn: &mut Txn<'_>, op: &LoseRun) -> Result<Reply, Stop> {
    on_index(txn, &op.bucket, &op.name, op.index, |txn, index| {
        let runs = runs_of(txn, index.row.id)?;
        if !runs.iter().any(|(of, row)| *of == op.run && row.state == RunState::Live) {
            return Err(Error::Changed.into());
        }
        condemn_all(txn, index.row.id)?;
        index.counts.runs = None;
        index.counts.run_bytes = None;
        // The build takes back what is known of each name when it comes to it; until then searches name all of them.
        index.row.state = IndexState::Building(String::new());
        (index.counted, index.restated) = (true, true);
        txn.effect(Effect::IndexQueued);
        Ok(())
    })
}

pub(crate) fn forget(txn: &mut Txn<'_>, op: &ForgetRuns) -> Result<Reply, Stop> {
    if op.runs.len() > JOB_ROWS_MAX {
        return Err(Error::invalid("too many rows for one command").into());
    }
    for run in &op.runs {
        let row_key = rows::condemned_run(run.condemned, run.index, run.run);
        if txn.reader().0.get(Keyspace::Indexes, &row_key)?.is_some() {
            txn.delete(Keyspace::Indexes, row_key);
        }
    }
    Ok(Reply::Done)
}
