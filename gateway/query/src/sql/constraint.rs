//! From the predicates of a query to what an index is asked for.
//!
//! The answer of an index is checked again by the filter above the scan, so a constraint may be wider than its predicate,
//! never narrower. What a column's values look like in an index follows from their canonical form, which is why the type
//! of the column decides: text that reads as a number lies among the numbers.

use std::ops::Bound;

use arrow::datatypes::{DataType, Schema};
use datafusion::logical_expr::expr::{InList, ScalarFunction};
use datafusion::logical_expr::{BinaryExpr, Expr, Like, Operator};
use datafusion::scalar::ScalarValue;
use holdfast_core::index::{Class, Constraint, Expression, Step, Value};

use super::attribute::Attribute;
use super::shape::is_mixed;

/// A value that an index is asked for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Key {
    Bool(bool),
    Number(f64),
    Integer(i64),
    Time(i64),
    Text(String),
}

/// What a predicate wants of one expression.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Wanted {
    Equal(Vec<Key>),
    Between(Class, Bound<Key>, Bound<Key>),
    Prefix(String),
}

/// A predicate that an index of this expression answers.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Predicate {
    pub(crate) of: Expression,
    pub(crate) wanted: Wanted,
}

/// What the names of a table stand for.
#[derive(Debug)]
pub(super) struct Names<'a> {
    pub(super) content: &'a Schema,
    pub(super) attributes: &'a [Attribute],
}

impl Key {
    fn value(&self) -> Value<'_> {
        match self {
            Self::Bool(flag) => Value::Bool(*flag),
            Self::Number(number) => Value::number(*number),
            Self::Integer(number) => Value::Integer(*number),
            Self::Time(micros) => Value::Time(*micros),
            Self::Text(text) => Value::Text(text),
        }
    }

    pub(crate) fn canonical(text: &str) -> Self {
        match Value::canonical(text) {
            Value::Bool(flag) => Self::Bool(flag),
            Value::Number(number) => Self::Number(number),
            Value::Integer(number) => Self::Integer(number),
            Value::Time(micros) => Self::Time(micros),
            Value::Null | Value::Text(_) => Self::Text(text.to_owned()),
        }
    }
}

impl Wanted {
    pub(super) fn constraint(&self) -> Constraint<'_> {
        match self {
            Self::Equal(keys) => Constraint::Equal(keys.iter().map(Key::value).collect()),
            Self::Between(class, low, high) => {
                Constraint::Between(*class, low.as_ref().map(Key::value), high.as_ref().map(Key::value))
            }
            Self::Prefix(text) => Constraint::Prefix(text),
        }
    }

    /// Both of two predicates on one expression; where they do not combine, the narrower kind.
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Between(a, low_a, high_a), Self::Between(b, low_b, high_b)) if a == b => {
                let low = if matches!(low_a, Bound::Unbounded) { low_b } else { low_a };
                let high = if matches!(high_a, Bound::Unbounded) { high_b } else { high_a };
                Self::Between(a, low, high)
            }
            (equal @ Self::Equal(_), _) | (_, equal @ Self::Equal(_)) => equal,
            (prefix @ Self::Prefix(_), _) | (_, prefix @ Self::Prefix(_)) => prefix,
            (first, _) => first,
        }
    }
}

/// The predicates among conjuncts that an index could answer, one for each expression.
pub(super) fn predicates(filters: &[Expr], names: &Names<'_>) -> Vec<Predicate> {
    let mut found: Vec<Predicate> = Vec::new();
    for filter in filters {
        for conjunct in datafusion::logical_expr::utils::split_conjunction(filter) {
            let Some(predicate) = predicate(conjunct, names) else { continue };
            match found.iter_mut().find(|known| known.of == predicate.of) {
                Some(known) => known.wanted = known.wanted.clone().and(predicate.wanted),
                None => found.push(predicate),
            }
        }
    }
    found
}

