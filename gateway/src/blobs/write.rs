//! From a body to durable bytes that a command can name.
//!
//! Small bodies are collected and travel in the command; the caller decides the limit, because it depends on backend and
//! bucket. Everything else streams to the backend under the name of a new blob. The body verifies itself: its stream must
//! not end well before every declared length, digest and trailer was found right, and the backend stores nothing of a
//! stream that fails.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use holdfast_core::command::{Digests, NewBlob, NewContent, NewPlace};
use holdfast_core::id::{BlobId, BucketName, ObjectKey};
use holdfast_core::path::blob_path;
use holdfast_core::rules::BLOCK_BYTES;
use tokio::time::Instant;

use super::guard::InFlightGuard;
use super::{Blobs, Error};
use crate::backend::{Body, BoxError, DeleteOptions, GetOptions, ObjectPath, PutOptions};

/// How long the clean-up of one failed or refused upload may take. What it leaves is found by the orphan sweep.
pub const DISCARD_PATIENCE: Duration = Duration::from_secs(30);
/// Clean-ups that run at a time; past it the orphan sweep does the work.
pub const DISCARDS_MAX: usize = 256;

/// A piece of a body, or why it failed.
pub type Piece = Result<Bytes, BoxError>;

/// A body on its way in.
pub struct Incoming {
    length: Option<u64>,
    pieces: BoxStream<'static, Piece>,
    verified: Pin<Box<dyn Future<Output = Result<Verified, BoxError>> + Send>>,
}

/// What a body turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Bytes.
    pub size: u64,
    /// Digests of the bytes.
    pub digests: Digests,
    /// CRC-32C of each block of 128 KiB, the last one shorter.
    pub crcs: Vec<u32>,
}

/// How to write.
#[derive(Clone, Copy, Debug, Default)]
pub struct WriteOptions {
    /// Bodies up to this many bytes travel in the command; 0 for none.
    pub inline_bytes: u64,
    /// When to give up, at the latest.
    pub deadline: Option<Instant>,
}

/// Verified bytes, durable or at hand, which no row names yet.
///
/// Keep it until the command that carries [`Written::content`] is answered: it keeps the sweep away. Dropping it leaves the
/// bytes where they are, which is right also when the answer is not known; see [`Blobs::discard`] for when it is "no".
#[derive(Debug)]
pub struct Written {
    /// What the command carries.
    pub content: NewContent,
    upload: Option<Upload>,
}

/// A blob of the backend that no row names.
#[derive(Debug)]
pub(crate) struct Upload {
    pub(crate) blob: BlobId,
    pub(crate) path: ObjectPath,
    _guard: InFlightGuard,
}

impl Incoming {
    /// A body: its declared length, its pieces, and what it turned out to be, which is asked for once the pieces have
    /// ended well.
    pub fn new<S, E, V, F>(length: Option<u64>, pieces: S, verified: V) -> Self
    where
        S: Stream<Item = Result<Bytes, E>> + Send + 'static,
        E: Into<BoxError>,
        V: Future<Output = Result<Verified, F>> + Send + 'static,
        F: Into<BoxError>,
    {
        let verified = Box::pin(async move { verified.await.map_err(Into::into) });
        Self { length, pieces: pieces.map(|piece| piece.map_err(Into::into)).boxed(), verified }
    }

    /// The declared length.
    #[must_use]
    pub fn length(&self) -> Option<u64> {
        self.length
    }
}

impl Incoming {
    /// The same body; `look` sees each piece as it passes.
    #[must_use]
    pub fn inspect(self, mut look: impl FnMut(&Bytes) + Send + 'static) -> Self {
        let pieces = self.pieces.inspect(move |piece| {
            if let Ok(bytes) = piece {
                look(bytes);
            }
        });
        Self { pieces: pieces.boxed(), ..self }
    }
}

/// What was collected of a body, and whether that is all.
enum Collected {
    All(Bytes),
    Start(Vec<Bytes>),
}

