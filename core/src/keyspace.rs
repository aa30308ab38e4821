//! Keyspaces and the ordered encoding of keys.
//!
//! Every key starts with a group id (two bytes, big-endian, 0 today). Integers are big-endian; a revision that must sort
//! newest first is stored complemented. An object key that is followed by more components is escaped so that order is
//! kept: `00` becomes `00 FF`, the end is `00 01`. `docs/formats.md` specifies each key for strangers.

/// The keyspaces of the state. The number is the stored one and never changes meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Keyspace {
    /// Applied index, membership, revision offset, feature level, counters.
    Sys = 0,
    /// Bucket name → bucket record.
    Buckets = 1,
    /// Bucket id, document kind → settings documents (CORS, tags).
    Settings = 2,
    /// Bucket id, key → the live name.
    Names = 3,
    /// Bucket id, key, revision descending → a version or delete marker with its life.
    History = 4,
    /// Bucket id, key → place of the "null" version when it is not the latest.
    Nulls = 5,
    /// Object id (and content revision) → what is known beyond the default.
    Objects = 6,
    /// Object id → its names, when it has more than one.
    Links = 7,
    /// Object id, page, revision descending → a page of extents.
    Extents = 8,
    /// Uploads in progress and their parts; boundaries of finished ones.
    Parts = 9,
    /// Blob id → blob record; pages of block checksums.
    Blobs = 10,
    /// Blob id → bytes of a small blob.
    Inline = 11,
    /// Work that jobs drain.
    Queues = 12,
    /// Request id → reply.
    Dedupe = 13,
}

impl Keyspace {
    /// All keyspaces, in stored order.
    pub const ALL: [Self; 14] = [
        Self::Sys,
        Self::Buckets,
        Self::Settings,
        Self::Names,
        Self::History,
        Self::Nulls,
        Self::Objects,
        Self::Links,
        Self::Extents,
        Self::Parts,
        Self::Blobs,
        Self::Inline,
        Self::Queues,
        Self::Dedupe,
    ];

    /// The name used for files and in documents.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sys => "sys",
            Self::Buckets => "buckets",
            Self::Settings => "settings",
            Self::Names => "names",
            Self::History => "history",
            Self::Nulls => "nulls",
            Self::Objects => "objects",
            Self::Links => "links",
            Self::Extents => "extents",
            Self::Parts => "parts",
            Self::Blobs => "blobs",
            Self::Inline => "inline",
            Self::Queues => "queues",
            Self::Dedupe => "dedupe",
        }
    }

    /// The keyspace with this stored number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}
