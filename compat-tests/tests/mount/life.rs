//! A mount comes and goes: unmounted, ended, killed, cut off from its gateway.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_compat_tests::client::command::succeed;
use holdfast_compat_tests::client::raw::elements;
use holdfast_compat_tests::fixture::{bytes, same_tree, source_tree, tree_hashes};
use holdfast_compat_tests::mounted::{Gateway, Mounted, Plan, is_mounted, mount_program};
use holdfast_compat_tests::process::wait_until;
use rustix::fs::{Advice, fadvise};

use super::Case;

pub(super) const CASES: &[Case] = &[
    ("an_unmount_stores_everything", unmount_stores),
    ("a_mount_that_is_asked_to_end_stores_everything", terminate_stores),
    ("a_busy_mount_is_not_unmounted", busy),
    ("what_was_synced_survives_a_kill_of_the_mount", kill_mount),
    ("what_was_synced_survives_a_kill_of_the_gateway", kill_gateway),
    ("a_mount_waits_for_a_gateway_that_comes_back", comes_back),
    ("a_mount_of_a_prefix_shows_that_part", prefix),
    ("a_snapshot_makes_versions_of_what_is_written", snapshot),
    ("a_warm_mount_reads_without_its_gateway", warmup),
    ("a_mount_that_cannot_be_is_refused_with_a_reason", refused),
];

const SOON: Duration = Duration::from_secs(60);

fn start(plan: impl Fn(&str) -> Plan) -> Result<(Gateway, Mounted)> {
    let gateway = Gateway::start(&[])?;
    let endpoint = gateway.endpoint();
    let mounted = Mounted::start(&endpoint, &plan(&endpoint.new_bucket("life")?))?;
    Ok((gateway, mounted))
}

/// A tree of sources is written, `end` ends the mount, another mount with an empty cache shows the same.
fn stores(sync: &'static str, end: fn(&mut Mounted) -> Result<()>) -> Result<()> {
    let (gateway, mut mounted) = start(|bucket| Plan::new(bucket).sync(sync))?;
    let tree = mounted.path().join("tree");
    source_tree(&tree, 150)?;
    let want = tree_hashes(&tree)?;
    end(&mut mounted).with_context(|| sync)?;
    let other = Mounted::start(&gateway.endpoint(), mounted.plan())?;
    same_tree(&want, &tree_hashes(&other.path().join("tree"))?).with_context(|| sync)
}

fn unmount_stores(_rounds: u32) -> Result<()> {
    ["store", "journal"].into_iter().try_for_each(|sync| stores(sync, Mounted::unmount))
}

fn terminate_stores(_rounds: u32) -> Result<()> {
    ["store", "journal"].into_iter().try_for_each(|sync| stores(sync, Mounted::terminate))
}

fn busy(_rounds: u32) -> Result<()> {
    let (_gateway, mut mounted) = start(Plan::new)?;
    let mut file = File::create(mounted.path().join("f"))?;
    file.write_all(b"before")?;
    ensure!(mounted.unmount().is_err(), "it was unmounted under an open file");
    ensure!(is_mounted(mounted.path())?, "it is gone");
    file.write_all(b" and after")?;
    drop(file);
    ensure!(fs::read(mounted.path().join("f"))? == b"before and after", "something was lost");
    mounted.unmount()
}

/// What each round synced, by number; checked after each crash.
struct Synced(Vec<Vec<u8>>);

impl Synced {
    fn write(&mut self, mounted: &Mounted) -> Result<()> {
        for _ in 0..5 {
            let number = self.0.len();
            let content = bytes(number as u64, 1000 * number + 7);
            let mut file = File::create(mounted.path().join(format!("f{number}")))?;
            file.write_all(&content)?;
            file.sync_all()?;
            self.0.push(content);
        }
        // Its name is as durable as its content: the directory is synced.
        Ok(File::open(mounted.path())?.sync_all()?)
    }

    fn check(&self, mounted: &Mounted) -> Result<()> {
        for (number, want) in self.0.iter().enumerate() {
            let have = fs::read(mounted.path().join(format!("f{number}"))).with_context(|| format!("f{number}"))?;
            ensure!(have == *want, "f{number} has {} of {} bytes, or others", have.len(), want.len());
        }
        Ok(())
    }
}

fn kill_mount(rounds: u32) -> Result<()> {
    for sync in ["store", "journal"] {
        let (_gateway, mut mounted) = start(|bucket| Plan::new(bucket).sync(sync))?;
        let mut synced = Synced(Vec::new());
        for round in 0..3 * rounds {
            synced.write(&mounted)?;
            // Not synced: it may be there or not, and must be no obstacle.
            fs::write(mounted.path().join("unsynced"), bytes(u64::from(round), 300_000))?;
            mounted.kill();
            mounted.start_again()?;
            synced.check(&mounted).with_context(|| format!("{sync}, round {round}\n{}", mounted.log_tail()))?;
        }
    }
    Ok(())
}

fn kill_gateway(rounds: u32) -> Result<()> {
    let (mut gateway, mut mounted) = start(Plan::new)?;
    let mut synced = Synced(Vec::new());
    for round in 0..3 * rounds {
        synced.write(&mounted)?;
        gateway.kill();
        gateway.restart()?;
        synced.check(&mounted).with_context(|| format!("round {round}\n{}", mounted.log_tail()))?;
    }
    mounted.unmount()?;
    let again = Mounted::start(&gateway.endpoint(), mounted.plan())?;
    synced.check(&again)
}

