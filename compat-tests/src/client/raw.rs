//! HTTP/1.1 on a socket, with our own signature.
//!
//! One [`Raw`] is one connection, kept alive and reopened when needed. It never retries: a caller that audits must know
//! whether a request was answered, was never sent, or has an unknown outcome.

use std::fmt;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::sign::{self, Canonical, Scope};
use crate::target::Endpoint;

/// How long one read or write on the socket may take.
const SOCKET_DEADLINE: Duration = Duration::from_secs(60);
/// A health question must not wait for a server that hangs.
const HEALTH_DEADLINE: Duration = Duration::from_secs(2);
/// More than any reply these tests ask for.
const BODY_MAX: u64 = 1 << 31;

/// Why there is no reply.
#[derive(Debug)]
pub struct Lost {
    /// Whether the server may have acted: at least one byte of the request was sent.
    pub sent: bool,
    /// What happened.
    pub cause: std::io::Error,
}

impl fmt::Display for Lost {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "no reply ({})", if self.sent { "outcome unknown" } else { "never sent" })
    }
}

impl std::error::Error for Lost {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.cause)
    }
}

/// A complete reply.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The whole body.
    pub body: Vec<u8>,
}

impl Reply {
    /// The first header of that name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(have, _)| have == name).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The text inside the first `<name>`.
    #[must_use]
    pub fn element(&self, name: &str) -> Option<String> {
        elements(&self.text(), name).into_iter().next()
    }

    /// The S3 error code, or nothing.
    #[must_use]
    pub fn code(&self) -> String {
        self.element("Code").unwrap_or_default()
    }

    /// The reply, when it has this status.
    ///
    /// # Errors
    /// Otherwise, with the body.
    pub fn expect(self, status: u16) -> Result<Self> {
        ensure!(self.status == status, "status {} instead of {status}: {}", self.status, self.text());
        Ok(self)
    }

    /// The reply, when it has this status and S3 error code.
    ///
    /// # Errors
    /// Otherwise, with the body.
    pub fn expect_error(self, status: u16, code: &str) -> Result<Self> {
        let reply = self.expect(status)?;
        ensure!(reply.code() == code, "code {} instead of {code}: {}", reply.code(), reply.text());
        Ok(reply)
    }
}

/// The unescaped texts of all `<name>...</name>` in `xml`, in order.
#[must_use]
pub fn elements(xml: &str, name: &str) -> Vec<String> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    xml.split(&open).skip(1).filter_map(|rest| rest.split(&close).next()).map(unescape).collect()
}

fn unescape(text: &str) -> String {
    let pairs = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#34;", "\""), ("&#39;", "'"), ("&apos;", "'")];
    let text = pairs.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to));
    text.replace("&amp;", "&")
}

/// One request.
#[derive(Clone, Debug, Default)]
pub struct Call<'a> {
    /// `GET`, `PUT`, ...
    pub method: &'a str,
    /// The bucket; empty for the service itself.
    pub bucket: &'a str,
    /// The key; empty for the bucket itself.
    pub key: &'a str,
    /// Unencoded names and values.
    pub query: &'a [(&'a str, &'a str)],
    /// More headers; names in lower case. All are signed.
    pub headers: &'a [(&'a str, &'a str)],
    /// The body.
    pub body: &'a [u8],
}

impl Call<'_> {
    /// The percent-encoded path in path style.
    #[must_use]
    pub fn path(&self) -> String {
        match (self.bucket, self.key) {
            ("", _) => "/".to_owned(),
            (bucket, "") => format!("/{bucket}"),
            (bucket, key) => format!("/{bucket}/{}", sign::encode_path(key)),
        }
    }
}

/// A client on one connection.
#[derive(Debug)]
pub struct Raw {
    endpoint: Endpoint,
    connection: Option<BufReader<TcpStream>>,
    deadline: Duration,
}

