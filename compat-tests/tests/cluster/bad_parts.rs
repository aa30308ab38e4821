//! One node has a bad part: a directory that was copied, a full disk, a wrong clock, a slow link.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use holdfast_compat_tests::fixture;
use holdfast_compat_tests::lan::{Find, Lan};
use holdfast_compat_tests::process::wait_until;

use crate::histories::{logs, one, one_on};
use crate::{NODES, SOON, Scale, say, until_answered};

/// Seconds in an hour.
const HOUR: i64 = 3600;
/// How long clients work beside a bad part.
const SPAN: Duration = Duration::from_secs(2);

fn with_bucket() -> Result<Lan> {
    let lan = Lan::start(NODES, Find::Static)?;
    until_answered(|| lan.raw(0).put("histories", "", &[], b"")?.expect(200))?;
    Ok(lan)
}

/// A node is stopped, its directory copied to another machine, and both are started.
pub fn copied_directory(scale: Scale) -> Result<()> {
    let mut lan = with_bucket()?;
    let node = (lan.leader()? + 1) % NODES;
    lan.stop(node)?;
    let copy = lan.clone_node(node)?;
    let others: Vec<usize> = (0..NODES).filter(|other| *other != node).collect();
    let mut ended = None;
    one_on(&mut lan, &others, "copied/", scale.seed, SPAN, |lan| {
        lan.launch(node)?;
        lan.launch(copy)?;
        ended = Some(lan.await_end(&[node, copy])?);
        Ok(())
    })
    .with_context(|| logs(&lan))?;
    let (loser, output) = ended.context("neither ended")?;
    ensure!(output.contains("keep one and remove the other"), "it ended without advice:\n{output}");
    let winner = if loser == node { copy } else { node };
    lan.await_ready(winner)?;
    one_on(&mut lan, &[others[0], others[1], winner], "after/", scale.seed, SPAN, |lan| {
        // It is the one that goes on: a while later it still does.
        std::thread::sleep(SPAN);
        ensure!(lan.is_running(winner)?, "the other ended too");
        Ok(())
    })
    .with_context(|| logs(&lan))?;
    let status = lan.status(lan.leader()?).context("no status")?;
    ensure!(status["peers"].as_array().map(Vec::len) == Some(NODES), "members: {}", status["peers"]);
    say(&format!("{} ended", if loser == node { "the original" } else { "the copy" }));
    Ok(())
}

/// The disk of one node is full; the others go on, and it comes back when there is space.
pub fn full_disk(scale: Scale) -> Result<()> {
    let mut lan = Lan::prepare(NODES, Find::Static)?;
    let node = usize::try_from(scale.seed)? % NODES;
    lan.on_small_disk(node)?;
    (0..NODES).try_for_each(|node| lan.launch(node))?;
    (0..NODES).try_for_each(|node| lan.await_ready(node))?;
    until_answered(|| lan.raw(0).put("histories", "", &[], b"")?.expect(200))?;
    // Small objects go into the log then, which needs space on every node.
    let settings = br#"{"durability":"quorum"}"#;
    until_answered(|| lan.raw(0).put("_holdfast", "v1/buckets/histories", &[], settings)?.expect(200))?;
    let ballast = lan.disk(node).context("no disk")?.path().join("ballast");
    lan.disk(node).context("no disk")?.fill(&ballast)?;
    let other = (node + 1) % NODES;
    let body = fixture::bytes(1, 60_000);
    let filled = fill_by_writing(&lan, other, node).with_context(|| logs(&lan))?;
    say(&format!("node {node} is full after {filled} writes more"));
    for number in 0..20 {
        let mut raw = lan.raw(other).within(Duration::from_secs(5));
        until_answered(|| raw.put("histories", &format!("beside-{number}"), &[], &body)?.expect(200))
            .with_context(|| format!("the others do not go on\n{}", logs(&lan)))?;
    }
    ensure!(lan.is_running(node)?, "the node with the full disk ended:\n{}", lan.log_tail(node, 20));
    std::fs::remove_file(&ballast)?;
    let mut raw = lan.raw(node).within(Duration::from_secs(5));
    until_answered(|| raw.put("histories", "after", &[], &body)?.expect(200))
        .with_context(|| format!("it does not come back\n{}", logs(&lan)))?;
    lan.await_ready(node)?;
    let keys = lan.raw(node).list("histories", "beside-")?;
    ensure!(keys.len() == 20, "it lists {} of 20 objects", keys.len());
    one(&mut lan, "after-full/", scale.seed, SPAN, |_| Ok(())).with_context(|| logs(&lan))?;
    Ok(())
}

/// Writes more and more objects until the node with the full disk refuses; how many writes that took.
fn fill_by_writing(lan: &Lan, other: usize, node: usize) -> Result<usize> {
    for number in 0..4000 {
        // No two are alike, or the store would make them small.
        let (key, body) = (format!("filler-{number}"), fixture::bytes(number as u64 + 9, 60_000));
        let mut raw = lan.raw(other).within(Duration::from_secs(5));
        // While leadership leaves the full node a write may fail.
        until_answered(|| raw.put("histories", &key, &[], &body)?.expect(200))?;
        if number % 20 > 0 {
            continue;
        }
        match lan.raw(node).within(Duration::from_secs(20)).put("histories", "refused", &[], &body) {
            Ok(reply) if reply.status == 200 => {}
            Ok(reply) => {
                ensure!(matches!(reply.status, 503 | 507), "{} {}", reply.status, reply.text());
                return Ok(number);
            }
            Err(lost) => bail!("no answer of the node with the full disk: {lost}"),
        }
    }
    bail!("4000 objects went to a node with a full disk")
}

