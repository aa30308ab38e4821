//! Another process, which does what it is told: locks, maps, reads and writes that must be seen, or kept out, across
//! processes. Python, because ranges of locks and maps are unsafe in Rust, and nothing here may be.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::process::register;
use crate::skip::program;

/// How long an answer may take unless the caller says otherwise.
pub const SOON: Duration = Duration::from_secs(30);

/// The process. Dropping it kills it.
#[derive(Debug)]
pub struct Peer {
    child: Child,
    input: ChildStdin,
    answers: Receiver<String>,
}

impl Peer {
    /// Starts one.
    ///
    /// # Errors
    /// A skip without Python; otherwise when it cannot be started.
    pub fn start() -> Result<Self> {
        let python = program(&["python3"], "apt-get install python3")?;
        let mut command = Command::new(python);
        command.args(["-u", "-c", include_str!("peer.py")]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("cannot start python3")?;
        register().insert(child.id());
        let input = child.stdin.take().context("no stdin")?;
        let output = BufReader::new(child.stdout.take().context("no stdout")?);
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, input, answers })
    }

    /// Tells it `words`, a list that begins with a verb, without waiting for the answer.
    ///
    /// # Errors
    /// When it has ended.
    pub fn tell(&mut self, words: &Value) -> Result<()> {
        let line = format!("{words}\n");
        self.input.write_all(line.as_bytes()).context("the peer has ended")
    }

    /// The answer to what was told first: the value, or the name of the error.
    ///
    /// # Errors
    /// When it does not come within `deadline`.
    pub fn answer(&mut self, deadline: Duration) -> Result<Result<Value, String>> {
        let line = self.answers.recv_timeout(deadline).map_err(|error| match error {
            RecvTimeoutError::Timeout => anyhow::anyhow!("the peer did not answer within {deadline:?}"),
            RecvTimeoutError::Disconnected => anyhow::anyhow!("the peer ended"),
        })?;
        let answer: Value = serde_json::from_str(&line).with_context(|| line.clone())?;
        if let Some(name) = answer["errno"].as_str() {
            return Ok(Err(name.to_owned()));
        }
        Ok(Ok(answer["ok"].clone()))
    }

    /// Tells it `words`, which must work; the value.
    ///
    /// # Errors
    /// When they fail.
    pub fn ask(&mut self, words: &Value) -> Result<Value> {
        self.tell(words)?;
        match self.answer(SOON)? {
            Ok(value) => Ok(value),
            Err(name) => bail!("{words}: {name}"),
        }
    }

    /// Tells it `words`, which must fail with one of `names`.
    ///
    /// # Errors
    /// When they work, or fail in another way.
    pub fn refuse(&mut self, words: &Value, names: &[&str]) -> Result<()> {
        self.tell(words)?;
        match self.answer(SOON)? {
            Ok(value) => bail!("{words}: {value} instead of {names:?}"),
            Err(name) => {
                ensure!(names.contains(&name.as_str()), "{words}: {name} instead of {names:?}");
                Ok(())
            }
        }
    }

    /// Whether no answer has come yet. It waits `moment` for one, since what must not happen has no end to wait for.
    #[must_use]
    pub fn is_silent(&mut self, moment: Duration) -> bool {
        matches!(self.answers.recv_timeout(moment), Err(RecvTimeoutError::Timeout))
    }

    /// Opens `path` for reading and writing as `handle`, and makes it where it is not there.
    ///
    /// # Errors
    /// When that fails.
    pub fn open(&mut self, handle: &str, path: &Path) -> Result<()> {
        self.ask(&json!(["open", handle, path])).map(|_| ())
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it at once (SIGKILL).
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        register().remove(&self.child.id());
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.kill();
    }
}
