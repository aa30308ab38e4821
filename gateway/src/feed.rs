//! The feed on this node: rows of events become streams for watchers.
//!
//! ```text
//! applied revision ─▶ Hub: new rows, read once ─▶ commits ─▶ those who watch their bucket ─▶ Watcher
//!                                         rows of the past ────────────────────────────────────▲
//! ```
//! A watcher begins in the past: it is registered first and then reads rows until there are no more, so nothing falls
//! between. Then it takes commits from its queue, which holds at most [`QUEUE_COMMITS_MAX`]; one that is too slow loses the
//! queue, not events: it reads rows again from where it was. So apply waits for nobody, and one reader serves all watchers.
//!
//! Promises to a watcher: every event that it asked for, in the order of commits, each once until it reconnects, those of a
//! commit together and the last of them marked; a mark says that everything up to a revision was delivered; what is not kept
//! any more is an error with the oldest position, never a hole.

pub mod forms;
pub(crate) mod notifier;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use holdfast_core::error::Error as Refusal;
use holdfast_core::event::{EventKind, EventPage, EventRow};
use holdfast_core::id::{BucketName, Place, Revision};
use holdfast_core::rules::authorize::{Action, Caller, Context, Permit, Resource, authorize};
use holdfast_core::view::View;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cluster::{Cluster, Consistency, StateView, VIEW_DEADLINE};
use crate::error::Error;

/// Commits that wait for one watcher.
const QUEUE_COMMITS_MAX: usize = 64;
/// Events that are read from rows at once.
const PAGE_EVENTS: usize = 256;
/// How long the hub waits for news before it looks whether anybody watches.
const IDLE: Duration = Duration::from_secs(1);
/// Pause when there were none, or they cannot be read.
const PAUSE: Duration = Duration::from_millis(20);
/// Pause after news, so that commits that come together are read together.
const SETTLE: Duration = Duration::from_millis(1);

/// One event with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Where in the order.
    pub place: Place,
    /// What happened.
    pub row: EventRow,
}

/// The events of one commit.
type Commit = Arc<[Event]>;

/// What somebody wants to hear of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of this bucket only.
    pub bucket: Option<BucketName>,
    /// Keys that begin so.
    pub prefix: String,
    /// Keys that end so.
    pub suffix: String,
    /// Names of events, `s3:ObjectCreated:*`; all when there are none.
    pub names: Vec<String>,
}

impl Filter {
    /// Whether it wants an event.
    #[must_use]
    pub fn wants(&self, event: &EventRow) -> bool {
        let of_bucket = self.bucket.is_none() || self.bucket == event.bucket;
        let any_suffix = self.suffix.is_empty() || event.kind == EventKind::PrefixRenamed;
        let suffix = any_suffix || event.key.as_ref().is_some_and(|key| key.ends_with(&self.suffix));
        of_bucket && suffix && event.touches(&self.prefix) && self.names_match(event)
    }

    fn names_match(&self, event: &EventRow) -> bool {
        if self.names.is_empty() {
            return true;
        }
        let name = event.kind.name();
        self.names.iter().any(|wanted| {
            let wanted = wanted.strip_prefix("s3:").unwrap_or(wanted);
            match wanted.strip_suffix('*') {
                Some(start) => name.starts_with(start),
                None => name == wanted,
            }
        })
    }

    /// The wanted events of a commit, the last of them marked.
    fn of_commit(&self, commit: &[Event], after: Place, into: &mut VecDeque<Event>) {
        let before = into.len();
        into.extend(commit.iter().filter(|event| event.place > after && self.wants(&event.row)).cloned());
        let added = into.len() - before;
        for (number, event) in into.iter_mut().skip(before).enumerate() {
            event.row.last = number + 1 == added;
        }
    }
}

/// The running feed. Clones share it.
#[derive(Clone)]
pub struct Feed {
    hub: Arc<Hub>,
}

struct Hub {
    cluster: Arc<Cluster>,
    /// By which the hub itself reads.
    permit: Permit,
    registry: Mutex<Registry>,
    /// Everything up to here was given to those who are registered.
    position: watch::Sender<Revision>,
    /// Watchers that were too slow for their queue, and went back to rows.
    lagged: AtomicU64,
}

#[derive(Default)]
struct Registry {
    next: u64,
    count: usize,
    by_bucket: HashMap<Option<BucketName>, HashMap<u64, Entry>>,
}

struct Entry {
    filter: Arc<Filter>,
    queue: mpsc::Sender<Commit>,
    lagged: Arc<AtomicBool>,
}

