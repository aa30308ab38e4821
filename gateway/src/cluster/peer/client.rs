//! Sends messages to peers: HTTP/2 over mutual TLS, one connection per address and lane, shared by all callers.
//!
//! | what | bound | when it is reached |
//! | --- | --- | --- |
//! | pooled addresses | [`PEERS_MAX`] | the one unused for longest goes; all in use: unreachable |
//! | connecting | [`ClientLimits::connect_deadline`] | all who wait hear why |
//! | after a failed connect | [`ClientLimits::connect_pause`] | calls fail at once with the same reason |
//! | messages at a time to an address | [`CALLS_MAX`], [`UPLOADS_MAX`] | the caller waits until its deadline |
//! | reply | [`MESSAGE_BYTES_MAX`] | no answer |
//!
//! Promises: [`PeerError::Unreachable`] only if the request was not handed to a connection. A connection counts as made
//! once the peer has accepted this node's certificate and begun to speak: in TLS 1.3 the client's handshake ends before.
//! A message is tried twice only if it certainly was not sent the first time.
//!
//! Connecting runs in a task of the client, not of the caller: a heartbeat that gives up after 100 ms must not keep a
//! slow handshake from ever ending.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{BufMut as _, Bytes, BytesMut};
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, future, stream};
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited, StreamBody};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::trust::{Trust, TrustError};
use super::wire::{self, Lane, Tasks};
use super::{MESSAGE_BYTES_MAX, PeerAddress, PeerError, Peers, Upload};

/// Addresses to which connections are kept.
pub const PEERS_MAX: usize = 64;
/// Calls at a time to one address.
pub const CALLS_MAX: usize = wire::STREAMS_MAX as usize;
/// Uploads at a time to one address.
pub const UPLOADS_MAX: usize = 8;
/// Addresses of one name that are tried at once.
const RESOLVED_MAX: usize = 8;
/// A connection whose certificate names another node than wanted is made anew if it is older than this: the node may have
/// got its id, or its address may have got another node.
const RECHECK_NAME_AFTER: Duration = Duration::from_secs(1);
const FIRST_BYTES: usize = 4096;

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// The numbers that a test may set.
#[derive(Clone, Copy, Debug)]
pub struct ClientLimits {
    /// Resolving, TCP, TLS, the first byte.
    pub connect_deadline: Duration,
    /// No new attempt for so long after one has failed.
    pub connect_pause: Duration,
}

impl Default for ClientLimits {
    fn default() -> Self {
        Self { connect_deadline: Duration::from_secs(5), connect_pause: Duration::from_millis(100) }
    }
}

/// The peers, over the network.
pub struct PeerClient {
    pool: Arc<Pool>,
    _cut: DropGuard,
}

impl PeerClient {
    /// A client that connects as `trust` says.
    ///
    /// # Errors
    /// [`TrustError::Make`].
    pub fn new(trust: Arc<Trust>, limits: ClientLimits) -> Result<Self, TrustError> {
        let config = trust.client_config()?;
        let tasks = Tasks { tracker: TaskTracker::new(), cut: CancellationToken::new() };
        let cut = tasks.cut.clone().drop_guard();
        let pool = Arc::new(Pool { trust, config, limits, slots: Mutex::default(), tasks });
        Ok(Self { pool, _cut: cut })
    }

    /// Cuts all connections and waits for their tasks; later calls fail.
    pub async fn close(&self) {
        self.pool.tasks.cut.cancel();
        self.pool.tasks.tracker.close();
        self.pool.tasks.tracker.wait().await;
    }

