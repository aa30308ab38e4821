//! The seam between the rules and an ordered key-value engine.
//!
//! A **view** ([`KvRead`]) is one immutable state of all keyspaces; an **engine** ([`Kv`]) hands out views and
//! commits [`Batch`]es. Two real implementations exist: [`MemKv`] here (tests, models, simulation) and the disk engine
//! of the gateway. [`Overlay`] is a view with uncommitted writes on top: commands of one log batch see each other
//! through it and reach the engine as a single batch.
//!
//! Promises every implementation keeps (the conformance suite checks them):
//! - a batch becomes visible whole or not at all, across keyspaces, also after a crash;
//! - a view never changes, whatever is committed after it was taken;
//! - keys of a keyspace are ordered bytewise; a scan yields each key once, in that order or its reverse.
//!
//! Deliberately absent: transactions, iterators that see later writes, time to live, durability per batch (the log
//! carries durability; [`Kv::sync`] is called before a snapshot is reported).

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, RwLock};

use bytes::Bytes;

use crate::keyspace::Keyspace;

pub mod conformance;

/// The engine could not read or write. The state machine cannot continue past it: the node stops.
#[derive(Debug, thiserror::Error)]
#[error("key-value engine failed while {doing}")]
pub struct KvError {
    /// What was tried.
    pub doing: &'static str,
    /// The engine's own error.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// A row: key and value.
pub type Row = (Bytes, Bytes);

/// Rows of a scan, in order; ends after the first error.
pub type Rows<'a> = Box<dyn Iterator<Item = Result<Row, KvError>> + Send + 'a>;

/// Which keys a scan covers: `from` inclusive to `to` exclusive; `to = None` means to the end of the keyspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRange {
    /// First key that may be yielded.
    pub from: Vec<u8>,
    /// First key past the range.
    pub to: Option<Vec<u8>>,
}

impl KeyRange {
    /// All keys that start with `prefix`.
    #[must_use]
    pub fn prefix(prefix: &[u8]) -> Self {
        Self { from: prefix.to_vec(), to: successor(prefix) }
    }

    /// All keys that start with `prefix` and are not below `from`.
    #[must_use]
    pub fn prefix_from(prefix: &[u8], from: Vec<u8>) -> Self {
        let from = if from.as_slice() < prefix { prefix.to_vec() } else { from };
        Self { from, to: successor(prefix) }
    }

    /// Whether no key can be in the range.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.to.as_ref().is_some_and(|to| *to <= self.from)
    }

    fn bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        let to = self.to.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        (Bound::Included(self.from.as_slice()), to)
    }
}

/// The smallest key greater than every key that starts with `prefix`; `None` when there is none.
#[must_use]
pub fn successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|&byte| byte != 0xff)?;
    let mut next = prefix[..=last].to_vec();
    next[last] += 1;
    Some(next)
}

/// Order of a scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Ascending keys.
    Forward,
    /// Descending keys.
    Reverse,
}

/// One immutable state of all keyspaces.
pub trait KvRead: Send + Sync {
    /// The value at `key`.
    ///
    /// # Errors
    /// [`KvError`] when the engine cannot read.
    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Bytes>, KvError>;

    /// The rows of `range`. Creating a scan costs one seek; dropping it early costs nothing.
    fn scan<'a>(&'a self, keyspace: Keyspace, range: KeyRange, direction: Direction) -> Rows<'a>;
}

impl<T: KvRead + ?Sized> KvRead for &T {
    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        (**self).get(keyspace, key)
    }
    fn scan<'a>(&'a self, keyspace: Keyspace, range: KeyRange, direction: Direction) -> Rows<'a> {
        (**self).scan(keyspace, range, direction)
    }
}

/// An ordered key-value engine.
pub trait Kv: Send + Sync {
    /// A view of this engine.
    type View: KvRead + 'static;

    /// The state now: every batch committed before the call, none after. Costs no copy.
    fn view(&self) -> Self::View;

    /// Applies `batch` atomically. After a crash either the whole batch is there or nothing of it; batches survive in
    /// commit order, but only [`Kv::sync`] promises that they survive power loss.
    ///
    /// # Errors
    /// [`KvError`] when the engine cannot write; the caller must stop using the engine.
    fn commit(&self, batch: Batch) -> Result<(), KvError>;

    /// Makes every committed batch survive power loss.
    ///
    /// # Errors
    /// [`KvError`] when the engine cannot sync; the caller must stop the process.
    fn sync(&self) -> Result<(), KvError>;
}

