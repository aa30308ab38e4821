//! Scans of CSV and JSON: a few objects of any size, or many small ones.
//!
//! ```text
//! pieces ─ read, unpack, cut at rows ─→ chunks ─ gather small ones ─→ bundles ─ decode on any thread ─→ batches
//! ```
//! Each arrow keeps the order and has a bound, so that rows come in the order of their keys, and memory does not depend on
//! the size of an object.

mod chunks;
pub(super) mod csv;
mod decode;
mod json;
mod sample;
mod unpack;

use std::ops::Range;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion::common::runtime::SpawnedTask;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, Statistics};
use datafusion::datasource::source::DataSource;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::DisplayFormatType;
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet};
use datafusion::physical_plan::projection::ProjectionExprs;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};

use self::chunks::{Chunk, Chunks};
pub(crate) use self::decode::Target;
pub(super) use self::sample::{Sample, sample};
pub use self::unpack::Compression;
pub(crate) use self::unpack::Unpack;
use super::error::Error;
use super::read::Reader;
use crate::repository::ObjectVersion;

/// Rows of a batch.
pub(super) const BATCH_ROWS: usize = 8192;
/// Objects of one partition that are read ahead.
const READS_AHEAD_MAX: usize = 16;
/// Bytes of small objects that are decoded at once.
const BUNDLE_BYTES: usize = 256 << 10;
/// Small objects that are decoded at once.
const BUNDLE_OBJECTS_MAX: usize = 1024;

/// A format of text.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Format {
    Json,
    Csv(csv::Dialect),
}

/// What is read of an object.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub(super) object: Arc<ObjectVersion>,
    pub(super) compression: Compression,
    /// Ranges of whole rows; `None` is all of it.
    pub(super) ranges: Option<Vec<Range<u64>>>,
}

/// A scan of text.
#[derive(Clone)]
pub(super) struct TextSource {
    pub(super) reader: Reader,
    pub(super) format: Format,
    pub(super) target: Arc<Target>,
    /// Pieces by partition; those of one lie before those of the next.
    pub(super) partitions: Arc<Vec<Vec<Piece>>>,
    /// Chunks of one partition that are decoded at once.
    pub(super) decoders: usize,
    pub(super) limit: Option<usize>,
    pub(super) statistics: Statistics,
    pub(super) metrics: ExecutionPlanMetricsSet,
}

impl std::fmt::Debug for TextSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TextSource").field("format", &self.format).finish_non_exhaustive()
    }
}

impl TextSource {
    pub(super) fn schema(&self) -> &SchemaRef {
        &self.target.schema
    }

    /// Chunks of the pieces of a partition, in order.
    fn chunks(&self, partition: usize) -> BoxStream<'static, Result<Chunk, Error>> {
        let reads = self.limit.map_or(READS_AHEAD_MAX, |limit| limit.clamp(1, READS_AHEAD_MAX));
        let (source, count) = (self.clone(), self.partitions[partition].len());
        stream::iter(0..count)
            .map(move |at| {
                let source = source.clone();
                async move { source.open(&source.partitions[partition][at]).await }
            })
            .buffered(reads)
            .try_flatten()
            .boxed()
    }

    async fn open(&self, piece: &Piece) -> Result<BoxStream<'static, Result<Chunk, Error>>, Error> {
        let object = Arc::clone(&piece.object);
        if let (Some(ranges), Compression::None) = (&piece.ranges, piece.compression) {
            let chunks = chunks::ranged(&self.reader, object, &self.format, ranges).await?;
            return Ok(stream::iter(chunks.into_iter().map(Ok)).boxed());
        }
        let (reader, format, compression) = (self.reader.clone(), self.format.clone(), piece.compression);
        if object.size > chunks::CHUNK_BYTES as u64 || compression != Compression::None {
            // What is read for long is not begun before its turn.
            let begun = async move { Chunks::open(&reader, object, &format, compression, u64::MAX).await };
            let rest = stream::once(begun).map_ok(|chunks| {
                stream::try_unfold(
                    chunks,
                    |mut chunks| async move { Ok(chunks.next().await?.map(|chunk| (chunk, chunks))) },
                )
            });
            return Ok(rest.try_flatten().boxed());
        }
        let mut chunks = Chunks::open(&reader, object, &format, compression, u64::MAX).await?;
        let mut small = Vec::new();
        while let Some(chunk) = chunks.next().await? {
            small.push(Ok(chunk));
        }
        Ok(stream::iter(small).boxed())
    }

    fn batches(&self, partition: usize) -> BoxStream<'static, Result<RecordBatch, Error>> {
        let objects_max = self.limit.map_or(BUNDLE_OBJECTS_MAX, |limit| limit.clamp(1, BUNDLE_OBJECTS_MAX));
        let (format, target) = (self.format.clone(), Arc::clone(&self.target));
        bundles(self.chunks(partition), objects_max)
            .map_ok(move |bundle| {
                let (format, target) = (format.clone(), Arc::clone(&target));
                let work = SpawnedTask::spawn(async move { decode::decode(&format, &target, &bundle) });
                async move {
                    let done = work.join().await;
                    done.unwrap_or_else(|error| {
                        Err(Error::new(
                            crate::repository::Kind::Internal,
                            "InternalError",
                            format!("a decoder stopped: {error}"),
                        ))
                    })
                }
            })
            .try_buffered(self.decoders)
            .map_ok(|batches| stream::iter(batches.into_iter().map(Ok)))
            .try_flatten()
            .boxed()
    }
}

