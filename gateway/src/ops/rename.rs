//! Moves a name, or every name under a prefix. No bytes move.

use holdfast_core::command::{Conditions, Op, RenameObject, Reply, Source, SourceConditions, Target};
use holdfast_core::id::{BucketName, ObjectKey};
use holdfast_core::rules::authorize::{Action, AuthorizedOp};

use super::get::read_permit;
use super::index::unknown_indexes;
use super::{Call, Done, bucket_ref, retried, view_of};
use crate::cluster::Consistency;
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
        retried(call, |call| {
            let rename = rename.clone();
            async move { self.rename_once(&call, rename).await }
        })
        .await
    }

    async fn rename_once(&self, call: &Call, rename: Rename) -> Result<Done<u32>, Error> {
        let permit = call.on_object(Action::PutObject, &rename.bucket, &rename.target)?;
        let read = read_permit(call, &rename.bucket, &rename.source, None)?;
        let prefix = rename.source.as_str().ends_with('/') && rename.target.as_str().ends_with('/');
        let (bucket, found, indexes) = {
            let state = self.view(Consistency::Linearizable).await?;
            let view = view_of(&state);
            let bucket = view.bucket(&permit)?;
            let found = if prefix { None } else { view.find(&read, None, None).ok() };
            match found.filter(|found| found.row.version.is_some()) {
                Some(found) => {
                    let indexes = unknown_indexes(&view, &bucket, &rename.target, &found)?;
                    (bucket_ref(&bucket), Some(found).filter(|_| !indexes.is_empty()), indexes)
                }
                None => (bucket_ref(&bucket), None, Vec::new()),
            }
        };
        let (mut pinned, mut generation, mut extracted) = (None, None, Vec::new());
        if let Some(found) = found {
            let version = found.row.version.as_ref();
            let content_type = version.and_then(|version| version.attributes.headers.content_type.as_deref());
            extracted = self.extracted_of(&found, content_type, &rename.target, indexes).await?;
            pinned = Some(found.place);
            generation = version.and_then(|version| version.patched);
        }
        let source = Source {
            bucket: bucket.clone(),
            key: rename.source,
            version: None,
            conditions: rename.source_conditions,
            pinned,
            generation,
        };
        let target = Target { bucket, key: rename.target, conditions: rename.conditions };
        let op = Op::RenameObject(RenameObject { source, target, prefix, nonce: self.blobs().mint() });
        let op = AuthorizedOp::authorize(op, call.caller, &call.context)?;
        match self.commit(op, call.origin_with(extracted)).await? {
            (revision, Reply::Renamed(value)) => Ok(Done { revision, value }),
            _ => Err(Error::UnexpectedReply),
        }
    }
}
