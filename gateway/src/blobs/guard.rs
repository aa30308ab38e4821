//! What must not be collected now: blobs that reads may need, and blobs that are being brought in.
//!
//! A reader holds the revision of the state it read. A blob condemned at revision R is in no state from R on, so its
//! bytes may go once no reader older than R lives. [`Readers::clear_below`] decides and, by the same mutex, bars readers
//! of older states that come later; those look again, at the state of now.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_core::id::{BlobId, Revision};
use tokio::time::Instant;

/// How long a read may hold blobs back. A slower one ends with an error when its blobs go.
pub const READER_AGE_MAX: Duration = Duration::from_secs(6 * 60 * 60);

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each section leaves the value whole, so a panic elsewhere does no harm.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The reads that are running on this node.
#[derive(Clone, Debug, Default)]
pub struct Readers(Arc<Mutex<ReadersState>>);

#[derive(Debug, Default)]
struct ReadersState {
    alive: BTreeMap<(Revision, u64), Instant>,
    next: u64,
    /// Blobs condemned at or below may be gone.
    floor: Revision,
}

/// Holds back the deletion of blobs that the state of a revision names.
#[derive(Debug)]
pub struct ReadGuard {
    readers: Readers,
    key: (Revision, u64),
}

impl Readers {
    /// A read of the state at `revision` begins; `None` when blobs of that state may be gone already.
    #[must_use]
    pub fn enter(&self, revision: Revision) -> Option<ReadGuard> {
        let mut state = locked(&self.0);
        if revision < state.floor { None } else { Some(self.insert(&mut state, revision)) }
    }

    /// A read of any state that is taken after this call begins.
    #[must_use]
    pub fn enter_next(&self) -> ReadGuard {
        let mut state = locked(&self.0);
        let floor = state.floor;
        self.insert(&mut state, floor)
    }

    fn insert(&self, state: &mut ReadersState, revision: Revision) -> ReadGuard {
        let key = (revision, state.next);
        state.next += 1;
        state.alive.insert(key, Instant::now());
        ReadGuard { readers: self.clone(), key }
    }

    /// Whether blobs condemned at `revision` may be deleted; from then on no older read begins. `revision` is one that
    /// this node has applied.
    #[must_use]
    pub fn clear_below(&self, revision: Revision) -> bool {
        self.clear_below_at(revision, Instant::now())
    }

    fn clear_below_at(&self, revision: Revision, now: Instant) -> bool {
        let mut state = locked(&self.0);
        let held =
            state.alive.range(..(revision, 0)).any(|(_, since)| now.saturating_duration_since(*since) < READER_AGE_MAX);
        if !held {
            state.floor = state.floor.max(revision);
        }
        !held
    }

    /// Reads that are running.
    #[must_use]
    pub fn count(&self) -> usize {
        locked(&self.0).alive.len()
    }
}

impl ReadGuard {
    /// Blobs condemned after this are held back.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.key.0
    }
}

impl Drop for ReadGuard {
    fn drop(&mut self) {
        locked(&self.readers.0).alive.remove(&self.key);
    }
}

/// The blobs that are being brought in by this node.
#[derive(Clone, Debug, Default)]
pub struct InFlight(Arc<Mutex<BTreeSet<BlobId>>>);

/// Keeps the orphan sweep of this node from a blob.
#[derive(Debug)]
pub struct InFlightGuard {
    all: InFlight,
    blob: BlobId,
}

impl InFlight {
    /// A blob is being brought in from now on.
    #[must_use]
    pub fn enter(&self, blob: BlobId) -> InFlightGuard {
        locked(&self.0).insert(blob);
        InFlightGuard { all: self.clone(), blob }
    }

    /// Whether a blob is being brought in.
    #[must_use]
    pub fn contains(&self, blob: BlobId) -> bool {
        locked(&self.0).contains(&blob)
    }

    /// Blobs that are being brought in.
    #[must_use]
    pub fn count(&self) -> usize {
        locked(&self.0).len()
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        locked(&self.all.0).remove(&self.blob);
    }
}

/// Whether clients move bytes through the backend.
#[derive(Clone, Debug)]
pub struct Busy(Arc<BusyState>);

#[derive(Debug)]
struct BusyState {
    start: Instant,
    active: AtomicU64,
    /// Milliseconds after `start` when the last one ended.
    last_ms: AtomicU64,
}

/// A transfer of a client.
#[derive(Debug)]
pub struct BusyGuard(Arc<BusyState>);

impl Default for Busy {
    fn default() -> Self {
        Self(Arc::new(BusyState { start: Instant::now(), active: AtomicU64::new(0), last_ms: AtomicU64::new(0) }))
    }
}

impl Busy {
    /// A transfer begins.
    #[must_use]
    pub fn enter(&self) -> BusyGuard {
        self.0.active.fetch_add(1, Ordering::Relaxed);
        BusyGuard(Arc::clone(&self.0))
    }

    /// How long there has been none; `None` while there is one.
    #[must_use]
    pub fn quiet_for(&self) -> Option<Duration> {
        if self.0.active.load(Ordering::Relaxed) > 0 {
            return None;
        }
        let last = Duration::from_millis(self.0.last_ms.load(Ordering::Relaxed));
        Some(self.0.start.elapsed().saturating_sub(last))
    }
}

impl Drop for BusyGuard {
    fn drop(&mut self) {
        let ms = u64::try_from(self.0.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.last_ms.store(ms, Ordering::Relaxed);
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_holds_back_what_was_condemned_after_its_state() {
        let readers = Readers::default();
        let old = readers.enter(5).unwrap();
        assert!(readers.clear_below(5), "a state from 5 on does not name it");
        assert!(!readers.clear_below(6));
        let young = readers.enter(9).unwrap();
        drop(old);
        assert!(readers.clear_below(9));
        assert!(!readers.clear_below(10));
        drop(young);
        assert!(readers.clear_below(10));
        assert_eq!(readers.count(), 0);
    }

    #[test]
    fn a_reader_of_a_state_whose_blobs_went_is_told() {
        let readers = Readers::default();
        assert!(readers.clear_below(7));
        assert!(readers.enter(6).is_none());
        assert!(readers.enter(7).is_some());
        let guard = readers.enter_next();
        assert!(readers.clear_below(7));
        assert!(!readers.clear_below(8));
        drop(guard);
    }

    #[test]
    fn a_reader_that_never_ends_does_not_hold_back_for_ever() {
        let readers = Readers::default();
        let _stuck = readers.enter(1).unwrap();
        assert!(!readers.clear_below(2));
        assert!(readers.clear_below_at(2, Instant::now() + READER_AGE_MAX));
    }

    #[test]
    fn uploads_are_known_while_they_run() {
        let in_flight = InFlight::default();
        let guard = in_flight.enter(BlobId([1; 16]));
        assert!(in_flight.contains(BlobId([1; 16])) && !in_flight.contains(BlobId([2; 16])));
        drop(guard);
        assert_eq!(in_flight.count(), 0);
    }

    #[test]
    fn it_is_quiet_when_no_transfer_runs() {
        let busy = Busy::default();
        let (one, two) = (busy.enter(), busy.enter());
        drop(one);
        assert_eq!(busy.quiet_for(), None);
        drop(two);
        let before = busy.quiet_for().unwrap();
        std::thread::sleep(Duration::from_millis(20));
        assert!(busy.quiet_for().unwrap() >= before + Duration::from_millis(19));
    }
}
