use super::*;

#[test]
fn the_memory_engine_keeps_its_promises() {
    conformance::check(MemKv::default);
}

#[test]
fn the_successor_is_the_first_key_that_does_not_start_with_the_prefix() {
    let check = |prefix: &[u8], expected: Option<&[u8]>| assert_eq!(successor(prefix).as_deref(), expected);
    check(b"", None);
    check(b"a", Some(b"b"));
    check(b"a\xff", Some(b"b"));
    check(b"\x00", Some(b"\x01"));
    check(b"a\xff\xfe\xff\xff", Some(b"a\xff\xff"));
    check(b"\xff", None);
    check(b"\xff\xff", None);
}

#[test]
fn a_range_of_a_prefix_never_leaves_it() {
    let range = KeyRange::prefix_from(b"b", b"a".to_vec());
    assert_eq!(range, KeyRange::prefix(b"b"), "from before the prefix is from its start");
    assert!(KeyRange::prefix_from(b"b", b"c".to_vec()).is_empty());
    assert!(!KeyRange::prefix_from(b"b", b"b\xff".to_vec()).is_empty());
    assert!(KeyRange { from: b"b".to_vec(), to: Some(b"b".to_vec()) }.is_empty());
    assert!(!KeyRange { from: b"\xff".to_vec(), to: None }.is_empty());
}

/// An overlay whose base is read through another overlay: as the commands of one log batch see each other.
struct Stacked(Overlay<Overlay<MemView>>);

impl Stacked {
    /// Every key is in a random state of its own in each of the three layers: absent, written or removed.
    fn random(seed: u64) -> (Self, BTreeMap<Vec<u8>, Bytes>) {
        let mut expected = BTreeMap::new();
        let mut layers = [Batch::default(), Batch::default(), Batch::default()];
        let mut number = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        for key in (0..60u8).map(|key| vec![b'k', key / 8, key % 8]) {
            for (layer, batch) in layers.iter_mut().enumerate() {
                number ^= number << 13;
                number ^= number >> 7;
                number ^= number << 17;
                match number % 3 {
                    0 => {
                        let value = Bytes::from(format!("{layer} {number}"));
                        batch.put(Keyspace::Names, key.clone(), value.clone());
                        expected.insert(key.clone(), value);
                    }
                    1 => {
                        batch.delete(Keyspace::Names, key.clone());
                        expected.remove(&key);
                    }
                    _ => {}
                }
            }
        }
        let [base, middle, top] = layers;
        let kv = MemKv::default();
        kv.commit(base).unwrap();
        let mut inner = Overlay::new(kv.view());
        inner.merge(middle);
        let mut outer = Overlay::new(inner);
        outer.merge(top);
        (Self(outer), expected)
    }
}

#[test]
fn an_overlay_reads_as_if_its_writes_were_committed() {
    for seed in 0..60 {
        let (Stacked(overlay), expected) = Stacked::random(seed);
        for key in (0..62u8).map(|key| vec![b'k', key / 8, key % 8]) {
            assert_eq!(overlay.get(Keyspace::Names, &key).unwrap(), expected.get(&key).cloned());
        }
        for from in 0..9u8 {
            for to in (0..9).map(Some).chain([None]) {
                let range = KeyRange { from: vec![b'k', from], to: to.map(|to| vec![b'k', to]) };
                let inside = |key: &&Vec<u8>| **key >= range.from && range.to.as_ref().is_none_or(|to| *key < to);
                let mut keys: Vec<&Vec<u8>> = expected.keys().filter(inside).collect();
                let scan = |direction| -> Vec<Row> {
                    overlay.scan(Keyspace::Names, range.clone(), direction).map(Result::unwrap).collect()
                };
                let rows = |keys: &[&Vec<u8>]| -> Vec<Row> {
                    keys.iter().map(|key| (Bytes::copy_from_slice(key), expected[*key].clone())).collect()
                };
                assert_eq!(scan(Direction::Forward), rows(&keys), "seed {seed}, {range:?}");
                keys.reverse();
                assert_eq!(scan(Direction::Reverse), rows(&keys), "seed {seed}, {range:?}");
            }
        }
    }
}

