//! What a session keeps, and what becomes of it when it ends.

use std::collections::BTreeMap;

use holdfast_core::apply::apply;
use holdfast_core::command::mount::*;
use holdfast_core::command::*;
use holdfast_core::error::Error;
use holdfast_core::event::EventKind;
use holdfast_core::id::*;
use holdfast_core::keyspace::{Keyspace, key};
use holdfast_core::kv::{Batch, Kv};
use holdfast_core::mount::*;
use holdfast_core::record::*;

use crate::support::*;
use crate::table::{DAY_MS, create, link, object_key, patch, rename, unlink, write};
use crate::world::{CLIENT, World};
use crate::{invariants, rows};

const OTHER: MountId = MountId([5; 16]);

#[derive(Clone, Copy, Debug)]
enum End {
    Expiry,
    Release,
    Takeover,
}

const ENDS: [End; 3] = [End::Expiry, End::Release, End::Takeover];

fn end(world: &mut World, how: End) {
    let lease = world.lease;
    match how {
        End::Expiry => drop(world.run(Op::ExpireLease(ExpireLease { lease, renewals: 0 }))),
        End::Release => world.release(),
        End::Takeover => world.open(),
    }
    invariants::check(&world.view()).unwrap();
}

fn open_op(bucket: &BucketRef, client: MountId) -> Op {
    let (bucket, owner) = (bucket.clone(), "test".into());
    Op::OpenMount(OpenMount { bucket, client, owner, ttl_ms: 30_000 })
}

fn of_kind(world: &World, keyspace: Keyspace, kind: u8) -> usize {
    rows(&world.view(), keyspace).filter(|(row_key, _)| row_key[2] == kind).count()
}

fn expire(world: &mut World) {
    end(world, End::Expiry);
}

fn sent_patch(world: &mut World, key: &str) -> (Step, NewContent) {
    let file = world.file(key);
    (Step::Patch(patch(file, None, vec![write(3, 10, Origin::Sent(0))])), world.machine.content(10))
}

#[test]
fn what_a_session_left_open_is_sealed_when_it_ends() {
    for (versioned, how) in [false, true].into_iter().flat_map(|versioned| ENDS.map(|how| (versioned, how))) {
        let mut world = World::new();
        if versioned {
            world.versioning(true);
        }
        world.done(vec![create("a"), create("b")]);
        world.done(vec![link(world.file("a"), "c")]);
        world.written("a", 0, 100);
        world.written("a", 50, 10);
        world.written("b", 50, 10);
        assert_eq!((of_kind(&world, Keyspace::Locks, 14), of_kind(&world, Keyspace::Queues, 5)), (3, 0));
        let after = world.machine.revision;
        end(&mut world, how);
        assert_eq!((of_kind(&world, Keyspace::Locks, 14), of_kind(&world, Keyspace::Queues, 5)), (0, 2), "{how:?}");
        let told: Vec<_> = world.events(after).into_iter().map(|(kind, key, _)| (kind, key)).collect();
        assert_eq!(told, [(EventKind::Put, "a".to_owned()), (EventKind::Put, "b".to_owned())], "{how:?}");
        for key in ["a", "b", "c"] {
            let version = world.version(key);
            assert_eq!((version.open, version.sha256), (None, None), "{key}");
        }
    }
}

#[test]
fn what_is_open_is_found_under_the_name_that_it_has() {
    for versioned in [false, true] {
        let mut world = World::new();
        if versioned {
            world.versioning(true);
        }
        world.done(vec![create("a"), create("d/"), create("x"), create("y"), create("gone")]);
        for key in ["a", "x", "y", "gone"] {
            world.written(key, 7, 100);
        }
        let (bucket, nonce) = (world.bucket.clone(), world.machine.blob_id());
        let moved = RenameObject { source: source(&bucket, "a"), target: target(&bucket, "b"), prefix: false, nonce };
        assert_eq!(world.run(Op::RenameObject(moved)), Reply::Renamed(1));
        world.naive.move_name("a", "b");
        world.check().unwrap();
        world.done(vec![rename(world.file("b"), "d/b", Onto::Any)]);
        world.check().unwrap();
        world.done(vec![rename(world.file("d/"), "e/", Onto::Any)]);
        world.done(vec![rename(world.file("x"), "y", Onto::Exchange), unlink(world.file("gone"), false)]);
        assert_eq!(of_kind(&world, Keyspace::Locks, 14), 3);
        expire(&mut world);
        assert_eq!(of_kind(&world, Keyspace::Locks, 14), 0);
        for key in ["e/b", "x", "y"] {
            assert_eq!(world.version(key).open, None, "{key}");
        }
    }
}

