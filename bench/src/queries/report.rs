//! Results of the queries experiment: what is stored as JSON, and the same as Markdown.

use std::fmt::Write as _;

use serde::Serialize;

use super::Options;
use super::stack::Cost;
use crate::report::{number, or_dash, range};
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
    pub rows: u64,
    pub runs: usize,
    pub tables: Vec<Table>,
    pub tpch: Option<Tpch>,
    pub puts: Vec<Puts>,
    pub selects: Vec<Select>,
}

impl Report {
    /// A report without results.
    #[must_use]
    pub fn new(name: &str, machine: Machine, disk: Disk, options: &Options) -> Self {
        Self {
            run: Run::new(FORMAT, name, machine, disk),
            rows: options.rows,
            runs: options.runs,
            tables: Vec::new(),
            tpch: None,
            puts: Vec::new(),
            selects: Vec::new(),
        }
    }
}

/// Lookups in one table.
#[derive(Debug, Serialize)]
pub struct Table {
    pub format: String,
    pub object_rows: u64,
    /// Of all objects.
    pub bytes: u64,
    pub lookups: Vec<Lookup>,
}

/// Lookups of one kind, Holdfast first.
#[derive(Debug, Serialize)]
pub struct Lookup {
    pub kind: &'static str,
    /// Each with new processes.
    pub cold: bool,
    pub sides: Vec<Side>,
}

/// What statements cost one side; requests are those for objects that the store had.
#[derive(Debug, Serialize)]
pub struct Side {
    pub side: &'static str,
    pub ms: Spread,
    pub cpu_ms: Spread,
    pub requests: Spread,
}

impl Side {
    /// `None` without costs.
    #[must_use]
    pub fn of(side: &'static str, costs: &[Cost]) -> Option<Self> {
        let spread = |of: fn(&Cost) -> f64| Spread::of(costs.iter().map(of));
        Some(Self {
            side,
            ms: spread(|cost| ms(cost.took))?,
            cpu_ms: spread(|cost| ms(cost.cpu))?,
            requests: spread(|cost| cost.requests as f64)?,
        })
    }
}

/// The 22 queries.
#[derive(Debug, Serialize)]
pub struct Tpch {
    pub scale: f64,
    pub rounds: usize,
    pub queries: Vec<Query>,
}

/// One of them, Holdfast first.
#[derive(Debug, Serialize)]
pub struct Query {
    pub number: usize,
    pub sides: Vec<Side>,
}

/// PUT of small objects; the ratio is of neighbouring rounds, below 1 indexes cost something.
#[derive(Debug, Serialize)]
pub struct Puts {
    pub durability: &'static str,
    pub clients: usize,
    pub with_per_s: Spread,
    pub without_per_s: Spread,
    pub ratio: Spread,
}

/// S3 Select of one object; without sides when Holdfast answers that it is not built.
#[derive(Debug, Serialize)]
pub struct Select {
    pub format: &'static str,
    pub what: &'static str,
    pub bytes: u64,
    pub sides: Vec<SelectSide>,
    /// MinIO's time over Holdfast's in the same round: above 1 Holdfast is faster.
    pub ratio: Option<Spread>,
}

/// Times of one side.
#[derive(Debug, Serialize)]
pub struct SelectSide {
    pub side: &'static str,
    pub ms: Spread,
}

/// DuckDB's median over Holdfast's.
fn faster(sides: &[Side], of: fn(&Side) -> Spread) -> Option<String> {
    let [ours, theirs] = sides else { return None };
    Some(number(of(theirs).median / of(ours).median.max(f64::EPSILON)))
}

/// The whole report.
#[must_use]
pub fn markdown(report: &Report) -> String {
    let mut text = format!("# SQL beside DuckDB, S3 Select beside MinIO: {}\n\n", report.run.name);
    text += &report.run.circumstances();
    text += " Holdfast is in front of the MinIO whose objects DuckDB reads; answers are equal.\n";
    text += &tables_text(report);
    text += &report.tpch.as_ref().map(tpch_text).unwrap_or_default();
    text += &puts_text(report);
    text += &selects_text(report);
    text
}

