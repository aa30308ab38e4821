//! Byte-range and whole-file locks with the semantics of POSIX `fcntl` and Linux `flock(2)`.
//!
//! A range is granted when no other owner holds one that is in its way; who waits is not asked, as on Linux, so that an
//! owner who shares a range may come back to it while an exclusive request waits (it could not be told from a deadlock
//! otherwise). Whatever frees a range grants it in the same commit: to each wait, in order of arrival, that is compatible
//! with all that is held by then. A stream of shared locks can therefore keep an exclusive one waiting.
//!
//! **Deadlocks.** An owner of the fcntl family waits for the owners of all that is in the way of its waits. A wait that
//! would close a circle in this graph is refused. A grant can close one only through an owner that waits in several
//! threads at once; it is not looked for, since another thread of that owner may still unlock. A search that would read
//! more than [`SEARCH_ROWS_MAX`] rows refuses the wait with [`Error::NoLocks`]: nothing waits that was not looked at.
//!
//! **Outcomes.** There is no row for what became of a wait. Whoever cancels one is told what counts: whether it still
//! waited, or else whether its owner holds the range now. So a request may be repeated, and cancelled twice.

use std::collections::BTreeSet;

use crate::apply::Txn;
use crate::command::{Ranged, Reply, SetRange};
use crate::effect::Effect;
use crate::error::Error;
use crate::id::Revision;
use crate::keyspace::{Keyspace, key};
use crate::kv::KeyRange;
use crate::lock::LockMode;
use crate::range::{
    HeldRange, RangeCountRow, RangeFamily, RangeOwner, RangeRow, RangeWait, RangeWaitRow, WantedRange, first_in_the_way,
};
use crate::rules::lock::check_name;
use crate::state::{Reader, Stop};

/// Ranges of a file that locks of one family may hold before no request may add any. Waits that were admitted before add
/// at most two each, so at most as many more as twice [`RANGE_WAITS_MAX`].
pub const RANGES_OF_FILE_MAX: usize = 1_024;
/// Waits for ranges of a file.
pub const RANGE_WAITS_MAX: usize = 512;
/// Ranges and waits of a lease before no request may add any: what ends with it in one command.
pub const RANGES_OF_LEASE_MAX: u32 = 4_096;
/// Rows that a search for a deadlock reads before it gives up.
pub const SEARCH_ROWS_MAX: usize = 20_000;

/// The end of every file.
const TO_THE_END: u64 = u64::MAX;

fn check(op: &SetRange) -> Result<(), Error> {
    check_name(&op.resource)?;
    if op.start > op.end {
        return Err(Error::invalid("a range ends before it starts"));
    }
    if op.family == RangeFamily::Flock && (op.start, op.end) != (0, TO_THE_END) {
        return Err(Error::invalid("a lock of the flock family is of the whole file"));
    }
    Ok(())
}

/// What is held of a file by locks of one family, as rows and in memory.
struct File<'a> {
    resource: &'a str,
    family: RangeFamily,
    held: Vec<HeldRange>,
}

