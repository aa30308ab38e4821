//! Rounds of writers and watchers: how late events come, and how many a second.
//!
//! ```text
//! writers ──PUT──▶ nodes ──events──▶ watchers: each a Tally, checked as it comes and once more in the end
//!    └── latency: one writer, which waits until every watcher has the event, pauses, and writes the next
//!    └── fan-out: all write as fast as they can; the round lasts until the last watcher has the last event
//! ```
//! Writers and watchers are in the same process and on the same clock. A writer has a connection to each node and takes
//! them in turn. An event that does not come, comes twice or in a wrong order fails the run.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use super::feed::{self, Opened};
use super::tally::{self, Tally};
use crate::client::Payload;
use crate::cluster::nodes::{Caller, Cluster};
use crate::cluster::times;
use crate::experiment::Times;
use crate::load::Round;
use crate::report::Measured;
use crate::stats::ms;

/// Writers of a fan-out.
pub const FAN_OUT_WRITERS: usize = 16;
/// Between two writes of a latency round, so that it is latency and not saturation.
pub const PAUSE: Duration = Duration::from_millis(5);
/// One delivery of so many of a fan-out is a sample of its latency: all would not fit into memory.
const FAN_OUT_SAMPLE: u64 = 16;
/// Longest time from a write to its event at the last watcher.
const DELIVERED_WITHIN: Duration = Duration::from_secs(120);
/// How long watchers listen on for events that nobody wrote.
const QUIET: Duration = Duration::from_millis(100);

/// Who watches what.
#[derive(Clone, Debug)]
pub struct Setting {
    /// What all keys begin with; nobody else writes there.
    pub below: String,
    pub watchers: usize,
    /// The node of the first watcher.
    pub first: usize,
    /// Watchers of etcd that share a connection.
    pub streams: usize,
}

/// One write.
#[derive(Clone, Copy, Debug)]
pub struct Written {
    pub sent: Instant,
    pub acked: Instant,
}

/// A round in which one writer waits for the watchers.
#[derive(Debug)]
pub struct LatencyRound {
    /// Operations are events; latencies are from the sent PUT to the watcher.
    pub measured: Measured,
    pub writes: usize,
    /// From the sent PUT to its acknowledgement.
    pub put: Vec<Duration>,
    /// From the acknowledged PUT to the watcher, milliseconds: below 0 when the event was there first.
    pub from_ack: Vec<f64>,
    /// The same to the last watcher.
    pub last_from_ack: Vec<f64>,
}

/// A round in which writers wait for nobody.
#[derive(Debug)]
pub struct FanOutRound {
    /// Operations are events; latencies are samples from the sent PUT to the watcher.
    pub measured: Measured,
    pub writes: usize,
    /// Until the last acknowledgement.
    pub writing: Duration,
    /// From there to the last event at the last watcher.
    pub draining: Duration,
}

/// Deliveries to all watchers.
#[derive(Default)]
struct Shared {
    delivered: AtomicU64,
    awaited: AtomicU64,
    reached: Notify,
}

impl Shared {
    fn count(&self) {
        let delivered = self.delivered.fetch_add(1, Ordering::SeqCst) + 1;
        if delivered == self.awaited.load(Ordering::SeqCst) {
            self.reached.notify_one();
        }
    }

    /// Returns when there were `total` deliveries. Of one caller at a time.
    async fn reach(&self, total: u64) {
        self.awaited.store(total, Ordering::SeqCst);
        while self.delivered.load(Ordering::SeqCst) < total {
            self.reached.notified().await;
        }
    }
}

/// Watchers at work.
struct Watching {
    running: JoinSet<Result<Tally>>,
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
}

impl Watching {
    async fn begin(cluster: &Cluster, setting: &Setting, writers: usize, every: u64) -> Result<Self> {
        let prefixes = vec![setting.below.clone(); setting.watchers];
        let opened = feed::open(cluster, prefixes, setting.first, setting.streams).await?;
        let (shared, stop) = (Arc::new(Shared::default()), watch::Sender::new(false));
        let mut running = JoinSet::new();
        for one in opened {
            let tally = Tally::new(one.number, one.node, &setting.below, writers, every);
            running.spawn(follow(one, tally, shared.clone(), stop.subscribe()));
        }
        Ok(Self { running, shared, stop })
    }

