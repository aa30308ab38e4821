//! Storing a blob: as one PUT, or as an upload of parts.
//!
//! ```text
//! put ─ short ──────────▶ PutObject ─────────────────────────────────┐
//!     └ long, unknown ──▶ Create ─ UploadPart × n ─ Complete ────────┤
//!                          │ any failure, or the put is dropped      ▼
//!                          └──▶ Abort                    settle: stored, refused, or unknown?
//! ```

use std::sync::Arc;

use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use tokio::runtime::Handle;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::super::body::{Body, BodyReader};
use super::super::{Condition, ETag, Error, ObjectPath, PutOptions, Result, Stored};
use super::call::{Certainty, Failure};
use super::payload::Payload;
use super::{BUFFER_UNIT_BYTES, Bucket, MIB, PART_BYTES_MAX, PART_BYTES_MIN, PARTS_MAX, length_of};

/// User metadata that tells one put from another on the same name.
const MARK: &str = "holdfast-put";
/// Parts after which parts of a blob of unknown length become twice as large.
const PARTS_PER_STEP: u64 = 1000;

/// What all requests of one put have in common.
pub(super) struct Target {
    pub path: ObjectPath,
    pub key: String,
    pub mark: String,
    pub condition: Condition,
    pub deadline: Option<Instant>,
}

impl Target {
    pub fn new(bucket: &Bucket, path: &ObjectPath, condition: Condition, deadline: Option<Instant>) -> Self {
        let mark = format!("{:032x}", rand::random::<u128>());
        Target { path: path.clone(), key: bucket.key(path), mark, condition, deadline }
    }

    fn if_none_match(&self) -> Option<String> {
        matches!(self.condition, Condition::IfAbsent).then(|| "*".to_owned())
    }

    fn if_match(&self) -> Option<String> {
        match &self.condition {
            Condition::IfMatch(etag) => Some(etag.0.to_string()),
            Condition::IfAbsent | Condition::Overwrite => None,
        }
    }

    /// The condition does not hold.
    fn refused(&self) -> Error {
        match self.condition {
            Condition::IfAbsent => Error::exists(&self.path),
            Condition::IfMatch(_) | Condition::Overwrite => Error::Changed { path: self.path.to_string() },
        }
    }
}

pub(super) async fn put(bucket: &Arc<Bucket>, path: &ObjectPath, body: Body, options: PutOptions) -> Result<Stored> {
    let mut reader = BodyReader::new(path, body, options.length)?;
    let declared = reader.declared();
    if declared.is_some_and(|declared| declared > PART_BYTES_MAX * PARTS_MAX) {
        return Err(Error::invalid(format_args!(
            "a blob of {} bytes is too long for this backend",
            declared.unwrap_or(0)
        )));
    }
    let target = Target::new(bucket, path, options.condition, options.deadline);
    let first_bytes = match declared {
        Some(declared) if declared <= bucket.settings.single_put_bytes_max => declared,
        _ => part_bytes(bucket, declared, 1),
    };
    let buffer = bucket.buffer(first_bytes).await?;
    let first = reader.gather(first_bytes).await?;
    let is_single = first.last && !options.in_parts;
    let is_last = first.last;
    let first = Payload::new(first.pieces, first.bytes, buffer);
    if is_single {
        return put_single(bucket, &target, &first).await;
    }
    let upload = Upload::create(bucket, target).await?;
    let stored = upload_parts(&upload, reader, first, is_last).await;
    upload.finish(stored).await
}

/// Bytes of a part: fixed by the length where it is known, growing with the number where it is not.
fn part_bytes(bucket: &Bucket, declared: Option<u64>, number: u64) -> u64 {
    let usual = bucket.settings.part_bytes.clamp(PART_BYTES_MIN, PART_BYTES_MAX);
    match declared {
        Some(declared) => usual.max(declared.div_ceil(PARTS_MAX).next_multiple_of(MIB)),
        None => (usual << ((number - 1) / PARTS_PER_STEP)).min(PART_BYTES_MAX),
    }
}

impl Bucket {
    /// Waits for a share of the buffer budget.
    async fn buffer(&self, bytes: u64) -> Result<OwnedSemaphorePermit> {
        let most = self.settings.buffer_bytes / BUFFER_UNIT_BYTES;
        // A part larger than the whole budget gets all of it, alone.
        let units = u32::try_from(bytes.div_ceil(BUFFER_UNIT_BYTES).min(most)).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.buffers).acquire_many_owned(units).await;
        permit.map_err(|closed| Error::unavailable("put", &self.name, closed))
    }
}