/// A write and its sync wait while the gateway is away for a while, and then succeed.
fn comes_back(_rounds: u32) -> Result<()> {
    let (gateway, mounted) = start(Plan::new)?;
    let path = mounted.path().join("f");
    fs::write(&path, b"before")?;
    gateway.door().close();
    let writer = std::thread::spawn({
        let path = path.clone();
        move || -> Result<()> {
            let mut file = File::options().append(true).open(path)?;
            file.write_all(b" and after")?;
            Ok(file.sync_all()?)
        }
    });
    // Long enough that the writer meets the closed door.
    ensure!(wait_until("an end that must not be", Duration::from_secs(1), || Ok(writer.is_finished())).is_err(), {
        format!("it was synced while nobody could store it: {:?}", writer.join())
    });
    gateway.door().reopen();
    wait_until("the sync", SOON, || Ok(writer.is_finished()))?;
    writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))??;
    let mut content = String::new();
    File::open(&path)?.read_to_string(&mut content)?;
    ensure!(content == "before and after", "{content}");
    Ok(())
}

fn prefix(_rounds: u32) -> Result<()> {
    let (gateway, whole) = start(Plan::new)?;
    fs::create_dir_all(whole.path().join("part/below"))?;
    fs::write(whole.path().join("part/below/f"), b"inside")?;
    fs::write(whole.path().join("outside"), b"outside")?;
    let part = Mounted::start(&gateway.endpoint(), &whole.plan().clone().prefix("part"))?;
    ensure!(fs::read(part.path().join("below/f"))? == b"inside", "another content");
    ensure!(fs::read_dir(part.path())?.count() == 1, "more than the part is shown");
    fs::write(part.path().join("new"), b"from the part")?;
    ensure!(fs::read(whole.path().join("part/new"))? == b"from the part", "it is not there in the whole");
    Ok(())
}

/// Runs a command of the mount's program on a path.
fn tell(command: &str, path: &Path) -> Result<String> {
    let mut telling = Command::new(mount_program()?);
    telling.arg(command).arg(path);
    succeed(telling)
}

/// Files stay open, and each snapshot makes a version of those below it that were written to since the last one.
fn snapshot(_rounds: u32) -> Result<()> {
    let gateway = Gateway::start(&[])?;
    let endpoint = gateway.endpoint();
    let bucket = endpoint.new_versioned_bucket("snapshot")?;
    let versions = |key: &str| -> Result<Vec<String>> {
        let query = [("versions", ""), ("prefix", key)];
        Ok(elements(&endpoint.raw().get(&bucket, "", &query)?.expect(200)?.text(), "Size"))
    };
    for sync in ["store", "journal"] {
        let mounted = Mounted::start(&endpoint, &Plan::new(&bucket).sync(sync))?;
        let dir = mounted.path().join(sync);
        fs::create_dir_all(dir.join("below"))?;
        let (mut one, mut two) = (File::create(dir.join("one"))?, File::create(dir.join("below/two"))?);
        let (of_one, of_two) = (format!("{sync}/one"), format!("{sync}/below/two"));
        one.write_all(b"first")?;
        two.write_all(b"also")?;
        tell("snapshot", &dir)?;
        one.write_all(b", second")?;
        tell("snapshot", &dir.join("one"))?;
        // Nothing was written since.
        tell("snapshot", mounted.path())?;
        let (found_one, found_two) = (versions(&of_one)?, versions(&of_two)?);
        // The empty version of a new file, and one for each snapshot.
        ensure!(found_one == ["13", "5", "0"] && found_two == ["4", "0"], "{sync}: {found_one:?} {found_two:?}");
    }
    ensure!(tell("snapshot", Path::new("/")).is_err(), "a snapshot of another file system");
    Ok(())
}

/// What was read by `warmup` is read again while nobody could send it.
fn warmup(_rounds: u32) -> Result<()> {
    let (gateway, mounted) = start(|bucket| Plan::new(bucket).profile("exclusive"))?;
    let content = bytes(3, 3_000_000);
    fs::create_dir(mounted.path().join("d"))?;
    gateway.endpoint().raw().put(&mounted.plan().bucket, "d/f", &[], &content)?.expect(200)?;
    // Open: where the bytes of a closed file are is asked for anew.
    let file = File::open(mounted.path().join("d/f"))?;
    let said = tell("warmup", &mounted.path().join("d"))?;
    ensure!(said.contains("1 files, 3000000 bytes"), "{said}");
    gateway.door().close();
    // The kernel keeps nothing of it: the mount is asked.
    fadvise(&file, 0, None, Advice::DontNeed)?;
    let mut found = vec![0; content.len()];
    let read = file.read_exact_at(&mut found, 0);
    gateway.door().reopen();
    read?;
    ensure!(found == content, "other bytes");
    Ok(())
}

fn refused(_rounds: u32) -> Result<()> {
    let gateway = Gateway::start(&[])?;
    let mut endpoint = gateway.endpoint();
    let says = |mounted: Result<Mounted>, word: &str| -> Result<()> {
        let error = format!("{:#}", mounted.err().with_context(|| format!("mounted instead of {word}"))?);
        ensure!(error.contains("the mount ended") && error.contains(word), "{error}");
        Ok(())
    };
    says(Mounted::start(&endpoint, &Plan::new("no-such-bucket-here")), "no-such-bucket-here")?;
    let bucket = endpoint.new_bucket("refused")?;
    endpoint.secret_key = "wrong".into();
    says(Mounted::start(&endpoint, &Plan::new(&bucket)), &bucket)
}
