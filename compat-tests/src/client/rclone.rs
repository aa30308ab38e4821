//! rclone, as its backend `s3` with provider `Other`, configured by the environment alone.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use tempfile::TempDir;

use super::command;
use crate::skip;
use crate::target::{Endpoint, REGION};

/// rclone; the remote is named `s3`.
#[derive(Debug)]
pub struct Rclone {
    program: PathBuf,
    endpoint: Endpoint,
    home: TempDir,
}

impl Rclone {
    /// rclone for `endpoint`.
    ///
    /// # Errors
    /// A skip when it is not installed.
    pub fn new(endpoint: &Endpoint) -> Result<Self> {
        let program = skip::program(&["rclone"], "apt-get install rclone")?;
        Ok(Self { program, endpoint: endpoint.clone(), home: tempfile::tempdir()? })
    }

    /// Runs `rclone args...`; its standard output. One try each: a retry would hide a failure.
    ///
    /// # Errors
    /// When it fails.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        let mut command: Command = command::clean(&self.program, self.home.path());
        command
            .env("RCLONE_CONFIG_S3_TYPE", "s3")
            .env("RCLONE_CONFIG_S3_PROVIDER", "Other")
            .env("RCLONE_CONFIG_S3_ACCESS_KEY_ID", &self.endpoint.access_key)
            .env("RCLONE_CONFIG_S3_SECRET_ACCESS_KEY", &self.endpoint.secret_key)
            .env("RCLONE_CONFIG_S3_REGION", REGION)
            .env("RCLONE_CONFIG_S3_ENDPOINT", self.endpoint.url())
            .env("RCLONE_RETRIES", "1")
            .env("RCLONE_LOW_LEVEL_RETRIES", "1")
            .env("RCLONE_CONFIG", self.home.path().join("rclone.conf"))
            .args(args);
        command::succeed(command)
    }
}
