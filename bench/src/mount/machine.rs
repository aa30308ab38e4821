//! What a virtual machine does to its disk, on a mount for machines (`--profile vm --sync journal`) and in a local directory
//! beside it: a job of direct writes as qemu makes them with `cache=none`, and a machine that is booted, where qemu and the
//! kernel of the tests are installed.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use holdfast_compat_tests::vm::{Cache, Job, Kit, image};
use rustix::fs::OFlags;

use super::Options;
use super::peers::Mount;
use super::report::{Figure, Goal, LOCAL, MACHINE, Unit};
use super::sheet::{Seat, Wanted, end_all, play};
use super::stack::Stack;
use super::work::{Luck, PAGE, STEP};
use crate::stats::ms;

/// Random writes between two calls of `fdatasync`.
const SYNC_EVERY: u64 = 32;
/// Bytes at the start of a page that say which page it is.
const STAMP: usize = size_of::<u64>();
const SEED: u64 = 4_000;
/// The disk of the machine that is booted.
const DISK_MIB: u64 = 96;
/// Of its boot, and of each of its other waits.
const BOOT_WITHIN: Duration = Duration::from_secs(120);
const END_WITHIN: Duration = Duration::from_secs(300);

/// Figures of the job: the whole, and its phases.
const PHASES: [&str; 4] = ["whole", "sequential write", "random writes", "sequential read"];

pub(super) fn run(stack: &mut Stack, options: &Options) -> Result<Vec<Figure>> {
    let mut mount: Seat<Mount> = Seat::Empty;
    let local = stack.directory().join("local");
    fs::create_dir(&local)?;
    let kit = Kit::new().inspect_err(|error| eprintln!("no machine is booted: {error:#}")).ok();
    let mut figures =
        play(stack, (wanted(options, kit.is_some()), vec![MACHINE, LOCAL], options.rounds), |stack, turn| {
            let mounted = if turn.at == 0 { Some(&*mount.take(|| stack.mount_for_machine())?) } else { None };
            let directory = mounted.map_or(local.as_path(), Mount::path).to_owned();
            let console = stack.directory().join("console");
            stack.sync()?;
            let (path, writes) = (directory.join("job"), options.machine_writes);
            let phases = guarded(mounted, "the job of a machine", || job(&path, options.machine_bytes, writes))?;
            turn.put(0, phases.iter().map(|took| ms(*took)).sum());
            for (figure, took) in phases.into_iter().enumerate() {
                turn.put(figure + 1, ms(took));
            }
            if let Some(kit) = &kit {
                stack.sync()?;
                let disk = directory.join("disk");
                turn.measure(PHASES.len(), || {
                    guarded(mounted, "a machine", || boot(kit, &disk, &console, options.machine_steps))
                });
            }
            Ok(())
        })?;
    end_all(&mut figures, mount.leave().into_iter().map(|mount| (MACHINE, mount)));
    fs::remove_dir_all(&local)?;
    Ok(figures)
}

fn wanted(options: &Options, boots: bool) -> Vec<Wanted> {
    let goal = || Goal::Longer { side: MACHINE, than: LOCAL, times: 1.3 };
    let (mib, writes) = (options.machine_bytes >> 20, options.machine_writes);
    let what = format!("job of a machine: {mib} MiB in order, {writes} random writes of 4 KiB, read");
    let mut wanted = vec![Wanted::new(what, Unit::Ms).goal(goal())];
    wanted.extend(PHASES[1..].iter().map(|phase| Wanted::new(format!("of it: {phase}"), Unit::Ms)));
    if boots {
        let what = format!("machine that is booted: {} synced steps", options.machine_steps);
        wanted.push(Wanted::new(what, Unit::Ms).goal(goal()));
    }
    wanted
}

fn guarded<T: Send>(mount: Option<&Mount>, what: &str, job: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    match mount {
        Some(mount) => mount.within(what, job),
        None => job().with_context(|| what.to_owned()),
    }
}

/// A buffer for direct I/O, which must begin at a multiple of a page.
struct Aligned {
    bytes: Vec<u8>,
    from: usize,
}

impl Aligned {
    fn new() -> Self {
        let bytes = holdfast_compat_tests::fixture::bytes(SEED, STEP + PAGE);
        let from = bytes.as_ptr().align_offset(PAGE);
        Self { bytes, from }
    }

    fn step(&mut self) -> &mut [u8] {
        &mut self.bytes[self.from..self.from + STEP]
    }
}

/// The time of each phase: written in order and synced, written at random and synced now and then, read in order.
fn job(path: &Path, length: u64, writes: u64) -> Result<[Duration; 3]> {
    let pages = (STEP / PAGE) as u64;
    let mut buffer = Aligned::new();
    let step = buffer.step();
    let file = direct(path)?;
    let began = Instant::now();
    for number in 0..length / STEP as u64 {
        stamp(step, number * pages);
        file.write_all_at(step, number * STEP as u64)?;
    }
    file.sync_data()?;
    let in_order = began.elapsed();
    let (mut luck, began) = (Luck::new(SEED), Instant::now());
    for number in 0..writes {
        let page = luck.below(length / PAGE as u64);
        stamp(&mut step[..PAGE], page);
        file.write_all_at(&step[..PAGE], page * PAGE as u64)?;
        if (number + 1) % SYNC_EVERY == 0 {
            file.sync_data()?;
        }
    }
    file.sync_data()?;
    let at_random = began.elapsed();
    let began = Instant::now();
    for number in 0..length / STEP as u64 {
        file.read_exact_at(step, number * STEP as u64)?;
        for (page, at) in step.chunks_exact(PAGE).zip(number * pages..) {
            ensure!(page[..STAMP] == at.to_le_bytes(), "page {at} holds something else");
        }
    }
    let read = began.elapsed();
    drop(file);
    fs::remove_file(path)?;
    Ok([in_order, at_random, read])
}

fn stamp(step: &mut [u8], first: u64) {
    for (page, number) in step.chunks_exact_mut(PAGE).zip(first..) {
        page[..STAMP].copy_from_slice(&number.to_le_bytes());
    }
}

fn direct(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(true).custom_flags(OFlags::DIRECT.bits().cast_signed());
    options.open(path).context("opening with O_DIRECT")
}

/// Milliseconds from the first step of a guest to its last; boot and end are outside.
fn boot(kit: &Kit, disk: &Path, console: &Path, steps: u32) -> Result<f64> {
    image::make(disk, DISK_MIB)?;
    let mut guest = kit.boot(disk, Cache::None, Job::Work { from: 1, steps }, console)?;
    guest.await_barrier(1, BOOT_WITHIN)?;
    let began = Instant::now();
    guest.await_barrier(steps, END_WITHIN)?;
    let took = began.elapsed();
    guest.await_end(BOOT_WITHIN)?;
    image::clean(disk)?;
    fs::remove_file(disk)?;
    Ok(ms(took))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_buffer_begins_at_a_page() {
        let mut buffer = Aligned::new();
        assert_eq!(buffer.step().as_ptr() as usize % PAGE, 0);
        assert_eq!(buffer.step().len(), STEP);
    }
}
