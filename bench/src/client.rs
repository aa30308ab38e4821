//! One S3 client: one HTTP/1.1 connection that is kept alive, signed requests, whole replies.
//!
//! It is lean on purpose: on a small machine the generator takes its processor time from the server that it measures.
//! So there is no SDK, no pool, no retry, and a reply that is not what the scenario expects ends the run.
//!
//! Deliberately absent: TLS, virtual-host addressing, keys that need URI encoding.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::sign::{Credentials, EMPTY, Signer, Unsigned};

/// Bytes of an error reply that a message shows.
const SHOWN_BYTES: usize = 400;

/// Where a target listens, and the keys it takes.
#[derive(Clone)]
pub struct Endpoint {
    /// `HOST:PORT`.
    pub address: String,
    pub credentials: Credentials,
}

impl Endpoint {
    /// The endpoint of a URL.
    ///
    /// # Errors
    /// When it is not `http://HOST[:PORT]`.
    pub fn parse(url: &str, credentials: Credentials) -> Result<Self> {
        let rest = url.strip_prefix("http://").with_context(|| format!("{url}: only http:// can be measured"))?;
        let host = rest.trim_end_matches('/');
        ensure!(!host.is_empty() && !host.contains('/'), "{url}: give http://HOST:PORT and nothing else");
        let port = host.rsplit_once(':').is_some_and(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
        Ok(Self { address: if port { host.to_owned() } else { format!("{host}:80") }, credentials })
    }
}

/// A body to send with its declared hash.
#[derive(Clone, Debug)]
pub struct Payload {
    pub bytes: Bytes,
    /// Lower-case hexadecimal SHA-256, or [`crate::sign::UNSIGNED`].
    pub hash: String,
}

impl Payload {
    /// No bytes.
    #[must_use]
    pub fn empty() -> Self {
        Self { bytes: Bytes::new(), hash: EMPTY.to_owned() }
    }
}

/// A connection with its signer.
pub struct Client {
    sender: SendRequest<Full<Bytes>>,
    signer: Signer,
    address: String,
    date: Date,
    /// Owns the task that drives the connection: dropped with the client.
    _driver: JoinSet<()>,
}

impl Client {
    /// Connects to `endpoint`.
    ///
    /// # Errors
    /// When nobody listens there.
    pub async fn connect(endpoint: &Endpoint) -> Result<Self> {
        let address = endpoint.address.clone();
        let stream = TcpStream::connect(&address).await.with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let mut driver = JoinSet::new();
        // What ends the connection early also fails the request that is under way, which reports it.
        driver.spawn(async move { drop(connection.await) });
        let signer = Signer::new(endpoint.credentials.clone());
        Ok(Self { sender, signer, address, date: Date::default(), _driver: driver })
    }

    /// Stores an object.
    ///
    /// # Errors
    /// When the reply is not 200.
    pub async fn put(&mut self, path: &str, payload: &Payload) -> Result<()> {
        self.call(Method::PUT, path, "", payload, StatusCode::OK).await?.discard().await.map(drop)
    }

    /// Reads an object whole and drops its bytes; gives their number.
    ///
    /// # Errors
    /// When the reply is not 200 or is cut short.
    pub async fn get_length(&mut self, path: &str) -> Result<u64> {
        let reply = self.call(Method::GET, path, "", &Payload::empty(), StatusCode::OK).await?;
        reply.discard().await
    }

    /// Reads an object or a listing.
    ///
    /// # Errors
    /// When the reply is not 200 or is cut short.
    pub async fn get(&mut self, path: &str, query: &str) -> Result<Bytes> {
        let reply = self.call(Method::GET, path, query, &Payload::empty(), StatusCode::OK).await?;
        reply.collect().await
    }

    /// A request without a body; gives the reply's, and the revision that it names.
    ///
    /// # Errors
    /// When the reply is not 200, is cut short, or names no revision.
    pub async fn ask(&mut self, method: Method, path: &str, query: &str) -> Result<(u64, Bytes)> {
        let reply = self.call(method, path, query, &Payload::empty(), StatusCode::OK).await?;
        let revision = reply.headers.get("x-holdfast-revision").context("the reply names no revision")?;
        let revision = revision.to_str()?.parse()?;
        Ok((revision, reply.collect().await?))
    }

