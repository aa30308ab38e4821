//! Fills in the digests of versions that were put together without reading them: finished uploads, appends, what mounts
//! wrote.
//!
//! Where the content is of many blobs that can be joined, they are joined first and the one blob is read, so that one pass
//! gives the digest and proves the joined bytes. What a mount wrote is joined only where that is cheap or wanted, and read
//! once it has rested: it may be written to again. Clients come first: work waits for quiet, but not for ever. The command
//! names the generation that was read, so that what a mount has changed meanwhile keeps no digest of older bytes.

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use holdfast_core::command::{Op, SetDigest};
use holdfast_core::effect::Effect;
use holdfast_core::id::{BlobId, Millis};
use holdfast_core::queue::PendingDigest;
use holdfast_core::record::{Body, Version, joins_when_patched};
use holdfast_core::rules::BLOCK_BYTES;
use holdfast_core::view::Found;
use tokio::time::Instant;

use super::join::{self, Joined};
use super::{Context, Error, Job, Kind, Round};
use crate::blobs::{self, BodyStream};
use crate::clock::now_ms;

/// Versions of one round.
const DIGEST_PAGE: usize = 64;
/// Pause while clients are not quiet.
const QUIET_PAUSE: Duration = Duration::from_millis(200);
/// Bytes hashed at once, off the reactor.
const BATCH_BYTES: usize = 1 << 20;
/// A version with more bytes of holes keeps its digests pending: reading zeros for hours would keep every other waiting.
pub const HOLE_BYTES_MAX: u64 = 1 << 40;

/// The job: where it is in the queue.
#[derive(Default)]
pub(crate) struct Digest {
    last: Option<PendingDigest>,
    failed: Option<Error>,
    waiting_since: Option<Instant>,
}

impl Job for Digest {
    const NAME: &'static str = "digest";
    const EVERY: Duration = Duration::from_secs(60);
    const WAKES_ON: Option<Effect> = Some(Effect::DigestQueued);

    async fn round(&mut self, context: &Context) -> Result<Round, Error> {
        let last = self.last.clone();
        let page = context.look(move |view, permit| view.pending_digests(permit, last.as_ref(), DIGEST_PAGE)).await?;
        let is_last = page.len() < DIGEST_PAGE;
        for pending in page {
            let since = *self.waiting_since.get_or_insert_with(Instant::now);
            if !context.is_quiet() && since.elapsed() < context.config.quiet_patience {
                return Ok(Round::Again(QUIET_PAUSE));
            }
            self.waiting_since = None;
            self.last = Some(pending.clone());
            if let Err(error) = settle(context, pending).await
                && error.kind() != Kind::Changed
            {
                self.failed = Some(error);
            }
        }
        if !is_last {
            return Ok(Round::More);
        }
        self.last = None;
        self.failed.take().map_or(Ok(Round::Done), Err)
    }
}

/// Computes and commits the digest of one version.
async fn settle(context: &Context, pending: PendingDigest) -> Result<(), Error> {
    let (asked, clock_ms) = (pending.clone(), now_ms());
    let look = context.look(move |view, permit| {
        let found = view.find_pending(permit, &asked)?;
        Ok((found, view.now_ms()?.max(clock_ms)))
    });
    let (found, at_ms) = look.await?;
    if found.as_ref().is_some_and(|found| rests(found, context.config.patched_rest, at_ms)) {
        // Still in the queue: a later pass finds it.
        return Ok(());
    }
    let version = found.as_ref().and_then(|found| found.row.version.as_ref());
    if version.is_some_and(Version::is_open) {
        // A mount is at it: the cut that ends this puts it into the queue again.
        return Ok(());
    }
    let digests = match (&found, version) {
        // Gone: the row of the queue goes too.
        (None, _) | (_, None) => None,
        (Some(_), Some(version)) if version.sha256.is_some() && version.crc_pending != Some(true) => None,
        (Some(found), Some(version)) => digest(context, found, version).await?,
    };
    let op = SetDigest {
        bucket: pending.bucket,
        key: pending.key,
        place: pending.place,
        sha256: digests.map(|digests| digests.sha256),
        generation: version.map(Version::generation),
        crc64nvme: digests.map(|digests| digests.crc64nvme),
    };
    context.commit(Op::SetDigest(op)).await?;
    context.stats.digests_set.fetch_add(u64::from(digests.is_some()), Ordering::Relaxed);
    Ok(())
}