    /// Does `work` while all watchers go on.
    async fn during<T>(&mut self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            done = work => done,
            Some(ended) = self.running.join_next() => {
                let tally = ended.context("a watcher was lost")??;
                bail!("watcher {} ended too early", tally.number)
            }
        }
    }

    /// Stops all of them and checks what they saw.
    async fn end(mut self, written: &[Vec<Written>]) -> Result<Vec<Tally>> {
        self.during(async {
            tokio::time::sleep(QUIET).await;
            Ok(())
        })
        .await?;
        self.stop.send_replace(true);
        let mut tallies = Vec::with_capacity(self.running.len());
        while let Some(tally) = self.running.join_next().await {
            tallies.push(tally.context("a watcher was lost")??);
        }
        tally::check(&tallies, &written.iter().map(Vec::len).collect::<Vec<_>>())?;
        Ok(tallies)
    }
}

async fn follow(opened: Opened, mut tally: Tally, shared: Arc<Shared>, stop: watch::Receiver<bool>) -> Result<Tally> {
    let Opened { number, node, mut feed } = opened;
    let mut stopped = stop;
    loop {
        let mut see = |place, key: &str| {
            tally.see(place, key)?;
            shared.count();
            Ok(())
        };
        tokio::select! {
            seen = feed.next(&mut see) => {
                seen.with_context(|| format!("watcher {number} at node {}, after {} events", node + 1, tally.count()))?;
            }
            _ = stopped.changed() => return Ok(tally),
        }
    }
}

/// A writer with its connections.
struct Writer {
    callers: Vec<Caller>,
    number: usize,
    below: String,
    bodies: Arc<Vec<Payload>>,
    written: Vec<Written>,
}

impl Writer {
    async fn connect(cluster: &Cluster, number: usize, below: &str, bodies: &Arc<Vec<Payload>>) -> Result<Self> {
        let mut callers = Vec::new();
        for door in cluster.doors() {
            callers.push(Caller::connect(&door).await?);
        }
        Ok(Self { callers, number, below: below.to_owned(), bodies: bodies.clone(), written: Vec::new() })
    }

    async fn write(&mut self) -> Result<()> {
        let write = self.written.len();
        let key = Cluster::key(&tally::key(&self.below, self.number, write));
        let at = (self.number + write) % self.callers.len();
        let sent = Instant::now();
        self.callers[at].write(&key, &self.bodies[write % self.bodies.len()]).await?;
        self.written.push(Written { sent, acked: Instant::now() });
        Ok(())
    }

