//! What is known of a version, without its bytes: its boundaries too. Source: S3 API, GetObjectAttributes.

use holdfast_core::id::{BucketName, ObjectKey, VersionId};
use holdfast_core::record::Boundary;
use holdfast_core::view::Found;

use super::get::{live, read_permit};
use super::{Call, Done, view_of};
use crate::error::Error;
use crate::gateway::Gateway;

/// A version and the boundaries of its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// The version.
    pub found: Found,
    /// Its parts by number; empty when it was no multipart upload, or when they were not asked for.
    pub parts: Vec<Boundary>,
}

impl Gateway {
    /// Looks up a version, with its parts if they are wanted.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::DeleteMarker`].
    pub async fn attributes(
        &self,
        call: &Call,
        bucket: &BucketName,
        key: &ObjectKey,
        version: Option<VersionId>,
        with_parts: bool,
    ) -> Result<Done<Attributes>, Error> {
        let permit = read_permit(call, bucket, key, version)?;
        let state = self.read_view(call).await?;
        let view = view_of(&state);
        let found = live(view.find(&permit, version, None)?, version.is_some())?;
        let parts = if with_parts { view.boundaries(&found)? } else { Vec::new() };
        Ok(Done { revision: state.revision(), value: Attributes { found, parts } })
    }
}
