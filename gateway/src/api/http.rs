//! Holdfast's own HTTP API, `/_holdfast/...`, on the S3 listener: health, metrics, status, objects, buckets.
//!
//! Signed like S3, except health, which tells no details. The gate marks requests whose path is ours and whose Host names no
//! bucket (`gate::Internal`); s3s verifies the signature; errors leave here as S3 errors and the gate writes them as JSON
//! `{code, message, request_id}`. What has no route here is 404, what is not built 501.

mod buckets;
mod members;
mod objects;
mod status;

use std::sync::Arc;

use async_trait::async_trait;
use holdfast_core::id::Revision;
use holdfast_core::rules::authorize::{Action, Resource, authorize};
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use percent_encoding::percent_decode_str;
use s3s::route::S3Route;
use s3s::{Body, S3Error, S3ErrorCode, S3Request, S3Response, S3Result};
use serde_json::Value;

use crate::api::gate::{Internal, health_question};
use crate::api::s3::error::{invalid, not_built};
use crate::api::s3::{call_of, to_s3};
use crate::error::Error;
use crate::gateway::Gateway;
use crate::telemetry::{METRICS_CONTENT_TYPE, Metrics};

/// Parts of later issues that have a path already.
const NOT_BUILT: [&str; 4] = ["sql", "watch", "locks", "indexes"];
const REVISION: HeaderName = HeaderName::from_static("x-holdfast-revision");
/// Most bytes of a JSON document.
const DOCUMENT_BYTES_MAX: usize = 64 << 10;

/// The route that s3s asks before its own operations.
pub struct HttpRoute {
    gateway: Gateway,
    metrics: Arc<Metrics>,
}

impl HttpRoute {
    /// A route over `gateway`.
    #[must_use]
    pub fn new(gateway: Gateway, metrics: Arc<Metrics>) -> Self {
        Self { gateway, metrics }
    }
}

#[async_trait]
impl S3Route for HttpRoute {
    fn is_match(&self, _: &Method, _: &Uri, _: &HeaderMap, extensions: &mut Extensions) -> bool {
        extensions.get::<Internal>().is_some()
    }

    async fn check_access(&self, request: &mut S3Request<Body>) -> S3Result<()> {
        if request.credentials.is_some() || health_question(request.uri.path()).is_some() {
            return Ok(());
        }
        Err(S3Error::new(S3ErrorCode::AccessDenied))
    }

    async fn call(&self, request: S3Request<Body>) -> S3Result<S3Response<Body>> {
        let path = request.uri.path().to_owned();
        if health_question(&path).is_some() {
            return self.health(&request.method, &path).await;
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
            (_, path) if NOT_BUILT.iter().any(|part| is_under(path, part)) => Err(not_built(path)),
            _ => Err(no_route()),
        }
    }
}

fn is_under(path: &str, part: &str) -> bool {
    let rest = path.strip_prefix("v1/").and_then(|path| path.strip_prefix(part));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn no_route() -> S3Error {
    let mut error =
        S3Error::with_message(S3ErrorCode::Custom("NoSuchEndpoint".into()), "There is nothing at this path.");
    error.set_status_code(StatusCode::NOT_FOUND);
    error
}

impl HttpRoute {
    /// 200 or 503, without a body: anyone may ask.
    async fn health(&self, method: &Method, path: &str) -> S3Result<S3Response<Body>> {
        if !matches!(*method, Method::GET | Method::HEAD) {
            return Err(S3Error::new(S3ErrorCode::MethodNotAllowed));
        }
        let healthy = match path.rsplit('/').next() {
            Some("live") => true,
            Some("ready") => self.gateway.is_ready(),
            // The whole service: this node, its cluster, its backend.
            Some("cluster") => self.gateway.is_ready() && self.gateway.is_backend_alive().await,
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

/// A path segment or the rest of a path, decoded.
fn decoded(text: &str) -> S3Result<String> {
    let text = percent_decode_str(text).decode_utf8().map_err(|_| invalid("the path is not UTF-8"))?;
    Ok(text.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unbuilt_parts_are_known_by_their_path() {
        assert!(is_under("v1/locks", "locks") && is_under("v1/locks/a", "locks"));
        assert!(!is_under("v1/locksmith", "locks") && !is_under("v2/locks", "locks"));
    }
}
