//! Request bodies: hashed while they pass, verified before they end.
//!
//! ```text
//! s3s stream ──pull──▶ piece ──┬──▶ consumer (one piece behind)
//!                              └──▶ block of 512 KiB ──▶ two hashing lanes, off the reactor
//! ```
//!
//! Promises:
//! - The last piece is withheld until length, Content-MD5, `x-amz-content-sha256`, checksum and trailer have been verified. A
//!   consumer that sees the end of the stream has a complete, correct body; one that sees an error must drop what it wrote.
//! - A stream holds at most two blocks and a few pieces. What it holds past [`IDLE_FLUSH_BYTES`] counts against the one
//!   [`BodyBudget`] of the process; a slow client never holds budget, because a stream that waits hashes what it has.
//! - Bodies up to [`INLINE_HASH_BYTES`] are hashed where they are, bigger ones by at most one worker per core.
//!
//! Absent on purpose: signatures of chunks and trailers (s3s verifies them), and any limit on the object's size (s3s's
//! `put_object_max_size`).

mod budget;
mod error;
mod expect;

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};

use bytes::{Bytes, BytesMut};
use futures::future::poll_immediate;
use futures::stream::{Stream, StreamExt as _, try_unfold};
use s3s::StdError;
use s3s::dto::StreamingBlob;
use tokio::sync::{Semaphore, oneshot};

pub use self::budget::{BODY_BUDGET_BYTES, BODY_BUDGET_WAIT, BodyBudget, Reservation};
pub use self::error::{BodyError, BodyTooSlow};
pub use self::expect::{DeclaredChecksum, Expectation};
pub use super::digest::{ALGORITHMS, CHECKSUM_BLOCK_BYTES, ChecksumAlgorithm, Digests};
use super::digest::{FastLane, SlowLane};

/// Bytes handed to the hashing lanes at once.
pub const HASH_BLOCK_BYTES: usize = 512 * 1024;
/// Up to this much is hashed on the reactor: a quarter of a millisecond.
pub const INLINE_HASH_BYTES: usize = 128 * 1024;
/// What a stream may hold outside the budget, and what it keeps unhashed while its client is silent.
pub const IDLE_FLUSH_BYTES: usize = 32 * 1024;
/// Pieces shorter than this are copied together, so that a client of tiny chunks cannot pin big buffers.
pub const SMALL_PIECE_BYTES: usize = 4 * 1024;
/// Pieces held at most, whatever their size.
pub const HELD_PIECES_MAX: usize = 128;

/// Workers that hash at the same time: one per core, however many bodies come in.
static HASHERS: LazyLock<Semaphore> =
    LazyLock::new(|| Semaphore::new(std::thread::available_parallelism().map_or(2, std::num::NonZero::get).max(2)));

/// Pieces on their way through the lanes; their budget comes back when the last lane drops them.
struct Block {
    pieces: Vec<Bytes>,
    #[expect(dead_code, reason = "held for its drop")]
    reservations: Vec<Reservation>,
}

type LanePair = (SlowLane, FastLane);
type Hashing = Pin<Box<dyn Future<Output = Option<LanePair>> + Send + Sync>>;

enum Lanes {
    Idle(Box<LanePair>),
    Busy(Hashing),
    Gone,
}

async fn off_reactor<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let _permit = HASHERS.acquire().await.ok()?;
    tokio::task::spawn_blocking(work).await.ok()
}

impl Lanes {
    /// Waits for the block in work, if any. Cancel safe: the work is kept here, not in this future.
    async fn settle(&mut self) -> Result<&mut LanePair, BodyError> {
        if let Self::Busy(hashing) = self {
            *self = hashing.await.map_or(Self::Gone, |pair| Self::Idle(Box::new(pair)));
        }
        match self {
            Self::Idle(pair) => Ok(pair),
            Self::Busy(_) | Self::Gone => Err(BodyError::Unread),
        }
    }

