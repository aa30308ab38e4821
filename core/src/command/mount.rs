//! Commands of the mount: sessions, and commits of files and directories.
//!
//! A mount is one ordered stream of commits. Each names its session, the lease that the session lives by, its number in the
//! stream and an id, so that a stalled mount can write nothing and a commit that is sent twice is applied once, however
//! much later. A commit is a list of steps: they take effect together, each is answered by itself, and a refused one
//! writes nothing.

use std::collections::BTreeMap;

use minicbor::{Decode, Encode};

use super::{BucketRef, NewContent, UploadId};
use crate::error::Error;
use crate::id::{BlobId, BucketName, Millis, ObjectId, ObjectKey, Revision};
use crate::mount::{MountId, Node};
use crate::record::known;

/// Steps of one commit.
pub const MOUNT_STEPS_MAX: usize = 1024;
/// Extents that the patches of one commit write.
pub const MOUNT_WRITES_MAX: usize = 4096;

/// See [`super::Op::OpenMount`]. The session is the client's: opening it again ends its older lease.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct OpenMount {
    /// The bucket.
    #[n(0)]
    pub bucket: BucketRef,
    /// Who mounts: an id that the client's journal keeps.
    #[n(1)]
    pub client: MountId,
    /// Shown to operators: host, process, directory.
    #[n(2)]
    pub owner: String,
    /// How long the lease lasts without renewal; bounds as of any lease.
    #[n(3)]
    pub ttl_ms: Millis,
}

/// A session that was opened.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct MountOpened {
    /// The lease: renewed and released as any other.
    #[n(0)]
    pub lease: Revision,
    /// Number of the last commit that was applied; 0 before the first.
    #[n(1)]
    pub applied: u64,
    /// The revision at which it was applied: what changed later was changed by others.
    #[n(2)]
    pub revision: Option<Revision>,
}

/// See [`super::Op::MountCommit`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct MountCommit {
    /// The bucket.
    #[n(0)]
    pub bucket: BucketRef,
    /// Whose session.
    #[n(1)]
    pub client: MountId,
    /// The session's lease: must live, and be the session's latest.
    #[n(2)]
    pub lease: Revision,
    /// One more than the last commit of the session. The last one again, by its number and its id, gives the same outcomes;
    /// older ones, and others of a number that is taken, are refused as [`Error::Changed`], and one that leaves a gap as
    /// invalid.
    #[n(3)]
    pub number: u64,
    /// At most [`MOUNT_STEPS_MAX`].
    #[n(4)]
    pub steps: Vec<Step>,
    /// The bytes that steps refer to as [`Origin::Sent`]. Kept only as far as steps use them.
    #[n(5)]
    pub sent: Option<NewContent>,
    /// The upload whose parts steps refer to as [`Origin::Part`]; parts that are used are gone from it afterwards.
    #[n(6)]
    pub upload: Option<MountUpload>,
    /// Random part of the version ids.
    #[n(7)]
    pub nonce: BlobId,
    /// User metadata of directories that come to be because something is made in them.
    #[n(8)]
    pub directory: BTreeMap<String, String>,
    /// Time of the change, as metadata tells it (`seconds.nanoseconds`): `mtime` and `ctime` of directories whose
    /// entries change.
    #[n(9)]
    pub now: String,
    /// Random, the same whenever this commit is sent again, also with other steps: a number alone does not say which commit
    /// has it.
    #[n(10)]
    pub id: u64,
}

/// An upload in progress that carries bytes of a mount.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct MountUpload {
    /// Its key.
    #[n(0)]
    pub key: ObjectKey,
    /// Which.
    #[n(1)]
    pub upload: UploadId,
}