#[test]
fn only_the_session_that_opened_a_version_writes_on_it() {
    let mut world = World::new();
    world.versioning(true);
    world.done(vec![create("a")]);
    world.written("a", 7, 100);
    let Reply::MountOpened(other) = world.run(open_op(&world.bucket.clone(), OTHER)) else { panic!() };
    let versions = |world: &World| rows(&world.view(), Keyspace::History).count();
    assert_eq!(versions(&world), 2);
    let (step, sent) = sent_patch(&mut world, "a");
    let op = world.commit_op(vec![step], Some(sent));
    let op = MountCommit { client: OTHER, lease: other.lease, number: 1, ..op };
    assert!(matches!(world.run(Op::MountCommit(op)), Reply::Mounted(_)));
    assert_eq!((versions(&world), world.version("a").open), (3, Some(OTHER)));
    assert_eq!((of_kind(&world, Keyspace::Locks, 14), of_kind(&world, Keyspace::Queues, 5)), (1, 1));
    invariants::check(&world.view()).unwrap();
    // The first has lost it.
    let (step, sent) = sent_patch(&mut world, "a");
    let op = world.commit_op(vec![step], Some(sent));
    assert!(matches!(world.run(Op::MountCommit(op)), Reply::Mounted(_)));
    assert_eq!((versions(&world), world.version("a").open), (4, Some(CLIENT)));
    // Whoever cuts, it is nobody's any more.
    let op = world.commit_op(vec![Step::Cut(world.file("a"))], None);
    let op = MountCommit { client: OTHER, lease: other.lease, number: 2, ..op };
    assert!(matches!(world.run(Op::MountCommit(op)), Reply::Mounted(_)));
    assert_eq!((world.version("a").open, of_kind(&world, Keyspace::Locks, 14)), (None, 0));
    invariants::check(&world.view()).unwrap();
}

fn new_upload(world: &mut World, key: &str) -> MountUpload {
    let (bucket, key, nonce) = (world.bucket.clone(), object_key(key), world.machine.blob_id());
    let (attributes, checksum, checksum_type) = (Attributes::default(), None, None);
    let op = CreateUpload { bucket: bucket.clone(), key: key.clone(), attributes, checksum, checksum_type, nonce };
    let Reply::UploadCreated(upload) = world.run(Op::CreateUpload(op)) else { panic!() };
    let content = world.machine.content(50);
    let part = UploadRef { bucket, key: key.clone(), upload };
    world.run(Op::PutPart(PutPart { upload: part, number: 1, content }));
    MountUpload { key, upload }
}

#[test]
fn an_upload_ends_with_the_session_that_named_it_last() {
    for how in ENDS {
        let mut world = World::new();
        let (one, two) = (new_upload(&mut world, "one"), new_upload(&mut world, "two"));
        let uploads = |world: &World| (of_kind(world, Keyspace::Parts, 0), of_kind(world, Keyspace::Parts, 1));
        let name = |world: &mut World, upload: &MountUpload| {
            let op = MountCommit { upload: Some(upload.clone()), ..world.commit_op(Vec::new(), None) };
            assert_eq!(world.run(Op::MountCommit(op)), Reply::Mounted(Vec::new()));
            world.number += 1;
            invariants::check(&world.view()).unwrap();
        };
        name(&mut world, &one);
        name(&mut world, &one);
        assert_eq!(uploads(&world), (2, 2));
        name(&mut world, &two);
        assert_eq!(uploads(&world), (1, 1), "the first is aborted");
        world.done(vec![create("a")]);
        end(&mut world, how);
        assert_eq!(uploads(&world), (0, 0), "{how:?}");
    }
}

#[test]
fn a_session_that_was_given_back_is_forgotten_and_one_that_expired_is_not() {
    let mut world = World::new();
    world.done(vec![create("a")]);
    expire(&mut world);
    world.open();
    world.done(vec![create("b")]);
    world.release();
    assert_eq!(rows(&world.view(), Keyspace::Locks).count(), 0);
    assert_eq!(of_kind(&world, Keyspace::Queues, 7), 0);
    world.open();
    world.done(vec![create("c")]);
}

#[test]
fn when_there_are_too_many_sessions_the_oldest_without_a_lease_makes_room() {
    let mut world = World::new();
    let bucket = world.bucket.clone();
    let lease_of = |reply: Reply| match reply {
        Reply::MountOpened(opened) => opened.lease,
        reply => panic!("{reply:?}"),
    };
    let clients: Vec<MountId> = (1..=3).map(|number| MountId([number; 16])).collect();
    for client in &clients[..2] {
        let lease = lease_of(world.run(open_op(&bucket, *client)));
        world.machine.now_ms += DAY_MS;
        world.run(Op::ExpireLease(ExpireLease { lease, renewals: 0 }));
    }
    let mut batch = Batch::default();
    batch.put(Keyspace::Locks, key::mount_count(), 10_000u64.to_be_bytes().to_vec());
    world.machine.kv.commit(batch).unwrap();
    lease_of(world.run(open_op(&bucket, clients[2])));
    let known = |world: &World, client| row::<MountRow>(&world.view(), Keyspace::Locks, &key::mount(client)).is_some();
    assert_eq!(clients.iter().map(|client| known(&world, *client)).collect::<Vec<_>>(), [false, true, true]);
    lease_of(world.run(open_op(&bucket, clients[0])));
    assert!(!known(&world, clients[1]) && known(&world, CLIENT));
    assert_eq!(world.run(open_op(&bucket, clients[1])), Reply::Refused(Error::QueueFull), "all have a lease");
}

