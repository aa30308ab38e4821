//! Request bodies: hashed while they pass, verified before they end.
//!
//! ```text
//! s3s stream ──pull──▶ piece ──┬──▶ consumer (one piece behind)
//!                              └──▶ block of 512 KiB ──▶ two hashing lanes, off the reactor
//! ```
//!
//! Promises:
//! - The last piece is withheld until length, Content-MD5, `x-amz-content-sha256`, checksum and trailer have been verified. A
//!   consumer that sees the end of the stream has a complete, correct body; one that sees an error must drop what it wrote.
//! - A stream holds at most two blocks and a few pieces. What it holds past [`IDLE_FLUSH_BYTES`] counts against the one
//!   [`BodyBudget`] of the process; a slow client never holds budget, because a stream that waits hashes what it has.
//! - Bodies up to [`INLINE_HASH_BYTES`] are hashed where they are, bigger ones by at most one worker per core.
//!
//! Absent on purpose: signatures of chunks and trailers (s3s verifies them), and any limit on the object's size (s3s's
//! `put_object_max_size`).

use std::error::Error as StdErrorTrait;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{Bytes, BytesMut};
use futures::future::poll_immediate;
use futures::stream::{Stream, StreamExt as _, try_unfold};
use holdfast_core::rules::digest::value_bytes;
use http::{HeaderMap, Uri};
use s3s::dto::StreamingBlob;
use s3s::stream::aws_chunked_stream::AwsChunkedStreamError;
use s3s::stream::upload_stream::UploadStreamError;
use s3s::{BodySizeLimitExceeded, S3Error, S3ErrorCode, StdError, TrailingHeaders};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

pub use super::digest::{ALGORITHMS, CHECKSUM_BLOCK_BYTES, ChecksumAlgorithm, Digests};
use super::digest::{FastLane, SlowLane, algorithm_header, algorithm_name, algorithm_named, algorithm_of_header};

/// Bytes handed to the hashing lanes at once.
pub const HASH_BLOCK_BYTES: usize = 512 * 1024;
/// Up to this much is hashed on the reactor: a quarter of a millisecond.
pub const INLINE_HASH_BYTES: usize = 128 * 1024;
/// What a stream may hold outside the budget, and what it keeps unhashed while its client is silent.
pub const IDLE_FLUSH_BYTES: usize = 32 * 1024;
/// Pieces shorter than this are copied together, so that a client of tiny chunks cannot pin big buffers.
pub const SMALL_PIECE_BYTES: usize = 4 * 1024;
/// Pieces held at most, whatever their size.
pub const HELD_PIECES_MAX: usize = 128;
/// Bytes that all bodies together hold while they are hashed; past it streams wait.
pub const BODY_BUDGET_BYTES: usize = 128 << 20;
/// How long a stream waits for budget before the client is told to slow down.
pub const BODY_BUDGET_WAIT: Duration = Duration::from_secs(30);

const BUDGET_UNIT_BYTES: usize = 1024;

/// The client sent fewer bytes in the window than the floor demands; the gate's body wrapper raises it.
#[derive(Debug, thiserror::Error)]
#[error("the body came slower than {bytes_per_second} bytes per second")]
pub struct BodyTooSlow {
    /// The floor.
    pub bytes_per_second: u64,
}

