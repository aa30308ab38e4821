//! The two ends of a file.
//!
//! ```text
//! header   "HFRUN\0\0\0" | format u32: 1 | CRC-32C of the twelve bytes before u32
//! trailer  length of the footer u32 | CRC-32C of the footer, that length and the format u32 | format u32: 1 | "HFRUN\0\0\0"
//! ```
//! The footer, just before the trailer, is a CBOR map: a field may be added, and a reader skips one that it does not know.
//! What a reader must know to read entries needs another format number.

use minicbor::{Decode, Encode};

use super::frame::{HEAD_BYTES, Identity, Kind};
use super::{ENTRY_KEY_BYTES_MAX, Layout, RunError, fence, u32_at};
use crate::id::Revision;
use crate::index::IndexKind;
use crate::record::decode_whole;

const MAGIC: [u8; 8] = *b"HFRUN\0\0\0";
const FORMAT: u32 = 1;
/// Bytes of the header.
pub(super) const HEADER_BYTES: usize = 16;
/// Bytes of the trailer.
pub(super) const TRAILER_BYTES: usize = 20;
/// Most bytes of a footer: two keys and what is said of them.
pub(super) const FOOTER_BYTES_MAX: usize = 2 * ENTRY_KEY_BYTES_MAX + 1024;

/// What the end of a file says of it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(super) struct Footer {
    /// Kind of index.
    #[n(0)]
    pub(super) kind: IndexKind,
    /// Index id.
    #[n(1)]
    pub(super) index: Revision,
    /// Revision of the run.
    #[n(2)]
    pub(super) revision: Revision,
    /// Bytes of each key that are no part of its subject; of a B+tree run.
    #[n(3)]
    pub(super) suffix_bytes: Option<u16>,
    /// Entries.
    #[n(4)]
    pub(super) entries: u64,
    /// Distinct subjects.
    #[n(5)]
    pub(super) subjects: u64,
    /// Blocks.
    #[n(6)]
    pub(super) blocks: u64,
    /// What it holds; absent without an entry.
    #[n(7)]
    pub(super) held: Option<Held>,
}

/// The entries of a run as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(super) struct Held {
    /// First key.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub(super) first: Vec<u8>,
    /// Last key.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub(super) last: Vec<u8>,
    /// Where fence blocks begin.
    #[n(2)]
    pub(super) fences_at: u64,
    /// Where the top fence block is; it ends where the footer begins.
    #[n(3)]
    pub(super) top_at: u64,
}

/// What a run says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// What its keys are ordered by.
    pub layout: Layout,
    /// Id of the index.
    pub index: Revision,
    /// Revision of the run.
    pub revision: Revision,
    /// Entries.
    pub entries: u64,
    /// Distinct subjects: entries of one are neighbours, so the quotient says how many rows a value has.
    pub subjects: u64,
    /// Blocks.
    pub blocks: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// First and last key; `None` of an empty run.
    pub keys: Option<(Vec<u8>, Vec<u8>)>,
}

impl Info {
    pub(super) fn identity(&self) -> Identity {
        Identity { index: self.index, revision: self.revision }
    }
}

/// Appends the header.
pub(super) fn put_header(out: &mut Vec<u8>) {
    let begin = out.len();
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&FORMAT.to_le_bytes());
    let crc = crc32c::crc32c(&out[begin..]);
    out.extend_from_slice(&crc.to_le_bytes());
}

/// Checks the header, when the beginning of a file was read.
pub(super) fn check_header(file: &[u8]) -> Result<(), RunError> {
    let mut expected = Vec::with_capacity(HEADER_BYTES);
    put_header(&mut expected);
    if file.starts_with(&expected) {
        return Ok(());
    }
    Err(RunError::Damaged { at: 0, what: "the header" })
}

