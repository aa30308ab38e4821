//! Events that buckets send to targets: real NATS, Kafka, RabbitMQ, Mosquitto, Redis and PostgreSQL, and webhooks that fail in
//! every way. Each target is taken away in the middle and must have every event in the end, in order.

use std::net::TcpListener;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use holdfast_compat_tests::brokers::webhook::Webhook;
use holdfast_compat_tests::brokers::{
    Amqp, Broker, Certificates, Kafka, Mqtt, Nats, PostgreSql, Redis, secure_brokers,
};
use holdfast_compat_tests::client::aws_cli::AwsCli;
use holdfast_compat_tests::client::cli::command;
use holdfast_compat_tests::client::mc::Mc;
use holdfast_compat_tests::client::raw::{Call, Reply};
use holdfast_compat_tests::process::{Holdfast, HoldfastOptions, wait_until};
use holdfast_compat_tests::suite::Suite;
use holdfast_compat_tests::target::{Endpoint, Target};
use serde_json::{Value, json};

/// A target that comes back is tried after half a minute at the latest.
const ARRIVES_WITHIN: Duration = Duration::from_secs(90);

type Case = (&'static str, fn(&Endpoint, &Path) -> Result<()>);

const CASES: &[Case] = &[
    ("a_webhook_gets_every_event_in_order_through_its_failures", failing_webhook),
    ("nats_gets_every_event_in_order", |endpoint, dir| away_and_back(endpoint, Nats::new(dir, false)?)),
    ("jetstream_gets_every_event_in_order_and_once", |endpoint, dir| once(endpoint, Nats::new(dir, true)?)),
    ("kafka_gets_every_event_in_order", |endpoint, dir| away_and_back(endpoint, Kafka::new(dir)?)),
    ("rabbitmq_gets_every_event_in_order", |endpoint, dir| away_and_back(endpoint, Amqp::new(dir)?)),
    ("mosquitto_gets_every_event_in_order", |endpoint, dir| away_and_back(endpoint, Mqtt::new(dir)?)),
    ("redis_gets_every_event_in_order_and_once", |endpoint, dir| once(endpoint, Redis::new(dir)?)),
    ("postgresql_gets_every_event_in_order_and_once", |endpoint, dir| once(endpoint, PostgreSql::new(dir)?)),
    ("what_a_target_refuses_becomes_a_dead_letter", dead_letters),
    ("an_event_goes_by_the_rules_of_its_time", rules_of_their_time),
    ("a_target_goes_on_after_a_crash", crash),
    ("a_gap_is_counted_and_what_follows_is_delivered", gap),
    ("targets_on_this_machine_are_refused_unless_allowed", refused_addresses),
    ("secrets_of_targets_are_sealed", sealed),
    ("targets_are_reached_over_tls_by_a_given_authority", over_tls),
    ("kafka_over_tls_gets_what_waited_for_its_authority", |endpoint, dir| trusted(endpoint, dir, Kafka::over_tls)),
    ("rabbitmq_over_tls_gets_what_waited_for_its_authority", |endpoint, dir| trusted(endpoint, dir, Amqp::over_tls)),
    ("postgresql_over_tls_gets_what_waited_for_its_authority", |endpoint, dir| {
        trusted(endpoint, dir, PostgreSql::over_tls)
    }),
    ("events_come_in_the_envelope_that_was_asked_for", envelopes),
    ("aws_and_mc_configure_notifications", clients),
    ("configurations_that_would_send_nothing_are_refused", refused_configurations),
];

fn main() -> ExitCode {
    let mut suite = Suite::new(3);
    for (name, run) in CASES.iter().copied() {
        let mut flags = Vec::new();
        if !name.contains("unless_allowed") {
            flags.extend(["--targets-allow-local", "true"]);
        }
        if name.starts_with("a_gap") {
            flags.extend(["--events-keep", "24h,4KiB"]);
        }
        suite.case_with_server(name, &flags, move |_, endpoint, dir| run(endpoint, dir));
    }
    let flags = ["--targets-allow-local", "true"];
    suite.case_with_server("an_amqp_broker_that_says_nothing_holds_up_no_thread", &flags, silent_broker);
    suite.run()
}

fn ask(endpoint: &Endpoint, method: &str, key: &str, body: &Value) -> Result<Reply> {
    let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    Ok(endpoint.raw().send(&Call { method, bucket: "_holdfast", key, query: &[], headers: &[], body: &body })?)
}

fn set_target(endpoint: &Endpoint, name: &str, settings: &Value) -> Result<Value> {
    let reply = ask(endpoint, "PUT", &format!("v1/targets/{name}"), settings)?.expect(200)?;
    Ok(serde_json::from_slice(&reply.body)?)
}

fn target(endpoint: &Endpoint, name: &str) -> Result<Value> {
    Ok(serde_json::from_slice(&ask(endpoint, "GET", &format!("v1/targets/{name}"), &Value::Null)?.expect(200)?.body)?)
}

/// A rule as XML.
fn rule(target: &str, events: &[&str], suffix: &str) -> String {
    let events: String = events.iter().map(|event| format!("<Event>{event}</Event>")).collect();
    format!(
        "<QueueConfiguration><Queue>arn:holdfast:sqs:us-east-1:{target}:</Queue>{events}<Filter><S3Key><FilterRule>\
         <Name>suffix</Name><Value>{suffix}</Value></FilterRule></S3Key></Filter></QueueConfiguration>"
    )
}

fn configure(endpoint: &Endpoint, bucket: &str, rules: &str) -> Result<Reply> {
    let body = format!("<NotificationConfiguration>{rules}</NotificationConfiguration>").into_bytes();
    let query = &[("notification", "")];
    Ok(endpoint.raw().send(&Call { method: "PUT", bucket, key: "", query, headers: &[], body: &body })?)
}

fn send_test(endpoint: &Endpoint) -> Result<Reply> {
    ask(endpoint, "POST", "v1/targets/t/test", &Value::Null)
}

/// A target that takes what it is sent, and a bucket that tells of its objects to it.
fn prepare(endpoint: &Endpoint, settings: &Value) -> Result<()> {
    set_target(endpoint, "t", settings)?;
    send_test(endpoint)?.expect(200)?;
    tell(endpoint)
}

/// A bucket whose objects that end in `.jpg` are told of to the target `t`.
fn tell(endpoint: &Endpoint) -> Result<()> {
    endpoint.raw().put("photos", "", &[], b"")?.expect(200)?;
    configure(endpoint, "photos", &rule("t", &["s3:ObjectCreated:*", "s3:ObjectRemoved:*"], ".jpg"))?.expect(200)?;
    Ok(())
}

/// Writes and deletes; what must be told of it, as `name key`.
fn change(endpoint: &Endpoint, round: &str) -> Result<Vec<String>> {
    let mut raw = endpoint.raw();
    let mut told = Vec::new();
    for number in 0..12 {
        let key = format!("{round}/ä {number}.jpg");
        raw.put("photos", &key, &[], b"picture")?.expect(200)?;
        raw.put("photos", &format!("{round}/{number}.txt"), &[], b"text")?.expect(200)?;
        told.push(format!("s3:ObjectCreated:Put photos/{key}"));
        if number % 4 == 3 {
            raw.delete("photos", &key, &[])?.expect(204)?;
            told.push(format!("s3:ObjectRemoved:Delete photos/{key}"));
        }
    }
    Ok(told)
}

/// What messages tell, tests left out, each once, in the order of their first coming.
fn told(messages: &[Value]) -> Result<(Vec<String>, usize)> {
    let (mut seen, mut copies) = (Vec::new(), 0);
    for message in messages {
        let Some(name) = message["EventName"].as_str() else { continue };
        let line = format!("{name} {}", message["Key"].as_str().context("no key")?);
        if seen.contains(&line) {
            copies += 1;
        } else {
            seen.push(line);
        }
    }
    Ok((seen, copies))
}

fn await_all(broker: &mut dyn Broker, wanted: &[String]) -> Result<usize> {
    let mut last = Vec::new();
    let arrived = wait_until("all events to arrive", ARRIVES_WITHIN, || {
        std::thread::sleep(Duration::from_millis(200));
        last = broker.messages().unwrap_or_default();
        Ok(told(&last)?.0.len() >= wanted.len())
    });
    let (seen, copies) = told(&last)?;
    arrived.with_context(|| format!("{} of {} arrived: {seen:?}", seen.len(), wanted.len()))?;
    ensure!(seen == wanted, "{seen:?}\nis not\n{wanted:?}");
    Ok(copies)
}

fn await_problem(endpoint: &Endpoint) -> Result<()> {
    wait_until("the problem to be told", ARRIVES_WITHIN, || Ok(target(endpoint, "t")?["problem"].is_string()))
}

/// The target goes away in the middle, and comes back.
fn away(endpoint: &Endpoint, broker: &mut dyn Broker) -> Result<usize> {
    prepare(endpoint, &broker.settings())?;
    let wanted = change(endpoint, "before")?;
    away_after(endpoint, broker, wanted)
}

/// As [`away`], once it has these events, which it was sent.
fn away_after(endpoint: &Endpoint, broker: &mut dyn Broker, mut wanted: Vec<String>) -> Result<usize> {
    await_all(broker, &wanted)?;
    broker.stop()?;
    wanted.extend(change(endpoint, "while")?);
    await_problem(endpoint)?;
    broker.start()?;
    wanted.extend(change(endpoint, "after")?);
    let copies = await_all(broker, &wanted)?;
    wait_until("the problem to be over", ARRIVES_WITHIN, || {
        let target = target(endpoint, "t")?;
        Ok(target["problem"].is_null() && target["delivered"].as_u64() >= Some(wanted.len() as u64))
    })?;
    ensure!(target(endpoint, "t")?["gaps"] == 0, "a gap");
    Ok(copies)
}

fn away_and_back(endpoint: &Endpoint, mut broker: impl Broker) -> Result<()> {
    away(endpoint, &mut broker).map(drop)
}

fn once(endpoint: &Endpoint, mut broker: impl Broker) -> Result<()> {
    let copies = away(endpoint, &mut broker)?;
    ensure!(copies == 0, "{copies} copies");
    Ok(())
}

fn failing_webhook(endpoint: &Endpoint, _: &Path) -> Result<()> {
    // Errors, throttling, hang-ups; a 3xx is not followed.
    let mut webhook = Webhook::answering(Arc::new(|number, _| [200, 500, 200, 0, 429, 200, 302, 200][number % 8]))?;
    let copies = away(endpoint, &mut webhook)?;
    ensure!(copies == 0, "what was answered 200 was sent again");
    let requests = webhook.requests();
    let first = requests.first().context("no request")?;
    ensure!(first.head[0] == "POST /in?a=b HTTP/1.1", "{:?}", first.head);
    ensure!(requests.iter().any(|request| request.status == 0), "it never hung up");
    Ok(())
}

fn dead_letters(endpoint: &Endpoint, _: &Path) -> Result<()> {
    let refuses = |body: &Value| body["Key"].as_str().is_some_and(|key| key.contains("bad"));
    let mut webhook = Webhook::answering(Arc::new(move |_, body| if refuses(body) { 422 } else { 200 }))?;
    let mut settings = webhook.settings();
    settings["dead_letter"] = json!("s3://letters/dead/");
    settings["attempts"] = json!(3);
    // The letters themselves would be told of, and are not.
    endpoint.raw().put("letters", "", &[], b"")?.expect(200)?;
    prepare(endpoint, &settings)?;
    configure(endpoint, "letters", &rule("t", &["s3:ObjectCreated:*"], ""))?.expect(200)?;
    for key in ["1.jpg", "bad-1.jpg", "2.jpg", "bad-2.jpg", "3.jpg"] {
        endpoint.raw().put("photos", key, &[], b"x")?.expect(200)?;
    }
    let wanted: Vec<String> = (1..4).map(|number| format!("s3:ObjectCreated:Put photos/{number}.jpg")).collect();
    await_all(&mut webhook, &wanted)?;
    wait_until("two dead letters", ARRIVES_WITHIN, || Ok(target(endpoint, "t")?["dead_lettered"] == 2))?;
    let listed = endpoint.raw().get("letters", "", &[("list-type", "2")])?.expect(200)?;
    let keys = holdfast_compat_tests::client::raw::elements(&listed.text(), "Key");
    ensure!(keys.len() == 2 && keys.iter().all(|key| key.starts_with("dead/t/")), "{keys:?}");
    let letter = endpoint.raw().get("letters", &keys[0], &[])?.expect(200)?;
    let letter: Value = serde_json::from_slice(&letter.body)?;
    ensure!(letter["message"]["Key"] == "photos/bad-1.jpg", "{letter}");
    ensure!(letter["problem"].as_str().is_some_and(|problem| problem.contains("422")), "{letter}");
    let of_bad = webhook.requests().iter().filter(|request| request.body["Key"] == "photos/bad-1.jpg").count();
    ensure!((3..=4).contains(&of_bad), "{of_bad} attempts");
    ensure!(!webhook.requests().iter().any(|request| request.body["Key"].to_string().contains("letters")), "a loop");
    Ok(())
}

fn rules_of_their_time(endpoint: &Endpoint, _: &Path) -> Result<()> {
    let mut webhook = Webhook::away()?;
    set_target(endpoint, "t", &webhook.settings())?;
    endpoint.raw().put("photos", "", &[], b"")?.expect(200)?;
    let put = |key: &str| endpoint.raw().put("photos", key, &[], b"x")?.expect(200);
    put("1-no-rule.jpg")?;
    configure(endpoint, "photos", &rule("t", &["s3:ObjectCreated:*"], ".jpg"))?.expect(200)?;
    put("2-told.jpg")?;
    configure(endpoint, "photos", &rule("t", &["s3:ObjectRemoved:*"], ".jpg"))?.expect(200)?;
    put("3-another-rule.jpg")?;
    configure(endpoint, "photos", "")?.expect(200)?;
    put("4-no-rule.jpg")?;
    configure(endpoint, "photos", &rule("t", &["s3:ObjectCreated:*"], ".jpg"))?.expect(200)?;
    put("5-told.jpg")?;
    for key in ["1-no-rule.jpg", "2-told.jpg", "3-another-rule.jpg", "4-no-rule.jpg", "5-told.jpg"] {
        endpoint.raw().delete("photos", key, &[])?.expect(204)?;
    }
    // A bucket that is gone took its rules along, and its namesake has none.
    endpoint.raw().delete("photos", "", &[])?.expect(204)?;
    endpoint.raw().put("photos", "", &[], b"")?.expect(200)?;
    put("6-no-rule.jpg")?;
    webhook.start()?;
    let wanted = ["2-told.jpg", "5-told.jpg"].map(|key| format!("s3:ObjectCreated:Put photos/{key}"));
    await_all(&mut webhook, &wanted)?;
    wait_until("the cursor to be written", ARRIVES_WITHIN, || Ok(target(endpoint, "t")?["delivered"] == 2))?;
    Ok(())
}

fn crash(_: &Endpoint, dir: &Path) -> Result<()> {
    let own = dir.join("crashed");
    std::fs::create_dir_all(&own)?;
    let mut options = HoldfastOptions::embedded(&own);
    options.args = vec!["--targets-allow-local".into(), "true".into()];
    let mut server = Holdfast::start(options)?;
    let endpoint = |server: &Holdfast| Endpoint::of(Target::Embedded, server.address());
    let mut webhook = Webhook::new()?;
    prepare(&endpoint(&server), &webhook.settings())?;
    let mut wanted = Vec::new();
    for round in 0..4 {
        wanted.extend(change(&endpoint(&server), &format!("round-{round}"))?);
        server.kill();
        server.restart()?;
    }
    await_all(&mut webhook, &wanted).with_context(|| server.log_tail(20)).map(drop)
}

fn gap(endpoint: &Endpoint, _: &Path) -> Result<()> {
    let mut webhook = Webhook::away()?;
    set_target(endpoint, "t", &webhook.settings())?;
    endpoint.raw().put("photos", "", &[], b"")?.expect(200)?;
    configure(endpoint, "photos", &rule("t", &["s3:ObjectCreated:*"], ".jpg"))?.expect(200)?;
    for number in 0..100 {
        endpoint.raw().put("photos", &format!("{number}.jpg"), &[], b"x")?.expect(200)?;
    }
    wait_until("a gap to be counted", ARRIVES_WITHIN, || Ok(target(endpoint, "t")?["gaps"].as_u64() > Some(0)))?;
    webhook.start()?;
    endpoint.raw().put("photos", "last.jpg", &[], b"x")?.expect(200)?;
    wait_until("the last event", ARRIVES_WITHIN, || {
        Ok(told(&webhook.messages()?)?.0.last().is_some_and(|line| line.ends_with("photos/last.jpg")))
    })
}

fn refused_addresses(endpoint: &Endpoint, _: &Path) -> Result<()> {
    for host in ["127.0.0.1", "localhost", "169.254.169.254", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "2130706433"] {
        let settings = json!({ "kind": "webhook", "url": format!("http://{host}:1/") });
        let refused = ask(endpoint, "PUT", "v1/targets/t", &settings)?;
        ensure!(refused.status == 400, "{host}: {} {}", refused.status, refused.text());
        ensure!(refused.text().contains("targets-allow-local"), "{}", refused.text());
    }
    let kinds = [
        json!({ "kind": "nats", "url": "nats://localhost", "subject": "a" }),
        json!({ "kind": "kafka", "url": "kafka://10.0.0.1,localhost", "topic": "a" }),
        json!({ "kind": "redis", "url": "redis://localhost", "key": "a" }),
    ];
    for settings in kinds {
        let refused = ask(endpoint, "PUT", "v1/targets/t", &settings)?;
        ensure!(refused.status == 400, "{settings}: {}", refused.text());
    }
    Ok(())
}

fn sealed(endpoint: &Endpoint, dir: &Path) -> Result<()> {
    let webhook = Webhook::new()?;
    let mut settings = webhook.settings();
    settings["token"] = json!("hush-hush-this-is-secret");
    let shown = set_target(endpoint, "t", &settings)?;
    ensure!(!shown.to_string().contains("hush"), "{shown}");
    // Another setting is changed and the secret stays.
    let shown = set_target(endpoint, "t", &json!({ "timeout": "3s" }))?;
    ensure!(shown["settings"]["timeout"] == "3s" && !shown.to_string().contains("hush"), "{shown}");
    send_test(endpoint)?.expect(200)?;
    let request = webhook.requests().pop().context("no request")?;
    ensure!(request.header("authorization") == Some("Bearer hush-hush-this-is-secret"), "{:?}", request.head);
    let in_clear = files_with(dir, b"hush-hush")?;
    ensure!(in_clear.is_empty(), "{in_clear:?}");
    // Removed, it is not sent any more.
    set_target(endpoint, "t", &json!({ "token": null }))?;
    send_test(endpoint)?.expect(200)?;
    ensure!(webhook.requests().pop().context("no request")?.header("authorization").is_none());
    ask(endpoint, "DELETE", "v1/targets/t", &Value::Null)?.expect(200)?;
    ask(endpoint, "GET", "v1/targets/t", &Value::Null)?.expect(404)?;
    Ok(())
}

/// What a rustls client says of a certificate by an authority that it was not given.
const DISTRUST: &str = "invalid peer certificate: UnknownIssuer";

fn over_tls(endpoint: &Endpoint, dir: &Path) -> Result<()> {
    let certificates = Certificates::new(dir, "authority")?;
    let (other, machine) = machine_that_trusts(dir, &certificates)?;
    for mut broker in secure_brokers(dir, &certificates)? {
        let settings = broker.settings();
        set_target(endpoint, "t", &settings)?;
        refuses(endpoint, &settings)?;
        set_target(endpoint, "t", &json!({ "ca": certificates.authority }))?;
        let sent = send_test(endpoint)?;
        ensure!(sent.status == 200, "{settings}: {} {}", sent.status, sent.text());
        trusts_one_alone(&machine, &settings, &other)?;
        ask(endpoint, "DELETE", "v1/targets/t", &Value::Null)?.expect(200)?;
        broker.stop()?;
    }
    Ok(())
}

/// Events wait while nobody has vouched for the target, or somebody else has, and arrive once its own authority has.
fn trusted<B: Broker>(
    endpoint: &Endpoint,
    dir: &Path,
    over_tls: impl FnOnce(&Path, &Certificates) -> Result<B>,
) -> Result<()> {
    let certificates = Certificates::new(dir, "authority")?;
    let (other, machine) = machine_that_trusts(dir, &certificates)?;
    let mut broker = over_tls(dir, &certificates)?;
    let mut settings = broker.settings();
    // Without TLS there is no way in.
    let secure = settings["url"].as_str().context("no url")?.to_owned();
    settings["url"] = json!(secure.replacen("s://", "://", 1));
    set_target(endpoint, "t", &settings)?;
    send_test(endpoint)?.expect(502)?;
    settings["url"] = json!(secure);
    settings["ca"] = Value::Null;
    set_target(endpoint, "t", &settings)?;
    tell(endpoint)?;
    let mut wanted = change(endpoint, "for nobody")?;
    await_distrust(endpoint, &settings)?;
    set_target(endpoint, "t", &json!({ "ca": other }))?;
    wanted.extend(change(endpoint, "for another")?);
    await_distrust(endpoint, &settings)?;
    let early = broker.messages()?;
    ensure!(early.is_empty(), "{early:?}");
    set_target(endpoint, "t", &json!({ "ca": certificates.authority }))?;
    wanted.extend(change(endpoint, "for its own")?);
    away_after(endpoint, &mut broker, wanted)?;
    trusts_one_alone(&machine, &settings, &other)
}

fn await_distrust(endpoint: &Endpoint, settings: &Value) -> Result<()> {
    let mut problem = Value::Null;
    let told = wait_until("the certificate to be the problem", ARRIVES_WITHIN, || {
        problem = target(endpoint, "t")?["problem"].take();
        Ok(problem.as_str().is_some_and(|problem| problem.contains(DISTRUST)))
    });
    told.with_context(|| problem.to_string())?;
    refuses(endpoint, settings)
}

/// The target is told what is wrong with its certificate.
fn refuses(endpoint: &Endpoint, settings: &Value) -> Result<()> {
    let refused = send_test(endpoint)?;
    let told = refused.status == 502 && refused.text().contains(DISTRUST);
    ensure!(told, "{settings} is trusted by nobody: {} {}", refused.status, refused.text());
    Ok(())
}

/// An authority that vouches for nobody here, and a gateway on a machine that trusts the one of these certificates.
fn machine_that_trusts(dir: &Path, certificates: &Certificates) -> Result<(String, Holdfast)> {
    let own = dir.join("machine");
    let other = Certificates::new(&own, "another")?.authority;
    let mut options = HoldfastOptions::embedded(&own);
    options.args = vec!["--targets-allow-local".into(), "true".into()];
    options.env.push(("SSL_CERT_FILE".into(), certificates.authority_file.display().to_string()));
    Ok((other, Holdfast::start(options)?))
}

/// Whom the machine trusts is trusted unless the target has an authority: then that one is, and nobody else.
fn trusts_one_alone(machine: &Holdfast, settings: &Value, other: &str) -> Result<()> {
    let endpoint = Endpoint::of(Target::Embedded, machine.address());
    set_target(&endpoint, "t", settings)?;
    let sent = send_test(&endpoint)?;
    ensure!(sent.status == 200, "the machine trusts {settings}: {} {}", sent.status, sent.text());
    set_target(&endpoint, "t", &json!({ "ca": other }))?;
    refuses(&endpoint, settings)?;
    ask(&endpoint, "DELETE", "v1/targets/t", &Value::Null)?.expect(200).map(drop)
}

/// One that takes connections, as one that hangs does, and never says a word.
fn silent_broker(server: &mut Holdfast, endpoint: &Endpoint, _: &Path) -> Result<()> {
    const ATTEMPTS: usize = 30;
    let threads = format!("/proc/{}/task", server.process().pid());
    for (name, scheme) in [("127.0.0.1", "amqp"), ("127.0.0.1", "amqps"), ("::1", "amqp"), ("::1", "amqps")] {
        // Not every machine has IPv6.
        let Ok(listener) = TcpListener::bind((name, 0)) else { continue };
        let url = format!("{scheme}://{}", listener.local_addr()?);
        let settings = json!({ "kind": "amqp", "url": url, "routing_key": "a", "timeout": "100ms" });
        set_target(endpoint, "t", &settings)?;
        let before = std::fs::read_dir(&threads)?.count();
        for _ in 0..ATTEMPTS {
            let refused = send_test(endpoint)?.expect(502)?;
            ensure!(refused.text().contains("no answer"), "{url}: {}", refused.text());
        }
        // Some are there for other work, and stay.
        let most = before + ATTEMPTS / 2;
        let few = wait_until("the threads to end", ARRIVES_WITHIN, || Ok(std::fs::read_dir(&threads)?.count() < most));
        few.with_context(|| url)?;
    }
    Ok(())
}

fn files_with(dir: &Path, needle: &[u8]) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files_with(&path, needle)?);
        } else if std::fs::read(&path).is_ok_and(|bytes| bytes.windows(needle.len()).any(|window| window == needle)) {
            found.push(path.display().to_string());
        }
    }
    Ok(found)
}

