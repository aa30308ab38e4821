//! Locks of files: ranges of `fcntl`, cluster-wide, and the lock that the `vm` profile holds on each open file.
//!
//! A range lives by the session's lease. Before one is given up, everything that was written goes to the repository; when one
//! is granted, what others wrote is looked at anew. So whoever reads under a lock sees what was written under it anywhere.
//! When the session is lost, so are its ranges: handles of those files answer `EIO` until they are closed, as the processes
//! believe that they hold what they do not.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::{Profile, Vfs};
use crate::error::Errno;
use crate::tree::Ino;

pub use crate::remote::{Holder, RangeLock};

/// A wait for a range is asked for again after this: the gateway may be another by then.
const WAIT_SLICE: Duration = Duration::from_secs(10);

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

/// Files that have ranges locked.
#[derive(Debug, Default)]
pub struct Locked(Mutex<HashSet<Ino>>);

impl Locked {
    fn with<T>(&self, act: impl FnOnce(&mut HashSet<Ino>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
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

    /// Locks, converts or unlocks a range; `waits` as long as it takes.
    ///
    /// # Errors
    /// `EAGAIN`, `EDEADLK`, `ENOLCK`; `EIO` when the session was lost.
    pub async fn set_lock(&self, ino: Ino, wanted: Wanted, waits: bool) -> Result<(), Errno> {
        if self.open_file(ino).is_some_and(|file| file.state().lock_lost) {
            return Err(Errno::EIO);
        }
        if wanted.exclusive.is_none() {
            if !self.locked.with(|locked| locked.contains(&ino)) {
                return Ok(());
            }
            self.flush(ino).await?;
            let range = self.range(ino, wanted, 0)?;
            let unlocked = self.remote.set_range(&range, Duration::ZERO, Vfs::deadline()).await;
            return unlocked.map(drop).map_err(|error| error.errno());
        }
        let ticket = rand::random();
        loop {
            let range = self.range(ino, wanted, ticket)?;
            let wait = if waits { WAIT_SLICE } else { Duration::ZERO };
            let granted = self.remote.set_range(&range, wait, Instant::now() + WAIT_SLICE + super::ASK_DEADLINE).await;
            match granted {
                Ok(None) => break,
                Ok(Some(_)) if waits => {}
                Ok(Some(_)) => return Err(Errno::EAGAIN),
                Err(error) if waits && error.is_unknown() => {}
                Err(error) => return Err(error.errno()),
            }
        }
        self.locked.with(|locked| locked.insert(ino));
        self.look_under_lock(ino).await
    }

    /// What others wrote before they gave the range up is seen from now on.
    async fn look_under_lock(&self, ino: Ino) -> Result<(), Errno> {
        if self.is_alone() {
            return Ok(());
        }
        let before = self.tree().get(ino).and_then(|inode| inode.cached);
        self.refresh(ino).await?;
        let known = self.tree().get(ino).map(|inode| (inode.node.clone(), inode.as_of));
        let (now, as_of) = known.ok_or(Errno::ESTALE)?;
        if let Some(file) = self.open_file(ino) {
            let mut state = file.state();
            if state.is_clean() && state.generation != now.generation {
                state.rebase(&now, as_of);
            }
        }
        if before != Some(now.generation) {
            if let Some(kernel) = self.kernel.get() {
                let kernel = Arc::clone(kernel);
                // Not in this thread: the kernel may need it to answer.
                let forgotten = tokio::task::spawn_blocking(move || kernel.forget_content_now(ino));
                let _ = tokio::time::timeout(Duration::from_secs(5), forgotten).await;
            }
            if let Some(inode) = self.tree().get_mut(ino) {
                inode.cached = Some(now.generation);
            }
        }
        Ok(())
    }

    /// The session was lost, and with it every range.
    pub(super) fn locks_are_lost(&self) {
        for ino in self.locked.with(std::mem::take) {
            if let Some(file) = self.open_file(ino) {
                file.state().lock_lost = true;
                tracing::error!(
                    ino,
                    "locks on an open file were lost with the session: it answers EIO until it is closed"
                );
            }
        }
    }

    /// Takes the lock on a file that the profile demands.
    pub(super) async fn lock_file(&self, ino: Ino) -> Result<(), Errno> {
        if self.options.profile != Profile::Vm {
            return Ok(());
        }
        // One after the other: a lock that is on its way back is not in the way of who opens the file again.
        let _turn = self.file_locks.lock().await;
        if self.session.is_held(ino) {
            return Ok(());
        }
        let object = self.tree().get(ino).ok_or(Errno::ESTALE)?.node.object;
        let name = format!("mount/{}/{}", self.options.bucket, object.0);
        match self.remote.lock(&name, self.session.owner(), Vfs::deadline()).await {
            Ok(grant) => self.session.holds(ino, grant),
            Err(error) if error.is_held() => return Err(Errno::EBUSY),
            Err(error) => return Err(error.errno()),
        }
        Ok(())
    }

    /// Gives the lock on a file up, when nobody has it open any more and all is committed.
    pub(super) async fn unlock_file(&self, ino: Ino) {
        self.locked.with(|locked| locked.remove(&ino));
        let _turn = self.file_locks.lock().await;
        if !self.session.is_held(ino) {
            return;
        }
        if self.open_file(ino).is_some_and(|file| !file.state().is_clean()) {
            let _ = self.flush_all().await;
        }
        if self.tree().get(ino).is_some_and(|inode| inode.opens > 0) {
            return;
        }
        if let Some(grant) = self.session.gives_up(ino) {
            // What is not released ends by itself.
            let _ = self.remote.release(grant.lease, Vfs::deadline()).await;
        }
    }
}
