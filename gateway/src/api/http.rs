//! Holdfast's own HTTP API, `/_holdfast/...`, on the S3 listener: health, metrics, status, objects, buckets, locks, feed,
//! topics, queries, mounts.
//!
//! Signed like S3, except health, which tells no details. The gate marks requests whose path is ours and whose Host names no
//! bucket (`gate::Internal`); s3s verifies the signature; errors leave here as S3 errors and the gate writes them as JSON
//! `{code, message, request_id}`. What has no route here is 404.

mod buckets;
mod leases;
mod listen;
mod locks;
mod members;
mod mount;
mod objects;
mod ranges;
mod sql;
mod status;
mod targets;
mod topics;
mod watch;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use holdfast_core::id::Revision;
use holdfast_core::rules::authorize::{Action, Resource, authorize};
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use http_body::Frame;
use http_body_util::{BodyExt as _, Limited, StreamBody};
use percent_encoding::percent_decode_str;
use s3s::route::S3Route;
use s3s::{Body, S3Error, S3ErrorCode, S3Request, S3Response, S3Result};
use serde_json::Value;

use crate::api::gate::{Internal, Listen, health_question};
use crate::api::s3::body::BodyBudget;
use crate::api::s3::error::invalid;
use crate::api::s3::{call_of, to_s3};
use crate::clock::seconds_or_duration;
use crate::error::Error;
use crate::gateway::Gateway;
use crate::notify::NotifyContext;
use crate::telemetry::{METRICS_CONTENT_TYPE, Metrics};

const REVISION: HeaderName = HeaderName::from_static("x-holdfast-revision");
/// Most bytes of a JSON document.
const DOCUMENT_BYTES_MAX: usize = 64 << 10;

/// The route that s3s asks before its own operations.
pub struct HttpRoute {
    gateway: Gateway,
    metrics: Arc<Metrics>,
    notify: NotifyContext,
    budget: BodyBudget,
}

impl HttpRoute {
    /// A route over `gateway`. Bodies that are held in memory count against `budget`.
    #[must_use]
    pub fn new(gateway: Gateway, metrics: Arc<Metrics>, notify: NotifyContext, budget: BodyBudget) -> Self {
        Self { gateway, metrics, notify, budget }
    }
}

#[async_trait]
impl S3Route for HttpRoute {
    fn is_match(&self, _: &Method, _: &Uri, _: &HeaderMap, extensions: &mut Extensions) -> bool {
        extensions.get::<Internal>().is_some() || extensions.get::<Listen>().is_some()
    }

    async fn check_access(&self, request: &mut S3Request<Body>) -> S3Result<()> {
        let listens = request.extensions.get::<Listen>().is_some();
        if request.credentials.is_some() || !listens && health_question(request.uri.path()).is_some() {
            return Ok(());
        }
        Err(S3Error::new(S3ErrorCode::AccessDenied))
    }

    async fn call(&self, request: S3Request<Body>) -> S3Result<S3Response<Body>> {
        if let Some(Listen(bucket)) = request.extensions.get::<Listen>() {
            return listen::listen(&self.gateway, &request, bucket.clone()).await;
        }
        let path = request.uri.path().to_owned();
        if let Some(question) = health_question(&path) {
            return self.health(&request.method, question).await;
        }
        let path = path.strip_prefix("/_holdfast/").ok_or_else(no_route)?;
        match (request.method.as_str(), path) {
            ("GET", "metrics") => self.page(&request),
            ("GET", "v1/status") => {
                let call = call_of(&request)?;
                authorize(call.caller, Action::ReadCluster, Resource::Service, &call.context)
                    .map_err(|refusal| to_s3(&Error::from(refusal), call.request))?;
                Ok(json(status::status(&self.gateway).await, None))
            }
            ("GET", "v1/cluster") => members::list(&self.gateway, &request).await,
            ("POST" | "DELETE", path) if path.starts_with("v1/cluster/") => {
                members::change(&self.gateway, &request, &path["v1/cluster/".len()..]).await
            }
            ("GET", path) if path.starts_with("v1/objects/") => {
                objects::show(&self.gateway, &request, &path["v1/objects/".len()..]).await
            }
            ("GET", path) if path.starts_with("v1/buckets/") => {
                buckets::show(&self.gateway, &request, &path["v1/buckets/".len()..]).await
            }
            ("PUT", path) if path.starts_with("v1/buckets/") => {
                let name = path["v1/buckets/".len()..].to_owned();
                buckets::set(&self.gateway, request, &name).await
            }
            (_, "v1/targets") => targets::list(&self.gateway, &request).await,
            (_, path) if path.starts_with("v1/targets/") => {
                let path = path["v1/targets/".len()..].to_owned();
                targets::one(&self.gateway, &self.notify, request, &path).await
            }
            ("GET", "v1/watch") => watch::watch(&self.gateway, &request).await,
            (_, "v1/locks" | "v1/leases" | "v1/keys") => leases::collection(&self.gateway, request).await,
            (_, "v1/ranges") => ranges::collection(&self.gateway, &request).await,
            (_, path) if path.starts_with("v1/ranges/") => {
                ranges::range(&self.gateway, &request, &path["v1/ranges/".len()..]).await
            }
            (_, path) if path.starts_with("v1/locks/") => {
                locks::lock(&self.gateway, &request, &path["v1/locks/".len()..]).await
            }
            (_, path) if path.starts_with("v1/leases/") => {
                leases::lease(&self.gateway, &request, &path["v1/leases/".len()..]).await
            }
            (_, path) if path.starts_with("v1/keys/") => {
                let name = path["v1/keys/".len()..].to_owned();
                leases::key(&self.gateway, request, &name).await
            }
            (_, path) if path.starts_with("v1/mount/") => {
                let bucket = path["v1/mount/".len()..].to_owned();
                mount::call(&self.gateway, &self.budget, request, &bucket).await
            }
            ("POST", "v1/sql") => sql::sql(&self.gateway, request).await,
            ("GET", "v1/indexes") => sql::indexes(&self.gateway, &request).await,
            ("GET", "v1/topics") => topics::list(&self.gateway, &request).await,
            (_, path) if path.starts_with("v1/topics/") => {
                let rest = path["v1/topics/".len()..].to_owned();
                topics::of_topic(&self.gateway, request, &rest).await
            }
            _ => Err(no_route()),
        }
    }
}

