//! AWS Signature Version 4 in the `Authorization` header, as cheap as it can be: the key of a day is derived once, and a
//! request costs two SHA-256 and one HMAC.
//!
//! Deliberately absent: URI encoding (callers give paths and queries that are encoded and sorted already), presigned
//! URLs, chunk signatures, session tokens.
//!
//! Source: Amazon S3 API, "Signature Calculations for the Authorization Header: Transferring Payload in a Single Chunk".

use std::fmt::Write as _;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

/// Payload hash of a body that is not signed.
pub const UNSIGNED: &str = "UNSIGNED-PAYLOAD";
/// Payload hash of no bytes.
pub const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// Keys of an account, and the region that requests are signed for.
#[derive(Clone)]
pub struct Credentials {
    /// Access key id.
    pub access_key: String,
    /// Secret access key.
    pub secret_key: String,
    /// For example `us-east-1`.
    pub region: String,
}

/// What is signed of a request. Header names are lower-case and sorted; path and query are encoded, the query sorted.
pub struct Unsigned<'a> {
    pub method: &'a str,
    pub path: &'a str,
    pub query: &'a str,
    pub headers: &'a [(&'a str, &'a str)],
    pub payload_hash: &'a str,
}

/// Signs requests of one account.
#[derive(Clone)]
pub struct Signer {
    credentials: Credentials,
    day: String,
    key: [u8; 32],
}

impl Signer {
    /// A signer; derives its first key when it first signs.
    #[must_use]
    pub fn new(credentials: Credentials) -> Self {
        Self { credentials, day: String::new(), key: [0; 32] }
    }

    /// The `Authorization` header of a request made at `date`, which is also its `x-amz-date` (`20130524T000000Z`).
    pub fn sign(&mut self, date: &str, request: &Unsigned<'_>) -> String {
        let day = &date[..8];
        if self.day != day {
            self.key = signing_key(&self.credentials, day);
            day.clone_into(&mut self.day);
        }
        let names = request.headers.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
        let mut scope = String::with_capacity(48);
        let _ = write!(scope, "{day}/{}/s3/aws4_request", self.credentials.region);
        let digest = hex::encode(Sha256::digest(canonical(request, &names)));
        let text = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{digest}");
        let signature = hex::encode(hmac(&self.key, text.as_bytes()));
        let access_key = &self.credentials.access_key;
        format!("AWS4-HMAC-SHA256 Credential={access_key}/{scope},SignedHeaders={names},Signature={signature}")
    }
}

fn canonical(request: &Unsigned<'_>, names: &str) -> String {
    let mut text = String::with_capacity(512);
    let _ = write!(text, "{}\n{}\n{}\n", request.method, request.path, request.query);
    for (name, value) in request.headers {
        let _ = writeln!(text, "{name}:{value}");
    }
    let _ = write!(text, "\n{names}\n{}", request.payload_hash);
    text
}

fn signing_key(credentials: &Credentials, day: &str) -> [u8; 32] {
    let secret = format!("AWS4{}", credentials.secret_key);
    let steps = [day, &credentials.region, "s3", "aws4_request"];
    let first = hmac(secret.as_bytes(), steps[0].as_bytes());
    steps[1..].iter().fold(first, |key, step| hmac(&key, step.as_bytes()))
}

fn hmac(key: &[u8], bytes: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(bytes);
    mac.finalize().into_bytes().into()
}

/// SHA-256 of a body in the form that a request declares it.
#[must_use]
pub fn payload_hash(body: &[u8]) -> String {
    hex::encode(Sha256::digest(body))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: (&str, &str) = ("host", "examplebucket.s3.amazonaws.com");
    const DATE: &str = "20130524T000000Z";

    fn check(request: &Unsigned<'_>, signature: &str) {
        let mut signer = Signer::new(Credentials {
            access_key: "AKIAIOSFODNN7EXAMPLE".into(),
            secret_key: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".into(),
            region: "us-east-1".into(),
        });
        let header = signer.sign(DATE, request);
        assert_eq!(header.rsplit_once("Signature=").unwrap().1, signature);
        assert_eq!(signer.sign(DATE, request), header, "the cached key signs as the fresh one");
    }

    /// The four published examples of the page named above.
    #[test]
    fn signatures_are_those_of_the_published_examples() {
        let hash = |hash| ("x-amz-content-sha256", hash);
        let date = ("x-amz-date", DATE);
        check(
            &Unsigned {
                method: "GET",
                path: "/test.txt",
                query: "",
                headers: &[HOST, ("range", "bytes=0-9"), hash(EMPTY), date],
                payload_hash: EMPTY,
            },
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
        );
        let body = payload_hash(b"Welcome to Amazon S3.");
        check(
            &Unsigned {
                method: "PUT",
                path: "/test%24file.text",
                query: "",
                headers: &[
                    ("date", "Fri, 24 May 2013 00:00:00 GMT"),
                    HOST,
                    hash(&body),
                    date,
                    ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
                ],
                payload_hash: &body,
            },
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
        );
        for (query, signature) in [
            ("lifecycle=", "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
            ("max-keys=2&prefix=J", "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"),
        ] {
            let headers = &[HOST, hash(EMPTY), date];
            check(&Unsigned { method: "GET", path: "/", query, headers, payload_hash: EMPTY }, signature);
        }
    }

    #[test]
    fn the_hash_of_no_bytes_is_the_constant() {
        assert_eq!(payload_hash(b""), EMPTY);
    }
}
