//! Bytes that change where they are.
//!
//! An [`Editor`] has the extents of one version, page by page, and reads a page when it is first needed: a small write into
//! a large file touches a few pages, whatever the file's size.
//!
//! ```text
//! content of nobody else, newest of its line ─▶ its page rows change in place
//! shared with a copy or an older version     ─▶ a newer content of the same line: what does not change is seen through it
//! anything else (one extent, a base, newer   ─▶ a content of a line of its own, with all pages
//! contents above it)
//! ```
//!
//! A content that is written here has no base: a job may join a base, and then its one extent would cover what was written
//! above it. A page without extents hides an older row of the same page. Bytes that nobody wrote are holes: extents of
//! [`BlobId::HOLE`], at offset 0 of it, which are not counted.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::apply::Txn;
use crate::effect::Effect;
use crate::error::Error;
use crate::id::{BlobId, ObjectId, Revision};
use crate::keyspace::{Keyspace, key};
use crate::kv::KeyRange;
use crate::record::{Body, ContentId, ContentRow, Extent, PageRow, Record as _, Version};
use crate::rules::content;
use crate::rules::mount::SHARE_OF_ROW;
use crate::rules::{COMPACT_EXTENTS, EXTENTS_MAX, EXTENTS_PER_PAGE_MAX, PAGE_BYTES};
use crate::state::Stop;
use crate::view::{content_extents, page_number};

/// Fewer extents of a page are not worth compaction, however many the file has.
const SHARE_MIN: u64 = 16;

/// The rows that hold a content: versions of names, or a file without one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Holders {
    /// Rows that will hold what is written.
    pub(super) new: u64,
    /// Of the rows that hold the old content, those that go on to do so.
    pub(super) kept: u64,
}

impl Holders {
    /// Rows that give up the old content.
    fn gone(self) -> u64 {
        self.new.saturating_sub(self.kept)
    }
}

/// One page: as it was read, and as it is to be.
#[derive(Debug, Default)]
struct Page {
    /// Revision of the row that it was read from, when no other content sees that: then it is changed in place.
    own: Option<Revision>,
    seen: Vec<Extent>,
    extents: Vec<Extent>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Editor {
    /// Whose pages are read when they are needed; none when all are here.
    source: Option<ContentId>,
    in_place: bool,
    /// The content right below the source, which sees the same rows up to its revision.
    below: Option<Revision>,
    holders: Holders,
    pages: BTreeMap<u32, Page>,
    size: u64,
    /// Rows that were read, and as much other work.
    work: u64,
    /// What a page that is to be compacted belongs to: the key of the row of `names`, or empty. A hint.
    name: Vec<u8>,
}

/// The part of an extent that is in `range`.
fn part(extent: &Extent, range: Range<u64>) -> Option<Extent> {
    crate::view::clip(extent, &range)
}

fn hole(range: Range<u64>) -> Extent {
    Extent { offset: range.start, length: range.end - range.start, blob: BlobId::HOLE, blob_offset: 0 }
}

/// Whether the bytes of `next` follow those of `first`, in the file and in the blob.
fn continues(first: &Extent, next: &Extent) -> bool {
    let in_blob = first.is_hole() || first.blob_offset + first.length == next.blob_offset;
    first.blob == next.blob && first.end() == next.offset && in_blob
}

fn corrupt() -> Stop {
    let source = minicbor::decode::Error::message("extents do not cover the version");
    Stop::Corrupt(crate::record::DecodeError { what: "extent page", source })
}

impl Editor {
    /// The extents of `version`.
    pub(super) fn open(txn: &Txn<'_>, version: &Version, holders: Holders, name: Vec<u8>) -> Result<Self, Stop> {
        let (pages, size) = (BTreeMap::new(), version.size);
        let mut editor = Self { source: None, in_place: false, below: None, holders, pages, size, work: 0, name };
        let extents = match version.body {
            Body::Empty => Vec::new(),
            Body::Single(extent) => vec![extent],
            Body::Pages(id) => {
                let row = content::load_content(txn, id)?;
                let (below, above) = content::neighbours(txn, id)?;
                editor.below = below;
                editor.in_place = holders.kept == 0 && row.refs == holders.new;
                let extends = editor.in_place || id.revision < txn.revision();
                if row.base.is_none() && above.is_none() && extends {
                    editor.source = Some(id);
                    return Ok(editor);
                }
                editor.in_place = false;
                content_extents(txn.reader(), id, 0..version.size)?
            }
        };
        editor.work += extents.len() as u64 / SHARE_OF_ROW;
        for extent in extents {
            editor.pages.entry(page_number(extent.offset)?).or_default().extents.push(extent);
        }
        Ok(editor)
    }

