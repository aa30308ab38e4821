//! fsx: random reads, writes, maps, truncations and holes on one file, compared with what the file must hold.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{Ground, Report};
use crate::client::command::{self, succeed};
use crate::fixture::client_dir;
use crate::skip::{skip, tools_dir};

/// tools.sh installs the same version.
const FSX_VERSION: &str = "0.3.2";
const SEEDS: u32 = 2;
const SEEDS_MAX: u32 = 10;
/// Operations of one seed; from an effort of [`SEEDS_MAX`] on as many as a long run has.
const OPERATIONS: u32 = 3_000;
const LONG_OPERATIONS: u32 = 100_000;
/// Every operation that fsx has, through descriptors and maps alike.
const CONFIGURATION: &str = "flen = 1048576
[opsize]
max = 65536
[weights]
close_open = 1
read = 10
write = 10
mapread = 10
mapwrite = 10
invalidate = 1
truncate = 4
fsync = 1
fdatasync = 1
posix_fallocate = 1
punch_hole = 2
sendfile = 2
posix_fadvise = 1
copy_file_range = 2
";

/// What one run of fsx does.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Its seed.
    pub seed: u32,
    /// Its operations.
    pub operations: u32,
}

/// Two seeds for each effort, up to ten, of ever more operations.
///
/// # Errors
/// A skip without fsx; otherwise what it found, with the seed.
pub fn run(dir: &Path, effort: u32) -> Result<Report> {
    let mut ground = Ground::new(dir, "fsx")?;
    let seeds = (SEEDS * effort).min(SEEDS_MAX);
    let operations = if effort < SEEDS_MAX { OPERATIONS * effort } else { LONG_OPERATIONS };
    for seed in 1..=seeds {
        exercise(&ground.join(&format!("seed{seed}")), Plan { seed, operations })?;
    }
    ground.figure("operations", f64::from(seeds * operations));
    Ok(ground.finish())
}

/// Runs `plan` on the file `file`, which is made and removed.
///
/// # Errors
/// As [`run`].
pub fn exercise(file: &Path, plan: Plan) -> Result<()> {
    let outside = client_dir()?;
    let configuration = outside.path().join("fsx.toml");
    std::fs::write(&configuration, CONFIGURATION)?;
    let mut running = command::clean(&find()?, outside.path());
    running.arg("-q").args(["-N", &plan.operations.to_string(), "-S", &plan.seed.to_string()]);
    running.arg("-f").arg(&configuration).arg("-P").arg(outside.path()).arg(file);
    succeed(running).with_context(|| format!("{plan:?}"))?;
    std::fs::remove_file(file)?;
    Ok(())
}

fn find() -> Result<PathBuf> {
    let path = tools_dir().join(format!("fsx-{FSX_VERSION}/bin/fsx"));
    if path.is_file() { Ok(path) } else { Err(skip(format!("fsx {FSX_VERSION} not found: make tools"))) }
}
