//! The stored and sent form of a snapshot: all rows of a state, sorted, in checksummed blocks.
//!
//! ```text
//! header   magic "HFSNAP\0\0" | format version u32 | CRC32C of the twelve bytes before u32
//! block    kind 1 u8 | length u32 | CRC32C of kind, length and payload u32 | payload
//!          payload: rows of  keyspace u8 | key length u32 | value length u32 | key | value
//! trailer  kind 2 u8 | length u32 | CRC32C u32 | rows u64 | applied index u64 | SHA-256 of all block payloads [32]
//! ```
//! Integers are little-endian. A block's payload is at most [`BLOCK_BYTES_MAX`], unless a single row is larger: that row
//! is a block of its own, at most [`ROW_BYTES_MAX`]. Rows ascend by keyspace number, then key.
//!
//! Both ends work in pieces and hold one block: a snapshot is never in memory as a whole. A reader must not use any row
//! before it has seen the trailer: until then a lost end cannot be told from a small state.

use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::keyspace::Keyspace;

const MAGIC: [u8; 8] = *b"HFSNAP\0\0";
const FORMAT: u32 = 1;
const HEADER_BYTES: usize = 16;
const FRAME_BYTES: usize = 9;
const ROW_HEAD_BYTES: usize = 9;
const TRAILER_BYTES: usize = 48;
const KIND_BLOCK: u8 = 1;
const KIND_TRAILER: u8 = 2;

/// Most payload bytes of a block of several rows.
pub const BLOCK_BYTES_MAX: usize = 1 << 20;
/// Most bytes of one row with its lengths.
pub const ROW_BYTES_MAX: usize = 64 << 20;

/// Bytes that are not a whole, undamaged snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// The first bytes are not a snapshot's.
    #[error("not a snapshot: the header is damaged or of something else")]
    NotASnapshot,
    /// Written by a newer release.
    #[error("snapshot format {0} is newer than this release reads")]
    UnknownFormat(u32),
    /// A checksum, length or order is wrong.
    #[error("snapshot is damaged at byte {at}: {what}")]
    Damaged {
        /// Offset of the damaged block.
        at: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The end is missing.
    #[error("snapshot ends at byte {0} without its trailer")]
    Truncated(u64),
}

/// What the trailer says; equal to what was read, or reading failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer {
    /// Number of rows.
    pub rows: u64,
    /// Log index of the last command that the state includes.
    pub applied_index: u64,
    /// SHA-256 of all block payloads in order: equal states have equal hashes.
    pub hash: [u8; 32],
}

/// Writes a snapshot. Finished pieces are appended to the caller's buffer, which it may empty at any time.
#[derive(Debug)]
pub struct Encoder {
    block: Vec<u8>,
    rows: u64,
    hash: Sha256,
}

impl Encoder {
    /// Begins a snapshot: appends the header to `out`.
    pub fn start(out: &mut Vec<u8>) -> Self {
        let begin = out.len();
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&FORMAT.to_le_bytes());
        let crc = crc32c::crc32c(&out[begin..]);
        out.extend_from_slice(&crc.to_le_bytes());
        Self { block: Vec::with_capacity(BLOCK_BYTES_MAX), rows: 0, hash: Sha256::new() }
    }

    /// Adds a row. Rows must come in ascending order of keyspace and key.
    ///
    /// # Errors
    /// When the row is larger than [`ROW_BYTES_MAX`].
    pub fn row(
        &mut self,
        keyspace: Keyspace,
        key: &[u8],
        value: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), SnapshotError> {
        let size = ROW_HEAD_BYTES + key.len() + value.len();
        if size > ROW_BYTES_MAX {
            return Err(SnapshotError::Damaged { at: 0, what: "a row is larger than a snapshot can carry" });
        }
        if self.block.len() + size > BLOCK_BYTES_MAX {
            self.flush(out);
        }
        self.block.push(keyspace as u8);
        self.block.extend_from_slice(&length(key.len()));
        self.block.extend_from_slice(&length(value.len()));
        self.block.extend_from_slice(key);
        self.block.extend_from_slice(value);
        self.rows += 1;
        Ok(())
    }

    /// Ends the snapshot: appends what is left and the trailer.
    pub fn finish(mut self, applied_index: u64, out: &mut Vec<u8>) -> Trailer {
        self.flush(out);
        let trailer = Trailer { rows: self.rows, applied_index, hash: self.hash.finalize().into() };
        let mut payload = Vec::with_capacity(TRAILER_BYTES);
        payload.extend_from_slice(&trailer.rows.to_le_bytes());
        payload.extend_from_slice(&trailer.applied_index.to_le_bytes());
        payload.extend_from_slice(&trailer.hash);
        frame(KIND_TRAILER, &payload, out);
        trailer
    }

    fn flush(&mut self, out: &mut Vec<u8>) {
        if self.block.is_empty() {
            return;
        }
        self.hash.update(&self.block);
        frame(KIND_BLOCK, &self.block, out);
        self.block.clear();
    }
}

