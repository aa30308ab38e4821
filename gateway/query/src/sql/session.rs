//! What a statement may use of the engine: functions that are pure, and no file, no socket and no setting.

use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::{DataFusionError, Result};
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::SessionStateDefaults;
use datafusion::execution::context::SessionState;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::{FairSpillPool, TrackConsumersPool};
use datafusion::execution::object_store::ObjectStoreRegistry;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::logical_expr::{ScalarUDF, Volatility};
use datafusion::object_store::ObjectStore;
use datafusion::object_store::memory::InMemory;
use datafusion::prelude::SessionConfig;
use url::Url;

use super::bounded::bounded;
use super::extremes::with_extremes;
use super::in_order::InOrder;
use super::text::BATCH_ROWS;
use super::yielding::Yielding;
use crate::engine::Limits;

/// Where names of tables are looked up.
pub(super) const CATALOG: &str = "repository";
/// Where `"bucket/prefix/"` is.
pub(super) const OBJECTS: &str = "objects";
/// Where `holdfast.versions` is.
pub(super) const SYSTEM: &str = "holdfast";

/// Consumers that an error about memory names.
const CONSUMERS_SHOWN: std::num::NonZeroUsize = std::num::NonZeroUsize::new(3).expect("three is not zero");

/// Memory and room on the disk, of all queries together.
///
/// # Errors
/// When the directory for spilling cannot be used.
pub(crate) fn runtime(limits: &Limits) -> Result<Arc<RuntimeEnv>> {
    let pool = TrackConsumersPool::new(FairSpillPool::new(limits.memory_bytes), CONSUMERS_SHOWN);
    let disk = DiskManagerBuilder::default()
        .with_mode(DiskManagerMode::Directories(vec![limits.spill_dir.clone()]))
        .with_max_temp_directory_size(limits.spill_bytes_max);
    RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(pool))
        .with_disk_manager_builder(disk)
        .with_object_store_registry(Arc::new(NoStores { empty: Arc::new(InMemory::new()) }))
        .build_arc()
}

/// The engine asks for a store before it opens a file of Parquet; ours are opened by a factory, so this one is empty.
#[derive(Debug)]
struct NoStores {
    empty: Arc<dyn ObjectStore>,
}

impl ObjectStoreRegistry for NoStores {
    fn register_store(&self, _: &Url, _: Arc<dyn ObjectStore>) -> Option<Arc<dyn ObjectStore>> {
        None
    }

    fn get_store(&self, url: &Url) -> Result<Arc<dyn ObjectStore>> {
        match url.scheme() {
            "holdfast" => Ok(Arc::clone(&self.empty)),
            scheme => {
                Err(DataFusionError::Execution(format!("there is no access to {scheme}: objects alone are read")))
            }
        }
    }
}

/// A session without tables.
///
/// # Errors
/// Those of the registration of functions.
pub(crate) fn session(limits: &Limits, runtime: Arc<RuntimeEnv>) -> Result<SessionState> {
    let mut config = SessionConfig::new()
        .with_default_catalog_and_schema(CATALOG, OBJECTS)
        .with_create_default_catalog_and_schema(false)
        .with_information_schema(false)
        .with_target_partitions(limits.threads.get())
        .with_batch_size(BATCH_ROWS);
    set(config.options_mut());
    let pure =
        SessionStateDefaults::default_scalar_functions().into_iter().filter(|function| is_pure(function)).map(bounded);
    let mut state = SessionStateBuilder::new()
        .with_config(config)
        .with_runtime_env(runtime)
        .with_expr_planners(SessionStateDefaults::default_expr_planners())
        .with_scalar_functions(pure.collect())
        .with_higher_order_functions(SessionStateDefaults::default_higher_order_functions())
        .with_aggregate_functions(with_extremes(SessionStateDefaults::default_aggregate_functions()))
        .with_window_functions(SessionStateDefaults::default_window_functions())
        .with_table_function_list(SessionStateDefaults::default_table_functions())
        .with_physical_optimizer_rule(Arc::new(InOrder))
        .with_physical_optimizer_rule(Arc::new(Yielding))
        .build();
    datafusion_functions_json::register_all(&mut state)?;
    Ok(state)
}

/// The same answer for the same arguments in one query, and nothing of the machine in it.
fn is_pure(function: &ScalarUDF) -> bool {
    function.signature().volatility != Volatility::Volatile && function.name() != "version"
}

fn set(options: &mut ConfigOptions) {
    // Rows keep the order of their keys: nothing is dealt out round robin, and scans are shared out by us.
    options.optimizer.enable_round_robin_repartition = false;
    options.optimizer.repartition_file_scans = false;
    options.execution.parquet.pushdown_filters = true;
    options.execution.parquet.reorder_filters = true;
}
