//! A table over objects: which they are, what columns they have, and the cheapest way to the rows that a query wants.
//!
//! ```text
//! bind: list the first objects → agree on a format → sample → columns
//! scan: predicates → index, or list all → leave out objects by attributes → pieces → a node of the plan
//! ```
//! Only the first objects are listed to bind a table, so that a point query by an index does not cost a listing.

mod bind;
mod path;

use std::collections::HashSet;
use std::sync::Arc;

use arrow::datatypes::{FieldRef, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema, Result, Statistics};
use datafusion::datasource::TableType;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::metadata::DFParquetMetadata;
use datafusion::datasource::physical_plan::{FileGroup, FileGroupPartitioner, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSource;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};
use futures::{StreamExt, TryStreamExt, future, stream};

pub(crate) use self::bind::Caches;
pub(super) use self::bind::bind;
use self::path::Path;
pub(crate) use self::path::{Selected, by_index};
use super::attribute::Attribute;
use super::constraint::Names;
use super::error::Error;
use super::format::{Options, compression_of};
use super::name::Place;
use super::parquet::{self, FOOTERS_AHEAD_MAX, Factory, Footer, ObjectOf};
use super::read::Reader;
use super::scan::RepositoryExec;
use super::text::{Format, Piece, Target, TextSource};
use crate::repository::ObjectVersion;

/// Where the engine looks for files; nothing is there, because objects are read through the repository.
pub(super) const NOWHERE: &str = "holdfast://objects";
/// Bytes of Parquet that are worth a partition of their own.
const PARTITION_BYTES: usize = 4 << 20;
/// Objects whose footers are read for statistics while a query is planned.
const STATISTICS_OBJECTS_MAX: usize = 1000;

/// The format of a table.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum TableFormat {
    Text(Format),
    Parquet,
}

/// How many footers the columns of a table of Parquet come from, unless the statement says how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sampling {
    /// A few, so that a lookup by an index does not read that of every object. What else is read must fit these columns.
    Few,
    /// Those of the first objects.
    All,
}

/// A table over objects at one revision.
#[derive(Debug)]
pub(super) struct ObjectTable {
    place: Place,
    reader: Reader,
    caches: Caches,
    options: Options,
    format: TableFormat,
    /// How the format is called.
    kind: String,
    /// The first objects.
    first: Vec<Arc<ObjectVersion>>,
    /// Whether there are no others.
    complete: bool,
    content: SchemaRef,
    /// Directories, and those hidden columns that the statement names.
    attributes: Vec<Attribute>,
    hidden: Vec<String>,
    schema: SchemaRef,
    /// Rows for each byte, by the sample.
    density: f64,
    /// Whether its columns come from a few objects only.
    few: bool,
}

impl ObjectTable {
    /// Whether more columns may come from more objects.
    pub(super) fn sampled_few(&self) -> bool {
        self.few
    }

    /// Columns that `*` does not show.
    pub(super) fn hidden(&self) -> &[String] {
        &self.hidden
    }

    fn names(&self) -> Names<'_> {
        Names { content: &self.content, attributes: &self.attributes }
    }

    /// Filters on attributes alone, over batches of them.
    fn attribute_filters(&self, state: &dyn Session, filters: &[Expr]) -> Result<Vec<Arc<dyn PhysicalExpr>>> {
        let fields: Vec<FieldRef> = self.attributes.iter().map(Attribute::field).collect();
        let schema = DFSchema::try_from(Schema::new(fields))?;
        let known: HashSet<&str> = self.attributes.iter().map(Attribute::name).collect();
        let of_attributes = |filter: &&Expr| {
            let columns = filter.column_refs();
            !columns.is_empty()
                && columns.iter().all(|column| known.contains(column.name.as_str()))
                && !has_subquery(filter)
        };
        filters
            .iter()
            .filter(of_attributes)
            .map(|filter| state.create_physical_expr(unqualified(filter)?, &schema))
            .collect()
    }
}

#[async_trait]
impl TableProvider for ObjectTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let by_attributes = self.attribute_filters(state, filters)?;
        let path = path::choose(self, filters, &by_attributes).await?;
        let shown = path.shown(&self.place, &self.kind);
        let all: Vec<usize> = (0..self.schema.fields().len()).collect();
        let projection = projection.unwrap_or(&all);
        let threads = state.config_options().execution.target_partitions;
        let source: Arc<dyn DataSource> = match &self.format {
            TableFormat::Text(format) => Arc::new(self.text(format, path, projection, limit, threads)?),
            TableFormat::Parquet => self.parquet(path, projection, limit, threads).await?,
        };
        Ok(RepositoryExec::over(source, shown))
    }
}

