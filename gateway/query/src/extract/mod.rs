//! What indexes want to know of content: the values of each row, and where the row is.
//!
//! ```text
//! key, content type ─▶ Format ─▶ rows: CSV, NDJSON, JSON, Parquet ─▶ values by path ─▶ for each index
//!                                                                     an entry a row, or a summary a block
//! ```
//!
//! An outcome is a superset of the truth: what cannot be read is [`Outcome::Unparsed`], and a query reads it whole. Formats
//! are those that SQL reads with its default settings, so that a row has the same values here and there: an empty field of
//! CSV is null, a column is found by its name in the header, letters of another case count when no name is the same.
//!
//! Rows of compressed content and of Parquet have no bytes of their own: their entries stand for the object.

mod columnar;
mod json;
mod text;

use std::collections::BTreeSet;
use std::io::Read;
use std::ops::Range;

use holdfast_core::command::Outcome;
use holdfast_core::index::row::{BlockRow, Entry};
use holdfast_core::index::{BLOCK_SUMMARY_BYTES_MAX, BLOCKS_MAX, ContentIndex, ENTRIES_MAX, Step, Value, bloom};

pub use self::columnar::parquet_blocks;

/// Bytes of content that a write keeps in memory to be read before its commit.
pub const READ_BYTES_MAX: u64 = 1 << 20;
/// Least bytes of a block.
pub const BLOCK_BYTES_MIN: u64 = 1 << 20;
/// Bytes of one row, and of JSON that is not in lines, which must be held whole.
pub const ROW_BYTES_MAX: usize = 64 << 20;

/// How rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Format {
    /// RFC 4180 with a header, fields apart by this byte.
    Csv(u8),
    /// One JSON value a line.
    Ndjson,
    /// A JSON array of rows, or values one after the other.
    Json,
    /// Apache Parquet.
    Parquet,
}

/// How the content as a whole is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Compression {
    /// Not at all.
    None,
    /// GZIP, RFC 1952.
    Gzip,
    /// bzip2.
    Bzip2,
    /// Zstandard, RFC 8878.
    Zstd,
}

/// How the content of an object is written, by the extension of its key, else by its content type.
#[must_use]
pub fn format_of(key: &str, content_type: Option<&str>) -> Option<(Format, Compression)> {
    let name = key.rsplit('/').next().unwrap_or(key).to_ascii_lowercase();
    let (stem, compression) = match name.rsplit_once('.') {
        Some((stem, "gz" | "gzip")) => (stem, Compression::Gzip),
        Some((stem, "bz2")) => (stem, Compression::Bzip2),
        Some((stem, "zst" | "zstd")) => (stem, Compression::Zstd),
        _ => (name.as_str(), Compression::None),
    };
    let by_extension = match stem.rsplit_once('.').map(|(_, extension)| extension) {
        Some("csv") => Some(Format::Csv(b',')),
        Some("tsv") => Some(Format::Csv(b'\t')),
        Some("ndjson" | "jsonl") => Some(Format::Ndjson),
        Some("json") => Some(Format::Json),
        Some("parquet") if compression == Compression::None => Some(Format::Parquet),
        _ => None,
    };
    let by_type = || {
        let media = content_type?.split(';').next()?.trim().to_ascii_lowercase();
        match media.as_str() {
            "text/csv" => Some(Format::Csv(b',')),
            "text/tab-separated-values" => Some(Format::Csv(b'\t')),
            "application/x-ndjson" | "application/jsonl" => Some(Format::Ndjson),
            "application/json" => Some(Format::Json),
            "application/vnd.apache.parquet" => Some(Format::Parquet),
            _ => None,
        }
    };
    Some((by_extension.or_else(by_type)?, compression))
}

/// Content that cannot be read; the reason is for whoever looks after the index.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unreadable(pub String);

impl Unreadable {
    fn new(error: impl std::fmt::Display) -> Self {
        Self(error.to_string())
    }
}

/// What a reader does with each row: its bytes (empty when it has none of its own) and the values of the wanted paths.
type EachRow<'a> = dyn FnMut(Range<u64>, &[Value<'_>]) -> Result<(), Unreadable> + 'a;

