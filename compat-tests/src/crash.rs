//! Load, crash, restart, audit, again and again.
//!
//! A few workers send a mix of operations, each to keys of its own through its own [`Auditor`]; together they also race
//! for names with `If-None-Match: *`, where at most one may win. The caller crashes the server however it likes. After
//! each restart every worker first decides its unanswered operation and checks a sample; at the end everything is checked.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::audit::{Auditor, Change, Content, Piece, Tally};
use crate::client::raw::{Call, Lost, Raw, Reply, same_bytes};
use crate::process::Holdfast;
use crate::target::{Endpoint, Target};

const WORKERS: u64 = 4;
/// Keys of one worker; few, so that they are overwritten, deleted and renamed onto each other.
const KEYS: u64 = 40;
/// Keys that are checked after each restart.
const SAMPLE: usize = 6;
/// How long workers may take to decide and sample after a restart.
const RESUME_WITHIN: Duration = Duration::from_secs(60);
const PART_BYTES: usize = 5 << 20;
/// What a worker prefers not to hammer while the server is away.
const AWAY_PAUSE: Duration = Duration::from_millis(20);

/// How a run goes.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Crashes.
    pub cycles: u32,
    /// The seed of load and moments.
    pub seed: u64,
    /// A crash comes at a random moment within this time after the workers are back at work.
    pub load_ms_max: u64,
    /// Whether multi-megabyte objects are part of the mix.
    pub large: bool,
}

/// Runs `plan` on `server`: `crash` must end the process, however it likes, and have it running again.
///
/// # Errors
/// When a restart fails, or the server does not keep what it acknowledged.
pub fn run(
    server: &mut Holdfast,
    plan: Plan,
    mut crash: impl FnMut(&mut Holdfast, u32) -> Result<()>,
) -> Result<Tally> {
    let site = Site::new(endpoint(server), plan)?;
    let workers: Vec<JoinHandle<Result<Auditor>>> =
        (0..WORKERS).map(|number| Worker::spawn(site.clone(), number)).collect();
    let mut luck = StdRng::seed_from_u64(plan.seed);
    let mut crashed = Ok(());
    for cycle in 0..plan.cycles {
        crashed = site.await_workers().and_then(|()| {
            std::thread::sleep(Duration::from_millis(luck.random_range(30..=plan.load_ms_max)));
            site.server_gone();
            crash(server, cycle).with_context(|| format!("crash {cycle} of seed {}", plan.seed))?;
            site.server_back(endpoint(server));
            Ok(())
        });
        if crashed.is_err() {
            break;
        }
    }
    let resumed = crashed.and_then(|()| site.await_workers());
    site.stop();
    let auditors = workers.into_iter().map(|worker| worker.join().map_err(|_| anyhow!("a worker panicked"))?);
    let auditors: Vec<Auditor> = auditors.collect::<Result<_>>().with_context(|| server.log_tail(20))?;
    resumed.with_context(|| server.log_tail(20))?;
    finish(&site, auditors)
}

fn finish(site: &Site, auditors: Vec<Auditor>) -> Result<Tally> {
    let mut raw = site.endpoint().raw();
    let mut total = Tally::default();
    for mut auditor in auditors {
        auditor.resolve(&mut raw)?;
        auditor.check_all(&mut raw).with_context(|| format!("final audit of {}", auditor.prefix))?;
        total.add(auditor.tally);
    }
    site.check_races(&mut raw)?;
    ensure!(total.acknowledged > 0, "nothing was acknowledged: the load did not run");
    Ok(total)
}

fn endpoint(server: &Holdfast) -> Endpoint {
    Endpoint::of(Target::Embedded, server.address())
}

/// What one worker tried on a raced name.
#[derive(Clone, Debug)]
struct Attempt {
    content: Content,
    /// `None`: no answer.
    won: Option<bool>,
}

#[derive(Debug)]
struct Shared {
    endpoint: Endpoint,
    /// Raised when the server is back; a worker that has not caught up yet works against the old one.
    generation: u64,
    away: bool,
    stopped: bool,
    /// Workers that have decided and sampled in this generation.
    at_work: u64,
    races: BTreeMap<String, Vec<Attempt>>,
}

