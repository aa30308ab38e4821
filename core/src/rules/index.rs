//! Indexes: kept by the commit that changes what they are of.
//!
//! Whenever a name gets a version, or loses it, every index whose partition holds the key follows in the same command:
//!
//! ```text
//! named:   what was known of the key goes ─▶ values of attributes are computed here, those of content come with the
//!          command (Extracted), or from the name that it is a copy of ─▶ entries, or blocks, or "pending"
//! unnamed: what was known of the key goes: few entries at once, many as garbage that a job removes
//! ```
//!
//! Whatever nobody read in time is pending, and every search names what is pending, so an answer is exact at every moment.
//! Only a unique index insists: a write that does not bring what was found in its bytes is refused.
//!
//! Entries that a run holds are removed from the state, see [`runs`]. What the index knew of such an object is still taken back
//! exactly; only a copy of it, and an index on tags and content when its tags change, wait to be read again.
//!
//! While an index is built, it speaks for the keys up to its cursor; [`index_objects`] moves the cursor and makes every
//! name it passes known, or pending.

pub(crate) mod runs;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use crate::apply::Txn;
use crate::command::{CreateIndex, DropIndex, IndexObjects, Outcome, ReadObject, Reply, TrimIndexes};
use crate::effect::Effect;
use crate::error::Error;
use crate::event::{EventKind, EventRow};
use crate::id::{BucketId, BucketName, ObjectKey, Place};
use crate::index::find::{counts, definitions};
use crate::index::row::{
    BlockRow, EntriesRow, Entry, IndexCountsRow, IndexRow, Known, ObjectIndexRow, Posting, PostingRow,
};
use crate::index::{
    BLOCK_SUMMARY_BYTES_MAX, BLOCKS_MAX, Class, EAGER_ENTRIES_MAX, EXPRESSIONS_MAX, Expression, INDEXES_MAX, IndexKind,
    IndexState, NAME_BYTES_MAX, REASON_BYTES_MAX, TEXT_BYTES_MAX, Value, bloom, split_tuple,
};
use crate::keyspace::{Keyspace, key, key::index as rows};
use crate::kv::KeyRange;
use crate::record::{BucketRow, HistoryRow, OnParseError, Record as _};
use crate::rules::{JOB_ROWS_MAX, bucket};
use crate::state::Stop;

/// The indexes of a bucket while a command runs.
#[derive(Clone, Debug)]
pub(crate) struct Defined {
    name: String,
    row: IndexRow,
    counts: IndexCountsRow,
    /// Whether the counts are to be written.
    counted: bool,
    /// Whether the definition is.
    restated: bool,
}

/// Those of the buckets that the command has touched.
pub(crate) type Indexes = BTreeMap<BucketId, Vec<Defined>>;

/// The name that the next one is a copy of, or that moves.
#[derive(Clone, Debug)]
pub(crate) struct Carried {
    /// The name.
    pub(crate) key: ObjectKey,
    /// Its version.
    pub(crate) place: Place,
    /// Whether the name goes in the same command, so that its entries are no duplicates.
    pub(crate) moves: bool,
}

pub(crate) fn create(txn: &mut Txn<'_>, op: &CreateIndex) -> Result<Reply, Stop> {
    let mut bucket = bucket::load(txn, &op.bucket)?;
    check_definition(op)?;
    let row_key = rows::definition(bucket.id, &op.name);
    if txn.reader().0.get(Keyspace::Indexes, &row_key)?.is_some() {
        return Err(Error::IndexExists.into());
    }
    if bucket.indexes.unwrap_or_default() as usize >= INDEXES_MAX {
        return Err(Error::invalid("a bucket has at most 64 indexes").into());
    }
    let empty = !txn.reader().any(Keyspace::Names, &key::name(bucket.id, &op.prefix))?;
    let row = IndexRow {
        id: txn.revision(),
        prefix: op.prefix.clone(),
        kind: op.kind,
        unique: op.unique,
        expressions: op.expressions.clone(),
        state: if empty { IndexState::Ready } else { IndexState::Building(String::new()) },
        created_ms: txn.now_ms(),
    };
    txn.put(Keyspace::Indexes, row_key, &row);
    txn.put(Keyspace::Indexes, rows::counts(row.id), &IndexCountsRow::default());
    bucket.indexes = Some(bucket.indexes.unwrap_or_default() + 1);
    bucket::save(txn, &op.bucket, &bucket);
    txn.event(EventRow::of_object(EventKind::IndexCreated, &op.bucket.name, &op.name));
    if empty {
        txn.event(EventRow::of_object(EventKind::IndexReady, &op.bucket.name, &op.name));
    }
    txn.effect(Effect::IndexQueued);
    Ok(Reply::Done)
}

