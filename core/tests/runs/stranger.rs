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

/// All entries of a run, from its blocks alone.
pub fn entries(file: &[u8]) -> BTreeMap<Vec<u8>, Vec<u8>> {
    assert_eq!(&file[..8], b"HFRUN\0\0\0");
    assert_eq!(&file[file.len() - 8..], b"HFRUN\0\0\0");
    let identity = identity(file).unwrap();
    let mut found = BTreeMap::new();
    for frame in frames(file) {
        let crc = frame_crc(identity, frame.at, &file[frame.at..frame.at + 6], frame.payload);
        assert_eq!(u32_at(file, frame.at + 6), crc as usize);
        if frame.kind != 1 {
            continue;
        }
        let block = frame.payload;
        let restarts = u32_at(block, block.len() - 4);
        let end = block.len() - 4 - 4 * restarts;
        let (mut at, mut key) = (0, Vec::new());
        while at < end {
            let (shared, rest, value) = (number(block, &mut at), number(block, &mut at), number(block, &mut at));
            key.truncate(shared);
            key.extend_from_slice(&block[at..at + rest]);
            found.insert(key.clone(), block[at + rest..at + rest + value].to_vec());
            at += rest + value;
        }
    }
    found
}