    /// A GET whose reply has no end, such as a feed: the connection is its own from then on.
    ///
    /// # Errors
    /// When the reply is not 200.
    pub async fn stream(mut self, path: &str, query: &str) -> Result<Stream> {
        let reply = self.call(Method::GET, path, query, &Payload::empty(), StatusCode::OK).await?;
        Ok(Stream { body: reply.body, _client: self })
    }

    /// The size that HEAD tells.
    ///
    /// # Errors
    /// When the reply is not 200 or names no size.
    pub async fn head_length(&mut self, path: &str) -> Result<u64> {
        let reply = self.call(Method::HEAD, path, "", &Payload::empty(), StatusCode::OK).await?;
        let length = reply.headers.get(http::header::CONTENT_LENGTH).context("HEAD tells no length")?;
        let length = length.to_str()?.parse()?;
        reply.discard().await?;
        Ok(length)
    }

    /// Deletes an object.
    ///
    /// # Errors
    /// When the reply is not 204.
    pub async fn delete(&mut self, path: &str) -> Result<()> {
        let reply = self.call(Method::DELETE, path, "", &Payload::empty(), StatusCode::NO_CONTENT).await?;
        reply.discard().await.map(drop)
    }

    /// Stores an object by a multipart upload, one part after the other.
    ///
    /// # Errors
    /// When a reply is not what S3 promises.
    pub async fn put_multipart(&mut self, path: &str, parts: &[Payload]) -> Result<()> {
        let created = self.call(Method::POST, path, "uploads=", &Payload::empty(), StatusCode::OK).await?;
        let created = text(&created.collect().await?);
        let upload = element(&created, "UploadId").context("the reply has no UploadId")?.to_owned();
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        ensure!(upload.bytes().all(plain), "upload id {upload} would need URI encoding, which is not built");
        let mut list = String::from("<CompleteMultipartUpload>");
        for (number, part) in (1..).zip(parts) {
            let query = format!("partNumber={number}&uploadId={upload}");
            let reply = self.call(Method::PUT, path, &query, part, StatusCode::OK).await?;
            let etag = reply.headers.get(http::header::ETAG).context("a part has no ETag")?.to_str()?.to_owned();
            reply.discard().await?;
            list += &format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>");
        }
        list += "</CompleteMultipartUpload>";
        let list = Payload { hash: crate::sign::payload_hash(list.as_bytes()), bytes: list.into() };
        let query = format!("uploadId={upload}");
        let done = self.call(Method::POST, path, &query, &list, StatusCode::OK).await?;
        let done = text(&done.collect().await?);
        // A complete may fail after its status line was sent: the body says so. Source: S3 API, CompleteMultipartUpload.
        ensure!(done.contains("CompleteMultipartUploadResult"), "the upload was not completed: {done}");
        Ok(())
    }

    async fn call(
        &mut self,
        method: Method,
        path: &str,
        query: &str,
        payload: &Payload,
        expected: StatusCode,
    ) -> Result<Reply> {
        let request = self.request(&method, path, query, payload)?;
        let response = self.sender.send_request(request).await.with_context(|| format!("{method} {path}"))?;
        let (head, body) = response.into_parts();
        let reply = Reply { headers: head.headers, body };
        if head.status == expected {
            return Ok(reply);
        }
        let body = reply.collect().await.unwrap_or_default();
        let shown = text(&body[..body.len().min(SHOWN_BYTES)]);
        let query = if query.is_empty() { String::new() } else { format!("?{query}") };
        bail!("{method} {path}{query} gave {}, not {expected}: {shown}", head.status)
    }