    async fn send(
        &self,
        peer: &PeerAddress,
        (lane, method): (Lane, &'static str),
        body: Body,
        deadline: Instant,
    ) -> Result<Bytes, PeerError> {
        let unreachable = |why: String| PeerError::Unreachable { address: peer.address.clone(), why };
        let no_answer = |why: String| PeerError::NoAnswer { address: peer.address.clone(), why };
        let late = || "the deadline passed".to_owned();
        let slot = self.pool.slot(&peer.address, lane).map_err(unreachable)?;
        let room = timeout_at(deadline, slot.room.acquire()).await;
        let _held = room
            .map_err(|_| unreachable("too many messages wait for it".into()))?
            .expect("this semaphore is never closed");
        let mut request = request(wire::path(lane, method), body, deadline);
        let mut last = false;
        loop {
            let live = slot.live(&self.pool, peer, deadline).await.map_err(unreachable)?;
            if Instant::now() >= deadline {
                return Err(unreachable("there was no time left to send the message".into()));
            }
            let sending = live.sender.clone().try_send_request(request);
            let mut error = match timeout_at(deadline, sending).await {
                Err(_) => return Err(no_answer(late())),
                Ok(Ok(response)) => return read_reply(&peer.address, response, deadline).await,
                Ok(Err(error)) => error,
            };
            slot.forget(&live);
            match error.take_message() {
                Some(unsent) if !last => (request, last) = (unsent, true),
                Some(_) => return Err(unreachable(chain(error.error()))),
                None => return Err(no_answer(chain(error.error()))),
            }
        }
    }
}

#[async_trait]
impl Peers for PeerClient {
    async fn call(
        &self,
        peer: &PeerAddress,
        method: &'static str,
        body: Bytes,
        deadline: Instant,
    ) -> Result<Bytes, PeerError> {
        check_size(peer, body.len(), MESSAGE_BYTES_MAX)?;
        let body = Full::new(body).map_err(|never| match never {}).boxed_unsync();
        self.send(peer, (Lane::Calls, method), body, deadline).await
    }

    async fn upload(
        &self,
        peer: &PeerAddress,
        method: &'static str,
        head: Bytes,
        body: Upload,
        deadline: Instant,
    ) -> Result<Bytes, PeerError> {
        check_size(peer, head.len(), wire::HEAD_BYTES_MAX)?;
        let mut start = BytesMut::with_capacity(4 + head.len());
        start.put_u32(u32::try_from(head.len()).expect("bounded above"));
        start.put(head);
        let pieces = stream::once(future::ready(Ok(start.freeze()))).chain(body).map_ok(Frame::data);
        let body = StreamBody::new(pieces).boxed_unsync();
        self.send(peer, (Lane::Uploads, method), body, deadline).await
    }
}

fn check_size(peer: &PeerAddress, bytes: usize, most: usize) -> Result<(), PeerError> {
    if bytes <= most {
        return Ok(());
    }
    let why = format!("the message has {bytes} bytes, the most is {most}");
    Err(PeerError::Refused { address: peer.address.clone(), why })
}

fn request(path: String, body: Body, deadline: Instant) -> Request<Body> {
    let wait_ms = deadline.saturating_duration_since(Instant::now()).as_millis();
    let mut request = Request::new(body);
    *request.method_mut() = Method::POST;
    // HTTP wants an authority; whom it is for, the handshake has settled.
    *request.uri_mut() = format!("https://peer{path}").parse().expect("methods are constants of letters and digits");
    let wait = wait_ms.to_string().parse().expect("digits are a header's value");
    request.headers_mut().insert(wire::WAIT, wait);
    request
}

async fn read_reply(address: &str, response: Response<Incoming>, deadline: Instant) -> Result<Bytes, PeerError> {
    let no_answer = |why: String| PeerError::NoAnswer { address: address.to_owned(), why };
    let (head, body) = response.into_parts();
    let most = if head.status == StatusCode::OK { MESSAGE_BYTES_MAX } else { wire::TEXT_BYTES_MAX };
    let read = timeout_at(deadline, Limited::new(body, most).collect()).await;
    let bytes = match read {
        Err(_) => return Err(no_answer("the deadline passed within the reply".into())),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            return Err(no_answer(format!("the reply has more than {most} bytes")));
        }
        Ok(Err(error)) => return Err(no_answer(chain(&*error))),
        Ok(Ok(read)) => read.to_bytes(),
    };
    match head.status {
        StatusCode::OK => Ok(bytes),
        wire::LATE => Err(no_answer("it did not finish in time".into())),
        status => {
            let text = String::from_utf8_lossy(&bytes);
            let why = if text.is_empty() { format!("status {status}") } else { text.into_owned() };
            Err(PeerError::Refused { address: address.to_owned(), why })
        }
    }
}

/// The error and its causes in one line.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