fn predicate(expr: &Expr, names: &Names<'_>) -> Option<Predicate> {
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Or, right }) => either(left, right, names),
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => match (left.as_ref(), right.as_ref()) {
            (column, Expr::Literal(literal, _)) => compared(column, *op, literal, names),
            (Expr::Literal(literal, _), column) => compared(column, op.swap()?, literal, names),
            _ => None,
        },
        Expr::Between(between) if !between.negated => {
            let (Expr::Literal(low, _), Expr::Literal(high, _)) = (between.low.as_ref(), between.high.as_ref()) else {
                return None;
            };
            let low = compared(&between.expr, Operator::GtEq, low, names)?;
            let high = compared(&between.expr, Operator::LtEq, high, names)?;
            Some(Predicate { of: low.of, wanted: low.wanted.and(high.wanted) })
        }
        Expr::InList(InList { expr, list, negated: false }) => {
            let mut keys = Vec::new();
            let mut of = None;
            for item in list {
                let Expr::Literal(literal, _) = item else { return None };
                let one = compared(expr, Operator::Eq, literal, names)?;
                let Wanted::Equal(mut key) = one.wanted else { return None };
                keys.append(&mut key);
                of = Some(one.of);
            }
            Some(Predicate { of: of?, wanted: Wanted::Equal(keys) })
        }
        Expr::Like(Like { negated: false, expr, pattern, escape_char: None, case_insensitive: false }) => {
            let Expr::Literal(pattern, _) = pattern.as_ref() else { return None };
            let pattern = pattern.try_as_str()??;
            prefix(expr, pattern.split(['%', '_']).next()?, names)
        }
        Expr::ScalarFunction(ScalarFunction { func, args }) if func.name() == "starts_with" => match args.as_slice() {
            [column, Expr::Literal(start, _)] => prefix(column, start.try_as_str()??, names),
            _ => None,
        },
        Expr::Not(column) => flag(column, false, names),
        Expr::IsTrue(column) => flag(column, true, names),
        column => flag(column, true, names),
    }
}

/// `a = 1 OR a = 2`.
fn either(left: &Expr, right: &Expr, names: &Names<'_>) -> Option<Predicate> {
    let (left, right) = (predicate(left, names)?, predicate(right, names)?);
    match (left.wanted, right.wanted) {
        (Wanted::Equal(mut a), Wanted::Equal(mut b)) if left.of == right.of => {
            a.append(&mut b);
            Some(Predicate { of: left.of, wanted: Wanted::Equal(a) })
        }
        _ => None,
    }
}

fn flag(column: &Expr, wanted: bool, names: &Names<'_>) -> Option<Predicate> {
    let column = resolve(column, names)?;
    (column.kind == DataType::Boolean)
        .then(|| Predicate { of: column.of, wanted: Wanted::Equal(vec![Key::Bool(wanted)]) })
}

fn prefix(column: &Expr, start: &str, names: &Names<'_>) -> Option<Predicate> {
    let column = resolve(column, names)?;
    // A backslash may be an escape.
    if start.is_empty() || start.contains('\\') || !is_text(&column.kind) {
        return None;
    }
    Some(Predicate { of: column.of, wanted: Wanted::Prefix(start.to_owned()) })
}

fn compared(column: &Expr, op: Operator, literal: &ScalarValue, names: &Names<'_>) -> Option<Predicate> {
    let column = resolve(column, names)?;
    if literal.is_null() {
        return None;
    }
    let range = Range::of(&column.kind, literal, column.cast)?;
    let wanted = match op {
        Operator::Eq => range.equal(),
        Operator::Lt | Operator::LtEq => Wanted::Between(range.class, Bound::Unbounded, Bound::Included(range.high)),
        Operator::Gt | Operator::GtEq => Wanted::Between(range.class, Bound::Included(range.low), Bound::Unbounded),
        _ => return None,
    };
    Some(Predicate { of: column.of, wanted })
}