impl Raw {
    /// Not connected yet.
    #[must_use]
    pub fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, connection: None, deadline: SOCKET_DEADLINE }
    }

    /// The same, where one read or write on the socket may take `deadline`.
    #[must_use]
    pub fn within(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }

    /// Where it sends.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Sends a signed request.
    ///
    /// # Errors
    /// [`Lost`] when no complete reply arrived.
    pub fn send(&mut self, call: &Call<'_>) -> Result<Reply, Lost> {
        let scope = Scope::now(&self.endpoint);
        let payload = sign::sha256_hex(call.body);
        let query = own(call.query);
        let path = call.path();
        let mut headers = own(call.headers);
        headers.push(("host".to_owned(), self.endpoint.address.clone()));
        headers.push(("x-amz-date".to_owned(), scope.timestamp.clone()));
        headers.push(("x-amz-content-sha256".to_owned(), payload.clone()));
        let canonical =
            Canonical { method: call.method, path: &path, query: &query, headers: &headers, payload: &payload };
        let authorization = scope.authorization(&canonical);
        headers.push(("authorization".to_owned(), authorization));
        let target = if query.is_empty() { path } else { format!("{path}?{}", sign::canonical_query(&query)) };
        self.exchange(call.method, &target, &headers, call.body)
    }

    /// Sends a request as it is given, unsigned. `content-length` is added when there is a body.
    ///
    /// # Errors
    /// [`Lost`] when no complete reply arrived.
    pub fn exchange(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(String, String)],
        body: &[u8],
    ) -> Result<Reply, Lost> {
        let mut head = format!("{method} {target} HTTP/1.1\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() || matches!(method, "PUT" | "POST") {
            head.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        self.attempt(method, head.as_bytes(), body)
    }

    fn attempt(&mut self, method: &str, head: &[u8], body: &[u8]) -> Result<Reply, Lost> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                connect_within(&self.endpoint.address, self.deadline).map_err(|cause| Lost { sent: false, cause })?
            }
        };
        let exchanged = write_all(&mut connection, head, body).and_then(|()| read_reply(&mut connection, method));
        // A server may refuse a body before it was sent whole; then writing fails and the reply still waits to be read.
        let (reply, keep) = match exchanged {
            Ok(done) => done,
            Err(cause) => match read_reply(&mut connection, method) {
                Ok((reply, _)) if reply.status >= 400 => (reply, false),
                _ => return Err(Lost { sent: true, cause }),
            },
        };
        if keep {
            self.connection = Some(connection);
        }
        Ok(reply)
    }

    /// `GET bucket/key?query`.
    ///
    /// # Errors
    /// As [`Raw::send`].
    pub fn get(&mut self, bucket: &str, key: &str, query: &[(&str, &str)]) -> Result<Reply, Lost> {
        self.send(&Call { method: "GET", bucket, key, query, headers: &[], body: b"" })
    }

    /// `HEAD bucket/key`.
    ///
    /// # Errors
    /// As [`Raw::send`].
    pub fn head(&mut self, bucket: &str, key: &str) -> Result<Reply, Lost> {
        self.send(&Call { method: "HEAD", bucket, key, query: &[], headers: &[], body: b"" })
    }

    /// `PUT bucket/key` with headers.
    ///
    /// # Errors
    /// As [`Raw::send`].
    pub fn put(&mut self, bucket: &str, key: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Reply, Lost> {
        self.send(&Call { method: "PUT", bucket, key, query: &[], headers, body })
    }

    /// `DELETE bucket/key` with headers.
    ///
    /// # Errors
    /// As [`Raw::send`].
    pub fn delete(&mut self, bucket: &str, key: &str, headers: &[(&str, &str)]) -> Result<Reply, Lost> {
        self.send(&Call { method: "DELETE", bucket, key, query: &[], headers, body: b"" })
    }

    /// Sets the versioning state of a bucket: `Enabled` or `Suspended`.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn set_versioning(&mut self, bucket: &str, state: &str) -> Result<()> {
        let body = format!(
            "<VersioningConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Status>{state}</Status>\
             </VersioningConfiguration>"
        );
        let query = [("versioning", "")];
        let call = Call { method: "PUT", bucket, key: "", query: &query, headers: &[], body: body.as_bytes() };
        self.send(&call)?.expect(200).context("cannot set versioning")?;
        Ok(())
    }

    /// Every key under `prefix`, in the order of ListObjectsV2, page by page.
    ///
    /// # Errors
    /// When a page fails.
    pub fn list(&mut self, bucket: &str, prefix: &str) -> Result<Vec<String>> {
        let mut keys = Vec::new();
        let mut token = String::new();
        loop {
            let mut query = vec![("list-type", "2"), ("prefix", prefix), ("encoding-type", "url")];
            if !token.is_empty() {
                query.push(("continuation-token", &token));
            }
            let page = self.get(bucket, "", &query)?.expect(200)?;
            for key in elements(&page.text(), "Key") {
                keys.push(percent_encoding::percent_decode_str(&key.replace('+', " ")).decode_utf8()?.into_owned());
            }
            match page.element("NextContinuationToken") {
                Some(next) => token = next,
                None => return Ok(keys),
            }
        }
    }

    /// A new multipart upload.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn create_upload(&mut self, bucket: &str, key: &str, headers: &[(&str, &str)]) -> Result<String> {
        let query = [("uploads", "")];
        let reply = self.send(&Call { method: "POST", bucket, key, query: &query, headers, body: b"" })?.expect(200)?;
        reply.element("UploadId").context("no UploadId")
    }

    /// Uploads a part; its ETag.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn upload_part(&mut self, bucket: &str, key: &str, upload: &str, number: u32, body: &[u8]) -> Result<String> {
        let number = number.to_string();
        let query = [("partNumber", number.as_str()), ("uploadId", upload)];
        let reply = self.send(&Call { method: "PUT", bucket, key, query: &query, headers: &[], body })?.expect(200)?;
        Ok(reply.header("etag").ok_or_else(|| anyhow!("a part without ETag"))?.to_owned())
    }

    /// Completes an upload from the ETags of its parts 1, 2, ...
    ///
    /// # Errors
    /// As [`Raw::send`]. A reply of status 200 may still carry an error in its body.
    pub fn complete_upload(
        &mut self,
        bucket: &str,
        key: &str,
        upload: &str,
        etags: &[String],
        headers: &[(&str, &str)],
    ) -> Result<Reply, Lost> {
        let parts: String = etags
            .iter()
            .enumerate()
            .map(|(index, etag)| format!("<Part><PartNumber>{}</PartNumber><ETag>{etag}</ETag></Part>", index + 1))
            .collect();
        let body = format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>");
        let query = [("uploadId", upload)];
        self.send(&Call { method: "POST", bucket, key, query: &query, headers, body: body.as_bytes() })
    }
}

