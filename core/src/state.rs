//! Typed access to rows, for readers and rules alike.

use bytes::Bytes;

use crate::error::Error;
use crate::id::{BlobId, BucketId, BucketName, ObjectKey, Place, Revision, VersionId};
use crate::keyspace::{Keyspace, key};
use crate::kv::{Direction, KeyRange, KvError, KvRead, Rows};
use crate::record::{
    BlobRow, BucketRow, ContentId, ContentRow, DecodeError, HistoryRow, NameRow, NullRow, PageRow, Record, StateRow,
};

/// Why a read or command stopped.
#[derive(Debug, thiserror::Error)]
pub enum Stop {
    /// The rules refuse: an answer for the caller.
    #[error("refused")]
    Refused(#[from] Error),
    /// The engine failed: the node cannot go on.
    #[error("the state cannot be read")]
    Engine(#[from] KvError),
    /// A row does not decode: the node must not go on.
    #[error("the state is corrupt")]
    Corrupt(#[from] DecodeError),
}

/// Typed point reads over any view.
#[derive(Clone, Copy)]
pub struct Reader<'a>(pub &'a dyn KvRead);

impl std::fmt::Debug for Reader<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reader")
    }
}

impl<'a> Reader<'a> {
    pub(crate) fn row<R: Record>(self, keyspace: Keyspace, key: &[u8]) -> Result<Option<R>, Stop> {
        Ok(self.0.get(keyspace, key)?.map(|value| R::decode(&value)).transpose()?)
    }

