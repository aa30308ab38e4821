//! Load: a scenario on one target, prepared once, then run in rounds.
//!
//! A round is closed-loop: each client has one connection and one request under way. Clients connect before the clock
//! starts and none starts an operation after the round's time; the round lasts until the last one is done. Everything
//! runs on one thread, so that the generator uses at most one core and its own cost is the same for every target.
//!
//! Replies are checked: small bodies byte by byte always, big ones in the warm-up and by their length afterwards,
//! listings by their number of keys.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use tokio::task::JoinSet;

use crate::client::{Client, Endpoint, Payload, element};
use crate::scenario::{LIST_KEYS, Scenario, Work};
use crate::sign::{UNSIGNED, payload_hash};

/// Connections that load objects before the measurement.
const LOADERS: usize = 16;
/// Different bodies of small objects.
const BODIES: usize = 64;
/// Bodies up to here are compared byte by byte in every round.
const COMPARED_BYTES: usize = 64 << 10;
/// How long a round may take beyond its time, and the loading of objects at all.
const ROUND_GRACE: Duration = Duration::from_secs(120);
const FILL_WITHIN: Duration = Duration::from_secs(1800);

/// When a round ends, and whether it compares what it reads.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    pub time: Duration,
    pub ops: Option<u64>,
    pub compare: bool,
}

/// What a round came to.
#[derive(Clone, Debug)]
pub struct Round {
    pub bytes: u64,
    pub elapsed: Duration,
    /// One for each operation.
    pub latencies: Vec<Duration>,
}

/// A scenario with its objects on a target.
pub struct Stage {
    endpoint: Endpoint,
    plan: Arc<Plan>,
    rounds: u64,
}

/// What the clients of a stage share.
struct Plan {
    work: Work,
    clients: usize,
    bucket: String,
    list_objects: u64,
    bodies: Vec<Payload>,
}

impl Stage {
    /// Puts what the scenario reads into its bucket, which exists.
    ///
    /// # Errors
    /// When a request fails.
    pub async fn prepare(endpoint: &Endpoint, bucket: &str, scenario: &Scenario, list_objects: u64) -> Result<Self> {
        let plan = Arc::new(Plan {
            work: scenario.work,
            clients: scenario.clients,
            bucket: bucket.to_owned(),
            list_objects,
            bodies: bodies(scenario),
        });
        let stage = Self { endpoint: endpoint.clone(), plan, rounds: 0 };
        let objects = match scenario.work {
            Work::Get { objects, .. } | Work::Head { objects, .. } | Work::Mixed { objects, .. } => objects,
            _ => 0,
        };
        stage.fill(objects, Plan::hot).await?;
        Ok(stage)
    }

    /// Makes all ready for a round that `limit` ends: connections, and objects to delete.
    ///
    /// # Errors
    /// When a request fails.
    pub async fn ready(&mut self, limit: Limit) -> Result<Ready> {
        self.rounds += 1;
        let round = self.rounds;
        if let (Work::Delete { .. }, Some(objects)) = (self.plan.work, limit.ops) {
            self.fill(objects, move |plan, number| plan.new_name(round, number)).await?;
        }
        let mut workers = Vec::with_capacity(self.plan.clients);
        for seed in 0..self.plan.clients as u64 {
            let random = Random::new(round << 16 | seed);
            workers.push(Worker { client: Client::connect(&self.endpoint).await?, random });
        }
        let shared = Shared { plan: self.plan.clone(), limit, round, next: AtomicU64::new(0) };
        Ok(Ready { workers, shared: Arc::new(shared) })
    }

    /// Removes the `count` objects that the last round wrote, where they are big.
    ///
    /// # Errors
    /// When a request fails.
    pub async fn clean(&self, count: usize) -> Result<()> {
        let big = match self.plan.work {
            Work::Put { bytes } => bytes > COMPARED_BYTES,
            Work::Multipart { .. } => true,
            _ => false,
        };
        if big {
            let mut client = Client::connect(&self.endpoint).await?;
            for number in 0..count as u64 {
                client.delete(&self.plan.new_name(self.rounds, number)).await?;
            }
        }
        Ok(())
    }

    /// Stores `count` objects with the bodies of the scenario.
    async fn fill(
        &self,
        count: u64,
        name: impl Fn(&Plan, u64) -> String + Clone + Send + Sync + 'static,
    ) -> Result<()> {
        let plan = self.plan.clone();
        let put = move |number: u64| (name(&plan, number), plan.body(number).clone());
        fill(&self.endpoint, count, put).await
    }
}

/// A round that can start at once.
pub struct Ready {
    workers: Vec<Worker>,
    shared: Arc<Shared>,
}

