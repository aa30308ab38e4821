//! A search of an index: what its runs in the backend hold, united with the entries in the state, and checked against it.

use std::sync::Arc;
use std::time::Duration;

use holdfast_core::command::{LoseRun, Op};
use holdfast_core::error::Error as Refusal;
use holdfast_core::id::{RequestId, Revision};
use holdfast_core::index::{Found, IndexInfo, Interval, Lookup, RunHit, seeks};
use holdfast_core::rules::authorize::{AuthorizedOp, Caller, Context as AuthContext, Permit};

use super::bucket_ref;
use crate::blobs::runs::{Failed, Sought};
use crate::clock::now_ms;
use crate::cluster::StateView;
use crate::error::Error;
use crate::gateway::Gateway;

/// How long the report of a lost run may take; a later search reports it again.
const REPORT_PATIENCE: Duration = Duration::from_secs(10);

/// What is asked of an index.
pub(super) struct Search {
    /// The index, as the state that is searched has it.
    pub(super) index: IndexInfo,
    /// Only objects whose keys begin so.
    pub(super) prefix: String,
    /// Where the tuples lie.
    pub(super) intervals: Vec<Interval>,
    /// Most entries, objects and blocks together.
    pub(super) rows_max: usize,
}

impl Gateway {
    /// What an index knows at a state, and how many runs were searched for it. `None` when there is too much, or it cannot tell:
    /// then a scan answers.
    ///
    /// # Errors
    /// [`Error::Blobs`] when the backend does not answer. A run that is damaged or missing is reported, so that the index is
    /// built anew, and the answer is `None`.
    pub(super) async fn search_index(
        &self,
        state: &StateView,
        permit: &Permit,
        search: Search,
    ) -> Result<Option<(Found, usize)>, Error> {
        // Runs of this state are not deleted while it is held.
        let Some(_guard) = self.blobs().readers().enter(state.revision()) else { return Ok(None) };
        let (search, own) = (Arc::new(search), permit.clone());
        let Some((hits, runs)) = self.search_runs(state, permit, &search).await? else { return Ok(None) };
        let found = self.read_many(state.clone(), move |view| {
            let Search { index, prefix, intervals, rows_max } = &*search;
            let lookup = Lookup { index, prefix, intervals, rows_max: *rows_max };
            Ok(view.search(&own, &view.bucket(&own)?, &lookup, &hits)?)
        });
        Ok(found.await?.value.map(|found| (found, runs)))
    }

    async fn search_runs(
        &self,
        state: &StateView,
        permit: &Permit,
        search: &Search,
    ) -> Result<Option<(Vec<RunHit>, usize)>, Error> {
        let index = &search.index;
        if index.runs == 0 {
            return Ok(Some((Vec::new(), 0)));
        }
        let Some(seeks) = seeks(index, &search.intervals) else { return Ok(None) };
        let (own, id) = (permit.clone(), index.id);
        let runs = self.read_many(state.clone(), move |view| Ok(view.runs_of_index(&own, id)?)).await?.value;
        match self.blobs().runs().search(&runs, &seeks, search.rows_max).await {
            Ok(Sought::Hits(hits)) => Ok(Some((hits, runs.len()))),
            Ok(Sought::TooMany) => Ok(None),
            Err(Failed::Unavailable(error)) => Err(error.into()),
            Err(Failed::Lost { run, why }) => {
                self.report_lost(state, permit, index, run, &why).await;
                Ok(None)
            }
        }
    }

    /// Tells the state that a run is lost. One that is there no more by now, in the newest state, is none.
    async fn report_lost(&self, state: &StateView, permit: &Permit, index: &IndexInfo, run: Revision, why: &str) {
        tracing::error!(bucket = index.bucket, index = index.name, run, why, "a run of an index is lost");
        let reported = async {
            let bucket = bucket_ref(&super::view_of(state).bucket(permit)?);
            let op = Op::LoseRun(LoseRun { bucket, name: index.name.clone(), index: index.id, run });
            let op = AuthorizedOp::authorize(op, Caller::System, &AuthContext::default()).map_err(Error::Refused)?;
            self.commit_job(op, RequestId::new(now_ms(), rand::random())).await
        };
        let told = match tokio::time::timeout(REPORT_PATIENCE, reported).await {
            Ok(Ok(_)) => "the index is built anew",
            Ok(Err(Error::Refused(Refusal::Changed | Refusal::NoSuchIndex | Refusal::NoSuchBucket))) => {
                "the index has another run by now"
            }
            Ok(Err(_)) | Err(_) => "that could not be reported; the next search does",
        };
        tracing::warn!(bucket = index.bucket, index = index.name, run, told, "objects are read instead");
    }
}
