//! The protocol of the mount, and its rows.
//!
//! A mount asks a gateway by `POST /_holdfast/v1/mount/{bucket}`, signed as any request. Body and answer have one form:
//! four bytes, big-endian, that give the length of a CBOR value; that value ([`Call`], [`Answer`]); then raw bytes, of which
//! the value speaks. A refusal is an HTTP status with the usual JSON document.
//!
//! Files are objects: the key is the path, user metadata holds the attributes in the form that s3fs reads and writes, the
//! body of a symbolic link is its target, and a directory is an object whose key ends with a slash, or only the start of
//! other keys.

mod read;

use std::collections::BTreeMap;

use minicbor::{Decode, Encode};

use crate::command::mount::{FileRef, MountUpload, Step, StepOutcome};
use crate::id::{Millis, ObjectId, ObjectKey, Revision};
use crate::record::{Extent, Record, Version, known, record};

pub(crate) use self::read::row_of;

/// The version of the protocol that this build speaks: a gateway answers another one with [`crate::error::Error::NotBuilt`].
pub const PROTOCOL: u32 = 1;
/// Most bytes of a commit's raw part. Longer ones travel as parts of an upload.
pub const SENT_BYTES_MAX: usize = 16 << 20;
/// Paths that one [`Call::Stat`] names.
pub const STAT_PATHS_MAX: usize = 1_000;
/// Entries of one page of a directory.
pub const LIST_ENTRIES_MAX: usize = 10_000;
/// Extents of one [`Mapped`].
pub const MAP_EXTENTS_MAX: usize = 4_096;
/// Names of one file.
pub const LINKS_MAX: u32 = 1_000;
/// Files without a name that one session holds.
pub const ORPHANS_MAX: u32 = 10_000;
/// Longest time that a session without a lease is remembered: what its client did not send by then is refused.
pub const MOUNT_IDLE_MS_MAX: Millis = 30 * 24 * 60 * 60 * 1000;

/// Names of user metadata: those of s3fs.
pub mod attribute {
    /// Type and permissions, decimal.
    pub const MODE: &str = "mode";
    /// Owner, decimal.
    pub const UID: &str = "uid";
    /// Group, decimal.
    pub const GID: &str = "gid";
    /// Time of the last change of content, `seconds.nanoseconds`.
    pub const MTIME: &str = "mtime";
    /// Time of the last change of attributes.
    pub const CTIME: &str = "ctime";
    /// Time of the last read.
    pub const ATIME: &str = "atime";
    /// Extended attributes: a JSON object of base64 values, percent-encoded.
    pub const XATTR: &str = "xattr";
    /// Device number of a special file, decimal.
    pub const RDEV: &str = "rdev";
    /// `Content-Type` of a directory.
    pub const DIRECTORY_TYPE: &str = "application/x-directory";
}

/// Who mounts: minted once by a client and kept in its journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct MountId(#[cbor(n(0), with = "minicbor::bytes")] pub [u8; 16]);

/// A file or directory as the mount sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Node {
    /// A name; a directory's ends with a slash. None when it has none any more.
    #[n(0)]
    pub key: Option<ObjectKey>,
    /// Its identity; 0 for a directory that only its entries make.
    #[n(1)]
    pub object: ObjectId,
    /// Bytes.
    #[n(2)]
    pub size: u64,
    /// Names.
    #[n(3)]
    pub links: u32,
    /// User metadata.
    #[n(4)]
    pub metadata: BTreeMap<String, String>,
    /// Last modified, as S3 tells it.
    #[n(5)]
    pub modified_ms: Millis,
    /// When the name came to be.
    #[n(6)]
    pub created_ms: Millis,
    /// Revision of the last change of its bytes: as long as it is the same, so are they.
    #[n(7)]
    pub generation: Revision,
    /// Without quotes; another whenever the bytes are. A `GET` with `If-Match` reads exactly this generation.
    #[n(8)]
    pub etag: String,
    /// `Content-Type`.
    #[n(9)]
    pub content_type: Option<String>,
    /// Bytes that are not holes, as far as is known cheaply: the size for content of one piece.
    #[n(10)]
    pub allocated: u64,
}

