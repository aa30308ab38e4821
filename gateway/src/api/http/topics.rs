//! `/_holdfast/v1/topics`: messages in order, read by offset or claimed by the consumers of a group.
//!
//! | request | answer |
//! | --- | --- |
//! | `GET /v1/topics?after=` | topics by name |
//! | `PUT /v1/topics/{topic}` `{keep, keep_bytes}`, `GET`, `DELETE` | settings; state with groups; removal |
//! | `POST /v1/topics/{topic}?key=` | publishes the body; `?batch=true` one message a line, as JSON |
//! | `GET /v1/topics/{topic}/messages?from=&max=&wait=` | messages from an offset on, or as server-sent events |
//! | `PUT /v1/topics/{topic}/groups/{group}` `{from, ttl, max_deliveries, dead_letter}`, `GET`, `DELETE` | a group |
//! | `POST .../groups/{group}/claim?max=&ttl=&wait=&owner=` | a lease with messages |
//! | `POST .../groups/{group}/ack?lease=` `{offsets}` | they are done |
//!
//! A claim is renewed and given back as any lease: `POST`, `DELETE /v1/leases/{lease}`.

mod groups;
mod messages;

use std::time::Duration;

use bytes::Bytes;
use holdfast_core::command::SetTopic;
use holdfast_core::topic::{GroupRow, TopicRow};
use s3s::{Body, S3Error, S3ErrorCode, S3Request, S3Response, S3Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json as object};

use super::{DOCUMENT_BYTES_MAX, Query, decoded, json, no_route};
use crate::api::s3::error::invalid;
use crate::api::s3::{call_of, to_s3};
use crate::clock::iso_8601;
use crate::clock::{duration_text, seconds_or_duration};
use crate::gateway::Gateway;
use crate::ops::Done;
use crate::ops::topic::{TopicState, WAIT_MAX};

/// What a PUT of a topic may say. `keep` is a duration such as `7d`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    keep: Option<String>,
    keep_bytes: Option<u64>,
}

/// `GET` of all topics.
pub(super) async fn list(gateway: &Gateway, request: &S3Request<Body>) -> S3Result<S3Response<Body>> {
    let call = call_of(request)?;
    let after = Query::of(request, &["after"])?.text("after").unwrap_or_default().to_owned();
    let found = gateway.topics(&call, after).await.map_err(|error| to_s3(&error, call.request));
    let Done { revision, value } = found?;
    let topics: Vec<Value> = value.iter().map(|(name, row)| topic(name, row)).collect();
    Ok(json(object!({ "topics": topics }), Some(revision)))
}

/// Everything under one topic.
pub(super) async fn of_topic(gateway: &Gateway, request: S3Request<Body>, path: &str) -> S3Result<S3Response<Body>> {
    let parts = path.split('/').map(decoded).collect::<S3Result<Vec<String>>>()?;
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    match (request.method.as_str(), parts.as_slice()) {
        ("POST", [name]) => messages::publish(gateway, request, name).await,
        ("GET", [name]) => show(gateway, &request, name).await,
        ("PUT", [name]) => set(gateway, request, name).await,
        ("DELETE", [name]) => delete(gateway, &request, name, None).await,
        ("GET", [name, "messages"]) => messages::read(gateway, &request, name).await,
        ("GET", [name, "groups", group]) => groups::show(gateway, &request, name, group).await,
        ("PUT", [name, "groups", group]) => groups::set(gateway, request, name, group).await,
        ("DELETE", [name, "groups", group]) => delete(gateway, &request, name, Some(group)).await,
        ("POST", [name, "groups", group, "claim"]) => groups::claim(gateway, &request, name, group).await,
        ("POST", [name, "groups", group, "ack"]) => groups::acknowledge(gateway, request, name, group).await,
        (_, [_] | [_, "messages"] | [_, "groups", _] | [_, "groups", _, "claim" | "ack"]) => {
            Err(S3Error::new(S3ErrorCode::MethodNotAllowed))
        }
        _ => Err(no_route()),
    }
}

