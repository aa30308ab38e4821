//! Results of the coordination experiment: what is stored as JSON, and the same as Markdown.

use std::fmt::Write as _;

use serde::Serialize;

use super::Options;
use super::events::{FAN_OUT_WRITERS, FanOutRound, LatencyRound, PAUSE};
use crate::cluster::rates::VALUE_BYTES;
use crate::report::{Measured, Row, cells, costs, costs_of, number, or_dash, range, rows};
use crate::run::Run;
use crate::stats::{Spread, ms, percentile, rate};
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
    pub idle_s: f64,
    /// Watchers of etcd that share a connection; those of Holdfast have one each.
    pub etcd_streams: usize,
    pub locks: Vec<Locks>,
    pub latencies: Vec<Latencies>,
    pub fan_out: Option<FanOut>,
    pub quiet: Vec<Quiet>,
}

impl Report {
    /// A report without results.
    #[must_use]
    pub fn new(name: &str, machine: Machine, disk: Disk, options: &Options) -> Self {
        Self {
            run: Run::new(FORMAT, name, machine, disk),
            rounds: options.rounds,
            round_s: options.round_time.as_secs_f64(),
            idle_s: options.idle_time.as_secs_f64(),
            etcd_streams: options.streams,
            locks: Vec::new(),
            latencies: Vec::new(),
            fan_out: None,
            quiet: Vec::new(),
        }
    }
}

/// Acquires with their releases, a row for each side.
#[derive(Debug, Serialize)]
pub struct Locks {
    pub contenders: usize,
    pub locks: usize,
    pub rows: Vec<Row>,
}

/// How late events come, a row for each side.
#[derive(Debug, Serialize)]
pub struct Latencies {
    pub watchers: usize,
    /// Others meanwhile, on prefixes that do not change.
    pub quiet_watchers: usize,
    pub rows: Vec<Latency>,
}

/// Of all events of all rounds. Milliseconds from the acknowledgement are below 0 when the event was there first.
#[derive(Debug, Serialize)]
pub struct Latency {
    pub target: String,
    pub writes: usize,
    pub events: u64,
    pub put_p50_ms: f64,
    pub put_p99_ms: f64,
    pub from_sent_p50_ms: f64,
    pub from_sent_p99_ms: f64,
    pub from_ack_p50_ms: f64,
    pub from_ack_p99_ms: f64,
    /// Until the last watcher has it.
    pub last_from_ack_p50_ms: f64,
    pub last_from_ack_p99_ms: f64,
    /// Median from the sent PUT over the reference's in the same round; below 1 it is faster.
    pub ratio: Option<Spread>,
    /// For 1,000 events, the PUT and the pause included.
    pub cpu_ms_per_1000: Option<f64>,
    pub cpu_front_ms_per_1000: Option<f64>,
    pub generator_cpu_ms_per_1000: f64,
    pub disturbed_percent: Option<f64>,
}

/// Events while writers wait for nobody.
#[derive(Debug, Serialize)]
pub struct FanOut {
    pub watchers: usize,
    pub writers: usize,
    pub rows: Vec<FanOutRow>,
}

/// See [`FanOut`]: the row's operations are events, delivered to all watchers together.
#[derive(Debug, Serialize)]
pub struct FanOutRow {
    #[serde(flatten)]
    pub row: Row,
    pub writes_per_s: Spread,
    /// From the last acknowledgement to the last event at the last watcher.
    pub drain_s: Spread,
    /// Of one core. It has one thread: near 100 the rate is the generator's.
    pub generator_percent: f64,
    /// Times that a watcher of Holdfast was too slow for its queue and read rows instead.
    pub lagged: Option<u64>,
}

/// Watchers on prefixes that do not change, on one side; spreads are of rounds.
#[derive(Debug, Serialize)]
pub struct Quiet {
    pub system: &'static str,
    pub watchers: usize,
    /// How long they took to gather.
    pub open_s: Spread,
    /// Resident, of each node: before the first round, with the watchers in it, and after the last round.
    pub mib_before: Vec<f64>,
    pub mib_with: Vec<f64>,
    pub mib_after: Vec<f64>,
    /// All nodes' growth by the first round, for each watcher.
    pub kib_each: f64,
    /// All three nodes, percent of one core: without, and with all watchers.
    pub cpu_before_percent: f64,
    pub cpu_percent: Spread,
    pub generator_percent: Spread,
}

/// Rows of the locks and of everything else that is a rate.
#[must_use]
pub fn locks(names: &[&str], contenders: usize, locks: usize, rounds: &[Vec<Measured>]) -> Locks {
    Locks { contenders, locks, rows: rows(names, rounds, names.len() - 1) }
}