/// What a mount asks.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Call {
    /// Opens a session, or takes it over.
    #[n(0)]
    Open(#[n(0)] Open),
    /// Looks up names.
    #[n(1)]
    Stat(#[n(0)] Stat),
    /// Lists a directory.
    #[n(2)]
    List(#[n(0)] List),
    /// Where the bytes of a file are.
    #[n(3)]
    Map(#[n(0)] Map),
    /// Bytes of a file that has no name any more. Others are read by ordinary `GET`s.
    #[n(4)]
    Read(#[n(0)] ReadFile),
    /// Changes files and directories. Its raw bytes are what [`crate::command::mount::Origin::Sent`] refers to.
    #[n(5)]
    Commit(#[n(0)] Commit),
    /// What the bucket holds.
    #[n(6)]
    Usage,
}

/// See [`Call::Open`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Open {
    /// [`PROTOCOL`].
    #[n(0)]
    pub protocol: u32,
    /// Who.
    #[n(1)]
    pub client: MountId,
    /// Shown to operators.
    #[n(2)]
    pub owner: String,
    /// How long the lease lasts without renewal, milliseconds.
    #[n(3)]
    pub ttl_ms: Millis,
}

/// See [`Call::Stat`]. Linearizable.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Stat {
    /// Keys without a slash at the end. Of each is told whether there is a file, and whether a directory; the empty one is
    /// the bucket.
    #[n(0)]
    pub paths: Vec<String>,
}

/// What has a name. Both may be: the flat namespace of S3 does not forbid it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Entry {
    /// The object of this key.
    #[n(0)]
    pub file: Option<Node>,
    /// The object of this key and a slash, or one that only longer keys make.
    #[n(1)]
    pub directory: Option<Node>,
}

/// See [`Call::List`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct List {
    /// Empty, or ends with a slash.
    #[n(0)]
    pub prefix: String,
    /// Keys after this one; none is the beginning.
    #[n(1)]
    pub after: Option<String>,
    /// At most [`LIST_ENTRIES_MAX`].
    #[n(2)]
    pub limit: u32,
    /// The revision of the first page, for further ones.
    #[n(3)]
    pub at: Option<Revision>,
}

/// A page of a directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Listed {
    /// In the order of keys, each with its key; the directory itself is left out. A directory without a row of its own has
    /// object 0.
    #[n(0)]
    pub nodes: Vec<Node>,
    /// Where the next page begins, when there is one.
    #[n(1)]
    pub after: Option<String>,
}

/// See [`Call::Map`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Map {
    /// The file.
    #[n(0)]
    pub file: FileRef,
    /// First byte of interest.
    #[n(1)]
    pub offset: u64,
    /// Bytes of interest.
    #[n(2)]
    pub length: u64,
}

/// Where bytes of a file are, as of one generation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Mapped {
    /// The file now.
    #[n(0)]
    pub node: Node,
    /// In order, without gaps, clipped to what was asked and to the file's end; at most [`MAP_EXTENTS_MAX`], so they may
    /// end earlier. Holes have the blob [`crate::id::BlobId::HOLE`]. Two extents that name the same bytes of the same blob
    /// hold the same bytes, for ever.
    #[n(1)]
    pub extents: Vec<Extent>,
}

/// See [`Call::Read`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ReadFile {
    /// The file.
    #[n(0)]
    pub file: FileRef,
    /// Refused as [`crate::error::Error::Changed`] when the file has another by now.
    #[n(1)]
    pub generation: Option<Revision>,
    /// First byte.
    #[n(2)]
    pub offset: u64,
    /// Bytes; fewer are given at the end of the file.
    #[n(3)]
    pub length: u64,
}

/// See [`Call::Commit`], and [`crate::command::mount::MountCommit`] for the meaning of the fields.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Commit {
    /// Whose session.
    #[n(0)]
    pub client: MountId,
    /// Its lease.
    #[n(1)]
    pub lease: Revision,
    /// One more than the last.
    #[n(2)]
    pub number: u64,
    /// What to do.
    #[cbor(n(3), decode_with = "known")]
    pub steps: Vec<Step>,
    /// The upload that holds parts.
    #[n(4)]
    pub upload: Option<MountUpload>,
    /// Metadata of directories that come to be.
    #[n(5)]
    pub directory: BTreeMap<String, String>,
    /// Time of the change.
    #[n(6)]
    pub now: String,
    /// Random, the same whenever this commit is sent again.
    #[n(7)]
    pub id: u64,
}

