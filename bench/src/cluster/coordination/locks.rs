//! Contenders that acquire a lock and give it back at once, in a closed loop.
//!
//! A contender has a connection to each node and takes them in turn, one for each acquire with its release. Checked after
//! each round, by the revisions that the replies name: nobody got a lock before the holder before gave it back. Tokens of
//! Holdfast must grow in that order.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use http::Method;
use serde::Deserialize;
use tokio::task::JoinSet;

use crate::cluster::nodes::{Caller, Cluster};
use crate::load::Round;

/// Life of a lease of etcd: longer than any round.
const LEASE_S: u64 = 300;
/// How long contenders may go on beyond their time: longer than any wait for a lock.
const GRACE: Duration = Duration::from_secs(60);

/// Who contends for what.
#[derive(Clone, Copy, Debug)]
pub struct Contest {
    pub contenders: usize,
    pub locks: usize,
}

/// Contenders that are connected.
pub struct Contenders {
    contest: Contest,
    all: Vec<Contender>,
}

struct Contender {
    callers: Vec<Caller>,
    turn: usize,
    /// Number of the lock, and its name.
    lock: usize,
    name: String,
    /// Of etcd: its locks need one, and it lives for the round.
    lease: Option<u64>,
    latencies: Vec<Duration>,
    held: Vec<Held>,
}

/// One time that a lock was held, in revisions. A release may grant to the next in the same commit.
#[derive(Clone, Copy, Debug)]
struct Held {
    acquired: u64,
    released: u64,
    token: Option<u64>,
}

#[derive(Deserialize)]
struct Granted {
    lease: u64,
    token: u64,
}

impl Contenders {
    /// Connects them to all nodes; `stem` begins the names of the locks.
    ///
    /// # Errors
    /// When a node does not listen, or gives no lease.
    pub async fn connect(cluster: &Cluster, contest: Contest, stem: &str) -> Result<Self> {
        let mut all = Vec::with_capacity(contest.contenders);
        for turn in 0..contest.contenders {
            let mut callers = Vec::new();
            for door in cluster.doors() {
                callers.push(Caller::connect(&door).await?);
            }
            let lease = match &mut callers[0] {
                Caller::Etcd(client) => Some(client.grant(LEASE_S).await?),
                Caller::Holdfast(_) => None,
            };
            let lock = turn % contest.locks;
            let (latencies, held) = (Vec::new(), Vec::new());
            all.push(Contender { callers, turn, lock, name: format!("{stem}/{lock:02}"), lease, latencies, held });
        }
        Ok(Self { contest, all })
    }

    /// Contends for `time`, once; gives a latency for each acquire with its release.
    ///
    /// # Errors
    /// When a request fails, or a lock had two holders.
    pub async fn run(&mut self, time: Duration) -> Result<Round> {
        let (began, mut running) = (Instant::now(), JoinSet::new());
        for contender in self.all.drain(..) {
            running.spawn(contender.run(began + time));
        }
        let ended = async {
            while let Some(done) = running.join_next().await {
                self.all.push(done.context("a contender was lost")??);
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(time + GRACE, ended).await.context("the contenders do not end")??;
        let elapsed = began.elapsed();
        for lock in 0..self.contest.locks {
            let of_lock = self.all.iter().filter(|contender| contender.lock == lock);
            let held = of_lock.flat_map(|contender| contender.held.iter().copied()).collect();
            check(held).with_context(|| format!("lock {lock}"))?;
        }
        let latencies = self.all.iter_mut().flat_map(|contender| std::mem::take(&mut contender.latencies)).collect();
        Ok(Round { bytes: 0, elapsed, latencies })
    }

    /// Ends the leases.
    ///
    /// # Errors
    /// When a request fails.
    pub async fn leave(self) -> Result<()> {
        for mut contender in self.all {
            if let (Some(lease), Caller::Etcd(client)) = (contender.lease, &mut contender.callers[0]) {
                client.revoke(lease).await?;
            }
        }
        Ok(())
    }
}

impl Contender {
    async fn run(mut self, ends: Instant) -> Result<Self> {
        loop {
            let began = Instant::now();
            if began >= ends {
                return Ok(self);
            }
            let held = self.hold().await?;
            self.latencies.push(began.elapsed());
            self.held.push(held);
        }
    }

    /// Acquires the lock and gives it back.
    async fn hold(&mut self) -> Result<Held> {
        self.turn += 1;
        let at = self.turn % self.callers.len();
        match &mut self.callers[at] {
            Caller::Holdfast(client) => {
                let path = format!("/_holdfast/v1/locks/{}", self.name);
                let (acquired, granted) = client.ask(Method::PUT, &path, "ttl=30s&wait=30s").await?;
                let granted: Granted = serde_json::from_slice(&granted).context("a grant of no known form")?;
                let (released, _) = client.ask(Method::DELETE, &path, &format!("lease={}", granted.lease)).await?;
                Ok(Held { acquired, released, token: Some(granted.token) })
            }
            Caller::Etcd(client) => {
                let lease = self.lease.context("a contender without a lease")?;
                let (acquired, key) = client.lock(self.name.as_bytes(), lease).await?;
                let released = client.unlock(&key).await?;
                Ok(Held { acquired, released, token: None })
            }
        }
    }
}

/// Whether one holder came after the other.
fn check(mut held: Vec<Held>) -> Result<()> {
    held.sort_by_key(|held| (held.released, held.acquired));
    for pair in held.windows(2) {
        let [before, after] = [pair[0], pair[1]];
        let apart = before.acquired <= before.released && before.released <= after.acquired;
        ensure!(apart, "it had two holders: {before:?}, {after:?}");
        ensure!(before.token.is_none() || before.token < after.token, "tokens do not grow: {before:?}, {after:?}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(held: &[(u64, u64, u64)]) -> Result<()> {
        check(held.iter().map(|&(acquired, released, token)| Held { acquired, released, token: Some(token) }).collect())
    }

    #[test]
    fn two_holders_are_found() {
        of(&[(9, 12, 3), (5, 7, 1), (7, 9, 2)]).unwrap();
        assert!(of(&[(5, 7, 1), (6, 9, 2)]).is_err(), "acquired before the other's release");
        assert!(of(&[(5, 9, 1), (6, 7, 2)]).is_err(), "within the other's time");
        assert!(of(&[(5, 7, 2), (7, 9, 2)]).is_err(), "the same token");
        assert!(of(&[(5, 7, 2), (7, 9, 1)]).is_err(), "an older token");
    }
}
