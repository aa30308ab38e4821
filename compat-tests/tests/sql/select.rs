//! S3 Select over random tables: the answer over a prefix with indexes, the one without, and DuckDB's are equal; and it
//! says what MinIO's says, where that goes by the reference.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use holdfast_compat_tests::answer::{Cell, Order, Rows, same};
use holdfast_compat_tests::client::duckdb::DuckDb;
use holdfast_compat_tests::client::raw::Raw;
use holdfast_compat_tests::client::select::{Select, select};
use holdfast_compat_tests::minio::Minio;
use holdfast_compat_tests::process::{Holdfast, HoldfastOptions};
use holdfast_compat_tests::target::{Endpoint, Target};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;

use super::random::{built, each_seed, index, store};
use super::tables::{FLOATS, Format, TEXTS, integer, object, pick};

/// Seeds, unless `HOLDFAST_SQL_SEEDS` says otherwise.
const SEEDS: u64 = 6;
/// Statements of one seed.
const STATEMENTS: usize = 40;
/// Rows of one object.
const ROWS_MAX: usize = 120;
const JSON: &str = "<JSON><RecordDelimiter>\n</RecordDelimiter></JSON>";
const CSV: &str = "<CSV></CSV>";

/// The same in both languages.
struct Both {
    select: String,
    sql: String,
}

impl Both {
    fn of(text: impl Into<String>) -> Self {
        let select = text.into();
        Self { sql: select.clone(), select }
    }

    fn join(parts: Vec<Self>, between: &str) -> Self {
        let select = parts.iter().map(|part| part.select.as_str()).collect::<Vec<_>>().join(between);
        let sql = parts.iter().map(|part| part.sql.as_str()).collect::<Vec<_>>().join(between);
        Self { select, sql }
    }

    fn around(self, before: &str, after: &str) -> Self {
        Self { select: format!("{before}{}{after}", self.select), sql: format!("{before}{}{after}", self.sql) }
    }
}

