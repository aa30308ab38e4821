//! What the indexes of a prefix spare a statement: conditions of `WHERE` on columns, as an index understands them.
//!
//! Every record that is read is tested by the statement itself, so a condition may only be wider here, never narrower. What
//! an index does not hold decides what cannot be asked of it: empty fields of CSV, which are text here and null there.

use std::ops::Bound;

use holdfast_core::index::{Class, Expression, Step as IndexStep};

use super::request::{CsvInput, Format, Header, Input};
use super::syntax::{Column, Expr, Statement, Step, Type};
use super::value::Value;
use crate::compare::Compare;
use crate::extract::{self, format_of};
use crate::repository::ObjectVersion;
use crate::sql::{Compression, Key, Predicate, Wanted};

/// The conditions that all records of the answer meet.
pub(super) fn predicates(statement: &Statement, input: &Input) -> Vec<Predicate> {
    if !statement.from.is_empty() || !reads_as_indexed(input) {
        return Vec::new();
    }
    let conjuncts = match &statement.filter {
        Some(Expr::And(list)) => &list[..],
        Some(single) => std::slice::from_ref(single),
        None => &[],
    };
    let mut found = Vec::new();
    for conjunct in conjuncts {
        found.extend(predicate(conjunct, &statement.columns, input.format == Format::Parquet));
    }
    found
}

/// Whether records have the values that indexes took from them: those of the default settings.
fn reads_as_indexed(input: &Input) -> bool {
    match &input.format {
        Format::Csv(csv) => {
            let comma = CsvInput { header: Header::Use, quoted_records: true, ..CsvInput::default() };
            CsvInput { comment: comma.comment, ..csv.clone() } == comma
        }
        Format::JsonLines | Format::JsonDocument => true,
        Format::Parquet => input.compression == Compression::None,
    }
}

/// Which objects under a prefix are read: those that do not say themselves that they have another format. Indexes go by the
/// same, so that an object has the same records with them and without.
#[derive(Clone, Copy, Debug)]
pub(super) enum Candidates {
    /// With a comma between fields, what is named after tabs is of another format.
    Csv {
        comma: bool,
    },
    Json,
    Parquet,
}

impl Candidates {
    pub(super) fn of(input: &Input) -> Self {
        match &input.format {
            Format::Csv(csv) => Self::Csv { comma: csv.field == b"," },
            Format::JsonLines | Format::JsonDocument => Self::Json,
            Format::Parquet => Self::Parquet,
        }
    }

    pub(super) fn hold(self, object: &ObjectVersion) -> bool {
        let own = format_of(&object.key, object.content_type.as_deref()).map(|(format, _)| format);
        object.size > 0
            && match (own, self) {
                (None, _) => true,
                (Some(extract::Format::Csv(b'\t')), Self::Csv { comma }) => !comma,
                (Some(extract::Format::Csv(_)), Self::Csv { .. }) => true,
                (Some(extract::Format::Ndjson | extract::Format::Json), Self::Json) => true,
                (Some(extract::Format::Parquet), Self::Parquet) => true,
                (Some(_), _) => false,
            }
    }
}

fn predicate(expr: &Expr, columns: &[Column], parquet: bool) -> Option<Predicate> {
    match expr {
        Expr::Compare(compare, a, b) => match (&**a, &**b) {
            (Expr::Literal(literal), operand) => compared(operand, compare.flipped(), literal, columns, parquet),
            (operand, Expr::Literal(literal)) => compared(operand, *compare, literal, columns, parquet),
            _ => None,
        },
        Expr::Between(operand, low, high) => {
            let (Expr::Literal(low), Expr::Literal(high)) = (&**low, &**high) else { return None };
            let low = compared(operand, Compare::GreaterOrEqual, low, columns, parquet)?;
            let high = compared(operand, Compare::LessOrEqual, high, columns, parquet)?;
            match (low.wanted, high.wanted) {
                (Wanted::Between(class, low_end, _), Wanted::Between(_, _, high_end)) => {
                    Some(Predicate { of: low.of, wanted: Wanted::Between(class, low_end, high_end) })
                }
                _ => None,
            }
        }
        Expr::In(operand, list) => {
            let Expr::Column(column) = &**operand else { return None };
            let keys = list.iter().map(|item| if let Expr::Literal(literal) = item { equal(literal) } else { None });
            let keys = keys.collect::<Option<Vec<_>>>()?.concat();
            Some(Predicate { of: expression(&columns[*column], parquet)?, wanted: Wanted::Equal(keys) })
        }
        _ => None,
    }
}

