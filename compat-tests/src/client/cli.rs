//! The command line of Holdfast itself.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::process::{SETTINGS, forget, holdfast_program};
use crate::target::Endpoint;

/// `holdfast` with what it needs to reach `endpoint`, and nothing of the caller's settings.
///
/// # Errors
/// When it is not built.
pub fn command(endpoint: &Endpoint) -> Result<Command> {
    let mut command = Command::new(holdfast_program()?);
    forget(&mut command, &SETTINGS);
    command
        .env("HOLDFAST_ENDPOINT", endpoint.url())
        .env("AWS_ACCESS_KEY_ID", &endpoint.access_key)
        .env("AWS_SECRET_ACCESS_KEY", &endpoint.secret_key)
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .stdin(Stdio::null());
    Ok(command)
}

/// An event as `holdfast watch --json` prints it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Event {
    /// Revision of its commit.
    pub revision: u64,
    /// Its number in the commit.
    pub n: u64,
    /// What happened.
    pub name: String,
    /// Bucket, or nothing.
    pub bucket: String,
    /// Key, or nothing.
    pub key: String,
}

impl Event {
    /// Its position.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}.{}", self.revision, self.n)
    }
}

/// A running `holdfast watch`. Dropping it kills it.
#[derive(Debug)]
pub struct Watch {
    child: Child,
    output: PathBuf,
}

impl Watch {
    /// Watches `what` (all when it is empty), after a position, and appends to a file.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(endpoint: &Endpoint, what: &str, from: Option<&str>, output: &Path) -> Result<Self> {
        let log = File::options().create(true).append(true).open(output).context("cannot open the output")?;
        let mut command = command(endpoint)?;
        command.args(["watch", "--json"]);
        if !what.is_empty() {
            command.arg(what);
        }
        if let Some(from) = from {
            command.args(["--from", from]);
        }
        let child = command.stdout(log).stderr(Stdio::inherit()).spawn().context("cannot run holdfast watch")?;
        Ok(Self { child, output: output.to_owned() })
    }

    /// What it printed so far. A line that is still being written does not count.
    ///
    /// # Errors
    /// When a line is no event.
    pub fn events(&self) -> Result<Vec<Event>> {
        events_in(&self.output)
    }
}

/// The events in a file that watches wrote.
///
/// # Errors
/// When a line is no event.
pub fn events_in(output: &Path) -> Result<Vec<Event>> {
    let text = std::fs::read_to_string(output)?;
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole
        .lines()
        .map(|line| {
            let event: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
            let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
            Ok(Event {
                revision: event["revision"].as_u64().context("no revision")?,
                n: event["n"].as_u64().context("no number")?,
                name: text("event"),
                bucket: text("bucket"),
                key: text("key"),
            })
        })
        .collect()
}

impl Drop for Watch {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
