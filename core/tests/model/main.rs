//! Long random command lists against a naive model of S3.
//!
//! One seed is one run: commands are generated from the model's state, applied to the rules and to the model, and compared;
//! then the same list is replayed, chunked, cut by a snapshot and applied twice, and must give the same bytes. At the end
//! everything is deleted and trimmed, and nothing but bookkeeping may be left.
//!
//! `HOLDFAST_MODEL_SEEDS=N` runs N seeds instead of a few, `HOLDFAST_MODEL_SEED=S` only that one. A failure prints its
//! seed and the shortest list of commands that was found to fail.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::disallowed_types)] // Settings of a run; a shared cache.

mod compare;
mod content;
mod generate;
mod invariants;
mod naive;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use holdfast_core::apply::apply;
use holdfast_core::command::*;
use holdfast_core::error::Error;
use holdfast_core::id::*;
use holdfast_core::keyspace::{Keyspace, key, key::Queue};
use holdfast_core::kv::{Batch, Direction, KeyRange, Kv, KvRead, MemKv, MemView, Overlay};
use holdfast_core::rules::BLOB_AGE_MS_MAX;
use holdfast_core::snapshot::{Decoder, Encoder, Piece};

use compare::Comparison;
use content::Content;
use generate::Generator;
use naive::Naive;
use support::Dice;

/// Seeds of a run without settings: a minute on the small machine that runs CI.
const SEEDS: u64 = 80;
const COMMANDS: usize = 500;

/// The rows of a keyspace.
fn rows(view: &MemView, keyspace: Keyspace) -> impl Iterator<Item = (Bytes, Bytes)> + '_ {
    view.scan(keyspace, KeyRange::prefix(&[]), Direction::Forward).map(Result::unwrap)
}

/// Commands with the revisions that they were applied at: kept when others are left out, so that ids stay as they are.
type Script = Vec<(u64, Command)>;

/// The rules and the model, side by side.
struct Pair {
    kv: MemKv,
    naive: Naive,
    revision: u64,
    dice: Dice,
}

impl Pair {
    fn new(seed: u64, uploaded: BTreeMap<BlobId, Content>) -> Self {
        let naive = Naive { blobs: uploaded, ..Naive::default() };
        Self { kv: MemKv::default(), naive, revision: 0, dice: Dice::new(seed ^ 0x5eed) }
    }

    /// Applies a command to both, and again to the rules.
    fn step(&mut self, revision: u64, command: &Command) -> Result<Reply, String> {
        let view = self.kv.view();
        let stopped = |stop| format!("the node stops: {stop:?}");
        let applied = apply(&view, revision, command).map_err(stopped)?;
        self.naive.apply(revision, command, &applied.reply, &view)?;
        drop(view);
        self.kv.commit(applied.batch).unwrap();
        self.revision = revision;
        let again = apply(&self.kv.view(), revision + 1, command).map_err(stopped)?;
        if again.reply != applied.reply || !again.batch.is_empty() {
            return Err(format!("applied twice, the reply is {:?}, not {:?}", again.reply, applied.reply));
        }
        Ok(applied.reply)
    }

    fn check(&mut self, whole: bool) -> Result<(), String> {
        let view = self.kv.view();
        let mut comparison = Comparison::new(&view, self.revision, &self.naive, &mut self.dice);
        comparison.listings()?;
        if whole {
            comparison.objects()?;
            invariants::check(&view)?;
        }
        Ok(())
    }
}

/// Generates and runs the commands of a seed; gives them, and what went wrong with the last one.
fn run(seed: u64, commands: usize) -> (Script, BTreeMap<BlobId, Content>, Result<Pair, String>) {
    let mut generator = Generator::new(seed);
    let mut pair = Pair::new(seed, BTreeMap::new());
    let mut script = Script::new();
    for number in 0..commands {
        let revision = pair.revision + 1 + u64::from(number % 50 == 49);
        let command = generator.next(&pair.naive, &pair.kv.view());
        pair.naive.blobs.clone_from(&generator.uploaded);
        script.push((revision, command.clone()));
        let outcome = guarded(|| pair.step(revision, &command).and_then(|_| pair.check(number % 4 == 3)));
        if let Err(why) = outcome {
            return (script, generator.uploaded, Err(why));
        }
    }
    (script, generator.uploaded, Ok(pair))
}

