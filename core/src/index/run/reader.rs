//! Reads a run, without reading: it says which bytes of the file it needs, and is fed with them.
//!
//! ```text
//! open(last TAIL_BYTES of the file) ──▶ Run ── find(subject), locate(interval) ──▶ Blocks ── ranges ──▶ decode_block
//!                                        ▲                                  └────▶ Fences ── range ──┐
//!                                        └──────────────────── feed ◀────────────────────────────────┘
//! ```
//! A run of up to some tens of megabytes has all its fence blocks in the tail. Of a larger one they are fed once, by
//! [`Run::missing_fences`], or one at a time where a lookup asks for it; the same goes for filters.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;

use super::block::Block;
use super::fence::{Child, Fences, LEVELS_MAX};
use super::footer::{HEADER_BYTES, Held, Info, TRAILER_BYTES, check_header, footer_bytes, take_footer};
use super::frame::{self, Kind};
use super::{LOCATED_BLOCKS_MAX, RunError, TAIL_BYTES, filter};
use crate::index::Interval;

/// Bytes of fence blocks that are asked for at once.
const MISSING_BYTES_MAX: u64 = 1 << 20;

/// A run whose end was read.
#[derive(Clone, Debug)]
pub struct Run {
    info: Info,
    held: Option<Held>,
    /// Where the footer begins.
    footer_at: u64,
    /// Fence blocks in memory, by where they are.
    fences: BTreeMap<u64, Fences>,
    /// Filters in memory, by where they are.
    filters: BTreeMap<u64, Bytes>,
}

/// What came of opening a run.
#[derive(Clone, Debug)]
pub enum Opened {
    /// It is open.
    Run(Box<Run>),
    /// The tail was too short: open it with this range, which ends with the file.
    More(Range<u64>),
}

/// Where a block is in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockAt {
    /// First byte.
    pub at: u64,
    /// Bytes.
    pub bytes: u32,
}

impl BlockAt {
    /// Its bytes in the file.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.at..self.at + u64::from(self.bytes)
    }
}

/// Where the entries of an interval are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Located {
    /// In these blocks; without any, nowhere.
    Blocks(Blocks),
    /// That is not in memory: feed this range, then ask again.
    Fences(Range<u64>),
}

/// Blocks that hold whatever a run has of an interval.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blocks {
    /// They, in order; at most [`LOCATED_BLOCKS_MAX`].
    pub blocks: Vec<BlockAt>,
    /// What is still to be located, by [`Run::locate`].
    pub rest: Option<Interval>,
    /// Filters that would have been asked, had they been in memory.
    pub unasked: Vec<Range<u64>>,
}

/// Neighbouring blocks that are read at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// Bytes of the file.
    pub range: Range<u64>,
    /// The blocks in it, without a gap.
    pub blocks: Vec<BlockAt>,
}

impl Blocks {
    /// The reads that give these blocks: each of neighbours, and of at most `bytes_max` unless it is of one block.
    #[must_use]
    pub fn reads(&self, bytes_max: u64) -> Vec<Read> {
        let mut reads: Vec<Read> = Vec::new();
        for block in &self.blocks {
            match reads.last_mut() {
                Some(read) if read.range.end == block.at && block.range().end - read.range.start <= bytes_max => {
                    read.range.end = block.range().end;
                    read.blocks.push(*block);
                }
                _ => reads.push(Read { range: block.range(), blocks: vec![*block] }),
            }
        }
        reads
    }
}

