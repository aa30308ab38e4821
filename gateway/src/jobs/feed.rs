//! Removes events that are older, or more, than are to be kept.

use std::sync::atomic::Ordering;
use std::time::Duration;

use holdfast_core::command::{Op, Reply, TrimEvents};
use holdfast_core::effect::Effect;
use holdfast_core::rules::JOB_ROWS_MAX;

use super::{Context, Error, Job, Round};

/// The job.
pub(crate) struct TrimFeed;

impl Job for TrimFeed {
    const NAME: &'static str = "feed";
    const EVERY: Duration = Duration::from_secs(10);
    const WAKES_ON: Option<Effect> = None;

    async fn round(&mut self, context: &Context) -> Result<Round, Error> {
        let (keep, keep_bytes) = context.config.events_keep;
        let keep_ms = u64::try_from(keep.as_millis()).unwrap_or(u64::MAX);
        let looked = context.look(move |view, _| {
            let before_ms = view.now_ms()?.saturating_sub(keep_ms);
            let is_old = view.oldest_event_ms()?.is_some_and(|oldest_ms| oldest_ms < before_ms);
            Ok((is_old || view.feed()?.bytes > keep_bytes).then_some(before_ms))
        });
        let Some(before_ms) = looked.await? else { return Ok(Round::Done) };
        let op = TrimEvents { before_ms, keep_bytes, rows: JOB_ROWS_MAX as u32 };
        match context.commit(Op::TrimEvents(op)).await? {
            Reply::Trimmed { rows, more } => {
                context.stats.rows_trimmed.fetch_add(u64::from(rows), Ordering::Relaxed);
                Ok(if more { Round::More } else { Round::Done })
            }
            _ => Ok(Round::Done),
        }
    }
}