fn tables_text(report: &Report) -> String {
    if report.tables.is_empty() {
        return String::new();
    }
    let mut text = format!(
        "\n{} rows, an index (B-tree) on a column that is in no order; medians of {} lookups; cold is a new process on both sides, whose start does not count.\n\n| format | rows of an object | MB | lookup | | side | ms | low..high | DuckDB's / ours | CPU ms | GET, HEAD and LIST |\n| --- | ---: | ---: | --- | --- | --- | ---: | ---: | ---: | ---: | ---: |\n",
        report.rows, report.runs
    );
    for table in &report.tables {
        for lookup in &table.lookups {
            for (at, side) in lookup.sides.iter().enumerate() {
                let _ = writeln!(
                    text,
                    "| {} | {} | {:.0} | {} | {} | {} | {} | {} | {} | {} | {} |",
                    table.format,
                    table.object_rows,
                    table.bytes as f64 / 1e6,
                    lookup.kind,
                    if lookup.cold { "cold" } else { "warm" },
                    side.side,
                    number(side.ms.median),
                    range(side.ms),
                    or_dash(if at == 0 { faster(&lookup.sides, |side| side.ms) } else { None }),
                    number(side.cpu_ms.median),
                    number(side.requests.median),
                );
            }
        }
    }
    text
}

fn tpch_text(tpch: &Tpch) -> String {
    let mut text = format!(
        "\nTPC-H at scale {}, one Parquet file a table, medians of {} rounds.\n\n| query | CPU s, Holdfast | DuckDB | DuckDB's / ours | ms, Holdfast | DuckDB | GET, HEAD and LIST, Holdfast | DuckDB |\n| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
        tpch.scale, tpch.rounds
    );
    let mut total = [[0.0; 3]; 2];
    let line = |text: &mut String, name: &str, [ours, theirs]: [[f64; 3]; 2]| {
        let _ = writeln!(
            text,
            "| {name} | {:.2} | {:.2} | {:.2} | {} | {} | {:.0} | {:.0} |",
            ours[0],
            theirs[0],
            theirs[0] / ours[0].max(f64::EPSILON),
            number(ours[1]),
            number(theirs[1]),
            ours[2],
            theirs[2]
        );
    };
    for query in &tpch.queries {
        let mut both = [[0.0; 3]; 2];
        for (both, side) in both.iter_mut().zip(&query.sides) {
            *both = [side.cpu_ms.median / 1000.0, side.ms.median, side.requests.median];
        }
        for (total, one) in total.iter_mut().flatten().zip(both.iter().flatten()) {
            *total += one;
        }
        line(&mut text, &query.number.to_string(), both);
    }
    line(&mut text, "all", total);
    text
}

fn puts_text(report: &Report) -> String {
    if report.puts.is_empty() {
        return String::new();
    }
    let mut text = String::from(
        "\nPUT of JSON of about 300 bytes into a bucket with two indexes on its members, and without.\n\n| durability | clients | with, per s | without | with / without | low..high |\n| --- | ---: | ---: | ---: | ---: | ---: |\n",
    );
    for puts in &report.puts {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} |",
            puts.durability,
            puts.clients,
            number(puts.with_per_s.median),
            number(puts.without_per_s.median),
            number(puts.ratio.median),
            range(puts.ratio)
        );
    }
    text
}

fn selects_text(report: &Report) -> String {
    if report.selects.is_empty() {
        return String::new();
    }
    let mut text = String::from(
        "\nS3 Select by boto3, records as CSV.\n\n| format | MB | what | ms, Holdfast | MinIO | MinIO's / ours | low..high |\n| --- | ---: | --- | ---: | ---: | ---: | ---: |\n",
    );
    for select in &report.selects {
        let of = |at: usize| select.sides.get(at).map(|side| number(side.ms.median));
        let _ = writeln!(
            text,
            "| {} | {:.0} | {} | {} | {} | {} | {} |",
            select.format,
            select.bytes as f64 / 1e6,
            select.what,
            of(0).unwrap_or_else(|| "not built".to_owned()),
            or_dash(of(1)),
            or_dash(select.ratio.map(|ratio| number(ratio.median))),
            or_dash(select.ratio.map(range))
        );
    }
    text
}

/// A line for each side, to follow a run.
#[must_use]
pub fn progress(lookup: &Lookup) -> String {
    let state = if lookup.cold { "cold" } else { "warm" };
    lookup.sides.iter().fold(String::new(), |mut text, side| {
        let (took, requests) = (number(side.ms.median), number(side.requests.median));
        let _ = writeln!(text, "{}, {state}  {}  {took} ms, {requests} requests", lookup.kind, side.side);
        text
    })
}
