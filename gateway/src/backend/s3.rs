//! Any S3 store, through the AWS SDK.
//!
//! - Bodies stream with bounded memory: up to [`Settings::single_put_bytes_max`] a blob is buffered and sent as one PUT, above
//!   that as parts of which a few are in flight. What is buffered can be sent again, so retries need nothing from the caller.
//! - Retries live here and only here ([`call`]); the SDK's own are off. So are its stalled-stream checks and its default
//!   checksums, which older stores refuse; blobs are verified by block where they are read.
//! - Every put carries a mark of its own as user metadata. When a reply is lost, a HEAD that finds the mark proves that the put
//!   took place, and one that finds another mark proves that somebody else's did. Without either the outcome is reported as
//!   unknown ([`put`]).
//! - A get whose bytes stop early ends with an error. It is not resumed: the reader above decides what to do.
//!
//! Absent: creating buckets, versioned buckets (their old versions are never cleaned up), and listing foreign objects.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::{RequestChecksumCalculation, ResponseChecksumValidation, StalledStreamProtectionConfig};
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use bytes::Bytes;
use futures::{Stream, stream};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::body::{Body, exact};
use super::url::{Credentials, S3Url};
use super::{
    Backend, Capabilities, DeleteOptions, ETag, Entry, Error, Fetched, GetOptions, Head, HeadOptions, JoinOptions,
    JoinSource, ListOptions, ObjectPath, Page, Probe, ProbeOptions, PutOptions, Result, Stored, SweepOptions, Swept,
    check_limit, within,
};

mod call;
mod join;
mod payload;
mod put;
mod sweep;

/// Most parts an upload can have.
const PARTS_MAX: u64 = 10_000;
/// Smallest part that is not the last.
const PART_BYTES_MIN: u64 = 5 * MIB;
/// Largest part that is buffered here; the longest blob that can be put is this times [`PARTS_MAX`].
const PART_BYTES_MAX: u64 = 64 * MIB;
const MIB: u64 = 1024 * 1024;
/// Granularity of the buffer budget.
const BUFFER_UNIT_BYTES: u64 = 64 * 1024;

/// Numbers that govern an S3 store. The defaults suit a store in the same data centre as well as one far away.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Longest wait for a connection.
    pub connect_timeout: Duration,
    /// Longest wait for the reply to one attempt of a call without a large body.
    pub attempt_timeout: Duration,
    /// Longest time for all attempts of such a call.
    pub total_timeout: Duration,
    /// Longest time without a byte moved, up or down, in a call with a large body.
    pub stall_timeout: Duration,
    /// Attempts in all, the first one included.
    pub tries: u32,
    /// Upper limit of the pause before the second attempt; doubles with each further one.
    pub pause_min: Duration,
    /// Upper limit of any pause.
    pub pause_max: Duration,
    /// Longest blob of known length that is sent as one PUT.
    pub single_put_bytes_max: u64,
    /// Bytes of a part, unless the blob is so long that parts must be larger.
    pub part_bytes: u64,
    /// Parts of one upload that are in flight at once.
    pub parts_in_flight: usize,
    /// Bytes that all puts together may buffer; further puts wait.
    pub buffer_bytes: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            connect_timeout: Duration::from_secs(3),
            attempt_timeout: Duration::from_secs(20),
            total_timeout: Duration::from_secs(60),
            stall_timeout: Duration::from_secs(20),
            tries: 3,
            pause_min: Duration::from_millis(100),
            pause_max: Duration::from_secs(5),
            single_put_bytes_max: 16 * MIB,
            part_bytes: 8 * MIB,
            parts_in_flight: 4,
            buffer_bytes: 256 * MIB,
        }
    }
}

/// A bucket, or a part of one, in an S3 store.
#[derive(Debug)]
pub struct S3 {
    bucket: Arc<Bucket>,
}

/// What all calls share, also those that outlive the caller's interest.
#[derive(Debug)]
struct Bucket {
    client: Client,
    bucket: String,
    /// Empty, or ends with a slash.
    prefix: String,
    name: String,
    settings: Settings,
    buffers: Arc<Semaphore>,
    /// Aborts of uploads whose put was dropped.
    tracker: TaskTracker,
}

impl S3 {
    /// Prepares a client. Sends nothing yet, except what the AWS credential chain needs.
    pub async fn open(url: &S3Url, credentials: Credentials, settings: Settings) -> Result<Self> {
        let region = Region::new(url.region.clone());
        let mut loader = aws_config::defaults(BehaviorVersion::latest()).region(region);
        if let Credentials::Fixed { access_key_id, secret_access_key } = credentials {
            let secret = secret_access_key.as_str();
            loader = loader.credentials_provider(aws_sdk_s3::config::Credentials::new(
                access_key_id,
                secret,
                None,
                None,
                "holdfast",
            ));
        }
        let mut config = aws_sdk_s3::config::Builder::from(&loader.load().await)
            .force_path_style(url.path_style)
            .retry_config(RetryConfig::disabled())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .timeout_config(TimeoutConfig::builder().connect_timeout(settings.connect_timeout).build());
        if let Some(endpoint) = &url.endpoint {
            config = config.endpoint_url(endpoint);
        }
        let prefix = if url.prefix.is_empty() { String::new() } else { format!("{}/", url.prefix) };
        let units = settings.buffer_bytes / BUFFER_UNIT_BYTES;
        let bucket = Bucket {
            client: Client::from_conf(config.build()),
            bucket: url.bucket.clone(),
            prefix,
            name: url.to_string(),
            buffers: Arc::new(Semaphore::new(usize::try_from(units).unwrap_or(Semaphore::MAX_PERMITS))),
            settings,
            tracker: TaskTracker::new(),
        };
        Ok(S3 { bucket: Arc::new(bucket) })
    }
}

