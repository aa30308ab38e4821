//! Whether the runs of indexes are there that the recovered state names, and which it does not know.
//!
//! Every run is looked for: there are few. One that is missing costs no answer: the first node that starts has its index built
//! anew, and until then queries read objects.

use std::collections::BTreeSet;

use holdfast_core::index::run::RUNS_PREFIX;
use holdfast_core::index::{IndexRun, IndexState};
use holdfast_core::kv::KvRead;
use holdfast_core::queue::maintain_permit;
use holdfast_core::state::Stop;
use holdfast_core::view::View;
use serde::Serialize;

use super::blobs::{Wanted, head, note};
use super::{Error, Report};
use crate::archive::names;
use crate::backend::Backend;

/// What was found of runs.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Runs {
    /// Runs of the state.
    pub known: u64,
    /// Of these, how many are not there, or have another length.
    pub missing: u64,
    /// Their names, the first of them.
    pub missing_names: Vec<String>,
    /// Files among runs that no row names: lost and found. Nothing deletes them by itself.
    pub unknown: u64,
    /// Their bytes.
    pub unknown_bytes: u64,
    /// Their names, the first of them.
    pub unknown_names: Vec<String>,
}

/// Looks for runs of the state in the backend, and for files there that it does not know.
pub(super) async fn look_for(
    backend: &dyn Backend,
    view: &impl KvRead,
    report: &mut Report,
    tell: &impl Fn(String),
) -> Result<(), Error> {
    let (live, mut known) = of_state(view)?;
    report.runs.known = live.len() as u64;
    if !live.is_empty() {
        tell(format!("looking for {} runs of indexes", live.len()));
    }
    for run in live {
        let wanted = Wanted { path: run.row.path, length: run.row.bytes };
        if !head(backend, &wanted).await? {
            report.runs.missing += 1;
            tell(format!("{} is missing: its index will be built anew", wanted.path));
            note(&mut report.runs.missing_names, &wanted.path);
        }
        known.insert(wanted.path);
    }
    names::each(backend, RUNS_PREFIX, None, |entry| {
        if !known.contains(entry.path.as_str()) {
            report.runs.unknown += 1;
            report.runs.unknown_bytes += entry.length;
            note(&mut report.runs.unknown_names, entry.path.as_str());
        }
        Ok(())
    })
    .await
}

/// The runs that searches read, and the names of those that are begun or condemned.
fn of_state(view: &impl KvRead) -> Result<(Vec<IndexRun>, BTreeSet<String>), Error> {
    let permit = maintain_permit().map_err(Stop::from)?;
    let view = View::new(view, 0);
    let (mut live, mut others) = (Vec::new(), BTreeSet::new());
    for (_, index) in view.all_indexes(&permit)? {
        if !matches!(index.state, IndexState::Failed(_)) {
            live.extend(view.runs_of_index(&permit, index.id)?);
        }
        others.extend(view.begun_run(&permit, index.id)?.map(|run| run.row.path));
    }
    let condemned = view.condemned_runs(&permit, None, usize::MAX)?;
    others.extend(condemned.into_iter().map(|run| run.row.path));
    Ok((live, others))
}