/// Appends footer and trailer.
pub(super) fn put_footer(footer: &Footer, out: &mut Vec<u8>) {
    let payload = minicbor::to_vec(footer).expect("writing to a vector cannot fail");
    let length = u32::try_from(payload.len()).expect("a footer is at most FOOTER_BYTES_MAX");
    out.extend_from_slice(&payload);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&checksum(&payload, length).to_le_bytes());
    out.extend_from_slice(&FORMAT.to_le_bytes());
    out.extend_from_slice(&MAGIC);
}

fn checksum(footer: &[u8], length: u32) -> u32 {
    let crc = crc32c::crc32c_append(crc32c::crc32c(footer), &length.to_le_bytes());
    crc32c::crc32c_append(crc, &FORMAT.to_le_bytes())
}

/// Bytes of the footer that the trailer, the last bytes of a file, says are before it.
pub(super) fn footer_bytes(trailer: &[u8]) -> Result<usize, RunError> {
    let (Some(length), Some(format)) = (u32_at(trailer, 0), u32_at(trailer, 8)) else { return Err(RunError::NotARun) };
    if trailer[12..] != MAGIC {
        return Err(RunError::NotARun);
    }
    if format != FORMAT {
        return Err(RunError::UnknownFormat(format));
    }
    let length = length as usize;
    if length > FOOTER_BYTES_MAX { Err(RunError::NotARun) } else { Ok(length) }
}

/// The footer that `end`, footer and trailer, begins with. It ends a file of `file_bytes`.
pub(super) fn take_footer(end: &[u8], file_bytes: u64) -> Result<(Info, Option<Held>), RunError> {
    let at = file_bytes - end.len() as u64;
    let damaged = |what| RunError::Damaged { at, what };
    let (payload, trailer) = end.split_at(end.len() - TRAILER_BYTES);
    let length = u32::try_from(payload.len()).map_err(|_| RunError::NotARun)?;
    if u32_at(trailer, 4) != Some(checksum(payload, length)) {
        return Err(damaged("the checksum of the footer"));
    }
    let footer: Footer = decode_whole(payload).map_err(|_| damaged("the footer"))?;
    let layout = match (footer.kind, footer.suffix_bytes) {
        (IndexKind::BTree, Some(suffix_bytes)) => Layout::BTree { suffix_bytes },
        (IndexKind::Hash, None) => Layout::Hash,
        _ => return Err(damaged("the kind in the footer")),
    };
    let counts = [footer.subjects, footer.blocks];
    let plausible = match &footer.held {
        Some(held) => {
            let fences = (HEADER_BYTES as u64..=held.top_at).contains(&held.fences_at);
            let top = at.checked_sub(held.top_at).is_some_and(|bytes| bytes <= top_bytes_max());
            let keys = held.first <= held.last && held.last.len() <= ENTRY_KEY_BYTES_MAX;
            fences && top && keys && counts.iter().all(|count| (1..=footer.entries).contains(count))
        }
        None => footer.entries == 0 && counts == [0, 0],
    };
    if !plausible {
        return Err(damaged("a number in the footer"));
    }
    let keys = footer.held.as_ref().map(|held| (held.first.clone(), held.last.clone()));
    let (Footer { index, revision, entries, subjects, blocks, .. }, bytes) = (&footer, file_bytes);
    let info = Info {
        layout,
        index: *index,
        revision: *revision,
        entries: *entries,
        subjects: *subjects,
        blocks: *blocks,
        bytes,
        keys,
    };
    Ok((info, footer.held))
}

fn top_bytes_max() -> u64 {
    (HEAD_BYTES + Kind::Fence.payload_max()) as u64
}

// The greatest footer and the greatest top fence block are within the tail.
const _: () = assert!(
    FOOTER_BYTES_MAX + TRAILER_BYTES + HEAD_BYTES + super::frame::FENCE_PAYLOAD_MAX <= super::TAIL_BYTES as usize
);
// Fence blocks end before they have more than they may.
const _: () = assert!(fence::FENCE_BYTES < super::frame::FENCE_PAYLOAD_MAX);
