//! Events: what each commit changed, as rows that are written by the same commit.
//!
//! The key is (revision, ordinal), so the order of rows is that of commits; the last row of a commit says so. Rows go from
//! the old end only, by [`crate::command::Op::TrimEvents`], and [`FeedRow::floor`] tells how far: who asks for less is
//! told that it is compacted, never given a feed with a hole.

use minicbor::{Decode, Encode};

use crate::error::Error;
use crate::id::{BucketName, Millis, ObjectId, Place, RequestId, Revision, VersionId};
use crate::keyspace::{Keyspace, key};
use crate::kv::KeyRange;
use crate::record::{Record, record, stored_enum};
use crate::rules::authorize::{Action, Permit};
use crate::state::{Reader, Stop};
use crate::view::View;

stored_enum! {
    /// What happened. The S3 names are those of the S3 user guide, "Event notification types and destinations", where it
    /// has one.
    pub enum EventKind {
        /// `ObjectCreated:Put`
        Put = 0,
        /// `ObjectCreated:Copy`
        Copy = 1,
        /// `ObjectCreated:CompleteMultipartUpload`
        Complete = 2,
        /// `ObjectCreated:Append`
        Append = 3,
        /// `ObjectCreated:Rename`: a key came to be by a rename; `source` is its old name.
        RenamedTo = 4,
        /// `ObjectRemoved:Rename`: a key is gone by a rename; `source` is its new name.
        RenamedFrom = 5,
        /// `ObjectRemoved:Delete`
        Delete = 6,
        /// `ObjectRemoved:DeleteMarkerCreated`
        Marker = 7,
        /// `ObjectTagging:Put`
        Tagged = 8,
        /// `ObjectTagging:Delete`
        Untagged = 9,
        /// `ObjectPrefix:Renamed`: every key under `source` is now under `key`.
        PrefixRenamed = 10,
        /// `BucketCreated:*`
        BucketCreated = 11,
        /// `BucketRemoved:*`
        BucketRemoved = 12,
        /// `BucketChanged:*`: versioning, settings or a document.
        BucketChanged = 13,
        /// `Lock:Granted`; `key` is the lock, `token` its fencing token.
        LockGranted = 14,
        /// `Lock:Released`
        LockReleased = 15,
        /// `Lock:Expired`
        LockExpired = 16,
        /// `Ephemeral:Set`; `key` is the key.
        KeySet = 17,
        /// `Ephemeral:Removed`
        KeyRemoved = 18,
        /// `Index:Created`; `key` is the index.
        IndexCreated = 19,
        /// `Index:Ready`: every object that was there is indexed, or pending.
        IndexReady = 20,
        /// `Index:Failed`
        IndexFailed = 21,
        /// `Index:Dropped`
        IndexDropped = 22,
        /// `ObjectPatched:Patch`: a mount changed bytes of the object.
        Patched = 23,
        /// `ObjectAttributes:Put`: a mount changed user metadata.
        AttributesChanged = 24,
    }
}

impl EventKind {
    /// The name, without the `s3:` in front.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Put => "ObjectCreated:Put",
            Self::Copy => "ObjectCreated:Copy",
            Self::Complete => "ObjectCreated:CompleteMultipartUpload",
            Self::Append => "ObjectCreated:Append",
            Self::RenamedTo => "ObjectCreated:Rename",
            Self::RenamedFrom => "ObjectRemoved:Rename",
            Self::Delete => "ObjectRemoved:Delete",
            Self::Marker => "ObjectRemoved:DeleteMarkerCreated",
            Self::Tagged => "ObjectTagging:Put",
            Self::Untagged => "ObjectTagging:Delete",
            Self::PrefixRenamed => "ObjectPrefix:Renamed",
            Self::BucketCreated => "BucketCreated:*",
            Self::BucketRemoved => "BucketRemoved:*",
            Self::BucketChanged => "BucketChanged:*",
            Self::LockGranted => "Lock:Granted",
            Self::LockReleased => "Lock:Released",
            Self::LockExpired => "Lock:Expired",
            Self::KeySet => "Ephemeral:Set",
            Self::KeyRemoved => "Ephemeral:Removed",
            Self::IndexCreated => "Index:Created",
            Self::IndexReady => "Index:Ready",
            Self::IndexFailed => "Index:Failed",
            Self::IndexDropped => "Index:Dropped",
            Self::Patched => "ObjectPatched:Patch",
            Self::AttributesChanged => "ObjectAttributes:Put",
        }
    }

    /// Whether some event has this name, or is of this family: `s3:ObjectCreated:*`.
    #[must_use]
    pub fn is_known(name: &str) -> bool {
        let Some(name) = name.strip_prefix("s3:") else { return false };
        Self::ALL.iter().any(|kind| match name.strip_suffix('*') {
            Some(start) => kind.name().starts_with(start),
            None => kind.name() == name,
        })
    }

    /// Whether it is about an object or a prefix of objects.
    #[must_use]
    pub fn is_of_object(self) -> bool {
        (self as u8) <= Self::PrefixRenamed as u8 || matches!(self, Self::Patched | Self::AttributesChanged)
    }
}

