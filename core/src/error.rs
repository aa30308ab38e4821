//! What the rules refuse. A refusal is a reply like any other: it is stored under its request id and given again when the
//! command is applied twice.

use minicbor::{Decode, Encode};

/// A refusal. Protocols map each variant to their own code in one exhaustive match.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, thiserror::Error)]
pub enum Error {
    /// No bucket of this name, or not the one the request began with.
    #[n(0)]
    #[error("the bucket does not exist")]
    NoSuchBucket,
    /// The caller has this bucket already.
    #[n(1)]
    #[error("the bucket exists")]
    BucketExists,
    /// It holds versions, markers or uploads.
    #[n(2)]
    #[error("the bucket is not empty")]
    BucketNotEmpty,
    /// No live version under this key.
    #[n(3)]
    #[error("the key does not exist")]
    NoSuchKey,
    /// The key has no such version.
    #[n(4)]
    #[error("the version does not exist")]
    NoSuchVersion,
    /// The request wants the latest version's bytes and it is a delete marker.
    #[n(5)]
    #[error("the version is a delete marker")]
    IsDeleteMarker,
    /// No such upload in progress.
    #[n(6)]
    #[error("the upload does not exist")]
    NoSuchUpload,
    /// A named part is missing or its ETag or checksum differs.
    #[n(7)]
    #[error("part {number} is missing or differs")]
    InvalidPart {
        /// Part number.
        #[n(0)]
        number: u16,
    },
    /// Part numbers are not ascending.
    #[n(8)]
    #[error("the parts are not in ascending order")]
    InvalidPartOrder,
    /// A part other than the last is below 5 MiB.
    #[n(9)]
    #[error("part {number} is smaller than 5 MiB and is not the last")]
    PartTooSmall {
        /// Part number.
        #[n(0)]
        number: u16,
    },
    /// Larger than an object or part may be.
    #[n(10)]
    #[error("the object or part is too large")]
    TooLarge,
    /// A condition of the request does not hold.
    #[n(11)]
    #[error("the condition {condition} does not hold")]
    PreconditionFailed {
        /// Name of the header.
        #[n(0)]
        condition: String,
    },
    /// The declared checksum, type or size is not that of the assembled object.
    #[n(12)]
    #[error("the declared {what} is not that of the object")]
    ContentMismatch {
        /// What differs.
        #[n(0)]
        what: String,
    },
    /// The byte range is not within the source.
    #[n(13)]
    #[error("the range is not within the source")]
    InvalidRange,
    /// The append does not start where the object ends.
    #[n(14)]
    #[error("the object ends at {size}")]
    InvalidWriteOffset {
        /// Bytes of the object now.
        #[n(0)]
        size: u64,
    },
    /// More pieces than an object may have; it can be rewritten as one.
    #[n(15)]
    #[error("the object would have too many parts")]
    TooManyExtents,
    /// A renamed prefix holds more rows than one command may change.
    #[n(16)]
    #[error("the prefix holds more than {most} rows")]
    TooManyRows {
        /// The bound.
        #[n(0)]
        most: u32,
    },
    /// An argument that no state could accept.
    #[n(17)]
    #[error("{what}")]
    InvalidArgument {
        /// What is wrong, for the client.
        #[n(0)]
        what: String,
    },
    /// The command names a blob that has been condemned, is too old, or exists already: the upload must be repeated.
    #[n(18)]
    #[error("the uploaded bytes were collected before the commit; upload again")]
    BlobCondemned,
    /// The command is older than replies are kept: whether it was applied before is not known any more.
    #[n(19)]
    #[error("the request is older than replies are kept")]
    Expired,
    /// What the command is about has changed since it was prepared; prepare it again.
    #[n(20)]
    #[error("the state has changed meanwhile")]
    Changed,
    /// The command needs a higher feature level than the cluster has.
    #[n(21)]
    #[error("not built at this feature level")]
    NotBuilt,
    /// The caller may not do this.
    #[n(22)]
    #[error("access denied")]
    Denied,
    /// The copy would change nothing. Source: S3 API, CopyObject.
    #[n(23)]
    #[error("the copy of an object onto itself changes nothing")]
    CopyToItself,
    /// Tags beyond the limits.
    #[n(24)]
    #[error("{what}")]
    InvalidTag {
        /// What is wrong, for the client.
        #[n(0)]
        what: String,
    },
    /// A prefix cannot be renamed onto one that holds keys.
    #[n(25)]
    #[error("the destination prefix holds keys")]
    PrefixExists,
    /// Another lease holds the lock, or others wait for it already.
    #[n(26)]
    #[error("the lock is held")]
    LockHeld,
    /// As many wait for the lock, or hold on to the lease, as may.
    #[n(27)]
    #[error("too many claims")]
    QueueFull,
    /// The lease has ended, or never was.
    #[n(28)]
    #[error("the lease has ended")]
    NoSuchLease,
    /// The request carries a fencing token by which nobody holds the lock any more.
    #[n(29)]
    #[error("the lock {name} is not held with this fencing token any more")]
    FencingTokenStale {
        /// The lock.
        #[n(0)]
        name: String,
    },
    /// Events after the position that was asked for are not all kept any more.
    #[n(30)]
    #[error("the feed is compacted up to revision {oldest}")]
    Compacted {
        /// The feed can be read from after this revision on.
        #[n(0)]
        oldest: crate::id::Revision,
    },
    /// Another owner holds a range that is in the way.
    #[n(31)]
    #[error("the range is held")]
    RangeHeld {
        /// Who is in the way.
        #[n(0)]
        holder: crate::command::RangeHolder,
    },
    /// The wait would never end: whoever is in the way waits for the one who asks.
    #[n(32)]
    #[error("waiting for the range would be a deadlock")]
    Deadlock,
    /// As many ranges are held or awaited, of the file or with the lease, as may be.
    #[n(33)]
    #[error("no more ranges can be locked")]
    NoLocks,
    /// The request is fenced by a lease that has ended.
    #[n(34)]
    #[error("the lease {lease} of the fence has ended")]
    FenceLeaseEnded {
        /// The lease.
        #[n(0)]
        lease: crate::id::Revision,
    },
    /// No target of this name.
    #[n(36)]
    #[error("the target does not exist")]
    NoSuchTarget,
    /// No topic of this name.
    #[n(40)]
    #[error("the topic does not exist")]
    NoSuchTopic,
    /// The topic has no group of this name, or the claim was of an earlier one.
    #[n(41)]
    #[error("the group does not exist")]
    NoSuchGroup,
    /// Messages from the offset that was asked for on are not all kept any more.
    #[n(42)]
    #[error("the oldest message that is kept has offset {oldest}")]
    OffsetGone {
        /// The topic can be read from here on.
        #[n(0)]
        oldest: u64,
    },
    /// The bucket has no index of this name.
    #[n(43)]
    #[error("the index does not exist")]
    NoSuchIndex,
    /// The bucket has an index of this name.
    #[n(44)]
    #[error("the index exists")]
    IndexExists,
    /// A row with these values is there already.
    #[n(45)]
    #[error("the unique index {index} has a row with these values")]
    DuplicateValue {
        /// The index.
        #[n(0)]
        index: String,
    },
    /// The bucket is strict, and the content does not parse.
    #[n(46)]
    #[error("the content does not parse, which the index {index} of a strict bucket requires: {why}")]
    Unparsed {
        /// The index.
        #[n(0)]
        index: String,
        /// Why.
        #[n(1)]
        why: String,
    },
    /// A unique index is only on what is read before the commit, and this was not.
    #[n(47)]
    #[error("the object is too large, or was not read, for the unique index {index}")]
    NotRead {
        /// The index.
        #[n(0)]
        index: String,
    },
    /// A file or directory has the name. Source: POSIX, EEXIST.
    #[n(48)]
    #[error("a file or directory of this name exists")]
    FileExists,
    /// The directory has entries. Source: POSIX, ENOTEMPTY.
    #[n(49)]
    #[error("the directory is not empty")]
    NotEmpty,
    /// It is a directory, and may not be. Source: POSIX, EISDIR.
    #[n(50)]
    #[error("it is a directory")]
    IsDirectory,
    /// It is no directory, and must be. Source: POSIX, ENOTDIR.
    #[n(51)]
    #[error("it is not a directory")]
    NotDirectory,
    /// The file has as many names as it may have. Source: POSIX, EMLINK.
    #[n(52)]
    #[error("the file has too many names")]
    TooManyLinks,
    /// The mount's session is of another mount, or unknown: open it again.
    #[n(53)]
    #[error("the session of the mount is not known")]
    NoSuchMount,
}

