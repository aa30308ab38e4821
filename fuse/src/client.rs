//! The mount's side of a gateway: signed requests, sent again until they are answered or their deadline is over.
//!
//! ```text
//! repository  one bucket, as the file system wants it (the seam `remote`)
//!   ├ coordination  leases, locks, ranges of files: JSON over /_holdfast/v1
//!   ├ watch         the feed as server-sent events
//!   └ Client        the protocol of the mount, reads and uploads of S3
//!       ├ request, sign   what is asked: path, headers, body, signature version 4
//!       └ transport       the pool of connections
//! ```
//! **Gateways.** There may be several. One is asked until it cannot be reached, answers 5xx, or stays silent; then the next.
//!
//! **Again.** Everything here may be sent twice: reads change nothing, commits are numbered, parts replace themselves, a lock
//! is known again by its owner. So every request is repeated, with jitter, until its deadline; what is refused is not. Only
//! [`Client::create_upload`] may leave an empty upload behind when an answer is lost.
//!
//! **Outcome.** [`Error::Unavailable`] says that nobody knows whether it was done; [`Error::Unreachable`] that no gateway ever
//! got it. Both mean: again, later.
//!
//! **Payload.** Bodies up to [`SIGNED_BYTES_MAX`] are signed with their SHA-256. Larger ones are sent as `UNSIGNED-PAYLOAD`
//! where TLS protects them, or to this machine itself; over plain HTTP through a network they are always hashed, and
//! everywhere when [`Options::signs_all`] is set.
//!
//! **Bounds.** At most [`REQUESTS_MAX`] requests are under way, [`URGENT_MAX`] commits, locks and ranges, [`RENEWALS_MAX`]
//! renewals, and [`WAITS_MAX`] that wait for a lock: each kind has its own queue, so that a lease does not end behind reads
//! of much. The feed has its own connection. Answers are bounded by what was asked for.

mod coordination;
mod error;
mod repository;
mod request;
mod sign;
mod transport;
mod watch;

#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aws_credential_types::provider::{ProvideCredentials as _, SharedCredentialsProvider};
use bytes::Bytes;
use holdfast_core::command::Fence;
use holdfast_core::id::{BucketName, ObjectKey, Revision, UploadId};
use holdfast_core::mount::{Answer, Call, frame, unframe};
use http::{HeaderMap, Method, StatusCode, header};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use self::request::{Endpoint, Lane, Outgoing};
use self::sign::Keys;
use self::transport::{Payload, Reply, Transport};
use crate::remote::Told;

pub use self::coordination::LockWanted;
pub use self::error::Error;
pub use self::repository::Repository;

/// Where the gateway is unless `HOLDFAST_ENDPOINT` says otherwise.
pub const DEFAULT_ENDPOINT: &str = "http://127.0.0.1:9900";
/// Larger bodies are not hashed where that adds nothing.
pub const SIGNED_BYTES_MAX: usize = 256 << 10;
/// Requests that are under way at once; more wait for one to end.
pub const REQUESTS_MAX: usize = 64;
/// Commits, locks and ranges that are under way at once, in addition.
pub const URGENT_MAX: usize = 32;
/// Renewals of leases that are under way at once, in addition.
pub const RENEWALS_MAX: usize = 8;
/// Requests that wait for a lock at once.
pub const WAITS_MAX: usize = 512;
/// Most bytes of an answer that is not the bytes of a file.
pub const ANSWER_BYTES_MAX: usize = 64 << 20;

/// One attempt lasts at most so long, and what its bytes take at [`SLOWEST`].
const ATTEMPT: Duration = Duration::from_secs(35);
/// Bytes a second.
const SLOWEST: u64 = 1 << 20;
const PAUSE_MIN: Duration = Duration::from_millis(40);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// A read that a gateway fails with 500 is damaged rather than late: it is tried so often.
const FAILED_READS_MAX: usize = 3;

/// How to reach the gateways.
#[derive(Clone, Debug)]
pub struct Options {
    /// URLs, separated by commas.
    pub endpoints: String,
    /// Region of the signature.
    pub region: String,
    /// Whose signature.
    pub credentials: SharedCredentialsProvider,
    /// Hash bodies of any size.
    pub signs_all: bool,
}