/// Rows of latencies; the last side is the reference.
#[must_use]
pub fn latencies(names: &[&str], watchers: usize, quiet_watchers: usize, rounds: Vec<Vec<LatencyRound>>) -> Latencies {
    let median = |round: &LatencyRound| {
        let mut late = round.measured.latencies.clone();
        late.sort_unstable();
        percentile(&late, 50).map_or(0.0, ms)
    };
    let medians: Vec<Vec<f64>> = rounds.iter().map(|rounds| rounds.iter().map(median).collect()).collect();
    let last = names.len() - 1;
    let side = |at: usize, rounds: Vec<LatencyRound>| {
        let ratios = medians[at].iter().zip(&medians[last]).map(|(own, other)| own / other);
        latency(names[at], rounds, (at != last).then(|| Spread::of(ratios)).flatten())
    };
    let rows = rounds.into_iter().enumerate().filter_map(|(at, rounds)| side(at, rounds)).collect();
    Latencies { watchers, quiet_watchers, rows }
}

fn latency(name: &str, rounds: Vec<LatencyRound>, ratio: Option<Spread>) -> Option<Latency> {
    let (mut put, mut from_ack, mut last, mut writes, mut measured) = (vec![], vec![], vec![], 0, vec![]);
    for mut round in rounds {
        put.append(&mut round.put);
        from_ack.append(&mut round.from_ack);
        last.append(&mut round.last_from_ack);
        writes += round.writes;
        measured.push(round.measured);
    }
    put.sort_unstable();
    from_ack.sort_unstable_by(f64::total_cmp);
    last.sort_unstable_by(f64::total_cmp);
    let of = |sorted: &[f64], percent| percentile(sorted, percent).unwrap_or(0.0);
    let put_at = |percent| percentile(&put, percent).map_or(0.0, ms);
    let row = rows(&[name], &[measured], 0).pop()?;
    Some(Latency {
        target: row.target,
        writes,
        events: row.ops,
        put_p50_ms: put_at(50),
        put_p99_ms: put_at(99),
        from_sent_p50_ms: row.p50_ms,
        from_sent_p99_ms: row.p99_ms,
        from_ack_p50_ms: of(&from_ack, 50),
        from_ack_p99_ms: of(&from_ack, 99),
        last_from_ack_p50_ms: of(&last, 50),
        last_from_ack_p99_ms: of(&last, 99),
        ratio,
        cpu_ms_per_1000: row.cpu_ms_per_1000,
        cpu_front_ms_per_1000: row.cpu_front_ms_per_1000,
        generator_cpu_ms_per_1000: row.generator_cpu_ms_per_1000,
        disturbed_percent: row.disturbed_percent,
    })
}

/// Rows of a fan-out.
#[must_use]
pub fn fan_out(names: &[&str], watchers: usize, rounds: Vec<Vec<FanOutRound>>, lagged: &[Option<u64>]) -> FanOut {
    let spread = |rounds: &[FanOutRound], of: fn(&FanOutRound) -> f64| Spread::of(rounds.iter().map(of));
    let extra = rounds.iter().map(|rounds| {
        let writes_per_s = spread(rounds, |round| rate(round.writes as u64, round.writing))?;
        let drain_s = spread(rounds, |round| round.draining.as_secs_f64())?;
        let generator = rounds.iter().map(|round| round.measured.generator.as_secs_f64()).sum::<f64>();
        let elapsed = rounds.iter().map(|round| round.measured.elapsed.as_secs_f64()).sum::<f64>();
        Some((writes_per_s, drain_s, generator * 100.0 / elapsed))
    });
    let extra: Vec<_> = extra.collect();
    let measured: Vec<Vec<Measured>> =
        rounds.into_iter().map(|rounds| rounds.into_iter().map(|round| round.measured).collect()).collect();
    let rows = rows(names, &measured, names.len() - 1).into_iter().zip(extra).zip(lagged);
    let rows = rows.filter_map(|((row, extra), lagged)| {
        let (writes_per_s, drain_s, generator_percent) = extra?;
        Some(FanOutRow { row, writes_per_s, drain_s, generator_percent, lagged: *lagged })
    });
    FanOut { watchers, writers: FAN_OUT_WRITERS, rows: rows.collect() }
}

/// The whole report.
#[must_use]
pub fn markdown(report: &Report) -> String {
    let mut text = format!("# Locks and events beside etcd: {}\n\n", report.run.name);
    text += &report.run.circumstances();
    let _ = writeln!(
        text,
        " Values of {VALUE_BYTES} bytes; {} rounds of {} s, alternating; {} watchers of etcd on a connection, 1 of Holdfast.",
        report.rounds, report.round_s, report.etcd_streams
    );
    text += &locks_text(report);
    text += &latencies_text(report);
    text += &fan_out_text(report);
    text += &quiet_text(report);
    text
}

