//! What a guest was promised, and whether a disk keeps it.
//!
//! Step `2r-1` makes the file `f/r` and removes `f/(r-KEEP)`; step `2r` writes `r` into block `r % BLOCKS` of `db`. After a crash
//! the disk must show the state after some step, and of the one after it, which was under way, any part. A disk that
//! shows a later step but not an earlier one has lost the order, which kills journals.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use md5::{Digest, Md5};

use super::{BLOCKS, KEEP};

const BLOCK_BYTES: usize = 4096;

/// The steps that a guest said are done, with the MD5 of each file that it made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Promise {
    last: Option<u32>,
    files: BTreeMap<u32, String>,
}

/// What is on a disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// MD5 of each file, by its number.
    pub files: BTreeMap<u32, String>,
    /// MD5 of each block, by its number.
    pub blocks: BTreeMap<u32, String>,
}

impl Promise {
    /// What a console says. A line that is cut off says nothing.
    #[must_use]
    pub fn of_console(console: &str) -> Self {
        let complete = &console[..console.rfind('\n').map_or(0, |at| at + 1)];
        let mut promise = Self::default();
        for line in complete.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let ["BARRIER", step, sum] = words[..] else { continue };
            let Ok(step) = step.parse::<u32>() else { continue };
            promise.last = Some(step);
            if sum.len() == 32 {
                promise.files.insert(step.div_ceil(2), sum.to_owned());
            }
        }
        promise
    }

    /// The last step that is done; `None` before the guest has begun.
    #[must_use]
    pub fn last(&self) -> Option<u32> {
        self.last
    }

    /// Adds what a later boot on the same disk was promised.
    pub fn continue_with(&mut self, later: Self) {
        self.last = later.last.or(self.last);
        self.files.extend(later.files);
    }

    /// The latest step whose state `seen` shows.
    ///
    /// # Errors
    /// When it is the state of no step, with what the last one lacks.
    pub fn reached(&self, seen: &Seen) -> Result<u32> {
        let last = self.last.context("the guest did not begin")?;
        let found = (0..=last).rev().find(|step| self.fits(*step, seen).is_ok());
        match found {
            Some(step) => Ok(step),
            None => self.fits(last, seen).map(|()| last).context("the disk shows the state of no step"),
        }
    }

    /// Fails unless `seen` shows step `floor`, or a later one.
    ///
    /// # Errors
    /// With what is missing.
    pub fn kept(&self, floor: u32, seen: &Seen) -> Result<u32> {
        let reached = self.reached(seen)?;
        if reached < floor {
            let why = self.fits(floor, seen).err().map(|error| format!("{error:#}")).unwrap_or_default();
            anyhow::bail!("step {floor} was acknowledged and the disk shows step {reached}: {why}");
        }
        Ok(reached)
    }

    /// Whether `seen` is the state after `step`, with any part of the next.
    fn fits(&self, step: u32, seen: &Seen) -> Result<()> {
        let (rounds, next) = (step.div_ceil(2), (step + 1).div_ceil(2));
        // The oldest file that must be there: the one before it may just be going.
        let (first, first_sure) = ((rounds + 1).saturating_sub(KEEP).max(1), (next + 1).saturating_sub(KEEP).max(1));
        for round in first_sure..=rounds {
            let have = seen.files.get(&round).with_context(|| format!("file {round} is missing"))?;
            let want = self.files.get(&round);
            ensure!(want.is_none_or(|want| want == have), "file {round} has another content");
        }
        for (round, have) in &seen.files {
            ensure!(*round >= first, "file {round} was removed and is there");
            ensure!(*round <= next, "file {round} is there before its time");
            let known = self.files.get(round);
            ensure!(known.is_none_or(|want| want == have), "file {round} has a content that it never had");
        }
        for block in 0..BLOCKS {
            let have = seen.blocks.get(&block).with_context(|| format!("block {block} is missing"))?;
            let under_way = (step + 1).is_multiple_of(2) && step.div_ceil(2) % BLOCKS == block;
            let round = last_round(block, step / 2);
            ensure!(under_way || *have == block_sum(round), "block {block} does not hold round {round}");
        }
        Ok(())
    }
}

