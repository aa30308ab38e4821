//! From a version to its bytes.
//!
//! [`Blobs::plan`] looks up what a read needs while the caller holds a view; [`Blobs::open`] starts it without one. The body
//! is pulled: nothing runs ahead of a slow client but a bounded number of fetches.
//!
//! ```text
//! extents ─▶ window of rows ─▶ steps ─┬ inline: bytes at hand
//!                                     ├ entry:  through the cache, one fetch for many readers
//!                                     ├ zeros:  a hole, of no blob
//!                                     └ stream: a long run of blocks, straight from the backend
//! ```
//! Ranges of the backend are widened to whole blocks of 128 KiB, verified, and clipped on delivery.

mod steps;
mod verify;

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::stream::{BoxStream, try_unfold};
use futures::{Stream, StreamExt as _};
use holdfast_core::error::Error as Refusal;
use holdfast_core::record::Extent;
use holdfast_core::view::{Found, View};
use tokio_util::task::AbortOnDropHandle;

use self::steps::{Opened, Step};
use super::guard::{BusyGuard, ReadGuard};
use super::{Blobs, Error};

/// Extents that a read knows at a time; the rest is looked up when these are read.
pub const EXTENTS_KNOWN_MAX: usize = 1024;
/// Extents whose rows a read holds at a time.
pub const WINDOW_EXTENTS: usize = 64;
/// Fetches that run ahead of the client.
pub const AHEAD_STEPS: usize = 4;
/// Bytes past which no further fetch is started ahead of the client.
pub const AHEAD_BYTES: u64 = 2 << 20;
/// Longest piece that is delivered at once.
pub const PIECE_BYTES_MAX: usize = 256 << 10;

/// What a read needs: found in one view, valid without it.
#[derive(Debug)]
pub struct ReadPlan {
    length: u64,
    cursor: Cursor,
    guard: Option<ReadGuard>,
    background: bool,
}

impl ReadPlan {
    /// Bytes that the body will have.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Marks the read as a job's: it does not count as a client's transfer.
    #[must_use]
    pub fn in_background(mut self) -> Self {
        self.background = true;
        self
    }
}

/// What of a version is still to be read.
#[derive(Debug)]
struct Cursor {
    /// For looking up what `known` does not hold, when the read is of a version.
    found: Option<Box<Found>>,
    /// Bytes past those that `known` and `steps` cover.
    unknown: Range<u64>,
    known: VecDeque<Extent>,
    steps: VecDeque<Step>,
}

/// The bytes of a read, verified. Ends with an error, never early, when they cannot be delivered.
pub struct BodyStream {
    length: u64,
    inner: Inner,
}

enum Inner {
    Whole(Option<Bytes>),
    /// The mutex makes it `Sync`; it is never locked.
    Pieces(Mutex<BoxStream<'static, Result<Bytes, Error>>>),
}

impl Blobs {
    /// Looks up what reading `range` of a version needs.
    ///
    /// # Errors
    /// [`Error::Refused`] when the range passes the end, it is a delete marker, or the version's bytes went since it was
    /// found ([`super::Kind::Changed`]: find it again); [`Error::State`] when the state cannot be read.
    pub fn plan(&self, view: &View<'_>, found: &Found, range: Range<u64>) -> Result<ReadPlan, Error> {
        // Found in an older view perhaps: its pages may be of other bytes by now.
        let found = &view.again(found)?;
        let extents = view.extents(found, range.clone())?;
        if let Some(bytes) = self.cached_whole(&extents) {
            return Ok(ReadPlan::at_hand(bytes));
        }
        match self.readers().enter(view.revision()) {
            Some(guard) => self.plan_extents(view, Some(found), extents, range, guard),
            None => {
                // Blobs of that state may be gone already. The state of now tells.
                let guard = self.readers().enter_next();
                let local = self.shared.facts.local();
                let view = local.view();
                let found = view.again(found)?;
                let extents = view.extents(&found, range.clone())?;
                self.plan_extents(&view, Some(&found), extents, range, guard)
            }
        }
    }

