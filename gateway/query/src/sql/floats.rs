//! Floats as SQL compares them: one NaN, greater than every number, and one zero.
//!
//! The engine compares floats by their bits (IEEE 754, totalOrder), in which a NaN with a sign is below all numbers, and -0
//! below 0; and files leave NaN out of the bounds of their row groups and pages. So floats get one form when they leave a
//! scan, and whatever compares them stands above it: no bounds, no Bloom filter and no filter inside a scan sees them.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, PrimitiveArray, RecordBatch, RecordBatchOptions, make_array};
use arrow::datatypes::{ArrowPrimitiveType, DataType, Float16Type, Float32Type, Float64Type, Schema};
use arrow::error::ArrowError;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::utils::collect_columns;

type Half = <Float16Type as ArrowPrimitiveType>::Native;

/// Whether values of this type are floats, or hold some.
pub(super) fn holds_floats(kind: &DataType) -> bool {
    match kind {
        DataType::Float16 | DataType::Float32 | DataType::Float64 => true,
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _)
        | DataType::Map(item, _) => holds_floats(item.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| holds_floats(field.data_type())),
        DataType::Dictionary(_, values) => holds_floats(values),
        _ => false,
    }
}

/// Whether an expression over columns of `schema` reads one with floats.
pub(super) fn reads_floats(expr: &Arc<dyn PhysicalExpr>, schema: &Schema) -> bool {
    let columns = collect_columns(expr);
    columns.iter().any(|column| holds_floats(schema.field(column.index()).data_type()))
}

/// The same rows with floats in their one form.
///
/// # Errors
/// When arrays cannot be put together again.
pub(super) fn in_one_form(batch: RecordBatch) -> Result<RecordBatch, ArrowError> {
    let columns = batch.columns().iter().map(canonical).collect::<Result<Vec<_>, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(batch.schema(), columns, &options)
}

fn canonical(array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    Ok(match array.data_type() {
        DataType::Float16 => numbers(
            array.as_primitive::<Float16Type>(),
            |value| if value.is_nan() { Half::NAN } else { value + Half::ZERO },
            Half::to_bits,
        ),
        DataType::Float32 => numbers(
            array.as_primitive::<Float32Type>(),
            |value| if value.is_nan() { f32::NAN } else { value + 0.0 },
            f32::to_bits,
        ),
        DataType::Float64 => numbers(
            array.as_primitive::<Float64Type>(),
            |value| if value.is_nan() { f64::NAN } else { value + 0.0 },
            f64::to_bits,
        ),
        kind if holds_floats(kind) => {
            let data = array.to_data();
            let children = data.child_data().iter().map(|child| Ok(canonical(&make_array(child.clone()))?.to_data()));
            let children = children.collect::<Result<Vec<_>, ArrowError>>()?;
            make_array(data.into_builder().child_data(children).build()?)
        }
        _ => Arc::clone(array),
    })
}

/// A new array only where there is a value in another form, which is seldom.
fn numbers<T: ArrowPrimitiveType, B: PartialEq>(
    array: &PrimitiveArray<T>,
    form: impl Fn(T::Native) -> T::Native,
    bits: impl Fn(T::Native) -> B,
) -> ArrayRef {
    if array.values().iter().all(|value| bits(form(*value)) == bits(*value)) {
        return Arc::new(array.clone());
    }
    Arc::new(array.unary::<_, T>(form))
}

#[cfg(test)]
mod tests {
    use arrow::array::{Float32Array, Float64Array, Int64Array, StructArray};
    use arrow::datatypes::Field;

    use super::*;

    #[test]
    fn there_is_one_zero_and_one_nan_wherever_a_float_is() {
        let odd = || Float64Array::from(vec![Some(-0.0), None, Some(-f64::NAN), Some(1.5), Some(f64::NEG_INFINITY)]);
        let inner: ArrayRef = Arc::new(odd());
        let nested = StructArray::from(vec![(Arc::new(Field::new("x", DataType::Float64, true)), inner)]);
        let batch = RecordBatch::try_from_iter_with_nullable([
            ("f", Arc::new(odd()) as ArrayRef, true),
            ("s", Arc::new(nested) as ArrayRef, true),
            ("g", Arc::new(Float32Array::from(vec![-f32::NAN, -0.0, 1.0, 2.0, 3.0])) as ArrayRef, true),
            ("n", Arc::new(Int64Array::from(vec![1, 2, 3, 4, 5])) as ArrayRef, true),
        ])
        .unwrap();
        let found = in_one_form(batch).unwrap();
        let bits = |array: &Float64Array| -> Vec<_> { array.iter().map(|value| value.map(f64::to_bits)).collect() };
        let expected: Vec<_> =
            [Some(0.0), None, Some(f64::NAN), Some(1.5), Some(f64::NEG_INFINITY)].map(|v| v.map(f64::to_bits)).into();
        assert_eq!(bits(found.column(0).as_primitive()), expected);
        assert_eq!(bits(found.column(1).as_struct().column(0).as_primitive()), expected);
        let small: Vec<u32> =
            found.column(2).as_primitive::<Float32Type>().values().iter().map(|f| f.to_bits()).collect();
        assert_eq!(small, [f32::NAN, 0.0, 1.0, 2.0, 3.0].map(f32::to_bits));
    }
}
