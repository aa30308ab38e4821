//! Records of CSV, in text that holds whole ones.

use std::borrow::Cow;

use memchr::{memchr, memchr2, memmem};

use super::error::Error;
use super::output::RECORD_BYTES_MAX;
use super::request::{CsvInput, CsvOutput, Header, Output};
use super::syntax::Column;
use super::value::Value;
use crate::header::column_names;

/// Fields of one record.
const FIELDS_MAX: usize = 16_384;

/// Where the value of a column is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// The field with this number, from 0.
    Field(usize),
    /// The record as it stands there.
    Whole,
    /// Nowhere.
    Nowhere,
}

/// The columns of a statement, as one object has them.
#[derive(Clone, Debug)]
pub(super) struct Columns {
    places: Vec<Place>,
    /// Fields that are needed, from the first on.
    needed: usize,
}

impl Columns {
    /// Finds the columns by number, or by the names of the header.
    ///
    /// # Errors
    /// `MissingHeaders` for a name that the header lacks, when `strict`; `EvaluatorBindingDoesNotExist` for a name where no
    /// header is used.
    pub(super) fn of(
        columns: &[Column],
        input: &CsvInput,
        names: Option<&[String]>,
        strict: bool,
    ) -> Result<Self, Error> {
        let mut places = Vec::with_capacity(columns.len());
        for column in columns {
            places.push(place(column, input, names, strict)?);
        }
        let needed = places.iter().map(|place| if let Place::Field(number) = place { number + 1 } else { 0 }).max();
        Ok(Self { places, needed: needed.unwrap_or_default() })
    }
}

fn place(column: &Column, input: &CsvInput, names: Option<&[String]>, strict: bool) -> Result<Place, Error> {
    let [step] = &column.steps[..] else {
        return Ok(if column.steps.is_empty() { Place::Whole } else { Place::Nowhere });
    };
    if let Some(names) = names {
        let exact = names
            .iter()
            .position(|name| matches!(step, super::syntax::Step::Name { name: wanted, .. } if wanted == name));
        if let Some(number) = exact.or_else(|| names.iter().position(|name| step.names(name))) {
            return Ok(Place::Field(number));
        }
    }
    if let Some(number) = column.position() {
        return Ok(Place::Field(number));
    }
    match input.header {
        Header::Use if strict => Err(Error::new(
            "MissingHeaders",
            "Some headers in the query are missing from the file. Check the file and try again.",
        )),
        Header::Use => Ok(Place::Nowhere),
        Header::None | Header::Ignore => Err(Error::new(
            "EvaluatorBindingDoesNotExist",
            "columns of CSV whose header is not used are named by their numbers: _1, _2",
        )),
    }
}

/// A record.
pub(super) struct Record<'r, 'a> {
    names: Option<&'r [String]>,
    fields: &'r [Cow<'a, str>],
    raw: &'a str,
    quoted: bool,
    input: &'r CsvInput,
}

impl Record<'_, '_> {
    /// Writes all its fields.
    pub(super) fn write(&self, output: &Output, out: &mut Vec<u8>) -> Result<(), Error> {
        if let Output::Csv(csv) = output
            && self.is_plain(csv)
        {
            out.extend_from_slice(self.raw.as_bytes());
            output.end(out);
            return Ok(());
        }
        let values = self.fields.iter().enumerate().map(|(number, field)| {
            let name = match self.names.and_then(|names| names.get(number)) {
                Some(name) => Cow::Borrowed(&name[..]),
                None => Cow::Owned(format!("_{}", number + 1)),
            };
            (name, Value::Field(Cow::Borrowed(&field[..])))
        });
        output.write(values, out)
    }

    /// Whether it is written as it stands there.
    fn is_plain(&self, output: &CsvOutput) -> bool {
        let bytes = self.raw.as_bytes();
        let clean = |byte: Option<u8>| byte.is_none_or(|byte| memchr(byte, bytes).is_none());
        !self.quoted
            && !output.always
            && output.field == self.input.field
            && output.record[0] == b'\n'
            && self.input.record == b"\n"
            && clean(output.quote)
            && clean(Some(b'\r'))
    }
}

