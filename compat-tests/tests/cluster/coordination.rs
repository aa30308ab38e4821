//! Locks and the feed while the cluster loses its leader: never two holders, and one history for every watcher.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use holdfast_compat_tests::brokers::Broker as _;
use holdfast_compat_tests::brokers::webhook::Webhook;
use holdfast_compat_tests::client::cli::{Event, Watch, events_in};
use holdfast_compat_tests::client::raw::{Call, Raw, Reply};
use holdfast_compat_tests::lan::{Find, Lan};
use holdfast_compat_tests::process::wait_until;
use holdfast_compat_tests::target::Endpoint;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::histories::{disturb, logs};
use crate::{NODES, SOON, Scale, say, until_answered};

const WORKERS: u64 = 4;

/// A write that was acknowledged under the lock.
#[derive(Clone, Copy, Debug)]
struct Written {
    value: u64,
    token: u64,
    revision: u64,
}

fn lock(raw: &mut Raw, method: &str, query: &[(&str, &str)]) -> Result<Reply> {
    let call = Call { method, bucket: "_holdfast", key: "v1/locks/counter", query, headers: &[], body: b"" };
    Ok(raw.send(&call)?)
}

/// Takes the lock, adds one to the counter under its fence, and gives the lock back.
fn add_one(raw: &mut Raw) -> Result<Option<Written>> {
    let granted = lock(raw, "PUT", &[("ttl", "3s"), ("wait", "2s")])?;
    if granted.status != 200 {
        return Ok(None);
    }
    let granted: serde_json::Value = serde_json::from_slice(&granted.body)?;
    let (token, lease) = (granted["token"].as_u64().context("no token")?, granted["lease"].to_string());
    let found = raw.get("coordinated", "counter", &[])?.expect(200)?;
    let value = found.text().parse::<u64>()? + 1;
    let fence = format!("counter={token}");
    let put = raw.put("coordinated", "counter", &[("x-holdfast-fence", &fence)], value.to_string().as_bytes())?;
    let revision = put.header("x-holdfast-revision").and_then(|text| text.parse().ok());
    let written = put.status == 200;
    // A lock that is not given back ends by itself.
    let _ = lock(raw, "DELETE", &[("lease", &lease)]);
    Ok(if written { Some(Written { value, token, revision: revision.context("no revision")? }) } else { None })
}

/// Each adds one again and again, at whichever node.
fn start_workers(
    lan: &Lan,
    seed: u64,
    stop: &Arc<AtomicBool>,
    done: &Arc<Mutex<Vec<Written>>>,
) -> Vec<std::thread::JoinHandle<()>> {
    (0..WORKERS)
        .map(|number| {
            let (stop, done) = (stop.clone(), done.clone());
            let raws: Vec<Raw> = (0..NODES).map(|node| lan.raw(node).within(Duration::from_secs(6))).collect();
            let seed = seed ^ number;
            std::thread::spawn(move || {
                let (mut random, mut raws) = (StdRng::seed_from_u64(seed), raws);
                while !stop.load(Ordering::Relaxed) {
                    let node = random.random_range(0..NODES);
                    match add_one(&mut raws[node]) {
                        Ok(Some(written)) => done.lock().expect("a worker panicked").push(written),
                        // Nobody leads, or the node is down: later, elsewhere.
                        Ok(None) | Err(_) => std::thread::sleep(Duration::from_millis(50)),
                    }
                }
            })
        })
        .collect()
}

pub fn locks_and_feed(scale: Scale) -> Result<()> {
    let mut lan = Lan::start(NODES, Find::Static)?;
    until_answered(|| lan.raw(0).put("coordinated", "", &[], b"")?.expect(200))?;
    lan.raw(0).put("coordinated", "counter", &[], b"0")?.expect(200)?;
    let webhook = send_to_webhook(&lan)?;
    let dir = tempfile::tempdir()?;
    let output = |watch: usize| dir.path().join(format!("watch-{watch}.json"));
    let mut watches: Vec<Watch> = (0..NODES)
        .map(|node| Watch::start(&lan.endpoint(node), "", Some("0"), &output(node)))
        .collect::<Result<_>>()?;
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
    let workers = start_workers(&lan, scale.seed, &stop, &done);
    let endpoints: Vec<Endpoint> = (0..NODES).map(|node| lan.endpoint(node)).collect();
    let mut hops = 0;
    let broken = disturb(&mut lan, scale, |leader| {
        // One watcher goes on from its last event at another node.
        let (watch, node) = (hops % NODES, (leader + 2) % NODES);
        let last = events_in(&output(watch))?.pop().map_or("0".to_owned(), |event: Event| event.id());
        drop(watches.remove(watch));
        // What it had not finished to print is printed again by the next one.
        cut_to_whole_lines(&output(watch))?;
        let again = events_in(&output(watch))?.pop().map_or(last, |event| event.id());
        watches.insert(watch, Watch::start(&endpoints[node], "", Some(&again), &output(watch))?);
        hops += 1;
        Ok(())
    });
    stop.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.join().map_err(|_| anyhow!("a worker panicked"))?;
    }
    broken.with_context(|| logs(&lan))?;
    let written = std::mem::take(&mut *done.lock().expect("no worker is left"));
    check_locks(&lan, &written).with_context(|| logs(&lan))?;
    let end = lan.raw(0).put("coordinated", "end", &[], b"x")?.expect(200)?;
    let end: u64 = end.header("x-holdfast-revision").context("no revision")?.parse()?;
    let began = Instant::now();
    for watch in 0..NODES {
        wait_until("a watcher to see the end", SOON, || {
            Ok(events_in(&output(watch))?.last().is_some_and(|event| event.revision >= end))
        })
        .with_context(|| logs(&lan))?;
    }
    let seen: Vec<Vec<Event>> = (0..NODES).map(|watch| events_in(&output(watch))).collect::<Result<_>>()?;
    check_feed(&seen, &written, end)?;
    let copies = check_webhook(&webhook, &seen[0], end).with_context(|| logs(&lan))?;
    say(&format!(
        "{} writes under the lock, {} events for each of {NODES} watchers after {hops} hops, all there {} ms after the end; \
         {copies} of them came to the webhook again",
        written.len(),
        seen[0].len(),
        began.elapsed().as_millis()
    ));
    Ok(())
}