/// Why a body is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BodyError {
    /// Content-MD5 is not the base64 of 16 bytes.
    #[error("the content-md5 header is not valid")]
    InvalidDigest,
    /// A checksum header's value has the wrong form.
    #[error("the value of the {0} header is not valid")]
    InvalidChecksum(&'static str),
    /// Headers about the body contradict each other.
    #[error("{0}")]
    InvalidRequest(&'static str),
    /// Fewer or more bytes came than declared.
    #[error("the body has {got} bytes where {expected} were declared")]
    Incomplete {
        /// Declared length.
        expected: u64,
        /// Bytes seen.
        got: u64,
    },
    /// The framing of the chunks is broken or ended early.
    #[error("the body's chunked framing is broken or incomplete")]
    Framing,
    /// A declared digest does not match.
    #[error("the {0} you specified did not match what was received")]
    BadDigest(&'static str),
    /// `x-amz-content-sha256` does not match.
    #[error("the x-amz-content-sha256 you specified did not match what was received")]
    Sha256Mismatch,
    /// A declared trailer is missing, or an undeclared checksum came.
    #[error("the trailer does not hold the checksum that x-amz-trailer declared")]
    MalformedTrailer,
    /// A chunk's or trailer's signature is wrong.
    #[error("the signature of a chunk or trailer does not match")]
    SignatureMismatch,
    /// A chunk or the body is larger than allowed.
    #[error("a chunk or the body is larger than allowed")]
    TooLarge,
    /// The client is below the floor.
    #[error("the body came too slowly")]
    TooSlow,
    /// No budget within [`BODY_BUDGET_WAIT`].
    #[error("too many bytes are in flight")]
    Busy,
    /// The connection ended.
    #[error("the connection ended before the body did")]
    Broken(#[source] StdError),
    /// The consumer dropped the stream before its end.
    #[error("the body was not read to its end")]
    Unread,
}

impl BodyError {
    /// The S3 error code and HTTP status.
    #[must_use]
    pub fn code(&self) -> (S3ErrorCode, http::StatusCode) {
        use http::StatusCode as Status;
        match self {
            Self::InvalidDigest => (S3ErrorCode::InvalidDigest, Status::BAD_REQUEST),
            Self::InvalidChecksum(_) | Self::InvalidRequest(_) => (S3ErrorCode::InvalidRequest, Status::BAD_REQUEST),
            Self::Incomplete { .. } | Self::Framing | Self::Broken(_) => {
                (S3ErrorCode::IncompleteBody, Status::BAD_REQUEST)
            }
            Self::BadDigest(_) => (S3ErrorCode::BadDigest, Status::BAD_REQUEST),
            Self::Sha256Mismatch => (S3ErrorCode::Custom("XAmzContentSHA256Mismatch".into()), Status::BAD_REQUEST),
            Self::MalformedTrailer => (S3ErrorCode::Custom("MalformedTrailerError".into()), Status::BAD_REQUEST),
            Self::SignatureMismatch => (S3ErrorCode::SignatureDoesNotMatch, Status::FORBIDDEN),
            Self::TooLarge => (S3ErrorCode::EntityTooLarge, Status::BAD_REQUEST),
            Self::TooSlow => (S3ErrorCode::RequestTimeout, Status::REQUEST_TIMEOUT),
            Self::Busy => (S3ErrorCode::SlowDown, Status::SERVICE_UNAVAILABLE),
            Self::Unread => (S3ErrorCode::InternalError, Status::INTERNAL_SERVER_ERROR),
        }
    }

    /// What an error of the body's source means: the deepest error that we know decides.
    fn from_source(error: StdError) -> Self {
        let mut found = None;
        let mut link: Option<&(dyn StdErrorTrait + 'static)> = Some(error.as_ref());
        while let Some(cause) = link {
            found = known_cause(cause).or(found);
            link = cause.source();
        }
        found.unwrap_or(Self::Broken(error))
    }
}

fn known_cause(cause: &(dyn StdErrorTrait + 'static)) -> Option<BodyError> {
    if cause.is::<BodyTooSlow>() {
        return Some(BodyError::TooSlow);
    }
    if cause.is::<BodySizeLimitExceeded>() {
        return Some(BodyError::TooLarge);
    }
    if let Some(chunked) = cause.downcast_ref::<AwsChunkedStreamError>() {
        return match chunked {
            AwsChunkedStreamError::Underlying(_) => None,
            AwsChunkedStreamError::SignatureMismatch => Some(BodyError::SignatureMismatch),
            AwsChunkedStreamError::ChunkMetaTooLarge(..) | AwsChunkedStreamError::ChunkDataTooLarge(..) => {
                Some(BodyError::TooLarge)
            }
            AwsChunkedStreamError::FormatError
            | AwsChunkedStreamError::Incomplete
            | AwsChunkedStreamError::LengthMismatch
            | AwsChunkedStreamError::TrailersTooLarge(..)
            | AwsChunkedStreamError::TooManyTrailerHeaders(..) => Some(BodyError::Framing),
        };
    }
    match cause.downcast_ref::<UploadStreamError>()? {
        UploadStreamError::Underlying(_) => None,
        UploadStreamError::Sha256Mismatch => Some(BodyError::Sha256Mismatch),
        UploadStreamError::LengthMismatch | UploadStreamError::Incomplete => Some(BodyError::Framing),
    }
}

impl From<BodyError> for S3Error {
    fn from(error: BodyError) -> Self {
        let (code, status) = error.code();
        let mut out = S3Error::with_message(code, error.to_string());
        out.set_status_code(status);
        out.set_source(Box::new(error));
        out
    }
}

impl From<BodyError> for std::io::Error {
    fn from(error: BodyError) -> Self {
        Self::new(std::io::ErrorKind::InvalidData, error)
    }
}

/// The checksum that the client chose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeclaredChecksum {
    /// Its value came in a header.
    Value(ChecksumAlgorithm, Vec<u8>),
    /// Its value comes in the trailer.
    Trailer(ChecksumAlgorithm),
    /// Only the algorithm is named (by the multipart upload the part belongs to): compute it.
    Compute(ChecksumAlgorithm),
}

impl DeclaredChecksum {
    /// The algorithm.
    #[must_use]
    pub fn algorithm(&self) -> ChecksumAlgorithm {
        match self {
            Self::Value(algorithm, _) | Self::Trailer(algorithm) | Self::Compute(algorithm) => *algorithm,
        }
    }
}

/// What a request promises about its body.
#[derive(Clone, Debug, Default)]
pub struct Expectation {
    /// Decoded length; `None` when unknown.
    pub length: Option<u64>,
    /// Content-MD5.
    pub md5: Option<[u8; 16]>,
    /// `x-amz-content-sha256` where it is a hash.
    pub sha256: Option<[u8; 32]>,
    /// The chosen checksum.
    pub checksum: Option<DeclaredChecksum>,
    /// s3s's handle to the trailer, filled when the stream ends.
    pub trailers: Option<TrailingHeaders>,
}

impl Expectation {
    /// Reads the promises from a request as s3s hands it over (`S3Request`'s `headers`, `uri` and `trailing_headers`).
    ///
    /// Checksums that a presigned URL carries in its query count like headers.
    ///
    /// # Errors
    /// [`BodyError::InvalidDigest`], [`BodyError::InvalidChecksum`] or [`BodyError::InvalidRequest`] when a header is malformed
    /// or two of them contradict.
    pub fn from_request(headers: &HeaderMap, uri: &Uri, trailers: Option<TrailingHeaders>) -> Result<Self, BodyError> {
        let content_sha256 = header_text(headers, "x-amz-content-sha256");
        let streaming = content_sha256.is_some_and(|value| value.starts_with("STREAMING-"));
        let length_header = if streaming { "x-amz-decoded-content-length" } else { "content-length" };
        let length = match header_text(headers, length_header) {
            Some(text) => Some(text.parse().map_err(|_| BodyError::InvalidRequest("a length header is not a number"))?),
            None => None,
        };
        Ok(Self {
            length,
            md5: content_md5(headers)?,
            sha256: content_sha256.and_then(|value| hex::decode(value).ok()).and_then(|bytes| bytes.try_into().ok()),
            checksum: declared_checksum(headers, uri)?,
            trailers,
        })
    }

    /// Asks for `algorithm` where the request itself names no checksum.
    #[must_use]
    pub fn or_compute(mut self, algorithm: Option<ChecksumAlgorithm>) -> Self {
        self.checksum = self.checksum.or(algorithm.map(DeclaredChecksum::Compute));
        self
    }

    /// Compares what came with what was promised.
    pub(crate) fn verify(&self, digests: &Digests) -> Result<(), BodyError> {
        if let Some(expected) = self.length
            && expected != digests.length
        {
            return Err(BodyError::Incomplete { expected, got: digests.length });
        }
        if self.sha256.is_some_and(|sha256| sha256 != digests.sha256) {
            return Err(BodyError::Sha256Mismatch);
        }
        if self.md5.is_some_and(|md5| md5 != digests.md5) {
            return Err(BodyError::BadDigest("Content-MD5"));
        }
        self.verify_checksum(digests)
    }

    fn verify_checksum(&self, digests: &Digests) -> Result<(), BodyError> {
        let declared_trailer = match &self.checksum {
            Some(DeclaredChecksum::Trailer(algorithm)) => Some(*algorithm),
            _ => None,
        };
        let trailer = self.trailer_checksum(declared_trailer)?;
        let expected = match &self.checksum {
            Some(DeclaredChecksum::Value(algorithm, value)) => Some((*algorithm, value.clone())),
            Some(DeclaredChecksum::Trailer(algorithm)) => {
                Some((*algorithm, trailer.ok_or(BodyError::MalformedTrailer)?))
            }
            Some(DeclaredChecksum::Compute(_)) | None => None,
        };
        match expected {
            Some(expected) if digests.checksum.as_ref() != Some(&expected) => {
                Err(BodyError::BadDigest(algorithm_name(expected.0)))
            }
            _ => Ok(()),
        }
    }

    fn trailer_checksum(&self, declared: Option<ChecksumAlgorithm>) -> Result<Option<Vec<u8>>, BodyError> {
        let Some(trailers) = self.trailers.as_ref().and_then(|handle| handle.read(HeaderMap::clone)) else {
            return Ok(None);
        };
        let mut value = None;
        for (name, text) in &trailers {
            let Some(algorithm) = algorithm_of_header(name.as_str()) else { continue };
            if Some(algorithm) != declared || value.is_some() {
                return Err(BodyError::MalformedTrailer);
            }
            value = Some(checksum_value(algorithm, text.as_bytes())?);
        }
        Ok(value)
    }
}

fn header_text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim)
}

fn content_md5(headers: &HeaderMap) -> Result<Option<[u8; 16]>, BodyError> {
    let Some(text) = headers.get("content-md5") else { return Ok(None) };
    let bytes = BASE64.decode(text.as_bytes()).map_err(|_| BodyError::InvalidDigest)?;
    bytes.try_into().map(Some).map_err(|_| BodyError::InvalidDigest)
}

fn checksum_value(algorithm: ChecksumAlgorithm, text: &[u8]) -> Result<Vec<u8>, BodyError> {
    let value = BASE64.decode(text).map_err(|_| BodyError::InvalidChecksum(algorithm_header(algorithm)))?;
    if value.len() == value_bytes(algorithm) {
        Ok(value)
    } else {
        Err(BodyError::InvalidChecksum(algorithm_header(algorithm)))
    }
}

fn declared_checksum(headers: &HeaderMap, uri: &Uri) -> Result<Option<DeclaredChecksum>, BodyError> {
    let mut found = Vec::new();
    for algorithm in ALGORITHMS {
        for value in headers.get_all(algorithm_header(algorithm)) {
            found.push(DeclaredChecksum::Value(algorithm, checksum_value(algorithm, value.as_bytes())?));
        }
    }
    for (name, value) in url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()) {
        if let Some(algorithm) = algorithm_of_header(&name) {
            found.push(DeclaredChecksum::Value(algorithm, checksum_value(algorithm, value.as_bytes())?));
        }
    }
    found.extend(declared_trailer(headers)?);
    if found.len() > 1 {
        return Err(BodyError::InvalidRequest(
            "expecting a single x-amz-checksum- header; multiple checksum types are not allowed",
        ));
    }
    let found = found.pop();
    check_sdk_algorithm(headers, found.as_ref())?;
    Ok(found)
}

fn declared_trailer(headers: &HeaderMap) -> Result<Option<DeclaredChecksum>, BodyError> {
    let Some(names) = header_text(headers, "x-amz-trailer") else { return Ok(None) };
    let mut names = names.split(',').map(str::trim).filter(|name| !name.is_empty());
    let unsupported = BodyError::InvalidRequest("the value specified in the x-amz-trailer header is not supported");
    let Some(algorithm) = names.next().and_then(algorithm_of_header) else { return Err(unsupported) };
    if names.next().is_some() { Err(unsupported) } else { Ok(Some(DeclaredChecksum::Trailer(algorithm))) }
}

fn check_sdk_algorithm(headers: &HeaderMap, found: Option<&DeclaredChecksum>) -> Result<(), BodyError> {
    let Some(name) = header_text(headers, "x-amz-sdk-checksum-algorithm") else { return Ok(()) };
    let Some(algorithm) = algorithm_named(name) else {
        return Err(BodyError::InvalidChecksum("x-amz-sdk-checksum-algorithm"));
    };
    match found {
        Some(declared) if declared.algorithm() == algorithm => Ok(()),
        Some(_) => Err(BodyError::InvalidChecksum("x-amz-sdk-checksum-algorithm")),
        None => Err(BodyError::InvalidRequest(
            "x-amz-sdk-checksum-algorithm specified, but no corresponding x-amz-checksum-* or x-amz-trailer headers were found",
        )),
    }
}

/// The bytes that all bodies together may hold.
#[derive(Clone, Debug)]
pub struct BodyBudget {
    units: Arc<Semaphore>,
    capacity_units: usize,
    wait: Duration,
}

/// Budget held until it is dropped.
#[derive(Debug)]
pub struct Reservation(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

impl Default for BodyBudget {
    fn default() -> Self {
        Self::new(BODY_BUDGET_BYTES)
    }
}

impl BodyBudget {
    /// A budget of `bytes`.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        let capacity_units = (bytes / BUDGET_UNIT_BYTES).clamp(1, Semaphore::MAX_PERMITS);
        Self { units: Arc::new(Semaphore::new(capacity_units)), capacity_units, wait: BODY_BUDGET_WAIT }
    }

    /// Waits until `bytes` are free and holds them. More than the whole budget counts as the whole.
    ///
    /// Whoever fills a buffer of known size reserves all of it first: taking it bit by bit could leave everyone waiting.
    ///
    /// # Errors
    /// [`BodyError::Busy`] after [`BODY_BUDGET_WAIT`].
    pub async fn reserve(&self, bytes: usize) -> Result<Reservation, BodyError> {
        let units = bytes.div_ceil(BUDGET_UNIT_BYTES).min(self.capacity_units);
        let units = u32::try_from(units).map_err(|_| BodyError::TooLarge)?;
        let waiting = Arc::clone(&self.units).acquire_many_owned(units);
        match tokio::time::timeout(self.wait, waiting).await {
            Ok(Ok(permit)) => Ok(Reservation(permit)),
            Ok(Err(_)) | Err(_) => Err(BodyError::Busy),
        }
    }

    /// Bytes free now.
    #[must_use]
    pub fn free_bytes(&self) -> usize {
        self.units.available_permits() * BUDGET_UNIT_BYTES
    }
}

/// Workers that hash at the same time: one per core, however many bodies come in.
static HASHERS: LazyLock<Semaphore> =
    LazyLock::new(|| Semaphore::new(std::thread::available_parallelism().map_or(2, std::num::NonZero::get).max(2)));

/// Pieces on their way through the lanes; their budget comes back when the last lane drops them.
struct Block {
    pieces: Vec<Bytes>,
    #[expect(dead_code, reason = "held for its drop")]
    reservations: Vec<Reservation>,
}

type LanePair = (SlowLane, FastLane);
type Hashing = Pin<Box<dyn Future<Output = Option<LanePair>> + Send + Sync>>;

enum Lanes {
    Idle(Box<LanePair>),
    Busy(Hashing),
    Gone,
}

async fn off_reactor<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let _permit = HASHERS.acquire().await.ok()?;
    tokio::task::spawn_blocking(work).await.ok()
}

