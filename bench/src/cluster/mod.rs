//! Three nodes of Holdfast beside three of etcd: commits, linearizable reads, and how fast each comes back from losses.
//!
//! ```text
//! start both ── idle ── rates (A B A B ...) ── kills of leaders (A B A B ...) ── load keys ── idle, loaded
//!                         └─ a node restarts, a node comes back empty (A, B) ── all of Holdfast lost: recover
//! ```
//!
//! Promises: both sides run at the same time, so each pays for the other's idling; clients are alike, of one thread, with
//! one request under way each; a failed request ends the run, except while a leader is dead. Deliberately absent: more
//! than one machine, so no network and three syncs on one disk; assertions on times. [`coordination`] is an experiment of its
//! own, on the same nodes.

pub mod coordination;
pub mod etcd;
pub mod faults;
pub mod nodes;
pub mod rates;
pub mod report;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use self::nodes::{Cluster, Kind, Programs};
use self::rates::{Crew, HOT_KEYS, Limit, Work, bodies, fill};
use self::report::{Failover, Idle, Load, Rate, Report};
use crate::client::Payload;
use crate::experiment::Times;
use crate::report::Measured;
use crate::system;

/// Clients of the rates.
const CLIENTS: [usize; 3] = [1, 16, 128];
/// Clients that load keys.
const LOADERS: usize = 256;
/// Keys that are loaded.
const LOADED: &str = "loaded";
/// Both sides, the reference last.
const KINDS: [Kind; 2] = [Kind::Holdfast, Kind::Etcd];

/// How an experiment runs.
#[derive(Clone, Debug)]
pub struct Options {
    pub rounds: usize,
    pub round_time: Duration,
    pub idle_time: Duration,
    pub kills: u64,
    pub objects: u64,
    /// How long nodes are left alone before they are called idle.
    pub settle: Duration,
    /// Where nodes keep their data.
    pub directory: PathBuf,
}

/// Runs everything; what was measured before a failure is in `report`.
///
/// # Errors
/// When any request fails, or a node does not come back.
pub async fn run(programs: &Programs, options: &Options, report: &mut Report) -> Result<()> {
    let mut clusters = start_both(programs, &options.directory).await?;
    report.run.versions = clusters.iter().map(|cluster| (cluster.kind.name(), cluster.version.clone())).collect();
    let bodies = bodies();
    for cluster in &clusters {
        fill(&cluster.doors(), 1, "hot", HOT_KEYS, &bodies).await?;
    }
    clusters[0].check_inline(&rates::name("hot", 0)).await?;
    report.idle.extend(idle(&clusters, "empty", options.settle, options.idle_time).await?);
    for (what, write) in [("put", true), ("read", false)] {
        for clients in CLIENTS {
            let rate = rate(&clusters, what, write, clients, options, &bodies).await?;
            eprint!("{}", report::progress(&rate));
            report.rates.push(rate);
        }
    }
    failovers(&mut clusters, options, report, &bodies[0]).await?;
    for cluster in &clusters {
        let load = load(cluster, options, &bodies).await.with_context(|| format!("loading {}", cluster.kind.name()))?;
        eprintln!("{}: {} keys loaded, {:.0}/s", load.system, load.objects, load.per_s);
        report.loads.push(load);
    }
    report.idle.extend(idle(&clusters, "loaded", options.settle, options.idle_time).await?);
    returns(&mut clusters, report, &bodies).await?;
    eprintln!("recovering from the backend");
    faults::await_archive(&clusters[0]).await?;
    report.recovery = Some(faults::recover(&mut clusters[0], LOADED, options.objects).await?);
    report.run.end();
    Ok(())
}

/// Processor time and memory of nodes that nobody asks anything.
async fn idle(clusters: &[Cluster], state: &'static str, settle: Duration, time: Duration) -> Result<Vec<Idle>> {
    tokio::time::sleep(settle).await;
    let before = clusters.iter().map(Cluster::cpu).collect::<Result<Vec<_>>>()?;
    tokio::time::sleep(time).await;
    let mut found = Vec::new();
    for (cluster, before) in clusters.iter().zip(before) {
        let after = cluster.cpu()?;
        let percent = |spent: Duration| spent.as_secs_f64() * 100.0 / time.as_secs_f64();
        let (node_mib, backend_mib) = cluster.memory()?;
        let nodes = after.front.saturating_sub(before.front);
        let idle = Idle {
            system: cluster.kind.name(),
            state,
            nodes_cpu_percent: percent(nodes),
            backend_cpu_percent: backend_mib.map(|_| percent(after.all.saturating_sub(before.all + nodes))),
            node_mib,
            backend_mib,
        };
        eprintln!("{} {state}: {:.1} % of a core for three nodes", idle.system, idle.nodes_cpu_percent);
        found.push(idle);
    }
    Ok(found)
}