    /// Bytes of the file.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Rows that were read so far, and as much other work.
    pub(super) fn work(&self) -> u64 {
        self.work
    }

    fn load(&mut self, txn: &Txn<'_>, number: u32) -> Result<&mut Page, Stop> {
        if !self.pages.contains_key(&number) {
            let page = match self.source {
                None => Page::default(),
                Some(id) => self.read(txn, id, number)?,
            };
            self.work += 1 + page.seen.len() as u64 / SHARE_OF_ROW;
            self.pages.insert(number, page);
        }
        Ok(self.pages.entry(number).or_default())
    }

    fn read(&self, txn: &Txn<'_>, id: ContentId, number: u32) -> Result<Page, Stop> {
        let range = KeyRange::prefix_from(&key::page_revisions(id.object, number), key::page(id, number));
        let Some(row) = txn.reader().rows(Keyspace::Extents, range).next() else { return Ok(Page::default()) };
        let (row_key, value) = row?;
        let (_, revision) = key::page_parts(&row_key).ok_or_else(corrupt)?;
        // Also one of an older content that is gone.
        let own = Some(revision).filter(|row| self.in_place && self.below.is_none_or(|below| below < *row));
        let seen = PageRow::decode(&value)?.extents;
        Ok(Page { own, extents: seen.clone(), seen })
    }

    /// The page where the extent that holds `offset` starts.
    fn find(&mut self, txn: &Txn<'_>, offset: u64) -> Result<u32, Stop> {
        let mut number = page_number(offset)?;
        loop {
            let stored = match self.source {
                Some(id) => txn.reader().page_at_or_below(id, number)?,
                None => None,
            };
            let known = self.pages.range(..=number).next_back().map(|(number, _)| *number);
            let at = stored.max(known).ok_or_else(corrupt)?;
            self.work += 1;
            if self.load(txn, at)?.extents.first().is_some_and(|extent| extent.offset <= offset) {
                return Ok(at);
            }
            number = at.checked_sub(1).ok_or_else(corrupt)?;
        }
    }

    /// Takes bytes out: what is left of extents that reach into the range stays.
    fn cut(&mut self, txn: &Txn<'_>, range: Range<u64>) -> Result<(), Stop> {
        let (from, to) = (range.start, range.end.min(self.size));
        if from >= to {
            return Ok(());
        }
        let (first, last) = (self.find(txn, from)?, page_number(to - 1)?);
        let mut numbers: BTreeSet<u32> = self.pages.range(first..=last).map(|(number, _)| *number).collect();
        if let Some(id) = self.source {
            numbers.extend(stored_pages(txn, id.object, first, last)?);
        }
        self.work += numbers.len() as u64 / SHARE_OF_ROW;
        let mut tail = None;
        for number in numbers {
            let page = self.load(txn, number)?;
            let mut left = Vec::with_capacity(page.extents.len() + 1);
            for extent in &page.extents {
                if extent.end() <= from || extent.offset >= to {
                    left.push(*extent);
                    continue;
                }
                left.extend(part(extent, extent.offset..from));
                tail = tail.or(part(extent, to..extent.end()));
            }
            page.extents = left;
        }
        match tail {
            Some(tail) => self.insert(txn, tail),
            None => Ok(()),
        }
    }

