//! Builds indexes, reads the objects that wait for one, and removes what indexes have lost.
//!
//! A build goes over the names of its partition in pages; what is not read by then is pending, and drained like what large
//! or finished uploads leave. Small objects get an entry for each row; those that are too large, or have too many rows, a
//! summary of each block. Every step is one command, so a build goes on where it was, on whichever node leads.

use std::io::Read;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use futures::stream::{self, StreamExt as _};
use futures::{FutureExt as _, TryStreamExt as _};
use holdfast_core::command::{IndexObjects, Op, Outcome, ReadObject, Reply, TrimIndexes};
use holdfast_core::effect::Effect;
use holdfast_core::index::{ContentIndex, IndexInfo, IndexState};
use holdfast_core::rules::JOB_ROWS_MAX;
use holdfast_core::view::{Bucket, Found};
use holdfast_query::extract::{
    Compression, Format, READ_BYTES_MAX, Unreadable, extract, extract_blocks, format_of, parquet_blocks,
};
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use tokio::sync::mpsc;

use super::{Context, Error, Job, Kind, Round};
use crate::blobs;
use crate::ops::bucket_ref;

/// Objects that are read for one command.
const PAGE: usize = 64;
/// Objects that are read at a time.
const READS: usize = 8;
/// Entries after which a command takes no further object.
const ENTRIES_OF_STEP: usize = 5_000;
/// Pieces of a large object on their way to the thread that reads it.
const PIECES_AHEAD: usize = 8;

/// The job: where it is among what waits.
#[derive(Default)]
pub(crate) struct Build {
    /// The last pending object that was tried, of which index.
    after: Option<(u64, String)>,
    failed: Option<Error>,
}

impl Job for Build {
    const NAME: &'static str = "index";
    const EVERY: Duration = Duration::from_secs(60);
    const WAKES_ON: Option<Effect> = Some(Effect::IndexQueued);

    async fn round(&mut self, context: &Context) -> Result<Round, Error> {
        let mut more = trim(context).await?;
        let at_work = context.look(|view, permit| view.indexes_at_work(permit)).await?;
        for (bucket, index) in at_work {
            match self.step(context, &bucket, &index).await {
                Ok(progressed) => more |= progressed,
                // Dropped, or overtaken by another leader: the next look tells.
                Err(error) if error.kind() == Kind::Changed => more = true,
                Err(error) => self.failed = Some(error),
            }
        }
        match self.failed.take() {
            Some(error) => Err(error),
            None => Ok(if more { Round::More } else { Round::Done }),
        }
    }
}

async fn trim(context: &Context) -> Result<bool, Error> {
    if !context.look(|view, permit| view.has_index_garbage(permit)).await? {
        return Ok(false);
    }
    match context.commit(Op::TrimIndexes(TrimIndexes { rows: JOB_ROWS_MAX as u32 })).await? {
        Reply::Trimmed { rows, more } => {
            context.stats.rows_trimmed.fetch_add(u64::from(rows), Ordering::Relaxed);
            Ok(more)
        }
        _ => Ok(false),
    }
}

impl Build {
    /// Reads some objects for an index and commits what was found. Whether there may be more.
    async fn step(&mut self, context: &Context, bucket: &Bucket, index: &IndexInfo) -> Result<bool, Error> {
        let wanted = index.content();
        let building = match &index.state {
            IndexState::Building(cursor) => Some(cursor.clone()),
            _ => None,
        };
        if building.is_some() && wanted.fields.is_empty() {
            // Values of attributes are in the state: the command finds them itself.
            commit(context, bucket, index, Vec::new(), building, None).await?;
            return Ok(true);
        }
        let after = self.after.take().filter(|(of, _)| *of == index.id).map(|(_, key)| key).unwrap_or_default();
        let (of, what) = (bucket.clone(), index.clone());
        let page = context.look(move |view, permit| view.objects_for_index(permit, &of, &what, &after, PAGE)).await?;
        let is_last = page.len() < PAGE;
        let last_of_page = page.last().map(|found| found.key.as_str().to_owned());
        let mut reads =
            stream::iter(page.into_iter().map(|found| read(context, found, wanted.clone()))).buffered(READS);
        let (mut objects, mut entries, mut cut) = (Vec::new(), 0, false);
        while let Some(done) = reads.next().await {
            match done {
                Ok(read) => {
                    entries += weight(&read.outcome);
                    objects.push(read);
                }
                // Overwritten or deleted meanwhile: a later look finds what is there now.
                Err(error) if error.kind() == Kind::Changed => {}
                Err(error) if building.is_some() => return Err(error),
                Err(error) => self.failed = Some(error),
            }
            if entries >= ENTRIES_OF_STEP {
                cut = true;
                break;
            }
        }
        drop(reads);
        let last = objects.last().map(|read| read.key.as_str().to_owned());
        let next = match (&building, cut, is_last) {
            (None, ..) | (Some(_), false, true) => None,
            (Some(_), true, _) => last.clone(),
            (Some(_), false, false) => last_of_page.clone(),
        };
        if building.is_none() && !is_last {
            self.after = if cut { last } else { last_of_page }.map(|key| (index.id, key));
        }
        let done = objects.len();
        if done > 0 || building.is_some() {
            commit(context, bucket, index, objects, building.clone(), next).await?;
            context.stats.objects_indexed.fetch_add(done as u64, Ordering::Relaxed);
        }
        Ok(cut || !is_last || building.is_some())
    }
}

