//! `GET /_holdfast/v1/watch?bucket=&prefix=&suffix=&event=&from=`: the feed as server-sent events.
//!
//! The id of an event is `<revision>.<n>`, that of a mark `<revision>.end`: a client that reconnects with `Last-Event-ID`, to
//! any node, goes on right after it. Source: HTML Living Standard, "Server-sent events".

use std::time::Duration;

use bytes::Bytes;
use holdfast_core::error::Error as Refusal;
use holdfast_core::event::EventKind;
use holdfast_core::id::Revision;
use holdfast_core::rules::authorize::{Action, Resource, authorize};
use http_body::Frame;
use s3s::{Body, S3Request, S3Response, S3Result};
use tokio::time::Instant;

use super::{Chunk, Query, event_stream};
use crate::api::s3::convert::bucket_name;
use crate::api::s3::error::invalid;
use crate::api::s3::{call_of, to_s3};
use crate::error::Error;
use crate::feed::{Filter, Next, Watcher, forms};
use crate::gateway::Gateway;

/// How often a quiet stream says how far it is.
const MARK_EVERY: Duration = Duration::from_secs(10);
/// Shortest interval that a client may ask for.
const MARK_EVERY_MIN: Duration = Duration::from_millis(100);
/// How long a client waits before it connects again.
const RETRY_MS: u64 = 1000;

pub(super) async fn watch(gateway: &Gateway, request: &S3Request<Body>) -> S3Result<S3Response<Body>> {
    let call = call_of(request)?;
    let query = Query::of(request, &["bucket", "prefix", "suffix", "event", "from", "mark"])?;
    let bucket = query.text("bucket").filter(|name| !name.is_empty()).map(bucket_name).transpose()?;
    let resource = bucket.clone().map_or(Resource::Service, Resource::Bucket);
    let refused = |error: Error| to_s3(&error, call.request);
    let permit = authorize(call.caller, Action::WatchEvents, resource, &call.context);
    let permit = permit.map_err(|refusal| refused(refusal.into()))?;
    let text = |name| query.text(name).unwrap_or_default();
    let names = text("event").split(',').filter(|name| !name.is_empty()).map(event_name).collect::<S3Result<_>>()?;
    let filter = Filter { bucket, prefix: text("prefix").to_owned(), suffix: text("suffix").to_owned(), names };
    let last = request.headers.get("last-event-id").and_then(|id| id.to_str().ok());
    let after = last.or(query.text("from")).map(|text| {
        forms::position(text)
            .ok_or_else(|| invalid("from is a revision, or an id of an event: REVISION.N or REVISION.end"))
    });
    let every = query.duration_ms("mark")?.map_or(MARK_EVERY, Duration::from_millis).max(MARK_EVERY_MIN);
    let after = after.transpose()?;
    let watcher = gateway.feed().watch(&permit, filter, after).await.map_err(refused)?;
    let revision = gateway.status().revision;
    Ok(event_stream(stream(gateway.clone(), watcher, after.is_none(), every), revision))
}

/// An event or a family of them; a name that never comes would be waited for without end.
fn event_name(name: &str) -> S3Result<String> {
    let full = if name.starts_with("s3:") { name.to_owned() } else { format!("s3:{name}") };
    if EventKind::is_known(&full) { Ok(full) } else { Err(invalid(format!("there is no event {name}"))) }
}

fn stream(
    gateway: Gateway,
    mut watcher: Watcher,
    from_now: bool,
    every: Duration,
) -> impl futures::Stream<Item = Chunk> {
    let chunk = |text: String| Ok(Frame::data(Bytes::from(text)));
    async_stream::stream! {
        yield chunk(format!("retry: {RETRY_MS}\n\n"));
        if from_now {
            // Whoever loses the connection before the first event goes on from here.
            yield chunk(mark(watcher.position().revision));
        }
        loop {
            let next = tokio::select! {
                next = watcher.next(Instant::now() + every) => next,
                // The client connects again, to another node.
                () = gateway.left() => return,
            };
            match next {
                Ok(Next::Event(event)) => {
                    let (id, data) = (forms::id(event.place), forms::plain(&event));
                    yield chunk(format!("id: {id}\nevent: change\ndata: {data}\n\n"));
                }
                Ok(Next::Mark(revision)) => {
                    yield chunk(mark(revision));
                }
                Err(Error::Refused(refusal @ Refusal::Compacted { .. })) => {
                    let data = serde_json::json!({ "code": "Compacted", "message": refusal.to_string() });
                    yield chunk(format!("event: error\ndata: {data}\n\n"));
                    return;
                }
                // Nothing is lost: the client connects again.
                Err(error) => {
                    tracing::debug!(error = crate::backend::chain(&error), "a watcher has to connect again");
                    return;
                }
            }
        }
    }
}

fn mark(revision: Revision) -> String {
    format!("id: {revision}.end\nevent: mark\ndata: {{\"revision\":{revision}}}\n\n")
}