pub(crate) fn set(txn: &mut Txn<'_>, op: &SetRange) -> Result<Reply, Stop> {
    check(op)?;
    txn.reader().lease(op.lease)?.ok_or(Error::NoSuchLease)?;
    let mut file = File::load(txn, &op.resource, op.family)?;
    let Some(wanted) = op.wanted() else {
        if file.put((op.lease, op.owner), (op.start, op.end), None, txn, Bound::Kept)? {
            file.grant_waits(txn)?;
        }
        return Ok(Reply::Ranged(Ranged::default()));
    };
    if let Some(RangeWait { wait, row }) = waits_already(txn.reader(), op)? {
        if row.asker != op.asker {
            let row = RangeWaitRow { asker: op.asker, ..row };
            txn.put(Keyspace::Locks, key::range_wait(&op.resource, wait), &row);
        }
        return Ok(Reply::Ranged(Ranged { wait: Some(wait), ..Ranged::default() }));
    }
    if let Some(own) = file.held.iter().find(|range| range.covers(&wanted)) {
        return Ok(Reply::Ranged(Ranged { token: Some(own.row.token), ..Ranged::default() }));
    }
    // A lock of the flock family is not converted in place: the old one goes first, whatever becomes of the new.
    let own = file.held.iter().any(|range| range.by == wanted.by);
    let released = op.family == RangeFamily::Flock && own;
    if released {
        file.put(wanted.by, (0, TO_THE_END), None, txn, Bound::Kept)?;
    }
    let ranged = match (first_in_the_way(&file.held, &wanted), op.ticket) {
        (None, _) => {
            let row = RangeRow { end: op.end, mode: wanted.mode, pid: op.pid, token: txn.revision() };
            let freed = file.put(wanted.by, (op.start, op.end), Some(row), txn, Bound::Kept)?;
            if freed || released {
                file.grant_waits(txn)?;
            }
            Ranged { token: Some(txn.revision()), ..Ranged::default() }
        }
        (Some(holder), None) if released => {
            file.grant_waits(txn)?;
            Ranged { held: Some(holder), ..Ranged::default() }
        }
        (Some(holder), None) => return Err(Error::RangeHeld { holder }.into()),
        (Some(_), Some(ticket)) => {
            file.wait(txn, op, wanted, ticket)?;
            if released {
                file.grant_waits(txn)?;
            }
            Ranged { wait: Some(txn.revision()), ..Ranged::default() }
        }
    };
    Ok(Reply::Ranged(ranged))
}

/// Gives up a wait, unless another asked for it meanwhile. The reply has the token when the owner holds the range instead.
pub(crate) fn cancel(txn: &mut Txn<'_>, op: &SetRange) -> Result<Reply, Stop> {
    check(op)?;
    let (Some(wanted), Some(_)) = (op.wanted(), op.ticket) else {
        return Err(Error::invalid("what is cancelled has a mode and a ticket").into());
    };
    txn.reader().lease(op.lease)?.ok_or(Error::NoSuchLease)?;
    if let Some(wait) = waits_already(txn.reader(), op)? {
        if op.asker.is_some() && op.asker != wait.row.asker {
            return Ok(Reply::Ranged(Ranged { wait: Some(wait.wait), ..Ranged::default() }));
        }
        end_wait(txn, &op.resource, &wait)?;
        return Ok(Reply::Ranged(Ranged::default()));
    }
    let held = txn.reader().ranges(&op.resource, op.family)?;
    let own = held.iter().find(|range| range.covers(&wanted));
    Ok(Reply::Ranged(Ranged { token: own.map(|range| range.row.token), ..Ranged::default() }))
}

/// Ends all ranges and waits of a lease, at most [`RANGES_OF_LEASE_MAX`] and what waits added past it, and grants what
/// that frees.
pub(crate) fn end_of_lease(txn: &mut Txn<'_>, lease: Revision) -> Result<(), Stop> {
    let mut files = Vec::new();
    for row in txn.reader().rows(Keyspace::Locks, KeyRange::prefix(&key::range_count(lease))) {
        files.push(key::range_count_resource(&row?.0)?);
    }
    for resource in files.iter().filter(|resource| !resource.is_empty()) {
        for wait in txn.reader().range_waits(resource)?.iter().filter(|wait| wait.row.lease == lease) {
            end_wait(txn, resource, wait)?;
        }
        for &family in RangeFamily::ALL {
            let mut file = File::load(txn, resource, family)?;
            let owners: BTreeSet<RangeOwner> =
                file.held.iter().map(|range| range.by).filter(|by| by.0 == lease).collect();
            for &by in &owners {
                file.put(by, (0, TO_THE_END), None, txn, Bound::Kept)?;
            }
            if !owners.is_empty() {
                file.grant_waits(txn)?;
            }
        }
    }
    Ok(())
}

/// The wait that the same request made before.
fn waits_already(reader: Reader<'_>, op: &SetRange) -> Result<Option<RangeWait>, Stop> {
    let Some(ticket) = op.ticket else { return Ok(None) };
    let mut waits = reader.range_waits(&op.resource)?.into_iter();
    let Some(wait) = waits.find(|wait| (wait.row.lease, wait.row.ticket) == (op.lease, ticket)) else {
        return Ok(None);
    };
    if wait.row.family != op.family || Some(wait.row.wanted()) != op.wanted() {
        return Err(Error::invalid("another request of the lease waits under this ticket").into());
    }
    Ok(Some(wait))
}

