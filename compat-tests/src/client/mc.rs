//! mc, MinIO's client.

use std::path::PathBuf;

use anyhow::Result;
use tempfile::TempDir;

use super::command;
use crate::skip;
use crate::target::Endpoint;

/// mc; the alias of the endpoint is `t`.
#[derive(Debug)]
pub struct Mc {
    program: PathBuf,
    endpoint: Endpoint,
    home: TempDir,
}

impl Mc {
    /// mc for `endpoint`.
    ///
    /// # Errors
    /// A skip when it is not installed.
    pub fn new(endpoint: &Endpoint) -> Result<Self> {
        let program = skip::program(&["mc"], "make tools")?;
        Ok(Self { program, endpoint: endpoint.clone(), home: tempfile::tempdir()? })
    }

    /// Runs `mc args...`; its standard output.
    ///
    /// # Errors
    /// When it fails.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        command::succeed(self.command(args))
    }

    /// Runs `mc args...`, which must fail and say `word`.
    ///
    /// # Errors
    /// When it does not.
    pub fn refuse(&self, args: &[&str], word: &str) -> Result<()> {
        command::fail_with(self.command(args), word)
    }

    /// `mc args...`, not started.
    #[must_use]
    pub fn command(&self, args: &[&str]) -> std::process::Command {
        let host =
            format!("http://{}:{}@{}", self.endpoint.access_key, self.endpoint.secret_key, self.endpoint.address);
        let mut command = command::clean(&self.program, self.home.path());
        command
            .env("MC_HOST_t", host)
            .arg("--config-dir")
            .arg(self.home.path().join("mc"))
            .args(["--no-color"])
            .args(args);
        command
    }
}
