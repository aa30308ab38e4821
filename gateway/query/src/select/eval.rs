//! Computes expressions. What is null or missing makes the result null, and only what is true is selected.

use std::borrow::Cow;
use std::collections::HashSet;

use rust_decimal::prelude::ToPrimitive as _;

use super::error::Error;
use super::like::Pattern;
use super::syntax::{Expr, Like, Type};
use super::timestamp::{Part, Timestamp};
use super::value::{Number, Value, float_text};
use crate::compare::Compare;

/// Bytes of a text that an expression may make. Source: S3 API, the maximum length of a record is 1 MB.
const TEXT_BYTES_MAX: usize = 1 << 20;

/// Functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    Coalesce,
    NullIf,
    CharLength,
    Lower,
    Upper,
    Substring,
    /// The text, and the characters if they are given.
    Trim {
        leading: bool,
        trailing: bool,
    },
    DateAdd(Part),
    DateDiff(Part),
    Extract(Part),
    ToString,
    ToTimestamp,
}

/// What an expression is computed from.
#[derive(Clone, Copy)]
pub(super) struct Row<'r> {
    /// Values of the columns, in the order of the statement.
    pub(super) columns: &'r [Value<'r>],
    /// Results of the aggregates.
    pub(super) aggregates: &'r [Value<'r>],
}

/// A literal in backquotes: only times have no other form.
pub(super) fn literal_time(text: &str) -> Result<Value<'static>, Error> {
    match Number::parse(text) {
        Some(number) if !text.contains('T') => Ok(number.value()),
        _ => Timestamp::parse(text).map(Value::Time),
    }
}

fn borrowed<'r>(value: &'r Value<'_>) -> Value<'r> {
    match value {
        Value::Text(text) => Value::Text(Cow::Borrowed(text)),
        Value::Field(text) => Value::Field(Cow::Borrowed(text)),
        Value::Nested(text) => Value::Nested(Cow::Borrowed(text)),
        Value::Missing => Value::Missing,
        Value::Null => Value::Null,
        Value::Bool(value) => Value::Bool(*value),
        Value::Int(value) => Value::Int(*value),
        Value::Decimal(value) => Value::Decimal(*value),
        Value::Float(value) => Value::Float(*value),
        Value::Time(value) => Value::Time(*value),
    }
}

impl Expr {
    /// Its value.
    pub(super) fn value<'r>(&'r self, row: Row<'r>) -> Result<Value<'r>, Error> {
        match self {
            Self::Literal(value) => Ok(borrowed(value)),
            Self::Column(number) => Ok(row.columns.get(*number).map_or(Value::Missing, borrowed)),
            Self::Aggregate(number) => Ok(row.aggregates.get(*number).map_or(Value::Null, borrowed)),
            Self::And(_)
            | Self::Or(_)
            | Self::Not(_)
            | Self::Compare(..)
            | Self::Between(..)
            | Self::In(..)
            | Self::Like(..) => Ok(self.truth(row)?.map_or(Value::Null, Value::Bool)),
            Self::IsNull(inner) => Ok(Value::Bool(inner.value(row)?.is_unknown())),
            Self::IsMissing(inner) => Ok(Value::Bool(inner.value(row)? == Value::Missing)),
            Self::Arithmetic(operator, a, b) => {
                let (a, b) = (a.value(row)?, b.value(row)?);
                if a.is_unknown() || b.is_unknown() {
                    return Ok(Value::Null);
                }
                match (a.number(), b.number()) {
                    (Some(a), Some(b)) => Ok(a.compute(*operator, b)?.value()),
                    _ => Err(Error::type_of("an arithmetic operator")),
                }
            }
            Self::Negate(inner) => match inner.value(row)? {
                value if value.is_unknown() => Ok(Value::Null),
                value => {
                    let number = value.number().ok_or_else(|| Error::type_of("an arithmetic operator"))?;
                    Ok(Number::Int(0).compute(super::value::Arithmetic::Subtract, number)?.value())
                }
            },
            Self::Concat(a, b) => {
                let (a, b) = (a.value(row)?, b.value(row)?);
                if a.is_unknown() || b.is_unknown() {
                    return Ok(Value::Null);
                }
                match (a.text(), b.text()) {
                    (Some(a), Some(b)) if a.len() + b.len() > TEXT_BYTES_MAX => Err(too_long()),
                    (Some(a), Some(b)) => Ok(Value::Text([a, b].concat().into())),
                    _ => Err(Error::type_of("||")),
                }
            }
            Self::Case(operand, cases, rest) => {
                let operand = operand.as_ref().map(|operand| operand.value(row)).transpose()?;
                for (when, then) in cases {
                    let met = match &operand {
                        Some(operand) => compared(Compare::Equal, operand, &when.value(row)?),
                        None => when.truth(row)?,
                    };
                    if met == Some(true) {
                        return then.value(row);
                    }
                }
                rest.value(row)
            }
            Self::Cast(inner, kind) => cast(inner.value(row)?, *kind),
            Self::Call(function, arguments) => call(*function, arguments, row),
        }
    }