/// Whether a change may add rows past the bounds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bound {
    /// It may not.
    Kept,
    /// What waited was admitted when it came.
    Admitted,
}

impl<'a> File<'a> {
    fn load(txn: &Txn<'_>, resource: &'a str, family: RangeFamily) -> Result<Self, Stop> {
        Ok(Self { resource, family, held: txn.reader().ranges(resource, family)? })
    }

    /// Puts `row` in place of what an owner holds from `start` to `end`, or nothing. Whether that freed something.
    fn put(
        &mut self,
        by: RangeOwner,
        (start, end): (u64, u64),
        row: Option<RangeRow>,
        txn: &mut Txn<'_>,
        bound: Bound,
    ) -> Result<bool, Stop> {
        let (own, others): (Vec<HeldRange>, Vec<HeldRange>) = self.held.iter().partition(|range| range.by == by);
        let new = carve(&own, by, (start, end), row);
        if bound == Bound::Kept && new.len() > own.len() {
            let more = new.len() - own.len();
            let of_lease = txn.reader().range_count(&key::range_count(by.0))? as usize;
            if self.held.len() + more > RANGES_OF_FILE_MAX || of_lease + more > RANGES_OF_LEASE_MAX as usize {
                return Err(Error::NoLocks.into());
            }
        }
        for old in own.iter().filter(|old| !new.iter().any(|range| range.start == old.start)) {
            txn.delete(Keyspace::Locks, key::range(self.resource, self.family, by.0, by.1, old.start));
        }
        for range in new.iter().filter(|range| !own.contains(range)) {
            txn.put(Keyspace::Locks, key::range(self.resource, self.family, by.0, by.1, range.start), &range.row);
        }
        count(txn, by.0, self.resource, own.len(), new.len())?;
        let downgrades = row.is_some_and(|row| row.mode == LockMode::Shared);
        let freed = own.iter().any(|old| {
            old.overlaps(start, end) && (row.is_none() || (downgrades && old.row.mode == LockMode::Exclusive))
        });
        self.held = others.into_iter().chain(new).collect();
        Ok(freed)
    }

    /// Begins a wait.
    fn wait(&self, txn: &mut Txn<'_>, op: &SetRange, wanted: WantedRange, ticket: u64) -> Result<(), Stop> {
        let waits = txn.reader().range_waits(self.resource)?.len();
        let of_lease = txn.reader().range_count(&key::range_count(op.lease))?;
        if waits >= RANGE_WAITS_MAX || self.held.len() >= RANGES_OF_FILE_MAX || of_lease >= RANGES_OF_LEASE_MAX {
            return Err(Error::NoLocks.into());
        }
        let wait = txn.revision();
        if self.family == RangeFamily::Fcntl {
            if closes_circle(txn.reader(), &self.held, &wanted)? {
                return Err(Error::Deadlock.into());
            }
            txn.put_bytes(Keyspace::Locks, key::range_wait_of(op.lease, op.owner, wait, self.resource), Vec::new());
        }
        let SetRange { lease, owner, family, start, end, pid, asker, .. } = *op;
        let row = RangeWaitRow { lease, owner, family, mode: wanted.mode, start, end, pid, ticket, asker };
        txn.put(Keyspace::Locks, key::range_wait(self.resource, wait), &row);
        count(txn, lease, self.resource, 0, 1)
    }

