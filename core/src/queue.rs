//! The work that waits for jobs: queues, read in order, a page at a time.
//!
//! Each queue is drained by commands, never here. A page may be stale by the time its command is applied: the rules look
//! again, so a job that acts on old news is refused or changes nothing.

use crate::error::Error;
use crate::id::{BlobId, BucketId, BucketName, Millis, ObjectKey, Place, Revision};
use crate::keyspace::{Keyspace, key, key::Queue};
use crate::kv::KeyRange;
use crate::record::{BlobRow, BucketRow, ContentId, Extent, Record};
use crate::rules::authorize::{Action, Permit};
use crate::state::Stop;
use crate::view::{Bucket, Found, View};

/// A condemned blob whose bytes are to be deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condemned {
    /// Revision that condemned it.
    pub revision: Revision,
    /// The blob.
    pub blob: BlobId,
    /// Its row, with the places of its bytes.
    pub row: BlobRow,
}

/// Blobs whose bytes nobody can need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Orphans {
    /// No row knows them: to be condemned first.
    pub unknown: Vec<BlobId>,
    /// Tombstones.
    pub condemned: Vec<BlobId>,
}

/// A content that waits to be joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToJoin {
    /// The content.
    pub content: ContentId,
    /// What it was written for, if its bucket is still there.
    pub name: Option<(BucketName, ObjectKey)>,
}

/// A content of many blobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fragmented {
    /// Bytes.
    pub size: u64,
    /// All its extents, in order.
    pub extents: Vec<Extent>,
}

/// A page that waits to be compacted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToCompact {
    /// The content.
    pub content: ContentId,
    /// The page's number.
    pub page: u32,
    /// Its extents, in order.
    pub extents: Vec<Extent>,
    /// Whether its content has so many extents that this cannot wait.
    pub of_many: bool,
    /// What it was written for, if its bucket is still there.
    pub name: Option<(BucketName, ObjectKey)>,
}

/// A version whose SHA-256 is pending.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PendingDigest {
    /// Its bucket.
    pub bucket: BucketId,
    /// Its key.
    pub key: ObjectKey,
    /// Its row of history.
    pub place: Place,
}

fn after(queue: Queue, last: Option<Vec<u8>>) -> KeyRange {
    let prefix = key::queue(queue);
    let from = last.map_or_else(
        || prefix.clone(),
        |mut last| {
            last.push(0);
            last
        },
    );
    KeyRange::prefix_from(&prefix, from)
}

