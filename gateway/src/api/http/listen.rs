//! `GET /?events=` and `GET /{bucket}?events=&prefix=&suffix=&ping=`: MinIO's way to follow events, for `mc watch` and its SDKs.
//!
//! One JSON document of S3 records a line, each sent at once; a space now and then keeps a quiet connection open. There is no
//! position in this protocol: who must not miss anything uses `/_holdfast/v1/watch`. Source: minio-go, `ListenNotification`.

use std::time::Duration;

use bytes::Bytes;
use holdfast_core::event::EventKind;
use holdfast_core::rules::authorize::{Action, Resource, authorize};
use http::{HeaderValue, header};
use http_body::Frame;
use http_body_util::StreamBody;
use s3s::{Body, S3Request, S3Response, S3Result};
use tokio::time::Instant;

use crate::api::s3::convert::bucket_name;
use crate::api::s3::error::invalid;
use crate::api::s3::{call_of, to_s3};
use crate::error::Error;
use crate::feed::{Filter, Next, Watcher, forms};
use crate::gateway::Gateway;

/// Pause between signs of life, when the client names none.
const PING: Duration = Duration::from_secs(5);
const PING_MAX: Duration = Duration::from_secs(60 * 60);

pub(super) async fn listen(
    gateway: &Gateway,
    request: &S3Request<Body>,
    bucket: Option<String>,
) -> S3Result<S3Response<Body>> {
    let call = call_of(request)?;
    let refused = |error: Error| to_s3(&error, call.request);
    let bucket = bucket.as_deref().map(bucket_name).transpose()?;
    let mut filter = Filter { bucket: bucket.clone(), ..Filter::default() };
    let mut ping = PING;
    for (name, value) in url::form_urlencoded::parse(request.uri.query().unwrap_or_default().as_bytes()) {
        match name.as_ref() {
            "events" if value.is_empty() => {}
            "events" if EventKind::is_known(&value) => filter.names.push(value.into_owned()),
            // What is never reported here: reads, and what other servers have.
            "events" if FOREIGN.iter().any(|start| value.starts_with(start)) => filter.names.push(value.into_owned()),
            "events" => return Err(invalid(format!("there is no event {value}"))),
            "prefix" => filter.prefix = value.into_owned(),
            "suffix" => filter.suffix = value.into_owned(),
            "ping" => {
                let seconds = value.parse().map_err(|_| invalid("ping is a number of seconds"))?;
                ping = if seconds == 0 { PING } else { Duration::from_secs(seconds).min(PING_MAX) };
            }
            _ => {}
        }
    }
    let resource = match &bucket {
        Some(bucket) => {
            gateway.bucket_settings(&call, bucket).await.map_err(refused)?;
            Resource::Bucket(bucket.clone())
        }
        None => Resource::Service,
    };
    let permit = authorize(call.caller, Action::WatchEvents, resource, &call.context);
    let permit = permit.map_err(|refusal| refused(refusal.into()))?;
    let watcher = gateway.feed().watch(&permit, filter, None).await.map_err(refused)?;
    let body = StreamBody::new(stream(gateway.clone(), watcher, ping));
    let mut reply = S3Response::new(Body::http_body_unsync(body));
    reply.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    reply.headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok(reply)
}

/// Families of events that clients ask for and that never happen here.
const FOREIGN: [&str; 7] = [
    "s3:ObjectAccessed:",
    "s3:Replication:",
    "s3:ObjectRestore:",
    "s3:ObjectTransition:",
    "s3:LifecycleExpiration:",
    "s3:ObjectAcl:",
    "s3:Scanner:",
];

fn stream(
    gateway: Gateway,
    mut watcher: Watcher,
    ping: Duration,
) -> impl futures::Stream<Item = Result<Frame<Bytes>, std::io::Error>> {
    async_stream::stream! {
        // The client hears at once that it is heard.
        yield Ok(Frame::data(Bytes::from_static(b" ")));
        loop {
            let next = tokio::select! {
                next = watcher.next(Instant::now() + ping) => next,
                () = gateway.left() => return,
            };
            match next {
                Ok(Next::Event(event)) if event.row.bucket.is_some() => {
                    let records = serde_json::json!({ "Records": [forms::s3(&event, gateway.region(), "")] });
                    yield Ok(Frame::data(Bytes::from(format!("{records}\n"))));
                }
                Ok(Next::Event(_)) => {}
                Ok(Next::Mark(_)) => yield Ok(Frame::data(Bytes::from_static(b" "))),
                // Events were lost to this client: a broken connection says so, a quiet one would not.
                Err(error) => {
                    yield Err(std::io::Error::other(crate::backend::chain(&error)));
                    return;
                }
            }
        }
    }
}
