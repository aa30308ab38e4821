//! Statements over HTTP.

use anyhow::{Context, Result};

use super::raw::{Call, Lost, Raw, Reply};
use crate::answer::{self, Rows};

/// Sends a statement and asks for rows in a form.
///
/// # Errors
/// When there is no answer.
pub fn ask(raw: &mut Raw, statement: &str, accept: &str) -> Result<Reply, Lost> {
    let headers = [("accept", accept)];
    raw.send(&Call {
        method: "POST",
        bucket: "_holdfast",
        key: "v1/sql",
        headers: &headers,
        body: statement.as_bytes(),
        ..Call::default()
    })
}

/// The rows that a statement asks for.
///
/// # Errors
/// When it is refused, or fails.
pub fn rows(raw: &mut Raw, statement: &str) -> Result<Rows> {
    let reply = ask(raw, statement, "application/vnd.apache.arrow.stream")?.expect(200);
    answer::of_arrow(&reply.with_context(|| statement.to_owned())?.body)
}

/// Runs a statement that has no rows.
///
/// # Errors
/// When it is refused.
pub fn run(raw: &mut Raw, statement: &str) -> Result<()> {
    ask(raw, statement, "*/*")?.expect(200).with_context(|| statement.to_owned())?;
    Ok(())
}