    fn insert(&mut self, txn: &Txn<'_>, extent: Extent) -> Result<(), Stop> {
        let page = self.load(txn, page_number(extent.offset)?)?;
        let at = page.extents.partition_point(|other| other.offset < extent.offset);
        page.extents.insert(at, extent);
        Ok(())
    }

    /// Puts an extent where there is none; those that it continues, or that continue it, become one with it.
    fn put(&mut self, txn: &Txn<'_>, mut extent: Extent) -> Result<(), Stop> {
        if extent.offset > 0 {
            let number = self.find(txn, extent.offset - 1)?;
            let page = self.load(txn, number)?;
            let past = page.extents.partition_point(|other| other.offset < extent.offset);
            if let Some(before) = past.checked_sub(1).filter(|at| continues(&page.extents[*at], &extent)) {
                let before = page.extents.remove(before);
                extent = Extent { length: before.length + extent.length, ..before };
            }
        }
        let end = extent.end();
        if end < self.size {
            let page = self.load(txn, page_number(end)?)?;
            if let Some(after) = page.extents.iter().position(|other| continues(&extent, other)) {
                extent.length += page.extents.remove(after).length;
            }
        }
        self.insert(txn, extent)?;
        self.size = self.size.max(extent.end());
        Ok(())
    }

    /// Makes the file end at `size`; what is added is a hole.
    pub(super) fn resize(&mut self, txn: &Txn<'_>, size: u64) -> Result<(), Stop> {
        if size > self.size {
            return self.put(txn, hole(self.size..size));
        }
        self.cut(txn, size..self.size)?;
        self.size = size;
        Ok(())
    }

    /// Writes extents that follow each other; they may begin past the end.
    pub(super) fn write(&mut self, txn: &Txn<'_>, extents: &[Extent]) -> Result<(), Stop> {
        let (Some(first), Some(last)) = (extents.first(), extents.last()) else { return Ok(()) };
        if first.offset > self.size {
            self.resize(txn, first.offset)?;
        }
        self.cut(txn, first.offset..last.end())?;
        extents.iter().try_for_each(|extent| self.put(txn, *extent))
    }

    /// Writes what has changed; gives the body for the rows that hold it from now on. Their references are counted, and
    /// those of the rows that gave up the old body are taken back.
    pub(super) fn finish(mut self, txn: &mut Txn<'_>, old: &Version) -> Result<Body, Stop> {
        let row = match self.source {
            Some(id) => Some(content::load_content(txn, id)?),
            None => None,
        };
        let (extents, hole_bytes) = self.totals(row.as_ref());
        if extents > EXTENTS_MAX as u64 {
            return Err(Error::TooManyExtents.into());
        }
        if self.size == 0 {
            self.release_old(txn, old)?;
            return Ok(Body::Empty);
        }
        if extents == 1 {
            let number = self.find(txn, 0)?;
            let one = self.load(txn, number)?.extents.first().copied();
            if let Some(one) = one.filter(|one| (one.offset, one.length) == (0, self.size)) {
                content::retain_blobs(txn, one.blob, self.holders.new)?;
                self.release_old(txn, old)?;
                return Ok(Body::Single(one));
            }
        }
        let extents = u32::try_from(extents).map_err(|_| Error::TooManyExtents)?;
        let size = self.size;
        let new =
            ContentRow { refs: self.holders.new, base: None, depth: 0, size, extents, parts_pages: 0, hole_bytes };
        match (self.source, row) {
            (Some(id), Some(row)) if self.in_place => self.change(txn, id, row, new),
            (Some(id), Some(_)) => self.extend(txn, id, new, old),
            _ => self.renew(txn, new, old),
        }
    }

