//! Many extents of a page in one blob: chosen, read, written. Whoever asked commits the command that names it.
//!
//! A mount that writes here and there leaves a page of short extents, of which a page holds [`EXTENTS_PER_PAGE_MAX`]. What
//! lies between two written places is read and written along with them, when it is short: also a hole, when a page is so
//! full that nothing else helps. The bytes of the file are the same before and after.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt as _;
use holdfast_core::command::{CompactPage, NewBlob, NewPlace};
use holdfast_core::error::Error as Refusal;
use holdfast_core::id::{BlobId, BucketName, ObjectKey};
use holdfast_core::path::{blob_path, sibling_path};
use holdfast_core::record::{ContentId, Extent, Location};
use holdfast_core::rules::{BLOCK_BYTES, EXTENTS_PER_PAGE_MAX};
use holdfast_core::view::View;
use tokio::time::Instant;

use super::write::{Upload, crc_bytes};
use super::{Blobs, BodyStream, Error};
use crate::backend::{Body, PutOptions};

/// Extents past which a page cannot wait for a quiet moment: soon it takes no more.
pub const URGENT_EXTENTS: usize = 900;
/// Extents that a page which was urgent has left, at most.
pub const CALM_EXTENTS: usize = EXTENTS_PER_PAGE_MAX / 2;
/// Bytes of one new blob.
pub const COMPACT_BYTES_MAX: u64 = 64 << 20;
/// A longer extent stays as it is.
const EXTENT_BYTES_MAX: u64 = 4 << 20;
/// Without urgency, at most so many bytes are written for each extent that goes.
const BYTES_PER_EXTENT_MAX: u64 = 256 << 10;
/// Holes up to so many bytes are filled, the shortest that help. With the last one, what is left of a page is calm.
const FILLED_HOLES: [u64; 4] = [0, 16 << 10, 64 << 10, 256 << 10];
/// A blob of at most so many bytes, all of which were in the state, stays there.
const INLINE_BYTES_MAX: u64 = 64 << 10;

/// A page, as a view showed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CrowdedPage {
    /// Whose.
    pub content: ContentId,
    /// Its number.
    pub page: u32,
    /// Extents of it, in order.
    pub extents: Vec<Extent>,
    /// What the new blob is named after; without it, its sources.
    pub name: Option<(BucketName, ObjectKey)>,
}

/// A blob that is ready, and the command that puts it in place of extents.
pub(crate) struct Compacted {
    pub(crate) op: CompactPage,
    /// Given back when the command is refused.
    pub(crate) upload: Option<Upload>,
}

/// Which extents become one, by their places among `extents`. What is urgent fills holes until a third of them is gone, too.
#[must_use]
pub fn runs(extents: &[Extent], urgent: bool) -> Vec<Range<usize>> {
    let calm = CALM_EXTENTS.min(extents.len() * 2 / 3);
    let mut best = Vec::new();
    for filled in FILLED_HOLES {
        best = runs_filling(extents, filled, urgent);
        let gone: usize = best.iter().map(|run: &Range<usize>| run.len() - 1).sum();
        if !urgent || extents.len() - gone <= calm {
            break;
        }
    }
    best
}

fn runs_filling(extents: &[Extent], filled: u64, urgent: bool) -> Vec<Range<usize>> {
    let (mut found, mut start, mut bytes) = (Vec::new(), 0, 0u64);
    let mut end = |run: Range<usize>, bytes: u64| {
        // A hole at either end stays one.
        let first = run.clone().find(|at| !extents[*at].is_hole()).unwrap_or(run.end);
        let last = run.clone().rev().find(|at| !extents[*at].is_hole()).map_or(first, |at| at + 1);
        let worth = urgent || bytes <= (last - first) as u64 * BYTES_PER_EXTENT_MAX;
        if last - first >= 2 && worth {
            found.push(first..last);
        }
    };
    for (at, extent) in extents.iter().enumerate() {
        let most = if extent.is_hole() { filled } else { EXTENT_BYTES_MAX };
        let follows = at == 0 || extents[at - 1].end() == extent.offset;
        if extent.length > most {
            end(start..at, bytes);
            (start, bytes) = (at + 1, 0);
        } else if !follows || bytes + extent.length > COMPACT_BYTES_MAX {
            end(start..at, bytes);
            (start, bytes) = (at, extent.length);
        } else {
            bytes += extent.length;
        }
    }
    end(start..extents.len(), bytes);
    found
}