/// What an outcome takes of a command.
fn weight(outcome: &Outcome) -> usize {
    match outcome {
        Outcome::Rows(entries) => entries.len(),
        Outcome::Blocks(blocks) => blocks.len() * 10,
        Outcome::Unparsed(_) | Outcome::Pending => 1,
    }
}

async fn commit(
    context: &Context,
    bucket: &Bucket,
    index: &IndexInfo,
    objects: Vec<ReadObject>,
    cursor: Option<String>,
    next: Option<String>,
) -> Result<(), Error> {
    let (bucket, name) = (bucket_ref(bucket), index.name.clone());
    let op = IndexObjects { bucket, name, index: index.id, objects, cursor, next };
    context.commit(Op::IndexObjects(op)).await.map(drop)
}

/// Reads an object for an index.
async fn read(context: &Context, found: Found, index: ContentIndex) -> Result<ReadObject, Error> {
    let version = found.row.version.as_ref();
    let content_type = version.and_then(|version| version.attributes.headers.content_type.clone());
    let format = format_of(found.key.as_str(), content_type.as_deref());
    let size = found.row.size();
    let (key, place) = (found.key.clone(), found.place);
    let generation = version.and_then(|version| version.patched);
    let mut outcome = Outcome::Pending;
    if size <= READ_BYTES_MAX {
        let (bytes, for_index) = (read_range(context, &found, 0..size).await?, index.clone());
        outcome = off_the_reactor(move || extract(format, &bytes, &[for_index]).remove(0)).await?;
    }
    // Too large, or more rows than an entry each may have.
    if outcome == Outcome::Pending && !index.unique {
        outcome = blocks(context, found, format, index).await?;
    }
    Ok(ReadObject { key, place, outcome, generation })
}

fn unparsed(Unreadable(why): Unreadable) -> Outcome {
    Outcome::Unparsed(why)
}

async fn off_the_reactor<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::Closed)
}

async fn blocks(
    context: &Context,
    found: Found,
    format: Option<(Format, Compression)>,
    index: ContentIndex,
) -> Result<Outcome, Error> {
    if let Some((Format::Parquet, _)) = format {
        let file = BlobFile { context: context.clone(), found: Arc::new(found), failed: Arc::default() };
        let read = parquet_blocks(file.clone(), &index).await;
        // Bytes that could not be read are no content that does not parse.
        let failed = file.failed.lock().expect("nobody panics while holding it").take();
        return failed.map_or_else(|| Ok(read.unwrap_or_else(unparsed)), Err);
    }
    blocks_of_stream(context, &found, format, index).await
}

/// Reads an object of any size from first to last; it is parsed on a thread that may block.
async fn blocks_of_stream(
    context: &Context,
    found: &Found,
    format: Option<(Format, Compression)>,
    index: ContentIndex,
) -> Result<Outcome, Error> {
    let size = found.row.size();
    let mut body = open(context, found, 0..size).await?;
    let (sender, receiver) = mpsc::channel::<Bytes>(PIECES_AHEAD);
    let parse = off_the_reactor(move || {
        let pieces = Pieces { receiver, current: Bytes::new() };
        extract_blocks(format, Box::new(pieces), size, &index).unwrap_or_else(unparsed)
    });
    let feed = async move {
        while let Some(piece) = body.next().await {
            // Whoever parses has seen enough: what does not parse is not read to its end.
            if sender.send(piece?).await.is_err() {
                break;
            }
        }
        Ok::<_, Error>(())
    };
    let (fed, parsed) = futures::join!(feed, parse);
    // Bytes that could not be read are no content that does not parse.
    fed?;
    parsed
}

/// Pieces of a body, as a thread reads them.
struct Pieces {
    receiver: mpsc::Receiver<Bytes>,
    current: Bytes,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.current.is_empty() {
            match self.receiver.blocking_recv() {
                Some(piece) => self.current = piece,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.current.len());
        buffer[..count].copy_from_slice(&self.current.split_to(count));
        Ok(count)
    }
}

async fn open(context: &Context, found: &Found, range: Range<u64>) -> Result<blobs::BodyStream, Error> {
    let (found, blobs) = (found.clone(), context.blobs.clone());
    let plan = context.look(move |view, _| Ok(blobs.plan(view, &found, range))).await?;
    Ok(context.blobs.open(plan?.in_background()).await?)
}

async fn read_range(context: &Context, found: &Found, range: Range<u64>) -> Result<Bytes, Error> {
    let body = open(context, found, range).await?;
    let bytes = body.map_err(Error::from).try_fold(BytesMut::new(), |mut bytes, piece| async move {
        bytes.extend_from_slice(&piece);
        Ok(bytes)
    });
    Ok(bytes.await?.freeze())
}

/// Parquet in the store of blobs, read by ranges.
#[derive(Clone)]
struct BlobFile {
    context: Context,
    found: Arc<Found>,
    /// Why bytes could not be read.
    failed: Arc<Mutex<Option<Error>>>,
}

impl AsyncFileReader for BlobFile {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, parquet::errors::Result<Bytes>> {
        async move {
            read_range(&self.context, &self.found, range).await.map_err(|error| {
                let why = crate::backend::chain(&error);
                *self.failed.lock().expect("nobody panics while holding it") = Some(error);
                ParquetError::General(why)
            })
        }
        .boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, parquet::errors::Result<Arc<ParquetMetaData>>> {
        let size = self.found.row.size();
        async move { Ok(Arc::new(ParquetMetaDataReader::new().load_and_finish(self, size).await?)) }.boxed()
    }
}
