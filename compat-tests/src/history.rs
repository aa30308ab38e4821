//! Clients that work on a few objects through all nodes at once and write down what they asked and heard, for
//! [`crate::linear`] to judge.
//!
//! They PUT, PUT on conditions, DELETE, GET, HEAD and LIST, and take the next page of a listing from another node: the
//! whole counts as one operation that ended with its first page. Reads with `x-holdfast-min-revision` must have it. Local
//! reads are not linearizable, so they are judged here, by their revision.
//!
//! A 503 that does not say that the outcome is unknown says that nothing was done, and is believed.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::client::raw::{Call, Lost, Raw, Reply, elements};
use crate::linear::{Act, Operation, State};
use crate::target::Endpoint;

/// Objects of one history: few, so that operations meet.
const KEYS: u8 = 3;
/// How long a client waits for an answer. An operation without one stays open in the search, so not too many may hang.
const ANSWER_WITHIN: Duration = Duration::from_secs(6);
/// What a client waits after an operation without an answer, before it goes to another node.
const AWAY_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause between two operations of a client, unless the load is spread.
const PAUSE_MAX: Duration = Duration::from_millis(20);
/// What makes an object too long to travel inside its command.
const LARGE_BYTES: usize = 70_000;
/// Of so many values one is that long.
const LARGE_EVERY: u32 = 4;
/// What a 503 says when the outcome is open.
const UNKNOWN: &str = "outcome of the request is not known";
const REVISION: &str = "x-holdfast-revision";

type Pairs<'a> = &'a [(&'a str, &'a str)];

/// How clients work.
#[derive(Clone, Debug)]
pub struct Load {
    /// Where; each client goes from one to another.
    pub nodes: Vec<Endpoint>,
    /// The bucket.
    pub bucket: String,
    /// What all keys begin with.
    pub prefix: String,
    /// How many clients.
    pub clients: u64,
    /// Operations of each.
    pub each: usize,
    /// Repeats what is random.
    pub seed: u64,
    /// The load is spread over this time at least.
    pub span: Duration,
}

/// Clients at work.
pub struct Recorder {
    shared: Arc<Shared>,
    clients: Vec<std::thread::JoinHandle<Result<()>>>,
}

/// What an object holds, by its ETag, and the other way round.
#[derive(Default)]
struct Etags {
    values: HashMap<String, u32>,
    etags: HashMap<u32, String>,
}

/// An operation with the revision that its answer told: at least the one at which it took effect.
struct Told {
    operation: Operation,
    revision: Option<u64>,
}

/// A local read: what was there at a revision.
struct Local {
    key: u8,
    value: Option<u32>,
    revision: u64,
}

struct Shared {
    load: Load,
    began: Instant,
    values: AtomicU32,
    /// The highest revision that any client heard of.
    known: AtomicU64,
    stop: AtomicBool,
    etags: Mutex<Etags>,
    told: Mutex<Vec<Told>>,
    local: Mutex<Vec<Local>>,
}

struct Client {
    raw: Raw,
    node: usize,
    luck: StdRng,
    /// What it saw last of each object.
    seen: HashMap<u8, u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Put,
    Create,
    Replace,
    Delete,
    Get,
    Head,
    Local,
    List,
    Pages,
}

impl Kind {
    fn pick(luck: &mut StdRng) -> Self {
        match luck.random_range(0..100) {
            0..18 => Self::Put,
            18..34 => Self::Create,
            34..46 => Self::Replace,
            46..58 => Self::Delete,
            58..72 => Self::Get,
            72..78 => Self::Head,
            78..84 => Self::Local,
            84..92 => Self::List,
            _ => Self::Pages,
        }
    }
}

