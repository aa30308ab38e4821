//! What a request asks for. Source: S3 API, SelectObjectContent.

use super::error::Error;
use crate::extract::{self, format_of};
use crate::repository::ObjectVersion;
use crate::sql::{Compression, compression_of};

/// Bytes of a delimiter.
const DELIMITER_BYTES_MAX: usize = 8;

/// Where records come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// One object.
    Object {
        /// Its bucket.
        bucket: String,
        /// Its key.
        key: String,
    },
    /// All objects under a prefix, in the order of their keys. One whose key or content type says that it has another format
    /// is left out, and so are empty ones. Compressed ones may be among them, if their keys or `Content-Encoding` say so.
    /// Columns that an object lacks are missing.
    Prefix {
        /// Their bucket.
        bucket: String,
        /// What their keys begin with.
        prefix: String,
    },
}

/// A request, as it was decoded from the protocol.
#[derive(Clone, Debug)]
pub struct Request {
    /// The statement.
    pub expression: String,
    /// How records are written in the object.
    pub input: Input,
    /// How the records of the answer are written.
    pub output: Output,
    /// Whether the client wants to know how far it is.
    pub progress: bool,
    /// Only records that begin in these bytes.
    pub scan: Option<ScanRange>,
}

impl Request {
    /// Checks what the parts of a request say of each other.
    ///
    /// # Errors
    /// `UnsupportedScanRangeInput` where the start of a record cannot be found in the middle of an object,
    /// `InvalidCompressionFormat` for Parquet that is compressed as a whole, and those of the delimiters.
    pub(super) fn check(&self) -> Result<(), Error> {
        let Input { format, compression } = &self.input;
        if let Format::Csv(csv) = format {
            csv.check()?;
        }
        self.output.check()?;
        if *format == Format::Parquet && *compression != Compression::None {
            return Err(Error::new(
                "InvalidCompressionFormat",
                "Parquet is compressed by columns: CompressionType is NONE",
            ));
        }
        let unsupported = |message| Err(Error::new("UnsupportedScanRangeInput", message));
        match format {
            _ if self.scan.is_none() => Ok(()),
            _ if *compression != Compression::None => unsupported("ScanRange is not supported on compressed objects"),
            Format::JsonDocument => unsupported("ScanRange is supported on JSON of type LINES only"),
            Format::Csv(csv) if csv.quoted_records => {
                unsupported("ScanRange is not supported with AllowQuotedRecordDelimiter")
            }
            _ => Ok(()),
        }
    }
}

/// How records are written in the object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// The format.
    pub format: Format,
    /// How the object is compressed.
    pub compression: Compression,
}

impl Input {
    /// How one object among others is read: as it says itself that it is compressed.
    pub(super) fn of_object(&self, object: &ObjectVersion) -> Self {
        let named = format_of(&object.key, object.content_type.as_deref()).map(|(_, compression)| compression);
        let compression = match (named, compression_of(object)) {
            (Some(extract::Compression::Gzip), _) => Compression::Gzip,
            (Some(extract::Compression::Bzip2), _) => Compression::Bzip2,
            (Some(extract::Compression::Zstd), _) => Compression::Zstd,
            (_, Compression::None) => self.compression,
            (_, own) => own,
        };
        Self { format: self.format.clone(), compression }
    }
}

/// Formats of objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Format {
    /// Comma-separated values.
    Csv(CsvInput),
    /// One JSON value a line.
    JsonLines,
    /// JSON values that may have several lines each.
    JsonDocument,
    /// Apache Parquet.
    Parquet,
}

/// What the first line of CSV is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Header {
    /// A record.
    #[default]
    None,
    /// A header, whose names are not used.
    Ignore,
    /// The names of the columns.
    Use,
}

/// How CSV is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CsvInput {
    /// What the first line is.
    pub header: Header,
    /// Between fields.
    pub field: Vec<u8>,
    /// Between records. A line feed stands for a carriage return with a line feed, too.
    pub record: Vec<u8>,
    /// Around fields that hold delimiters.
    pub quote: Option<u8>,
    /// Before a quote inside of quotes.
    pub escape: Option<u8>,
    /// At the start of a line that is no record.
    pub comment: Option<u8>,
    /// Whether a delimiter of records in quotes is part of the field.
    pub quoted_records: bool,
}

