//! Who waits on this node for a lease to be granted or to end, and is woken by what the state machine tells.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use holdfast_core::effect::Effect;
use holdfast_core::id::Revision;
use tokio::sync::Notify;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cluster::Effects;

/// Wakes those who wait for leases on this node.
#[derive(Clone, Default)]
pub(crate) struct LeaseBells(Arc<Mutex<HashMap<Revision, Arc<Notify>>>>);

/// A bell for one lease.
pub(crate) struct Bell {
    bells: LeaseBells,
    lease: Revision,
    pub(crate) notify: Arc<Notify>,
}

impl Drop for Bell {
    fn drop(&mut self) {
        self.bells.hung().remove(&self.lease);
    }
}

impl LeaseBells {
    /// Rings when the state says that a lease changed.
    pub(crate) fn start(
        mut effects: broadcast::Receiver<Effects>,
        tasks: &TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        let bells = Self::default();
        let own = bells.clone();
        let ring = async move {
            loop {
                match effects.recv().await {
                    Ok(some) => own.ring(&some),
                    // One of those that were lost may have been for anybody.
                    Err(RecvError::Lagged(_)) => own.ring_all(),
                    Err(RecvError::Closed) => return,
                }
            }
        };
        tasks.spawn(async move {
            stop.run_until_cancelled(ring).await;
        });
        bells
    }

    fn hung(&self) -> std::sync::MutexGuard<'_, HashMap<Revision, Arc<Notify>>> {
        self.0.lock().expect("only held for a moment")
    }

    pub(crate) fn hang(&self, lease: Revision) -> Bell {
        let notify = self.hung().entry(lease).or_default().clone();
        Bell { bells: self.clone(), lease, notify }
    }

    fn ring(&self, effects: &[Effect]) {
        let hung = self.hung();
        for effect in effects {
            if let Effect::Lease(lease) = effect
                && let Some(bell) = hung.get(lease)
            {
                // Kept for whoever is not listening at this moment: there is one at most.
                bell.notify_one();
            }
        }
    }

    fn ring_all(&self) {
        self.hung().values().for_each(|bell| bell.notify_one());
    }
}