impl Lanes {
    /// Waits for the block in work, if any. Cancel safe: the work is kept here, not in this future.
    async fn settle(&mut self) -> Result<&mut LanePair, BodyError> {
        if let Self::Busy(hashing) = self {
            *self = hashing.await.map_or(Self::Gone, |pair| Self::Idle(Box::new(pair)));
        }
        match self {
            Self::Idle(pair) => Ok(pair),
            Self::Busy(_) | Self::Gone => Err(BodyError::Unread),
        }
    }

    /// Hashes a block: here when it is small, else in the background while the caller reads on.
    async fn feed(&mut self, block: Block, bytes: usize) -> Result<(), BodyError> {
        let (slow, fast) = self.settle().await?;
        if bytes <= INLINE_HASH_BYTES {
            slow.update_all(&block.pieces);
            fast.update_all(&block.pieces);
            return Ok(());
        }
        let Self::Idle(pair) = std::mem::replace(self, Self::Gone) else { return Err(BodyError::Unread) };
        let (mut slow, mut fast) = *pair;
        let block = Arc::new(block);
        let shared = Arc::clone(&block);
        let mut hashing: Hashing = Box::pin(async move {
            let slow = off_reactor(move || {
                slow.update_all(&shared.pieces);
                slow
            });
            let fast = off_reactor(move || {
                fast.update_all(&block.pieces);
                fast
            });
            let (slow, fast) = tokio::join!(slow, fast);
            Some((slow?, fast?))
        });
        // One poll starts the workers; nothing else would until the next block.
        *self = match poll_immediate(&mut hashing).await {
            Some(pair) => Self::Idle(Box::new(pair.ok_or(BodyError::Unread)?)),
            None => Self::Busy(hashing),
        };
        Ok(())
    }
}

