//! Rows that are lines: CSV and NDJSON.

use std::io::{BufRead, BufReader, Read};

use holdfast_core::index::{Step, Value};

use super::{EachRow, ROW_BYTES_MAX, Unreadable, json};
use crate::header::column_names;

/// Reads CSV with a header. Every row has as many fields as the header.
pub(super) fn read_csv(
    delimiter: u8,
    content: Box<dyn Read + '_>,
    paths: &[Vec<Step>],
    each: &mut EachRow<'_>,
) -> Result<(), Unreadable> {
    let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).has_headers(true).from_reader(content);
    let names = column_names(reader.headers().map_err(Unreadable::new)?);
    let columns: Vec<Option<usize>> = paths.iter().map(|path| column(&names, path)).collect();
    let mut record = csv::StringRecord::new();
    loop {
        // Before the record is read, the position is behind the one before it; blank lines between are skipped later.
        let more = reader.read_record(&mut record).map_err(Unreadable::new)?;
        if !more {
            return Ok(());
        }
        let start = record.position().map_or(0, csv::Position::byte);
        let values: Vec<Value<'_>> = columns.iter().map(|column| value(&record, *column)).collect();
        each(start..reader.position().byte(), &values)?;
    }
}

/// The number of the column that a path names.
fn column(names: &[String], path: &[Step]) -> Option<usize> {
    let [Step::Name(name)] = path else { return None };
    let exact = names.iter().position(|column| column == name);
    exact.or_else(|| names.iter().position(|column| column.eq_ignore_ascii_case(name)))
}

fn value<'a>(record: &'a csv::StringRecord, column: Option<usize>) -> Value<'a> {
    match column.and_then(|column| record.get(column)) {
        None | Some("") => Value::Null,
        Some(text) => Value::canonical(text),
    }
}

/// Reads one JSON value a line; blank lines are none.
pub(super) fn read_lines(
    content: Box<dyn Read + '_>,
    paths: &[Vec<Step>],
    each: &mut EachRow<'_>,
) -> Result<(), Unreadable> {
    let mut content = BufReader::with_capacity(1 << 16, content);
    let (mut line, mut start) = (Vec::new(), 0);
    loop {
        line.clear();
        let limit = ROW_BYTES_MAX as u64;
        let read = (&mut content).take(limit).read_until(b'\n', &mut line).map_err(Unreadable::new)? as u64;
        if read == 0 {
            return Ok(());
        }
        if read == limit {
            return Err(Unreadable(format!("the line at byte {start} is too long")));
        }
        if !line.trim_ascii().is_empty() {
            json::row(&line, start..start + read, paths, each)?;
        }
        start += read;
    }
}