impl ObjectTable {
    fn text(
        &self,
        format: &Format,
        path: Path,
        projection: &[usize],
        limit: Option<usize>,
        threads: usize,
    ) -> Result<TextSource> {
        let pieces = path.selected.into_iter().map(|selected| Piece {
            compression: compression_of(&selected.object),
            object: selected.object,
            ranges: selected.ranges,
        });
        let partitions = spread(pieces.collect(), threads);
        let target = Arc::new(self.target(projection)?);
        let mut statistics = Statistics::new_unknown(&target.schema);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is an estimate")]
        let rows = (path.bytes as f64 * self.density) as usize;
        statistics.num_rows = Precision::Inexact(rows);
        statistics.total_byte_size = Precision::Inexact(usize::try_from(path.bytes).unwrap_or(usize::MAX));
        Ok(TextSource {
            reader: self.reader.clone(),
            format: format.clone(),
            target,
            decoders: threads.div_ceil(partitions.len()),
            partitions: Arc::new(partitions),
            limit,
            statistics,
            metrics: ExecutionPlanMetricsSet::new(),
        })
    }

    fn target(&self, projection: &[usize]) -> Result<Target> {
        let content_count = self.content.fields().len();
        let mut wanted: Vec<usize> = projection.iter().copied().filter(|&at| at < content_count).collect();
        wanted.sort_unstable();
        let attributes: Vec<usize> = projection.iter().copied().filter(|&at| at >= content_count).collect();
        let place = |at: &usize| match wanted.binary_search(at) {
            Ok(place) => place,
            Err(_) => wanted.len() + attributes.iter().position(|other| other == at).unwrap_or_default(),
        };
        Ok(Target {
            schema: Arc::new(self.schema.project(projection)?),
            order: projection.iter().map(place).collect(),
            known: self.known(&wanted),
            attributes: attributes.iter().map(|at| self.attributes[at - content_count].clone()).collect(),
            content: wanted.iter().map(|&at| Arc::clone(&self.content.fields()[at])).collect(),
        })
    }

    fn wants_all(&self, wanted: &[usize]) -> bool {
        wanted.len() == self.content.fields().len() && !wanted.is_empty()
    }

    /// All columns of the content, when all are wanted and the sample may have missed some.
    fn known(&self, wanted: &[usize]) -> Option<HashSet<String>> {
        self.wants_all(wanted).then(|| self.content.fields().iter().map(|field| field.name().clone()).collect())
    }

    async fn parquet(
        &self,
        path: Path,
        projection: &[usize],
        limit: Option<usize>,
        threads: usize,
    ) -> Result<Arc<dyn DataSource>> {
        let fields: Vec<FieldRef> = self.attributes.iter().map(Attribute::field).collect();
        let schema = TableSchema::builder(Arc::clone(&self.content)).with_table_partition_cols(fields).build();
        let wanted: Vec<usize> = projection.iter().copied().filter(|&at| at < self.content.fields().len()).collect();
        let factory = Factory {
            reader: self.reader.clone(),
            footers: self.caches.footers.clone(),
            known: self.known(&wanted).map(Arc::new),
        };
        let source = ParquetSource::new(schema)
            .with_table_parquet_options(parquet::options())
            .with_parquet_file_reader_factory(Arc::new(factory));
        let measured = path.selected.len() <= STATISTICS_OBJECTS_MAX;
        if self.few && !measured {
            // So many are not all asked for their columns; the first ones are.
            let footers = stream::iter(self.first.clone()).map(|object| self.footer(object, &wanted));
            footers.buffered(FOOTERS_AHEAD_MAX).try_for_each(|_| future::ready(Ok(()))).await?;
        }
        let files: Vec<PartitionedFile> = stream::iter(path.selected)
            .map(|selected| self.file(selected, measured, &wanted))
            .buffered(FOOTERS_AHEAD_MAX)
            .try_collect()
            .await?;
        let statistics = if measured {
            let all = files.iter().filter_map(|file| file.statistics.as_deref());
            let all = Statistics::try_merge_iter(all, &self.schema)?;
            if path.partial { all.to_inexact() } else { all }
        } else {
            Statistics::new_unknown(&self.schema)
        };
        let groups = vec![FileGroup::new(files)];
        let groups = FileGroupPartitioner::new()
            .with_target_partitions(threads)
            .with_repartition_file_min_size(PARTITION_BYTES)
            .repartition_file_groups(&groups)
            .unwrap_or(groups);
        let config = FileScanConfigBuilder::new(ObjectStoreUrl::parse(NOWHERE)?, Arc::new(source))
            .with_file_groups(groups)
            .with_statistics(statistics)
            .with_limit(limit)
            // Partitions stay as they are, so that rows come in the order of their keys.
            .with_preserve_order(true)
            .with_projection_indices(Some(projection.to_vec()))?
            .build();
        Ok(Arc::new(config))
    }