/// A file, as the mount knows it. A directory's key ends with a slash.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct FileRef {
    /// A name of it; none for a file that has none any more.
    #[n(0)]
    pub key: Option<ObjectKey>,
    /// What must be behind the name, else the step is refused as [`Error::Changed`]. 0 is a directory that only its
    /// entries make.
    #[n(1)]
    pub object: ObjectId,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Step {
    /// Makes a file, symbolic link or directory.
    #[n(0)]
    Create(#[n(0)] CreateFile),
    /// Gives a file one more name.
    #[n(1)]
    Link(#[n(0)] LinkFile),
    /// Removes a name of a file.
    #[n(2)]
    Unlink(#[n(0)] UnlinkFile),
    /// Removes an empty directory.
    #[n(3)]
    RemoveDirectory(#[n(0)] FileRef),
    /// Moves a file, or a directory with all that is in it.
    #[n(4)]
    Rename(#[n(0)] RenameFile),
    /// Changes user metadata. No version is made.
    #[n(5)]
    SetAttributes(#[n(0)] SetFileAttributes),
    /// Changes bytes.
    #[n(6)]
    Patch(#[n(0)] PatchFile),
    /// What is written of the file so far is a version: digests are computed, watchers of S3 are told.
    #[n(7)]
    Cut(#[n(0)] FileRef),
    /// Gives up a file without a name that the session held.
    #[n(8)]
    Release(#[n(0)] ObjectId),
    /// The session holds what a name was, which another client has removed or replaced while it is open here: a file of its
    /// own without a name, with the same content. Refused as [`Error::Changed`] when the bucket's history does not hold it
    /// any more, or when it has other names.
    #[n(9)]
    Adopt(#[n(0)] FileRef),
}

/// See [`Step::Create`]. Refused as [`Error::FileExists`] when a file or directory has the name.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct CreateFile {
    /// Its key; with a slash at the end it is a directory.
    #[n(0)]
    pub key: ObjectKey,
    /// User metadata, in the form that s3fs reads.
    #[n(1)]
    pub metadata: BTreeMap<String, String>,
    /// `Content-Type`.
    #[n(2)]
    pub content_type: Option<String>,
    /// Its bytes, of which `length` from this origin: the target of a symbolic link. None is empty.
    #[cbor(n(3), decode_with = "known")]
    pub bytes: Vec<FileWrite>,
}

/// See [`Step::Link`]. Refused as [`Error::FileExists`], or [`Error::TooManyLinks`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct LinkFile {
    /// The file; not a directory.
    #[n(0)]
    pub file: FileRef,
    /// The new name.
    #[n(1)]
    pub to: ObjectKey,
    /// Changes of its user metadata (`ctime`).
    #[n(2)]
    pub set: BTreeMap<String, Option<String>>,
}

/// See [`Step::Unlink`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct UnlinkFile {
    /// The name and file.
    #[n(0)]
    pub file: FileRef,
    /// It is open: when this was its last name, it lives on without one, until the session releases it or ends.
    #[n(1)]
    pub keep: bool,
    /// Changes of its user metadata (`ctime`), when it has other names or is kept.
    #[n(2)]
    pub set: BTreeMap<String, Option<String>>,
}

/// See [`Step::Rename`]. A directory that holds more than [`crate::rules::RENAME_ROWS_MAX`] names is refused as
/// [`Error::TooManyRows`]. A file replaces a file, a directory an empty one. Two names of one file stay as they are.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct RenameFile {
    /// What moves; a directory's key ends with a slash.
    #[n(0)]
    pub file: FileRef,
    /// Its new name; ends with a slash exactly when the old one does, save for an exchange.
    #[n(1)]
    pub to: ObjectKey,
    /// What may be there.
    #[cbor(n(2), decode_with = "known")]
    pub onto: Onto,
    /// A file that is replaced is open: it lives on without a name.
    #[n(3)]
    pub keep: bool,
    /// Changes of its user metadata (`ctime`).
    #[n(4)]
    pub set: BTreeMap<String, Option<String>>,
}

/// What may be at the name that a rename gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Onto {
    /// Anything of the same kind: it is replaced.
    #[n(0)]
    Any,
    /// Nothing.
    #[n(1)]
    Nothing,
    /// Something: the two change places.
    #[n(2)]
    Exchange,
}

/// See [`Step::SetAttributes`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SetFileAttributes {
    /// The file or directory; a directory without a row of its own gets one.
    #[n(0)]
    pub file: FileRef,
    /// Metadata by name: a value is set, none is removed, the rest stays.
    #[n(1)]
    pub set: BTreeMap<String, Option<String>>,
}

/// See [`Step::Patch`]. First the file is cut, then it is written, in order.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct PatchFile {
    /// The file.
    #[n(0)]
    pub file: FileRef,
    /// Its size before anything is written; what is added is a hole.
    #[n(1)]
    pub size: Option<u64>,
    /// What is written; past the end it grows the file.
    #[n(2)]
    pub writes: Vec<FileWrite>,
    /// Changes of its user metadata (`mtime`, `ctime`).
    #[n(3)]
    pub set: BTreeMap<String, Option<String>>,
    /// The session is done with the file for now: see [`Step::Cut`].
    #[n(4)]
    pub cut: bool,
    /// The generation ([`Node::generation`]) that the file must have, else the step is refused as [`Error::Changed`]: for
    /// what was written before the session was lost. None patches whatever it is.
    #[n(5)]
    pub base: Option<Revision>,
}

/// A range of a file that is written.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct FileWrite {
    /// First byte in the file.
    #[n(0)]
    pub offset: u64,
    /// Bytes, at least one.
    #[n(1)]
    pub length: u64,
    /// Whose bytes.
    #[cbor(n(2), decode_with = "known")]
    pub from: Origin,
}

/// Where written bytes come from.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Origin {
    /// The commit's own bytes, from this one.
    #[n(0)]
    Sent(#[n(0)] u64),
    /// A part of the commit's upload, from this byte.
    #[n(1)]
    Part(#[n(0)] u16, #[n(1)] u64),
    /// Nothing: a hole, which reads as zeros.
    #[n(2)]
    Hole,
    /// Bytes of a file of the bucket, from this one; no bytes move.
    #[n(3)]
    File(#[n(0)] FileRef, #[n(1)] u64),
}

/// Replaces many extents of a page by one blob: what the job of compaction read. See [`super::Op::CompactPage`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct CompactPage {
    /// Whose page.
    #[n(0)]
    pub content: crate::record::ContentId,
    /// Its number.
    #[n(1)]
    pub page: u32,
    /// The run of extents of the page that was read; refused as [`Error::Changed`] when the page does not hold it any more.
    #[n(2)]
    pub extents: Vec<crate::record::Extent>,
    /// Their bytes in one blob.
    #[n(3)]
    pub blob: super::NewBlob,
}

/// What became of a step.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum StepOutcome {
    /// Done; of a removal nothing more is to tell.
    #[n(0)]
    Done,
    /// Done: what the file is now.
    #[n(1)]
    Node(#[n(0)] Node),
    /// Refused; nothing of the step was done. Other steps are not touched by it.
    #[n(2)]
    Refused(#[cbor(n(0), decode_with = "known")] Error),
}

impl Step {
    /// The keys that it changes, for permits.
    #[must_use]
    pub fn keys(&self) -> Vec<&ObjectKey> {
        match self {
            Self::Create(step) => vec![&step.key],
            Self::Link(step) => step.file.key.iter().chain([&step.to]).collect(),
            Self::Unlink(step) => step.file.key.iter().collect(),
            Self::RemoveDirectory(file) | Self::Cut(file) | Self::Adopt(file) => file.key.iter().collect(),
            Self::Rename(step) => step.file.key.iter().chain([&step.to]).collect(),
            Self::SetAttributes(step) => step.file.key.iter().collect(),
            Self::Patch(step) => step.file.key.iter().collect(),
            Self::Release(_) => Vec::new(),
        }
    }
}

/// The bucket of a commit's steps.
impl MountCommit {
    /// Its bucket's name.
    #[must_use]
    pub fn bucket_name(&self) -> &BucketName {
        &self.bucket.name
    }

    /// Whether it only removes.
    #[must_use]
    pub fn frees_space(&self) -> bool {
        let frees = |step: &Step| match step {
            Step::Unlink(step) => !step.keep,
            Step::RemoveDirectory(_) | Step::Release(_) => true,
            _ => false,
        };
        self.sent.is_none() && self.steps.iter().all(frees)
    }
}
