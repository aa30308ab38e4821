//! Peers in one process, with the faults of a network: [`Switchboard`] connects [`PeerHandler`]s by address.
//!
//! Faults are drawn from a seed, so a run that draws in the same order repeats. A cut between two addresses may be one
//! way; a request may be lost, or arrive and its reply be lost; each takes its time. The sender learns what it would over
//! a network: a cut or a lost request is a call that is not answered, and only an address where nobody listens refuses.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::{MESSAGE_BYTES_MAX, PeerAddress, PeerError, PeerHandler, Peers, Sender, Upload};

/// How likely what is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Requests lost, of 1,000.
    pub lost_requests: u32,
    /// Replies lost, of 1,000.
    pub lost_replies: u32,
    /// Longest delay of a request, and of a reply.
    pub delay_ms_max: u64,
}

/// What decides whether a request or reply with this method, from and to these addresses, is lost.
pub type Filter = Box<dyn FnMut(&Passage<'_>) -> bool + Send>;

/// Something on its way.
#[derive(Clone, Copy, Debug)]
pub struct Passage<'a> {
    /// Sender of the request.
    pub from: &'a str,
    /// Receiver of the request.
    pub to: &'a str,
    /// Method of the request.
    pub method: &'a str,
    /// Whether this is the reply.
    pub is_reply: bool,
}

/// Connects handlers by address. Clones share it.
#[derive(Clone)]
pub struct Switchboard(Arc<Mutex<Board>>);

struct Board {
    random: StdRng,
    faults: Faults,
    filter: Option<Filter>,
    /// (from, to) through which nothing passes.
    cuts: BTreeSet<(String, String)>,
    listeners: BTreeMap<String, Arc<dyn PeerHandler>>,
    /// Node ids that certificates name, by address.
    nodes: BTreeMap<String, u64>,
}

impl Switchboard {
    /// A board without faults, whose draws repeat with `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Board {
            random: StdRng::seed_from_u64(seed),
            faults: Faults::default(),
            filter: None,
            cuts: BTreeSet::new(),
            listeners: BTreeMap::new(),
            nodes: BTreeMap::new(),
        })))
    }

    fn board<R>(&self, work: impl FnOnce(&mut Board) -> R) -> R {
        work(&mut self.0.lock().expect("only held for a moment"))
    }

    /// Has `handler` listen at `address`, in place of whoever did.
    pub fn listen(&self, address: &str, handler: Arc<dyn PeerHandler>) {
        self.board(|board| board.listeners.insert(address.to_owned(), handler));
    }

    /// Nobody listens at `address` any more, and no certificate is there.
    pub fn hang_up(&self, address: &str) {
        let gone = self.board(|board| {
            board.nodes.remove(address);
            board.listeners.remove(address)
        });
        drop(gone);
    }

    /// The certificate at `address` names `node` from now on.
    pub fn certify(&self, address: &str, node: Option<u64>) {
        self.board(|board| match node {
            Some(node) => board.nodes.insert(address.to_owned(), node),
            None => board.nodes.remove(address),
        });
    }

    /// The sending end of whoever listens at `address`.
    #[must_use]
    pub fn line(&self, address: &str) -> Arc<dyn Peers> {
        Arc::new(Line { board: self.clone(), address: address.to_owned() })
    }

    /// How likely faults are from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.board(|board| board.faults = faults);
    }

    /// What is lost for certain: whatever `filter` answers true for.
    pub fn set_filter(&self, filter: Option<Filter>) {
        self.board(|board| board.filter = filter);
    }

    /// Nothing from `from` reaches `to` any more: no request, and no reply.
    pub fn cut(&self, from: &str, to: &str) {
        self.board(|board| board.cuts.insert((from.to_owned(), to.to_owned())));
    }

    /// Nothing passes between `address` and any other that listens, in either direction.
    pub fn isolate(&self, address: &str) {
        let others: Vec<String> = self.board(|board| board.listeners.keys().cloned().collect());
        for other in others.iter().filter(|other| *other != address) {
            self.cut(address, other);
            self.cut(other, address);
        }
    }

    /// No cuts, faults or filters.
    pub fn heal(&self) {
        self.board(|board| {
            board.cuts.clear();
            board.faults = Faults::default();
            board.filter = None;
        });
    }
}

