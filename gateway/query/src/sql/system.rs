//! Tables about the repository: their columns, and which of their rows a query needs.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, Statistics};
use datafusion::datasource::TableType;
use datafusion::datasource::source::DataSource;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{BinaryExpr, Expr, Like, Operator, TableProviderFilterPushDown};
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::projection::ProjectionExprs;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayFormatType, ExecutionPlan};
use futures::{StreamExt, TryStreamExt, stream};

use super::attribute::map_type;
use super::error::Error;
use super::scan::RepositoryExec;
use crate::repository::{Snapshot, SystemFilter, SystemTable};

/// The system table of a name, as in `holdfast.versions`.
pub(super) fn system_table(name: &str) -> Option<SystemTable> {
    Some(match name {
        "versions" => SystemTable::Versions,
        "buckets" => SystemTable::Buckets,
        "indexes" => SystemTable::Indexes,
        "locks" => SystemTable::Locks,
        "events" => SystemTable::Events,
        "peers" => SystemTable::Peers,
        _ => return None,
    })
}

/// The type of a column.
#[derive(Clone, Copy)]
enum Kind {
    Text,
    Number,
    Flag,
    Time,
    Texts,
    Map,
}

/// A column: its name, its type, and whether it may be null.
type Column = (&'static str, Kind, bool);

const VERSIONS: &[Column] = &[
    ("bucket", Kind::Text, false),
    ("key", Kind::Text, false),
    ("version_id", Kind::Text, true),
    ("revision", Kind::Number, false),
    ("is_latest", Kind::Flag, false),
    ("is_delete_marker", Kind::Flag, false),
    ("size", Kind::Number, true),
    ("etag", Kind::Text, true),
    ("sha256", Kind::Text, true),
    ("created", Kind::Time, true),
    ("last_modified", Kind::Time, false),
    ("content_type", Kind::Text, true),
    ("metadata", Kind::Map, false),
    ("tags", Kind::Map, false),
    ("location", Kind::Text, true),
];

const BUCKETS: &[Column] = &[
    ("bucket", Kind::Text, false),
    ("id", Kind::Number, false),
    ("created", Kind::Time, false),
    ("versioning", Kind::Text, false),
    ("objects", Kind::Number, true),
    ("bytes", Kind::Number, true),
];

const INDEXES: &[Column] = &[
    ("bucket", Kind::Text, false),
    ("prefix", Kind::Text, false),
    ("name", Kind::Text, false),
    ("id", Kind::Number, false),
    ("kind", Kind::Text, false),
    ("is_unique", Kind::Flag, false),
    ("expressions", Kind::Texts, false),
    ("state", Kind::Text, false),
    ("objects", Kind::Number, false),
    ("entries", Kind::Number, false),
    ("pending", Kind::Number, false),
    ("unparsed", Kind::Number, false),
    ("bytes", Kind::Number, false),
    ("runs", Kind::Number, false),
    ("run_bytes", Kind::Number, false),
];

const LOCKS: &[Column] = &[
    ("name", Kind::Text, false),
    ("mode", Kind::Text, false),
    ("state", Kind::Text, false),
    ("owner", Kind::Text, true),
    ("lease", Kind::Text, false),
    ("token", Kind::Number, true),
    ("ttl_ms", Kind::Number, false),
];

const EVENTS: &[Column] = &[
    ("revision", Kind::Number, false),
    ("ordinal", Kind::Number, false),
    ("time", Kind::Time, false),
    ("kind", Kind::Text, false),
    ("bucket", Kind::Text, true),
    ("key", Kind::Text, true),
    ("version_id", Kind::Text, true),
    ("size", Kind::Number, true),
    ("etag", Kind::Text, true),
];

const PEERS: &[Column] = &[
    ("node", Kind::Text, false),
    ("address", Kind::Text, true),
    ("role", Kind::Text, false),
    ("is_leader", Kind::Flag, false),
    ("is_reachable", Kind::Flag, true),
    ("applied", Kind::Number, true),
];

/// The columns of a system table, in which [`Snapshot::system`] delivers its rows. Times are in milliseconds and UTC;
/// `metadata` and `tags` are of [`map_type`].
#[must_use]
pub fn system_schema(table: SystemTable) -> SchemaRef {
    let columns = match table {
        SystemTable::Versions => VERSIONS,
        SystemTable::Buckets => BUCKETS,
        SystemTable::Indexes => INDEXES,
        SystemTable::Locks => LOCKS,
        SystemTable::Events => EVENTS,
        SystemTable::Peers => PEERS,
    };
    let field = |(name, kind, nullable): &Column| {
        let kind = match kind {
            Kind::Text => DataType::Utf8,
            Kind::Number => DataType::Int64,
            Kind::Flag => DataType::Boolean,
            Kind::Time => DataType::Timestamp(TimeUnit::Millisecond, Some("+00:00".into())),
            Kind::Texts => DataType::List(Arc::new(Field::new("item", DataType::Utf8, true))),
            Kind::Map => map_type(),
        };
        Field::new(*name, kind, *nullable)
    };
    Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<Field>>()))
}

/// A system table at one revision.
pub(super) struct System {
    snapshot: Arc<dyn Snapshot>,
    table: SystemTable,
    schema: SchemaRef,
}

impl std::fmt::Debug for System {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "System({:?})", self.table)
    }
}