fn envelopes(endpoint: &Endpoint, _: &Path) -> Result<()> {
    let webhook = Webhook::new()?;
    endpoint.raw().put("photos", "", &[], b"")?.expect(200)?;
    let mut rules = String::new();
    for format in ["cloudevents", "eventbridge", "s3"] {
        let mut settings = webhook.settings();
        settings["format"] = json!(format);
        set_target(endpoint, format, &settings)?;
        rules.push_str(&rule(format, &["s3:ObjectCreated:*"], ".jpg"));
    }
    configure(endpoint, "photos", &rules)?.expect(200)?;
    endpoint.raw().put("photos", "a b.jpg", &[], b"x")?.expect(200)?;
    wait_until("three envelopes", ARRIVES_WITHIN, || Ok(webhook.requests().len() >= 3))?;
    let requests = webhook.requests();
    let with =
        |field: &str| requests.iter().find(|request| request.body.get(field).is_some()).context(field.to_owned());
    let cloud = with("specversion")?;
    ensure!(cloud.header("content-type") == Some("application/cloudevents+json"), "{:?}", cloud.head);
    ensure!(cloud.body["type"] == "com.amazonaws.s3.ObjectCreated.Put" && cloud.body["subject"] == "a b.jpg");
    let bridge = with("detail-type")?;
    ensure!(bridge.body["detail-type"] == "Object Created" && bridge.body["detail"]["object"]["key"] == "a b.jpg");
    let record = &with("Records")?.body["Records"][0];
    ensure!(record["eventName"] == "ObjectCreated:Put" && record["s3"]["object"]["key"] == "a+b.jpg", "{record}");
    Ok(())
}

