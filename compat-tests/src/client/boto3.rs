//! boto3, in a virtual environment of a pinned version.
//!
//! A case is a Python script under `compat-tests/boto3/`. `prelude.py` stands before it: `s3` is the client, `bucket` a
//! fresh bucket, `fails(code, call)` demands an error.

use std::path::PathBuf;

use anyhow::Result;
use tempfile::TempDir;

use super::command;
use crate::skip::{skip, tools_dir};
use crate::target::{Endpoint, REGION};

/// The version that `make tools` installs (the same number stands in `tools.sh`).
pub const BOTO3_VERSION: &str = "1.44.8";

const PRELUDE: &str = include_str!("../../boto3/prelude.py");

/// Runs a script against `endpoint` with `arguments` in `sys.argv[1:]`; what it printed.
///
/// # Errors
/// A skip when boto3 is not installed; otherwise when the script fails.
pub fn run(endpoint: &Endpoint, script: &str, arguments: &[&str]) -> Result<String> {
    let dir: TempDir = tempfile::tempdir()?;
    let file = dir.path().join("case.py");
    std::fs::write(&file, format!("{PRELUDE}\n{script}"))?;
    let mut command = command::clean(&interpreter()?, dir.path());
    command
        .env("AWS_ACCESS_KEY_ID", &endpoint.access_key)
        .env("AWS_SECRET_ACCESS_KEY", &endpoint.secret_key)
        .env("AWS_DEFAULT_REGION", REGION)
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("ENDPOINT", endpoint.url())
        .env("TARGET", endpoint.target.to_string())
        .env("BUCKET", endpoint.bucket_name("boto3"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .arg(&file)
        .args(arguments);
    command::succeed(command)
}

fn interpreter() -> Result<PathBuf> {
    let python = tools_dir().join(format!("boto3-{BOTO3_VERSION}/bin/python"));
    if python.exists() { Ok(python) } else { Err(skip(format!("boto3 {BOTO3_VERSION} not found: make tools"))) }
}
