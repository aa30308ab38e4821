//! Rename: of one object, or of every key under a prefix, in one command.
//!
//! In a bucket that was never versioned the name moves: same object, same content, same times. In an enabled or
//! suspended one the destination gets a new version of the same content and the source a delete marker. No bytes move.
//!
//! Source: S3 API, RenameObject; prefixes and versioned buckets are Holdfast's own extension.

use crate::apply::Txn;
use crate::command::{RenameObject, Reply, Source, SourceConditions, Written};
use crate::error::Error;
use crate::event::{EventKind, EventRow};
use crate::id::{BlobId, ObjectKey};
use crate::keyspace::{Keyspace, key};
use crate::kv::KeyRange;
use crate::record::{BucketRow, NameRow, Record, Versioning};
use crate::rules::object::{self, Draft};
use crate::rules::{RENAME_ROWS_MAX, bucket, content, index, links};
use crate::state::Stop;
use crate::view::{Condition, decide};

pub(crate) fn rename(txn: &mut Txn<'_>, op: &RenameObject) -> Result<Reply, Stop> {
    let mut bucket = bucket::load(txn, &op.target.bucket)?;
    if op.source.bucket != op.target.bucket {
        return Err(Error::invalid("a rename stays within its bucket").into());
    }
    if op.source.version.is_some() {
        return Err(Error::invalid("a rename moves the latest version").into());
    }
    let renamed = if op.prefix { prefix(txn, &mut bucket, op)? } else { single(txn, &mut bucket, op)? };
    bucket::save(txn, &op.target.bucket, &bucket);
    Ok(Reply::Renamed(renamed))
}

fn single(txn: &mut Txn<'_>, bucket: &mut BucketRow, op: &RenameObject) -> Result<u32, Stop> {
    let name = txn.reader().name(bucket.id, &op.source.key)?.ok_or(Error::NoSuchKey)?;
    if op.source.pinned.is_some_and(|pinned| pinned != name.place) {
        return Err(Error::Changed.into());
    }
    if op.source.pinned.is_some() {
        let row = txn.reader().history(bucket.id, &op.source.key, name.place)?;
        let version = row.and_then(|row| row.version);
        version.filter(|version| version.is_as_read(op.source.generation)).ok_or(Error::Changed)?;
    }
    check_source(&op.source, &name)?;
    let replaced = object::check(txn, bucket, &op.target)?;
    if op.source.key == op.target.key {
        return Err(Error::invalid("the source and the destination of a rename are the same key").into());
    }
    let moved = move_name(txn, bucket, &op.source.key, name, &op.target.key, replaced, op.nonce)?;
    let (bucket, from, to) = (&op.target.bucket.name, op.source.key.as_str(), op.target.key.as_str());
    let event = EventRow::of_object(EventKind::RenamedTo, bucket, to).of_version(&moved);
    txn.event(EventRow { source: Some(from.to_owned()), ..event });
    let event = EventRow::of_object(EventKind::RenamedFrom, bucket, from);
    txn.event(EventRow { source: Some(to.to_owned()), ..event });
    Ok(1)
}

fn check_source(source: &Source, name: &NameRow) -> Result<(), Error> {
    match decide(&source.conditions, &name.etag, name.modified_ms) {
        Condition::Holds => Ok(()),
        Condition::NotModified => Err(Error::failed("If-None-Match or If-Modified-Since of the source")),
        Condition::Failed(condition) => Err(Error::failed(condition)),
    }
}

fn prefix(txn: &mut Txn<'_>, bucket: &mut BucketRow, op: &RenameObject) -> Result<u32, Stop> {
    let (from, to) = (op.source.key.as_str(), op.target.key.as_str());
    if !from.ends_with('/') || !to.ends_with('/') {
        return Err(Error::invalid("a prefix that is renamed, and its new name, end with a slash").into());
    }
    if from.starts_with(to) || to.starts_with(from) {
        return Err(Error::invalid("a prefix cannot be renamed to one inside or around it").into());
    }
    // `If-None-Match: *` needs no check of its own: a destination that holds keys is refused.
    let conditional = op.source.conditions != SourceConditions::default() || !op.target.conditions.if_match.is_empty();
    if conditional || op.source.pinned.is_some() {
        return Err(Error::invalid("a prefix is renamed without conditions").into());
    }
    if txn.reader().any(Keyspace::Names, &key::name(bucket.id, to))? {
        return Err(Error::PrefixExists.into());
    }
    let names = names_under(txn, bucket, from, to)?;
    if names.is_empty() {
        return Err(Error::NoSuchKey.into());
    }
    let renamed = names.len() as u32;
    for (source, name, target) in names {
        move_name(txn, bucket, &source, name, &target, None, op.nonce)?;
    }
    let event = EventRow::of_object(EventKind::PrefixRenamed, &op.target.bucket.name, to);
    txn.event(EventRow { source: Some(from.to_owned()), ..event });
    Ok(renamed)
}

/// The names under `from`, each with what it is called under `to`.
pub(crate) fn names_under(
    txn: &Txn<'_>,
    bucket: &BucketRow,
    from: &str,
    to: &str,
) -> Result<Vec<(ObjectKey, NameRow, ObjectKey)>, Stop> {
    let mut names = Vec::new();
    for row in txn.reader().rows(Keyspace::Names, KeyRange::prefix(&key::name(bucket.id, from))) {
        if names.len() == RENAME_ROWS_MAX as usize {
            return Err(Error::TooManyRows { most: RENAME_ROWS_MAX }.into());
        }
        let (row_key, value) = row?;
        let source: ObjectKey = key::name_key(&row_key)?.parse().map_err(|_| Error::NoSuchKey)?;
        let target = format!("{to}{}", &source.as_str()[from.len()..]);
        let target: ObjectKey =
            target.parse().map_err(|_| Error::invalid("a renamed key would be longer than 1,024 bytes"))?;
        names.push((source, NameRow::decode(&value)?, target));
    }
    Ok(names)
}

pub(crate) fn move_name(
    txn: &mut Txn<'_>,
    bucket: &mut BucketRow,
    from: &ObjectKey,
    name: NameRow,
    to: &ObjectKey,
    replaced: Option<NameRow>,
    nonce: BlobId,
) -> Result<Written, Stop> {
    let row = txn.reader().history(bucket.id, from, name.place)?;
    let mut version = row.and_then(|row| row.version).ok_or(Error::NoSuchKey)?;
    content::retain_version(txn, &version)?;
    if bucket.versioning == Versioning::Never {
        links::started(txn, bucket.id, version.object, to)?;
    } else {
        version.object = txn.next_object();
        version.content_revision = txn.revision();
        version.patched = None;
    }
    let draft = Draft::moved(nonce, version, name.modified_ms);
    txn.carried = Some(index::Carried { key: from.clone(), place: name.place, moves: true });
    let written = object::write(txn, bucket, to, replaced, draft)?;
    object::delete_name(txn, bucket, from, Some(name), nonce)?;
    Ok(written)
}
