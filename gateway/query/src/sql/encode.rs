//! Results as bytes, batch by batch. What goes wrong after the first byte is seen: a client that reads to the end of a
//! result without an error has all of it.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, StringBuilder};
use arrow::csv::WriterBuilder as CsvWriterBuilder;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::writer::StreamWriter;
use arrow::json::writer::{EncoderOptions, LineDelimited, make_encoder};
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};

use super::error::Error;

/// A format of results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A JSON object a line; a last line `{"error":{"code":…,"message":…}}` when the query failed on the way.
    Ndjson,
    /// With a header; what is nested is JSON text.
    Csv,
    /// An Arrow stream.
    Arrow,
}

impl Format {
    /// `Content-Type`.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Ndjson => "application/x-ndjson",
            Self::Csv => "text/csv; charset=utf-8; header=present",
            Self::Arrow => "application/vnd.apache.arrow.stream",
        }
    }
}

/// Batches as bytes. For CSV and Arrow an error is an item, upon which the connection must be cut; NDJSON tells it in its
/// last line, and ends.
#[must_use]
pub fn encode(
    schema: SchemaRef,
    batches: BoxStream<'static, Result<RecordBatch, Error>>,
    format: Format,
) -> BoxStream<'static, Result<Bytes, Error>> {
    let writer = match Writer::new(schema, format) {
        Ok(writer) => writer,
        Err(error) => return stream::once(async move { Err(super::of_arrow(error)) }).boxed(),
    };
    stream::try_unfold((Some(writer), batches), |(writer, mut batches)| async move {
        let Some(mut writer) = writer else { return Ok(None) };
        match batches.try_next().await {
            Ok(Some(batch)) => {
                let bytes = writer.write(&batch).map_err(super::of_arrow)?;
                Ok(Some((bytes, (Some(writer), batches))))
            }
            Ok(None) => Ok(Some((writer.finish().map_err(super::of_arrow)?, (None, batches)))),
            Err(error) if matches!(writer, Writer::Ndjson) => Ok(Some((last_line(&error), (None, batches)))),
            Err(error) => Err(error),
        }
    })
    .try_filter(|bytes| futures::future::ready(!bytes.is_empty()))
    .boxed()
}

fn last_line(error: &Error) -> Bytes {
    let line = serde_json::json!({ "error": { "code": error.code, "message": error.message } });
    Bytes::from(format!("{line}\n"))
}

enum Writer {
    Ndjson,
    Csv { schema: SchemaRef, headed: bool },
    Arrow(Box<StreamWriter<Vec<u8>>>),
}

impl Writer {
    fn new(schema: SchemaRef, format: Format) -> Result<Self, ArrowError> {
        Ok(match format {
            Format::Ndjson => Self::Ndjson,
            Format::Csv => Self::Csv { schema: flat_schema(&schema), headed: false },
            Format::Arrow => Self::Arrow(Box::new(StreamWriter::try_new(Vec::new(), &schema)?)),
        })
    }

    fn write(&mut self, batch: &RecordBatch) -> Result<Bytes, ArrowError> {
        match self {
            Self::Ndjson => {
                let mut out = Vec::new();
                let builder = arrow::json::WriterBuilder::new().with_explicit_nulls(true);
                let mut writer = builder.build::<_, LineDelimited>(&mut out);
                writer.write(batch)?;
                writer.finish()?;
                Ok(out.into())
            }
            Self::Csv { schema, headed } => {
                let header = !std::mem::replace(headed, true);
                csv(&flat(batch, schema)?, header)
            }
            Self::Arrow(writer) => {
                writer.write(batch)?;
                Ok(std::mem::take(writer.get_mut()).into())
            }
        }
    }

    fn finish(&mut self) -> Result<Bytes, ArrowError> {
        match self {
            Self::Ndjson => Ok(Bytes::new()),
            Self::Csv { headed: true, .. } => Ok(Bytes::new()),
            Self::Csv { schema, .. } => csv(&RecordBatch::new_empty(Arc::clone(schema)), true),
            Self::Arrow(writer) => {
                writer.finish()?;
                Ok(std::mem::take(writer.get_mut()).into())
            }
        }
    }
}

fn csv(batch: &RecordBatch, header: bool) -> Result<Bytes, ArrowError> {
    let mut out = Vec::new();
    CsvWriterBuilder::new().with_header(header).build(&mut out).write(batch)?;
    Ok(out.into())
}

