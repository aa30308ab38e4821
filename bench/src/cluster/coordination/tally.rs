//! What a watcher has seen, checked as it comes: each writer's events without a gap, none twice, in the order of commits.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::feed::Place;

/// When a watcher had an event.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub writer: usize,
    pub write: usize,
    pub at: Instant,
}

/// What one watcher has seen.
#[derive(Debug)]
pub struct Tally {
    /// Number of the watcher, and where it watches.
    pub number: usize,
    pub node: usize,
    /// One of so many events is a sample.
    every: u64,
    /// What all keys begin with.
    below: String,
    last: Place,
    /// By writer: its writes that were seen.
    seen: Vec<usize>,
    count: u64,
    /// Of all places and keys, in order.
    digest: DefaultHasher,
    pub samples: Vec<Sample>,
}

impl Tally {
    /// Of a watcher that has seen nothing.
    #[must_use]
    pub fn new(number: usize, node: usize, below: &str, writers: usize, every: u64) -> Self {
        let (below, seen) = (below.to_owned(), vec![0; writers]);
        let digest = DefaultHasher::new();
        Self { number, node, every, below, last: (0, 0), seen, count: 0, digest, samples: Vec::new() }
    }

    /// One event more.
    ///
    /// # Errors
    /// When it is not the next of its writer, or comes in a wrong order.
    pub fn see(&mut self, place: Place, key: &str) -> Result<()> {
        let at = Instant::now();
        let (writer, write) = numbers(key, &self.below).with_context(|| format!("an event of {key}"))?;
        let seen = self.seen.get_mut(writer).with_context(|| format!("an event of nobody: {key}"))?;
        ensure!(write == *seen, "{key} came where write {seen} of its writer was due, at {place:?}");
        ensure!(self.last < place, "{key} at {place:?} came after {:?}", self.last);
        *seen += 1;
        self.last = place;
        // Different watchers take different samples.
        if (self.count + self.number as u64).is_multiple_of(self.every) {
            self.samples.push(Sample { writer, write, at });
        }
        self.count += 1;
        (place, writer, write).hash(&mut self.digest);
        Ok(())
    }

    /// Events that were seen.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }
}

/// Whether every watcher saw all that was written, in the same order.
///
/// # Errors
/// When one did not; names the first and how many there are.
pub fn check(tallies: &[Tally], written: &[usize]) -> Result<()> {
    let lacking: Vec<_> = tallies.iter().filter(|tally| tally.seen != written).collect();
    if let Some(tally) = lacking.first() {
        let all: usize = written.iter().sum();
        anyhow::bail!(
            "{} of {} watchers lack events: number {} at node {} has {} of {all}, the last at {:?}; by writer {:?} of {written:?}",
            lacking.len(),
            tallies.len(),
            tally.number,
            tally.node + 1,
            tally.count,
            tally.last,
            tally.seen
        );
    }
    let digest = |tally: &Tally| tally.digest.finish();
    let other = tallies.iter().find(|tally| digest(tally) != digest(&tallies[0]));
    if let Some(other) = other {
        anyhow::bail!("watchers {} and {} saw the events in different orders", tallies[0].number, other.number);
    }
    Ok(())
}

/// The key of a write.
#[must_use]
pub fn key(below: &str, writer: usize, write: usize) -> String {
    format!("{below}{writer:02}/{write:08}")
}

fn numbers(key: &str, below: &str) -> Option<(usize, usize)> {
    let (writer, write) = key.strip_prefix(below)?.split_once('/')?;
    Some((writer.parse().ok()?, write.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(number: usize, events: &[(u64, usize, usize)]) -> Result<Tally> {
        let mut tally = Tally::new(number, 0, "w/", 2, 1);
        for &(revision, writer, write) in events {
            tally.see((revision, 0), &key("w/", writer, write))?;
        }
        Ok(tally)
    }

    #[test]
    fn gaps_repeats_and_wrong_orders_are_found_at_once() {
        assert_eq!(tally(0, &[(5, 0, 0), (6, 1, 0), (9, 0, 1)]).unwrap().count(), 3);
        assert!(tally(0, &[(5, 0, 0), (6, 0, 2)]).is_err(), "a gap");
        assert!(tally(0, &[(5, 0, 0), (6, 0, 0)]).is_err(), "a repeat");
        assert!(tally(0, &[(5, 0, 0), (5, 1, 0)]).is_err(), "the same place");
        assert!(tally(0, &[(5, 0, 0), (4, 1, 0)]).is_err(), "an older place");
        assert!(tally(0, &[(5, 2, 0)]).is_err(), "no such writer");
        let mut other = Tally::new(0, 0, "w/", 2, 1);
        assert!(other.see((5, 0), "v/00/00000000").is_err(), "another prefix");
    }

    #[test]
    fn all_must_have_all_in_one_order() {
        let all = [tally(0, &[(5, 0, 0), (6, 1, 0)]).unwrap(), tally(1, &[(5, 0, 0), (6, 1, 0)]).unwrap()];
        check(&all, &[1, 1]).unwrap();
        assert!(check(&all, &[1, 2]).is_err(), "the last is missing");
        assert!(check(&all, &[1, 0]).is_err(), "one that nobody wrote");
        let other = [tally(0, &[(5, 0, 0), (6, 1, 0)]).unwrap(), tally(1, &[(5, 1, 0), (6, 0, 0)]).unwrap()];
        assert!(check(&other, &[1, 1]).is_err(), "another order");
        check(&[], &[0, 0]).unwrap();
    }

    #[test]
    fn samples_are_spread_over_watchers() {
        let sampled = |number| {
            let mut tally = Tally::new(number, 0, "w/", 1, 2);
            for write in 0..4 {
                tally.see((write + 1, 0), &key("w/", 0, write as usize)).unwrap();
            }
            tally.samples.iter().map(|sample| sample.write).collect::<Vec<_>>()
        };
        assert_eq!((sampled(0), sampled(1)), (vec![0, 2], vec![1, 3]));
    }
}
