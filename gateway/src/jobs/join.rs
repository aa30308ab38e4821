//! Makes one blob of the many that a finished upload or a row of appends consists of.
//!
//! ```text
//! extents ─▶ whole blobs? ─ yes ─▶ backend.join (inside of the store) ─┐
//!                         └ no ──▶ read, verify, put ──────────────────┤
//!            at most 64 KiB, inline ─▶ bytes in the command            ▼
//!                         read the new blob back: its CRCs, SHA-256 ─▶ is it what the sources are? ─▶ Join
//! ```
//! The sources are given up for the new blob, so nothing is taken on trust: what the backend made is read back, and its
//! CRC-32C must be that of the sources, combined from the checksums in their rows. Refused or wrong, the new blob goes and
//! the sources stay. What nobody can join now (another version shares it) is looked at again in a later pass.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, TryStreamExt as _};
use holdfast_core::command::{Join as JoinOp, NewBlob, NewPlace, Op};
use holdfast_core::effect::Effect;
use holdfast_core::id::{BlobId, BucketName, ObjectKey};
use holdfast_core::path::{blob_path, sibling_path};
use holdfast_core::queue::{Fragmented, ToJoin};
use holdfast_core::record::{BlobRow, ContentId, Extent, Location};
use holdfast_core::rules::BLOCK_BYTES;
use tokio::time::Instant;

use super::digest::{Hashed, Lacking, combine, hash_pieces};
use super::{Context, Error, Job, Kind, Round};
use crate::backend::{Body, GetOptions, JoinOptions, JoinSource, ObjectPath, PutOptions};
use crate::blobs::ReadGuard;
use crate::blobs::write::{Upload, crc_bytes};

/// Contents longer than this stay in pieces.
pub const JOIN_BYTES_MAX: u64 = 16 << 30;
/// Contents of more extents stay in pieces: a job holds what it knows of each, and the command names each.
pub const JOIN_EXTENTS_MAX: usize = 20_000;
/// Contents of inline blobs up to this many bytes become one inline blob.
pub const INLINE_JOIN_BYTES_MAX: u64 = 64 << 10;
/// How long one join may take in the backend.
pub const JOIN_PATIENCE: Duration = Duration::from_secs(30 * 60);
/// Contents of one round.
const JOIN_PAGE: usize = 64;
/// Pause while clients are not quiet, and between contents.
const PAUSE: Duration = Duration::from_millis(500);

/// What became of a content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Joined {
    /// It is one blob now.
    Yes(Lacking),
    /// It is gone, or something shares it.
    NotNow,
    /// It is too long, of too many extents, has holes, or nothing tells its name.
    Never,
}

/// The job: where it is in the queue. Most contents are joined by [`super::digest`] before this looks.
#[derive(Default)]
pub(crate) struct Join {
    started: bool,
    last: Option<ContentId>,
    failed: Option<Error>,
}

impl Job for Join {
    const NAME: &'static str = "join";
    const EVERY: Duration = Duration::from_secs(10 * 60);
    const WAKES_ON: Option<Effect> = None;

    async fn round(&mut self, context: &Context) -> Result<Round, Error> {
        if !std::mem::replace(&mut self.started, true) {
            return Ok(Round::Done);
        }
        let last = self.last;
        let page = context.look(move |view, permit| view.to_join(permit, last, JOIN_PAGE)).await?;
        let is_last = page.len() < JOIN_PAGE;
        for ToJoin { content, name } in page {
            if !context.is_quiet() {
                return Ok(Round::Again(PAUSE));
            }
            self.last = Some(content);
            let name = name.as_ref().map(|(bucket, key)| (bucket, key));
            if let Err(error) = join(context, content, name).await
                && error.kind() != Kind::Changed
            {
                self.failed = Some(error);
            }
        }
        if !is_last {
            return Ok(Round::Again(PAUSE));
        }
        self.last = None;
        self.failed.take().map_or(Ok(Round::Done), Err)
    }
}

/// Everything about a content that joining needs.
struct Sources {
    content: Fragmented,
    /// The blob of each extent.
    blobs: Vec<Source>,
    /// CRC-32C of all blobs after one another, from the checksums of their blocks.
    crc: u32,
    _guard: ReadGuard,
}

/// What joining needs to know of a blob.
struct Source {
    length: u64,
    /// Its file, if it has one.
    path: Option<String>,
    is_inline: bool,
}