async fn put_single(bucket: &Bucket, target: &Target, payload: &Payload) -> Result<Stored> {
    let send = || {
        let request = bucket.client.put_object().bucket(&bucket.bucket).key(&target.key);
        let request = request.metadata(MARK, &target.mark).content_length(payload.length.cast_signed());
        let request = request.set_if_none_match(target.if_none_match()).set_if_match(target.if_match());
        request.body(payload.body()).customize().disable_payload_signing().send()
    };
    match bucket.body_call("put", &target.path, target.deadline, &payload.progress, send).await {
        Ok(output) => stored(bucket, target, payload.length, output.e_tag()).await,
        Err(failure) => settle(bucket, target, payload.length, failure).await,
    }
}

async fn stored(bucket: &Bucket, target: &Target, length: u64, etag: Option<&str>) -> Result<Stored> {
    match etag {
        Some(etag) => Ok(Stored { length, etag: ETag(etag.into()) }),
        // It is stored; only its version is missing in the reply.
        None => bucket.head(&target.path, target.deadline).await.map(|head| Stored { length, etag: head.etag }),
    }
}

/// Finds out what a put that failed left behind.
///
/// A refused condition is believed only when no earlier attempt may have got through: otherwise it may be our own blob that
/// is in the way.
async fn settle(bucket: &Bucket, target: &Target, length: u64, failure: Failure) -> Result<Stored> {
    if failure.certainty == Certainty::NotDone {
        return Err(if failure.is_condition() { target.refused() } else { failure.error });
    }
    let unknown =
        |source: Error| Error::Unknown { action: "put", path: target.path.to_string(), source: source.into() };
    let send = || bucket.client.head_object().bucket(&bucket.bucket).key(&target.key).send();
    // Not bound to the put's deadline, which is often what failed it; the caller's wait ends there anyhow.
    let found = match bucket.small_call("put", &target.path, None, send).await {
        Ok(found) => found,
        Err(looking) => match (looking.error, failure.certainty) {
            (Error::NotFound { .. }, Certainty::Over) => return Err(failure.error),
            // Absent now, but a request without an answer may still arrive.
            _ => return Err(unknown(failure.error)),
        },
    };
    let mark = found.metadata().and_then(|metadata| metadata.get(MARK));
    let is_ours = mark.is_some_and(|mark| *mark == target.mark);
    if is_ours && length_of("put", &target.path, found.content_length())? == length {
        return stored(bucket, target, length, found.e_tag()).await;
    }
    match (&target.condition, failure.certainty) {
        // Somebody else's blob has the name, so ours can no longer get it.
        (Condition::IfAbsent, _) => Err(target.refused()),
        (Condition::IfMatch(_), _) if failure.is_condition() => Err(target.refused()),
        (_, Certainty::Over) => Err(failure.error),
        _ => Err(unknown(failure.error)),
    }
}

/// An upload in parts. Aborted when it is dropped before it is finished.
pub(super) struct Upload {
    bucket: Arc<Bucket>,
    pub target: Arc<Target>,
    pub id: String,
    is_over: bool,
}

impl Upload {
    pub async fn create(bucket: &Arc<Bucket>, target: Target) -> Result<Self> {
        let send = || {
            let request = bucket.client.create_multipart_upload().bucket(&bucket.bucket).key(&target.key);
            request.metadata(MARK, &target.mark).send()
        };
        let created =
            bucket.small_call("put", &target.path, target.deadline, send).await.map_err(|failure| failure.error)?;
        match created.upload_id() {
            Some(id) if !id.is_empty() => {
                Ok(Upload { bucket: Arc::clone(bucket), id: id.to_owned(), target: Arc::new(target), is_over: false })
            }
            _ => Err(Error::unavailable("put", &target.path, "the reply names no upload")),
        }
    }

    async fn send_part(
        bucket: Arc<Bucket>,
        target: Arc<Target>,
        id: String,
        number: i32,
        part: Payload,
    ) -> Result<CompletedPart> {
        let send = || {
            let request = bucket.client.upload_part().bucket(&bucket.bucket).key(&target.key).upload_id(&id);
            let request = request.part_number(number).content_length(part.length.cast_signed());
            request.body(part.body()).customize().disable_payload_signing().send()
        };
        let sent = bucket.body_call("put", &target.path, target.deadline, &part.progress, send).await;
        let sent = sent.map_err(|failure| failure.error)?;
        Ok(CompletedPart::builder().part_number(number).set_e_tag(sent.e_tag().map(str::to_owned)).build())
    }

