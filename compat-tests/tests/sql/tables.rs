//! Random tables: rows of six columns, in objects of one format.

use std::fmt::Write as _;
use std::sync::Arc;

use anyhow::Result;
use arrow::array::{ArrayRef, BooleanArray, Date32Array, Float64Array, Int64Array, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use time::{Date, Duration};

/// How the objects of a table are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Csv,
    Ndjson,
    Parquet,
}

impl Format {
    pub(super) const ALL: [Self; 3] = [Self::Csv, Self::Ndjson, Self::Parquet];

    pub(super) fn extension(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::Ndjson => "ndjson",
            Self::Parquet => "parquet",
        }
    }

    /// What DuckDB reads the files with; it is told the columns, since engines guess types in other ways.
    pub(super) fn duckdb_table(self, files: &[String]) -> String {
        let files = files.iter().map(|file| format!("'{file}'")).collect::<Vec<_>>().join(", ");
        // JSON has no dates: they are text there.
        let day = if self == Self::Ndjson { "VARCHAR" } else { "DATE" };
        let columns =
            format!("{{n: 'BIGINT', f: 'DOUBLE', t: 'VARCHAR', d: '{day}', b: 'BOOLEAN', \"two words\": 'BIGINT'}}");
        match self {
            Self::Csv => format!(
                "read_csv([{files}], columns = {columns}, auto_detect = false, header = true, delim = ',', \
                 quote = '\"', escape = '\"', nullstr = '', new_line = '\\n')"
            ),
            Self::Ndjson => format!("read_json([{files}], format = 'newline_delimited', columns = {columns})"),
            Self::Parquet => format!("read_parquet([{files}])"),
        }
    }
}

/// Texts with something about them: quotes, delimiters, line ends, spaces, other scripts, and what reads as another type.
pub(super) const TEXTS: [&str; 26] = [
    "Oslo",
    "Bergen",
    "oslo",
    "a,b",
    "say \"hi\"",
    "two\nlines",
    "",
    " padded ",
    "é",
    "é",
    "日本",
    "😀",
    "10",
    "10.0",
    "010",
    "-3",
    "+3",
    "1e3",
    "true",
    "FALSE",
    "2024-02-29",
    "NaN",
    "inf",
    "100%",
    "x_y",
    "O'Hara",
];
/// Halves and quarters, so that every sum is exact.
pub(super) const FLOATS: [f64; 10] = [0.0, 0.5, -0.25, 1.5, 5.0, -7.75, 1e10, 123_456.5, -1e15, 2.5e-3];
const ODD_FLOATS: [f64; 4] = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX];
/// Beyond 2^53 several integers have one float.
pub(super) const INTEGERS: [i64; 6] = [0, -1, 7, 9_007_199_254_740_992, 9_007_199_254_740_993, -9_007_199_254_740_993];
/// Days that dates begin from, and how many there are.
pub(super) const DAYS: i64 = 400;

/// One row.
#[derive(Clone, Debug, Default)]
struct Row {
    n: Option<i64>,
    f: Option<f64>,
    t: Option<String>,
    d: Option<i64>,
    b: Option<bool>,
    two: Option<i64>,
}

/// The day of that number, as it is written.
pub(super) fn day(number: i64) -> String {
    let epoch = Date::from_calendar_date(1970, time::Month::January, 1).expect("it is the epoch");
    let date = epoch + Duration::days(number);
    format!("{:04}-{:02}-{:02}", date.year(), u8::from(date.month()), date.day())
}

fn maybe<T>(dice: &mut StdRng, value: impl FnOnce(&mut StdRng) -> T) -> Option<T> {
    (!dice.random_ratio(1, 6)).then(|| value(dice))
}

pub(super) fn integer(dice: &mut StdRng) -> i64 {
    if dice.random_ratio(1, 8) { pick(dice, &INTEGERS) } else { dice.random_range(-40..40) }
}

pub(super) fn pick<T: Copy>(dice: &mut StdRng, from: &[T]) -> T {
    *from.choose(dice).expect("there is something to choose from")
}

fn float(dice: &mut StdRng, format: Format) -> f64 {
    match dice.random_range(0..8) {
        0 if format == Format::Parquet => pick(dice, &ODD_FLOATS),
        0..4 => pick(dice, &FLOATS),
        _ => f64::from(dice.random_range(-200..200)) / 4.0,
    }
}

