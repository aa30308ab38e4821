//! The mount, used by real programs: workloads, POSIX checks, two mounts of one bucket, other clients of it, and a virtual
//! machine whose disk is a file of it, killed at every place.
//!
//! The same workloads run on a local directory first ("local"): what fails there is wrong in the test, or on this machine.
//!
//! | variable | what it sets | default |
//! | --- | --- | --- |
//! | `HOLDFAST_MOUNT_EFFORT` | how long each workload is | 1 |
//! | `HOLDFAST_MOUNT_ROUNDS` | rounds of the tests of coherence and of kills | 1 |
//! | `HOLDFAST_MOUNT_GROUNDS` | where workloads run: `local`, `shared`, `exclusive` | `local,shared` |
//! | `HOLDFAST_MOUNT_BIN` | the mount | the one of this tree |
//! | `HOLDFAST_SEED` | moments of kills | random, shown |

mod coherence;
mod ground;
mod interop;
mod life;
mod machine;

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::time::Duration;

use holdfast_compat_tests::crash::from_environment;
use holdfast_compat_tests::suite::Suite;
use holdfast_compat_tests::workloads::{ALL, posix};

use ground::Ground;

/// A case with a gateway of its own.
type Case = (&'static str, fn(u32) -> anyhow::Result<()>);

const WORKLOAD_DEADLINE: Duration = Duration::from_secs(600);
const ROUND_DEADLINE: Duration = Duration::from_secs(300);
/// Set in the process that has a table of mounts of its own.
const INSIDE: &str = "HOLDFAST_MOUNT_INSIDE";

fn main() -> ExitCode {
    if let Some(code) = in_own_namespace() {
        return code;
    }
    let effort = from_environment("HOLDFAST_MOUNT_EFFORT", 1).max(1);
    let rounds = from_environment("HOLDFAST_MOUNT_ROUNDS", 1).max(1);
    let mut suite = Suite::new(2);
    for ground in ground::selected() {
        add_workloads(&mut suite, &ground, effort);
    }
    let cases = [life::CASES, coherence::CASES, interop::CASES, machine::CASES];
    for (name, run) in cases.into_iter().flatten().copied() {
        suite.case_within(ROUND_DEADLINE * (rounds + 1), name, move || run(rounds));
    }
    suite.run()
}

fn add_workloads(suite: &mut Suite, ground: &Ground, effort: u32) {
    for (name, check) in posix::checks() {
        let ground = ground.clone();
        suite.case(format!("posix_{name} [{ground}]"), move || ground.run(|dir| posix::run(dir, name, check)));
    }
    for (name, run) in ALL.iter().copied() {
        let ground = ground.clone();
        suite.case_within(WORKLOAD_DEADLINE * effort, format!("workload_{name} [{ground}]"), move || {
            ground.run(|dir| {
                tell(&run(dir, effort)?.to_string());
                Ok(())
            })
        });
    }
}

/// A figure for the reader.
#[allow(clippy::print_stdout, reason = "figures are for whoever reads the output of the tests")]
fn tell(line: &str) {
    println!("  {line}");
}

/// As root, runs everything again in a mount namespace of its own: whatever happens, no mount outlives the tests. `None`
/// when that is done, or cannot be.
fn in_own_namespace() -> Option<ExitCode> {
    if std::env::var_os(INSIDE).is_some() || !rustix::process::geteuid().is_root() {
        return None;
    }
    let mut again = Command::new("unshare");
    again.args(["--mount", "--propagation", "private", "--"]).arg(std::env::current_exe().ok()?);
    // It returns only when it fails; then the tests run here.
    let _ = again.args(std::env::args_os().skip(1)).env(INSIDE, "1").exec();
    None
}
