//! The replicated state as jobs use it.

use std::sync::Arc;

use async_trait::async_trait;
use holdfast_core::command::Reply;
use holdfast_core::id::Revision;
use holdfast_core::rules::authorize::AuthorizedOp;
use tokio::sync::broadcast;
use tokio::time::Instant;

use crate::api::request_id;
use crate::blobs::{Facts, LocalState};
use crate::cluster;
use crate::error::Error as GatewayError;
use crate::gateway::Gateway;
use crate::jobs::{self, Effects, Ledger};

/// A ledger over a gateway.
pub(super) fn ledger(gateway: &Gateway) -> Arc<dyn Ledger> {
    Arc::new(GatewayLedger(gateway.clone()))
}

struct GatewayLedger(Gateway);

impl Facts for GatewayLedger {
    fn local(&self) -> LocalState {
        self.0.facts().local()
    }
}

#[async_trait]
impl Ledger for GatewayLedger {
    async fn commit(&self, op: AuthorizedOp, deadline: Instant) -> Result<Reply, jobs::Error> {
        let committed = tokio::time::timeout_at(deadline, self.0.commit_job(op, request_id::mint())).await;
        match committed {
            Ok(Ok((_, reply))) => Ok(reply),
            Ok(Err(GatewayError::Refused(refusal))) => Ok(Reply::Refused(refusal)),
            // Only what is sure counts as not done: a job gives bytes back on it.
            Ok(Err(error @ GatewayError::HeldBack(_))) => Err(jobs::Error::NotCommitted(Arc::new(error))),
            Ok(Err(GatewayError::Cluster(
                error @ (cluster::Error::NoSpace { .. }
                | cluster::Error::Busy
                | cluster::Error::TooLarge { .. }
                | cluster::Error::Unavailable(_)),
            ))) => Err(jobs::Error::NotCommitted(Arc::new(error))),
            Ok(Err(error)) => Err(jobs::Error::UnknownOutcome(Arc::new(error))),
            Err(late) => Err(jobs::Error::UnknownOutcome(Arc::new(late))),
        }
    }

    fn effects(&self) -> broadcast::Receiver<Effects> {
        self.0.cluster().effects()
    }

    fn leads(&self) -> bool {
        self.0.cluster().leads()
    }

    fn archived(&self) -> Revision {
        self.0.archive().map_or(Revision::MAX, crate::archive::Archive::may_delete_through)
    }
}
