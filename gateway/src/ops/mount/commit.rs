//! A commit of a mount: its bytes become one blob, then one command.
//!
//! ```text
//! local view ─▶ bucket ─▶ pages that are nearly full are compacted ─▶ bytes stored ─▶ MountCommit ─▶ outcomes
//!                └ refused because the bucket is another by now: once more, from a linearizable view
//! ```
//! No round to the other nodes before the command: whatever the local view does not know yet is decided where the command is
//! applied.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use holdfast_core::command::mount::{FileRef, MOUNT_STEPS_MAX, MountCommit, PatchFile, Step, StepOutcome};
use holdfast_core::command::{Op, Reply};
use holdfast_core::error::Error as Refusal;
use holdfast_core::id::{BucketName, ObjectKey, RequestId};
use holdfast_core::mount::{Commit, SENT_BYTES_MAX};
use holdfast_core::record::{Body, ContentId, Extent};
use holdfast_core::rules::authorize::{Action, AuthorizedOp, Caller, Context, Permit, authorize, needs};
use holdfast_core::rules::{BLOCK_BYTES, PAGE_BYTES};
use holdfast_core::view::{Bucket, View};
use tokio::time::Instant;

use super::super::digest::Digester;
use super::super::{Call, Done, bucket_ref, view_of};
use super::file_permit;
use crate::blobs::compact::{Compacted, CrowdedPage, URGENT_EXTENTS, runs};
use crate::blobs::{Incoming, Verified, Written};
use crate::clock::now_ms;
use crate::cluster::Consistency;
use crate::error::Error;
use crate::gateway::Gateway;

/// Pages that are compacted before one commit; what else is full is refused, and a job sees to it.
const PAGES_COMPACTED_MAX: usize = 32;
/// Pages that one commit looks at for that.
const PAGES_LOOKED_AT_MAX: usize = 256;
/// How long that may take. Without it the commit goes on: the rules decide.
const COMPACT_PATIENCE: Duration = Duration::from_secs(20);
/// Bytes that are handed to the store at once.
const PIECE_BYTES: usize = 1 << 20;
/// What a blob is named after that only files without a name use: a name of a blob carries no meaning.
const UNLINKED: &str = "unlinked";
/// Up to so many bytes are hashed where they are.
const HASHED_AT_ONCE_BYTES: usize = 64 << 10;

pub(super) async fn commit(
    gateway: &Gateway,
    call: &Call,
    bucket: &BucketName,
    commit: Commit,
    sent: Bytes,
) -> Result<Done<Vec<StepOutcome>>, Error> {
    if commit.steps.len() > MOUNT_STEPS_MAX || sent.len() > SENT_BYTES_MAX {
        return Err(Refusal::invalid("a commit has at most 1,024 steps and 16 MiB").into());
    }
    let known = {
        let state = gateway.view(Consistency::Local).await?;
        found(&view_of(&state), call, bucket).ok()
    };
    if let Some(known) = known {
        match once(gateway, call, &known, commit.clone(), sent.clone()).await {
            // This node may be behind: the bucket was deleted and made again. The bytes are still at hand.
            Err(Error::Refused(Refusal::NoSuchBucket)) => {}
            done => return done,
        }
    }
    let call = call.again();
    let known = {
        let state = gateway.view(Consistency::Linearizable).await?;
        found(&view_of(&state), &call, bucket)?
    };
    once(gateway, &call, &known, commit, sent).await
}

fn found(view: &View<'_>, call: &Call, bucket: &BucketName) -> Result<Bucket, Error> {
    let permit = call.on_bucket(Action::ListBucket, bucket)?;
    Ok(view.bucket(&permit)?)
}

