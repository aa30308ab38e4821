//! Who belongs to the cluster, and how that changes. The leader decides; other nodes ask it.
//!
//! - A node that joins gets a number that no node had before: made of the log index of a committed entry. It enters as a
//!   learner and votes once it has caught up, while there are fewer voters than wanted, or in place of a dead voter.
//! - A dead voter is swapped for a learner in one joint change, so the number of voters never falls for it. Dead is one
//!   that was silent for [`DEAD_AFTER`], or whose address another node has taken: its directory was wiped.
//! - Nobody is removed without a replacement by itself. A removal by an operator is refused when the rest would be fewer
//!   voters than the configured minimum, or no majority of it would be alive.
//! - A joint change that lost its leader is finished by the next one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::{ChangeMembers, Instant as _};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::time::{Duration, Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::error::Error;
use super::local::Local;
use super::network::Links;
use super::raft::{Node, TypeConfig};
use super::wire::{Control, ControlReply, Join, MemberOf};
use super::{Cluster, NO_LEADER_RETRY};

/// Voters that a cluster has when it can, if not told otherwise.
const VOTERS: usize = 3;
/// Most members.
const MEMBERS_MAX: usize = 32;
/// Node ids of nodes that join are above those of the first voters.
pub(super) const JOINED_IDS: u64 = 1000;
/// A learner that is at most this many entries behind has caught up.
const CAUGHT_UP_ENTRIES: u64 = 1000;
/// A member that answered within this time is alive.
const ALIVE: Duration = Duration::from_secs(3);
/// A voter that is silent for so long is replaced when there is a replacement.
const DEAD_AFTER: Duration = Duration::from_secs(30);
/// How long a node whose disk is full leads before it tries another: if all are full, leadership must not spin.
const FULL_LEADER: Duration = Duration::from_secs(5);
/// How often the leader looks after the membership.
const LOOK: Duration = Duration::from_millis(500);
/// Longest change of the membership.
const CHANGE: Duration = Duration::from_secs(10);

type Metrics = openraft::RaftMetrics<TypeConfig>;
type Change = ChangeMembers<u64, Node>;

/// A member, as the leader sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its node id.
    pub id: u64,
    /// Its peer listener.
    pub address: String,
    /// URL of its client-facing listener; may be empty.
    pub api: String,
    /// Whether it votes; a learner otherwise.
    pub voter: bool,
    /// Whether it leads.
    pub leader: bool,
    /// Index of the last log entry that it is known to have.
    pub matched: Option<u64>,
    /// Entries that it is behind the leader.
    pub lag: Option<u64>,
    /// Milliseconds since it last answered the leader.
    pub last_contact_ms: Option<u64>,
}

/// The membership, as this node can read and, when it leads, change it.
pub(super) struct Roster {
    local: Local,
    links: Arc<Links>,
    voters_min: usize,
    /// One change at a time.
    changes: Semaphore,
    /// Since when this node leads, and in which term.
    leading: Mutex<Option<(u64, Instant)>>,
}

impl Roster {
    pub(super) fn new(local: Local, links: Arc<Links>, expect: usize) -> Self {
        Self { local, links, voters_min: expect.max(1), changes: Semaphore::new(1), leading: Mutex::new(None) }
    }

    fn metrics(&self) -> Metrics {
        self.local.raft.metrics().borrow_watched().clone()
    }

    /// Asks the leader, wherever it is, until it answers.
    pub(super) async fn ask(&self, control: Control, deadline: Instant) -> Result<ControlReply, Error> {
        loop {
            let reply = match self.local.leader_elsewhere() {
                None => self.lead(self.local.node, control.clone()).await,
                Some(leader) => match self.links.control(leader, &control, deadline).await {
                    Ok(reply) => reply,
                    // All that is asked may be asked twice.
                    Err(error) => {
                        tracing::debug!(%error, "the leader did not answer");
                        ControlReply::NotLeader
                    }
                },
            };
            if reply != ControlReply::NotLeader {
                return Ok(reply);
            }
            if Instant::now() + NO_LEADER_RETRY >= deadline {
                return Err(Error::Unavailable("the cluster has no leader".into()));
            }
            tokio::time::sleep(NO_LEADER_RETRY).await;
        }
    }

