//! What every engine must do, as one suite: each implementation of [`Kv`] runs [`check`], a durable one also
//! [`check_reopened`]. A broken promise panics with its name.
//!
//! What the suite cannot bring about itself, tests of a disk engine do: readers on other threads and crashes. For these,
//! [`commit_mark`] writes one number into every keyspace, and [`read_mark`] panics unless it finds one number everywhere.
//!
//! Deliberately absent: speed, and power loss, which needs a file system that loses writes.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{Batch, Direction, KeyRange, Kv, KvRead, Row, successor};
use crate::keyspace::Keyspace;

/// Runs every check, each on an engine of its own that `fresh` gives.
///
/// # Panics
/// With the promise that is broken.
pub fn check<K: Kv>(mut fresh: impl FnMut() -> K) {
    nothing_is_found_in_an_empty_engine(&fresh());
    the_last_write_wins(&fresh());
    keyspaces_are_apart_and_change_together(&fresh());
    a_view_never_changes(&fresh());
    keys_are_ordered_bytewise(&fresh());
    ranges_end_where_they_say(&fresh());
    large_rows_are_kept(&fresh());
    random_batches_agree_with_a_map(&fresh());
}

/// Opens, commits, closes and opens again: nothing is lost and nothing deleted comes back.
///
/// # Panics
/// With the promise that is broken.
pub fn check_reopened<K: Kv>(mut open: impl FnMut() -> K) {
    let mut model = Model::default();
    for round in 0..4u64 {
        let kv = open();
        model.compare(&kv.view());
        for number in 0..50 {
            let batch = model.random_batch(round * 1000 + number);
            commit(&kv, batch);
        }
        if round % 2 == 0 {
            kv.sync().expect("the engine syncs");
        }
        commit_mark(&kv, round);
        model.write_mark(round);
        drop(kv);
    }
    let kv = open();
    model.compare(&kv.view());
    assert_eq!(read_mark(&kv.view()), Some(3), "the last batch before closing is there");
}

const MARK: &[u8] = &[0, 0, b'm', b'a', b'r', b'k'];

/// Writes `number` into every keyspace, in one batch.
///
/// # Panics
/// When the engine cannot write.
pub fn commit_mark(kv: &impl Kv, number: u64) {
    let mut batch = Batch::default();
    for keyspace in Keyspace::ALL {
        batch.put(keyspace, MARK.to_vec(), number.to_be_bytes().to_vec());
    }
    commit(kv, batch);
}

/// The number that the last visible [`commit_mark`] wrote.
///
/// # Panics
/// When keyspaces disagree: a batch became visible in part.
pub fn read_mark(view: &dyn KvRead) -> Option<u64> {
    let read = |keyspace| view.get(keyspace, MARK).expect("the engine reads");
    let first = read(Keyspace::ALL[0]);
    for keyspace in Keyspace::ALL {
        assert_eq!(read(keyspace), first, "a batch is visible whole or not at all: {}", keyspace.name());
    }
    first.map(|bytes| u64::from_be_bytes(bytes.as_ref().try_into().expect("a mark has eight bytes")))
}

fn commit(kv: &impl Kv, batch: Batch) {
    kv.commit(batch).expect("the engine commits");
}

fn get(view: &dyn KvRead, keyspace: Keyspace, key: &[u8]) -> Option<Vec<u8>> {
    view.get(keyspace, key).expect("the engine reads").map(|value| value.to_vec())
}

fn scan(view: &dyn KvRead, keyspace: Keyspace, range: KeyRange, direction: Direction) -> Vec<(Vec<u8>, Vec<u8>)> {
    let owned = |(key, value): Row| (key.to_vec(), value.to_vec());
    view.scan(keyspace, range, direction).map(|row| owned(row.expect("the engine reads"))).collect()
}

fn everything() -> KeyRange {
    KeyRange { from: Vec::new(), to: None }
}

fn nothing_is_found_in_an_empty_engine(kv: &impl Kv) {
    let view = kv.view();
    for keyspace in Keyspace::ALL {
        assert_eq!(get(&view, keyspace, b"key"), None);
        for direction in [Direction::Forward, Direction::Reverse] {
            assert_eq!(scan(&view, keyspace, everything(), direction), []);
        }
    }
    commit(kv, Batch::default());
}

