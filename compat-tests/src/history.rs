//! Clients that work on a few objects through all nodes at once and write down what they asked and heard, for
//! [`crate::linear`] to judge.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::client::raw::{Call, Raw, Reply, elements};
use crate::linear::{Act, Operation, State};
use crate::target::Endpoint;

/// Objects of one history: few, so that operations meet.
const KEYS: u8 = 3;
/// How long a client waits for an answer. An operation without one stays open in the search, so not too many may hang.
const ANSWER_WITHIN: Duration = Duration::from_secs(6);
/// What a client waits after an operation without an answer, before it goes to another node.
const AWAY_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause between two operations of a client.
const PAUSE_MS_MAX: u64 = 20;

type Pairs<'a> = &'a [(&'a str, &'a str)];

/// Clients at work.
pub struct Recorder {
    shared: Arc<Shared>,
    clients: Vec<std::thread::JoinHandle<Result<()>>>,
}

struct Shared {
    bucket: String,
    prefix: String,
    nodes: Vec<Endpoint>,
    began: Instant,
    values: AtomicU32,
    stop: std::sync::atomic::AtomicBool,
    operations: Mutex<Vec<Operation>>,
    each: usize,
}

impl Recorder {
    /// Starts `clients` clients, each of which ends after `each` operations or when told to.
    #[must_use]
    pub fn start(nodes: &[Endpoint], bucket: &str, prefix: &str, clients: u64, each: usize, seed: u64) -> Self {
        let shared = Arc::new(Shared {
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
            nodes: nodes.to_vec(),
            began: Instant::now(),
            values: AtomicU32::new(0),
            stop: std::sync::atomic::AtomicBool::new(false),
            operations: Mutex::new(Vec::new()),
            each,
        });
        let clients = (0..clients).map(|client| {
            let shared = shared.clone();
            std::thread::spawn(move || shared.work(StdRng::seed_from_u64(seed * 101 + client)))
        });
        Self { clients: clients.collect(), shared }
    }

    /// Waits for the clients and takes the history.
    ///
    /// # Errors
    /// When a node answered what no answer can be.
    pub fn finish(self) -> Result<Vec<Operation>> {
        for client in self.clients {
            client.join().map_err(|_| anyhow!("a client panicked"))??;
        }
        Ok(std::mem::take(&mut *self.shared.operations.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Tells the clients to end.
    pub fn stop(&self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn work(&self, mut luck: StdRng) -> Result<()> {
        let mut node = luck.random_range(0..self.nodes.len());
        let mut raw = self.nodes[node].raw().within(ANSWER_WITHIN);
        for _ in 0..self.each {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            let answered = self.operate(&mut raw, &mut luck)?;
            if !answered || luck.random_ratio(1, 5) {
                node = (node + luck.random_range(1..=self.nodes.len())) % self.nodes.len();
                raw = self.nodes[node].raw().within(ANSWER_WITHIN);
            }
            let pause = if answered { Duration::from_millis(luck.random_range(0..=PAUSE_MS_MAX)) } else { AWAY_PAUSE };
            std::thread::sleep(pause);
        }
        Ok(())
    }

    /// One operation; whether it was answered.
    fn operate(&self, raw: &mut Raw, luck: &mut StdRng) -> Result<bool> {
        let key = luck.random_range(0..KEYS);
        let name = format!("{}{key}", self.prefix);
        let kind = luck.random_range(0..100);
        let value = if kind < 45 { self.values.fetch_add(1, Ordering::Relaxed) + 1 } else { 0 };
        let body = value.to_string();
        let (method, headers, query): (_, Pairs<'_>, Pairs<'_>) = match kind {
            0..25 => ("PUT", &[], &[]),
            25..45 => ("PUT", &[("if-none-match", "*")], &[]),
            45..60 => ("DELETE", &[], &[]),
            60..85 => ("GET", &[], &[]),
            _ => ("GET", &[], &[("list-type", "2"), ("prefix", &self.prefix)]),
        };
        let list = kind >= 85;
        let call = Call {
            method,
            bucket: &self.bucket,
            key: if list { "" } else { &name },
            query,
            headers,
            body: if method == "PUT" { body.as_bytes() } else { b"" },
        };
        let sent = self.now();
        // 5xx says nothing about what happened; a conflict is one that did not.
        let reply = raw.send(&call).ok().filter(|reply| reply.status < 500);
        let answered = reply.as_ref().map(|_| self.now());
        let conflict = reply.as_ref().is_some_and(|reply| reply.status == 409);
        let act = match (kind, &reply) {
            _ if conflict => None,
            (0..25, _) => Some(Act::Put(key, value)),
            (25..45, reply) => Some(Act::Create(key, value, reply.as_ref().map(|reply| reply.status == 200))),
            (45..60, _) => Some(Act::Delete(key)),
            (_, None) => None,
            (60..85, Some(reply)) => Some(Act::Get(key, read(reply)?)),
            (_, Some(reply)) => Some(Act::List(self.listed(raw, reply)?)),
        };
        if let Some(reply) = &reply {
            check_status(method, &name, kind, reply)?;
        }
        if let Some(act) = act {
            let mut operations = self.operations.lock().unwrap_or_else(PoisonError::into_inner);
            operations.push(Operation { act, sent, answered });
        }
        Ok(reply.is_some())
    }

    /// What a listing shows: the ETag is the MD5 of the value, so it tells which one it is.
    fn listed(&self, raw: &Raw, reply: &Reply) -> Result<State> {
        let text = reply.text();
        let (keys, etags) = (elements(&text, "Key"), elements(&text, "ETag"));
        ensure!(keys.len() == etags.len(), "{}: a listing of {keys:?} and {etags:?}", raw.endpoint().address);
        let last = self.values.load(Ordering::Relaxed);
        keys.iter()
            .zip(&etags)
            .map(|(key, etag)| {
                let number = key.strip_prefix(&self.prefix).context("a foreign key")?.parse()?;
                let value = (1..=last).find(|value| md5_of(*value) == etag.trim_matches('"'));
                Ok((number, value.with_context(|| format!("{key} has the ETag {etag} that nobody wrote"))?))
            })
            .collect()
    }
}

fn md5_of(value: u32) -> String {
    use md5::Digest as _;
    hex::encode(md5::Md5::digest(value.to_string()))
}

fn read(reply: &Reply) -> Result<Option<u32>> {
    match reply.status {
        404 => Ok(None),
        _ => Ok(Some(reply.text().parse().with_context(|| format!("the body {:?}", reply.text()))?)),
    }
}

fn check_status(method: &str, name: &str, kind: u32, reply: &Reply) -> Result<()> {
    let fits = match kind {
        0..25 => matches!(reply.status, 200 | 409),
        25..45 => matches!(reply.status, 200 | 409 | 412),
        45..60 => matches!(reply.status, 204 | 409),
        60..85 => matches!(reply.status, 200 | 404),
        _ => reply.status == 200,
    };
    ensure!(fits, "{method} {name}: status {}: {}", reply.status, reply.text());
    Ok(())
}
