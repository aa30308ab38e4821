//! Deletes the bytes of condemned blobs, then forgets them.
//!
//! A blob is in the queue from the command that took its last reference. Its bytes go when no read of this node is of an
//! older state (invariant 6), where other nodes serve reads also not before the longest of theirs has ended
//! ([`super::JobsConfig::peers_read_max`]), and the command is archived (a recovery that lacked it would need them). Its
//! row goes only after that, so a crash in between finds it again. A blob that cannot be deleted stays in the queue and
//! does not hold up the others.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::{StreamExt as _, stream};
use holdfast_core::command::{Blobs as BlobList, Op};
use holdfast_core::effect::Effect;
use holdfast_core::id::{BlobId, Revision};
use holdfast_core::path::parse_blob_path;
use holdfast_core::queue::Condemned;
use holdfast_core::record::Location;
use tokio::time::Instant;

use super::{Context, Error, Job, Round};
use crate::backend::{DeleteOptions, ObjectPath};

/// Blobs of one round.
pub const GC_PAGE: usize = 256;
/// Deletes at a time.
pub const GC_DELETES: usize = 16;
/// How long one delete may take.
pub const DELETE_PATIENCE: Duration = Duration::from_secs(30);
/// Pause while readers or the archive hold blobs back.
const READERS_PAUSE: Duration = Duration::from_secs(1);
/// States remembered to know how old one is, each this long after the one before.
const HORIZON_STEP: Duration = Duration::from_secs(10);
const HORIZON_STATES_MAX: usize = 1024;

/// The job: where it is in the queue.
#[derive(Default)]
pub(crate) struct Gc {
    last: Option<(Revision, BlobId)>,
    failed: Option<Error>,
    horizon: Horizon,
}

/// Since when this process knows that a state is past.
#[derive(Default)]
pub(super) struct Horizon(VecDeque<(Instant, Revision)>);

impl Horizon {
    /// Remembers that `revision` is the state of now.
    pub(super) fn see(&mut self, now: Instant, revision: Revision) {
        if self.0.back().is_none_or(|(seen, _)| now.duration_since(*seen) >= HORIZON_STEP) {
            self.0.push_back((now, revision));
            if self.0.len() > HORIZON_STATES_MAX {
                self.0.pop_front();
            }
        }
    }

    /// Whether the state of `revision` is at least `age` old. After a start, or a change of the leader, it is not for a while.
    pub(super) fn is_past(&mut self, now: Instant, revision: Revision, age: Duration) -> bool {
        // Of the states that are old enough only the newest matters.
        while self.0.get(1).is_some_and(|(seen, _)| now.duration_since(*seen) >= age) {
            self.0.pop_front();
        }
        age.is_zero()
            || self.0.front().is_some_and(|(seen, state)| now.duration_since(*seen) >= age && revision <= *state)
    }
}

impl Job for Gc {
    const NAME: &'static str = "gc";
    const EVERY: Duration = Duration::from_secs(60);
    const WAKES_ON: Option<Effect> = Some(Effect::BlobsCondemned);

    async fn round(&mut self, context: &Context) -> Result<Round, Error> {
        let last = self.last;
        let looked = context.look(move |view, permit| Ok((view.revision(), view.condemned(permit, last, GC_PAGE)?)));
        let (revision, mut page) = looked.await?;
        let is_last = page.len() < GC_PAGE;
        self.horizon.see(Instant::now(), revision);
        let held = self.hold_back(context, &mut page);
        self.last = page.last().map(|blob| (blob.revision, blob.blob)).or(last);
        let deleted = self.delete(context, page).await;
        forget(context, &deleted).await?;
        context.stats.blobs_deleted.fetch_add(deleted.len() as u64, Ordering::Relaxed);
        if !is_last && !held {
            return Ok(Round::More);
        }
        // The next pass begins anew, with what could not be deleted.
        self.last = None;
        match self.failed.take() {
            Some(error) => Err(error),
            None if held => Ok(Round::Again(READERS_PAUSE)),
            None => Ok(Round::Done),
        }
    }
}

impl Gc {
    /// Cuts the page where readers or a recovery need blobs; whether any do.
    fn hold_back(&mut self, context: &Context, page: &mut Vec<Condemned>) -> bool {
        let (readers, now, age) = (context.blobs.readers(), Instant::now(), context.config.peers_read_max);
        let archived = context.ledger.archived();
        let mut clear = 0;
        while let Some(blob) = page.get(clear)
            && blob.revision <= archived
            && readers.clear_below(blob.revision)
            && self.horizon.is_past(now, blob.revision, age)
        {
            clear += 1;
        }
        let held = clear < page.len();
        page.truncate(clear);
        held
    }

    /// Deletes the bytes of a page; gives back the blobs whose bytes are gone.
    async fn delete(&mut self, context: &Context, page: Vec<Condemned>) -> Vec<BlobId> {
        let deletes = page.into_iter().map(|blob| async move { (blob.blob, delete(context, &blob).await) });
        let mut results = stream::iter(deletes).buffer_unordered(GC_DELETES);
        let mut deleted = Vec::new();
        while let Some((blob, result)) = results.next().await {
            match result {
                Ok(true) => deleted.push(blob),
                Ok(false) => {}
                Err(error) => self.failed = Some(error),
            }
        }
        deleted
    }
}

/// Deletes a blob's bytes, wherever they are; `false` when its row names a file that is not its own.
async fn delete(context: &Context, condemned: &Condemned) -> Result<bool, Error> {
    for location in &condemned.row.locations {
        let Location::Path(path) = location else { continue };
        if parse_blob_path(path).is_none_or(|(_, blob)| blob != condemned.blob) {
            tracing::error!(blob = %condemned.blob, path, "not deleted: its row names a file that is not this blob's");
            return Ok(false);
        }
        delete_path(context, path).await?;
    }
    context.blobs.forget(condemned.blob).await;
    Ok(true)
}

pub(super) async fn delete_path(context: &Context, path: &str) -> Result<(), Error> {
    let failed = |source| Error::Backend { doing: "delete a blob", source };
    let path = ObjectPath::new(path).map_err(failed)?;
    let options = DeleteOptions { deadline: Some(Instant::now() + DELETE_PATIENCE) };
    context.blobs.backend().delete(&path, options).await.map_err(failed)
}

/// Tells the state that the bytes of condemned blobs are gone.
pub(super) async fn forget(context: &Context, blobs: &[BlobId]) -> Result<(), Error> {
    if !blobs.is_empty() {
        context.commit(Op::Forget(BlobList { blobs: blobs.to_vec() })).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_past_when_it_was_seen_long_enough_ago() {
        let (mut horizon, began, age) = (Horizon::default(), Instant::now(), Duration::from_secs(60));
        assert!(horizon.is_past(began, 7, Duration::ZERO));
        horizon.see(began, 10);
        horizon.see(began + HORIZON_STEP / 2, 11);
        horizon.see(began + HORIZON_STEP, 12);
        assert!(!horizon.is_past(began + HORIZON_STEP, 7, age), "nobody knows how old it is");
        assert!(horizon.is_past(began + age, 10, age) && !horizon.is_past(began + age, 11, age));
        assert!(horizon.is_past(began + age + HORIZON_STEP, 12, age) && !horizon.is_past(began + age * 2, 13, age));
    }
}
