//! Locks, leases and ephemeral keys: their rows, and reads of them. What changes them is in `rules::lock`.

use minicbor::{Decode, Encode};

use crate::id::{Millis, Revision};
use crate::keyspace::{Keyspace, key};
use crate::kv::{KeyRange, successor};
use crate::record::{Record, record, stored_enum};
use crate::rules::authorize::{Action, Permit};
use crate::state::{Reader, Stop};
use crate::view::View;

stored_enum! {
    /// How a lock is held.
    pub enum LockMode {
        /// By one lease.
        Exclusive = 0,
        /// By any number of leases that all share it.
        Shared = 1,
    }
}

/// A lock that somebody holds or waits for. Key: name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct LockRow {
    /// Leases that hold it.
    #[n(0)]
    pub holders: u32,
    /// Leases that wait.
    #[n(1)]
    pub waiters: u32,
    /// Whether its holders share it.
    #[n(2)]
    pub shared: bool,
}

/// A lease. It ends when it is released, or when the leader finds that it was not renewed for its time. Key: its id,
/// which is the revision that made it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct LeaseRow {
    /// Its owner, as it named itself.
    #[n(0)]
    pub owner: String,
    /// Time from its grant or last renewal to its end.
    #[n(1)]
    pub ttl_ms: Millis,
    /// How often it was granted or renewed: who would end it names the number that it saw.
    #[n(2)]
    pub renewals: u64,
    /// The lock that it is for; none for a lease that carries ephemeral keys only.
    #[n(3)]
    pub lock: Option<LeaseLock>,
    /// Ephemeral keys that end with it.
    #[n(4)]
    pub keys: u32,
}

/// The lock of a lease.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct LeaseLock {
    /// Name.
    #[n(0)]
    pub name: String,
    /// Mode.
    #[n(1)]
    pub mode: LockMode,
    /// Fencing token: the revision of the grant; none while it waits.
    #[n(2)]
    pub token: Option<Revision>,
    /// How long it waits in the queue at most.
    #[n(3)]
    pub wait_ms: Millis,
}

/// An ephemeral key. Key: its name.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct EphemeralRow {
    /// Value.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub value: Vec<u8>,
    /// The lease that it ends with.
    #[n(1)]
    pub lease: Revision,
    /// When it was set.
    #[n(2)]
    pub revision: Revision,
}

record! {
    LockRow => "lock",
    LeaseRow => "lease",
    EphemeralRow => "ephemeral key",
}

impl LeaseRow {
    /// How long it lasts without news: a waiting one as long as it waits, and a little more.
    #[must_use]
    pub fn lasts_ms(&self) -> Millis {
        /// The node that waits gives up by itself; this only ends what it left behind.
        const WAITER_GRACE_MS: Millis = 10_000;
        match &self.lock {
            Some(lock) if lock.token.is_none() => lock.wait_ms + WAITER_GRACE_MS,
            _ => self.ttl_ms,
        }
    }
}

/// A lease that holds a lock or waits for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The lease.
    pub lease: Revision,
    /// Its row.
    pub row: LeaseRow,
}

/// A lock with who holds it and who waits, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockState {
    /// Its name.
    pub name: String,
    /// Who holds it.
    pub holders: Vec<Claim>,
    /// Who waits, first come first.
    pub waiters: Vec<Claim>,
}