impl Blobs {
    /// Stores a body: at hand when it is small, else in the backend. Nothing of it is visible.
    ///
    /// # Errors
    /// [`Error::Body`] and [`Error::Length`] for the body, [`Error::Backend`] for the store. Nothing is left but, at worst,
    /// bytes that the orphan sweep finds.
    ///
    /// # Cancel safety
    /// A dropped call stores nothing that any row could name; the orphan sweep finds what is left.
    pub async fn write(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        incoming: Incoming,
        options: WriteOptions,
    ) -> Result<Written, Error> {
        let Incoming { length, mut pieces, verified } = incoming;
        let buffered = match length {
            Some(length) if length > options.inline_bytes => Vec::new(),
            _ => match collect(&mut pieces, options.inline_bytes, length).await? {
                Collected::All(bytes) => {
                    let verified = verified.await.map_err(body_failed)?;
                    return self.at_hand(bytes, verified);
                }
                Collected::Start(buffered) => buffered,
            },
        };
        let _busy = self.busy().enter();
        let body = stream::iter(buffered.into_iter().map(Ok)).chain(pieces);
        let upload = self.upload(bucket, key, Body::stream(body), length, options.deadline).await?;
        let verified = match verified.await {
            Ok(verified) => verified,
            Err(error) => {
                self.discard_upload(upload.0);
                return Err(body_failed(error));
            }
        };
        if verified.size != upload.1 || !is_covered(&verified) {
            let blob = upload.0.blob;
            self.discard_upload(upload.0);
            return Err(Error::Mismatch { blob, what: "was stored with another length than its body has" });
        }
        Ok(stored(verified, upload.0))
    }

    /// Takes back what was written, because the command that names it was refused or never proposed. Never call it when
    /// the command's fate is unknown. Returns at once; the bytes go in the background.
    pub fn discard(&self, written: Written) {
        if let Some(upload) = written.upload {
            self.discard_upload(upload);
        }
    }

    /// Bytes that a command carries.
    fn at_hand(&self, bytes: Bytes, verified: Verified) -> Result<Written, Error> {
        let blob = self.mint();
        if verified.size != bytes.len() as u64 || !is_covered(&verified) {
            return Err(Error::Mismatch { blob, what: "was collected with another length than its body has" });
        }
        let crcs = crc_bytes(&verified.crcs);
        let blob = (!bytes.is_empty()).then(|| NewBlob { id: blob, place: NewPlace::Inline(bytes), crcs });
        let content = NewContent { size: verified.size, blob, digests: verified.digests };
        Ok(Written { content, upload: None })
    }

    /// Streams a body to a new blob of the backend: its name, and how many bytes were stored.
    pub(crate) async fn upload(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        body: Body,
        length: Option<u64>,
        deadline: Option<Instant>,
    ) -> Result<(Upload, u64), Error> {
        let upload = self.new_upload(|blob| blob_path(bucket, key, blob))?;
        let options = PutOptions { length, deadline, ..PutOptions::default() };
        match self.backend().put(&upload.path, body, options).await {
            Ok(stored) => Ok((upload, stored.length)),
            Err(error) => {
                let (unknown, failed) = (error.is_unknown_outcome(), Error::backend("store", upload.blob, error));
                if unknown {
                    self.discard_upload(upload);
                }
                Err(failed)
            }
        }
    }

    /// A name that nothing has, kept from the sweep.
    pub(crate) fn new_upload(&self, name: impl FnOnce(BlobId) -> String) -> Result<Upload, Error> {
        let blob = self.mint();
        let guard = self.in_flight().enter(blob);
        let path = ObjectPath::new(name(blob)).map_err(|error| Error::backend("name", blob, error))?;
        Ok(Upload { blob, path, _guard: guard })
    }

