//! Runs over a store in memory: what a lookup reads, and what is told of damage.

use holdfast_core::index::row::{Posting, RunRow, RunState};
use holdfast_core::index::run::{Entry, Header};
use holdfast_core::index::{IndexKind, layout};

use super::*;
use crate::backend::faulty::{Fault, Faulty, Op as Call, Rule};
use crate::backend::memory::Memory;
use crate::backend::{Body, Condition, DeleteOptions, PutOptions};

const PATH: &str = "indexes/abc/t/by-n.0000000000000009.btree";
const ENTRIES: u64 = 60_000;

fn subject(n: u64) -> Vec<u8> {
    [&[5][..], format!("value-{n:08}").as_bytes(), &[0, 1]].concat()
}

fn posting(n: u64) -> Posting {
    Posting { revision: n + 1, ordinal: 7 }
}

fn entry(n: u64) -> Entry {
    let mut key = subject(n);
    key.extend(posting(n).revision.to_be_bytes());
    key.extend(posting(n).ordinal.to_be_bytes());
    key.extend(3u32.to_be_bytes());
    let value = [&(n * 10).to_be_bytes()[..], &10u32.to_be_bytes()].concat();
    Entry { key, value: value.into() }
}

fn hit(n: u64) -> RunHit {
    RunHit { posting: posting(n), range: Some(n * 10..n * 10 + 10) }
}

fn new_run() -> NewRun {
    NewRun { path: PATH.into(), header: Header { layout: layout(IndexKind::BTree), index: 5, revision: 9 } }
}

struct World {
    backend: Arc<Faulty>,
    runs: Runs,
    run: IndexRun,
}

impl World {
    /// A run of every other value.
    async fn new() -> Self {
        let backend = Arc::new(Faulty::scripted(Memory::shared(), vec![]));
        let runs = Runs::new(backend.clone());
        let fill = |sink: &mut Sink| {
            (0..ENTRIES).step_by(2).try_for_each(|n| sink.push(&entry(n)))?;
            Ok::<_, Error>(8)
        };
        let written = runs.write(new_run(), fill).await.unwrap().unwrap();
        assert_eq!((written.through, written.entries), (8, ENTRIES / 2));
        let row = RunRow {
            path: PATH.into(),
            state: RunState::Live,
            through: written.through,
            bytes: written.bytes,
            entries: written.entries,
            fences_at: written.fences_at,
            trimmed: false,
        };
        Self { backend, runs, run: IndexRun { index: 5, revision: 9, row } }
    }

    /// As a process that was just started.
    fn restart(&mut self) {
        self.runs = Runs::new(self.backend.clone());
    }

    async fn seek(&self, seeks: &[Seek], hits_max: usize) -> Result<Sought, Failed> {
        self.runs.search(std::slice::from_ref(&self.run), seeks, hits_max).await
    }

    async fn find(&self, n: u64) -> Result<Vec<RunHit>, Failed> {
        match self.seek(&[Seek::Subject(subject(n))], 100).await? {
            Sought::Hits(hits) => Ok(hits),
            Sought::TooMany => panic!("one value has one entry"),
        }
    }

    /// Reads that `look` takes.
    async fn reads_of(&self, look: impl AsyncFnOnce(&Self)) -> u64 {
        let before = self.runs.stats().reads;
        look(self).await;
        self.runs.stats().reads - before
    }

    async fn overwrite(&self, bytes: Vec<u8>) {
        let options = PutOptions { condition: Condition::Overwrite, ..PutOptions::default() };
        self.backend.put(&ObjectPath::new(PATH).unwrap(), Body::from(bytes), options).await.unwrap();
    }
}

#[tokio::test]
async fn a_lookup_in_a_known_run_is_one_ranged_read() {
    let world = World::new().await;
    let first = world.reads_of(async |world| assert_eq!(world.find(400).await.unwrap(), [hit(400)])).await;
    assert_eq!((first, world.runs.stats().opened), (2, 1), "the first one opens it");
    for n in [0, 30_000, ENTRIES - 2] {
        let again = world.reads_of(async |world| assert_eq!(world.find(n).await.unwrap(), [hit(n)])).await;
        assert_eq!(again, 1, "{n}");
    }
    let read = world.runs.stats().read_bytes;
    assert!(read < world.run.row.bytes / 4, "{read} of {} bytes were read", world.run.row.bytes);
    let absent = world.reads_of(async |world| assert_eq!(world.find(401).await.unwrap(), [])).await;
    assert_eq!(absent, 2, "its filter comes to memory");
    let mut spared = 0;
    for n in (403..1403).step_by(2) {
        spared += u64::from(world.reads_of(async |world| assert_eq!(world.find(n).await.unwrap(), [])).await == 0);
    }
    assert!(spared > 450, "{spared} of 500 absent values were ruled out by the filter");
}

