//! An experiment: all scenarios on all targets, in rounds that alternate.
//!
//! ```text
//! for each scenario:   prepare A, B   warm up A, B   then  A B  A B  A B ...
//! ```
//!
//! Targets take turns within seconds, so what else happens on the machine hits all of them, and a ratio is taken between
//! neighbours. Any failed request ends the experiment.

use std::fs::File;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::client::{Client, Payload};
use crate::load::{Limit, Stage, fill_list};
use crate::report::{self, Measured, Report, TargetFacts};
use crate::scenario::{LIST_KEYS, Scenario, Work};
use crate::system;
use crate::target::{Cpu, Target};

/// Bucket that all listings share.
const LIST: &str = "list";

/// How an experiment runs.
#[derive(Clone, Debug)]
pub struct Options {
    pub rounds: usize,
    pub round_time: Duration,
    pub warm_up: Duration,
    /// How long servers are left alone before their idle memory is read.
    pub settle: Duration,
    pub list_objects: u64,
    pub scenarios: Vec<Scenario>,
    /// The directory of the servers, to sync the disk between rounds.
    pub directory: Option<PathBuf>,
    /// Tells buckets of several runs on one server apart.
    pub bucket_stem: String,
    /// The reference of all ratios.
    pub reference: usize,
}

/// Runs everything; what was measured before a failure is in `report`.
///
/// # Errors
/// When any request fails or a server ends.
pub async fn run(targets: &[Target], options: &Options, report: &mut Report) -> Result<()> {
    tokio::time::sleep(options.settle).await;
    for target in targets {
        report.targets.push(TargetFacts::new(target)?);
    }
    let lists = options.scenarios.iter().any(|scenario| is_list(scenario.work));
    if lists {
        load_list(targets, options, report).await?;
    }
    for scenario in &options.scenarios {
        let measured = measure(targets, scenario, options).await;
        let measured = measured.with_context(|| format!("scenario {}", scenario.name))?;
        let result = report::scenario(scenario, targets, &measured, options.reference);
        eprint!("{}", report::progress(&result));
        report.scenarios.push(result);
    }
    for (target, facts) in targets.iter().zip(&mut report.targets) {
        facts.finish(target)?;
    }
    Ok(())
}

fn is_list(work: Work) -> bool {
    matches!(work, Work::ListPage | Work::ListFolder)
}

/// Targets may be one server under two names, so each has buckets of its own.
fn bucket(options: &Options, at: usize, what: &str) -> String {
    format!("{}-{at}-{what}", options.bucket_stem)
}

async fn load_list(targets: &[Target], options: &Options, report: &mut Report) -> Result<()> {
    for (at, (target, facts)) in targets.iter().zip(&mut report.targets).enumerate() {
        let bucket = bucket(options, at, LIST);
        let began = Instant::now();
        Client::connect(&target.endpoint).await?.put(&format!("/{bucket}"), &Payload::empty()).await?;
        let filled = fill_list(&target.endpoint, &bucket, options.list_objects).await;
        filled.with_context(|| format!("loading objects to list into {}", target.name))?;
        sync(options)?;
        facts.loaded(target, options.list_objects, began.elapsed())?;
        eprintln!("{}: {} objects to list loaded in {:.1?}", target.name, options.list_objects, began.elapsed());
    }
    Ok(())
}

/// All rounds of a scenario, by target.
async fn measure(targets: &[Target], scenario: &Scenario, options: &Options) -> Result<Vec<Vec<Measured>>> {
    let mut stages = Vec::with_capacity(targets.len());
    for (at, target) in targets.iter().enumerate() {
        let stage = prepare(target, at, scenario, options).await;
        stages.push(stage.with_context(|| format!("preparing {}", target.name))?);
    }
    let warm_up = Limit { time: options.warm_up, ops: scenario.ops_max.map(|ops| ops.min(64)), compare: true };
    for (stage, target) in stages.iter_mut().zip(targets) {
        let warmed = round(targets, 0, stage, warm_up).await;
        warmed.with_context(|| format!("warming up {}", target.name))?;
    }
    let limit = Limit { time: options.round_time, ops: scenario.ops_max, compare: false };
    let mut rounds: Vec<Vec<Measured>> = targets.iter().map(|_| Vec::new()).collect();
    for _ in 0..options.rounds {
        for (at, stage) in stages.iter_mut().enumerate() {
            if scenario.writes() {
                sync(options)?;
            }
            let measured = round(targets, at, stage, limit).await;
            rounds[at].push(measured.with_context(|| format!("measuring {}", targets[at].name))?);
        }
    }
    Ok(rounds)
}

async fn prepare(target: &Target, at: usize, scenario: &Scenario, options: &Options) -> Result<Stage> {
    let bucket = if is_list(scenario.work) {
        bucket(options, at, LIST)
    } else {
        let bucket = bucket(options, at, scenario.name);
        Client::connect(&target.endpoint).await?.put(&format!("/{bucket}"), &Payload::empty()).await?;
        bucket
    };
    Stage::prepare(&target.endpoint, &bucket, scenario, options.list_objects).await
}

/// A round of the target at `at`, with the processor time that everyone spent meanwhile.
async fn round(targets: &[Target], at: usize, stage: &mut Stage, limit: Limit) -> Result<Measured> {
    let ready = stage.ready(limit).await?;
    let before = Times::now(targets)?;
    let round = ready.run().await?;
    let after = Times::now(targets)?;
    stage.clean(round.latencies.len()).await?;
    Ok(Measured::new(round, &before, &after, at))
}

/// Processor time so far, of everyone.
pub struct Times {
    pub targets: Vec<Option<Cpu>>,
    pub generator: Duration,
    pub machine: Duration,
}

impl Times {
    fn now(targets: &[Target]) -> Result<Self> {
        Ok(Self {
            targets: targets.iter().map(Target::cpu).collect::<Result<_>>()?,
            generator: system::cpu_of(std::process::id())?,
            machine: system::cpu_of_machine()?,
        })
    }
}

/// Lets the disk finish what is behind, so that no round pays for the one before.
fn sync(options: &Options) -> Result<()> {
    if let Some(directory) = &options.directory {
        rustix::fs::syncfs(File::open(directory)?).context("the disk cannot be synced")?;
    }
    Ok(())
}

/// The least number of objects that the listings can be measured with.
pub const LIST_OBJECTS_MIN: u64 = 2 * LIST_KEYS;