    /// The footer of an object, which must not widen the columns that are read when few were asked for them. The error is
    /// never seen: the statement is planned again with all that there are.
    async fn footer(&self, object: Arc<ObjectVersion>, wanted: &[usize]) -> Result<Footer> {
        let footer = self.caches.footers.of(&self.reader, &object).await?;
        let fits = |column: &FieldRef| match self.content.fields().find(column.name()) {
            Some((at, known)) => !wanted.contains(&at) || parquet::fits(known.data_type(), column.data_type()),
            None => !self.wants_all(wanted),
        };
        if self.few && !footer.columns.iter().all(fits) {
            return Err(Error::data("the columns of a few objects are not those of all that are read").into());
        }
        Ok(footer)
    }

    async fn file(&self, selected: Selected, measured: bool, wanted: &[usize]) -> Result<PartitionedFile> {
        let object = selected.object;
        let values: Result<Vec<_>, Error> = self.attributes.iter().map(|attribute| attribute.value(&object)).collect();
        let mut file = PartitionedFile::new(object.key.clone(), object.size).with_partition_values(values?);
        if measured || selected.ranges.is_some() {
            let Footer { metadata, .. } = self.footer(Arc::clone(&object), wanted).await?;
            if let Some(ranges) = &selected.ranges {
                file = file.with_extension(parquet::access(&metadata, ranges));
            }
            let mut statistics = DFParquetMetadata::statistics_from_parquet_metadata(&metadata, &self.content)?;
            for (column, field) in statistics.column_statistics.iter_mut().zip(self.content.fields()) {
                // Footers leave NaN out of their bounds, so that these decide nothing.
                if field.data_type().is_floating() {
                    column.min_value = std::mem::take(&mut column.min_value).to_inexact();
                    column.max_value = std::mem::take(&mut column.max_value).to_inexact();
                }
            }
            file = file.with_statistics(Arc::new(statistics));
        }
        Ok(file.with_extension(ObjectOf(object)))
    }
}

/// Shares pieces out among partitions of about equal bytes, in order.
fn spread(pieces: Vec<Piece>, threads: usize) -> Vec<Vec<Piece>> {
    let size = |piece: &Piece| match &piece.ranges {
        Some(ranges) => ranges.iter().map(|range| range.end.saturating_sub(range.start)).sum(),
        None => piece.object.size,
    };
    let total: u64 = pieces.iter().map(size).sum();
    let count = (total / PARTITION_BYTES as u64).clamp(1, threads.max(1) as u64);
    let share = total.div_ceil(count).max(1);
    let (mut partitions, mut filled) = (vec![Vec::new()], 0);
    for piece in pieces {
        if filled >= share && (partitions.len() as u64) < count {
            partitions.push(Vec::new());
            filled = 0;
        }
        filled += size(&piece);
        partitions.last_mut().expect("there is a first partition").push(piece);
    }
    partitions
}

fn has_subquery(filter: &Expr) -> bool {
    let found = filter.exists(|expr| {
        Ok(matches!(
            expr,
            Expr::ScalarSubquery(_) | Expr::InSubquery(_) | Expr::Exists(_) | Expr::OuterReferenceColumn(..)
        ))
    });
    found.unwrap_or(true)
}

/// The same expression over columns without the name of their table.
fn unqualified(filter: &Expr) -> Result<Expr> {
    let plain = filter.clone().transform(|expr| {
        Ok(match expr {
            Expr::Column(column) => Transformed::yes(Expr::Column(Column::from_name(column.name))),
            other => Transformed::no(other),
        })
    });
    plain.map(|plain| plain.data)
}
