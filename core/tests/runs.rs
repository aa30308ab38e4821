//! Runs of an index: what is written is found, in as few reads as promised, and damage is an error wherever it is.

#![allow(clippy::unwrap_used)]

#[path = "runs/stranger.rs"]
mod stranger;
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use bytes::Bytes;
use holdfast_core::index::Interval;
use holdfast_core::index::run::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use support::cbor::Tree;
use support::hex;

const INDEX: u64 = 7;
const REVISION: u64 = 42;
const BTREE: Layout = Layout::BTree { suffix_bytes: 4 };

type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

fn header(layout: Layout) -> Header {
    Header { layout, index: INDEX, revision: REVISION }
}

/// The file of a run; the writer's buffer is emptied after each entry.
fn write(layout: Layout, entries: &Entries) -> (Bytes, Summary) {
    let (mut file, mut out) = (Vec::new(), Vec::new());
    let mut writer = Writer::start(header(layout), &mut out);
    for (key, value) in entries {
        writer.push(key, value, &mut out).unwrap();
        assert!(out.len() < 2 << 20, "no more than a block and a filter at once");
        file.append(&mut out);
    }
    let summary = writer.finish(&mut out);
    file.append(&mut out);
    (file.into(), summary)
}

/// A file in the backend, and what was read of it.
struct Stored {
    file: Bytes,
    reads: Vec<Range<u64>>,
}

impl Stored {
    fn new(file: Bytes) -> Self {
        Self { file, reads: Vec::new() }
    }

    fn read(&mut self, range: &Range<u64>) -> Bytes {
        self.reads.push(range.clone());
        self.file.slice(range.start as usize..range.end as usize)
    }

    fn open(&mut self, tail_bytes: u64) -> Result<Run, RunError> {
        let length = self.file.len() as u64;
        let mut range = length.saturating_sub(tail_bytes)..length;
        for _ in 0..2 {
            match Run::open(&self.read(&range), length)? {
                Opened::Run(run) => return Ok(*run),
                Opened::More(more) => range = more,
            }
        }
        panic!("TAIL_BYTES are enough");
    }

    /// The entries of the blocks that `located` gives, and of the rest.
    fn entries(&mut self, run: &mut Run, mut located: Located, interval: &Interval) -> Result<Entries, RunError> {
        let mut found = Entries::new();
        loop {
            let blocks = match located {
                Located::Blocks(blocks) => blocks,
                Located::Fences(range) => {
                    run.feed(range.start, &self.read(&range))?;
                    located = run.locate(interval)?;
                    continue;
                }
            };
            assert!(blocks.blocks.len() <= LOCATED_BLOCKS_MAX);
            for read in blocks.reads(1 << 20) {
                for block in run.decode_blocks(&read, &self.read(&read.range))? {
                    found.extend(block.range(interval).map(|entry| (entry.key, entry.value.to_vec())));
                }
            }
            let Some(rest) = blocks.rest else { return Ok(found) };
            located = run.locate(&rest)?;
            while let Located::Fences(range) = &located {
                run.feed(range.start, &self.read(range))?;
                located = run.locate(&rest)?;
            }
        }
    }

    fn locate(&mut self, run: &mut Run, interval: &Interval) -> Result<Entries, RunError> {
        let located = run.locate(interval)?;
        self.entries(run, located, interval)
    }

    fn find(&mut self, run: &mut Run, subject: &[u8]) -> Result<Entries, RunError> {
        let mut located = run.find(subject)?;
        while let Located::Fences(range) = &located {
            run.feed(range.start, &self.read(range))?;
            located = run.find(subject)?;
        }
        let mut found = self.entries(run, located, &run.interval_of(subject))?;
        found.retain(|key, _| run.info().layout.subject(key) == Some(subject));
        Ok(found)
    }