fn compared(
    operand: &Expr,
    compare: Compare,
    literal: &Value<'_>,
    columns: &[Column],
    parquet: bool,
) -> Option<Predicate> {
    let (column, cast) = match operand {
        Expr::Column(column) => (*column, false),
        Expr::Cast(inner, Type::Int | Type::Float | Type::Decimal(_)) => match &**inner {
            Expr::Column(column) => (*column, true),
            _ => return None,
        },
        _ => return None,
    };
    let of = expression(&columns[column], parquet)?;
    let wanted = match literal {
        Value::Int(_) | Value::Decimal(_) | Value::Float(_) => numbers(compare, literal, cast)?,
        _ if cast => return None,
        // Texts that read as something else are not among the texts of an index: only equal ones are found.
        literal if compare == Compare::Equal => Wanted::Equal(vec![key(literal)?]),
        _ => return None,
    };
    Some(Predicate { of, wanted })
}

/// How far the float of an index may be from a number: its text is read in another way, and a file may hold floats of 32 bits.
fn width(number: f64) -> f64 {
    number.abs() * 2.0 * f64::from(f32::EPSILON)
}

fn numbers(compare: Compare, literal: &Value<'_>, cast: bool) -> Option<Wanted> {
    let number = literal.number()?.float();
    if !number.is_finite() {
        return None;
    }
    if compare == Compare::Equal && !cast {
        return Some(Wanted::Equal(equal(literal)?));
    }
    // A cast to an integer cuts off what is behind the point.
    let width = width(number) + if cast { 1.0 } else { 0.0 };
    let at = |number: f64| Bound::Included(Key::Number(number));
    let (low, high) = match compare {
        Compare::Equal => (at(number - width), at(number + width)),
        Compare::Less | Compare::LessOrEqual => (Bound::Unbounded, at(number + width)),
        Compare::Greater | Compare::GreaterOrEqual => (at(number - width), Bound::Unbounded),
        Compare::NotEqual => return None,
    };
    Some(Wanted::Between(Class::Number, low, high))
}

/// What an index may hold of values that equal a literal: an integer, the floats next to it, and a float of 32 bits.
fn equal(literal: &Value<'_>) -> Option<Vec<Key>> {
    let number = match literal {
        Value::Int(_) | Value::Decimal(_) | Value::Float(_) => literal.number()?.float(),
        other => return Some(vec![key(other)?]),
    };
    if !number.is_finite() {
        return None;
    }
    #[expect(clippy::cast_possible_truncation, reason = "it is what a file with floats of 32 bits has")]
    let single = f64::from(number as f32);
    let mut keys = vec![Key::Number(number), Key::Number(single)];
    keys.extend(if let Value::Int(value) = literal { Some(Key::Integer(*value)) } else { None });
    if !matches!(literal, Value::Int(_)) || number.abs() > 9e15 {
        keys.extend([Key::Number(number.next_up()), Key::Number(number.next_down())]);
    }
    keys.retain(|key| !matches!(key, Key::Number(number) if !number.is_finite()));
    Some(keys)
}

fn key(literal: &Value<'_>) -> Option<Key> {
    match literal {
        Value::Bool(value) => Some(Key::Bool(*value)),
        Value::Text(text) if !text.is_empty() => Some(Key::canonical(text)),
        _ => None,
    }
}

/// The expression of an index that has the values of a column.
fn expression(column: &Column, parquet: bool) -> Option<Expression> {
    // Columns of an index have no space around their names.
    let spaced = |step: &Step| matches!(step, Step::Name { name, .. } if name.trim() != name || name.is_empty());
    if column.steps.is_empty() || column.position().is_some() || column.steps.iter().any(spaced) {
        return None;
    }
    // Members inside of a column of Parquet are found in other ways there, and a record that is an array has no rows here.
    if (parquet && column.steps.len() > 1) || matches!(column.steps.first(), Some(Step::Element(_))) {
        return None;
    }
    let steps = column.steps.iter().map(|step| match step {
        Step::Name { name, .. } => Some(IndexStep::Name(name.clone())),
        Step::Element(number) => Some(IndexStep::Element(u32::try_from(*number).ok()?)),
        Step::All => None,
    });
    Some(Expression::Field(steps.collect::<Option<_>>()?))
}