    /// As [`Blobs::plan`], for extents that a job has read from `view` after `guard` was entered.
    pub(crate) fn plan_extents(
        &self,
        view: &View<'_>,
        found: Option<&Found>,
        mut extents: Vec<Extent>,
        range: Range<u64>,
        guard: ReadGuard,
    ) -> Result<ReadPlan, Error> {
        let length = range.end - range.start;
        let single_window = extents.len() <= WINDOW_EXTENTS;
        if found.is_some() && extents.len() > EXTENTS_KNOWN_MAX {
            extents.truncate(EXTENTS_KNOWN_MAX);
            extents.shrink_to_fit();
        }
        let known_to = extents.last().map_or(range.end, |last| last.offset + last.length);
        let found = found.filter(|_| !single_window).cloned().map(Box::new);
        let mut cursor = Cursor { found, unknown: known_to..range.end, known: extents.into(), steps: VecDeque::new() };
        cursor.resolve(view, &guard)?;
        let inline_only = cursor.is_known() && cursor.steps.iter().all(Step::is_inline);
        Ok(ReadPlan { length, cursor, guard: (!inline_only).then_some(guard), background: false })
    }

    /// The bytes of a small object that is a part of one hot blob.
    fn cached_whole(&self, extents: &[Extent]) -> Option<Bytes> {
        let [extent] = extents else { return None };
        let range = steps::within(extent.blob_offset, extent.length)?;
        let whole = self.shared.cache.whole(extent.blob)?;
        (range.end <= whole.len()).then(|| whole.slice(range))
    }

    /// Starts a read: returns when its first bytes are at hand and verified, so that a failure can still be an answer.
    ///
    /// # Errors
    /// [`Error::Backend`], [`Error::Damaged`], [`Error::Mismatch`].
    ///
    /// # Cancel safety
    /// A dropped call or body stops the read.
    pub async fn open(&self, plan: ReadPlan) -> Result<BodyStream, Error> {
        let ReadPlan { length, mut cursor, guard, background } = plan;
        let single = cursor.is_known() && cursor.steps.len() <= 1;
        if length == 0 {
            return Ok(BodyStream { length, inner: Inner::Whole(None) });
        }
        if single && let Some(step) = cursor.steps.pop_front_if(|step| !step.is_stream()) {
            let bytes = step.open(self).await?.into_bytes()?;
            return Ok(BodyStream::whole(bytes));
        }
        let busy = (!background).then(|| self.busy().enter());
        let mut pump = Pump {
            blobs: self.clone(),
            cursor,
            guard,
            current: None,
            ahead: VecDeque::new(),
            left: length,
            _busy: busy,
        };
        let first = pump.next().await?;
        let pieces = try_unfold((first, pump), |(first, mut pump)| async move {
            let piece = match first {
                Some(first) => Some(first),
                None => pump.next().await?,
            };
            Ok(piece.map(|piece| (piece, (None, pump))))
        });
        Ok(BodyStream { length, inner: Inner::Pieces(Mutex::new(pieces.boxed())) })
    }
}

impl ReadPlan {
    fn at_hand(bytes: Bytes) -> Self {
        let steps = VecDeque::from([Step::at_hand(bytes)]);
        let length = steps.iter().map(Step::length).sum();
        let cursor = Cursor { found: None, unknown: 0..0, known: VecDeque::new(), steps };
        Self { length, cursor, guard: None, background: false }
    }
}

impl Cursor {
    /// Whether every byte to be read is covered by steps.
    fn is_known(&self) -> bool {
        self.known.is_empty() && self.unknown.is_empty()
    }

    /// Turns the next known extents into steps.
    fn resolve(&mut self, view: &View<'_>, guard: &ReadGuard) -> Result<(), Error> {
        for extent in self.known.drain(..self.known.len().min(WINDOW_EXTENTS)) {
            steps::add(&mut self.steps, view, &extent, guard.revision())?;
        }
        Ok(())
    }

