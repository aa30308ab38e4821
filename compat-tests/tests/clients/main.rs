//! Released clients against Holdfast on both backends: what a user does in the first week, with the tools they have.

mod aws_cli;
mod boto3_scripts;
mod http;
mod mc;
mod rclone;
mod s3fs;
mod sdk;

use std::process::ExitCode;

use anyhow::Result;
use holdfast_compat_tests::suite::Suite;
use holdfast_compat_tests::target::{Endpoint, Fleet, Target};

/// A case by name.
type Case = (&'static str, fn(&Endpoint) -> Result<()>);

fn main() -> ExitCode {
    let Ok(fleet) = Fleet::new() else { return ExitCode::FAILURE };
    let mut suite = Suite::new(2);
    let groups: [(&str, &[Case]); 7] = [
        ("boto3", boto3_scripts::CASES),
        ("aws_cli", aws_cli::CASES),
        ("http", http::CASES),
        ("mc", mc::CASES),
        ("rclone", rclone::CASES),
        ("s3fs", s3fs::CASES),
        ("sdk", sdk::CASES),
    ];
    for target in Target::selected(&Target::HOLDFAST) {
        for (group, cases) in groups {
            for (name, run) in cases {
                let fleet = fleet.clone();
                suite.case(format!("{group}::{name} [{target}]"), move || run(&fleet.endpoint(target)?));
            }
        }
    }
    drop(fleet);
    suite.run()
}
