//! Locks and the feed as a user meets them: `holdfast lock`, `holdfast watch`, `mc watch`, and fences on S3 writes.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, ExitCode, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use holdfast_compat_tests::client::cli::{Watch, command};
use holdfast_compat_tests::client::mc::Mc;
use holdfast_compat_tests::client::raw::{Call, Reply};
use holdfast_compat_tests::process::wait_until;
use holdfast_compat_tests::suite::Suite;
use holdfast_compat_tests::target::Endpoint;
use serde_json::Value;

const SOON: Duration = Duration::from_secs(20);

type Case = (&'static str, fn(&Endpoint, &Path) -> Result<()>);

const CASES: &[Case] = &[
    ("a_command_under_a_lock_gets_its_token_and_gives_its_exit_code", run_under_a_lock),
    ("a_command_is_killed_when_its_lock_is_lost", killed_when_lost),
    ("a_lease_that_is_not_renewed_ends_with_its_keys", leases_end),
    ("whoever_waits_and_goes_away_leaves_the_queue", queue_is_left),
    ("a_stale_fence_is_refused_by_every_write", stale_fences),
    ("a_watch_goes_on_where_it_was", watch_goes_on),
    ("what_is_compacted_is_gone_and_says_so", compacted),
    ("mc_watch_hears_at_once", mc_watch),
];

fn main() -> ExitCode {
    let mut suite = Suite::new(2);
    for (name, run) in CASES.iter().copied() {
        let flags: &[&str] = if name.starts_with("what_is_compacted") { &["--events-keep", "24h,2KiB"] } else { &[] };
        suite.case_with_server(name, flags, move |_, endpoint, dir| run(endpoint, dir));
    }
    suite.run()
}

fn holdfast(endpoint: &Endpoint, words: &[&str]) -> Result<Output> {
    command(endpoint)?.args(words).output().context("cannot run holdfast")
}

fn ask(endpoint: &Endpoint, method: &str, path: &str, query: &[(&str, &str)]) -> Result<Reply> {
    let call = Call { method, bucket: "_holdfast", key: path, query, headers: &[], body: b"" };
    Ok(endpoint.raw().send(&call)?)
}

fn json(reply: &Reply) -> Result<Value> {
    serde_json::from_slice(&reply.body).with_context(|| reply.text())
}

fn run_under_a_lock(endpoint: &Endpoint, _: &Path) -> Result<()> {
    let script = "echo \"$HOLDFAST_LOCK_NAME=$HOLDFAST_LOCK_TOKEN\"; sleep 3; exit 7";
    let ran = holdfast(endpoint, &["lock", "run", "jobs/nightly", "--ttl", "2s", "--", "sh", "-c", script])?;
    ensure!(ran.status.code() == Some(7), "it ended with {}: {}", ran.status, String::from_utf8_lossy(&ran.stderr));
    let told = String::from_utf8_lossy(&ran.stdout).into_owned();
    let token: u64 = told.trim().strip_prefix("jobs/nightly=").context(told.clone())?.parse()?;
    ensure!(token > 0, "{told}");
    let state = json(&ask(endpoint, "GET", "v1/locks/jobs/nightly", &[])?.expect(200)?)?;
    ensure!(state["holders"] == serde_json::json!([]), "it is still held: {state}");
    // It is renewed while the command runs, so it is not had by another one meanwhile.
    let mut first = command(endpoint)?.args(["lock", "run", "a", "--ttl", "1s", "--", "sleep", "3"]).spawn()?;
    wait_until("the lock to be held", SOON, || {
        Ok(json(&ask(endpoint, "GET", "v1/locks/a", &[])?)?["holders"][0].is_object())
    })?;
    let second = holdfast(endpoint, &["lock", "acquire", "a"])?;
    ensure!(second.status.code() == Some(1), "two hold it");
    let waited = holdfast(endpoint, &["lock", "acquire", "a", "--wait", "10s", "--json"])?;
    ensure!(waited.status.success(), "{}", String::from_utf8_lossy(&waited.stderr));
    ensure!(first.wait()?.success(), "the first command failed");
    // On a terminal the command may read.
    let program = command(endpoint)?.get_program().to_string_lossy().into_owned();
    let mut terminal = Command::new("script");
    terminal.args(["-qec", &format!("{program} lock run typed -- sh -c 'read word; echo got $word'"), "/dev/null"]);
    for (name, value) in command(endpoint)?.get_envs() {
        value.map(|value| terminal.env(name, value));
    }
    let mut terminal = terminal.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("cannot run script")?;
    terminal.stdin.take().context("a pipe")?.write_all(b"hello\n")?;
    let told = terminal.wait_with_output()?;
    ensure!(String::from_utf8_lossy(&told.stdout).contains("got hello"), "{told:?}");
    Ok(())
}

fn killed_when_lost(endpoint: &Endpoint, dir: &Path) -> Result<()> {
    let mark = dir.join("still-runs");
    let script = format!("trap '' TERM; while true; do date > {}; sleep 0.1; done", mark.display());
    // What leaves the group and the session is killed as well.
    let script = format!("setsid sh -c \"{script}\" & wait");
    let mut run = command(endpoint)?.args(["lock", "run", "lost", "--ttl", "2s", "--", "sh", "-c", &script]).spawn()?;
    wait_until("the command to run", SOON, || Ok(mark.exists()))?;
    let held = json(&ask(endpoint, "GET", "v1/locks/lost", &[])?.expect(200)?)?;
    let lease = held["holders"][0]["lease"].to_string();
    ask(endpoint, "DELETE", "v1/locks/lost", &[("lease", &lease)])?.expect(200)?;
    let began = Instant::now();
    let status = loop {
        if let Some(status) = run.try_wait()? {
            break status;
        }
        ensure!(began.elapsed() < SOON, "it still runs");
        std::thread::sleep(Duration::from_millis(20));
    };
    ensure!(status.code() == Some(1), "it ended with {status}");
    std::fs::remove_file(&mark).ok();
    std::thread::sleep(Duration::from_millis(500));
    ensure!(!mark.exists(), "what the command started still runs");
    Ok(())
}

fn leases_end(endpoint: &Endpoint, _: &Path) -> Result<()> {
    let granted = json(&ask(endpoint, "POST", "v1/leases", &[("ttl", "2s"), ("owner", "service")])?.expect(200)?)?;
    let lease = granted["lease"].to_string();
    let put = |name: &str| -> Result<Reply> {
        let key = format!("v1/keys/{name}");
        let call = Call {
            method: "PUT",
            bucket: "_holdfast",
            key: &key,
            query: &[("lease", &lease)],
            headers: &[("if-none-match", "*")],
            body: b"10.0.0.1:80",
        };
        Ok(endpoint.raw().send(&call)?)
    };
    put("services/api/1")?.expect(200)?;
    ensure!(put("services/api/1")?.status == 412, "a leader election with two winners");
    let value = ask(endpoint, "GET", "v1/keys/services/api/1", &[])?.expect(200)?;
    ensure!(value.body == b"10.0.0.1:80", "{}", value.text());
    // While it is renewed it lives.
    for _ in 0..4 {
        std::thread::sleep(Duration::from_secs(1));
        ask(endpoint, "POST", &format!("v1/leases/{lease}"), &[])?.expect(200)?;
    }
    ask(endpoint, "GET", "v1/keys/services/api/1", &[])?.expect(200)?;
    let began = Instant::now();
    wait_until("the key to go", SOON, || Ok(ask(endpoint, "GET", "v1/keys/services/api/1", &[])?.status == 404))?;
    ensure!(began.elapsed() > Duration::from_millis(1500), "it ended early: {:?}", began.elapsed());
    ensure!(ask(endpoint, "POST", &format!("v1/leases/{lease}"), &[])?.status == 404, "an ended lease was renewed");
    Ok(())
}

fn queue_is_left(endpoint: &Endpoint, _: &Path) -> Result<()> {
    ask(endpoint, "PUT", "v1/locks/queue", &[("ttl", "60s")])?.expect(200)?;
    let mut waiter = command(endpoint)?.args(["lock", "acquire", "queue", "--wait", "60s"]).spawn()?;
    let waiters = || -> Result<usize> {
        let state = json(&ask(endpoint, "GET", "v1/locks/queue", &[])?.expect(200)?)?;
        Ok(state["waiters"].as_array().map_or(0, Vec::len))
    };
    wait_until("a waiter", SOON, || Ok(waiters()? == 1))?;
    waiter.kill()?;
    waiter.wait()?;
    wait_until("the queue to be empty", SOON, || Ok(waiters()? == 0))
}

fn stale_fences(endpoint: &Endpoint, _: &Path) -> Result<()> {
    let bucket = endpoint.new_bucket("fenced")?;
    let mut raw = endpoint.raw();
    raw.put(&bucket, "there", &[], b"x")?.expect(200)?;
    let upload = raw.create_upload(&bucket, "parts", &[])?;
    let held = json(&ask(endpoint, "PUT", "v1/locks/writer", &[("ttl", "30s")])?.expect(200)?)?;
    let (good, stale) =
        (format!("writer={}", held["token"]), format!("writer={}", held["token"].as_u64().unwrap_or(1) - 1));
    let source = format!("/{bucket}/there");
    let tags = "<Tagging><TagSet><Tag><Key>a</Key><Value>b</Value></Tag></TagSet></Tagging>";
    type Write<'a> = (&'a str, &'a str, Vec<(&'a str, &'a str)>, Vec<(&'a str, &'a str)>, &'a str);
    let writes: Vec<Write<'_>> = vec![
        ("PUT", "put", vec![], vec![], "x"),
        ("PUT", "copy", vec![], vec![("x-amz-copy-source", &source)], ""),
        ("PUT", "parts", vec![("partNumber", "1"), ("uploadId", &upload)], vec![], "x"),
        ("PUT", "there", vec![("tagging", "")], vec![], tags),
        ("POST", "more-parts", vec![("uploads", "")], vec![], ""),
        ("DELETE", "there", vec![], vec![], ""),
    ];
    for (method, key, query, headers, body) in &writes {
        let mut with = |fence: &str| -> Result<Reply> {
            let mut headers = headers.clone();
            headers.push(("x-holdfast-fence", fence));
            let call = Call { method, bucket: &bucket, key, query, headers: &headers, body: body.as_bytes() };
            Ok(raw.send(&call)?)
        };
        with(&stale)?.expect_error(412, "FencingTokenStale").with_context(|| format!("{method} {key}"))?;
        let reply = with(&good)?;
        ensure!(matches!(reply.status, 200 | 204), "{method} {key}: {} {}", reply.status, reply.text());
    }
    let lease = held["lease"].to_string();
    ask(endpoint, "DELETE", "v1/locks/writer", &[("lease", &lease)])?.expect(200)?;
    let late = raw.put(&bucket, "late", &[("x-holdfast-fence", &good)], b"x")?;
    late.expect_error(412, "FencingTokenStale")?;
    ensure!(raw.get(&bucket, "late", &[])?.status == 404, "a stale write is there");
    raw.put(&bucket, "late", &[("x-holdfast-fence", "nonsense")], b"x")?.expect(400)?;
    Ok(())
}

