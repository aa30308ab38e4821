//! `/_holdfast/v1/targets`: where buckets may send events.
//!
//! | request | answer |
//! | --- | --- |
//! | `GET /v1/targets` | all, with their cursors and problems |
//! | `GET`, `PUT` (JSON, partial; null removes a setting), `DELETE /v1/targets/{target}` | one |
//! | `POST /v1/targets/{target}/test` | sends a test event from this node; 502 with the problem when it does not arrive |

use bytes::Bytes;
use holdfast_core::notify::TargetRow;
use http::StatusCode;
use s3s::{Body, S3Error, S3ErrorCode, S3Request, S3Response, S3Result};
use serde_json::{Map, Value, json as object};

use super::{DOCUMENT_BYTES_MAX, Query, body, decoded, json, no_route};
use crate::api::s3::error::invalid;
use crate::api::s3::{call_of, to_s3};
use crate::clock::{iso_8601, now_ms};
use crate::error::Error;
use crate::feed::forms;
use crate::gateway::Gateway;
use crate::notify::NotifyContext;
use crate::notify::message::Message;
use crate::notify::senders::{self, SendError};
use crate::notify::settings::{SettingsError, TargetSettings, merge, shown};
use crate::ops::Done;

pub(super) async fn list(gateway: &Gateway, request: &S3Request<Body>) -> S3Result<S3Response<Body>> {
    let call = call_of(request)?;
    if request.method != http::Method::GET {
        return Err(S3Error::new(S3ErrorCode::MethodNotAllowed));
    }
    Query::of(request, &[])?;
    let found = gateway.targets(&call).await.map_err(|error| to_s3(&error, call.request))?;
    let targets: Vec<Value> = found.value.iter().map(|(name, row)| target(gateway, name, row)).collect();
    Ok(json(object!({ "targets": targets }), Some(found.revision)))
}

pub(super) async fn one(
    gateway: &Gateway,
    context: &NotifyContext,
    request: S3Request<Body>,
    path: &str,
) -> S3Result<S3Response<Body>> {
    Query::of(&request, &[])?;
    let (name, test) = match path.split_once('/') {
        None => (decoded(path)?, false),
        Some((name, "test")) => (decoded(name)?, true),
        Some(_) => return Err(no_route()),
    };
    let call = call_of(&request)?;
    let refused = |error: Error| to_s3(&error, call.request);
    match (request.method.as_str(), test) {
        ("GET", false) => {
            let Done { revision, value } = gateway.target(&call, &name).await.map_err(refused)?;
            Ok(json(target(gateway, &name, &value), Some(revision)))
        }
        ("PUT", false) => set(gateway, context, request, name).await,
        ("DELETE", false) => {
            let done = gateway.remove_target(&call, name.clone()).await.map_err(refused)?;
            Ok(json(object!({ "target": name }), Some(done.revision)))
        }
        ("POST", true) => {
            let Done { revision, value } = gateway.target(&call, &name).await.map_err(refused)?;
            let settings = opened(context, &name, &value.settings)?;
            let settings = TargetSettings::parse(&settings).map_err(wrong)?;
            send_test(&settings, context, &name).await.map_err(unreachable)?;
            Ok(json(object!({ "target": name, "arrived": true }), Some(revision)))
        }
        _ => Err(S3Error::new(S3ErrorCode::MethodNotAllowed)),
    }
}

fn wrong(error: SettingsError) -> S3Error {
    invalid(error.0)
}

fn opened(context: &NotifyContext, name: &str, stored: &[u8]) -> S3Result<Map<String, Value>> {
    context.sealer.open(name, stored).map_err(wrong)
}

async fn set(
    gateway: &Gateway,
    context: &NotifyContext,
    mut request: S3Request<Body>,
    name: String,
) -> S3Result<S3Response<Body>> {
    let call = call_of(&request)?;
    let refused = |error: Error| to_s3(&error, call.request);
    if name.is_empty() || name.contains([':', '/']) {
        return Err(invalid("the name of a target is a part of its ARN: it has no colon and no slash"));
    }
    let body = body(&mut request, DOCUMENT_BYTES_MAX, "the settings cannot be read").await?;
    let changes: Map<String, Value> = serde_json::from_slice(&body).map_err(|error| invalid(error.to_string()))?;
    if changes.contains_key("sealed") {
        return Err(invalid("there is no setting sealed"));
    }
    let mut settings = match gateway.target(&call, &name).await {
        Ok(found) => match context.sealer.open(&name, &found.value.settings) {
            Ok(settings) => settings,
            // Sealed with other root keys: what is not secret stays.
            Err(_) => {
                let mut settings = shown(&found.value.settings);
                settings.remove("secrets");
                settings
            }
        },
        Err(Error::Refused(holdfast_core::error::Error::NoSuchTarget)) => Map::new(),
        Err(error) => return Err(refused(error)),
    };
    merge(&mut settings, changes);
    let understood = TargetSettings::parse(&settings).map_err(wrong)?;
    // Refused at once when it can be seen now; whatever the name means later is looked at again.
    for (host, port) in &understood.hosts {
        if let Err(error @ crate::outbound::OutboundError::Forbidden(_)) = context.reach.resolve(host, *port).await {
            return Err(invalid(error.to_string()));
        }
    }
    gateway.set_target(&call, name.clone(), context.sealer.seal(&name, &settings)).await.map_err(refused)?;
    let Done { revision, value } = gateway.target(&call, &name).await.map_err(refused)?;
    Ok(json(target(gateway, &name, &value), Some(revision)))
}

async fn send_test(settings: &TargetSettings, context: &NotifyContext, name: &str) -> Result<(), SendError> {
    let time = iso_8601(now_ms());
    let body = object!({ "Service": "Holdfast", "Event": "s3:TestEvent", "Time": time, "Target": name });
    let message = Message {
        unique: format!("test-{:032x}", rand::random::<u128>()),
        id: format!("test-{:016x}", rand::random::<u64>()),
        place: (0, 0),
        key: "test".into(),
        name: "TestEvent",
        time,
        content_type: "application/json",
        body: Bytes::from(body.to_string()),
    };
    let mut sender = senders::connect(settings, context.reach, name).await?;
    senders::within(settings, sender.send_test(&message)).await
}

fn unreachable(error: SendError) -> S3Error {
    let mut out = S3Error::with_message(S3ErrorCode::Custom("TargetUnreachable".into()), error.to_string());
    out.set_status_code(StatusCode::BAD_GATEWAY);
    out
}

fn target(gateway: &Gateway, name: &str, row: &TargetRow) -> Value {
    let settings = shown(&row.settings);
    let kind = settings.get("kind").and_then(Value::as_str).unwrap_or_default();
    object!({
        "target": name,
        "arn": format!("arn:holdfast:sqs:{}:{name}:{kind}", gateway.region()),
        "settings": settings,
        "cursor": forms::id(row.cursor),
        "delivered": row.delivered,
        "dead_lettered": row.dead_lettered,
        "gaps": row.lost,
        "problem": row.problem,
    })
}
