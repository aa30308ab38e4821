//! Content: blobs with reference counts, pages of extents, bases, boundaries.
//!
//! Each extent in a version, a part or a page holds one reference on its blob. Pages and boundaries belong to a
//! *content* (object id, content revision), which versions and other contents hold by reference; a content sees, for
//! each page, the newest row not above its revision, else its base's. What loses its last reference goes in the same
//! command; bytes in the backend are condemned and deleted later.

use std::collections::BTreeMap;

use crate::apply::Txn;
use crate::command::{NewBlob, NewContent, NewPlace};
use crate::effect::Effect;
use crate::error::Error;
use crate::id::{BlobId, BucketId, Millis, ObjectId, ObjectKey, Revision};
use crate::keyspace::{Keyspace, key, key::Queue};
use crate::kv::{Direction, KeyRange};
use crate::record::{
    BlobRow, Body, BoundariesRow, Boundary, Checksum, ContentId, ContentRow, Envelope, Extent, Location, PageRow,
    PartsRef, Version,
};
use crate::rules::{
    BASE_DEPTH_MAX, BLOB_AGE_MS_MAX, BLOCK_BYTES, BLOCKS_PER_PAGE, EXTENTS_MAX, EXTENTS_PER_PAGE_MAX, PART_BYTES_MAX,
    PARTS_PER_PAGE, digest,
};
use crate::state::Stop;
use crate::view::page_number;

/// Brings new bytes into the state, with one reference; no extent when there are none.
pub(crate) fn bring_in(txn: &mut Txn<'_>, content: &NewContent) -> Result<Option<Extent>, Stop> {
    if content.size > PART_BYTES_MAX {
        return Err(Error::TooLarge.into());
    }
    check_checksum(content.digests.checksum.as_ref())?;
    match &content.blob {
        None if content.size == 0 => Ok(None),
        Some(blob) if content.size > 0 => {
            bring_in_blob(txn, blob, content.size)?;
            Ok(Some(Extent { offset: 0, length: content.size, blob: blob.id, blob_offset: 0 }))
        }
        _ => Err(Error::invalid("a content has a blob if and only if it has bytes").into()),
    }
}

/// A checksum value has its algorithm's length.
pub(crate) fn check_checksum(checksum: Option<&Checksum>) -> Result<(), Error> {
    match checksum {
        Some(sum) if sum.value.len() != digest::value_bytes(sum.algorithm) => {
            Err(Error::invalid("the checksum value does not have its algorithm's length"))
        }
        _ => Ok(()),
    }
}

/// When the tombstone of a blob may go: no command may name the blob from then on, because it is too old. A blob whose
/// name comes from a clock that is ahead is young for longer.
pub(crate) fn tombstone_due_ms(now_ms: Millis, blob: BlobId) -> Millis {
    now_ms.max(blob.minted_ms()) + BLOB_AGE_MS_MAX + 1
}

/// Adds a blob's rows. A name that is known already, or so old that its being condemned may have been forgotten, is
/// refused: a writer that stalled cannot bring back what was collected.
pub(crate) fn bring_in_blob(txn: &mut Txn<'_>, blob: &NewBlob, length: u64) -> Result<(), Stop> {
    if blob.id == BlobId::HOLE
        || txn.reader().blob(blob.id)?.is_some()
        || blob.id.minted_ms() + BLOB_AGE_MS_MAX < txn.now_ms()
    {
        return Err(Error::BlobCondemned.into());
    }
    if blob.crcs.len() as u64 != length.div_ceil(BLOCK_BYTES) * 4 {
        return Err(Error::invalid("a blob has one checksum for each block").into());
    }
    let location = match &blob.place {
        NewPlace::Inline(bytes) if bytes.len() as u64 == length => {
            txn.put_bytes(Keyspace::Inline, key::blob(blob.id), bytes.clone());
            Location::Inline
        }
        NewPlace::Inline(_) => return Err(Error::invalid("inline bytes have the blob's length").into()),
        NewPlace::Path(path) => Location::Path(path.clone()),
    };
    let mut pages = blob.crcs.chunks(BLOCKS_PER_PAGE * 4);
    let row = BlobRow {
        length,
        refs: 1,
        locations: vec![location],
        envelope: Envelope::None,
        crcs: pages.next().unwrap_or_default().to_vec(),
        condemned: None,
    };
    txn.put(Keyspace::Blobs, key::blob(blob.id), &row);
    for (page, crcs) in (1u32..).zip(pages) {
        txn.put_bytes(Keyspace::Blobs, key::blob_checksums(blob.id, page), crcs.to_vec());
    }
    Ok(())
}

