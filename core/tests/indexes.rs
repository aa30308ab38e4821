//! Indexes against a full scan: after every step of long random histories, with entries in the state, in runs or in both, an
//! index names exactly the rows that a scan finds, and every object that nobody has read yet. Then each promise by itself.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // The number of seeds is a setting of the run.

mod support;

#[path = "indexes/runs.rs"]
mod runs;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use holdfast_core::command::*;
use holdfast_core::error::Error;
use holdfast_core::id::ObjectKey;
use holdfast_core::index::row::{BlockRow, Entry};
use holdfast_core::index::*;
use holdfast_core::keyspace::Keyspace;
use holdfast_core::kv::Kv as _;
use holdfast_core::list::Query;
use holdfast_core::record::{Attributes, BucketSettings, OnParseError};
use holdfast_core::rules::authorize::{Action, Caller, Context, Permit, Resource, authorize};
use holdfast_core::view::{Bucket, View};
use support::{Dice, Machine, list, read, source, target};

const KEYS: [&str; 9] = ["a/1", "a/2", "a/3", "a/b/1", "a/b/2", "b/1", "b/2", "c", "a"];

/// The content of the tests' objects is in their metadata: numbers, each a row of ten bytes; `!` does not parse.
fn rows_of(text: &str) -> Result<Vec<Entry>, ()> {
    if text.starts_with('!') {
        return Err(());
    }
    let numbers = text.split(',').filter(|number| !number.is_empty());
    let row = |(at, number): (usize, &str)| {
        let mut tuple = Vec::new();
        Value::canonical(number).encode(&mut tuple);
        Entry { tuple, offset: at as u64 * 10, length: 10 }
    };
    Ok(numbers.enumerate().map(row).collect())
}

fn outcome_of(text: &str) -> Outcome {
    match rows_of(text) {
        Ok(rows) => Outcome::Rows(rows),
        Err(()) => Outcome::Unparsed(format!("it is {text}")),
    }
}

fn blocks_of(text: &str) -> Outcome {
    let Ok(rows) = rows_of(text) else { return outcome_of(text) };
    let block = |rows: &[Entry]| {
        let tuples: BTreeSet<&[u8]> = rows.iter().map(|row| &row.tuple[..]).collect();
        BlockRow {
            offset: rows[0].offset,
            length: 10 * rows.len() as u64,
            low: tuples.first().unwrap().to_vec(),
            high: tuples.last().unwrap().to_vec(),
            bloom: bloom::build(&tuples.iter().map(|tuple| bloom::hash(tuple)).collect()),
        }
    };
    Outcome::Blocks(rows.chunks(2).map(block).collect())
}

fn maintain() -> Permit {
    authorize(Caller::System, Action::Maintain, Resource::Service, &Context::default()).unwrap()
}