impl From<BlobRow> for Source {
    fn from(row: BlobRow) -> Self {
        let path = row.locations.iter().find_map(path_text).map(str::to_owned);
        Self { length: row.length, path, is_inline: row.locations.contains(&Location::Inline) }
    }
}

/// Joins a content. The new blob is named by `name`, else as the first source that has a file.
pub(super) async fn join(
    context: &Context,
    content: ContentId,
    name: Option<(&BucketName, &ObjectKey)>,
) -> Result<Joined, Error> {
    let sources = match sources(context, content).await? {
        Looked::Sources(sources) => sources,
        Looked::NotNow => return Ok(Joined::NotNow),
        Looked::Never => return Ok(Joined::Never),
    };
    let size = sources.content.size;
    if size <= INLINE_JOIN_BYTES_MAX && sources.blobs.iter().all(|blob| blob.is_inline) {
        return join_inline(context, content, sources).await;
    }
    let Some(named) = namer(&sources, name) else { return Ok(Joined::Never) };
    let upload = context.blobs.new_upload(named)?;
    let hashed = match make(context, content, &sources, &upload).await {
        Ok(hashed) => hashed,
        Err(error) => {
            context.blobs.discard_upload(upload);
            return Err(error);
        }
    };
    let place = NewPlace::Path(upload.path.as_str().to_owned());
    let blob = NewBlob { id: upload.blob, place, crcs: crc_bytes(&hashed.crcs) };
    let joined: Vec<Extent> = sources.content.extents.clone();
    match context.commit(Op::Join(JoinOp { content, joined, blob, size })).await {
        Ok(_) => {}
        // It may be applied: the new blob stays, or is found by the sweep.
        Err(error @ Error::UnknownOutcome(_)) => return Err(error),
        Err(error) => {
            context.blobs.discard_upload(upload);
            return Err(error);
        }
    }
    context.stats.contents_joined.fetch_add(1, Ordering::Relaxed);
    tracing::debug!(path = %upload.path, size, "joined a content");
    Ok(Joined::Yes(hashed.lacking()))
}

/// What a look at a content gives.
enum Looked {
    Sources(Sources),
    NotNow,
    /// It is too much, or has holes: a blob in place of them would take up space.
    Never,
}

async fn sources(context: &Context, id: ContentId) -> Result<Looked, Error> {
    let readers = context.blobs.readers().clone();
    let bytes_max = JOIN_BYTES_MAX.min(context.blobs.backend().capabilities().blob_bytes_max);
    let sources = context.look(move |view, permit| {
        // Entered before the view was taken would be as good: it holds back what any later state condemns.
        let Some(guard) = readers.enter(view.revision()) else { return Ok(Looked::NotNow) };
        let Some(content) = view.fragmented(permit, id)? else { return Ok(Looked::NotNow) };
        // Before anything is read of each extent.
        let is_too_much = content.size > bytes_max || content.extents.len() > JOIN_EXTENTS_MAX;
        if is_too_much || content.extents.iter().any(|extent| extent.blob == BlobId::HOLE) {
            return Ok(Looked::Never);
        }
        let (mut blobs, mut crc) = (Vec::new(), 0);
        for extent in &content.extents {
            let source = view.blob(extent)?;
            let blocks = 0..source.row.length.div_ceil(BLOCK_BYTES);
            crc = combine(crc, &view.block_checksums(extent, &source.row, blocks)?, source.row.length);
            blobs.push(Source::from(source.row));
        }
        Ok(Looked::Sources(Sources { content, blobs, crc, _guard: guard }))
    });
    sources.await
}

/// How the new blob is named, if anything tells.
fn namer<'a>(
    sources: &'a Sources,
    name: Option<(&'a BucketName, &'a ObjectKey)>,
) -> Option<Box<dyn FnOnce(BlobId) -> String + Send + 'a>> {
    if let Some((bucket, key)) = name {
        return Some(Box::new(move |blob| blob_path(bucket, key, blob)));
    }
    let path = sources.blobs.iter().find_map(|blob| blob.path.as_deref())?;
    sibling_path(path, BlobId::default())?;
    Some(Box::new(move |blob| sibling_path(path, blob).expect("it was one for another blob just now")))
}

fn path_text(location: &Location) -> Option<&str> {
    match location {
        Location::Path(path) => Some(path),
        Location::Inline => None,
    }
}