    /// Writes, and waits each time until so many watchers have the event. Ends early when one does not come.
    async fn with_pauses(mut self, ends: Instant, shared: &Shared, watchers: usize) -> Result<Vec<Written>> {
        while Instant::now() < ends {
            self.write().await?;
            let total = (self.written.len() * watchers) as u64;
            if tokio::time::timeout(DELIVERED_WITHIN, shared.reach(total)).await.is_err() {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(self.written)
    }

    async fn without_pauses(mut self, ends: Instant) -> Result<(usize, Vec<Written>)> {
        while Instant::now() < ends {
            self.write().await?;
        }
        Ok((self.number, self.written))
    }
}

/// How late events come. `at` is the cluster's place among `clusters`.
///
/// # Errors
/// When a request fails, or an event is not seen as it must be.
pub async fn latency(
    clusters: &[Cluster],
    at: usize,
    setting: &Setting,
    time: Duration,
    bodies: &Arc<Vec<Payload>>,
) -> Result<LatencyRound> {
    let mut watching = Watching::begin(&clusters[at], setting, 1, 1).await?;
    let writer = Writer::connect(&clusters[at], 0, &setting.below, bodies).await?;
    let (shared, before, began) = (watching.shared.clone(), times(clusters)?, Instant::now());
    let written = watching.during(writer.with_pauses(began + time, &shared, setting.watchers)).await?;
    let (elapsed, after) = (began.elapsed(), times(clusters)?);
    let written = vec![written];
    let tallies = watching.end(&written).await?;
    let measured = measured(&tallies, &written, elapsed, (&before, &after), at);
    let written = &written[0];
    let since_ack = |write: usize, at: Instant| {
        let acked = written[write].acked;
        ms(at.saturating_duration_since(acked)) - ms(acked.saturating_duration_since(at))
    };
    let mut last = vec![f64::MIN; written.len()];
    let mut from_ack = Vec::new();
    for sample in tallies.iter().flat_map(|tally| &tally.samples) {
        let late = since_ack(sample.write, sample.at);
        from_ack.push(late);
        last[sample.write] = last[sample.write].max(late);
    }
    let put = written.iter().map(|write| write.acked.duration_since(write.sent)).collect();
    Ok(LatencyRound { measured, writes: written.len(), put, from_ack, last_from_ack: last })
}

/// How many events come when writers wait for nobody.
///
/// # Errors
/// When a request fails, or an event is not seen as it must be.
pub async fn fan_out(
    clusters: &[Cluster],
    at: usize,
    setting: &Setting,
    time: Duration,
    bodies: &Arc<Vec<Payload>>,
) -> Result<FanOutRound> {
    let mut watching = Watching::begin(&clusters[at], setting, FAN_OUT_WRITERS, FAN_OUT_SAMPLE).await?;
    let mut writers = Vec::new();
    for number in 0..FAN_OUT_WRITERS {
        writers.push(Writer::connect(&clusters[at], number, &setting.below, bodies).await?);
    }
    let (shared, before, began) = (watching.shared.clone(), times(clusters)?, Instant::now());
    let mut written = watching.during(write_all(writers, began + time)).await?;
    written.sort_unstable_by_key(|(number, _)| *number);
    let written: Vec<_> = written.into_iter().map(|(_, written)| written).collect();
    let writing = began.elapsed();
    let writes: usize = written.iter().map(Vec::len).sum();
    let all = shared.reach((writes * setting.watchers) as u64);
    // What has not come in time is named by the check at the end.
    let all = async { Ok(tokio::time::timeout(DELIVERED_WITHIN, all).await.is_ok()) };
    watching.during(all).await?;
    let (elapsed, after) = (began.elapsed(), times(clusters)?);
    let tallies = watching.end(&written).await?;
    let measured = measured(&tallies, &written, elapsed, (&before, &after), at);
    Ok(FanOutRound { measured, writes, writing, draining: elapsed.saturating_sub(writing) })
}

async fn write_all(writers: Vec<Writer>, ends: Instant) -> Result<Vec<(usize, Vec<Written>)>> {
    let mut running = JoinSet::new();
    for writer in writers {
        running.spawn(writer.without_pauses(ends));
    }
    let mut all = Vec::new();
    while let Some(done) = running.join_next().await {
        all.push(done.context("a writer was lost")??);
    }
    Ok(all)
}

/// Operations are events; latencies are from the sent PUT.
fn measured(
    tallies: &[Tally],
    written: &[Vec<Written>],
    elapsed: Duration,
    (before, after): (&Times, &Times),
    at: usize,
) -> Measured {
    let samples = tallies.iter().flat_map(|tally| &tally.samples);
    let late = samples.map(|sample| sample.at.saturating_duration_since(written[sample.writer][sample.write].sent));
    let round = Round { bytes: 0, elapsed, latencies: late.collect() };
    let mut measured = Measured::new(round, before, after, at);
    measured.ops = tallies.iter().map(Tally::count).sum();
    measured
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_total_is_waited_for() {
        let shared = Arc::new(Shared::default());
        shared.count();
        shared.reach(1).await;
        let waits = shared.reach(3);
        let counts = async {
            for _ in 0..2 {
                tokio::task::yield_now().await;
                shared.count();
            }
        };
        tokio::join!(waits, counts);
        assert_eq!(shared.delivered.load(Ordering::SeqCst), 3);
        let more = tokio::time::timeout(Duration::from_millis(5), shared.reach(4)).await;
        assert!(more.is_err(), "one is missing");
    }
}
