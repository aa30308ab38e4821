//! The feed: what others changed, and whether that is known in time.
//!
//! One task receives, so that silence is noticed whatever the other does; one takes the news in their order. The feed is
//! *live* while a mark or change came within [`SILENCE_MAX`] and what came was taken within [`LAG_MAX`]. While it is, the tree
//! answers; the kernel itself keeps an attribute for [`KERNEL_TTL`] at most. So within a second or two after the feed is lost,
//! or lags, nobody is told anything that was not asked for.
//!
//! **Own commits** are in the feed, too, and their answers may come after their events. An event waits for the commit that was
//! under way when it came, and for no other: see [`Flight`].

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_core::id::Revision;
use holdfast_core::mount::Node;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::super::Vfs;
use crate::client::Error;
use crate::names;
use crate::remote::News;
use crate::tree::{Ino, ROOT, Segment, Tree};

/// How often the feed says that it lives.
const MARK_EVERY: Duration = Duration::from_millis(250);
/// A feed that is silent for so long is lost.
const SILENCE_MAX: Duration = Duration::from_millis(800);
/// News that were not taken for so long: the feed is not live.
const LAG_MAX: Duration = Duration::from_secs(1);
/// How long the kernel keeps names and attributes while the feed is live; the tree answers it then.
pub const KERNEL_TTL: Duration = Duration::from_millis(200);
/// Pause before the feed is followed again.
const AGAIN_AFTER: Duration = Duration::from_millis(200);
/// News that wait to be looked at.
pub(super) const NEWS_MAX: usize = 4_096;
/// How long news wait for an own commit whose revision is not known yet.
const OWN_WAIT: Duration = Duration::from_secs(5);

/// Commits that were sent and commits whose outcome is known, counted. There is one stream of them, so what was under way at
/// some moment is done when as many are done as were begun by then.
#[derive(Debug)]
pub(in crate::vfs) struct Flight(watch::Sender<(u64, u64)>);

/// A commit under way; it is done when this is dropped.
#[derive(Debug)]
#[must_use = "the commit is done when this is dropped"]
pub(in crate::vfs) struct Flying<'a>(&'a Flight);

impl Flight {
    pub(in crate::vfs) fn new() -> Self {
        Self(watch::Sender::new((0, 0)))
    }

    /// A commit is about to be sent.
    pub(in crate::vfs) fn begin(&self) -> Flying<'_> {
        self.0.send_modify(|(begun, _)| *begun += 1);
        Flying(self)
    }

    /// Commits that were begun.
    pub(in crate::vfs) fn begun(&self) -> u64 {
        self.0.borrow().0
    }

    /// Whether one is under way.
    pub(in crate::vfs) fn is_busy(&self) -> bool {
        let (begun, done) = *self.0.borrow();
        begun > done
    }

    /// Waits until as many are done.
    pub(in crate::vfs) async fn wait_done(&self, commits: u64) {
        // The sender lives as long as this does.
        let _ = self.0.subscribe().wait_for(|(_, done)| *done >= commits).await;
    }
}

impl Drop for Flying<'_> {
    fn drop(&mut self) {
        self.0.0.send_modify(|(_, done)| *done += 1);
    }
}

/// Which connection to the feed there is now, if any. Held while the mount is made live or not, so that news of a connection
/// that is lost make nothing live.
#[derive(Debug, Default)]
pub(super) struct Connection(Mutex<Option<u64>>);

impl Connection {
    fn now(&self) -> MutexGuard<'_, Option<u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// News, and when they came.
#[derive(Debug)]
pub(super) struct Heard {
    news: News,
    at: Instant,
    /// By which connection.
    connection: u64,
    /// Commits that were begun by then.
    begun: u64,
}

impl Vfs {
    /// Follows the feed, and notices when it is lost.
    pub(super) async fn follow(&self, tell: mpsc::Sender<Heard>) {
        let mut from = None;
        for connection in 0_u64.. {
            // Who is that far behind hears nothing new before that is made up for.
            if tell.reserve_many(NEWS_MAX / 2).await.is_err() {
                return;
            }
            *self.session.feed.now() = Some(connection);
            let ended = self.receive(connection, &mut from, &tell).await;
            self.disconnected();
            if let Err(error) = ended {
                tracing::debug!(%error, "the feed is lost");
                if error.is_compacted() {
                    from = None;
                }
            }
            sleep(AGAIN_AFTER).await;
        }
    }

    /// Passes news on, until the feed is silent or breaks. `from` is the revision up to which all were passed on.
    async fn receive(
        &self,
        connection: u64,
        from: &mut Option<Revision>,
        tell: &mpsc::Sender<Heard>,
    ) -> Result<(), Error> {
        let (told, mut news) = mpsc::channel(NEWS_MAX);
        let watch = self.remote.watch(&self.options.prefix, *from, MARK_EVERY, told);
        tokio::pin!(watch);
        loop {
            let news = tokio::select! {
                ended = &mut watch => return ended,
                next = timeout(SILENCE_MAX, news.recv()) => match next {
                    Ok(Some(news)) => news,
                    Ok(None) | Err(_) => return Ok(()),
                },
            };
            let passed = match &news {
                News::Mark(revision) => *revision,
                // There may be more of the same commit.
                News::Change { revision, .. } => revision.saturating_sub(1),
            };
            let heard = Heard { news, at: Instant::now(), connection, begun: self.stream.flight.begun() };
            if tell.try_send(heard).is_err() {
                tracing::warn!("more changes than are looked at: the feed is followed again when they are");
                return Ok(());
            }
            *from = Some(passed.max(from.unwrap_or(0)));
        }
    }

