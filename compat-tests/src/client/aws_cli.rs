//! aws-cli.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use tempfile::TempDir;

use super::command;
use crate::skip;
use crate::target::{Endpoint, REGION};

/// aws-cli with a configuration of its own.
#[derive(Debug)]
pub struct AwsCli {
    program: PathBuf,
    endpoint: Endpoint,
    home: TempDir,
}

impl AwsCli {
    /// aws-cli for `endpoint`. Debian's package (version 2) goes before another one in `PATH`.
    ///
    /// # Errors
    /// A skip when it is not installed.
    pub fn new(endpoint: &Endpoint) -> Result<Self> {
        let program = skip::program(&["/usr/bin/aws", "aws"], "apt-get install awscli")?;
        Ok(Self { program, endpoint: endpoint.clone(), home: tempfile::tempdir()? })
    }

    /// `aws --endpoint-url URL args...`, not run yet.
    #[must_use]
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = command::clean(&self.program, self.home.path());
        command
            .env("AWS_ACCESS_KEY_ID", &self.endpoint.access_key)
            .env("AWS_SECRET_ACCESS_KEY", &self.endpoint.secret_key)
            .env("AWS_DEFAULT_REGION", REGION)
            .env("AWS_MAX_ATTEMPTS", "1")
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("AWS_PAGER", "")
            .args(["--endpoint-url", &self.endpoint.url(), "--output", "json"])
            .args(args);
        command
    }

    /// Runs `aws args...`; its standard output.
    ///
    /// # Errors
    /// When it fails.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        command::succeed(self.command(args))
    }

    /// Runs `aws args...`, which must fail and say `word`.
    ///
    /// # Errors
    /// When it does not.
    pub fn refuse(&self, args: &[&str], word: &str) -> Result<()> {
        command::fail_with(self.command(args), word)
    }
}
