//! Receives messages from peers: HTTP/2 over mutual TLS. Whoever has no certificate of this cluster gets a closed
//! connection and no byte of HTTP.
//!
//! | what | bound | when it is reached |
//! | --- | --- | --- |
//! | handshakes at a time, and from one address | [`ServerLimits::handshakes_max`], [`HANDSHAKES_PER_ADDRESS_MAX`] | closed |
//! | a handshake | [`ServerLimits::handshake_deadline`] | closed |
//! | connections of peers | [`ServerLimits::connections_max`] | closed |
//! | idle connection | [`ServerLimits::idle_deadline`] | ended, the peer connects anew |
//! | messages at a time on a connection | 128 | the peer waits |
//! | a message, a reply | [`MESSAGE_BYTES_MAX`] | refused |
//! | bytes of messages above 64 KiB in work | [`IN_WORK_BYTES_MAX`] | the message waits; small ones, heartbeats among them, pass |
//! | an upload | its receiver; [`STALL_MAX`] between two pieces | its stream ends with an error |
//! | work on a message | what the sender waits, at most [`WORK_MAX`] | "not done in time" |
//! | drain | [`ServerLimits::drain_deadline`] | what is left is cut |
//!
//! A sender that gives up, or a work bound that is reached, drops the handler's future at its next `await`: a handler that
//! must finish what it began does so in a task of its own. Membership is the handler's business, which gets the
//! [`Sender`]; a node in the denied set is refused before it.

use std::collections::{BTreeSet, HashMap};
use std::convert::Infallible;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use futures::stream;
use http::{Method, Request, Response, StatusCode};
use http_body::Body as _;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpSocket, TcpStream, lookup_host};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::trust::{Trust, TrustError};
use super::wire::{self, Lane, Tasks};
use super::{MESSAGE_BYTES_MAX, PeerHandler, Sender, Upload};

/// Handshakes that one address may have open: more than a node ever needs, so that one stranger does not take all.
pub const HANDSHAKES_PER_ADDRESS_MAX: usize = 16;
/// Bytes of messages in work, but for small ones.
pub const IN_WORK_BYTES_MAX: usize = 256 << 20;
const SMALL_BYTES: usize = 64 << 10;
/// Longest pause between two pieces of an upload.
pub const STALL_MAX: Duration = Duration::from_secs(30);
/// Longest work on one message, whatever its sender waits.
pub const WORK_MAX: Duration = Duration::from_secs(3600);
/// Work on a message whose sender does not say how long it waits.
const WORK_DEFAULT: Duration = Duration::from_secs(30);

const BACKLOG: u32 = 256;
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const WATCH_EVERY: Duration = Duration::from_secs(5);
/// Refused handshakes are reported once in so long, with their count.
const REPORT_EVERY: Duration = Duration::from_secs(10);

/// The numbers that a test may set.
#[derive(Clone, Copy, Debug)]
pub struct ServerLimits {
    /// Connections of peers.
    pub connections_max: usize,
    /// Handshakes at a time.
    pub handshakes_max: usize,
    /// How long a handshake may take.
    pub handshake_deadline: Duration,
    /// How long a connection may be without a message.
    pub idle_deadline: Duration,
    /// How long messages in work may take once the server drains.
    pub drain_deadline: Duration,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            connections_max: 256,
            handshakes_max: 128,
            handshake_deadline: Duration::from_secs(5),
            idle_deadline: Duration::from_secs(300),
            drain_deadline: Duration::from_secs(10),
        }
    }
}

