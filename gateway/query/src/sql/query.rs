//! A statement, from its text to its rows.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use futures::TryStreamExt;
use futures::stream::BoxStream;
use tokio::sync::mpsc;

use super::ddl::{CreateIndex, DropIndex};
use super::error::{Error, Kind};
use super::in_order::InOrderExec;
use super::plan;
use super::read::Progress;
use super::statement::{self, Parsed};
use crate::engine::{Engine, Turn};
use crate::repository::Repository;

/// A statement that makes sense.
pub enum Statement {
    /// It asks for rows.
    Query(Query),
    /// It asks the gateway for an index.
    CreateIndex(CreateIndex),
    /// It asks the gateway to drop one.
    DropIndex(DropIndex),
}

/// A query that is planned, and holds its place among those that run.
pub struct Query {
    plan: Arc<dyn ExecutionPlan>,
    context: Arc<TaskContext>,
    revision: u64,
    turn: Turn,
}

impl std::fmt::Debug for Query {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Query").field("revision", &self.revision).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Statement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Query(query) => query.fmt(f),
            Self::CreateIndex(create) => create.fmt(f),
            Self::DropIndex(remove) => remove.fmt(f),
        }
    }
}

impl Engine {
    /// Parses one statement. One that asks for rows waits for its turn, and is planned against a view of the repository.
    ///
    /// # Errors
    /// `InvalidSql` and `NotImplemented` for what makes no sense or is not built, `InvalidData` when objects do not hold
    /// what is asked of them, `TooManyQueries` when too many wait already, and those of the repository.
    ///
    /// # Cancel safety
    /// Dropping the future ends the work.
    pub async fn prepare(&self, repository: Arc<dyn Repository>, sql: &str) -> Result<Statement, Error> {
        let deadline = self.deadline();
        let text = sql.to_owned();
        // Trees are walked by recursion, for which the threads of the engine have the stack.
        let tree = match self.run(deadline, async move { statement::parse(&text) }).await? {
            Parsed::CreateIndex(create) => return Ok(Statement::CreateIndex(create)),
            Parsed::DropIndex(remove) => return Ok(Statement::DropIndex(remove)),
            Parsed::Query(tree) => tree,
        };
        let turn = self.turn(deadline).await?;
        let (session, caches, budget) = (turn.session().clone(), turn.caches().clone(), turn.budget());
        let (plan, context, revision) = turn.run(plan::plan(session, caches, repository, budget, tree)).await?;
        Ok(Statement::Query(Query { plan, context, revision, turn }))
    }
}

impl Query {
    /// Columns of the result.
    #[must_use]
    pub fn schema(&self) -> SchemaRef {
        plain_schema(&self.plan.schema())
    }

    /// The revision that it reads at.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// What it did until now.
    #[must_use]
    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(self.turn.progress())
    }

    /// Runs it. Dropping the stream ends the work.
    #[must_use]
    pub fn run(self) -> BoxStream<'static, Result<RecordBatch, Error>> {
        let Self { plan, context, turn, .. } = self;
        let (progress, bytes_max) = (Arc::clone(turn.progress()), turn.limits().result_bytes_max);
        turn.stream(move |sender| deliver(plan, context, progress, bytes_max, sender))
    }
}

async fn deliver(
    plan: Arc<dyn ExecutionPlan>,
    context: Arc<TaskContext>,
    progress: Arc<Progress>,
    bytes_max: u64,
    sender: mpsc::Sender<RecordBatch>,
) -> Result<(), Error> {
    let plan = match plan.output_partitioning().partition_count() {
        1 => plan,
        _ => InOrderExec::over(plan, None),
    };
    let schema = plain_schema(&plan.schema());
    let mut rows = plan.execute(0, context)?;
    let mut bytes = 0;
    while let Some(batch) = rows.try_next().await? {
        let batch = plain_batch(&batch, &schema)?;
        bytes += size(&batch)?;
        if bytes > bytes_max {
            let message = format!("the result has more than the {bytes_max} bytes that one may have");
            return Err(Error::new(Kind::Invalid, "ResultTooLarge", message));
        }
        progress.add_rows(batch.num_rows());
        if sender.send(batch).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// The schema with plain text, where the engine computes with views: not every client knows those.
fn plain_schema(schema: &SchemaRef) -> SchemaRef {
    let fields = schema.fields().iter().map(plain_field);
    Arc::new(Schema::new(fields.collect::<Vec<FieldRef>>()))
}

fn plain_field(field: &FieldRef) -> FieldRef {
    Arc::new(Field::new(field.name(), plain_type(field.data_type()), field.is_nullable()))
}

fn plain_type(kind: &DataType) -> DataType {
    match kind {
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::List(item) => DataType::List(plain_field(item)),
        DataType::LargeList(item) => DataType::LargeList(plain_field(item)),
        DataType::FixedSizeList(item, length) => DataType::FixedSizeList(plain_field(item), *length),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(plain_field).collect()),
        DataType::Map(entries, sorted) => DataType::Map(plain_field(entries), *sorted),
        DataType::Dictionary(_, values) => plain_type(values),
        kind => kind.clone(),
    }
}

fn plain_batch(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, Error> {
    let columns = batch.columns().iter().zip(schema.fields());
    let columns = columns.map(|(column, field)| arrow::compute::cast(column, field.data_type()));
    let columns = columns.collect::<Result<Vec<_>, _>>().map_err(super::of_arrow)?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options).map_err(super::of_arrow)
}

/// Bytes of the rows of a batch, whatever buffers it shares.
fn size(batch: &RecordBatch) -> Result<u64, Error> {
    let mut bytes = 0;
    for column in batch.columns() {
        bytes += column.to_data().get_slice_memory_size().map_err(super::of_arrow)? as u64;
    }
    Ok(bytes)
}
