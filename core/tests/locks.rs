//! Locks against a naive model: long random histories, and each promise by itself.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;

use holdfast_core::command::*;
use holdfast_core::error::Error;
use holdfast_core::event::EventKind;
use holdfast_core::id::Place;
use holdfast_core::keyspace::Keyspace;
use holdfast_core::kv::Kv;
use holdfast_core::lock::LockMode;
use holdfast_core::rules::authorize::{Action, Caller, Context, Resource, authorize};
use holdfast_core::view::View;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use support::Machine;

const NAMES: [&str; 3] = ["a", "a/b", "b"];

fn acquire(name: &str, mode: LockMode, wait_ms: u64) -> Op {
    Op::AcquireLock(AcquireLock { name: name.into(), mode, owner: "me".into(), ttl_ms: 5_000, wait_ms })
}

fn release(lease: u64) -> Op {
    Op::ReleaseLease(ReleaseLease { lease, name: None, unless_granted: false })
}

fn granted(reply: Reply) -> Granted {
    match reply {
        Reply::Granted(granted) => granted,
        other => panic!("{other:?}"),
    }
}

fn refused(reply: Reply) -> Error {
    match reply {
        Reply::Refused(error) => error,
        other => panic!("{other:?}"),
    }
}

fn token_of(machine: &Machine, lease: u64) -> Option<u64> {
    let permit = authorize(Caller::Root, Action::UseLocks, Resource::Service, &Context::default()).unwrap();
    let view = machine.kv.view();
    let row = View::new(&view, machine.revision).lease(&permit, lease).unwrap();
    row.and_then(|row| row.lock).and_then(|lock| lock.token)
}

/// What a lock should be.
#[derive(Debug, Default)]
struct Naive {
    holders: BTreeMap<u64, (LockMode, u64)>,
    queue: Vec<(u64, LockMode)>,
}

impl Naive {
    fn compatible(&self, mode: LockMode) -> bool {
        self.holders.is_empty()
            || (mode == LockMode::Shared && self.holders.values().all(|(held, _)| *held == LockMode::Shared))
    }

    fn advance(&mut self, revision: u64) {
        while let Some(&(lease, mode)) = self.queue.first() {
            if !self.compatible(mode) {
                return;
            }
            self.queue.remove(0);
            self.holders.insert(lease, (mode, revision));
        }
    }
}

fn check(machine: &Machine, naive: &BTreeMap<&str, Naive>) {
    let permit = authorize(Caller::Root, Action::UseLocks, Resource::Service, &Context::default()).unwrap();
    let rows = machine.kv.view();
    let view = View::new(&rows, machine.revision);
    let mut leases = 0;
    let mut named = Vec::new();
    for (name, lock) in naive {
        let state = view.lock(&permit, name, 1000).unwrap();
        let mut holders: Vec<_> = state
            .holders
            .iter()
            .map(|claim| {
                let lock = claim.row.lock.as_ref().unwrap();
                (claim.lease, (lock.mode, lock.token.unwrap()))
            })
            .collect();
        holders.sort_unstable();
        assert_eq!(holders, lock.holders.iter().map(|(lease, held)| (*lease, *held)).collect::<Vec<_>>(), "{name}");
        let waiters: Vec<_> = state.waiters.iter().map(|claim| claim.lease).collect();
        assert_eq!(waiters, lock.queue.iter().map(|(lease, _)| *lease).collect::<Vec<_>>(), "{name}");
        let exclusive = lock.holders.values().filter(|(mode, _)| *mode == LockMode::Exclusive).count();
        assert!(exclusive == 0 || lock.holders.len() == 1, "an exclusive holder is alone");
        leases += holders.len() + waiters.len();
        if !holders.is_empty() || !waiters.is_empty() {
            named.push((*name).to_owned());
        }
    }
    assert_eq!(view.leases(&permit, 0, 10_000).unwrap().len(), leases);
    assert_eq!(view.lock_names(&permit, "", 100).unwrap(), named, "what nobody has to do with leaves no row");
}

