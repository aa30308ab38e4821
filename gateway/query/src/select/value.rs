//! Values of records, how they compare and how numbers are computed.
//!
//! A field of CSV has no type of its own. Beside a number, a boolean or a time it is read as one; beside text, and beside
//! another field, it is text. What cannot be read as the other's type is equal to nothing and neither less nor greater.

use std::borrow::Cow;
use std::cmp::Ordering;

use rust_decimal::Decimal;
use rust_decimal::prelude::{FromPrimitive as _, ToPrimitive as _};

use super::error::Error;
use super::timestamp::Timestamp;

/// One value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    /// The record has no such field.
    Missing,
    /// None.
    Null,
    /// True or false.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// A decimal number, exactly.
    Decimal(Decimal),
    /// A 64-bit float.
    Float(f64),
    /// Text.
    Text(Cow<'a, str>),
    /// A field of CSV: text that may be meant as something else.
    Field(Cow<'a, str>),
    /// A point in time.
    Time(Timestamp),
    /// An array or an object, as the JSON text it stands in.
    Nested(Cow<'a, str>),
}

impl Value<'_> {
    /// Whether it is null or missing.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Missing | Self::Null)
    }

    /// The value without what it borrows.
    #[must_use]
    pub fn into_owned(self) -> Value<'static> {
        match self {
            Self::Missing => Value::Missing,
            Self::Null => Value::Null,
            Self::Bool(value) => Value::Bool(value),
            Self::Int(value) => Value::Int(value),
            Self::Decimal(value) => Value::Decimal(value),
            Self::Float(value) => Value::Float(value),
            Self::Text(text) => Value::Text(Cow::Owned(text.into_owned())),
            Self::Field(text) => Value::Field(Cow::Owned(text.into_owned())),
            Self::Time(time) => Value::Time(time),
            Self::Nested(text) => Value::Nested(Cow::Owned(text.into_owned())),
        }
    }

    /// The text, of text and of fields.
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) | Self::Field(text) => Some(text),
            _ => None,
        }
    }

    /// The number that it is, or that its field reads as.
    pub(super) fn number(&self) -> Option<Number> {
        match self {
            Self::Int(value) => Some(Number::Int(*value)),
            Self::Decimal(value) => Some(Number::Decimal(*value)),
            Self::Float(value) => Some(Number::Float(*value)),
            Self::Field(text) => Number::parse(text),
            _ => None,
        }
    }

    pub(super) fn boolean(&self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(*value),
            Self::Field(text) if text.eq_ignore_ascii_case("true") => Some(true),
            Self::Field(text) if text.eq_ignore_ascii_case("false") => Some(false),
            _ => None,
        }
    }

    /// Order of two values; `None` where they are of types that do not compare.
    pub(super) fn compare(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (a, b) if a.is_number() || b.is_number() => a.number()?.compare(b.number()?),
            (Self::Time(a), b) => Some(a.cmp(&b.time()?)),
            (a, Self::Time(b)) => Some(a.time()?.cmp(b)),
            (Self::Bool(a), b) => Some(a.cmp(&b.boolean()?)),
            (a, Self::Bool(b)) => Some(a.boolean()?.cmp(b)),
            (Self::Nested(a), Self::Nested(b)) => {
                let tree = |text: &str| serde_json::from_str::<serde_json::Value>(text).ok();
                (tree(a)? == tree(b)?).then_some(Ordering::Equal)
            }
            (a, b) => Some(a.text()?.cmp(b.text()?)),
        }
    }

    fn is_number(&self) -> bool {
        matches!(self, Self::Int(_) | Self::Decimal(_) | Self::Float(_))
    }

    fn time(&self) -> Option<Timestamp> {
        match self {
            Self::Time(time) => Some(*time),
            Self::Field(text) => Timestamp::parse(text).ok(),
            _ => None,
        }
    }
}

/// A number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Number {
    Int(i64),
    Decimal(Decimal),
    Float(f64),
}

/// Operators of arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

