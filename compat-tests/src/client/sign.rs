//! AWS Signature Version 4, written from the specification and independent of the server's: a mistake there must not be
//! mirrored here.
//!
//! Source: Amazon S3 API reference, "Authenticating Requests: Using the Authorization Header", "Using Query Parameters"
//! and "Signature Calculations for the Authorization Header: Transferring Payload in Multiple Chunks".

use hmac::{Hmac, KeyInit, Mac};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use time::macros::format_description;

use crate::target::{Endpoint, REGION};

/// `x-amz-content-sha256` of a body that is not hashed.
pub const UNSIGNED_PAYLOAD: &str = "UNSIGNED-PAYLOAD";
/// `x-amz-content-sha256` of aws-chunked framing whose chunks are signed.
pub const STREAMING_SIGNED: &str = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD";
/// The same with signed trailers.
pub const STREAMING_SIGNED_TRAILER: &str = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER";
/// `x-amz-content-sha256` of aws-chunked framing without signatures, with trailers.
pub const STREAMING_UNSIGNED_TRAILER: &str = "STREAMING-UNSIGNED-PAYLOAD-TRAILER";

const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
const PATH: &AsciiSet = &UNRESERVED.remove(b'/');

/// Percent-encodes one query name or value, or a key with its slashes.
#[must_use]
pub fn encode(text: &str) -> String {
    utf8_percent_encode(text, UNRESERVED).to_string()
}

/// Percent-encodes a path, keeping its slashes.
#[must_use]
pub fn encode_path(path: &str) -> String {
    utf8_percent_encode(path, PATH).to_string()
}

/// Hexadecimal SHA-256.
#[must_use]
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// A request as it is signed.
#[derive(Debug)]
pub struct Canonical<'a> {
    /// `GET`, `PUT`, ...
    pub method: &'a str,
    /// The percent-encoded path.
    pub path: &'a str,
    /// Unencoded names and values.
    pub query: &'a [(String, String)],
    /// Headers to sign; names in lower case.
    pub headers: &'a [(String, String)],
    /// The value of `x-amz-content-sha256`.
    pub payload: &'a str,
}

/// When and for whom a signature holds.
#[derive(Clone, Debug)]
pub struct Scope {
    /// `YYYYMMDDTHHMMSSZ`.
    pub timestamp: String,
    scope: String,
    key: Vec<u8>,
    access_key: String,
}

impl Scope {
    /// The keys of `endpoint`, now by its clock.
    #[must_use]
    pub fn now(endpoint: &Endpoint) -> Self {
        Self::at(endpoint, OffsetDateTime::now_utc() + time::Duration::seconds(endpoint.clock_off))
    }

    /// The keys of `endpoint` at a moment.
    #[must_use]
    pub fn at(endpoint: &Endpoint, moment: OffsetDateTime) -> Self {
        let format = format_description!("[year][month][day]T[hour][minute][second]Z");
        let timestamp = moment.format(&format).expect("every part of the format exists in a date and time");
        let date = &timestamp[..8];
        let first = format!("AWS4{}", endpoint.secret_key);
        let key = [date, REGION, "s3", "aws4_request"]
            .iter()
            .fold(first.into_bytes(), |key, part| hmac(&key, part.as_bytes()));
        let scope = format!("{date}/{REGION}/s3/aws4_request");
        Self { timestamp, scope, key, access_key: endpoint.access_key.clone() }
    }

    /// The signature of a request.
    #[must_use]
    pub fn sign(&self, request: &Canonical<'_>) -> String {
        let text = self.string_to_sign("AWS4-HMAC-SHA256", &sha256_hex(canonical_text(request).as_bytes()));
        hex::encode(hmac(&self.key, text.as_bytes()))
    }

    /// The `Authorization` header for a signed request.
    #[must_use]
    pub fn authorization(&self, request: &Canonical<'_>) -> String {
        format!(
            "AWS4-HMAC-SHA256 Credential={}, SignedHeaders={}, Signature={}",
            self.credential(),
            signed_headers(request.headers),
            self.sign(request)
        )
    }

    /// `ACCESS_KEY/DATE/REGION/s3/aws4_request`.
    #[must_use]
    pub fn credential(&self) -> String {
        format!("{}/{}", self.access_key, self.scope)
    }

    /// The signature of one chunk of an aws-chunked body, after `previous`.
    #[must_use]
    pub fn sign_chunk(&self, previous: &str, chunk: &[u8]) -> String {
        let rest = format!("{previous}\n{}\n{}", sha256_hex(b""), sha256_hex(chunk));
        let text = self.string_to_sign("AWS4-HMAC-SHA256-PAYLOAD", &rest);
        hex::encode(hmac(&self.key, text.as_bytes()))
    }

