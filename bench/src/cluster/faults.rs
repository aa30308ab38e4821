//! What happens to the nodes: the leader is killed, a node comes back, with its directory or without, all are lost.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::Value;

use super::nodes::{Caller, Cluster, Door, Kind, NODES};
use super::rates::{VALUE_BYTES, fill, name};
use crate::client::Payload;
use crate::load::Random;

/// A client gives a node this long, then tries the next.
pub const ATTEMPT: Duration = Duration::from_millis(250);
/// Pause after a refusal.
const PAUSE: Duration = Duration::from_millis(5);
/// Writes before each kill.
const WARM_WRITES: usize = 50;
/// Longest time without an acknowledged write that is measured.
const OUTAGE_MAX: Duration = Duration::from_secs(60);
/// Between a return of a node and the next kill.
const REST: Duration = Duration::from_secs(1);
/// Keys that are written while a node is away.
pub const MISSED_KEYS: u64 = 10_000;
const MISSED_CLIENTS: usize = 64;
/// Keys that are looked for after a recovery.
const LOOKED_FOR: u64 = 1000;
/// Longest wait for the archive, and for a node to vote.
const ARCHIVE_WITHIN: Duration = Duration::from_secs(600);
const VOTER_WITHIN: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Kills the leader under a writing client, which goes on with the other nodes; gives the time from the kill to the first
/// acknowledgement of a write that began after it. The node is back when this returns.
///
/// # Errors
/// When no write is acknowledged in time, or the node does not come back.
pub async fn failover(cluster: &mut Cluster, number: u64, body: &Payload) -> Result<Duration> {
    let below = format!("failover/{number}");
    let leader = cluster.leader().await?;
    let doors = cluster.doors();
    let mut callers = Vec::new();
    for door in &doors {
        callers.push(Caller::connect(door).await?);
    }
    for write in 0..WARM_WRITES {
        callers[write % NODES].write(&name(&below, write as u64), body).await?;
    }
    drop(callers);
    let survivors: Vec<_> = (0..NODES).filter(|at| *at != leader).map(|at| doors[at].clone()).collect();
    let began = Instant::now();
    cluster.kill(leader)?;
    let key = name(&below, WARM_WRITES as u64);
    first_write(&survivors, &key, body).await?;
    let took = began.elapsed();
    cluster.launch(leader, "existing")?;
    cluster.await_read(leader, &key).await?;
    tokio::time::sleep(REST).await;
    Ok(took)
}

/// Tries nodes in turn until one acknowledges.
async fn first_write(doors: &[Door], key: &str, body: &Payload) -> Result<()> {
    let ends = Instant::now() + OUTAGE_MAX;
    for door in doors.iter().cycle() {
        let attempt = async { Caller::connect(door).await?.write(key, body).await };
        if matches!(tokio::time::timeout(ATTEMPT, attempt).await, Ok(Ok(()))) {
            return Ok(());
        }
        ensure!(Instant::now() < ends, "no write within {OUTAGE_MAX:?} after the leader was killed");
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

/// How long a node took to come back, in seconds from the start of its process.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Return {
    /// Until it answered a linearizable read of what was written last while it was away.
    pub read_s: f64,
    /// Until it voted again, where that comes later.
    pub voter_s: Option<f64>,
}

/// Kills a follower, writes keys that it misses, and starts it again, on its directory or on none.
///
/// # Errors
/// When it does not come back.
pub async fn restart(cluster: &mut Cluster, wiped: bool, bodies: &Arc<Vec<Payload>>) -> Result<Return> {
    let node = (cluster.leader().await? + 1) % NODES;
    let below = if wiped { "missed/wiped" } else { "missed/restarted" };
    cluster.kill(node)?;
    let doors: Vec<_> = (0..NODES).filter(|at| *at != node).map(|at| cluster.door(at)).collect();
    fill(&doors, MISSED_CLIENTS, below, MISSED_KEYS, bodies).await?;
    if wiped {
        cluster.wipe(node)?;
    }
    let began = Instant::now();
    cluster.launch(node, "existing")?;
    cluster.await_read(node, &name(below, MISSED_KEYS - 1)).await?;
    let read_s = began.elapsed().as_secs_f64();
    if !wiped || cluster.kind == Kind::Etcd {
        return Ok(Return { read_s, voter_s: None });
    }
    let ends = Instant::now() + VOTER_WITHIN;
    while !cluster.is_voter(node).await? {
        ensure!(Instant::now() < ends, "the wiped node does not vote within {VOTER_WITHIN:?}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(Return { read_s, voter_s: Some(began.elapsed().as_secs_f64()) })
}

/// Waits until the backend has the whole log; gives the seconds.
///
/// # Errors
/// When it does not catch up.
pub async fn await_archive(cluster: &Cluster) -> Result<f64> {
    let began = Instant::now();
    loop {
        let status = cluster.status(cluster.leader().await?).await?;
        let archive = &status["archive"];
        if archive["lag_revisions"] == 0 {
            return Ok(began.elapsed().as_secs_f64());
        }
        ensure!(began.elapsed() < ARCHIVE_WITHIN, "the archive does not catch up: {archive}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// A recovery from the backend alone.
#[derive(Debug, Serialize)]
pub struct Recovery {
    /// From the start of `holdfast recover` to its end.
    pub recover_s: f64,
    /// From the start of a node on the new directory to its first linearizable read.
    pub serve_s: f64,
    /// What it printed.
    pub report: Value,
}

/// Kills all nodes, recovers the cluster from its backend, and looks for keys below `below`.
///
/// # Errors
/// When the recovery fails or a key is not there.
pub async fn recover(cluster: &mut Cluster, below: &str, keys: u64) -> Result<Recovery> {
    for node in 0..NODES {
        cluster.kill(node)?;
    }
    let began = Instant::now();
    let (report, data) = cluster.recover().await?;
    let recover_s = began.elapsed().as_secs_f64();
    cluster.adopt(0, data);
    let began = Instant::now();
    cluster.launch(0, "existing")?;
    cluster.await_read(0, &name(below, keys - 1)).await?;
    let serve_s = began.elapsed().as_secs_f64();
    let (mut caller, mut random) = (Caller::connect(&cluster.door(0)).await?, Random::new(keys));
    for _ in 0..LOOKED_FOR {
        let key = name(below, random.below(keys));
        let length = caller.read(&key).await.with_context(|| format!("{key} is lost"))?;
        ensure!(length == VALUE_BYTES as u64, "{key} has {length} bytes after the recovery");
    }
    Ok(Recovery { recover_s, serve_s, report })
}
