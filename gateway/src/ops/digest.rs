//! Digests of bytes that are read back, for copies: the same ones that are computed of bytes that come in.

use aws_lc_rs::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};
use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest as Crc};
use holdfast_core::command::Digests;
use holdfast_core::record::{Checksum, ChecksumAlgorithm, ChecksumType};
use md5::{Digest as _, Md5};

/// Computes digests piece by piece.
pub(super) struct Digester {
    md5: Md5,
    sha256: Context,
    crc64nvme: Crc,
    other: Option<(ChecksumAlgorithm, Other)>,
}

enum Other {
    Crc32(Box<Crc>),
    Sha1(Context),
}

impl Digester {
    /// Digests, with a checksum of `algorithm` among them.
    pub(super) fn new(algorithm: Option<ChecksumAlgorithm>) -> Self {
        let other = match algorithm {
            Some(named @ ChecksumAlgorithm::Crc32) => {
                Some((named, Other::Crc32(Box::new(Crc::new(CrcAlgorithm::Crc32IsoHdlc)))))
            }
            Some(named @ ChecksumAlgorithm::Crc32c) => {
                Some((named, Other::Crc32(Box::new(Crc::new(CrcAlgorithm::Crc32Iscsi)))))
            }
            Some(named @ ChecksumAlgorithm::Sha1) => {
                Some((named, Other::Sha1(Context::new(&SHA1_FOR_LEGACY_USE_ONLY))))
            }
            Some(ChecksumAlgorithm::Sha256 | ChecksumAlgorithm::Crc64Nvme) | None => None,
        };
        Self { md5: Md5::new(), sha256: Context::new(&SHA256), crc64nvme: Crc::new(CrcAlgorithm::Crc64Nvme), other }
    }

    /// Takes the next piece. A piece is short enough for the reactor, see [`crate::blobs::read::PIECE_BYTES_MAX`].
    pub(super) fn update(&mut self, piece: &Bytes) {
        self.md5.update(piece);
        self.sha256.update(piece);
        self.crc64nvme.update(piece);
        match &mut self.other {
            Some((_, Other::Crc32(crc))) => crc.update(piece),
            Some((_, Other::Sha1(sha1))) => sha1.update(piece),
            None => {}
        }
    }

    /// The digests; `algorithm` is the one that [`Digester::new`] was given.
    pub(super) fn finish(self, algorithm: Option<ChecksumAlgorithm>) -> Digests {
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(self.sha256.finish().as_ref());
        let value = match self.other {
            Some((_, Other::Crc32(crc))) => {
                u32::try_from(crc.finalize()).expect("a CRC-32 has 32 bits").to_be_bytes().to_vec()
            }
            Some((_, Other::Sha1(sha1))) => sha1.finish().as_ref().to_vec(),
            None => sha256.to_vec(),
        };
        let checksum = algorithm
            .filter(|algorithm| *algorithm != ChecksumAlgorithm::Crc64Nvme)
            .map(|algorithm| Checksum { algorithm, kind: ChecksumType::FullObject, value });
        Digests { md5: self.md5.finalize().into(), sha256, crc64nvme: self.crc64nvme.finalize(), checksum }
    }
}

#[cfg(test)]
mod tests {
    use holdfast_core::rules::digest::hash;

    use super::*;

    #[test]
    fn digests_in_pieces_equal_those_of_the_whole() {
        let bytes: Vec<u8> = (0..100_003u32).map(|n| (n % 251) as u8).collect();
        for algorithm in [
            ChecksumAlgorithm::Crc32,
            ChecksumAlgorithm::Crc32c,
            ChecksumAlgorithm::Crc64Nvme,
            ChecksumAlgorithm::Sha1,
            ChecksumAlgorithm::Sha256,
        ] {
            let mut digester = Digester::new(Some(algorithm));
            bytes.chunks(777).for_each(|piece| digester.update(&Bytes::copy_from_slice(piece)));
            let digests = digester.finish(Some(algorithm));
            assert_eq!(digests.sha256.to_vec(), hash(ChecksumAlgorithm::Sha256, &bytes));
            assert_eq!(digests.crc64nvme.to_be_bytes().to_vec(), hash(ChecksumAlgorithm::Crc64Nvme, &bytes));
            let value = digests.checksum.map(|checksum| checksum.value);
            let expected = Some(hash(algorithm, &bytes)).filter(|_| algorithm != ChecksumAlgorithm::Crc64Nvme);
            assert_eq!(value, expected, "{algorithm:?}");
        }
        assert_eq!(Digester::new(None).finish(None).checksum, None);
    }
}