/// What is done with each record; false ends the reading.
pub(super) type Each<'e, 'a> = dyn FnMut(&[Value<'a>], &Record<'_, 'a>) -> Result<bool, Error> + 'e;

/// Reads records.
pub(super) struct Reader<'c> {
    pub(super) input: &'c CsvInput,
    pub(super) names: Option<&'c [String]>,
    pub(super) columns: &'c Columns,
    /// Whether all fields are wanted.
    pub(super) all: bool,
}

impl Reader<'_> {
    /// Gives each record of a text to `each`. False when that has seen enough.
    pub(super) fn read<'a>(&self, text: &'a str, each: &mut Each<'_, 'a>) -> Result<bool, Error> {
        let bytes = text.as_bytes();
        let quotes = self.input.quote.is_some_and(|quote| memchr(quote, bytes).is_some());
        let needed = if self.all { FIELDS_MAX } else { self.columns.needed };
        let (mut fields, mut values) = (Vec::new(), Vec::with_capacity(self.columns.places.len()));
        let finder = memmem::Finder::new(&self.input.record);
        let mut at = 0;
        while at < text.len() {
            fields.clear();
            let (end, next) = if quotes {
                quoted_fields(text, at, self.input, needed, &mut fields)?
            } else {
                let end = match &self.input.record[..] {
                    [byte] => memchr(*byte, &bytes[at..]),
                    _ => finder.find(&bytes[at..]),
                };
                let end = end.map_or(text.len(), |end| at + end);
                let next = (end + self.input.record.len()).min(text.len());
                let end = stripped(bytes, at, end, self.input);
                plain_fields(&text[at..end], self.input, needed, &mut fields);
                (end, next)
            };
            let raw = &text[at..end];
            let record = at..next;
            at = next;
            if raw.is_empty() || self.input.comment.is_some_and(|comment| raw.as_bytes()[0] == comment) {
                continue;
            }
            if record.len() > RECORD_BYTES_MAX + self.input.record.len() {
                return Err(Error::new("OverMaxRecordSize", "a record of the object has more than 1 MiB"));
            }
            values.clear();
            values.extend(self.columns.places.iter().map(|place| match place {
                Place::Field(number) => {
                    fields.get(*number).map_or(Value::Missing, |field: &Cow<'a, str>| Value::Field(field.clone()))
                }
                Place::Whole => Value::Text(Cow::Borrowed(raw)),
                Place::Nowhere => Value::Missing,
            }));
            let record = Record { names: self.names, fields: &fields, raw, quoted: quotes, input: self.input };
            if !each(&values, &record)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// The end without the carriage return that belongs to a line feed.
fn stripped(bytes: &[u8], at: usize, end: usize, input: &CsvInput) -> usize {
    let carriage = input.record == b"\n" && end > at && bytes[end - 1] == b'\r';
    end - usize::from(carriage)
}

fn plain_fields<'a>(record: &'a str, input: &CsvInput, needed: usize, fields: &mut Vec<Cow<'a, str>>) {
    let mut rest = record;
    while fields.len() < needed {
        let end = match &input.field[..] {
            [byte] => memchr(*byte, rest.as_bytes()),
            more => memmem::find(rest.as_bytes(), more),
        };
        match end {
            Some(end) => {
                fields.push(Cow::Borrowed(&rest[..end]));
                rest = &rest[end + input.field.len()..];
            }
            None => {
                fields.push(Cow::Borrowed(rest));
                return;
            }
        }
    }
}

/// The fields of the record at `at`; its end, and where the next begins.
fn quoted_fields<'a>(
    text: &'a str,
    at: usize,
    input: &CsvInput,
    needed: usize,
    fields: &mut Vec<Cow<'a, str>>,
) -> Result<(usize, usize), Error> {
    let bytes = text.as_bytes();
    // A delimiter of records ends one even in quotes, unless it is allowed there.
    let line = if input.quoted_records {
        text.len()
    } else {
        memmem::find(&bytes[at..], &input.record).map_or(text.len(), |end| at + end)
    };
    let comment = input.comment.is_some_and(|comment| bytes[at] == comment);
    if comment {
        let end = memmem::find(&bytes[at..], &input.record).map_or(text.len(), |end| at + end);
        return Ok((stripped(bytes, at, end, input), (end + input.record.len()).min(text.len())));
    }
    let mut position = at;
    loop {
        let (field, end) = field(text, position, line, input);
        let plain = end > position && Some(bytes[position]) != input.quote;
        let kept = fields.len() < needed;
        if kept {
            fields.push(field);
        }
        if bytes[end..line].starts_with(&input.field) {
            position = end + input.field.len();
            continue;
        }
        let stop = if end < line { end } else { line };
        // Without quotes around it, the last field holds the carriage return.
        let stripped = stripped(bytes, at, stop, input);
        if stripped < stop
            && plain
            && kept
            && let Some(Cow::Borrowed(last)) = fields.last_mut()
        {
            *last = last.strip_suffix('\r').unwrap_or(last);
        }
        return Ok((stripped, (stop + input.record.len()).min(text.len())));
    }
}

/// The field at `at`, and where it ends.
fn field<'a>(text: &'a str, at: usize, line: usize, input: &CsvInput) -> (Cow<'a, str>, usize) {
    let bytes = text.as_bytes();
    let quote = input.quote.filter(|quote| at < line && bytes[at] == *quote);
    let Some(quote) = quote else {
        let end = plain_end(bytes, at, line, input);
        return (Cow::Borrowed(&text[at..end]), end);
    };
    let escape = input.escape.unwrap_or(quote);
    let (mut position, mut start, mut owned) = (at + 1, at + 1, None::<String>);
    loop {
        if position >= line {
            // The quote is not closed: the rest of the line is the field.
            let rest = &text[start..line];
            return (joined(owned, rest), line);
        }
        let byte = bytes[position];
        let next = bytes[..line].get(position + 1).copied();
        if byte == escape && (next == Some(quote) || (escape != quote && next == Some(escape))) {
            let known = owned.get_or_insert_default();
            known.push_str(&text[start..position]);
            start = position + 1;
            position += 2;
        } else if byte == quote {
            let inner = joined(owned, &text[start..position]);
            let end = plain_end(bytes, position + 1, line, input);
            let after = &text[position + 1..end];
            // What follows a closing quote belongs to the field, except the end of the line.
            return match after.trim_end_matches('\r') {
                "" => (inner, end),
                more => (Cow::Owned(inner.into_owned() + more), end),
            };
        } else {
            position += 1;
        }
    }
}

