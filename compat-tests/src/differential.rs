//! The same requests to Holdfast and to the reference peer, and a table of every answer that differs.
//!
//! A case is a script of named steps; what a step answered is one line of text. A difference that the table does not list
//! fails; so does a listed one that is no longer there, or whose answers are not the listed ones: the table stays true.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

use crate::client::raw::{Call, Raw, Reply};
use crate::target::Endpoint;

/// A difference that is known, and why our answer is the right one by the specification.
#[derive(Debug)]
pub struct Difference {
    /// The step.
    pub step: &'static str,
    /// What Holdfast answers.
    pub ours: &'static str,
    /// What the peer answers.
    pub theirs: &'static str,
    /// What the specification says.
    pub reason: &'static str,
}

/// What each step answered, in order.
#[derive(Debug)]
pub struct Transcript {
    raw: Raw,
    answers: Vec<(String, String)>,
}

impl Transcript {
    /// Nothing asked yet.
    #[must_use]
    pub fn new(endpoint: &Endpoint) -> Self {
        Self { raw: endpoint.raw(), answers: Vec::new() }
    }

    /// The client, for what prepares a step and is not compared.
    pub fn raw(&mut self) -> &mut Raw {
        &mut self.raw
    }

    /// Sends a request and records status and error code of the answer.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn step(&mut self, name: &str, call: &Call<'_>) -> Result<Reply> {
        let reply = self.raw.send(call).with_context(|| name.to_owned())?;
        let code = reply.code();
        let answer = if code.is_empty() { reply.status.to_string() } else { format!("{} {code}", reply.status) };
        self.record(name, answer);
        Ok(reply)
    }

    /// The names of the steps that were taken.
    #[must_use]
    pub fn steps(&self) -> Vec<String> {
        self.answers.iter().map(|(step, _)| step.clone()).collect()
    }

    /// The transcript as text, one step a line.
    #[must_use]
    pub fn text(&self) -> String {
        self.answers.iter().map(|(step, answer)| format!("{step}: {answer}\n")).collect()
    }

    /// Records something that was seen.
    pub fn record(&mut self, name: &str, answer: impl Into<String>) {
        self.answers.push((name.to_owned(), answer.into()));
    }
}

/// Compares two transcripts of the same script.
///
/// # Errors
/// With every step that differs without being in `table`, and every line of `table` about these steps that is not true.
pub fn compare(ours: &Transcript, theirs: &Transcript, table: &[Difference]) -> Result<()> {
    let theirs: BTreeMap<&String, &String> = theirs.answers.iter().map(|(step, answer)| (step, answer)).collect();
    let mut wrong = Vec::new();
    for (step, our) in &ours.answers {
        let their = theirs.get(step).copied().map_or("not reached", String::as_str);
        let listed = table.iter().find(|difference| difference.step == step);
        match listed {
            None if our == their => {}
            None => wrong.push(format!("{step}: we answer {our:?}, the peer {their:?}, and no reason is listed")),
            Some(listed) if listed.ours == our && listed.theirs == their => {}
            Some(listed) => wrong.push(format!(
                "{step}: we answer {our:?}, the peer {their:?}; listed are {:?} and {:?}",
                listed.ours, listed.theirs
            )),
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}
