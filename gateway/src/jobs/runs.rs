//! Moves entries of large indexes from the state to runs in the backend, merges runs, and deletes those that are over.
//!
//! ```text
//! entries past the bound ─▶ begin ─▶ snapshot ─▶ file, create-only ─▶ add ─▶ entries leave the state, in pages
//! more than 8 runs       ─▶ begin ─▶ live entries of the newest in one ▶ add: in place of them
//! condemned              ─▶ as blobs: archived, no reader that is older ─▶ file deleted ─▶ forget
//! ```
//! A run holds what is live in one state of this node, which is not older than the command that named the file. What becomes
//! of an object later makes its entries dead, and searches leave them out; a merge drops them. How far back a merge goes is
//! told by sizes, so that an entry is written as often as the logarithm of their number says.
//!
//! One run is written at a time, by the leader. Whatever this job finds begun is of a round that ended, here or on another
//! node: it is given up, and its file is deleted only when no put of it can go on ([`WRITE_PATIENCE`]). After a start every
//! run is looked for; one that is missing, or found damaged by two merges, is reported, and its index is built anew.

pub(super) mod open;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future;
use holdfast_core::command::{AddRun, BeginRun, CondemnedRun, DemoteEntries, ForgetRuns, LoseRun, Op, WrittenRun};
use holdfast_core::effect::Effect;
use holdfast_core::id::Revision;
use holdfast_core::index::row::RunState;
use holdfast_core::index::run::{self, Entry, Header, parse_run_path};
use holdfast_core::index::{IndexInfo, IndexRun, IndexState, RunToDelete, layout, read_hit};
use holdfast_core::queue::maintain_permit;
use holdfast_core::rules::JOB_ROWS_MAX;
use holdfast_core::view::Bucket;
use tokio::time::Instant;

use super::gc::{Horizon, delete_path};
use super::{Context, Error, Job, Kind, Round};
use crate::blobs::runs::{Cut, Failed, NewRun, Sink, WRITE_PATIENCE};
use crate::ops::bucket_ref;

/// Runs of one index past which they are merged.
pub const RUNS_BEFORE_MERGE: usize = 8;
/// Entries of one command that removes them from the state.
const DEMOTED_ENTRIES: usize = 5_000;
/// Files deleted in one round.
const DELETE_PAGE: usize = 256;
/// Pause while readers or the archive hold files back.
const HELD_PAUSE: Duration = Duration::from_secs(1);
/// A file that may still be written is deleted this long after its run was given up.
const ABANDONED_AGE: Duration = Duration::from_secs(WRITE_PATIENCE.as_secs() + 60);

/// The job.
#[derive(Default)]
pub(crate) struct Runs {
    /// Whether every run was looked for since the start.
    checked: bool,
    /// For files that are whole, and for those that may still be written.
    whole: Horizon,
    abandoned: Horizon,
    /// The run that the last merge could not read.
    suspect: Option<Revision>,
    failed: Option<Error>,
}

impl Job for Runs {
    const NAME: &'static str = "index_runs";
    /// Writes give no hint: this is how long entries may gather past the bound.
    const EVERY: Duration = Duration::from_secs(10);
    const WAKES_ON: Option<Effect> = Some(Effect::IndexQueued);

    async fn round(&mut self, context: &Context) -> Result<Round, Error> {
        let indexes = context.look(|view, permit| view.all_indexes(permit)).await?;
        if !self.checked {
            for (bucket, index) in &indexes {
                check(context, bucket, index).await?;
            }
            self.checked = true;
        }
        let held = self.delete_condemned(context).await?;
        let mut more = false;
        let may_have_runs = |index: &IndexInfo| !index.unique && !matches!(index.state, IndexState::Failed(_));
        for (bucket, index) in indexes.iter().filter(|(_, index)| may_have_runs(index)) {
            match step(context, bucket, index, &mut self.suspect).await {
                Ok(progressed) => more |= progressed,
                // Dropped, lost, or overtaken by another leader: the next look tells.
                Err(error) if error.kind() == Kind::Changed => more = true,
                Err(error) => self.failed = Some(error),
            }
        }
        match self.failed.take() {
            Some(error) => Err(error),
            None if more => Ok(Round::More),
            None if held => Ok(Round::Again(HELD_PAUSE)),
            None => Ok(Round::Done),
        }
    }
}