impl Bucket {
    fn key(&self, path: &ObjectPath) -> String {
        format!("{}{path}", self.prefix)
    }

    async fn head(&self, path: &ObjectPath, deadline: Option<Instant>) -> Result<Head> {
        let key = self.key(path);
        let send = || self.client.head_object().bucket(&self.bucket).key(&key).send();
        let output = self.small_call("head", path, deadline, send).await.map_err(|failure| failure.error)?;
        Ok(Head {
            length: length_of("head", path, output.content_length())?,
            etag: etag_of("head", path, output.e_tag())?,
            last_modified: time_of(output.last_modified()),
        })
    }

    async fn get(&self, path: &ObjectPath, options: GetOptions) -> Result<Fetched> {
        if options.range.as_ref().is_some_and(|range| range.start >= range.end) {
            return self.get_nothing(path, options).await;
        }
        let key = self.key(path);
        // HTTP counts the last byte in.
        let range = options.range.as_ref().map(|range| format!("bytes={}-{}", range.start, range.end - 1));
        let send = || self.client.get_object().bucket(&self.bucket).key(&key).set_range(range.clone()).send();
        let output =
            self.small_call("get", path, options.deadline, send).await.map_err(|failure| match &options.range {
                Some(range) if failure.status == Some(416) => outside(path, range),
                _ => failure.error,
            })?;
        let (length, head) = opened(path, options.range.as_ref(), &output)?;
        let pieces = pieces(path, output.body, self.settings.stall_timeout, options.deadline);
        Ok(Fetched { length, head, stream: exact(path, length, pieces) })
    }

    /// HTTP has no empty range, so only the blob's existence and length are looked up.
    async fn get_nothing(&self, path: &ObjectPath, options: GetOptions) -> Result<Fetched> {
        let head = self.head(path, options.deadline).await?;
        super::covered(path, options.range.as_ref(), head.length)?;
        Ok(Fetched { length: 0, head, stream: exact(path, 0, stream::empty()) })
    }

