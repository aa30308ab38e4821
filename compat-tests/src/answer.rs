//! Answers of SQL engines, in one form: compared exactly, but for numbers that are not integers.
//!
//! Two numbers are equal when they differ by at most [`TOLERANCE`] of the larger one, or of 1 when both are smaller:
//! engines sum in another order, and give averages and quotients of decimals other numbers of digits.

use anyhow::{Context, Result};
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float32Type, Float64Type};
use arrow::ipc::reader::StreamReader;
use arrow::util::display::array_value_to_string;
use serde_json::Value;

/// How far numbers may be apart, as a part of them.
pub const TOLERANCE: f64 = 1e-6;
/// Rows that a difference shows.
const SHOWN_ROWS: usize = 3;

/// A value of an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// None.
    Null,
    /// True or false.
    Bool(bool),
    /// An integer.
    Integer(i128),
    /// A decimal or a float.
    Number(f64),
    /// Text; dates and times as ISO 8601 writes them.
    Text(String),
}

/// The rows of an answer.
pub type Rows = Vec<Vec<Cell>>;

impl Cell {
    fn number(&self) -> Option<f64> {
        match self {
            Self::Integer(integer) => Some(*integer as f64),
            Self::Number(number) => Some(*number),
            _ => None,
        }
    }

    fn equals(&self, other: &Self) -> bool {
        if self == other {
            return true;
        }
        if let (Self::Integer(_), Self::Integer(_)) = (self, other) {
            return false;
        }
        let (Some(a), Some(b)) = (self.number(), other.number()) else { return false };
        let near = || (a - b).abs() <= TOLERANCE * a.abs().max(b.abs()).max(1.0);
        (a.is_nan() && b.is_nan()) || a == b || (a.is_finite() && b.is_finite() && near())
    }

    /// What rows are sorted by: numbers of all kinds by their value.
    fn place(&self) -> (u8, f64, &str) {
        match self {
            Self::Null => (0, 0.0, ""),
            Self::Bool(flag) => (1, f64::from(u8::from(*flag)), ""),
            Self::Integer(_) | Self::Number(_) => (2, one_form(self.number().unwrap_or_default()), ""),
            Self::Text(text) => (3, 0.0, text),
        }
    }
}

/// Without signs of zero and of NaN.
fn one_form(number: f64) -> f64 {
    if number.is_nan() { f64::NAN } else { number + 0.0 }
}

/// The rows of an Arrow stream.
///
/// # Errors
/// When it is none.
pub fn of_arrow(stream: &[u8]) -> Result<Rows> {
    let mut rows = Vec::new();
    for batch in StreamReader::try_new(stream, None)? {
        let batch: RecordBatch = batch?;
        for row in 0..batch.num_rows() {
            rows.push(batch.columns().iter().map(|column| cell(column, row)).collect::<Result<_>>()?);
        }
    }
    Ok(rows)
}

fn cell(column: &ArrayRef, row: usize) -> Result<Cell> {
    if column.is_null(row) {
        return Ok(Cell::Null);
    }
    let kind = column.data_type();
    if kind.is_integer() {
        return Ok(Cell::Integer(array_value_to_string(column, row)?.parse()?));
    }
    Ok(match kind {
        DataType::Null => Cell::Null,
        DataType::Boolean => Cell::Bool(column.as_boolean().value(row)),
        DataType::Float32 => Cell::Number(column.as_primitive::<Float32Type>().value(row).into()),
        DataType::Float64 => Cell::Number(column.as_primitive::<Float64Type>().value(row)),
        DataType::Decimal128(..) => Cell::Number(array_value_to_string(column, row)?.parse()?),
        _ => Cell::Text(array_value_to_string(column, row)?),
    })
}

/// The rows that `compat-tests/duckdb/ask.py` prints.
///
/// # Errors
/// When they are not written as it writes them.
pub fn of_duckdb(rows: &Value) -> Result<Rows> {
    let rows = rows.as_array().context("no rows")?;
    rows.iter().map(|row| row.as_array().context("no row")?.iter().map(tagged).collect()).collect()
}

