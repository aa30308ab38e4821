//! Locks of files: ranges of `fcntl`, cluster-wide, and the lock that the `vm` profile holds on each open file.
//!
//! A range lives by the session's lease. Before one is given up, everything that was written goes to the repository; when one
//! is granted, what others wrote is looked at anew. So whoever reads under a lock sees what was written under it anywhere.
//! What cannot be written yet keeps its locks: they are given back when it is through, or was refused for good.
//!
//! When the session is lost, so are its ranges: handles of those files answer `EIO` until they are closed, as the processes
//! believe that they hold what they do not. A file of which nothing is held at that moment is not touched.

mod held;
mod waiter;

use std::time::Duration;

use tokio::sync::OwnedMutexGuard;
use tokio::time::{Instant, sleep};

use self::waiter::Waiter;
use super::{Profile, Vfs};
use crate::client::Error;
use crate::error::Errno;
use crate::tree::Ino;

pub use self::held::Locked;
pub use crate::remote::{Holder, RangeLock};

/// A wait for a range is asked for again after this: the gateway may be another by then.
const WAIT_SLICE: Duration = Duration::from_secs(10);
/// How often a process that waits is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a process that is interrupted waits for its wait to be given up.
const CANCEL_MAX: Duration = Duration::from_secs(5);
/// Pause before a wait that nobody answered is asked for again.
const AGAIN_AFTER: Duration = Duration::from_millis(200);

/// A range that a process asks for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// The process, as the kernel names it.
    pub owner: u64,
    /// Its number.
    pub pid: u32,
    /// First byte.
    pub start: u64,
    /// Last byte, inclusive.
    pub end: u64,
    /// Exclusive, shared, or unlock.
    pub exclusive: Option<bool>,
}

impl Wanted {
    /// Gives up all that an owner has of a file.
    #[must_use]
    pub fn nothing(owner: u64) -> Self {
        Self { owner, pid: 0, start: 0, end: u64::MAX, exclusive: None }
    }
}

impl Vfs {
    fn range(&self, ino: Ino, wanted: Wanted, ticket: u64) -> Result<RangeLock, Errno> {
        let object = self.tree().get(ino).ok_or(Errno::ESTALE)?.node.object;
        Ok(RangeLock {
            file: format!("mount/{}/{}", self.options.bucket, object.0),
            lease: self.session.lease(),
            owner: wanted.owner,
            pid: wanted.pid,
            start: wanted.start,
            end: wanted.end,
            exclusive: wanted.exclusive,
            ticket,
        })
    }

    /// Who is in the way of a range.
    ///
    /// # Errors
    /// `EIO`.
    pub async fn test_lock(&self, ino: Ino, wanted: Wanted) -> Result<Option<Holder>, Errno> {
        let range = self.range(ino, wanted, 0)?;
        self.remote.test_range(&range, Vfs::deadline()).await.map_err(|error| error.errno())
    }

    /// Locks, converts or unlocks a range. With the number of a thread it waits as long as it takes, or until that thread has
    /// a signal.
    ///
    /// # Errors
    /// `EAGAIN`, `EDEADLK`, `ENOLCK`, `EINTR`; `EIO` when the session was lost.
    pub async fn set_lock(&self, ino: Ino, wanted: Wanted, waits: Option<u32>) -> Result<(), Errno> {
        if self.open_file(ino).is_some_and(|file| file.state().lock_lost) {
            return Err(Errno::EIO);
        }
        if wanted.exclusive.is_none() {
            return self.unlock(ino, wanted).await;
        }
        let losses = self.locked.losses();
        let (range, granted) = match waits {
            Some(thread) => self.await_range(ino, wanted, thread, losses).await?,
            None => {
                let range = self.range(ino, wanted, 0)?;
                let granted = self.remote.set_range(&range, Duration::ZERO, Vfs::deadline()).await;
                (range, granted)
            }
        };
        match granted {
            Ok(None) => {}
            Ok(Some(_)) => return Err(Errno::EAGAIN),
            Err(error) => {
                // It may be granted all the same: then it is given up with the file.
                if error.is_unknown() {
                    self.locked.granted(ino, &range, losses);
                }
                return Err(error.errno());
            }
        }
        if !self.locked.granted(ino, &range, losses) || self.session.lease() != range.lease {
            // What is left of it ends with its lease.
            return Err(Errno::EIO);
        }
        self.look_under_lock(ino).await
    }