fn watch_goes_on(endpoint: &Endpoint, dir: &Path) -> Result<()> {
    let bucket = endpoint.new_bucket("watched")?;
    let other = endpoint.new_bucket("other")?;
    let mut raw = endpoint.raw();
    let what = format!("s3://{bucket}/a/");
    let first = Watch::start(endpoint, &what, Some("0"), &dir.join("first.json"))?;
    for number in 0..10 {
        raw.put(&bucket, &format!("a/{number}"), &[], b"x")?.expect(200)?;
        raw.put(&bucket, &format!("b/{number}"), &[], b"x")?.expect(200)?;
        raw.put(&other, &format!("a/{number}"), &[], b"x")?.expect(200)?;
    }
    wait_until("the first ten", SOON, || Ok(first.events()?.len() == 10))?;
    let last = first.events()?.pop().context("none")?;
    drop(first);
    for number in 0..5 {
        raw.delete(&bucket, &format!("a/{number}"), &[])?.expect(204)?;
    }
    let second = Watch::start(endpoint, &what, Some(&last.id()), &dir.join("second.json"))?;
    wait_until("five deletions", SOON, || Ok(second.events()?.len() == 5))?;
    let keys: Vec<_> = second.events()?.iter().map(|event| (event.name.clone(), event.key.clone())).collect();
    let expected: Vec<_> = (0..5).map(|number| ("ObjectRemoved:Delete".to_owned(), format!("a/{number}"))).collect();
    ensure!(keys == expected, "{keys:?}");
    Ok(())
}

