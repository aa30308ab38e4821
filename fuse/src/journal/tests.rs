use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

const SEGMENT: u64 = 16 << 10;
const LIMITS: Limits = Limits { bytes_max: 1 << 20, segment_bytes: SEGMENT };
/// Names the journal that the child of `a_kill_loses_nothing_that_was_appended` writes.
const CHILD_DIR: &str = "HOLDFAST_JOURNAL_TEST_DIR";

fn open(dir: &Path) -> (Journal, Vec<Record>) {
    let (journal, replay) = Journal::open(dir, LIMITS).unwrap();
    (journal, replay.map(Result::unwrap).collect())
}

fn open_error(dir: &Path) -> Error {
    Journal::open(dir, LIMITS).map(drop).unwrap_err()
}

fn record(sequence: u64, payload: &[u8]) -> Record {
    Record { sequence, kind: payload.len() as u8, payload: payload.to_vec() }
}

fn append(journal: &Journal, payload: &[u8]) -> u64 {
    journal.append(payload.len() as u8, &[payload]).unwrap()
}

fn files(dir: &Path, prefix: &str) -> Vec<PathBuf> {
    let mut found = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(prefix))
        .collect::<Vec<_>>();
    found.sort();
    found
}

fn copy(from: &Path) -> TempDir {
    let to = TempDir::new().unwrap();
    for path in files(from, "") {
        std::fs::copy(&path, to.path().join(path.file_name().unwrap())).unwrap();
    }
    to
}

fn flip(path: &Path, offset: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], offset).unwrap();
}

#[test]
fn records_come_again_in_order_with_the_same_client() {
    let dir = TempDir::new().unwrap();
    let (journal, records) = open(&dir.path().join("new/journal"));
    assert!(records.is_empty());
    let client = journal.client();
    assert_eq!(journal.append(3, &[b"a", b"", b"bc"]).unwrap(), 1);
    assert_eq!(append(&journal, b""), 2);
    for round in 0..40u64 {
        assert_eq!(append(&journal, &vec![round as u8; 3000]), 3 + round);
    }
    journal.sync(42).unwrap();
    let bytes = journal.bytes();
    drop(journal);

    let (journal, records) = open(&dir.path().join("new/journal"));
    assert_eq!(records.len(), 42);
    assert_eq!(records[0], record(1, b"abc"));
    assert_eq!(records[1], record(2, b""));
    assert_eq!(records[41].payload, vec![39; 3000]);
    assert_eq!((journal.client(), journal.bytes(), journal.last()), (client, bytes, 42));
    assert_eq!(append(&journal, b"next"), 43);
    assert!(journal.torn().is_none());
}

#[test]
fn parts_beyond_the_limit_of_one_write_arrive() {
    let dir = TempDir::new().unwrap();
    let (journal, _) = open(dir.path());
    let parts = (0..3000u32).map(u32::to_le_bytes).collect::<Vec<_>>();
    journal.append(1, &parts.iter().map(<[u8; 4]>::as_slice).collect::<Vec<_>>()).unwrap();
    drop(journal);
    assert_eq!(open(dir.path()).1[0].payload, parts.concat());
}

#[test]
fn a_second_mount_is_refused_by_name() {
    let dir = TempDir::new().unwrap();
    let (journal, _) = open(dir.path());
    let error = open_error(dir.path());
    assert!(matches!(error, Error::Locked { .. }));
    assert!(error.to_string().contains(dir.path().to_str().unwrap()), "{error}");
    drop(journal);
    open(dir.path());
}

#[test]
fn a_torn_tail_is_cut_at_every_byte() {
    let dir = TempDir::new().unwrap();
    let (journal, _) = open(dir.path());
    append(&journal, b"kept");
    let start = lock(&journal.writer).active.as_ref().unwrap().offset;
    append(&journal, b"the last record");
    let end = lock(&journal.writer).active.as_ref().unwrap().offset;
    drop(journal);
    for cut in start..end {
        for zeros in [false, true] {
            let torn = copy(dir.path());
            let file = OpenOptions::new().write(true).open(&files(torn.path(), "journal-")[0]).unwrap();
            file.set_len(cut).unwrap();
            if zeros {
                file.set_len(SEGMENT).unwrap();
            }
            let (journal, records) = open(torn.path());
            // The padding at the end carries nothing, but a file that ends before it was cut.
            let whole = cut >= start + 48 + 15 && zeros;
            assert_eq!(records.len(), 1 + usize::from(whole), "cut at {cut}");
            assert_eq!(append(&journal, b"after"), records.len() as u64 + 1);
            drop(journal);
            assert_eq!(open(torn.path()).1.last().unwrap().payload, b"after");
        }
    }
}

