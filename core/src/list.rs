//! Listings: names, versions, uploads and parts, in key order, by seeking.
//!
//! A plain listing reads only `names`: one range scan, in which a delimiter skips a whole common prefix with one seek;
//! what a delimiter hides is never scanned. A listing at an older revision reads `history`, with at most two seeks a key,
//! and is exact while the bucket's history window holds that revision. An entry, key or common prefix, is listed when it
//! is greater than `after`; so the last entry of a page is the marker of the next one, whatever was listed.
//!
//! Source: S3 API, ListObjects, ListObjectsV2, ListObjectVersions, ListMultipartUploads, ListParts.

use crate::error::Error;
use crate::id::{BucketId, Place, Revision, UploadId, VersionId};
use crate::keyspace::{Keyspace, key};
use crate::kv::{KeyRange, Row, Rows};
use crate::record::{ChecksumAlgorithm, ChecksumType, HistoryRow, NameRow, PartRow, Record, UploadRow};
use crate::rules::authorize::{Action, Permit};
use crate::state::{Reader, Stop};
use crate::view::{Bucket, View};

/// What to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// Only keys that start with it.
    pub prefix: String,
    /// Keys that hold it after the prefix are rolled up; an empty one rolls up nothing.
    pub delimiter: Option<String>,
    /// Only entries greater than it.
    pub after: String,
    /// Most entries, common prefixes included.
    pub limit: usize,
}

/// One entry of a listing: an item or what a delimiter rolled up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry<T> {
    /// A key with what is under it.
    Item(String, T),
    /// A common prefix, delimiter included.
    Prefix(String),
}

impl<T> Entry<T> {
    /// The key or prefix: the marker for what follows it.
    #[must_use]
    pub fn marker(&self) -> &str {
        match self {
            Self::Item(key, _) => key,
            Self::Prefix(prefix) => prefix,
        }
    }
}

/// A page of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// The bucket.
    pub bucket: Bucket,
    /// Entries in order.
    pub entries: Vec<Entry<T>>,
    /// Whether there are more.
    pub truncated: bool,
    /// The revision that was listed: the next page continues there.
    pub revision: Revision,
}

/// A version or delete marker in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedVersion {
    /// Its place.
    pub place: Place,
    /// Its row.
    pub row: HistoryRow,
    /// Whether it is its key's latest.
    pub is_latest: bool,
}

impl ListedVersion {
    /// Its version id.
    #[must_use]
    pub fn version_id(&self) -> VersionId {
        self.row.version_id(self.place)
    }
}

/// A page of parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartsPage {
    /// The bucket.
    pub bucket: Bucket,
    /// The upload.
    pub upload: UploadRow,
    /// Parts by number.
    pub parts: Vec<(u16, PartRow)>,
    /// Whether there are more.
    pub truncated: bool,
}

