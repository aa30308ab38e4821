//! Runs as the state names them: which there are, what goes into one, what a search asks them for.
//!
//! The key of an entry in a run is what follows the index id in the key of the entry's row, the value is that of the row. So
//! a scan of the state is in the order of a run, and what a search seeks is the same in both.
//!
//! Absent: files. Whoever has them reads and writes them with [`super::run`].

use std::ops::Range;

use super::find::{row_range, whole_tuple};
use super::row::{CondemnedRunRow, EntriesRow, Posting, RunRow, RunState};
use super::run::{Entry, HASH_BYTES, Layout};
use super::{IndexInfo, IndexKind, Interval, bloom};
use crate::command::CondemnedRun;
use crate::id::Revision;
use crate::keyspace::key::index::ENTRY_HEAD;
use crate::keyspace::{Keyspace, key::index as rows};
use crate::kv::KeyRange;
use crate::record::Record as _;
use crate::rules::JOB_ROWS_MAX;
use crate::rules::authorize::{Action, Permit};
use crate::state::Stop;
use crate::view::View;

/// Posting and row number at the end of each key.
const SUFFIX_BYTES: u16 = rows::ENTRY_TAIL as u16;

/// A run of an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexRun {
    /// Id of the index.
    pub index: Revision,
    /// The revision that began it.
    pub revision: Revision,
    /// Its row.
    pub row: RunRow,
}

/// A run whose file is to be deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunToDelete {
    /// Which.
    pub run: CondemnedRun,
    /// Its row.
    pub row: CondemnedRunRow,
}

/// What an entry of a run points at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunHit {
    /// Its posting, which may not be live any more.
    pub posting: Posting,
    /// The bytes of its row; `None` when it stands for the object.
    pub range: Option<Range<u64>>,
}

/// What a search asks every run for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seek {
    /// The entries of one subject: by the filter.
    Subject(Vec<u8>),
    /// The entries of an interval of keys.
    Interval(Interval),
}

/// Postings whose entries a run holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Demotable {
    /// They, in order.
    pub postings: Vec<Posting>,
    /// The last one that was looked at, when there are more.
    pub more_after: Option<Posting>,
}

/// The layout of the runs of an index.
#[must_use]
pub fn layout(kind: IndexKind) -> Layout {
    match kind {
        IndexKind::BTree => Layout::BTree { suffix_bytes: SUFFIX_BYTES },
        IndexKind::Hash => Layout::Hash,
    }
}

/// What intervals come to in the runs of an index; `None` when it cannot answer, as a hash index for a range.
#[must_use]
pub fn seeks(index: &IndexInfo, intervals: &[Interval]) -> Option<Vec<Seek>> {
    let seek = |interval: &Interval| match (index.kind, whole_tuple(index, interval)) {
        (IndexKind::BTree, Some(tuple)) => Some(Seek::Subject(tuple.to_vec())),
        (IndexKind::BTree, None) => Some(Seek::Interval(interval.clone())),
        (IndexKind::Hash, Some(tuple)) => Some(Seek::Subject(bloom::hash(tuple).to_be_bytes().to_vec())),
        (IndexKind::Hash, None) => None,
    };
    intervals.iter().map(seek).collect()
}

/// What an entry of a run points at; `None` when it is none that this module makes.
#[must_use]
pub fn read_hit(key: &[u8], value: &[u8]) -> Option<RunHit> {
    let tail = key.get(key.len().checked_sub(rows::ENTRY_TAIL)?..)?;
    let revision = u64::from_be_bytes(*tail.first_chunk()?);
    let ordinal = u32::from_be_bytes(*tail.get(HASH_BYTES..)?.first_chunk()?);
    let _ = value.get(..12)?;
    Some(RunHit { posting: Posting { revision, ordinal }, range: row_range(value) })
}

impl<'a> View<'a> {
    /// The runs of an index that searches read, by revision; at most [`super::RUNS_MAX`].
    ///
    /// # Errors
    /// [`crate::error::Error::Denied`] unless the permit is to list the bucket, or a job's; [`Stop`] when the engine fails.
    pub fn runs_of_index(&self, permit: &Permit, index: Revision) -> Result<Vec<IndexRun>, Stop> {
        permit.require(&[Action::ListBucket, Action::Maintain])?;
        self.runs_in(index, RunState::Live)
    }

    /// The run of an index that is being written.
    ///
    /// # Errors
    /// [`crate::error::Error::Denied`] unless the permit is a job's; [`Stop`] when the engine fails.
    pub fn begun_run(&self, permit: &Permit, index: Revision) -> Result<Option<IndexRun>, Stop> {
        permit.require(&[Action::Maintain])?;
        Ok(self.runs_in(index, RunState::Writing)?.pop())
    }