    /// Hashes a block: here when it is small, else in the background while the caller reads on.
    async fn feed(&mut self, block: Block, bytes: usize) -> Result<(), BodyError> {
        let (slow, fast) = self.settle().await?;
        if bytes <= INLINE_HASH_BYTES {
            slow.update_all(&block.pieces);
            fast.update_all(&block.pieces);
            return Ok(());
        }
        let Self::Idle(pair) = std::mem::replace(self, Self::Gone) else { return Err(BodyError::Unread) };
        let (mut slow, mut fast) = *pair;
        let block = Arc::new(block);
        let shared = Arc::clone(&block);
        let mut hashing: Hashing = Box::pin(async move {
            let slow = off_reactor(move || {
                slow.update_all(&shared.pieces);
                slow
            });
            let fast = off_reactor(move || {
                fast.update_all(&block.pieces);
                fast
            });
            let (slow, fast) = tokio::join!(slow, fast);
            Some((slow?, fast?))
        });
        // One poll starts the workers; nothing else would until the next block.
        *self = match poll_immediate(&mut hashing).await {
            Some(pair) => Self::Idle(Box::new(pair.ok_or(BodyError::Unread)?)),
            None => Self::Busy(hashing),
        };
        Ok(())
    }
}

/// A body that is hashed and verified while it is read.
pub struct HashedBody {
    source: StreamingBlob,
    expect: Expectation,
    budget: BodyBudget,
    lanes: Lanes,
    /// Seen, not yet given to the lanes.
    pieces: Vec<Bytes>,
    pieces_bytes: usize,
    reservations: Vec<Reservation>,
    reserved_bytes: usize,
    /// Copied together from tiny pieces.
    small: BytesMut,
    /// Came while `small` had to go first.
    stashed: Option<Bytes>,
    /// Given to the lanes or about to be, not yet to the consumer.
    withheld: Option<Bytes>,
    seen_bytes: u64,
    digests: Option<Digests>,
    ended: bool,
}

impl HashedBody {
    /// Wraps a body.
    #[must_use]
    pub fn new(source: StreamingBlob, expect: Expectation, budget: BodyBudget) -> Self {
        let fast = FastLane::new(expect.checksum.as_ref().map(DeclaredChecksum::algorithm));
        Self {
            source,
            expect,
            budget,
            lanes: Lanes::Idle(Box::new((SlowLane::default(), fast))),
            pieces: Vec::new(),
            pieces_bytes: 0,
            reservations: Vec::new(),
            reserved_bytes: 0,
            small: BytesMut::new(),
            stashed: None,
            withheld: None,
            seen_bytes: 0,
            digests: None,
            ended: false,
        }
    }

    /// Declared length of the body.
    #[must_use]
    pub fn length(&self) -> Option<u64> {
        self.expect.length
    }

