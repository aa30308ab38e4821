//! The generation fence: a node acknowledges writes only while it knows that its cluster was not recovered elsewhere.
//!
//! Every [`super::Settings::verify_every`] the node writes `metadata/<generation>/heartbeat.json` and **then** reads
//! `metadata/cluster.json`. If that still names its generation, the fence is open until [`super::Settings::verified_for`]
//! after the moment *before* the heartbeat. `recover` claims the next generation and then reads the heartbeat. So whoever
//! saw the old generation had written its heartbeat before `recover` reads it, and has stopped acknowledging once that
//! heartbeat is older than the same time, by the store's clock.
//!
//! A store that is full takes no heartbeat. Then the document alone is read, and only what frees space is acknowledged: a
//! full disk must stay mendable, and a delete that a recovery forgets does less harm than one that can never be done.
//!
//! Time is the larger of the monotonic and the wall clock: the first stands still while a machine sleeps, the second jumps.
//! A jump forward closes the fence for nothing until the next verification, which then comes at once.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use tokio::sync::{Notify, watch};
use tokio::time::{Duration, Instant};

use super::names;
use super::{Error, Inner, Settings, document};
use crate::backend::{Body, Condition, PutOptions};

/// A moment on both clocks.
#[derive(Clone, Copy, Debug)]
struct Moment(Instant, SystemTime);

impl Moment {
    fn now() -> Self {
        Self(Instant::now(), SystemTime::now())
    }

    /// By how much the wall clock went more, when that alone makes this older than `most`.
    fn jump(&self, most: Duration) -> Option<Duration> {
        let (steady, wall) = (self.0.elapsed(), self.1.elapsed().unwrap_or_default());
        (steady <= most && wall > most).then(|| wall - steady)
    }

    fn age(&self) -> Duration {
        self.0.elapsed().max(self.1.elapsed().unwrap_or_default())
    }
}

/// The fence.
#[derive(Debug)]
pub(super) struct Fence {
    verified: Mutex<Option<Moment>>,
    /// As `verified`, but maybe without a heartbeat.
    confirmed: Mutex<Option<Moment>>,
    /// Bytes of committed log that the bucket lacks.
    pub(super) unshipped_bytes: AtomicU64,
    /// Why this node may never write again.
    pub(super) superseded: watch::Sender<Option<String>>,
    /// Asks for a verification now.
    hurry: Notify,
}

impl Fence {
    pub(super) fn new() -> Self {
        Self {
            verified: Mutex::new(None),
            confirmed: Mutex::new(None),
            unshipped_bytes: AtomicU64::new(0),
            superseded: watch::Sender::new(None),
            hurry: Notify::new(),
        }
    }

    fn verified_moment(&self) -> Option<Moment> {
        *self.verified.lock().expect("only held for a moment")
    }

    /// How long ago the generation was verified.
    pub(super) fn verified_ago(&self) -> Option<Duration> {
        self.verified_moment().map(|moment| moment.age())
    }

    /// Whether a write may be acknowledged.
    pub(super) fn allows(&self, frees_space: bool, settings: &Settings) -> Result<(), String> {
        let Settings { verified_for, unshipped_bytes_max, .. } = *settings;
        if let Some(reason) = &*self.superseded.borrow() {
            return Err(reason.clone());
        }
        let confirmed = *self.confirmed.lock().expect("only held for a moment");
        if frees_space && confirmed.is_some_and(|moment| moment.age() <= verified_for) {
            return Ok(());
        }
        let verified = self.verified_moment();
        let ago = verified.map(|moment| moment.age());
        if ago.is_none_or(|ago| ago > verified_for) {
            self.hurry.notify_one();
            if let Some(jump) = verified.and_then(|moment| moment.jump(verified_for)) {
                return Err(format!(
                    "writes are refused for a moment: the clock of this machine jumped by {} s, or the machine slept; they \
                     go on when the backend has confirmed that this cluster still owns the repository",
                    jump.as_secs_f64().round()
                ));
            }
            return Err(format!(
                "writes are refused: the backend has not confirmed for {} that this cluster still owns the repository; \
                 they go on by themselves when the backend answers",
                ago.map_or("any time".to_owned(), |ago| format!("{} s", ago.as_secs()))
            ));
        }
        if self.unshipped_bytes.load(Ordering::Relaxed) > unshipped_bytes_max {
            return Err(format!(
                "writes are refused: more than {} MiB of the log are not archived in the backend; they go on by \
                 themselves when the backend takes them",
                unshipped_bytes_max >> 20
            ));
        }
        Ok(())
    }

