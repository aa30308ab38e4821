//! Outside meets inside: the number that a process reads in `errno` for each error.
//!
//! Two rules stand above the table. What is only out of reach is never told as absent: a program that reads `ENOENT` where
//! the gateway is gone deletes the other copy, so a lost bucket or session is `EIO`. And `ENOSPC` is only told when writing
//! less, or elsewhere, would help.

use std::fmt;

use holdfast_core::error::Error as Refusal;
use rustix::io;

use crate::client;

/// An error number of Linux.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(i32);

macro_rules! numbers {
    ($($name:ident = $of:ident),* $(,)?) => {
        #[allow(missing_docs, reason = "errno(3) is their documentation")]
        impl Errno {
            $(pub const $name: Self = Self(io::Errno::$of.raw_os_error());)*

            /// Its name, as errno(3) has it.
            #[must_use]
            pub fn name(self) -> Option<&'static str> {
                $(if self == Self::$name { return Some(stringify!($name)); })*
                None
            }
        }
    };
}

numbers! {
    E2BIG = TOOBIG,
    EACCES = ACCESS,
    EAGAIN = AGAIN,
    EBADF = BADF,
    EBUSY = BUSY,
    EDEADLK = DEADLK,
    EEXIST = EXIST,
    EFBIG = FBIG,
    EILSEQ = ILSEQ,
    EINTR = INTR,
    EINVAL = INVAL,
    EIO = IO,
    EISDIR = ISDIR,
    ELOOP = LOOP,
    EMLINK = MLINK,
    ENAMETOOLONG = NAMETOOLONG,
    ENODATA = NODATA,
    ENODEV = NODEV,
    ENOENT = NOENT,
    ENOLCK = NOLCK,
    ENOMEM = NOMEM,
    ENOSPC = NOSPC,
    ENOSYS = NOSYS,
    ENOTDIR = NOTDIR,
    ENOTEMPTY = NOTEMPTY,
    ENOTTY = NOTTY,
    ENXIO = NXIO,
    EOPNOTSUPP = OPNOTSUPP,
    EPERM = PERM,
    ERANGE = RANGE,
    EROFS = ROFS,
    ESTALE = STALE,
    ETIMEDOUT = TIMEDOUT,
    EXDEV = XDEV,
}

impl Errno {
    /// The number.
    #[must_use]
    pub fn raw(self) -> i32 {
        self.0
    }
}

impl From<io::Errno> for Errno {
    fn from(errno: io::Errno) -> Self {
        Self(errno.raw_os_error())
    }
}

impl From<Errno> for io::Errno {
    fn from(errno: Errno) -> Self {
        Self::from_raw_os_error(errno.0)
    }
}

