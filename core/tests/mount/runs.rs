//! Bytes that need no memory: which bytes of which blob, one after the other. What a blob was made of is known, so two
//! contents are equal exactly when their bytes are.

use std::collections::BTreeMap;
use std::ops::Range;

use holdfast_core::id::BlobId;
use holdfast_core::record::Extent;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    pub blob: BlobId,
    pub start: u64,
    pub length: u64,
}

/// Runs one after the other; neighbours that continue each other are one run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Runs(Vec<Run>);

impl Runs {
    pub fn of(blob: BlobId, length: u64) -> Self {
        let mut runs = Self::default();
        runs.push(Run { blob, start: 0, length });
        runs
    }

    pub fn hole(length: u64) -> Self {
        Self::of(BlobId::HOLE, length)
    }

    pub fn len(&self) -> u64 {
        self.0.iter().map(|run| run.length).sum()
    }

    pub fn holes(&self) -> u64 {
        self.0.iter().filter(|run| run.blob == BlobId::HOLE).map(|run| run.length).sum()
    }

    fn push(&mut self, run: Run) {
        let start = if run.blob == BlobId::HOLE { 0 } else { run.start };
        let hole = run.blob == BlobId::HOLE;
        match self.0.last_mut() {
            _ if run.length == 0 => {}
            Some(last) if last.blob == run.blob && (hole || last.start + last.length == run.start) => {
                last.length += run.length;
            }
            _ => self.0.push(Run { start, ..run }),
        }
    }

    pub fn extend(&mut self, other: &Self) {
        other.0.iter().for_each(|run| self.push(*run));
    }

    pub fn slice(&self, range: Range<u64>) -> Self {
        let (mut slice, mut at) = (Self::default(), 0);
        for run in &self.0 {
            let (from, to) = (range.start.max(at), range.end.min(at + run.length));
            if from < to {
                slice.push(Run { start: run.start + (from - at), length: to - from, ..*run });
            }
            at += run.length;
        }
        slice
    }

    pub fn resize(&mut self, size: u64) {
        let length = self.len();
        if size > length {
            self.extend(&Self::hole(size - length));
        }
        *self = self.slice(0..size);
    }

    /// Writes over what is there; what is skipped is a hole.
    pub fn write(&mut self, offset: u64, bytes: &Self) {
        let size = self.len().max(offset + bytes.len());
        self.resize(size);
        let mut whole = self.slice(0..offset);
        whole.extend(bytes);
        whole.extend(&self.slice(offset + bytes.len()..size));
        *self = whole;
    }

    /// The bytes of extents; `known` tells what blobs that jobs wrote are made of.
    pub fn from_extents(extents: &[Extent], known: &BTreeMap<BlobId, Self>) -> Self {
        let mut runs = Self::default();
        for extent in extents {
            let (start, end) = (extent.blob_offset, extent.blob_offset + extent.length);
            match known.get(&extent.blob) {
                Some(made_of) => runs.extend(&made_of.slice(start..end)),
                None => runs.push(Run { blob: extent.blob, start, length: extent.length }),
            }
        }
        runs
    }
}
