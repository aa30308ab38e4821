//! Commands of indexes.

use minicbor::{Decode, Encode};

use super::BucketRef;
use crate::id::{ObjectKey, Place, Revision};
use crate::index::row::{BlockRow, Entry};
use crate::index::{Expression, IndexKind};
use crate::record::known;

/// See [`super::Op::CreateIndex`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct CreateIndex {
    /// Which bucket.
    #[n(0)]
    pub bucket: BucketRef,
    /// Unique in the bucket.
    #[n(1)]
    pub name: String,
    /// Prefix of the partition: empty, or ending in a slash.
    #[n(2)]
    pub prefix: String,
    /// How entries are kept.
    #[n(3)]
    pub kind: IndexKind,
    /// Whether two rows may not share their values.
    #[n(4)]
    pub unique: bool,
    /// What is indexed.
    #[cbor(n(5), decode_with = "known")]
    pub expressions: Vec<Expression>,
}

/// See [`super::Op::DropIndex`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct DropIndex {
    /// Which bucket.
    #[n(0)]
    pub bucket: BucketRef,
    /// Which index.
    #[n(1)]
    pub name: String,
}

/// What was found in the content of an object, for one index.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Outcome {
    /// An entry for each row. A tuple has the values of the index's content fields only, in their order.
    #[n(0)]
    Rows(#[n(0)] Vec<Entry>),
    /// A summary of each block; only of indexes on content fields alone.
    #[n(1)]
    Blocks(#[n(0)] Vec<BlockRow>),
    /// It does not parse, for this reason.
    #[n(2)]
    Unparsed(#[n(0)] String),
    /// It was not read: too large, or too many rows.
    #[n(3)]
    Pending,
}

/// What the proposer of a write read in the bytes that it writes, for one index.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Extracted {
    /// The index, by its id: another of the same name is not meant.
    #[n(0)]
    pub index: Revision,
    /// What was found.
    #[cbor(n(1), decode_with = "known")]
    pub outcome: Outcome,
}

/// An object that a job has read for an index.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ReadObject {
    /// Its key.
    #[n(0)]
    pub key: ObjectKey,
    /// The version that was read: when the name has another by now, nothing is done.
    #[n(1)]
    pub place: Place,
    /// What was found.
    #[cbor(n(2), decode_with = "known")]
    pub outcome: Outcome,
}

/// See [`super::Op::IndexObjects`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct IndexObjects {
    /// Which bucket.
    #[n(0)]
    pub bucket: BucketRef,
    /// Which index.
    #[n(1)]
    pub name: String,
    /// Its id.
    #[n(2)]
    pub index: Revision,
    /// What was read.
    #[n(3)]
    pub objects: Vec<ReadObject>,
    /// While the index is built: where its cursor must be, and every object up to the new one is among `objects`.
    #[n(4)]
    pub cursor: Option<String>,
    /// Where the cursor goes; `None` when there is nothing behind it.
    #[n(5)]
    pub next: Option<String>,
}

/// See [`super::Op::TrimIndexes`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct TrimIndexes {
    /// Most rows to remove, at most [`crate::rules::JOB_ROWS_MAX`].
    #[n(0)]
    pub rows: u32,
}