    /// Does what `from` asks of the leader.
    pub(super) async fn lead(&self, from: u64, control: Control) -> ControlReply {
        if !self.local.leads() {
            return ControlReply::NotLeader;
        }
        if control == Control::Members {
            return ControlReply::Members(self.members());
        }
        let deadline = Instant::now() + CHANGE;
        let Ok(Ok(_permit)) = timeout_at(deadline, self.changes.acquire()).await else {
            return ControlReply::Refused("another change of the membership is under way".into());
        };
        let worked = timeout_at(deadline, async {
            match control {
                Control::Join(join) => self.join(join).await,
                Control::Announce { address, api } => self.announced(from, address, api).await,
                Control::Remove(node) => self.remove(node).await,
                Control::Promote(node) => self.promote(node).await,
                Control::Members => Ok(ControlReply::Members(self.members())),
            }
        });
        match worked.await {
            Ok(Ok(reply)) => reply,
            Ok(Err(reply)) => reply,
            Err(_) => ControlReply::NotLeader,
        }
    }

    pub(super) fn members(&self) -> Vec<Member> {
        let metrics = self.metrics();
        let voters: BTreeSet<u64> = metrics.membership_config.voter_ids().collect();
        let last = metrics.last_log_index;
        let member = |(id, node): (&u64, &Node)| {
            let own = *id == self.local.node;
            let matched = if own { last } else { matched(&metrics, *id) };
            Member {
                id: *id,
                address: node.peer.clone(),
                api: node.api.clone(),
                voter: voters.contains(id),
                leader: metrics.current_leader == Some(*id),
                matched,
                lag: matched.and_then(|matched| Some(last?.saturating_sub(matched))),
                last_contact_ms: if own { Some(0) } else { contact(&metrics, *id).map(millis) },
            }
        };
        metrics.membership_config.nodes().map(member).collect()
    }

    async fn join(&self, join: Join) -> Result<ControlReply, ControlReply> {
        let own = &self.links.own;
        if join.name != own.name {
            let why = format!("this is the cluster {:?}, not {:?}", own.name, join.name);
            return Err(ControlReply::Refused(why));
        }
        let member = |node_id| {
            let (cluster_id, generation) = (own.cluster_id.clone(), own.generation);
            Ok(ControlReply::Joined(MemberOf { cluster_id, generation, node_id }))
        };
        let members = self.metrics().membership_config;
        if let Some((known, _)) = members.nodes().find(|(_, node)| node.nonce.as_ref() == Some(&join.nonce)) {
            return member(*known);
        }
        if members.nodes().count() >= MEMBERS_MAX {
            return Err(ControlReply::Refused(format!("the cluster has {MEMBERS_MAX} members, which is the most")));
        }
        let blank = self.local.raft.write_blank().await.map_err(not_led)?;
        let id = JOINED_IDS + self.local.machine.revision(blank.log_id.index);
        let node = Node { peer: join.address, api: join.api, nonce: Some(join.nonce) };
        tracing::info!(node = id, address = node.peer, "a node joins");
        self.change(Change::AddNodes(BTreeMap::from([(id, node)]))).await?;
        member(id)
    }

    /// A member can be reached elsewhere than before.
    async fn announced(&self, from: u64, address: String, api: String) -> Result<ControlReply, ControlReply> {
        let members = self.metrics().membership_config;
        let Some(known) = members.get_node(&from) else { return Ok(ControlReply::Announced) };
        if (&known.peer, &known.api) != (&address, &api) {
            tracing::info!(node = from, before = known.peer, now = address, "a member has moved");
            let moved = Node { peer: address, api, nonce: known.nonce.clone() };
            self.change(Change::SetNodes(BTreeMap::from([(from, moved)]))).await?;
        }
        Ok(ControlReply::Announced)
    }

    async fn promote(&self, node: u64) -> Result<ControlReply, ControlReply> {
        let metrics = self.metrics();
        if metrics.membership_config.voter_ids().any(|voter| voter == node) {
            return Ok(ControlReply::Done);
        }
        if metrics.membership_config.get_node(&node).is_none() {
            return Err(ControlReply::Refused(format!("node {node} is not a member")));
        }
        if !self.ready_learners(&metrics).contains(&node) {
            return Err(ControlReply::Refused(format!("node {node} has not caught up yet, or does not answer")));
        }
        self.change(Change::AddVoterIds(BTreeSet::from([node]))).await?;
        Ok(ControlReply::Done)
    }