fn check_definition(op: &CreateIndex) -> Result<(), Error> {
    let control = |text: &str| text.chars().any(char::is_control);
    if op.name.is_empty() || op.name.len() > NAME_BYTES_MAX || control(&op.name) || op.name.contains('/') {
        return Err(Error::invalid("an index has a name of 1 to 128 bytes, without slashes and control characters"));
    }
    if !op.prefix.is_empty() && (!op.prefix.ends_with('/') || op.prefix.parse::<ObjectKey>().is_err()) {
        return Err(Error::invalid("an index is on a bucket or on a prefix that ends with a slash"));
    }
    if op.expressions.is_empty() || op.expressions.len() > EXPRESSIONS_MAX {
        return Err(Error::invalid("an index has 1 to 8 expressions"));
    }
    for (at, expression) in op.expressions.iter().enumerate() {
        if op.expressions[..at].contains(expression) {
            return Err(Error::invalid(format!("the expression {expression} is there twice")));
        }
        match expression {
            Expression::KeyPart(0) => return Err(Error::invalid("the first part of a key is number 1")),
            Expression::Metadata(name) | Expression::Tag(name) if name.is_empty() || name.len() > NAME_BYTES_MAX => {
                return Err(Error::invalid("a name of metadata or of a tag has 1 to 128 bytes"));
            }
            Expression::Field(path) if path.is_empty() || path.len() > 32 => {
                return Err(Error::invalid("a field has 1 to 32 steps"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The index is gone with this commit; a job removes its rows.
pub(crate) fn drop(txn: &mut Txn<'_>, op: &DropIndex) -> Result<Reply, Stop> {
    let mut bucket = bucket::load(txn, &op.bucket)?;
    let row_key = rows::definition(bucket.id, &op.name);
    let row: IndexRow = txn.reader().row(Keyspace::Indexes, &row_key)?.ok_or(Error::NoSuchIndex)?;
    bucket.indexes = bucket.indexes.and_then(|count| count.checked_sub(1)).filter(|count| *count > 0);
    bucket::save(txn, &op.bucket, &bucket);
    forget(txn, &op.bucket.name, &op.name, row_key, &row)?;
    Ok(Reply::Done)
}

fn forget(txn: &mut Txn<'_>, bucket: &BucketName, name: &str, row_key: Vec<u8>, row: &IndexRow) -> Result<(), Stop> {
    txn.delete(Keyspace::Indexes, row_key);
    txn.delete(Keyspace::Indexes, rows::counts(row.id));
    runs::condemn_all(txn, row.id)?;
    txn.put_bytes(Keyspace::Indexes, rows::dropped(row.id), Vec::new());
    txn.event(EventRow::of_object(EventKind::IndexDropped, bucket, name));
    txn.effect(Effect::IndexQueued);
    Ok(())
}

/// The indexes of a bucket go with it.
pub(crate) fn drop_all(txn: &mut Txn<'_>, name: &BucketName, bucket: &BucketRow) -> Result<(), Stop> {
    for defined in defined(txn, bucket)? {
        forget(txn, name, &defined.name, rows::definition(bucket.id, &defined.name), &defined.row)?;
    }
    Ok(())
}

fn defined(txn: &mut Txn<'_>, bucket: &BucketRow) -> Result<Vec<Defined>, Stop> {
    if let Some(known) = txn.indexes.remove(&bucket.id) {
        return Ok(known);
    }
    let mut found = Vec::new();
    for (name, row) in definitions(txn.reader(), bucket)? {
        let counts = counts(txn.reader(), row.id)?;
        found.push(Defined { name, row, counts, counted: false, restated: false });
    }
    Ok(found)
}

/// Writes what changed of the indexes.
pub(crate) fn flush(txn: &mut Txn<'_>) {
    for (bucket, defined) in std::mem::take(&mut txn.indexes) {
        for index in defined {
            if index.counted {
                txn.put(Keyspace::Indexes, rows::counts(index.row.id), &index.counts);
            }
            if index.restated {
                txn.put(Keyspace::Indexes, rows::definition(bucket, &index.name), &index.row);
            }
        }
    }
}

/// Does something for every index of a bucket whose partition holds `object`.
fn each(
    txn: &mut Txn<'_>,
    bucket: &BucketRow,
    object: &ObjectKey,
    mut work: impl FnMut(&mut Txn<'_>, &mut Defined) -> Result<(), Stop>,
) -> Result<(), Stop> {
    let mut indexes = defined(txn, bucket)?;
    if indexes.is_empty() {
        return Ok(());
    }
    for index in indexes.iter_mut().filter(|index| object.as_str().starts_with(&index.row.prefix)) {
        work(txn, index)?;
    }
    txn.indexes.insert(bucket.id, indexes);
    Ok(())
}

/// A name is about to get bytes that come with the command. In a strict bucket they must have been read for each index, in
/// case they do not parse: whoever sent them without had not heard of it.
pub(crate) fn check_read(txn: &mut Txn<'_>, bucket: &BucketRow, object: &ObjectKey) -> Result<(), Stop> {
    if bucket.settings.on_parse_error != Some(OnParseError::Strict) {
        return Ok(());
    }
    each(txn, bucket, object, |txn, index| {
        let covers = is_of_content(&index.row) && index.row.state.covers(object.as_str());
        let is_read = txn.extracted.iter().any(|extracted| extracted.index == index.row.id);
        if covers && !is_read { Err(Error::Changed.into()) } else { Ok(()) }
    })
}

/// A name got this version.
pub(crate) fn named(txn: &mut Txn<'_>, bucket: &BucketRow, name: Named<'_>) -> Result<(), Stop> {
    each(txn, bucket, name.object, |txn, index| {
        if !index.row.state.covers(name.object.as_str()) {
            return remove(txn, index, name.object);
        }
        let strict = bucket.settings.on_parse_error == Some(OnParseError::Strict);
        let outcome = outcome_of(txn, index, name)?;
        remove(txn, index, name.object)?;
        store(txn, index, name, &outcome, strict)
    })
}

/// A name has this older version again, because newer ones were deleted: this cannot be refused. Where a unique index
/// would, the object stands aside.
pub(crate) fn promoted(txn: &mut Txn<'_>, bucket: &BucketRow, name: Named<'_>) -> Result<(), Stop> {
    each(txn, bucket, name.object, |txn, index| {
        remove(txn, index, name.object)?;
        if !index.row.state.covers(name.object.as_str()) {
            return Ok(());
        }
        let outcome = outcome_of(txn, index, name);
        match outcome.and_then(|outcome| store(txn, index, name, &outcome, false)) {
            Err(Stop::Refused(refusal)) => {
                set_aside(txn, index, name, Known::Unparsed, &refusal.to_string());
                Ok(())
            }
            stored => stored,
        }
    })
}

/// A name is gone.
pub(crate) fn unnamed(txn: &mut Txn<'_>, bucket: &BucketRow, object: &ObjectKey) -> Result<(), Stop> {
    each(txn, bucket, object, |txn, index| remove(txn, index, object))
}

/// The version of a name got other tags.
pub(crate) fn retagged(txn: &mut Txn<'_>, bucket: &BucketRow, name: Named<'_>) -> Result<(), Stop> {
    described(txn, bucket, name, |expression| matches!(expression, Expression::Tag(_)))
}

/// The version of a name got other user metadata.
pub(crate) fn remarked(txn: &mut Txn<'_>, bucket: &BucketRow, name: Named<'_>) -> Result<(), Stop> {
    described(txn, bucket, name, |expression| matches!(expression, Expression::Metadata(_)))
}

/// The version of a name got other attributes of some kind; its bytes are the same.
fn described(
    txn: &mut Txn<'_>,
    bucket: &BucketRow,
    name: Named<'_>,
    changed: impl Fn(&Expression) -> bool,
) -> Result<(), Stop> {
    each(txn, bucket, name.object, |txn, index| {
        let concerned = index.row.expressions.iter().any(&changed);
        if !concerned || !index.row.state.covers(name.object.as_str()) {
            return Ok(());
        }
        let outcome = if is_of_content(&index.row) {
            kept(txn, index, name.object, name.place)?.unwrap_or(Outcome::Pending)
        } else {
            attributes_only()
        };
        remove(txn, index, name.object)?;
        store(txn, index, name, &outcome, false)
    })
}

/// A name with its version.
#[derive(Clone, Copy)]
pub(crate) struct Named<'a> {
    /// The name.
    pub(crate) object: &'a ObjectKey,
    /// Its version.
    pub(crate) place: Place,
    /// The version's row.
    pub(crate) row: &'a HistoryRow,
}

fn is_of_content(row: &IndexRow) -> bool {
    row.expressions.iter().any(Expression::of_content)
}

/// What an index on attributes finds in any content: one row, of which nothing is read.
fn attributes_only() -> Outcome {
    Outcome::Rows(vec![Entry { tuple: Vec::new(), offset: 0, length: 0 }])
}

/// What is known of the content that a name just got.
fn outcome_of<'a>(txn: &Txn<'a>, index: &Defined, name: Named<'_>) -> Result<Cow<'a, Outcome>, Stop> {
    if !is_of_content(&index.row) {
        return Ok(Cow::Owned(attributes_only()));
    }
    if let Some(extracted) = txn.extracted.iter().find(|extracted| extracted.index == index.row.id) {
        return Ok(Cow::Borrowed(&extracted.outcome));
    }
    let carried = match &txn.carried {
        Some(carried) if carried.key != *name.object || carried.place != name.place => {
            kept(txn, index, &carried.key, carried.place)?
        }
        _ => None,
    };
    match carried {
        Some(outcome) => Ok(Cow::Owned(outcome)),
        // Whoever writes must have read the bytes for this very index. A mount cannot: it is told so when it is stored.
        None if index.row.unique && !txn.unread => Err(Error::Changed.into()),
        None => Ok(Cow::Owned(Outcome::Pending)),
    }
}

/// What the index holds of the content of a name, as an outcome for another name. `None` when it does not know the content,
/// or a run holds it: then it must be read.
fn kept(txn: &Txn<'_>, index: &Defined, object: &ObjectKey, place: Place) -> Result<Option<Outcome>, Stop> {
    let row: Option<ObjectIndexRow> =
        txn.reader().row(Keyspace::Indexes, &rows::object(index.row.id, object.as_str()))?;
    let Some(row) = row.filter(|row| row.place == place && row.known == Known::Rows) else { return Ok(None) };
    let Some(posting) = row.posting else { return Ok(Some(Outcome::Rows(Vec::new()))) };
    let entries: Option<EntriesRow> = txn.reader().row(Keyspace::Indexes, &rows::entries_of(index.row.id, posting))?;
    let Some(entries) = entries else { return Ok(None) };
    let of_content = |entry: Entry| {
        let values = split_tuple(&entry.tuple)?;
        let tuple = values.iter().zip(&index.row.expressions).filter(|(_, expression)| expression.of_content());
        Some(Entry { tuple: tuple.flat_map(|(value, _)| value.iter().copied()).collect(), ..entry })
    };
    Ok(entries.entries.into_iter().map(of_content).collect::<Option<_>>().map(Outcome::Rows))
}

/// Writes what is known of a name's content. A refusal comes before any write.
fn store(txn: &mut Txn<'_>, index: &mut Defined, name: Named<'_>, outcome: &Outcome, strict: bool) -> Result<(), Stop> {
    index.counted = true;
    match outcome {
        Outcome::Rows(entries) => store_rows(txn, index, name, entries),
        Outcome::Blocks(blocks) => store_blocks(txn, index, name, blocks),
        Outcome::Unparsed(why) if strict => Err(Error::Unparsed { index: index.name.clone(), why: why.clone() }.into()),
        Outcome::Unparsed(why) => {
            set_aside(txn, index, name, Known::Unparsed, why);
            Ok(())
        }
        Outcome::Pending if index.row.unique => Err(Error::NotRead { index: index.name.clone() }.into()),
        Outcome::Pending => {
            set_aside(txn, index, name, Known::Pending, "");
            Ok(())
        }
    }
}

fn set_aside(txn: &mut Txn<'_>, index: &mut Defined, name: Named<'_>, known: Known, why: &str) {
    let unparsed = known == Known::Unparsed;
    let why = &why[..why.floor_char_boundary(REASON_BYTES_MAX)];
    let reason = why.as_bytes().to_vec();
    txn.put_bytes(Keyspace::Indexes, rows::aside(index.row.id, unparsed, name.object.as_str()), reason);
    put_object(txn, index, name, ObjectIndexRow { place: name.place, known, posting: None, entries: 0, bytes: None });
    if unparsed {
        index.counts.unparsed += 1;
    } else {
        index.counts.pending += 1;
        txn.effect(Effect::IndexQueued);
    }
}

fn put_object(txn: &mut Txn<'_>, index: &Defined, name: Named<'_>, row: ObjectIndexRow) {
    txn.put(Keyspace::Indexes, rows::object(index.row.id, name.object.as_str()), &row);
}

fn new_posting(txn: &mut Txn<'_>, index: &mut Defined, name: Named<'_>) -> Posting {
    let posting = Posting { revision: txn.revision(), ordinal: txn.next_posting };
    txn.next_posting += 1;
    let row = PostingRow { key: name.object.as_str().to_owned(), place: name.place };
    txn.put(Keyspace::Indexes, rows::posting(index.row.id, posting), &row);
    index.counts.objects += 1;
    posting
}

fn store_rows(txn: &mut Txn<'_>, index: &mut Defined, name: Named<'_>, found: &[Entry]) -> Result<(), Stop> {
    if found.len() > txn.entries_left {
        if index.row.unique {
            return Err(Error::NotRead { index: index.name.clone() }.into());
        }
        set_aside(txn, index, name, Known::Pending, "");
        return Ok(());
    }
    txn.entries_left -= found.len();
    let mut entries = Vec::with_capacity(found.len());
    for entry in found {
        if let Some(tuple) = tuple_of(&index.row, name, &entry.tuple)? {
            entries.push(Entry { tuple, ..*entry });
        }
    }
    if index.row.unique {
        let mut tuples = BTreeSet::new();
        for entry in &entries {
            if !tuples.insert(&entry.tuple) {
                return Err(Error::DuplicateValue { index: index.name.clone() }.into());
            }
            check_unique(txn, index, name, &entry.tuple)?;
        }
    }
    if entries.is_empty() {
        let none = ObjectIndexRow { place: name.place, known: Known::Rows, posting: None, entries: 0, bytes: None };
        put_object(txn, index, name, none);
        return Ok(());
    }
    let posting = new_posting(txn, index, name);
    let mut bytes = 0;
    for (number, entry) in (0u32..).zip(&entries) {
        let (row_key, value) = entry_row(&index.row, posting, number, entry);
        bytes += (row_key.len() + value.len()) as u64;
        txn.put_bytes(Keyspace::Indexes, row_key, value);
    }
    let count = entries.len() as u32;
    index.counts.entries += u64::from(count);
    txn.put(Keyspace::Indexes, rows::entries_of(index.row.id, posting), &EntriesRow { entries, blocks: 0 });
    index.counts.bytes += bytes;
    let (known, posting, bytes) = (Known::Rows, Some(posting), Some(bytes));
    put_object(txn, index, name, ObjectIndexRow { place: name.place, known, posting, entries: count, bytes });
    Ok(())
}

fn entry_row(index: &IndexRow, posting: Posting, number: u32, entry: &Entry) -> (Vec<u8>, Vec<u8>) {
    let mut value = entry.offset.to_be_bytes().to_vec();
    value.extend(entry.length.to_be_bytes());
    if index.kind == IndexKind::BTree {
        return (rows::entry(index.id, &entry.tuple, posting, number), value);
    }
    if index.unique {
        value.extend(&entry.tuple);
    }
    (rows::entry(index.id, &bloom::hash(&entry.tuple).to_be_bytes(), posting, number), value)
}

/// The whole tuple of a row: its attributes and, in their order, the values of its content. `None` when it has no entry.
fn tuple_of(index: &IndexRow, name: Named<'_>, of_content: &[u8]) -> Result<Option<Vec<u8>>, Stop> {
    let values = split_tuple(of_content).ok_or_else(|| Error::invalid("an entry is not a tuple of values"))?;
    let mut values = values.into_iter();
    let mut tuple = Vec::new();
    for (at, expression) in index.expressions.iter().enumerate() {
        let start = tuple.len();
        if expression.of_content() {
            let value = values.next().ok_or_else(|| Error::invalid("an entry has too few values"))?;
            tuple.extend(value);
        } else {
            attribute(expression, name).encode(&mut tuple);
        }
        let null = tuple[start] == Class::Null as u8;
        if null && (at == 0 || index.kind == IndexKind::Hash || index.unique) {
            return Ok(None);
        }
        if index.unique && tuple.len() - start > TEXT_BYTES_MAX {
            return Err(Error::invalid("a value of a unique index has fewer than 512 bytes").into());
        }
    }
    match values.next() {
        Some(_) => Err(Error::invalid("an entry has too many values").into()),
        None => Ok(Some(tuple)),
    }
}

fn attribute<'a>(expression: &Expression, name: Named<'a>) -> Value<'a> {
    let Some(version) = &name.row.version else { return Value::Null };
    let text = |text: Option<&'a String>| text.map_or(Value::Null, |text| Value::canonical(text));
    match expression {
        Expression::Key => Value::canonical(name.object.as_str()),
        // As SQL's `split_part` says of a part that is not there.
        Expression::KeyPart(part) => {
            let part = name.object.as_str().split('/').nth(usize::from(*part).saturating_sub(1));
            Value::canonical(part.unwrap_or_default())
        }
        Expression::Size => i64::try_from(version.size).map_or(Value::Null, Value::Integer),
        Expression::LastModified => {
            i64::try_from(name.row.modified_ms).map_or(Value::Null, |ms| Value::Time(ms.saturating_mul(1000)))
        }
        Expression::Etag => Value::canonical(&version.etag),
        Expression::ContentType => text(version.attributes.headers.content_type.as_ref()),
        Expression::Metadata(name) => text(version.attributes.metadata.get(name)),
        Expression::Tag(name) => text(version.attributes.tags.get(name)),
        Expression::Field(_) => Value::Null,
    }
}

/// No other live row has this tuple.
fn check_unique(txn: &Txn<'_>, index: &Defined, name: Named<'_>, tuple: &[u8]) -> Result<(), Stop> {
    let hashed = bloom::hash(tuple).to_be_bytes();
    let start = if index.row.kind == IndexKind::Hash { &hashed } else { tuple };
    for row in txn.reader().rows(Keyspace::Indexes, KeyRange::prefix(&rows::entries(index.row.id, start))) {
        let (row_key, value) = row?;
        let (_, posting) = rows::entry_parts(&row_key)?;
        if index.row.kind == IndexKind::Hash && value.get(12..) != Some(tuple) {
            continue;
        }
        if is_live_elsewhere(txn, index, name, posting)? {
            return Err(Error::DuplicateValue { index: index.name.clone() }.into());
        }
    }
    Ok(())
}

fn is_live_elsewhere(txn: &Txn<'_>, index: &Defined, name: Named<'_>, posting: Posting) -> Result<bool, Stop> {
    let row: Option<PostingRow> = txn.reader().row(Keyspace::Indexes, &rows::posting(index.row.id, posting))?;
    let Some(row) = row else { return Ok(false) };
    let moves = txn.carried.as_ref().is_some_and(|carried| carried.moves && carried.key.as_str() == row.key);
    if row.key == name.object.as_str() || moves {
        return Ok(false);
    }
    let object: Option<ObjectIndexRow> = txn.reader().row(Keyspace::Indexes, &rows::object(index.row.id, &row.key))?;
    Ok(object.is_some_and(|object| object.posting == Some(posting)))
}

fn store_blocks(txn: &mut Txn<'_>, index: &mut Defined, name: Named<'_>, blocks: &[BlockRow]) -> Result<(), Stop> {
    let bytes: usize = blocks.iter().map(|block| block.low.len() + block.high.len() + block.bloom.len()).sum();
    if blocks.len() > BLOCKS_MAX || bytes > BLOCK_SUMMARY_BYTES_MAX {
        return Err(Error::invalid("an object has at most 1,024 blocks, with summaries of 2 MiB").into());
    }
    if index.row.unique {
        return Err(Error::NotRead { index: index.name.clone() }.into());
    }
    if index.row.expressions.iter().any(|expression| !expression.of_content()) {
        set_aside(txn, index, name, Known::Unparsed, "too large for an index that is also on attributes");
        return Ok(());
    }
    let posting = new_posting(txn, index, name);
    let mut bytes = 0;
    for (number, block) in (0u32..).zip(blocks) {
        let (row_key, value) = (rows::block(index.row.id, posting, number), block.encode());
        bytes += (row_key.len() + value.len()) as u64;
        txn.put_bytes(Keyspace::Indexes, row_key, value);
    }
    let list = EntriesRow { entries: Vec::new(), blocks: blocks.len() as u32 };
    txn.put(Keyspace::Indexes, rows::entries_of(index.row.id, posting), &list);
    index.counts.bytes += bytes;
    index.counts.block_bytes = Some(index.counts.block_bytes.unwrap_or_default() + bytes);
    let (known, posting, bytes) = (Known::Blocks, Some(posting), Some(bytes));
    put_object(txn, index, name, ObjectIndexRow { place: name.place, known, posting, entries: 0, bytes });
    Ok(())
}

/// Takes back what is known of a name.
fn remove(txn: &mut Txn<'_>, index: &mut Defined, object: &ObjectKey) -> Result<(), Stop> {
    let row_key = rows::object(index.row.id, object.as_str());
    let row: Option<ObjectIndexRow> = txn.reader().row(Keyspace::Indexes, &row_key)?;
    let Some(row) = row else { return Ok(()) };
    txn.delete(Keyspace::Indexes, row_key);
    index.counted = true;
    let counted = match row.known {
        Known::Pending => &mut index.counts.pending,
        Known::Unparsed => &mut index.counts.unparsed,
        Known::Rows | Known::Blocks => {
            let Some(posting) = row.posting else { return Ok(()) };
            index.counts.objects = index.counts.objects.saturating_sub(1);
            index.counts.entries = index.counts.entries.saturating_sub(u64::from(row.entries));
            remove_bytes(txn, index, &row, posting)?;
            return remove_posting(txn, index, posting, row.entries as usize);
        }
    };
    *counted = counted.saturating_sub(1);
    txn.delete(Keyspace::Indexes, rows::aside(index.row.id, row.known == Known::Unparsed, object.as_str()));
    Ok(())
}

fn remove_posting(txn: &mut Txn<'_>, index: &mut Defined, posting: Posting, entries: usize) -> Result<(), Stop> {
    if entries > EAGER_ENTRIES_MAX || entries == 0 {
        txn.put_bytes(Keyspace::Indexes, rows::garbage(index.row.id, posting), Vec::new());
        txn.effect(Effect::IndexQueued);
        return Ok(());
    }
    erase(txn, index.row.id, Some(index.row.kind), posting)
}

/// Counts the rows of a posting out, which is live still. Those that a run holds are out already.
fn remove_bytes(txn: &Txn<'_>, index: &mut Defined, row: &ObjectIndexRow, posting: Posting) -> Result<(), Stop> {
    let in_state = txn.reader().0.get(Keyspace::Indexes, &rows::entries_of(index.row.id, posting))?.is_some();
    let bytes = row.bytes.unwrap_or_default();
    if in_state {
        index.counts.bytes = index.counts.bytes.saturating_sub(bytes);
    }
    if row.known == Known::Blocks {
        index.counts.block_bytes =
            index.counts.block_bytes.and_then(|all| all.checked_sub(bytes)).filter(|left| *left > 0);
    }
    Ok(())
}

/// Deletes the rows of a posting.
fn erase(txn: &mut Txn<'_>, index: u64, kind: Option<IndexKind>, posting: Posting) -> Result<(), Stop> {
    let list = erase_entries(txn, index, kind, posting)?;
    for number in 0..list.blocks {
        txn.delete(Keyspace::Indexes, rows::block(index, posting, number));
    }
    txn.delete(Keyspace::Indexes, rows::posting(index, posting));
    Ok(())
}

/// Deletes the entries of a posting and the list of them, which it gives. Both kinds of keys are tried when the kind is not
/// known any more.
fn erase_entries(txn: &mut Txn<'_>, index: u64, kind: Option<IndexKind>, posting: Posting) -> Result<EntriesRow, Stop> {
    let list_key = rows::entries_of(index, posting);
    let Some(list) = txn.reader().row::<EntriesRow>(Keyspace::Indexes, &list_key)? else {
        return Ok(EntriesRow::default());
    };
    for (number, entry) in (0u32..).zip(&list.entries) {
        if kind.is_none_or(|kind| kind == IndexKind::BTree) {
            txn.delete(Keyspace::Indexes, rows::entry(index, &entry.tuple, posting, number));
        }
        if kind.is_none_or(|kind| kind == IndexKind::Hash) {
            let hash = bloom::hash(&entry.tuple).to_be_bytes();
            txn.delete(Keyspace::Indexes, rows::entry(index, &hash, posting, number));
        }
    }
    txn.delete(Keyspace::Indexes, list_key);
    Ok(list)
}

/// What a job has read; see [`IndexObjects`].
pub(crate) fn index_objects(txn: &mut Txn<'_>, op: &IndexObjects) -> Result<Reply, Stop> {
    if op.objects.len() > JOB_ROWS_MAX {
        return Err(Error::invalid("too many rows for one command").into());
    }
    let bucket = bucket::load(txn, &op.bucket)?;
    let mut indexes = defined(txn, &bucket)?;
    let found = indexes.iter_mut().find(|index| index.name == op.name && index.row.id == op.index);
    let index = found.ok_or(Error::NoSuchIndex)?;
    let done = match &op.cursor {
        Some(cursor) => build(txn, index, &bucket, op, cursor),
        None => drain(txn, index, &bucket, &op.objects),
    };
    match done {
        Ok(()) => {}
        Err(Stop::Refused(refusal)) if op.cursor.is_some() && refusal != Error::Changed => {
            index.row.state = IndexState::Failed(refusal.to_string());
            index.restated = true;
            txn.event(EventRow::of_object(EventKind::IndexFailed, &op.bucket.name, &op.name));
        }
        Err(stop) => return Err(stop),
    }
    txn.indexes.insert(bucket.id, indexes);
    Ok(Reply::Done)
}

/// Moves the cursor of an index that is being built, and makes every name known that it passes.
fn build(
    txn: &mut Txn<'_>,
    index: &mut Defined,
    bucket: &BucketRow,
    op: &IndexObjects,
    cursor: &str,
) -> Result<(), Stop> {
    if index.row.state != IndexState::Building(cursor.to_owned()) {
        return Err(Error::Changed.into());
    }
    let (names, ended) = names_to_pass(txn, index, bucket, op, cursor)?;
    let read: BTreeMap<&ObjectKey, &ReadObject> = op.objects.iter().map(|object| (&object.key, object)).collect();
    let attributes = attributes_only();
    for (object, place) in &names {
        let row = txn.reader().history(bucket.id, object, *place)?.ok_or(Error::NoSuchKey)?;
        let outcome = match read.get(object).filter(|read| read.place == *place && is_as_read(&row, read)) {
            _ if !is_of_content(&index.row) => &attributes,
            Some(read) => &read.outcome,
            None if index.row.unique => return Err(Error::Changed.into()),
            None => &Outcome::Pending,
        };
        remove(txn, index, object)?;
        store(txn, index, Named { object, place: *place, row: &row }, outcome, false)?;
    }
    index.restated = true;
    index.row.state = match &op.next {
        None if ended => {
            txn.event(EventRow::of_object(EventKind::IndexReady, &op.bucket.name, &op.name));
            IndexState::Ready
        }
        Some(next) if ended => IndexState::Building(next.clone()),
        _ => IndexState::Building(names.last().map_or(cursor, |(object, _)| object.as_str()).to_owned()),
    };
    txn.effect(Effect::IndexQueued);
    Ok(())
}

/// Names behind the cursor up to the new one, at most [`JOB_ROWS_MAX`], and whether these are all.
fn names_to_pass(
    txn: &Txn<'_>,
    index: &Defined,
    bucket: &BucketRow,
    op: &IndexObjects,
    cursor: &str,
) -> Result<(Vec<(ObjectKey, Place)>, bool), Stop> {
    let prefix = key::name(bucket.id, &index.row.prefix);
    let mut from = key::name(bucket.id, cursor).max(prefix.clone());
    if !cursor.is_empty() {
        from.push(0);
    }
    let mut names = Vec::new();
    for row in txn.reader().rows(Keyspace::Names, KeyRange::prefix_from(&prefix, from)) {
        let (row_key, value) = row?;
        let name = key::name_key(&row_key)?;
        if op.next.as_deref().is_some_and(|next| name > next) {
            break;
        }
        if names.len() == JOB_ROWS_MAX {
            return Ok((names, false));
        }
        let object = name.parse().map_err(|_| Error::NoSuchKey)?;
        names.push((object, crate::record::NameRow::decode(&value)?.place));
    }
    Ok((names, true))
}

/// Whether the bytes are those that were read: a mount may have changed them where they are.
fn is_as_read(row: &HistoryRow, read: &ReadObject) -> bool {
    row.version.as_ref().is_some_and(|version| version.is_as_read(read.generation))
}

/// Makes objects known that were pending.
fn drain(txn: &mut Txn<'_>, index: &mut Defined, bucket: &BucketRow, objects: &[ReadObject]) -> Result<(), Stop> {
    for read in objects {
        let row_key = rows::object(index.row.id, read.key.as_str());
        let row: Option<ObjectIndexRow> = txn.reader().row(Keyspace::Indexes, &row_key)?;
        let pending = row.is_some_and(|row| row.known == Known::Pending && row.place == read.place);
        let name = txn.reader().name(bucket.id, &read.key)?.filter(|name| name.place == read.place);
        if !pending || name.is_none() || read.outcome == Outcome::Pending {
            continue;
        }
        let row = txn.reader().history(bucket.id, &read.key, read.place)?.ok_or(Error::NoSuchKey)?;
        if !is_as_read(&row, read) {
            continue;
        }
        remove(txn, index, &read.key)?;
        let named = Named { object: &read.key, place: read.place, row: &row };
        store(txn, index, named, &read.outcome, false)?;
    }
    Ok(())
}

/// Removes garbage, then what dropped indexes left behind.
pub(crate) fn trim(txn: &mut Txn<'_>, op: &TrimIndexes) -> Result<Reply, Stop> {
    if op.rows as usize > JOB_ROWS_MAX {
        return Err(Error::invalid("too many rows for one command").into());
    }
    let most = u64::from(op.rows);
    let mut garbage = Vec::new();
    for row in txn.reader().rows(Keyspace::Indexes, KeyRange::prefix(&rows::all_garbage())).take(op.rows as usize) {
        garbage.push(rows::garbage_parts(&row?.0)?);
    }
    let before = txn.writes();
    for (index, posting) in garbage {
        // One posting has at most ENTRIES_MAX entries, so a command ends soon after its bound.
        if txn.writes() - before >= most {
            break;
        }
        erase(txn, index, None, posting)?;
        txn.delete(Keyspace::Indexes, rows::garbage(index, posting));
    }
    while txn.writes() - before < most {
        let next = txn.reader().rows(Keyspace::Indexes, KeyRange::prefix(&rows::all_dropped())).next().transpose()?;
        let Some((dropped, _)) = next else { break };
        let id = rows::dropped_id(&dropped)?;
        let left = usize::try_from(most - (txn.writes() - before)).unwrap_or(usize::MAX);
        let mut of_it = Vec::new();
        for prefix in rows::everything(id) {
            let range = KeyRange::prefix(&prefix);
            for row in txn.reader().rows(Keyspace::Indexes, range).take(left - of_it.len()) {
                of_it.push(row?.0.to_vec());
            }
        }
        if of_it.len() < left {
            of_it.push(dropped.to_vec());
        }
        of_it.into_iter().for_each(|row_key| txn.delete(Keyspace::Indexes, row_key));
    }
    let removed = txn.writes() - before;
    let any = |prefix: Vec<u8>| txn.reader().any(Keyspace::Indexes, &prefix);
    let more = any(rows::all_garbage())? || any(rows::all_dropped())?;
    Ok(Reply::Trimmed { rows: u32::try_from(removed).unwrap_or(u32::MAX), more })
}
