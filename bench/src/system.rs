//! What the operating system tells: processor time and memory of a process, the machine, a directory's bytes, the disk.
//!
//! Linux only: everything but the disk probe is read from `/proc`.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::stats::{ms, percentile, rate};

/// Clock ticks of `/proc` in a second: fixed by Linux for every architecture that Holdfast is built for.
const TICKS_PER_SECOND: u64 = 100;
/// How often and how long the disk is probed.
const PROBE_SYNCS: u32 = 300;
const PROBE_WITHIN: Duration = Duration::from_secs(3);
/// What one synced write of the probe holds.
const PROBE_BLOCK_BYTES: usize = 4 << 10;
/// What the sequential part of the probe writes before its one sync.
const PROBE_STREAM_BYTES: usize = 256 << 20;

/// Processor time of a process and of its children that ended.
///
/// # Errors
/// When the process is gone.
pub fn cpu_of(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid} is gone"))?;
    cpu_in(&stat).with_context(|| format!("/proc/{pid}/stat has an unknown form"))
}

/// The command name may contain anything, so fields are counted from its closing bracket: 14 to 17 are utime, stime,
/// cutime and cstime. Source: proc_pid_stat(5).
fn cpu_in(stat: &str) -> Option<Duration> {
    let (_, fields) = stat.rsplit_once(')')?;
    let ticks: Vec<u64> = fields.split_whitespace().skip(11).take(4).map_while(|field| field.parse().ok()).collect();
    let ticks: u64 = (ticks.len() == 4).then(|| ticks.iter().sum())?;
    Some(Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
}

/// Processor time that the whole machine spent, in user and system, its guests' and interrupts included.
///
/// # Errors
/// When `/proc/stat` cannot be read.
pub fn cpu_of_machine() -> Result<Duration> {
    let stat = fs::read_to_string("/proc/stat").context("/proc/stat cannot be read")?;
    machine_cpu_in(&stat).context("/proc/stat has an unknown form")
}

/// Fields: user nice system idle iowait irq softirq steal; idle and iowait are not work. Source: proc_stat(5).
fn machine_cpu_in(stat: &str) -> Option<Duration> {
    let fields: Vec<u64> =
        stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace().filter_map(|field| field.parse().ok()).collect();
    let busy: u64 = [0, 1, 2, 5, 6, 7].iter().filter_map(|at| fields.get(*at)).sum();
    Some(Duration::from_millis(busy * 1000 / TICKS_PER_SECOND))
}

/// Resident memory of a process: now, and the most it ever was.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Memory {
    pub resident_mib: f64,
    pub peak_mib: f64,
}

/// Resident memory of a process.
///
/// # Errors
/// When the process is gone.
pub fn memory_of(pid: u32) -> Result<Memory> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).with_context(|| format!("process {pid} is gone"))?;
    let mib = |name| kib_in(&status, name).map(|kib| kib as f64 / 1024.0).context("no such field of /proc/PID/status");
    Ok(Memory { resident_mib: mib("VmRSS:")?, peak_mib: mib("VmHWM:")? })
}

fn kib_in(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Bytes that a directory takes on the disk.
#[must_use]
pub fn disk_bytes(directory: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(directory) else { return 0 };
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => meta.blocks() * 512 + disk_bytes(&entry.path()),
        Ok(meta) => meta.blocks() * 512,
        // A file that a server removed meanwhile takes no space.
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}

/// Bytes that are free on the file system of `directory`.
///
/// # Errors
/// When the file system does not tell.
pub fn free_bytes(directory: &Path) -> Result<u64> {
    let stat = rustix::fs::statvfs(directory).context("the file system does not tell its free space")?;
    Ok(stat.f_bavail * stat.f_frsize)
}

/// The machine that measured. Names nothing that would tell where it stands.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    pub cores: usize,
    pub cpu: String,
    pub memory_mib: u64,
    pub kernel: String,
    pub filesystem: String,
    /// Load average of the last minute when the run began: above a few tenths, someone else was at work.
    pub load_before: f64,
}

impl Machine {
    /// This machine, and the file system of `directory`.
    #[must_use]
    pub fn here(directory: &Path) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpu = read("/proc/cpuinfo");
        let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
        Self {
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            cpu: cpu.trim_start_matches([' ', '\t', ':']).to_owned(),
            memory_mib: kib_in(&read("/proc/meminfo"), "MemTotal:").unwrap_or(0) / 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            filesystem: filesystem_in(&read("/proc/self/mounts"), directory).unwrap_or_default(),
            load_before: load_average(),
        }
    }
}

