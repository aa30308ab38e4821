//! What a job does about runs, at random moments, with files in memory; then each promise of the commands by itself.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use holdfast_core::error::Error;
use holdfast_core::index::row::RunState;
use holdfast_core::index::run::{self, Located, Opened, Run, Writer};

use super::*;

/// The files of runs, and the one that is being written.
#[derive(Default)]
pub(super) struct Store {
    pub(super) files: BTreeMap<String, Bytes>,
    written: Option<AddRun>,
    /// Whether something else happens between the beginning of a run and the snapshot that is written.
    overtaken: bool,
    done: Done,
}

/// What histories came to: each must happen, or the test says nothing.
#[derive(Debug, Default)]
pub(super) struct Done {
    demoted: usize,
    merged: usize,
    lost: usize,
    refused: usize,
    dead: usize,
}

impl Done {
    pub(super) fn add(&mut self, world: &World) {
        let Done { demoted, merged, lost, refused, dead } = &world.store.done;
        self.demoted += demoted;
        self.merged += merged;
        self.lost += lost;
        self.refused += refused;
        self.dead += dead;
    }

    pub(super) fn check(&self, seeds: u64) {
        let counts = [self.demoted, self.merged, self.lost, self.refused, self.dead];
        assert!(seeds < 60 || counts.iter().all(|count| *count > 0), "{self:?}");
    }
}

impl Store {
    fn open(&self, run: &IndexRun) -> Run {
        let file = &self.files[&run.row.path];
        assert_eq!(file.len() as u64, run.row.bytes);
        // As a reader opens it: what lies from the fence blocks on.
        let tail = file.slice(run.row.fences_at as usize..);
        let Opened::Run(opened) = Run::open(&tail, run.row.bytes).unwrap() else { panic!("the tail is whole") };
        assert_eq!((opened.info().index, opened.info().revision), (run.index, run.revision));
        assert_eq!(opened.info().entries, run.row.entries);
        *opened
    }

    fn read(&self, run: &IndexRun, opened: &Run, located: Located, interval: &Interval) -> Vec<run::Entry> {
        let Located::Blocks(blocks) = located else { panic!("all fence blocks are in memory") };
        assert_eq!(blocks.rest, None, "runs of tests are small");
        let mut found = Vec::new();
        for read in blocks.reads(1 << 20) {
            let bytes = self.files[&run.row.path].slice(read.range.start as usize..read.range.end as usize);
            for block in opened.decode_blocks(&read, &bytes).unwrap() {
                found.extend(block.range(interval));
            }
        }
        found
    }

    fn entries(&self, run: &IndexRun) -> Vec<run::Entry> {
        let opened = self.open(run);
        let whole = opened.whole();
        self.read(run, &opened, opened.locate(&whole).unwrap(), &whole)
    }

    /// What runs hold of intervals.
    pub(super) fn seek(&self, runs: &[IndexRun], index: &IndexInfo, intervals: &[Interval]) -> Vec<RunHit> {
        let mut hits = Vec::new();
        for run in runs {
            let opened = self.open(run);
            for seek in seeks(index, intervals).unwrap() {
                let found = match seek {
                    Seek::Subject(subject) => {
                        let located = opened.find(&subject).unwrap();
                        self.read(run, &opened, located, &opened.interval_of(&subject))
                    }
                    Seek::Interval(interval) => self.read(run, &opened, opened.locate(&interval).unwrap(), &interval),
                };
                hits.extend(found.iter().map(|entry| read_hit(&entry.key, &entry.value).unwrap()));
            }
        }
        hits
    }

    fn write(&mut self, path: String, header: run::Header, entries: &[run::Entry]) -> Option<run::Summary> {
        let mut out = Vec::new();
        let mut writer = Writer::start(header, &mut out);
        entries.iter().for_each(|entry| writer.push(&entry.key, &entry.value, &mut out).unwrap());
        let summary = writer.finish(&mut out);
        assert!(self.files.insert(path, out.into()).is_none(), "a file is never overwritten");
        (summary.entries > 0).then_some(summary)
    }
}