struct Pool {
    trust: Arc<Trust>,
    config: Arc<ClientConfig>,
    limits: ClientLimits,
    slots: Mutex<HashMap<(String, Lane), Arc<Slot>>>,
    tasks: Tasks,
}

/// The connection to one address, if there is one.
struct Slot {
    lane: Lane,
    room: Semaphore,
    inner: Mutex<Inner>,
}

struct Inner {
    state: State,
    used: Instant,
}

enum State {
    Idle,
    Connecting(watch::Receiver<Option<Attempt>>),
    Up(Arc<Live>),
    Failed { at: Instant, why: String },
}

type Attempt = Result<Arc<Live>, String>;

/// A connection that the peer has accepted.
struct Live {
    sender: SendRequest<Body>,
    /// Whom its certificate names.
    node: Option<u64>,
    /// Under which name of ours it was made.
    name_version: u64,
    made: Instant,
}

impl Pool {
    fn slot(&self, address: &str, lane: Lane) -> Result<Arc<Slot>, String> {
        if self.tasks.cut.is_cancelled() {
            return Err("this node is stopping".into());
        }
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.get(&(address.to_owned(), lane)) {
            slot.lock().used = Instant::now();
            return Ok(Arc::clone(slot));
        }
        // Each address may have both lanes.
        if slots.len() >= 2 * PEERS_MAX {
            // A count of one is this map's: nobody uses it, and nobody can begin to while the map is locked.
            let unused = slots.iter().filter(|(_, slot)| Arc::strong_count(slot) == 1);
            let oldest = unused.min_by_key(|(_, slot)| slot.lock().used).map(|(key, _)| key.clone());
            let oldest = oldest.ok_or("connections to too many peers are in use")?;
            slots.remove(&oldest);
        }
        let most = if lane == Lane::Calls { CALLS_MAX } else { UPLOADS_MAX };
        let inner = Mutex::new(Inner { state: State::Idle, used: Instant::now() });
        let slot = Arc::new(Slot { lane, room: Semaphore::new(most), inner });
        slots.insert((address.to_owned(), lane), Arc::clone(&slot));
        Ok(slot)
    }
}

impl Slot {
    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection, made if there is none.
    async fn live(self: &Arc<Self>, pool: &Arc<Pool>, peer: &PeerAddress, deadline: Instant) -> Attempt {
        let live = match self.look(pool, peer) {
            Ok(live) => live?,
            Err(mut attempt) => {
                let ended = timeout_at(deadline, attempt.wait_for(Option::is_some)).await;
                let ended = ended.map_err(|_| "connecting took longer than the deadline".to_owned())?;
                let ended = ended.ok().and_then(|attempt| attempt.clone());
                ended.unwrap_or_else(|| Err("this node is stopping".into()))?
            }
        };
        match (peer.node, live.node) {
            (Some(wanted), named) if named != Some(wanted) => {
                let named = named.map_or("a node without an id".into(), |id| format!("node {id}"));
                Err(format!("its certificate names {named}, not node {wanted}"))
            }
            _ => Ok(live),
        }
    }

    /// What is known at once, or the attempt to wait for, which is begun if need be.
    fn look(
        self: &Arc<Self>,
        pool: &Arc<Pool>,
        peer: &PeerAddress,
    ) -> Result<Attempt, watch::Receiver<Option<Attempt>>> {
        let mut inner = self.lock();
        match &inner.state {
            State::Up(live) if live.is_usable(pool, peer) => return Ok(Ok(Arc::clone(live))),
            State::Connecting(attempt) => return Err(attempt.clone()),
            State::Failed { at, why } if at.elapsed() < pool.limits.connect_pause => return Ok(Err(why.clone())),
            State::Idle | State::Up(_) | State::Failed { .. } => {}
        }
        let (tell, attempt) = watch::channel(None);
        inner.state = State::Connecting(attempt.clone());
        let (slot, pool, address) = (Arc::clone(self), Arc::clone(pool), peer.address.clone());
        pool.tasks.tracker.clone().spawn(async move {
            let connecting = timeout(pool.limits.connect_deadline, connect(&pool, &address, slot.lane));
            let ended = match pool.tasks.cut.run_until_cancelled(connecting).await {
                None => Err("this node is stopping".to_owned()),
                Some(Err(_)) => Err("no connection within its deadline".to_owned()),
                Some(Ok(ended)) => ended.map(Arc::new),
            };
            slot.lock().state = match &ended {
                Ok(live) => State::Up(Arc::clone(live)),
                Err(why) => State::Failed { at: Instant::now(), why: why.clone() },
            };
            tell.send_replace(Some(ended));
        });
        Err(attempt)
    }

