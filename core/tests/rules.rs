//! Named cases of the rules: each one was wrong once, or is a corner that the model reaches too seldom.

#![allow(clippy::unwrap_used)]

mod support;

use holdfast_core::command::*;
use holdfast_core::error::Error;
use holdfast_core::id::*;
use holdfast_core::keyspace::{Keyspace, key};
use holdfast_core::kv::Kv;
use holdfast_core::list::Query;
use holdfast_core::record::*;
use holdfast_core::rules::authorize::{AuthorizedOp, Caller, Context};
use holdfast_core::rules::{BLOB_AGE_MS_MAX, PART_BYTES_MIN};
use holdfast_core::view::View;
use support::*;

fn invalid(reply: &Reply) -> bool {
    matches!(reply, Reply::Refused(Error::InvalidArgument { .. }))
}

const MIB: u64 = 1 << 20;

/// An append to a version that became the latest again must not see pages of the appends that were deleted.
#[test]
fn appends_that_branch_off_an_older_version_do_not_share_pages_with_deleted_ones() {
    for first in [vec![100 * MIB], vec![MIB, 99 * MIB]] {
        let mut machine = Machine::new();
        let bucket = machine.create_bucket("abc");
        machine.set_versioning(&bucket, true);
        let mut size = 0;
        let mut versions = Vec::new();
        for piece in &first {
            versions.push(written(machine.append(&bucket, "k", size, *piece)));
            size += piece;
        }
        let kept = size;
        for piece in [50 * MIB, 60 * MIB] {
            versions.push(written(machine.append(&bucket, "k", size, piece)));
            size += piece;
        }
        for version in &versions[first.len()..] {
            machine.delete(&bucket, "k", version.version);
        }
        // Also by way of an append of nothing, which makes a version of the same content.
        written(machine.append(&bucket, "k", kept, 0));
        written(machine.append(&bucket, "k", kept, 300 * MIB));
        let found = machine.find(&bucket, "k", None);
        let last = *machine.extents(&found).last().unwrap();
        assert_eq!((last.offset, last.length), (kept, 300 * MIB));
        let view = machine.kv.view();
        let tail = View::new(&view, machine.revision).extents(&found, kept + 100 * MIB..kept + 300 * MIB).unwrap();
        assert_eq!(tail, [Extent { offset: kept + 100 * MIB, length: 200 * MIB, blob_offset: 100 * MIB, ..last }]);
    }
}

/// A tombstone outlives every command that could name its blob, also one whose id comes from a clock that is ahead.
#[test]
fn a_tombstone_stays_until_its_blob_is_too_old_to_be_brought_in() {
    for ahead_ms in [0, 60_000] {
        for condemned_by_trim in [false, true] {
            let mut machine = Machine::new();
            let bucket = machine.create_bucket("abc");
            let id = blob_id(machine.now_ms + ahead_ms, 77);
            let op = |id, machine: &mut Machine| {
                let nonce = machine.blob_id();
                let content = far_content(id, 9);
                PutObject { target: target(&bucket, "k"), content, attributes: Attributes::default(), nonce }
            };
            if condemned_by_trim {
                let put = op(id, &mut machine);
                written(machine.run(Op::PutObject(put)));
                machine.delete(&bucket, "k", None);
                machine.now_ms += HISTORY_MS_DEFAULT;
                machine.trim();
            } else {
                let reply = machine.run(Op::Condemn(Blobs { blobs: vec![id] }));
                assert_eq!(reply, Reply::Condemned(vec![id]));
            }
            assert_eq!(machine.run(Op::Forget(Blobs { blobs: vec![id] })), Reply::Done);
            let last_moment = id.minted_ms().max(machine.now_ms) + BLOB_AGE_MS_MAX;
            for now_ms in [last_moment - 1, last_moment, last_moment + 1, last_moment + 2] {
                machine.now_ms = now_ms;
                machine.trim();
                let put = op(id, &mut machine);
                let reply = machine.run(Op::PutObject(put));
                assert_eq!(reply, Reply::Refused(Error::BlobCondemned), "{ahead_ms} {condemned_by_trim} {now_ms}");
            }
            let view = machine.kv.view();
            assert_eq!(row::<BlobRow>(&view, Keyspace::Blobs, &key::blob(id)), None, "the tombstone is gone at last");
            assert_eq!(view.rows().filter(|row| row.0 == Keyspace::Queues).count(), 0);
        }
    }
}

