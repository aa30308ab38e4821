//! Blocks: sorted entries whose keys leave out what they share with the one before.
//!
//! ```text
//! entry    shared number | rest number | value number | rest of the key | value
//! payload  entry ... | offsets of the entries that are restarts u32 ... | how many u32
//! ```
//! `shared`, `rest` and `value` are lengths. A *restart* shares nothing, so a search can begin at it; the first entry is
//! one, and every [`RESTART_EVERY`]th after it. A block is checked as a whole when it is decoded, so reading it cannot
//! fail.

use std::ops::Range;

use bytes::Bytes;

use super::{ENTRY_KEY_BYTES_MAX, ENTRY_VALUE_BYTES_MAX, Entry, put_number, take_number, u32_at};
use crate::index::Interval;

/// Entries from one restart to the next.
const RESTART_EVERY: usize = 16;

/// Collects the entries of a block.
#[derive(Debug, Default)]
pub(super) struct Builder {
    bytes: Vec<u8>,
    restarts: Vec<u32>,
    entries: usize,
    last: Vec<u8>,
}

impl Builder {
    /// Adds an entry, whose key is above the last one.
    pub(super) fn push(&mut self, key: &[u8], value: &[u8]) {
        let shared = if self.entries.is_multiple_of(RESTART_EVERY) {
            self.restarts.push(u32::try_from(self.bytes.len()).expect("a block is at most a few hundred kilobytes"));
            0
        } else {
            shared_bytes(&self.last, key)
        };
        put_number(shared as u64, &mut self.bytes);
        put_number((key.len() - shared) as u64, &mut self.bytes);
        put_number(value.len() as u64, &mut self.bytes);
        self.bytes.extend_from_slice(&key[shared..]);
        self.bytes.extend_from_slice(value);
        self.entries += 1;
        self.last.truncate(shared);
        self.last.extend_from_slice(&key[shared..]);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries == 0
    }

    pub(super) fn entries(&self) -> usize {
        self.entries
    }

    /// Bytes of the payload as it would be now.
    pub(super) fn payload_bytes(&self) -> usize {
        self.bytes.len() + 4 * (self.restarts.len() + 1)
    }

    /// Appends the payload, and is empty again.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.bytes);
        for restart in &self.restarts {
            out.extend_from_slice(&restart.to_le_bytes());
        }
        let count = u32::try_from(self.restarts.len()).expect("fewer restarts than bytes");
        out.extend_from_slice(&count.to_le_bytes());
        self.bytes.clear();
        self.restarts.clear();
        self.last.clear();
        self.entries = 0;
    }
}

