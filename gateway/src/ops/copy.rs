//! Copies: a second name for the content of a version, or a part of it for an upload. Bytes are read only where a digest
//! is wanted that nobody knows yet; they never move.
//!
//! Source: S3 API, CopyObject and UploadPartCopy.

use std::collections::BTreeMap;
use std::ops::Range;

use futures::StreamExt as _;
use holdfast_core::command::{
    BucketRef, Conditions, CopyObject, CopyPart, Digests, Op, PartWritten, Source, SourceConditions, Target, UploadRef,
    Written,
};
use holdfast_core::error::Error as Refusal;
use holdfast_core::id::{BucketName, ObjectKey, VersionId};
use holdfast_core::record::{Attributes, Checksum, ChecksumAlgorithm, ChecksumType, Version};
use holdfast_core::rules::PART_BYTES_MAX;
use holdfast_core::rules::authorize::{Action, AuthorizedOp, Permit};
use holdfast_core::view::{Found, object_resource};
use md5::{Digest as _, Md5};

use super::digest::Digester;
use super::get::{Part, read_permit};
use super::index::unknown_indexes;
use super::multipart::{OpenUpload, UploadName, part_written};
use super::{Call, Done, bucket_ref, retried, view_of, written};
use crate::cluster::Consistency;
use crate::error::Error;
use crate::gateway::Gateway;

/// Most bytes of a source that one copy takes. Source: S3 API, CopyObject.
pub const COPY_BYTES_MAX: u64 = 5 << 30;
/// Most bytes of a part that are read for its digests when nobody asked for one: above, the copy costs no byte.
pub const UNASKED_READ_BYTES_MAX: u64 = 8 << 20;

/// What is copied.
#[derive(Clone, Debug)]
pub struct CopySource {
    /// Bucket.
    pub bucket: BucketName,
    /// Key.
    pub key: ObjectKey,
    /// Which version; `None` is the latest.
    pub version: Option<VersionId>,
    /// What must hold of it.
    pub conditions: SourceConditions,
}

/// What to copy, where to, and what changes.
#[derive(Clone, Debug)]
pub struct Copy {
    /// What is copied.
    pub source: CopySource,
    /// To which bucket.
    pub bucket: BucketName,
    /// To which key.
    pub key: ObjectKey,
    /// What must hold of the key.
    pub conditions: Conditions,
    /// Headers and user metadata in place of the source's.
    pub attributes: Option<Attributes>,
    /// Tags in place of the source's.
    pub tags: Option<BTreeMap<String, String>>,
    /// The algorithm whose checksum the copy shall have.
    pub checksum: Option<ChecksumAlgorithm>,
}

impl Gateway {
    /// Copies a version.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::SourceIsDeleteMarker`], [`Error::SourceTooLarge`].
    pub async fn copy(&self, call: &Call, copy: Copy) -> Result<Done<Written>, Error> {
        retried(call, |call| {
            let copy = copy.clone();
            async move { self.copy_once(&call, copy).await }
        })
        .await
    }

    async fn copy_once(&self, call: &Call, copy: Copy) -> Result<Done<Written>, Error> {
        let target = call.permit(Action::PutObject, object_resource(&copy.bucket, &copy.key))?;
        let read = read_permit(call, &copy.source.bucket, &copy.source.key, copy.source.version)?;
        let state = self.view(Consistency::Linearizable).await?;
        let bucket = view_of(&state).bucket(&target)?;
        let found = source_of(view_of(&state).find(&read, copy.source.version, None)?, &copy.source)?;
        let indexes = unknown_indexes(&view_of(&state), &bucket, &copy.key, &found)?;
        drop(state);
        let version = version_of(&found);
        if version.size > COPY_BYTES_MAX {
            return Err(Error::SourceTooLarge { most: COPY_BYTES_MAX });
        }
        let checksum = match copy.checksum.filter(|algorithm| !has_checksum(version, *algorithm)) {
            None => None,
            Some(algorithm) => Some(self.checksum_of(&read, &found, algorithm).await?),
        };
        let attributes = copy.attributes.as_ref().unwrap_or(&version.attributes);
        let content_type = attributes.headers.content_type.as_deref();
        let extracted = self.extracted_of(&found, content_type, &copy.key, indexes).await?;
        let pinned = (checksum.is_some() || !extracted.is_empty()).then_some(&found);
        let op = Op::CopyObject(CopyObject {
            source: source(copy.source, bucket_ref(&found.bucket), pinned),
            target: Target { bucket: bucket_ref(&bucket), key: copy.key, conditions: copy.conditions },
            attributes: copy.attributes,
            tags: copy.tags,
            checksum,
            nonce: self.blobs().mint(),
        });
        let op = AuthorizedOp::new(op, &[target, read])?;
        written(self.commit(op, call.origin_with(extracted)).await.map_err(of_source)?)
    }

