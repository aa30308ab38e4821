//! Which directories are known to be durable, and the shared syncs that make them so.
//!
//! A file's name is durable once its directory is synced, and the directory's own name is in turn an entry of its parent. So a
//! put must sync its directory, and the parent of every ancestor that may be new. [`Durable`] remembers ancestors that were
//! synced once, so that the usual put syncs one directory.
//!
//! Empty directories are removed, which makes such memory dangerous: a put could trust an ancestor that was removed and made
//! anew, unsynced, by somebody else. Each removal therefore happens under the mutex together with forgetting the directory and
//! raising the epoch. A put reads the epoch with its plan and again after its file has its name. If it changed, the put trusts
//! nothing and syncs all ancestors. If not, no directory went away in between, so each one the plan trusted is the one that
//! was synced; and from then on the file itself keeps its ancestors from being removed.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::try_join_all;
use tokio::sync::oneshot;

use super::super::{BoxError, Error, Result, chain};
use super::store::Store;

/// Most directories remembered. When full, all are forgotten: each then costs one sync more, once.
const DIRECTORIES_KNOWN_MAX: usize = 16 * 1024;

#[derive(Default)]
pub(super) struct Durable {
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    epoch: u64,
    directories: HashSet<String>,
}

/// What a put has to do for the directory of its name.
#[derive(Debug)]
pub(super) struct Plan {
    epoch: u64,
    /// The directory and its ancestors, the topmost first.
    all: Vec<String>,
    /// Those that may not exist or not be durable.
    pub unknown: Vec<String>,
}

impl Durable {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn plan(&self, directory: &str) -> Plan {
        let all = lineage(directory);
        let known = self.known();
        let unknown = all.iter().filter(|directory| !known.directories.contains(*directory)).cloned().collect();
        Plan { epoch: known.epoch, all, unknown }
    }

    /// The directories to sync now that the file has its name.
    pub fn to_sync(&self, plan: &Plan) -> Vec<String> {
        let is_unchanged = self.known().epoch == plan.epoch;
        let fresh = if is_unchanged { &plan.unknown } else { &plan.all };
        let mut directories: Vec<String> = fresh.iter().map(|directory| parent(directory).to_owned()).collect();
        directories.push(plan.all.last().cloned().unwrap_or_default());
        directories
    }

    /// Remembers the directories of a plan after their syncs, unless one may be gone already.
    pub fn learn(&self, plan: Plan) {
        let mut known = self.known();
        if known.epoch != plan.epoch {
            return;
        }
        if known.directories.len() + plan.unknown.len() > DIRECTORIES_KNOWN_MAX {
            known.directories.clear();
        }
        known.directories.extend(plan.unknown);
    }

    /// Forgets a directory and its ancestors, one of which turned out to be missing.
    pub fn forget(&self, directory: &str) {
        let mut known = self.known();
        known.epoch += 1;
        for directory in lineage(directory) {
            known.directories.remove(&directory);
        }
    }

    /// Removes a directory if it is empty, and forgets it.
    pub fn remove(&self, store: &Store, directory: &str) -> io::Result<()> {
        let mut known = self.known();
        store.root.remove_dir(directory)?;
        known.epoch += 1;
        known.directories.remove(directory);
        Ok(())
    }
}

/// `a/b/c` → `a`, `a/b`, `a/b/c`.
fn lineage(directory: &str) -> Vec<String> {
    let ends = directory.match_indices('/').map(|(at, _)| at);
    let mut all: Vec<String> = ends.map(|end| directory[..end].to_owned()).collect();
    if !directory.is_empty() {
        all.push(directory.to_owned());
    }
    all
}

