//! Each rule of the mount by itself.

use std::collections::BTreeMap;

use holdfast_core::command::mount::*;
use holdfast_core::command::*;
use holdfast_core::error::Error;
use holdfast_core::event::EventKind;
use holdfast_core::id::*;
use holdfast_core::keyspace::{Keyspace, key};
use holdfast_core::kv::Kv;
use holdfast_core::list::Query;
use holdfast_core::mount::*;
use holdfast_core::queue::maintain_permit;
use holdfast_core::record::*;
use holdfast_core::rules::authorize::{Action, Resource};
use holdfast_core::rules::{COMPACT_EXTENTS, EXTENTS_PER_PAGE_MAX, PAGE_BYTES};
use holdfast_core::view::View;

use crate::rows;
use crate::support::cbor::Tree;
use crate::support::*;
use crate::world::{CLIENT, World, object_permit};

mod jobs;
mod names;

pub const DAY_MS: u64 = 24 * 60 * 60 * 1000;

pub fn object_key(text: &str) -> ObjectKey {
    text.parse().unwrap()
}

pub fn create(text: &str) -> Step {
    let (metadata, bytes) = (BTreeMap::new(), Vec::new());
    Step::Create(CreateFile { key: object_key(text), metadata, content_type: None, bytes })
}

pub fn write(offset: u64, length: u64, from: Origin) -> FileWrite {
    FileWrite { offset, length, from }
}

pub fn patch(file: FileRef, size: Option<u64>, writes: Vec<FileWrite>) -> PatchFile {
    PatchFile { file, size, writes, set: BTreeMap::new(), cut: false, base: None }
}

pub fn unlink(file: FileRef, keep: bool) -> Step {
    Step::Unlink(UnlinkFile { file, keep, set: BTreeMap::new() })
}

pub fn link(file: FileRef, to: &str) -> Step {
    Step::Link(LinkFile { file, to: object_key(to), set: BTreeMap::new() })
}

pub fn rename(file: FileRef, to: &str, onto: Onto) -> Step {
    Step::Rename(RenameFile { file, to: object_key(to), onto, keep: false, set: BTreeMap::new() })
}

impl World {
    /// Steps that are all done, and leave everything as the model says.
    pub fn done(&mut self, steps: Vec<Step>) -> Vec<StepOutcome> {
        let outcomes = self.commit(steps, None).unwrap();
        self.check().unwrap();
        for outcome in &outcomes {
            assert!(!matches!(outcome, StepOutcome::Refused(_)), "{outcome:?}");
        }
        outcomes
    }

    /// Steps of what the model does not know.
    pub fn unmodelled(&mut self, steps: Vec<Step>) -> Vec<StepOutcome> {
        let op = self.commit_op(steps, None);
        let Reply::Mounted(outcomes) = self.run(Op::MountCommit(op)) else { panic!("the commit was refused") };
        self.number += 1;
        outcomes
    }

    pub fn refused(&mut self, step: Step) -> Error {
        let outcomes = self.commit(vec![step], None).unwrap();
        self.check().unwrap();
        match &outcomes[..] {
            [StepOutcome::Refused(refusal)] => refusal.clone(),
            outcomes => panic!("{outcomes:?}"),
        }
    }

    /// Writes `length` new bytes at `offset`.
    pub fn written(&mut self, key: &str, offset: u64, length: u64) -> Node {
        let sent = self.machine.content(length);
        let step = Step::Patch(patch(self.file(key), None, vec![write(offset, length, Origin::Sent(0))]));
        let outcomes = self.commit(vec![step], Some(sent)).unwrap();
        self.check().unwrap();
        match &outcomes[..] {
            [StepOutcome::Node(node)] => node.clone(),
            outcomes => panic!("{outcomes:?}"),
        }
    }

    pub fn version(&self, key: &str) -> Version {
        self.machine.find(&self.bucket, key, None).row.version.unwrap()
    }
}

pub fn node(outcome: &StepOutcome) -> &Node {
    match outcome {
        StepOutcome::Node(node) => node,
        outcome => panic!("{outcome:?}"),
    }
}

#[test]
fn a_commit_is_applied_once_and_in_order() {
    let mut world = World::new();
    world.done(vec![create("a")]);
    let first = world.commit_op(vec![create("b")], None);
    let reply = world.run(Op::MountCommit(first.clone()));
    assert!(matches!(&reply, Reply::Mounted(outcomes) if matches!(outcomes[..], [StepOutcome::Node(_)])), "{reply:?}");
    // In another request, much later, and of another number with the same steps.
    world.machine.now_ms += 2 * DAY_MS;
    assert_eq!(world.run(Op::MountCommit(first.clone())), reply);
    let older = MountCommit { number: 1, ..first.clone() };
    assert_eq!(world.run(Op::MountCommit(older)), Reply::Refused(Error::Changed));
    for number in [0, 4, u64::MAX] {
        let gap = world.run(Op::MountCommit(MountCommit { number, ..first.clone() }));
        assert!(matches!(gap, Reply::Refused(Error::InvalidArgument { .. })), "{gap:?}");
    }
}