    /// The signature of the trailers of an aws-chunked body; `trailers` is `name:value\n` for each.
    #[must_use]
    pub fn sign_trailer(&self, previous: &str, trailers: &str) -> String {
        let rest = format!("{previous}\n{}", sha256_hex(trailers.as_bytes()));
        let text = self.string_to_sign("AWS4-HMAC-SHA256-TRAILER", &rest);
        hex::encode(hmac(&self.key, text.as_bytes()))
    }

    /// The base64 policy of a browser upload, signed.
    #[must_use]
    pub fn sign_policy(&self, policy_base64: &str) -> String {
        hex::encode(hmac(&self.key, policy_base64.as_bytes()))
    }

    /// The query of a presigned URL for `method` and `path`, without the leading `?`; only `host` is signed.
    #[must_use]
    pub fn presign(&self, host: &str, method: &str, path: &str, expires_s: u32, extra: &[(&str, &str)]) -> String {
        let mut query: Vec<(String, String)> = [
            ("X-Amz-Algorithm", "AWS4-HMAC-SHA256".to_owned()),
            ("X-Amz-Credential", self.credential()),
            ("X-Amz-Date", self.timestamp.clone()),
            ("X-Amz-Expires", expires_s.to_string()),
            ("X-Amz-SignedHeaders", "host".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec();
        query.extend(extra.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let headers = [("host".to_owned(), host.to_owned())];
        let signature =
            self.sign(&Canonical { method, path, query: &query, headers: &headers, payload: UNSIGNED_PAYLOAD });
        format!("{}&X-Amz-Signature={signature}", canonical_query(&query))
    }

    fn string_to_sign(&self, algorithm: &str, rest: &str) -> String {
        format!("{algorithm}\n{}\n{}\n{rest}", self.timestamp, self.scope)
    }
}

/// The encoded query, sorted as it is signed; also a valid query to send.
#[must_use]
pub fn canonical_query(query: &[(String, String)]) -> String {
    let mut parts: Vec<(String, String)> = query.iter().map(|(name, value)| (encode(name), encode(value))).collect();
    // By name first: sorted as whole parts, `a=` would come after `a-b=`.
    parts.sort();
    parts.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}

fn canonical_text(request: &Canonical<'_>) -> String {
    // By name alone: sorted as whole lines, `a:` would come after `a-b:`.
    let mut headers: Vec<_> = request.headers.iter().collect();
    headers.sort_by_key(|(name, _)| name);
    let headers: String = headers.iter().map(|(name, value)| format!("{name}:{}\n", value.trim())).collect();
    format!(
        "{}\n{}\n{}\n{}\n{}\n{}",
        request.method,
        request.path,
        canonical_query(request.query),
        headers,
        signed_headers(request.headers),
        request.payload
    )
}

fn signed_headers(headers: &[(String, String)]) -> String {
    let mut names: Vec<&str> = headers.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    names.join(";")
}

fn hmac(key: &[u8], text: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(text);
    mac.finalize().into_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::Target;

    /// The worked examples of the specification use these keys, this day and the host of a bucket.
    fn scope() -> Scope {
        let mut endpoint = Endpoint::of(Target::Minio, "127.0.0.1:1");
        endpoint.access_key = "AKIAIOSFODNN7EXAMPLE".to_owned();
        endpoint.secret_key = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned();
        Scope::at(&endpoint, time::macros::datetime!(2013-05-24 00:00:00 UTC))
    }

    fn headers(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_get_with_range_signs_as_in_the_specification() {
        let empty = sha256_hex(b"");
        let headers = headers(&[
            ("host", "examplebucket.s3.amazonaws.com"),
            ("range", "bytes=0-9"),
            ("x-amz-content-sha256", &empty),
            ("x-amz-date", "20130524T000000Z"),
        ]);
        let request = Canonical { method: "GET", path: "/test.txt", query: &[], headers: &headers, payload: &empty };
        assert_eq!(scope().sign(&request), "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41");
    }

    #[test]
    fn a_presigned_get_signs_as_in_the_specification() {
        let query = scope().presign("examplebucket.s3.amazonaws.com", "GET", "/test.txt", 86400, &[]);
        assert!(query.ends_with("aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"), "{query}");
    }

    #[test]
    fn headers_are_sorted_by_name_alone() {
        let headers = headers(&[("x-amz-copy-source-if-match", "1"), ("x-amz-copy-source", "2")]);
        let request = Canonical { method: "PUT", path: "/", query: &[], headers: &headers, payload: "p" };
        assert!(canonical_text(&request).contains("x-amz-copy-source:2\nx-amz-copy-source-if-match:1\n"));
    }

    #[test]
    fn chunks_sign_as_in_the_specification() {
        let seed = "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9";
        let first = scope().sign_chunk(seed, &[b'a'; 65536]);
        assert_eq!(first, "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648");
        let second = scope().sign_chunk(&first, &[b'a'; 1024]);
        assert_eq!(second, "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497");
        assert_eq!(
            scope().sign_chunk(&second, b""),
            "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9"
        );
    }
}
