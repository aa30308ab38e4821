//! Reads of indexes: which are there, what they find, what waits for them.

use std::collections::BTreeMap;
use std::ops::Range;

use super::row::{BlockRow, IndexCountsRow, IndexRow, ObjectIndexRow, Posting, PostingRow};
use super::{Expression, IndexInfo, IndexKind, IndexState, Interval, RunHit, Step, bloom};
use crate::id::{ObjectKey, Place, Revision};
use crate::keyspace::{Keyspace, key, key::index as rows};
use crate::kv::KeyRange;
use crate::record::{BucketRow, Record};
use crate::rules::authorize::{Action, Permit};
use crate::state::{Reader, Stop};
use crate::view::{Bucket, View};

/// An object that a search found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundObject {
    /// Its key.
    pub key: ObjectKey,
    /// Its version.
    pub place: Place,
    /// Byte ranges of its rows or blocks, in order. Empty for an index on attributes: the object itself.
    pub ranges: Vec<Range<u64>>,
}

/// What an index knows of the values in some intervals. No object stands in two lists; each list is in the order of keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Objects with an entry for each row.
    pub rows: Vec<FoundObject>,
    /// Objects with a summary of each block.
    pub blocks: Vec<FoundObject>,
    /// Objects of which the index knows nothing.
    pub whole: Vec<ObjectKey>,
}

/// What is asked of an index.
#[derive(Clone, Copy, Debug)]
pub struct Lookup<'a> {
    /// The index.
    pub index: &'a IndexInfo,
    /// Only objects whose keys begin so.
    pub prefix: &'a str,
    /// Where the tuples lie.
    pub intervals: &'a [Interval],
    /// Most entries, objects and blocks together.
    pub rows_max: usize,
}

/// An object that waits for an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aside {
    /// Its key.
    pub key: ObjectKey,
    /// Why it did not parse; empty while it was not read.
    pub why: String,
}

/// An index that wants to know of the content of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentIndex {
    /// Identity.
    pub id: Revision,
    /// Name.
    pub name: String,
    /// Its content fields, in their order.
    pub fields: Vec<Vec<Step>>,
    /// Whether a write must bring what was found.
    pub unique: bool,
}

impl ContentIndex {
    pub(super) fn new(id: Revision, name: String, unique: bool, expressions: &[Expression]) -> Self {
        let of_field = |expression: &Expression| match expression {
            Expression::Field(path) => Some(path.clone()),
            _ => None,
        };
        Self { id, name, fields: expressions.iter().filter_map(of_field).collect(), unique }
    }
}

/// The definitions of a bucket's indexes, by name.
pub(crate) fn definitions(reader: Reader<'_>, bucket: &BucketRow) -> Result<Vec<(String, IndexRow)>, Stop> {
    if bucket.indexes.unwrap_or_default() == 0 {
        return Ok(Vec::new());
    }
    let decode = |(row_key, value): crate::kv::Row| -> Result<_, Stop> {
        Ok((rows::definition_parts(&row_key)?.1, IndexRow::decode(&value)?))
    };
    let range = KeyRange::prefix(&rows::definition(bucket.id, ""));
    reader.rows(Keyspace::Indexes, range).map(|row| decode(row?)).collect()
}

/// What an index holds.
pub(crate) fn counts(reader: Reader<'_>, index: Revision) -> Result<IndexCountsRow, Stop> {
    Ok(reader.row(Keyspace::Indexes, &rows::counts(index))?.unwrap_or_default())
}

