//! Runs the cases of one test binary: a few at a time, each under a deadline, and reports them in the form of cargo's own
//! harness (`test NAME ... ok`, `test result: ok. N passed; ...`), so that whoever reads cargo's output can read this.
//!
//! Arguments: words that are not flags select the cases whose names contain one of them; `--list` only lists. Other
//! flags of cargo's harness are accepted and ignored.

#![allow(clippy::print_stdout, reason = "reporting to the terminal is what a test runner is for")]

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::process::{self, Holdfast, HoldfastOptions};
use crate::skip::{Skip, skips_fail};
use crate::target::{Endpoint, Target};

/// How long one case may run unless it says otherwise. A case that hangs must not eat the budget of the whole run.
const CASE_DEADLINE: Duration = Duration::from_secs(300);

type Run = Box<dyn FnOnce() -> anyhow::Result<()> + Send>;

struct Case {
    name: String,
    deadline: Duration,
    run: Run,
}

enum Verdict {
    Passed,
    Failed(String),
    Skipped(String),
}

/// The cases of a test binary.
pub struct Suite {
    cases: Vec<Case>,
    workers: usize,
}

impl Suite {
    /// An empty suite that runs `workers` cases at a time.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self { cases: Vec::new(), workers }
    }

    /// Adds a case.
    pub fn case(&mut self, name: impl Into<String>, run: impl FnOnce() -> anyhow::Result<()> + Send + 'static) {
        self.case_within(CASE_DEADLINE, name, run);
    }

    /// Adds a case with a server of its own on a local store, started with these further flags; its log is shown when the
    /// case fails. It gets the server, its endpoint, and the directory that both are in.
    pub fn case_with_server(
        &mut self,
        name: impl Into<String>,
        flags: &[&str],
        run: impl FnOnce(&mut Holdfast, &Endpoint, &Path) -> anyhow::Result<()> + Send + 'static,
    ) {
        let flags: Vec<String> = flags.iter().copied().map(str::to_owned).collect();
        self.case(name, move || {
            let dir = tempfile::tempdir()?;
            let mut options = HoldfastOptions::embedded(dir.path());
            options.args = flags;
            let mut server = Holdfast::start(options)?;
            let endpoint = Endpoint::of(Target::Embedded, server.address());
            let ran = run(&mut server, &endpoint, dir.path());
            ran.with_context(|| server.log_tail(20))
        });
    }

    /// Adds a case that may run for `deadline`.
    pub fn case_within(
        &mut self,
        deadline: Duration,
        name: impl Into<String>,
        run: impl FnOnce() -> anyhow::Result<()> + Send + 'static,
    ) {
        self.cases.push(Case { name: name.into(), deadline, run: Box::new(run) });
    }

    /// Runs the selected cases and reports. The exit code is a failure when a case failed, or was skipped in CI.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let words: Vec<String> = std::env::args().skip(1).collect();
        let filters: Vec<&String> = words.iter().filter(|word| !word.starts_with("--")).collect();
        let all = self.cases.len();
        let cases: VecDeque<Case> = self
            .cases
            .into_iter()
            .filter(|case| filters.is_empty() || filters.iter().any(|filter| case.name.contains(filter.as_str())))
            .collect();
        if words.iter().any(|word| word == "--list") {
            cases.iter().for_each(|case| println!("{}: test", case.name));
            return ExitCode::SUCCESS;
        }
        println!("\nrunning {} tests", cases.len());
        let filtered = all - cases.len();
        let began = Instant::now();
        let verdicts = run_all(cases, self.workers);
        process::kill_all();
        report(&verdicts, filtered, began.elapsed())
    }
}

struct Board {
    queue: Mutex<VecDeque<Case>>,
    verdicts: Mutex<Vec<(String, Verdict)>>,
    running: Mutex<Vec<(String, Instant)>>,
    idle: Condvar,
}

fn run_all(cases: VecDeque<Case>, workers: usize) -> Vec<(String, Verdict)> {
    let total = cases.len();
    let board = Arc::new(Board {
        queue: Mutex::new(cases),
        verdicts: Mutex::new(Vec::new()),
        running: Mutex::new(Vec::new()),
        idle: Condvar::new(),
    });
    for _ in 0..workers.clamp(1, total.max(1)) {
        let board = board.clone();
        std::thread::spawn(move || while run_next(&board) {});
    }
    let mut verdicts = lock(&board.verdicts);
    while verdicts.len() < total {
        let waited = board.idle.wait_timeout(verdicts, Duration::from_secs(1));
        verdicts = waited.unwrap_or_else(PoisonError::into_inner).0;
        if let Some((name, _)) = lock(&board.running).iter().find(|(_, ends)| Instant::now() > *ends) {
            // A thread cannot be stopped from outside; the servers can, and then the process ends as failed.
            println!("test {name} ... FAILED: past its deadline\ntest result: FAILED. 0 passed; 1 failed; 0 ignored");
            process::kill_all();
            std::process::abort();
        }
    }
    std::mem::take(&mut *verdicts)
}

fn run_next(board: &Board) -> bool {
    let Some(case) = lock(&board.queue).pop_front() else { return false };
    let began = Instant::now();
    lock(&board.running).push((case.name.clone(), began + case.deadline));
    let run = case.run;
    let verdict = match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(())) => Verdict::Passed,
        Ok(Err(error)) => match error.downcast_ref::<Skip>() {
            Some(skip) if skips_fail() => Verdict::Failed(format!("skipped, which is a failure in CI: {skip}")),
            Some(skip) => Verdict::Skipped(skip.to_string()),
            None => Verdict::Failed(chain(&error)),
        },
        Err(panic) => Verdict::Failed(panic_text(panic.as_ref())),
    };
    let outcome = match &verdict {
        Verdict::Passed => "ok".to_owned(),
        Verdict::Failed(_) => "FAILED".to_owned(),
        Verdict::Skipped(reason) => format!("ignored, SKIPPED: {reason}"),
    };
    println!("test {} ... {outcome} ({:.1} s)", case.name, began.elapsed().as_secs_f32());
    lock(&board.running).retain(|(name, _)| *name != case.name);
    lock(&board.verdicts).push((case.name, verdict));
    board.idle.notify_all();
    true
}

fn report(verdicts: &[(String, Verdict)], filtered: usize, took: Duration) -> ExitCode {
    let failures: Vec<_> = verdicts
        .iter()
        .filter_map(|(name, verdict)| match verdict {
            Verdict::Failed(why) => Some((name, why)),
            _ => None,
        })
        .collect();
    for (name, why) in &failures {
        println!("\n---- {name} ----\n{why}");
    }
    let passed = verdicts.iter().filter(|(_, verdict)| matches!(verdict, Verdict::Passed)).count();
    let skipped = verdicts.len() - passed - failures.len();
    let word = if failures.is_empty() { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {word}. {passed} passed; {} failed; {skipped} ignored; 0 measured; {filtered} filtered out; \
         finished in {:.2}s\n",
        failures.len(),
        took.as_secs_f32()
    );
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(101) }
}

/// The whole chain of causes, without the backtrace that `RUST_BACKTRACE` would add to each.
fn chain(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).collect::<Vec<_>>().join("\n  because: ")
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    format!("panicked: {}", text.unwrap_or("no message"))
}

/// A mutex that a panicking case may have poisoned; its content is only appended to and stays meaningful.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
