//! Connections: HTTP/1.1, kept alive and shared.
//!
//! A peer that vanished without a word is noticed by the kernel: probes while an answer is awaited, and a bound on how long
//! sent bytes may stay unacknowledged.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use aws_lc_rs::digest;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_rustls::{ConfigBuilderExt as _, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioTimer;
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::OnceCell;
use tokio_util::task::TaskTracker;

use super::error::Error;
use super::request::{Endpoint, Outgoing};
use super::{REQUESTS_MAX, SIGNED_BYTES_MAX};

const CONNECT: Duration = Duration::from_secs(5);
const IDLE: Duration = Duration::from_secs(60);
const PROBE_AFTER: Duration = Duration::from_secs(10);
const PROBE_EVERY: Duration = Duration::from_secs(5);
const PROBES: u32 = 2;
const UNACKNOWLEDGED: Duration = Duration::from_secs(20);
/// What is read of a refusal.
const REFUSAL_BYTES_MAX: usize = 64 << 10;

/// An answer, whole.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// The pool.
pub(super) struct Transport(legacy::Client<HttpsConnector<HttpConnector>, Payload>);

/// Connections run in tasks of the client.
#[derive(Clone)]
struct Tasks(TaskTracker);

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    fn execute(&self, task: F) {
        // Ends with its connection, which ends with the pool.
        drop(self.0.spawn(task));
    }
}

impl Transport {
    /// # Errors
    /// [`Error::Setting`] when `secure` and the machine has no certificates.
    pub(super) fn new(secure: bool) -> Result<Self, Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let wrong = |what: String| Error::Setting { what };
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.map_err(|error| wrong(error.to_string()))?;
        let config = if secure {
            config.with_native_roots().map_err(|error| wrong(format!("no certificates for https: {error}")))?
        } else {
            config.with_root_certificates(RootCertStore::empty())
        };
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(CONNECT));
        http.set_keepalive(Some(PROBE_AFTER));
        http.set_keepalive_interval(Some(PROBE_EVERY));
        http.set_keepalive_retries(Some(PROBES));
        http.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
        let https = HttpsConnectorBuilder::new().with_tls_config(config.with_no_client_auth());
        let https = https.https_or_http().enable_http1().wrap_connector(http);
        let pool = legacy::Client::builder(Tasks(TaskTracker::new()))
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(REQUESTS_MAX)
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .build(https);
        Ok(Self(pool))
    }

    /// Sends a request; the head of the answer, also of a refusal.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::Unavailable`].
    pub(super) async fn open(&self, request: Request<Payload>, to: &Endpoint) -> Result<Response<Incoming>, Error> {
        self.0
            .request(request)
            .await
            .map_err(|error| if error.is_connect() { to.unreachable(error) } else { to.unavailable(None, error) })
    }

    /// Sends a request and reads the whole answer.
    ///
    /// # Errors
    /// As of [`Transport::open`]; the refusal.
    pub(super) async fn exchange(
        &self,
        request: Request<Payload>,
        ask: &Outgoing,
        to: &Endpoint,
    ) -> Result<Reply, Error> {
        let (head, body) = self.open(request, to).await?.into_parts();
        let (status, headers) = (head.status, head.headers);
        if !(status.is_success() || ask.takes_conflicts && status == StatusCode::CONFLICT) {
            return Err(refusal(status, &headers, body, ask.is_own(), to).await);
        }
        match Limited::new(body, ask.answer_bytes_max).collect().await {
            Ok(body) => Ok(Reply { status, headers, body: body.to_bytes() }),
            Err(error) if error.is::<LengthLimitError>() => Err(to.form("a longer answer than was asked for")),
            Err(error) => Err(to.unavailable(None, error)),
        }
    }
}

/// What an answer that is no success says.
pub(super) async fn refusal(
    status: StatusCode,
    headers: &HeaderMap,
    body: Incoming,
    own: bool,
    from: &Endpoint,
) -> Error {
    // The status alone tells enough when the text does not come.
    let body = Limited::new(body, REFUSAL_BYTES_MAX).collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    Error::of_reply(from.text(), own, status, headers, &body)
}

/// A body in two pieces, which are not copied together.
#[derive(Clone, Debug, Default)]
pub(super) struct Payload {
    head: Bytes,
    raw: Bytes,
    hash: Arc<OnceCell<String>>,
}

impl Payload {
    pub(super) fn new(head: Bytes, raw: Bytes) -> Self {
        Self { head, raw, hash: Arc::default() }
    }

    pub(super) fn len(&self) -> usize {
        self.head.len() + self.raw.len()
    }

    /// SHA-256 in hexadecimal, computed once; that of much not in the reactor.
    pub(super) async fn sha256(&self) -> String {
        let (head, raw, long) = (self.head.clone(), self.raw.clone(), self.len() > SIGNED_BYTES_MAX);
        let hash = move || {
            let mut context = digest::Context::new(&digest::SHA256);
            context.update(&head);
            context.update(&raw);
            hex::encode(context.finish())
        };
        let compute = async {
            if !long {
                return hash();
            }
            let hashed = tokio::task::spawn_blocking(hash).await;
            hashed.expect("hashing bytes does not panic, and nobody cancels it")
        };
        self.hash.get_or_init(|| compute).await.clone()
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let next = if self.head.is_empty() { std::mem::take(&mut self.raw) } else { std::mem::take(&mut self.head) };
        Poll::Ready((!next.is_empty()).then(|| Ok(Frame::data(next))))
    }

    fn is_end_stream(&self) -> bool {
        self.len() == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.len() as u64)
    }
}
