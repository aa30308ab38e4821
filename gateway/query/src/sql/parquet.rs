//! Scans of Parquet: footers that are read once per version, and the engine's own source over ranged reads.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef};
use bytes::Bytes;
use datafusion::common::Result as EngineResult;
use datafusion::config::TableParquetOptions;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::{ParquetAccessPlan, ParquetFileReaderFactory, RowGroupAccess};
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use moka::future::Cache;
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::{AsyncFileReader, MetadataFetch};
use parquet::arrow::parquet_to_arrow_schema;
use parquet::errors::ParquetError;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader, RowGroupMetaData};

use super::error::Error;
use super::read::Reader;
use crate::repository::{ObjectVersion, VersionKey};

/// Bytes at the end of an object that are read for its footer at first.
const FOOTER_BYTES: usize = 64 << 10;
/// Bytes between two ranges that are rather read than left out.
const GAP_BYTES: u64 = 64 << 10;
/// Bytes that are read at once when ranges are close.
const READ_BYTES_MAX: u64 = 8 << 20;
/// Ranges of one object that are read at once.
const READS_MAX: usize = 8;
/// Footers that are read at once.
pub(super) const FOOTERS_AHEAD_MAX: usize = 16;

/// What the end of an object says of it.
#[derive(Clone, Debug)]
pub(crate) struct Footer {
    pub(crate) metadata: Arc<ParquetMetaData>,
    /// Its columns, in the types that the engine computes with.
    pub(super) columns: Arc<[FieldRef]>,
}

/// Footers by version: what never changes needs no end.
#[derive(Clone, Debug)]
pub(crate) struct Footers {
    cache: Cache<VersionKey, Footer>,
}

impl Footers {
    pub(super) fn new(bytes_max: u64) -> Self {
        let weigh = |_: &VersionKey, footer: &Footer| {
            let columns: usize = footer.columns.iter().map(|column| column.size() + size_of::<FieldRef>()).sum();
            u32::try_from(footer.metadata.memory_size() + columns).unwrap_or(u32::MAX)
        };
        Self { cache: Cache::builder().max_capacity(bytes_max).weigher(weigh).build() }
    }

    pub(crate) async fn of(&self, reader: &Reader, object: &Arc<ObjectVersion>) -> Result<Footer, Error> {
        if let Some(footer) = self.cache.get(&object.id).await {
            return Ok(footer);
        }
        let fetch = Fetch { reader: reader.clone(), object: Arc::clone(object) };
        let metadata = ParquetMetaDataReader::new()
            .with_page_index_policy(PageIndexPolicy::Optional)
            .with_prefetch_hint(Some(FOOTER_BYTES))
            .load_and_finish(fetch, object.size)
            .await;
        let metadata = Arc::new(metadata.map_err(|error| damaged(object, error))?);
        let footer = Footer { columns: columns(object, &metadata)?.into(), metadata };
        self.cache.insert(object.id, footer.clone()).await;
        Ok(footer)
    }
}

fn damaged(object: &ObjectVersion, error: ParquetError) -> Error {
    let found = Error::from(datafusion::error::DataFusionError::from(error));
    match found.code {
        "InvalidData" => {
            let message = format!("{}/{} is no Parquet: {}", object.bucket, object.key, found.message);
            Error { message, ..found }
        }
        _ => found,
    }
}

fn columns(object: &ObjectVersion, footer: &ParquetMetaData) -> Result<Vec<FieldRef>, Error> {
    let file = footer.file_metadata();
    let schema = parquet_to_arrow_schema(file.schema_descr(), file.key_value_metadata())
        .map_err(|error| damaged(object, error))?;
    let viewed = schema.fields().iter().map(|field| match field.data_type() {
        DataType::Utf8 | DataType::LargeUtf8 => retyped(field, DataType::Utf8View),
        DataType::Binary | DataType::LargeBinary => retyped(field, DataType::BinaryView),
        kind => retyped(field, kind.clone()),
    });
    Ok(viewed.collect())
}

/// A file may lack a column that another has, so each may be null.
fn retyped(field: &Field, kind: DataType) -> FieldRef {
    Arc::new(Field::new(field.name(), kind, true))
}

/// Whether values of a type lose nothing in a column of the table.
pub(super) fn fits(column: &DataType, kind: &DataType) -> bool {
    widest(column, kind).as_ref() == Some(column)
}