fn compacted(endpoint: &Endpoint, dir: &Path) -> Result<()> {
    let bucket = endpoint.new_bucket("compacted")?;
    let mut raw = endpoint.raw();
    for number in 0..50 {
        raw.put(&bucket, &format!("k{number}"), &[], b"x")?.expect(200)?;
    }
    wait_until("old events to go", SOON, || {
        let query = [("from", "1")];
        let call = Call { method: "GET", bucket: "_holdfast", key: "v1/watch", query: &query, headers: &[], body: b"" };
        // A stream does not end: it breaks off at the deadline of the socket.
        let reply = endpoint.raw().within(Duration::from_millis(500)).send(&call);
        Ok(reply.is_ok_and(|reply| reply.status == 410))
    })?;
    let unknown = ask(endpoint, "GET", "v1/watch", &[("event", "s3:ObjectCreated:*,s3:Nothing")])?.expect(400)?;
    ensure!(unknown.text().contains("there is no event s3:Nothing"), "{}", unknown.text());
    let gone = ask(endpoint, "GET", "v1/watch", &[("from", "1")])?.expect(410)?;
    let gone = json(&gone)?;
    ensure!(gone["code"] == "Compacted", "{gone}");
    let told = holdfast(endpoint, &["watch", &format!("s3://{bucket}/"), "--from", "1"])?;
    ensure!(told.status.code() == Some(1), "it goes on: {told:?}");
    ensure!(String::from_utf8_lossy(&told.stderr).contains("compacted up to revision"), "{told:?}");
    let words = gone["message"].as_str().unwrap_or_default();
    let oldest: String = words.chars().filter(char::is_ascii_digit).collect();
    let watch = Watch::start(endpoint, &format!("s3://{bucket}/"), Some(&oldest), &dir.join("rest.json"))?;
    wait_until("what is kept", SOON, || Ok(watch.events()?.last().is_some_and(|event| event.key == "k49")))
}

