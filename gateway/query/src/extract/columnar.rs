//! Rows of Parquet.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::DataType;
use bytes::Bytes;
use futures::StreamExt as _;
use holdfast_core::command::Outcome;
use holdfast_core::index::row::BlockRow;
use holdfast_core::index::{ContentIndex, Step, Value};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::arrow::async_reader::{AsyncFileReader, ParquetRecordBatchStreamBuilder};
use parquet::schema::types::SchemaDescriptor;

use super::{EachRow, Tuples, Unreadable, Wanted};
use crate::sql::bytes_of;

/// Rows of one batch.
const BATCH_ROWS: usize = 4096;

/// Reads Parquet that is in memory.
pub(super) fn read(content: Vec<u8>, paths: &[Vec<Step>], each: &mut EachRow<'_>) -> Result<(), Unreadable> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(Bytes::from(content)).map_err(Unreadable::new)?;
    let (projection, columns) = projected(builder.parquet_schema(), paths);
    let reader = builder.with_projection(projection).with_batch_size(BATCH_ROWS).build().map_err(Unreadable::new)?;
    for batch in reader {
        let batch = batch.map_err(Unreadable::new)?;
        each_row(&batch, paths, &columns, |values| each(0..0, values))?;
    }
    Ok(())
}

/// Reads the wanted columns of Parquet of any size: a summary of each row group, as the bytes of its columns.
///
/// # Errors
/// [`Unreadable`] for what is no Parquet.
pub async fn parquet_blocks<R>(reader: R, index: &ContentIndex) -> Result<Outcome, Unreadable>
where
    R: AsyncFileReader + Unpin + Send + Clone + 'static,
{
    let mut wanted = Wanted::new(std::slice::from_ref(index));
    let mut blocks: Vec<BlockRow> = Vec::new();
    // Read once: each footer tells of all row groups.
    let metadata = ArrowReaderMetadata::load_async(&mut reader.clone(), ArrowReaderOptions::new()).await;
    let metadata = metadata.map_err(Unreadable::new)?;
    for (group, described) in metadata.metadata().row_groups().iter().enumerate() {
        let builder = ParquetRecordBatchStreamBuilder::new_with_metadata(reader.clone(), metadata.clone());
        let (projection, columns) = projected(builder.parquet_schema(), &wanted.paths);
        let builder = builder.with_projection(projection).with_row_groups(vec![group]).with_batch_size(BATCH_ROWS);
        let mut stream = builder.build().map_err(Unreadable::new)?;
        let mut tuples = Tuples::default();
        while let Some(batch) = stream.next().await {
            let batch = batch.map_err(Unreadable::new)?;
            let paths = wanted.paths.clone();
            each_row(&batch, &paths, &columns, |values| {
                if let Some(tuple) = wanted.tuple(0, values) {
                    tuples.push(tuple);
                }
                Ok(())
            })?;
        }
        let block = tuples.block(bytes_of(described));
        if !block.low.is_empty() {
            blocks.push(block);
        }
    }
    Ok(Outcome::Blocks(blocks))
}

/// The columns that the paths begin with, and the name in the file of each path's column.
fn projected(schema: &SchemaDescriptor, paths: &[Vec<Step>]) -> (ProjectionMask, Vec<Option<String>>) {
    let fields = schema.root_schema().get_fields();
    let columns = paths.iter().map(|path| {
        let Some(Step::Name(name)) = path.first() else { return None };
        let exact = fields.iter().position(|field| field.name() == name);
        exact.or_else(|| fields.iter().position(|field| field.name().eq_ignore_ascii_case(name)))
    });
    let columns: Vec<Option<usize>> = columns.collect();
    let names = columns.iter().map(|column| column.map(|column| fields[column].name().to_owned())).collect();
    (ProjectionMask::roots(schema, columns.into_iter().flatten()), names)
}