/// The columns of all objects together: by name, in the widest type.
///
/// # Errors
/// `InvalidData` when two types have nothing in common.
pub(super) fn merge(known: &mut Vec<FieldRef>, object: &ObjectVersion, more: &[FieldRef]) -> Result<(), Error> {
    for field in more {
        let Some(place) = known.iter().position(|known| known.name() == field.name()) else {
            known.push(Arc::clone(field));
            continue;
        };
        let kind = widest(known[place].data_type(), field.data_type()).ok_or_else(|| {
            let message = format!(
                "{}/{}: column {:?} is of type {}, which does not go with {} in the objects before",
                object.bucket,
                object.key,
                field.name(),
                field.data_type(),
                known[place].data_type()
            );
            Error::data(message)
        })?;
        known[place] = retyped(field, kind);
    }
    Ok(())
}

fn widest(a: &DataType, b: &DataType) -> Option<DataType> {
    use DataType::{Date32, Decimal128, Float16, Float32, Float64, Int64, Null, Timestamp, UInt64};
    if a == b {
        return Some(a.clone());
    }
    match (a, b) {
        (Null, kind) | (kind, Null) => Some(kind.clone()),
        (UInt64, kind) | (kind, UInt64) if kind.is_integer() => Some(Decimal128(20, 0)),
        (a, b) if a.is_integer() && b.is_integer() => Some(Int64),
        (Float16 | Float32, Float16 | Float32) => Some(Float32),
        (a, b) if (a.is_integer() || a.is_floating()) && (b.is_integer() || b.is_floating()) => Some(Float64),
        (Decimal128(p, s), Decimal128(q, t)) => {
            let scale = *s.max(t);
            let whole = (i16::from(*p) - i16::from(*s)).max(i16::from(*q) - i16::from(*t));
            let precision = u8::try_from(whole + i16::from(scale)).ok()?;
            (precision <= 38).then_some(Decimal128(precision, scale))
        }
        (Date32, kind @ Timestamp(..)) | (kind @ Timestamp(..), Date32) => Some(kind.clone()),
        (Timestamp(u, a), Timestamp(v, b)) if a == b => Some(Timestamp(*u.max(v), a.clone())),
        _ => None,
    }
}

/// Whether each row group lies in one of the ranges.
pub(crate) fn touched(footer: &ParquetMetaData, ranges: &[Range<u64>]) -> Vec<bool> {
    let touched = |group: &RowGroupMetaData| {
        let bytes = bytes_of(group);
        ranges.iter().any(|range| range.start < bytes.end && bytes.start < range.end)
    };
    footer.row_groups().iter().map(touched).collect()
}

/// Where the columns of a row group lie.
pub(crate) fn bytes_of(group: &RowGroupMetaData) -> Range<u64> {
    let (mut from, mut to) = (u64::MAX, 0);
    for column in group.columns() {
        let (start, length) = column.byte_range();
        from = from.min(start);
        to = to.max(start + length);
    }
    from.min(to)..to
}

/// Only the row groups that lie in one of the ranges.
pub(super) fn access(footer: &ParquetMetaData, ranges: &[Range<u64>]) -> ParquetAccessPlan {
    let access = |touched: bool| if touched { RowGroupAccess::Scan } else { RowGroupAccess::Skip };
    ParquetAccessPlan::new(touched(footer, ranges).into_iter().map(access).collect())
}

/// Options of the engine's source: bytes are what costs, so everything that leaves some out is on.
pub(super) fn options() -> TableParquetOptions {
    let mut options = TableParquetOptions::default();
    options.global.pushdown_filters = true;
    options.global.reorder_filters = true;
    options.global.enable_page_index = true;
    options.global.bloom_filter_on_read = true;
    options
}

/// The object of a file of a scan.
#[derive(Clone, Debug)]
pub(super) struct ObjectOf(pub(super) Arc<ObjectVersion>);

/// Opens objects for the engine's source.
#[derive(Debug)]
pub(super) struct Factory {
    pub(super) reader: Reader,
    pub(super) footers: Footers,
    /// All columns of the table, when all are wanted: then one that is not among them would be left out.
    pub(super) known: Option<Arc<HashSet<String>>>,
}

impl ParquetFileReaderFactory for Factory {
    fn create_reader(
        &self,
        _: usize,
        file: PartitionedFile,
        _: Option<usize>,
        metrics: &ExecutionPlanMetricsSet,
    ) -> EngineResult<Box<dyn AsyncFileReader + Send>> {
        let ObjectOf(object) = file.extension::<ObjectOf>().expect("each file of a scan was made from an object");
        Ok(Box::new(Object {
            fetch: Fetch { reader: self.reader.counted(metrics), object: Arc::clone(object) },
            footers: self.footers.clone(),
            known: self.known.clone(),
        }))
    }
}

