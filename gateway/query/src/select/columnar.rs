//! Records of Parquet.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::*;
use arrow::error::ArrowError;
use arrow::json::writer::{EncoderOptions, make_encoder};
use parquet::arrow::ProjectionMask;
use parquet::schema::types::SchemaDescriptor;
use rust_decimal::Decimal;

use super::error::Error;
use super::json;
use super::output::RECORD_BYTES_MAX;
use super::request::Output;
use super::syntax::{Column, Step};
use super::timestamp::Timestamp;
use super::value::Value;

pub(super) fn malformed(error: impl std::fmt::Display) -> Error {
    Error::new("ParquetParsingError", format!("Error parsing Parquet file: {error}. Check the file and try again."))
}

/// The columns of a statement, as one object has them.
#[derive(Clone, Debug)]
pub(super) struct Columns {
    /// The name in the object of each column's first step, with its further steps.
    places: Vec<Option<(String, Vec<Step>)>>,
    /// What is read of the object.
    pub(super) projection: ProjectionMask,
}

impl Columns {
    /// Finds the columns by name. With `all`, every column is read.
    ///
    /// # Errors
    /// `EvaluatorBindingDoesNotExist` for a name that the object lacks, when `strict`.
    pub(super) fn of(columns: &[Column], schema: &SchemaDescriptor, all: bool, strict: bool) -> Result<Self, Error> {
        let fields = schema.root_schema().get_fields();
        let root = |column: &Column| {
            let step = column.steps.first()?;
            let exact = fields.iter().position(|field| matches!(step, Step::Name { name, .. } if name == field.name()));
            exact.or_else(|| fields.iter().position(|field| step.names(field.name())))
        };
        let roots: Vec<Option<usize>> = columns.iter().map(root).collect();
        let lacks = |(column, root): &(&Column, &Option<usize>)| root.is_none() && !column.steps.is_empty();
        if let Some((column, _)) = columns.iter().zip(&roots).find(lacks).filter(|_| strict) {
            let name = match column.steps.first() {
                Some(Step::Name { name, .. }) => name.as_str(),
                _ => "[]",
            };
            return Err(Error::new("EvaluatorBindingDoesNotExist", format!("the object has no column {name:?}")));
        }
        let places = columns.iter().zip(&roots);
        let places =
            places.map(|(column, root)| Some((fields[(*root)?].name().to_owned(), column.steps[1..].to_vec())));
        // The record itself is made of all columns.
        let all = all || columns.iter().any(|column| column.steps.is_empty());
        Ok(Self {
            places: places.collect(),
            projection: if all {
                ProjectionMask::all()
            } else {
                ProjectionMask::roots(schema, roots.iter().flatten().copied())
            },
        })
    }
}

/// A record of a batch.
pub(super) struct Record<'r> {
    batch: &'r RecordBatch,
    row: usize,
}

impl Record<'_> {
    /// Writes all its fields.
    pub(super) fn write(&self, output: &Output, out: &mut Vec<u8>) -> Result<(), Error> {
        let schema = self.batch.schema_ref();
        let mut values = Vec::with_capacity(schema.fields().len());
        for (field, array) in schema.fields().iter().zip(self.batch.columns()) {
            values.push((Cow::Borrowed(&field.name()[..]), value(array, field, self.row)?));
        }
        output.write(values.into_iter(), out)
    }
}

/// What is done with each record; false ends the reading.
pub(super) type Each<'e> = dyn FnMut(&[Value<'_>], &Record<'_>) -> Result<bool, Error> + 'e;

/// Where the values of a column come from.
enum Source {
    /// An array, and the objects that it lies in: where one is null, there is no member.
    Array(ArrayRef, FieldRef, Vec<ArrayRef>),
    /// Steps into the JSON of an array.
    Inside(ArrayRef, FieldRef, Vec<ArrayRef>, Vec<Step>),
    Whole,
    Nowhere,
}