impl View<'_> {
    /// The indexes of a bucket, by name.
    ///
    /// # Errors
    /// [`Stop`] when the engine fails.
    pub fn indexes(&self, bucket: &Bucket) -> Result<Vec<IndexInfo>, Stop> {
        let info = |(name, row): (String, IndexRow)| -> Result<_, Stop> {
            let counts = counts(self.reader, row.id)?;
            Ok(IndexInfo {
                id: row.id,
                name,
                bucket: bucket.name.as_str().to_owned(),
                prefix: row.prefix,
                kind: row.kind,
                unique: row.unique,
                expressions: row.expressions,
                state: row.state,
                objects: counts.objects,
                entries: counts.entries,
                pending: counts.pending,
                unparsed: counts.unparsed,
                bytes: counts.bytes,
                block_bytes: counts.block_bytes.unwrap_or_default(),
                runs: counts.runs.unwrap_or_default(),
                run_bytes: counts.run_bytes.unwrap_or_default(),
            })
        };
        definitions(self.reader, &bucket.row)?.into_iter().map(info).collect()
    }

    /// The indexes that want to know of the content of an object.
    ///
    /// # Errors
    /// [`Stop`] when the engine fails.
    pub fn indexes_of_content(&self, bucket: &Bucket, object: &ObjectKey) -> Result<Vec<ContentIndex>, Stop> {
        let mut found = definitions(self.reader, &bucket.row)?;
        found.retain(|(_, row)| object.as_str().starts_with(&row.prefix) && row.state.covers(object.as_str()));
        let content = |(name, row): (String, IndexRow)| ContentIndex::new(row.id, name, row.unique, &row.expressions);
        Ok(found.into_iter().map(content).filter(|index| !index.fields.is_empty()).collect())
    }

    /// What an index knows of the objects that a lookup asks for. `None` when it holds more than `rows_max` such entries,
    /// objects and blocks together, or is not to be used.
    ///
    /// `from_runs` is all that the runs of [`View::runs_of_index`] of this same view hold of [`super::seeks`]; what is not live
    /// any more is left out here.
    ///
    /// # Errors
    /// [`crate::error::Error::Denied`] unless the permit is to list the bucket; [`Stop`] when the engine fails.
    pub fn search(
        &self,
        permit: &Permit,
        bucket: &Bucket,
        lookup: &Lookup<'_>,
        from_runs: &[RunHit],
    ) -> Result<Option<Found>, Stop> {
        permit.require(&[Action::ListBucket])?;
        let Lookup { index, prefix, intervals, rows_max } = *lookup;
        let mut search = Search { view: self, index, prefix, left: rows_max, postings: BTreeMap::new() };
        let mut found = Found::default();
        if matches!(index.state, IndexState::Failed(_)) || !search.hits(from_runs) || !search.entries(intervals)? {
            return Ok(None);
        }
        found.rows = search.objects()?;
        if !search.blocks(intervals)? {
            return Ok(None);
        }
        found.blocks = search.objects()?;
        if !search.aside(&mut found.whole)? || !search.unbuilt(bucket, &mut found.whole)? {
            return Ok(None);
        }
        found.whole.sort();
        Ok(Some(found))
    }

    /// Indexes that are being built, or that objects wait for.
    ///
    /// # Errors
    /// [`crate::error::Error::Denied`] unless the permit is a job's; [`Stop`] when the engine fails.
    pub fn indexes_at_work(&self, permit: &Permit) -> Result<Vec<(Bucket, IndexInfo)>, Stop> {
        let mut found = self.all_indexes(permit)?;
        found.retain(|(_, index)| {
            let waited_for = matches!(index.state, IndexState::Building(_)) || index.pending > 0;
            waited_for && !matches!(index.state, IndexState::Failed(_))
        });
        Ok(found)
    }

    /// The indexes of all buckets.
    ///
    /// # Errors
    /// As [`View::indexes_at_work`].
    pub fn all_indexes(&self, permit: &Permit) -> Result<Vec<(Bucket, IndexInfo)>, Stop> {
        permit.require(&[Action::Maintain])?;
        let mut found = Vec::new();
        for row in self.reader.rows(Keyspace::Buckets, KeyRange::prefix(&key::buckets())) {
            let (row_key, value) = row?;
            let Some(name) = key::bucket_name(&row_key) else { continue };
            let bucket = Bucket { name, row: BucketRow::decode(&value)? };
            found.extend(self.indexes(&bucket)?.into_iter().map(|index| (bucket.clone(), index)));
        }
        Ok(found)
    }

    /// The objects that an index wants to be read next, at most `limit`: those behind the cursor while it is built, else
    /// those that are pending, after `after`. Versions that are gone are left out.
    ///
    /// # Errors
    /// As [`View::indexes_at_work`].
    pub fn objects_for_index(
        &self,
        permit: &Permit,
        bucket: &Bucket,
        index: &IndexInfo,
        after: &str,
        limit: usize,
    ) -> Result<Vec<crate::view::Found>, Stop> {
        permit.require(&[Action::Maintain])?;
        let keys = match &index.state {
            IndexState::Building(cursor) => self.names_after(bucket, &index.prefix, cursor, limit)?,
            _ => self.pending_of_index(permit, index, Some(after).filter(|after| !after.is_empty()), limit)?,
        };
        let mut found = Vec::new();
        for object in keys {
            let Some(name) = self.reader.name(bucket.row.id, &object)? else { continue };
            if let Some(row) = self.reader.history(bucket.row.id, &object, name.place)? {
                let bucket = bucket.clone();
                found.push(crate::view::Found { bucket, key: object, place: name.place, row, is_latest: true });
            }
        }
        Ok(found)
    }

    fn names_after(&self, bucket: &Bucket, prefix: &str, after: &str, limit: usize) -> Result<Vec<ObjectKey>, Stop> {
        let prefix = key::name(bucket.row.id, prefix);
        let from = [&key::name(bucket.row.id, after)[..], &[0]].concat().max(prefix.clone());
        let rows = self.reader.rows(Keyspace::Names, KeyRange::prefix_from(&prefix, from)).take(limit);
        let mut found = Vec::new();
        for row in rows {
            found.extend(key::name_key(&row?.0)?.parse().ok());
        }
        Ok(found)
    }

    /// Objects of an index that wait to be read, after `after`, at most `limit`.
    ///
    /// # Errors
    /// [`crate::error::Error::Denied`] unless the permit is a job's; [`Stop`] when the engine fails.
    pub fn pending_of_index(
        &self,
        permit: &Permit,
        index: &IndexInfo,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<ObjectKey>, Stop> {
        permit.require(&[Action::Maintain])?;
        let start = rows::aside(index.id, false, "");
        let from =
            after.map_or_else(|| start.clone(), |after| [&rows::aside(index.id, false, after)[..], &[0]].concat());
        let mut found = Vec::new();
        for row in self.reader.rows(Keyspace::Indexes, KeyRange::prefix_from(&start, from)).take(limit) {
            found.extend(rows::aside_key(&row?.0)?.parse().ok());
        }
        Ok(found)
    }

    /// Objects of an index whose content did not parse, at most `limit`.
    ///
    /// # Errors
    /// [`crate::error::Error::Denied`] unless the permit is to list the bucket; [`Stop`] when the engine fails.
    pub fn unparsed_of_index(&self, permit: &Permit, index: &IndexInfo, limit: usize) -> Result<Vec<Aside>, Stop> {
        permit.require(&[Action::ListBucket])?;
        let mut found = Vec::new();
        let range = KeyRange::prefix(&rows::aside(index.id, true, ""));
        for row in self.reader.rows(Keyspace::Indexes, range).take(limit) {
            let (row_key, value) = row?;
            if let Ok(key) = rows::aside_key(&row_key)?.parse() {
                found.push(Aside { key, why: String::from_utf8_lossy(&value).into_owned() });
            }
        }
        Ok(found)
    }

    /// Whether rows of indexes wait to be removed.
    ///
    /// # Errors
    /// As [`View::indexes_at_work`].
    pub fn has_index_garbage(&self, permit: &Permit) -> Result<bool, Stop> {
        permit.require(&[Action::Maintain])?;
        Ok(self.reader.any(Keyspace::Indexes, &rows::all_garbage())?
            || self.reader.any(Keyspace::Indexes, &rows::all_dropped())?)
    }
}

