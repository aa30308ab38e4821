//! The 22 queries of TPC-H over Parquet: processor time of each side's process, and answers that are equal.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use holdfast_compat_tests::answer::{Order, same};
use holdfast_compat_tests::tpch::{TABLES, generate, queries};

use super::Options;
use super::report::{Query, Side, Tpch};
use super::stack::{Cost, SIDES, Stack};

const BUCKET: &str = "tpch";

pub(super) fn run(stack: &mut Stack, options: &Options) -> Result<Tpch> {
    let directory = stack.directory().join(BUCKET);
    std::fs::create_dir(&directory)?;
    generate(&directory, "parquet", options.scale, 1)?;
    stack.new_bucket(BUCKET)?;
    for table in TABLES {
        let files: Vec<PathBuf> = vec![directory.join(format!("{table}.parquet"))];
        stack.upload(BUCKET, &format!("{table}/"), &files)?;
    }
    std::fs::remove_dir_all(&directory)?;
    stack.restart()?;
    let ours = queries(options.scale, |table| format!("\"{BUCKET}/{table}/\""));
    let theirs = queries(options.scale, |table| format!("'s3://{BUCKET}/{table}/{table}.parquet'"));
    let mut costs: Vec<[Vec<Cost>; 2]> = ours.iter().map(|_| Default::default()).collect();
    for round in 0..options.rounds {
        for (at, (our, their)) in ours.iter().zip(&theirs).enumerate() {
            let (answer, cost) = stack.ask_ours(our)?;
            costs[at][0].push(cost);
            let (expected, cost) = stack.ask_theirs(their)?;
            costs[at][1].push(cost);
            same(&answer, &expected, Order::Counts).with_context(|| format!("query {}", at + 1))?;
        }
        let cpu = |side: usize| costs.iter().map(|of| of[side][round].cpu).sum::<Duration>().as_secs_f64();
        eprintln!("round {round}: {:.1} s of processor, DuckDB {:.1} s", cpu(0), cpu(1));
    }
    let queries = costs.iter().enumerate().map(|(at, costs)| {
        let sides = SIDES.iter().zip(costs).map(|(side, costs)| Side::of(side, costs));
        Some(Query { number: at + 1, sides: sides.collect::<Option<Vec<_>>>()? })
    });
    let queries = queries.collect::<Option<Vec<_>>>().context("a run has at least one round")?;
    Ok(Tpch { scale: options.scale, rounds: options.rounds, queries })
}
