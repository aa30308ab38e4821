//! Small empty files made, renamed and removed, by one thread and by many, each in a directory of its own. What the mount
//! says is done is counted in the store; for a side that returns before, the count is waited for inside the clock.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::Options;
use super::peers::{Mount, S3FS, Side};
use super::report::{Figure, Goal, Unit};
use super::sheet::{Seat, Turn, Wanted, end_all, play, seats};
use super::stack::Stack;
use super::store::{Count, Store};
use crate::stats::rate;

/// Threads at once.
const THREADS: [usize; 2] = [1, 16];
const STEPS: [&str; 3] = ["create", "rename", "unlink"];
/// Files of a round at most, all threads together.
const FILES_MAX: usize = 8_000;
/// How names of renamed files begin.
const RENAMED: &str = "r";

pub(super) fn run(stack: &mut Stack, options: &Options) -> Result<Vec<Figure>> {
    let mut mounts: Vec<Seat<Mount>> = seats(Side::CLIENTS.len());
    let mut wanted = Vec::new();
    for threads in THREADS {
        for step in STEPS {
            let goal = Goal::Times { side: Side::Mount.name(), others: S3FS, times: 10.0 };
            let plural = if threads == 1 { "" } else { "s" };
            let what = format!("{step} of small files, {threads} thread{plural}");
            wanted.push(Wanted::new(what, Unit::PerS).goal(goal));
        }
    }
    let sides = Side::CLIENTS.map(Side::name).to_vec();
    let mut figures = play(stack, (wanted, sides, options.rounds), |stack, turn| {
        let side = Side::CLIENTS[turn.at];
        let mount = mounts[turn.at].take(|| stack.mount(side))?;
        for (which, threads) in THREADS.into_iter().enumerate() {
            let directory = format!("names-{}-{threads}", turn.round);
            let mut crowd = Crowd::gather(mount, stack.store(side), &directory, threads, options.round_time)?;
            measure(stack, turn, which * STEPS.len(), &mut crowd)?;
        }
        Ok(())
    })?;
    let mounts = mounts.into_iter().filter_map(Seat::leave);
    end_all(&mut figures, mounts.map(|mount| (mount.side().name(), mount)));
    Ok(figures)
}

/// The three steps of a crowd, whose figures begin with `first`.
fn measure(stack: &Stack, turn: &mut Turn<'_>, first: usize, crowd: &mut Crowd<'_>) -> Result<()> {
    stack.sync()?;
    turn.measure(first, || crowd.create());
    stack.sync()?;
    turn.measure(first + 1, || crowd.rename());
    stack.sync()?;
    turn.measure(first + 2, || crowd.unlink());
    Ok(())
}

/// Threads with a directory each.
struct Crowd<'a> {
    mount: &'a Mount,
    store: Store,
    prefix: String,
    directories: Vec<PathBuf>,
    time: Duration,
    /// Files that each thread has made, and the first so many of them that have their second name.
    made: Vec<usize>,
    renamed: Vec<usize>,
}

impl<'a> Crowd<'a> {
    fn gather(mount: &'a Mount, store: Store, directory: &str, threads: usize, time: Duration) -> Result<Self> {
        let root = mount.path().join(directory);
        let directories: Vec<PathBuf> = (0..threads).map(|thread| root.join(format!("thread-{thread}"))).collect();
        mount.within("mkdir", || directories.iter().try_for_each(|one| Ok(fs::create_dir_all(one)?)))?;
        let (made, renamed) = (vec![0; threads], vec![0; threads]);
        Ok(Self { mount, store, prefix: format!("{directory}/"), directories, time, made, renamed })
    }

    /// Files a second.
    fn create(&mut self) -> Result<f64> {
        let most = vec![FILES_MAX / self.directories.len(); self.directories.len()];
        let work = |directory: &Path, _: usize, number: usize| {
            File::create_new(directory.join(first_name(number))).map(drop).context("create")
        };
        let (rate, made) = self.all("create", &most, |files| Count { files, named: None }, work)?;
        self.made = made;
        Ok(rate)
    }

    /// Files a second.
    fn rename(&mut self) -> Result<f64> {
        let made: usize = self.made.iter().sum();
        ensure!(made > 0, "no file was made");
        let work = |directory: &Path, _: usize, number: usize| {
            fs::rename(directory.join(first_name(number)), directory.join(second_name(number))).context("rename")
        };
        let count = |renamed: usize| Count { files: made, named: Some((RENAMED, renamed)) };
        let (rate, renamed) = self.all("rename", &self.made, count, work)?;
        self.renamed = renamed;
        Ok(rate)
    }

    /// Files a second.
    fn unlink(&mut self) -> Result<f64> {
        let made: usize = self.made.iter().sum();
        ensure!(made > 0, "no file was made");
        let work = |directory: &Path, thread: usize, number: usize| {
            let (first, second) = (directory.join(first_name(number)), directory.join(second_name(number)));
            if number < self.renamed[thread] {
                return fs::remove_file(second).context("unlink");
            }
            match fs::remove_file(first) {
                // A renaming that failed has still done some.
                Err(error) if error.kind() == ErrorKind::NotFound => fs::remove_file(second).context("unlink"),
                done => done.context("unlink"),
            }
        };
        let count = |removed: usize| Count { files: made - removed, named: None };
        Ok(self.all("unlink", &self.made, count, work)?.0)
    }

    /// Lets every thread do `work` for its files until the time is up; how many a second, and how many each thread did.
    /// `expected` says what the store must have after so many.
    fn all(
        &self,
        what: &str,
        most: &[usize],
        expected: impl Fn(usize) -> Count + Sync,
        work: impl Fn(&Path, usize, usize) -> Result<()> + Sync,
    ) -> Result<(f64, Vec<usize>)> {
        let early = self.mount.side().returns_early();
        let (done, took) = self.mount.within(what, || {
            let began = Instant::now();
            let one = |thread: usize| -> Result<usize> {
                let mut number = 0;
                while number < most[thread] && began.elapsed() < self.time {
                    work(&self.directories[thread], thread, number)?;
                    number += 1;
                }
                Ok(number)
            };
            let done = at_once(most.len(), one)?;
            if early {
                self.store.await_count(&self.prefix, expected(done.iter().sum()))?;
            }
            Ok((done, began.elapsed()))
        })?;
        let total: usize = done.iter().sum();
        if !early {
            let count = expected(total);
            let right = self.store.counts(&self.prefix, count)?;
            ensure!(right, "the calls returned, and the store does not have {count:?}");
        }
        Ok((rate(total as u64, took), done))
    }
}

/// Runs `one` in so many threads.
fn at_once(threads: usize, one: impl Fn(usize) -> Result<usize> + Sync) -> Result<Vec<usize>> {
    let one = &one;
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|thread| scope.spawn(move || one(thread))).collect();
        workers.into_iter().map(|worker| worker.join().expect("a thread does not panic")).collect()
    })
}

fn first_name(number: usize) -> String {
    format!("f{number:06}")
}

fn second_name(number: usize) -> String {
    format!("{RENAMED}{number:06}")
}
