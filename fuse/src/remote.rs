//! The seam to the repository: a gateway over HTTP ([`crate::client`]), or the rules themselves, in the memory of a test.
//!
//! Everything here may be asked again: reads change nothing, and commits are numbered. An implementation tries again by
//! itself until the deadline; what it answers then is final for the caller.

use std::ops::Range;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use holdfast_core::command::Fence;
use holdfast_core::command::mount::MountUpload;
use holdfast_core::id::{ObjectKey, Revision};
use holdfast_core::mount::{Answer, Call};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::client::Error;

/// Longest name of an owner of leases. Source: docs/coordination.md.
pub const OWNER_BYTES_MAX: usize = 256;

/// An answer.
#[derive(Clone, Debug)]
pub struct Told {
    /// What was answered.
    pub answer: Answer,
    /// The raw bytes after it.
    pub raw: Bytes,
    /// Revision of the commit, or of the state that was read.
    pub revision: Revision,
}

/// What a mount needs of a repository.
#[async_trait]
pub trait Remote: Send + Sync + 'static {
    /// Asks by the protocol of the mount.
    ///
    /// # Errors
    /// [`Error`]; after [`Error::is_unknown`] a commit may have been done.
    async fn call(&self, call: &Call, raw: Bytes, fences: &[Fence], deadline: Instant) -> Result<Told, Error>;

    /// Bytes of a file by name, of exactly the generation with this ETag; `range` is within it.
    ///
    /// # Errors
    /// [`Error::Changed`] when it has another by now.
    async fn read(&self, key: &ObjectKey, etag: &str, range: Range<u64>, deadline: Instant) -> Result<Bytes, Error>;

    /// Begins an upload whose parts commits may name.
    ///
    /// # Errors
    /// [`Error`].
    async fn create_upload(&self, key: &ObjectKey, deadline: Instant) -> Result<MountUpload, Error>;

    /// Stores a part, in place of an older one of the number.
    ///
    /// # Errors
    /// [`Error`].
    async fn upload_part(
        &self,
        upload: &MountUpload,
        number: u16,
        bytes: Bytes,
        deadline: Instant,
    ) -> Result<(), Error>;

    /// Gives an upload up.
    ///
    /// # Errors
    /// [`Error`].
    async fn abort_upload(&self, upload: &MountUpload, deadline: Instant) -> Result<(), Error>;

    /// Makes a lease live on for its time.
    ///
    /// # Errors
    /// [`Error`].
    async fn renew(&self, lease: Revision, deadline: Instant) -> Result<(), Error>;

    /// Ends a lease.
    ///
    /// # Errors
    /// [`Error`].
    async fn release(&self, lease: Revision, deadline: Instant) -> Result<(), Error>;

    /// Takes an exclusive lock; its lease, which is renewed like the session's, and its fencing token.
    ///
    /// # Errors
    /// [`Error::is_held`] when another has it.
    async fn lock(&self, name: &str, owner: &str, deadline: Instant) -> Result<Grant, Error>;

    /// Locks, converts or unlocks a range of a file, waiting at most `wait`. Whoever is in the way, when it is not granted.
    ///
    /// # Errors
    /// [`Error`]; `EDEADLK` and `ENOLCK` are refusals.
    async fn set_range(&self, range: &RangeLock, wait: Duration, deadline: Instant) -> Result<Option<Holder>, Error>;

    /// Who is in the way of a range.
    ///
    /// # Errors
    /// [`Error`].
    async fn test_range(&self, range: &RangeLock, deadline: Instant) -> Result<Option<Holder>, Error>;

    /// Gives up a wait for a range, which its ticket names; whether the range was granted before.
    ///
    /// # Errors
    /// [`Error`].
    async fn cancel_range(&self, range: &RangeLock, deadline: Instant) -> Result<bool, Error>;

    /// Follows the feed of changes under the prefix from after a revision on, until it breaks. A mark comes at least every
    /// `mark`.
    ///
    /// # Errors
    /// Why it broke; [`Error::is_compacted`] when changes were missed.
    async fn watch(
        &self,
        prefix: &str,
        from: Option<Revision>,
        mark: Duration,
        tell: mpsc::Sender<News>,
    ) -> Result<(), Error>;
}

/// A lock that was granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// It lives by this lease.
    pub lease: Revision,
    /// The lock and its fencing token.
    pub fence: Fence,
}

/// A range of a file that is asked for. Source: POSIX, fcntl.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeLock {
    /// Name of the file among ranges.
    pub file: String,
    /// The session's lease.
    pub lease: Revision,
    /// Whose: a process, as the kernel names it.
    pub owner: u64,
    /// Process, shown to others.
    pub pid: u32,
    /// First byte.
    pub start: u64,
    /// Last byte, inclusive.
    pub end: u64,
    /// `Some(true)` exclusive, `Some(false)` shared, `None` unlocks.
    pub exclusive: Option<bool>,
    /// Number of the wait: the same for the same request asked again.
    pub ticket: u64,
}

/// Who is in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Process.
    pub pid: u32,
    /// First byte.
    pub start: u64,
    /// Last byte, inclusive.
    pub end: u64,
    /// How it is held.
    pub exclusive: bool,
}

/// What the feed tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// Something changed.
    Change {
        /// Revision of the commit.
        revision: Revision,
        /// Name of the event.
        kind: String,
        /// Key.
        key: String,
        /// Old or new name, of a rename.
        source: Option<String>,
    },
    /// Everything up to this revision was told.
    Mark(Revision),
}