impl Number {
    /// The number that a text is, spaces around it aside.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if !matches!(text.as_bytes().first()?, b'0'..=b'9' | b'-' | b'+' | b'.') {
            return None;
        }
        if let Ok(value) = text.parse::<i64>() {
            return Some(Self::Int(value));
        }
        let plain = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'.' | b'-' | b'+'));
        // Beyond 28 digits the parser would round.
        if plain
            && text.len() <= 29
            && let Ok(value) = text.parse::<Decimal>()
        {
            return Some(Self::Decimal(value));
        }
        let float = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'.' | b'-' | b'+' | b'e' | b'E'));
        text.parse::<f64>().ok().filter(|value| float && value.is_finite()).map(Self::Float)
    }

    pub(super) fn float(self) -> f64 {
        match self {
            Self::Int(value) => value as f64,
            Self::Decimal(value) => value.to_f64().unwrap_or(f64::NAN),
            Self::Float(value) => value,
        }
    }

    pub(super) fn decimal(self) -> Option<Decimal> {
        match self {
            Self::Int(value) => Some(value.into()),
            Self::Decimal(value) => Some(value),
            Self::Float(value) => Decimal::from_f64(value),
        }
    }

    pub(super) fn compare(self, other: Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Int(a), Self::Int(b)) => Some(a.cmp(&b)),
            (Self::Float(a), b) => a.partial_cmp(&b.float()),
            (a, Self::Float(b)) => a.float().partial_cmp(&b),
            (a, b) => Some(a.decimal()?.cmp(&b.decimal()?)),
        }
    }

    /// Integers stay integers; a float makes a float of the other; else decimals are computed exactly.
    pub(super) fn compute(self, operator: Arithmetic, other: Self) -> Result<Self, Error> {
        let zero = other.float() == 0.0;
        if zero && matches!(operator, Arithmetic::Divide | Arithmetic::Remainder) {
            return Err(Error::new("EvaluatorInvalidArguments", "a number is divided by zero"));
        }
        match (self, other) {
            (Self::Int(a), Self::Int(b)) => match operator {
                Arithmetic::Add => a.checked_add(b),
                Arithmetic::Subtract => a.checked_sub(b),
                Arithmetic::Multiply => a.checked_mul(b),
                Arithmetic::Divide => a.checked_div(b),
                Arithmetic::Remainder => a.checked_rem(b),
            }
            .map(Self::Int)
            .ok_or_else(Error::overflow),
            (Self::Float(_), _) | (_, Self::Float(_)) => {
                let (a, b) = (self.float(), other.float());
                Ok(Self::Float(match operator {
                    Arithmetic::Add => a + b,
                    Arithmetic::Subtract => a - b,
                    Arithmetic::Multiply => a * b,
                    Arithmetic::Divide => a / b,
                    Arithmetic::Remainder => a % b,
                }))
            }
            (a, b) => {
                let (a, b) = (a.decimal().ok_or_else(Error::overflow)?, b.decimal().ok_or_else(Error::overflow)?);
                match operator {
                    Arithmetic::Add => a.checked_add(b),
                    Arithmetic::Subtract => a.checked_sub(b),
                    Arithmetic::Multiply => a.checked_mul(b),
                    Arithmetic::Divide => a.checked_div(b),
                    Arithmetic::Remainder => a.checked_rem(b),
                }
                .map(Self::Decimal)
                .ok_or_else(Error::overflow)
            }
        }
    }

    pub(super) fn value(self) -> Value<'static> {
        match self {
            Self::Int(value) => Value::Int(value),
            Self::Decimal(value) => Value::Decimal(value.normalize()),
            Self::Float(value) => Value::Float(value),
        }
    }
}

/// Writes a float in its shortest form that reads back the same.
pub(super) fn float_text(value: f64) -> String {
    let magnitude = value.abs();
    if value.is_nan() {
        "NaN".to_owned()
    } else if value.is_infinite() {
        if value > 0.0 { "Infinity".to_owned() } else { "-Infinity".to_owned() }
    } else if magnitude != 0.0 && !(1e-6..1e17).contains(&magnitude) {
        format!("{value:e}")
    } else {
        value.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_compare_as_what_stands_beside_them() {
        let field = |text: &'static str| Value::Field(text.into());
        let text = |text: &'static str| Value::Text(text.into());
        let check = |a: &Value<'_>, b: &Value<'_>, expected: Option<Ordering>| {
            assert_eq!(a.compare(b), expected, "{a:?} and {b:?}");
            assert_eq!(b.compare(a), expected.map(Ordering::reverse), "{b:?} and {a:?}");
        };
        check(&field("10"), &Value::Int(9), Some(Ordering::Greater));
        check(&field("10"), &text("9"), Some(Ordering::Less));
        check(&field("10"), &field("9"), Some(Ordering::Less));
        check(&field(" 1.50 "), &Value::Decimal("1.5".parse().unwrap()), Some(Ordering::Equal));
        check(&field("x"), &Value::Int(9), None);
        check(&field("TRUE"), &Value::Bool(true), Some(Ordering::Equal));
        check(&field("2020-01-02"), &Value::Time(Timestamp::parse("2020-01-01T").unwrap()), Some(Ordering::Greater));
        check(&text("10"), &Value::Int(10), None);
        check(&Value::Float(f64::NAN), &Value::Int(1), None);
        check(&Value::Nested("[1, 2]".into()), &Value::Nested("[1,2]".into()), Some(Ordering::Equal));
    }

    #[test]
    fn numbers_are_computed_exactly_or_refused() {
        let number = |text: &str| Number::parse(text).unwrap();
        let sum = number("0.1").compute(Arithmetic::Add, number("0.2")).unwrap();
        assert_eq!(sum, number("0.3"));
        assert_eq!(number("7").compute(Arithmetic::Divide, number("2")).unwrap(), Number::Int(3));
        assert!(number("7").compute(Arithmetic::Divide, number("0.0")).is_err());
        assert!(Number::Int(i64::MAX).compute(Arithmetic::Add, Number::Int(1)).is_err());
        assert!(Number::Int(i64::MIN).compute(Arithmetic::Divide, Number::Int(-1)).is_err());
        assert_eq!(Number::parse("12a"), None);
        assert_eq!(Number::parse("-inf"), None);
        assert!(matches!(Number::parse("1e3"), Some(Number::Float(value)) if value == 1000.0));
        assert!(matches!(Number::parse("123456789012345678901234567890.5"), Some(Number::Float(_))));
    }

    #[test]
    fn floats_are_written_shortly() {
        for (value, expected) in
            [(1.0, "1"), (2.5, "2.5"), (1e20, "1e20"), (1e-9, "1e-9"), (0.1 + 0.2, "0.30000000000000004")]
        {
            assert_eq!(float_text(value), expected);
        }
    }
}
