//! The session: the lease that commits live by, and what keeps it.
//!
//! ```text
//! renew        the session's lease, every 5 s, each time with 5 s to succeed: 10 s of silence are survived
//! renew_locks  the leases of locks, as often
//! recover      opens the session again when it has ended and no commit does
//! cut, give_back   versions of what is open for long; locks of what is closed and clean
//! follow ─▶ hear   the feed of changes (session/feed.rs)
//! ```
//! Each is a task of its own: none waits for another, and all end with the mount.
//!
//! When the lease ends all the same, the session is opened again: locks are lost, and what was written and not committed is
//! only written to files that are still what they were. A commit that finds it ended does that, as it knows what it carries;
//! without one it is done here.

mod feed;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, StreamExt as _};
use holdfast_core::command::Fence;
use holdfast_core::id::Revision;
use holdfast_core::mount::{Answer, Call, MountId, Open, PROTOCOL};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::Vfs;
use crate::client::Error;
use crate::remote::{Grant, OWNER_BYTES_MAX, Remote};
use crate::tree::{Ino, ROOT};

pub use self::feed::KERNEL_TTL;
pub(super) use self::feed::{Flight, Flying};

/// How long the session lives without renewal.
const LEASE: Duration = Duration::from_secs(15);
/// How often it is renewed, and how long that may take.
const RENEW_EVERY: Duration = Duration::from_secs(5);
/// Leases of locks that are renewed at a time.
const RENEWALS_AT_ONCE: usize = 6;
/// How often versions and locks are looked at.
const TIDY_EVERY: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Debug)]
pub struct Session {
    lease: AtomicU64,
    applied: AtomicU64,
    revision: Option<Revision>,
    versioned: AtomicBool,
    owner: String,
    /// Locks that are renewed with the session: of the prefix, and of files by their inode.
    grants: Mutex<HashMap<Ino, Grant>>,
    /// Held by whoever opens the session again.
    opening: tokio::sync::Mutex<()>,
    /// Told when there is a new lease: it is renewed at once.
    opened: Notify,
    /// The last lease that was found to have ended.
    ended: watch::Sender<Revision>,
    feed: feed::Connection,
}

impl Session {
    /// Opens a session.
    ///
    /// # Errors
    /// [`Error`]; [`Error::TooOld`] from a gateway that does not speak the protocol.
    pub async fn open(remote: &dyn Remote, client: MountId, owner: String) -> Result<Self, Error> {
        let owner = presentable(&owner);
        let opened = ask(remote, client, &owner).await?;
        Ok(Self {
            lease: AtomicU64::new(opened.lease),
            applied: AtomicU64::new(opened.applied),
            revision: opened.revision,
            versioned: AtomicBool::new(opened.versioned),
            owner,
            grants: Mutex::default(),
            opening: tokio::sync::Mutex::default(),
            opened: Notify::new(),
            ended: watch::Sender::new(0),
            feed: feed::Connection::default(),
        })
    }

    /// Opens it again, for whose turn it is.
    async fn open_anew(&self, remote: &dyn Remote, client: MountId) -> Result<(), Error> {
        let opened = ask(remote, client, &self.owner).await?;
        self.applied.store(opened.applied, Ordering::Release);
        self.lease.store(opened.lease, Ordering::Release);
        self.versioned.store(opened.versioned, Ordering::Release);
        self.opened.notify_one();
        Ok(())
    }

    /// Its lease.
    #[must_use]
    pub fn lease(&self) -> Revision {
        self.lease.load(Ordering::Acquire)
    }

