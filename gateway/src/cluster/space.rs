//! What may enter: bounds on proposals in flight and on the disk.
//!
//! openraft takes any storage error as the end of the node, and so does the store. So a proposal is let in only when the
//! log has allocated room for it and the disk has room for what the store makes of it:
//!
//! | disk | proposals |
//! | --- | --- |
//! | normal: at least [`LOW_WATER_BYTES`] free and the balloon in place | all |
//! | low | only those that free space; they may use the log's reserve segment and, when less than [`WORK_BYTES`] is free, the [`BALLOON_BYTES`] of the balloon, which is removed for them |
//! | exhausted: the balloon is gone and less than [`WORK_BYTES`] is free | none |
//!
//! A thread looks every [`PROBE`]; when space returns it restores the balloon and the reserve, and work goes on without a
//! restart. Others may fill the disk between two looks: so an admission whose last glance is older than [`GLANCE`] takes
//! one, and the state machine waits in [`Space::await_store_room`] rather than let the store run into a full disk.
//! Reads are never refused. A data file system must hold about 200 MiB beside the state, or it is never "normal".

use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use openraft::EntryPayload;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use super::error::Error;
use super::log::files::LogFiles;
use super::log::{Log, Room};
use super::raft::Entry;
use super::threads::Threads;

/// Most bytes of proposals in flight. More wait for their deadline.
pub const IN_FLIGHT_BYTES_MAX: usize = 64 << 20;
/// Below this many free bytes only what frees space goes on.
pub const LOW_WATER_BYTES: u64 = 64 << 20;
/// With less than this free the balloon is given up.
pub const WORK_BYTES: u64 = 16 << 20;
/// Size of the balloon.
pub const BALLOON_BYTES: u64 = 64 << 20;
/// Most bytes of log. Above it proposals wait until a snapshot has let the log go.
pub const LOG_BYTES_MAX: u64 = 1 << 30;
/// How often the disk is looked at.
pub const PROBE: Duration = Duration::from_millis(500);
/// Longest time that admissions rely on a look.
const GLANCE: Duration = Duration::from_millis(2);
/// What must be free for the store beside what it is about to write: journal and index blocks, a little of others' writes.
const STORE_ROOM_BYTES: u64 = 2 << 20;
/// The store writes a batch to its journal, and its buffers keep as much until they are flushed.
const STORE_WRITE_FACTOR: u64 = 2;
/// How often a waiting state machine looks again.
const STORE_RETRY: Duration = Duration::from_millis(20);
/// What an entry takes in the log beside its command.
const ENTRY_OVERHEAD_BYTES: u64 = 128;
pub(super) const BALLOON: &str = "balloon";

const NORMAL: u8 = 0;
const LOW: u8 = 1;
const EXHAUSTED: u8 = 2;

/// What a proposal holds until it is done.
pub(super) struct Held {
    space: Arc<Space>,
    bytes: u64,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.space.reserved.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

/// Admission control.
pub(super) struct Space {
    log: Log,
    dir: PathBuf,
    files: Arc<dyn LogFiles>,
    in_flight: Arc<Semaphore>,
    /// Log bytes promised to proposals in flight.
    reserved: AtomicU64,
    mode: AtomicU8,
    free_bytes: AtomicU64,
    log_bytes: AtomicU64,
    /// When the disk was last looked at, in microseconds since `started`.
    looked_us: AtomicU64,
    started: Instant,
    /// Wakes those who wait for room in the log.
    changed: Notify,
    probe: Mutex<ProbeState>,
    wake: Condvar,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// There is no thread: whoever asks looks.
    inline: bool,
}

#[derive(Default)]
struct ProbeState {
    asked: bool,
    closing: bool,
}

impl Space {
    /// Starts the probe. The first look has been taken when this returns.
    pub(super) fn start(
        log: Log,
        dir: PathBuf,
        files: Arc<dyn LogFiles>,
        threads: &Threads,
    ) -> Result<Arc<Self>, Error> {
        let space = Arc::new(Self {
            log,
            dir,
            files,
            in_flight: Arc::new(Semaphore::new(IN_FLIGHT_BYTES_MAX)),
            reserved: AtomicU64::new(0),
            mode: AtomicU8::new(NORMAL),
            free_bytes: AtomicU64::new(0),
            log_bytes: AtomicU64::new(0),
            looked_us: AtomicU64::new(0),
            started: Instant::now(),
            changed: Notify::new(),
            probe: Mutex::new(ProbeState::default()),
            wake: Condvar::new(),
            thread: Mutex::new(None),
            inline: matches!(threads, Threads::Caller(_)),
        });
        space.look();
        if space.inline {
            return Ok(space);
        }
        let own = space.clone();
        let thread = std::thread::Builder::new().name("holdfast-space".into()).spawn(move || own.run());
        let thread = thread.map_err(|source| Error::io("start the probe of", &space.dir, source))?;
        *space.thread.lock().expect("only held for a moment") = Some(thread);
        Ok(space)
    }

