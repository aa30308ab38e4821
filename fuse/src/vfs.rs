//! The file system, without a kernel: what each operation of POSIX does to files that are objects.
//!
//! ```text
//! adapter (fuser) ─▶ vfs ─┬ names    lookup, readdir, create, rename: the tree, and steps
//!                         ├ look     names at the repository: who looks at one moment shares a question
//!                         ├ content  read, write, truncate: layers over a base
//!                         ├ fetch    bytes of a base: the block cache, what is on its way, what is read ahead
//!                         ├ commit   one ordered stream of commits: everything dirty, then the steps that wait
//!                         ├ ship     how a commit gets through, and what becomes of what it carried
//!                         ├ replay   what the journal of an earlier run holds
//!                         ├ session  the lease, the feed of changes, what the kernel must forget
//!                         └ locks    ranges of files, cluster-wide
//! ```
//! **Order.** A mount is one stream of commits. A commit carries everything that was written by then, of all files, so the
//! repository is at every moment what this machine wrote up to some moment, as after a power cut of a disk without
//! reordering. Names and attributes are changed by a commit at once; whoever changes them waits for it.
//!
//! Absent on purpose: anything of FUSE.

mod commit;
mod content;
mod fetch;
mod locks;
mod look;
mod names;
mod replay;
mod session;
mod ship;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, RwLock};
use std::time::Duration;

use holdfast_core::mount::{MountId, Node};
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::attributes::{Attributes, Defaults, Time};
use crate::cache::BlockCache;
use crate::error::Errno;
use crate::file::File;
use crate::held::{Held, Rank};
use crate::journal::Journal;
use crate::remote::Remote;
use crate::tree::{Ino, Tree};

pub use self::commit::Stream;
pub use self::content::{AtomicFailures, FILE_BYTES_MAX};
pub use self::fetch::{Flight, Window};
pub use self::locks::{Holder, RangeLock, Wanted};
pub use self::names::{Listing, Make, SNAPSHOT, Shown, UNSYNCED};
pub use self::session::Session;

/// A process that waits longer than this for the repository gets `EIO`; what it wrote is still tried.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// A question to the repository is given up after this.
pub const ASK_DEADLINE: Duration = Duration::from_secs(60);

/// When a write counts as done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// `fsync` returns when the bytes are in the repository and the commit is through.
    Store,
    /// `fsync` returns when the bytes are on the local disk; they are in the repository within the loss window.
    Journal,
    /// `fsync` returns at once; the bytes are in the repository within the loss window.
    Async,
}

/// Who else writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Anybody: a file that was closed is seen by the next open anywhere.
    Shared,
    /// Nobody: this mount holds a lock on everything under the prefix.
    Exclusive,
    /// Nobody, of each file that is open: this mount holds a lock on it; reads and writes pass the page cache by.
    Vm,
}

/// How to mount.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bucket.
    pub bucket: String,
    /// Empty, or ends with a slash.
    pub prefix: String,
    /// See [`Profile`].
    pub profile: Profile,
    /// See [`Sync`].
    pub sync: Sync,
    /// How long written bytes may be only here.
    pub loss_time: Duration,
    /// How many written bytes may be only here; then writers wait.
    pub loss_bytes: u64,
    /// Attributes of what has none.
    pub defaults: Defaults,
    /// Refuses every change.
    pub read_only: bool,
}

/// What the kernel must be told; from a thread that serves nothing.
pub trait Kernel: Send + std::marker::Sync + 'static {
    /// Pages and attributes of an inode are not what they were.
    fn forget_content(&self, ino: Ino);
    /// As [`Kernel::forget_content`]; returns when it is done.
    fn forget_content_now(&self, ino: Ino);
    /// A name in a directory is not what it was.
    fn forget_name(&self, parent: Ino, name: &std::ffi::OsStr);
}