    /// Waits for a range, and what became of the last request for it.
    async fn await_range(
        &self,
        ino: Ino,
        wanted: Wanted,
        thread: u32,
        losses: u64,
    ) -> Result<(RangeLock, Result<Option<Holder>, Error>), Errno> {
        let mut waiter = Waiter::new(wanted.pid, thread);
        let ticket = rand::random();
        loop {
            let range = self.range(ino, wanted, ticket)?;
            let deadline = Instant::now() + WAIT_SLICE + super::ASK_DEADLINE;
            let granted = tokio::select! {
                granted = self.remote.set_range(&range, WAIT_SLICE, deadline) => granted,
                errno = self.until_interrupted(&mut waiter) => {
                    let granted = self.remote.cancel_range(&range, Instant::now() + CANCEL_MAX).await;
                    if granted.as_ref().is_err_and(Error::is_unknown) {
                        self.locked.granted(ino, &range, losses);
                    }
                    // Or it was granted at the last moment.
                    return if matches!(granted, Ok(true)) { Ok((range, Ok(None))) } else { Err(errno) };
                }
            };
            match granted {
                Ok(Some(_)) => {}
                Err(error) if error.is_unknown() => sleep(AGAIN_AFTER).await,
                granted => return Ok((range, granted)),
            }
        }
    }

    /// Why a process waits no more, when that is so.
    async fn until_interrupted(&self, waiter: &mut Waiter) -> Errno {
        loop {
            if self.stopping.run_until_cancelled(sleep(LOOK_EVERY)).await.is_none() {
                return Errno::EIO;
            }
            if waiter.is_interrupted().await {
                return Errno::EINTR;
            }
        }
    }

    /// Gives a range up, after what was written under it.
    async fn unlock(&self, ino: Ino, wanted: Wanted) -> Result<(), Errno> {
        if !self.locked.holds(ino, wanted.owner, wanted.start, wanted.end) {
            return Ok(());
        }
        if self.locked.is_leaving(ino, wanted.owner) {
            return Err(Errno::EIO);
        }
        let range = self.range(ino, wanted, 0)?;
        let flushed = self.flush(ino).await;
        let unlocked = if self.is_clean(ino) { self.unlock_range(ino, &range).await } else { Err(Errno::EIO) };
        // Who closes a file does not come back for its locks.
        if unlocked.is_err() && (wanted.start, wanted.end) == (0, u64::MAX) {
            self.locked.leaves(ino, range);
        }
        flushed.and(unlocked)
    }

    async fn unlock_range(&self, ino: Ino, range: &RangeLock) -> Result<(), Errno> {
        let unlocked = self.remote.set_range(range, Duration::ZERO, Vfs::deadline()).await;
        unlocked.map_err(|error| error.errno())?;
        self.locked.unlocked(ino, range);
        Ok(())
    }

    /// Whether nothing of a file waits to be committed.
    fn is_clean(&self, ino: Ino) -> bool {
        self.open_file(ino).is_none_or(|file| file.state().is_clean())
    }

    /// What others wrote before they gave the range up is seen from now on.
    async fn look_under_lock(&self, ino: Ino) -> Result<(), Errno> {
        if self.is_alone() {
            return Ok(());
        }
        let before = self.tree().get(ino).and_then(|inode| inode.cached);
        self.refresh(ino).await?;
        let now = self.tree().get(ino).map(|inode| inode.node.clone()).ok_or(Errno::ESTALE)?;
        if let Some(file) = self.open_file(ino) {
            self.rebase(&file);
        }
        if before != Some(now.generation) {
            self.forget_content(ino).await;
            if let Some(inode) = self.tree().get_mut(ino) {
                inode.cached = Some(now.generation);
            }
        }
        Ok(())
    }