async fn once(
    gateway: &Gateway,
    call: &Call,
    bucket: &Bucket,
    commit: Commit,
    sent: Bytes,
) -> Result<Done<Vec<StepOutcome>>, Error> {
    let mut op = MountCommit {
        bucket: bucket_ref(bucket),
        client: commit.client,
        lease: commit.lease,
        number: commit.number,
        steps: commit.steps,
        sent: None,
        upload: commit.upload,
        nonce: gateway.blobs().mint(),
        directory: commit.directory,
        now: commit.now,
        id: commit.id,
    };
    if !sent.is_empty() {
        // Before its bytes are stored: whoever may not is told so first.
        let asked = Op::MountCommit(op.clone());
        for (action, resource) in needs(&asked) {
            authorize(call.caller, action, resource, &call.context)?;
        }
    }
    make_room(gateway, call, &bucket.name, &op.steps).await;
    let bytes = store(gateway, bucket, &op, sent).await?;
    op.sent = bytes.as_ref().map(|bytes| bytes.content.clone());
    let op = AuthorizedOp::authorize(Op::MountCommit(op), call.caller, &call.context)?;
    match gateway.commit_with(op, call.origin(), bytes).await? {
        (revision, Reply::Mounted(value)) => Ok(Done { revision, value }),
        _ => Err(Error::UnexpectedReply),
    }
}

/// Stores the bytes of a commit as one blob, named after what they are written to.
async fn store(gateway: &Gateway, bucket: &Bucket, op: &MountCommit, sent: Bytes) -> Result<Option<Written>, Error> {
    if sent.is_empty() {
        return Ok(None);
    }
    let unlinked: ObjectKey = UNLINKED.parse().map_err(|_| Error::UnexpectedReply)?;
    let named = op.steps.iter().find_map(written_to).unwrap_or(&unlinked);
    let options = gateway.write_options(bucket);
    Ok(Some(gateway.blobs().write(&bucket.name, named, incoming(sent), options).await?))
}

/// The key that a step writes bytes to, when the file has a name.
fn written_to(step: &Step) -> Option<&ObjectKey> {
    match step {
        Step::Create(step) => Some(&step.key),
        Step::Patch(step) => step.file.key.as_ref(),
        Step::Link(_)
        | Step::Unlink(_)
        | Step::RemoveDirectory(_)
        | Step::Rename(_)
        | Step::SetAttributes(_)
        | Step::Cut(_)
        | Step::Release(_)
        | Step::Adopt(_) => None,
    }
}

/// Bytes at hand, as a body that is hashed while it is stored.
fn incoming(bytes: Bytes) -> Incoming {
    let (length, hashed) = (bytes.len(), bytes.clone());
    let pieces = (0..length).step_by(PIECE_BYTES).map(move |at| bytes.slice(at..length.min(at + PIECE_BYTES)));
    let pieces = futures::stream::iter(pieces.map(Ok::<_, std::io::Error>));
    if length <= HASHED_AT_ONCE_BYTES {
        let verified = hash(&hashed);
        return Incoming::new(Some(length as u64), pieces, async move { Ok::<_, std::io::Error>(verified) });
    }
    let hashing = tokio::task::spawn_blocking(move || hash(&hashed));
    Incoming::new(Some(length as u64), pieces, async move { hashing.await.map_err(std::io::Error::other) })
}

fn hash(bytes: &Bytes) -> Verified {
    let mut digester = Digester::new(None);
    digester.update(bytes);
    let crcs = bytes.chunks(BLOCK_BYTES as usize).map(crc32c::crc32c).collect();
    Verified { size: bytes.len() as u64, digests: digester.finish(None), crcs }
}

/// Compacts pages that could not take what is written to them. A failure is no reason not to try: the rules decide.
async fn make_room(gateway: &Gateway, call: &Call, bucket: &BucketName, steps: &[Step]) {
    let asked = touched(call, bucket, steps);
    if asked.is_empty() {
        return;
    }
    let facts = std::sync::Arc::clone(gateway.facts());
    let looked = tokio::task::spawn_blocking(move || {
        let local = facts.local();
        crowded(&local.view(), asked)
    });
    let pages = looked.await.unwrap_or_default();
    let deadline = Instant::now() + COMPACT_PATIENCE;
    for page in pages {
        let compacting = tokio::time::timeout_at(deadline, compact(gateway, &page, deadline)).await;
        if let Ok(Err(error)) = compacting {
            tracing::debug!(error = crate::backend::chain(&error), "a full page was not compacted");
        }
    }
}