fn length(bytes: usize) -> [u8; 4] {
    u32::try_from(bytes).expect("a row is at most ROW_BYTES_MAX").to_le_bytes()
}

fn frame(kind: u8, payload: &[u8], out: &mut Vec<u8>) {
    let begin = out.len();
    out.push(kind);
    out.extend_from_slice(&length(payload.len()));
    let crc = crc32c::crc32c_append(crc32c::crc32c(&out[begin..]), payload);
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(payload);
}

/// A row as read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotRow {
    /// Where it belongs.
    pub keyspace: Keyspace,
    /// Its key.
    pub key: Bytes,
    /// Its value.
    pub value: Bytes,
}

/// A piece as read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Rows of a block whose checksum is right.
    Rows(Vec<SnapshotRow>),
    /// The end: everything before it was whole.
    End(Trailer),
}

/// Reads a snapshot from pieces of any size.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    begun: bool,
    at: u64,
    rows: u64,
    hash: Sha256,
    last: Option<(Keyspace, Bytes)>,
    ended: bool,
}

impl Decoder {
    /// Adds the next bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next piece, or `None` when more bytes are needed.
    ///
    /// # Errors
    /// [`SnapshotError`] as soon as something is wrong; reading cannot go on.
    pub fn next_piece(&mut self) -> Result<Option<Piece>, SnapshotError> {
        if !self.begun && !self.header()? {
            return Ok(None);
        }
        if self.ended {
            return if self.buffer.is_empty() { Ok(None) } else { self.damaged("bytes follow the trailer") };
        }
        let Some(head) = self.buffer.get(..FRAME_BYTES) else { return Ok(None) };
        let kind = head[0];
        let size = u32_at(head, 1) as usize;
        let crc = u32_at(head, 5);
        if size > ROW_BYTES_MAX || !matches!(kind, KIND_BLOCK | KIND_TRAILER) {
            return self.damaged("a block's head");
        }
        let whole = FRAME_BYTES + size;
        if self.buffer.len() < whole {
            return Ok(None);
        }
        let payload = Bytes::copy_from_slice(&self.buffer[FRAME_BYTES..whole]);
        if crc32c::crc32c_append(crc32c::crc32c(&self.buffer[..5]), &payload) != crc {
            return self.damaged("a block's checksum");
        }
        let piece = if kind == KIND_BLOCK { self.rows(&payload)? } else { self.trailer(&payload)? };
        self.buffer.drain(..whole);
        self.at += whole as u64;
        Ok(Some(piece))
    }

    /// Checks that the input ended where the snapshot does.
    ///
    /// # Errors
    /// [`SnapshotError::Truncated`] when it did not.
    pub fn finish(&self) -> Result<(), SnapshotError> {
        if self.ended && self.buffer.is_empty() {
            Ok(())
        } else {
            Err(SnapshotError::Truncated(self.at + self.buffer.len() as u64))
        }
    }

    fn damaged<T>(&self, what: &'static str) -> Result<T, SnapshotError> {
        Err(SnapshotError::Damaged { at: self.at, what })
    }

    fn header(&mut self) -> Result<bool, SnapshotError> {
        let Some(header) = self.buffer.get(..HEADER_BYTES) else { return Ok(false) };
        if header[..8] != MAGIC || u32_at(header, 12) != crc32c::crc32c(&header[..12]) {
            return Err(SnapshotError::NotASnapshot);
        }
        let format = u32_at(header, 8);
        if format != FORMAT {
            return Err(SnapshotError::UnknownFormat(format));
        }
        self.buffer.drain(..HEADER_BYTES);
        self.at = HEADER_BYTES as u64;
        self.begun = true;
        Ok(true)
    }

