//! Bytes of versions, counted: a query may read so many and no more.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use datafusion::physical_plan::metrics::{Count, ExecutionPlanMetricsSet, MetricBuilder};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};

use super::error::{Error, Kind};
use crate::repository::{ObjectVersion, Snapshot};

/// What a query did until now.
#[derive(Debug, Default)]
pub struct Progress {
    rows: AtomicU64,
    bytes: AtomicU64,
    requests: AtomicU64,
}

impl Progress {
    /// Rows of the result.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }

    /// Bytes of objects that were read.
    #[must_use]
    pub fn bytes_scanned(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Reads of objects.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    pub(crate) fn add_rows(&self, rows: usize) {
        self.rows.fetch_add(rows as u64, Ordering::Relaxed);
    }
}

/// Reads of one query.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    pub(crate) progress: Arc<Progress>,
    pub(crate) bytes_max: u64,
}

/// Reads of one table at one revision.
#[derive(Clone)]
pub(crate) struct Reader {
    pub(crate) snapshot: Arc<dyn Snapshot>,
    budget: Budget,
    requests: Count,
    bytes: Count,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("revision", &self.snapshot.revision()).finish_non_exhaustive()
    }
}

impl Reader {
    pub(crate) fn new(snapshot: Arc<dyn Snapshot>, budget: Budget) -> Self {
        Self { snapshot, budget, requests: Count::new(), bytes: Count::new() }
    }

    /// The same, that also counts for one node of a plan.
    pub(crate) fn counted(&self, metrics: &ExecutionPlanMetricsSet) -> Self {
        Self {
            requests: MetricBuilder::new(metrics).global_counter("requests"),
            bytes: MetricBuilder::new(metrics).global_counter("bytes_read"),
            ..self.clone()
        }
    }

    /// Pieces of a range, each of which is counted as it comes.
    pub(crate) async fn stream(
        &self,
        version: &ObjectVersion,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes, Error>>, Error> {
        if range.is_empty() {
            return Ok(futures::stream::empty().boxed());
        }
        self.requests.add(1);
        self.budget.progress.requests.fetch_add(1, Ordering::Relaxed);
        let stream = self.snapshot.read(version, range).await.map_err(|error| named(version, error))?;
        let (budget, bytes) = (self.budget.clone(), self.bytes.clone());
        let name = format!("{}/{}", version.bucket, version.key);
        Ok(stream
            .map(move |piece| {
                let piece = piece.map_err(|error| named_as(&name, error))?;
                bytes.add(piece.len());
                let before = budget.progress.bytes.fetch_add(piece.len() as u64, Ordering::Relaxed);
                if before + piece.len() as u64 > budget.bytes_max {
                    return Err(Error::new(
                        Kind::Invalid,
                        "ScanTooLarge",
                        format!("the query reads more than the {} bytes that one may", budget.bytes_max),
                    ));
                }
                Ok(piece)
            })
            .boxed())
    }

    /// A range in one piece. The caller bounds it.
    pub(crate) async fn bytes(&self, version: &ObjectVersion, range: Range<u64>) -> Result<Bytes, Error> {
        let wanted = range.end.saturating_sub(range.start);
        let mut pieces: Vec<Bytes> = self.stream(version, range).await?.try_collect().await?;
        let read: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
        if read != wanted {
            let message = format!("{}/{} gave {read} bytes of {wanted}", version.bucket, version.key);
            return Err(Error::new(Kind::Internal, "InternalError", message));
        }
        if pieces.len() == 1 {
            return Ok(pieces.swap_remove(0));
        }
        let mut whole = BytesMut::with_capacity(usize::try_from(read).unwrap_or_default());
        pieces.iter().for_each(|piece| whole.extend_from_slice(piece));
        Ok(whole.freeze())
    }
}

fn named(version: &ObjectVersion, error: crate::repository::Error) -> Error {
    named_as(&format!("{}/{}", version.bucket, version.key), error)
}

fn named_as(name: &str, error: crate::repository::Error) -> Error {
    let mut named = Error::from(error);
    named.message = format!("{name}: {}", named.message);
    named
}
