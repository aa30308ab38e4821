//! The node of a plan that reads objects. It says which path was taken, and leaves the reading to what it holds; floats
//! leave it in one form ([`super::floats`]), so that nothing which compares them is pushed into it.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, Statistics};
use datafusion::datasource::physical_plan::ParquetSource;
use datafusion::datasource::source::{DataSource, DataSourceExec};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::filter_pushdown::{
    ChildPushdownResult, FilterPushdownPhase, FilterPushdownPropagation, PushedDown,
};
use datafusion::physical_plan::metrics::MetricsSet;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, ReplaceChildrenOptions, StatisticsArgs,
};
use futures::StreamExt;

use super::floats::{holds_floats, in_one_form, reads_floats};

/// Reads objects or a system table.
#[derive(Debug)]
pub(super) struct RepositoryExec {
    inner: Arc<dyn ExecutionPlan>,
    /// Which table, and how it is read.
    path: Arc<str>,
}

impl RepositoryExec {
    pub(super) fn over(source: Arc<dyn DataSource>, path: String) -> Arc<dyn ExecutionPlan> {
        Arc::new(Self { inner: Arc::new(DataSourceExec::new(source)), path: path.into() })
    }

    fn read_schema(&self) -> SchemaRef {
        self.inner.schema()
    }

    fn around(&self, inner: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
        Arc::new(Self { inner, path: Arc::clone(&self.path) })
    }
}

impl DisplayAs for RepositoryExec {
    fn fmt_as(&self, kind: DisplayFormatType, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RepositoryExec: {}", self.path)?;
        let Some(exec) = self.inner.downcast_ref::<DataSourceExec>() else { return Ok(()) };
        // A file scan would print the path of each object.
        match exec.downcast_to_file_source::<ParquetSource>() {
            Some((config, source)) => {
                write!(f, ", partitions={}", config.file_groups.len())?;
                if let Some(limit) = config.limit {
                    write!(f, ", limit={limit}")?;
                }
                datafusion::datasource::physical_plan::FileSource::fmt_extra(source, kind, f)
            }
            None => {
                f.write_str(", ")?;
                exec.data_source().fmt_as(kind, f)
            }
        }
    }
}

impl ExecutionPlan for RepositoryExec {
    fn name(&self) -> &'static str {
        "RepositoryExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.inner.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn replace_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        self.inner.apply_expressions(f)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let rows = self.inner.execute(partition, context)?;
        let schema = rows.schema();
        if !schema.fields().iter().any(|field| holds_floats(field.data_type())) {
            return Ok(rows);
        }
        let rows = rows.map(|batch| Ok(in_one_form(batch?)?));
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        self.inner.metrics()
    }

    fn statistics_from_inputs(&self, inputs: &[Arc<Statistics>], args: &StatisticsArgs) -> Result<Arc<Statistics>> {
        self.inner.statistics_from_inputs(inputs, args)
    }

    fn with_fetch(&self, limit: Option<usize>) -> Option<Arc<dyn ExecutionPlan>> {
        self.inner.with_fetch(limit).map(|inner| self.around(inner))
    }

    fn fetch(&self) -> Option<usize> {
        self.inner.fetch()
    }

    fn try_swapping_with_projection(&self, projection: &ProjectionExec) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let computes = |expr: &Arc<dyn PhysicalExpr>| {
            expr.downcast_ref::<Column>().is_none() && reads_floats(expr, &self.read_schema())
        };
        if projection.expr().iter().any(|projected| computes(&projected.expr)) {
            return Ok(None);
        }
        // Text has its columns since it was planned; what is computed of them stays above.
        Ok(self.inner.try_swapping_with_projection(projection)?.map(|inner| self.around(inner)))
    }

    fn handle_child_pushdown_result(
        &self,
        phase: FilterPushdownPhase,
        result: ChildPushdownResult,
        config: &ConfigOptions,
    ) -> Result<FilterPushdownPropagation<Arc<dyn ExecutionPlan>>> {
        let schema = self.read_schema();
        let (stay, go): (Vec<_>, Vec<_>) =
            result.parent_filters.into_iter().enumerate().partition(|(_, of)| reads_floats(&of.filter, &schema));
        let mut filters = vec![PushedDown::No; stay.len() + go.len()];
        let (places, parent_filters): (Vec<usize>, Vec<_>) = go.into_iter().unzip();
        let result = ChildPushdownResult { parent_filters, self_filters: result.self_filters };
        let pushed = self.inner.handle_child_pushdown_result(phase, result, config)?;
        for (place, answer) in places.into_iter().zip(pushed.filters) {
            filters[place] = answer;
        }
        let updated_node = pushed.updated_node.map(|inner| self.around(inner));
        Ok(FilterPushdownPropagation { filters, updated_node })
    }

    fn reset_state(self: Arc<Self>) -> Result<Arc<dyn ExecutionPlan>> {
        let inner = Arc::clone(&self.inner).reset_state()?;
        Ok(self.around(inner))
    }
}