/// Reads content that is in memory, for some indexes: what was found for each, in their order. More rows than one command
/// may bring in are [`Outcome::Pending`].
#[must_use]
pub fn extract(format: Option<(Format, Compression)>, content: &[u8], indexes: &[ContentIndex]) -> Vec<Outcome> {
    let mut wanted = Wanted::new(indexes);
    let mut found: Vec<Entries> = indexes.iter().map(|index| Entries::new(index.unique)).collect();
    let mut left = ENTRIES_MAX;
    let read =
        read_rows(format, Box::new(content), content.len() as u64, &wanted.paths.clone(), &mut |range, values| {
            for (at, entries) in found.iter_mut().enumerate() {
                entries.push(wanted.tuple(at, values), &range, &mut left);
            }
            Ok(())
        });
    match read {
        Err(Unreadable(why)) => indexes.iter().map(|_| Outcome::Unparsed(why.clone())).collect(),
        Ok(()) => found.into_iter().map(Entries::finish).collect(),
    }
}

/// Reads text of any size once, for one index: a summary of each block. Runs on a thread that may block. Parquet is for
/// [`parquet_blocks`].
///
/// # Errors
/// [`Unreadable`] for what does not parse, or has no blocks because it is not in lines.
pub fn extract_blocks(
    format: Option<(Format, Compression)>,
    content: Box<dyn Read + '_>,
    size: u64,
    index: &ContentIndex,
) -> Result<Outcome, Unreadable> {
    if matches!(format, Some((Format::Parquet, _))) {
        return Err(Unreadable("row groups are read by their ranges".to_owned()));
    }
    let mut wanted = Wanted::new(std::slice::from_ref(index));
    let mut blocks = Blocks::new(size);
    let addressable = matches!(format, Some((_, Compression::None)));
    read_rows(format, content, size, &wanted.paths.clone(), &mut |range, values| {
        blocks.push(wanted.tuple(0, values), &range);
        Ok(())
    })?;
    Ok(Outcome::Blocks(if addressable { blocks.finish() } else { blocks.finish_as_one(size) }))
}

