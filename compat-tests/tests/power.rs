//! Power cuts: the machine goes off and everything that was not synced is gone, names as well as bytes.
//!
//! First the file system that plays this is itself put to the test, through the kernel; then Holdfast keeps its log, its
//! state and its store on it, and loses power under load. `HOLDFAST_POWER_CUTS` sets the number of cuts (50),
//! `HOLDFAST_SEED` repeats a run.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_compat_tests::audit::Tally;
use holdfast_compat_tests::crash::{self, Plan};
use holdfast_compat_tests::powerfs::{Cut, Loss, PowerFs};
use holdfast_compat_tests::process::{Holdfast, HoldfastOptions};
use holdfast_compat_tests::suite::Suite;

const CUTS: u32 = 50;
/// Cuts that one disk goes through before a new one takes its place: the disk is memory, and its garbage stays.
const CUTS_PER_DISK: u32 = 25;
const CYCLE_MAX: Duration = Duration::from_secs(20);

type Case = (&'static str, fn(&mut PowerFs) -> Result<()>);

const POWERFS: &[Case] = &[
    ("unsynced_data_is_gone", unsynced_data_is_gone),
    ("a_synced_file_needs_a_synced_directory", a_synced_file_needs_a_synced_directory),
    ("an_unsynced_rename_goes_back", an_unsynced_rename_goes_back),
    ("an_unsynced_unlink_comes_back", an_unsynced_unlink_comes_back),
    ("a_new_directory_needs_its_parent", a_new_directory_needs_its_parent),
    ("partial_loss_keeps_what_was_synced", partial_loss_keeps_what_was_synced),
    ("it_serves_like_a_disk", it_serves_like_a_disk),
];

fn main() -> ExitCode {
    let cuts = crash::from_environment("HOLDFAST_POWER_CUTS", CUTS);
    let seed = u64::from(crash::from_environment("HOLDFAST_SEED", rand::random::<u16>().into()));
    let mut suite = Suite::new(1);
    for (name, run) in POWERFS {
        suite.case(format!("powerfs::{name}"), move || {
            let dir = tempfile::tempdir()?;
            run(&mut PowerFs::mount(dir.path())?)
        });
    }
    let name = format!("nothing_acknowledged_is_lost_to_power_cuts [{cuts} cuts, seed {seed}]");
    suite.case_within(CYCLE_MAX * (cuts + 6), name, move || {
        let mut total = Tally::default();
        for disk in 0..cuts.div_ceil(CUTS_PER_DISK) {
            let cycles = CUTS_PER_DISK.min(cuts - disk * CUTS_PER_DISK);
            let plan = Plan { cycles, seed: seed + u64::from(disk), load_ms_max: 900, large: true };
            total.add(power_cuts(plan)?);
        }
        crash::tell(&total);
        Ok(())
    });
    suite.run()
}

fn power_cuts(plan: Plan) -> Result<Tally> {
    let dir = tempfile::tempdir()?;
    let mount = dir.path().join("disk");
    fs::create_dir(&mount)?;
    let mut disk = PowerFs::mount(&mount)?;
    let mut options = HoldfastOptions::embedded(&mount);
    // The log of the tests is not on the disk that fails.
    options.log = dir.path().join("holdfast.log");
    let mut server = Holdfast::start(options)?;
    let mut lost = Cut::default();
    let tally = crash::run(&mut server, plan, |server, cycle| {
        server.kill();
        // In turn: everything unsynced is lost; or only a part of it, by luck, as with a disk that had begun to write.
        let seed = plan.seed << 16 | u64::from(cycle);
        let cut = disk.cut(if cycle % 2 == 0 { Loss::All } else { Loss::Some { seed } })?;
        lost.pages_lost += cut.pages_lost;
        lost.pages_kept += cut.pages_kept;
        lost.names_lost += cut.names_lost;
        server.restart().with_context(|| format!("restart after a power cut that took {cut:?}"))
    })?;
    ensure!(lost.pages_lost > 0, "no cut lost anything: the load does not exercise the syncs");
    server.kill();
    Ok(tally)
}

fn sync_dir(path: &Path) -> Result<()> {
    Ok(File::open(path)?.sync_all()?)
}

fn synced(path: &Path, content: &str) -> Result<()> {
    let mut file = File::create(path)?;
    file.write_all(content.as_bytes())?;
    Ok(file.sync_all()?)
}

fn unsynced_data_is_gone(disk: &mut PowerFs) -> Result<()> {
    let log = disk.path().join("log");
    synced(&log, "synced")?;
    sync_dir(disk.path())?;
    let mut file = File::options().append(true).open(&log)?;
    file.write_all(b" data-synced")?;
    file.sync_data()?;
    file.write_all(b" unsynced")?;
    ensure!(fs::read_to_string(&log)? == "synced data-synced unsynced");
    drop(file);
    disk.cut(Loss::All)?;
    ensure!(fs::read_to_string(&log)? == "synced data-synced", "after the cut: {:?}", fs::read_to_string(&log)?);
    Ok(())
}

fn a_synced_file_needs_a_synced_directory(disk: &mut PowerFs) -> Result<()> {
    synced(&disk.path().join("named"), "x")?;
    sync_dir(disk.path())?;
    synced(&disk.path().join("unnamed"), "x")?;
    disk.cut(Loss::All)?;
    ensure!(disk.path().join("named").exists());
    ensure!(!disk.path().join("unnamed").exists(), "a name survived that was never synced");
    Ok(())
}

fn an_unsynced_rename_goes_back(disk: &mut PowerFs) -> Result<()> {
    let (target, temporary) = (disk.path().join("target"), disk.path().join("temporary"));
    synced(&target, "old")?;
    synced(&temporary, "new")?;
    sync_dir(disk.path())?;
    fs::rename(&temporary, &target)?;
    ensure!(fs::read_to_string(&target)? == "new");
    disk.cut(Loss::All)?;
    ensure!(fs::read_to_string(&target)? == "old" && fs::read_to_string(&temporary)? == "new");
    fs::rename(&temporary, &target)?;
    sync_dir(disk.path())?;
    disk.cut(Loss::All)?;
    ensure!(fs::read_to_string(&target)? == "new" && !temporary.exists());
    Ok(())
}

fn an_unsynced_unlink_comes_back(disk: &mut PowerFs) -> Result<()> {
    let file = disk.path().join("file");
    synced(&file, "x")?;
    sync_dir(disk.path())?;
    fs::remove_file(&file)?;
    disk.cut(Loss::All)?;
    ensure!(fs::read_to_string(&file)? == "x");
    fs::remove_file(&file)?;
    sync_dir(disk.path())?;
    disk.cut(Loss::All)?;
    ensure!(!file.exists());
    Ok(())
}

fn a_new_directory_needs_its_parent(disk: &mut PowerFs) -> Result<()> {
    let dir = disk.path().join("a/b");
    fs::create_dir_all(&dir)?;
    synced(&dir.join("file"), "x")?;
    sync_dir(&dir)?;
    disk.cut(Loss::All)?;
    ensure!(!disk.path().join("a").exists(), "a directory survived whose parent was never synced");
    fs::create_dir_all(&dir)?;
    synced(&dir.join("file"), "x")?;
    for path in [dir.as_path(), &disk.path().join("a"), disk.path()] {
        sync_dir(path)?;
    }
    disk.cut(Loss::All)?;
    ensure!(fs::read_to_string(dir.join("file"))? == "x");
    Ok(())
}

fn partial_loss_keeps_what_was_synced(disk: &mut PowerFs) -> Result<()> {
    let path = disk.path().join("file");
    let mut file = File::create(&path)?;
    file.write_all(&[1; 1 << 20])?;
    file.sync_data()?;
    sync_dir(disk.path())?;
    file.write_all(&[2; 1 << 20])?;
    drop(file);
    let cut = disk.cut(Loss::Some { seed: 5 })?;
    ensure!(cut.pages_kept > 50 && cut.pages_lost > cut.pages_kept, "the cut took {cut:?}");
    let bytes = fs::read(&path)?;
    ensure!(bytes[..1 << 20].iter().all(|byte| *byte == 1), "a synced byte changed");
    let kept = bytes[1 << 20..].iter().filter(|byte| **byte == 2).count() as u64;
    ensure!(kept == cut.pages_kept * 4096, "{kept} bytes kept, {cut:?}");
    Ok(())
}

/// What the log, the state engine and the local store ask of a disk, beyond plain files.
fn it_serves_like_a_disk(disk: &mut PowerFs) -> Result<()> {
    let root = disk.path();
    let path = root.join("file");
    let mut file = File::options().read(true).write(true).create_new(true).open(&path)?;
    ensure!(File::options().write(true).create_new(true).open(&path).is_err(), "create_new found nothing");
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, 1 << 20)?;
    ensure!(file.metadata()?.len() == 1 << 20, "fallocate did not grow the file");
    file.seek(SeekFrom::Start(123_456))?;
    file.write_all(b"middle")?;
    file.set_len(123_460)?;
    file.set_len(123_470)?;
    let mut tail = [1; 14];
    file.seek(SeekFrom::Start(123_456))?;
    file.read_exact(&mut tail)?;
    ensure!(&tail == b"midd\0\0\0\0\0\0\0\0\0\0", "after truncation: {tail:?}");
    file.try_lock().context("lock")?;
    ensure!(File::open(&path)?.try_lock().is_err(), "two hold the same lock");
    fs::hard_link(&path, root.join("link"))?;
    fs::remove_file(&path)?;
    ensure!(root.join("link").metadata()?.len() == 123_470, "the link lost the file");
    fs::remove_file(root.join("link"))?;
    file.seek(SeekFrom::Start(123_456))?;
    file.read_exact(&mut tail[..4])?;
    ensure!(&tail[..4] == b"midd", "an unlinked open file lost its bytes");
    fs::create_dir(root.join("dir"))?;
    (0..500).try_for_each(|number| fs::write(root.join(format!("dir/{number}")), "x"))?;
    ensure!(fs::remove_dir(root.join("dir")).is_err(), "a full directory was removed");
    let listed =
        fs::read_dir(root.join("dir"))?.map(|entry| Ok(fs::remove_file(entry?.path())?)).collect::<Result<Vec<_>>>()?;
    ensure!(listed.len() == 500, "{} entries listed while they were removed", listed.len());
    fs::remove_dir(root.join("dir"))?;
    ensure!(rustix::fs::statfs(root)?.f_bavail > 1000, "no space is reported");
    Ok(())
}
