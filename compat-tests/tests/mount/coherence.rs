//! Two mounts of one bucket: what is closed here is seen there at the next open, caches end soon, locks exclude.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use holdfast_compat_tests::fixture::bytes;
use holdfast_compat_tests::mounted::{Gateway, Mounted, Plan};
use holdfast_compat_tests::process::wait_until;
use holdfast_compat_tests::workloads::peer::Peer;
use holdfast_compat_tests::workloads::posix::counter;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use rustix::fs::{FallocateFlags, copy_file_range, fallocate};
use serde_json::json;

use super::machine::seed;
use super::{Case, tell};

pub(super) const CASES: &[Case] = &[
    ("a_closed_write_is_seen_at_the_next_open_on_another_mount", closed_write),
    ("a_file_that_two_mounts_change_by_turns_is_what_the_model_says", turns),
    ("names_and_attributes_are_seen_on_another_mount", names),
    ("open_caches_on_another_mount_end_soon", caches_end),
    ("a_file_that_is_replaced_on_another_mount_lives_while_it_is_open", replaced),
    ("a_lock_on_one_mount_excludes_the_other", locks),
    ("a_counter_under_fcntl_from_two_mounts_loses_nothing", counters),
    ("a_mount_that_was_cut_off_shows_nothing_old", cut_off),
];

const SOON: Duration = Duration::from_secs(30);
/// What an open cache may be behind, as a median: a single wait also meets what else this machine does.
const BEHIND_MAX: Duration = Duration::from_millis(200);
const WRITES: u32 = 25;
/// Turns of a round, and operations of a turn.
const TURNS: u32 = 30;
const OPERATIONS_MAX: u32 = 12;
/// Most bytes of the file that is changed by turns.
const TURNS_BYTES: u64 = 600_000;

/// Dropped in this order.
struct Pair {
    one: Mounted,
    two: Mounted,
    gateway: Gateway,
}

fn pair() -> Result<Pair> {
    let gateway = Gateway::start(&[])?;
    let endpoint = gateway.endpoint();
    let plan = Plan::new(&endpoint.new_bucket("coherence")?);
    Ok(Pair { one: Mounted::start(&endpoint, &plan)?, two: Mounted::start(&endpoint, &plan)?, gateway })
}

impl Pair {
    /// The directories, the writer of this round first.
    fn sides(&self, round: u32) -> (&Path, &Path) {
        let (one, two) = (self.one.path(), self.two.path());
        if round.is_multiple_of(2) { (one, two) } else { (two, one) }
    }
}

fn closed_write(rounds: u32) -> Result<()> {
    let pair = pair()?;
    for round in 0..WRITES * rounds {
        let (writer, reader) = pair.sides(round);
        let content = bytes(u64::from(round), (round as usize * 7919) % 300_000);
        // Overwritten, replaced by a rename, appended to: the ways in which programs save.
        let name = format!("f{}", round % 3);
        match round % 3 {
            0 => fs::write(writer.join(&name), &content)?,
            1 => {
                fs::write(writer.join("aside"), &content)?;
                fs::rename(writer.join("aside"), writer.join(&name))?;
            }
            _ => {
                let before = fs::read(writer.join(&name)).unwrap_or_default();
                let mut file = File::options().append(true).create(true).open(writer.join(&name))?;
                file.write_all(&content)?;
                drop(file);
                let want = [before, content.clone()].concat();
                ensure!(fs::read(reader.join(&name))? == want, "round {round}: an append is not seen");
                continue;
            }
        }
        ensure!(fs::read(reader.join(&name))? == content, "round {round}: a closed write is not seen");
        ensure!(fs::metadata(reader.join(&name))?.len() == content.len() as u64, "round {round}: another size");
    }
    Ok(())
}

/// One mount after the other opens the file, reads all of it, changes it by every kind of operation, and closes it.
fn turns(rounds: u32) -> Result<()> {
    let (pair, seed) = (pair()?, seed());
    let mut dice = StdRng::seed_from_u64(seed);
    let mut peer = Peer::start()?;
    let mut model = Vec::new();
    File::create(pair.one.path().join("f"))?;
    for turn in 0..TURNS * rounds {
        let path = pair.sides(turn).0.join("f");
        let told = (|| {
            let file = File::options().read(true).write(true).open(&path)?;
            for _ in 0..dice.random_range(1..=OPERATIONS_MAX) {
                operate(&file, &path, &mut peer, &mut model, &mut dice)?;
                let from = dice.random_range(0..=model.len() as u64);
                let mut found = vec![0; (model.len() as u64 - from).min(100_000) as usize];
                file.read_exact_at(&mut found, from)?;
                ensure!(found == model[from as usize..][..found.len()], "other bytes from {from} on");
            }
            ensure!(file.metadata()?.len() == model.len() as u64, "another size");
            drop(file);
            ensure!(fs::read(pair.sides(turn).1.join("f"))? == model, "the other mount reads something else");
            Ok(())
        })();
        told.with_context(|| format!("turn {turn} of seed {seed}"))?;
    }
    Ok(())
}

