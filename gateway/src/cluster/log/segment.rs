//! The bytes of a log segment.
//!
//! ```text
//! header  4,096 bytes:
//!         magic "HFWAL\0\0\0" | format u32 | header CRC32C u32 | cluster id [16] | generation u64 | node id u64
//!         | segment number u64 | sequence of its first frame u64 | chain before its first frame u64 | salt [16]
//! frame   magic u32 | body length u32 | sequence u64 | chain before it u64 | body CRC32C u32 | head CRC32C u32 | body
//!         | zeros up to a multiple of 8
//! record  kind u8 | length u32 | CRC32C of kind, length and payload u32 | payload
//! ```
//! Integers are little-endian. A **frame** is what one sync makes durable: the next frame is written only when the sync
//! of this one has returned. So a frame that is not whole is a torn end if, and only if, no whole frame of this segment
//! follows it. The head CRC starts from the salt, which is fresh for every use of a file: neither a recycled file's old
//! frames nor a client's bytes that imitate a frame can pass for one.
//!
//! The **chain** value of a frame is the first 8 bytes of SHA-256 over the previous chain value and the previous frame's
//! head (which contains the CRC of its body), so a frame or segment that is missing, repeated or of another log is found.

use std::ops::Range;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::cluster::error::Error;

/// Where frames begin. A whole page, so that writing frames never rewrites the header's page.
pub(crate) const HEADER_BYTES: usize = 4096;
const SEGMENT_MAGIC: [u8; 8] = *b"HFWAL\0\0\0";
const FORMAT: u32 = 1;
const HEADER_USED: usize = 88;
const FRAME_MAGIC: u32 = u32::from_le_bytes(*b"HFF1");
/// Bytes of a frame before its body.
pub(crate) const FRAME_HEAD_BYTES: usize = 32;
/// Bytes of a record before its payload.
pub(crate) const RECORD_HEAD_BYTES: usize = 9;
const ALIGN: usize = 8;

/// Which log a segment belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogOwner {
    /// Cluster.
    pub cluster: [u8; 16],
    /// Generation of the cluster.
    pub generation: u64,
    /// Node.
    pub node: u64,
}

/// A place in the chain of frames: what the next frame must carry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Link {
    pub sequence: u64,
    pub chain: u64,
}

/// A segment's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub owner: LogOwner,
    pub number: u64,
    pub first: Link,
    pub salt: [u8; 16],
}

impl Header {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; HEADER_BYTES];
        out[..8].copy_from_slice(&SEGMENT_MAGIC);
        out[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        out[16..32].copy_from_slice(&self.owner.cluster);
        let numbers = [self.owner.generation, self.owner.node, self.number, self.first.sequence, self.first.chain];
        for (number, at) in numbers.iter().zip((32..).step_by(8)) {
            out[at..at + 8].copy_from_slice(&number.to_le_bytes());
        }
        out[72..HEADER_USED].copy_from_slice(&self.salt);
        let crc = crc32c::crc32c(&out[16..HEADER_USED]);
        out[12..16].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads the header of the segment in `bytes`, which `path` names in errors.
    pub(crate) fn decode(bytes: &[u8], path: &Path) -> Result<Self, Error> {
        let damaged = |what: &str| Error::LogDamaged { path: path.to_owned(), offset: 0, what: what.to_owned() };
        if bytes.len() < HEADER_BYTES || bytes[..8] != SEGMENT_MAGIC {
            return Err(damaged("this is not a log segment"));
        }
        let format = u32_at(bytes, 8);
        if format != FORMAT {
            return Err(damaged(&format!("format {format} is not one that this release reads")));
        }
        if crc32c::crc32c(&bytes[16..HEADER_USED]) != u32_at(bytes, 12) {
            return Err(damaged("the header's checksum is wrong"));
        }
        Ok(Self {
            owner: LogOwner {
                cluster: bytes[16..32].try_into().expect("sixteen bytes"),
                generation: u64_at(bytes, 32),
                node: u64_at(bytes, 40),
            },
            number: u64_at(bytes, 48),
            first: Link { sequence: u64_at(bytes, 56), chain: u64_at(bytes, 64) },
            salt: bytes[72..HEADER_USED].try_into().expect("sixteen bytes"),
        })
    }
}

/// Builds a frame.
#[derive(Debug, Default)]
pub(crate) struct FrameBuilder {
    bytes: Vec<u8>,
}

impl FrameBuilder {
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.resize(FRAME_HEAD_BYTES, 0);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.len() <= FRAME_HEAD_BYTES
    }

    /// Adds a record; returns where it lies in the frame.
    pub(crate) fn record(&mut self, kind: u8, write: impl FnOnce(&mut Vec<u8>)) -> Range<usize> {
        let begin = self.bytes.len();
        self.bytes.push(kind);
        self.bytes.extend_from_slice(&[0; 8]);
        write(&mut self.bytes);
        let length = u32::try_from(self.bytes.len() - begin - RECORD_HEAD_BYTES).expect("commands are bounded");
        self.bytes[begin + 1..begin + 5].copy_from_slice(&length.to_le_bytes());
        let crc = record_crc(&self.bytes[begin..]);
        self.bytes[begin + 5..begin + 9].copy_from_slice(&crc.to_le_bytes());
        begin..self.bytes.len()
    }

    /// Completes the frame at `link`; returns its bytes and the link after it.
    pub(crate) fn seal(&mut self, link: Link, salt: &[u8; 16]) -> (&[u8], Link) {
        let length = u32::try_from(self.bytes.len() - FRAME_HEAD_BYTES).expect("frames are bounded");
        let body_crc = crc32c::crc32c(&self.bytes[FRAME_HEAD_BYTES..]);
        self.bytes[..4].copy_from_slice(&FRAME_MAGIC.to_le_bytes());
        self.bytes[4..8].copy_from_slice(&length.to_le_bytes());
        self.bytes[8..16].copy_from_slice(&link.sequence.to_le_bytes());
        self.bytes[16..24].copy_from_slice(&link.chain.to_le_bytes());
        self.bytes[24..28].copy_from_slice(&body_crc.to_le_bytes());
        let head_crc = crc32c::crc32c_append(crc32c::crc32c(salt), &self.bytes[..28]);
        self.bytes[28..32].copy_from_slice(&head_crc.to_le_bytes());
        let next = after(link, &self.bytes[..FRAME_HEAD_BYTES]);
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGN), 0);
        (&self.bytes, next)
    }
}