fn read_rows(
    format: Option<(Format, Compression)>,
    content: Box<dyn Read + '_>,
    size: u64,
    paths: &[Vec<Step>],
    each: &mut EachRow<'_>,
) -> Result<(), Unreadable> {
    let Some((format, compression)) = format else {
        return Err(Unreadable("neither the extension nor the content type is that of a format with rows".to_owned()));
    };
    if compression == Compression::None {
        return read_plain(format, content, size, paths, each);
    }
    // Where a row is in the compressed bytes cannot be said.
    let mut each = |_: Range<u64>, values: &[Value<'_>]| each(0..0, values);
    read_plain(format, decompressed(compression, content)?, ROW_BYTES_MAX as u64, paths, &mut each)
}

fn read_plain(
    format: Format,
    content: Box<dyn Read + '_>,
    size: u64,
    paths: &[Vec<Step>],
    each: &mut EachRow<'_>,
) -> Result<(), Unreadable> {
    match format {
        Format::Csv(delimiter) => text::read_csv(delimiter, content, paths, each),
        Format::Ndjson => text::read_lines(content, paths, each),
        Format::Json => json::read(&whole(content, size)?, paths, each),
        Format::Parquet => columnar::read(whole(content, size)?, paths, each),
    }
}

fn whole(content: Box<dyn Read + '_>, size: u64) -> Result<Vec<u8>, Unreadable> {
    let too_large = || Unreadable(format!("it must be read whole and has more than {ROW_BYTES_MAX} bytes"));
    if size > ROW_BYTES_MAX as u64 {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    content.take(ROW_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(Unreadable::new)?;
    if bytes.len() > ROW_BYTES_MAX { Err(too_large()) } else { Ok(bytes) }
}

fn decompressed(compression: Compression, content: Box<dyn Read + '_>) -> Result<Box<dyn Read + '_>, Unreadable> {
    Ok(match compression {
        Compression::None => content,
        Compression::Gzip => Box::new(flate2::read::MultiGzDecoder::new(content)),
        Compression::Bzip2 => Box::new(bzip2::read::MultiBzDecoder::new(content)),
        Compression::Zstd => Box::new(zstd::stream::read::Decoder::new(content).map_err(Unreadable::new)?),
    })
}

/// The paths that some indexes want, each once, and how their tuples are made of them.
#[derive(Clone)]
struct Wanted {
    paths: Vec<Vec<Step>>,
    of_index: Vec<Vec<usize>>,
    tuple: Vec<u8>,
}

impl Wanted {
    fn new(indexes: &[ContentIndex]) -> Self {
        let mut paths: Vec<Vec<Step>> = Vec::new();
        let mut number = |path: &Vec<Step>| {
            paths.iter().position(|known| known == path).unwrap_or_else(|| {
                paths.push(path.clone());
                paths.len() - 1
            })
        };
        let of_index = indexes.iter().map(|index| index.fields.iter().map(&mut number).collect()).collect();
        Self { paths, of_index, tuple: Vec::new() }
    }

    /// The tuple of a row for an index; `None` when all its values are null, so that no index has an entry of it.
    fn tuple(&mut self, index: usize, values: &[Value<'_>]) -> Option<&[u8]> {
        self.tuple.clear();
        let fields = &self.of_index[index];
        if fields.iter().all(|field| values[*field] == Value::Null) {
            return None;
        }
        for field in fields {
            values[*field].encode(&mut self.tuple);
        }
        Some(&self.tuple)
    }
}

/// The entries of one index.
struct Entries {
    entries: Vec<Entry>,
    /// Tuples that stand for the object already: one entry says it.
    whole: BTreeSet<Vec<u8>>,
    unique: bool,
    too_many: bool,
}

impl Entries {
    fn new(unique: bool) -> Self {
        Self { entries: Vec::new(), whole: BTreeSet::new(), unique, too_many: false }
    }

    fn push(&mut self, tuple: Option<&[u8]>, range: &Range<u64>, left: &mut usize) {
        let Some(tuple) = tuple else { return };
        let Ok(length) = u32::try_from(range.end - range.start) else {
            self.too_many = true;
            return;
        };
        if length == 0 && !self.unique && !self.whole.insert(tuple.to_vec()) {
            return;
        }
        match left.checked_sub(1) {
            Some(rest) if !self.too_many => {
                *left = rest;
                self.entries.push(Entry { tuple: tuple.to_vec(), offset: range.start, length });
            }
            _ => self.too_many = true,
        }
    }

    fn finish(self) -> Outcome {
        if self.too_many { Outcome::Pending } else { Outcome::Rows(self.entries) }
    }
}

/// Summaries of blocks, in the order of rows.
struct Blocks {
    block_bytes: u64,
    done: Vec<BlockRow>,
    start: u64,
    end: u64,
    tuples: Tuples,
}

/// The tuples of a block.
#[derive(Default)]
struct Tuples {
    low: Vec<u8>,
    high: Vec<u8>,
    hashes: BTreeSet<u64>,
}

/// Bytes of one block's summary at most: bounds of eight texts, and the filter.
const SUMMARY_BYTES: u64 = 4 << 10;
/// Hashes beyond which a filter of the most bytes lets nearly everything through.
const HASHES_MAX: usize = bloom::BYTES_MAX * 8 / 4;

impl Tuples {
    fn push(&mut self, tuple: &[u8]) {
        if self.low.is_empty() || tuple < &self.low[..] {
            self.low = tuple.to_vec();
        }
        if tuple > &self.high[..] {
            self.high = tuple.to_vec();
        }
        if self.hashes.len() <= HASHES_MAX {
            self.hashes.insert(bloom::hash(tuple));
        }
    }

    fn block(&mut self, range: Range<u64>) -> BlockRow {
        let Self { low, high, hashes } = std::mem::take(self);
        let bloom = if hashes.len() > HASHES_MAX { Vec::new() } else { bloom::build(&hashes) };
        BlockRow { offset: range.start, length: range.end - range.start, low, high, bloom }
    }
}

impl Blocks {
    fn new(size: u64) -> Self {
        let most = (BLOCKS_MAX as u64).min(BLOCK_SUMMARY_BYTES_MAX as u64 / SUMMARY_BYTES) / 2;
        let block_bytes = BLOCK_BYTES_MIN.max(size.div_ceil(most));
        Self { block_bytes, done: Vec::new(), start: 0, end: 0, tuples: Tuples::default() }
    }

    fn push(&mut self, tuple: Option<&[u8]>, range: &Range<u64>) {
        if self.end == 0 {
            // What stands before the first row, such as a header, is no part of a block.
            self.start = range.start;
        }
        if range.start >= self.start + self.block_bytes {
            self.cut(range.start);
        }
        self.end = range.end;
        if let Some(tuple) = tuple {
            self.tuples.push(tuple);
        }
    }

    /// Ends a block where the next row begins.
    fn cut(&mut self, at: u64) {
        let block = self.tuples.block(self.start..at);
        self.done.push(block);
        self.start = at;
    }

    fn finish(mut self) -> Vec<BlockRow> {
        self.cut(self.end.max(self.start));
        self.done.retain(|block| !block.low.is_empty());
        self.done
    }

    /// One block for all of it, where rows have no bytes of their own.
    fn finish_as_one(mut self, size: u64) -> Vec<BlockRow> {
        let block = self.tuples.block(0..size);
        if block.low.is_empty() { Vec::new() } else { vec![block] }
    }
}

#[cfg(test)]
mod tests;
