//! The way in before there is a gate: a node listens from its first moment on, and becomes able to serve later.
//!
//! Until then health is told as it is (`live` 200, everything else under it 503), and every other request waits for
//! [`PATIENCE`], which is longer than a restart among living nodes takes; then it is asked to come again: 503
//! `ServiceUnavailable` with `Retry-After`, which SDKs and load balancers know. Nothing is read, nobody is authenticated, and
//! nothing about the node is told.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use s3s::Body;
use tokio::sync::watch;

use super::metrics::HttpMetrics;
use super::refusal::{self, ErrorContext, Refusal};
use super::reply::{Record, ReplyBody};
use super::{Gate, Inbound, Peer, health_question};
use crate::api::request_id;

/// What is answered to whoever comes too early.
const STARTING: &str = "This node is starting: it is not part of its cluster yet. Try again, or ask another node.";

/// How long a request waits for the gate.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// Lets requests through to the gate once there is one. Clones share it.
#[derive(Clone)]
pub struct Entrance {
    gate: Arc<watch::Sender<Option<Gate>>>,
    metrics: HttpMetrics,
}

impl Entrance {
    /// A closed one.
    #[must_use]
    pub fn new(metrics: HttpMetrics) -> Self {
        Self { gate: Arc::new(watch::Sender::new(None)), metrics }
    }

    /// From here on requests go to `gate`.
    pub fn open(&self, gate: Gate) {
        self.gate.send_replace(Some(gate));
    }

    async fn gate(&self, patience: Duration) -> Option<Gate> {
        if let Some(gate) = &*self.gate.borrow() {
            return Some(gate.clone());
        }
        let mut opened = self.gate.subscribe();
        let opened = tokio::time::timeout(patience, opened.wait_for(Option::is_some)).await;
        opened.ok()?.ok()?.clone()
    }

    /// Answers one request.
    pub async fn handle<B: Inbound>(&self, request: Request<B>) -> Response<ReplyBody> {
        let patience = if health_question(request.uri().path()).is_some() { Duration::ZERO } else { PATIENCE };
        match self.gate(patience).await {
            Some(gate) => gate.handle(request).await,
            None => self.too_early(&request),
        }
    }

    fn too_early<B>(&self, request: &Request<B>) -> Response<ReplyBody> {
        let (method, path, request_id) =
            (request.method().clone(), request.uri().path().to_owned(), request_id::mint());
        self.metrics.begun();
        let mut reply = Response::new(Body::empty());
        if let Some(question) = health_question(&path) {
            let alive = question == "live" && matches!(method, Method::GET | Method::HEAD);
            *reply.status_mut() = if alive { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        } else {
            let json = path.starts_with("/_holdfast");
            let refused = Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", "starting", STARTING);
            self.metrics.rejected(refused.reason);
            reply = ErrorContext { request_id, host_id: "", path: &path, method: &method, json }.reply(&refused);
            reply.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        let code = refusal::code_of(&reply);
        refusal::set_ids(reply.headers_mut(), request_id, "");
        let record = Record {
            request_id,
            method,
            path,
            api: "none",
            status: reply.status(),
            code,
            peer: request.extensions().get::<Peer>().map(|peer| peer.address),
            started: Instant::now(),
            received: Box::new(|| 0),
            metrics: self.metrics.clone(),
        };
        reply.map(|body| ReplyBody::new(body, record))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(method: Method, path: &str) -> Response<ReplyBody> {
        let request = Request::builder().method(method).uri(path).body(()).unwrap();
        Entrance::new(HttpMetrics::default()).too_early(&request)
    }

    #[test]
    fn who_comes_too_early_is_told_to_come_again() {
        for (path, status) in [
            ("/_holdfast/health/live", 200),
            ("/minio/health/live", 200),
            ("/_holdfast/health/ready", 503),
            ("/_holdfast/health/cluster", 503),
            ("/", 503),
            ("/bucket/key", 503),
            ("/_holdfast/v1/status", 503),
        ] {
            let reply = ask(Method::GET, path);
            assert_eq!(reply.status().as_u16(), status, "{path}");
            assert!(reply.headers().contains_key("x-amz-request-id"));
            let is_health = path.contains("/health/");
            assert_eq!(reply.headers().contains_key(header::RETRY_AFTER), !is_health, "{path}");
        }
        assert_eq!(ask(Method::POST, "/_holdfast/health/live").status(), 503);
    }
}
