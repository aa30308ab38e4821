//! Numbers and bytes from strangers: whatever a command carries, the answer is a reply, never a panic, a stopped node or
//! a large allocation. The tests run with overflow checks.

#![allow(clippy::unwrap_used)]

mod support;

use holdfast_core::apply::apply;
use holdfast_core::command::*;
use holdfast_core::error::Error;
use holdfast_core::id::*;
use holdfast_core::kv::Kv;
use holdfast_core::list::Query;
use holdfast_core::record::*;
use holdfast_core::rules::authorize::{Action, Resource};
use holdfast_core::rules::*;
use holdfast_core::view::View;
use minicbor::Encoder;
use proptest::prelude::*;
use support::cbor::Tree;
use support::*;

#[test]
#[should_panic(expected = "overflow")]
fn these_tests_run_with_overflow_checks() {
    let largest = std::hint::black_box(u64::MAX);
    assert_ne!(std::hint::black_box(largest + 1), 0);
}

/// A machine with something of each kind, so that spoiled commands find what they name.
fn lived_in() -> Machine {
    let mut machine = Machine::new();
    let bucket = machine.create_bucket("abc");
    assert_eq!(bucket, samples::bucket());
    machine.set_versioning(&bucket, true);
    machine.put(&bucket, "k", 300);
    written(machine.append(&bucket, "k", 300, 300));
    machine.put(&bucket, "dir/k", 0);
    for _ in 0..3 {
        let (bucket, key, nonce) = (bucket.clone(), "k".parse().unwrap(), samples::blob(1));
        let attributes = Attributes::default();
        let op = CreateUpload { bucket, key, attributes, checksum: None, checksum_type: None, nonce };
        machine.run(Op::CreateUpload(op));
    }
    let message = holdfast_core::topic::Message::default();
    machine.run(Op::Publish(Publish { topic: "orders".into(), messages: vec![message; 9] }));
    let (topic, group, owner) = ("orders".into(), "billing".into(), String::new());
    machine.run(Op::Claim(Claim { topic, group, owner, max: 3, ttl_ms: None }));
    machine
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_never_panic_a_decoder(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        for sample in decoders() {
            let _ = sample(&bytes);
        }
        let _ = Command::decode(&bytes);
    }

    #[test]
    fn spoiled_bytes_never_panic_a_decoder(at in any::<usize>(), byte in any::<u8>(), cut in any::<usize>()) {
        for sample in samples::all() {
            let mut bytes = sample.bytes.clone();
            let length = bytes.len();
            bytes[at % length] = byte;
            if let Ok((_, again)) = (sample.decode)(&bytes) {
                // Whatever decodes is a value: it encodes to bytes that decode to the same.
                prop_assert_eq!((sample.decode)(&again).unwrap().1, again);
            }
            bytes.truncate(cut % length);
            let _ = (sample.decode)(&bytes);
        }
    }

    #[test]
    fn random_text_never_panics_a_parser(text in any::<String>()) {
        let _ = text.parse::<VersionId>();
        let _ = text.parse::<BucketName>();
        let _ = text.parse::<ObjectKey>();
        let _ = text.parse::<BlobId>();
        let _ = text.parse::<RequestId>();
    }

    #[test]
    fn random_keys_never_panic_when_taken_apart(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
        use holdfast_core::keyspace::key;
        let _ = (key::bucket_name(&bytes), key::name_key(&bytes), key::history_parts(&bytes), key::content_id(&bytes));
        let _ = (key::page_parts(&bytes), key::upload_parts(&bytes), key::part_number(&bytes), key::blob_id(&bytes));
        let _ = (key::due_ms(&bytes), key::ended_parts(&bytes), key::queued_blob_parts(&bytes));
        let _ = (key::queued_content_id(&bytes), key::queued_upload_parts(&bytes), key::queued_digest_parts(&bytes));
        let _ = (key::range_parts(&bytes), key::range_wait_parts(&bytes), key::range_count_resource(&bytes));
        let _ = key::range_wait_of_parts(&bytes);
        let _ = (key::reply_stamp(&bytes), key::topic::topic_name(&bytes), key::topic::group_name(&bytes));
        let _ = (key::topic::offset(&bytes), key::topic::doomed_id(&bytes));
    }
}

fn decoders() -> Vec<samples::Decode> {
    samples::all().into_iter().map(|sample| sample.decode).collect()
}

