//! Tags of versions.

use std::collections::BTreeMap;

use holdfast_core::command::{Op, SetTags, Written};
use holdfast_core::id::{BucketName, ObjectKey, VersionId};
use holdfast_core::rules::authorize::{Action, AuthorizedOp};
use holdfast_core::view::Found;

use super::get::live;
use super::{Call, Done, bucket_ref, view_of, written};
use crate::error::Error;
use crate::gateway::Gateway;

impl Gateway {
    /// The version whose tags are asked for.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::DeleteMarker`].
    pub async fn tagged(
        &self,
        call: &Call,
        bucket: &BucketName,
        key: &ObjectKey,
        version: Option<VersionId>,
    ) -> Result<Done<Found>, Error> {
        let permit = call.on_object(Action::GetObjectTagging, bucket, key)?;
        let state = self.read_view(call).await?;
        let found = view_of(&state).find(&permit, version, None)?;
        Ok(Done { revision: state.revision(), value: live(found, version.is_some())? })
    }

    /// Replaces the tags of a version.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub async fn set_tags(
        &self,
        call: &Call,
        bucket: &BucketName,
        key: &ObjectKey,
        version: Option<VersionId>,
        tags: BTreeMap<String, String>,
    ) -> Result<Done<Written>, Error> {
        let permit = call.on_object(Action::PutObjectTagging, bucket, key)?;
        let found = self.bucket_for(&permit).await?;
        let op = Op::SetTags(SetTags { bucket: bucket_ref(&found), key: key.clone(), version, tags });
        let op = AuthorizedOp::new(op, &[permit])?;
        written(self.commit(op, call.origin()).await?)
    }
}
