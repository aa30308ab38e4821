//! JSON rows: where they end, what shape they have, and their columns.
//!
//! A row is an object. Rows stand in a stream (one a line, or one after the other, of any layout), in an array, or alone.
//! Numbers are never bent: an integer column takes no fraction, and text keeps the digits that were written.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanBuilder, Date32Builder, Decimal128Builder, Float64Builder, Int64Builder, ListArray,
    NullBufferBuilder, StringViewBuilder, StructArray, TimestampMicrosecondBuilder,
};
use arrow::buffer::{OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, FieldRef, Fields};
use arrow::error::ArrowError;
use holdfast_core::index::Value;

use super::super::shape::{LEVELS_MAX, Members, Shape, is_mixed};

/// Levels of nesting of a value.
const DEPTH_MAX: usize = 128;

/// Finds the ends of rows in bytes that come in pieces.
#[derive(Clone, Debug, Default)]
pub(super) struct Ends {
    depth: usize,
    in_string: bool,
    escaped: bool,
    /// Brackets around the rows.
    open: i64,
}

impl Ends {
    /// The end of the last row in the next piece, or of the first one.
    pub(super) fn scan(&mut self, bytes: &[u8], first: bool) -> Option<usize> {
        let (mut end, mut at) = (None, 0);
        while at < bytes.len() {
            if self.in_string {
                if self.escaped {
                    self.escaped = false;
                    at += 1;
                    continue;
                }
                let Some(next) = memchr::memchr2(b'"', b'\\', &bytes[at..]) else { break };
                self.escaped = bytes[at + next] == b'\\';
                self.in_string = self.escaped;
                at += next + 1;
                continue;
            }
            match bytes[at] {
                b'"' => self.in_string = true,
                b'[' if self.depth == 0 => self.open += 1,
                b']' if self.depth == 0 => self.open -= 1,
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == 0 {
                        end = Some(at + 1);
                        if first {
                            return end;
                        }
                    }
                }
                _ => {}
            }
            at += 1;
        }
        end
    }

    /// Whether everything that was opened was closed.
    pub(super) fn closed(&self) -> bool {
        self.depth == 0 && !self.in_string && self.open == 0
    }
}

