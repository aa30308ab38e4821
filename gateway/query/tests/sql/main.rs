//! SQL over a repository in memory.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, clippy::cast_possible_wrap)]
#![allow(clippy::cast_sign_loss, clippy::cast_precision_loss)]

mod formats;
mod limits;
mod memory;
mod paths;
mod refusals;
mod scripts;
mod system;

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use arrow::record_batch::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use futures::TryStreamExt;
use holdfast_query::engine::{Engine, Limits};
use holdfast_query::repository::Repository;
use holdfast_query::sql::{Error, Query, Statement};

/// An engine with a directory of its own for spilled rows.
pub struct Bench {
    pub engine: Engine,
    _spill: tempfile::TempDir,
}

pub fn bench() -> Bench {
    bench_with(|_| {})
}

pub fn bench_with(change: impl FnOnce(&mut Limits)) -> Bench {
    let spill = tempfile::tempdir().unwrap();
    let mut limits = Limits {
        threads: NonZeroUsize::new(2).unwrap(),
        memory_bytes: 256 << 20,
        spill_dir: spill.path().to_owned(),
        spill_bytes_max: 1 << 30,
        cache_bytes: 16 << 20,
        concurrent_max: 4,
        queue_max: 4,
        time_max: Duration::from_secs(120),
        scan_bytes_max: 1 << 30,
        result_bytes_max: 1 << 30,
    };
    change(&mut limits);
    Bench { engine: Engine::new(limits).unwrap(), _spill: spill }
}

impl Bench {
    pub async fn query(&self, repository: &Arc<dyn Repository>, sql: &str) -> Result<Query, Error> {
        match self.engine.prepare(Arc::clone(repository), sql).await? {
            Statement::Query(query) => Ok(query),
            other => panic!("{sql} asks for no rows: {other:?}"),
        }
    }

    pub async fn batches(&self, repository: &Arc<dyn Repository>, sql: &str) -> Result<Vec<RecordBatch>, Error> {
        self.query(repository, sql).await?.run().try_collect().await
    }

    /// Rows as text, with a bar between columns.
    pub async fn rows(&self, repository: &Arc<dyn Repository>, sql: &str) -> Result<Vec<String>, Error> {
        Ok(shown(&self.batches(repository, sql).await?))
    }
}

pub fn shown(batches: &[RecordBatch]) -> Vec<String> {
    let options = FormatOptions::default().with_null("NULL");
    let mut lines = Vec::new();
    for batch in batches {
        let columns: Vec<_> =
            batch.columns().iter().map(|column| ArrayFormatter::try_new(column.as_ref(), &options).unwrap()).collect();
        for row in 0..batch.num_rows() {
            let values: Vec<String> =
                columns.iter().map(|column| column.value(row).to_string().trim_end().to_owned()).collect();
            lines.push(values.join(" | "));
        }
    }
    lines
}
