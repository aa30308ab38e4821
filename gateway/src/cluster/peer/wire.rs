//! What both ends of a peer connection agree on, and what they share.
//!
//! ```text
//! POST /peer/call/<method>      body: the message                         at most MESSAGE_BYTES_MAX
//! POST /peer/upload/<method>    body: length of head (u32, big-endian), head, then bytes to the end of the stream
//!      x-holdfast-wait-ms: how long the sender waits
//! 200  body: the reply          422 refused by the handler, text    504 not done in time    others: refused before it, text
//! ```
//! Calls and uploads have a connection of their own each ([`Lane`]): on a slow link an upload's bytes wait in the buffers
//! of kernels and routers, and a heartbeat behind them would come too late to keep a leader in office.

use std::future::Future;
use std::time::Duration;

use http::StatusCode;
use hyper::rt::Executor;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Header: milliseconds that the sender waits.
pub(super) const WAIT: &str = "x-holdfast-wait-ms";
/// The handler's refusal.
pub(super) const REFUSED: StatusCode = StatusCode::UNPROCESSABLE_ENTITY;
/// The handler did not end in time; what it did is unknown.
pub(super) const LATE: StatusCode = StatusCode::GATEWAY_TIMEOUT;
/// Most bytes of the head of an upload.
pub const HEAD_BYTES_MAX: usize = 1 << 20;
/// Most bytes of a refusal's text.
pub(super) const TEXT_BYTES_MAX: usize = 4096;
/// Most characters of a method's name.
const METHOD_CHARS_MAX: usize = 64;

/// Messages at a time on one connection, in each direction.
pub(super) const STREAMS_MAX: u32 = 128;
/// Unread bytes of one message: enough for 10 Gbit/s at 1.6 ms of round trip.
pub(super) const STREAM_WINDOW_BYTES: u32 = 2 << 20;
/// Unread bytes of one connection.
pub(super) const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
pub(super) const FRAME_BYTES_MAX: u32 = 256 << 10;
pub(super) const HEADERS_BYTES_MAX: u32 = 8 << 10;
/// Pings, so that a silent peer is noticed. The answer may be late: a paused process comes back, and a long message may lie
/// before it; a host that is gone is noticed by the kernel after [`Lane::unacknowledged_max`].
pub(super) const PING_EVERY: Duration = Duration::from_secs(2);
pub(super) const PING_ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// Which kind of message a connection carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Lane {
    Calls,
    Uploads,
}

impl Lane {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Calls => "call",
            Self::Uploads => "upload",
        }
    }

    /// How long sent bytes may stay without the other kernel's acknowledgement.
    pub(super) fn unacknowledged_max(self) -> Duration {
        match self {
            Self::Calls => Duration::from_secs(3),
            Self::Uploads => Duration::from_secs(30),
        }
    }
}

pub(super) fn path(lane: Lane, method: &str) -> String {
    format!("/peer/{}/{method}", lane.word())
}

/// Lane and method that a path names.
pub(super) fn parse_path(path: &str) -> Option<(Lane, &str)> {
    let (word, method) = path.strip_prefix("/peer/")?.split_once('/')?;
    let lane = [Lane::Calls, Lane::Uploads].into_iter().find(|lane| lane.word() == word)?;
    is_method(method).then_some((lane, method))
}

pub(super) fn is_method(method: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=METHOD_CHARS_MAX).contains(&method.len()) && method.bytes().all(allowed)
}

/// Small messages leave at once, and a peer whose host is gone is given up.
pub(super) fn tune(stream: &TcpStream, unacknowledged_max: Duration) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
    }
    #[cfg(target_os = "linux")]
    {
        let ms = u32::try_from(unacknowledged_max.as_millis()).unwrap_or(u32::MAX);
        if let Err(error) = rustix::net::sockopt::set_tcp_user_timeout(stream, ms) {
            tracing::debug!(%error, "cannot set TCP_USER_TIMEOUT");
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = unacknowledged_max;
}

/// Runs the tasks of connections under their owner.
#[derive(Clone)]
pub(super) struct Tasks {
    pub(super) tracker: TaskTracker,
    pub(super) cut: CancellationToken,
}

impl<F> Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, task: F) {
        let cut = self.cut.clone();
        self.tracker.spawn(async move { cut.run_until_cancelled(task).await });
    }
}