    /// Number of the last commit that was applied when it was opened last.
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.applied.load(Ordering::Acquire)
    }

    /// Revision of the last commit that an earlier life of the client had applied.
    #[must_use]
    pub fn last_revision(&self) -> Option<Revision> {
        self.revision
    }

    /// Whether the bucket was ever versioned.
    #[must_use]
    pub fn is_versioned(&self) -> bool {
        self.versioned.load(Ordering::Acquire)
    }

    /// Who mounts, in words.
    #[must_use]
    pub fn owner(&self) -> &str {
        &self.owner
    }

    fn grants(&self) -> MutexGuard<'_, HashMap<Ino, Grant>> {
        self.grants.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a commit that writes these files is fenced by: their locks, and that of the prefix.
    pub fn fences(&self, inos: impl Iterator<Item = Ino>) -> Vec<Fence> {
        let grants = self.grants();
        let inos: BTreeSet<Ino> = inos.chain([ROOT]).collect();
        inos.iter().filter_map(|ino| grants.get(ino)).map(|grant| grant.fence.clone()).collect()
    }

    /// The locks of inodes, of those that have one.
    pub(super) fn granted(&self, inos: impl Iterator<Item = Ino>) -> Vec<(Ino, Grant)> {
        let grants = self.grants();
        let inos: BTreeSet<Ino> = inos.collect();
        inos.into_iter().filter_map(|ino| Some((ino, grants.get(&ino)?.clone()))).collect()
    }

    /// A lock was taken for an inode: commits are fenced by it from now on.
    pub(super) fn holds(&self, ino: Ino, grant: Grant) {
        self.grants().insert(ino, grant);
    }

    /// Whether a lock is held for an inode.
    pub(super) fn is_held(&self, ino: Ino) -> bool {
        self.grants().contains_key(&ino)
    }

    /// The lock of an inode is given up.
    pub(super) fn gives_up(&self, ino: Ino) -> Option<Grant> {
        self.grants().remove(&ino)
    }

    /// Files whose locks are held.
    pub(super) fn held_files(&self) -> Vec<Ino> {
        self.grants().keys().copied().filter(|ino| *ino != ROOT).collect()
    }

    pub(super) fn leases(&self) -> Vec<Revision> {
        self.grants().values().map(|grant| grant.lease).collect()
    }

    /// The inode whose lock is held by a lease. One that is on its way back is not.
    fn held_by(&self, lease: Revision) -> Option<Ino> {
        self.grants().iter().find(|(_, grant)| grant.lease == lease).map(|(ino, _)| *ino)
    }

    /// Gives everything up.
    pub async fn close(&self, remote: &dyn Remote, deadline: Instant) {
        for lease in self.leases().into_iter().chain([self.lease()]) {
            // What is not released ends by itself.
            let _ = remote.release(lease, deadline).await;
        }
    }
}

/// Who mounts, as the owner of a lease may be named.
fn presentable(owner: &str) -> String {
    let plain: String = owner.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    plain[..plain.floor_char_boundary(OWNER_BYTES_MAX)].to_owned()
}

async fn ask(remote: &dyn Remote, client: MountId, owner: &str) -> Result<holdfast_core::mount::Opened, Error> {
    let ttl_ms = LEASE.as_millis() as u64;
    let open = Open { protocol: PROTOCOL, client, owner: owner.to_owned(), ttl_ms };
    let told = remote.call(&Call::Open(open), Bytes::new(), &[], Vfs::deadline()).await?;
    match told.answer {
        Answer::Opened(opened) => Ok(opened),
        _ => Err(Error::unexpected()),
    }
}

impl Vfs {
    /// Keeps the session and follows the feed until the mount ends.
    pub(super) async fn keep_session(self: Arc<Self>) {
        let (tell, heard) = mpsc::channel(feed::NEWS_MAX);
        let mut tasks = JoinSet::new();
        let own = || Arc::clone(&self);
        let vfs = own();
        tasks.spawn(async move { vfs.follow(tell).await });
        let vfs = own();
        tasks.spawn(async move { vfs.hear(heard).await });
        let vfs = own();
        tasks.spawn(async move { vfs.renew().await });
        let vfs = own();
        tasks.spawn(async move { vfs.renew_locks().await });
        let vfs = own();
        tasks.spawn(async move { vfs.recover().await });
        let vfs = own();
        tasks.spawn(async move { vfs.cut().await });
        let vfs = own();
        tasks.spawn(async move { vfs.give_back().await });
        // None of them ends by itself; all end with this one.
        while let Some(Some(ended)) = self.stopping.run_until_cancelled(tasks.join_next()).await {
            tracing::error!(?ended, "a task of the session has ended: mount again");
            self.set_live(false);
        }
    }