impl Run {
    /// Opens the run whose file ends with `tail` and has `file_bytes`. The last [`TAIL_BYTES`] of the file are enough for
    /// every run, and fewer may be. Fence blocks and the filter that are in the tail as well come to memory with it.
    ///
    /// # Errors
    /// When the file is not a whole, undamaged run of this format.
    pub fn open(tail: &Bytes, file_bytes: u64) -> Result<Opened, RunError> {
        let tail_at = file_bytes.checked_sub(tail.len() as u64).ok_or(RunError::NotARun)?;
        if file_bytes < (HEADER_BYTES + TRAILER_BYTES) as u64 {
            return Err(RunError::NotARun);
        }
        let more = Ok(Opened::More(file_bytes.saturating_sub(TAIL_BYTES)..file_bytes));
        let Some(trailer_at) = tail.len().checked_sub(TRAILER_BYTES) else { return more };
        let footer_bytes = footer_bytes(&tail[trailer_at..])?;
        if (HEADER_BYTES + footer_bytes + TRAILER_BYTES) as u64 > file_bytes {
            return Err(RunError::NotARun);
        }
        let Some(footer_from) = trailer_at.checked_sub(footer_bytes) else { return more };
        let (info, held) = take_footer(&tail[footer_from..], file_bytes)?;
        if tail_at == 0 {
            check_header(tail)?;
        }
        let footer_at = tail_at + footer_from as u64;
        let mut run = Self { info, held, footer_at, fences: BTreeMap::new(), filters: BTreeMap::new() };
        if let Some(held) = run.held.clone() {
            if held.top_at < tail_at {
                return more;
            }
            let begin = if held.fences_at < tail_at { held.top_at } else { held.fences_at };
            run.feed(begin, &part(tail, tail_at, &(begin..footer_at)))?;
            for filter in run.missing_filters().into_iter().filter(|filter| filter.start >= tail_at) {
                run.feed(filter.start, &part(tail, tail_at, &filter))?;
            }
        }
        Ok(Opened::Run(Box::new(run)))
    }

