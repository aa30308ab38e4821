//! A cluster of real processes on a LAN of network namespaces: it forms, agrees, and survives.
//!
//! During each fault clients write, create, delete, read and list on all nodes; the history must be linearizable.
//! `HOLDFAST_CLUSTER_ROUNDS` sets how often each fault is played (1), `HOLDFAST_SEED` repeats a run.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use holdfast_compat_tests::client::raw;
use holdfast_compat_tests::crash::from_environment;
use holdfast_compat_tests::history::Recorder;
use holdfast_compat_tests::lan::{Cut, Find, Lan};
use holdfast_compat_tests::linear::{Verdict, judge};
use holdfast_compat_tests::process::wait_until;
use holdfast_compat_tests::suite::Suite;

const NODES: usize = 3;
const CLIENTS: u64 = 6;
/// Operations of a client in one history.
const EACH: usize = 40;
/// A history's load runs this long before its fault begins.
const BEFORE: Duration = Duration::from_millis(300);
/// How long a fault lasts, unless it says otherwise.
const FAULT: Duration = Duration::from_millis(2500);
const DEADLINE: Duration = Duration::from_secs(240);
/// How long a node may need until it knows what another acknowledged.
const SOON: Duration = Duration::from_secs(20);

type Fault = fn(&mut Lan, usize) -> Result<()>;

/// Each is given the leader.
const FAULTS: &[(&str, Fault)] = &[
    ("no_fault", |_, _| Ok(())),
    ("the_leader_is_killed", |lan, leader| bounce(lan, &[leader])),
    ("a_follower_is_killed", |lan, leader| bounce(lan, &[(leader + 1) % NODES])),
    ("all_are_killed", |lan, _| bounce(lan, &[0, 1, 2])),
    ("the_leader_is_frozen", |lan, leader| freeze(lan, leader)),
    ("a_follower_is_frozen", |lan, leader| freeze(lan, (leader + 1) % NODES)),
    ("the_leader_is_cut_off", |lan, leader| cut(lan, leader, Cut::Both)),
    ("the_leader_is_not_heard", |lan, leader| cut(lan, leader, Cut::Outgoing)),
    ("the_leader_hears_nothing", |lan, leader| cut(lan, leader, Cut::Incoming)),
    ("a_link_flaps", flap),
];

fn main() -> ExitCode {
    let rounds = from_environment("HOLDFAST_CLUSTER_ROUNDS", 1);
    let seed = u64::from(from_environment("HOLDFAST_SEED", rand::random::<u16>().into()));
    let mut suite = Suite::new(1);
    suite.case_within(DEADLINE, "three_nodes_find_each_other_by_mdns_and_agree", three_nodes);
    suite.case_within(DEADLINE, "a_rolling_restart_loses_nothing", rolling_restart);
    suite.case_within(DEADLINE, "a_wiped_node_comes_back_as_a_new_one", wiped_node);
    suite.case_within(DEADLINE, "a_lone_node_says_that_it_is_starting", lone_node);
    suite.case_within(DEADLINE, "a_cluster_that_lost_every_node_is_recovered_from_its_bucket", all_lost);
    suite.case_within(
        DEADLINE * rounds.max(1),
        format!("histories_under_faults_are_linearizable [{rounds} rounds, seed {seed}]"),
        move || histories(rounds, seed),
    );
    suite.run()
}

fn three_nodes() -> Result<()> {
    let lan = Lan::start(NODES, Find::Mdns)?;
    lan.raw(0).put("agreed", "", &[], b"")?.expect(200).context("create a bucket")?;
    for node in 0..NODES {
        let key = format!("from-{node}");
        lan.raw(node).put("agreed", &key, &[], key.as_bytes())?.expect(200)?;
        for other in 0..NODES {
            let reply = lan.raw(other).get("agreed", &key, &[])?.expect(200)?;
            ensure!(reply.body == key.as_bytes(), "node {other} reads something else");
            ensure!(lan.raw(other).list("agreed", "")?.len() == node + 1, "node {other} lists something else");
        }
    }
    let body = vec![7; 9 << 20];
    lan.raw(1).put("agreed", "large", &[], &body)?.expect(200)?;
    ensure!(lan.raw(2).get("agreed", "large", &[])?.expect(200)?.body == body, "the large object differs");
    let status = lan.status(lan.leader()?).context("no status")?;
    ensure!(status["peers"].as_array().is_some_and(|peers| peers.len() == NODES), "status: {status}");
    Ok(())
}

