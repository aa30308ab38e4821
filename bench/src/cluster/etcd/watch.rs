//! Watches: a call whose request stays open, and whose reply is a message for each change or for several.
//!
//! ```text
//! Connection ──open(prefix)──▶ Watch (a stream of the connection, the call of one watcher)
//! ```
//! Source: etcd `rpc.proto` (Watch), `kv.proto`.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context as Poller, Poll};

use anyhow::{Context, Result, bail, ensure};
use bytes::{Buf as _, Bytes, BytesMut};
use http::StatusCode;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http2::{self, SendRequest};
use hyper::rt::Executor;
use tokio::task::JoinSet;

use super::{PREFIX_BYTES, Value, bytes_of, field, framed, number_of, request, socket, succeeded, take_field};

const WATCH: &str = "/etcdserverpb.Watch/Watch";
/// Type of an event; the other is a put, which is 0 and therefore not written.
const DELETED: u64 = 1;

/// A connection that carries watches.
pub struct Connection {
    sender: SendRequest<Open>,
    address: String,
    driver: Arc<Driver>,
}

/// One watch.
pub struct Watch {
    body: Incoming,
    buffer: BytesMut,
    /// Owns, with the other watches of the connection, the tasks that drive it.
    _driver: Arc<Driver>,
}

/// All tasks of a connection: dropped with its last watch. A call that stays open would otherwise keep its connection, and the
/// node its watch.
type Driver = Mutex<JoinSet<()>>;

/// Spawns what hyper wants onto the driver, which does not live for it.
#[derive(Clone)]
struct Tasks(Weak<Driver>);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Tasks {
    fn execute(&self, task: F) {
        if let Some(driver) = self.0.upgrade() {
            driver.lock().expect("only held for a moment").spawn(task);
        }
    }
}

/// A request's body that has one message and no end: etcd watches as long as it is open.
struct Open(Option<Bytes>);

impl Body for Open {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Poller<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.0.take() {
            Some(message) => Poll::Ready(Some(Ok(Frame::data(message)))),
            // Nobody wakes it: it ends with its stream.
            None => Poll::Pending,
        }
    }
}

impl Connection {
    /// Connects to `HOST:PORT`.
    ///
    /// # Errors
    /// When nobody listens there.
    pub async fn connect(address: &str) -> Result<Self> {
        let driver = Arc::new(Driver::default());
        let tasks = Tasks(Arc::downgrade(&driver));
        let (sender, connection) = http2::handshake(tasks.clone(), socket(address).await?).await?;
        // What ends the connection early also ends its watches, which report it.
        tasks.execute(async move { drop(connection.await) });
        Ok(Self { sender, address: address.to_owned(), driver })
    }

    /// Watches all keys that begin with `prefix`, from now on; returns when the node has said that it does.
    ///
    /// # Errors
    /// When the node refuses.
    pub async fn open(&mut self, prefix: &[u8]) -> Result<Watch> {
        let request = request(&self.address, WATCH, Open(Some(framed(&created(prefix)?)?)))?;
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await.context(WATCH)?;
        let (head, body) = response.into_parts();
        ensure!(head.status == StatusCode::OK, "{WATCH} gave {}", head.status);
        // A call that fails at once has its status here.
        if head.headers.contains_key("grpc-status") {
            succeeded(WATCH, &head.headers)?;
            bail!("{WATCH} ended at once");
        }
        let mut watch = Watch { body, buffer: BytesMut::new(), _driver: self.driver.clone() };
        while !watch.next(&mut |_, _| bail!("an event before the watch was made")).await? {}
        Ok(watch)
    }
}

/// Who sees the events of a watch: the revision, and the key that was put.
pub trait See: FnMut(u64, &[u8]) -> Result<()> {}
impl<F: FnMut(u64, &[u8]) -> Result<()>> See for F {}

impl Watch {
    /// Waits for bytes and shows the events that are complete; gives whether the node has said that the watch is made. Dropped
    /// before it returns, nothing is lost.
    ///
    /// # Errors
    /// When the node ends the watch, or `see` fails.
    pub async fn next(&mut self, see: &mut impl See) -> Result<bool> {
        let frame = self.body.frame().await.context("the node ended the stream")?.context("the stream broke off")?;
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => {
                succeeded(WATCH, frame.trailers_ref().context("a frame of no known kind")?)?;
                bail!("the node ended the watch")
            }
        };
        self.buffer.extend_from_slice(&data);
        let mut made = false;
        while let Some(message) = take_message(&mut self.buffer)? {
            made |= show(&message, see)?;
        }
        Ok(made)
    }
}

