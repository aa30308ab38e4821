//! Reads at one state: buckets, versions and where their bytes are. Listings are in [`crate::list`].
//!
//! Every read takes a [`Permit`] and reads exactly the resource it names. A [`Found`] is the proof for reading the bytes
//! behind it. All reads are of the one immutable view: nothing here waits or sees later writes.

use std::ops::Range;

use bytes::Bytes;

use crate::command::{Document, SourceConditions};
use crate::error::Error;
use crate::id::{BucketName, ObjectKey, Place, Revision, VersionId};
use crate::keyspace::{Keyspace, key};
use crate::kv::{KeyRange, KvRead};
use crate::list::{Entry, Query};
use crate::record::{
    BlobRow, Body, BoundariesRow, Boundary, BucketRow, ContentId, Durability, Extent, HistoryRow, Record, Version,
    Versioning,
};
use crate::rules::authorize::{Action, Permit, Resource};
use crate::rules::{BLOCK_BYTES, BLOCKS_PER_PAGE, PAGE_BYTES, PARTS_PER_PAGE};
use crate::state::{Reader, Stop};

/// The state at a revision.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    pub(crate) reader: Reader<'a>,
    revision: Revision,
}

/// A bucket that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Its name.
    pub name: BucketName,
    /// Its row.
    pub row: BucketRow,
}

/// A version or delete marker that was found; the proof for reading its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its bucket.
    pub bucket: Bucket,
    /// Its key.
    pub key: ObjectKey,
    /// Its place in the history.
    pub place: Place,
    /// Its row; `row.version` is `None` for a delete marker.
    pub row: HistoryRow,
    /// Whether it is the latest.
    pub is_latest: bool,
}

/// Some versions in the order of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundPage {
    /// The bucket.
    pub bucket: Bucket,
    /// The versions.
    pub found: Vec<Found>,
    /// Where the next page begins, when there is one: after this key.
    pub more_after: Option<String>,
    /// The revision that was listed.
    pub revision: Revision,
}

impl Found {
    /// The version id that S3 shows: none in a bucket that was never versioned.
    #[must_use]
    pub fn shown_version(&self) -> Option<VersionId> {
        shown_version(&self.bucket.row, &self.row, self.place)
    }
}

/// The version id that S3 shows for a row of `bucket`: none in a bucket that was never versioned.
#[must_use]
pub fn shown_version(bucket: &BucketRow, row: &HistoryRow, place: Place) -> Option<VersionId> {
    (bucket.versioning != Versioning::Never).then(|| row.version_id(place))
}

/// What is needed to read bytes of a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobSource {
    /// Its row: length, locations, block checksums of the first 64 MiB.
    pub row: BlobRow,
    /// Its bytes, when they rest in the state.
    pub inline: Option<Bytes>,
}

impl<'a> View<'a> {
    /// The state that `kv` holds, which is that of `revision`.
    pub fn new(kv: &'a dyn KvRead, revision: Revision) -> Self {
        Self { reader: Reader(kv), revision }
    }

    /// The revision of the state.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// State time: the largest stamp of any command applied, milliseconds since the epoch.
    ///
    /// # Errors
    /// [`Stop`] when the engine fails.
    pub fn now_ms(&self) -> Result<u64, Stop> {
        Ok(self.reader.state()?.now_ms)
    }

    /// The permit's bucket.
    ///
    /// # Errors
    /// [`Error::NoSuchBucket`], or [`Stop`] when the engine fails.
    pub fn bucket(&self, permit: &Permit) -> Result<Bucket, Stop> {
        let name = permit.bucket()?.clone();
        let row = self.reader.bucket(&name)?.ok_or(Error::NoSuchBucket)?;
        Ok(Bucket { name, row })
    }

    /// Buckets by name: those that start with `prefix`, after `after`, at most `limit`; and whether there are more.
    ///
    /// # Errors
    /// [`Error::Denied`], or [`Stop`] when the engine fails.
    pub fn buckets(
        &self,
        permit: &Permit,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<Bucket>, bool), Stop> {
        permit.require(&[Action::ListBuckets])?;
        let prefix = key::bucket(prefix);
        let mut from = prefix.clone();
        if let Some(after) = after {
            let mut next = key::bucket(after);
            next.push(0);
            from = from.max(next);
        }
        let mut buckets = Vec::new();
        if limit == 0 {
            return Ok((buckets, false));
        }
        for row in self.reader.rows(Keyspace::Buckets, KeyRange::prefix_from(&prefix, from)) {
            if buckets.len() == limit {
                return Ok((buckets, true));
            }
            let (row_key, value) = row?;
            if let Some(name) = key::bucket_name(&row_key) {
                buckets.push(Bucket { name, row: BucketRow::decode(&value)? });
            }
        }
        Ok((buckets, false))
    }

