//! From the tree of a statement to a plan: tables are bound to views of the repository, then the engine plans.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::catalog::{
    CatalogProvider, CatalogProviderList, MemoryCatalogProvider, MemoryCatalogProviderList, MemorySchemaProvider,
    SchemaProvider, TableProvider,
};
use datafusion::common::TableReference;
use datafusion::execution::context::{SQLOptions, SessionState};
use datafusion::execution::{SessionStateBuilder, TaskContext};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::sql::parser::Statement;

use super::columns::{self, Known};
use super::error::{Error, Kind};
use super::read::{Budget, Reader};
use super::session::{CATALOG, OBJECTS, SYSTEM};
use super::statement::Tree;
use super::system::System;
use super::table::{Caches, Sampling, bind};
use super::tables::{Source, Table, Tables, source_of, take_tables};
use crate::repository::{AsOf, Repository, Snapshot};

/// Plans a statement that reads. Also the context in which the plan runs, and the revision that it reads at.
///
/// # Errors
/// Those of [`super::Engine::prepare`].
pub(super) async fn plan(
    session: SessionState,
    caches: Caches,
    repository: Arc<dyn Repository>,
    budget: Budget,
    mut tree: Box<Tree>,
) -> Result<(Arc<dyn ExecutionPlan>, Arc<TaskContext>, u64), Error> {
    let tables = take_tables(&mut tree.statement, std::mem::take(&mut tree.moments))?;
    let mut views = Views::open(repository, tables.at.unwrap_or(AsOf::Now)).await?;
    let revision = views.main.revision();
    let mut references = session.resolve_table_references(&Statement::Statement(Box::new(tree.statement.clone())))?;
    references.retain(|reference| !tables.functions.contains(reference.table()));
    let reads = Reads { session, caches, budget, tables, references, tree };
    let mut few = false;
    let planned = match reads.plan(&mut views, Sampling::Few, &mut few).await {
        // What is wrong may be so only by the columns of a few objects.
        Err(error) if few && error.kind == Kind::Invalid => reads.plan(&mut views, Sampling::All, &mut few).await,
        planned => planned,
    };
    let (physical, context) = planned?;
    Ok((physical, context, revision))
}

/// A statement that reads, and what it is planned with.
struct Reads {
    session: SessionState,
    caches: Caches,
    budget: Budget,
    tables: Tables,
    references: Vec<TableReference>,
    tree: Box<Tree>,
}

impl Reads {
    /// Binds the tables and plans. `few` tells whether more columns may come of more objects.
    async fn plan(
        &self,
        views: &mut Views,
        sampling: Sampling,
        few: &mut bool,
    ) -> Result<(Arc<dyn ExecutionPlan>, Arc<TaskContext>), Error> {
        let objects = Arc::new(MemorySchemaProvider::new());
        let system = Arc::new(MemorySchemaProvider::new());
        let mut known = Known::default();
        for reference in &self.references {
            let table = table_of(reference, &self.tables)?;
            let snapshot = views.at(table.at).await?;
            let provider: Arc<dyn TableProvider> = match table.source {
                Source::System(name) => Arc::new(System::new(snapshot, name)),
                Source::Objects(place, options) => {
                    let reader = Reader::new(snapshot, self.budget.clone());
                    let mentioned = &self.tree.mentioned;
                    let bound = bind(reader, self.caches.clone(), place, options, mentioned, sampling).await?;
                    known.hidden.insert(reference.table().to_owned(), bound.hidden().to_vec());
                    *few |= bound.sampled_few();
                    Arc::new(bound)
                }
            };
            known.schemas.push(provider.schema());
            let schema = if reference.schema().is_some() { &system } else { &objects };
            schema.register_table(reference.table().to_owned(), provider)?;
        }
        let mut statement = self.tree.statement.clone();
        columns::rewrite(&mut statement, &known)?;
        let state = with_tables(self.session.clone(), objects, system)?;
        let logical = state.statement_to_plan(Statement::Statement(Box::new(statement))).await?;
        let reads = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
        reads.verify_plan(&logical)?;
        let physical = state.create_physical_plan(&plain(&state, logical)?).await?;
        Ok((physical, state.task_ctx()))
    }
}

fn table_of(reference: &TableReference, tables: &Tables) -> Result<Table, Error> {
    if let (None, Some(table)) = (reference.schema(), tables.named.get(reference.table())) {
        return Ok(table.clone());
    }
    if reference.catalog().is_some() {
        return Err(Error::sql(format!("there is no table {reference}: a table is written \"bucket/prefix/\"")));
    }
    Ok(Table { source: source_of(reference.schema(), reference.table())?, at: None })
}

fn with_tables(
    session: SessionState,
    objects: Arc<MemorySchemaProvider>,
    system: Arc<MemorySchemaProvider>,
) -> Result<SessionState, Error> {
    let catalog = MemoryCatalogProvider::new();
    catalog.register_schema(OBJECTS, objects)?;
    catalog.register_schema(SYSTEM, system)?;
    let catalogs = MemoryCatalogProviderList::new();
    catalogs.register_catalog(CATALOG.to_owned(), Arc::new(catalog));
    let mut state = SessionStateBuilder::new_from_existing(session).with_catalog_list(Arc::new(catalogs)).build();
    // One moment is now for the whole statement.
    state.mark_start_execution();
    Ok(state)
}

/// The plan with values of changing type, which JSON operators have, as text: no format of results holds them.
fn plain(state: &SessionState, logical: LogicalPlan) -> Result<LogicalPlan, Error> {
    let unions = logical.schema().fields().iter().any(|field| matches!(field.data_type(), DataType::Union(..)));
    if !unions {
        return Ok(logical);
    }
    let to_text = Arc::clone(&state.scalar_functions()["json_union_to_text"]);
    let columns: Vec<Expr> = logical
        .schema()
        .columns()
        .into_iter()
        .zip(logical.schema().fields())
        .map(|(column, field)| match field.data_type() {
            DataType::Union(..) => {
                let name = column.name.clone();
                to_text.call(vec![Expr::Column(column)]).alias(name)
            }
            _ => Expr::Column(column),
        })
        .collect();
    Ok(LogicalPlanBuilder::from(logical).project(columns)?.build()?)
}

/// Views that one statement reads, one for each moment.
struct Views {
    repository: Arc<dyn Repository>,
    main: Arc<dyn Snapshot>,
    others: HashMap<(bool, u64), Arc<dyn Snapshot>>,
}

impl Views {
    async fn open(repository: Arc<dyn Repository>, at: AsOf) -> Result<Self, Error> {
        let main = repository.open(at).await?;
        Ok(Self { repository, main, others: HashMap::new() })
    }

    async fn at(&mut self, at: Option<AsOf>) -> Result<Arc<dyn Snapshot>, Error> {
        let (moment, key) = match at {
            None | Some(AsOf::Now) => return Ok(Arc::clone(&self.main)),
            Some(moment @ AsOf::Revision(revision)) => (moment, (true, revision)),
            Some(moment @ AsOf::Timestamp(time)) => (moment, (false, time)),
        };
        if let Some(view) = self.others.get(&key) {
            return Ok(Arc::clone(view));
        }
        let view = self.repository.open(moment).await?;
        self.others.insert(key, Arc::clone(&view));
        Ok(view)
    }
}
