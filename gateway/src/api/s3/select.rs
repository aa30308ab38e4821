//! SelectObjectContent. A key that ends in `/` is a prefix: then the records of all objects under it are read.

use futures::{Stream, StreamExt as _};
use holdfast_query::repository::Kind;
use holdfast_query::select::{
    Compression, CsvInput, CsvOutput, Error, Event, Format, Header, Input, Output, Request, ScanRange as Scan,
    Stats as Done, Target,
};
use http::StatusCode;
use s3s::dto::*;
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response, S3Result};
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll};

use super::service::{S3Api, call_of, reply};

/// `SelectObjectContent`. Source: S3 API, SelectObjectContent.
pub(super) async fn select_object_content(
    api: &S3Api,
    req: S3Request<SelectObjectContentInput>,
) -> S3Result<S3Response<SelectObjectContentOutput>> {
    let call = call_of(&req)?;
    let SelectObjectContentInput { bucket, key, request, .. } = req.input;
    let over_prefix = key.ends_with('/');
    let request = decoded(request, over_prefix).map_err(|error| refused(&error))?;
    let target = if over_prefix { Target::Prefix { bucket, prefix: key } } else { Target::Object { bucket, key } };
    let selection = api.gateway.select(&call, target, request).await.map_err(|error| refused(&error))?;
    let revision = selection.revision();
    let id = call.request;
    let events = selection.run().map(move |event| match event {
        Ok(event) => Ok(encoded(event)),
        Err(error) => {
            tracing::debug!(request_id = %id, %error, "a selection failed");
            Err(refused(&error))
        }
    });
    let payload = Some(SelectObjectContentEventStream::new(Shared(Mutex::new(events.boxed()))));
    Ok(reply(revision, SelectObjectContentOutput { payload }))
}

/// A stream that may be shared between threads, because only one can poll it.
struct Shared<S>(Mutex<S>);

impl<S: Stream + Unpin> Stream for Shared<S> {
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let stream = self.0.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        Pin::new(stream).poll_next(context)
    }
}

fn refused(error: &Error) -> S3Error {
    if error.kind == Kind::Internal {
        tracing::error!(%error, "a selection failed");
    }
    let code = S3ErrorCode::from_bytes(error.code.as_bytes()).unwrap_or_else(|| S3ErrorCode::Custom(error.code.into()));
    let mut answer = S3Error::with_message(code, error.message.to_string());
    answer.set_status_code(match error.kind {
        Kind::NotFound => StatusCode::NOT_FOUND,
        Kind::Denied => StatusCode::FORBIDDEN,
        Kind::Invalid => StatusCode::BAD_REQUEST,
        Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    });
    answer
}

fn encoded(event: Event) -> SelectObjectContentEvent {
    let count = |bytes: u64| Some(i64::try_from(bytes).unwrap_or(i64::MAX));
    match event {
        Event::Records(bytes) => SelectObjectContentEvent::Records(RecordsEvent { payload: Some(bytes) }),
        Event::Cont => SelectObjectContentEvent::Cont(ContinuationEvent::default()),
        Event::End => SelectObjectContentEvent::End(EndEvent::default()),
        Event::Progress(Done { scanned, processed, returned }) => {
            let details = Progress {
                bytes_processed: count(processed),
                bytes_returned: count(returned),
                bytes_scanned: count(scanned),
            };
            SelectObjectContentEvent::Progress(ProgressEvent { details: Some(details) })
        }
        Event::Stats(Done { scanned, processed, returned }) => {
            let details = Stats {
                bytes_processed: count(processed),
                bytes_returned: count(returned),
                bytes_scanned: count(scanned),
            };
            SelectObjectContentEvent::Stats(StatsEvent { details: Some(details) })
        }
    }
}

fn decoded(request: SelectObjectContentRequest, over_prefix: bool) -> Result<Request, Error> {
    if !request.expression_type.as_str().eq_ignore_ascii_case("SQL") {
        return Err(Error::new("InvalidExpressionType", "The ExpressionType is invalid. Only SQL is supported."));
    }
    let byte = |number: i64| {
        u64::try_from(number).map_err(|_| Error::new("InvalidScanRange", "a scan range counts bytes from 0"))
    };
    let scan = request.scan_range.map(|range| -> Result<Scan, Error> {
        Ok(Scan { start: range.start.map(byte).transpose()?, end: range.end.map(byte).transpose()? })
    });
    Ok(Request {
        expression: request.expression,
        input: input(request.input_serialization, over_prefix)?,
        output: output(request.output_serialization)?,
        progress: request.request_progress.is_some_and(|progress| progress.enabled == Some(true)),
        scan: scan.transpose()?,
    })
}