fn mc_watch(endpoint: &Endpoint, dir: &Path) -> Result<()> {
    let mc = Mc::new(endpoint)?;
    let bucket = endpoint.new_bucket("mcwatch")?;
    let log = dir.join("mc.json");
    let mut watch: Command = mc.command(&["watch", "--json", "--prefix", "a/", &format!("t/{bucket}")]);
    let mut watch = watch.stdout(std::fs::File::create(&log)?).spawn().context("cannot run mc")?;
    let mut raw = endpoint.raw();
    let heard = || std::fs::read_to_string(&log).unwrap_or_default();
    // It is not known when mc listens.
    let result = wait_until("mc to hear", SOON, || {
        raw.put(&bucket, "b/no", &[], b"x")?.expect(200)?;
        raw.put(&bucket, "a/a b", &[], b"x")?.expect(200)?;
        std::thread::sleep(Duration::from_millis(300));
        Ok(heard().contains("ObjectCreated:Put"))
    });
    let began = Instant::now();
    let deleted = raw.delete(&bucket, "a/a b", &[]);
    let second = wait_until("mc to hear of the deletion", SOON, || Ok(heard().contains("ObjectRemoved:Delete")));
    let took = began.elapsed();
    watch.kill()?;
    watch.wait()?;
    result?;
    deleted?.expect(204)?;
    second?;
    ensure!(!heard().contains("b/no"), "the prefix was ignored: {}", heard());
    // mc prints keys as records have them: as a form writes them.
    ensure!(heard().contains("a/a+b"), "the key is another: {}", heard());
    ensure!(took < Duration::from_secs(5), "an event took {took:?}");
    Ok(())
}
