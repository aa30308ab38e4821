//! Byte-range and whole-file locks.

use std::time::Duration;

use holdfast_core::command::{Op, RangeHolder, Ranged, Reply, SetRange};
use holdfast_core::effect::Effect;
use holdfast_core::error::Error as Refusal;
use holdfast_core::id::Revision;
use holdfast_core::range::{RangeFamily, RangeStanding, RangeState, WantedRange};
use holdfast_core::rules::authorize::{Action, Resource};
use tokio::time::Instant;

use super::lock::{CLAIMS_SHOWN_MAX, LISTED_MAX};
use super::wait::{Look, Place};
use super::{Call, Done, view_of};
use crate::error::Error;
use crate::gateway::Gateway;

/// What became of a request for a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeSet {
    /// The owner holds it by this grant.
    Held(Revision),
    /// It is unlocked.
    Unlocked,
    /// It was not granted in time. Who was in the way, if anybody is still; of a lock of the flock family that was to be
    /// converted the old one is gone.
    InTheWay(Option<RangeHolder>),
}

fn ranged(reply: Reply) -> Result<Ranged, Error> {
    match reply {
        Reply::Ranged(ranged) => Ok(ranged),
        _ => Err(Error::UnexpectedReply),
    }
}

impl Gateway {
    /// Locks, converts or unlocks a range; with a ticket it waits for it, as long as `wait`.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Cluster`]. After an unknown outcome the same request may be sent again, or cancelled.
    ///
    /// # Cancel safety
    /// Dropped while it waits, the place in the queue is given up. A grant that came first stays: only the client knows
    /// what it held before, and [`Gateway::cancel_range`] tells it.
    pub async fn set_range(&self, call: &Call, asked: SetRange, wait: Duration) -> Result<Done<RangeSet>, Error> {
        // The same request may come again while this one still waits: then it has the place.
        let asked = SetRange { asker: asked.ticket.map(|_| rand::random()), ..asked };
        let deadline = Instant::now() + wait;
        let unlocks = asked.mode.is_none();
        let (revision, set, place) = match self.begin_range(call, asked.clone()).await {
            Err(Error::Refused(Refusal::RangeHeld { holder })) => {
                return Ok(Done { revision: self.revision_now(), value: RangeSet::InTheWay(Some(holder)) });
            }
            begun => begun?,
        };
        if let (Some(waits), Some(place)) = (set.wait, place) {
            return self.await_range(call, asked, place, waits, deadline).await;
        }
        let value = match set {
            Ranged { token: Some(token), .. } => RangeSet::Held(token),
            Ranged { held: Some(holder), .. } => RangeSet::InTheWay(Some(holder)),
            _ if unlocks => RangeSet::Unlocked,
            _ => return Err(Error::UnexpectedReply),
        };
        Ok(Done { revision, value })
    }

    /// Asks for a range; a place only when it waits.
    async fn begin_range(&self, call: &Call, asked: SetRange) -> Result<(Revision, Ranged, Option<Place>), Error> {
        if asked.ticket.is_none() {
            let (revision, reply) = self.authorized(call, Op::SetRange(asked)).await?;
            return Ok((revision, ranged(reply)?, None));
        }
        let give_up = Op::CancelRange(asked.clone());
        let read = |reply| Some((ranged(reply).ok()?, give_up));
        let (revision, set, place) = self.take_place(call, Op::SetRange(asked), read).await?;
        if set.wait.is_some() {
            return Ok((revision, set, Some(place)));
        }
        place.keep();
        Ok((revision, set, None))
    }

    async fn await_range(
        &self,
        call: &Call,
        asked: SetRange,
        place: Place,
        waits: Revision,
        deadline: Instant,
    ) -> Result<Done<RangeSet>, Error> {
        let permit = call.permit(Action::UseLocks, Resource::Service)?;
        let granted = self
            .await_grant(Effect::RangeWait(waits), waits, deadline, |view| {
                Ok(match view.range_standing(&permit, &asked, waits)? {
                    RangeStanding::Waits => Look::Waits,
                    RangeStanding::Holds(token) => Look::Granted(token),
                    RangeStanding::Gone => Look::Gone,
                })
            })
            .await;
        if let Some((revision, token)) = granted {
            place.keep();
            return Ok(Done { revision, value: RangeSet::Held(token) });
        }
        // Whoever waits no more says so; a grant that came meanwhile counts.
        let (revision, reply) = self.authorized(&place.call, Op::CancelRange(asked.clone())).await?;
        let token = ranged(reply)?.token;
        place.keep();
        if let Some(token) = token {
            return Ok(Done { revision, value: RangeSet::Held(token) });
        }
        let Some(wanted) = asked.wanted() else { return Err(Error::UnexpectedReply) };
        let Done { revision, value } = self.range_in_the_way(call, &asked.resource, asked.family, wanted).await?;
        Ok(Done { revision, value: RangeSet::InTheWay(value) })
    }

    fn revision_now(&self) -> Revision {
        self.cluster().view_now().map_or(0, |view| view.revision())
    }

    /// Gives up the wait that the same request began; the grant by which its owner holds the range, when it does.
    ///
    /// # Errors
    /// [`Error::Refused`] with [`Refusal::NoSuchLease`] when the lease has ended; [`Error::Cluster`].
    pub async fn cancel_range(&self, call: &Call, asked: SetRange) -> Result<Done<Option<Revision>>, Error> {
        let (revision, reply) = self.authorized(call, Op::CancelRange(asked)).await?;
        Ok(Done { revision, value: ranged(reply)?.token })
    }

    /// Who is in the way of a range, if anybody.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Cluster`].
    pub async fn range_in_the_way(
        &self,
        call: &Call,
        resource: &str,
        family: RangeFamily,
        wanted: WantedRange,
    ) -> Result<Done<Option<RangeHolder>>, Error> {
        let permit = call.permit(Action::UseLocks, Resource::Service)?;
        let resource = resource.to_owned();
        let view = self.read_view(call).await?;
        self.read_many(view, move |view| Ok(view.range_in_the_way(&permit, &resource, family, &wanted)?)).await
    }

    /// Who holds ranges of a file and who waits, at most [`CLAIMS_SHOWN_MAX`] of each family and as many waits.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Cluster`].
    pub async fn ranges(&self, call: &Call, resource: String) -> Result<Done<RangeState>, Error> {
        let permit = call.permit(Action::UseLocks, Resource::Service)?;
        let view = self.read_view(call).await?;
        self.read_many(view, move |view| Ok(view.ranges(&permit, &resource, CLAIMS_SHOWN_MAX)?)).await
    }

    /// The files after `after` of which a lease holds or awaits ranges, with their number; at most [`LISTED_MAX`].
    ///
    /// # Errors
    /// [`Error::Refused`] with [`Refusal::NoSuchLease`]; [`Error::Cluster`].
    pub async fn ranges_of_lease(
        &self,
        call: &Call,
        lease: Revision,
        after: String,
    ) -> Result<Done<Vec<(String, u32)>>, Error> {
        let permit = call.permit(Action::UseLocks, Resource::Service)?;
        let view = self.read_view(call).await?;
        view_of(&view).lease(&permit, lease)?.ok_or(Refusal::NoSuchLease)?;
        self.read_many(view, move |view| Ok(view.ranges_of_lease(&permit, lease, &after, LISTED_MAX)?)).await
    }
}
