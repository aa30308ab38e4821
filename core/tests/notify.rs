//! Targets and notification configurations: cursors move only from where they are, and an event finds the rules of its time.

#![allow(clippy::unwrap_used)]

mod support;

use holdfast_core::command::*;
use holdfast_core::error::Error;
use holdfast_core::id::Place;
use holdfast_core::keyspace::Keyspace;
use holdfast_core::kv::{Direction, KeyRange, Kv, KvRead};
use holdfast_core::notify::TargetRow;
use holdfast_core::queue::maintain_permit;
use holdfast_core::rules::authorize::{Action, Caller, Context, Permit, Resource, authorize};
use holdfast_core::rules::notify::{NOTIFICATIONS_MAX, TARGETS_MAX};
use holdfast_core::view::View;
use support::Machine;

fn manage() -> Permit {
    authorize(Caller::Root, Action::ManageTargets, Resource::Service, &Context::default()).unwrap()
}

fn target(machine: &Machine, name: &str) -> Option<TargetRow> {
    let rows = machine.kv.view();
    View::new(&rows, machine.revision).target(&manage(), name).unwrap()
}

fn set_target(machine: &mut Machine, name: &str, settings: &str) -> Reply {
    machine.run(Op::SetTarget(SetTarget { name: name.into(), settings: settings.into() }))
}

fn advance(name: &str, row: &TargetRow, to: Place) -> AdvanceTarget {
    let (id, from) = (row.id, row.cursor);
    AdvanceTarget { name: name.into(), id, from, to, delivered: 3, dead_lettered: 1, lost: 0, problem: None }
}

fn set_document(machine: &mut Machine, bucket: &BucketRef, document: Option<&str>) -> u64 {
    let document = document.map(|text| text.as_bytes().to_vec());
    let op = SetDocument { bucket: bucket.clone(), kind: Document::Notification, document };
    assert_eq!(machine.run(Op::SetDocument(op)), Reply::Done);
    machine.revision
}

fn document_at(machine: &Machine, bucket: &BucketRef, at: u64) -> Option<(u64, String)> {
    let rows = machine.kv.view();
    let found = View::new(&rows, machine.revision).notification_at(&maintain_permit().unwrap(), &bucket.name, at);
    found.unwrap().map(|(revision, bytes)| (revision, String::from_utf8(bytes.to_vec()).unwrap()))
}

fn rows(machine: &Machine) -> usize {
    machine.kv.view().scan(Keyspace::Targets, KeyRange::prefix(&[]), Direction::Forward).count()
}

#[test]
fn a_cursor_moves_only_from_where_it_is() {
    let mut machine = Machine::new();
    assert_eq!(set_target(&mut machine, "audit", "{1}"), Reply::Done);
    let first = target(&machine, "audit").unwrap();
    assert_eq!(first.cursor, Place { revision: first.id, ordinal: u16::MAX }, "it begins with what comes next");
    let to = Place { revision: first.id + 5, ordinal: 2 };
    assert_eq!(machine.run(Op::AdvanceTarget(advance("audit", &first, to))), Reply::Done);
    let second = target(&machine, "audit").unwrap();
    assert_eq!((second.cursor, second.delivered, second.dead_lettered), (to, 3, 1));
    // Whoever delivered from the old cursor has been overtaken; nobody goes back.
    let again = machine.run(Op::AdvanceTarget(advance("audit", &first, Place { revision: 100, ordinal: 0 })));
    assert_eq!(again, Reply::Refused(Error::Changed));
    let back = machine.run(Op::AdvanceTarget(advance("audit", &second, first.cursor)));
    assert_eq!(back, Reply::Refused(Error::Changed));
    // New settings leave it where it is.
    set_target(&mut machine, "audit", "{2}");
    let third = target(&machine, "audit").unwrap();
    assert_eq!((third.id, third.cursor, third.settings.as_slice()), (first.id, to, b"{2}".as_slice()));
    assert!(third.changed > second.changed);
    // Another of the same name is another.
    assert_eq!(machine.run(Op::RemoveTarget(RemoveTarget { name: "audit".into() })), Reply::Done);
    let gone = machine.run(Op::RemoveTarget(RemoveTarget { name: "audit".into() }));
    assert_eq!(gone, Reply::Refused(Error::NoSuchTarget));
    set_target(&mut machine, "audit", "{3}");
    let old = machine.run(Op::AdvanceTarget(advance("audit", &third, Place { revision: 1000, ordinal: 0 })));
    assert_eq!(old, Reply::Refused(Error::NoSuchTarget));
}

