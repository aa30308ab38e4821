//! The log alone: openraft's own suite, and what happens to its bytes and its disk.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::FutureExt as _;
use openraft::StorageError;
use openraft::storage::{IOFlushed, RaftLogReader as _, RaftLogStorage as _, RaftLogStorageExt as _};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::TypeConfigExt as _;
use tempfile::TempDir;

use super::files::{LogFiles, RealFiles};
use super::segment::HEADER_BYTES;
use super::*;
use crate::cluster::machine::{self, Machine};
use crate::cluster::raft::{LeaderId, Proposal};
use crate::cluster::store::Store;
use crate::cluster::tests::faulty::{Event, FaultyFiles};
use crate::cluster::tests::sample;
use crate::cluster::threads::Threads;

const SEGMENT: u64 = 256 << 10;
const OWNER: LogOwner = LogOwner { cluster: [7; 16], generation: 1, node: 1 };

fn config(dir: &Path, files: Arc<dyn LogFiles>) -> LogConfig {
    LogConfig { dir: dir.join("log"), owner: OWNER, segment_bytes: SEGMENT, files, threads: Threads::default() }
}

fn open(dir: &Path) -> Result<Log, Error> {
    Log::open(config(dir, Arc::new(RealFiles)))
}

fn first_vote() -> Vote {
    Vote { leader_id: LeaderId { term: 1, node_id: 1 }, committed: false }
}

fn id(index: u64) -> LogId {
    LogId { leader_id: LeaderId { term: 1, node_id: 1 }, index }
}

fn entry(index: u64, bytes: usize) -> Entry {
    let proposal = Proposal::new(sample::put(&format!("key-{index}"), &vec![index as u8; bytes]));
    Entry { log_id: id(index), payload: openraft::EntryPayload::Normal(proposal) }
}

async fn append(log: &Log, range: std::ops::Range<u64>, bytes: usize) {
    for index in range {
        log.clone().blocking_append([entry(index, bytes)]).await.unwrap();
    }
}

/// The indexes of all entries; what each carries is checked.
async fn indexes(log: &Log) -> Vec<u64> {
    let entries = log.clone().try_get_log_entries(..).await.unwrap();
    for entry in &entries {
        let openraft::EntryPayload::Normal(proposal) = &entry.payload else { panic!("a command") };
        let (key, value) = sample::put_of(&proposal.command);
        assert_eq!(key, format!("key-{}", entry.log_id.index));
        assert!(value.iter().all(|&byte| byte == entry.log_id.index as u8));
    }
    entries.iter().map(|entry| entry.log_id.index).collect()
}

/// Segments, oldest first.
fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = std::fs::read_dir(dir.join("log")).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "wal"));
    paths.sort();
    paths
}

/// Where the frames of a segment begin and end.
fn frames(path: &Path) -> Vec<std::ops::Range<usize>> {
    let bytes = std::fs::read(path).unwrap();
    let (mut at, mut found) = (HEADER_BYTES, Vec::new());
    while bytes.len() > at + 32 && bytes[at..at + 4] == *b"HFF1" {
        let body = u32::from_le_bytes(bytes[at + 4..at + 8].try_into().unwrap()) as usize;
        found.push(at..at + 32 + body);
        at = (at + 32 + body).next_multiple_of(8);
    }
    found
}

fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).unwrap();
    change(&mut bytes);
    std::fs::write(path, bytes).unwrap();
}

struct Builder;

impl StoreBuilder<TypeConfig, Log, Machine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, Log, Machine), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().unwrap();
        let log = open(dir.path()).unwrap();
        let (store, _) = Store::open(&dir.path().join("state"), 1 << 20).unwrap();
        let machine = Machine::new(Arc::new(machine::Shared::new(store, None, Threads::default()))).unwrap();
        Ok((dir, log, machine))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn openraft_log_store_suite() {
    Suite::test_all(Builder).await.unwrap();
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_reopen() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path()).unwrap();
    append(&log, 0..500, 2000).await;
    let vote = Vote { leader_id: LeaderId { term: 3, node_id: 1 }, committed: true };
    log.clone().save_vote(&vote).await.unwrap();
    log.clone().save_committed(Some(id(400))).await.unwrap();
    log.clone().truncate_after(Some(id(449))).await.unwrap();
    append(&log, 450..460, 10).await;
    assert!(segments(dir.path()).len() > 3, "the entries fill several segments");
    log.close();
    let mut log = open(dir.path()).unwrap();
    assert_eq!(indexes(&log).await, (0..460).collect::<Vec<_>>());
    assert_eq!(log.read_vote().await.unwrap(), Some(vote));
    assert_eq!(log.read_committed().await.unwrap(), Some(id(400)));
    append(&log, 460..470, 10).await;
    assert_eq!(indexes(&log).await.len(), 470);
}