/// What is wrong with a row.
#[derive(Debug, PartialEq)]
pub(super) enum Fault {
    /// It is no JSON.
    Syntax(&'static str),
    /// A value that its column does not hold; the path is reversed.
    Contradiction { path: Vec<String>, found: String, wanted: String },
    /// A member that has no column.
    Unknown { path: Vec<String> },
    /// A member that stands twice.
    Twice { path: Vec<String> },
}

impl Fault {
    fn under(mut self, name: &str) -> Self {
        match &mut self {
            Self::Syntax(_) => {}
            Self::Contradiction { path, .. } | Self::Unknown { path } | Self::Twice { path } => {
                path.push(name.to_owned());
            }
        }
        self
    }
}

/// A place in text.
pub(super) struct Cursor<'a> {
    text: &'a str,
    at: usize,
    unescaped: String,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0, unescaped: String::new() }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn blank(&mut self) -> Option<u8> {
        while let Some(byte) = self.peek() {
            if !matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
                return Some(byte);
            }
            self.at += 1;
        }
        None
    }

    /// Whether a row follows. What stands between rows is stepped over.
    pub(super) fn more(&mut self) -> Result<bool, Fault> {
        while let Some(byte) = self.blank() {
            match byte {
                b'{' => return Ok(true),
                b',' | b'[' | b']' | 0x1e => self.at += 1,
                _ => return Err(Fault::Syntax("a row is a JSON object")),
            }
        }
        Ok(false)
    }

    fn expect(&mut self, wanted: u8, why: &'static str) -> Result<(), Fault> {
        if self.blank() != Some(wanted) {
            return Err(Fault::Syntax(why));
        }
        self.at += 1;
        Ok(())
    }

    /// After a member: whether another follows.
    fn another(&mut self, close: u8) -> Result<bool, Fault> {
        match self.blank() {
            Some(b',') => {
                self.at += 1;
                Ok(true)
            }
            Some(byte) if byte == close => {
                self.at += 1;
                Ok(false)
            }
            _ => Err(Fault::Syntax("a value is followed by a comma or a closing bracket")),
        }
    }

    /// Steps into an object or an array: whether it holds anything.
    fn enter(&mut self, close: u8) -> bool {
        self.at += 1;
        let holds = self.blank() != Some(close);
        if !holds {
            self.at += 1;
        }
        holds
    }

    fn raw_string(&mut self) -> Result<(&'a str, bool), Fault> {
        self.expect(b'"', "a name is a string")?;
        let (from, mut escapes) = (self.at, false);
        loop {
            let rest = self.text.as_bytes().get(self.at..).unwrap_or_default();
            let next = memchr::memchr2(b'"', b'\\', rest).ok_or(Fault::Syntax("a string does not end"))?;
            self.at += next + 1;
            if rest[next] == b'"' {
                return Ok((&self.text[from..self.at - 1], escapes));
            }
            escapes = true;
            self.at += 1;
        }
    }

    /// A string; the result lives until the next one.
    fn string(&mut self) -> Result<&str, Fault> {
        let (raw, escapes) = self.raw_string()?;
        if !escapes {
            return Ok(raw);
        }
        unescape(raw, &mut self.unescaped)?;
        Ok(&self.unescaped)
    }

    fn number(&mut self) -> Result<&'a str, Fault> {
        let from = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E')) {
            self.at += 1;
        }
        let text = &self.text[from..self.at];
        let digits = text.strip_prefix('-').unwrap_or(text).as_bytes();
        let lead = matches!(digits, [b'0', b'0'..=b'9', ..]) || !matches!(digits.first(), Some(b'0'..=b'9'));
        if lead || digits.last() == Some(&b'.') || text.parse::<f64>().is_err() {
            return Err(Fault::Syntax("a value is no number"));
        }
        Ok(text)
    }

    fn literal(&mut self) -> Result<&'static str, Fault> {
        for word in ["null", "true", "false"] {
            if self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
                self.at += word.len();
                return Ok(word);
            }
        }
        Err(Fault::Syntax("a value is neither a literal, nor a number, a string, an array or an object"))
    }

    /// The text of a value of any kind.
    fn any(&mut self, depth: usize) -> Result<&'a str, Fault> {
        if depth > DEPTH_MAX {
            return Err(Fault::Syntax("a value is nested more than 128 levels deep"));
        }
        let first = self.blank().ok_or(Fault::Syntax("a value is missing"))?;
        let from = self.at;
        match first {
            b'"' => drop(self.raw_string()?),
            b'-' | b'0'..=b'9' => drop(self.number()?),
            b'{' if self.enter(b'}') => loop {
                self.raw_string()?;
                self.expect(b':', "a name is followed by a colon")?;
                self.any(depth + 1)?;
                if !self.another(b'}')? {
                    break;
                }
            },
            b'[' if self.enter(b']') => loop {
                self.any(depth + 1)?;
                if !self.another(b']')? {
                    break;
                }
            },
            b'{' | b'[' => {}
            _ => drop(self.literal()?),
        }
        Ok(&self.text[from..self.at])
    }

    /// The shape of a value.
    fn shape(&mut self, depth: usize) -> Result<Shape, Fault> {
        match self.blank().ok_or(Fault::Syntax("a value is missing"))? {
            b'"' => self.raw_string().map(|_| Shape::Text),
            b'-' | b'0'..=b'9' => self.number().map(shape_of_number),
            b'{' | b'[' if depth > LEVELS_MAX => self.any(depth).map(|_| Shape::Mixed),
            b'{' => self.members(depth).map(Shape::Struct),
            b'[' => {
                let mut item = Shape::Null;
                if self.enter(b']') {
                    loop {
                        item = item.merge(self.shape(depth + 1)?);
                        if !self.another(b']')? {
                            break;
                        }
                    }
                }
                Ok(Shape::List(Box::new(item)))
            }
            _ => self.literal().map(|word| if word == "null" { Shape::Null } else { Shape::Bool }),
        }
    }

    /// The members of an object.
    fn members(&mut self, depth: usize) -> Result<Members, Fault> {
        let mut members = Members::default();
        if self.enter(b'}') {
            loop {
                let name = self.string()?.to_owned();
                self.expect(b':', "a name is followed by a colon")?;
                members.merge(&name, self.shape(depth + 1)?);
                if !self.another(b'}')? {
                    break;
                }
            }
        }
        Ok(members)
    }

    /// The shape of the row that follows.
    pub(super) fn row_shape(&mut self) -> Result<Members, Fault> {
        self.members(0)
    }
}

