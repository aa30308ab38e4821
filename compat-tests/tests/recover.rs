//! Disaster: the node's part of the cluster is gone, only the backend is left, and `holdfast recover` builds a new one.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use holdfast_compat_tests::client::raw::{Call, Raw, same_bytes};
use holdfast_compat_tests::fixture;
use holdfast_compat_tests::process::{Holdfast, HoldfastOptions, Launch, Process, holdfast_program, tail, wait_until};
use holdfast_compat_tests::suite::Suite;
use holdfast_compat_tests::target::{Endpoint, Target};
use serde_json::Value;

/// A recovery waits up to 62 s for the old cluster.
const RECOVER_WITHIN: Duration = Duration::from_secs(120);

fn main() -> ExitCode {
    let mut suite = Suite::new(2);
    suite.case(
        "a_lost_cluster_directory_is_recovered_from_the_store",
        a_lost_cluster_directory_is_recovered_from_the_store,
    );
    suite.case(
        "bucket_durability_survives_kill_and_loss_of_the_node",
        bucket_durability_survives_kill_and_loss_of_the_node,
    );
    suite.case(
        "a_running_node_stops_when_it_was_recovered_elsewhere",
        a_running_node_stops_when_it_was_recovered_elsewhere,
    );
    suite.run()
}

struct Site {
    dir: tempfile::TempDir,
    server: Holdfast,
    endpoint: Endpoint,
}

fn start() -> Result<Site> {
    let dir = tempfile::tempdir()?;
    let mut options = HoldfastOptions::embedded(dir.path());
    options.backend = Some(format!("file:{}", dir.path().join("store").display()));
    let server = Holdfast::start(options)?;
    let endpoint = Endpoint::of(Target::Embedded, server.address());
    Ok(Site { dir, server, endpoint })
}

impl Site {
    /// Runs `holdfast recover` into `data`; gives its exit code and output.
    fn recover(&self, data: &str, more: &[&str]) -> Result<(Option<i32>, String)> {
        let mut args: Vec<std::ffi::OsString> = vec!["recover".into(), "--json".into(), "--data".into()];
        args.push(self.dir.path().join(data).into());
        args.push("--backend".into());
        args.push(format!("file:{}", self.dir.path().join("store").display()).into());
        args.extend(more.iter().map(Into::into));
        let log = self.dir.path().join(format!("recover-{data}-{}.log", more.len()));
        let mut process = Process::start(&Launch { program: holdfast_program()?, args, env: Vec::new(), log })?;
        let status = process.wait(RECOVER_WITHIN).with_context(|| tail(&process.output(), 20))?;
        Ok((status.code(), process.output()))
    }

    /// A server on a recovered directory.
    fn serve(&self, data: &str) -> Result<(Holdfast, Endpoint)> {
        let mut options = HoldfastOptions::embedded(self.dir.path());
        options.data = self.dir.path().join(data);
        options.backend = Some(format!("file:{}", self.dir.path().join("store").display()));
        options.log = self.dir.path().join(format!("{data}.log"));
        let server = Holdfast::start(options)?;
        let endpoint = Endpoint::of(Target::Embedded, server.address());
        Ok((server, endpoint))
    }
}

fn report(output: &str) -> Result<Value> {
    let from = output.find('{').with_context(|| format!("no report in {output}"))?;
    Ok(serde_json::from_str(&output[from..])?)
}

fn status(raw: &mut Raw) -> Result<Value> {
    let reply = raw.get("_holdfast", "v1/status", &[])?.expect(200)?;
    Ok(serde_json::from_str(&reply.text())?)
}

fn await_archived(raw: &mut Raw) -> Result<()> {
    let began = Instant::now();
    wait_until("the archive to catch up", Duration::from_secs(20), || {
        Ok(status(raw)?["archive"]["lag_revisions"] == 0)
    })?;
    ensure!(began.elapsed() < Duration::from_secs(15), "it took {:?}", began.elapsed());
    Ok(())
}