    async fn delete(&self, path: &ObjectPath, deadline: Option<Instant>) -> Result<()> {
        let key = self.key(path);
        let send = || self.client.delete_object().bucket(&self.bucket).key(&key).send();
        match self.small_call("delete", path, deadline, send).await.map_err(|failure| failure.error) {
            Ok(_) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn list(&self, options: ListOptions) -> Result<Page> {
        check_limit(options.limit)?;
        let prefix = format!("{}{}", self.prefix, options.prefix);
        let mut after = options.start_after.as_ref().map(|after| self.key(after));
        loop {
            // A page has at most a thousand keys.
            let limit = options.limit as i32;
            let send = || {
                let request = self.client.list_objects_v2().bucket(&self.bucket).prefix(&prefix).max_keys(limit);
                request.set_start_after(after.clone()).send()
            };
            let output =
                self.small_call("list", &prefix, options.deadline, send).await.map_err(|failure| failure.error)?;
            let entries: Vec<Entry> = output.contents().iter().filter_map(|object| self.entry(object)).collect();
            // MinIO sometimes calls a full page the last one when the next key lies in another directory.
            let is_cut = output.is_truncated() == Some(true) || output.contents().len() >= options.limit;
            let next = is_cut.then(|| entries.last().map(|entry| entry.path.clone())).flatten();
            if next.is_some() || !is_cut {
                return Ok(Page { entries, next });
            }
            // A whole page of keys that are no names of ours: go on behind it.
            match output.contents().last().and_then(|object| object.key()) {
                Some(last) => after = Some(last.to_owned()),
                None => return Err(Error::unavailable("list", &prefix, "an empty page claims that there is more")),
            }
        }
    }

    /// `None` for a key that is no valid name: somebody else put it there.
    fn entry(&self, object: &aws_sdk_s3::types::Object) -> Option<Entry> {
        let path = ObjectPath::new(object.key()?.strip_prefix(&self.prefix)?).ok()?;
        let length = u64::try_from(object.size()?).ok()?;
        Some(Entry { path, length, last_modified: time_of(object.last_modified()) })
    }

    async fn probe(&self, deadline: Option<Instant>) -> Result<Probe> {
        let started = Instant::now();
        let send = || self.client.list_objects_v2().bucket(&self.bucket).prefix(&self.prefix).max_keys(1).send();
        self.small_call("probe", &self.name, deadline, send).await.map_err(|failure| failure.error)?;
        Ok(Probe { took: started.elapsed(), free_bytes: None })
    }
}

/// Reads length and head of an opened blob off the reply, which must be what was asked for.
fn opened(path: &ObjectPath, range: Option<&Range<u64>>, output: &GetObjectOutput) -> Result<(u64, Head)> {
    let length = length_of("get", path, output.content_length())?;
    let whole = match range {
        None => length,
        Some(range) => {
            let content_range = output.content_range().unwrap_or_default();
            let total = content_range.rsplit_once('/').and_then(|(_, total)| total.parse().ok());
            let Some(total) = total else {
                return Err(Error::Unsupported {
                    what: format!("ranges: it answered with content-range {content_range:?}"),
                });
            };
            if range.end > total {
                return Err(outside(path, range));
            }
            let expected = format!("bytes {}-{}/{total}", range.start, range.end - 1);
            if content_range != expected || length != range.end - range.start {
                let what = format!("ranges: asked for {expected}, it answered with {content_range}");
                return Err(Error::Unsupported { what });
            }
            total
        }
    };
    let etag = etag_of("get", path, output.e_tag())?;
    Ok((length, Head { length: whole, etag, last_modified: time_of(output.last_modified()) }))
}

fn outside(path: &ObjectPath, range: &Range<u64>) -> Error {
    Error::RangeOutside { path: path.to_string(), start: range.start, end: range.end }
}

fn length_of(action: &'static str, path: &ObjectPath, length: Option<i64>) -> Result<u64> {
    let length = length.and_then(|length| u64::try_from(length).ok());
    length.ok_or_else(|| Error::unavailable(action, path, "the reply has no content-length"))
}

fn etag_of(action: &'static str, path: &ObjectPath, etag: Option<&str>) -> Result<ETag> {
    let etag = etag.map(|etag| ETag(etag.into()));
    etag.ok_or_else(|| Error::unavailable(action, path, "the reply has no etag"))
}

fn time_of(time: Option<&DateTime>) -> SystemTime {
    time.and_then(|time| SystemTime::try_from(*time).ok()).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// The pieces of a reply. Each must arrive before the stall limit and the deadline.
fn pieces(
    path: &ObjectPath,
    body: ByteStream,
    stall: Duration,
    deadline: Option<Instant>,
) -> impl Stream<Item = Result<Bytes>> + Send + use<> {
    stream::unfold(Some((body, path.clone())), move |state| async move {
        let (mut body, path) = state?;
        let stalled = Instant::now() + stall;
        let limit = deadline.map_or(stalled, |deadline| deadline.min(stalled));
        match tokio::time::timeout_at(limit, body.next()).await {
            Ok(None) => None,
            Ok(Some(Ok(piece))) => Some((Ok(piece), Some((body, path)))),
            // The connection goes with the body; nothing is read from it again.
            Ok(Some(Err(cause))) => Some((Err(Error::unavailable("get", &path, cause)), None)),
            Err(_) => Some((Err(Error::deadline("get", &path)), None)),
        }
    })
}

#[async_trait]
impl Backend for S3 {
    fn name(&self) -> &str {
        &self.bucket.name
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            shared: true,
            join_source_bytes_min: Some(PART_BYTES_MIN),
            blob_bytes_max: PART_BYTES_MAX * PARTS_MAX,
        }
    }

    async fn put(&self, path: &ObjectPath, body: Body, options: PutOptions) -> Result<Stored> {
        within(options.deadline, "put", path, put::put(&self.bucket, path, body, options)).await
    }

    async fn get(&self, path: &ObjectPath, options: GetOptions) -> Result<Fetched> {
        within(options.deadline, "get", path, self.bucket.get(path, options)).await
    }

    async fn head(&self, path: &ObjectPath, options: HeadOptions) -> Result<Head> {
        within(options.deadline, "head", path, self.bucket.head(path, options.deadline)).await
    }

    async fn delete(&self, path: &ObjectPath, options: DeleteOptions) -> Result<()> {
        within(options.deadline, "delete", path, self.bucket.delete(path, options.deadline)).await
    }

    async fn list(&self, options: ListOptions) -> Result<Page> {
        let (deadline, prefix) = (options.deadline, options.prefix.clone());
        within(deadline, "list", prefix, self.bucket.list(options)).await
    }

    async fn join(&self, sources: &[JoinSource], target: &ObjectPath, options: JoinOptions) -> Result<Stored> {
        within(options.deadline, "join", target, join::join(&self.bucket, sources, target, options)).await
    }

    async fn sweep_unfinished(&self, options: SweepOptions) -> Result<Swept> {
        within(options.deadline, "sweep", self.name(), sweep::sweep(&self.bucket, &options)).await
    }

    async fn probe(&self, options: ProbeOptions) -> Result<Probe> {
        within(options.deadline, "probe", self.name(), self.bucket.probe(options.deadline)).await
    }

    async fn close(&self) {
        self.bucket.tracker.close();
        self.bucket.tracker.wait().await;
    }
}

#[cfg(test)]
mod tests;