impl View<'_> {
    /// Live names of the permit's bucket: now, or at `at` while the history window holds it; an older `at` lists now.
    ///
    /// # Errors
    /// [`Error::NoSuchBucket`], or [`Stop`] when the engine fails.
    pub fn list(&self, permit: &Permit, query: &Query, at: Option<Revision>) -> Result<Page<NameRow>, Stop> {
        permit.require(&[Action::ListBucket])?;
        let bucket = self.bucket(permit)?;
        // A listing of the state as it is needs no history: also an older one, when no name has changed since.
        let floor = self.reader.history_floor(bucket.row.id)?.unwrap_or_default();
        let past = at.filter(|at| *at >= floor && *at < bucket.row.changed && *at < self.revision());
        let (entries, truncated) = match past {
            None => self.roll_up(query, |from| Names { rows: names(self.reader, bucket.row.id, query, from) })?,
            Some(at) => self.roll_up(query, |from| PastNames::new(self.reader, bucket.row.id, query, from, at))?,
        };
        Ok(Page { bucket, entries, truncated, revision: past.unwrap_or(self.revision()) })
    }

    /// Versions and delete markers of the permit's bucket, by key and then newest first. With `after_version`, the rest
    /// of key `query.after` is listed first: what is older than that version.
    ///
    /// # Errors
    /// [`Error::NoSuchBucket`], [`Error::InvalidArgument`] for a marker without a key, or [`Stop`].
    pub fn list_versions(
        &self,
        permit: &Permit,
        query: &Query,
        after_version: Option<VersionId>,
    ) -> Result<Page<ListedVersion>, Stop> {
        permit.require(&[Action::ListBucketVersions])?;
        let bucket = self.bucket(permit)?;
        let id = bucket.row.id;
        let resume = match after_version {
            None => None,
            Some(_) if query.after.is_empty() => {
                return Err(Error::invalid("a version-id marker cannot be given without a key marker").into());
            }
            Some(VersionId::Stamp(stamp)) => Some(stamp.place),
            Some(VersionId::Null) => {
                let object = query.after.parse().map_err(|_| Error::invalid("the key marker is not a key"))?;
                // Also one that has ended since the last page: what is below it is still to be listed.
                self.reader.newest_that(id, &object, None, |_, row| row.null)?.map(|(place, _)| place)
            }
        };
        let mut resume = resume;
        let (entries, truncated) = self.roll_up(query, |from| {
            let resume = resume.take();
            Versions::new(self.reader, id, query, from, resume)
        })?;
        Ok(Page { bucket, entries, truncated, revision: self.revision() })
    }

    /// Uploads in progress of the permit's bucket, by key and then oldest first. With `after_upload`, the later uploads
    /// of key `query.after` are listed first.
    ///
    /// # Errors
    /// [`Error::NoSuchBucket`], or [`Stop`] when the engine fails.
    pub fn list_uploads(
        &self,
        permit: &Permit,
        query: &Query,
        after_upload: Option<UploadId>,
    ) -> Result<Page<(UploadId, UploadRow)>, Stop> {
        permit.require(&[Action::ListUploads])?;
        let bucket = self.bucket(permit)?;
        let mut resume = after_upload.map(|upload| upload.place);
        let (entries, truncated) = self.roll_up(query, |from| {
            let resume = resume.take();
            Uploads { rows: uploads(self.reader, bucket.row.id, query, from, resume) }
        })?;
        Ok(Page { bucket, entries, truncated, revision: self.revision() })
    }

    /// Parts of an upload in progress, those above number `after`, at most `limit`.
    ///
    /// # Errors
    /// [`Error::NoSuchBucket`], [`Error::NoSuchUpload`], or [`Stop`] when the engine fails.
    pub fn parts(&self, permit: &Permit, upload: UploadId, after: u16, limit: usize) -> Result<PartsPage, Stop> {
        let (_, object) = permit.object(&[Action::ListParts, Action::PutObject])?;
        let bucket = self.bucket(permit)?;
        let row: Option<UploadRow> =
            self.reader.row(Keyspace::Parts, &key::upload(bucket.row.id, object.as_str(), upload.place))?;
        let row = row.filter(|row| row.nonce == upload.nonce).ok_or(Error::NoSuchUpload)?;
        let mut page = PartsPage { bucket, upload: row, parts: Vec::new(), truncated: false };
        let Some(first) = after.checked_add(1).filter(|_| limit > 0) else { return Ok(page) };
        let prefix = key::parts_of(upload.place);
        let range = KeyRange::prefix_from(&prefix, key::part(upload.place, first));
        for row in self.reader.rows(Keyspace::Parts, range) {
            if page.parts.len() == limit {
                page.truncated = true;
                break;
            }
            let (row_key, value) = row?;
            page.parts.push((key::part_number(&row_key).unwrap_or_default(), PartRow::decode(&value)?));
        }
        Ok(page)
    }

    /// Reads items through cursors, rolls up common prefixes and stops at the limit. `open` gives a cursor at a place.
    fn roll_up<C: Cursor>(&self, query: &Query, mut open: impl FnMut(From<'_>) -> C) -> Result<Rolled<C::Item>, Stop> {
        let mut entries = Vec::new();
        if query.limit == 0 {
            // There is no marker to go on from, so there is no next page.
            return Ok((entries, false));
        }
        let mut cursor = open(start(query));
        while let Some((item_key, item)) = cursor.next()? {
            let prefix = common_prefix(query, &item_key);
            if entries.len() == query.limit {
                // A prefix that is not greater than the marker hides keys that must not count as "more".
                match prefix {
                    Some(prefix) if prefix <= query.after.as_str() => {}
                    _ => return Ok((entries, true)),
                }
            }
            let Some(prefix) = prefix else {
                entries.push(Entry::Item(item_key, item));
                continue;
            };
            let prefix = prefix.to_owned();
            cursor = open(From::Past(&prefix));
            if prefix.as_str() > query.after.as_str() {
                entries.push(Entry::Prefix(prefix));
            }
        }
        Ok((entries, false))
    }
}