struct World {
    machine: Machine,
    bucket: BucketRef,
    dice: Dice,
    store: runs::Store,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut machine = Machine::new();
        let bucket = machine.create_bucket("abc");
        Self { machine, bucket, dice: Dice::new(seed), store: runs::Store::default() }
    }

    fn with<T>(&self, look: impl FnOnce(&View<'_>, &Bucket) -> T) -> T {
        let rows = self.machine.kv.view();
        let view = View::new(&rows, self.machine.revision);
        let bucket = view.bucket(&list(&self.bucket.name)).unwrap();
        look(&view, &bucket)
    }

    fn indexes(&self) -> Vec<IndexInfo> {
        self.with(|view, bucket| view.indexes(bucket).unwrap())
    }

    fn index(&self, name: &str) -> IndexInfo {
        self.indexes().into_iter().find(|index| index.name == name).unwrap()
    }

    fn create(&mut self, name: &str, prefix: &str, kind: IndexKind, unique: bool, what: &[Expression]) -> Reply {
        self.machine.run(Op::CreateIndex(CreateIndex {
            bucket: self.bucket.clone(),
            name: name.into(),
            prefix: prefix.into(),
            kind,
            unique,
            expressions: what.to_vec(),
        }))
    }

    /// A put as a node does it: what is in the content goes with it, unless `blind`.
    fn put(&mut self, key: &str, numbers: &str, tenant: &str, blind: bool) -> Reply {
        let attributes = Attributes {
            metadata: BTreeMap::from([("n".into(), numbers.into())]),
            tags: BTreeMap::from([("t".into(), tenant.into())]),
            ..Attributes::default()
        };
        let content = self.machine.content(40);
        let nonce = self.machine.blob_id();
        let target = target(&self.bucket, key);
        let mut command = self.machine.command(Op::PutObject(PutObject { target, content, attributes, nonce }));
        if !blind {
            let key: ObjectKey = key.parse().unwrap();
            let wanted = self.with(|view, bucket| view.indexes_of_content(bucket, &key).unwrap());
            let of = |index: ContentIndex| Extracted { index: index.id, outcome: outcome_of(numbers) };
            command.extracted = Some(wanted.into_iter().map(of).collect());
        }
        self.machine.apply(&command).reply
    }

    fn numbers(&self, key: &str) -> String {
        let found = self.machine.find(&self.bucket, key, None);
        found.row.version.unwrap().attributes.metadata["n"].clone()
    }

    fn names(&self) -> Vec<String> {
        self.with(|view, bucket| {
            let query = Query { prefix: String::new(), delimiter: None, after: String::new(), limit: 1000 };
            let page = view.list(&list(&bucket.name), &query, None).unwrap();
            page.entries.iter().map(|entry| entry.marker().to_owned()).collect()
        })
    }

    /// What a job does: builds, drains, trims.
    fn work(&mut self, once: bool) {
        for index in self.indexes() {
            while let Some(op) = self.job_of(&index.name) {
                if once && self.dice.once_in(2) {
                    // What was read is overtaken, and so is what there was to read.
                    let (key, numbers) = (*self.dice.pick(&KEYS), *self.dice.pick(&["1,2,3", "7", "!"]));
                    self.put(key, numbers, "x", self.dice.clone().once_in(2));
                }
                assert_eq!(self.machine.run(Op::IndexObjects(op)), Reply::Done);
                if once {
                    break;
                }
            }
        }
        while !once && self.with(|view, _| view.has_index_garbage(&maintain()).unwrap()) {
            self.machine.run(Op::TrimIndexes(TrimIndexes { rows: 3 }));
        }
    }

    fn job_of(&mut self, name: &str) -> Option<IndexObjects> {
        let index = self.index(name);
        let (cursor, keys) = match &index.state {
            IndexState::Failed(_) => return None,
            IndexState::Building(cursor) => {
                let behind = self.names().into_iter().filter(|key| key.starts_with(&index.prefix) && key > cursor);
                (Some(cursor.clone()), behind.take(2).collect::<Vec<_>>())
            }
            IndexState::Ready => {
                let pending = self.with(|view, _| view.pending_of_index(&maintain(), &index, None, 2).unwrap());
                (None, pending.iter().map(|key| key.as_str().to_owned()).collect())
            }
        };
        if cursor.is_none() && keys.is_empty() {
            return None;
        }
        let next = cursor.as_ref().and_then(|_| (keys.len() == 2).then(|| keys[1].clone()));
        let only_content = index.expressions.iter().all(Expression::of_content);
        let blocks = !index.unique && only_content && self.dice.once_in(3);
        let objects = keys.iter().map(|key| {
            let numbers = self.numbers(key);
            let outcome = if blocks { blocks_of(&numbers) } else { outcome_of(&numbers) };
            let place = self.machine.find(&self.bucket, key, None).place;
            ReadObject { key: key.parse().unwrap(), place, outcome, generation: None }
        });
        let objects = objects.collect();
        let bucket = self.bucket.clone();
        Some(IndexObjects { bucket, name: name.into(), index: index.id, objects, cursor, next })
    }

    fn search(&self, index: &IndexInfo, wanted: &[Constraint<'_>]) -> Found {
        let intervals = intervals(wanted).unwrap();
        self.with(|view, bucket| {
            let permit = list(&bucket.name);
            let lookup = Lookup { index, prefix: &index.prefix, intervals: &intervals, rows_max: 10_000 };
            let from_runs = self.store.seek(&view.runs_of_index(&permit, index.id).unwrap(), index, &intervals);
            view.search(&permit, bucket, &lookup, &from_runs).unwrap().unwrap()
        })
    }

    /// The index names exactly the rows between `low` and `high` of the objects that it has read, and the others whole.
    fn check_numbers(&self, index: &IndexInfo, low: i64, high: i64) {
        let between = |low, high| {
            Constraint::Between(
                Class::Number,
                Bound::Included(Value::Integer(low)),
                Bound::Included(Value::Integer(high)),
            )
        };
        let point = index.kind == IndexKind::Hash;
        let wanted = if point { Constraint::Equal(vec![Value::Integer(low)]) } else { between(low, high) };
        let high = if point { low } else { high };
        let found = self.search(index, &[wanted]);
        let rows: BTreeMap<&str, &FoundObject> =
            found.rows.iter().map(|object| (object.key.as_str(), object)).collect();
        let blocks: BTreeMap<&str, &FoundObject> =
            found.blocks.iter().map(|object| (object.key.as_str(), object)).collect();
        let whole: BTreeSet<&str> = found.whole.iter().map(ObjectKey::as_str).collect();
        for name in self.names() {
            let name = name.as_str();
            let lists = usize::from(rows.contains_key(name))
                + usize::from(blocks.contains_key(name))
                + usize::from(whole.contains(name));
            if !name.starts_with(&index.prefix) {
                assert_eq!(lists, 0, "{name} is not under {}", index.prefix);
                continue;
            }
            assert!(lists <= 1, "{name} stands in {lists} lists");
            let text = self.numbers(name);
            let Ok(all) = rows_of(&text) else {
                assert!(whole.contains(name), "{name} did not parse");
                continue;
            };
            let numbers = text.split(',').filter_map(|number| number.parse::<i64>().ok());
            let matches = numbers.zip(&all).filter(|(number, _)| (low..=high).contains(number));
            let ranges: Vec<_> = matches.map(|(_, row)| row.offset..row.offset + 10).collect();
            if let Some(found) = rows.get(name) {
                assert_eq!(found.ranges, ranges, "{name} holds {text}");
                assert_eq!(found.place, self.machine.find(&self.bucket, name, None).place);
            } else if let Some(found) = blocks.get(name) {
                let covered = |row: &std::ops::Range<u64>| {
                    found.ranges.iter().any(|block| block.start <= row.start && row.end <= block.end)
                };
                assert!(ranges.iter().all(covered), "{name} holds {text}");
            } else {
                assert!(whole.contains(name) || ranges.is_empty(), "{name} holds {text} and was not found");
            }
        }
        let names: BTreeSet<String> = self.names().into_iter().collect();
        let gone = rows.keys().chain(blocks.keys()).chain(whole.iter()).find(|key| !names.contains(**key));
        assert_eq!(gone, None, "an index names what is gone");
    }

    fn check_tenant(&self, index: &IndexInfo, tenant: &str) {
        let found = self.search(index, &[Constraint::Equal(vec![Value::canonical(tenant)])]);
        let found: BTreeSet<&str> =
            found.rows.iter().map(|object| &object.key).chain(&found.whole).map(ObjectKey::as_str).collect();
        let has = |name: &&String| {
            let version = self.machine.find(&self.bucket, name, None).row.version.unwrap();
            name.starts_with(&index.prefix) && version.attributes.tags.get("t").is_some_and(|t| t == tenant)
        };
        let names = self.names();
        let expected: BTreeSet<&str> = names.iter().filter(has).map(String::as_str).collect();
        if index.state == IndexState::Ready {
            assert_eq!(found, expected, "objects of {tenant}");
        } else {
            assert!(found.is_superset(&expected));
        }
    }

    fn step(&mut self) {
        let (key, other) = (*self.dice.pick(&KEYS), *self.dice.pick(&KEYS));
        let numbers = ["", "1", "7", "1,2,3", "5,5,9,4,2", "!", "3,8"][self.dice.below(7) as usize];
        let tenant = *self.dice.pick(&["x", "y", "10"]);
        match self.dice.below(16) {
            0..=4 => {
                let blind = self.dice.once_in(4);
                self.put(key, numbers, tenant, blind);
            }
            5 => {
                let version = self.version_of(key);
                self.machine.delete(&self.bucket.clone(), key, version);
            }
            6 => {
                let nonce = self.machine.blob_id();
                let (source, target) = (source(&self.bucket, key), target(&self.bucket, other));
                let copy = CopyObject { source, target, attributes: None, tags: None, checksum: None, nonce };
                self.machine.run(Op::CopyObject(copy));
            }
            7 => {
                let nonce = self.machine.blob_id();
                let (source, target) = (source(&self.bucket, key), target(&self.bucket, other));
                self.machine.run(Op::RenameObject(RenameObject { source, target, prefix: false, nonce }));
            }
            8 => {
                let nonce = self.machine.blob_id();
                let (source, target) = (source(&self.bucket, "a/b/"), target(&self.bucket, "b/x/"));
                self.machine.run(Op::RenameObject(RenameObject { source, target, prefix: true, nonce }));
            }
            9 => {
                let tags = BTreeMap::from([("t".into(), tenant.into())]);
                let op = SetTags { bucket: self.bucket.clone(), key: key.parse().unwrap(), version: None, tags };
                self.machine.run(Op::SetTags(op));
            }
            10..=13 => self.run_step(),
            14 if self.dice.once_in(8) => {
                let enabled = self.dice.once_in(2);
                self.machine.set_versioning(&self.bucket.clone(), enabled);
            }
            _ => self.work(true),
        }
    }

    /// Now and then the newest version of a key, so that the one below becomes the latest.
    fn version_of(&mut self, key: &str) -> Option<holdfast_core::id::VersionId> {
        if self.dice.once_in(2) || !self.names().iter().any(|name| name == key) {
            return None;
        }
        let found = self.machine.find(&self.bucket, key, None);
        Some(found.row.version_id(found.place))
    }

    fn check(&mut self) {
        for index in self.indexes() {
            match index.expressions[0] {
                Expression::Tag(_) => {
                    let tenant: &str = ["x", "y", "10"][self.dice.below(3) as usize];
                    self.check_tenant(&index, tenant);
                }
                _ => {
                    let low = self.dice.below(10) as i64;
                    self.check_numbers(&index, low, low + 3);
                }
            }
        }
    }
}

fn field() -> Expression {
    Expression::Field(vec![Step::Name("n".into())])
}

fn tenant() -> Expression {
    Expression::Tag("t".into())
}

#[test]
fn an_index_names_what_a_scan_finds() {
    let seeds = std::env::var("HOLDFAST_MODEL_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(60);
    let mut done = runs::Done::default();
    for seed in 0..seeds {
        let mut world = World::new(seed);
        for step in 0..120 {
            match step {
                10 => drop(world.create("tree", "a/", IndexKind::BTree, false, &[field()])),
                20 => drop(world.create("hash", "", IndexKind::Hash, false, &[field()])),
                30 => drop(world.create("tenants", "", IndexKind::BTree, false, &[tenant()])),
                _ => {}
            }
            world.step();
            world.check();
            world.check_counts(seed);
        }
        world.finish_runs();
        world.work(false);
        world.check();
        world.check_counts(seed);
        for index in world.indexes() {
            assert_eq!((&index.state, index.pending), (&IndexState::Ready, 0), "seed {seed}");
        }
        done.add(&world);
        ends_empty(world, seed);
    }
    done.check(seeds);
}

/// When the indexes are dropped, or the objects deleted, no row is left.
fn ends_empty(mut world: World, seed: u64) {
    let rows = |world: &World| world.machine.rows().iter().filter(|row| row.0 == Keyspace::Indexes).count();
    if u64::is_multiple_of(seed, 2) {
        for index in world.indexes() {
            let op = DropIndex { bucket: world.bucket.clone(), name: index.name };
            assert_eq!(world.machine.run(Op::DropIndex(op)), Reply::Done);
        }
        world.work(false);
        world.collect_runs();
        assert_eq!(rows(&world), 0, "seed {seed}");
        assert!(world.store.files.is_empty(), "seed {seed}: dropped indexes lose their runs");
        return;
    }
    for name in world.names() {
        world.machine.delete(&world.bucket.clone(), &name, None);
    }
    world.work(false);
    world.merge_all();
    world.collect_runs();
    let indexes = world.indexes();
    assert_eq!(rows(&world), 2 * indexes.len(), "seed {seed}: only definitions and counts are left");
    for index in indexes {
        let counts = (index.objects, index.entries, index.pending, index.unparsed, index.bytes);
        assert_eq!(counts, (0, 0, 0, 0, 0), "seed {seed}");
        assert_eq!((index.block_bytes, index.runs, index.run_bytes), (0, 0, 0), "seed {seed}");
    }
}

fn refused(reply: Reply) -> Error {
    match reply {
        Reply::Refused(error) => error,
        other => panic!("{other:?}"),
    }
}

fn duplicate(index: &str) -> Error {
    Error::DuplicateValue { index: index.into() }
}

#[test]
fn a_unique_index_refuses_a_duplicate_and_stores_nothing() {
    for kind in [IndexKind::BTree, IndexKind::Hash] {
        let mut world = World::new(1);
        world.create("unique", "a/", kind, true, &[field()]);
        assert!(matches!(world.put("a/1", "1,2", "x", false), Reply::Written(_)));
        let before = world.machine.rows().len();
        assert_eq!(refused(world.put("a/2", "2", "x", false)), duplicate("unique"));
        assert_eq!(world.machine.rows().len(), before + 1, "only the reply is stored");
        assert_eq!(refused(world.put("a/2", "7,7", "x", false)), duplicate("unique"), "within an object, too");
        assert!(matches!(world.put("a/1", "2,1", "x", false), Reply::Written(_)), "an object may keep its own values");
        assert!(matches!(world.put("b/1", "2", "x", false), Reply::Written(_)), "other partitions are not looked at");
        assert_eq!(refused(world.put("a/3", "9", "x", true)), Error::Changed, "a write must bring what it holds");
        let big = "9007199254740993";
        assert!(matches!(world.put("a/4", big, "x", false), Reply::Written(_)));
        assert!(matches!(world.put("a/5", "9007199254740992", "x", false), Reply::Written(_)), "integers are exact");
        let nonce = world.machine.blob_id();
        let (from, to) = (source(&world.bucket, "a/4"), target(&world.bucket, "a/6"));
        let copy = CopyObject { source: from, target: to, attributes: None, tags: None, checksum: None, nonce };
        assert_eq!(refused(world.machine.run(Op::CopyObject(copy))), duplicate("unique"));
        let (from, to) = (source(&world.bucket, "a/4"), target(&world.bucket, "a/7"));
        let rename = RenameObject { source: from, target: to, prefix: false, nonce };
        assert_eq!(world.machine.run(Op::RenameObject(rename)), Reply::Renamed(1));
        assert_eq!(refused(world.put("a/4", big, "x", false)), duplicate("unique"), "its values went along");
        world.machine.delete(&world.bucket.clone(), "a/7", None);
        assert!(matches!(world.put("a/4", big, "x", false), Reply::Written(_)), "and are free again");
    }
}

#[test]
fn a_unique_index_is_not_built_over_duplicates() {
    let mut world = World::new(1);
    world.put("a/1", "1", "x", true);
    world.put("a/2", "1", "x", true);
    world.create("unique", "a/", IndexKind::BTree, true, &[field()]);
    world.work(false);
    assert_eq!(world.index("unique").state, IndexState::Failed(duplicate("unique").to_string()));
    assert!(matches!(world.put("a/3", "1", "x", true), Reply::Written(_)), "a failed index is in nobody's way");
    let intervals = intervals(&[Constraint::Equal(vec![Value::Integer(1)])]).unwrap();
    let index = world.index("unique");
    let lookup = Lookup { index: &index, prefix: "a/", intervals: &intervals, rows_max: 100 };
    let found = world.with(|view, bucket| view.search(&list(&bucket.name), bucket, &lookup, &[]).unwrap());
    assert_eq!(found, None, "and answers nothing");
}

#[test]
fn the_reason_why_content_does_not_parse_is_kept_to_its_bound_in_bytes() {
    let mut world = World::new(1);
    world.create("tree", "", IndexKind::BTree, false, &[field()]);
    let mut check = |text: &str, bytes: usize| {
        assert!(matches!(world.put("a/1", text, "x", false), Reply::Written(_)));
        let index = world.index("tree");
        let kept = world.with(|view, bucket| view.unparsed_of_index(&list(&bucket.name), &index, 10).unwrap());
        assert_eq!(kept[0].why, format!("it is {text}")[..bytes]);
    };
    check("!", 7);
    check(&format!("!{}", "x".repeat(400)), REASON_BYTES_MAX);
    // 7 bytes, then 3 each: 97 of them fit and leave 2 bytes.
    check(&format!("!{}", "日".repeat(120)), REASON_BYTES_MAX - 2);
}

#[test]
fn a_strict_bucket_refuses_what_does_not_parse() {
    let mut world = World::new(1);
    world.create("tree", "", IndexKind::BTree, false, &[field()]);
    assert!(matches!(world.put("a/1", "!", "x", false), Reply::Written(_)));
    assert_eq!(world.index("tree").unparsed, 1);
    let settings = BucketSettings { on_parse_error: Some(OnParseError::Strict), ..BucketSettings::default() };
    world.machine.run(Op::SetSettings(SetSettings { bucket: world.bucket.clone(), settings }));
    let why = Error::Unparsed { index: "tree".into(), why: "it is !".into() };
    assert_eq!(refused(world.put("a/2", "!", "x", false)), why);
    assert!(world.names().iter().all(|name| name != "a/2"));
    assert!(matches!(world.put("a/1", "1", "x", false), Reply::Written(_)));
    assert_eq!(world.index("tree").unparsed, 0);
    // A gateway that has not heard of the index has read nothing for it.
    assert_eq!(refused(world.put("a/3", "!", "x", true)), Error::Changed);
}

#[test]
fn a_search_that_finds_too_much_says_so() {
    let mut world = World::new(1);
    world.create("tree", "", IndexKind::BTree, false, &[field()]);
    for key in KEYS {
        world.put(key, "1,2,3", "x", false);
    }
    let index = world.index("tree");
    let intervals = intervals(&[Constraint::Equal(vec![Value::Integer(1)])]).unwrap();
    let lookup = |rows_max| Lookup { index: &index, prefix: "", intervals: &intervals, rows_max };
    let search =
        |most| world.with(|view, bucket| view.search(&list(&bucket.name), bucket, &lookup(most), &[]).unwrap());
    assert_eq!(search(KEYS.len()).unwrap().rows.len(), KEYS.len());
    assert_eq!(search(KEYS.len() - 1), None);
    assert!(world.with(|view, bucket| { view.search(&read(&bucket.name, "a"), bucket, &lookup(10), &[]).is_err() }));
}

#[test]
fn an_index_on_several_expressions_finds_by_the_first_ones() {
    let mut world = World::new(1);
    world.create("both", "", IndexKind::BTree, false, &[tenant(), field()]);
    world.put("a/1", "1,2,3", "x", false);
    world.put("a/2", "2", "y", false);
    let index = world.index("both");
    let x = || Constraint::Equal(vec![Value::Text("x")]);
    assert_eq!(world.search(&index, &[x()]).rows[0].ranges.len(), 3);
    let found = world.search(&index, &[x(), Constraint::Equal(vec![Value::Integer(2)])]);
    assert_eq!((found.rows.len(), found.rows[0].ranges.len()), (1, 1));
    assert_eq!(found.rows[0].ranges[0], 10..20);
    let tags = BTreeMap::from([("t".into(), "y".into())]);
    let op = SetTags { bucket: world.bucket.clone(), key: "a/1".parse().unwrap(), version: None, tags };
    world.machine.run(Op::SetTags(op));
    assert!(world.search(&index, &[x()]).rows.is_empty());
    let y = [Constraint::Equal(vec![Value::Text("y")]), Constraint::Equal(vec![Value::Integer(2)])];
    assert_eq!(world.search(&index, &y).rows.len(), 2, "new tags move the entries, the content is not read again");
}

#[test]
fn what_is_no_index_is_refused() {
    let mut world = World::new(1);
    let mut check = |name: &str, prefix: &str, what: &[Expression]| {
        assert!(
            matches!(world.create(name, prefix, IndexKind::BTree, false, what), Reply::Refused(_)),
            "{name} {prefix}"
        );
    };
    check("", "", &[field()]);
    check("a/b", "", &[field()]);
    check("a\n", "", &[field()]);
    check(&"a".repeat(129), "", &[field()]);
    check("a", "no-slash", &[field()]);
    check("a", "", &[]);
    check("a", "", &[field(), field()]);
    check("a", "", &[Expression::KeyPart(0)]);
    check("a", "", &[Expression::Tag(String::new())]);
    check("a", "", &[Expression::Field(vec![])]);
    check("a", "", &(1..10).map(Expression::KeyPart).collect::<Vec<_>>());
    assert_eq!(world.create("a", "", IndexKind::BTree, false, &[field()]), Reply::Done);
    assert_eq!(refused(world.create("a", "", IndexKind::Hash, false, &[field()])), Error::IndexExists);
    let op = DropIndex { bucket: world.bucket.clone(), name: "b".into() };
    assert_eq!(refused(world.machine.run(Op::DropIndex(op))), Error::NoSuchIndex);
}

#[test]
fn a_bucket_takes_its_indexes_along() {
    let mut world = World::new(1);
    world.create("a", "", IndexKind::BTree, false, &[field()]);
    world.put("a", "1", "x", false);
    world.machine.delete(&world.bucket.clone(), "a", None);
    assert_eq!(world.machine.run(Op::DeleteBucket(world.bucket.clone())), Reply::Done);
    while matches!(world.machine.run(Op::TrimIndexes(TrimIndexes { rows: 10 })), Reply::Trimmed { more: true, .. }) {}
    assert!(world.machine.rows().iter().all(|row| row.0 != Keyspace::Indexes));
}