/// One change of a file, and of the model of it.
fn operate(file: &File, path: &Path, peer: &mut Peer, model: &mut Vec<u8>, dice: &mut StdRng) -> Result<()> {
    let size = model.len() as u64;
    let offset = dice.random_range(0..TURNS_BYTES);
    let length = dice.random_range(1..=20_000);
    let end = offset + length;
    match dice.random_range(0..12) {
        0 => {
            file.set_len(offset)?;
            model.resize(offset as usize, 0);
        }
        1 => {
            fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, length)?;
            let hole = offset.min(size) as usize..end.min(size) as usize;
            model[hole].fill(0);
        }
        2 if size > 0 => {
            let (from, to) = (dice.random_range(0..size), offset);
            // Source: copy_file_range(2), EINVAL for ranges of one file that overlap.
            let length = length.min(size - from).min(from.abs_diff(to).max(1));
            if from.abs_diff(to) >= length {
                let (mut at, mut onto) = (from, to);
                let mut left = length;
                while left > 0 {
                    let copied = copy_file_range(file, Some(&mut at), file, Some(&mut onto), left as usize)?;
                    ensure!(copied > 0, "nothing was copied");
                    left -= copied as u64;
                }
                let copied = model[from as usize..(from + length) as usize].to_vec();
                model.resize(model.len().max((to + length) as usize), 0);
                model[to as usize..][..copied.len()].copy_from_slice(&copied);
            }
        }
        3 | 4 if size > 0 => {
            let offset = dice.random_range(0..size);
            let text = String::from_utf8(vec![dice.random_range(b'a'..=b'z'); length.min(size - offset) as usize])?;
            peer.open("f", path)?;
            peer.ask(&json!(["map", "f", size]))?;
            peer.ask(&json!(["poke", "f", offset, text]))?;
            peer.ask(&json!(["msync", "f"]))?;
            peer.ask(&json!(["unmap", "f"]))?;
            peer.ask(&json!(["close", "f"]))?;
            model[offset as usize..][..text.len()].copy_from_slice(text.as_bytes());
        }
        5 => file.sync_all()?,
        _ => {
            let written = bytes(dice.random(), length as usize);
            file.write_all_at(&written, offset)?;
            model.resize(model.len().max(end as usize), 0);
            model[offset as usize..end as usize].copy_from_slice(&written);
        }
    }
    Ok(())
}

fn names(rounds: u32) -> Result<()> {
    let pair = pair()?;
    for round in 0..4 * rounds {
        let (here, there) = pair.sides(round);
        let name = |what: &str| format!("{what}{round}");
        // Asked for before it is there: the answer must not be kept.
        ensure!(fs::metadata(there.join(name("d"))).is_err(), "it is there before its time");
        fs::create_dir(here.join(name("d")))?;
        fs::write(here.join(name("d")).join("f"), b"x")?;
        symlink("f", here.join(name("d")).join("s"))?;
        let soon = |what: &str, condition: &dyn Fn() -> bool| {
            wait_until(what, SOON, || Ok(condition())).with_context(|| format!("round {round}"))
        };
        let seen = there.join(name("d"));
        soon("a new directory", &|| seen.is_dir())?;
        soon("a new file", &|| fs::read(seen.join("f")).is_ok_and(|content| content == b"x"))?;
        soon("a new link", &|| fs::read_link(seen.join("s")).is_ok_and(|target| target == Path::new("f")))?;
        fs::set_permissions(here.join(name("d")).join("f"), fs::Permissions::from_mode(0o751))?;
        soon("a mode", &|| fs::metadata(seen.join("f")).is_ok_and(|stat| stat.mode() & 0o7777 == 0o751))?;
        fs::rename(here.join(name("d")), here.join(name("e")))?;
        soon("a rename", &|| !seen.exists() && there.join(name("e")).join("f").exists())?;
        fs::remove_dir_all(here.join(name("e")))?;
        soon("a removal", &|| !there.join(name("e")).exists())?;
        soon("an empty listing", &|| fs::read_dir(there).is_ok_and(|entries| entries.count() == 0))?;
    }
    Ok(())
}