fn after(link: Link, head: &[u8]) -> Link {
    let hash = Sha256::new().chain_update(link.chain.to_le_bytes()).chain_update(head).finalize();
    Link { sequence: link.sequence + 1, chain: u64_at(&hash, 0) }
}

fn record_crc(record: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&record[..5]), &record[RECORD_HEAD_BYTES..])
}

/// The payload of a whole record, or `None` when it is damaged.
pub(crate) fn record_payload(record: &[u8]) -> Option<(u8, &[u8])> {
    let head = record.get(..RECORD_HEAD_BYTES)?;
    let whole = u32_at(head, 1) as usize == record.len() - RECORD_HEAD_BYTES;
    (whole && record_crc(record) == u32_at(head, 5)).then(|| (head[0], &record[RECORD_HEAD_BYTES..]))
}

/// A whole frame in a segment's bytes.
struct Frame {
    link: Link,
    body: Range<usize>,
    next: Link,
}

fn head_at<'a>(bytes: &'a [u8], at: usize, salt: &[u8; 16]) -> Option<&'a [u8]> {
    let head = bytes.get(at..at + FRAME_HEAD_BYTES)?;
    let whole =
        u32_at(head, 0) == FRAME_MAGIC && crc32c::crc32c_append(crc32c::crc32c(salt), &head[..28]) == u32_at(head, 28);
    whole.then_some(head)
}

fn frame_at(bytes: &[u8], at: usize, salt: &[u8; 16]) -> Option<Frame> {
    let head = head_at(bytes, at, salt)?;
    let begin = at + FRAME_HEAD_BYTES;
    let range = begin..begin + u32_at(head, 4) as usize;
    let body = bytes.get(range.clone())?;
    let link = Link { sequence: u64_at(head, 8), chain: u64_at(head, 16) };
    (crc32c::crc32c(body) == u32_at(head, 24)).then(|| Frame { link, body: range, next: after(link, head) })
}

/// How far a segment is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scanned {
    /// Where the next frame goes.
    pub end: usize,
    /// What the next frame must carry.
    pub next: Link,
    /// Whether a frame was begun there and never finished. It was not acknowledged and is dropped.
    pub torn: bool,
}

/// Reads the frames of a segment in order and hands each record to `visit` with its range in the file.
///
/// # Errors
/// When a whole frame of this segment follows one that is not whole, when the chain breaks, or when `visit` refuses.
pub(crate) fn scan(
    bytes: &[u8],
    header: &Header,
    path: &Path,
    mut visit: impl FnMut(u8, &[u8], Range<usize>) -> Result<(), String>,
) -> Result<Scanned, Error> {
    let damaged =
        |offset: usize, what: String| Error::LogDamaged { path: path.to_owned(), offset: offset as u64, what };
    let (mut at, mut next) = (HEADER_BYTES, header.first);
    while let Some(frame) = frame_at(bytes, at, &header.salt) {
        if frame.link != next {
            return Err(damaged(at, format!("frame {} stands where {} belongs", frame.link.sequence, next.sequence)));
        }
        let mut record_at = frame.body.start;
        while record_at < frame.body.end {
            let length = bytes.get(record_at + 1..record_at + 5).map_or(0, |bytes| u32_at(bytes, 0) as usize);
            let range = record_at..(record_at + RECORD_HEAD_BYTES + length).min(frame.body.end);
            let Some((kind, payload)) = record_payload(&bytes[range.clone()]) else {
                return Err(damaged(record_at, "a record's checksum is wrong inside a whole frame".into()));
            };
            visit(kind, payload, range.clone()).map_err(|what| damaged(range.start, what))?;
            record_at = range.end;
        }
        at = frame.body.end.next_multiple_of(ALIGN);
        next = frame.next;
    }
    if let Some(later) = whole_frame_after(bytes, at, &header.salt) {
        let what = format!("frame {} is not whole, yet a later one follows at byte {later}", next.sequence);
        return Err(damaged(at, what));
    }
    Ok(Scanned { end: at, next, torn: head_at(bytes, at, &header.salt).is_some() })
}

fn whole_frame_after(bytes: &[u8], at: usize, salt: &[u8; 16]) -> Option<usize> {
    let magic = FRAME_MAGIC.to_le_bytes();
    (at + ALIGN..bytes.len().saturating_sub(FRAME_HEAD_BYTES))
        .step_by(ALIGN)
        .find(|&later| bytes[later..later + 4] == magic && frame_at(bytes, later, salt).is_some())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