/// A body that is hashed and verified while it is read.
pub struct HashedBody {
    source: StreamingBlob,
    expect: Expectation,
    budget: BodyBudget,
    lanes: Lanes,
    /// Seen, not yet given to the lanes.
    pieces: Vec<Bytes>,
    pieces_bytes: usize,
    reservations: Vec<Reservation>,
    reserved_bytes: usize,
    /// Copied together from tiny pieces.
    small: BytesMut,
    /// Came while `small` had to go first.
    stashed: Option<Bytes>,
    /// Given to the lanes or about to be, not yet to the consumer.
    withheld: Option<Bytes>,
    seen_bytes: u64,
    digests: Option<Digests>,
    ended: bool,
}

impl HashedBody {
    /// Wraps a body.
    #[must_use]
    pub fn new(source: StreamingBlob, expect: Expectation, budget: BodyBudget) -> Self {
        let fast = FastLane::new(expect.checksum.as_ref().map(DeclaredChecksum::algorithm));
        Self {
            source,
            expect,
            budget,
            lanes: Lanes::Idle(Box::new((SlowLane::default(), fast))),
            pieces: Vec::new(),
            pieces_bytes: 0,
            reservations: Vec::new(),
            reserved_bytes: 0,
            small: BytesMut::new(),
            stashed: None,
            withheld: None,
            seen_bytes: 0,
            digests: None,
            ended: false,
        }
    }

