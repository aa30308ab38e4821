//! `POST /_holdfast/v1/sql`: a statement in, rows out; `GET /_holdfast/v1/indexes`: what is indexed, and how far.
//!
//! `Accept` chooses the form of the rows: a JSON object a line, CSV, or an Arrow stream. Rows travel while they are
//! computed. What goes wrong on the way ends the answer: with a last line `{"error": ...}` among JSON objects, else by
//! cutting the connection, so that nobody takes a part for the whole.

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use holdfast_query::sql::{Error as SqlError, Format, Kind, encode};
use http::{HeaderValue, StatusCode, header};
use http_body::Frame;
use http_body_util::StreamBody;
use s3s::{Body, S3Error, S3ErrorCode, S3Request, S3Response, S3Result};
use serde_json::{Value, json as object};

use super::{Query, REVISION, body, json};
use crate::api::s3::convert::bucket_name;
use crate::api::s3::error::invalid;
use crate::api::s3::{call_of, to_s3};
use crate::gateway::Gateway;
use crate::ops::query::{Answered, index_row};

/// Bytes of a statement; the parser has a lower bound of its own and says so.
const STATEMENT_BYTES_MAX: usize = 1 << 20;
/// Buckets of which a listing of all indexes tells.
const BUCKETS_MAX: usize = 1000;

pub(super) async fn sql(gateway: &Gateway, mut request: S3Request<Body>) -> S3Result<S3Response<Body>> {
    Query::of(&request, &[])?;
    let format = format(&request)?;
    let call = call_of(&request)?;
    let statement = body(&mut request, STATEMENT_BYTES_MAX, "a statement has at most 256 KiB").await?;
    let statement = std::str::from_utf8(&statement).map_err(|_| invalid("a statement is UTF-8"))?;
    match gateway.sql(&call, statement).await.map_err(|error| refused(&error))? {
        Answered::Done { statement, index, bucket, revision } => {
            let done = object!({ "statement": statement, "index": index, "bucket": bucket, "revision": revision });
            Ok(json(done, Some(revision)))
        }
        Answered::Rows(query) => {
            let (schema, revision) = (query.schema(), query.revision());
            let request_id = call.request;
            let rows = encode(schema, query.run(), format).map_ok(|bytes: Bytes| Frame::data(bytes));
            let rows = rows.map_err(move |error| {
                log(&error, &request_id.to_string());
                std::io::Error::other(error)
            });
            let mut reply = S3Response::new(Body::http_body_unsync(StreamBody::new(rows.boxed())));
            reply.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
            reply.headers.insert(REVISION, HeaderValue::from(revision));
            Ok(reply)
        }
    }
}

/// The first form in `Accept` that is built; without one, JSON objects.
fn format(request: &S3Request<Body>) -> S3Result<Format> {
    let Some(accept) = request.headers.get(header::ACCEPT) else { return Ok(Format::Ndjson) };
    let accept = accept.to_str().map_err(|_| invalid("Accept is not text"))?;
    let media = accept.split(',').map(|part| part.split(';').next().unwrap_or_default().trim());
    for media in media {
        match media {
            "application/x-ndjson" | "application/json" | "application/*" | "*/*" | "" => return Ok(Format::Ndjson),
            "text/csv" | "text/*" => return Ok(Format::Csv),
            "application/vnd.apache.arrow.stream" => return Ok(Format::Arrow),
            _ => {}
        }
    }
    let mut error = S3Error::with_message(
        S3ErrorCode::Custom("NotAcceptable".into()),
        "Rows come as application/x-ndjson, text/csv or application/vnd.apache.arrow.stream.",
    );
    error.set_status_code(StatusCode::NOT_ACCEPTABLE);
    Err(error)
}

fn log(error: &SqlError, request_id: &str) {
    match error.kind {
        Kind::Internal => {
            tracing::error!(request_id, error = crate::backend::chain(error), "a query failed");
        }
        _ => tracing::debug!(request_id, error = crate::backend::chain(error), "a query was refused"),
    }
}

/// A refusal before the first row.
fn refused(error: &SqlError) -> S3Error {
    let message = match error.position {
        Some(place) => format!("{} (line {}, column {})", error.message, place.line, place.column),
        None => error.message.clone(),
    };
    log(error, "");
    let mut answer = S3Error::with_message(S3ErrorCode::Custom(error.code.into()), message);
    answer.set_status_code(match error.kind {
        Kind::NotFound => StatusCode::NOT_FOUND,
        Kind::Denied => StatusCode::FORBIDDEN,
        Kind::Invalid if error.code == "NotImplemented" => StatusCode::NOT_IMPLEMENTED,
        Kind::Invalid if matches!(error.code, "DuplicateValue" | "IndexAlreadyExists") => StatusCode::CONFLICT,
        Kind::Invalid => StatusCode::BAD_REQUEST,
        Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    });
    answer
}

pub(super) async fn indexes(gateway: &Gateway, request: &S3Request<Body>) -> S3Result<S3Response<Body>> {
    let query = Query::of(request, &["bucket"])?;
    let call = call_of(request)?;
    let buckets = match query.text("bucket") {
        Some(bucket) => vec![bucket_name(bucket)?],
        None => {
            let listed = gateway.list_buckets(&call, String::new(), None, BUCKETS_MAX).await;
            let listed = listed.map_err(|error| to_s3(&error, call.request))?;
            listed.value.buckets.into_iter().map(|bucket| bucket.name).collect()
        }
    };
    let (mut indexes, mut revision) = (Vec::new(), None);
    for bucket in buckets {
        let listed = gateway.list_indexes(&call, &bucket).await.map_err(|error| to_s3(&error, call.request))?;
        revision = Some(listed.revision);
        indexes.extend(listed.value.into_iter().map(|(index, unparsed)| {
            let unparsed_objects: Vec<Value> =
                unparsed.into_iter().map(|aside| object!({ "key": aside.key.as_str(), "why": aside.why })).collect();
            let mut shown = index_row(&index);
            shown["unparsed_objects"] = unparsed_objects.into();
            shown
        }));
    }
    Ok(json(object!({ "indexes": indexes }), revision))
}
