//! Buckets: creation, removal, settings.

use crate::apply::Txn;
use crate::command::{BucketRef, CreateBucket, Document, Reply, SetDocument, SetSettings, SetVersioning};
use crate::error::Error;
use crate::event::{EventKind, EventRow};
use crate::id::BucketId;
use crate::keyspace::{Keyspace, key};
use crate::kv::KeyRange;
use crate::record::{BucketRow, BucketSettings, Usage, Versioning};
use crate::rules::{HISTORY_MS_MAX, INLINE_BYTES_MAX, index, multipart, notify};
use crate::state::Stop;

/// Uploads that go with a bucket when it is removed. Their parts hold at most what one upload may hold; a bucket with more
/// is refused until some are aborted.
const UPLOADS_MAX: usize = 10_000;

pub(crate) fn create(txn: &mut Txn<'_>, op: &CreateBucket) -> Result<Reply, Stop> {
    if txn.reader().bucket(&op.name)?.is_some() {
        return Err(Error::BucketExists.into());
    }
    check_settings(&op.settings)?;
    let row = BucketRow {
        id: BucketId(txn.revision()),
        created_ms: txn.now_ms(),
        versioning: Versioning::Never,
        settings: op.settings.clone(),
        usage: Usage::default(),
        changed: txn.revision(),
        indexes: None,
    };
    txn.put_bytes(Keyspace::Settings, key::history_floor(row.id), 0u64.to_be_bytes().to_vec());
    txn.put(Keyspace::Buckets, key::bucket(op.name.as_str()), &row);
    txn.event(EventRow::of_bucket(EventKind::BucketCreated, &op.name));
    Ok(Reply::BucketCreated(row.id))
}

/// Removes a bucket without versions and markers. Uploads in progress are dropped with it, as S3 does. Rows of its
/// history that have ended are trimmed when they are due: they belong to its id, which nobody gets again.
pub(crate) fn delete(txn: &mut Txn<'_>, op: &BucketRef) -> Result<Reply, Stop> {
    let row = load(txn, op)?;
    if row.usage.versions > 0 {
        return Err(Error::BucketNotEmpty.into());
    }
    let mut uploads = Vec::new();
    for upload in txn.reader().rows(Keyspace::Parts, KeyRange::prefix(&key::uploads_prefix(row.id, ""))) {
        uploads.push(upload?.0.to_vec());
        if uploads.len() > UPLOADS_MAX {
            return Err(Error::BucketNotEmpty.into());
        }
    }
    let mut extents_left = multipart::UPLOAD_EXTENTS_MAX;
    for upload in uploads {
        let (_, place) = key::upload_parts(&upload)?;
        extents_left = multipart::drop_parts(txn, place, extents_left)?.ok_or(Error::BucketNotEmpty)?;
        txn.delete(Keyspace::Parts, upload);
    }
    notify::set_notification(txn, &op.name, &[])?;
    index::drop_all(txn, &op.name, &row)?;
    for kind in [Document::Cors, Document::Tags] {
        txn.delete(Keyspace::Settings, key::document(row.id, kind as u8));
    }
    txn.delete(Keyspace::Settings, key::history_floor(row.id));
    txn.delete(Keyspace::Buckets, key::bucket(op.name.as_str()));
    txn.event(EventRow::of_bucket(EventKind::BucketRemoved, &op.name));
    Ok(Reply::Done)
}

pub(crate) fn set_versioning(txn: &mut Txn<'_>, op: &SetVersioning) -> Result<Reply, Stop> {
    let mut row = load(txn, &op.bucket)?;
    row.versioning = if op.enabled { Versioning::Enabled } else { Versioning::Suspended };
    save(txn, &op.bucket, &row);
    txn.event(EventRow::of_bucket(EventKind::BucketChanged, &op.bucket.name));
    Ok(Reply::Done)
}

pub(crate) fn set_document(txn: &mut Txn<'_>, op: &SetDocument) -> Result<Reply, Stop> {
    let row = load(txn, &op.bucket)?;
    let row_key = key::document(row.id, op.kind as u8);
    match &op.document {
        document if op.kind == Document::Notification => {
            notify::set_notification(txn, &op.bucket.name, document.as_deref().unwrap_or_default())?;
        }
        Some(document) => txn.put_bytes(Keyspace::Settings, row_key, document.clone()),
        None => txn.delete(Keyspace::Settings, row_key),
    }
    txn.event(EventRow::of_bucket(EventKind::BucketChanged, &op.bucket.name));
    Ok(Reply::Done)
}

pub(crate) fn set_settings(txn: &mut Txn<'_>, op: &SetSettings) -> Result<Reply, Stop> {
    let mut row = load(txn, &op.bucket)?;
    check_settings(&op.settings)?;
    let new = &op.settings;
    let old = &mut row.settings;
    old.durability = new.durability.or(old.durability);
    old.inline_bytes = new.inline_bytes.or(old.inline_bytes);
    old.history_ms = new.history_ms.or(old.history_ms);
    old.on_parse_error = new.on_parse_error.or(old.on_parse_error);
    save(txn, &op.bucket, &row);
    txn.event(EventRow::of_bucket(EventKind::BucketChanged, &op.bucket.name));
    Ok(Reply::Done)
}

fn check_settings(settings: &BucketSettings) -> Result<(), Error> {
    if settings.history_ms.is_some_and(|history_ms| history_ms > HISTORY_MS_MAX) {
        return Err(Error::invalid("the history window is longer than ten years"));
    }
    if settings.inline_bytes.is_some_and(|inline_bytes| inline_bytes > INLINE_BYTES_MAX) {
        return Err(Error::invalid("inline_bytes is more than 1 MiB"));
    }
    Ok(())
}

/// The bucket, if it still is the one that the request began with.
pub(crate) fn load(txn: &Txn<'_>, bucket: &BucketRef) -> Result<BucketRow, Stop> {
    let row = txn.reader().bucket(&bucket.name)?.filter(|row| row.id == bucket.id);
    Ok(row.ok_or(Error::NoSuchBucket)?)
}

pub(crate) fn save(txn: &mut Txn<'_>, bucket: &BucketRef, row: &BucketRow) {
    txn.put(Keyspace::Buckets, key::bucket(bucket.name.as_str()), row);
}