/// Does what is next for an index. Whether there may be more.
async fn step(
    context: &Context,
    bucket: &Bucket,
    index: &IndexInfo,
    suspect: &mut Option<Revision>,
) -> Result<bool, Error> {
    let id = index.id;
    let looked = context.look(move |view, permit| Ok((view.begun_run(permit, id)?, view.runs_of_index(permit, id)?)));
    let (begun, runs) = looked.await?;
    if let Some(begun) = begun {
        add(context, bucket, index, &begun, Vec::new(), None).await?;
    }
    if let Some(through) = runs.iter().filter(|run| !run.row.trimmed).map(|run| run.row.through).max() {
        demote(context, bucket, index, through).await?;
        return Ok(true);
    }
    if runs.len() > RUNS_BEFORE_MERGE {
        merge(context, bucket, index, newest(runs), suspect).await?;
        return Ok(true);
    }
    let in_state = index.bytes.saturating_sub(index.block_bytes);
    if in_state > context.config.index_head_bytes {
        return write_entries(context, bucket, index).await;
    }
    Ok(false)
}

/// Removes entries from the state that runs hold, in pages.
async fn demote(context: &Context, bucket: &Bucket, index: &IndexInfo, through: Revision) -> Result<(), Error> {
    let (id, mut after) = (index.id, None);
    loop {
        let looked =
            context.look(move |view, permit| view.demotable(permit, id, through, after, DEMOTED_ENTRIES)).await?;
        after = looked.more_after;
        let count = looked.postings.len() as u64;
        let op = DemoteEntries {
            bucket: bucket_ref(bucket),
            name: index.name.clone(),
            index: id,
            postings: looked.postings,
            trimmed: after.is_none().then_some(through),
        };
        context.commit(Op::DemoteEntries(op)).await?;
        context.stats.postings_demoted.fetch_add(count, Ordering::Relaxed);
        if after.is_none() {
            return Ok(());
        }
    }
}

/// Names the file of a new run.
async fn begin(context: &Context, bucket: &Bucket, index: &IndexInfo) -> Result<(IndexRun, NewRun), Error> {
    let op = BeginRun { bucket: bucket_ref(bucket), name: index.name.clone(), index: index.id };
    context.commit(Op::BeginRun(op)).await?;
    let id = index.id;
    let begun = context.look(move |view, permit| view.begun_run(permit, id)).await?;
    let begun = begun.ok_or(holdfast_core::error::Error::Changed)?;
    let header = Header { layout: layout(index.kind), index: id, revision: begun.revision };
    let new = NewRun { path: begun.row.path.clone(), header };
    Ok((begun, new))
}

async fn add(
    context: &Context,
    bucket: &Bucket,
    index: &IndexInfo,
    run: &IndexRun,
    replaces: Vec<Revision>,
    written: Option<WrittenRun>,
) -> Result<(), Error> {
    let (bucket, name) = (bucket_ref(bucket), index.name.clone());
    let op = AddRun { bucket, name, index: index.id, run: run.revision, replaces, written };
    context.commit(Op::AddRun(op)).await.map(drop)
}

/// Writes the entries that the state holds of an index to a run. Whether there were any.
async fn write_entries(context: &Context, bucket: &Bucket, index: &IndexInfo) -> Result<bool, Error> {
    let (begun, new) = begin(context, bucket, index).await?;
    let written = write_file(context, index, new).await?;
    let any = written.is_some();
    tracing::info!(bucket = index.bucket, index = index.name, ?written, "entries of an index were written to a run");
    context.stats.runs_written.fetch_add(u64::from(any), Ordering::Relaxed);
    add(context, bucket, index, &begun, Vec::new(), written).await?;
    Ok(any)
}

