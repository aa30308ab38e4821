//! Results: what is stored as JSON, and the table.
//!
//! The JSON names no path, host or address. Its `format` is raised when a field changes its meaning.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use crate::experiment::Times;
use crate::load::Round;
use crate::scenario::Scenario;
use crate::stats::{Spread, ms, percentile, rate};
use crate::system::{Disk, Machine, Memory};
use crate::target::Target;

/// Version of the JSON.
const FORMAT: u32 = 1;

/// A whole experiment.
#[derive(Debug, Serialize)]
pub struct Report {
    pub format: u32,
    pub name: String,
    pub machine: Machine,
    pub disk: Option<Disk>,
    pub rounds: usize,
    pub round_s: f64,
    pub list_objects: u64,
    /// The target that ratios are relative to.
    pub reference: String,
    pub targets: Vec<TargetFacts>,
    pub scenarios: Vec<ScenarioResult>,
}

impl Report {
    /// A report without results.
    #[must_use]
    pub fn new(name: &str, machine: Machine, disk: Option<Disk>, reference: &str) -> Self {
        Self {
            format: FORMAT,
            name: name.to_owned(),
            machine,
            disk,
            rounds: 0,
            round_s: 0.0,
            list_objects: 0,
            reference: reference.to_owned(),
            targets: Vec::new(),
            scenarios: Vec::new(),
        }
    }
}

/// What a target is, and what it takes besides processor time. Memory is by server.
#[derive(Debug, Serialize)]
pub struct TargetFacts {
    pub name: String,
    pub version: String,
    pub memory_idle: BTreeMap<&'static str, Memory>,
    /// With the objects of the listings, right after they were loaded.
    pub loaded: Option<Loaded>,
    pub memory_end: BTreeMap<&'static str, Memory>,
    pub disk_bytes_end: Option<u64>,
    /// Processor time since the start, preparations and background work included.
    pub cpu_s: Option<f64>,
}

/// See [`TargetFacts::loaded`].
#[derive(Debug, Serialize)]
pub struct Loaded {
    pub objects: u64,
    pub objects_per_s: f64,
    pub memory: BTreeMap<&'static str, Memory>,
    pub disk_bytes: Option<u64>,
}

impl TargetFacts {
    /// Facts of an idle target.
    ///
    /// # Errors
    /// When a server has ended.
    pub fn new(target: &Target) -> Result<Self> {
        Ok(Self {
            name: target.name.clone(),
            version: target.version.clone(),
            memory_idle: target.memory()?,
            loaded: None,
            memory_end: BTreeMap::new(),
            disk_bytes_end: None,
            cpu_s: None,
        })
    }

    /// Adds what `objects`, loaded within `elapsed`, made of it.
    ///
    /// # Errors
    /// When a server has ended.
    pub fn loaded(&mut self, target: &Target, objects: u64, elapsed: Duration) -> Result<()> {
        let (memory, disk_bytes) = (target.memory()?, target.disk_bytes());
        self.loaded = Some(Loaded { objects, objects_per_s: rate(objects, elapsed), memory, disk_bytes });
        Ok(())
    }

    /// Adds the state at the end.
    ///
    /// # Errors
    /// When a server has ended.
    pub fn finish(&mut self, target: &Target) -> Result<()> {
        self.memory_end = target.memory()?;
        self.disk_bytes_end = target.disk_bytes();
        self.cpu_s = target.cpu()?.map(|cpu| cpu.all.as_secs_f64());
        Ok(())
    }
}

/// One round, with the processor time that was spent meanwhile.
#[derive(Clone, Debug)]
pub struct Measured {
    pub ops: u64,
    pub bytes: u64,
    pub elapsed: Duration,
    pub latencies: Vec<Duration>,
    /// All servers of the target, and its front alone; `None` when they are not ours.
    pub cpu: Option<(Duration, Duration)>,
    pub generator: Duration,
    /// Servers of the other targets, which should be idle.
    pub others: Duration,
    /// Everyone else on the machine; `None` when a target may be among them.
    pub foreign: Option<Duration>,
}

