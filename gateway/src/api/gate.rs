//! The front gate: everything between the connection and s3s.
//!
//! ```text
//! listener ─▶ Gate ─▶ refuse (check, table) ─▶ s3s (signature, routing) ─▶ the S3 handlers
//!               │                                                            │
//!               └──── ids, CORS, access log, metrics ◀── reply ◀─────────────┘
//! ```
//!
//! Promises: every reply has `x-amz-request-id`, in its headers and in the body of an error; nothing reaches routing that
//! [`table`] does not name; a document's declared checksums are verified before its operation sees it (those of a streamed body
//! are `api::s3::body`'s); a handler that panics is answered with 500 and ends nothing but its request; a body below the floor
//! of speed is answered with 408.
//!
//! Absent on purpose: signatures (s3s), permissions (`authorize` in core), any rule about objects.

pub mod cors;
pub mod entrance;
pub mod host;
pub mod keys;
pub mod metrics;
pub mod table;

mod check;
mod pace;
mod refusal;
mod reply;

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::request::Parts;
use http::{HeaderValue, Request, Response, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use s3s::config::S3Config;
use s3s::service::S3Service;
use s3s::{Body, StdError};

use self::check::{Route, Rules};
pub use self::check::{health_question, is_internal_path};
use self::cors::CorsSource;
use self::host::Hosts;
use self::metrics::HttpMetrics;
use self::pace::{Floor, Intake, Paced};
use self::refusal::ErrorContext;
pub use self::refusal::Refusal;
use self::reply::Record;
pub use self::reply::ReplyBody;
use self::table::{BodyKind, Operation};
use super::request_id::{self, RequestId};
use super::s3::body::{BodyBudget, DeclaredChecksum, Digests, Expectation};

/// A signed chunk must be buffered to be verified, so it may not be larger.
pub const SIGNED_CHUNK_BYTES_MAX: usize = 8 << 20;
/// A document (DeleteObjects, CompleteMultipartUpload, a configuration) may not be larger: 10,000 parts with checksums fit twice.
pub const DOCUMENT_BYTES_MAX: usize = 4 << 20;
/// A call of a mount: its raw bytes, and a value of up to 1 MiB. Every other body on our own paths has a lower bound of its own.
pub const MOUNT_BODY_BYTES_MAX: usize = holdfast_core::mount::SENT_BYTES_MAX + (1 << 20);
/// A body on our own paths without a hash in its headers.
const OWN_BODY_BYTES_MAX: usize = 1 << 20;
/// Fields of a browser's form, all together.
pub const FORM_FIELDS_BYTES_MAX: usize = 1 << 20;
/// What is read of a refused body, so that its sender gets to read the reply.
pub const LINGER_BYTES_MAX: usize = 4 << 20;
/// How long that may take.
pub const LINGER_WAIT: Duration = Duration::from_secs(2);

/// s3s's settings: our region only, service `s3` only, no version 2 signatures, routing by the request and not by its `x-id`.
///
/// # Errors
/// When `region` is no region name.
pub fn s3s_config(region: &str) -> Result<S3Config, String> {
    let mut config = S3Config::default();
    config.expected_region = Some(region.parse().map_err(|_| format!("{region:?} is not a region name"))?);
    config.sig_v4_allowed_services = vec!["s3".to_owned()];
    config.enable_sig_v2 = false;
    config.operation_id_routing = false;
    config.aws_chunked_stream_max_chunk_size = SIGNED_CHUNK_BYTES_MAX;
    config.xml_max_body_size = DOCUMENT_BYTES_MAX;
    config.custom_route_max_body_size = Some(MOUNT_BODY_BYTES_MAX as u64);
    config.form_max_fields_size = FORM_FIELDS_BYTES_MAX;
    Ok(config)
}

/// Who is connected; the listener puts it into the request's extensions.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// Its address.
    pub address: std::net::SocketAddr,
    /// Over TLS.
    pub tls: bool,
    /// The request's head had both Transfer-Encoding and Content-Length, of which hyper shows only the first.
    pub two_lengths: bool,
}

/// The mark of a request for Holdfast's own API: its path is ours and its Host names no bucket.
#[derive(Clone, Copy, Debug)]
pub struct Internal;