    /// Reads a blob that no row names yet, whole: one that was written just now, which its writer has not given up.
    ///
    /// # Errors
    /// [`Error::Backend`], and [`Error::Mismatch`] when it is not what was written.
    pub(crate) async fn read_back(&self, blob: BlobId, path: &str, crcs: &[u8]) -> Result<Bytes, Error> {
        let failed = |error| Error::backend("read back", blob, error);
        let path = ObjectPath::new(path).map_err(failed)?;
        let fetched = self.backend().get(&path, GetOptions::default()).await.map_err(failed)?;
        let pieces: Vec<Bytes> = fetched.stream.try_collect().await.map_err(failed)?;
        let length = pieces.iter().map(|piece| piece.len() as u64).sum();
        let bytes = concat(pieces, length);
        let found: Vec<u32> = bytes.chunks(BLOCK_BYTES as usize).map(crc32c::crc32c).collect();
        if crc_bytes(&found) != crcs {
            return Err(Error::Mismatch { blob, what: "is not what was written" });
        }
        Ok(bytes)
    }

    /// Deletes a blob that no row names and no command can name, in the background.
    pub(crate) fn discard_upload(&self, upload: Upload) {
        if self.shared.tasks.len() >= DISCARDS_MAX || self.shared.tasks.is_closed() {
            tracing::debug!(path = %upload.path, "left to the orphan sweep");
            return;
        }
        let backend = Arc::clone(self.backend());
        self.shared.tasks.spawn(async move {
            let options = DeleteOptions { deadline: Some(Instant::now() + DISCARD_PATIENCE) };
            if let Err(error) = backend.delete(&upload.path, options).await {
                let error = crate::backend::chain(&error);
                tracing::warn!(path = %upload.path, error, "cannot delete an abandoned upload; the orphan sweep will");
            }
        });
    }
}

fn body_failed(error: BoxError) -> Error {
    Error::Body(Arc::from(error))
}

/// Collects a body of at most `limit` bytes. Past the limit, what came so far; one of declared length is known to fit.
async fn collect(
    pieces: &mut BoxStream<'static, Piece>,
    limit: u64,
    declared: Option<u64>,
) -> Result<Collected, Error> {
    let (mut collected, mut got) = (Vec::new(), 0u64);
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(body_failed)?;
        got += piece.len() as u64;
        collected.push(piece);
        match declared {
            Some(declared) if got > declared => return Err(Error::Length { declared, got }),
            None if got > limit => return Ok(Collected::Start(collected)),
            Some(_) | None => {}
        }
    }
    match declared {
        Some(declared) if got != declared => Err(Error::Length { declared, got }),
        Some(_) | None => Ok(Collected::All(concat(collected, got))),
    }
}

fn concat(mut pieces: Vec<Bytes>, bytes: u64) -> Bytes {
    if pieces.len() <= 1 {
        // A copy, so that a short body does not keep a connection's long buffer alive.
        return pieces.pop().map_or_else(Bytes::new, |piece| Bytes::copy_from_slice(&piece));
    }
    let mut whole = BytesMut::with_capacity(usize::try_from(bytes).unwrap_or(0));
    pieces.iter().for_each(|piece| whole.extend_from_slice(piece));
    whole.freeze()
}

/// Whether there is one checksum for each block.
fn is_covered(verified: &Verified) -> bool {
    verified.crcs.len() as u64 == verified.size.div_ceil(BLOCK_BYTES)
}

/// Checksums as rows and commands carry them.
pub(crate) fn crc_bytes(crcs: &[u32]) -> Vec<u8> {
    crcs.iter().flat_map(|crc| crc.to_be_bytes()).collect()
}

fn stored(verified: Verified, upload: Upload) -> Written {
    let place = NewPlace::Path(upload.path.as_str().to_owned());
    let blob = NewBlob { id: upload.blob, place, crcs: crc_bytes(&verified.crcs) };
    let content = NewContent { size: verified.size, blob: Some(blob), digests: verified.digests };
    Written { content, upload: Some(upload) }
}
