//! Objects: versions and delete markers, conditions, copy, append, tags.
//!
//! The versioning rules (S3 user guide, "How S3 Versioning works"):
//!
//! | bucket | a write | a delete of the name |
//! | --- | --- | --- |
//! | never versioned | ends the only version ("null"), adds a new one | ends it |
//! | enabled | adds a version | adds a delete marker |
//! | suspended | ends the "null" version or marker, adds a "null" version | ends it, adds a "null" marker |
//!
//! `names` has a row exactly when the newest row of a key that has not ended is a version. `nulls` has a row exactly
//! when the key has a "null" row that no name row stands for.

use std::collections::BTreeMap;

use crate::apply::Txn;
use crate::command::{
    AppendObject, Conditions, CopyObject, DeleteEntry, DeleteObjects, Deleted, Digests, Match, PutObject, Reply,
    SetTags, Source, Target, Written,
};
use crate::effect::Effect;
use crate::error::Error;
use crate::event::{EventKind, EventRow};
use crate::id::{BlobId, ObjectKey, Place};
use crate::keyspace::{Keyspace, key};
use crate::list::name_of;
use crate::record::{
    Attributes, Body, BucketRow, ContentId, HISTORY_MS_DEFAULT, HistoryRow, NameRow, NullRow, Version, Versioning,
};
use crate::rules::index::Named;
use crate::rules::mount::open_files;
use crate::rules::{DELETE_ENTRIES_MAX, OBJECT_BYTES_MAX, bucket, content, digest, index, links};
use crate::state::Stop;
use crate::view::{Condition, decide, shown_version};

pub(crate) fn put(txn: &mut Txn<'_>, op: &PutObject) -> Result<Reply, Stop> {
    let mut bucket = bucket::load(txn, &op.target.bucket)?;
    let name = check(txn, &bucket, &op.target)?;
    let extent = content::bring_in(txn, &op.content)?;
    let mut version = blank(txn, op.attributes.clone());
    version.size = op.content.size;
    version.body = extent.map_or(Body::Empty, Body::Single);
    describe(&mut version, &op.content.digests);
    index::check_read(txn, &bucket, &op.target.key)?;
    let written = write(txn, &mut bucket, &op.target.key, name, Draft::new(txn, op.nonce, version))?;
    bucket::save(txn, &op.target.bucket, &bucket);
    tell(txn, EventKind::Put, &op.target, &written);
    Ok(Reply::Written(written))
}

/// Tells of a version that was written.
pub(crate) fn tell(txn: &mut Txn<'_>, kind: EventKind, target: &Target, written: &Written) {
    txn.event(EventRow::of_object(kind, &target.bucket.name, target.key.as_str()).of_version(written));
}

/// A version without bytes, of a new object, made now.
pub(crate) fn blank(txn: &mut Txn<'_>, attributes: Attributes) -> Version {
    Version {
        object: txn.next_object(),
        size: 0,
        etag: String::new(),
        body: Body::Empty,
        attributes,
        sha256: None,
        crc64nvme: 0,
        checksum: None,
        parts: None,
        created_ms: txn.now_ms(),
        content_revision: txn.revision(),
        patched: None,
        open: None,
        crc_pending: None,
    }
}

pub(crate) fn describe(version: &mut Version, digests: &Digests) {
    version.etag = digest::hex(&digests.md5);
    version.sha256 = Some(digests.sha256);
    version.crc64nvme = digests.crc64nvme;
    version.checksum = digests.checksum.clone();
}

