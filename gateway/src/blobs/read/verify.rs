//! Block checksums: bytes come out only after the checksum of their block was found right.

use std::collections::VecDeque;

use bytes::Bytes;
use holdfast_core::id::BlobId;
use holdfast_core::rules::BLOCK_BYTES;

use super::super::Error;

const BLOCK: usize = BLOCK_BYTES as usize;

/// CRC-32C of consecutive blocks of a blob.
#[derive(Clone, Debug)]
pub(super) struct Checksums {
    blob: BlobId,
    first: u64,
    crcs: Vec<u32>,
}

impl Checksums {
    /// `crcs` of the blocks from number `first` on.
    pub(super) fn new(blob: BlobId, first: u64, crcs: Vec<u32>) -> Self {
        Self { blob, first, crcs }
    }

    /// Number of the first block.
    pub(super) fn first(&self) -> u64 {
        self.first
    }

    /// Checks bytes that start with block `first`.
    pub(super) fn check(&self, first: u64, bytes: &[u8]) -> Result<(), Error> {
        (first..).zip(bytes.chunks(BLOCK)).try_for_each(|(block, bytes)| self.check_block(block, crc32c::crc32c(bytes)))
    }

    fn check_block(&self, block: u64, got: u32) -> Result<(), Error> {
        let index = usize::try_from(block - self.first).ok();
        let wanted = index.and_then(|index| self.crcs.get(index)).copied();
        let wanted = wanted.ok_or(Error::Mismatch { blob: self.blob, what: "has more blocks than checksums" })?;
        if got == wanted { Ok(()) } else { Err(Error::Damaged { blob: self.blob, block, wanted, got }) }
    }
}

/// Takes pieces of any length, from the start of a block, and gives them back verified.
pub(super) struct Verifier {
    checksums: Checksums,
    /// The block that is not complete: its number, its bytes so far, their checksum.
    block: u64,
    filled: usize,
    crc: u32,
    /// Pieces of that block.
    held: VecDeque<Bytes>,
    ready: VecDeque<Bytes>,
    /// Verified bytes that nobody wants, at the start.
    skip: u64,
}

impl Verifier {
    /// Checks from the first of `checksums` on; the first `skip` bytes are not given back.
    pub(super) fn new(checksums: Checksums, skip: u64) -> Self {
        let block = checksums.first();
        Self { checksums, block, filled: 0, crc: 0, held: VecDeque::new(), ready: VecDeque::new(), skip }
    }

    /// Takes the next piece.
    pub(super) fn feed(&mut self, mut piece: Bytes) -> Result<(), Error> {
        let mut checked = 0;
        while checked < piece.len() {
            let part = &piece[checked..piece.len().min(checked + BLOCK - self.filled)];
            self.crc = crc32c::crc32c_append(self.crc, part);
            self.filled += part.len();
            checked += part.len();
            if self.filled == BLOCK {
                self.close_block()?;
                // All that was held, and this piece up to here, is verified.
                self.ready.append(&mut self.held);
                self.ready.push_back(piece.split_to(checked));
                checked = 0;
            }
        }
        if !piece.is_empty() {
            self.held.push_back(piece);
        }
        Ok(())
    }

    /// The blob has ended: what is held is its last, short block.
    pub(super) fn end(&mut self) -> Result<(), Error> {
        if self.filled == 0 {
            return Err(Error::Mismatch { blob: self.checksums.blob, what: "ended early" });
        }
        self.close_block()?;
        self.ready.append(&mut self.held);
        Ok(())
    }

    fn close_block(&mut self) -> Result<(), Error> {
        self.checksums.check_block(self.block, self.crc)?;
        (self.block, self.filled, self.crc) = (self.block + 1, 0, 0);
        Ok(())
    }

    /// Verified bytes, at most `most`, as long as they lie together.
    pub(super) fn take(&mut self, most: usize) -> Option<Bytes> {
        while let Some(first) = self.ready.front_mut() {
            let skip = usize::try_from(self.skip).unwrap_or(usize::MAX).min(first.len());
            self.skip -= skip as u64;
            let _ = first.split_to(skip);
            if first.len() > most {
                return Some(first.split_to(most));
            }
            let first = self.ready.pop_front()?;
            if !first.is_empty() {
                return Some(first);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOB: BlobId = BlobId([7; 16]);

    fn bytes(length: usize) -> Vec<u8> {
        (0..length).map(|i| (i * 31 % 251) as u8).collect()
    }

    fn checksums(bytes: &[u8]) -> Checksums {
        Checksums::new(BLOB, 3, bytes.chunks(BLOCK).map(crc32c::crc32c).collect())
    }

    /// Feeds pieces of the given length; gives back what comes out, and when the first error came.
    fn run(sums: Checksums, bytes: &[u8], piece: usize, skip: u64) -> (Vec<u8>, Result<(), Error>) {
        let mut verifier = Verifier::new(sums, skip);
        let mut out = Vec::new();
        for piece in bytes.chunks(piece) {
            if let Err(error) = verifier.feed(Bytes::copy_from_slice(piece)) {
                return (out, Err(error));
            }
            while let Some(piece) = verifier.take(50_000) {
                assert!(!piece.is_empty() && piece.len() <= 50_000);
                out.extend_from_slice(&piece);
            }
        }
        let end = if bytes.len().is_multiple_of(BLOCK) { Ok(()) } else { verifier.end() };
        while let Some(piece) = verifier.take(usize::MAX) {
            out.extend_from_slice(&piece);
        }
        (out, end)
    }

    #[test]
    fn pieces_of_any_length_come_out_whole() {
        for length in [1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 3 * BLOCK + 17] {
            let bytes = bytes(length);
            for piece in [1000, BLOCK - 1, BLOCK, BLOCK + 1, 10 * BLOCK] {
                for skip in [0, 1, length - 1, length] {
                    let (out, end) = run(checksums(&bytes), &bytes, piece, skip as u64);
                    end.unwrap();
                    assert!(out == bytes[skip..], "{length} {piece} {skip}");
                }
            }
        }
    }

    #[test]
    fn no_byte_of_a_bad_block_comes_out() {
        let good = bytes(3 * BLOCK + 17);
        for at in [0, BLOCK - 1, BLOCK, 2 * BLOCK + 5, 3 * BLOCK + 16] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            for piece in [1000, BLOCK, 10 * BLOCK] {
                let (out, end) = run(checksums(&good), &bad, piece, 0);
                let block = at / BLOCK;
                assert!(out.len() <= block * BLOCK && out == good[..out.len()], "{at} {piece}");
                assert!(matches!(end, Err(Error::Damaged { block: found, .. }) if found == 3 + block as u64));
            }
        }
    }

    #[test]
    fn more_blocks_than_checksums_and_early_ends_are_refused() {
        let long = bytes(2 * BLOCK);
        assert!(matches!(run(checksums(&long[..BLOCK]), &long, BLOCK, 0).1, Err(Error::Mismatch { .. })));
        let mut verifier = Verifier::new(checksums(&long), 0);
        verifier.feed(Bytes::copy_from_slice(&long[..BLOCK])).unwrap();
        assert!(verifier.end().is_err());
        assert!(checksums(&long).check(3, &long).is_ok());
        assert!(checksums(&long).check(3, &long[1..]).is_err());
    }
}
