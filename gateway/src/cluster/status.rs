//! What the node knows about itself, and whether requests should come here.

use std::sync::atomic::Ordering;

use openraft::Instant as _;
use openraft::async_runtime::watch::WatchReceiver as _;
use tokio::time::Duration;

use super::local::SILENCE_MAX;
use super::log::LogStats;
use super::raft::{Node, TypeConfig};
use super::{Cluster, Identity, Member, PeersRun};

/// A node that is further behind does not take requests.
const READY_LAG_ENTRIES: u64 = 10_000;

/// What the node knows about itself.
#[derive(Clone, Debug)]
pub struct Status {
    /// Who it is.
    pub identity: Identity,
    /// "Leader", "Follower", "Candidate" or "Learner".
    pub role: String,
    /// Election term.
    pub term: u64,
    /// The leader, if known.
    pub leader: Option<u64>,
    /// Revision of the last applied command.
    pub revision: u64,
    /// Voters and learners.
    pub members: Vec<(u64, Node)>,
    /// Voters and learners with what the leader knows of them; empty on other nodes, and without a cluster.
    pub peers: Vec<Member>,
    /// Why requests should not come here; `None` when they should.
    pub not_ready: Option<String>,
    /// The log.
    pub log: LogStats,
    /// Index that the last snapshot covers.
    pub snapshot_index: Option<u64>,
    /// Bytes of commands in flight.
    pub in_flight_bytes: usize,
    /// Whether only what frees space is accepted.
    pub disk_full: bool,
    /// Bytes free on the data file system.
    pub free_bytes: u64,
    /// Why the node must stop.
    pub fatal: Option<String>,
}

type Metrics = openraft::RaftMetrics<TypeConfig>;

impl Cluster {
    /// What the node knows about itself now.
    #[must_use]
    pub fn status(&self) -> Status {
        let metrics = self.metrics();
        let (disk_full, free_bytes) = self.local.space.disk();
        let leads = self.local.leads();
        Status {
            identity: self.identity.clone(),
            role: format!("{:?}", metrics.state),
            term: metrics.current_term,
            leader: metrics.current_leader,
            revision: self.local.machine.applied.get(),
            members: metrics.membership_config.nodes().map(|(id, node)| (*id, node.clone())).collect(),
            peers: self
                .peers
                .as_ref()
                .filter(|_| leads)
                .map(|peers| peers.running.roster.members())
                .unwrap_or_default(),
            not_ready: self.not_ready(),
            log: self.local.log.stats(),
            snapshot_index: metrics.snapshot.map(|id| id.index),
            in_flight_bytes: self.local.space.in_flight_bytes(),
            disk_full,
            free_bytes,
            fatal: self.fatal.borrow().clone(),
        }
    }

    // The borrow blocks the consensus core: it ends with the statement.
    pub(super) fn metrics(&self) -> Metrics {
        self.local.raft.metrics().borrow_watched().clone()
    }

    /// Whether this node leads, as far as it knows.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.local.leads()
    }

    /// Whether commands can be proposed and state be read here now.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.not_ready().is_none()
    }

    /// Why requests should not come here.
    #[must_use]
    pub fn not_ready(&self) -> Option<String> {
        if let Err(error) = self.check_alive() {
            return Some(error.to_string());
        }
        if self.sole_leader.load(Ordering::Acquire) {
            return None;
        }
        match &self.peers {
            None => Some("this node does not lead its cluster of one yet".into()),
            Some(peers) => self.not_ready_among(peers),
        }
    }

    fn not_ready_among(&self, peers: &PeersRun) -> Option<String> {
        if let Some(why) = peers.removed.borrow().clone() {
            return Some(why);
        }
        let metrics = self.metrics();
        let voters = metrics.membership_config.voter_ids().count();
        if self.local.leads() {
            let silence = metrics.last_quorum_acked.as_ref().map(|at| at.elapsed());
            return match silence {
                _ if voters == 1 => None,
                Some(silence) if silence < SILENCE_MAX => None,
                Some(silence) => {
                    Some(format!("no majority of the {voters} voters has answered this leader for {}", secs(silence)))
                }
                None => Some(format!("no majority of the {voters} voters has answered this new leader yet")),
            };
        }
        let Some(leader) = metrics.current_leader else {
            return Some(match voters {
                0 => "this node waits for the leader's first message".to_owned(),
                _ => format!(
                    "the cluster has no leader: this node knows {voters} voters, of which a majority must be alive"
                ),
            });
        };
        let heard = peers.running.heard.lock().expect("only held for a moment").map(|heard| heard.elapsed());
        match heard {
            Some(silence) if silence < SILENCE_MAX => {}
            Some(silence) => {
                return Some(format!("node {leader}, the leader, has not been heard of for {}", secs(silence)));
            }
            None => return Some(format!("node {leader}, the leader, has not been heard of yet")),
        }
        let applied = metrics.last_applied.map_or(0, |id| id.index);
        let known = metrics.cluster_committed.map_or(0, |id| id.index);
        let lag = known.saturating_sub(applied);
        (lag > READY_LAG_ENTRIES).then(|| format!("this node is {lag} entries behind the leader"))
    }
}

fn secs(silence: Duration) -> String {
    format!("{:.1} s", silence.as_secs_f64())
}
