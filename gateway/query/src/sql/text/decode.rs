//! From chunks to batches of the columns that a query wants.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use arrow::error::ArrowError;

use super::super::attribute::{Attribute, Run};
use super::super::error::Error;
use super::super::of_arrow;
use super::chunks::{Chunk, name};
use super::json::{Cursor, Fault, Rows};
use super::{BATCH_ROWS, Format, csv};
use crate::repository::ObjectVersion;

/// Helps with a value that contradicts the sample.
const HINT: &str = "columns are inferred from a sample: read_csv and read_json take types => 'column=text, …' and \
                    sample_objects => n";

/// The columns of a scan.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) schema: SchemaRef,
    /// Columns of the content, in the order of the table.
    pub(crate) content: Fields,
    pub(crate) attributes: Vec<Attribute>,
    /// For each column of the schema its place in the content, or after it in the attributes.
    pub(crate) order: Vec<usize>,
    /// All columns of the table, when all are wanted: then one that is not among them would be left out.
    pub(crate) known: Option<HashSet<String>>,
}

impl Target {
    fn batch(&self, content: Vec<ArrayRef>, runs: &[Run]) -> Result<RecordBatch, Error> {
        let mut columns = content;
        for attribute in &self.attributes {
            columns.push(attribute.column(runs)?);
        }
        let rows = runs.iter().map(|(_, rows)| rows).sum();
        let ordered = self.order.iter().map(|&place| Arc::clone(&columns[place])).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), ordered, &options).map_err(of_arrow)
    }
}

pub(super) fn decode(format: &Format, target: &Target, chunks: &[Chunk]) -> Result<Vec<RecordBatch>, Error> {
    match format {
        Format::Json => decode_json(target, chunks),
        Format::Csv(dialect) => decode_csv(dialect, target, chunks),
    }
}

fn decode_json(target: &Target, chunks: &[Chunk]) -> Result<Vec<RecordBatch>, Error> {
    let strict = target.known.is_some();
    let (mut batches, mut rows, mut runs) = (Vec::new(), Rows::new(&target.content, strict), Vec::<Run>::new());
    let mut total = 0;
    for chunk in chunks {
        let text = std::str::from_utf8(&chunk.bytes)
            .map_err(|error| Error::data(format!("{} is no UTF-8: {error}", name(&chunk.object))))?;
        let mut cursor = Cursor::new(text);
        let mut count = 0;
        while cursor.more().map_err(|fault| of_fault(&chunk.object, fault))? {
            rows.append(&mut cursor).map_err(|fault| of_fault(&chunk.object, fault))?;
            count += 1;
            if total + count == BATCH_ROWS {
                runs.push((Arc::clone(&chunk.object), count));
                let full = std::mem::replace(&mut rows, Rows::new(&target.content, strict));
                batches.push(target.batch(full.finish().map_err(of_arrow)?, &std::mem::take(&mut runs))?);
                (total, count) = (0, 0);
            }
        }
        total += count;
        if count > 0 {
            runs.push((Arc::clone(&chunk.object), count));
        }
    }
    if total > 0 {
        batches.push(target.batch(rows.finish().map_err(of_arrow)?, &runs)?);
    }
    Ok(batches)
}

pub(super) fn of_fault(object: &ObjectVersion, fault: Fault) -> Error {
    let shown = |path: Vec<String>| {
        let names: Vec<String> = path.into_iter().rev().collect();
        names.join(".").replace(".[]", "[]")
    };
    let object = name(object);
    Error::data(match fault {
        Fault::Syntax(why) => format!("{object} is no JSON: {why}"),
        Fault::Contradiction { path, found, wanted } => {
            format!("{object}: column {:?} holds {found}, which is not {wanted}; {HINT}", shown(path))
        }
        Fault::Unknown { path } => {
            format!("{object}: {:?} was not in the sample, so that it has no column; {HINT}", shown(path))
        }
        Fault::Twice { path } => format!("{object}: {:?} stands twice in one row", shown(path)),
    })
}