    async fn remove(&self, node: u64) -> Result<ControlReply, ControlReply> {
        let metrics = self.metrics();
        let members = &metrics.membership_config;
        if members.get_node(&node).is_none() {
            return Ok(ControlReply::Done);
        }
        if !members.voter_ids().any(|voter| voter == node) {
            self.change(Change::RemoveNodes(BTreeSet::from([node]))).await?;
            return Ok(ControlReply::Done);
        }
        let mut rest = target(&metrics);
        rest.remove(&node);
        rest.extend(self.ready_learners(&metrics).first());
        if rest.len() < self.voters_min {
            return Err(ControlReply::Refused(format!(
                "without node {node} the cluster would have {} voters, and {} are the configured minimum: let a new node join first",
                rest.len(),
                self.voters_min
            )));
        }
        let alive = rest.iter().filter(|voter| self.is_alive(&metrics, **voter)).count();
        if alive * 2 <= rest.len() {
            return Err(ControlReply::Refused(format!(
                "of the {} voters without node {node} only {alive} answer, which is no majority",
                rest.len()
            )));
        }
        if node == self.local.node {
            // The next leader removes it: whoever asks is told to look for that one.
            self.hand_over(&metrics).await;
            return Err(ControlReply::NotLeader);
        }
        self.change(Change::ReplaceAllVoters(rest)).await?;
        Ok(ControlReply::Done)
    }

    async fn change(&self, change: Change) -> Result<(), ControlReply> {
        tracing::info!(?change, "the membership changes");
        self.local.raft.change_membership(change, false).await.map_err(not_led)?;
        Ok(())
    }

    fn is_alive(&self, metrics: &Metrics, node: u64) -> bool {
        node == self.local.node || contact(metrics, node).is_some_and(|silence| silence < ALIVE)
    }

    /// Learners that have caught up and answer, lowest first.
    fn ready_learners(&self, metrics: &Metrics) -> Vec<u64> {
        let members = &metrics.membership_config;
        let voters: BTreeSet<u64> = members.voter_ids().collect();
        let enough = metrics.last_log_index.unwrap_or(0).saturating_sub(CAUGHT_UP_ENTRIES);
        let ready = |id: &u64| matched(metrics, *id).is_some_and(|at| at >= enough) && self.is_alive(metrics, *id);
        members.nodes().map(|(id, _)| *id).filter(|id| !voters.contains(id)).filter(ready).collect()
    }

    /// A voter that will not come back as what it was.
    fn dead_voter(&self, metrics: &Metrics) -> Option<u64> {
        let members = &metrics.membership_config;
        let since = self.leading.lock().expect("only held for a moment").map(|(_, since)| since.elapsed());
        let dead = |voter: &u64| {
            let silence = contact(metrics, *voter).or(since).unwrap_or_default();
            let address = members.get_node(voter).map(|node| node.peer.as_str());
            let taken = members.nodes().any(|(id, node)| id > voter && Some(node.peer.as_str()) == address);
            silence >= DEAD_AFTER || (taken && silence >= ALIVE)
        };
        target(metrics).into_iter().filter(|voter| *voter != self.local.node).find(dead)
    }

    /// Gives leadership to the voter that has most of the log.
    pub(super) async fn hand_over(&self, metrics: &Metrics) {
        let others =
            target(metrics).into_iter().filter(|voter| self.is_alive(metrics, *voter) && *voter != self.local.node);
        let Some(next) = others.max_by_key(|voter| matched(metrics, *voter)) else { return };
        tracing::info!(to = next, "leadership is handed over");
        if let Err(error) = self.local.raft.trigger().transfer_leader(next).await {
            tracing::warn!(%error, "leadership was not handed over");
        }
    }

    /// Looks after the membership while this node leads.
    pub(super) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                looked = tokio::time::timeout(CHANGE, self.look()) => match looked {
                    Ok(Ok(())) => {}
                    Ok(Err(why)) => tracing::debug!(?why, "the membership was left as it is"),
                    Err(_) => tracing::warn!("a change of the membership takes long"),
                },
            }
        }
    }

    fn has_led_for(&self, time: Duration) -> bool {
        self.leading.lock().expect("only held for a moment").is_some_and(|(_, since)| since.elapsed() >= time)
    }

    async fn look(&self) -> Result<(), ControlReply> {
        let metrics = self.metrics();
        if !self.local.leads() {
            *self.leading.lock().expect("only held for a moment") = None;
            return Ok(());
        }
        {
            let mut leading = self.leading.lock().expect("only held for a moment");
            if leading.is_none_or(|(term, _)| term != metrics.current_term) {
                *leading = Some((metrics.current_term, Instant::now()));
            }
        }
        let Ok(_permit) = self.changes.try_acquire() else { return Ok(()) };
        let voters = target(&metrics);
        if voters.len() > 1 && self.local.space.disk().0 && self.has_led_for(FULL_LEADER) {
            tracing::warn!("the disk is full: another node should lead");
            self.hand_over(&metrics).await;
            return Ok(());
        }
        if metrics.membership_config.get_joint_config().len() > 1 {
            return self.change(Change::ReplaceAllVoters(voters)).await;
        }
        let ready = self.ready_learners(&metrics);
        let wanted = self.voters_min.max(VOTERS);
        if voters.len() < wanted && !ready.is_empty() {
            let chosen: BTreeSet<u64> = ready.into_iter().take(wanted - voters.len()).collect();
            return self.change(Change::AddVoterIds(chosen)).await;
        }
        if let (Some(dead), Some(replacement)) = (self.dead_voter(&metrics), ready.first()) {
            tracing::warn!(dead, replacement, "a dead voter is replaced");
            let rest = voters.into_iter().filter(|voter| *voter != dead).chain([*replacement]).collect();
            return self.change(Change::ReplaceAllVoters(rest)).await;
        }
        Ok(())
    }
}