impl Recorder {
    /// Starts the clients, each of which ends after its operations or when told to.
    #[must_use]
    pub fn start(load: Load) -> Self {
        let shared = Arc::new(Shared {
            began: Instant::now(),
            values: AtomicU32::new(0),
            known: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            etags: Mutex::default(),
            told: Mutex::default(),
            local: Mutex::default(),
            load,
        });
        let clients = (0..shared.load.clients).map(|client| {
            let shared = shared.clone();
            std::thread::spawn(move || shared.work(StdRng::seed_from_u64(shared.load.seed * 101 + client)))
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
        let told = std::mem::take(&mut *lock(&self.shared.told));
        lock(&self.shared.local).iter().try_for_each(|read| check_local(read, &told))?;
        Ok(told.into_iter().map(|told| told.operation).collect())
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
        let nodes = &self.load.nodes;
        let node = luck.random_range(0..nodes.len());
        let spread = self.load.span * 2 / u32::try_from(self.load.each.max(1))?;
        let pause_max = u64::try_from(spread.max(PAUSE_MAX).as_millis())?;
        let mut client = Client { raw: nodes[node].raw().within(ANSWER_WITHIN), node, luck, seen: HashMap::new() };
        for _ in 0..self.load.each {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            let answered = self.operate(&mut client)?;
            if !answered || client.luck.random_ratio(1, 5) {
                let step = client.luck.random_range(1..=nodes.len());
                self.go(&mut client, step);
            }
            let pause = Duration::from_millis(client.luck.random_range(0..=pause_max));
            std::thread::sleep(if answered { pause } else { AWAY_PAUSE });
        }
        Ok(())
    }

    fn go(&self, client: &mut Client, step: usize) {
        client.node = (client.node + step) % self.load.nodes.len();
        client.raw = self.load.nodes[client.node].raw().within(ANSWER_WITHIN);
    }

    /// One operation; whether it was answered.
    fn operate(&self, client: &mut Client) -> Result<bool> {
        let kind = Kind::pick(&mut client.luck);
        let key = client.luck.random_range(0..KEYS);
        match kind {
            Kind::Put | Kind::Create | Kind::Replace => self.write(client, kind, key),
            Kind::Delete => self.delete(client, key),
            Kind::Get | Kind::Head | Kind::Local => self.read(client, kind, key),
            Kind::List | Kind::Pages => self.list(client, kind),
        }
    }

    fn name(&self, key: u8) -> String {
        format!("{}{key}", self.load.prefix)
    }

    fn record(&self, act: Act, sent: u64, answered: Option<u64>, reply: Option<&Reply>) {
        let operation = Operation { act, sent, answered };
        lock(&self.told).push(Told { operation, revision: reply.and_then(revision_of) });
    }

    /// Sends, and remembers the highest revision that was told.
    fn send(&self, raw: &mut Raw, call: &Call<'_>) -> Result<Reply, Lost> {
        let reply = raw.send(call)?;
        if let Some(revision) = revision_of(&reply) {
            self.known.fetch_max(revision, Ordering::Relaxed);
        }
        Ok(reply)
    }

    /// The same for a write: `None` when it may have been done or not, `Some(None)` when it did not leave.
    fn send_write(&self, raw: &mut Raw, call: &Call<'_>) -> Option<Option<Reply>> {
        match self.send(raw, call) {
            Ok(reply) if is_open(&reply) => None,
            Ok(reply) => Some(Some(reply)),
            Err(lost) => (!lost.sent).then_some(None),
        }
    }

    fn write(&self, client: &mut Client, kind: Kind, key: u8) -> Result<bool> {
        let (name, value) = (self.name(key), self.values.fetch_add(1, Ordering::Relaxed) + 1);
        let body = body_of(value);
        lock(&self.etags).add(value, &body);
        let expected = client.seen.get(&key).copied().filter(|_| kind == Kind::Replace);
        let etag = expected.and_then(|expected| lock(&self.etags).etags.get(&expected).cloned()).unwrap_or_default();
        let headers: Pairs<'_> = match (kind, expected) {
            (Kind::Create, _) => &[("if-none-match", "*")],
            (_, Some(_)) => &[("if-match", &etag)],
            _ => &[],
        };
        let act = |told| match (kind, expected) {
            (Kind::Create, _) => Act::Create(key, value, told),
            (_, Some(expected)) => Act::Replace(key, value, expected, told),
            _ => Act::Put(key, value),
        };
        let call =
            Call { method: "PUT", bucket: &self.load.bucket, key: &name, query: &[], headers, body: body.as_bytes() };
        let sent = self.now();
        let reply = match self.send_write(&mut client.raw, &call) {
            Some(Some(reply)) => reply,
            Some(None) => return Ok(false),
            None => {
                self.record(act(None), sent, None, None);
                return Ok(false);
            }
        };
        let told = match (reply.status, kind) {
            (200, _) => true,
            (412, Kind::Create | Kind::Replace) => false,
            (404, Kind::Replace) if expected.is_some() => false,
            // Nothing was done: a conflict with another, or no leader.
            (409, _) => return Ok(true),
            (500.., _) => return Ok(false),
            (status, _) => bail!("{kind:?} {name}: status {status}: {}", reply.text()),
        };
        if told {
            client.seen.insert(key, value);
        }
        self.record(act(Some(told)), sent, Some(self.now()), Some(&reply));
        Ok(true)
    }

    fn delete(&self, client: &mut Client, key: u8) -> Result<bool> {
        let name = self.name(key);
        let call =
            Call { method: "DELETE", bucket: &self.load.bucket, key: &name, query: &[], headers: &[], body: b"" };
        let sent = self.now();
        match self.send_write(&mut client.raw, &call) {
            None => self.record(Act::Delete(key), sent, None, None),
            Some(None) => {}
            Some(Some(reply)) if reply.status == 204 => {
                self.record(Act::Delete(key), sent, Some(self.now()), Some(&reply));
                return Ok(true);
            }
            Some(Some(reply)) => {
                ensure!(matches!(reply.status, 409 | 500..), "DELETE {name}: {} {}", reply.status, reply.text());
            }
        }
        Ok(false)
    }

    fn read(&self, client: &mut Client, kind: Kind, key: u8) -> Result<bool> {
        let (name, least) = (self.name(key), self.known.load(Ordering::Relaxed));
        let revision = least.to_string();
        let headers: Pairs<'_> = &[("x-holdfast-min-revision", &revision), ("x-holdfast-consistency", "local")];
        let headers = match kind {
            Kind::Local => headers,
            _ if client.luck.random() => &headers[..1],
            _ => &[],
        };
        let method = if kind == Kind::Head { "HEAD" } else { "GET" };
        let call = Call { method, bucket: &self.load.bucket, key: &name, query: &[], headers, body: b"" };
        let sent = self.now();
        let Some(reply) = self.send(&mut client.raw, &call).ok().filter(|reply| reply.status < 500) else {
            return Ok(false);
        };
        ensure!(matches!(reply.status, 200 | 404), "{method} {name}: status {}: {}", reply.status, reply.text());
        let value = match (reply.status, kind) {
            (404, _) => None,
            (_, Kind::Head) => Some(lock(&self.etags).value(reply.header("etag").unwrap_or_default())?),
            _ => Some(reply.text().trim().parse().with_context(|| format!("the body of {name} is no value"))?),
        };
        let told = revision_of(&reply);
        if let (Some(told), false) = (told, headers.is_empty()) {
            ensure!(told >= least, "{method} {name}: read at revision {told}, {least} was asked for");
        }
        if kind == Kind::Local {
            // Errors tell no revision: of what is not there only the lower bound is known.
            let revision = told.unwrap_or(least);
            lock(&self.local).push(Local { key, value, revision });
            return Ok(true);
        }
        match value {
            Some(value) => client.seen.insert(key, value),
            None => client.seen.remove(&key),
        };
        self.record(Act::Get(key, value), sent, Some(self.now()), Some(&reply));
        Ok(true)
    }

    fn list(&self, client: &mut Client, kind: Kind) -> Result<bool> {
        let sent = self.now();
        let (mut all, mut token, mut answered, mut pages) = (State::new(), String::new(), None, 0);
        loop {
            let mut query = vec![("list-type", "2"), ("prefix", self.load.prefix.as_str())];
            if kind == Kind::Pages {
                query.push(("max-keys", "1"));
            }
            if !token.is_empty() {
                query.push(("continuation-token", token.as_str()));
            }
            let call =
                Call { method: "GET", bucket: &self.load.bucket, key: "", query: &query, headers: &[], body: b"" };
            let Some(reply) = self.send(&mut client.raw, &call).ok().filter(|reply| reply.status < 500) else {
                return Ok(false);
            };
            ensure!(reply.status == 200, "LIST: status {}: {}", reply.status, reply.text());
            // All pages are of the moment of the first.
            answered.get_or_insert_with(|| self.now());
            all.extend(self.listed(&reply)?);
            pages += 1;
            ensure!(pages <= usize::from(KEYS) + 1, "a listing of {KEYS} keys does not end");
            match reply.element("NextContinuationToken").filter(|next| !next.is_empty()) {
                Some(next) => token = next,
                None => break,
            }
            self.go(client, 1);
        }
        self.record(Act::List(all), sent, answered, None);
        Ok(true)
    }

    fn listed(&self, reply: &Reply) -> Result<Vec<(u8, u32)>> {
        let text = reply.text();
        let (keys, etags) = (elements(&text, "Key"), elements(&text, "ETag"));
        ensure!(keys.len() == etags.len(), "a listing of {keys:?} and {etags:?}");
        let known = lock(&self.etags);
        let row = |(key, etag): (&String, &String)| {
            let number = key.strip_prefix(&self.load.prefix).context("a foreign key")?.parse()?;
            Ok((number, known.value(etag)?))
        };
        keys.iter().zip(&etags).map(row).collect()
    }
}

impl Etags {
    fn add(&mut self, value: u32, body: &str) {
        use md5::Digest as _;
        let etag = hex::encode(md5::Md5::digest(body));
        self.values.insert(etag.clone(), value);
        self.etags.insert(value, etag);
    }