impl Ready {
    /// Runs it.
    ///
    /// # Errors
    /// When any operation fails, or the round does not end.
    pub async fn run(self) -> Result<Round> {
        let time = self.shared.limit.time;
        let measured = measure(self.workers, &self.shared, Instant::now() + time);
        tokio::time::timeout(time + ROUND_GRACE, measured).await.context("the round does not end")?
    }
}

/// Loads the objects that listings list: folders of 1,000 keys, bodies of a few bytes.
///
/// # Errors
/// When a request fails.
pub async fn fill_list(endpoint: &Endpoint, bucket: &str, objects: u64) -> Result<()> {
    let bucket = bucket.to_owned();
    let put = move |number: u64| {
        let bytes = Bytes::from(number.to_string());
        (format!("/{bucket}/{}", list_name(number, "/")), Payload { hash: payload_hash(&bytes), bytes })
    };
    fill(endpoint, objects, put).await
}

fn list_name(number: u64, slash: &str) -> String {
    format!("d{:04}{slash}k{:04}", number / LIST_KEYS, number % LIST_KEYS)
}

async fn fill(
    endpoint: &Endpoint,
    count: u64,
    object: impl Fn(u64) -> (String, Payload) + Clone + Send + Sync + 'static,
) -> Result<()> {
    let next = Arc::new(AtomicU64::new(0));
    let mut loaders = JoinSet::new();
    for _ in 0..LOADERS.min(usize::try_from(count).unwrap_or(LOADERS)) {
        let (mut client, next, object) = (Client::connect(endpoint).await?, next.clone(), object.clone());
        loaders.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return anyhow::Ok(());
                }
                let (path, payload) = object(number);
                client.put(&path, &payload).await?;
            }
        });
    }
    let all = async {
        while let Some(loader) = loaders.join_next().await {
            loader.context("a loader was lost")??;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(FILL_WITHIN, all).await.context("the objects are not loaded in time")?
}

async fn measure(clients: Vec<Worker>, shared: &Arc<Shared>, ends: Instant) -> Result<Round> {
    let began = Instant::now();
    let mut running = JoinSet::new();
    for worker in clients {
        running.spawn(worker.run(shared.clone(), ends));
    }
    let mut round = Round { bytes: 0, elapsed: Duration::ZERO, latencies: Vec::new() };
    while let Some(done) = running.join_next().await {
        let (bytes, mut latencies) = done.context("a client was lost")??;
        round.bytes += bytes;
        round.latencies.append(&mut latencies);
    }
    round.elapsed = began.elapsed();
    Ok(round)
}

/// What the clients of a round share.
struct Shared {
    plan: Arc<Plan>,
    limit: Limit,
    round: u64,
    next: AtomicU64,
}

/// One client.
struct Worker {
    client: Client,
    random: Random,
}

impl Worker {
    async fn run(mut self, shared: Arc<Shared>, ends: Instant) -> Result<(u64, Vec<Duration>)> {
        let (mut bytes, mut latencies) = (0, Vec::new());
        loop {
            let began = Instant::now();
            if began >= ends {
                break;
            }
            let number = shared.next.fetch_add(1, Ordering::Relaxed);
            if shared.limit.ops.is_some_and(|most| number >= most) {
                break;
            }
            bytes += self.operation(&shared, number).await?;
            latencies.push(began.elapsed());
        }
        Ok((bytes, latencies))
    }

    /// One operation; gives the object bytes that it moved.
    async fn operation(&mut self, shared: &Shared, number: u64) -> Result<u64> {
        let plan = &*shared.plan;
        match plan.work {
            Work::Put { .. } => self.put(shared, number).await,
            Work::Get { objects, .. } => self.get(shared, objects).await,
            Work::Head { objects, bytes } => {
                let length = self.client.head_length(&plan.hot(self.random.below(objects))).await?;
                ensure!(length == bytes as u64, "HEAD tells {length} bytes, {bytes} were stored");
                Ok(0)
            }
            Work::ListPage | Work::ListFolder => self.list(shared).await,
            Work::Delete { .. } => {
                self.client.delete(&plan.new_name(shared.round, number)).await?;
                Ok(0)
            }
            Work::Multipart { parts, part_bytes } => {
                self.client.put_multipart(&plan.new_name(shared.round, number), &plan.bodies).await?;
                Ok((parts * part_bytes) as u64)
            }
            Work::Mixed { objects, writes, .. } => {
                if self.random.below(100) < writes {
                    self.put(shared, number).await
                } else {
                    self.get(shared, objects).await
                }
            }
        }
    }

    async fn put(&mut self, shared: &Shared, number: u64) -> Result<u64> {
        let body = shared.plan.body(number);
        self.client.put(&shared.plan.new_name(shared.round, number), body).await?;
        Ok(body.bytes.len() as u64)
    }

    async fn get(&mut self, shared: &Shared, objects: u64) -> Result<u64> {
        let number = self.random.below(objects);
        let (path, body) = (shared.plan.hot(number), &shared.plan.body(number).bytes);
        if shared.limit.compare || body.len() <= COMPARED_BYTES {
            let got = self.client.get(&path, "").await?;
            ensure!(got == *body, "GET {path} gave other bytes than were stored");
            return Ok(got.len() as u64);
        }
        let length = self.client.get_length(&path).await?;
        ensure!(length == body.len() as u64, "GET {path} gave {length} bytes, {} were stored", body.len());
        Ok(length)
    }

    async fn list(&mut self, shared: &Shared) -> Result<u64> {
        let plan = &*shared.plan;
        let query = if plan.work == Work::ListPage {
            let after = list_name(self.random.below(plan.list_objects - LIST_KEYS), "%2F");
            format!("list-type=2&max-keys={LIST_KEYS}&start-after={after}")
        } else {
            let folder = self.random.below(plan.list_objects / LIST_KEYS);
            format!("delimiter=%2F&list-type=2&max-keys={LIST_KEYS}&prefix=d{folder:04}%2F")
        };
        let page = self.client.get(&format!("/{}", plan.bucket), &query).await?;
        let page = std::str::from_utf8(&page).context("a listing is not text")?;
        let count = element(page, "KeyCount").and_then(|count| count.parse().ok());
        ensure!(count == Some(LIST_KEYS), "a listing tells {count:?} keys, not {LIST_KEYS}");
        if shared.limit.compare {
            let keys = page.matches("<Key>").count() as u64;
            ensure!(keys == LIST_KEYS, "a listing has {keys} keys, not {LIST_KEYS}");
        }
        Ok(0)
    }
}

impl Plan {
    fn hot(&self, number: u64) -> String {
        format!("/{}/hot/{number:05}", self.bucket)
    }

    /// A name that no other round uses.
    fn new_name(&self, round: u64, number: u64) -> String {
        format!("/{}/new/{round:03}/{:02}/{number:08}", self.bucket, number % 100)
    }

    fn body(&self, number: u64) -> &Payload {
        &self.bodies[usize::try_from(number).unwrap_or(0) % self.bodies.len()]
    }
}

/// The bodies of a scenario, hashed before any clock runs: the parts of one object, or the objects to choose from.
fn bodies(scenario: &Scenario) -> Vec<Payload> {
    let (count, bytes) = match scenario.work {
        Work::ListPage | Work::ListFolder => (1, 0),
        Work::Multipart { parts, part_bytes } => (parts, part_bytes),
        Work::Put { bytes }
        | Work::Get { bytes, .. }
        | Work::Head { bytes, .. }
        | Work::Delete { bytes }
        | Work::Mixed { bytes, .. } => (if bytes > COMPARED_BYTES { 1 } else { BODIES }, bytes),
    };
    let body = |seed: u64| {
        let bytes = Random::new(seed + 1).bytes(bytes);
        let hash = if scenario.signed { payload_hash(&bytes) } else { UNSIGNED.to_owned() };
        Payload { bytes: bytes.into(), hash }
    };
    (0..count as u64).map(body).collect()
}

/// Numbers that repeat with their seed (splitmix64), so that every target gets the same requests.
/// Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// A number below `bound`; its slight bias does not matter here.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        let words = count.div_ceil(8);
        let mut bytes: Vec<u8> = (0..words).flat_map(|_| self.next().to_le_bytes()).collect();
        bytes.truncate(count);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_to_list_are_folders_of_a_thousand() {
        assert_eq!(list_name(0, "/"), "d0000/k0000");
        assert_eq!(list_name(99_999, "%2F"), "d0099%2Fk0999");
    }

    #[test]
    fn a_seed_gives_the_same_numbers_again() {
        assert_eq!(Random::new(7).bytes(13), Random::new(7).bytes(13));
        assert_ne!(Random::new(7).bytes(13), Random::new(8).bytes(13));
        assert!((0..1000).all(|seed| Random::new(seed).below(10) < 10));
    }

    #[test]
    fn the_parts_of_a_multipart_differ() {
        let scenario = crate::scenario::all().into_iter().find(|row| row.name == "multipart-64m").unwrap();
        let small = Work::Multipart { parts: 8, part_bytes: 100 };
        let bodies = bodies(&Scenario { work: small, ..scenario });
        assert_eq!(bodies.len(), 8);
        assert!(bodies.windows(2).all(|pair| pair[0].hash != pair[1].hash));
    }
}