impl System {
    pub(super) fn new(snapshot: Arc<dyn Snapshot>, table: SystemTable) -> Self {
        Self { snapshot, table, schema: system_schema(table) }
    }
}

#[async_trait]
impl TableProvider for System {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let mut filter = SystemFilter::default();
        filters
            .iter()
            .flat_map(datafusion::logical_expr::utils::split_conjunction)
            .for_each(|conjunct| narrow(&mut filter, conjunct));
        let mut path = format!("holdfast.{}", format!("{:?}", self.table).to_lowercase());
        if let Some(bucket) = &filter.bucket {
            path.push_str(&format!(", bucket={bucket}"));
        }
        if let Some(prefix) = &filter.prefix {
            path.push_str(&format!(", prefix={prefix}"));
        }
        if filter.latest {
            path.push_str(", latest");
        }
        let schema = match projection {
            Some(projection) => Arc::new(self.schema.project(projection)?),
            None => Arc::clone(&self.schema),
        };
        let source = Source {
            snapshot: Arc::clone(&self.snapshot),
            table: self.table,
            filter,
            projection: projection.cloned(),
            schema,
        };
        Ok(RepositoryExec::over(Arc::new(source), path))
    }
}

/// What a predicate says of the bucket, the key, and whether a version is the latest.
fn narrow(filter: &mut SystemFilter, conjunct: &Expr) {
    match conjunct {
        Expr::Column(column) if column.name == "is_latest" => filter.latest = true,
        Expr::IsTrue(column) => narrow(filter, column),
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) => {
            let (Expr::Column(column), Expr::Literal(literal, _)) = (left.as_ref(), right.as_ref()) else { return };
            let Some(Some(text)) = literal.try_as_str() else { return };
            match column.name.as_str() {
                "bucket" => filter.bucket = Some(text.to_owned()),
                "key" => filter.prefix = Some(text.to_owned()),
                _ => {}
            }
        }
        Expr::Like(Like { negated: false, expr, pattern, escape_char: None, case_insensitive: false }) => {
            let (Expr::Column(column), Expr::Literal(pattern, _)) = (expr.as_ref(), pattern.as_ref()) else { return };
            let Some(Some(pattern)) = pattern.try_as_str() else { return };
            let start = pattern.split(['%', '_', '\\']).next().unwrap_or_default();
            if column.name == "key" && !start.is_empty() && filter.prefix.is_none() {
                filter.prefix = Some(start.to_owned());
            }
        }
        _ => {}
    }
}

#[derive(Clone)]
struct Source {
    snapshot: Arc<dyn Snapshot>,
    table: SystemTable,
    filter: SystemFilter,
    projection: Option<Vec<usize>>,
    schema: SchemaRef,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source").field("table", &self.table).field("filter", &self.filter).finish_non_exhaustive()
    }
}

impl DataSource for Source {
    fn open(&self, _: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let source = self.clone();
        let expected = system_schema(self.table);
        let rows = stream::once(async move {
            let rows = source.snapshot.system(source.table, source.filter.clone()).await.map_err(Error::from)?;
            Ok::<_, datafusion::error::DataFusionError>(rows.map(move |batch| {
                let batch = batch.map_err(Error::from)?;
                // A batch of other columns than were promised would be read as something else.
                let batch = batch.with_schema(Arc::clone(&expected))?;
                Ok(match &source.projection {
                    Some(projection) => batch.project(projection)?,
                    None => batch,
                })
            }))
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), rows.try_flatten())))
    }

    fn fmt_as(&self, _: DisplayFormatType, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("path=rows")
    }

    fn output_partitioning(&self) -> Partitioning {
        Partitioning::UnknownPartitioning(1)
    }

    fn eq_properties(&self) -> EquivalenceProperties {
        EquivalenceProperties::new(Arc::clone(&self.schema))
    }

    fn partition_statistics(&self, _: Option<usize>) -> Result<Arc<Statistics>> {
        Ok(Arc::new(Statistics::new_unknown(&self.schema)))
    }

    fn with_fetch(&self, _: Option<usize>) -> Option<Arc<dyn DataSource>> {
        None
    }

    fn fetch(&self) -> Option<usize> {
        None
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

#[cfg(test)]
mod tests {
    use datafusion::prelude::{col, lit};

    use super::*;

    #[test]
    fn predicates_narrow_what_is_delivered() {
        let check = |predicates: &[Expr], bucket: Option<&str>, prefix: Option<&str>, latest: bool| {
            let mut filter = SystemFilter::default();
            predicates.iter().for_each(|predicate| narrow(&mut filter, predicate));
            let expected =
                SystemFilter { bucket: bucket.map(str::to_owned), prefix: prefix.map(str::to_owned), latest };
            assert_eq!(filter, expected, "{predicates:?}");
        };
        check(&[], None, None, false);
        check(&[col("bucket").eq(lit("b")), col("is_latest")], Some("b"), None, true);
        check(&[col("key").like(lit("a/%b"))], None, Some("a/"), false);
        check(&[col("key").eq(lit("a/%b"))], None, Some("a/%b"), false);
        check(&[col("key").not_eq(lit("a"))], None, None, false);
        check(&[!col("is_latest")], None, None, false);
        check(&[col("key").like(lit("%a"))], None, None, false);
    }
}