fn decode_csv(dialect: &csv::Dialect, target: &Target, chunks: &[Chunk]) -> Result<Vec<RecordBatch>, Error> {
    let mut batches: Vec<RecordBatch> = Vec::new();
    for chunk in chunks {
        let names = chunk.names.as_ref().map_or(&[][..], |names| names.as_slice());
        let layout = Layout::new(target, names, &chunk.object)?;
        let reader = dialect.reader(Arc::clone(&layout.schema)).map_err(of_arrow)?;
        let reader = reader.with_projection(layout.wanted.clone());
        let decoded = csv::decode(reader, &chunk.bytes).map_err(|error| of_csv(&chunk.object, names, &error))?;
        for batch in decoded {
            let columns = layout.places.iter().zip(&target.content);
            let columns = columns.map(|(place, field)| match place {
                Some(place) => Arc::clone(batch.column(*place)),
                None => new_null_array(field.data_type(), batch.num_rows()),
            });
            let run = (Arc::clone(&chunk.object), batch.num_rows());
            batches.push(target.batch(columns.collect(), &[run])?);
        }
    }
    gathered(target, batches)
}

/// Small batches in one.
fn gathered(target: &Target, batches: Vec<RecordBatch>) -> Result<Vec<RecordBatch>, Error> {
    let mut out = Vec::new();
    let (mut few, mut rows) = (Vec::new(), 0);
    for batch in batches {
        if rows > 0 && rows + batch.num_rows() > BATCH_ROWS {
            out.push(concat_batches(&target.schema, &std::mem::take(&mut few)).map_err(of_arrow)?);
            rows = 0;
        }
        rows += batch.num_rows();
        few.push(batch);
    }
    if few.len() == 1 {
        out.append(&mut few);
    } else if !few.is_empty() {
        out.push(concat_batches(&target.schema, &few).map_err(of_arrow)?);
    }
    Ok(out)
}

/// Where the wanted columns stand in one object of CSV.
struct Layout {
    schema: SchemaRef,
    /// Places in the object, in the order in which they are decoded.
    wanted: Vec<usize>,
    /// For each column its place among the decoded.
    places: Vec<Option<usize>>,
}

impl Layout {
    fn new(target: &Target, names: &[String], object: &ObjectVersion) -> Result<Self, Error> {
        if let Some(known) = &target.known
            && let Some(unknown) = names.iter().find(|name| !known.contains(name.as_str()))
        {
            return Err(of_fault(object, Fault::Unknown { path: vec![unknown.clone()] }));
        }
        let types: HashMap<&str, &DataType> =
            target.content.iter().map(|field| (field.name().as_str(), field.data_type())).collect();
        let fields: Vec<Field> = names
            .iter()
            .map(|name| {
                let kind = types.get(name.as_str()).map_or(DataType::Utf8View, |kind| (*kind).clone());
                Field::new(name, kind, true)
            })
            .collect();
        let (mut wanted, mut places) = (Vec::new(), Vec::new());
        for field in &target.content {
            let place = names.iter().position(|name| name == field.name());
            places.push(place.map(|_| wanted.len()));
            wanted.extend(place);
        }
        Ok(Self { schema: Arc::new(Schema::new(fields)), wanted, places })
    }
}

/// Names the column that the reader numbers.
fn of_csv(object: &ObjectVersion, names: &[String], error: &ArrowError) -> Error {
    let text = match error {
        ArrowError::ParseError(text) | ArrowError::CsvError(text) => text.clone(),
        other => other.to_string(),
    };
    let object = name(object);
    let parts = text.split_once("Error while parsing value '").and_then(|(_, rest)| {
        let (value, rest) = rest.split_once("' as type '")?;
        let (kind, rest) = rest.split_once("' for column ")?;
        let column: usize = rest.split(|char: char| !char.is_ascii_digit()).next()?.parse().ok()?;
        Some((value.to_owned(), kind.to_owned(), names.get(column)?))
    });
    Error::data(match parts {
        Some((value, kind, column)) => {
            format!("{object}: column {column:?} holds {value:?}, which is no {kind}; {HINT}")
        }
        None => format!("{object} is no CSV as expected: {}", text.split(". Row data").next().unwrap_or_default()),
    })
}