impl View<'_> {
    /// A lock with at most `limit` holders and as many waiters; empty when nobody has anything to do with it.
    ///
    /// # Errors
    /// [`crate::error::Error::Denied`], or [`Stop`] when the engine fails.
    pub fn lock(&self, permit: &Permit, name: &str, limit: usize) -> Result<LockState, Stop> {
        permit.require(&[Action::UseLocks])?;
        let holders = self.claims(&key::lock_holders(name), limit)?;
        let waiters = self.claims(&key::lock_waiters(name), limit)?;
        Ok(LockState { name: name.to_owned(), holders, waiters })
    }

    fn claims(&self, prefix: &[u8], limit: usize) -> Result<Vec<Claim>, Stop> {
        let mut claims = Vec::new();
        for row in self.reader.rows(Keyspace::Locks, KeyRange::prefix(prefix)).take(limit) {
            let (row_key, _) = row?;
            let lease = key::lease_at_end(&row_key)?;
            if let Some(row) = self.reader.lease(lease)? {
                claims.push(Claim { lease, row });
            }
        }
        Ok(claims)
    }

    /// The names of locks that somebody holds or waits for, after `after`, at most `limit`.
    ///
    /// # Errors
    /// As [`View::lock`].
    pub fn lock_names(&self, permit: &Permit, after: &str, limit: usize) -> Result<Vec<String>, Stop> {
        permit.require(&[Action::UseLocks])?;
        let mut from = key::lock(after);
        from.push(0);
        let range =
            KeyRange { from: if after.is_empty() { key::lock("") } else { from }, to: successor(&key::lock("")) };
        let names = self.reader.rows(Keyspace::Locks, range).take(limit);
        names.map(|row| Ok(key::lock_name(&row?.0)?)).collect()
    }

    /// A lease.
    ///
    /// # Errors
    /// As [`View::lock`].
    pub fn lease(&self, permit: &Permit, lease: Revision) -> Result<Option<LeaseRow>, Stop> {
        permit.require(&[Action::UseLocks, Action::Maintain])?;
        self.reader.lease(lease)
    }

    /// Leases after `after`, at most `limit`.
    ///
    /// # Errors
    /// As [`View::lock`].
    pub fn leases(&self, permit: &Permit, after: Revision, limit: usize) -> Result<Vec<Claim>, Stop> {
        permit.require(&[Action::UseLocks, Action::Maintain])?;
        let mut from = key::lease(after);
        from.push(0);
        let rows = self.reader.rows(Keyspace::Locks, KeyRange::prefix_from(&key::leases(), from)).take(limit);
        rows.map(|row| {
            let (row_key, value) = row?;
            Ok(Claim { lease: key::lease_at_end(&row_key)?, row: <LeaseRow as Record>::decode(&value)? })
        })
        .collect()
    }

    /// Ephemeral keys that begin with `prefix`, after `after`, at most `limit`.
    ///
    /// # Errors
    /// As [`View::lock`].
    pub fn ephemerals(
        &self,
        permit: &Permit,
        prefix: &str,
        after: &str,
        limit: usize,
    ) -> Result<Vec<(String, EphemeralRow)>, Stop> {
        permit.require(&[Action::UseLocks])?;
        let start = key::ephemeral(prefix);
        let mut from = start.clone();
        if !after.is_empty() {
            let mut next = key::ephemeral(after);
            next.push(0);
            from = from.max(next);
        }
        let rows = self.reader.rows(Keyspace::Locks, KeyRange::prefix_from(&start, from)).take(limit);
        rows.map(|row| {
            let (row_key, value) = row?;
            Ok((key::ephemeral_name(&row_key)?, <EphemeralRow as Record>::decode(&value)?))
        })
        .collect()
    }

    /// One ephemeral key.
    ///
    /// # Errors
    /// As [`View::lock`].
    pub fn ephemeral(&self, permit: &Permit, name: &str) -> Result<Option<EphemeralRow>, Stop> {
        permit.require(&[Action::UseLocks])?;
        self.reader.row(Keyspace::Locks, &key::ephemeral(name))
    }
}

impl Reader<'_> {
    pub(crate) fn lock(self, name: &str) -> Result<LockRow, Stop> {
        Ok(self.row(Keyspace::Locks, &key::lock(name))?.unwrap_or_default())
    }

    pub(crate) fn lease(self, lease: Revision) -> Result<Option<LeaseRow>, Stop> {
        self.row(Keyspace::Locks, &key::lease(lease))
    }
}