    fn runs_in(&self, index: Revision, state: RunState) -> Result<Vec<IndexRun>, Stop> {
        let mut found = Vec::new();
        for row in self.reader.rows(Keyspace::Indexes, KeyRange::prefix(&rows::runs(index))) {
            let (row_key, value) = row?;
            let row = RunRow::decode(&value)?;
            if row.state == state {
                found.push(IndexRun { index, revision: rows::run_revision(&row_key)?, row });
            }
        }
        Ok(found)
    }

    /// The entries of live postings that the state holds, in the order and the form of a run.
    ///
    /// # Errors
    /// As [`View::begun_run`]; the items when the engine fails.
    pub fn entries_for_run(
        &self,
        permit: &Permit,
        index: Revision,
    ) -> Result<impl Iterator<Item = Result<Entry, Stop>> + use<'a>, Stop> {
        permit.require(&[Action::Maintain])?;
        let reader = self.reader;
        // Rows of a posting that is not live are there only until a job has removed this garbage.
        let any_garbage = reader.any(Keyspace::Indexes, &rows::garbage_of(index))?;
        let is_live = move |key: &[u8]| -> Result<bool, Stop> {
            let (_, posting) = rows::entry_parts(key)?;
            Ok(!any_garbage || reader.0.get(Keyspace::Indexes, &rows::garbage(index, posting))?.is_none())
        };
        let entries = reader.rows(Keyspace::Indexes, KeyRange::prefix(&rows::entries(index, &[])));
        Ok(entries.filter_map(move |row| match row.map_err(Stop::from) {
            Ok((key, value)) => match is_live(&key) {
                Ok(true) => Some(Ok(Entry { key: key[ENTRY_HEAD..].to_vec(), value })),
                Ok(false) => None,
                Err(stop) => Some(Err(stop)),
            },
            Err(stop) => Some(Err(stop)),
        }))
    }

    /// Whether a posting is live: what a merge keeps.
    ///
    /// # Errors
    /// As [`View::begun_run`].
    pub fn is_live_posting(&self, permit: &Permit, index: Revision, posting: Posting) -> Result<bool, Stop> {
        permit.require(&[Action::Maintain])?;
        let has = |key: Vec<u8>| Ok::<_, Stop>(self.reader.0.get(Keyspace::Indexes, &key)?.is_some());
        Ok(has(rows::posting(index, posting))? && !has(rows::garbage(index, posting))?)
    }

    /// Postings up to the revision `through` whose entries the state holds, those after `after`: until their entries are at
    /// least `entries_max`.
    ///
    /// # Errors
    /// As [`View::begun_run`].
    pub fn demotable(
        &self,
        permit: &Permit,
        index: Revision,
        through: Revision,
        after: Option<Posting>,
        entries_max: usize,
    ) -> Result<Demotable, Stop> {
        permit.require(&[Action::Maintain])?;
        let from = after
            .map_or_else(|| rows::all_entries_of(index), |after| [&rows::entries_of(index, after)[..], &[0]].concat());
        let end = rows::entries_of(index, Posting { revision: through.saturating_add(1), ordinal: 0 });
        let (mut found, mut entries) = (Demotable::default(), 0);
        for row in self.reader.rows(Keyspace::Indexes, KeyRange { from, to: Some(end) }) {
            let (row_key, value) = row?;
            let posting = rows::entries_posting(&row_key)?;
            let list = EntriesRow::decode(&value)?;
            if !list.entries.is_empty() {
                found.postings.push(posting);
                entries += list.entries.len();
            }
            if entries >= entries_max || found.postings.len() == JOB_ROWS_MAX {
                found.more_after = Some(posting);
                break;
            }
        }
        Ok(found)
    }

    /// Runs whose files are to be deleted, by the revision that condemned them: those after `last`, at most `limit`.
    ///
    /// # Errors
    /// As [`View::begun_run`].
    pub fn condemned_runs(
        &self,
        permit: &Permit,
        last: Option<CondemnedRun>,
        limit: usize,
    ) -> Result<Vec<RunToDelete>, Stop> {
        permit.require(&[Action::Maintain])?;
        let prefix = rows::condemned_runs();
        let from = last.map_or_else(
            || prefix.clone(),
            |last| [&rows::condemned_run(last.condemned, last.index, last.run)[..], &[0]].concat(),
        );
        let mut found = Vec::new();
        for row in self.reader.rows(Keyspace::Indexes, KeyRange::prefix_from(&prefix, from)).take(limit) {
            let (row_key, value) = row?;
            let (condemned, index, run) = rows::condemned_run_parts(&row_key)?;
            let run = CondemnedRun { condemned, index, run };
            found.push(RunToDelete { run, row: CondemnedRunRow::decode(&value)? });
        }
        Ok(found)
    }
}