    pub(super) fn disconnected(&self) {
        let mut connection = self.session.feed.now();
        *connection = None;
        self.set_live(false);
    }

    /// Takes news in their order, and says whether the feed is live.
    pub(super) async fn hear(&self, mut news: mpsc::Receiver<Heard>) {
        while let Some(heard) = news.recv().await {
            let (connection, late) = (heard.connection, heard.at + LAG_MAX);
            let taken = self.take(heard);
            tokio::pin!(taken);
            if timeout_at(late, &mut taken).await.is_err() {
                self.set_live(false);
                taken.await;
            }
            let now = self.session.feed.now();
            if *now == Some(connection) && Instant::now() <= late {
                self.set_live(true);
            }
        }
    }

    async fn take(&self, Heard { news, at, begun, .. }: Heard) {
        let News::Change { revision, kind, key, source } = news else { return };
        if self.stream.is_own(revision) {
            return;
        }
        let _ = timeout_at(at + OWN_WAIT, self.stream.flight.wait_done(begun)).await;
        if !self.stream.is_own(revision) {
            self.changed(revision, &kind, &key, source.as_deref());
        }
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

    /// A file or directory that is known here was renamed elsewhere: it is the same one. It is never left under its old name:
    /// there it would look as if it had been removed.
    fn follow_rename(&self, from: &str, to: &str, at: Revision) {
        let old = self.tree().find(from);
        let Some((parent, segment, Some(ino))) = old else { return };
        let within = to.strip_prefix(&self.options.prefix).filter(|path| !path.is_empty());
        if let Some(path) = within {
            let mut tree = self.tree();
            let (new_parent, new_segment) = place(&mut tree, path, at);
            tree.moved((parent, &segment), (new_parent, &new_segment));
        }
        self.tree().expire(ino, at);
        if let Some(kernel) = self.kernel.get() {
            for alias in [false, true] {
                kernel.forget_name(parent, &names::show(&segment.text, alias));
            }
        }
    }
}

/// Where a path below the mount is in the tree. Directories on the way that are not known are there, since the path is: what
/// else they are is asked when somebody wants to know it.
fn place(tree: &mut Tree, path: &str, at: Revision) -> (Ino, Segment) {
    let (above, last) = Segment::of_path(path);
    let mut parent = ROOT;
    for segment in above {
        let known = tree.child(parent, &segment).map(|(ino, _)| ino);
        parent = known.unwrap_or_else(|| {
            let ino = tree.adopt(parent, &segment, Node::default(), at);
            tree.look_again(ino);
            ino
        });
    }
    (parent, last)
}

#[cfg(test)]
mod tests {
    use holdfast_core::id::ObjectId;

    use super::*;

    #[test]
    fn a_rename_into_directories_that_are_not_known_is_followed() {
        let file = |text: &str| Segment { text: text.to_owned(), directory: false };
        let mut tree = Tree::new("p/", Node::default());
        let node = Node { object: ObjectId(7), ..Node::default() };
        let ino = tree.adopt(ROOT, &file("f"), node.clone(), 1);
        tree.looked_up(ino);
        let (parent, segment) = place(&mut tree, "a/b/g", 2);
        tree.moved((ROOT, &file("f")), (parent, &segment));
        assert_eq!(tree.key(ino).as_deref(), Some("p/a/b/g"));
        assert!(!tree.is_fresh(parent), "what the directories are is asked");
        // A later rename of such a directory takes it along, and a look finds it the same.
        let a = Segment { text: "a".to_owned(), directory: true };
        let (to, c) = place(&mut tree, "c/", 3);
        tree.moved((ROOT, &a), (to, &c));
        assert_eq!(tree.key(ino).as_deref(), Some("p/c/b/g"));
        let real = Node { object: ObjectId(9), ..Node::default() };
        let there = tree.find("p/c/").and_then(|(_, _, ino)| ino);
        assert_eq!(Some(tree.adopt(ROOT, &c, real, 4)), there, "the directory that is found there is this one");
        assert_eq!(tree.adopt(parent, &segment, node, 4), ino);
    }

    #[tokio::test]
    async fn what_came_waits_for_the_commit_under_way_and_for_no_later_one() {
        let flight = Flight::new();
        let passes = async |commits| timeout(Duration::from_millis(20), flight.wait_done(commits)).await.is_ok();
        assert!(passes(flight.begun()).await && !flight.is_busy());
        let first = flight.begin();
        let came = flight.begun();
        assert!(!passes(came).await && flight.is_busy());
        drop(first);
        let second = flight.begin();
        assert!(passes(came).await && !passes(flight.begun()).await);
        drop(second);
        assert!(!flight.is_busy());
    }
}
