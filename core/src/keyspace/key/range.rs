//! Keys of byte-range and whole-file locks, in `locks`.

use super::{Key, bad, text_from, u64_at, unescape};
use crate::range::RangeFamily;
use crate::record::DecodeError;

const HELD: u8 = 6;
const WAIT: u8 = 7;
const COUNT: u8 = 8;
const WAIT_OF_OWNER: u8 = 9;

/// `locks`: start of the ranges of a file that are held by locks of a family.
#[must_use]
pub fn ranges(resource: &str, family: RangeFamily) -> Vec<u8> {
    Key::new().u8(HELD).escaped(resource.as_bytes()).u8(family as u8).0
}

/// `locks`: a range that an owner holds.
#[must_use]
pub fn range(resource: &str, family: RangeFamily, lease: u64, owner: u64, start: u64) -> Vec<u8> {
    Key::new().u8(HELD).escaped(resource.as_bytes()).u8(family as u8).u64(lease).u64(owner).u64(start).0
}

/// Lease, owner and first byte in the key of a range that is held.
///
/// # Errors
/// [`DecodeError`] when the row key has no such form.
pub fn range_parts(key: &[u8]) -> Result<(u64, u64, u64), DecodeError> {
    let parts = || {
        let at = key.len().checked_sub(24)?;
        Some((u64_at(key, at)?, u64_at(key, at + 8)?, u64_at(key, at + 16)?))
    };
    parts().ok_or_else(|| bad("range key"))
}

/// `locks`: start of those who wait for ranges of a file, first come first.
#[must_use]
pub fn range_waits(resource: &str) -> Vec<u8> {
    Key::new().u8(WAIT).escaped(resource.as_bytes()).0
}

/// `locks`: a wait for a range; its number is the revision that began it.
#[must_use]
pub fn range_wait(resource: &str, wait: u64) -> Vec<u8> {
    Key::new().u8(WAIT).escaped(resource.as_bytes()).u64(wait).0
}

/// File and number in the key of a wait.
///
/// # Errors
/// [`DecodeError`] when the row key has no such form.
pub fn range_wait_parts(key: &[u8]) -> Result<(String, u64), DecodeError> {
    let parts = || {
        let (resource, rest) = unescape(key.get(3..)?)?;
        Some((resource, u64_at(rest, 0)?))
    };
    parts().ok_or_else(|| bad("range wait key"))
}

/// `locks`: how many ranges and waits a lease has, in all; also the start of its counts by file.
#[must_use]
pub fn range_count(lease: u64) -> Vec<u8> {
    Key::new().u8(COUNT).u64(lease).0
}

/// `locks`: how many ranges and waits a lease has of a file, which has a name.
#[must_use]
pub fn range_count_of(lease: u64, resource: &str) -> Vec<u8> {
    Key::new().u8(COUNT).u64(lease).bytes(resource.as_bytes()).0
}

/// The file in the key of a count; empty of the count in all.
///
/// # Errors
/// [`DecodeError`] when the row key has no such form.
pub fn range_count_resource(key: &[u8]) -> Result<String, DecodeError> {
    text_from(key, 11).ok_or_else(|| bad("range count key"))
}

/// `locks`: start of what an owner waits for with locks of the fcntl family.
#[must_use]
pub fn range_waits_of(lease: u64, owner: u64) -> Vec<u8> {
    Key::new().u8(WAIT_OF_OWNER).u64(lease).u64(owner).0
}

/// `locks`: a wait of an owner for a range of a file.
#[must_use]
pub fn range_wait_of(lease: u64, owner: u64, wait: u64, resource: &str) -> Vec<u8> {
    Key::new().u8(WAIT_OF_OWNER).u64(lease).u64(owner).u64(wait).bytes(resource.as_bytes()).0
}

/// Number and file in the key of a wait of an owner.
///
/// # Errors
/// [`DecodeError`] when the row key has no such form.
pub fn range_wait_of_parts(key: &[u8]) -> Result<(u64, String), DecodeError> {
    let parts = || Some((u64_at(key, 19)?, text_from(key, 27)?));
    parts().ok_or_else(|| bad("range wait of an owner"))
}
