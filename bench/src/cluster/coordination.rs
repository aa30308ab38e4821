//! Locks and events: three nodes of Holdfast beside three of etcd.
//!
//! ```text
//! start both ── locks (A B A B ...) ── latency of events (A B A B ...) ── fan-out (A B A B ...)
//!                    └─ quiet watchers (A B A B ...): gather, memory, idle, latency of 1 and of many beside them, leave
//! ```
//!
//! Promises: as in [`super`]; besides, every watcher saw every event, once, in the order of commits, and no lock had two
//! holders. A failed request, a refused watcher or a missing event ends the run.

pub mod crowd;
pub mod events;
pub mod feed;
pub mod locks;
pub mod report;
pub mod tally;

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use self::crowd::Crowd;
use self::events::{LatencyRound, Setting};
use self::locks::{Contenders, Contest};
use self::report::{Quiet, Report};
use super::nodes::{Cluster, Kind, NODES, Programs};
use super::rates::bodies;
use super::{idle, start_both, times};
use crate::client::Payload;
use crate::report::{Measured, number};
use crate::stats::Spread;
use crate::system;

/// Who contends for what.
const CONTESTS: [Contest; 3] =
    [Contest { contenders: 1, locks: 1 }, Contest { contenders: 64, locks: 1 }, Contest { contenders: 64, locks: 64 }];
/// Files of this program besides its watchers: writers, contenders, programs, the probe.
const FILES_RESERVED: usize = 1024;

/// How an experiment runs.
#[derive(Clone, Debug)]
pub struct Options {
    pub rounds: usize,
    pub round_time: Duration,
    /// How long the quiet watchers are watched.
    pub idle_time: Duration,
    /// How long nodes are left alone before their memory is read.
    pub settle: Duration,
    /// The many watchers of latencies and fan-out.
    pub watchers: usize,
    pub quiet_watchers: usize,
    /// Watchers of etcd that share a connection.
    pub streams: usize,
    /// Where nodes keep their data.
    pub directory: PathBuf,
}

/// What one round of quiet watchers came to.
struct QuietRound {
    before: Vec<f64>,
    with: Vec<f64>,
    after: Vec<f64>,
    open_s: f64,
    cpu_percent: f64,
    generator_percent: f64,
    /// Beside them: of one active watcher, and of many.
    latencies: [LatencyRound; 2],
}

/// Lets this program hold as many files as the system allows it to; gives that number.
///
/// # Errors
/// When the limit cannot be raised.
pub fn raise_file_limit() -> Result<u64> {
    let Some(most) = getrlimit(Resource::Nofile).maximum else { return Ok(u64::MAX) };
    setrlimit(Resource::Nofile, Rlimit { current: Some(most), maximum: Some(most) })?;
    Ok(most)
}

/// Files that this program needs.
#[must_use]
pub fn files_needed(options: &Options) -> u64 {
    (options.quiet_watchers + options.watchers + FILES_RESERVED) as u64
}

/// Runs everything; what was measured before a failure is in `report`.
///
/// # Errors
/// When any request fails, or an event or lock is not what it must be.
pub async fn run(programs: &Programs, options: &Options, report: &mut Report) -> Result<()> {
    let clusters = start_both(programs, &options.directory).await?;
    report.run.versions = clusters.iter().map(|cluster| (cluster.kind.name(), cluster.version.clone())).collect();
    for contest in CONTESTS {
        let result = contend(&clusters, contest, options).await?;
        for row in &result.rows {
            let speed = number(row.ops_per_s.median);
            eprintln!("locks, {} contenders, {} locks  {}  {speed}/s", contest.contenders, contest.locks, row.target);
        }
        report.locks.push(result);
    }
    let bodies = bodies();
    for watchers in [1, options.watchers] {
        let result = latencies(&clusters, watchers, options, &bodies).await?;
        eprint!("{}", report::progress(&result));
        report.latencies.push(result);
    }
    let result = fan_out(&clusters, options, &bodies).await?;
    for row in &result.rows {
        eprintln!("fan-out to {}  {}  {}/s", result.watchers, row.row.target, number(row.row.ops_per_s.median));
    }
    report.fan_out = Some(result);
    quiet(&clusters, options, &bodies, report).await?;
    report.run.end();
    Ok(())
}

