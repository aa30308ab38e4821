//! Writes an object: bytes first, then one commit that makes them visible.
//!
//! What is asked before is answered by this node's own state, without a round to the others: whatever that does not know yet
//! is decided where the command is applied. A bucket that was deleted and made again, or an index that this node had not heard
//! of, is looked up once more, and the same bytes are named by a second command. Conditions are the exception: what they refuse early must be true.

use bytes::Bytes;
use holdfast_core::command::{Conditions, Extracted, Op, PutObject, Target, Written};
use holdfast_core::error::Error as Refusal;
use holdfast_core::id::{BucketName, ObjectKey};
use holdfast_core::index::ContentIndex;
use holdfast_core::record::{Attributes, Durability};
use holdfast_core::rules::BLOCK_BYTES;
use holdfast_core::rules::authorize::{Action, AuthorizedOp, Permit};
use holdfast_core::view::{Bucket, object_resource};

use super::digest::Digester;
use super::index::{extracted, kept};
use super::{Call, Done, bucket_ref, fails_already, view_of, written};
use crate::blobs::{Incoming, Verified, WriteOptions};
use crate::cluster::Consistency;
use crate::error::Error;
use crate::gateway::{Gateway, INLINE_BYTES_MAX};

/// What to write, and where.
pub struct Put {
    /// Bucket.
    pub bucket: BucketName,
    /// Key.
    pub key: ObjectKey,
    /// What must hold of the key.
    pub conditions: Conditions,
    /// Headers, user metadata, tags.
    pub attributes: Attributes,
    /// The bytes; they verify themselves.
    pub body: Incoming,
}

/// Where a write goes.
pub(super) struct Begun {
    /// The bucket.
    pub(super) bucket: Bucket,
    /// The indexes that want to know of its content.
    pub(super) indexes: Vec<ContentIndex>,
    /// By this node's own state, which may be behind.
    pub(super) is_local: bool,
}

/// Refusals that a state which is behind may bring about.
fn may_be_behind(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::NoSuchBucket | Refusal::Changed)
}

/// Bytes that are there already, as a body.
#[must_use]
pub fn at_hand(bytes: Bytes) -> Incoming {
    let mut digester = Digester::new(None);
    digester.update(&bytes);
    let crcs = bytes.chunks(BLOCK_BYTES as usize).map(crc32c::crc32c).collect();
    let verified = Verified { size: bytes.len() as u64, digests: digester.finish(None), crcs };
    let pieces = futures::stream::iter([Ok::<_, std::io::Error>(bytes)]);
    Incoming::new(Some(verified.size), pieces, async move { Ok::<_, std::io::Error>(verified) })
}

impl Gateway {
    /// Writes an object.
    ///
    /// # Errors
    /// [`Error::Refused`] for what the rules refuse, [`Error::Blobs`] for a body that is not what it promised: then nothing
    /// was written.
    ///
    /// # Cancel safety
    /// Dropped before the commit, nothing is written; after it began, it runs to its end.
    pub async fn put(&self, call: &Call, put: Put) -> Result<Done<Written>, Error> {
        let permit = call.permit(Action::PutObject, object_resource(&put.bucket, &put.key))?;
        let begun = self.begin_write(call, &permit, &put.key, &put.conditions, Consistency::Local).await?;
        let Begun { bucket, indexes, is_local } = begun;
        let options = self.write_options(&bucket);
        let (bytes, extracted) = if indexes.is_empty() {
            (self.blobs().write(&put.bucket, &put.key, put.body, options).await?, Vec::new())
        } else {
            let (body, kept) = kept(put.body);
            let bytes = self.blobs().write(&put.bucket, &put.key, body, options).await?;
            (bytes, extracted(indexes, &put.key, put.attributes.headers.content_type.as_deref(), kept).await?)
        };
        let op = PutObject {
            target: Target { bucket: bucket_ref(&bucket), key: put.key, conditions: put.conditions },
            content: bytes.content.clone(),
            attributes: put.attributes,
            nonce: self.blobs().mint(),
        };
        let authorized = AuthorizedOp::new(Op::PutObject(op.clone()), std::slice::from_ref(&permit))?;
        let keeps = if is_local { may_be_behind } else { |_: &Refusal| false };
        let refused = match self.commit_keeping(authorized, call.origin_with(extracted), bytes, keeps).await {
            Ok(committed) => return written(committed),
            Err(refused) => refused,
        };
        let Some(bytes) = refused.written else { return Err(refused.error) };
        let (op, extracted) = match self.caught_up(&permit, op).await {
            Ok(caught_up) => caught_up,
            Err(error) => {
                self.blobs().discard(bytes);
                return Err(error);
            }
        };
        let op = AuthorizedOp::new(Op::PutObject(op), &[permit])?;
        written(self.commit_with(op, call.again().origin_with(extracted), Some(bytes)).await?)
    }

    /// A write that this node's state was behind for, as the state of now has it: the bucket may be another of the same
    /// name, and indexes that this node had not heard of want to know of the bytes, which are written already.
    async fn caught_up(&self, permit: &Permit, mut op: PutObject) -> Result<(PutObject, Vec<Extracted>), Error> {
        let indexes = {
            let state = self.view(Consistency::Linearizable).await?;
            let view = view_of(&state);
            let bucket = view.bucket(permit)?;
            op.target.bucket = bucket_ref(&bucket);
            view.indexes_of_content(&bucket, &op.target.key)?
        };
        let content_type = op.attributes.headers.content_type.as_deref();
        let extracted = self.extracted_of_written(&op.content, content_type, &op.target.key, indexes).await?;
        Ok((op, extracted))
    }

    /// Finds the bucket of a write and its indexes, and refuses at once what cannot succeed, before any of its body is read.
    /// By a local state only where that is enough: an unconditional write to a bucket that is there.
    pub(super) async fn begin_write(
        &self,
        call: &Call,
        permit: &Permit,
        key: &ObjectKey,
        conditions: &Conditions,
        consistency: Consistency,
    ) -> Result<Begun, Error> {
        let conditional = conditions.if_none_match || !conditions.if_match.is_empty();
        if !conditional && consistency == Consistency::Local {
            let state = self.view(Consistency::Local).await?;
            let view = view_of(&state);
            if let Ok(bucket) = view.bucket(permit) {
                let indexes = view.indexes_of_content(&bucket, key)?;
                return Ok(Begun { bucket, indexes, is_local: true });
            }
        }
        let state = self.view(Consistency::Linearizable).await?;
        let view = view_of(&state);
        let bucket = view.bucket(permit)?;
        if let (true, Ok(read)) = (conditional, call.on_object(Action::GetObject, &bucket.name, key)) {
            let found = match view.find(&read, None, None) {
                Ok(found) => found.row.version,
                Err(stop) => match Error::from(stop) {
                    Error::Refused(Refusal::NoSuchKey) => None,
                    error => return Err(error),
                },
            };
            fails_already(conditions, found.as_ref().map(|version| version.etag.as_str()))?;
        }
        let indexes = view.indexes_of_content(&bucket, key)?;
        Ok(Begun { bucket, indexes, is_local: false })
    }

    /// How the bytes of a write to `bucket` are stored.
    pub(super) fn write_options(&self, bucket: &Bucket) -> WriteOptions {
        let settings = &bucket.row.settings;
        let inline = self.is_inline_always() || settings.durability == Some(Durability::Quorum);
        let most = settings.inline_bytes.unwrap_or(self.inline_bytes()).min(INLINE_BYTES_MAX);
        WriteOptions { inline_bytes: if inline { most } else { 0 }, deadline: None }
    }
}
