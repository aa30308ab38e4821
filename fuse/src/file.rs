//! The content of a file that is open: what the repository has, and up to two layers over it.
//!
//! ```text
//! dirty      ◀── writes and truncations of processes
//! flushing   ◀── what the commit under way carries
//! base           a generation of the file in the repository, read by its ETag
//! ```
//! A read takes all three under one mutex, so that it never sees a commit half: when a commit is through, the base becomes
//! the new generation and the layer goes, in one step. A base that another client has changed meanwhile answers
//! [`crate::client::Error::Changed`], and the read begins again from a new look.
//!
//! Changes are counted. Whoever must know that one is in the repository waits until the count of those that are has reached
//! it ([`State::written`], [`State::committed`]); a commit that comes to nothing leaves it where it was.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use holdfast_core::id::{BlobId, ObjectId, Revision};
use holdfast_core::mount::Node;
use holdfast_core::record::Extent;
use tokio::time::Instant;

use crate::attributes::Time;
use crate::error::Errno;
use crate::held::{Held, Rank};
use crate::layer::Layer;
use crate::tree::Ino;
use crate::vfs::Flight;

/// Extents of a file that are remembered.
const MAP_EXTENTS_MAX: usize = 200_000;

/// A file that is open, or that has something to commit.
#[derive(Debug)]
pub struct File {
    /// Its inode.
    pub ino: Ino,
    state: Mutex<State>,
    flights: Mutex<Vec<Flight>>,
}

/// See [`File`].
#[derive(Debug)]
pub struct State {
    /// Identity of the base.
    pub object: ObjectId,
    /// Size of the base.
    pub size: u64,
    /// Generation of the base.
    pub generation: Revision,
    /// The revision of which the base is: what is older does not replace it.
    pub as_of: Revision,
    /// ETag of the base.
    pub etag: String,
    /// Another client has changed it: the base is looked up again before it is read.
    pub stale: bool,
    /// What is written since the commit under way began.
    pub dirty: Option<Layer>,
    /// What the commit under way carries.
    pub flushing: Option<Flushing>,
    /// Since when something is dirty.
    pub dirty_since: Option<Instant>,
    /// Time of the last write.
    pub mtime: Option<Time>,
    /// Changes so far.
    pub written: u64,
    /// Of which so many are in the repository, or will never be, as `failed` says.
    pub committed: u64,
    /// The session was lost since the dirty layer was begun: it goes only to this generation, which the file was then.
    pub guarded: Option<Revision>,
    /// What could not be written, and how often that happened: each handle reports what came after it was opened.
    pub failed: Option<(Errno, u64)>,
    /// It was written since a version was last cut, since then.
    pub uncut_since: Option<Instant>,
    /// A lock on it was lost with the session.
    pub lock_lost: bool,
    /// Where its bytes are.
    pub map: Extents,
    /// Sequence of the last record about it in the journal.
    pub journaled: u64,
    /// Sequence of the first record of the journal that `dirty` stands for; 0 without one.
    pub first_record: u64,
}

/// See [`State::flushing`].
#[derive(Debug)]
pub struct Flushing {
    /// What was dirty.
    pub layer: Arc<Layer>,
    /// Since when.
    pub since: Option<Instant>,
    /// Time of the last write.
    pub mtime: Option<Time>,
    /// Changes up to this one.
    pub upto: u64,
    /// Sequence of its first record in the journal; 0 without one.
    pub first_record: u64,
}

/// Extents of one generation, as far as they were asked for.
#[derive(Debug, Default)]
pub struct Extents {
    generation: Revision,
    by_offset: BTreeMap<u64, Extent>,
}

impl Extents {
    /// Takes what the repository said.
    pub fn learn(&mut self, generation: Revision, extents: &[Extent]) {
        if self.generation != generation || self.by_offset.len() > MAP_EXTENTS_MAX {
            self.by_offset.clear();
            self.generation = generation;
        }
        self.by_offset.extend(extents.iter().map(|extent| (extent.offset, *extent)));
    }

    /// A commit of this mount, which alone writes the file, made another generation of it: what it did not write to is where
    /// it was.
    pub fn go_on(
        &mut self,
        before: Revision,
        after: Revision,
        size: Option<u64>,
        written: impl Iterator<Item = Range<u64>>,
    ) {
        if self.generation != before {
            return;
        }
        self.generation = after;
        for range in written.chain(size.map(|size| size..u64::MAX)) {
            self.forget(&range);
        }
    }

