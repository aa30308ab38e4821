//! Load: dbench, fio with verification, and a directory of many entries.

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::names::listed;
use super::{Ground, Report, tool};
use crate::client::command::succeed;

const DBENCH_SECONDS: u32 = 5;
const DBENCH_CLIENTS: &str = "2";
/// Effort 50 is the 100,000 of the long run.
const ENTRIES: u32 = 2_000;
const BATCH: usize = 500;

/// The file server load of dbench.
///
/// # Errors
/// A skip without dbench; otherwise when an operation of it fails.
pub fn dbench(dir: &Path, effort: u32) -> Result<Report> {
    let mut ground = Ground::new(dir, "dbench")?;
    let mut command = tool("dbench", "apt-get install dbench", ground.path())?;
    let seconds = (DBENCH_SECONDS * effort).to_string();
    command.args(["-t", &seconds, "-F", "-c", "/usr/share/dbench/client.txt", "-D"]).arg(ground.path());
    command.arg(DBENCH_CLIENTS);
    let said = succeed(command)?;
    let line = said.lines().find(|line| line.starts_with("Throughput ")).with_context(|| said.clone())?;
    // It says so of a semaphore that it can do without.
    let failed = |line: &str| line.contains("failed") && !line.contains("semaphore");
    ensure!(!said.lines().any(failed), "{said}");
    let throughput = line.split_whitespace().nth(1).context("no figure")?.parse()?;
    ground.figure("MB/s", throughput);
    Ok(ground.finish())
}

/// Random writes with a checksum in each block, synced now and then, read back by fio; then the same through a map.
///
/// # Errors
/// A skip without fio; otherwise what it finds.
pub fn fio(dir: &Path, effort: u32) -> Result<Report> {
    let mut ground = Ground::new(dir, "fio")?;
    for (name, options) in [
        ("random writes", "--ioengine=psync --rw=randwrite --bs=4k --fsync=32"),
        ("mixed sizes", "--ioengine=psync --rw=randrw --bsrange=512-128k --fdatasync=16"),
        ("map", "--ioengine=mmap --rw=randwrite --bs=4k --fsync=64"),
        ("two writers", "--ioengine=psync --rw=randwrite --bs=8k --numjobs=2 --fsync=16"),
        ("direct", "--ioengine=psync --rw=randwrite --bs=4k --direct=1 --fsync=64"),
    ] {
        let iops = fio_job(&ground, name, options, 4 * effort).with_context(|| name.to_owned())?;
        ground.figure(format!("{name} writes/s"), iops);
    }
    Ok(ground.finish())
}

fn fio_job(ground: &Ground, name: &str, options: &str, mib: u32) -> Result<f64> {
    let mut command = tool("fio", "apt-get install fio", ground.path())?;
    let name = name.replace(' ', "-");
    command.args([format!("--name={name}"), format!("--size={mib}m"), "--output-format=json".into()]);
    command.args(["--verify=crc32c", "--do_verify=1", "--verify_fatal=1", "--randrepeat=1", "--allrandrepeat=1"]);
    command.args(options.split(' '));
    let said = succeed(command)?;
    // Notes may stand before the JSON.
    let json = said.find('{').map(|at| &said[at..]).context("no JSON")?;
    let report: Value = serde_json::from_str(json)?;
    let jobs = report["jobs"].as_array().context("no jobs")?;
    ensure!(jobs.iter().all(|job| job["error"] == 0), "fio reports an error: {said}");
    for entry in fs::read_dir(ground.path())? {
        fs::remove_file(entry?.path())?;
    }
    Ok(jobs.iter().filter_map(|job| job["write"]["iops"].as_f64()).sum())
}

/// A directory of many entries: made in batches, listed twice, looked up, half removed while it is read, removed.
///
/// # Errors
/// When one is missing, listed twice, or left.
pub fn many_entries(dir: &Path, effort: u32) -> Result<Report> {
    let mut ground = Ground::new(dir, "many")?;
    let full = ground.join("full");
    fs::create_dir(&full)?;
    let count = ENTRIES * effort;
    let names: Vec<String> = (0..count).map(|number| format!("entry-{number:06}")).collect();
    let began = Instant::now();
    let mut slowest: f64 = 0.0;
    for batch in names.chunks(BATCH) {
        let batch_began = Instant::now();
        for name in batch {
            fs::write(full.join(name), name)?;
        }
        slowest = slowest.max(batch_began.elapsed().as_secs_f64() / batch.len() as f64);
    }
    ground.figure("creates/s", f64::from(count) / began.elapsed().as_secs_f64());
    ground.figure("slowest batch ms/create", slowest * 1e3);
    ground.timed("ls", || {
        let found = listed(&full)?;
        ensure!(found.len() == names.len(), "{} of {count} are listed", found.len());
        ensure!(names.iter().all(|name| found.contains(std::ffi::OsStr::new(name))), "a name is missing");
        Ok(())
    })?;
    for what in ["ls -l", "ls -l again"] {
        ground.timed(what, || {
            let mut command = tool("ls", "apt-get install coreutils", &full)?;
            command.arg("-lU");
            let lines = succeed(command)?.lines().count();
            ensure!(lines == names.len() + 1, "{lines} lines");
            Ok(())
        })?;
    }
    for name in names.iter().step_by(names.len() / 50) {
        ensure!(fs::read_to_string(full.join(name))? == *name, "{name} holds something else");
    }
    ground.timed("unlink half while reading", || unlink_while_reading(&full, count))?;
    ground.timed("rm -rf", || {
        let mut command = tool("rm", "apt-get install coreutils", ground_dir(&full)?)?;
        command.arg("-rf").arg(&full);
        succeed(command)
    })?;
    ensure!(!full.exists(), "it is still there");
    Ok(ground.finish())
}

fn ground_dir(path: &Path) -> Result<&Path> {
    path.parent().context("a directory below another")
}

/// POSIX: whether an entry removed while the directory is read is still returned is open; every other one is, once.
fn unlink_while_reading(full: &Path, count: u32) -> Result<()> {
    let mut seen = std::collections::BTreeSet::new();
    for entry in fs::read_dir(full)? {
        let name = entry?.file_name().into_string().ok().context("another name")?;
        let number: u32 = name.trim_start_matches("entry-").parse().with_context(|| name.clone())?;
        ensure!(seen.insert(number), "{name} comes twice");
        if number.is_multiple_of(2) {
            fs::remove_file(full.join(&name))?;
        }
    }
    ensure!(seen.len() == count as usize, "{} of {count} came while some were removed", seen.len());
    let left = listed(full)?.len();
    ensure!(left == (count / 2) as usize, "{left} are left");
    Ok(())
}
