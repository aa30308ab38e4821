//! The reply on its way out: counted to its last byte, then one line in the access log (target `holdfast::access`): a failure of
//! ours as a warning, a refusal as information, the rest at level debug, because a line costs as much as a small GET.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::{Method, StatusCode};
use http_body::{Body as _, Frame, SizeHint};
use s3s::{Body, StdError};
use tracing::Level;

use super::health_question;
use super::metrics::HttpMetrics;
use crate::api::request_id::RequestId;

/// What the access log says about a request. The query is left out: it may carry a signature.
pub(super) struct Record {
    pub request_id: RequestId,
    pub method: Method,
    pub path: String,
    pub api: &'static str,
    pub status: StatusCode,
    pub code: Option<String>,
    pub peer: Option<std::net::SocketAddr>,
    pub started: Instant,
    pub received: Box<dyn Fn() -> u64 + Send>,
    pub metrics: HttpMetrics,
}

/// A reply's body.
pub struct ReplyBody {
    inner: Body,
    sent: u64,
    ended: bool,
    first_byte_ms: f64,
    record: Option<Record>,
}

impl ReplyBody {
    pub(super) fn new(inner: Body, record: Record) -> Self {
        let first_byte_ms = record.started.elapsed().as_secs_f64() * 1e3;
        Self { ended: inner.is_end_stream(), inner, sent: 0, first_byte_ms, record: Some(record) }
    }

    fn finish(&mut self) {
        let Some(record) = self.record.take() else { return };
        let seconds = record.started.elapsed().as_secs_f64();
        let received = (record.received)();
        record.metrics.ended(record.api, record.status.as_u16(), seconds, received, self.sent);
        match record.status.as_u16() {
            // A node that is not ready says so to whoever asks, many times a minute.
            503 if health_question(&record.path).is_some() => self.log(&record, seconds, received, Level::DEBUG),
            500.. => self.log(&record, seconds, received, Level::WARN),
            400.. => self.log(&record, seconds, received, Level::INFO),
            _ => self.log(&record, seconds, received, Level::DEBUG),
        }
    }

    /// One line. A level is part of the call's static data, hence one call for each.
    fn log(&self, record: &Record, seconds: f64, received: u64, level: Level) {
        macro_rules! line {
            ($level:expr) => {
                tracing::event!(
                    target: "holdfast::access",
                    $level,
                    request_id = %record.request_id,
                    method = %record.method,
                    path = record.path,
                    api = record.api,
                    status = record.status.as_u16(),
                    code = record.code,
                    received_bytes = received,
                    sent_bytes = self.sent,
                    first_byte_ms = self.first_byte_ms,
                    total_ms = seconds * 1e3,
                    peer = record.peer.map(tracing::field::display),
                    complete = self.ended,
                )
            };
        }
        match level {
            Level::WARN => line!(Level::WARN),
            Level::INFO => line!(Level::INFO),
            _ => line!(Level::DEBUG),
        }
    }
}

impl http_body::Body for ReplyBody {
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.inner).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                this.sent += frame.data_ref().map_or(0, |data| data.len() as u64);
                this.ended = this.inner.is_end_stream();
            }
            Poll::Ready(Some(Err(error))) => {
                if let Some(record) = &this.record {
                    tracing::warn!(request_id = %record.request_id, error = &**error as &dyn std::error::Error, "the reply broke off");
                }
            }
            Poll::Ready(None) => this.ended = true,
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for ReplyBody {
    fn drop(&mut self) {
        self.finish();
    }
}
