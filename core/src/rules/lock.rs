//! Locks: who holds them, who waits, and when that ends.
//!
//! A lock is granted when nobody who came before has to wait for it: an exclusive one when it is free, a shared one when all
//! holders share it and nobody waits. Whatever frees it grants it to the head of the queue: to one exclusive waiter, or to
//! all shared ones in front of the next exclusive. So nobody starves.
//!
//! Time never passes here: a lease ends by [`ExpireLease`], which the leader proposes by its own monotonic clock and which
//! names the number of renewals that it saw; one renewed since is not ended. The fencing token is the revision of the grant
//! (Gray and Cheriton, "Leases", SOSP 1989; Kleppmann, "How to do distributed locking", 2016).

use crate::apply::Txn;
use crate::command::{
    AcquireLock, ExpireLease, Fence, GrantLease, Granted, PutEphemeral, ReleaseLease, RemoveEphemeral, RenewLease,
    Reply,
};
use crate::effect::Effect;
use crate::error::Error;
use crate::event::{EventKind, EventRow};
use crate::id::Revision;
use crate::keyspace::{Keyspace, key};
use crate::kv::KeyRange;
use crate::lock::{EphemeralRow, LeaseLock, LeaseRow, LockMode};
use crate::rules::{mount, range, topic};
use crate::state::Stop;

/// Bytes of the name of a lock or of an ephemeral key.
pub const LOCK_NAME_BYTES_MAX: usize = 512;
/// Bytes of an owner.
pub const LOCK_OWNER_BYTES_MAX: usize = 256;
/// Leases that hold a lock, and leases that wait for it.
pub const LOCK_CLAIMS_MAX: u32 = 10_000;
/// Shortest and longest life of a lease.
pub const LEASE_MS_MIN: u64 = 1_000;
/// See [`LEASE_MS_MIN`].
pub const LEASE_MS_MAX: u64 = 24 * 60 * 60 * 1000;
/// Longest wait in a queue.
pub const LOCK_WAIT_MS_MAX: u64 = 24 * 60 * 60 * 1000;
/// Bytes of an ephemeral value.
pub const EPHEMERAL_BYTES_MAX: usize = 64 << 10;
/// Ephemeral keys of one lease.
pub const EPHEMERALS_MAX: u32 = 1_000;

pub(crate) fn check_name(name: &str) -> Result<(), Error> {
    if name.is_empty() || name.len() > LOCK_NAME_BYTES_MAX || name.chars().any(char::is_control) {
        return Err(Error::invalid("a name has 1 to 512 bytes and no control characters"));
    }
    Ok(())
}

pub(crate) fn check_lease(owner: &str, ttl_ms: u64) -> Result<(), Error> {
    if owner.len() > LOCK_OWNER_BYTES_MAX || owner.chars().any(char::is_control) {
        return Err(Error::invalid("an owner has at most 256 bytes and no control characters"));
    }
    if !(LEASE_MS_MIN..=LEASE_MS_MAX).contains(&ttl_ms) {
        return Err(Error::invalid("a ttl is from 1 second to 24 hours"));
    }
    Ok(())
}

pub(crate) fn acquire(txn: &mut Txn<'_>, op: &AcquireLock) -> Result<Reply, Stop> {
    check_name(&op.name)?;
    check_lease(&op.owner, op.ttl_ms)?;
    if op.wait_ms > LOCK_WAIT_MS_MAX {
        return Err(Error::invalid("a wait is at most 24 hours").into());
    }
    let mut row = txn.reader().lock(&op.name)?;
    let free = row.holders == 0 || (row.shared && op.mode == LockMode::Shared && row.holders < LOCK_CLAIMS_MAX);
    let granted = row.waiters == 0 && free;
    if !granted && op.wait_ms == 0 {
        return Err(Error::LockHeld.into());
    }
    if !granted && row.waiters >= LOCK_CLAIMS_MAX {
        return Err(Error::QueueFull.into());
    }
    let lease = txn.revision();
    let lock = LeaseLock { name: op.name.clone(), mode: op.mode, token: None, wait_ms: op.wait_ms };
    let mut claim = LeaseRow { owner: op.owner.clone(), ttl_ms: op.ttl_ms, renewals: 0, lock: Some(lock), keys: 0 };
    if granted {
        row.holders += 1;
        row.shared = op.mode == LockMode::Shared;
        grant(txn, lease, &mut claim);
    } else {
        row.waiters += 1;
        txn.put_bytes(Keyspace::Locks, key::lock_waiter(&op.name, lease), Vec::new());
        save_lease(txn, lease, &claim);
    }
    txn.put(Keyspace::Locks, key::lock(&op.name), &row);
    Ok(Reply::Granted(Granted { lease, token: granted.then_some(lease), ttl_ms: op.ttl_ms }))
}

pub(crate) fn save_lease(txn: &mut Txn<'_>, lease: Revision, row: &LeaseRow) {
    txn.put(Keyspace::Locks, key::lease(lease), row);
    txn.effect(Effect::Lease(lease));
}