fn tagged(value: &Value) -> Result<Cell> {
    Ok(match value {
        Value::Null => Cell::Null,
        Value::Bool(flag) => Cell::Bool(*flag),
        Value::String(text) => Cell::Text(text.clone()),
        Value::Object(tagged) => {
            let text = |tag: &str| tagged.get(tag).and_then(Value::as_str);
            match (text("i"), text("f")) {
                (Some(integer), _) => Cell::Integer(integer.parse()?),
                (None, Some(number)) => Cell::Number(number.parse()?),
                (None, None) => anyhow::bail!("{value} is no value"),
            }
        }
        other => anyhow::bail!("{other} is no value"),
    })
}

/// Whether the order of rows counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Rows are compared one by one.
    Counts,
    /// Rows are compared as a set in which a row may be more than once.
    DoesNot,
}

/// Compares two answers.
///
/// # Errors
/// With the first rows that differ.
pub fn same(ours: &Rows, theirs: &Rows, order: Order) -> Result<()> {
    let (mut ours, mut theirs): (Vec<_>, Vec<_>) = (ours.iter().collect(), theirs.iter().collect());
    if order == Order::DoesNot {
        sort(&mut ours);
        sort(&mut theirs);
    }
    let equal = |(a, b): (&&Vec<Cell>, &&Vec<Cell>)| a.len() == b.len() && a.iter().zip(*b).all(|(a, b)| a.equals(b));
    let first = ours.iter().zip(&theirs).position(|pair| !equal(pair));
    let first = first.or_else(|| (ours.len() != theirs.len()).then(|| ours.len().min(theirs.len())));
    let shown = |rows: &[&Vec<Cell>], at: usize| format!("{:?}", &rows[at..rows.len().min(at + SHOWN_ROWS)]);
    match first {
        None => Ok(()),
        Some(at) => anyhow::bail!(
            "{} rows beside {}; from row {at} on they differ:\n  ours   {}\n  theirs {}",
            ours.len(),
            theirs.len(),
            shown(&ours, at),
            shown(&theirs, at)
        ),
    }
}

fn sort(rows: &mut [&Vec<Cell>]) {
    rows.sort_by(|a, b| {
        let cells = a.iter().zip(b.iter()).map(|(a, b)| {
            if let (Cell::Integer(a), Cell::Integer(b)) = (a, b) {
                return a.cmp(b);
            }
            let (a, b) = (a.place(), b.place());
            a.0.cmp(&b.0).then_with(|| a.1.total_cmp(&b.1)).then_with(|| a.2.cmp(b.2))
        });
        cells.fold(std::cmp::Ordering::Equal, std::cmp::Ordering::then)
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(number: f64, text: &str) -> Vec<Cell> {
        vec![Cell::Number(number), Cell::Text(text.to_owned())]
    }

    #[test]
    fn numbers_are_equal_within_the_tolerance_and_integers_exactly() {
        let check = |a: Cell, b: Cell, equal: bool| assert_eq!(a.equals(&b), equal, "{a:?} {b:?}");
        check(Cell::Number(1e9), Cell::Number(1e9 + 100.0), true);
        check(Cell::Number(1e9), Cell::Number(1e9 + 2000.0), false);
        check(Cell::Number(0.0), Cell::Number(2e-6), false);
        check(Cell::Integer(1 << 60), Cell::Integer((1 << 60) + 1), false);
        check(Cell::Integer(2), Cell::Number(2.0), true);
        check(Cell::Number(f64::NAN), Cell::Number(-f64::NAN), true);
        check(Cell::Number(f64::INFINITY), Cell::Number(f64::MAX), false);
        check(Cell::Null, Cell::Number(0.0), false);
        check(Cell::Text("1".to_owned()), Cell::Integer(1), false);
    }

    #[test]
    fn order_counts_only_where_it_is_said_to() {
        let (ab, ba) = (vec![row(1.0, "a"), row(f64::NAN, "b")], vec![row(f64::NAN, "b"), row(1.0, "a")]);
        assert!(same(&ab, &ba, Order::DoesNot).is_ok());
        assert!(same(&ab, &ba, Order::Counts).is_err());
        assert!(same(&ab, &ab[..1].to_vec(), Order::DoesNot).is_err());
        assert!(same(&vec![row(1.0, "a"); 2], &vec![row(1.0, "a")], Order::DoesNot).is_err());
    }
}