#[test]
fn there_are_at_most_so_many_targets() {
    let mut machine = Machine::new();
    for number in 0..TARGETS_MAX {
        assert_eq!(set_target(&mut machine, &format!("t-{number}"), "{}"), Reply::Done);
    }
    assert!(matches!(set_target(&mut machine, "more", "{}"), Reply::Refused(Error::InvalidArgument { .. })));
    assert_eq!(set_target(&mut machine, "t-7", "{again}"), Reply::Done);
    let long = "x".repeat((64 << 10) + 1);
    assert!(matches!(set_target(&mut machine, "t-7", &long), Reply::Refused(Error::InvalidArgument { .. })));
}

#[test]
fn an_event_finds_the_rules_of_its_time() {
    let mut machine = Machine::new();
    let bucket = machine.create_bucket("abc");
    let none = machine.revision;
    let first = set_document(&mut machine, &bucket, Some("one"));
    machine.put(&bucket, "k", 10);
    let second = set_document(&mut machine, &bucket, Some("two"));
    let third = set_document(&mut machine, &bucket, None);
    assert_eq!(document_at(&machine, &bucket, none), None);
    assert_eq!(document_at(&machine, &bucket, first), Some((first, "one".into())));
    assert_eq!(document_at(&machine, &bucket, second - 1), Some((first, "one".into())));
    assert_eq!(document_at(&machine, &bucket, third - 1), Some((second, "two".into())));
    assert_eq!(document_at(&machine, &bucket, third), None);
    // A bucket of the same name begins without rules, and the old ones are still found for what was before.
    machine.delete(&bucket, "k", None);
    set_document(&mut machine, &bucket, Some("three"));
    let gone = machine.run(Op::DeleteBucket(bucket.clone()));
    assert_eq!(gone, Reply::Done);
    let removed = machine.revision;
    let bucket = machine.create_bucket("abc");
    assert_eq!(document_at(&machine, &bucket, machine.revision), None);
    assert_eq!(document_at(&machine, &bucket, removed - 1).unwrap().1, "three");
    // Once the events are gone nothing is left of either.
    let keep_all = TrimEvents { before_ms: 0, keep_bytes: u64::MAX, rows: 1000 };
    machine.run(Op::TrimEvents(keep_all));
    assert_eq!(document_at(&machine, &bucket, first).unwrap().1, "one");
    machine.run(Op::TrimEvents(TrimEvents { before_ms: u64::MAX, keep_bytes: 0, rows: 1000 }));
    assert_eq!(rows(&machine), 0);
}

#[test]
fn the_rules_in_force_stay_when_events_are_trimmed() {
    let mut machine = Machine::new();
    let bucket = machine.create_bucket("abc");
    set_document(&mut machine, &bucket, Some("one"));
    set_document(&mut machine, &bucket, Some("two"));
    machine.run(Op::TrimEvents(TrimEvents { before_ms: u64::MAX, keep_bytes: 0, rows: 1000 }));
    assert_eq!(document_at(&machine, &bucket, machine.revision).unwrap().1, "two");
    assert_eq!(rows(&machine), 1);
}

#[test]
fn rules_that_change_too_often_are_refused() {
    let mut machine = Machine::new();
    let bucket = machine.create_bucket("abc");
    let set = |machine: &mut Machine| {
        let document = Some(b"x".to_vec());
        machine.run(Op::SetDocument(SetDocument { bucket: bucket.clone(), kind: Document::Notification, document }))
    };
    for _ in 0..NOTIFICATIONS_MAX {
        assert_eq!(set(&mut machine), Reply::Done);
    }
    assert!(matches!(set(&mut machine), Reply::Refused(Error::InvalidArgument { .. })));
    set_document(&mut machine, &bucket, None);
    let before = rows(&machine);
    set_document(&mut machine, &bucket, None);
    assert_eq!(rows(&machine), before, "nothing is removed twice");
    for _ in 0..20 {
        machine.run(Op::TrimEvents(TrimEvents { before_ms: u64::MAX, keep_bytes: 0, rows: 1000 }));
        machine.put(&bucket, "k", 1);
    }
    assert_eq!(set(&mut machine), Reply::Done);
}
