//! Records of JSON, in text. Only what a statement names is read; the rest is checked and skipped.

use std::borrow::Cow;

use super::error::Error;
use super::output::{RECORD_BYTES_MAX, compact};
use super::request::Output;
use super::syntax::{Column, Step};
use super::value::{Number, Value};

/// Levels of arrays and objects.
const NESTING_MAX: usize = 128;

fn malformed(at: usize) -> Error {
    Error::new(
        "JSONParsingError",
        format!(
            "Encountered an error parsing the JSON file, {at} bytes into a piece of it. Check the file and try again."
        ),
    )
}

/// Where the value at `at` ends; what stands between is checked.
fn value_end(bytes: &[u8], at: usize, depth: usize) -> Result<usize, Error> {
    match bytes.get(at) {
        Some(b'"') => text_end(bytes, at),
        Some(b'{') => {
            let mut next = None;
            members(bytes, at, depth, &mut |_, _| true, &mut next)?;
            next.ok_or_else(|| malformed(at))
        }
        Some(b'[') => {
            let mut next = None;
            elements(bytes, at, depth, &mut |_| true, &mut next)?;
            next.ok_or_else(|| malformed(at))
        }
        Some(b't') => word_end(bytes, at, b"true"),
        Some(b'f') => word_end(bytes, at, b"false"),
        Some(b'n') => word_end(bytes, at, b"null"),
        Some(b'-' | b'0'..=b'9') => number_end(bytes, at),
        _ => Err(malformed(at)),
    }
}

fn word_end(bytes: &[u8], at: usize, word: &[u8]) -> Result<usize, Error> {
    if bytes[at..].starts_with(word) { Ok(at + word.len()) } else { Err(malformed(at)) }
}

fn number_end(bytes: &[u8], at: usize) -> Result<usize, Error> {
    let digits =
        |from: usize| from + bytes[from.min(bytes.len())..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let whole = at + usize::from(bytes[at] == b'-');
    let mut end = digits(whole);
    let mut good = end > whole && (bytes[whole] != b'0' || end == whole + 1);
    if bytes.get(end) == Some(&b'.') {
        let fraction = digits(end + 1);
        good &= fraction > end + 1;
        end = fraction;
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        let exponent = digits(end + 1 + sign);
        good &= exponent > end + 1 + sign;
        end = exponent;
    }
    if good { Ok(end) } else { Err(malformed(at)) }
}

fn text_end(bytes: &[u8], at: usize) -> Result<usize, Error> {
    let mut position = at + 1;
    loop {
        position += memchr::memchr2(b'"', b'\\', &bytes[position.min(bytes.len())..]).ok_or_else(|| malformed(at))?;
        if bytes[position] == b'"' {
            return Ok(position + 1);
        }
        position += 2;
    }
}

fn space(bytes: &[u8], at: usize) -> usize {
    at + bytes[at.min(bytes.len())..].iter().take_while(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r')).count()
}

/// Goes over the members of the object at `at`: the name with its quotes, and the value. `each` says whether to go on;
/// `next` is where the object ends, when all were seen.
fn members(
    bytes: &[u8],
    at: usize,
    depth: usize,
    each: &mut dyn FnMut(std::ops::Range<usize>, std::ops::Range<usize>) -> bool,
    next: &mut Option<usize>,
) -> Result<(), Error> {
    if depth >= NESTING_MAX {
        return Err(malformed(at));
    }
    let mut position = space(bytes, at + 1);
    if bytes.get(position) == Some(&b'}') {
        *next = Some(position + 1);
        return Ok(());
    }
    loop {
        if bytes.get(position) != Some(&b'"') {
            return Err(malformed(position));
        }
        let name = position..text_end(bytes, position)?;
        position = space(bytes, name.end);
        if bytes.get(position) != Some(&b':') {
            return Err(malformed(position));
        }
        let start = space(bytes, position + 1);
        let end = value_end(bytes, start, depth + 1)?;
        if !each(name, start..end) {
            return Ok(());
        }
        position = space(bytes, end);
        match bytes.get(position) {
            Some(b',') => position = space(bytes, position + 1),
            Some(b'}') => {
                *next = Some(position + 1);
                return Ok(());
            }
            _ => return Err(malformed(position)),
        }
    }
}

/// Goes over the elements of the array at `at`, as [`members`].
fn elements(
    bytes: &[u8],
    at: usize,
    depth: usize,
    each: &mut dyn FnMut(std::ops::Range<usize>) -> bool,
    next: &mut Option<usize>,
) -> Result<(), Error> {
    if depth >= NESTING_MAX {
        return Err(malformed(at));
    }
    let mut position = space(bytes, at + 1);
    if bytes.get(position) == Some(&b']') {
        *next = Some(position + 1);
        return Ok(());
    }
    loop {
        let end = value_end(bytes, position, depth + 1)?;
        if !each(position..end) {
            return Ok(());
        }
        position = space(bytes, end);
        match bytes.get(position) {
            Some(b',') => position = space(bytes, position + 1),
            Some(b']') => {
                *next = Some(position + 1);
                return Ok(());
            }
            _ => return Err(malformed(position)),
        }
    }
}

/// The text of a string, which stands in quotes.
fn unquoted(raw: &str) -> Cow<'_, str> {
    let inner = &raw[1..raw.len() - 1];
    if memchr::memchr(b'\\', inner.as_bytes()).is_none() {
        return Cow::Borrowed(inner);
    }
    serde_json::from_str::<String>(raw).map_or(Cow::Borrowed(inner), Cow::Owned)
}

/// The member that a step names: of several, the last one with exactly this name, else the first with letters of another
/// case.
struct Named<'a> {
    exact: Option<&'a str>,
    /// The name that comes first in the order of names, as indexes take it, with its value.
    alike: Option<(String, &'a str)>,
}

impl<'a> Named<'a> {
    const NONE: Self = Self { exact: None, alike: None };

    fn see(&mut self, wanted: &Step, name: &str, value: &'a str) {
        match wanted {
            Step::Name { name: exact, .. } if exact == name => self.exact = Some(value),
            step if step.names(name) && self.alike.as_ref().is_none_or(|(known, _)| name <= known.as_str()) => {
                self.alike = Some((name.to_owned(), value));
            }
            _ => {}
        }
    }

    fn get(&self) -> Option<&'a str> {
        self.exact.or(self.alike.as_ref().map(|(_, value)| *value))
    }
}