pub(crate) fn copy(txn: &mut Txn<'_>, op: &CopyObject) -> Result<Reply, Stop> {
    let (source_bucket, place, row) = source(txn, &op.source)?;
    let Some(from) = row.version.clone() else { return Err(Error::IsDeleteMarker.into()) };
    let mut bucket = bucket::load(txn, &op.target.bucket)?;
    let name = check(txn, &bucket, &op.target)?;
    let itself = op.source.bucket == op.target.bucket && op.source.key == op.target.key && op.source.version.is_none();
    if itself && op.attributes.is_none() && op.tags.is_none() && op.checksum.is_none() {
        return Err(Error::CopyToItself.into());
    }
    let mut attributes = op.attributes.clone().unwrap_or_else(|| from.attributes.clone());
    attributes.tags = op.tags.clone().unwrap_or_else(|| from.attributes.tags.clone());
    let mut version = Version { attributes, ..from.clone() };
    version.object = txn.next_object();
    version.created_ms = txn.now_ms();
    version.content_revision = txn.revision();
    (version.patched, version.open) = (None, None);
    if let Some(checksum) = &op.checksum {
        content::check_checksum(Some(checksum))?;
        version.checksum = Some(checksum.clone()).filter(|sum| sum.algorithm != crc64());
        // Boundaries carry values of the old algorithm.
        version.parts = None;
    }
    content::retain_version(txn, &version)?;
    if source_bucket.id == bucket.id {
        txn.carried = Some(index::Carried { key: op.source.key.clone(), place, moves: false });
    }
    let mut written = write(txn, &mut bucket, &op.target.key, name, Draft::new(txn, op.nonce, version))?;
    written.source_version = shown_version(&source_bucket, &row, place);
    bucket::save(txn, &op.target.bucket, &bucket);
    tell(txn, EventKind::Copy, &op.target, &written);
    Ok(Reply::Written(written))
}

fn crc64() -> crate::record::ChecksumAlgorithm {
    crate::record::ChecksumAlgorithm::Crc64Nvme
}

pub(crate) fn append(txn: &mut Txn<'_>, op: &AppendObject) -> Result<Reply, Stop> {
    let mut bucket = bucket::load(txn, &op.target.bucket)?;
    let name = check(txn, &bucket, &op.target)?;
    let size = name.as_ref().map_or(0, |name| name.size);
    if op.offset != size {
        return Err(Error::InvalidWriteOffset { size }.into());
    }
    if op.content.size > OBJECT_BYTES_MAX - size {
        return Err(Error::TooLarge.into());
    }
    let extent = content::bring_in(txn, &op.content)?;
    let mut version = match &name {
        None => {
            let mut version = blank(txn, op.attributes.clone());
            version.body = extent.map_or(Body::Empty, Body::Single);
            describe(&mut version, &op.content.digests);
            version
        }
        Some(name) => {
            let old = latest(txn, &bucket, &op.target.key, name)?;
            let (patched, open) = (None, None);
            let mut version = Version { parts: None, checksum: None, sha256: None, patched, open, ..old.clone() };
            match extent.map(|extent| crate::record::Extent { offset: size, ..extent }) {
                Some(extent) => {
                    version.object = content::object_to_change(txn, &old)?;
                    let id = ContentId { object: version.object, revision: txn.revision() };
                    version.body = content::append(txn, id, &old, extent)?;
                }
                None => content::retain_version(txn, &version)?,
            }
            version.content_revision = txn.revision();
            // Its other names do not follow: it is another object from now on.
            if links::count(txn.reader(), version.object)? > 1 {
                version.object = txn.next_object();
            }
            version.crc64nvme = digest::combine_crc64(old.crc64nvme, op.content.digests.crc64nvme, op.content.size);
            version.etag = digest::opaque_etag(&old.etag, &op.content.digests.md5, size);
            version
        }
    };
    version.size = size + op.content.size;
    let written = write(txn, &mut bucket, &op.target.key, name, Draft::new(txn, op.nonce, version))?;
    bucket::save(txn, &op.target.bucket, &bucket);
    tell(txn, EventKind::Append, &op.target, &written);
    Ok(Reply::Written(written))
}

fn latest(txn: &Txn<'_>, bucket: &BucketRow, key: &ObjectKey, name: &NameRow) -> Result<Version, Stop> {
    let row = txn.reader().history(bucket.id, key, name.place)?;
    Ok(row.and_then(|row| row.version).ok_or(Error::NoSuchKey)?)
}

