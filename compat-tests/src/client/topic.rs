//! Topics over HTTP: one function for each thing to ask.

use anyhow::{Context, Result};
use serde_json::Value;

use super::raw::{Call, Lost, Raw, Reply};

/// A request below `/_holdfast/v1/topics`.
///
/// # Errors
/// When no complete reply arrived.
pub fn ask(raw: &mut Raw, method: &str, path: &str, query: &[(&str, &str)], body: &[u8]) -> Result<Reply, Lost> {
    let key = format!("v1/topics/{path}");
    raw.send(&Call { method, bucket: "_holdfast", key: key.trim_end_matches('/'), query, headers: &[], body })
}

/// The answer's document.
///
/// # Errors
/// When it is not JSON.
pub fn json(reply: &Reply) -> Result<Value> {
    serde_json::from_slice(&reply.body).with_context(|| reply.text())
}

/// Publishes one message; its offset.
///
/// # Errors
/// When it was not acknowledged.
pub fn publish(raw: &mut Raw, topic: &str, value: &[u8]) -> Result<u64> {
    let reply = ask(raw, "POST", topic, &[], value)?.expect(200)?;
    json(&reply)?["offset"].as_u64().context("no offset")
}

/// Some messages from an offset on, as JSON.
///
/// # Errors
/// When they are refused.
pub fn read(raw: &mut Raw, topic: &str, from: &str, wait: &str) -> Result<Vec<Value>> {
    let query = [("from", from), ("max", "1000"), ("wait", wait)];
    let page = json(&ask(raw, "GET", &format!("{topic}/messages"), &query, b"")?.expect(200)?)?;
    Ok(page["messages"].as_array().cloned().unwrap_or_default())
}

/// Offsets of messages.
#[must_use]
pub fn offsets(messages: &[Value]) -> Vec<u64> {
    messages.iter().filter_map(|message| message["offset"].as_u64()).collect()
}

/// Claims messages: the lease, when there were some, and the messages.
///
/// # Errors
/// When the claim is refused.
pub fn claim(raw: &mut Raw, topic: &str, group: &str, query: &[(&str, &str)]) -> Result<(Option<u64>, Vec<Value>)> {
    let claimed = json(&ask(raw, "POST", &format!("{topic}/groups/{group}/claim"), query, b"")?.expect(200)?)?;
    Ok((claimed["lease"].as_u64(), claimed["messages"].as_array().cloned().unwrap_or_default()))
}

/// Acknowledges messages of a claim, or all.
///
/// # Errors
/// When no complete reply arrived.
pub fn acknowledge(
    raw: &mut Raw,
    topic: &str,
    group: &str,
    lease: u64,
    offsets: Option<&[u64]>,
) -> Result<Reply, Lost> {
    let (path, lease) = (format!("{topic}/groups/{group}/ack"), lease.to_string());
    let body = offsets.map(|offsets| serde_json::json!({ "offsets": offsets }).to_string()).unwrap_or_default();
    ask(raw, "POST", &path, &[("lease", &lease)], body.as_bytes())
}

/// A group's state.
///
/// # Errors
/// When there is none.
pub fn group(raw: &mut Raw, topic: &str, group: &str) -> Result<Value> {
    json(&ask(raw, "GET", &format!("{topic}/groups/{group}"), &[], b"")?.expect(200)?)
}