/// Gives the lock to a lease from now on.
fn grant(txn: &mut Txn<'_>, lease: Revision, claim: &mut LeaseRow) {
    let token = txn.revision();
    let Some(lock) = claim.lock.as_mut() else { return };
    lock.token = Some(token);
    claim.renewals += 1;
    let name = lock.name.clone();
    txn.put_bytes(Keyspace::Locks, key::lock_holder(&name, token, lease), Vec::new());
    save_lease(txn, lease, claim);
    tell(txn, EventKind::LockGranted, &name, token, &claim.owner);
}

fn tell(txn: &mut Txn<'_>, kind: EventKind, name: &str, token: Revision, owner: &str) {
    let owner = Some(owner.to_owned());
    txn.event(EventRow { key: Some(name.to_owned()), token: Some(token), owner, ..EventRow::new(kind) });
}

pub(crate) fn load(txn: &Txn<'_>, lease: Revision) -> Result<LeaseRow, Stop> {
    Ok(txn.reader().lease(lease)?.ok_or(Error::NoSuchLease)?)
}

fn is_of(row: &LeaseRow, name: Option<&str>) -> bool {
    name.is_none_or(|name| row.lock.as_ref().is_some_and(|lock| lock.name == name))
}

pub(crate) fn renew(txn: &mut Txn<'_>, op: &RenewLease) -> Result<Reply, Stop> {
    let mut row = load(txn, op.lease)?;
    if !is_of(&row, op.name.as_deref()) {
        return Err(Error::NoSuchLease.into());
    }
    if let Some(ttl_ms) = op.ttl_ms {
        check_lease("", ttl_ms)?;
        row.ttl_ms = ttl_ms;
    }
    row.renewals += 1;
    save_lease(txn, op.lease, &row);
    let token = row.lock.as_ref().and_then(|lock| lock.token);
    Ok(Reply::Granted(Granted { lease: op.lease, token, ttl_ms: row.ttl_ms }))
}

/// Ends a lease; what only gives up waiting leaves one that was granted meanwhile as it is, and tells its token.
pub(crate) fn release(txn: &mut Txn<'_>, op: &ReleaseLease) -> Result<Reply, Stop> {
    let row = load(txn, op.lease)?;
    if !is_of(&row, op.name.as_deref()) {
        return Err(Error::NoSuchLease.into());
    }
    let token = row.lock.as_ref().and_then(|lock| lock.token);
    if op.unless_granted && token.is_some() {
        return Ok(Reply::Granted(Granted { lease: op.lease, token, ttl_ms: row.ttl_ms }));
    }
    end(txn, op.lease, row, EventKind::LockReleased)?;
    Ok(Reply::Done)
}

/// Ends a lease that was not renewed since the leader saw it.
pub(crate) fn expire(txn: &mut Txn<'_>, op: &ExpireLease) -> Result<Reply, Stop> {
    let Some(row) = txn.reader().lease(op.lease)? else { return Ok(Reply::Done) };
    if row.renewals == op.renewals {
        end(txn, op.lease, row, EventKind::LockExpired)?;
    }
    Ok(Reply::Done)
}

pub(crate) fn end(txn: &mut Txn<'_>, lease: Revision, row: LeaseRow, kind: EventKind) -> Result<(), Stop> {
    txn.delete(Keyspace::Locks, key::lease(lease));
    txn.effect(Effect::Lease(lease));
    let mut keys = Vec::new();
    for of_lease in txn.reader().rows(Keyspace::Locks, KeyRange::prefix(&key::ephemerals_of(lease))) {
        keys.push(key::ephemeral_of_lease(&of_lease?.0)?);
    }
    for name in keys {
        remove_key(txn, lease, &name);
    }
    range::end_of_lease(txn, lease)?;
    mount::session::end_of_lease(txn, lease, kind == EventKind::LockReleased)?;
    topic::group::end_claim(txn, lease)?;
    let Some(lock) = row.lock else { return Ok(()) };
    let mut state = txn.reader().lock(&lock.name)?;
    match lock.token {
        Some(token) => {
            state.holders -= 1;
            txn.delete(Keyspace::Locks, key::lock_holder(&lock.name, token, lease));
            tell(txn, kind, &lock.name, token, &row.owner);
        }
        None => {
            state.waiters -= 1;
            txn.delete(Keyspace::Locks, key::lock_waiter(&lock.name, lease));
        }
    }
    // Also a waiter that leaves may have been all that kept those behind it waiting.
    let open = state.waiters > 0 && (state.holders == 0 || state.shared);
    let waiters = if open { waiters(txn, &lock.name)? } else { Vec::new() };
    for lease in waiters {
        let mut claim = load(txn, lease)?;
        let mode = claim.lock.as_ref().map_or(LockMode::Exclusive, |lock| lock.mode);
        let shares = state.shared && mode == LockMode::Shared && state.holders < LOCK_CLAIMS_MAX;
        if state.holders > 0 && !shares {
            break;
        }
        (state.holders, state.waiters, state.shared) = (state.holders + 1, state.waiters - 1, mode == LockMode::Shared);
        txn.delete(Keyspace::Locks, key::lock_waiter(&lock.name, lease));
        grant(txn, lease, &mut claim);
    }
    if state.holders == 0 && state.waiters == 0 {
        txn.delete(Keyspace::Locks, key::lock(&lock.name));
    } else {
        txn.put(Keyspace::Locks, key::lock(&lock.name), &state);
    }
    Ok(())
}

