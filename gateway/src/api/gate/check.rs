//! What must not reach routing.
//!
//! s3s routes by the subresources that it knows and ignores the rest, so a request that asks for something it does not know
//! would run as something else. Each check here answers with what AWS would say, or with 501 where nothing is built. Signatures
//! are s3s's: a refusal here tells a stranger only what this program can do.

use std::borrow::Cow;
use std::collections::HashSet;

use http::request::Parts;
use http::{HeaderMap, Method, StatusCode, header};
use percent_encoding::percent_decode_str;

use super::host::Hosts;
use super::refusal::Refusal;
use super::table::{self, BodyKind, Operation, Target};

/// Headers that may come once only: s3s would act on neither or on one of two.
const SINGLE_HEADERS: &[&str] = &[
    "authorization",
    "content-length",
    "content-md5",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-unmodified-since",
    "range",
];
/// Promises that even a read must not ignore.
const UNBUILT_ON_READS: &[&str] =
    &["x-amz-server-side-encryption", "x-amz-copy-source-server-side-encryption", "x-amz-mfa"];
const CANNED_ACLS: &[&str] = &[
    "authenticated-read",
    "aws-exec-read",
    "bucket-owner-read",
    "log-delivery-write",
    "public-read",
    "public-read-write",
];
const STORAGE_CLASSES: &[&str] = &[
    "DEEP_ARCHIVE",
    "EXPRESS_ONEZONE",
    "GLACIER",
    "GLACIER_IR",
    "INTELLIGENT_TIERING",
    "ONEZONE_IA",
    "OUTPOSTS",
    "REDUCED_REDUNDANCY",
    "SNOW",
    "STANDARD_IA",
];

/// Where a request goes.
#[derive(Debug)]
pub(super) enum Route {
    /// To s3s, as this operation.
    S3(&'static Operation, Option<String>),
    /// To the routes under `/_holdfast` and the health aliases.
    Internal,
    /// To whoever follows the events of a bucket, or of all, in the way of MinIO's clients.
    Listen(Option<String>),
    /// A browser asks before it sends.
    Preflight(Option<String>),
}

/// What the checks need besides the request.
pub(super) struct Rules<'a> {
    pub hosts: &'a Hosts,
    /// The account that owns every bucket.
    pub owner_id: &'a str,
    /// The body's length is known, or there is none.
    pub length_known: bool,
    /// The head named a length and a transfer encoding.
    pub two_lengths: bool,
}

type Query<'a> = [(Cow<'a, str>, Cow<'a, str>)];

/// Whether a path belongs to Holdfast's own API; only asked when Host names no bucket.
#[must_use]
pub fn is_internal_path(path: &str) -> bool {
    path == "/_holdfast" || path.starts_with("/_holdfast/") || path.starts_with("/minio/health/")
}

/// What of a node's health a path asks: `live`, `ready`, `cluster`.
#[must_use]
pub fn health_question(path: &str) -> Option<&str> {
    path.strip_prefix("/_holdfast/health/").or_else(|| path.strip_prefix("/minio/health/"))
}

pub(super) fn route(parts: &Parts, rules: &Rules<'_>) -> Result<Route, Refusal> {
    check_single_headers(&parts.headers)?;
    let host_bucket = host(parts)?.and_then(|host| rules.hosts.bucket(host)).map(str::to_ascii_lowercase);
    if host_bucket.is_none() && is_internal_path(parts.uri.path()) {
        check_framing(rules, false)?;
        return Ok(Route::Internal);
    }
    let (target, bucket) = target(parts.uri.path(), host_bucket)?;
    if parts.method == Method::OPTIONS {
        return Ok(Route::Preflight(bucket));
    }
    if !["GET", "HEAD", "PUT", "POST", "DELETE"].contains(&parts.method.as_str()) {
        let message = "The specified method is not allowed against this resource.";
        return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", "method", message));
    }
    if bucket.as_deref() == Some("minio") {
        return Err(Refusal::invalid(
            "InvalidBucketName",
            "name",
            "The bucket name minio is reserved for health checks.",
        ));
    }
    let query: Vec<_> = url::form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes()).collect();
    check_mechanism(parts, &query)?;
    if parts.method == Method::GET && target != Target::Object && query.iter().any(|(name, _)| name == "events") {
        check_framing(rules, false)?;
        return Ok(Route::Listen(bucket));
    }
    check_duplicates(&query)?;
    let operation = operation(parts, target, &query)?;
    check_operation_id(operation, &query)?;
    check_query(operation, target, &query)?;
    check_headers(operation, &parts.headers, rules)?;
    let streaming = is_streaming(&parts.headers);
    check_framing(rules, streaming)?;
    check_body(operation, &parts.headers, streaming)?;
    Ok(Route::S3(operation, bucket))
}

