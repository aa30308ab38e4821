//! One etcd client: one HTTP/2 connection that is kept alive, and the calls of the v3 API that are measured: put and range
//! here, leases and locks in [`lock`], watches in [`watch`].
//!
//! It is as lean as the S3 client beside it, so that neither side pays for its client library. A call is one gRPC message
//! each way: five bytes of prefix, then a protobuf message of which only the needed fields are written and read.
//!
//! Deliberately absent: TLS, several unary calls in flight on a connection, authentication, every other call.
//!
//! Source: gRPC over HTTP/2 ("PROTOCOL-HTTP2"), Protocol Buffers "Encoding", etcd `rpc.proto`.

pub mod lock;
pub mod watch;

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
        let (sender, connection) = http2::handshake(TokioExecutor::new(), socket(address).await?).await?;
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
        let request = request(&self.address, path, Full::new(framed(message)?))?;
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

async fn socket(address: &str) -> Result<TokioIo<TcpStream>> {
    let stream = TcpStream::connect(address).await.with_context(|| format!("cannot connect to {address}"))?;
    stream.set_nodelay(true)?;
    Ok(TokioIo::new(stream))
}

/// A message behind its prefix.
fn framed(message: &[u8]) -> Result<Bytes> {
    let mut body = BytesMut::with_capacity(PREFIX_BYTES + message.len());
    body.put_u8(0);
    body.put_u32(u32::try_from(message.len()).context("a message of more than 4 GiB")?);
    body.put_slice(message);
    Ok(body.freeze())
}

fn request<B>(address: &str, path: &str, body: B) -> Result<Request<B>> {
    let request = Request::post(format!("http://{address}{path}"));
    Ok(request.header("content-type", "application/grpc").header("te", "trailers").body(body)?)
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

/// Writes a field that is a number.
fn number(message: &mut BytesMut, field: u64, value: u64) {
    varint(message, field << 3 | VARINT);
    varint(message, value);
}

/// What a field holds. Fixed numbers are not read by anybody here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Fixed,
}

/// Takes the next field off a message that is not empty; `None` when it is broken.
fn take_field<'a>(message: &mut &'a [u8]) -> Option<(u64, Value<'a>)> {
    let tag = take_varint(message)?;
    let length = match tag & 7 {
        VARINT => return Some((tag >> 3, Value::Number(take_varint(message)?))),
        FIXED_64 => 8,
        FIXED_32 => 4,
        LENGTH => usize::try_from(take_varint(message)?).ok()?,
        _ => return None,
    };
    let (bytes, rest) = message.split_at_checked(length)?;
    *message = rest;
    Some((tag >> 3, if tag & 7 == LENGTH { Value::Bytes(bytes) } else { Value::Fixed }))
}

/// The first field of bytes with this number; `None` when there is none or the message is broken before it.
fn bytes_of(mut message: &[u8], wanted: u64) -> Option<&[u8]> {
    while !message.is_empty() {
        match take_field(&mut message)? {
            (found, Value::Bytes(bytes)) if found == wanted => return Some(bytes),
            _ => {}
        }
    }
    None
}

/// The same of a field that is a number.
fn number_of(mut message: &[u8], wanted: u64) -> Option<u64> {
    while !message.is_empty() {
        match take_field(&mut message)? {
            (found, Value::Number(value)) if found == wanted => return Some(value),
            _ => {}
        }
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
        number(&mut message, 3, 300);
        message.put_slice(&[0x21, 1, 2, 3, 4, 5, 6, 7, 8, 0x2d, 1, 2, 3, 4]);
        field(&mut message, 1, b"key");
        field(&mut message, 2, &[7; 200]);
        assert_eq!(bytes_of(&message, 1), Some(&b"key"[..]));
        assert_eq!(bytes_of(&message, 2).map(<[u8]>::len), Some(200));
        assert_eq!(bytes_of(&message, 9), None);
        assert_eq!((number_of(&message, 3), number_of(&message, 4), number_of(&message, 2)), (Some(300), None, None));
        assert_eq!(bytes_of(&message[..message.len() - 1], 2), None, "cut short");
    }

    #[test]
    fn a_put_has_the_bytes_of_the_specification() {
        let mut message = BytesMut::new();
        field(&mut message, 2, b"testing");
        // The example of the encoding's documentation: field 2, the string "testing".
        assert_eq!(&message[..], [0x12, 0x07, 0x74, 0x65, 0x73, 0x74, 0x69, 0x6e, 0x67]);
        message.clear();
        // And its first: field 1, the number 150.
        number(&mut message, 1, 150);
        assert_eq!(&message[..], [0x08, 0x96, 0x01]);
    }
}