/// A column as a value of its type; what is empty in CSV is null.
fn column(format: Format, name: &str) -> Both {
    let quoted = format!("s.\"{name}\"");
    if format != Format::Csv {
        return Both::of(quoted);
    }
    let text = format!("NULLIF({quoted}, '')");
    let select = match name {
        "n" | "two words" => format!("CAST({text} AS INT)"),
        "f" => format!("CAST({text} AS FLOAT)"),
        "b" => format!("CAST({text} AS BOOL)"),
        _ => text,
    };
    Both { select, sql: if name == "t" { format!("NULLIF({quoted}, '')") } else { quoted } }
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn comparison(dice: &mut StdRng, format: Format) -> Both {
    let compare = pick(dice, &["=", "<>", "<", "<=", ">", ">="]);
    match dice.random_range(0..9) {
        0 => column(format, "n").around("", &format!(" {compare} {}", integer(dice))),
        // Floats of Parquet may be no numbers, which SQL orders and S3 Select does not.
        1 if format != Format::Parquet => {
            column(format, "f").around("", &format!(" {compare} {:?}", pick(dice, &FLOATS)))
        }
        1 | 2 => column(format, "t").around("", &format!(" {compare} {}", literal(pick(dice, &TEXTS)))),
        3 => column(format, "t")
            .around("", &format!(" LIKE {}", literal(pick(dice, &["%o", "_slo", "%\"%", "1%", "%e%n"])))),
        4 => column(format, pick(dice, &["n", "f", "t", "b"])).around("", pick(dice, &[" IS NULL", " IS NOT NULL"])),
        5 => column(format, "b").around("", pick(dice, &[" = TRUE", " = FALSE", " <> TRUE"])),
        6 => {
            let low = integer(dice);
            let high = low.saturating_add(dice.random_range(0..30));
            column(format, "n").around("", &format!(" BETWEEN {low} AND {high}"))
        }
        7 => column(format, "n").around("", &format!(" IN ({}, {}, {})", integer(dice), integer(dice), integer(dice))),
        _ => column(format, "two words").around("", &format!(" = {}", dice.random_range(0..6))),
    }
}

fn condition(dice: &mut StdRng, format: Format, depth: u32) -> Both {
    if depth == 0 || dice.random_ratio(1, 2) {
        return comparison(dice, format);
    }
    let (left, right) = (condition(dice, format, depth - 1), condition(dice, format, depth - 1));
    match dice.random_range(0..5) {
        0 | 1 => Both::join(vec![left, right], " AND ").around("(", ")"),
        2 | 3 => Both::join(vec![left, right], " OR ").around("(", ")"),
        _ => left.around("NOT (", ")"),
    }
}

/// A condition on a column as it stands there, which an index may answer.
fn direct(dice: &mut StdRng) -> Both {
    let compare = pick(dice, &["=", "<", "<=", ">", ">="]);
    match dice.random_range(0..4) {
        0 => Both::of(format!("s.n {compare} {}", integer(dice))),
        1 => Both::of(format!("s.n IN ({}, {})", integer(dice), integer(dice))),
        2 => {
            let text = loop {
                let text = pick(dice, &TEXTS);
                if !text.is_empty() {
                    break text;
                }
            };
            Both::of(format!("s.t = {}", literal(text)))
        }
        _ => Both::of(format!("s.\"two words\" = {}", dice.random_range(0..6))),
    }
}

fn items(dice: &mut StdRng, format: Format) -> Vec<Both> {
    if dice.random_ratio(1, 3) {
        let mut items = vec![Both::of("COUNT(*)")];
        for (function, name) in [("COUNT", "t"), ("SUM", "n"), ("MIN", "n")] {
            items.push(column(format, name).around(&format!("{function}("), ")"));
        }
        // Fields of CSV that are all numbers are numbers; here they are made text.
        for function in ["MIN(", "MAX("] {
            items.push(column(format, "t").around(function, " || '')"));
        }
        if format != Format::Parquet {
            items.push(column(format, "f").around("MAX(", ")"));
        }
        items.push(column(format, "two words").around("AVG(CAST(", " AS FLOAT))"));
        return items;
    }
    let mut items: Vec<Both> = ["n", "t", "b", "two words"].map(|name| column(format, name)).into();
    items.push(column(format, "t").around("LOWER(", ")"));
    items.push(column(format, "t").around("CHAR_LENGTH(", ")"));
    items.push(column(format, "t").around("SUBSTRING(", ", 2, 3)"));
    items.push(Both::join(vec![column(format, "t"), Both::of("'|'")], " || "));
    items.push(Both::join(vec![column(format, "n"), Both::of("-7")], ", ").around("COALESCE(", ")"));
    items.push(column(format, "n").around("CASE WHEN ", " > 0 THEN 'more' ELSE 'less' END"));
    items.push(column(format, "two words").around("(", " * 3 - 1)"));
    items
}

fn cell(value: Option<&Value>) -> Result<Cell> {
    Ok(match value {
        None | Some(Value::Null) => Cell::Null,
        Some(Value::Bool(flag)) => Cell::Bool(*flag),
        Some(Value::Number(number)) => match number.as_i64() {
            Some(integer) => Cell::Integer(integer.into()),
            None => Cell::Number(number.as_f64().context("no number")?),
        },
        Some(Value::String(text)) => Cell::Text(text.clone()),
        Some(other) => anyhow::bail!("{other} is nested"),
    })
}

fn rows(records: &[u8], columns: usize) -> Result<Rows> {
    let records = std::str::from_utf8(records)?;
    let row = |line: &str| {
        let record: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        (0..columns).map(|number| cell(record.get(format!("c{number}")))).collect()
    };
    records.lines().map(row).collect()
}

pub(super) fn run(format: Format) -> Result<()> {
    let (mut seeds, mut pruned) = (0, 0);
    each_seed(format, SEEDS, |seed, raw, duckdb, dir| {
        seeds += 1;
        pruned += one(format, seed, raw, duckdb, dir)?;
        Ok(())
    })?;
    ensure!(seeds < SEEDS || pruned > 0, "no statement went by an index");
    Ok(())
}

fn one(format: Format, seed: u64, raw: &mut Raw, duckdb: &mut DuckDb, dir: &Path) -> Result<u32> {
    let mut dice = StdRng::seed_from_u64(seed);
    let prefix = format!("s{seed}/");
    index(raw, seed, &prefix)?;
    let mut files = Vec::new();
    for number in 0..dice.random_range(2..=5) {
        let count = dice.random_range(0..ROWS_MAX);
        let body = object(&mut dice, format, count)?;
        files.push(store(raw, dir, format, seed, number, &body)?);
    }
    let table = format.duckdb_table(&files);
    let mut pruned = 0;
    for number in 0..STATEMENTS {
        if number == STATEMENTS / 3 {
            built(raw, seed)?;
        }
        let items = items(&mut dice, format);
        let mut wanted = condition(&mut dice, format, 2);
        if dice.random() {
            wanted = Both::join(vec![direct(&mut dice), wanted], " AND ");
        }
        pruned += u32::from(compare(raw, duckdb, format, &prefix, &table, &items, &wanted)?);
    }
    Ok(pruned)
}

/// Whether less was read with indexes.
fn compare(
    raw: &mut Raw,
    duckdb: &mut DuckDb,
    format: Format,
    prefix: &str,
    table: &str,
    items: &[Both],
    wanted: &Both,
) -> Result<bool> {
    let named = |text: fn(&Both) -> &str| {
        let named = items.iter().enumerate().map(|(number, item)| format!("{} AS c{number}", text(item)));
        named.collect::<Vec<_>>().join(", ")
    };
    let expression = format!("SELECT {} FROM S3Object s WHERE {}", named(|both| &both.select), wanted.select);
    let statement = format!("SELECT {} FROM {table} s WHERE {}", named(|both| &both.sql), wanted.sql);
    let input = match format {
        Format::Csv => "<CSV><FileHeaderInfo>USE</FileHeaderInfo></CSV>",
        Format::Ndjson => "<JSON><Type>LINES</Type></JSON>",
        Format::Parquet => "<Parquet></Parquet>",
    };
    let asked = Select { expression: &expression, input, output: JSON, scan: None };
    let mut of = |bucket: &str| select(raw, bucket, prefix, &asked).with_context(|| expression.clone());
    let (indexed, plain) = (of("indexed")?, of("plain")?);
    ensure!(indexed.records == plain.records, "with indexes and without: {expression}");
    let expected = duckdb.ask(&statement)?.rows;
    same(&rows(&plain.records, items.len())?, &expected, Order::Counts)
        .with_context(|| format!("Holdfast: {expression}\nDuckDB: {statement}"))?;
    Ok(indexed.scanned < plain.scanned)
}

/// Every scan of parts has each record once, wherever the parts end.
pub(super) fn scans() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let server = Holdfast::start(HoldfastOptions::embedded(dir.path()))?;
    let mut raw = Endpoint::of(Target::Embedded, server.address()).raw();
    raw.put("scans", "", &[], b"")?.expect(200)?;
    let mut dice = StdRng::seed_from_u64(7);
    let inputs = [
        ("a.csv", "<CSV><FileHeaderInfo>USE</FileHeaderInfo></CSV>"),
        ("b.csv", "<CSV><RecordDelimiter>\r\n</RecordDelimiter></CSV>"),
        ("c.json", "<JSON><Type>LINES</Type></JSON>"),
        ("d.parquet", "<Parquet></Parquet>"),
    ];
    for (key, input) in inputs {
        let body = match key {
            "d.parquet" => object(&mut dice, Format::Parquet, 900)?,
            "c.json" => object(&mut dice, Format::Ndjson, 300)?,
            _ => {
                let end = if key == "a.csv" { "\n" } else { "\r\n" };
                let line = |n: usize| format!("{n},{}{end}", "x".repeat(dice.random_range(0..40)));
                let lines: String = (0..600).map(line).collect();
                format!("n,text{end}{lines}").into_bytes()
            }
        };
        raw.put("scans", key, &[], &body)?.expect(200)?;
        let mut of = |scan| {
            let asked = Select { expression: "SELECT * FROM S3Object", input, output: JSON, scan };
            Ok::<_, anyhow::Error>(select(&mut raw, "scans", key, &asked)?.records)
        };
        let whole = of(None)?;
        for _ in 0..6 {
            let (mut at, mut parts) = (0, Vec::new());
            while at < body.len() as u64 {
                let end = at + dice.random_range(1..2_000);
                parts.extend(of(Some((at, end - 1)))?);
                at = end;
            }
            ensure!(parts == whole, "{key}: parts have other records than the whole");
        }
    }
    Ok(())
}

