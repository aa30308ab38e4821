//! The listener: connections, their deadlines, TLS, and the way down.
//!
//! | what | bound | when it is reached |
//! | --- | --- | --- |
//! | connections | [`Limits::connections_max`] | accepted, answered 503, closed |
//! | TLS handshake, request head | [`HEADER_DEADLINE`] each, from its first byte | closed |
//! | idle connection | [`IDLE_DEADLINE`] | closed |
//! | head | [`HEAD_BYTES_MAX`], [`HEADERS_MAX`] headers | 431 |
//! | reply that the client does not read, connection without a byte | [`WRITE_DEADLINE`], [`SILENCE_MAX`] | closed |
//! | requests at a time on an HTTP/2 connection | [`STREAMS_MAX`] | the client waits |
//! | drain | [`DRAIN_DEADLINE`] | what is left is cut and counted |
//!
//! The floor of a request body's speed is the gate's. Every task belongs to the server: `serve` returns when the last has ended.

mod io;
pub mod tls;

use std::convert::Infallible;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream, lookup_host};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::io::{Activity, Tracked, Watched};
use self::tls::Tls;
use crate::api::gate::Peer;
use crate::api::gate::metrics::HttpMetrics;
use crate::api::request_id;

/// Connections that one listener holds by default, if the process may have as many files.
pub const CONNECTIONS_MAX: usize = 10_000;
/// Files that are kept for everything but connections.
const FILES_RESERVED: u64 = 512;
/// A request's head must be complete this long after its first byte, a fresh connection's after its beginning.
pub const HEADER_DEADLINE: Duration = Duration::from_secs(10);
/// How long a connection may wait for its next request.
pub const IDLE_DEADLINE: Duration = Duration::from_secs(75);
/// How long a client may refuse to read.
pub const WRITE_DEADLINE: Duration = Duration::from_secs(60);
/// How long a connection with a request in work may see no byte in either direction: longer than a wait for a lock, which is
/// at most a day. What a client sends or reads too slowly has nearer bounds.
pub const SILENCE_MAX: Duration = Duration::from_secs(25 * 60 * 60);
/// How long requests in work may take to finish once the server drains.
pub const DRAIN_DEADLINE: Duration = Duration::from_secs(30);
/// Bytes of a request's head.
pub const HEAD_BYTES_MAX: usize = 32 * 1024;
/// Headers of a request.
pub const HEADERS_MAX: usize = 100;
/// Requests at a time on one HTTP/2 connection.
pub const STREAMS_MAX: u32 = 128;

const BACKLOG: u32 = 1024;
const READ_BUFFER_BYTES_MAX: usize = 512 * 1024;
/// Connections beyond the limit that are told so at the same time; more are closed without a word.
const REFUSALS_MAX: usize = 64;
const REFUSAL_WAIT: Duration = Duration::from_secs(1);
/// How often a connection is looked at, and in how many parts its idle deadline is then known.
const WATCH_EVERY: Duration = Duration::from_secs(5);
const WATCHES_OF_IDLE: u32 = 4;
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The numbers that an operator or a test may set.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// See [`CONNECTIONS_MAX`].
    pub connections_max: usize,
    /// See [`HEADER_DEADLINE`].
    pub header_deadline: Duration,
    /// See [`IDLE_DEADLINE`].
    pub idle_deadline: Duration,
    /// See [`WRITE_DEADLINE`].
    pub write_deadline: Duration,
    /// See [`DRAIN_DEADLINE`].
    pub drain_deadline: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: CONNECTIONS_MAX,
            header_deadline: HEADER_DEADLINE,
            idle_deadline: IDLE_DEADLINE,
            write_deadline: WRITE_DEADLINE,
            drain_deadline: DRAIN_DEADLINE,
        }
    }
}

/// Why a listener does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address does not resolve.
    #[error("{address:?} is not an address to listen on")]
    Address {
        /// As configured.
        address: String,
        /// What the resolver said.
        #[source]
        source: std::io::Error,
    },
    /// The address is taken or not ours.
    #[error("cannot listen on {address}")]
    Bind {
        /// Resolved.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// What a drained server leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Connections that were cut at the deadline.
    pub unfinished: usize,
}

/// A bound listener.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<Arc<Tls>>,
    limits: Limits,
    metrics: HttpMetrics,
}

