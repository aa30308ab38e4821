//! Byte-range and whole-file locks against a naive model that keeps a mode for every byte: long random histories, and each
//! promise by itself.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use holdfast_core::command::*;
use holdfast_core::effect::Effect;
use holdfast_core::error::Error;
use holdfast_core::keyspace::Keyspace;
use holdfast_core::kv::Kv;
use holdfast_core::lock::LockMode::{self, Exclusive, Shared};
use holdfast_core::range::{RangeFamily, RangeOwner, RangeState, WantedRange};
use holdfast_core::rules::authorize::{Action, Permit, Resource};
use holdfast_core::rules::range::{RANGE_WAITS_MAX, RANGES_OF_FILE_MAX, RANGES_OF_LEASE_MAX};
use holdfast_core::view::View;
use support::{Dice, Machine};

const MAX: u64 = u64::MAX;

fn permit() -> Permit {
    support::permit(Action::UseLocks, Resource::Service)
}

fn lease(machine: &mut Machine) -> u64 {
    match machine.run(Op::GrantLease(GrantLease { owner: "mount".into(), ttl_ms: 5_000 })) {
        Reply::Granted(granted) => granted.lease,
        other => panic!("{other:?}"),
    }
}

/// A request of the fcntl family that does not wait.
fn ask(resource: &str, by: RangeOwner, mode: Option<LockMode>, (start, end): (u64, u64)) -> SetRange {
    let (lease, owner) = by;
    let family = RangeFamily::Fcntl;
    SetRange {
        resource: resource.into(),
        lease,
        owner,
        family,
        mode,
        start,
        end,
        ticket: None,
        pid: owner as u32,
        asker: None,
    }
}

fn waiting(asked: SetRange, ticket: u64) -> SetRange {
    SetRange { ticket: Some(ticket), ..asked }
}

fn run(machine: &mut Machine, asked: SetRange) -> Result<Ranged, Error> {
    ranged(machine.run(Op::SetRange(asked)))
}

fn ranged(reply: Reply) -> Result<Ranged, Error> {
    match reply {
        Reply::Ranged(ranged) => Ok(ranged),
        Reply::Refused(error) => Err(error),
        other => panic!("{other:?}"),
    }
}

fn state(machine: &Machine, resource: &str) -> RangeState {
    View::new(&machine.kv.view(), machine.revision).ranges(&permit(), resource, usize::MAX).unwrap()
}

/// Owner, mode and bytes of all that is held.
fn held(machine: &Machine, resource: &str) -> Vec<(RangeOwner, LockMode, u64, u64)> {
    let held = state(machine, resource).held.into_iter();
    held.map(|(_, range)| (range.by, range.row.mode, range.start, range.row.end)).collect()
}

fn rows_of_ranges(machine: &Machine) -> usize {
    machine.rows().iter().filter(|(keyspace, key, _)| *keyspace == Keyspace::Locks && key[2] >= 6).count()
}

const BYTES: usize = 12;
const FILES: [(&str, u64); 3] = [("a", 0), ("a/b", 100), ("b", MAX - BYTES as u64 + 1)];

type Cells = [Option<LockMode>; BYTES];

#[derive(Clone, Debug)]
struct NaiveWait {
    file: usize,
    id: u64,
    by: RangeOwner,
    family: RangeFamily,
    mode: LockMode,
    bytes: (usize, usize),
    ticket: u64,
}

/// What should be held: of each file, family and owner the mode of every byte. A lock of the flock family is on them all.
#[derive(Debug, Default)]
struct Naive {
    cells: BTreeMap<(usize, RangeFamily, RangeOwner), Cells>,
    waits: Vec<NaiveWait>,
}

/// A request, in bytes of the model.
#[derive(Clone, Copy, Debug)]
struct Request {
    file: usize,
    family: RangeFamily,
    by: RangeOwner,
    mode: Option<LockMode>,
    bytes: (usize, usize),
    ticket: Option<u64>,
}

impl Request {
    fn real(&self) -> SetRange {
        let (name, base) = FILES[self.file];
        let bytes = match self.family {
            RangeFamily::Fcntl => (base + self.bytes.0 as u64, base + self.bytes.1 as u64),
            RangeFamily::Flock => (0, MAX),
        };
        SetRange { family: self.family, ticket: self.ticket, ..ask(name, self.by, self.mode, bytes) }
    }
}

