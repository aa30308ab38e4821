//! Writes a run.

use super::block::{self, shared_bytes};
use super::fence::{self, Finished};
use super::footer::{Footer, Held, put_footer, put_header};
use super::frame::{self, Identity, Kind};
use super::{BLOCK_BYTES, ENTRY_KEY_BYTES_MAX, ENTRY_VALUE_BYTES_MAX, Layout, RUN_BYTES_MAX, filter};
use crate::id::Revision;

/// What a run is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What its keys are ordered by.
    pub layout: Layout,
    /// Id of the index.
    pub index: Revision,
    /// Revision of the run.
    pub revision: Revision,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Entries.
    pub entries: u64,
    /// Distinct subjects.
    pub subjects: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// CRC-64/NVME of the file.
    pub crc64: u64,
    /// Where fence blocks begin, or without an entry the footer: what a reader keeps in memory lies from there on.
    pub fences_at: u64,
    /// First and last key; `None` of an empty run.
    pub keys: Option<(Vec<u8>, Vec<u8>)>,
}

/// An entry that a run cannot take. The writer is as it was before.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// The key is not above the last one.
    #[error("keys of a run must ascend")]
    OutOfOrder,
    /// The key has more than [`ENTRY_KEY_BYTES_MAX`] bytes.
    #[error("a key of {0} bytes is longer than a run can hold")]
    KeyTooLong(usize),
    /// The key has no subject.
    #[error("a key of {0} bytes is shorter than its hash or suffix")]
    KeyTooShort(usize),
    /// The value has more than [`ENTRY_VALUE_BYTES_MAX`] bytes.
    #[error("a value of {0} bytes is longer than a run can hold")]
    ValueTooLong(usize),
    /// The run has [`RUN_BYTES_MAX`] bytes.
    #[error("the run is as long as one may be")]
    RunTooLong,
}

/// Writes a run from entries in ascending order. Finished pieces are appended to the caller's buffer, which it may empty at
/// any time; it grows by one block at a time, and with a section by its filter.
pub struct Writer {
    header: Header,
    out: Counted,
    block: block::Builder,
    /// Fence of the block.
    fence: Vec<u8>,
    /// Hashes of the subjects of the block, each once.
    hashes: Vec<u64>,
    section: fence::Builder,
    filter: Vec<u8>,
    fences: Vec<Finished>,
    first: Option<Vec<u8>>,
    last: Vec<u8>,
    entries: u64,
    subjects: u64,
    blocks: u64,
}

/// How much was written, and its checksum.
struct Counted {
    at: u64,
    crc: crc_fast::Digest,
}

impl Counted {
    /// Counts what was appended to `out` from `begin` on.
    fn add(&mut self, out: &[u8], begin: usize) {
        self.at += (out.len() - begin) as u64;
        self.crc.update(&out[begin..]);
    }

    fn frame(&mut self, whose: Identity, kind: Kind, payload: &[u8], out: &mut Vec<u8>) -> std::ops::Range<u64> {
        let (begin, at) = (out.len(), self.at);
        frame::seal(whose, kind, at, payload, out);
        self.add(out, begin);
        at..self.at
    }
}