fn parent(directory: &str) -> &str {
    directory.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// Shares directory syncs: whoever asks while a sync of the directory runs is served by the next one, together with all
/// others who asked meanwhile.
#[derive(Default)]
pub(super) struct Syncer {
    /// Present while a sync of the directory runs; holds those who wait for the next one.
    waiting: Mutex<HashMap<String, Vec<oneshot::Sender<Answer>>>>,
}

/// How a sync went, for all who waited for it.
type Answer = std::result::Result<(), Cause>;

#[derive(Clone, Debug)]
enum Cause {
    /// The store is closed for writes.
    Poisoned(String),
    /// The sync did not even begin.
    NotBegun(String),
}

impl Syncer {
    fn waiting(&self) -> MutexGuard<'_, HashMap<String, Vec<oneshot::Sender<Answer>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a wish; says whether the caller has to start the syncs of this directory.
    fn enqueue(&self, directory: &str) -> (oneshot::Receiver<Answer>, bool) {
        let (sender, receiver) = oneshot::channel();
        let mut waiting = self.waiting();
        match waiting.get_mut(directory) {
            Some(next) => {
                next.push(sender);
                (receiver, false)
            }
            None => {
                waiting.insert(directory.to_owned(), vec![sender]);
                (receiver, true)
            }
        }
    }

    /// Those to be served by the sync that starts now; `None` ends the run.
    fn take(&self, directory: &str) -> Option<Vec<oneshot::Sender<Answer>>> {
        let mut waiting = self.waiting();
        let served = std::mem::take(waiting.get_mut(directory)?);
        if served.is_empty() {
            waiting.remove(directory);
            return None;
        }
        Some(served)
    }

    fn run(store: &Store, directory: &str) {
        while let Some(served) = store.syncer.take(directory) {
            let answer = match store.sync_directory(directory) {
                Err(Error::Poisoned { cause }) => Err(Cause::Poisoned(cause)),
                Err(other) => Err(Cause::NotBegun(chain(&other))),
                Ok(()) => Ok(()),
            };
            for waiter in served {
                // A waiter that is gone does not want to know.
                let _ = waiter.send(answer.clone());
            }
        }
    }
}

/// Makes all entries of these directories durable, as they are when this is called.
pub(super) async fn sync_directories(store: &Arc<Store>, directories: &[String]) -> Result<()> {
    try_join_all(directories.iter().map(|directory| sync_one(store, directory))).await.map(drop)
}

async fn sync_one(store: &Arc<Store>, directory: &str) -> Result<()> {
    let (answer, is_first) = store.syncer.enqueue(directory);
    if is_first {
        let (store, directory) = (Arc::clone(store), directory.to_owned());
        let tracker = store.tracker.clone();
        drop(tracker.spawn_blocking(move || Syncer::run(&store, &directory)));
    }
    match answer.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(Cause::Poisoned(cause))) => Err(Error::Poisoned { cause }),
        Ok(Err(Cause::NotBegun(cause))) => Err(unknown(directory, cause)),
        // The runtime goes down before the sync ran.
        Err(gone) => Err(unknown(directory, gone)),
    }
}

/// The change is visible, and may be gone after a crash.
fn unknown(directory: &str, source: impl Into<BoxError>) -> Error {
    Error::Unknown { action: "make durable", path: directory.to_owned(), source: source.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_names_parents_of_what_is_new() {
        let durable = Durable::default();
        let plan = durable.plan("a/b");
        assert_eq!(plan.unknown, ["a", "a/b"]);
        assert_eq!(durable.to_sync(&plan), ["", "a", "a/b"]);
        durable.learn(plan);
        let plan = durable.plan("a/b/c");
        assert_eq!(durable.to_sync(&plan), ["a/b", "a/b/c"]);
        assert_eq!(durable.to_sync(&durable.plan("")), [""]);
    }

    #[test]
    fn a_removal_during_a_put_makes_it_trust_nothing() {
        let durable = Durable::default();
        durable.learn(durable.plan("a/b"));
        let plan = durable.plan("a/b");
        assert_eq!(durable.to_sync(&plan), ["a/b"]);
        durable.forget("a/b");
        assert_eq!(durable.to_sync(&plan), ["", "a", "a/b"]);
        durable.learn(plan);
        assert_eq!(durable.plan("a/b").unknown, ["a", "a/b"], "nothing is learnt from an outdated plan");
    }

    #[test]
    fn memory_is_bounded() {
        let durable = Durable::default();
        for number in 0..DIRECTORIES_KNOWN_MAX + 10 {
            durable.learn(durable.plan(&format!("d{number}")));
        }
        assert!(durable.known().directories.len() <= DIRECTORIES_KNOWN_MAX);
    }
}