/// The last of rounds `1..=rounds` that wrote `block`; 0 for none.
fn last_round(block: u32, rounds: u32) -> u32 {
    (1..=rounds).rev().take(BLOCKS as usize).find(|round| round % BLOCKS == block).unwrap_or(0)
}

/// MD5 of a block that round `round` wrote; of zeros for round 0.
fn block_sum(round: u32) -> String {
    let text = if round == 0 { vec![0; BLOCK_BYTES] } else { format!("{round}\n").into_bytes() };
    let bytes: Vec<u8> = text.iter().copied().cycle().take(BLOCK_BYTES).collect();
    sum(&bytes)
}

/// Hexadecimal MD5, which is what busybox can.
pub(super) fn sum(bytes: &[u8]) -> String {
    hex::encode(Md5::digest(bytes))
}

impl Seen {
    /// What a guest printed in [`super::Job::Verify`].
    ///
    /// # Errors
    /// When it did not come to its end.
    pub fn of_console(console: &str) -> Result<Self> {
        ensure!(console.lines().any(|line| line.starts_with("DONE ")), "the guest did not finish");
        let mut seen = Self::default();
        for line in console.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [what @ ("FILE" | "BLOCK"), number, sum] = words[..] else { continue };
            let list = if what == "FILE" { &mut seen.files } else { &mut seen.blocks };
            list.insert(number.parse().with_context(|| line.to_owned())?, sum.to_owned());
        }
        Ok(seen)
    }

    /// What bytes of `db` show.
    pub(super) fn add_blocks(&mut self, db: &[u8]) {
        let blocks = db.chunks(BLOCK_BYTES).zip(0..);
        self.blocks.extend(blocks.map(|(block, number)| (number, sum(block))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(round: u32) -> String {
        format!("{round:032x}")
    }

    fn promised(last: u32) -> Promise {
        let lines = (1..=last).map(|step| {
            let sum = if step % 2 == 1 { name(step.div_ceil(2)) } else { "block".to_owned() };
            format!("BARRIER {step} {sum}\n")
        });
        Promise::of_console(&(String::from("UP 1\nBARRIER 0 start\n") + &lines.collect::<String>() + "BARRIER 99"))
    }

    fn disk(step: u32) -> Seen {
        let rounds = step.div_ceil(2);
        let files = ((rounds + 1).saturating_sub(KEEP).max(1)..=rounds).map(|round| (round, name(round))).collect();
        let blocks = (0..BLOCKS).map(|block| (block, block_sum(last_round(block, step / 2)))).collect();
        Seen { files, blocks }
    }

    #[test]
    fn each_state_is_recognised_and_nothing_else() {
        for last in [0, 1, 2, 7, 39, 40, 41, 42, 64, 66, 131] {
            for step in 0..=last {
                let reached = promised(last).reached(&disk(step)).unwrap();
                // A state is also that of the step before it with all of the next.
                assert!(reached == step, "step {step} of {last} was taken for {reached}");
            }
        }
    }

    #[test]
    fn losses_and_wrong_orders_are_found() {
        let promise = promised(50);
        let check = |change: fn(&mut Seen), says: &str| {
            let mut seen = disk(50);
            change(&mut seen);
            let error = format!("{:#}", promise.kept(50, &seen).unwrap_err());
            assert!(error.contains(says), "{error}");
        };
        check(|seen| drop(seen.files.remove(&20)), "file 20 is missing");
        check(|seen| drop(seen.files.insert(20, name(1))), "file 20");
        check(|seen| drop(seen.files.insert(2, name(2))), "file 2 was removed");
        check(|seen| drop(seen.files.insert(27, name(27))), "file 27 is there");
        check(|seen| drop(seen.blocks.insert(3, block_sum(35))), "block 3");
        check(|seen| drop(seen.blocks.insert(25, block_sum(0))), "the disk shows step 49");
        check(|seen| *seen = disk(46), "the disk shows step 46");
        // What was under way may be there in any part.
        let mut seen = disk(50);
        seen.files.insert(26, name(7));
        seen.files.remove(&6);
        assert_eq!(promise.kept(50, &seen).unwrap(), 50);
        let mut seen = disk(49);
        seen.blocks.insert(25, name(3));
        assert_eq!(promised(49).kept(49, &seen).unwrap(), 49);
    }
}
