//! Keys of `indexes`; [`crate::index::row`] has the table.

use super::{Key, bad, text_from, u32_at, u64_at};
use crate::id::{BucketId, Revision};
use crate::index::row::Posting;
use crate::record::DecodeError;

const DEFINITION: u8 = 0;
const ENTRY: u8 = 1;
const POSTING: u8 = 2;
const ENTRIES: u8 = 3;
const OBJECT: u8 = 4;
const ASIDE: u8 = 5;
const BLOCK: u8 = 6;
const GARBAGE: u8 = 7;
const DROPPED: u8 = 8;
const RUN: u8 = 9;
const CONDEMNED: u8 = 10;
const COUNTS: u8 = 11;

/// Bytes after the tuple in the key of an entry: posting and row number.
pub const ENTRY_TAIL: usize = 16;
/// Bytes before the tuple: group, kind and index id. What follows is the key of the entry in a run.
pub const ENTRY_HEAD: usize = 11;

impl Key {
    fn posting(self, posting: Posting) -> Self {
        self.u64(posting.revision).u32(posting.ordinal)
    }
}

fn posting_at(key: &[u8], at: usize) -> Option<Posting> {
    Some(Posting { revision: u64_at(key, at)?, ordinal: u32_at(key, at + 8)? })
}

/// Start of all definitions.
#[must_use]
pub fn definitions() -> Vec<u8> {
    Key::new().u8(DEFINITION).0
}

/// One definition; also the start of those of the bucket whose name begins with it.
#[must_use]
pub fn definition(bucket: BucketId, name: &str) -> Vec<u8> {
    Key::new().u8(DEFINITION).u64(bucket.0).bytes(name.as_bytes()).0
}

/// Bucket and name in the key of a definition.
///
/// # Errors
/// [`DecodeError`] when the row key has no such form.
pub fn definition_parts(key: &[u8]) -> Result<(BucketId, String), DecodeError> {
    let parts = || Some((BucketId(u64_at(key, 3)?), text_from(key, 11)?));
    parts().ok_or_else(|| bad("key of an index"))
}

/// Start of the entries whose tuple begins with `tuple`.
#[must_use]
pub fn entries(index: Revision, tuple: &[u8]) -> Vec<u8> {
    Key::new().u8(ENTRY).u64(index).bytes(tuple).0
}

/// One entry.
#[must_use]
pub fn entry(index: Revision, tuple: &[u8], posting: Posting, row: u32) -> Vec<u8> {
    Key::new().u8(ENTRY).u64(index).bytes(tuple).posting(posting).u32(row).0
}

/// The tuple and the posting in the key of an entry.
///
/// # Errors
/// [`DecodeError`] when the row key has no such form.
pub fn entry_parts(key: &[u8]) -> Result<(&[u8], Posting), DecodeError> {
    let at =
        key.len().checked_sub(ENTRY_TAIL).filter(|at| *at >= ENTRY_HEAD).ok_or_else(|| bad("key of an index entry"))?;
    Ok((&key[ENTRY_HEAD..at], posting_at(key, at).ok_or_else(|| bad("key of an index entry"))?))
}

/// One posting.
#[must_use]
pub fn posting(index: Revision, posting: Posting) -> Vec<u8> {
    Key::new().u8(POSTING).u64(index).posting(posting).0
}

/// The entries of a posting.
#[must_use]
pub fn entries_of(index: Revision, posting: Posting) -> Vec<u8> {
    Key::new().u8(ENTRIES).u64(index).posting(posting).0
}

/// Start of the lists of entries of an index.
#[must_use]
pub fn all_entries_of(index: Revision) -> Vec<u8> {
    Key::new().u8(ENTRIES).u64(index).0
}

/// The posting in the key of its entries.
///
/// # Errors
/// [`DecodeError`] when the row key has no such form.
pub fn entries_posting(key: &[u8]) -> Result<Posting, DecodeError> {
    posting_at(key, 11).ok_or_else(|| bad("key of the entries of a posting"))
}

/// What is known of an object; also the start of those whose key begins with it.
#[must_use]
pub fn object(index: Revision, key: &str) -> Vec<u8> {
    Key::new().u8(OBJECT).u64(index).bytes(key.as_bytes()).0
}

/// The object key in the key of an object's row.
///
/// # Errors
/// [`DecodeError`] when the row key has no such form.
pub fn object_key(key: &[u8]) -> Result<String, DecodeError> {
    text_from(key, 11).ok_or_else(|| bad("key of an indexed object"))
}