impl Measured {
    /// A round of the target at `at`.
    #[must_use]
    pub fn new(round: Round, before: &Times, after: &Times, at: usize) -> Self {
        let spent = |target: usize| {
            let (before, after) = (before.targets[target]?, after.targets[target]?);
            Some((after.all.saturating_sub(before.all), after.front.saturating_sub(before.front)))
        };
        let servers: Duration = (0..before.targets.len()).filter_map(spent).map(|(all, _)| all).sum();
        let cpu = spent(at);
        let ours = before.targets.iter().all(Option::is_some);
        let generator = after.generator.saturating_sub(before.generator);
        let machine = after.machine.saturating_sub(before.machine);
        Self {
            ops: round.latencies.len() as u64,
            bytes: round.bytes,
            elapsed: round.elapsed,
            latencies: round.latencies,
            cpu,
            generator,
            others: servers.saturating_sub(cpu.map_or(Duration::ZERO, |(all, _)| all)),
            foreign: ours.then(|| machine.saturating_sub(servers + generator)),
        }
    }
}

/// A scenario's results, a row for each target.
#[derive(Debug, Serialize)]
pub struct ScenarioResult {
    #[serde(flatten)]
    pub scenario: Scenario,
    pub rows: Vec<Row>,
}

/// What a target did in a scenario. Latencies are of all operations of all rounds; other spreads are of rounds.
#[derive(Debug, Serialize)]
pub struct Row {
    pub target: String,
    pub ops: u64,
    pub ops_per_s: Spread,
    /// Of object bytes, 10^6 a second; `None` where no object's bytes move.
    pub mb_per_s: Option<f64>,
    pub p50_ms: f64,
    pub p99_ms: f64,
    /// Processor time of all its servers.
    pub cpu_ms_per_1000: Option<f64>,
    /// Processor time of the server in front, where there are two.
    pub cpu_front_ms_per_1000: Option<f64>,
    /// Of the load generator: what the measurement itself cost.
    pub generator_cpu_ms_per_1000: f64,
    /// Its rate over the reference's in the same round; above 1 it is faster.
    pub ratio: Option<Spread>,
    /// Its processor time for one operation over the reference's; below 1 it is cheaper.
    pub cpu_ratio: Option<f64>,
    /// Share of the machine that neither this target nor the generator used: above a few percent, doubt the row. `None`
    /// when a target is not ours.
    pub disturbed_percent: Option<f64>,
}

/// Makes the rows of a scenario.
#[must_use]
pub fn scenario(scenario: &Scenario, targets: &[Target], rounds: &[Vec<Measured>], reference: usize) -> ScenarioResult {
    let names: Vec<&str> = targets.iter().map(|target| target.name.as_str()).collect();
    ScenarioResult { scenario: scenario.clone(), rows: rows(&names, rounds, reference) }
}

pub(crate) fn rows(names: &[&str], rounds: &[Vec<Measured>], reference: usize) -> Vec<Row> {
    let of =
        |(at, name): (usize, &&str)| row(name, &rounds[at], (at != reference).then(|| rounds[reference].as_slice()));
    names.iter().enumerate().filter_map(of).collect()
}