/// A tombstone of a blob whose bytes never were, or whose deletion was never reported, goes too.
#[test]
fn a_tombstone_goes_although_nobody_forgets_it() {
    let mut machine = Machine::new();
    let id = machine.blob_id();
    assert_eq!(machine.run(Op::Condemn(Blobs { blobs: vec![id] })), Reply::Condemned(vec![id]));
    assert_eq!(machine.run(Op::Condemn(Blobs { blobs: vec![id] })), Reply::Condemned(vec![id]), "again");
    machine.now_ms += BLOB_AGE_MS_MAX + 1;
    assert_eq!(machine.trim(), Reply::Trimmed { rows: 1, more: false });
    let census = census(&machine.kv.view());
    assert_eq!(census.keys().copied().collect::<Vec<_>>(), ["dedupe", "sys"]);
}

#[test]
fn settings_beyond_their_bounds_are_refused_and_none_can_overflow() {
    let mut machine = Machine::new();
    let name: BucketName = "abc".parse().unwrap();
    let bad = |settings: BucketSettings| CreateBucket { name: name.clone(), settings };
    let history = BucketSettings { history_ms: Some(u64::MAX), ..BucketSettings::default() };
    let inline = BucketSettings { inline_bytes: Some(u64::MAX), ..BucketSettings::default() };
    assert!(invalid(&machine.run(Op::CreateBucket(bad(history.clone())))));
    assert!(invalid(&machine.run(Op::CreateBucket(bad(inline.clone())))));
    let bucket = machine.create_bucket("abc");
    for settings in [history, inline] {
        let op = SetSettings { bucket: bucket.clone(), settings };
        assert!(invalid(&machine.run(Op::SetSettings(op))));
    }
    machine.put(&bucket, "k", 1);
    machine.put(&bucket, "k", 1);
}

#[test]
fn a_stamp_that_no_clock_gives_is_refused_and_moves_no_time() {
    let mut machine = Machine::new();
    let bucket = machine.create_bucket("abc");
    let mut command = machine.command(Op::Trim(Trim { rows: 1 }));
    for stamp_ms in [1 << 48, u64::MAX] {
        command.stamp_ms = stamp_ms;
        let applied = machine.apply(&command);
        assert!(invalid(&applied.reply), "{:?}", applied.reply);
        assert!(applied.batch.is_empty());
    }
    assert_eq!(machine.put(&bucket, "k", 1).modified_ms, START_MS);
}

#[test]
fn an_append_far_beyond_any_size_is_refused() {
    let mut machine = Machine::new();
    let bucket = machine.create_bucket("abc");
    machine.put(&bucket, "k", 10);
    assert_eq!(machine.append(&bucket, "k", u64::MAX, 1), Reply::Refused(Error::InvalidWriteOffset { size: 10 }));
    let (mut content, nonce) = (machine.content(1), machine.blob_id());
    content.size = u64::MAX;
    let op =
        AppendObject { target: target(&bucket, "k"), offset: 10, content, attributes: Attributes::default(), nonce };
    assert_eq!(machine.run(Op::AppendObject(op)), Reply::Refused(Error::TooLarge));
}

#[test]
fn joining_a_content_without_pages_is_refused() {
    let mut machine = Machine::new();
    let bucket = machine.create_bucket("abc");
    let upload = start_upload(&mut machine, &bucket, "k", None, None);
    let part = put_part(&mut machine, &bucket, "k", upload, 1, 5);
    written(complete(&mut machine, &bucket, "k", upload, vec![part]));
    let found = machine.find(&bucket, "k", None);
    let content = found.row.version.as_ref().unwrap().parts.unwrap().content;
    let blob = machine.content(5).blob.unwrap();
    let joined = machine.extents(&found);
    assert_eq!(machine.run(Op::Join(Join { content, joined, blob, size: 5 })), Reply::Refused(Error::Changed));
}

