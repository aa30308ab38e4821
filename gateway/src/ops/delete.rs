//! Deletes names or versions, one or many, in one command.

use holdfast_core::command::{DeleteEntry, DeleteObjects, Deleted, Op, Reply};
use holdfast_core::id::BucketName;
use holdfast_core::rules::authorize::Action;

use super::{Call, Done, bucket_ref};
use crate::error::Error;
use crate::gateway::Gateway;

impl Gateway {
    /// Deletes entries of a bucket, each by itself, in order. Every key is authorized; one that is not refuses the whole.
    ///
    /// # Errors
    /// [`Error::Refused`] for the request; what is refused of an entry is in its [`Deleted`].
    pub async fn delete(
        &self,
        call: &Call,
        bucket: &BucketName,
        entries: Vec<DeleteEntry>,
    ) -> Result<Done<Vec<Deleted>>, Error> {
        let mut permits = Vec::with_capacity(entries.len());
        for entry in &entries {
            let action = if entry.version.is_some() { Action::DeleteObjectVersion } else { Action::DeleteObject };
            permits.push(call.on_object(action, bucket, &entry.key)?);
        }
        let Some(first) = permits.first() else {
            return Err(holdfast_core::error::Error::invalid("nothing to delete").into());
        };
        let found = self.bucket_for(first).await?;
        let op = Op::DeleteObjects(DeleteObjects { bucket: bucket_ref(&found), entries, nonce: self.blobs().mint() });
        // `AuthorizedOp::new` looks each need up among all permits, which is quadratic for a thousand keys.
        match self.authorized(call, op).await? {
            (revision, Reply::Deleted(value)) => Ok(Done { revision, value }),
            _ => Err(Error::UnexpectedReply),
        }
    }
}
