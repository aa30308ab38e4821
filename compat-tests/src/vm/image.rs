//! The disk of a guest, looked at from outside: made, replayed, checked, read.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::promise::{Seen, sum};
use crate::client::command::{self, finish, succeed};
use crate::skip::program;

const HOW_TO_GET: &str = "apt-get install e2fsprogs";

/// Whether everything that this module runs is installed.
///
/// # Errors
/// A skip that says what is missing.
pub fn programs() -> Result<()> {
    for name in ["mke2fs", "e2fsck", "debugfs"] {
        find(name)?;
    }
    Ok(())
}

fn find(name: &str) -> Result<PathBuf> {
    // Users' PATH seldom holds the directories of system programs.
    program(&[name, &format!("/usr/sbin/{name}"), &format!("/sbin/{name}")], HOW_TO_GET)
}

fn tool(name: &str, home: &Path) -> Result<Command> {
    Ok(command::clean(&find(name)?, home))
}

/// Makes the file `path` an empty ext4 of `mib` MiB.
///
/// # Errors
/// When it cannot be made.
pub fn make(path: &Path, mib: u64) -> Result<()> {
    let home = path.parent().context("an image has a directory")?;
    File::create(path)?.set_len(mib << 20).with_context(|| format!("cannot size {}", path.display()))?;
    let mut making = tool("mke2fs", home)?;
    making.args(["-q", "-t", "ext4", "-F"]).arg(path);
    succeed(making)?;
    Ok(())
}

/// Copies `image` to `copy`, replays its journal there and checks the result.
///
/// # Errors
/// When the file system needs more than its journal, which no loss of power excuses.
pub fn replayed(image: &Path, copy: &Path) -> Result<()> {
    let home = copy.parent().context("a copy has a directory")?;
    let mut copying = Command::new("cp");
    copying.arg("--sparse=always").arg(image).arg(copy);
    succeed(copying)?;
    let mut replaying = tool("e2fsck", home)?;
    replaying.arg("-p").arg(copy);
    let output = finish(replaying, b"")?;
    // 1: something was put right. With -p that is the journal and what follows from it; more is refused with 4.
    ensure!(matches!(output.code, Some(0 | 1)), "e2fsck -p: {:?}\n{}{}", output.code, output.text(), output.stderr);
    clean(copy)
}

/// Fails unless a full check of `image` finds nothing.
///
/// # Errors
/// With what it finds.
pub fn clean(image: &Path) -> Result<()> {
    let home = image.parent().context("an image has a directory")?;
    let mut checking = tool("e2fsck", home)?;
    checking.arg("-fn").arg(image);
    let output = finish(checking, b"")?;
    ensure!(output.code == Some(0), "e2fsck -fn: {:?}\n{}{}", output.code, output.text(), output.stderr);
    Ok(())
}

/// What is on `image`, which has no journal to replay, read into the new directory `out`.
///
/// # Errors
/// When it cannot be read, or the guest never wrote to it.
pub fn look(image: &Path, out: &Path) -> Result<Seen> {
    std::fs::create_dir(out)?;
    let mut dumping = tool("debugfs", out)?;
    dumping.arg("-R").arg(format!("rdump / {}", out.display())).arg(image);
    let output = finish(dumping, b"")?;
    ensure!(output.code == Some(0), "debugfs: {}", output.stderr);
    let mut seen = Seen::default();
    for entry in std::fs::read_dir(out.join("f")).context("the guest made no files")? {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.parse().ok()).with_context(|| format!("{name:?}"))?;
        seen.files.insert(number, sum(&std::fs::read(entry.path())?));
    }
    seen.add_blocks(&std::fs::read(out.join("db"))?);
    Ok(seen)
}
