//! Messages of a topic: published, and read by offset.
//!
//! As server-sent events the id of a message is its offset, that of a mark `<offset>.next`, the offset to go on at: a client
//! that reconnects with `Last-Event-ID`, to any node, goes on right after it.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use holdfast_core::error::Error as Refusal;
use holdfast_core::rules::topic::{MESSAGE_BYTES_MAX, PUBLISH_BYTES_MAX};
use holdfast_core::topic::{Message, MessagePage, MessageRow, Start};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body::Frame;
use s3s::{Body, S3Request, S3Response, S3Result};
use serde::Deserialize;
use serde_json::{Value, json as object};

use super::groups::start;
use super::{body, wait};
use crate::api::http::{Chunk, Query, event_stream, json};
use crate::api::s3::error::invalid;
use crate::api::s3::{call_of, to_s3};
use crate::clock::iso_8601;
use crate::error::Error;
use crate::gateway::Gateway;
use crate::ops::topic::READ_MESSAGES_MAX;
use crate::ops::{Call, Done, Freshness};

/// Headers that are attributes of a message.
const ATTRIBUTE: &str = "x-holdfast-attr-";
/// Messages of an answer when the request names no number.
const MAX_DEFAULT: u64 = 100;
/// How often a quiet stream says how far it is.
const MARK_EVERY: Duration = Duration::from_secs(10);
/// Shortest interval that a client may ask for.
const MARK_EVERY_MIN: Duration = Duration::from_millis(100);
/// How long a client waits before it connects again.
const RETRY_MS: u64 = 1000;

/// One line of a batch.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    key: Option<String>,
    #[serde(default)]
    attributes: BTreeMap<String, String>,
    content_type: Option<String>,
    value: Option<String>,
    value_base64: Option<String>,
}

pub(super) async fn publish(
    gateway: &Gateway,
    mut request: S3Request<Body>,
    topic: &str,
) -> S3Result<S3Response<Body>> {
    let call = call_of(&request)?;
    let query = Query::of(&request, &["key", "batch"])?;
    let batch = match query.text("batch") {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => return Err(invalid("batch is true or false")),
    };
    let messages = if batch {
        // Base 64 and JSON around it take room, too.
        lines(&body(&mut request, 2 * PUBLISH_BYTES_MAX).await?)?
    } else {
        let (content_type, attributes) = described(&request.headers)?;
        let value = body(&mut request, MESSAGE_BYTES_MAX).await?;
        vec![Message { key: query.text("key").map(str::to_owned), attributes, content_type, value }]
    };
    let done = gateway.publish(&call, topic.to_owned(), messages).await;
    let Done { revision, value } = done.map_err(|error| to_s3(&error, call.request))?;
    let mut answer = object!({ "topic": topic, "revision": revision });
    if batch {
        answer["first_offset"] = object!(value.first);
        answer["count"] = object!(value.count);
    } else {
        answer["offset"] = object!(value.first);
    }
    Ok(json(answer, Some(revision)))
}

/// Content type and attributes of a message, as its headers say.
fn described(headers: &HeaderMap) -> S3Result<(Option<String>, BTreeMap<String, String>)> {
    let text = |value: &HeaderValue| {
        let text = std::str::from_utf8(value.as_bytes()).map_err(|_| invalid("a header is not UTF-8"))?;
        Ok::<_, s3s::S3Error>(text.to_owned())
    };
    let mut attributes = BTreeMap::new();
    for (name, value) in headers {
        let Some(name) = name.as_str().strip_prefix(ATTRIBUTE) else { continue };
        if attributes.insert(name.to_owned(), text(value)?).is_some() {
            return Err(invalid(format!("the attribute {name} is given twice")));
        }
    }
    Ok((headers.get(header::CONTENT_TYPE).map(text).transpose()?, attributes))
}