/// A file that is written to: by which permit it is found, its name, and how many extents each of its pages may get.
type Touched = (Permit, FileRef, Option<(BucketName, ObjectKey)>, BTreeMap<u64, usize>);

fn touched(call: &Call, bucket: &BucketName, steps: &[Step]) -> Vec<Touched> {
    let (mut files, mut pages): (Vec<Touched>, usize) = (Vec::new(), 0);
    for step in steps {
        let Step::Patch(PatchFile { file, writes, .. }) = step else { continue };
        let Ok(permit) = file_permit(call, bucket, file) else { continue };
        let mut added = BTreeMap::new();
        for write in writes {
            // A write in the midst of an extent makes three of it; it ends in the same page or in a later one.
            for page in [write.offset / PAGE_BYTES, write.offset.saturating_add(write.length) / PAGE_BYTES] {
                *added.entry(page).or_insert(0) += 1;
            }
        }
        pages += added.len();
        if pages > PAGES_LOOKED_AT_MAX {
            break;
        }
        let name = file.key.clone().map(|key| (bucket.clone(), key));
        files.push((permit, file.clone(), name, added));
    }
    files
}

/// Of the pages that are written to, those that are too full for it.
fn crowded(view: &View<'_>, asked: Vec<Touched>) -> Vec<CrowdedPage> {
    let mut full = Vec::new();
    for (permit, file, name, added) in asked {
        let Ok(found) = view.find_file(&permit, &file) else { continue };
        let body = found.row.version.as_ref().map(|version| version.body);
        let (Some(Body::Pages(content)), size) = (body, found.row.size()) else { continue };
        for (page, added) in added {
            let start = page * PAGE_BYTES;
            // Up to an extent that begins in this page and ends in the next.
            let end = size.min(start.saturating_add(2 * PAGE_BYTES));
            if start >= end {
                continue;
            }
            let Ok(extents) = view.extents(&found, start..end) else { continue };
            let whole = |extent: &Extent| {
                let begins = extent.offset > start || start == 0;
                begins && extent.offset < start + PAGE_BYTES && (extent.end() < end || end == size)
            };
            let extents: Vec<_> = extents.into_iter().filter(whole).collect();
            if extents.len() + added > URGENT_EXTENTS {
                full.push(crowded_page(content, page, extents, name.clone()));
            }
            if full.len() == PAGES_COMPACTED_MAX {
                return full;
            }
        }
    }
    full
}

fn crowded_page(
    content: ContentId,
    page: u64,
    extents: Vec<Extent>,
    name: Option<(BucketName, ObjectKey)>,
) -> CrowdedPage {
    CrowdedPage { content, page: u32::try_from(page).unwrap_or(u32::MAX), extents, name }
}

async fn compact(gateway: &Gateway, page: &CrowdedPage, deadline: Instant) -> Result<(), Error> {
    for run in runs(&page.extents, true) {
        let Compacted { op, upload } = gateway.blobs().compact(page, run, deadline).await?;
        let op = AuthorizedOp::authorize(Op::CompactPage(op), Caller::System, &Context::default())?;
        let request = RequestId::new(now_ms(), rand::random());
        match gateway.commit_job(op, request).await {
            Ok(_) => {}
            Err(error) => {
                // Anything else may have been done: then the sweep finds out.
                if let (Error::Refused(_), Some(upload)) = (&error, upload) {
                    gateway.blobs().discard_upload(upload);
                }
                return Err(error);
            }
        }
    }
    Ok(())
}