fn flat_schema(schema: &SchemaRef) -> SchemaRef {
    let fields = schema.fields().iter().map(|field| {
        if field.data_type().is_nested() {
            Arc::new(Field::new(field.name(), DataType::Utf8, true))
        } else {
            Arc::clone(field)
        }
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// The batch with nested columns as JSON text.
fn flat(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let columns = batch.schema_ref().fields().iter().zip(batch.columns()).map(|(field, column)| {
        if !field.data_type().is_nested() {
            return Ok(Arc::clone(column));
        }
        let options = EncoderOptions::default();
        let mut encoder = make_encoder(field, column, &options)?;
        let (mut texts, mut text) = (StringBuilder::new(), Vec::new());
        for row in 0..column.len() {
            if column.is_null(row) {
                texts.append_null();
                continue;
            }
            text.clear();
            encoder.encode(row, &mut text);
            texts.append_value(String::from_utf8_lossy(&text));
        }
        Ok(Arc::new(texts.finish()) as ArrayRef)
    });
    RecordBatch::try_new(Arc::clone(schema), columns.collect::<Result<_, ArrowError>>()?)
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, ListArray, StringArray};
    use arrow::datatypes::Int64Type;

    use super::super::error::Kind;
    use super::*;

    fn batch() -> RecordBatch {
        let list = ListArray::from_iter_primitive::<Int64Type, _, _>([Some(vec![Some(1), None]), None]);
        RecordBatch::try_from_iter([
            ("a", Arc::new(Int64Array::from(vec![Some(1), None])) as ArrayRef),
            ("b", Arc::new(StringArray::from(vec!["x,\"y\"", ""])) as ArrayRef),
            ("c", Arc::new(list) as ArrayRef),
        ])
        .unwrap()
    }

    fn encoded(batches: Vec<Result<RecordBatch, Error>>, format: Format) -> (Vec<u8>, Option<Error>) {
        let stream = encode(batch().schema(), stream::iter(batches).boxed(), format);
        let items = futures::executor::block_on(stream.collect::<Vec<_>>());
        let (mut bytes, mut error) = (Vec::new(), None);
        for item in items {
            match item {
                Ok(piece) => bytes.extend_from_slice(&piece),
                Err(found) => error = Some(found),
            }
        }
        (bytes, error)
    }

    #[test]
    fn rows_are_written_in_each_format() {
        let check = |batches: Vec<Result<RecordBatch, Error>>, format, expected: &str| {
            let (bytes, error) = encoded(batches, format);
            assert_eq!((String::from_utf8(bytes).unwrap().as_str(), error.is_none()), (expected, true));
        };
        let lines = "{\"a\":1,\"b\":\"x,\\\"y\\\"\",\"c\":[1,null]}\n{\"a\":null,\"b\":\"\",\"c\":null}\n";
        check(vec![Ok(batch())], Format::Ndjson, lines);
        check(vec![], Format::Ndjson, "");
        let rows = "1,\"x,\"\"y\"\"\",\"[1,null]\"\n,,\n";
        check(vec![Ok(batch()), Ok(batch())], Format::Csv, &format!("a,b,c\n{rows}{rows}"));
        check(vec![], Format::Csv, "a,b,c\n");
        let (bytes, _) = encoded(vec![Ok(batch())], Format::Arrow);
        let reader = arrow::ipc::reader::StreamReader::try_new(bytes.as_slice(), None).unwrap();
        assert_eq!(reader.map(Result::unwrap).collect::<Vec<_>>(), [batch()]);
    }

    #[test]
    fn an_error_on_the_way_is_seen() {
        let failing = || vec![Ok(batch()), Err(Error::new(Kind::Invalid, "QueryTimeout", "it took \"long\""))];
        let (bytes, error) = encoded(failing(), Format::Ndjson);
        assert!(error.is_none());
        let text = String::from_utf8(bytes).unwrap();
        assert_eq!(
            text.lines().last(),
            Some("{\"error\":{\"code\":\"QueryTimeout\",\"message\":\"it took \\\"long\\\"\"}}")
        );
        for format in [Format::Csv, Format::Arrow] {
            let (_, error) = encoded(failing(), format);
            assert_eq!(error.map(|error| error.code), Some("QueryTimeout"));
        }
    }
}