impl World {
    fn runs(&self, index: &IndexInfo) -> Vec<IndexRun> {
        self.with(|view, _| view.runs_of_index(&maintain(), index.id).unwrap())
    }

    /// Begins a run; `None` when that is refused.
    fn begin(&mut self, index: &IndexInfo) -> Option<IndexRun> {
        let op = BeginRun { bucket: self.bucket.clone(), name: index.name.clone(), index: index.id };
        match self.machine.run(Op::BeginRun(op)) {
            Reply::Done => self.with(|view, _| view.begun_run(&maintain(), index.id).unwrap()),
            refused => {
                assert_eq!(refused, Reply::Refused(Error::Changed));
                None
            }
        }
    }

    /// Writes a run of what the state holds, or of runs; names it later.
    fn write_run(&mut self, index: &IndexInfo, merged: &[IndexRun]) {
        let Some(begun) = self.begin(index) else { return };
        if self.store.overtaken {
            // The snapshot that is written is of a later state.
            let key = *self.dice.pick(&KEYS);
            self.put(key, "4,4,1", "y", false);
        }
        let (revision, mut dead) = (self.machine.revision, 0);
        let (entries, through) = self.with(|view, _| {
            if merged.is_empty() {
                let entries = view.entries_for_run(&maintain(), index.id).unwrap();
                return (entries.collect::<Result<Vec<_>, _>>().unwrap(), revision);
            }
            let all: usize = merged.iter().map(|run| self.store.entries(run).len()).sum();
            let sources = merged.iter().rev().map(|run| self.store.entries(run).into_iter().map(Ok::<_, ()>));
            let is_live = |entry: &run::Entry| {
                let hit = read_hit(&entry.key, &entry.value).unwrap();
                view.is_live_posting(&maintain(), index.id, hit.posting).unwrap()
            };
            let entries = run::merge(sources.collect(), is_live).collect::<Result<Vec<_>, _>>().unwrap();
            dead = all - entries.len();
            (entries, merged.iter().map(|run| run.row.through).max().unwrap())
        });
        self.store.done.dead += dead;
        let header = run::Header { layout: layout(index.kind), index: index.id, revision: begun.revision };
        let summary = self.store.write(begun.row.path, header, &entries);
        let written = summary.map(|summary| {
            let run::Summary { bytes, entries, fences_at, .. } = summary;
            WrittenRun { through, bytes, entries, fences_at }
        });
        let replaces = merged.iter().map(|run| run.revision).collect();
        let (bucket, name) = (self.bucket.clone(), index.name.clone());
        let add = AddRun { bucket, name, index: index.id, run: begun.revision, replaces, written };
        self.store.written = Some(add);
    }

    fn add_written(&mut self) -> Option<Reply> {
        let op = self.store.written.take()?;
        let merges = !op.replaces.is_empty();
        let reply = self.machine.run(Op::AddRun(op));
        self.store.done.refused += usize::from(reply != Reply::Done);
        self.store.done.merged += usize::from(merges && reply == Reply::Done);
        Some(reply)
    }

    /// Removes some entries from the state that runs hold; whether there was something to do.
    fn trim_state(&mut self, index: &IndexInfo, entries_max: usize) -> bool {
        let untrimmed = self.runs(index).into_iter().filter(|run| !run.row.trimmed);
        let Some(through) = untrimmed.map(|run| run.row.through).max() else { return false };
        let page = self.with(|view, _| view.demotable(&maintain(), index.id, through, None, entries_max).unwrap());
        self.store.done.demoted += page.postings.len();
        let op = DemoteEntries {
            bucket: self.bucket.clone(),
            name: index.name.clone(),
            index: index.id,
            trimmed: page.more_after.is_none().then_some(through),
            postings: page.postings,
        };
        assert_eq!(self.machine.run(Op::DemoteEntries(op)), Reply::Done);
        true
    }