    /// Whether it is true; `None` where that is not known.
    pub(super) fn truth(&self, row: Row<'_>) -> Result<Option<bool>, Error> {
        match self {
            Self::And(list) => {
                let mut known = Some(true);
                for expr in list {
                    match expr.truth(row)? {
                        Some(false) => return Ok(Some(false)),
                        None => known = None,
                        Some(true) => {}
                    }
                }
                Ok(known)
            }
            Self::Or(list) => {
                let mut known = Some(false);
                for expr in list {
                    match expr.truth(row)? {
                        Some(true) => return Ok(Some(true)),
                        None => known = None,
                        Some(false) => {}
                    }
                }
                Ok(known)
            }
            Self::Not(inner) => Ok(inner.truth(row)?.map(|value| !value)),
            Self::Compare(compare, a, b) => Ok(compared(*compare, &a.value(row)?, &b.value(row)?)),
            Self::Between(value, low, high) => {
                let value = value.value(row)?;
                let above = compared(Compare::GreaterOrEqual, &value, &low.value(row)?);
                if above == Some(false) {
                    return Ok(above);
                }
                let below = compared(Compare::LessOrEqual, &value, &high.value(row)?);
                Ok(if above.is_none() && below == Some(true) { None } else { below })
            }
            Self::In(value, list) => {
                let value = value.value(row)?;
                let mut known = Some(false);
                for other in list {
                    match compared(Compare::Equal, &value, &other.value(row)?) {
                        Some(true) => return Ok(Some(true)),
                        None => known = None,
                        Some(false) => {}
                    }
                }
                Ok(known)
            }
            Self::Like(text, like) => self::like(&text.value(row)?, like, row),
            other => match other.value(row)? {
                value if value.is_unknown() => Ok(None),
                value => value
                    .boolean()
                    .map(Some)
                    .ok_or_else(|| Error::new("EvaluatorInvalidArguments", "a condition is a comparison or a boolean")),
            },
        }
    }
}

fn compared(compare: Compare, a: &Value<'_>, b: &Value<'_>) -> Option<bool> {
    if a.is_unknown() || b.is_unknown() {
        return None;
    }
    compare.holds(a.compare(b))
}

fn like(text: &Value<'_>, like: &Like, row: Row<'_>) -> Result<Option<bool>, Error> {
    let invalid = || Error::new("LikeInvalidInputs", "LIKE compares texts");
    if text.is_unknown() {
        return Ok(None);
    }
    let text = text.text().ok_or_else(invalid)?;
    match like {
        Like::Known(pattern) => Ok(Some(pattern.matches(text))),
        Like::Computed(pattern, escape) => {
            let pattern = pattern.value(row)?;
            let escape = escape.as_ref().map(|escape| escape.value(row)).transpose()?;
            if pattern.is_unknown() || escape.as_ref().is_some_and(Value::is_unknown) {
                return Ok(None);
            }
            let escape = match &escape {
                None => None,
                Some(escape) => Some(escape.text().ok_or_else(invalid)?),
            };
            Ok(Some(Pattern::parse(pattern.text().ok_or_else(invalid)?, escape)?.matches(text)))
        }
    }
}

fn too_long() -> Error {
    Error::new("OverMaxRecordSize", "a text has more than 1 MiB")
}

fn call<'r>(function: Function, arguments: &'r [Expr], row: Row<'r>) -> Result<Value<'r>, Error> {
    if function == Function::Coalesce {
        for argument in arguments {
            let value = argument.value(row)?;
            if !value.is_unknown() {
                return Ok(value);
            }
        }
        return Ok(Value::Null);
    }
    let mut values = Vec::with_capacity(arguments.len());
    for argument in arguments {
        values.push(argument.value(row)?);
    }
    if function == Function::NullIf {
        let equal = compared(Compare::Equal, &values[0], &values[1]) == Some(true);
        return Ok(if equal { Value::Null } else { values.swap_remove(0) });
    }
    if values.iter().any(Value::is_unknown) {
        return Ok(Value::Null);
    }
    match function {
        Function::CharLength => Ok(Value::Int(text(&values[0], "CHAR_LENGTH")?.chars().count() as i64)),
        Function::Lower => Ok(Value::Text(text(&values[0], "LOWER")?.to_lowercase().into())),
        Function::Upper => Ok(Value::Text(text(&values[0], "UPPER")?.to_uppercase().into())),
        Function::Substring => substring(&values),
        Function::Trim { leading, trailing } => trim(&values, leading, trailing),
        Function::DateAdd(part) => {
            let count = integer(&values[0], "DATE_ADD")?;
            time(&values[1], "DATE_ADD")?.add(part, count).map(Value::Time)
        }
        Function::DateDiff(part) => {
            let (from, to) = (time(&values[0], "DATE_DIFF")?, time(&values[1], "DATE_DIFF")?);
            Ok(Value::Int(from.until(to, part)))
        }
        Function::Extract(part) => Ok(Value::Int(time(&values[0], "EXTRACT")?.extract(part))),
        Function::ToString => {
            let pattern = text(&values[1], "TO_STRING")?;
            Ok(Value::Text(time(&values[0], "TO_STRING")?.format(pattern)?.into()))
        }
        Function::ToTimestamp => match &values[0] {
            Value::Time(time) => Ok(Value::Time(*time)),
            value => Timestamp::parse(text(value, "TO_TIMESTAMP")?).map(Value::Time),
        },
        Function::Coalesce | Function::NullIf => Ok(Value::Null),
    }
}

