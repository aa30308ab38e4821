//! SQL beside DuckDB, and S3 Select beside MinIO's.
//!
//! ```text
//! one MinIO ─┬─ Holdfast in front of it (bucket of its own) ── POST /_holdfast/v1/sql, SelectObjectContent
//!            └─ a bucket with the same files as plain objects ── DuckDB (httpfs), MinIO's SelectObjectContent
//! table (lookups, cold and warm) ── tpch (processor time) ── puts (with indexes, without) ── select
//! ```
//!
//! Promises: both sides read the same bytes from the same store, alternate, run with their defaults, and have as many threads
//! as the machine; answers are compared before times count, and one that differs ends the run. Deliberately absent: a cold
//! page cache (cold is a new process), a network, assertions on times.

pub mod puts;
pub mod report;
pub mod select;
pub mod stack;
pub mod table;
pub mod tpch;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;

use self::report::Report;
use self::stack::Stack;

/// A part of the experiment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// Point lookups and ranges over a table in many objects
    Table,
    /// The 22 queries of TPC-H
    Tpch,
    /// PUT of small objects with indexes and without
    Puts,
    /// S3 Select of one large object
    Select,
}

/// How an experiment runs.
#[derive(Clone, Debug)]
pub struct Options {
    pub parts: Vec<Part>,
    /// Rows of the table.
    pub rows: u64,
    /// Rows of each of its objects; one table for each number.
    pub object_rows: Vec<u64>,
    /// Formats of the table: `parquet`, `csv`.
    pub formats: Vec<String>,
    /// Lookups of each kind, cold and warm.
    pub runs: usize,
    /// Scale factor of TPC-H.
    pub scale: f64,
    /// Rounds of each of its queries.
    pub rounds: usize,
    /// How long PUTs of each kind go on in each round.
    pub put_time: Duration,
    /// Bytes of CSV that S3 Select reads, about; as many rows in Parquet.
    pub select_bytes: u64,
    pub holdfast: PathBuf,
    /// Where servers keep their data.
    pub directory: PathBuf,
}

/// Runs everything; what was measured before a failure is in `report`. Blocks.
///
/// # Errors
/// When a request fails, or two answers differ.
pub fn run(options: &Options, report: &mut Report) -> Result<()> {
    let mut stack = Stack::start(options)?;
    report.run.versions = stack.versions();
    for part in &options.parts {
        eprintln!("{part:?}");
        match part {
            Part::Table => table::run(&mut stack, options, &mut report.tables)?,
            Part::Tpch => report.tpch = Some(tpch::run(&mut stack, options)?),
            Part::Puts => report.puts = puts::run(&mut stack, options)?,
            Part::Select => report.selects = select::run(&mut stack, options)?,
        }
    }
    report.run.end();
    Ok(())
}

/// Bytes that a run takes at most: each table twice, with indexes and logs; TPC-H twice; what S3 Select reads.
#[must_use]
pub fn bytes_max(options: &Options) -> u64 {
    const ROW_BYTES: u64 = 600;
    const SCALE_BYTES: f64 = 2e9;
    const REST_BYTES: u64 = 4 << 30;
    let tables = options.rows * ROW_BYTES * (options.object_rows.len() * options.formats.len()) as u64;
    tables + (options.scale * SCALE_BYTES) as u64 + options.select_bytes * 4 + REST_BYTES
}
