//! Runs: the durable form of an index. A run is a file that is written once and holds sorted entries, so that nodes share
//! them and nobody reads all objects to have an index again.
//!
//! ```text
//! header | section | section | ... | fence blocks of level 0 | of level 1 | ... | top fence block | footer | trailer
//!            └─ block | block | ... | filter                                      └─── the last TAIL_BYTES ────┘
//! ```
//! A *block* holds entries, a *fence block* the bounds and offsets of the blocks of a section or of fence blocks one level
//! below. A *filter* says of a section's blocks which subjects they do not hold. The *subject* of a key is what a lookup
//! names: in a B+tree run all of the key but a suffix of fixed length, in a hash run the first eight bytes, a hash.
//! `docs/formats.md` specifies every byte.
//!
//! Nothing here reads or writes: a [`Writer`] gives the bytes to upload, and a [`Run`] says which range of the file it
//! needs and is fed with it. With the fence blocks in memory a lookup needs one range, with the filters none for most
//! subjects that are absent.
//!
//! Promises:
//! - Memory of a writer: a block, a filter and the fence blocks, for keys of usual length less than a thousandth of the run.
//!   Of a reader: what it was fed.
//! - Bytes of strangers make an error or entries, never a panic, and no allocation beyond what was fed and one key.
//! - The checksum of a block covers the identity of the run and the block's offset: bytes from elsewhere are refused.
//!
//! A hash run has the same form. A directory of equal buckets would need no fences, but its buckets fill unevenly and one
//! frequent hash overflows its own; a fence is cut after the first byte that tells two hashes apart, so the fence block
//! takes about as much as the directory would.
//!
//! Absent: what keys and values mean, compression (a codec other than none is refused), tombstones (a caller's predicate
//! drops entries, see [`merge()`]).

mod block;
mod fence;
mod filter;
mod footer;
mod frame;
mod merge;
mod name;
mod reader;
mod writer;

use bytes::Bytes;

pub use self::block::{Block, Entries};
pub use self::footer::Info;
pub use self::merge::{Merge, merge};
pub use self::name::{RUNS_PREFIX, RunName, parse_run_path, run_path};
pub use self::reader::{BlockAt, Blocks, Located, Opened, Read, Run};
pub use self::writer::{Header, PushError, Summary, Writer};
use super::IndexKind;

/// Most bytes of an entry's key.
pub const ENTRY_KEY_BYTES_MAX: usize = 16 << 10;
/// Most bytes of an entry's value.
pub const ENTRY_VALUE_BYTES_MAX: usize = 64 << 10;
/// Bytes of entries at which a block ends: it has fewer than one entry more.
pub const BLOCK_BYTES: usize = 32 << 10;
/// Bytes of a run past which no entry is taken.
pub const RUN_BYTES_MAX: u64 = 1 << 42;
/// Bytes of the end of a file that hold footer and top fence block, whatever the size of the run.
pub const TAIL_BYTES: u64 = 128 << 10;
/// Blocks that one call locates; the rest is located by another.
pub const LOCATED_BLOCKS_MAX: usize = 1024;
/// Bytes of a hash, with which every key of a hash run begins.
pub const HASH_BYTES: usize = 8;

/// What is in the order of a run's keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Values. A lookup names all of a key but its last bytes, as many as this.
    BTree {
        /// Bytes at the end of each key that tell entries of one subject apart.
        suffix_bytes: u16,
    },
    /// Hashes. A lookup names one: the first [`HASH_BYTES`] of a key.
    Hash,
}

impl Layout {
    /// The kind of index.
    #[must_use]
    pub fn kind(self) -> IndexKind {
        match self {
            Self::BTree { .. } => IndexKind::BTree,
            Self::Hash => IndexKind::Hash,
        }
    }

    /// The subject of a key; `None` when the key is too short to have one.
    #[must_use]
    pub fn subject(self, key: &[u8]) -> Option<&[u8]> {
        match self {
            Self::BTree { suffix_bytes } => key.get(..key.len().checked_sub(usize::from(suffix_bytes))?),
            Self::Hash => key.get(..HASH_BYTES),
        }
    }
}

/// An entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its key, unique in its run.
    pub key: Vec<u8>,
    /// Its value.
    pub value: Bytes,
}

/// Bytes that are not those of a whole, undamaged run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// The last bytes are not a run's.
    #[error("not a run of an index: its end is damaged, lost or of something else")]
    NotARun,
    /// Written by a newer release.
    #[error("format {0} of a run is newer than this release reads")]
    UnknownFormat(u32),
    /// Compressed in a way that is not built.
    #[error("codec {0} of a block is not built")]
    UnknownCodec(u8),
    /// A checksum, length, order or number is wrong.
    #[error("the run is damaged at byte {at}: {what}")]
    Damaged {
        /// Offset in the file of what is damaged.
        at: u64,
        /// What is wrong with it.
        what: &'static str,
    },
}

/// Appends a number, seven bits to a byte, the lowest first; a set top bit says that another follows.
fn put_number(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Most bytes of a number: ten hold 64 bits.
const NUMBER_BYTES_MAX: usize = 10;

/// The number at `*at`, which moves past it; `None` when there is none, or not in its shortest form.
fn take_number(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let mut number = 0u64;
    for position in 0..NUMBER_BYTES_MAX {
        let byte = *bytes.get(*at)?;
        *at += 1;
        let bits = u64::from(byte & 0x7f);
        if position == NUMBER_BYTES_MAX - 1 && bits > 1 {
            return None;
        }
        number |= bits << (7 * position);
        if byte & 0x80 == 0 {
            return (byte != 0 || position == 0).then_some(number);
        }
    }
    None
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..)?.first_chunk::<4>()?;
    Some(u32::from_le_bytes(*bytes))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..)?.first_chunk::<8>()?;
    Some(u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_one_form() {
        for number in [0, 1, 127, 128, 300, 1 << 14, u64::from(u32::MAX), u64::MAX] {
            let mut bytes = Vec::new();
            put_number(number, &mut bytes);
            let mut at = 0;
            assert_eq!((take_number(&bytes, &mut at), at), (Some(number), bytes.len()), "{number}");
            assert_eq!(take_number(&bytes[..bytes.len() - 1], &mut 0), None, "{number} without its end");
        }
        assert_eq!(take_number(&[0x80, 0], &mut 0), None, "a longer form of 0");
        assert_eq!(take_number(&[0xff; 11], &mut 0), None, "more than 64 bits");
        assert_eq!(take_number(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2], &mut 0), None, "65 bits");
    }

    #[test]
    fn a_subject_is_what_a_lookup_names() {
        let check = |layout: Layout, key: &[u8], expected: Option<&[u8]>| assert_eq!(layout.subject(key), expected);
        check(Layout::BTree { suffix_bytes: 2 }, b"abcde", Some(b"abc"));
        check(Layout::BTree { suffix_bytes: 0 }, b"abc", Some(b"abc"));
        check(Layout::BTree { suffix_bytes: 3 }, b"abc", Some(b""));
        check(Layout::BTree { suffix_bytes: 4 }, b"abc", None);
        check(Layout::Hash, b"12345678rest", Some(b"12345678"));
        check(Layout::Hash, b"1234567", None);
    }
}