/// Statements that MinIO answers as the reference says.
const LIKE_MINIO: [&str; 22] = [
    "SELECT * FROM S3Object",
    "SELECT * FROM S3Object LIMIT 3",
    "SELECT s.name, s.city FROM S3Object s",
    "SELECT s.name FROM S3Object s WHERE s.city = 'Oslo'",
    "SELECT s.name FROM S3Object s WHERE s.city != 'Oslo' AND s.name != 'Bo'",
    "SELECT s.name FROM S3Object s WHERE CAST(s.age AS INT) > 30",
    "SELECT s.name FROM S3Object s WHERE CAST(s.age AS INT) BETWEEN 20 AND 40",
    "SELECT s.name FROM S3Object s WHERE s.city IN ('Oslo', 'Bergen')",
    "SELECT s.name FROM S3Object s WHERE NOT (s.city = 'Oslo' OR s.name = 'Ada')",
    "SELECT COUNT(*) FROM S3Object s",
    "SELECT COUNT(*) FROM S3Object s WHERE CAST(s.age AS INT) < 40",
    "SELECT SUM(CAST(s.age AS INT)) FROM S3Object s",
    "SELECT MIN(CAST(s.age AS INT)), MAX(CAST(s.age AS INT)) FROM S3Object s",
    "SELECT LOWER(s.name), UPPER(s.city) FROM S3Object s",
    "SELECT CHAR_LENGTH(s.name) FROM S3Object s",
    "SELECT SUBSTRING(s.name, 2, 2) FROM S3Object s",
    "SELECT SUBSTRING(s.name FROM 2) FROM S3Object s",
    "SELECT s.city FROM S3Object s WHERE s.name LIKE '%a%'",
    "SELECT TRIM('  x ') FROM S3Object s",
    "SELECT TRIM(LEADING 'A' FROM s.name) FROM S3Object s",
    "SELECT CAST(s.age AS INT) + 1, CAST(s.age AS INT) * 2 FROM S3Object s",
    "SELECT COALESCE(s.city, 'nowhere') FROM S3Object s",
];