/// What the gateway answers.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Answer {
    /// To [`Call::Open`].
    #[n(0)]
    Opened(#[n(0)] Opened),
    /// To [`Call::Stat`]: an entry for each path, in order.
    #[n(1)]
    Entries(#[n(0)] Vec<Entry>),
    /// To [`Call::List`].
    #[n(2)]
    Listed(#[n(0)] Listed),
    /// To [`Call::Map`].
    #[n(3)]
    Mapped(#[n(0)] Mapped),
    /// To [`Call::Read`]: the file now; its bytes follow raw.
    #[n(4)]
    Bytes(#[n(0)] Node),
    /// To [`Call::Commit`]: an outcome for each step, in order.
    #[n(5)]
    Outcomes(#[cbor(n(0), decode_with = "known")] Vec<StepOutcome>),
    /// To [`Call::Usage`].
    #[n(6)]
    Usage {
        /// Bytes of all versions.
        #[n(0)]
        bytes: u64,
        /// Live names.
        #[n(1)]
        objects: u64,
    },
}

/// A session.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Opened {
    /// The lease; renewed by `POST /_holdfast/v1/leases/{lease}`.
    #[n(0)]
    pub lease: Revision,
    /// Number of the last commit that was applied.
    #[n(1)]
    pub applied: u64,
    /// The newest protocol that the gateway speaks.
    #[n(2)]
    pub protocol: u32,
    /// Commits of at most so many raw bytes.
    #[n(3)]
    pub sent_bytes_max: u64,
    /// Whether the bucket was ever versioned: then a rename makes a file another object.
    #[n(4)]
    pub versioned: bool,
    /// The revision of that commit; none before the first.
    #[n(5)]
    pub revision: Option<Revision>,
}

/// A session of a mount. Key: its client.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct MountRow {
    /// The bucket.
    #[n(0)]
    pub bucket: crate::command::BucketRef,
    /// Shown to operators.
    #[n(1)]
    pub owner: String,
    /// The lease that it lives by.
    #[n(2)]
    pub lease: Revision,
    /// Number of its last commit.
    #[n(3)]
    pub applied: u64,
    /// Id of that commit. Its reply has a row of its own.
    #[n(4)]
    pub id: u64,
    /// State time of its last commit, or of its opening, or of the end of its lease.
    #[n(5)]
    pub seen_ms: Millis,
    /// Files without a name that it holds.
    #[n(6)]
    pub orphans: u32,
    /// When it is forgotten, once its lease has ended.
    #[n(7)]
    pub due_ms: Option<Millis>,
    /// Revision of its last commit.
    #[n(8)]
    pub applied_at: Option<Revision>,
    /// The upload that its commits named last, as long as it is to be aborted with the session.
    #[n(9)]
    pub upload: Option<MountUpload>,
    /// Its lease was given back: it is forgotten as soon as it holds nothing.
    #[n(10)]
    pub released: Option<bool>,
}

/// A file without a name that a session holds. Part of [`crate::record::ObjectRow`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Orphan {
    /// The bucket that it was in.
    #[n(0)]
    pub bucket: crate::id::BucketId,
    /// Whose session.
    #[n(1)]
    pub client: MountId,
    /// Content and attributes.
    #[n(2)]
    pub version: Version,
    /// Last modified.
    #[n(3)]
    pub modified_ms: Millis,
}

/// The value `call` and the raw bytes that follow it, in the form of the protocol.
#[must_use]
pub fn frame<R: Record>(value: &R, raw: &[u8]) -> Vec<u8> {
    let value = value.encode();
    let mut framed = Vec::with_capacity(4 + value.len() + raw.len());
    framed.extend(u32::try_from(value.len()).expect("a call is far shorter than 4 GiB").to_be_bytes());
    framed.extend(value);
    framed.extend_from_slice(raw);
    framed
}

/// Takes a frame apart: the value, and where the raw bytes begin.
///
/// # Errors
/// [`crate::record::DecodeError`] when the bytes are no frame of such a value.
pub fn unframe<R: Record>(framed: &[u8]) -> Result<(R, usize), crate::record::DecodeError> {
    let cut =
        || crate::record::DecodeError { what: R::WHAT, source: minicbor::decode::Error::message("it is cut short") };
    let length = framed.first_chunk::<4>().map(|length| u32::from_be_bytes(*length) as usize).ok_or_else(cut)?;
    let end = length.checked_add(4).ok_or_else(cut)?;
    Ok((R::decode(framed.get(4..end).ok_or_else(cut)?)?, end))
}

record! {
    Call => "call of a mount",
    Answer => "answer to a mount",
    MountRow => "session of a mount",
}

/// An object that the state knows as nothing but a start of keys.
pub const IMPLICIT: ObjectId = ObjectId(0);
