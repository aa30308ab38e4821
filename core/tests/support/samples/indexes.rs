//! Samples of indexes.

use holdfast_core::command::*;
use holdfast_core::error::Error;
use holdfast_core::index::row::*;
use holdfast_core::index::{Expression, IndexKind, IndexState, Step};
use holdfast_core::keyspace::key::index as key;

use super::{PLACE, Sample, bucket, sample};

const POSTING: Posting = Posting { revision: 258, ordinal: 3 };

fn expressions() -> Vec<Expression> {
    vec![
        Expression::Key,
        Expression::KeyPart(2),
        Expression::Size,
        Expression::LastModified,
        Expression::Etag,
        Expression::ContentType,
        Expression::Metadata("colour".into()),
        Expression::Field(vec![Step::Name("items".into()), Step::Element(3)]),
    ]
}

fn entry() -> Entry {
    Entry { tuple: vec![2, 1], offset: 300, length: 40 }
}

fn block() -> BlockRow {
    BlockRow { offset: 300, length: 70_000, low: vec![2, 0], high: vec![2, 1], bloom: vec![0x80, 1] }
}

pub fn records() -> Vec<Sample> {
    let index = IndexRow {
        id: 258,
        prefix: "logs/".into(),
        kind: IndexKind::BTree,
        unique: false,
        expressions: expressions(),
        state: IndexState::Ready,
        created_ms: 1_700_000_000_000,
    };
    let counts = IndexCountsRow {
        objects: 10,
        entries: 300,
        pending: 2,
        unparsed: 1,
        bytes: 70_000,
        block_bytes: Some(2_000),
        runs: Some(3),
        run_bytes: Some(90_000),
    };
    let counts_plain = IndexCountsRow { block_bytes: None, runs: None, run_bytes: None, ..counts.clone() };
    let building = IndexRow {
        kind: IndexKind::Hash,
        unique: true,
        expressions: vec![Expression::Tag("tenant".into())],
        state: IndexState::Building("logs/7".into()),
        ..index.clone()
    };
    let failed = IndexRow { state: IndexState::Failed("something".into()), ..building.clone() };
    let object =
        ObjectIndexRow { place: PLACE, known: Known::Rows, posting: Some(POSTING), entries: 7, bytes: Some(300) };
    let object_plain = ObjectIndexRow { bytes: None, ..object.clone() };
    let run = RunRow {
        path: "indexes/abc/logs/by-city.0000000000000258.btree".into(),
        state: RunState::Live,
        through: 257,
        bytes: 90_000,
        entries: 300,
        fences_at: 89_000,
        trimmed: true,
    };
    let condemned = CondemnedRunRow { path: run.path.clone(), state: RunState::Writing };
    vec![
        sample("record-index", index),
        sample("record-index-building-plain", building),
        sample("record-index-failed-plain", failed),
        sample("record-index-counts", counts),
        sample("record-index-counts-plain", counts_plain),
        sample("record-index-posting", PostingRow { key: "logs/7".into(), place: PLACE }),
        sample("record-index-entries", EntriesRow { entries: vec![entry()], blocks: 0 }),
        sample("record-index-object", object),
        sample("record-index-object-plain", object_plain.clone()),
        sample(
            "record-index-object-aside-plain",
            ObjectIndexRow { known: Known::Pending, posting: None, entries: 0, ..object_plain },
        ),
        sample("record-index-block", block()),
        sample("record-index-run", run),
        sample("record-index-condemned-run", condemned),
    ]
}

pub fn keys() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("key-index", key::definition(holdfast_core::id::BucketId(5), "by-city")),
        ("key-index-counts", key::counts(258)),
        ("key-index-entry", key::entry(258, &[2, 1], POSTING, 4)),
        ("key-index-posting", key::posting(258, POSTING)),
        ("key-index-entries", key::entries_of(258, POSTING)),
        ("key-index-object", key::object(258, "logs/7")),
        ("key-index-pending", key::aside(258, false, "logs/7")),
        ("key-index-unparsed", key::aside(258, true, "logs/7")),
        ("key-index-block", key::block(258, POSTING, 4)),
        ("key-index-garbage", key::garbage(258, POSTING)),
        ("key-index-dropped", key::dropped(258)),
        ("key-index-run", key::run(258, 260)),
        ("key-index-condemned-run", key::condemned_run(262, 258, 260)),
    ]
}