/// Every write of the counter is told to a webhook, which fails now and then.
fn send_to_webhook(lan: &Lan) -> Result<Webhook> {
    let webhook = Webhook::on(&lan.host(), Arc::new(|number, _| if number % 50 == 49 { 503 } else { 200 }))?;
    let settings = webhook.settings().to_string();
    let key = "v1/targets/hook";
    let call = Call { method: "PUT", bucket: "_holdfast", key, query: &[], headers: &[], body: settings.as_bytes() };
    lan.raw(0).send(&call)?.expect(200)?;
    let rules =
        b"<NotificationConfiguration><QueueConfiguration><Queue>arn:holdfast:sqs:us-east-1:hook:webhook</Queue>\
        <Event>s3:ObjectCreated:*</Event></QueueConfiguration></NotificationConfiguration>";
    let query = &[("notification", "")];
    let call = Call { method: "PUT", bucket: "coordinated", key: "", query, headers: &[], body: rules };
    lan.raw(0).send(&call)?.expect(200)?;
    Ok(webhook)
}

/// It has every event in order, some twice: the next leader goes on from the cursor. How many came again.
fn check_webhook(webhook: &Webhook, seen: &[Event], end: u64) -> Result<usize> {
    let arrived = || {
        let taken = webhook.requests().into_iter().filter(|request| request.status == 200);
        let revision =
            |record: &serde_json::Value| record["responseElements"]["x-holdfast-revision"].as_str()?.parse().ok();
        taken.filter_map(|request| revision(&request.body["Records"][0])).collect::<Vec<u64>>()
    };
    wait_until("the webhook to have the end", SOON, || Ok(arrived().last().is_some_and(|revision| *revision >= end)))?;
    let all: Vec<u64> = arrived().into_iter().filter(|revision| *revision <= end).collect();
    let mut first_time: Vec<u64> = Vec::new();
    for revision in &all {
        if !first_time.contains(revision) {
            first_time.push(*revision);
        }
    }
    let began = first_time.first().copied().unwrap_or_default();
    let created = seen.iter().filter(|event| event.bucket == "coordinated" && event.name.starts_with("ObjectCreated"));
    let wanted: Vec<u64> =
        created.map(|event| event.revision).filter(|revision| (began..=end).contains(revision)).collect();
    ensure!(first_time == wanted, "the webhook has {first_time:?}, the feed {wanted:?}");
    ensure!(wanted.len() > 10, "only {} events for the webhook", wanted.len());
    Ok(all.len() - first_time.len())
}

/// A killed watcher may leave a piece of a line.
fn cut_to_whole_lines(output: &std::path::Path) -> Result<()> {
    let text = std::fs::read_to_string(output)?;
    let whole = text.rfind('\n').map_or(0, |end| end + 1);
    std::fs::write(output, &text[..whole])?;
    Ok(())
}

/// Two holders at once would have read the same value, and written the same next one.
fn check_locks(lan: &Lan, written: &[Written]) -> Result<()> {
    ensure!(written.len() > 10, "only {} writes", written.len());
    let mut by_revision = written.to_vec();
    by_revision.sort_by_key(|write| write.revision);
    let values: BTreeSet<u64> = written.iter().map(|write| write.value).collect();
    ensure!(values.len() == written.len(), "a value was written twice: {by_revision:?}");
    ensure!(by_revision.is_sorted_by_key(|write| write.value), "values go back: {by_revision:?}");
    ensure!(by_revision.is_sorted_by(|one, next| one.token < next.token), "tokens do not rise: {by_revision:?}");
    ensure!(by_revision.iter().all(|write| write.token < write.revision), "a token from the future");
    let found = until_answered(|| lan.raw(0).get("coordinated", "counter", &[])?.expect(200))?;
    let last = found.text().parse::<u64>()?;
    let highest = values.last().copied().unwrap_or_default();
    ensure!(last >= highest, "the counter is {last}, and {highest} was acknowledged");
    Ok(())
}

fn check_feed(seen: &[Vec<Event>], written: &[Written], end: u64) -> Result<()> {
    for (watch, events) in seen.iter().enumerate() {
        let order = |event: &Event| (event.revision, event.n);
        let sorted = events.is_sorted_by(|one, next| order(one) < order(next));
        ensure!(sorted, "watcher {watch} saw events twice or out of order");
        let upto: Vec<&Event> = events.iter().filter(|event| event.revision <= end).collect();
        let first: Vec<&Event> = seen[0].iter().filter(|event| event.revision <= end).collect();
        ensure!(upto == first, "watcher {watch} saw {} events, watcher 0 {}", upto.len(), first.len());
        let revisions: BTreeSet<u64> =
            events.iter().filter(|event| event.key == "counter").map(|event| event.revision).collect();
        let missing: Vec<_> = written.iter().filter(|write| !revisions.contains(&write.revision)).collect();
        let near = |event: &&Event| missing.iter().any(|write| event.revision.abs_diff(write.revision) < 10);
        let around: Vec<_> = events.iter().filter(near).collect();
        ensure!(missing.is_empty(), "watcher {watch} did not see {missing:?}, but {around:?}");
    }
    Ok(())
}