fn shape_of_number(text: &str) -> Shape {
    if text.contains(['.', 'e', 'E']) {
        return Shape::Float;
    }
    match Shape::of_digits(text, text.trim_start_matches('-').len()) {
        // More digits than any number type keeps: as text they stay.
        Shape::Text => Shape::Mixed,
        shape => shape,
    }
}

fn unescape(raw: &str, out: &mut String) -> Result<(), Fault> {
    const WRONG: Fault = Fault::Syntax("a string has an escape that is none");
    out.clear();
    let mut rest = raw;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let escape = rest[at + 1..].chars().next().ok_or(WRONG)?;
        let mut used = at + 1 + escape.len_utf8();
        out.push(match escape {
            '"' | '\\' | '/' => escape,
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => {
                let unit = hex(rest, used).ok_or(WRONG)?;
                used += 4;
                if (0xd800..0xdc00).contains(&unit) && rest[used..].starts_with("\\u") {
                    let low = hex(rest, used + 2).filter(|low| (0xdc00..0xe000).contains(low)).ok_or(WRONG)?;
                    used += 6;
                    char::from_u32(0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00)).ok_or(WRONG)?
                } else {
                    // Half of a pair is no character.
                    char::from_u32(unit).ok_or(WRONG)?
                }
            }
            _ => return Err(WRONG),
        });
        rest = &rest[used..];
    }
    out.push_str(rest);
    Ok(())
}

fn hex(text: &str, at: usize) -> Option<u32> {
    let digits = text.get(at..at + 4)?;
    digits.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| u32::from_str_radix(digits, 16).ok())?
}

/// Builds the columns of rows.
pub(super) struct Rows {
    members: StructColumn,
    strict: bool,
}

impl Rows {
    /// `strict` refuses a member that has no column.
    pub(super) fn new(fields: &Fields, strict: bool) -> Self {
        Self { members: StructColumn::new(fields), strict }
    }

    /// Appends the row that follows.
    pub(super) fn append(&mut self, cursor: &mut Cursor<'_>) -> Result<(), Fault> {
        self.members.append(cursor, self.strict, 0)
    }

    pub(super) fn finish(self) -> Result<Vec<ArrayRef>, ArrowError> {
        self.members.columns.into_iter().map(Column::finish).collect()
    }
}

struct StructColumn {
    fields: Fields,
    places: HashMap<String, usize>,
    columns: Vec<Column>,
    valid: NullBufferBuilder,
    rows: usize,
}

enum Column {
    Bool(BooleanBuilder),
    Int(Int64Builder),
    Big(Decimal128Builder),
    Float(Float64Builder),
    Date(Date32Builder),
    Time(TimestampMicrosecondBuilder),
    Text(StringViewBuilder),
    Mixed(StringViewBuilder),
    List { item: Box<Column>, field: FieldRef, offsets: Vec<i32>, valid: NullBufferBuilder },
    Struct(StructColumn),
}

impl StructColumn {
    fn new(fields: &Fields) -> Self {
        Self {
            fields: fields.clone(),
            places: fields.iter().enumerate().map(|(place, field)| (field.name().clone(), place)).collect(),
            columns: fields.iter().map(|field| Column::new(field)).collect(),
            valid: NullBufferBuilder::new(0),
            rows: 0,
        }
    }

    fn append(&mut self, cursor: &mut Cursor<'_>, strict: bool, depth: usize) -> Result<(), Fault> {
        // Members mostly stand in the order of the row before.
        let mut expected = 0;
        if cursor.enter(b'}') {
            loop {
                let name = cursor.string()?;
                let place = match self.fields.get(expected) {
                    Some(field) if field.name() == name => Some(expected),
                    _ => self.places.get(name).copied(),
                };
                if place.is_none() && strict {
                    return Err(Fault::Unknown { path: vec![name.to_owned()] });
                }
                cursor.expect(b':', "a name is followed by a colon")?;
                if let Some(place) = place {
                    expected = place + 1;
                    let column = &mut self.columns[place];
                    let name = self.fields[place].name();
                    if column.len() > self.rows {
                        return Err(Fault::Twice { path: vec![name.clone()] });
                    }
                    column.append(cursor, depth + 1).map_err(|fault| fault.under(name))?;
                } else {
                    cursor.any(depth + 1)?;
                }
                if !cursor.another(b'}')? {
                    break;
                }
            }
        }
        self.complete(true);
        Ok(())
    }

