//! `holdfast-bench`: command line, files, exit codes (0 done, 1 a request failed, 2 wrong usage or a missing program).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use holdfast_bench::chart;
use holdfast_bench::client::Endpoint;
use holdfast_bench::cluster::{self, coordination};
use holdfast_bench::experiment::{self, LIST_OBJECTS_MIN, Options};
use holdfast_bench::mount;
use holdfast_bench::queries::{self, Part};
use holdfast_bench::report::{self, Report};
use holdfast_bench::scenario::{self, LIST_OBJECTS, Scenario};
use holdfast_bench::sign::Credentials;
use holdfast_bench::system::{self, Machine};
use holdfast_bench::target::{Kind, Programs, Target};
use holdfast_compat_tests::process;
use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};

/// Measures S3 servers side by side.
#[derive(Parser)]
#[command(name = "holdfast-bench", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: Run,
}

#[derive(Subcommand)]
enum Command {
    /// Starts servers on new directories and measures them (the default)
    Run(Run),
    /// Measures servers that run already: keys from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY
    Load(Load),
    /// Measures three nodes of Holdfast beside three of etcd
    Cluster(ClusterRun),
    /// Measures locks and events of three nodes of Holdfast beside three of etcd
    Coordination(CoordinationRun),
    /// Measures SQL beside DuckDB, and S3 Select beside MinIO's
    Queries(QueriesRun),
    /// Measures the mount beside s3fs and rclone, and a machine on it beside one on a local disk
    Mount(MountRun),
    /// Lists the scenarios
    List,
}

#[derive(Args)]
struct Run {
    /// What to start
    #[arg(long, value_delimiter = ',', default_value = "holdfast,minio")]
    targets: Vec<Kind>,
    /// The holdfast program [default: beside this program]
    #[arg(long)]
    holdfast: Option<PathBuf>,
    /// The minio program [default: in PATH or ~/.cache/holdfast/bin]
    #[arg(long)]
    minio: Option<PathBuf>,
    /// Where servers keep their data; a new directory is made in it and removed at the end
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    #[command(flatten)]
    measure: Measure,
}

/// What runs as three nodes, and where.
#[derive(Args)]
struct Nodes {
    /// The holdfast program [default: beside this program]
    #[arg(long)]
    holdfast: Option<PathBuf>,
    /// The minio program, the backend [default: in PATH or ~/.cache/holdfast/bin]
    #[arg(long)]
    minio: Option<PathBuf>,
    /// The etcd program [default: in PATH or ~/.cache/holdfast/bin]
    #[arg(long)]
    etcd: Option<PathBuf>,
    /// The etcdctl program [default: in PATH or ~/.cache/holdfast/bin]
    #[arg(long)]
    etcdctl: Option<PathBuf>,
    /// Where nodes keep their data; a new directory is made in it and removed at the end
    #[arg(long, default_value = ".")]
    dir: PathBuf,
}

#[derive(Args)]
struct ClusterRun {
    #[command(flatten)]
    nodes: Nodes,
    /// One round of 1 s, 3 kills, 20,000 keys: a first look, not a result
    #[arg(long)]
    quick: bool,
    /// Rounds of each kind of request and side
    #[arg(long)]
    rounds: Option<usize>,
    /// Keys in the state before nodes restart
    #[arg(long)]
    objects: Option<u64>,
    /// Kills of each side's leader
    #[arg(long)]
    kills: Option<u64>,
    /// Where NAME.json and NAME.md are written
    #[arg(long, default_value = "bench/results")]
    results: PathBuf,
    /// Name of the result
    #[arg(long, default_value = "cluster")]
    name: String,
}

#[derive(Args)]
struct CoordinationRun {
    #[command(flatten)]
    nodes: Nodes,
    /// One round of 1 s, 100 watchers and 1,000 quiet ones: a first look, not a result
    #[arg(long)]
    quick: bool,
    /// Rounds of each kind and side
    #[arg(long)]
    rounds: Option<usize>,
    /// Watchers of the same prefix
    #[arg(long)]
    watchers: Option<usize>,
    /// Watchers of prefixes that do not change
    #[arg(long)]
    quiet_watchers: Option<usize>,
    /// Watchers of etcd that share a connection; those of Holdfast have one each
    #[arg(long, default_value_t = 1)]
    etcd_streams: usize,
    /// Where NAME.json and NAME.md are written
    #[arg(long, default_value = "bench/results")]
    results: PathBuf,
    /// Name of the result
    #[arg(long, default_value = "coordination")]
    name: String,
}

