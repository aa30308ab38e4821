//! Merges runs, and whatever else gives sorted entries.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::Entry;

/// Merges entries: of equal keys the entry of the first source that has it, if `keep` says so.
///
/// Sources stand with the newest first, and each gives its entries in ascending order; so does the merge. An entry that
/// `keep` refuses is left out together with those that it replaces, so a refused entry is how a key ends. The merge ends
/// after the first error. Memory: an entry of each source.
pub fn merge<S, E, P>(sources: Vec<S>, keep: P) -> Merge<S, P>
where
    S: Iterator<Item = Result<Entry, E>>,
    P: FnMut(&Entry) -> bool,
{
    let behind = (0..sources.len()).collect();
    Merge { heads: BinaryHeap::with_capacity(sources.len()), sources, behind, keep }
}

/// The entries of several sources in one order; see [`merge()`].
pub struct Merge<S, P> {
    sources: Vec<S>,
    heads: BinaryHeap<Head>,
    /// Sources whose next entry is not among the heads yet.
    behind: Vec<usize>,
    keep: P,
}

/// The next entry of a source. The greatest head has the least key, and of equal keys the newest source.
struct Head {
    entry: Entry,
    source: usize,
}

impl Ord for Head {
    fn cmp(&self, other: &Self) -> Ordering {
        other.entry.key.cmp(&self.entry.key).then(other.source.cmp(&self.source))
    }
}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Head {}

impl<S, E, P> Merge<S, P>
where
    S: Iterator<Item = Result<Entry, E>>,
    P: FnMut(&Entry) -> bool,
{
    /// The least entry of all sources; those of the same key that are older are dropped.
    fn least(&mut self) -> Result<Option<Entry>, E> {
        for source in self.behind.drain(..) {
            if let Some(entry) = self.sources[source].next() {
                self.heads.push(Head { entry: entry?, source });
            }
        }
        let Some(least) = self.heads.pop() else { return Ok(None) };
        self.behind.push(least.source);
        while self.heads.peek().is_some_and(|head| head.entry.key == least.entry.key) {
            self.behind.extend(self.heads.pop().map(|replaced| replaced.source));
        }
        Ok(Some(least.entry))
    }
}

impl<S, E, P> Iterator for Merge<S, P>
where
    S: Iterator<Item = Result<Entry, E>>,
    P: FnMut(&Entry) -> bool,
{
    type Item = Result<Entry, E>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.least() {
                Ok(Some(entry)) if (self.keep)(&entry) => return Some(Ok(entry)),
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(error) => {
                    self.behind.clear();
                    self.heads.clear();
                    return Some(Err(error));
                }
            }
        }
    }
}
