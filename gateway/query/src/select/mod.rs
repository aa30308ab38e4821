//! S3 Select: a statement over the records of one object, or of all objects under a prefix.
//! Source: S3 API, SelectObjectContent; Amazon S3 User Guide, "SQL reference for Amazon S3 Select".
//!
//! ```text
//! request → parse ─→ open: header, columns, row groups ─→ feed: pieces of whole records ─→ run: csv | json | columnar
//!                └→ prune: what indexes leave out                                            └→ eval → output → answer
//! ```
//! Pieces are worked on by all threads of the engine at once, and their results are put together in the order of the
//! records: a statement has one answer, whatever the number of threads.
//!
//! Values have the types of the format; a field of CSV is text that is read as what stands beside it ([`value`]).

mod aggregate;
mod answer;
mod columnar;
mod csv;
mod error;
mod eval;
mod feed;
mod json;
mod like;
mod open;
mod output;
mod parse;
mod prune;
mod request;
mod run;
mod syntax;
mod timestamp;
mod token;
mod value;

use std::sync::Arc;

use futures::stream::BoxStream;

pub use self::answer::Event;
pub use self::error::Error;
pub use self::parse::EXPRESSION_BYTES_MAX;
pub use self::request::{CsvInput, CsvOutput, Format, Header, Input, Output, Request, ScanRange, Stats, Target};
use crate::engine::{Engine, Turn};
use crate::repository::Repository;
pub use crate::sql::{Compression, Progress};

/// A request that makes sense, and holds its place among the queries that run.
pub struct Selection {
    work: open::Work,
    revision: u64,
    turn: Turn,
}

impl std::fmt::Debug for Selection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Selection").field("revision", &self.revision).finish_non_exhaustive()
    }
}

impl Engine {
    /// Parses a request and opens its first object at a linearizable view, so that what is wrong with either is told before
    /// the first event.
    ///
    /// # Errors
    /// By AWS's codes; those of the repository; and `TooManyQueries` when too many wait already.
    ///
    /// # Cancel safety
    /// Dropping the future ends the work.
    pub async fn select(
        &self,
        repository: Arc<dyn Repository>,
        target: Target,
        request: Request,
    ) -> Result<Selection, Error> {
        let deadline = self.deadline();
        // Expressions are parsed by recursion, for which the threads of the engine have the stack.
        let planned = self.run(deadline, async move { open::plan(target, request) }).await?;
        let turn = self.turn(deadline).await?;
        let (budget, footers) = (turn.budget(), turn.caches().footers.clone());
        let threads = turn.limits().threads.get();
        let (work, revision) = turn.run(open::open(repository, planned, budget, footers, threads)).await?;
        Ok(Selection { work, revision, turn })
    }
}

impl Selection {
    /// The revision that it reads at.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// What it did until now.
    #[must_use]
    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(self.turn.progress())
    }

    /// Runs it: records, then [`Event::Stats`] and [`Event::End`]. What goes wrong on the way ends the stream without them.
    /// Dropping it ends the work.
    #[must_use]
    pub fn run(self) -> BoxStream<'static, Result<Event, Error>> {
        let (work, progress) = (self.work, Arc::clone(self.turn.progress()));
        self.turn.stream(move |sender| answer::deliver(work, progress, sender))
    }
}
