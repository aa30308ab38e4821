//! Every mutation, and its reply.
//!
//! A command carries all that `apply` may not find out by itself: the time, random bits and ids, all stamped by its
//! proposer. Numbers of variants and fields never change meaning; new ones are added at the end.

mod bucket;
mod index;
mod lock;
pub mod mount;
mod notify;
mod range;
mod topic;

use std::collections::BTreeMap;

use bytes::Bytes;
use minicbor::{Decode, Encode};

use crate::error::Error;
use crate::id::{BlobId, BucketId, BucketName, Millis, ObjectKey, Place, RequestId, Revision, UploadId, VersionId};
use crate::record::{Attributes, Checksum, ChecksumAlgorithm, ChecksumType, ContentId, Extent, known, record};

pub use self::bucket::{CreateBucket, Document, SetDocument, SetSettings, SetVersioning};
pub use self::index::{
    AddRun, BeginRun, CondemnedRun, CreateIndex, DemoteEntries, DropIndex, Extracted, ForgetRuns, IndexObjects,
    LoseRun, Outcome, ReadObject, TrimIndexes, WrittenRun,
};
pub use self::lock::{
    AcquireLock, ExpireLease, GrantLease, Granted, PutEphemeral, ReleaseLease, RemoveEphemeral, RenewLease,
};
pub use self::mount::{CompactPage, MountCommit, MountOpened, OpenMount, StepOutcome};
pub use self::notify::{AdvanceTarget, RemoveTarget, SetTarget};
pub use self::range::{RangeHolder, Ranged, SetRange};
pub use self::topic::{
    Acknowledge, Acknowledged, Claim, Claimed, DeleteTopic, Delivery, Publish, Published, SetGroup, SetTopic, TrimTopic,
};

/// A mutation, replicated by the log.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Command {
    /// Applied once, whatever the number of copies.
    #[n(0)]
    pub request: RequestId,
    /// The proposer's wall clock. State time is the largest stamp applied.
    #[n(1)]
    pub stamp_ms: Millis,
    /// What to do.
    #[cbor(n(2), decode_with = "known")]
    pub op: Op,
    /// Grants of locks that must be live when it is applied.
    #[n(3)]
    pub fences: Option<Vec<Fence>>,
    /// What its proposer read in the bytes that it brings in, for each index on content of the partition.
    #[n(4)]
    pub extracted: Option<Vec<Extracted>>,
}

/// A grant of a lock, or a lease, as a fenced request names it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Fence {
    /// The lock; empty when the lease itself must live.
    #[n(0)]
    pub name: String,
    /// The fencing token: the revision of the grant; without a lock the lease.
    #[n(1)]
    pub token: Revision,
}

impl Command {
    /// The stored bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        crate::record::Record::encode(self)
    }

    /// The command that `bytes` store.
    ///
    /// # Errors
    /// When the bytes are not a command this build knows.
    pub fn decode(bytes: &[u8]) -> Result<Self, crate::record::DecodeError> {
        crate::record::Record::decode(bytes)
    }

    /// The request's id.
    #[must_use]
    pub fn request_id(&self) -> RequestId {
        self.request
    }

    /// Whether it only gives space back, so that it may use the reserve of a full disk.
    #[must_use]
    pub fn frees_space(&self) -> bool {
        if let Op::MountCommit(commit) = &self.op {
            return commit.frees_space();
        }
        matches!(
            self.op,
            Op::DeleteObjects(_)
                | Op::DeleteBucket(_)
                | Op::AbortUpload(_)
                | Op::Condemn(_)
                | Op::Forget(_)
                | Op::Trim(_)
                | Op::TrimEvents(_)
                | Op::ReleaseLease(_)
                | Op::ExpireLease(_)
                | Op::RemoveEphemeral(_)
                | Op::RemoveTarget(_)
                | Op::SetRange(SetRange { mode: None, .. })
                | Op::CancelRange(_)
                | Op::DeleteTopic(_)
                | Op::Acknowledge(_)
                | Op::TrimTopic(_)
                | Op::DropIndex(_)
                | Op::TrimIndexes(_)
                | Op::AddRun(_)
                | Op::DemoteEntries(_)
                | Op::ForgetRuns(_)
        )
    }
}

