//! Filters: which subjects a block does not hold.
//!
//! The filter of a block is a Bloom filter of lines of 512 bits: a hash chooses one line and [`PROBES`] bits within it, so
//! that a question touches one cache line. About 0.9 % of absent subjects are not ruled out at [`BITS_PER_SUBJECT`].
//!
//! Source: Putze, Sanders and Singler, "Cache-, Hash- and Space-Efficient Bloom Filters" (2007), section 3.

use super::super::bloom::{self, GOLDEN};
use super::{HASH_BYTES, Layout};

/// Bytes of a line.
pub(super) const LINE_BYTES: usize = 64;
/// Bits of a filter for each distinct subject of its block, before they are rounded up to lines.
const BITS_PER_SUBJECT: usize = 10;
const PROBES: usize = 7;

/// The hash of a subject: of its CRC-64/NVME, or in a hash run of the number that it is. Both need mixing: the one is
/// linear, and hashes of one block begin with the same bits.
pub(super) fn hash(layout: Layout, subject: &[u8]) -> u64 {
    match layout {
        Layout::BTree { .. } => bloom::hash(subject),
        Layout::Hash => {
            bloom::spread(subject.iter().take(HASH_BYTES).fold(0, |number, byte| number << 8 | u64::from(*byte)))
        }
    }
}

/// Appends the filter of these hashes, of which there is at least one; gives the number of its lines.
pub(super) fn build(hashes: &[u64], out: &mut Vec<u8>) -> usize {
    let lines = (hashes.len() * BITS_PER_SUBJECT).div_ceil(LINE_BYTES * 8);
    let begin = out.len();
    out.resize(begin + lines * LINE_BYTES, 0);
    let filter = &mut out[begin..];
    for hash in hashes {
        let line = line_of(*hash, lines) * LINE_BYTES;
        for bit in bits(*hash) {
            filter[line + bit / 8] |= 1 << (bit % 8);
        }
    }
    lines
}

/// Whether a block with this filter may hold the subject of this hash. Without a line there is nothing.
pub(super) fn may_hold(filter: &[u8], hash: u64) -> bool {
    let line = line_of(hash, filter.len() / LINE_BYTES) * LINE_BYTES;
    match filter.get(line..line + LINE_BYTES) {
        Some(line) => bits(hash).all(|bit| line[bit / 8] & (1 << (bit % 8)) != 0),
        None => false,
    }
}

/// The upper half of the hash, spread over the lines.
fn line_of(hash: u64, lines: usize) -> usize {
    (((hash >> 32) * lines as u64) >> 32) as usize
}

/// Seven times nine bits of another mix of the hash.
fn bits(hash: u64) -> impl Iterator<Item = usize> {
    let mixed = (hash ^ (hash >> 32)).wrapping_mul(GOLDEN);
    (0..PROBES).map(move |probe| (mixed >> (1 + 9 * probe) & 511) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_in_is_found_and_little_else() {
        let check = |name: &str, layout: Layout, subject: &dyn Fn(u64) -> Vec<u8>| {
            let hashes: Vec<u64> = (0..1000).map(|n| hash(layout, &subject(n))).collect();
            let mut filter = Vec::new();
            let lines = build(&hashes, &mut filter);
            assert_eq!((lines, filter.len()), (20, 20 * LINE_BYTES), "{name}");
            assert!(hashes.iter().all(|hash| may_hold(&filter, *hash)), "{name}");
            let wrong = (1000..101_000).filter(|n| may_hold(&filter, hash(layout, &subject(*n)))).count();
            assert!(wrong < 1_500, "{name}: {wrong} of 100,000 absent subjects are not ruled out");
        };
        let btree = Layout::BTree { suffix_bytes: 0 };
        check("numbers", btree, &|n| n.to_be_bytes().to_vec());
        check("texts", btree, &|n| format!("user-{n:06}@example.org").into_bytes());
        check("hashes", Layout::Hash, &|n| n.wrapping_mul(0x2545_f491_4f6c_dd1d).to_be_bytes().to_vec());
        check("hashes that begin alike", Layout::Hash, &|n| n.to_be_bytes().to_vec());
        check("hashes that end alike", Layout::Hash, &|n| (n << 40).to_be_bytes().to_vec());
    }

    #[test]
    fn a_filter_without_lines_holds_nothing() {
        assert!(!may_hold(&[], 7));
        let mut filter = Vec::new();
        assert_eq!(build(&[7], &mut filter), 1);
        assert!(may_hold(&filter, 7));
    }
}