    fn open_since(&self, moment: Moment) {
        *self.verified.lock().expect("only held for a moment") = Some(moment);
        *self.confirmed.lock().expect("only held for a moment") = Some(moment);
    }
}

/// Verifies the generation once.
pub(super) async fn verify(inner: &Inner) -> Result<(), Error> {
    let moment = Moment::now();
    let beaten = beat(inner).await;
    if !beaten.as_ref().err().is_none_or(Error::is_no_space) {
        return beaten;
    }
    let found = document::read(&*inner.backend).await?;
    let missing = || Error::Foreign(format!("{} is gone: the repository was emptied", names::CLUSTER));
    found.ok_or_else(missing)?.check(&inner.owner)?;
    if beaten.is_ok() {
        inner.fence.open_since(moment);
    } else {
        *inner.fence.confirmed.lock().expect("only held for a moment") = Some(moment);
    }
    beaten
}

async fn beat(inner: &Inner) -> Result<(), Error> {
    let name = names::heartbeat(inner.owner.generation);
    let identity = inner.cluster.identity();
    let beat = serde_json::json!({
        "node_id": identity.node_id,
        "boots": identity.boots,
        "revision": inner.cluster.status().revision,
        "shipped": *inner.shipped.borrow(),
        "written_ms": crate::clock::now_ms(),
    });
    let options = PutOptions { condition: Condition::Overwrite, deadline: names::soon(), ..PutOptions::default() };
    let put = inner.backend.put(&names::path(&name), Body::from(beat.to_string().into_bytes()), options).await;
    put.map(drop).map_err(names::failed("write", &name))
}

/// Verifies again and again, until told to stop or superseded.
pub(super) async fn run(inner: &Inner) {
    /// After a failure, and at most this often when writes wait.
    const RETRY: Duration = Duration::from_secs(1);
    let mut failures = 0_u32;
    loop {
        let every = if failures == 0 { inner.settings.verify_every } else { RETRY.min(inner.settings.verify_every) };
        // Whoever hurries waits for the pause after a failure all the same.
        let _ = tokio::time::timeout(every, async {
            tokio::time::sleep(RETRY.min(every)).await;
            inner.fence.hurry.notified().await;
        })
        .await;
        match verify(inner).await {
            Ok(()) => failures = 0,
            Err(Error::Foreign(reason)) => {
                tracing::error!(reason, "this node must not write any more");
                inner.supersede(reason);
                return;
            }
            Err(error) => {
                failures += 1;
                if failures == 1 {
                    tracing::warn!(
                        error = crate::backend::chain(&error),
                        "the generation could not be verified; tried again"
                    );
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fence_is_closed_until_verified_and_after_its_time() {
        let fence = Fence::new();
        let verified_for = Duration::from_millis(60);
        let settings = Settings { verified_for, unshipped_bytes_max: 1 << 20, ..Settings::default() };
        let allows = |fence: &Fence| fence.allows(false, &settings);
        assert!(allows(&fence).unwrap_err().contains("any time"));
        fence.open_since(Moment::now());
        assert_eq!(allows(&fence), Ok(()));
        fence.unshipped_bytes.store((1 << 20) + 1, Ordering::Relaxed);
        assert!(allows(&fence).unwrap_err().contains("1 MiB of the log"));
        fence.unshipped_bytes.store(0, Ordering::Relaxed);
        let slept = Moment(Instant::now(), SystemTime::now() - Duration::from_secs(3600));
        fence.open_since(slept);
        assert!(allows(&fence).unwrap_err().contains("3600 s"), "a machine that slept does not know");
        fence.open_since(Moment::now());
        *fence.verified.lock().unwrap() = None;
        assert!(allows(&fence).is_err(), "a full store took no heartbeat");
        assert_eq!(fence.allows(true, &settings), Ok(()), "deletes go on");
        fence.superseded.send_replace(Some("recovered elsewhere".into()));
        assert_eq!(allows(&fence), Err("recovered elsewhere".into()));
    }
}
