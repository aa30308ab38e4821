//! Finds blobs in the backend that no row knows, and deletes them.
//!
//! They come from crashes between upload and commit, and from clients that hung up. A file goes only when all of this
//! holds: its name is one that [`holdfast_core::path`] makes, of this cluster's generation; it was minted longer ago than
//! [`super::JobsConfig::orphan_age`]; it is not being brought in by this node; and the state has it condemned, so that a
//! command of a stalled writer is refused from then on. Every other file is not ours and never touched.
//!
//! One page of names a round; the place in the listing is kept between rounds.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::{StreamExt as _, stream};
use holdfast_core::command::{Blobs as BlobList, Op};
use holdfast_core::effect::Effect;
use holdfast_core::id::BlobId;
use holdfast_core::index::run::RUNS_PREFIX;
use holdfast_core::path::{BLOBS_PREFIX, parse_blob_path};
use holdfast_core::rules::JOB_ROWS_MAX;
use tokio::time::Instant;

use super::gc::{GC_DELETES, delete_path, forget};
use super::{Context, Error, Job, Round};
use crate::backend::{LIST_LIMIT_MAX, ListOptions, ObjectPath, Page, SweepOptions};
use crate::clock::now_ms;

/// Pause between pages.
const PAGE_PAUSE: Duration = Duration::from_millis(100);
/// The first search begins this long after start.
const FIRST_AFTER: Duration = Duration::from_secs(60);
/// How long a listing or the removal of unfinished writes may take.
const LIST_PATIENCE: Duration = Duration::from_secs(120);
/// Unfinished writes are not removed before this age, whatever the age of orphans is.
const UNFINISHED_AGE_MIN: Duration = Duration::from_secs(24 * 60 * 60);

const _: () = assert!(LIST_LIMIT_MAX <= JOB_ROWS_MAX, "a page of names fits one command");

/// The job: where it is in the listing.
#[derive(Default)]
pub(crate) struct Sweep {
    started: bool,
    /// Names up to here have been looked at.
    after: Option<ObjectPath>,
}

impl Job for Sweep {
    const NAME: &'static str = "orphans";
    const EVERY: Duration = Duration::MAX;
    const WAKES_ON: Option<Effect> = None;

    async fn round(&mut self, context: &Context) -> Result<Round, Error> {
        if !self.started {
            self.started = true;
            return Ok(Round::Again(FIRST_AFTER.min(context.config.sweep_every)));
        }
        if self.after.is_none() {
            remove_unfinished(context).await?;
        }
        let page = list(context, self.after.clone()).await?;
        let next = page.next.clone();
        sweep_page(context, page).await?;
        self.after = next;
        Ok(Round::Again(if self.after.is_some() { PAGE_PAUSE } else { context.config.sweep_every }))
    }
}

async fn remove_unfinished(context: &Context) -> Result<(), Error> {
    let older_than = context.config.orphan_age.max(UNFINISHED_AGE_MIN);
    for prefix in [BLOBS_PREFIX, RUNS_PREFIX] {
        let (prefix, deadline) = (prefix.to_owned(), Some(Instant::now() + LIST_PATIENCE));
        let options = SweepOptions { prefix, older_than, deadline };
        let swept = context.blobs.backend().sweep_unfinished(options).await;
        let swept = swept.map_err(|source| Error::Backend { doing: "remove unfinished writes", source })?;
        if swept.removed > 0 {
            tracing::info!(removed = swept.removed, kept = swept.kept, "removed unfinished writes from the backend");
        }
    }
    Ok(())
}

async fn list(context: &Context, start_after: Option<ObjectPath>) -> Result<Page, Error> {
    let deadline = Some(Instant::now() + LIST_PATIENCE);
    let options = ListOptions { prefix: BLOBS_PREFIX.to_owned(), start_after, limit: LIST_LIMIT_MAX, deadline };
    let page = context.blobs.backend().list(options).await;
    page.map_err(|source| Error::Backend { doing: "list blobs", source })
}

/// Deletes the orphans of a page.
async fn sweep_page(context: &Context, page: Page) -> Result<(), Error> {
    let mut old = old_blobs(context, &page);
    if old.is_empty() {
        return Ok(());
    }
    let ids: Vec<BlobId> = old.keys().copied().collect();
    let asked = ids.clone();
    let found = context.look(move |view, permit| view.orphans(permit, &asked)).await?;
    if !found.unknown.is_empty() {
        context.commit(Op::Condemn(BlobList { blobs: found.unknown })).await?;
    } else if found.condemned.is_empty() {
        return Ok(());
    }
    // What the state says now, after the command: only tombstones are nobody's.
    let found = context.look(move |view, permit| view.orphans(permit, &ids)).await?;
    old.retain(|blob, _| found.condemned.contains(blob));
    let deletes = old.into_iter().map(|(blob, paths)| async move {
        for path in &paths {
            delete_path(context, path.as_str()).await?;
            tracing::info!(%path, "deleted a blob that no row knows");
        }
        Ok::<_, Error>(blob)
    });
    let results: Vec<_> = stream::iter(deletes).buffer_unordered(GC_DELETES).collect().await;
    let mut failed = None;
    let mut deleted = Vec::new();
    for result in results {
        match result {
            Ok(blob) => deleted.push(blob),
            Err(error) => failed = Some(error),
        }
    }
    forget(context, &deleted).await?;
    context.stats.orphans_deleted.fetch_add(deleted.len() as u64, Ordering::Relaxed);
    failed.map_or(Ok(()), Err)
}

/// Blobs that may be orphans by their names alone, with their files.
fn old_blobs(context: &Context, page: &Page) -> BTreeMap<BlobId, Vec<ObjectPath>> {
    let age_ms = u64::try_from(context.config.orphan_age.as_millis()).unwrap_or(u64::MAX);
    let now_ms = now_ms();
    let mut old: BTreeMap<BlobId, Vec<ObjectPath>> = BTreeMap::new();
    for entry in &page.entries {
        let Some((_, blob)) = parse_blob_path(entry.path.as_str()) else { continue };
        let is_ours = blob.generation() == context.blobs.generation();
        let is_old = blob.minted_ms().saturating_add(age_ms) <= now_ms;
        if is_ours && is_old && !context.blobs.in_flight().contains(blob) {
            old.entry(blob).or_default().push(entry.path.clone());
        }
    }
    old
}