/// Gathers small chunks.
fn bundles(
    chunks: BoxStream<'static, Result<Chunk, Error>>,
    objects_max: usize,
) -> BoxStream<'static, Result<Vec<Chunk>, Error>> {
    stream::try_unfold(chunks, move |mut chunks| async move {
        let (mut bundle, mut bytes) = (Vec::new(), 0);
        while bytes < BUNDLE_BYTES && bundle.len() < objects_max {
            match chunks.try_next().await? {
                Some(chunk) => {
                    bytes += chunk.bytes.len();
                    bundle.push(chunk);
                }
                None => break,
            }
        }
        Ok((!bundle.is_empty()).then_some((bundle, chunks)))
    })
    .boxed()
}

impl DataSource for TextSource {
    fn open(&self, partition: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let counted = Self { reader: self.reader.counted(&self.metrics), ..self.clone() };
        let rows = BaselineMetrics::new(&self.metrics, partition);
        let left = self.limit.unwrap_or(usize::MAX);
        let state = (counted.batches(partition), left, rows);
        // A batch is asked for only while rows are wanted.
        let batches = stream::try_unfold(state, |(mut batches, left, rows)| async move {
            if left == 0 {
                return Ok(None);
            }
            let Some(batch) = batches.try_next().await? else { return Ok(None) };
            let batch = batch.slice(0, batch.num_rows().min(left));
            rows.record_output(batch.num_rows());
            let left = left - batch.num_rows();
            Ok(Some((batch, (batches, left, rows))))
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(self.schema()), batches)))
    }

    fn fmt_as(&self, _: DisplayFormatType, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "partitions={}", self.partitions.len())?;
        self.limit.map_or(Ok(()), |limit| write!(f, ", limit={limit}"))
    }

    fn output_partitioning(&self) -> Partitioning {
        Partitioning::UnknownPartitioning(self.partitions.len())
    }

    fn eq_properties(&self) -> EquivalenceProperties {
        EquivalenceProperties::new(Arc::clone(self.schema()))
    }

    fn partition_statistics(&self, partition: Option<usize>) -> Result<Arc<Statistics>> {
        Ok(Arc::new(match partition {
            Some(_) => Statistics::new_unknown(self.schema()),
            None => self.statistics.clone(),
        }))
    }

    fn with_fetch(&self, limit: Option<usize>) -> Option<Arc<dyn DataSource>> {
        Some(Arc::new(Self { limit, ..self.clone() }))
    }

    fn fetch(&self) -> Option<usize> {
        self.limit
    }

    fn metrics(&self) -> ExecutionPlanMetricsSet {
        self.metrics.clone()
    }

    fn try_swapping_with_projection(&self, _: &ProjectionExprs) -> Result<Option<Arc<dyn DataSource>>> {
        Ok(None)
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }
}