fn clients(endpoint: &Endpoint, dir: &Path) -> Result<()> {
    let mut webhook = Webhook::new()?;
    let url = format!("url={}", webhook.settings()["url"].as_str().context("no url")?);
    let set = command(endpoint)?.args(["target", "set", "hook", "kind=webhook", &url]).output()?;
    ensure!(set.status.success(), "{}", String::from_utf8_lossy(&set.stderr));
    let aws = AwsCli::new(endpoint)?;
    aws.run(&["s3api", "create-bucket", "--bucket", "photos"])?;
    let empty = aws.run(&["s3api", "get-bucket-notification-configuration", "--bucket", "photos"])?;
    ensure!(empty.trim().is_empty(), "{empty}");
    let file = dir.join("n.json");
    let configuration = json!({ "QueueConfigurations": [{
        "Id": "pictures", "QueueArn": "arn:holdfast:sqs:us-east-1:hook:webhook", "Events": ["s3:ObjectCreated:*"],
        "Filter": { "Key": { "FilterRules": [{ "Name": "prefix", "Value": "in/" }] } },
    }] });
    std::fs::write(&file, configuration.to_string())?;
    let file = format!("file://{}", file.display());
    let put =
        ["s3api", "put-bucket-notification-configuration", "--bucket", "photos", "--notification-configuration", &file];
    aws.run(&put)?;
    let shown: Value =
        serde_json::from_str(&aws.run(&["s3api", "get-bucket-notification-configuration", "--bucket", "photos"])?)?;
    ensure!(shown["QueueConfigurations"][0]["Id"] == "pictures", "{shown}");
    ensure!(shown["QueueConfigurations"][0]["Filter"]["Key"]["FilterRules"][0]["Value"] == "in/", "{shown}");
    endpoint.raw().put("photos", "in/a.jpg", &[], b"x")?.expect(200)?;
    await_all(&mut webhook, &["s3:ObjectCreated:Put photos/in/a.jpg".into()])?;
    // mc adds to what is there, lists and removes.
    let mc = Mc::new(endpoint)?;
    mc.run(&["event", "add", "t/photos", "arn:minio:sqs::hook:webhook", "--event", "put,delete", "--suffix", ".txt"])?;
    let listed = mc.run(&["event", "list", "t/photos"])?;
    ensure!(listed.contains("arn:minio:sqs::hook:webhook") && listed.contains("s3:ObjectRemoved:*"), "{listed}");
    endpoint.raw().put("photos", "b.txt", &[], b"x")?.expect(200)?;
    let wanted = ["in/a.jpg", "b.txt"].map(|key| format!("s3:ObjectCreated:Put photos/{key}"));
    await_all(&mut webhook, &wanted)?;
    mc.run(&["event", "rm", "t/photos", "--force"])?;
    let listed = mc.run(&["event", "list", "t/photos"])?;
    ensure!(listed.trim().is_empty(), "{listed}");
    wait_until("the list to tell of two", ARRIVES_WITHIN, || {
        let shown = command(endpoint)?.args(["target", "list"]).output()?;
        Ok(String::from_utf8_lossy(&shown.stdout).contains("delivered: 2"))
    })?;
    Ok(())
}