#[cfg(test)]
mod tests {
    use super::super::parse::parse;
    use super::super::timestamp::Timestamp;
    use super::*;

    fn of(filter: &str) -> Vec<Wanted> {
        let now = Timestamp::of_days(0).unwrap();
        let statement = parse(&format!("SELECT * FROM S3Object s WHERE {filter}"), now).unwrap();
        let input = Input { format: Format::JsonLines, compression: Compression::None };
        predicates(&statement, &input).into_iter().map(|predicate| predicate.wanted).collect()
    }

    #[test]
    fn conditions_become_what_an_index_is_asked() {
        assert_eq!(of("s.a = 'x'"), [Wanted::Equal(vec![Key::Text("x".to_owned())])]);
        assert_eq!(of("'10' = s.a"), [Wanted::Equal(vec![Key::Integer(10)])]);
        let mut one = equal(&Value::Int(1)).unwrap();
        one.push(Key::Text("b".to_owned()));
        assert_eq!(of("s.a IN (1, 'b')"), [Wanted::Equal(one)]);
        let range = |filter: &str| match &of(filter)[..] {
            [Wanted::Between(Class::Number, low, high)] => (low.clone(), high.clone()),
            other => panic!("{filter}: {other:?}"),
        };
        assert_eq!(of("5 < s.a AND s.b = 1 OR s.c = 1"), []);
        let (low, high) = range("5 < s.a AND s.b <> 1");
        assert!(matches!(low, Bound::Included(Key::Number(low)) if low < 5.0 && low > 4.99), "{low:?}");
        assert_eq!(high, Bound::Unbounded);
        let (low, high) = range("CAST(s.a AS INT) = 5");
        assert!(matches!(low, Bound::Included(Key::Number(low)) if low <= 4.0), "{low:?}");
        assert!(matches!(high, Bound::Included(Key::Number(high)) if high >= 6.0), "{high:?}");
        let (low, high) = range("s.a BETWEEN 1 AND 2");
        assert!(matches!(low, Bound::Included(Key::Number(low)) if low < 1.0), "{low:?}");
        assert!(matches!(high, Bound::Included(Key::Number(high)) if high > 2.0), "{high:?}");
    }

    #[test]
    fn equal_numbers_have_every_form_that_an_index_may_hold() {
        let keys = equal(&Value::Decimal("0.1".parse().unwrap())).unwrap();
        assert!(keys.contains(&Key::Number(0.1)) && keys.contains(&Key::Number(f64::from(0.1_f32))), "{keys:?}");
        let keys = equal(&Value::Decimal("97.45424510282939".parse().unwrap())).unwrap();
        assert!(keys.contains(&Key::Number("97.45424510282939".parse().unwrap())), "{keys:?}");
        let keys = equal(&Value::Int(9_007_199_254_740_993)).unwrap();
        assert!(keys.contains(&Key::Integer(9_007_199_254_740_993)), "{keys:?}");
        assert!(keys.contains(&Key::Number("9007199254740993.0".parse().unwrap())), "{keys:?}");
    }

    #[test]
    fn what_an_index_does_not_hold_is_not_asked_of_it() {
        for filter in [
            "s.a = ''",
            "s.a < 'x'",
            "s.a > 'x'",
            "s.\" a\" = 1",
            "s.a IS NULL",
            "s.a IN (1, '')",
            "s._1 = 2",
            "s.a = s.b",
            "s.a = `2020T`",
        ] {
            assert_eq!(of(filter), [], "{filter}");
        }
    }

    #[test]
    fn only_records_that_are_read_as_indexed_are_looked_up() {
        let csv = |csv: CsvInput| Input { format: Format::Csv(csv), compression: Compression::None };
        let good = CsvInput { header: Header::Use, quoted_records: true, ..CsvInput::default() };
        assert!(reads_as_indexed(&csv(good.clone())));
        for bad in [
            CsvInput { header: Header::Ignore, ..good.clone() },
            CsvInput { quoted_records: false, ..good.clone() },
            CsvInput { field: b";".to_vec(), ..good.clone() },
            CsvInput { quote: None, ..good.clone() },
            CsvInput { record: b"|".to_vec(), ..good },
        ] {
            assert!(!reads_as_indexed(&csv(bad)));
        }
    }
}