struct Search<'a> {
    view: &'a View<'a>,
    index: &'a IndexInfo,
    prefix: &'a str,
    left: usize,
    postings: BTreeMap<Posting, Vec<Range<u64>>>,
}

impl Search<'_> {
    /// Takes one from what may still be found; false when nothing may.
    fn take(&mut self) -> bool {
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }

    /// Collects what was found in runs. False when there are too many.
    fn hits(&mut self, hits: &[RunHit]) -> bool {
        for hit in hits {
            if !self.take() {
                return false;
            }
            self.postings.entry(hit.posting).or_default().extend(hit.range.clone());
        }
        true
    }

    /// Collects the entries in the intervals. False when there are too many.
    fn entries(&mut self, intervals: &[Interval]) -> Result<bool, Stop> {
        for interval in intervals {
            let Some((from, to)) = self.range(interval) else { return Ok(false) };
            let range =
                KeyRange { from: rows::entries(self.index.id, &from), to: Some(rows::entries(self.index.id, &to)) };
            for row in self.view.reader.rows(Keyspace::Indexes, range) {
                let (row_key, value) = row?;
                if !self.take() {
                    return Ok(false);
                }
                let (_, posting) = rows::entry_parts(&row_key)?;
                self.postings.entry(posting).or_default().extend(row_range(&value));
            }
        }
        Ok(true)
    }

    /// The stored form of an interval's ends. A hash index answers for points only.
    fn range(&self, interval: &Interval) -> Option<(Vec<u8>, Vec<u8>)> {
        if self.index.kind == IndexKind::BTree {
            return Some((interval.from.clone(), interval.to.clone()));
        }
        let hash = bloom::hash(whole_tuple(self.index, interval)?);
        // The entries of the last hash end where postings begin: no hash has a ninth byte.
        let to = hash.checked_add(1).map_or_else(|| vec![0xff; 9], |next| next.to_be_bytes().to_vec());
        Some((hash.to_be_bytes().to_vec(), to))
    }

    /// Collects the blocks that may hold a tuple in the intervals. False when there are too many.
    fn blocks(&mut self, intervals: &[Interval]) -> Result<bool, Stop> {
        let range = KeyRange::prefix(&rows::blocks(self.index.id));
        for row in self.view.reader.rows(Keyspace::Indexes, range) {
            let (row_key, value) = row?;
            if !self.take() {
                return Ok(false);
            }
            let posting = rows::block_posting(&row_key)?;
            let block = BlockRow::decode(&value)?;
            let ranges = self.postings.entry(posting).or_default();
            if intervals.iter().any(|interval| may_match(self.index, &block, interval)) {
                ranges.push(block.offset..block.offset + block.length);
            }
        }
        self.postings.retain(|_, ranges| !ranges.is_empty());
        Ok(true)
    }

    /// Whether the index is asked for this key, and speaks for it: of one that is built anew there is more.
    fn speaks_for(&self, key: &str) -> bool {
        key.starts_with(self.prefix) && self.index.state.covers(key)
    }

    /// What was collected, by key: only live postings, only under the prefix.
    fn objects(&mut self) -> Result<Vec<FoundObject>, Stop> {
        let mut found = Vec::new();
        for (posting, mut ranges) in std::mem::take(&mut self.postings) {
            let reader = self.view.reader;
            let row: Option<PostingRow> = reader.row(Keyspace::Indexes, &rows::posting(self.index.id, posting))?;
            let Some(row) = row.filter(|row| self.speaks_for(&row.key)) else { continue };
            let object: Option<ObjectIndexRow> =
                reader.row(Keyspace::Indexes, &rows::object(self.index.id, &row.key))?;
            let live = object.is_some_and(|object| object.posting == Some(posting));
            if let (true, Ok(key)) = (live, row.key.parse()) {
                ranges.sort_by_key(|range| (range.start, range.end));
                ranges.dedup();
                found.push(FoundObject { key, place: row.place, ranges });
            }
        }
        found.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }

    /// Adds what is pending or did not parse. False when there is too much.
    fn aside(&mut self, whole: &mut Vec<ObjectKey>) -> Result<bool, Stop> {
        for unparsed in [false, true] {
            let range = KeyRange::prefix(&rows::aside(self.index.id, unparsed, self.prefix));
            for row in self.view.reader.rows(Keyspace::Indexes, range) {
                let (row_key, _) = row?;
                if !self.take() {
                    return Ok(false);
                }
                let key = rows::aside_key(&row_key)?;
                if self.speaks_for(&key) {
                    whole.extend(key.parse().ok());
                }
            }
        }
        Ok(true)
    }

    /// Adds the names that an index which is being built has not come to. False when there are too many.
    fn unbuilt(&mut self, bucket: &Bucket, whole: &mut Vec<ObjectKey>) -> Result<bool, Stop> {
        let IndexState::Building(cursor) = &self.index.state else { return Ok(true) };
        // One more than may be found says that there are too many.
        let names = self.view.names_after(bucket, self.prefix, cursor, self.left + 1)?;
        if names.len() > self.left {
            return Ok(false);
        }
        self.left -= names.len();
        whole.extend(names);
        Ok(true)
    }
}

/// The bytes of the row in the value of an entry; none for an entry that stands for the object.
pub(super) fn row_range(value: &[u8]) -> Option<Range<u64>> {
    let offset = u64::from_be_bytes(value.get(..8)?.try_into().ok()?);
    let length = u32::from_be_bytes(value.get(8..12)?.try_into().ok()?);
    (length > 0).then(|| offset..offset + u64::from(length))
}

/// The tuple that an interval consists of, when it has a value for every expression.
pub(super) fn whole_tuple<'a>(index: &IndexInfo, interval: &'a Interval) -> Option<&'a [u8]> {
    let tuple = interval.point()?;
    (super::split_tuple(tuple)?.len() == index.expressions.len()).then_some(tuple)
}

fn may_match(index: &IndexInfo, block: &BlockRow, interval: &Interval) -> bool {
    if block.low.is_empty() || block.low >= interval.to || block.high < interval.from {
        return false;
    }
    match whole_tuple(index, interval) {
        Some(tuple) if !block.bloom.is_empty() => bloom::may_hold(&block.bloom, bloom::hash(tuple)),
        _ => true,
    }
}