fn each_row(
    batch: &RecordBatch,
    paths: &[Vec<Step>],
    columns: &[Option<String>],
    mut each: impl FnMut(&[Value<'_>]) -> Result<(), Unreadable>,
) -> Result<(), Unreadable> {
    let arrays: Vec<Option<ArrayRef>> = paths
        .iter()
        .zip(columns)
        .map(|(path, column)| descend(batch.column_by_name(column.as_deref()?)?.clone(), &path[1..]))
        .collect();
    for row in 0..batch.num_rows() {
        let texts: Vec<Option<String>> = arrays.iter().map(|array| text_of(array.as_ref()?, row)).collect();
        let values: Vec<Value<'_>> = arrays
            .iter()
            .zip(&texts)
            .map(|(array, text)| array.as_ref().map_or(Value::Null, |array| value(array, row, text.as_deref())))
            .collect();
        each(&values)?;
    }
    Ok(())
}

/// The array that further steps lead to.
fn descend(array: ArrayRef, path: &[Step]) -> Option<ArrayRef> {
    path.iter().try_fold(array, |array, step| match step {
        Step::Name(name) => array.as_struct_opt()?.column_by_name(name).cloned(),
        Step::Element(_) => None,
    })
}

/// The text of a value that is neither a number, nor a time, nor a boolean, nor text as it is.
fn text_of(array: &ArrayRef, row: usize) -> Option<String> {
    let plain = matches!(array.data_type(), DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
        || array.data_type().is_numeric()
        || matches!(
            array.data_type(),
            DataType::Boolean | DataType::Timestamp(..) | DataType::Date32 | DataType::Date64
        );
    if array.is_null(row) || (plain && !decimal(array.data_type())) {
        return None;
    }
    arrow::util::display::array_value_to_string(array, row).ok()
}

fn decimal(kind: &DataType) -> bool {
    matches!(
        kind,
        DataType::Decimal32(..) | DataType::Decimal64(..) | DataType::Decimal128(..) | DataType::Decimal256(..)
    )
}

fn value<'a>(array: &'a ArrayRef, row: usize, text: Option<&'a str>) -> Value<'a> {
    use arrow::datatypes::*;
    if array.is_null(row) {
        return Value::Null;
    }
    let integer = |value: i64| Value::Integer(value);
    match array.data_type() {
        DataType::Boolean => Value::Bool(array.as_boolean().value(row)),
        DataType::Int8 => integer(array.as_primitive::<Int8Type>().value(row).into()),
        DataType::Int16 => integer(array.as_primitive::<Int16Type>().value(row).into()),
        DataType::Int32 => integer(array.as_primitive::<Int32Type>().value(row).into()),
        DataType::Int64 => integer(array.as_primitive::<Int64Type>().value(row)),
        DataType::UInt8 => integer(array.as_primitive::<UInt8Type>().value(row).into()),
        DataType::UInt16 => integer(array.as_primitive::<UInt16Type>().value(row).into()),
        DataType::UInt32 => integer(array.as_primitive::<UInt32Type>().value(row).into()),
        DataType::UInt64 => {
            let value = array.as_primitive::<UInt64Type>().value(row);
            i64::try_from(value).map_or_else(|_| Value::Number(value as f64), Value::Integer)
        }
        DataType::Float16 => Value::number(array.as_primitive::<Float16Type>().value(row).to_f64()),
        DataType::Float32 => Value::number(array.as_primitive::<Float32Type>().value(row).into()),
        DataType::Float64 => Value::number(array.as_primitive::<Float64Type>().value(row)),
        DataType::Utf8 => Value::canonical(array.as_string::<i32>().value(row)),
        DataType::LargeUtf8 => Value::canonical(array.as_string::<i64>().value(row)),
        DataType::Utf8View => Value::canonical(array.as_string_view().value(row)),
        DataType::Date32 => Value::Time(i64::from(array.as_primitive::<Date32Type>().value(row)) * 86_400_000_000),
        DataType::Date64 => Value::Time(array.as_primitive::<Date64Type>().value(row).saturating_mul(1000)),
        DataType::Timestamp(unit, _) => Value::Time(match unit {
            TimeUnit::Second => array.as_primitive::<TimestampSecondType>().value(row).saturating_mul(1_000_000),
            TimeUnit::Millisecond => array.as_primitive::<TimestampMillisecondType>().value(row).saturating_mul(1000),
            TimeUnit::Microsecond => array.as_primitive::<TimestampMicrosecondType>().value(row),
            TimeUnit::Nanosecond => array.as_primitive::<TimestampNanosecondType>().value(row).div_euclid(1000),
        }),
        _ => text.map_or(Value::Null, Value::canonical),
    }
}
