//! Topics while the cluster loses its leader: one log for every reader, and no message lost to a group.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use holdfast_compat_tests::client::raw::Raw;
use holdfast_compat_tests::client::topic::{acknowledge, claim, group, json, publish, read};
use holdfast_compat_tests::lan::{Find, Lan};
use holdfast_compat_tests::process::wait_until;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::histories::{disturb, logs};
use crate::{NODES, SOON, Scale, say, until_answered};

const TOPIC: &str = "survives";
const GROUP: &str = "work";
const PUBLISHERS: u64 = 3;
const CONSUMERS: u64 = 3;

type Log = Vec<(u64, String)>;

/// What all threads leave behind.
#[derive(Default)]
struct Seen {
    /// Publishes that were acknowledged: offset and value.
    published: Log,
    /// What each reader got, in the order in which it came.
    read: [Log; NODES],
    /// Deliveries to the group: offset and value.
    delivered: Log,
    /// Messages by acknowledgements of consumers that were acknowledged themselves.
    acknowledged: u64,
}

#[derive(Clone)]
struct Work {
    raws: Arc<dyn Fn() -> Vec<Raw> + Send + Sync>,
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
}

impl Work {
    fn note(&self, note: impl FnOnce(&mut Seen)) {
        note(&mut self.seen.lock().expect("a thread panicked"));
    }

    /// Runs `step` at random nodes until it is told to stop; what fails is tried later, elsewhere.
    fn start(&self, seed: u64, mut step: impl FnMut(&mut Raw, &Self) -> Result<()> + Send + 'static) -> JoinHandle<()> {
        let (work, mut raws) = (self.clone(), (self.raws)());
        std::thread::spawn(move || {
            let mut random = StdRng::seed_from_u64(seed);
            while !work.stop.load(Ordering::Relaxed) {
                let node = random.random_range(0..raws.len());
                if step(&mut raws[node], &work).is_err() {
                    std::thread::sleep(Duration::from_millis(50));
                }
            }
        })
    }
}

fn start_publisher(work: &Work, seed: u64, number: u64) -> JoinHandle<()> {
    let mut sequence = 0;
    work.start(seed, move |raw, work| {
        // One whose outcome is not known is not repeated: it is there or not.
        sequence += 1;
        let value = format!("{number}-{sequence}");
        let offset = publish(raw, TOPIC, value.as_bytes())?;
        work.note(|seen| seen.published.push((offset, value)));
        Ok(())
    })
}

/// Reads on from its own offset, at whichever node.
fn start_reader(work: &Work, seed: u64, number: usize) -> JoinHandle<()> {
    let mut next = 0;
    work.start(seed, move |raw, work| {
        for message in read(raw, TOPIC, &next.to_string(), "2s")? {
            let offset = message["offset"].as_u64().context("no offset")?;
            let value = message["value"].as_str().unwrap_or_default().to_owned();
            next = offset + 1;
            work.note(|seen| seen.read[number].push((offset, value)));
        }
        Ok(())
    })
}

fn start_consumer(work: &Work, seed: u64) -> JoinHandle<()> {
    let mut random = StdRng::seed_from_u64(seed);
    work.start(seed, move |raw, work| {
        let (lease, messages) = claim(raw, TOPIC, GROUP, &[("max", "20"), ("ttl", "2s"), ("wait", "2s")])?;
        let Some(lease) = lease else { return Ok(()) };
        for message in &messages {
            let offset = message["offset"].as_u64().context("no offset")?;
            work.note(|seen| seen.delivered.push((offset, message["value"].as_str().unwrap_or_default().to_owned())));
        }
        // Now and then one dies with what it claimed.
        if random.random_range(0..20) > 0 {
            let done = json(&acknowledge(raw, TOPIC, GROUP, lease, None)?.expect(200)?)?;
            work.note(|seen| seen.acknowledged += done["acknowledged"].as_u64().unwrap_or_default());
        }
        Ok(())
    })
}

