//! The very first start of a node: how an empty directory becomes a member of one cluster, never of a second.
//!
//! ```text
//! identity.json? ── yes ──▶ go on as what it was (not here)
//!   │ no
//! claim names this address and nonce? ── yes ──▶ one of the first voters
//!   │ no
//! claim, and one of its members answers? ──▶ join it as a new node;  claim, and nobody answers ──▶ wait, loudly
//!   │ no claim
//! a member answers? ──▶ join it
//!   │
//! as many candidates as expected, who all see the same candidates ──▶ the lowest address writes the claim; all read it
//! ```
//! Nothing here happens because time has passed. Candidates are hints; what keeps two clusters apart is the claim, of which
//! only one can stand. It names each first voter by address and by a nonce of its directory, so a node that was wiped
//! after it had taken its number does not get it again.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use futures::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::time::{Duration, Instant, sleep};

use super::claim::{Claim, FirstVoter};
use super::error::Error;
use super::identity::replace_file;
use super::membership::JOINED_IDS;
use super::peer::PeerAddress;
use super::wire::{self, ControlReply, Hello, HelloReply, Join, MemberOf};
use super::{ClusterConfig, PeersConfig};

/// Most candidates that are asked.
const CANDIDATES_MAX: usize = 64;
/// Pause between two rounds.
const ROUND: Duration = Duration::from_millis(200);
/// How long a candidate may take to say who it is.
const HELLO: Duration = Duration::from_secs(1);
/// How long joining may take.
const JOIN: Duration = Duration::from_secs(10);
/// How often the claim is read while nothing else happens.
const CLAIM_INTERVAL: Duration = Duration::from_secs(1);
/// How often a node that waits says so.
const TELL_INTERVAL: Duration = Duration::from_secs(5);
const FILE: &str = "first-start.json";

/// What a node that begins tells others about itself.
#[derive(Clone)]
pub(super) struct Candidate {
    pub name: String,
    pub address: String,
    pub nonce: String,
    confirmed: Arc<Mutex<Vec<String>>>,
}

impl Candidate {
    pub(super) fn new(name: &str, address: &str, nonce: &str) -> Self {
        let confirmed = Arc::new(Mutex::new(vec![address.to_owned()]));
        Self { name: name.into(), address: address.into(), nonce: nonce.into(), confirmed }
    }

    /// Addresses of the candidates that answered it last, itself included, sorted.
    pub(super) fn candidates(&self) -> Vec<String> {
        self.confirmed.lock().expect("only held for a moment").clone()
    }
}

/// What the directory remembers of its very first start.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct FirstStart {
    pub nonce: String,
    /// The first voters, when this node is one of them.
    pub voters: Vec<FirstVoter>,
    /// Whether this node wrote the claim: it does not wait for another to begin.
    pub won: bool,
}

impl FirstStart {
    /// What the directory remembers; begins to remember.
    pub(super) fn open(dir: &Path) -> Result<Self, Error> {
        let path = dir.join(FILE);
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|_| Error::Identity {
                path,
                what: "is damaged: if the directory has no identity.json, remove it and start again".into(),
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let nonce = hex::encode(rand::random::<[u8; 16]>());
                let first = Self { nonce, voters: Vec::new(), won: false };
                first.write(dir)?;
                Ok(first)
            }
            Err(source) => Err(Error::io("read", &path, source)),
        }
    }

    pub(super) fn write(&self, dir: &Path) -> Result<(), Error> {
        replace_file(dir, FILE, &serde_json::to_vec_pretty(self).expect("plain fields"))
    }
}

/// Who answered, and where.
type Answers = BTreeMap<String, (PeerAddress, HelloReply)>;

struct Beginner<'a> {
    peers: &'a PeersConfig,
    candidate: Candidate,
    api: String,
    claim: Option<Claim>,
    claim_read: Option<Instant>,
    told: Instant,
}

/// Finds out who this node is. Waits for as long as it takes; dropping it leaves nothing behind but the nonce.
pub(super) async fn decide(
    config: &ClusterConfig,
    peers: &PeersConfig,
    first: &mut FirstStart,
) -> Result<MemberOf, Error> {
    if peers.expect == 0 || peers.expect as u64 >= JOINED_IDS {
        return Err(Error::Unavailable(format!("a cluster cannot begin with {} voters", peers.expect)));
    }
    let candidate = Candidate::new(&config.name, &peers.advertise, &first.nonce);
    peers.side.set_candidate(candidate.clone());
    let (api, told) = (config.node.api.clone(), Instant::now());
    let mut beginner = Beginner { peers, candidate, api, claim: None, claim_read: None, told };
    loop {
        match beginner.round().await {
            Ok(Some((member, claim))) => {
                if let Some(claim) = claim {
                    first.won = claim.nonce == first.nonce;
                    first.voters = claim.voters;
                }
                first.write(&config.data_dir)?;
                return Ok(member);
            }
            Ok(None) => {}
            Err(why) => beginner.tell(&why),
        }
        sleep(ROUND).await;
    }
}