fn rolling_restart() -> Result<()> {
    let mut lan = Lan::start(NODES, Find::Static)?;
    lan.raw(0).put("rolled", "", &[], b"")?.expect(200)?;
    for node in 0..NODES {
        lan.stop(node)?;
        let other = (node + 1) % NODES;
        until_answered(|| {
            lan.raw(other)
                .within(Duration::from_secs(2))
                .put("rolled", &format!("without-{node}"), &[], b"x")?
                .expect(200)
        })?;
        lan.launch(node)?;
        lan.await_ready(node)?;
        ensure!(lan.raw(node).list("rolled", "")?.len() == node + 1, "node {node} came back with less");
    }
    Ok(())
}

fn wiped_node() -> Result<()> {
    let mut lan = Lan::start(NODES, Find::Static)?;
    lan.raw(0).put("kept", "", &[], b"")?.expect(200)?;
    let node = (lan.leader()? + 1) % NODES;
    let before = lan.status(node).context("no status")?["node_id"].clone();
    lan.kill(node);
    lan.wipe(node)?;
    lan.raw((node + 1) % NODES).put("kept", "object", &[], b"x")?.expect(200)?;
    lan.launch(node)?;
    lan.await_ready(node)?;
    let after = lan.status(node).context("no status")?["node_id"].clone();
    ensure!(before != after, "the wiped node came back as {after}");
    ensure!(lan.raw(node).get("kept", "object", &[])?.expect(200)?.body == b"x");
    Ok(())
}

fn lone_node() -> Result<()> {
    let mut lan = Lan::prepare(NODES, Find::Static)?;
    lan.launch(0)?;
    let address = lan.address(0);
    wait_until("the port to open", SOON, || Ok(raw::health(&address, "/_holdfast/health/live") == Some(200)))?;
    ensure!(raw::health(&address, "/_holdfast/health/ready") == Some(503), "it is ready without its cluster");
    let reply = lan.raw(0).get("", "", &[])?;
    ensure!(reply.status == 503 && reply.header("retry-after").is_some(), "{} {}", reply.status, reply.text());
    ensure!(reply.text().contains("ServiceUnavailable"), "{}", reply.text());
    for node in 1..NODES {
        lan.launch(node)?;
    }
    for node in 0..NODES {
        lan.await_ready(node)?;
    }
    lan.raw(0).put("together", "", &[], b"")?.expect(200)?;
    lan.stop(0)
}

fn all_lost() -> Result<()> {
    let mut lan = Lan::start(NODES, Find::Static)?;
    lan.raw(0).put("lasting", "", &[], b"")?.expect(200)?;
    let large = vec![5; 3 << 20];
    for node in 0..NODES {
        lan.raw(node).put("lasting", &format!("small-{node}"), &[], format!("of {node}").as_bytes())?.expect(200)?;
        lan.raw(node).put("lasting", &format!("large-{node}"), &[], &large)?.expect(200)?;
    }
    let leader = lan.leader()?;
    let mut revision = 0;
    wait_until("the archive to catch up", SOON, || {
        let Some(status) = lan.status(leader) else { return Ok(false) };
        revision = status["revision"].as_u64().unwrap_or_default();
        Ok(status["archive"]["shipped"].as_u64() >= Some(revision))
    })?;
    for node in 0..NODES {
        lan.kill(node);
        lan.wipe(node)?;
    }
    let report = lan.recover(1)?;
    ensure!(report["generation"] == 2 && report["revision"].as_u64() >= Some(revision), "{report}");
    ensure!(report["blobs"]["missing"] == 0 && report["problems"].as_array().is_some_and(Vec::is_empty), "{report}");
    // The node that was recovered is there first: the others have to find it and not each other.
    for node in [1, 0, 2] {
        lan.launch(node)?;
        lan.await_ready(node)?;
    }
    for node in 0..NODES {
        let keys = lan.raw(node).list("lasting", "")?;
        ensure!(keys.len() == 2 * NODES, "node {node} lists {keys:?}");
        for number in 0..NODES {
            let reply = lan.raw(node).get("lasting", &format!("small-{number}"), &[])?.expect(200)?;
            ensure!(reply.body == format!("of {number}").as_bytes(), "node {node}, small-{number}");
            let reply = lan.raw(node).get("lasting", &format!("large-{number}"), &[])?.expect(200)?;
            ensure!(reply.body == large, "node {node}, large-{number}");
        }
    }
    wait_until("three voters", SOON, || {
        let Some(status) = lan.status(lan.leader()?) else { return Ok(false) };
        let peers = status["peers"].as_array().cloned().unwrap_or_default();
        Ok(peers.iter().filter(|peer| peer["role"] != "learner").count() == NODES)
    })?;
    // It is a whole cluster again: the first node may go.
    lan.kill(1);
    until_answered(|| lan.raw(2).within(Duration::from_secs(2)).put("lasting", "later", &[], b"x")?.expect(200))?;
    ensure!(lan.raw(0).get("lasting", "later", &[])?.expect(200)?.body == b"x");
    Ok(())
}

