//! The rules: what each command does to the rows. Leaves of `apply`; pure functions over a transaction.

pub mod authorize;
pub(crate) mod bucket;
pub(crate) mod content;
pub mod digest;
pub(crate) mod index;
pub(crate) mod links;
pub mod lock;
pub(crate) mod maintain;
pub(crate) mod mount;
pub(crate) mod multipart;
pub mod notify;
pub(crate) mod object;
pub mod range;
pub(crate) mod rename;
pub mod topic;

/// Entries of one DeleteObjects. Source: S3 API, DeleteObjects.
pub const DELETE_ENTRIES_MAX: usize = 1000;
/// Rows that renaming a prefix may change: names, and extents that must be rewritten.
pub const RENAME_ROWS_MAX: u32 = 10_000;
/// Rows, blobs or names that one command of a job may change.
pub const JOB_ROWS_MAX: usize = 1000;
/// Writes after which one command of a job stops and says that more is to do: a row may stand for an object of many parts.
pub const JOB_WRITES_MAX: u64 = 20_000;
/// Longest history window of a bucket: ten years.
pub const HISTORY_MS_MAX: u64 = 3653 * 24 * 60 * 60 * 1000;
/// Largest small object that a bucket may ask for: its bytes travel in a command.
pub const INLINE_BYTES_MAX: u64 = 1 << 20;
/// Parts of an upload. Source: S3 user guide, "Amazon S3 multipart upload limits".
pub const PARTS_MAX: u16 = 10_000;
/// Least bytes of a part that is not the last. Source: as above.
pub const PART_BYTES_MIN: u64 = 5 << 20;
/// Most bytes of a part or of a single PUT. Source: as above.
pub const PART_BYTES_MAX: u64 = 5 << 30;
/// Most bytes of an object. Source: S3 user guide, "Uploading objects": 50 TB since December 2025.
pub const OBJECT_BYTES_MAX: u64 = 50 << 40;
/// Boundaries in one row.
pub const PARTS_PER_PAGE: usize = 1000;
/// Bytes of an object whose extents share a page.
pub const PAGE_BYTES: u64 = 64 << 20;
/// Extents that start in one page.
pub const EXTENTS_PER_PAGE_MAX: usize = 1024;
/// Extents of one object.
pub const EXTENTS_MAX: usize = 65_536;
/// What a mount wrote is joined up to so many bytes, whatever its extents: joining reads and writes all of it, each time.
pub const PATCHED_JOIN_BYTES: u64 = 64 << 20;
/// What a mount wrote is joined, whatever its size, when its extents are shorter than this on average.
pub const PATCHED_JOIN_EXTENT_BYTES: u64 = 1 << 20;
/// Extents of a page past which it is queued for compaction.
pub const COMPACT_EXTENTS: usize = 512;
/// Contents from a version down to its deepest base.
pub const BASE_DEPTH_MAX: u8 = 8;
/// Bytes of a blob that one checksum covers.
pub const BLOCK_BYTES: u64 = 128 << 10;
/// Block checksums in a blob record; further ones in pages of as many.
pub const BLOCKS_PER_PAGE: usize = 512;
/// How long replies are kept, in state time.
pub const REPLIES_MS: u64 = 15 * 60 * 1000;
/// How many replies are kept.
pub const REPLIES_MAX: u64 = 1_000_000;
/// How long a finished upload can be completed again.
pub const FINISHED_MS: u64 = 24 * 60 * 60 * 1000;
/// How old the name of a blob may be when a command brings it in, and how long a deleted blob's name is remembered.
pub const BLOB_AGE_MS_MAX: u64 = 24 * 60 * 60 * 1000;
