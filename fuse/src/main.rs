//! `holdfast-mount`: mounts a bucket, or a part of it, as a file system.

use std::process::ExitCode;

fn main() -> ExitCode {
    holdfast_mount::run::main()
}
