//! What a mount reads: names, directories, where the bytes of files are, and files without a name.

use crate::command::mount::FileRef;
use crate::error::Error;
use crate::id::{BlobId, BucketId, ObjectId, ObjectKey, Place, Revision};
use crate::list;
use crate::mount::{Entry, LIST_ENTRIES_MAX, List, Listed, MAP_EXTENTS_MAX, Map, Mapped, Node, Orphan};
use crate::record::{Body, Extent, HistoryRow};
use crate::rules::authorize::{Action, Permit, Resource};
use crate::rules::mount::files::{self, File, Named};
use crate::state::Stop;
use crate::view::{Bucket, Found, View, extents, first_extents};

/// The ordinal of the place of a file without a name, whose revision is its object. No command gives it: the last is one
/// less.
const ORPHAN_ORDINAL: u16 = u16::MAX;

/// A file without a name, as a row of history.
pub(crate) fn row_of(orphan: Orphan) -> HistoryRow {
    let Orphan { version, modified_ms, .. } = orphan;
    HistoryRow { nonce: BlobId::default(), null: true, modified_ms, version: Some(version), ended: None }
}

impl Found {
    /// The object, of a file without a name.
    #[must_use]
    pub fn orphan(&self) -> Option<ObjectId> {
        (self.place.ordinal == ORPHAN_ORDINAL).then_some(ObjectId(self.place.revision))
    }
}

