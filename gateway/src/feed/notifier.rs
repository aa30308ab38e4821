//! Who waits on this node for something that a commit does: a lease to be granted or to end, a topic to get messages. The
//! state machine's effects wake them.
//!
//! An effect may be lost, so whoever waits also looks by itself now and then.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use holdfast_core::effect::Effect;
use tokio::sync::Notify;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cluster::Effects;

/// Wakes those who wait on this node.
#[derive(Clone, Default)]
pub(crate) struct Notifier(Arc<Mutex<Waiting>>);

#[derive(Default)]
struct Waiting {
    next: u64,
    by_effect: HashMap<Effect, HashMap<u64, Arc<Notify>>>,
}

/// Hears of one effect.
pub(crate) struct Subscription {
    notifier: Notifier,
    effect: Effect,
    number: u64,
    pub(crate) notify: Arc<Notify>,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut waiting = self.notifier.waiting();
        let Some(of_effect) = waiting.by_effect.get_mut(&self.effect) else { return };
        of_effect.remove(&self.number);
        if of_effect.is_empty() {
            waiting.by_effect.remove(&self.effect);
        }
    }
}

impl Notifier {
    /// Notifies whenever the state tells of an effect that somebody waits for.
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

    fn waiting(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.0.lock().expect("only held for a moment")
    }

    /// From here on nothing is missed, also while the subscription is not listened to.
    pub(crate) fn subscribe(&self, effect: Effect) -> Subscription {
        let mut waiting = self.waiting();
        let (number, notify) = (waiting.next, Arc::new(Notify::new()));
        waiting.next += 1;
        waiting.by_effect.entry(effect).or_default().insert(number, notify.clone());
        Subscription { notifier: self.clone(), effect, number, notify }
    }

    fn notify(&self, effects: &[Effect]) {
        let waiting = self.waiting();
        let told = effects.iter().filter_map(|effect| waiting.by_effect.get(effect)).flat_map(HashMap::values);
        // Kept for whoever is not listening at this moment.
        told.for_each(|notify| notify.notify_one());
    }

    fn notify_all(&self) {
        let waiting = self.waiting();
        waiting.by_effect.values().flat_map(HashMap::values).for_each(|notify| notify.notify_one());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn is_told(subscription: &Subscription) -> bool {
        tokio::time::timeout(Duration::from_millis(100), subscription.notify.notified()).await.is_ok()
    }

    #[tokio::test]
    async fn all_who_wait_for_an_effect_are_told_and_leave_nothing_behind() {
        let (tell, effects) = broadcast::channel(4);
        let stop = CancellationToken::new();
        let notifier = Notifier::start(effects, &TaskTracker::new(), stop.clone());
        let [one, two] = [(); 2].map(|()| notifier.subscribe(Effect::Topic(7)));
        let other = notifier.subscribe(Effect::Lease(7));
        tell.send(Arc::from([Effect::Topic(7)])).unwrap();
        assert!(is_told(&one).await && is_told(&two).await && !is_told(&other).await);
        drop(two);
        // More than the channel holds: some are lost, and everybody looks.
        for number in 0..10 {
            tell.send(Arc::from([Effect::Topic(100 + number)])).unwrap();
        }
        assert!(is_told(&one).await && is_told(&other).await);
        drop((one, other));
        assert!(notifier.waiting().by_effect.is_empty());
        stop.cancel();
    }
}
