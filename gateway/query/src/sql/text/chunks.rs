//! Whole rows out of the bytes of an object, in pieces that are decoded apart.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;

use super::super::error::Error;
use super::super::read::Reader;
use super::csv::Dialect;
use super::unpack::{Compression, Unpack};
use super::{Format, csv, json};
use crate::repository::ObjectVersion;

/// Bytes of rows that are decoded at once.
pub(super) const CHUNK_BYTES: usize = 1 << 20;
/// Bytes of one row.
const ROW_BYTES_MAX: usize = 16 << 20;
/// Bytes between two wanted ranges that are rather read than left out.
const GAP_BYTES: u64 = 64 << 10;
/// Bytes that are read for the head of an object at first.
const HEAD_BYTES: u64 = 16 << 10;

/// Whole rows of one object.
#[derive(Clone, Debug)]
pub(super) struct Chunk {
    pub(super) object: Arc<ObjectVersion>,
    /// Names of the columns in the order of CSV; JSON has its own.
    pub(super) names: Option<Arc<Vec<String>>>,
    pub(super) bytes: Bytes,
}

enum Ends {
    Json(json::Ends),
    Csv(csv::Ends),
}

impl Ends {
    fn new(format: &Format) -> Self {
        match format {
            Format::Json => Self::Json(json::Ends::default()),
            Format::Csv(dialect) => Self::Csv(csv::Ends::new(dialect)),
        }
    }

    fn scan(&mut self, bytes: &[u8], first: bool) -> Option<usize> {
        match self {
            Self::Json(ends) => ends.scan(bytes, first),
            Self::Csv(ends) => ends.scan(bytes, first),
        }
    }

    fn closed(&self) -> bool {
        match self {
            Self::Json(ends) => ends.closed(),
            Self::Csv(ends) => ends.closed(),
        }
    }
}

/// Reads the rows of one object, in order.
pub(super) struct Chunks {
    object: Arc<ObjectVersion>,
    format: Format,
    input: BoxStream<'static, Result<Bytes, Error>>,
    packed: bool,
    /// The input is cut off, so that its last row may be torn.
    partial: bool,
    unpack: Unpack,
    /// Whether more comes out of it without bytes that go in.
    more: bool,
    fed: Bytes,
    ends: Ends,
    names: Option<Arc<Vec<String>>>,
    /// Unpacked bytes, whole rows up to `whole`.
    pending: Vec<u8>,
    whole: usize,
    begun: bool,
    ended: bool,
}

impl Chunks {
    /// All rows, or those that lie in the first bytes.
    pub(super) async fn open(
        reader: &Reader,
        object: Arc<ObjectVersion>,
        format: &Format,
        compression: Compression,
        bytes_max: u64,
    ) -> Result<Self, Error> {
        let input = reader.stream(&object, 0..object.size.min(bytes_max)).await?;
        Ok(Self {
            partial: object.size > bytes_max,
            packed: compression != Compression::None,
            more: false,
            unpack: Unpack::new(compression).map_err(|error| damaged(&object, &error))?,
            ends: Ends::new(format),
            format: format.clone(),
            object,
            input,
            fed: Bytes::new(),
            names: None,
            pending: Vec::new(),
            whole: 0,
            begun: false,
            ended: false,
        })
    }

    /// The next rows.
    pub(super) async fn next(&mut self) -> Result<Option<Chunk>, Error> {
        if !self.begun {
            self.begin().await?;
        }
        while self.whole < CHUNK_BYTES && !self.ended {
            self.feed().await?;
        }
        if self.whole == 0 {
            return Ok(None);
        }
        let rest = self.pending.split_off(self.whole);
        let bytes = Bytes::from(std::mem::replace(&mut self.pending, rest));
        self.whole = 0;
        Ok(Some(Chunk { object: Arc::clone(&self.object), names: self.names.clone(), bytes }))
    }

    /// Names of the columns, when the format has them before the rows.
    pub(super) fn names(&self) -> Option<&Arc<Vec<String>>> {
        self.names.as_ref()
    }

    /// Appends the next bytes, and finds the rows in them.
    async fn feed(&mut self) -> Result<(), Error> {
        let from = self.pending.len();
        self.fill().await?;
        if let Some(end) = self.ends.scan(&self.pending[from..], false) {
            self.whole = from + end;
        }
        if self.ended && !self.partial {
            if !self.ends.closed() {
                return Err(Error::data(format!("{} ends in the middle of a row", name(&self.object))));
            }
            // The last row of CSV needs no end.
            self.whole = self.pending.len();
        }
        if self.pending.len() - self.whole > ROW_BYTES_MAX {
            let message = format!("{} has a row of more than {ROW_BYTES_MAX} bytes", name(&self.object));
            return Err(Error::data(message));
        }
        Ok(())
    }

    /// Appends the next bytes.
    async fn fill(&mut self) -> Result<(), Error> {
        if self.fed.is_empty() && !self.more {
            match self.input.next().await.transpose()? {
                Some(bytes) => self.fed = bytes,
                None => {
                    if !self.partial {
                        self.unpack.finish(&mut self.pending).map_err(|error| damaged(&self.object, &error))?;
                    }
                    self.ended = true;
                    return Ok(());
                }
            }
        }
        let step = if self.packed { self.fed.len() } else { CHUNK_BYTES.min(self.fed.len()) };
        let mut bytes = self.fed.split_to(step);
        let pushed = self.unpack.push(&mut bytes, &mut self.pending);
        self.more = pushed.map_err(|error| damaged(&self.object, &error))?;
        if !bytes.is_empty() {
            self.fed = bytes;
        }
        Ok(())
    }