/// The voters that the membership is, or is on its way to.
fn target(metrics: &Metrics) -> BTreeSet<u64> {
    metrics.membership_config.get_joint_config().last().cloned().unwrap_or_default()
}

fn matched(metrics: &Metrics, node: u64) -> Option<u64> {
    metrics.replication.as_ref()?.get(&node)?.as_ref().map(|id| id.index)
}

fn contact(metrics: &Metrics, node: u64) -> Option<Duration> {
    metrics.heartbeat.as_ref()?.get(&node)?.as_ref().map(|at| at.elapsed())
}

fn millis(silence: Duration) -> u64 {
    u64::try_from(silence.as_millis()).unwrap_or(u64::MAX)
}

type WriteError = openraft::errors::RaftError<TypeConfig, openraft::errors::ClientWriteError<TypeConfig>>;

fn not_led(error: WriteError) -> ControlReply {
    match error {
        openraft::errors::RaftError::APIError(openraft::errors::ClientWriteError::ChangeMembershipError(error)) => {
            ControlReply::Refused(error.to_string())
        }
        error => {
            tracing::debug!(%error, "a change of the membership was not done here");
            ControlReply::NotLeader
        }
    }
}

impl Cluster {
    /// The members, as the leader sees them.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when no leader answers before the deadline.
    pub async fn members(&self, deadline: Instant) -> Result<Vec<Member>, Error> {
        if self.peers.is_none() {
            return Ok(self.only_member());
        }
        match self.ask(Control::Members, deadline).await? {
            ControlReply::Members(members) => Ok(members),
            other => Err(refused(other)),
        }
    }

    /// Removes a member, in place of a voter a learner that has caught up, if there is one. Done already is done.
    ///
    /// # Errors
    /// [`Error::Conflict`] when the rest could not go on; [`Error::Unavailable`] when no leader answers before the deadline.
    pub async fn remove_member(&self, node: u64, deadline: Instant) -> Result<(), Error> {
        match self.ask(Control::Remove(node), deadline).await? {
            ControlReply::Done => Ok(()),
            other => Err(refused(other)),
        }
    }

    /// Makes a voter of a learner that has caught up. Done already is done.
    ///
    /// # Errors
    /// [`Error::Conflict`] when it has not; [`Error::Unavailable`] when no leader answers before the deadline.
    pub async fn promote_member(&self, node: u64, deadline: Instant) -> Result<(), Error> {
        match self.ask(Control::Promote(node), deadline).await? {
            ControlReply::Done => Ok(()),
            other => Err(refused(other)),
        }
    }

    fn only_member(&self) -> Vec<Member> {
        let Self { identity, local, .. } = self;
        let matched = local.log.last().map(|id| id.index);
        vec![Member {
            id: identity.node_id,
            address: String::new(),
            api: String::new(),
            voter: true,
            leader: local.leads(),
            matched,
            lag: Some(0),
            last_contact_ms: Some(0),
        }]
    }

    async fn ask(&self, control: Control, deadline: Instant) -> Result<ControlReply, Error> {
        self.check_alive()?;
        let alone = || Error::Conflict("this node was started without --cluster, so it is the only member".into());
        self.peers.as_ref().ok_or_else(alone)?.running.roster.ask(control, deadline).await
    }

    /// Gives leadership away, if this node has it and another can take it, and waits until it is gone.
    pub async fn drain(&self, deadline: Instant) {
        let Some(peers) = &self.peers else { return };
        if !self.local.leads() {
            return;
        }
        let metrics = self.local.raft.metrics().borrow_watched().clone();
        if target(&metrics).len() < 2 {
            return;
        }
        peers.running.roster.hand_over(&metrics).await;
        while self.local.leads() && Instant::now() + NO_LEADER_RETRY < deadline {
            tokio::time::sleep(NO_LEADER_RETRY).await;
        }
    }
}

fn refused(reply: ControlReply) -> Error {
    match reply {
        ControlReply::Refused(why) => Error::Conflict(why),
        ControlReply::Superseded(why) | ControlReply::Removed(why) => Error::Unavailable(why),
        other => Error::Unavailable(format!("the leader answered {other:?}")),
    }
}