#[derive(Args)]
struct QueriesRun {
    /// The holdfast program [default: beside this program]
    #[arg(long)]
    holdfast: Option<PathBuf>,
    /// Where servers keep their data; a new directory is made in it and removed at the end
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// 100,000 rows, scale 0.1, 32 MB, one round: a first look, not a result
    #[arg(long)]
    quick: bool,
    /// Only these parts
    #[arg(long, value_delimiter = ',', default_value = "table,tpch,puts,select")]
    only: Vec<Part>,
    /// Rows of the table [default: 10,000,000]
    #[arg(long)]
    rows: Option<u64>,
    /// Rows of each of its objects, a table for each
    #[arg(long, value_delimiter = ',', default_value = "10000")]
    object_rows: Vec<u64>,
    /// Formats of the table: parquet, csv
    #[arg(long, value_delimiter = ',', default_value = "parquet,csv")]
    formats: Vec<String>,
    /// Lookups of each kind [default: 7]
    #[arg(long)]
    runs: Option<usize>,
    /// Scale factor of TPC-H [default: 1]
    #[arg(long)]
    scale: Option<f64>,
    /// Rounds of everything else [default: 3]
    #[arg(long)]
    rounds: Option<usize>,
    /// Megabytes of CSV that S3 Select reads [default: 1000]
    #[arg(long)]
    select_mb: Option<u64>,
    /// Where NAME.json and NAME.md are written
    #[arg(long, default_value = "bench/results")]
    results: PathBuf,
    /// Name of the result
    #[arg(long, default_value = "queries")]
    name: String,
}

#[derive(Args)]
struct MountRun {
    /// The holdfast program [default: beside this program]
    #[arg(long)]
    holdfast: Option<PathBuf>,
    /// The holdfast-mount program [default: beside this program]
    #[arg(long)]
    holdfast_mount: Option<PathBuf>,
    /// Where servers and mounts keep their data and caches; a new directory is made in it and removed at the end
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Big files of 64 MiB, one round of 2 s: a first look, not a result
    #[arg(long)]
    quick: bool,
    /// Only these parts
    #[arg(long, value_delimiter = ',', default_value = "sequential,big,random,names,directory,listing,machine")]
    only: Vec<mount::Part>,
    /// Rounds of everything [default: 3]
    #[arg(long)]
    rounds: Option<usize>,
    /// MiB of a big file [default: 1024]
    #[arg(long)]
    big_mib: Option<u64>,
    /// Where NAME.json and NAME.md are written
    #[arg(long, default_value = "bench/results")]
    results: PathBuf,
    /// Name of the result [default: mount, or mount-quick]
    #[arg(long)]
    name: Option<String>,
}

#[derive(Args)]
struct Load {
    /// http://HOST:PORT or NAME=http://HOST:PORT, the reference last
    #[arg(required = true)]
    urls: Vec<String>,
    #[arg(long, env = "AWS_ACCESS_KEY_ID", hide_env_values = true)]
    access_key: String,
    #[arg(long, env = "AWS_SECRET_ACCESS_KEY", hide_env_values = true)]
    secret_key: String,
    #[arg(long, env = "AWS_REGION", default_value = "us-east-1")]
    region: String,
    #[command(flatten)]
    measure: Measure,
}

#[derive(Args)]
struct Measure {
    /// Three rounds of 1 s, listings among 10,000 objects: a first look, not a result
    #[arg(long)]
    quick: bool,
    /// Only these scenarios, or those whose name starts so
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Rounds of each scenario and target
    #[arg(long)]
    rounds: Option<usize>,
    /// Seconds of a round
    #[arg(long)]
    seconds: Option<f64>,
    /// Objects in the bucket that is listed
    #[arg(long)]
    list_objects: Option<u64>,
    /// The target that ratios are relative to [default: minio, else the last]
    #[arg(long)]
    reference: Option<String>,
    /// Where NAME.json and NAME.svg are written
    #[arg(long, default_value = "bench/results")]
    results: PathBuf,
    /// Name of the result [default: made of the targets]
    #[arg(long)]
    name: Option<String>,
}