    fn load_filters(&mut self, run: &mut Run) -> Result<(), RunError> {
        if let Some(range) = run.missing_fences() {
            run.feed(range.start, &self.read(&range))?;
        }
        for range in run.missing_filters() {
            run.feed(range.start, &self.read(&range))?;
        }
        Ok(())
    }
}

/// Everything in a file, by way of every part of it.
fn read_all(file: &Bytes) -> Result<Entries, RunError> {
    let mut stored = Stored::new(file.clone());
    let mut run = stored.open(TAIL_BYTES)?;
    stored.load_filters(&mut run)?;
    let whole = run.whole();
    let entries = stored.locate(&mut run, &whole)?;
    for key in entries.keys().step_by(entries.len() / 40 + 1) {
        if let Some(subject) = run.info().layout.subject(key) {
            stored.find(&mut run, subject)?;
        }
    }
    Ok(entries)
}

fn random_bytes(rng: &mut StdRng, bytes: Range<usize>) -> Vec<u8> {
    (0..rng.random_range(bytes)).map(|_| rng.random()).collect()
}

/// Keys of many shapes, each at least eight bytes.
fn shapes(rng: &mut StdRng) -> Vec<(&'static str, Entries)> {
    let mut value = {
        let mut rng = StdRng::seed_from_u64(rng.random());
        move || random_bytes(&mut rng, 0..20)
    };
    let mut entries = |keys: Vec<Vec<u8>>| -> Entries { keys.into_iter().map(|key| (key, value())).collect() };
    let numbered = (0..20_000u64).map(|n| [&(n / 3).to_be_bytes()[..], &(n as u32).to_be_bytes()].concat()).collect();
    let one_subject = (0..30_000u32).map(|n| [b"the only", &n.to_be_bytes()[..]].concat()).collect();
    let few_subjects = (0..9_000u32).map(|n| [&[n as u8 % 5; 8][..], &n.to_be_bytes()].concat()).collect();
    let common = vec![b'x'; 3_000];
    let long_prefix = (0..300u32).map(|n| [&common[..], &n.to_be_bytes(), &n.to_le_bytes()].concat()).collect();
    let nested = (8..2_000).map(|length| vec![b'n'; length]).collect();
    let high = (0..500u32).map(|n| [&[0xff; 9][..], &n.to_be_bytes()].concat()).collect();
    let random = (0..20_000).map(|_| random_bytes(rng, 8..40)).collect();
    vec![
        ("none", entries(Vec::new())),
        ("one", entries(vec![b"the only one".to_vec()])),
        ("numbered", entries(numbered)),
        ("one subject", entries(one_subject)),
        ("few subjects", entries(few_subjects)),
        ("a long common prefix", entries(long_prefix)),
        ("each the start of the next", entries(nested)),
        ("the highest bytes", entries(high)),
        ("random", entries(random)),
    ]
}

/// A bound of an interval: a key, or near one.
fn bound(rng: &mut StdRng, keys: &[&Vec<u8>]) -> Vec<u8> {
    let mut key = if keys.is_empty() { Vec::new() } else { keys[rng.random_range(0..keys.len())].clone() };
    match rng.random_range(0..5) {
        0 => key.push(0),
        1 => key.truncate(rng.random_range(0..=key.len())),
        2 => key = random_bytes(rng, 0..12),
        3 => {
            if let Some(last) = key.last_mut() {
                *last = last.wrapping_add(1);
            }
        }
        _ => {}
    }
    key
}

