//! Writes the records of an answer.

use std::borrow::Cow;
use std::io::Write as _;

use super::error::Error;
use super::eval::shown;
use super::request::{CsvOutput, Output};
use super::value::Value;

/// Bytes of a record of the answer. Source: S3 API, SelectObjectContent.
pub(super) const RECORD_BYTES_MAX: usize = 1 << 20;

impl Output {
    /// Appends a record of named values.
    pub(super) fn write<'v>(
        &self,
        values: impl Iterator<Item = (Cow<'v, str>, Value<'v>)>,
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let start = out.len();
        match self {
            Self::Csv(csv) => {
                for (number, (_, value)) in values.enumerate() {
                    if number > 0 {
                        out.extend_from_slice(&csv.field);
                    }
                    match &value {
                        Value::Text(text) | Value::Field(text) | Value::Nested(text) => {
                            csv.field_of(text.as_bytes(), out)
                        }
                        other => csv.field_of(shown(other).as_bytes(), out),
                    }
                }
                out.extend_from_slice(&csv.record);
            }
            Self::Json(record) => {
                out.push(b'{');
                let mut first = true;
                for (name, value) in values.filter(|(_, value)| *value != Value::Missing) {
                    if !std::mem::take(&mut first) {
                        out.push(b',');
                    }
                    json_text(&name, out);
                    out.push(b':');
                    json_value(&value, out);
                }
                out.push(b'}');
                out.extend_from_slice(record);
            }
        }
        if out.len() - start > RECORD_BYTES_MAX {
            return Err(Error::new("OverMaxRecordSize", "a record of the answer has more than 1 MiB"));
        }
        Ok(())
    }

    /// Appends the delimiter of records.
    pub(super) fn end(&self, out: &mut Vec<u8>) {
        match self {
            Self::Csv(csv) => out.extend_from_slice(&csv.record),
            Self::Json(record) => out.extend_from_slice(record),
        }
    }
}

impl CsvOutput {
    fn field_of(&self, text: &[u8], out: &mut Vec<u8>) {
        let Some(quote) = self.quote.filter(|quote| self.always || self.needs_quotes(text, *quote)) else {
            out.extend_from_slice(text);
            return;
        };
        let escape = self.escape.unwrap_or(quote);
        out.push(quote);
        for &byte in text {
            if byte == quote || byte == escape {
                out.push(escape);
            }
            out.push(byte);
        }
        out.push(quote);
    }

    fn needs_quotes(&self, text: &[u8], quote: u8) -> bool {
        text.iter().any(|byte| {
            *byte == quote || *byte == self.field[0] || *byte == self.record[0] || matches!(byte, b'\n' | b'\r')
        })
    }
}

fn json_text(text: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(out, text).expect("memory takes everything");
}

fn json_value(value: &Value<'_>, out: &mut Vec<u8>) {
    match value {
        Value::Missing | Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(value) => out.extend_from_slice(if *value { b"true" } else { b"false" }),
        Value::Int(value) => write!(out, "{value}").expect("memory takes everything"),
        Value::Decimal(value) => write!(out, "{value}").expect("memory takes everything"),
        // JSON has no such numbers.
        Value::Float(value) if !value.is_finite() => json_text(&shown(&Value::Float(*value)), out),
        Value::Float(value) => out.extend_from_slice(super::value::float_text(*value).as_bytes()),
        Value::Text(text) | Value::Field(text) => json_text(text, out),
        Value::Time(time) => json_text(&time.to_string(), out),
        Value::Nested(text) => compact(text, out),
    }
}

/// Appends JSON without the space between its words.
pub(super) fn compact(json: &str, out: &mut Vec<u8>) {
    let (mut in_text, mut escaped) = (false, false);
    for &byte in json.as_bytes() {
        if in_text {
            out.push(byte);
            in_text = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
        } else if !byte.is_ascii_whitespace() {
            out.push(byte);
            in_text = byte == b'"';
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(output: &Output, values: &[(&'static str, Value<'static>)]) -> String {
        let mut out = Vec::new();
        output.write(values.iter().map(|(name, value)| (Cow::Borrowed(*name), value.clone())), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn values_are_written_in_both_forms() {
        let values = [
            ("a", Value::Text("x, \"y\"\n".into())),
            ("b", Value::Missing),
            ("c", Value::Null),
            ("d\"", Value::Decimal("1.50".parse().unwrap())),
            ("e", Value::Nested("{ \"k\\\" \" : [ 1 , true ] }".into())),
            ("f", Value::Bool(true)),
        ];
        assert_eq!(
            written(&Output::Json(b"\n".to_vec()), &values),
            "{\"a\":\"x, \\\"y\\\"\\n\",\"c\":null,\"d\\\"\":1.50,\"e\":{\"k\\\" \":[1,true]},\"f\":true}\n"
        );
        assert_eq!(
            written(&Output::Csv(CsvOutput::default()), &values),
            "\"x, \"\"y\"\"\n\",,,1.50,\"{ \"\"k\\\"\" \"\" : [ 1 , true ] }\",true\n"
        );
        let csv = CsvOutput {
            field: b";".to_vec(),
            record: b"|".to_vec(),
            escape: Some(b'\\'),
            always: true,
            ..CsvOutput::default()
        };
        assert_eq!(
            written(&Output::Csv(csv), &[("a", Value::Text("x\"y\\".into())), ("b", Value::Int(1))]),
            "\"x\\\"y\\\\\";\"1\"|"
        );
    }

    #[test]
    fn a_record_has_a_bound() {
        let output = Output::Json(b"\n".to_vec());
        let value = Value::Text("x".repeat(RECORD_BYTES_MAX).into());
        let error = output.write([(Cow::Borrowed("a"), value)].into_iter(), &mut Vec::new()).unwrap_err();
        assert_eq!(error.code, "OverMaxRecordSize");
    }
}