fn names(clusters: &[Cluster]) -> Vec<&'static str> {
    clusters.iter().map(|cluster| cluster.kind.name()).collect()
}

/// Lets the disk finish what is behind, so that no round pays for the one before.
fn sync(options: &Options) -> Result<()> {
    rustix::fs::syncfs(File::open(&options.directory)?).context("the disk cannot be synced")
}

/// All rounds of one contest. As everywhere, round 0 warms up.
async fn contend(clusters: &[Cluster], contest: Contest, options: &Options) -> Result<report::Locks> {
    let Contest { contenders, locks } = contest;
    let mut rounds: Vec<Vec<Measured>> = clusters.iter().map(|_| Vec::new()).collect();
    for number in 0..=options.rounds {
        for (at, cluster) in clusters.iter().enumerate() {
            let what = || format!("{contenders} contenders for {locks} locks on {}", cluster.kind.name());
            let stem = format!("bench/{contenders}-{locks}/{number}");
            let mut connected = Contenders::connect(cluster, contest, &stem).await.with_context(what)?;
            sync(options)?;
            let before = times(clusters)?;
            let round = connected.run(round_time(options, number)).await.with_context(what)?;
            let after = times(clusters)?;
            if number > 0 {
                rounds[at].push(Measured::new(round, &before, &after, at));
            }
            connected.leave().await.with_context(what)?;
        }
    }
    Ok(report::locks(&names(clusters), contenders, locks, &rounds))
}

fn round_time(options: &Options, number: usize) -> Duration {
    if number == 0 { options.round_time / 3 } else { options.round_time }
}

/// The first watcher is at another node in each round, so that one alone is near the leader and far from it.
fn setting(what: &str, watchers: usize, number: usize, options: &Options) -> Setting {
    let below = format!("{what}/{watchers}/{number}/");
    Setting { below, watchers, first: number % NODES, streams: options.streams }
}

async fn latencies(
    clusters: &[Cluster],
    watchers: usize,
    options: &Options,
    bodies: &Arc<Vec<Payload>>,
) -> Result<report::Latencies> {
    let mut rounds: Vec<Vec<LatencyRound>> = clusters.iter().map(|_| Vec::new()).collect();
    for number in 0..=options.rounds {
        for (at, cluster) in clusters.iter().enumerate() {
            cluster.await_watchers(0).await?;
            sync(options)?;
            let setting = setting("late", watchers, number, options);
            let round = events::latency(clusters, at, &setting, round_time(options, number), bodies).await;
            let round = round.with_context(|| format!("events to {watchers} watchers of {}", cluster.kind.name()))?;
            if number > 0 {
                rounds[at].push(round);
            }
        }
    }
    Ok(report::latencies(&names(clusters), watchers, 0, rounds))
}

async fn fan_out(clusters: &[Cluster], options: &Options, bodies: &Arc<Vec<Payload>>) -> Result<report::FanOut> {
    let mut rounds: Vec<Vec<_>> = clusters.iter().map(|_| Vec::new()).collect();
    let mut lagged = vec![None; clusters.len()];
    for number in 0..=options.rounds {
        for (at, cluster) in clusters.iter().enumerate() {
            cluster.await_watchers(0).await?;
            sync(options)?;
            let before = lagging(cluster).await?;
            let setting = setting("fan", options.watchers, number, options);
            let round = events::fan_out(clusters, at, &setting, round_time(options, number), bodies).await;
            let round = round.with_context(|| format!("fan-out of {}", cluster.kind.name()))?;
            if number > 0 {
                let more = lagging(cluster).await?.zip(before).map(|(after, before)| after.saturating_sub(before));
                lagged[at] = more.map(|more| more + lagged[at].unwrap_or(0));
                rounds[at].push(round);
            }
        }
    }
    Ok(report::fan_out(&names(clusters), options.watchers, rounds, &lagged))
}

/// How often watchers of Holdfast fell back to rows, all nodes together.
async fn lagging(cluster: &Cluster) -> Result<Option<u64>> {
    match cluster.kind {
        Kind::Holdfast => cluster.metric("holdfast_feed_watchers_lagged_total").await.map(Some),
        Kind::Etcd => Ok(None),
    }
}

