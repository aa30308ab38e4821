//! Aggregate functions: what each has seen, in parts that are merged in the order of the records.

use std::cmp::Ordering;

use rust_decimal::Decimal;

use super::error::Error;
use super::eval::Row;
use super::syntax::{Aggregate, AggregateKind};
use super::value::{Arithmetic, Number, Value};

/// What one aggregate function has seen. Null and missing values are not seen.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    count: u64,
    /// The sums of each type are kept apart, so that integers are summed exactly whatever their order is.
    integers: i128,
    decimals: Option<Decimal>,
    floats: Option<f64>,
    /// The least or the greatest value, of fields of CSV as numbers.
    extreme: Option<Value<'static>>,
    /// The least or the greatest field of CSV as text, and whether one of them is no number: then all of them are text.
    field: Option<String>,
    worded: bool,
}

impl Seen {
    pub(super) fn add(&mut self, aggregate: &Aggregate, row: Row<'_>) -> Result<(), Error> {
        let Some(argument) = &aggregate.argument else {
            self.count += 1;
            return Ok(());
        };
        let value = argument.value(row)?;
        if value.is_unknown() {
            return Ok(());
        }
        self.count += 1;
        match aggregate.kind {
            AggregateKind::Count => Ok(()),
            AggregateKind::Sum | AggregateKind::Average => {
                self.add_number(value.number().ok_or_else(|| Error::type_of("SUM or AVG"))?)
            }
            AggregateKind::Min => self.keep(value, Ordering::Less),
            AggregateKind::Max => self.keep(value, Ordering::Greater),
        }
    }

    fn add_number(&mut self, number: Number) -> Result<(), Error> {
        match number {
            Number::Int(value) => self.integers += i128::from(value),
            Number::Decimal(value) => {
                let sum = self.decimals.unwrap_or_default().checked_add(value);
                self.decimals = Some(sum.ok_or_else(Error::overflow)?);
            }
            Number::Float(value) => self.floats = Some(self.floats.unwrap_or_default() + value),
        }
        Ok(())
    }

    /// Keeps a value that stands on the wanted side of what was kept.
    fn keep(&mut self, value: Value<'_>, side: Ordering) -> Result<(), Error> {
        let value = match (value.number(), value) {
            (number, Value::Field(text)) => {
                self.keep_field(&text, side);
                let Some(number) = number else {
                    self.worded = true;
                    return Ok(());
                };
                number.value()
            }
            (_, value) => value,
        };
        let replaces = match &self.extreme {
            None => true,
            Some(kept) => value.compare(kept).ok_or_else(|| Error::type_of("MIN or MAX"))? == side,
        };
        if replaces {
            self.extreme = Some(value.into_owned());
        }
        Ok(())
    }

    fn keep_field(&mut self, text: &str, side: Ordering) {
        if self.field.as_deref().is_none_or(|kept| text.cmp(kept) == side) {
            self.field = Some(text.to_owned());
        }
    }

    /// Adds what was seen of later records.
    pub(super) fn merge(&mut self, aggregate: &Aggregate, later: Self) -> Result<(), Error> {
        self.count += later.count;
        self.integers += later.integers;
        if let Some(decimals) = later.decimals {
            self.add_number(Number::Decimal(decimals))?;
        }
        if let Some(floats) = later.floats {
            self.add_number(Number::Float(floats))?;
        }
        let side = if aggregate.kind == AggregateKind::Min { Ordering::Less } else { Ordering::Greater };
        self.worded |= later.worded;
        if let Some(text) = later.field {
            self.keep_field(&text, side);
        }
        later.extreme.map_or(Ok(()), |value| self.keep(value, side))
    }

    /// The result: null where nothing was seen, except of a count.
    pub(super) fn result(&self, aggregate: &Aggregate) -> Result<Value<'static>, Error> {
        match aggregate.kind {
            AggregateKind::Count => Ok(Value::Int(i64::try_from(self.count).map_err(|_| Error::overflow())?)),
            _ if self.count == 0 => Ok(Value::Null),
            AggregateKind::Sum => self.sum().map(Number::value),
            AggregateKind::Average => {
                let count = i64::try_from(self.count).map_err(|_| Error::overflow())?;
                let sum = match self.sum()? {
                    Number::Int(sum) => Number::Decimal(sum.into()),
                    sum => sum,
                };
                sum.compute(Arithmetic::Divide, Number::Int(count)).map(Number::value)
            }
            AggregateKind::Min | AggregateKind::Max if self.worded => {
                Ok(self.field.clone().map_or(Value::Null, |text| Value::Text(text.into())))
            }
            AggregateKind::Min | AggregateKind::Max => Ok(self.extreme.clone().unwrap_or(Value::Null)),
        }
    }

    fn sum(&self) -> Result<Number, Error> {
        let integers = match i64::try_from(self.integers) {
            Ok(sum) => Number::Int(sum),
            Err(_) => {
                let sum = Decimal::try_from_i128_with_scale(self.integers, 0);
                Number::Decimal(sum.map_err(|_| Error::overflow())?)
            }
        };
        let mut sum = integers;
        if let Some(decimals) = self.decimals {
            sum = sum.compute(Arithmetic::Add, Number::Decimal(decimals))?;
        }
        if let Some(floats) = self.floats {
            sum = sum.compute(Arithmetic::Add, Number::Float(floats))?;
        }
        Ok(sum)
    }
}