/// Numbers for operators.
#[derive(Debug, Default)]
pub struct Counters {
    /// Commits.
    pub commits: AtomicU64,
    /// Steps of those.
    pub steps: AtomicU64,
    /// Bytes that commits carried.
    pub committed_bytes: AtomicU64,
    /// Bytes that were read of the repository.
    pub fetched_bytes: AtomicU64,
    /// Conflict copies that were made.
    pub conflicts: AtomicU64,
    /// Sessions that were lost and opened again.
    pub sessions_lost: AtomicU64,
}

/// A mounted file system.
pub struct Vfs {
    /// How it is mounted.
    pub options: Options,
    remote: Arc<dyn Remote>,
    tree: Mutex<Tree>,
    files: Mutex<HashMap<Ino, Arc<File>>>,
    cache: BlockCache,
    /// Room for what is read ahead, in blocks.
    ahead: Arc<Semaphore>,
    /// Identity of this mount, and its journal when local bytes count.
    journal: Option<Journal>,
    journals: bool,
    session: Session,
    stream: Stream,
    kernel: OnceLock<Arc<dyn Kernel>>,
    locked: locks::Locked,
    looks: Arc<look::Looks>,
    /// Writers hold it shared while they write a layer and its journal; a commit holds it alone while it takes all layers.
    order: RwLock<()>,
    dirty_bytes: AtomicU64,
    dirty_pieces: AtomicUsize,
    dirty_files: AtomicUsize,
    /// Since when the oldest change waits.
    oldest: Mutex<Option<Instant>>,
    /// Told when there is room for more dirty bytes.
    room: Notify,
    /// The feed is live: what the tree knows counts.
    live: AtomicBool,
    /// The mount can change nothing any more: another has what it held.
    fenced: AtomicBool,
    tasks: TaskTracker,
    stopping: CancellationToken,
    /// See [`Counters`].
    pub counters: Counters,
    client: MountId,
}

/// Attributes and identity of a file, as processes see it.
#[derive(Clone, Debug)]
pub struct Attr {
    /// Inode.
    pub ino: Ino,
    /// Bytes.
    pub size: u64,
    /// Names.
    pub links: u32,
    /// Bytes that are not holes.
    pub allocated: u64,
    /// Type, permissions, owner, times, extended attributes.
    pub attributes: Attributes,
    /// Revision of the content, in the repository.
    pub generation: u64,
}

/// What a mounted file system stands on.
pub struct Parts {
    /// The repository.
    pub remote: Arc<dyn Remote>,
    /// Blocks of files.
    pub cache: BlockCache,
    /// The journal, which holds the identity of the mount, too.
    pub journal: Option<Journal>,
    /// What is written goes to the journal first.
    pub journals: bool,
    /// Who mounts.
    pub client: MountId,
    /// Shown to operators.
    pub owner: String,
}