/// The head of the queue: as many as can be granted at once.
fn waiters(txn: &Txn<'_>, name: &str) -> Result<Vec<Revision>, Stop> {
    let mut waiters = Vec::new();
    for row in txn.reader().rows(Keyspace::Locks, KeyRange::prefix(&key::lock_waiters(name))) {
        let lease = key::lease_at_end(&row?.0)?;
        waiters.push(lease);
        let mode = load(txn, lease)?.lock.map(|lock| lock.mode);
        if mode == Some(LockMode::Exclusive) {
            break;
        }
    }
    Ok(waiters)
}

pub(crate) fn grant_lease(txn: &mut Txn<'_>, op: &GrantLease) -> Result<Reply, Stop> {
    check_lease(&op.owner, op.ttl_ms)?;
    let lease = txn.revision();
    let row = LeaseRow { owner: op.owner.clone(), ttl_ms: op.ttl_ms, renewals: 0, lock: None, keys: 0 };
    save_lease(txn, lease, &row);
    Ok(Reply::Granted(Granted { lease, token: None, ttl_ms: op.ttl_ms }))
}

pub(crate) fn put_ephemeral(txn: &mut Txn<'_>, op: &PutEphemeral) -> Result<Reply, Stop> {
    check_name(&op.name)?;
    if op.value.len() > EPHEMERAL_BYTES_MAX {
        return Err(Error::TooLarge.into());
    }
    let mut lease = load(txn, op.lease)?;
    let old: Option<EphemeralRow> = txn.reader().row(Keyspace::Locks, &key::ephemeral(&op.name))?;
    if op.if_absent && old.is_some() {
        return Err(Error::failed("If-None-Match").into());
    }
    if let Some(old) = old.filter(|old| old.lease != op.lease) {
        // It changes its lease.
        txn.delete(Keyspace::Locks, key::ephemeral_link(old.lease, &op.name));
        if let Some(mut other) = txn.reader().lease(old.lease)? {
            other.keys -= 1;
            txn.put(Keyspace::Locks, key::lease(old.lease), &other);
        }
    }
    let link = key::ephemeral_link(op.lease, &op.name);
    if txn.reader().0.get(Keyspace::Locks, &link)?.is_none() {
        if lease.keys >= EPHEMERALS_MAX {
            return Err(Error::QueueFull.into());
        }
        lease.keys += 1;
        txn.put(Keyspace::Locks, key::lease(op.lease), &lease);
        txn.put_bytes(Keyspace::Locks, link, Vec::new());
    }
    let row = EphemeralRow { value: op.value.to_vec(), lease: op.lease, revision: txn.revision() };
    txn.put(Keyspace::Locks, key::ephemeral(&op.name), &row);
    let size = Some(op.value.len() as u64);
    txn.event(EventRow { key: Some(op.name.clone()), size, ..EventRow::new(EventKind::KeySet) });
    Ok(Reply::Done)
}

pub(crate) fn remove_ephemeral(txn: &mut Txn<'_>, op: &RemoveEphemeral) -> Result<Reply, Stop> {
    let row: Option<EphemeralRow> = txn.reader().row(Keyspace::Locks, &key::ephemeral(&op.name))?;
    let Some(row) = row else { return Ok(Reply::Done) };
    remove_key(txn, row.lease, &op.name);
    if let Some(mut lease) = txn.reader().lease(row.lease)? {
        lease.keys -= 1;
        txn.put(Keyspace::Locks, key::lease(row.lease), &lease);
    }
    Ok(Reply::Done)
}

fn remove_key(txn: &mut Txn<'_>, lease: Revision, name: &str) {
    txn.delete(Keyspace::Locks, key::ephemeral(name));
    txn.delete(Keyspace::Locks, key::ephemeral_link(lease, name));
    txn.event(EventRow { key: Some(name.to_owned()), ..EventRow::new(EventKind::KeyRemoved) });
}

/// Whether each fence names a lock that has a live grant with its token, or a lease that lives.
pub(crate) fn check_fences(txn: &Txn<'_>, fences: &[Fence]) -> Result<(), Stop> {
    for fence in fences {
        if fence.name.is_empty() {
            let lease = fence.token;
            txn.reader().lease(lease)?.ok_or(Error::FenceLeaseEnded { lease })?;
            continue;
        }
        if !txn.reader().any(Keyspace::Locks, &key::lock_grants(&fence.name, fence.token))? {
            return Err(Error::FencingTokenStale { name: fence.name.clone() }.into());
        }
    }
    Ok(())
}
