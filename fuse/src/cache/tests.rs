use std::collections::HashMap;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::time::Instant;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

const PATIENCE: Duration = Duration::from_secs(60);
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

fn options(dir: Option<&Path>) -> Options {
    Options { dir: dir.map(Path::to_owned), disk_bytes: 64 * MIB, memory_bytes: 32 * MIB, free_floor_bytes: 0 }
}

/// Without memory, all reads are of the disk.
fn disk_only(dir: &Path) -> Options {
    Options { memory_bytes: 0, ..options(Some(dir)) }
}

fn open(options: Options) -> BlockCache {
    let cache = BlockCache::open(options).unwrap();
    wait(|| !cache.counters().scanning);
    cache
}

fn wait(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "the condition never came true");
        std::thread::yield_now();
    }
}

/// The content of a blob at a place: each place differs from its neighbours and from other blobs.
fn content(blob: Blob, range: Range<u64>) -> Bytes {
    range.map(|at| (at ^ (at >> 8) ^ (at >> 16) ^ u64::from(blob[0])) as u8).collect::<Vec<_>>().into()
}

fn put(cache: &BlockCache, blob: Blob, range: Range<u64>) {
    cache.put(blob, range.start, &content(blob, range));
}

fn check(cache: &BlockCache, blob: Blob, range: Range<u64>) -> bool {
    let found = cache.get(blob, range.clone());
    found.inspect(|bytes| assert!(*bytes == content(blob, range.clone()), "{range:?}")).is_some()
}

fn file(dir: &Path, blob: Blob, range: Range<u64>) -> PathBuf {
    let key = Key { blob, start: range.start, length: (range.end - range.start) as u32 };
    dir.join("v1").join(disk::relative_path(&key))
}

#[test]
fn ranges_come_from_one_fragment_or_from_several() {
    let cache = open(options(None));
    put(&cache, [1; 16], 0..1000);
    put(&cache, [1; 16], 1000..3000);
    put(&cache, [1; 16], 2500..5000);
    put(&cache, [1; 16], 6000..7000);
    for range in [0..1000, 10..20, 0..5000, 999..1001, 2400..4999, 6999..7000, 5..5] {
        assert!(check(&cache, [1; 16], range.clone()), "{range:?}");
        assert!(cache.contains([1; 16], range));
    }
    for range in [0..5001, 4999..6001, 5500..5600, 6000..7001, 0..GET_BYTES_MAX + 1] {
        assert!(!check(&cache, [1; 16], range.clone()), "{range:?}");
        assert!(!cache.contains([1; 16], range));
    }
    assert!(!check(&cache, [2; 16], 0..1));
    cache.put([3; 16], u64::MAX - 1, &Bytes::from_static(b"too far"));
    assert!(cache.get([3; 16], u64::MAX - 1..u64::MAX).is_none());
    let counters = cache.counters();
    assert_eq!((counters.hits_memory, counters.hits_disk, counters.misses), (6, 0, 7));
    assert!(!counters.disk_in_use && cache.flush(Duration::ZERO));
}

#[test]
fn a_large_put_is_split() {
    let dir = TempDir::new().unwrap();
    let cache = open(options(Some(dir.path())));
    put(&cache, [1; 16], 5..5 + 3 * MIB + 7);
    assert!(check(&cache, [1; 16], 5..5 + 3 * MIB + 7));
    assert!(cache.flush(PATIENCE));
    assert_eq!(cache.counters().disk_fragments, 4);
    put(&cache, [1; 16], 100..200);
    assert!(cache.flush(PATIENCE));
    assert_eq!(cache.counters().disk_fragments, 4, "a part of a fragment is not cached again");
}