/// Writes that become visible together. The last write to a key wins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    writes: BTreeMap<Keyspace, BTreeMap<Vec<u8>, Option<Bytes>>>,
}

impl Batch {
    /// Sets `key` to `value`.
    pub fn put(&mut self, keyspace: Keyspace, key: Vec<u8>, value: impl Into<Bytes>) {
        self.writes.entry(keyspace).or_default().insert(key, Some(value.into()));
    }

    /// Removes `key`, present or not.
    pub fn delete(&mut self, keyspace: Keyspace, key: Vec<u8>) {
        self.writes.entry(keyspace).or_default().insert(key, None);
    }

    /// Adds the writes of `later`, which win over those already here.
    pub fn merge(&mut self, later: Batch) {
        for (keyspace, rows) in later.writes {
            self.writes.entry(keyspace).or_default().extend(rows);
        }
    }

    /// The writes in key order: keyspace, key, new value or `None` for a removal.
    pub fn writes(&self) -> impl Iterator<Item = (Keyspace, &[u8], Option<&Bytes>)> {
        self.writes
            .iter()
            .flat_map(|(keyspace, rows)| rows.iter().map(|(key, value)| (*keyspace, key.as_slice(), value.as_ref())))
    }

    /// The writes in key order, owned.
    pub fn into_writes(self) -> impl Iterator<Item = (Keyspace, Vec<u8>, Option<Bytes>)> {
        self.writes
            .into_iter()
            .flat_map(|(keyspace, rows)| rows.into_iter().map(move |(key, value)| (keyspace, key, value)))
    }

    /// Whether nothing is written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.writes.values().all(BTreeMap::is_empty)
    }

    /// As a put or delete; gives what was written of the key before.
    fn replace(&mut self, keyspace: Keyspace, key: Vec<u8>, value: Option<Bytes>) -> Option<Option<Bytes>> {
        self.writes.entry(keyspace).or_default().insert(key, value)
    }

    fn written(&self, keyspace: Keyspace, key: &[u8]) -> Option<&Option<Bytes>> {
        self.writes.get(&keyspace)?.get(key)
    }
}

/// A view with uncommitted writes on top.
#[derive(Debug)]
pub struct Overlay<V> {
    base: V,
    batch: Batch,
    /// What was written of each key before its last write, since the mark.
    undo: Option<Vec<Undo>>,
}

/// A key, and what had been written of it: nothing, a removal, or a value.
type Undo = (Keyspace, Vec<u8>, Option<Option<Bytes>>);

impl<V: KvRead> Overlay<V> {
    /// Nothing written yet: reads as `base`.
    pub fn new(base: V) -> Self {
        Self { base, batch: Batch::default(), undo: None }
    }

    /// Sets `key` to `value`.
    pub fn put(&mut self, keyspace: Keyspace, key: Vec<u8>, value: impl Into<Bytes>) {
        self.write(keyspace, key, Some(value.into()));
    }

    /// Removes `key`, present or not.
    pub fn delete(&mut self, keyspace: Keyspace, key: Vec<u8>) {
        self.write(keyspace, key, None);
    }

    fn write(&mut self, keyspace: Keyspace, key: Vec<u8>, value: Option<Bytes>) {
        match &mut self.undo {
            None => drop(self.batch.replace(keyspace, key, value)),
            Some(undo) => {
                let before = self.batch.replace(keyspace, key.clone(), value);
                undo.push((keyspace, key, before));
            }
        }
    }

    /// Adds the writes of `batch`.
    pub fn merge(&mut self, batch: Batch) {
        if self.undo.is_none() {
            self.batch.merge(batch);
            return;
        }
        for (keyspace, key, value) in batch.into_writes() {
            self.write(keyspace, key, value);
        }
    }

    /// What is written from here on can be taken back, by [`Overlay::rollback`]. A second mark takes the place of the first.
    pub fn mark(&mut self) {
        self.undo = Some(Vec::new());
    }

    /// Keeps what was written since the mark.
    pub fn keep(&mut self) {
        self.undo = None;
    }

    /// Takes back what was written since the mark.
    pub fn rollback(&mut self) {
        for (keyspace, key, before) in self.undo.take().unwrap_or_default().into_iter().rev() {
            let Some(rows) = self.batch.writes.get_mut(&keyspace) else { continue };
            match before {
                Some(value) => drop(rows.insert(key, value)),
                None => drop(rows.remove(&key)),
            }
            if rows.is_empty() {
                self.batch.writes.remove(&keyspace);
            }
        }
    }

