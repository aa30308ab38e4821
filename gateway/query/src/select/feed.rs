//! From the bytes of objects to pieces that hold whole records.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use memchr::memmem;

use super::csv;
use super::error::Error;
use super::output::RECORD_BYTES_MAX;
use super::request::{CsvInput, Format, Header, Input, ScanRange};
use crate::repository::ObjectVersion;
use crate::sql::{self, Compression, Reader, Unpack};

/// Bytes of records that are worked on at once.
const PIECE_BYTES: usize = 1 << 20;
/// Bytes of JSON that is not in lines, which is held whole.
const DOCUMENT_BYTES_MAX: usize = 128 << 20;
/// Bytes that are read for a header at first.
const HEADER_BYTES: u64 = 16 << 10;
/// The mark of UTF-8.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// Whole records of an object.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub(super) bytes: Bytes,
    /// The names of a header that is used.
    pub(super) names: Option<Arc<Vec<String>>>,
}

/// Reads an object of text, from first to last.
pub(super) struct Text {
    reader: Reader,
    object: Arc<ObjectVersion>,
    input: Arc<Input>,
    processed: Arc<AtomicU64>,
    names: Option<Arc<Vec<String>>>,
    /// Ranges that are still to be read; records begin in them, and end before `whole` or behind them.
    ranges: std::vec::IntoIter<Range<u64>>,
    stream: Option<Stream>,
}

struct Stream {
    bytes: BoxStream<'static, Result<Bytes, sql::Error>>,
    unpack: Unpack,
    packed: Bytes,
    /// Whether more comes out of `unpack` without bytes that go in.
    more: bool,
    pending: Vec<u8>,
    /// Where `pending` begins, in the object or what it unpacks to.
    offset: u64,
    /// Records that begin here are not wanted.
    end: u64,
    ended: bool,
}

fn broken(object: &ObjectVersion, error: &std::io::Error) -> Error {
    let message = format!(
        "Object decompression failed: {}/{}: {error}. Check that the object is properly compressed using the format specified in the request.",
        object.bucket, object.key
    );
    Error::new("TruncatedInput", message)
}

impl Text {
    /// Opens an object: its header is read, and the first record in the scan range is found. With `rows`, only these ranges
    /// of whole records are read.
    pub(super) async fn open(
        reader: Reader,
        object: Arc<ObjectVersion>,
        input: Arc<Input>,
        scan: Option<ScanRange>,
        rows: Option<Vec<Range<u64>>>,
        processed: Arc<AtomicU64>,
    ) -> Result<Self, Error> {
        let mut text =
            Self { reader, object, input, processed, names: None, ranges: Vec::new().into_iter(), stream: None };
        let size = text.object.size;
        if text.input.compression != Compression::None {
            // Where a record is in the bytes is not known: all are read, whatever was asked for.
            text.start(0, u64::MAX).await?;
            text.head().await?;
            return Ok(text);
        }
        let scan = scan.map(|scan| scan.resolve(size)).transpose()?;
        match (scan, rows) {
            (None, None) => {
                text.start(0, u64::MAX).await?;
                text.head().await?;
            }
            (Some(range), _) => text.seek(range).await?,
            (None, Some(rows)) => {
                text.read_header().await?;
                text.ranges = joined(rows).into_iter();
            }
        }
        Ok(text)
    }

    /// The names of the header.
    pub(super) fn names(&self) -> Option<&Arc<Vec<String>>> {
        self.names.as_ref()
    }

    fn csv(&self) -> Option<&CsvInput> {
        if let Format::Csv(csv) = &self.input.format { Some(csv) } else { None }
    }

    fn delimiter(&self) -> &[u8] {
        self.csv().map_or(b"\n", |csv| &csv.record)
    }

    async fn start(&mut self, at: u64, end: u64) -> Result<(), Error> {
        let bytes = self.reader.stream(&self.object, at..self.object.size).await?;
        self.set_stream(bytes, at, end)
    }