async fn quiet(clusters: &[Cluster], options: &Options, bodies: &Arc<Vec<Payload>>, report: &mut Report) -> Result<()> {
    eprintln!("idle without watchers");
    let without = idle(clusters, "no watchers", options.settle, options.idle_time).await?;
    let mut rounds: Vec<Vec<QuietRound>> = clusters.iter().map(|_| Vec::new()).collect();
    for number in 1..=options.rounds {
        for (at, cluster) in clusters.iter().enumerate() {
            let (name, watchers) = (cluster.kind.name(), options.quiet_watchers);
            let round = quiet_round(clusters, at, number, options, bodies).await;
            let round = round.with_context(|| format!("{watchers} quiet watchers of {name}"))?;
            let (opened, cpu) = (round.open_s, round.cpu_percent);
            eprintln!("{watchers} quiet watchers  {name}  opened in {opened:.1} s, {cpu:.1} % of a core");
            rounds[at].push(round);
        }
    }
    for ((cluster, rounds), without) in clusters.iter().zip(&rounds).zip(without) {
        let result = quiet_of(cluster.kind.name(), options, rounds, without.nodes_cpu_percent);
        report.quiet.push(result.context("a run has at least one round")?);
    }
    let (mut ones, mut manys) = (Vec::new(), Vec::new());
    for rounds in rounds {
        let (one, many): (Vec<_>, Vec<_>) = rounds.into_iter().map(|round| round.latencies.into()).unzip();
        ones.push(one);
        manys.push(many);
    }
    for (watchers, rounds) in [(1, ones), (options.watchers, manys)] {
        let result = report::latencies(&names(clusters), watchers, options.quiet_watchers, rounds);
        eprint!("{}", report::progress(&result));
        report.latencies.push(result);
    }
    Ok(())
}

/// Gathers quiet watchers at the cluster at `at`, leaves them alone, measures others beside them, and lets them go.
async fn quiet_round(
    clusters: &[Cluster],
    at: usize,
    number: usize,
    options: &Options,
    bodies: &Arc<Vec<Payload>>,
) -> Result<QuietRound> {
    let cluster = &clusters[at];
    cluster.await_watchers(0).await?;
    let (before, _) = cluster.memory()?;
    let mut crowd = Crowd::gather(cluster, options.quiet_watchers, options.streams).await?;
    cluster.await_watchers(options.quiet_watchers).await?;
    tokio::time::sleep(options.settle).await;
    let (with, _) = cluster.memory()?;
    let (nodes, own) = (cluster.cpu()?.front, system::cpu_of(std::process::id())?);
    tokio::time::sleep(options.idle_time).await;
    let percent = |spent: Duration| spent.as_secs_f64() * 100.0 / options.idle_time.as_secs_f64();
    let cpu_percent = percent(cluster.cpu()?.front.saturating_sub(nodes));
    let generator_percent = percent(system::cpu_of(std::process::id())?.saturating_sub(own));
    crowd.check()?;
    sync(options)?;
    let one = setting("beside", 1, number, options);
    let one = events::latency(clusters, at, &one, options.round_time, bodies).await?;
    let many = setting("beside", options.watchers, number, options);
    let many = events::latency(clusters, at, &many, options.round_time, bodies).await?;
    crowd.check()?;
    let open_s = crowd.took.as_secs_f64();
    drop(crowd);
    cluster.await_watchers(0).await?;
    tokio::time::sleep(options.settle).await;
    let (after, _) = cluster.memory()?;
    Ok(QuietRound { before, with, after, open_s, cpu_percent, generator_percent, latencies: [one, many] })
}

fn quiet_of(system: &'static str, options: &Options, rounds: &[QuietRound], without: f64) -> Option<Quiet> {
    let (first, last) = (rounds.first()?, rounds.last()?);
    let spread = |of: fn(&QuietRound) -> f64| Spread::of(rounds.iter().map(of));
    let grown = first.with.iter().sum::<f64>() - first.before.iter().sum::<f64>();
    Some(Quiet {
        system,
        watchers: options.quiet_watchers,
        open_s: spread(|round| round.open_s)?,
        mib_before: first.before.clone(),
        mib_with: first.with.clone(),
        mib_after: last.after.clone(),
        kib_each: grown * 1024.0 / options.quiet_watchers as f64,
        cpu_before_percent: without,
        cpu_percent: spread(|round| round.cpu_percent)?,
        generator_percent: spread(|round| round.generator_percent)?,
    })
}