/// One address's end of the board.
struct Line {
    board: Switchboard,
    address: String,
}

impl Line {
    /// Waits as long as the passage takes; false when it is lost.
    async fn pass(&self, to: &str, method: &str, is_reply: bool) -> bool {
        let (lost, delay_ms) = self.board.board(|board| {
            let passage = Passage { from: &self.address, to, method, is_reply };
            let (sender, receiver) = if is_reply { (to, self.address.as_str()) } else { (self.address.as_str(), to) };
            let likely = if is_reply { board.faults.lost_replies } else { board.faults.lost_requests };
            let cut = board.cuts.contains(&(sender.to_owned(), receiver.to_owned()));
            let unlucky = likely > 0 && board.random.random_range(0..1000) < likely;
            let filtered = board.filter.as_mut().is_some_and(|filter| filter(&passage));
            let most = board.faults.delay_ms_max;
            let delay_ms = if most > 0 { board.random.random_range(0..=most) } else { 0 };
            (cut || unlucky || filtered, delay_ms)
        });
        if delay_ms > 0 {
            sleep(Duration::from_millis(delay_ms)).await;
        }
        !lost
    }

    /// Who answers at the address, if the certificate there is the right one.
    fn receiver(&self, peer: &PeerAddress) -> Result<(Arc<dyn PeerHandler>, Sender), PeerError> {
        let (handler, theirs, own) = self.board.board(|board| {
            let handler = board.listeners.get(&peer.address).cloned();
            (handler, board.nodes.get(&peer.address).copied(), board.nodes.get(&self.address).copied())
        });
        let unreachable = |why: String| PeerError::Unreachable { address: peer.address.clone(), why };
        let handler = handler.ok_or_else(|| unreachable("nobody listens there".into()))?;
        if peer.node.is_some() && peer.node != theirs {
            return Err(unreachable(format!("its certificate names {theirs:?}, not {:?}", peer.node)));
        }
        Ok((handler, Sender { node: own }))
    }

    /// There and back again.
    async fn exchange<F>(
        &self,
        peer: &PeerAddress,
        method: &'static str,
        deadline: Instant,
        answer: impl FnOnce(Arc<dyn PeerHandler>, Sender) -> F + Send,
    ) -> Result<Bytes, PeerError>
    where
        F: Future<Output = Result<Bytes, String>> + Send,
    {
        let silence = || PeerError::NoAnswer { address: peer.address.clone(), why: "the deadline passed".into() };
        let exchange = async {
            let reached = self.pass(&peer.address, method, false).await;
            let (handler, sender) = self.receiver(peer)?;
            if !reached {
                sleep_until(deadline).await;
                return Err(silence());
            }
            let answered = answer(handler, sender).await;
            if !self.pass(&peer.address, method, true).await {
                sleep_until(deadline).await;
                return Err(silence());
            }
            answered.map_err(|why| PeerError::Refused { address: peer.address.clone(), why })
        };
        timeout_at(deadline, exchange).await.unwrap_or_else(|_| Err(silence()))
    }
}

#[async_trait]
impl Peers for Line {
    async fn call(
        &self,
        peer: &PeerAddress,
        method: &'static str,
        body: Bytes,
        deadline: Instant,
    ) -> Result<Bytes, PeerError> {
        if body.len() > MESSAGE_BYTES_MAX {
            let why = format!("a message of {} bytes is not sent", body.len());
            return Err(PeerError::Unreachable { address: peer.address.clone(), why });
        }
        let answer = |handler: Arc<dyn PeerHandler>, from| async move { handler.call(from, method, body).await };
        self.exchange(peer, method, deadline, answer).await
    }

    async fn upload(
        &self,
        peer: &PeerAddress,
        method: &'static str,
        head: Bytes,
        body: Upload,
        deadline: Instant,
    ) -> Result<Bytes, PeerError> {
        let answer =
            |handler: Arc<dyn PeerHandler>, from| async move { handler.upload(from, method, head, body).await };
        self.exchange(peer, method, deadline, answer).await
    }
}