/// Rows; the first has every value, of which types are told.
fn rows(dice: &mut StdRng, format: Format, count: usize) -> Vec<Row> {
    let one = |dice: &mut StdRng| Row {
        n: maybe(dice, integer),
        f: maybe(dice, |dice| float(dice, format)),
        t: maybe(dice, |dice| pick(dice, &TEXTS).to_owned()),
        d: maybe(dice, |dice| dice.random_range(-DAYS..DAYS)),
        b: maybe(dice, |dice| dice.random()),
        two: maybe(dice, |dice| dice.random_range(0..5)),
    };
    let first = Row { n: Some(-12), f: Some(0.5), t: Some("Oslo".to_owned()), d: Some(3), b: Some(true), two: Some(1) };
    std::iter::once(first).chain((0..count).map(|_| one(dice))).collect()
}

/// The bytes of an object with so many rows, and one.
pub(super) fn object(dice: &mut StdRng, format: Format, count: usize) -> Result<Vec<u8>> {
    let rows = rows(dice, format, count);
    Ok(match format {
        Format::Csv => csv(dice, &rows).into_bytes(),
        Format::Ndjson => ndjson(dice, &rows).into_bytes(),
        Format::Parquet => parquet(dice, &rows)?,
    })
}

fn shown<T: ToString>(value: Option<&T>) -> String {
    value.map(T::to_string).unwrap_or_default()
}

fn csv(dice: &mut StdRng, rows: &[Row]) -> String {
    let mut text = "n,f,t,d,b,two words\n".to_owned();
    for row in rows {
        let quote = |dice: &mut StdRng, text: &str| {
            let must = text.contains([',', '"', '\n', ' ']) || text.starts_with(['#', '\'']);
            if must || dice.random_ratio(1, 5) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
        };
        let t = quote(dice, row.t.as_deref().unwrap_or_default());
        let f = row.f.map(|f| format!("{f:?}")).unwrap_or_default();
        let d = row.d.map(day).unwrap_or_default();
        let (n, b, two) = (shown(row.n.as_ref()), shown(row.b.as_ref()), shown(row.two.as_ref()));
        let _ = writeln!(text, "{n},{f},{t},{d},{b},{two}");
    }
    text
}

/// What is null is said so, or left out.
fn ndjson(dice: &mut StdRng, rows: &[Row]) -> String {
    let mut text = String::new();
    for row in rows {
        let members = [
            ("n", serde_json::json!(row.n)),
            ("f", serde_json::json!(row.f)),
            ("t", serde_json::json!(row.t)),
            ("d", serde_json::json!(row.d.map(day))),
            ("b", serde_json::json!(row.b)),
            ("two words", serde_json::json!(row.two)),
        ];
        let said = members.into_iter().filter(|(_, value)| !value.is_null() || dice.random());
        let object: serde_json::Map<String, serde_json::Value> =
            said.map(|(name, value)| (name.to_owned(), value)).collect();
        let _ = writeln!(text, "{}", serde_json::Value::Object(object));
    }
    text
}

/// Small row groups and pages, each with its statistics, so that a scan has something to leave out.
fn parquet(dice: &mut StdRng, rows: &[Row]) -> Result<Vec<u8>> {
    let columns: [(&str, ArrayRef); 6] = [
        ("n", Arc::new(rows.iter().map(|row| row.n).collect::<Int64Array>())),
        ("f", Arc::new(rows.iter().map(|row| row.f).collect::<Float64Array>())),
        ("t", Arc::new(rows.iter().map(|row| row.t.clone()).collect::<StringArray>())),
        (
            "d",
            Arc::new(
                rows.iter().map(|row| row.d.map(|d| i32::try_from(d).unwrap_or_default())).collect::<Date32Array>(),
            ),
        ),
        ("b", Arc::new(rows.iter().map(|row| row.b).collect::<BooleanArray>())),
        ("two words", Arc::new(rows.iter().map(|row| row.two).collect::<Int64Array>())),
    ];
    let batch = RecordBatch::try_from_iter_with_nullable(columns.map(|(name, array)| (name, array, true)))?;
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(dice.random_range(4..64)))
        .set_data_page_row_count_limit(8)
        .set_write_batch_size(4)
        .set_bloom_filter_enabled(dice.random())
        .build();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties))?;
    writer.write(&batch)?;
    writer.close()?;
    Ok(bytes)
}
