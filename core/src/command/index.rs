//! Commands of indexes.

use minicbor::{Decode, Encode};

use super::BucketRef;
use crate::id::{ObjectKey, Place, Revision};
use crate::index::row::{BlockRow, Entry, Posting};
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
    /// Generation of the bytes that were read: what a mount has changed since is read again. Absent is one that no mount has
    /// changed.
    #[n(3)]
    pub generation: Option<Revision>,
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

/// See [`super::Op::BeginRun`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct BeginRun {
    /// Which bucket.
    #[n(0)]
    pub bucket: BucketRef,
    /// Which index.
    #[n(1)]
    pub name: String,
    /// Its id.
    #[n(2)]
    pub index: Revision,
}

/// See [`super::Op::AddRun`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct AddRun {
    /// Which bucket.
    #[n(0)]
    pub bucket: BucketRef,
    /// Which index.
    #[n(1)]
    pub name: String,
    /// Its id.
    #[n(2)]
    pub index: Revision,
    /// The run, by the revision that began it.
    #[n(3)]
    pub run: Revision,
    /// Runs whose live entries it holds, ascending.
    #[n(4)]
    pub replaces: Vec<Revision>,
    /// What was written; `None` when there was nothing to write, or it failed.
    #[n(5)]
    pub written: Option<WrittenRun>,
}

/// A run whose file is whole.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct WrittenRun {
    /// It holds all entries of postings up to this revision that are live and in the state or in what it replaces.
    #[n(0)]
    pub through: Revision,
    /// Bytes of the file.
    #[n(1)]
    pub bytes: u64,
    /// Its entries, at least one.
    #[n(2)]
    pub entries: u64,
    /// Where its fence blocks begin.
    #[n(3)]
    pub fences_at: u64,
}

/// See [`super::Op::DemoteEntries`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct DemoteEntries {
    /// Which bucket.
    #[n(0)]
    pub bucket: BucketRef,
    /// Which index.
    #[n(1)]
    pub name: String,
    /// Its id.
    #[n(2)]
    pub index: Revision,
    /// Postings whose entries a run holds.
    #[n(3)]
    pub postings: Vec<Posting>,
    /// With them the state holds none any more of postings up to this revision.
    #[n(4)]
    pub trimmed: Option<Revision>,
}

/// See [`super::Op::LoseRun`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct LoseRun {
    /// Which bucket.
    #[n(0)]
    pub bucket: BucketRef,
    /// Which index.
    #[n(1)]
    pub name: String,
    /// Its id.
    #[n(2)]
    pub index: Revision,
    /// The run, by the revision that began it.
    #[n(3)]
    pub run: Revision,
}

/// See [`super::Op::ForgetRuns`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ForgetRuns {
    /// Runs whose files are gone, at most [`crate::rules::JOB_ROWS_MAX`].
    #[n(0)]
    pub runs: Vec<CondemnedRun>,
}

/// A condemned run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
#[cbor(array)]
pub struct CondemnedRun {
    /// The revision that condemned it.
    #[n(0)]
    pub condemned: Revision,
    /// Its index.
    #[n(1)]
    pub index: Revision,
    /// The revision that began it.
    #[n(2)]
    pub run: Revision,
}