pub fn topics(scale: Scale) -> Result<()> {
    let mut lan = Lan::start(NODES, Find::Static)?;
    until_answered(|| publish(&mut lan.raw(0), TOPIC, b"first"))?;
    let endpoints: Vec<_> = (0..NODES).map(|node| lan.endpoint(node)).collect();
    let raws = move || endpoints.iter().map(|endpoint| endpoint.raw().within(Duration::from_secs(8))).collect();
    let work = Work { raws: Arc::new(raws), seen: Arc::default(), stop: Arc::default() };
    let publishing = Work { stop: Arc::default(), ..work.clone() };
    let publishers: Vec<_> =
        (0..PUBLISHERS).map(|number| start_publisher(&publishing, scale.seed ^ number, number)).collect();
    let readers = (0..NODES).map(|number| start_reader(&work, scale.seed ^ number as u64 ^ 100, number));
    let consumers = (0..CONSUMERS).map(|number| start_consumer(&work, scale.seed ^ number ^ 200));
    let others: Vec<_> = readers.chain(consumers).collect();
    let broken = disturb(&mut lan, scale, |_| Ok(()));
    publishing.stop.store(true, Ordering::Relaxed);
    let ended = join(publishers);
    let finished = broken.map(drop).and(ended).and_then(|()| await_end(&lan, &work)).with_context(|| logs(&lan));
    work.stop.store(true, Ordering::Relaxed);
    join(others)?;
    let took = finished?;
    let state = until_answered(|| group(&mut lan.raw(0), TOPIC, GROUP))?;
    let seen = std::mem::take(&mut *work.seen.lock().expect("no thread is left"));
    check(&seen, &state).with_context(|| logs(&lan))?;
    say(&format!(
        "{} publishes acknowledged, {} messages for each of {NODES} readers, {} deliveries to the group, all done {} ms \
         after the last",
        seen.published.len(),
        seen.read[0].len(),
        seen.delivered.len(),
        took.as_millis()
    ));
    Ok(())
}

fn join(threads: Vec<JoinHandle<()>>) -> Result<()> {
    threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| anyhow!("a thread panicked")))
}

/// Until every reader has read all of it, and the group has acknowledged all of it.
fn await_end(lan: &Lan, work: &Work) -> Result<Duration> {
    let began = Instant::now();
    wait_until("readers and group to reach the end", 2 * SOON, || {
        let Ok(state) = group(&mut lan.raw(0), TOPIC, GROUP) else { return Ok(false) };
        let next = state["next"].as_u64().unwrap_or_default();
        let seen = work.seen.lock().map_err(|_| anyhow!("a thread panicked"))?;
        let last = |log: &Log| log.last().is_some_and(|(offset, _)| offset + 1 == next);
        Ok(state["lag"] == 0 && seen.read.iter().all(last))
    })?;
    Ok(began.elapsed())
}

fn check(seen: &Seen, state: &serde_json::Value) -> Result<()> {
    let log = &seen.read[0];
    ensure!(seen.published.len() > 50, "only {} publishes", seen.published.len());
    let dense = log.iter().enumerate().all(|(number, (offset, _))| number as u64 == *offset);
    ensure!(dense, "a reader saw a gap, or a message twice");
    for (reader, other) in seen.read.iter().enumerate() {
        ensure!(other == log, "reader {reader} saw another log");
    }
    let values: BTreeSet<&str> = log.iter().map(|(_, value)| value.as_str()).collect();
    ensure!(values.len() == log.len(), "a message was published twice");
    let by_offset: BTreeMap<u64, &str> = log.iter().map(|(offset, value)| (*offset, value.as_str())).collect();
    for (offset, value) in seen.published.iter().chain(&seen.delivered) {
        ensure!(by_offset.get(offset) == Some(&value.as_str()), "{value} was acknowledged or delivered at {offset}");
    }
    let delivered: BTreeSet<u64> = seen.delivered.iter().map(|(offset, _)| *offset).collect();
    ensure!(delivered.len() == log.len(), "{} of {} were delivered to the group", delivered.len(), log.len());
    let (all, done) = (log.len() as u64, state["acknowledged"].as_u64().unwrap_or_default());
    ensure!(done == all && state["missed"] == 0 && state["given_up"] == 0, "{all} messages, and {state}");
    ensure!(seen.acknowledged <= done, "{} acknowledgements of {done} messages", seen.acknowledged);
    Ok(())
}
