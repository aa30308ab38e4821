//! Fence blocks: where the blocks of a section are, or the fence blocks of the level below, and what keys they may hold.
//!
//! ```text
//! payload  level u8 | first byte of the first child u64 | first byte of the filter u64 | lines of the filter u32
//!          | a block (see `block`) with an entry for each child:
//!          fence → first byte after that of the first child number | bytes number | first line number | lines number
//! ```
//! A child is a whole frame, and children follow one another without a gap. A *fence* is not above any key of its child
//! and above every key of the child before; the first of a level is empty. Of level 0 the children are blocks, and the
//! section's filter follows them; above it they are fence blocks and have no filter.

use std::ops::Range;

use bytes::Bytes;

use super::block::{self, Block, Cursor};
use super::filter::LINE_BYTES;
use super::frame::{BLOCK_PAYLOAD_MAX, FENCE_PAYLOAD_MAX, HEAD_BYTES};
use super::{put_number, take_number, u32_at, u64_at};

/// Levels of fence blocks. A block has [`super::BLOCK_BYTES`] or is the last, and a fence block has [`CHILDREN_MIN`]
/// children or is the last, so that [`super::RUN_BYTES_MAX`] give fewer levels.
pub(super) const LEVELS_MAX: u8 = 16;
/// Bytes of a payload at which a fence block ends, once it has [`CHILDREN_MIN`] children.
pub(super) const FENCE_BYTES: usize = 32 << 10;
/// Bytes of a filter at which its section ends.
pub(super) const FILTER_BYTES: usize = 1 << 20;
/// Children that a fence block has before it ends because of its size.
const CHILDREN_MIN: usize = 4;
/// Most children of a fence block.
const CHILDREN_MAX: usize = 1024;
const PREFIX_BYTES: usize = 21;

/// A child of a fence block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Child {
    /// First byte in the file.
    pub(super) at: u64,
    /// Bytes, with the frame's head.
    pub(super) bytes: u32,
    /// First line in the filter.
    line: u32,
    /// Lines.
    lines: u32,
}

impl Child {
    pub(super) fn range(&self) -> Range<u64> {
        self.at..self.at + u64::from(self.bytes)
    }

    /// Its part of the section's filter.
    pub(super) fn filter<'a>(&self, filter: &'a [u8]) -> &'a [u8] {
        let from = self.line as usize * LINE_BYTES;
        filter.get(from..from + self.lines as usize * LINE_BYTES).unwrap_or_default()
    }
}

/// Collects the children of a fence block.
#[derive(Debug)]
pub(super) struct Builder {
    level: u8,
    begin: u64,
    lines: usize,
    first: Vec<u8>,
    fences: block::Builder,
}

/// A finished fence block. Its own offset is only known when its level is written.
#[derive(Debug)]
pub(super) struct Finished {
    /// The fence of its first child, which is its own.
    pub(super) fence: Vec<u8>,
    pub(super) payload: Vec<u8>,
}

impl Builder {
    /// A fence block whose first child will be at `begin`.
    pub(super) fn new(level: u8, begin: u64) -> Self {
        Self { level, begin, lines: 0, first: Vec::new(), fences: block::Builder::default() }
    }

    /// Adds the child that is at `range`, with as many lines of the filter.
    pub(super) fn push(&mut self, fence: &[u8], range: &Range<u64>, lines: usize) {
        if self.fences.is_empty() {
            self.first = fence.to_vec();
        }
        let mut value = Vec::new();
        for number in [range.start - self.begin, range.end - range.start, self.lines as u64, lines as u64] {
            put_number(number, &mut value);
        }
        self.fences.push(fence, &value);
        self.lines += lines;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.fences.is_empty()
    }

    /// Whether another child belongs into another fence block.
    pub(super) fn is_full(&self) -> bool {
        let children = self.fences.entries();
        let large =
            PREFIX_BYTES + self.fences.payload_bytes() >= FENCE_BYTES || self.lines * LINE_BYTES >= FILTER_BYTES;
        children >= CHILDREN_MAX || (large && children >= CHILDREN_MIN)
    }

