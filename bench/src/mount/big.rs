//! One big file that stays: 4 KiB of it overwritten until they are in the store, its mode changed, its name changed. Each
//! side wrote the file through its own mount, which stays, so that its cache has what it keeps of it.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::time::Instant;

use anyhow::{Result, ensure};

use super::Options;
use super::peers::{Mount, S3FS, Side};
use super::report::{Figure, Goal, Unit};
use super::sheet::{Seat, Wanted, end_all, play, seats};
use super::stack::Stack;
use super::store::Store;
use super::work::{Content, Luck, PAGE, overwrite_stored, write_stored};
use crate::stats::ms;

const OVERWRITE: usize = 0;
const CHMOD: usize = 1;
const RENAME: usize = 2;
/// Seeds of contents: of the file, and of what is written into it.
const SEED: u64 = 2_000;
const PATCH_SEED: u64 = 2_500;
/// The modes that take turns.
const MODES: [u32; 2] = [0o600, 0o640];

struct Player {
    mount: Mount,
    key: String,
    luck: Luck,
}

pub(super) fn run(stack: &mut Stack, options: &Options) -> Result<Vec<Figure>> {
    let mut players: Vec<Seat<Player>> = seats(Side::ALL.len());
    let sides = Side::ALL.map(Side::name).to_vec();
    let mut figures = play(stack, (wanted(options), sides, options.rounds), |stack, turn| {
        let (side, length) = (Side::ALL[turn.at], options.big_bytes);
        let player = players[turn.at].take(|| sit_down(stack, side, length))?;
        let store = stack.store(side);
        stack.sync()?;
        turn.measure(OVERWRITE, || {
            let number = player.luck.below(length / PAGE as u64);
            let page = Content::new(PATCH_SEED).page(number);
            let at = number * PAGE as u64;
            // The same page may come twice, and must differ from what is there.
            let at = if store.has(&player.key, length, at, &page)? { (at + PAGE as u64) % length } else { at };
            overwrite_stored(&player.mount, &store, &player.key, length, at, &page).map(ms)
        });
        stack.sync()?;
        let (mount, key, round) = (&player.mount, player.key.clone(), turn.round);
        turn.measure(CHMOD, || chmod(mount, &key, MODES[round % MODES.len()]));
        stack.sync()?;
        let to = format!("renamed-{round}");
        turn.measure(RENAME, || rename(mount, &store, &key, &to));
        // A rename that failed may still have been made, or not.
        if store.moved(&player.key, &to)? {
            player.key = to;
        }
        Ok(())
    })?;
    let players: Vec<Player> = players.into_iter().filter_map(Seat::leave).collect();
    let files: Vec<(Side, String)> = players.iter().map(|player| (player.mount.side(), player.key.clone())).collect();
    end_all(&mut figures, players.into_iter().map(|player| (player.mount.side().name(), player.mount)));
    for (side, key) in files {
        stack.store(side).delete(&key)?;
    }
    Ok(figures)
}

fn wanted(options: &Options) -> Vec<Wanted> {
    let mib = options.big_bytes >> 20;
    let times = |times: f64| Goal::Times { side: Side::S3fsOnHoldfast.name(), others: S3FS, times };
    let overwrite = Wanted::new(format!("overwrite of 4 KiB in {mib} MiB, until in the store"), Unit::Ms);
    vec![
        overwrite.goal(Goal::AtMost { side: Side::Mount.name(), value: 150.0 }).goal(times(5.0)),
        Wanted::new(format!("chmod of {mib} MiB"), Unit::Ms).goal(times(3.0)),
        Wanted::new(format!("rename of {mib} MiB"), Unit::Ms).goal(times(3.0)),
    ]
}

fn sit_down(stack: &mut Stack, side: Side, length: u64) -> Result<Player> {
    let (key, seed) = ("big".to_owned(), SEED + side as u64);
    let mount = stack.mount(side)?;
    write_stored(&mount, &stack.store(side), &key, &Content::new(seed), length)?;
    Ok(Player { mount, key, luck: Luck::new(seed) })
}

fn chmod(mount: &Mount, key: &str, mode: u32) -> Result<f64> {
    let path = mount.path().join(key);
    let took = mount.within("chmod", || {
        let began = Instant::now();
        fs::set_permissions(&path, Permissions::from_mode(mode))?;
        Ok(began.elapsed())
    })?;
    let found = mount.within("stat", || Ok(fs::metadata(&path)?.permissions().mode() & 0o7777))?;
    ensure!(found == mode, "chmod to {mode:o} returned, and the mode is {found:o}");
    Ok(ms(took))
}

fn rename(mount: &Mount, store: &Store, from: &str, to: &str) -> Result<f64> {
    let (old, new) = (mount.path().join(from), mount.path().join(to));
    let took = mount.within("rename", || {
        let began = Instant::now();
        fs::rename(&old, &new)?;
        if mount.side().returns_early() {
            store.await_moved(from, to)?;
        }
        Ok(began.elapsed())
    })?;
    ensure!(store.moved(from, to)?, "rename returned, and the store does not have the file by its new name alone");
    Ok(ms(took))
}
