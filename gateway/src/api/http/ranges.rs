//! `/_holdfast/v1/ranges/{file}`: byte-range and whole-file locks, for a mount and for whoever looks at one.
//!
//! | request | answer |
//! | --- | --- |
//! | `PUT ?lease=&owner=&family=&mode=&start=&end=&pid=&wait=&ticket=` | locks or converts, and waits |
//! | `DELETE ?lease=&owner=&family=&start=&end=` | unlocks |
//! | `DELETE` with the `mode` and the `ticket` of a `PUT` | cancels its wait, and tells whether it was granted first |
//! | `GET ?lease=&owner=&family=&mode=&start=&end=` | who is in the way |
//! | `GET` | who holds what, and who waits |
//! | `GET /v1/ranges?lease=&after=` | the files of a lease |

use std::time::Duration;

use holdfast_core::command::{RangeHolder, SetRange};
use holdfast_core::lock::LockMode;
use holdfast_core::range::{RangeFamily, RangeState};
use holdfast_core::rules::lock::LOCK_WAIT_MS_MAX;
use http::StatusCode;
use s3s::{Body, S3Error, S3ErrorCode, S3Request, S3Response, S3Result};
use serde_json::{Value, json as object};

use super::locks::mode_name;
use super::{Query, decoded, json};
use crate::api::s3::error::invalid;
use crate::api::s3::{call_of, to_s3};
use crate::gateway::Gateway;
use crate::ops::range::RangeSet;
use crate::ops::{Call, Done};

/// The files of a lease.
pub(super) async fn collection(gateway: &Gateway, request: &S3Request<Body>) -> S3Result<S3Response<Body>> {
    if request.method != http::Method::GET {
        return Err(S3Error::new(S3ErrorCode::MethodNotAllowed));
    }
    let call = call_of(request)?;
    let query = Query::of(request, &["lease", "after"])?;
    let after = query.text("after").unwrap_or_default().to_owned();
    let found = gateway.ranges_of_lease(&call, needed(&query, "lease")?, after).await;
    let Done { revision, value } = found.map_err(|error| to_s3(&error, call.request))?;
    let files: Vec<Value> = value.iter().map(|(file, rows)| object!({ "resource": file, "ranges": rows })).collect();
    Ok(json(object!({ "resources": files }), Some(revision)))
}

pub(super) async fn range(gateway: &Gateway, request: &S3Request<Body>, file: &str) -> S3Result<S3Response<Body>> {
    let (file, call) = (decoded(file)?, call_of(request)?);
    let refused = |error| to_s3(&error, call.request);
    match request.method.as_str() {
        "PUT" => {
            let known = ["lease", "owner", "family", "mode", "start", "end", "pid", "wait", "ticket"];
            lock(gateway, &call, &file, &Query::of(request, &known)?).await
        }
        "DELETE" => {
            let known = ["lease", "owner", "family", "mode", "start", "end", "ticket"];
            let asked = asked(&file, &Query::of(request, &known)?)?;
            match (asked.mode, asked.ticket) {
                (None, None) => {
                    let unlocked = gateway.set_range(&call, asked.clone(), Duration::ZERO).await;
                    Ok(json(shown(&asked), Some(unlocked.map_err(refused)?.revision)))
                }
                (Some(_), Some(_)) => {
                    let Done { revision, value } = gateway.cancel_range(&call, asked.clone()).await.map_err(refused)?;
                    let mut answer = shown(&asked);
                    answer["granted"] = object!(value.is_some());
                    answer["token"] = object!(value);
                    Ok(json(answer, Some(revision)))
                }
                _ => Err(invalid("a wait is cancelled by its mode and ticket; to unlock needs neither")),
            }
        }
        "GET" => {
            let query = Query::of(request, &["lease", "owner", "family", "mode", "start", "end"])?;
            if query.0.is_empty() {
                let Done { revision, value } = gateway.ranges(&call, file).await.map_err(refused)?;
                return Ok(json(state(&value), Some(revision)));
            }
            let asked = asked(&file, &query)?;
            let wanted = asked.wanted().ok_or_else(|| invalid("the parameter mode is missing"))?;
            let found = gateway.range_in_the_way(&call, &file, asked.family, wanted).await;
            let Done { revision, value } = found.map_err(refused)?;
            Ok(json(object!({ "resource": file, "holder": value.as_ref().map(holder) }), Some(revision)))
        }
        _ => Err(S3Error::new(S3ErrorCode::MethodNotAllowed)),
    }
}

