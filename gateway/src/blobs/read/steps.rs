//! One fetch each: inline bytes, an entry of the cache, a long run of blocks; a hole needs none.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use holdfast_core::id::{BlobId, Revision};
use holdfast_core::record::{BlobRow, Extent, Location};
use holdfast_core::rules::BLOCK_BYTES;
use holdfast_core::view::{BlobSource, View, blocks_of};
use tokio::time::Instant;

use super::super::cache::{CACHED_READ_BYTES_MAX, Entry, WHOLE_BYTES_MAX};
use super::super::{Blobs, Error};
use super::PIECE_BYTES_MAX;
use super::verify::{Checksums, Verifier};
use crate::backend::{BlobStream, GetOptions, ObjectPath};

/// Longest run of blocks of one step; its checksums are in memory.
pub const STREAM_BYTES_MAX: u64 = 1 << 30;
/// How long the fetch of one entry of the cache may take.
pub const ENTRY_PATIENCE: Duration = Duration::from_secs(30);
/// Pieces shorter than this are copied into the cache, so that they do not keep a connection's buffer alive.
const COPIED_BYTES_MAX: usize = 64 << 10;

/// A fetch to be made.
#[derive(Debug)]
pub(super) struct Step(Kind);

#[derive(Debug)]
enum Kind {
    /// Bytes at hand, verified.
    Bytes(Bytes),
    /// Bytes `clip` of an entry, which holds `fetch` of its blob.
    Entry { entry: Entry, source: Source, clip: Range<usize> },
    /// Bytes `wanted` of the blob, in `fetch`.
    Stream { source: Source, wanted: Range<u64> },
    /// A hole of so many bytes, which reads as zeros. It may be far longer than memory.
    Zeros(u64),
}

/// What a hole is delivered from.
static ZEROS: [u8; PIECE_BYTES_MAX] = [0; PIECE_BYTES_MAX];

/// Whole blocks of a blob in the backend.
#[derive(Clone, Debug)]
struct Source {
    blob: BlobId,
    path: ObjectPath,
    /// From the start of a block to the end of one, or of the blob.
    fetch: Range<u64>,
    checksums: Checksums,
}

/// `offset..offset + length` as indexes of bytes in memory.
pub(super) fn within(offset: u64, length: u64) -> Option<Range<usize>> {
    let start = usize::try_from(offset).ok()?;
    Some(start..start.checked_add(usize::try_from(length).ok()?)?)
}

/// Adds the steps that read `extent`. Blobs condemned after `since` are read still: the caller holds them back.
pub(super) fn add(steps: &mut VecDeque<Step>, view: &View<'_>, extent: &Extent, since: Revision) -> Result<(), Error> {
    if extent.blob == BlobId::HOLE {
        steps.push_back(Step(Kind::Zeros(extent.length)));
        return Ok(());
    }
    let BlobSource { row, inline } = view.blob_since(extent, since)?;
    let wanted = extent.blob_offset..extent.blob_offset + extent.length;
    if wanted.end > row.length {
        return Err(Error::Mismatch { blob: extent.blob, what: "is shorter than its extents" });
    }
    if let Some(bytes) = inline {
        steps.push_back(inline_step(view, extent, &row, &bytes)?);
        return Ok(());
    }
    let path = path_of(extent.blob, &row)?;
    let source = |fetch: Range<u64>| -> Result<Source, Error> {
        let blocks = blocks_of(&fetch);
        let checksums = Checksums::new(extent.blob, blocks.start, view.block_checksums(extent, &row, blocks)?);
        Ok(Source { blob: extent.blob, path: path.clone(), fetch, checksums })
    };
    let through_cache = row.length <= WHOLE_BYTES_MAX || extent.length <= CACHED_READ_BYTES_MAX;
    let mut at = wanted.start;
    while at < wanted.end {
        let (kind, end) = if through_cache {
            let (entry, fetch) = Entry::at(extent.blob, row.length, at);
            let end = fetch.end.min(wanted.end);
            let clip = within(at - fetch.start, end - at).ok_or_else(|| too_long(extent.blob))?;
            (Kind::Entry { entry, source: source(fetch)?, clip }, end)
        } else {
            let end = wanted.end.min(at + STREAM_BYTES_MAX);
            let start = at / BLOCK_BYTES * BLOCK_BYTES;
            let fetch = start..row.length.min(end.next_multiple_of(BLOCK_BYTES));
            (Kind::Stream { source: source(fetch)?, wanted: at..end }, end)
        };
        steps.push_back(Step(kind));
        at = end;
    }
    Ok(())
}

fn too_long(blob: BlobId) -> Error {
    Error::Mismatch { blob, what: "is longer than this machine can address" }
}

fn inline_step(view: &View<'_>, extent: &Extent, row: &BlobRow, bytes: &Bytes) -> Result<Step, Error> {
    if bytes.len() as u64 != row.length {
        return Err(Error::Mismatch { blob: extent.blob, what: "has inline bytes of another length" });
    }
    let blocks = blocks_of(&(0..row.length));
    Checksums::new(extent.blob, 0, view.block_checksums(extent, row, blocks)?).check(0, bytes)?;
    let clip = within(extent.blob_offset, extent.length).ok_or_else(|| too_long(extent.blob))?;
    Ok(Step(Kind::Bytes(bytes.slice(clip))))
}

/// Where the bytes are in the backend.
pub(crate) fn path_of(blob: BlobId, row: &BlobRow) -> Result<ObjectPath, Error> {
    let path = row.locations.iter().find_map(|location| match location {
        Location::Path(path) => Some(path),
        Location::Inline => None,
    });
    let path = path.ok_or(Error::Mismatch { blob, what: "has no location that can be read" })?;
    ObjectPath::new(path).map_err(|error| Error::backend("name", blob, error))
}