fn the_last_write_wins(kv: &impl Kv) {
    let mut batch = Batch::default();
    batch.put(Keyspace::Names, b"put twice".to_vec(), b"first".to_vec());
    batch.put(Keyspace::Names, b"put twice".to_vec(), b"second".to_vec());
    batch.put(Keyspace::Names, b"put, deleted".to_vec(), b"gone".to_vec());
    batch.delete(Keyspace::Names, b"put, deleted".to_vec());
    batch.delete(Keyspace::Names, b"deleted, put".to_vec());
    batch.put(Keyspace::Names, b"deleted, put".to_vec(), b"here".to_vec());
    batch.delete(Keyspace::Names, b"never was".to_vec());
    batch.put(Keyspace::Names, b"empty".to_vec(), Vec::new());
    commit(kv, batch);
    let view = kv.view();
    assert_eq!(get(&view, Keyspace::Names, b"put twice").as_deref(), Some(&b"second"[..]));
    assert_eq!(get(&view, Keyspace::Names, b"put, deleted"), None);
    assert_eq!(get(&view, Keyspace::Names, b"deleted, put").as_deref(), Some(&b"here"[..]));
    assert_eq!(get(&view, Keyspace::Names, b"empty").as_deref(), Some(&b""[..]), "an empty value is a value");
    assert_eq!(scan(&view, Keyspace::Names, everything(), Direction::Forward).len(), 3);
    let mut batch = Batch::default();
    batch.put(Keyspace::Names, b"put twice".to_vec(), b"third".to_vec());
    batch.delete(Keyspace::Names, b"empty".to_vec());
    commit(kv, batch);
    let view = kv.view();
    assert_eq!(get(&view, Keyspace::Names, b"put twice").as_deref(), Some(&b"third"[..]));
    assert_eq!(get(&view, Keyspace::Names, b"empty"), None);
}

fn keyspaces_are_apart_and_change_together(kv: &impl Kv) {
    let before = kv.view();
    let mut batch = Batch::default();
    for (number, keyspace) in (0u8..).zip(Keyspace::ALL) {
        batch.put(keyspace, b"same key".to_vec(), vec![number]);
    }
    commit(kv, batch);
    let after = kv.view();
    for (number, keyspace) in (0u8..).zip(Keyspace::ALL) {
        assert_eq!(get(&before, keyspace, b"same key"), None, "a view does not see later batches");
        assert_eq!(get(&after, keyspace, b"same key"), Some(vec![number]), "{} has its own rows", keyspace.name());
        assert_eq!(scan(&after, keyspace, everything(), Direction::Forward), [(b"same key".to_vec(), vec![number])]);
    }
    assert_eq!(read_mark(&after), None);
    commit_mark(kv, 7);
    assert_eq!((read_mark(&after), read_mark(&kv.view())), (None, Some(7)));
}

fn a_view_never_changes(kv: &impl Kv) {
    let key = |number: u8| vec![number];
    let mut batch = Batch::default();
    (0..20).for_each(|number| batch.put(Keyspace::History, key(number), b"old".to_vec()));
    commit(kv, batch);
    let view = kv.view();
    let mut begun = view.scan(Keyspace::History, everything(), Direction::Forward);
    let first = begun.next().expect("a row").expect("the engine reads");
    assert_eq!(first.0.as_ref(), [0]);
    let mut batch = Batch::default();
    (0..20).filter(|number| number % 2 == 0).for_each(|number| batch.delete(Keyspace::History, key(number)));
    (1..40)
        .filter(|number| number % 2 == 1)
        .for_each(|number| batch.put(Keyspace::History, key(number), b"new".to_vec()));
    commit(kv, batch);
    let rest: Vec<Row> = begun.map(|row| row.expect("the engine reads")).collect();
    let expected = (1..20).map(|number| (Bytes::from(key(number)), Bytes::from_static(b"old")));
    assert!(rest.into_iter().eq(expected), "a scan that has begun goes on in its view");
    assert_eq!(scan(&view, Keyspace::History, everything(), Direction::Reverse).len(), 20);
    assert_eq!(get(&view, Keyspace::History, &key(4)).as_deref(), Some(&b"old"[..]));
    assert_eq!(scan(&kv.view(), Keyspace::History, everything(), Direction::Forward).len(), 20);
    assert_eq!(get(&kv.view(), Keyspace::History, &key(39)).as_deref(), Some(&b"new"[..]));
}

/// Keys that extend each other, and bytes at both ends.
const ORDERED: [&[u8]; 10] =
    [&[0], &[0, 0], &[0, 0xff], &[1], b"a", b"a\x00", b"a\x00b", b"ab", &[0xff], &[0xff, 0xff]];

