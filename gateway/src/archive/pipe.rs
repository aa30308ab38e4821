//! A file written piece by piece into the backend: the writer blocks on a thread of its own, the put reads from it.
//!
//! Between them wait at most [`PIECES_MAX`] pieces, so a file is never in memory as a whole. Length and SHA-256 are taken on
//! the way. When the writer fails the put stores nothing; when the put fails the writer hears it at its next piece.

use std::io::{self, Write};

use bytes::Bytes;
use futures::stream;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio::time::{Duration, Instant};

use super::Error;
use super::names;
use crate::backend::{Backend, Body, Condition, PutOptions};

/// How long one file may take.
const FILE_DEADLINE: Duration = Duration::from_secs(60 * 60);
const PIECE_BYTES: usize = 1 << 20;
const PIECES_MAX: usize = 4;

type Piece = Result<Bytes, io::Error>;

/// The writing end.
#[derive(Debug)]
pub(super) struct Pipe {
    pieces: mpsc::Sender<Piece>,
    buffer: Vec<u8>,
    hash: Sha256,
    bytes: u64,
}

impl Pipe {
    fn send(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.buffer, Vec::with_capacity(PIECE_BYTES));
        self.hash.update(&piece);
        self.bytes += piece.len() as u64;
        let gone = |_| io::Error::new(io::ErrorKind::BrokenPipe, "the backend takes no more of the file");
        self.pieces.blocking_send(Ok(piece.into())).map_err(gone)
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= PIECE_BYTES {
            self.send()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What was stored.
#[derive(Clone, Debug)]
pub(super) struct StoredFile<T> {
    pub(super) bytes: u64,
    pub(super) sha256: String,
    /// What the writer came to.
    pub(super) value: T,
}

/// Stores what `write` writes under `name`, replacing a file that an earlier attempt left there.
pub(super) async fn store<T: Send + 'static>(
    backend: &dyn Backend,
    name: &str,
    write: impl FnOnce(&mut Pipe) -> Result<T, Error> + Send + 'static,
) -> Result<StoredFile<T>, Error> {
    let (pieces, received) = mpsc::channel::<Piece>(PIECES_MAX);
    let writer = tokio::task::spawn_blocking(move || {
        let mut pipe = Pipe { pieces, buffer: Vec::with_capacity(PIECE_BYTES), hash: Sha256::new(), bytes: 0 };
        let written = write(&mut pipe).and_then(|value| {
            pipe.send().map_err(|error| Error::Incomplete(error.to_string()))?;
            Ok(value)
        });
        match written {
            Ok(value) => {
                let sha256 = hex::encode(pipe.hash.finalize());
                Ok(StoredFile { bytes: pipe.bytes, sha256, value })
            }
            Err(error) => {
                // The put must not take what came so far for the whole. If it is gone already there is nobody to tell.
                let _ = pipe.pieces.blocking_send(Err(io::Error::other("the file could not be written to its end")));
                Err(error)
            }
        }
    });
    let body = Body::stream(stream::unfold(received, |mut received| async move {
        received.recv().await.map(|piece| (piece, received))
    }));
    let options = PutOptions {
        condition: Condition::Overwrite,
        deadline: Some(Instant::now() + FILE_DEADLINE),
        ..PutOptions::default()
    };
    let put = backend.put(&names::path(name), body, options).await;
    let written = writer.await.map_err(|error| Error::Incomplete(format!("the writer of {name} ended: {error}")))?;
    match (put, written) {
        (Ok(stored), Ok(file)) if stored.length == file.bytes => Ok(file),
        (Ok(stored), Ok(file)) => {
            let what = format!("{} bytes were stored of {}", stored.length, file.bytes);
            Err(Error::Damaged { name: name.to_owned(), what })
        }
        // The put's error is the cause when the writer only lost its reader.
        (Err(source), Err(Error::Incomplete(_)) | Ok(_)) => Err(names::failed("write", name)(source)),
        (_, Err(error)) => Err(error),
    }
}