impl Step {
    /// Verified bytes at hand.
    pub(super) fn at_hand(bytes: Bytes) -> Self {
        Self(Kind::Bytes(bytes))
    }

    /// Bytes that it delivers.
    pub(super) fn length(&self) -> u64 {
        match &self.0 {
            Kind::Bytes(bytes) => bytes.len() as u64,
            Kind::Entry { clip, .. } => clip.len() as u64,
            Kind::Stream { wanted, .. } => wanted.end - wanted.start,
            Kind::Zeros(length) => *length,
        }
    }

    /// Whether it needs nothing but what the plan holds.
    pub(super) fn is_inline(&self) -> bool {
        matches!(self.0, Kind::Bytes(_) | Kind::Zeros(_))
    }

    /// Whether its bytes come one after the other.
    pub(super) fn is_stream(&self) -> bool {
        matches!(self.0, Kind::Stream { .. } | Kind::Zeros(_))
    }

    /// Makes the fetch, or starts it.
    pub(super) async fn open(self, blobs: &Blobs) -> Result<Opened, Error> {
        match self.0 {
            Kind::Bytes(bytes) => Ok(Opened::Bytes(bytes)),
            Kind::Entry { entry, source, clip } => {
                let blob = source.blob;
                let bytes = blobs.shared.cache.get(entry, fetch_whole(blobs, source)).await?;
                if clip.end > bytes.len() {
                    return Err(Error::Mismatch { blob, what: "is shorter than its row says" });
                }
                Ok(Opened::Bytes(bytes.slice(clip)))
            }
            Kind::Stream { source, wanted } => {
                let stream = fetch(blobs, &source, None).await?;
                let left = wanted.end - wanted.start;
                let skip = wanted.start - source.fetch.start;
                Ok(Opened::Stream { stream, verifier: Verifier::new(source.checksums, skip), blob: source.blob, left })
            }
            Kind::Zeros(length) => Ok(Opened::Zeros(length)),
        }
    }
}

async fn fetch(blobs: &Blobs, source: &Source, deadline: Option<Instant>) -> Result<BlobStream, Error> {
    let options = GetOptions { range: Some(source.fetch.clone()), deadline };
    let fetched = blobs.backend().get(&source.path, options).await;
    let fetched = fetched.map_err(|error| Error::backend("read", source.blob, error))?;
    if fetched.length != source.fetch.end - source.fetch.start {
        return Err(Error::Mismatch { blob: source.blob, what: "came with another length than asked for" });
    }
    Ok(fetched.stream)
}

/// Fetches and verifies blocks that fit into the cache.
async fn fetch_whole(blobs: &Blobs, source: Source) -> Result<Bytes, Error> {
    let mut stream = fetch(blobs, &source, Some(Instant::now() + ENTRY_PATIENCE)).await?;
    let mut pieces = Vec::new();
    while let Some(piece) = stream.next().await {
        pieces.push(piece.map_err(|error| Error::backend("read", source.blob, error))?);
    }
    let length = usize::try_from(source.fetch.end - source.fetch.start).map_err(|_| too_long(source.blob))?;
    let bytes = match pieces.as_slice() {
        [piece] if piece.len() > COPIED_BYTES_MAX => piece.clone(),
        _ => {
            let mut whole = BytesMut::with_capacity(length);
            pieces.iter().for_each(|piece| whole.extend_from_slice(piece));
            whole.freeze()
        }
    };
    if bytes.len() != length {
        return Err(Error::Mismatch { blob: source.blob, what: "ended early" });
    }
    source.checksums.check(source.checksums.first(), &bytes)?;
    Ok(bytes)
}

/// A fetch that was made, or that goes on.
pub(super) enum Opened {
    Bytes(Bytes),
    Stream { stream: BlobStream, verifier: Verifier, blob: BlobId, left: u64 },
    Zeros(u64),
}

impl Opened {
    /// Bytes still to be delivered.
    pub(super) fn left(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Stream { left, .. } | Self::Zeros(left) => *left,
        }
    }

    /// All bytes of a fetch that was made.
    pub(super) fn into_bytes(self) -> Result<Bytes, Error> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::Stream { blob, .. } => Err(Error::Mismatch { blob, what: "is not at hand" }),
            Self::Zeros(_) => Err(Error::Mismatch { blob: BlobId::HOLE, what: "is not at hand" }),
        }
    }

    /// The next verified piece, at most [`PIECE_BYTES_MAX`]; `None` when all were delivered.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        match self {
            Self::Bytes(bytes) => Ok((!bytes.is_empty()).then(|| bytes.split_to(bytes.len().min(PIECE_BYTES_MAX)))),
            Self::Stream { left: 0, .. } | Self::Zeros(0) => Ok(None),
            Self::Zeros(left) => {
                let most = usize::try_from(*left).map_or(PIECE_BYTES_MAX, |left| left.min(PIECE_BYTES_MAX));
                *left -= most as u64;
                Ok(Some(Bytes::from_static(&ZEROS[..most])))
            }
            Self::Stream { stream, verifier, blob, left } => loop {
                let most = usize::try_from(*left).unwrap_or(usize::MAX).min(PIECE_BYTES_MAX);
                if let Some(piece) = verifier.take(most) {
                    *left -= piece.len() as u64;
                    return Ok(Some(piece));
                }
                match stream.next().await {
                    Some(Ok(piece)) => verifier.feed(piece)?,
                    Some(Err(error)) => return Err(Error::backend("read", *blob, error)),
                    None => verifier.end()?,
                }
            },
        }
    }
}
