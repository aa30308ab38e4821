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
        objects: 10,
        entries: 300,
        pending: 2,
        unparsed: 1,
        bytes: 70_000,
    };
    let building = IndexRow {
        kind: IndexKind::Hash,
        unique: true,
        expressions: vec![Expression::Tag("tenant".into())],
        state: IndexState::Building("logs/7".into()),
        ..index.clone()
    };
    let failed = IndexRow { state: IndexState::Failed("something".into()), ..building.clone() };
    let object = ObjectIndexRow { place: PLACE, known: Known::Rows, posting: Some(POSTING), entries: 7 };
    vec![
        sample("record-index", index),
        sample("record-index-building-plain", building),
        sample("record-index-failed-plain", failed),
        sample("record-index-posting", PostingRow { key: "logs/7".into(), place: PLACE }),
        sample("record-index-entries", EntriesRow { entries: vec![entry()], blocks: 0 }),
        sample("record-index-object", object.clone()),
        sample(
            "record-index-object-aside-plain",
            ObjectIndexRow { known: Known::Pending, posting: None, entries: 0, ..object },
        ),
        sample("record-index-block", block()),
    ]
}

pub fn keys() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("key-index", key::definition(holdfast_core::id::BucketId(5), "by-city")),
        ("key-index-entry", key::entry(258, &[2, 1], POSTING, 4)),
        ("key-index-posting", key::posting(258, POSTING)),
        ("key-index-entries", key::entries_of(258, POSTING)),
        ("key-index-object", key::object(258, "logs/7")),
        ("key-index-pending", key::aside(258, false, "logs/7")),
        ("key-index-unparsed", key::aside(258, true, "logs/7")),
        ("key-index-block", key::block(258, POSTING, 4)),
        ("key-index-garbage", key::garbage(258, POSTING)),
        ("key-index-dropped", key::dropped(258)),
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
    let read = |outcome| ReadObject { key: "logs/7".parse().unwrap(), place: PLACE, outcome };
    let objects = IndexObjects {
        bucket: bucket(),
        name: "by-city".into(),
        index: 258,
        objects: outcomes().into_iter().map(read).collect(),
        cursor: Some("logs/6".into()),
        next: Some("logs/7".into()),
    };
    let plain = IndexObjects { cursor: None, next: None, ..objects.clone() };
    vec![
        ("create-index", Op::CreateIndex(create)),
        ("drop-index", Op::DropIndex(DropIndex { bucket: bucket(), name: "by-city".into() })),
        ("index-objects", Op::IndexObjects(objects)),
        ("index-objects-plain", Op::IndexObjects(plain)),
        ("trim-indexes", Op::TrimIndexes(TrimIndexes { rows: 1000 })),
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
