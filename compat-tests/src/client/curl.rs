//! curl, for what a browser or a script sends: presigned URLs, preflights, forms.

use std::path::Path;

use anyhow::{Context, Result};

use super::command;
use super::raw::{self, Reply};
use crate::skip;

/// Runs `curl args...`; the reply, headers included.
///
/// # Errors
/// A skip when it is not installed; otherwise when curl fails or prints no reply.
pub fn run(args: &[&str]) -> Result<Reply> {
    let program = skip::program(&["curl"], "apt-get install curl")?;
    let mut curl = command::clean(&program, Path::new("/"));
    curl.args(["--silent", "--show-error", "--include", "--raw", "--max-time", "60"]).args(args);
    let output = command::finish(curl, b"")?;
    let head_only = args.iter().any(|arg| *arg == "--head" || *arg == "-I");
    let method = if head_only { "HEAD" } else { "GET" };
    let read = raw::read_reply(&mut output.stdout.as_slice(), method);
    let (reply, _) = read.with_context(|| format!("curl {} printed no reply: {}", args.join(" "), output.stderr))?;
    Ok(reply)
}