#[tokio::test]
async fn a_purge_lets_segments_go_and_keeps_the_marks() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path()).unwrap();
    let vote = Vote { leader_id: LeaderId { term: 9, node_id: 1 }, committed: false };
    log.save_vote(&vote).await.unwrap();
    append(&log, 0..1000, 2000).await;
    let before = segments(dir.path()).len();
    log.purge(id(900)).await.unwrap();
    append(&log, 1000..1010, 2000).await;
    let after = segments(dir.path());
    assert!(before > 6 && after.len() <= 3, "{before} segments became {}", after.len());
    log.close();
    let mut log = open(dir.path()).unwrap();
    assert_eq!(indexes(&log).await, (901..1010).collect::<Vec<_>>());
    assert_eq!(log.read_vote().await.unwrap(), Some(vote));
    let state = log.get_log_state().await.unwrap();
    assert_eq!((state.last_purged_log_id, state.last_log_id), (Some(id(900)), Some(id(1009))));
    // Recycled files hold old frames: they must not come back.
    append(&log, 1010..2000, 2000).await;
    log.close();
    assert_eq!(indexes(&open(dir.path()).unwrap()).await, (901..2000).collect::<Vec<_>>());
}

#[tokio::test]
async fn torn_tail_is_dropped_whatever_of_the_last_frame_is_lost() {
    let source = tempfile::tempdir().unwrap();
    let log = open(source.path()).unwrap();
    append(&log, 0..5, 300).await;
    log.close();
    let name = segments(source.path()).pop().unwrap();
    let last = frames(&name).pop().unwrap();
    let whole = std::fs::read(&name).unwrap();
    for lost_from in (last.start..last.end).step_by(13) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("log")).unwrap();
        let mut bytes = whole.clone();
        bytes[lost_from..last.end].fill(0);
        std::fs::write(dir.path().join("log").join(name.file_name().unwrap()), &bytes).unwrap();
        let log = open(dir.path()).unwrap();
        assert_eq!(indexes(&log).await, vec![0, 1, 2, 3], "lost from byte {lost_from}");
        append(&log, 4..6, 100).await;
        log.close();
        assert_eq!(indexes(&open(dir.path()).unwrap()).await, vec![0, 1, 2, 3, 4, 5]);
    }
}

#[tokio::test]
async fn torn_write_is_not_acknowledged_and_the_next_start_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let files = FaultyFiles::new();
    let log = Log::open(config(dir.path(), Arc::new(files.clone()))).unwrap();
    append(&log, 0..3, 300).await;
    files.0.tear_after.store(200, Ordering::SeqCst);
    assert!(log.clone().blocking_append([entry(3, 300)]).await.is_err());
    assert!(log.clone().blocking_append([entry(4, 1)]).await.is_err(), "nothing is accepted after a failed write");
    log.close();
    let log = open(dir.path()).unwrap();
    assert_eq!(indexes(&log).await, vec![0, 1, 2]);
}

#[tokio::test]
async fn flipped_byte_in_the_middle_refuses_to_start() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path()).unwrap();
    append(&log, 0..400, 2000).await;
    log.close();
    let all = segments(dir.path());
    assert!(all.len() > 2);
    for (number, path) in all.iter().enumerate() {
        let frames = frames(path);
        let newest = number + 1 == all.len();
        // In the newest segment the last frame cannot be told from a torn one.
        let damageable = if newest { &frames[..frames.len() - 1] } else { &frames[..] };
        for frame in [damageable.first(), damageable.last()].into_iter().flatten() {
            for at in [frame.start, frame.start + 5, frame.start + 20, frame.start + 40, frame.end - 1] {
                change(path, |bytes| bytes[at] ^= 1);
                let error = open(dir.path()).err().unwrap_or_else(|| panic!("byte {at} of {}", path.display()));
                assert!(matches!(error, Error::LogDamaged { .. }), "{error}");
                let text = error.to_string();
                assert!(text.contains(".wal at byte") && text.contains("restore this data directory"), "{text}");
                change(path, |bytes| bytes[at] ^= 1);
            }
        }
    }
    assert_eq!(indexes(&open(dir.path()).unwrap()).await.len(), 400);
}