fn load_blob(txn: &Txn<'_>, blob: BlobId) -> Result<BlobRow, Stop> {
    let row = txn.reader().blob(blob)?.filter(|row| row.condemned.is_none());
    row.ok_or_else(|| corrupt("blob", "an extent names a blob that is not there"))
}

fn corrupt(what: &'static str, why: &'static str) -> Stop {
    Stop::Corrupt(crate::record::DecodeError { what, source: minicbor::decode::Error::message(why) })
}

pub(crate) fn retain_blob(txn: &mut Txn<'_>, blob: BlobId) -> Result<(), Stop> {
    retain_blobs(txn, blob, 1)
}

/// Adds `count` references on a blob; a hole has none.
pub(crate) fn retain_blobs(txn: &mut Txn<'_>, blob: BlobId, count: u64) -> Result<(), Stop> {
    if blob == BlobId::HOLE || count == 0 {
        return Ok(());
    }
    let mut row = load_blob(txn, blob)?;
    row.refs += count;
    txn.put(Keyspace::Blobs, key::blob(blob), &row);
    Ok(())
}

pub(crate) fn release_blob(txn: &mut Txn<'_>, blob: BlobId) -> Result<(), Stop> {
    release_blobs(txn, blob, 1)
}

/// Takes back `count` references on a blob.
pub(crate) fn release_blobs(txn: &mut Txn<'_>, blob: BlobId, count: u64) -> Result<(), Stop> {
    if blob == BlobId::HOLE || count == 0 {
        return Ok(());
    }
    let mut row = load_blob(txn, blob)?;
    row.refs = row.refs.checked_sub(count).ok_or_else(|| corrupt("blob", "it has fewer references than extents"))?;
    if row.refs > 0 {
        txn.put(Keyspace::Blobs, key::blob(blob), &row);
        return Ok(());
    }
    if row.locations.contains(&Location::Inline) {
        txn.delete(Keyspace::Inline, key::blob(blob));
    }
    if row.locations.iter().all(|location| *location == Location::Inline) {
        delete_blob_rows(txn, blob, &row);
        return Ok(());
    }
    row.condemned = Some(txn.revision());
    txn.put(Keyspace::Blobs, key::blob(blob), &row);
    txn.put_bytes(Keyspace::Queues, key::queued_blob(Queue::Condemned, txn.revision(), blob), Vec::new());
    txn.effect(Effect::BlobsCondemned);
    Ok(())
}

/// Deletes a blob's record and checksum pages.
pub(crate) fn delete_blob_rows(txn: &mut Txn<'_>, blob: BlobId, row: &BlobRow) {
    delete_checksum_pages(txn, blob, row.length);
    txn.delete(Keyspace::Blobs, key::blob(blob));
}

/// Deletes a blob's checksum pages; its record stays.
pub(crate) fn delete_checksum_pages(txn: &mut Txn<'_>, blob: BlobId, length: u64) {
    for page in 1..length.div_ceil(BLOCK_BYTES * BLOCKS_PER_PAGE as u64) {
        let page = u32::try_from(page).expect("a blob has at most 5 GiB or what a join made of fewer than 2^32 pages");
        txn.delete(Keyspace::Blobs, key::blob_checksums(blob, page));
    }
}

