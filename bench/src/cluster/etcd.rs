//! One etcd client: one HTTP/2 connection that is kept alive, the two calls of the v3 API that are measured.
//!
//! It is as lean as the S3 client beside it, so that neither side pays for its client library. A call is one gRPC message
//! each way: five bytes of prefix, then a protobuf message of which only the needed fields are written and read.
//!
//! Deliberately absent: TLS, several calls in flight on a connection, authentication, every other call.
//!
//! Source: gRPC over HTTP/2 ("PROTOCOL-HTTP2"), Protocol Buffers "Encoding", etcd `rpc.proto`.

use anyhow::{Context, Result, bail, ensure};
use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const PUT: &str = "/etcdserverpb.KV/Put";
const RANGE: &str = "/etcdserverpb.KV/Range";
/// Compression flag and length before each message.
const PREFIX_BYTES: usize = 5;
/// Protobuf wire types.
const VARINT: u64 = 0;
const FIXED_64: u64 = 1;
const LENGTH: u64 = 2;
const FIXED_32: u64 = 5;

/// A connection.
pub struct Client {
    sender: SendRequest<Full<Bytes>>,
    address: String,
    /// Owns the task that drives the connection: dropped with the client.
    _driver: JoinSet<()>,
}

impl Client {
    /// Connects to `HOST:PORT`.
    ///
    /// # Errors
    /// When nobody listens there.
    pub async fn connect(address: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        let mut driver = JoinSet::new();
        // What ends the connection early also fails the call that is under way, which reports it.
        driver.spawn(async move { drop(connection.await) });
        Ok(Self { sender, address: address.to_owned(), _driver: driver })
    }

    /// Stores a value.
    ///
    /// # Errors
    /// When the call does not succeed.
    pub async fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let mut message = BytesMut::with_capacity(key.len() + value.len() + 16);
        field(&mut message, 1, key);
        field(&mut message, 2, value);
        self.call(PUT, &message).await.map(drop)
    }

    /// Reads one key, linearizably (the default of the API); gives the length of its value.
    ///
    /// # Errors
    /// When the call does not succeed or the key is not there.
    pub async fn get_length(&mut self, key: &[u8]) -> Result<u64> {
        let mut message = BytesMut::with_capacity(key.len() + 8);
        field(&mut message, 1, key);
        let reply = self.call(RANGE, &message).await?;
        let pair = bytes_of(&reply, 2).context("the key is not there")?;
        let value = bytes_of(pair, 5).context("the key has no value")?;
        Ok(value.len() as u64)
    }

    /// One unary call; gives the reply's message.
    async fn call(&mut self, path: &str, message: &[u8]) -> Result<Bytes> {
        let mut body = BytesMut::with_capacity(PREFIX_BYTES + message.len());
        body.put_u8(0);
        body.put_u32(u32::try_from(message.len()).context("a message of more than 4 GiB")?);
        body.put_slice(message);
        let request = Request::post(format!("http://{}{path}", self.address))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(body.freeze()))?;
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await.with_context(|| path.to_owned())?;
        let (head, body) = response.into_parts();
        ensure!(head.status == StatusCode::OK, "{path} gave {}", head.status);
        let whole = body.collect().await.context("the reply was cut short")?;
        // A call that fails at once has its status in the header and no trailers.
        succeeded(path, whole.trailers().unwrap_or(&head.headers))?;
        let mut bytes = whole.to_bytes();
        ensure!(bytes.len() >= PREFIX_BYTES && bytes[0] == 0, "{path} gave no plain message");
        Ok(bytes.split_off(PREFIX_BYTES))
    }
}

fn succeeded(path: &str, trailers: &HeaderMap) -> Result<()> {
    let text = |name| trailers.get(name).and_then(|value: &http::HeaderValue| value.to_str().ok()).unwrap_or_default();
    if text("grpc-status") != "0" {
        bail!("{path} gave status {:?}: {}", text("grpc-status"), text("grpc-message"));
    }
    Ok(())
}

/// Writes a field of bytes.
fn field(message: &mut BytesMut, number: u64, bytes: &[u8]) {
    varint(message, number << 3 | LENGTH);
    varint(message, bytes.len() as u64);
    message.put_slice(bytes);
}

fn varint(message: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        message.put_u8((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    message.put_u8(value as u8);
}

/// The first field of bytes with this number; `None` when there is none or the message is broken before it.
fn bytes_of(mut message: &[u8], wanted: u64) -> Option<&[u8]> {
    while !message.is_empty() {
        let tag = take_varint(&mut message)?;
        let length = match tag & 7 {
            VARINT => {
                take_varint(&mut message)?;
                continue;
            }
            FIXED_64 => 8,
            FIXED_32 => 4,
            LENGTH => usize::try_from(take_varint(&mut message)?).ok()?,
            _ => return None,
        };
        let (bytes, rest) = message.split_at_checked(length)?;
        if tag == wanted << 3 | LENGTH {
            return Some(bytes);
        }
        message = rest;
    }
    None
}

fn take_varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = message.split_first()?;
        *message = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_behind_others() {
        let mut message = BytesMut::new();
        varint(&mut message, 3 << 3 | VARINT);
        varint(&mut message, 300);
        message.put_slice(&[0x21, 1, 2, 3, 4, 5, 6, 7, 8, 0x2d, 1, 2, 3, 4]);
        field(&mut message, 1, b"key");
        field(&mut message, 2, &[7; 200]);
        assert_eq!(bytes_of(&message, 1), Some(&b"key"[..]));
        assert_eq!(bytes_of(&message, 2).map(<[u8]>::len), Some(200));
        assert_eq!(bytes_of(&message, 9), None);
        assert_eq!(bytes_of(&message[..message.len() - 1], 2), None, "cut short");
    }

    #[test]
    fn a_put_has_the_bytes_of_the_specification() {
        let mut message = BytesMut::new();
        field(&mut message, 2, b"testing");
        // The example of the encoding's documentation: field 2, the string "testing".
        assert_eq!(&message[..], [0x12, 0x07, 0x74, 0x65, 0x73, 0x74, 0x69, 0x6e, 0x67]);
    }
}