impl View<'_> {
    /// Condemned blobs by revision: those after `last`, at most `limit`.
    ///
    /// # Errors
    /// [`Error::Denied`], or [`Stop`] when the engine fails.
    pub fn condemned(
        &self,
        permit: &Permit,
        last: Option<(Revision, BlobId)>,
        limit: usize,
    ) -> Result<Vec<Condemned>, Stop> {
        permit.require(&[Action::Maintain])?;
        let last = last.map(|(revision, blob)| key::queued_blob(Queue::Condemned, revision, blob));
        let mut found = Vec::new();
        for row in self.reader.rows(Keyspace::Queues, after(Queue::Condemned, last)).take(limit) {
            let (row_key, _) = row?;
            let Some((revision, blob)) = key::queued_blob_parts(&row_key) else { continue };
            if let Some(row) = self.reader.blob(blob)? {
                found.push(Condemned { revision, blob, row });
            }
        }
        Ok(found)
    }

    /// Which of `blobs` are orphans: no row, or only a tombstone, which has no place of bytes. A condemned blob that has
    /// places is in the queue, where readers hold it back.
    ///
    /// # Errors
    /// [`Error::Denied`], or [`Stop`] when the engine fails.
    pub fn orphans(&self, permit: &Permit, blobs: &[BlobId]) -> Result<Orphans, Stop> {
        permit.require(&[Action::Maintain])?;
        let mut orphans = Orphans::default();
        for blob in blobs {
            match self.reader.blob(*blob)? {
                None => orphans.unknown.push(*blob),
                Some(row) if row.condemned.is_some() && row.locations.is_empty() => orphans.condemned.push(*blob),
                Some(_) => {}
            }
        }
        Ok(orphans)
    }

    /// Contents of many blobs, in order of their ids: those after `last`, at most `limit`.
    ///
    /// # Errors
    /// [`Error::Denied`], or [`Stop`] when the engine fails.
    pub fn to_join(&self, permit: &Permit, last: Option<ContentId>, limit: usize) -> Result<Vec<ToJoin>, Stop> {
        permit.require(&[Action::Maintain])?;
        let mut found = Vec::new();
        for row in self.reader.rows(Keyspace::Queues, after(Queue::Join, last.map(key::queued_content))).take(limit) {
            let (row_key, value) = row?;
            let Some(content) = key::queued_content_id(&row_key) else { continue };
            found.push(ToJoin { content, name: self.named(&value)? });
        }
        Ok(found)
    }

    /// The name that a row of a queue hints at.
    fn named(&self, hint: &[u8]) -> Result<Option<(BucketName, ObjectKey)>, Stop> {
        let named = key::name_bucket(hint).zip(key::name_key(hint).ok().and_then(|text| text.parse().ok()));
        match named {
            Some((bucket, object)) => Ok(self.bucket_of(bucket)?.map(|bucket| (bucket.name, object))),
            None => Ok(None),
        }
    }

    /// Pages that are to be compacted, in order of their contents: those after `last`, at most `limit`.
    ///
    /// # Errors
    /// [`Error::Denied`], or [`Stop`] when the engine fails.
    pub fn to_compact(
        &self,
        permit: &Permit,
        last: Option<(ContentId, u32)>,
        limit: usize,
    ) -> Result<Vec<ToCompact>, Stop> {
        permit.require(&[Action::Maintain])?;
        let last = last.map(|(content, page)| key::queued_page(content, page));
        let mut found = Vec::new();
        for row in self.reader.rows(Keyspace::Queues, after(Queue::Compact, last)).take(limit) {
            let (row_key, value) = row?;
            let Some((content, page)) = key::queued_page_parts(&row_key) else { continue };
            let extents = self.reader.page(content, page)?.unwrap_or_default().extents;
            let of_many = self.reader.content(content)?.is_some_and(|row| row.has_many_extents());
            found.push(ToCompact { content, page, extents, of_many, name: self.named(&value)? });
        }
        Ok(found)
    }

    /// A content of many blobs; `None` when it is gone or no command could join it now, because another version or copy
    /// shares it.
    ///
    /// # Errors
    /// [`Error::Denied`], or [`Stop`] when the engine fails.
    pub fn fragmented(&self, permit: &Permit, content: ContentId) -> Result<Option<Fragmented>, Stop> {
        permit.require(&[Action::Maintain])?;
        let Some(row) = self.reader.content(content)? else { return Ok(None) };
        if row.refs != 1 || row.extents < 2 || row.hole_bytes.is_some() || self.is_shared(content)? {
            return Ok(None);
        }
        let extents = crate::view::content_extents(self.reader, content, 0..row.size)?;
        Ok(Some(Fragmented { size: row.size, extents }))
    }

    /// Whether the object has another content, which may see the same pages.
    fn is_shared(&self, content: ContentId) -> Result<bool, Stop> {
        for row in self.reader.rows(Keyspace::Objects, KeyRange::prefix(&key::object(content.object))) {
            if key::content_id(&row?.0).is_some_and(|other| other != content) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Versions whose SHA-256 is pending, by bucket and key: those after `last`, at most `limit`.
    ///
    /// # Errors
    /// [`Error::Denied`], or [`Stop`] when the engine fails.
    pub fn pending_digests(
        &self,
        permit: &Permit,
        last: Option<&PendingDigest>,
        limit: usize,
    ) -> Result<Vec<PendingDigest>, Stop> {
        permit.require(&[Action::Maintain])?;
        let last = last.map(|last| key::queued_digest(last.bucket, last.key.as_str(), last.place));
        let mut found = Vec::new();
        for row in self.reader.rows(Keyspace::Queues, after(Queue::Digest, last)).take(limit) {
            let (row_key, _) = row?;
            let Some((bucket, object, place)) = key::queued_digest_parts(&row_key) else { continue };
            let Ok(object) = object.parse() else { continue };
            found.push(PendingDigest { bucket, key: object, place });
        }
        Ok(found)
    }

    /// The version of a pending digest, for reading its bytes; `None` when it or its bucket is gone, or it is a marker.
    ///
    /// # Errors
    /// [`Error::Denied`], or [`Stop`] when the engine fails.
    pub fn find_pending(&self, permit: &Permit, pending: &PendingDigest) -> Result<Option<Found>, Stop> {
        permit.require(&[Action::Maintain])?;
        let Some(bucket) = self.bucket_of(pending.bucket)? else { return Ok(None) };
        let row = self.reader.history(pending.bucket, &pending.key, pending.place)?;
        let row = row.filter(|row| row.version.is_some());
        Ok(row.map(|row| Found { bucket, key: pending.key.clone(), place: pending.place, row, is_latest: false }))
    }

    /// The bucket of an id. Buckets are few and this is asked by jobs only: a scan.
    fn bucket_of(&self, id: BucketId) -> Result<Option<Bucket>, Stop> {
        for row in self.reader.rows(Keyspace::Buckets, KeyRange::prefix(&key::buckets())) {
            let (row_key, value) = row?;
            let row = BucketRow::decode(&value)?;
            if row.id == id {
                return Ok(key::bucket_name(&row_key).map(|name| Bucket { name, row }));
            }
        }
        Ok(None)
    }

    /// Whether rows are due for trimming at `now_ms`.
    ///
    /// # Errors
    /// [`Error::Denied`], or [`Stop`] when the engine fails.
    pub fn is_trim_due(&self, permit: &Permit, now_ms: Millis) -> Result<bool, Stop> {
        permit.require(&[Action::Maintain])?;
        for queue in [Queue::Ended, Queue::Finished, Queue::Forgotten, Queue::Session] {
            let Some(row) = self.reader.rows(Keyspace::Queues, after(queue, None)).next() else { continue };
            if key::due_ms(&row?.0).is_some_and(|due_ms| due_ms <= now_ms) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The permit of jobs.
///
/// # Errors
/// Never today: a job may do what jobs do.
pub fn maintain_permit() -> Result<Permit, Error> {
    use crate::rules::authorize::{Caller, Context, Resource, authorize};
    authorize(Caller::System, Action::Maintain, Resource::Service, &Context::default())
}
