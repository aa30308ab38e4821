//! What to do when an outside program is missing.
//!
//! On a user's machine a case that needs it is skipped, by name and counted. With `CI=true` the same is a failure: a check
//! that silently stops running is worse than none.

use std::fmt;
use std::path::{Path, PathBuf};

/// A case cannot run here. Returned as the error of a case; the suite counts it apart from failures.
#[derive(Debug)]
pub struct Skip(String);

impl fmt::Display for Skip {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

/// The error that skips a case for `reason`.
pub fn skip(reason: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(Skip(reason.into()))
}

/// Whether a skip counts as a failure here.
#[must_use]
pub fn skips_fail() -> bool {
    std::env::var("CI").is_ok_and(|value| value == "true")
}

/// Where tools that `make tools` installs live: `HOLDFAST_TOOLS`, else `~/.cache/holdfast`.
#[must_use]
pub fn tools_dir() -> PathBuf {
    std::env::var_os("HOLDFAST_TOOLS").map(PathBuf::from).unwrap_or_else(|| {
        let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
        home.join(".cache/holdfast")
    })
}

/// The first of `candidates` that exists: absolute paths are taken as they are, names are looked up in the tools directory
/// and then in `PATH`.
///
/// # Errors
/// A [`Skip`] that says how to get the program.
pub fn program(candidates: &[&str], how_to_get: &str) -> anyhow::Result<PathBuf> {
    candidates
        .iter()
        .find_map(|name| locate(name))
        .ok_or_else(|| skip(format!("{} not found: {how_to_get}", candidates.join(" or "))))
}

fn locate(name: &str) -> Option<PathBuf> {
    if Path::new(name).is_absolute() {
        return Some(PathBuf::from(name)).filter(|path| path.is_file());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::iter::once(tools_dir().join("bin")).chain(std::env::split_paths(&path));
    dirs.map(|dir| dir.join(name)).find(|path| path.is_file())
}