async fn write_file(context: &Context, index: &IndexInfo, new: NewRun) -> Result<Option<WrittenRun>, Error> {
    let (ledger, id) = (Arc::clone(&context.ledger), index.id);
    let fill = move |sink: &mut Sink| {
        let (local, permit) = (ledger.local(), maintain_permit()?);
        for entry in local.view().entries_for_run(&permit, id)? {
            sink.push(&entry?)?;
        }
        Ok::<_, Error>(local.revision())
    };
    context.blobs.runs().write(new, fill).await
}

/// The runs that are merged: the newest, as far back as the next one is at most twice what they come to; but two at least.
fn newest(mut runs: Vec<IndexRun>) -> Vec<IndexRun> {
    let (mut bytes, mut from) = (0, runs.len());
    while from > 0 && (runs.len() - from < 2 || runs[from - 1].row.bytes <= bytes * 2) {
        from -= 1;
        bytes += runs[from].row.bytes;
    }
    runs.split_off(from)
}

/// Writes one run in place of some. A run that cannot be read two times in a row is lost.
async fn merge(
    context: &Context,
    bucket: &Bucket,
    index: &IndexInfo,
    runs: Vec<IndexRun>,
    suspect: &mut Option<Revision>,
) -> Result<(), Error> {
    let (begun, new) = begin(context, bucket, index).await?;
    let through = runs.iter().map(|run| run.row.through).max().unwrap_or_default();
    // The newest first; but an entry that two of them have is the same in both.
    let (mut sources, mut feeds) = (Vec::new(), Vec::new());
    for run in runs.iter().rev() {
        let (source, feed) = context.blobs.runs().scan(run);
        sources.push(source);
        feeds.push(feed);
    }
    let (ledger, id) = (Arc::clone(&context.ledger), index.id);
    let fill = move |sink: &mut Sink| {
        let (local, permit) = (ledger.local(), maintain_permit()?);
        let view = local.view();
        for entry in run::merge(sources, |_| true) {
            let entry: Entry = entry.map_err(|Cut| Error::Closed)?;
            let hit = read_hit(&entry.key, &entry.value).ok_or(Error::Closed)?;
            if view.is_live_posting(&permit, id, hit.posting)? {
                sink.push(&entry)?;
            }
        }
        Ok::<_, Error>(through)
    };
    let writing = context.blobs.runs().write(new, fill);
    let (fed, written) = future::join(future::try_join_all(feeds), writing).await;
    // A scan that was cut is why the writer failed.
    if let Err(failed) = fed {
        if let Failed::Lost { run, why } = &failed
            && suspect.replace(*run) != Some(*run)
        {
            tracing::warn!(
                bucket = index.bucket,
                index = index.name,
                run,
                why,
                "a run seems lost, and is read once more"
            );
            context.blobs.runs().forget(index.id, *run).await;
            return Ok(());
        }
        return lost_or(context, bucket, index, failed).await;
    }
    let written = written?;
    tracing::info!(
        bucket = index.bucket,
        index = index.name,
        runs = runs.len(),
        ?written,
        "runs of an index were merged"
    );
    context.stats.runs_written.fetch_add(u64::from(written.is_some()), Ordering::Relaxed);
    let replaces = runs.iter().map(|run| run.revision).collect();
    add(context, bucket, index, &begun, replaces, written).await?;
    context.stats.runs_merged.fetch_add(runs.len() as u64, Ordering::Relaxed);
    Ok(())
}