async fn lock(gateway: &Gateway, call: &Call, file: &str, query: &Query) -> S3Result<S3Response<Body>> {
    let wait_ms = query.duration_ms("wait")?.unwrap_or(0);
    if wait_ms > LOCK_WAIT_MS_MAX {
        return Err(invalid("a wait is at most 24 hours"));
    }
    let mut asked = asked(file, query)?;
    if asked.mode.is_none() {
        return Err(invalid("the parameter mode is missing"));
    }
    asked.ticket = (wait_ms > 0).then(|| asked.ticket.unwrap_or_else(rand::random));
    let set = gateway.set_range(call, asked.clone(), Duration::from_millis(wait_ms)).await;
    let Done { revision, value } = set.map_err(|error| to_s3(&error, call.request))?;
    let mut answer = shown(&asked);
    let held = match value {
        RangeSet::Held(token) => {
            answer["token"] = object!(token);
            return Ok(json(answer, Some(revision)));
        }
        RangeSet::Unlocked => None,
        RangeSet::InTheWay(held) => held,
    };
    answer["holder"] = object!(held.as_ref().map(holder));
    answer["code"] = object!("RangeHeld");
    answer["message"] = object!("The range is held.");
    answer["request_id"] = object!(call.request.to_string());
    let mut reply = json(answer, Some(revision));
    reply.status = Some(StatusCode::CONFLICT);
    Ok(reply)
}

fn needed(query: &Query, name: &str) -> S3Result<u64> {
    query.number(name)?.ok_or_else(|| invalid(format!("the parameter {name} is missing")))
}

/// The request in a query; without `end` it goes to the end of the file.
fn asked(file: &str, query: &Query) -> S3Result<SetRange> {
    let family = match query.text("family") {
        None | Some("fcntl") => RangeFamily::Fcntl,
        Some("flock") => RangeFamily::Flock,
        Some(_) => return Err(invalid("family is fcntl or flock")),
    };
    let mode = match query.text("mode") {
        None => None,
        Some("exclusive") => Some(LockMode::Exclusive),
        Some("shared") => Some(LockMode::Shared),
        Some(_) => return Err(invalid("mode is exclusive or shared")),
    };
    let pid = query.number("pid")?.unwrap_or(0);
    Ok(SetRange {
        resource: file.to_owned(),
        lease: needed(query, "lease")?,
        owner: needed(query, "owner")?,
        family,
        mode,
        start: query.number("start")?.unwrap_or(0),
        end: query.number("end")?.unwrap_or(u64::MAX),
        ticket: query.number("ticket")?,
        pid: u32::try_from(pid).map_err(|_| invalid("pid is a number of 32 bits"))?,
        asker: None,
    })
}

/// First and last byte; to the end of the file there is no last one.
fn with_bytes(mut answer: Value, start: u64, end: u64) -> Value {
    answer["start"] = object!(start);
    if end != u64::MAX {
        answer["end"] = object!(end);
    }
    answer
}

fn shown(asked: &SetRange) -> Value {
    let mut answer = object!({
        "resource": asked.resource,
        "lease": asked.lease,
        "owner": asked.owner,
        "family": asked.family.name(),
    });
    if let Some(mode) = asked.mode {
        answer["mode"] = object!(mode_name(mode));
    }
    if let Some(ticket) = asked.ticket {
        answer["ticket"] = object!(ticket);
    }
    with_bytes(answer, asked.start, asked.end)
}

fn holder(holder: &RangeHolder) -> Value {
    let RangeHolder { lease, owner, pid, mode, start, end } = *holder;
    with_bytes(object!({ "lease": lease, "owner": owner, "pid": pid, "mode": mode_name(mode) }), start, end)
}

fn state(state: &RangeState) -> Value {
    let holders = state.held.iter().map(|(family, range)| {
        let (lease, owner) = range.by;
        let mode = mode_name(range.row.mode);
        let answer = object!({
            "family": family.name(),
            "lease": lease,
            "owner": owner,
            "pid": range.row.pid,
            "mode": mode,
            "token": range.row.token,
        });
        with_bytes(answer, range.start, range.row.end)
    });
    let waiters = state.waits.iter().map(|wait| {
        let row = &wait.row;
        let answer = object!({
            "family": row.family.name(),
            "lease": row.lease,
            "owner": row.owner,
            "pid": row.pid,
            "mode": mode_name(row.mode),
            "ticket": row.ticket,
        });
        with_bytes(answer, row.start, row.end)
    });
    let (holders, waiters): (Vec<Value>, Vec<Value>) = (holders.collect(), waiters.collect());
    object!({ "resource": state.resource, "holders": holders, "waiters": waiters })
}