#[test]
fn an_upload_is_not_started_with_a_checksum_type_that_nothing_has() {
    let mut machine = Machine::new();
    let bucket = machine.create_bucket("abc");
    let op = |checksum, checksum_type, nonce| CreateUpload {
        bucket: bucket.clone(),
        key: "k".parse().unwrap(),
        attributes: Attributes::default(),
        checksum,
        checksum_type,
        nonce,
    };
    let nonce = machine.blob_id();
    assert!(invalid(&machine.run(Op::CreateUpload(op(None, Some(ChecksumType::Composite), nonce)))));
    let crc64 = Some(ChecksumAlgorithm::Crc64Nvme);
    assert!(invalid(&machine.run(Op::CreateUpload(op(crc64, Some(ChecksumType::Composite), nonce)))));
    let reply = machine.run(Op::CreateUpload(op(None, Some(ChecksumType::FullObject), nonce)));
    assert!(matches!(reply, Reply::UploadCreated(_)));
}

#[test]
fn a_checksum_value_of_another_length_than_its_algorithm_gives_is_refused() {
    let mut machine = Machine::new();
    let bucket = machine.create_bucket("abc");
    for value in [vec![], vec![1; 3], vec![1; 100]] {
        let (mut content, nonce) = (machine.content(5), machine.blob_id());
        let (algorithm, kind) = (ChecksumAlgorithm::Crc32, ChecksumType::FullObject);
        content.digests.checksum = Some(Checksum { algorithm, kind, value });
        let put = PutObject { target: target(&bucket, "k"), content, attributes: Attributes::default(), nonce };
        assert!(invalid(&machine.run(Op::PutObject(put))));
    }
}

/// A copy under another checksum has no parts that could carry values of it.
#[test]
fn a_copy_with_a_new_checksum_has_no_boundaries_of_the_old_one() {
    let mut machine = Machine::new();
    let bucket = machine.create_bucket("abc");
    let upload = start_upload(&mut machine, &bucket, "k", None, None);
    let parts = vec![
        put_part(&mut machine, &bucket, "k", upload, 1, PART_BYTES_MIN),
        put_part(&mut machine, &bucket, "k", upload, 2, 5),
    ];
    written(complete(&mut machine, &bucket, "k", upload, parts));
    let found = machine.find(&bucket, "k", None);
    let nonce = machine.blob_id();
    let (algorithm, kind) = (ChecksumAlgorithm::Crc32, ChecksumType::FullObject);
    let checksum = Checksum { algorithm, kind, value: vec![1; 4] };
    let op = CopyObject {
        source: Source { pinned: Some(found.place), ..source(&bucket, "k") },
        target: target(&bucket, "copy"),
        attributes: None,
        tags: None,
        checksum: Some(checksum.clone()),
        nonce,
    };
    assert_eq!(written(machine.run(Op::CopyObject(op))).checksum, Some(checksum));
    let copy = machine.find(&bucket, "copy", None);
    let view = machine.kv.view();
    assert_eq!(View::new(&view, machine.revision).boundaries(&copy).unwrap(), []);
    assert_eq!(machine.extents(&copy), machine.extents(&found));
}

#[test]
fn a_delete_of_nothing_is_refused_and_needs_a_permit() {
    let mut machine = Machine::new();
    let bucket = machine.create_bucket("abc");
    let op = Op::DeleteObjects(DeleteObjects { bucket, entries: vec![], nonce: BlobId::default() });
    assert!(AuthorizedOp::authorize(op.clone(), Caller::Anonymous, &Context::default()).is_err());
    assert!(AuthorizedOp::authorize(op.clone(), Caller::Root, &Context::default()).is_ok());
    assert!(invalid(&machine.run(op)));
}

/// What a rename of a prefix cannot check is refused, not ignored.
#[test]
fn a_prefix_is_not_renamed_under_conditions_of_single_keys() {
    let mut machine = Machine::new();
    let bucket = machine.create_bucket("abc");
    machine.put(&bucket, "a/1", 1);
    let plain = RenameObject {
        source: source(&bucket, "a/"),
        target: target(&bucket, "b/"),
        prefix: true,
        nonce: machine.blob_id(),
    };
    let mut matched = plain.clone();
    matched.target.conditions.if_match = vec![Match::Any];
    let mut source_matched = plain.clone();
    source_matched.source.conditions.if_match = vec![Match::Etag("no".into())];
    let mut old = plain.clone();
    old.source.version = Some(VersionId::Null);
    for op in [matched, source_matched, old.clone(), RenameObject { prefix: false, ..old }] {
        assert!(invalid(&machine.run(Op::RenameObject(op))));
    }
    let mut only_new = plain;
    only_new.target.conditions.if_none_match = true;
    assert_eq!(machine.run(Op::RenameObject(only_new)), Reply::Renamed(1));
}