    /// A document of the permit's bucket.
    ///
    /// # Errors
    /// [`Error::NoSuchBucket`], or [`Stop`] when the engine fails.
    pub fn document(&self, permit: &Permit, kind: Document) -> Result<Option<Bytes>, Stop> {
        permit.require(&[Action::ReadBucketSettings])?;
        let bucket = self.bucket(permit)?;
        if kind == Document::Notification {
            return Ok(self.reader.notification(&bucket.name, Revision::MAX)?.map(|(_, document)| document));
        }
        Ok(self.reader.0.get(Keyspace::Settings, &key::document(bucket.row.id, kind as u8))?)
    }

    /// When writes to a bucket are acknowledged: the commit path asks, which acts for nobody.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub fn durability(&self, bucket: &BucketName) -> Result<Durability, Stop> {
        let row = self.reader.bucket(bucket)?;
        Ok(row.and_then(|row| row.settings.durability).unwrap_or(Durability::Backend))
    }

    /// The CORS document of a bucket. A browser's preflight carries no signature, and its answer must not depend on who
    /// asks: this read alone needs no permit, and tells a stranger nothing that the preflight's answer does not.
    ///
    /// # Errors
    /// [`Stop`] when the engine fails.
    pub fn cors_document(&self, bucket: &BucketName) -> Result<Option<Bytes>, Stop> {
        let Some(bucket) = self.reader.bucket(bucket)? else { return Ok(None) };
        Ok(self.reader.0.get(Keyspace::Settings, &key::document(bucket.id, Document::Cors as u8))?)
    }

    /// The version that the permit's key has, or had: the latest, or the one with this id; now, or at a revision inside
    /// the bucket's history window. A delete marker is found too.
    ///
    /// # Errors
    /// [`Error::NoSuchBucket`], [`Error::NoSuchKey`] when the key has no row at all, [`Error::NoSuchVersion`],
    /// [`Error::Changed`] when the history window does not hold `at` any more, or a mount has changed the version's bytes
    /// since, or [`Stop`] when the engine fails.
    pub fn find(&self, permit: &Permit, version: Option<VersionId>, at: Option<Revision>) -> Result<Found, Stop> {
        const READS: [Action; 4] =
            [Action::GetObject, Action::GetObjectVersion, Action::GetObjectTagging, Action::PutObjectTagging];
        let (_, object) = permit.object(&READS)?;
        let bucket = self.bucket(permit)?;
        let id = bucket.row.id;
        if at.is_some_and(|at| at < bucket.row.changed) && at < self.reader.history_floor(id)? {
            return Err(Error::Changed.into());
        }
        let name = self.reader.name(id, object)?;
        let row = match (version, at, &name) {
            (Some(version), Some(revision), _) => self.reader.version_at(id, object, version, revision)?,
            (Some(version), ..) => self.reader.version(id, object, version)?,
            (None, Some(revision), _) => self.reader.newest(id, object, Some(revision))?,
            (None, None, Some(name)) => self.reader.history(id, object, name.place)?.map(|row| (name.place, row)),
            // No live name: a delete marker may be the latest, which replies must tell.
            (None, None, None) if bucket.row.versioning != Versioning::Never => self.reader.newest(id, object, None)?,
            (None, None, None) => None,
        };
        let missing = if version.is_some() { Error::NoSuchVersion } else { Error::NoSuchKey };
        let (place, row) = row.ok_or(missing)?;
        check_unpatched(&row, at)?;
        let is_latest = match &name {
            Some(name) => name.place == place,
            None => self.reader.newest(id, object, None)?.is_some_and(|(newest, _)| newest == place),
        };
        Ok(Found { bucket, key: object.clone(), place, row, is_latest })
    }

    /// The latest versions of a bucket's keys: now, or at a revision inside the bucket's history window; those whose keys
    /// `may_read` gives a permit to get.
    ///
    /// # Errors
    /// As [`View::list`], and [`Error::Changed`] when the history window does not hold `at` any more, or a mount has changed
    /// the bytes of one of the versions since.
    pub fn find_under(
        &self,
        permit: &Permit,
        query: &Query,
        at: Option<Revision>,
        may_read: impl Fn(&ObjectKey) -> Result<Permit, Error>,
    ) -> Result<FoundPage, Stop> {
        let listed = self.list(permit, query, at)?;
        let bucket = listed.bucket;
        if at.is_some_and(|at| at < bucket.row.changed && at < self.revision() && listed.revision != at) {
            return Err(Error::Changed.into());
        }
        let last = listed.entries.last().map(|entry| entry.marker().to_owned()).filter(|_| listed.truncated);
        let mut found = Vec::with_capacity(listed.entries.len());
        for entry in listed.entries {
            let Entry::Item(key, name) = entry else { continue };
            let Ok(object) = key.parse::<ObjectKey>() else { continue };
            let Ok(permit) = may_read(&object) else { continue };
            if permit.object(&[Action::GetObject])? != (&bucket.name, &object) {
                return Err(Error::Denied.into());
            }
            let Some(row) = self.reader.history(bucket.row.id, &object, name.place)? else { continue };
            check_unpatched(&row, at)?;
            let bucket = bucket.clone();
            found.push(Found { bucket, key: object, place: name.place, row, is_latest: at.is_none() });
        }
        Ok(FoundPage { bucket, found, more_after: last, revision: listed.revision })
    }

    /// The extents that hold `range` of a version, clipped to it, in order and without gaps.
    ///
    /// # Errors
    /// [`Error::InvalidRange`] when the range passes the end, or [`Stop`] when the engine fails or pages are missing.
    pub fn extents(&self, found: &Found, range: Range<u64>) -> Result<Vec<Extent>, Stop> {
        let Some(version) = &found.row.version else { return Err(Error::IsDeleteMarker.into()) };
        extents(self.reader, version, range)
    }

    /// Where the bytes of an extent are.
    ///
    /// # Errors
    /// [`Error::Changed`] when the blob is gone (the version ended and was trimmed since), or [`Stop`].
    pub fn blob(&self, extent: &Extent) -> Result<BlobSource, Stop> {
        let row = self.reader.blob(extent.blob)?.filter(|row| row.condemned.is_none()).ok_or(Error::Changed)?;
        let inline = self.reader.inline(extent.blob)?;
        Ok(BlobSource { row, inline })
    }

    /// CRC-32C of the blob's blocks `blocks`, for blobs of any length.
    ///
    /// # Errors
    /// [`Stop`] when the engine fails or checksums are missing.
    pub fn block_checksums(&self, extent: &Extent, row: &BlobRow, blocks: Range<u64>) -> Result<Vec<u32>, Stop> {
        let mut checksums = Vec::new();
        let mut page = None;
        for block in blocks {
            let number = u32::try_from(block / BLOCKS_PER_PAGE as u64).map_err(|_| Error::InvalidRange)?;
            if page.as_ref().is_none_or(|(loaded, _)| *loaded != number) {
                let bytes = match number {
                    0 => Some(Bytes::copy_from_slice(&row.crcs)),
                    _ => self.reader.0.get(Keyspace::Blobs, &key::blob_checksums(extent.blob, number))?,
                };
                page = Some((number, bytes.unwrap_or_default()));
            }
            let at = (block % BLOCKS_PER_PAGE as u64) as usize * 4;
            let bytes = page.as_ref().and_then(|(_, bytes)| bytes.get(at..at + 4)).ok_or(Error::InvalidRange)?;
            checksums.push(bytes.iter().fold(0, |crc, byte| crc << 8 | u32::from(*byte)));
        }
        Ok(checksums)
    }

    /// Boundaries of a version that was a multipart upload, by part number; empty for others.
    ///
    /// # Errors
    /// [`Stop`] when the engine fails.
    pub fn boundaries(&self, found: &Found) -> Result<Vec<Boundary>, Stop> {
        let Some(parts) = found.row.version.as_ref().and_then(|version| version.parts) else { return Ok(Vec::new()) };
        let mut boundaries = Vec::with_capacity(parts.count as usize);
        for page in 0..parts.count.div_ceil(PARTS_PER_PAGE as u32) {
            let row: Option<BoundariesRow> = self.reader.row(Keyspace::Parts, &key::boundaries(parts.content, page))?;
            boundaries.extend(row.unwrap_or_default().parts);
        }
        Ok(boundaries)
    }
}

