//! The servers: one MinIO, Holdfast in front of it, and DuckDB on files of its own bucket there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use holdfast_compat_tests::answer::Rows;
use holdfast_compat_tests::client::duckdb::{self, DuckDb};
use holdfast_compat_tests::client::raw::Raw;
use holdfast_compat_tests::client::sql;
use holdfast_compat_tests::minio::Minio;
use holdfast_compat_tests::process::{Holdfast, HoldfastOptions};
use holdfast_compat_tests::target::{Endpoint, REGION, Target, in_front_of};

use super::Options;
use crate::system;

/// How long one read of an answer may take.
const ANSWER_DEADLINE: Duration = Duration::from_secs(600);
/// How long an index may take to be built.
const INDEX_WITHIN: Duration = Duration::from_secs(3600);
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Uploads at once.
const UPLOADS: usize = 4;

/// MinIO's counts of this moment; those of `/minio/v2/metrics` are up to ten seconds old.
const REQUESTS_PATH: &str = "/minio/metrics/v3/api/requests";
/// What they call requests that read.
const READS: [&str; 3] = ["name=\"GetObject\"", "name=\"HeadObject\"", "name=\"ListObject"];

/// Both sides, Holdfast first.
pub const SIDES: [&str; 2] = ["holdfast", "duckdb"];

/// What runs. Fields are dropped in this order.
pub struct Stack {
    duckdb: DuckDb,
    holdfast: Holdfast,
    minio: Minio,
    directory: PathBuf,
}

/// What one statement cost a side.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// From the statement to the last row.
    pub took: Duration,
    /// Processor time of its process meanwhile.
    pub cpu: Duration,
    /// Requests that MinIO had meanwhile.
    pub requests: u64,
}

impl Stack {
    /// Starts everything.
    ///
    /// # Errors
    /// When a program is missing or does not start.
    pub fn start(options: &Options) -> Result<Self> {
        let minio = Minio::start(&options.directory)?;
        let endpoint = Endpoint::of(Target::Minio, minio.address());
        let mut settings = HoldfastOptions::embedded(&options.directory);
        settings.program = Some(options.holdfast.clone());
        in_front_of(&endpoint, &mut settings)?;
        let holdfast = Holdfast::start(settings)?;
        let duckdb = start_duckdb(&options.directory, &endpoint)?;
        Ok(Self { duckdb, holdfast, minio, directory: options.directory.clone() })
    }