impl View<'_> {
    /// What has each of `paths`, which are keys without a slash at the end; the empty one is the bucket.
    ///
    /// # Errors
    /// [`Error::NoSuchBucket`], [`Error::Denied`], or [`Stop`] when the engine fails.
    pub fn mount_entries(&self, permit: &Permit, paths: &[String]) -> Result<Vec<Entry>, Stop> {
        permit.require(&[Action::ListBucket])?;
        let bucket = self.bucket(permit)?;
        paths.iter().map(|path| self.mount_entry(&bucket, path)).collect()
    }

    fn mount_entry(&self, bucket: &Bucket, path: &str) -> Result<Entry, Stop> {
        if path.is_empty() {
            let created_ms = bucket.row.created_ms;
            let root = Node { created_ms, modified_ms: created_ms, ..files::implicit(None) };
            return Ok(Entry { file: None, directory: Some(root) });
        }
        let id = bucket.row.id;
        // What is too long for a key has none.
        let file = match path.parse::<ObjectKey>() {
            Ok(object) if !files::is_directory(&object) => self.mount_node(id, &object)?,
            _ => None,
        };
        let directory = match format!("{path}/").parse::<ObjectKey>() {
            Ok(object) => match self.mount_node(id, &object)? {
                Some(marker) => Some(marker),
                None if files::any_under(self.reader, id, object.as_str())? => Some(files::implicit(Some(object))),
                None => None,
            },
            Err(_) => None,
        };
        Ok(Entry { file, directory })
    }

    fn mount_node(&self, bucket: BucketId, object: &ObjectKey) -> Result<Option<Node>, Stop> {
        match files::named(self.reader, bucket, object)? {
            Some(named) => Ok(Some(File::Named(Box::new(named)).node(self.reader)?)),
            None => Ok(None),
        }
    }

    /// A page of a directory: reads about as many rows as it gives.
    ///
    /// # Errors
    /// [`Error::NoSuchBucket`], [`Error::Changed`] when the bucket has forgotten the revision of the first page,
    /// [`Error::Denied`], or [`Stop`] when the engine fails.
    pub fn mount_list(&self, permit: &Permit, list: &List) -> Result<Listed, Stop> {
        if !list.prefix.is_empty() && !list.prefix.ends_with('/') {
            return Err(Error::invalid("a directory's key ends with a slash").into());
        }
        let after = list.after.clone().unwrap_or_default().max(list.prefix.clone());
        let limit = (list.limit as usize).min(LIST_ENTRIES_MAX);
        let delimiter = Some("/".to_owned());
        let query = list::Query { prefix: list.prefix.clone(), delimiter, after, limit };
        let page = self.list(permit, &query, list.at)?;
        let bucket = &page.bucket.row;
        let past = list.at.filter(|at| *at < bucket.changed && *at < self.revision());
        if past.is_some_and(|at| page.revision != at) {
            return Err(Error::Changed.into());
        }
        let last = page.entries.last().map(|entry| entry.marker().to_owned());
        let mut nodes = Vec::with_capacity(page.entries.len());
        for entry in page.entries {
            let node = match entry {
                list::Entry::Item(key, name) => match key.parse::<ObjectKey>() {
                    Ok(object) => self.listed_file(bucket.id, object, name)?,
                    Err(_) => None,
                },
                list::Entry::Prefix(prefix) => match prefix.parse::<ObjectKey>() {
                    Ok(object) => Some(self.listed_directory(bucket.id, object, past)?),
                    Err(_) => None,
                },
            };
            nodes.extend(node);
        }
        Ok(Listed { nodes, after: last.filter(|_| page.truncated) })
    }

    fn listed_file(
        &self,
        bucket: BucketId,
        key: ObjectKey,
        name: crate::record::NameRow,
    ) -> Result<Option<Node>, Stop> {
        let row = self.reader.history(bucket, &key, name.place)?;
        let Some(version) = row.and_then(|row| row.version) else { return Ok(None) };
        Ok(Some(File::Named(Box::new(Named { key, name, version })).node(self.reader)?))
    }

    fn listed_directory(&self, bucket: BucketId, key: ObjectKey, at: Option<Revision>) -> Result<Node, Stop> {
        let marker = match at {
            None => self.mount_node(bucket, &key)?,
            Some(at) => match self.reader.newest(bucket, &key, Some(at))? {
                Some((place, row)) => match list::name_of(&row, place) {
                    Some(name) => self.listed_file(bucket, key.clone(), name)?,
                    None => None,
                },
                None => None,
            },
        };
        Ok(marker.unwrap_or_else(|| files::implicit(Some(key))))
    }

    /// Of a file, the permit of its key; of one without a name, a permit of the bucket.
    fn mount_find(&self, permit: &Permit, file: &FileRef) -> Result<(Bucket, File), Stop> {
        match &file.key {
            Some(key) if permit.object(&[Action::GetObject])?.1 != key => return Err(Error::Denied.into()),
            Some(_) => {}
            None if !matches!(permit.resource(), Resource::Bucket(_)) => return Err(Error::Denied.into()),
            None => permit.require(&[Action::GetObject, Action::ListBucket])?,
        }
        let bucket = self.bucket(permit)?;
        let file = files::find(self.reader, bucket.row.id, None, file)?;
        Ok((bucket, file))
    }

    /// A file now. One without a name is found by whoever knows its object.
    ///
    /// # Errors
    /// [`Error::NoSuchBucket`], [`Error::NoSuchKey`], [`Error::Changed`] when something else is behind the name,
    /// [`Error::Denied`], or [`Stop`] when the engine fails.
    pub fn mount_file(&self, permit: &Permit, file: &FileRef) -> Result<Node, Stop> {
        self.mount_find(permit, file)?.1.node(self.reader)
    }

    /// As [`View::mount_file`]: the proof for reading its bytes. Of a file without a name, key and place are not those of a
    /// row of history: [`Found::orphan`].
    ///
    /// # Errors
    /// As [`View::mount_file`].
    pub fn find_file(&self, permit: &Permit, file: &FileRef) -> Result<Found, Stop> {
        let (bucket, file) = self.mount_find(permit, file)?;
        let (key, place, row) = match file {
            File::Named(named) => {
                let row = self.reader.history(bucket.row.id, &named.key, named.name.place)?.ok_or(Error::NoSuchKey)?;
                (named.key, named.name.place, row)
            }
            File::Orphan(orphan) => {
                let key = ObjectKey::of_orphan();
                let place = Place { revision: orphan.version.object.0, ordinal: ORPHAN_ORDINAL };
                (key, place, row_of(*orphan))
            }
        };
        Ok(Found { bucket, key, place, row, is_latest: true })
    }

    /// Where bytes of a file are.
    ///
    /// # Errors
    /// As [`View::mount_file`].
    pub fn mount_map(&self, permit: &Permit, map: &Map) -> Result<Mapped, Stop> {
        let (_, file) = self.mount_find(permit, &map.file)?;
        let node = file.node(self.reader)?;
        let start = map.offset.min(node.size);
        let range = start..map.offset.saturating_add(map.length).clamp(start, node.size);
        let mut found: Vec<Extent> = match file.version().body {
            Body::Pages(id) if !range.is_empty() => first_extents(self.reader, id, range, MAP_EXTENTS_MAX)?,
            _ => extents(self.reader, file.version(), range)?,
        };
        found.truncate(MAP_EXTENTS_MAX);
        Ok(Mapped { node, extents: found })
    }
}