    /// The fence block. Of level 0, `filter_at` is where the filter is; 0 above.
    pub(super) fn finish(mut self, filter_at: u64) -> Finished {
        let mut payload = vec![self.level];
        payload.extend_from_slice(&self.begin.to_le_bytes());
        payload.extend_from_slice(&filter_at.to_le_bytes());
        let lines = u32::try_from(self.lines).expect("a filter is at most a few megabytes");
        payload.extend_from_slice(&lines.to_le_bytes());
        self.fences.finish(&mut payload);
        Finished { fence: self.first, payload }
    }
}

/// A fence block as read.
#[derive(Clone, Debug)]
pub(super) struct Fences {
    pub(super) level: u8,
    payload_bytes: usize,
    begin: u64,
    filter: Range<u64>,
    children: Range<u64>,
    block: Block,
}

impl Fences {
    /// The fence block that a payload is.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn decode(payload: &Bytes) -> Result<Self, &'static str> {
        const HEAD: &str = "the head of a fence block";
        let (Some(level), Some(begin)) = (payload.first().copied(), u64_at(payload, 1)) else { return Err(HEAD) };
        let (Some(filter_at), Some(lines)) = (u64_at(payload, 9), u32_at(payload, 17)) else { return Err(HEAD) };
        let block = Block::decode(payload.slice(PREFIX_BYTES..))?;
        if level >= LEVELS_MAX || block.len() > CHILDREN_MAX {
            return Err("the level of a fence block, or the number of its children");
        }
        let (end, lines_end) = check_children(&block, begin, level)?;
        let filter_bytes = if level == 0 { (HEAD_BYTES + lines as usize * LINE_BYTES) as u64 } else { 0 };
        if lines_end != lines || filter_at != if level == 0 { end } else { 0 } {
            return Err("the offset of a filter");
        }
        let filter_end = filter_at.checked_add(filter_bytes).ok_or("the offset of a filter")?;
        let (filter, children) = (filter_at..filter_end, begin..end);
        Ok(Self { level, payload_bytes: payload.len(), begin, filter, children, block })
    }

    /// Bytes of its frame.
    pub(super) fn frame_bytes(&self) -> usize {
        HEAD_BYTES + self.payload_bytes
    }

    /// Where its children are.
    pub(super) fn children(&self) -> Range<u64> {
        self.children.clone()
    }

    /// Where the filter of its section is; empty above level 0.
    pub(super) fn filter(&self) -> Range<u64> {
        self.filter.clone()
    }

    /// A cursor before the first child that may hold `key`.
    pub(super) fn floor(&self, key: &[u8]) -> Cursor<'_> {
        self.block.floor(key)
    }

    /// The child that a cursor is at.
    pub(super) fn child(&self, cursor: &Cursor<'_>) -> Child {
        child(cursor.value(), self.begin).expect("decode read every child")
    }
}

/// Reads every child, so that nobody needs to doubt one later; gives where they end, and the end of their lines.
fn check_children(block: &Block, begin: u64, level: u8) -> Result<(u64, u32), &'static str> {
    let bytes_max = HEAD_BYTES + if level == 0 { BLOCK_PAYLOAD_MAX } else { FENCE_PAYLOAD_MAX };
    let (mut end, mut lines_end) = (begin, 0u32);
    let mut cursor = block.floor(&[]);
    while cursor.advance() {
        let child = child(cursor.value(), begin).ok_or("a child of a fence block")?;
        if child.at != end || child.bytes as usize > bytes_max || child.line != lines_end {
            return Err("the offset of a child of a fence block");
        }
        if (level == 0) != (child.lines > 0) {
            return Err("the filter of a child of a fence block");
        }
        end = end.checked_add(u64::from(child.bytes)).ok_or("the offset of a child of a fence block")?;
        lines_end = lines_end.checked_add(child.lines).ok_or("the filter of a child of a fence block")?;
    }
    Ok((end, lines_end))
}

fn child(value: &[u8], begin: u64) -> Option<Child> {
    let mut at = 0;
    let offset = take_number(value, &mut at)?;
    let mut small = || u32::try_from(take_number(value, &mut at)?).ok();
    let (bytes, line, lines) = (small()?, small()?, small()?);
    let start = begin.checked_add(offset)?;
    start.checked_add(u64::from(bytes))?;
    (at == value.len()).then_some(Child { at: start, bytes, line, lines })
}
