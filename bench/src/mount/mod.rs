//! The mount beside s3fs and rclone, on one MinIO; and a virtual machine's writes beside a local directory.
//!
//! ```text
//! one MinIO ─┬─ Holdfast in front of it ─┬─ holdfast-mount
//!            │                           └─ s3fs on Holdfast
//!            ├─ s3fs
//!            └─ rclone mount                                     each on a bucket of its own
//! sequential ── big (overwrite, chmod, rename) ── random ── names ── directory ── listing ── machine (beside local)
//! ```
//!
//! Promises: sides take turns within each round; every mount has new directories for its cache on the disk of the stores;
//! what a side says is done is looked for in its store by S3, inside the clock for one that returns before (rclone); a side
//! that cannot do a thing is shown with its error; every wait has a deadline, after which the mount is killed. Deliberately
//! absent: tuning of a peer, a network, a cold page cache of the machine, assertions on times.

pub mod big;
pub mod machine;
pub mod names;
pub mod peers;
pub mod random;
pub mod report;
pub mod sequential;
pub mod sheet;
pub mod stack;
pub mod store;
pub mod tree;
pub mod work;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;

use self::report::Report;
use self::stack::Stack;

/// A part of the experiment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// One big file, written and read in order
    Sequential,
    /// 4 KiB in a big file, its mode and its name
    Big,
    /// Random writes, each synced
    Random,
    /// Small files made, renamed and removed
    Names,
    /// A directory of many files renamed
    Directory,
    /// `ls -l` of many entries
    Listing,
    /// What a virtual machine does to its disk, beside a local directory
    Machine,
}

/// Programs of this project; peers are found where `make tools` or the system put them.
#[derive(Clone, Debug)]
pub struct Programs {
    pub holdfast: PathBuf,
    pub mount: PathBuf,
}

/// How an experiment runs.
#[derive(Clone, Debug)]
pub struct Options {
    pub parts: Vec<Part>,
    pub rounds: usize,
    /// Bytes of a big file.
    pub big_bytes: u64,
    /// Bytes of the file that is written at random.
    pub random_bytes: u64,
    /// How long a rate is measured in each round.
    pub round_time: Duration,
    /// Files of the directory that is renamed.
    pub tree_files: usize,
    /// Entries of the directory that is listed.
    pub entries: usize,
    /// Bytes of the disk in the job of a machine.
    pub machine_bytes: u64,
    /// Its random writes of 4 KiB.
    pub machine_writes: u64,
    /// Steps of the machine that is booted.
    pub machine_steps: u32,
    pub programs: Programs,
    /// Where servers and mounts keep everything.
    pub directory: PathBuf,
}

/// Runs everything; what was measured before a failure is in `report`. Blocks.
///
/// # Errors
/// When a server does not start or ends. What a mount cannot do is a result, see [`Report::failures`].
pub fn run(options: &Options, report: &mut Report) -> Result<()> {
    let mut stack = Stack::start(options)?;
    report.run.versions = stack.versions();
    for part in &options.parts {
        eprintln!("{part:?}");
        let figures = match part {
            Part::Sequential => sequential::run(&mut stack, options)?,
            Part::Big => big::run(&mut stack, options)?,
            Part::Random => random::run(&mut stack, options)?,
            Part::Names => names::run(&mut stack, options)?,
            Part::Directory => tree::rename(&mut stack, options)?,
            Part::Listing => tree::list(&mut stack, options)?,
            Part::Machine => machine::run(&mut stack, options)?,
        };
        for figure in &figures {
            eprint!("{}", report::progress(figure));
        }
        report.figures.extend(figures);
    }
    report.run.end();
    Ok(())
}

/// Bytes that a run takes at most: big files, copies that a store keeps after they are deleted, and caches of mounts.
#[must_use]
pub fn bytes_max(options: &Options) -> u64 {
    const ROUND_FILES: u64 = 6;
    const FILES: u64 = 14;
    const REST_BYTES: u64 = 5 << 30;
    let rounds = options.rounds as u64;
    options.big_bytes * (ROUND_FILES * rounds + FILES) + options.machine_bytes * (rounds + 3) + REST_BYTES
}