/// An object that waits (`unparsed` false), or whose content did not parse; also the start of those whose key begins with
/// it.
#[must_use]
pub fn aside(index: Revision, unparsed: bool, key: &str) -> Vec<u8> {
    Key::new().u8(ASIDE).u64(index).u8(u8::from(unparsed)).bytes(key.as_bytes()).0
}

/// The object key in the key of an object that stands aside.
///
/// # Errors
/// [`DecodeError`] when the row key has no such form.
pub fn aside_key(key: &[u8]) -> Result<String, DecodeError> {
    text_from(key, 12).ok_or_else(|| bad("key of an object aside"))
}

/// Start of an index's blocks.
#[must_use]
pub fn blocks(index: Revision) -> Vec<u8> {
    Key::new().u8(BLOCK).u64(index).0
}

/// One block.
#[must_use]
pub fn block(index: Revision, posting: Posting, number: u32) -> Vec<u8> {
    Key::new().u8(BLOCK).u64(index).posting(posting).u32(number).0
}

/// The posting in the key of a block.
///
/// # Errors
/// [`DecodeError`] when the row key has no such form.
pub fn block_posting(key: &[u8]) -> Result<Posting, DecodeError> {
    posting_at(key, 11).ok_or_else(|| bad("key of a block"))
}

/// Start of all garbage.
#[must_use]
pub fn all_garbage() -> Vec<u8> {
    Key::new().u8(GARBAGE).0
}

/// Start of an index's garbage.
#[must_use]
pub fn garbage_of(index: Revision) -> Vec<u8> {
    Key::new().u8(GARBAGE).u64(index).0
}

/// A posting that is not live any more.
#[must_use]
pub fn garbage(index: Revision, posting: Posting) -> Vec<u8> {
    Key::new().u8(GARBAGE).u64(index).posting(posting).0
}

/// Index and posting in the key of garbage.
///
/// # Errors
/// [`DecodeError`] when the row key has no such form.
pub fn garbage_parts(key: &[u8]) -> Result<(Revision, Posting), DecodeError> {
    let parts = || Some((u64_at(key, 3)?, posting_at(key, 11)?));
    parts().ok_or_else(|| bad("key of garbage of an index"))
}

/// Start of all indexes that were dropped.
#[must_use]
pub fn all_dropped() -> Vec<u8> {
    Key::new().u8(DROPPED).0
}

/// An index that was dropped.
#[must_use]
pub fn dropped(index: Revision) -> Vec<u8> {
    Key::new().u8(DROPPED).u64(index).0
}

/// The index in the key of a dropped one.
///
/// # Errors
/// [`DecodeError`] when the row key has no such form.
pub fn dropped_id(key: &[u8]) -> Result<Revision, DecodeError> {
    u64_at(key, 3).ok_or_else(|| bad("key of a dropped index"))
}

/// Start of an index's runs.
#[must_use]
pub fn runs(index: Revision) -> Vec<u8> {
    Key::new().u8(RUN).u64(index).0
}

/// A run, by its revision.
#[must_use]
pub fn run(index: Revision, revision: Revision) -> Vec<u8> {
    Key::new().u8(RUN).u64(index).u64(revision).0
}

/// The revision in the key of a run.
///
/// # Errors
/// [`DecodeError`] when the row key has no such form.
pub fn run_revision(key: &[u8]) -> Result<Revision, DecodeError> {
    u64_at(key, 11).ok_or_else(|| bad("key of a run"))
}

/// Start of all runs that were condemned.
#[must_use]
pub fn condemned_runs() -> Vec<u8> {
    Key::new().u8(CONDEMNED).0
}

/// A run of an index that was condemned at a revision.
#[must_use]
pub fn condemned_run(condemned: Revision, index: Revision, run: Revision) -> Vec<u8> {
    Key::new().u8(CONDEMNED).u64(condemned).u64(index).u64(run).0
}

/// Revision that condemned it, index and run in the key of a condemned run.
///
/// # Errors
/// [`DecodeError`] when the row key has no such form.
pub fn condemned_run_parts(key: &[u8]) -> Result<(Revision, Revision, Revision), DecodeError> {
    let parts = || Some((u64_at(key, 3)?, u64_at(key, 11)?, u64_at(key, 19)?));
    parts().ok_or_else(|| bad("key of a condemned run"))
}

/// What an index holds.
#[must_use]
pub fn counts(index: Revision) -> Vec<u8> {
    Key::new().u8(COUNTS).u64(index).0
}

/// Starts of everything that an index has besides its definition, its counts and its runs.
#[must_use]
pub fn everything(index: Revision) -> Vec<Vec<u8>> {
    [ENTRY, POSTING, ENTRIES, OBJECT, ASIDE, BLOCK, GARBAGE].map(|kind| Key::new().u8(kind).u64(index).0).to_vec()
}