fn input(input: InputSerialization, over_prefix: bool) -> Result<Input, Error> {
    let compression = match input.compression_type.as_ref().map(|kind| kind.as_str().to_ascii_uppercase()).as_deref() {
        None | Some("" | "NONE") => Compression::None,
        Some("GZIP") => Compression::Gzip,
        Some("BZIP2") => Compression::Bzip2,
        Some("ZSTD") => Compression::Zstd,
        Some(_) => {
            let message = "CompressionType is NONE, GZIP, BZIP2 or ZSTD";
            return Err(Error::new("InvalidCompressionFormat", message));
        }
    };
    let format = match (input.csv, input.json, input.parquet) {
        (Some(csv), None, None) => Format::Csv(csv_input(csv, over_prefix)?),
        (None, Some(json), None) => match json.type_.as_ref().map(|kind| kind.as_str().to_ascii_uppercase()).as_deref()
        {
            Some("LINES") => Format::JsonLines,
            Some("DOCUMENT") => Format::JsonDocument,
            _ => {
                return Err(Error::new(
                    "InvalidJsonType",
                    "The JsonType is invalid. Only DOCUMENT and LINES are supported.",
                ));
            }
        },
        (None, None, Some(_)) => Format::Parquet,
        (None, None, None) => {
            let message = "InputSerialization names none of CSV, JSON and Parquet";
            return Err(Error::new("MissingRequiredParameter", message));
        }
        _ => {
            let message = "InputSerialization can only contain one of CSV, JSON and Parquet";
            return Err(Error::new("ObjectSerializationConflict", message));
        }
    };
    Ok(Input { format, compression })
}

/// A character that may be switched off by an empty one.
fn character(name: &str, text: Option<&str>, default: Option<u8>) -> Result<Option<u8>, Error> {
    match text.map(str::as_bytes) {
        None => Ok(default),
        Some([]) => Ok(None),
        Some([byte]) => Ok(Some(*byte)),
        Some(_) => Err(Error::new("InvalidRequestParameter", format!("{name} is one ASCII character"))),
    }
}

fn csv_input(csv: CSVInput, over_prefix: bool) -> Result<CsvInput, Error> {
    let default = CsvInput::default();
    let quote = character("QuoteCharacter", csv.quote_character.as_deref(), default.quote)?;
    let header = match csv.file_header_info.as_ref().map(|info| info.as_str().to_ascii_uppercase()).as_deref() {
        None | Some("" | "NONE") => Header::None,
        Some("IGNORE") => Header::Ignore,
        Some("USE") => Header::Use,
        Some(_) => {
            let message = "The FileHeaderInfo is invalid. Only NONE, USE, and IGNORE are supported.";
            return Err(Error::new("InvalidFileHeaderInfo", message));
        }
    };
    Ok(CsvInput {
        header,
        field: csv.field_delimiter.map_or(default.field, String::into_bytes),
        record: csv.record_delimiter.map_or(default.record, String::into_bytes),
        quote,
        // Without a word about it, a quote is escaped by itself.
        escape: character("QuoteEscapeCharacter", csv.quote_escape_character.as_deref(), quote)?,
        comment: character("Comments", csv.comments.as_deref(), default.comment)?,
        // Objects under a prefix are read as indexes read them, unless the request says otherwise.
        quoted_records: csv.allow_quoted_record_delimiter.unwrap_or(over_prefix),
    })
}

fn output(output: OutputSerialization) -> Result<Output, Error> {
    match (output.csv, output.json) {
        (Some(csv), None) => csv_output(csv).map(Output::Csv),
        (None, Some(json)) => Ok(Output::Json(json.record_delimiter.map_or(b"\n".to_vec(), String::into_bytes))),
        (None, None) => {
            let message = "OutputSerialization names neither CSV nor JSON";
            Err(Error::new("MissingRequiredParameter", message))
        }
        (Some(_), Some(_)) => {
            let message = "OutputSerialization can only contain one of CSV and JSON";
            Err(Error::new("ObjectSerializationConflict", message))
        }
    }
}

fn csv_output(csv: CSVOutput) -> Result<CsvOutput, Error> {
    let default = CsvOutput::default();
    let quote = character("QuoteCharacter", csv.quote_character.as_deref(), default.quote)?;
    let always = match csv.quote_fields.as_ref().map(|fields| fields.as_str().to_ascii_uppercase()).as_deref() {
        None | Some("" | "ASNEEDED") => false,
        Some("ALWAYS") => true,
        Some(_) => {
            let message = "The QuoteFields is invalid. Only ALWAYS and ASNEEDED are supported.";
            return Err(Error::new("InvalidQuoteFields", message));
        }
    };
    Ok(CsvOutput {
        field: csv.field_delimiter.map_or(default.field, String::into_bytes),
        record: csv.record_delimiter.map_or(default.record, String::into_bytes),
        quote,
        escape: character("QuoteEscapeCharacter", csv.quote_escape_character.as_deref(), quote)?,
        always,
    })
}
