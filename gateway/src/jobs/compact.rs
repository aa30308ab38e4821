//! Puts one blob in place of many short extents of a page: what a mount leaves that writes here and there.
//!
//! A page that is nearly full is urgent: what is written to it next may be refused. Others wait until clients are quiet.
//! What changed while it was read is refused where the command is applied, and looked at again in a later pass.

use std::sync::atomic::Ordering;
use std::time::Duration;

use holdfast_core::command::Op;
use holdfast_core::effect::Effect;
use holdfast_core::record::ContentId;
use tokio::time::Instant;

use super::{Context, Error, Job, Kind, Round};
use crate::blobs::compact::{Compacted, CrowdedPage, URGENT_EXTENTS, runs};

/// Pages of one look: each is in memory, with its extents.
const PAGES: usize = 16;
/// How long reading and writing one blob may take.
const COMPACT_PATIENCE: Duration = Duration::from_secs(10 * 60);
/// Pause while clients are not quiet, and between looks.
const PAUSE: Duration = Duration::from_millis(500);
/// While an urgent page may come up behind others that wait for quiet.
const WAIT_PAUSE: Duration = Duration::from_secs(2);

/// The job: where it is in the queue.
#[derive(Default)]
pub(crate) struct Compact {
    last: Option<(ContentId, u32)>,
    /// Pages of this pass that wait for quiet.
    waiting: bool,
    failed: Option<Error>,
}

impl Job for Compact {
    const NAME: &'static str = "compact";
    const EVERY: Duration = Duration::from_secs(60);
    const WAKES_ON: Option<Effect> = Some(Effect::CompactQueued);

    async fn round(&mut self, context: &Context) -> Result<Round, Error> {
        let last = self.last;
        let pages = context.look(move |view, permit| view.to_compact(permit, last, PAGES)).await?;
        let is_last = pages.len() < PAGES;
        for page in pages {
            self.last = Some((page.content, page.page));
            let urgent = page.of_many || page.extents.len() > URGENT_EXTENTS;
            let page = CrowdedPage { content: page.content, page: page.page, extents: page.extents, name: page.name };
            if !urgent && !context.is_quiet() {
                self.waiting = true;
                continue;
            }
            if let Err(error) = compact(context, &page, urgent).await
                && error.kind() != Kind::Changed
            {
                self.failed = Some(error);
            }
        }
        if !is_last {
            return Ok(Round::Again(PAUSE));
        }
        self.last = None;
        let waiting = std::mem::take(&mut self.waiting);
        match self.failed.take() {
            Some(error) => Err(error),
            None if waiting => Ok(Round::Again(WAIT_PAUSE)),
            None => Ok(Round::Done),
        }
    }
}

/// Compacts what of a page is worth it, a blob at a time.
async fn compact(context: &Context, page: &CrowdedPage, urgent: bool) -> Result<(), Error> {
    for run in runs(&page.extents, urgent) {
        let deadline = Instant::now() + COMPACT_PATIENCE;
        let Compacted { op, upload } = context.blobs.compact(page, run.clone(), deadline).await?;
        match context.commit(Op::CompactPage(op)).await {
            Ok(_) => {}
            // It may be applied: the new blob stays, or is found by the sweep.
            Err(error @ Error::UnknownOutcome(_)) => return Err(error),
            Err(error) => {
                if let Some(upload) = upload {
                    context.blobs.discard_upload(upload);
                }
                return Err(error);
            }
        }
        context.stats.extents_compacted.fetch_add(run.len() as u64, Ordering::Relaxed);
    }
    Ok(())
}
