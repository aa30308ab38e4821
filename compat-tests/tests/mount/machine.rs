//! A virtual machine whose disk is a file of the mount, and `kill -9` of whatever is below it. The guest was promised what its
//! `fsync` returned for; after each crash its journal is replayed, a full check finds nothing, and the promise is kept.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use holdfast_compat_tests::crash::from_environment;
use holdfast_compat_tests::mounted::{Gateway, Mounted, Plan};
use holdfast_compat_tests::vm::{Cache, Guest, Job, Kit, Promise, image};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;

use super::{Case, tell};

pub(super) const CASES: &[Case] = &[
    ("a_machine_on_a_local_disk_survives_kills", local),
    ("a_machine_on_the_mount_runs_to_its_end", runs),
    ("a_machine_on_the_mount_survives_kills_of_itself", |rounds| killed(rounds, Victim::Guest)),
    ("a_machine_on_the_mount_survives_kills_of_the_mount", |rounds| killed(rounds, Victim::Mount)),
    ("a_machine_on_the_mount_survives_kills_of_the_gateway", |rounds| killed(rounds, Victim::Gateway)),
];

/// Of a boot and some steps; minutes on a busy machine.
const BOOT_WITHIN: Duration = Duration::from_secs(120);
const DISK_MIB: u64 = 96;
/// Steps between a boot and a kill, at most.
const STEPS_MAX: u32 = 24;
/// Steps that must follow after the gateway is back, without a boot.
const STEPS_AFTER: u32 = 6;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Guest,
    Mount,
    Gateway,
}

/// A disk, and what its guest was promised over all of its boots.
struct Machine {
    kit: Kit,
    promise: Promise,
    cache: Cache,
    outside: TempDir,
}

impl Machine {
    fn new(cache: Cache) -> Result<Self> {
        Ok(Self { kit: Kit::new()?, promise: Promise::default(), cache, outside: tempfile::tempdir()? })
    }

    fn boot(&self, disk: &Path, steps: u32) -> Result<Guest> {
        let from = self.promise.last().unwrap_or(0) + 1;
        self.kit.boot(disk, self.cache, Job::Work { from, steps }, &self.outside.path().join("console"))
    }

    /// Takes what `guest` was promised until it ended.
    fn end(&mut self, mut guest: Guest) {
        guest.kill();
        self.promise.continue_with(guest.promise());
    }

    /// Looks at the disk from outside and holds it against the promise.
    fn check(&self, disk: &Path) -> Result<()> {
        let last = self.promise.last().context("the guest never began")?;
        let looking = tempfile::tempdir_in(self.outside.path())?;
        let copy = looking.path().join("copy");
        image::replayed(disk, &copy)?;
        self.promise.kept(last, &image::look(&copy, &looking.path().join("out"))?)?;
        Ok(())
    }

    /// The guest itself says the same of its disk.
    fn check_by_boot(&self, disk: &Path) -> Result<()> {
        let last = self.promise.last().context("the guest never began")?;
        self.promise.kept(last, &self.kit.verify(disk, self.cache, BOOT_WITHIN)?)?;
        image::clean(disk)
    }
}

pub(super) fn seed() -> u64 {
    u64::from(from_environment("HOLDFAST_SEED", rand::random::<u16>().into()))
}

/// Boots, waits for a step, lets `crash` kill something, checks; again and again on one disk.
fn rounds(
    machine: &mut Machine,
    (count, seed): (u32, u64),
    mut crash: impl FnMut(&mut Guest, u32) -> Result<PathBuf>,
    mut disk: PathBuf,
) -> Result<()> {
    let mut luck = StdRng::seed_from_u64(seed);
    for round in 0..count {
        let mut guest = machine.boot(&disk, 0)?;
        let step = machine.promise.last().unwrap_or(0) + luck.random_range(1..=STEPS_MAX);
        let crashed = guest.await_barrier(step, BOOT_WITHIN).and_then(|()| crash(&mut guest, step));
        machine.end(guest);
        disk = crashed.with_context(|| format!("round {round} of seed {seed}"))?;
        machine.check(&disk).with_context(|| format!("round {round} of seed {seed}, killed at step {step}"))?;
    }
    machine.check_by_boot(&disk)
}

