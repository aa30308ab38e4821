//! A linearizability checker for a few objects: is there an order of the operations that respects real time and explains
//! every answer?
//!
//! The search is that of Wing and Gong with the memory of Lowe ("Testing for linearizability", 2016): try each operation
//! that could come next, remember the sets of done operations with the states they led to, go back when an answer cannot be
//! explained. An operation without an answer may have happened at any time after it was sent, or never. LIST is an
//! operation like the others, so the objects are searched together: keep a history to a few keys and some hundred
//! operations.

use std::collections::{BTreeMap, HashSet};

/// The objects: name to the value that its last writer wrote. Values are unique.
pub type State = BTreeMap<u8, u32>;

/// What a client asked, and what it was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// A plain PUT; always succeeds when answered.
    Put(u8, u32),
    /// A PUT with `If-None-Match: *`: whether it created; `None` without an answer.
    Create(u8, u32, Option<bool>),
    /// A PUT of the second value with `If-Match` on the third: whether it replaced; `None` without an answer.
    Replace(u8, u32, u32, Option<bool>),
    /// DELETE.
    Delete(u8),
    /// GET or HEAD: what was there. Without an answer there is nothing to explain: leave it out of the history.
    Get(u8, Option<u32>),
    /// LIST: everything that was there.
    List(State),
}

/// One operation: sent at `sent`, answered at `answered` on one clock; `None` is no answer.
#[derive(Clone, Debug)]
pub struct Operation {
    /// What.
    pub act: Act,
    /// When it was sent.
    pub sent: u64,
    /// When it was answered.
    pub answered: Option<u64>,
}

impl Act {
    /// The state after it, or `None` when its answer cannot be.
    fn step(&self, state: &State) -> Option<State> {
        let mut next = state.clone();
        match self {
            Self::Put(key, value) => {
                next.insert(*key, *value);
            }
            Self::Create(key, value, told) => {
                let absent = !state.contains_key(key);
                if told.is_some_and(|created| created != absent) {
                    return None;
                }
                if absent {
                    next.insert(*key, *value);
                }
            }
            Self::Replace(key, value, expected, told) => {
                let fits = state.get(key) == Some(expected);
                if told.is_some_and(|replaced| replaced != fits) {
                    return None;
                }
                if fits {
                    next.insert(*key, *value);
                }
            }
            Self::Delete(key) => {
                next.remove(key);
            }
            Self::Get(key, value) if state.get(key) != value.as_ref() => return None,
            Self::List(all) if all != state => return None,
            Self::Get(..) | Self::List(_) => {}
        }
        Some(next)
    }
}

/// Calls and returns in the order of time, as a list from which operations are lifted and put back.
struct Timeline {
    /// Operation of each event, and whether it is the call.
    events: Vec<(usize, bool)>,
    /// Place of each operation's call and return among the events.
    places: Vec<(usize, usize)>,
    next: Vec<usize>,
    previous: Vec<usize>,
}

impl Timeline {
    fn new(history: &[Operation]) -> Self {
        let mut order: Vec<(u64, bool, usize)> = Vec::new();
        for (number, operation) in history.iter().enumerate() {
            order.push((operation.sent, false, number));
            order.push((operation.answered.unwrap_or(u64::MAX), true, number));
        }
        // At one instant calls come before returns: the operations may have overlapped.
        order.sort_unstable();
        let events: Vec<_> = order.iter().map(|(_, is_return, number)| (*number, !is_return)).collect();
        let mut places = vec![(0, 0); history.len()];
        for (place, (number, is_call)) in events.iter().enumerate() {
            if *is_call {
                places[*number].0 = place + 1;
            } else {
                places[*number].1 = place + 1;
            }
        }
        // Links count from 1; 0 is the head and the end.
        let length = events.len() + 1;
        let next = (1..=length).map(|at| at % length).collect();
        let previous = (0..length).map(|at| (at + length - 1) % length).collect();
        Self { events, places, next, previous }
    }

    fn first(&self) -> usize {
        self.next[0]
    }

    fn unlink(&mut self, at: usize) {
        let (before, after) = (self.previous[at], self.next[at]);
        self.next[before] = after;
        self.previous[after] = before;
    }

    fn relink(&mut self, at: usize) {
        let (before, after) = (self.previous[at], self.next[at]);
        self.next[before] = at;
        self.previous[after] = at;
    }

    fn lift(&mut self, number: usize) {
        let (call, end) = self.places[number];
        self.unlink(call);
        self.unlink(end);
    }

    fn put_back(&mut self, number: usize) {
        let (call, end) = self.places[number];
        self.relink(end);
        self.relink(call);
    }
}

/// What the search came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is such an order.
    Linearizable,
    /// There is none.
    Not,
    /// Too much was left open by operations without an answer.
    Undecided,
}

/// Most steps of one search.
const STEPS_MAX: u64 = 20_000_000;

/// Judges `history`, which began with no objects.
///
/// What nobody saw and nobody heard of need not have happened: an order without it is tried first, as it is found fast.
#[must_use]
pub fn judge(history: &[Operation]) -> Verdict {
    let seen: HashSet<u32> = history
        .iter()
        .flat_map(|operation| match &operation.act {
            Act::Get(_, value) => value.iter().copied().collect::<Vec<_>>(),
            Act::List(all) => all.values().copied().collect(),
            Act::Replace(_, _, expected, Some(true)) => vec![*expected],
            _ => Vec::new(),
        })
        .collect();
    let matters = |operation: &&Operation| match operation.act {
        Act::Put(_, value) | Act::Create(_, value, _) | Act::Replace(_, value, ..) => {
            operation.answered.is_some() || seen.contains(&value)
        }
        Act::Delete(_) | Act::Get(..) | Act::List(_) => true,
    };
    let fewer: Vec<Operation> = history.iter().filter(matters).cloned().collect();
    match search(&fewer) {
        Verdict::Linearizable => Verdict::Linearizable,
        other if fewer.len() == history.len() => other,
        _ => search(history),
    }
}

/// Whether `history` is surely linearizable.
#[must_use]
pub fn is_linearizable(history: &[Operation]) -> bool {
    judge(history) == Verdict::Linearizable
}

fn search(history: &[Operation]) -> Verdict {
    let mut timeline = Timeline::new(history);
    let mut state = State::new();
    let mut done = vec![0_u64; history.len().div_ceil(64)];
    let mut path: Vec<(usize, State)> = Vec::new();
    let mut seen: HashSet<(Vec<u64>, State)> = HashSet::new();
    let mut at = timeline.first();
    let mut steps = 0;
    while timeline.first() != 0 {
        steps += 1;
        if steps > STEPS_MAX {
            return Verdict::Undecided;
        }
        // The end of the list is never reached: the last event that is left is a return.
        let (number, is_call) = timeline.events[at - 1];
        if is_call {
            if let Some(next) = history[number].act.step(&state) {
                done[number / 64] |= 1 << (number % 64);
                if seen.insert((done.clone(), next.clone())) {
                    path.push((number, std::mem::replace(&mut state, next)));
                    timeline.lift(number);
                    at = timeline.first();
                    continue;
                }
                done[number / 64] &= !(1 << (number % 64));
            }
            at = timeline.next[at];
        } else {
            let Some((undone, before)) = path.pop() else { return Verdict::Not };
            state = before;
            done[undone / 64] &= !(1 << (undone % 64));
            timeline.put_back(undone);
            at = timeline.next[timeline.places[undone].0];
        }
    }
    Verdict::Linearizable
}

#[cfg(test)]
mod tests;