fn text(headers: &HeaderMap, name: impl header::AsHeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn host(parts: &Parts) -> Result<Option<&str>, Refusal> {
    match parts.headers.get(header::HOST) {
        Some(value) => value
            .to_str()
            .map(Some)
            .map_err(|_| Refusal::invalid("InvalidRequest", "header", "The Host header is not valid.")),
        None => Ok(parts.uri.authority().map(http::uri::Authority::as_str)),
    }
}

fn target(path: &str, host_bucket: Option<String>) -> Result<(Target, Option<String>), Refusal> {
    let decoded = percent_decode_str(path).decode_utf8().map_err(|_| {
        Refusal::invalid("InvalidURI", "path", "Couldn't parse the specified URI: a key is UTF-8 text here.")
    })?;
    let rest = decoded.strip_prefix('/').unwrap_or(&decoded);
    if let Some(bucket) = host_bucket {
        return Ok((if rest.is_empty() { Target::Bucket } else { Target::Object }, Some(bucket)));
    }
    let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
    Ok(match (bucket, key) {
        ("", "") => (Target::Service, None),
        (bucket, "") => (Target::Bucket, Some(bucket.to_owned())),
        (bucket, _) => (Target::Object, Some(bucket.to_owned())),
    })
}

fn check_single_headers(headers: &HeaderMap) -> Result<(), Refusal> {
    for name in headers.keys().map(header::HeaderName::as_str) {
        let single = SINGLE_HEADERS.contains(&name) || (name.starts_with("x-amz-") && !name.starts_with("x-amz-meta-"));
        if single && headers.get_all(name).iter().nth(1).is_some() {
            return Err(Refusal::invalid(
                "InvalidArgument",
                "header",
                format!("The header {name} may be given once only."),
            ));
        }
    }
    Ok(())
}

/// One signature, of version 4, without a session.
fn check_mechanism(parts: &Parts, query: &Query<'_>) -> Result<(), Refusal> {
    let has = |name: &str| query.iter().any(|(key, _)| key == name);
    let signed_query = has("X-Amz-Algorithm") || has("X-Amz-Signature") || has("X-Amz-Credential");
    let old_query = has("AWSAccessKeyId") && has("Signature");
    let authorization = parts.headers.get(header::AUTHORIZATION).map(http::HeaderValue::as_bytes);
    if authorization.is_some() && (signed_query || old_query) {
        let message = "Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, Signature query string \
                       parameter or the Authorization header should be specified";
        return Err(Refusal::invalid("InvalidArgument", "auth", message));
    }
    if old_query || authorization.is_some_and(|value| value.starts_with(b"AWS ")) {
        let message = "The authorization mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256.";
        return Err(Refusal::invalid("InvalidRequest", "auth", message));
    }
    if has("X-Amz-Security-Token") || parts.headers.contains_key("x-amz-security-token") {
        let message = "The provided token is malformed or otherwise invalid: there are no session credentials here.";
        return Err(Refusal::invalid("InvalidToken", "auth", message));
    }
    Ok(())
}

fn check_duplicates(query: &Query<'_>) -> Result<(), Refusal> {
    let mut seen = HashSet::new();
    for (name, _) in query {
        if table::FOREIGN_SUBRESOURCES.contains(&name.as_ref()) {
            return Err(Refusal::not_built("query", format!("The query parameter {name} is not implemented.")));
        }
        if !seen.insert(name.as_ref()) {
            return Err(Refusal::invalid(
                "InvalidArgument",
                "query",
                format!("The query parameter {name} is given twice."),
            ));
        }
    }
    Ok(())
}

/// The operation whose subresources are exactly those of the request.
fn operation(parts: &Parts, target: Target, query: &Query<'_>) -> Result<&'static Operation, Refusal> {
    let method = parts.method.as_str();
    let has = |name: &str| query.iter().any(|(key, _)| key == name);
    let form = target == Target::Bucket && method == "POST" && is_form(parts);
    let alike = |operation: &&Operation| operation.method == method && operation.target == target;
    let selected = |operation: &&Operation| {
        let header = operation.selected_by_header;
        operation.selected_by.iter().all(|name| selects(name, query))
            && (header.is_empty() || parts.headers.contains_key(header))
            && (operation.body == BodyKind::Form) == form
    };
    let rank = |operation: &&Operation| (operation.selected_by.len(), !operation.selected_by_header.is_empty());
    let best = table::OPERATIONS.iter().filter(alike).filter(selected).max_by_key(rank);
    let named: Vec<_> = query
        .iter()
        .map(|(name, _)| name.as_ref())
        .filter(|name| table::is_subresource(method, target, name))
        .collect();
    let stray = |operation: &&Operation| named.iter().any(|name| !operation.takes_query(name) && *name != "x-id");
    match best {
        Some(operation) if !stray(&operation) => Ok(operation),
        _ if named.len() > 1 => {
            let message = format!("Conflicting query string parameters: {}", named.join(", "));
            Err(Refusal::invalid("InvalidArgument", "query", message))
        }
        _ if named == ["list-type"] => {
            Err(Refusal::invalid("InvalidArgument", "query", "list-type must be 2 or absent."))
        }
        None if method == "POST" && target == Target::Bucket && named.is_empty() && !has("select") => {
            let message = "Bucket POST must be of the enclosure-type multipart/form-data";
            Err(Refusal::new(StatusCode::PRECONDITION_FAILED, "PreconditionFailed", "query", message))
        }
        _ => Err(Refusal::not_built("query", "This request is not implemented.")),
    }
}

/// Whether a query holds a selector: its name, and for two of them its value.
fn selects(name: &str, query: &Query<'_>) -> bool {
    query.iter().any(|(key, value)| {
        key == name
            && match name {
                "list-type" => value == "2",
                "x-id" => value == "ListDirectoryBuckets",
                _ => true,
            }
    })
}

fn is_form(parts: &Parts) -> bool {
    text(&parts.headers, header::CONTENT_TYPE).is_some_and(|kind| {
        let essence = kind.split(';').next().unwrap_or_default().trim();
        essence.eq_ignore_ascii_case("multipart/form-data")
    })
}

fn check_operation_id(operation: &Operation, query: &Query<'_>) -> Result<(), Refusal> {
    if !operation.built {
        return Err(Refusal::not_built("unbuilt", format!("The operation {} is not implemented.", operation.name)));
    }
    let Some((_, id)) = query.iter().find(|(name, _)| name == "x-id") else { return Ok(()) };
    if id == operation.name {
        return Ok(());
    }
    match table::by_name(id) {
        Some(named) if !named.built => {
            Err(Refusal::not_built("unbuilt", format!("The operation {id} is not implemented.")))
        }
        _ => {
            let message = format!("x-id says {id}, the request is {}.", operation.name);
            Err(Refusal::invalid("InvalidRequest", "x_id", message))
        }
    }
}

fn check_query(operation: &Operation, target: Target, query: &Query<'_>) -> Result<(), Refusal> {
    let reads = matches!(operation.method, "GET" | "HEAD");
    for (name, _) in query {
        let name = name.as_ref();
        if operation.takes_query(name) || table::SIGNATURE_QUERY.contains(&name) || name == "x-id" {
            continue;
        }
        // AWS ignores what it does not know on a read; a subresource is a different question, though.
        if reads && !["GET", "PUT", "POST", "DELETE"].iter().any(|method| table::is_subresource(method, target, name)) {
            continue;
        }
        let message = format!("The query parameter {name} is not implemented for {}.", operation.name);
        return Err(Refusal::not_built("query", message));
    }
    Ok(())
}

fn check_headers(operation: &Operation, headers: &HeaderMap, rules: &Rules<'_>) -> Result<(), Refusal> {
    let reads = matches!(operation.method, "GET" | "HEAD");
    for (name, value) in headers {
        let name = name.as_str();
        let known = operation.takes_header(name);
        if name.starts_with("x-amz-") {
            let value = value.to_str().unwrap_or_default();
            let harmless = (reads && !UNBUILT_ON_READS.iter().any(|prefix| name.starts_with(prefix)))
                || asks_nothing_unbuilt(name, value);
            if !known && !harmless {
                return Err(unbuilt_header(name));
            }
            check_value(name, value, rules)?;
        } else if name.starts_with("x-holdfast-") {
            check_own_header(name, reads)?;
        } else if !reads && !known && (name.starts_with("if-") || name == "content-range") {
            return Err(unbuilt_header(name));
        }
    }
    if operation.method != "GET" && operation.method != "HEAD" && operation.name != "RenameObject" {
        check_if_none_match(headers)?;
    }
    Ok(())
}

fn unbuilt_header(name: &str) -> Refusal {
    let message = format!("A header you provided implies functionality that is not implemented: {name}");
    Refusal::not_built("header", message)
}

/// A header that only says no to what is not built, or yes to what every write does: s3fs sends the directives of a copy
/// with plain writes.
fn asks_nothing_unbuilt(name: &str, value: &str) -> bool {
    match name {
        "x-amz-bypass-governance-retention" => value.eq_ignore_ascii_case("false"),
        "x-amz-object-lock-legal-hold" => value.eq_ignore_ascii_case("OFF"),
        "x-amz-metadata-directive" | "x-amz-tagging-directive" => value == "REPLACE",
        _ => false,
    }
}

fn check_value(name: &str, value: &str, rules: &Rules<'_>) -> Result<(), Refusal> {
    let invalid = || Err(Refusal::invalid("InvalidArgument", "header", format!("The value of {name} is not valid.")));
    match name {
        "x-amz-expected-bucket-owner" | "x-amz-source-expected-bucket-owner" if value != rules.owner_id => {
            Err(Refusal::new(StatusCode::FORBIDDEN, "AccessDenied", "owner", "The bucket belongs to another account."))
        }
        "x-amz-acl" if !["private", "bucket-owner-full-control"].contains(&value) => {
            if CANNED_ACLS.contains(&value) {
                Err(unbuilt_header(name))
            } else {
                invalid()
            }
        }
        "x-amz-storage-class" if value != "STANDARD" => {
            if STORAGE_CLASSES.contains(&value) {
                Err(unbuilt_header(name))
            } else {
                Err(Refusal::invalid("InvalidStorageClass", "header", "The storage class you specified is not valid."))
            }
        }
        "x-amz-bucket-object-lock-enabled" if !value.eq_ignore_ascii_case("false") => Err(unbuilt_header(name)),
        "x-amz-object-ownership" if value != "BucketOwnerEnforced" => Err(unbuilt_header(name)),
        "x-amz-request-payer" if value != "requester" => invalid(),
        _ => Ok(()),
    }
}

fn check_own_header(name: &str, reads: bool) -> Result<(), Refusal> {
    match name {
        "x-holdfast-consistency" | "x-holdfast-min-revision" => Ok(()),
        "x-holdfast-fence" if reads => Err(unbuilt_header("x-holdfast-fence on a read")),
        "x-holdfast-fence" => Ok(()),
        _ => Err(Refusal::invalid("InvalidArgument", "header", format!("There is no request header {name}."))),
    }
}

/// AWS knows only "write if nothing is there".
fn check_if_none_match(headers: &HeaderMap) -> Result<(), Refusal> {
    match text(headers, header::IF_NONE_MATCH) {
        Some(value) if value.trim() != "*" => Err(unbuilt_header("if-none-match with an ETag")),
        _ => Ok(()),
    }
}

fn is_streaming(headers: &HeaderMap) -> bool {
    text(headers, "x-amz-content-sha256").is_some_and(|value| value.starts_with("STREAMING-"))
}

/// A body has one length, known before it comes.
fn check_framing(rules: &Rules<'_>, streaming: bool) -> Result<(), Refusal> {
    if rules.two_lengths {
        let message = "Transfer-Encoding and Content-Length exclude each other.";
        return Err(Refusal::invalid("InvalidRequest", "framing", message));
    }
    if !rules.length_known && !streaming {
        let message = "You must provide the Content-Length HTTP header.";
        return Err(Refusal::new(StatusCode::LENGTH_REQUIRED, "MissingContentLength", "length", message));
    }
    Ok(())
}

fn check_body(operation: &Operation, headers: &HeaderMap, streaming: bool) -> Result<(), Refusal> {
    if streaming && operation.body != BodyKind::Stream {
        let message = format!("A chunked payload is not implemented for {}.", operation.name);
        return Err(Refusal::not_built("framing", message));
    }
    let mut encodings = text(headers, header::CONTENT_ENCODING).unwrap_or_default().split(',');
    if !streaming && encodings.any(|encoding| encoding.trim().eq_ignore_ascii_case("aws-chunked")) {
        let message = "aws-chunked needs an x-amz-content-sha256 that begins with STREAMING-.";
        return Err(Refusal::invalid("InvalidArgument", "framing", message));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
