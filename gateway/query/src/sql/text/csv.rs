//! CSV rows: where they end, and what the head of an object says.

use std::io::Cursor;

use arrow::array::{AsArray, RecordBatch};
use arrow::csv::reader::{Format, ReaderBuilder};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use std::sync::Arc;

use super::super::shape::{Members, Shape};
use crate::header::column_names;

/// How fields and rows are told apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Dialect {
    /// Whether the first row names the columns.
    pub(crate) header: bool,
    pub(crate) delimiter: u8,
    pub(crate) quote: Option<u8>,
    pub(crate) escape: Option<u8>,
    pub(crate) comment: Option<u8>,
    /// Text that stands for no value, besides none at all.
    pub(crate) null: Option<String>,
}

impl Default for Dialect {
    fn default() -> Self {
        Self { header: true, delimiter: b',', quote: Some(b'"'), escape: None, comment: None, null: None }
    }
}

/// Stands for "no quotes" where a byte is asked for: it is in no UTF-8.
const NO_BYTE: u8 = 0xff;

impl Dialect {
    /// A reader of rows; `schema` is that of the fields as they stand in the object.
    pub(super) fn reader(&self, schema: SchemaRef) -> Result<ReaderBuilder, ArrowError> {
        let mut builder =
            ReaderBuilder::new(schema).with_delimiter(self.delimiter).with_quote(self.quote.unwrap_or(NO_BYTE));
        if let Some(escape) = self.escape {
            builder = builder.with_escape(escape);
        }
        if let Some(comment) = self.comment {
            builder = builder.with_comment(comment);
        }
        if let Some(null) = &self.null {
            let pattern = format!("^(|{})$", regex::escape(null));
            let pattern = regex::Regex::new(&pattern).map_err(|error| ArrowError::CsvError(error.to_string()))?;
            builder = builder.with_null_regex(pattern);
        }
        Ok(builder)
    }

    /// Names of the columns, from the first row.
    pub(super) fn names(&self, row: &[u8]) -> Result<Vec<String>, ArrowError> {
        let mut format = Format::default()
            .with_delimiter(self.delimiter)
            .with_quote(self.quote.unwrap_or(NO_BYTE))
            .with_header(self.header);
        if let Some(escape) = self.escape {
            format = format.with_escape(escape);
        }
        if let Some(comment) = self.comment {
            format = format.with_comment(comment);
        }
        let (schema, _) = format.infer_schema(Cursor::new(row), Some(1))?;
        Ok(column_names(schema.fields().iter().map(|field| field.name().as_str())))
    }

    /// The shapes of the columns of whole rows.
    pub(super) fn shapes(&self, names: &[String], rows: &[u8]) -> Result<(Members, usize), ArrowError> {
        let fields: Vec<Field> = names.iter().map(|name| Field::new(name, DataType::Utf8, true)).collect();
        let mut shapes = Members::default();
        names.iter().for_each(|name| shapes.merge(name, Shape::Null));
        let mut count = 0;
        for batch in decode(self.reader(Arc::new(Schema::new(fields)))?, rows)? {
            count += batch.num_rows();
            for (name, column) in names.iter().zip(batch.columns()) {
                let mut shape = Shape::Null;
                for text in column.as_string::<i32>().iter().flatten() {
                    shape = shape.merge(Shape::of_text(text));
                    if shape == Shape::Text {
                        break;
                    }
                }
                shapes.merge(name, shape);
            }
        }
        Ok((shapes, count))
    }
}

/// The batches of whole rows.
pub(super) fn decode(reader: ReaderBuilder, mut rows: &[u8]) -> Result<Vec<RecordBatch>, ArrowError> {
    let mut decoder = reader.with_batch_size(super::BATCH_ROWS).build_decoder();
    let mut batches = Vec::new();
    loop {
        let used = decoder.decode(rows)?;
        rows = &rows[used..];
        if used == 0 || decoder.capacity() == 0 {
            // Without bytes the last row ends.
            match decoder.flush()? {
                Some(batch) => batches.push(batch),
                None if used == 0 => return Ok(batches),
                None => {}
            }
        }
    }
}

/// Finds the ends of rows in bytes that come in pieces.
#[derive(Clone, Debug)]
pub(super) struct Ends {
    delimiter: u8,
    quote: u8,
    escape: Option<u8>,
    comment: Option<u8>,
    at: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Row,
    Field,
    Bare,
    Quoted,
    Escaped,
    /// A quote within quotes: the end, or the first of two.
    Quote,
    Comment,
}

impl Ends {
    pub(super) fn new(dialect: &Dialect) -> Self {
        Self {
            delimiter: dialect.delimiter,
            quote: dialect.quote.unwrap_or(NO_BYTE),
            escape: dialect.escape,
            comment: dialect.comment,
            at: State::Row,
        }
    }

