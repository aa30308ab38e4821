//! Rounds of each job over the real rules and a store in memory that fails on command.

use std::sync::atomic::Ordering;

use async_trait::async_trait;
use bytes::Bytes;
use holdfast_core::command::{Blobs as BlobList, Reply};
use holdfast_core::id::{BlobId, Revision};
use holdfast_core::path::{blob_path, parse_blob_path};
use holdfast_core::record::{HISTORY_MS_DEFAULT, Location};
use holdfast_core::rules::BLOB_AGE_MS_MAX;

use super::*;
use crate::backend::faulty::{Fault, Op as Call, Rule};
use crate::backend::{Backend as _, Body, Condition, ObjectPath, PutOptions};
use crate::blobs::Facts as _;
use crate::blobs::tests::{MemState, World, bytes_of, collect};
use crate::clock::now_ms;

#[async_trait]
impl Ledger for MemState {
    async fn commit(&self, op: AuthorizedOp, _deadline: Instant) -> Result<Reply, Error> {
        Ok(self.apply(op.into_op()))
    }

    fn effects(&self) -> broadcast::Receiver<Effects> {
        self.effects.subscribe()
    }

    fn leads(&self) -> bool {
        true
    }

    fn archived(&self) -> Revision {
        self.archived.load(std::sync::atomic::Ordering::Relaxed)
    }
}

fn context(world: &World) -> Context {
    // Whatever is found is old enough.
    let (orphan_age, quiet, patched_rest) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    let config = JobsConfig { orphan_age, quiet, patched_rest, ..JobsConfig::default() };
    Context { blobs: world.blobs.clone(), ledger: world.state.clone(), config, stats: Arc::default() }
}

