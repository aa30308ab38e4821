//! Indexes: what is indexed, and how values are ordered.
//!
//! An index belongs to a partition (a bucket and a prefix) and has one or more expressions. An expression gives each row of
//! an object a [`Value`], and the entry of a row is the tuple of its values in the order of [`Value::encode`].
//!
//! Values are *canonical*: text that reads as a number, a time or a boolean is one, whatever the format said of it, so a
//! CSV field `10`, a JSON number `10.0` and a JSON string `"10"` have one place. A query's literal is made canonical the
//! same way, so equal values always have equal encodings; unequal values may share one (numbers beyond what a float holds,
//! long texts), which is why every hit is checked again.
//!
//! Absent: collations other than byte order; entries of rows whose first value is null.

pub mod bloom;
pub(crate) mod find;
mod path;
pub mod row;
pub mod run;
mod runs;
mod search;
mod value;

use minicbor::{Decode, Encode};

pub use self::find::{Aside, ContentIndex, Found, FoundObject, Lookup};
pub use self::path::{PathError, Step, parse_path, show_path};
pub use self::runs::{Demotable, IndexRun, RunHit, RunToDelete, Seek, layout, read_hit, seeks};
pub use self::search::{Constraint, INTERVALS_MAX, Interval, intervals};
pub use self::value::{Class, TEXT_BYTES_MAX, Value, split_tuple};
use crate::id::Revision;
use crate::record::{known, stored_enum};

/// Expressions of one index.
pub const EXPRESSIONS_MAX: usize = 8;
/// Indexes of one bucket.
pub const INDEXES_MAX: usize = 64;
/// Bytes of an index name.
pub const NAME_BYTES_MAX: usize = 128;
/// Entries of all indexes that one command may bring in.
pub const ENTRIES_MAX: usize = 10_000;
/// Blocks of one object.
pub const BLOCKS_MAX: usize = 1024;
/// Bytes of the blocks' bounds and filters of one object.
pub const BLOCK_SUMMARY_BYTES_MAX: usize = 2 << 20;
/// Entries that are removed at once with their object; a job removes those of objects with more.
pub const EAGER_ENTRIES_MAX: usize = 100;
/// Runs that searches of one index read.
pub const RUNS_MAX: usize = 64;
/// Bytes of the reason why content did not parse.
pub const REASON_BYTES_MAX: usize = 300;

stored_enum! {
    /// How the entries are kept.
    pub enum IndexKind {
        /// In the order of their values: equality, ranges, prefixes.
        BTree = 0,
        /// By a hash of their values: equality of all of them, smaller.
        Hash = 1,
    }
}

/// What gives a row its value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub enum Expression {
    /// The object's key.
    #[n(0)]
    Key,
    /// A part of the key between slashes; the first is 1.
    #[n(1)]
    KeyPart(#[n(0)] u16),
    /// Bytes of the object.
    #[n(2)]
    Size,
    /// When it was last modified.
    #[n(3)]
    LastModified,
    /// Its ETag, without quotes.
    #[n(4)]
    Etag,
    /// `Content-Type`.
    #[n(5)]
    ContentType,
    /// User metadata by its name in lower case.
    #[n(6)]
    Metadata(#[n(0)] String),
    /// A tag.
    #[n(7)]
    Tag(#[n(0)] String),
    /// A field of the content: a column of CSV or Parquet, or a path in JSON.
    #[n(8)]
    Field(#[cbor(n(0), decode_with = "known")] Vec<Step>),
}

impl Expression {
    /// Whether the bytes of the object must be read for it.
    #[must_use]
    pub fn of_content(&self) -> bool {
        matches!(self, Self::Field(_))
    }
}

/// How it is written in SQL.
impl std::fmt::Display for Expression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Key => f.write_str("key"),
            Self::KeyPart(part) => write!(f, "split_part(key, '/', {part})"),
            Self::Size => f.write_str("size"),
            Self::LastModified => f.write_str("last_modified"),
            Self::Etag => f.write_str("etag"),
            Self::ContentType => f.write_str("content_type"),
            Self::Metadata(name) => write!(f, "metadata['{}']", name.replace('\'', "''")),
            Self::Tag(name) => write!(f, "tags['{}']", name.replace('\'', "''")),
            Self::Field(path) => f.write_str(&show_path(path)),
        }
    }
}

/// Where an index stands.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum IndexState {
    /// Objects up to this key, inclusive, are indexed; those after it, pending.
    #[n(0)]
    Building(#[n(0)] String),
    /// All objects are indexed but for those that are listed as pending.
    #[n(1)]
    Ready,
    /// It could not be built, for this reason, and is not used.
    #[n(2)]
    Failed(#[n(0)] String),
}

impl IndexState {
    /// Whether the index speaks for objects of this key.
    #[must_use]
    pub fn covers(&self, key: &str) -> bool {
        match self {
            Self::Building(cursor) => key <= cursor.as_str(),
            Self::Ready => true,
            Self::Failed(_) => false,
        }
    }
}

impl IndexInfo {
    /// What it wants to know of content; no fields when it is on attributes alone.
    #[must_use]
    pub fn content(&self) -> ContentIndex {
        ContentIndex::new(self.id, self.name.clone(), self.unique, &self.expressions)
    }
}

/// What an index is, and what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexInfo {
    /// Identity: the revision of its creation.
    pub id: Revision,
    /// Name, unique in its bucket.
    pub name: String,
    /// Bucket.
    pub bucket: String,
    /// Prefix of its partition: empty, or ending in a slash.
    pub prefix: String,
    /// How entries are kept.
    pub kind: IndexKind,
    /// Whether two rows may not share their values.
    pub unique: bool,
    /// What is indexed.
    pub expressions: Vec<Expression>,
    /// Where it stands.
    pub state: IndexState,
    /// Objects with entries or blocks.
    pub objects: u64,
    /// Entries of rows.
    pub entries: u64,
    /// Objects that wait to be read; while it is built, those after the cursor come to them.
    pub pending: u64,
    /// Objects whose content did not parse.
    pub unparsed: u64,
    /// Bytes of entries and blocks in the state.
    pub bytes: u64,
    /// Those of blocks among them.
    pub block_bytes: u64,
    /// Runs in the backend.
    pub runs: u32,
    /// Their bytes.
    pub run_bytes: u64,
}