impl Blobs {
    /// Writes the bytes of a run of a page to one blob. The view must be one that shows the page so, of now or of a moment
    /// ago; what has changed since is refused where the command is applied.
    ///
    /// # Errors
    /// As [`Blobs::plan`] and [`Blobs::write`]; [`super::Kind::Changed`] also when nothing tells a name for the blob.
    ///
    /// # Cancel safety
    /// As [`Blobs::write`].
    pub(crate) async fn compact(
        &self,
        page: &CrowdedPage,
        run: Range<usize>,
        deadline: Instant,
    ) -> Result<Compacted, Error> {
        let extents = page.extents[run].to_vec();
        let (first, last) = (extents[0].offset, extents[extents.len() - 1].end());
        let (blobs, looked) = (self.clone(), extents.clone());
        // Point reads of a disk engine leave the reactor.
        let planned = tokio::task::spawn_blocking(move || {
            let local = blobs.shared.facts.local();
            let view = local.view();
            let guard = blobs.readers().enter(view.revision()).ok_or(Error::Refused(Refusal::Changed))?;
            let sources = Sources::of(&view, &looked)?;
            Ok::<_, Error>((blobs.plan_extents(&view, None, looked, first..last, guard)?, sources))
        });
        let (plan, sources) = planned.await.map_err(|_| Error::Closed)??;
        let (length, small) = (plan.length(), plan.length() <= INLINE_BYTES_MAX);
        let stream = self.open(plan.in_background()).await?;
        let (blob, upload) = if small && sources.inline {
            (self.compact_inline(stream).await?, None)
        } else {
            let (blob, upload) = self.compact_to_file(page, sources, stream, length, deadline).await?;
            (blob, Some(upload))
        };
        let op = CompactPage { content: page.content, page: page.page, extents, blob };
        Ok(Compacted { op, upload })
    }

    async fn compact_inline(&self, stream: BodyStream) -> Result<NewBlob, Error> {
        let bytes = stream.try_fold(BytesMut::new(), |mut bytes, piece| async move {
            bytes.extend_from_slice(&piece);
            Ok(bytes)
        });
        let bytes = bytes.await?.freeze();
        let mut crcs = BlockCrcs::default();
        crcs.update(&bytes);
        Ok(NewBlob { id: self.mint(), place: NewPlace::Inline(bytes), crcs: crc_bytes(&crcs.finish().0) })
    }

    async fn compact_to_file(
        &self,
        page: &CrowdedPage,
        sources: Sources,
        stream: BodyStream,
        length: u64,
        deadline: Instant,
    ) -> Result<(NewBlob, Upload), Error> {
        let upload = match (&page.name, sources.path) {
            (Some((bucket, key)), _) => self.new_upload(|blob| blob_path(bucket, key, blob))?,
            (None, Some(path)) => self.new_upload(|blob| sibling_path(&path, blob).unwrap_or_default())?,
            (None, None) => return Err(Error::Refused(Refusal::Changed)),
        };
        let crcs = Arc::new(Mutex::new(BlockCrcs::default()));
        let sent = Arc::clone(&crcs);
        let pieces = stream.inspect_ok(move |piece: &Bytes| {
            sent.lock().expect("nobody panics while holding it").update(piece);
        });
        let options = PutOptions { length: Some(length), deadline: Some(deadline), ..PutOptions::default() };
        let stored = match self.backend().put(&upload.path, Body::stream(pieces), options).await {
            Ok(stored) => stored.length,
            Err(error) => {
                let failed = Error::backend("store", upload.blob, error);
                self.discard_upload(upload);
                return Err(failed);
            }
        };
        let (crcs, sent) = std::mem::take(&mut *crcs.lock().expect("nobody panics while holding it")).finish();
        if (stored, sent) != (length, length) {
            let blob = upload.blob;
            self.discard_upload(upload);
            return Err(Error::Mismatch { blob, what: "was stored with another length than its sources have" });
        }
        let place = NewPlace::Path(upload.path.as_str().to_owned());
        Ok((NewBlob { id: upload.blob, place, crcs: crc_bytes(&crcs) }, upload))
    }
}

/// What is asked of the blobs of a run.
struct Sources {
    /// Whether all bytes are in the state.
    inline: bool,
    /// A file, after which another can be named.
    path: Option<String>,
}