/// What a step leads to, in JSON that was checked.
fn step<'a>(json: &'a str, wanted: &Step) -> Option<&'a str> {
    let bytes = json.as_bytes();
    match (wanted, bytes.first()?) {
        (Step::Name { .. }, b'{') => {
            let mut named = Named::NONE;
            let mut each = |name: std::ops::Range<usize>, value: std::ops::Range<usize>| {
                named.see(wanted, &unquoted(&json[name]), &json[value]);
                true
            };
            members(bytes, 0, 0, &mut each, &mut None).ok()?;
            named.get()
        }
        (Step::Element(number), b'[') => {
            let (mut left, mut found) = (*number, None);
            let mut each = |value: std::ops::Range<usize>| {
                found = (left == 0).then(|| &json[value]);
                left = left.saturating_sub(1);
                found.is_none()
            };
            elements(bytes, 0, 0, &mut each, &mut None).ok()?;
            found
        }
        _ => None,
    }
}

/// What steps lead to.
pub(super) fn follow<'a>(json: &'a str, steps: &[Step]) -> Option<&'a str> {
    steps.iter().try_fold(json, step)
}

/// A JSON value as a value.
pub(super) fn value(json: &str) -> Value<'_> {
    match json.as_bytes().first() {
        Some(b'"') => Value::Text(unquoted(json)),
        Some(b't') => Value::Bool(true),
        Some(b'f') => Value::Bool(false),
        Some(b'{' | b'[') => Value::Nested(Cow::Borrowed(json)),
        Some(b'n') | None => Value::Null,
        Some(_) => Number::parse(json).map_or(Value::Null, |number| match number {
            Number::Decimal(value) => Value::Decimal(value),
            number => number.value(),
        }),
    }
}

/// A record; `None` where the path of `FROM` leads nowhere.
#[derive(Clone, Copy)]
pub(super) struct Record<'a>(Option<&'a str>);

impl<'a> Record<'a> {
    /// The values of the columns.
    fn values(self, columns: &[Column], out: &mut Vec<Value<'a>>) {
        out.clear();
        let Some(json) = self.0 else {
            out.resize(columns.len(), Value::Missing);
            return;
        };
        let mut named: Vec<Named<'a>> = columns.iter().map(|_| Named::NONE).collect();
        if json.starts_with('{') {
            let mut each = |name: std::ops::Range<usize>, range: std::ops::Range<usize>| {
                let name = unquoted(&json[name]);
                for (column, named) in columns.iter().zip(&mut named) {
                    if let Some(step) = column.steps.first() {
                        named.see(step, &name, &json[range.clone()]);
                    }
                }
                true
            };
            // It was checked when its end was looked for.
            let _ = members(json.as_bytes(), 0, 0, &mut each, &mut None);
        }
        out.extend(columns.iter().zip(&named).map(|(column, named)| {
            let Some((first, rest)) = column.steps.split_first() else { return value(json) };
            let first = match (named.get(), first) {
                (Some(member), _) => Some(member),
                // `_1` is the record itself.
                (None, Step::Name { .. }) if column.position() == Some(0) => Some(json),
                (None, first) => step(json, first),
            };
            first.and_then(|first| follow(first, rest)).map_or(Value::Missing, value)
        }));
    }

