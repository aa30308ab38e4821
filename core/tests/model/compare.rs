//! Everything that a reader can see, compared with the model: listings in pages of any size from any marker, every
//! version and its bytes, the past, uploads, parts, counters.

use std::collections::BTreeMap;

use holdfast_core::command::Document;
use holdfast_core::error::Error;
use holdfast_core::id::*;
use holdfast_core::kv::MemView;
use holdfast_core::list::{Entry, ListedVersion, Page, Query};
use holdfast_core::record::*;
use holdfast_core::rules::authorize::{Action, Resource};
use holdfast_core::state::Stop;
use holdfast_core::view::{Found, View, blocks_of};

use crate::content::Content;
use crate::generate::{BUCKETS, KEYS};
use crate::naive::{Bucket, Naive, Object, Row};
use crate::support::{Dice, crcs, list, permit, read};

macro_rules! ensure_eq {
    ($actual:expr, $expected:expr, $($what:tt)*) => {
        let (actual, expected) = (&$actual, &$expected);
        if actual != expected {
            return Err(format!("{}: it is\n  {actual:?}\nnot\n  {expected:?}", format_args!($($what)*)));
        }
    };
}

type Checked = Result<(), String>;

/// A state and what the model says of it.
pub struct Comparison<'a> {
    pub view: View<'a>,
    pub naive: &'a Naive,
    pub dice: &'a mut Dice,
}

impl<'a> Comparison<'a> {
    pub fn new(rows: &'a MemView, revision: u64, naive: &'a Naive, dice: &'a mut Dice) -> Self {
        Self { view: View::new(rows, revision), naive, dice }
    }

    /// Compares the settings, and one random listing of each kind in each bucket.
    pub fn listings(&mut self) -> Checked {
        self.buckets()?;
        for (name, bucket) in &self.naive.buckets {
            let name: BucketName = name.parse().unwrap();
            self.documents(&name, bucket)?;
            self.names(&name, bucket)?;
            self.past_names(&name, bucket)?;
            self.versions(&name, bucket)?;
            self.uploads(&name, bucket)?;
        }
        Ok(())
    }

    /// Compares every version of every key, and what is not there.
    pub fn objects(&mut self) -> Checked {
        for (name, bucket) in &self.naive.buckets {
            let name: BucketName = name.parse().unwrap();
            for key in KEYS {
                let rows = bucket.keys.get(key).map(Vec::as_slice).unwrap_or_default();
                self.latest(&name, bucket, key, rows.last())?;
                for row in rows {
                    let found = self.view.find(&read(&name, key), Some(row.id()), None);
                    let found = found.map_err(|stop| format!("version {} of {key:?}: {stop:?}", row.id()))?;
                    self.found(&found, row, bucket.shown(row))?;
                    ensure_eq!(found.is_latest, rows.last() == Some(row), "is_latest of {key:?}");
                }
                if !rows.iter().any(|row| row.null) {
                    let missing = self.view.find(&read(&name, key), Some(VersionId::Null), None);
                    ensure_refused(missing, &Error::NoSuchVersion)?;
                }
            }
        }
        self.past_objects()
    }

    fn buckets(&mut self) -> Checked {
        let all = permit(Action::ListBuckets, Resource::Service);
        let prefix = *self.dice.pick(&["", "", "a", "bb", "zzz"]);
        let limit = 1 + self.dice.below(3) as usize;
        let mut listed = Vec::new();
        let mut after: Option<String> = self.dice.once_in(3).then(|| (*self.dice.pick(&BUCKETS)).to_owned());
        let start = after.clone();
        loop {
            let (page, more) =
                self.view.buckets(&all, prefix, after.as_deref(), limit).map_err(|stop| format!("{stop:?}"))?;
            ensure_eq!(page.len() == limit || !more, true, "a page of buckets is full when there is more");
            listed.extend(page);
            if !more {
                break;
            }
            after = listed.last().map(|bucket| bucket.name.to_string());
        }
        let wanted = |name: &&String| name.starts_with(prefix) && start.as_ref().is_none_or(|start| *name > start);
        let names: Vec<&str> = listed.iter().map(|bucket| bucket.name.as_str()).collect();
        ensure_eq!(names, self.naive.buckets.keys().filter(wanted).collect::<Vec<_>>(), "buckets");
        for bucket in &listed {
            let naive = &self.naive.buckets[bucket.name.as_str()];
            let row = &bucket.row;
            ensure_eq!(
                (row.id, row.created_ms, row.versioning),
                (naive.id, naive.created_ms, naive.versioning),
                "bucket"
            );
            ensure_eq!(row.settings, naive.settings, "settings");
            ensure_eq!(row.usage, usage(naive), "usage");
        }
        Ok(())
    }

