//! Commands of byte-range and whole-file locks.

use minicbor::{Decode, Encode};

use crate::id::Revision;
use crate::lock::LockMode;
use crate::range::RangeFamily;

/// See [`super::Op::SetRange`] and [`super::Op::CancelRange`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SetRange {
    /// The file.
    #[n(0)]
    pub resource: String,
    /// The lease that the range ends with; owners of two leases are two owners.
    #[n(1)]
    pub lease: Revision,
    /// Whose range: of the fcntl family a process, of the flock family an open file.
    #[n(2)]
    pub owner: u64,
    /// Which kind of lock.
    #[n(3)]
    pub family: RangeFamily,
    /// How it is to be held; `None` unlocks.
    #[n(4)]
    pub mode: Option<LockMode>,
    /// First byte.
    #[n(5)]
    pub start: u64,
    /// Last byte, inclusive; the largest number is the end of every file.
    #[n(6)]
    pub end: u64,
    /// Waits when it is not free, under this number of the lease's; `None` refuses at once. The same request again has the
    /// same place.
    #[n(7)]
    pub ticket: Option<u64>,
    /// Process that asks, shown to those who ask what is in their way.
    #[n(8)]
    pub pid: u32,
    /// Who waits in its place, when the same request may come from two: only the last to ask gives the place up. `None` is
    /// whoever may do so in any case.
    #[n(9)]
    pub asker: Option<u64>,
}

/// Who holds a range that is in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct RangeHolder {
    /// Its lease.
    #[n(0)]
    pub lease: Revision,
    /// Its owner.
    #[n(1)]
    pub owner: u64,
    /// The process that asked for it.
    #[n(2)]
    pub pid: u32,
    /// How it holds it.
    #[n(3)]
    pub mode: LockMode,
    /// First byte.
    #[n(4)]
    pub start: u64,
    /// Last byte, inclusive.
    #[n(5)]
    pub end: u64,
}

/// What became of a request for a range. All are absent when it was unlocked or cancelled.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Ranged {
    /// The grant by which the owner holds all of the range.
    #[n(0)]
    pub token: Option<Revision>,
    /// It waits, under this number.
    #[n(1)]
    pub wait: Option<Revision>,
    /// What was in the way of a lock of the flock family that is converted: it is not held, and the old one is gone.
    #[n(2)]
    pub held: Option<RangeHolder>,
}
