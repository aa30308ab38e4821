//! The feed: what each command tells, and that trimming leaves no hole.

#![allow(clippy::unwrap_used)]

mod support;

use holdfast_core::command::*;
use holdfast_core::error::Error;
use holdfast_core::event::{EventKind, EventRow};
use holdfast_core::id::Place;
use holdfast_core::kv::Kv;
use holdfast_core::rules::authorize::{Action, Caller, Context, Resource, authorize};
use holdfast_core::state::Stop;
use holdfast_core::view::View;
use support::Machine;

fn events_after(machine: &Machine, after: Place) -> Result<Vec<(Place, EventRow)>, Stop> {
    let permit = authorize(Caller::Root, Action::WatchEvents, Resource::Service, &Context::default()).unwrap();
    let rows = machine.kv.view();
    Ok(View::new(&rows, machine.revision).events(&permit, after, 100_000)?.events)
}

/// What the last command told: kinds and keys.
fn told(machine: &Machine) -> Vec<(EventKind, Option<String>, Option<String>)> {
    let after = Place { revision: machine.revision - 1, ordinal: u16::MAX };
    let events = events_after(machine, after).unwrap();
    for (number, (place, event)) in events.iter().enumerate() {
        assert_eq!(*place, Place { revision: machine.revision, ordinal: number as u16 });
        assert_eq!(event.last, number + 1 == events.len());
    }
    events.into_iter().map(|(_, event)| (event.kind, event.key, event.source)).collect()
}

fn one(kind: EventKind, key: &str) -> Vec<(EventKind, Option<String>, Option<String>)> {
    vec![(kind, Some(key.to_owned()), None)]
}

#[test]
fn every_change_is_told_by_its_own_commit() {
    let mut machine = Machine::new();
    let bucket = machine.create_bucket("abc");
    assert_eq!(told(&machine), [(EventKind::BucketCreated, None, None)]);
    machine.put(&bucket, "d/k", 10);
    assert_eq!(told(&machine), one(EventKind::Put, "d/k"));
    machine.append(&bucket, "d/k", 10, 5);
    assert_eq!(told(&machine), one(EventKind::Append, "d/k"));
    let tags = [("a".to_owned(), "b".to_owned())].into();
    let set = SetTags { bucket: bucket.clone(), key: "d/k".parse().unwrap(), version: None, tags };
    machine.run(Op::SetTags(set.clone()));
    assert_eq!(told(&machine), one(EventKind::Tagged, "d/k"));
    machine.run(Op::SetTags(SetTags { tags: Default::default(), ..set }));
    assert_eq!(told(&machine), one(EventKind::Untagged, "d/k"));
    machine.delete(&bucket, "nothing", None);
    assert_eq!(told(&machine), [], "of what was not there nothing is told");
    machine.put(&bucket, "d/other", 10);
    let reply = machine.delete(&bucket, "d/other", None);
    assert!(matches!(reply, Reply::Deleted(_)));
    assert_eq!(told(&machine), one(EventKind::Delete, "d/other"));
    machine.set_versioning(&bucket, true);
    assert_eq!(told(&machine), [(EventKind::BucketChanged, None, None)]);
    machine.put(&bucket, "d/other", 10);
    machine.delete(&bucket, "d/other", None);
    assert_eq!(told(&machine), one(EventKind::Marker, "d/other"));
    // A refusal tells nothing.
    let again =
        machine.run(Op::CreateBucket(CreateBucket { name: "abc".parse().unwrap(), settings: Default::default() }));
    assert_eq!(again, Reply::Refused(Error::BucketExists));
    assert_eq!(told(&machine), []);
}

#[test]
fn a_command_that_comes_twice_tells_once() {
    let mut machine = Machine::new();
    let bucket = machine.create_bucket("abc");
    let (content, nonce) = (machine.content(10), machine.blob_id());
    let put = PutObject { target: support::target(&bucket, "k"), content, attributes: Default::default(), nonce };
    let command = machine.command(Op::PutObject(put));
    let first = machine.apply(&command);
    let second = machine.apply(&command);
    assert_eq!((second.revision, second.reply), (first.revision, first.reply), "it took effect the first time");
    assert_eq!(told(&machine), []);
    assert_eq!(events_after(&machine, Place::default()).unwrap().len(), 2);
}