    /// Ends a row; what it left out is null.
    fn complete(&mut self, valid: bool) {
        for column in &mut self.columns {
            if column.len() == self.rows {
                column.append_null();
            }
        }
        self.valid.append(valid);
        self.rows += 1;
    }
}

impl Column {
    fn new(field: &Field) -> Self {
        match field.data_type() {
            DataType::Boolean => Self::Bool(BooleanBuilder::new()),
            DataType::Int64 => Self::Int(Int64Builder::new()),
            DataType::Float64 => Self::Float(Float64Builder::new()),
            DataType::Date32 => Self::Date(Date32Builder::new()),
            kind @ DataType::Decimal128(..) => Self::Big(Decimal128Builder::new().with_data_type(kind.clone())),
            kind @ DataType::Timestamp(..) => {
                Self::Time(TimestampMicrosecondBuilder::new().with_data_type(kind.clone()))
            }
            DataType::List(item) => Self::List {
                item: Box::new(Self::new(item)),
                field: Arc::clone(item),
                offsets: vec![0],
                valid: NullBufferBuilder::new(0),
            },
            DataType::Struct(fields) => Self::Struct(StructColumn::new(fields)),
            _ if is_mixed(field) => Self::Mixed(StringViewBuilder::new()),
            _ => Self::Text(StringViewBuilder::new()),
        }
    }

    fn len(&self) -> usize {
        use arrow::array::ArrayBuilder;
        match self {
            Self::Bool(builder) => builder.len(),
            Self::Int(builder) => builder.len(),
            Self::Big(builder) => builder.len(),
            Self::Float(builder) => builder.len(),
            Self::Date(builder) => builder.len(),
            Self::Time(builder) => builder.len(),
            Self::Text(builder) | Self::Mixed(builder) => builder.len(),
            Self::List { offsets, .. } => offsets.len() - 1,
            Self::Struct(members) => members.rows,
        }
    }

    fn append_null(&mut self) {
        match self {
            Self::Bool(builder) => builder.append_null(),
            Self::Int(builder) => builder.append_null(),
            Self::Big(builder) => builder.append_null(),
            Self::Float(builder) => builder.append_null(),
            Self::Date(builder) => builder.append_null(),
            Self::Time(builder) => builder.append_null(),
            Self::Text(builder) | Self::Mixed(builder) => builder.append_null(),
            Self::List { offsets, valid, .. } => {
                offsets.push(offsets.last().copied().unwrap_or_default());
                valid.append_null();
            }
            Self::Struct(members) => members.complete(false),
        }
    }

    fn append(&mut self, cursor: &mut Cursor<'_>, depth: usize) -> Result<(), Fault> {
        if depth > DEPTH_MAX {
            return Err(Fault::Syntax("a value is nested more than 128 levels deep"));
        }
        let first = cursor.blank().ok_or(Fault::Syntax("a value is missing"))?;
        if first == b'n' {
            cursor.literal()?;
            self.append_null();
            return Ok(());
        }
        match (self, first) {
            (Self::Mixed(builder), b'"') => builder.append_value(cursor.string()?),
            (Self::Mixed(builder), _) => builder.append_value(cursor.any(depth)?),
            (Self::Text(builder), b'"') => builder.append_value(cursor.string()?),
            (Self::Text(builder), b'-' | b'0'..=b'9') => builder.append_value(cursor.number()?),
            (Self::Text(builder), b't' | b'f') => builder.append_value(cursor.literal()?),
            (Self::Bool(builder), b't' | b'f') => builder.append_value(cursor.literal()? == "true"),
            (Self::Int(builder), b'-' | b'0'..=b'9') => {
                let number = cursor.number()?;
                builder.append_value(number.parse().map_err(|_| contradiction(number, "a 64-bit integer"))?);
            }
            (Self::Big(builder), b'-' | b'0'..=b'9') => {
                let number = cursor.number()?;
                let wide: Option<i128> = number.parse().ok().filter(|_| number.trim_start_matches('-').len() <= 38);
                builder.append_value(wide.ok_or_else(|| contradiction(number, "an integer of 38 digits"))?);
            }
            (Self::Float(builder), b'-' | b'0'..=b'9') => {
                let number = cursor.number()?;
                builder.append_value(number.parse().map_err(|_| contradiction(number, "a number"))?);
            }
            (Self::Date(builder), b'"') => {
                let text = cursor.string()?;
                builder.append_value(day(text).ok_or_else(|| contradiction(text, "a date"))?);
            }
            (Self::Time(builder), b'"') => {
                let text = cursor.string()?;
                builder.append_value(micros(text).ok_or_else(|| contradiction(text, "a time"))?);
            }
            (Self::List { item, offsets, valid, .. }, b'[') => append_list(cursor, item, offsets, valid, depth)?,
            (Self::Struct(members), b'{') => members.append(cursor, true, depth)?,
            (column, _) => return Err(contradiction(cursor.any(depth)?, column.wanted())),
        }
        Ok(())
    }

