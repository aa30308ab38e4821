use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

fn history(operations: &[(Act, u64, Option<u64>)]) -> Vec<Operation> {
    let make = |(act, sent, answered): &(Act, u64, Option<u64>)| Operation {
        act: act.clone(),
        sent: *sent,
        answered: *answered,
    };
    operations.iter().map(make).collect()
}

fn state(rows: &[(u8, u32)]) -> State {
    rows.iter().copied().collect()
}

#[test]
fn overlapping_operations_may_come_in_any_order() {
    let both = |seen| {
        history(&[
            (Act::Put(1, 10), 0, Some(10)),
            (Act::Put(1, 11), 0, Some(10)),
            (Act::Get(1, Some(seen)), 11, Some(12)),
        ])
    };
    assert!(is_linearizable(&both(10)) && is_linearizable(&both(11)) && !is_linearizable(&both(12)));
    assert!(is_linearizable(&history(&[])));
}

#[test]
fn a_stale_read_is_found() {
    let stale = [(Act::Put(1, 10), 0, Some(1)), (Act::Put(1, 11), 2, Some(3)), (Act::Get(1, Some(10)), 4, Some(5))];
    assert!(!is_linearizable(&history(&stale)));
    let list = [(Act::Put(1, 10), 0, Some(1)), (Act::List(state(&[])), 2, Some(3))];
    assert!(!is_linearizable(&history(&list)));
}

#[test]
fn two_reads_do_not_go_back() {
    let back = [(Act::Put(1, 10), 0, Some(100)), (Act::Get(1, Some(10)), 1, Some(2)), (Act::Get(1, None), 3, Some(4))];
    assert!(!is_linearizable(&history(&back)));
}

#[test]
fn an_acknowledged_write_that_is_gone_is_found() {
    let lost = [(Act::Put(1, 10), 0, Some(1)), (Act::Get(1, None), 2, Some(3))];
    assert!(!is_linearizable(&history(&lost)));
    let unheard = [(Act::Put(1, 10), 0, None), (Act::Get(1, None), 2, Some(3)), (Act::Get(1, Some(10)), 9, Some(10))];
    assert!(is_linearizable(&history(&unheard)));
    let unheard_back =
        [(Act::Put(1, 10), 0, None), (Act::Get(1, Some(10)), 2, Some(3)), (Act::Get(1, None), 9, Some(10))];
    assert!(!is_linearizable(&history(&unheard_back)));
}

#[test]
fn two_winners_of_one_race_are_found() {
    let race =
        |second| history(&[(Act::Create(1, 10, Some(true)), 0, Some(10)), (Act::Create(1, 11, second), 0, Some(10))]);
    assert!(is_linearizable(&race(Some(false))) && is_linearizable(&race(None)) && !is_linearizable(&race(Some(true))));
}

#[test]
fn a_list_is_of_one_moment() {
    let torn =
        [(Act::Put(1, 10), 0, Some(1)), (Act::Put(2, 20), 2, Some(3)), (Act::List(state(&[(2, 20)])), 0, Some(4))];
    assert!(!is_linearizable(&history(&torn)));
    let whole = [
        (Act::Put(1, 10), 0, Some(1)),
        (Act::Put(2, 20), 2, Some(3)),
        (Act::List(state(&[(1, 10)])), 0, Some(4)),
        (Act::Delete(1), 5, Some(6)),
        (Act::List(state(&[(2, 20)])), 7, Some(8)),
    ];
    assert!(is_linearizable(&history(&whole)));
}

#[test]
fn a_long_history_with_lost_answers_is_searched_in_time() {
    let mut operations = Vec::new();
    for round in 0..60u32 {
        let at = u64::from(round) * 10;
        let key = (round % 3) as u8;
        operations.push((Act::Put(key, round), at, Some(at + 4)));
        operations.push((Act::Put(key, 1000 + round), at, (round % 20 != 0).then_some(at + 4)));
        operations.push((Act::Get(key, Some(round)), at + 2, Some(at + 3)));
    }
    assert!(is_linearizable(&history(&operations)));
    operations.push((Act::Get(0, Some(58)), 9000, Some(9001)));
    assert!(!is_linearizable(&history(&operations)));
}

#[test]
fn two_replacements_of_one_value_are_found() {
    let race = |second| {
        history(&[
            (Act::Put(1, 10), 0, Some(1)),
            (Act::Replace(1, 11, 10, Some(true)), 2, Some(9)),
            (Act::Replace(1, 12, 10, second), 2, Some(9)),
        ])
    };
    assert!(is_linearizable(&race(Some(false))) && is_linearizable(&race(None)));
    assert_eq!(judge(&race(Some(true))), Verdict::Not);
}

/// What a bug would do to a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bug {
    StaleRead,
    EarlyAcknowledgement,
    TwoWinners,
    TornList,
}

