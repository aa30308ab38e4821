//! TPC-H: its tables by tpchgen-cli, and its 22 queries.
//!
//! The queries have the validation parameters of the specification (revision 3.0.1, section 2.4), and stand in
//! `compat-tests/tpch/`. `{lineitem}` and the like are the tables, `{fraction}` is the parameter of query 11, which depends
//! on the scale; its view in query 15 is a `WITH`, as section 2.2.3 permits.

use std::path::Path;

use anyhow::Result;

use crate::client::{command, duckdb};

/// The tables.
pub const TABLES: [&str; 8] = ["customer", "lineitem", "nation", "orders", "part", "partsupp", "region", "supplier"];

const QUERIES: [&str; 22] = [
    include_str!("../tpch/q01.sql"),
    include_str!("../tpch/q02.sql"),
    include_str!("../tpch/q03.sql"),
    include_str!("../tpch/q04.sql"),
    include_str!("../tpch/q05.sql"),
    include_str!("../tpch/q06.sql"),
    include_str!("../tpch/q07.sql"),
    include_str!("../tpch/q08.sql"),
    include_str!("../tpch/q09.sql"),
    include_str!("../tpch/q10.sql"),
    include_str!("../tpch/q11.sql"),
    include_str!("../tpch/q12.sql"),
    include_str!("../tpch/q13.sql"),
    include_str!("../tpch/q14.sql"),
    include_str!("../tpch/q15.sql"),
    include_str!("../tpch/q16.sql"),
    include_str!("../tpch/q17.sql"),
    include_str!("../tpch/q18.sql"),
    include_str!("../tpch/q19.sql"),
    include_str!("../tpch/q20.sql"),
    include_str!("../tpch/q21.sql"),
    include_str!("../tpch/q22.sql"),
];

/// Every query, where each table is what `of` makes of its name.
pub fn queries(scale: f64, of: impl Fn(&str) -> String) -> Vec<String> {
    let fraction = format!("{:.12}", 0.0001 / scale);
    let filled = |query: &&str| {
        TABLES.iter().fold(query.replace("{fraction}", &fraction), |query, table| {
            query.replace(&format!("{{{table}}}"), &of(table))
        })
    };
    QUERIES.iter().map(filled).collect()
}

/// Writes the tables as `dir/TABLE.FORMAT`, or as `dir/TABLE/TABLE.N.FORMAT` when there are several parts.
///
/// # Errors
/// A skip when tpchgen-cli is not installed; otherwise when it fails.
pub fn generate(dir: &Path, format: &str, scale: f64, parts: usize) -> Result<()> {
    let mut command = command::clean(&duckdb::program("tpchgen-cli")?, dir);
    command.args([format, "--quiet", "--scale-factor", &scale.to_string(), "--output-dir"]).arg(dir);
    if parts > 1 {
        command.args(["--parts", &parts.to_string()]);
    }
    command::succeed(command).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_of_a_query_gets_its_name() {
        let queries = queries(0.01, |table| format!("<{table}>"));
        assert!(queries.iter().all(|query| !query.contains('{') && query.contains("FROM")), "{queries:?}");
        assert!(queries[10].contains("* 0.010000000000\n"), "{}", queries[10]);
        assert!(queries[4].contains("FROM <customer>, <orders>, <lineitem>, <supplier>, <nation>, <region>"));
    }
}
