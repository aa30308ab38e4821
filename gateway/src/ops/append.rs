//! Writes at the end of an object. Source: S3 API, PutObject with `x-amz-write-offset-bytes`.

use holdfast_core::command::{AppendObject, Op, Target, Written};
use holdfast_core::rules::authorize::{Action, AuthorizedOp};
use holdfast_core::view::object_resource;

use super::index::unread;
use super::put::{Begun, Put};
use super::{Call, Done, bucket_ref, written};
use crate::cluster::Consistency;
use crate::error::Error;
use crate::gateway::Gateway;

impl Gateway {
    /// Appends bytes to an object that ends at `offset`, or creates it when that is 0 and it does not exist.
    ///
    /// # Errors
    /// As [`Gateway::put`]; a wrong offset is refused where the command is applied.
    ///
    /// # Cancel safety
    /// As [`Gateway::put`].
    pub async fn append(&self, call: &Call, put: Put, offset: u64) -> Result<Done<Written>, Error> {
        let permit = call.permit(Action::PutObject, object_resource(&put.bucket, &put.key))?;
        let Begun { bucket, indexes, .. } =
            self.begin_write(call, &permit, &put.key, &put.conditions, Consistency::Linearizable).await?;
        let options = self.write_options(&bucket);
        let bytes = self.blobs().write(&put.bucket, &put.key, put.body, options).await?;
        let op = Op::AppendObject(AppendObject {
            target: Target { bucket: bucket_ref(&bucket), key: put.key, conditions: put.conditions },
            offset,
            content: bytes.content.clone(),
            attributes: put.attributes,
            nonce: self.blobs().mint(),
        });
        let op = AuthorizedOp::new(op, &[permit])?;
        // What was there before is not at hand: the indexes wait, and unique ones refuse.
        let origin = call.origin_with(unread(&indexes));
        written(self.commit_with(op, origin, Some(bytes)).await?)
    }
}
