//! The outside store: where immutable blobs live.
//!
//! [`Backend`] is the seam. Its implementations: [`local`] (a directory, the embedded default), [`s3`] (any S3 store),
//! [`memory`] (for tests), and [`faulty`], a decorator that injects faults. [`conformance`] is the one suite they all pass.
//!
//! What a backend promises:
//! - A put is all or nothing: no name is visible before all its bytes are stored, and a body that fails stores nothing.
//! - Returned from a put, join or delete means durable, and visible to every later get, head and list by anyone.
//! - Of many racing create-only puts on one name exactly one wins; a conditional put replaces exactly the version it names.
//! - A get delivers what was promised or ends with an error, never early.
//! - Listings are in byte order of the whole name.
//! - Every call ends: at the caller's deadline, or when the backend makes no progress for a named time.
//!
//! Deliberately absent: overwriting by accident (create-only is the default), metadata of blobs (the replicated table has it),
//! versions, permissions, and checksums (blobs are verified where they are read, by block).

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use tokio::time::Instant;

mod body;
pub mod conformance;
mod error;
pub mod faulty;
pub mod local;
pub mod memory;
mod path;
pub mod s3;
#[cfg(test)]
pub(crate) mod testing;
mod url;

pub use body::{BlobStream, Body};
pub use error::{BoxError, Error, ErrorKind, Result, chain};
pub use path::{ObjectPath, PATH_BYTES_MAX, SEGMENT_BYTES_MAX};
pub use url::{BackendUrl, Credentials, S3Url, UrlError, open};

/// Most entries a single page of a listing can have.
pub const LIST_LIMIT_MAX: usize = 1000;

/// A store of immutable blobs. The module says what all implementations promise.
#[async_trait]
pub trait Backend: fmt::Debug + Send + Sync + 'static {
    /// What to call this store in logs and findings, without credentials: `file:/var/lib/holdfast`.
    fn name(&self) -> &str;

    /// What this store can and cannot do.
    fn capabilities(&self) -> Capabilities;

    /// Stores a blob, durably, all or nothing. Create-only unless the options say otherwise.
    ///
    /// # Errors
    /// [`Error::Exists`] or [`Error::Changed`] when the condition does not hold, [`Error::Body`] and
    /// [`Error::LengthMismatch`] for the caller's body, [`Error::NoSpace`], [`Error::Unknown`] when the outcome cannot be
    /// found out.
    ///
    /// # Cancel safety
    /// A dropped put stores all or nothing; leftovers are cleaned up in the background, or by [`Backend::sweep_unfinished`].
    async fn put(&self, path: &ObjectPath, body: Body, options: PutOptions) -> Result<Stored>;

    /// Opens a blob or a range of it for reading.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::RangeOutside`] when the range does not lie inside of the blob.
    async fn get(&self, path: &ObjectPath, options: GetOptions) -> Result<Fetched>;

    /// Length and age of a blob.
    async fn head(&self, path: &ObjectPath, options: HeadOptions) -> Result<Head>;

    /// Removes a blob, durably. An absent one is a success.
    async fn delete(&self, path: &ObjectPath, options: DeleteOptions) -> Result<()>;

    /// One page of names in byte order.
    async fn list(&self, options: ListOptions) -> Result<Page>;

    /// Makes a new blob of existing ones, in order, without moving bytes through this process where the store can do that.
    ///
    /// # Errors
    /// As [`Backend::put`]; [`Error::NotFound`] for a missing source, [`Error::Truncated`] for one of another length.
    async fn join(&self, sources: &[JoinSource], target: &ObjectPath, options: JoinOptions) -> Result<Stored>;

    /// Removes what unfinished writes left behind: temporary files, uploads nobody completes.
    async fn sweep_unfinished(&self, options: SweepOptions) -> Result<Swept>;

    /// Asks the store for a sign of life.
    async fn probe(&self, options: ProbeOptions) -> Result<Probe>;

    /// Waits for clean-up that still runs in the background. Call it last.
    async fn close(&self);
}

/// What must hold for a put to take place; decided by the store, atomically with the put.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    /// Nothing has this name yet.
    #[default]
    IfAbsent,
    /// The name holds exactly this version.
    IfMatch(ETag),
    /// No condition: replaces whatever is there.
    Overwrite,
}

/// The store's own tag for one version of a blob. Opaque: never shown to a client, only compared and sent back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ETag(pub Arc<str>);

/// How to put.
#[derive(Clone, Debug, Default)]
pub struct PutOptions {
    /// The length of the body where it is known; a body of another length stores nothing.
    pub length: Option<u64>,
    /// What must hold. Create-only by default.
    pub condition: Condition,
    /// When to give up, at the latest.
    pub deadline: Option<Instant>,
    /// Use the way for big blobs even for a small one (the doctor tries it out). Ignored where there is only one way.
    pub in_parts: bool,
}

/// How to get.
#[derive(Clone, Debug, Default)]
pub struct GetOptions {
    /// Which bytes; must lie inside of the blob. All of them by default.
    pub range: Option<Range<u64>>,
    /// When to give up, at the latest, the stream included.
    pub deadline: Option<Instant>,
}