/// Writes that leave a file in some thousand pieces.
fn scattered(count: u64) -> Vec<FileWrite> {
    (0..count).map(|at| write(at * 1000, 1, Origin::Sent(at % 4096))).collect()
}

#[test]
fn an_open_after_the_bucket_is_gone_is_bounded() {
    let mut world = World::new();
    for number in 0..60 {
        let name = format!("f{number}");
        let sent = world.machine.content(4096);
        let file =
            CreateFile { key: object_key(&name), metadata: BTreeMap::new(), content_type: None, bytes: scattered(500) };
        let op = world.commit_op(vec![Step::Create(file)], Some(sent));
        let Reply::Mounted(outcomes) = world.run(Op::MountCommit(op)) else { panic!() };
        world.number += 1;
        let made = crate::table::node(&outcomes[0]).clone();
        world.unmodelled(vec![unlink(FileRef { key: made.key, object: made.object }, true)]);
    }
    // The history lets go of them, so that the session alone holds them.
    world.machine.now_ms += 40 * DAY_MS;
    while matches!(world.machine.trim(), Reply::Trimmed { more: true, .. }) {}
    assert_eq!(rows(&world.view(), Keyspace::History).count(), 0);
    assert_eq!(world.machine.run(Op::DeleteBucket(world.bucket.clone())), Reply::Done);
    let other = world.machine.create_bucket("other");
    let command = world.machine.command(open_op(&other, CLIENT));
    let applied = apply(&world.view(), world.machine.revision + 1, &command).unwrap();
    let written = applied.batch.writes().count();
    let Reply::MountOpened(opened) = world.machine.apply(&command).reply else { panic!() };
    invariants::check(&world.view()).unwrap();
    let held = of_kind(&world, Keyspace::Locks, 12);
    assert!((10..60).contains(&held) && written < 25_000, "{held} are left after {written} rows");
    world.run(Op::ExpireLease(ExpireLease { lease: opened.lease, renewals: 0 }));
    for _ in 0..4 {
        world.machine.now_ms += 10;
        world.machine.trim();
        invariants::check(&world.view()).unwrap();
    }
    assert_eq!(of_kind(&world, Keyspace::Locks, 12), 0);
}

/// Outcomes of so many steps that are refused: what they say, each once.
fn refusals(world: &mut World, steps: Vec<Step>) -> Vec<Error> {
    let mut refusals = Vec::new();
    for outcome in world.unmodelled(steps) {
        let StepOutcome::Refused(refusal) = outcome else { panic!("{outcome:?}") };
        if refusals.last() != Some(&refusal) {
            refusals.push(refusal);
        }
    }
    invariants::check(&world.view()).unwrap();
    refusals
}

#[test]
fn steps_that_are_refused_do_not_cost_without_bound() {
    let mut world = World::new();
    let bucket = world.bucket.clone();
    let too_much = Error::TooManyRows { most: 400_000 };
    // A name with much history.
    for _ in 0..1000 {
        world.machine.put(&bucket, "busy", 1);
    }
    let adopt = Step::Adopt(FileRef { key: Some(object_key("busy")), object: ObjectId(u64::MAX) });
    assert_eq!(refusals(&mut world, vec![adopt.clone(); 100]), [Error::Changed]);
    assert_eq!(refusals(&mut world, vec![adopt; 500]), [Error::Changed, too_much.clone()]);
    // Copies of a file in many pieces.
    let (step, sent) =
        (patch(FileRef { key: None, object: ObjectId(0) }, None, Vec::new()), world.machine.content(4096));
    let file =
        CreateFile { key: object_key("pieces"), metadata: BTreeMap::new(), content_type: None, bytes: scattered(500) };
    let op = world.commit_op(vec![Step::Create(file), create("copy")], Some(sent));
    let Reply::Mounted(outcomes) = world.run(Op::MountCommit(op)) else { panic!() };
    world.number += 1;
    let reference = |outcome: &StepOutcome| {
        let node = crate::table::node(outcome);
        (FileRef { key: node.key.clone(), object: node.object }, node.size)
    };
    let ((pieces, size), (copy, _)) = (reference(&outcomes[0]), reference(&outcomes[1]));
    let writes = vec![write(0, size, Origin::File(pieces, 0)); 400];
    let step = Step::Patch(PatchFile { file: copy, writes, ..step });
    let told = refusals(&mut world, vec![step; 10]);
    assert_eq!(told, [Error::TooManyExtents, too_much.clone()]);
    // A directory of too many names.
    for number in 0..=10_000 {
        world.machine.put(&bucket, &format!("d/{number}"), 0);
    }
    let directory = FileRef { key: Some(object_key("d/")), object: IMPLICIT };
    let told = refusals(&mut world, vec![rename(directory, "e/", Onto::Any); 100]);
    assert_eq!(told, [Error::TooManyRows { most: 10_000 }, too_much]);
}