#[test]
fn a_flipped_bit_in_a_durable_record_is_damage_and_says_where() {
    let dir = TempDir::new().unwrap();
    let (journal, _) = open(dir.path());
    let first = append(&journal, b"first record");
    append(&journal, b"second");
    journal.sync(first).unwrap();
    append(&journal, b"third");
    drop(journal);
    let name = files(dir.path(), "journal-")[0].file_name().unwrap().to_owned();
    for offset in HEADER_BYTES..HEADER_BYTES + 48 + 12 {
        let bad = copy(dir.path());
        flip(&bad.path().join(&name), offset);
        let error = open_error(bad.path());
        let Error::Damaged { path, offset: at, .. } = error else { panic!("{error}") };
        assert_eq!((path, at), (bad.path().join(&name), HEADER_BYTES));
    }
    for offset in 0..52 {
        let bad = copy(dir.path());
        flip(&bad.path().join(&name), offset);
        assert!(matches!(open_error(bad.path()), Error::Damaged { offset: 0, .. }), "{offset}");
    }
}

#[test]
fn records_behind_a_bad_one_that_was_never_durable_are_cut_and_reported() {
    let dir = TempDir::new().unwrap();
    let (journal, _) = open(dir.path());
    journal.sync(append(&journal, b"durable")).unwrap();
    let at = lock(&journal.writer).active.as_ref().unwrap().offset;
    for _ in 0..3 {
        append(&journal, b"not durable");
    }
    drop(journal);
    let segment = files(dir.path(), "journal-").remove(0);
    flip(&segment, at + 50);
    let (journal, records) = open(dir.path());
    assert_eq!(records, [record(1, b"durable")]);
    assert_eq!(journal.torn(), Some(&Torn { path: segment, offset: at, records: 3 }));
    assert_eq!(append(&journal, b"not durable"), 2);
    drop(journal);
    let (journal, records) = open(dir.path());
    assert_eq!((records.len(), journal.torn()), (2, None));
}

#[test]
fn damage_in_an_older_segment_or_a_missing_one_is_an_error() {
    let dir = TempDir::new().unwrap();
    let (journal, _) = open(dir.path());
    for _ in 0..20 {
        append(&journal, &[7; 3000]);
    }
    drop(journal);
    let names = files(dir.path(), "journal-");
    assert!(names.len() >= 4);
    for name in names.iter().take(names.len() - 1) {
        let bad = copy(dir.path());
        let path = bad.path().join(name.file_name().unwrap());
        flip(&path, HEADER_BYTES + 3048 + 60);
        let error = open_error(bad.path());
        assert!(matches!(&error, Error::Damaged { path: at, offset, .. } if *at == path && *offset == 7144), "{error}");
        std::fs::remove_file(path).unwrap();
        assert!(matches!(open_error(bad.path()), Error::Damaged { .. }));
    }
}