/// The clock of one node is an hour off, either way, on a follower and on the leader.
pub fn wrong_clock(scale: Scale) -> Result<()> {
    let mut lan = Lan::prepare(NODES, Find::Static)?;
    for node in 0..NODES {
        lan.with_clock(node)?;
        lan.launch(node)?;
    }
    (0..NODES).try_for_each(|node| lan.await_ready(node))?;
    until_answered(|| lan.raw(0).put("histories", "", &[], b"")?.expect(200))?;
    for (number, off) in [HOUR, -HOUR].into_iter().enumerate() {
        let follower = (lan.leader()? + 1) % NODES;
        lan.raw(follower).put("histories", "kept", &[], off.to_string().as_bytes())?.expect(200)?;
        lan.set_clock(follower, off)?;
        let reply = lan.raw(follower).put("histories", "refused", &[], b"x")?;
        // Behind a clock that is late state time goes on, and what goes by that is right.
        if off > 0 {
            ensure!(reply.status == 503, "a write with a clock {off} s off: {} {}", reply.status, reply.text());
            let told = reply.text().contains("clock") || lan.log_tail(follower, 50).contains("clock");
            ensure!(told, "nothing names the clock: {}\n{}", reply.text(), lan.log_tail(follower, 20));
        }
        let reply = lan.raw(follower).get("histories", "kept", &[])?.expect(200)?;
        ensure!(reply.text() == off.to_string(), "it reads {}", reply.text());
        one(&mut lan, &format!("clock-{number}/"), scale.seed, SPAN, |_| Ok(())).with_context(|| logs(&lan))?;
        lan.set_clock(follower, 0)?;
        until_answered(|| lan.raw(follower).put("histories", "right-again", &[], b"x")?.expect(200))
            .with_context(|| format!("after a clock {off} s off\n{}", logs(&lan)))?;
    }
    for (number, off) in [-HOUR, HOUR].into_iter().enumerate() {
        let leader = lan.leader()?;
        lan.set_clock(leader, off)?;
        one(&mut lan, &format!("leader-{number}/"), scale.seed, SPAN, |_| Ok(())).with_context(|| logs(&lan))?;
        lan.set_clock(leader, 0)?;
        for node in 0..NODES {
            until_answered(|| lan.raw(node).put("histories", "right-again", &[], b"x")?.expect(200))
                .with_context(|| format!("node {node}, after a leader {off} s off\n{}", logs(&lan)))?;
        }
    }
    Ok(())
}

/// A wiped node gets everything over a slow link while clients write to the others.
pub fn slow_link(scale: Scale) -> Result<()> {
    // What is more than the log keeps goes as a snapshot.
    let (objects, megabits) = if scale.is_long() { (2600, 80) } else { (60, 8) };
    let mut lan = with_bucket()?;
    let body = fixture::bytes(3, 60_000);
    let leader = lan.leader()?;
    for number in 0..objects {
        lan.raw(leader).put("histories", &format!("much-{number:05}"), &[], &body)?.expect(200)?;
    }
    let node = (lan.leader()? + 1) % NODES;
    lan.kill(node);
    lan.wipe(node)?;
    lan.slow_down(node, megabits)?;
    let writer = Writer::start(&lan, lan.leader()?);
    let began = Instant::now();
    lan.launch(node)?;
    let ready = lan.await_ready(node);
    let took = began.elapsed();
    let (writes, longest) = writer.finish()?;
    ready.with_context(|| logs(&lan))?;
    lan.speed_up(node)?;
    ensure!(writes > 0, "nothing was written meanwhile");
    say(&format!(
        "ready after {:.1} s over {megabits} Mbit/s; {writes} writes meanwhile, the longest took {} ms",
        took.as_secs_f32(),
        longest.as_millis()
    ));
    wait_until("all objects on the node that came back", SOON, || {
        Ok(lan.raw(node).list("histories", "much-").is_ok_and(|keys| keys.len() == objects))
    })?;
    let reply = lan.raw(node).get("histories", "much-00000", &[])?.expect(200)?;
    ensure!(reply.body == body, "the object differs");
    Ok(())
}

/// One client that writes and writes.
struct Writer {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Result<(usize, Duration)>>,
}

impl Writer {
    fn start(lan: &Lan, node: usize) -> Self {
        let (stop, mut raw) = (Arc::new(AtomicBool::new(false)), lan.raw(node));
        let told = stop.clone();
        let thread = std::thread::spawn(move || {
            let (mut writes, mut longest) = (0, Duration::ZERO);
            while !told.load(Ordering::Relaxed) {
                let began = Instant::now();
                raw.put("histories", "written", &[], b"x")?.expect(200)?;
                longest = longest.max(began.elapsed());
                writes += 1;
                std::thread::sleep(Duration::from_millis(5));
            }
            Ok((writes, longest))
        });
        Self { stop, thread }
    }

    fn finish(self) -> Result<(usize, Duration)> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the writer panicked"))?
    }
}