/// A recorded history: clients on a correct store, each operation applied at one moment between its call and its answer.
/// `lost` is the number of an operation that is acknowledged and not applied.
fn recorded(seed: u64, lost: Option<usize>) -> Vec<Operation> {
    const CLIENTS: usize = 4;
    const EACH: usize = 40;
    let mut luck = StdRng::seed_from_u64(seed);
    let mut planned: Vec<(u64, u64, u64, u32, u8, u32)> = Vec::new();
    for client in 0..CLIENTS {
        let mut at = luck.random_range(0..50_u64);
        for number in 0..EACH {
            let (sent, applied) = (at, at + luck.random_range(1..20_u64));
            at = applied + luck.random_range(1..20_u64);
            let value = u32::try_from(client * EACH + number + 1).expect("few");
            planned.push((applied, sent, at, luck.random_range(0..100), luck.random_range(0..3), value));
            at += luck.random_range(1..30_u64);
        }
    }
    planned.sort_unstable();
    let mut state = State::new();
    let play = |(number, (_, sent, answered, kind, key, value)): (usize, (u64, u64, u64, u32, u8, u32))| {
        let there = state.get(&key).copied();
        let act = match kind {
            0..25 => Act::Put(key, value),
            25..45 => Act::Create(key, value, Some(there.is_none())),
            45..55 => Act::Delete(key),
            55..80 => Act::Get(key, there),
            _ => Act::List(state.clone()),
        };
        if lost != Some(number) {
            state = act.step(&state).expect("the store is correct");
        }
        Operation { act, sent, answered: Some(answered) }
    };
    planned.into_iter().enumerate().map(play).collect()
}

/// Whether `act` may change `key`.
fn changes(act: &Act, key: u8) -> bool {
    match act {
        Act::Put(of, _) | Act::Create(of, ..) | Act::Replace(of, ..) | Act::Delete(of) => *of == key,
        Act::Get(..) | Act::List(_) => false,
    }
}

/// The histories that `bug` makes of a good one, each where no other operation can excuse it.
fn injected(good: &[Operation], bug: Bug, seed: u64) -> Vec<Vec<Operation>> {
    let before = |one: &Operation, other: &Operation| one.answered.is_some_and(|answered| answered < other.sent);
    // Nothing else touches the key from when `first` was sent until `last` is answered.
    let quiet = |key: u8, first: &Operation, last: &Operation| {
        good.iter().all(|other| {
            std::ptr::eq(other, first) || !changes(&other.act, key) || before(other, first) || before(last, other)
        })
    };
    let mut found = Vec::new();
    let pairs =
        good.iter().enumerate().flat_map(|(at, put)| good.iter().enumerate().map(move |read| ((at, put), read)));
    for ((at, put), (number, read)) in pairs.filter(|((_, put), (_, read))| before(put, read)) {
        let Act::Put(key, value) = put.act else { continue };
        let mut bad = good.to_vec();
        match (bug, &read.act) {
            (Bug::StaleRead, Act::Get(of, seen)) if *of == key && *seen != Some(value) => {
                // Overwritten for sure before the read was sent.
                let gone = |other: &Operation| {
                    matches!(other.act, Act::Put(of, _) | Act::Delete(of) if of == key)
                        && before(put, other)
                        && before(other, read)
                };
                if !good.iter().any(gone) {
                    continue;
                }
                bad[number].act = Act::Get(key, Some(value));
            }
            (Bug::EarlyAcknowledgement, Act::Get(of, _)) if *of == key && quiet(key, put, read) => {
                bad = recorded(seed, Some(at));
            }
            (Bug::TwoWinners, Act::Create(of, other, Some(false))) if *of == key => {
                let deleted = good.iter().any(|other| {
                    matches!(other.act, Act::Delete(of) if of == key) && !before(other, put) && !before(read, other)
                });
                if deleted {
                    continue;
                }
                bad[number].act = Act::Create(key, *other, Some(true));
            }
            (Bug::TornList, Act::List(all)) if quiet(key, put, read) => {
                let mut less = all.clone();
                assert_eq!(less.remove(&key), Some(value));
                bad[number].act = Act::List(less);
            }
            _ => continue,
        }
        found.push(bad);
    }
    found
}

#[test]
fn seeded_bugs_are_found() {
    for bug in [Bug::StaleRead, Bug::EarlyAcknowledgement, Bug::TwoWinners, Bug::TornList] {
        let mut judged = 0;
        for seed in 0..20 {
            let good = recorded(seed, None);
            assert_eq!(judge(&good), Verdict::Linearizable, "seed {seed}");
            for bad in injected(&good, bug, seed).iter().take(5) {
                assert_eq!(judge(bad), Verdict::Not, "{bug:?} in the history of seed {seed}");
                judged += 1;
            }
        }
        assert!(judged >= 20, "{bug:?} found a place in {judged} histories only");
    }
}