    /// The writes, to be committed.
    #[must_use]
    pub fn into_batch(self) -> Batch {
        self.batch
    }
}

impl<V: KvRead> KvRead for Overlay<V> {
    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        match self.batch.written(keyspace, key) {
            Some(value) => Ok(value.clone()),
            None => self.base.get(keyspace, key),
        }
    }

    fn scan<'a>(&'a self, keyspace: Keyspace, range: KeyRange, direction: Direction) -> Rows<'a> {
        if range.is_empty() {
            return Box::new(std::iter::empty());
        }
        let Some(rows) = self.batch.writes.get(&keyspace) else {
            return self.base.scan(keyspace, range, direction);
        };
        let written = rows.range::<[u8], _>(range.bounds()).map(|(key, value)| (key.as_slice(), value));
        let written: Box<dyn Iterator<Item = Written<'a>> + Send + 'a> = match direction {
            Direction::Forward => Box::new(written),
            Direction::Reverse => Box::new(written.rev()),
        };
        let base = self.base.scan(keyspace, range.clone(), direction);
        Box::new(MergedRows { base: base.peekable(), written: written.peekable(), direction, failed: false })
    }
}

type Written<'a> = (&'a [u8], &'a Option<Bytes>);

/// Merges base rows with written ones; a written row hides the base row of the same key.
struct MergedRows<'a> {
    base: std::iter::Peekable<Rows<'a>>,
    written: std::iter::Peekable<Box<dyn Iterator<Item = Written<'a>> + Send + 'a>>,
    direction: Direction,
    failed: bool,
}

impl Iterator for MergedRows<'_> {
    type Item = Result<Row, KvError>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.failed {
            let Some((key, value)) = self.written.peek() else { return self.base.next() };
            if let Some(base) = self.base.peek() {
                let Ok((base_key, _)) = base else {
                    self.failed = true;
                    return self.base.next();
                };
                let order = match self.direction {
                    Direction::Forward => base_key.as_ref().cmp(key),
                    Direction::Reverse => key.cmp(&base_key.as_ref()),
                };
                if order.is_lt() {
                    return self.base.next();
                }
                if order.is_eq() {
                    self.base.next();
                }
            }
            let row = value.as_ref().map(|value| Ok((Bytes::copy_from_slice(key), value.clone())));
            self.written.next();
            if row.is_some() {
                return row;
            }
        }
        None
    }
}

type Rowset = BTreeMap<Keyspace, BTreeMap<Bytes, Bytes>>;

/// An engine in memory. Views are copies on write: a commit while a view is alive copies the maps once.
#[derive(Debug, Default)]
pub struct MemKv {
    rows: RwLock<Arc<Rowset>>,
}

/// A view of [`MemKv`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemView(Arc<Rowset>);

impl MemView {
    /// Every row: keyspace, key, value, in order.
    pub fn rows(&self) -> impl Iterator<Item = (Keyspace, &Bytes, &Bytes)> {
        self.0.iter().flat_map(|(keyspace, rows)| rows.iter().map(|(key, value)| (*keyspace, key, value)))
    }
}

impl Kv for MemKv {
    type View = MemView;

    fn view(&self) -> MemView {
        MemView(self.rows.read().expect("no writer panics while it holds the map").clone())
    }

    fn commit(&self, batch: Batch) -> Result<(), KvError> {
        let mut guard = self.rows.write().expect("no writer panics while it holds the map");
        let rows = Arc::make_mut(&mut guard);
        for (keyspace, key, value) in batch.into_writes() {
            let space = rows.entry(keyspace).or_default();
            match value {
                Some(value) => space.insert(Bytes::from(key), value),
                None => space.remove(key.as_slice()),
            };
        }
        rows.retain(|_, space| !space.is_empty());
        Ok(())
    }

    fn sync(&self) -> Result<(), KvError> {
        Ok(())
    }
}

impl KvRead for MemView {
    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        Ok(self.0.get(&keyspace).and_then(|rows| rows.get(key)).cloned())
    }

    fn scan<'a>(&'a self, keyspace: Keyspace, range: KeyRange, direction: Direction) -> Rows<'a> {
        let Some(rows) = self.0.get(&keyspace).filter(|_| !range.is_empty()) else {
            return Box::new(std::iter::empty());
        };
        let rows = rows.range::<[u8], _>(range.bounds()).map(|(key, value)| Ok((key.clone(), value.clone())));
        match direction {
            Direction::Forward => Box::new(rows),
            Direction::Reverse => Box::new(rows.rev()),
        }
    }
}

#[cfg(test)]
mod tests;
