//! The disk engine keeps the promises of the key-value seam: it is compared with the engine in memory.

use std::path::{Path, PathBuf};

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

fn newest_journal(dir: &Path) -> PathBuf {
    let journals = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    journals.filter(|path| path.extension().is_some_and(|extension| extension == "jnl")).max().unwrap()
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (path, name) = entry.map(|entry| (entry.path(), entry.file_name())).unwrap();
        if path.is_dir() {
            copy_dir(&path, &to.join(name));
        } else {
            std::fs::copy(&path, to.join(name)).unwrap();
        }
    }
}

/// Whatever pages of the unsynced end of the journal did not reach the disk, the state opens and is what some prefix of
/// the commits made; nothing that was synced is missing.
#[test]
fn a_torn_journal_opens_as_a_prefix_of_the_commits() {
    const PAGE: usize = 4096;
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    let mut random = StdRng::seed_from_u64(7);
    let disk = Engine::open(&whole, 1 << 20).unwrap();
    let memory = MemKv::default();
    let mut states = Vec::new();
    let mut synced = 0;
    for number in 0..40_u8 {
        let mut batch = batch(&mut random);
        batch.put(Keyspace::Inline, b"number".to_vec(), vec![number; 9000]);
        disk.commit(batch.clone()).unwrap();
        memory.commit(batch).unwrap();
        states.push(memory.view());
        if number == 15 {
            disk.sync().unwrap();
            let bytes = std::fs::read(newest_journal(&whole)).unwrap();
            synced = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        }
    }
    drop(disk);
    let bytes = std::fs::read(newest_journal(&whole)).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    for round in 0..60 {
        let cut = dir.path().join(format!("cut-{round}"));
        copy_dir(&whole, &cut);
        let mut torn = bytes.clone();
        for page in (synced.div_ceil(PAGE)..end.div_ceil(PAGE)).filter(|_| random.random_ratio(1, 12)) {
            torn[page * PAGE..((page + 1) * PAGE).min(bytes.len())].fill(0);
        }
        std::fs::write(newest_journal(&cut), torn).unwrap();
        let disk = Engine::open(&cut, 1 << 20).unwrap();
        let last = disk.view().get(Keyspace::Inline, b"number").unwrap().unwrap()[0];
        assert!(last >= 15, "round {round}: a synced commit is gone, the last is {last}");
        compare(&mut random, &disk.view(), &states[usize::from(last)]);
        disk.commit(batch(&mut random)).unwrap();
        drop(disk);
        Engine::open(&cut, 1 << 20).unwrap();
        std::fs::remove_dir_all(cut).unwrap();
    }
}
