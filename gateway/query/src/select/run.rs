//! What one task does: reads the records of a piece, selects, and writes.

use std::borrow::Cow;
use std::sync::Arc;

use datafusion::common::runtime::SpawnedTask;
use futures::TryStreamExt as _;
use parquet::arrow::ParquetRecordBatchStreamBuilder;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::aggregate::Seen;
use super::columnar::{self, malformed};
use super::error::Error;
use super::eval::Row;
use super::feed::{Piece, text_of};
use super::open::{Asked, Columnar, Job};
use super::request::{Format, Output, Request};
use super::syntax::Statement;
use super::value::Value;
use super::{csv, json};
use crate::sql::ParquetObject;

/// Bytes of records that a part may have more than the piece that it comes from. What is beyond comes with the next part.
const PART_BYTES: usize = 8 << 20;
/// What a part may have more for a large piece.
const PART_BYTES_MORE: usize = 32 << 20;
/// Records between two looks at whether somebody waits for them.
const RECORDS_BETWEEN_LOOKS: usize = 256;
/// Parts of one task that wait for their turn.
const PARTS_MAX: usize = 2;
/// Rows of a batch.
const BATCH_ROWS: usize = 4096;
/// Bytes of a batch, about.
const BATCH_BYTES: u64 = 8 << 20;

/// What a statement makes of records that follow one another.
#[derive(Debug, Default)]
pub(super) struct Part {
    /// Records, written.
    pub(super) bytes: Vec<u8>,
    /// Where each ends, for a statement with a limit.
    pub(super) ends: Vec<usize>,
    /// What the aggregates have seen.
    pub(super) seen: Vec<Seen>,
}

/// A task that works on a piece.
pub(super) struct Running {
    pub(super) parts: mpsc::Receiver<Part>,
    pub(super) task: SpawnedTask<Result<(), Error>>,
}

impl Columnar {
    /// Rows of a batch, so that wide ones do not take much memory.
    fn batch_rows(&self, group: usize) -> usize {
        let rows = u64::try_from(self.metadata.metadata().row_group(group).num_rows()).unwrap_or_default().max(1);
        let bytes_each = (self.bytes(group) / rows).max(1);
        usize::try_from(BATCH_BYTES / bytes_each).unwrap_or(BATCH_ROWS).clamp(1, BATCH_ROWS)
    }
}

/// Starts to work on a piece, on the threads of the engine.
pub(super) fn start(asked: Arc<Asked>, job: Job, permit: OwnedSemaphorePermit) -> Running {
    let (sender, parts) = mpsc::channel(PARTS_MAX);
    let work = async move {
        let worker = Worker { asked: &asked, sender };
        let done = match job {
            Job::Text(piece, columns) => worker.text(&piece, columns.as_deref()).await,
            Job::Group(columnar, group) => worker.group(&columnar, group).await,
        };
        drop(permit);
        done
    };
    Running { parts, task: SpawnedTask::spawn(work) }
}

struct Worker<'w> {
    asked: &'w Asked,
    sender: mpsc::Sender<Part>,
}