#[tokio::test]
async fn flipped_byte_in_a_header_refuses_to_start() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path()).unwrap();
    append(&log, 0..10, 100).await;
    log.close();
    let path = segments(dir.path()).remove(0);
    for at in [0, 9, 13, 20, 50, 80] {
        change(&path, |bytes| bytes[at] ^= 1);
        let error = open(dir.path()).err().expect("damaged");
        assert!(error.to_string().contains("at byte 0"), "{error}");
        change(&path, |bytes| bytes[at] ^= 1);
    }
}

#[tokio::test]
async fn missing_segment_refuses_to_start() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path()).unwrap();
    append(&log, 0..600, 2000).await;
    log.close();
    let all = segments(dir.path());
    for gone in [0, 1, all.len() - 2] {
        let bytes = std::fs::read(&all[gone]).unwrap();
        std::fs::remove_file(&all[gone]).unwrap();
        let error = open(dir.path()).err().unwrap_or_else(|| panic!("segment {gone} is missing"));
        assert!(matches!(error, Error::LogDamaged { .. }) && error.to_string().contains("missing"), "{error}");
        std::fs::write(&all[gone], bytes).unwrap();
    }
}

#[tokio::test]
async fn log_of_another_cluster_refuses_to_start() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).unwrap().close();
    let other = LogOwner { cluster: [8; 16], ..OWNER };
    let error = Log::open(LogConfig { owner: other, ..config(dir.path(), Arc::new(RealFiles)) }).err().unwrap();
    assert!(error.to_string().contains("another cluster"), "{error}");
}

#[tokio::test]
async fn failed_fsync_acknowledges_nothing_and_poisons_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let files = FaultyFiles::new();
    let log = Log::open(config(dir.path(), Arc::new(files.clone()))).unwrap();
    append(&log, 0..3, 10).await;
    let mut failure = log.failure();
    files.0.fail_sync.store(true, Ordering::SeqCst);
    assert!(log.clone().blocking_append([entry(3, 10)]).await.is_err());
    files.0.fail_sync.store(false, Ordering::SeqCst);
    let reason = failure.wait_for(Option::is_some).await.unwrap().clone().unwrap();
    assert!(reason.contains("syncing the log failed"), "{reason}");
    let mut again = log.clone();
    assert!(again.blocking_append([entry(4, 10)]).await.is_err(), "a later sync proves nothing");
    assert!(again.save_vote(&first_vote()).await.is_err());
    assert!(again.purge(id(1)).await.is_err());
    assert_eq!(indexes(&log).await.first(), Some(&0), "reads go on");
}

#[tokio::test]
async fn nothing_is_acknowledged_before_its_fsync() {
    let dir = tempfile::tempdir().unwrap();
    let files = FaultyFiles::new();
    let mut log = Log::open(config(dir.path(), Arc::new(files.clone()))).unwrap();
    append(&log, 0..1, 10).await;
    files.take_events();
    let gate = files.hold_syncs().await;
    let (signal, mut flushed) = TypeConfig::oneshot();
    log.append([entry(1, 10)], IOFlushed::signal(signal)).await.unwrap();
    assert_eq!(indexes(&log).await, vec![0, 1], "readable at once");
    std::thread::sleep(Duration::from_millis(50));
    assert!((&mut flushed).now_or_never().is_none(), "the sync has not returned");
    drop(gate);
    flushed.await.unwrap().unwrap();
    files.note("acknowledged");
    log.save_vote(&first_vote()).await.unwrap();
    files.note("voted");
    let events = files.take_events();
    let kinds: Vec<_> = events
        .iter()
        .map(|event| match event {
            Event::Write { .. } => "write",
            Event::Sync => "sync",
            Event::Note(what) => what,
        })
        .collect();
    assert_eq!(kinds, ["write", "sync", "acknowledged", "write", "sync", "voted"]);
}