#[test]
fn foreign_files_are_refused() {
    let (dir, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    for dir in [dir.path(), other.path()] {
        append(&open(dir).0, b"x");
    }
    std::fs::copy(other.path().join("client"), dir.path().join("client")).unwrap();
    assert!(matches!(open_error(dir.path()), Error::Foreign { .. }));
    std::fs::remove_file(dir.path().join("client")).unwrap();
    assert!(matches!(open_error(dir.path()), Error::Damaged { .. }));
    std::fs::write(dir.path().join("client"), b"short").unwrap();
    assert!(matches!(open_error(dir.path()), Error::Damaged { .. }));
    // The version follows the magic, but the checksum is over both.
    let limits = Limits { bytes_max: 1, segment_bytes: 1 };
    assert!(matches!(Journal::open(dir.path(), limits), Err(Error::Limits { .. })));
}

#[test]
fn what_is_discarded_does_not_come_again_and_gives_its_disk_back() {
    let dir = TempDir::new().unwrap();
    let (journal, _) = open(dir.path());
    for round in 1..=200u64 {
        append(&journal, &[round as u8; 3000]);
        if round > 5 {
            journal.discard(round - 5).unwrap();
        }
        assert!(files(dir.path(), "journal-").len() <= 4);
        assert!(files(dir.path(), "spare-").len() <= SPARES_MAX);
    }
    assert_eq!(journal.bytes(), 5 * 3048);
    drop(journal);
    let (journal, records) = open(dir.path());
    assert_eq!(records.iter().map(|record| record.sequence).collect::<Vec<_>>(), [196, 197, 198, 199, 200]);
    assert_eq!(records[0].payload, [196; 3000]);
    journal.discard(u64::MAX).unwrap();
    assert_eq!((journal.bytes(), journal.last()), (0, 200));
    drop(journal);
    for sequence in 201..205 {
        let (journal, records) = open(dir.path());
        assert!(records.is_empty());
        assert_eq!(append(&journal, b"x"), sequence);
        journal.discard(sequence).unwrap();
        assert!(files(dir.path(), "journal-").len() <= 2);
    }
}

#[test]
fn what_a_reused_segment_held_before_is_never_taken_for_new() {
    let dir = TempDir::new().unwrap();
    let (journal, _) = open(dir.path());
    // Four records fill a segment, so each record lies where one of an earlier life did.
    let mut reused = false;
    for sequence in 1..=50 {
        let spares = lock(&journal.writer).spares.len();
        append(&journal, &[sequence as u8; 3000]);
        reused |= lock(&journal.writer).spares.len() < spares;
        journal.discard(sequence - 1).unwrap();
        if reused && sequence % 4 == 2 {
            let crashed = copy(dir.path());
            let (journal, records) = open(crashed.path());
            assert_eq!((records.len(), records[0].sequence, journal.torn()), (1, sequence, None));
        }
    }
    assert!(reused);
}

#[test]
fn a_discard_while_the_records_are_replayed_is_harmless() {
    let dir = TempDir::new().unwrap();
    let (journal, _) = open(dir.path());
    for _ in 0..20 {
        append(&journal, &[7; 3000]);
    }
    drop(journal);
    let (journal, replay) = Journal::open(dir.path(), LIMITS).unwrap();
    for (position, found) in replay.enumerate() {
        let found = found.unwrap();
        assert_eq!(found.sequence, position as u64 + 1);
        journal.discard(found.sequence).unwrap();
        append(&journal, &[8; 3000]);
    }
    let (_, mut replay) = { (drop(journal), Journal::open(dir.path(), LIMITS).unwrap().1) };
    assert_eq!(replay.next().unwrap().unwrap().sequence, 21);
}

#[test]
fn a_mark_that_outlives_its_records_skips_their_sequences() {
    let dir = TempDir::new().unwrap();
    let (journal, _) = open(dir.path());
    append(&journal, b"one");
    let at = lock(&journal.writer).active.as_ref().unwrap().offset;
    append(&journal, b"two");
    append(&journal, b"three");
    journal.discard(3).unwrap();
    drop(journal);
    OpenOptions::new().write(true).open(&files(dir.path(), "journal-")[0]).unwrap().set_len(at).unwrap();
    for _ in 0..2 {
        let (journal, records) = open(dir.path());
        assert_eq!((records.len(), journal.last()), (0, 3));
    }
    assert_eq!(append(&open(dir.path()).0, b"four"), 4);
    assert_eq!(open(dir.path()).1, [record(4, b"four")]);
}

#[test]
fn full_is_refused_until_something_is_discarded() {
    let dir = TempDir::new().unwrap();
    let limits = Limits { bytes_max: 2 * SEGMENT, segment_bytes: SEGMENT };
    let (journal, _) = Journal::open(dir.path(), limits).unwrap();
    let mut last = 0;
    let error = loop {
        match journal.append(1, &[&[1; 1000]]) {
            Ok(sequence) => last = sequence,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::Full { bytes: 32488, wanted: 1048, bytes_max: 32768 }), "{error}");
    journal.append(1, &[&[1; 200]]).unwrap();
    assert!(journal.append(1, &[&[1; 1000]]).is_err());
    journal.sync(last).unwrap();
    journal.discard(1).unwrap();
    journal.append(1, &[&[1; 1000]]).unwrap();
    assert!(matches!(
        journal.append(1, &[&vec![0; RECORD_BYTES_MAX], b"x"]),
        Err(Error::TooLarge { bytes }) if bytes == RECORD_BYTES_MAX + 1
    ));
}

#[test]
fn a_full_disk_refuses_an_append_and_never_a_sync() {
    let dir = TempDir::new().unwrap();
    let (journal, _) = open(dir.path());
    append(&journal, b"before");
    drop(journal);
    // A segment larger than any disk is refused before anything is allocated.
    let limits = Limits { bytes_max: 1 << 60, segment_bytes: 1 << 60 };
    let (journal, _) = Journal::open(dir.path(), limits).unwrap();
    let error = journal.append(1, &[b"x"]).unwrap_err();
    assert!(error.is_disk_full(), "{error}");
    journal.sync(1).unwrap();
    drop(journal);
    let (journal, records) = open(dir.path());
    assert_eq!((records.len(), append(&journal, b"x")), (1, 2));
    assert!(files(dir.path(), "segment").is_empty());
}

#[test]
fn a_record_larger_than_a_segment_gets_its_own() {
    let dir = TempDir::new().unwrap();
    let (journal, _) = open(dir.path());
    for size in [10, 100_000, 10, SEGMENT as usize - 4096 - 48, 20_000] {
        append(&journal, &vec![1; size]);
    }
    drop(journal);
    let sizes = open(dir.path()).1.iter().map(|record| record.payload.len()).collect::<Vec<_>>();
    assert_eq!(sizes, [10, 100_000, 10, 12_240, 20_000]);
}

#[test]
fn concurrent_syncs_share_and_hold_their_promise() {
    const WRITERS: u64 = 8;
    const EACH: u64 = 100;
    let dir = TempDir::new().unwrap();
    let (journal, _) = open(dir.path());
    let highest = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (journal, highest) = (&journal, &highest);
            scope.spawn(move || {
                for round in 0..EACH {
                    let sequence = journal.append(writer as u8, &[&round.to_le_bytes()]).unwrap();
                    journal.sync(sequence).unwrap();
                    assert!(lock(&journal.durable).upto >= sequence);
                    highest.fetch_max(sequence, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(highest.into_inner(), WRITERS * EACH);
    assert!(lock(&journal.durable).syncs < WRITERS * EACH);
    assert!(matches!(journal.sync(801), Err(Error::NotAppended { sequence: 801, last: 800 })));
    drop(journal);
    let (_, records) = open(dir.path());
    for writer in 0..WRITERS {
        let own = records.iter().filter(|record| u64::from(record.kind) == writer);
        let rounds = own.map(|record| u64::from_le_bytes(record.payload[..].try_into().unwrap())).collect::<Vec<_>>();
        assert_eq!(rounds, (0..EACH).collect::<Vec<_>>());
    }
}

#[test]
fn a_failed_sync_poisons_the_journal() {
    let dir = TempDir::new().unwrap();
    let (journal, _) = open(dir.path());
    let good = append(&journal, b"good");
    journal.sync(good).unwrap();
    let lost = append(&journal, b"lost");
    // The system does not sync a device of characters.
    let null = OpenOptions::new().write(true).open("/dev/null").unwrap();
    let real = std::mem::replace(&mut lock(&journal.writer).active.as_mut().unwrap().file, Arc::new(null));
    assert!(matches!(journal.sync(lost), Err(Error::Poisoned { .. })));
    lock(&journal.writer).active.as_mut().unwrap().file = real;
    assert!(matches!(journal.sync(lost), Err(Error::Poisoned { .. })));
    assert!(matches!(journal.append(1, &[b"x"]), Err(Error::Poisoned { .. })));
    journal.sync(good).unwrap();
}

#[test]
fn a_kill_loses_nothing_that_was_appended() {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};
    if let Ok(dir) = std::env::var(CHILD_DIR) {
        let (journal, _) = open(Path::new(&dir));
        for round in 0u64.. {
            let sequence =
                journal.append(9, &[&round.to_le_bytes(), &vec![round as u8; (round % 3000) as usize]]).unwrap();
            journal.discard(sequence.saturating_sub(20)).unwrap();
            eprintln!("appended {sequence}");
        }
    }
    let dir = TempDir::new().unwrap();
    let mut last = 0;
    for kill in 1..=5u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "journal::tests::a_kill_loses_nothing_that_was_appended", "--nocapture"])
            .env(CHILD_DIR, dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut acknowledged = 0;
        while acknowledged < last + 37 * kill {
            let line = lines.next().unwrap().unwrap();
            acknowledged = line.strip_prefix("appended ").map_or(acknowledged, |digits| digits.parse().unwrap());
        }
        child.kill().unwrap();
        child.wait().unwrap();
        for line in lines.map_while(std::io::Result::ok) {
            acknowledged =
                line.strip_prefix("appended ").and_then(|digits| digits.parse().ok()).unwrap_or(acknowledged);
        }
        let (journal, records) = open(dir.path());
        let sequences = records.iter().map(|record| record.sequence).collect::<Vec<_>>();
        last = journal.last();
        assert!(last >= acknowledged, "{last} {acknowledged}");
        let first = acknowledged - 20 + 1;
        assert!(sequences[0] <= first + 1 && sequences[0] >= first, "{sequences:?} {acknowledged}");
        assert_eq!(sequences, (sequences[0]..=last).collect::<Vec<_>>());
    }
}

#[derive(Clone, Debug)]
enum Step {
    Append(u8, usize),
    Discard(u64),
    Sync,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (any::<u8>(), 0usize..9000).prop_map(|(fill, size)| Step::Append(fill, size)),
        2 => (0u64..12).prop_map(Step::Discard),
        1 => Just(Step::Sync),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]
    #[test]
    fn behaves_like_a_list(steps in proptest::collection::vec(step(), 1..80)) {
        let dir = TempDir::new().unwrap();
        let limits = Limits { bytes_max: 64 << 10, segment_bytes: SEGMENT };
        let mut journal = Journal::open(dir.path(), limits).unwrap().0;
        let mut model: VecDeque<Record> = VecDeque::new();
        let (mut last, mut bytes) = (0, 0);
        for step in steps {
            match step {
                Step::Append(fill, size) => {
                    let payload = vec![fill; size];
                    let frame = segment::frame_bytes(size as u64);
                    let outcome = journal.append(fill, &[&payload[..size / 2], &payload[size / 2..]]);
                    if bytes + frame > limits.bytes_max {
                        let full = matches!(outcome, Err(Error::Full { .. }));
                        prop_assert!(full);
                    } else {
                        last += 1;
                        bytes += frame;
                        prop_assert_eq!(outcome.unwrap(), last);
                        model.push_back(Record { sequence: last, kind: fill, payload });
                    }
                }
                Step::Discard(count) => {
                    let upto = model.front().map_or(0, |record| record.sequence - 1) + count;
                    journal.discard(upto).unwrap();
                    while model.front().is_some_and(|record| record.sequence <= upto) {
                        bytes -= segment::frame_bytes(model.pop_front().unwrap().payload.len() as u64);
                    }
                }
                Step::Sync => journal.sync(last).unwrap(),
                Step::Reopen => {
                    drop(journal);
                    let (opened, replay) = Journal::open(dir.path(), limits).unwrap();
                    prop_assert_eq!(replay.map(Result::unwrap).collect::<Vec<_>>(), model.iter().cloned().collect::<Vec<_>>());
                    prop_assert!(opened.torn().is_none());
                    journal = opened;
                }
            }
            prop_assert_eq!((journal.bytes(), journal.last()), (bytes, last));
        }
    }
}
