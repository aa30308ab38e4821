//! Results of the cluster experiment: what is stored as JSON, and the same as Markdown.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use super::faults::{MISSED_KEYS, Recovery};
use super::nodes::READY_WITHIN;
use super::rates::VALUE_BYTES;
use crate::report::{Row, cells, number, or_dash};
use crate::run::Run;
use crate::stats::{Spread, ms};
use crate::system::{Disk, Machine};

/// Version of the JSON.
const FORMAT: u32 = 1;

/// A whole experiment.
#[derive(Debug, Serialize)]
pub struct Report {
    #[serde(flatten)]
    pub run: Run,
    pub rounds: usize,
    pub round_s: f64,
    pub idle: Vec<Idle>,
    pub rates: Vec<Rate>,
    pub failovers: Vec<Failover>,
    pub loads: Vec<Load>,
    pub returns: Vec<Return>,
    pub recovery: Option<Recovery>,
}

impl Report {
    /// A report without results.
    #[must_use]
    pub fn new(name: &str, machine: Machine, disk: Disk, rounds: usize, round_time: Duration) -> Self {
        Self {
            run: Run::new(FORMAT, name, machine, disk),
            rounds,
            round_s: round_time.as_secs_f64(),
            idle: Vec::new(),
            rates: Vec::new(),
            failovers: Vec::new(),
            loads: Vec::new(),
            returns: Vec::new(),
            recovery: None,
        }
    }
}

/// Requests of one kind with so many clients, a row for each side; `cpu_front_ms_per_1000` is of Holdfast's nodes without
/// their backend.
#[derive(Debug, Serialize)]
pub struct Rate {
    pub what: &'static str,
    pub clients: usize,
    pub rows: Vec<Row>,
}

/// Nodes that nobody asks anything.
#[derive(Debug, Serialize)]
pub struct Idle {
    pub system: &'static str,
    /// `empty` or `loaded`.
    pub state: &'static str,
    /// All three nodes, percent of one core.
    pub nodes_cpu_percent: f64,
    pub backend_cpu_percent: Option<f64>,
    /// Resident, of each node.
    pub node_mib: Vec<f64>,
    pub backend_mib: Option<f64>,
}

/// From the kill of a leader to the first acknowledged write.
#[derive(Debug, Serialize)]
pub struct Failover {
    pub system: &'static str,
    pub median_ms: f64,
    pub worst_ms: f64,
    pub all_ms: Vec<f64>,
}

impl Failover {
    /// Of all kills.
    #[must_use]
    pub fn new(system: &'static str, took: &[Duration]) -> Self {
        let all_ms: Vec<f64> = took.iter().copied().map(ms).collect();
        let spread = Spread::of(all_ms.iter().copied());
        let (median_ms, worst_ms) = spread.map_or((0.0, 0.0), |spread| (spread.median, spread.high));
        Self { system, median_ms, worst_ms, all_ms }
    }
}

/// How keys were loaded.
#[derive(Debug, Serialize)]
pub struct Load {
    pub system: &'static str,
    pub objects: u64,
    pub per_s: f64,
    /// Seconds after the last write until the backend had the whole log.
    pub archive_behind_s: Option<f64>,
    /// Directories of the three nodes.
    pub disk_mib: f64,
}

/// A node that came back.
#[derive(Debug, Serialize)]
pub struct Return {
    pub system: &'static str,
    /// `restarted` or `wiped`.
    pub what: &'static str,
    /// `None` when it did not come back in time.
    pub back: Option<super::faults::Return>,
}

/// A line for each side, to follow a run.
#[must_use]
pub fn progress(rate: &Rate) -> String {
    rate.rows.iter().fold(String::new(), |mut text, row| {
        let ratio = row.ratio.map(|ratio| format!("  x {:.2}", ratio.median)).unwrap_or_default();
        let speed = number(row.ops_per_s.median);
        let _ = writeln!(
            text,
            "{} c{}  {}  {speed}/s  p99 {} ms{ratio}",
            rate.what,
            rate.clients,
            row.target,
            number(row.p99_ms)
        );
        text
    })
}

/// The whole report.
#[must_use]
pub fn markdown(report: &Report) -> String {
    let mut text = format!("# Three nodes beside etcd: {}\n\n", report.run.name);
    text += &report.run.circumstances();
    let _ = writeln!(
        text,
        " Values of {VALUE_BYTES} bytes; {} rounds of {} s, alternating.",
        report.rounds, report.round_s
    );
    text += &rates(report);
    text += &losses(report);
    text += &sizes(report);
    text
}

fn rates(report: &Report) -> String {
    let mut text = String::from(
        "\n| requests | clients | side | per s | low..high | x etcd | low..high | p50 ms | p99 ms | CPU ms/1000 | of nodes | generator | disturbed |\n| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
    );
    for rate in &report.rates {
        for row in &rate.rows {
            let _ = writeln!(text, "| {} | {} | {} |", rate.what, rate.clients, cells(row));
        }
    }
    text
}

fn losses(report: &Report) -> String {
    let mut text = String::from("\n| loss | side | seconds |\n| --- | --- | --- |\n");
    for failover in &report.failovers {
        let (kills, side) = (failover.all_ms.len(), failover.system);
        let (median, worst) = (failover.median_ms / 1000.0, failover.worst_ms / 1000.0);
        let _ = writeln!(text, "| leader killed, {kills} times | {side} | median {median:.2}, worst {worst:.2} |");
    }
    for back in &report.returns {
        let what = format!("node {}, {MISSED_KEYS} keys missed", back.what);
        let after = back.back.map_or_else(
            || format!("did not come back within {} s", READY_WITHIN.as_secs()),
            |back| {
                let voter = back.voter_s.map(|voter| format!(", votes after {voter:.2}")).unwrap_or_default();
                format!("reads after {:.2}{voter}", back.read_s)
            },
        );
        let _ = writeln!(text, "| {what} | {} | {after} |", back.system);
    }
    if let Some(recovery) = &report.recovery {
        let (recover, serve) = (recovery.recover_s, recovery.serve_s);
        let _ = writeln!(
            text,
            "| all nodes lost | holdfast | recovered after {recover:.1}, then serves after {serve:.2} |"
        );
    }
    text
}

fn sizes(report: &Report) -> String {
    let mut text = String::from(
        "\n| idle | side | CPU of three nodes | of the backend | MiB of each node | of the backend |\n| --- | --- | ---: | ---: | --- | ---: |\n",
    );
    let or_dash = |value: Option<f64>, unit: &str| or_dash(value.map(|value| number(value) + unit));
    for idle in &report.idle {
        let nodes: Vec<_> = idle.node_mib.iter().copied().map(number).collect();
        let (cpu, backend) = (number(idle.nodes_cpu_percent), or_dash(idle.backend_cpu_percent, " %"));
        let _ = writeln!(
            text,
            "| {} | {} | {cpu} % | {backend} | {} | {} |",
            idle.state,
            idle.system,
            nodes.join(", "),
            or_dash(idle.backend_mib, "")
        );
    }
    text += "\n| loaded | keys | per s | archive behind, s | MiB on disk, three nodes |\n| --- | ---: | ---: | ---: | ---: |\n";
    for load in &report.loads {
        let behind = or_dash(load.archive_behind_s, "");
        let (speed, disk) = (number(load.per_s), number(load.disk_mib));
        let _ = writeln!(text, "| {} | {} | {speed} | {behind} | {disk} |", load.system, load.objects);
    }
    text
}
