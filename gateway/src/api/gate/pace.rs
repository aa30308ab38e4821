//! The request's body on its way in: counted, held to a floor of speed, and its rest handed back when nobody wants it.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use s3s::StdError;
use tokio::time::{Instant, Sleep};

use crate::api::s3::body::BodyTooSlow;

/// A client that sends less than this over [`BODY_FLOOR_WINDOW`] is told to go: 408.
pub const BODY_FLOOR_BYTES_PER_SECOND: u64 = 1024;
/// Time spent waiting for the client over which the floor is measured. Time in which we do not read does not count.
pub const BODY_FLOOR_WINDOW: Duration = Duration::from_secs(60);

/// What the gate sees of a body that someone else reads.
#[derive(Debug)]
pub(super) struct Intake<B> {
    bytes: AtomicU64,
    too_slow: AtomicBool,
    rest: Mutex<Option<B>>,
}

impl<B> Default for Intake<B> {
    fn default() -> Self {
        Self { bytes: AtomicU64::new(0), too_slow: AtomicBool::new(false), rest: Mutex::new(None) }
    }
}

impl<B> Intake<B> {
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub fn was_too_slow(&self) -> bool {
        self.too_slow.load(Ordering::Relaxed)
    }

    /// What the reader left, once it has dropped the body.
    pub fn take_rest(&self) -> Option<B> {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The floor's settings; tests use a shorter window.
#[derive(Clone, Copy, Debug)]
pub(super) struct Floor {
    pub bytes_per_second: u64,
    pub window: Duration,
}

impl Default for Floor {
    fn default() -> Self {
        Self { bytes_per_second: BODY_FLOOR_BYTES_PER_SECOND, window: BODY_FLOOR_WINDOW }
    }
}

/// A body under the floor.
pub(super) struct Paced<B> {
    inner: Option<B>,
    intake: Arc<Intake<B>>,
    floor: Floor,
    window_bytes: u64,
    waited: Duration,
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl<B> Paced<B> {
    pub fn new(inner: B, intake: Arc<Intake<B>>, floor: Floor) -> Self {
        Self { inner: Some(inner), intake, floor, window_bytes: 0, waited: Duration::ZERO, waiting: None }
    }

    fn count(&mut self, bytes: u64) {
        self.intake.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.window_bytes += bytes;
        if let Some((since, _)) = self.waiting.take() {
            self.waited += since.elapsed();
        }
    }

    /// The wait for the client has begun or goes on: true once it has taken the window without bringing the bytes.
    fn poll_too_slow(&mut self, cx: &mut Context<'_>) -> bool {
        let owed = (self.floor.bytes_per_second as f64 * self.floor.window.as_secs_f64()) as u64;
        loop {
            let left = self.floor.window.saturating_sub(self.waited);
            let (_, sleep) = self.waiting.get_or_insert_with(|| (Instant::now(), Box::pin(tokio::time::sleep(left))));
            if sleep.as_mut().poll(cx).is_pending() {
                return false;
            }
            if self.window_bytes < owed {
                self.intake.too_slow.store(true, Ordering::Relaxed);
                return true;
            }
            (self.window_bytes, self.waited, self.waiting) = (0, Duration::ZERO, None);
        }
    }
}

impl<B: Body<Data = Bytes, Error: Into<StdError>> + Unpin> Body for Paced<B> {
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        let this = self.get_mut();
        let Some(inner) = this.inner.as_mut() else { return Poll::Ready(None) };
        let polled = Pin::new(inner).poll_frame(cx);
        if polled.is_pending() && this.poll_too_slow(cx) {
            let bytes_per_second = this.floor.bytes_per_second;
            return Poll::Ready(Some(Err(Box::new(BodyTooSlow { bytes_per_second }))));
        }
        let frame = ready!(polled);
        if let Some(Ok(frame)) = &frame {
            this.count(frame.data_ref().map_or(0, |data| data.len() as u64));
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}

impl<B> Drop for Paced<B> {
    fn drop(&mut self) {
        *self.intake.rest.lock().unwrap_or_else(PoisonError::into_inner) = self.inner.take();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt as _;
    use http_body_util::{BodyExt as _, StreamBody};

    fn drip(pieces: u32, piece: usize, pause: Duration) -> impl Body<Data = Bytes, Error = StdError> + Unpin {
        let stream = futures::stream::iter(0..pieces).then(move |_| async move {
            tokio::time::sleep(pause).await;
            Ok(Frame::data(Bytes::from(vec![0; piece])))
        });
        StreamBody::new(Box::pin(stream))
    }

    async fn read(pieces: u32, piece: usize, pause_ms: u64) -> Result<usize, StdError> {
        let floor = Floor { bytes_per_second: 1000, window: Duration::from_millis(200) };
        let body = drip(pieces, piece, Duration::from_millis(pause_ms));
        let intake = Arc::default();
        let read = Paced::new(body, Arc::clone(&intake), floor).collect().await.map(|whole| whole.to_bytes().len());
        assert_eq!(intake.was_too_slow(), read.is_err());
        assert!(intake.take_rest().is_some());
        read
    }

    #[tokio::test]
    async fn a_body_below_the_floor_ends() {
        assert_eq!(read(10, 2000, 50).await.unwrap(), 20_000, "fast enough in every window");
        assert!(read(100, 1, 30).await.unwrap_err().is::<BodyTooSlow>(), "a drip");
        assert!(read(1, 1, 60_000).await.unwrap_err().is::<BodyTooSlow>(), "silence");
        assert_eq!(read(2, 1, 20).await.unwrap(), 2, "short bodies may be small");
    }
}
