//! Looking up names: processes that look at one moment share a question to the repository.
//!
//! At most [`ASKING_MAX`] questions are under way. Who comes meanwhile waits for the next one, which begins after it came: so
//! what it is told is never older than its own look.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use holdfast_core::id::Revision;
use holdfast_core::mount::{Answer, Call, Entry, STAT_PATHS_MAX, Stat};
use tokio::sync::oneshot;

use super::Vfs;
use crate::error::Errno;

/// Questions under way at once: one that is slow does not hold up all others.
const ASKING_MAX: usize = 2;

/// Those who wait.
#[derive(Debug, Default)]
pub(super) struct Looks(Mutex<Crowd>);

#[derive(Debug, Default)]
struct Crowd {
    asking: usize,
    waiting: VecDeque<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    path: String,
    turn: oneshot::Sender<Turn>,
}

/// What becomes of one who waits.
#[derive(Debug)]
enum Turn {
    /// Another has asked for it.
    Told(Result<Box<(Entry, Revision)>, Errno>),
    /// It is to ask, for itself and for those who wait.
    Ask(Asking),
}

/// The right to ask. Given on when it ends, however that comes: also when whoever got it is gone by then.
#[derive(Debug)]
struct Asking(Arc<Looks>);

impl Looks {
    fn crowd(&self) -> MutexGuard<'_, Crowd> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The right to ask at once, or where the turn comes.
    fn come(self: &Arc<Self>, path: &str) -> Result<Asking, oneshot::Receiver<Turn>> {
        let mut crowd = self.crowd();
        if crowd.asking < ASKING_MAX {
            crowd.asking += 1;
            return Ok(Asking(Arc::clone(self)));
        }
        let (turn, comes) = oneshot::channel();
        crowd.waiting.push_back(Waiting { path: path.to_owned(), turn });
        Err(comes)
    }

    /// Those whom the next question is for, too.
    fn take(&self) -> Vec<Waiting> {
        let mut crowd = self.crowd();
        let count = crowd.waiting.len().min(STAT_PATHS_MAX - 1);
        crowd.waiting.drain(..count).filter(|waiting| !waiting.turn.is_closed()).collect()
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        let next = {
            let mut crowd = self.0.crowd();
            let next = crowd.waiting.pop_front();
            if next.is_none() {
                crowd.asking -= 1;
            }
            next
        };
        if let Some(next) = next {
            // Who waits no more drops it, and so gives it on.
            drop(next.turn.send(Turn::Ask(Self(Arc::clone(&self.0)))));
        }
    }
}

impl Vfs {
    /// What has each of these paths, and as of which revision.
    pub(super) async fn stat(&self, paths: Vec<String>) -> Result<(Vec<Entry>, Revision), Errno> {
        let count = paths.len();
        let call = Call::Stat(Stat { paths });
        let told = self.remote.call(&call, Bytes::new(), &[], Vfs::deadline()).await.map_err(|error| error.errno())?;
        match told.answer {
            Answer::Entries(entries) if entries.len() == count => Ok((entries, told.revision)),
            _ => Err(Errno::EIO),
        }
    }

    /// As [`Vfs::stat`], of one path.
    pub(super) async fn stat_one(&self, path: String) -> Result<(Entry, Revision), Errno> {
        loop {
            let _asking = match self.looks.come(&path) {
                Ok(asking) => asking,
                Err(comes) => match comes.await {
                    Ok(Turn::Told(told)) => return told.map(|told| *told),
                    Ok(Turn::Ask(asking)) => asking,
                    // Whoever asked for it waits no more itself.
                    Err(_) => continue,
                },
            };
            let others = self.looks.take();
            let paths = std::iter::once(path.clone()).chain(others.iter().map(|other| other.path.clone())).collect();
            let (mut entries, as_of) = match self.stat(paths).await {
                Ok((entries, as_of)) => (entries.into_iter(), as_of),
                Err(errno) => {
                    others.into_iter().for_each(|other| drop(other.turn.send(Turn::Told(Err(errno)))));
                    return Err(errno);
                }
            };
            let mine = entries.next().ok_or(Errno::EIO)?;
            for (other, entry) in others.into_iter().zip(entries) {
                // One that waits no more needs no answer.
                let _ = other.turn.send(Turn::Told(Ok(Box::new((entry, as_of)))));
            }
            return Ok((mine, as_of));
        }
    }
}
