//! `kill -9` in a loop under mixed load: nothing acknowledged is lost, nothing is torn, listings equal what was promised.
//!
//! `HOLDFAST_KILL_CYCLES` sets the number of kills (100), `HOLDFAST_SEED` repeats a run's load and moments.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use holdfast_compat_tests::crash::{self, Plan};
use holdfast_compat_tests::process::{Holdfast, HoldfastOptions};
use holdfast_compat_tests::suite::Suite;
use holdfast_compat_tests::target::{Endpoint, Fleet, Target, in_front_of};

const CYCLES: u32 = 100;
/// Of the kills, this share runs in front of MinIO, where each start and write is slower.
const OVER_MINIO_SHARE: u32 = 5;
/// A cycle that takes longer than this is a hang, not load.
const CYCLE_MAX: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    let cycles = crash::from_environment("HOLDFAST_KILL_CYCLES", CYCLES);
    let seed = u64::from(crash::from_environment("HOLDFAST_SEED", rand::random::<u16>().into()));
    let over_minio = (cycles / OVER_MINIO_SHARE).max(1);
    let mut suite = Suite::new(1);
    let name = |what: &str, cycles: u32| {
        format!("nothing_acknowledged_is_lost_to_kills [{what}, {cycles} kills, seed {seed}]")
    };
    let targets = Target::selected(&Target::HOLDFAST);
    if targets.contains(&Target::Embedded) {
        let embedded = cycles - over_minio;
        suite.case_within(CYCLE_MAX * (embedded + 6), name("embedded", embedded), move || {
            kill(HoldfastOptions::embedded, plan(embedded, seed))
        });
    }
    if targets.contains(&Target::OverMinio) {
        suite.case_within(CYCLE_MAX * (over_minio + 6), name("over-minio", over_minio), move || {
            let fleet = Fleet::new()?;
            let minio: Endpoint = fleet.endpoint(Target::Minio)?;
            let plan = plan(over_minio, seed);
            let options = |dir: &std::path::Path| {
                let mut options = HoldfastOptions::embedded(dir);
                // The bucket is new, so creating it cannot fail for a reason of its own; a failure shows at the start.
                let _ = in_front_of(&minio, &mut options);
                options
            };
            kill(options, plan)
        });
    }
    suite.run()
}

fn plan(cycles: u32, seed: u64) -> Plan {
    Plan { cycles, seed, load_ms_max: 1200, large: true }
}

fn kill(options: impl FnOnce(&std::path::Path) -> HoldfastOptions, plan: Plan) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut server = Holdfast::start(options(dir.path()))?;
    let tally = crash::run(&mut server, plan, |server, _| {
        server.kill();
        server.restart().context("restart after a kill")
    })?;
    crash::tell(&tally);
    Ok(())
}
