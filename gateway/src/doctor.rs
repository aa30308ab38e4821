//! Is a backend, or a data directory, fit to carry a node?
//!
//! [`check_backend`] does not trust what a store says about itself: it puts, reads, lists, races, replaces and deletes a few
//! small blobs under `metadata/.doctor/<random>/` and looks at what comes back. `serve` runs it at every start and refuses a
//! store that is not fit, so it is quick; `holdfast doctor` prints the same findings.
//!
//! A store that is merely full is fit: reads and deletes work, and refusing to start would take the way out away.
//!
//! Absent: speed (that is `bench`), and proof. A store that passes can still break its promises under load.

use std::fmt;
use std::time::Duration;

use serde::ser::{Serialize, SerializeStruct, Serializer};

mod backend;
mod data;

pub use backend::check_backend;
pub use data::{DataLock, LockError, check_data_directory, lock_data_directory};

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// It works, but somebody should know.
    Warn,
    /// Not fit.
    Fail,
}

/// What one check found.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// The name of the check: `read-after-write`.
    pub check: &'static str,
    /// How it went.
    pub verdict: Verdict,
    /// The finding in a sentence.
    pub text: String,
}

/// What all checks found.
#[derive(Clone, Debug)]
pub struct Report {
    /// What was checked.
    pub subject: String,
    /// In the order of the checks.
    pub findings: Vec<Finding>,
    /// How long it took.
    pub took: Duration,
}

impl Report {
    /// Whether no check failed.
    pub fn is_fit(&self) -> bool {
        self.findings.iter().all(|finding| finding.verdict != Verdict::Fail)
    }

    /// The findings that make it unfit.
    pub fn failures(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.verdict == Verdict::Fail)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.subject)?;
        for finding in &self.findings {
            let mark = match finding.verdict {
                Verdict::Ok => "ok  ",
                Verdict::Warn => "warn",
                Verdict::Fail => "FAIL",
            };
            writeln!(f, "  {mark} {:<18} {}", finding.check, finding.text)?;
        }
        let conclusion = if self.is_fit() { "fit" } else { "not fit" };
        write!(f, "{conclusion}, checked in {} ms", self.took.as_millis())
    }
}

impl Serialize for Report {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut report = serializer.serialize_struct("Report", 4)?;
        report.serialize_field("subject", &self.subject)?;
        report.serialize_field("fit", &self.is_fit())?;
        report.serialize_field("findings", &self.findings)?;
        report.serialize_field("took_ms", &u64::try_from(self.took.as_millis()).unwrap_or(u64::MAX))?;
        report.end()
    }
}

#[cfg(test)]
mod tests;