/// One thing that happened. Key: revision, ordinal.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct EventRow {
    /// What.
    #[n(0)]
    pub kind: EventKind,
    /// State time of its commit.
    #[n(1)]
    pub at_ms: Millis,
    /// The request that did it.
    #[n(2)]
    pub request: RequestId,
    /// Whether it is the last of its commit.
    #[n(3)]
    pub last: bool,
    /// Bucket.
    #[n(4)]
    pub bucket: Option<BucketName>,
    /// Object key, prefix, lock, ephemeral key or index.
    #[n(5)]
    pub key: Option<String>,
    /// Version id, where the bucket shows one.
    #[n(6)]
    pub version: Option<VersionId>,
    /// Bytes of what came to be.
    #[n(7)]
    pub size: Option<u64>,
    /// ETag, without quotes.
    #[n(8)]
    pub etag: Option<String>,
    /// The other name of a rename.
    #[n(9)]
    pub source: Option<String>,
    /// Fencing token of a lock.
    #[n(10)]
    pub token: Option<Revision>,
    /// Owner of a lock, as it named itself.
    #[n(11)]
    pub owner: Option<String>,
    /// Identity of the object, where a mount changed it: files have several names.
    #[n(12)]
    pub object: Option<ObjectId>,
}

/// What the feed holds. Key: `feed`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct FeedRow {
    /// Events of commits up to here are not all kept any more; 0 while all are.
    #[n(0)]
    pub floor: Revision,
    /// Rows.
    #[n(1)]
    pub rows: u64,
    /// Their bytes, keys included.
    #[n(2)]
    pub bytes: u64,
    /// Ordinal of the last event of the commit at the floor: who had seen less of it has missed some.
    #[n(3)]
    pub floor_ordinal: u16,
}

record! {
    EventRow => "event",
    FeedRow => "feed",
}

impl EventRow {
    /// An event without anything but its kind; the transaction stamps it.
    #[must_use]
    pub fn new(kind: EventKind) -> Self {
        Self {
            kind,
            at_ms: 0,
            request: RequestId::default(),
            last: false,
            bucket: None,
            key: None,
            version: None,
            size: None,
            etag: None,
            source: None,
            token: None,
            owner: None,
            object: None,
        }
    }

    pub(crate) fn of_bucket(kind: EventKind, bucket: &BucketName) -> Self {
        Self { bucket: Some(bucket.clone()), ..Self::new(kind) }
    }

    pub(crate) fn of_object(kind: EventKind, bucket: &BucketName, key: &str) -> Self {
        Self { key: Some(key.to_owned()), ..Self::of_bucket(kind, bucket) }
    }

    pub(crate) fn of_version(mut self, written: &crate::command::Written) -> Self {
        self.version = written.version;
        self.size = Some(written.size);
        self.etag = Some(written.etag.clone());
        self
    }

    /// Whether it concerns keys that begin with `prefix`: a renamed prefix also those under it or around it.
    #[must_use]
    pub fn touches(&self, prefix: &str) -> bool {
        let Some(key) = &self.key else { return prefix.is_empty() };
        if self.kind != EventKind::PrefixRenamed {
            return key.starts_with(prefix);
        }
        let names = [Some(key), self.source.as_ref()];
        names.into_iter().flatten().any(|name| name.starts_with(prefix) || prefix.starts_with(name.as_str()))
    }
}

/// Some events in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventPage {
    /// Each with its place.
    pub events: Vec<(Place, EventRow)>,
    /// Whether there are more in this state.
    pub more: bool,
}

impl View<'_> {
    /// The events after `after`: about `limit` of them, up to the end of a commit.
    ///
    /// # Errors
    /// [`Error::Compacted`] when some of them are not kept any more, [`Error::Denied`], or [`Stop`] when the engine fails.
    pub fn events(&self, permit: &Permit, after: Place, limit: usize) -> Result<EventPage, Stop> {
        permit.require(&[Action::WatchEvents])?;
        let feed = self.reader.feed()?;
        if feed.floor > 0 && after < (Place { revision: feed.floor, ordinal: feed.floor_ordinal }) {
            return Err(Error::Compacted { oldest: feed.floor }.into());
        }
        let mut from = key::event(after);
        from.push(0);
        let mut page = EventPage::default();
        for row in self.reader.rows(Keyspace::Events, KeyRange::prefix_from(&key::events(), from)) {
            let (row_key, value) = row?;
            if page.events.len() >= limit && page.events.last().is_none_or(|(_, event): &(Place, EventRow)| event.last)
            {
                page.more = true;
                break;
            }
            page.events.push((key::event_place(&row_key)?, <EventRow as Record>::decode(&value)?));
        }
        Ok(page)
    }

    /// What the feed holds.
    ///
    /// # Errors
    /// [`Stop`] when the engine fails.
    pub fn feed(&self) -> Result<FeedRow, Stop> {
        self.reader.feed()
    }

    /// When the oldest event that is kept happened.
    ///
    /// # Errors
    /// [`Stop`] when the engine fails.
    pub fn oldest_event_ms(&self) -> Result<Option<Millis>, Stop> {
        let first = self.reader.rows(Keyspace::Events, KeyRange::prefix(&key::events())).next().transpose()?;
        Ok(first.map(|(_, value)| <EventRow as Record>::decode(&value)).transpose()?.map(|row| row.at_ms))
    }
}

impl Reader<'_> {
    pub(crate) fn feed(self) -> Result<FeedRow, Stop> {
        Ok(self.row(Keyspace::Sys, &key::sys("feed"))?.unwrap_or_default())
    }
}
