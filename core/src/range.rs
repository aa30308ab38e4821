//! Byte-range and whole-file locks: their rows, and reads of them. What changes them is in `rules::range`.

use minicbor::{Decode, Encode};

use crate::command::{RangeHolder, SetRange};
use crate::id::Revision;
use crate::keyspace::{Keyspace, key};
use crate::kv::KeyRange;
use crate::lock::LockMode;
use crate::record::{Record, record, stored_enum};
use crate::rules::authorize::{Action, Permit};
use crate::state::{Reader, Stop};
use crate::view::View;

stored_enum! {
    /// Kinds of locks on a file. Those of one kind do not see those of the other, as on Linux.
    pub enum RangeFamily {
        /// `fcntl`: ranges of bytes, each held by a process.
        Fcntl = 0,
        /// `flock`: the whole file, held by an open file.
        Flock = 1,
    }
}

impl RangeFamily {
    /// Its name in requests and answers.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Fcntl => "fcntl",
            Self::Flock => "flock",
        }
    }
}

/// A range that an owner holds. Key: file, family, lease, owner, first byte. Ranges of one owner never overlap, and two
/// that touch differ in their mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct RangeRow {
    /// Last byte, inclusive.
    #[n(0)]
    pub end: u64,
    /// Mode.
    #[n(1)]
    pub mode: LockMode,
    /// The process that asked.
    #[n(2)]
    pub pid: u32,
    /// The revision that last granted some of it.
    #[n(3)]
    pub token: Revision,
}

/// A wait for a range. Key: file, number, which is the revision that began it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct RangeWaitRow {
    /// The lease that it ends with.
    #[n(0)]
    pub lease: Revision,
    /// Owner.
    #[n(1)]
    pub owner: u64,
    /// Family.
    #[n(2)]
    pub family: RangeFamily,
    /// Mode that is wanted.
    #[n(3)]
    pub mode: LockMode,
    /// First byte.
    #[n(4)]
    pub start: u64,
    /// Last byte, inclusive.
    #[n(5)]
    pub end: u64,
    /// The process that asks.
    #[n(6)]
    pub pid: u32,
    /// The number that the client gave it, its own among those of the lease.
    #[n(7)]
    pub ticket: u64,
    /// Who asked last, see [`SetRange`].
    #[n(8)]
    pub asker: Option<u64>,
}

/// How many ranges and waits a lease has, in all or of one file. Key: lease, file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct RangeCountRow {
    /// Ranges that are held, and waits.
    #[n(0)]
    pub rows: u32,
}

record! {
    RangeRow => "range",
    RangeWaitRow => "wait for a range",
    RangeCountRow => "count of ranges",
}

/// Whose ranges: a lease, and a number that its user chose.
pub type RangeOwner = (Revision, u64);

/// A range that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldRange {
    /// By whom.
    pub by: RangeOwner,
    /// First byte.
    pub start: u64,
    /// The rest.
    pub row: RangeRow,
}

/// A wait with its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeWait {
    /// The revision that began it: the order of the queue.
    pub wait: Revision,
    /// Its row.
    pub row: RangeWaitRow,
}

/// A range that somebody wants to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WantedRange {
    /// Who.
    pub by: RangeOwner,
    /// How.
    pub mode: LockMode,
    /// First byte.
    pub start: u64,
    /// Last byte, inclusive.
    pub end: u64,
}

impl HeldRange {
    /// Whether it is in the way of `wanted`.
    pub(crate) fn hinders(&self, wanted: &WantedRange) -> bool {
        self.by != wanted.by
            && (self.row.mode == LockMode::Exclusive || wanted.mode == LockMode::Exclusive)
            && self.overlaps(wanted.start, wanted.end)
    }

    pub(crate) fn overlaps(&self, start: u64, end: u64) -> bool {
        self.start <= end && start <= self.row.end
    }

    /// Whether its owner has all that it wants already.
    pub(crate) fn covers(&self, wanted: &WantedRange) -> bool {
        let within = self.start <= wanted.start && wanted.end <= self.row.end;
        within && self.by == wanted.by && self.row.mode == wanted.mode
    }

    fn holder(&self) -> RangeHolder {
        let RangeRow { end, mode, pid, .. } = self.row;
        RangeHolder { lease: self.by.0, owner: self.by.1, pid, mode, start: self.start, end }
    }
}

impl RangeWaitRow {
    pub(crate) fn wanted(&self) -> WantedRange {
        WantedRange { by: (self.lease, self.owner), mode: self.mode, start: self.start, end: self.end }
    }
}

/// The first range that is in the way of `wanted`: the one that begins first, of those the one of the oldest lease.
pub(crate) fn first_in_the_way(held: &[HeldRange], wanted: &WantedRange) -> Option<RangeHolder> {
    let in_the_way = held.iter().filter(|range| range.hinders(wanted));
    in_the_way.min_by_key(|range| (range.start, range.by)).map(HeldRange::holder)
}

