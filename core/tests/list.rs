//! Listings: what they cost, and their corners. Costs are counted, not timed: seeks and rows at the engine.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use holdfast_core::command::*;
use holdfast_core::id::*;
use holdfast_core::keyspace::{Keyspace, key};
use holdfast_core::kv::{Batch, Direction, KeyRange, Kv, KvError, KvRead, MemView, Rows};
use holdfast_core::list::{Entry, Query};
use holdfast_core::record::*;
use holdfast_core::rules::authorize::{Action, Resource};
use holdfast_core::view::View;
use support::*;

/// A view that counts what is asked of it.
struct Counting {
    view: MemView,
    seeks: AtomicU64,
    rows: AtomicU64,
}

impl Counting {
    fn new(view: MemView) -> Self {
        Self { view, seeks: AtomicU64::new(0), rows: AtomicU64::new(0) }
    }

    /// Point reads and scans begun; rows that scans gave.
    fn costs(&self) -> (u64, u64) {
        (self.seeks.swap(0, Ordering::Relaxed), self.rows.swap(0, Ordering::Relaxed))
    }
}

impl KvRead for Counting {
    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        self.seeks.fetch_add(1, Ordering::Relaxed);
        self.view.get(keyspace, key)
    }

    fn scan<'a>(&'a self, keyspace: Keyspace, range: KeyRange, direction: Direction) -> Rows<'a> {
        self.seeks.fetch_add(1, Ordering::Relaxed);
        let counted = self.view.scan(keyspace, range, direction).inspect(|_| {
            self.rows.fetch_add(1, Ordering::Relaxed);
        });
        Box::new(counted)
    }
}

/// A bucket whose names and versions are written without commands, for speed.
fn filled(keys: impl Iterator<Item = String>) -> (Machine, BucketRef) {
    let mut machine = Machine::new();
    let bucket = machine.create_bucket("abc");
    machine.put(&bucket, "pattern", 10);
    let view = machine.kv.view();
    let name: NameRow = row(&view, Keyspace::Names, &key::name(bucket.id, "pattern")).unwrap();
    let history = view.get(Keyspace::History, &key::history(bucket.id, "pattern", name.place)).unwrap().unwrap();
    drop(view);
    let mut batch = Batch::default();
    for object in keys {
        batch.put(Keyspace::Names, key::name(bucket.id, &object), name.encode());
        batch.put(Keyspace::History, key::history(bucket.id, &object, name.place), history.clone());
    }
    batch.delete(Keyspace::Names, key::name(bucket.id, "pattern"));
    batch.delete(Keyspace::History, key::history(bucket.id, "pattern", name.place));
    machine.kv.commit(batch).unwrap();
    (machine, bucket)
}

fn query(prefix: &str, delimiter: Option<&str>, after: &str, limit: usize) -> Query {
    Query { prefix: prefix.into(), delimiter: delimiter.map(Into::into), after: after.into(), limit }
}

#[test]
fn a_delimiter_listing_never_scans_what_the_delimiter_hides() {
    let keys = (0..100_000).map(|number| format!("{}/{:06}/x", ["one", "two", "zoo"][number % 3], number));
    let (machine, bucket) = filled(keys);
    let kv = Counting::new(machine.kv.view());
    let view = View::new(&kv, machine.revision);
    let query = query("", Some("/"), "", 1000);
    let page = view.list(&list(&bucket.name), &query, None).unwrap();
    let prefixes: Vec<&str> = page.entries.iter().map(Entry::marker).collect();
    assert_eq!((prefixes, page.truncated), (vec!["one/", "two/", "zoo/"], false));
    let (seeks, rows) = kv.costs();
    assert!(seeks <= 8 && rows <= 4, "{seeks} seeks, {rows} rows");

    let versions = permit(Action::ListBucketVersions, Resource::Bucket(bucket.name.clone()));
    let page = view.list_versions(&versions, &query, None).unwrap();
    assert_eq!((page.entries.len(), page.truncated), (3, false));
    let (seeks, rows) = kv.costs();
    assert!(seeks <= 8 && rows <= 4, "of versions: {seeks} seeks, {rows} rows");
}

#[test]
fn a_listing_of_the_past_skips_what_the_delimiter_hides_too() {
    let keys = (0..30_000).map(|number| format!("{}/{:06}", ["one", "two", "zoo"][number % 3], number));
    let (mut machine, bucket) = filled(keys);
    let at = machine.revision;
    machine.put(&bucket, "one/later", 1);
    let kv = Counting::new(machine.kv.view());
    let page = View::new(&kv, machine.revision).list(&list(&bucket.name), &query("", Some("/"), "", 1000), Some(at));
    assert_eq!((page.as_ref().unwrap().entries.len(), page.unwrap().revision), (3, at));
    let (seeks, rows) = kv.costs();
    assert!(seeks <= 16 && rows <= 8, "{seeks} seeks, {rows} rows");
}

