//! A reader that knows `docs/formats.md` and nothing else: it goes through a file from its beginning, and shares no code
//! with what it checks.

use std::collections::BTreeMap;

use minicbor::Decoder;

/// A frame of a file.
pub struct Frame<'a> {
    pub at: usize,
    pub kind: u8,
    pub payload: &'a [u8],
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

/// Where the footer is: before the trailer, which says how long it is.
fn footer_range(file: &[u8]) -> std::ops::Range<usize> {
    let trailer = file.len() - 20;
    trailer.saturating_sub(u32_at(file, trailer))..trailer
}

pub fn footer(file: &[u8]) -> &[u8] {
    &file[footer_range(file)]
}

/// Index id and revision, from the footer.
fn identity(file: &[u8]) -> Option<(u64, u64)> {
    let mut footer = Decoder::new(footer(file));
    let (mut index, mut revision) = (None, None);
    for _ in 0..footer.map().ok()?? {
        match footer.u64().ok()? {
            1 => index = footer.u64().ok(),
            2 => revision = footer.u64().ok(),
            _ => footer.skip().ok()?,
        }
    }
    Some((index?, revision?))
}

/// All frames: from behind the header up to the footer, one after the other.
pub fn frames(file: &[u8]) -> Vec<Frame<'_>> {
    let end = footer_range(file).start;
    let mut frames = Vec::new();
    let mut at = 16;
    while at + 10 <= end {
        let length = u32_at(file, at + 2);
        let Some(payload) = file[..end].get(at + 10..at + 10 + length) else { break };
        frames.push(Frame { at, kind: file[at], payload });
        at += 10 + length;
    }
    frames
}

fn frame_crc((index, revision): (u64, u64), at: usize, head: &[u8], payload: &[u8]) -> u32 {
    let numbers = [index, revision, at as u64].map(u64::to_le_bytes).concat();
    crc32c::crc32c(&[&numbers, head, payload].concat())
}

/// Puts right checksums on spoiled bytes, as far as they still have frames.
pub fn seal_again(file: &mut [u8]) {
    if let Some(identity) = identity(file) {
        let seals: Vec<(usize, u32)> = frames(file)
            .iter()
            .map(|frame| (frame.at + 6, frame_crc(identity, frame.at, &file[frame.at..frame.at + 6], frame.payload)))
            .collect();
        for (at, crc) in seals {
            file[at..at + 4].copy_from_slice(&crc.to_le_bytes());
        }
    }
    let range = footer_range(file);
    let (length_at, format_at) = (range.end, range.end + 8);
    let covered = [&file[range.start..length_at + 4], &file[format_at..format_at + 4]].concat();
    file[length_at + 4..length_at + 8].copy_from_slice(&crc32c::crc32c(&covered).to_le_bytes());
}

fn number(bytes: &[u8], at: &mut usize) -> usize {
    let (mut number, mut shift) = (0, 0);
    loop {
        let byte = usize::from(bytes[*at]);
        *at += 1;
        number |= (byte & 127) << shift;
        shift += 7;
        if byte < 128 {
            return number;
        }
    }
}

/// The entries of a block, or of a fence block behind its head.
fn block_entries(block: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let restarts = u32_at(block, block.len() - 4);
    let end = block.len() - 4 - 4 * restarts;
    let (mut at, mut key, mut found) = (0, Vec::new(), Vec::new());
    while at < end {
        let (shared, rest, value) = (number(block, &mut at), number(block, &mut at), number(block, &mut at));
        key.truncate(shared);
        key.extend_from_slice(&block[at..at + rest]);
        found.push((key.clone(), block[at + rest..at + rest + value].to_vec()));
        at += rest + value;
    }
    found
}

/// All entries of a run, from its blocks alone.
pub fn entries(file: &[u8]) -> BTreeMap<Vec<u8>, Vec<u8>> {
    assert_eq!(&file[..8], b"HFRUN\0\0\0");
    assert_eq!(&file[file.len() - 8..], b"HFRUN\0\0\0");
    let identity = identity(file).unwrap();
    let mut found = BTreeMap::new();
    for frame in frames(file) {
        let crc = frame_crc(identity, frame.at, &file[frame.at..frame.at + 6], frame.payload);
        assert_eq!(u32_at(file, frame.at + 6), crc as usize);
        if frame.kind == 1 {
            found.extend(block_entries(frame.payload));
        }
    }
    found
}

/// Goes down from the fence block that is last: each child is where it should be, holds keys of its bounds, and has a
/// filter that lets its subjects through. Gives the number of blocks. `subject` is of a key.
pub fn check_fences(file: &[u8], is_hash: bool, subject: &dyn Fn(&Vec<u8>) -> Vec<u8>) -> usize {
    let frames: BTreeMap<usize, Frame<'_>> = frames(file).into_iter().map(|frame| (frame.at, frame)).collect();
    let Some((_, top)) = frames.last_key_value() else { return 0 };
    let mut blocks = 0;
    // Each with the bounds of its keys.
    let mut below = vec![(top, Vec::new(), None::<Vec<u8>>)];
    while let Some((fences, low, high)) = below.pop() {
        assert_eq!(fences.kind, 2);
        let (level, first) = (fences.payload[0], u32_at(fences.payload, 1));
        let children = block_entries(&fences.payload[21..]);
        assert_eq!(children[0].0, low);
        let mut end = first;
        for (number_of, (fence, value)) in children.iter().enumerate() {
            let mut at = 0;
            let [offset, bytes, line, lines] = [(); 4].map(|()| number(value, &mut at));
            assert_eq!(first + offset, end, "no gap");
            let child = &frames[&end];
            end += bytes;
            assert_eq!(child.payload.len() + 10, bytes);
            let next = children.get(number_of + 1).map(|child| child.0.clone()).or_else(|| high.clone());
            if level > 0 {
                below.push((child, fence.clone(), next));
                continue;
            }
            blocks += 1;
            assert_eq!(child.kind, 1);
            let filter = &frames[&u32_at(fences.payload, 9)];
            assert_eq!((filter.kind, filter.payload.len()), (3, 64 * u32_at(fences.payload, 17)));
            let filter = &filter.payload[64 * line..64 * (line + lines)];
            for (key, _) in block_entries(child.payload) {
                assert!(*fence <= key && next.as_ref().is_none_or(|next| key < *next));
                assert!(lets_through(filter, is_hash, &subject(&key)), "{key:?}");
            }
        }
    }
    blocks
}

fn lets_through(filter: &[u8], is_hash: bool, subject: &[u8]) -> bool {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let n = match is_hash {
        true => u64::from_be_bytes(subject.try_into().unwrap()),
        false => crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, subject),
    };
    let mut h = (n ^ (n >> 32)).wrapping_mul(FACTOR);
    h ^= h >> 29;
    let line = ((h >> 32) * (filter.len() as u64 / 64)) >> 32;
    let g = (h ^ (h >> 32)).wrapping_mul(FACTOR);
    (0..7).all(|i| {
        let bit = ((g >> (1 + 9 * i)) & 511) as usize;
        filter[64 * line as usize + bit / 8] >> (bit % 8) & 1 == 1
    })
}