/// The ranges of a file that are held, and who waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeState {
    /// The file.
    pub resource: String,
    /// What is held, by family, lease, owner and first byte.
    pub held: Vec<(RangeFamily, HeldRange)>,
    /// Who waits, first come first.
    pub waits: Vec<RangeWait>,
}

/// Where a request for a range stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeStanding {
    /// It waits.
    Waits,
    /// Its owner holds all of it by this grant.
    Holds(Revision),
    /// Neither: it was cancelled or unlocked, or the lease has ended.
    Gone,
}

impl View<'_> {
    /// The ranges of a file with at most `limit` that are held by locks of each family, and as many waits.
    ///
    /// # Errors
    /// [`crate::error::Error::Denied`], or [`Stop`] when the engine fails.
    pub fn ranges(&self, permit: &Permit, resource: &str, limit: usize) -> Result<RangeState, Stop> {
        permit.require(&[Action::UseLocks])?;
        let mut held = Vec::new();
        for &family in RangeFamily::ALL {
            let some = self.reader.ranges(resource, family)?.into_iter().take(limit);
            held.extend(some.map(|range| (family, range)));
        }
        let mut waits = self.reader.range_waits(resource)?;
        waits.truncate(limit);
        Ok(RangeState { resource: resource.to_owned(), held, waits })
    }

    /// What is in the way of a range: `F_GETLK`.
    ///
    /// # Errors
    /// As [`View::ranges`].
    pub fn range_in_the_way(
        &self,
        permit: &Permit,
        resource: &str,
        family: RangeFamily,
        wanted: &WantedRange,
    ) -> Result<Option<RangeHolder>, Stop> {
        permit.require(&[Action::UseLocks])?;
        Ok(first_in_the_way(&self.reader.ranges(resource, family)?, wanted))
    }

    /// Where a request stands that waits under the number `wait`.
    ///
    /// # Errors
    /// As [`View::ranges`].
    pub fn range_standing(&self, permit: &Permit, asked: &SetRange, wait: Revision) -> Result<RangeStanding, Stop> {
        permit.require(&[Action::UseLocks])?;
        if self.reader.0.get(Keyspace::Locks, &key::range_wait(&asked.resource, wait))?.is_some() {
            return Ok(RangeStanding::Waits);
        }
        let Some(wanted) = asked.wanted() else { return Ok(RangeStanding::Gone) };
        let held = self.reader.ranges(&asked.resource, asked.family)?;
        let own = held.iter().find(|range| range.covers(&wanted));
        Ok(own.map_or(RangeStanding::Gone, |range| RangeStanding::Holds(range.row.token)))
    }

    /// The files after `after` of which a lease holds or awaits ranges, with the number of both; at most `limit`.
    ///
    /// # Errors
    /// As [`View::ranges`].
    pub fn ranges_of_lease(
        &self,
        permit: &Permit,
        lease: Revision,
        after: &str,
        limit: usize,
    ) -> Result<Vec<(String, u32)>, Stop> {
        permit.require(&[Action::UseLocks])?;
        // The count in all has the key of a file without a name.
        let mut from = key::range_count_of(lease, after);
        from.push(0);
        let rows = self.reader.rows(Keyspace::Locks, KeyRange::prefix_from(&key::range_count(lease), from)).take(limit);
        rows.map(|row| {
            let (row_key, value) = row?;
            Ok((key::range_count_resource(&row_key)?, <RangeCountRow as Record>::decode(&value)?.rows))
        })
        .collect()
    }
}

impl SetRange {
    /// What it wants to hold; none when it unlocks.
    #[must_use]
    pub fn wanted(&self) -> Option<WantedRange> {
        let by = (self.lease, self.owner);
        self.mode.map(|mode| WantedRange { by, mode, start: self.start, end: self.end })
    }
}

impl Reader<'_> {
    /// What is held of a file by locks of a family, by owner and first byte.
    pub(crate) fn ranges(self, resource: &str, family: RangeFamily) -> Result<Vec<HeldRange>, Stop> {
        let rows = self.rows(Keyspace::Locks, KeyRange::prefix(&key::ranges(resource, family)));
        rows.map(|row| {
            let (row_key, value) = row?;
            let (lease, owner, start) = key::range_parts(&row_key)?;
            Ok(HeldRange { by: (lease, owner), start, row: <RangeRow as Record>::decode(&value)? })
        })
        .collect()
    }

    /// Who waits for ranges of a file, first come first.
    pub(crate) fn range_waits(self, resource: &str) -> Result<Vec<RangeWait>, Stop> {
        let rows = self.rows(Keyspace::Locks, KeyRange::prefix(&key::range_waits(resource)));
        rows.map(|row| {
            let (row_key, value) = row?;
            let (_, wait) = key::range_wait_parts(&row_key)?;
            Ok(RangeWait { wait, row: <RangeWaitRow as Record>::decode(&value)? })
        })
        .collect()
    }

    pub(crate) fn range_count(self, row_key: &[u8]) -> Result<u32, Stop> {
        let row: Option<RangeCountRow> = self.row(Keyspace::Locks, row_key)?;
        Ok(row.unwrap_or_default().rows)
    }
}