/// The mark of a request that follows the events of a bucket, or of all buckets.
#[derive(Clone, Debug)]
pub struct Listen(pub Option<String>);

/// What the gate needs to know.
pub struct GateOptions {
    /// Hosts that name buckets; give the same to s3s.
    pub hosts: Hosts,
    /// The account that owns every bucket, for `x-amz-expected-bucket-owner`.
    pub owner_id: String,
    /// What `x-amz-id-2` and `<HostId>` say: this process.
    pub host_id: String,
    /// The buckets' CORS rules.
    pub cors: Arc<dyn CorsSource>,
    /// Shared with the handlers.
    pub budget: BodyBudget,
    /// Shared with the listener and the registry.
    pub metrics: HttpMetrics,
}

/// The gate. Clones share everything.
#[derive(Clone)]
pub struct Gate(Arc<Inner>);

struct Inner {
    s3: S3Service,
    options: GateOptions,
    floor: Floor,
}

impl Gate {
    /// A gate before `s3`, which must have been built with [`s3s_config`], the same [`Hosts`], and keys.
    #[must_use]
    pub fn new(s3: S3Service, options: GateOptions) -> Self {
        Self(Arc::new(Inner { s3, options, floor: Floor::default() }))
    }

    #[cfg(test)]
    fn with_floor(s3: S3Service, options: GateOptions, floor: Floor) -> Self {
        Self(Arc::new(Inner { s3, options, floor }))
    }

    /// The metrics it counts into.
    #[must_use]
    pub fn metrics(&self) -> &HttpMetrics {
        &self.0.options.metrics
    }

    /// Answers one request.
    pub async fn handle<B>(&self, request: Request<B>) -> Response<ReplyBody>
    where
        B: Inbound,
    {
        let inner = &*self.0;
        let started = Instant::now();
        let request_id = request_id::mint();
        inner.options.metrics.begun();
        let (mut parts, body) = request.into_parts();
        let peer = parts.extensions.get::<Peer>().map(|peer| peer.address);
        parts.extensions.insert(request_id);
        let (method, path) = (parts.method.clone(), parts.uri.path().to_owned());
        let intake: Arc<Intake<B>> = Arc::default();
        let expects = parts.headers.contains_key(header::EXPECT);
        let body = Paced::new(body, Arc::clone(&intake), inner.floor);

        let mut seen = Seen { request_id, api: "none", json: false };
        let answer = AssertUnwindSafe(inner.answer(parts, body, &mut seen)).catch_unwind().await;
        let context =
            ErrorContext { request_id, host_id: &inner.options.host_id, path: &path, method: &method, json: seen.json };
        let mut reply = answer.unwrap_or_else(|_| Err(Refusal::internal())).unwrap_or_else(|refusal| {
            inner.options.metrics.rejected(refusal.reason);
            context.reply(&refusal)
        });
        if intake.was_too_slow() && reply.status().as_u16() >= 400 {
            reply = context.reply(&too_slow());
        }
        let failed = reply.status().as_u16() >= 400;
        let code = if failed { refusal::code_of(&reply) } else { None };
        if failed {
            context.complete(&mut reply);
            linger(&intake, expects, reply.headers_mut()).await;
        }
        refusal::set_ids(reply.headers_mut(), request_id, &inner.options.host_id);
        let status = reply.status();
        let received: Box<dyn Fn() -> u64 + Send> = Box::new(move || intake.bytes());
        let metrics = inner.options.metrics.clone();
        let record = Record { request_id, method, path, api: seen.api, status, code, peer, started, received, metrics };
        reply.map(|body| ReplyBody::new(body, record))
    }
}

/// The body of a request as it comes from a connection.
pub trait Inbound: http_body::Body<Data = Bytes, Error: Into<StdError>> + Send + Unpin + 'static {}

impl<B: http_body::Body<Data = Bytes, Error: Into<StdError>> + Send + Unpin + 'static> Inbound for B {}

/// What was found out about a request before its answer.
struct Seen {
    request_id: RequestId,
    api: &'static str,
    json: bool,
}

