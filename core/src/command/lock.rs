//! Commands of locks, leases and ephemeral keys.

use bytes::Bytes;
use minicbor::{Decode, Encode};

use crate::id::{Millis, Revision};
use crate::lock::LockMode;

/// See [`super::Op::AcquireLock`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct AcquireLock {
    /// The lock.
    #[n(0)]
    pub name: String,
    /// How.
    #[n(1)]
    pub mode: LockMode,
    /// Who, as it names itself; shown to others.
    #[n(2)]
    pub owner: String,
    /// Life of the lease from its grant or a renewal on.
    #[n(3)]
    pub ttl_ms: Millis,
    /// How long the proposer will wait; with 0 the command is refused when the lock is not free.
    #[n(4)]
    pub wait_ms: Millis,
}

/// See [`super::Op::RenewLease`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct RenewLease {
    /// The lease.
    #[n(0)]
    pub lease: Revision,
    /// The lock that it must be for.
    #[n(1)]
    pub name: Option<String>,
    /// Its life from now on; `None` leaves it.
    #[n(2)]
    pub ttl_ms: Option<Millis>,
}

/// See [`super::Op::ReleaseLease`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ReleaseLease {
    /// The lease.
    #[n(0)]
    pub lease: Revision,
    /// The lock that it must be for.
    #[n(1)]
    pub name: Option<String>,
    /// Only gives up waiting: a lease that was granted meanwhile stays.
    #[n(2)]
    pub unless_granted: bool,
}

/// See [`super::Op::ExpireLease`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ExpireLease {
    /// The lease.
    #[n(0)]
    pub lease: Revision,
    /// The renewals that the leader saw when its time began.
    #[n(1)]
    pub renewals: u64,
}

/// See [`super::Op::GrantLease`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct GrantLease {
    /// Who, as it names itself.
    #[n(0)]
    pub owner: String,
    /// Life from now or a renewal on.
    #[n(1)]
    pub ttl_ms: Millis,
}

/// See [`super::Op::PutEphemeral`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct PutEphemeral {
    /// The key.
    #[n(0)]
    pub name: String,
    /// Its value.
    #[cbor(n(1), with = "super::shared_bytes")]
    pub value: Bytes,
    /// The lease that it ends with.
    #[n(2)]
    pub lease: Revision,
    /// Refused when the key exists.
    #[n(3)]
    pub if_absent: bool,
}

/// See [`super::Op::RemoveEphemeral`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct RemoveEphemeral {
    /// The key.
    #[n(0)]
    pub name: String,
}

/// A lease, and what it holds.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Granted {
    /// Its id.
    #[n(0)]
    pub lease: Revision,
    /// The fencing token; none while it waits, and of a lease without a lock.
    #[n(1)]
    pub token: Option<Revision>,
    /// Its life from a renewal on.
    #[n(2)]
    pub ttl_ms: Millis,
}