#[tokio::test]
async fn neighbours_are_read_once_and_too_much_is_said_to_be() {
    let world = World::new().await;
    let interval = Interval { from: subject(1000), to: subject(3000) };
    let found = world.seek(&[Seek::Interval(interval.clone())], 1000).await.unwrap();
    assert_eq!(found, Sought::Hits((1000..3000).step_by(2).map(hit).collect()));
    assert_eq!(world.seek(&[Seek::Interval(interval)], 999).await.unwrap(), Sought::TooMany);
    let near: Vec<Seek> = (1000..1020).step_by(2).map(|n| Seek::Subject(subject(n))).collect();
    let reads = world.reads_of(async |world| drop(world.seek(&near, 100).await.unwrap())).await;
    assert!(reads <= 2, "{reads} reads of ten neighbours");
    let everywhere: Vec<Seek> = (0..ENTRIES).step_by(2).map(|n| Seek::Subject(subject(n))).collect();
    assert_eq!(world.seek(&everywhere, 10).await.unwrap(), Sought::TooMany);
}

#[tokio::test]
async fn a_backend_that_is_down_is_told_apart_from_a_run_that_is_lost() {
    let mut world = World::new().await;
    world.backend.set_script(vec![Rule::always(Call::Get, Fault::Before)]);
    let Err(Failed::Unavailable(error)) = world.find(2).await else { panic!("it is unavailable") };
    assert_eq!(error.kind(), crate::blobs::Kind::Unavailable);
    world.backend.set_script(vec![]);
    assert_eq!(world.find(2).await.unwrap(), [hit(2)], "and can be read again");

    let path = ObjectPath::new(PATH).unwrap();
    let whole = world.runs.fetch(&world.run, 0..world.run.row.bytes).await.unwrap();
    let lost = |found: Result<Vec<RunHit>, Failed>, what: &str| {
        assert!(matches!(found, Err(Failed::Lost { run: 9, .. })), "{what}: {found:?}");
    };
    world.restart();
    world.overwrite(vec![0; whole.len()]).await;
    lost(world.find(2).await, "other bytes");
    let mut damaged = whole.to_vec();
    damaged[40] ^= 1;
    world.restart();
    world.overwrite(damaged).await;
    lost(world.find(2).await, "one bit in the first block");
    assert_eq!(world.find(ENTRIES - 2).await.unwrap(), [hit(ENTRIES - 2)], "other blocks are whole");
    world.restart();
    world.overwrite(whole[..whole.len() - 1].to_vec()).await;
    lost(world.find(2).await, "cut");
    assert!(!world.runs.is_there(&world.run).await.unwrap());
    world.restart();
    world.backend.delete(&path, DeleteOptions::default()).await.unwrap();
    lost(world.find(2).await, "missing");
    assert!(!world.runs.is_there(&world.run).await.unwrap());
}

#[tokio::test]
async fn a_scan_gives_every_entry_or_an_error() {
    let mut world = World::new().await;
    let scan = async |world: &World| {
        let (scanned, feed) = world.runs.scan(&world.run);
        let taking = tokio::task::spawn_blocking(move || scanned.collect::<Result<Vec<Entry>, Cut>>());
        let (fed, taken) = tokio::join!(feed, taking);
        (fed, taken.unwrap())
    };
    let (fed, taken) = scan(&world).await;
    fed.unwrap();
    assert_eq!(taken.unwrap(), (0..ENTRIES).step_by(2).map(entry).collect::<Vec<_>>());
    world.restart();
    world.backend.set_script(vec![Rule { skip: 1, ..Rule::always(Call::Get, Fault::Before) }]);
    let (fed, taken) = scan(&world).await;
    assert!(matches!(fed, Err(Failed::Unavailable(_))) && taken.is_err());
}

#[tokio::test]
async fn a_run_that_is_not_written_to_its_end_is_not_stored() {
    let backend: Arc<dyn Backend> = Memory::shared();
    let runs = Runs::new(backend.clone());
    let stored = async || backend.list(crate::backend::ListOptions::under("")).await.unwrap().entries.len();
    let cut = |entries: u64| {
        move |sink: &mut Sink| {
            (0..entries).try_for_each(|n| sink.push(&entry(n)))?;
            Err::<Revision, Error>(Error::Closed)
        }
    };
    for entries in [0, 10, 200_000] {
        assert!(runs.write(new_run(), cut(entries)).await.is_err());
        assert_eq!(stored().await, 0, "{entries}");
    }
    let written = runs.write(new_run(), |_: &mut Sink| Ok::<_, Error>(1)).await.unwrap();
    assert_eq!((written, stored().await), (None, 0), "nothing is stored of no entries");
    let one = |sink: &mut Sink| sink.push(&entry(1)).map(|()| 1);
    assert_eq!(runs.write(new_run(), one).await.unwrap().unwrap().entries, 1);
    let again = runs.write(new_run(), one).await;
    assert!(matches!(again, Err(Error::Run { .. })), "a file is never overwritten: {again:?}");
}
