//! What a mount wrote, and what jobs and copies make of it.

use super::*;

#[test]
fn a_join_does_not_undo_what_was_written_since_it_read() {
    let mut world = World::new();
    world.done(vec![create("a")]);
    world.written("a", 0, 1000);
    world.written("a", 1000, 500);
    world.done(vec![Step::Cut(world.file("a"))]);
    let kv = world.view();
    let view = View::new(&kv, world.machine.revision);
    let permit = maintain_permit().unwrap();
    let content = view.to_join(&permit, None, 10).unwrap()[0].content;
    let fragmented = view.fragmented(&permit, content).unwrap().unwrap();
    let join = |world: &mut World| {
        let (joined, size) = (fragmented.extents.clone(), fragmented.size);
        let id = world.machine.blob_id();
        world.known.insert(id, crate::runs::Runs::from_extents(&joined, &world.known));
        let blob = NewBlob { id, place: NewPlace::Path("joined".into()), crcs: crcs(size) };
        let reply = world.run(Op::Join(Join { content, joined, blob, size }));
        world.check().unwrap();
        reply
    };
    let file = world.file("a");
    // The same blobs follow each other, and as many blocks of bytes are there.
    world.done(vec![Step::Patch(patch(file.clone(), Some(1400), Vec::new()))]);
    assert_eq!(join(&mut world), Reply::Refused(Error::Changed));
    let longer = vec![write(1400, 100, Origin::File(file.clone(), 1000))];
    world.done(vec![Step::Patch(patch(file.clone(), None, longer))]);
    assert_eq!(join(&mut world), Reply::Refused(Error::Changed));
    let as_it_was = vec![write(1400, 100, Origin::File(file, 400))];
    world.done(vec![Step::Patch(patch(world.file("a"), None, as_it_was))]);
    assert_eq!(join(&mut world), Reply::Refused(Error::Changed));
}

#[test]
fn what_a_mount_wrote_is_joined_when_it_is_small_or_in_short_pieces() {
    const MIB: u64 = 1 << 20;
    for (piece, count, joins) in [(20 * MIB, 3, true), (40 * MIB, 2, false), (MIB - 1, 80, true), (MIB, 80, false)] {
        let mut world = World::new();
        world.done(vec![create("a")]);
        for number in 0..count {
            world.written("a", number * piece, piece);
        }
        world.done(vec![Step::Cut(world.file("a"))]);
        let kv = world.view();
        let queued = View::new(&kv, world.machine.revision).to_join(&maintain_permit().unwrap(), None, 10).unwrap();
        assert_eq!(!queued.is_empty(), joins, "{count} of {piece}");
    }
}

#[test]
fn a_page_that_is_gone_does_not_wait_for_compaction() {
    let mut world = World::new();
    world.done(vec![create("a")]);
    let scattered = |count: u64| (0..count).map(|at| write(at * 1000, 1, Origin::Sent(at))).collect();
    for (count, full) in [(100, false), (1000, true)] {
        let sent = world.machine.content(4096);
        let op = world.commit_op(vec![Step::Patch(patch(world.file("a"), None, scattered(count)))], Some(sent));
        let Reply::Mounted(outcomes) = world.run(Op::MountCommit(op)) else { panic!("the commit was refused") };
        world.number += 1;
        assert_eq!(outcomes == [StepOutcome::Refused(Error::TooManyExtents)], full);
    }
    let queued = rows(&world.view(), Keyspace::Queues).filter(|(row_key, _)| row_key[2] == 6).count();
    assert_eq!(queued, 1, "a page of few extents, which a step would have made too many");
    world.nothing_is_left().unwrap();
}

#[test]
fn a_file_of_very_many_extents_can_be_copied_as_a_part() {
    let mut world = World::new();
    world.done(vec![create("a")]);
    for page in 0..2 {
        let sent = world.machine.content(4096);
        let writes = (0..400).map(|at| write(page * PAGE_BYTES + at * 1000, 1, Origin::Sent(at))).collect();
        world.commit(vec![Step::Patch(patch(world.file("a"), None, writes))], Some(sent)).unwrap();
    }
    let (bucket, found) = (world.bucket.clone(), world.machine.find(&world.bucket, "a", None));
    let extents = world.machine.extents(&found);
    assert!(extents.len() > EXTENTS_PER_PAGE_MAX);
    let (key, attributes, nonce) = (object_key("b"), Attributes::default(), world.machine.blob_id());
    let (checksum, checksum_type) = (None, None);
    let upload = CreateUpload { bucket: bucket.clone(), key: key.clone(), attributes, checksum, checksum_type, nonce };
    let Reply::UploadCreated(upload) = world.machine.run(Op::CreateUpload(upload)) else { panic!("no upload") };
    let generation = found.row.version.as_ref().unwrap().patched;
    let part = CopyPart {
        upload: UploadRef { bucket: bucket.clone(), key, upload },
        number: 1,
        source: Source { pinned: Some(found.place), generation, ..source(&bucket, "a") },
        offset: 0,
        length: found.row.size(),
        digests: world.machine.content(1).digests,
        crc_pending: Some(true),
    };
    let Reply::PartWritten(part) = world.machine.run(Op::CopyPart(part)) else { panic!("no part") };
    let complete = CompleteUpload {
        target: target(&bucket, "b"),
        upload,
        parts: vec![CompletedPart { number: 1, etag: part.etag, checksum: None }],
        checksum: None,
        checksum_type: None,
        size: None,
        nonce: world.machine.blob_id(),
    };
    written(world.machine.run(Op::CompleteUpload(complete)));
    assert_eq!(world.machine.extents(&world.machine.find(&bucket, "b", None)), extents);
    crate::invariants::check(&world.view()).unwrap();
}

#[test]
fn a_digest_waits_under_a_name_that_is_left() {
    let replace: [fn(&mut World); 3] = [
        |world| drop(world.machine.delete(&world.bucket.clone(), "a", None)),
        |world| drop(world.machine.put(&world.bucket.clone(), "a", 3)),
        |world| {
            world.done(vec![create("c")]);
            world.done(vec![rename(world.file("c"), "a", Onto::Any)]);
        },
    ];
    for replace in replace {
        let mut world = World::new();
        world.done(vec![create("a")]);
        world.done(vec![link(world.file("a"), "b")]);
        world.written("a", 0, 100);
        world.written("a", 50, 100);
        world.done(vec![Step::Cut(world.file("a"))]);
        let waits = |world: &World| {
            let kv = world.view();
            let pending = View::new(&kv, world.machine.revision).pending_digests(&maintain_permit().unwrap(), None, 9);
            pending.unwrap().into_iter().any(|pending| pending.key == object_key("b"))
        };
        assert!(!waits(&world));
        replace(&mut world);
        assert!(world.version("b").sha256.is_none() && waits(&world));
    }
}