    /// Writes all of it.
    pub(super) fn write(self, output: &Output, out: &mut Vec<u8>) -> Result<(), Error> {
        let Some(json) = self.0 else { return output.write(std::iter::empty(), out) };
        if !json.starts_with('{') {
            return output.write([(Cow::Borrowed("_1"), value(json))].into_iter(), out);
        }
        if matches!(output, Output::Json(_)) {
            compact(json, out);
            output.end(out);
            return Ok(());
        }
        let mut values = Vec::new();
        let mut each = |name: std::ops::Range<usize>, range: std::ops::Range<usize>| {
            values.push((unquoted(&json[name]), value(&json[range])));
            true
        };
        members(json.as_bytes(), 0, 0, &mut each, &mut None)?;
        output.write(values.into_iter(), out)
    }
}

/// What is done with each record; false ends the reading.
pub(super) type Each<'e, 'a> = dyn FnMut(&[Value<'a>], Record<'a>) -> Result<bool, Error> + 'e;

/// Gives each record of the JSON values in a text to `each`. With `lines`, no value goes beyond its line. False when `each`
/// has seen enough.
pub(super) fn read<'a>(
    text: &'a str,
    lines: bool,
    from: &[Step],
    columns: &[Column],
    each: &mut Each<'_, 'a>,
) -> Result<bool, Error> {
    let mut values = Vec::with_capacity(columns.len());
    let mut record = |record: Record<'a>| {
        if record.0.is_some_and(|json| json.len() > RECORD_BYTES_MAX) {
            return Err(Error::new("OverMaxRecordSize", "a record of the object has more than 1 MiB"));
        }
        record.values(columns, &mut values);
        each(&values, record)
    };
    let mut start = 0;
    while start < text.len() {
        let end = match lines {
            true => memchr::memchr(b'\n', &text.as_bytes()[start..]).map_or(text.len(), |end| start + end + 1),
            false => text.len(),
        };
        let bytes = &text.as_bytes()[..end];
        let mut at = space(bytes, start);
        while at < end {
            let value = at..value_end(bytes, at, 0)?;
            if !expand(Some(&text[value.clone()]), from, &mut record)? {
                return Ok(false);
            }
            at = space(bytes, value.end);
        }
        start = end;
    }
    Ok(true)
}

/// Follows the path of `FROM` to the records of a value.
fn expand<'a>(
    json: Option<&'a str>,
    from: &[Step],
    each: &mut dyn FnMut(Record<'a>) -> Result<bool, Error>,
) -> Result<bool, Error> {
    let (Some((first, rest)), Some(value)) = (from.split_first(), json) else { return each(Record(json)) };
    if *first != Step::All {
        return expand(step(value, first), rest, each);
    }
    if !value.starts_with('[') {
        return expand(json, rest, each);
    }
    let mut outcome = Ok(true);
    let mut element = |range: std::ops::Range<usize>| {
        outcome = expand(Some(&value[range]), rest, each);
        matches!(outcome, Ok(true))
    };
    elements(value.as_bytes(), 0, 0, &mut element, &mut None)?;
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(text: &str) -> bool {
        value_end(text.as_bytes(), 0, 0).is_ok_and(|end| end == text.len())
    }

    #[test]
    fn values_are_checked_while_they_are_skipped() {
        for good in ["1", "-0.5e+3", "\"a\\\"b\"", "{}", "[]", "{\"a\": [1, {\"b\": null}], \"c\":true}", "[ 1 ,2 ]"] {
            assert!(ends(good), "{good}");
            assert!(serde_json::from_str::<serde_json::Value>(good).is_ok());
        }
        for bad in [
            "",
            "01",
            "1.",
            "-",
            "1e",
            "tru",
            "{\"a\" 1}",
            "{\"a\":1,}",
            "[1,]",
            "[1 2]",
            "\"a",
            "{a:1}",
            "{\"a\":1",
            "\"\\",
        ] {
            assert!(!ends(bad), "{bad}");
            assert!(serde_json::from_str::<serde_json::Value>(bad).is_err(), "{bad}");
        }
        assert!(!ends(&("[".repeat(1000) + &"]".repeat(1000))));
    }
}
