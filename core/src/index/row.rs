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
//!
//! A *posting* is what an index holds of one version of one name; its number is the revision that indexed it and a
//! count (8 and 4 bytes). A posting is live while the object row of its key names it; what is not is garbage.

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
    /// Objects with a posting.
    #[n(7)]
    pub objects: u64,
    /// Entries of live postings.
    #[n(8)]
    pub entries: u64,
    /// Objects that wait to be read.
    #[n(9)]
    pub pending: u64,
    /// Objects whose content did not parse.
    #[n(10)]
    pub unparsed: u64,
    /// Bytes of entries and blocks, keys included, those of garbage too.
    #[n(11)]
    pub bytes: u64,
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
    PostingRow => "posting of an index",
    EntriesRow => "entries of a posting",
    ObjectIndexRow => "object of an index",
    BlockRow => "block of an index",
}
