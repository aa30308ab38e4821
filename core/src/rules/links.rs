//! Names of an object that has several: hard links, made by a mount.
//!
//! An object with one name has no rows here. One with more has an [`ObjectRow`] that counts its names and a [`LinkRow`] for
//! each; all of these names are live, and their current versions are the same: object, body, attributes. Whatever makes a
//! name refer to another object, or ends it, tells [`stopped`]; whatever moves a name or adds one tells [`started`] before.
//! A version that becomes the latest again because newer ones were deleted is a new object, so that it never comes back as
//! a name of one that has others by now.

use crate::apply::Txn;
use crate::error::Error;
use crate::id::{BucketId, ObjectId, ObjectKey};
use crate::keyspace::{Keyspace, key};
use crate::kv::{Direction, KeyRange};
use crate::record::{LinkRow, ObjectRow, Record as _};
use crate::state::{Reader, Stop};

/// What is known of an object beyond the default.
pub(crate) fn object_row(reader: Reader<'_>, object: ObjectId) -> Result<Option<ObjectRow>, Stop> {
    reader.row(Keyspace::Objects, &key::object(object))
}

/// Names of an object that has a name.
pub(crate) fn count(reader: Reader<'_>, object: ObjectId) -> Result<u32, Stop> {
    Ok(object_row(reader, object)?.map_or(1, |row| row.links))
}

/// All names of an object, of which `name` is one.
pub(crate) fn names(reader: Reader<'_>, object: ObjectId, name: &ObjectKey) -> Result<Vec<ObjectKey>, Stop> {
    if count(reader, object)? < 2 {
        return Ok(vec![name.clone()]);
    }
    let rows = rows(reader, object)?;
    rows.into_iter().map(|(_, row)| row.key.parse().map_err(|_| Error::NoSuchKey.into())).collect()
}

fn rows(reader: Reader<'_>, object: ObjectId) -> Result<Vec<(Vec<u8>, LinkRow)>, Stop> {
    let mut found = Vec::new();
    for row in reader.rows(Keyspace::Links, KeyRange::prefix(&key::links(object))) {
        let (row_key, value) = row?;
        found.push((row_key.to_vec(), LinkRow::decode(&value)?));
    }
    Ok(found)
}

/// Makes the rows of an object whose only name so far is `name`, because it is about to get another.
pub(crate) fn begin(txn: &mut Txn<'_>, bucket: BucketId, object: ObjectId, name: &ObjectKey) -> Result<(), Stop> {
    if object_row(txn.reader(), object)?.is_none() {
        txn.put(Keyspace::Links, key::link(object, 0), &LinkRow { bucket, key: name.as_str().to_owned() });
        txn.put(Keyspace::Objects, key::object(object), &ObjectRow { links: 1, orphan: None });
    }
    Ok(())
}

/// A name is about to refer to an object that has others.
pub(crate) fn started(txn: &mut Txn<'_>, bucket: BucketId, object: ObjectId, name: &ObjectKey) -> Result<(), Stop> {
    let Some(row) = object_row(txn.reader(), object)?.filter(|row| row.orphan.is_none()) else { return Ok(()) };
    // Names of an object that has several are live, so a name that does not refer to it has no row here.
    if txn.reader().name(bucket, name)?.is_some_and(|name| name.object == object) {
        return Ok(());
    }
    let last = txn.reader().0.scan(Keyspace::Links, KeyRange::prefix(&key::links(object)), Direction::Reverse).next();
    let last = last.transpose()?.and_then(|(row_key, _)| key::link_ordinal(&row_key));
    let ordinal = last.map_or(Some(0), |last| last.checked_add(1)).ok_or(Error::TooManyLinks)?;
    txn.put(Keyspace::Links, key::link(object, ordinal), &LinkRow { bucket, key: name.as_str().to_owned() });
    txn.put(Keyspace::Objects, key::object(object), &ObjectRow { links: row.links + 1, orphan: None });
    Ok(())
}

/// A name does not refer to an object any more. With one name left the object needs no rows. Gives a name that it still
/// has, if it had several.
pub(crate) fn stopped(txn: &mut Txn<'_>, object: ObjectId, name: &ObjectKey) -> Result<Option<ObjectKey>, Stop> {
    let Some(row) = object_row(txn.reader(), object)?.filter(|row| row.orphan.is_none()) else { return Ok(None) };
    let (mut gone, mut other) = (None, None);
    for link in txn.reader().rows(Keyspace::Links, KeyRange::prefix(&key::links(object))) {
        let (row_key, value) = link?;
        let link = LinkRow::decode(&value)?;
        if link.key == name.as_str() {
            gone = Some(row_key);
        } else if other.is_none() {
            other = Some((row_key, link.key));
        }
        if gone.is_some() && other.is_some() {
            break;
        }
    }
    let Some(gone) = gone else { return Ok(None) };
    txn.delete(Keyspace::Links, gone.to_vec());
    let left = row.links.saturating_sub(1);
    if left > 1 {
        txn.put(Keyspace::Objects, key::object(object), &ObjectRow { links: left, ..row });
    } else {
        if let Some((row_key, _)) = &other {
            txn.delete(Keyspace::Links, row_key.to_vec());
        }
        txn.delete(Keyspace::Objects, key::object(object));
    }
    Ok(other.and_then(|(_, key)| key.parse().ok()))
}
