//! Every node opens the runs that the state names before a search comes to them, so that a lookup is one ranged read from the
//! first. What fails is left to the search, which tells a run that is lost from a backend that does not answer.

use std::time::Duration;

use holdfast_core::effect::Effect;

use super::super::{Context, Error, wait};
use crate::blobs::runs::OPEN_BYTES_MAX_ALL;

/// How often runs are looked for without a hint.
const EVERY: Duration = Duration::from_secs(60);

/// Opens runs until it is dropped.
pub(in crate::jobs) async fn run(context: Context) {
    let mut effects = context.ledger.effects();
    loop {
        if let Err(error) = open_all(&context).await {
            tracing::debug!(error = crate::backend::chain(&error), "runs are opened when they are searched");
        }
        wait(&mut effects, Some(Effect::IndexQueued), EVERY).await;
    }
}

/// Opens as many runs as memory is for.
pub(super) async fn open_all(context: &Context) -> Result<(), Error> {
    let look = context.look(|view, permit| {
        let mut all = Vec::new();
        for (_, index) in view.all_indexes(permit)?.iter().filter(|(_, index)| index.runs > 0) {
            all.extend(view.runs_of_index(permit, index.id)?);
        }
        Ok(all)
    });
    let mut left = OPEN_BYTES_MAX_ALL;
    for run in look.await? {
        let Some(rest) = left.checked_sub(run.row.bytes.saturating_sub(run.row.fences_at)) else { continue };
        left = rest;
        if let Err(why) = context.blobs.runs().open(&run).await {
            tracing::debug!(path = run.row.path, ?why, "a run is opened when it is searched");
        }
    }
    Ok(())
}