/// Every number of every sample command is replaced by each of the numbers that break sums; the result is applied.
#[test]
fn commands_with_extreme_numbers_are_answered() {
    const EXTREMES: [u64; 14] = [
        0,
        1,
        2,
        255,
        u16::MAX as u64,
        10_001,
        u32::MAX as u64,
        1 << 32,
        5 << 30,
        50 << 40,
        MILLIS_MAX,
        MILLIS_MAX + 1,
        u64::MAX - 1,
        u64::MAX,
    ];
    let machine = lived_in();
    let view = machine.kv.view();
    let mut applied = 0;
    for sample in samples::commands() {
        let mut numbers = 0;
        Tree::parse(&sample.bytes).visit(&mut |node| numbers += usize::from(matches!(node, Tree::Number(_))));
        for at in 0..numbers {
            for extreme in EXTREMES {
                let mut tree = Tree::parse(&sample.bytes);
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
                let outcome = apply(&view, machine.revision + 1, &command);
                assert!(outcome.is_ok(), "{} stops the node: {command:?}: {outcome:?}", sample.name);
                applied += 1;
            }
        }
    }
    assert!(applied > 1000, "{applied}");
}

/// Times at the end of what an id can carry: every rule that adds to a time still answers.
#[test]
fn the_end_of_time_is_survived() {
    let mut machine = lived_in();
    machine.now_ms = MILLIS_MAX;
    let bucket = samples::bucket();
    let settings = BucketSettings { history_ms: Some(HISTORY_MS_MAX), ..BucketSettings::default() };
    assert_eq!(machine.run(Op::SetSettings(SetSettings { bucket: bucket.clone(), settings })), Reply::Done);
    machine.put(&bucket, "k", 5);
    machine.delete(&bucket, "k", Some(VersionId::Null));
    let lost = machine.blob_id();
    assert_eq!(machine.run(Op::Condemn(Blobs { blobs: vec![lost] })), Reply::Condemned(vec![lost]));
    for _ in 0..100 {
        assert!(matches!(machine.trim(), Reply::Trimmed { .. }));
    }
}

#[test]
fn sizes_beyond_the_limits_are_refused() {
    let mut machine = lived_in();
    let bucket = samples::bucket();
    for size in [PART_BYTES_MAX + 1, u64::MAX] {
        let mut content = machine.content(1);
        content.size = size;
        let nonce = machine.blob_id();
        let op = PutObject { target: target(&bucket, "k"), content, attributes: Attributes::default(), nonce };
        assert_eq!(machine.run(Op::PutObject(op)), Reply::Refused(Error::TooLarge));
    }
    let (mut content, nonce) = (machine.content(5), machine.blob_id());
    content.blob.as_mut().unwrap().crcs = vec![0; 1 << 20];
    let op = PutObject { target: target(&bucket, "k"), content, attributes: Attributes::default(), nonce };
    assert!(matches!(machine.run(Op::PutObject(op)), Reply::Refused(Error::InvalidArgument { .. })));
}

#[test]
fn more_than_a_command_may_carry_is_refused() {
    let mut machine = lived_in();
    let bucket = samples::bucket();
    let invalid = |reply| matches!(reply, Reply::Refused(Error::InvalidArgument { .. }));
    let entries = vec![entry("k"); DELETE_ENTRIES_MAX + 1];
    let nonce = machine.blob_id();
    assert!(invalid(machine.run(Op::DeleteObjects(DeleteObjects { bucket, entries, nonce }))));
    let blobs = vec![machine.blob_id(); JOB_ROWS_MAX + 1];
    assert!(invalid(machine.run(Op::Condemn(Blobs { blobs: blobs.clone() }))));
    assert!(invalid(machine.run(Op::Forget(Blobs { blobs }))));
    assert!(invalid(machine.run(Op::Trim(Trim { rows: u32::MAX }))));
}

#[test]
fn an_object_of_too_many_pieces_is_refused_and_a_page_too() {
    let mut machine = Machine::new();
    let bucket = machine.create_bucket("abc");
    let mut size = 0;
    let refused = loop {
        match machine.append(&bucket, "k", size, 1) {
            Reply::Written(_) => size += 1,
            reply => break reply,
        }
    };
    assert_eq!((refused, size), (Reply::Refused(Error::TooManyExtents), EXTENTS_PER_PAGE_MAX as u64));
}

