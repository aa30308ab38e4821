//! A connection's bytes under watch: when the last one moved, whether a request's head takes too long, whether it gives its
//! body two lengths, whether the client refuses to read.

use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

/// What a connection is doing.
#[derive(Debug)]
pub(super) struct Activity {
    born: Instant,
    last_ms: AtomicU64,
    in_work: AtomicUsize,
    requests: AtomicU64,
    head_timed_out: AtomicBool,
    two_lengths: AtomicBool,
}

impl Default for Activity {
    fn default() -> Self {
        Self {
            born: Instant::now(),
            last_ms: AtomicU64::new(0),
            in_work: AtomicUsize::new(0),
            requests: AtomicU64::new(0),
            head_timed_out: AtomicBool::new(false),
            two_lengths: AtomicBool::new(false),
        }
    }
}

impl Activity {
    fn touch(&self) {
        let now = u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(now, Ordering::Relaxed);
    }

    /// Time since the last byte moved or the last request ended.
    pub fn silent_for(&self) -> Duration {
        self.born.elapsed().saturating_sub(Duration::from_millis(self.last_ms.load(Ordering::Relaxed)))
    }

    /// A request is in work.
    pub fn is_busy(&self) -> bool {
        self.in_work.load(Ordering::Acquire) > 0
    }

    pub fn head_timed_out(&self) -> bool {
        self.head_timed_out.load(Ordering::Relaxed)
    }

    /// Whether the head that was just read had both Transfer-Encoding and Content-Length; asked once per request.
    pub fn take_two_lengths(&self) -> bool {
        self.two_lengths.swap(false, Ordering::AcqRel)
    }

    pub fn begin(self: &Arc<Self>) -> InWork {
        self.in_work.fetch_add(1, Ordering::AcqRel);
        self.requests.fetch_add(1, Ordering::AcqRel);
        InWork(Arc::clone(self))
    }
}

/// A request in work, until its reply has gone out.
pub(super) struct InWork(Arc<Activity>);