/// Where the bytes of a new content are, in a form that a version carries. Takes over the extents' references.
pub(crate) fn store(
    txn: &mut Txn<'_>,
    id: ContentId,
    extents: &[Extent],
    boundaries: &[Boundary],
) -> Result<(Body, Option<PartsRef>), Stop> {
    if extents.len() > EXTENTS_MAX {
        return Err(Error::TooManyExtents.into());
    }
    let body = match extents {
        [] => Body::Empty,
        [one] => Body::Single(*one),
        many => {
            put_pages(txn, id, many)?;
            Body::Pages(id)
        }
    };
    let pages = boundaries.chunks(PARTS_PER_PAGE);
    let parts_pages = pages.len() as u32;
    for (page, parts) in (0u32..).zip(pages) {
        let row = BoundariesRow { parts: parts.to_vec() };
        txn.put(Keyspace::Parts, key::boundaries(id, page), &row);
    }
    let parts = (parts_pages > 0).then_some(PartsRef { content: id, count: boundaries.len() as u32 });
    if parts.is_some() || matches!(body, Body::Pages(_)) {
        let size = extents.iter().map(|extent| extent.length).sum();
        let count = if matches!(body, Body::Pages(_)) { extents.len() as u32 } else { 0 };
        let hole_bytes = holes(extents).filter(|_| count > 0);
        let row = ContentRow { refs: 1, base: None, depth: 0, size, extents: count, parts_pages, hole_bytes };
        put_content(txn, id, &row);
        if count > 0 {
            queue_join(txn, id, &row);
        }
    }
    Ok((body, parts))
}

/// Bytes of the holes among some extents, as a content's row has them.
pub(crate) fn holes(extents: &[Extent]) -> Option<u64> {
    let bytes = extents.iter().filter(|extent| extent.is_hole()).map(|extent| extent.length).sum();
    Some(bytes).filter(|bytes| *bytes > 0)
}

/// A content with holes stays as it is: one blob would make bytes of them.
fn queue_join(txn: &mut Txn<'_>, id: ContentId, row: &ContentRow) {
    if row.hole_bytes.is_none() {
        txn.put_bytes(Keyspace::Queues, key::queued_content(id), Vec::new());
        txn.effect(Effect::JoinQueued);
    }
}

/// A mount is done with writing a content for now: queues it as a new one would be, if that is worth it.
pub(crate) fn queue_written(
    txn: &mut Txn<'_>,
    id: ContentId,
    bucket: BucketId,
    object: &ObjectKey,
) -> Result<(), Stop> {
    let row = load_content(txn, id)?;
    if row.extents > 1 && row.joins_when_patched() {
        queue_join(txn, id, &row);
        name_join(txn, id, bucket, object)?;
    }
    Ok(())
}

/// Tells the job that joins a content a name for the blob it makes: the key of the row of `names` that the content was
/// written for. A hint: the name may go, or lead elsewhere.
pub(crate) fn name_join(txn: &mut Txn<'_>, id: ContentId, bucket: BucketId, object: &ObjectKey) -> Result<(), Stop> {
    let row_key = key::queued_content(id);
    if txn.reader().0.get(Keyspace::Queues, &row_key)?.is_some() {
        txn.put_bytes(Keyspace::Queues, row_key, key::name(bucket, object.as_str()));
    }
    Ok(())
}

pub(crate) fn put_content(txn: &mut Txn<'_>, id: ContentId, row: &ContentRow) {
    txn.put(Keyspace::Objects, key::content(id), row);
}

fn put_pages(txn: &mut Txn<'_>, id: ContentId, extents: &[Extent]) -> Result<(), Stop> {
    let mut pages: BTreeMap<u32, PageRow> = BTreeMap::new();
    for extent in extents {
        pages.entry(page_number(extent.offset)?).or_default().extents.push(*extent);
    }
    for (number, page) in pages {
        put_page(txn, id, number, &page)?;
    }
    Ok(())
}

pub(crate) fn put_page(txn: &mut Txn<'_>, id: ContentId, number: u32, page: &PageRow) -> Result<(), Stop> {
    if page.extents.len() > EXTENTS_PER_PAGE_MAX {
        return Err(Error::TooManyExtents.into());
    }
    txn.put(Keyspace::Extents, key::page(id, number), page);
    Ok(())
}

/// The content that a version holds a reference on.
fn content_of(version: &Version) -> Option<ContentId> {
    match version.body {
        Body::Pages(content) => Some(content),
        Body::Empty | Body::Single(_) => version.parts.map(|parts| parts.content),
    }
}

/// Adds what one more version of the same content holds.
pub(crate) fn retain_version(txn: &mut Txn<'_>, version: &Version) -> Result<(), Stop> {
    if let Body::Single(extent) = version.body {
        retain_blob(txn, extent.blob)?;
    }
    if let Some(content) = content_of(version) {
        retain_content(txn, content)?;
    }
    Ok(())
}