/// An engine that fails after one row.
struct Failing;

impl Failing {
    fn error() -> KvError {
        KvError { doing: "reading", source: "the disk is gone".into() }
    }
}

impl KvRead for Failing {
    fn get(&self, _: Keyspace, _: &[u8]) -> Result<Option<Bytes>, KvError> {
        Err(Self::error())
    }

    fn scan<'a>(&'a self, _: Keyspace, _: KeyRange, _: Direction) -> Rows<'a> {
        Box::new([Ok((Bytes::from_static(b"b"), Bytes::new())), Err(Self::error())].into_iter())
    }
}

#[test]
fn an_overlay_passes_errors_on_and_ends_after_them() {
    let mut overlay = Overlay::new(Failing);
    for key in [b"a", b"c", b"d"] {
        overlay.put(Keyspace::Names, key.to_vec(), Bytes::new());
    }
    assert!(overlay.get(Keyspace::Names, b"b").is_err());
    assert!(overlay.get(Keyspace::Names, b"c").is_ok(), "what is written hides the base");
    let range = KeyRange { from: Vec::new(), to: None };
    let rows: Vec<_> = overlay.scan(Keyspace::Names, range, Direction::Forward).collect();
    let keys: Vec<Option<&[u8]>> = rows.iter().map(|row| row.as_ref().ok().map(|(key, _)| key.as_ref())).collect();
    assert_eq!(keys, [Some(&b"a"[..]), Some(b"b"), None], "nothing comes after the error");
}

#[test]
fn a_merged_batch_lets_the_later_write_win() {
    let mut batch = Batch::default();
    assert!(batch.is_empty());
    batch.put(Keyspace::Names, b"a".to_vec(), Bytes::from_static(b"1"));
    batch.put(Keyspace::Sys, b"s".to_vec(), Bytes::from_static(b"1"));
    let mut later = Batch::default();
    later.delete(Keyspace::Names, b"a".to_vec());
    batch.merge(later);
    let writes: Vec<_> =
        batch.writes().map(|(keyspace, key, value)| (keyspace, key.to_vec(), value.is_some())).collect();
    assert_eq!(writes, [(Keyspace::Sys, b"s".to_vec(), true), (Keyspace::Names, b"a".to_vec(), false)]);
}

#[test]
fn what_was_written_since_a_mark_can_be_taken_back() {
    let kv = MemKv::default();
    let mut batch = Batch::default();
    batch.put(Keyspace::Names, b"old".to_vec(), b"1".to_vec());
    kv.commit(batch).unwrap();
    let view = kv.view();
    let mut overlay = Overlay::new(&view);
    overlay.put(Keyspace::Names, b"a".to_vec(), b"1".to_vec());
    overlay.delete(Keyspace::Names, b"b".to_vec());
    let written = |overlay: &Overlay<&MemView>| -> Vec<_> {
        let rows = overlay.scan(Keyspace::Names, KeyRange::prefix(&[]), Direction::Forward);
        rows.map(Result::unwrap).collect()
    };
    let before = written(&overlay);
    overlay.mark();
    overlay.put(Keyspace::Names, b"a".to_vec(), b"2".to_vec());
    overlay.put(Keyspace::Names, b"a".to_vec(), b"3".to_vec());
    overlay.put(Keyspace::Names, b"b".to_vec(), b"4".to_vec());
    overlay.delete(Keyspace::Names, b"old".to_vec());
    overlay.put(Keyspace::Links, b"c".to_vec(), b"5".to_vec());
    overlay.rollback();
    assert_eq!(written(&overlay), before);
    overlay.mark();
    overlay.put(Keyspace::Names, b"d".to_vec(), b"6".to_vec());
    overlay.keep();
    overlay.rollback();
    assert_eq!(written(&overlay).len(), before.len() + 1);
    let keyspaces: Vec<Keyspace> = overlay.into_batch().writes().map(|(keyspace, ..)| keyspace).collect();
    assert!(keyspaces.iter().all(|keyspace| *keyspace == Keyspace::Names), "{keyspaces:?}");
}