#[test]
fn what_is_written_is_found_and_nothing_else() {
    let mut rng = StdRng::seed_from_u64(1);
    for (name, entries) in shapes(&mut rng) {
        for layout in [BTREE, Layout::BTree { suffix_bytes: 0 }, Layout::Hash] {
            let (file, summary) = write(layout, &entries);
            let subject = |key: &Vec<u8>| layout.subject(key).unwrap().to_vec();
            let subjects: BTreeSet<Vec<u8>> = entries.keys().map(subject).collect();
            assert_eq!((summary.entries, summary.bytes), (entries.len() as u64, file.len() as u64), "{name}");
            assert_eq!(summary.subjects, subjects.len() as u64, "{name}");
            assert_eq!(summary.crc64, crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, &file), "{name}");
            let mut stored = Stored::new(file.clone());
            let mut run = stored.open(TAIL_BYTES).unwrap();
            assert_eq!((run.info().entries, run.info().subjects), (summary.entries, summary.subjects), "{name}");
            assert_eq!((run.info().layout, run.info().index, run.info().revision), (layout, INDEX, REVISION));
            assert_eq!((&run.info().keys, run.info().bytes), (&summary.keys, summary.bytes), "{name}");
            assert_eq!(read_all(&file).unwrap(), entries, "{name}");
            assert_eq!(stranger::entries(&file), entries, "{name}");
            let blocks = stranger::check_fences(&file, layout == Layout::Hash, &subject);
            assert_eq!(blocks as u64, run.info().blocks, "{name}");

            let keys: Vec<&Vec<u8>> = entries.keys().collect();
            for _ in 0..60 {
                let interval = Interval { from: bound(&mut rng, &keys), to: bound(&mut rng, &keys) };
                let mut expected = Entries::new();
                if interval.from < interval.to {
                    let range = entries.range(interval.from.clone()..interval.to.clone());
                    expected = range.map(|(key, value)| (key.clone(), value.clone())).collect();
                }
                assert_eq!(stored.locate(&mut run, &interval).unwrap(), expected, "{name} {interval:?}");
            }
            for with_filters in [false, true] {
                if with_filters {
                    stored.load_filters(&mut run).unwrap();
                }
                for _ in 0..60 {
                    let wanted = bound(&mut rng, &keys);
                    let Some(wanted) = layout.subject(&wanted).map(<[u8]>::to_vec) else { continue };
                    let of_subject = entries.range(wanted.clone()..).take_while(|(key, _)| key.starts_with(&wanted));
                    let expected: Entries = of_subject
                        .filter(|(key, _)| subject(key) == wanted)
                        .map(|(key, value)| (key.clone(), value.clone()))
                        .collect();
                    assert_eq!(stored.find(&mut run, &wanted).unwrap(), expected, "{name} {wanted:?}");
                }
            }
        }
    }
}

/// Entries that make a run of several sections, whose filters are not in the tail.
fn large() -> Entries {
    let key = |n: u64| [&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[..], &(n as u32).to_be_bytes()].concat();
    (0..400_000).map(|n| (key(n), vec![n as u8; 100])).collect()
}

#[test]
fn a_lookup_reads_one_range_once_fence_blocks_are_in_memory() {
    let entries = large();
    for layout in [BTREE, Layout::Hash] {
        let (file, _) = write(layout, &entries);
        let mut stored = Stored::new(file);
        let mut run = stored.open(TAIL_BYTES).unwrap();
        assert_eq!(run.missing_fences(), None, "{layout:?}: fence blocks of a run of 40 MB are in the tail");
        assert_eq!(stored.reads.len(), 1, "{layout:?}");
        for key in entries.keys().step_by(997) {
            stored.reads.clear();
            assert_eq!(stored.find(&mut run, layout.subject(key).unwrap()).unwrap().len(), 1);
            assert_eq!(stored.reads.len(), 1, "{layout:?}");
            assert!(stored.reads[0].end - stored.reads[0].start < 34 << 10, "{layout:?}: one block");
        }
    }
}