pub(crate) fn set_tags(txn: &mut Txn<'_>, op: &SetTags) -> Result<Reply, Stop> {
    let bucket = bucket::load(txn, &op.bucket)?;
    let (place, mut row) = match op.version {
        Some(version) => txn.reader().version(bucket.id, &op.key, version)?.ok_or(Error::NoSuchVersion)?,
        None => txn.reader().newest(bucket.id, &op.key, None)?.ok_or(Error::NoSuchKey)?,
    };
    let shown = shown_version(&bucket, &row, place);
    let modified_ms = row.modified_ms;
    let Some(version) = row.version.as_mut() else {
        return Err(if op.version.is_some() { Error::IsDeleteMarker } else { Error::NoSuchKey }.into());
    };
    version.attributes.tags = op.tags.clone();
    let written = Written {
        version: shown,
        etag: version.etag.clone(),
        checksum: version.shown_checksum(),
        modified_ms,
        size: version.size,
        source_version: None,
    };
    txn.put(Keyspace::History, key::history(bucket.id, op.key.as_str(), place), &row);
    if let Some(name) = txn.reader().name(bucket.id, &op.key)?.filter(|name| name.place == place) {
        index::retagged(txn, &bucket, Named { object: &op.key, place, row: &row })?;
        for other in links::names(txn.reader(), name.object, &op.key)?.iter().filter(|other| **other != op.key) {
            retag(txn, &bucket, other, &op.tags)?;
        }
    }
    let kind = if op.tags.is_empty() { EventKind::Untagged } else { EventKind::Tagged };
    txn.event(EventRow::of_object(kind, &op.bucket.name, op.key.as_str()).of_version(&written));
    Ok(Reply::Written(written))
}

/// Gives another name of the same object the same tags.
fn retag(
    txn: &mut Txn<'_>,
    bucket: &BucketRow,
    object: &ObjectKey,
    tags: &BTreeMap<String, String>,
) -> Result<(), Stop> {
    let Some(name) = txn.reader().name(bucket.id, object)? else { return Ok(()) };
    let Some(mut row) = txn.reader().history(bucket.id, object, name.place)? else { return Ok(()) };
    if let Some(version) = row.version.as_mut() {
        version.attributes.tags.clone_from(tags);
    }
    txn.put(Keyspace::History, key::history(bucket.id, object.as_str(), name.place), &row);
    index::retagged(txn, bucket, Named { object, place: name.place, row: &row })
}

pub(crate) fn delete(txn: &mut Txn<'_>, op: &DeleteObjects) -> Result<Reply, Stop> {
    if op.entries.is_empty() || op.entries.len() > DELETE_ENTRIES_MAX {
        return Err(Error::invalid("a delete has 1 to 1,000 entries").into());
    }
    let mut bucket = bucket::load(txn, &op.bucket)?;
    let mut deleted = Vec::with_capacity(op.entries.len());
    for entry in &op.entries {
        let there = txn.writes();
        deleted.push(match delete_entry(txn, &mut bucket, entry, op.nonce) {
            Ok(deleted) => {
                // Of what was not there nothing is told.
                if txn.writes() > there {
                    let marked = deleted.delete_marker && entry.version.is_none();
                    let kind = if marked { EventKind::Marker } else { EventKind::Delete };
                    let event = EventRow::of_object(kind, &op.bucket.name, entry.key.as_str());
                    txn.event(EventRow { version: deleted.version, ..event });
                }
                deleted
            }
            Err(Stop::Refused(refusal)) => {
                Deleted { delete_marker: false, version: entry.version, refused: vec![refusal] }
            }
            Err(fatal) => return Err(fatal),
        });
    }
    bucket::save(txn, &op.bucket, &bucket);
    Ok(Reply::Deleted(deleted))
}

/// A refusal comes before any write, so that the other entries are untouched by it.
fn delete_entry(
    txn: &mut Txn<'_>,
    bucket: &mut BucketRow,
    entry: &DeleteEntry,
    nonce: BlobId,
) -> Result<Deleted, Stop> {
    let name = txn.reader().name(bucket.id, &entry.key)?;
    check_delete(entry, name.as_ref())?;
    let Some(version) = entry.version else { return delete_name(txn, bucket, &entry.key, name, nonce) };
    let row = txn.reader().version(bucket.id, &entry.key, version)?;
    let delete_marker = row.as_ref().is_some_and(|(_, row)| row.version.is_none());
    if let Some((place, row)) = row {
        delete_version(txn, bucket, &entry.key, name, place, row)?;
    }
    Ok(Deleted { delete_marker, version: Some(version), refused: Vec::new() })
}

/// Conditions of a delete look at the current version only, also when another one is named. Source: S3 user guide, "How
/// to perform conditional deletes".
fn check_delete(entry: &DeleteEntry, name: Option<&NameRow>) -> Result<(), Error> {
    let conditional = !entry.if_match.is_empty() || entry.if_size.is_some() || entry.if_modified_ms.is_some();
    let Some(name) = name else { return if conditional { Err(Error::NoSuchKey) } else { Ok(()) } };
    if !entry.if_match.is_empty() && !entry.if_match.iter().any(|wanted| matches(wanted, Some(&name.etag))) {
        return Err(Error::failed("If-Match"));
    }
    if entry.if_size.is_some_and(|size| size != name.size) {
        return Err(Error::failed("x-amz-if-match-size"));
    }
    if entry.if_modified_ms.is_some_and(|modified_ms| modified_ms / 1000 != name.modified_ms / 1000) {
        return Err(Error::failed("x-amz-if-match-last-modified-time"));
    }
    Ok(())
}