/// A caller's one question: what now?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It is not there.
    NotFound,
    /// The request cannot be right.
    Invalid,
    /// Not allowed.
    Denied,
    /// It does not fit the state.
    Conflict,
    /// Again, later or afresh.
    Busy,
}

impl Error {
    /// What the caller can do.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::NoSuchBucket
            | Self::NoSuchKey
            | Self::NoSuchVersion
            | Self::IsDeleteMarker
            | Self::NoSuchUpload
            | Self::NoSuchLease
            | Self::NoSuchTarget
            | Self::NoSuchTopic
            | Self::NoSuchGroup
            | Self::NoSuchIndex
            | Self::NoSuchMount => Kind::NotFound,
            Self::InvalidPart { .. }
            | Self::InvalidPartOrder
            | Self::PartTooSmall { .. }
            | Self::TooLarge
            | Self::ContentMismatch { .. }
            | Self::InvalidRange
            | Self::InvalidWriteOffset { .. }
            | Self::TooManyExtents
            | Self::TooManyRows { .. }
            | Self::InvalidArgument { .. }
            | Self::InvalidTag { .. }
            | Self::CopyToItself
            | Self::Unparsed { .. }
            | Self::NotRead { .. }
            | Self::NotBuilt => Kind::Invalid,
            Self::Denied => Kind::Denied,
            Self::BucketExists
            | Self::BucketNotEmpty
            | Self::PreconditionFailed { .. }
            | Self::PrefixExists
            | Self::LockHeld
            | Self::FencingTokenStale { .. }
            | Self::RangeHeld { .. }
            | Self::Deadlock
            | Self::NoLocks
            | Self::FenceLeaseEnded { .. }
            | Self::Compacted { .. }
            | Self::OffsetGone { .. }
            | Self::IndexExists
            | Self::DuplicateValue { .. }
            | Self::FileExists
            | Self::NotEmpty
            | Self::IsDirectory
            | Self::NotDirectory
            | Self::TooManyLinks => Kind::Conflict,
            Self::QueueFull | Self::BlobCondemned | Self::Expired | Self::Changed => Kind::Busy,
        }
    }

    /// A condition, by the name of its header.
    #[must_use]
    pub fn failed(condition: &str) -> Self {
        Self::PreconditionFailed { condition: condition.to_owned() }
    }

    /// An argument that no state could accept.
    #[must_use]
    pub fn invalid(what: impl Into<String>) -> Self {
        Self::InvalidArgument { what: what.into() }
    }
}