impl Default for CsvInput {
    fn default() -> Self {
        Self {
            header: Header::None,
            field: b",".to_vec(),
            record: b"\n".to_vec(),
            quote: Some(b'"'),
            escape: Some(b'"'),
            comment: Some(b'#'),
            quoted_records: false,
        }
    }
}

impl CsvInput {
    /// Checks what a client chose.
    ///
    /// # Errors
    /// `InvalidRequestParameter` for delimiters that are empty, too long, or the same.
    pub fn check(&self) -> Result<(), Error> {
        delimiters(&self.field, &self.record, self.quote)?;
        let special = [self.quote, self.comment];
        if self.comment.is_some() && (special[0] == special[1] || self.field.first() == self.comment.as_ref()) {
            return Err(invalid("the comment character is also a delimiter"));
        }
        Ok(())
    }
}

fn invalid(message: &'static str) -> Error {
    Error::new("InvalidRequestParameter", message)
}

fn delimiters(field: &[u8], record: &[u8], quote: Option<u8>) -> Result<(), Error> {
    for delimiter in [field, record] {
        if delimiter.is_empty() || delimiter.len() > DELIMITER_BYTES_MAX {
            return Err(invalid("a delimiter has 1 to 8 bytes"));
        }
        if quote.is_some_and(|quote| delimiter.contains(&quote)) {
            return Err(invalid("the quote character is part of a delimiter"));
        }
    }
    // Where a delimiter overlaps itself, it depends on the place from which one reads what a record is.
    if (1..record.len()).any(|shift| record.starts_with(&record[shift..])) {
        return Err(invalid("the delimiter of records overlaps itself"));
    }
    if field.starts_with(record) || record.starts_with(field) {
        return Err(invalid("fields and records have the same delimiter"));
    }
    Ok(())
}

/// How the records of the answer are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Comma-separated values.
    Csv(CsvOutput),
    /// JSON objects, with this after each.
    Json(Vec<u8>),
}

/// How CSV is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CsvOutput {
    /// Between fields.
    pub field: Vec<u8>,
    /// After records.
    pub record: Vec<u8>,
    /// Around fields.
    pub quote: Option<u8>,
    /// Before a quote inside of quotes.
    pub escape: Option<u8>,
    /// Whether all fields stand in quotes, or those that need them.
    pub always: bool,
}

impl Default for CsvOutput {
    fn default() -> Self {
        Self { field: b",".to_vec(), record: b"\n".to_vec(), quote: Some(b'"'), escape: Some(b'"'), always: false }
    }
}

impl Output {
    /// Checks what a client chose.
    ///
    /// # Errors
    /// `InvalidRequestParameter` for delimiters that are empty, too long, or the same.
    pub fn check(&self) -> Result<(), Error> {
        match self {
            Self::Csv(csv) => delimiters(&csv.field, &csv.record, csv.quote),
            Self::Json(record) if record.len() > DELIMITER_BYTES_MAX => Err(invalid("a delimiter has 1 to 8 bytes")),
            Self::Json(_) => Ok(()),
        }
    }
}

/// Only records that begin in these bytes. Without a start, the last `end` bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanRange {
    /// First byte.
    pub start: Option<u64>,
    /// Last byte, inclusive.
    pub end: Option<u64>,
}

impl ScanRange {
    /// The bytes of an object of this size, end exclusive.
    ///
    /// # Errors
    /// `InvalidScanRange` when there are none.
    pub(super) fn resolve(self, size: u64) -> Result<std::ops::Range<u64>, Error> {
        let range = match (self.start, self.end) {
            (None, None) => 0..size,
            (None, Some(last)) => size.saturating_sub(last)..size,
            (Some(start), end) => start..end.map_or(size, |end| end.saturating_add(1)).min(size),
        };
        if range.start >= range.end && size > 0 {
            return Err(Error::new(
                "InvalidScanRange",
                "the scan range begins behind its end, or behind that of the object",
            ));
        }
        Ok(range)
    }
}

/// What was read and returned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Bytes of objects that were read.
    pub scanned: u64,
    /// Bytes after decompression.
    pub processed: u64,
    /// Bytes of records.
    pub returned: u64,
}