    /// Extents, and bytes of holes among them.
    fn totals(&self, row: Option<&ContentRow>) -> (u64, Option<u64>) {
        let count = |extents: &[Extent]| (extents.len() as u64, content::holes(extents).unwrap_or_default());
        let mut extents = row.map_or(0, |row| u64::from(row.extents));
        let mut holes = row.and_then(|row| row.hole_bytes).unwrap_or_default();
        for page in self.pages.values() {
            let ((seen, seen_holes), (now, now_holes)) = (count(&page.seen), count(&page.extents));
            extents = (extents + now).saturating_sub(seen);
            holes = (holes + now_holes).saturating_sub(seen_holes);
        }
        (extents, Some(holes).filter(|holes| *holes > 0))
    }

    fn release_old(&self, txn: &mut Txn<'_>, old: &Version) -> Result<(), Stop> {
        (0..self.holders.gone()).try_for_each(|_| content::release_version(txn, old))
    }

    /// In place.
    fn change(mut self, txn: &mut Txn<'_>, id: ContentId, row: ContentRow, new: ContentRow) -> Result<Body, Stop> {
        for page in 0..row.parts_pages {
            txn.delete(Keyspace::Parts, key::boundaries(id, page));
        }
        txn.delete(Keyspace::Queues, key::queued_content(id));
        content::put_content(txn, id, &new);
        self.write_pages(txn, id, &new)?;
        Ok(Body::Pages(id))
    }

    /// As a newer content of the same line.
    fn extend(mut self, txn: &mut Txn<'_>, old_id: ContentId, new: ContentRow, old: &Version) -> Result<Body, Stop> {
        let id = ContentId { object: old_id.object, revision: txn.revision() };
        content::put_content(txn, id, &new);
        let mut queued = Vec::new();
        for row in txn.reader().rows(Keyspace::Queues, KeyRange::prefix(&key::queued_pages(old_id))) {
            queued.extend(key::queued_page_parts(&row?.0).map(|(_, page)| page));
        }
        for page in queued {
            // What is not the newest any more is not written to.
            txn.delete(Keyspace::Queues, key::queued_page(old_id, page));
            txn.put_bytes(Keyspace::Queues, key::queued_page(id, page), self.name.clone());
        }
        self.write_pages(txn, id, &new)?;
        self.release_old(txn, old)?;
        Ok(Body::Pages(id))
    }

    /// As a content of a line where nothing else is.
    fn renew(mut self, txn: &mut Txn<'_>, new: ContentRow, old: &Version) -> Result<Body, Stop> {
        let id = ContentId { object: free_line(txn, old.object)?, revision: txn.revision() };
        content::put_content(txn, id, &new);
        if let Body::Pages(shared) = old.body {
            self.check_pages(txn, shared)?;
        }
        self.write_pages(txn, id, &new)?;
        self.release_old(txn, old)?;
        Ok(Body::Pages(id))
    }

    /// Refuses pages of too many extents, and remembers which they are.
    fn check_pages(&self, txn: &mut Txn<'_>, id: ContentId) -> Result<(), Stop> {
        let full = self.pages.iter().filter(|(_, page)| page.extents.len() > EXTENTS_PER_PAGE_MAX);
        let full: Vec<u32> = full.map(|(number, _)| *number).collect();
        if full.is_empty() {
            return Ok(());
        }
        txn.crowded.extend(full.into_iter().map(|number| ((id, number), self.name.clone())));
        Err(Error::TooManyExtents.into())
    }