/// What the workers and the run share.
#[derive(Debug)]
struct Site {
    plan: Plan,
    bucket: String,
    versioned_bucket: String,
    shared: Mutex<Shared>,
    changed: Condvar,
}

impl Site {
    fn new(endpoint: Endpoint, plan: Plan) -> Result<Arc<Self>> {
        let bucket = endpoint.new_bucket("crash")?;
        let versioned_bucket = endpoint.new_versioned_bucket("crash-versioned")?;
        let races = BTreeMap::new();
        let shared = Shared { endpoint, generation: 1, away: false, stopped: false, at_work: 0, races };
        Ok(Arc::new(Self { plan, bucket, versioned_bucket, shared: Mutex::new(shared), changed: Condvar::new() }))
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn endpoint(&self) -> Endpoint {
        self.shared().endpoint.clone()
    }

    fn server_gone(&self) {
        self.shared().away = true;
    }

    fn server_back(&self, endpoint: Endpoint) {
        let mut shared = self.shared();
        shared.endpoint = endpoint;
        shared.generation += 1;
        shared.away = false;
        shared.at_work = 0;
        self.changed.notify_all();
    }

    fn stop(&self) {
        self.shared().stopped = true;
        self.changed.notify_all();
    }

    /// Waits until every worker has caught up, or one has given up.
    fn await_workers(&self) -> Result<()> {
        let ends = Instant::now() + RESUME_WITHIN;
        let mut shared = self.shared();
        while shared.at_work < WORKERS && !shared.stopped {
            ensure!(Instant::now() < ends, "workers are not back at work within {RESUME_WITHIN:?}");
            let waited = self.changed.wait_timeout(shared, Duration::from_millis(100));
            shared = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        ensure!(!shared.stopped, "a worker gave up");
        Ok(())
    }

    /// Waits for a server newer than `seen`; `None` when the run is over.
    fn next_server(&self, seen: u64) -> Option<(u64, Endpoint)> {
        let mut shared = self.shared();
        loop {
            if shared.generation > seen && !shared.away {
                return Some((shared.generation, shared.endpoint.clone()));
            }
            if shared.stopped {
                return None;
            }
            let waited = self.changed.wait_timeout(shared, Duration::from_millis(100));
            shared = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn over(&self) -> bool {
        self.shared().stopped
    }

    fn back_at_work(&self) {
        self.shared().at_work += 1;
        self.changed.notify_all();
    }

    /// Of all who tried to create a name, at most one won; what is there is the winner's, or that of one who never heard.
    fn check_races(&self, raw: &mut Raw) -> Result<()> {
        for (key, attempts) in &self.shared().races {
            let won: Vec<_> = attempts.iter().filter(|attempt| attempt.won == Some(true)).collect();
            ensure!(won.len() <= 1, "{key}: {} creators were told that they won", won.len());
            let unheard = attempts.iter().filter(|attempt| attempt.won.is_none());
            let allowed: Vec<_> = if won.is_empty() { unheard.collect() } else { won };
            let reply = raw.get(&self.bucket, key, &[])?;
            if reply.status == 404 {
                let heard_nothing = allowed.iter().all(|attempt| attempt.won.is_none());
                ensure!(heard_nothing, "{key}: an acknowledged creation is lost");
                // Nobody won and nobody who never heard did it: then nobody may have been refused either.
                ensure!(
                    attempts.iter().all(|attempt| attempt.won != Some(false)),
                    "{key}: refused, yet nobody is there"
                );
                continue;
            }
            let is_one = allowed.iter().any(|attempt| same_bytes(key, &reply.body, &attempt.content.bytes()).is_ok());
            ensure!(is_one, "{key}: holds what no winner wrote");
        }
        Ok(())
    }
}

struct Worker {
    site: Arc<Site>,
    number: u64,
    luck: StdRng,
    raw: Raw,
    auditor: Auditor,
    /// Makes the bytes of each operation unique.
    operations: u64,
    /// An upload whose completion got no answer; asking again must succeed.
    completing: Option<Upload>,
}

/// An upload whose parts were all acknowledged.
struct Upload {
    key: String,
    id: String,
    etags: Vec<String>,
    content: Content,
}

/// What became of a request.
enum Answer {
    Done(Reply),
    Refused(Reply),
    Unknown,
}

impl Worker {
    fn spawn(site: Arc<Site>, number: u64) -> JoinHandle<Result<Auditor>> {
        std::thread::spawn(move || {
            let result = Self::new(site.clone(), number).work();
            if result.is_err() {
                site.stop();
            }
            result
        })
    }

    fn new(site: Arc<Site>, number: u64) -> Self {
        let versioned = number % 2 == 1;
        let bucket = if versioned { &site.versioned_bucket } else { &site.bucket };
        let auditor = Auditor::new(bucket, &format!("worker-{number}/"), versioned);
        let luck = StdRng::seed_from_u64(site.plan.seed * 31 + number);
        let raw = site.endpoint().raw();
        Self { site, number, luck, raw, auditor, operations: 0, completing: None }
    }

    fn work(mut self) -> Result<Auditor> {
        let mut seen = 0;
        while let Some((generation, endpoint)) = self.site.next_server(seen) {
            seen = generation;
            self.raw = endpoint.raw();
            match self.catch_up() {
                Ok(()) => self.site.back_at_work(),
                Err(error) if error.downcast_ref::<Lost>().is_some() && self.site.shared().away => continue,
                Err(error) => return Err(error.context(format!("worker {} after restart {generation}", self.number))),
            }
            while !self.site.over() {
                if !self.step()? {
                    std::thread::sleep(AWAY_PAUSE);
                    break;
                }
            }
        }
        Ok(self.auditor)
    }

    fn catch_up(&mut self) -> Result<()> {
        self.auditor.resolve(&mut self.raw)?;
        self.ask_again()?;
        let live: Vec<String> = self.auditor.live().into_iter().cloned().collect();
        let sample: Vec<String> = live.choose_multiple(&mut self.luck, SAMPLE).cloned().collect();
        for key in sample {
            self.auditor.check_key(&mut self.raw, &key)?;
        }
        self.auditor.check_listing(&mut self.raw)
    }

    /// Repeats a completion that got no answer. Its parts were acknowledged, so they must still be there.
    fn ask_again(&mut self) -> Result<()> {
        let Some(upload) = self.completing.take() else { return Ok(()) };
        let reply = self.raw.complete_upload(&self.auditor.bucket, &upload.key, &upload.id, &upload.etags, &[])?;
        let reply = reply.expect(200).context("completing an upload again after a crash")?;
        if self.auditor.current(&upload.key) != Some(&upload.content) {
            self.auditor.begin(Change::one(&upload.key, Some(upload.content)));
            self.auditor.acknowledge(reply.header("x-amz-version-id"));
        }
        Ok(())
    }

    fn seed(&self, operation: u64) -> u64 {
        (self.number << 40) | operation
    }

    fn new_piece(&mut self, length: usize) -> Piece {
        let seed = self.seed(self.operations);
        self.operations += 1;
        Piece { seed, length }
    }

    fn any_key(&mut self) -> String {
        format!("{}key-{:02}", self.auditor.prefix, self.luck.random_range(0..KEYS))
    }

    /// Sends one operation; false when the server did not answer.
    fn step(&mut self) -> Result<bool> {
        let large = self.site.plan.large;
        match self.luck.random_range(0..100) {
            0..30 => self.put(4 << 10),
            30..40 => self.put(200 << 10),
            40..43 if large => self.put(3 << 20),
            43..46 if large => self.multipart(),
            40..56 => self.put_if_absent(),
            56..66 => self.copy(),
            66..78 => self.delete(),
            78..86 => self.rename(),
            86..92 => self.append(),
            92..97 => self.race(),
            _ => self.read(),
        }
    }

    fn send(&mut self, call: &Call<'_>) -> Answer {
        match self.raw.send(call) {
            Ok(reply) if reply.status >= 500 => Answer::Unknown,
            // A copy or a completion may fail after its status went out.
            Ok(reply) if reply.status < 300 && !reply.text().contains("<Error>") => Answer::Done(reply),
            Ok(reply) if reply.status < 300 => Answer::Unknown,
            Ok(reply) => Answer::Refused(reply),
            Err(_) => Answer::Unknown,
        }
    }

    /// Sends a call that makes `change`, and books its answer.
    fn commit(&mut self, change: Change, call: &Call<'_>) -> Result<bool> {
        self.auditor.begin(change);
        match self.send(call) {
            Answer::Done(reply) => {
                self.auditor.acknowledge(reply.header("x-amz-version-id"));
                Ok(true)
            }
            Answer::Refused(reply) => {
                Err(anyhow!("{} {} was refused: {} {}", call.method, call.key, reply.status, reply.text()))
            }
            Answer::Unknown => Ok(false),
        }
    }

    fn put(&mut self, length_max: usize) -> Result<bool> {
        let key = self.any_key();
        let length = self.luck.random_range(0..=length_max);
        let content = Content(vec![self.new_piece(length)]);
        let (bucket, body) = (self.auditor.bucket.clone(), content.bytes());
        let call = Call { method: "PUT", bucket: &bucket, key: &key, query: &[], headers: &[], body: &body };
        self.commit(Change::one(&key, Some(content)), &call)
    }

    fn put_if_absent(&mut self) -> Result<bool> {
        let key = self.any_key();
        let length = self.luck.random_range(0..2048);
        let content = Content(vec![self.new_piece(length)]);
        let (bucket, body) = (self.auditor.bucket.clone(), content.bytes());
        let headers = [("if-none-match", "*")];
        let call = Call { method: "PUT", bucket: &bucket, key: &key, query: &[], headers: &headers, body: &body };
        if self.auditor.current(&key).is_none() {
            return self.commit(Change::one(&key, Some(content)), &call);
        }
        match self.send(&call) {
            Answer::Refused(reply) => reply.expect_error(412, "PreconditionFailed").map(|_| true),
            Answer::Done(_) => Err(anyhow!("{key}: If-None-Match: * overwrote an acknowledged object")),
            Answer::Unknown => Ok(false),
        }
    }

    fn multipart(&mut self) -> Result<bool> {
        let key = self.any_key();
        let bucket = self.auditor.bucket.clone();
        let pieces = [self.new_piece(PART_BYTES), self.new_piece(1 << 16)];
        let prepared = self.raw.create_upload(&bucket, &key, &[]).and_then(|upload| {
            let etags = pieces.iter().zip(1..).map(|(piece, number)| {
                let body = Content(vec![*piece]).bytes();
                self.raw.upload_part(&bucket, &key, &upload, number, &body)
            });
            Ok((upload.clone(), etags.collect::<Result<Vec<String>>>()?))
        });
        // Whatever an unfinished upload left is invisible; only its completion is audited.
        let Ok((upload, etags)) = prepared else { return Ok(false) };
        let content = Content(pieces.to_vec());
        self.auditor.begin(Change::one(&key, Some(content.clone())));
        match self.raw.complete_upload(&bucket, &key, &upload, &etags, &[]) {
            Ok(reply) if reply.status == 200 && !reply.text().contains("<Error>") => {
                self.auditor.acknowledge(reply.header("x-amz-version-id"));
                Ok(true)
            }
            Ok(reply) if reply.status < 500 => Err(anyhow!("completion refused: {} {}", reply.status, reply.text())),
            _ => {
                self.completing = Some(Upload { key, id: upload, etags, content });
                Ok(false)
            }
        }
    }

    /// A key that holds something, or none.
    fn live_key(&mut self) -> Option<String> {
        let live: Vec<String> = self.auditor.live().into_iter().cloned().collect();
        live.choose(&mut self.luck).cloned()
    }

    fn copy(&mut self) -> Result<bool> {
        let Some(from) = self.live_key() else { return Ok(true) };
        let key = self.any_key();
        if key == from {
            return Ok(true);
        }
        let content = self.auditor.current(&from).cloned();
        let bucket = self.auditor.bucket.clone();
        let source = format!("/{bucket}/{from}");
        let headers = [("x-amz-copy-source", source.as_str())];
        let call = Call { method: "PUT", bucket: &bucket, key: &key, query: &[], headers: &headers, body: b"" };
        self.commit(Change::one(&key, content), &call)
    }

    fn delete(&mut self) -> Result<bool> {
        let key = self.any_key();
        let bucket = self.auditor.bucket.clone();
        let call = Call { method: "DELETE", bucket: &bucket, key: &key, query: &[], headers: &[], body: b"" };
        self.commit(Change::one(&key, None), &call)
    }

    /// Renames within the unversioned bucket; where versions are kept a rename is two versions and audited elsewhere.
    fn rename(&mut self) -> Result<bool> {
        let Some(from) = self.live_key().filter(|_| !self.auditor.versioned) else { return Ok(true) };
        let to = self.any_key();
        if to == from {
            return Ok(true);
        }
        let content = self.auditor.current(&from).cloned();
        let bucket = self.auditor.bucket.clone();
        let headers = [("x-amz-rename-source", from.as_str())];
        let query = [("renameObject", "")];
        let call = Call { method: "PUT", bucket: &bucket, key: &to, query: &query, headers: &headers, body: b"" };
        self.commit(Change { writes: vec![(from.clone(), None), (to.clone(), content)] }, &call)
    }

    fn append(&mut self) -> Result<bool> {
        let Some(key) = self.live_key().filter(|_| !self.auditor.versioned) else { return Ok(true) };
        let Some(before) = self.auditor.current(&key).cloned() else { return Ok(true) };
        let length = self.luck.random_range(1..8192);
        let piece = self.new_piece(length);
        let bucket = self.auditor.bucket.clone();
        let offset = before.length().to_string();
        let headers = [("x-amz-write-offset-bytes", offset.as_str())];
        let body = Content(vec![piece]).bytes();
        let call = Call { method: "PUT", bucket: &bucket, key: &key, query: &[], headers: &headers, body: &body };
        self.commit(Change::one(&key, Some(before.with(piece))), &call)
    }

    fn read(&mut self) -> Result<bool> {
        let Some(key) = self.live_key() else { return Ok(true) };
        match self.auditor.check_key(&mut self.raw, &key) {
            Ok(()) => Ok(true),
            Err(error) if error.downcast_ref::<Lost>().is_some() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Tries to be the only creator of a name that the other workers want too.
    fn race(&mut self) -> Result<bool> {
        let key = format!("race/{:04}", self.site.shared().generation * 10 + self.luck.random_range(0..10));
        let content = Content(vec![self.new_piece(512)]);
        let (bucket, body) = (self.site.bucket.clone(), content.bytes());
        let headers = [("if-none-match", "*")];
        let call = Call { method: "PUT", bucket: &bucket, key: &key, query: &[], headers: &headers, body: &body };
        let won = match self.send(&call) {
            Answer::Done(_) => Some(true),
            Answer::Refused(reply) => {
                ensure!(matches!(reply.status, 409 | 412), "{key}: {} {}", reply.status, reply.text());
                // 409 says that another writer was faster or is still at it: not a proof that the name exists.
                if reply.status == 409 {
                    return Ok(true);
                }
                Some(false)
            }
            Answer::Unknown => None,
        };
        self.site.shared().races.entry(key).or_default().push(Attempt { content, won });
        Ok(won.is_some())
    }
}

/// A number from the environment, or `default`.
#[must_use]
pub fn from_environment(name: &str, default: u32) -> u32 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// Prints what a run did: a crash test that acknowledged little proves little.
#[allow(clippy::print_stdout, reason = "a line of the test report")]
pub fn tell(tally: &Tally) {
    println!(
        "  {} operations acknowledged; without an answer {}, of which {} had happened",
        tally.acknowledged,
        tally.unknown_done + tally.unknown_not_done,
        tally.unknown_done
    );
}