    /// The next piece, or `None` at the verified end.
    ///
    /// # Errors
    /// Any [`BodyError`]; what was read before is then worthless.
    ///
    /// # Cancel safety
    /// Not cancel safe: a dropped call may lose a piece, which the final verification would then report.
    pub async fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        while !self.ended {
            match self.pull().await? {
                Some(piece) => {
                    self.admit(piece.clone()).await?;
                    if let Some(ready) = self.withheld.replace(piece) {
                        return Ok(Some(ready));
                    }
                }
                None => self.finish().await?,
            }
        }
        Ok(self.withheld.take())
    }

    /// The digests, after [`next`](Self::next) returned `None`.
    ///
    /// # Errors
    /// [`BodyError::Unread`] before that.
    pub fn into_digests(self) -> Result<Digests, BodyError> {
        self.digests.ok_or(BodyError::Unread)
    }

    /// Reads a small body into one buffer.
    ///
    /// # Errors
    /// [`BodyError::TooLarge`] past `limit` bytes, or any other.
    pub async fn collect(mut self, limit: usize) -> Result<(Bytes, Digests), BodyError> {
        let Some(first) = self.next().await? else { return Ok((Bytes::new(), self.into_digests()?)) };
        let declared = self.expect.length.and_then(|length| usize::try_from(length).ok()).unwrap_or(0);
        let Some(second) = self.next().await? else {
            return if first.len() > limit { Err(BodyError::TooLarge) } else { Ok((first, self.into_digests()?)) };
        };
        let mut whole = BytesMut::with_capacity(declared.min(limit));
        for piece in [first, second] {
            whole.extend_from_slice(&piece);
        }
        while let Some(piece) = self.next().await? {
            if whole.len() + piece.len() > limit {
                return Err(BodyError::TooLarge);
            }
            whole.extend_from_slice(&piece);
        }
        if whole.len() > limit { Err(BodyError::TooLarge) } else { Ok((whole.freeze(), self.into_digests()?)) }
    }

    /// Splits into the bytes, for whoever stores them, and the digests, which are ready once the stream has ended well.
    pub fn split(self) -> (impl Stream<Item = Result<Bytes, BodyError>> + Send + Sync + 'static, PendingDigests) {
        let (sender, receiver) = oneshot::channel();
        let stream = try_unfold((self, Some(sender)), |(mut body, mut sender)| async move {
            let piece = body.next().await?;
            if let (Some(digests), Some(sender)) = (body.digests.clone(), sender.take_if(|_| body.ended)) {
                // A receiver that is gone no longer wants them.
                let _ = sender.send(digests);
            }
            Ok(piece.map(|piece| (piece, (body, sender))))
        });
        (stream, PendingDigests(receiver))
    }

    /// The next piece of the source, tiny ones copied together. While the client is silent, nothing big stays unhashed.
    async fn pull(&mut self) -> Result<Option<Bytes>, BodyError> {
        if let Some(stashed) = self.stashed.take() {
            return Ok(Some(stashed));
        }
        loop {
            let item = match poll_immediate(self.source.next()).await {
                Some(item) => item,
                None if !self.small.is_empty() => return Ok(Some(self.small.split().freeze())),
                None => self.wait().await?,
            };
            match item {
                Some(Ok(bytes)) if bytes.is_empty() => {}
                Some(Ok(bytes)) if bytes.len() < SMALL_PIECE_BYTES => {
                    self.small.extend_from_slice(&bytes);
                    if self.small.len() >= SMALL_PIECE_BYTES {
                        return Ok(Some(self.small.split().freeze()));
                    }
                }
                Some(Ok(bytes)) if self.small.is_empty() => return Ok(Some(bytes)),
                Some(Ok(bytes)) => {
                    self.stashed = Some(bytes);
                    return Ok(Some(self.small.split().freeze()));
                }
                Some(Err(error)) => return Err(BodyError::from_source(error)),
                None if self.small.is_empty() => return Ok(None),
                None => return Ok(Some(self.small.split().freeze())),
            }
        }
    }

    /// Waits for a silent client; hands what is held to the lanes as soon as they are free.
    async fn wait(&mut self) -> Result<Option<Result<Bytes, StdError>>, BodyError> {
        loop {
            if self.pieces_bytes < IDLE_FLUSH_BYTES && self.pieces.len() < HELD_PIECES_MAX {
                return Ok(self.source.next().await);
            }
            tokio::select! {
                biased;
                item = self.source.next() => return Ok(item),
                settled = self.lanes.settle() => { settled?; }
            }
            self.flush().await?;
        }
    }

    async fn admit(&mut self, piece: Bytes) -> Result<(), BodyError> {
        self.seen_bytes += piece.len() as u64;
        if let Some(expected) = self.expect.length
            && self.seen_bytes > expected
        {
            return Err(BodyError::Incomplete { expected, got: self.seen_bytes });
        }
        self.pieces_bytes += piece.len();
        self.pieces.push(piece);
        let owed = self.pieces_bytes.saturating_sub(IDLE_FLUSH_BYTES + self.reserved_bytes);
        if owed > 0 {
            self.reservations.push(self.budget.reserve(owed).await?);
            self.reserved_bytes += owed;
        }
        if self.pieces_bytes >= HASH_BLOCK_BYTES || self.pieces.len() >= HELD_PIECES_MAX {
            self.flush().await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), BodyError> {
        let bytes = std::mem::take(&mut self.pieces_bytes);
        self.reserved_bytes = 0;
        let pieces = std::mem::take(&mut self.pieces);
        let block = Block { pieces, reservations: std::mem::take(&mut self.reservations) };
        self.lanes.feed(block, bytes).await
    }

    async fn finish(&mut self) -> Result<(), BodyError> {
        self.flush().await?;
        self.lanes.settle().await?;
        let Lanes::Idle(pair) = std::mem::replace(&mut self.lanes, Lanes::Gone) else { return Err(BodyError::Unread) };
        let (slow, fast) = *pair;
        let digests = fast.finish(slow);
        self.expect.verify(&digests)?;
        self.digests = Some(digests);
        self.ended = true;
        Ok(())
    }
}

/// The digests of a body that someone else is reading.
pub struct PendingDigests(oneshot::Receiver<Digests>);

impl PendingDigests {
    /// Waits for the verified end.
    ///
    /// # Errors
    /// [`BodyError::Unread`] when the stream failed or was dropped before its end; its reader has the reason.
    pub async fn wait(self) -> Result<Digests, BodyError> {
        self.0.await.map_err(|_| BodyError::Unread)
    }
}

#[cfg(test)]
mod tests;