impl Options {
    /// From `HOLDFAST_ENDPOINT`, `HOLDFAST_REGION` and the AWS credential chain.
    ///
    /// # Errors
    /// [`Error::Credentials`] when the chain has none.
    pub async fn from_environment() -> Result<Self, Error> {
        let set = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let chain = aws_config::load_defaults(aws_config::BehaviorVersion::latest()).await;
        let region = set("HOLDFAST_REGION").or_else(|| chain.region().map(ToString::to_string));
        let credentials = chain.credentials_provider().ok_or_else(|| Error::Credentials {
            source: "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE".into(),
        })?;
        // Found missing at once, not at the first request.
        credentials.provide_credentials().await.map_err(|error| Error::Credentials { source: error.into() })?;
        Ok(Self {
            endpoints: set("HOLDFAST_ENDPOINT").unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned()),
            region: region.unwrap_or_else(|| "us-east-1".to_owned()),
            credentials,
            signs_all: false,
        })
    }
}

/// A client of one repository's gateways. Clones share connections and everything else.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    endpoints: Vec<Endpoint>,
    /// Counts on when a gateway fails; modulo their number it is the one that is asked.
    preferred: AtomicUsize,
    keys: Keys,
    signs_all: bool,
    transport: Transport,
    rooms: Rooms,
}

/// How many requests of each kind may be under way.
struct Rooms {
    bulk: Semaphore,
    urgent: Semaphore,
    renewals: Semaphore,
    waits: Semaphore,
}

impl Rooms {
    fn new() -> Self {
        Self {
            bulk: Semaphore::new(REQUESTS_MAX),
            urgent: Semaphore::new(URGENT_MAX),
            renewals: Semaphore::new(RENEWALS_MAX),
            waits: Semaphore::new(WAITS_MAX),
        }
    }

    fn of(&self, ask: &Outgoing) -> &Semaphore {
        match ask.lane {
            _ if !ask.wait.is_zero() => &self.waits,
            Lane::Bulk => &self.bulk,
            Lane::Urgent => &self.urgent,
            Lane::Renewal => &self.renewals,
        }
    }
}

impl Client {
    /// A client; nothing is asked yet.
    ///
    /// # Errors
    /// [`Error::Setting`] when an endpoint is no URL, or the machine has no certificates for `https`.
    pub fn new(options: Options) -> Result<Self, Error> {
        let parts = options.endpoints.split(',').map(str::trim).filter(|part| !part.is_empty());
        let endpoints = parts.map(Endpoint::parse).collect::<Result<Vec<_>, _>>()?;
        if endpoints.is_empty() {
            return Err(Error::Setting { what: "HOLDFAST_ENDPOINT names no gateway".to_owned() });
        }
        let transport = Transport::new(endpoints.iter().any(Endpoint::is_secure))?;
        Ok(Self(Arc::new(Inner {
            endpoints,
            preferred: AtomicUsize::new(0),
            keys: Keys::new(options.credentials, options.region),
            signs_all: options.signs_all,
            transport,
            rooms: Rooms::new(),
        })))
    }