    /// Stores a part that shares bytes of a version.
    ///
    /// # Errors
    /// As [`Gateway::copy`]; [`Error::Refused`] for a range that is not within the source.
    pub async fn copy_part(
        &self,
        call: &Call,
        name: &UploadName,
        number: u16,
        from: &CopySource,
        part: Part,
    ) -> Result<Done<PartWritten>, Error> {
        retried(call, |call| async move {
            let open = self.open_upload(&call, name).await?;
            self.copy_part_once(&call, open, name, number, from, part).await
        })
        .await
    }

    async fn copy_part_once(
        &self,
        call: &Call,
        open: OpenUpload,
        name: &UploadName,
        number: u16,
        from: &CopySource,
        part: Part,
    ) -> Result<Done<PartWritten>, Error> {
        let read = read_permit(call, &from.bucket, &from.key, from.version)?;
        let state = self.view(Consistency::Linearizable).await?;
        let found = source_of(view_of(&state).find(&read, from.version, None)?, from)?;
        drop(state);
        let range = within(part, version_of(&found).size)?;
        let length = range.end - range.start;
        if length > PART_BYTES_MAX {
            return Err(Error::SourceTooLarge { most: PART_BYTES_MAX });
        }
        let (digests, crc_pending) = match known_digests(version_of(&found), &range, open.row.checksum) {
            Some(digests) => (digests, None),
            None if open.row.checksum.is_none() && length > UNASKED_READ_BYTES_MAX => {
                (unread(&found, &range), Some(true))
            }
            None => (self.digests_of(&read, &found, range.clone(), open.row.checksum).await?, None),
        };
        let crc64nvme = crc_pending.is_none().then_some(digests.crc64nvme);
        let op = Op::CopyPart(CopyPart {
            upload: UploadRef { bucket: bucket_ref(&open.bucket), key: name.key.clone(), upload: name.upload },
            number,
            source: source(from.clone(), bucket_ref(&found.bucket), Some(&found)),
            offset: range.start,
            length,
            digests,
            crc_pending,
        });
        let op = AuthorizedOp::new(op, &[open.permit, read])?;
        part_written(self.commit(op, call.origin()).await.map_err(of_source)?, crc64nvme)
    }

    /// The checksum of a version's bytes in another algorithm than it has.
    async fn checksum_of(&self, read: &Permit, found: &Found, algorithm: ChecksumAlgorithm) -> Result<Checksum, Error> {
        let version = version_of(found);
        let value = match (algorithm, version.sha256) {
            (ChecksumAlgorithm::Crc64Nvme, _) if version.crc_pending != Some(true) => {
                version.crc64nvme.to_be_bytes().to_vec()
            }
            (ChecksumAlgorithm::Sha256, Some(sha256)) => sha256.to_vec(),
            _ => {
                let digests = self.digests_of(read, found, 0..version.size, Some(algorithm)).await?;
                match digests.checksum {
                    Some(checksum) => return Ok(checksum),
                    // Digests carry it apart.
                    None => digests.crc64nvme.to_be_bytes().to_vec(),
                }
            }
        };
        Ok(Checksum { algorithm, kind: ChecksumType::FullObject, value })
    }

    /// Reads bytes of a version for their digests.
    async fn digests_of(
        &self,
        read: &Permit,
        found: &Found,
        range: Range<u64>,
        algorithm: Option<ChecksumAlgorithm>,
    ) -> Result<Digests, Error> {
        let plan = {
            let state = self.view(Consistency::Linearizable).await?;
            let view = view_of(&state);
            // The permit is for this bucket; a new one of the same name has no such version.
            if view.bucket(read)?.row.id != found.bucket.row.id {
                return Err(Refusal::NoSuchBucket.into());
            }
            self.blobs().plan(&view, found, range)?
        };
        let mut body = self.blobs().open(plan).await?;
        let mut digester = Digester::new(algorithm);
        while let Some(piece) = body.next().await {
            digester.update(&piece?);
        }
        Ok(digester.finish(algorithm))
    }
}

