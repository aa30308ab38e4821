//! Rows in the order of their keys: partitions of a scan one after the other, read ahead side by side.
//!
//! The engine merges partitions as their batches come, so two runs of one query would differ. Where only filters and
//! projections lie between a scan and the merge, [`InOrder`] replaces it. Groups and joins distribute rows by hashes; their
//! order is not promised, as SQL has it.

use std::collections::VecDeque;
use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::config::ConfigOptions;
use datafusion::common::runtime::SpawnedTask;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{Partitioning, PhysicalExpr};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::limit::LocalLimitExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties, ReplaceChildrenOptions,
};
use futures::{StreamExt, TryStreamExt, stream};
use tokio::sync::mpsc;

use super::scan::RepositoryExec;

/// Batches of one partition that wait for those before it.
const AHEAD_BATCHES_MAX: usize = 4;

/// Replaces a merge by [`InOrderExec`].
#[derive(Debug)]
pub(super) struct InOrder;

impl PhysicalOptimizerRule for InOrder {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|plan| {
            let replaced = plan
                .downcast_ref::<CoalescePartitionsExec>()
                .filter(|merge| ordered(merge.input()))
                .map(|merge| InOrderExec::over(Arc::clone(merge.input()), merge.fetch()));
            Ok(match replaced {
                Some(plan) => Transformed::yes(plan),
                None => Transformed::no(plan),
            })
        })
        .data()
    }

    fn name(&self) -> &'static str {
        "in_order"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// Whether the partitions of a plan are those of a scan.
fn ordered(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let passes = plan.is::<FilterExec>()
        || plan.is::<ProjectionExec>()
        || plan.is::<LocalLimitExec>()
        || plan.is::<CooperativeExec>()
        || plan.is::<UnionExec>();
    plan.is::<RepositoryExec>() || (passes && plan.children().into_iter().all(ordered))
}

/// One partition of all, the first one first.
#[derive(Debug)]
pub(super) struct InOrderExec {
    input: Arc<dyn ExecutionPlan>,
    fetch: Option<usize>,
    properties: Arc<PlanProperties>,
}

impl InOrderExec {
    pub(super) fn over(input: Arc<dyn ExecutionPlan>, fetch: Option<usize>) -> Arc<dyn ExecutionPlan> {
        let mut equivalence = input.equivalence_properties().clone();
        equivalence.clear_orderings();
        equivalence.clear_per_partition_constants();
        let one = Partitioning::UnknownPartitioning(1);
        let properties = PlanProperties::new(equivalence, one, input.pipeline_behavior(), input.boundedness());
        Arc::new(Self { input, fetch, properties: Arc::new(properties) })
    }
}

impl DisplayAs for InOrderExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("InOrderExec")?;
        self.fetch.map_or(Ok(()), |fetch| write!(f, ": fetch={fetch}"))
    }
}

impl ExecutionPlan for InOrderExec {
    fn name(&self) -> &'static str {
        "InOrderExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        match children.pop() {
            Some(input) => Ok(Self::over(input, self.fetch)),
            None => Err(DataFusionError::Internal("InOrderExec has one input".to_owned())),
        }
    }

    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        match children.pop() {
            Some(input) => Ok(Self::over(input, self.fetch)),
            None => Err(DataFusionError::Internal("InOrderExec has one input".to_owned())),
        }
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn execute(&self, _: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let partitions = self.input.output_partitioning().partition_count();
        // Few rows are mostly in the first partition.
        let ahead = if self.fetch.is_some() { 1 } else { partitions.max(1) };
        let queued =
            Queued { input: Arc::clone(&self.input), context, begun: 0, partitions, waiting: VecDeque::new(), ahead };
        let state = (queued, None::<SendableRecordBatchStream>, self.fetch.unwrap_or(usize::MAX));
        let rows = stream::try_unfold(state, |(mut queued, mut current, left)| async move {
            if left == 0 {
                return Ok(None);
            }
            loop {
                if current.is_none() {
                    current = queued.next()?;
                }
                let Some(stream) = &mut current else { return Ok(None) };
                if let Some(batch) = stream.try_next().await? {
                    let batch = batch.slice(0, batch.num_rows().min(left));
                    let left = left - batch.num_rows();
                    return Ok(Some((batch, (queued, current, left))));
                }
                current = None;
            }
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), rows)))
    }
}

/// Partitions that were begun before it is their turn.
struct Queued {
    input: Arc<dyn ExecutionPlan>,
    context: Arc<TaskContext>,
    begun: usize,
    partitions: usize,
    waiting: VecDeque<SendableRecordBatchStream>,
    ahead: usize,
}

impl Queued {
    fn next(&mut self) -> Result<Option<SendableRecordBatchStream>> {
        while self.waiting.len() < self.ahead && self.begun < self.partitions {
            self.waiting.push_back(ahead_of(&self.input, self.begun, &self.context)?);
            self.begun += 1;
        }
        Ok(self.waiting.pop_front())
    }
}

/// A partition that runs on its own, until its batches fill its queue.
fn ahead_of(
    input: &Arc<dyn ExecutionPlan>,
    partition: usize,
    context: &Arc<TaskContext>,
) -> Result<SendableRecordBatchStream> {
    let mut source = input.execute(partition, Arc::clone(context))?;
    let schema = source.schema();
    let (sender, receiver) = mpsc::channel(AHEAD_BATCHES_MAX);
    let task = SpawnedTask::spawn(async move {
        while let Some(batch) = source.next().await {
            let failed = batch.is_err();
            if sender.send(batch).await.is_err() || failed {
                return;
            }
        }
    });
    // The task lives in the state of the stream: dropping the one ends the other.
    let rows = stream::unfold((receiver, Some(task)), |(mut receiver, task)| async move {
        if let Some(batch) = receiver.recv().await {
            return Some((batch, (receiver, task)));
        }
        // The queue also closes when the task panicked, which must not look like an end.
        match task?.join().await {
            Ok(()) => None,
            Err(error) => Some((Err(DataFusionError::External(Box::new(error))), (receiver, None))),
        }
    });
    Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
}