    /// Ends the probe. Blocks for at most one look.
    pub(super) fn close(&self) {
        self.probe.lock().expect("only held for a moment").closing = true;
        self.wake.notify_all();
        let thread = self.thread.lock().expect("only held for a moment").take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the probe of the disk panicked");
        }
    }

    /// Whether the disk is too full for normal work, and the bytes that were free when last looked at.
    pub(super) fn disk(&self) -> (bool, u64) {
        (self.mode.load(Ordering::Acquire) != NORMAL, self.free_bytes.load(Ordering::Acquire))
    }

    /// Bytes of commands in flight.
    pub(super) fn in_flight_bytes(&self) -> usize {
        IN_FLIGHT_BYTES_MAX - self.in_flight.available_permits()
    }

    /// Lets a proposal of `bytes` in, or says why not.
    ///
    /// Cancel safe: nothing is held until it returns.
    pub(super) async fn admit(self: &Arc<Self>, bytes: usize, frees: bool, deadline: Instant) -> Result<Held, Error> {
        self.glance();
        self.check_mode(frees)?;
        let permits = u32::try_from(bytes.clamp(1, IN_FLIGHT_BYTES_MAX)).expect("the bound fits");
        let permit = match self.in_flight.clone().try_acquire_many_owned(permits) {
            Ok(permit) => permit,
            Err(_) => timeout_at(deadline, self.in_flight.clone().acquire_many_owned(permits))
                .await
                .map_err(|_| Error::Busy)?
                .expect("the semaphore is never closed"),
        };
        let bytes = bytes as u64 + ENTRY_OVERHEAD_BYTES;
        loop {
            let changed = self.changed.notified();
            self.check_mode(frees)?;
            if self.reserve(bytes, frees) {
                break;
            }
            self.ask();
            if timeout_at(deadline, changed).await.is_err() {
                return Err(self.refusal());
            }
        }
        let low = self.log.room().common < self.log.config().segment_bytes / 2;
        if low {
            self.ask();
        }
        Ok(Held { space: self.clone(), bytes, _permit: permit })
    }

