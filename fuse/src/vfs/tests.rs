//! The file system without a kernel, over the rules themselves in memory: random operations against a model of plain bytes,
//! while answers, calls and sessions are lost, and lives that end without a word.

#![allow(clippy::unwrap_used)]

mod memory;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use holdfast_core::command::mount::Onto;
use holdfast_core::mount::MountId;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::runtime::Runtime;
use tokio::time::Instant;

use self::memory::{Faults, Memory};
use super::names::Make;
use super::{AtomicFailures, Options, Parts, Profile, Sync, Vfs, Window};
use crate::attributes::{Attributes, Defaults, Kind, Time};
use crate::cache::{self, BlockCache};
use crate::error::Errno;
use crate::journal::{Journal, Limits};
use crate::tree::{Ino, ROOT};

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

async fn start(memory: &Arc<Memory>, dir: &Path, sync: Sync) -> Arc<Vfs> {
    start_with(memory, dir, sync, 8 << 20).await
}

async fn start_with(memory: &Arc<Memory>, dir: &Path, sync: Sync, memory_bytes: u64) -> Arc<Vfs> {
    let limits = Limits { bytes_max: 64 << 20, segment_bytes: 8 << 20 };
    let deadline = Instant::now() + Duration::from_secs(20);
    // The life before may still be ending.
    let (journal, replay) = loop {
        match Journal::open(dir, limits) {
            Ok(opened) => break opened,
            Err(error) if Instant::now() > deadline => panic!("{error}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    let client = MountId(journal.client());
    let cache = cache::Options { dir: None, disk_bytes: 0, memory_bytes, free_floor_bytes: 0 };
    let options = Options {
        bucket: "data".into(),
        prefix: String::new(),
        profile: Profile::Shared,
        sync,
        loss_time: Duration::from_secs(1),
        loss_bytes: 1 << 20,
        defaults: Defaults::of(0, 0),
        read_only: false,
    };
    let parts = Parts {
        remote: Arc::clone(memory) as _,
        cache: BlockCache::open(cache).unwrap(),
        journal: Some(journal),
        journals: sync == Sync::Journal,
        client,
        owner: "test".into(),
    };
    Vfs::start(options, parts, replay).await.unwrap()
}

/// An open file, and what it must read as.
struct Open {
    ino: Ino,
    name: Option<String>,
    bytes: Vec<u8>,
}

/// A process that does this and that, and knows what must come of it.
struct Process {
    vfs: Arc<Vfs>,
    dice: StdRng,
    open: Vec<Open>,
    /// Closed files.
    closed: BTreeMap<String, Vec<u8>>,
    unlinks_open: bool,
}

impl Process {
    fn new(vfs: Arc<Vfs>, seed: u64, unlinks_open: bool) -> Self {
        Self { vfs, dice: StdRng::seed_from_u64(seed), open: Vec::new(), closed: BTreeMap::new(), unlinks_open }
    }

    async fn create(&mut self, name: String) -> Result<(), Errno> {
        let attributes = Attributes::new(Kind::File, 0o644, (0, 0), Time::now());
        let attr = self.vfs.make(ROOT, OsStr::new(&name), Make { attributes, target: None }).await?;
        self.vfs.open_new(attr.ino).await?;
        self.open.push(Open { ino: attr.ino, name: Some(name), bytes: Vec::new() });
        Ok(())
    }

    async fn write(&mut self, at: usize) -> Result<(), Errno> {
        // Seldom so much that it travels as parts.
        let most = if self.dice.random_range(0..40) == 0 { 900 << 10 } else { 9_000 };
        let (offset, length) = (self.dice.random_range(0..60_000), 1 + self.dice.random_range(0..most));
        let data = vec![self.dice.random::<u8>(); length as usize];
        let file = &mut self.open[at];
        self.vfs.write(file.ino, offset, &data).await?;
        let end = offset as usize + data.len();
        file.bytes.resize(file.bytes.len().max(end), 0);
        file.bytes[offset as usize..end].copy_from_slice(&data);
        Ok(())
    }

    async fn truncate(&mut self, at: usize) -> Result<(), Errno> {
        let size = self.dice.random_range(0..70_000);
        let file = &mut self.open[at];
        self.vfs.truncate(file.ino, size).await?;
        file.bytes.resize(size as usize, 0);
        Ok(())
    }

    async fn check(&self, at: usize) {
        let file = &self.open[at];
        let window = Mutex::new(Window::default());
        let read = self.vfs.read(file.ino, 0, 2 << 20, &window).await.unwrap();
        assert_eq!(read.len(), file.bytes.len(), "size of {:?}", file.name);
        let differs = read.iter().zip(&file.bytes).position(|(read, wanted)| read != wanted);
        assert_eq!(differs, None, "first wrong byte of {:?}", file.name);
    }

    async fn close(&mut self, at: usize) -> Result<(), Errno> {
        let seen = AtomicFailures::default();
        self.vfs.close(self.open[at].ino, &seen).await?;
        let file = self.open.swap_remove(at);
        self.vfs.release(file.ino).await;
        self.vfs.forget(file.ino, 1);
        if let Some(name) = file.name {
            self.closed.insert(name, file.bytes);
        }
        Ok(())
    }

    async fn reopen(&mut self) -> Result<(), Errno> {
        let Some(name) = self.closed.keys().next().cloned() else { return Ok(()) };
        let attr = self.vfs.lookup(ROOT, OsStr::new(&name)).await?;
        self.vfs.open(attr.ino, false).await?;
        let bytes = self.closed.remove(&name).unwrap();
        self.open.push(Open { ino: attr.ino, name: Some(name), bytes });
        Ok(())
    }

    async fn rename(&mut self, at: usize, to: String) -> Result<(), Errno> {
        let Some(from) = self.open[at].name.clone() else { return Ok(()) };
        let over = self.open.iter().position(|file| file.name.as_ref() == Some(&to));
        if over.is_some_and(|over| over != at) && !self.unlinks_open {
            return Ok(());
        }
        self.vfs.rename((ROOT, OsStr::new(&from)), (ROOT, OsStr::new(&to)), Onto::Any).await?;
        if from != to {
            self.closed.remove(&to);
            if let Some(over) = over {
                self.open[over].name = None;
            }
            self.open[at].name = Some(to);
        }
        Ok(())
    }

    async fn unlink(&mut self, at: usize) -> Result<(), Errno> {
        let Some(name) = self.open[at].name.clone().filter(|_| self.unlinks_open) else { return Ok(()) };
        self.vfs.unlink(ROOT, OsStr::new(&name)).await?;
        self.open[at].name = None;
        Ok(())
    }

    /// Makes a hole.
    async fn punch(&mut self, at: usize) -> Result<(), Errno> {
        let (start, length) = (self.dice.random_range(0..60_000), self.dice.random_range(1..9_000));
        let file = &mut self.open[at];
        self.vfs.allocate(file.ino, start..start + length, true, true).await?;
        let end = file.bytes.len().min((start + length) as usize);
        file.bytes[end.min(start as usize)..end].fill(0);
        Ok(())
    }

    async fn sync(&self, at: usize) -> Result<(), Errno> {
        self.vfs.sync(self.open[at].ino, &AtomicFailures::default()).await
    }

    /// One operation; one that fails changes nothing, but for bytes that are still to come through.
    async fn step(&mut self) {
        let name = format!("f{}", self.dice.random_range(0..6));
        let taken = self.open.iter().any(|file| file.name.as_ref() == Some(&name)) || self.closed.contains_key(&name);
        if self.open.is_empty() || self.dice.random_range(0..12) == 0 && self.open.len() < 8 {
            let _ = if taken { self.reopen().await } else { self.create(name).await };
            return;
        }
        let at = self.dice.random_range(0..self.open.len() as u64) as usize;
        let _ = match self.dice.random_range(0..14) {
            0..=5 => self.write(at).await,
            6 => self.truncate(at).await,
            7 | 8 => {
                self.check(at).await;
                Ok(())
            }
            9 => self.sync(at).await,
            10 => self.close(at).await,
            11 => self.rename(at, name).await,
            12 => self.unlink(at).await,
            _ => self.reopen().await,
        };
    }
}

/// Runs a history, and compares the repository with the model when all is through.
fn history(seed: u64, sync: Sync, faults: Faults, unlinks_open: bool) {
    let (memory, runtime, dir) = (Memory::new(seed), runtime(), tempfile::tempdir().unwrap());
    runtime.block_on(async {
        let vfs = start(&memory, dir.path(), sync).await;
        let mut process = Process::new(Arc::clone(&vfs), seed, unlinks_open);
        *memory.faults.lock().unwrap() = faults;
        for _ in 0..250 {
            process.step().await;
        }
        *memory.faults.lock().unwrap() = Faults::default();
        for at in 0..process.open.len() {
            process.check(at).await;
        }
        let deadline = Instant::now() + Duration::from_secs(60);
        while vfs.unsynced().0 > 0 && Instant::now() < deadline {
            let _ = vfs.flush_all().await;
        }
        assert_eq!(vfs.stop(deadline).await, 0, "bytes remain");
        let mut model = process.closed;
        model.extend(process.open.into_iter().filter_map(|file| Some((file.name?, file.bytes))));
        for (name, bytes) in &model {
            assert!(memory.get(name).as_ref() == Some(bytes), "seed {seed}: {name} is another in the repository");
        }
        assert_eq!(memory.keys(), model.into_keys().collect::<Vec<_>>(), "seed {seed}");
    });
}

fn seeds() -> u64 {
    std::env::var("HOLDFAST_MOUNT_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(4)
}

#[test]
fn random_operations_read_as_the_model_and_come_through() {
    for seed in 0..seeds() {
        for sync in [Sync::Store, Sync::Journal, Sync::Async] {
            history(seed, sync, Faults::default(), true);
        }
    }
}

#[test]
fn lost_answers_and_calls_change_nothing() {
    for seed in 0..seeds() {
        let faults = Faults { lost_answers: 10, lost_calls: 5, ..Faults::default() };
        history(seed, Sync::Journal, faults, true);
        history(seed, Sync::Store, faults, true);
    }
}

#[test]
fn lost_sessions_and_refusals_lose_no_byte() {
    for seed in 0..seeds() {
        let faults = Faults { lost_sessions: 5, lost_answers: 5, refusals: 5, ..Faults::default() };
        history(seed, Sync::Journal, faults, false);
        history(seed, Sync::Store, faults, false);
    }
}

/// What was synced to the journal is in the repository after the next start, whenever the life before ended.
#[test]
fn what_was_synced_to_the_journal_outlives_the_process() {
    for seed in 0..seeds() {
        let (memory, dir) = (Memory::new(seed), tempfile::tempdir().unwrap());
        let mut dice = StdRng::seed_from_u64(seed);
        // For each file, what it may be: what was synced last, and all that came after.
        let mut may_be: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
        for _life in 0..4 {
            let runtime = runtime();
            runtime.block_on(async {
                let vfs = start(&memory, dir.path(), Sync::Journal).await;
                check_what_came_back(&memory, &mut may_be);
                let mut process = Process::new(vfs, dice.random(), false);
                for name in ["a", "b", "c"] {
                    live(&mut process, name, &may_be).await;
                }
                *memory.faults.lock().unwrap() = Faults { lost_answers: 10, lost_calls: 10, ..Faults::default() };
                for _ in 0..40 + dice.random_range(0..60) {
                    let at = dice.random_range(0..3) as usize;
                    let _ = match dice.random_range(0..8) {
                        0 => process.truncate(at).await,
                        _ => process.write(at).await,
                    };
                    let states = may_be.entry(process.open[at].name.clone().unwrap()).or_default();
                    states.push(process.open[at].bytes.clone());
                    if dice.random_range(0..10) == 0 && process.sync(at).await.is_ok() {
                        states.drain(..states.len() - 1);
                    }
                }
                // Nothing gets through any more, and then it ends.
                *memory.faults.lock().unwrap() = Faults { lost_calls: 100, ..Faults::default() };
            });
            runtime.shutdown_timeout(Duration::from_secs(5));
            *memory.faults.lock().unwrap() = Faults::default();
        }
        let runtime = runtime();
        runtime.block_on(async {
            let vfs = start(&memory, dir.path(), Sync::Journal).await;
            check_what_came_back(&memory, &mut may_be);
            assert_eq!(vfs.stop(Instant::now() + Duration::from_secs(60)).await, 0);
        });
    }
}

/// Opens a file of an earlier life, or makes it.
async fn live(process: &mut Process, name: &str, may_be: &BTreeMap<String, Vec<Vec<u8>>>) {
    match may_be.get(name) {
        Some(states) => {
            process.closed = BTreeMap::from([(name.to_owned(), states[0].clone())]);
            process.reopen().await.unwrap();
        }
        None => process.create(name.to_owned()).await.unwrap(),
    }
}

fn check_what_came_back(memory: &Memory, may_be: &mut BTreeMap<String, Vec<Vec<u8>>>) {
    for (name, states) in may_be {
        let there = memory.get(name).unwrap_or_default();
        assert!(states.contains(&there), "{name} is none of the {} states that it may be", states.len());
        *states = vec![there];
    }
    assert!(!memory.keys().iter().any(|key| key.contains("conflict")), "{:?}", memory.keys());
}

/// What is written here while another client replaces the file after the session was lost goes to a copy.
#[test]
fn what_was_not_committed_when_the_session_was_lost_overwrites_nobody() {
    let (memory, runtime, dir) = (Memory::new(1), runtime(), tempfile::tempdir().unwrap());
    runtime.block_on(async {
        let vfs = start(&memory, dir.path(), Sync::Async).await;
        let mut process = Process::new(Arc::clone(&vfs), 1, false);
        process.create("a".into()).await.unwrap();
        vfs.write(process.open[0].ino, 0, b"first").await.unwrap();
        vfs.flush_all().await.unwrap();
        vfs.write(process.open[0].ino, 0, b"mine").await.unwrap();
        *memory.faults.lock().unwrap() = Faults { lost_sessions: 100, lost_calls: 0, ..Faults::default() };
        memory.put("a", b"theirs");
        let flushed = vfs.flush_all();
        let calm = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            *memory.faults.lock().unwrap() = Faults::default();
        };
        let (flushed, ()) = tokio::join!(flushed, calm);
        assert_eq!(flushed, Err(Errno::EIO));
        assert_eq!(memory.get("a").as_deref(), Some(b"theirs".as_slice()));
        let copy = memory.keys().into_iter().find(|key| key.starts_with("a.conflict-")).unwrap();
        assert_eq!(memory.get(&copy).as_deref(), Some(b"mine".as_slice()));
        vfs.stop(Instant::now() + Duration::from_secs(10)).await;
    });
}

/// A file of the repository that is open here, and its bytes.
async fn big(memory: &Arc<Memory>, vfs: &Arc<Vfs>, bytes: usize) -> (Ino, Vec<u8>) {
    let mut content = vec![0; bytes];
    StdRng::seed_from_u64(7).fill(&mut content[..]);
    memory.put("big", &content);
    let ino = vfs.lookup(ROOT, OsStr::new("big")).await.unwrap().ino;
    vfs.open(ino, false).await.unwrap();
    (ino, content)
}

#[test]
fn what_is_read_in_order_is_fetched_once_however_many_read() {
    const BLOCK: usize = 128 << 10;
    let (memory, runtime, dir) = (Memory::new(1), runtime(), tempfile::tempdir().unwrap());
    runtime.block_on(async {
        let vfs = start_with(&memory, dir.path(), Sync::Store, 256 << 20).await;
        let (ino, content) = big(&memory, &vfs, 24 << 20).await;
        let (content, window) = (Arc::new(content), Arc::new(Mutex::new(Window::default())));
        for chunk in 0..content.len() / BLOCK / 4 {
            // As the kernel reads ahead: some at a time, in any order.
            let mut reads = tokio::task::JoinSet::new();
            for at in 0..4 {
                let (vfs, window, content) = (Arc::clone(&vfs), Arc::clone(&window), Arc::clone(&content));
                let offset = (chunk * 4 + at) * BLOCK;
                reads.spawn(async move {
                    let read = vfs.read(ino, offset as u64, BLOCK as u32, &window).await.unwrap();
                    assert!(read == content[offset..offset + BLOCK], "another at {offset}");
                });
            }
            reads.join_all().await;
        }
        assert_eq!(vfs.counters.fetched_bytes.load(std::sync::atomic::Ordering::Relaxed), content.len() as u64);
        vfs.stop(Instant::now() + Duration::from_secs(10)).await;
    });
}

#[test]
fn a_read_at_random_fetches_its_blocks_only() {
    let (memory, runtime, dir) = (Memory::new(1), runtime(), tempfile::tempdir().unwrap());
    runtime.block_on(async {
        let vfs = start_with(&memory, dir.path(), Sync::Store, 256 << 20).await;
        let (ino, content) = big(&memory, &vfs, 24 << 20).await;
        let window = Mutex::new(Window::default());
        for offset in [9_000_000, 131_000, 20_000_000, 4_000_000] {
            let read = vfs.read(ino, offset, 4096, &window).await.unwrap();
            assert!(read == content[offset as usize..offset as usize + 4096], "another at {offset}");
        }
        // The second lies in two blocks.
        assert_eq!(vfs.counters.fetched_bytes.load(std::sync::atomic::Ordering::Relaxed), 5 * (128 << 10));
        vfs.stop(Instant::now() + Duration::from_secs(10)).await;
    });
}

#[test]
fn those_who_look_at_one_moment_share_questions_and_see_what_was_there() {
    let (memory, runtime, dir) = (Memory::new(1), runtime(), tempfile::tempdir().unwrap());
    runtime.block_on(async {
        let vfs = start(&memory, dir.path(), Sync::Store).await;
        memory.faults.lock().unwrap().slow_looks = Duration::from_millis(20);
        for round in 0..10 {
            let before = memory.stats();
            for number in 0..32 {
                memory.put(&format!("r{round}-{number}"), b"x");
            }
            let mut looks = tokio::task::JoinSet::new();
            for number in 0..64 {
                let vfs = Arc::clone(&vfs);
                looks.spawn(async move {
                    let found = vfs.lookup(ROOT, OsStr::new(&format!("r{round}-{number}"))).await;
                    assert_eq!(found.is_ok(), number < 32, "{number}: {found:?}");
                });
            }
            // One that is given up while it asks, or waits, leaves nobody behind.
            let given_up = tokio::time::timeout(Duration::ZERO, vfs.lookup(ROOT, OsStr::new("nothing"))).await;
            drop(given_up);
            looks.join_all().await;
            assert!(memory.stats() - before < 32, "{} questions", memory.stats() - before);
        }
        vfs.stop(Instant::now() + Duration::from_secs(10)).await;
    });
}

/// A change that carries no bytes of this mount goes with a commit beside the layers of files that are open.
#[test]
fn holes_are_made_while_files_are_written_and_closed() {
    let (memory, runtime, dir) = (Memory::new(1), runtime(), tempfile::tempdir().unwrap());
    runtime.block_on(async {
        let vfs = start(&memory, dir.path(), Sync::Store).await;
        let mut process = Process::new(Arc::clone(&vfs), 1, false);
        for name in ["a", "b"] {
            process.create(name.into()).await.unwrap();
        }
        for _ in 0..30 {
            process.write(0).await.unwrap();
            process.write(1).await.unwrap();
            process.punch(0).await.unwrap();
            process.check(0).await;
        }
        vfs.flush_all().await.unwrap();
        for file in &process.open {
            assert!(memory.get(file.name.as_ref().unwrap()).as_ref() == Some(&file.bytes));
        }
        vfs.stop(Instant::now() + Duration::from_secs(10)).await;
    });
}
