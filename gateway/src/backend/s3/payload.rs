//! A buffered body that can be sent several times, without copying it and with its progress visible.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;

use super::call::Progress;

/// Largest piece handed to the connection at once, so that progress on a slow line shows well before the stall limit.
const FRAME_BYTES_MAX: usize = 256 * 1024;

/// A buffered body and its share of the buffer budget.
#[derive(Debug)]
pub(super) struct Payload {
    pieces: Arc<[Bytes]>,
    pub length: u64,
    pub progress: Arc<Progress>,
    _buffer: OwnedSemaphorePermit,
}

impl Payload {
    pub fn new(pieces: Vec<Bytes>, length: u64, buffer: OwnedSemaphorePermit) -> Self {
        Payload { pieces: pieces.into(), length, progress: Arc::default(), _buffer: buffer }
    }

    /// The body from its beginning.
    pub fn body(&self) -> ByteStream {
        let sending = Sending {
            pieces: Arc::clone(&self.pieces),
            at: 0,
            offset: 0,
            left: self.length,
            progress: Arc::clone(&self.progress),
        };
        ByteStream::new(SdkBody::from_body_1_x(sending))
    }
}

struct Sending {
    pieces: Arc<[Bytes]>,
    at: usize,
    /// Bytes of the current piece that are gone.
    offset: usize,
    left: u64,
    progress: Arc<Progress>,
}

impl http_body::Body for Sending {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        let Some(piece) = this.pieces.get(this.at) else {
            return Poll::Ready(None);
        };
        let end = piece.len().min(this.offset + FRAME_BYTES_MAX);
        let frame = piece.slice(this.offset..end);
        (this.at, this.offset) = if end == piece.len() { (this.at + 1, 0) } else { (this.at, end) };
        this.left -= frame.len() as u64;
        this.progress.add(frame.len() as u64);
        Poll::Ready(Some(Ok(Frame::data(frame))))
    }

    fn is_end_stream(&self) -> bool {
        self.at == self.pieces.len()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