pub(super) fn like_minio() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let minio = Minio::start(dir.path())?;
    let own = dir.path().join("own");
    std::fs::create_dir(&own)?;
    let server = Holdfast::start(HoldfastOptions::embedded(&own))?;
    let mut sides =
        [Endpoint::of(Target::Minio, minio.address()).raw(), Endpoint::of(Target::Embedded, server.address()).raw()];
    let people = [("Ada", "Oslo", 36), ("Bo", "Bergen", 41), ("Cara", "Oslo", 19), ("Dan \"D\", Jr", "Rome", 30)];
    let csv: String =
        people.iter().map(|(name, city, age)| format!("\"{}\",{city},{age}\n", name.replace('"', "\"\""))).collect();
    let json: String = people
        .iter()
        .map(|(name, city, age)| {
            let record = serde_json::json!({ "name": name, "city": city, "age": age.to_string() });
            format!("{record}\n")
        })
        .collect();
    let objects = [
        ("people.csv", format!("name,city,age\n{csv}"), "<CSV><FileHeaderInfo>USE</FileHeaderInfo></CSV>"),
        ("people.json", json, "<JSON><Type>LINES</Type></JSON>"),
    ];
    for raw in &mut sides {
        raw.put("beside", "", &[], b"")?.expect(200)?;
        for (key, body, _) in &objects {
            raw.put("beside", key, &[], body.as_bytes())?.expect(200)?;
        }
    }
    let mut different = Vec::new();
    for (key, _, input) in &objects {
        for output in [CSV, JSON] {
            for expression in LIKE_MINIO {
                let asked = Select { expression, input, output, scan: None };
                let [theirs, ours] = &mut sides;
                let text = |raw: &mut Raw| match select(raw, "beside", key, &asked) {
                    Ok(selected) => String::from_utf8_lossy(&selected.records).into_owned(),
                    Err(error) => format!("{error:#}"),
                };
                let (theirs, ours) = (text(theirs), text(ours));
                if ours != theirs {
                    different.push(format!("{key} {output} {expression}\nHoldfast {ours:?}\nMinIO    {theirs:?}"));
                }
            }
        }
    }
    ensure!(different.is_empty(), "{}", different.join("\n"));
    Ok(())
}
