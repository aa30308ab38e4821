//! The session: the lease that commits live by, and the feed that says what others changed.
//!
//! The lease is renewed three times as often as it must be. When it ends all the same, the session is opened again: locks are
//! lost, and what was written and not committed is only written to files that are still what they were.
//!
//! The feed is *live* while a mark or change came within [`SILENCE_MAX`]. While it is, the tree answers; the kernel itself
//! keeps an attribute for [`super::session::KERNEL_TTL`] at most. So within a second after the feed is lost nobody is told
//! anything that was not asked for.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use holdfast_core::command::Fence;
use holdfast_core::id::Revision;
use holdfast_core::mount::{Answer, Call, MountId, Open, PROTOCOL};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::Vfs;
use crate::client::Error;
use crate::names;
use crate::remote::{Grant, News, Remote};
use crate::tree::{Ino, ROOT};

/// How long the session lives without renewal.
const LEASE: Duration = Duration::from_secs(15);
/// How often it is renewed.
const RENEW_EVERY: Duration = Duration::from_secs(5);
/// How often the feed says that it lives.
const MARK_EVERY: Duration = Duration::from_millis(250);
/// A feed that is silent for so long is lost.
const SILENCE_MAX: Duration = Duration::from_millis(800);
/// How long the kernel keeps names and attributes while the feed is live; the tree answers it then.
pub const KERNEL_TTL: Duration = Duration::from_millis(200);
/// Pause before the feed is followed again.
const AGAIN_AFTER: Duration = Duration::from_millis(200);
/// News that wait to be looked at.
const NEWS_MAX: usize = 4_096;
/// How long news wait for an own commit whose revision is not known yet.
const OWN_WAIT: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Debug)]
pub struct Session {
    lease: AtomicU64,
    applied: u64,
    versioned: AtomicBool,
    owner: String,
    /// Locks that are renewed with the session: of the prefix, and of files by their inode.
    grants: Mutex<HashMap<Ino, Grant>>,
}

impl Session {
    /// Opens a session.
    ///
    /// # Errors
    /// [`Error`]; [`Error::TooOld`] from a gateway that does not speak the protocol.
    pub async fn open(remote: &dyn Remote, client: MountId, owner: String) -> Result<Self, Error> {
        let opened = ask(remote, client, &owner).await?;
        Ok(Self {
            lease: AtomicU64::new(opened.lease),
            applied: opened.applied,
            versioned: AtomicBool::new(opened.versioned),
            owner,
            grants: Mutex::default(),
        })
    }