/// A panic is a failure like others, so that it can be made shorter.
fn guarded<T>(body: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(format!(
            "it panics: {}",
            text.or(panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default()
        ))
    })
}

/// Runs a script with every check after every command; where and why it fails, if it does.
fn first_failure(seed: u64, script: &Script, uploaded: &BTreeMap<BlobId, Content>) -> Option<(usize, String)> {
    let mut pair = Pair::new(seed, uploaded.clone());
    for (at, (revision, command)) in script.iter().enumerate() {
        let outcome = guarded(|| pair.step(*revision, command).and_then(|_| pair.check(true)));
        if let Err(why) = outcome {
            return Some((at, why));
        }
    }
    None
}

/// Leaves out what the failure does not need, in ever smaller pieces.
fn shortened(seed: u64, mut script: Script, uploaded: &BTreeMap<BlobId, Content>, why: String) -> (Script, String) {
    let Some((at, mut why)) = first_failure(seed, &script, uploaded) else { return (script, why) };
    script.truncate(at + 1);
    let mut piece = script.len() / 2;
    while piece > 0 {
        let mut from = 0;
        while from < script.len() {
            let mut shorter = script.clone();
            shorter.drain(from..(from + piece).min(script.len()));
            match first_failure(seed, &shorter, uploaded) {
                Some((at, shorter_why)) => {
                    why = shorter_why;
                    script = shorter;
                    script.truncate(at + 1);
                }
                None => from += piece,
            }
        }
        piece /= 2;
    }
    (script, why)
}

fn fail(seed: u64, script: Script, uploaded: &BTreeMap<BlobId, Content>, why: String) -> ! {
    std::panic::set_hook(Box::new(|_| {}));
    let generated = script.len();
    let (script, why) = shortened(seed, script, uploaded, why);
    let _ = std::panic::take_hook();
    let mut text = String::new();
    for (revision, command) in &script {
        text.push_str(&format!("{revision} at {}: {:?}\n", command.stamp_ms, command.op));
    }
    panic!("seed {seed} fails; {} of {generated} commands are enough:\n{text}{why}", script.len());
}

fn seeds() -> Vec<u64> {
    let setting = |name| std::env::var(name).ok().map(|value: String| value.parse().expect("a number of seeds"));
    match setting("HOLDFAST_MODEL_SEED") {
        Some(seed) => vec![seed],
        None => (0..setting("HOLDFAST_MODEL_SEEDS").unwrap_or(SEEDS)).collect(),
    }
}

#[test]
fn random_commands_agree_with_the_model() {
    for seed in seeds() {
        let (script, uploaded, outcome) = run(seed, COMMANDS);
        let outcome = outcome.and_then(|mut pair| {
            guarded(|| {
                replays_give_equal_bytes(seed, &script, &pair)?;
                old_commands_change_nothing(&script, &pair)?;
                nothing_is_left(&mut pair)
            })
        });
        if let Err(why) = outcome {
            fail(seed, script, &uploaded, why);
        }
    }
}

/// One by one on a fresh engine, in chunks through one overlay, and continued from a copy at some prefix.
fn replays_give_equal_bytes(seed: u64, script: &Script, pair: &Pair) -> Result<(), String> {
    let mut dice = Dice::new(seed ^ 0x0dd);
    let (one_by_one, chunked) = (MemKv::default(), MemKv::default());
    let mut continued = MemKv::default();
    let snapshot_at = dice.below(script.len() as u64) as usize;
    for (at, (revision, command)) in script.iter().enumerate() {
        for kv in [&one_by_one, &continued] {
            let applied = apply(&kv.view(), *revision, command).map_err(|stop| format!("{stop:?}"))?;
            kv.commit(applied.batch).unwrap();
        }
        if at == snapshot_at {
            continued = copied(&continued.view());
        }
    }
    let mut rest = &script[..];
    while !rest.is_empty() {
        let (chunk, later) = rest.split_at(rest.len().min(1 + dice.below(30) as usize));
        rest = later;
        let mut overlay = Overlay::new(chunked.view());
        for (revision, command) in chunk {
            let applied = apply(&overlay, *revision, command).map_err(|stop| format!("{stop:?}"))?;
            overlay.merge(applied.batch);
        }
        chunked.commit(overlay.into_batch()).unwrap();
    }
    let expected = pair.kv.view();
    for (kv, how) in [(one_by_one, "one by one"), (chunked, "in chunks"), (continued, "from a snapshot")] {
        if kv.view() != expected {
            return Err(format!("replayed {how}, the rows differ"));
        }
    }
    Ok(())
}