/// Whether a mount wrote to a version so short a time ago that it may do so again.
fn rests(found: &Found, rest: Duration, at_ms: Millis) -> bool {
    let patched = found.row.version.as_ref().is_some_and(|version| version.patched.is_some());
    let rest_ms = u64::try_from(rest.as_millis()).unwrap_or(u64::MAX);
    patched && at_ms < found.row.modified_ms.saturating_add(rest_ms)
}

/// What a version lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lacking {
    pub(super) sha256: [u8; 32],
    pub(super) crc64nvme: u64,
}

/// Reads a version for its digests; `None` when it is not worth it: it is nearly all holes.
async fn digest(context: &Context, found: &Found, version: &Version) -> Result<Option<Lacking>, Error> {
    let asked = found.clone();
    let look = context.look(move |view, _| {
        let extents = view.extents(&view.again(&asked)?, 0..asked.row.size())?;
        let holes = extents.iter().filter(|extent| extent.blob == BlobId::HOLE).map(|extent| extent.length);
        Ok((holes.sum::<u64>(), extents.len() as u64))
    });
    let (holes, extents) = look.await?;
    if holes > HOLE_BYTES_MAX {
        return Ok(None);
    }
    if let Body::Pages(content) = version.body
        && context.config.join
        && (version.patched.is_none() || joins_when_patched(version.size, extents))
    {
        match join::join(context, content, Some((&found.bucket.name, &found.key))).await {
            Ok(Joined::Yes(digests)) => return Ok(Some(digests)),
            Ok(Joined::NotNow | Joined::Never) => {}
            // A failed join is no reason not to read what is there.
            Err(error) => tracing::warn!(error = crate::backend::chain(&error), "cannot join a content"),
        }
    }
    let (found, blobs) = (found.clone(), context.blobs.clone());
    let size = found.row.size();
    let plan = context.look(move |view, _| Ok(blobs.plan(view, &found, 0..size))).await?;
    let stream = context.blobs.open(plan?.in_background()).await?;
    Ok(Some(hash(stream).await?.lacking()))
}

/// Digests of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hashed {
    pub(super) size: u64,
    pub(super) sha256: [u8; 32],
    pub(super) crc64nvme: u64,
    /// CRC-32C of each block of 128 KiB.
    pub(super) crcs: Vec<u32>,
    /// CRC-32C of all.
    pub(super) crc: u32,
}

impl Hashed {
    pub(super) fn lacking(&self) -> Lacking {
        Lacking { sha256: self.sha256, crc64nvme: self.crc64nvme }
    }
}

struct Hasher {
    sha256: aws_lc_rs::digest::Context,
    crc64nvme: crc_fast::Digest,
    size: u64,
    block: u32,
    crcs: Vec<u32>,
}

impl Hasher {
    fn update(&mut self, mut bytes: &[u8]) {
        self.sha256.update(bytes);
        self.crc64nvme.update(bytes);
        while !bytes.is_empty() {
            let filled = self.size % BLOCK_BYTES;
            let room = usize::try_from(BLOCK_BYTES - filled).unwrap_or(usize::MAX);
            let (part, rest) = bytes.split_at(room.min(bytes.len()));
            self.block = crc32c::crc32c_append(self.block, part);
            self.size += part.len() as u64;
            if self.size.is_multiple_of(BLOCK_BYTES) {
                self.crcs.push(std::mem::take(&mut self.block));
            }
            bytes = rest;
        }
    }