fn lines(body: &[u8]) -> S3Result<Vec<Message>> {
    let lines = body.split(|byte| *byte == b'\n').enumerate().filter(|(_, line)| !line.trim_ascii().is_empty());
    lines
        .map(|(number, line)| {
            let wrong = |why: &str| invalid(format!("line {}: {why}", number + 1));
            let line: Line = serde_json::from_slice(line).map_err(|error| wrong(&error.to_string()))?;
            let value = match (line.value, line.value_base64) {
                (Some(text), None) => Bytes::from(text),
                (None, Some(text)) => BASE64.decode(text).map_err(|_| wrong("value_base64 is not base 64"))?.into(),
                _ => return Err(wrong("it has either value or value_base64")),
            };
            let Line { key, attributes, content_type, .. } = line;
            Ok(Message { key, attributes, content_type, value })
        })
        .collect()
}

/// A message. Its value is text, or base 64 when it is none; absent fields are left out.
pub(super) fn plain(offset: u64, row: &MessageRow) -> Value {
    let MessageRow { at_ms, revision, message, dead } = row;
    let mut out = object!({ "offset": offset, "revision": revision, "time": iso_8601(*at_ms) });
    match std::str::from_utf8(&message.value) {
        Ok(text) => out["value"] = object!(text),
        Err(_) => out["value_base64"] = object!(BASE64.encode(&message.value)),
    }
    if let Some(key) = &message.key {
        out["key"] = object!(key);
    }
    if !message.attributes.is_empty() {
        out["attributes"] = object!(message.attributes);
    }
    if let Some(content_type) = &message.content_type {
        out["content_type"] = object!(content_type);
    }
    if let Some(dead) = dead {
        out["dead"] = object!({
            "topic": dead.topic,
            "offset": dead.offset,
            "group": dead.group,
            "deliveries": dead.deliveries,
        });
    }
    out
}

/// Where to go on after the event of this id.
fn after(id: &str) -> Option<Start> {
    match id.strip_suffix(".next") {
        Some(offset) => Some(Start::Offset(offset.parse().ok()?)),
        None => Some(Start::Offset(id.parse::<u64>().ok()?.checked_add(1)?)),
    }
}

pub(super) async fn read(gateway: &Gateway, request: &S3Request<Body>, topic: &str) -> S3Result<S3Response<Body>> {
    let call = call_of(request)?;
    let query = Query::of(request, &["from", "max", "wait", "mark"])?;
    let accept = request.headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let streams = accept.is_some_and(|accept| accept.contains("text/event-stream"));
    let last = request.headers.get("last-event-id").and_then(|id| id.to_str().ok()).filter(|_| streams);
    let from = match last {
        Some(id) => after(id).ok_or_else(|| invalid("Last-Event-ID is an offset, or OFFSET.next"))?,
        None => start(query.text("from").unwrap_or("oldest"))?,
    };
    let (max, wait) = (query.number("max")?.unwrap_or(MAX_DEFAULT), wait(&query)?);
    if !(1..=READ_MESSAGES_MAX as u64).contains(&max) {
        return Err(invalid("max is from 1 to 1,000"));
    }
    let (max, wait) = if streams { (READ_MESSAGES_MAX, Duration::ZERO) } else { (max as usize, wait) };
    let page = match gateway.read_messages(&call, topic, from, max, wait).await {
        Err(Error::Refused(refusal @ Refusal::OffsetGone { .. })) => {
            let mut answer = gone(&refusal);
            answer["request_id"] = object!(call.request.to_string());
            let mut reply = json(answer, None);
            reply.status = Some(StatusCode::GONE);
            return Ok(reply);
        }
        read => read.map_err(|error| to_s3(&error, call.request))?,
    };
    if streams {
        let every = query.duration_ms("mark")?.map_or(MARK_EVERY, Duration::from_millis).max(MARK_EVERY_MIN);
        let revision = page.revision;
        return Ok(event_stream(stream(gateway.clone(), call, topic.to_owned(), page, every), revision));
    }
    let Done { revision, value: MessagePage { messages, next, topic } } = page;
    let messages: Vec<Value> = messages.iter().map(|(offset, row)| plain(*offset, row)).collect();
    Ok(json(object!({ "messages": messages, "next": next, "oldest": topic.oldest }), Some(revision)))
}