/// The same state on another node, by way of a snapshot.
fn copied(view: &MemView) -> MemKv {
    let (mut bytes, kv, mut decoder) = (Vec::new(), MemKv::default(), Decoder::default());
    let mut encoder = Encoder::start(&mut bytes);
    for (keyspace, key, value) in view.rows() {
        encoder.row(keyspace, key, value, &mut bytes).unwrap();
    }
    encoder.finish(1, &mut bytes);
    for chunk in bytes.chunks(10_000) {
        decoder.feed(chunk);
        while let Some(Piece::Rows(rows)) = decoder.next_piece().unwrap() {
            let mut batch = Batch::default();
            rows.into_iter().for_each(|row| batch.put(row.keyspace, row.key.to_vec(), row.value));
            kv.commit(batch).unwrap();
        }
    }
    decoder.finish().unwrap();
    kv
}

/// A command that comes again much later gives its reply or is expired, and in no case does anything.
fn old_commands_change_nothing(script: &Script, pair: &Pair) -> Result<(), String> {
    for (_, command) in script {
        let applied = apply(&pair.kv.view(), pair.revision + 1, command).map_err(|stop| format!("{stop:?}"))?;
        if !applied.batch.is_empty() {
            return Err(format!("{command:?} is applied twice: {:?}", applied.reply));
        }
    }
    Ok(())
}

/// Deletes everything, lets all time pass, and looks for what is left.
fn nothing_is_left(pair: &mut Pair) -> Result<(), String> {
    let names: Vec<String> = pair.naive.buckets.keys().cloned().collect();
    let mut minted = 1 << 40;
    let mut now_ms = pair.naive.now_ms;
    let mut step = |pair: &mut Pair, later_ms: u64, op: Op| {
        now_ms += later_ms;
        minted += 1u64;
        let mut random = [1; 10];
        random[2..].copy_from_slice(&minted.to_be_bytes());
        let command =
            Command { request: RequestId::new(now_ms, random), stamp_ms: now_ms, op, fences: None, extracted: None };
        pair.step(pair.revision + 1, &command)
    };
    for name in names {
        let bucket = pair.naive.buckets[&name].clone();
        let bucket_ref = BucketRef { name: name.parse().unwrap(), id: bucket.id };
        for (key, rows) in &bucket.keys {
            let entries =
                rows.iter().map(|row| DeleteEntry { version: Some(row.id()), ..support::entry(key) }).collect();
            let nonce = BlobId::default();
            step(pair, 1, Op::DeleteObjects(DeleteObjects { bucket: bucket_ref.clone(), entries, nonce }))?;
        }
        // Uploads that are left go with the bucket.
        let reply = step(pair, 1, Op::DeleteBucket(bucket_ref))?;
        if reply != Reply::Done {
            return Err(format!("an empty bucket cannot be deleted: {reply:?}"));
        }
    }
    for _ in 0..2 {
        while step(pair, BLOB_AGE_MS_MAX + 60_001, Op::Trim(Trim { rows: 1000 }))?
            != (Reply::Trimmed { rows: 0, more: false })
        {}
        let condemned = KeyRange::prefix(&key::queue(Queue::Condemned));
        let condemned = pair.kv.view().scan(Keyspace::Queues, condemned, Direction::Forward).collect::<Vec<_>>();
        let blobs: Vec<BlobId> =
            condemned.into_iter().map(|row| key::queued_blob_parts(&row.unwrap().0).unwrap().1).collect();
        for blobs in blobs.chunks(1000) {
            step(pair, 1, Op::Forget(Blobs { blobs: blobs.to_vec() }))?;
        }
        invariants::check(&pair.kv.view())?;
    }
    let census = support::census(&pair.kv.view());
    match census.keys().copied().collect::<Vec<_>>()[..] {
        ["dedupe", "events", "sys"] => Ok(()),
        _ => Err(format!("rows are left: {census:?}")),
    }
}

