//! Buckets: creation, removal, settings, documents.

use std::collections::BTreeMap;

use bytes::Bytes;
use holdfast_core::command::{BucketRef, CreateBucket, Document, Op, Reply, SetDocument, SetSettings, SetVersioning};
use holdfast_core::id::BucketName;
use holdfast_core::record::{BucketSettings, Durability};
use holdfast_core::rules::authorize::{Action, AuthorizedOp, Resource};
use holdfast_core::view::Bucket;

use super::{Call, Done, bucket_ref, done, view_of};
use crate::cluster::Consistency;
use crate::error::Error;
use crate::gateway::{Gateway, INLINE_BYTES_MAX};

/// Buckets that one listing gives at most, also when the caller names no bound.
pub const BUCKETS_MAX: usize = 10_000;

/// A page of buckets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buckets {
    /// By name.
    pub buckets: Vec<Bucket>,
    /// Whether there are more.
    pub truncated: bool,
}

impl Gateway {
    /// Creates a bucket.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub async fn create_bucket(&self, call: &Call, name: &BucketName) -> Result<Done<()>, Error> {
        let permit = call.on_bucket(Action::CreateBucket, name)?;
        let op = Op::CreateBucket(CreateBucket { name: name.clone(), settings: BucketSettings::default() });
        match self.commit(AuthorizedOp::new(op, &[permit])?, call.origin()).await? {
            (revision, Reply::BucketCreated(_)) => Ok(Done { revision, value: () }),
            _ => Err(Error::UnexpectedReply),
        }
    }

    /// Removes an empty bucket.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub async fn delete_bucket(&self, call: &Call, name: &BucketName) -> Result<Done<()>, Error> {
        let permit = call.on_bucket(Action::DeleteBucket, name)?;
        let op = Op::DeleteBucket(bucket_ref(&self.bucket_for(&permit).await?));
        done(self.commit(AuthorizedOp::new(op, &[permit])?, call.origin()).await?)
    }

    /// Buckets by name: those that start with `prefix`, after `after`, at most `limit`.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub async fn list_buckets(
        &self,
        call: &Call,
        prefix: String,
        after: Option<String>,
        limit: usize,
    ) -> Result<Done<Buckets>, Error> {
        let permit = call.permit(Action::ListBuckets, Resource::Service)?;
        let state = self.read_view(call).await?;
        let limit = limit.min(BUCKETS_MAX);
        self.read_many(state, move |view| {
            let (buckets, truncated) = view.buckets(&permit, &prefix, after.as_deref(), limit)?;
            Ok(Buckets { buckets, truncated })
        })
        .await
    }

    /// A bucket with its row, for whoever may list it.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub async fn head_bucket(&self, call: &Call, name: &BucketName) -> Result<Done<Bucket>, Error> {
        self.bucket_row(call, Action::ListBucket, name).await
    }

    /// A bucket with its row, for whoever may read its settings.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub async fn bucket_settings(&self, call: &Call, name: &BucketName) -> Result<Done<Bucket>, Error> {
        self.bucket_row(call, Action::ReadBucketSettings, name).await
    }

    async fn bucket_row(&self, call: &Call, action: Action, name: &BucketName) -> Result<Done<Bucket>, Error> {
        let permit = call.on_bucket(action, name)?;
        let state = self.read_view(call).await?;
        Ok(Done { revision: state.revision(), value: view_of(&state).bucket(&permit)? })
    }

    /// Enables or suspends versioning.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub async fn set_versioning(&self, call: &Call, name: &BucketName, enabled: bool) -> Result<Done<()>, Error> {
        self.write_settings(call, name, |bucket| Op::SetVersioning(SetVersioning { bucket, enabled })).await
    }

    /// Changes settings; what is `None` stays as it is.
    ///
    /// # Errors
    /// [`Error::Refused`]; [`Error::NotBuilt`] for a setting whose part is not built.
    pub async fn set_settings(
        &self,
        call: &Call,
        name: &BucketName,
        settings: BucketSettings,
    ) -> Result<Done<()>, Error> {
        if settings.durability == Some(Durability::Bucket) && self.archive().is_none() {
            return Err(Error::NotBuilt("durability=bucket without an archive"));
        }
        if settings.inline_bytes.is_some_and(|bytes| bytes > INLINE_BYTES_MAX) {
            let what = format!("inline_bytes may be {INLINE_BYTES_MAX} at most");
            return Err(holdfast_core::error::Error::invalid(what).into());
        }
        self.write_settings(call, name, |bucket| Op::SetSettings(SetSettings { bucket, settings })).await
    }

    /// Stores or removes a document.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub async fn set_document(
        &self,
        call: &Call,
        name: &BucketName,
        kind: Document,
        document: Option<Vec<u8>>,
    ) -> Result<Done<()>, Error> {
        self.write_settings(call, name, |bucket| Op::SetDocument(SetDocument { bucket, kind, document })).await
    }

    /// Replaces a bucket's tags; none removes them.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub async fn set_bucket_tags(
        &self,
        call: &Call,
        name: &BucketName,
        tags: &BTreeMap<String, String>,
    ) -> Result<Done<()>, Error> {
        let document = (!tags.is_empty()).then(|| minicbor::to_vec(tags).expect("writing to a vector cannot fail"));
        self.set_document(call, name, Document::Tags, document).await
    }

    async fn write_settings(
        &self,
        call: &Call,
        name: &BucketName,
        op: impl FnOnce(BucketRef) -> Op,
    ) -> Result<Done<()>, Error> {
        let permit = call.on_bucket(Action::WriteBucketSettings, name)?;
        let op = op(bucket_ref(&self.bucket_for(&permit).await?));
        done(self.commit(AuthorizedOp::new(op, &[permit])?, call.origin()).await?)
    }

    /// A document.
    ///
    /// # Errors
    /// [`Error::NoSuchDocument`], [`Error::Refused`].
    pub async fn document(&self, call: &Call, name: &BucketName, kind: Document) -> Result<Done<Bytes>, Error> {
        let permit = call.on_bucket(Action::ReadBucketSettings, name)?;
        let state = self.read_view(call).await?;
        let value = view_of(&state).document(&permit, kind)?.ok_or(Error::NoSuchDocument(kind))?;
        Ok(Done { revision: state.revision(), value })
    }

    /// A bucket's tags.
    ///
    /// # Errors
    /// [`Error::NoSuchDocument`], [`Error::Refused`].
    pub async fn bucket_tags(&self, call: &Call, name: &BucketName) -> Result<Done<BTreeMap<String, String>>, Error> {
        let Done { revision, value } = self.document(call, name, Document::Tags).await?;
        let decoded = minicbor::decode(&value);
        let corrupt = |source| holdfast_core::record::DecodeError { what: "bucket tags", source };
        let value = decoded.map_err(|source| Error::from(holdfast_core::state::Stop::Corrupt(corrupt(source))))?;
        Ok(Done { revision, value })
    }

    /// A bucket's CORS document, for a browser's preflight, which carries no signature.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub async fn cors_document(&self, name: &BucketName) -> Result<Option<Bytes>, Error> {
        let state = self.view(Consistency::Linearizable).await?;
        Ok(view_of(&state).cors_document(name)?)
    }
}
