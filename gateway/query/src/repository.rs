//! The seam: what a query sees of the repository. One value is one caller's view at one revision, so nothing behind it
//! shows a version that the caller may not read, and nothing changes while a query runs.
//!
//! Bytes that were read for a version may be cached by its [`VersionKey`] for ever: a mount that changes them where they are makes
//! another key of it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use holdfast_core::index::{IndexInfo, Interval};

/// Identity of a version's bytes, for caches: place of the version, its bucket's id, and when its bytes last changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VersionKey {
    /// The bucket's id.
    pub bucket: u64,
    /// Revision of the commit that wrote the version.
    pub revision: u64,
    /// Number of the version in that commit.
    pub ordinal: u16,
    /// Revision of the last change of its bytes.
    pub generation: u64,
}

/// One version of an object that the caller may read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectVersion {
    /// Identity.
    pub id: VersionKey,
    /// Bucket.
    pub bucket: String,
    /// Key.
    pub key: String,
    /// The version id that S3 shows; `None` in a bucket that was never versioned.
    pub version_id: Option<String>,
    /// Bytes.
    pub size: u64,
    /// Without quotes.
    pub etag: String,
    /// Last modified, milliseconds of the Unix epoch.
    pub modified_ms: u64,
    /// `Content-Type`.
    pub content_type: Option<String>,
    /// `Content-Encoding`.
    pub content_encoding: Option<String>,
    /// User metadata.
    pub metadata: BTreeMap<String, String>,
    /// Tags.
    pub tags: BTreeMap<String, String>,
}

/// When a statement reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AsOf {
    /// Everything that was acknowledged before it began.
    Now,
    /// At a revision.
    Revision(u64),
    /// At a time, milliseconds of the Unix epoch.
    Timestamp(u64),
}

/// What an index knows of the objects under a prefix, for a predicate. Every object that may hold a matching row is named:
/// `rows`, `blocks` and `whole` together are a superset of the matches, and no object stands in two of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hits {
    /// Objects with an entry for each row: byte ranges of the rows whose value lies in the intervals, in order. Without any,
    /// it is the object itself: on attributes, and where rows have no bytes of their own.
    pub rows: Vec<(Arc<ObjectVersion>, Vec<Range<u64>>)>,
    /// Objects with a summary for each block: byte ranges of the blocks that may match, in order.
    pub blocks: Vec<(Arc<ObjectVersion>, Vec<Range<u64>>)>,
    /// Objects that the index cannot speak of, because they are not indexed yet or did not parse.
    pub whole: Vec<Arc<ObjectVersion>>,
    /// Objects that the index ruled out.
    pub pruned_objects: u64,
    /// Their bytes, perhaps estimated, and those outside of `rows` and `blocks`.
    pub pruned_bytes: u64,
    /// Runs of the index in the backend that were searched for it.
    pub runs: usize,
}

/// Tables about the repository itself; their columns are fixed in the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SystemTable {
    /// `holdfast.versions`.
    Versions,
    /// `holdfast.buckets`.
    Buckets,
    /// `holdfast.indexes`.
    Indexes,
    /// `holdfast.locks`.
    Locks,
    /// `holdfast.events`.
    Events,
    /// `holdfast.peers`.
    Peers,
}

/// What the caller may see of a system table at least: rows outside need not be delivered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SystemFilter {
    /// Only this bucket.
    pub bucket: Option<String>,
    /// Only keys that begin with this.
    pub prefix: Option<String>,
    /// Only current versions.
    pub latest: bool,
}

/// Why the repository did not answer.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// What a client does with it.
    pub kind: Kind,
    /// S3's name for it, such as `NoSuchBucket`.
    pub code: &'static str,
    /// For the client.
    pub message: String,
}

/// What a client does with an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing has that name.
    NotFound,
    /// The caller may not.
    Denied,
    /// The request makes no sense.
    Invalid,
    /// Try again later.
    Unavailable,
    /// A defect, or damaged data.
    Internal,
}

/// Opens views. One value serves one caller.
#[async_trait]
pub trait Repository: Send + Sync + 'static {
    /// A view at a moment. `Now` is linearizable.
    ///
    /// # Errors
    /// `Invalid` when the moment lies outside of what is kept.
    async fn open(&self, at: AsOf) -> Result<Arc<dyn Snapshot>, Error>;
}

/// One caller's view at one revision. Objects are those that live at it and that the caller may get.
#[async_trait]
pub trait Snapshot: Send + Sync + 'static {
    /// The revision.
    fn revision(&self) -> u64;

    /// One object.
    ///
    /// # Errors
    /// `NotFound` without such a bucket or object, `Denied` when the caller may not get it.
    async fn object(&self, bucket: &str, key: &str) -> Result<Arc<ObjectVersion>, Error>;

    /// The objects under a prefix, by key in byte order.
    ///
    /// # Errors
    /// `NotFound` without such a bucket, `Denied` when the caller may not list it.
    async fn objects(
        &self,
        bucket: &str,
        prefix: &str,
    ) -> Result<BoxStream<'static, Result<Arc<ObjectVersion>, Error>>, Error>;

    /// Verified bytes of a version, in pieces.
    ///
    /// # Errors
    /// `Unavailable` when the backend does not answer, `Internal` when the bytes are damaged.
    async fn read(
        &self,
        version: &ObjectVersion,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes, Error>>, Error>;

    /// The indexes whose partition covers a prefix, that is, whose own prefix the prefix begins with.
    ///
    /// # Errors
    /// As [`Snapshot::objects`].
    async fn indexes(&self, bucket: &str, prefix: &str) -> Result<Vec<IndexInfo>, Error>;

    /// What an index knows of the objects under `prefix` whose values lie in one of `intervals`. `None` when more than
    /// `rows_max` entries do, or when the index cannot be read at this revision: then a scan is the better plan.
    ///
    /// # Errors
    /// As [`Snapshot::objects`].
    async fn search(
        &self,
        index: &IndexInfo,
        prefix: &str,
        intervals: &[Interval],
        rows_max: usize,
    ) -> Result<Option<Hits>, Error>;

    /// Rows of a system table, in batches of its schema.
    ///
    /// # Errors
    /// `Denied` when the caller may not see it.
    async fn system(
        &self,
        table: SystemTable,
        filter: SystemFilter,
    ) -> Result<BoxStream<'static, Result<RecordBatch, Error>>, Error>;
}