/// Takes back what a version holds.
pub(crate) fn release_version(txn: &mut Txn<'_>, version: &Version) -> Result<(), Stop> {
    if let Body::Single(extent) = version.body {
        release_blob(txn, extent.blob)?;
    }
    match content_of(version) {
        Some(content) => release_content(txn, content),
        None => Ok(()),
    }
}

pub(crate) fn load_content(txn: &Txn<'_>, id: ContentId) -> Result<ContentRow, Stop> {
    txn.reader().content(id)?.ok_or_else(|| corrupt("content", "a version names a content that is not there"))
}

fn retain_content(txn: &mut Txn<'_>, id: ContentId) -> Result<(), Stop> {
    let mut row = load_content(txn, id)?;
    row.refs += 1;
    put_content(txn, id, &row);
    Ok(())
}

fn release_content(txn: &mut Txn<'_>, id: ContentId) -> Result<(), Stop> {
    let mut next = Some(id);
    // A loop, not recursion: bases are at most BASE_DEPTH_MAX deep, and each may lose its last reference in turn.
    while let Some(id) = next {
        let mut row = load_content(txn, id)?;
        row.refs =
            row.refs.checked_sub(1).ok_or_else(|| corrupt("content", "it has fewer references than versions"))?;
        if row.refs > 0 {
            put_content(txn, id, &row);
            return Ok(());
        }
        for page in 0..row.parts_pages {
            txn.delete(Keyspace::Parts, key::boundaries(id, page));
        }
        drop_pages(txn, id)?;
        txn.delete(Keyspace::Objects, key::content(id));
        txn.delete(Keyspace::Queues, key::queued_content(id));
        unqueue_pages(txn, id)?;
        next = row.base;
    }
    Ok(())
}

/// No page of the content is to be compacted any more.
fn unqueue_pages(txn: &mut Txn<'_>, id: ContentId) -> Result<(), Stop> {
    let mut queued = Vec::new();
    for page in txn.reader().rows(Keyspace::Queues, KeyRange::prefix(&key::queued_pages(id))) {
        queued.push(page?.0.to_vec());
    }
    queued.into_iter().for_each(|row_key| txn.delete(Keyspace::Queues, row_key));
    Ok(())
}

/// Content revisions of the same object right below and right above `id`.
pub(crate) fn neighbours(txn: &Txn<'_>, id: ContentId) -> Result<(Option<Revision>, Option<Revision>), Stop> {
    let nearest = |range, direction| -> Result<Option<Revision>, Stop> {
        for row in txn.reader().0.scan(Keyspace::Objects, range, direction) {
            let (row_key, _) = row?;
            if let Some(other) = key::content_id(&row_key).filter(|other| *other != id) {
                return Ok(Some(other.revision));
            }
        }
        Ok(None)
    };
    let (object, here) = (key::object(id.object), key::content(id));
    let below = nearest(KeyRange { from: object.clone(), to: Some(here.clone()) }, Direction::Reverse)?;
    let above = nearest(KeyRange::prefix_from(&object, here), Direction::Forward)?;
    Ok((below, above))
}

/// The object whose content a change of `version` is: the version's own, unless that has newer contents already, whose
/// pages the changed content would see, or older ones that the version does not see: a patch left them behind.
pub(crate) fn object_to_change(txn: &mut Txn<'_>, version: &Version) -> Result<ObjectId, Stop> {
    let (own, unseen) = match version.body {
        Body::Pages(content) if content.object == version.object => (content, false),
        _ => {
            let unseen = txn.reader().any(Keyspace::Extents, &key::pages_of(version.object))?;
            (ContentId { object: version.object, revision: version.content_revision }, unseen)
        }
    };
    let (_, above) = neighbours(txn, own)?;
    Ok(if above.is_some() || unseen { txn.next_object() } else { version.object })
}