    /// The session was lost, and with it every range.
    pub(super) fn locks_are_lost(&self) {
        for ino in self.locked.lose() {
            if let Some(file) = self.open_file(ino) {
                file.state().lock_lost = true;
                tracing::error!(
                    ino,
                    "locks on an open file were lost with the session: it answers EIO until it is closed"
                );
            }
        }
    }

    /// Takes the lock on a file that the profile demands. It is not given back before what is returned is dropped: after the
    /// file counts as open.
    pub(super) async fn lock_file(&self, ino: Ino) -> Result<Option<OwnedMutexGuard<()>>, Errno> {
        if self.options.profile != Profile::Vm {
            return Ok(None);
        }
        // One after the other: a lock that is on its way back is not in the way of who opens the file again.
        let turn = self.locked.turn(ino).lock_owned().await;
        if self.session.is_held(ino) {
            return Ok(Some(turn));
        }
        let object = self.tree().get(ino).ok_or(Errno::ESTALE)?.node.object;
        let name = format!("mount/{}/{}", self.options.bucket, object.0);
        match self.remote.lock(&name, self.session.owner(), Vfs::deadline()).await {
            Ok(grant) => self.session.holds(ino, grant),
            // The lock of this mount's last life is given back when it starts; this is another's.
            Err(error) if error.is_held() => return Err(Errno::EBUSY),
            Err(error) => return Err(error.errno()),
        }
        self.remember_locks();
        Ok(Some(turn))
    }

    /// Writes down which locks are held: the next life of a mount that is killed gives them back.
    pub(super) fn remember_locks(&self) {
        if let Some(journal) = &self.journal
            && let Err(error) = journal.keep_leases(&self.session.leases())
        {
            tracing::warn!(%error, "after a crash of this mount, its locks end by themselves only");
        }
    }

    /// Gives the lock on a file up, when nobody has it open any more and all is committed. Until then it is kept and renewed:
    /// what a commit still carries goes out under it.
    pub(super) async fn unlock_file(&self, ino: Ino) {
        if !self.session.is_held(ino) {
            return;
        }
        if !self.is_clean(ino) {
            // What is not through then is looked at later.
            let _ = self.flush_all().await;
        }
        let _turn = self.locked.turn(ino).lock_owned().await;
        self.unlock_if_clean(ino).await;
    }

    /// As [`Vfs::unlock_file`], for whose turn it is, if it can be at once.
    async fn unlock_if_clean(&self, ino: Ino) {
        let open = self.tree().get(ino).is_some_and(|inode| inode.opens > 0);
        if open || !self.is_clean(ino) {
            return;
        }
        if let Some(grant) = self.session.gives_up(ino) {
            // What is not released ends by itself.
            let _ = self.remote.release(grant.lease, Vfs::deadline()).await;
            self.remember_locks();
        }
    }

    /// Gives back what was kept for files that were not committed when they were closed, and are now.
    pub(super) async fn unlock_what_is_clean(&self) {
        for ino in self.session.held_files() {
            // Somebody is at it.
            let Ok(_turn) = self.locked.turn(ino).try_lock_owned() else { continue };
            self.unlock_if_clean(ino).await;
        }
        for (ino, range) in self.locked.leaving() {
            if !self.is_clean(ino) {
                continue;
            }
            let lost = range.lease != self.session.lease();
            if let Some(range) = self.locked.take_leaving(ino, range.owner)
                && !lost
                && self.unlock_range(ino, &range).await.is_err()
            {
                self.locked.leaves(ino, range);
            }
        }
    }
}