impl From<&std::io::Error> for Errno {
    fn from(error: &std::io::Error) -> Self {
        error.raw_os_error().map_or(Self::EIO, Self)
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "errno {}", self.0),
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl std::error::Error for Errno {}

/// The number of a step that the rules refused.
#[must_use]
pub fn errno_of_refusal(refusal: &Refusal) -> Errno {
    match refusal {
        Refusal::NoSuchKey | Refusal::NoSuchVersion | Refusal::IsDeleteMarker => Errno::ENOENT,
        Refusal::FileExists | Refusal::BucketExists => Errno::EEXIST,
        Refusal::NotEmpty | Refusal::BucketNotEmpty | Refusal::PrefixExists => Errno::ENOTEMPTY,
        Refusal::IsDirectory => Errno::EISDIR,
        Refusal::NotDirectory => Errno::ENOTDIR,
        Refusal::TooManyLinks => Errno::EMLINK,
        // So that mv copies.
        Refusal::TooManyRows { .. } => Errno::EXDEV,
        // A file in too many pieces: as XFS says of too many extents.
        Refusal::TooLarge | Refusal::TooManyExtents => Errno::EFBIG,
        Refusal::InvalidArgument { .. }
        | Refusal::InvalidRange
        | Refusal::InvalidTag { .. }
        | Refusal::CopyToItself => Errno::EINVAL,
        Refusal::Changed | Refusal::PreconditionFailed { .. } | Refusal::InvalidWriteOffset { .. } => Errno::ESTALE,
        Refusal::Denied => Errno::EACCES,
        Refusal::NotBuilt => Errno::EOPNOTSUPP,
        Refusal::LockHeld | Refusal::RangeHeld { .. } => Errno::EAGAIN,
        Refusal::Deadlock => Errno::EDEADLK,
        Refusal::NoLocks | Refusal::QueueFull => Errno::ENOLCK,
        // A rule of the bucket forbids the content.
        Refusal::DuplicateValue { .. } | Refusal::Unparsed { .. } | Refusal::NotRead { .. } => Errno::EPERM,
        // The session, or what it staged, is lost; or the bucket: never as if the files were gone.
        Refusal::NoSuchBucket
        | Refusal::NoSuchLease
        | Refusal::NoSuchMount
        | Refusal::FencingTokenStale { .. }
        | Refusal::FenceLeaseEnded { .. }
        | Refusal::Expired
        | Refusal::NoSuchUpload
        | Refusal::InvalidPart { .. }
        | Refusal::InvalidPartOrder
        | Refusal::PartTooSmall { .. }
        | Refusal::ContentMismatch { .. }
        | Refusal::BlobCondemned
        | Refusal::Compacted { .. } => Errno::EIO,
        // Never an answer to what a mount asks.
        Refusal::NoSuchTarget
        | Refusal::NoSuchTopic
        | Refusal::NoSuchGroup
        | Refusal::OffsetGone { .. }
        | Refusal::NoSuchIndex
        | Refusal::IndexExists => Errno::EIO,
    }
}

/// The number of a request that failed.
#[must_use]
pub fn errno_of_client(error: &client::Error) -> Errno {
    match error {
        client::Error::Refused { code, .. } => errno_of_code(code),
        client::Error::Changed => Errno::ESTALE,
        client::Error::NotFound { code, .. } => errno_of_code(code),
        client::Error::Unreachable { .. } | client::Error::Unavailable { .. } => Errno::EIO,
        client::Error::TooOld { .. } => Errno::EOPNOTSUPP,
        client::Error::Denied { .. } => Errno::EACCES,
        client::Error::Credentials { .. }
        | client::Error::Setting { .. }
        | client::Error::Request { .. }
        | client::Error::Form { .. } => Errno::EIO,
    }
}

/// The number of a code that a gateway answers with. Codes are text that may be new: one that is not known is `EIO`.
fn errno_of_code(code: &str) -> Errno {
    match code {
        "NoSuchKey" | "NoSuchVersion" | "MethodNotAllowed" => Errno::ENOENT,
        "FileExists" => Errno::EEXIST,
        "DirectoryNotEmpty" => Errno::ENOTEMPTY,
        "IsDirectory" => Errno::EISDIR,
        "NotADirectory" => Errno::ENOTDIR,
        "TooManyLinks" => Errno::EMLINK,
        "EntityTooLarge" | "TooManyParts" => Errno::EFBIG,
        "InvalidArgument" | "InvalidRange" | "KeyTooLongError" | "MetadataTooLarge" => Errno::EINVAL,
        "ConditionalRequestConflict" | "PreconditionFailed" => Errno::ESTALE,
        "AccessDenied" => Errno::EACCES,
        "NotImplemented" => Errno::EOPNOTSUPP,
        "LockHeld" | "RangeHeld" => Errno::EAGAIN,
        "Deadlock" => Errno::EDEADLK,
        "NoLocks" => Errno::ENOLCK,
        "InsufficientStorage" | "QuotaExceeded" => Errno::ENOSPC,
        "DuplicateValue" | "ContentDoesNotParse" | "NotIndexable" => Errno::EPERM,
        _ => Errno::EIO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: &str, status: u16) -> client::Error {
        client::Error::of_answer("http://gateway", status, code, "why", "1")
    }

    #[test]
    fn a_refusal_has_one_number_as_a_step_and_as_an_answer() {
        // The codes and statuses of gateway/src/api/s3/error.rs.
        let table: [(Refusal, &str, u16); 20] = [
            (Refusal::NoSuchKey, "NoSuchKey", 404),
            (Refusal::NoSuchBucket, "NoSuchBucket", 404),
            (Refusal::FileExists, "FileExists", 409),
            (Refusal::NotEmpty, "DirectoryNotEmpty", 409),
            (Refusal::IsDirectory, "IsDirectory", 409),
            (Refusal::NotDirectory, "NotADirectory", 409),
            (Refusal::TooManyLinks, "TooManyLinks", 409),
            (Refusal::TooLarge, "EntityTooLarge", 400),
            (Refusal::TooManyExtents, "TooManyParts", 400),
            (Refusal::invalid("x"), "InvalidArgument", 400),
            (Refusal::Changed, "ConditionalRequestConflict", 409),
            (Refusal::failed("If-Match"), "PreconditionFailed", 412),
            (Refusal::Denied, "AccessDenied", 403),
            (Refusal::LockHeld, "LockHeld", 409),
            (Refusal::Deadlock, "Deadlock", 409),
            (Refusal::NoLocks, "NoLocks", 409),
            (Refusal::NoSuchLease, "NoSuchLease", 404),
            (Refusal::NoSuchMount, "NoSuchMount", 404),
            (Refusal::FencingTokenStale { name: "x".into() }, "FencingTokenStale", 412),
            (Refusal::DuplicateValue { index: "i".into() }, "DuplicateValue", 409),
        ];
        for (refusal, code, status) in table {
            assert_eq!(errno_of_refusal(&refusal), errno_of_client(&refused(code, status)), "{code}");
        }
    }

    #[test]
    fn what_is_out_of_reach_is_never_absent() {
        for (code, status) in [("NoSuchBucket", 404), ("NoSuchMount", 404), ("NoSuchLease", 404), ("Odd", 404)] {
            assert_eq!(errno_of_client(&refused(code, status)), Errno::EIO, "{code}");
        }
        assert_eq!(errno_of_client(&refused("NoSuchEndpoint", 404)), Errno::EOPNOTSUPP);
        assert_eq!(errno_of_client(&refused("InsufficientStorage", 507)), Errno::ENOSPC);
    }

    #[test]
    fn numbers_have_their_names() {
        assert_eq!((Errno::ENOENT.raw(), Errno::ESTALE.raw(), Errno::EDEADLK.raw()), (2, 116, 35));
        assert_eq!(format!("{:?} {}", Errno::ENOENT, Errno(9999)), "ENOENT errno 9999");
        assert_eq!(Errno::from(&std::io::Error::from_raw_os_error(28)), Errno::ENOSPC);
    }
}