/// All rounds of one kind of request with so many clients.
async fn rate(
    clusters: &[Cluster],
    what: &'static str,
    write: bool,
    clients: usize,
    options: &Options,
    bodies: &Arc<Vec<Payload>>,
) -> Result<Rate> {
    let mut rounds: Vec<Vec<Measured>> = clusters.iter().map(|_| Vec::new()).collect();
    // Round 0 warms up.
    for number in 0..=options.rounds {
        for (at, cluster) in clusters.iter().enumerate() {
            let crew = Crew::connect(&cluster.doors(), clients).await?;
            rustix::fs::syncfs(File::open(&options.directory)?).context("the disk cannot be synced")?;
            let work = if write { Work::Write(format!("{what}/{clients}/{number}")) } else { Work::Read };
            let time = if number == 0 { options.round_time / 3 } else { options.round_time };
            let before = times(clusters)?;
            let round = crew.run(work, Limit { time, ops: u64::MAX }, bodies).await;
            let round = round.with_context(|| format!("{what} by {clients} clients on {}", cluster.kind.name()))?;
            if number > 0 {
                rounds[at].push(Measured::new(round, &before, &times(clusters)?, at));
            }
        }
    }
    let names: Vec<_> = clusters.iter().map(|cluster| cluster.kind.name()).collect();
    Ok(Rate { what, clients, rows: crate::report::rows(&names, &rounds, clusters.len() - 1) })
}

fn times(clusters: &[Cluster]) -> Result<Times> {
    Ok(Times {
        targets: clusters.iter().map(|cluster| cluster.cpu().map(Some)).collect::<Result<_>>()?,
        generator: system::cpu_of(std::process::id())?,
        machine: system::cpu_of_machine()?,
    })
}

async fn failovers(clusters: &mut [Cluster], options: &Options, report: &mut Report, body: &Payload) -> Result<()> {
    let mut took: Vec<Vec<Duration>> = clusters.iter().map(|_| Vec::new()).collect();
    for number in 0..options.kills {
        for (cluster, took) in clusters.iter_mut().zip(&mut took) {
            let one = faults::failover(cluster, number, body).await;
            took.push(one.with_context(|| format!("kill {number} of {}", cluster.kind.name()))?);
        }
    }
    for (cluster, took) in clusters.iter().zip(took) {
        let failover = Failover::new(cluster.kind.name(), &took);
        eprintln!(
            "{}: failover median {:.0} ms, worst {:.0} ms",
            failover.system, failover.median_ms, failover.worst_ms
        );
        report.failovers.push(failover);
    }
    Ok(())
}

async fn load(cluster: &Cluster, options: &Options, bodies: &Arc<Vec<Payload>>) -> Result<Load> {
    let took = fill(&cluster.doors(), LOADERS, LOADED, options.objects, bodies).await?;
    let archive_behind_s = match cluster.kind {
        Kind::Holdfast => Some(faults::await_archive(cluster).await?),
        Kind::Etcd => None,
    };
    Ok(Load {
        system: cluster.kind.name(),
        objects: options.objects,
        per_s: crate::stats::rate(options.objects, took),
        archive_behind_s,
        disk_mib: cluster.disk_bytes() as f64 / 1024.0 / 1024.0,
    })
}

async fn returns(clusters: &mut [Cluster], report: &mut Report, bodies: &Arc<Vec<Payload>>) -> Result<()> {
    for (what, wiped) in [("restarted", false), ("wiped", true)] {
        for cluster in clusters.iter_mut() {
            let back = faults::restart(cluster, wiped, bodies).await;
            let back = back.with_context(|| format!("a node of {} is {what}", cluster.kind.name()));
            let back = match (back, cluster.kind) {
                (Ok(back), _) => Some(back),
                // The reference may fail, and the result says so.
                (Err(error), Kind::Etcd) => {
                    eprintln!("{error:#}");
                    None
                }
                (Err(error), Kind::Holdfast) => return Err(error),
            };
            if let Some(back) = back {
                eprintln!("{}: {what} node reads after {:.2} s", cluster.kind.name(), back.read_s);
            }
            report.returns.push(report::Return { system: cluster.kind.name(), what, back });
        }
    }
    Ok(())
}

/// Bytes that a run takes at most: logs of three nodes, their states, the backend's copy, the same for etcd.
#[must_use]
pub fn bytes_max(options: &Options) -> u64 {
    const OBJECT_BYTES: u64 = 12 << 10;
    const REST_BYTES: u64 = 4 << 30;
    options.objects * OBJECT_BYTES + REST_BYTES
}

/// Starts both sides, the reference last.
async fn start_both(programs: &Programs, directory: &Path) -> Result<Vec<Cluster>> {
    let mut clusters = Vec::new();
    for kind in KINDS {
        eprintln!("starting three nodes of {}", kind.name());
        clusters.push(Cluster::start(kind, programs, directory).await?);
    }
    Ok(clusters)
}

/// Writes results as JSON, and as Markdown.
///
/// # Errors
/// When the directory cannot be written.
pub fn save(results: &Path, name: &str, report: &impl Serialize, markdown: &str) -> Result<()> {
    std::fs::create_dir_all(results).context("the directory of results cannot be made")?;
    let json = serde_json::to_string_pretty(report)?;
    std::fs::write(results.join(format!("{name}.json")), json + "\n")?;
    std::fs::write(results.join(format!("{name}.md")), markdown)?;
    Ok(())
}
