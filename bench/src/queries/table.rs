//! A table in many objects: `id` in order, `k` in none and indexed, a value and a text. Lookups of one `k`, and of 0.1 % of
//! all, cold (both processes are new) and warm.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use holdfast_compat_tests::answer::{Order, same};
use holdfast_compat_tests::client::sql;

use super::Options;
use super::report::{Lookup, Side, Table};
use super::stack::{Cost, SIDES, Stack};

/// What is looked for.
#[derive(Clone, Copy)]
enum Kind {
    Point,
    Range,
}

pub(super) fn run(stack: &mut Stack, options: &Options, tables: &mut Vec<Table>) -> Result<()> {
    for format in &options.formats {
        for object_rows in &options.object_rows {
            let name = format!("{format}-{object_rows}");
            eprintln!("a table of {} rows: {name}", options.rows);
            let bytes = load(stack, options, &name, format, *object_rows)?;
            let mut lookups = Vec::new();
            for kind in [Kind::Point, Kind::Range] {
                for cold in [true, false] {
                    let lookup = lookup(stack, options, &name, format, kind, cold)?;
                    eprint!("{}", super::report::progress(&lookup));
                    lookups.push(lookup);
                }
            }
            tables.push(Table { format: format.clone(), object_rows: *object_rows, bytes, lookups });
        }
    }
    Ok(())
}

/// Every `k` stands in about one row: it is a hash of the row's number.
fn columns(rows: u64) -> String {
    format!(
        "i AS id, CAST(hash(i) % {rows} AS BIGINT) AS k, CAST(hash(i + 1) % 100000 AS BIGINT) AS v, \
         'row ' || hash(i + 2) AS s"
    )
}

fn load(stack: &mut Stack, options: &Options, name: &str, format: &str, object_rows: u64) -> Result<u64> {
    let directory = stack.directory().join(name);
    std::fs::create_dir(&directory)?;
    let mut files: Vec<PathBuf> = Vec::new();
    for number in 0..options.rows.div_ceil(object_rows) {
        let (from, to) = (number * object_rows, ((number + 1) * object_rows).min(options.rows));
        let file = directory.join(format!("{number:06}.{format}"));
        stack.prepare(&format!(
            "COPY (SELECT {} FROM range({from}, {to}) t(i)) TO '{}' (FORMAT {format})",
            columns(options.rows),
            file.display()
        ))?;
        files.push(file);
    }
    let bytes = files.iter().map(|file| Ok(file.metadata()?.len())).sum::<Result<u64>>()?;
    stack.new_bucket(name)?;
    sql::run(&mut stack.ours().raw(), &format!("CREATE INDEX by_k ON \"{name}/t/\" USING BTREE (k)"))?;
    stack.upload(name, "t/", &files)?;
    stack.await_indexes()?;
    std::fs::remove_dir_all(&directory)?;
    Ok(bytes)
}

/// The `number`th statement of a kind. The same key comes twice only when there are few rows.
fn wanted(kind: Kind, number: usize, rows: u64) -> String {
    let k = (number as u64 + 1) * 7_919_317 % rows;
    match kind {
        Kind::Point => format!("SELECT id, k, v, s FROM {{table}} WHERE k = {k}"),
        Kind::Range => {
            format!(
                "SELECT count(*), sum(v), min(s) FROM {{table}} WHERE k >= {k} AND k < {}",
                k + (rows / 1000).max(1)
            )
        }
    }
}

fn lookup(stack: &mut Stack, options: &Options, name: &str, format: &str, kind: Kind, cold: bool) -> Result<Lookup> {
    let ours = format!("\"{name}/t/\"");
    let theirs = match format {
        "csv" => format!("read_csv('s3://{name}/t/*.csv')"),
        _ => format!("read_parquet('s3://{name}/t/*.{format}')"),
    };
    let mut costs: [Vec<Cost>; 2] = Default::default();
    let mut found = 0;
    stack.restart()?;
    // Without a warm-up the first warm one would be cold.
    let first = usize::from(!cold);
    for number in 0..options.runs + first {
        if cold {
            stack.restart()?;
        }
        let statement = wanted(kind, number + if cold { 0 } else { options.runs }, options.rows);
        let (answer, our) = stack.ask_ours(&statement.replace("{table}", &ours))?;
        let (expected, their) = stack.ask_theirs(&statement.replace("{table}", &theirs))?;
        same(&answer, &expected, Order::DoesNot).with_context(|| statement.clone())?;
        if number >= first {
            found += answer.len();
            costs[0].push(our);
            costs[1].push(their);
        }
    }
    ensure!(found > 0, "nothing was found: {}", wanted(kind, 0, options.rows));
    let sides = SIDES.iter().zip(&costs).map(|(side, costs)| Side::of(side, costs));
    let kind = match kind {
        Kind::Point => "point",
        Kind::Range => "0.1 %",
    };
    Ok(Lookup { kind, cold, sides: sides.collect::<Option<Vec<_>>>().context("a run has at least one lookup")? })
}