impl Naive {
    fn owners_in_the_way(
        &self,
        file: usize,
        family: RangeFamily,
        by: RangeOwner,
        mode: LockMode,
        bytes: (usize, usize),
    ) -> BTreeSet<RangeOwner> {
        let conflicts = |held: &Option<LockMode>| held.is_some_and(|held| held == Exclusive || mode == Exclusive);
        let of_file = self.cells.iter().filter(|((f, k, owner), _)| (*f, *k) == (file, family) && *owner != by);
        of_file.filter(|(_, cells)| cells[bytes.0..=bytes.1].iter().any(conflicts)).map(|((_, _, by), _)| *by).collect()
    }

    fn paint(
        &mut self,
        file: usize,
        family: RangeFamily,
        by: RangeOwner,
        mode: Option<LockMode>,
        bytes: (usize, usize),
    ) {
        let cells = self.cells.entry((file, family, by)).or_default();
        cells[bytes.0..=bytes.1].fill(mode);
    }

    /// Grants until nothing changes, always the first that can be. The numbers of those that were granted.
    fn advance(&mut self) -> Vec<u64> {
        let mut granted = Vec::new();
        loop {
            let free = |wait: &NaiveWait| {
                self.owners_in_the_way(wait.file, wait.family, wait.by, wait.mode, wait.bytes).is_empty()
            };
            let Some(at) = self.waits.iter().position(free) else { return granted };
            let wait = self.waits.remove(at);
            self.paint(wait.file, wait.family, wait.by, Some(wait.mode), wait.bytes);
            granted.push(wait.id);
        }
    }

    /// Whether whoever is in the way waits for `by`, by however many others.
    fn deadlock(&self, by: RangeOwner, first: BTreeSet<RangeOwner>) -> bool {
        let mut reached = first;
        loop {
            let waits = self.waits.iter().filter(|w| w.family == RangeFamily::Fcntl && reached.contains(&w.by));
            let next: BTreeSet<RangeOwner> =
                waits.flat_map(|w| self.owners_in_the_way(w.file, w.family, w.by, w.mode, w.bytes)).collect();
            if reached.contains(&by) {
                return true;
            }
            let before = reached.len();
            reached.extend(next);
            if reached.len() == before {
                return false;
            }
        }
    }

    /// Runs of bytes of one mode, as they should be stored.
    fn runs(&self, file: usize, family: RangeFamily) -> Vec<(RangeOwner, LockMode, u64, u64)> {
        let mut runs: Vec<(RangeOwner, LockMode, u64, u64)> = Vec::new();
        for ((_, _, by), cells) in self.cells.iter().filter(|((f, k, _), _)| (*f, *k) == (file, family)) {
            let mut last = None;
            for (at, mode) in cells.iter().enumerate() {
                let byte = FILES[file].1 + at as u64;
                match (mode, last) {
                    (Some(mode), Some(before)) if *mode == before => runs.last_mut().unwrap().3 = byte,
                    (Some(mode), _) => runs.push((*by, *mode, byte, byte)),
                    (None, _) => {}
                }
                last = *mode;
            }
        }
        if family == RangeFamily::Flock {
            runs.iter_mut().for_each(|run| (run.2, run.3) = (0, MAX));
        }
        runs
    }

    fn first_in_the_way(&self, file: usize, family: RangeFamily, wanted: &WantedRange) -> Option<RangeHolder> {
        let runs = self.runs(file, family).into_iter().filter(|(by, mode, start, end)| {
            *by != wanted.by
                && (*mode == Exclusive || wanted.mode == Exclusive)
                && *start <= wanted.end
                && wanted.start <= *end
        });
        let first = runs.min_by_key(|(by, _, start, _)| (*start, *by));
        first.map(|((lease, owner), mode, start, end)| RangeHolder {
            lease,
            owner,
            pid: owner as u32,
            mode,
            start,
            end,
        })
    }
}

/// The real one beside the naive one.
struct Pair {
    machine: Machine,
    naive: Naive,
    log: Vec<Command>,
    seen: BTreeMap<&'static str, u32>,
}

