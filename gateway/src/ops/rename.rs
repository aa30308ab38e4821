//! Moves a name, or every name under a prefix. No bytes move.

use holdfast_core::command::{Conditions, Op, RenameObject, Reply, Source, SourceConditions, Target};
use holdfast_core::id::{BucketName, ObjectKey};
use holdfast_core::rules::authorize::Action;

use super::{Call, Done, bucket_ref};
use crate::error::Error;
use crate::gateway::Gateway;

/// What to move, and where to.
#[derive(Clone, Debug)]
pub struct Rename {
    /// Bucket of both.
    pub bucket: BucketName,
    /// From.
    pub source: ObjectKey,
    /// What must hold of it.
    pub source_conditions: SourceConditions,
    /// To.
    pub target: ObjectKey,
    /// What must hold of it.
    pub conditions: Conditions,
}

impl Gateway {
    /// Moves a name; when both keys end with a slash, every name under the first. Gives the number of names moved.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub async fn rename(&self, call: &Call, rename: Rename) -> Result<Done<u32>, Error> {
        let permit = call.on_object(Action::PutObject, &rename.bucket, &rename.target)?;
        let bucket = bucket_ref(&self.bucket_for(&permit).await?);
        let prefix = rename.source.as_str().ends_with('/') && rename.target.as_str().ends_with('/');
        let source = Source {
            bucket: bucket.clone(),
            key: rename.source,
            version: None,
            conditions: rename.source_conditions,
            pinned: None,
        };
        let target = Target { bucket, key: rename.target, conditions: rename.conditions };
        let op = Op::RenameObject(RenameObject { source, target, prefix, nonce: self.blobs().mint() });
        match self.authorized(call, op).await? {
            (revision, Reply::Renamed(value)) => Ok(Done { revision, value }),
            _ => Err(Error::UnexpectedReply),
        }
    }
}
