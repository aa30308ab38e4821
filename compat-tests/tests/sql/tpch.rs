//! TPC-H at scale 0.01.

use anyhow::{Context, Result, ensure};
use holdfast_compat_tests::answer::{Order, same};
use holdfast_compat_tests::client::duckdb::DuckDb;
use holdfast_compat_tests::client::sql;
use holdfast_compat_tests::process::{Holdfast, HoldfastOptions};
use holdfast_compat_tests::target::{Endpoint, Target};
use holdfast_compat_tests::tpch::{TABLES, generate, queries};

const SCALE: f64 = 0.01;
/// Queries whose answer may be empty at this scale: no order is that large, no nation's parts are, no brand fits.
const MAY_BE_EMPTY: [usize; 3] = [2, 18, 20];

/// Columns that the specification calls decimal, which text does not tell: as floats, 0.06 + 0.01 is less than 0.07.
const DECIMALS: [(&str, &[&str]); 6] = [
    ("customer", &["c_acctbal"]),
    ("lineitem", &["l_quantity", "l_extendedprice", "l_discount", "l_tax"]),
    ("orders", &["o_totalprice"]),
    ("part", &["p_retailprice"]),
    ("partsupp", &["ps_supplycost"]),
    ("supplier", &["s_acctbal"]),
];

/// The rows of a table, where `source` holds them.
fn from(table: &str, format: &str, source: &str) -> String {
    let cast = |column: &&str| format!("CAST({column} AS DECIMAL(15, 2)) AS {column}");
    match DECIMALS.iter().find(|(name, _)| *name == table) {
        Some((_, columns)) if format == "csv" => {
            let casts: Vec<String> = columns.iter().map(cast).collect();
            format!("(SELECT * REPLACE ({}) FROM {source})", casts.join(", "))
        }
        _ => source.to_owned(),
    }
}

pub(super) fn run(format: &'static str) -> Result<()> {
    let dir = tempfile::tempdir()?;
    generate(dir.path(), format, SCALE, 1)?;
    let mut duckdb = DuckDb::start(dir.path(), 2)?;
    let server = Holdfast::start(HoldfastOptions::embedded(dir.path()))?;
    let mut raw = Endpoint::of(Target::Embedded, server.address()).raw();
    raw.put("tpch", "", &[], b"")?.expect(200)?;
    for table in TABLES {
        let body = std::fs::read(dir.path().join(format!("{table}.{format}")))?;
        raw.put("tpch", &format!("{table}/1.{format}"), &[], &body)?.expect(200)?;
    }
    let ours = queries(SCALE, |table| from(table, format, &format!("\"tpch/{table}/\"")));
    let theirs = queries(SCALE, |table| from(table, format, &format!("'{}/{table}.{format}'", dir.path().display())));
    for (number, (ours, theirs)) in (1..).zip(ours.iter().zip(&theirs)) {
        let answer = sql::rows(&mut raw, ours).with_context(|| server.log_tail(5))?;
        let expected = duckdb.ask(theirs)?.rows;
        ensure!(!expected.is_empty() || MAY_BE_EMPTY.contains(&number), "query {number} finds nothing to compare");
        // Those without an order have one row.
        same(&answer, &expected, Order::Counts).with_context(|| format!("query {number}:\n{ours}"))?;
    }
    Ok(())
}