/// Where the values that equal a literal lie.
struct Range {
    class: Class,
    low: Key,
    high: Key,
    /// The one value that they all have.
    exact: Option<Key>,
}

/// Above it, a float is not every integer.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

impl Range {
    fn of(kind: &DataType, literal: &ScalarValue, cast: bool) -> Option<Self> {
        if is_text(kind) {
            let text = literal.try_as_str()??;
            let key = Key::Text(text.to_owned());
            return Some(Self { class: Class::Text, low: key.clone(), high: key, exact: Some(Key::canonical(text)) });
        }
        if let (DataType::Boolean, ScalarValue::Boolean(Some(flag))) = (kind, literal) {
            let key = Key::Bool(*flag);
            return Some(Self { class: Class::Bool, low: key.clone(), high: key.clone(), exact: Some(key) });
        }
        if kind.is_numeric() && literal.data_type().is_numeric() {
            let ScalarValue::Float64(Some(number)) = literal.cast_to(&DataType::Float64).ok()? else { return None };
            // A decimal may be rounded here and there in another way.
            let exact = !cast
                && !matches!(kind, DataType::Decimal128(..) | DataType::Decimal256(..))
                && number.abs() < EXACT_MAX;
            let (low, high) = if exact { (number, number) } else { (around(number, -1.0), around(number, 1.0)) };
            return number.is_finite().then(|| Self {
                class: Class::Number,
                low: Key::Number(low),
                high: Key::Number(high),
                exact: exact.then_some(Key::Number(number)),
            });
        }
        let micros = micros(literal)?;
        let temporal = matches!(kind, DataType::Date32 | DataType::Timestamp(..));
        temporal.then(|| Self {
            class: Class::Time,
            low: Key::Time(micros - 1),
            high: Key::Time(micros + 1),
            exact: None,
        })
    }

    fn equal(self) -> Wanted {
        match self.exact {
            Some(key) => Wanted::Equal(vec![key]),
            None => Wanted::Between(self.class, Bound::Included(self.low), Bound::Included(self.high)),
        }
    }
}

/// A little below or above, more than any rounding does.
fn around(number: f64, sign: f64) -> f64 {
    number + sign * (number.abs() * 4.0 * f64::EPSILON + f64::MIN_POSITIVE)
}

/// Microseconds of the Unix epoch, rounded down.
fn micros(literal: &ScalarValue) -> Option<i64> {
    match literal {
        ScalarValue::Date32(Some(days)) => i64::from(*days).checked_mul(86_400_000_000),
        ScalarValue::TimestampSecond(Some(at), _) => at.checked_mul(1_000_000),
        ScalarValue::TimestampMillisecond(Some(at), _) => at.checked_mul(1000),
        ScalarValue::TimestampMicrosecond(Some(at), _) => Some(*at),
        ScalarValue::TimestampNanosecond(Some(at), _) => Some(at.div_euclid(1000)),
        _ => None,
    }
    .filter(|micros| micros.checked_add(1).is_some() && micros.checked_sub(1).is_some())
}

