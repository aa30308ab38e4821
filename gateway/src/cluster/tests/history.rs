//! What clients did to keys, and whether it is what a register for each key could have answered.

use std::collections::{BTreeMap, HashSet};

use super::*;

/// The checker keeps what was done in a word.
pub(super) const OPERATIONS_MAX: usize = 120;

/// Something a client did to a key. A write that may have happened has no end.
#[derive(Clone, Debug)]
pub(super) struct Operation {
    pub began: Instant,
    pub ended: Option<Instant>,
    /// What was written, or what was read.
    pub write: Option<u64>,
    pub read: Option<u64>,
}

pub(super) type History = BTreeMap<u64, Vec<Operation>>;

/// What a key holds, as a client reads it; `None` when it gets no answer.
pub(super) async fn read(node: &Cluster, key: u64, deadline: Instant) -> Option<Option<u64>> {
    let view = node.view(Consistency::Linearizable, deadline).await.ok()?;
    let bytes = sample::value(&view, &key.to_string());
    Some(bytes.map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap())))
}

/// The seeds that an environment variable names: how many (`20`), or which (`100..120`).
pub(super) fn seeds(variable: &str, usual: u64) -> std::ops::Range<u64> {
    let number = |text: &str| -> u64 {
        text.trim().parse().unwrap_or_else(|_| panic!("{variable} is a number or a range, not {text:?}"))
    };
    match std::env::var(variable) {
        Err(_) => 0..usual,
        Ok(text) => match text.split_once("..") {
            Some((from, to)) => number(from)..number(to),
            None => 0..number(&text),
        },
    }
}

/// Whether the operations are those of one register that begins with nothing.
///
/// Takes any operation that no unfinished one must precede, remembers (done, value) that led nowhere.
pub(super) fn is_linearizable(operations: &[Operation]) -> bool {
    assert!(operations.len() <= 128, "{} operations", operations.len());
    let must: u128 =
        (0..operations.len()).filter(|at| operations[*at].ended.is_some()).fold(0, |set, at| set | 1 << at);
    let (mut stack, mut seen) = (vec![(0u128, None)], HashSet::new());
    while let Some((done, value)) = stack.pop() {
        if done & must == must {
            return true;
        }
        if !seen.insert((done, value)) {
            continue;
        }
        let open = |at: &usize| done & (1 << at) == 0;
        let first_end = (0..operations.len()).filter(open).filter_map(|at| operations[at].ended).min();
        for at in (0..operations.len()).filter(open) {
            let operation = &operations[at];
            if first_end.is_some_and(|end| operation.began > end) {
                continue;
            }
            match operation.write {
                Some(written) => stack.push((done | 1 << at, Some(written))),
                None if operation.read == value => stack.push((done | 1 << at, value)),
                None => {}
            }
        }
    }
    false
}

#[test]
fn the_checker_finds_stale_and_lost_values() {
    let start = Instant::now();
    let at = |ms: u64| start + Duration::from_millis(ms);
    let write =
        |value, from, to: Option<u64>| Operation { began: at(from), ended: to.map(at), write: Some(value), read: None };
    let read = |read, from, to| Operation { began: at(from), ended: Some(at(to)), write: None, read };
    assert!(is_linearizable(&[write(1, 0, Some(10)), read(None, 5, 8), read(Some(1), 8, 20)]));
    assert!(!is_linearizable(&[write(1, 0, Some(10)), read(None, 11, 12)]), "a stale read");
    assert!(!is_linearizable(&[write(1, 0, Some(10)), read(Some(1), 2, 4), read(None, 5, 6)]), "back in time");
    assert!(is_linearizable(&[write(1, 0, None), read(None, 20, 30), read(Some(1), 40, 50)]), "an unknown write, late");
    assert!(!is_linearizable(&[write(1, 0, None), read(Some(1), 20, 30), read(None, 40, 50)]), "and gone again");
    assert!(!is_linearizable(&[read(Some(7), 0, 5)]), "never written");
}