    /// Of each program.
    #[must_use]
    pub fn versions(&self) -> BTreeMap<&'static str, String> {
        BTreeMap::from([
            ("holdfast", format!("Holdfast {}", env!("CARGO_PKG_VERSION"))),
            ("duckdb", format!("DuckDB {}", duckdb::VERSION)),
        ])
    }

    /// Where files may be made.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where Holdfast listens.
    #[must_use]
    pub fn ours(&self) -> Endpoint {
        Endpoint::of(Target::OverMinio, self.holdfast.address())
    }

    /// Where MinIO listens.
    #[must_use]
    pub fn theirs(&self) -> Endpoint {
        Endpoint::of(Target::Minio, self.minio.address())
    }

    /// A bucket of the same name in both.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new_bucket(&self, name: &str) -> Result<()> {
        for endpoint in [self.ours(), self.theirs()] {
            endpoint.raw().put(name, "", &[], b"")?.expect(200)?;
        }
        Ok(())
    }

    /// Puts files into a bucket of both.
    ///
    /// # Errors
    /// When one is refused.
    pub fn upload(&self, bucket: &str, prefix: &str, files: &[PathBuf]) -> Result<()> {
        for endpoint in [self.ours(), self.theirs()] {
            upload(&endpoint, bucket, prefix, files)?;
        }
        Ok(())
    }

    /// Waits until nothing is pending in any index.
    ///
    /// # Errors
    /// When it takes too long.
    pub fn await_indexes(&self) -> Result<()> {
        let (began, mut raw) = (Instant::now(), self.ours().raw());
        let open = "SELECT name FROM holdfast.indexes WHERE state <> 'ready' OR pending > 0 OR unparsed > 0";
        while !sql::rows(&mut raw, open)?.is_empty() {
            ensure!(began.elapsed() < INDEX_WITHIN, "an index is not built");
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    /// Both start anew, so that nothing is in their memory.
    ///
    /// # Errors
    /// When one does not start.
    pub fn restart(&mut self) -> Result<()> {
        self.holdfast.restart()?;
        self.duckdb = start_duckdb(&self.directory, &self.theirs())?;
        Ok(())
    }

    /// Asks Holdfast.
    ///
    /// # Errors
    /// When it fails.
    pub fn ask_ours(&mut self, statement: &str) -> Result<(Rows, Cost)> {
        let pid = self.holdfast.process().pid();
        let (requests, cpu) = (self.requests()?, system::cpu_of(pid)?);
        let mut raw = Raw::new(self.ours()).within(ANSWER_DEADLINE);
        let began = Instant::now();
        let rows = sql::rows(&mut raw, statement)?;
        let took = began.elapsed();
        let cpu = system::cpu_of(pid)?.saturating_sub(cpu);
        Ok((rows, Cost { took, cpu, requests: self.requests()?.saturating_sub(requests) }))
    }

    /// Asks DuckDB.
    ///
    /// # Errors
    /// When it fails.
    pub fn ask_theirs(&mut self, statement: &str) -> Result<(Rows, Cost)> {
        let pid = self.duckdb.pid();
        let (requests, cpu) = (self.requests()?, system::cpu_of(pid)?);
        let answer = self.duckdb.ask(statement)?;
        let cpu = system::cpu_of(pid)?.saturating_sub(cpu);
        let requests = self.requests()?.saturating_sub(requests);
        Ok((answer.rows, Cost { took: answer.took, cpu, requests }))
    }

    /// Lets DuckDB do something that is not measured, such as making files.
    ///
    /// # Errors
    /// When it fails.
    pub fn prepare(&mut self, statement: &str) -> Result<()> {
        self.duckdb.ask(statement).map(drop)
    }

    /// Requests for objects that MinIO had until now: GET, HEAD and listings, not writes.
    fn requests(&self) -> Result<u64> {
        let host = ("host".to_owned(), self.minio.address().to_owned());
        let page = self.theirs().raw().exchange("GET", REQUESTS_PATH, &[host], b"")?.expect(200)?.text();
        let counts: Vec<&str> = page.lines().filter(|line| line.starts_with("minio_api_requests_total{")).collect();
        // There was at least the making of a bucket.
        ensure!(!counts.is_empty(), "MinIO does not count requests");
        let read = |line: &&&str| READS.iter().any(|name| line.contains(name));
        let counts = counts.iter().filter(read).map(|line| {
            let (_, count) = line.rsplit_once(' ').context("a metric without a value")?;
            Ok(count.parse::<f64>()? as u64)
        });
        counts.sum()
    }
}

fn start_duckdb(directory: &Path, minio: &Endpoint) -> Result<DuckDb> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut duckdb = DuckDb::start(directory, threads)?;
    duckdb.ask(&format!(
        "CREATE SECRET minio (TYPE s3, KEY_ID '{}', SECRET '{}', ENDPOINT '{}', REGION '{REGION}', URL_STYLE 'path', \
         USE_SSL false)",
        minio.access_key, minio.secret_key, minio.address
    ))?;
    Ok(duckdb)
}

fn upload(endpoint: &Endpoint, bucket: &str, prefix: &str, files: &[PathBuf]) -> Result<()> {
    let next = AtomicUsize::new(0);
    let work = || -> Result<()> {
        let mut raw = endpoint.raw().within(ANSWER_DEADLINE);
        while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
            let name = file.file_name().and_then(|name| name.to_str()).context("a file has a name")?;
            let body = std::fs::read(file)?;
            raw.put(bucket, &format!("{prefix}{name}"), &[], &body)?.expect(200).context(name.to_owned())?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..UPLOADS).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("an upload does not panic"))
    })
}
