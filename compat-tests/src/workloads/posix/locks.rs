//! Locks between processes: ranges (`fcntl`) and whole files (`flock`).

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{Check, equal, new_file};
use crate::workloads::peer::{Peer, SOON};

/// How long something that must not happen is waited for.
const MOMENT: Duration = Duration::from_millis(200);
const HELD: &[&str] = &["EAGAIN", "EACCES"];

pub(super) const CHECKS: &[(&str, Check)] = &[
    ("fcntl_ranges", ranges),
    ("fcntl_locks_end_with_a_close", close_ends),
    ("fcntl_locks_end_with_their_process", death_ends),
    ("fcntl_waits_until_a_lock_is_free", waits),
    ("fcntl_refuses_a_deadlock", deadlock),
    ("flock_whole_files", flock),
    ("flock_waits_until_a_lock_is_free", flock_waits),
    ("a_counter_under_fcntl_from_two_processes", |dir| counter(&[dir, dir], 100)),
];

fn peers(dir: &Path) -> Result<[Peer; 2]> {
    let path = dir.join("f");
    new_file(&path, b"0")?;
    let mut both = [Peer::start()?, Peer::start()?];
    for peer in &mut both {
        peer.open("f", &path)?;
    }
    Ok(both)
}

fn lock(kind: &str, start: u64, length: u64) -> Value {
    json!(["lock", "f", kind, start, length])
}

fn ranges(dir: &Path) -> Result<()> {
    let [mut one, mut two] = peers(dir)?;
    one.ask(&lock("write", 0, 100))?;
    two.refuse(&lock("write", 99, 1), HELD)?;
    two.refuse(&lock("read", 50, 10), HELD)?;
    two.ask(&lock("write", 100, 100))?;
    // Who holds it, and what.
    let found = two.ask(&json!(["test", "f", "read", 10, 5]))?;
    equal("holder", found, json!([0, 100, one.pid()]))?;
    equal("what is free", two.ask(&json!(["test", "f", "write", 300, 5]))?, Value::Null)?;
    // A piece in the middle is given up.
    one.ask(&lock("none", 40, 20))?;
    two.ask(&lock("write", 45, 10))?;
    two.refuse(&lock("write", 39, 1), HELD)?;
    two.refuse(&lock("write", 60, 1), HELD)?;
    // Shared, and changed from one to the other; length 0 is to the end, however far that moves.
    for peer in [&mut one, &mut two] {
        peer.ask(&lock("none", 0, 0))?;
        peer.ask(&lock("read", 1_000, 0))?;
    }
    one.refuse(&lock("write", 5_000_000, 1), HELD)?;
    two.ask(&lock("none", 0, 0))?;
    one.ask(&lock("write", 5_000_000, 1))?;
    one.ask(&lock("read", 5_000_000, 1))?;
    two.ask(&lock("read", 5_000_000, 1))?;
    Ok(())
}

/// POSIX: closing any descriptor of a file ends all locks of the process on it.
fn close_ends(dir: &Path) -> Result<()> {
    let [mut one, mut two] = peers(dir)?;
    one.open("again", &dir.join("f"))?;
    one.ask(&lock("write", 0, 10))?;
    two.refuse(&lock("write", 0, 10), HELD)?;
    one.ask(&json!(["close", "again"]))?;
    two.ask(&lock("write", 0, 10))?;
    Ok(())
}

fn death_ends(dir: &Path) -> Result<()> {
    let [mut one, mut two] = peers(dir)?;
    one.ask(&lock("write", 0, 10))?;
    two.tell(&json!(["wait_lock", "f", "write", 0, 10]))?;
    ensure!(two.is_silent(MOMENT), "a held lock was granted");
    one.kill();
    ensure!(two.answer(SOON)?.is_ok(), "the lock of a dead process is held");
    Ok(())
}

fn waits(dir: &Path) -> Result<()> {
    let [mut one, mut two] = peers(dir)?;
    one.ask(&lock("read", 0, 10))?;
    two.tell(&json!(["wait_lock", "f", "write", 5, 10]))?;
    ensure!(two.is_silent(MOMENT), "a held lock was granted");
    one.ask(&lock("none", 0, 10))?;
    ensure!(two.answer(SOON)?.is_ok(), "a free lock was refused");
    one.refuse(&lock("read", 5, 1), HELD)
}

fn deadlock(dir: &Path) -> Result<()> {
    let [mut one, mut two] = peers(dir)?;
    one.ask(&lock("write", 0, 1))?;
    two.ask(&lock("write", 1, 1))?;
    one.tell(&json!(["wait_lock", "f", "write", 1, 1]))?;
    ensure!(one.is_silent(MOMENT), "a held lock was granted");
    two.refuse(&json!(["wait_lock", "f", "write", 0, 1]), &["EDEADLK", "EDEADLOCK"])?;
    two.ask(&lock("none", 1, 1))?;
    ensure!(one.answer(SOON)?.is_ok(), "the first waiter was not granted");
    Ok(())
}

fn flock(dir: &Path) -> Result<()> {
    let [mut one, mut two] = peers(dir)?;
    one.ask(&json!(["flock", "f", "write"]))?;
    two.refuse(&json!(["flock", "f", "read"]), HELD)?;
    one.ask(&json!(["flock", "f", "read"]))?;
    two.ask(&json!(["flock", "f", "read"]))?;
    two.refuse(&json!(["flock", "f", "write"]), HELD)?;
    // It belongs to the open file, not to the process: another descriptor of the same process is another holder.
    two.open("again", &dir.join("f"))?;
    two.ask(&json!(["close", "f"]))?;
    one.ask(&json!(["flock", "f", "write"]))?;
    two.refuse(&json!(["flock", "again", "read"]), HELD)?;
    one.kill();
    two.tell(&json!(["flock", "again", "write", true]))?;
    ensure!(two.answer(SOON)?.is_ok(), "the lock of a dead process is held");
    Ok(())
}

fn flock_waits(dir: &Path) -> Result<()> {
    let [mut one, mut two] = peers(dir)?;
    one.ask(&json!(["flock", "f", "write"]))?;
    two.tell(&json!(["flock", "f", "write", true]))?;
    ensure!(two.is_silent(MOMENT), "a held lock was granted");
    one.ask(&json!(["flock", "f", "none"]))?;
    ensure!(two.answer(SOON)?.is_ok(), "a free lock was refused");
    Ok(())
}

/// One process in each of `dirs`, which show one directory, adds 1 to a number `times` times under a lock.
///
/// # Errors
/// When an addition is lost.
pub fn counter(dirs: &[&Path], times: u32) -> Result<()> {
    let first = dirs.first().ok_or_else(|| anyhow::anyhow!("no directory"))?;
    new_file(&first.join("counter"), format!("{:020}", 0).as_bytes())?.sync_all()?;
    let mut peers = Vec::new();
    for dir in dirs {
        let mut peer = Peer::start()?;
        peer.tell(&json!(["count", dir.join("counter"), times]))?;
        peers.push(peer);
    }
    for peer in &mut peers {
        let answer = peer.answer(SOON * (1 + times / 100))?;
        ensure!(answer == Ok(json!(times)), "a counter ended with {answer:?}");
    }
    let total: usize = std::fs::read_to_string(first.join("counter"))?.trim().parse()?;
    equal("the count", total, dirs.len() * times as usize)
}