#[test]
fn a_number_is_of_one_commit() {
    let mut world = World::new();
    let first = world.commit_op(vec![create("a")], None);
    let reply = world.run(Op::MountCommit(first.clone()));
    let at = world.machine.revision;
    // The client believes that it was refused for good, and gives the number to another.
    let other = MountCommit { id: first.id + 1, steps: vec![create("b")], ..first.clone() };
    assert_eq!(world.run(Op::MountCommit(other)), Reply::Refused(Error::Changed));
    // The same one, with steps that are guarded by now.
    let again = MountCommit { steps: vec![create("c")], ..first };
    assert_eq!(world.run(Op::MountCommit(again)), reply);
    let names: Vec<_> = rows(&world.view(), Keyspace::Names).map(|(row_key, _)| row_key).collect();
    assert_eq!(names.len(), 1);
    let open = OpenMount { bucket: world.bucket.clone(), client: CLIENT, owner: "again".into(), ttl_ms: 30_000 };
    let reply = world.run(Op::OpenMount(open));
    assert!(
        matches!(&reply, Reply::MountOpened(opened) if (opened.applied, opened.revision) == (1, Some(at))),
        "{reply:?}"
    );
}

#[test]
fn what_was_done_is_told_whatever_became_of_lease_and_fences() {
    let mut world = World::new();
    let first = world.commit_op(vec![create("a")], None);
    let reply = world.run(Op::MountCommit(first.clone()));
    let fence = Fence { name: "gone".into(), token: 7 };
    let fenced = |world: &mut World, op: &MountCommit| {
        let mut command = world.machine.command(Op::MountCommit(op.clone()));
        command.fences = Some(vec![fence.clone()]);
        world.machine.apply(&command).reply
    };
    assert_eq!(fenced(&mut world, &first), reply);
    let end = ExpireLease { lease: world.lease, renewals: 0 };
    assert_eq!(world.run(Op::ExpireLease(end)), Reply::Done);
    assert_eq!(fenced(&mut world, &first), reply);
    assert_eq!(world.run(Op::MountCommit(first.clone())), reply);
    // Nothing was done of what is refused.
    let next = MountCommit { number: 2, id: 99, ..first };
    assert_eq!(world.run(Op::MountCommit(next.clone())), Reply::Refused(Error::NoSuchLease));
    assert_eq!(fenced(&mut world, &next), Reply::Refused(Error::FencingTokenStale { name: "gone".into() }));
}

#[test]
fn a_commit_needs_its_session_and_its_lease() {
    let mut world = World::new();
    let refusal = |world: &mut World, change: fn(&mut MountCommit)| {
        let mut op = world.commit_op(vec![create("x")], None);
        change(&mut op);
        world.run(Op::MountCommit(op))
    };
    let stranger = refusal(&mut world, |op| op.client = MountId([1; 16]));
    assert_eq!(stranger, Reply::Refused(Error::NoSuchMount));
    assert_eq!(refusal(&mut world, |op| op.lease += 100), Reply::Refused(Error::NoSuchLease));
    assert_eq!(refusal(&mut world, |op| op.bucket.id = BucketId(99)), Reply::Refused(Error::NoSuchBucket));
    let old = world.lease;
    world.open();
    let stale = world.commit_op(vec![create("x")], None);
    let stale = world.run(Op::MountCommit(MountCommit { lease: old, ..stale }));
    assert_eq!(stale, Reply::Refused(Error::NoSuchLease));
    assert_eq!(
        world.machine.run(Op::RenewLease(RenewLease { lease: old, name: None, ttl_ms: None })),
        Reply::Refused(Error::NoSuchLease),
        "the older lease has ended"
    );
    let end = ExpireLease { lease: world.lease, renewals: 0 };
    assert_eq!(world.run(Op::ExpireLease(end)), Reply::Done);
    assert_eq!(refusal(&mut world, |_| {}), Reply::Refused(Error::NoSuchLease));
    world.check().unwrap();
}

#[test]
fn a_session_is_of_one_bucket_as_long_as_that_is_there() {
    let mut world = World::new();
    let other = world.machine.create_bucket("other");
    let open = |bucket: &BucketRef| {
        let (bucket, owner) = (bucket.clone(), "test".into());
        Op::OpenMount(OpenMount { bucket, client: CLIENT, owner, ttl_ms: 30_000 })
    };
    let reply = world.machine.run(open(&other));
    assert!(matches!(reply, Reply::Refused(Error::InvalidArgument { .. })), "{reply:?}");
    world.done(vec![create("a")]);
    world.written("a", 0, 10);
    world.done(vec![unlink(world.file("a"), true)]);
    assert_eq!(world.machine.run(Op::DeleteBucket(world.bucket.clone())), Reply::Done);
    let reply = world.machine.run(open(&other));
    assert!(matches!(&reply, Reply::MountOpened(opened) if opened.applied == 0), "{reply:?}");
    assert_eq!(rows(&world.view(), Keyspace::Objects).count(), 0, "what the old session held is given up");
}

#[test]
fn too_many_steps_are_refused_whole() {
    let mut world = World::new();
    let op = world.commit_op(vec![create("a"); MOUNT_STEPS_MAX + 1], None);
    assert!(matches!(world.run(Op::MountCommit(op)), Reply::Refused(Error::InvalidArgument { .. })));
    let writes = vec![write(0, 1, Origin::Hole); MOUNT_WRITES_MAX + 1];
    let op = world.commit_op(vec![Step::Patch(patch(world.file("a"), None, writes))], None);
    assert!(matches!(world.run(Op::MountCommit(op)), Reply::Refused(Error::InvalidArgument { .. })));
    world.check().unwrap();
}

