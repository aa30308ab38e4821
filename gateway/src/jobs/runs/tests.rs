//! The job over the real rules and a store in memory: what goes wrong in the middle costs no answer and leaves no file.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_core::command::{BucketRef, CreateIndex, DropIndex, Reply};
use holdfast_core::index::{Constraint, Expression, IndexKind, Lookup, Value, intervals, seeks};
use holdfast_core::rules::authorize::{Action, Caller, Context as AuthContext, Permit, Resource, authorize};

use super::super::JobsConfig;
use super::super::index::Build;
use super::super::tests::drain;
use super::*;
use crate::backend::faulty::{Fault, Op as Call, Rule};
use crate::backend::{Backend as _, Body, Condition, ListOptions, ObjectPath, PutOptions};
use crate::blobs::Facts as _;
use crate::blobs::runs::Sought;
use crate::blobs::tests::{World as Store, bytes_of};

const NAMES: [&str; 2] = ["by-size", "by-size-hash"];

/// Objects of which two indexes know the size.
struct World {
    store: Store,
    context: Context,
    sizes: BTreeMap<String, u64>,
}

impl World {
    async fn new() -> Self {
        let store = Store::new();
        let config = JobsConfig { index_head_bytes: 300, ..JobsConfig::default() };
        let (blobs, ledger) = (store.blobs.clone(), store.state.clone());
        let context = Context { blobs, ledger, config, stats: Arc::default() };
        let mut world = Self { store, context, sizes: BTreeMap::new() };
        for (name, kind) in NAMES.into_iter().zip([IndexKind::BTree, IndexKind::Hash]) {
            world.create(name, kind, false);
        }
        world.put(0..20).await;
        drain(&mut Build::default(), &world.context).await.unwrap();
        world
    }

    fn create(&self, name: &str, kind: IndexKind, unique: bool) {
        let (bucket, prefix) = (self.bucket(), String::new());
        let expressions = vec![if unique { Expression::Key } else { Expression::Size }];
        let op = CreateIndex { bucket, name: name.into(), prefix, kind, unique, expressions };
        let reply = self.store.state.apply(Op::CreateIndex(op));
        assert!(!matches!(reply, Reply::Refused(_)), "{reply:?}");
    }

    fn bucket(&self) -> BucketRef {
        self.store.bucket.clone()
    }

    async fn put(&mut self, numbers: std::ops::Range<u64>) {
        for number in numbers {
            let (key, size) = (format!("k{number:03}"), 1 + (number * 7 + self.store.state.local().revision()) % 30);
            self.store.put(&key, &bytes_of(size as usize, 0)).await;
            self.sizes.insert(key, size);
        }
    }

    fn delete(&mut self, number: u64) {
        let key = format!("k{number:03}");
        self.store.delete(&key);
        self.sizes.remove(&key);
    }

    async fn index(&self, name: &str) -> (Bucket, IndexInfo) {
        let all = self.context.look(|view, permit| view.all_indexes(permit)).await.unwrap();
        all.into_iter().find(|(_, index)| index.name == name).unwrap()
    }

    async fn runs(&self, name: &str) -> Vec<IndexRun> {
        let id = self.index(name).await.1.id;
        self.context.look(move |view, permit| view.runs_of_index(permit, id)).await.unwrap()
    }

    async fn condemned(&self) -> usize {
        self.context.look(|view, permit| view.condemned_runs(permit, None, 1000)).await.unwrap().len()
    }

    /// Files of runs.
    async fn files(&self) -> BTreeSet<String> {
        let page = self.store.backend.list(ListOptions::under("indexes/")).await.unwrap();
        page.entries.into_iter().map(|entry| entry.path.as_str().to_owned()).collect()
    }

    /// The files that live runs name.
    async fn named(&self) -> BTreeSet<String> {
        let mut named = BTreeSet::new();
        for name in NAMES {
            named.extend(self.runs(name).await.into_iter().map(|run| run.row.path));
        }
        named
    }

    fn permit(&self) -> Permit {
        let bucket = Resource::Bucket(self.store.bucket.name.clone());
        authorize(Caller::Root, Action::ListBucket, bucket, &AuthContext::default()).unwrap()
    }