fn joined<'a>(owned: Option<String>, rest: &'a str) -> Cow<'a, str> {
    match owned {
        None => Cow::Borrowed(rest),
        Some(mut owned) => {
            owned.push_str(rest);
            Cow::Owned(owned)
        }
    }
}

/// Where a field without quotes ends.
fn plain_end(bytes: &[u8], at: usize, line: usize, input: &CsvInput) -> usize {
    let rest = &bytes[at..line];
    if !input.quoted_records {
        return at + memmem::find(rest, &input.field).unwrap_or(rest.len());
    }
    // The rest may be long: the nearer of the two is looked for first.
    if let ([field], [record]) = (&input.field[..], &input.record[..]) {
        return at + memchr2(*field, *record, rest).unwrap_or(rest.len());
    }
    let record = memmem::find(rest, &input.record).unwrap_or(rest.len());
    at + memmem::find(&rest[..record], &input.field).unwrap_or(record)
}

/// The end of the last whole record; the bytes begin with a record.
pub(super) fn whole(bytes: &[u8], input: &CsvInput) -> usize {
    let quoted = input.quoted_records && input.quote.is_some_and(|quote| memchr(quote, bytes).is_some());
    if !quoted {
        return memmem::rfind(bytes, &input.record).map_or(0, |at| at + input.record.len());
    }
    whole_quoted(bytes, input, usize::MAX)
}

/// The end of the first record.
pub(super) fn first(bytes: &[u8], input: &CsvInput) -> Option<usize> {
    let end = if input.quoted_records {
        whole_quoted(bytes, input, 1)
    } else {
        memmem::find(bytes, &input.record).map_or(0, |at| at + input.record.len())
    };
    (end > 0).then_some(end)
}

/// Goes over at most `count` records whose delimiter may stand in quotes.
fn whole_quoted(bytes: &[u8], input: &CsvInput, count: usize) -> usize {
    let (mut at, mut end, mut records) = (0, 0, 0);
    let (mut field_start, mut in_quotes) = (true, false);
    let quote = input.quote;
    let escape = input.escape.or(quote);
    while at < bytes.len() && records < count {
        let byte = bytes[at];
        if in_quotes {
            let next = bytes.get(at + 1).copied();
            if Some(byte) == escape && (next == quote || (escape != quote && next == escape)) {
                at += 2;
                continue;
            }
            in_quotes = Some(byte) != quote;
            at += 1;
        } else if field_start && Some(byte) == quote {
            (in_quotes, field_start) = (true, false);
            at += 1;
        } else if bytes[at..].starts_with(&input.record) {
            at += input.record.len();
            (end, field_start) = (at, true);
            records += 1;
        } else if bytes[at..].starts_with(&input.field) {
            at += input.field.len();
            field_start = true;
        } else if at == end && Some(byte) == input.comment {
            // Quotes mean nothing in a comment.
            let Some(line) = memmem::find(&bytes[at..], &input.record) else { return end };
            at += line;
        } else {
            field_start = false;
            at += 1;
        }
    }
    end
}

