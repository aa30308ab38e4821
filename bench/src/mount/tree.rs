//! Directories of many small files, which were put there by S3: one renamed as a whole, one listed by `ls -l`.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::Options;
use super::peers::{Mount, Side};
use super::report::{Figure, Goal, Unit};
use super::sheet::{Seat, Wanted, end_all, play, seats};
use super::stack::Stack;
use super::store::{Count, Store};
use crate::stats::ms;

const LISTED: &str = "listed";

/// One rename of a directory in each round, on a mount that stays.
pub(super) fn rename(stack: &mut Stack, options: &Options) -> Result<Vec<Figure>> {
    let mut mounts: Vec<Seat<Mount>> = seats(Side::CLIENTS.len());
    let files = options.tree_files;
    let goal = Goal::AtMost { side: Side::Mount.name(), value: 50.0 };
    let wanted = vec![Wanted::new(format!("rename of a directory of {files} files"), Unit::Ms).goal(goal)];
    let sides = Side::CLIENTS.map(Side::name).to_vec();
    let mut figures = play(stack, (wanted, sides, options.rounds), |stack, turn| {
        let side = Side::CLIENTS[turn.at];
        let mount = mounts[turn.at].take(|| {
            stack.store(side).fill("tree-0", files)?;
            stack.mount(side)
        })?;
        stack.sync()?;
        let took = rename_tree(mount, &stack.store(side), turn.round, files)?;
        turn.put(0, took);
        Ok(())
    })?;
    let mounts = mounts.into_iter().filter_map(Seat::leave);
    end_all(&mut figures, mounts.map(|mount| (mount.side().name(), mount)));
    Ok(figures)
}

/// Milliseconds of the rename of round `round`, whose directory is looked at before.
fn rename_tree(mount: &Mount, store: &Store, round: usize, files: usize) -> Result<f64> {
    let (from, to) = (format!("tree-{round}"), format!("tree-{}", round + 1));
    let (old, new) = (mount.path().join(&from), mount.path().join(&to));
    let took = mount.within("renaming a directory", || {
        std::fs::metadata(&old).context("stat")?;
        let began = Instant::now();
        std::fs::rename(&old, &new)?;
        if mount.side().returns_early() {
            store.await_count(&format!("{to}/"), Count { files, named: None })?;
        }
        Ok(began.elapsed())
    })?;
    for (name, files) in [(to, files), (from, 0)] {
        let right = store.counts(&format!("{name}/"), Count { files, named: None })?;
        ensure!(right, "the rename returned, and {name} does not have {files} files in the store");
    }
    Ok(ms(took))
}

/// `ls -l` of a directory by a mount that is new in each round.
pub(super) fn list(stack: &mut Stack, options: &Options) -> Result<Vec<Figure>> {
    let mut filled: Vec<Seat<()>> = seats(Side::CLIENTS.len());
    let entries = options.entries;
    let goal = Goal::AtMost { side: Side::Mount.name(), value: 500.0 };
    let wanted = vec![Wanted::new(format!("ls -l of {entries} entries, cold"), Unit::Ms).goal(goal)];
    let sides = Side::CLIENTS.map(Side::name).to_vec();
    play(stack, (wanted, sides, options.rounds), |stack, turn| {
        let side = Side::CLIENTS[turn.at];
        filled[turn.at].take(|| stack.store(side).fill(LISTED, entries))?;
        let mount = stack.mount(side)?;
        stack.sync()?;
        let took = ls(&mount, &mount.path().join(LISTED), entries)?;
        turn.put(0, took);
        mount.end()
    })
}

/// Milliseconds of `ls -l`, its start included.
fn ls(mount: &Mount, directory: &Path, entries: usize) -> Result<f64> {
    mount.within("ls -l", || {
        let began = Instant::now();
        let listing = Command::new("ls").arg("-l").arg(directory).env("LC_ALL", "C").stdin(Stdio::null()).output()?;
        let took = began.elapsed();
        ensure!(listing.status.success(), "ls ended with {}", listing.status);
        // The first line is the sum of blocks.
        let found = listing.stdout.iter().filter(|byte| **byte == b'\n').count().saturating_sub(1);
        ensure!(found == entries, "{found} of {entries} entries are listed");
        Ok(ms(took))
    })
}