    fn set_stream(
        &mut self,
        bytes: BoxStream<'static, Result<Bytes, sql::Error>>,
        offset: u64,
        end: u64,
    ) -> Result<(), Error> {
        let unpack = Unpack::new(self.input.compression).map_err(|error| broken(&self.object, &error))?;
        let stream =
            Stream { bytes, unpack, packed: Bytes::new(), more: false, pending: Vec::new(), offset, end, ended: false };
        self.stream = Some(stream);
        Ok(())
    }

    /// Appends the next bytes to what is pending.
    async fn fill(&mut self) -> Result<(), Error> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        if stream.packed.is_empty() && !stream.more {
            match stream.bytes.next().await.transpose()? {
                Some(bytes) => stream.packed = bytes,
                None => {
                    let before = stream.pending.len();
                    stream.unpack.finish(&mut stream.pending).map_err(|error| broken(&self.object, &error))?;
                    self.processed.fetch_add((stream.pending.len() - before) as u64, Ordering::Relaxed);
                    stream.ended = true;
                    return Ok(());
                }
            }
        }
        let before = stream.pending.len();
        let pushed = stream.unpack.push(&mut stream.packed, &mut stream.pending);
        stream.more = pushed.map_err(|error| broken(&self.object, &error))?;
        self.processed.fetch_add((stream.pending.len() - before) as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Steps over the mark of UTF-8 and the header, at the start of the object.
    async fn head(&mut self) -> Result<(), Error> {
        while self.stream.as_ref().is_some_and(|stream| stream.pending.len() < MARK.len() && !stream.ended) {
            self.fill().await?;
        }
        if let Some(stream) = self.stream.as_mut().filter(|stream| stream.pending.starts_with(MARK)) {
            stream.pending.drain(..MARK.len());
            stream.offset += MARK.len() as u64;
        }
        let Some(csv) = self.csv().filter(|csv| csv.header != Header::None).cloned() else { return Ok(()) };
        loop {
            let Some(stream) = &mut self.stream else { return Ok(()) };
            let first = csv::first(&stream.pending, &csv);
            if let Some(end) = first.or(stream.ended.then_some(stream.pending.len())) {
                let line: Vec<u8> = stream.pending.drain(..end).collect();
                stream.offset += end as u64;
                if csv.header == Header::Use {
                    self.names = Some(Arc::new(csv::names(text_of(&line)?, &csv)?));
                }
                return Ok(());
            }
            if stream.pending.len() > RECORD_BYTES_MAX {
                return Err(too_large());
            }
            self.fill().await?;
        }
    }

    /// Reads the header alone, and says where records begin.
    async fn read_header(&mut self) -> Result<u64, Error> {
        if self.csv().is_none_or(|csv| csv.header == Header::None) {
            return Ok(0);
        }
        let mut wanted = HEADER_BYTES.min(self.object.size);
        loop {
            let bytes = self.reader.stream(&self.object, 0..wanted).await?;
            self.set_stream(bytes, 0, u64::MAX)?;
            let whole = wanted == self.object.size;
            // A header that is longer than what was read is read again, with more.
            let mut seen = 0;
            while self.stream.as_ref().is_some_and(|stream| !stream.ended) {
                self.fill().await?;
            }
            let found = match (&self.stream, self.csv()) {
                (Some(stream), Some(csv)) => {
                    seen = stream.pending.len();
                    csv::first(&stream.pending, csv).is_some()
                }
                _ => true,
            };
            if found || whole {
                self.head().await?;
                let offset = self.stream.as_ref().map_or(0, |stream| stream.offset);
                self.stream = None;
                return Ok(offset);
            }
            if seen > RECORD_BYTES_MAX {
                return Err(too_large());
            }
            wanted = (wanted * 8).min(self.object.size);
        }
    }

    /// Goes to the first record that begins in a range.
    async fn seek(&mut self, range: Range<u64>) -> Result<(), Error> {
        if range.start == 0 {
            self.start(0, range.end).await?;
            self.head().await?;
            // A mark of UTF-8 belongs to the first record.
            let headed = self.csv().is_some_and(|csv| csv.header != Header::None);
            if let Some(stream) = self.stream.as_mut().filter(|_| !headed) {
                stream.end = stream.end.max(stream.offset + 1);
            }
            return Ok(());
        }
        let records = self.read_header().await?;
        if range.start <= records {
            self.start(records, range.end).await?;
            return Ok(());
        }
        // A record begins where one ends: the delimiter may lie just before the range.
        let delimiter = self.delimiter().to_vec();
        let from = range.start.saturating_sub(delimiter.len() as u64);
        self.start(from, range.end).await?;
        loop {
            let Some(stream) = &mut self.stream else { return Ok(()) };
            if let Some(at) = memmem::find(&stream.pending, &delimiter) {
                let begin = at + delimiter.len();
                stream.pending.drain(..begin);
                stream.offset += begin as u64;
                return Ok(());
            }
            if stream.ended {
                stream.pending.clear();
                return Ok(());
            }
            if stream.pending.len() > RECORD_BYTES_MAX + delimiter.len() {
                return Err(too_large());
            }
            self.fill().await?;
        }
    }

    /// The next records.
    pub(super) async fn next(&mut self) -> Result<Option<Piece>, Error> {
        loop {
            if self.stream.is_none() {
                let Some(range) = self.ranges.next() else { return Ok(None) };
                let bytes = self.reader.stream(&self.object, range.clone()).await?;
                self.set_stream(bytes, range.start, u64::MAX)?;
            }
            if let Some(bytes) = self.cut().await? {
                return Ok(Some(Piece { bytes, names: self.names.clone() }));
            }
            self.stream = None;
        }
    }

    /// The next whole records of the stream.
    async fn cut(&mut self) -> Result<Option<Bytes>, Error> {
        let document = self.input.format == Format::JsonDocument;
        let wanted = if document { usize::MAX } else { PIECE_BYTES };
        loop {
            let delimiter = self.delimiter().to_vec();
            let Some(stream) = &mut self.stream else { return Ok(None) };
            if stream.offset >= stream.end {
                return Ok(None);
            }
            if stream.pending.len() >= wanted || stream.ended {
                // What begins behind the end of the range is not wanted, what begins before it is, to its own end.
                let left = usize::try_from(stream.end - stream.offset).unwrap_or(usize::MAX);
                let last = (stream.pending.len() >= left).then(|| {
                    let from = left.saturating_sub(delimiter.len());
                    memmem::find(&stream.pending[from..], &delimiter).map(|at| from + at + delimiter.len())
                });
                let end = match last {
                    Some(Some(end)) => end,
                    _ if stream.ended => stream.pending.len(),
                    _ => match &self.input.format {
                        Format::Csv(csv) => csv::whole(&stream.pending, csv),
                        _ => memmem::rfind(&stream.pending, &delimiter).map_or(0, |at| at + delimiter.len()),
                    },
                };
                if end > 0 {
                    let rest = stream.pending.split_off(end);
                    let whole = std::mem::replace(&mut stream.pending, rest);
                    stream.offset += end as u64;
                    return Ok(Some(whole.into()));
                }
                if stream.ended {
                    return Ok(None);
                }
                if stream.pending.len() > PIECE_BYTES + RECORD_BYTES_MAX {
                    return Err(too_large());
                }
            }
            if document && stream.pending.len() > DOCUMENT_BYTES_MAX {
                return Err(Error::new("OverMaxRecordSize", "a JSON document has more than 128 MiB"));
            }
            self.fill().await?;
        }
    }
}

fn too_large() -> Error {
    Error::new("OverMaxRecordSize", "a record of the object has more than 1 MiB")
}

/// Text that was read.
pub(super) fn text_of(bytes: &[u8]) -> Result<&str, Error> {
    std::str::from_utf8(bytes)
        .map_err(|_| Error::new("InvalidTextEncoding", "Invalid encoding type. Only UTF-8 encoding is supported."))
}

/// Ranges of records that lie near each other are read at once, with the records between.
fn joined(rows: Vec<Range<u64>>) -> Vec<Range<u64>> {
    /// Bytes between two ranges that are rather read than left out.
    const GAP_BYTES: u64 = 64 << 10;
    let mut reads: Vec<Range<u64>> = Vec::new();
    for range in rows {
        match reads.last_mut() {
            Some(read) if range.start <= read.end + GAP_BYTES => read.end = read.end.max(range.end),
            _ => reads.push(range),
        }
    }
    reads
}