impl Feed {
    /// Starts the feed over the node's own state; it ends when it is told to `stop`.
    ///
    /// # Panics
    /// Never: root may read events.
    #[must_use]
    pub fn start(cluster: Arc<Cluster>, tasks: &TaskTracker, stop: CancellationToken) -> Self {
        let permit = authorize(Caller::Root, Action::WatchEvents, Resource::Service, &Context::default());
        let permit = permit.expect("root may read events");
        // Read before anybody can watch: whatever comes after it is handed out, however late the task begins.
        let begins = cluster.status().revision;
        let hub = Arc::new(Hub {
            cluster,
            permit,
            registry: Mutex::default(),
            position: watch::Sender::new(begins),
            lagged: AtomicU64::new(0),
        });
        let own = Arc::downgrade(&hub);
        tasks.spawn(async move {
            stop.run_until_cancelled(run(own, begins)).await;
        });
        Self { hub }
    }

    /// Watches from `after` on, or from now.
    ///
    /// # Errors
    /// [`Error::Refused`] with [`holdfast_core::error::Error::Compacted`]; [`Error::Cluster`] without a state.
    pub async fn watch(&self, permit: &Permit, filter: Filter, after: Option<Place>) -> Result<Watcher, Error> {
        let filter = Arc::new(filter);
        let (queue, commits) = mpsc::channel(QUEUE_COMMITS_MAX);
        let lagged = Arc::new(AtomicBool::new(false));
        let seat = self.hub.register(Entry { filter: filter.clone(), queue, lagged: lagged.clone() }, &filter);
        let mut watcher = Watcher {
            hub: self.hub.clone(),
            permit: permit.clone(),
            filter,
            after: after.unwrap_or_default(),
            commits,
            lagged,
            ready: VecDeque::new(),
            live: false,
            _seat: seat,
        };
        match after {
            // What is too old is refused before the first byte of an answer.
            Some(after) => {
                if after.revision > self.hub.view().await?.revision() {
                    let what = "the position is ahead of the cluster: it is mistyped, or of another cluster";
                    return Err(Refusal::invalid(what).into());
                }
                watcher.read_rows().await?;
            }
            None => {
                let view = self.hub.view().await?;
                watcher.after = Place { revision: view.revision(), ordinal: u16::MAX };
                watcher.live = true;
            }
        }
        Ok(watcher)
    }

    /// Watchers, and how often one was too slow for its queue.
    #[must_use]
    pub fn counts(&self) -> (usize, u64) {
        (self.hub.registry().count, self.hub.lagged.load(Ordering::Relaxed))
    }
}