    /// As [`Cursor::resolve`]; looks extents up again where they are not known, or where a job has replaced them.
    fn refill(&mut self, view: &View<'_>, guard: &ReadGuard) -> Result<(), Error> {
        let before: Vec<Extent> = self.known.iter().take(WINDOW_EXTENTS).copied().collect();
        if !before.is_empty() {
            match self.resolve(view, guard) {
                Err(Error::Refused(Refusal::Changed)) if self.found.is_some() => {
                    self.steps.clear();
                    self.known.clear();
                    self.unknown.start = before[0].offset;
                }
                other => return other,
            }
        }
        let Some(found) = &self.found else {
            return Err(Error::Refused(Refusal::Changed));
        };
        let found = view.again(found)?;
        let mut extents = view.extents(&found, self.unknown.clone())?;
        extents.truncate(EXTENTS_KNOWN_MAX);
        self.unknown.start = extents.last().map_or(self.unknown.end, |last| last.offset + last.length);
        self.known = extents.into();
        self.resolve(view, guard)
    }
}

/// A read that runs: pulled by its client, with a few fetches ahead.
struct Pump {
    blobs: Blobs,
    cursor: Cursor,
    guard: Option<ReadGuard>,
    current: Option<Opened>,
    ahead: VecDeque<Ahead>,
    left: u64,
    _busy: Option<BusyGuard>,
}

/// A fetch that runs ahead of the client.
struct Ahead {
    bytes: u64,
    opening: AbortOnDropHandle<Result<Opened, Error>>,
}

impl Pump {
    /// The next verified piece; `None` at the complete end.
    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        while self.left > 0 {
            let Some(current) = &mut self.current else {
                self.current = Some(self.open_next().await?);
                continue;
            };
            match current.next().await? {
                Some(piece) => {
                    self.left -= piece.len() as u64;
                    self.start_ahead();
                    return Ok(Some(piece));
                }
                None => self.current = None,
            }
        }
        Ok(None)
    }

    async fn open_next(&mut self) -> Result<Opened, Error> {
        if let Some(ahead) = self.ahead.pop_front() {
            return ahead.opening.await.unwrap_or(Err(Error::Closed));
        }
        if self.cursor.steps.is_empty() {
            self.refill().await?;
        }
        let step = self.cursor.steps.pop_front().ok_or(Error::Refused(Refusal::Changed))?;
        self.start_ahead();
        step.open(&self.blobs).await
    }

    /// Starts fetches while few bytes are at hand or on their way.
    fn start_ahead(&mut self) {
        let mut bytes = self.current.as_ref().map_or(0, Opened::left);
        bytes += self.ahead.iter().map(|ahead| ahead.bytes).sum::<u64>();
        while self.ahead.len() < AHEAD_STEPS && bytes < AHEAD_BYTES {
            let Some(step) = self.cursor.steps.pop_front() else { return };
            let length = step.length();
            bytes += length;
            let blobs = self.blobs.clone();
            let opening = self.blobs.shared.tasks.spawn(async move { step.open(&blobs).await });
            self.ahead.push_back(Ahead { bytes: length, opening: AbortOnDropHandle::new(opening) });
        }
    }

    /// Looks up the next window in the state of now. Point reads of a disk engine leave the reactor.
    async fn refill(&mut self) -> Result<(), Error> {
        let (blobs, guard) = (self.blobs.clone(), self.guard.take());
        let empty = Cursor { found: None, unknown: 0..0, known: VecDeque::new(), steps: VecDeque::new() };
        let mut cursor = std::mem::replace(&mut self.cursor, empty);
        let looked_up = self.blobs.shared.tasks.spawn_blocking(move || {
            let guard = guard.unwrap_or_else(|| blobs.readers().enter_next());
            let local = blobs.shared.facts.local();
            let result = cursor.refill(&local.view(), &guard);
            (result, cursor, guard)
        });
        let (result, cursor, guard) = looked_up.await.map_err(|_| Error::Closed)?;
        (self.cursor, self.guard) = (cursor, Some(guard));
        result
    }
}

impl BodyStream {
    /// A body at hand.
    #[must_use]
    pub fn whole(bytes: Bytes) -> Self {
        Self { length: bytes.len() as u64, inner: Inner::Whole(Some(bytes)) }
    }

    /// Bytes of the whole body.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The whole body, when it is at hand.
    ///
    /// # Errors
    /// The body itself, when it has to be streamed.
    pub fn into_whole(self) -> Result<Bytes, Self> {
        match self.inner {
            Inner::Whole(bytes) => Ok(bytes.unwrap_or_default()),
            Inner::Pieces(_) => Err(self),
        }
    }
}

impl fmt::Debug for BodyStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BodyStream").field("length", &self.length).finish_non_exhaustive()
    }
}

impl Stream for BodyStream {
    type Item = Result<Bytes, Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match &mut self.get_mut().inner {
            Inner::Whole(bytes) => Poll::Ready(bytes.take().map(Ok)),
            Inner::Pieces(pieces) => {
                // A panic while polling leaves the stream unusable, whatever the mutex thinks.
                let pieces = pieces.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
                pieces.poll_next_unpin(cx)
            }
        }
    }
}
