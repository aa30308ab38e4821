//! Removes messages that are older, or more, than their topic keeps, and what deleted topics and groups left behind.

use std::sync::atomic::Ordering;
use std::time::Duration;

use holdfast_core::command::{Op, Reply, TrimTopic};
use holdfast_core::effect::Effect;
use holdfast_core::rules::JOB_ROWS_MAX;

use super::{Context, Error, Job, Round};
use crate::clock::now_ms;

/// Topics that are looked at together.
const PAGE: usize = 1000;

/// The job. It goes through all topics, a page a round.
#[derive(Default)]
pub(crate) struct TrimTopics {
    /// The last topic that was looked at.
    after: String,
}

impl Job for TrimTopics {
    const NAME: &'static str = "topics";
    const EVERY: Duration = Duration::from_secs(10);
    const WAKES_ON: Option<Effect> = None;

    async fn round(&mut self, context: &Context) -> Result<Round, Error> {
        let (after, clock_ms) = (self.after.clone(), now_ms());
        let looked = context.look(move |view, permit| {
            let now_ms = view.now_ms()?.max(clock_ms);
            let page = view.topics(permit, &after, PAGE)?;
            let last = if page.len() < PAGE { None } else { page.last().map(|(name, _)| name.clone()) };
            let due = page.into_iter().filter(|(_, row)| row.is_trim_due(now_ms)).map(|(name, _)| Some(name));
            let mut due: Vec<Option<String>> = due.collect();
            if last.is_none() && view.has_doomed_topics(permit)? {
                due.push(None);
            }
            Ok((due, last))
        });
        let (due, last) = looked.await?;
        let mut unfinished = false;
        for topic in due {
            // One step each, so that no topic waits for a large one.
            let op = TrimTopic { topic, rows: JOB_ROWS_MAX as u32 };
            if let Reply::Trimmed { rows, more } = context.commit(Op::TrimTopic(op)).await? {
                context.stats.rows_trimmed.fetch_add(u64::from(rows), Ordering::Relaxed);
                unfinished |= more;
            }
        }
        if !unfinished {
            self.after = last.unwrap_or_default();
        }
        Ok(if unfinished || !self.after.is_empty() { Round::More } else { Round::Done })
    }
}