#[tokio::test]
async fn appends_that_wait_share_one_fsync_and_complete_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let files = FaultyFiles::new();
    let mut log = Log::open(config(dir.path(), Arc::new(files.clone()))).unwrap();
    append(&log, 0..1, 10).await;
    let before = log.stats().syncs;
    let gate = files.hold_syncs().await;
    let mut waiting = Vec::new();
    for index in 1..=100 {
        let (signal, flushed) = TypeConfig::oneshot();
        log.append([entry(index, 10)], IOFlushed::signal(signal)).await.unwrap();
        waiting.push(flushed);
    }
    drop(gate);
    for flushed in waiting {
        flushed.await.unwrap().unwrap();
    }
    let syncs = log.stats().syncs - before;
    assert!(syncs <= 3, "100 appends took {syncs} syncs");
}

#[tokio::test]
async fn full_disk_delays_the_append_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let files = FaultyFiles::new();
    let mut log = Log::open(config(dir.path(), Arc::new(files.clone()))).unwrap();
    append(&log, 0..3, 10).await;
    files.0.no_writes.store(true, Ordering::SeqCst);
    let (signal, mut flushed) = TypeConfig::oneshot();
    log.append([entry(3, 10)], IOFlushed::signal(signal)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!((&mut flushed).now_or_never().is_none(), "not acknowledged while it is not written");
    assert!(log.failure().borrow().is_none(), "a full disk is not the end of the log");
    assert_eq!(indexes(&log).await, vec![0, 1, 2, 3]);
    files.0.no_writes.store(false, Ordering::SeqCst);
    tokio::time::timeout(Duration::from_secs(5), flushed).await.unwrap().unwrap().unwrap();
    append(&log, 4..6, 10).await;
    log.close();
    assert_eq!(indexes(&open(dir.path()).unwrap()).await, (0..6).collect::<Vec<_>>());
}

#[tokio::test]
async fn full_disk_start_votes_and_purges_from_the_reserve() {
    let dir = tempfile::tempdir().unwrap();
    let files = FaultyFiles::new();
    let log = Log::open(config(dir.path(), Arc::new(files.clone()))).unwrap();
    assert!(!log.refill(true).unwrap());
    append(&log, 0..100, 2000).await;
    log.close();
    files.0.no_creation.store(true, Ordering::SeqCst);
    let mut log = Log::open(config(dir.path(), Arc::new(files.clone()))).unwrap();
    // More than the active segment and the spare hold: the reserve is used.
    append(&log, 100..300, 2000).await;
    log.save_vote(&first_vote()).await.unwrap();
    log.purge(id(150)).await.unwrap();
    append(&log, 300..301, 2000).await;
    assert!(log.refill(true).unwrap(), "the disk is still full");
    log.close();
    assert_eq!(indexes(&open(dir.path()).unwrap()).await, (151..301).collect::<Vec<_>>());
}

#[tokio::test]
async fn random_histories_survive_reopening() {
    use rand::{Rng as _, SeedableRng as _};
    for seed in 0..20u64 {
        let mut random = rand::rngs::StdRng::seed_from_u64(seed);
        let dir = tempfile::tempdir().unwrap();
        let mut log = open(dir.path()).unwrap();
        let (mut first, mut next) = (0u64, 0u64);
        for _ in 0..200 {
            match random.random_range(0..20) {
                0 => {
                    log.close();
                    log = open(dir.path()).unwrap();
                }
                1 if next > first => {
                    next = random.random_range(first..next);
                    let after = next.checked_sub(1).map(id);
                    log.truncate_after(after).await.unwrap();
                }
                2 if next > first => {
                    first = random.random_range(first..next) + 1;
                    log.purge(id(first - 1)).await.unwrap();
                }
                _ => {
                    let count = random.random_range(1..10);
                    let entries: Vec<_> =
                        (next..next + count).map(|index| entry(index, random.random_range(0..8000))).collect();
                    log.blocking_append(entries).await.unwrap();
                    next += count;
                }
            }
            assert_eq!(indexes(&log).await, (first..next).collect::<Vec<_>>(), "seed {seed}");
        }
        log.close();
    }
}
