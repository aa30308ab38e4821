//! The disk engine keeps the promises of the key-value seam: it is compared with the engine in memory.

use bytes::Bytes;
use holdfast_core::keyspace::Keyspace;
use holdfast_core::kv::{Batch, Direction, KeyRange, Kv, KvRead, MemKv};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::cluster::Engine;

fn key(random: &mut StdRng) -> Vec<u8> {
    (0..random.random_range(1..4)).map(|_| [0, 1, b'a', 0xff][random.random_range(0..4)]).collect()
}

fn batch(random: &mut StdRng) -> Batch {
    let mut batch = Batch::default();
    for _ in 0..random.random_range(1..20) {
        let keyspace = [Keyspace::Names, Keyspace::Inline, Keyspace::Sys][random.random_range(0..3)];
        if random.random_bool(0.3) {
            batch.delete(keyspace, key(random));
        } else {
            let size = [0, 10, 5000][random.random_range(0..3)];
            batch.put(keyspace, key(random), vec![random.random(); size]);
        }
    }
    batch
}

fn all(view: &impl KvRead, range: &KeyRange, direction: Direction) -> Vec<(Bytes, Bytes)> {
    let spaces = [Keyspace::Names, Keyspace::Inline, Keyspace::Sys];
    let rows = spaces.iter().flat_map(|space| view.scan(*space, range.clone(), direction));
    rows.collect::<Result<_, _>>().unwrap()
}

fn compare(random: &mut StdRng, disk: &impl KvRead, memory: &impl KvRead) {
    for direction in [Direction::Forward, Direction::Reverse] {
        let ranges = [
            KeyRange::prefix(&[]),
            KeyRange::prefix(&key(random)),
            KeyRange { from: key(random), to: Some(key(random)) },
        ];
        for range in ranges {
            assert_eq!(all(disk, &range, direction), all(memory, &range, direction), "{range:?} {direction:?}");
        }
    }
    let one = key(random);
    assert_eq!(disk.get(Keyspace::Inline, &one).unwrap(), memory.get(Keyspace::Inline, &one).unwrap());
}

#[test]
fn disk_engine_equals_memory_engine_also_after_reopening() {
    for seed in 0..8 {
        let mut random = StdRng::seed_from_u64(seed);
        let dir = tempfile::tempdir().unwrap();
        let memory = MemKv::default();
        for _ in 0..3 {
            let disk = Engine::open(dir.path(), 1 << 20).unwrap();
            compare(&mut random, &disk.view(), &memory.view());
            let mut views = Vec::new();
            for _ in 0..30 {
                let batch = batch(&mut random);
                disk.commit(batch.clone()).unwrap();
                memory.commit(batch).unwrap();
                views.push((disk.view(), memory.view()));
            }
            for (disk, memory) in &views {
                compare(&mut random, disk, memory);
            }
            disk.sync().unwrap();
        }
    }
}
