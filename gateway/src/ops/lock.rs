//! Locks, leases and ephemeral keys.

use std::time::Duration;

use bytes::Bytes;
use holdfast_core::command::{
    AcquireLock, GrantLease, Granted, Op, PutEphemeral, ReleaseLease, RemoveEphemeral, RenewLease, Reply,
};
use holdfast_core::effect::Effect;
use holdfast_core::error::Error as Refusal;
use holdfast_core::id::{Millis, Revision};
use holdfast_core::lock::{Claim, EphemeralRow, LeaseRow, LockMode, LockState};
use holdfast_core::rules::authorize::{Action, Resource};
use holdfast_core::view::View;
use tokio::time::Instant;

use super::wait::Look;
use super::{Call, Done, done, view_of};
use crate::error::Error;
use crate::gateway::Gateway;

/// Holders and waiters that an answer names.
pub const CLAIMS_SHOWN_MAX: usize = 100;
/// Locks, leases or keys of one answer.
pub const LISTED_MAX: usize = 1000;

/// What a caller wants to hold.
#[derive(Clone, Debug)]
pub struct Acquire {
    /// The lock.
    pub name: String,
    /// How.
    pub mode: LockMode,
    /// Who, as it names itself.
    pub owner: String,
    /// Life of the lease.
    pub ttl_ms: Millis,
    /// How long to wait for it.
    pub wait: Duration,
}

/// What became of it.
#[derive(Clone, Debug)]
pub enum Acquired {
    /// It is held.
    Granted(Granted),
    /// Not in time; who holds it.
    Held(LockState),
}

impl Gateway {
    /// Takes a lock, and waits for it if the caller wants.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Cluster`].
    ///
    /// # Cancel safety
    /// Dropped while it waits, the place in the queue is given up.
    pub async fn acquire_lock(&self, call: &Call, want: Acquire) -> Result<Done<Acquired>, Error> {
        let deadline = Instant::now() + want.wait;
        let wait_ms = Millis::try_from(want.wait.as_millis()).unwrap_or(Millis::MAX);
        let Acquire { name, mode, owner, ttl_ms, .. } = want;
        let op = Op::AcquireLock(AcquireLock { name: name.clone(), mode, owner, ttl_ms, wait_ms });
        let of_lock = Some(name.clone());
        let read = move |reply| match reply {
            Reply::Granted(granted) => {
                // A grant that nobody hears of any more is released, too.
                let lease = granted.lease;
                Some((granted, Op::ReleaseLease(ReleaseLease { lease, name: of_lock, unless_granted: false })))
            }
            _ => None,
        };
        let (revision, granted, place) = match self.take_place(call, op, read).await {
            Err(Error::Refused(Refusal::LockHeld)) => return self.held(call, &name).await,
            placed => placed?,
        };
        if granted.token.is_some() {
            place.keep();
            return Ok(Done { revision, value: Acquired::Granted(granted) });
        }
        let token = self.await_lock(call, granted.lease, deadline).await?;
        // Whoever waits no more says so; a grant that came meanwhile counts.
        let token = match token {
            Some(token) => Some(token),
            None => self.give_up(&place.call, name.clone(), granted.lease).await?,
        };
        place.keep();
        match token {
            Some((revision, token)) => {
                let granted = Granted { token: Some(token), ..granted };
                Ok(Done { revision, value: Acquired::Granted(granted) })
            }
            None => self.held(call, &name).await,
        }
    }

