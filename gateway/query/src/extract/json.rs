//! Rows that are JSON values.

use std::ops::Range;

use holdfast_core::index::{Step, Value};

use super::{EachRow, Unreadable};

/// Reads the elements of an array, or values that follow each other.
pub(super) fn read(content: &[u8], paths: &[Vec<Step>], each: &mut EachRow<'_>) -> Result<(), Unreadable> {
    for range in values(content)? {
        row(&content[range.clone()], range.start as u64..range.end as u64, paths, each)?;
    }
    Ok(())
}

/// Reads one row.
pub(super) fn row(
    text: &[u8],
    range: Range<u64>,
    paths: &[Vec<Step>],
    each: &mut EachRow<'_>,
) -> Result<(), Unreadable> {
    let row: serde_json::Value =
        serde_json::from_slice(text).map_err(|error| Unreadable(format!("at byte {}: {error}", range.start)))?;
    let texts: Vec<Option<String>> = paths.iter().map(|path| nested(&row, path)).collect();
    let values: Vec<Value<'_>> =
        paths.iter().zip(&texts).map(|(path, nested)| value(at(&row, path), nested.as_deref())).collect();
    each(range, &values)
}

/// What a path leads to. A member is found by its name; letters of another case count when no name is the same.
fn at<'a>(row: &'a serde_json::Value, path: &[Step]) -> Option<&'a serde_json::Value> {
    path.iter().try_fold(row, |value, step| match step {
        Step::Name(name) => {
            let members = value.as_object()?;
            members.get(name).or_else(|| {
                members.iter().find(|(member, _)| member.eq_ignore_ascii_case(name)).map(|(_, value)| value)
            })
        }
        Step::Element(number) => value.get(*number as usize),
    })
}

/// The text of an array or object that a path leads to.
fn nested(row: &serde_json::Value, path: &[Step]) -> Option<String> {
    at(row, path).filter(|value| value.is_array() || value.is_object()).map(ToString::to_string)
}

fn value<'a>(found: Option<&'a serde_json::Value>, nested: Option<&'a str>) -> Value<'a> {
    match found {
        None | Some(serde_json::Value::Null) => Value::Null,
        Some(serde_json::Value::Bool(value)) => Value::Bool(*value),
        Some(serde_json::Value::String(text)) => Value::canonical(text),
        Some(serde_json::Value::Number(number)) => match number.as_i64() {
            Some(integer) => Value::Integer(integer),
            None => number.as_f64().map_or(Value::Null, Value::number),
        },
        Some(serde_json::Value::Array(_) | serde_json::Value::Object(_)) => nested.map_or(Value::Null, Value::Text),
    }
}

/// Where the rows of a JSON text are: the elements of its array, or its values. They are cut at the top level only; whether
/// they are JSON is seen when they are read.
fn values(content: &[u8]) -> Result<Vec<Range<usize>>, Unreadable> {
    let content_start = content.strip_prefix("\u{feff}".as_bytes()).map_or(0, |_| 3);
    let first = content.iter().skip(content_start).position(|byte| !byte.is_ascii_whitespace());
    let Some(first) = first.map(|first| first + content_start) else { return Ok(Vec::new()) };
    let array = content[first] == b'[';
    let mut found = Vec::new();
    let mut at = first + usize::from(array);
    loop {
        at += content[at..].iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        match content.get(at) {
            None if array => return Err(Unreadable("the array does not end".to_owned())),
            None => return Ok(found),
            Some(b']') if array => {
                let rest = content[at + 1..].iter().any(|byte| !byte.is_ascii_whitespace());
                return if rest { Err(Unreadable("something follows the array".to_owned())) } else { Ok(found) };
            }
            Some(b',') if array && !found.is_empty() => {
                at += 1;
                at += content[at..].iter().take_while(|byte| byte.is_ascii_whitespace()).count();
            }
            _ => {}
        }
        let end = value_end(content, at, array).ok_or_else(|| Unreadable(format!("no value at byte {at}")))?;
        found.push(at..end);
        at = end;
    }
}

/// The end of the value that begins at `at`.
fn value_end(content: &[u8], at: usize, in_array: bool) -> Option<usize> {
    let mut depth = 0usize;
    let mut position = at;
    while let Some(&byte) = content.get(position) {
        match byte {
            b'"' => {
                position = string_end(content, position)?;
                if depth == 0 {
                    return Some(position);
                }
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth == 0 => return (position > at).then_some(position),
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return Some(position + 1);
                }
            }
            b',' if depth == 0 && in_array => return (position > at).then_some(position),
            byte if depth == 0 && byte.is_ascii_whitespace() => return Some(position),
            _ => {}
        }
        position += 1;
    }
    (depth == 0 && position > at).then_some(position)
}

/// The end of the string that begins at `at`.
fn string_end(content: &[u8], at: usize) -> Option<usize> {
    let mut position = at + 1;
    loop {
        match content.get(position)? {
            b'\\' => position += 2,
            b'"' => return Some(position + 1),
            _ => position += 1,
        }
    }
}