/// What the caller got wrong: exit code 2.
#[derive(Debug)]
struct Usage(String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

fn usage<T>(text: impl Into<String>) -> Result<T> {
    Err(Usage(text.into()).into())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let work = async {
        match cli.command.unwrap_or(Command::Run(cli.run)) {
            Command::Run(args) => run(args).await,
            Command::Load(args) => load(args).await,
            Command::Cluster(args) => run_cluster(args).await,
            Command::Coordination(args) => run_coordination(args).await,
            Command::Queries(args) => run_queries(args).await,
            Command::Mount(args) => run_mount(args).await,
            Command::List => {
                list();
                Ok(())
            }
        }
    };
    // Dropping the work ends the servers and removes their directory.
    let done = tokio::select! {
        done = work => done,
        signal = interrupted() => {
            // What blocks a thread ends with the servers that it waits for.
            process::kill_all();
            signal.and_then(|()| bail!("interrupted"))
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("holdfast-bench: {error:#}");
            ExitCode::from(if error.is::<Usage>() { 2 } else { 1 })
        }
    }
}

async fn interrupted() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    }
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
fn list() {
    for scenario in scenario::all() {
        println!("{:<18} {}", scenario.name, scenario.what);
    }
}

async fn run(args: Run) -> Result<()> {
    let programs = Programs { holdfast: holdfast_program(args.holdfast)?, minio: installed(args.minio, "minio") };
    if let Some(missing) = args.targets.iter().find_map(|kind| kind.missing(&programs)) {
        return usage(format!("{} is not there: build or install it, or name another by a flag", missing.display()));
    }
    let parent = args.dir.canonicalize().or_else(|_| usage(format!("{} is not a directory", args.dir.display())))?;
    let directory = tempfile::Builder::new().prefix("holdfast-bench-").tempdir_in(&parent)?;
    let names: Vec<_> = args.targets.iter().map(|kind| kind.name()).collect();
    let mut options = options(&args.measure, &names)?;
    options.directory = Some(directory.path().to_owned());
    check_space(directory.path(), &options, names.len())?;
    let machine = Machine::here(directory.path());
    eprintln!("probing the disk");
    let disk = system::probe(directory.path())?;
    let mut targets = Vec::new();
    for kind in &args.targets {
        eprintln!("starting {}", kind.name());
        targets.push(Target::start(*kind, &programs, directory.path()).await?);
    }
    let name = result_name(&args.measure, &names);
    let report = Report::new(&name, machine, Some(disk), names[options.reference]);
    measure(&targets, &options, report, &args.measure.results).await
}

async fn load(args: Load) -> Result<()> {
    let credentials = Credentials { access_key: args.access_key, secret_key: args.secret_key, region: args.region };
    let mut targets = Vec::new();
    for url in &args.urls {
        let (name, url) =
            url.split_once("=http").map_or((url.as_str(), url.clone()), |(name, rest)| (name, format!("http{rest}")));
        let endpoint = Endpoint::parse(&url, credentials.clone()).or_else(|error| usage(format!("{error:#}")))?;
        // A host's name is no part of a result: what has no name is counted.
        let name = if name == url { format!("target{}", targets.len() + 1) } else { name.to_owned() };
        targets.push(Target::outside(&name, endpoint));
    }
    let names: Vec<_> = targets.iter().map(|target| target.name.as_str()).collect();
    let options = options(&args.measure, &names)?;
    let name = result_name(&args.measure, &names);
    let report = Report::new(&name, Machine::here(Path::new("/")), None, names[options.reference]);
    measure(&targets, &options, report, &args.measure.results).await
}