    /// The revision that was looked at and the token, once a lease is granted.
    async fn await_lock(
        &self,
        call: &Call,
        lease: Revision,
        deadline: Instant,
    ) -> Result<Option<(Revision, Revision)>, Error> {
        let permit = call.permit(Action::UseLocks, Resource::Service)?;
        let look = |view: &View<'_>| {
            let Some(row) = view.lease(&permit, lease)? else { return Ok(Look::Gone) };
            Ok(row.lock.and_then(|lock| lock.token).map_or(Look::Waits, Look::Granted))
        };
        Ok(self.await_grant(Effect::Lease(lease), lease, deadline, look).await)
    }

    async fn held(&self, call: &Call, name: &str) -> Result<Done<Acquired>, Error> {
        let Done { revision, value } = self.lock_state(call, name).await?;
        Ok(Done { revision, value: Acquired::Held(value) })
    }

    async fn lease_command(&self, call: &Call, op: Op) -> Result<(Revision, Granted), Error> {
        match self.authorized(call, op).await? {
            (revision, Reply::Granted(granted)) => Ok((revision, granted)),
            _ => Err(Error::UnexpectedReply),
        }
    }

    /// Leaves the queue; the revision and token when the lock was granted first.
    async fn give_up(&self, call: &Call, name: String, lease: Revision) -> Result<Option<(Revision, Revision)>, Error> {
        let op = Op::ReleaseLease(ReleaseLease { lease, name: Some(name), unless_granted: true });
        match self.authorized(call, op).await {
            Ok((revision, Reply::Granted(granted))) => Ok(granted.token.map(|token| (revision, token))),
            // It has ended already.
            Ok((_, Reply::Done)) | Err(Error::Refused(Refusal::NoSuchLease)) => Ok(None),
            Ok(_) => Err(Error::UnexpectedReply),
            Err(error) => Err(error),
        }
    }

    /// Makes a lease live on.
    ///
    /// # Errors
    /// [`Error::Refused`] with [`Refusal::NoSuchLease`] when it has ended.
    pub async fn renew_lease(&self, call: &Call, op: RenewLease) -> Result<Done<Granted>, Error> {
        let (revision, value) = self.lease_command(call, Op::RenewLease(op)).await?;
        Ok(Done { revision, value })
    }

    /// Ends a lease with what hangs on it.
    ///
    /// # Errors
    /// As [`Gateway::renew_lease`].
    pub async fn release_lease(&self, call: &Call, lease: Revision, name: Option<String>) -> Result<Done<()>, Error> {
        done(self.authorized(call, Op::ReleaseLease(ReleaseLease { lease, name, unless_granted: false })).await?)
    }

    /// Makes a lease without a lock.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub async fn grant_lease(&self, call: &Call, owner: String, ttl_ms: Millis) -> Result<Done<Granted>, Error> {
        let (revision, value) = self.lease_command(call, Op::GrantLease(GrantLease { owner, ttl_ms })).await?;
        Ok(Done { revision, value })
    }

    /// Sets an ephemeral key.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub async fn put_ephemeral(
        &self,
        call: &Call,
        name: String,
        value: Bytes,
        lease: Revision,
        if_absent: bool,
    ) -> Result<Done<()>, Error> {
        done(self.authorized(call, Op::PutEphemeral(PutEphemeral { name, value, lease, if_absent })).await?)
    }

    /// Removes an ephemeral key; an absent one is removed.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub async fn remove_ephemeral(&self, call: &Call, name: String) -> Result<Done<()>, Error> {
        done(self.authorized(call, Op::RemoveEphemeral(RemoveEphemeral { name })).await?)
    }

    /// Who holds a lock and who waits, at most [`CLAIMS_SHOWN_MAX`] each.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Cluster`].
    pub async fn lock_state(&self, call: &Call, name: &str) -> Result<Done<LockState>, Error> {
        let permit = call.permit(Action::UseLocks, Resource::Service)?;
        let name = name.to_owned();
        let view = self.read_view(call).await?;
        self.read_many(view, move |view| Ok(view.lock(&permit, &name, CLAIMS_SHOWN_MAX)?)).await
    }

    /// Locks that somebody holds or waits for, after `after`, at most [`LISTED_MAX`].
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Cluster`].
    pub async fn locks(&self, call: &Call, after: String) -> Result<Done<Vec<LockState>>, Error> {
        let permit = call.permit(Action::UseLocks, Resource::Service)?;
        let view = self.read_view(call).await?;
        let read = self.read_many(view, move |view| {
            let names = view.lock_names(&permit, &after, LISTED_MAX)?;
            let states = names.iter().map(|name| Ok(view.lock(&permit, name, CLAIMS_SHOWN_MAX)?));
            states.collect::<Result<Vec<_>, Error>>()
        });
        read.await
    }

    /// Leases after `after`, at most [`LISTED_MAX`].
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Cluster`].
    pub async fn leases(&self, call: &Call, after: Revision) -> Result<Done<Vec<Claim>>, Error> {
        let permit = call.permit(Action::UseLocks, Resource::Service)?;
        let view = self.read_view(call).await?;
        self.read_many(view, move |view| Ok(view.leases(&permit, after, LISTED_MAX)?)).await
    }

    /// A lease.
    ///
    /// # Errors
    /// [`Error::Refused`] with [`Refusal::NoSuchLease`]; [`Error::Cluster`].
    pub async fn lease(&self, call: &Call, lease: Revision) -> Result<Done<LeaseRow>, Error> {
        let permit = call.permit(Action::UseLocks, Resource::Service)?;
        let view = self.read_view(call).await?;
        let row = view_of(&view).lease(&permit, lease)?.ok_or(Refusal::NoSuchLease)?;
        Ok(Done { revision: view.revision(), value: row })
    }

    /// Ephemeral keys that begin with `prefix`, after `after`, at most [`LISTED_MAX`].
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Cluster`].
    pub async fn ephemerals(
        &self,
        call: &Call,
        prefix: String,
        after: String,
    ) -> Result<Done<Vec<(String, EphemeralRow)>>, Error> {
        let permit = call.permit(Action::UseLocks, Resource::Service)?;
        let view = self.read_view(call).await?;
        self.read_many(view, move |view| Ok(view.ephemerals(&permit, &prefix, &after, LISTED_MAX)?)).await
    }

    /// An ephemeral key.
    ///
    /// # Errors
    /// [`Error::Refused`] with [`Refusal::NoSuchKey`]; [`Error::Cluster`].
    pub async fn ephemeral(&self, call: &Call, name: &str) -> Result<Done<EphemeralRow>, Error> {
        let permit = call.permit(Action::UseLocks, Resource::Service)?;
        let view = self.read_view(call).await?;
        let row = view_of(&view).ephemeral(&permit, name)?.ok_or(Refusal::NoSuchKey)?;
        Ok(Done { revision: view.revision(), value: row })
    }
}