#[test]
fn a_page_of_a_thousand_among_many_reads_a_thousand_rows() {
    let (machine, bucket) = filled((0..100_000).map(|number| format!("key/{number:06}")));
    let kv = Counting::new(machine.kv.view());
    let view = View::new(&kv, machine.revision);
    for after in ["", "key/050000", "key/098999"] {
        let page = view.list(&list(&bucket.name), &query("key/", None, after, 1000), None).unwrap();
        assert_eq!((page.entries.len(), page.truncated), (1000, after != "key/098999"));
        let (seeks, rows) = kv.costs();
        assert!(seeks <= 4 && rows <= 1001, "after {after:?}: {seeks} seeks, {rows} rows");
    }
}

/// Keys with one of many common prefixes each: one seek and one row for every prefix that is listed.
#[test]
fn a_page_of_common_prefixes_costs_a_seek_each() {
    let keys = (0..50_000).map(|number| format!("{:04}/{:02}", number / 50, number % 50));
    let (machine, bucket) = filled(keys);
    let kv = Counting::new(machine.kv.view());
    let query = query("", Some("/"), "0100/", 100);
    let page = View::new(&kv, machine.revision).list(&list(&bucket.name), &query, None).unwrap();
    assert_eq!((page.entries.len(), page.truncated), (100, true));
    assert_eq!((page.entries[0].marker(), page.entries[99].marker()), ("0101/", "0200/"));
    let (seeks, rows) = kv.costs();
    assert!(seeks <= 105 && rows <= 103, "{seeks} seeks, {rows} rows");
}

#[test]
fn an_object_is_found_in_three_point_reads() {
    let (machine, bucket) = filled((0..1000).map(|number| format!("key/{number:06}")));
    let kv = Counting::new(machine.kv.view());
    View::new(&kv, machine.revision).find(&read(&bucket.name, "key/000500"), None, None).unwrap();
    assert_eq!(kv.costs(), (3, 0));
}

/// Lists in pages of every size and compares each walk with the same expectation.
fn check(keys: &[&str], prefix: &str, delimiter: Option<&str>, after: &str, expected: &[&str]) {
    let (machine, bucket) = filled(keys.iter().map(|key| (*key).to_owned()));
    let rows = machine.kv.view();
    let view = View::new(&rows, machine.revision);
    let versions = permit(Action::ListBucketVersions, Resource::Bucket(bucket.name.clone()));
    for limit in 1..=expected.len() + 1 {
        for of_versions in [false, true] {
            let mut query = query(prefix, delimiter, after, limit);
            let mut listed: Vec<String> = Vec::new();
            loop {
                let (page, truncated) = if of_versions {
                    let page = view.list_versions(&versions, &query, None).unwrap();
                    (page.entries.iter().map(|entry| entry.marker().to_owned()).collect::<Vec<_>>(), page.truncated)
                } else {
                    let page = view.list(&list(&bucket.name), &query, None).unwrap();
                    (page.entries.iter().map(|entry| entry.marker().to_owned()).collect(), page.truncated)
                };
                assert!(page.len() == limit || !truncated);
                listed.extend(page);
                if !truncated {
                    break;
                }
                query.after = listed.last().unwrap().clone();
            }
            assert_eq!(listed, expected, "{prefix:?} {delimiter:?} after {after:?}, {limit} a page, {of_versions}");
        }
    }
}