fn version_of(found: &Found) -> &Version {
    found.row.version.as_ref().expect("a source is no delete marker")
}

/// What is copied: a delete marker that is the latest counts as absent.
fn source_of(found: Found, source: &CopySource) -> Result<Found, Error> {
    match (&found.row.version, source.version) {
        (Some(_), _) => Ok(found),
        (None, Some(_)) => Err(Error::SourceIsDeleteMarker),
        (None, None) => Err(Refusal::NoSuchKey.into()),
    }
}

/// A refusal of a copy that is about its source.
fn of_source(error: Error) -> Error {
    match error {
        Error::Refused(Refusal::IsDeleteMarker) => Error::SourceIsDeleteMarker,
        error => error,
    }
}

/// What a copy names: the row that was read, with the generation of its bytes, when something was computed from them.
fn source(from: CopySource, bucket: BucketRef, pinned: Option<&Found>) -> Source {
    let generation = pinned.and_then(|found| found.row.version.as_ref()?.patched);
    let pinned = pinned.map(|found| found.place);
    Source { bucket, key: from.key, version: from.version, conditions: from.conditions, pinned, generation }
}

/// Whether a copy already has the checksum that is asked for, of the whole object.
fn has_checksum(version: &Version, algorithm: ChecksumAlgorithm) -> bool {
    version.shown_checksum().is_some_and(|shown| shown.algorithm == algorithm && shown.kind == ChecksumType::FullObject)
}

/// The bytes that a part copies; unlike a read's, its range must be within the source.
fn within(part: Part, size: u64) -> Result<Range<u64>, Error> {
    match part {
        Part::From(first, Some(last)) if first <= last && last < size => Ok(first..last + 1),
        Part::Whole => Ok(0..size),
        _ => Err(Refusal::InvalidRange.into()),
    }
}

/// Of bytes that are not read: in place of the MD5 a name that no other bytes have. Source: S3 API, Object: an ETag may be no MD5.
fn unread(found: &Found, range: &Range<u64>) -> Digests {
    let (version, mut md5) = (version_of(found), Md5::new());
    for number in [found.bucket.row.id.0, version.object.0, version.generation(), range.start, range.end] {
        md5.update(number.to_be_bytes());
    }
    Digests { md5: md5.finalize().into(), sha256: [0; 32], crc64nvme: 0, checksum: None }
}

/// The digests of a whole version, when all are known: its ETag is the MD5 of its bytes.
fn known_digests(version: &Version, range: &Range<u64>, algorithm: Option<ChecksumAlgorithm>) -> Option<Digests> {
    if *range != (0..version.size) || version.parts.is_some() || version.crc_pending == Some(true) {
        return None;
    }
    let mut md5 = [0; 16];
    hex::decode_to_slice(&version.etag, &mut md5).ok()?;
    let sha256 = version.sha256?;
    let checksum = match algorithm {
        None | Some(ChecksumAlgorithm::Crc64Nvme) => None,
        Some(algorithm @ ChecksumAlgorithm::Sha256) => {
            Some(Checksum { algorithm, kind: ChecksumType::FullObject, value: sha256.to_vec() })
        }
        Some(algorithm) => Some(version.checksum.clone().filter(|_| has_checksum(version, algorithm))?),
    };
    Some(Digests { md5, sha256, crc64nvme: version.crc64nvme, checksum })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copied_range_must_be_within_its_source() {
        let check = |part, size, expected: Option<Range<u64>>| {
            assert_eq!(within(part, size).ok(), expected, "{part:?} of {size}")
        };
        check(Part::Whole, 3, Some(0..3));
        check(Part::Whole, 0, Some(0..0));
        check(Part::From(0, Some(2)), 3, Some(0..3));
        check(Part::From(0, Some(3)), 3, None);
        check(Part::From(2, Some(1)), 3, None);
        check(Part::From(0, None), 3, None);
        check(Part::Last(1), 3, None);
    }
}
