//! Rows of `indexes`.
//!
//! | row | key after the group | value |
//! | --- | --- | --- |
//! | definition | 0, bucket id, name | [`IndexRow`] |
//! | entry | 1, index id, encoding of the tuple (its hash in a hash index), posting, row number (4 bytes) | offset (8 bytes) and length (4) of the row; of a unique hash index also the tuple |
//! | posting | 2, index id, posting | [`PostingRow`] |
//! | its entries | 3, index id, posting | [`EntriesRow`] |
//! | object | 4, index id, object key | [`ObjectIndexRow`] |
//! | aside | 5, index id, 0 pending or 1 unparsed, object key | reason why it did not parse |
//! | block | 6, index id, posting, number (4 bytes) | [`BlockRow`] |
//! | garbage | 7, index id, posting | empty |
//! | dropped | 8, index id | empty |
//! | run | 9, index id, revision of the run | [`RunRow`] |
//! | condemned run | 10, revision that condemned it, index id, revision of the run | [`CondemnedRunRow`] |
//! | counts | 11, index id | [`IndexCountsRow`] |
//!
//! Counts change with every write of the partition, so they are read by their key alone: a scan goes over all that is kept
//! of what each row was. Definitions, which every write scans, change only with the index itself.
//!
//! A *posting* is what an index holds of one version of one name; its number is the revision that indexed it and a
//! count (8 and 4 bytes). A posting is live while the object row of its key names it; what is not is garbage.
//!
//! Entries of a live posting are rows here, or in a run, or both: its entry rows and its list of them go, all at once,
//! only after a run that holds them is named here. Its posting and object row stay, so that what a run holds is checked by
//! two point reads.

use minicbor::{Decode, Encode};

use super::{Expression, IndexKind, IndexState};
use crate::id::{Millis, Place, Revision};
use crate::record::{known, record, stored_enum};

/// A posting's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(array)]
pub struct Posting {
    /// The revision that indexed it.
    #[n(0)]
    pub revision: Revision,
    /// Which of that commit.
    #[n(1)]
    pub ordinal: u32,
}

/// An index. Key: bucket id, name.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct IndexRow {
    /// Identity: the revision of its creation.
    #[n(0)]
    pub id: Revision,
    /// Prefix of its partition: empty, or ending in a slash.
    #[n(1)]
    pub prefix: String,
    /// How entries are kept.
    #[n(2)]
    pub kind: IndexKind,
    /// Whether two rows may not share their values.
    #[n(3)]
    pub unique: bool,
    /// What is indexed.
    #[cbor(n(4), decode_with = "known")]
    pub expressions: Vec<Expression>,
    /// Where it stands.
    #[cbor(n(5), decode_with = "known")]
    pub state: IndexState,
    /// When it was created.
    #[n(6)]
    pub created_ms: Millis,
}

/// What an index holds. Key: index id.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct IndexCountsRow {
    /// Objects with a posting.
    #[n(0)]
    pub objects: u64,
    /// Entries of live postings.
    #[n(1)]
    pub entries: u64,
    /// Objects that wait to be read.
    #[n(2)]
    pub pending: u64,
    /// Objects whose content did not parse.
    #[n(3)]
    pub unparsed: u64,
    /// Bytes of entries and blocks of live postings in the state, keys included.
    #[n(4)]
    pub bytes: u64,
    /// Those of blocks among them; absent for 0.
    #[n(5)]
    pub block_bytes: Option<u64>,
    /// Runs that searches read; absent for 0.
    #[n(6)]
    pub runs: Option<u32>,
    /// Their bytes; absent for 0.
    #[n(7)]
    pub run_bytes: Option<u64>,
}

/// A posting. Key: index id, posting.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct PostingRow {
    /// The object.
    #[n(0)]
    pub key: String,
    /// Its version.
    #[n(1)]
    pub place: Place,
}

/// An entry of a posting.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Entry {
    /// Encoding of the tuple.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub tuple: Vec<u8>,
    /// First byte of its row.
    #[n(1)]
    pub offset: u64,
    /// Bytes of its row.
    #[n(2)]
    pub length: u32,
}

/// The entries of a posting, by their row numbers. Key: index id, posting.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct EntriesRow {
    /// Entries.
    #[n(0)]
    pub entries: Vec<Entry>,
    /// Blocks instead.
    #[n(1)]
    pub blocks: u32,
}

stored_enum! {
    /// What an index knows of an object.
    pub enum Known {
        /// An entry for each row.
        Rows = 0,
        /// A summary of each block.
        Blocks = 1,
        /// Nothing yet: it waits to be read.
        Pending = 2,
        /// Nothing: its content did not parse.
        Unparsed = 3,
    }
}

/// What an index knows of a name. Key: index id, object key.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ObjectIndexRow {
    /// Of which version.
    #[n(0)]
    pub place: Place,
    /// How much.
    #[n(1)]
    pub known: Known,
    /// Its posting; `None` when it has no entry.
    #[n(2)]
    pub posting: Option<Posting>,
    /// Entries.
    #[n(3)]
    pub entries: u32,
    /// Bytes of the rows of its posting, keys included, as they were written.
    #[n(4)]
    pub bytes: Option<u64>,
}

stored_enum! {
    /// Where a run stands.
    pub enum RunState {
        /// A job writes it; its file may be there or not.
        Writing = 0,
        /// Its file is whole, and searches read it.
        Live = 1,
    }
}

/// A run. Key: index id, revision of the run.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct RunRow {
    /// Name of its file in the backend.
    #[n(0)]
    pub path: String,
    /// Where it stands.
    #[n(1)]
    pub state: RunState,
    /// Postings up to this revision have their entries in this run, in an older one, or are not live. 0 while it is written.
    #[n(2)]
    pub through: Revision,
    /// Bytes of the file.
    #[n(3)]
    pub bytes: u64,
    /// Its entries.
    #[n(4)]
    pub entries: u64,
    /// Where its fence blocks begin: what a reader keeps in memory lies from there on.
    #[n(5)]
    pub fences_at: u64,
    /// Whether the state holds no entries any more that it holds.
    #[n(6)]
    pub trimmed: bool,
}

/// A run that no state from some revision on names. Key: that revision, index id, revision of the run.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct CondemnedRunRow {
    /// Name of its file in the backend.
    #[n(0)]
    pub path: String,
    /// Where it stood: one that was being written may still come to be.
    #[n(1)]
    pub state: RunState,
}

/// A block of an object. Key: index id, posting, number.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct BlockRow {
    /// First byte.
    #[n(0)]
    pub offset: u64,
    /// Bytes.
    #[n(1)]
    pub length: u64,
    /// The least encoding of a tuple in it; empty when it has none.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub low: Vec<u8>,
    /// The greatest.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub high: Vec<u8>,
    /// Filter over the encodings; see [`super::bloom`]. Empty when there is none: then it rules nothing out.
    #[cbor(n(4), with = "minicbor::bytes")]
    pub bloom: Vec<u8>,
}

record! {
    IndexRow => "index",
    IndexCountsRow => "counts of an index",
    PostingRow => "posting of an index",
    EntriesRow => "entries of a posting",
    ObjectIndexRow => "object of an index",
    BlockRow => "block of an index",
    RunRow => "run of an index",
    CondemnedRunRow => "condemned run of an index",
}