/// The comparison must be able to fail: each of these models is wrong in one way that a run has to notice.
#[test]
fn a_wrong_model_is_noticed() {
    type Spoil = fn(&mut Naive);
    let wrong: [(&str, Spoil); 3] = [
        ("a version's bytes", |naive| {
            let rows = naive.buckets.values_mut().flat_map(|bucket| bucket.keys.values_mut()).flatten();
            rows.filter_map(|row| row.version.as_mut()).for_each(|object| object.content = Content::of(1, 1));
        }),
        ("the order of versions", |naive| {
            naive.buckets.values_mut().flat_map(|bucket| bucket.keys.values_mut()).for_each(|rows| rows.reverse());
        }),
        ("a lost key", |naive| naive.buckets.values_mut().for_each(|bucket| drop(bucket.keys.pop_last()))),
    ];
    for (what, spoil) in wrong {
        let (_, _, pair) = run(1, 120);
        let mut pair = pair.unwrap();
        spoil(&mut pair.naive);
        let noticed = (0..40).any(|_| guarded(|| pair.check(true)).is_err());
        assert!(noticed, "{what}");
    }
}

/// Expired is the one reply that may differ from the first.
#[test]
fn a_command_older_than_its_reply_is_expired() {
    let mut machine = support::Machine::new();
    let bucket = machine.create_bucket("abc");
    let old = machine.command(Op::SetVersioning(SetVersioning { bucket: bucket.clone(), enabled: true }));
    machine.apply(&old);
    machine.now_ms += 16 * 60 * 1000;
    for _ in 0..40 {
        machine.set_versioning(&bucket, false);
    }
    let applied = machine.apply(&old);
    assert_eq!(applied.reply, Reply::Refused(Error::Expired));
    assert!(applied.batch.is_empty());
}

/// The commands must reach what they are meant to reach: each kind succeeds often enough, and so do the rare shapes.
#[test]
fn the_commands_reach_every_rule() {
    let mut done: BTreeMap<String, u32> = BTreeMap::new();
    for seed in 0..16 {
        let (script, _, pair) = run(seed, COMMANDS);
        drop(pair.unwrap());
        let kv = MemKv::default();
        for (revision, command) in &script {
            let applied = apply(&kv.view(), *revision, command).unwrap();
            for what in reached(&command.op, &applied.reply, &applied.batch) {
                *done.entry(what).or_default() += 1;
            }
            kv.commit(applied.batch).unwrap();
        }
    }
    println!("{done:#?}");
    let kinds = "CreateBucket DeleteBucket SetVersioning SetDocument SetSettings PutObject DeleteObjects CopyObject RenameObject \
        AppendObject SetTags CreateUpload PutPart CopyPart CompleteUpload AbortUpload Condemn Forget Trim Join SetDigest";
    let shapes =
        ["AppendObject page 1", "AppendObject depth 2", "CompleteUpload 2 parts", "RenameObject many", "Trim rows"];
    for what in kinds.split_whitespace().chain(shapes) {
        assert!(done.get(what).is_some_and(|times| *times >= 5), "{what} happens too seldom: {:?}", done.get(what));
    }
}

fn reached(op: &Op, reply: &Reply, batch: &Batch) -> Vec<String> {
    let debug = format!("{op:?}");
    let name = debug.split('(').next().unwrap().to_owned();
    if let Reply::Refused(error) = reply {
        let error = format!("{error:?}");
        return vec![format!("{name} refused {}", error.split([' ', '(']).next().unwrap())];
    }
    let pages = batch.writes().filter(|(keyspace, _, value)| *keyspace == Keyspace::Extents && value.is_some());
    let page = pages.filter_map(|(_, key, _)| key::page_parts(key)).map(|(page, _)| page).max();
    let bases = batch.writes().filter(|(keyspace, ..)| *keyspace == Keyspace::Objects);
    let depth = bases.filter_map(|(_, _, value)| holdfast_core::record::Record::decode(value?).ok());
    let depth = depth.map(|row: holdfast_core::record::ContentRow| row.depth).max();
    let mut all = vec![name.clone()];
    all.extend(page.map(|page| format!("{name} page {page}")));
    all.extend(depth.map(|depth| format!("{name} depth {depth}")));
    match reply {
        Reply::Renamed(rows) if *rows > 1 => all.push(format!("{name} many")),
        Reply::Trimmed { rows, .. } if *rows > 0 => all.push(format!("{name} rows")),
        _ => {}
    }
    if let Op::CompleteUpload(op) = op {
        all.push(format!("{name} {} parts", op.parts.len()));
    }
    all
}