    fn documents(&self, name: &BucketName, bucket: &Bucket) -> Checked {
        let permit = permit(Action::ReadBucketSettings, Resource::Bucket(name.clone()));
        for kind in [Document::Cors, Document::Tags] {
            let document = self.view.document(&permit, kind).map_err(|stop| format!("{stop:?}"))?;
            ensure_eq!(document.as_deref(), bucket.documents.get(&(kind as u8)).map(Vec::as_slice), "{kind:?}");
        }
        Ok(())
    }

    fn query(&mut self) -> Query {
        Query {
            prefix: (*self.dice.pick(&["", "", "a", "a/", "a\0", "dir/", "é", "zz", "a/b/"])).into(),
            delimiter: self
                .dice
                .pick(&[None, Some("/"), Some("/"), Some("b"), Some("ir/"), Some("\0"), Some("")])
                .map(Into::into),
            after: if self.dice.once_in(3) { self.marker() } else { String::new() },
            limit: *self.dice.pick(&[1, 1, 2, 3, 5, 1000]),
        }
    }

    fn marker(&mut self) -> String {
        (*self.dice.pick(&["a", "a/", "a/b", "a/bb", "b", "dir", "dir/", "dir/2", "dir/zz", "é", "\u{10ffff}"])).into()
    }

    /// Walks the pages of a listing; gives all entries.
    fn walk<T>(
        &self,
        mut query: Query,
        mut list: impl FnMut(&Query, Option<&Entry<T>>) -> Result<Page<T>, Stop>,
    ) -> Result<Vec<Entry<T>>, String> {
        let mut entries: Vec<Entry<T>> = Vec::new();
        loop {
            let page = list(&query, entries.last()).map_err(|stop| format!("{query:?}: {stop:?}"))?;
            ensure_eq!(page.entries.len() == query.limit || !page.truncated, true, "a page is full when there is more");
            ensure_eq!(page.entries.len() <= query.limit, true, "a page is not overfull");
            entries.extend(page.entries);
            if !page.truncated {
                return Ok(entries);
            }
            query.after = entries.last().unwrap().marker().to_owned();
        }
    }

    fn names(&mut self, name: &BucketName, bucket: &Bucket) -> Checked {
        let query = self.query();
        let listed = self.walk(query.clone(), |query, _| self.view.list(&list(name), query, None))?;
        let latest = bucket.latest();
        compare_names(&listed, &latest, &query)
    }

    /// A listing at an older revision is what it was then, or, once the window is over, what it is now.
    fn past_names(&mut self, name: &BucketName, bucket: &Bucket) -> Checked {
        let past = &self.naive.past[&bucket.id];
        let at = past.first().unwrap().0 + self.dice.below(self.view.revision() - past.first().unwrap().0 + 1);
        let then = &past.iter().rev().find(|(revision, _)| *revision <= at).unwrap().1;
        let query = self.query();
        let page = self.view.list(&list(name), &query, Some(at)).map_err(|stop| format!("{stop:?}"))?;
        let promised = at >= self.naive.floors.get(&bucket.id).copied().unwrap_or_default();
        ensure_eq!(page.revision == at || page.revision == self.view.revision(), true, "revision of a page");
        let now = bucket.latest();
        let visible = |rows: &BTreeMap<String, Row>| -> Vec<(String, Place)> {
            rows.iter().filter(|(_, row)| row.version.is_some()).map(|(key, row)| (key.clone(), row.place)).collect()
        };
        if promised && page.revision != at {
            ensure_eq!(visible(then), visible(&now), "the window holds {at}, and it is not listed");
        }
        let shown = if page.revision == at { then } else { &now };
        let listed = self.walk(query.clone(), |query, _| self.view.list(&list(name), query, Some(page.revision)))?;
        compare_names(&listed, shown, &query)
    }

