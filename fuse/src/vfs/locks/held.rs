//! What of files is locked, as far as this mount knows: by whom, and which bytes.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::remote::RangeLock;
use crate::tree::Ino;

/// Turns of files that nobody waits for are forgotten past so many.
const TURNS_MAX: usize = 256;

/// Bytes that an owner holds, whatever the mode: apart from each other, in order; the ends are inclusive.
#[derive(Debug, Default, PartialEq, Eq)]
struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    fn add(&mut self, start: u64, end: u64) {
        let touches = |(from, to): &(u64, u64)| *from <= end.saturating_add(1) && start <= to.saturating_add(1);
        let (touched, apart): (Vec<_>, Vec<_>) = self.0.drain(..).partition(touches);
        let joined = touched.into_iter().fold((start, end), |(start, end), (from, to)| (start.min(from), end.max(to)));
        self.0 = apart;
        self.0.push(joined);
        self.0.sort_unstable();
    }

    fn remove(&mut self, start: u64, end: u64) {
        let mut left = Vec::with_capacity(self.0.len() + 1);
        for (from, to) in self.0.drain(..) {
            if to < start || end < from {
                left.push((from, to));
                continue;
            }
            if from < start {
                left.push((from, start - 1));
            }
            if end < to {
                left.push((end + 1, to));
            }
        }
        self.0 = left;
    }

    fn meets(&self, start: u64, end: u64) -> bool {
        self.0.iter().any(|(from, to)| *from <= end && start <= *to)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Locked {
    state: Mutex<State>,
    /// One at a time takes the lock of a file that the profile demands, or gives it back.
    turns: Mutex<HashMap<Ino, Arc<tokio::sync::Mutex<()>>>>,
}

#[derive(Debug, Default)]
struct State {
    held: HashMap<(Ino, u64), Ranges>,
    /// What owners that are gone still hold, as the file is not in the repository yet.
    leaving: HashMap<(Ino, u64), RangeLock>,
    /// How often everything was lost.
    losses: u64,
}

impl Locked {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asked for before a range is: it is lost when this is another afterwards.
    pub(super) fn losses(&self) -> u64 {
        self.state().losses
    }

    /// A range was granted that was asked for at `losses`. Whether it is not lost again.
    pub(super) fn granted(&self, ino: Ino, range: &RangeLock, losses: u64) -> bool {
        let mut state = self.state();
        if state.losses != losses {
            return false;
        }
        state.leaving.remove(&(ino, range.owner));
        state.held.entry((ino, range.owner)).or_default().add(range.start, range.end);
        true
    }

    /// A range was given up.
    pub(super) fn unlocked(&self, ino: Ino, range: &RangeLock) {
        let mut state = self.state();
        if let Some(held) = state.held.get_mut(&(ino, range.owner)) {
            held.remove(range.start, range.end);
            if held.0.is_empty() {
                state.held.remove(&(ino, range.owner));
            }
        }
    }

    /// Whether an owner may hold some of these bytes.
    pub(super) fn holds(&self, ino: Ino, owner: u64, start: u64, end: u64) -> bool {
        self.state().held.get(&(ino, owner)).is_some_and(|held| held.meets(start, end))
    }

    /// The owner is gone; what it holds is given up later.
    pub(super) fn leaves(&self, ino: Ino, range: RangeLock) {
        self.state().leaving.insert((ino, range.owner), range);
    }

    /// Whether an owner is gone.
    pub(super) fn is_leaving(&self, ino: Ino, owner: u64) -> bool {
        self.state().leaving.contains_key(&(ino, owner))
    }

    /// What is to be given up.
    pub(super) fn leaving(&self) -> Vec<(Ino, RangeLock)> {
        self.state().leaving.iter().map(|((ino, _), range)| (*ino, range.clone())).collect()
    }

    /// Takes what is to be given up; none when its owner has come back.
    pub(super) fn take_leaving(&self, ino: Ino, owner: u64) -> Option<RangeLock> {
        self.state().leaving.remove(&(ino, owner))
    }

    /// Everything is lost; the files of which something was held.
    pub(super) fn lose(&self) -> HashSet<Ino> {
        let mut state = self.state();
        state.losses += 1;
        let gone: HashSet<(Ino, u64)> = state.leaving.drain().map(|(of, _)| of).collect();
        // Nobody believes to hold what an owner has left behind.
        state.held.drain().map(|(of, _)| of).filter(|of| !gone.contains(of)).map(|(ino, _)| ino).collect()
    }

    /// Whose turn it is with a file.
    pub(super) fn turn(&self, ino: Ino) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        if turns.len() >= TURNS_MAX {
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        }
        Arc::clone(turns.entry(ino).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(owner: u64, start: u64, end: u64) -> RangeLock {
        RangeLock { file: "f".into(), lease: 1, owner, pid: 1, start, end, exclusive: Some(true), ticket: 0 }
    }

    #[test]
    fn ranges_are_joined_and_split() {
        let mut held = Ranges::default();
        for (start, end) in [(10, 19), (30, 39), (20, 29), (50, u64::MAX)] {
            held.add(start, end);
        }
        assert_eq!(held.0, [(10, 39), (50, u64::MAX)]);
        held.remove(15, 54);
        assert_eq!(held.0, [(10, 14), (55, u64::MAX)]);
        assert!(held.meets(14, 20) && held.meets(0, 10) && !held.meets(15, 54));
        held.add(0, u64::MAX);
        assert_eq!(held.0, [(0, u64::MAX)]);
        held.remove(0, u64::MAX);
        assert_eq!(held, Ranges::default());
    }

    #[test]
    fn who_holds_nothing_loses_nothing() {
        let locked = Locked::default();
        for (ino, owner) in [(1, 8), (2, 8), (3, 9)] {
            assert!(locked.granted(ino, &range(owner, 0, 9), 0));
        }
        locked.unlocked(1, &range(8, 0, 4));
        assert!(locked.holds(1, 8, 0, u64::MAX) && !locked.holds(1, 8, 0, 4) && !locked.holds(1, 9, 0, 9));
        locked.unlocked(2, &range(8, 0, u64::MAX));
        locked.leaves(3, range(9, 0, u64::MAX));
        assert_eq!(locked.lose(), HashSet::from([1]));
        assert!(!locked.granted(1, &range(8, 0, 0), 0), "asked for before the loss");
        assert!(locked.lose().is_empty() && locked.leaving().is_empty());
    }

    #[test]
    fn an_owner_that_comes_back_keeps_what_it_gets() {
        let locked = Locked::default();
        assert!(locked.granted(1, &range(8, 0, 9), 0));
        locked.leaves(1, range(8, 0, u64::MAX));
        assert_eq!(locked.leaving().len(), 1);
        assert!(locked.granted(1, &range(8, 5, 5), 0));
        assert_eq!(locked.take_leaving(1, 8), None);
    }

    #[test]
    fn turns_are_forgotten() {
        let locked = Locked::default();
        let kept = locked.turn(0);
        for ino in 1..(2 * TURNS_MAX as u64) {
            locked.turn(ino);
        }
        assert!(locked.turns.lock().unwrap().len() <= TURNS_MAX);
        assert!(Arc::ptr_eq(&kept, &locked.turn(0)));
    }
}