fn matches(wanted: &Match, etag: Option<&str>) -> bool {
    match wanted {
        Match::Any => etag.is_some(),
        Match::Etag(wanted) => etag == Some(wanted.as_str()),
    }
}

/// Deletes the name: the version itself or, in a versioned bucket, by a marker on top of it.
pub(crate) fn delete_name(
    txn: &mut Txn<'_>,
    bucket: &mut BucketRow,
    object: &ObjectKey,
    name: Option<NameRow>,
    nonce: BlobId,
) -> Result<Deleted, Stop> {
    if bucket.versioning == Versioning::Never {
        if let Some(name) = name {
            end(txn, bucket, object, name.place)?;
            remove_name(txn, bucket, object, &name)?;
        }
        return Ok(Deleted { delete_marker: false, version: None, refused: Vec::new() });
    }
    let place = txn.next_place()?;
    let null = make_way(txn, bucket, object, name.as_ref())?;
    if let Some(name) = &name {
        remove_name(txn, bucket, object, name)?;
    }
    let row = HistoryRow { nonce, null, modified_ms: txn.now_ms(), version: None, ended: None };
    txn.put(Keyspace::History, key::history(bucket.id, object.as_str(), place), &row);
    if null {
        txn.put(Keyspace::Nulls, key::name(bucket.id, object.as_str()), &NullRow { place });
    }
    bucket.usage.versions += 1;
    bucket.changed = txn.revision();
    Ok(Deleted { delete_marker: true, version: Some(row.version_id(place)), refused: Vec::new() })
}

fn remove_name(txn: &mut Txn<'_>, bucket: &mut BucketRow, object: &ObjectKey, name: &NameRow) -> Result<(), Stop> {
    unlink(txn, bucket, object, name)?;
    txn.delete(Keyspace::Names, key::name(bucket.id, object.as_str()));
    bucket.usage.objects -= 1;
    bucket.changed = txn.revision();
    index::unnamed(txn, bucket, object)
}

/// A name does not refer to its object any more. A digest that may have waited under it waits under one that is left.
fn unlink(txn: &mut Txn<'_>, bucket: &BucketRow, object: &ObjectKey, name: &NameRow) -> Result<(), Stop> {
    let Some(other) = links::stopped(txn, name.object, object)? else { return Ok(()) };
    let Some(left) = txn.reader().name(bucket.id, &other)? else { return Ok(()) };
    let row = txn.reader().history(bucket.id, &other, left.place)?;
    let pending = |version: &Version| version.sha256.is_none() || version.crc_pending == Some(true);
    if row.and_then(|row| row.version).is_some_and(|version| pending(&version) && !version.is_open()) {
        queue_digest(txn, bucket, &other, left.place);
    }
    Ok(())
}

/// Deletes one version or marker for good; what is below it may become the latest.
fn delete_version(
    txn: &mut Txn<'_>,
    bucket: &mut BucketRow,
    object: &ObjectKey,
    name: Option<NameRow>,
    place: Place,
    row: HistoryRow,
) -> Result<(), Stop> {
    end(txn, bucket, object, place)?;
    bucket.changed = txn.revision();
    let name_key = key::name(bucket.id, object.as_str());
    if row.null {
        txn.delete(Keyspace::Nulls, name_key.clone());
    }
    if name.as_ref().is_some_and(|name| name.place != place) {
        return Ok(());
    }
    let newest = txn.reader().newest(bucket.id, object, None)?;
    let promoted = newest.and_then(|(place, row)| Some((name_of(&row, place)?, row)));
    match (&name, &promoted) {
        (Some(name), None) => remove_name(txn, bucket, object, name)?,
        (Some(name), Some(_)) => unlink(txn, bucket, object, name)?,
        (None, Some(_)) => bucket.usage.objects += 1,
        (None, None) => {}
    }
    if let Some((mut promoted, mut row)) = promoted {
        // Other names, or the session of a mount, may have the object by now: this is one of its own.
        promoted.object = txn.next_object();
        if let Some(version) = row.version.as_mut() {
            version.object = promoted.object;
        }
        txn.put(Keyspace::History, key::history(bucket.id, object.as_str(), promoted.place), &row);
        if promoted.null {
            txn.delete(Keyspace::Nulls, name_key.clone());
        }
        txn.put(Keyspace::Names, name_key, &promoted);
        index::promoted(txn, bucket, Named { object, place: promoted.place, row: &row })?;
    }
    Ok(())
}