    fn versions(&mut self, name: &BucketName, bucket: &Bucket) -> Checked {
        let permit = permit(Action::ListBucketVersions, Resource::Bucket(name.clone()));
        let mut query = self.query();
        let mut marker = None;
        if self.dice.once_in(3) && !bucket.keys.is_empty() {
            let (key, rows) = bucket.keys.iter().nth(self.dice.below(bucket.keys.len() as u64) as usize).unwrap();
            query.after.clone_from(key);
            marker = Some(self.dice.pick(rows).clone());
        }
        let first = marker.as_ref().map(Row::id);
        let listed = self.walk(query.clone(), |query, last: Option<&Entry<ListedVersion>>| {
            let after = match last {
                None => first,
                Some(Entry::Item(_, version)) => Some(version.version_id()),
                Some(Entry::Prefix(_)) => None,
            };
            self.view.list_versions(&permit, query, after)
        })?;
        let mut items = Vec::new();
        for (key, rows) in &bucket.keys {
            let newest = rows.iter().rev().map(|row| (key.clone(), row));
            items.extend(newest.filter(|(key, row)| {
                *key != query.after || marker.as_ref().is_none_or(|marker| row.place < marker.place)
            }));
        }
        let listed: Vec<Entry<Place>> = listed.iter().map(version_place).collect();
        let expected =
            naive_entries(items.iter().map(|(key, row)| (key.as_str(), row.place)), &query, marker.is_some());
        ensure_eq!(listed, expected, "versions {query:?} after {marker:?}");
        Ok(())
    }

    fn uploads(&mut self, name: &BucketName, bucket: &Bucket) -> Checked {
        let uploads = permit(Action::ListUploads, Resource::Bucket(name.clone()));
        let query = self.query();
        let listed = self.walk(query.clone(), |query, last| {
            let after = last.and_then(|last| match last {
                Entry::Item(_, (upload, _)) => Some(*upload),
                Entry::Prefix(_) => None,
            });
            self.view.list_uploads(&uploads, query, after)
        })?;
        let listed: Vec<Entry<Place>> = listed
            .iter()
            .map(|entry| match entry {
                Entry::Item(key, (upload, _)) => Entry::Item(key.clone(), upload.place),
                Entry::Prefix(prefix) => Entry::Prefix(prefix.clone()),
            })
            .collect();
        let items = bucket.uploads.keys().map(|(key, place)| (key.as_str(), *place));
        ensure_eq!(listed, naive_entries(items, &query, false), "uploads {query:?}");
        self.parts(name, bucket)
    }

    fn parts(&mut self, name: &BucketName, bucket: &Bucket) -> Checked {
        for ((key, place), upload) in &bucket.uploads {
            let permit = permit(Action::ListParts, Resource::Object(name.clone(), key.parse().unwrap()));
            let id = UploadId { place: *place, nonce: upload.nonce };
            let limit = 1 + self.dice.below(3) as usize;
            let (mut parts, mut after) = (Vec::new(), 0);
            loop {
                let page = self.view.parts(&permit, id, after, limit).map_err(|stop| format!("{stop:?}"))?;
                ensure_eq!(page.upload.attributes, upload.attributes, "an upload's attributes");
                ensure_eq!(page.upload.initiated_ms, upload.initiated_ms, "an upload's beginning");
                parts.extend(page.parts);
                if !page.truncated {
                    break;
                }
                after = parts.last().unwrap().0;
            }
            ensure_eq!(parts.len(), upload.parts.len(), "number of parts");
            for ((number, part), (expected_number, expected)) in parts.iter().zip(&upload.parts) {
                ensure_eq!(number, expected_number, "part number");
                ensure_eq!(
                    (part.size, part.modified_ms),
                    (expected.content.len(), expected.modified_ms),
                    "part {number}"
                );
                ensure_eq!((part.md5, &part.checksum), (expected.md5, &expected.checksum), "digests of part {number}");
                ensure_eq!(self.bytes_at(&part.extents)?, expected.content, "bytes of part {number}");
            }
        }
        Ok(())
    }

    fn latest(&mut self, name: &BucketName, bucket: &Bucket, key: &str, row: Option<&Row>) -> Checked {
        let found = self.view.find(&read(name, key), None, None);
        match row {
            None => ensure_refused(found, &Error::NoSuchKey),
            Some(row) => {
                let found = found.map_err(|stop| format!("{key:?}: {stop:?}"))?;
                ensure_eq!(found.is_latest, true, "{key:?}");
                self.found(&found, row, bucket.shown(row))
            }
        }
    }