#[test]
fn an_absent_subject_needs_no_read_once_filters_are_in_memory() {
    let entries = large();
    for layout in [BTREE, Layout::Hash] {
        let (file, _) = write(layout, &entries);
        let mut stored = Stored::new(file);
        let mut run = stored.open(TAIL_BYTES).unwrap();
        let Located::Blocks(blocks) = run.find(b"absent!!").unwrap() else { panic!("fence blocks are in memory") };
        assert_eq!((blocks.blocks.len(), blocks.unasked.len()), (1, 1), "{layout:?}: its filter is not in memory");
        run.feed(blocks.unasked[0].start, &stored.read(&blocks.unasked[0])).unwrap();
        stored.load_filters(&mut run).unwrap();
        assert!(run.missing_filters().is_empty());
        let mut rng = StdRng::seed_from_u64(2);
        stored.reads.clear();
        for _ in 0..10_000 {
            let absent: [u8; 8] = rng.random();
            assert_eq!(stored.find(&mut run, &absent).unwrap(), Entries::new());
        }
        assert!(stored.reads.len() < 200, "{layout:?}: {} of 10,000", stored.reads.len());
    }
}

/// Pairs of keys that differ in their last byte. A block ends between two of a pair, so that every fence but the first is as
/// long as a key, and none shares anything with its neighbour.
fn long_fences(pairs: usize, key_bytes: usize) -> Entries {
    let mut rng = StdRng::seed_from_u64(3);
    let mut entries = Entries::new();
    for _ in 0..pairs {
        let mut key: Vec<u8> = (0..key_bytes).map(|_| rng.random()).collect();
        for last in [1, 2] {
            key[key_bytes - 1] = last;
            entries.insert(key.clone(), vec![last; ENTRY_KEY_BYTES_MAX - key_bytes]);
        }
    }
    entries
}

#[test]
fn the_tail_is_enough_whatever_the_keys() {
    for pairs in [1, 2, 4, 5, 8, 9, 20, 75, 300] {
        let entries = long_fences(pairs, ENTRY_KEY_BYTES_MAX);
        let (file, _) = write(BTREE, &entries);
        let length = file.len() as u64;
        let tail = file.slice((length.saturating_sub(TAIL_BYTES)) as usize..);
        let Opened::Run(run) = Run::open(&tail, length).unwrap() else { panic!("{pairs} pairs") };
        assert_eq!(run.info().blocks, pairs as u64);
        assert_eq!(read_all(&file).unwrap(), entries);
        assert_eq!(stranger::check_fences(&file, false, &|key| key[..key.len() - 4].to_vec()), pairs);
        let (mut run, mut stored) = (*run, Stored::new(file));
        let mut reads = 0;
        for key in entries.keys().step_by(5) {
            stored.reads.clear();
            assert_eq!(stored.find(&mut run, &key[..key.len() - 4]).unwrap().len(), 2);
            reads = reads.max(stored.reads.len());
        }
        assert!(pairs < 300 || reads > 4, "fence blocks of several levels are fed one after the other: {reads}");
    }
}

#[test]
fn a_tail_of_any_length_is_a_run_or_asks_for_more() {
    for entries in [Entries::new(), shapes(&mut StdRng::seed_from_u64(4)).swap_remove(2).1] {
        let (file, _) = write(BTREE, &entries);
        for tail_bytes in (0..file.len() as u64 + 40).step_by(if entries.is_empty() { 1 } else { 173 }) {
            let mut stored = Stored::new(file.clone());
            let mut run = stored.open(tail_bytes).unwrap();
            let whole = run.whole();
            assert_eq!(stored.locate(&mut run, &whole).unwrap().len(), entries.len());
        }
        assert_eq!(Run::open(&file, file.len() as u64 - 1).err(), Some(RunError::NotARun), "more than there is");
    }
}

