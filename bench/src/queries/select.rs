//! S3 Select of one large object, by boto3, beside MinIO's on the same bytes.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use holdfast_compat_tests::client::boto3;
use holdfast_compat_tests::target::Endpoint;
use serde_json::Value;

use super::Options;
use super::report::{Select, SelectSide};
use super::stack::Stack;
use crate::stats::{Spread, ms};

const SCRIPT: &str = include_str!("select.py");
const BUCKET: &str = "select";
/// Bytes of a row of CSV, about.
const ROW_BYTES: u64 = 64;
/// What is asked; both select few rows of many.
const EXPRESSIONS: [(&str, &str); 2] = [
    ("few rows", "SELECT s.id, s.v FROM s3object s WHERE CAST(s.v AS INT) < 10"),
    ("count", "SELECT count(*) FROM s3object s WHERE CAST(s.v AS INT) >= 50000"),
];

pub(super) fn run(stack: &mut Stack, options: &Options) -> Result<Vec<Select>> {
    let rows = (options.select_bytes / ROW_BYTES).max(1);
    stack.new_bucket(BUCKET)?;
    let mut results = Vec::new();
    for format in ["csv", "parquet"] {
        let file = stack.directory().join(format!("one.{format}"));
        stack.prepare(&format!(
            "COPY (SELECT i AS id, CAST(hash(i + 1) % 100000 AS BIGINT) AS v, 'row ' || hash(i + 2) AS s, \
             'and ' || hash(i + 3) AS t FROM range({rows}) t(i)) TO '{}' (FORMAT {format})",
            file.display()
        ))?;
        let bytes = file.metadata()?.len();
        stack.upload(BUCKET, "", std::slice::from_ref(&file))?;
        std::fs::remove_file(&file)?;
        for (what, expression) in EXPRESSIONS {
            let result = one(stack, options, format, bytes, what, expression)?;
            eprintln!("S3 Select of {format}, {what}: {:?}", result.sides);
            results.push(result);
        }
    }
    Ok(results)
}

fn one(
    stack: &Stack,
    options: &Options,
    format: &'static str,
    bytes: u64,
    what: &'static str,
    expression: &str,
) -> Result<Select> {
    let mut took: [Vec<Duration>; 2] = Default::default();
    for _ in 0..options.rounds {
        let ours = ask(&stack.ours(), format, expression)?;
        let theirs = ask(&stack.theirs(), format, expression)?.context("MinIO does not answer S3 Select")?;
        // What is not built is said, and is no failure of the bench.
        let Some(ours) = ours else {
            return Ok(Select { format, what, bytes, sides: Vec::new(), ratio: None });
        };
        ensure!(ours.1 == theirs.1, "S3 Select of {format}: {} of {:?} and {:?}", expression, ours.1, theirs.1);
        took[0].push(ours.0);
        took[1].push(theirs.0);
    }
    let ratios = took[0].iter().zip(&took[1]).map(|(ours, theirs)| theirs.as_secs_f64() / ours.as_secs_f64());
    let sides = ["holdfast", "minio"]
        .into_iter()
        .zip(&took)
        .map(|(side, took)| Some(SelectSide { side, ms: Spread::of(took.iter().copied().map(ms))? }));
    let sides = sides.collect::<Option<Vec<_>>>().context("a run has at least one round")?;
    Ok(Select { format, what, bytes, ratio: Spread::of(ratios), sides })
}

/// Time, and length with digest of the records; `None` when S3 Select is not built.
fn ask(endpoint: &Endpoint, format: &str, expression: &str) -> Result<Option<(Duration, (u64, String))>> {
    let key = format!("one.{format}");
    let said = boto3::run(endpoint, SCRIPT, &[BUCKET, &key, format, expression])?;
    let said: Value = serde_json::from_str(said.trim())?;
    match said["code"].as_str() {
        Some("NotImplemented") => return Ok(None),
        Some(code) => bail!("S3 Select failed with {code}: {expression}"),
        None => {}
    }
    let seconds = said["seconds"].as_f64().context("no time")?;
    let digest = said["sha256"].as_str().context("no digest")?.to_owned();
    Ok(Some((Duration::from_secs_f64(seconds), (said["bytes"].as_u64().context("no length")?, digest))))
}