/// Refuses a version that has other bytes than it had at a revision: those are nowhere any more.
fn check_unpatched(row: &HistoryRow, at: Option<Revision>) -> Result<(), Error> {
    let patched = row.version.as_ref().and_then(|version| version.patched);
    if at.zip(patched).is_some_and(|(at, patched)| patched > at) { Err(Error::Changed) } else { Ok(()) }
}

/// See [`View::extents`].
pub(crate) fn extents(reader: Reader<'_>, version: &Version, range: Range<u64>) -> Result<Vec<Extent>, Stop> {
    if range.end > version.size || range.start > range.end {
        return Err(Error::InvalidRange.into());
    }
    let content = match version.body {
        _ if range.is_empty() => return Ok(Vec::new()),
        Body::Empty => return Err(Error::InvalidRange.into()),
        Body::Single(extent) => return Ok(clip(&extent, &range).into_iter().collect()),
        Body::Pages(content) => content,
    };
    content_extents(reader, content, range)
}

/// The extents that hold `range` of a content with pages.
pub(crate) fn content_extents(reader: Reader<'_>, content: ContentId, range: Range<u64>) -> Result<Vec<Extent>, Stop> {
    first_extents(reader, content, range, usize::MAX)
}

/// As [`content_extents`], but no page is read when there are `most` extents already.
pub(crate) fn first_extents(
    reader: Reader<'_>,
    content: ContentId,
    range: Range<u64>,
    most: usize,
) -> Result<Vec<Extent>, Stop> {
    let mut found: Vec<Extent> = Vec::new();
    let mut position = range.start;
    let mut page = first_page(reader, content, position)?;
    while position < range.end && found.len() < most {
        let row = reader.page(content, page)?.unwrap_or_default();
        let before = position;
        for extent in row.extents.iter().filter_map(|extent| clip(extent, &(before..range.end))) {
            if extent.offset != position {
                return Err(missing_extents());
            }
            position += extent.length;
            found.push(extent);
        }
        if position == before {
            return Err(missing_extents());
        }
        page = page_number(position)?;
    }
    Ok(found)
}