#[test]
fn random_histories_are_those_of_a_naive_model() {
    for seed in 0..40 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut machine = Machine::new();
        let mut naive: BTreeMap<&str, Naive> = NAMES.into_iter().map(|name| (name, Naive::default())).collect();
        let mut renewals: BTreeMap<u64, u64> = BTreeMap::new();
        for _ in 0..300 {
            machine.now_ms += random.random_range(1..100);
            let name = NAMES[random.random_range(0..NAMES.len())];
            let lock = naive.get_mut(name).unwrap();
            let all: Vec<u64> =
                lock.holders.keys().copied().chain(lock.queue.iter().map(|(lease, _)| *lease)).collect();
            let lease = (!all.is_empty()).then(|| all[random.random_range(0..all.len())]);
            match (random.random_range(0..10), lease) {
                (0..=4, _) => {
                    let mode = if random.random_range(0..3) == 0 { LockMode::Exclusive } else { LockMode::Shared };
                    let wait_ms = if random.random_range(0..3) == 0 { 0 } else { 1000 };
                    let free = lock.queue.is_empty() && lock.compatible(mode);
                    let reply = machine.run(acquire(name, mode, wait_ms));
                    if free {
                        let got = granted(reply);
                        assert_eq!((got.lease, got.token), (machine.revision, Some(machine.revision)));
                        lock.holders.insert(got.lease, (mode, machine.revision));
                    } else if wait_ms == 0 {
                        assert_eq!(refused(reply), Error::LockHeld);
                    } else {
                        assert_eq!(granted(reply).token, None);
                        lock.queue.push((machine.revision, mode));
                    }
                }
                (5..=6, Some(lease)) => {
                    assert_eq!(machine.run(release(lease)), Reply::Done);
                    lock.holders.remove(&lease);
                    lock.queue.retain(|(waiter, _)| *waiter != lease);
                    lock.advance(machine.revision);
                }
                (7, Some(lease)) => {
                    let renew = RenewLease { lease, name: Some(name.into()), ttl_ms: None };
                    granted(machine.run(Op::RenewLease(renew)));
                    *renewals.entry(lease).or_default() += 1;
                }
                (8, Some(lease)) => {
                    // Of two expiries the one that saw too little changes nothing.
                    let grants = u64::from(lock.holders.contains_key(&lease));
                    let seen = renewals.get(&lease).copied().unwrap_or(0) + grants;
                    let stale = ExpireLease { lease, renewals: seen + 1 };
                    assert_eq!(machine.run(Op::ExpireLease(stale)), Reply::Done);
                    assert_eq!(machine.run(Op::ExpireLease(ExpireLease { lease, renewals: seen })), Reply::Done);
                    lock.holders.remove(&lease);
                    lock.queue.retain(|(waiter, _)| *waiter != lease);
                    lock.advance(machine.revision);
                }
                (_, Some(lease)) => {
                    let give_up = ReleaseLease { lease, name: Some(name.into()), unless_granted: true };
                    let reply = machine.run(Op::ReleaseLease(give_up));
                    match lock.holders.get(&lease) {
                        Some((_, token)) => assert_eq!(granted(reply).token, Some(*token)),
                        None => {
                            assert_eq!(reply, Reply::Done);
                            lock.queue.retain(|(waiter, _)| *waiter != lease);
                            lock.advance(machine.revision);
                        }
                    }
                }
                (_, None) => assert_eq!(refused(machine.run(release(u64::MAX))), Error::NoSuchLease),
            }
            check(&machine, &naive);
        }
    }
}

#[test]
fn shared_waiters_do_not_overtake_an_exclusive_one() {
    let mut machine = Machine::new();
    let first = granted(machine.run(acquire("a", LockMode::Shared, 0)));
    let writer = granted(machine.run(acquire("a", LockMode::Exclusive, 1000)));
    let reader = granted(machine.run(acquire("a", LockMode::Shared, 1000)));
    assert_eq!((writer.token, reader.token), (None, None));
    assert_eq!(refused(machine.run(acquire("a", LockMode::Shared, 0))), Error::LockHeld);
    machine.run(release(first.lease));
    assert_eq!((token_of(&machine, writer.lease), token_of(&machine, reader.lease)), (Some(machine.revision), None));
    // The writer goes, and the reader behind it comes.
    machine.run(release(writer.lease));
    assert_eq!(token_of(&machine, reader.lease), Some(machine.revision));
}

#[test]
fn a_waiter_that_gives_up_lets_those_behind_it_through() {
    let mut machine = Machine::new();
    granted(machine.run(acquire("a", LockMode::Shared, 0)));
    let writer = granted(machine.run(acquire("a", LockMode::Exclusive, 1000)));
    let reader = granted(machine.run(acquire("a", LockMode::Shared, 1000)));
    machine.run(release(writer.lease));
    assert_eq!(token_of(&machine, reader.lease), Some(machine.revision));
}