    fn forget(&mut self, range: &Range<u64>) {
        let reaches = |extent: &Extent| extent.offset + extent.length > range.start;
        let first = self.by_offset.range(..range.start).next_back().filter(|(_, extent)| reaches(extent));
        let from = first.map_or(range.start, |(at, _)| *at);
        let touched: Vec<Extent> = self.by_offset.range(from..range.end).map(|(_, extent)| *extent).collect();
        for extent in touched {
            self.by_offset.remove(&extent.offset);
            let rests = [extent.offset..range.start, range.end..extent.offset + extent.length];
            for rest in rests.into_iter().filter(|rest| rest.start < rest.end) {
                let moved = if extent.blob == BlobId::HOLE { 0 } else { rest.start - extent.offset };
                let blob_offset = extent.blob_offset + moved;
                let rest = Extent { offset: rest.start, length: rest.end - rest.start, blob_offset, ..extent };
                self.by_offset.insert(rest.offset, rest);
            }
        }
    }

    /// The extents of a range of a generation, clipped to it; none when not all are known.
    #[must_use]
    pub fn of(&self, generation: Revision, range: &Range<u64>) -> Option<Vec<Extent>> {
        if self.generation != generation {
            return None;
        }
        let mut found = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let (_, extent) = self.by_offset.range(..=at).next_back()?;
            let end = extent.offset + extent.length;
            if end <= at {
                return None;
            }
            let length = end.min(range.end) - at;
            let within = at - extent.offset;
            let blob_offset = if extent.blob == BlobId::HOLE { 0 } else { extent.blob_offset + within };
            found.push(Extent { offset: at, length, blob: extent.blob, blob_offset });
            at += length;
        }
        Some(found)
    }
}

/// What a read stands on.
#[derive(Clone, Debug)]
pub struct Base {
    /// Size of what is read below the layers.
    pub size: u64,
    /// Generation.
    pub generation: Revision,
    /// ETag.
    pub etag: String,
    /// It must be looked up again.
    pub stale: bool,
}

impl File {
    /// A file as the repository had it as of a revision.
    #[must_use]
    pub fn new(ino: Ino, node: &Node, as_of: Revision) -> Arc<Self> {
        let state = State {
            object: node.object,
            size: node.size,
            generation: node.generation,
            as_of,
            etag: node.etag.clone(),
            stale: false,
            dirty: None,
            flushing: None,
            dirty_since: None,
            mtime: None,
            written: 0,
            committed: 0,
            guarded: None,
            failed: None,
            uncut_since: None,
            lock_lost: false,
            map: Extents::default(),
            journaled: 0,
            first_record: 0,
        };
        Arc::new(Self { ino, state: Mutex::new(state), flights: Mutex::default() })
    }

    /// What is on its way; held for moments only.
    pub fn flights(&self) -> MutexGuard<'_, Vec<Flight>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its state; held for moments only.
    pub fn state(&self) -> Held<'_, State> {
        Held::take(&self.state, Rank::State)
    }
}

impl State {
    /// Bytes of the file as processes see it.
    #[must_use]
    pub fn shown_size(&self) -> u64 {
        self.layers().fold(self.size, |below, layer| layer.size(below))
    }

    /// The layers, from below.
    pub fn layers(&self) -> impl Iterator<Item = &Layer> {
        self.flushing.iter().map(|flushing| &*flushing.layer).chain(&self.dirty)
    }

    /// Time of the last write that the repository does not know.
    #[must_use]
    pub fn shown_mtime(&self) -> Option<Time> {
        self.mtime.or_else(|| self.flushing.as_ref()?.mtime)
    }

    /// Since when the oldest change waits.
    #[must_use]
    pub fn oldest(&self) -> Option<Instant> {
        self.flushing.as_ref().and_then(|flushing| flushing.since).or(self.dirty_since)
    }