#[test]
fn what_is_made_needs_a_free_name_and_a_parent() {
    let mut world = World::new();
    world.done(vec![create("f"), create("d/"), create("d/x")]);
    for (key, refusal) in [
        ("f", Error::FileExists),
        ("f/", Error::FileExists),
        ("d", Error::FileExists),
        ("d/", Error::FileExists),
        ("f/x", Error::NotDirectory),
        ("g/x", Error::NoSuchKey),
    ] {
        assert_eq!(world.refused(create(key)), refusal, "{key}");
        let outcome = world.refused(rename(world.file("d/x"), key.trim_end_matches('/'), Onto::Nothing));
        assert_eq!(outcome, refusal, "{key}");
    }
    for key in ["d//x", "/x", "d/.", "../x", "./x"] {
        assert!(matches!(world.refused(create(key)), Error::InvalidArgument { .. }), "{key}");
    }
}

#[test]
fn a_directory_that_only_its_entries_make_gets_a_row_when_they_change() {
    let mut world = World::new();
    world.machine.put(&world.bucket.clone(), "d/x", 3);
    let data = crate::runs::Runs::from_extents(
        &world.machine.extents(&world.machine.find(&world.bucket, "d/x", None)),
        &BTreeMap::new(),
    );
    let file = world.naive.add(crate::naive::File { data, meta: BTreeMap::new() });
    world.naive.names.insert("d/x".into(), file);
    world.check().unwrap();
    let outcomes = world.done(vec![unlink(world.file("d/x"), false), Step::RemoveDirectory(world.file("d/"))]);
    assert_eq!(outcomes, [StepOutcome::Done, StepOutcome::Done]);
    world.done(vec![create("e/")]);
    let first = world.version("e/").attributes.metadata.clone();
    world.done(vec![create("e/x")]);
    let metadata = world.version("e/").attributes.metadata.clone();
    assert!(first.is_empty() && metadata["mtime"] == metadata["ctime"], "{metadata:?}");
    assert_eq!(world.version("e/").attributes.headers.content_type.as_deref(), Some(attribute::DIRECTORY_TYPE));
}

#[test]
fn a_file_has_all_its_names_until_the_last_goes() {
    let mut world = World::new();
    world.done(vec![create("a")]);
    world.written("a", 0, 100);
    let object = world.file("a").object;
    let outcomes = world.done(vec![link(world.file("a"), "b"), link(world.file("a"), "c")]);
    assert_eq!(node(&outcomes[1]).links, 3);
    world.written("b", 50, 100);
    for key in ["a", "b", "c"] {
        assert_eq!((world.version(key).size, world.version(key).object), (150, object), "{key}");
    }
    // An S3 write over a name takes it away from the file; a rename takes it along.
    world.machine.put(&world.bucket.clone(), "b", 7);
    let links = |world: &World| rows(&world.view(), Keyspace::Links).count();
    assert_eq!(links(&world), 2);
    let (bucket, nonce) = (world.bucket.clone(), world.machine.blob_id());
    let moved = RenameObject { source: source(&bucket, "c"), target: target(&bucket, "d"), prefix: false, nonce };
    assert_eq!(world.machine.run(Op::RenameObject(moved)), Reply::Renamed(1));
    assert_eq!((links(&world), world.version("d").object), (2, object));
    world.machine.delete(&bucket, "a", None);
    assert_eq!(links(&world), 0);
    assert!(row::<ObjectRow>(&world.view(), Keyspace::Objects, &key::object(object)).is_none());
    crate::invariants::check(&world.view()).unwrap();
}

#[test]
fn a_file_has_at_most_a_thousand_names() {
    let mut world = World::new();
    world.done(vec![create("a")]);
    let steps = (1..LINKS_MAX).map(|number| link(world.file("a"), &format!("l{number}"))).collect();
    let outcomes = world.commit(steps, None).unwrap();
    assert!(outcomes.iter().all(|outcome| matches!(outcome, StepOutcome::Node(_))));
    let op = world.commit_op(vec![link(world.file("a"), "one-more")], None);
    let reply = world.run(Op::MountCommit(op));
    assert_eq!(reply, Reply::Mounted(vec![StepOutcome::Refused(Error::TooManyLinks)]));
    crate::invariants::check(&world.view()).unwrap();
}

#[test]
fn an_open_file_lives_without_a_name_until_its_session_ends() {
    let mut world = World::new();
    world.done(vec![create("a"), create("b")]);
    world.written("a", 0, 100);
    world.written("b", 0, 100);
    world.done(vec![unlink(world.file("a"), true)]);
    let step =
        RenameFile { file: world.file("b"), to: object_key("a"), onto: Onto::Any, keep: true, set: BTreeMap::new() };
    world.done(vec![Step::Rename(step), create("c")]);
    let orphan = FileRef { key: None, object: world.objects[world.naive.orphans.first().unwrap()] };
    let sent = world.machine.content(10);
    world
        .commit(vec![Step::Patch(patch(orphan.clone(), None, vec![write(200, 10, Origin::Sent(0))]))], Some(sent))
        .unwrap();
    world.check().unwrap();
    // It stays when the session is taken over.
    world.open();
    world.check().unwrap();
    let kv = world.view();
    let permit = permit(Action::GetObject, Resource::Bucket(world.bucket.name.clone()));
    let view = View::new(&kv, world.machine.revision);
    let found = view.find_file(&permit, &orphan).unwrap();
    assert_eq!((found.orphan(), found.row.size()), (Some(orphan.object), 210));
    assert_eq!(world.refused(link(orphan.clone(), "x")), Error::NoSuchKey);
    let lease = world.lease;
    let end = ReleaseLease { lease, name: None, unless_granted: false };
    assert_eq!(world.run(Op::ReleaseLease(end)), Reply::Done);
    world.naive.orphans.clear();
    world.check().unwrap();
    let kv = world.view();
    assert!(View::new(&kv, world.machine.revision).again(&found).is_err());
}

