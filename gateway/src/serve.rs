//! `holdfast serve` and `holdfast doctor`: settings become a running node, or findings about what it would stand on.

use serde_json::Value;

use crate::config::Config;

/// Why a node does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The parts are there, the whole is not.
    #[error("this build has no composed node")]
    NotComposed,
}

impl Error {
    /// Whether the user's settings are at fault: exit code 2.
    #[must_use]
    pub fn is_configuration(&self) -> bool {
        match self {
            Self::NotComposed => false,
        }
    }
}

/// What `doctor` found.
#[derive(Debug)]
pub struct Findings(Value);

impl Findings {
    /// Whether everything is as it must be.
    #[must_use]
    pub fn is_fit(&self) -> bool {
        self.0["fit"] == Value::Bool(true)
    }

    /// For the terminal and for machines.
    #[must_use]
    pub fn to_json(&self) -> Value {
        self.0.clone()
    }
}

/// Runs a node until it is told to stop.
///
/// # Errors
/// [`Error`] when it cannot start or must stop.
#[expect(clippy::unused_async, reason = "the composed node waits")]
pub async fn serve(_config: Config) -> Result<(), Error> {
    Err(Error::NotComposed)
}

/// Checks what a node would stand on.
///
/// # Errors
/// [`Error`] when the check itself cannot run.
#[expect(clippy::unused_async, reason = "the composed node waits")]
pub async fn doctor(_config: Config) -> Result<Findings, Error> {
    Err(Error::NotComposed)
}
