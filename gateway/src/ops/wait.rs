//! Requests that wait in a queue of the state: they look until they are granted, and give their place up when their time is
//! over or whoever asked goes away.

use std::time::Duration;

use holdfast_core::command::{Op, Reply};
use holdfast_core::effect::Effect;
use holdfast_core::id::Revision;
use holdfast_core::view::View;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::{Call, view_of};
use crate::error::Error;
use crate::gateway::Gateway;

/// How often whoever waits looks by itself.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What whoever waits finds.
pub(super) enum Look<T> {
    /// It waits.
    Waits,
    /// It was granted.
    Granted(T),
    /// It waits no more; the command that gives up finds out why.
    Gone,
}

/// A place in a queue, given up when whoever waits goes away.
pub(super) struct Place {
    gateway: Option<Gateway>,
    /// For commands that follow; what gives up carries no fence.
    pub(super) call: Call,
    give_up: Op,
}

impl Place {
    /// It is not given up any more.
    pub(super) fn keep(mut self) {
        self.gateway = None;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(gateway) = self.gateway.take() else { return };
        let (call, give_up, own) = (self.call.again(), self.give_up.clone(), gateway.clone());
        gateway.in_background(async move {
            if let Err(error) = own.authorized(&call, give_up).await {
                tracing::debug!(error = crate::backend::chain(&error), "a place in a queue ends by itself");
            }
        });
    }
}

impl Gateway {
    /// Commits `op`, and holds on to what came of it: whoever goes away meanwhile gives it up. `read` says what the reply is
    /// and what gives it up.
    pub(super) async fn take_place<T: Send + 'static>(
        &self,
        call: &Call,
        op: Op,
        read: impl FnOnce(Reply) -> Option<(T, Op)> + Send + 'static,
    ) -> Result<(Revision, T, Place), Error> {
        let (own, call) = (self.clone(), call.clone());
        let (placed, place) = oneshot::channel();
        self.in_background(async move {
            let done = own.authorized(&call, op).await.and_then(|(revision, reply)| {
                let (value, give_up) = read(reply).ok_or(Error::UnexpectedReply)?;
                // What gives up is fenced by nothing.
                let call = Call { fences: Vec::new(), ..call.again() };
                Ok((revision, value, Place { gateway: Some(own.clone()), call, give_up }))
            });
            // Nobody waits for it: dropped, it is given up.
            drop(placed.send(done));
        });
        place.await.map_err(|_| Error::Stopping)?
    }

    /// Looks at this node's own state, which has what waits from revision `wait` on, whenever `told_by` says so, until something is granted: the revision that
    /// was looked at and what was granted; nothing when it is gone, when its time is over, or when the node leaves.
    pub(super) async fn await_grant<T>(
        &self,
        told_by: Effect,
        wait: Revision,
        deadline: Instant,
        look: impl Fn(&View<'_>) -> Result<Look<T>, Error>,
    ) -> Option<(Revision, T)> {
        let waiting = async {
            let subscription = self.notifier().subscribe(told_by);
            loop {
                let changed = subscription.notify.notified();
                // The node's own state: that is what the notifier tells of.
                if let Ok(view) = self.cluster().view_now()
                    && view.revision() >= wait
                {
                    match look(&view_of(&view)) {
                        Ok(Look::Granted(value)) => return Some((view.revision(), value)),
                        Ok(Look::Gone) => return None,
                        Ok(Look::Waits) | Err(_) => {}
                    }
                }
                // A state that came as a snapshot tells of nothing.
                let next = deadline.min(Instant::now() + LOOK_EVERY);
                if timeout_at(next, changed).await.is_err() && Instant::now() >= deadline {
                    return None;
                }
            }
        };
        tokio::select! {
            found = waiting => found,
            // The place goes while there is a cluster to tell.
            () = self.left() => None,
        }
    }
}
