//! What of the running node its own callers and its peers both use.

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::errors::ClientWriteError;
use tokio::time::{Instant, timeout_at};

use super::clocks::Clocks;
use super::engine;
use super::error::Error;
use super::forward::Attempt;
use super::log::Log;
use super::machine;
use super::raft::{Consensus, ELECTION_TIMEOUT_MS_MAX, Node, Outcome, Pending, Proposal};
use super::space::Space;
use super::threads::Threads;
use super::{ProposeOptions, StateView};
use crate::clock::Clock;

/// A leader refuses a stamp that is further than this from the cluster's time: state time is the largest stamp, and replies are
/// remembered by stamp, so a wrong clock would make every node forget too early.
const STAMP_DRIFT_MAX: Duration = Duration::from_secs(300);
/// A leader that no majority has acknowledged for this long is not one to send requests to.
pub(super) const SILENCE_MAX: Duration = Duration::from_millis(2 * ELECTION_TIMEOUT_MS_MAX);

/// Says why nothing may be proposed now, if so; told whether the command only frees space.
pub type Admission = Box<dyn Fn(bool) -> Result<(), String> + Send + Sync>;

/// The running parts. Clones share them.
#[derive(Clone)]
pub(super) struct Local {
    pub node: u64,
    pub raft: Consensus,
    pub log: Log,
    pub space: Arc<Space>,
    pub machine: Arc<machine::Shared>,
    /// Asked where commands enter the log, whichever node they come from.
    pub admission: Arc<OnceLock<Admission>>,
    pub threads: Threads,
    pub clock: Clock,
    pub clocks: Clocks,
}

impl Local {
    /// Proposes here, once.
    pub(super) async fn propose_once(&self, proposal: Proposal, options: ProposeOptions) -> Attempt {
        match self.hand_over(proposal, options).await {
            Ok(attempt) => attempt,
            Err(Error::UnknownOutcome(why)) => Attempt::Unknown(why),
            Err(error) => Attempt::Failed(error),
        }
    }

    async fn hand_over(&self, proposal: Proposal, options: ProposeOptions) -> Result<Attempt, Error> {
        let ProposeOptions { deadline, frees_space } = options;
        if let Some(admission) = self.admission.get() {
            admission(frees_space).map_err(Error::Unavailable)?;
        }
        self.check_stamp(proposal.command.stamp_ms)?;
        let held = self.space.admit(proposal.bytes.len(), frees_space, deadline).await?;
        let (pending, result) = Pending::new(held);
        match timeout_at(deadline, self.raft.client_write_ff(proposal, Some(pending))).await {
            Err(_) => return Err(Error::Busy),
            Ok(Err(fatal)) => return Err(Error::Fatal(fatal.to_string())),
            Ok(Ok(())) => {}
        }
        let unknown = |why: &str| Error::UnknownOutcome(why.into());
        let result = timeout_at(deadline, result).await.map_err(|_| unknown("the deadline passed"))?;
        match result.map_err(|_| unknown("the node is stopping"))? {
            Ok(done) => match done.data {
                Outcome(Some(committed)) => Ok(Attempt::Done(committed)),
                Outcome(None) => Err(Error::Fatal("a command was applied without a reply".into())),
            },
            // Said before it is appended only.
            Err(ClientWriteError::ForwardToLeader(_)) => Ok(Attempt::NoLeader),
            Err(error @ ClientWriteError::LogEntryDiscarded(_)) => Err(Error::UnknownOutcome(error.to_string())),
            // Answers to calls that this node does not make with a command.
            Err(error @ (ClientWriteError::ChangeMembershipError(_) | ClientWriteError::PreconditionFailed(_))) => {
                Err(Error::Fatal(error.to_string()))
            }
        }
    }

    /// Whether the proposer's clock can be trusted, by the cluster's.
    fn check_stamp(&self, stamp_ms: u64) -> Result<(), Error> {
        let drift = u64::try_from(STAMP_DRIFT_MAX.as_millis()).expect("minutes");
        let now_ms = (self.clock)().saturating_add_signed(self.clocks.ahead_ms());
        // Behind state time it would be applied as expired, even when the clocks say that state time is ahead.
        let latest_ms = now_ms.max(self.state_ms());
        let behind = stamp_ms.saturating_add(drift) < latest_ms;
        // State time never goes back, clocks do: whoever continues from it is right.
        let ahead = stamp_ms > now_ms.saturating_add(drift) && stamp_ms > self.state_ms().saturating_add(drift);
        if !behind && !ahead {
            return Ok(());
        }
        let (off, way) = if behind { (latest_ms - stamp_ms, "behind") } else { (stamp_ms - now_ms, "ahead of") };
        Err(Error::Unavailable(format!(
            "this node's clock is {} s {way} the cluster's, which is the median of its members', and {} s are accepted: set the \
             clock right",
            off / 1000,
            STAMP_DRIFT_MAX.as_secs()
        )))
    }

    /// State time: no clock that is behind it says anything true.
    pub(super) fn state_ms(&self) -> u64 {
        self.machine.state_ms.load(Ordering::Acquire)
    }

    pub(super) fn view(&self) -> Result<StateView, Error> {
        let view = self.machine.store.view();
        let applied = engine::applied(&view).map_err(|error| self.machine.store.failed(error))?;
        Ok(StateView { view, revision: applied.map_or(0, |id| self.machine.revision(id.index)) })
    }

    pub(super) async fn wait_applied(&self, revision: u64, deadline: Instant) -> Result<(), Error> {
        let late = |_| Error::Unavailable(format!("revision {revision} is not applied on this node yet"));
        timeout_at(deadline, self.machine.applied.reaches(revision)).await.map(drop).map_err(late)
    }

    /// Whether this node leads, as far as it knows.
    pub(super) fn leads(&self) -> bool {
        let metrics = self.raft.server_metrics().borrow_watched().clone();
        metrics.state == ServerState::Leader && metrics.vote.committed && metrics.vote.leader_id.node_id == self.node
    }

    /// The leader, if it is known and another node.
    pub(super) fn leader_elsewhere(&self) -> Option<(u64, Node)> {
        let metrics = self.raft.server_metrics().borrow_watched().clone();
        let leader = metrics.current_leader.filter(|leader| *leader != self.node)?;
        let node = metrics.membership_config.get_node(&leader)?.clone();
        Some((leader, node))
    }
}
