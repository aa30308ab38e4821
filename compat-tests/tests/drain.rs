//! SIGTERM: not ready at once, what is in flight ends well, exit 0. A second one ends it now.

use std::io::{BufRead, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use holdfast_compat_tests::client::raw::{self, same_bytes};
use holdfast_compat_tests::client::sign::{Canonical, Scope, UNSIGNED_PAYLOAD};
use holdfast_compat_tests::fixture;
use holdfast_compat_tests::process::{Holdfast, HoldfastOptions, wait_until};
use holdfast_compat_tests::suite::Suite;
use holdfast_compat_tests::target::{Endpoint, Target};

/// A drain may take 30 s; more is a hang.
const DRAIN_WITHIN: Duration = Duration::from_secs(35);
const SECOND_SIGNAL_WITHIN: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let mut suite = Suite::new(2);
    suite.case("an_idle_server_drains_at_once", an_idle_server_drains_at_once);
    suite.case("an_upload_in_flight_ends_well", an_upload_in_flight_ends_well);
    suite.case("a_second_signal_ends_it_now", a_second_signal_ends_it_now);
    suite.case("what_was_acknowledged_is_there_after_a_drain", what_was_acknowledged_is_there_after_a_drain);
    suite.run()
}

fn start() -> Result<(tempfile::TempDir, Holdfast, Endpoint)> {
    let dir = tempfile::tempdir()?;
    let server = Holdfast::start(HoldfastOptions::embedded(dir.path()))?;
    let endpoint = Endpoint::of(Target::Embedded, server.address());
    Ok((dir, server, endpoint))
}

fn an_idle_server_drains_at_once() -> Result<()> {
    let (_dir, mut server, endpoint) = start()?;
    // A client that only keeps its connection open must not hold the drain up.
    let mut idle = endpoint.raw();
    idle.get("", "", &[])?.expect(200)?;
    let began = Instant::now();
    server.process().terminate();
    let status = server.process().wait(DRAIN_WITHIN).with_context(|| server.log_tail(20))?;
    ensure!(status.code() == Some(0), "ended with {status}: {}", server.log_tail(20));
    ensure!(began.elapsed() < Duration::from_secs(10), "an idle server took {:?} to drain", began.elapsed());
    Ok(())
}

/// Begins a PUT of `body` and sends the first half, once the server has said that it is reading: only then is the request
/// in flight for certain.
fn half_a_put(endpoint: &Endpoint, bucket: &str, body: &[u8]) -> Result<std::io::BufReader<std::net::TcpStream>> {
    let scope = Scope::now(endpoint);
    let path = format!("/{bucket}/in-flight");
    let mut headers = vec![
        ("host".to_owned(), endpoint.address.clone()),
        ("x-amz-content-sha256".to_owned(), UNSIGNED_PAYLOAD.to_owned()),
        ("x-amz-date".to_owned(), scope.timestamp.clone()),
    ];
    let request = Canonical { method: "PUT", path: &path, query: &[], headers: &headers, payload: UNSIGNED_PAYLOAD };
    headers.push(("authorization".to_owned(), scope.authorization(&request)));
    headers.push(("content-length".to_owned(), body.len().to_string()));
    headers.push(("expect".to_owned(), "100-continue".to_owned()));
    let head: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let mut connection = raw::connect(&endpoint.address)?;
    connection.get_mut().write_all(format!("PUT {path} HTTP/1.1\r\n{head}\r\n").as_bytes())?;
    let mut line = String::new();
    connection.read_line(&mut line)?;
    ensure!(line.starts_with("HTTP/1.1 100"), "no 100 Continue: {line}");
    connection.read_line(&mut line)?;
    connection.get_mut().write_all(&body[..body.len() / 2])?;
    Ok(connection)
}

fn an_upload_in_flight_ends_well() -> Result<()> {
    let (_dir, mut server, endpoint) = start()?;
    let bucket = endpoint.new_bucket("drain")?;
    let body = fixture::bytes(1, 2 << 20);
    let mut upload = half_a_put(&endpoint, &bucket, &body)?;
    server.process().terminate();
    // Not ready: it says 503 while it drains, or no longer accepts.
    wait_until("readiness to be withdrawn", Duration::from_secs(5), || {
        Ok(raw::health(&endpoint.address, "/_holdfast/health/ready") != Some(200))
    })?;
    ensure!(server.process().is_running()?, "it did not wait for the upload: {}", server.log_tail(20));
    upload.get_mut().write_all(&body[body.len() / 2..])?;
    let (reply, _) = raw::read_reply(&mut upload, "PUT").context("the upload in flight got no answer")?;
    reply.expect(200)?;
    let status = server.process().wait(DRAIN_WITHIN)?;
    ensure!(status.code() == Some(0), "ended with {status}: {}", server.log_tail(20));
    server.restart()?;
    let endpoint = Endpoint::of(Target::Embedded, server.address());
    let got = endpoint.raw().get(&bucket, "in-flight", &[])?.expect(200)?;
    same_bytes("the object after the restart", &got.body, &body)
}

fn a_second_signal_ends_it_now() -> Result<()> {
    let (_dir, mut server, endpoint) = start()?;
    let bucket = endpoint.new_bucket("drain")?;
    // An upload that never goes on would keep the drain waiting for its whole deadline.
    let _stuck = half_a_put(&endpoint, &bucket, &fixture::bytes(1, 1 << 20))?;
    server.process().terminate();
    wait_until("readiness to be withdrawn", Duration::from_secs(5), || {
        Ok(raw::health(&endpoint.address, "/_holdfast/health/ready") != Some(200))
    })?;
    ensure!(server.process().is_running()?, "it did not wait for the upload");
    server.process().terminate();
    server.process().wait(SECOND_SIGNAL_WITHIN).with_context(|| server.log_tail(20))?;
    server.restart()?;
    let endpoint = Endpoint::of(Target::Embedded, server.address());
    endpoint.raw().get(&bucket, "in-flight", &[])?.expect_error(404, "NoSuchKey")?;
    Ok(())
}

fn what_was_acknowledged_is_there_after_a_drain() -> Result<()> {
    let (_dir, mut server, endpoint) = start()?;
    let bucket = endpoint.new_bucket("drain")?;
    let mut raw = endpoint.raw();
    for number in 0..200 {
        raw.put(&bucket, &format!("k{number:03}"), &[], &fixture::bytes(number, 3000))?.expect(200)?;
    }
    server.process().terminate();
    ensure!(server.process().wait(DRAIN_WITHIN)?.code() == Some(0), "{}", server.log_tail(20));
    server.restart()?;
    let mut raw = Endpoint::of(Target::Embedded, server.address()).raw();
    ensure!(raw.list(&bucket, "")?.len() == 200, "keys are missing");
    for number in 0..200 {
        let got = raw.get(&bucket, &format!("k{number:03}"), &[])?.expect(200)?;
        same_bytes("object", &got.body, &fixture::bytes(number, 3000))?;
    }
    Ok(())
}