#[test]
fn a_stale_fence_writes_nothing() {
    let mut machine = Machine::new();
    let bucket = machine.create_bucket("abc");
    let lock = granted(machine.run(acquire("a", LockMode::Exclusive, 0)));
    let fenced = |machine: &mut Machine, name: &str, token: u64| {
        let content = machine.content(10);
        let nonce = machine.blob_id();
        let put = PutObject { target: support::target(&bucket, "k"), content, attributes: Default::default(), nonce };
        let fences = Some(vec![Fence { name: name.into(), token }]);
        let command = Command { fences, ..machine.command(Op::PutObject(put)) };
        machine.apply(&command).reply
    };
    let token = lock.token.unwrap();
    assert!(matches!(fenced(&mut machine, "a", token), Reply::Written(_)));
    let stale = |name: &str| Error::FencingTokenStale { name: name.into() };
    assert_eq!(refused(fenced(&mut machine, "a", token + 1)), stale("a"));
    assert_eq!(refused(fenced(&mut machine, "b", token)), stale("b"));
    machine.run(release(lock.lease));
    let before = machine.rows();
    assert_eq!(refused(fenced(&mut machine, "a", token)), stale("a"));
    let changed: Vec<_> = machine.rows().into_iter().filter(|row| !before.contains(row)).map(|row| row.0).collect();
    assert!(changed.iter().all(|keyspace| matches!(keyspace, Keyspace::Sys | Keyspace::Dedupe)), "{changed:?}");
    let again = granted(machine.run(acquire("a", LockMode::Exclusive, 0)));
    assert!(again.token.unwrap() > token, "tokens rise");
}

#[test]
fn ephemeral_keys_end_with_their_lease() {
    let mut machine = Machine::new();
    let grant = Op::GrantLease(GrantLease { owner: "me".into(), ttl_ms: 5_000 });
    let (one, two) = (granted(machine.run(grant.clone())).lease, granted(machine.run(grant)).lease);
    let put = |name: &str, lease, if_absent| {
        Op::PutEphemeral(PutEphemeral { name: name.into(), value: b"v".as_slice().into(), lease, if_absent })
    };
    assert_eq!(machine.run(put("s/1", one, true)), Reply::Done);
    assert_eq!(machine.run(put("s/2", one, false)), Reply::Done);
    assert!(matches!(refused(machine.run(put("s/1", two, true))), Error::PreconditionFailed { .. }));
    assert_eq!(machine.run(put("s/2", two, false)), Reply::Done, "a key may change its lease");
    assert_eq!(refused(machine.run(put("s/3", 9999, false))), Error::NoSuchLease);
    assert_eq!(machine.run(Op::ExpireLease(ExpireLease { lease: one, renewals: 0 })), Reply::Done);
    let permit = authorize(Caller::Root, Action::UseLocks, Resource::Service, &Context::default()).unwrap();
    let rows = machine.kv.view();
    let view = View::new(&rows, machine.revision);
    let left: Vec<_> = view.ephemerals(&permit, "s/", "", 10).unwrap().into_iter().map(|(name, _)| name).collect();
    assert_eq!(left, ["s/2"]);
    let permit = authorize(Caller::Root, Action::WatchEvents, Resource::Service, &Context::default()).unwrap();
    let events = view.events(&permit, Place::default(), 100).unwrap().events;
    let kinds: Vec<_> = events.iter().map(|(_, event)| event.kind).collect();
    assert_eq!(kinds, [EventKind::KeySet, EventKind::KeySet, EventKind::KeySet, EventKind::KeyRemoved]);
}

#[test]
fn what_no_state_could_accept_is_refused() {
    let mut machine = Machine::new();
    let long = "x".repeat(513);
    for op in [
        acquire("", LockMode::Shared, 0),
        acquire(&long, LockMode::Shared, 0),
        acquire("a\nb", LockMode::Shared, 0),
        acquire("a", LockMode::Shared, u64::MAX),
        Op::AcquireLock(AcquireLock {
            name: "a".into(),
            mode: LockMode::Shared,
            owner: String::new(),
            ttl_ms: 10,
            wait_ms: 0,
        }),
        Op::GrantLease(GrantLease { owner: long.clone(), ttl_ms: 5_000 }),
        Op::GrantLease(GrantLease { owner: String::new(), ttl_ms: u64::MAX }),
    ] {
        assert!(matches!(refused(machine.run(op)), Error::InvalidArgument { .. }));
    }
}
