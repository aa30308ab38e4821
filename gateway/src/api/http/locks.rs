//! `/_holdfast/v1/locks/{name}`: acquire (`PUT`), renew (`POST`), release (`DELETE`), who holds and who waits (`GET`).

use std::time::Duration;

use holdfast_core::command::{Granted, RenewLease};
use holdfast_core::lock::{Claim, LockMode, LockState};
use http::StatusCode;
use s3s::{Body, S3Request, S3Response, S3Result};
use serde_json::{Value, json as object};

use super::{Query, decoded, json};
use crate::api::s3::error::invalid;
use crate::api::s3::{call_of, to_s3};
use crate::gateway::Gateway;
use crate::ops::Done;
use crate::ops::lock::{Acquire, Acquired};

/// Life of a lease when the request names none.
pub(super) const TTL_MS_DEFAULT: u64 = 30_000;

pub(super) async fn lock(gateway: &Gateway, request: &S3Request<Body>, name: &str) -> S3Result<S3Response<Body>> {
    let (name, call) = (decoded(name)?, call_of(request)?);
    let refused = |error| to_s3(&error, call.request);
    match request.method.as_str() {
        "PUT" => acquire(gateway, request, name).await,
        "POST" => {
            let query = Query::of(request, &["lease", "ttl"])?;
            let op = RenewLease { lease: lease(&query)?, name: Some(name), ttl_ms: query.duration_ms("ttl")? };
            let Done { revision, value } = gateway.renew_lease(&call, op).await.map_err(refused)?;
            Ok(json(granted(&value), Some(revision)))
        }
        "DELETE" => {
            let lease = lease(&Query::of(request, &["lease"])?)?;
            let done = gateway.release_lease(&call, lease, Some(name.clone())).await.map_err(refused)?;
            Ok(json(object!({ "name": name, "lease": lease }), Some(done.revision)))
        }
        "GET" => {
            Query::of(request, &[])?;
            let Done { revision, value } = gateway.lock_state(&call, &name).await.map_err(refused)?;
            Ok(json(state(&value), Some(revision)))
        }
        _ => Err(s3s::S3Error::new(s3s::S3ErrorCode::MethodNotAllowed)),
    }
}

async fn acquire(gateway: &Gateway, request: &S3Request<Body>, name: String) -> S3Result<S3Response<Body>> {
    let call = call_of(request)?;
    let query = Query::of(request, &["ttl", "wait", "mode", "owner"])?;
    let mode = match query.text("mode") {
        None | Some("exclusive") => LockMode::Exclusive,
        Some("shared") => LockMode::Shared,
        Some(_) => return Err(invalid("mode is exclusive or shared")),
    };
    let want = Acquire {
        name: name.clone(),
        mode,
        owner: query.text("owner").unwrap_or_default().to_owned(),
        ttl_ms: query.duration_ms("ttl")?.unwrap_or(TTL_MS_DEFAULT),
        wait: Duration::from_millis(query.duration_ms("wait")?.unwrap_or(0)),
    };
    let Done { revision, value } =
        gateway.acquire_lock(&call, want).await.map_err(|error| to_s3(&error, call.request))?;
    match value {
        Acquired::Granted(value) => {
            let mut answer = granted(&value);
            answer["name"] = object!(name);
            answer["mode"] = object!(mode_name(mode));
            Ok(json(answer, Some(revision)))
        }
        Acquired::Held(held) => {
            let mut answer = state(&held);
            answer["code"] = object!("LockHeld");
            answer["message"] = object!("The lock is held.");
            answer["request_id"] = object!(call.request.to_string());
            let mut reply = json(answer, Some(revision));
            reply.status = Some(StatusCode::CONFLICT);
            Ok(reply)
        }
    }
}

fn lease(query: &Query) -> S3Result<u64> {
    query.number("lease")?.ok_or_else(|| invalid("the parameter lease is missing"))
}

pub(super) fn mode_name(mode: LockMode) -> &'static str {
    match mode {
        LockMode::Exclusive => "exclusive",
        LockMode::Shared => "shared",
    }
}

pub(super) fn granted(granted: &Granted) -> Value {
    let mut answer = object!({ "lease": granted.lease, "ttl_ms": granted.ttl_ms });
    if let Some(token) = granted.token {
        answer["token"] = object!(token);
    }
    answer
}

pub(super) fn claim(claim: &Claim) -> Value {
    let Claim { lease, row } = claim;
    let mut answer = object!({ "lease": lease, "owner": row.owner, "ttl_ms": row.ttl_ms, "renewals": row.renewals, "keys": row.keys });
    if let Some(lock) = &row.lock {
        answer["lock"] = object!(lock.name);
        answer["mode"] = object!(mode_name(lock.mode));
        if let Some(token) = lock.token {
            answer["token"] = object!(token);
        }
    }
    answer
}

pub(super) fn state(state: &LockState) -> Value {
    let all = |claims: &[Claim]| claims.iter().map(claim).collect::<Vec<_>>();
    object!({ "name": state.name, "holders": all(&state.holders), "waiters": all(&state.waiters) })
}
