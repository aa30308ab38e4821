//! Mounts of a cluster that loses its leader, while one of them is stopped for longer than its session lives: under a lock of
//! `fcntl` no addition to a counter is lost or made twice.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use holdfast_compat_tests::lan::{Find, Lan};
use holdfast_compat_tests::mounted::{Mounted, Plan};
use holdfast_compat_tests::target::Endpoint;
use holdfast_compat_tests::workloads::peer::Peer;
use serde_json::json;

use crate::{NODES, Scale, say, until_answered};

/// Longer than a session lives without a word, which is 15 s. Source: docs/mount-protocol.md.
const STOPPED: Duration = Duration::from_secs(18);
const BETWEEN: Duration = Duration::from_secs(3);
/// An addition may wait for the stopped mount, and for an election.
const ADDED_WITHIN: Duration = Duration::from_secs(150);

/// What a process on one mount did.
#[derive(Debug, Default)]
struct Added {
    /// The numbers that its additions gave.
    values: Vec<u64>,
    /// Additions that failed: made or not.
    failed: u64,
}

/// All nodes, beginning with one.
fn nodes_from(lan: &Lan, first: usize) -> Endpoint {
    let urls: Vec<String> = (0..NODES).map(|at| lan.endpoint((first + at) % NODES).url()).collect();
    let address = urls.join(",").trim_start_matches("http://").to_owned();
    Endpoint { address, ..lan.endpoint(first) }
}

/// Adds one again and again.
fn start_adding(path: PathBuf, stop: &Arc<AtomicBool>) -> Result<JoinHandle<Result<Added>>> {
    let (mut peer, stop) = (Peer::start()?, Arc::clone(stop));
    Ok(std::thread::spawn(move || {
        let mut added = Added::default();
        while !stop.load(Ordering::Relaxed) {
            peer.tell(&json!(["add", path]))?;
            match peer.answer(ADDED_WITHIN)? {
                Ok(value) => added.values.push(value.as_u64().context("no number")?),
                Err(name) => {
                    ensure!(["EIO", "ESTALE", "ENOLCK"].contains(&name.as_str()), "an addition failed with {name}");
                    added.failed += 1;
                }
            }
        }
        Ok(added)
    }))
}

fn break_things(lan: &mut Lan, mounts: &mut [Mounted], rounds: u32) -> Result<()> {
    for round in 0..rounds.max(1) as usize {
        std::thread::sleep(BETWEEN);
        let leader = lan.leader()?;
        lan.kill(leader);
        std::thread::sleep(BETWEEN);
        lan.launch(leader)?;
        lan.await_ready(leader)?;
        let stopped = mounts[round % NODES].process();
        stopped.freeze();
        std::thread::sleep(STOPPED);
        stopped.thaw();
    }
    std::thread::sleep(BETWEEN);
    Ok(())
}

fn total(dir: &Path) -> Result<u64> {
    Ok(std::fs::read_to_string(dir.join("counter"))?.trim().parse()?)
}

pub fn counter(scale: Scale) -> Result<()> {
    let mut lan = Lan::start(NODES, Find::Static)?;
    until_answered(|| lan.raw(0).put("counted", "", &[], b"")?.expect(200))?;
    let plan = Plan::new("counted");
    let mut mounts: Vec<Mounted> =
        (0..NODES).map(|node| Mounted::start(&nodes_from(&lan, node), &plan)).collect::<Result<_>>()?;
    std::fs::write(mounts[0].path().join("counter"), format!("{:020}", 0))?;
    let stop = Arc::new(AtomicBool::new(false));
    let adding: Vec<_> =
        mounts.iter().map(|mount| start_adding(mount.path().join("counter"), &stop)).collect::<Result<_>>()?;
    let broken = break_things(&mut lan, &mut mounts, scale.rounds);
    stop.store(true, Ordering::Relaxed);
    let mut all = Added::default();
    let mut each = Vec::new();
    for adding in adding {
        let added = adding.join().map_err(|_| anyhow!("a process panicked"))??;
        each.push(added.values.len());
        all.values.extend(added.values);
        all.failed += added.failed;
    }
    broken?;
    let (made, unknown) = (all.values.len() as u64, all.failed);
    say(&format!("{made} additions on three mounts {each:?}, {unknown} failed"));
    let distinct: BTreeSet<u64> = all.values.iter().copied().collect();
    ensure!(distinct.len() as u64 == made, "two additions gave one number: {:?}", all.values);
    ensure!(each.iter().all(|made| *made > 0), "a mount added nothing");
    for mount in &mounts {
        let total = total(mount.path())?;
        ensure!(
            (made..=made + unknown).contains(&total),
            "the counter is {total} after {made} additions and {unknown} failures"
        );
        ensure!(distinct.last().is_none_or(|last| *last <= total), "the counter went back to {total}");
    }
    Ok(())
}