impl Inner {
    async fn answer<B>(&self, mut parts: Parts, body: Paced<B>, seen: &mut Seen) -> Result<Response<Body>, Refusal>
    where
        B: Inbound,
    {
        let length_known = http_body::Body::is_end_stream(&body) || http_body::Body::size_hint(&body).exact().is_some();
        let two_lengths = parts.extensions.get::<Peer>().is_some_and(|peer| peer.two_lengths);
        let rules = Rules { hosts: &self.options.hosts, owner_id: &self.options.owner_id, length_known, two_lengths };
        let on_no_bucket = rules.hosts.bucket(host_of(&parts)).is_none();
        seen.json = on_no_bucket && parts.uri.path().starts_with("/_holdfast");
        match check::route(&parts, &rules)? {
            Route::Internal => {
                seen.api = "Internal";
                parts.extensions.insert(Internal);
                let body = self.with_payload_hash(&mut parts, body).await?;
                Ok(self.call(Request::from_parts(parts, body), seen).await)
            }
            Route::Listen(bucket) => {
                seen.api = "ListenNotification";
                parts.extensions.insert(Listen(bucket));
                Ok(self.call(Request::from_parts(parts, Body::http_body_unsync(body)), seen).await)
            }
            Route::Preflight(bucket) => {
                seen.api = "Preflight";
                let rules = match bucket {
                    Some(bucket) => self.options.cors.cors(&bucket).await,
                    None => None,
                };
                cors::preflight(rules.as_deref(), &parts.headers)
            }
            Route::S3(operation, bucket) => {
                seen.api = operation.name;
                self.call_operation(operation, bucket, parts, body, seen).await
            }
        }
    }

    async fn call_operation<B>(
        &self,
        operation: &Operation,
        bucket: Option<String>,
        parts: Parts,
        body: Paced<B>,
        seen: &Seen,
    ) -> Result<Response<Body>, Refusal>
    where
        B: Inbound,
    {
        let method = parts.method.clone();
        let origin = parts.headers.get(header::ORIGIN).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let body = match operation.body {
            BodyKind::Document => self.document(&parts, body).await?,
            BodyKind::None | BodyKind::Stream | BodyKind::Form => Body::http_body_unsync(body),
        };
        let mut reply = self.call(Request::from_parts(parts, body), seen).await;
        if let (Some(origin), Some(bucket)) = (origin, bucket)
            && let Some(rules) = self.options.cors.cors(&bucket).await
        {
            cors::decorate(&rules, &method, &origin, reply.headers_mut());
        }
        Ok(reply)
    }

    async fn call(&self, request: Request<Body>, seen: &Seen) -> Response<Body> {
        let head = request.method() == http::Method::HEAD;
        match self.s3.call(request).await {
            Ok(mut reply) => {
                // s3s answers 206 to GET alone.
                if head && reply.status() == http::StatusCode::OK && reply.headers().contains_key(header::CONTENT_RANGE)
                {
                    *reply.status_mut() = http::StatusCode::PARTIAL_CONTENT;
                }
                reply
            }
            Err(error) => {
                tracing::error!(request_id = %seen.request_id, %error, "s3s could not answer");
                let mut reply = Response::new(Body::from("<Error><Code>InternalError</Code></Error>".to_owned()));
                *reply.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
                reply
            }
        }
    }

    /// Only S3 wants the hash of the payload in a header; curl's signatures leave it out. On our own paths bodies are small,
    /// so it is computed here: the signature, which covers it, is verified as ever.
    async fn with_payload_hash<B: Inbound>(&self, parts: &mut Parts, body: Paced<B>) -> Result<Body, Refusal> {
        const HASH: &str = "x-amz-content-sha256";
        if !parts.headers.contains_key(header::AUTHORIZATION) || parts.headers.contains_key(HASH) {
            return Ok(Body::http_body_unsync(body));
        }
        let length = http_body::Body::size_hint(&body).upper().and_then(|length| usize::try_from(length).ok());
        let length = length.filter(|length| *length <= OWN_BODY_BYTES_MAX).ok_or_else(|| {
            let message = "A body of more than 1 MiB, or of unknown length, needs the header x-amz-content-sha256.";
            Refusal::invalid("InvalidRequest", "length", message)
        })?;
        let _held = self.options.budget.reserve(length).await.map_err(|error| body_refusal(&error))?;
        let limited = http_body_util::Limited::new(body, OWN_BODY_BYTES_MAX);
        let bytes = limited.collect().await.map_err(|_| incomplete())?.to_bytes();
        let hash = HeaderValue::from_str(&crate::client::sign::sha256_hex(&bytes)).map_err(|_| incomplete())?;
        parts.headers.insert(HASH, hash);
        Ok(Body::from(bytes))
    }