#[test]
fn memory_is_bounded_and_a_scan_does_not_wash_it_out() {
    const BLOCK: u64 = 64 * KIB;
    let block = |position: u64| position * BLOCK..(position + 1) * BLOCK;
    let cache = open(Options { memory_bytes: 16 * MIB, ..options(None) });
    for position in 0..50 {
        put(&cache, [1; 16], block(position));
        assert!(check(&cache, [1; 16], block(position)));
    }
    for position in 0..1000 {
        put(&cache, [2; 16], block(position));
    }
    let counters = cache.counters();
    assert!(counters.memory_bytes <= 16 * MIB && counters.evicted_memory >= 790, "{counters:?}");
    let kept = (0..50).filter(|&position| check(&cache, [1; 16], block(position))).count();
    assert!(kept >= 45, "{kept}");
    let kept = (0..1000).filter(|&position| check(&cache, [2; 16], block(position))).count();
    assert!((100..256).contains(&kept), "{kept}");
}

#[test]
fn the_disk_survives_a_restart() {
    let dir = TempDir::new().unwrap();
    let cache = open(options(Some(dir.path())));
    for blob in 0..50 {
        put(&cache, [blob; 16], 7..7 + 1000 * u64::from(blob + 1));
    }
    let error = BlockCache::open(options(Some(dir.path()))).unwrap_err();
    assert!(matches!(error, Error::Locked { .. }) && error.to_string().contains(dir.path().to_str().unwrap()));
    let last = cache.counters();
    drop(cache);
    std::fs::write(dir.path().join("v1/new"), b"left behind").unwrap();
    let cache = open(disk_only(dir.path()));
    for blob in 0..50 {
        assert!(check(&cache, [blob; 16], 8..6 + 1000 * u64::from(blob + 1)));
    }
    let counters = cache.counters();
    assert_eq!((counters.hits_disk, counters.disk_fragments, last.misses), (50, 50, 0));
    assert!(!dir.path().join("v1/new").exists());
}

#[test]
fn what_was_read_from_disk_is_in_memory_then() {
    let dir = TempDir::new().unwrap();
    put(&open(options(Some(dir.path()))), [1; 16], 0..1000);
    let cache = open(options(Some(dir.path())));
    assert!(check(&cache, [1; 16], 0..10) && check(&cache, [1; 16], 10..20));
    let counters = cache.counters();
    assert_eq!((counters.hits_disk, counters.hits_memory, counters.hit_bytes), (1, 1, 20));
}

#[test]
fn a_bad_file_is_a_miss_and_deleted() {
    let dir = TempDir::new().unwrap();
    let cache = open(disk_only(dir.path()));
    let path = file(dir.path(), [1; 16], 0..100);
    for offset in 0..140 {
        put(&cache, [1; 16], 0..100);
        assert!(cache.flush(PATIENCE) && check(&cache, [1; 16], 0..100));
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset).unwrap();
        file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
        assert!(!check(&cache, [1; 16], 0..100), "{offset}");
        assert!(!path.exists());
    }
    for length in [0, 20, 139, 141] {
        put(&cache, [1; 16], 0..100);
        assert!(cache.flush(PATIENCE));
        OpenOptions::new().write(true).open(&path).unwrap().set_len(length).unwrap();
        assert!(!check(&cache, [1; 16], 0..100), "{length}");
    }
    let counters = cache.counters();
    assert_eq!((counters.corrupt, counters.errors, counters.disk_fragments, counters.disk_bytes), (144, 0, 0, 0));
    // One that is cut is not even indexed at the next start.
    put(&cache, [1; 16], 0..100);
    drop(cache);
    OpenOptions::new().write(true).open(&path).unwrap().set_len(99).unwrap();
    assert_eq!(open(disk_only(dir.path())).counters().disk_fragments, 0);
    assert!(!path.exists());
}

#[test]
fn the_cap_holds_and_what_is_read_stays() {
    let dir = TempDir::new().unwrap();
    let cap = Options { disk_bytes: 16 * DISK_BLOCK_BYTES, ..disk_only(dir.path()) };
    let cache = open(cap.clone());
    for block in 0..100 {
        put(&cache, [1; 16], block * 1000..(block + 1) * 1000);
        assert!(cache.flush(PATIENCE));
        assert!(check(&cache, [1; 16], 0..1000), "the fragment that is read is kept");
        assert!(cache.counters().disk_bytes <= 16 * DISK_BLOCK_BYTES);
    }
    let counters = cache.counters();
    assert_eq!((counters.disk_fragments, counters.evicted_disk, counters.written), (16, 84, 100));
    put(&cache, [2; 16], 0..MIB);
    assert!(cache.flush(PATIENCE));
    assert_eq!(cache.counters().dropped, 1, "what never fits evicts nothing");
    drop(cache);
    let cache = open(Options { disk_bytes: 4 * DISK_BLOCK_BYTES, ..cap });
    assert_eq!(cache.counters().disk_fragments, 4, "a smaller cap holds after a restart");
    assert!(check(&cache, [1; 16], 99_000..100_000));
}