/// Entries of a page, and whether there are more.
type Rolled<T> = (Vec<Entry<T>>, bool);

/// Where a cursor opens.
#[derive(Clone, Copy, Debug)]
enum From<'q> {
    /// At the first key with the query's prefix.
    Start,
    /// At the first key greater than this one.
    After(&'q str),
    /// At the first key that does not start with this.
    Past(&'q str),
}

fn start(query: &Query) -> From<'_> {
    if query.after.is_empty() { From::Start } else { From::After(&query.after) }
}

/// The common prefix that rolls up `item`, if the delimiter is in it after the query's prefix.
fn common_prefix<'k>(query: &Query, item: &'k str) -> Option<&'k str> {
    let delimiter = query.delimiter.as_deref().filter(|delimiter| !delimiter.is_empty())?;
    let rest = item.get(query.prefix.len()..)?;
    let at = rest.find(delimiter)?;
    Some(&item[..query.prefix.len() + at + delimiter.len()])
}

/// Items in key order.
trait Cursor {
    type Item;
    fn next(&mut self) -> Result<Option<(String, Self::Item)>, Stop>;
}

/// The current names.
struct Names<'a> {
    rows: Rows<'a>,
}

fn names<'a>(reader: Reader<'a>, bucket: BucketId, query: &Query, from: From<'_>) -> Rows<'a> {
    let prefix = key::name(bucket, &query.prefix);
    let range = match from {
        From::Start => KeyRange::prefix(&prefix),
        From::After(after) => {
            let mut first = key::name(bucket, after);
            first.push(0);
            KeyRange::prefix_from(&prefix, first.max(prefix.clone()))
        }
        From::Past(past) => past_range(&prefix, &key::name(bucket, past)),
    };
    reader.rows(Keyspace::Names, range)
}

/// What starts with `prefix` and comes after everything that starts with `past`.
fn past_range(prefix: &[u8], past: &[u8]) -> KeyRange {
    match crate::kv::successor(past) {
        Some(next) => KeyRange::prefix_from(prefix, next),
        None => KeyRange { from: prefix.to_vec(), to: Some(prefix.to_vec()) },
    }
}

impl Cursor for Names<'_> {
    type Item = NameRow;

    fn next(&mut self) -> Result<Option<(String, NameRow)>, Stop> {
        let Some((row_key, value)) = self.rows.next().transpose()? else { return Ok(None) };
        Ok(Some((key::name_key(&row_key)?.to_owned(), NameRow::decode(&value)?)))
    }
}

/// Where the rows of a key that is not listed any more end: the next key.
fn past_key(bucket: BucketId, object: &str) -> Vec<u8> {
    crate::kv::successor(&key::history_of(bucket, object)).expect("the key ends in 1, which has a successor")
}

fn history_from(bucket: BucketId, query: &Query, from: From<'_>, resume: Option<Place>) -> KeyRange {
    let prefix = key::history_prefix(bucket, &query.prefix);
    match (from, resume) {
        (From::Start, _) => KeyRange::prefix(&prefix),
        (From::After(after), None) => {
            let first = past_key(bucket, after);
            KeyRange::prefix_from(&prefix, first.max(prefix.clone()))
        }
        (From::After(after), Some(place)) => {
            let mut first = key::history(bucket, after, place);
            first.push(0);
            KeyRange::prefix_from(&prefix, first.max(prefix.clone()))
        }
        (From::Past(past), _) => past_range(&prefix, &key::history_prefix(bucket, past)),
    }
}

/// Names as they were at a revision.
struct PastNames<'a> {
    reader: Reader<'a>,
    bucket: BucketId,
    at: Revision,
    end: Option<Vec<u8>>,
    rows: Rows<'a>,
}

impl<'a> PastNames<'a> {
    fn new(reader: Reader<'a>, bucket: BucketId, query: &Query, from: From<'_>, at: Revision) -> Self {
        let range = history_from(bucket, query, from, None);
        let end = range.to.clone();
        Self { reader, bucket, at, end, rows: reader.rows(Keyspace::History, range) }
    }

