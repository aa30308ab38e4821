//! Every digest of one body, computed while its bytes pass.
//!
//! Two lanes run side by side: MD5, which no processor speeds up, is one; SHA-256, the checksums and the block CRCs are the
//! other. SHA-1 and SHA-256 come from aws-lc, whose assembly is fast even in light builds.

use aws_lc_rs::digest as lc;
use bytes::Bytes;
use crc_fast::CrcAlgorithm;
pub use holdfast_core::record::ChecksumAlgorithm;
use md5::{Digest as _, Md5};

/// Bytes that one stored CRC-32C covers; the last block may be shorter.
pub const CHECKSUM_BLOCK_BYTES: usize = 128 * 1024;

/// Every checksum algorithm.
pub const ALGORITHMS: [ChecksumAlgorithm; 5] = [
    ChecksumAlgorithm::Crc32,
    ChecksumAlgorithm::Crc32c,
    ChecksumAlgorithm::Crc64Nvme,
    ChecksumAlgorithm::Sha1,
    ChecksumAlgorithm::Sha256,
];

/// The API's name of an algorithm: `CRC32`, `CRC64NVME`, ...
#[must_use]
pub fn algorithm_name(algorithm: ChecksumAlgorithm) -> &'static str {
    match algorithm {
        ChecksumAlgorithm::Crc32 => "CRC32",
        ChecksumAlgorithm::Crc32c => "CRC32C",
        ChecksumAlgorithm::Crc64Nvme => "CRC64NVME",
        ChecksumAlgorithm::Sha1 => "SHA1",
        ChecksumAlgorithm::Sha256 => "SHA256",
    }
}

/// The header or trailer that carries an algorithm's value.
#[must_use]
pub fn algorithm_header(algorithm: ChecksumAlgorithm) -> &'static str {
    match algorithm {
        ChecksumAlgorithm::Crc32 => "x-amz-checksum-crc32",
        ChecksumAlgorithm::Crc32c => "x-amz-checksum-crc32c",
        ChecksumAlgorithm::Crc64Nvme => "x-amz-checksum-crc64nvme",
        ChecksumAlgorithm::Sha1 => "x-amz-checksum-sha1",
        ChecksumAlgorithm::Sha256 => "x-amz-checksum-sha256",
    }
}

/// The algorithm of that name, in any case.
#[must_use]
pub fn algorithm_named(name: &str) -> Option<ChecksumAlgorithm> {
    ALGORITHMS.into_iter().find(|algorithm| algorithm_name(*algorithm).eq_ignore_ascii_case(name))
}

/// The algorithm whose value a header or trailer carries.
#[must_use]
pub fn algorithm_of_header(header: &str) -> Option<ChecksumAlgorithm> {
    ALGORITHMS.into_iter().find(|algorithm| algorithm_header(*algorithm).eq_ignore_ascii_case(header))
}

/// What a body turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digests {
    /// Bytes that passed.
    pub length: u64,
    /// MD5: the ETag of a single-part object.
    pub md5: [u8; 16],
    /// SHA-256.
    pub sha256: [u8; 32],
    /// CRC-64/NVME: the checksum when the client declared none.
    pub crc64nvme: u64,
    /// The declared checksum, in its algorithm, big-endian.
    pub checksum: Option<(ChecksumAlgorithm, Vec<u8>)>,
    /// CRC-32C of each block of [`CHECKSUM_BLOCK_BYTES`], the last one shorter; empty for an empty body.
    pub crc32c_blocks: Vec<u32>,
}

impl Digests {
    /// The digests of bytes at hand; not for big ones on a reactor thread.
    #[must_use]
    pub fn of(bytes: &[u8], declared: Option<ChecksumAlgorithm>) -> Self {
        let (mut slow, mut fast) = (SlowLane::default(), FastLane::new(declared));
        slow.update(bytes);
        fast.update(bytes);
        fast.finish(slow)
    }
}

/// The MD5 lane.
#[derive(Default)]
pub(super) struct SlowLane(Md5);

impl SlowLane {
    fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(super) fn update_all(&mut self, pieces: &[Bytes]) {
        pieces.iter().for_each(|piece| self.update(piece));
    }
}

/// The lane of everything that the processor speeds up.
pub(super) struct FastLane {
    length: u64,
    sha256: lc::Context,
    crc64nvme: crc_fast::Digest,
    declared: Option<Declared>,
    block: crc_fast::Digest,
    block_filled: usize,
    blocks: Vec<u32>,
}

/// The declared checksum where it is neither SHA-256 nor CRC-64, which are computed anyway.
enum Declared {
    Crc(ChecksumAlgorithm, Box<crc_fast::Digest>),
    Sha1(lc::Context),
    Sha256,
    Crc64Nvme,
}