fn keys_are_ordered_bytewise(kv: &impl Kv) {
    let mut batch = Batch::default();
    for key in ORDERED.iter().rev() {
        batch.put(Keyspace::Extents, key.to_vec(), b"row".to_vec());
    }
    commit(kv, batch);
    let view = kv.view();
    let keys = |direction| -> Vec<Vec<u8>> {
        scan(&view, Keyspace::Extents, everything(), direction).into_iter().map(|(key, _)| key).collect()
    };
    assert_eq!(keys(Direction::Forward), ORDERED);
    let mut reversed = keys(Direction::Reverse);
    reversed.reverse();
    assert_eq!(reversed, ORDERED, "a reverse scan is the same rows backwards");
}

fn ranges_end_where_they_say(kv: &impl Kv) {
    let mut batch = Batch::default();
    for key in ORDERED {
        batch.put(Keyspace::Parts, key.to_vec(), b"row".to_vec());
    }
    commit(kv, batch);
    let view = kv.view();
    for from in ORDERED {
        for to in ORDERED.iter().map(|to| Some(to.to_vec())).chain([None]) {
            let range = KeyRange { from: from.to_vec(), to: to.clone() };
            let inside = |key: &&&[u8]| **key >= from && to.as_ref().is_none_or(|to| **key < to.as_slice());
            let expected: Vec<&[u8]> = ORDERED.iter().filter(inside).copied().collect();
            let rows = scan(&view, Keyspace::Parts, range.clone(), Direction::Forward);
            let forward: Vec<&[u8]> = rows.iter().map(|(key, _)| key.as_slice()).collect();
            assert_eq!(forward, expected, "{range:?}: from is inside, to is not");
            let rows = scan(&view, Keyspace::Parts, range, Direction::Reverse);
            let reverse: Vec<&[u8]> = rows.iter().rev().map(|(key, _)| key.as_slice()).collect();
            assert_eq!(reverse, expected, "backwards");
        }
    }
}

fn large_rows_are_kept(kv: &impl Kv) {
    // The longest key of the state is an escaped object key of zero bytes with what surrounds it.
    let (key, value) = (vec![0u8; 2200], vec![7u8; 3 << 20]);
    let mut batch = Batch::default();
    batch.put(Keyspace::Inline, key.clone(), value.clone());
    commit(kv, batch);
    assert!(get(&kv.view(), Keyspace::Inline, &key) == Some(value), "a row of 3 MiB is kept");
}

fn random_batches_agree_with_a_map(kv: &impl Kv) {
    let mut model = Model::default();
    for seed in 0..300 {
        commit(kv, model.random_batch(seed));
        if seed % 10 == 9 {
            model.compare(&kv.view());
        }
    }
}

/// The rows that should be there.
#[derive(Default)]
struct Model(BTreeMap<(Keyspace, Vec<u8>), Vec<u8>>);

impl Model {
    /// A batch of a few writes to few keys, the same for the same seed.
    fn random_batch(&mut self, seed: u64) -> Batch {
        let mut batch = Batch::default();
        let mut number = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        for _ in 0..seed % 13 + 1 {
            number ^= number << 13;
            number ^= number >> 7;
            number ^= number << 17;
            let keyspace = Keyspace::ALL[(number >> 8) as usize % 3];
            let key = vec![b'k', (number >> 16) as u8 % 40];
            if number.is_multiple_of(3) {
                batch.delete(keyspace, key.clone());
                self.0.remove(&(keyspace, key));
            } else {
                let value = number.to_be_bytes()[..(number >> 24) as usize % 9].to_vec();
                batch.put(keyspace, key.clone(), value.clone());
                self.0.insert((keyspace, key), value);
            }
        }
        batch
    }

    fn write_mark(&mut self, number: u64) {
        for keyspace in Keyspace::ALL {
            self.0.insert((keyspace, MARK.to_vec()), number.to_be_bytes().to_vec());
        }
    }

    fn compare(&self, view: &dyn KvRead) {
        for keyspace in Keyspace::ALL {
            for prefix in [&b""[..], b"k", b"k\x07", b"m"] {
                let range = KeyRange { from: prefix.to_vec(), to: successor(prefix) };
                let rows = self.0.iter().filter(|((space, key), _)| *space == keyspace && key.starts_with(prefix));
                let mut expected: Vec<_> = rows.map(|((_, key), value)| (key.clone(), value.clone())).collect();
                assert_eq!(scan(view, keyspace, range.clone(), Direction::Forward), expected, "{}", keyspace.name());
                expected.reverse();
                assert_eq!(scan(view, keyspace, range, Direction::Reverse), expected, "{}", keyspace.name());
            }
        }
        for ((keyspace, key), value) in &self.0 {
            assert_eq!(get(view, *keyspace, key).as_ref(), Some(value), "{}", keyspace.name());
        }
    }
}