#[test]
fn what_another_client_removed_or_replaced_is_held_as_a_file_of_its_own() {
    for versioned in [false, true] {
        let mut world = World::new();
        if versioned {
            world.versioning(true);
        }
        world.done(vec![create("a")]);
        world.written("a", 0, 100);
        let open = world.file("a");
        assert!(
            matches!(&world.done(vec![Step::Adopt(open.clone())])[..], [StepOutcome::Node(node)] if node.key.is_some())
        );
        world.done(vec![Step::Cut(open.clone())]);
        let entry = DeleteEntry {
            key: object_key("a"),
            version: None,
            if_match: Vec::new(),
            if_size: None,
            if_modified_ms: None,
        };
        let delete = DeleteObjects { bucket: world.bucket.clone(), entries: vec![entry], nonce: BlobId([7; 16]) };
        world.run(Op::DeleteObjects(delete));
        let adopted = match &world.unmodelled(vec![Step::Adopt(open.clone())])[..] {
            [StepOutcome::Node(node)] => node.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!((adopted.key.clone(), adopted.size, adopted.links), (None, 100, 0));
        assert_ne!(adopted.object, open.object);
        let orphan = FileRef { key: None, object: adopted.object };
        let kv = world.view();
        let permit = permit(Action::GetObject, Resource::Bucket(world.bucket.name.clone()));
        let found = View::new(&kv, world.machine.revision).find_file(&permit, &orphan).unwrap();
        assert_eq!((found.orphan(), found.row.size()), (Some(adopted.object), 100));
        crate::invariants::check(&world.view()).unwrap();
        let unknown = FileRef { object: ObjectId(u64::MAX), ..open };
        let outcomes = world.unmodelled(vec![Step::Adopt(unknown), Step::Release(adopted.object)]);
        assert!(matches!(&outcomes[..], [StepOutcome::Refused(Error::Changed), StepOutcome::Done]), "{outcomes:?}");
        crate::invariants::check(&world.view()).unwrap();
    }
}

#[test]
fn a_session_is_forgotten_a_month_after_its_lease() {
    let mut world = World::new();
    world.done(vec![create("a")]);
    let end = ExpireLease { lease: world.lease, renewals: 0 };
    world.run(Op::ExpireLease(end));
    world.machine.now_ms += 29 * DAY_MS;
    world.machine.trim();
    world.open();
    world.done(vec![create("b")]);
    let end = ExpireLease { lease: world.lease, renewals: 0 };
    world.run(Op::ExpireLease(end));
    world.machine.now_ms += 31 * DAY_MS;
    let due =
        View::new(&world.view(), world.machine.revision).is_trim_due(&maintain_permit().unwrap(), world.machine.now_ms);
    assert!(due.unwrap());
    world.machine.trim();
    world.number = 0;
    world.open();
}

#[test]
fn unlink_and_rmdir_tell_files_from_directories() {
    let mut world = World::new();
    world.done(vec![create("d/"), create("d/x"), create("f")]);
    assert_eq!(world.refused(unlink(world.file("d/"), false)), Error::IsDirectory);
    assert_eq!(world.refused(unlink(world.file("nope"), false)), Error::NoSuchKey);
    let wrong = FileRef { object: ObjectId(999), ..world.file("f") };
    assert_eq!(world.refused(unlink(wrong, false)), Error::Changed);
    assert_eq!(world.refused(Step::RemoveDirectory(world.file("d/"))), Error::NotEmpty);
    assert_eq!(world.refused(Step::RemoveDirectory(world.file("f/"))), Error::NotDirectory);
    assert_eq!(world.refused(Step::RemoveDirectory(world.file("f"))), Error::NotDirectory);
    assert_eq!(world.refused(Step::RemoveDirectory(world.file("nope/"))), Error::NoSuchKey);
    world.done(vec![unlink(world.file("d/x"), false), Step::RemoveDirectory(world.file("d/"))]);
}

#[test]
fn renames_replace_what_they_may() {
    let mut world = World::new();
    world.done(["d/", "d/x", "e/", "f", "g"].map(create).into());
    world.done(vec![link(world.file("f"), "h")]);
    assert_eq!(world.refused(rename(world.file("f"), "d", Onto::Any)), Error::IsDirectory);
    assert_eq!(world.refused(rename(world.file("d/"), "f/", Onto::Any)), Error::NotDirectory);
    assert_eq!(world.refused(rename(world.file("e/"), "d/", Onto::Any)), Error::NotEmpty);
    assert_eq!(world.refused(rename(world.file("f"), "g", Onto::Nothing)), Error::FileExists);
    assert!(matches!(world.refused(rename(world.file("d/"), "d/y/", Onto::Any)), Error::InvalidArgument { .. }));
    assert!(matches!(world.refused(rename(world.file("d/"), "y", Onto::Any)), Error::InvalidArgument { .. }));
    assert_eq!(world.done(vec![rename(world.file("f"), "h", Onto::Any)]), [StepOutcome::Done]);
    let object = world.file("d/x").object;
    let outcomes = world.done(vec![rename(world.file("d/"), "e/", Onto::Any), rename(world.file("f"), "g", Onto::Any)]);
    assert_eq!(node(&outcomes[0]).key, Some(object_key("e/")));
    assert_eq!(world.file("e/x").object, object, "what is in it stays what it is");
    world.done(vec![create("e/s/"), create("a/"), create("a/x")]);
    world.done(vec![rename(world.file("a/"), "e/", Onto::Exchange)]);
    world.done(vec![rename(world.file("g"), "h", Onto::Exchange)]);
    let outcomes = world.done(vec![rename(world.file("g"), "a/", Onto::Exchange)]);
    assert_eq!(node(&outcomes[0]).key, Some(object_key("a")));
    assert_eq!(world.refused(rename(world.file("a"), "nope", Onto::Exchange)), Error::NoSuchKey);
}

#[test]
fn attributes_change_in_place_and_indexes_follow() {
    use holdfast_core::index::{Expression, IndexKind};
    let mut world = World::new();
    let (expressions, kind) = (vec![Expression::Metadata("mode".into())], IndexKind::BTree);
    let (bucket, name, prefix) = (world.bucket.clone(), "modes".into(), String::new());
    let index = CreateIndex { bucket, name, prefix, kind, unique: false, expressions };
    assert_eq!(world.run(Op::CreateIndex(index)), Reply::Done);
    world.done(vec![create("a")]);
    world.done(vec![link(world.file("a"), "b")]);
    let entries = |world: &World| rows(&world.view(), Keyspace::Indexes).filter(|(row_key, _)| row_key[2] == 1).count();
    assert_eq!(entries(&world), 0);
    let set: BTreeMap<_, _> = [("mode".to_owned(), Some("1".to_owned()))].into();
    let before = world.version("a");
    let after = world.machine.revision;
    world.done(vec![Step::SetAttributes(SetFileAttributes { file: world.file("a"), set })]);
    assert_eq!(entries(&world), 2, "both names are found");
    let object = Some(before.object);
    let told = |key: &str| (EventKind::AttributesChanged, key.to_owned(), object);
    assert_eq!(world.events(after), [told("a"), told("b")]);
    let now = world.version("b");
    assert_eq!((&now.etag, now.generation()), (&before.etag, before.generation()));
    let unset: BTreeMap<_, _> = [("mode".to_owned(), None)].into();
    world.done(vec![Step::SetAttributes(SetFileAttributes { file: world.file("b"), set: unset })]);
    assert_eq!(entries(&world), 0);
}

#[test]
fn a_patch_changes_bytes_where_they_are() {
    let mut world = World::new();
    world.done(vec![create("a")]);
    let first = world.written("a", 0, 1000);
    assert_eq!(first.etag, hex(&[(1000u64 % 256) as u8; 16]), "the whole file has the digests that came with it");
    assert!(world.version("a").sha256.is_some() && world.version("a").crc_pending.is_none());
    let place = world.machine.find(&world.bucket, "a", None).place;
    let second = world.written("a", 2000, 10);
    assert_eq!((second.size, second.allocated), (2010, 1010));
    assert!(second.etag.contains('-') && second.generation > first.generation);
    let version = world.version("a");
    assert_eq!((version.sha256, version.crc_pending, version.open), (None, Some(true), Some(CLIENT)));
    assert_eq!(version.shown_checksum(), None);
    assert_eq!(world.machine.find(&world.bucket, "a", None).place, place, "it is no new version");
    assert_eq!(rows(&world.view(), Keyspace::History).count(), 1);
    let stale = PatchFile { base: Some(first.generation), ..patch(world.file("a"), Some(0), Vec::new()) };
    assert!(world.commit(vec![Step::Patch(stale)], None).unwrap_err().contains("Changed"));
}

#[test]
fn a_cut_makes_a_version_of_what_was_written() {
    let mut world = World::new();
    world.done(vec![create("a")]);
    world.written("a", 0, 1000);
    let after = world.machine.revision;
    world.written("a", 500, 10);
    let object = Some(world.file("a").object);
    assert_eq!(world.events(after), [(EventKind::Patched, "a".to_owned(), object)]);
    let queued = |world: &World, kind: u8| {
        rows(&world.view(), Keyspace::Queues).filter(|(row_key, _)| row_key[2] == kind).count()
    };
    assert_eq!((queued(&world, 5), queued(&world, 2)), (0, 0), "nothing waits while it is written");
    let after = world.machine.revision;
    world.done(vec![Step::Cut(world.file("a"))]);
    assert_eq!(world.events(after), [(EventKind::Put, "a".to_owned(), object)]);
    assert_eq!((queued(&world, 5), queued(&world, 2)), (1, 1));
    let after = world.machine.revision;
    world.done(vec![Step::Cut(world.file("a"))]);
    assert_eq!(world.events(after), [], "it was cut already");
    let found = world.machine.find(&world.bucket, "a", None);
    let digest = |generation| SetDigest {
        bucket: world.bucket.id,
        key: object_key("a"),
        place: found.place,
        sha256: Some([4; 32]),
        generation,
        crc64nvme: Some(8),
    };
    let read = world.version("a").generation();
    let (old, without, new) = (digest(Some(read - 1)), digest(None), digest(Some(read)));
    for stale in [old, without] {
        world.run(Op::SetDigest(stale));
        assert_eq!((world.version("a").sha256, queued(&world, 5)), (None, 1));
    }
    world.run(Op::SetDigest(new));
    let version = world.version("a");
    assert_eq!((version.sha256, version.crc64nvme, version.crc_pending), (Some([4; 32]), 8, None));
    assert_eq!(queued(&world, 5), 0);
    world.written("a", 0, 1);
    assert_eq!((world.version("a").sha256, queued(&world, 2)), (None, 0), "it is open again");
}

#[test]
fn what_was_read_before_a_patch_is_not_taken_for_what_is_there() {
    use holdfast_core::index::{Expression, IndexKind, Step as Path};
    let mut world = World::new();
    let (expressions, kind) = (vec![Expression::Field(vec![Path::Name("x".into())])], IndexKind::BTree);
    let (bucket, name, prefix) = (world.bucket.clone(), "fields".to_owned(), String::new());
    let index = CreateIndex { bucket: bucket.clone(), name: name.clone(), prefix, kind, unique: false, expressions };
    assert_eq!(world.run(Op::CreateIndex(index)), Reply::Done);
    let id = world.machine.revision;
    world.done(vec![create("a")]);
    world.written("a", 0, 1000);
    let found = world.machine.find(&world.bucket, "a", None);
    let read = world.version("a").generation();
    world.written("a", 5, 10);
    let pending = |world: &World| rows(&world.view(), Keyspace::Indexes).filter(|(row_key, _)| row_key[2] == 5).count();
    for (generation, left) in [(None, 1), (Some(read), 1), (Some(world.version("a").generation()), 0)] {
        let objects =
            vec![ReadObject { key: object_key("a"), place: found.place, outcome: Outcome::Rows(vec![]), generation }];
        let (cursor, next) = (None, None);
        let op = IndexObjects { bucket: bucket.clone(), name: name.clone(), index: id, objects, cursor, next };
        assert_eq!(world.run(Op::IndexObjects(op)), Reply::Done);
        assert_eq!(pending(&world), left, "{generation:?}");
    }
    let pinned = Some(found.place);
    for (generation, expected) in [(None, false), (Some(read), false), (Some(world.version("a").generation()), true)] {
        let (source, nonce) = (Source { pinned, generation, ..source(&bucket, "a") }, world.machine.blob_id());
        let target = target(&bucket, "copy");
        let op = CopyObject { source, target, attributes: None, tags: None, checksum: None, nonce };
        assert_eq!(matches!(world.run(Op::CopyObject(op)), Reply::Written(_)), expected, "{generation:?}");
    }
    let kv = world.view();
    let view = View::new(&kv, world.machine.revision);
    assert!(view.again(&found).is_err(), "a read does not mix two generations");
    let (permit, changed) = (object_permit(&bucket, "a"), world.version("a").patched.unwrap());
    assert!(view.find(&permit, None, Some(changed)).is_ok());
    let before = view.find(&permit, None, Some(changed - 1)).unwrap_err();
    assert!(matches!(before, holdfast_core::state::Stop::Refused(Error::Changed)), "{before:?}");
    let (query, all) =
        (Query { limit: 10, ..Query::default() }, |key: &ObjectKey| Ok(object_permit(&bucket, key.as_str())));
    let older = view.find_under(&list(&bucket.name), &query, Some(changed - 1), all);
    assert!(matches!(older, Err(holdfast_core::state::Stop::Refused(Error::Changed))));
}

#[test]
fn a_versioned_bucket_keeps_what_was_before_a_session_of_writes() {
    let mut world = World::new();
    world.versioning(true);
    world.done(vec![create("a")]);
    let count = |world: &World| rows(&world.view(), Keyspace::History).count();
    for length in [1000, 10, 20] {
        world.written("a", 0, length);
        assert_eq!(count(&world), 2, "one session is one version");
    }
    world.done(vec![Step::Cut(world.file("a"))]);
    let object = world.file("a").object;
    world.written("a", 5, 10);
    assert_eq!((count(&world), world.version("a").object), (3, object));
    // What is written over is closed.
    world.machine.put(&world.bucket.clone(), "a", 3);
    let kv = world.view();
    let open = rows(&kv, Keyspace::History)
        .filter(|(_, value)| HistoryRow::decode(value).unwrap().version.is_some_and(|version| version.is_open()));
    assert_eq!(open.count(), 0);
    crate::invariants::check(&world.view()).unwrap();
}

#[test]
fn bytes_come_from_parts_and_other_files() {
    let mut world = World::new();
    let bucket = world.bucket.clone();
    let (attributes, nonce) = (Attributes::default(), world.machine.blob_id());
    let upload = CreateUpload {
        bucket: bucket.clone(),
        key: object_key("up"),
        attributes,
        checksum: None,
        checksum_type: None,
        nonce,
    };
    let Reply::UploadCreated(upload) = world.run(Op::CreateUpload(upload)) else { panic!() };
    let key = object_key("up");
    let mut parts = BTreeMap::new();
    for number in [1, 2] {
        let content = world.machine.content(5000);
        let blob = content.blob.as_ref().unwrap().id;
        let part = UploadRef { bucket: bucket.clone(), key: key.clone(), upload };
        world.run(Op::PutPart(PutPart { upload: part, number, content }));
        parts.insert(number, crate::runs::Runs::of(blob, 5000));
    }
    world.upload = Some((MountUpload { key, upload }, parts));
    world.done(vec![create("a"), create("b")]);
    let pieces = vec![write(100, 4000, Origin::Part(1, 1000)), write(0, 10, Origin::Part(1, 7))];
    world.done(vec![Step::Patch(patch(world.file("a"), None, pieces))]);
    let gone = patch(world.file("a"), None, vec![write(0, 1, Origin::Part(1, 0))]);
    assert_eq!(world.refused(Step::Patch(gone)), Error::InvalidPart { number: 1 });
    let past = patch(world.file("a"), None, vec![write(0, 4001, Origin::Part(2, 1000))]);
    assert_eq!(world.refused(Step::Patch(past)), Error::InvalidRange);
    let clone = vec![write(3, 4090, Origin::File(world.file("a"), 5)), write(0, 3, Origin::File(world.file("b"), 0))];
    assert_eq!(world.refused(Step::Patch(patch(world.file("b"), None, clone.clone()))), Error::InvalidRange);
    world.done(vec![Step::Patch(patch(world.file("b"), None, clone[..1].to_vec()))]);
    // Onto itself, overlapping: what is read is what was before.
    world.done(vec![Step::Patch(patch(
        world.file("b"),
        None,
        vec![write(100, 2000, Origin::File(world.file("b"), 0))],
    ))]);
}

#[test]
fn a_refused_step_leaves_no_trace_and_others_are_done() {
    let mut world = World::new();
    let sent = world.machine.content(10);
    world.done(vec![create("a")]);
    let bad = patch(world.file("a"), Some(77), vec![write(0, 5, Origin::Sent(0)), write(0, 5, Origin::Sent(6))]);
    let outcomes = world.commit(vec![Step::Patch(bad), create("b"), create("a")], Some(sent)).unwrap();
    world.check().unwrap();
    assert_eq!(outcomes[0], StepOutcome::Refused(Error::InvalidRange));
    assert_eq!(outcomes[2], StepOutcome::Refused(Error::FileExists));
    assert_eq!(node(&outcomes[1]).key, Some(object_key("b")));
    let condemned = rows(&world.view(), Keyspace::Queues).filter(|(row_key, _)| row_key[2] == 1).count();
    assert_eq!(condemned, 1, "what no step uses is collected");
}

#[test]
fn a_small_write_into_a_long_file_touches_few_rows() {
    let mut world = World::new();
    world.done(vec![create("a")]);
    // Ten thousand pages.
    world.done(vec![Step::Patch(patch(world.file("a"), Some(10_000 * PAGE_BYTES), Vec::new()))]);
    for page in 0..200 {
        let sent = world.machine.content(4096);
        let writes = vec![write(page * 50 * PAGE_BYTES + 7, 4096, Origin::Sent(0))];
        world.commit(vec![Step::Patch(patch(world.file("a"), None, writes))], Some(sent)).unwrap();
    }
    world.check().unwrap();
    let sent = world.machine.content(4096);
    let step = Step::Patch(patch(world.file("a"), None, vec![write(5000 * PAGE_BYTES + 100, 4096, Origin::Sent(0))]));
    let op = world.commit_op(vec![step], Some(sent));
    let command = world.machine.command(Op::MountCommit(op));
    let applied = holdfast_core::apply::apply(&world.view(), world.machine.revision + 1, &command).unwrap();
    let pages = applied.batch.writes().filter(|(keyspace, ..)| *keyspace == Keyspace::Extents).count();
    assert!(
        pages <= 2 && applied.batch.writes().count() < 20,
        "{pages} pages of {} rows",
        applied.batch.writes().count()
    );
}

#[test]
fn a_crowded_page_is_queued_compacted_and_takes_more() {
    let mut world = World::new();
    world.done(vec![create("a")]);
    let scattered = |from: u64, count: u64| -> Vec<FileWrite> {
        (from..from + count).map(|at| write(at * 1000, 1, Origin::Sent(at % 4096))).collect()
    };
    let commit = |world: &mut World, from: u64, count: u64| {
        let sent = world.machine.content(4096);
        let op = world.commit_op(vec![Step::Patch(patch(world.file("a"), None, scattered(from, count)))], Some(sent));
        let reply = world.run(Op::MountCommit(op));
        world.number += 1;
        crate::invariants::check(&world.view()).unwrap();
        match reply {
            Reply::Mounted(outcomes) => outcomes[0].clone(),
            reply => panic!("{reply:?}"),
        }
    };
    let queued = |world: &World| {
        let kv = world.view();
        View::new(&kv, world.machine.revision).to_compact(&maintain_permit().unwrap(), None, 10).unwrap()
    };
    commit(&mut world, 0, 200);
    assert_eq!(queued(&world), []);
    commit(&mut world, 200, 300);
    assert_eq!(queued(&world)[0].extents.len(), 999);
    assert_eq!(queued(&world)[0].name, Some((world.bucket.name.clone(), object_key("a"))));
    assert_eq!(commit(&mut world, 600, 300), StepOutcome::Refused(Error::TooManyExtents));
    let page = queued(&world).remove(0);
    assert!(page.extents.len() > COMPACT_EXTENTS && page.extents.len() <= EXTENTS_PER_PAGE_MAX);
    let compact = |world: &mut World, extents: Vec<Extent>| {
        let length = extents.iter().map(|extent| extent.length).sum();
        let id = world.machine.blob_id();
        let blob = NewBlob { id, place: NewPlace::Path("compacted".into()), crcs: crcs(length) };
        let reply = world.run(Op::CompactPage(CompactPage { content: page.content, page: page.page, extents, blob }));
        crate::invariants::check(&world.view()).unwrap();
        reply
    };
    let mut other = page.extents[..10].to_vec();
    other[3].blob_offset += 1;
    assert_eq!(compact(&mut world, other), Reply::Refused(Error::Changed));
    let one = compact(&mut world, page.extents[..1].to_vec());
    assert!(matches!(one, Reply::Refused(Error::InvalidArgument { .. })));
    let etag = world.version("a").etag;
    assert_eq!(compact(&mut world, page.extents[..900].to_vec()), Reply::Done);
    assert_eq!(queued(&world), []);
    assert_eq!(world.version("a").etag, etag, "its bytes are the same");
    assert!(matches!(commit(&mut world, 600, 300), StepOutcome::Node(_)));
}

#[test]
fn a_page_of_a_file_that_no_mount_wrote_is_queued_when_it_is_too_full() {
    let mut world = World::new();
    let bucket = world.bucket.clone();
    for at in 0..EXTENTS_PER_PAGE_MAX as u64 {
        written(world.machine.append(&bucket, "a", at, 1));
    }
    let object = world.version("a").object;
    let sent = world.machine.content(10);
    let file = FileRef { key: Some(object_key("a")), object };
    let step = Step::Patch(patch(file, None, vec![write(2000, 10, Origin::Sent(0))]));
    let op = world.commit_op(vec![step], Some(sent));
    let reply = world.run(Op::MountCommit(op));
    assert_eq!(reply, Reply::Mounted(vec![StepOutcome::Refused(Error::TooManyExtents)]));
    let kv = world.view();
    let queued = View::new(&kv, world.machine.revision).to_compact(&maintain_permit().unwrap(), None, 10).unwrap();
    assert_eq!(queued.len(), 1);
    crate::invariants::check(&kv).unwrap();
}

#[test]
fn a_map_tells_where_bytes_are_and_holes() {
    let mut world = World::new();
    world.done(vec![create("a")]);
    world.written("a", 0, 100);
    world.written("a", 300, 100);
    let kv = world.view();
    let view = View::new(&kv, world.machine.revision);
    let permit = crate::world::object_permit(&world.bucket, "a");
    let map = |offset, length| {
        let mapped = view.mount_map(&permit, &Map { file: world.file("a"), offset, length }).unwrap();
        assert_eq!(mapped.node.size, 400);
        mapped.extents.iter().map(|extent| (extent.offset, extent.length, extent.is_hole())).collect::<Vec<_>>()
    };
    assert_eq!(map(0, u64::MAX), [(0, 100, false), (100, 200, true), (300, 100, false)]);
    assert_eq!(map(150, 160), [(150, 150, true), (300, 10, false)]);
    assert_eq!(map(400, 10), []);
    assert_eq!(map(u64::MAX, u64::MAX), []);
    let wrong = FileRef { object: ObjectId(99), ..world.file("a") };
    let stop = view.mount_map(&permit, &Map { file: wrong, offset: 0, length: 1 }).unwrap_err();
    assert!(matches!(stop, holdfast_core::state::Stop::Refused(Error::Changed)), "{stop:?}");
    let entries = view.mount_entries(&list(&world.bucket.name), &[String::new(), "a".into(), "a/".into(), "x".into()]);
    let entries = entries.unwrap();
    assert!(entries[0].directory.is_some() && entries[1].file.is_some() && entries[3] == Default::default());
}

/// As the test of the same kind in `bounds`, for commits of a session that is there.
#[test]
fn commits_with_extreme_numbers_are_answered() {
    let mut world = World::new();
    world.done(vec![create("k"), create("dir/")]);
    world.written("k", 0, 300);
    let mut op = world.commit_op(Vec::new(), None);
    for (name, sample) in samples::mount::ops() {
        let (Op::MountCommit(sample), "mount-commit") = (sample, name) else { continue };
        op = MountCommit { steps: sample.steps, sent: sample.sent, ..op };
    }
    for step in &mut op.steps {
        let known = world.file("k");
        match step {
            Step::Patch(step) => {
                (step.file, step.base) = (known.clone(), None);
                step.writes.retain(|write| !matches!(write.from, Origin::Part(..)));
                step.writes.push(write(3, 4, Origin::File(known, 5)));
            }
            Step::SetAttributes(step) => step.file = known,
            Step::Cut(file) => *file = known,
            _ => {}
        }
    }
    let command = world.machine.command(Op::MountCommit(op));
    let bytes = command.encode();
    let mut numbers = 0;
    Tree::parse(&bytes).visit(&mut |node| numbers += usize::from(matches!(node, Tree::Number(_))));
    let mut answered = 0;
    for at in 0..numbers {
        for extreme in [0, 1, 2, 255, 65_535, 1 << 32, (1 << 26) - 1, 50 << 40, (50 << 40) + 1, u64::MAX - 1, u64::MAX]
        {
            let mut tree = Tree::parse(&bytes);
            let mut passed = 0;
            tree.visit(&mut |node| {
                if let Tree::Number(number) = node {
                    if passed == at {
                        *number = extreme;
                    }
                    passed += 1;
                }
            });
            let Ok(command) = Command::decode(&tree.encode()) else { continue };
            let outcome = holdfast_core::apply::apply(&world.machine.kv.view(), world.machine.revision + 1, &command);
            assert!(outcome.is_ok(), "{command:?}: {outcome:?}");
            answered += 1;
        }
    }
    assert!(answered > 300, "{answered}");
}