/// Why the peer listener does not start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address does not resolve.
    #[error("{address:?} is not an address to listen on for peers")]
    Address {
        /// As configured.
        address: String,
        /// What the resolver said.
        #[source]
        source: io::Error,
    },
    /// The address is taken or not ours.
    #[error("cannot listen on {address} for peers")]
    Bind {
        /// Resolved.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// There is no trust.
    #[error(transparent)]
    Trust(#[from] TrustError),
}

/// A bound peer listener.
pub struct PeerServer {
    listener: TcpListener,
    address: SocketAddr,
    acceptor: TlsAcceptor,
    trust: Arc<Trust>,
    limits: ServerLimits,
    denied: Option<watch::Receiver<BTreeSet<u64>>>,
}

impl PeerServer {
    /// Binds `listen` (`HOST:PORT`, or `:PORT` for every interface; port 0 picks one).
    ///
    /// # Errors
    /// [`ServerError`].
    pub async fn bind(listen: &str, trust: Arc<Trust>, limits: ServerLimits) -> Result<Self, ServerError> {
        let text = if listen.starts_with(':') { format!("0.0.0.0{listen}") } else { listen.to_owned() };
        let unresolved = |source| ServerError::Address { address: listen.to_owned(), source };
        let found = lookup_host(&text).await.map_err(unresolved)?.next();
        let resolved = found.ok_or_else(|| unresolved(ErrorKind::NotFound.into()))?;
        let bind = || -> io::Result<TcpListener> {
            let socket = if resolved.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            socket.set_reuseaddr(true)?;
            socket.bind(resolved)?;
            socket.listen(BACKLOG)
        };
        let bound = bind().and_then(|listener| Ok((listener.local_addr()?, listener)));
        let (address, listener) = bound.map_err(|source| ServerError::Bind { address: resolved, source })?;
        let acceptor = TlsAcceptor::from(trust.server_config()?);
        Ok(Self { listener, address, acceptor, trust, limits, denied: None })
    }

    /// Refuses every message of the nodes in the set, from the moment they are in it.
    #[must_use]
    pub fn denying(mut self, denied: watch::Receiver<BTreeSet<u64>>) -> Self {
        self.denied = Some(denied);
        self
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` is cancelled; then accepts no more, lets messages in work finish, and returns.
    pub async fn serve(self, handler: Arc<dyn PeerHandler>, shutdown: CancellationToken) {
        let tasks = Tasks { tracker: TaskTracker::new(), cut: CancellationToken::new() };
        let context = Arc::new(Context {
            acceptor: self.acceptor,
            trust: self.trust,
            limits: self.limits,
            handshakes: Arc::new(Handshakes::new(self.limits.handshakes_max)),
            room: Arc::new(Semaphore::new(self.limits.connections_max)),
            bytes: Arc::new(Semaphore::new(IN_WORK_BYTES_MAX)),
            refusals: Refusals::default(),
            desk: Arc::new(Desk { handler, denied: self.denied }),
            drain: shutdown,
            tasks: tasks.clone(),
        });
        accept(&self.listener, &context).await;
        drop(self.listener);
        tasks.tracker.close();
        if timeout(self.limits.drain_deadline, tasks.tracker.wait()).await.is_err() {
            tracing::warn!("messages of peers are still in work after the drain's deadline and are cut");
            tasks.cut.cancel();
            tasks.tracker.wait().await;
        }
    }
}

async fn accept(listener: &TcpListener, context: &Arc<Context>) {
    while let Some(accepted) = context.drain.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((stream, address)) => {
                let Some(slot) = context.handshakes.enter(address.ip()) else {
                    context.refusals.count(address, "too many handshakes");
                    continue;
                };
                let (context, cut) = (Arc::clone(context), context.tasks.cut.clone());
                context.tasks.tracker.clone().spawn(async move {
                    cut.run_until_cancelled(context.connection(stream, address, slot)).await;
                });
            }
            Err(error) => {
                // Out of files, mostly: closing connections is what helps, so wait for that.
                tracing::warn!(%error, "cannot accept a peer's connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

struct Context {
    acceptor: TlsAcceptor,
    trust: Arc<Trust>,
    limits: ServerLimits,
    handshakes: Arc<Handshakes>,
    room: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    refusals: Refusals,
    desk: Arc<Desk>,
    drain: CancellationToken,
    tasks: Tasks,
}

impl Context {
    async fn connection(self: Arc<Self>, stream: TcpStream, address: SocketAddr, slot: InHandshake) {
        wire::tune(&stream, Lane::Uploads.unacknowledged_max());
        // Before the handshake: a rename meanwhile ends this connection at once.
        let renamed = self.trust.renamed();
        let accepting = timeout(self.limits.handshake_deadline, self.acceptor.accept(stream));
        let stream = match self.drain.run_until_cancelled(accepting).await {
            None => return,
            Some(Err(_)) => return self.refusals.count(address, "no handshake in time"),
            Some(Ok(Err(error))) => return self.refusals.count(address, error),
            Some(Ok(Ok(stream))) => stream,
        };
        drop(slot);
        let Some(from) = self.trust.sender(stream.get_ref().1.peer_certificates()) else {
            return self.refusals.count(address, "its certificate names no node");
        };
        let Ok(_held) = Arc::clone(&self.room).try_acquire_owned() else {
            return self.refusals.count(address, "too many connections of peers");
        };
        if let Err(error) = self.speak(stream, from, renamed).await {
            tracing::debug!(%address, error = &error as &dyn std::error::Error, "a peer's connection broke off");
        }
    }

    /// Serves a connection until it ends, idles, the server drains or this node's name changes.
    async fn speak(
        self: &Arc<Self>,
        stream: TlsStream<TcpStream>,
        from: Sender,
        mut renamed: watch::Receiver<u64>,
    ) -> hyper::Result<()> {
        let activity = Arc::new(Activity::default());
        let service = service_fn(|request| {
            let (context, in_work) = (Arc::clone(self), activity.begin());
            async move {
                let reply = context.answer(from, request).await;
                drop(in_work);
                Ok::<_, Infallible>(reply)
            }
        });
        let mut builder = http2::Builder::new(self.tasks.clone());
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(wire::STREAM_WINDOW_BYTES)
            .initial_connection_window_size(wire::CONNECTION_WINDOW_BYTES)
            .max_frame_size(wire::FRAME_BYTES_MAX)
            .max_header_list_size(wire::HEADERS_BYTES_MAX)
            .max_concurrent_streams(wire::STREAMS_MAX)
            .keep_alive_interval(self.limits.idle_deadline.min(wire::PING_ANSWER_WITHIN))
            .keep_alive_timeout(wire::PING_ANSWER_WITHIN);
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
        let mut watch = tokio::time::interval(WATCH_EVERY.min(self.limits.idle_deadline));
        let mut ending = false;
        loop {
            tokio::select! {
                ended = connection.as_mut() => return ended,
                () = self.drain.cancelled(), if !ending => ending = true,
                // The sender lives in the trust, which this holds.
                _ = renamed.changed(), if !ending => ending = true,
                _ = watch.tick(), if !ending => ending = activity.idle_for() > self.limits.idle_deadline,
            }
            if ending {
                connection.as_mut().graceful_shutdown();
                // Only the connection is polled from here on.
                return connection.await;
            }
        }
    }

    async fn answer(&self, from: Sender, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let waits = head.headers.get(wire::WAIT).and_then(|value| value.to_str().ok()?.parse().ok());
        let work_max = waits.map_or(WORK_DEFAULT, Duration::from_millis).min(WORK_MAX);
        let work = async {
            if head.method != Method::POST {
                return Err((StatusCode::METHOD_NOT_ALLOWED, "messages are posted".to_owned()));
            }
            match wire::parse_path(head.uri.path()) {
                Some((Lane::Calls, method)) => self.call(from, method, body).await,
                Some((Lane::Uploads, method)) => self.desk.upload(from, method, body).await,
                None => Err((StatusCode::NOT_FOUND, format!("{:?} is no message", head.uri.path()))),
            }
        };
        let (status, body) = match timeout(work_max, work).await {
            Err(_) => (wire::LATE, Bytes::new()),
            Ok(Ok(reply)) if reply.len() > MESSAGE_BYTES_MAX => {
                (StatusCode::INTERNAL_SERVER_ERROR, Bytes::from(format!("the reply has {} bytes", reply.len())))
            }
            Ok(Ok(reply)) => (StatusCode::OK, reply),
            Ok(Err((status, mut text))) => {
                text.truncate(text.floor_char_boundary(wire::TEXT_BYTES_MAX));
                (status, Bytes::from(text))
            }
        };
        let mut response = Response::new(Full::new(body));
        *response.status_mut() = status;
        response
    }

    async fn call(&self, from: Sender, method: &str, body: Incoming) -> Answer {
        let too_large = || (StatusCode::PAYLOAD_TOO_LARGE, format!("a message has at most {MESSAGE_BYTES_MAX} bytes"));
        let bytes = match body.size_hint().exact() {
            Some(bytes) => {
                usize::try_from(bytes).ok().filter(|bytes| *bytes <= MESSAGE_BYTES_MAX).ok_or_else(too_large)?
            }
            None => MESSAGE_BYTES_MAX,
        };
        let _held = self.reserve(bytes).await;
        let body = Limited::new(body, bytes).collect().await;
        let broken = |error| (StatusCode::BAD_REQUEST, format!("the message did not arrive: {error}"));
        self.desk.call(from, method, body.map_err(broken)?.to_bytes()).await
    }

    /// Waits for room for a message, unless it is small.
    async fn reserve(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        if bytes <= SMALL_BYTES {
            return None;
        }
        let permits = u32::try_from(bytes).expect("a message is smaller than 4 GiB");
        Some(Arc::clone(&self.bytes).acquire_many_owned(permits).await.expect("this semaphore is never closed"))
    }
}

type Answer = Result<Bytes, (StatusCode, String)>;

/// Where messages are handed over.
struct Desk {
    handler: Arc<dyn PeerHandler>,
    denied: Option<watch::Receiver<BTreeSet<u64>>>,
}

impl Desk {
    fn admit(&self, from: Sender) -> Result<(), (StatusCode, String)> {
        match (from.node, &self.denied) {
            (Some(node), Some(denied)) if denied.borrow().contains(&node) => {
                Err((StatusCode::FORBIDDEN, format!("node {node} was removed from the cluster")))
            }
            _ => Ok(()),
        }
    }

    async fn call(&self, from: Sender, method: &str, body: Bytes) -> Answer {
        self.admit(from)?;
        self.handler.call(from, method, body).await.map_err(|text| (wire::REFUSED, text))
    }

    async fn upload(&self, from: Sender, method: &str, body: Incoming) -> Answer {
        self.admit(from)?;
        let mut pieces = Pieces { body, next: Bytes::new(), broken: false };
        let head = pieces.head().await.map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))?;
        let upload: Upload = Box::pin(stream::unfold(pieces, |mut pieces| async move {
            let piece = pieces.piece().await?;
            Some((piece, pieces))
        }));
        self.handler.upload(from, method, head, upload).await.map_err(|text| (wire::REFUSED, text))
    }
}

/// The body of an upload. Only the end that the sender has marked is an end; everything else is an error.
struct Pieces {
    body: Incoming,
    next: Bytes,
    broken: bool,
}

impl Pieces {
    async fn head(&mut self) -> io::Result<Bytes> {
        let length = self.exactly(4).await?.get_u32() as usize;
        if length > wire::HEAD_BYTES_MAX {
            let text = format!("the head of an upload has {length} bytes, the most is {}", wire::HEAD_BYTES_MAX);
            return Err(io::Error::new(ErrorKind::InvalidData, text));
        }
        self.exactly(length).await
    }

    async fn exactly(&mut self, count: usize) -> io::Result<Bytes> {
        let mut bytes = BytesMut::with_capacity(count);
        while bytes.len() < count {
            let mut piece = self.piece().await.ok_or(ErrorKind::UnexpectedEof)??;
            let taken = piece.split_to(piece.len().min(count - bytes.len()));
            bytes.extend_from_slice(&taken);
            self.next = piece;
        }
        Ok(bytes.freeze())
    }

    async fn piece(&mut self) -> Option<io::Result<Bytes>> {
        if !self.next.is_empty() {
            return Some(Ok(std::mem::take(&mut self.next)));
        }
        while !self.broken {
            let error = match timeout(STALL_MAX, self.body.frame()).await {
                Ok(None) => return None,
                Ok(Some(Ok(frame))) => match frame.into_data() {
                    Ok(bytes) if !bytes.is_empty() => return Some(Ok(bytes)),
                    _ => continue,
                },
                Ok(Some(Err(error))) => io::Error::other(error),
                Err(_) => io::Error::new(ErrorKind::TimedOut, "no bytes of the upload came for too long"),
            };
            self.broken = true;
            return Some(Err(error));
        }
        None
    }
}

/// What a connection is doing.
struct Activity {
    in_work: AtomicUsize,
    last: Mutex<Instant>,
}

impl Default for Activity {
    fn default() -> Self {
        Self { in_work: AtomicUsize::new(0), last: Mutex::new(Instant::now()) }
    }
}

impl Activity {
    fn begin(self: &Arc<Self>) -> InWork {
        self.in_work.fetch_add(1, Ordering::AcqRel);
        InWork(Arc::clone(self))
    }

    fn idle_for(&self) -> Duration {
        if self.in_work.load(Ordering::Acquire) > 0 {
            return Duration::ZERO;
        }
        self.last.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }
}

struct InWork(Arc<Activity>);

impl Drop for InWork {
    fn drop(&mut self) {
        *self.0.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.0.in_work.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Who is shaking hands.
struct Handshakes {
    most: usize,
    open: Mutex<HashMap<IpAddr, usize>>,
}

struct InHandshake(Arc<Handshakes>, IpAddr);

impl Handshakes {
    fn new(most: usize) -> Self {
        Self { most, open: Mutex::default() }
    }

    fn enter(self: &Arc<Self>, address: IpAddr) -> Option<InHandshake> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.values().sum::<usize>() >= self.most {
            return None;
        }
        let count = open.entry(address).or_default();
        if *count >= HANDSHAKES_PER_ADDRESS_MAX {
            return None;
        }
        *count += 1;
        Some(InHandshake(Arc::clone(self), address))
    }
}

impl Drop for InHandshake {
    fn drop(&mut self) {
        let mut open = self.0.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.1);
            }
        }
    }
}

/// Connections that came to nothing. An operator should hear of them, but a stranger must not fill the log.
#[derive(Default)]
struct Refusals(Mutex<(Option<Instant>, u64)>);

impl Refusals {
    fn count(&self, address: SocketAddr, why: impl std::fmt::Display) {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.1 += 1;
        if told.0.is_none_or(|last| last.elapsed() >= REPORT_EVERY) {
            let count = std::mem::take(&mut told.1);
            told.0 = Some(Instant::now());
            tracing::warn!(%address, %why, count, "refused a connection on the peer listener");
        }
    }
}