impl Pair {
    fn saw(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    /// Applies for real; the waits whose end was told must be `gone`.
    fn apply(&mut self, op: Op) -> (Reply, BTreeSet<u64>) {
        let command = self.machine.command(op);
        let applied = self.machine.apply(&command);
        self.log.push(command);
        let told = applied.effects.iter().filter_map(|effect| match effect {
            Effect::RangeWait(wait) => Some(*wait),
            _ => None,
        });
        (applied.reply, told.collect())
    }

    fn set(&mut self, asked: Request) {
        let Request { file, family, by, bytes, ticket, .. } = asked;
        let (reply, told) = self.apply(Op::SetRange(asked.real()));
        let (reply, revision) = (ranged(reply), self.machine.revision);
        let naive = &mut self.naive;
        let Some(mode) = asked.mode else {
            assert_eq!(reply, Ok(Ranged::default()));
            naive.paint(file, family, by, None, bytes);
            assert_eq!(BTreeSet::from_iter(naive.advance()), told);
            if !told.is_empty() {
                self.saw("granted by an unlock");
            }
            return;
        };
        let same_ticket = |w: &&NaiveWait| (w.file, w.by.0, Some(w.ticket)) == (file, by.0, ticket);
        if let Some(wait) = naive.waits.iter().find(same_ticket) {
            if (wait.by, wait.family, wait.mode, wait.bytes) == (by, family, mode, bytes) {
                assert_eq!(reply, Ok(Ranged { wait: Some(wait.id), ..Ranged::default() }));
                self.saw("the same request again");
            } else {
                assert!(matches!(reply, Err(Error::InvalidArgument { .. })), "{reply:?}");
            }
            return;
        }
        let own = naive.cells.get(&(file, family, by)).copied().unwrap_or_default();
        let released = family == RangeFamily::Flock && own[0].is_some_and(|held| held != mode);
        let before = own;
        if released {
            naive.paint(file, family, by, None, bytes);
        }
        let wanted = asked.real().wanted().unwrap();
        let in_the_way = naive.owners_in_the_way(file, family, by, mode, bytes);
        if in_the_way.is_empty() {
            let token = reply.unwrap().token.unwrap();
            let covered = own[bytes.0..=bytes.1].iter().all(|held| *held == Some(mode));
            assert!(if covered { token < revision } else { token == revision }, "{token}");
            naive.paint(file, family, by, Some(mode), bytes);
            assert_eq!(BTreeSet::from_iter(naive.advance()), told);
            if !told.is_empty() {
                self.saw("granted by a downgrade");
            }
            return;
        }
        let first = naive.first_in_the_way(file, family, &wanted).unwrap();
        match ticket {
            None if released => {
                assert_eq!(reply, Ok(Ranged { held: Some(first), ..Ranged::default() }));
                assert_eq!(BTreeSet::from_iter(naive.advance()), told);
                self.saw("lost by a conversion");
            }
            None => assert_eq!(reply, Err(Error::RangeHeld { holder: first })),
            Some(_) if family == RangeFamily::Fcntl && naive.deadlock(by, in_the_way) => {
                assert_eq!(reply, Err(Error::Deadlock));
                assert_eq!(naive.cells.get(&(file, family, by)).copied().unwrap_or_default(), before);
                self.saw("a deadlock");
            }
            Some(ticket) => {
                assert_eq!(reply, Ok(Ranged { wait: Some(revision), ..Ranged::default() }));
                naive.waits.push(NaiveWait { file, id: revision, by, family, mode, bytes, ticket });
                assert_eq!(BTreeSet::from_iter(naive.advance()), told);
                self.saw("a wait");
            }
        }
    }

    fn cancel(&mut self, wait: &NaiveWait) {
        let NaiveWait { file, family, by, mode, bytes, ticket, .. } = *wait;
        let asked = Request { file, family, by, mode: Some(mode), bytes, ticket: Some(ticket) };
        let (reply, told) = self.apply(Op::CancelRange(asked.real()));
        let waits =
            self.naive.waits.iter().position(|other| (other.file, other.by.0, other.ticket) == (file, by.0, ticket));
        match waits {
            Some(at) if self.naive.waits[at].id == wait.id => {
                assert_eq!((ranged(reply), told), (Ok(Ranged::default()), BTreeSet::from([wait.id])));
                self.naive.waits.remove(at);
                self.saw("cancelled in time");
            }
            // Its ticket was used again.
            Some(_) => {}
            None => {
                let own = self.naive.cells.get(&(file, family, by)).copied().unwrap_or_default();
                let holds = own[bytes.0..=bytes.1].iter().all(|held| *held == Some(mode));
                assert_eq!(ranged(reply).unwrap().token.is_some(), holds);
                self.saw(if holds { "cancelled after its grant" } else { "cancelled after its end" });
            }
        }
    }

    fn end(&mut self, lease: u64, expires: bool) {
        let op = if expires {
            Op::ExpireLease(ExpireLease { lease, renewals: 0 })
        } else {
            Op::ReleaseLease(ReleaseLease { lease, name: None, unless_granted: false })
        };
        let (reply, told) = self.apply(op);
        assert_eq!(reply, Reply::Done);
        let naive = &mut self.naive;
        let mut gone: BTreeSet<u64> = naive.waits.iter().filter(|w| w.by.0 == lease).map(|w| w.id).collect();
        naive.waits.retain(|wait| wait.by.0 != lease);
        naive.cells.retain(|(_, _, by), _| by.0 != lease);
        let granted = naive.advance();
        let some = !granted.is_empty();
        gone.extend(granted);
        assert_eq!(gone, told);
        if some {
            self.saw("granted by the end of a lease");
        }
    }

    fn check(&self, dice: &mut Dice, leases: &[u64]) {
        let rows = self.machine.kv.view();
        let view = View::new(&rows, self.machine.revision);
        let mut counts: BTreeMap<(u64, &str), u32> = BTreeMap::new();
        for (file, (name, _)) in FILES.iter().enumerate() {
            let state = view.ranges(&permit(), name, usize::MAX).unwrap();
            let real: Vec<_> = state.held.iter().map(|(k, r)| (*k, (r.by, r.row.mode, r.start, r.row.end))).collect();
            let expected: Vec<_> = RangeFamily::ALL
                .iter()
                .flat_map(|family| self.naive.runs(file, *family).into_iter().map(|run| (*family, run)))
                .collect();
            assert_eq!(real, expected, "{name}");
            let waits: Vec<u64> = state.waits.iter().map(|wait| wait.wait).collect();
            let of_file = self.naive.waits.iter().filter(|wait| wait.file == file);
            assert_eq!(waits, of_file.map(|wait| wait.id).collect::<Vec<_>>(), "{name}");
            let all = state.held.iter().map(|(_, r)| r.by.0).chain(state.waits.iter().map(|wait| wait.row.lease));
            all.for_each(|lease| *counts.entry((lease, name)).or_default() += 1);
            let by = (*dice.pick(leases), dice.below(3));
            let mode = *dice.pick(&[Shared, Exclusive]);
            let family = *dice.pick(RangeFamily::ALL);
            let asked = Request { file, family, by, mode: Some(mode), bytes: bytes(dice, family), ticket: None };
            let wanted = asked.real().wanted().unwrap();
            let first = view.range_in_the_way(&permit(), name, family, &wanted).unwrap();
            assert_eq!(first, self.naive.first_in_the_way(file, family, &wanted), "{asked:?}");
        }
        for lease in leases {
            let of_lease = view.ranges_of_lease(&permit(), *lease, "", 100).unwrap();
            let counted = of_lease.iter().map(|(name, rows)| ((*lease, name.as_str()), *rows));
            let expected = counts.iter().filter(|((other, _), _)| other == lease).map(|(of, rows)| (*of, *rows));
            assert_eq!(counted.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
        }
    }
}

fn bytes(dice: &mut Dice, family: RangeFamily) -> (usize, usize) {
    match family {
        RangeFamily::Flock => (0, BYTES - 1),
        RangeFamily::Fcntl => {
            let (one, two) = (dice.below(BYTES as u64) as usize, dice.below(BYTES as u64) as usize);
            (one.min(two), one.max(two))
        }
    }
}

fn history(seed: u64) -> BTreeMap<&'static str, u32> {
    let mut dice = Dice::new(seed);
    let mut pair = Pair { machine: Machine::new(), naive: Naive::default(), log: Vec::new(), seen: BTreeMap::new() };
    let grant = |pair: &mut Pair| {
        pair.apply(Op::GrantLease(GrantLease { owner: "mount".into(), ttl_ms: 5_000 }));
        pair.machine.revision
    };
    let mut leases: Vec<u64> = (0..3).map(|_| grant(&mut pair)).collect();
    let mut old: Vec<NaiveWait> = Vec::new();
    for _ in 0..250 {
        pair.machine.now_ms += dice.below(100);
        let waits = pair.naive.waits.clone();
        match dice.below(20) {
            0 => {
                let at = dice.below(3) as usize;
                let expires = dice.once_in(2);
                pair.end(leases[at], expires);
                old.retain(|wait| wait.by.0 != leases[at]);
                leases[at] = grant(&mut pair);
            }
            1..=2 if !waits.is_empty() => pair.cancel(dice.pick(&waits)),
            3 if !old.is_empty() => pair.cancel(dice.pick(&old)),
            4 if !waits.is_empty() => {
                let NaiveWait { file, family, by, mode, bytes, ticket, .. } = *dice.pick(&waits);
                pair.set(Request { file, family, by, mode: Some(mode), bytes, ticket: Some(ticket) });
            }
            5..=6 if !pair.naive.cells.is_empty() => {
                let holders: Vec<_> = pair.naive.cells.keys().copied().collect();
                let (file, family, by) = *dice.pick(&holders);
                let mode = (family == RangeFamily::Fcntl && dice.once_in(2)).then_some(Shared);
                pair.set(Request { file, family, by, mode, bytes: (0, BYTES - 1), ticket: None });
            }
            number => {
                let family = if number < 10 { RangeFamily::Flock } else { RangeFamily::Fcntl };
                let mode = *dice.pick(&[Some(Shared), Some(Shared), Some(Exclusive), Some(Exclusive), None]);
                let ticket = (!dice.once_in(3)).then(|| dice.below(20));
                let by = (*dice.pick(&leases), dice.below(3));
                let file = if family == RangeFamily::Flock { 0 } else { dice.below(3) as usize };
                pair.set(Request { file, family, by, mode, bytes: bytes(&mut dice, family), ticket });
            }
        }
        old.extend(waits.into_iter().filter(|wait| leases.contains(&wait.by.0)));
        pair.check(&mut dice, &leases);
    }
    let mut again = Machine::new();
    pair.log.iter().for_each(|command| drop(again.apply(command)));
    assert_eq!(again.rows(), pair.machine.rows(), "the same log gives the same bytes");
    leases.into_iter().for_each(|lease| pair.end(lease, false));
    assert!(!support::census(&pair.machine.kv.view()).contains_key("locks"), "something is left");
    pair.seen
}

#[test]
fn random_ranges_are_those_of_a_model_of_every_byte() {
    let mut seen: BTreeMap<&str, u32> = BTreeMap::new();
    for seed in 0..100 {
        history(seed).into_iter().for_each(|(what, times)| *seen.entry(what).or_default() += times);
    }
    for what in [
        "a wait",
        "a deadlock",
        "the same request again",
        "granted by an unlock",
        "granted by a downgrade",
        "granted by the end of a lease",
        "lost by a conversion",
        "cancelled in time",
        "cancelled after its grant",
        "cancelled after its end",
    ] {
        assert!(seen.get(what).is_some_and(|times| *times > 10), "{what}: {seen:?}");
    }
}

#[test]
fn ranges_are_converted_split_and_merged_in_place() {
    let mut machine = Machine::new();
    let me = (lease(&mut machine), 1);
    let step = |machine: &mut Machine, mode, bytes| run(machine, ask("f", me, mode, bytes)).unwrap();
    step(&mut machine, Some(Shared), (0, 99));
    step(&mut machine, Some(Exclusive), (40, 59));
    assert_eq!(held(&machine, "f"), [(me, Shared, 0, 39), (me, Exclusive, 40, 59), (me, Shared, 60, 99)]);
    step(&mut machine, None, (50, 50));
    assert_eq!(held(&machine, "f").len(), 4);
    step(&mut machine, Some(Shared), (40, 59));
    assert_eq!(held(&machine, "f"), [(me, Shared, 0, 99)]);
    let token = step(&mut machine, Some(Shared), (10, 20)).token;
    assert_eq!(token, Some(machine.revision - 1), "what is held already is not granted again");
    step(&mut machine, Some(Shared), (100, MAX));
    assert_eq!(held(&machine, "f"), [(me, Shared, 0, MAX)]);
    step(&mut machine, None, (0, MAX));
    assert_eq!(rows_of_ranges(&machine), 0);
}

#[test]
fn a_wait_is_granted_by_the_commit_that_frees_its_range() {
    let mut machine = Machine::new();
    let (one, two) = (lease(&mut machine), lease(&mut machine));
    let (a, b, c) = ((one, 1), (one, 2), (two, 1));
    run(&mut machine, ask("f", a, Some(Exclusive), (0, 9))).unwrap();
    let writer = run(&mut machine, waiting(ask("f", b, Some(Exclusive), (0, 9)), 1)).unwrap().wait.unwrap();
    let reader = run(&mut machine, waiting(ask("f", c, Some(Shared), (0, 4)), 1)).unwrap().wait.unwrap();
    let waits = |machine: &Machine| state(machine, "f").waits.iter().map(|wait| wait.wait).collect::<Vec<_>>();
    assert_eq!(waits(&machine), [writer, reader]);
    // A downgrade frees it for the reader, who comes after the writer.
    run(&mut machine, ask("f", a, Some(Shared), (0, 9))).unwrap();
    assert_eq!(waits(&machine), [writer]);
    assert_eq!(held(&machine, "f"), [(a, Shared, 0, 9), (c, Shared, 0, 4)]);
    run(&mut machine, ask("f", c, None, (0, MAX))).unwrap();
    run(&mut machine, ask("f", a, None, (0, 9))).unwrap();
    assert_eq!(held(&machine, "f"), [(b, Exclusive, 0, 9)]);
    assert_eq!(state(&machine, "f").held[0].1.row.token, machine.revision);
}

#[test]
fn a_circle_of_waits_across_files_and_leases_is_refused() {
    let mut machine = Machine::new();
    let owners: Vec<RangeOwner> = (1..=3).map(|owner| (lease(&mut machine), owner)).collect();
    let file = |at: usize| ["f", "g", "h"][at % 3];
    for (at, by) in owners.iter().enumerate() {
        run(&mut machine, ask(file(at), *by, Some(Exclusive), (5, 5))).unwrap();
    }
    let next = |at: usize| waiting(ask(file(at + 1), owners[at], Some(Shared), (0, MAX)), 1);
    assert!(run(&mut machine, next(0)).unwrap().wait.is_some());
    assert!(run(&mut machine, next(1)).unwrap().wait.is_some());
    assert_eq!(run(&mut machine, next(2)), Err(Error::Deadlock));
    // The others go on when the one that was refused unlocks.
    run(&mut machine, ask("h", owners[2], None, (0, MAX))).unwrap();
    assert_eq!(held(&machine, "h"), [(owners[1], Shared, 0, MAX)]);
}

#[test]
fn two_that_share_and_both_upgrade_are_a_deadlock() {
    let mut machine = Machine::new();
    let session = lease(&mut machine);
    for owner in [1, 2] {
        run(&mut machine, ask("f", (session, owner), Some(Shared), (0, 9))).unwrap();
    }
    let upgrade = |owner| waiting(ask("f", (session, owner), Some(Exclusive), (0, 9)), owner);
    assert!(run(&mut machine, upgrade(1)).unwrap().wait.is_some());
    assert_eq!(run(&mut machine, upgrade(2)), Err(Error::Deadlock));
    assert_eq!(held(&machine, "f").len(), 2, "a refusal takes nothing away");
}

#[test]
fn families_do_not_see_each_other() {
    let mut machine = Machine::new();
    let session = lease(&mut machine);
    run(&mut machine, ask("f", (session, 1), Some(Exclusive), (0, MAX))).unwrap();
    let flock = |owner, mode| SetRange { family: RangeFamily::Flock, ..ask("f", (session, owner), mode, (0, MAX)) };
    assert!(run(&mut machine, flock(2, Some(Exclusive))).unwrap().token.is_some());
    assert!(matches!(run(&mut machine, flock(3, Some(Shared))), Err(Error::RangeHeld { .. })));
    run(&mut machine, flock(2, Some(Shared))).unwrap();
    run(&mut machine, flock(3, Some(Shared))).unwrap();
    // As flock(2) says: a conversion that fails has lost the old lock.
    let lost = run(&mut machine, flock(2, Some(Exclusive))).unwrap();
    assert_eq!((lost.token, lost.held.unwrap().owner), (None, 3));
    assert!(run(&mut machine, flock(3, Some(Exclusive))).unwrap().token.is_some());
    let part = SetRange { start: 1, ..flock(3, Some(Shared)) };
    assert!(matches!(run(&mut machine, part), Err(Error::InvalidArgument { .. })));
}

#[test]
fn a_conversion_that_is_lost_frees_what_its_owner_held() {
    let mut machine = Machine::new();
    let session = lease(&mut machine);
    let flock =
        |owner, mode| SetRange { family: RangeFamily::Flock, ..ask("f", (session, owner), Some(mode), (0, MAX)) };
    run(&mut machine, flock(1, Shared)).unwrap();
    // One open file in two threads: the one waits to hold it alone, the other shares it meanwhile.
    assert!(run(&mut machine, waiting(flock(2, Exclusive), 1)).unwrap().wait.is_some());
    run(&mut machine, flock(2, Shared)).unwrap();
    let lost = run(&mut machine, flock(1, Exclusive)).unwrap();
    assert_eq!((lost.token, lost.held.unwrap().mode), (None, Shared));
    assert_eq!(held(&machine, "f"), [((session, 2), Exclusive, 0, MAX)]);
    assert_eq!(state(&machine, "f").waits, []);
}

#[test]
fn a_write_fenced_by_a_lease_is_refused_after_its_end() {
    let mut machine = Machine::new();
    let bucket = machine.create_bucket("abc");
    let session = lease(&mut machine);
    let fenced = |machine: &mut Machine, lease: u64| {
        let (content, nonce) = (machine.content(10), machine.blob_id());
        let put = PutObject { target: support::target(&bucket, "k"), content, attributes: Default::default(), nonce };
        let fences = Some(vec![Fence { name: String::new(), token: lease }]);
        let command = Command { fences, ..machine.command(Op::PutObject(put)) };
        machine.apply(&command).reply
    };
    assert!(matches!(fenced(&mut machine, session), Reply::Written(_)));
    machine.run(Op::ExpireLease(ExpireLease { lease: session, renewals: 0 }));
    assert_eq!(fenced(&mut machine, session), Reply::Refused(Error::FenceLeaseEnded { lease: session }));
}

#[test]
fn a_wait_that_was_asked_for_again_is_not_given_up_by_the_first_to_go() {
    let mut machine = Machine::new();
    let session = lease(&mut machine);
    run(&mut machine, ask("f", (session, 1), Some(Exclusive), (0, 9))).unwrap();
    let by = |asker| SetRange { asker, ..waiting(ask("f", (session, 2), Some(Shared), (0, 9)), 5) };
    let cancel = |machine: &mut Machine, asker| ranged(machine.run(Op::CancelRange(by(asker)))).unwrap();
    let wait = run(&mut machine, by(Some(10))).unwrap().wait;
    assert_eq!(run(&mut machine, by(Some(11))).unwrap().wait, wait, "it is the same place");
    assert_eq!(cancel(&mut machine, Some(10)).wait, wait, "the second waits on");
    assert_eq!(state(&machine, "f").waits.len(), 1);
    assert_eq!(cancel(&mut machine, Some(11)), Ranged::default());
    assert_eq!(state(&machine, "f").waits, []);
    run(&mut machine, by(Some(12))).unwrap();
    assert_eq!(cancel(&mut machine, None), Ranged::default(), "who cancels by name cancels");
    assert_eq!(state(&machine, "f").waits, []);
}

#[test]
fn more_ranges_than_a_file_may_have_are_refused_and_less_is_always_possible() {
    let mut machine = Machine::new();
    let me = (lease(&mut machine), 1);
    let count = RANGES_OF_FILE_MAX as u64;
    for at in 0..count {
        run(&mut machine, ask("f", me, Some(Exclusive), (at * 10, at * 10 + 5))).unwrap();
    }
    assert_eq!(run(&mut machine, ask("f", me, Some(Exclusive), (MAX, MAX))), Err(Error::NoLocks));
    assert_eq!(run(&mut machine, ask("f", me, None, (2, 3))), Err(Error::NoLocks), "it would be two");
    run(&mut machine, ask("f", me, Some(Shared), (0, 5))).unwrap();
    run(&mut machine, ask("f", me, None, (5, 20))).unwrap();
    run(&mut machine, ask("f", me, Some(Exclusive), (MAX, MAX))).unwrap();
    run(&mut machine, ask("f", me, None, (0, MAX))).unwrap();
    assert_eq!(rows_of_ranges(&machine), 0);
}

#[test]
fn more_waits_than_a_file_may_have_are_refused() {
    let mut machine = Machine::new();
    let session = lease(&mut machine);
    run(&mut machine, ask("f", (session, 0), Some(Exclusive), (0, MAX))).unwrap();
    for owner in 1..=RANGE_WAITS_MAX as u64 {
        assert!(run(&mut machine, waiting(ask("f", (session, owner), Some(Exclusive), (0, 0)), owner)).is_ok());
    }
    assert_eq!(run(&mut machine, waiting(ask("f", (session, 9_999), Some(Shared), (0, 0)), 0)), Err(Error::NoLocks));
}

#[test]
fn a_lease_at_its_bound_ends_in_one_command_and_leaves_nothing() {
    let mut machine = Machine::new();
    let (session, other) = (lease(&mut machine), lease(&mut machine));
    for at in 0..u64::from(RANGES_OF_LEASE_MAX) {
        run(&mut machine, ask(&format!("f{}", at % 700), (session, at), Some(Shared), (at, at))).unwrap();
    }
    assert_eq!(run(&mut machine, ask("g", (session, 1), Some(Shared), (0, 0))), Err(Error::NoLocks));
    let wait = waiting(ask("f1", (other, 1), Some(Exclusive), (0, MAX)), 1);
    assert!(run(&mut machine, wait).unwrap().wait.is_some());
    machine.run(Op::ExpireLease(ExpireLease { lease: session, renewals: 0 }));
    assert_eq!(held(&machine, "f1"), [((other, 1), Exclusive, 0, MAX)]);
    assert_eq!(rows_of_ranges(&machine), 3, "the range and its two counts");
}

#[test]
fn a_search_that_reads_too_much_refuses_the_wait() {
    let mut machine = Machine::new();
    let session = lease(&mut machine);
    for at in 0..1_000 {
        run(&mut machine, ask("f", (session, 0), Some(Shared), (at * 2, at * 2))).unwrap();
    }
    for owner in 1..=25 {
        run(&mut machine, ask("g", (session, owner), Some(Shared), (0, 0))).unwrap();
        assert!(run(&mut machine, waiting(ask("f", (session, owner), Some(Exclusive), (0, MAX)), owner)).is_ok());
    }
    let wait = waiting(ask("g", (session, 99), Some(Exclusive), (0, 0)), 99);
    assert_eq!(run(&mut machine, wait), Err(Error::NoLocks));
    assert_eq!(state(&machine, "g").waits, []);
}

#[test]
fn what_is_no_range_is_refused() {
    let mut machine = Machine::new();
    let me = (lease(&mut machine), 1);
    for asked in [
        ask("", me, Some(Shared), (0, 0)),
        ask("a\nb", me, Some(Shared), (0, 0)),
        ask(&"x".repeat(513), me, Some(Shared), (0, 0)),
        ask("f", me, Some(Shared), (5, 4)),
    ] {
        assert!(matches!(run(&mut machine, asked), Err(Error::InvalidArgument { .. })));
    }
    assert_eq!(run(&mut machine, ask("f", (MAX, 1), Some(Shared), (0, 0))), Err(Error::NoSuchLease));
    let nothing = machine.run(Op::CancelRange(ask("f", me, Some(Shared), (0, 0))));
    assert!(matches!(ranged(nothing), Err(Error::InvalidArgument { .. })), "a wait has a ticket");
}
