//! Where workloads run: a local directory, or one mount that all of them share.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, anyhow};
use holdfast_compat_tests::mounted::{Gateway, Mounted, Plan};
use holdfast_compat_tests::skip::{Skip, skip};
use tempfile::TempDir;

const DEFAULT: &str = "local,shared";

/// A place by name, which is made when the first case needs it.
#[derive(Clone)]
pub(super) struct Ground {
    name: &'static str,
    made: Arc<Mutex<Option<Result<Made, Refusal>>>>,
}

enum Made {
    Local(TempDir),
    Mount(Box<(Mounted, Gateway)>),
}

/// Why it could not be made, for every case that asks (an [`anyhow::Error`] cannot be cloned).
#[derive(Clone)]
enum Refusal {
    Skip(String),
    Failed(String),
}

/// Those that `HOLDFAST_MOUNT_GROUNDS` names.
pub(super) fn selected() -> Vec<Ground> {
    let wanted = std::env::var("HOLDFAST_MOUNT_GROUNDS").unwrap_or_else(|_| DEFAULT.to_owned());
    let all = ["local", "shared", "exclusive"];
    let named = all.into_iter().filter(|name| wanted.split(',').any(|word| word == *name));
    named.map(|name| Ground { name, made: Arc::default() }).collect()
}

impl fmt::Display for Ground {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name)
    }
}

impl Ground {
    /// Runs `action` in the directory.
    pub(super) fn run(&self, action: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let dir = {
            let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
            match made.get_or_insert_with(|| self.make()) {
                Ok(Made::Local(dir)) => dir.path().to_owned(),
                Ok(Made::Mount(both)) => both.0.path().to_owned(),
                Err(Refusal::Skip(reason)) => return Err(skip(reason.clone())),
                Err(Refusal::Failed(reason)) => return Err(anyhow!("no mount: {reason}")),
            }
        };
        action(&dir).with_context(|| self.log_tail())
    }

    fn make(&self) -> Result<Made, Refusal> {
        self.try_make().map_err(|error| match error.downcast_ref::<Skip>() {
            Some(skip) => Refusal::Skip(skip.to_string()),
            None => Refusal::Failed(format!("{error:#}")),
        })
    }

    fn try_make(&self) -> Result<Made> {
        if self.name == "local" {
            return Ok(Made::Local(tempfile::Builder::new().prefix("holdfast-local-").tempdir()?));
        }
        let gateway = Gateway::start(&[])?;
        let endpoint = gateway.endpoint();
        let mut plan = Plan::new(&endpoint.new_bucket("workloads")?).profile(self.name);
        // Databases run as users of their own.
        plan.args.push("--allow-other".into());
        Ok(Made::Mount(Box::new((Mounted::start(&endpoint, &plan)?, gateway))))
    }

    fn log_tail(&self) -> String {
        match &*self.made.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(Ok(Made::Mount(both))) => {
                format!("on the mount, which says:\n{}\nand the gateway:\n{}", both.0.log_tail(), both.1.log_tail())
            }
            _ => "on a local directory".to_owned(),
        }
    }
}