/// Whether an object has contents.
pub(crate) fn has_contents(txn: &Txn<'_>, object: ObjectId) -> Result<bool, Stop> {
    for row in txn.reader().rows(Keyspace::Objects, KeyRange::prefix(&key::object(object))) {
        if key::content_id(&row?.0).is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Deletes the page rows that only `id` sees: of each page the newest row not above it, unless the content right below
/// sees the same row or the one right above has no newer one. No other row is decoded, nor held.
fn drop_pages(txn: &mut Txn<'_>, id: ContentId) -> Result<(), Stop> {
    let (below, above) = neighbours(txn, id)?;
    let (mut own, mut before, mut looked) = (Vec::new(), None, 0);
    for row in txn.reader().rows(Keyspace::Extents, KeyRange::prefix(&key::pages_of(id.object))) {
        let (row_key, _) = row?;
        let (number, revision) = key::page_parts(&row_key).ok_or_else(|| corrupt("extent page", "its key is cut"))?;
        looked += 1;
        // Rows of a page are newest first, so the row before this one is the next newer one of the same page.
        let newer = before.replace((number, revision)).filter(|(page, _)| *page == number).map(|(_, newer)| newer);
        let seen = revision <= id.revision && newer.is_none_or(|newer| newer > id.revision);
        let seen_below = below.is_some_and(|below| revision <= below);
        let seen_above = above.is_some_and(|above| newer.is_none_or(|newer| newer > above));
        if seen && !seen_below && !seen_above {
            own.push(row_key);
        }
    }
    txn.looked_at(looked);
    for row_key in own {
        let Some(page) = txn.reader().row::<PageRow>(Keyspace::Extents, &row_key)? else { continue };
        txn.delete(Keyspace::Extents, row_key.to_vec());
        for extent in &page.extents {
            release_blob(txn, extent.blob)?;
        }
    }
    Ok(())
}

/// Writes `extent`, whose reference is taken over, at the end of `version`, as content `id` of the same object. The
/// version's own content stays as it is.
pub(crate) fn append(txn: &mut Txn<'_>, id: ContentId, version: &Version, extent: Extent) -> Result<Body, Stop> {
    let body = match version.body {
        Body::Empty => return Ok(Body::Single(extent)),
        Body::Single(first) => {
            retain_blob(txn, first.blob)?;
            return Ok(store(txn, id, &[first, extent], &[])?.0);
        }
        Body::Pages(content) => content,
    };
    let old = load_content(txn, body)?;
    let base = if body.object == id.object { old.base } else { Some(body) };
    let depth = if body.object == id.object { old.depth } else { old.depth + 1 };
    if old.extents as usize >= EXTENTS_MAX {
        return Err(Error::TooManyExtents.into());
    }
    if depth > BASE_DEPTH_MAX {
        return flatten(txn, id, version, extent);
    }
    let number = page_number(extent.offset)?;
    let mut page = if extent_page_exists(txn, body, number)? { txn.reader().page(body, number)? } else { None }
        .unwrap_or_default();
    for kept in &page.extents {
        retain_blob(txn, kept.blob)?;
    }
    page.extents.push(extent);
    put_page(txn, id, number, &page)?;
    if let Some(base) = base {
        retain_content(txn, base)?;
    }
    let size = version.size + extent.length;
    let (extents, hole_bytes) = (old.extents + 1, old.hole_bytes);
    let row = ContentRow { refs: 1, base, depth, size, extents, parts_pages: 0, hole_bytes };
    put_content(txn, id, &row);
    queue_join(txn, id, &row);
    Ok(Body::Pages(id))
}

fn extent_page_exists(txn: &Txn<'_>, content: ContentId, number: u32) -> Result<bool, Stop> {
    Ok(txn.reader().page_at_or_below(content, number)? == Some(number))
}

/// As [`append`], with every page written anew and no base.
fn flatten(txn: &mut Txn<'_>, id: ContentId, version: &Version, extent: Extent) -> Result<Body, Stop> {
    let mut extents = crate::view::extents(txn.reader(), version, 0..version.size)?;
    for kept in &extents {
        retain_blob(txn, kept.blob)?;
    }
    extents.push(extent);
    Ok(store(txn, id, &extents, &[])?.0)
}

/// Puts one extent in place of all pages of a content that no other content of its object or copy shares pages with.
pub(crate) fn replace_pages(txn: &mut Txn<'_>, id: ContentId, extent: Extent) -> Result<(), Stop> {
    let mut row = load_content(txn, id)?;
    drop_pages(txn, id)?;
    if let Some(base) = row.base.take() {
        release_content(txn, base)?;
    }
    put_page(txn, id, 0, &PageRow { extents: vec![extent] })?;
    unqueue_pages(txn, id)?;
    row.depth = 0;
    row.extents = 1;
    row.hole_bytes = None;
    put_content(txn, id, &row);
    txn.delete(Keyspace::Queues, key::queued_content(id));
    Ok(())
}