    fn finish(mut self) -> Hashed {
        if !self.size.is_multiple_of(BLOCK_BYTES) {
            self.crcs.push(self.block);
        }
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(self.sha256.finish().as_ref());
        let crc = combine(0, &self.crcs, self.size);
        Hashed { size: self.size, sha256, crc64nvme: self.crc64nvme.finalize(), crcs: self.crcs, crc }
    }
}

/// CRC-32C of what `crc` covers, followed by a blob of `length` bytes with these block checksums.
pub(super) fn combine(mut crc: u32, blocks: &[u32], length: u64) -> u32 {
    for (number, block) in (0u64..).zip(blocks) {
        let bytes = usize::try_from(BLOCK_BYTES.min(length - number * BLOCK_BYTES)).expect("a block is 128 KiB");
        crc = crc32c::crc32c_combine(crc, *block, bytes);
    }
    crc
}

/// Hashes a verified body to its end.
pub(super) async fn hash(stream: BodyStream) -> Result<Hashed, Error> {
    hash_pieces(stream.map(|piece| piece.map_err(Error::from))).await
}

/// Hashes pieces to their end, a batch at a time and off the reactor.
pub(super) async fn hash_pieces<S>(stream: S) -> Result<Hashed, Error>
where
    S: Stream<Item = Result<bytes::Bytes, Error>> + Send,
{
    let mut stream = std::pin::pin!(stream);
    let sha256 = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    let crc64nvme = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme);
    let mut hasher = Hasher { sha256, crc64nvme, size: 0, block: 0, crcs: Vec::new() };
    let mut ended = false;
    while !ended {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while bytes < BATCH_BYTES {
            let Some(piece) = stream.next().await else {
                ended = true;
                break;
            };
            let piece = piece?;
            bytes += piece.len();
            batch.push(piece);
        }
        let hashing = tokio::task::spawn_blocking(move || {
            batch.iter().for_each(|piece| hasher.update(piece));
            hasher
        });
        hasher = hashing.await.map_err(|_| Error::Blobs(blobs::Error::Closed))?;
    }
    // Combining the checksums of a long blob takes a while, too.
    tokio::task::spawn_blocking(move || hasher.finish()).await.map_err(|_| Error::Blobs(blobs::Error::Closed))
}

#[cfg(test)]
mod tests {
    use holdfast_core::record::ChecksumAlgorithm;

    use super::*;

    #[tokio::test]
    async fn digests_do_not_depend_on_the_pieces() {
        let bytes: Vec<u8> = (0..3 * BLOCK_BYTES as usize + 17).map(|i| (i % 251) as u8).collect();
        for piece in [1000, BLOCK_BYTES as usize, 5 << 20] {
            let pieces: Vec<_> = bytes.chunks(piece).map(|piece| Ok(bytes::Bytes::copy_from_slice(piece))).collect();
            let hashed = hash_pieces(futures::stream::iter(pieces)).await.unwrap();
            assert_eq!(hashed.size, bytes.len() as u64);
            assert_eq!(hashed.crc, crc32c::crc32c(&bytes));
            let blocks: Vec<u32> = bytes.chunks(BLOCK_BYTES as usize).map(crc32c::crc32c).collect();
            assert_eq!(hashed.crcs, blocks);
            let sha256 = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &bytes);
            assert_eq!(hashed.sha256, sha256.as_ref());
            let crc64 = holdfast_core::rules::digest::hash(ChecksumAlgorithm::Crc64Nvme, &bytes);
            assert_eq!(hashed.crc64nvme.to_be_bytes().to_vec(), crc64);
        }
        let empty = hash_pieces(futures::stream::empty()).await.unwrap();
        assert_eq!((empty.size, empty.crcs.len(), empty.crc), (0, 0, 0));
    }
}
