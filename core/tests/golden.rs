//! Golden files: the bytes of every stored kind as they were first written. A difference means that old state would be
//! read wrong: add a field or variant with a new number instead, and a new file for it.
//!
//! `HOLDFAST_GOLDEN=write cargo test -p holdfast-core --test golden` writes files that are missing; it never changes one.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // The files are the test.

mod support;

use std::collections::BTreeSet;
use std::path::PathBuf;

use holdfast_core::id::*;
use holdfast_core::keyspace::key::{self, Queue};
use holdfast_core::range::RangeFamily;
use support::cbor::Tree;
use support::{hex, samples};

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// The text of a golden file: what it holds, then its bytes.
fn golden(text: &str, bytes: &[u8]) -> String {
    let digits = hex(bytes);
    let lines: Vec<&str> = (0..digits.len()).step_by(96).map(|at| &digits[at..digits.len().min(at + 96)]).collect();
    format!("# {text}\n{}\n", lines.join("\n"))
}

/// The bytes in a golden file.
fn bytes_in(file: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        file.lines().filter(|line| !line.starts_with('#')).flat_map(|line| line.trim().bytes()).collect();
    let digit = |digit: u8| char::from(digit).to_digit(16).expect("a hexadecimal digit") as u8;
    digits.chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

/// The golden file of a kind; written when it is missing and writing was asked for.
fn read_golden(name: &str, text: &str, bytes: &[u8]) -> String {
    let path = directory().join(format!("{name}.hex"));
    if !path.exists() {
        let asked = std::env::var("HOLDFAST_GOLDEN").is_ok_and(|value| value == "write");
        assert!(asked, "{} is missing; HOLDFAST_GOLDEN=write writes it", path.display());
        std::fs::create_dir_all(directory()).unwrap();
        std::fs::write(&path, golden(text, bytes)).unwrap();
    }
    std::fs::read_to_string(&path).unwrap()
}

#[test]
fn every_record_command_and_reply_is_read_and_written_as_it_was() {
    for sample in samples::all() {
        let file = read_golden(&sample.name, &sample.text, &sample.bytes);
        let (text, again) =
            (sample.decode)(&bytes_in(&file)).unwrap_or_else(|error| panic!("{}: {error:?}", sample.name));
        assert_eq!(text, sample.text, "{} decodes to another value", sample.name);
        assert_eq!(hex(&again), hex(&bytes_in(&file)), "{} encodes to other bytes", sample.name);
        assert_eq!(golden(&sample.text, &sample.bytes), file, "{}", sample.name);
    }
}

#[test]
fn every_key_is_as_it_was() {
    for (name, bytes) in samples::keys() {
        let file = read_golden(name, name, &bytes);
        assert_eq!(golden(name, &bytes), file, "{name}");
    }
}

#[test]
fn no_golden_file_is_forgotten() {
    let known: BTreeSet<String> = samples::all()
        .into_iter()
        .map(|sample| sample.name)
        .chain(samples::keys().iter().map(|key| key.0.into()))
        .collect();
    for entry in std::fs::read_dir(directory()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let kind = name.strip_suffix(".hex").unwrap_or(&name);
        assert!(known.contains(kind), "{name} is of no kind: what was stored once must be read for ever");
    }
}

#[test]
fn keys_are_taken_apart_again() {
    let (bucket, object, place) = (BucketId(5), "a\0é".to_owned(), samples::PLACE);
    let (content, blob, ms) = (samples::CONTENT, samples::blob(1), 1_700_000_000_000);
    assert_eq!(key::bucket_name(&key::bucket("abc")), Some("abc".parse().unwrap()));
    assert_eq!(key::name_key(&key::name(bucket, &object)).unwrap(), object);
    assert_eq!(key::history_parts(&key::history(bucket, &object, place)).unwrap(), (object.clone(), place));
    assert_eq!(key::content_id(&key::content(content)), Some(content));
    assert_eq!(key::content_id(&key::object(content.object)), None);
    assert_eq!(key::page_parts(&key::page(content, 9)), Some((9, content.revision)));
    assert_eq!(key::upload_parts(&key::upload(bucket, &object, place)).unwrap(), (object.clone(), place));
    assert_eq!(key::part_number(&key::part(place, 10_000)), Some(10_000));
    assert_eq!(key::blob_id(&key::blob(blob)), Some((blob, None)));
    assert_eq!(key::blob_id(&key::blob_checksums(blob, 2)), Some((blob, Some(2))));
    assert_eq!(key::due_ms(&key::ended(ms, bucket, &object, place)), Some(ms));
    assert_eq!(key::ended_parts(&key::ended(ms, bucket, &object, place)), Some((ms, bucket, object.clone(), place)));
    assert_eq!(key::queued_blob_parts(&key::queued_blob(Queue::Forgotten, ms, blob)), Some((ms, blob)));
    assert_eq!(key::queued_content_id(&key::queued_content(content)), Some(content));
    assert_eq!(key::queued_upload_parts(&key::queued_upload(ms, place)), Some((ms, place)));
    assert_eq!(key::queued_digest_parts(&key::queued_digest(bucket, &object, place)), Some((bucket, object, place)));
    assert_eq!(key::lock_name(&key::lock("a/b")).unwrap(), "a/b");
    assert_eq!(key::lease_at_end(&key::lock_holder("a/b", 260, 258)).unwrap(), 258);
    assert_eq!(key::lease_at_end(&key::lock_waiter("a/b", 258)).unwrap(), 258);
    assert_eq!(key::lease_at_end(&key::lease(258)).unwrap(), 258);
    assert_eq!(key::ephemeral_name(&key::ephemeral("a/b")).unwrap(), "a/b");
    assert_eq!(key::ephemeral_of_lease(&key::ephemeral_link(258, "a/b")).unwrap(), "a/b");
    let abc = || "abc".parse().unwrap();
    assert_eq!(key::target_name(&key::target("audit")).unwrap(), "audit");
    assert_eq!(key::notification_revision(&key::notification(&abc(), 258)).unwrap(), 258);
    let ended = key::ended_notification_parts(&key::ended_notification(260, 258, &abc()));
    assert_eq!(ended.unwrap(), (260, 258, abc()));
    assert_eq!(key::range_parts(&key::range("a/b", RangeFamily::Flock, 258, 7, 10)).unwrap(), (258, 7, 10));
    assert_eq!(key::range_wait_parts(&key::range_wait("a/b", 260)).unwrap(), ("a/b".to_owned(), 260));
    assert_eq!(key::range_count_resource(&key::range_count_of(258, "a/b")).unwrap(), "a/b");
    assert_eq!(key::range_count_resource(&key::range_count(258)).unwrap(), "");
    assert_eq!(key::range_wait_of_parts(&key::range_wait_of(258, 7, 260, "a/b")).unwrap(), (260, "a/b".to_owned()));
    assert_eq!(key::event_place(&key::event(place)).unwrap(), place);
    assert_eq!(key::topic::topic_name(&key::topic::topic("a b")).unwrap(), "a b");
    assert_eq!(key::topic::group_name(&key::topic::group(258, "a b")).unwrap(), "a b");
    for row_key in [key::topic::message(258, 7), key::topic::pending(260, 7), key::topic::redelivery(259, 7)] {
        assert_eq!(key::topic::offset(&row_key).unwrap(), 7);
    }
    assert_eq!(key::topic::doomed_id(&key::topic::doomed(258)).unwrap(), 258);
    assert_eq!(key::reply_stamp(&key::reply(ms, RequestId::new(ms, [8; 10]))), Some(ms));
}

#[test]
fn text_forms_are_as_they_were() {
    let stamp = samples::stamp();
    assert_eq!(stamp.to_string(), "00000000041000o0000060cbpvimguo1040g2081");
    assert_eq!(samples::blob(1).to_string(), "00000003018bcfe5687b010101010101");
    assert_eq!(RequestId::new(1_700_000_000_000, [8; 10]).to_string(), "018bcfe5680008080808080808080808");
    assert_eq!(VersionId::Null.to_string(), "null");
}

/// A node that does not know a field skips it: a newer one may have written it.
#[test]
fn an_unknown_field_is_skipped() {
    let unknown = Tree::Map(vec![(Tree::Number(0), Tree::Array(vec![Tree::Text("later".into()), Tree::Null]))]);
    for sample in samples::all() {
        let mut tree = Tree::parse(&sample.bytes);
        assert_eq!(tree.encode(), sample.bytes, "{}: the shortest form of numbers and lengths", sample.name);
        let mut widened = 0;
        tree.visit(&mut |node| {
            if let Tree::Map(fields) = node
                && fields.first().is_some_and(|(key, _)| matches!(key, Tree::Number(_)))
            {
                fields.push((Tree::Number(99), unknown.clone()));
                widened += 1;
            }
        });
        let decoded = (sample.decode)(&tree.encode()).unwrap_or_else(|error| panic!("{}: {error:?}", sample.name));
        assert_eq!(decoded, (sample.text, sample.bytes), "{} with {widened} unknown fields", sample.name);
    }
}

/// A node that does not know a variant must not guess, and must not take it for absent either.
#[test]
fn an_unknown_variant_is_refused_wherever_it_is() {
    let all = samples::all();
    let check = |name: &str, path: &[u64]| {
        let sample = all.iter().find(|sample| sample.name == name).unwrap();
        let mut tree = Tree::parse(&sample.bytes);
        let node = tree.at(path);
        assert!(matches!(node, Tree::Number(_)), "{name}: {node:?} is not the number of a variant");
        *node = Tree::Number(77);
        let decoded = (sample.decode)(&tree.encode());
        assert!(decoded.is_err(), "{name} {path:?}: {decoded:?}");
    };
    check("record-version-single", &[3, 3, 0]); // Body
    check("record-version-single", &[3, 7, 0]); // ChecksumAlgorithm of an optional checksum
    check("record-version-single", &[3, 7, 1]); // ChecksumType
    check("record-blob", &[2, 1, 0]); // Location
    check("record-blob", &[3]); // Envelope
    check("record-bucket", &[2]); // Versioning
    check("record-bucket", &[3, 0]); // Durability, optional
    check("record-bucket", &[3, 3]); // OnParseError, optional
    check("record-upload", &[3]); // ChecksumAlgorithm, optional
    check("record-upload", &[4]); // ChecksumType, optional
    check("record-name", &[6]);
    check("command-put-object", &[2, 0]); // Op
    check("command-put-object", &[2, 1, 0, 0, 2, 0, 0, 0]); // Match
    check("command-put-object", &[2, 1, 0, 1, 1, 1, 0]); // NewPlace in an optional blob
    check("command-put-object-inline", &[2, 1, 0, 1, 1, 1, 0]);
    check("command-join", &[2, 1, 0, 2, 1, 0]);
    check("command-copy-object", &[2, 1, 0, 0, 3, 0, 0, 0]); // Match of a source
    check("command-copy-object", &[2, 1, 0, 0, 3, 1, 0, 0]);
    check("command-delete-objects", &[2, 1, 0, 1, 0, 2, 0, 0]); // Match of an entry
    check("command-set-document", &[2, 1, 0, 1]); // Document
    check("command-set-range", &[2, 1, 0, 3]); // RangeFamily
    check("command-set-range", &[2, 1, 0, 4]); // LockMode, optional
    check("reply-written", &[0]); // Reply
    check("reply-deleted", &[1, 0, 1, 2, 0, 0]); // Error of an entry
    check("refused-no-such-key", &[1, 0, 0]); // Error
    check("command-set-group", &[2, 1, 0, 2, 0, 0]); // Start
}

/// Envelope and location say how bytes are to be read: absent is not a way.
#[test]
fn a_record_without_a_required_field_is_refused() {
    for (name, field) in [("record-blob", 0), ("record-blob", 2), ("record-blob", 3), ("record-version-single", 0)] {
        let sample = samples::all().into_iter().find(|sample| sample.name == name).unwrap();
        let mut tree = Tree::parse(&sample.bytes);
        let Tree::Map(fields) = &mut tree else { panic!("a record is a map") };
        fields.retain(|(key, _)| *key != Tree::Number(field));
        assert!((sample.decode)(&tree.encode()).is_err(), "{name} without {field}");
    }
}

#[test]
fn bytes_that_follow_a_record_are_refused() {
    for mut sample in samples::all() {
        sample.bytes.push(0);
        assert!((sample.decode)(&sample.bytes).is_err(), "{}", sample.name);
    }
}
