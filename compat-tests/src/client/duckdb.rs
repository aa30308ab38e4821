//! DuckDB, the peer of SQL, and the generator of TPC-H's tables, in a virtual environment of pinned versions.
//!
//! One [`DuckDb`] is one process (`compat-tests/duckdb/ask.py`) that answers a statement at a time, so that its memory,
//! its caches and its processor time are its own.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::command;
use crate::answer::{self, Rows};
use crate::process::register;
use crate::skip::{skip, tools_dir};

/// The version that `make tools` installs (the same number stands in `tools.sh`).
pub const VERSION: &str = "1.5.5";
/// The version of tpchgen-cli that `make tools` installs (the same number stands in `tools.sh`).
pub const TPCHGEN_VERSION: &str = "4.0.0";
/// How long one statement may run.
const STATEMENT_DEADLINE: Duration = Duration::from_secs(600);

const PROGRAM: &str = include_str!("../../duckdb/ask.py");

/// A program of the environment.
///
/// # Errors
/// A skip when it is not installed.
pub fn program(name: &str) -> Result<PathBuf> {
    let venv = tools_dir().join(format!("duckdb-{VERSION}-tpchgen-{TPCHGEN_VERSION}"));
    if venv.join("complete").exists() {
        Ok(venv.join("bin").join(name))
    } else {
        Err(skip(format!("DuckDB {VERSION} with tpchgen-cli {TPCHGEN_VERSION} not found: make tools")))
    }
}

/// What a statement came to.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its rows.
    pub rows: Rows,
    /// From the statement to the last row, as the process measures it.
    pub took: Duration,
}

/// A running DuckDB with a database in memory. Dropping it kills it.
#[derive(Debug)]
pub struct DuckDb {
    running: Running,
    dir: PathBuf,
    threads: usize,
    /// Statements that set something for all that follow.
    settings: Vec<String>,
}

#[derive(Debug)]
struct Running {
    child: Child,
    input: ChildStdin,
    answers: Receiver<String>,
}

impl DuckDb {
    /// Starts one; `dir` is its home.
    ///
    /// # Errors
    /// A skip when it is not installed; otherwise when it cannot be started.
    pub fn start(dir: &Path, threads: usize) -> Result<Self> {
        let running = Running::start(dir, threads)?;
        Ok(Self { running, dir: dir.to_owned(), threads, settings: Vec::new() })
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.running.child.id()
    }

    /// Runs a statement. DuckDB 1.5.5 crashes now and then (a general protection fault); then another one is asked, once.
    ///
    /// # Errors
    /// When it fails, or takes more than ten minutes.
    pub fn ask(&mut self, statement: &str) -> Result<Answer> {
        let answer = match self.running.ask(statement)? {
            Some(answer) => answer,
            None => {
                eprintln!("DuckDB crashed and is started again: {statement}");
                self.running = Running::start(&self.dir, self.threads)?;
                for setting in &self.settings {
                    self.running.ask(setting)?.context("DuckDB crashed again")?;
                }
                self.running.ask(statement)?.context("DuckDB crashed twice")?
            }
        };
        if ["SET ", "CREATE SECRET "].iter().any(|sets| statement.starts_with(sets)) {
            self.settings.push(statement.to_owned());
        }
        Ok(answer)
    }
}

impl Running {
    fn start(dir: &Path, threads: usize) -> Result<Self> {
        let mut command: Command = command::clean(&program("python")?, dir);
        command.env("DUCKDB_THREADS", threads.to_string()).env("PYTHONDONTWRITEBYTECODE", "1").args(["-c", PROGRAM]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("cannot start DuckDB")?;
        register().insert(child.id());
        let input = child.stdin.take().context("no stdin")?;
        let output = BufReader::new(child.stdout.take().context("no stdout")?);
        // One answer for each statement, so there is never a second one; the thread ends with the process.
        let (sender, answers) = sync_channel(1);
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, input, answers })
    }

    /// `None` when the process has ended.
    fn ask(&mut self, statement: &str) -> Result<Option<Answer>> {
        let mut line = json!({ "sql": statement }).to_string();
        line.push('\n');
        if self.input.write_all(line.as_bytes()).is_err() {
            return Ok(None);
        }
        let answer = match self.answers.recv_timeout(STATEMENT_DEADLINE) {
            Err(RecvTimeoutError::Disconnected) => return Ok(None),
            answer => answer.context("DuckDB gives no answer")?,
        };
        let answer: Value = serde_json::from_str(&answer)?;
        if let Some(error) = answer["error"].as_str() {
            bail!("DuckDB: {error}\n{statement}");
        }
        let took = Duration::from_secs_f64(answer["seconds"].as_f64().context("no time")?);
        Ok(Some(Answer { rows: answer::of_duckdb(&answer["rows"])?, took }))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        register().remove(&self.child.id());
    }
}
