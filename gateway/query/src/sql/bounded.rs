//! Functions that make much out of little: how much is estimated before it is made, because no pool counts it.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, FieldRef, Int64Type, IntervalMonthDayNanoType, IntervalUnit, TimeUnit};
use datafusion::common::{DataFusionError, ExprSchema, Result, ScalarValue};
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
};

use super::error::{Error, Kind};

/// Bytes that one call makes for the rows of a batch.
const MADE_BYTES_MAX: u128 = 256 << 20;

/// How the size of what a function makes follows from its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Growth {
    /// The first, so many times.
    Times,
    /// So many characters.
    Characters,
    /// So many elements like the third.
    Elements,
    /// From the first to the second by the third.
    Series,
    /// The first, with the third in place of each character at worst.
    Replaced,
}

/// The function, bounded when it is one of those.
pub(super) fn bounded(function: Arc<ScalarUDF>) -> Arc<ScalarUDF> {
    let growth = match function.name() {
        "repeat" | "array_repeat" => Growth::Times,
        "lpad" | "rpad" => Growth::Characters,
        "array_resize" => Growth::Elements,
        "range" | "generate_series" => Growth::Series,
        "replace" => Growth::Replaced,
        _ => return function,
    };
    Arc::new(ScalarUDF::new_from_impl(Bounded { inner: function, growth }))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Bounded {
    inner: Arc<ScalarUDF>,
    growth: Growth,
}

impl ScalarUDFImpl for Bounded {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        self.inner.inner().return_type(arg_types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        self.inner.inner().return_field_from_args(args)
    }

    fn is_nullable(&self, args: &[Expr], schema: &dyn ExprSchema) -> bool {
        #[expect(deprecated, reason = "the function that is bounded decides")]
        self.inner.inner().is_nullable(args, schema)
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.inner().coerce_types(arg_types)
    }

    fn simplify(&self, args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        self.inner.inner().simplify(args, info)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = args.args.iter().map(|arg| arg.to_array(args.number_rows)).collect::<Result<Vec<_>>>()?;
        let made = self.growth.bytes(&arrays)?;
        if made > MADE_BYTES_MAX {
            let message =
                format!("{} would make {made} bytes, more than the {MADE_BYTES_MAX} that it may", self.name());
            return Err(Error::new(Kind::Invalid, "ResultTooLarge", message).into());
        }
        self.inner.inner().invoke_with_args(args)
    }
}

impl Growth {
    fn bytes(self, args: &[ArrayRef]) -> Result<u128> {
        match (self, args) {
            (Self::Times, [what, times, ..]) => {
                let (each, times) = (sizes(what)?, numbers(times)?);
                Ok(sum(what.len(), |row| each[row] * count(&times, row)))
            }
            // A character has at most four bytes.
            (Self::Characters, [what, length, ..]) => {
                let length = numbers(length)?;
                Ok(sum(what.len(), |row| 4 * count(&length, row)))
            }
            (Self::Elements, [what, length, rest @ ..]) => {
                let length = numbers(length)?;
                let each = rest.first().map(sizes).transpose()?;
                Ok(sum(what.len(), |row| each.as_ref().map_or(8, |each| each[row]) * count(&length, row)))
            }
            (Self::Series, [from, rest @ ..]) => series(from, rest.first(), rest.get(1)),
            (Self::Replaced, [what, _, with]) => {
                let (what, with) = (sizes(what)?, sizes(with)?);
                Ok(sum(what.len(), |row| what[row] * with[row]))
            }
            _ => Ok(0),
        }
    }
}

fn sum(rows: usize, of: impl Fn(usize) -> u128) -> u128 {
    (0..rows).map(of).fold(0, u128::saturating_add)
}

/// Bytes of each value, at least one.
fn sizes(array: &ArrayRef) -> Result<Vec<u128>> {
    if array.data_type().is_string() {
        let texts = cast(array, &DataType::LargeUtf8)?;
        let texts = texts.as_string::<i64>();
        return Ok((0..texts.len()).map(|row| (texts.value_length(row).max(1)).unsigned_abs().into()).collect());
    }
    let of = |row: usize| array.slice(row, 1).to_data().get_slice_memory_size().map(|bytes| bytes.max(1) as u128);
    (0..array.len()).map(|row| of(row).map_err(DataFusionError::from)).collect()
}

fn numbers(array: &ArrayRef) -> Result<Int64Array> {
    Ok(cast(array, &DataType::Int64)?.as_primitive::<Int64Type>().clone())
}

fn count(numbers: &Int64Array, row: usize) -> u128 {
    if numbers.is_null(row) { 0 } else { numbers.value(row).max(0).unsigned_abs().into() }
}

/// Elements of a series take eight bytes each. One bound alone is the end of a series from zero.
fn series(from: &ArrayRef, to: Option<&ArrayRef>, step: Option<&ArrayRef>) -> Result<u128> {
    let (from, to): (ArrayRef, &ArrayRef) = match to {
        Some(to) => (Arc::clone(from), to),
        None => (ScalarValue::Int64(Some(0)).to_array_of_size(from.len())?, from),
    };
    let whole = |array: &ArrayRef| -> Result<Int64Array> {
        if array.data_type().is_integer() || array.data_type() == &DataType::Null {
            return numbers(array);
        }
        // Points in time are compared in nanoseconds, as steps are.
        numbers(&cast(array, &DataType::Timestamp(TimeUnit::Nanosecond, None))?)
    };
    let (from, to) = (whole(&from)?, whole(to)?);
    let steps = step.map(step_sizes).transpose()?;
    Ok(sum(from.len(), |row| {
        if from.is_null(row) || to.is_null(row) {
            return 0;
        }
        let distance = (i128::from(to.value(row)) - i128::from(from.value(row))).unsigned_abs();
        let step = steps.as_ref().map_or(1, |steps| steps[row]).max(1);
        8 * (distance / step + 1)
    }))
}

fn step_sizes(step: &ArrayRef) -> Result<Vec<u128>> {
    if !matches!(step.data_type(), DataType::Interval(_)) {
        let steps = numbers(step)?;
        return Ok((0..steps.len()).map(|row| steps.value(row).unsigned_abs().into()).collect());
    }
    let steps = cast(step, &DataType::Interval(IntervalUnit::MonthDayNano))?;
    let steps = steps.as_primitive::<IntervalMonthDayNanoType>();
    const DAY: i128 = 86_400_000_000_000;
    let size = |row: usize| {
        let step = steps.value(row);
        let days = i128::from(step.months) * 28 + i128::from(step.days);
        (days * DAY + i128::from(step.nanoseconds)).unsigned_abs()
    };
    Ok((0..steps.len()).map(size).collect())
}

#[cfg(test)]
mod tests {
    use arrow::array::StringArray;

    use super::*;

    #[test]
    fn what_is_made_is_estimated() {
        let check = |growth: Growth, args: Vec<ScalarValue>, expected: u128| {
            let arrays: Vec<ArrayRef> = args.iter().map(|arg| arg.to_array_of_size(2).unwrap()).collect();
            assert_eq!(growth.bytes(&arrays).unwrap(), expected, "{growth:?} {args:?}");
        };
        let (text, number) = (|text: &str| ScalarValue::from(text), |number: i64| ScalarValue::from(number));
        check(Growth::Times, vec![text("abc"), number(10)], 60);
        check(Growth::Times, vec![text("abc"), number(-1)], 0);
        check(Growth::Times, vec![text("abc"), ScalarValue::Int64(None)], 0);
        check(Growth::Characters, vec![text(""), number(10), text("x")], 80);
        check(Growth::Series, vec![number(1), number(i64::MAX)], 2 * 8 * (i64::MAX as u128));
        check(Growth::Series, vec![number(10)], 2 * 8 * 11);
        check(Growth::Series, vec![number(0), number(100), number(-10)], 2 * 8 * 11);
        check(Growth::Replaced, vec![text("aaaa"), text("a"), text("bbb")], 24);
        let days =
            vec![ScalarValue::Date32(Some(0)), ScalarValue::Date32(Some(10)), ScalarValue::new_interval_mdn(0, 1, 0)];
        check(Growth::Series, days, 2 * 8 * 11);
        let mixed: Vec<ArrayRef> =
            vec![Arc::new(StringArray::from(vec!["a", "bcd"])), Arc::new(Int64Array::from(vec![5, 7]))];
        assert_eq!(Growth::Times.bytes(&mixed).unwrap(), 5 + 21);
    }
}