    fn wanted(&self) -> &'static str {
        match self {
            Self::Bool(_) => "a boolean",
            Self::Int(_) => "a 64-bit integer",
            Self::Big(_) => "an integer of 38 digits",
            Self::Float(_) => "a number",
            Self::Date(_) => "a date",
            Self::Time(_) => "a time",
            Self::Text(_) | Self::Mixed(_) => "a string",
            Self::List { .. } => "an array",
            Self::Struct(_) => "an object",
        }
    }

    fn finish(self) -> Result<ArrayRef, ArrowError> {
        Ok(match self {
            Self::Bool(mut builder) => Arc::new(builder.finish()),
            Self::Int(mut builder) => Arc::new(builder.finish()),
            Self::Big(mut builder) => Arc::new(builder.finish()),
            Self::Float(mut builder) => Arc::new(builder.finish()),
            Self::Date(mut builder) => Arc::new(builder.finish()),
            Self::Time(mut builder) => Arc::new(builder.finish()),
            Self::Text(mut builder) | Self::Mixed(mut builder) => Arc::new(builder.finish()),
            Self::List { item, field, offsets, mut valid } => {
                let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
                Arc::new(ListArray::try_new(field, offsets, item.finish()?, valid.finish())?)
            }
            Self::Struct(mut members) => {
                let columns: Result<Vec<ArrayRef>, _> = members.columns.into_iter().map(Self::finish).collect();
                Arc::new(StructArray::try_new(members.fields, columns?, members.valid.finish())?)
            }
        })
    }
}

fn append_list(
    cursor: &mut Cursor<'_>,
    item: &mut Column,
    offsets: &mut Vec<i32>,
    valid: &mut NullBufferBuilder,
    depth: usize,
) -> Result<(), Fault> {
    if cursor.enter(b']') {
        loop {
            item.append(cursor, depth + 1).map_err(|fault| fault.under("[]"))?;
            if !cursor.another(b']')? {
                break;
            }
        }
    }
    offsets.push(i32::try_from(item.len()).map_err(|_| Fault::Syntax("the arrays of a batch are too long"))?);
    valid.append_non_null();
    Ok(())
}

fn micros(text: &str) -> Option<i64> {
    match Value::canonical(text) {
        Value::Time(micros) => Some(micros),
        _ => None,
    }
}

/// Days of the Unix epoch.
fn day(text: &str) -> Option<i32> {
    let micros = micros(text).filter(|_| text.trim().len() == 10)?;
    i32::try_from(micros.div_euclid(86_400_000_000)).ok()
}

/// Characters of a value in a message.
const SHOWN_MAX: usize = 60;

