//! Listings, each of one state: names, versions, uploads, parts.

use holdfast_core::id::{BucketName, ObjectKey, Revision, UploadId, VersionId};
use holdfast_core::list::{ListedVersion, Page, PartsPage, Query};
use holdfast_core::record::{NameRow, UploadRow};
use holdfast_core::rules::authorize::Action;

use super::{Call, Done};
use crate::error::Error;
use crate::gateway::Gateway;

/// Entries of one page. Source: S3 API, ListObjectsV2.
pub const PAGE_ENTRIES_MAX: usize = 1000;

impl Gateway {
    /// Live names, now or at a revision that the bucket still remembers.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub async fn list(
        &self,
        call: &Call,
        bucket: &BucketName,
        query: Query,
        at: Option<Revision>,
    ) -> Result<Done<Page<NameRow>>, Error> {
        let permit = call.on_bucket(Action::ListBucket, bucket)?;
        let state = self.read_view(call).await?;
        self.read_many(state, move |view| {
            Ok(match query.limit {
                0 => empty(view.bucket(&permit)?, view.revision()),
                _ => view.list(&permit, &query, at)?,
            })
        })
        .await
    }

    /// Versions and delete markers.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub async fn list_versions(
        &self,
        call: &Call,
        bucket: &BucketName,
        query: Query,
        after_version: Option<VersionId>,
    ) -> Result<Done<Page<ListedVersion>>, Error> {
        let permit = call.on_bucket(Action::ListBucketVersions, bucket)?;
        let state = self.read_view(call).await?;
        self.read_many(state, move |view| {
            Ok(match query.limit {
                0 => empty(view.bucket(&permit)?, view.revision()),
                _ => view.list_versions(&permit, &query, after_version)?,
            })
        })
        .await
    }

    /// Uploads in progress.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub async fn list_uploads(
        &self,
        call: &Call,
        bucket: &BucketName,
        query: Query,
        after_upload: Option<UploadId>,
    ) -> Result<Done<Page<(UploadId, UploadRow)>>, Error> {
        let permit = call.on_bucket(Action::ListUploads, bucket)?;
        let state = self.read_view(call).await?;
        self.read_many(state, move |view| {
            Ok(match query.limit {
                0 => empty(view.bucket(&permit)?, view.revision()),
                _ => view.list_uploads(&permit, &query, after_upload)?,
            })
        })
        .await
    }

    /// Parts of an upload in progress, those above number `after`.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub async fn list_parts(
        &self,
        call: &Call,
        bucket: &BucketName,
        key: &ObjectKey,
        upload: UploadId,
        after: u16,
        limit: usize,
    ) -> Result<Done<PartsPage>, Error> {
        let permit = call.on_object(Action::ListParts, bucket, key)?;
        let state = self.read_view(call).await?;
        self.read_many(state, move |view| {
            let mut page = view.parts(&permit, upload, after, limit)?;
            page.truncated &= limit > 0;
            Ok(page)
        })
        .await
    }
}

/// What was asked for is nothing: not even whether there is more.
fn empty<T>(bucket: holdfast_core::view::Bucket, revision: Revision) -> Page<T> {
    Page { bucket, entries: Vec::new(), truncated: false, revision }
}