#[test]
fn the_floor_of_free_space_is_kept() {
    let dir = TempDir::new().unwrap();
    let cache = open(disk_only(dir.path()));
    put(&cache, [1; 16], 0..1000);
    drop(cache);
    let cache = open(Options { free_floor_bytes: u64::MAX, ..options(Some(dir.path())) });
    assert_eq!((cache.counters().disk_fragments, cache.counters().evicted_disk), (0, 1));
    put(&cache, [1; 16], 0..1000);
    assert!(cache.flush(PATIENCE));
    let counters = cache.counters();
    assert_eq!((counters.disk_fragments, counters.dropped, counters.errors), (0, 1, 0));
    assert!(counters.disk_in_use && check(&cache, [1; 16], 0..1000));
}

#[test]
fn a_full_queue_drops_and_counts() {
    let dir = TempDir::new().unwrap();
    let cache = open(Options { disk_bytes: 200 * MIB, ..disk_only(dir.path()) });
    // The writer waits for the index before it writes, and holds one job then.
    let index = Arc::clone(&cache.index);
    let taken = QUEUE_BYTES_MAX / (MIB + ENTRY_BYTES);
    let disk = cache.disk.as_ref().unwrap();
    let bytes = content([1; 16], 0..MIB);
    put(&cache, [9; 16], 0..10);
    assert!(cache.flush(PATIENCE));
    disk.pause(|| {
        for block in 0..taken + 5 {
            cache.put([1; 16], block * MIB, &bytes);
        }
        assert_eq!(cache.counters().dropped, 5);
        assert!(!cache.warm([2; 16], 0, &bytes, Duration::from_millis(1)));
        assert!(cache.contains([1; 16], 0..taken * MIB) && !cache.contains([2; 16], 0..1));
        assert!(!cache.flush(Duration::from_millis(1)));
    });
    assert!(cache.warm([3; 16], 0, &bytes, PATIENCE) && cache.flush(PATIENCE));
    assert_eq!(cache.counters().disk_fragments, taken + 2);
    assert!(cache.get([3; 16], 5..10).is_some());
    assert_eq!(lock(&index).stored().1, taken + 2);
}

#[test]
fn warming_leaves_memory_alone() {
    let dir = TempDir::new().unwrap();
    let cache = open(options(Some(dir.path())));
    for _ in 0..2 {
        assert!(cache.warm([1; 16], 0, &content([1; 16], 0..100), PATIENCE) && cache.flush(PATIENCE));
    }
    assert_eq!((cache.counters().memory_bytes, cache.counters().written), (0, 1));
    assert!(check(&cache, [1; 16], 0..100));
    let memory = open(options(None));
    assert!(memory.warm([1; 16], 0, &content([1; 16], 0..100), PATIENCE) && check(&memory, [1; 16], 0..100));
}

#[test]
fn a_directory_that_disappears_leaves_a_cache_in_memory() {
    let dir = TempDir::new().unwrap();
    let cache = open(options(Some(dir.path())));
    put(&cache, [1; 16], 0..1000);
    assert!(cache.flush(PATIENCE));
    std::fs::remove_dir_all(dir.path()).unwrap();
    for blob in 2..20 {
        put(&cache, [blob; 16], 0..1000);
        assert!(check(&cache, [blob; 16], 0..1000));
        assert!(cache.flush(PATIENCE));
    }
    let counters = cache.counters();
    assert!(!counters.disk_in_use && counters.errors == ERRORS_IN_A_ROW_MAX, "{counters:?}");
    assert_eq!((counters.disk_fragments, counters.disk_bytes), (0, 0));
    assert!(check(&cache, [1; 16], 0..1000) && cache.contains([1; 16], 0..1000));
    drop(cache);
    // Readers alone notice too.
    std::fs::create_dir(dir.path()).unwrap();
    let cache = open(disk_only(dir.path()));
    (0..9).for_each(|blob| put(&cache, [blob; 16], 0..1000));
    assert!(cache.flush(PATIENCE));
    std::fs::remove_dir_all(dir.path()).unwrap();
    assert!((0..9).all(|blob| !check(&cache, [blob; 16], 0..1000)));
    assert!(!cache.counters().disk_in_use);
}