    fn past_objects(&mut self) -> Checked {
        for (name, bucket) in &self.naive.buckets {
            let past = &self.naive.past[&bucket.id];
            let at = past.first().unwrap().0 + self.dice.below(self.view.revision() - past.first().unwrap().0 + 1);
            let then = &past.iter().rev().find(|(revision, _)| *revision <= at).unwrap().1;
            let promised = at >= self.naive.floors.get(&bucket.id).copied().unwrap_or_default();
            let key = *self.dice.pick(&KEYS);
            let found = self.view.find(&read(&name.parse().unwrap(), key), None, Some(at));
            match (found, then.get(key)) {
                (Err(Stop::Refused(Error::Changed)), _) if !promised => {}
                (found, None) => ensure_refused(found, &Error::NoSuchKey)?,
                (found, Some(row)) => {
                    let found = found.map_err(|stop| format!("{key:?} at {at}: {stop:?}"))?;
                    ensure_eq!(found.place, row.place, "{key:?} at {at}");
                    if let Some(object) = &row.version {
                        self.bytes(&found, object)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn found(&mut self, found: &Found, row: &Row, shown: Option<VersionId>) -> Checked {
        ensure_eq!((found.place, found.row.nonce, found.row.null), (row.place, row.nonce, row.null), "a row");
        ensure_eq!((found.row.modified_ms, found.shown_version()), (row.modified_ms, shown), "a row");
        let (version, object) = match (&found.row.version, &row.version) {
            (Some(version), Some(object)) => (version, object),
            (version, object) => {
                ensure_eq!(version.is_some(), object.is_some(), "whether {:?} is a delete marker", found.key);
                return Ok(());
            }
        };
        ensure_eq!((version.size, &version.etag), (object.content.len(), &object.etag), "{:?}", found.key);
        ensure_eq!(version.attributes, object.attributes, "attributes of {:?}", found.key);
        ensure_eq!(version.sha256, object.sha256, "SHA-256 of {:?}", found.key);
        ensure_eq!(version.shown_checksum(), Some(object.shown_checksum()), "checksum of {:?}", found.key);
        ensure_eq!(version.crc64nvme, object.crc64, "CRC-64 of {:?}", found.key);
        ensure_eq!(version.created_ms, object.created_ms, "creation of {:?}", found.key);
        let boundaries = self.view.boundaries(found).map_err(|stop| format!("{stop:?}"))?;
        ensure_eq!(boundaries, object.parts, "boundaries of {:?}", found.key);
        self.bytes(found, object)
    }

    /// The whole of a version, and a random range of it.
    fn bytes(&mut self, found: &Found, object: &Object) -> Checked {
        let size = object.content.len();
        let from = self.dice.below(size + 1);
        let random = from..from + self.dice.below(size - from + 1);
        for range in [0..size, random] {
            let extents =
                self.view.extents(found, range.clone()).map_err(|stop| format!("{:?}: {stop:?}", found.key))?;
            let mut position = range.start;
            for extent in &extents {
                ensure_eq!(extent.offset, position, "offset of an extent of {:?}", found.key);
                position += extent.length;
            }
            ensure_eq!(
                self.bytes_at(&extents)?,
                object.content.slice(range.clone()),
                "bytes {range:?} of {:?}",
                found.key
            );
        }
        ensure_refused(self.view.extents(found, size..size + 1), &Error::InvalidRange)
    }

    /// The bytes that extents name, as a reader of blobs finds them.
    fn bytes_at(&self, extents: &[Extent]) -> Result<Content, String> {
        let mut content = Content::default();
        for extent in extents {
            let source = self.view.blob(extent).map_err(|stop| format!("{extent:?}: {stop:?}"))?;
            let blob = &self.naive.blobs[&extent.blob];
            ensure_eq!(source.row.length, blob.len(), "length of a blob");
            match &source.inline {
                Some(bytes) => {
                    ensure_eq!(bytes[..], blob.bytes()[..], "inline bytes");
                }
                None => {
                    let path = vec![Location::Path(format!("partitions/{}", extent.blob))];
                    ensure_eq!(source.row.locations, path, "locations");
                    ensure_eq!(self.naive.deleted.contains(&extent.blob), false, "bytes of {extent:?} are deleted");
                }
            }
            let range = extent.blob_offset..extent.blob_offset + extent.length;
            let blocks = blocks_of(&range);
            let sums = self.view.block_checksums(extent, &source.row, blocks.clone());
            let sums: Vec<u8> =
                sums.map_err(|stop| format!("{stop:?}"))?.iter().flat_map(|crc| crc.to_be_bytes()).collect();
            let expected = &crcs(blob.len())[blocks.start as usize * 4..blocks.end as usize * 4];
            ensure_eq!(sums, expected, "block checksums of {extent:?}");
            content.extend(&blob.slice(range));
        }
        Ok(content)
    }
}

fn usage(bucket: &Bucket) -> Usage {
    let rows = || bucket.keys.values().flatten();
    Usage {
        objects: bucket.keys.keys().filter(|key| bucket.live(key).is_some()).count() as u64,
        versions: rows().count() as u64,
        bytes: rows().filter_map(|row| row.version.as_ref()).map(|object| object.content.len()).sum(),
        uploads: bucket.uploads.len() as u64,
    }
}

fn ensure_refused<T: std::fmt::Debug>(actual: Result<T, Stop>, expected: &Error) -> Checked {
    match actual {
        Err(Stop::Refused(error)) if error == *expected => Ok(()),
        actual => Err(format!("expected {expected:?}, got {actual:?}")),
    }
}

fn version_place(entry: &Entry<ListedVersion>) -> Entry<Place> {
    match entry {
        Entry::Item(key, version) => Entry::Item(key.clone(), version.place),
        Entry::Prefix(prefix) => Entry::Prefix(prefix.clone()),
    }
}

fn compare_names(listed: &[Entry<NameRow>], latest: &BTreeMap<String, Row>, query: &Query) -> Checked {
    let live = || latest.iter().filter_map(|(key, row)| Some((key, row, row.version.as_ref()?)));
    let places: Vec<Entry<Place>> = listed
        .iter()
        .map(|entry| match entry {
            Entry::Item(key, name) => Entry::Item(key.clone(), name.place),
            Entry::Prefix(prefix) => Entry::Prefix(prefix.clone()),
        })
        .collect();
    let expected = naive_entries(live().map(|(key, row, _)| (key.as_str(), row.place)), query, false);
    ensure_eq!(places, expected, "names {query:?}");
    for entry in listed {
        let Entry::Item(key, name) = entry else { continue };
        let (_, row, object) = live().find(|(live, ..)| *live == key).unwrap();
        let shown = object.shown_checksum();
        let facts = (name.size, &name.etag, name.modified_ms, name.null, name.checksum, name.checksum_type);
        let expected = (object.content.len(), &object.etag, row.modified_ms, row.null, shown.algorithm, shown.kind);
        ensure_eq!(facts, expected, "name of {key:?}");
    }
    Ok(())
}

/// A listing the slow way: roll up, sort, cut. With `resumed`, the rest of the key `after` comes first.
fn naive_entries<'k>(items: impl Iterator<Item = (&'k str, Place)>, query: &Query, resumed: bool) -> Vec<Entry<Place>> {
    let mut entries: Vec<Entry<Place>> = Vec::new();
    for (key, place) in items.filter(|(key, _)| key.starts_with(&query.prefix)) {
        let delimiter = query.delimiter.as_ref().filter(|delimiter| !delimiter.is_empty());
        let rolled = delimiter.and_then(|delimiter| {
            let (until, _) = key[query.prefix.len()..].split_once(delimiter.as_str())?;
            Some(Entry::Prefix(format!("{}{until}{delimiter}", query.prefix)))
        });
        let entry = rolled.unwrap_or_else(|| Entry::Item(key.to_owned(), place));
        let rest = resumed && matches!(&entry, Entry::Item(key, _) if *key == query.after);
        if (entry.marker() > query.after.as_str() || rest) && entries.last() != Some(&entry) {
            entries.push(entry);
        }
    }
    // A common prefix sorts as the text it is, among the keys.
    entries.sort_by(|one, other| one.marker().cmp(other.marker()));
    entries.dedup_by(|one, other| matches!(one, Entry::Prefix(_)) && one == other);
    entries
}
