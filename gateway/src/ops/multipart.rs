//! Multipart uploads. Parts are bytes that no name shows; completing makes an object of them in one commit.

use holdfast_core::command::{
    CompleteUpload, CompletedPart, Conditions, CreateUpload, Op, PartWritten, PutPart, Reply, Target, UploadRef,
    Written,
};
use holdfast_core::error::Error as Refusal;
use holdfast_core::id::{BucketName, ObjectKey, Revision, UploadId};
use holdfast_core::record::{Attributes, Checksum, ChecksumAlgorithm, ChecksumType, UploadRow};
use holdfast_core::rules::authorize::{Action, AuthorizedOp, Permit};
use holdfast_core::view::{Bucket, object_resource};

use super::index::unread;
use super::{Call, Done, bucket_ref, done, view_of, written};
use crate::blobs::Incoming;
use crate::cluster::Consistency;
use crate::error::Error;
use crate::gateway::Gateway;

/// An upload, as the client names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadName {
    /// Bucket.
    pub bucket: BucketName,
    /// Key.
    pub key: ObjectKey,
    /// Which upload.
    pub upload: UploadId,
}

/// An upload that a part may be written to: the proof that the caller may, and what the upload declared.
#[derive(Clone, Debug)]
pub struct OpenUpload {
    pub(super) permit: Permit,
    pub(super) bucket: Bucket,
    /// Its row.
    pub row: UploadRow,
}

/// What an upload is started with.
#[derive(Clone, Debug)]
pub struct NewUpload {
    /// Bucket.
    pub bucket: BucketName,
    /// Key.
    pub key: ObjectKey,
    /// What the object will carry.
    pub attributes: Attributes,
    /// Declared checksum algorithm.
    pub checksum: Option<ChecksumAlgorithm>,
    /// Declared checksum type.
    pub checksum_type: Option<ChecksumType>,
}

/// How an upload is completed.
#[derive(Clone, Debug)]
pub struct Completion {
    /// Which upload.
    pub name: UploadName,
    /// What must hold of the key.
    pub conditions: Conditions,
    /// Ascending by number.
    pub parts: Vec<CompletedPart>,
    /// Checksum of the object, to be verified.
    pub checksum: Option<Checksum>,
    /// Type of the checksum, to be verified.
    pub checksum_type: Option<ChecksumType>,
    /// Size of the object, to be verified.
    pub size: Option<u64>,
}

/// A stored part; one without another checksum shows its CRC-64/NVME, if that is known.
pub(super) fn part_written(
    (revision, reply): (Revision, Reply),
    crc64nvme: Option<u64>,
) -> Result<Done<PartWritten>, Error> {
    let Reply::PartWritten(mut value) = reply else { return Err(Error::UnexpectedReply) };
    value.checksum = value.checksum.or_else(|| crc64nvme.map(Checksum::crc64nvme));
    Ok(Done { revision, value })
}

impl Gateway {
    /// Starts an upload.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub async fn create_upload(&self, call: &Call, new: NewUpload) -> Result<Done<UploadId>, Error> {
        let permit = call.permit(Action::PutObject, object_resource(&new.bucket, &new.key))?;
        let state = self.view(Consistency::Linearizable).await?;
        let bucket = view_of(&state).bucket(&permit)?;
        let unique = view_of(&state).indexes_of_content(&bucket, &new.key)?.into_iter().find(|index| index.unique);
        drop(state);
        if let Some(index) = unique {
            // Said before the parts are sent, which nobody reads as one before the commit.
            return Err(Refusal::NotRead { index: index.name }.into());
        }
        let op = Op::CreateUpload(CreateUpload {
            bucket: bucket_ref(&bucket),
            key: new.key,
            attributes: new.attributes,
            checksum: new.checksum,
            checksum_type: new.checksum_type,
            nonce: self.blobs().mint(),
        });
        match self.commit(AuthorizedOp::new(op, &[permit])?, call.origin()).await? {
            (revision, Reply::UploadCreated(value)) => Ok(Done { revision, value }),
            _ => Err(Error::UnexpectedReply),
        }
    }

    /// Looks up an upload before a part of it is read: its declared algorithm says what to compute.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub async fn open_upload(&self, call: &Call, name: &UploadName) -> Result<OpenUpload, Error> {
        let permit = call.permit(Action::PutObject, object_resource(&name.bucket, &name.key))?;
        let state = self.view(Consistency::Linearizable).await?;
        let page = view_of(&state).parts(&permit, name.upload, 0, 0)?;
        Ok(OpenUpload { permit, bucket: page.bucket, row: page.upload })
    }

    /// Stores a part, replacing one of the same number.
    ///
    /// # Errors
    /// As [`Gateway::put`].
    ///
    /// # Cancel safety
    /// As [`Gateway::put`].
    pub async fn put_part(
        &self,
        call: &Call,
        open: OpenUpload,
        name: UploadName,
        number: u16,
        body: Incoming,
    ) -> Result<Done<PartWritten>, Error> {
        let OpenUpload { permit, bucket, .. } = open;
        let bytes = self.blobs().write(&name.bucket, &name.key, body, self.write_options(&bucket)).await?;
        let upload = UploadRef { bucket: bucket_ref(&bucket), key: name.key, upload: name.upload };
        let crc64nvme = bytes.content.digests.crc64nvme;
        let op = Op::PutPart(PutPart { upload, number, content: bytes.content.clone() });
        let op = AuthorizedOp::new(op, &[permit])?;
        part_written(self.commit_with(op, call.origin(), Some(bytes)).await?, Some(crc64nvme))
    }

    /// Makes an object of parts. Doing it again gives the first answer.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub async fn complete_upload(&self, call: &Call, completion: Completion) -> Result<Done<Written>, Error> {
        let UploadName { bucket, key, upload } = completion.name;
        let permit = call.permit(Action::PutObject, object_resource(&bucket, &key))?;
        let (found, indexes) = {
            let state = self.view(Consistency::Linearizable).await?;
            let found = view_of(&state).bucket(&permit)?;
            let indexes = view_of(&state).indexes_of_content(&found, &key)?;
            (found, indexes)
        };
        let op = Op::CompleteUpload(CompleteUpload {
            target: Target { bucket: bucket_ref(&found), key, conditions: completion.conditions },
            upload,
            parts: completion.parts,
            checksum: completion.checksum,
            checksum_type: completion.checksum_type,
            size: completion.size,
            nonce: self.blobs().mint(),
        });
        // Nobody has read the parts as one: the indexes wait, and unique ones refuse.
        let origin = call.origin_with(unread(&indexes));
        written(self.commit(AuthorizedOp::new(op, &[permit])?, origin).await?)
    }

    /// Drops an upload and its parts.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub async fn abort_upload(&self, call: &Call, name: UploadName) -> Result<Done<()>, Error> {
        let permit = call.on_object(Action::AbortUpload, &name.bucket, &name.key)?;
        let bucket = self.bucket_for(&permit).await?;
        let op = Op::AbortUpload(UploadRef { bucket: bucket_ref(&bucket), key: name.key, upload: name.upload });
        done(self.commit(AuthorizedOp::new(op, &[permit])?, call.origin()).await?)
    }
}
