//! Who waits on this node for a lease or a range to be granted or to end, and is woken by what the state machine tells.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use holdfast_core::effect::Effect;
use holdfast_core::id::Revision;
use tokio::sync::Notify;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cluster::Effects;

/// Wakes those who wait on this node, by the revision of what they wait for: a lease, or a wait for a range.
#[derive(Clone, Default)]
pub(crate) struct LeaseNotifier(Arc<Mutex<HashMap<Revision, Arc<Notify>>>>);

/// Hears of changes of one lease or wait.
pub(crate) struct LeaseSubscription {
    notifier: LeaseNotifier,
    lease: Revision,
    pub(crate) notify: Arc<Notify>,
}

impl Drop for LeaseSubscription {
    fn drop(&mut self) {
        let mut subscribed = self.notifier.subscribed();
        // The same request may wait twice: the map's and the own handle are the last two.
        if Arc::strong_count(&self.notify) <= 2 {
            subscribed.remove(&self.lease);
        }
    }
}

impl LeaseNotifier {
    /// Notifies when the state says that a lease changed.
    pub(crate) fn start(
        mut effects: broadcast::Receiver<Effects>,
        tasks: &TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        let notifier = Self::default();
        let own = notifier.clone();
        let listen = async move {
            loop {
                match effects.recv().await {
                    Ok(some) => own.notify(&some),
                    // One of those that were lost may have been for anybody.
                    Err(RecvError::Lagged(_)) => own.notify_all(),
                    Err(RecvError::Closed) => return,
                }
            }
        };
        tasks.spawn(async move {
            stop.run_until_cancelled(listen).await;
        });
        notifier
    }

    fn subscribed(&self) -> std::sync::MutexGuard<'_, HashMap<Revision, Arc<Notify>>> {
        self.0.lock().expect("only held for a moment")
    }

    pub(crate) fn subscribe(&self, lease: Revision) -> LeaseSubscription {
        let notify = self.subscribed().entry(lease).or_default().clone();
        LeaseSubscription { notifier: self.clone(), lease, notify }
    }

    fn notify(&self, effects: &[Effect]) {
        let subscribed = self.subscribed();
        for effect in effects {
            if let Effect::Lease(lease) | Effect::RangeWait(lease) = effect
                && let Some(notify) = subscribed.get(lease)
            {
                // Kept for whoever is not listening at this moment: there is one at most.
                notify.notify_one();
            }
        }
    }

    fn notify_all(&self) {
        self.subscribed().values().for_each(|notify| notify.notify_one());
    }
}
