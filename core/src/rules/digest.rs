//! Digests that the rules compute: ETags of multipart and appended objects, combined and composite checksums. All pure.

use crc_fast::CrcAlgorithm;
use md5::{Digest, Md5};

use crate::record::{Checksum, ChecksumAlgorithm, ChecksumType};

/// Lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string cannot fail");
        text
    })
}

/// CRC-64/NVME of two pieces, from the CRC of each and the length of the second.
#[must_use]
pub fn combine_crc64(first: u64, second: u64, second_length: u64) -> u64 {
    CRC64_NVME.combine(first, second, second_length)
}

/// A reflected CRC that starts from ones and is inverted at the end, as all three of S3's are.
struct Crc {
    /// The polynomial, reflected, in the low bits.
    polynomial: u64,
    /// Bits.
    width: u32,
    /// x to the power of 2^n modulo the polynomial.
    powers: [u64; 64],
}

static CRC32: Crc = Crc::new(0xedb8_8320, 32);
static CRC32C: Crc = Crc::new(0x82f6_3b78, 32);
static CRC64_NVME: Crc = Crc::new(0x9a6c_9329_ac4b_c9b5, 64);

/// Combining two CRCs is one multiplication by a power of x, found by squaring: about a microsecond, where the matrices
/// of the library take a third of a millisecond, which a complete of 10,000 parts would spend inside `apply`.
///
/// Source: zlib, `crc32_combine` since 1.2.12; Kadatch and Jenkins, "Everything we know about CRC but afraid to forget".
impl Crc {
    const fn new(polynomial: u64, width: u32) -> Self {
        let mut crc = Self { polynomial, width, powers: [0; 64] };
        let mut power = 1 << (width - 2);
        let mut at = 0;
        while at < 64 {
            crc.powers[at] = power;
            power = crc.multiply(power, power);
            at += 1;
        }
        crc
    }

    /// The product of two polynomials modulo the CRC's; the highest bit is the coefficient of 1.
    const fn multiply(&self, first: u64, mut second: u64) -> u64 {
        let (mut product, mut at) = (0, self.width);
        while at > 0 {
            at -= 1;
            // Without branches on the bits, which are random: all ones where the bit is set.
            product ^= second & 0u64.wrapping_sub(first >> at & 1);
            second = second >> 1 ^ self.polynomial & 0u64.wrapping_sub(second & 1);
        }
        product
    }

    fn combine(&self, first: u64, second: u64, second_length: u64) -> u64 {
        let (mut shifted, mut length, mut at) = (first, second_length, 3);
        while length > 0 {
            if length & 1 == 1 {
                shifted = self.multiply(self.powers[at % 64], shifted);
            }
            length >>= 1;
            at += 1;
        }
        shifted ^ second
    }
}

/// `MD5-N`: MD5 over the MD5s of `N` parts. Source: S3 user guide, "Checking object integrity".
#[must_use]
pub fn multipart_etag(md5s: impl Iterator<Item = [u8; 16]>) -> String {
    let mut digest = Md5::new();
    let mut parts = 0u32;
    for md5 in md5s {
        digest.update(md5);
        parts += 1;
    }
    format!("{}-{parts}", hex(&digest.finalize()))
}

/// ETag of an object after an append: opaque, with a dash, so that nobody takes it for an MD5.
#[must_use]
pub fn opaque_etag(old: &str, appended_md5: &[u8; 16], offset: u64) -> String {
    let mut digest = Md5::new();
    digest.update(old.as_bytes());
    digest.update(appended_md5);
    digest.update(offset.to_be_bytes());
    format!("{}-a", hex(&digest.finalize()))
}

/// ETag of an object whose bytes a mount changed: opaque, with a dash, and another after every change.
#[must_use]
pub fn patched_etag(old: &str, revision: u64, size: u64) -> String {
    let mut digest = Md5::new();
    digest.update(old.as_bytes());
    digest.update(revision.to_be_bytes());
    digest.update(size.to_be_bytes());
    format!("{}-p", hex(&digest.finalize()))
}

/// Bytes of an algorithm's value.
#[must_use]
pub fn value_bytes(algorithm: ChecksumAlgorithm) -> usize {
    match algorithm {
        ChecksumAlgorithm::Crc32 | ChecksumAlgorithm::Crc32c => 4,
        ChecksumAlgorithm::Crc64Nvme => 8,
        ChecksumAlgorithm::Sha1 => 20,
        ChecksumAlgorithm::Sha256 => 32,
    }
}

/// The type of a multipart object's checksum when the client names none. Source: S3 user guide, "Checking object
/// integrity", table of algorithms and types.
#[must_use]
pub fn default_type(algorithm: ChecksumAlgorithm) -> ChecksumType {
    match algorithm {
        ChecksumAlgorithm::Crc64Nvme => ChecksumType::FullObject,
        _ => ChecksumType::Composite,
    }
}

/// Whether the algorithm has the type: hashes cannot be combined, CRC-64/NVME has no composite form.
#[must_use]
pub fn has_type(algorithm: ChecksumAlgorithm, kind: ChecksumType) -> bool {
    !matches!(
        (algorithm, kind),
        (ChecksumAlgorithm::Sha1 | ChecksumAlgorithm::Sha256, ChecksumType::FullObject)
            | (ChecksumAlgorithm::Crc64Nvme, ChecksumType::Composite)
    )
}