    /// Renews the session's lease. What failed is tried again at once, so that each attempt has a whole interval.
    async fn renew(&self) {
        let mut next = Instant::now() + RENEW_EVERY;
        loop {
            tokio::select! {
                () = sleep_until(next) => {}
                () = self.session.opened.notified() => {}
            }
            next = Instant::now() + RENEW_EVERY;
            let lease = self.session.lease();
            match self.remote.renew(lease, next).await {
                Ok(()) => {}
                Err(error) if error.is_session_lost() => {
                    tracing::warn!(%error, "the session of the mount has ended");
                    self.session.ended.send_replace(lease);
                }
                Err(error) => tracing::warn!(%error, "the session could not be renewed"),
            }
        }
    }

    async fn renew_locks(&self) {
        let mut next = Instant::now() + RENEW_EVERY;
        loop {
            sleep_until(next).await;
            next = Instant::now() + RENEW_EVERY;
            let leases = self.session.leases();
            stream::iter(leases).for_each_concurrent(RENEWALS_AT_ONCE, |lease| self.renew_lock(lease)).await;
        }
    }

    async fn renew_lock(&self, lease: Revision) {
        match self.remote.renew(lease, Instant::now() + RENEW_EVERY).await {
            Ok(()) => {}
            Err(error) if error.is_session_lost() => match self.session.held_by(lease) {
                // It was given back meanwhile.
                None => {}
                Some(ROOT) => {
                    self.fenced.store(true, Ordering::Release);
                    tracing::error!(%error, "the lock that this mount holds has ended: it changes nothing any more; mount again");
                }
                // It stays in the commits of the file, which are refused by it.
                Some(ino) => {
                    if let Some(file) = self.open_file(ino) {
                        file.state().lock_lost = true;
                    }
                    tracing::error!(%error, ino, "the lock on an open file has ended: it answers EIO until it is closed");
                }
            },
            Err(error) => tracing::debug!(%error, "a lock could not be renewed"),
        }
    }

    /// Opens the session again when it has ended and nothing is committed.
    async fn recover(&self) {
        let mut ended = self.session.ended.subscribe();
        while ended.changed().await.is_ok() {
            let lost = *ended.borrow_and_update();
            if lost != self.session.lease() {
                continue;
            }
            // A commit that is refused opens it again, and knows what to do with what it carries. Where that is not through
            // yet, the next renewal finds the session ended once more.
            let _ = self.flush_all().await;
            if self.stream.flight.is_busy() || self.unsynced().0 > 0 {
                continue;
            }
            if let Err(error) = self.open_again(lost).await {
                tracing::error!(%error, "the session could not be opened again");
            }
        }
    }

    /// Opens the session again in place of a lease of it, unless somebody has by now; the number of the last commit that was
    /// applied. Its locks are lost, and what is written here by now goes only to what files still are.
    pub(super) async fn open_again(&self, lost: Revision) -> Result<u64, Error> {
        let _turn = self.session.opening.lock().await;
        if self.session.lease() == lost {
            // Before there is a new lease: whoever has asked for a range meanwhile sees that it is lost.
            self.guard_files();
            self.locks_are_lost();
            self.session.open_anew(&*self.remote, self.client).await?;
            // What was staged went with the session.
            self.stream.unstage();
            self.counters.sessions_lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(self.session.applied())
    }

    async fn cut(&self) {
        loop {
            sleep(TIDY_EVERY).await;
            self.cut_versions().await;
        }
    }

    async fn give_back(&self) {
        loop {
            sleep(TIDY_EVERY).await;
            self.unlock_what_is_clean().await;
        }
    }

    /// Whether nobody else changes what is under the prefix.
    pub(super) fn is_alone(&self) -> bool {
        self.options.profile == super::Profile::Exclusive
    }

    /// How long the kernel may keep what it is told.
    #[must_use]
    pub fn ttl(&self) -> Duration {
        if self.is_alone() {
            return Duration::from_secs(60);
        }
        if self.trusts_tree() { KERNEL_TTL } else { Duration::ZERO }
    }
}