    /// Notices that the disk has filled up since the last look.
    fn glance(&self) {
        let now = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        let last = self.looked_us.load(Ordering::Relaxed);
        let due = Duration::from_micros(now.saturating_sub(last)) > GLANCE;
        if !due || self.looked_us.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            return;
        }
        let free = self.free();
        if free < LOW_WATER_BYTES && self.mode.load(Ordering::Acquire) == NORMAL {
            self.free_bytes.store(free, Ordering::Release);
            self.mode.store(LOW, Ordering::Release);
            self.ask();
        }
    }

    /// Blocks until the store can write `bytes`; false when the node is closing. The store takes a full disk as its end,
    /// and what waits here is in the log already, so nothing is lost by waiting.
    pub(super) fn await_store_room(&self, bytes: u64) -> bool {
        let need = STORE_ROOM_BYTES + STORE_WRITE_FACTOR * bytes;
        while self.free() < need {
            if self.probe.lock().expect("only held for a moment").closing {
                return false;
            }
            // It gives up the balloon.
            self.ask();
            std::thread::sleep(STORE_RETRY);
        }
        true
    }

    /// Whether this node, which follows, takes entries. On a full disk it takes only what frees space: the others are a
    /// majority without it, and what was not taken is sent again.
    pub(super) fn check_entries(&self, entries: &[Entry]) -> Result<(), Error> {
        let frees = entries.iter().all(|entry| match &entry.payload {
            EntryPayload::Normal(proposal) => proposal.command.frees_space(),
            EntryPayload::Blank | EntryPayload::Membership(_) => true,
        });
        if entries.is_empty() || frees {
            return Ok(());
        }
        self.glance();
        self.check_mode(false)
    }

    fn check_mode(&self, frees: bool) -> Result<(), Error> {
        match self.mode.load(Ordering::Acquire) {
            NORMAL => Ok(()),
            LOW if frees => Ok(()),
            _ => Err(Error::NoSpace { free_bytes: self.free_bytes.load(Ordering::Acquire) }),
        }
    }

    fn refusal(&self) -> Error {
        self.check_mode(false).err().unwrap_or(Error::Busy)
    }

    fn reserve(&self, bytes: u64, frees: bool) -> bool {
        if !frees && self.log_bytes.load(Ordering::Acquire) > LOG_BYTES_MAX {
            return false;
        }
        let Room { common, with_reserve } = self.log.room();
        let room = if frees { with_reserve } else { common };
        let take = |reserved: u64| (reserved + bytes <= room).then_some(reserved + bytes);
        self.reserved.fetch_update(Ordering::AcqRel, Ordering::Acquire, take).is_ok()
    }

    /// Has the probe look now.
    pub(super) fn ask(&self) {
        if self.inline {
            return self.look();
        }
        self.probe.lock().expect("only held for a moment").asked = true;
        self.wake.notify_all();
    }

    fn run(&self) {
        loop {
            {
                let state = self.probe.lock().expect("only held for a moment");
                let waiting = self.wake.wait_timeout_while(state, PROBE, |state| !state.asked && !state.closing);
                let (mut state, _) = waiting.expect("only held for a moment");
                if state.closing {
                    return;
                }
                state.asked = false;
            }
            self.look();
        }
    }

    /// Looks at the disk, restores what is missing and decides what may enter.
    fn look(&self) {
        let balloon = self.dir.join(BALLOON);
        let mut free = self.free();
        let mut inflated = balloon.exists();
        if free < WORK_BYTES && inflated && self.files.remove(&balloon).is_ok() {
            tracing::warn!(free_bytes = free, "the disk is full: the balloon was given up so that deletes can go on");
            (inflated, free) = (false, self.free());
        } else if !inflated && free >= LOW_WATER_BYTES + BALLOON_BYTES {
            inflated = self.files.create(&balloon, BALLOON_BYTES).is_ok();
            free = self.free();
        }
        let roomy = inflated && free >= LOW_WATER_BYTES + self.log.config().segment_bytes;
        let full = self.log.refill(roomy).unwrap_or_else(|error| {
            tracing::error!(%error, "cannot allocate for the log");
            true
        });
        let mode = match free {
            _ if inflated && free >= LOW_WATER_BYTES && !(full && roomy) => NORMAL,
            WORK_BYTES.. => LOW,
            _ => EXHAUSTED,
        };
        self.free_bytes.store(free, Ordering::Release);
        self.log_bytes.store(self.log.stats().bytes, Ordering::Release);
        let before = self.mode.swap(mode, Ordering::AcqRel);
        match (before == NORMAL, mode == NORMAL) {
            (true, false) => tracing::warn!(free_bytes = free, "the disk is full: only what frees space is accepted"),
            (false, true) => tracing::info!(free_bytes = free, "the disk has space again"),
            _ => {}
        }
        self.changed.notify_waiters();
    }

    fn free(&self) -> u64 {
        self.files.free_bytes(&self.dir).unwrap_or_else(|error| {
            tracing::error!(%error, dir = %self.dir.display(), "cannot tell the free space");
            self.free_bytes.load(Ordering::Acquire)
        })
    }
}