    pub(crate) fn rows(self, keyspace: Keyspace, range: KeyRange) -> Rows<'a> {
        self.0.scan(keyspace, range, Direction::Forward)
    }

    pub(crate) fn any(self, keyspace: Keyspace, prefix: &[u8]) -> Result<bool, Stop> {
        Ok(self.rows(keyspace, KeyRange::prefix(prefix)).next().transpose()?.is_some())
    }

    pub(crate) fn state(self) -> Result<StateRow, Stop> {
        Ok(self.row(Keyspace::Sys, &key::sys("state"))?.unwrap_or(StateRow {
            feature_level: FEATURE_LEVEL,
            now_ms: 0,
            next_object: 1,
            replies: 0,
            replies_floor_ms: 0,
        }))
    }

    pub(crate) fn bucket(self, name: &BucketName) -> Result<Option<BucketRow>, Stop> {
        self.row(Keyspace::Buckets, &key::bucket(name.as_str()))
    }

    pub(crate) fn name(self, bucket: BucketId, object: &ObjectKey) -> Result<Option<NameRow>, Stop> {
        self.row(Keyspace::Names, &key::name(bucket, object.as_str()))
    }

    pub(crate) fn null(self, bucket: BucketId, object: &ObjectKey) -> Result<Option<Place>, Stop> {
        let row: Option<NullRow> = self.row(Keyspace::Nulls, &key::name(bucket, object.as_str()))?;
        Ok(row.map(|row| row.place))
    }

    pub(crate) fn history(
        self,
        bucket: BucketId,
        object: &ObjectKey,
        place: Place,
    ) -> Result<Option<HistoryRow>, Stop> {
        self.row(Keyspace::History, &key::history(bucket, object.as_str(), place))
    }

    /// The newest row of a key that lives at `at`, or that has not ended when `at` is `None`.
    pub(crate) fn newest(
        self,
        bucket: BucketId,
        object: &ObjectKey,
        at: Option<Revision>,
    ) -> Result<Option<(Place, HistoryRow)>, Stop> {
        self.newest_that(bucket, object, at, |place, row| {
            at.map_or(row.ended.is_none(), |revision| row.lives_at(place, revision))
        })
    }

    /// The newest row of a key that is not above `at` and is `wanted`.
    pub(crate) fn newest_that(
        self,
        bucket: BucketId,
        object: &ObjectKey,
        at: Option<Revision>,
        wanted: impl Fn(Place, &HistoryRow) -> bool,
    ) -> Result<Option<(Place, HistoryRow)>, Stop> {
        let prefix = key::history_of(bucket, object.as_str());
        let from = match at {
            Some(revision) => key::history(bucket, object.as_str(), Place { revision, ordinal: u16::MAX }),
            None => prefix.clone(),
        };
        for row in self.rows(Keyspace::History, KeyRange::prefix_from(&prefix, from)) {
            let (row_key, value) = row?;
            let (_, place) = key::history_parts(&row_key)?;
            let row = HistoryRow::decode(&value)?;
            if wanted(place, &row) {
                return Ok(Some((place, row)));
            }
        }
        Ok(None)
    }

    /// The row of a version id, if it has not ended.
    pub(crate) fn version(
        self,
        bucket: BucketId,
        object: &ObjectKey,
        version: VersionId,
    ) -> Result<Option<(Place, HistoryRow)>, Stop> {
        let place = match version {
            VersionId::Stamp(stamp) => Some(stamp.place),
            VersionId::Null => match self.name(bucket, object)? {
                Some(name) if name.null => Some(name.place),
                _ => self.null(bucket, object)?,
            },
        };
        let Some(place) = place else { return Ok(None) };
        let row = self.history(bucket, object, place)?;
        Ok(row.filter(|row| row.ended.is_none() && row.version_id(place) == version).map(|row| (place, row)))
    }

    /// The row that a version id named at a revision.
    pub(crate) fn version_at(
        self,
        bucket: BucketId,
        object: &ObjectKey,
        version: VersionId,
        at: Revision,
    ) -> Result<Option<(Place, HistoryRow)>, Stop> {
        let lived = |place: Place, row: &HistoryRow| row.lives_at(place, at) && row.version_id(place) == version;
        match version {
            VersionId::Null => self.newest_that(bucket, object, Some(at), lived),
            VersionId::Stamp(stamp) => {
                let row = self.history(bucket, object, stamp.place)?;
                Ok(row.filter(|row| lived(stamp.place, row)).map(|row| (stamp.place, row)))
            }
        }
    }

    /// Reads of the bucket below this revision are not exact any more.
    pub(crate) fn history_floor(self, bucket: BucketId) -> Result<Option<Revision>, Stop> {
        let bytes = self.0.get(Keyspace::Settings, &key::history_floor(bucket))?;
        Ok(bytes.and_then(|bytes| bytes.as_ref().try_into().ok()).map(u64::from_be_bytes))
    }

    pub(crate) fn content(self, content: ContentId) -> Result<Option<ContentRow>, Stop> {
        self.row(Keyspace::Objects, &key::content(content))
    }

    pub(crate) fn blob(self, blob: BlobId) -> Result<Option<BlobRow>, Stop> {
        self.row(Keyspace::Blobs, &key::blob(blob))
    }

    pub(crate) fn inline(self, blob: BlobId) -> Result<Option<Bytes>, Stop> {
        Ok(self.0.get(Keyspace::Inline, &key::blob(blob))?)
    }

    /// The page as `content` sees it: its newest row that is not above the content's revision; else the base's.
    pub(crate) fn page(self, content: ContentId, page: u32) -> Result<Option<PageRow>, Stop> {
        let mut next = Some(content);
        while let Some(content) = next {
            let prefix = key::page_revisions(content.object, page);
            let range = KeyRange::prefix_from(&prefix, key::page(content, page));
            if let Some(row) = self.rows(Keyspace::Extents, range).next() {
                return Ok(Some(PageRow::decode(&row?.1)?));
            }
            next = self.content(content)?.and_then(|row| row.base);
        }
        Ok(None)
    }
}

impl Reader<'_> {
    /// The highest page number, not above `page`, that has a row in `content` or its bases.
    pub(crate) fn page_at_or_below(self, content: ContentId, page: u32) -> Result<Option<u32>, Stop> {
        let mut highest = None;
        let mut next = Some(content);
        while let Some(content) = next {
            let to = crate::kv::successor(&key::page_revisions(content.object, page));
            let range = KeyRange { from: key::pages_of(content.object), to };
            for row in self.0.scan(Keyspace::Extents, range, Direction::Reverse) {
                let (row_key, _) = row?;
                let Some((number, revision)) = key::page_parts(&row_key) else { continue };
                if revision <= content.revision {
                    highest = highest.max(Some(number));
                    break;
                }
            }
            next = self.content(content)?.and_then(|row| row.base);
        }
        Ok(highest)
    }
}

/// What this build's `apply` can do.
pub const FEATURE_LEVEL: u32 = 1;
