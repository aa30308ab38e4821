//! A cluster begins, and its nodes come and go.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use holdfast_compat_tests::client::{boto3, raw};
use holdfast_compat_tests::lan::{Find, Lan, REPOSITORY};
use holdfast_compat_tests::process::wait_until;
use holdfast_compat_tests::target::{Endpoint, Target};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::{NODES, SOON, say, until_answered};

pub fn three_nodes() -> Result<()> {
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

pub fn rolling_restart() -> Result<()> {
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

pub fn wiped_node() -> Result<()> {
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

pub fn lone_node() -> Result<()> {
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

pub fn all_lost() -> Result<()> {
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

/// All nodes start for the first time at the same moment, again and again: they are one cluster each time.
pub fn first_starts(rounds: u32, seed: u64) -> Result<()> {
    let mut luck = StdRng::seed_from_u64(seed);
    let mut lan = Lan::prepare(NODES, Find::Static)?;
    let mut slowest = Duration::ZERO;
    for round in 0..rounds {
        if round > 0 {
            lan.begin_again(&format!("repo-{round}"))?;
        }
        let began = Instant::now();
        let first = luck.random_range(0..NODES);
        for node in 0..NODES {
            lan.launch((first + node) % NODES)?;
            std::thread::sleep(Duration::from_millis(luck.random_range(0..200)));
        }
        one_cluster(&mut lan).with_context(|| format!("round {round}, seed {seed}"))?;
        slowest = slowest.max(began.elapsed());
    }
    say(&format!("{rounds} first starts, the slowest took {:.1} s", slowest.as_secs_f32()));
    Ok(())
}

fn one_cluster(lan: &mut Lan) -> Result<()> {
    for node in 0..NODES {
        lan.await_ready(node)?;
    }
    let mut ids = Vec::new();
    for node in 0..NODES {
        ids.push(lan.status(node).context("no status")?["cluster_id"].clone());
    }
    ensure!(ids[0].is_string() && ids.iter().all(|id| *id == ids[0]), "several clusters: {ids:?}");
    let status = lan.status(lan.leader()?).context("no status")?;
    let peers = status["peers"].as_array().cloned().unwrap_or_default();
    let voters = peers.iter().filter(|peer| peer["role"] != "learner").count();
    ensure!(peers.len() == NODES && voters == NODES, "members: {peers:?}");
    // The repository says the same.
    let claim = Endpoint::of(Target::Minio, lan.minio().address()).raw().get(
        REPOSITORY,
        &format!("{}/metadata/cluster.json", lan.prefix()),
        &[],
    )?;
    let claim: serde_json::Value = serde_json::from_slice(&claim.expect(200)?.body)?;
    ensure!(claim["cluster_id"] == ids[0], "the repository is of {claim}, the nodes of {}", ids[0]);
    until_answered(|| lan.raw(0).within(Duration::from_secs(5)).put("begun", "", &[], b"")?.expect(200))?;
    for node in 0..NODES {
        lan.raw(node).send(&head_bucket("begun"))?.expect(200).with_context(|| format!("node {node}"))?;
    }
    Ok(())
}

fn head_bucket(bucket: &str) -> raw::Call<'_> {
    raw::Call { method: "HEAD", bucket, key: "", query: &[], headers: &[], body: b"" }
}

/// Right after a failover the first answer of every node is right already.
pub fn failover() -> Result<()> {
    let mut lan = Lan::start(NODES, Find::Static)?;
    lan.raw(0).put("strict", "", &[], b"")?.expect(200)?;
    for round in 0..3 {
        let leader = lan.leader()?;
        let last = format!("last-of-{round}");
        lan.raw(leader).put("strict", "object", &[], last.as_bytes())?.expect(200)?;
        lan.raw(leader).put("strict", &last, &[], b"x")?.expect(200)?;
        lan.kill(leader);
        for node in (0..NODES).filter(|node| *node != leader) {
            let mut raw = lan.raw(node).within(Duration::from_secs(5));
            let reply = until_answered(|| raw.get("strict", "object", &[])?.expect(200))?;
            ensure!(reply.text() == last, "node {node} reads {} after {last}", reply.text());
            let keys = until_answered(|| raw.list("strict", ""))?;
            ensure!(keys.len() == round + 2, "node {node} lists {keys:?}");
        }
        lan.launch(leader)?;
        lan.await_ready(leader)?;
        let reply = until_answered(|| lan.raw(leader).get("strict", "object", &[])?.expect(200))?;
        ensure!(reply.text() == last, "the old leader reads {} after {last}", reply.text());
    }
    Ok(())
}

/// SDKs as they come, each on one node, while one node after the other is restarted. Some give up within 0.2 s, which is
/// less than a process needs to begin: such requests to the node that is away are counted apart. Nothing else may fail.
pub fn restart_under_boto3() -> Result<()> {
    const SCRIPT: &str = include_str!("../../boto3/cluster/restarts.py");
    let mut lan = Lan::start(NODES, Find::Static)?;
    let signs = tempfile::tempdir()?;
    let (begun, over) = (signs.path().join("begun"), signs.path().join("over"));
    let mut arguments = vec![begun.to_string_lossy().into_owned(), over.to_string_lossy().into_owned()];
    arguments.extend((0..NODES).map(|node| lan.endpoint(node).url()));
    let endpoint = lan.endpoint(0);
    let clients = std::thread::spawn(move || {
        boto3::run(&endpoint, SCRIPT, &arguments.iter().map(String::as_str).collect::<Vec<_>>())
    });
    let rolled = wait_until("the clients", SOON, || Ok(begun.exists() || clients.is_finished())).and_then(|()| {
        for node in 0..NODES {
            let began = Instant::now();
            lan.stop(node)?;
            let stopped = began.elapsed();
            lan.launch(node)?;
            lan.await_ready(node)?;
            let ready = began.elapsed();
            say(&format!(
                "node {node} stopped in {:.1} s, ready after {:.1} s",
                stopped.as_secs_f32(),
                ready.as_secs_f32()
            ));
        }
        Ok(())
    });
    std::fs::write(&over, "")?;
    let output = clients.join().map_err(|_| anyhow::anyhow!("the clients panicked"))??;
    rolled?;
    let line = output.lines().last().context("the clients printed nothing")?;
    say(line);
    let counts: serde_json::Value = serde_json::from_str(line)?;
    ensure!(counts["done"].as_u64() > Some(50), "too little was done: {line}");
    ensure!(counts["failed"] == 0 && counts["wrong"] == 0, "{line}");
    Ok(())
}