fn a_lost_cluster_directory_is_recovered_from_the_store() -> Result<()> {
    let mut site = start()?;
    let mut raw = site.endpoint.raw();
    let bucket = site.endpoint.new_versioned_bucket("recover")?;
    let (small, large) = (fixture::bytes(1, 3000), fixture::bytes(2, 300_000));
    for number in 0..20 {
        raw.put(&bucket, &format!("small/{number}"), &[("x-amz-meta-number", &number.to_string())], &small)?
            .expect(200)?;
    }
    raw.put(&bucket, "large", &[], &large)?.expect(200)?;
    raw.put(&bucket, "small/3", &[], b"newer")?.expect(200)?;
    raw.delete(&bucket, "small/4", &[])?.expect(204)?;
    let upload = raw.create_upload(&bucket, "in-progress", &[])?;
    raw.upload_part(&bucket, "in-progress", &upload, 1, &large)?;
    let keys = raw.list(&bucket, "")?;
    await_archived(&mut raw)?;
    let revision = status(&mut raw)?["revision"].as_u64().context("no revision")?;
    site.server.kill();
    std::fs::remove_dir_all(site.dir.path().join("data/cluster"))?;

    let (code, output) = site.recover("new", &["--dry-run", "--verify", "all"])?;
    let looked = report(&output)?;
    ensure!(code == Some(0) && looked["generation"] == 2 && looked["blobs"]["missing"] == 0, "{output}");
    let (code, output) = site.recover("new", &["--verify", "all"])?;
    let report = report(&output)?;
    ensure!(code == Some(0) && report["revision"].as_u64() >= Some(revision), "{output}");
    ensure!(output.contains("waiting"), "the old cluster had just given a sign of life: {output}");

    let (_server, endpoint) = site.serve("new")?;
    let mut raw = endpoint.raw();
    ensure!(raw.list(&bucket, "")? == keys, "the listing differs");
    same_bytes("large", &raw.get(&bucket, "large", &[])?.expect(200)?.body, &large)?;
    same_bytes("small/3", &raw.get(&bucket, "small/3", &[])?.expect(200)?.body, b"newer")?;
    let reply = raw.get(&bucket, "small/7", &[])?.expect(200)?;
    ensure!(reply.header("x-amz-meta-number") == Some("7"), "metadata is lost");
    raw.get(&bucket, "small/4", &[])?.expect(404)?;
    raw.put(&bucket, "small/4", &[], b"back")?.expect(200)?;
    let part = raw.upload_part(&bucket, "in-progress", &upload, 2, b"end")?;
    ensure!(!part.is_empty(), "the upload in progress is lost");
    ensure!(status(&mut raw)?["generation"] == 2, "the generation was not raised");
    refuses_the_old_directory(&site)
}

/// The old directory, had it not been lost, is of generation 1: it must not serve again.
fn refuses_the_old_directory(site: &Site) -> Result<()> {
    let old = site.dir.path().join("old/cluster");
    std::fs::create_dir_all(&old)?;
    let (_, output) = site.recover("new", &["--dry-run"])?;
    ensure!(output.contains("is there already") || output.contains("in use"), "a living directory is kept: {output}");
    let (_, output) = site.recover("third", &["--dry-run"])?;
    let looked = report(&output)?;
    ensure!(looked["generation"] == 3 && looked["from_generation"] == 2, "{output}");
    Ok(())
}

fn bucket_durability_survives_kill_and_loss_of_the_node() -> Result<()> {
    let mut site = start()?;
    let mut raw = site.endpoint.raw();
    let bucket = site.endpoint.new_bucket("durable")?;
    let key = format!("v1/buckets/{bucket}");
    let body = br#"{"durability":"bucket"}"#;
    let set = Call { method: "PUT", bucket: "_holdfast", key: &key, query: &[], headers: &[], body };
    raw.send(&set)?.expect(200)?;
    for number in 0..25 {
        raw.put(&bucket, &format!("k/{number:02}"), &[], format!("value {number}").as_bytes())?.expect(200)?;
    }
    // At once: nothing had time to be archived later.
    site.server.kill();
    std::fs::remove_dir_all(site.dir.path().join("data"))?;
    let (code, output) = site.recover("new", &["--force"])?;
    ensure!(code == Some(0), "{output}");
    let (_server, endpoint) = site.serve("new")?;
    let mut raw = endpoint.raw();
    for number in 0..25 {
        let reply = raw.get(&bucket, &format!("k/{number:02}"), &[])?.expect(200)?;
        same_bytes("a durable object", &reply.body, format!("value {number}").as_bytes())?;
    }
    Ok(())
}

fn a_running_node_stops_when_it_was_recovered_elsewhere() -> Result<()> {
    let mut site = start()?;
    let mut raw = site.endpoint.raw();
    let bucket = site.endpoint.new_bucket("fenced")?;
    raw.put(&bucket, "key", &[], b"value")?.expect(200)?;
    await_archived(&mut raw)?;
    let (code, output) = site.recover("new", &["--force"])?;
    ensure!(code == Some(0), "{output}");
    let status = site.server.process().wait(Duration::from_secs(60)).context("the old node still runs after 60 s")?;
    let log = site.server.log_tail(20);
    ensure!(status.code() == Some(1) && log.contains("recovered as generation 2"), "{status}: {log}");
    let again = site.server.restart();
    let error = format!("{:#}", again.err().context("the stale directory was served")?);
    ensure!(error.contains("recovered as generation 2") && error.contains("recovered data directory"), "{error}");
    let (_server, endpoint) = site.serve("new")?;
    same_bytes("key", &endpoint.raw().get(&bucket, "key", &[])?.expect(200)?.body, b"value")
}
