//! From a request to the pieces of its objects.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::stream::{self, BoxStream};
use futures::{StreamExt as _, TryStreamExt as _};
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};

use super::columnar::{self, malformed};
use super::csv;
use super::error::Error;
use super::feed::{Piece, Text};
use super::parse::parse;
use super::prune::{Candidates, predicates};
use super::request::{Format, Request, Target};
use super::syntax::Statement;
use super::timestamp::Timestamp;
use crate::extract::{self, format_of};
use crate::repository::{AsOf, ObjectVersion, Repository, Snapshot};
use crate::sql::{Budget, Footers, Reader, Selected, by_index, bytes_of, touched};

/// Objects under a prefix that are opened ahead.
const OPEN_AHEAD_MAX: usize = 16;

/// What is asked.
pub(super) struct Asked {
    pub(super) request: Request,
    pub(super) statement: Statement,
}

/// A request that makes sense by itself.
pub(super) struct Plan {
    target: Target,
    asked: Arc<Asked>,
}

/// Everything that is known before records are read.
pub(super) struct Work {
    pub(super) asked: Arc<Asked>,
    pub(super) jobs: BoxStream<'static, Result<Job, Error>>,
    /// Bytes after decompression.
    pub(super) processed: Arc<AtomicU64>,
    pub(super) threads: usize,
}

/// What one task works on.
pub(super) enum Job {
    /// Values of JSON, or records of CSV with the places of the columns.
    Text(Piece, Option<Arc<csv::Columns>>),
    /// A row group of Parquet.
    Group(Arc<Columnar>, usize),
}

/// An object of Parquet.
pub(super) struct Columnar {
    pub(super) reader: Reader,
    pub(super) footers: Footers,
    pub(super) object: Arc<ObjectVersion>,
    pub(super) metadata: ArrowReaderMetadata,
    pub(super) columns: columnar::Columns,
}

/// Parses a request.
///
/// # Errors
/// By AWS's codes.
pub(super) fn plan(target: Target, request: Request) -> Result<Plan, Error> {
    let statement = parse(&request.expression, Timestamp::now())?;
    request.check()?;
    if !statement.from.is_empty() && matches!(request.input.format, Format::Csv(_) | Format::Parquet) {
        return Err(Error::new("InvalidDataSource", "a path after FROM S3Object leads into JSON only"));
    }
    Ok(Plan { target, asked: Arc::new(Asked { request, statement }) })
}

/// Finds the objects, and opens the first one.
pub(super) async fn open(
    repository: Arc<dyn Repository>,
    plan: Plan,
    budget: Budget,
    footers: Footers,
    threads: usize,
) -> Result<(Work, u64), Error> {
    let Plan { target, asked } = plan;
    let snapshot = repository.open(AsOf::Now).await?;
    let revision = snapshot.revision();
    let (objects, strict) = match target {
        Target::Object { bucket, key } => {
            let object = snapshot.object(&bucket, &key).await?;
            (stream::iter([Ok(Selected { object, ranges: None })]).boxed(), true)
        }
        Target::Prefix { bucket, prefix } => (under(&*snapshot, &bucket, &prefix, &asked).await?, false),
    };
    let processed = Arc::new(AtomicU64::new(0));
    let opener = Opener {
        reader: Reader::new(snapshot, budget),
        footers,
        asked: Arc::clone(&asked),
        processed: Arc::clone(&processed),
        strict,
    };
    let limit = asked.statement.limit.and_then(|limit| usize::try_from(limit).ok());
    let ahead = limit.map_or(OPEN_AHEAD_MAX, |limit| limit.clamp(1, OPEN_AHEAD_MAX));
    let opened = objects.map_ok(move |selected| opener.clone().open(selected)).try_buffered(ahead);
    let mut opened = opened.boxed().peekable();
    if let Some(Err(_)) = Pin::new(&mut opened).peek().await {
        opened.try_next().await?;
    }
    let jobs = opened.map_ok(Opened::jobs).try_flatten().boxed();
    Ok((Work { asked, jobs, processed, threads }, revision))
}

/// The objects under a prefix that may hold a record of the answer.
async fn under(
    snapshot: &dyn Snapshot,
    bucket: &str,
    prefix: &str,
    asked: &Asked,
) -> Result<BoxStream<'static, Result<Selected, Error>>, Error> {
    let input = &asked.request.input;
    let candidates = Candidates::of(input);
    let found = predicates(&asked.statement, input);
    if let Some(path) = by_index(snapshot, bucket, prefix, &found, &|_| true).await? {
        let selected = path.selected.into_iter().filter(|selected| candidates.hold(&selected.object));
        // Rows that an index knows in a JSON array are no records of their own here.
        let whole = |selected: Selected| {
            let own = format_of(&selected.object.key, selected.object.content_type.as_deref());
            let inside = matches!(own, Some((extract::Format::Json, _)));
            Selected { ranges: selected.ranges.filter(|_| !inside), ..selected }
        };
        return Ok(stream::iter(selected.map(|selected| Ok(whole(selected))).collect::<Vec<_>>()).boxed());
    }
    let objects = snapshot.objects(bucket, prefix).await?;
    let objects = objects.map_ok(|object| Selected { object, ranges: None }).map_err(Error::from);
    Ok(objects.try_filter(move |selected| std::future::ready(candidates.hold(&selected.object))).boxed())
}

