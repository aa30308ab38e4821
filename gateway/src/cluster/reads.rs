//! Linearizable reads on any node.
//!
//! The leader confirms itself by a quorum round, which openraft shares among all reads that were waiting when it began. A
//! follower asks the leader for the revision that a read must see, and waits until it has applied it. One request serves
//! all readers of the node that were waiting when it was sent; whoever comes later waits for the next, and a retry is a
//! new request: an answer never speaks for a moment before the reader arrived.

use std::sync::Arc;

use openraft::ReadPolicy;
use openraft::errors::{LinearizableReadError, RaftError};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Duration, Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::error::Error;
use super::local::Local;
use super::network::Links;
use super::{Cluster, NO_LEADER_RETRY};

/// Most readers that wait for a round. More wait for their deadline.
const WAITING_MAX: usize = 4096;
/// Longest round.
const ROUND: Duration = Duration::from_secs(1);

type Answer = Result<u64, String>;

/// The readers of a node that wait for the leader's word.
pub(super) struct Rounds {
    queue: mpsc::Sender<oneshot::Sender<Answer>>,
}

impl Rounds {
    /// The queue, and the task that serves it.
    pub(super) fn new(
        local: Local,
        links: Arc<Links>,
        stop: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (queue, waiting) = mpsc::channel(WAITING_MAX);
        (Self { queue }, serve(waiting, local, links, stop))
    }

    async fn next(&self, deadline: Instant) -> Answer {
        let (answer, waiting) = oneshot::channel();
        let late = |_| "the leader did not answer before the deadline".to_owned();
        let gone = || "the node is stopping".to_owned();
        timeout_at(deadline, self.queue.send(answer)).await.map_err(late)?.map_err(|_| gone())?;
        timeout_at(deadline, waiting).await.map_err(late)?.map_err(|_| gone())?
    }
}

async fn serve(
    mut waiting: mpsc::Receiver<oneshot::Sender<Answer>>,
    local: Local,
    links: Arc<Links>,
    stop: CancellationToken,
) {
    loop {
        let first = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            first = waiting.recv() => match first {
                Some(first) => first,
                None => return,
            },
        };
        let mut readers = vec![first];
        while let Ok(reader) = waiting.try_recv() {
            readers.push(reader);
        }
        let answer = match local.leader_elsewhere() {
            Some(leader) => links.read_index(leader, Instant::now() + ROUND).await,
            None => Err("the leader is not known".to_owned()),
        };
        for reader in readers {
            // A reader that is gone gave up at its deadline.
            let _ = reader.send(answer.clone());
        }
    }
}

/// The revision that a read which begins now must see, by a quorum round of this node as the leader; `None` when it does
/// not lead.
pub(super) async fn read_index(local: &Local) -> Result<Option<u64>, Error> {
    match local.raft.get_read_log_id(ReadPolicy::ReadIndex).await {
        Ok((read, _)) => Ok(Some(local.machine.revision(read.index()))),
        Err(RaftError::Fatal(fatal)) => Err(Error::Fatal(fatal.to_string())),
        Err(RaftError::APIError(
            LinearizableReadError::ForwardToLeader(_) | LinearizableReadError::QuorumNotEnough(_),
        )) => Ok(None),
    }
}

impl Cluster {
    /// Returns once this node has applied every command acknowledged anywhere before the call.
    pub(super) async fn linearize(&self, deadline: Instant) -> Result<(), Error> {
        let late = |_| Error::Unavailable("the read could not be confirmed before its deadline".into());
        loop {
            self.check_alive()?;
            let follows = self.peers.as_ref().filter(|_| self.local.leader_elsewhere().is_some());
            let index = match follows {
                Some(peers) => peers.rounds.next(deadline).await.ok(),
                None => timeout_at(deadline, read_index(&self.local)).await.map_err(late)??,
            };
            if let Some(revision) = index {
                return self.local.wait_applied(revision, deadline).await;
            }
            // A retry is a new round with a new index.
            timeout_at(deadline, tokio::time::sleep(NO_LEADER_RETRY)).await.map_err(late)?;
        }
    }
}
