//! What a run was made on and with: what the reports of all experiments begin with.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::system::{self, Disk, Machine};

/// Part of each report, whose fields are beside its own in the JSON.
#[derive(Debug, Serialize)]
pub struct Run {
    /// Version of the JSON.
    pub format: u32,
    pub name: String,
    pub machine: Machine,
    pub load_after: f64,
    pub disk: Disk,
    /// Of the programs that took part.
    pub versions: BTreeMap<&'static str, String>,
}

impl Run {
    /// A run that begins.
    #[must_use]
    pub fn new(format: u32, name: &str, machine: Machine, disk: Disk) -> Self {
        Self { format, name: name.to_owned(), machine, load_after: 0.0, disk, versions: BTreeMap::new() }
    }

    /// It is over.
    pub fn end(&mut self) {
        self.load_after = system::load_average();
    }

    /// In words: two lines, the second not ended.
    #[must_use]
    pub fn circumstances(&self) -> String {
        let (machine, versions) = (&self.machine, self.versions.values());
        format!(
            "{} cores ({}), {} MiB, Linux {}, {}; {:.0} fdatasync of 4 KiB a second; load average {:.1} before, {:.1} after.\n{}.",
            machine.cores,
            machine.cpu,
            machine.memory_mib,
            machine.kernel,
            machine.filesystem,
            self.disk.fdatasync_per_s,
            machine.load_before,
            self.load_after,
            versions.map(String::as_str).collect::<Vec<_>>().join("; ")
        )
    }
}