impl std::fmt::Debug for Vfs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vfs").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Vfs {
    /// Opens a session, brings to the repository what a journal still holds, and begins to serve.
    ///
    /// # Errors
    /// [`crate::client::Error`] when there is no session to be had.
    pub async fn start(
        options: Options,
        parts: Parts,
        replay: impl IntoIterator<Item = Result<crate::journal::Record, crate::journal::Error>>,
    ) -> Result<Arc<Self>, crate::client::Error> {
        let session = Session::open(&*parts.remote, parts.client, parts.owner).await?;
        // The directory is this mount's, so whoever had them is gone.
        for lease in parts.journal.iter().flat_map(Journal::leases) {
            let _ = parts.remote.release(lease, Vfs::deadline()).await;
        }
        if options.profile == Profile::Exclusive {
            let name = format!("mount/{}/{}", options.bucket, options.prefix);
            let grant = parts.remote.lock(&name, session.owner(), Vfs::deadline()).await?;
            session.holds(crate::tree::ROOT, grant);
        }
        let stream = Stream::after(session.applied());
        let vfs = Arc::new(Self {
            tree: Mutex::new(Tree::new(&options.prefix, Node::default())),
            files: Mutex::new(HashMap::new()),
            cache: parts.cache,
            ahead: Arc::new(Semaphore::new(fetch::AHEAD_BLOCKS_MAX)),
            journal: parts.journal,
            journals: parts.journals,
            session,
            stream,
            kernel: OnceLock::new(),
            locked: locks::Locked::default(),
            looks: Arc::default(),
            order: RwLock::new(()),
            dirty_bytes: AtomicU64::new(0),
            dirty_pieces: AtomicUsize::new(0),
            dirty_files: AtomicUsize::new(0),
            oldest: Mutex::new(None),
            room: Notify::new(),
            live: AtomicBool::new(false),
            fenced: AtomicBool::new(false),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
            counters: Counters::default(),
            client: parts.client,
            remote: parts.remote,
            options,
        });
        vfs.remember_locks();
        vfs.refresh_root().await?;
        let running = Arc::clone(&vfs);
        vfs.tasks.spawn(async move { running.run_stream().await });
        let running = Arc::clone(&vfs);
        vfs.tasks.spawn(async move { running.keep_session().await });
        if let Err(error) = vfs.replay(replay).await {
            vfs.stopping.cancel();
            vfs.session.close(&*vfs.remote, Vfs::deadline()).await;
            return Err(error);
        }
        Ok(vfs)
    }

    /// Who is told what the kernel must forget.
    pub fn set_kernel(&self, kernel: Arc<dyn Kernel>) {
        // Set once, by whoever mounts.
        let _ = self.kernel.set(kernel);
    }

    /// Runs a request of the kernel; it ends before the mount does.
    pub fn serve(&self, runtime: &tokio::runtime::Handle, work: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn_on(work, runtime);
    }

    /// Cancelled when the mount ends.
    #[must_use]
    pub fn stopping(&self) -> CancellationToken {
        self.stopping.clone()
    }

    /// What the block cache did.
    #[must_use]
    pub fn cache_counters(&self) -> crate::cache::Counters {
        self.cache.counters()
    }

    /// Whether the feed of changes is live.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.live.load(Ordering::Acquire)
    }

    fn tree(&self) -> Held<'_, Tree> {
        Held::take(&self.tree, Rank::Tree)
    }

    fn files(&self) -> Held<'_, HashMap<Ino, Arc<File>>> {
        Held::take(&self.files, Rank::Files)
    }

    /// The file of an inode, when it is open or has something to commit.
    fn open_file(&self, ino: Ino) -> Option<Arc<File>> {
        self.files().get(&ino).cloned()
    }

    /// Whether what the tree knows may be answered without asking.
    fn trusts_tree(&self) -> bool {
        self.options.profile == Profile::Exclusive || self.live.load(Ordering::Acquire)
    }

    /// Refuses changes of a mount that may make none.
    fn writable(&self) -> Result<(), Errno> {
        if self.options.read_only {
            return Err(Errno::EROFS);
        }
        if self.fenced.load(Ordering::Acquire) { Err(Errno::EIO) } else { Ok(()) }
    }

    /// Bytes that are not in the repository yet, and how long the oldest of them wait.
    #[must_use]
    pub fn unsynced(&self) -> (u64, Duration) {
        let now = Instant::now();
        let (mut bytes, mut age) = (0, Duration::ZERO);
        for file in self.files().values() {
            let state = file.state();
            bytes += state.layers().map(crate::layer::Layer::bytes).sum::<u64>();
            age = age.max(state.oldest().map_or(Duration::ZERO, |since| now - since));
        }
        (bytes, age)
    }

    /// Commits everything, gives the session up and stops. The number of bytes that could not be brought to the repository.
    pub async fn stop(&self, deadline: Instant) -> u64 {
        let drained = tokio::time::timeout_at(deadline, self.flush_all()).await;
        let (left, _) = self.unsynced();
        if !matches!(drained, Ok(Ok(()))) {
            tracing::error!(bytes = left, "not everything could be brought to the repository");
        }
        self.stopping.cancel();
        self.tasks.close();
        let _ = tokio::time::timeout_at(deadline, self.tasks.wait()).await;
        self.session.close(&*self.remote, deadline).await;
        left
    }

    /// The time of a change, as this machine's clock tells it.
    fn now() -> Time {
        Time::now()
    }

    fn deadline() -> Instant {
        Instant::now() + ASK_DEADLINE
    }
}