    fn value(&self, etag: &str) -> Result<u32> {
        let value = self.values.get(etag.trim_matches('"')).copied();
        value.with_context(|| format!("the ETag {etag:?} is of nothing that was written"))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn body_of(value: u32) -> String {
    let padding = if value.is_multiple_of(LARGE_EVERY) { LARGE_BYTES } else { 0 };
    format!("{value}{}", " ".repeat(padding))
}

/// Whether a write may have been done or not. A 500 says nothing at all.
fn is_open(reply: &Reply) -> bool {
    match reply.status {
        503 => reply.text().contains(UNKNOWN),
        507 => false,
        status => status >= 500,
    }
}

fn revision_of(reply: &Reply) -> Option<u64> {
    reply.header(REVISION)?.parse().ok()
}

/// A local read shows nothing that was replaced, for sure, before the revision at which it was read.
fn check_local(read: &Local, told: &[Told]) -> Result<()> {
    let of_key = |told: &&Told| changed(&told.operation.act) == Some(read.key);
    let writer =
        told.iter().filter(of_key).find(|told| wrote(&told.operation.act) == read.value && read.value.is_some());
    let by_then =
        |told: &&Told| told.operation.answered.is_some() && told.revision.is_some_and(|at| at <= read.revision);
    for later in told.iter().filter(of_key).filter(by_then) {
        let after = |one: &Told| one.operation.answered.is_some_and(|answered| answered < later.operation.sent);
        let stale = match (read.value, writer) {
            (Some(value), Some(writer)) => wrote(&later.operation.act) != Some(value) && after(writer),
            (Some(value), None) => bail!("a local read shows {value}, which nobody wrote"),
            // A delete that could come after the write explains it.
            (None, _) => {
                let deletes = |told: &&Told| matches!(told.operation.act, Act::Delete(_));
                wrote(&later.operation.act).is_some() && told.iter().filter(of_key).filter(deletes).all(after)
            }
        };
        ensure!(
            !stale,
            "a local read of object {} at revision {} shows {:?}, after {:?} of revision {:?}",
            read.key,
            read.revision,
            read.value,
            later.operation,
            later.revision
        );
    }
    Ok(())
}

/// The object that an operation changed, if it did.
fn changed(act: &Act) -> Option<u8> {
    match act {
        Act::Put(key, _) | Act::Delete(key) => Some(*key),
        Act::Create(key, _, told) | Act::Replace(key, _, _, told) => (*told != Some(false)).then_some(*key),
        Act::Get(..) | Act::List(_) => None,
    }
}

fn wrote(act: &Act) -> Option<u32> {
    match act {
        Act::Put(_, value) | Act::Create(_, value, _) | Act::Replace(_, value, ..) => Some(*value),
        Act::Delete(_) | Act::Get(..) | Act::List(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(act: Act, sent: u64, answered: u64, revision: u64) -> Told {
        Told { operation: Operation { act, sent, answered: Some(answered) }, revision: Some(revision) }
    }

    fn read(value: Option<u32>, revision: u64) -> Local {
        Local { key: 1, value, revision }
    }

    #[test]
    fn a_local_read_older_than_its_revision_is_found() {
        let history = [
            told(Act::Put(1, 10), 0, 1, 5),
            told(Act::Put(1, 11), 2, 3, 6),
            told(Act::Put(2, 12), 4, 5, 7),
            told(Act::Create(1, 13, Some(false)), 6, 7, 8),
        ];
        let check = |value, revision| check_local(&read(value, revision), &history).is_ok();
        assert!(check(Some(10), 5) && check(Some(11), 6) && check(Some(11), 9));
        assert!(!check(Some(10), 6), "it was replaced");
        assert!(!check(None, 5), "it was there");
        assert!(check(None, 4));
        assert!(!check(Some(99), 9), "nobody wrote it");
    }

    #[test]
    fn a_delete_explains_that_nothing_is_there_unless_it_came_before() {
        let after = [told(Act::Put(1, 10), 0, 3, 5), told(Act::Delete(1), 2, 4, 6)];
        assert!(check_local(&read(None, 6), &after).is_ok());
        let before = [told(Act::Delete(1), 0, 1, 4), told(Act::Put(1, 10), 2, 3, 5)];
        assert!(check_local(&read(None, 5), &before).is_err());
    }
}
