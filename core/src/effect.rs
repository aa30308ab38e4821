//! Hints to jobs that something is there to do. Facts are rows; an effect only wakes someone early and may be lost.

/// A hint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Effect {
    /// Blobs were condemned: their bytes can go.
    BlobsCondemned,
    /// A content of many blobs may be joined.
    JoinQueued,
    /// A version's SHA-256 is pending.
    DigestQueued,
    /// A page of many extents is to be compacted.
    CompactQueued,
    /// A lease came to be, was renewed or granted, or ended.
    Lease(crate::id::Revision),
    /// A wait for a range was granted or given up; its number is never that of a lease, since a revision makes one of both.
    RangeWait(crate::id::Revision),
    /// An index is to be built, an object waits for one, or rows of one are to be removed.
    IndexQueued,
    /// A target came to be, was changed or removed.
    TargetsChanged,
    /// A topic, by its id, got messages, or a group of it can claim some.
    Topic(crate::id::Revision),
}
