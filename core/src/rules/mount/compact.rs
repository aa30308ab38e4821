//! Compaction: one blob in place of many extents of a page, holes among them, of which it holds the zeros. No byte of any
//! file changes, so a page that others see too may change as well.

use crate::apply::Txn;
use crate::command::{CompactPage, Reply};
use crate::error::Error;
use crate::id::Revision;
use crate::keyspace::{Keyspace, key};
use crate::kv::KeyRange;
use crate::record::{ContentId, Extent, PageRow};
use crate::rules::mount::pages;
use crate::rules::{JOB_ROWS_MAX, content};
use crate::state::Stop;

pub(crate) fn compact(txn: &mut Txn<'_>, op: &CompactPage) -> Result<Reply, Stop> {
    let (Some(first), true) = (op.extents.first(), op.extents.len() > 1) else {
        return Err(Error::invalid("a compaction is of at least two extents").into());
    };
    txn.reader().content(op.content)?.ok_or(Error::Changed)?;
    let seeing = seen_by(txn, op.content, op.page)?;
    let row_key = key::page(op.content, op.page);
    let own = only_here(txn, op.content, op.page)?;
    let mut page = txn.reader().page(op.content, op.page)?.ok_or(Error::Changed)?;
    let at = page.extents.iter().position(|extent| extent == first).ok_or(Error::Changed)?;
    let run = at..at + op.extents.len();
    if page.extents.get(run.clone()) != Some(op.extents.as_slice()) {
        return Err(Error::Changed.into());
    }
    if !op.extents.windows(2).all(|pair| pair[0].end() == pair[1].offset) {
        return Err(Error::invalid("the extents of a compaction follow each other").into());
    }
    let length = op.extents.iter().map(|extent| extent.length).sum();
    content::bring_in_blob(txn, &op.blob, length)?;
    let one = Extent { offset: first.offset, length, blob: op.blob.id, blob_offset: 0 };
    page.extents.splice(run, [one]);
    if own.is_none() {
        for extent in page.extents.iter().filter(|extent| **extent != one) {
            content::retain_blob(txn, extent.blob)?;
        }
    }
    let left = page.extents.len();
    if let Some(revision) = own.filter(|revision| *revision != op.content.revision) {
        txn.delete(Keyspace::Extents, key::page(ContentId { revision, ..op.content }, op.page));
    }
    txn.put(Keyspace::Extents, row_key, &PageRow { extents: page.extents });
    if own.is_some() {
        op.extents.iter().try_for_each(|extent| content::release_blob(txn, extent.blob))?;
    }
    for id in seeing {
        let mut row = content::load_content(txn, id)?;
        let fewer = u32::try_from(op.extents.len() - 1).unwrap_or(u32::MAX);
        row.extents = row.extents.saturating_sub(fewer).max(1);
        let filled = content::holes(&op.extents).unwrap_or_default();
        row.hole_bytes = row.hole_bytes.and_then(|holes| holes.checked_sub(filled)).filter(|holes| *holes > 0);
        content::put_content(txn, id, &row);
        if row.extents == 1 {
            // There is nothing left to join.
            txn.delete(Keyspace::Queues, key::queued_content(id));
        }
    }
    let crowded = pages::is_crowded(left, &content::load_content(txn, op.content)?);
    pages::queue_page(txn, op.content, op.page, crowded, &[])?;
    Ok(Reply::Done)
}

/// The revision of the row of a page that a content sees, when no older one sees the same.
fn only_here(txn: &Txn<'_>, id: ContentId, page: u32) -> Result<Option<Revision>, Stop> {
    let range = KeyRange::prefix_from(&key::page_revisions(id.object, page), key::page(id, page));
    let Some(row) = txn.reader().rows(Keyspace::Extents, range).next() else { return Ok(None) };
    let (below, _) = content::neighbours(txn, id)?;
    let row = key::page_parts(&row?.0).map(|(_, revision)| revision);
    Ok(row.filter(|row| below.is_none_or(|below| below < *row)))
}

/// The contents that see the page which `id` is about to have: itself, and newer ones up to the next newer row of the page.
fn seen_by(txn: &Txn<'_>, id: ContentId, page: u32) -> Result<Vec<ContentId>, Stop> {
    let mut end = None;
    for row in txn.reader().rows(Keyspace::Extents, KeyRange::prefix(&key::page_revisions(id.object, page))) {
        match key::page_parts(&row?.0) {
            // Newest first.
            Some((_, revision)) if revision > id.revision => end = Some(revision),
            _ => break,
        }
    }
    let mut seeing = Vec::new();
    let range = KeyRange::prefix_from(&key::object(id.object), key::content(id));
    for row in txn.reader().rows(Keyspace::Objects, range) {
        let Some(other) = key::content_id(&row?.0) else { continue };
        if end.is_some_and(|end| other.revision >= end) {
            break;
        }
        if seeing.len() == JOB_ROWS_MAX {
            return Err(Error::Changed.into());
        }
        seeing.push(other);
    }
    Ok(seeing)
}
