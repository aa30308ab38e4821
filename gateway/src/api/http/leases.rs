//! `/_holdfast/v1/leases`: leases without a lock; `/_holdfast/v1/keys/{key}`: small keys that end with their lease.
//!
//! | request | answer |
//! | --- | --- |
//! | `GET /v1/locks?after=` | locks that somebody holds or waits for |
//! | `POST /v1/leases?ttl=&owner=` | a lease; `GET ?after=` lists them |
//! | `GET`, `POST ?ttl=`, `DELETE /v1/leases/{lease}` | show, renew, end |
//! | `PUT /v1/keys/{key}?lease=` (`If-None-Match: *`) | sets a key to the body |
//! | `GET`, `DELETE /v1/keys/{key}`, `GET /v1/keys?prefix=&after=` | value, removal, list |

use holdfast_core::command::RenewLease;
use holdfast_core::lock::Claim;
use holdfast_core::rules::lock::EPHEMERAL_BYTES_MAX;
use http::{HeaderValue, header};
use s3s::{Body, S3Error, S3ErrorCode, S3Request, S3Response, S3Result};
use serde_json::{Value, json as object};

use super::locks::{TTL_MS_DEFAULT, claim, granted, state};
use super::{Query, REVISION, body, decoded, json, no_route};
use crate::api::s3::error::invalid;
use crate::api::s3::{call_of, to_s3};
use crate::gateway::Gateway;
use crate::ops::Done;

/// `GET` of locks, leases or keys; `POST` of a lease.
pub(super) async fn collection(gateway: &Gateway, request: S3Request<Body>) -> S3Result<S3Response<Body>> {
    let call = call_of(&request)?;
    let refused = |error| to_s3(&error, call.request);
    let path = request.uri.path().trim_start_matches("/_holdfast/v1/").to_owned();
    match (request.method.as_str(), path.as_str()) {
        ("GET", "locks") => {
            let query = Query::of(&request, &["after"])?;
            let after = query.text("after").unwrap_or_default().to_owned();
            let Done { revision, value } = gateway.locks(&call, after).await.map_err(refused)?;
            let locks: Vec<Value> = value.iter().map(state).collect();
            Ok(json(object!({ "locks": locks }), Some(revision)))
        }
        ("GET", "leases") => {
            let after = Query::of(&request, &["after"])?.number("after")?.unwrap_or(0);
            let Done { revision, value } = gateway.leases(&call, after).await.map_err(refused)?;
            let leases: Vec<Value> = value.iter().map(claim).collect();
            Ok(json(object!({ "leases": leases }), Some(revision)))
        }
        ("POST", "leases") => {
            let query = Query::of(&request, &["ttl", "owner"])?;
            let ttl_ms = query.duration_ms("ttl")?.unwrap_or(TTL_MS_DEFAULT);
            let owner = query.text("owner").unwrap_or_default().to_owned();
            let Done { revision, value } = gateway.grant_lease(&call, owner, ttl_ms).await.map_err(refused)?;
            Ok(json(granted(&value), Some(revision)))
        }
        ("GET", "keys") => {
            let query = Query::of(&request, &["prefix", "after"])?;
            let text = |name| query.text(name).unwrap_or_default().to_owned();
            let found = gateway.ephemerals(&call, text("prefix"), text("after")).await;
            let Done { revision, value } = found.map_err(refused)?;
            let keys: Vec<Value> = value
                .iter()
                .map(|(name, row)| {
                    object!({
                        "key": name,
                        "value": String::from_utf8_lossy(&row.value),
                        "lease": row.lease,
                        "revision": row.revision,
                    })
                })
                .collect();
            Ok(json(object!({ "keys": keys }), Some(revision)))
        }
        (_, "locks" | "leases" | "keys") => Err(S3Error::new(S3ErrorCode::MethodNotAllowed)),
        _ => Err(no_route()),
    }
}

pub(super) async fn lease(gateway: &Gateway, request: &S3Request<Body>, lease: &str) -> S3Result<S3Response<Body>> {
    let lease: u64 = lease.parse().map_err(|_| invalid("a lease is a number"))?;
    let call = call_of(request)?;
    let refused = |error| to_s3(&error, call.request);
    match request.method.as_str() {
        "GET" => {
            let Done { revision, value } = gateway.lease(&call, lease).await.map_err(refused)?;
            Ok(json(claim(&Claim { lease, row: value }), Some(revision)))
        }
        "POST" => {
            let ttl_ms = Query::of(request, &["ttl"])?.duration_ms("ttl")?;
            let renewed = gateway.renew_lease(&call, RenewLease { lease, name: None, ttl_ms }).await;
            let Done { revision, value } = renewed.map_err(refused)?;
            Ok(json(granted(&value), Some(revision)))
        }
        "DELETE" => {
            let done = gateway.release_lease(&call, lease, None).await.map_err(refused)?;
            Ok(json(object!({ "lease": lease }), Some(done.revision)))
        }
        _ => Err(S3Error::new(S3ErrorCode::MethodNotAllowed)),
    }
}

pub(super) async fn key(gateway: &Gateway, mut request: S3Request<Body>, name: &str) -> S3Result<S3Response<Body>> {
    let (name, call) = (decoded(name)?, call_of(&request)?);
    let refused = |error| to_s3(&error, call.request);
    match request.method.as_str() {
        "GET" => {
            let Done { revision, value } = gateway.ephemeral(&call, &name).await.map_err(refused)?;
            let mut reply = S3Response::new(Body::from(bytes::Bytes::from(value.value)));
            let headers = &mut reply.headers;
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
            headers.insert("x-holdfast-lease", HeaderValue::from(value.lease));
            headers.insert(REVISION, HeaderValue::from(revision));
            Ok(reply)
        }
        "PUT" => {
            let lease = Query::of(&request, &["lease"])?.number("lease")?;
            let lease = lease.ok_or_else(|| invalid("the parameter lease is missing"))?;
            let if_absent = match request.headers.get(header::IF_NONE_MATCH).map(HeaderValue::as_bytes) {
                None => false,
                Some(b"*") => true,
                Some(_) => return Err(invalid("If-None-Match is * here")),
            };
            let otherwise = "the value cannot be read, or has more than 64 KiB";
            let value = body(&mut request, EPHEMERAL_BYTES_MAX, otherwise).await?;
            let done = gateway.put_ephemeral(&call, name.clone(), value, lease, if_absent).await.map_err(refused)?;
            Ok(json(object!({ "key": name, "lease": lease }), Some(done.revision)))
        }
        "DELETE" => {
            let done = gateway.remove_ephemeral(&call, name.clone()).await.map_err(refused)?;
            Ok(json(object!({ "key": name }), Some(done.revision)))
        }
        _ => Err(S3Error::new(S3ErrorCode::MethodNotAllowed)),
    }
}