fn no_route() -> S3Error {
    let mut error =
        S3Error::with_message(S3ErrorCode::Custom("NoSuchEndpoint".into()), "There is nothing at this path.");
    error.set_status_code(StatusCode::NOT_FOUND);
    error
}

impl HttpRoute {
    /// 200 or 503, without a body: anyone may ask.
    async fn health(&self, method: &Method, question: &str) -> S3Result<S3Response<Body>> {
        if !matches!(*method, Method::GET | Method::HEAD) {
            return Err(S3Error::new(S3ErrorCode::MethodNotAllowed));
        }
        let healthy = match question {
            "live" => true,
            "ready" => self.gateway.is_ready(),
            // The whole service: this node, its cluster, its backend.
            "cluster" => self.gateway.is_ready() && self.gateway.is_backend_alive().await,
            _ => return Err(no_route()),
        };
        let mut reply = S3Response::new(Body::empty());
        reply.status = Some(if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE });
        Ok(reply)
    }

    fn page(&self, request: &S3Request<Body>) -> S3Result<S3Response<Body>> {
        let call = call_of(request)?;
        authorize(call.caller, Action::ReadCluster, Resource::Service, &call.context)
            .map_err(|refusal| to_s3(&Error::from(refusal), call.request))?;
        let mut reply = S3Response::new(Body::from(self.metrics.page()));
        reply.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(METRICS_CONTENT_TYPE));
        Ok(reply)
    }
}

/// A JSON answer, with the revision it is from.
fn json(value: Value, revision: Option<Revision>) -> S3Response<Body> {
    let mut reply = S3Response::new(Body::from(value.to_string()));
    reply.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(revision) = revision {
        reply.headers.insert(REVISION, HeaderValue::from(revision));
    }
    reply
}

/// A piece of a stream.
type Chunk = Result<Frame<Bytes>, std::io::Error>;

/// Server-sent events, of which no proxy keeps any back. Source: HTML, "Server-sent events".
fn event_stream(events: impl futures::Stream<Item = Chunk> + Send + 'static, revision: Revision) -> S3Response<Body> {
    let mut reply = S3Response::new(Body::http_body_unsync(StreamBody::new(events)));
    let headers = &mut reply.headers;
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    headers.insert(REVISION, HeaderValue::from(revision));
    reply
}

/// The query's names and values, each name once.
struct Query(Vec<(String, String)>);

impl Query {
    fn of(request: &S3Request<Body>, known: &[&str]) -> S3Result<Self> {
        let pairs = url::form_urlencoded::parse(request.uri.query().unwrap_or_default().as_bytes());
        let pairs: Vec<(String, String)> = pairs
            .filter(|(name, _)| !name.starts_with("X-Amz-"))
            .map(|(name, value)| (name.into(), value.into()))
            .collect();
        for (at, (name, _)) in pairs.iter().enumerate() {
            if !known.contains(&name.as_str()) {
                return Err(invalid(format!("there is no parameter {name}")));
            }
            if pairs[..at].iter().any(|(other, _)| other == name) {
                return Err(invalid(format!("the parameter {name} is given twice")));
            }
        }
        Ok(Self(pairs))
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    fn number(&self, name: &str) -> S3Result<Option<u64>> {
        let parse = |text: &str| text.parse().map_err(|_| invalid(format!("{name} is a number")));
        self.text(name).map(parse).transpose()
    }

    /// Milliseconds of a duration such as `30s`; a number alone is seconds.
    fn duration_ms(&self, name: &str) -> S3Result<Option<u64>> {
        let parse = |text: &str| {
            seconds_or_duration(text).ok_or_else(|| invalid(format!("{name} is a duration such as 500ms, 30s or 10m")))
        };
        self.text(name).map(parse).transpose()
    }
}

/// The body, at most so many bytes of it; `otherwise` is the refusal of more, or of one that breaks off.
async fn body(request: &mut S3Request<Body>, most: usize, otherwise: &str) -> S3Result<Bytes> {
    let body = Limited::new(std::mem::take(&mut request.input), most).collect().await;
    Ok(body.map_err(|_| invalid(otherwise))?.to_bytes())
}

/// A path segment or the rest of a path, decoded.
fn decoded(text: &str) -> S3Result<String> {
    let text = percent_decode_str(text).decode_utf8().map_err(|_| invalid("the path is not UTF-8"))?;
    Ok(text.into_owned())
}