impl Nodes {
    /// The programs, which are all there, and the new directory.
    fn prepare(self) -> Result<(cluster::nodes::Programs, TempDir)> {
        let programs = cluster::nodes::Programs {
            holdfast: holdfast_program(self.holdfast)?,
            minio: installed(self.minio, "minio"),
            etcd: installed(self.etcd, "etcd"),
            etcdctl: installed(self.etcdctl, "etcdctl"),
        };
        let all = [&programs.holdfast, &programs.minio, &programs.etcd, &programs.etcdctl];
        if let Some(missing) = all.into_iter().find(|program| !program.is_file()) {
            return usage(format!(
                "{} is not there: `make tools` installs it, or name another by a flag",
                missing.display()
            ));
        }
        let parent =
            self.dir.canonicalize().or_else(|_| usage(format!("{} is not a directory", self.dir.display())))?;
        Ok((programs, tempfile::Builder::new().prefix("holdfast-bench-").tempdir_in(&parent)?))
    }
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
async fn run_cluster(args: ClusterRun) -> Result<()> {
    let (programs, directory) = args.nodes.prepare()?;
    let seconds = |long, quick| Duration::from_secs(if args.quick { quick } else { long });
    let options = cluster::Options {
        rounds: args.rounds.unwrap_or(if args.quick { 1 } else { 3 }),
        round_time: seconds(3, 1),
        idle_time: seconds(30, 5),
        kills: args.kills.unwrap_or(if args.quick { 3 } else { 20 }),
        objects: args.objects.unwrap_or(if args.quick { 20_000 } else { 1_000_000 }),
        settle: seconds(5, 2),
        directory: directory.path().to_owned(),
    };
    if options.rounds == 0 || options.kills == 0 || options.objects == 0 {
        return usage("a run has at least one round, one kill and one key");
    }
    check_free(directory.path(), cluster::bytes_max(&options))?;
    let machine = Machine::here(directory.path());
    let disk = system::probe(directory.path())?;
    let mut report = cluster::report::Report::new(&args.name, machine, disk, options.rounds, options.round_time);
    let done = cluster::run(&programs, &options, &mut report).await;
    let markdown = cluster::report::markdown(&report);
    println!("{markdown}");
    done?;
    cluster::save(&args.results, &report.run.name, &report, &markdown)
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
async fn run_coordination(args: CoordinationRun) -> Result<()> {
    const DISK_BYTES: u64 = 6 << 30;
    let (programs, directory) = args.nodes.prepare()?;
    let seconds = |long, quick| Duration::from_secs(if args.quick { quick } else { long });
    let options = coordination::Options {
        rounds: args.rounds.unwrap_or(if args.quick { 1 } else { 3 }),
        round_time: seconds(3, 1),
        // Holdfast tells each quiet watcher every 10 s how far it is.
        idle_time: seconds(20, 10),
        settle: seconds(5, 2),
        watchers: args.watchers.unwrap_or(if args.quick { 100 } else { 1000 }),
        quiet_watchers: args.quiet_watchers.unwrap_or(if args.quick { 1000 } else { 10_000 }),
        streams: args.etcd_streams,
        directory: directory.path().to_owned(),
    };
    if options.rounds == 0 || options.watchers == 0 || options.quiet_watchers == 0 || options.streams == 0 {
        return usage("a run has at least one round, one watcher of each kind and one stream on a connection");
    }
    let (files, needed) = (coordination::raise_file_limit()?, coordination::files_needed(&options));
    if files < needed {
        return usage(format!("{files} files may be open and {needed} are needed: raise `ulimit -Hn`, or watch less"));
    }
    check_free(directory.path(), DISK_BYTES)?;
    let machine = Machine::here(directory.path());
    let disk = system::probe(directory.path())?;
    let mut report = coordination::report::Report::new(&args.name, machine, disk, &options);
    let done = coordination::run(&programs, &options, &mut report).await;
    let markdown = coordination::report::markdown(&report);
    println!("{markdown}");
    done?;
    cluster::save(&args.results, &report.run.name, &report, &markdown)
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
async fn run_queries(args: QueriesRun) -> Result<()> {
    let holdfast = holdfast_program(args.holdfast)?;
    if !holdfast.is_file() {
        return usage(format!("{} is not there: build it, or name another by a flag", holdfast.display()));
    }
    let parent = args.dir.canonicalize().or_else(|_| usage(format!("{} is not a directory", args.dir.display())))?;
    let directory = tempfile::Builder::new().prefix("holdfast-bench-").tempdir_in(&parent)?;
    let number = |long, quick| if args.quick { quick } else { long };
    let options = queries::Options {
        parts: args.only,
        rows: args.rows.unwrap_or(number(10_000_000, 100_000)),
        object_rows: args.object_rows,
        formats: args.formats,
        runs: args.runs.unwrap_or(if args.quick { 3 } else { 7 }),
        scale: args.scale.unwrap_or(if args.quick { 0.1 } else { 1.0 }),
        rounds: args.rounds.unwrap_or(if args.quick { 1 } else { 3 }),
        put_time: Duration::from_secs(number(5, 1)),
        select_bytes: args.select_mb.unwrap_or(number(1000, 32)) * 1_000_000,
        holdfast,
        directory: directory.path().to_owned(),
    };
    let known = options.formats.iter().all(|format| ["parquet", "csv"].contains(&format.as_str()));
    let some = options.rows > 0 && options.runs > 0 && options.rounds > 0 && options.object_rows.iter().all(|n| *n > 0);
    if !known || !some || !(0.001..=100.0).contains(&options.scale) {
        return usage("a run has rows, rounds and runs, formats are parquet and csv, a scale is 0.001 to 100");
    }
    check_free(directory.path(), queries::bytes_max(&options))?;
    let machine = Machine::here(directory.path());
    let disk = system::probe(directory.path())?;
    let mut report = queries::report::Report::new(&args.name, machine, disk, &options);
    let work = tokio::task::spawn_blocking(move || {
        let done = queries::run(&options, &mut report);
        (done, report)
    });
    let (done, report) = work.await.context("the run stopped")?;
    let markdown = queries::report::markdown(&report);
    println!("{markdown}");
    done?;
    cluster::save(&args.results, &report.run.name, &report, &markdown)
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
async fn run_mount(args: MountRun) -> Result<()> {
    let programs = mount::Programs {
        holdfast: holdfast_program(args.holdfast)?,
        mount: beside(args.holdfast_mount, "holdfast-mount")?,
    };
    if let Some(missing) = [&programs.holdfast, &programs.mount].into_iter().find(|program| !program.is_file()) {
        return usage(format!("{} is not there: build it, or name another by a flag", missing.display()));
    }
    let parent = args.dir.canonicalize().or_else(|_| usage(format!("{} is not a directory", args.dir.display())))?;
    let directory = tempfile::Builder::new().prefix("holdfast-bench-").tempdir_in(&parent)?;
    let number = |long, quick| if args.quick { quick } else { long };
    let options = mount::Options {
        parts: args.only,
        rounds: args.rounds.unwrap_or(if args.quick { 1 } else { 3 }),
        big_bytes: args.big_mib.unwrap_or(number(1024, 64)) << 20,
        random_bytes: 64 << 20,
        round_time: Duration::from_secs(number(5, 2)),
        tree_files: 2_000,
        entries: 10_000,
        machine_bytes: number(256, 64) << 20,
        machine_writes: number(8_192, 2_048),
        machine_steps: if args.quick { 60 } else { 200 },
        programs,
        directory: directory.path().to_owned(),
    };
    if options.rounds == 0 || options.big_bytes == 0 {
        return usage("a run has at least one round, a big file at least 1 MiB");
    }
    check_free(directory.path(), mount::bytes_max(&options))?;
    let machine = Machine::here(directory.path());
    let disk = system::probe(directory.path())?;
    let name = args.name.unwrap_or_else(|| if args.quick { "mount-quick" } else { "mount" }.to_owned());
    let mut report = mount::report::Report::new(&name, machine, disk, &options);
    let work = tokio::task::spawn_blocking(move || {
        let done = mount::run(&options, &mut report);
        // Removed here, after the last mount: an interrupted run must not remove what is mounted in it.
        drop(directory);
        (done, report)
    });
    let (done, report) = work.await.context("the run stopped")?;
    let markdown = mount::report::markdown(&report);
    println!("{markdown}");
    done?;
    let failures = report.failures();
    if !failures.is_empty() {
        bail!("the mount failed: {}", failures.join("; "));
    }
    cluster::save(&args.results, &report.run.name, &report, &markdown)
}

/// Measures, prints the table, and writes the results when nothing failed.
#[expect(clippy::print_stdout, reason = "the command's answer")]
async fn measure(targets: &[Target], options: &Options, mut report: Report, results: &Path) -> Result<()> {
    report.rounds = options.rounds;
    report.round_s = options.round_time.as_secs_f64();
    report.list_objects = options.list_objects;
    let done = experiment::run(targets, options, &mut report).await;
    if !report.scenarios.is_empty() {
        println!("{}", report::table(&report));
    }
    done?;
    fs::create_dir_all(results).context("the directory of results cannot be made")?;
    let json = serde_json::to_string_pretty(&report)?;
    fs::write(results.join(format!("{}.json", report.name)), json + "\n")?;
    fs::write(results.join(format!("{}.svg", report.name)), chart::svg(&report))?;
    Ok(())
}

fn options(args: &Measure, targets: &[&str]) -> Result<Options> {
    let list_objects = args.list_objects.unwrap_or(if args.quick { LIST_OBJECTS / 10 } else { LIST_OBJECTS });
    if list_objects < LIST_OBJECTS_MIN {
        return usage(format!("--list-objects is at least {LIST_OBJECTS_MIN}"));
    }
    let rounds = args.rounds.unwrap_or(if args.quick { 3 } else { 5 });
    let seconds = args.seconds.unwrap_or(if args.quick { 1.0 } else { 3.0 });
    if rounds == 0 || !(0.05..=600.0).contains(&seconds) {
        return usage("a run has at least one round, a round 0.05 to 600 seconds");
    }
    let settle = if args.quick { 1.0 } else { 5.0 };
    Ok(Options {
        rounds,
        round_time: Duration::from_secs_f64(seconds),
        warm_up: Duration::from_secs_f64(seconds / 3.0),
        settle: Duration::from_secs_f64(settle),
        list_objects,
        scenarios: scenarios(&args.only)?,
        directory: None,
        bucket_stem: bucket_stem(),
        reference: reference(args.reference.as_deref(), targets)?,
    })
}

/// Names that no other run on the same server has.
fn bucket_stem() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    format!("bench-{seconds}-{}", std::process::id())
}

fn scenarios(only: &[String]) -> Result<Vec<Scenario>> {
    let all = scenario::all();
    if let Some(unknown) = only.iter().find(|name| !all.iter().any(|row| row.name.starts_with(name.as_str()))) {
        return usage(format!("no scenario is called {unknown}; `holdfast-bench list` names all"));
    }
    let wanted = |row: &Scenario| only.is_empty() || only.iter().any(|name| row.name.starts_with(name.as_str()));
    Ok(all.into_iter().filter(wanted).collect())
}

fn reference(wanted: Option<&str>, targets: &[&str]) -> Result<usize> {
    let position = |name: &str| targets.iter().position(|target| *target == name);
    match wanted {
        Some(name) => position(name).map_or_else(|| usage(format!("no target is called {name}")), Ok),
        None => Ok(position("minio").unwrap_or(targets.len().saturating_sub(1))),
    }
}

fn result_name(args: &Measure, targets: &[&str]) -> String {
    let quick = if args.quick { "-quick" } else { "" };
    args.name.clone().unwrap_or_else(|| format!("{}{quick}", targets.join("-vs-").replace('+', "-on-")))
}

fn holdfast_program(given: Option<PathBuf>) -> Result<PathBuf> {
    beside(given, "holdfast")
}

/// A program of this project: as given, or beside this one.
fn beside(given: Option<PathBuf>, name: &str) -> Result<PathBuf> {
    Ok(match given {
        Some(program) => program,
        None => std::env::current_exe().context("this program does not know where it is")?.with_file_name(name),
    })
}

/// Where a program is: as given, in PATH, or where `make tools` puts it.
fn installed(given: Option<PathBuf>, name: &str) -> PathBuf {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let mut places = std::env::split_paths(&paths).map(|path| path.join(name));
    given.or_else(|| places.find(|path| path.is_file())).unwrap_or_else(|| home.join(".cache/holdfast/bin").join(name))
}

/// What is written at most must fit: a full disk measures nothing. Deleted objects count too, because a server may keep
/// them for a while.
fn check_space(directory: &Path, options: &Options, targets: usize) -> Result<()> {
    const SMALL_BYTES: u64 = 4 << 30;
    let rounds = options.rounds as u64 + 1;
    let big: u64 = options.scenarios.iter().map(|scenario| scenario.round_bytes_max() * rounds).sum();
    check_free(directory, (big + SMALL_BYTES) * targets as u64)
}

fn check_free(directory: &Path, needed: u64) -> Result<()> {
    let free = system::free_bytes(directory)?;
    if free < needed {
        return usage(format!(
            "{} MiB are free and up to {} MiB are needed: choose another --dir, or measure less",
            free >> 20,
            needed >> 20
        ));
    }
    Ok(())
}