/// How to head.
#[derive(Clone, Debug, Default)]
pub struct HeadOptions {
    /// When to give up, at the latest.
    pub deadline: Option<Instant>,
}

/// How to delete.
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    /// When to give up, at the latest.
    pub deadline: Option<Instant>,
}

/// Which page of names.
#[derive(Clone, Debug)]
pub struct ListOptions {
    /// Names that begin with this text, which need not end at a slash.
    pub prefix: String,
    /// Only names after this one.
    pub start_after: Option<ObjectPath>,
    /// Most entries in the page; at least 1, at most [`LIST_LIMIT_MAX`].
    pub limit: usize,
    /// When to give up, at the latest.
    pub deadline: Option<Instant>,
}

impl Default for ListOptions {
    fn default() -> Self {
        ListOptions { prefix: String::new(), start_after: None, limit: LIST_LIMIT_MAX, deadline: None }
    }
}

impl ListOptions {
    /// The first page under a prefix.
    pub fn under(prefix: impl Into<String>) -> Self {
        ListOptions { prefix: prefix.into(), ..ListOptions::default() }
    }
}

/// One piece of a join: a whole blob of known length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinSource {
    /// Its name.
    pub path: ObjectPath,
    /// Its length; another length is refused.
    pub length: u64,
}

/// How to join.
#[derive(Clone, Debug, Default)]
pub struct JoinOptions {
    /// What must hold of the target. Create-only by default.
    pub condition: Condition,
    /// When to give up, at the latest.
    pub deadline: Option<Instant>,
}

/// Which leftovers to remove.
#[derive(Clone, Debug)]
pub struct SweepOptions {
    /// Only writes to names that begin with this text, where the store can tell. In a bucket that is shared with others it
    /// keeps their uploads out.
    pub prefix: String,
    /// Only what has not been touched for this long. Must exceed the longest write that may still run, on any node.
    pub older_than: Duration,
    /// When to give up, at the latest.
    pub deadline: Option<Instant>,
}

/// How to probe.
#[derive(Clone, Debug, Default)]
pub struct ProbeOptions {
    /// When to give up, at the latest.
    pub deadline: Option<Instant>,
}

/// What a put or join stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Bytes stored.
    pub length: u64,
    /// The version, for a later [`Condition::IfMatch`].
    pub etag: ETag,
}

/// A blob opened for reading.
pub struct Fetched {
    /// Bytes that the stream delivers.
    pub length: u64,
    /// Length, version and age of the whole blob.
    pub head: Head,
    /// The bytes.
    pub stream: BlobStream,
}

impl fmt::Debug for Fetched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetched").field("length", &self.length).field("head", &self.head).finish_non_exhaustive()
    }
}

/// What a store knows about a blob besides its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its length in bytes.
    pub length: u64,
    /// Its version.
    pub etag: ETag,
    /// When the store took it, by the store's own clock, possibly in whole seconds.
    pub last_modified: SystemTime,
}

/// One name in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name.
    pub path: ObjectPath,
    /// Its length in bytes.
    pub length: u64,
    /// When the store took it, by the store's own clock.
    pub last_modified: SystemTime,
}

/// Some names in byte order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The names.
    pub entries: Vec<Entry>,
    /// Where the next page starts after; `None` at the end. A page may be short or empty and still have a next one.
    pub next: Option<ObjectPath>,
}

/// What a sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Leftovers removed.
    pub removed: u64,
    /// Leftovers that are too young, or that could not be removed.
    pub kept: u64,
}

/// A sign of life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// How long the store took to answer.
    pub took: Duration,
    /// Bytes that can still be written, where the store tells.
    pub free_bytes: Option<u64>,
}

/// What a store can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Several machines can use it at once, so it can carry a cluster.
    pub shared: bool,
    /// Joins happen inside of the store when every source but the last has at least this many bytes; `None` if never.
    pub join_source_bytes_min: Option<u64>,
    /// The longest blob it takes.
    pub blob_bytes_max: u64,
}

/// Runs a call until its deadline.
async fn within<T>(
    deadline: Option<Instant>,
    action: &'static str,
    path: impl fmt::Display,
    call: impl Future<Output = Result<T>>,
) -> Result<T> {
    match deadline {
        None => call.await,
        Some(deadline) => match tokio::time::timeout_at(deadline, call).await {
            Ok(result) => result,
            Err(_) => Err(Error::deadline(action, path)),
        },
    }
}

/// Checks a range against the length of a blob and returns what it covers.
fn covered(path: &ObjectPath, range: Option<&Range<u64>>, length: u64) -> Result<Range<u64>> {
    let Some(range) = range else {
        return Ok(0..length);
    };
    if range.start > range.end || range.end > length {
        return Err(Error::RangeOutside { path: path.to_string(), start: range.start, end: range.end });
    }
    Ok(range.clone())
}

/// Checks the size of a page.
fn check_limit(limit: usize) -> Result<()> {
    if (1..=LIST_LIMIT_MAX).contains(&limit) {
        return Ok(());
    }
    Err(Error::invalid(format_args!("a page of {limit} names is not between 1 and {LIST_LIMIT_MAX}")))
}
