//! All entries of a run, in order, for a merge: read ahead by a task that waits, taken by a thread that may block.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use holdfast_core::index::IndexRun;
use holdfast_core::index::run::{Block, Entry, Located};
use tokio::sync::mpsc;

use super::{Failed, READ_BYTES_MAX, Runs, decoded, lost};

/// Reads on their way to the thread that merges.
const READS_AHEAD: usize = 1;

/// The entries of a run.
///
/// # Errors
/// The items: the run ended before all its entries came. Whoever feeds it knows why.
#[derive(Debug)]
pub struct Scanned {
    blocks: mpsc::Receiver<Vec<Block>>,
    entries: VecDeque<Entry>,
    left: u64,
    ended: bool,
}

/// A scan ended early.
#[derive(Debug)]
pub struct Cut;

impl Iterator for Scanned {
    type Item = Result<Entry, Cut>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(entry) = self.entries.pop_front() {
                self.left = self.left.saturating_sub(1);
                return Some(Ok(entry));
            }
            match self.blocks.blocking_recv() {
                Some(blocks) => self.entries.extend(blocks.iter().flat_map(Block::entries)),
                None if self.left > 0 && !self.ended => {
                    self.ended = true;
                    return Some(Err(Cut));
                }
                None => return None,
            }
        }
    }
}

impl Runs {
    /// A scan of a run, and what must run meanwhile to feed it.
    pub fn scan<'a>(&'a self, run: &'a IndexRun) -> (Scanned, impl Future<Output = Result<(), Failed>> + Send + 'a) {
        let (sender, blocks) = mpsc::channel(READS_AHEAD);
        let scanned = Scanned { blocks, entries: VecDeque::new(), left: run.row.entries, ended: false };
        (scanned, self.feed_scan(run, sender))
    }

    async fn feed_scan(&self, run: &IndexRun, sender: mpsc::Sender<Vec<Block>>) -> Result<(), Failed> {
        let fed = self.feed_blocks(run, sender).await;
        self.lost.fetch_add(u64::from(matches!(fed, Err(Failed::Lost { .. }))), Ordering::Relaxed);
        fed
    }

    async fn feed_blocks(&self, run: &IndexRun, sender: mpsc::Sender<Vec<Block>>) -> Result<(), Failed> {
        let mut opened = self.opened(run).await?;
        let mut rest = Some(opened.whole());
        let mut entries = 0;
        while let Some(interval) = rest.take() {
            let blocks = loop {
                match opened.locate(&interval).map_err(|error| lost(run, error))? {
                    Located::Blocks(blocks) => break blocks,
                    Located::Fences(range) => {
                        let bytes = self.fetch(run, range.clone()).await?;
                        let fed = Arc::make_mut(&mut opened);
                        fed.feed(range.start, &bytes).map_err(|error| lost(run, error))?;
                    }
                }
            };
            for read in blocks.reads(READ_BYTES_MAX) {
                let bytes = self.fetch(run, read.range.clone()).await?;
                let found = decoded(run, &opened, &read, bytes).await?;
                entries += found.iter().map(|block| block.len() as u64).sum::<u64>();
                // Whoever merges has failed, and says so.
                if sender.send(found).await.is_err() {
                    return Ok(());
                }
            }
            rest = blocks.rest;
        }
        if entries == run.row.entries { Ok(()) } else { Err(lost(run, "it lacks entries")) }
    }
}