fn text<'v>(value: &'v Value<'_>, what: &str) -> Result<&'v str, Error> {
    value.text().ok_or_else(|| Error::type_of(what))
}

fn integer(value: &Value<'_>, what: &str) -> Result<i64, Error> {
    match value.number() {
        Some(Number::Int(value)) => Ok(value),
        Some(Number::Decimal(value)) if value.is_integer() => value.to_i64().ok_or_else(Error::overflow),
        _ => Err(Error::type_of(what)),
    }
}

fn time(value: &Value<'_>, what: &str) -> Result<Timestamp, Error> {
    match value {
        Value::Time(time) => Ok(*time),
        Value::Field(text) => Timestamp::parse(text),
        _ => Err(Error::type_of(what)),
    }
}

/// The first character is number 1; a start before it counts as 1.
fn substring<'r>(values: &[Value<'r>]) -> Result<Value<'r>, Error> {
    let start = integer(&values[1], "SUBSTRING")?.max(1) as usize - 1;
    let count = match values.get(2).map(|count| integer(count, "SUBSTRING")).transpose()? {
        None => usize::MAX,
        Some(count) => usize::try_from(count)
            .map_err(|_| Error::new("EvaluatorInvalidArguments", "the length of SUBSTRING is negative"))?,
    };
    let text: String = text(&values[0], "SUBSTRING")?.chars().skip(start).take(count).collect();
    Ok(Value::Text(text.into()))
}

/// The text, and the characters to be removed if they are not spaces.
fn trim<'r>(values: &[Value<'r>], leading: bool, trailing: bool) -> Result<Value<'r>, Error> {
    let mut rest = text(&values[0], "TRIM")?;
    let characters = values.get(1).map_or(Ok(" "), |characters| text(characters, "TRIM"))?;
    let characters: HashSet<char> = characters.chars().collect();
    if leading {
        rest = rest.trim_start_matches(|character| characters.contains(&character));
    }
    if trailing {
        rest = rest.trim_end_matches(|character| characters.contains(&character));
    }
    Ok(Value::Text(rest.to_owned().into()))
}

fn cast(value: Value<'_>, kind: Type) -> Result<Value<'_>, Error> {
    if value.is_unknown() {
        return Ok(value);
    }
    let failed = |kind: &str| Error::cast(&shown(&value), kind);
    match kind {
        Type::Text => Ok(match value {
            Value::Text(text) | Value::Field(text) => Value::Text(text),
            other => Value::Text(shown(&other).into()),
        }),
        Type::Bool => {
            if let Some(number) = value.number() {
                return Ok(Value::Bool(number.float() != 0.0));
            }
            let parsed = match &value {
                Value::Bool(value) => Some(*value),
                value => match value.text().map(|text| text.trim().to_ascii_lowercase()).as_deref() {
                    Some("true") => Some(true),
                    Some("false") => Some(false),
                    _ => None,
                },
            };
            parsed.map(Value::Bool).ok_or_else(|| failed("BOOL"))
        }
        Type::Int => {
            let whole = match number_of(&value) {
                Some(Number::Int(value)) => Some(value),
                Some(Number::Decimal(value)) => value.trunc().to_i64(),
                Some(Number::Float(value)) if (-9.2e18..=9.2e18).contains(&value) => Some(value as i64),
                _ => None,
            };
            whole.map(Value::Int).ok_or_else(|| failed("INT"))
        }
        Type::Float => {
            let number = number_of(&value).map(Number::float);
            number.map(Value::Float).ok_or_else(|| failed("FLOAT"))
        }
        Type::Decimal(scale) => {
            let number = number_of(&value).and_then(Number::decimal).ok_or_else(|| failed("DECIMAL"))?;
            Ok(Value::Decimal(scale.map_or(number, |scale| number.round_dp(scale))))
        }
        Type::Timestamp => match &value {
            Value::Time(time) => Ok(Value::Time(*time)),
            value => match value.text().map(Timestamp::parse) {
                Some(Ok(time)) => Ok(Value::Time(time)),
                _ => Err(failed("TIMESTAMP")),
            },
        },
    }
}

fn number_of(value: &Value<'_>) -> Option<Number> {
    match value {
        Value::Text(text) => Number::parse(text),
        Value::Bool(value) => Some(Number::Int(i64::from(*value))),
        value => value.number(),
    }
}

/// A value as text.
pub(super) fn shown(value: &Value<'_>) -> String {
    match value {
        Value::Missing | Value::Null => String::new(),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Decimal(value) => value.to_string(),
        Value::Float(value) => float_text(*value),
        Value::Text(text) | Value::Field(text) | Value::Nested(text) => text.to_string(),
        Value::Time(time) => time.to_string(),
    }
}