impl Declared {
    fn new(algorithm: ChecksumAlgorithm) -> Self {
        match algorithm {
            ChecksumAlgorithm::Crc32 => {
                Self::Crc(algorithm, Box::new(crc_fast::Digest::new(CrcAlgorithm::Crc32IsoHdlc)))
            }
            ChecksumAlgorithm::Crc32c => {
                Self::Crc(algorithm, Box::new(crc_fast::Digest::new(CrcAlgorithm::Crc32Iscsi)))
            }
            ChecksumAlgorithm::Crc64Nvme => Self::Crc64Nvme,
            ChecksumAlgorithm::Sha1 => Self::Sha1(lc::Context::new(&lc::SHA1_FOR_LEGACY_USE_ONLY)),
            ChecksumAlgorithm::Sha256 => Self::Sha256,
        }
    }
}

impl FastLane {
    pub(super) fn new(declared: Option<ChecksumAlgorithm>) -> Self {
        Self {
            length: 0,
            sha256: lc::Context::new(&lc::SHA256),
            crc64nvme: crc_fast::Digest::new(CrcAlgorithm::Crc64Nvme),
            declared: declared.map(Declared::new),
            block: crc_fast::Digest::new(CrcAlgorithm::Crc32Iscsi),
            block_filled: 0,
            blocks: Vec::new(),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        self.length += bytes.len() as u64;
        self.sha256.update(bytes);
        self.crc64nvme.update(bytes);
        match &mut self.declared {
            Some(Declared::Crc(_, crc)) => crc.update(bytes),
            Some(Declared::Sha1(sha1)) => sha1.update(bytes),
            Some(Declared::Sha256 | Declared::Crc64Nvme) | None => {}
        }
        self.update_blocks(bytes);
    }

    pub(super) fn update_all(&mut self, pieces: &[Bytes]) {
        pieces.iter().for_each(|piece| self.update(piece));
    }

    fn update_blocks(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = CHECKSUM_BLOCK_BYTES - self.block_filled;
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.block.update(now);
            self.block_filled += now.len();
            if self.block_filled == CHECKSUM_BLOCK_BYTES {
                self.close_block();
            }
            bytes = later;
        }
    }

    fn close_block(&mut self) {
        let crc = self.block.finalize_reset();
        self.blocks.push(u32::try_from(crc).expect("a CRC-32 fits 32 bits"));
        self.block_filled = 0;
    }

    pub(super) fn finish(mut self, slow: SlowLane) -> Digests {
        if self.block_filled > 0 {
            self.close_block();
        }
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(self.sha256.finish().as_ref());
        let crc64nvme = self.crc64nvme.finalize();
        let checksum = self.declared.map(|declared| match declared {
            Declared::Crc(algorithm, crc) => (algorithm, crc.finalize().to_be_bytes()[4..].to_vec()),
            Declared::Sha1(sha1) => (ChecksumAlgorithm::Sha1, sha1.finish().as_ref().to_vec()),
            Declared::Sha256 => (ChecksumAlgorithm::Sha256, sha256.to_vec()),
            Declared::Crc64Nvme => (ChecksumAlgorithm::Crc64Nvme, crc64nvme.to_be_bytes().to_vec()),
        });
        Digests {
            length: self.length,
            md5: slow.0.finalize().into(),
            sha256,
            crc64nvme,
            checksum,
            crc32c_blocks: self.blocks,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_match_published_values() {
        let check = |algorithm, expected: &str| {
            let digests = Digests::of(b"123456789", Some(algorithm));
            assert_eq!(
                digests.checksum.map(|(_, value)| hex::encode(value)).as_deref(),
                Some(expected),
                "{algorithm:?}"
            );
        };
        check(ChecksumAlgorithm::Crc32, "cbf43926");
        check(ChecksumAlgorithm::Crc32c, "e3069283");
        check(ChecksumAlgorithm::Crc64Nvme, "ae8b14860a799888");
        check(ChecksumAlgorithm::Sha1, "f7c3bc1d808e04732adf679965ccc34ca7ae3441");
        check(ChecksumAlgorithm::Sha256, "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225");
        let digests = Digests::of(b"123456789", None);
        assert_eq!(hex::encode(digests.md5), "25f9e794323b453885f5181f1b624d0b");
        assert_eq!(digests.crc64nvme, 0xae8b_1486_0a79_9888);
        assert_eq!(digests.crc32c_blocks, [0xe306_9283]);
        assert_eq!(digests.checksum, None);
    }

    #[test]
    fn blocks_do_not_depend_on_how_the_bytes_arrive() {
        let bytes: Vec<u8> = (0..3 * CHECKSUM_BLOCK_BYTES + 17).map(|i| (i % 251) as u8).collect();
        let whole = Digests::of(&bytes, Some(ChecksumAlgorithm::Crc32c));
        assert_eq!(whole.crc32c_blocks.len(), 4);
        let pieces: Vec<Bytes> = bytes.chunks(40_001).map(Bytes::copy_from_slice).collect();
        let (mut slow, mut fast) = (SlowLane::default(), FastLane::new(Some(ChecksumAlgorithm::Crc32c)));
        slow.update_all(&pieces);
        fast.update_all(&pieces);
        assert_eq!(fast.finish(slow), whole);
        assert!(Digests::of(b"", None).crc32c_blocks.is_empty());
    }
}
