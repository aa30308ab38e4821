//! Topics as a user meets them: over HTTP, and by `holdfast topic`.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, ExitCode, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use holdfast_compat_tests::client::cli::command;
use holdfast_compat_tests::client::raw::{Call, Raw};
use holdfast_compat_tests::client::topic::{acknowledge, ask, claim, group, json, offsets, publish, read};
use holdfast_compat_tests::process::{Holdfast, wait_until};
use holdfast_compat_tests::suite::Suite;
use holdfast_compat_tests::target::{Endpoint, Target};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json as object;

const SOON: Duration = Duration::from_secs(20);

type Case = (&'static str, fn(&mut Holdfast, &Endpoint, &Path) -> Result<()>);

const CASES: &[Case] = &[
    ("messages_are_published_and_read_by_offset", published_and_read),
    ("a_reader_that_waits_is_woken", readers_wait),
    ("a_claim_that_is_not_acknowledged_is_delivered_again", claims),
    ("a_topic_is_there_after_a_kill", survives_a_kill),
    ("the_command_line_publishes_reads_and_consumes", command_line),
    ("consumers_that_are_killed_lose_no_message", killed_consumers),
    ("old_messages_go_and_their_readers_are_told", retention),
];

fn main() -> ExitCode {
    let mut suite = Suite::new(2);
    for (name, run) in CASES.iter().copied() {
        suite.case_with_server(name, &[], run);
    }
    suite.run()
}

fn holdfast(endpoint: &Endpoint, words: &[&str], input: &str) -> Result<Output> {
    let mut command = command(endpoint)?;
    command.arg("topic").args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("cannot run holdfast")?;
    child.stdin.take().context("no standard input")?.write_all(input.as_bytes())?;
    Ok(child.wait_with_output()?)
}

fn stdout_of(output: &Output) -> Result<String> {
    ensure!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn published_and_read(_: &mut Holdfast, endpoint: &Endpoint, _: &Path) -> Result<()> {
    let mut raw = endpoint.raw();
    ask(&mut raw, "GET", "orders", &[], b"")?.expect(404)?;
    let headers = [("content-type", "application/json"), ("x-holdfast-attr-kind", "créated")];
    let query = [("key", "order/7")];
    let call = Call {
        method: "POST",
        bucket: "_holdfast",
        key: "v1/topics/orders",
        query: &query,
        headers: &headers,
        body: b"{}",
    };
    let first = json(&raw.send(&call)?.expect(200)?)?;
    ensure!(first["offset"] == 0 && first["topic"] == "orders" && first["revision"].is_u64(), "{first}");
    ensure!(publish(&mut raw, "orders", &[0xff, 0])? == 1, "not the next offset");
    let lines = "{\"value\":\"a\",\"key\":\"k\"}\n{\"value_base64\":\"AAE=\",\"attributes\":{\"x\":\"y\"}}\n";
    let batch = json(&ask(&mut raw, "POST", "orders", &[("batch", "true")], lines.as_bytes())?.expect(200)?)?;
    ensure!(batch["first_offset"] == 2 && batch["count"] == 2, "{batch}");
    let messages = read(&mut raw, "orders", "oldest", "0s")?;
    ensure!(offsets(&messages) == [0, 1, 2, 3], "{messages:?}");
    let one = &messages[0];
    ensure!(one["value"] == "{}" && one["key"] == "order/7" && one["content_type"] == "application/json", "{one}");
    ensure!(one["attributes"]["kind"] == "créated" && one["revision"] == first["revision"], "{one}");
    ensure!(messages[1]["value_base64"] == "/wA=" && messages[3]["value"] == "\0\u{1}", "{messages:?}");
    let page = [("from", "1"), ("max", "2")];
    let page = json(&ask(&mut raw, "GET", "orders/messages", &page, b"")?.expect(200)?)?;
    ensure!(page["next"] == 3 && page["oldest"] == 0 && page["messages"][0]["offset"] == 1, "{page}");
    ask(&mut raw, "GET", "orders/messages", &[("from", "5")], b"")?.expect(400)?;
    let large = vec![b'x'; 1 << 20];
    ensure!(publish(&mut raw, "orders", &large)? == 4, "a message of 1 MiB");
    let refused = ask(&mut raw, "POST", "orders", &[], &vec![b'x'; (1 << 20) + 1])?;
    ensure!(refused.status == 400, "{}", refused.status);
    for (method, path, body) in
        [("POST", "..", "x"), ("PUT", "orders", "{\"kept\":1}"), ("PUT", "orders", "{\"keep\":\"0s\"}")]
    {
        let reply = ask(&mut raw, method, path, &[], body.as_bytes())?;
        ensure!(matches!(reply.status, 400 | 404), "{method} {path}: {} {}", reply.status, reply.text());
    }
    let set = json(&ask(&mut raw, "PUT", "orders", &[], b"{\"keep\":\"3d\",\"keep_bytes\":5000000}")?.expect(200)?)?;
    ensure!(set["keep"] == "3d" && set["keep_bytes"] == 5_000_000 && set["next"] == 5, "{set}");
    publish(&mut raw, "other", b"")?;
    let all = json(&ask(&mut raw, "GET", "", &[], b"")?.expect(200)?)?;
    let names: Vec<_> = all["topics"].as_array().context("no topics")?.iter().map(|topic| &topic["topic"]).collect();
    ensure!(names == ["orders", "other"], "{all}");
    let fence = [("x-holdfast-fence", "nobody-holds-it=1")];
    let fenced =
        Call { method: "POST", bucket: "_holdfast", key: "v1/topics/orders", query: &[], headers: &fence, body: b"x" };
    ensure!(raw.send(&fenced)?.status == 412, "a stale fence published");
    ask(&mut raw, "DELETE", "orders", &[], b"")?.expect(200)?;
    ask(&mut raw, "GET", "orders/messages", &[], b"")?.expect(404)?;
    ensure!(publish(&mut raw, "orders", b"new")? == 0, "the new topic of the name is not another");
    let unsigned = raw.exchange("POST", "/_holdfast/v1/topics/orders", &[("host".into(), "x".into())], b"x")?;
    ensure!(unsigned.status == 403, "an unsigned publish: {}", unsigned.status);
    Ok(())
}

fn readers_wait(_: &mut Holdfast, endpoint: &Endpoint, _: &Path) -> Result<()> {
    let mut raw = endpoint.raw();
    publish(&mut raw, "t", b"before")?;
    ask(&mut raw, "PUT", "t/groups/late", &[], b"{\"from\":\"latest\"}")?.expect(200)?;
    let ask_for = |what: fn(&mut Raw) -> Result<Vec<u64>>| {
        let mut raw = endpoint.raw();
        std::thread::spawn(move || (what(&mut raw), Instant::now()))
    };
    let waiting = [
        ask_for(|raw| Ok(offsets(&read(raw, "t", "latest", "20s")?))),
        ask_for(|raw| Ok(offsets(&read(raw, "t", "1", "20s")?))),
        ask_for(|raw| Ok(offsets(&claim(raw, "t", "late", &[("wait", "20s")])?.1))),
    ];
    std::thread::sleep(Duration::from_millis(700));
    let published = Instant::now();
    publish(&mut raw, "t", b"awaited")?;
    for reader in waiting {
        let (got, at) = reader.join().map_err(|_| anyhow::anyhow!("a reader panicked"))?;
        let got = got?;
        ensure!(got == [1] && at >= published, "{got:?}");
        ensure!(at < published + Duration::from_millis(500), "it took {:?}", at.duration_since(published));
    }
    let began = Instant::now();
    ensure!(read(&mut raw, "t", "latest", "1s")?.is_empty(), "a message from nowhere");
    ensure!(began.elapsed() >= Duration::from_millis(900), "it did not wait: {:?}", began.elapsed());
    ask(&mut raw, "GET", "t/messages", &[("wait", "1h")], b"")?.expect(400)?;
    Ok(())
}

fn claims(_: &mut Holdfast, endpoint: &Endpoint, _: &Path) -> Result<()> {
    let mut raw = endpoint.raw();
    for number in 0..4 {
        publish(&mut raw, "jobs", format!("job {number}").as_bytes())?;
    }
    let settings = object!({ "ttl": "2s", "max_deliveries": 3, "dead_letter": "jobs-dead" }).to_string();
    let set = json(&ask(&mut raw, "PUT", "jobs/groups/work", &[], settings.as_bytes())?.expect(200)?)?;
    ensure!(set["lag"] == 4 && set["dead_letter"] == "jobs-dead" && set["ttl"] == "2s", "{set}");
    let (lease, messages) = claim(&mut raw, "jobs", "work", &[("max", "3"), ("owner", "one")])?;
    let lease = lease.context("nothing to claim")?;
    ensure!(offsets(&messages) == [0, 1, 2] && messages[0]["deliveries"] == 1, "{messages:?}");
    let (other, messages) = claim(&mut raw, "jobs", "work", &[("max", "3")])?;
    ensure!(offsets(&messages) == [3], "two have one message: {messages:?}");
    let nothing = claim(&mut raw, "jobs", "work", &[])?;
    ensure!(nothing == (None, vec![]), "{nothing:?}");
    // Renewed it lives on.
    for _ in 0..4 {
        std::thread::sleep(Duration::from_secs(1));
        for lease in [lease, other.context("no lease")?] {
            let key = format!("v1/leases/{lease}");
            raw.send(&Call { method: "POST", bucket: "_holdfast", key: &key, query: &[], headers: &[], body: b"" })?
                .expect(200)?;
        }
    }
    let done = json(&acknowledge(&mut raw, "jobs", "work", lease, Some(&[1]))?.expect(200)?)?;
    ensure!(done["acknowledged"] == 1 && done["left"] == 2, "{done}");
    let done = json(&acknowledge(&mut raw, "jobs", "work", other.context("no lease")?, None)?.expect(200)?)?;
    ensure!(done["acknowledged"] == 1 && done["left"] == 0, "{done}");
    acknowledge(&mut raw, "jobs", "other", lease, None)?.expect(404)?;
    // Not renewed it ends, and what it held comes again, to whoever waits for it.
    let began = Instant::now();
    let (again, messages) = claim(&mut raw, "jobs", "work", &[("max", "9"), ("wait", "20s")])?;
    ensure!(offsets(&messages) == [0, 2] && messages[0]["deliveries"] == 2, "{messages:?}");
    ensure!(began.elapsed() > Duration::from_millis(1200), "it ended early: {:?}", began.elapsed());
    acknowledge(&mut raw, "jobs", "work", lease, Some(&[0]))?.expect(404)?;
    let release = |raw: &mut Raw, lease: u64| -> Result<()> {
        let key = format!("v1/leases/{lease}");
        raw.send(&Call { method: "DELETE", bucket: "_holdfast", key: &key, query: &[], headers: &[], body: b"" })?
            .expect(200)?;
        Ok(())
    };
    release(&mut raw, again.context("no lease")?)?;
    let (third, messages) = claim(&mut raw, "jobs", "work", &[("max", "9")])?;
    ensure!(messages.iter().all(|message| message["deliveries"] == 3), "{messages:?}");
    release(&mut raw, third.context("no lease")?)?;
    ensure!(claim(&mut raw, "jobs", "work", &[("max", "9")])?.0.is_none(), "delivered a fourth time");
    let dead = read(&mut raw, "jobs-dead", "oldest", "0s")?;
    let from: Vec<_> = dead.iter().map(|message| (&message["value"], &message["dead"]["offset"])).collect();
    ensure!(from == [(&object!("job 0"), &object!(0)), (&object!("job 2"), &object!(2))], "{dead:?}");
    let state = group(&mut raw, "jobs", "work")?;
    ensure!(state["lag"] == 0 && state["given_up"] == 2 && state["acknowledged"] == 2, "{state}");
    Ok(())
}

fn survives_a_kill(server: &mut Holdfast, endpoint: &Endpoint, _: &Path) -> Result<()> {
    let mut raw = endpoint.raw();
    for number in 0..20 {
        publish(&mut raw, "kept", format!("m{number}").as_bytes())?;
    }
    let (lease, _) = claim(&mut raw, "kept", "g", &[("max", "5"), ("ttl", "60s")])?;
    server.kill();
    server.restart()?;
    let mut raw = Endpoint::of(Target::Embedded, server.address()).raw();
    let values: Vec<String> = read(&mut raw, "kept", "oldest", "0s")?.iter().map(|m| m["value"].to_string()).collect();
    ensure!(values == (0..20).map(|number| format!("\"m{number}\"")).collect::<Vec<_>>(), "{values:?}");
    let done = json(&acknowledge(&mut raw, "kept", "g", lease.context("no lease")?, None)?.expect(200)?)?;
    ensure!(done["acknowledged"] == 5, "{done}");
    ensure!(publish(&mut raw, "kept", b"next")? == 20, "an offset twice, or a gap");
    Ok(())
}

fn command_line(_: &mut Holdfast, endpoint: &Endpoint, dir: &Path) -> Result<()> {
    let lines: String = (0..2500).map(|number| format!("line {number}\n")).collect();
    stdout_of(&holdfast(endpoint, &["publish", "lines", "--lines", "--key", "k", "--json"], &lines)?)?;
    ensure!(
        stdout_of(&holdfast(endpoint, &["read", "lines"], "")?)? == lines,
        "what was read is not what was published"
    );
    let told = stdout_of(&holdfast(endpoint, &["publish", "one", "-"], "whole\ninput")?)?;
    ensure!(told.contains("offset: 0"), "{told}");
    let json_line = stdout_of(&holdfast(endpoint, &["read", "lines", "--from", "2499", "--json"], "")?)?;
    let message: serde_json::Value = serde_json::from_str(&json_line)?;
    ensure!(message["value"] == "line 2499" && message["key"] == "k", "{json_line}");
    let followed = dir.join("followed");
    let mut follow = command(endpoint)?;
    let log = std::fs::File::create(&followed)?;
    let mut follow = follow.args(["topic", "read", "one", "--follow"]).stdout(log).spawn()?;
    let heard = |text: &str| wait_until("what is followed", SOON, || Ok(std::fs::read_to_string(&followed)? == text));
    let result = heard("whole\ninput\n").and_then(|()| {
        stdout_of(&holdfast(endpoint, &["publish", "one"], "more")?)?;
        heard("whole\ninput\nmore\n")
    });
    follow.kill()?;
    follow.wait()?;
    result?;
    consumes(endpoint, dir)?;
    let shown = stdout_of(&holdfast(endpoint, &["show", "work", "--json"], "")?)?;
    let shown: serde_json::Value = serde_json::from_str(&shown)?;
    ensure!(shown["groups"][0]["group"] == "g" && shown["groups"][0]["lag"] == 0, "{shown}");
    let set = stdout_of(&holdfast(endpoint, &["set", "work", "--keep", "2h", "--keep-bytes", "1000"], "")?)?;
    ensure!(set.contains("keep: 2h") && set.contains("keep_bytes: 1000"), "{set}");
    let listed = stdout_of(&holdfast(endpoint, &["list", "--json"], "")?)?;
    let listed: serde_json::Value = serde_json::from_str(&listed)?;
    ensure!(listed["topics"].as_array().is_some_and(|topics| topics.len() == 3), "{listed}");
    stdout_of(&holdfast(endpoint, &["delete", "work", "--group", "g"], "")?)?;
    stdout_of(&holdfast(endpoint, &["delete", "work"], "")?)?;
    let gone = holdfast(endpoint, &["read", "work"], "")?;
    ensure!(gone.status.code() == Some(1), "{gone:?}");
    ensure!(String::from_utf8_lossy(&gone.stderr).contains("NoSuchTopic"), "{gone:?}");
    Ok(())
}

/// The second of three messages fails at its first delivery.
fn consumes(endpoint: &Endpoint, dir: &Path) -> Result<()> {
    stdout_of(&holdfast(endpoint, &["publish", "work", "--lines"], "a\nb\nc\n")?)?;
    let out = dir.join("consumed");
    let script = format!(
        "echo \"$HOLDFAST_TOPIC $HOLDFAST_OFFSET $HOLDFAST_DELIVERIES $(cat)\" >> {}; \
         test $HOLDFAST_OFFSET != 1 -o $HOLDFAST_DELIVERIES = 2; ended=$?; sleep 0.4; exit $ended",
        out.display()
    );
    // Claims live for a second only, and are renewed.
    let words = ["consume", "work", "--group", "g", "--max", "10", "--ttl", "1s", "--until-empty", "--", "sh", "-c"];
    stdout_of(&holdfast(endpoint, &[&words[..], &[&script]].concat(), "")?)?;
    let consumed = std::fs::read_to_string(&out)?;
    ensure!(consumed == "work 0 1 a\nwork 1 1 b\nwork 2 1 c\nwork 1 2 b\n", "{consumed}");
    Ok(())
}

const MESSAGES: u64 = 300;

fn killed_consumers(_: &mut Holdfast, endpoint: &Endpoint, dir: &Path) -> Result<()> {
    let lines: String = (0..MESSAGES).map(|number| format!("m{number}\n")).collect();
    stdout_of(&holdfast(endpoint, &["publish", "work", "--lines"], &lines)?)?;
    let out = dir.join("consumed");
    let script = format!("echo $HOLDFAST_OFFSET $(cat) >> {}; sleep 0.03", out.display());
    let start = || -> Result<Child> {
        let mut command = command(endpoint)?;
        let words =
            ["topic", "consume", "work", "--group", "g", "--max", "5", "--ttl", "1s", "--", "sh", "-c", &script];
        Ok(command.args(words).stderr(Stdio::null()).spawn()?)
    };
    let mut consumers = (0..3).map(|_| start()).collect::<Result<Vec<_>>>()?;
    let mut random = StdRng::seed_from_u64(7);
    let mut raw = endpoint.raw();
    let (began, mut kills) = (Instant::now(), 0);
    let finished = loop {
        let state = group(&mut raw, "work", "g").unwrap_or_default();
        if state["acknowledged"] == MESSAGES && state["lag"] == 0 {
            break Ok(state);
        }
        if began.elapsed() > 4 * SOON {
            break Err(anyhow::anyhow!("not finished: {state}"));
        }
        std::thread::sleep(Duration::from_millis(random.random_range(50..400)));
        if kills < 20 {
            let victim = &mut consumers[random.random_range(0..3)];
            victim.kill()?;
            victim.wait()?;
            *victim = start()?;
            kills += 1;
        }
    };
    for mut consumer in consumers {
        consumer.kill()?;
        consumer.wait()?;
    }
    let state = finished?;
    let mut times: BTreeMap<u64, u32> = BTreeMap::new();
    for line in std::fs::read_to_string(&out)?.lines() {
        let (offset, value) = line.split_once(' ').with_context(|| line.to_owned())?;
        ensure!(value == format!("m{offset}"), "{line}");
        *times.entry(offset.parse()?).or_default() += 1;
    }
    ensure!(times.len() as u64 == MESSAGES, "{} of {MESSAGES} were delivered", times.len());
    ensure!(state["missed"] == 0 && state["given_up"] == 0 && state["next"] == MESSAGES, "{state}");
    ensure!(kills >= 5, "only {kills} kills");
    let again = times.values().filter(|times| **times > 1).count();
    say(&format!("{MESSAGES} messages, {kills} kills of consumers, {again} delivered more than once"));
    Ok(())
}

#[allow(clippy::print_stdout, reason = "a line of the test report")]
fn say(line: &str) {
    println!("  {line}");
}

fn retention(_: &mut Holdfast, endpoint: &Endpoint, _: &Path) -> Result<()> {
    let mut raw = endpoint.raw();
    ask(&mut raw, "PUT", "short", &[], b"{\"keep\":\"1s\"}")?.expect(200)?;
    for number in 0..50 {
        publish(&mut raw, "short", format!("m{number}").as_bytes())?;
    }
    publish(&mut raw, "deleted", b"x")?;
    ask(&mut raw, "DELETE", "deleted", &[], b"")?.expect(200)?;
    let (lease, _) = claim(&mut raw, "short", "g", &[("max", "10")])?;
    wait_until("old messages to go", 2 * SOON, || {
        Ok(ask(&mut raw, "GET", "short/messages", &[("from", "0")], b"")?.status == 410)
    })?;
    let gone = json(&ask(&mut raw, "GET", "short/messages", &[("from", "0")], b"")?.expect(410)?)?;
    ensure!(gone["code"] == "OffsetGone" && gone["oldest"] == 50 && gone["request_id"].is_string(), "{gone}");
    let told = holdfast(endpoint, &["read", "short", "--from", "0", "--follow"], "")?;
    ensure!(told.status.code() == Some(1), "{told:?}");
    ensure!(publish(&mut raw, "short", b"after")? == 50, "offsets begin again");
    ensure!(offsets(&read(&mut raw, "short", "oldest", "0s")?) == [50], "the newest is not there");
    let (_, messages) = claim(&mut raw, "short", "g", &[])?;
    ensure!(offsets(&messages) == [50], "the group does not go on at the oldest: {messages:?}");
    let state = group(&mut raw, "short", "g")?;
    ensure!(state["missed"] == 40 && state["pending"] == 11, "{state}");
    acknowledge(&mut raw, "short", "g", lease.context("no lease")?, None)?.expect(200)?;
    Ok(())
}
