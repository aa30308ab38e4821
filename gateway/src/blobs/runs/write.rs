//! A new run: written piece by piece by a thread that may block, stored by a create-only put that reads from it.
//!
//! Between them wait at most [`PIECES_MAX`] pieces. When the writer fails the put stores nothing; when the put fails the
//! writer hears it at its next piece.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use holdfast_core::command::WrittenRun;
use holdfast_core::id::Revision;
use holdfast_core::index::run::{Entry, Header, Writer};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Runs;
use crate::backend::{Body, Condition, ObjectPath, PutOptions};
use crate::blobs::Error;

/// How long a run may take to be written. After that nobody's put of it goes on.
pub const WRITE_PATIENCE: Duration = Duration::from_secs(60 * 60);
const PIECE_BYTES: usize = 1 << 20;
const PIECES_MAX: usize = 4;

/// Where a run goes.
#[derive(Clone, Debug)]
pub struct NewRun {
    /// Name of its file.
    pub path: String,
    /// What it is of.
    pub header: Header,
}

type Piece = Result<Bytes, io::Error>;

/// Takes the entries of a run, in ascending order.
pub struct Sink {
    writer: Writer,
    out: Vec<u8>,
    pieces: mpsc::Sender<Piece>,
    /// Why it takes no more.
    cut: Option<String>,
}

impl Sink {
    /// Takes an entry.
    ///
    /// # Errors
    /// [`Error::Closed`] when it takes no more: [`Runs::write`] says why.
    pub fn push(&mut self, entry: &Entry) -> Result<(), Error> {
        if let Err(error) = self.writer.push(&entry.key, &entry.value, &mut self.out) {
            self.cut = Some(error.to_string());
            return Err(Error::Closed);
        }
        if self.out.len() >= PIECE_BYTES { self.send() } else { Ok(()) }
    }

    fn send(&mut self) -> Result<(), Error> {
        let piece = std::mem::replace(&mut self.out, Vec::with_capacity(PIECE_BYTES + PIECE_BYTES / 8));
        self.pieces.blocking_send(Ok(piece.into())).map_err(|_| {
            self.cut = Some("the backend takes no more of it".to_owned());
            Error::Closed
        })
    }

    /// Ends the run. `None` of one without an entry, of which nothing was sent.
    fn finish(mut self, through: Revision) -> Result<Option<WrittenRun>, String> {
        let summary = self.writer.finish(&mut self.out);
        if summary.entries == 0 {
            return Ok(None);
        }
        let gone = |_| "the backend takes no more of it".to_owned();
        self.pieces.blocking_send(Ok(self.out.into())).map_err(gone)?;
        let (bytes, entries, fences_at) = (summary.bytes, summary.entries, summary.fences_at);
        Ok(Some(WrittenRun { through, bytes, entries, fences_at }))
    }
}

/// What became of the entries.
enum Ended<E> {
    Written(Option<WrittenRun>),
    Failed(E),
    Cut(String),
}

impl Runs {
    /// Stores a run of the entries that `fill` gives, on a thread that may block; it also says through which revision the run
    /// speaks. `None` without an entry: then nothing is stored.
    ///
    /// # Errors
    /// What `fill` fails with; [`Error::Run`] when the backend does not take the run.
    pub async fn write<E: From<Error> + Send + 'static>(
        &self,
        new: NewRun,
        fill: impl FnOnce(&mut Sink) -> Result<Revision, E> + Send + 'static,
    ) -> Result<Option<WrittenRun>, E> {
        let failed = |source| Error::Run { doing: "write", path: new.path.clone(), source: Arc::new(source) };
        let path = ObjectPath::new(&new.path).map_err(failed)?;
        let (pieces, received) = mpsc::channel::<Piece>(PIECES_MAX);
        let header = new.header;
        let filling = tokio::task::spawn_blocking(move || filled(header, pieces, fill));
        let stored = self.store(&path, received).await;
        match (filling.await.map_err(|_| Error::Closed)?, stored) {
            (Ended::Failed(error), _) => Err(error),
            (Ended::Written(None), None) => Ok(None),
            (Ended::Written(Some(written)), Some(Ok(length))) if length == written.bytes => Ok(Some(written)),
            // The put's error is the cause when the other side only lost its reader.
            (_, Some(Err(source))) => Err(failed(source).into()),
            (Ended::Cut(why), _) => {
                tracing::error!(path = new.path, why, "a run could not be written");
                Err(Error::Closed.into())
            }
            (Ended::Written(written), stored) => {
                tracing::error!(path = new.path, ?stored, ?written, "a run was not stored whole");
                Err(Error::Closed.into())
            }
        }
    }

    /// Stores what comes; `None` when nothing does. The bytes that were stored.
    async fn store(
        &self,
        path: &ObjectPath,
        mut received: mpsc::Receiver<Piece>,
    ) -> Option<crate::backend::Result<u64>> {
        // A run that is empty, or fails before its first piece, is never begun.
        let first = received.recv().await?.ok()?;
        let body = stream::unfold((Some(Ok(first)), received), |(next, mut received)| async move {
            let piece = match next {
                Some(piece) => piece,
                None => received.recv().await?,
            };
            Some((piece, (None, received)))
        });
        let deadline = Some(Instant::now() + WRITE_PATIENCE);
        let options = PutOptions { condition: Condition::IfAbsent, deadline, ..PutOptions::default() };
        Some(self.backend.put(path, Body::stream(body), options).await.map(|stored| stored.length))
    }
}

fn filled<E>(
    header: Header,
    pieces: mpsc::Sender<Piece>,
    fill: impl FnOnce(&mut Sink) -> Result<Revision, E>,
) -> Ended<E> {
    let mut out = Vec::new();
    let writer = Writer::start(header, &mut out);
    let mut sink = Sink { writer, out, pieces: pieces.clone(), cut: None };
    let ended = match fill(&mut sink) {
        Ok(through) => sink.finish(through).map_or_else(Ended::Cut, Ended::Written),
        Err(error) => match sink.cut {
            Some(why) => Ended::Cut(why),
            None => Ended::Failed(error),
        },
    };
    if !matches!(ended, Ended::Written(_)) {
        // The put must not take what came so far for the whole. If it is gone already there is nobody to tell.
        let _ = pieces.blocking_send(Err(io::Error::other("the run could not be written to its end")));
    }
    ended
}