fn created(prefix: &[u8]) -> Result<BytesMut> {
    let mut end = prefix.to_vec();
    let last = end.last_mut().context("a watch of everything is not built")?;
    *last = last.checked_add(1).context("a prefix that ends in 0xff is not built")?;
    let mut create = BytesMut::with_capacity(2 * prefix.len() + 16);
    field(&mut create, 1, prefix);
    field(&mut create, 2, &end);
    let mut message = BytesMut::with_capacity(create.len() + 8);
    field(&mut message, 1, &create);
    Ok(message)
}

/// Takes a whole message off the buffer.
fn take_message(buffer: &mut BytesMut) -> Result<Option<Bytes>> {
    let Some(prefix) = buffer.get(..PREFIX_BYTES) else { return Ok(None) };
    ensure!(prefix[0] == 0, "{WATCH} gave no plain message");
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
    if buffer.len() < PREFIX_BYTES + length {
        return Ok(None);
    }
    buffer.advance(PREFIX_BYTES);
    Ok(Some(buffer.split_to(length).freeze()))
}

/// Shows the events of a reply; gives whether it says that the watch is made.
fn show(mut message: &[u8], see: &mut impl See) -> Result<bool> {
    const BROKEN: &str = "a reply of a watch is broken";
    let mut made = false;
    while !message.is_empty() {
        match take_field(&mut message).context(BROKEN)? {
            (3, Value::Number(value)) => made = value != 0,
            (4, Value::Number(value)) if value != 0 => bail!("the node cancelled the watch"),
            (11, Value::Bytes(event)) => {
                ensure!(number_of(event, 1) != Some(DELETED), "a key is gone that nobody deleted");
                let pair = bytes_of(event, 2).context(BROKEN)?;
                see(number_of(pair, 3).context(BROKEN)?, bytes_of(pair, 1).context(BROKEN)?)?;
            }
            _ => {}
        }
    }
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::super::number;
    use super::*;

    fn event(revision: u64, key: &[u8]) -> BytesMut {
        let (mut pair, mut event) = (BytesMut::new(), BytesMut::new());
        field(&mut pair, 1, key);
        number(&mut pair, 2, 4);
        number(&mut pair, 3, revision);
        field(&mut pair, 5, b"value");
        field(&mut event, 2, &pair);
        event
    }

    #[test]
    fn a_prefix_is_a_range() {
        let message = created(b"/a/").unwrap();
        assert_eq!(&message[..], [0x0a, 10, 0x0a, 3, b'/', b'a', b'/', 0x12, 3, b'/', b'a', b'0']);
        assert!(created(b"").is_err());
    }

    #[test]
    fn messages_are_taken_whole() {
        let mut buffer = BytesMut::from(&[0, 0, 0, 0, 2, 7][..]);
        assert_eq!(take_message(&mut buffer).unwrap(), None);
        buffer.extend_from_slice(&[8, 0, 0, 0, 0, 0, 0]);
        assert_eq!(take_message(&mut buffer).unwrap().as_deref(), Some(&[7, 8][..]));
        assert_eq!(take_message(&mut buffer).unwrap().as_deref(), Some(&[][..]), "a message may be empty");
        assert_eq!(take_message(&mut buffer).unwrap(), None);
        assert!(take_message(&mut BytesMut::from(&[1, 0, 0, 0, 0][..])).is_err(), "compressed");
    }

    #[test]
    fn events_are_shown_in_order() {
        let mut message = BytesMut::new();
        field(&mut message, 1, b"header");
        field(&mut message, 11, &event(300, b"/a/1"));
        field(&mut message, 11, &event(301, b"/a/2"));
        let mut seen = Vec::new();
        let made = show(&message, &mut |revision, key: &[u8]| {
            seen.push((revision, key.to_vec()));
            Ok(())
        });
        assert!(!made.unwrap());
        assert_eq!(seen, [(300, b"/a/1".to_vec()), (301, b"/a/2".to_vec())]);
        assert!(show(&message[..message.len() - 1], &mut |_, _| Ok(())).is_err(), "cut short");
    }

    #[test]
    fn a_watch_is_made_cancelled_or_tells_of_a_deletion() {
        let mut message = BytesMut::new();
        number(&mut message, 3, 1);
        assert!(show(&message, &mut |_, _| Ok(())).unwrap());
        number(&mut message, 4, 1);
        assert!(show(&message, &mut |_, _| Ok(())).is_err());
        let (mut deleted, mut message) = (event(9, b"k"), BytesMut::new());
        number(&mut deleted, 1, DELETED);
        field(&mut message, 11, &deleted);
        assert!(show(&message, &mut |_, _| Ok(())).is_err());
    }
}