    /// One thing that a job does about runs.
    pub(super) fn run_step(&mut self) {
        if self.store.written.is_some() {
            if self.dice.once_in(3) {
                self.overtake();
            }
            drop(self.add_written());
            return;
        }
        let indexes = self.indexes();
        let Some(index) = indexes.get(self.dice.below(3) as usize).cloned() else { return };
        let runs = self.runs(&index);
        self.store.overtaken = self.dice.once_in(3);
        match self.dice.below(12) {
            0..=4 => self.write_run(&index, &[]),
            5..=8 => drop(self.trim_state(&index, 4)),
            9 | 10 if runs.len() > 1 => {
                let some = if self.dice.once_in(2) { &runs[..2] } else { &runs[..] };
                self.write_run(&index, some);
            }
            11 if self.dice.once_in(4) && !runs.is_empty() => {
                assert_eq!(self.lose(&index, runs[0].revision), Reply::Done);
                self.store.done.lost += 1;
            }
            _ => self.collect_runs(),
        }
    }

    /// Something that condemns the run which is being written.
    fn overtake(&mut self) {
        let written = self.store.written.as_ref().map(|run| run.name.clone()).unwrap_or_default();
        let index = self.index(&written);
        match self.runs(&index).first() {
            Some(run) if self.dice.once_in(2) => assert_eq!(self.lose(&index, run.revision), Reply::Done),
            _ => drop(self.begin(&index)),
        }
    }

    fn lose(&mut self, index: &IndexInfo, run: u64) -> Reply {
        let (bucket, name) = (self.bucket.clone(), index.name.clone());
        self.machine.run(Op::LoseRun(LoseRun { bucket, name, index: index.id, run }))
    }

    /// Deletes the files of condemned runs.
    pub(super) fn collect_runs(&mut self) {
        let condemned = self.with(|view, _| view.condemned_runs(&maintain(), None, 100).unwrap());
        condemned.iter().for_each(|run| drop(self.store.files.remove(&run.row.path)));
        let runs = condemned.iter().map(|run| run.run).collect();
        assert_eq!(self.machine.run(Op::ForgetRuns(ForgetRuns { runs })), Reply::Done);
    }

    /// Brings to an end what was begun.
    pub(super) fn finish_runs(&mut self) {
        self.store.overtaken = false;
        drop(self.add_written());
        for index in self.indexes() {
            // Nobody writes it any more.
            if let Some(begun) = self.with(|view, _| view.begun_run(&maintain(), index.id).unwrap()) {
                let (bucket, name) = (self.bucket.clone(), index.name.clone());
                let (run, replaces, written) = (begun.revision, Vec::new(), None);
                let give_up = AddRun { bucket, name, index: index.id, run, replaces, written };
                assert_eq!(self.machine.run(Op::AddRun(give_up)), Reply::Done);
            }
            while self.trim_state(&index, 4) {}
        }
    }

    pub(super) fn merge_all(&mut self) {
        self.finish_runs();
        for index in self.indexes() {
            let runs = self.runs(&index);
            if !runs.is_empty() {
                self.write_run(&index, &runs);
                assert_eq!(self.add_written(), Some(Reply::Done));
            }
        }
    }