fn missing_extents() -> Stop {
    let source = minicbor::decode::Error::message("extents do not cover the version");
    Stop::Corrupt(crate::record::DecodeError { what: "extent page", source })
}

/// The page where the extent that holds `offset` starts: an extent may be longer than many pages.
pub(crate) fn first_page(reader: Reader<'_>, content: ContentId, offset: u64) -> Result<u32, Stop> {
    let mut page = page_number(offset)?;
    loop {
        page = reader.page_at_or_below(content, page)?.ok_or_else(missing_extents)?;
        let row = reader.page(content, page)?;
        if row.is_some_and(|row| row.extents.first().is_some_and(|extent| extent.offset <= offset)) {
            return Ok(page);
        }
        page = page.checked_sub(1).ok_or_else(missing_extents)?;
    }
}

/// The page where an extent at `offset` starts.
pub(crate) fn page_number(offset: u64) -> Result<u32, Error> {
    u32::try_from(offset / PAGE_BYTES).map_err(|_| Error::TooLarge)
}

/// The part of `extent` that is in `range`.
pub(crate) fn clip(extent: &Extent, range: &Range<u64>) -> Option<Extent> {
    let start = extent.offset.max(range.start);
    let end = (extent.offset + extent.length).min(range.end);
    (start < end).then(|| Extent {
        offset: start,
        length: end - start,
        blob: extent.blob,
        blob_offset: if extent.is_hole() { 0 } else { extent.blob_offset + (start - extent.offset) },
    })
}

/// The blocks that bytes `range` of a blob touch.
#[must_use]
pub fn blocks_of(range: &Range<u64>) -> Range<u64> {
    range.start / BLOCK_BYTES..range.end.div_ceil(BLOCK_BYTES)
}

/// What became of the conditions of a read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// All hold.
    Holds,
    /// The reader has it already: 304 for GET and HEAD.
    NotModified,
    /// One does not hold: its name.
    Failed(&'static str),
}

/// Decides the conditions of a read in S3's order: a matching ETag wins over a time, and times count in whole seconds.
///
/// Source: RFC 9110 section 13.2.2; S3 API, GetObject and CopyObject.
#[must_use]
pub fn decide(conditions: &SourceConditions, etag: &str, modified_ms: u64) -> Condition {
    use crate::command::Match;
    let matches = |wanted: &Match| match wanted {
        Match::Any => true,
        Match::Etag(wanted) => wanted == etag,
    };
    let second = modified_ms / 1000;
    if !conditions.if_match.is_empty() {
        if !conditions.if_match.iter().any(matches) {
            return Condition::Failed("If-Match");
        }
    } else if conditions.if_unmodified_since_ms.is_some_and(|since| second > since / 1000) {
        return Condition::Failed("If-Unmodified-Since");
    }
    if !conditions.if_none_match.is_empty() {
        if conditions.if_none_match.iter().any(matches) {
            return Condition::NotModified;
        }
    } else if conditions.if_modified_since_ms.is_some_and(|since| second <= since / 1000) {
        return Condition::NotModified;
    }
    Condition::Holds
}

/// The resource of an object, for a permit.
#[must_use]
pub fn object_resource(bucket: &BucketName, key: &ObjectKey) -> Resource {
    Resource::Object(bucket.clone(), key.clone())
}