fn row(name: &str, rounds: &[Measured], reference: Option<&[Measured]>) -> Option<Row> {
    let speed = |round: &Measured| rate(round.ops, round.elapsed);
    let (ops, bytes) =
        (rounds.iter().map(|round| round.ops).sum::<u64>(), rounds.iter().map(|round| round.bytes).sum());
    let elapsed: Duration = rounds.iter().map(|round| round.elapsed).sum();
    let mut latencies: Vec<Duration> = rounds.iter().flat_map(|round| round.latencies.iter().copied()).collect();
    latencies.sort_unstable();
    let at = |percent| percentile(&latencies, percent).map_or(0.0, ms);
    let cpu = cpu_ms_per_1000(rounds, |(all, _)| all);
    let front = cpu_ms_per_1000(rounds, |(_, front)| front).filter(|front| Some(*front) != cpu);
    let pairs = reference.map(|reference| rounds.iter().zip(reference).map(|(own, other)| speed(own) / speed(other)));
    let other_cpu = reference.and_then(|reference| cpu_ms_per_1000(reference, |(all, _)| all));
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
    let disturbed: Option<Duration> =
        rounds.iter().map(|round| round.foreign.map(|foreign| foreign + round.others)).sum();
    let generator: Duration = rounds.iter().map(|round| round.generator).sum();
    Some(Row {
        target: name.to_owned(),
        ops,
        ops_per_s: Spread::of(rounds.iter().map(speed))?,
        mb_per_s: (bytes > 0).then(|| rate(bytes, elapsed) / 1e6),
        p50_ms: at(50),
        p99_ms: at(99),
        cpu_ms_per_1000: cpu,
        cpu_front_ms_per_1000: front,
        generator_cpu_ms_per_1000: ms(generator) * 1000.0 / ops.max(1) as f64,
        ratio: pairs.and_then(Spread::of),
        cpu_ratio: cpu.zip(other_cpu).filter(|(_, other)| *other > 0.0).map(|(own, other)| own / other),
        disturbed_percent: disturbed.map(|spent| spent.as_secs_f64() * 100.0 / (elapsed.as_secs_f64() * cores)),
    })
}

fn cpu_ms_per_1000(rounds: &[Measured], which: impl Fn((Duration, Duration)) -> Duration) -> Option<f64> {
    let spent: Duration = rounds.iter().map(|round| round.cpu.map(&which)).sum::<Option<_>>()?;
    let ops: u64 = rounds.iter().map(|round| round.ops).sum();
    Some(ms(spent) * 1000.0 / ops.max(1) as f64)
}

/// A line for each target, to follow a run.
#[must_use]
pub fn progress(result: &ScenarioResult) -> String {
    result.rows.iter().fold(String::new(), |mut text, row| {
        let ratio = row.ratio.map(|ratio| format!("  x {:.2}", ratio.median)).unwrap_or_default();
        let _ = writeln!(text, "{}  {}  {}/s{ratio}", result.scenario.name, row.target, number(row.ops_per_s.median));
        text
    })
}

/// The whole report as text.
#[must_use]
pub fn table(report: &Report) -> String {
    let machine = &report.machine;
    let mut text = format!(
        "{}: {} rounds of {} s, alternating; listings among {} objects\n{} cores ({}), {} MiB, Linux {}, {}, load {:.2} before\n",
        report.name,
        report.rounds,
        report.round_s,
        report.list_objects,
        machine.cores,
        machine.cpu,
        machine.memory_mib,
        machine.kernel,
        machine.filesystem,
        machine.load_before
    );
    if let Some(disk) = &report.disk {
        let _ = writeln!(
            text,
            "disk alone: {:.0} fdatasync of 4 KiB per s (p50 {:.2} ms, p99 {:.2} ms), {:.0} MB/s written",
            disk.fdatasync_per_s, disk.fdatasync_p50_ms, disk.fdatasync_p99_ms, disk.write_mb_per_s
        );
    }
    for target in &report.targets {
        let _ = writeln!(text, "{}: {}", target.name, target.version);
    }
    let _ = writeln!(
        text,
        "\nratios are to {}: of rates, above 1 is faster; of CPU, below 1 is cheaper\n",
        report.reference
    );
    text += &speeds(report);
    text.push('\n');
    text += &sizes(report);
    text
}