/// The mutations.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Op {
    /// Creates a bucket.
    #[n(0)]
    CreateBucket(#[n(0)] CreateBucket),
    /// Removes an empty bucket.
    #[n(1)]
    DeleteBucket(#[n(0)] BucketRef),
    /// Enables or suspends versioning.
    #[n(2)]
    SetVersioning(#[n(0)] SetVersioning),
    /// Stores or removes a document of the bucket (CORS, tags).
    #[n(3)]
    SetDocument(#[n(0)] SetDocument),
    /// Changes settings; `None` leaves one as it is.
    #[n(4)]
    SetSettings(#[n(0)] SetSettings),
    /// Writes an object.
    #[n(5)]
    PutObject(#[n(0)] PutObject),
    /// Deletes objects or versions, each entry by itself.
    #[n(6)]
    DeleteObjects(#[n(0)] DeleteObjects),
    /// Gives the content of one version a second name.
    #[n(7)]
    CopyObject(#[n(0)] CopyObject),
    /// Moves a name, or every name under a prefix.
    #[n(8)]
    RenameObject(#[n(0)] RenameObject),
    /// Writes at the end of an object.
    #[n(9)]
    AppendObject(#[n(0)] AppendObject),
    /// Replaces the tags of a version.
    #[n(10)]
    SetTags(#[n(0)] SetTags),
    /// Starts a multipart upload.
    #[n(11)]
    CreateUpload(#[n(0)] CreateUpload),
    /// Stores a part, replacing one of the same number.
    #[n(12)]
    PutPart(#[n(0)] PutPart),
    /// Stores a part that shares bytes of a version.
    #[n(13)]
    CopyPart(#[n(0)] CopyPart),
    /// Makes an object of parts.
    #[n(14)]
    CompleteUpload(#[n(0)] CompleteUpload),
    /// Drops an upload and its parts.
    #[n(15)]
    AbortUpload(#[n(0)] UploadRef),
    /// Declares blobs without a row dead, so that no later command may name them.
    #[n(16)]
    Condemn(#[n(0)] Blobs),
    /// The bytes of condemned blobs are gone.
    #[n(17)]
    Forget(#[n(0)] Blobs),
    /// Removes rows whose time is over.
    #[n(18)]
    Trim(#[n(0)] Trim),
    /// Puts one blob in place of the many of a content.
    #[n(19)]
    Join(#[n(0)] Join),
    /// Fills in the SHA-256 of a version.
    #[n(20)]
    SetDigest(#[n(0)] SetDigest),
    /// Takes a lock, or waits for it.
    #[n(21)]
    AcquireLock(#[n(0)] AcquireLock),
    /// Makes a lease live on.
    #[n(22)]
    RenewLease(#[n(0)] RenewLease),
    /// Ends a lease, and with it what hangs on it.
    #[n(23)]
    ReleaseLease(#[n(0)] ReleaseLease),
    /// Ends a lease that was not renewed.
    #[n(24)]
    ExpireLease(#[n(0)] ExpireLease),
    /// Makes a lease without a lock.
    #[n(25)]
    GrantLease(#[n(0)] GrantLease),
    /// Sets an ephemeral key.
    #[n(26)]
    PutEphemeral(#[n(0)] PutEphemeral),
    /// Removes an ephemeral key.
    #[n(27)]
    RemoveEphemeral(#[n(0)] RemoveEphemeral),
    /// Removes events that are too old or too many.
    #[n(28)]
    TrimEvents(#[n(0)] TrimEvents),
    /// Makes a target of events, or changes its settings.
    #[n(29)]
    SetTarget(#[n(0)] SetTarget),
    /// Removes a target.
    #[n(30)]
    RemoveTarget(#[n(0)] RemoveTarget),
    /// Moves the cursor of a target.
    #[n(31)]
    AdvanceTarget(#[n(0)] AdvanceTarget),
    /// Creates a topic, or changes how long its messages are kept.
    #[n(32)]
    SetTopic(#[n(0)] SetTopic),
    /// Removes a topic with its messages and groups, or one of its groups.
    #[n(33)]
    DeleteTopic(#[n(0)] DeleteTopic),
    /// Writes messages at the end of a topic.
    #[n(34)]
    Publish(#[n(0)] Publish),
    /// Creates a group, changes its settings, or lets it begin anew.
    #[n(35)]
    SetGroup(#[n(0)] SetGroup),
    /// Makes a lease that holds messages for a consumer.
    #[n(36)]
    Claim(#[n(0)] Claim),
    /// Messages of a claim are done.
    #[n(37)]
    Acknowledge(#[n(0)] Acknowledge),
    /// Removes messages that are too old or too many, or what deleted topics and groups left behind.
    #[n(38)]
    TrimTopic(#[n(0)] TrimTopic),
    /// Locks, converts or unlocks a range of a file, or waits for it.
    #[n(39)]
    SetRange(#[n(0)] SetRange),
    /// Gives up the wait that the same [`Op::SetRange`] began.
    #[n(40)]
    CancelRange(#[n(0)] SetRange),
    /// Creates an index.
    #[n(41)]
    CreateIndex(#[n(0)] CreateIndex),
    /// Removes an index.
    #[n(42)]
    DropIndex(#[n(0)] DropIndex),
    /// What was read of objects for an index that is built, or that they wait for.
    #[n(43)]
    IndexObjects(#[n(0)] IndexObjects),
    /// Removes rows of objects and indexes that are gone.
    #[n(44)]
    TrimIndexes(#[n(0)] TrimIndexes),
    /// A job is about to write a run of an index: names the file after the revision of this command.
    #[n(45)]
    BeginRun(#[n(0)] BeginRun),
    /// Names a run that was written, in place of those that it replaces; without one gives up what was begun.
    #[n(46)]
    AddRun(#[n(0)] AddRun),
    /// Removes entries from the state that a run holds.
    #[n(47)]
    DemoteEntries(#[n(0)] DemoteEntries),
    /// A run is damaged or missing: its index is built anew.
    #[n(48)]
    LoseRun(#[n(0)] LoseRun),
    /// The files of condemned runs are gone.
    #[n(49)]
    ForgetRuns(#[n(0)] ForgetRuns),
    /// Opens the session of a mount, or takes it over.
    #[n(50)]
    OpenMount(#[n(0)] OpenMount),
    /// Changes files and directories of a mount.
    #[n(51)]
    MountCommit(#[n(0)] MountCommit),
    /// Puts one blob in place of many extents of a page.
    #[n(52)]
    CompactPage(#[n(0)] CompactPage),
}

impl Op {
    /// The bucket whose settings say when it is acknowledged; none for what jobs do.
    #[must_use]
    pub fn bucket(&self) -> Option<&BucketName> {
        match self {
            Self::CreateBucket(op) => Some(&op.name),
            Self::DeleteBucket(bucket) => Some(&bucket.name),
            Self::SetVersioning(op) => Some(&op.bucket.name),
            Self::SetDocument(op) => Some(&op.bucket.name),
            Self::SetSettings(op) => Some(&op.bucket.name),
            Self::PutObject(op) => Some(&op.target.bucket.name),
            Self::DeleteObjects(op) => Some(&op.bucket.name),
            Self::CopyObject(op) => Some(&op.target.bucket.name),
            Self::RenameObject(op) => Some(&op.target.bucket.name),
            Self::AppendObject(op) => Some(&op.target.bucket.name),
            Self::SetTags(op) => Some(&op.bucket.name),
            Self::CreateUpload(op) => Some(&op.bucket.name),
            Self::PutPart(op) => Some(&op.upload.bucket.name),
            Self::CopyPart(op) => Some(&op.upload.bucket.name),
            Self::CompleteUpload(op) => Some(&op.target.bucket.name),
            Self::AbortUpload(upload) => Some(&upload.bucket.name),
            Self::CreateIndex(op) => Some(&op.bucket.name),
            Self::DropIndex(op) => Some(&op.bucket.name),
            Self::OpenMount(op) => Some(&op.bucket.name),
            Self::MountCommit(op) => Some(&op.bucket.name),
            Self::Condemn(_) | Self::Forget(_) | Self::Trim(_) | Self::Join(_) | Self::SetDigest(_) => None,
            Self::AcquireLock(_)
            | Self::RenewLease(_)
            | Self::ReleaseLease(_)
            | Self::ExpireLease(_)
            | Self::GrantLease(_)
            | Self::PutEphemeral(_)
            | Self::RemoveEphemeral(_)
            | Self::TrimEvents(_)
            | Self::SetTarget(_)
            | Self::RemoveTarget(_)
            | Self::AdvanceTarget(_)
            | Self::SetRange(_)
            | Self::CancelRange(_)
            | Self::SetTopic(_)
            | Self::DeleteTopic(_)
            | Self::Publish(_)
            | Self::SetGroup(_)
            | Self::Claim(_)
            | Self::Acknowledge(_)
            | Self::TrimTopic(_)
            | Self::IndexObjects(_)
            | Self::TrimIndexes(_)
            | Self::BeginRun(_)
            | Self::AddRun(_)
            | Self::DemoteEntries(_)
            | Self::LoseRun(_)
            | Self::ForgetRuns(_)
            | Self::CompactPage(_) => None,
        }
    }
}

/// A bucket as the request found it: the command is refused when another has taken the name since.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct BucketRef {
    /// Name.
    #[n(0)]
    pub name: BucketName,
    /// Identity.
    #[n(1)]
    pub id: BucketId,
}

/// Where the bytes of a new blob are.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum NewPlace {
    /// In the command; they rest in the state.
    #[n(0)]
    Inline(#[cbor(n(0), with = "crate::command::shared_bytes")] Bytes),
    /// At a path of the backend, uploaded and durable.
    #[n(1)]
    Path(#[n(0)] String),
}

/// Bytes that a command brings into the state. Never empty: an empty object has no blob.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct NewBlob {
    /// Minted before the upload.
    #[n(0)]
    pub id: BlobId,
    /// Where the bytes are.
    #[cbor(n(1), decode_with = "known")]
    pub place: NewPlace,
    /// CRC-32C of each 128 KiB block, big-endian.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub crcs: Vec<u8>,
}

/// Verified bytes of an object or part.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct NewContent {
    /// Bytes.
    #[n(0)]
    pub size: u64,
    /// Where they are; `None` when there are none.
    #[n(1)]
    pub blob: Option<NewBlob>,
    /// Their digests.
    #[n(2)]
    pub digests: Digests,
}

/// What was computed while the bytes passed.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Digests {
    /// MD5: the ETag.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub md5: [u8; 16],
    /// SHA-256.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub sha256: [u8; 32],
    /// CRC-64/NVME.
    #[n(2)]
    pub crc64nvme: u64,
    /// The checksum that the client declared, when it is another.
    #[n(3)]
    pub checksum: Option<Checksum>,
}

/// Which ETags satisfy a condition.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Match {
    /// Any: the key must exist.
    #[n(0)]
    Any,
    /// This one, without quotes.
    #[n(1)]
    Etag(#[n(0)] String),
}

/// Conditions on the key that is written. Source: S3 user guide, "Conditional requests".
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Conditions {
    /// `If-Match`. Empty or one.
    #[cbor(n(0), decode_with = "known")]
    pub if_match: Vec<Match>,
    /// `If-None-Match: *`.
    #[n(1)]
    pub if_none_match: bool,
}

/// Conditions on the version that is read. Several may be given; S3's order of evaluation applies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SourceConditions {
    /// ETag must match. Empty or one.
    #[cbor(n(0), decode_with = "known")]
    pub if_match: Vec<Match>,
    /// ETag must not match. Empty or one.
    #[cbor(n(1), decode_with = "known")]
    pub if_none_match: Vec<Match>,
    /// Must be modified after this, milliseconds.
    #[n(2)]
    pub if_modified_since_ms: Option<Millis>,
    /// Must not be modified after this, milliseconds.
    #[n(3)]
    pub if_unmodified_since_ms: Option<Millis>,
}

/// A key of a bucket, to be written.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Target {
    /// Which bucket.
    #[n(0)]
    pub bucket: BucketRef,
    /// Which key.
    #[n(1)]
    pub key: ObjectKey,
    /// What must hold of it.
    #[n(2)]
    pub conditions: Conditions,
}

/// A version, to be read.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Source {
    /// Which bucket.
    #[n(0)]
    pub bucket: BucketRef,
    /// Which key.
    #[n(1)]
    pub key: ObjectKey,
    /// Which version; `None` is the latest.
    #[n(2)]
    pub version: Option<VersionId>,
    /// What must hold of it.
    #[n(3)]
    pub conditions: SourceConditions,
    /// The row that the proposer read, when the command carries what was computed from its bytes.
    #[n(4)]
    pub pinned: Option<Place>,
    /// Generation of the bytes of that row, which a mount may change where they are: when it is another by now, the command
    /// is refused as [`Error::Changed`]. Absent is one that no mount has changed.
    #[n(5)]
    pub generation: Option<Revision>,
}

/// See [`Op::PutObject`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct PutObject {
    /// Where.
    #[n(0)]
    pub target: Target,
    /// The bytes.
    #[n(1)]
    pub content: NewContent,
    /// Headers, user metadata, tags.
    #[n(2)]
    pub attributes: Attributes,
    /// Random part of the version id.
    #[n(3)]
    pub nonce: BlobId,
}

/// See [`Op::DeleteObjects`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct DeleteObjects {
    /// Which bucket.
    #[n(0)]
    pub bucket: BucketRef,
    /// At most [`crate::rules::DELETE_ENTRIES_MAX`].
    #[n(1)]
    pub entries: Vec<DeleteEntry>,
    /// Random part of the markers' version ids.
    #[n(2)]
    pub nonce: BlobId,
}

/// One key or version to delete.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct DeleteEntry {
    /// Which key.
    #[n(0)]
    pub key: ObjectKey,
    /// Which version; `None` deletes the name.
    #[n(1)]
    pub version: Option<VersionId>,
    /// `If-Match` on the current version. Empty or one.
    #[cbor(n(2), decode_with = "known")]
    pub if_match: Vec<Match>,
    /// The current version's size must be this.
    #[n(3)]
    pub if_size: Option<u64>,
    /// The current version's last modification must be in this second, milliseconds.
    #[n(4)]
    pub if_modified_ms: Option<Millis>,
}

/// See [`Op::CopyObject`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct CopyObject {
    /// What is copied.
    #[n(0)]
    pub source: Source,
    /// To where.
    #[n(1)]
    pub target: Target,
    /// Headers and user metadata in place of the source's. Its tags are not looked at.
    #[n(2)]
    pub attributes: Option<Attributes>,
    /// Tags in place of the source's.
    #[n(3)]
    pub tags: Option<BTreeMap<String, String>>,
    /// Checksum computed from the pinned source, when the client asked for another algorithm.
    #[n(4)]
    pub checksum: Option<Checksum>,
    /// Random part of the version id.
    #[n(5)]
    pub nonce: BlobId,
}

/// See [`Op::RenameObject`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct RenameObject {
    /// Where from; with `prefix`, its end is a slash. Always the latest version.
    #[n(0)]
    pub source: Source,
    /// To where, in the same bucket.
    #[n(1)]
    pub target: Target,
    /// Every key under the source moves, at most [`crate::rules::RENAME_ROWS_MAX`] rows.
    #[n(2)]
    pub prefix: bool,
    /// Random part of the version ids.
    #[n(3)]
    pub nonce: BlobId,
}

/// See [`Op::AppendObject`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct AppendObject {
    /// Where.
    #[n(0)]
    pub target: Target,
    /// Where the object must end now; 0 also creates it.
    #[n(1)]
    pub offset: u64,
    /// The bytes.
    #[n(2)]
    pub content: NewContent,
    /// Used when the object does not exist.
    #[n(3)]
    pub attributes: Attributes,
    /// Random part of the version id.
    #[n(4)]
    pub nonce: BlobId,
}

/// See [`Op::SetTags`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SetTags {
    /// Which bucket.
    #[n(0)]
    pub bucket: BucketRef,
    /// Which key.
    #[n(1)]
    pub key: ObjectKey,
    /// Which version; `None` is the latest.
    #[n(2)]
    pub version: Option<VersionId>,
    /// All its tags from now on.
    #[n(3)]
    pub tags: BTreeMap<String, String>,
}

/// See [`Op::CreateUpload`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct CreateUpload {
    /// Which bucket.
    #[n(0)]
    pub bucket: BucketRef,
    /// Which key.
    #[n(1)]
    pub key: ObjectKey,
    /// What the object will carry.
    #[n(2)]
    pub attributes: Attributes,
    /// Declared checksum algorithm.
    #[n(3)]
    pub checksum: Option<ChecksumAlgorithm>,
    /// Declared checksum type.
    #[n(4)]
    pub checksum_type: Option<ChecksumType>,
    /// Random part of the upload id.
    #[n(5)]
    pub nonce: BlobId,
}

/// An upload in progress.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct UploadRef {
    /// Which bucket.
    #[n(0)]
    pub bucket: BucketRef,
    /// Which key.
    #[n(1)]
    pub key: ObjectKey,
    /// Which upload.
    #[n(2)]
    pub upload: UploadId,
}

/// See [`Op::PutPart`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct PutPart {
    /// Of which upload.
    #[n(0)]
    pub upload: UploadRef,
    /// 1 to 10,000.
    #[n(1)]
    pub number: u16,
    /// The bytes.
    #[n(2)]
    pub content: NewContent,
}

/// See [`Op::CopyPart`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct CopyPart {
    /// Of which upload.
    #[n(0)]
    pub upload: UploadRef,
    /// 1 to 10,000.
    #[n(1)]
    pub number: u16,
    /// Whose bytes; pinned, because the digests were computed from them.
    #[n(2)]
    pub source: Source,
    /// First byte.
    #[n(3)]
    pub offset: u64,
    /// Bytes.
    #[n(4)]
    pub length: u64,
    /// Digests of those bytes.
    #[n(5)]
    pub digests: Digests,
    /// Whether the bytes were not read: the MD5 is only a name of them, and CRC-64/NVME is not known. Refused for an upload
    /// that declared a checksum.
    #[n(6)]
    pub crc_pending: Option<bool>,
}

/// One part that a complete names.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct CompletedPart {
    /// 1 to 10,000.
    #[n(0)]
    pub number: u16,
    /// Without quotes.
    #[n(1)]
    pub etag: String,
    /// Checksum value, when the client gave one.
    #[n(2)]
    pub checksum: Option<Checksum>,
}

/// See [`Op::CompleteUpload`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct CompleteUpload {
    /// Where, and what must hold of it.
    #[n(0)]
    pub target: Target,
    /// Which upload.
    #[n(1)]
    pub upload: UploadId,
    /// Ascending by number.
    #[n(2)]
    pub parts: Vec<CompletedPart>,
    /// Checksum of the object, to be verified.
    #[n(3)]
    pub checksum: Option<Checksum>,
    /// Type of the checksum, to be verified.
    #[n(4)]
    pub checksum_type: Option<ChecksumType>,
    /// Size of the object, to be verified.
    #[n(5)]
    pub size: Option<u64>,
    /// Random part of the version id.
    #[n(6)]
    pub nonce: BlobId,
}

/// Blobs of a job.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Blobs {
    /// At most [`crate::rules::JOB_ROWS_MAX`].
    #[n(0)]
    pub blobs: Vec<BlobId>,
}

/// See [`Op::Trim`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Trim {
    /// Most rows to remove, at most [`crate::rules::JOB_ROWS_MAX`].
    #[n(0)]
    pub rows: u32,
}

/// See [`Op::Join`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Join {
    /// Whose blobs.
    #[n(0)]
    pub content: ContentId,
    /// All its extents as they were read, in order.
    #[n(1)]
    pub joined: Vec<Extent>,
    /// The blob in their place; holds the content's bytes from first to last.
    #[n(2)]
    pub blob: NewBlob,
    /// Its bytes.
    #[n(3)]
    pub size: u64,
}

/// See [`Op::SetDigest`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SetDigest {
    /// Which bucket, by identity.
    #[n(0)]
    pub bucket: BucketId,
    /// Which key.
    #[n(1)]
    pub key: ObjectKey,
    /// Which row of history.
    #[n(2)]
    pub place: Place,
    /// SHA-256 of its bytes; `None` gives up on a row that cannot be read.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub sha256: Option<[u8; 32]>,
    /// Generation of the bytes that were read: a version that a mount has changed since stays as it is. Absent is one that no
    /// mount has changed.
    #[n(4)]
    pub generation: Option<Revision>,
    /// CRC-64/NVME of its bytes, for a version of which it is pending.
    #[n(5)]
    pub crc64nvme: Option<u64>,
}

/// See [`Op::TrimEvents`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct TrimEvents {
    /// Events of commits before this time go.
    #[n(0)]
    pub before_ms: Millis,
    /// The oldest go while there are more bytes.
    #[n(1)]
    pub keep_bytes: u64,
    /// Most rows to remove, at most [`crate::rules::JOB_ROWS_MAX`]; a commit is removed whole.
    #[n(2)]
    pub rows: u32,
}

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Reply {
    /// Done; nothing to tell.
    #[n(0)]
    Done,
    /// The rules refuse it.
    #[n(1)]
    Refused(#[cbor(n(0), decode_with = "known")] Error),
    /// A bucket came to be.
    #[n(2)]
    BucketCreated(#[n(0)] BucketId),
    /// A version was written.
    #[n(3)]
    Written(#[n(0)] Written),
    /// Each entry by itself, in order.
    #[n(4)]
    Deleted(#[n(0)] Vec<Deleted>),
    /// Names moved.
    #[n(5)]
    Renamed(#[n(0)] u32),
    /// An upload was started.
    #[n(6)]
    UploadCreated(#[n(0)] UploadId),
    /// A part was stored.
    #[n(7)]
    PartWritten(#[n(0)] PartWritten),
    /// Rows were removed; whether there are more.
    #[n(8)]
    Trimmed {
        /// Removed.
        #[n(0)]
        rows: u32,
        /// Whether rows that are due remain.
        #[n(1)]
        more: bool,
    },
    /// Blobs that are now condemned; the others are in use.
    #[n(9)]
    Condemned(#[n(0)] Vec<BlobId>),
    /// A lease.
    #[n(10)]
    Granted(#[n(0)] Granted),
    /// Messages were published.
    #[n(20)]
    Published(#[n(0)] Published),
    /// What a claim got.
    #[n(21)]
    Claimed(#[n(0)] Claimed),
    /// Messages of a claim were acknowledged.
    #[n(22)]
    Acknowledged(#[n(0)] Acknowledged),
    /// A range of a file.
    #[n(30)]
    Ranged(#[n(0)] Ranged),
    /// A session of a mount.
    #[n(31)]
    MountOpened(#[n(0)] MountOpened),
    /// What became of each step of a mount's commit, in order.
    #[n(32)]
    Mounted(#[cbor(n(0), decode_with = "known")] Vec<StepOutcome>),
}

/// A version that was written.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Written {
    /// What S3 shows: `None` in a bucket that was never versioned.
    #[n(0)]
    pub version: Option<VersionId>,
    /// Without quotes.
    #[n(1)]
    pub etag: String,
    /// As replies show it; none while nobody has read the bytes.
    #[n(2)]
    pub checksum: Option<Checksum>,
    /// Last modified.
    #[n(3)]
    pub modified_ms: Millis,
    /// Bytes.
    #[n(4)]
    pub size: u64,
    /// Of a copy: the version id that was read, when its bucket shows one.
    #[n(5)]
    pub source_version: Option<VersionId>,
}

/// What became of one key or version to delete.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Deleted {
    /// A marker was made, or the deleted version was one.
    #[n(0)]
    pub delete_marker: bool,
    /// The marker's version id, or that of the deleted version.
    #[n(1)]
    pub version: Option<VersionId>,
    /// Why it was not deleted.
    #[cbor(n(2), decode_with = "known")]
    pub refused: Vec<Error>,
}

/// A part that was stored.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct PartWritten {
    /// Without quotes.
    #[n(0)]
    pub etag: String,
    /// Last modified.
    #[n(1)]
    pub modified_ms: Millis,
    /// As replies show it.
    #[n(2)]
    pub checksum: Option<Checksum>,
    /// Of a copy: the version id that was read, when its bucket shows one.
    #[n(3)]
    pub source_version: Option<VersionId>,
}

record! {
    Command => "command",
    Reply => "reply",
}

impl Reply {
    /// The reply, unless it is a refusal.
    ///
    /// # Errors
    /// The refusal.
    pub fn into_result(self) -> Result<Self, Error> {
        match self {
            Self::Refused(error) => Err(error),
            reply => Ok(reply),
        }
    }
}

/// CBOR byte strings as [`Bytes`].
pub(crate) mod shared_bytes {
    use bytes::Bytes;
    use minicbor::{Decoder, Encoder};

    pub(crate) fn encode<C, W: minicbor::encode::Write>(
        bytes: &Bytes,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.bytes(bytes)?.ok()
    }

    pub(crate) fn decode<C>(d: &mut Decoder<'_>, _: &mut C) -> Result<Bytes, minicbor::decode::Error> {
        Ok(Bytes::copy_from_slice(d.bytes()?))
    }
}