fn contradiction(found: &str, wanted: &str) -> Fault {
    let shown = match found.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("{}…", &found[..end]),
        None => found.to_owned(),
    };
    Fault::Contradiction { path: Vec::new(), found: shown, wanted: wanted.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(text: &str, strict: bool) -> Result<String, Fault> {
        let mut shapes = Members::default();
        let mut cursor = Cursor::new(text);
        while cursor.more()? {
            shapes.merge_all(cursor.row_shape()?);
        }
        let fields = shapes.fields();
        decoded(text, &fields, strict)
    }

    fn decoded(text: &str, fields: &Fields, strict: bool) -> Result<String, Fault> {
        let (mut rows, mut cursor) = (Rows::new(fields, strict), Cursor::new(text));
        while cursor.more()? {
            rows.append(&mut cursor)?;
        }
        let columns = rows.finish().unwrap();
        let options = arrow::util::display::FormatOptions::default().with_null("null");
        let shown = fields.iter().zip(&columns).map(|(field, column)| {
            let shown = arrow::util::display::ArrayFormatter::try_new(column.as_ref(), &options).unwrap();
            let values: Vec<String> = (0..column.len()).map(|row| shown.value(row).to_string()).collect();
            format!("{}={}", field.name(), values.join("|"))
        });
        Ok(shown.collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn rows_become_columns() {
        let check = |text: &str, expected: &str| assert_eq!(rows(text, true).unwrap(), expected, "{text}");
        check(r#"{"a":1}{"b":"x","a":2}"#, "a=1|2 b=null|x");
        check("[{\"a\":1.5},\n {\"a\":2}]", "a=1.5|2.0");
        check(r#"{"a":1} {"a":"x"} {"a":true} {"a":1.50}"#, "a=1|x|true|1.50");
        check(r#"{"a":18446744073709551616}"#, "a=18446744073709551616");
        check(
            r#"{"a":{"b":[1,null],"c":{}}} {"a":null} {"a":{"b":[]}}"#,
            "a={b: [1, null], c: {}}|null|{b: [], c: null}",
        );
        check(r#"{"a":[1]}{"a":{"b":2}}{"a":"x"}{"a":3}"#, r#"a=[1]|{"b":2}|x|3"#);
        check(r#"{"a\u00e9\ud83d\ude00":"\n\"\\"}"#, "aé😀=\n\"\\");
        check(r#"{"a":0,"b":-0.5e-3}"#, "a=0 b=-0.0005");
        check("", "");
    }

    #[test]
    fn a_value_that_its_column_does_not_hold_is_a_fault() {
        let field = |name: &str, kind: DataType| Field::new(name, kind, true);
        let inner = Fields::from(vec![field("b", DataType::Int64)]);
        let fields = Fields::from(vec![
            field("a", DataType::Struct(inner)),
            field("i", DataType::Int64),
            field("l", DataType::List(Arc::new(field("item", DataType::Boolean)))),
            field("d", DataType::Date32),
        ]);
        let check = |text: &str, expected: &[&str]| match decoded(text, &fields, true).unwrap_err() {
            Fault::Contradiction { path, .. } | Fault::Unknown { path } | Fault::Twice { path } => {
                assert_eq!(path, expected, "{text}");
            }
            Fault::Syntax(why) => panic!("{text}: {why}"),
        };
        check(r#"{"i":1.5}"#, &["i"]);
        check(r#"{"i":"1"}"#, &["i"]);
        check(r#"{"i":9223372036854775808}"#, &["i"]);
        check(r#"{"a":{"b":true}}"#, &["b", "a"]);
        check(r#"{"a":{"c":1}}"#, &["c", "a"]);
        check(r#"{"z":1}"#, &["z"]);
        check(r#"{"i":1,"i":1}"#, &["i"]);
        check(r#"{"l":[true,0]}"#, &["[]", "l"]);
        check(r#"{"d":"2024-02-30"}"#, &["d"]);
        assert_eq!(
            decoded(r#"{"z":[{"q":1}],"i":1,"d":"1970-01-02"}"#, &fields, false).unwrap(),
            "a=null i=1 l=null d=1970-01-02"
        );
    }

    #[test]
    fn what_is_no_json_is_a_fault() {
        for text in [
            "1",
            "{",
            r#"{"a"}"#,
            r#"{"a":}"#,
            r#"{"a":1"#,
            r#"{"a":01}"#,
            r#"{"a":1.}"#,
            r#"{"a":+1}"#,
            r#"{"a":nul}"#,
            r#"{"a":1,}"#,
            r#"{a:1}"#,
            r#"{"a":"\x"}"#,
            r#"{"a":"\ud800"}"#,
            r#"{"a":[1}"#,
            r#"{"a":[1,]}"#,
            "x",
        ] {
            assert!(matches!(rows(text, false), Err(Fault::Syntax(_))), "{text}");
        }
        let deep = format!("{{\"a\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(rows(&deep, false).is_err());
    }

    #[test]
    fn ends_of_rows_are_found_however_the_bytes_are_cut() {
        let text = br#"[{"a":"}]\"{"},
 {"b":[{"c":{}}]} ]"#;
        let ends: Vec<usize> = (0..=text.len())
            .filter(|&cut| {
                let mut whole = Ends::default();
                whole.scan(&text[..cut], false) == Some(cut)
            })
            .collect();
        assert_eq!(ends, [14, 33]);
        for cut in 0..text.len() {
            let mut split = Ends::default();
            let first = split.scan(&text[..cut], false);
            let second = split.scan(&text[cut..], false).map(|end| end + cut);
            assert_eq!(second.or(first), Some(33), "cut at {cut}");
            assert!(split.closed());
        }
    }
}