    /// Opens it again after its lease ended.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn reopen(&self, remote: &dyn Remote, client: MountId) -> Result<(), Error> {
        let opened = ask(remote, client, &self.owner).await?;
        self.lease.store(opened.lease, Ordering::Release);
        self.versioned.store(opened.versioned, Ordering::Release);
        Ok(())
    }

    /// Its lease.
    #[must_use]
    pub fn lease(&self) -> Revision {
        self.lease.load(Ordering::Acquire)
    }

    /// Number of the last commit that was applied when it was opened.
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.applied
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

    /// What a commit that writes these files is fenced by: their locks, and that of the prefix.
    pub fn fences(&self, inos: impl Iterator<Item = Ino>) -> Vec<Fence> {
        let grants = self.grants.lock().unwrap_or_else(PoisonError::into_inner);
        let inos: BTreeSet<Ino> = inos.chain([ROOT]).collect();
        inos.iter().filter_map(|ino| grants.get(ino)).map(|grant| grant.fence.clone()).collect()
    }

    /// A lock was taken for an inode: commits are fenced by it from now on.
    pub(super) fn holds(&self, ino: Ino, grant: Grant) {
        self.grants.lock().unwrap_or_else(PoisonError::into_inner).insert(ino, grant);
    }

    /// Whether a lock is held for an inode.
    pub(super) fn is_held(&self, ino: Ino) -> bool {
        self.grants.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&ino)
    }

    /// The lock of an inode is given up.
    pub(super) fn gives_up(&self, ino: Ino) -> Option<Grant> {
        self.grants.lock().unwrap_or_else(PoisonError::into_inner).remove(&ino)
    }

    fn leases(&self) -> Vec<Revision> {
        let grants = self.grants.lock().unwrap_or_else(PoisonError::into_inner);
        grants.values().map(|grant| grant.lease).collect()
    }

    /// Gives everything up.
    pub async fn close(&self, remote: &dyn Remote, deadline: Instant) {
        for lease in self.leases().into_iter().chain([self.lease()]) {
            // What is not released ends by itself.
            let _ = remote.release(lease, deadline).await;
        }
    }
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
        let feed = Arc::clone(&self);
        let follow = async move { feed.follow().await };
        let keep = Arc::clone(&self);
        let renew = async move { keep.renew().await };
        tokio::select! {
            () = follow => {}
            () = renew => {}
            () = self.stopping.cancelled() => {}
        }
    }

    async fn renew(&self) {
        let mut renewed = Instant::now();
        loop {
            tokio::time::sleep(RENEW_EVERY).await;
            self.cut_versions().await;
            let until = renewed + LEASE;
            for lease in self.session.leases() {
                if let Err(error) = self.remote.renew(lease, until).await
                    && !error.is_unknown()
                {
                    self.fenced.store(true, Ordering::Release);
                    tracing::error!(%error, "the lock that this mount holds has ended: it changes nothing any more; mount again");
                }
            }
            match self.remote.renew(self.session.lease(), until).await {
                Ok(()) => renewed = Instant::now(),
                // The next commit opens it again, and knows what to do then; without one it is opened here.
                Err(error) if error.is_session_lost() => {
                    tracing::warn!(%error, "the session of the mount has ended");
                    let _ = self.flush_all().await;
                    self.open_again_if_idle(error).await;
                }
                Err(error) => tracing::warn!(%error, "the session could not be renewed"),
            }
        }
    }

    async fn open_again_if_idle(&self, error: Error) {
        let lease = self.session.lease();
        if self.remote.renew(lease, Vfs::deadline()).await.is_ok() {
            return;
        }
        self.counters.sessions_lost.fetch_add(1, Ordering::Relaxed);
        self.locks_are_lost();
        if let Err(again) = self.session.reopen(&*self.remote, self.client).await {
            tracing::error!(%error, %again, "the session could not be opened again");
        }
    }

    /// Follows the feed, and says whether it is live.
    async fn follow(&self) {
        let mut from = None;
        loop {
            let (tell, mut news) = mpsc::channel(NEWS_MAX);
            let watch = self.remote.watch(&self.options.prefix, from, MARK_EVERY, tell);
            tokio::pin!(watch);
            let mut lost = None;
            while lost.is_none() {
                tokio::select! {
                    ended = &mut watch => lost = Some(ended.err()),
                    next = timeout(SILENCE_MAX, news.recv()) => match next {
                        Ok(Some(news)) => {
                            from = Some(self.hear(news).await.max(from.unwrap_or(0)));
                            self.set_live(true);
                        }
                        Ok(None) | Err(_) => lost = Some(None),
                    },
                }
            }
            self.set_live(false);
            if let Some(Some(error)) = lost {
                tracing::debug!(%error, "the feed is lost");
                if error.is_compacted() {
                    from = None;
                }
            }
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }

    /// Takes news; the revision up to which everything is known.
    async fn hear(&self, news: News) -> Revision {
        let (revision, kind, key, source) = match news {
            News::Mark(revision) => return revision,
            News::Change { revision, kind, key, source } => (revision, kind, key, source),
        };
        // The answer to an own commit may come after its events.
        let mut under_way = self.stream.under_way.subscribe();
        let _ = timeout(OWN_WAIT, under_way.wait_for(|under_way| !under_way)).await;
        if !self.stream.is_own(revision) {
            self.changed(revision, &kind, &key, source.as_deref());
        }
        revision.saturating_sub(1)
    }

    /// Another client changed something.
    fn changed(&self, at: Revision, kind: &str, key: &str, source: Option<&str>) {
        [Some(key), source].into_iter().flatten().for_each(|key| self.hear_of(key, at));
        match kind.trim_start_matches("s3:") {
            "ObjectAttributes:Put" | "ObjectTagging:Put" | "ObjectTagging:Delete" => self.expire(key, at, false),
            "ObjectPatched:Patch" | "ObjectCreated:Append" => self.expire(key, at, true),
            // The new name is told before the old one: an inode that moved is found under the new one.
            "ObjectPrefix:Renamed" | "ObjectCreated:Rename" => {
                source.into_iter().for_each(|source| self.follow_rename(source, key, at));
                self.lose(key, at);
            }
            _ => self.lose(key, at),
        }
    }

    /// A name may have come to be in a directory that was known to have none of it.
    fn hear_of(&self, key: &str, at: Revision) {
        let new = self.tree().hear(key, at);
        if let (Some((parent, segment)), Some(kernel)) = (new, self.kernel.get()) {
            kernel.forget_name(parent, &names::show(&segment.text, false));
        }
    }

    /// What is known of a file counts no more.
    fn expire(&self, key: &str, at: Revision, content: bool) {
        let found = self.tree().find(key).and_then(|(_, _, ino)| ino);
        let Some(ino) = found else { return };
        self.tree().expire(ino, at);
        if content {
            self.content_changed(ino);
        }
        if let Some(kernel) = self.kernel.get() {
            kernel.forget_content(ino);
        }
    }

    fn content_changed(&self, ino: Ino) {
        if let Some(file) = self.open_file(ino) {
            file.state().stale = true;
        }
        if let Some(inode) = self.tree().get_mut(ino) {
            inode.cached = None;
        }
    }

    /// What a name leads to is not known any more: it may be gone, or something else.
    fn lose(&self, key: &str, at: Revision) {
        let found = self.tree().find(key);
        let Some((parent, segment, ino)) = found else { return };
        {
            let mut tree = self.tree();
            tree.expire(parent, at);
            ino.into_iter().for_each(|ino| tree.expire(ino, at));
        }
        if let Some(ino) = ino {
            self.content_changed(ino);
        }
        let Some(kernel) = self.kernel.get() else { return };
        for alias in [false, true] {
            kernel.forget_name(parent, &names::show(&segment.text, alias));
        }
        kernel.forget_content(parent);
        ino.into_iter().for_each(|ino| kernel.forget_content(ino));
    }

    /// A file or directory that is known here was renamed elsewhere: it is the same one.
    fn follow_rename(&self, from: &str, to: &str, at: Revision) {
        let (old, new) = {
            let tree = self.tree();
            (tree.find(from), tree.find(to))
        };
        let Some((parent, segment, Some(ino))) = old else { return };
        if let Some((new_parent, new_segment, _)) = new {
            self.tree().moved((parent, &segment), (new_parent, &new_segment));
        }
        self.tree().expire(ino, at);
        if let Some(kernel) = self.kernel.get() {
            kernel.forget_name(parent, &names::show(&segment.text, false));
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
