//! Signature version 4 for requests of the command line.
//!
//! Source: AWS IAM user guide, "Create a signed AWS API request". Only what a client of one service needs: headers, one
//! payload hash, no session token.

use aws_lc_rs::{digest, hmac};
use http::{HeaderMap, HeaderValue, Method, Uri, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

use crate::api::gate::keys::Credentials;

/// Everything but the unreserved characters.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
const STAMP: &[BorrowedFormatItem<'_>] = format_description!("[year][month][day]T[hour][minute][second]Z");

/// Signs for one key and region.
#[derive(Clone, Debug)]
pub struct Signer {
    /// Whose signature.
    pub credentials: Credentials,
    /// The region of the scope.
    pub region: String,
}

/// A moment's scope and the key derived for it.
pub struct Scope {
    /// `20260131T120000Z`.
    pub stamp: String,
    /// `20260131/us-east-1/s3/aws4_request`.
    pub scope: String,
    key: hmac::Key,
}

impl Scope {
    /// Signs text that begins with the algorithm's name; hexadecimal.
    #[must_use]
    pub fn sign(&self, text: &str) -> String {
        hex::encode(hmac::sign(&self.key, text.as_bytes()))
    }
}

impl Signer {
    /// The scope at a moment.
    #[must_use]
    pub fn scope(&self, at: OffsetDateTime) -> Scope {
        let stamp = at.to_offset(time::UtcOffset::UTC).format(&STAMP).expect("a moment has all the fields");
        let date = stamp[..8].to_owned();
        let secret = format!("AWS4{}", self.credentials.secret_key.expose());
        let mut key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        for part in [date.as_str(), &self.region, "s3", "aws4_request"] {
            key = hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&key, part.as_bytes()).as_ref());
        }
        Scope { scope: format!("{date}/{}/s3/aws4_request", self.region), stamp, key }
    }

    /// Adds the date, the payload's hash and the authorization to `headers`, which must hold `host`. Returns the signature.
    pub fn sign(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &mut HeaderMap,
        payload: &str,
        at: OffsetDateTime,
    ) -> String {
        let scope = self.scope(at);
        let value = |text: &str| HeaderValue::from_str(text).expect("a date, a hash or a scope is a header value");
        headers.insert("x-amz-date", value(&scope.stamp));
        headers.insert("x-amz-content-sha256", value(payload));
        let (names, canonical) = canonical_headers(headers);
        let query = canonical_query(uri.query().unwrap_or_default(), None);
        let request = format!("{method}\n{}\n{query}\n{canonical}\n{names}\n{payload}", canonical_path(uri.path()));
        let signature = scope.sign(&string_to_sign(&scope, &request));
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={}/{}, SignedHeaders={names}, Signature={signature}",
            self.credentials.access_key, scope.scope
        );
        headers.insert(header::AUTHORIZATION, value(&authorization));
        signature
    }

    /// A URL's path and query that work for whoever holds them, for `seconds`.
    #[must_use]
    pub fn presign(&self, method: &Method, uri: &Uri, host: &str, seconds: u64, at: OffsetDateTime) -> String {
        let scope = self.scope(at);
        let credential = format!("{}/{}", self.credentials.access_key, scope.scope);
        let mut query = uri.query().map(|query| format!("{query}&")).unwrap_or_default();
        query.push_str(&format!(
            "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={}&X-Amz-Date={}&X-Amz-Expires={seconds}&X-Amz-SignedHeaders=host",
            utf8_percent_encode(&credential, ESCAPED),
            scope.stamp
        ));
        let canonical = canonical_query(&query, None);
        let request =
            format!("{method}\n{}\n{canonical}\nhost:{host}\n\nhost\nUNSIGNED-PAYLOAD", canonical_path(uri.path()));
        let signature = scope.sign(&string_to_sign(&scope, &request));
        format!("{}?{query}&X-Amz-Signature={signature}", uri.path())
    }
}

/// SHA-256 in hexadecimal.
#[must_use]
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(digest::digest(&digest::SHA256, bytes))
}

fn string_to_sign(scope: &Scope, request: &str) -> String {
    format!("AWS4-HMAC-SHA256\n{}\n{}\n{}", scope.stamp, scope.scope, sha256_hex(request.as_bytes()))
}

fn canonical_path(path: &str) -> String {
    let decoded = percent_decode_str(path).collect::<Vec<u8>>();
    let segments = decoded
        .split(|byte| *byte == b'/')
        .map(|segment| percent_encoding::percent_encode(segment, ESCAPED).to_string());
    segments.collect::<Vec<_>>().join("/")
}

fn canonical_query(query: &str, without: Option<&str>) -> String {
    let pairs = url::form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| Some(name.as_ref()) != without);
    let encode = |text: &str| utf8_percent_encode(text, ESCAPED).to_string();
    let mut pairs: Vec<_> = pairs.map(|(name, value)| format!("{}={}", encode(&name), encode(&value))).collect();
    pairs.sort_unstable();
    pairs.join("&")
}

fn canonical_headers(headers: &HeaderMap) -> (String, String) {
    let mut names: Vec<_> = headers.keys().map(http::HeaderName::as_str).filter(|name| is_signed(name)).collect();
    names.sort_unstable();
    let mut lines = String::new();
    for name in &names {
        let values: Vec<_> =
            headers.get_all(*name).iter().map(|value| value.to_str().unwrap_or_default().trim()).collect();
        lines.push_str(&format!("{name}:{}\n", values.join(",")));
    }
    (names.join(";"), lines)
}

fn is_signed(name: &str) -> bool {
    name == "host" || name.starts_with("x-amz-") || name.starts_with("content-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::secret::Secret;

    /// The example of the S3 API reference, "Signature Calculations for the Authorization Header", GET Object.
    #[test]
    fn the_published_example_has_the_published_signature() {
        let credentials = Credentials {
            access_key: "AKIAIOSFODNN7EXAMPLE".into(),
            secret_key: Secret::new("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
        };
        let signer = Signer { credentials, region: "us-east-1".into() };
        let at = time::macros::datetime!(2013-05-24 00:00:00 UTC);
        let url =
            signer.presign(&Method::GET, &Uri::from_static("/test.txt"), "examplebucket.s3.amazonaws.com", 86400, at);
        let expected = "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404";
        assert!(url.ends_with(&format!("X-Amz-Signature={expected}")), "{url}");
    }
}