impl Beginner<'_> {
    fn tell(&mut self, why: &str) {
        if self.told.elapsed() >= TELL_INTERVAL {
            self.told = Instant::now();
            tracing::warn!(address = self.candidate.address, "this node waits to become a member: {why}");
        }
    }

    /// One look around. The claim comes with the member when it made this node a first voter.
    async fn round(&mut self) -> Result<Option<(MemberOf, Option<Claim>)>, String> {
        let answers = self.greet().await;
        self.read_claim().await?;
        if let Some(claim) = &self.claim {
            let own = |voter: &&FirstVoter| {
                (&voter.address, &voter.nonce) == (&self.candidate.address, &self.candidate.nonce)
            };
            if let Some(voter) = claim.voters.iter().find(own) {
                let Claim { cluster_id, generation, .. } = claim.clone();
                return Ok(Some((MemberOf { cluster_id, generation, node_id: voter.id }, Some(claim.clone()))));
            }
        }
        if let Some(member) = self.join(&answers).await? {
            return Ok(Some((member, None)));
        }
        match &self.claim {
            Some(claim) => Err(format!(
                "the repository belongs to cluster {}, and none of its members answers here: start one of them, or recover \
                 the cluster from the backend if they are lost",
                claim.cluster_id
            )),
            None => self.agree(&answers).await.map(|()| None),
        }
    }

    /// Asks all candidates who they are, and remembers who answered.
    async fn greet(&self) -> Answers {
        let seen: Vec<String> = self.peers.candidates.borrow().iter().take(CANDIDATES_MAX).cloned().collect();
        let asked = seen.into_iter().filter(|address| *address != self.candidate.address).map(|address| async {
            let peer = PeerAddress { address, node: None };
            let hello = wire::json(&Hello { name: self.candidate.name.clone() });
            let reply = self.peers.transport.call(&peer, wire::HELLO, hello, Instant::now() + HELLO).await.ok()?;
            let reply: HelloReply = wire::from_json(&reply).ok()?;
            Some((peer, reply))
        });
        let mut answers = Answers::new();
        for (peer, reply) in join_all(asked).await.into_iter().flatten() {
            if reply.name != self.candidate.name {
                tracing::debug!(peer = peer.address, name = reply.name, "a node of another cluster is in sight");
            } else if reply.nonce != self.candidate.nonce {
                answers.insert(reply.address.clone(), (peer, reply));
            }
        }
        let mut confirmed: Vec<String> = answers.keys().cloned().chain([self.candidate.address.clone()]).collect();
        confirmed.sort();
        *self.candidate.confirmed.lock().expect("only held for a moment") = confirmed;
        answers
    }

    async fn read_claim(&mut self) -> Result<(), String> {
        let due = self.claim_read.is_none_or(|read| read.elapsed() >= CLAIM_INTERVAL);
        if self.claim.is_none() && due {
            let read = self.peers.claim.read().await;
            self.claim = read.map_err(|error| format!("the repository's claim cannot be read: {error}"))?;
            self.claim_read = Some(Instant::now());
        }
        Ok(())
    }

    /// Asks the members in sight for a place among them.
    async fn join(&self, answers: &Answers) -> Result<Option<MemberOf>, String> {
        let mut why = None;
        for (peer, reply) in answers.values() {
            let Some(member) = &reply.member else { continue };
            if let Some(claim) = self.claim.as_ref().filter(|claim| claim.cluster_id != member.cluster_id) {
                why = Some(format!(
                    "{} is of cluster {}, the repository of cluster {}: one of the two must get a repository or a name of its own",
                    peer.address, member.cluster_id, claim.cluster_id
                ));
                continue;
            }
            match self.ask_to_join(peer, member).await {
                Ok(joined) => return Ok(Some(joined)),
                Err(error) => why = Some(error),
            }
        }
        why.map_or(Ok(None), Err)
    }

    async fn ask_to_join(&self, peer: &PeerAddress, member: &MemberOf) -> Result<MemberOf, String> {
        let Candidate { name, address, nonce, .. } = self.candidate.clone();
        let join = wire::json(&Join { name, address, api: self.api.clone(), nonce });
        let peer = PeerAddress { address: peer.address.clone(), node: Some(member.node_id) };
        let reply = self.peers.transport.call(&peer, wire::JOIN, join, Instant::now() + JOIN).await;
        let reply = reply.map_err(|error| error.to_string())?;
        match wire::from_json(&reply)? {
            ControlReply::Joined(joined) if joined.cluster_id == member.cluster_id => Ok(joined),
            ControlReply::Refused(why) => Err(format!("{} refuses: {why}", peer.address)),
            other => Err(format!("{} answered {other:?}", peer.address)),
        }
    }

    /// Writes the claim when it is this node's turn.
    async fn agree(&mut self, answers: &Answers) -> Result<(), String> {
        let candidates = self.candidate.candidates();
        let expect = self.peers.expect;
        if candidates.len() < expect {
            return Err(format!("{} of {expect} candidates are in sight: {}", candidates.len(), candidates.join(", ")));
        }
        if let Some((_, other)) = answers.values().find(|(_, reply)| reply.candidates != candidates) {
            return Err(format!(
                "{} sees other candidates ({}) than this node ({})",
                other.address,
                other.candidates.join(", "),
                candidates.join(", ")
            ));
        }
        if candidates[0] != self.candidate.address {
            self.claim_read = None;
            return Ok(());
        }
        let nonce_of = |address: &String| match answers.get(address) {
            Some((_, reply)) => reply.nonce.clone(),
            None => self.candidate.nonce.clone(),
        };
        let voter = |(number, address): (usize, &String)| FirstVoter {
            id: number as u64 + 1,
            address: address.clone(),
            nonce: nonce_of(address),
        };
        let claim = Claim {
            cluster_id: hex::encode(rand::random::<[u8; 16]>()),
            generation: 1,
            voters: candidates.iter().take(expect).enumerate().map(voter).collect(),
            nonce: self.candidate.nonce.clone(),
        };
        let standing = self.peers.claim.create(&claim).await;
        self.claim = Some(standing.map_err(|error| format!("the repository's claim cannot be written: {error}"))?);
        Ok(())
    }
}