    /// The keys of a size by an index, as a search finds them; `Err` of a run that is lost.
    async fn found(&self, name: &str, size: u64) -> Result<BTreeSet<String>, Failed> {
        let (bucket, index) = self.index(name).await;
        let text = size.to_string();
        let intervals = intervals(&[Constraint::Equal(vec![Value::canonical(&text)])]).unwrap();
        let runs = self.runs(name).await;
        let sought = self.context.blobs.runs().search(&runs, &seeks(&index, &intervals).unwrap(), 1000).await?;
        let Sought::Hits(hits) = sought else { panic!("there are few") };
        let lookup = Lookup { index: &index, prefix: "", intervals: &intervals, rows_max: 1000 };
        let local = self.store.state.local();
        let found = local.view().search(&self.permit(), &bucket, &lookup, &hits).unwrap().unwrap();
        let whole = found.whole.into_iter().filter(|key| self.sizes[key.as_str()] == size);
        Ok(found.rows.into_iter().map(|object| object.key).chain(whole).map(|key| key.as_str().to_owned()).collect())
    }

    /// Both indexes name the objects of each size, and no others.
    async fn check(&self, when: &str) {
        for name in NAMES {
            for size in 1..=31 {
                let of_size = self.sizes.iter().filter(|(_, is)| **is == size);
                let wanted: BTreeSet<String> = of_size.map(|(key, _)| key.clone()).collect();
                assert_eq!(self.found(name, size).await.unwrap(), wanted, "{when}: {size} by {name}");
            }
        }
    }

    async fn drain(&self, job: &mut Runs) {
        drain(job, &self.context).await.unwrap();
    }

    /// Entries of more objects, each time in a run of their own.
    async fn pile_up(&mut self, job: &mut Runs, rounds: u64) {
        for round in 0..rounds {
            self.put(round..round + 12).await;
            self.drain(job).await;
        }
    }

    async fn overwrite(&self, path: &str, bytes: Vec<u8>) {
        let options = PutOptions { condition: Condition::Overwrite, ..PutOptions::default() };
        self.store.backend.put(&ObjectPath::new(path).unwrap(), Body::from(bytes), options).await.unwrap();
    }
}

#[tokio::test]
async fn entries_move_runs_are_merged_and_old_files_go() {
    let (mut world, mut job) = (World::new().await, Runs::default());
    world.drain(&mut job).await;
    for name in NAMES {
        let index = world.index(name).await.1;
        assert_eq!((index.bytes, index.runs, index.objects, index.entries), (0, 1, 20, 20), "{name}");
    }
    world.check("demoted").await;
    world.put(0..3).await;
    world.delete(7);
    world.check("overwritten and deleted").await;
    let rounds = RUNS_BEFORE_MERGE as u64;
    world.pile_up(&mut job, rounds).await;
    world.check("merged").await;
    let merged = world.context.stats.runs_merged.load(Ordering::Relaxed);
    assert!(merged > rounds, "{merged} runs were merged");
    assert!(world.runs(NAMES[0]).await.len() <= RUNS_BEFORE_MERGE);
    assert_eq!((world.files().await, world.condemned().await), (world.named().await, 0));
    let deleted = world.context.stats.runs_deleted.load(Ordering::Relaxed);
    assert_eq!(deleted, merged, "files that were merged away are deleted");
}

#[tokio::test]
async fn a_unique_index_stays_in_the_state() {
    let world = World::new().await;
    world.create("unique", IndexKind::BTree, true);
    drain(&mut Build::default(), &world.context).await.unwrap();
    world.drain(&mut Runs::default()).await;
    let (bucket, index) = world.index("unique").await;
    assert!(index.bytes > world.context.config.index_head_bytes && index.runs == 0, "{index:?}");
    assert!(begin(&world.context, &bucket, &index).await.is_err());
}

#[tokio::test]
async fn files_stay_for_the_archive_and_for_readers() {
    let (world, mut job) = (World::new().await, Runs::default());
    world.drain(&mut job).await;
    let (old, revision) = (world.named().await, world.store.state.local().revision());
    let guard = world.context.blobs.readers().enter(revision).unwrap();
    world.store.state.archived.store(revision, Ordering::Relaxed);
    for name in NAMES {
        world.store.state.apply(Op::DropIndex(DropIndex { bucket: world.bucket(), name: name.into() }));
    }
    for _ in 0..3 {
        assert!(matches!(job.round(&world.context).await.unwrap(), Round::Again(_)), "it waits");
    }
    assert_eq!(world.files().await, old, "a recovery could need them");
    world.store.state.archived.store(Revision::MAX, Ordering::Relaxed);
    job.round(&world.context).await.unwrap();
    assert_eq!(world.files().await, old, "a reader needs them");
    drop(guard);
    world.drain(&mut job).await;
    assert_eq!((world.files().await, world.condemned().await), (BTreeSet::new(), 0));
}