/// Reads an object for a decoder of Parquet.
pub(crate) struct Object {
    fetch: Fetch,
    footers: Footers,
    known: Option<Arc<HashSet<String>>>,
}

impl Object {
    pub(crate) fn new(reader: Reader, footers: Footers, object: Arc<ObjectVersion>) -> Self {
        Self { fetch: Fetch { reader, object }, footers, known: None }
    }
}

#[derive(Clone)]
struct Fetch {
    reader: Reader,
    object: Arc<ObjectVersion>,
}

impl Fetch {
    async fn bytes(&self, range: Range<u64>) -> Result<Bytes, ParquetError> {
        self.reader.bytes(&self.object, range).await.map_err(|error| ParquetError::External(Box::new(error)))
    }
}

impl MetadataFetch for Fetch {
    fn fetch(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        self.bytes(range).boxed()
    }
}

impl AsyncFileReader for Object {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        self.fetch.bytes(range).boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, Result<Vec<Bytes>, ParquetError>> {
        let fetch = self.fetch.clone();
        async move {
            let reads = joined(&ranges);
            let read: Vec<(u64, Bytes)> = stream::iter(reads)
                .map(|range| {
                    let fetch = fetch.clone();
                    async move { Ok::<_, ParquetError>((range.start, fetch.bytes(range).await?)) }
                })
                .buffered(READS_MAX)
                .try_collect()
                .await?;
            Ok(ranges.iter().map(|range| cut(&read, range)).collect())
        }
        .boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>, ParquetError>> {
        async move {
            let object = &self.fetch.object;
            let external = |error: Error| ParquetError::External(Box::new(error));
            let footer = self.footers.of(&self.fetch.reader, object).await.map_err(external)?.metadata;
            if let Some(known) = &self.known {
                let root = footer.file_metadata().schema_descr().root_schema();
                if let Some(unknown) = root.get_fields().iter().find(|field| !known.contains(field.name())) {
                    let message = format!(
                        "{}/{}: {:?} was not in the sample, so that it has no column; read_parquet takes \
                         sample_objects => n",
                        object.bucket,
                        object.key,
                        unknown.name()
                    );
                    return Err(external(Error::data(message)));
                }
            }
            Ok(footer)
        }
        .boxed()
    }
}

/// The reads that cover ranges; they are disjoint, and in order.
fn joined(ranges: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut sorted = ranges.to_vec();
    sorted.sort_by_key(|range| (range.start, range.end));
    let mut reads: Vec<Range<u64>> = Vec::new();
    for range in sorted {
        match reads.last_mut() {
            Some(read)
                if range.start < read.end
                    || (range.start - read.end <= GAP_BYTES && range.end - read.start <= READ_BYTES_MAX) =>
            {
                read.end = read.end.max(range.end);
            }
            _ => reads.push(range),
        }
    }
    reads
}

fn cut(reads: &[(u64, Bytes)], range: &Range<u64>) -> Bytes {
    let place = reads.partition_point(|(start, _)| *start <= range.start).saturating_sub(1);
    let (start, bytes) = &reads[place];
    let offset = |at: u64| usize::try_from(at - start).expect("a read fits into memory");
    bytes.slice(offset(range.start)..offset(range.end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_ranges_are_one_read_and_come_apart_again() {
        let ranges = [500_000..500_010_u64, 0..10, 5..20, 30..40];
        let reads = joined(&ranges);
        assert_eq!(reads, [0..40, 500_000..500_010]);
        let bytes: Vec<(u64, Bytes)> = reads
            .iter()
            .map(|range| (range.start, range.clone().map(|at| u8::try_from(at % 251).unwrap()).collect()))
            .collect();
        for range in &ranges {
            let expected: Vec<u8> = range.clone().map(|at| u8::try_from(at % 251).unwrap()).collect();
            assert_eq!(cut(&bytes, range), expected);
        }
    }

    #[test]
    fn two_types_have_a_widest_one() {
        use DataType::{Boolean, Date32, Decimal128, Float32, Float64, Int8, Int32, Int64, UInt64, Utf8View};
        let check = |a: DataType, b: DataType, expected: Option<DataType>| {
            assert_eq!(widest(&a, &b), expected);
            assert_eq!(widest(&b, &a), expected);
        };
        check(Int8, Int32, Some(Int64));
        check(Int64, UInt64, Some(Decimal128(20, 0)));
        check(Int32, Float32, Some(Float64));
        check(Decimal128(10, 2), Decimal128(12, 4), Some(Decimal128(12, 4)));
        check(Decimal128(38, 2), Decimal128(38, 30), None);
        check(Boolean, Int8, None);
        check(Utf8View, Date32, None);
    }
}