    fn seek(&mut self, from: Vec<u8>) {
        let range = KeyRange { from, to: self.end.clone() };
        self.rows = self.reader.rows(Keyspace::History, range);
    }
}

impl Cursor for PastNames<'_> {
    type Item = NameRow;

    fn next(&mut self) -> Result<Option<(String, NameRow)>, Stop> {
        while let Some((row_key, value)) = self.rows.next().transpose()? {
            let (object, place) = key::history_parts(&row_key)?;
            if place.revision > self.at {
                let at = Place { revision: self.at, ordinal: u16::MAX };
                self.seek(key::history(self.bucket, &object, at));
                continue;
            }
            let row = HistoryRow::decode(&value)?;
            if !row.lives_at(place, self.at) {
                continue;
            }
            self.seek(past_key(self.bucket, &object));
            if let Some(name) = name_of(&row, place) {
                return Ok(Some((object, name)));
            }
        }
        Ok(None)
    }
}

/// The name row of a version that is the latest; `None` for a delete marker.
#[must_use]
pub fn name_of(row: &HistoryRow, place: Place) -> Option<NameRow> {
    let version = row.version.as_ref()?;
    let (checksum, checksum_type) = match &version.checksum {
        Some(checksum) => (checksum.algorithm, checksum.kind),
        None => (ChecksumAlgorithm::Crc64Nvme, ChecksumType::FullObject),
    };
    Some(NameRow {
        place,
        object: version.object,
        size: version.size,
        etag: version.etag.clone(),
        modified_ms: row.modified_ms,
        null: row.null,
        checksum,
        checksum_type,
    })
}

/// Versions and markers that have not ended.
struct Versions<'a> {
    rows: Rows<'a>,
    key: Option<String>,
}

impl<'a> Versions<'a> {
    fn new(reader: Reader<'a>, bucket: BucketId, query: &Query, from: From<'_>, resume: Option<Place>) -> Self {
        let key = match (from, resume) {
            (From::After(after), Some(_)) => Some(after.to_owned()),
            _ => None,
        };
        Self { rows: reader.rows(Keyspace::History, history_from(bucket, query, from, resume)), key }
    }
}

impl Cursor for Versions<'_> {
    type Item = ListedVersion;

    fn next(&mut self) -> Result<Option<(String, ListedVersion)>, Stop> {
        while let Some((row_key, value)) = self.rows.next().transpose()? {
            let row = HistoryRow::decode(&value)?;
            if row.ended.is_some() {
                continue;
            }
            let (object, place) = key::history_parts(&row_key)?;
            let is_latest = self.key.as_ref() != Some(&object);
            self.key = Some(object.clone());
            return Ok(Some((object, ListedVersion { place, row, is_latest })));
        }
        Ok(None)
    }
}

struct Uploads<'a> {
    rows: Rows<'a>,
}

fn uploads<'a>(reader: Reader<'a>, bucket: BucketId, query: &Query, from: From<'_>, resume: Option<Place>) -> Rows<'a> {
    let prefix = key::uploads_prefix(bucket, &query.prefix);
    let range = match (from, resume) {
        (From::Start, _) => KeyRange::prefix(&prefix),
        (From::After(after), place) => {
            let first = match place {
                Some(place) => {
                    let mut first = key::upload(bucket, after, place);
                    first.push(0);
                    Some(first)
                }
                None => crate::kv::successor(&key::uploads_of(bucket, after)),
            };
            KeyRange::prefix_from(&prefix, first.unwrap_or_default().max(prefix.clone()))
        }
        (From::Past(past), _) => past_range(&prefix, &key::uploads_prefix(bucket, past)),
    };
    reader.rows(Keyspace::Parts, range)
}

impl Cursor for Uploads<'_> {
    type Item = (UploadId, UploadRow);

    fn next(&mut self) -> Result<Option<(String, Self::Item)>, Stop> {
        let Some((row_key, value)): Option<Row> = self.rows.next().transpose()? else { return Ok(None) };
        let (object, place) = key::upload_parts(&row_key)?;
        let row = UploadRow::decode(&value)?;
        let upload = UploadId { place, nonce: row.nonce };
        Ok(Some((object, (upload, row))))
    }
}