/// Writes a run of what the state holds, and does not name it.
async fn written(world: &World, name: &str) -> (Bucket, IndexInfo, IndexRun, Option<WrittenRun>) {
    let (bucket, index) = world.index(name).await;
    let (begun, new) = begin(&world.context, &bucket, &index).await.unwrap();
    let written = write_file(&world.context, &index, new).await.unwrap();
    assert!(written.is_some());
    (bucket, index, begun, written)
}

/// The files that nobody named go, but not while somebody could still write them.
async fn abandoned_go(world: &World, mut job: Runs, abandoned: &str) {
    world.drain(&mut job).await;
    assert!(world.files().await.contains(abandoned), "its writer could be at it");
    tokio::time::pause();
    tokio::time::advance(ABANDONED_AGE / 2).await;
    world.drain(&mut job).await;
    assert!(world.files().await.contains(abandoned), "its writer could be at it still");
    tokio::time::advance(ABANDONED_AGE).await;
    world.drain(&mut job).await;
    tokio::time::resume();
    assert!(!world.files().await.contains(abandoned));
    assert_eq!((world.files().await, world.condemned().await), (world.named().await, 0));
}

#[tokio::test]
async fn a_crash_between_the_file_and_its_command_leaves_nothing() {
    let world = World::new().await;
    let (.., begun, _) = written(&world, NAMES[0]).await;
    world.check("after the crash").await;
    abandoned_go(&world, Runs::default(), &begun.row.path).await;
    assert_eq!(world.runs(NAMES[0]).await.len(), 1, "the next leader wrote its own");
    world.check("after the next leader").await;
}

#[tokio::test]
async fn a_leader_that_was_overtaken_is_refused() {
    let world = World::new().await;
    let (bucket, index, begun, what) = written(&world, NAMES[0]).await;
    // The next leader gives it up, and is done before the old one wakes.
    let mut job = Runs::default();
    world.drain(&mut job).await;
    let late = add(&world.context, &bucket, &index, &begun, Vec::new(), what).await.unwrap_err();
    assert_eq!(late.kind(), Kind::Changed);
    let runs = world.runs(NAMES[0]).await;
    assert!(runs.len() == 1 && runs[0].revision > begun.revision);
    // What it would have removed is named by the run of the other.
    demote(&world.context, &bucket, &index, runs[0].row.through).await.unwrap();
    world.check("overtaken").await;
    abandoned_go(&world, job, &begun.row.path).await;
}

#[tokio::test]
async fn an_index_or_bucket_that_goes_meanwhile_takes_its_runs_along() {
    for whole_bucket in [false, true] {
        let mut world = World::new().await;
        world.drain(&mut Runs::default()).await;
        world.put(0..15).await;
        let (bucket, index, begun, what) = written(&world, NAMES[0]).await;
        let old = world.named().await;
        if whole_bucket {
            (0..20).for_each(|number| world.delete(number));
            let gone = world.store.state.apply(Op::DeleteBucket(world.bucket()));
            assert!(matches!(gone, Reply::Done), "{gone:?}");
        } else {
            for name in NAMES {
                world.store.state.apply(Op::DropIndex(DropIndex { bucket: world.bucket(), name: name.into() }));
            }
        }
        let late = add(&world.context, &bucket, &index, &begun, Vec::new(), what).await.unwrap_err();
        assert_eq!(late.kind(), Kind::Changed);
        assert!(demote(&world.context, &bucket, &index, begun.revision).await.is_err());
        let mut job = Runs::default();
        world.drain(&mut job).await;
        let left = world.files().await;
        assert!(left.is_disjoint(&old) && left.contains(&begun.row.path), "{left:?}");
    }
}

#[tokio::test]
async fn a_run_that_two_merges_cannot_read_is_lost_and_one_wrong_answer_is_forgiven() {
    let (mut world, mut job) = (World::new().await, Runs::default());
    world.pile_up(&mut job, RUNS_BEFORE_MERGE as u64 - 1).await;
    let runs = world.runs(NAMES[0]).await;
    assert_eq!(runs.len(), RUNS_BEFORE_MERGE - 1);
    let wrong = Rule { prefix: runs[0].row.path.clone(), ..Rule::once(Call::Get, Fault::WrongBytes) };
    world.store.backend.set_script(vec![wrong.clone()]);
    // As a node that has nothing in memory.
    world.context.blobs.runs().forget(runs[0].index, runs[0].revision).await;
    world.check("one wrong answer to a search").await;
    assert_eq!(world.context.blobs.runs().stats().lost, 0);
    world.put(0..12).await;
    world.drain(&mut job).await;
    world.put(0..12).await;
    world.context.blobs.runs().forget(runs[0].index, runs[0].revision).await;
    world.store.backend.set_script(vec![wrong]);
    world.drain(&mut job).await;
    assert!(world.context.stats.runs_merged.load(Ordering::Relaxed) > 0);
    assert!(matches!(world.index(NAMES[0]).await.1.state, IndexState::Ready), "one wrong answer to a merge");
    world.check("merged in spite of it").await;

    let run = world.runs(NAMES[1]).await.remove(0);
    world.overwrite(&run.row.path, vec![9; run.row.bytes as usize]).await;
    world.context.blobs.runs().forget(run.index, run.revision).await;
    assert!(matches!(world.found(NAMES[1], 3).await, Err(Failed::Lost { .. })));
    world.pile_up(&mut job, RUNS_BEFORE_MERGE as u64 + 1).await;
    assert!(!world.runs(NAMES[1]).await.iter().any(|left| left.revision == run.revision));
    drain(&mut Build::default(), &world.context).await.unwrap();
    world.drain(&mut job).await;
    world.check("built anew").await;
}