async fn show(gateway: &Gateway, request: &S3Request<Body>, name: &str) -> S3Result<S3Response<Body>> {
    let call = call_of(request)?;
    Query::of(request, &[])?;
    let found = gateway.topic(&call, name).await.map_err(|error| to_s3(&error, call.request));
    let Done { revision, value: TopicState { row, groups } } = found?;
    let mut answer = topic(name, &row);
    let groups: Vec<Value> = groups.iter().map(|(name, group)| group_state(name, &row, group)).collect();
    answer["groups"] = object!(groups);
    Ok(json(answer, Some(revision)))
}

async fn set(gateway: &Gateway, mut request: S3Request<Body>, name: &str) -> S3Result<S3Response<Body>> {
    let call = call_of(&request)?;
    Query::of(&request, &[])?;
    let Settings { keep, keep_bytes } = document(&mut request).await?;
    let keep_ms = keep.map(|text| duration_ms("keep", &text)).transpose()?;
    let op = SetTopic { topic: name.to_owned(), keep_ms, keep_bytes };
    gateway.set_topic(&call, op).await.map_err(|error| to_s3(&error, call.request))?;
    show(gateway, &request, name).await
}

async fn delete(
    gateway: &Gateway,
    request: &S3Request<Body>,
    name: &str,
    group: Option<&str>,
) -> S3Result<S3Response<Body>> {
    let call = call_of(request)?;
    Query::of(request, &[])?;
    let done = gateway.delete_topic(&call, name.to_owned(), group.map(str::to_owned)).await;
    let done = done.map_err(|error| to_s3(&error, call.request))?;
    Ok(json(object!({ "topic": name, "group": group }), Some(done.revision)))
}

fn topic(name: &str, row: &TopicRow) -> Value {
    object!({
        "topic": name,
        "id": row.id,
        "created": iso_8601(row.created_ms),
        "keep": duration_text(Duration::from_millis(row.keep_ms)),
        "keep_bytes": row.keep_bytes,
        "oldest": row.oldest,
        "next": row.next,
        "bytes": row.bytes,
    })
}

/// A group; its lag is what is not acknowledged yet.
fn group_state(name: &str, topic: &TopicRow, row: &GroupRow) -> Value {
    let lag = row.undelivered(topic) + u64::from(row.pending) + u64::from(row.redeliver);
    object!({
        "group": name,
        "next": row.next,
        "lag": lag,
        "pending": row.pending,
        "redeliver": row.redeliver,
        "acknowledged": row.acknowledged,
        "missed": row.missed,
        "given_up": row.given_up,
        "ttl": duration_text(Duration::from_millis(row.ttl_ms)),
        "max_deliveries": row.max_deliveries.unwrap_or(0),
        "dead_letter": row.dead_letter.as_deref().unwrap_or(""),
    })
}

fn duration_ms(name: &str, text: &str) -> S3Result<u64> {
    seconds_or_duration(text).ok_or_else(|| invalid(format!("{name} is a duration such as 30s, 10m or 7d")))
}

/// How long the request waits for messages; longer than [`WAIT_MAX`] is refused.
fn wait(query: &Query) -> S3Result<Duration> {
    let wait = Duration::from_millis(query.duration_ms("wait")?.unwrap_or(0));
    if wait > WAIT_MAX { Err(invalid("wait is at most 5 minutes")) } else { Ok(wait) }
}

async fn body(request: &mut S3Request<Body>, most: usize) -> S3Result<Bytes> {
    super::body(request, most, &format!("the body cannot be read, or has more than {most} bytes")).await
}

/// The body as a JSON document; an empty one says nothing.
async fn document<T: DeserializeOwned + Default>(request: &mut S3Request<Body>) -> S3Result<T> {
    let body = body(request, DOCUMENT_BYTES_MAX).await?;
    if body.is_empty() {
        return Ok(T::default());
    }
    serde_json::from_slice(&body).map_err(|error| invalid(format!("the body is not understood: {error}")))
}