/// Bytes at the start that both have.
pub(super) fn shared_bytes(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// A block as read. It keeps the bytes that it was decoded from.
#[derive(Clone, Debug)]
pub struct Block {
    payload: Bytes,
    entries_end: usize,
    restarts: usize,
    entries: usize,
}

/// Where the parts of an entry are in a payload.
struct Parts {
    shared: usize,
    rest: Range<usize>,
    value: Range<usize>,
}

impl Block {
    /// The block that a payload is.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn decode(payload: Bytes) -> Result<Self, &'static str> {
        let count_at = payload.len().checked_sub(4).ok_or("the length of a block")?;
        let restarts = u32_at(&payload, count_at).ok_or("the length of a block")? as usize;
        let entries_end = restarts.checked_mul(4).and_then(|bytes| count_at.checked_sub(bytes));
        let entries_end = entries_end.filter(|end| *end > 0).ok_or("the number of restarts in a block")?;
        let mut block = Self { payload, entries_end, restarts, entries: 0 };
        block.entries = block.check()?;
        Ok(block)
    }

    /// Reads every entry, so that nobody needs to doubt one later; gives their number.
    fn check(&self) -> Result<usize, &'static str> {
        let mut key: Vec<u8> = Vec::new();
        let (mut at, mut entries, mut restarts) = (0, 0, 0);
        while at < self.entries_end {
            let begin = at;
            let parts = self.parts(&mut at).ok_or("an entry")?;
            let rest = &self.payload[parts.rest];
            if parts.shared > key.len() || parts.shared + rest.len() > ENTRY_KEY_BYTES_MAX {
                return Err("the length of a key");
            }
            if entries > 0 && *rest <= key[parts.shared..] {
                return Err("the order of keys");
            }
            if restarts < self.restarts && self.restart(restarts) == begin {
                if parts.shared != 0 {
                    return Err("a restart that shares");
                }
                restarts += 1;
            }
            key.truncate(parts.shared);
            key.extend_from_slice(rest);
            entries += 1;
        }
        if restarts != self.restarts || self.restarts == 0 || self.restart(0) != 0 {
            return Err("a restart that is no entry");
        }
        Ok(entries)
    }

    fn restart(&self, number: usize) -> usize {
        u32_at(&self.payload, self.entries_end + 4 * number).expect("decode counted the restarts") as usize
    }

    /// The entry at `*at`, which moves to the next.
    fn parts(&self, at: &mut usize) -> Option<Parts> {
        let entries = &self.payload[..self.entries_end];
        let mut length = |most: usize| -> Option<usize> {
            let length = usize::try_from(take_number(entries, at)?).ok()?;
            (length <= most).then_some(length)
        };
        let shared = length(ENTRY_KEY_BYTES_MAX)?;
        let rest = length(ENTRY_KEY_BYTES_MAX)?;
        let value = length(ENTRY_VALUE_BYTES_MAX)?;
        let rest = *at..*at + rest;
        let value = rest.end..rest.end + value;
        *at = value.end;
        (value.end <= self.entries_end).then_some(Parts { shared, rest, value })
    }

    /// Number of entries, at least one.
    #[must_use]
    #[allow(clippy::len_without_is_empty)] // A block is never empty.
    pub fn len(&self) -> usize {
        self.entries
    }

    /// All entries, in order.
    #[must_use]
    pub fn entries(&self) -> Entries<'_> {
        Entries { cursor: self.cursor(0), to: None }
    }

    /// The entries whose keys are in the interval, in order.
    #[must_use]
    pub fn range(&self, interval: &Interval) -> Entries<'_> {
        Entries { cursor: self.seek(|key| key < interval.from.as_slice(), 0), to: Some(interval.to.clone()) }
    }

    /// A cursor before the last entry whose key is not above `key`, or before the first one.
    pub(super) fn floor(&self, key: &[u8]) -> Cursor<'_> {
        self.seek(|other| other <= key, 1)
    }

    /// A cursor before the first entry that is not `below`, or `back` entries before that.
    fn seek(&self, below: impl Fn(&[u8]) -> bool, back: usize) -> Cursor<'_> {
        let (mut low, mut high) = (0, self.restarts);
        while low < high {
            let middle = low + (high - low) / 2;
            let mut cursor = self.cursor(self.restart(middle));
            cursor.advance();
            if below(cursor.key()) { low = middle + 1 } else { high = middle }
        }
        let start = self.restart(low.saturating_sub(1));
        let mut cursor = self.cursor(start);
        let mut passed = 0usize;
        while cursor.advance() && below(cursor.key()) {
            passed += 1;
        }
        let mut cursor = self.cursor(start);
        for _ in back..passed {
            cursor.advance();
        }
        cursor
    }

    /// A cursor before the entry at `at`, which is a restart.
    fn cursor(&self, at: usize) -> Cursor<'_> {
        Cursor { block: self, at, key: Vec::new(), value: 0..0 }
    }
}

/// Goes through a block without copying its values.
#[derive(Clone, Debug)]
pub(super) struct Cursor<'a> {
    block: &'a Block,
    at: usize,
    key: Vec<u8>,
    value: Range<usize>,
}