    fn request(&mut self, method: &Method, path: &str, query: &str, payload: &Payload) -> Result<Request<Full<Bytes>>> {
        let date = self.date.now();
        let authorization = self.signer.sign(
            date,
            &Unsigned {
                method: method.as_str(),
                path,
                query,
                headers: &[("host", &self.address), ("x-amz-content-sha256", &payload.hash), ("x-amz-date", date)],
                payload_hash: &payload.hash,
            },
        );
        let builder = Request::builder().method(method).header("host", &self.address);
        let builder = if query.is_empty() { builder.uri(path) } else { builder.uri(format!("{path}?{query}")) };
        let builder = builder
            .header("x-amz-content-sha256", &payload.hash)
            .header("x-amz-date", date)
            .header("authorization", authorization);
        // hyper leaves the length out when a body is empty; a server may demand it.
        let says_length = payload.bytes.is_empty() && (method == Method::PUT || method == Method::POST);
        let builder = if says_length { builder.header("content-length", 0) } else { builder };
        Ok(builder.body(Full::new(payload.bytes.clone()))?)
    }
}

struct Reply {
    headers: HeaderMap,
    body: Incoming,
}

impl Reply {
    async fn collect(self) -> Result<Bytes> {
        Ok(self.body.collect().await.context("the reply was cut short")?.to_bytes())
    }

    /// Reads to the end, so that the connection can be used again; gives the bytes' number.
    async fn discard(mut self) -> Result<u64> {
        let mut length = 0;
        while !self.body.is_end_stream() {
            let Some(frame) = self.body.frame().await else { break };
            let frame = frame.context("the reply was cut short")?;
            length += frame.data_ref().map_or(0, |data| data.len() as u64);
        }
        Ok(length)
    }
}

/// A reply that goes on.
pub struct Stream {
    body: Incoming,
    /// Owns the connection.
    _client: Client,
}

impl Stream {
    /// The next bytes. Dropped before it returns, nothing is lost.
    ///
    /// # Errors
    /// When the server ends the reply, or the connection breaks.
    pub async fn next(&mut self) -> Result<Bytes> {
        loop {
            let frame = self.body.frame().await.context("the server ended the stream")?;
            if let Ok(data) = frame.context("the stream broke off")?.into_data() {
                return Ok(data);
            }
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The text of the first element with this name.
#[must_use]
pub fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    Some(rest.split_once("</")?.0)
}

/// The present second as `x-amz-date`, written anew only when it changes.
#[derive(Default)]
struct Date {
    second: u64,
    text: String,
}

impl Date {
    fn now(&mut self) -> &str {
        let second = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        if second != self.second {
            self.second = second;
            self.text = date_text(second);
        }
        &self.text
    }
}

fn date_text(second: u64) -> String {
    let at = i64::try_from(second).ok().and_then(|second| time::OffsetDateTime::from_unix_timestamp(second).ok());
    let at = at.unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    let (date, clock) = (at.date(), at.time());
    format!(
        "{:04}{:02}{:02}T{:02}{:02}{:02}Z",
        date.year(),
        u8::from(date.month()),
        date.day(),
        clock.hour(),
        clock.minute(),
        clock.second()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_has_the_form_that_is_signed() {
        assert_eq!(date_text(1_369_353_600), "20130524T000000Z");
        assert_eq!(date_text(1_369_357_323), "20130524T010203Z");
    }

    #[test]
    fn only_plain_http_urls_of_a_host_are_endpoints() {
        let keys = Credentials { access_key: String::new(), secret_key: String::new(), region: String::new() };
        let parse = |url| Endpoint::parse(url, keys.clone()).map(|endpoint| endpoint.address);
        assert_eq!(parse("http://127.0.0.1:9000/").unwrap(), "127.0.0.1:9000");
        assert_eq!(parse("http://store").unwrap(), "store:80");
        assert!(parse("https://store").is_err());
        assert!(parse("http://store/bucket").is_err());
    }

    #[test]
    fn an_element_is_found_by_name() {
        assert_eq!(element("<a><UploadId>x-1</UploadId></a>", "UploadId"), Some("x-1"));
        assert_eq!(element("<a/>", "UploadId"), None);
    }
}
