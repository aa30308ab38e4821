//! A member tells the leader, again and again, that it is there and where.
//!
//! That is how an address that changed becomes known, how a node learns that it was removed, and how two processes on
//! copies of one data directory are found: the leader sees two live starts of one node, and the older must stop.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

use super::identity::{Identity, IdentityFile};
use super::log::Log;
use super::membership::Roster;
use super::threads::Threads;
use super::wire::{Control, ControlReply};

/// How often.
const INTERVAL: Duration = Duration::from_secs(1);
/// Longest wait for the leader's answer.
const TIMEOUT: Duration = Duration::from_secs(1);

pub(super) struct Attendance {
    pub roster: Arc<Roster>,
    pub address: String,
    pub api: String,
    pub fatal: watch::Sender<Option<String>>,
    pub removed: watch::Sender<Option<String>>,
    pub identity: Identity,
    pub file: IdentityFile,
    pub log: Log,
    pub threads: Threads,
}

impl Attendance {
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            self.complete_first_start().await;
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.announce() => {}
            }
        }
    }

    /// From the first entry on, an empty log is a loss and not a beginning.
    async fn complete_first_start(&mut self) {
        if self.identity.initialized || self.log.last().is_none() {
            return;
        }
        self.identity.initialized = true;
        let (file, identity) = (self.file.clone(), self.identity.clone());
        let written = self.threads.blocking(move || file.write(&identity)).await;
        if let Ok(Err(error)) = written {
            // The next start completes it.
            tracing::warn!(%error, "the end of the first start was not recorded");
        }
    }

    async fn announce(&self) {
        let announce = Control::Announce { address: self.address.clone(), api: self.api.clone() };
        match self.roster.ask(announce, Instant::now() + TIMEOUT).await {
            Ok(ControlReply::Announced) => drop(self.removed.send_replace(None)),
            Ok(ControlReply::Removed(why)) => {
                if self.removed.send_replace(Some(why.clone())).is_none() {
                    tracing::error!("{why}");
                }
            }
            Ok(ControlReply::Superseded(why)) => {
                tracing::error!("{why}");
                self.fatal.send_if_modified(|fatal| {
                    let first = fatal.is_none();
                    fatal.get_or_insert(why);
                    first
                });
            }
            Ok(other) => tracing::debug!(?other, "the leader did not take note of this node"),
            // Who leads is not known: others look after that.
            Err(_) => {}
        }
    }
}