#[test]
fn a_directory_that_cannot_be_used_is_said_at_once() {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("file"), b"").unwrap();
    let error = BlockCache::open(disk_only(&dir.path().join("file"))).unwrap_err();
    assert!(matches!(error, Error::Io { action: "create", .. }), "{error}");
}

#[test]
fn concurrent_readers_and_writers_see_only_what_was_put() {
    let dir = TempDir::new().unwrap();
    let small = Options { disk_bytes: 256 * KIB, memory_bytes: 64 * KIB, ..options(Some(dir.path())) };
    let cache = open(small.clone());
    std::thread::scope(|scope| {
        for thread in 0..6u64 {
            let cache = &cache;
            scope.spawn(move || {
                for round in 0..600 {
                    let place = (round * 7919 + thread * 104_729) % 97;
                    let (blob, start) = ([(place % 5) as u8; 16], place / 5 * 3000);
                    if !check(cache, blob, start..start + 3500) {
                        put(cache, blob, start..start + 4000);
                    }
                }
            });
        }
    });
    assert!(cache.flush(PATIENCE));
    let counters = cache.counters();
    assert!(counters.written > 0 && counters.disk_bytes <= 256 * KIB && counters.errors == 0, "{counters:?}");
    assert!(counters.corrupt == 0 && counters.memory_bytes <= 64 * KIB, "{counters:?}");
    let left =
        (0..97).filter(|place| check(&cache, [(place % 5) as u8; 16], place / 5 * 3000..place / 5 * 3000 + 3500));
    assert!(left.count() > 0);
    drop(cache);
    let fragments = counters.disk_fragments;
    assert_eq!(open(small).counters().disk_fragments, fragments, "the index and the files agree");
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, u64, u64),
    Get(u8, u64, u64),
    Flush,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let place = || (0u8..3, 0u64..20_000, 1u64..6_000);
    prop_oneof![
        5 => place().prop_map(|(blob, start, length)| Step::Put(blob, start, length)),
        8 => place().prop_map(|(blob, start, length)| Step::Get(blob, start, length)),
        1 => Just(Step::Flush),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn behaves_like_a_map(small in any::<bool>(), steps in proptest::collection::vec(step(), 1..60)) {
        let dir = TempDir::new().unwrap();
        let mut options = options(Some(dir.path()));
        if small {
            (options.memory_bytes, options.disk_bytes) = (8 * KIB, 24 * KIB);
        }
        let mut cache = open(options.clone());
        let mut model: HashMap<(u8, u64), ()> = HashMap::new();
        for step in steps {
            match step {
                Step::Put(blob, start, length) => {
                    put(&cache, [blob; 16], start..start + length);
                    model.extend((start..start + length).map(|at| ((blob, at), ())));
                }
                Step::Get(blob, start, length) => {
                    let hit = check(&cache, [blob; 16], start..start + length);
                    let possible = (start..start + length).all(|at| model.contains_key(&(blob, at)));
                    prop_assert!(possible || !hit);
                    // Fewer puts than the look-back: nothing is overlooked.
                    prop_assert!(hit || !possible || small || model.is_empty() || cache.counters().written > 30);
                }
                Step::Flush => prop_assert!(cache.flush(PATIENCE)),
                Step::Reopen => {
                    drop(cache);
                    cache = open(options.clone());
                }
            }
        }
        prop_assert_eq!((cache.counters().errors, cache.counters().corrupt), (0, 0));
    }
}