impl Worker<'_> {
    async fn text(&self, piece: &Piece, columns: Option<&csv::Columns>) -> Result<(), Error> {
        let text = text_of(&piece.bytes)?;
        let Asked { request, statement } = self.asked;
        let (output, all) = (&request.output, statement.items.is_none());
        self.in_parts(text.len(), |sink| match (columns, &request.input.format) {
            (Some(columns), Format::Csv(input)) => {
                let names = piece.names.as_ref().map(|names| &names[..]);
                let reader = csv::Reader { input, names, columns, all };
                reader.read(text, &mut |values, record| sink.take(values, |out| record.write(output, out)))
            }
            (_, format) => {
                let lines = *format == Format::JsonLines;
                let (from, columns) = (&statement.from, &statement.columns);
                let mut each =
                    |values: &[Value<'_>], record: json::Record<'_>| sink.take(values, |out| record.write(output, out));
                json::read(text, lines, from, columns, &mut each)
            }
        })
        .await?;
        Ok(())
    }

    async fn group(&self, columnar: &Columnar, group: usize) -> Result<(), Error> {
        let object =
            ParquetObject::new(columnar.reader.clone(), columnar.footers.clone(), Arc::clone(&columnar.object));
        let mut batches = ParquetRecordBatchStreamBuilder::new_with_metadata(object, columnar.metadata.clone())
            .with_row_groups(vec![group])
            .with_projection(columnar.columns.projection.clone())
            .with_batch_size(columnar.batch_rows(group))
            .build()
            .map_err(malformed)?;
        while let Some(batch) = batches.try_next().await.map_err(of_parquet)? {
            let Asked { request: Request { output, .. }, statement } = self.asked;
            let going_on = self
                .in_parts(0, |sink| {
                    columnar::read(&batch, &statement.columns, &columnar.columns, &mut |values, record| {
                        sink.take(values, |out| record.write(output, out))
                    })
                })
                .await?;
            if !going_on {
                break;
            }
        }
        Ok(())
    }

    /// Reads the same records until all that they make is sent: what is beyond the bytes of a part is made when it is wanted.
    /// False when nobody wants more.
    async fn in_parts(
        &self,
        bytes: usize,
        mut read: impl FnMut(&mut Sink<'_>) -> Result<bool, Error>,
    ) -> Result<bool, Error> {
        let bytes_max = PART_BYTES + bytes.min(PART_BYTES_MORE);
        let mut sink = Sink::new(&self.asked.statement, &self.asked.request.output, &self.sender, bytes_max);
        loop {
            // An aggregate may have seen much of a part that fails; records before a failure are told.
            let outcome = read(&mut sink);
            let full = std::mem::take(&mut sink.full);
            let part = sink.next_part();
            if (!part.bytes.is_empty() || !part.seen.is_empty()) && self.sender.send(part).await.is_err() {
                return Ok(false);
            }
            outcome?;
            if self.sender.is_closed() {
                return Ok(false);
            }
            if !full {
                return Ok(sink.left > 0);
            }
        }
    }
}

/// An error of the repository on the way through the decoder of Parquet, or of the decoder itself.
fn of_parquet(error: parquet::errors::ParquetError) -> Error {
    if let parquet::errors::ParquetError::External(inner) = &error
        && let Some(own) = inner.downcast_ref::<crate::sql::Error>()
    {
        return own.clone().into();
    }
    malformed(error)
}

/// Selects from records that come one after the other.
struct Sink<'s> {
    statement: &'s Statement,
    output: &'s Output,
    sender: &'s mpsc::Sender<Part>,
    bytes_max: usize,
    part: Part,
    /// Records of the answer that are still wanted.
    left: u64,
    /// Records that were read, in all parts.
    read: usize,
    /// Records that are skipped, because they were read for a part before.
    skip: usize,
    full: bool,
}

impl<'s> Sink<'s> {
    fn new(statement: &'s Statement, output: &'s Output, sender: &'s mpsc::Sender<Part>, bytes_max: usize) -> Self {
        let left = statement.limit.unwrap_or(u64::MAX);
        let mut sink =
            Self { statement, output, sender, bytes_max, part: Part::default(), left, read: 0, skip: 0, full: false };
        sink.next_part();
        sink
    }

    fn next_part(&mut self) -> Part {
        self.skip = self.read;
        let seen = vec![Seen::default(); self.statement.aggregates.len()];
        std::mem::replace(&mut self.part, Part { seen, ..Part::default() })
    }

    /// Takes a record. False when no more is wanted now.
    fn take(
        &mut self,
        values: &[Value<'_>],
        whole: impl FnOnce(&mut Vec<u8>) -> Result<(), Error>,
    ) -> Result<bool, Error> {
        if self.skip > 0 {
            self.skip -= 1;
            return Ok(true);
        }
        self.read += 1;
        // Nobody waits for it any more: the client has left, or the time is over.
        if self.read.is_multiple_of(RECORDS_BETWEEN_LOOKS) && self.sender.is_closed() {
            return Ok(false);
        }
        let row = Row { columns: values, aggregates: &[] };
        if let Some(filter) = &self.statement.filter
            && filter.truth(row)? != Some(true)
        {
            return Ok(true);
        }
        if !self.statement.aggregates.is_empty() {
            for (aggregate, seen) in self.statement.aggregates.iter().zip(&mut self.part.seen) {
                seen.add(aggregate, row)?;
            }
            return Ok(true);
        }
        if self.left == 0 {
            return Ok(false);
        }
        match &self.statement.items {
            None => whole(&mut self.part.bytes)?,
            Some(_) => write_items(self.statement, row, self.output, &mut self.part.bytes)?,
        }
        if self.statement.limit.is_some() {
            self.left -= 1;
            self.part.ends.push(self.part.bytes.len());
        }
        self.full = self.part.bytes.len() >= self.bytes_max && self.left > 0;
        Ok(!self.full && self.left > 0)
    }
}

/// Writes what is selected.
pub(super) fn write_items(
    statement: &Statement,
    row: Row<'_>,
    output: &Output,
    out: &mut Vec<u8>,
) -> Result<(), Error> {
    let items = statement.items.as_deref().unwrap_or_default();
    let mut values = Vec::with_capacity(items.len());
    for item in items {
        values.push((Cow::Borrowed(&item.name[..]), item.value.value(row)?));
    }
    output.write(values.into_iter(), out)
}
