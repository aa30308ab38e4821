//! Random writes of 4 KiB into a file, each followed by `fsync`. Whether the store had the last of them when its `fsync`
//! returned is looked at before the file is closed.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::Options;
use super::peers::{Mount, S3FS, Side};
use super::report::{Figure, Goal, Unit};
use super::sheet::{Seat, Wanted, end_all, play, seats};
use super::stack::Stack;
use super::work::{Content, Luck, PAGE, write_stored};
use crate::stats::rate;

const KEY: &str = "random";
/// Seeds of contents: of the file, and of what each round writes into it.
const SEED: u64 = 3_000;
const PATCH_SEED: u64 = 3_500;

/// What a round did.
struct Done {
    writes: u64,
    took: Duration,
    /// Where the last write went.
    at: u64,
    /// Whether the store had it at once.
    stored: bool,
}

pub(super) fn run(stack: &mut Stack, options: &Options) -> Result<Vec<Figure>> {
    let mut mounts: Vec<Seat<Mount>> = seats(Side::CLIENTS.len());
    let length = options.random_bytes;
    let goal = Goal::Times { side: Side::Mount.name(), others: S3FS, times: 20.0 };
    let what = format!("random writes of 4 KiB in {} MiB, each synced", length >> 20);
    let wanted = vec![Wanted::new(what, Unit::PerS).goal(goal)];
    let sides = Side::CLIENTS.map(Side::name).to_vec();
    let mut figures = play(stack, (wanted, sides, options.rounds), |stack, turn| {
        let side = Side::CLIENTS[turn.at];
        let mount = mounts[turn.at].take(|| {
            let mount = stack.mount(side)?;
            write_stored(&mount, &stack.store(side), KEY, &Content::new(SEED + turn.at as u64), length)?;
            Ok(mount)
        })?;
        let (store, content) = (stack.store(side), Content::new(PATCH_SEED + turn.round as u64));
        let path = mount.path().join(KEY);
        stack.sync()?;
        let done = mount.within("random writes", || {
            let stored = |at: u64| store.has(KEY, length, at, &content.page(at / PAGE as u64));
            write(&path, &content, length, options.round_time, stored)
        })?;
        turn.put(0, rate(done.writes, done.took));
        if !done.stored {
            turn.note(0, "the store did not have the bytes when fsync returned");
            store.await_bytes(KEY, length, done.at, &content.page(done.at / PAGE as u64))?;
        }
        Ok(())
    })?;
    let mounts = mounts.into_iter().filter_map(Seat::leave);
    end_all(&mut figures, mounts.map(|mount| (mount.side().name(), mount)));
    Ok(figures)
}

fn write(
    path: &Path,
    content: &Content,
    length: u64,
    time: Duration,
    stored: impl Fn(u64) -> Result<bool>,
) -> Result<Done> {
    let (mut luck, mut writes, mut at) = (Luck::new(SEED), 0, 0);
    let file = File::options().write(true).open(path)?;
    let began = Instant::now();
    while writes == 0 || began.elapsed() < time {
        let number = luck.below(length / PAGE as u64);
        at = number * PAGE as u64;
        file.write_all_at(&content.page(number), at)?;
        file.sync_all().context("fsync")?;
        writes += 1;
    }
    let took = began.elapsed();
    Ok(Done { writes, took, at, stored: stored(at)? })
}
