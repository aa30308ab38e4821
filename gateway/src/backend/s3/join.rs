//! Joining blobs: inside of the store by copying them as parts of an upload, or through this process where parts are too short.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::types::CompletedPart;
use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::super::body::Body;
use super::super::{BoxError, Error, GetOptions, JoinOptions, JoinSource, ObjectPath, PutOptions, Result, Stored};
use super::put::{Target, Upload, part_number, put};
use super::{Bucket, MIB, PART_BYTES_MIN, PARTS_MAX};

/// Largest piece copied by one request. Smaller than S3's 5 GiB, so that a request ends within minutes and several run at once.
const COPY_BYTES_MAX: u64 = 512 * MIB;
/// A store that copies more slowly than this is taken for stalled.
const COPY_BYTES_PER_SECOND_MIN: u64 = 8 * MIB;
/// What stays as it is in a copy source.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.').remove(b'~');

pub(super) async fn join(
    bucket: &Arc<Bucket>,
    sources: &[JoinSource],
    target: &ObjectPath,
    options: JoinOptions,
) -> Result<Stored> {
    let sources: Vec<JoinSource> = sources.to_vec();
    let length = sources.iter().map(|source| source.length).sum();
    match pieces_to_copy(&sources) {
        Some(pieces) => copy(bucket, &sources, pieces, target, length, options).await,
        None => stream_through(bucket, sources, target, length, options).await,
    }
}

/// One part of the target, as a piece of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Piece {
    source: ObjectPath,
    range: Range<u64>,
}

/// Cuts sources into parts; `None` when a part that is not the last would be too short, or there are too many.
fn pieces_to_copy(sources: &[JoinSource]) -> Option<Vec<Piece>> {
    let full: Vec<&JoinSource> = sources.iter().filter(|source| source.length > 0).collect();
    let (_, all_but_last) = full.split_last()?;
    if all_but_last.iter().any(|source| source.length < PART_BYTES_MIN) {
        return None;
    }
    let pieces: Vec<Piece> = full.iter().flat_map(|source| cut(source)).collect();
    (pieces.len() as u64 <= PARTS_MAX).then_some(pieces)
}

/// Cuts one source into nearly equal pieces, so that none is too short for a part.
fn cut(source: &JoinSource) -> Vec<Piece> {
    let count = source.length.div_ceil(COPY_BYTES_MAX);
    let size = source.length.div_ceil(count);
    let cut = (0..count).map(|n| n * size..source.length.min((n + 1) * size));
    cut.map(|range| Piece { source: source.path.clone(), range }).collect()
}

async fn copy(
    bucket: &Arc<Bucket>,
    sources: &[JoinSource],
    pieces: Vec<Piece>,
    target: &ObjectPath,
    length: u64,
    options: JoinOptions,
) -> Result<Stored> {
    // A longer source would be cut short in silence. Blobs never change, so what holds now holds during the copy.
    let in_flight = bucket.settings.parts_in_flight.max(1);
    stream::iter(sources).map(Ok).try_for_each_concurrent(in_flight, |source| check(bucket, source, &options)).await?;
    let upload = Upload::create(bucket, Target::new(bucket, target, options.condition, options.deadline)).await?;
    let copies = (1..).zip(pieces).map(|(number, piece)| copy_part(bucket, &upload, number, piece));
    let parts: Result<Vec<CompletedPart>> = stream::iter(copies).buffered(in_flight).try_collect().await;
    let stored = match parts {
        Ok(parts) => upload.complete(parts, length).await,
        Err(error) => Err(error),
    };
    upload.finish(stored).await
}

async fn check(bucket: &Bucket, source: &JoinSource, options: &JoinOptions) -> Result<()> {
    let got = bucket.head(&source.path, options.deadline).await?.length;
    check_length(source, got)
}

fn check_length(source: &JoinSource, got: u64) -> Result<()> {
    if got == source.length {
        return Ok(());
    }
    Err(Error::Truncated { path: source.path.to_string(), expected: source.length, got })
}

async fn copy_part(bucket: &Bucket, upload: &Upload, number: u64, piece: Piece) -> Result<CompletedPart> {
    let number = part_number(&upload.target.path, number)?;
    let key = bucket.key(&piece.source);
    let source = format!("{}/{}", bucket.bucket, utf8_percent_encode(&key, PLAIN));
    let range = format!("bytes={}-{}", piece.range.start, piece.range.end - 1);
    let send = || {
        let request =
            bucket.client.upload_part_copy().bucket(&bucket.bucket).key(&upload.target.key).upload_id(&upload.id);
        request.part_number(number).copy_source(&source).copy_source_range(&range).send()
    };
    let bytes = piece.range.end - piece.range.start;
    let patience = bucket.settings.attempt_timeout + Duration::from_secs(bytes / COPY_BYTES_PER_SECOND_MIN);
    let copied = bucket.long_call("join", &piece.source, upload.target.deadline, patience, send).await;
    let copied = copied.map_err(|failure| failure.error)?;
    let etag = copied.copy_part_result().and_then(|result| result.e_tag()).map(str::to_owned);
    Ok(CompletedPart::builder().part_number(number).set_e_tag(etag).build())
}

async fn stream_through(
    bucket: &Arc<Bucket>,
    sources: Vec<JoinSource>,
    target: &ObjectPath,
    length: u64,
    options: JoinOptions,
) -> Result<Stored> {
    let body = Body::stream(bytes_of(Arc::clone(bucket), sources, options.clone()));
    let put_options =
        PutOptions { length: Some(length), condition: options.condition, deadline: options.deadline, in_parts: false };
    put(bucket, target, body, put_options).await.map_err(|error| match error {
        // The body is our own, so its failure is one of a source.
        Error::Body { path, source } => match source.downcast::<Error>() {
            Ok(error) => *error,
            Err(source) => Error::Body { path, source },
        },
        other => other,
    })
}

fn bytes_of(
    bucket: Arc<Bucket>,
    sources: Vec<JoinSource>,
    options: JoinOptions,
) -> impl Stream<Item = std::result::Result<Bytes, BoxError>> + Send {
    let opened = stream::iter(sources).then(move |source| {
        let (bucket, deadline) = (Arc::clone(&bucket), options.deadline);
        async move {
            let fetched = bucket.get(&source.path, GetOptions { range: None, deadline }).await?;
            check_length(&source, fetched.length)?;
            Ok::<_, Error>(fetched.stream)
        }
    });
    opened.try_flatten().map_err(BoxError::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(name: &str, length: u64) -> JoinSource {
        JoinSource { path: ObjectPath::new(name).expect("valid"), length }
    }

    #[test]
    fn long_sources_are_cut_evenly_and_short_ones_are_streamed() {
        let pieces =
            pieces_to_copy(&[source("a", COPY_BYTES_MAX + 1), source("e", 0), source("b", 1)]).expect("copied");
        let lengths: Vec<u64> = pieces.iter().map(|piece| piece.range.end - piece.range.start).collect();
        assert_eq!(lengths, [COPY_BYTES_MAX / 2 + 1, COPY_BYTES_MAX / 2, 1]);
        assert_eq!(pieces_to_copy(&[source("a", PART_BYTES_MIN - 1), source("b", 1)]), None);
        assert_eq!(pieces_to_copy(&[source("a", 0)]), None);
        assert_eq!(pieces_to_copy(&[]), None);
    }
}