impl Cursor<'_> {
    /// Goes to the next entry; false when there is none.
    pub(super) fn advance(&mut self) -> bool {
        if self.at >= self.block.entries_end {
            return false;
        }
        let parts = self.block.parts(&mut self.at).expect("decode read every entry");
        self.key.truncate(parts.shared);
        self.key.extend_from_slice(&self.block.payload[parts.rest]);
        self.value = parts.value;
        true
    }

    pub(super) fn key(&self) -> &[u8] {
        &self.key
    }

    pub(super) fn value(&self) -> &[u8] {
        &self.block.payload[self.value.clone()]
    }
}

/// Entries of a block, in order. Values are not copied: they keep the block's bytes.
#[derive(Clone, Debug)]
pub struct Entries<'a> {
    cursor: Cursor<'a>,
    to: Option<Vec<u8>>,
}

impl Iterator for Entries<'_> {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        if !self.cursor.advance() || self.to.as_ref().is_some_and(|to| self.cursor.key >= *to) {
            return None;
        }
        let value = self.cursor.block.payload.slice(self.cursor.value.clone());
        Some(Entry { key: self.cursor.key.clone(), value })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn build(entries: &[(Vec<u8>, Vec<u8>)]) -> Bytes {
        let mut builder = Builder::default();
        entries.iter().for_each(|(key, value)| builder.push(key, value));
        let mut payload = Vec::new();
        let expected = builder.payload_bytes();
        builder.finish(&mut payload);
        assert_eq!(payload.len(), expected);
        payload.into()
    }

    fn numbered(count: u32) -> Vec<(Vec<u8>, Vec<u8>)> {
        (0..count).map(|n| (format!("key/{:05}", n * 2).into_bytes(), n.to_le_bytes().to_vec())).collect()
    }

    #[test]
    fn a_floor_is_the_last_key_that_is_not_above() {
        let block = Block::decode(build(&numbered(100))).unwrap();
        let check = |key: &str, expected: &str| {
            let mut cursor = block.floor(key.as_bytes());
            assert!(cursor.advance(), "{key}");
            assert_eq!(cursor.key(), expected.as_bytes(), "{key}");
        };
        check("", "key/00000");
        check("key/00000", "key/00000");
        check("key/00001", "key/00000");
        check("key/00031", "key/00030");
        check("key/00032", "key/00032");
        check("key/00033", "key/00032");
        check("key/00198", "key/00198");
        check("zzz", "key/00198");
    }

    #[test]
    fn a_range_ends_before_its_end() {
        let block = Block::decode(build(&numbered(40))).unwrap();
        let check = |from: &str, to: &str, expected: usize| {
            let interval = Interval { from: from.into(), to: to.into() };
            assert_eq!(block.range(&interval).count(), expected, "{from} to {to}");
        };
        check("", "z", 40);
        check("key/00000", "key/00002", 1);
        check("key/00001", "key/00032", 15);
        check("key/00079", "z", 0);
        check("", "key/00000", 0);
        check("z", "a", 0);
        assert_eq!(block.len(), block.entries().count());
    }

    proptest! {
        /// No bytes make a panic, and what is accepted has its order.
        #[test]
        fn any_bytes_are_a_block_or_an_error(
            count in 0u32..60,
            spoiled in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            cut in any::<prop::sample::Index>(),
            whole in any::<bool>(),
        ) {
            let mut bytes = build(&numbered(count)).to_vec();
            for (at, byte) in spoiled {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if !whole {
                bytes.truncate(cut.index(bytes.len()));
            }
            if let Ok(block) = Block::decode(bytes.into()) {
                let keys: Vec<Vec<u8>> = block.entries().map(|entry| entry.key).collect();
                prop_assert_eq!(keys.len(), block.len());
                prop_assert!(keys.windows(2).all(|pair| pair[0] < pair[1]));
                for key in &keys {
                    let mut after = key.clone();
                    after.push(0);
                    prop_assert_eq!(block.range(&Interval { from: key.clone(), to: after }).count(), 1);
                }
            }
        }
    }
}