#[derive(Clone)]
struct Opener {
    reader: Reader,
    footers: Footers,
    asked: Arc<Asked>,
    processed: Arc<AtomicU64>,
    /// Whether the one object must have what the statement names.
    strict: bool,
}

/// An object whose columns are found.
enum Opened {
    Text(Box<Text>, Option<Arc<csv::Columns>>),
    Groups(Arc<Columnar>, Vec<usize>, Arc<AtomicU64>),
    Empty,
}

impl Opener {
    async fn open(self, selected: Selected) -> Result<Opened, Error> {
        // Among others, an object that ends before the scan range has nothing in it.
        if !self.strict && self.asked.request.scan.is_some_and(|scan| scan.resolve(selected.object.size).is_err()) {
            return Ok(Opened::Empty);
        }
        if self.asked.request.input.format == Format::Parquet {
            return self.open_groups(selected).await;
        }
        let Selected { object, ranges } = selected;
        if object.size == 0 {
            return Ok(Opened::Empty);
        }
        let input = &self.asked.request.input;
        let input = Arc::new(if self.strict { input.clone() } else { input.of_object(&object) });
        let (scan, processed) = (self.asked.request.scan, self.processed);
        let text = Text::open(self.reader, object, Arc::clone(&input), scan, ranges, processed).await?;
        let columns = match &input.format {
            Format::Csv(csv) => {
                let names = text.names().map(|names| &names[..]);
                Some(Arc::new(csv::Columns::of(&self.asked.statement.columns, csv, names, self.strict)?))
            }
            _ => None,
        };
        Ok(Opened::Text(Box::new(text), columns))
    }

    async fn open_groups(self, selected: Selected) -> Result<Opened, Error> {
        let Selected { object, ranges } = selected;
        let footer = self.footers.of(&self.reader, &object).await.map_err(|error| match error.code {
            "InvalidData" => malformed(error),
            _ => error.into(),
        })?;
        let footer = footer.metadata;
        let scan = self.asked.request.scan.map(|scan| scan.resolve(object.size)).transpose()?;
        let metadata = ArrowReaderMetadata::try_new(Arc::clone(&footer), ArrowReaderOptions::new());
        let all = self.asked.statement.items.is_none();
        let columns = columnar::Columns::of(
            &self.asked.statement.columns,
            footer.file_metadata().schema_descr(),
            all,
            self.strict,
        )?;
        let groups = match &ranges {
            Some(ranges) => touched(&footer, ranges),
            None => vec![true; footer.num_row_groups()],
        };
        // A row group belongs to the scan range in which it begins.
        let wanted = |number: &usize| {
            let begin = bytes_of(footer.row_group(*number)).start;
            groups[*number] && scan.as_ref().is_none_or(|scan| scan.contains(&begin))
        };
        let groups = (0..groups.len()).filter(wanted).collect();
        let columnar = Columnar {
            reader: self.reader,
            footers: self.footers,
            object,
            metadata: metadata.map_err(malformed)?,
            columns,
        };
        Ok(Opened::Groups(Arc::new(columnar), groups, self.processed))
    }
}

impl Columnar {
    /// Bytes of the columns of a row group that are read, after decompression.
    pub(super) fn bytes(&self, group: usize) -> u64 {
        let chunks = self.metadata.metadata().row_group(group).columns().iter().enumerate();
        let read = chunks.filter(|(leaf, _)| self.columns.projection.leaf_included(*leaf));
        read.map(|(_, chunk)| u64::try_from(chunk.uncompressed_size()).unwrap_or_default()).sum()
    }
}

impl Opened {
    fn jobs(self) -> BoxStream<'static, Result<Job, Error>> {
        match self {
            Self::Empty => stream::empty().boxed(),
            Self::Text(text, columns) => stream::try_unfold((text, columns), |(mut text, columns)| async move {
                let Some(piece) = text.next().await? else { return Ok(None) };
                Ok(Some((Job::Text(piece, columns.clone()), (text, columns))))
            })
            .boxed(),
            Self::Groups(columnar, groups, processed) => {
                let job = move |group: usize| {
                    processed.fetch_add(columnar.bytes(group), Ordering::Relaxed);
                    Ok(Job::Group(Arc::clone(&columnar), group))
                };
                stream::iter(groups).map(job).boxed()
            }
        }
    }
}