/// The status of an unsigned GET of a health page, when the server answers.
#[must_use]
pub fn health(address: &str, path: &str) -> Option<u16> {
    let stream = TcpStream::connect_timeout(&address.parse().ok()?, HEALTH_DEADLINE).ok()?;
    stream.set_read_timeout(Some(HEALTH_DEADLINE)).ok()?;
    let mut connection = BufReader::new(stream);
    let head = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    write_all(&mut connection, head.as_bytes(), b"").ok()?;
    read_reply(&mut connection, "GET").ok().map(|(reply, _)| reply.status)
}

/// A connection with deadlines.
///
/// # Errors
/// When the server does not accept.
pub fn connect(address: &str) -> std::io::Result<BufReader<TcpStream>> {
    connect_within(address, SOCKET_DEADLINE)
}

fn connect_within(address: &str, deadline: Duration) -> std::io::Result<BufReader<TcpStream>> {
    let stream = match address.parse() {
        Ok(address) => TcpStream::connect_timeout(&address, deadline)?,
        // A name of this machine.
        Err(_) => TcpStream::connect(address)?,
    };
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(deadline))?;
    stream.set_write_timeout(Some(deadline))?;
    Ok(BufReader::with_capacity(1 << 16, stream))
}

/// Reads one whole reply; the flag says whether the connection can be used again.
///
/// # Errors
/// When the connection ends before the reply does, or it is not HTTP.
pub fn read_reply(connection: &mut impl BufRead, method: &str) -> std::io::Result<(Reply, bool)> {
    loop {
        let (status, headers) = read_head(connection)?;
        if (100..200).contains(&status) {
            continue;
        }
        let mut reply = Reply { status, headers, body: Vec::new() };
        let mut keep = reply.header("connection").is_none_or(|value| !value.eq_ignore_ascii_case("close"));
        if method == "HEAD" || status == 204 || status == 304 {
            return Ok((reply, keep));
        }
        if reply.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
            reply.body = read_chunked(connection)?;
        } else if let Some(length) = reply.header("content-length").map(str::to_owned) {
            let length: usize = length.parse().map_err(|_| malformed("content-length"))?;
            reply.body = vec![0; length];
            connection.read_exact(&mut reply.body)?;
        } else {
            connection.take(BODY_MAX).read_to_end(&mut reply.body)?;
            keep = false;
        }
        return Ok((reply, keep));
    }
}

type Head = (u16, Vec<(String, String)>);

fn read_head(connection: &mut impl BufRead) -> std::io::Result<Head> {
    let first = read_line(connection)?;
    let status = first.split(' ').nth(1).and_then(|word| word.parse().ok()).ok_or_else(|| malformed("status line"))?;
    let mut headers = Vec::new();
    loop {
        let line = read_line(connection)?;
        if line.is_empty() {
            return Ok((status, headers));
        }
        let (name, value) = line.split_once(':').ok_or_else(|| malformed("header"))?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
}

pub(crate) fn read_chunked(connection: &mut impl BufRead) -> std::io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = read_line(connection)?;
        let digits = line.split(';').next().unwrap_or_default().trim();
        let size = u64::from_str_radix(digits, 16).map_err(|_| malformed("chunk size"))?;
        if size == 0 {
            while !read_line(connection)?.is_empty() {}
            return Ok(body);
        }
        let before = body.len() as u64;
        connection.by_ref().take(size).read_to_end(&mut body)?;
        if body.len() as u64 - before != size {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        read_line(connection)?;
    }
}

pub(crate) fn read_line(connection: &mut impl BufRead) -> std::io::Result<String> {
    let mut line = Vec::new();
    if connection.read_until(b'\n', &mut line)? == 0 {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    let text = String::from_utf8_lossy(&line);
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

fn write_all(connection: &mut BufReader<TcpStream>, head: &[u8], body: &[u8]) -> std::io::Result<()> {
    let stream = connection.get_mut();
    // Small requests leave in one segment.
    if body.len() <= 1 << 14 {
        return stream.write_all(&[head, body].concat());
    }
    stream.write_all(head)?;
    stream.write_all(body)
}

fn malformed(what: &str) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidData, format!("malformed {what}"))
}

fn own(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Fails unless `have` equals `want`, without printing megabytes.
///
/// # Errors
/// When they differ.
pub fn same_bytes(what: &str, have: &[u8], want: &[u8]) -> Result<()> {
    if have == want {
        return Ok(());
    }
    let at = have.iter().zip(want).position(|(a, b)| a != b).unwrap_or(have.len().min(want.len()));
    bail!("{what}: {} bytes instead of {}, first difference at {at}", have.len(), want.len())
}