/// Ends the life of a row: S3 does not show it any more, reads at a revision do, until it is trimmed.
pub(crate) fn end(txn: &mut Txn<'_>, bucket: &mut BucketRow, object: &ObjectKey, place: Place) -> Result<(), Stop> {
    let Some(mut row) = txn.reader().history(bucket.id, object, place)? else { return Ok(()) };
    row.ended = Some(txn.revision());
    txn.put(Keyspace::History, key::history(bucket.id, object.as_str(), place), &row);
    let due_ms = txn.now_ms() + bucket.settings.history_ms.unwrap_or(HISTORY_MS_DEFAULT);
    txn.put_bytes(Keyspace::Queues, key::ended(due_ms, bucket.id, object.as_str(), place), Vec::new());
    bucket.usage.versions -= 1;
    bucket.usage.bytes -= row.size();
    open_files::changed(txn, object, row.version.and_then(|version| version.open), None);
    Ok(())
}

/// Makes way for a new row on top of a key: ends the "null" row that a "null" one replaces, or keeps a pointer to one
/// that a name stood for. Says whether the new row is "null".
fn make_way(
    txn: &mut Txn<'_>,
    bucket: &mut BucketRow,
    object: &ObjectKey,
    name: Option<&NameRow>,
) -> Result<bool, Stop> {
    let null_name = name.filter(|name| name.null);
    if let Some(name) = name.filter(|name| !name.null || bucket.versioning == Versioning::Enabled) {
        seal(txn, bucket, object, name.place)?;
    }
    if bucket.versioning == Versioning::Enabled {
        if let Some(name) = null_name {
            txn.put(Keyspace::Nulls, key::name(bucket.id, object.as_str()), &NullRow { place: name.place });
        }
        return Ok(false);
    }
    if let Some(name) = null_name {
        end(txn, bucket, object, name.place)?;
    } else if let Some(place) = txn.reader().null(bucket.id, object)? {
        end(txn, bucket, object, place)?;
        txn.delete(Keyspace::Nulls, key::name(bucket.id, object.as_str()));
    }
    Ok(true)
}

/// A version that is not the latest any more is not written on: what a mount left open is finished.
fn seal(txn: &mut Txn<'_>, bucket: &BucketRow, object: &ObjectKey, place: Place) -> Result<(), Stop> {
    let Some(mut row) = txn.reader().history(bucket.id, object, place)? else { return Ok(()) };
    let Some(version) = row.version.as_mut().filter(|version| version.is_open()) else { return Ok(()) };
    let pending = version.sha256.is_none();
    open_files::changed(txn, object, version.open.take(), None);
    if pending {
        queue_digest(txn, bucket, object, place);
    }
    txn.put(Keyspace::History, key::history(bucket.id, object.as_str(), place), &row);
    Ok(())
}

pub(crate) fn queue_digest(txn: &mut Txn<'_>, bucket: &BucketRow, object: &ObjectKey, place: Place) {
    txn.put_bytes(Keyspace::Queues, key::queued_digest(bucket.id, object.as_str(), place), Vec::new());
    txn.effect(Effect::DigestQueued);
}

/// A version before it has a place.
pub(crate) struct Draft {
    nonce: BlobId,
    version: Version,
    modified_ms: u64,
    keep_created: bool,
}

impl Draft {
    pub(crate) fn new(txn: &Txn<'_>, nonce: BlobId, version: Version) -> Self {
        Self { nonce, version, modified_ms: txn.now_ms(), keep_created: false }
    }

    /// A version that moved: its times stay.
    pub(crate) fn moved(nonce: BlobId, version: Version, modified_ms: u64) -> Self {
        Self { nonce, version, modified_ms, keep_created: true }
    }
}