    /// A document whose checksum the client declared is read and verified here: s3s hands on only what it parsed.
    async fn document<B>(&self, parts: &Parts, body: Paced<B>) -> Result<Body, Refusal>
    where
        B: Inbound,
    {
        let expect =
            Expectation::from_request(&parts.headers, &parts.uri, None).map_err(|error| body_refusal(&error))?;
        if expect.md5.is_none() && expect.checksum.is_none() {
            return Ok(Body::http_body_unsync(body));
        }
        let length = expect.length.and_then(|length| usize::try_from(length).ok()).unwrap_or(0);
        if length > DOCUMENT_BYTES_MAX {
            let message = "Your request was too big.";
            return Err(Refusal::invalid("MaxMessageLengthExceeded", "length", message));
        }
        let _held = self.options.budget.reserve(length).await.map_err(|error| body_refusal(&error))?;
        let limited = http_body_util::Limited::new(body, DOCUMENT_BYTES_MAX);
        let bytes = limited.collect().await.map_err(|_| incomplete())?.to_bytes();
        let digests = Digests::of(&bytes, expect.checksum.as_ref().map(DeclaredChecksum::algorithm));
        expect.verify(&digests).map_err(|error| body_refusal(&error))?;
        Ok(Body::from(bytes))
    }
}

fn host_of(parts: &Parts) -> &str {
    let named = parts.headers.get(header::HOST).and_then(|value| value.to_str().ok());
    named.or_else(|| parts.uri.authority().map(http::uri::Authority::as_str)).unwrap_or_default()
}

fn body_refusal(error: &super::s3::body::BodyError) -> Refusal {
    let (code, status) = error.code();
    let code = match code.as_str() {
        "InvalidDigest" => "InvalidDigest",
        "BadDigest" => "BadDigest",
        "IncompleteBody" => "IncompleteBody",
        "SlowDown" => "SlowDown",
        _ => "InvalidRequest",
    };
    Refusal::new(status, code, "body", error.to_string())
}

fn incomplete() -> Refusal {
    Refusal::invalid(
        "IncompleteBody",
        "body",
        "You did not provide the number of bytes specified by the Content-Length header.",
    )
}

fn too_slow() -> Refusal {
    let message = "Your socket connection to the server was not read from or written to within the timeout period.";
    Refusal::new(http::StatusCode::REQUEST_TIMEOUT, "RequestTimeout", "slow_body", message)
}

/// Reads on for a moment: closing a connection with unread bytes would reset it, and the reply could be lost with it.
async fn linger<B>(intake: &Intake<B>, expects: bool, reply: &mut http::HeaderMap)
where
    B: Inbound,
{
    let Some(mut rest) = intake.take_rest().filter(|rest| !rest.is_end_stream()) else { return };
    // Whoever waits for "100 Continue" has sent nothing and shall not begin.
    if expects && intake.bytes() == 0 || intake.was_too_slow() {
        reply.insert(header::CONNECTION, HeaderValue::from_static("close"));
        return;
    }
    let drain = async {
        let mut left = LINGER_BYTES_MAX;
        while let Some(Ok(frame)) = rest.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                break;
            }
        }
    };
    // At the deadline the connection is closed, bytes or not.
    let _ = tokio::time::timeout(LINGER_WAIT, drain).await;
    if !rest.is_end_stream() {
        reply.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
}

impl hyper::service::Service<Request<Incoming>> for Gate {
    type Response = Response<ReplyBody>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let gate = self.clone();
        Box::pin(async move { Ok(gate.handle(request).await) })
    }
}

#[cfg(test)]
mod tests;