fn locks_text(report: &Report) -> String {
    let mut text = String::from(
        "\n| contenders | locks | side | acquire and release, per s | low..high | x etcd | low..high | p50 ms | p99 ms | CPU ms/1000 | of nodes | generator | disturbed |\n| ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
    );
    for result in &report.locks {
        for row in &result.rows {
            let _ = writeln!(text, "| {} | {} | {} |", result.contenders, result.locks, cells(row));
        }
    }
    text
}

fn latencies_text(report: &Report) -> String {
    let mut text = format!(
        "\nOne writer, {} ms between an event at its last watcher and the next write; milliseconds, p50 / p99.\n\n| watchers | quiet ones | side | writes | PUT | sent PUT to watcher | x etcd | low..high | acknowledged PUT to watcher | to the last watcher | CPU ms/1000 events | of nodes | generator | disturbed |\n| ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
        PAUSE.as_millis()
    );
    let both = |p50: f64, p99: f64| format!("{} / {}", number(p50), number(p99));
    for result in &report.latencies {
        for row in &result.rows {
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
                result.watchers,
                result.quiet_watchers,
                row.target,
                row.writes,
                both(row.put_p50_ms, row.put_p99_ms),
                both(row.from_sent_p50_ms, row.from_sent_p99_ms),
                or_dash(row.ratio.map(|ratio| number(ratio.median))),
                or_dash(row.ratio.map(range)),
                both(row.from_ack_p50_ms, row.from_ack_p99_ms),
                both(row.last_from_ack_p50_ms, row.last_from_ack_p99_ms),
                costs(
                    row.cpu_ms_per_1000,
                    row.cpu_front_ms_per_1000,
                    row.generator_cpu_ms_per_1000,
                    row.disturbed_percent
                )
            );
        }
    }
    text
}

fn fan_out_text(report: &Report) -> String {
    let Some(result) = &report.fan_out else { return String::new() };
    let mut text = format!(
        "\n{} writers as fast as they can, {} watchers, each of which saw every event.\n\n| side | events per s | low..high | x etcd | low..high | writes per s | seconds until drained | sent PUT to watcher, p50 ms | p99 ms | generator, of a core | fell back to rows | CPU ms/1000 events | of nodes | generator | disturbed |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
        result.writers, result.watchers
    );
    for FanOutRow { row, writes_per_s, drain_s, generator_percent, lagged } in &result.rows {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {generator_percent:.0} % | {} | {} |",
            row.target,
            number(row.ops_per_s.median),
            range(row.ops_per_s),
            or_dash(row.ratio.map(|ratio| number(ratio.median))),
            or_dash(row.ratio.map(range)),
            number(writes_per_s.median),
            number(drain_s.median),
            number(row.p50_ms),
            number(row.p99_ms),
            or_dash(lagged.map(|lagged| lagged.to_string())),
            costs_of(row)
        );
    }
    text
}

fn quiet_text(report: &Report) -> String {
    let mut text = format!(
        "\nWatchers on prefixes that do not change, {} s.\n\n| watchers | side | opened in s | MiB of each node before | with them | after they left | KiB each | CPU of three nodes without | with them | low..high | generator |\n| ---: | --- | ---: | --- | --- | --- | ---: | ---: | ---: | ---: | ---: |\n",
        report.idle_s
    );
    let list = |values: &[f64]| values.iter().copied().map(number).collect::<Vec<_>>().join(", ");
    for quiet in &report.quiet {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} | {} % | {} % | {} | {} % |",
            quiet.watchers,
            quiet.system,
            number(quiet.open_s.median),
            list(&quiet.mib_before),
            list(&quiet.mib_with),
            list(&quiet.mib_after),
            number(quiet.kib_each),
            number(quiet.cpu_before_percent),
            number(quiet.cpu_percent.median),
            range(quiet.cpu_percent),
            number(quiet.generator_percent.median)
        );
    }
    text
}

/// A line for each side, to follow a run.
#[must_use]
pub fn progress(result: &Latencies) -> String {
    result.rows.iter().fold(String::new(), |mut text, row| {
        let _ = writeln!(
            text,
            "events, {} watchers, {} quiet  {}  p50 {} ms from the sent PUT, {} ms from the acknowledged",
            result.watchers,
            result.quiet_watchers,
            row.target,
            number(row.from_sent_p50_ms),
            number(row.from_ack_p50_ms)
        );
        text
    })
}

#[cfg(test)]
mod tests;
