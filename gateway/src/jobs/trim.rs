//! Removes rows whose time is over: ended history, finished uploads, tombstones. An idle cluster proposes nothing.

use std::sync::atomic::Ordering;
use std::time::Duration;

use holdfast_core::command::{Op, Reply, Trim as TrimOp};
use holdfast_core::effect::Effect;
use holdfast_core::rules::JOB_ROWS_MAX;

use super::{Context, Error, Job, Round};
use crate::clock::now_ms;

/// The job.
pub(crate) struct Trim;

impl Job for Trim {
    const NAME: &'static str = "trim";
    const EVERY: Duration = Duration::from_secs(5);
    const WAKES_ON: Option<Effect> = None;

    async fn round(&mut self, context: &Context) -> Result<Round, Error> {
        let now_ms = now_ms();
        if !context.look(move |view, permit| view.is_trim_due(permit, now_ms)).await? {
            return Ok(Round::Done);
        }
        let rows = JOB_ROWS_MAX as u32;
        match context.commit(Op::Trim(TrimOp { rows })).await? {
            Reply::Trimmed { rows, more } => {
                context.stats.rows_trimmed.fetch_add(u64::from(rows), Ordering::Relaxed);
                Ok(if more { Round::More } else { Round::Done })
            }
            _ => Ok(Round::Done),
        }
    }
}