#[tokio::test]
async fn a_missing_run_is_noticed_after_a_start() {
    let world = World::new().await;
    world.drain(&mut Runs::default()).await;
    let run = world.runs(NAMES[0]).await.remove(0);
    world.overwrite(&run.row.path, vec![0; 3]).await;
    let mut job = Runs::default();
    world.store.backend.set_script(vec![Rule::always(Call::Head, Fault::Before)]);
    assert!(job.round(&world.context).await.is_err(), "nothing can be told");
    assert_eq!(world.runs(NAMES[0]).await, [run]);
    world.store.backend.set_script(vec![]);
    world.drain(&mut job).await;
    assert!(matches!(world.index(NAMES[0]).await.1.state, IndexState::Building(_)));
    assert!(matches!(world.index(NAMES[1]).await.1.state, IndexState::Ready));
    world.check("while it is built").await;
    drain(&mut Build::default(), &world.context).await.unwrap();
    world.drain(&mut job).await;
    world.check("built anew").await;
    assert_eq!(world.runs(NAMES[0]).await.len(), 1);
}

#[tokio::test]
async fn a_store_that_takes_no_run_leaves_entries_in_the_state() {
    let world = World::new().await;
    let mut job = Runs::default();
    for fault in [Fault::Before, Fault::TornBody(10), Fault::After, Fault::NoSpace] {
        world.store.backend.set_script(vec![Rule::always(Call::Put, fault)]);
        assert!(job.round(&world.context).await.is_err(), "{fault:?}");
        assert!(world.named().await.is_empty(), "{fault:?}");
        world.check("without runs").await;
    }
    world.store.backend.set_script(vec![]);
    world.drain(&mut job).await;
    assert_eq!(world.index(NAMES[0]).await.1.bytes, 0);
    world.check("later").await;
}

#[tokio::test]
async fn a_cold_lookup_is_one_ranged_read() {
    let mut world = World::new().await;
    world.drain(&mut Runs::default()).await;
    for name in NAMES {
        let run = world.runs(name).await.remove(0);
        world.context.blobs.runs().forget(run.index, run.revision).await;
    }
    // As a node that was just started.
    open::open_all(&world.context).await.unwrap();
    let (size, reads) =
        (*world.sizes.values().next().unwrap(), |world: &World| world.context.blobs.runs().stats().reads);
    for name in NAMES {
        let before = reads(&world);
        assert!(!world.found(name, size).await.unwrap().is_empty());
        assert_eq!(reads(&world) - before, 1, "{name}");
    }
    world.put(0..2).await;
    world.check("with entries in the state").await;
}

#[test]
fn a_merge_goes_back_as_far_as_runs_are_small() {
    let check = |sizes: &[u64], merged: usize| {
        let run = |(number, bytes): (usize, &u64)| {
            let row = holdfast_core::index::row::RunRow {
                path: String::new(),
                state: RunState::Live,
                through: 0,
                bytes: *bytes,
                entries: 1,
                fences_at: 0,
                trimmed: true,
            };
            IndexRun { index: 1, revision: number as u64, row }
        };
        let all: Vec<IndexRun> = sizes.iter().enumerate().map(run).collect();
        let expected = all[sizes.len() - merged..].to_vec();
        assert_eq!(newest(all), expected, "{sizes:?}");
    };
    check(&[32; 9], 9);
    check(&[288, 32, 32, 32, 32, 32, 32, 32, 32], 9);
    check(&[2000, 32, 32, 32, 32, 32, 32, 32, 32], 8);
    check(&[1 << 30, 1 << 20, 1 << 10, 1], 2);
    check(&[5], 1);
    check(&[], 0);
}
