//! `POST /_holdfast/v1/mount/{bucket}`: the protocol of the mount, as `docs/mount-protocol.md` specifies it.
//!
//! Body and answer are frames: four bytes of length, a CBOR value, raw bytes. A refusal is an HTTP status with the usual JSON
//! document; what became of each step of a commit is in the answer.

use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use holdfast_core::error::Error as Refusal;
use holdfast_core::id::{RequestId, Revision};
use holdfast_core::mount::{Answer, Call, Node, Open, PROTOCOL, SENT_BYTES_MAX, frame, unframe};
use http::{HeaderValue, Method, StatusCode, header};
use http_body::Body as _;
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use s3s::{Body, S3Error, S3ErrorCode, S3Request, S3Response, S3Result};

use super::{Query, REVISION, decoded};
use crate::api::gate::MOUNT_BODY_BYTES_MAX;
use crate::api::s3::body::{BodyBudget, BodyError};
use crate::api::s3::convert::bucket_name;
use crate::api::s3::error::invalid;
use crate::api::s3::{call_of, to_s3};
use crate::blobs::BodyStream;
use crate::error::Error;
use crate::gateway::Gateway;
use crate::ops::Done;

/// What a frame is told as.
const CONTENT_TYPE: &str = "application/octet-stream";

pub(super) async fn call(
    gateway: &Gateway,
    budget: &BodyBudget,
    mut request: S3Request<Body>,
    bucket: &str,
) -> S3Result<S3Response<Body>> {
    if request.method != Method::POST {
        return Err(S3Error::new(S3ErrorCode::MethodNotAllowed));
    }
    Query::of(&request, &[])?;
    let (bucket, call) = (bucket_name(&decoded(bucket)?)?, call_of(&request)?);
    let length = length_of(&request)?;
    // Held until the answer: the bytes are in memory as long.
    let _held = budget.reserve(length).await.map_err(|error| too_busy(&error))?;
    let framed = read(&mut request, length).await?;
    let (asked, raw) = unframe::<Call>(&framed).map_err(|error| invalid(format!("the body is no call: {error}")))?;
    let raw = framed.slice(raw..);
    if !raw.is_empty() && !matches!(asked, Call::Commit(_)) {
        return Err(invalid("only a commit has bytes after its value"));
    }
    let refused = |error| to_s3(&error, call.request);
    let (revision, answer) = match asked {
        Call::Open(open) => {
            check_protocol(&open)?;
            let Done { revision, value } = gateway.mount_open(&call, &bucket, open).await.map_err(refused)?;
            (revision, Answer::Opened(value))
        }
        Call::Stat(stat) => {
            let Done { revision, value } = gateway.mount_stat(&call, &bucket, stat).await.map_err(refused)?;
            (revision, Answer::Entries(value))
        }
        Call::List(list) => {
            let Done { revision, value } = gateway.mount_list(&call, &bucket, list).await.map_err(refused)?;
            (revision, Answer::Listed(value))
        }
        Call::Map(map) => {
            let Done { revision, value } = gateway.mount_map(&call, &bucket, map).await.map_err(refused)?;
            (revision, Answer::Mapped(value))
        }
        Call::Read(read) => {
            let Done { revision, value } = gateway.mount_read(&call, &bucket, read).await.map_err(refused)?;
            return Ok(bytes(revision, value.0, value.1));
        }
        Call::Commit(commit) => {
            let committed = gateway.mount_commit(&call, &bucket, commit, raw).await;
            let Done { revision, value } = committed.map_err(|error| refused_commit(&error, call.request))?;
            (revision, Answer::Outcomes(value))
        }
        Call::Usage => {
            let Done { revision, value } = gateway.mount_usage(&call, &bucket).await.map_err(refused)?;
            (revision, Answer::Usage { bytes: value.bytes, objects: value.objects })
        }
    };
    Ok(answered(revision, Body::from(Bytes::from(frame(&answer, &[])))))
}

fn check_protocol(open: &Open) -> S3Result<()> {
    if open.protocol == PROTOCOL {
        return Ok(());
    }
    let asked = open.protocol;
    let message = format!("The mount speaks version {asked} of the protocol, this gateway speaks version {PROTOCOL}.");
    Err(S3Error::with_message(S3ErrorCode::NotImplemented, message))
}

/// A commit that was refused. One whose number another commit has is no matter of trying again. Of one that was on its way
/// for longer than replies are kept nobody knows whether it was done: that is a 503 as any, after which it is sent again.
fn refused_commit(error: &Error, request: RequestId) -> S3Error {
    let mut refused = to_s3(error, request);
    if matches!(error, Error::Refused(Refusal::Changed)) {
        let message = "Another commit of the session has this number: the commit is older than the last one, or its id is \
                       not that of the last one.";
        refused = S3Error::with_message(S3ErrorCode::Custom("Expired".into()), message);
        refused.set_status_code(StatusCode::CONFLICT);
    }
    refused
}

/// Bytes of the body, which the gate saw to be told before it comes.
fn length_of(request: &S3Request<Body>) -> S3Result<usize> {
    let told = request.headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    let length = told.or_else(|| request.input.size_hint().exact());
    let length = length.and_then(|length| usize::try_from(length).ok());
    let length = length.ok_or_else(|| S3Error::new(S3ErrorCode::MissingContentLength))?;
    if length > MOUNT_BODY_BYTES_MAX {
        let most = SENT_BYTES_MAX >> 20;
        let message = format!("A call of a mount has at most {most} MiB after its value, and a value of 1 MiB.");
        return Err(S3Error::with_message(S3ErrorCode::EntityTooLarge, message));
    }
    Ok(length)
}

fn too_busy(error: &BodyError) -> S3Error {
    let (code, status) = error.code();
    let mut busy = S3Error::with_message(code, error.to_string());
    busy.set_status_code(status);
    busy
}

/// The whole body: its hash, which the signature covers, was verified when it ends.
async fn read(request: &mut S3Request<Body>, length: usize) -> S3Result<Bytes> {
    let mut body = std::mem::take(&mut request.input);
    let mut framed = BytesMut::with_capacity(length);
    while let Some(piece) = body.frame().await {
        let piece = piece.map_err(|_| invalid("the body broke off, or is not the one that was signed"))?;
        let Ok(data) = piece.into_data() else { continue };
        if framed.len() + data.len() > length {
            return Err(invalid("the body is longer than its length says"));
        }
        framed.extend_from_slice(&data);
    }
    Ok(framed.freeze())
}

/// A frame whose raw bytes travel while they are read. A failure on the way cuts the connection.
fn bytes(revision: Revision, node: Node, body: BodyStream) -> S3Response<Body> {
    let head = |raw: &[u8]| Bytes::from(frame(&Answer::Bytes(node.clone()), raw));
    match body.into_whole() {
        Ok(whole) => answered(revision, Body::from(head(&whole))),
        Err(stream) => {
            let head = stream::iter([Ok(head(&[]))]);
            let pieces = head.chain(stream.map_err(std::io::Error::other)).map_ok(Frame::data);
            answered(revision, Body::http_body_unsync(StreamBody::new(pieces)))
        }
    }
}

fn answered(revision: Revision, body: Body) -> S3Response<Body> {
    let mut reply = S3Response::new(body);
    reply.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
    reply.headers.insert(REVISION, HeaderValue::from(revision));
    reply
}

#[cfg(test)]
mod tests;