#[test]
fn a_page_without_room_is_not_truncated() {
    let mut machine = Machine::new();
    let bucket = machine.create_bucket("abc");
    machine.put(&bucket, "k", 1);
    let view = machine.kv.view();
    let view = View::new(&view, machine.revision);
    let page = view.list(&list(&bucket.name), &Query::default(), None).unwrap();
    assert_eq!((page.entries.len(), page.truncated), (0, false));
}

#[test]
fn a_version_is_found_as_it_was_at_an_older_revision() {
    let mut machine = Machine::new();
    let bucket = machine.create_bucket("abc");
    let first = machine.put(&bucket, "k", 1);
    let at = machine.revision;
    machine.put(&bucket, "k", 2);
    machine.set_versioning(&bucket, true);
    let second = machine.put(&bucket, "k", 3).version;
    machine.delete(&bucket, "k", second);
    let view = machine.kv.view();
    let find = |version, at| View::new(&view, machine.revision).find(&read(&bucket.name, "k"), version, Some(at));
    let size = |found: holdfast_core::view::Found| found.row.size();
    assert_eq!(size(find(None, at).unwrap()), 1);
    assert_eq!(size(find(Some(VersionId::Null), at).unwrap()), first.size);
    assert_eq!(size(find(Some(VersionId::Null), at + 1).unwrap()), 2);
    assert!(find(second, at).is_err());
    assert_eq!(size(find(second, machine.revision - 1).unwrap()), 3);
    assert!(find(second, machine.revision).is_err());
}

/// One command of a job does a bounded amount of work, however large the objects are that it removes.
#[test]
fn a_trim_of_large_objects_stops_early_and_says_so() {
    let mut machine = Machine::new();
    let bucket = machine.create_bucket("abc");
    for _ in 0..8 {
        let upload = start_upload(&mut machine, &bucket, "k", None, None);
        let mut parts = Vec::new();
        for number in 1..=3000 {
            parts.push(put_part(&mut machine, &bucket, "k", upload, number, PART_BYTES_MIN));
        }
        written(complete(&mut machine, &bucket, "k", upload, parts));
    }
    machine.delete(&bucket, "k", None);
    machine.now_ms += HISTORY_MS_DEFAULT;
    let mut trims = 0;
    loop {
        let command = machine.command(Op::Trim(Trim { rows: 1000 }));
        let applied = machine.apply(&command);
        assert!(applied.batch.writes().count() < 40_000, "{}", applied.batch.writes().count());
        trims += 1;
        match applied.reply {
            Reply::Trimmed { rows, more: true } => assert!(rows > 0),
            Reply::Trimmed { more: false, .. } => break,
            reply => panic!("{reply:?}"),
        }
    }
    assert!(trims > 1);
}

/// An upload of parts that were copied in many pieces holds no more than an object could, so that dropping it is bounded.
#[test]
fn an_upload_holds_no_more_extents_than_an_object_may() {
    let mut machine = Machine::new();
    let bucket = machine.create_bucket("abc");
    for offset in 0..1000 {
        written(machine.append(&bucket, "pieces", offset, 1));
    }
    let place = machine.find(&bucket, "pieces", None).place;
    let upload = start_upload(&mut machine, &bucket, "k", None, None);
    let copy = |machine: &mut Machine, number| {
        let upload = UploadRef { bucket: bucket.clone(), key: "k".parse().unwrap(), upload };
        let source = Source { pinned: Some(place), ..source(&bucket, "pieces") };
        let digests = far_content(BlobId::default(), 1000).digests;
        let crc_pending = None;
        machine.run(Op::CopyPart(CopyPart { upload, number, source, offset: 0, length: 1000, digests, crc_pending }))
    };
    for number in 1..=65 {
        assert!(matches!(copy(&mut machine, number), Reply::PartWritten(_)));
    }
    assert_eq!(copy(&mut machine, 66), Reply::Refused(Error::TooManyExtents));
    assert!(matches!(copy(&mut machine, 65), Reply::PartWritten(_)), "one in place of another");
    put_part(&mut machine, &bucket, "k", upload, 65, 5);
    assert!(matches!(copy(&mut machine, 66), Reply::PartWritten(_)), "room again");
    let abort = UploadRef { bucket: bucket.clone(), key: "k".parse().unwrap(), upload };
    assert_eq!(machine.run(Op::AbortUpload(abort)), Reply::Done);
}

