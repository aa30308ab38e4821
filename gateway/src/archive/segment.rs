//! The bytes of an archived segment of the log.
//!
//! ```text
//! header  magic "HFSEG\0\0\0" | format u32 | CRC32C of the forty bytes after it u32
//!         | cluster id [16] | generation u64 | first index u64 | first revision u64
//! record  length u32 | CRC32C of length and entry u32 | entry: log id, kind, bytes, as the log stores it
//! footer  0 u32 | CRC32C of that zero and what follows u32 | last index u64 | number of records u64
//!         | SHA-256 of everything before the footer [32]
//! ```
//! Integers are little-endian. Entries are consecutive. Nothing follows the footer; a segment without one is torn, and what
//! of it is whole can still be read.

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::cluster::StoredEntry;

const MAGIC: [u8; 8] = *b"HFSEG\0\0\0";
const FORMAT: u32 = 1;
const HEADER_BYTES: usize = 56;
const HEAD_BYTES: usize = 8;
const FOOTER_BYTES: usize = 48;

/// Whose segment it is and where it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The cluster.
    pub cluster: [u8; 16],
    /// Its generation.
    pub generation: u64,
    /// Index of the first entry.
    pub first_index: u64,
    /// Its revision.
    pub first_revision: u64,
}

/// The bytes of a segment; `entries` are consecutive from the header's first.
#[must_use]
pub fn encode(header: &Header, entries: &[StoredEntry]) -> Vec<u8> {
    let bytes: usize = entries.iter().map(|entry| HEAD_BYTES + entry.bytes.len()).sum();
    let mut out = Vec::with_capacity(HEADER_BYTES + bytes + HEAD_BYTES + FOOTER_BYTES);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&FORMAT.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&header.cluster);
    for number in [header.generation, header.first_index, header.first_revision] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    let crc = crc32c::crc32c(&out[16..]);
    out[12..16].copy_from_slice(&crc.to_le_bytes());
    for entry in entries {
        record(u32::try_from(entry.bytes.len()).expect("entries fit a log segment"), &entry.bytes, &mut out);
    }
    let mut footer = Vec::with_capacity(FOOTER_BYTES);
    footer.extend_from_slice(&entries.last().map_or(0, |entry| entry.index).to_le_bytes());
    footer.extend_from_slice(&(entries.len() as u64).to_le_bytes());
    footer.extend_from_slice(&Sha256::digest(&out));
    record(0, &footer, &mut out);
    out
}

fn record(length: u32, bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&checksum(length, bytes).to_le_bytes());
    out.extend_from_slice(bytes);
}

fn checksum(length: u32, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&length.to_le_bytes()), bytes)
}

/// What was read of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its header.
    pub header: Header,
    /// Its entries, up to the damage if there is any.
    pub entries: Vec<StoredEntry>,
    /// What is wrong after the last of them.
    pub damage: Option<String>,
}

/// Reads a segment, as far as it is whole.
///
/// # Errors
/// What is wrong, when not even the header can be read.
pub fn decode(bytes: &Bytes) -> Result<Segment, String> {
    let head = bytes.get(..HEADER_BYTES).ok_or("it is shorter than a header")?;
    if head[..8] != MAGIC {
        return Err("it is not a log segment".into());
    }
    if u32_at(head, 8) != FORMAT {
        return Err(format!("format {} is not one that this release reads", u32_at(head, 8)));
    }
    if crc32c::crc32c(&head[16..]) != u32_at(head, 12) {
        return Err("the header's checksum is wrong".into());
    }
    let header = Header {
        cluster: head[16..32].try_into().expect("sixteen bytes"),
        generation: u64_at(head, 32),
        first_index: u64_at(head, 40),
        first_revision: u64_at(head, 48),
    };
    let mut segment = Segment { header, entries: Vec::new(), damage: None };
    segment.damage = read_records(bytes, &mut segment).err();
    Ok(segment)
}

fn read_records(bytes: &Bytes, segment: &mut Segment) -> Result<(), String> {
    let mut at = HEADER_BYTES;
    loop {
        let head = bytes.get(at..at + HEAD_BYTES).ok_or_else(|| format!("it ends at byte {at} without a footer"))?;
        let length = u32_at(head, 0);
        let size = if length == 0 { FOOTER_BYTES } else { length as usize };
        let begin = at + HEAD_BYTES;
        let payload = bytes.get(begin..begin + size).ok_or_else(|| format!("it is torn at byte {at}"))?;
        if checksum(length, payload) != u32_at(head, 4) {
            return Err(format!("the checksum of the record at byte {at} is wrong"));
        }
        if length == 0 {
            return check_footer(bytes, at, payload, segment);
        }
        let entry = StoredEntry::parse(bytes.slice(begin..begin + size))
            .map_err(|error| format!("the record at byte {at}: {error}"))?;
        let expected = segment.header.first_index + segment.entries.len() as u64;
        if entry.index != expected {
            return Err(format!("entry {} stands where {expected} belongs", entry.index));
        }
        segment.entries.push(entry);
        at = begin + size;
    }
}

fn check_footer(bytes: &Bytes, at: usize, footer: &[u8], segment: &Segment) -> Result<(), String> {
    let last = segment.entries.last().map_or(0, |entry| entry.index);
    if (u64_at(footer, 0), u64_at(footer, 8)) != (last, segment.entries.len() as u64) {
        return Err("the footer names another end".into());
    }
    if footer[16..] != Sha256::digest(&bytes[..at])[..] {
        return Err("the hash of the whole is wrong".into());
    }
    if bytes.len() != at + HEAD_BYTES + FOOTER_BYTES {
        return Err("bytes follow the footer".into());
    }
    Ok(())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: Header = Header { cluster: [7; 16], generation: 2, first_index: 5, first_revision: 105 };

    fn entries(count: u64) -> Vec<StoredEntry> {
        let entry = |index: u64| {
            let mut bytes = Vec::new();
            for number in [3u64, 1, index] {
                bytes.extend_from_slice(&number.to_le_bytes());
            }
            bytes.push(1);
            bytes.extend(vec![index as u8; index as usize * 3]);
            StoredEntry::parse(bytes.into()).unwrap()
        };
        (5..5 + count).map(entry).collect()
    }

    #[test]
    fn a_segment_reads_as_it_was_written() {
        for count in [0, 1, 40] {
            let bytes = Bytes::from(encode(&HEADER, &entries(count)));
            let segment = decode(&bytes).unwrap();
            assert_eq!(segment, Segment { header: HEADER, entries: entries(count), damage: None });
        }
    }

    #[test]
    fn every_flipped_byte_of_a_segment_is_found() {
        let bytes = encode(&HEADER, &entries(4));
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 0x20;
            let read = decode(&bad.into());
            assert!(read.is_err() || read.is_ok_and(|segment| segment.damage.is_some()), "byte {at}");
        }
    }

    #[test]
    fn a_torn_segment_gives_what_is_whole_and_says_so() {
        let bytes = Bytes::from(encode(&HEADER, &entries(4)));
        let mut most = 0;
        for end in HEADER_BYTES..bytes.len() {
            let segment = decode(&bytes.slice(..end)).unwrap();
            assert!(segment.damage.is_some(), "end {end}");
            assert_eq!(segment.entries, entries(segment.entries.len() as u64), "only whole entries, in order");
            most = most.max(segment.entries.len());
        }
        assert_eq!(most, 4);
    }
}