impl Writer {
    /// Begins a run: appends its header to `out`.
    pub fn start(header: Header, out: &mut Vec<u8>) -> Self {
        let begin = out.len();
        put_header(out);
        let mut counted = Counted { at: 0, crc: crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme) };
        counted.add(out, begin);
        Self {
            header,
            section: fence::Builder::new(0, counted.at),
            out: counted,
            block: block::Builder::default(),
            fence: Vec::new(),
            hashes: Vec::new(),
            filter: Vec::new(),
            fences: Vec::new(),
            first: None,
            last: Vec::new(),
            entries: 0,
            subjects: 0,
            blocks: 0,
        }
    }

    /// Adds an entry, whose key must be above the last one.
    ///
    /// # Errors
    /// [`PushError`] when it cannot be taken.
    pub fn push(&mut self, key: &[u8], value: &[u8], out: &mut Vec<u8>) -> Result<(), PushError> {
        if key.len() > ENTRY_KEY_BYTES_MAX {
            return Err(PushError::KeyTooLong(key.len()));
        }
        if value.len() > ENTRY_VALUE_BYTES_MAX {
            return Err(PushError::ValueTooLong(value.len()));
        }
        let subject = self.header.layout.subject(key).ok_or(PushError::KeyTooShort(key.len()))?;
        if self.first.is_some() && key <= self.last.as_slice() {
            return Err(PushError::OutOfOrder);
        }
        if self.out.at >= RUN_BYTES_MAX {
            return Err(PushError::RunTooLong);
        }
        let is_new = self.first.is_none() || self.header.layout.subject(&self.last) != Some(subject);
        if self.block.is_empty() && self.first.is_some() {
            // The shortest start of the key that is above the last one.
            self.fence = key[..=shared_bytes(&self.last, key)].to_vec();
        }
        if is_new || self.block.is_empty() {
            self.hashes.push(filter::hash(self.header.layout, subject));
        }
        self.first.get_or_insert_with(|| key.to_vec());
        self.block.push(key, value);
        self.last.clear();
        self.last.extend_from_slice(key);
        self.entries += 1;
        self.subjects += u64::from(is_new);
        if self.block.payload_bytes() >= BLOCK_BYTES {
            self.end_block(out);
        }
        Ok(())
    }

    /// Ends the run: appends what is left of it, at most a block, a filter, the fence blocks and the footer.
    pub fn finish(mut self, out: &mut Vec<u8>) -> Summary {
        self.end_block(out);
        self.end_section(out);
        let fences_at = self.out.at;
        let top_at = self.put_fences(out);
        let (layout, first) = (self.header.layout, self.first);
        let keys = first.map(|first| (first, self.last));
        let footer = Footer {
            kind: layout.kind(),
            index: self.header.index,
            revision: self.header.revision,
            suffix_bytes: match layout {
                Layout::BTree { suffix_bytes } => Some(suffix_bytes),
                Layout::Hash => None,
            },
            entries: self.entries,
            subjects: self.subjects,
            blocks: self.blocks,
            held: keys.clone().map(|(first, last)| Held { first, last, fences_at, top_at }),
        };
        let begin = out.len();
        put_footer(&footer, out);
        self.out.add(out, begin);
        let crc64 = self.out.crc.finalize();
        Summary { entries: self.entries, subjects: self.subjects, bytes: self.out.at, crc64, fences_at, keys }
    }

    fn identity(&self) -> Identity {
        Identity { index: self.header.index, revision: self.header.revision }
    }

    fn end_block(&mut self, out: &mut Vec<u8>) {
        if self.block.is_empty() {
            return;
        }
        let mut payload = Vec::with_capacity(self.block.payload_bytes());
        self.block.finish(&mut payload);
        let range = self.out.frame(self.identity(), Kind::Block, &payload, out);
        let lines = filter::build(&self.hashes, &mut self.filter);
        self.hashes.clear();
        self.section.push(&self.fence, &range, lines);
        self.blocks += 1;
        if self.section.is_full() {
            self.end_section(out);
        }
    }

    fn end_section(&mut self, out: &mut Vec<u8>) {
        if self.section.is_empty() {
            return;
        }
        let range = self.out.frame(self.identity(), Kind::Filter, &self.filter, out);
        self.filter.clear();
        let section = std::mem::replace(&mut self.section, fence::Builder::new(0, range.end));
        self.fences.push(section.finish(range.start));
    }

    /// Writes the fence blocks, level by level, and the one that is left alone last: gives where that is.
    fn put_fences(&mut self, out: &mut Vec<u8>) -> u64 {
        let mut fences = std::mem::take(&mut self.fences);
        for level in 1..fence::LEVELS_MAX {
            if fences.len() <= 1 {
                break;
            }
            fences = self.put_level(fences, level, out);
        }
        let top_at = self.out.at;
        for top in fences {
            self.out.frame(self.identity(), Kind::Fence, &top.payload, out);
        }
        top_at
    }

    /// Writes the fence blocks of a level: gives those of the level above it.
    fn put_level(&mut self, fences: Vec<Finished>, above: u8, out: &mut Vec<u8>) -> Vec<Finished> {
        let mut finished = Vec::new();
        let mut builder = fence::Builder::new(above, self.out.at);
        for below in fences {
            let range = self.out.frame(self.identity(), Kind::Fence, &below.payload, out);
            builder.push(&below.fence, &range, 0);
            if builder.is_full() {
                finished.push(std::mem::replace(&mut builder, fence::Builder::new(above, range.end)).finish(0));
            }
        }
        if !builder.is_empty() {
            finished.push(builder.finish(0));
        }
        finished
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_entry_changes_nothing() {
        let header = |layout| Header { layout, index: 1, revision: 2 };
        let file = |layout, entries: &[(&[u8], &[u8], Option<PushError>)]| {
            let mut out = Vec::new();
            let mut writer = Writer::start(header(layout), &mut out);
            for (key, value, error) in entries {
                assert_eq!(writer.push(key, value, &mut out).err(), *error);
            }
            writer.finish(&mut out);
            out
        };
        let long = vec![b'7'; ENTRY_VALUE_BYTES_MAX + 1];
        let key = &long[..=ENTRY_KEY_BYTES_MAX];
        for layout in [Layout::BTree { suffix_bytes: 4 }, Layout::Hash] {
            let refused = file(
                layout,
                &[
                    (b"1", b"", Some(PushError::KeyTooShort(1))),
                    (b"12345678", b"a", None),
                    (b"12345678", b"b", Some(PushError::OutOfOrder)),
                    (b"12345677x", b"b", Some(PushError::OutOfOrder)),
                    (b"123456789", &long, Some(PushError::ValueTooLong(long.len()))),
                    (key, b"b", Some(PushError::KeyTooLong(key.len()))),
                    (&key[1..], &long[1..], None),
                ],
            );
            assert_eq!(refused, file(layout, &[(b"12345678", b"a", None), (&key[1..], &long[1..], None)]));
        }
    }

    #[test]
    fn a_run_has_an_end() {
        let mut out = Vec::new();
        let header = Header { layout: Layout::Hash, index: 1, revision: 2 };
        let mut writer = Writer::start(header, &mut out);
        writer.out.at = RUN_BYTES_MAX - 1;
        assert_eq!(writer.push(b"12345678", b"", &mut out), Ok(()));
        writer.out.at = RUN_BYTES_MAX;
        assert_eq!(writer.push(b"12345679", b"", &mut out), Err(PushError::RunTooLong));
    }
}