    /// What the run says of itself.
    #[must_use]
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// Bytes that fence blocks and filters take in memory.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let fences: usize = self.fences.values().map(Fences::frame_bytes).sum();
        fences + self.filters.values().map(Bytes::len).sum::<usize>()
    }

    /// All fence blocks, as one range, when some are not in memory. They take about a thousandth of the file.
    #[must_use]
    pub fn missing_fences(&self) -> Option<Range<u64>> {
        let held = self.held.as_ref()?;
        let in_memory: u64 = self.fences.values().map(|fences| fences.frame_bytes() as u64).sum();
        (in_memory < self.footer_at - held.fences_at).then_some(held.fences_at..self.footer_at)
    }

    /// Filters that are not in memory, of sections whose fence blocks are. They take about a thirtieth of the file.
    #[must_use]
    pub fn missing_filters(&self) -> Vec<Range<u64>> {
        let filters = self.fences.values().filter(|fences| fences.level == 0).map(Fences::filter);
        filters.filter(|filter| !self.filters.contains_key(&filter.start)).collect()
    }

    /// Takes fence blocks and filters to memory: the bytes of a range that the run asked for, from `at` on in the file.
    ///
    /// # Errors
    /// When they are damaged, or not whole. What is before the damage stays in memory.
    pub fn feed(&mut self, mut at: u64, bytes: &Bytes) -> Result<(), RunError> {
        let mut rest = bytes.clone();
        while !rest.is_empty() {
            let (kind, whole) = frame::peek(at, &rest)?;
            if rest.len() < whole {
                return Err(RunError::Damaged { at, what: "the end of a frame" });
            }
            let payload = frame::open(self.info.identity(), kind, at, &rest.split_to(whole))?;
            match kind {
                Kind::Fence => self.take_fences(at, whole as u64, &payload)?,
                Kind::Filter => drop(self.filters.insert(at, payload)),
                Kind::Block => return Err(RunError::Damaged { at, what: "a block among fence blocks" }),
            }
            at += whole as u64;
        }
        Ok(())
    }

    /// Whatever the fence block says lies before it, so that going down always ends.
    fn take_fences(&mut self, at: u64, bytes: u64, payload: &Bytes) -> Result<(), RunError> {
        let fences = Fences::decode(payload).map_err(|what| RunError::Damaged { at, what })?;
        let fences_at = self.held.as_ref().map_or(0, |held| held.fences_at);
        let children = fences.children();
        let within = match fences.level {
            0 => HEADER_BYTES as u64..fences_at,
            _ => fences_at..at,
        };
        let end = children.end.max(fences.filter().end);
        if at < fences_at || at + bytes > self.footer_at || children.start < within.start || end > within.end {
            return Err(RunError::Damaged { at, what: "the offset of a fence block or of its children" });
        }
        self.fences.insert(at, fences);
        Ok(())
    }

    /// Everything that the run holds.
    #[must_use]
    pub fn whole(&self) -> Interval {
        match &self.held {
            Some(held) => Interval { from: held.first.clone(), to: successor(&held.last) },
            None => Interval { from: Vec::new(), to: Vec::new() },
        }
    }

    /// The keys of a subject. In a B+tree run it also has keys of longer subjects that begin with this one, if there are any.
    #[must_use]
    pub fn interval_of(&self, subject: &[u8]) -> Interval {
        let from = subject.to_vec();
        // What is above all keys of the subject; where there is no such thing, what is above all keys of the run.
        let mut to = from.clone();
        while to.last() == Some(&0xff) {
            to.pop();
        }
        match to.last_mut() {
            Some(last) => *last += 1,
            None => to = self.whole().to,
        }
        Interval { from, to }
    }

    /// Where the entries of a subject are: filters are asked, so that for most absent subjects it is no block at all. A
    /// subject has one block, or several in a row.
    ///
    /// # Errors
    /// When a fence block does not fit the others.
    pub fn find(&self, subject: &[u8]) -> Result<Located, RunError> {
        self.walk(&self.interval_of(subject), Some(filter::hash(self.info.layout, subject)))
    }

    /// Where the entries whose keys are in the interval are.
    ///
    /// # Errors
    /// When a fence block does not fit the others.
    pub fn locate(&self, interval: &Interval) -> Result<Located, RunError> {
        self.walk(interval, None)
    }

    fn walk(&self, interval: &Interval, hash: Option<u64>) -> Result<Located, RunError> {
        let ends = [0; LEVELS_MAX as usize];
        let mut walk = Walk { run: self, interval, hash, found: Blocks::default(), missing: None, ends };
        if let Some(held) = &self.held
            && interval.from < interval.to
            && interval.from <= held.last
            && interval.to > held.first
        {
            let top = self.fences.get(&held.top_at);
            let top = top.ok_or(RunError::Damaged { at: held.top_at, what: "the offset of the top fence block" })?;
            walk.down(top)?;
        }
        Ok(match walk.missing {
            Some(range) => Located::Fences(range),
            None => Located::Blocks(walk.found),
        })
    }

    /// The block that is `at` there, of which these are the bytes.
    ///
    /// # Errors
    /// When they are damaged, or not those of the block.
    pub fn decode_block(&self, at: &BlockAt, bytes: &Bytes) -> Result<Block, RunError> {
        let payload = frame::open(self.info.identity(), Kind::Block, at.at, bytes)?;
        Block::decode(payload).map_err(|what| RunError::Damaged { at: at.at, what })
    }

    /// The blocks of a read, of which these are the bytes.
    ///
    /// # Errors
    /// When some are damaged, or not those of the blocks.
    pub fn decode_blocks(&self, read: &Read, bytes: &Bytes) -> Result<Vec<Block>, RunError> {
        let mut rest = bytes.clone();
        let mut block = |at: &BlockAt| {
            if rest.len() < at.bytes as usize {
                return Err(RunError::Damaged { at: at.at, what: "the length of a read" });
            }
            self.decode_block(at, &rest.split_to(at.bytes as usize))
        };
        read.blocks.iter().map(&mut block).collect()
    }
}