    /// The end of the last row in the next piece, or of the first one.
    pub(super) fn scan(&mut self, bytes: &[u8], first: bool) -> Option<usize> {
        let plain = self.comment.is_none() && matches!(self.at, State::Row | State::Field | State::Bare);
        if plain && !first && memchr::memchr(self.quote, bytes).is_none() {
            self.at = match bytes.last() {
                Some(b'\n' | b'\r') => State::Row,
                Some(&byte) if byte == self.delimiter => State::Field,
                Some(_) => State::Bare,
                None => self.at,
            };
            return memchr::memrchr(b'\n', bytes).map(|end| end + 1);
        }
        let mut end = None;
        for (at, &byte) in bytes.iter().enumerate() {
            self.at = self.step(byte);
            if byte == b'\n' && self.at == State::Row {
                end = Some(at + 1);
                if first {
                    break;
                }
            }
        }
        end
    }

    fn step(&self, byte: u8) -> State {
        match self.at {
            State::Comment if byte == b'\n' => State::Row,
            State::Comment => State::Comment,
            State::Escaped => State::Quoted,
            State::Quoted if byte == self.quote => State::Quote,
            State::Quoted if Some(byte) == self.escape => State::Escaped,
            State::Quoted => State::Quoted,
            State::Quote if byte == self.quote => State::Quoted,
            State::Row if Some(byte) == self.comment => State::Comment,
            State::Row | State::Field if byte == self.quote => State::Quoted,
            _ if matches!(byte, b'\n' | b'\r') => State::Row,
            _ if byte == self.delimiter => State::Field,
            _ => State::Bare,
        }
    }

    /// Whether no quote is open.
    pub(super) fn closed(&self) -> bool {
        !matches!(self.at, State::Quoted | State::Escaped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_of_rows_are_found_however_the_bytes_are_cut() {
        let check = |dialect: &Dialect, text: &str, expected: &[usize]| {
            let bytes = text.as_bytes();
            for cut in 0..=bytes.len() {
                let mut ends = Ends::new(dialect);
                let mut found = Vec::new();
                for piece in [&bytes[..cut], &bytes[cut..]] {
                    let mut from = 0;
                    while let Some(end) = ends.scan(&piece[from..], true) {
                        from += end;
                        found.push(from + if piece.as_ptr() == bytes.as_ptr() { 0 } else { cut });
                    }
                }
                if cut > 0 {
                    assert_eq!(found, expected, "{text:?} cut at {cut}");
                }
                let mut last = Ends::new(dialect);
                let first = last.scan(&bytes[..cut], false);
                let second = last.scan(&bytes[cut..], false).map(|end| end + cut);
                assert_eq!(second.or(first), expected.last().copied(), "{text:?} cut at {cut}");
            }
        };
        let plain = Dialect::default();
        check(&plain, "a,b\n1,2\r\n", &[4, 9]);
        check(&plain, "a,\"b\nc\"\n1,2\n", &[8, 12]);
        check(&plain, "5\" pipe,3\n6\" pipe,4\n", &[10, 20]);
        check(&plain, "\"a\"\"\n\",1\nb", &[9]);
        let commented = Dialect { comment: Some(b'#'), ..Dialect::default() };
        check(&commented, "# it's \"\na\n", &[9, 11]);
        let escaped = Dialect { escape: Some(b'\\'), ..Dialect::default() };
        check(&escaped, "\"a\\\"\n\"\nb\n", &[7, 9]);
        let unquoted = Dialect { quote: None, ..Dialect::default() };
        check(&unquoted, "\"a\nb\n", &[3, 5]);
    }

    #[test]
    fn names_are_unique_and_never_empty() {
        let check = |dialect: &Dialect, row: &str, expected: &[&str]| {
            assert_eq!(dialect.names(row.as_bytes()).unwrap(), expected, "{row}");
        };
        let plain = Dialect::default();
        check(&plain, "a,b\n", &["a", "b"]);
        check(&plain, "a,a,,\"c,d\"\n", &["a", "a_1", "column_3", "c,d"]);
        check(&Dialect { header: false, ..Dialect::default() }, "1,x\n", &["column_1", "column_2"]);
        check(&Dialect { delimiter: b';', ..Dialect::default() }, "a;b,c", &["a", "b,c"]);
    }

    #[test]
    fn shapes_are_those_of_all_rows() {
        let names: Vec<String> = ["a", "b", "c", "d"].map(str::to_owned).to_vec();
        let (shapes, rows) = Dialect::default().shapes(&names, b"1,x,,2024-01-01\n2.5,,,2024-01-02\n").unwrap();
        assert_eq!(rows, 2);
        let kinds: Vec<DataType> = shapes.fields().iter().map(|field| field.data_type().clone()).collect();
        assert_eq!(kinds, [DataType::Float64, DataType::Utf8View, DataType::Utf8View, DataType::Date32]);
        assert!(Dialect::default().shapes(&names, b"1,2,3\n").is_err(), "a row with a field less");
    }
}