pub fn ops() -> Vec<(&'static str, Op)> {
    let create = CreateIndex {
        bucket: bucket(),
        name: "by-city".into(),
        prefix: "logs/".into(),
        kind: IndexKind::BTree,
        unique: true,
        expressions: expressions(),
    };
    let read = |outcome| ReadObject { key: "logs/7".parse().unwrap(), place: PLACE, outcome, generation: None };
    let objects = IndexObjects {
        bucket: bucket(),
        name: "by-city".into(),
        index: 258,
        objects: outcomes().into_iter().map(read).collect(),
        cursor: Some("logs/6".into()),
        next: Some("logs/7".into()),
    };
    let of_patched = |object: &ReadObject| ReadObject { generation: Some(300), ..object.clone() };
    let patched = IndexObjects { objects: objects.objects.iter().map(of_patched).collect(), ..objects.clone() };
    let plain = IndexObjects { cursor: None, next: None, ..objects.clone() };
    vec![
        ("create-index", Op::CreateIndex(create)),
        ("drop-index", Op::DropIndex(DropIndex { bucket: bucket(), name: "by-city".into() })),
        ("index-objects", Op::IndexObjects(objects)),
        ("index-objects-patched", Op::IndexObjects(patched)),
        ("index-objects-plain", Op::IndexObjects(plain)),
        ("trim-indexes", Op::TrimIndexes(TrimIndexes { rows: 1000 })),
    ]
    .into_iter()
    .chain(run_ops())
    .collect()
}

fn run_ops() -> Vec<(&'static str, Op)> {
    let (name, index) = ("by-city".to_owned(), 258);
    let begin = BeginRun { bucket: bucket(), name: name.clone(), index };
    let written = WrittenRun { through: 261, bytes: 90_000, entries: 300, fences_at: 89_000 };
    let add = AddRun {
        bucket: bucket(),
        name: name.clone(),
        index,
        run: 260,
        replaces: vec![258, 259],
        written: Some(written),
    };
    let give_up = AddRun { replaces: Vec::new(), written: None, ..add.clone() };
    let demote =
        DemoteEntries { bucket: bucket(), name: name.clone(), index, postings: vec![POSTING], trimmed: Some(261) };
    let page = DemoteEntries { trimmed: None, ..demote.clone() };
    let forget = ForgetRuns { runs: vec![CondemnedRun { condemned: 262, index, run: 260 }] };
    vec![
        ("begin-run", Op::BeginRun(begin)),
        ("add-run", Op::AddRun(add)),
        ("add-run-plain", Op::AddRun(give_up)),
        ("demote-entries", Op::DemoteEntries(demote)),
        ("demote-entries-plain", Op::DemoteEntries(page)),
        ("lose-run", Op::LoseRun(LoseRun { bucket: bucket(), name, index, run: 260 })),
        ("forget-runs", Op::ForgetRuns(forget)),
    ]
}

fn outcomes() -> Vec<Outcome> {
    vec![
        Outcome::Rows(vec![entry()]),
        Outcome::Blocks(vec![block()]),
        Outcome::Unparsed("something".into()),
        Outcome::Pending,
    ]
}

pub fn extracted() -> Vec<Extracted> {
    outcomes().into_iter().map(|outcome| Extracted { index: 258, outcome }).collect()
}

pub fn errors() -> Vec<(&'static str, Error)> {
    let index = || "by-city".to_owned();
    vec![
        ("no-such-index", Error::NoSuchIndex),
        ("index-exists", Error::IndexExists),
        ("duplicate-value", Error::DuplicateValue { index: index() }),
        ("unparsed", Error::Unparsed { index: index(), why: "something".into() }),
        ("not-read", Error::NotRead { index: index() }),
    ]
}