fn gone(refusal: &Refusal) -> Value {
    let mut answer = object!({ "code": "OffsetGone", "message": format!("The messages are gone: {refusal}.") });
    if let Refusal::OffsetGone { oldest } = refusal {
        answer["oldest"] = object!(oldest);
    }
    answer
}

fn stream(
    gateway: Gateway,
    call: Call,
    topic: String,
    first: Done<MessagePage>,
    every: Duration,
) -> impl futures::Stream<Item = Chunk> {
    let chunk = |text: String| Ok(Frame::data(Bytes::from(text)));
    async_stream::stream! {
        yield chunk(format!("retry: {RETRY_MS}\n\n"));
        let (id, mut page) = (first.value.topic.id, first);
        loop {
            for (offset, row) in &page.value.messages {
                yield chunk(format!("id: {offset}\nevent: message\ndata: {}\n\n", plain(*offset, row)));
            }
            let next = page.value.next;
            if page.value.messages.is_empty() {
                // Also at the beginning: whoever loses the connection before the first message goes on from here.
                yield chunk(format!("id: {next}.next\nevent: mark\ndata: {{\"next\":{next}}}\n\n"));
            }
            // What comes after that page is in every later state of this node.
            let freshness = Freshness { local: true, min_revision: Some(page.revision) };
            let call = Call { freshness, ..call.clone() };
            let read = tokio::select! {
                read = gateway.read_messages(&call, &topic, Start::Offset(next), READ_MESSAGES_MAX, every) => read,
                // The client connects again, to another node.
                () = gateway.left() => return,
            };
            match read {
                Ok(more) if more.value.topic.id == id => page = more,
                Err(Error::Refused(refusal @ Refusal::OffsetGone { .. })) => {
                    yield chunk(format!("event: error\ndata: {}\n\n", gone(&refusal)));
                    return;
                }
                // The topic is gone, or the node: the client connects again, and finds out which.
                Ok(_) => return,
                Err(error) => {
                    tracing::debug!(error = crate::backend::chain(&error), "a reader has to connect again");
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_events_say_where_to_go_on() {
        for (id, next) in [("0", Some(1)), ("41", Some(42)), ("0.next", Some(0)), ("42.next", Some(42))] {
            assert_eq!(after(id), next.map(Start::Offset), "{id}");
        }
        for bad in ["", "x", "-1", ".next", "1.end", "18446744073709551615"] {
            assert_eq!(after(bad), None, "{bad}");
        }
    }

    #[test]
    fn each_line_of_a_batch_is_a_message() {
        let body = "{\"value\":\"a\"}\n\n{\"key\":\"k\",\"value_base64\":\"/w==\",\"attributes\":{\"x\":\"y\"}}\r\n";
        let messages = lines(body.as_bytes()).unwrap();
        assert_eq!((messages.len(), &messages[0].value[..]), (2, &b"a"[..]));
        assert_eq!((messages[1].key.as_deref(), &messages[1].value[..]), (Some("k"), &[255][..]));
        let row = MessageRow { at_ms: 0, revision: 7, message: messages[1].clone(), dead: None };
        let out = plain(3, &row);
        assert_eq!((&out["value_base64"], &out["attributes"]["x"]), (&object!("/w=="), &object!("y")));
        for bad in ["{}", "{\"value\":1}", "{\"value\":\"a\",\"value_base64\":\"\"}", "a", "{\"value\":\"a\",\"x\":1}"]
        {
            let message = lines(bad.as_bytes()).unwrap_err().message().unwrap_or_default().to_owned();
            assert!(message.starts_with("line 1: "), "{message}");
        }
    }
}