/// Load average of the last minute.
#[must_use]
pub fn load_average() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0)
}

/// The type of the file system that holds `directory`: the mount whose point is its longest prefix, the last of equals.
fn filesystem_in(mounts: &str, directory: &Path) -> Option<String> {
    let mounts = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        Some((Path::new(fields.next()?), fields.next()?))
    });
    let holds = mounts.filter(|(point, _)| directory.starts_with(point));
    holds.max_by_key(|(point, _)| point.components().count()).map(|(_, kind)| kind.to_owned())
}

/// What the disk does by itself: the rate of writes that one client can have made durable, and of a stream.
#[derive(Clone, Debug, Serialize)]
pub struct Disk {
    pub fdatasync_per_s: f64,
    pub fdatasync_p50_ms: f64,
    pub fdatasync_p99_ms: f64,
    pub write_mb_per_s: f64,
}

/// Probes the disk of `directory`: appends of 4 KiB with an fdatasync each, then 256 MiB with one.
///
/// # Errors
/// When a file cannot be written or synced there.
pub fn probe(directory: &Path) -> Result<Disk> {
    let mut file = tempfile::tempfile_in(directory).context("cannot make a file to probe the disk")?;
    let mut samples = sync_samples(&mut file)?;
    let total: Duration = samples.iter().sum();
    samples.sort_unstable();
    let at = |percent| percentile(&samples, percent).map_or(0.0, ms);
    let began = Instant::now();
    let chunk = vec![0xa5; 1 << 20];
    for _ in 0..PROBE_STREAM_BYTES / chunk.len() {
        file.write_all(&chunk)?;
    }
    file.sync_data()?;
    Ok(Disk {
        fdatasync_per_s: rate(samples.len() as u64, total),
        fdatasync_p50_ms: at(50),
        fdatasync_p99_ms: at(99),
        write_mb_per_s: rate(PROBE_STREAM_BYTES as u64, began.elapsed()) / 1e6,
    })
}

fn sync_samples(file: &mut File) -> Result<Vec<Duration>> {
    let block = [0x5a; PROBE_BLOCK_BYTES];
    let (began, mut samples) = (Instant::now(), Vec::new());
    while samples.len() < PROBE_SYNCS as usize && began.elapsed() < PROBE_WITHIN {
        let before = Instant::now();
        file.write_all(&block)?;
        file.sync_data()?;
        samples.push(before.elapsed());
    }
    Ok(samples)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_found_behind_any_command_name() {
        let stat = "7 (a ) b(c) S 1 7 7 0 -1 4194560 100 0 0 0 150 50 20 10 20 0 9 0 100 0 0";
        assert_eq!(cpu_in(stat), Some(Duration::from_millis(2300)));
        assert_eq!(cpu_in("7 (a) S 1"), None);
        assert_eq!(cpu_in("nothing"), None);
    }

    #[test]
    fn waiting_is_no_processor_time_of_the_machine() {
        assert_eq!(machine_cpu_in("cpu  100 1 50 9000 800 2 3 4 0 0\ncpu0 ..."), Some(Duration::from_millis(1600)));
    }

    #[test]
    fn memory_fields_are_found_by_name() {
        let status = "VmPeak:\t  900 kB\nVmHWM:\t  2048 kB\nVmRSS:\t  1024 kB\n";
        assert_eq!((kib_in(status, "VmRSS:"), kib_in(status, "VmHWM:")), (Some(1024), Some(2048)));
        assert_eq!(kib_in(status, "VmSwap:"), None);
    }

    #[test]
    fn the_innermost_mount_names_the_file_system() {
        let mounts = "a / ext4 rw 0 0\nb /data xfs rw 0 0\nc /dat tmpfs rw 0 0\n";
        let check = |path: &str| filesystem_in(mounts, Path::new(path)).unwrap();
        assert_eq!((check("/data/x"), check("/database")), ("xfs".to_owned(), "ext4".to_owned()));
    }

    #[test]
    fn a_process_knows_its_own_time_and_memory() {
        let pid = std::process::id();
        assert!(cpu_of(pid).is_ok());
        let memory = memory_of(pid).unwrap();
        assert!(memory.resident_mib > 0.0 && memory.peak_mib >= memory.resident_mib);
    }
}