impl Hub {
    fn registry(&self) -> std::sync::MutexGuard<'_, Registry> {
        self.registry.lock().expect("only held for a moment")
    }

    fn register(self: &Arc<Self>, entry: Entry, filter: &Filter) -> Seat {
        let mut registry = self.registry();
        let number = registry.next;
        registry.next += 1;
        registry.count += 1;
        registry.by_bucket.entry(filter.bucket.clone()).or_default().insert(number, entry);
        Seat { hub: Arc::downgrade(self), bucket: filter.bucket.clone(), number }
    }

    /// The state that includes all that was acknowledged before.
    async fn view(&self) -> Result<StateView, Error> {
        Ok(self.cluster.view(Consistency::Linearizable, Instant::now() + VIEW_DEADLINE).await?)
    }

    /// Events after `after` in the node's own state, and that state's revision.
    async fn page(&self, permit: &Permit, after: Place) -> Result<(EventPage, Revision), Error> {
        let (cluster, permit) = (self.cluster.clone(), permit.clone());
        let read = tokio::task::spawn_blocking(move || {
            let rows = cluster.view_now()?;
            let revision = rows.revision();
            let page = View::new(&rows, revision).events(&permit, after, PAGE_EVENTS)?;
            Ok::<_, Error>((page, revision))
        });
        read.await.map_err(|_| Error::Stopping)?
    }

    fn hand_out(&self, commit: Vec<Event>) {
        let commit: Commit = commit.into();
        let registry = self.registry();
        let mut buckets: Vec<Option<BucketName>> = commit.iter().map(|event| event.row.bucket.clone()).collect();
        buckets.push(None);
        buckets.sort();
        buckets.dedup();
        for entry in buckets.iter().filter_map(|bucket| registry.by_bucket.get(bucket)).flat_map(HashMap::values) {
            if !commit.iter().any(|event| entry.filter.wants(&event.row)) {
                continue;
            }
            // A full queue: the watcher reads rows instead. Whoever is gone leaves its seat by itself.
            if let Err(mpsc::error::TrySendError::Full(_)) = entry.queue.try_send(commit.clone())
                && !entry.lagged.swap(true, Ordering::AcqRel)
            {
                self.lagged.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn send_all_to_rows(&self) {
        for entry in self.registry().by_bucket.values().flat_map(HashMap::values) {
            entry.lagged.store(true, Ordering::Release);
        }
    }
}

/// Splits events into commits.
fn commits(events: Vec<(Place, EventRow)>) -> impl Iterator<Item = Vec<Event>> {
    let mut events = events.into_iter().peekable();
    std::iter::from_fn(move || {
        let (place, row) = events.next()?;
        let mut commit = vec![Event { place, row }];
        while let Some((place, row)) = events.next_if(|(next, _)| next.revision == place.revision) {
            commit.push(Event { place, row });
        }
        Some(commit)
    })
}

/// Reads new rows and hands them out, as long as somebody may watch.
async fn run(hub: Weak<Hub>, mut last: Revision) {
    loop {
        let Some(hub) = hub.upgrade() else { return };
        let news = hub.cluster.view(Consistency::AtLeast(last + 1), Instant::now() + IDLE).await;
        let Ok(news) = news.map(|view| view.revision()) else {
            drop(hub);
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        if hub.registry().count == 0 {
            // Whoever comes now reads rows first, up to a state that is at least this one.
            last = news;
            hub.position.send_replace(last);
            continue;
        }
        let mut after = Place { revision: last, ordinal: u16::MAX };
        loop {
            let (page, revision) = match hub.page(&hub.permit, after).await {
                Ok(found) => found,
                Err(error) => {
                    // Watchers find out by themselves: their rows are not there either.
                    tracing::warn!(error = crate::backend::chain(&error), "the feed cannot be read");
                    hub.send_all_to_rows();
                    last = news;
                    break;
                }
            };
            let more = page.more;
            for commit in commits(page.events) {
                after = commit.last().map_or(after, |event| event.place);
                hub.hand_out(commit);
            }
            if !more {
                last = revision;
                break;
            }
        }
        hub.position.send_replace(last);
        drop(hub);
        tokio::time::sleep(SETTLE).await;
    }
}

/// A watcher's place in the registry.
struct Seat {
    hub: Weak<Hub>,
    bucket: Option<BucketName>,
    number: u64,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let Some(hub) = self.hub.upgrade() else { return };
        let mut registry = hub.registry();
        let Some(of_bucket) = registry.by_bucket.get_mut(&self.bucket) else { return };
        of_bucket.remove(&self.number);
        if of_bucket.is_empty() {
            registry.by_bucket.remove(&self.bucket);
        }
        registry.count -= 1;
    }
}

/// What a watcher gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// The next event.
    Event(Box<Event>),
    /// Nothing happened until the deadline, and everything up to this revision was delivered.
    Mark(Revision),
}

/// Somebody who watches.
pub struct Watcher {
    hub: Arc<Hub>,
    permit: Permit,
    filter: Arc<Filter>,
    /// Everything up to here was delivered or is ready.
    after: Place,
    commits: mpsc::Receiver<Commit>,
    lagged: Arc<AtomicBool>,
    ready: VecDeque<Event>,
    /// Rows are read up to where the queue goes on.
    live: bool,
    _seat: Seat,
}

impl Watcher {
    /// The next event, or a mark at the deadline.
    ///
    /// # Errors
    /// [`Error::Refused`] with [`holdfast_core::error::Error::Compacted`] when this watcher was too slow.
    ///
    /// # Cancel safety
    /// Dropped before it returns, nothing is lost.
    pub async fn next(&mut self, deadline: Instant) -> Result<Next, Error> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(Next::Event(Box::new(event)));
            }
            if self.lagged.load(Ordering::Acquire) {
                self.live = false;
            }
            if !self.live {
                self.read_rows().await?;
                continue;
            }
            // Before the queue is looked at: what is handed out up to here is in it, or the mark of the slow is set.
            let position = *self.hub.position.borrow();
            match self.commits.try_recv() {
                Ok(commit) => self.take(&commit),
                Err(_) if Instant::now() >= deadline => {
                    if self.lagged.load(Ordering::Acquire) {
                        continue;
                    }
                    let position = position.max(self.after.revision);
                    self.after = self.after.max(Place { revision: position, ordinal: u16::MAX });
                    return Ok(Next::Mark(position));
                }
                Err(_) => {
                    if let Ok(Some(commit)) = timeout_at(deadline, self.commits.recv()).await {
                        self.take(&commit);
                    }
                }
            }
        }
    }

    /// Everything up to here was delivered or is about to be.
    #[must_use]
    pub fn position(&self) -> Place {
        self.after
    }

    fn take(&mut self, commit: &[Event]) {
        self.filter.of_commit(commit, self.after, &mut self.ready);
        self.after = commit.last().map_or(self.after, |event| event.place.max(self.after));
    }

    /// Reads one page of rows; live when there are no more.
    async fn read_rows(&mut self) -> Result<(), Error> {
        // What is in the queue is in the rows, too; what comes from here on is in the queue, or sets the mark again.
        self.lagged.store(false, Ordering::Release);
        while self.commits.try_recv().is_ok() {}
        let (page, _) = self.hub.page(&self.permit, self.after).await?;
        self.live = !page.more;
        for commit in commits(page.events) {
            self.take(&commit);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