/// A reader that keeps its file open, and has all of it cached, sees a write of the other mount without opening it again.
fn caches_end(rounds: u32) -> Result<()> {
    let pair = pair()?;
    fs::write(pair.one.path().join("f"), [0; 8192])?;
    let reader = File::open(pair.two.path().join("f"))?;
    let mut took = Vec::new();
    for number in 1..=WRITES * rounds {
        let mut found = [0; 4];
        reader.read_exact_at(&mut found, 4096)?;
        let file = File::options().write(true).open(pair.one.path().join("f"))?;
        file.write_all_at(&number.to_le_bytes(), 4096)?;
        file.sync_all()?;
        drop(file);
        let began = Instant::now();
        wait_until("the new bytes", SOON, || {
            reader.read_exact_at(&mut found, 4096)?;
            Ok(u32::from_le_bytes(found) == number)
        })?;
        took.push(began.elapsed());
    }
    took.sort();
    let (median, longest) = (took[took.len() / 2], took[took.len() - 1]);
    tell(&format!("caches end after {median:?} (median), {longest:?} at most, of {}", took.len()));
    ensure!(median <= BEHIND_MAX, "the median is {median:?}, the longest {longest:?}");
    Ok(())
}

fn replaced(_rounds: u32) -> Result<()> {
    let pair = pair()?;
    let (here, there) = (pair.one.path().join("f"), pair.two.path().join("f"));
    fs::write(&here, b"the old one")?;
    let mut reader = File::open(&there)?;
    fs::write(pair.one.path().join("new"), b"the new one, longer")?;
    fs::rename(pair.one.path().join("new"), &here)?;
    ensure!(fs::read(&there)? == b"the new one, longer", "the next open shows the old one");
    let mut content = String::new();
    reader.read_to_string(&mut content)?;
    ensure!(content == "the old one", "what was open became: {content}");
    // Removed there while it is open here.
    let keeper = File::open(&there)?;
    fs::remove_file(&here)?;
    wait_until("the removal", SOON, || Ok(!there.exists()))?;
    let mut found = [0; 7];
    keeper.read_exact_at(&mut found, 0)?;
    ensure!(&found == b"the new", "an open file lost its content");
    Ok(())
}

fn locks(_rounds: u32) -> Result<()> {
    let pair = pair()?;
    fs::write(pair.one.path().join("f"), b"x")?;
    let (mut one, mut two) = (Peer::start()?, Peer::start()?);
    one.open("f", &pair.one.path().join("f"))?;
    two.open("f", &pair.two.path().join("f"))?;
    one.ask(&json!(["lock", "f", "write", 0, 10]))?;
    two.refuse(&json!(["lock", "f", "write", 5, 10]), &["EAGAIN", "EACCES"])?;
    two.ask(&json!(["lock", "f", "write", 10, 10]))?;
    ensure!(two.ask(&json!(["test", "f", "write", 0, 5]))?.is_array(), "a test says that it is free");
    two.tell(&json!(["wait_lock", "f", "write", 0, 10]))?;
    ensure!(two.is_silent(Duration::from_millis(200)), "a held lock was granted");
    // What is written under a lock is there for the next holder.
    one.ask(&json!(["pwrite", "f", "written under it", 0]))?;
    one.kill();
    ensure!(two.answer(SOON)?.is_ok(), "the lock of a dead process is held");
    let found = two.ask(&json!(["pread", "f", 16, 0]))?;
    ensure!(found == json!("written under it"), "the next holder reads {found}");
    Ok(())
}

fn counters(rounds: u32) -> Result<()> {
    let pair = pair()?;
    let (one, two) = (pair.one.path(), pair.two.path());
    let began = Instant::now();
    let times = 50 * rounds;
    counter(&[one, two, one, two], times)?;
    let each = began.elapsed().as_secs_f64() * 1e3 / f64::from(4 * times);
    tell(&format!("{} additions under fcntl from two mounts, {each:.1} ms each", 4 * times));
    Ok(())
}

/// A mount that lost its gateway for a while may answer with an error or wait, but never with what is no longer true.
fn cut_off(rounds: u32) -> Result<()> {
    let pair = pair()?;
    let door = pair.gateway.another_door()?;
    let endpoint =
        holdfast_compat_tests::target::Endpoint { address: door.address().to_owned(), ..pair.gateway.endpoint() };
    let away = Mounted::start(&endpoint, pair.one.plan())?;
    for round in 0..3 * rounds {
        let (old, new) = (format!("old {round}"), format!("new {round}"));
        fs::write(pair.one.path().join("f"), &old)?;
        ensure!(fs::read_to_string(away.path().join("f"))? == old, "round {round}: it does not see the first");
        door.close();
        fs::write(pair.one.path().join("f"), &new)?;
        door.reopen();
        // No wait: the first answer after the cut counts.
        let found = fs::read_to_string(away.path().join("f"));
        ensure!(found.as_ref().is_ok_and(|found| *found == new), "round {round}: {found:?} after a cut");
    }
    Ok(())
}