#[test]
fn a_long_interval_is_located_in_pieces() {
    let entries: Entries = (0..2_600u32).map(|n| (n.to_be_bytes().to_vec(), vec![0; 33 << 10])).collect();
    let (file, summary) = write(BTREE, &entries);
    let mut stored = Stored::new(file);
    let mut run = stored.open(TAIL_BYTES).unwrap();
    let Located::Blocks(blocks) = run.locate(&run.whole()).unwrap() else { panic!("fence blocks are in the tail") };
    assert_eq!((blocks.blocks.len(), summary.entries), (LOCATED_BLOCKS_MAX, 2_600));
    let rest = blocks.rest.unwrap();
    assert_eq!((rest.from, rest.to), (1024u32.to_be_bytes()[..3].to_vec(), run.whole().to), "from the fence on");
    let interval = Interval { from: 3u32.to_be_bytes().to_vec(), to: 2_590u32.to_be_bytes().to_vec() };
    assert_eq!(stored.locate(&mut run, &interval).unwrap().len(), 2_587);
    // The one subject of all entries is the empty one.
    assert_eq!(stored.find(&mut run, b"").unwrap().len(), 2_600);
}

fn small(layout: Layout) -> (Bytes, Entries) {
    let key = |n: u32| format!("{:08}{:04}", n / 3, n).into_bytes();
    let entries: Entries = (0..40).map(|n| (key(n), vec![n as u8; n as usize % 5])).collect();
    (write(layout, &entries).0, entries)
}

#[test]
fn every_lost_end_is_found() {
    for layout in [BTREE, Layout::Hash] {
        let (file, _) = small(layout);
        for end in 0..file.len() {
            assert!(read_all(&file.slice(..end)).is_err(), "{layout:?} up to {end}");
        }
    }
}

#[test]
fn every_flipped_byte_is_found() {
    for layout in [BTREE, Layout::Hash] {
        let (file, entries) = small(layout);
        assert_eq!(read_all(&file).unwrap(), entries);
        for at in 0..file.len() {
            for bit in [0x01, 0x80] {
                let mut bad = file.to_vec();
                bad[at] ^= bit;
                assert!(read_all(&bad.into()).is_err(), "{layout:?} byte {at}");
            }
        }
    }
}

#[test]
fn bytes_of_another_offset_or_run_are_refused() {
    let entries: Entries = (0..3u32).map(|n| (n.to_be_bytes().to_vec(), vec![0; 33 << 10])).collect();
    let (file, _) = write(BTREE, &entries);
    let run = Stored::new(file.clone()).open(TAIL_BYTES).unwrap();
    let Located::Blocks(blocks) = run.locate(&run.whole()).unwrap() else { panic!("fence blocks are in memory") };
    let [first, second, third] = blocks.blocks[..] else { panic!("each entry is a block") };
    let bytes = |block: &BlockAt| file.slice(block.at as usize..block.range().end as usize);
    assert_eq!((first.bytes, second.bytes), (third.bytes, third.bytes));
    assert!(run.decode_block(&first, &bytes(&first)).is_ok());
    assert!(run.decode_block(&first, &bytes(&second)).is_err(), "another block");
    assert!(run.decode_block(&first, &bytes(&first).slice(1..)).is_err(), "not whole");
    assert!(run.decode_block(&first, &Bytes::new()).is_err(), "nothing");
    for other in [Header { index: INDEX + 1, ..header(BTREE) }, Header { revision: REVISION + 1, ..header(BTREE) }] {
        let mut out = Vec::new();
        let mut writer = Writer::start(other, &mut out);
        entries.iter().for_each(|(key, value)| writer.push(key, value, &mut out).unwrap());
        writer.finish(&mut out);
        assert!(run.decode_block(&first, &Bytes::from(out).slice(16..16 + first.bytes as usize)).is_err(), "{other:?}");
    }
}

#[test]
fn what_is_not_built_is_refused_by_name() {
    let (file, _) = small(BTREE);
    let mut newer = file.to_vec();
    let format_at = file.len() - 12;
    newer[format_at] = 2;
    assert_eq!(read_all(&newer.into()), Err(RunError::UnknownFormat(2)));
    let mut packed = file.to_vec();
    packed[17] = 1;
    stranger::seal_again(&mut packed);
    assert_eq!(read_all(&packed.into()), Err(RunError::UnknownCodec(1)));
}