#[test]
fn trimming_goes_by_whole_commits_and_leaves_no_hole() {
    let mut machine = Machine::new();
    let bucket = machine.create_bucket("abc");
    for number in 0..50 {
        machine.now_ms += 1000;
        machine.put(&bucket, &format!("k{number}"), 10);
    }
    let all = events_after(&machine, Place::default()).unwrap();
    let middle = all[20].1.at_ms;
    let trim = |machine: &mut Machine, before_ms, keep_bytes, rows| match machine.run(Op::TrimEvents(TrimEvents {
        before_ms,
        keep_bytes,
        rows,
    })) {
        Reply::Trimmed { rows, more } => (rows, more),
        other => panic!("{other:?}"),
    };
    assert_eq!(trim(&mut machine, middle, u64::MAX, 5), (5, true));
    let floor = all[4].0;
    assert_eq!(events_after(&machine, floor).unwrap(), all[5..], "whoever saw all that went misses nothing");
    let before = Place { revision: floor.revision - 1, ordinal: 0 };
    let compacted = events_after(&machine, before).unwrap_err();
    assert!(matches!(compacted, Stop::Refused(Error::Compacted { oldest }) if oldest == floor.revision), "{compacted}");
    assert_eq!(trim(&mut machine, middle, u64::MAX, 1000), (15, false));
    assert_eq!(trim(&mut machine, middle, u64::MAX, 1000), (0, false));
    assert_eq!(trim(&mut machine, 0, 0, 1000), (31, false), "by bytes all go");
    let rows = machine.kv.view();
    let feed = View::new(&rows, machine.revision).feed().unwrap();
    assert_eq!((feed.rows, feed.bytes, feed.floor), (0, 0, all.last().unwrap().0.revision));
}

#[test]
fn a_position_inside_of_a_trimmed_commit_is_compacted() {
    let mut machine = Machine::new();
    let bucket = machine.create_bucket("abc");
    for number in 0..3 {
        machine.put(&bucket, &format!("k{number}"), 10);
    }
    let nonce = machine.blob_id();
    let entries = (0..3).map(|number| support::entry(&format!("k{number}"))).collect();
    machine.run(Op::DeleteObjects(DeleteObjects { bucket: bucket.clone(), entries, nonce }));
    let revision = machine.revision;
    machine.put(&bucket, "after", 10);
    machine.run(Op::TrimEvents(TrimEvents { before_ms: 0, keep_bytes: 150, rows: 1000 }));
    let after = |ordinal| events_after(&machine, Place { revision, ordinal });
    let Err(Stop::Refused(Error::Compacted { oldest })) = after(1) else { panic!("a hole") };
    assert!(oldest >= revision);
    if oldest == revision {
        assert_eq!(after(2).unwrap().len(), 1, "whoever saw all of it goes on");
    }
}

#[test]
fn a_renamed_prefix_touches_watchers_of_both_names() {
    let mut machine = Machine::new();
    let bucket = machine.create_bucket("abc");
    machine.put(&bucket, "from/a", 1);
    machine.put(&bucket, "from/b", 1);
    let nonce = machine.blob_id();
    let source = Source {
        bucket: bucket.clone(),
        key: "from/".parse().unwrap(),
        version: None,
        pinned: None,
        generation: None,
        conditions: Default::default(),
    };
    let rename = RenameObject { target: support::target(&bucket, "to/"), source, prefix: true, nonce };
    assert_eq!(machine.run(Op::RenameObject(rename)), Reply::Renamed(2));
    let after = Place { revision: machine.revision - 1, ordinal: u16::MAX };
    let events = events_after(&machine, after).unwrap();
    let [(_, event)] = &events[..] else { panic!("{events:?}") };
    assert_eq!(
        (event.kind, event.key.as_deref(), event.source.as_deref()),
        (EventKind::PrefixRenamed, Some("to/"), Some("from/"))
    );
    for (prefix, touched) in [("", true), ("to/", true), ("to/a", true), ("from/b", true), ("fr", true), ("x", false)] {
        assert_eq!(event.touches(prefix), touched, "{prefix}");
    }
}