/// Gives each record of a batch to `each`. False when that has seen enough.
pub(super) fn read(
    batch: &RecordBatch,
    columns: &[Column],
    found: &Columns,
    each: &mut Each<'_>,
) -> Result<bool, Error> {
    let sources: Vec<Source> =
        columns.iter().zip(&found.places).map(|(column, place)| source(batch, column, place.as_ref())).collect();
    for row in 0..batch.num_rows() {
        let record = Record { batch, row };
        let mut values = Vec::with_capacity(sources.len());
        for source in &sources {
            values.push(match source {
                Source::Array(_, _, around) if around.iter().any(|object| object.is_null(row)) => Value::Missing,
                Source::Array(array, field, _) => value(array, field, row)?,
                Source::Inside(_, _, around, _) if around.iter().any(|object| object.is_null(row)) => Value::Missing,
                Source::Inside(array, field, _, steps) => match value(array, field, row)? {
                    Value::Nested(text) => {
                        json::follow(&text, steps).map_or(Value::Missing, |found| json::value(found).into_owned())
                    }
                    _ => Value::Missing,
                },
                Source::Whole => {
                    let mut text = Vec::new();
                    record.write(&Output::Json(Vec::new()), &mut text)?;
                    Value::Nested(Cow::Owned(String::from_utf8_lossy(&text).into_owned()))
                }
                Source::Nowhere => Value::Missing,
            });
        }
        if !each(&values, &record)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn source(batch: &RecordBatch, column: &Column, place: Option<&(String, Vec<Step>)>) -> Source {
    if column.steps.is_empty() {
        return Source::Whole;
    }
    let Some((name, steps)) = place else { return Source::Nowhere };
    let Some((at, field)) = batch.schema_ref().column_with_name(name) else { return Source::Nowhere };
    let (mut array, mut field) = (Arc::clone(batch.column(at)), Arc::new(field.clone()));
    let mut around = Vec::new();
    for (number, step) in steps.iter().enumerate() {
        let Some(members) = array.as_struct_opt() else {
            return Source::Inside(array, field, around, steps[number..].to_vec());
        };
        let inner = members.fields().iter().position(|member| step.names(member.name()));
        let Some(inner) = inner else { return Source::Nowhere };
        let (next, next_field) = (Arc::clone(members.column(inner)), Arc::clone(&members.fields()[inner]));
        around.push(std::mem::replace(&mut array, next));
        field = next_field;
    }
    Source::Array(array, field, around)
}

fn value<'a>(array: &'a ArrayRef, field: &FieldRef, row: usize) -> Result<Value<'a>, Error> {
    if array.is_null(row) {
        return Ok(Value::Null);
    }
    let text = |text: &'a str| Value::Text(Cow::Borrowed(text));
    Ok(match array.data_type() {
        DataType::Null => Value::Null,
        DataType::Boolean => Value::Bool(array.as_boolean().value(row)),
        DataType::Int8 => Value::Int(array.as_primitive::<Int8Type>().value(row).into()),
        DataType::Int16 => Value::Int(array.as_primitive::<Int16Type>().value(row).into()),
        DataType::Int32 => Value::Int(array.as_primitive::<Int32Type>().value(row).into()),
        DataType::Int64 => Value::Int(array.as_primitive::<Int64Type>().value(row)),
        DataType::UInt8 => Value::Int(array.as_primitive::<UInt8Type>().value(row).into()),
        DataType::UInt16 => Value::Int(array.as_primitive::<UInt16Type>().value(row).into()),
        DataType::UInt32 => Value::Int(array.as_primitive::<UInt32Type>().value(row).into()),
        DataType::UInt64 => {
            let value = array.as_primitive::<UInt64Type>().value(row);
            i64::try_from(value).map_or_else(|_| Value::Decimal(value.into()), Value::Int)
        }
        DataType::Float16 => Value::Float(array.as_primitive::<Float16Type>().value(row).to_f64()),
        DataType::Float32 => Value::Float(shortest(array.as_primitive::<Float32Type>().value(row))),
        DataType::Float64 => Value::Float(array.as_primitive::<Float64Type>().value(row)),
        DataType::Utf8 => text(array.as_string::<i32>().value(row)),
        DataType::LargeUtf8 => text(array.as_string::<i64>().value(row)),
        DataType::Utf8View => text(array.as_string_view().value(row)),
        DataType::Date32 => time(Timestamp::of_days(array.as_primitive::<Date32Type>().value(row).into()))?,
        DataType::Decimal128(_, scale @ 0..=28) => {
            let value = array.as_primitive::<Decimal128Type>().value(row);
            let decimal = Decimal::try_from_i128_with_scale(value, scale.unsigned_abs().into());
            decimal.map_or_else(|_| Value::Float(value as f64 / 10f64.powi(i32::from(*scale))), Value::Decimal)
        }
        DataType::Timestamp(unit, _) => {
            let (value, nanos, digits) = match unit {
                TimeUnit::Second => (array.as_primitive::<TimestampSecondType>().value(row), 1_000_000_000, 0),
                TimeUnit::Millisecond => (array.as_primitive::<TimestampMillisecondType>().value(row), 1_000_000, 3),
                TimeUnit::Microsecond => (array.as_primitive::<TimestampMicrosecondType>().value(row), 1000, 6),
                TimeUnit::Nanosecond => (array.as_primitive::<TimestampNanosecondType>().value(row), 1, 9),
            };
            time(Timestamp::of_nanos(i128::from(value) * nanos, digits))?
        }
        DataType::Struct(_)
        | DataType::List(_)
        | DataType::LargeList(_)
        | DataType::FixedSizeList(..)
        | DataType::Map(..) => Value::Nested(Cow::Owned(nested(array, field, row).map_err(malformed)?)),
        _ => {
            let shown = arrow::util::display::array_value_to_string(array, row).map_err(malformed)?;
            Value::Text(Cow::Owned(shown))
        }
    })
}

/// The double that is written as the float is.
fn shortest(value: f32) -> f64 {
    value.to_string().parse().unwrap_or_else(|_| value.into())
}

fn time(time: Option<Timestamp>) -> Result<Value<'static>, Error> {
    time.map(Value::Time).ok_or_else(|| malformed("a time lies beyond the year 9999"))
}

fn nested(array: &ArrayRef, field: &FieldRef, row: usize) -> Result<String, ArrowError> {
    let options = EncoderOptions::default();
    let mut encoder = make_encoder(field, array, &options)?;
    let mut text = Vec::new();
    encoder.encode(row, &mut text);
    if text.len() > RECORD_BYTES_MAX {
        return Err(ArrowError::ParquetError("a value has more than 1 MiB".to_owned()));
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}