    /// Writes the pages that have changed as those of `id`, and counts the references on their blobs.
    fn write_pages(&mut self, txn: &mut Txn<'_>, id: ContentId, content: &ContentRow) -> Result<(), Stop> {
        self.check_pages(txn, self.source.unwrap_or(id))?;
        let mut counts: BTreeMap<BlobId, i64> = BTreeMap::new();
        let changed: Vec<(u32, Page)> =
            std::mem::take(&mut self.pages).into_iter().filter(|(_, page)| page.extents != page.seen).collect();
        for (_, page) in &changed {
            page.extents.iter().for_each(|extent| *counts.entry(extent.blob).or_default() += 1);
            if page.own.is_some() {
                page.seen.iter().for_each(|extent| *counts.entry(extent.blob).or_default() -= 1);
            }
        }
        for (blob, count) in &counts {
            content::retain_blobs(txn, *blob, u64::try_from(*count).unwrap_or_default())?;
        }
        for (number, page) in changed {
            write_page(txn, id, number, &page, content, &self.name)?;
        }
        for (blob, count) in counts {
            content::release_blobs(txn, blob, u64::try_from(-count).unwrap_or_default())?;
        }
        Ok(())
    }
}

fn write_page(
    txn: &mut Txn<'_>,
    id: ContentId,
    number: u32,
    page: &Page,
    content: &ContentRow,
    name: &[u8],
) -> Result<(), Stop> {
    if let Some(revision) = page.own.filter(|revision| *revision != id.revision) {
        txn.delete(Keyspace::Extents, key::page(ContentId { revision, ..id }, number));
    }
    if page.extents.is_empty() && !has_older(txn, id, number)? {
        txn.delete(Keyspace::Extents, key::page(id, number));
    } else {
        content::put_page(txn, id, number, &PageRow { extents: page.extents.clone() })?;
    }
    queue_page(txn, id, number, is_crowded(page.extents.len(), content), name)
}

/// Pages from `first` to `last` that have rows. One seek for each: a page may have very many rows of older contents.
fn stored_pages(txn: &Txn<'_>, object: ObjectId, first: u32, last: u32) -> Result<Vec<u32>, Stop> {
    let past = crate::kv::successor(&key::page_revisions(object, last));
    let (mut found, mut next) = (Vec::new(), Some(first));
    while let Some(from) = next {
        let range = KeyRange { from: key::page_revisions(object, from), to: past.clone() };
        let Some(row) = txn.reader().rows(Keyspace::Extents, range).next() else { break };
        let (number, _) = key::page_parts(&row?.0).ok_or_else(corrupt)?;
        found.push(number);
        next = number.checked_add(1).filter(|next| *next <= last);
    }
    Ok(found)
}

/// Whether there is an older row of the same page that the content would see.
fn has_older(txn: &Txn<'_>, id: ContentId, number: u32) -> Result<bool, Stop> {
    let Some(revision) = id.revision.checked_sub(1) else { return Ok(false) };
    let from = key::page(ContentId { revision, ..id }, number);
    let range = KeyRange::prefix_from(&key::page_revisions(id.object, number), from);
    Ok(txn.reader().rows(Keyspace::Extents, range).next().transpose()?.is_some())
}

/// Whether a page of so many extents is worth compaction: it has many, or no fewer than others of a file that has many.
pub(super) fn is_crowded(extents: usize, content: &ContentRow) -> bool {
    let pages = content.size / PAGE_BYTES + 1;
    let share = (u64::from(content.extents) / pages).max(SHARE_MIN);
    extents > COMPACT_EXTENTS || content.has_many_extents() && extents as u64 >= share
}

/// Queues a crowded page for compaction, and only such a one.
pub(super) fn queue_page(
    txn: &mut Txn<'_>,
    id: ContentId,
    number: u32,
    crowded: bool,
    name: &[u8],
) -> Result<(), Stop> {
    let row_key = key::queued_page(id, number);
    let queued = txn.reader().0.get(Keyspace::Queues, &row_key)?.is_some();
    match (crowded, queued) {
        (true, false) => {
            txn.put_bytes(Keyspace::Queues, row_key, name.to_vec());
            txn.effect(Effect::CompactQueued);
        }
        (false, true) => txn.delete(Keyspace::Queues, row_key),
        _ => {}
    }
    Ok(())
}

/// An object whose line of contents is empty: `object` itself, if it has none.
fn free_line(txn: &mut Txn<'_>, object: ObjectId) -> Result<ObjectId, Stop> {
    let taken = content::has_contents(txn, object)? || txn.reader().any(Keyspace::Extents, &key::pages_of(object))?;
    Ok(if taken { txn.next_object() } else { object })
}