impl Drop for InWork {
    fn drop(&mut self) {
        self.0.touch();
        self.0.in_work.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A reply's body that ends its request's work.
pub(super) struct Tracked<B> {
    inner: Pin<Box<B>>,
    _guard: InWork,
}

impl<B> Tracked<B> {
    pub fn new(inner: B, guard: InWork) -> Self {
        Self { inner: Box::pin(inner), _guard: guard }
    }
}

impl<B: Body> Body for Tracked<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.inner.as_mut().poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Reads a head's lines as they pass, because the parser drops a Content-Length beside Transfer-Encoding and tells nobody.
/// Whoever stands before us may have believed the other one.
#[derive(Default)]
struct HeadScan {
    /// The line's beginning, lower case; long enough for the names that matter.
    line: Vec<u8>,
    line_bytes: usize,
    transfer_encoding: bool,
    content_length: bool,
}

impl HeadScan {
    const NAME_BYTES_MAX: usize = 20;

    /// Takes bytes up to the head's end; there, whether it had both.
    fn feed(&mut self, bytes: &[u8]) -> Option<bool> {
        for byte in bytes {
            if *byte != b'\n' {
                self.line_bytes += usize::from(*byte != b'\r');
                if self.line.len() < Self::NAME_BYTES_MAX {
                    self.line.push(byte.to_ascii_lowercase());
                }
                continue;
            }
            self.transfer_encoding |= self.line.starts_with(b"transfer-encoding:");
            self.content_length |= self.line.starts_with(b"content-length:");
            if self.line_bytes == 0 && (self.transfer_encoding || self.content_length || !self.line.is_empty()) {
                let both = self.transfer_encoding && self.content_length;
                *self = Self::default();
                return Some(both);
            }
            self.line.clear();
            self.line_bytes = 0;
        }
        None
    }
}

/// A connection under watch.
pub(super) struct Watched<I> {
    inner: I,
    activity: Arc<Activity>,
    /// How long a head may take; `None` for HTTP/2, which idles instead.
    head_deadline: Option<Duration>,
    head: Option<Pin<Box<Sleep>>>,
    requests_seen: u64,
    scan: HeadScan,
    write_deadline: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<I> Watched<I> {
    /// `head` is how long each head may take, and until when the first.
    pub fn new(inner: I, activity: Arc<Activity>, head: Option<(Duration, Instant)>, write_deadline: Duration) -> Self {
        let first = head.map(|(_, until)| Box::pin(sleep_until(until)));
        Self {
            inner,
            activity,
            head_deadline: head.map(|(each, _)| each),
            head: first,
            requests_seen: 0,
            scan: HeadScan::default(),
            write_deadline,
            stalled: None,
        }
    }

    fn poll_head(&mut self, cx: &mut Context<'_>, came: bool) -> io::Result<()> {
        let requests = self.activity.requests.load(Ordering::Acquire);
        if self.requests_seen != requests {
            // The head that was awaited came.
            (self.requests_seen, self.head) = (requests, None);
        }
        if self.activity.is_busy() {
            return Ok(());
        }
        if let (true, None, Some(each)) = (came, &self.head, self.head_deadline) {
            self.head = Some(Box::pin(sleep(each)));
        }
        let Some(head) = &mut self.head else { return Ok(()) };
        if head.as_mut().poll(cx).is_pending() {
            return Ok(());
        }
        self.activity.head_timed_out.store(true, Ordering::Relaxed);
        Err(ErrorKind::TimedOut.into())
    }

    fn scan_head(&mut self, bytes: &[u8]) {
        if self.head_deadline.is_some()
            && !self.activity.is_busy()
            && let Some(both) = self.scan.feed(bytes)
        {
            self.activity.two_lengths.store(both, Ordering::Release);
        }
    }

    fn wrote(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if matches!(polled, Poll::Ready(Ok(count)) if count > 0) {
            self.activity.touch();
        }
        self.watch_write(cx, polled)
    }

    fn watch_write<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.stalled = None;
            return polled;
        }
        let deadline = self.write_deadline;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(deadline)));
        if stalled.as_mut().poll(cx).is_ready() { Poll::Ready(Err(ErrorKind::TimedOut.into())) } else { Poll::Pending }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Watched<I> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let polled = Pin::new(&mut this.inner).poll_read(cx, buffer);
        let came = buffer.filled().len() > before;
        if came {
            this.activity.touch();
            this.scan_head(&buffer.filled()[before..]);
        }
        // Bytes of a head that is late do not save it.
        this.poll_head(cx, came)?;
        polled
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Watched<I> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.inner).poll_write(cx, bytes);
        this.wrote(cx, polled)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.inner).poll_write_vectored(cx, slices);
        this.wrote(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // It is asked for at every poll of a connection, and moves no byte that was not written before.
        let this = self.get_mut();
        let polled = Pin::new(&mut this.inner).poll_flush(cx);
        this.watch_write(cx, polled)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.inner).poll_shutdown(cx);
        this.watch_write(cx, polled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_with_two_lengths_is_seen_however_it_arrives() {
        for (head, both) in [
            ("PUT / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nbody", true),
            ("PUT / HTTP/1.1\r\ntransfer-encoding: chunked\r\nx: y\r\nCONTENT-LENGTH: 5\r\n\r\n", true),
            ("PUT / HTTP/1.1\r\nContent-Length: 5\r\n\r\nTransfer-Encoding: chunked\r\n\r\n", false),
            ("PUT / HTTP/1.1\r\nx-content-length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", false),
            ("GET / HTTP/1.1\r\nhost: x\r\n\r\n", false),
        ] {
            for step in [1, 7, 1000] {
                let mut scan = HeadScan::default();
                let found = head.as_bytes().chunks(step).find_map(|bytes| scan.feed(bytes));
                assert_eq!(found, Some(both), "{head:?} by {step}");
            }
        }
    }
}