/// Checksum of an object from those of its parts: value and length of each. `None` when the algorithm has not this type.
#[must_use]
pub fn assemble<'a>(
    algorithm: ChecksumAlgorithm,
    kind: ChecksumType,
    parts: impl Iterator<Item = (&'a [u8], u64)>,
) -> Option<Checksum> {
    if !has_type(algorithm, kind) {
        return None;
    }
    let value = match kind {
        ChecksumType::Composite => hash(algorithm, &parts.flat_map(|(value, _)| value).copied().collect::<Vec<u8>>()),
        ChecksumType::FullObject => {
            let crc = match algorithm {
                ChecksumAlgorithm::Crc32 => &CRC32,
                ChecksumAlgorithm::Crc32c => &CRC32C,
                ChecksumAlgorithm::Crc64Nvme => &CRC64_NVME,
                ChecksumAlgorithm::Sha1 | ChecksumAlgorithm::Sha256 => return None,
            };
            let combined = parts.fold(None, |so_far, (value, length)| {
                let next = number(value);
                Some(so_far.map_or(next, |so_far| crc.combine(so_far, next, length)))
            });
            let bytes = combined.unwrap_or_default().to_be_bytes();
            bytes[8 - value_bytes(algorithm)..].to_vec()
        }
    };
    Some(Checksum { algorithm, kind, value })
}

fn crc_of(algorithm: ChecksumAlgorithm) -> Option<CrcAlgorithm> {
    match algorithm {
        ChecksumAlgorithm::Crc32 => Some(CrcAlgorithm::Crc32IsoHdlc),
        ChecksumAlgorithm::Crc32c => Some(CrcAlgorithm::Crc32Iscsi),
        ChecksumAlgorithm::Crc64Nvme => Some(CrcAlgorithm::Crc64Nvme),
        ChecksumAlgorithm::Sha1 | ChecksumAlgorithm::Sha256 => None,
    }
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// The algorithm over some bytes.
#[must_use]
pub fn hash(algorithm: ChecksumAlgorithm, bytes: &[u8]) -> Vec<u8> {
    match (algorithm, crc_of(algorithm)) {
        (_, Some(crc)) => crc_fast::checksum(crc, bytes).to_be_bytes()[8 - value_bytes(algorithm)..].to_vec(),
        (ChecksumAlgorithm::Sha1, None) => sha1::Sha1::digest(bytes).to_vec(),
        (_, None) => sha2::Sha256::digest(bytes).to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_object_checksums_of_parts_are_those_of_the_whole() {
        let whole: Vec<u8> = (0..1000u32).map(|byte| (byte * 7) as u8).collect();
        for algorithm in [ChecksumAlgorithm::Crc32, ChecksumAlgorithm::Crc32c, ChecksumAlgorithm::Crc64Nvme] {
            let parts: Vec<(Vec<u8>, u64)> =
                whole.chunks(333).map(|part| (hash(algorithm, part), part.len() as u64)).collect();
            let parts = parts.iter().map(|(value, length)| (value.as_slice(), *length));
            let sum = assemble(algorithm, ChecksumType::FullObject, parts).unwrap();
            assert_eq!(sum.value, hash(algorithm, &whole));
            assert_eq!(sum.value.len(), value_bytes(algorithm));
        }
        let none = std::iter::empty();
        assert_eq!(assemble(ChecksumAlgorithm::Sha256, ChecksumType::FullObject, none), None);
    }

    #[test]
    fn combining_agrees_with_the_library_at_any_length() {
        let kinds = [
            (&CRC32, CrcAlgorithm::Crc32IsoHdlc),
            (&CRC32C, CrcAlgorithm::Crc32Iscsi),
            (&CRC64_NVME, CrcAlgorithm::Crc64Nvme),
        ];
        for (ours, theirs) in kinds {
            for length in [0, 1, 7, 4096, (5 << 20) + 1, 5 << 30, 50 << 40] {
                let (first, second) =
                    (0x0123_4567_89ab_cdef >> (64 - ours.width), 0xfedc_ba98_7654_3210 >> (64 - ours.width));
                let expected = crc_fast::checksum_combine(theirs, first, second, length);
                assert_eq!(ours.combine(first, second, length), expected, "{theirs:?} {length}");
            }
        }
    }

    #[test]
    fn check_values_are_those_of_the_catalogue() {
        let check = |algorithm| hex(&hash(algorithm, b"123456789"));
        assert_eq!(check(ChecksumAlgorithm::Crc32), "cbf43926");
        assert_eq!(check(ChecksumAlgorithm::Crc32c), "e3069283");
        assert_eq!(check(ChecksumAlgorithm::Crc64Nvme), "ae8b14860a799888");
        assert_eq!(check(ChecksumAlgorithm::Sha1), "f7c3bc1d808e04732adf679965ccc34ca7ae3441");
    }

    #[test]
    fn a_multipart_etag_is_the_md5_of_md5s_and_the_count() {
        let part = |bytes: &[u8]| -> [u8; 16] { Md5::digest(bytes).into() };
        let etag = multipart_etag([part(b"a"), part(b"b")].into_iter());
        assert_eq!(etag, "96e024ba2074fe77e8e965ba43a704be-2");
    }
}