fn start_upload(
    machine: &mut Machine,
    bucket: &BucketRef,
    key: &str,
    checksum: Option<ChecksumAlgorithm>,
    checksum_type: Option<ChecksumType>,
) -> UploadId {
    let nonce = machine.blob_id();
    let (bucket, key, attributes) = (bucket.clone(), key.parse().unwrap(), Attributes::default());
    let op = CreateUpload { bucket, key, attributes, checksum, checksum_type, nonce };
    match machine.run(Op::CreateUpload(op)) {
        Reply::UploadCreated(upload) => upload,
        reply => panic!("{reply:?}"),
    }
}

fn put_part(
    machine: &mut Machine,
    bucket: &BucketRef,
    key: &str,
    upload: UploadId,
    number: u16,
    size: u64,
) -> CompletedPart {
    let content = machine.content(size);
    let etag = hex(&content.digests.md5);
    let upload = UploadRef { bucket: bucket.clone(), key: key.parse().unwrap(), upload };
    let reply = machine.run(Op::PutPart(PutPart { upload, number, content }));
    assert!(matches!(reply, Reply::PartWritten(_)), "{reply:?}");
    CompletedPart { number, etag, checksum: None }
}

fn complete(
    machine: &mut Machine,
    bucket: &BucketRef,
    key: &str,
    upload: UploadId,
    parts: Vec<CompletedPart>,
) -> Reply {
    let nonce = machine.blob_id();
    let target = target(bucket, key);
    let op = CompleteUpload { target, upload, parts, checksum: None, checksum_type: None, size: None, nonce };
    machine.run(Op::CompleteUpload(op))
}

/// A part that was copied without being read has no checksum, and neither has the object until the job has read it.
#[test]
fn a_part_that_nobody_read_leaves_the_checksum_open() {
    let mut machine = Machine::new();
    let bucket = machine.create_bucket("abc");
    machine.put(&bucket, "k", PART_BYTES_MIN);
    let place = machine.find(&bucket, "k", None).place;
    let copy = |machine: &mut Machine, upload| {
        let upload = UploadRef { bucket: bucket.clone(), key: "k".parse().unwrap(), upload };
        let source = Source { pinned: Some(place), ..source(&bucket, "k") };
        let digests = Digests { md5: [7; 16], sha256: [0; 32], crc64nvme: 0, checksum: None };
        let (length, crc_pending) = (PART_BYTES_MIN, Some(true));
        machine.run(Op::CopyPart(CopyPart { upload, number: 1, source, offset: 0, length, digests, crc_pending }))
    };
    let declared = start_upload(&mut machine, &bucket, "k", Some(ChecksumAlgorithm::Crc64Nvme), None);
    assert!(invalid(&copy(&mut machine, declared)));

    let upload = start_upload(&mut machine, &bucket, "k", None, None);
    let Reply::PartWritten(part) = copy(&mut machine, upload) else { panic!("not copied") };
    assert_eq!((part.etag.as_str(), part.checksum), ("07".repeat(16).as_str(), None));
    let mut parts = vec![CompletedPart { number: 1, etag: part.etag, checksum: None }];
    parts.push(put_part(&mut machine, &bucket, "k", upload, 2, 10));
    written(complete(&mut machine, &bucket, "k", upload, parts));
    let found = machine.find(&bucket, "k", None);
    let version = found.row.version.as_ref().unwrap();
    assert_eq!((version.crc_pending, version.shown_checksum(), version.sha256), (Some(true), None, None));
    let key = "k".parse().unwrap();
    let (sha256, crc64nvme, generation) = (Some([3; 32]), Some(9), Some(version.generation()));
    machine.run(Op::SetDigest(SetDigest { bucket: bucket.id, key, place: found.place, sha256, generation, crc64nvme }));
    let found = machine.find(&bucket, "k", None);
    let version = found.row.version.as_ref().unwrap();
    assert_eq!((version.crc_pending, version.crc64nvme, version.sha256), (None, 9, Some([3; 32])));
}