impl Server {
    /// Binds `address` (`HOST:PORT`, or `:PORT` for every interface; port 0 picks one).
    ///
    /// # Errors
    /// [`Error`] when the address does not resolve or cannot be bound.
    pub async fn bind(
        address: &str,
        tls: Option<Arc<Tls>>,
        limits: Limits,
        metrics: HttpMetrics,
    ) -> Result<Self, Error> {
        let text = if address.starts_with(':') { format!("0.0.0.0{address}") } else { address.to_owned() };
        let unresolved = |source| Error::Address { address: address.to_owned(), source };
        let found = lookup_host(&text).await.map_err(unresolved)?.next();
        let resolved = found.ok_or_else(|| unresolved(ErrorKind::NotFound.into()))?;
        let bind = || -> std::io::Result<TcpListener> {
            let socket = if resolved.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            socket.set_reuseaddr(true)?;
            socket.bind(resolved)?;
            socket.listen(BACKLOG)
        };
        let listener = bind().map_err(|source| Error::Bind { address: resolved, source })?;
        let address = listener.local_addr().map_err(|source| Error::Bind { address: resolved, source })?;
        Ok(Self { listener, address, tls, limits, metrics })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http` or `https`.
    #[must_use]
    pub fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// Serves until `shutdown` is cancelled; then accepts no more, lets requests finish, and returns.
    pub async fn serve<S, B>(self, service: S, shutdown: CancellationToken) -> Drained
    where
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible, Future: Send>
            + Clone
            + Send
            + 'static,
        B: http_body::Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
    {
        let tracker = TaskTracker::new();
        let cut = CancellationToken::new();
        let context = Context {
            tls: self.tls.clone().map(|tls| TlsAcceptor::from(tls.server_config())),
            limits: self.limits,
            metrics: self.metrics.clone(),
            drain: shutdown.child_token(),
            tracker: tracker.clone(),
            cut: cut.clone(),
        };
        if let Some(tls) = self.tls.clone() {
            let watching = context.drain.clone();
            tracker.spawn(async move { watching.run_until_cancelled(tls.watch()).await });
        }
        self.accept(&context, &service).await;
        drop(self.listener);
        tracker.close();
        if timeout(self.limits.drain_deadline, tracker.wait()).await.is_ok() {
            return Drained { unfinished: 0 };
        }
        let unfinished = usize::try_from(self.metrics.open_connections()).unwrap_or(0);
        cut.cancel();
        tracker.wait().await;
        Drained { unfinished }
    }

    async fn accept<S, B>(&self, context: &Context, service: &S)
    where
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible, Future: Send>
            + Clone
            + Send
            + 'static,
        B: http_body::Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
    {
        let room = Arc::new(Semaphore::new(connections_allowed(self.limits.connections_max)));
        let refusals = Arc::new(Semaphore::new(REFUSALS_MAX));
        while let Some(accepted) = context.drain.run_until_cancelled(self.listener.accept()).await {
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of files, mostly: closing connections is what helps, so wait for that.
                    tracing::warn!(%error, "cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            if let Ok(permit) = Arc::clone(&room).try_acquire_owned() {
                let (context, service) = (context.clone(), service.clone());
                context.tracker.clone().spawn(async move {
                    let _held = (permit, context.metrics.connection());
                    let cut = context.cut.clone();
                    cut.run_until_cancelled(context.connection(stream, address, service)).await;
                });
                continue;
            }
            self.metrics.rejected("connections");
            if let (None, Ok(permit)) = (&context.tls, Arc::clone(&refusals).try_acquire_owned()) {
                context.tracker.spawn(async move {
                    let _held = permit;
                    // Whoever does not read the refusal in time has no claim to it.
                    let _ = timeout(REFUSAL_WAIT, refuse(stream)).await;
                });
            }
        }
    }
}

/// The connections that the process's limit of open files leaves room for.
fn connections_allowed(wanted: usize) -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    let room = usize::try_from(limit.saturating_sub(FILES_RESERVED)).unwrap_or(usize::MAX).max(16);
    if room < wanted {
        tracing::warn!(wanted, room, "the limit of open files leaves room for fewer connections");
    }
    wanted.min(room)
}

/// Lets the process open as many files as the system allows it to.
pub fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

async fn refuse(mut stream: TcpStream) -> std::io::Result<()> {
    let id = request_id::mint();
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>SlowDown</Code><Message>Too many connections.</Message><RequestId>{id}</RequestId></Error>"
    );
    let reply = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/xml\r\ncontent-length: {}\r\nx-amz-request-id: {id}\r\nretry-after: 1\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(reply.as_bytes()).await?;
    stream.shutdown().await?;
    // Closing with unread bytes would reset the connection and with it the reply.
    let mut scratch = [0; 4096];
    while stream.read(&mut scratch).await? > 0 {}
    Ok(())
}

#[derive(Clone)]
struct Context {
    tls: Option<TlsAcceptor>,
    limits: Limits,
    metrics: HttpMetrics,
    drain: CancellationToken,
    tracker: TaskTracker,
    cut: CancellationToken,
}

/// Runs the tasks of an HTTP/2 connection under the server's tracker.
#[derive(Clone)]
struct Tasks(TaskTracker, CancellationToken);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Tasks {
    fn execute(&self, task: F) {
        let cut = self.1.clone();
        self.0.spawn(async move { cut.run_until_cancelled(task).await });
    }
}

impl Context {
    async fn connection<S, B>(&self, stream: TcpStream, address: SocketAddr, service: S)
    where
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible, Future: Send>
            + Clone
            + Send
            + 'static,
        B: http_body::Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
    {
        let deadline = Instant::now() + self.limits.header_deadline;
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        let peer = Peer { address, tls: self.tls.is_some(), two_lengths: false };
        let opening = async {
            match &self.tls {
                Some(acceptor) => match timeout_at(deadline, acceptor.accept(stream)).await {
                    Ok(Ok(stream)) => {
                        let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                        self.speak(stream, h2, deadline, peer, service).await;
                    }
                    Ok(Err(error)) => tracing::debug!(%error, %address, "no TLS handshake"),
                    Err(_) => self.metrics.rejected("handshake_timeout"),
                },
                None => match self.drain.run_until_cancelled(timeout_at(deadline, is_http2(&stream))).await {
                    Some(Ok(Ok(h2))) => self.speak(stream, h2, deadline, peer, service).await,
                    Some(Ok(Err(error))) => tracing::debug!(%error, %address, "the connection ended before a request"),
                    Some(Err(_)) => self.metrics.rejected("header_timeout"),
                    None => {}
                },
            }
        };
        opening.await;
    }

    async fn speak<I, S, B>(&self, stream: I, h2: bool, deadline: Instant, peer: Peer, service: S)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible, Future: Send>
            + Clone
            + Send
            + 'static,
        B: http_body::Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
    {
        let activity = Arc::new(Activity::default());
        let head = (!h2).then_some((self.limits.header_deadline, deadline));
        let io = TokioIo::new(Watched::new(stream, Arc::clone(&activity), head, self.limits.write_deadline));
        let service = Counted { inner: service, activity: Arc::clone(&activity), peer };
        let ended = if h2 {
            let mut builder = http2::Builder::new(Tasks(self.tracker.clone(), self.cut.clone()));
            builder
                .timer(TokioTimer::new())
                .max_concurrent_streams(STREAMS_MAX)
                .max_header_list_size(HEAD_BYTES_MAX as u32);
            self.drive(builder.serve_connection(io, service), &activity).await
        } else {
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(self.limits.idle_deadline);
            builder.max_headers(HEADERS_MAX).max_header_size(HEAD_BYTES_MAX).max_buf_size(READ_BUFFER_BYTES_MAX);
            self.drive(builder.serve_connection(io, service), &activity).await
        };
        match ended {
            Err(error) if activity.head_timed_out() => {
                self.metrics.rejected("header_timeout");
                tracing::debug!(%error, peer = %peer.address, "a request's head did not come in time");
            }
            Err(error) => tracing::debug!(error = &*error, peer = %peer.address, "a connection broke off"),
            Ok(()) => {}
        }
    }

    /// Runs a connection; ends it when it idles, hangs, or the server drains.
    async fn drive<C>(&self, connection: C, activity: &Activity) -> Result<(), Box<dyn std::error::Error + Send + Sync>>
    where
        C: GracefulConnection<Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
    {
        let mut connection = pin!(connection);
        let mut watch = tokio::time::interval(WATCH_EVERY.min(self.limits.idle_deadline / WATCHES_OF_IDLE));
        let mut ending = false;
        loop {
            tokio::select! {
                ended = connection.as_mut() => return ended.map_err(Into::into),
                () = self.drain.cancelled(), if !ending => {
                    ending = true;
                    connection.as_mut().graceful_shutdown();
                }
                _ = watch.tick() => {
                    let silent = activity.silent_for();
                    if activity.is_busy() && silent > SILENCE_MAX {
                        return Err("no byte moved on a connection with a request in work".into());
                    }
                    if !activity.is_busy() && silent > self.limits.idle_deadline {
                        if ending {
                            return Err("the client does not answer the end of an idle connection".into());
                        }
                        ending = true;
                        connection.as_mut().graceful_shutdown();
                    }
                }
            }
        }
    }
}

/// Whether the client begins with HTTP/2's preface. Waits for as many bytes as that takes.
async fn is_http2(stream: &TcpStream) -> std::io::Result<bool> {
    let mut start = [0; 3];
    loop {
        let seen = stream.peek(&mut start).await?;
        if seen == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        if seen == start.len() || !b"PRI".starts_with(&start[..seen]) {
            return Ok(&start[..seen] == b"PRI");
        }
        // `peek` would return at once with the same bytes.
        sleep(Duration::from_millis(10)).await;
    }
}

/// Tells the connection which requests are in work, and the request who sent it.
struct Counted<S> {
    inner: S,
    activity: Arc<Activity>,
    peer: Peer,
}

impl<S, B> Service<Request<Incoming>> for Counted<S>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible, Future: Send> + Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
{
    type Response = Response<Tracked<B>>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let guard = self.activity.begin();
        request.extensions_mut().insert(Peer { two_lengths: self.activity.take_two_lengths(), ..self.peer });
        let reply = self.inner.call(request);
        Box::pin(async move { Ok(reply.await?.map(|body| Tracked::new(body, guard))) })
    }
}

/// Cancels `shutdown` at the first SIGTERM or SIGINT; ends the process at the second.
///
/// # Errors
/// When the handlers cannot be installed.
#[expect(clippy::exit, clippy::disallowed_methods, reason = "a second signal means now: nothing may be waited for")]
pub async fn shutdown_on_signals(shutdown: CancellationToken) -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    for second in [false, true] {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        if second {
            tracing::warn!("second signal: exiting without finishing what is in work");
            std::process::exit(1);
        }
        tracing::info!("draining; a second signal exits at once");
        shutdown.cancel();
    }
    Ok(())
}

#[cfg(test)]
mod tests;
