//! SQL beside DuckDB: the same statements over the same bytes, in objects here and in files there.
//!
//! ```text
//! tpch     the 22 queries of TPC-H, over Parquet and over CSV
//! random   random tables and statements: with indexes, without, and DuckDB: three equal answers
//! select   the same tables by S3 Select, over a prefix; parts by scan range; and MinIO's answers
//! options  what read_csv and read_json are told changes what a row is, and no index may know better
//! ```

mod options;
mod random;
mod select;
mod statements;
mod tables;
mod tpch;

use std::process::ExitCode;
use std::time::Duration;

use holdfast_compat_tests::suite::Suite;

/// A debug build plans a statement in tens of milliseconds, and a machine of tests is busy.
const DEADLINE: Duration = Duration::from_secs(600);

fn main() -> ExitCode {
    let mut suite = Suite::new(2);
    for format in ["parquet", "csv"] {
        suite.case_within(DEADLINE, format!("tpch_is_answered_as_by_duckdb_over_{format}"), move || tpch::run(format));
    }
    for format in tables::Format::ALL {
        let name = format!("random_{}_is_answered_as_by_duckdb", format.extension());
        suite.case_within(DEADLINE, name, move || random::run(format));
    }
    for format in tables::Format::ALL {
        let name = format!("random_{}_is_selected_as_by_duckdb", format.extension());
        suite.case_within(DEADLINE, name, move || select::run(format));
    }
    suite.case("scan_ranges_have_each_record_once", select::scans);
    suite.case("s3_select_says_what_minio_says", select::like_minio);
    suite.case("an_index_is_of_what_default_options_read", options::run);
    suite.run()
}