/// Looks for the runs of an index, and reports one that is missing.
async fn check(context: &Context, bucket: &Bucket, index: &IndexInfo) -> Result<(), Error> {
    if index.runs == 0 {
        return Ok(());
    }
    let id = index.id;
    for run in context.look(move |view, permit| view.runs_of_index(permit, id)).await? {
        match context.blobs.runs().is_there(&run).await {
            Ok(true) => {}
            Ok(false) => {
                let failed =
                    Failed::Lost { run: run.revision, why: "its file is missing, or of another length".into() };
                match lost_or(context, bucket, index, failed).await {
                    Err(error) if error.kind() == Kind::Changed => return Ok(()),
                    // The others went with it.
                    reported => return reported,
                }
            }
            Err(Failed::Unavailable(error)) => return Err(error.into()),
            Err(failed) => return lost_or(context, bucket, index, failed).await,
        }
    }
    Ok(())
}

/// Reports a run that is lost, so that its index is built anew; gives back another failure.
async fn lost_or(context: &Context, bucket: &Bucket, index: &IndexInfo, failed: Failed) -> Result<(), Error> {
    let (run, why) = match failed {
        Failed::Lost { run, why } => (run, why),
        Failed::Unavailable(error) => return Err(error.into()),
    };
    tracing::error!(bucket = index.bucket, index = index.name, run, why, "a run of an index is lost: it is built anew");
    let (bucket, name) = (bucket_ref(bucket), index.name.clone());
    context.commit(Op::LoseRun(LoseRun { bucket, name, index: index.id, run })).await.map(drop)
}

impl Runs {
    /// Deletes the files of condemned runs that nobody can need. Whether some are held back.
    async fn delete_condemned(&mut self, context: &Context) -> Result<bool, Error> {
        let now = Instant::now();
        let (mut last, mut held) = (None, false);
        loop {
            let looked = context
                .look(move |view, permit| Ok((view.revision(), view.condemned_runs(permit, last, DELETE_PAGE)?)))
                .await?;
            let (revision, page) = looked;
            self.whole.see(now, revision);
            self.abandoned.see(now, revision);
            last = page.last().map(|run| run.run);
            let is_last = page.len() < DELETE_PAGE;
            let mut deleted = Vec::new();
            for condemned in page {
                if !self.may_go(context, now, &condemned) {
                    held |= condemned.row.state == RunState::Live;
                    continue;
                }
                match delete(context, &condemned).await {
                    Ok(()) => deleted.push(condemned.run),
                    Err(error) => self.failed = Some(error),
                }
            }
            forget(context, deleted).await?;
            if is_last {
                return Ok(held);
            }
        }
    }

    /// Whether nobody can need the file of a condemned run, nor write it.
    fn may_go(&mut self, context: &Context, now: Instant, condemned: &RunToDelete) -> bool {
        let revision = condemned.run.condemned;
        let unneeded = revision <= context.ledger.archived() && context.blobs.readers().clear_below(revision);
        unneeded
            && match condemned.row.state {
                RunState::Live => self.whole.is_past(now, revision, context.config.peers_read_max),
                RunState::Writing => self.abandoned.is_past(now, revision, ABANDONED_AGE),
            }
    }
}

async fn delete(context: &Context, condemned: &RunToDelete) -> Result<(), Error> {
    if parse_run_path(&condemned.row.path).is_none_or(|(_, revision, _)| revision != condemned.run.run) {
        let path = &condemned.row.path;
        tracing::error!(path, "not deleted: its row names a file that is not this run's");
        return Ok(());
    }
    delete_path(context, &condemned.row.path).await?;
    context.blobs.runs().forget(condemned.run.index, condemned.run.run).await;
    Ok(())
}

/// Tells the state that files are gone.
async fn forget(context: &Context, runs: Vec<CondemnedRun>) -> Result<(), Error> {
    if runs.is_empty() {
        return Ok(());
    }
    let count = runs.len() as u64;
    context.commit(Op::ForgetRuns(ForgetRuns { runs })).await?;
    context.stats.runs_deleted.fetch_add(count, Ordering::Relaxed);
    Ok(())
}

const _: () = assert!(DELETE_PAGE <= JOB_ROWS_MAX, "a page of files fits one command");

#[cfg(test)]
mod tests;