/// Rounds until a job says that it is done.
pub(super) async fn drain<J: Job>(job: &mut J, context: &Context) -> Result<(), Error> {
    for _ in 0..1000 {
        match job.round(context).await? {
            Round::Done => return Ok(()),
            Round::More => {}
            // Soon: what it waits for is up to the test.
            Round::Again(_) => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    }
    panic!("the job does not end");
}

fn outlive_history(world: &World) {
    world.state.ahead_ms.fetch_add(HISTORY_MS_DEFAULT + 1000, Ordering::Relaxed);
}

/// Trims until nothing is due, by the clock of the state.
async fn trim(context: &Context) {
    let rows = holdfast_core::rules::JOB_ROWS_MAX as u32;
    while let Reply::Trimmed { more: true, .. } =
        context.commit(Op::Trim(holdfast_core::command::Trim { rows })).await.unwrap()
    {}
}

async fn store(world: &World, path: &str) -> ObjectPath {
    let path = ObjectPath::new(path).unwrap();
    let options = PutOptions { condition: Condition::Overwrite, ..PutOptions::default() };
    world.backend.put(&path, Body::from(vec![1, 2, 3]), options).await.unwrap();
    path
}

#[tokio::test]
async fn every_retained_version_has_its_bytes_and_a_condemned_blob_goes() {
    let world = World::new();
    let context = context(&world);
    let bytes = bytes_of(3 << 20, 1);
    world.put("k", &bytes).await;
    let old = world.files().await;
    world.put("k", &bytes_of(2 << 20, 2)).await;
    drain(&mut gc::Gc::default(), &context).await.unwrap();
    assert_eq!(world.files().await.len(), 2, "a replaced version stays inside of the history window");
    outlive_history(&world);
    trim(&context).await;
    drain(&mut gc::Gc::default(), &context).await.unwrap();
    let left = world.files().await;
    assert!(left.len() == 1 && left != old);
    assert_eq!(context.stats.blobs_deleted.load(Ordering::Relaxed), 1);
    assert!(world.read("k", 0..2 << 20).await.is_ok());
    let empty = context.look(|view, permit| Ok(view.condemned(permit, None, 10)?.is_empty())).await.unwrap();
    assert!(empty);
}

#[tokio::test]
async fn a_reader_holds_back_what_it_reads() {
    let world = World::new();
    let context = context(&world);
    let bytes = bytes_of(8 << 20, 1);
    world.put("k", &bytes).await;
    let (local, found) = world.find("k");
    let plan = world.blobs.plan(&local.view(), &found, 0..8 << 20).unwrap();
    drop(local);
    world.delete("k");
    outlive_history(&world);
    trim(&context).await;
    let mut gc = gc::Gc::default();
    for _ in 0..3 {
        assert_eq!(gc.round(&context).await.unwrap(), Round::Again(Duration::from_secs(1)));
    }
    assert_eq!(world.files().await.len(), 1);
    let read = collect(world.blobs.open(plan).await.unwrap()).await.unwrap();
    assert!(read == bytes);
    drain(&mut gc, &context).await.unwrap();
    assert_eq!(world.files().await.len(), 0);
}

#[tokio::test]
async fn bytes_stay_until_the_command_that_freed_them_is_archived() {
    let world = World::new();
    let context = context(&world);
    world.put("k", &bytes_of(5000, 1)).await;
    world.state.archived.store(world.state.local().revision(), Ordering::Relaxed);
    world.delete("k");
    outlive_history(&world);
    trim(&context).await;
    let mut gc = gc::Gc::default();
    assert_eq!(gc.round(&context).await.unwrap(), Round::Again(Duration::from_secs(1)));
    assert_eq!(world.files().await.len(), 1);
    world.state.archived.store(Revision::MAX, Ordering::Relaxed);
    drain(&mut gc, &context).await.unwrap();
    assert_eq!(world.files().await.len(), 0);
}

#[tokio::test]
async fn a_blob_that_cannot_be_deleted_stays_queued_and_does_not_hold_up_others() {
    let world = World::new();
    let context = context(&world);
    for key in ["a", "b", "c"] {
        world.put(key, &bytes_of(5000, 1)).await;
        world.delete(key);
    }
    outlive_history(&world);
    trim(&context).await;
    let stuck = Rule { prefix: "partitions/photos/b".into(), ..Rule::always(Call::Delete, Fault::Before) };
    world.backend.set_script(vec![stuck]);
    let mut gc = gc::Gc::default();
    for _ in 0..2 {
        assert!(matches!(gc.round(&context).await, Err(Error::Backend { .. })));
        assert_eq!(world.files().await.len(), 1);
    }
    // A delete whose outcome is unknown is repeated.
    world.backend.set_script(vec![Rule::once(Call::Delete, Fault::After)]);
    assert!(gc.round(&context).await.is_err());
    drain(&mut gc, &context).await.unwrap();
    assert_eq!(world.files().await.len(), 0);
    assert_eq!(context.stats.blobs_deleted.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn the_sweep_deletes_only_old_orphans_of_its_generation() {
    let world = World::new();
    let context = context(&world);
    let (bucket, key) = ("photos".parse().unwrap(), "lost/file.bin".parse().unwrap());
    world.put("kept", &bytes_of(5000, 1)).await;
    let kept = world.files().await;
    let orphan = world.write("orphan", &bytes_of(5000, 1), 0).await;
    let id = orphan.content.blob.as_ref().unwrap().id;
    drop(orphan.content.clone());
    let in_flight = world.write("in flight", &bytes_of(5000, 1), 0).await;
    let content = orphan.content.clone();
    drop(orphan);
    let foreign = [
        store(&world, "partitions/photos/readme.txt").await,
        store(&world, &blob_path(&bucket, &key, BlobId::new(2, now_ms(), [1; 6]))).await,
        store(&world, &format!("partitions/photos/.packs/{}", BlobId::new(1, 0, [1; 6]))).await,
        store(&world, "metadata/cluster.json").await,
        // Minted tomorrow: a clock was wrong, or it is not ours.
        store(&world, &blob_path(&bucket, &key, BlobId::new(1, now_ms() + BLOB_AGE_MS_MAX, [1; 6]))).await,
    ];
    let mut sweep = orphans::Sweep::default();
    for _ in 0..4 {
        sweep.round(&context).await.unwrap();
    }
    let left = world.files().await;
    assert!(left.contains(&kept[0]));
    assert_eq!(context.stats.orphans_deleted.load(Ordering::Relaxed), 1);
    for path in foreign {
        assert!(world.backend.head(&path, Default::default()).await.is_ok(), "{path}");
    }
    // The stalled writer comes back: its command is refused.
    let reply = world.state.apply(world.put_op("orphan", content));
    assert_eq!(reply, Reply::Refused(holdfast_core::error::Error::BlobCondemned));
    // The one in flight was not condemned.
    let reply = world.state.apply(world.put_op("in flight", in_flight.content.clone()));
    assert!(matches!(reply, Reply::Written(_)));
    assert!(!left.iter().any(|path| parse_blob_path(path).is_some_and(|(_, blob)| blob == id)));
}

#[tokio::test]
async fn the_sweep_leaves_condemned_blobs_to_gc_and_finishes_what_a_crash_left() {
    let world = World::new();
    let context = context(&world);
    world.put("k", &bytes_of(8 << 20, 1)).await;
    let (local, found) = world.find("k");
    let plan = world.blobs.plan(&local.view(), &found, 0..8 << 20).unwrap();
    world.delete("k");
    outlive_history(&world);
    trim(&context).await;
    // Condemned, and nothing deleted yet: the process went away in between.
    let orphan = world.write("orphan", &bytes_of(5000, 1), 0).await;
    let id = orphan.content.blob.as_ref().unwrap().id;
    drop(orphan);
    context.commit(Op::Condemn(BlobList { blobs: vec![id] })).await.unwrap();
    let mut sweep = orphans::Sweep::default();
    for _ in 0..3 {
        sweep.round(&context).await.unwrap();
    }
    assert_eq!(world.files().await.len(), 1, "the reader's blob is there, the orphan is gone");
    assert_eq!(collect(world.blobs.open(plan).await.unwrap()).await.unwrap().len(), 8 << 20);
}

#[tokio::test]
async fn the_sweep_goes_on_where_it_was_after_a_failure() {
    let world = World::new();
    let context = context(&world);
    for i in 0..20 {
        drop(world.write(&format!("orphan-{i}"), &bytes_of(2000, 1), 0).await);
    }
    let mut sweep = orphans::Sweep::default();
    sweep.round(&context).await.unwrap();
    world.backend.set_script(vec![
        Rule::once(Call::List, Fault::Busy),
        Rule { skip: 3, ..Rule::once(Call::Delete, Fault::Before) },
    ]);
    assert!(sweep.round(&context).await.is_err());
    assert!(sweep.round(&context).await.is_err());
    assert_eq!(world.files().await.len(), 1);
    sweep.round(&context).await.unwrap();
    assert_eq!(world.files().await.len(), 0);
}

fn blobs_of(world: &World, key: &str) -> Vec<Vec<Location>> {
    let (local, found) = world.find(key);
    let view = local.view();
    let size = found.row.size();
    let extents = view.extents(&found, 0..size).unwrap();
    extents.iter().map(|extent| view.blob(extent).unwrap().row.locations).collect()
}

fn sha256(world: &World, key: &str) -> Option<Vec<u8>> {
    let (_, found) = world.find(key);
    found.row.version.unwrap().sha256.map(|sha256| sha256.to_vec())
}

fn sha256_of(bytes: &[u8]) -> Option<Vec<u8>> {
    Some(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref().to_vec())
}

#[tokio::test]
async fn a_finished_upload_becomes_one_file_and_gets_its_digest() {
    let world = World::new();
    let context = context(&world);
    let parts = [bytes_of(5 << 20, 1), bytes_of((5 << 20) + 77, 2), bytes_of(99, 3)];
    world.upload("dir/big.bin", &parts).await;
    let whole = parts.concat();
    assert_eq!((sha256(&world, "dir/big.bin"), blobs_of(&world, "dir/big.bin").len()), (None, 3));
    let (local, found) = world.find("dir/big.bin");
    let plan = world.blobs.plan(&local.view(), &found, 0..whole.len() as u64).unwrap();
    drop(local);
    drain(&mut digest::Digest::default(), &context).await.unwrap();
    assert_eq!(sha256(&world, "dir/big.bin"), sha256_of(&whole));
    let blobs = blobs_of(&world, "dir/big.bin");
    let [locations] = blobs.as_slice() else { panic!("{blobs:?}") };
    let [Location::Path(path)] = locations.as_slice() else { panic!("{blobs:?}") };
    assert!(path.starts_with("partitions/photos/dir/big.") && path.ends_with(".bin"), "{path}");
    assert!(world.read("dir/big.bin", 0..whole.len() as u64).await.unwrap() == whole);
    // A read that began before goes on, then the parts go.
    assert!(collect(world.blobs.open(plan).await.unwrap()).await.unwrap() == whole);
    drain(&mut gc::Gc::default(), &context).await.unwrap();
    assert_eq!(world.files().await, std::slice::from_ref(path));
}

#[tokio::test]
async fn a_join_that_went_wrong_leaves_the_sources() {
    let world = World::new();
    let context = context(&world);
    let parts = [bytes_of(5 << 20, 1), bytes_of(99, 3)];
    world.upload("big.bin", &parts).await;
    for fault in [
        Rule::once(Call::Join, Fault::After),
        Rule::once(Call::Join, Fault::NoSpace),
        Rule::once(Call::Get, Fault::ShortGet(100)),
    ] {
        world.backend.set_script(vec![fault]);
        let content = context.look(|view, permit| view.to_join(permit, None, 10)).await.unwrap().pop().unwrap().content;
        assert!(join::join(&context, content, None).await.is_err());
    }
    world.blobs.close().await;
    assert_eq!((world.files().await.len(), blobs_of(&world, "big.bin").len()), (2, 2));
    // Without a name at hand the job names the new blob as its first source.
    let content = context.look(|view, permit| view.to_join(permit, None, 10)).await.unwrap().pop().unwrap().content;
    assert!(matches!(join::join(&context, content, None).await, Ok(join::Joined::Yes { .. })));
    assert_eq!(blobs_of(&world, "big.bin").len(), 1);
    assert!(world.read("big.bin", 0..(5 << 20) + 99).await.unwrap() == parts.concat());
}

#[tokio::test]
async fn appends_are_joined_whatever_they_are_made_of() {
    let world = World::new();
    let context = context(&world);
    for (key, count, length, inline) in
        [("small", 20, 100, 1 << 20), ("inline", 100, 1000, 1 << 20), ("mixed", 60, 3000, 0)]
    {
        let mut whole = Vec::new();
        for i in 0..count {
            let piece = bytes_of(length, i as u8);
            world.append(key, whole.len() as u64, &piece, if i % 2 == 0 { 1 << 20 } else { inline }).await;
            whole.extend_from_slice(&piece);
        }
        outlive_history(&world);
        trim(&context).await;
        drain(&mut digest::Digest::default(), &context).await.unwrap();
        let blobs = blobs_of(&world, key);
        assert_eq!(blobs.len(), 1, "{key}");
        assert_eq!(blobs[0] == [Location::Inline], key == "small");
        assert_eq!(sha256(&world, key), sha256_of(&whole), "{key}");
        assert!(world.read(key, 0..whole.len() as u64).await.unwrap() == whole);
    }
}

#[tokio::test]
async fn appends_that_were_shared_with_their_history_are_joined_later() {
    let world = World::new();
    let context = context(&world);
    let mut whole = Vec::new();
    for i in 0..100 {
        let piece = bytes_of(1000, i);
        world.append("logs/app.log", whole.len() as u64, &piece, 1 << 20).await;
        whole.extend_from_slice(&piece);
    }
    drain(&mut digest::Digest::default(), &context).await.unwrap();
    assert_eq!(sha256(&world, "logs/app.log"), sha256_of(&whole));
    assert_eq!(blobs_of(&world, "logs/app.log").len(), 100, "older contents see the same pages");
    outlive_history(&world);
    trim(&context).await;
    let mut join = join::Join::default();
    join.round(&context).await.unwrap();
    drain(&mut join, &context).await.unwrap();
    assert_eq!(blobs_of(&world, "logs/app.log").len(), 1);
    let files = world.files().await;
    assert!(files.len() == 1 && files[0].starts_with("partitions/photos/logs/app."), "{files:?}");
    assert!(world.read("logs/app.log", 0..whole.len() as u64).await.unwrap() == whole);
}

#[tokio::test]
async fn a_digest_of_a_version_that_is_gone_is_given_up() {
    let world = World::new();
    let context = context(&world);
    world.append("k", 0, &bytes_of(100, 0), 1000).await;
    world.append("k", 100, &bytes_of(100, 0), 1000).await;
    world.delete("k");
    outlive_history(&world);
    drain(&mut digest::Digest::default(), &context).await.unwrap();
    trim(&context).await;
    let left = context.look(|view, permit| view.pending_digests(permit, None, 10)).await.unwrap();
    assert_eq!(left, []);
}

#[tokio::test]
async fn work_that_can_wait_waits_for_quiet_but_not_for_ever() {
    let world = World::new();
    let mut context = context(&world);
    world.upload("big.bin", &[bytes_of(5 << 20, 1), bytes_of(9, 3)]).await;
    let _busy = world.blobs.busy().enter();
    let mut job = digest::Digest::default();
    for _ in 0..3 {
        assert!(matches!(job.round(&context).await, Ok(Round::Again(_))));
    }
    assert_eq!(sha256(&world, "big.bin"), None);
    context.config.quiet_patience = Duration::from_millis(20);
    drain(&mut job, &context).await.unwrap();
    assert!(sha256(&world, "big.bin").is_some());
}

#[tokio::test]
async fn an_idle_cluster_proposes_nothing_and_due_rows_are_trimmed() {
    let world = World::new();
    let context = context(&world);
    let before = world.state.local().revision();
    assert_eq!(trim::Trim.round(&context).await.unwrap(), Round::Done);
    assert_eq!(world.state.local().revision(), before);
    // Ended long ago, by the clock of whoever wrote it.
    world.put("k", &Bytes::from_static(b"x")).await;
    world.put("k", &Bytes::from_static(b"y")).await;
    let due = now_ms() + HISTORY_MS_DEFAULT + 1000;
    assert!(context.look(move |view, permit| view.is_trim_due(permit, due)).await.unwrap());
}

#[tokio::test]
async fn jobs_run_on_hints_and_stop() {
    let world = World::new();
    let jobs = Jobs::start(world.blobs.clone(), world.state.clone(), JobsConfig::default());
    world.put("k", &bytes_of(5000, 0)).await;
    world.delete("k");
    outlive_history(&world);
    world.state.apply(Op::Trim(holdfast_core::command::Trim { rows: 100 }));
    let gone = async {
        while !world.files().await.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), gone).await.expect("gc wakes on the hint");
    tokio::time::timeout(Duration::from_secs(5), jobs.stop()).await.expect("jobs stop at once");
}