#[test]
fn corners_of_listings() {
    let keys = ["a", "a/", "a/b", "a/b/c", "a//", "ab", "b", "c/"];
    check(&keys, "", None, "", &["a", "a/", "a//", "a/b", "a/b/c", "ab", "b", "c/"]);
    check(&keys, "", Some("/"), "", &["a", "a/", "ab", "b", "c/"]);
    // The prefix is a key; the prefix ends with the delimiter.
    check(&keys, "a", Some("/"), "", &["a", "a/", "ab"]);
    check(&keys, "a/", Some("/"), "", &["a/", "a//", "a/b", "a/b/"]);
    // The prefix is the delimiter, and nothing begins with it.
    check(&keys, "/", Some("/"), "", &[]);
    check(&["/", "//", "/a/b", "x"], "/", Some("/"), "", &["/", "//", "/a/"]);
    // Markers: a key, a common prefix, within a common prefix, past all, not there.
    check(&keys, "", Some("/"), "a", &["a/", "ab", "b", "c/"]);
    check(&keys, "", Some("/"), "a/", &["ab", "b", "c/"]);
    check(&keys, "", Some("/"), "a/b", &["ab", "b", "c/"]);
    check(&keys, "", Some("/"), "zzz", &[]);
    check(&keys, "", Some("/"), "aa", &["ab", "b", "c/"]);
    check(&keys, "a/", None, "", &["a/", "a//", "a/b", "a/b/c"]);
    // A marker before or after the whole prefix.
    check(&keys, "b", None, "a/b", &["b"]);
    check(&keys, "a/", None, "b", &[]);
    // Delimiters of several characters, and of several bytes.
    check(&["a--b", "a--c", "a-b", "a---"], "", Some("--"), "", &["a--", "a-b"]);
    check(&["aébc", "aéz", "aê"], "", Some("é"), "", &["aé", "aê"]);
    check(&["aébc", "aéz", "aê"], "a", Some("é"), "aé", &["aê"]);
    // A delimiter that is the end of a key, or all of it.
    check(&["dir/", "dir/x", "dir"], "", Some("dir/"), "", &["dir", "dir/"]);
    check(&keys, "", Some(""), "", &["a", "a/", "a//", "a/b", "a/b/c", "ab", "b", "c/"]);
}

#[test]
fn corners_of_keys() {
    // Keys that extend each other by zero bytes, and a zero byte as the delimiter.
    let zeros = ["a", "a\0", "a\0\0", "a\0b", "a\u{1}", "ab", "\0", "\0a"];
    check(&zeros, "", None, "", &["\0", "\0a", "a", "a\0", "a\0\0", "a\0b", "a\u{1}", "ab"]);
    check(&zeros, "", Some("\0"), "", &["\0", "a", "a\0", "a\u{1}", "ab"]);
    check(&zeros, "a\0", None, "", &["a\0", "a\0\0", "a\0b"]);
    check(&zeros, "a\0", Some("\0"), "", &["a\0", "a\0\0", "a\0b"]);
    check(&zeros, "", None, "a\0", &["a\0\0", "a\0b", "a\u{1}", "ab"]);
    check(&zeros, "a", Some("\0"), "a\0", &["a\u{1}", "ab"]);
    // The largest code point, whose bytes are the largest that a key has.
    let high = ["\u{10ffff}", "\u{10ffff}\u{10ffff}", "\u{10ffff}/a", "\u{ffff}", "\u{e000}", "\u{d7ff}"];
    check(
        &high,
        "",
        None,
        "",
        &["\u{d7ff}", "\u{e000}", "\u{ffff}", "\u{10ffff}", "\u{10ffff}/a", "\u{10ffff}\u{10ffff}"],
    );
    check(&high, "", Some("\u{10ffff}"), "", &["\u{d7ff}", "\u{e000}", "\u{ffff}", "\u{10ffff}"]);
    check(&high, "\u{10ffff}", Some("/"), "", &["\u{10ffff}", "\u{10ffff}/", "\u{10ffff}\u{10ffff}"]);
    // A prefix that ends within what would be one letter to a person, not to bytes.
    check(&["e\u{301}", "é", "e"], "e", None, "", &["e", "e\u{301}"]);
    let long = "k".repeat(1024);
    check(&[&long, &long[1..]], &long[2..], None, "", &[&long[1..], &long]);
}

#[test]
fn a_marker_of_a_version_that_is_gone_continues_below_it() {
    for null in [false, true] {
        let mut machine = Machine::new();
        let bucket = machine.create_bucket("abc");
        machine.set_versioning(&bucket, true);
        let mut written: Vec<VersionId> = (0..2).map(|size| machine.put(&bucket, "k", size).version.unwrap()).collect();
        machine.set_versioning(&bucket, !null);
        written.push(machine.put(&bucket, "k", 7).version.unwrap());
        machine.set_versioning(&bucket, true);
        written.push(machine.put(&bucket, "k", 8).version.unwrap());
        machine.delete(&bucket, "k", Some(written[2]));
        let rows = machine.kv.view();
        let versions = permit(Action::ListBucketVersions, Resource::Bucket(bucket.name.clone()));
        let query = query("", None, "k", 10);
        let page = View::new(&rows, machine.revision).list_versions(&versions, &query, Some(written[2])).unwrap();
        let ids: Vec<VersionId> = page
            .entries
            .iter()
            .map(|entry| match entry {
                Entry::Item(_, version) => version.version_id(),
                Entry::Prefix(_) => panic!("a prefix without a delimiter"),
            })
            .collect();
        assert_eq!(ids, [written[1], written[0]], "null: {null}");
    }
}