fn refused_configurations(endpoint: &Endpoint, _: &Path) -> Result<()> {
    let webhook = Webhook::new()?;
    set_target(endpoint, "t", &webhook.settings())?;
    endpoint.raw().put("photos", "", &[], b"")?.expect(200)?;
    let check = |rules: &str, status: u16, code: &str| -> Result<()> {
        let refused = configure(endpoint, "photos", rules)?;
        ensure!(refused.status == status && refused.code() == code, "{rules}: {} {}", refused.status, refused.text());
        Ok(())
    };
    check(&rule("nobody", &["s3:ObjectCreated:*"], ""), 400, "InvalidArgument")?;
    check(&rule("t", &["s3:ObjectAccessed:Get"], ""), 400, "InvalidArgument")?;
    check(&rule("t", &[], ""), 400, "MalformedXML")?;
    let queue = |arn: &str| {
        format!("<QueueConfiguration><Queue>{arn}</Queue><Event>s3:ObjectCreated:*</Event></QueueConfiguration>")
    };
    check(&queue("arn:holdfast:sqs:us-east-1:t:kafka"), 400, "InvalidArgument")?;
    check(&queue("arn:aws:sqs:us-east-1:1:t"), 400, "InvalidArgument")?;
    check("<EventBridgeConfiguration/>", 501, "NotImplemented")?;
    check(
        "<TopicConfiguration><Topic>a</Topic><Event>s3:ObjectCreated:*</Event></TopicConfiguration>",
        501,
        "NotImplemented",
    )?;
    for settings in
        [json!({ "url": "http://[" }), json!({ "kind": "pigeon" }), json!({ "sealed": "x" }), json!({ "qos": 1 })]
    {
        let refused = ask(endpoint, "PUT", "v1/targets/t", &settings)?;
        if refused.status != 400 {
            bail!("{settings}: {} {}", refused.status, refused.text());
        }
    }
    ask(endpoint, "PUT", "v1/targets/a:b", &webhook.settings())?.expect(400)?;
    ask(endpoint, "POST", "v1/targets/t", &Value::Null)?.expect(405)?;
    ask(endpoint, "DELETE", "v1/targets/nobody", &Value::Null)?.expect(404)?;
    Ok(())
}
