//! What is asked, and of whom.
//!
//! Keys go out byte by byte as S3 wants them: everything but the unreserved characters and the slash is percent-encoded, and
//! nothing is normalised: `.`, `..` and empty steps of a key stay what they are, here and in the signature.

use std::net::IpAddr;
use std::time::Duration;

use holdfast_core::command::Fence;
use holdfast_core::id::{BucketName, ObjectKey};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Uri};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::ANSWER_BYTES_MAX;
use super::error::{Cause, Error};
use super::transport::Payload;

/// Everything but the unreserved characters of RFC 3986.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
const PATH: &AsciiSet = &ESCAPED.remove(b'/');
const AGENT: HeaderValue = HeaderValue::from_static(concat!("holdfast-mount/", env!("CARGO_PKG_VERSION")));
const FENCE: HeaderName = HeaderName::from_static("x-holdfast-fence");

/// Text as part of a path; slashes stay.
pub(super) fn in_path(text: &str) -> String {
    utf8_percent_encode(text, PATH).to_string()
}

/// A gateway.
#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    text: String,
    scheme: Scheme,
    authority: Authority,
    host: HeaderValue,
}

impl Endpoint {
    /// # Errors
    /// [`Error::Setting`] when it is no URL of a host.
    pub(super) fn parse(text: &str) -> Result<Self, Error> {
        let wrong = || Error::Setting {
            what: format!("HOLDFAST_ENDPOINT: {text:?} is not http://HOST:PORT or https://HOST:PORT"),
        };
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        let parts = uri.into_parts();
        let (Some(scheme), Some(authority)) = (parts.scheme, parts.authority) else { return Err(wrong()) };
        let path = parts.path_and_query.as_ref().map_or("/", PathAndQuery::as_str);
        let known = scheme == Scheme::HTTP || scheme == Scheme::HTTPS;
        if !known || path != "/" || authority.host().is_empty() || authority.as_str().contains('@') {
            return Err(wrong());
        }
        let usual = if scheme == Scheme::HTTPS { 443 } else { 80 };
        let host = if authority.port_u16() == Some(usual) { authority.host() } else { authority.as_str() };
        let host = HeaderValue::from_str(host).map_err(|_| wrong())?;
        Ok(Self { text: text.trim_end_matches('/').to_owned(), scheme, authority, host })
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn is_secure(&self) -> bool {
        self.scheme == Scheme::HTTPS
    }

    /// Whether nobody between here and there can change a body.
    pub(super) fn is_private(&self) -> bool {
        let host = self.authority.host().trim_start_matches('[').trim_end_matches(']');
        self.is_secure() || host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
    }

    /// The request, not signed yet.
    ///
    /// # Errors
    /// [`Error::Request`].
    pub(super) fn request(&self, ask: &Outgoing) -> Result<http::Request<Payload>, Error> {
        let wrong = |error: http::Error| Error::Request { what: error.to_string() };
        let uri = Uri::builder().scheme(self.scheme.clone()).authority(self.authority.clone());
        let uri = uri.path_and_query(ask.path_and_query()).build().map_err(wrong)?;
        let request = http::Request::builder().method(ask.method.clone()).uri(uri);
        let mut request = request.body(ask.payload.clone()).map_err(wrong)?;
        let headers = request.headers_mut();
        headers.clone_from(&ask.headers);
        headers.insert(header::HOST, self.host.clone());
        headers.insert(header::USER_AGENT, AGENT);
        Ok(request)
    }

    pub(super) fn unreachable(&self, source: impl Into<Cause>) -> Error {
        Error::Unreachable { endpoint: self.text.clone(), source: source.into() }
    }

    pub(super) fn unavailable(&self, status: Option<u16>, source: impl Into<Cause>) -> Error {
        Error::Unavailable { endpoint: self.text.clone(), status, source: source.into() }
    }

    pub(super) fn form(&self, what: impl Into<String>) -> Error {
        Error::Form { endpoint: self.text.clone(), what: what.into() }
    }
}

/// Which queue a request waits in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    /// Reads, and bytes that commits will name.
    Bulk,
    /// What processes wait for, and what is small.
    Urgent,
    /// What must not come late.
    Renewal,
}

/// A request, for whichever gateway.
#[derive(Clone, Debug)]
pub(super) struct Outgoing {
    pub(super) method: Method,
    /// Encoded.
    pub(super) path: String,
    /// Encoded.
    query: String,
    pub(super) headers: HeaderMap,
    pub(super) payload: Payload,
    /// A longer answer is refused.
    pub(super) answer_bytes_max: usize,
    /// Bytes of the answer that take their time.
    pub(super) expects: usize,
    /// How long the gateway waits before it answers.
    pub(super) wait: Duration,
    /// An answer with 409 tells more than its code.
    pub(super) takes_conflicts: bool,
    /// Which queue it waits in, unless the gateway is to wait.
    pub(super) lane: Lane,
}

impl Outgoing {
    pub(super) fn new(method: Method, path: String) -> Self {
        Self {
            method,
            path,
            query: String::new(),
            headers: HeaderMap::new(),
            payload: Payload::default(),
            answer_bytes_max: ANSWER_BYTES_MAX,
            expects: 0,
            wait: Duration::ZERO,
            takes_conflicts: false,
            lane: Lane::Bulk,
        }
    }

    /// A request of S3 about an object.
    pub(super) fn object(method: Method, bucket: &BucketName, key: &ObjectKey) -> Self {
        Self::new(method, format!("/{bucket}/{}", in_path(key.as_str())))
    }

    pub(super) fn query(mut self, name: &str, value: &str) -> Self {
        self.query.push(if self.query.is_empty() { '?' } else { '&' });
        self.query.push_str(name);
        self.query.push('=');
        self.query.extend(utf8_percent_encode(value, ESCAPED));
        self
    }

    pub(super) fn answer_bytes_max(mut self, most: usize) -> Self {
        self.answer_bytes_max = most;
        self.expects = if most == ANSWER_BYTES_MAX { 0 } else { most };
        self
    }

    pub(super) fn set(&mut self, name: HeaderName, value: &str) -> Result<(), Error> {
        let value =
            HeaderValue::from_str(value).map_err(|_| Error::Request { what: format!("{name} is {value:?}") })?;
        self.headers.insert(name, value);
        Ok(())
    }

    /// A fence that must hold; `=LEASE` for a lease without a lock.
    pub(super) fn fence(&mut self, fence: &Fence) -> Result<(), Error> {
        let value = format!("{}={}", in_path(&fence.name), fence.token);
        let value =
            HeaderValue::from_str(&value).map_err(|_| Error::Request { what: format!("the fence {value:?}") })?;
        self.headers.append(FENCE, value);
        Ok(())
    }

    /// Whether it is of Holdfast's own API.
    pub(super) fn is_own(&self) -> bool {
        self.path.starts_with("/_holdfast/")
    }

    pub(super) fn path_and_query(&self) -> String {
        format!("{}{}", self.path, self.query)
    }
}
