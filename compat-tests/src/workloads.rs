//! What programs do to a file system, as functions of a directory: real programs with checks of their own, and checks written
//! from POSIX.
//!
//! Each workload makes a directory of its own name below the one it is given, works there, checks, and reports figures. They
//! pass on any local file system of Linux, which is how they are known to be right before a mount is blamed:
//!
//! ```text
//! ALL: fsx · sqlite · postgres · git · tar · make · dbench · fio · names · many_entries      (directory, effort)
//! posix::CHECKS: one function for each rule                                                  (directory)
//! peer: another process, which locks, maps and counts; on the same directory or another mount of it
//! ```
//!
//! Effort 1 is seconds; a workload takes about so many times longer with more. Deliberately absent: conformance suites of
//! others, and sleeping.

pub mod databases;
pub mod fsx;
pub mod load;
pub mod names;
pub mod peer;
pub mod posix;
pub mod sources;

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::client::command;
use crate::skip::program;

/// A workload: the directory, and how much of it.
pub type Run = fn(&Path, u32) -> Result<Report>;

/// Every workload, by name.
pub const ALL: &[(&str, Run)] = &[
    ("fsx", fsx::run),
    ("sqlite", databases::sqlite),
    ("sqlite_kills", databases::sqlite_kills),
    ("postgres", databases::postgres),
    ("git", sources::git),
    ("tar", sources::tar),
    ("make", sources::make),
    ("dbench", load::dbench),
    ("fio", load::fio),
    ("many_entries", load::many_entries),
    ("names", names::run),
];

/// What a workload measured.
#[derive(Clone, Debug)]
pub struct Report {
    /// The workload.
    pub name: &'static str,
    /// From its first call to its last check.
    pub took: Duration,
    /// Figures, each with its unit.
    pub figures: Vec<(String, f64)>,
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {:.1} s", self.name, self.took.as_secs_f32())?;
        for (what, figure) in &self.figures {
            write!(formatter, ", {what} {figure:.2}")?;
        }
        Ok(())
    }
}

/// A workload under way: its directory, its clock and what it measured so far.
#[derive(Debug)]
pub(crate) struct Ground {
    dir: PathBuf,
    began: Instant,
    report: Report,
}

impl Ground {
    /// A new directory `name` below `dir`.
    pub(crate) fn new(dir: &Path, name: &'static str) -> Result<Self> {
        let dir = dir.join(name);
        std::fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let report = Report { name, took: Duration::ZERO, figures: Vec::new() };
        Ok(Self { dir, began: Instant::now(), report })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub(crate) fn figure(&mut self, what: impl Into<String>, figure: f64) {
        self.report.figures.push((what.into(), figure));
    }

    /// Runs `step` and reports its seconds as a figure.
    pub(crate) fn timed<T>(&mut self, what: &str, step: impl FnOnce() -> Result<T>) -> Result<T> {
        let began = Instant::now();
        let value = step().with_context(|| what.to_owned())?;
        self.figure(format!("{what} s"), began.elapsed().as_secs_f64());
        Ok(value)
    }

    pub(crate) fn finish(mut self) -> Report {
        self.report.took = self.began.elapsed();
        self.report
    }
}

/// The installed program `name` in the directory `dir`, without the user's settings.
pub(crate) fn tool(name: &str, how_to_get: &str, dir: &Path) -> Result<Command> {
    let mut command = command::clean(&program(&[name], how_to_get)?, dir);
    command.current_dir(dir);
    Ok(command)
}
