//! A command reaches the leader from any node, and is applied once.
//!
//! A node that does not lead sends the command's bytes to the leader and waits until its own state has the result, so
//! that a caller finds its write here. Every further attempt sends the same bytes: the state machine answers a second copy
//! with the first reply, so an attempt whose reply was lost costs nothing. If the fate of any attempt is open at the
//! deadline, so is that of the command: [`Error::UnknownOutcome`], and nothing else is said after such an attempt.

use bytes::Bytes;
use holdfast_core::command::Command;
use tokio::time::{Duration, Instant, sleep};

use super::error::Error;
use super::raft::Proposal;
use super::{Cluster, Committed, NO_LEADER_RETRY, ProposeOptions};

/// How long one attempt through the leader may take before the same bytes are sent again.
const ATTEMPT: Duration = Duration::from_secs(3);

/// How one attempt ended.
#[derive(Debug)]
pub(super) enum Attempt {
    Done(Committed),
    /// Nothing was done: whoever was asked does not lead.
    NoLeader,
    /// It may have been done.
    Unknown(String),
    /// Nothing was done, and another attempt would end the same way.
    Failed(Error),
}

impl Cluster {
    /// Proposes a command, here or through the leader, and waits until it is durable and applied on this node.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::NoSpace`], [`Error::Busy`], [`Error::Unavailable`]: nothing was done.
    /// [`Error::UnknownOutcome`]: it may be applied, or not; ask again with the same request id. [`Error::Fatal`].
    ///
    /// # Cancel safety
    /// Dropped before it was handed to the log or sent to the leader, nothing happens; after that the command runs to its
    /// end.
    pub async fn propose(&self, command: Command, options: ProposeOptions) -> Result<Committed, Error> {
        let proposal = Proposal::new(command);
        let most = self.local.log.config().command_bytes_max();
        if proposal.bytes.len() > most {
            return Err(Error::TooLarge { bytes: proposal.bytes.len(), most });
        }
        let mut open: Option<String> = None;
        let end = |open: Option<String>, error: Error| Err(open.map_or(error, Error::UnknownOutcome));
        loop {
            if let Err(error) = self.check_alive() {
                return end(open, error);
            }
            match self.attempt(&proposal, options).await {
                Attempt::Done(committed) => return self.applied_here(committed, options.deadline).await,
                Attempt::NoLeader => {}
                Attempt::Unknown(why) => open = Some(why),
                Attempt::Failed(error) => return end(open, error),
            }
            if Instant::now() + NO_LEADER_RETRY >= options.deadline {
                return end(open, Error::Unavailable("the cluster has no leader".into()));
            }
            sleep(NO_LEADER_RETRY).await;
        }
    }

    async fn attempt(&self, proposal: &Proposal, options: ProposeOptions) -> Attempt {
        let peers = self.peers.as_ref();
        let Some((links, leader)) = peers.and_then(|peers| Some((&peers.links, self.local.leader_elsewhere()?))) else {
            return self.local.propose_once(proposal.clone(), options).await;
        };
        let deadline = options.deadline.min(Instant::now() + ATTEMPT);
        let left = deadline.saturating_duration_since(Instant::now());
        let left_ms = u32::try_from(left.as_millis()).unwrap_or(u32::MAX);
        let permit =
            self.forwards.acquire_many(u32::try_from(proposal.bytes.len().max(1)).expect("bounded by the log"));
        let Ok(Ok(_held)) = tokio::time::timeout_at(options.deadline, permit).await else {
            return Attempt::Failed(Error::Busy);
        };
        let mut body = links.head();
        body.push(u8::from(options.frees_space));
        body.extend_from_slice(&left_ms.to_le_bytes());
        body.extend_from_slice(&proposal.bytes);
        links.forward(leader, Bytes::from(body), deadline).await
    }

    async fn applied_here(&self, committed: Committed, deadline: Instant) -> Result<Committed, Error> {
        match self.local.wait_applied(committed.revision, deadline).await {
            Ok(()) => Ok(committed),
            Err(error) => Err(Error::UnknownOutcome(format!("the command is committed, but {error}"))),
        }
    }
}
