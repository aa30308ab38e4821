//! Closed-loop clients on three nodes: each has a connection to every node and asks them in turn, as etcd's own client
//! does with three endpoints.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::task::JoinSet;

use super::nodes::{Caller, Cluster, Door};
use crate::client::Payload;
use crate::load::{Random, Round};
use crate::sign::payload_hash;

/// Bytes of a value.
pub const VALUE_BYTES: usize = 256;
/// Different values.
const BODIES: u64 = 64;
/// Keys that reads choose from.
pub const HOT_KEYS: u64 = 256;
/// How long clients may go on beyond their time, and a load of keys at all.
const GRACE: Duration = Duration::from_secs(60);
pub const FILL_WITHIN: Duration = Duration::from_secs(1800);

/// What each operation does.
#[derive(Clone, Debug)]
pub enum Work {
    /// Writes a new key below this name.
    Write(String),
    /// Reads one of the hot keys.
    Read,
}

/// When the clients stop.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    pub time: Duration,
    pub ops: u64,
}

/// The values, hashed before any clock runs.
#[must_use]
pub fn bodies() -> Arc<Vec<Payload>> {
    let body = |seed| {
        let bytes = Random::new(seed + 1).bytes(VALUE_BYTES);
        Payload { hash: payload_hash(&bytes), bytes: bytes.into() }
    };
    Arc::new((0..BODIES).map(body).collect())
}

/// Name of a key that was or will be written.
#[must_use]
pub fn name(below: &str, number: u64) -> String {
    Cluster::key(&format!("{below}/{:02}/{number:08}", number % 100))
}

struct Shared {
    work: Work,
    bodies: Arc<Vec<Payload>>,
    ends: Instant,
    ops: u64,
    next: AtomicU64,
}

/// Clients that are connected.
pub struct Crew {
    clients: Vec<One>,
}

struct One {
    callers: Vec<Caller>,
    random: Random,
    turn: usize,
}

impl Crew {
    /// Connects `clients` clients to all `doors`.
    ///
    /// # Errors
    /// When a node does not listen.
    pub async fn connect(doors: &[Door], clients: usize) -> Result<Self> {
        let mut crew = Self { clients: Vec::with_capacity(clients) };
        for turn in 0..clients {
            let mut callers = Vec::with_capacity(doors.len());
            for door in doors {
                callers.push(Caller::connect(door).await?);
            }
            crew.clients.push(One { callers, random: Random::new(turn as u64), turn });
        }
        Ok(crew)
    }

    /// Works until the limit.
    ///
    /// # Errors
    /// When any operation fails, or one does not end.
    pub async fn run(self, work: Work, limit: Limit, bodies: &Arc<Vec<Payload>>) -> Result<Round> {
        let began = Instant::now();
        let shared =
            Shared { work, bodies: bodies.clone(), ends: began + limit.time, ops: limit.ops, next: AtomicU64::new(0) };
        let shared = Arc::new(shared);
        let mut running = JoinSet::new();
        for client in self.clients {
            running.spawn(client.run(shared.clone()));
        }
        let mut round = Round { bytes: 0, elapsed: Duration::ZERO, latencies: Vec::new() };
        let all = async {
            while let Some(done) = running.join_next().await {
                round.latencies.append(&mut done.context("a client was lost")??);
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(limit.time + GRACE, all).await.context("the clients do not end")??;
        round.elapsed = began.elapsed();
        Ok(round)
    }
}

impl One {
    async fn run(mut self, shared: Arc<Shared>) -> Result<Vec<Duration>> {
        let mut latencies = Vec::new();
        loop {
            let began = Instant::now();
            let number = shared.next.fetch_add(1, Ordering::Relaxed);
            if began >= shared.ends || number >= shared.ops {
                return Ok(latencies);
            }
            self.operation(&shared, number).await?;
            latencies.push(began.elapsed());
        }
    }

    async fn operation(&mut self, shared: &Shared, number: u64) -> Result<()> {
        self.turn += 1;
        let at = self.turn % self.callers.len();
        match &shared.work {
            Work::Write(below) => self.callers[at].write(&name(below, number), body(&shared.bodies, number)).await,
            Work::Read => {
                let length = self.callers[at].read(&name("hot", self.random.below(HOT_KEYS))).await?;
                ensure!(length == VALUE_BYTES as u64, "a read tells {length} bytes, {VALUE_BYTES} were stored");
                Ok(())
            }
        }
    }
}

fn body(bodies: &[Payload], number: u64) -> &Payload {
    &bodies[usize::try_from(number).unwrap_or(0) % bodies.len()]
}

/// Writes `count` keys below a name; gives how long it took.
///
/// # Errors
/// When a write fails.
pub async fn fill(
    doors: &[Door],
    clients: usize,
    below: &str,
    count: u64,
    bodies: &Arc<Vec<Payload>>,
) -> Result<Duration> {
    let crew = Crew::connect(doors, clients).await?;
    let limit = Limit { time: FILL_WITHIN, ops: count };
    let round = crew.run(Work::Write(below.to_owned()), limit, bodies).await?;
    ensure!(round.latencies.len() as u64 == count, "{} of {count} keys were written in time", round.latencies.len());
    Ok(round.elapsed)
}