fn is_text(kind: &DataType) -> bool {
    matches!(kind, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

/// An expression of the query that an index may hold.
struct Resolved {
    of: Expression,
    kind: DataType,
    /// Whether the values are cast to another type of numbers.
    cast: bool,
}

fn resolve(expr: &Expr, names: &Names<'_>) -> Option<Resolved> {
    match expr {
        Expr::Cast(cast) => {
            let inner = resolve(&cast.expr, names)?;
            let target = cast.field.data_type();
            let wide = matches!(target, DataType::Float64 | DataType::Int64 | DataType::Decimal128(..));
            match () {
                () if is_text(&inner.kind) && is_text(target) => Some(inner),
                () if inner.kind.is_numeric() && wide => Some(Resolved { cast: true, ..inner }),
                () => None,
            }
        }
        Expr::Column(column) => {
            if let Some(attribute) = names.attributes.iter().find(|attribute| attribute.name() == column.name) {
                return Some(Resolved {
                    of: of_attribute(attribute)?,
                    kind: attribute.field().data_type().clone(),
                    cast: false,
                });
            }
            let (_, field) = names.content.column_with_name(&column.name)?;
            // Objects and arrays have no place in an index.
            if is_mixed(field) {
                return None;
            }
            let of = Expression::Field(vec![Step::Name(column.name.clone())]);
            Some(Resolved { of, kind: field.data_type().clone(), cast: false })
        }
        Expr::ScalarFunction(ScalarFunction { func, args }) => match (func.name(), args.as_slice()) {
            ("get_field", [of, Expr::Literal(name, _)]) => member(of, name.try_as_str()??, names),
            ("split_part", [of, Expr::Literal(slash, _), Expr::Literal(part, _)]) => {
                let part = match part {
                    ScalarValue::Int64(Some(part)) => u16::try_from(*part).ok().filter(|part| *part > 0)?,
                    _ => return None,
                };
                let key = resolve(of, names)?;
                (key.of == Expression::Key && slash.try_as_str()?? == "/")
                    .then_some(Resolved { of: Expression::KeyPart(part), ..key })
            }
            _ => None,
        },
        _ => None,
    }
}

/// A member of an object, or an entry of a map.
fn member(of: &Expr, name: &str, names: &Names<'_>) -> Option<Resolved> {
    if let Expr::Column(column) = of
        && let Some(attribute) = names.attributes.iter().find(|attribute| attribute.name() == column.name)
    {
        let of = match attribute {
            // Names of metadata are in lower case; any other finds nothing.
            Attribute::Metadata if name == name.to_lowercase() => Expression::Metadata(name.to_owned()),
            Attribute::Tags => Expression::Tag(name.to_owned()),
            _ => return None,
        };
        return Some(Resolved { of, kind: DataType::Utf8, cast: false });
    }
    let outer = resolve(of, names)?;
    let (Expression::Field(mut path), DataType::Struct(fields)) = (outer.of, &outer.kind) else { return None };
    let field = fields.iter().find(|field| field.name() == name).filter(|field| !is_mixed(field))?;
    path.push(Step::Name(name.to_owned()));
    Some(Resolved { of: Expression::Field(path), kind: field.data_type().clone(), cast: false })
}

fn of_attribute(attribute: &Attribute) -> Option<Expression> {
    Some(match attribute {
        Attribute::Key => Expression::Key,
        Attribute::Size => Expression::Size,
        Attribute::LastModified => Expression::LastModified,
        Attribute::Etag => Expression::Etag,
        Attribute::ContentType => Expression::ContentType,
        Attribute::VersionId
        | Attribute::Revision
        | Attribute::Metadata
        | Attribute::Tags
        | Attribute::Directory { .. } => return None,
    })
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{Field, Fields, TimeUnit};
    use datafusion::prelude::{col, lit};

    use super::super::attribute::HIDDEN;
    use super::*;

    fn wanted(filter: Expr) -> Vec<(String, Wanted)> {
        let inner = Fields::from(vec![Field::new("id", DataType::Int64, true)]);
        let schema = Schema::new(vec![
            Field::new("city", DataType::Utf8View, true),
            Field::new("n", DataType::Int64, true),
            Field::new("flag", DataType::Boolean, true),
            Field::new("day", DataType::Date32, true),
            Field::new("at", DataType::Timestamp(TimeUnit::Nanosecond, None), true),
            Field::new("customer", DataType::Struct(inner), true),
            Field::new("price", DataType::Decimal128(10, 2), true),
        ]);
        let names = Names { content: &schema, attributes: &HIDDEN };
        let found = predicates(&[filter], &names);
        found.into_iter().map(|predicate| (predicate.of.to_string(), predicate.wanted)).collect()
    }

    fn one(of: &str, wanted: Wanted) -> Vec<(String, Wanted)> {
        vec![(of.to_owned(), wanted)]
    }

    #[test]
    fn predicates_are_what_an_index_is_asked_for() {
        let check = |filter: Expr, expected: Vec<(String, Wanted)>| {
            let shown = filter.to_string();
            assert_eq!(wanted(filter), expected, "{shown}");
        };
        let text = |text: &str| Key::Text(text.to_owned());
        check(col("city").eq(lit("Bern")), one("city", Wanted::Equal(vec![text("Bern")])));
        check(col("city").eq(lit("10")), one("city", Wanted::Equal(vec![Key::Integer(10)])));
        check(lit(3_i64).eq(col("n")), one("n", Wanted::Equal(vec![Key::Number(3.0)])));
        check(
            col("n").gt(lit(3_i64)).and(col("n").lt_eq(lit(9_i64))),
            one(
                "n",
                Wanted::Between(Class::Number, Bound::Included(Key::Number(3.0)), Bound::Included(Key::Number(9.0))),
            ),
        );
        check(
            col("city").gt(lit("10")),
            one("city", Wanted::Between(Class::Text, Bound::Included(text("10")), Bound::Unbounded)),
        );
        check(
            col("n").in_list(vec![lit(1_i64), lit(2_i64)], false),
            one("n", Wanted::Equal(vec![Key::Number(1.0), Key::Number(2.0)])),
        );
        check(
            col("n").eq(lit(1_i64)).or(col("n").eq(lit(2_i64))),
            one("n", Wanted::Equal(vec![Key::Number(1.0), Key::Number(2.0)])),
        );
        check(col("city").like(lit("Be%n")), one("city", Wanted::Prefix("Be".to_owned())));
        check(!col("flag"), one("flag", Wanted::Equal(vec![Key::Bool(false)])));
        check(
            col("day").eq(lit(ScalarValue::Date32(Some(1)))),
            one(
                "day",
                Wanted::Between(
                    Class::Time,
                    Bound::Included(Key::Time(86_399_999_999)),
                    Bound::Included(Key::Time(86_400_000_001)),
                ),
            ),
        );
        check(
            col("_size").gt(lit(5_i64)),
            one("size", Wanted::Between(Class::Number, Bound::Included(Key::Number(5.0)), Bound::Unbounded)),
        );
        check(col("_key").like(lit("a/%")), one("key", Wanted::Prefix("a/".to_owned())));
    }

    #[test]
    fn what_an_index_cannot_answer_is_left_to_the_scan() {
        let check = |filter: Expr| {
            let shown = filter.to_string();
            assert_eq!(wanted(filter), Vec::new(), "{shown}");
        };
        check(col("city").not_eq(lit("Bern")));
        check(col("city").like(lit("%n")));
        check(col("city").like(lit("a\\%b")));
        check(col("city").eq(col("n")));
        check(col("n").eq(lit(ScalarValue::Int64(None))));
        check(col("n").eq(lit(1_i64)).or(col("city").eq(lit("x"))));
        check(col("n").in_list(vec![lit(1_i64)], true));
        check(col("n").eq(lit(f64::NAN)));
        check(col("_revision").eq(lit(1_i64)));
        check((col("n") + lit(1_i64)).eq(lit(2_i64)));
    }

    #[test]
    fn bounds_are_wide_where_values_are_rounded() {
        let found = wanted(col("n").eq(lit(9_007_199_254_740_993_i64)));
        let (_, Wanted::Between(Class::Number, Bound::Included(Key::Number(low)), Bound::Included(Key::Number(high)))) =
            &found[0]
        else {
            panic!("{found:?}")
        };
        assert!(*low < 9_007_199_254_740_992.0 && *high > 9_007_199_254_740_994.0);
        let price = ScalarValue::Decimal128(Some(110), 10, 2);
        assert!(matches!(&wanted(col("price").eq(lit(price)))[0].1, Wanted::Between(Class::Number, ..)));
    }
}
