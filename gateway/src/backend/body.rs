//! Bytes on their way in and out.
//!
//! A [`Body`] is what a caller wants stored: bytes at hand (which can be sent again after a failed attempt) or a stream (which
//! cannot). [`BodyReader`] holds every implementation to the declared length. [`exact`] holds every stream that goes out to
//! the length that was promised: it ends with an error rather than early.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt};

use super::ObjectPath;
use super::error::{BoxError, Error, Result};

/// Bytes of a blob on their way to the caller. Ends with an error, never early, when the backend delivers less than promised.
pub type BlobStream = BoxStream<'static, Result<Bytes>>;

/// What a put stores.
pub struct Body(Source);

enum Source {
    Whole(Bytes),
    Stream(BoxStream<'static, std::result::Result<Bytes, BoxError>>),
}

impl Body {
    /// A body that arrives in pieces. An error in the stream makes the put store nothing.
    pub fn stream<S, E>(stream: S) -> Self
    where
        S: Stream<Item = std::result::Result<Bytes, E>> + Send + 'static,
        E: Into<BoxError>,
    {
        Body(Source::Stream(stream.map(|piece| piece.map_err(Into::into)).boxed()))
    }

    /// A body without bytes.
    pub fn empty() -> Self {
        Body::from(Bytes::new())
    }

    /// The length, where the body itself knows it.
    pub fn length(&self) -> Option<u64> {
        match &self.0 {
            Source::Whole(bytes) => Some(bytes.len() as u64),
            Source::Stream(_) => None,
        }
    }

    pub(super) fn into_stream(self) -> BoxStream<'static, std::result::Result<Bytes, BoxError>> {
        match self.0 {
            Source::Whole(bytes) => stream::iter((!bytes.is_empty()).then_some(Ok(bytes))).boxed(),
            Source::Stream(stream) => stream,
        }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Body(Source::Whole(bytes))
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Body::from(Bytes::from(bytes))
    }
}

impl From<&'static [u8]> for Body {
    fn from(bytes: &'static [u8]) -> Self {
        Body::from(Bytes::from_static(bytes))
    }
}

/// Some consecutive pieces of a body, and whether they are the end of it.
pub(super) struct Gathered {
    pub pieces: Vec<Bytes>,
    pub bytes: u64,
    pub last: bool,
}

/// Reads a body piece by piece and refuses one that is not as long as declared.
pub(super) struct BodyReader {
    path: ObjectPath,
    stream: BoxStream<'static, std::result::Result<Bytes, BoxError>>,
    declared: Option<u64>,
    seen: u64,
    /// What did not fit into the last gathering.
    rest: Option<Bytes>,
    ended: bool,
}

impl BodyReader {
    pub fn new(path: &ObjectPath, body: Body, declared: Option<u64>) -> Result<Self> {
        if let (Some(declared), Some(got)) = (declared, body.length())
            && declared != got
        {
            return Err(Error::LengthMismatch { path: path.to_string(), declared, got });
        }
        let declared = declared.or(body.length());
        Ok(BodyReader { path: path.clone(), stream: body.into_stream(), declared, seen: 0, rest: None, ended: false })
    }

    /// The length of the whole body, where it is known before its end.
    pub fn declared(&self) -> Option<u64> {
        self.declared
    }

    /// Bytes that came out of the stream so far.
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// The next piece, `None` at a complete end.
    ///
    /// # Cancel safety
    /// Cancel safe: a piece is either returned or still in the stream.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        if let Some(rest) = self.rest.take() {
            return Ok(Some(rest));
        }
        loop {
            if self.ended {
                return Ok(None);
            }
            match self.stream.next().await {
                Some(Ok(piece)) if piece.is_empty() => {}
                Some(Ok(piece)) => return self.count(piece).map(Some),
                Some(Err(source)) => return Err(Error::Body { path: self.path.to_string(), source }),
                None => self.end()?,
            }
        }
    }

    fn count(&mut self, piece: Bytes) -> Result<Bytes> {
        self.seen += piece.len() as u64;
        match self.declared {
            Some(declared) if self.seen > declared => Err(self.mismatch(declared)),
            _ => Ok(piece),
        }
    }

    fn end(&mut self) -> Result<()> {
        self.ended = true;
        match self.declared {
            Some(declared) if self.seen != declared => Err(self.mismatch(declared)),
            _ => Ok(()),
        }
    }

    fn mismatch(&self, declared: u64) -> Error {
        Error::LengthMismatch { path: self.path.to_string(), declared, got: self.seen }
    }

    /// Collects exactly `bytes` bytes, or all that is left. Looks one piece ahead, so `last` is certain.
    pub async fn gather(&mut self, bytes: u64) -> Result<Gathered> {
        let mut gathered = Gathered { pieces: Vec::new(), bytes: 0, last: false };
        while let Some(mut piece) = self.next().await? {
            let room = bytes - gathered.bytes;
            if room == 0 {
                self.rest = Some(piece);
                return Ok(gathered);
            }
            if piece.len() as u64 > room {
                // `room` is below the length of a piece in memory, so it fits.
                self.rest = Some(piece.split_off(room as usize));
            }
            gathered.bytes += piece.len() as u64;
            gathered.pieces.push(piece);
        }
        gathered.last = true;
        Ok(gathered)
    }
}