/// Writes a version on top of a key.
pub(crate) fn write(
    txn: &mut Txn<'_>,
    bucket: &mut BucketRow,
    object: &ObjectKey,
    name: Option<NameRow>,
    draft: Draft,
) -> Result<Written, Stop> {
    let place = txn.next_place()?;
    let mut version = draft.version;
    if let (Some(name), false) = (&name, draft.keep_created) {
        let old = txn.reader().history(bucket.id, object, name.place)?;
        version.created_ms = old.and_then(|row| row.version).map_or(version.created_ms, |old| old.created_ms);
    }
    let null = make_way(txn, bucket, object, name.as_ref())?;
    if let Some(name) = name.as_ref().filter(|name| name.object != version.object) {
        unlink(txn, bucket, object, name)?;
    }
    bucket.usage.objects += u64::from(name.is_none());
    bucket.usage.versions += 1;
    bucket.usage.bytes += version.size;
    bucket.changed = txn.revision();
    if version.sha256.is_none() && !version.is_open() {
        queue_digest(txn, bucket, object, place);
    }
    if let Body::Pages(content) = version.body
        && content.revision == txn.revision()
        && !version.is_open()
    {
        content::name_join(txn, content, bucket.id, object)?;
    }
    let (etag, checksum, size) = (version.etag.clone(), version.shown_checksum(), version.size);
    open_files::changed(txn, object, None, version.open);
    let row =
        HistoryRow { nonce: draft.nonce, null, modified_ms: draft.modified_ms, version: Some(version), ended: None };
    txn.put(Keyspace::History, key::history(bucket.id, object.as_str(), place), &row);
    let name = name_of(&row, place).expect("the row was just given a version");
    txn.put(Keyspace::Names, key::name(bucket.id, object.as_str()), &name);
    index::named(txn, bucket, Named { object, place, row: &row })?;
    txn.carried = None;
    let version = shown_version(bucket, &row, place);
    Ok(Written { version, etag, checksum, modified_ms: row.modified_ms, size, source_version: None })
}

/// Checks what the request demands of the key it writes; gives the live name.
pub(crate) fn check(txn: &Txn<'_>, bucket: &BucketRow, target: &Target) -> Result<Option<NameRow>, Stop> {
    let name = txn.reader().name(bucket.id, &target.key)?;
    check_conditions(&target.conditions, name.as_ref().map(|name| name.etag.as_str()))?;
    Ok(name)
}

fn check_conditions(conditions: &Conditions, etag: Option<&str>) -> Result<(), Error> {
    if conditions.if_none_match && etag.is_some() {
        return Err(Error::failed("If-None-Match"));
    }
    if conditions.if_match.is_empty() {
        return Ok(());
    }
    if etag.is_none() {
        return Err(Error::NoSuchKey);
    }
    let holds = conditions.if_match.iter().any(|wanted| matches(wanted, etag));
    if holds { Ok(()) } else { Err(Error::failed("If-Match")) }
}

/// The row that a copy reads, if its conditions hold. A pinned row may have ended meanwhile: it was read while it lived.
pub(crate) fn source(txn: &Txn<'_>, source: &Source) -> Result<(BucketRow, Place, HistoryRow), Stop> {
    let bucket = bucket::load(txn, &source.bucket)?;
    let reader = txn.reader();
    let (place, row) = match (source.pinned, source.version) {
        (Some(place), _) => {
            let row = reader.history(bucket.id, &source.key, place)?.ok_or(Error::Changed)?;
            if row.version.as_ref().is_some_and(|version| !version.is_as_read(source.generation)) {
                return Err(Error::Changed.into());
            }
            (place, row)
        }
        (None, Some(version)) => reader.version(bucket.id, &source.key, version)?.ok_or(Error::NoSuchVersion)?,
        (None, None) => {
            let name = reader.name(bucket.id, &source.key)?.ok_or(Error::NoSuchKey)?;
            (name.place, reader.history(bucket.id, &source.key, name.place)?.ok_or(Error::NoSuchKey)?)
        }
    };
    let Some(version) = &row.version else { return Err(Error::IsDeleteMarker.into()) };
    match decide(&source.conditions, &version.etag, row.modified_ms) {
        Condition::Holds => Ok((bucket, place, row)),
        Condition::NotModified => Err(Error::failed("If-None-Match or If-Modified-Since of the source").into()),
        Condition::Failed(condition) => Err(Error::failed(condition).into()),
    }
}