/// Anywhere behind the header; more often where lengths and offsets are: at both ends of a frame, and in the footer.
fn spot(rng: &mut StdRng, file: &[u8]) -> usize {
    let frames = stranger::frames(file);
    let near = rng.random_range(0..48);
    let frame = if frames.is_empty() { None } else { Some(&frames[rng.random_range(0..frames.len())]) };
    let at = match (rng.random_range(0..4), frame) {
        (0, Some(frame)) => frame.at + near,
        (1, Some(frame)) => (frame.at + 10 + frame.payload.len()).saturating_sub(1 + near),
        (2, _) => file.len() - 1 - near,
        _ => rng.random_range(16..file.len()),
    };
    at.clamp(16, file.len() - 1)
}

/// Bytes that a stranger made with right checksums: whatever they say, there is an answer.
#[test]
fn hostile_bytes_make_no_panic() {
    let mut rng = StdRng::seed_from_u64(5);
    let several = write(BTREE, &long_fences(30, 15_000)).0;
    let none = write(BTREE, &Entries::new()).0;
    for (file, rounds) in [(small(BTREE).0, 6_000), (small(Layout::Hash).0, 6_000), (several, 300), (none, 500)] {
        let mut refused = 0;
        for _ in 0..rounds {
            let mut bad = file.to_vec();
            for _ in 0..rng.random_range(1..4) {
                let at = spot(&mut rng, &bad);
                bad[at] = if rng.random() { rng.random() } else { bad[at] ^ (1 << rng.random_range(0..8)) };
            }
            stranger::seal_again(&mut bad);
            refused += usize::from(read_all(&bad.into()).is_err());
        }
        assert!(refused > rounds / 4, "{refused} of {rounds}");
    }
}

/// Fence blocks that share children would make the way down longer with each level.
#[test]
fn a_fence_block_with_two_parents_is_damage() {
    let (file, _) = write(BTREE, &long_fences(60, ENTRY_KEY_BYTES_MAX));
    let frames = stranger::frames(&file);
    let is_parent = |frame: &&stranger::Frame<'_>| frame.kind == 2 && frame.payload[0] == 1;
    let parents: Vec<usize> = frames.iter().filter(is_parent).map(|frame| frame.at).collect();
    let mut bad = file.to_vec();
    // Where the first child is stands behind the frame's head and the level.
    bad.copy_within(parents[1] + 11..parents[1] + 19, parents[2] + 11);
    stranger::seal_again(&mut bad);
    let error = read_all(&bad.into()).err();
    assert!(matches!(error, Some(RunError::Damaged { what: "the order of fence blocks", .. })), "{error:?}");
}

#[test]
fn stored_bytes_are_as_they_were() {
    for (name, layout) in [("btree", BTREE), ("hash", Layout::Hash)] {
        let (file, entries) = small(layout);
        let path = std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/runs/{name}.hex"));
        let digits = hex(&file);
        let lines: Vec<&str> = (0..digits.len()).step_by(96).map(|at| &digits[at..digits.len().min(at + 96)]).collect();
        let text = format!("# {} entries, index {INDEX}, revision {REVISION}\n{}\n", entries.len(), lines.join("\n"));
        #[allow(clippy::disallowed_methods)] // The files are the test.
        let golden = {
            if !path.exists() && std::env::var("HOLDFAST_GOLDEN").is_ok_and(|value| value == "write") {
                std::fs::write(&path, &text).unwrap();
            }
            std::fs::read_to_string(&path).unwrap()
        };
        assert_eq!(golden, text, "{name}: what was stored once must be read for ever");
        let digits: Vec<u8> = golden.lines().skip(1).flat_map(str::bytes).collect();
        let digit = |digit: u8| char::from(digit).to_digit(16).unwrap() as u8;
        let stored: Vec<u8> = digits.chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect();
        assert_eq!(read_all(&stored.into()).unwrap(), entries, "{name}");
    }
}