    /// The gateway that is asked at present, for messages.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        self.current().1.text()
    }

    /// Asks by the protocol of the mount.
    ///
    /// # Errors
    /// [`Error`]; [`Error::TooOld`] from a gateway that does not speak the protocol. A commit is done or not after
    /// [`Error::is_unknown`].
    pub async fn call(
        &self,
        bucket: &BucketName,
        call: &Call,
        raw: Bytes,
        fences: &[Fence],
        deadline: Instant,
    ) -> Result<Told, Error> {
        let longest = match call {
            Call::Read(read) => usize::try_from(read.length).unwrap_or(usize::MAX).saturating_add(1 << 20),
            Call::Open(_) | Call::Stat(_) | Call::List(_) | Call::Map(_) | Call::Commit(_) | Call::Usage => {
                ANSWER_BYTES_MAX
            }
        };
        let path = format!("/_holdfast/v1/mount/{bucket}");
        let mut ask = Outgoing::new(Method::POST, path).answer_bytes_max(longest.min(ANSWER_BYTES_MAX));
        ask.payload = Payload::new(frame(call, &[]).into(), raw);
        if matches!(call, Call::Open(_) | Call::Commit(_)) {
            ask.lane = Lane::Urgent;
        }
        ask.set(header::CONTENT_TYPE, "application/octet-stream")?;
        for fence in fences {
            ask.fence(fence)?;
        }
        let reply = self.send(&ask, deadline).await?;
        let revision = revision(&reply.headers).ok_or_else(|| self.form("an answer without x-holdfast-revision"))?;
        let (answer, raw) = unframe::<Answer>(&reply.body).map_err(|_| self.form("an answer that is no frame"))?;
        Ok(Told { answer, raw: reply.body.slice(raw..), revision })
    }

    /// Bytes of an object, of exactly the generation with this ETag; `range` is not empty, and within it.
    ///
    /// # Errors
    /// [`Error::Changed`] when the object has another by now, [`Error::NotFound`] when it is gone.
    pub async fn get_range(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        etag: &str,
        range: Range<u64>,
        deadline: Instant,
    ) -> Result<Bytes, Error> {
        let length = range.end.checked_sub(range.start).filter(|length| *length > 0);
        let length = length.and_then(|length| usize::try_from(length).ok());
        let length = length.ok_or_else(|| Error::Request { what: "the range is empty".to_owned() })?;
        let mut ask = Outgoing::object(Method::GET, bucket, key).answer_bytes_max(length);
        ask.set(header::RANGE, &format!("bytes={}-{}", range.start, range.end - 1))?;
        ask.set(header::IF_MATCH, &format!("\"{etag}\""))?;
        let reply = self.send(&ask, deadline).await?;
        let start = reply.headers.get(header::CONTENT_RANGE).and_then(|range| range.to_str().ok());
        let start = start.and_then(|range| range.strip_prefix("bytes ")?.split_once('-')?.0.parse::<u64>().ok());
        let whole = reply.status == StatusCode::OK && range.start == 0;
        if reply.body.len() != length || !whole && start != Some(range.start) {
            return Err(self.form("other bytes than the range that was asked for"));
        }
        Ok(reply.body)
    }

    /// Begins an upload whose parts commits may name.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn create_upload(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        deadline: Instant,
    ) -> Result<UploadId, Error> {
        let ask = Outgoing::object(Method::POST, bucket, key).query("uploads", "");
        let reply = self.send(&ask, deadline).await?;
        let id = error::element(&String::from_utf8_lossy(&reply.body), "UploadId").and_then(|id| id.parse().ok());
        id.ok_or_else(|| self.form("an upload without its id"))
    }

    /// Stores a part, in place of an older one of its number.
    ///
    /// # Errors
    /// [`Error`]; [`Error::is_staging_lost`] when the upload is gone.
    pub async fn upload_part(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        upload: UploadId,
        number: u16,
        bytes: Bytes,
        deadline: Instant,
    ) -> Result<(), Error> {
        let ask = Outgoing::object(Method::PUT, bucket, key);
        let mut ask = ask.query("partNumber", &number.to_string()).query("uploadId", &upload.to_string());
        ask.payload = Payload::new(Bytes::new(), bytes);
        self.send(&ask, deadline).await.map(drop)
    }

    /// Gives an upload up. One that is gone was given up.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn abort_upload(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        upload: UploadId,
        deadline: Instant,
    ) -> Result<(), Error> {
        let ask = Outgoing::object(Method::DELETE, bucket, key).query("uploadId", &upload.to_string());
        match self.send(&ask, deadline).await {
            Err(error) if error.is_staging_lost() => Ok(()),
            answered => answered.map(drop),
        }
    }

    /// Sends a request until it is answered, refused, or the deadline is over.
    async fn send(&self, ask: &Outgoing, deadline: Instant) -> Result<Reply, Error> {
        let mut trials = Trials::default();
        loop {
            let (preferred, endpoint) = self.current();
            let error = match self.attempt(ask, endpoint, deadline).await {
                Ok(reply) => return Ok(reply),
                Err(error) => error,
            };
            let (error, pause) = match trials.judge(error, ask, self.0.endpoints.len()) {
                Verdict::Final(error) => return Err(error),
                Verdict::NewKeys(error) => {
                    self.0.keys.forget().await;
                    (error, Duration::ZERO)
                }
                Verdict::Elsewhere(error, pause) => {
                    self.move_on(preferred);
                    (error, pause)
                }
            };
            if Instant::now() + pause >= deadline {
                return Err(trials.outcome(error));
            }
            tracing::debug!(%error, method = %ask.method, path = ask.path, ?pause, "a request is sent again");
            tokio::time::sleep(pause).await;
        }
    }

    async fn attempt(&self, ask: &Outgoing, endpoint: &Endpoint, deadline: Instant) -> Result<Reply, Error> {
        let bytes = (ask.payload.len() + ask.expects) as u64;
        let until = deadline.min(Instant::now() + ATTEMPT + ask.wait + Duration::from_secs(bytes / SLOWEST));
        let room = self.0.rooms.of(ask);
        let attempt = async {
            let _permit = room.acquire().await.map_err(|closed| endpoint.unreachable(closed))?;
            let request = self.signed(ask, endpoint).await?;
            self.0.transport.exchange(request, ask, endpoint).await
        };
        timeout_at(until, attempt).await.unwrap_or_else(|late| Err(endpoint.unavailable(None, late)))
    }

    async fn signed(&self, ask: &Outgoing, endpoint: &Endpoint) -> Result<http::Request<Payload>, Error> {
        let hash = if ask.payload.len() <= SIGNED_BYTES_MAX || self.0.signs_all || !endpoint.is_private() {
            Some(ask.payload.sha256().await)
        } else {
            None
        };
        self.0.keys.sign(endpoint.request(ask)?, hash).await
    }

    fn current(&self) -> (usize, &Endpoint) {
        let preferred = self.0.preferred.load(Ordering::Relaxed);
        let endpoints = &self.0.endpoints;
        (preferred, &endpoints[preferred % endpoints.len()])
    }

    /// The gateway that failed is not asked first any more; of many requests that it failed, one moves on.
    fn move_on(&self, from: usize) {
        let next = from.wrapping_add(1);
        let _ = self.0.preferred.compare_exchange(from, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn form(&self, what: &'static str) -> Error {
        Error::Form { endpoint: self.endpoint().to_owned(), what: what.to_owned() }
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("endpoints", &self.0.endpoints).finish_non_exhaustive()
    }
}

fn revision(headers: &HeaderMap) -> Option<Revision> {
    headers.get("x-holdfast-revision")?.to_str().ok()?.parse().ok()
}

/// What one request went through.
#[derive(Default)]
struct Trials {
    /// Gateways that did not answer, one after the other.
    unanswered: usize,
    too_old: usize,
    failed: usize,
    /// Whether some gateway may have got it.
    arrived: bool,
    new_keys: bool,
}

enum Verdict {
    Final(Error),
    NewKeys(Error),
    Elsewhere(Error, Duration),
}

impl Trials {
    fn judge(&mut self, error: Error, ask: &Outgoing, gateways: usize) -> Verdict {
        match error {
            Error::TooOld { .. } => {
                self.too_old += 1;
                let all = self.too_old >= gateways;
                if all { Verdict::Final(error) } else { Verdict::Elsewhere(error, Duration::ZERO) }
            }
            Error::Denied { ref code, .. } if error::is_of_keys(code) && !self.new_keys => {
                self.new_keys = true;
                Verdict::NewKeys(error)
            }
            error if error.is_unknown() => {
                self.arrived |= matches!(error, Error::Unavailable { .. });
                self.failed += usize::from(error.is_failure());
                if ask.method == Method::GET && self.failed >= FAILED_READS_MAX {
                    return Verdict::Final(error.given_up());
                }
                self.unanswered += 1;
                // The others at once; all of them again after a pause.
                let rounds = self.unanswered / gateways;
                let waits = self.unanswered.is_multiple_of(gateways);
                Verdict::Elsewhere(error, if waits { pause(rounds) } else { Duration::ZERO })
            }
            error => Verdict::Final(error),
        }
    }

    /// The last error, which must not say that nothing was done when something may have been.
    fn outcome(&self, error: Error) -> Error {
        match error {
            Error::Unreachable { endpoint, source } if self.arrived => {
                Error::Unavailable { endpoint, status: None, source }
            }
            error => error,
        }
    }
}

/// Twice as long after each round, with full jitter.
fn pause(rounds: usize) -> Duration {
    let doublings = u32::try_from(rounds.saturating_sub(1)).unwrap_or(u32::MAX).min(16);
    let longest = PAUSE_MIN.saturating_mul(1 << doublings).min(PAUSE_MAX);
    longest.mul_f64(rand::random_range(0.5..=1.0))
}