async fn join_inline(context: &Context, content: ContentId, sources: Sources) -> Result<Joined, Error> {
    let mut bytes = BytesMut::new();
    let stream = open(context, content, &sources).await?;
    let pieces: Vec<Bytes> = stream.try_collect().await?;
    pieces.iter().for_each(|piece| bytes.extend_from_slice(piece));
    let bytes = bytes.freeze();
    let hashed = hash_pieces(futures::stream::iter([Ok(bytes.clone())])).await?;
    let id = context.blobs.mint();
    let blob = NewBlob { id, place: NewPlace::Inline(bytes), crcs: crc_bytes(&hashed.crcs) };
    let (joined, size) = (sources.content.extents, sources.content.size);
    context.commit(Op::Join(JoinOp { content, joined, blob, size })).await?;
    context.stats.contents_joined.fetch_add(1, Ordering::Relaxed);
    Ok(Joined::Yes(hashed.lacking()))
}

/// Makes the new blob and reads it back.
async fn make(context: &Context, content: ContentId, sources: &Sources, upload: &Upload) -> Result<Hashed, Error> {
    let deadline = Some(Instant::now() + JOIN_PATIENCE);
    let wanted = match whole_sources(sources)? {
        Some(whole) => {
            let options = JoinOptions { deadline, ..JoinOptions::default() };
            let joined = context.blobs.backend().join(&whole, &upload.path, options).await;
            joined.map_err(|source| Error::Backend { doing: "join blobs", source })?;
            sources.crc
        }
        None => copy(context, content, sources, upload, deadline).await?,
    };
    let hashed = read_back(context, &upload.path, deadline).await?;
    if hashed.size != sources.content.size || hashed.crc != wanted {
        return Err(Error::BadJoin { path: upload.path.to_string(), wanted, got: hashed.crc });
    }
    Ok(hashed)
}

/// The sources as files to join, when each extent is all of a blob that has a file.
fn whole_sources(sources: &Sources) -> Result<Option<Vec<JoinSource>>, Error> {
    let mut whole = Vec::new();
    for (extent, blob) in sources.content.extents.iter().zip(&sources.blobs) {
        let (Some(path), true) = (&blob.path, extent.blob_offset == 0 && extent.length == blob.length) else {
            return Ok(None);
        };
        let path = ObjectPath::new(path).map_err(|source| Error::Backend { doing: "name a blob", source })?;
        whole.push(JoinSource { path, length: blob.length });
    }
    Ok(Some(whole))
}

async fn open(context: &Context, content: ContentId, sources: &Sources) -> Result<crate::blobs::BodyStream, Error> {
    let (blobs, extents, size) = (context.blobs.clone(), sources.content.extents.clone(), sources.content.size);
    let plan = context.look(move |view, permit| {
        // As it is now: the same, or the command will be refused.
        let Some(guard) = blobs.readers().enter(view.revision()) else { return Ok(None) };
        let same = view.fragmented(permit, content)?.is_some_and(|now| now.extents == extents);
        Ok(same.then(|| blobs.plan_extents(view, None, extents, 0..size, guard)))
    });
    let plan = plan.await?.ok_or(holdfast_core::error::Error::Changed)??;
    Ok(context.blobs.open(plan.in_background()).await?)
}

/// Copies verified bytes to the new blob; the CRC-32C of what was sent.
async fn copy(
    context: &Context,
    content: ContentId,
    sources: &Sources,
    upload: &Upload,
    deadline: Option<Instant>,
) -> Result<u32, Error> {
    let stream = open(context, content, sources).await?;
    let crc = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
    let sent = std::sync::Arc::clone(&crc);
    let pieces = stream.inspect_ok(move |piece| {
        // One task polls the stream: the order is that of the pieces.
        sent.store(crc32c::crc32c_append(sent.load(Ordering::Relaxed), piece), Ordering::Relaxed);
    });
    let options = PutOptions { length: Some(sources.content.size), deadline, ..PutOptions::default() };
    let put = context.blobs.backend().put(&upload.path, Body::stream(pieces), options).await;
    put.map_err(|source| Error::Backend { doing: "copy blobs", source })?;
    Ok(crc.load(Ordering::Acquire))
}

async fn read_back(context: &Context, path: &ObjectPath, deadline: Option<Instant>) -> Result<Hashed, Error> {
    let failed = |source| Error::Backend { doing: "read a joined blob back", source };
    let fetched = context.blobs.backend().get(path, GetOptions { range: None, deadline }).await.map_err(failed)?;
    hash_pieces(fetched.stream.map(move |piece| piece.map_err(failed))).await
}