    /// Steps over the mark of UTF-8, and reads the head.
    async fn begin(&mut self) -> Result<(), Error> {
        self.begun = true;
        while self.pending.len() < 3 && !self.ended {
            self.fill().await?;
        }
        if self.pending.starts_with(b"\xef\xbb\xbf") {
            self.pending.drain(..3);
        }
        let Format::Csv(dialect) = self.format.clone() else {
            return self.rescan();
        };
        loop {
            let row = Ends::new(&self.format).scan(&self.pending, true);
            match row.or((self.ended && !self.partial && !self.pending.is_empty()).then_some(self.pending.len())) {
                Some(end) if blank(&dialect, &self.pending[..end]) => drop(self.pending.drain(..end)),
                Some(end) => {
                    let names = dialect.names(&self.pending[..end]);
                    let names = names.map_err(|error| Error::data(format!("{}: {error}", name(&self.object))))?;
                    self.names = Some(Arc::new(names));
                    if dialect.header {
                        self.pending.drain(..end);
                    }
                    return self.rescan();
                }
                None if self.ended => return Ok(()),
                None if self.pending.len() > ROW_BYTES_MAX => {
                    let message = format!("{} has a row of more than {ROW_BYTES_MAX} bytes", name(&self.object));
                    return Err(Error::data(message));
                }
                None => self.fill().await?,
            }
        }
    }

    /// Finds the rows in what came with the head.
    fn rescan(&mut self) -> Result<(), Error> {
        self.ends = Ends::new(&self.format);
        self.whole = self.ends.scan(&self.pending, false).unwrap_or(0);
        if self.ended && !self.partial {
            if !self.ends.closed() {
                return Err(Error::data(format!("{} ends in the middle of a row", name(&self.object))));
            }
            self.whole = self.pending.len();
        }
        Ok(())
    }
}

/// Whether a line holds no row.
fn blank(dialect: &Dialect, line: &[u8]) -> bool {
    line.iter().all(|byte| matches!(byte, b'\r' | b'\n'))
        || (dialect.comment.is_some() && line.first().copied() == dialect.comment)
}

/// The rows in ranges of an object that is not compressed. What lies between two close ranges is read, and left out.
pub(super) async fn ranged(
    reader: &Reader,
    object: Arc<ObjectVersion>,
    format: &Format,
    ranges: &[Range<u64>],
) -> Result<Vec<Chunk>, Error> {
    let names = match format {
        Format::Json => None,
        Format::Csv(_) => Some(head(reader, &object, format).await?),
    };
    let mut chunks = Vec::new();
    for group in groups(ranges, object.size) {
        let (first, last) = (group[0].start, group[group.len() - 1].end);
        let read = reader.bytes(&object, first..last).await?;
        let mut rows = Vec::new();
        for range in &group {
            let row = read.slice(place(range.start - first)..place(range.end - first));
            rows.extend_from_slice(&row);
            if !row.ends_with(b"\n") {
                rows.push(b'\n');
            }
        }
        chunks.push(Chunk { object: Arc::clone(&object), names: names.clone(), bytes: Bytes::from(rows) });
    }
    Ok(chunks)
}

fn place(offset: u64) -> usize {
    usize::try_from(offset).expect("groups are bounded by the chunk size or one range, which an index bounds")
}

/// Ranges that one read fetches.
fn groups(ranges: &[Range<u64>], size: u64) -> Vec<Vec<Range<u64>>> {
    let mut groups: Vec<Vec<Range<u64>>> = Vec::new();
    for range in ranges {
        let range = range.start.min(size)..range.end.min(size);
        match groups.last_mut() {
            Some(group)
                if range.start.saturating_sub(group[group.len() - 1].end) <= GAP_BYTES
                    && range.end - group[0].start <= CHUNK_BYTES as u64 =>
            {
                group.push(range);
            }
            _ => groups.push(vec![range]),
        }
    }
    groups
}

/// Names of the columns of an object, from its first bytes.
async fn head(reader: &Reader, object: &Arc<ObjectVersion>, format: &Format) -> Result<Arc<Vec<String>>, Error> {
    let mut bytes_max = HEAD_BYTES;
    loop {
        let mut chunks = Chunks::open(reader, Arc::clone(object), format, Compression::None, bytes_max).await?;
        chunks.begin().await?;
        if let Some(names) = chunks.names.take() {
            return Ok(names);
        }
        if bytes_max >= object.size {
            return Ok(Arc::default());
        }
        bytes_max *= 4;
    }
}

pub(super) fn name(object: &ObjectVersion) -> String {
    format!("{}/{}", object.bucket, object.key)
}

fn damaged(object: &ObjectVersion, error: &std::io::Error) -> Error {
    Error::data(format!("{} does not unpack: {error}", name(object)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_ranges_are_read_at_once() {
        let check = |ranges: &[Range<u64>], expected: &[Range<u64>]| {
            let found: Vec<Range<u64>> =
                groups(ranges, 1 << 30).iter().map(|group| group[0].start..group[group.len() - 1].end).collect();
            assert_eq!(found, expected);
        };
        let whole = 0..30;
        check(&[0..10, 20..30], std::slice::from_ref(&whole));
        check(&[0..10, 100_000..100_010], &[0..10, 100_000..100_010]);
        check(&[0..10, 50_000..50_010, 2_000_000..2_000_001], &[0..50_010, 2_000_000..2_000_001]);
        check(&[], &[]);
        assert_eq!(groups(&[0..10, 90..200], 100)[0], [0..10, 90..100]);
    }
}