    /// The counters are what the rows say.
    pub(super) fn check_counts(&self, seed: u64) {
        use holdfast_core::keyspace::key::index as key;
        let rows = self.machine.rows();
        let rows_under = |prefix: Vec<u8>| {
            rows.iter().filter(move |row| row.0 == Keyspace::Indexes && row.1.starts_with(&prefix)).cloned()
        };
        let bytes_of = |prefix: Vec<u8>, posting_of: &dyn Fn(&[u8]) -> row::Posting, live: &BTreeSet<row::Posting>| {
            let live = rows_under(prefix).filter(|row| live.contains(&posting_of(&row.1)));
            live.map(|row| (row.1.len() + row.2.len()) as u64).sum::<u64>()
        };
        for index in self.indexes() {
            let objects = rows_under(key::object(index.id, ""))
                .map(|row| holdfast_core::record::Record::decode(&row.2).map(|row: row::ObjectIndexRow| row).unwrap());
            let objects: Vec<row::ObjectIndexRow> = objects.collect();
            let live: BTreeSet<row::Posting> = objects.iter().filter_map(|object| object.posting).collect();
            let entries = bytes_of(key::entries(index.id, &[]), &|key| key::entry_parts(key).unwrap().1, &live);
            let blocks = bytes_of(key::blocks(index.id), &|key| key::block_posting(key).unwrap(), &live);
            let is = |known| objects.iter().filter(|object| object.known == known).count() as u64;
            let runs = self.runs(&index);
            assert_eq!(
                (index.objects, index.entries, index.pending, index.unparsed),
                (
                    live.len() as u64,
                    objects.iter().map(|object| u64::from(object.entries)).sum(),
                    is(row::Known::Pending),
                    is(row::Known::Unparsed)
                ),
                "seed {seed}: {}",
                index.name
            );
            assert_eq!((index.bytes, index.block_bytes), (entries + blocks, blocks), "seed {seed}: {}", index.name);
            let run_bytes = runs.iter().map(|run| run.row.bytes).sum();
            assert_eq!((index.runs as usize, index.run_bytes), (runs.len(), run_bytes), "seed {seed}");
        }
    }
}

/// A world with an index whose entries are all in one run.
fn demoted() -> (World, IndexInfo) {
    let mut world = World::new(1);
    world.create("tree", "a/", IndexKind::BTree, false, &[tenant(), field()]);
    for key in ["a/1", "a/2", "a/3"] {
        world.put(key, "1,2,3", "x", false);
    }
    let index = world.index("tree");
    world.write_run(&index, &[]);
    assert_eq!(world.add_written(), Some(Reply::Done));
    while world.trim_state(&index, 1) {}
    let index = world.index("tree");
    assert_eq!((index.bytes, index.runs, index.entries, index.objects), (0, 1, 9, 3));
    (world, index)
}

fn x_and(number: i64) -> [Constraint<'static>; 2] {
    [Constraint::Equal(vec![Value::Text("x")]), Constraint::Equal(vec![Value::Integer(number)])]
}