/// Holds a stream to the length that was promised for it.
pub(super) fn exact<S>(path: &ObjectPath, promised: u64, stream: S) -> BlobStream
where
    S: Stream<Item = Result<Bytes>> + Send + 'static,
{
    Exact { path: path.clone(), promised, left: promised, stream: stream.boxed(), done: false }.boxed()
}

struct Exact {
    path: ObjectPath,
    promised: u64,
    left: u64,
    stream: BlobStream,
    done: bool,
}

impl Exact {
    fn truncated(&self) -> Error {
        let (expected, got) = (self.promised, self.promised - self.left);
        Error::Truncated { path: self.path.to_string(), expected, got }
    }
}

impl Stream for Exact {
    type Item = Result<Bytes>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.done {
            return Poll::Ready(None);
        }
        let item = std::task::ready!(this.stream.poll_next_unpin(cx));
        let item = match item {
            Some(Ok(piece)) => match this.left.checked_sub(piece.len() as u64) {
                Some(left) => {
                    this.left = left;
                    return Poll::Ready(Some(Ok(piece)));
                }
                // More than promised is as wrong as less.
                None => Some(Err(this.truncated())),
            },
            None if this.left > 0 => Some(Err(this.truncated())),
            end_or_error => end_or_error,
        };
        this.done = true;
        Poll::Ready(item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path() -> ObjectPath {
        ObjectPath::new("a/b").expect("valid")
    }

    fn pieces(lengths: &[usize]) -> Body {
        let pieces: Vec<std::result::Result<Bytes, BoxError>> =
            lengths.iter().map(|&length| Ok(Bytes::from(vec![7; length]))).collect();
        Body::stream(stream::iter(pieces))
    }

    #[tokio::test]
    async fn gather_cuts_pieces_and_knows_the_last() {
        let mut reader = BodyReader::new(&path(), pieces(&[3, 0, 5, 2]), Some(10)).expect("lengths agree");
        let mut sizes = Vec::new();
        loop {
            let gathered = reader.gather(4).await.expect("body is whole");
            sizes.push((gathered.bytes, gathered.last));
            if gathered.last {
                break;
            }
        }
        assert_eq!(sizes, [(4, false), (4, false), (2, true)]);
    }

    #[tokio::test]
    async fn a_body_that_ends_exactly_at_a_chunk_is_known_to_be_over() {
        let mut reader = BodyReader::new(&path(), pieces(&[4, 4]), None).expect("no length");
        assert!(!reader.gather(4).await.expect("whole").last);
        assert!(reader.gather(4).await.expect("whole").last);
    }

    #[tokio::test]
    async fn wrong_lengths_are_refused() {
        for (lengths, declared) in [(&[3usize, 3][..], 5), (&[3], 5), (&[], 1)] {
            let mut reader = BodyReader::new(&path(), pieces(lengths), Some(declared)).expect("not known yet");
            let error = reader.gather(100).await.err().expect("must be refused");
            assert!(matches!(error, Error::LengthMismatch { .. }), "{error}");
        }
        assert!(BodyReader::new(&path(), Body::from(vec![1, 2]), Some(3)).is_err());
    }

    #[tokio::test]
    async fn a_short_stream_ends_with_an_error() {
        let short = exact(&path(), 5, stream::iter([Ok(Bytes::from_static(b"abc"))]));
        let items: Vec<_> = short.collect().await;
        assert_eq!(items.len(), 2);
        assert!(matches!(items[1], Err(Error::Truncated { expected: 5, got: 3, .. })));
        let long = exact(&path(), 2, stream::iter([Ok(Bytes::from_static(b"abc"))]));
        assert!(long.collect::<Vec<_>>().await[0].is_err());
    }
}