/// The names in a header, as statements in SQL and indexes have them.
pub(super) fn names(line: &str, input: &CsvInput) -> Result<Vec<String>, Error> {
    let columns = Columns { places: Vec::new(), needed: 0 };
    let without_comments = CsvInput { comment: None, ..input.clone() };
    let mut names = Vec::new();
    let reader = Reader { input: &without_comments, names: None, columns: &columns, all: true };
    reader.read(line, &mut |_, record| {
        names = column_names(record.fields.iter().map(|field| &field[..]));
        Ok(false)
    })?;
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(text: &str, input: &CsvInput) -> Vec<Vec<String>> {
        let columns = Columns { places: Vec::new(), needed: 0 };
        let mut found = Vec::new();
        let reader = Reader { input, names: None, columns: &columns, all: true };
        let read = reader.read(text, &mut |_, record| {
            found.push(record.fields.iter().map(|field| field.clone().into_owned()).collect());
            Ok(true)
        });
        assert!(read.unwrap());
        found
    }

    #[test]
    fn records_are_cut_into_fields() {
        let plain = CsvInput::default();
        let check = |text: &str, input: &CsvInput, expected: &[&[&str]]| {
            assert_eq!(records(text, input), expected, "{text:?}");
        };
        check("a,b\r\nc,\n\n#x,y\n,d", &plain, &[&["a", "b"], &["c", ""], &["", "d"]]);
        check("\"a,1\",\"b\"\"c\"\r\nd\"e,f\n", &plain, &[&["a,1", "b\"c"], &["d\"e", "f"]]);
        check("\"a\nb\",c\n", &plain, &[&["a"], &["b\"", "c"]]);
        let quoted = CsvInput { quoted_records: true, ..CsvInput::default() };
        check("\"a\nb\",c\r\nd,\"e\"\n", &quoted, &[&["a\nb", "c"], &["d", "e"]]);
        let odd = CsvInput {
            field: b"::".to_vec(),
            record: b"|".to_vec(),
            quote: Some(b'\''),
            escape: Some(b'\\'),
            comment: None,
            ..CsvInput::default()
        };
        check("a::'b|c\\'d\\\\'|#e::f", &odd, &[&["a", "b"], &["c\\'d\\\\'"], &["#e", "f"]]);
        check("a::'b\\'d\\\\::'|#e::f", &odd, &[&["a", "b'd\\::"], &["#e", "f"]]);
        let bare = CsvInput { quote: None, escape: None, ..CsvInput::default() };
        check("\"a,b\"\n", &bare, &[&["\"a", "b\""]]);
    }

    #[test]
    fn whole_records_end_where_they_are_cut() {
        let quoted = CsvInput { quoted_records: true, ..CsvInput::default() };
        assert_eq!(whole(b"a,\"b\nc\"\nd,\"e\n", &quoted), 8);
        assert_eq!(whole(b"a,\"b\nc\"\nd,\"e\n", &CsvInput::default()), 13);
        assert_eq!(first(b"\"a\nb\"\nc\n", &quoted), Some(6));
        assert_eq!(first(b"abc", &CsvInput::default()), None);
        assert_eq!(whole(b"#\"\na\nb", &quoted), 5);
    }

    #[test]
    fn columns_are_found_by_name_and_number() {
        let column = |name: &str, quoted| Column {
            steps: vec![super::super::syntax::Step::Name { name: name.to_owned(), quoted }],
        };
        let names = ["Id".to_owned(), "id".to_owned(), "x y".to_owned()];
        let input = CsvInput { header: Header::Use, ..CsvInput::default() };
        let place = |column: &Column| place(column, &input, Some(&names), true);
        assert_eq!(place(&column("id", false)).unwrap(), Place::Field(1));
        assert_eq!(place(&column("ID", false)).unwrap(), Place::Field(0));
        assert_eq!(place(&column("X Y", false)).unwrap(), Place::Field(2));
        assert_eq!(place(&column("X Y", true)).unwrap_err().code, "MissingHeaders");
        assert_eq!(place(&column("_3", false)).unwrap(), Place::Field(2));
        let error = super::place(&column("id", false), &CsvInput::default(), None, true).unwrap_err();
        assert_eq!(error.code, "EvaluatorBindingDoesNotExist");
    }
}