    /// Declared length of the body.
    #[must_use]
    pub fn length(&self) -> Option<u64> {
        self.expect.length
    }

    /// The next piece, or `None` at the verified end.
    ///
    /// # Errors
    /// Any [`BodyError`]; what was read before is then worthless.
    ///
    /// # Cancel safety
    /// Not cancel safe: a dropped call may lose a piece, which the final verification would then report.
    pub async fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        while !self.ended {
            match self.pull().await? {
                Some(piece) => {
                    self.admit(piece.clone()).await?;
                    if let Some(ready) = self.withheld.replace(piece) {
                        return Ok(Some(ready));
                    }
                }
                None => self.finish().await?,
            }
        }
        Ok(self.withheld.take())
    }

    /// The digests, after [`next`](Self::next) returned `None`.
    ///
    /// # Errors
    /// [`BodyError::Unread`] before that.
    pub fn into_digests(self) -> Result<Digests, BodyError> {
        self.digests.ok_or(BodyError::Unread)
    }

    /// Reads a small body into one buffer.
    ///
    /// # Errors
    /// [`BodyError::TooLarge`] past `limit` bytes, or any other.
    pub async fn collect(mut self, limit: usize) -> Result<(Bytes, Digests), BodyError> {
        let Some(first) = self.next().await? else { return Ok((Bytes::new(), self.into_digests()?)) };
        let declared = self.expect.length.and_then(|length| usize::try_from(length).ok()).unwrap_or(0);
        let Some(second) = self.next().await? else {
            return if first.len() > limit { Err(BodyError::TooLarge) } else { Ok((first, self.into_digests()?)) };
        };
        let mut whole = BytesMut::with_capacity(declared.min(limit));
        for piece in [first, second] {
            whole.extend_from_slice(&piece);
        }
        while let Some(piece) = self.next().await? {
            if whole.len() + piece.len() > limit {
                return Err(BodyError::TooLarge);
            }
            whole.extend_from_slice(&piece);
        }
        if whole.len() > limit { Err(BodyError::TooLarge) } else { Ok((whole.freeze(), self.into_digests()?)) }
    }

    /// Splits into the bytes, for whoever stores them, and the digests, which are ready once the stream has ended well.
    pub fn split(self) -> (impl Stream<Item = Result<Bytes, BodyError>> + Send + Sync + 'static, PendingDigests) {
        let (sender, receiver) = oneshot::channel();
        let stream = try_unfold((self, Some(sender)), |(mut body, mut sender)| async move {
            let piece = body.next().await?;
            if let (Some(digests), Some(sender)) = (body.digests.clone(), sender.take_if(|_| body.ended)) {
                // A receiver that is gone no longer wants them.
                let _ = sender.send(digests);
            }
            Ok(piece.map(|piece| (piece, (body, sender))))
        });
        (stream, PendingDigests(receiver))
    }

    /// The next piece of the source, tiny ones copied together. While the client is silent, nothing big stays unhashed.
    async fn pull(&mut self) -> Result<Option<Bytes>, BodyError> {
        if let Some(stashed) = self.stashed.take() {
            return Ok(Some(stashed));
        }
        loop {
            let item = match poll_immediate(self.source.next()).await {
                Some(item) => item,
                None if !self.small.is_empty() => return Ok(Some(self.small.split().freeze())),
                None => self.wait().await?,
            };
            match item {
                Some(Ok(bytes)) if bytes.is_empty() => {}
                Some(Ok(bytes)) if bytes.len() < SMALL_PIECE_BYTES => {
                    self.small.extend_from_slice(&bytes);
                    if self.small.len() >= SMALL_PIECE_BYTES {
                        return Ok(Some(self.small.split().freeze()));
                    }
                }
                Some(Ok(bytes)) if self.small.is_empty() => return Ok(Some(bytes)),
                Some(Ok(bytes)) => {
                    self.stashed = Some(bytes);
                    return Ok(Some(self.small.split().freeze()));
                }
                Some(Err(error)) => return Err(BodyError::from_source(error)),
                None if self.small.is_empty() => return Ok(None),
                None => return Ok(Some(self.small.split().freeze())),
            }
        }
    }

    /// Waits for a silent client; hands what is held to the lanes as soon as they are free.
    async fn wait(&mut self) -> Result<Option<Result<Bytes, StdError>>, BodyError> {
        loop {
            if self.pieces_bytes < IDLE_FLUSH_BYTES && self.pieces.len() < HELD_PIECES_MAX {
                return Ok(self.source.next().await);
            }
            tokio::select! {
                biased;
                item = self.source.next() => return Ok(item),
                settled = self.lanes.settle() => { settled?; }
            }
            self.flush().await?;
        }
    }

    async fn admit(&mut self, piece: Bytes) -> Result<(), BodyError> {
        self.seen_bytes += piece.len() as u64;
        if let Some(expected) = self.expect.length
            && self.seen_bytes > expected
        {
            return Err(BodyError::Incomplete { expected, got: self.seen_bytes });
        }
        self.pieces_bytes += piece.len();
        self.pieces.push(piece);
        let owed = self.pieces_bytes.saturating_sub(IDLE_FLUSH_BYTES + self.reserved_bytes);
        if owed > 0 {
            self.reservations.push(self.budget.reserve(owed).await?);
            self.reserved_bytes += owed;
        }
        if self.pieces_bytes >= HASH_BLOCK_BYTES || self.pieces.len() >= HELD_PIECES_MAX {
            self.flush().await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), BodyError> {
        let bytes = std::mem::take(&mut self.pieces_bytes);
        self.reserved_bytes = 0;
        let pieces = std::mem::take(&mut self.pieces);
        let block = Block { pieces, reservations: std::mem::take(&mut self.reservations) };
        self.lanes.feed(block, bytes).await
    }

    async fn finish(&mut self) -> Result<(), BodyError> {
        self.flush().await?;
        self.lanes.settle().await?;
        let Lanes::Idle(pair) = std::mem::replace(&mut self.lanes, Lanes::Gone) else { return Err(BodyError::Unread) };
        let (slow, fast) = *pair;
        let digests = fast.finish(slow);
        self.expect.verify(&digests)?;
        self.digests = Some(digests);
        self.ended = true;
        Ok(())
    }
}

/// The digests of a body that someone else is reading.
pub struct PendingDigests(oneshot::Receiver<Digests>);

impl PendingDigests {
    /// Waits for the verified end.
    ///
    /// # Errors
    /// [`BodyError::Unread`] when the stream failed or was dropped before its end; its reader has the reason.
    pub async fn wait(self) -> Result<Digests, BodyError> {
        self.0.await.map_err(|_| BodyError::Unread)
    }
}

#[cfg(test)]
mod tests;