/// Repeats what a client would repeat while there is no leader.
fn until_answered<T>(mut ask: impl FnMut() -> Result<T>) -> Result<T> {
    let mut answer = None;
    wait_until("an answer", SOON, || {
        answer = Some(ask());
        Ok(answer.as_ref().is_some_and(Result::is_ok))
    })?;
    answer.context("no answer")?
}

fn histories(rounds: u32, seed: u64) -> Result<()> {
    let mut lan = Lan::start(NODES, Find::Static)?;
    until_answered(|| lan.raw(0).put("histories", "", &[], b"")?.expect(200))?;
    let (mut judged, mut undecided) = (0, 0);
    for round in 0..rounds {
        for (number, (name, fault)) in FAULTS.iter().enumerate() {
            let seed = seed + u64::from(round) * 1000 + number as u64;
            let prefix = format!("{round}-{name}/");
            let (operations, verdict) = one_history(&mut lan, &prefix, *fault, seed).with_context(|| {
                let logs = (0..NODES).map(|node| format!("node {node}:\n{}", lan.log_tail(node, 8)));
                format!("{name}, seed {seed}\n{}", logs.collect::<Vec<_>>().join("\n"))
            })?;
            judged += operations;
            undecided += u32::from(verdict == Verdict::Undecided);
        }
    }
    tell(judged, rounds, undecided);
    ensure!(undecided <= rounds, "{undecided} histories could not be judged: too many answers were lost");
    Ok(())
}

fn one_history(lan: &mut Lan, prefix: &str, fault: Fault, seed: u64) -> Result<(usize, Verdict)> {
    let began = Instant::now();
    let nodes: Vec<_> = (0..NODES).map(|node| lan.endpoint(node)).collect();
    let leader = lan.leader()?;
    let recorder = Recorder::start(&nodes, "histories", prefix, CLIENTS, EACH, seed);
    std::thread::sleep(BEFORE);
    let played = fault(lan, leader);
    let history = recorder.finish()?;
    played?;
    for node in 0..NODES {
        lan.await_ready(node)?;
    }
    let answered = history.iter().filter(|operation| operation.answered.is_some()).count();
    ensure!(answered * 2 > history.len(), "only {answered} of {} operations were answered", history.len());
    let verdict = judge(&history);
    ensure!(verdict != Verdict::Not, "the history is not linearizable:\n{}", written(&history));
    tell_one(prefix, history.len(), answered, verdict, began);
    Ok((history.len(), verdict))
}

#[allow(clippy::print_stdout, reason = "a line of the test report")]
fn tell_one(prefix: &str, operations: usize, answered: usize, verdict: Verdict, began: Instant) {
    println!(
        "  {prefix} {operations} operations, {answered} answered, {verdict:?}, {:.1} s",
        began.elapsed().as_secs_f32()
    );
}

fn written(history: &[holdfast_compat_tests::linear::Operation]) -> String {
    history.iter().map(|operation| format!("{operation:?}")).collect::<Vec<_>>().join("\n")
}

fn bounce(lan: &mut Lan, nodes: &[usize]) -> Result<()> {
    nodes.iter().for_each(|node| lan.kill(*node));
    std::thread::sleep(Duration::from_millis(500));
    for node in nodes {
        lan.launch(*node)?;
    }
    nodes.iter().try_for_each(|node| lan.await_ready(*node))
}

fn freeze(lan: &mut Lan, node: usize) -> Result<()> {
    lan.freeze(node)?;
    std::thread::sleep(FAULT);
    lan.thaw(node)
}

fn cut(lan: &mut Lan, node: usize, cut: Cut) -> Result<()> {
    lan.cut(node, cut)?;
    std::thread::sleep(FAULT);
    lan.heal(node)
}

fn flap(lan: &mut Lan, leader: usize) -> Result<()> {
    for _ in 0..6 {
        lan.cut(leader, Cut::Both)?;
        std::thread::sleep(Duration::from_millis(250));
        lan.heal(leader)?;
        std::thread::sleep(Duration::from_millis(150));
    }
    Ok(())
}

#[allow(clippy::print_stdout, reason = "a line of the test report")]
fn tell(judged: usize, rounds: u32, undecided: u32) {
    println!("  {judged} operations in {} histories, {undecided} undecided", rounds as usize * FAULTS.len());
}
