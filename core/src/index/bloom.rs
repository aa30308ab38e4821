//! A Bloom filter over encodings of tuples, for the blocks of one object.
//!
//! Source: Kirsch and Mitzenmacher, "Less Hashing, Same Performance" (2006): the probes are `a + i * b` of two halves of
//! one 64-bit hash, which is CRC-64/NVME of the encoding. About 1 % of absent values are not ruled out at
//! [`BITS_PER_VALUE`].

use std::collections::BTreeSet;

/// Bits of the filter for each distinct value.
pub const BITS_PER_VALUE: usize = 10;
/// Bytes of a filter; past that it lets more through.
pub const BYTES_MAX: usize = 4096;
const PROBES: u64 = 7;
/// An odd number whose bits have no pattern: 2^64 divided by the golden ratio.
pub(super) const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The hash of an encoding: also that of entries of a hash index.
#[must_use]
pub fn hash(encoding: &[u8]) -> u64 {
    spread(crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, encoding))
}

/// CRC-64 is linear, so nearby values differ in few bits: a multiplication spreads them.
pub(super) fn spread(number: u64) -> u64 {
    let mixed = (number ^ (number >> 32)).wrapping_mul(GOLDEN);
    mixed ^ (mixed >> 29)
}

/// The filter of these hashes; empty for none.
#[must_use]
pub fn build(hashes: &BTreeSet<u64>) -> Vec<u8> {
    let bytes = (hashes.len() * BITS_PER_VALUE).div_ceil(8).min(BYTES_MAX);
    let mut filter = vec![0; bytes];
    for hash in hashes {
        for bit in probes(*hash, bytes) {
            filter[bit / 8] |= 1 << (bit % 8);
        }
    }
    filter
}

/// Whether the value of this hash may be among those that the filter was built of.
#[must_use]
pub fn may_hold(filter: &[u8], hash: u64) -> bool {
    !filter.is_empty() && probes(hash, filter.len()).all(|bit| filter[bit / 8] & (1 << (bit % 8)) != 0)
}

fn probes(hash: u64, bytes: usize) -> impl Iterator<Item = usize> {
    let bits = bytes as u64 * 8;
    let (a, b) = (hash & 0xffff_ffff, (hash >> 32) | 1);
    (0..PROBES).map(move |probe| (a.wrapping_add(probe.wrapping_mul(b)) % bits) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_in_is_found_and_little_else() {
        let hashes: BTreeSet<u64> = (0..1000u32).map(|n| hash(&n.to_be_bytes())).collect();
        let filter = build(&hashes);
        assert!(hashes.iter().all(|hash| may_hold(&filter, *hash)));
        let wrong = (1000..11_000u32).filter(|n| may_hold(&filter, hash(&n.to_be_bytes()))).count();
        assert!(wrong < 300, "{wrong} of 10,000 absent values are not ruled out");
        assert!(!may_hold(&build(&BTreeSet::new()), 1));
        let many = (0..100_000u32).map(|n| hash(&n.to_be_bytes())).collect();
        assert_eq!(build(&many).len(), BYTES_MAX);
    }
}