fn found_keys(world: &World, wanted: &[Constraint<'_>]) -> (Vec<String>, Vec<String>) {
    let found = world.search(&world.index("tree"), wanted);
    let rows = found.rows.iter().map(|object| object.key.as_str().to_owned()).collect();
    (rows, found.whole.iter().map(|key| key.as_str().to_owned()).collect())
}

fn keys<const N: usize>(keys: [&str; N]) -> Vec<String> {
    keys.map(str::to_owned).to_vec()
}

#[test]
fn entries_in_a_run_are_found_and_overwritten_like_those_in_the_state() {
    let (mut world, _) = demoted();
    assert_eq!(found_keys(&world, &x_and(2)), (keys(["a/1", "a/2", "a/3"]), vec![]));
    world.put("a/1", "7", "x", false);
    world.machine.delete(&world.bucket.clone(), "a/2", None);
    assert_eq!(found_keys(&world, &x_and(2)), (keys(["a/3"]), vec![]));
    assert_eq!(found_keys(&world, &x_and(7)), (keys(["a/1"]), vec![]));
    world.check_counts(1);
}

#[test]
fn a_copy_or_new_tags_of_what_a_run_holds_wait_to_be_read() {
    let (mut world, _) = demoted();
    let nonce = world.machine.blob_id();
    let (from, to) = (source(&world.bucket, "a/1"), target(&world.bucket, "a/4"));
    let copy = CopyObject { source: from, target: to, attributes: None, tags: None, checksum: None, nonce };
    world.machine.run(Op::CopyObject(copy));
    let tags = BTreeMap::from([("t".into(), "y".into())]);
    let op = SetTags { bucket: world.bucket.clone(), key: "a/2".parse().unwrap(), version: None, tags };
    world.machine.run(Op::SetTags(op));
    assert_eq!(found_keys(&world, &x_and(2)), (keys(["a/1", "a/3"]), keys(["a/2", "a/4"])));
    assert_eq!(world.index("tree").pending, 2);
    world.check_counts(1);
    world.work(false);
    let (rows, whole) = found_keys(&world, &x_and(2));
    assert!(!rows.contains(&"a/2".to_owned()) && whole.is_empty(), "{rows:?} {whole:?}");
}

#[test]
fn a_run_that_is_lost_is_built_anew_and_answers_stay_exact() {
    let (mut world, index) = demoted();
    let run = world.runs(&index)[0].revision;
    world.store.files.clear();
    assert_eq!(world.lose(&index, run), Reply::Done);
    assert_eq!(found_keys(&world, &x_and(2)), (vec![], keys(["a/1", "a/2", "a/3"])), "until then all is read");
    assert_eq!(world.lose(&index, run), Reply::Refused(Error::Changed), "once");
    world.check_counts(1);
    world.work(false);
    world.check_counts(1);
    let index = world.index("tree");
    assert_eq!((&index.state, index.runs, index.entries), (&IndexState::Ready, 0, 9));
    assert_eq!(found_keys(&world, &x_and(2)).1, [""; 0]);
}

#[test]
fn whoever_comes_too_late_with_a_run_is_refused() {
    let (mut world, index) = demoted();
    let runs = world.runs(&index);
    let (bucket, name) = (world.bucket.clone(), index.name.clone());
    let written = WrittenRun { through: 1, bytes: 100, entries: 1, fences_at: 50 };
    let add = |world: &mut World, run, replaces: &[u64], written: Option<&WrittenRun>| {
        let (bucket, name) = (bucket.clone(), name.clone());
        let (replaces, written) = (replaces.to_vec(), written.cloned());
        world.machine.run(Op::AddRun(AddRun { bucket, name, index: index.id, run, replaces, written }))
    };
    let first = world.begin(&index).unwrap().revision;
    let second = world.begin(&index).unwrap().revision;
    assert_eq!(add(&mut world, first, &[], Some(&written)), Reply::Refused(Error::Changed), "another began");
    assert_eq!(add(&mut world, second, &[first], Some(&written)), Reply::Refused(Error::Changed), "not live");
    let future = WrittenRun { through: u64::MAX, ..written.clone() };
    assert!(matches!(add(&mut world, second, &[], Some(&future)), Reply::Refused(Error::InvalidArgument { .. })));
    assert!(
        matches!(
            add(&mut world, second, &[runs[0].revision], Some(&written)),
            Reply::Refused(Error::InvalidArgument { .. })
        ),
        "it does not hold what it replaces"
    );
    assert_eq!(add(&mut world, second, &[], None), Reply::Done, "given up");
    let condemned = world.with(|view, _| view.condemned_runs(&maintain(), None, 10).unwrap());
    let states: Vec<_> = condemned.iter().map(|run| (run.run.run, run.row.state)).collect();
    assert_eq!(states, [(first, RunState::Writing), (second, RunState::Writing)]);
    assert_eq!(world.runs(&index), runs);
    world.put("a/9", "9", "x", false);
    let revision = world.machine.revision;
    let demote = DemoteEntries {
        bucket: bucket.clone(),
        name: name.clone(),
        index: index.id,
        postings: vec![row::Posting { revision, ordinal: 0 }],
        trimmed: None,
    };
    assert_eq!(world.machine.run(Op::DemoteEntries(demote)), Reply::Refused(Error::Changed), "no run holds it");
    assert_eq!(found_keys(&world, &x_and(9)).0, ["a/9"]);
}

#[test]
fn a_unique_index_stays_in_the_state() {
    let mut world = World::new(1);
    world.create("unique", "", IndexKind::BTree, true, &[field()]);
    let index = world.index("unique");
    let op = BeginRun { bucket: world.bucket.clone(), name: index.name, index: index.id };
    assert!(matches!(world.machine.run(Op::BeginRun(op)), Reply::Refused(Error::InvalidArgument { .. })));
}