#[test]
fn the_footers_fields_are_those_of_the_formats() {
    let formats = include_str!("../../docs/formats.md");
    let listed = |marker: &str| -> Vec<u64> {
        let rows = formats.lines().skip_while(|line| *line != marker).skip(3).take_while(|line| line.starts_with('|'));
        rows.map(|row| row.split('|').nth(1).unwrap().trim().parse().unwrap()).collect()
    };
    let (file, _) = small(BTREE);
    let mut footer = Tree::parse(stranger::footer(&file));
    let numbers = |tree: &Tree| -> Vec<u64> {
        let Tree::Map(fields) = tree else { panic!("a record is a map") };
        fields.iter().map(|(key, _)| if let Tree::Number(number) = key { *number } else { panic!("{key:?}") }).collect()
    };
    assert_eq!(listed("<!-- footer of a run -->"), numbers(&footer));
    assert_eq!(listed("<!-- footer of a run 7 -->"), numbers(footer.at(&[7])));
}

fn entry(key: u8, value: &'static [u8]) -> Entry {
    Entry { key: vec![key], value: Bytes::from_static(value) }
}

#[test]
fn a_merge_gives_the_newest_of_each_key() {
    let newest = vec![entry(2, b"new"), entry(4, b""), entry(6, b"new")];
    let middle = vec![entry(1, b"mid"), entry(2, b"mid"), entry(4, b"mid")];
    let oldest = vec![entry(2, b"old"), entry(4, b"old"), entry(5, b"old"), entry(6, b"old")];
    let sources: Vec<_> =
        [newest, middle, oldest].into_iter().map(|entries| entries.into_iter().map(Ok::<_, ()>)).collect();
    let merged: Vec<Entry> = merge(sources, |entry| !entry.value.is_empty()).map(Result::unwrap).collect();
    // What ends 4 ends the older ones, too.
    assert_eq!(merged, [entry(1, b"mid"), entry(2, b"new"), entry(5, b"old"), entry(6, b"new")]);
    let none: Vec<std::vec::IntoIter<Result<Entry, ()>>> = Vec::new();
    assert_eq!(merge(none, |_| true).count(), 0);
}

#[test]
fn a_merge_ends_with_an_error() {
    let sources = vec![vec![Ok(entry(1, b"")), Err("lost"), Ok(entry(2, b""))], vec![Ok(entry(3, b""))]];
    let sources: Vec<_> = sources.into_iter().map(Vec::into_iter).collect();
    let merged: Vec<Result<Entry, &str>> = merge(sources, |_| true).take(9).collect();
    assert_eq!(merged, [Ok(entry(1, b"")), Err("lost")]);
}

#[test]
fn a_merge_of_random_runs_is_the_merge_of_maps() {
    let mut rng = StdRng::seed_from_u64(6);
    for sources in [1u8, 2, 3, 9] {
        let mut maps: Vec<Entries> = Vec::new();
        for source in 0..sources {
            let mut key = || rng.random_range(0..3_000u64).to_be_bytes().to_vec();
            maps.push((0..1_000).map(|_| (key(), vec![source])).collect());
        }
        let mut expected = Entries::new();
        maps.iter().rev().for_each(|map| expected.extend(map.clone()));
        expected.retain(|key, value| (usize::from(key[7]) + usize::from(value[0])) % 5 != 0);
        let runs = maps.iter().map(|map| read_all(&write(Layout::Hash, map).0).unwrap());
        let of_run = |run: Entries| run.into_iter().map(|(key, value)| Ok::<_, ()>(Entry { key, value: value.into() }));
        let keep = |entry: &Entry| (usize::from(entry.key[7]) + usize::from(entry.value[0])) % 5 != 0;
        let merged = merge(runs.map(of_run).collect(), keep).map(Result::unwrap);
        let merged: Vec<(Vec<u8>, Vec<u8>)> = merged.map(|entry| (entry.key, entry.value.to_vec())).collect();
        assert_eq!(merged, expected.into_iter().collect::<Vec<_>>());
    }
}