    /// The connection has failed: the next caller makes another.
    fn forget(&self, live: &Arc<Live>) {
        let mut inner = self.lock();
        if matches!(&inner.state, State::Up(current) if Arc::ptr_eq(current, live)) {
            inner.state = State::Idle;
        }
    }
}

impl Live {
    fn is_usable(&self, pool: &Pool, peer: &PeerAddress) -> bool {
        let named_right = peer.node.is_none() || peer.node == self.node || self.made.elapsed() < RECHECK_NAME_AFTER;
        named_right && !self.sender.is_closed() && self.name_version == pool.trust.name_version()
    }
}

async fn connect(pool: &Pool, address: &str, lane: Lane) -> Result<Live, String> {
    // Before the handshake: a rename meanwhile makes the connection stale at once.
    let name_version = pool.trust.name_version();
    let tcp = dial(address).await.map_err(|error| chain(&error))?;
    wire::tune(&tcp, lane.unacknowledged_max());
    let connector = TlsConnector::from(Arc::clone(&pool.config));
    let connected = connector.connect(pool.trust.server_name(), tcp).await;
    let mut tls = connected.map_err(|error| explain(&error))?;
    let sender = pool.trust.sender(tls.get_ref().1.peer_certificates());
    let node = sender.ok_or("its certificate names no node of this cluster")?.node;
    let mut first = BytesMut::with_capacity(FIRST_BYTES);
    match tls.read_buf(&mut first).await {
        Ok(0) => return Err("it closed the connection after the handshake".into()),
        Ok(_) => {}
        Err(error) => return Err(explain(&error)),
    }
    let io = TokioIo::new(Begun { first: first.freeze(), inner: tls });
    let mut builder = Builder::new(pool.tasks.clone());
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(wire::STREAM_WINDOW_BYTES)
        .initial_connection_window_size(wire::CONNECTION_WINDOW_BYTES)
        .max_frame_size(wire::FRAME_BYTES_MAX)
        .max_header_list_size(wire::HEADERS_BYTES_MAX)
        .keep_alive_interval(wire::PING_EVERY)
        .keep_alive_timeout(wire::PING_ANSWER_WITHIN)
        .keep_alive_while_idle(true);
    let (sender, connection) = builder.handshake(io).await.map_err(|error| chain(&error))?;
    let (cut, address) = (pool.tasks.cut.clone(), address.to_owned());
    pool.tasks.tracker.spawn(async move {
        if let Some(Err(error)) = cut.run_until_cancelled(connection).await {
            tracing::debug!(%address, error = &error as &dyn std::error::Error, "a peer connection broke off");
        }
    });
    Ok(Live { sender, node, name_version, made: Instant::now() })
}

/// Connects to whichever address of the name answers first.
async fn dial(address: &str) -> io::Result<TcpStream> {
    let resolved: Vec<_> = lookup_host(address).await?.take(RESOLVED_MAX).collect();
    if resolved.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    }
    let (stream, _) =
        future::select_ok(resolved.into_iter().map(|address| TcpStream::connect(address).boxed())).await?;
    Ok(stream)
}

/// A handshake that failed, in words for an operator.
fn explain(error: &io::Error) -> String {
    let text = chain(error);
    if error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) {
        return format!(
            "the handshake failed ({text}): are cluster name and secret the same on both nodes, and their clocks right?"
        );
    }
    text
}

/// A stream of which the first bytes were read.
struct Begun<S> {
    first: Bytes,
    inner: S,
}

impl<S: AsyncRead + Unpin> AsyncRead for Begun<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.inner).poll_read(cx, buffer);
        }
        let count = self.first.len().min(buffer.remaining());
        buffer.put_slice(&self.first.split_to(count));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Begun<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