    /// Whether nothing waits to be committed.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.dirty.is_none() && self.flushing.is_none()
    }

    /// The layer that a change goes to, which is recorded in the journal as `record`.
    pub fn layer(&mut self, now: Instant, record: Option<u64>) -> &mut Layer {
        self.dirty_since.get_or_insert(now);
        self.uncut_since.get_or_insert(now);
        self.written += 1;
        if let Some(record) = record {
            self.journaled = record;
            if self.first_record == 0 {
                self.first_record = record;
            }
        }
        self.dirty.get_or_insert_default()
    }

    /// Takes what is dirty into a commit: at most `pieces_max` pieces, the rest stays dirty.
    pub fn take(&mut self, pieces_max: usize) -> Option<Arc<Layer>> {
        if self.flushing.is_some() {
            return None;
        }
        let mut layer = self.dirty.take()?;
        self.dirty = layer.split_off(pieces_max);
        let layer = Arc::new(layer);
        self.flushing = Some(Flushing {
            layer: Arc::clone(&layer),
            since: self.dirty_since,
            mtime: self.mtime,
            upto: if self.dirty.is_some() { self.committed } else { self.written },
            first_record: self.first_record,
        });
        if self.dirty.is_none() {
            (self.dirty_since, self.mtime, self.first_record) = (None, None, 0);
        }
        Some(layer)
    }

    /// What a commit carried is in the repository.
    pub fn is_through(&mut self) {
        if let Some(flushing) = self.flushing.take() {
            self.committed = self.committed.max(flushing.upto);
            self.guarded = None;
        }
    }

    /// What a read stands on now.
    #[must_use]
    pub fn base(&self) -> Base {
        Base { size: self.size, generation: self.generation, etag: self.etag.clone(), stale: self.stale }
    }

    /// Whether the layers say every byte of a range, so that the base is not needed for it.
    #[must_use]
    pub fn is_covered(&self, range: &Range<u64>) -> bool {
        let mut below = self.size;
        range.start >= self.size
            || self.layers().any(|layer| {
                let covers = layer.covers(range.start, range.end, below);
                below = layer.size(below);
                covers
            })
    }

    /// Lays what was written over bytes of the base.
    pub fn lay_over(&self, offset: u64, buffer: &mut [u8]) {
        self.layers().for_each(|layer| layer.lay_over(offset, buffer));
    }

    /// The repository has another generation, as of a revision: by a commit of this mount, or of others. What is older than
    /// the base is ignored.
    pub fn rebase(&mut self, node: &Node, as_of: Revision) {
        if as_of < self.as_of {
            return;
        }
        self.as_of = as_of;
        self.object = node.object;
        self.size = node.size;
        self.generation = node.generation;
        self.etag.clone_from(&node.etag);
        self.stale = false;
    }

    /// Gives the layer of a failed commit back, below what was written since.
    pub fn put_back(&mut self) {
        let Some(flushed) = self.flushing.take() else { return };
        let layer = Arc::unwrap_or_clone(flushed.layer);
        self.dirty = Some(match self.dirty.take() {
            Some(later) => layer.below(&later),
            None => layer,
        });
        self.dirty_since = flushed.since.or(self.dirty_since);
        self.mtime = self.mtime.or(flushed.mtime);
        self.uncut_since = self.uncut_since.or(self.dirty_since);
        if flushed.first_record > 0 {
            self.first_record = flushed.first_record;
        }
    }

    /// Gives up what is not in the repository, and says so to every handle.
    pub fn give_up(&mut self, errno: Errno) -> Option<Layer> {
        self.put_back();
        self.fail(errno);
        self.committed = self.written;
        (self.dirty_since, self.mtime, self.uncut_since, self.guarded, self.first_record) = (None, None, None, None, 0);
        self.stale = true;
        self.dirty.take()
    }

    /// How often something could not be written.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failed.map_or(0, |(_, count)| count)
    }

    /// Something could not be written.
    pub fn fail(&mut self, errno: Errno) {
        self.failed = Some((errno, self.failures() + 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_generation_does_not_become_the_base() {
        let node = |size| Node { size, ..Node::default() };
        let file = File::new(7, &node(1), 10);
        let mut state = file.state();
        state.rebase(&node(2), 20);
        state.stale = true;
        state.rebase(&node(3), 19);
        assert_eq!((state.size, state.as_of, state.stale), (2, 20, true));
        state.rebase(&node(4), 20);
        assert_eq!((state.size, state.stale), (4, false));
    }
}