/// Goes down from a fence block to the blocks that may hold what is looked for.
struct Walk<'a> {
    run: &'a Run,
    interval: &'a Interval,
    /// Of the subject that filters are asked for.
    hash: Option<u64>,
    found: Blocks,
    /// Neighbouring fence blocks without which no block can be found.
    missing: Option<Range<u64>>,
    /// By the level of the parent, where the last child ended: what comes next lies behind it, so nothing is visited twice
    /// whatever a stranger's fence blocks say.
    ends: [u64; LEVELS_MAX as usize],
}

impl<'a> Walk<'a> {
    /// Recursion ends: a child has a lower level, and those are fewer than [`LEVELS_MAX`].
    fn down(&mut self, fences: &'a Fences) -> Result<(), RunError> {
        let filter = self.filter(fences)?;
        let mut cursor = fences.floor(&self.interval.from);
        while self.found.rest.is_none() && cursor.advance() && cursor.key() < self.interval.to.as_slice() {
            let child = fences.child(&cursor);
            let end = &mut self.ends[usize::from(fences.level)];
            if child.at < *end {
                return Err(RunError::Damaged { at: child.at, what: "the order of fence blocks" });
            }
            *end = child.range().end;
            if fences.level == 0 {
                self.block(cursor.key(), &child, filter);
                continue;
            }
            match self.run.fences.get(&child.at) {
                Some(below) if below.level + 1 != fences.level || child.bytes as usize != below.frame_bytes() => {
                    return Err(RunError::Damaged { at: child.at, what: "the level or length of a fence block" });
                }
                Some(below) if self.missing.is_none() => self.down(below)?,
                None if self.found.blocks.is_empty() && self.missed(&child) => continue,
                Some(_) => {}
                None => self.rest_from(cursor.key()),
            }
            if self.missing.is_some() {
                break;
            }
        }
        Ok(())
    }

    /// The filter of a section, when it is to be asked and in memory.
    fn filter(&mut self, fences: &Fences) -> Result<Option<&'a Bytes>, RunError> {
        if fences.level > 0 || self.hash.is_none() {
            return Ok(None);
        }
        let range = fences.filter();
        match self.run.filters.get(&range.start) {
            Some(filter) if (filter.len() + frame::HEAD_BYTES) as u64 != range.end - range.start => {
                Err(RunError::Damaged { at: range.start, what: "the length of a filter" })
            }
            Some(filter) => Ok(Some(filter)),
            None => {
                self.found.unasked.push(range);
                Ok(None)
            }
        }
    }

    fn block(&mut self, fence: &[u8], child: &Child, filter: Option<&Bytes>) {
        if let (Some(hash), Some(filter)) = (self.hash, filter)
            && !filter::may_hold(child.filter(filter), hash)
        {
            return;
        }
        if self.found.blocks.len() == LOCATED_BLOCKS_MAX {
            return self.rest_from(fence);
        }
        self.found.blocks.push(BlockAt { at: child.at, bytes: child.bytes });
    }

    /// Adds a child to those that are missing, when it is their neighbour and they are few enough to be fed at once.
    fn missed(&mut self, child: &Child) -> bool {
        let start = self.missing.as_ref().map_or(child.at, |missing| missing.start);
        let is_neighbour = self.missing.as_ref().is_none_or(|missing| missing.end == child.at);
        let fits = child.range().end - start <= MISSING_BYTES_MAX;
        if is_neighbour && fits {
            self.missing = Some(start..child.range().end);
        }
        is_neighbour && fits
    }

    fn rest_from(&mut self, fence: &[u8]) {
        let from = fence.max(&self.interval.from).to_vec();
        self.found.rest = Some(Interval { from, to: self.interval.to.clone() });
    }
}

/// The first key after this one.
fn successor(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}

fn part(bytes: &Bytes, at: u64, range: &Range<u64>) -> Bytes {
    bytes.slice((range.start - at) as usize..(range.end - at) as usize)
}
