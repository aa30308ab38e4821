//! Random tables and statements: the answer with indexes, the one without, and DuckDB's are equal.
//!
//! `HOLDFAST_SQL_SEEDS` is the number of seeds (default 8) and `HOLDFAST_SQL_SEED` the first of them (default 0). A failure
//! names its seed and its statement.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use holdfast_compat_tests::answer::{Cell, Order, same};
use holdfast_compat_tests::client::duckdb::DuckDb;
use holdfast_compat_tests::client::raw::Raw;
use holdfast_compat_tests::client::sql;
use holdfast_compat_tests::process::{Holdfast, HoldfastOptions, wait_until};
use holdfast_compat_tests::target::{Endpoint, Target};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::statements::statement;
use super::tables::{Format, object};

/// Statements of one seed.
const STATEMENTS: usize = 60;
/// Objects of one table.
const OBJECTS_MAX: usize = 5;
/// Rows of one object.
const ROWS_MAX: usize = 120;
/// Rows of a large object: more than have an entry each, in blocks or row groups of which some are left out.
const ROWS_LARGE: usize = 45_000;
/// One seed of so many has a large object.
const LARGE_EVERY: u64 = 8;
const SOON: Duration = Duration::from_secs(60);

/// Hash and B-tree over the same columns: which one is asked is the planner's choice.
const INDEXES: [(&str, &str); 8] = [
    ("n_tree", "BTREE (n)"),
    ("n_hash", "HASH (n)"),
    ("f_tree", "BTREE (f)"),
    ("t_tree", "BTREE (t)"),
    ("t_hash", "HASH (t)"),
    ("d_tree", "BTREE (d)"),
    ("b_two", "BTREE (b, \"two words\")"),
    ("two_t", "HASH (\"two words\", t)"),
];

fn number_of(variable: &str, default: u64) -> Result<u64> {
    std::env::var(variable).map_or(Ok(default), |text| text.parse().with_context(|| format!("{variable}={text}")))
}

pub(super) fn run(format: Format) -> Result<()> {
    each_seed(format, 8, |seed, raw, duckdb, dir| one(format, seed, raw, duckdb, dir))
}

/// Does something with each seed, on a server with one bucket for indexes and one for none, beside DuckDB.
pub(super) fn each_seed(
    format: Format,
    seeds: u64,
    mut one: impl FnMut(u64, &mut Raw, &mut DuckDb, &Path) -> Result<()>,
) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut duckdb = DuckDb::start(dir.path(), 2)?;
    // DuckDB 1.5.5 leaves out row groups by bounds, which do not tell of NaN: it finds fewer rows for `f = NaN` than for `isnan(f)`.
    duckdb.ask("SET disabled_optimizers = 'filter_pushdown,statistics_propagation'")?;
    let server = Holdfast::start(HoldfastOptions::embedded(dir.path()))?;
    let mut raw = Endpoint::of(Target::Embedded, server.address()).raw();
    for bucket in ["indexed", "plain"] {
        raw.put(bucket, "", &[], b"")?.expect(200)?;
    }
    let (first, seeds) = (number_of("HOLDFAST_SQL_SEED", 0)?, number_of("HOLDFAST_SQL_SEEDS", seeds)?);
    for seed in first..first + seeds {
        one(seed, &mut raw, &mut duckdb, dir.path())
            .with_context(|| format!("seed {seed} of {format:?}: HOLDFAST_SQL_SEED={seed} HOLDFAST_SQL_SEEDS=1"))?;
    }
    Ok(())
}

/// Stores an object for both buckets, and writes it as a file for DuckDB, whose path it returns.
pub(super) fn store(
    raw: &mut Raw,
    dir: &Path,
    format: Format,
    seed: u64,
    number: usize,
    body: &[u8],
) -> Result<String> {
    let file = dir.join(format!("{seed}-{number}.{}", format.extension()));
    std::fs::write(&file, body)?;
    for bucket in ["indexed", "plain"] {
        raw.put(bucket, &format!("s{seed}/{number}.{}", format.extension()), &[], body)?.expect(200)?;
    }
    Ok(file.display().to_string())
}

fn one(format: Format, seed: u64, raw: &mut Raw, duckdb: &mut DuckDb, dir: &Path) -> Result<()> {
    let mut dice = StdRng::seed_from_u64(seed);
    let prefix = format!("s{seed}/");
    // Indexes are there before some of the objects, and are built over the others.
    let before = dice.random_range(0..=OBJECTS_MAX);
    let mut files = Vec::new();
    for number in 0..dice.random_range(1..=OBJECTS_MAX) {
        if number == before {
            index(raw, seed, &prefix)?;
        }
        let large = number == 0 && seed.is_multiple_of(LARGE_EVERY);
        let count = if large { ROWS_LARGE } else { dice.random_range(0..ROWS_MAX) };
        let body = object(&mut dice, format, count)?;
        files.push(store(raw, dir, format, seed, number, &body)?);
    }
    if before >= files.len() {
        index(raw, seed, &prefix)?;
    }
    let table = format.duckdb_table(&files);
    for number in 0..STATEMENTS {
        if number == STATEMENTS / 3 {
            // Those before met whatever was built by then.
            built(raw, seed)?;
        }
        let (statement, order) = statement(&mut dice, format);
        compare(raw, duckdb, &prefix, &table, &statement, order).with_context(|| statement.clone())?;
    }
    Ok(())
}

pub(super) fn index(raw: &mut Raw, seed: u64, prefix: &str) -> Result<()> {
    for (name, definition) in INDEXES {
        sql::run(raw, &format!("CREATE INDEX {name}_{seed} ON \"indexed/{prefix}\" USING {definition}"))?;
    }
    Ok(())
}

pub(super) fn built(raw: &mut Raw, seed: u64) -> Result<()> {
    let done = "state = 'ready' AND pending = 0 AND unparsed = 0";
    let statement = format!("SELECT count(*) FROM holdfast.indexes WHERE prefix = 's{seed}/' AND {done}");
    let all = Cell::Integer(INDEXES.len() as i128);
    wait_until("the indexes are built", SOON, || Ok(sql::rows(raw, &statement)?[0][0] == all))
}

fn compare(raw: &mut Raw, duckdb: &mut DuckDb, prefix: &str, table: &str, statement: &str, order: Order) -> Result<()> {
    let mut of = |bucket: &str| sql::rows(raw, &statement.replace("{table}", &format!("\"{bucket}/{prefix}\"")));
    let (indexed, plain) = (of("indexed")?, of("plain")?);
    let expected = duckdb.ask(&statement.replace("{table}", table))?.rows;
    same(&indexed, &plain, order).context("with indexes and without")?;
    same(&plain, &expected, order).context("Holdfast and DuckDB")?;
    Ok(())
}
