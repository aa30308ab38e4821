//! Frames: what blocks, fence blocks and filters are wrapped in.
//!
//! ```text
//! kind u8 | codec u8 | length of the payload u32 | CRC-32C u32 | payload
//! ```
//! The checksum is of the index id (u64), the run's revision (u64) and the frame's offset in the file (u64), then kind,
//! codec, length and payload: a frame is only valid where it was written.

use bytes::Bytes;

use super::{RunError, u32_at};
use crate::id::Revision;

/// Bytes before the payload.
pub(super) const HEAD_BYTES: usize = 10;
/// Most bytes of a block's payload: [`super::BLOCK_BYTES`] and the greatest entry fit.
pub(super) const BLOCK_PAYLOAD_MAX: usize = 128 << 10;
/// Most bytes of a fence block's payload: [`super::fence::FENCE_BYTES`] and the greatest fences fit.
pub(super) const FENCE_PAYLOAD_MAX: usize = 72 << 10;
/// Most bytes of a filter's payload: [`super::fence::FILTER_BYTES`] and the greatest filter of a block fit.
pub(super) const FILTER_PAYLOAD_MAX: usize = (1 << 20) + (128 << 10);
/// The payload is stored as it is.
const CODEC_NONE: u8 = 0;

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Block = 1,
    Fence = 2,
    Filter = 3,
}

impl Kind {
    fn from_number(number: u8) -> Option<Self> {
        [Self::Block, Self::Fence, Self::Filter].into_iter().find(|kind| *kind as u8 == number)
    }

    /// Most bytes of its payload.
    pub(super) fn payload_max(self) -> usize {
        match self {
            Self::Block => BLOCK_PAYLOAD_MAX,
            Self::Fence => FENCE_PAYLOAD_MAX,
            Self::Filter => FILTER_PAYLOAD_MAX,
        }
    }
}

/// The run that a frame belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) index: Revision,
    pub(super) revision: Revision,
}

/// Kind and whole length of the frame that `bytes` begin with.
pub(super) fn peek(at: u64, bytes: &[u8]) -> Result<(Kind, usize), RunError> {
    let damaged = |what| Err(RunError::Damaged { at, what });
    let (Some(kind), Some(length)) = (bytes.first(), u32_at(bytes, 2)) else { return damaged("the head of a frame") };
    let Some(kind) = Kind::from_number(*kind) else { return damaged("the kind of a frame") };
    if length as usize > kind.payload_max() {
        return damaged("the length of a frame");
    }
    Ok((kind, HEAD_BYTES + length as usize))
}

/// Appends a frame that will be at `at` in the file.
pub(super) fn seal(whose: Identity, kind: Kind, at: u64, payload: &[u8], out: &mut Vec<u8>) {
    let begin = out.len();
    out.extend_from_slice(&[kind as u8, CODEC_NONE]);
    let length = u32::try_from(payload.len()).expect("a payload is at most a few megabytes");
    out.extend_from_slice(&length.to_le_bytes());
    let crc = checksum(whose, at, &out[begin..], payload);
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(payload);
}

/// The payload of the frame that `bytes` are, which were at `at` in the file.
///
/// # Errors
/// When they are not a whole frame of this kind, or of another run or offset.
pub(super) fn open(whose: Identity, expected: Kind, at: u64, bytes: &Bytes) -> Result<Bytes, RunError> {
    let damaged = |what| Err(RunError::Damaged { at, what });
    let (kind, whole) = peek(at, bytes)?;
    if kind != expected {
        return damaged("the kind of a frame");
    }
    if bytes.len() != whole {
        return damaged("the length of a frame");
    }
    let payload = bytes.slice(HEAD_BYTES..);
    if u32_at(bytes, 6) != Some(checksum(whose, at, &bytes[..6], &payload)) {
        return damaged("the checksum of a frame");
    }
    match bytes[1] {
        CODEC_NONE => Ok(payload),
        codec => Err(RunError::UnknownCodec(codec)),
    }
}

fn checksum(whose: Identity, at: u64, head: &[u8], payload: &[u8]) -> u32 {
    let mut salt = [0; 24];
    salt[..8].copy_from_slice(&whose.index.to_le_bytes());
    salt[8..16].copy_from_slice(&whose.revision.to_le_bytes());
    salt[16..].copy_from_slice(&at.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(&salt), head), payload)
}