    /// Starts sending a part in the background of this put.
    fn start_part(&self, tasks: &mut JoinSet<Result<CompletedPart>>, number: u64, part: Payload) -> Result<()> {
        let number = part_number(&self.target.path, number)?;
        let (bucket, target, id) = (Arc::clone(&self.bucket), Arc::clone(&self.target), self.id.clone());
        tasks.spawn(Upload::send_part(bucket, target, id, number, part));
        Ok(())
    }

    pub async fn complete(&self, mut parts: Vec<CompletedPart>, length: u64) -> Result<Stored> {
        let (bucket, target) = (&self.bucket, &self.target);
        parts.sort_by_key(CompletedPart::part_number);
        let list = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let send = || {
            let request = bucket.client.complete_multipart_upload().bucket(&bucket.bucket).key(&target.key);
            let request = request.upload_id(&self.id).multipart_upload(list.clone());
            request.set_if_none_match(target.if_none_match()).set_if_match(target.if_match()).send()
        };
        // Some stores only copy the parts together now.
        let patience = bucket.settings.total_timeout;
        match bucket.long_call("put", &target.path, target.deadline, patience, send).await {
            Ok(output) => stored(bucket, target, length, output.e_tag()).await,
            Err(mut failure) if failure.code.as_deref() == Some("NoSuchUpload") => {
                // An attempt before this one may have completed it.
                failure.certainty = failure.certainty.max(Certainty::Over);
                settle(bucket, target, length, failure).await
            }
            Err(failure) => settle(bucket, target, length, failure).await,
        }
    }

    /// Passes the result on; a failed upload is aborted first, so that its parts cost nobody anything.
    pub async fn finish(mut self, stored: Result<Stored>) -> Result<Stored> {
        self.is_over = true;
        if stored.is_err() {
            abort(&self.bucket, &self.target.key, &self.id).await;
        }
        stored
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if self.is_over || Handle::try_current().is_err() {
            return;
        }
        let (bucket, target, id) = (Arc::clone(&self.bucket), Arc::clone(&self.target), std::mem::take(&mut self.id));
        let tracker = bucket.tracker.clone();
        drop(tracker.spawn(async move { abort(&bucket, &target.key, &id).await }));
    }
}

/// Aborts an upload. A failure is only noted: sweeps look for uploads that nobody completes.
pub(super) async fn abort(bucket: &Bucket, key: &str, id: &str) -> bool {
    let send = || bucket.client.abort_multipart_upload().bucket(&bucket.bucket).key(key).upload_id(id).send();
    match bucket.small_call("abort the upload of", key, None, send).await.map_err(|failure| failure.error) {
        Ok(_) | Err(Error::NotFound { .. }) => true,
        Err(error) => {
            tracing::warn!(backend = bucket.name, key, error = super::super::chain(&error), "cannot abort an upload");
            false
        }
    }
}

pub(super) fn part_number(path: &ObjectPath, number: u64) -> Result<i32> {
    match i32::try_from(number) {
        Ok(small) if number <= PARTS_MAX => Ok(small),
        _ => Err(Error::invalid(format_args!(
            "the body of {path} is too long for this backend: it needs more than {PARTS_MAX} parts"
        ))),
    }
}

async fn upload_parts(upload: &Upload, mut reader: BodyReader, first: Payload, mut is_last: bool) -> Result<Stored> {
    let bucket = &upload.bucket;
    let mut tasks = JoinSet::new();
    let mut parts = Vec::new();
    let mut number = 1;
    upload.start_part(&mut tasks, number, first)?;
    while !is_last {
        number += 1;
        while tasks.len() >= bucket.settings.parts_in_flight.max(1) {
            parts.extend(next_part(&mut tasks).await?);
        }
        let bytes = part_bytes(bucket, reader.declared(), number);
        let buffer = bucket.buffer(bytes).await?;
        let part = reader.gather(bytes).await?;
        is_last = part.last;
        // Never empty: `last` is known with the part that ends the body.
        upload.start_part(&mut tasks, number, Payload::new(part.pieces, part.bytes, buffer))?;
    }
    while let Some(part) = next_part(&mut tasks).await? {
        parts.push(part);
    }
    upload.complete(parts, reader.seen()).await
}

/// Waits for one part; `None` when none is in flight.
async fn next_part(tasks: &mut JoinSet<Result<CompletedPart>>) -> Result<Option<CompletedPart>> {
    match tasks.join_next().await {
        None => Ok(None),
        Some(Ok(part)) => part.map(Some),
        Some(Err(cause)) if cause.is_panic() => std::panic::resume_unwind(cause.into_panic()),
        Some(Err(cause)) => Err(Error::unavailable("put", "a part", cause)),
    }
}