    fn rows(&mut self, payload: &Bytes) -> Result<Piece, SnapshotError> {
        self.hash.update(payload);
        let mut rows = Vec::new();
        let mut at = 0;
        while at < payload.len() {
            let Some(head) = payload.get(at..at + ROW_HEAD_BYTES) else { return self.damaged("a row's head") };
            let Some(keyspace) = Keyspace::from_number(head[0]) else { return self.damaged("an unknown keyspace") };
            let key_at = at + ROW_HEAD_BYTES;
            let value_at = key_at + u32_at(head, 1) as usize;
            let end = value_at + u32_at(head, 5) as usize;
            if end > payload.len() {
                return self.damaged("a row's length");
            }
            let row =
                SnapshotRow { keyspace, key: payload.slice(key_at..value_at), value: payload.slice(value_at..end) };
            if self.last.as_ref().is_some_and(|last| *last >= (keyspace, row.key.clone())) {
                return self.damaged("the order of rows");
            }
            self.last = Some((keyspace, Bytes::copy_from_slice(&row.key)));
            self.rows += 1;
            rows.push(row);
            at = end;
        }
        Ok(Piece::Rows(rows))
    }

    fn trailer(&mut self, payload: &Bytes) -> Result<Piece, SnapshotError> {
        if payload.len() != TRAILER_BYTES {
            return self.damaged("the trailer's length");
        }
        let mut hash = [0; 32];
        hash.copy_from_slice(&payload[16..48]);
        let trailer = Trailer { rows: u64_at(payload, 0), applied_index: u64_at(payload, 8), hash };
        if trailer.rows != self.rows {
            return self.damaged("the number of rows");
        }
        if trailer.hash != <[u8; 32]>::from(self.hash.clone().finalize()) {
            return self.damaged("the hash of all rows");
        }
        self.ended = true;
        Ok(Piece::End(trailer))
    }
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

    type Rows = Vec<(Keyspace, Vec<u8>, Vec<u8>)>;

    fn sample() -> Rows {
        let mut rows = vec![(Keyspace::Sys, b"a".to_vec(), vec![]), (Keyspace::Names, vec![], b"empty key".to_vec())];
        for number in 0..2000u32 {
            rows.push((Keyspace::History, number.to_be_bytes().to_vec(), vec![number as u8; 1500]));
        }
        rows.push((Keyspace::Inline, b"large".to_vec(), vec![7; 3 << 20]));
        rows
    }

    fn encode(rows: &[(Keyspace, Vec<u8>, Vec<u8>)]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut encoder = Encoder::start(&mut out);
        for (keyspace, key, value) in rows {
            encoder.row(*keyspace, key, value, &mut out).expect("small enough");
        }
        encoder.finish(42, &mut out);
        out
    }

    fn decode(bytes: &[u8], step: usize) -> Result<(Rows, Trailer), SnapshotError> {
        let mut decoder = Decoder::default();
        let (mut rows, mut trailer) = (Vec::new(), None);
        for chunk in bytes.chunks(step) {
            decoder.feed(chunk);
            while let Some(piece) = decoder.next_piece()? {
                match piece {
                    Piece::Rows(read) => {
                        rows.extend(read.into_iter().map(|row| (row.keyspace, row.key.to_vec(), row.value.to_vec())));
                    }
                    Piece::End(end) => trailer = Some(end),
                }
            }
        }
        decoder.finish()?;
        Ok((rows, trailer.expect("finished")))
    }

    #[test]
    fn what_is_written_is_read_whatever_the_pieces() {
        let rows = sample();
        let bytes = encode(&rows);
        for step in [977, 64 << 10, bytes.len()] {
            let (read, trailer) = decode(&bytes, step).expect("undamaged");
            assert_eq!(read, rows);
            assert_eq!((trailer.rows, trailer.applied_index), (rows.len() as u64, 42));
        }
    }

    #[test]
    fn an_empty_state_is_a_snapshot() {
        let (rows, trailer) = decode(&encode(&[]), 5).expect("undamaged");
        assert!(rows.is_empty());
        assert_eq!(trailer.rows, 0);
    }

    #[test]
    fn every_flipped_byte_is_found() {
        let bytes = encode(&sample()[..40]);
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 0x10;
            assert!(decode(&bad, bad.len()).is_err(), "byte {at}");
        }
    }

    #[test]
    fn every_lost_end_is_found() {
        let bytes = encode(&sample()[..40]);
        for end in (0..bytes.len()).step_by(7) {
            assert!(decode(&bytes[..end], 4096).is_err(), "end {end}");
        }
        assert_eq!(decode(&bytes[..bytes.len() - 1], 4096), Err(SnapshotError::Truncated(bytes.len() as u64 - 1)));
    }

    #[test]
    fn a_newer_format_is_refused_by_name() {
        let mut bytes = encode(&[]);
        bytes[8] = 9;
        let crc = crc32c::crc32c(&bytes[..12]);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(decode(&bytes, 100), Err(SnapshotError::UnknownFormat(9)));
    }
}