impl Sources {
    fn of(view: &View<'_>, extents: &[Extent]) -> Result<Self, Error> {
        let mut sources = Self { inline: true, path: None };
        for extent in extents.iter().filter(|extent| !extent.is_hole()) {
            let source = view.blob(extent)?;
            sources.inline &= source.inline.is_some();
            let path = source.row.locations.into_iter().find_map(|location| match location {
                Location::Path(path) => sibling_path(&path, BlobId::default()).is_some().then_some(path),
                Location::Inline => None,
            });
            sources.path = sources.path.or(path);
        }
        Ok(sources)
    }
}

/// CRC-32C of each block of 128 KiB of bytes that pass.
#[derive(Default)]
struct BlockCrcs {
    size: u64,
    block: u32,
    crcs: Vec<u32>,
}

impl BlockCrcs {
    fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = usize::try_from(BLOCK_BYTES - self.size % BLOCK_BYTES).unwrap_or(usize::MAX);
            let (part, rest) = bytes.split_at(room.min(bytes.len()));
            self.block = crc32c::crc32c_append(self.block, part);
            self.size += part.len() as u64;
            if self.size.is_multiple_of(BLOCK_BYTES) {
                self.crcs.push(std::mem::take(&mut self.block));
            }
            bytes = rest;
        }
    }

    /// The checksums, and how many bytes passed.
    fn finish(mut self) -> (Vec<u32>, u64) {
        if !self.size.is_multiple_of(BLOCK_BYTES) {
            self.crcs.push(self.block);
        }
        (self.crcs, self.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Extents one after the other, by length; `None` before a length makes it a hole.
    fn extents(lengths: impl IntoIterator<Item = (bool, u64)>) -> Vec<Extent> {
        let mut offset = 0;
        let one = |(hole, length): (bool, u64)| {
            let blob = if hole { BlobId::HOLE } else { BlobId([1; 16]) };
            let extent = Extent { offset, length, blob, blob_offset: 0 };
            offset += length;
            extent
        };
        lengths.into_iter().map(one).collect()
    }

    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;

    #[test]
    fn short_extents_become_one_and_long_ones_and_holes_stay() {
        let check = |lengths: &[(bool, u64)], urgent, expected: &[(usize, usize)]| {
            let found = runs(&extents(lengths.iter().copied()), urgent);
            let found: Vec<_> = found.into_iter().map(|run| (run.start, run.end)).collect();
            assert_eq!(found, expected, "{lengths:?}");
        };
        check(&[], false, &[]);
        check(&[(false, KIB)], true, &[]);
        check(&[(false, KIB), (false, 4 * KIB), (false, KIB)], false, &[(0, 3)]);
        check(&[(false, KIB), (true, KIB), (false, KIB), (false, KIB)], false, &[(2, 4)]);
        check(&[(false, KIB), (false, KIB), (false, 9 * MIB), (false, KIB), (false, KIB)], false, &[(0, 2), (3, 5)]);
        // Two extents are not worth two mebibytes, unless there is no room.
        check(&[(false, KIB), (false, 2 * MIB)], false, &[]);
        check(&[(false, KIB), (false, 2 * MIB)], true, &[(0, 2)]);
    }

    #[test]
    fn a_full_page_is_calm_afterwards_whatever_its_holes_are() {
        for (data, hole) in [(4 * KIB, 4 * KIB), (KIB, 50 * KIB), (4 * KIB, 60 * KIB), (512, 130 * KIB)] {
            let pairs = (64 * MIB / (data + hole)).min(512);
            let page = extents((0..pairs).flat_map(|_| [(false, data), (true, hole)]));
            let urgent = page.len() > URGENT_EXTENTS;
            let runs = runs(&page, urgent);
            let gone: usize = runs.iter().map(|run| run.len() - 1).sum();
            assert!(!urgent || page.len() - gone <= CALM_EXTENTS, "{data} {hole}: {} - {gone}", page.len());
            assert!(runs.iter().all(|run| !page[run.start].is_hole() && !page[run.end - 1].is_hole()));
            let bytes = |run: &Range<usize>| page[run.end - 1].end() - page[run.start].offset;
            assert!(runs.iter().all(|run| bytes(run) <= COMPACT_BYTES_MAX));
        }
    }
}
