//! Groups of a topic: settings, claims and acknowledgements.

use holdfast_core::command::{Acknowledge, Claim, SetGroup};
use holdfast_core::topic::Start;
use s3s::{Body, S3Request, S3Response, S3Result};
use serde::Deserialize;
use serde_json::{Value, json as object};

use super::messages::plain;
use super::{document, duration_ms, group_state, wait};
use crate::api::http::{Query, json};
use crate::api::s3::error::invalid;
use crate::api::s3::{call_of, to_s3};
use crate::gateway::Gateway;
use crate::ops::Done;

/// What a PUT may say.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    from: Option<From>,
    ttl: Option<String>,
    max_deliveries: Option<u32>,
    dead_letter: Option<String>,
}

/// `oldest`, `latest` or an offset, as text or number.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum From {
    Offset(u64),
    Text(String),
}

/// What an acknowledgement may say.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Acknowledgement {
    offsets: Option<Vec<u64>>,
}

/// `oldest`, `latest` or an offset.
pub(super) fn start(text: &str) -> S3Result<Start> {
    match text {
        "oldest" => Ok(Start::Oldest),
        "latest" => Ok(Start::Latest),
        _ => text.parse().map(Start::Offset).map_err(|_| invalid("from is oldest, latest or an offset")),
    }
}

pub(super) async fn show(
    gateway: &Gateway,
    request: &S3Request<Body>,
    topic: &str,
    name: &str,
) -> S3Result<S3Response<Body>> {
    let call = call_of(request)?;
    Query::of(request, &[])?;
    let found = gateway.group(&call, topic, name).await.map_err(|error| to_s3(&error, call.request));
    let Done { revision, value: (row, group) } = found?;
    let mut answer = group_state(name, &row, &group);
    answer["topic"] = object!(topic);
    Ok(json(answer, Some(revision)))
}

pub(super) async fn set(
    gateway: &Gateway,
    mut request: S3Request<Body>,
    topic: &str,
    name: &str,
) -> S3Result<S3Response<Body>> {
    let call = call_of(&request)?;
    Query::of(&request, &[])?;
    let Settings { from, ttl, max_deliveries, dead_letter } = document(&mut request).await?;
    let from = match from {
        Some(From::Offset(offset)) => Some(Start::Offset(offset)),
        Some(From::Text(text)) => Some(start(&text)?),
        None => None,
    };
    let op = SetGroup {
        topic: topic.to_owned(),
        group: name.to_owned(),
        from: from.into_iter().collect(),
        ttl_ms: ttl.map(|text| duration_ms("ttl", &text)).transpose()?,
        max_deliveries,
        dead_letter,
    };
    gateway.set_group(&call, op).await.map_err(|error| to_s3(&error, call.request))?;
    show(gateway, &request, topic, name).await
}

pub(super) async fn claim(
    gateway: &Gateway,
    request: &S3Request<Body>,
    topic: &str,
    name: &str,
) -> S3Result<S3Response<Body>> {
    let call = call_of(request)?;
    let query = Query::of(request, &["max", "ttl", "wait", "owner"])?;
    let want = Claim {
        topic: topic.to_owned(),
        group: name.to_owned(),
        owner: query.text("owner").unwrap_or_default().to_owned(),
        max: u32::try_from(query.number("max")?.unwrap_or(1)).unwrap_or(u32::MAX),
        ttl_ms: query.duration_ms("ttl")?,
    };
    let claimed = gateway.claim(&call, want, wait(&query)?).await;
    let Done { revision, value } = claimed.map_err(|error| to_s3(&error, call.request))?;
    let messages: Vec<Value> = value
        .messages
        .iter()
        .map(|(delivery, row)| {
            let mut message = plain(delivery.offset, row);
            message["deliveries"] = object!(delivery.deliveries);
            message
        })
        .collect();
    let answer = object!({ "lease": value.lease, "ttl_ms": value.ttl_ms, "messages": messages });
    Ok(json(answer, Some(revision)))
}

pub(super) async fn acknowledge(
    gateway: &Gateway,
    mut request: S3Request<Body>,
    topic: &str,
    name: &str,
) -> S3Result<S3Response<Body>> {
    let call = call_of(&request)?;
    let lease = Query::of(&request, &["lease"])?.number("lease")?;
    let lease = lease.ok_or_else(|| invalid("the parameter lease is missing"))?;
    let Acknowledgement { offsets } = document(&mut request).await?;
    let op = Acknowledge { topic: topic.to_owned(), group: name.to_owned(), lease, offsets };
    let done = gateway.acknowledge(&call, op).await.map_err(|error| to_s3(&error, call.request))?;
    let answer = object!({ "lease": lease, "acknowledged": done.value.count, "left": done.value.left });
    Ok(json(answer, Some(done.revision)))
}