fn local(count: u32) -> Result<()> {
    let dir = tempfile::tempdir()?;
    for cache in Cache::ALL.into_iter().take(if count > 1 { 3 } else { 1 }) {
        let mut machine = Machine::new(cache)?;
        let disk = dir.path().join(format!("{cache:?}"));
        image::make(&disk, DISK_MIB)?;
        let again = disk.clone();
        let kill = move |guest: &mut Guest, _| {
            guest.kill();
            Ok(again.clone())
        };
        rounds(&mut machine, (count, seed()), kill, disk).with_context(|| format!("cache {cache:?}"))?;
    }
    Ok(())
}

fn mount(sync: &'static str) -> Result<(Mounted, Gateway)> {
    let gateway = Gateway::start(&[])?;
    let bucket = gateway.endpoint().new_bucket("machine")?;
    let plan = Plan::new(&bucket).profile("vm").sync(sync);
    Ok((Mounted::start(&gateway.endpoint(), &plan)?, gateway))
}

/// The whole life of a disk without a crash, in the time that it takes on a local disk and on the mount.
fn runs(rounds: u32) -> Result<()> {
    let life = |dir: &Path, cache: Cache| -> Result<Duration> {
        let mut machine = Machine::new(cache)?;
        let disk = dir.join(format!("disk-{cache:?}"));
        let began = Instant::now();
        image::make(&disk, DISK_MIB)?;
        let mut guest = machine.boot(&disk, 40)?;
        guest.await_end(BOOT_WITHIN * 2)?;
        machine.end(guest);
        ensure!(machine.promise.last() == Some(40), "it ended at step {:?}", machine.promise.last());
        machine.check_by_boot(&disk)?;
        Ok(began.elapsed())
    };
    let dir = tempfile::tempdir()?;
    let local = life(dir.path(), Cache::None)?;
    for sync in ["store", "journal"] {
        let (mut mounted, _gateway) = mount(sync)?;
        let all = [Cache::None, Cache::Writeback, Cache::DirectSync];
        for cache in all.into_iter().take(if rounds > 1 { 3 } else { 1 }) {
            let there = life(mounted.path(), cache).with_context(|| format!("{sync}, cache {cache:?}"))?;
            let ratio = there.as_secs_f64() / local.as_secs_f64();
            tell(&format!("a machine with sync={sync}, cache {cache:?}: {there:.1?}, {ratio:.2} of a local disk"));
        }
        mounted.unmount()?;
    }
    Ok(())
}

fn killed(count: u32, victim: Victim) -> Result<()> {
    for sync in ["store", "journal"] {
        let (mut mounted, mut gateway) = mount(sync)?;
        let disk = mounted.path().join("disk");
        image::make(&disk, DISK_MIB)?;
        let mut machine = Machine::new(Cache::None)?;
        let crash = |guest: &mut Guest, step: u32| {
            match victim {
                Victim::Guest => guest.kill(),
                Victim::Mount => {
                    // What the guest was promised until the mount died counts; qemu goes after it.
                    mounted.process().kill();
                    guest.kill();
                    mounted.start_again()?;
                }
                Victim::Gateway => {
                    gateway.kill();
                    gateway.restart()?;
                    guest.await_barrier(step + STEPS_AFTER, BOOT_WITHIN).with_context(|| mounted.log_tail())?;
                    guest.kill();
                }
            }
            Ok(mounted.path().join("disk"))
        };
        rounds(&mut machine, (count, seed()), crash, disk).with_context(|| format!("{victim:?}, sync={sync}"))?;
    }
    Ok(())
}