    /// Grants every wait that nothing is in the way of any more, first come first. One that shares what its owner held
    /// exclusively frees some of it for those before it.
    fn grant_waits(&mut self, txn: &mut Txn<'_>) -> Result<(), Stop> {
        let mut waits = txn.reader().range_waits(self.resource)?;
        waits.retain(|wait| wait.row.family == self.family);
        let mut at = 0;
        while let Some(wait) = waits.get(at) {
            let wanted = wait.row.wanted();
            if self.held.iter().any(|range| range.hinders(&wanted)) {
                at += 1;
                continue;
            }
            let wait = waits.remove(at);
            end_wait(txn, self.resource, &wait)?;
            let row = RangeRow { end: wanted.end, mode: wanted.mode, pid: wait.row.pid, token: txn.revision() };
            if self.put(wanted.by, (wanted.start, wanted.end), Some(row), txn, Bound::Admitted)? {
                at = 0;
            }
        }
        Ok(())
    }
}

/// What an owner holds when `row` takes the place of what it held from `start` to `end`: neighbours of the same mode
/// become one with it, others are cut.
fn carve(own: &[HeldRange], by: RangeOwner, (start, end): (u64, u64), row: Option<RangeRow>) -> Vec<HeldRange> {
    let mut new = row.map(|row| HeldRange { by, start, row });
    let mut left = Vec::new();
    for old in own {
        let touches = old.start <= end.saturating_add(1) && start <= old.row.end.saturating_add(1);
        match &mut new {
            Some(new) if touches && new.row.mode == old.row.mode => {
                new.start = new.start.min(old.start);
                new.row.end = new.row.end.max(old.row.end);
            }
            _ if old.overlaps(start, end) => {
                if old.start < start {
                    left.push(HeldRange { row: RangeRow { end: start - 1, ..old.row }, ..*old });
                }
                if old.row.end > end {
                    left.push(HeldRange { start: end + 1, ..*old });
                }
            }
            _ => left.push(*old),
        }
    }
    left.extend(new);
    left
}

/// Counts the rows of a lease, where `before` became `now`.
fn count(txn: &mut Txn<'_>, lease: Revision, resource: &str, before: usize, now: usize) -> Result<(), Stop> {
    if before == now {
        return Ok(());
    }
    for row_key in [key::range_count(lease), key::range_count_of(lease, resource)] {
        let rows = txn.reader().range_count(&row_key)? as usize + now - before;
        if rows == 0 {
            txn.delete(Keyspace::Locks, row_key);
        } else {
            txn.put(Keyspace::Locks, row_key, &RangeCountRow { rows: rows as u32 });
        }
    }
    Ok(())
}

fn end_wait(txn: &mut Txn<'_>, resource: &str, wait: &RangeWait) -> Result<(), Stop> {
    let RangeWaitRow { lease, owner, family, .. } = wait.row;
    txn.delete(Keyspace::Locks, key::range_wait(resource, wait.wait));
    if family == RangeFamily::Fcntl {
        txn.delete(Keyspace::Locks, key::range_wait_of(lease, owner, wait.wait, resource));
    }
    txn.effect(Effect::RangeWait(wait.wait));
    count(txn, lease, resource, 1, 0)
}

/// Whether an owner that waits for `wanted` would wait for itself. `held` is what is held of that file.
fn closes_circle(reader: Reader<'_>, held: &[HeldRange], wanted: &WantedRange) -> Result<bool, Stop> {
    let in_the_way = |held: &[HeldRange], wanted: &WantedRange| -> Vec<RangeOwner> {
        held.iter().filter(|range| range.hinders(wanted)).map(|range| range.by).collect()
    };
    let mut left = SEARCH_ROWS_MAX;
    let mut seen = BTreeSet::new();
    let mut open = in_the_way(held, wanted);
    while let Some(owner) = open.pop() {
        if owner == wanted.by {
            return Ok(true);
        }
        if !seen.insert(owner) {
            continue;
        }
        for row in reader.rows(Keyspace::Locks, KeyRange::prefix(&key::range_waits_of(owner.0, owner.1))) {
            let (wait, resource) = key::range_wait_of_parts(&row?.0)?;
            let Some(row) = reader.row::<RangeWaitRow>(Keyspace::Locks, &key::range_wait(&resource, wait))? else {
                continue;
            };
            let held = reader.ranges(&resource, RangeFamily::Fcntl)?;
            left = left.checked_sub(held.len() + 2).ok_or(Error::NoLocks)?;
            open.extend(in_the_way(&held, &row.wanted()));
        }
    }
    Ok(false)
}