/// Bases are at most eight deep: the ninth copy that is appended to is written flat.
#[test]
fn a_chain_of_copies_and_appends_is_flattened() {
    let mut machine = Machine::new();
    let bucket = machine.create_bucket("abc");
    machine.put(&bucket, "0", 10);
    written(machine.append(&bucket, "0", 10, 10));
    let mut size = 20;
    let mut deepest = 0;
    for number in 1..=20u64 {
        let nonce = machine.blob_id();
        let op = CopyObject {
            source: source(&bucket, &(number - 1).to_string()),
            target: target(&bucket, &number.to_string()),
            attributes: None,
            tags: None,
            checksum: None,
            nonce,
        };
        written(machine.run(Op::CopyObject(op)));
        written(machine.append(&bucket, &number.to_string(), size, 70 << 20));
        size += 70 << 20;
        let found = machine.find(&bucket, &number.to_string(), None);
        assert_eq!(machine.extents(&found).len() as u64, 2 + number);
        let Body::Pages(content) = found.row.version.unwrap().body else { panic!("pages") };
        let view = machine.kv.view();
        let row: ContentRow =
            row(&view, holdfast_core::keyspace::Keyspace::Objects, &holdfast_core::keyspace::key::content(content))
                .unwrap();
        deepest = deepest.max(row.depth);
        assert!(row.depth <= BASE_DEPTH_MAX);
    }
    assert_eq!(deepest, BASE_DEPTH_MAX);
}

#[test]
#[allow(clippy::disallowed_types)] // A thread is how a small stack is had.
fn nested_and_endless_bytes_need_no_stack_and_no_memory() {
    // A command with an unknown field of a million nested arrays: skipped or refused, on a small stack.
    let mut e = Encoder::new(Vec::new());
    e.map(1).unwrap().u8(99).unwrap();
    let mut deep = e.into_writer();
    deep.extend(vec![0x81; 1_000_000]);
    deep.push(0);
    let small =
        std::thread::Builder::new().stack_size(128 << 10).spawn(move || assert!(Command::decode(&deep).is_err()));
    small.unwrap().join().unwrap();
    // Arrays, maps, texts and bytes that claim to have 2^63 entries.
    for header in [0x9b, 0xbb, 0x7b, 0x5b] {
        for sample in samples::all() {
            for at in 0..sample.bytes.len() {
                let mut bytes = sample.bytes[..at].to_vec();
                bytes.push(header);
                bytes.extend([0x7f; 8]);
                let _ = (sample.decode)(&bytes);
            }
        }
    }
}

#[test]
fn extreme_reads_are_answered() {
    let machine = lived_in();
    let rows = machine.kv.view();
    let name: BucketName = "abc".parse().unwrap();
    let last = Place { revision: (1 << 56) - 1, ordinal: u16::MAX };
    let (versions, uploads, parts) = (
        permit(Action::ListBucketVersions, Resource::Bucket(name.clone())),
        permit(Action::ListUploads, Resource::Bucket(name.clone())),
        permit(Action::ListParts, Resource::Object(name.clone(), "k".parse().unwrap())),
    );
    for revision in [0, 1, machine.revision, u64::MAX] {
        let view = View::new(&rows, revision);
        for at in [0, 1, revision, u64::MAX] {
            let _ = view.find(&read(&name, "k"), None, Some(at));
            let _ = view.list(&list(&name), &Query { limit: usize::MAX, ..Query::default() }, Some(at)).unwrap();
        }
        for place in [Place::default(), last] {
            let stamp = Stamp { place, nonce: BlobId([255; 16]) };
            assert!(view.find(&read(&name, "k"), Some(VersionId::Stamp(stamp)), None).is_err());
            let query = Query { after: "k".into(), limit: 10, ..Query::default() };
            view.list_versions(&versions, &query, Some(VersionId::Stamp(stamp))).unwrap();
            view.list_uploads(&uploads, &query, Some(stamp)).unwrap();
            assert!(view.parts(&parts, stamp, u16::MAX, 10).is_err());
        }
    }
    let found = machine.find(&samples::bucket(), "k", None);
    let view = View::new(&rows, machine.revision);
    for range in [0..u64::MAX, u64::MAX..u64::MAX, 601..601, 600..601] {
        assert!(view.extents(&found, range.clone()).is_err(), "{range:?}");
    }
    #[allow(clippy::reversed_empty_ranges)]
    let backwards = 5..4;
    assert!(view.extents(&found, backwards).is_err());
    assert_eq!(view.extents(&found, 600..600).unwrap(), []);
    let extent = machine.extents(&found)[0];
    let blob = view.blob(&extent).unwrap();
    assert!(view.block_checksums(&extent, &blob.row, u64::MAX - 1..u64::MAX).is_err());
    assert!(view.block_checksums(&extent, &blob.row, 0..u64::MAX).is_err());
}