fn speeds(report: &Report) -> String {
    let mut lines = vec![
        [
            "scenario",
            "target",
            "ops/s",
            "low..high",
            "x rate",
            "low..high",
            "MB/s",
            "p50 ms",
            "p99 ms",
            "CPU ms/1000",
            "x CPU",
            "generator",
            "disturbed",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    for result in &report.scenarios {
        for (at, row) in result.rows.iter().enumerate() {
            let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
            let range = |spread: Spread| format!("{}..{}", number(spread.low), number(spread.high));
            lines.push(vec![
                if at == 0 { result.scenario.name.to_owned() } else { String::new() },
                row.target.clone(),
                number(row.ops_per_s.median),
                range(row.ops_per_s),
                or_dash(row.ratio.map(|ratio| number(ratio.median))),
                or_dash(row.ratio.map(range)),
                or_dash(row.mb_per_s.map(number)),
                number(row.p50_ms),
                number(row.p99_ms),
                or_dash(row.cpu_ms_per_1000.map(number)),
                or_dash(row.cpu_ratio.map(number)),
                number(row.generator_cpu_ms_per_1000),
                or_dash(row.disturbed_percent.map(|percent| format!("{percent:.0} %"))),
            ]);
        }
    }
    columns(&lines, 2)
}

fn sizes(report: &Report) -> String {
    let mut lines = vec![
        [
            "target",
            "idle MiB",
            "loaded MiB",
            "end MiB",
            "peak MiB",
            "objects loaded/s",
            "disk MiB loaded",
            "disk MiB end",
            "CPU s",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    let sum = |memory: &BTreeMap<&'static str, Memory>, field: fn(&Memory) -> f64| {
        if memory.is_empty() { "-".to_owned() } else { number(memory.values().map(field).sum()) }
    };
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let mib = |bytes: u64| number(bytes as f64 / 1024.0 / 1024.0);
    for target in &report.targets {
        let loaded = target.loaded.as_ref();
        lines.push(vec![
            target.name.clone(),
            sum(&target.memory_idle, |memory| memory.resident_mib),
            or_dash(loaded.map(|loaded| sum(&loaded.memory, |memory| memory.resident_mib))),
            sum(&target.memory_end, |memory| memory.resident_mib),
            sum(&target.memory_end, |memory| memory.peak_mib),
            or_dash(loaded.map(|loaded| number(loaded.objects_per_s))),
            or_dash(loaded.and_then(|loaded| loaded.disk_bytes).map(mib)),
            or_dash(target.disk_bytes_end.map(mib)),
            or_dash(target.cpu_s.map(number)),
        ]);
    }
    columns(&lines, 1)
}

/// Lines with aligned columns: the first `left` to the left, the others to the right.
fn columns(lines: &[Vec<String>], left: usize) -> String {
    let count = lines.first().map_or(0, Vec::len);
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut text = String::new();
    for line in lines {
        let cells = line.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
            if column < left { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text
}

/// Three digits that matter, no more.
#[must_use]
pub fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// Lowest and highest.
#[must_use]
pub fn range(spread: Spread) -> String {
    format!("{}..{}", number(spread.low), number(spread.high))
}

/// A value, or the sign for none.
#[must_use]
pub fn or_dash(value: Option<String>) -> String {
    value.unwrap_or_else(|| "–".to_owned())
}

/// The last cells of a row: processor time for 1,000, of the front, of the generator, and what disturbed.
#[must_use]
pub fn costs(all: Option<f64>, front: Option<f64>, generator: f64, disturbed: Option<f64>) -> String {
    let all = or_dash(all.map(number));
    let front = front.map_or_else(|| all.clone(), number);
    let disturbed = or_dash(disturbed.map(|percent| format!("{percent:.0} %")));
    format!("{all} | {front} | {} | {disturbed}", number(generator))
}

/// See [`costs`].
#[must_use]
pub fn costs_of(row: &Row) -> String {
    costs(row.cpu_ms_per_1000, row.cpu_front_ms_per_1000, row.generator_cpu_ms_per_1000, row.disturbed_percent)
}

/// Cells of a rate: target, median, spread, ratio, its spread, p50, p99, [`costs`].
#[must_use]
pub fn cells(row: &Row) -> String {
    let ratio = or_dash(row.ratio.map(|ratio| number(ratio.median)));
    let ratios = or_dash(row.ratio.map(range));
    format!(
        "{} | {} | {} | {ratio} | {ratios} | {} | {} | {}",
        row.target,
        number(row.ops_per_s.median),
        range(row.ops_per_s),
        number(row.p50_ms),
        number(row.p99_ms),
        costs_of(row)
    )
}

#[cfg(test)]
pub(crate) mod tests;
