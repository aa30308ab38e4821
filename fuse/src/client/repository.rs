//! A bucket behind gateways, as the file system wants it.

use std::ops::Range;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use holdfast_core::command::Fence;
use holdfast_core::command::mount::MountUpload;
use holdfast_core::id::{BucketName, ObjectKey, Revision};
use holdfast_core::mount::Call;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::coordination::LockWanted;
use super::{Client, Error};
use crate::remote::{Grant, Holder, News, RangeLock, Remote, Told};

/// How long a lock lives without renewal: as long as the session that renews it.
const LOCK_TTL: Duration = Duration::from_secs(15);

/// One bucket.
#[derive(Clone, Debug)]
pub struct Repository {
    client: Client,
    bucket: BucketName,
}

impl Repository {
    /// A bucket that `client` reaches.
    #[must_use]
    pub fn new(client: Client, bucket: BucketName) -> Self {
        Self { client, bucket }
    }
}

#[async_trait]
impl Remote for Repository {
    async fn call(&self, call: &Call, raw: Bytes, fences: &[Fence], deadline: Instant) -> Result<Told, Error> {
        self.client.call(&self.bucket, call, raw, fences, deadline).await
    }

    async fn read(&self, key: &ObjectKey, etag: &str, range: Range<u64>, deadline: Instant) -> Result<Bytes, Error> {
        self.client.get_range(&self.bucket, key, etag, range, deadline).await
    }

    async fn create_upload(&self, key: &ObjectKey, deadline: Instant) -> Result<MountUpload, Error> {
        let upload = self.client.create_upload(&self.bucket, key, deadline).await?;
        Ok(MountUpload { key: key.clone(), upload })
    }

    async fn upload_part(
        &self,
        upload: &MountUpload,
        number: u16,
        bytes: Bytes,
        deadline: Instant,
    ) -> Result<(), Error> {
        self.client.upload_part(&self.bucket, &upload.key, upload.upload, number, bytes, deadline).await
    }

    async fn abort_upload(&self, upload: &MountUpload, deadline: Instant) -> Result<(), Error> {
        self.client.abort_upload(&self.bucket, &upload.key, upload.upload, deadline).await
    }

    async fn renew(&self, lease: Revision, deadline: Instant) -> Result<(), Error> {
        self.client.renew(lease, None, deadline).await.map(drop)
    }

    async fn release(&self, lease: Revision, deadline: Instant) -> Result<(), Error> {
        self.client.release(lease, deadline).await
    }

    async fn lock(&self, name: &str, owner: &str, deadline: Instant) -> Result<Grant, Error> {
        self.client.lock(LockWanted { name, owner, ttl: LOCK_TTL, wait: Duration::ZERO }, deadline).await
    }

    async fn set_range(&self, range: &RangeLock, wait: Duration, deadline: Instant) -> Result<Option<Holder>, Error> {
        self.client.set_range(range, wait, deadline).await
    }

    async fn test_range(&self, range: &RangeLock, deadline: Instant) -> Result<Option<Holder>, Error> {
        self.client.test_range(range, deadline).await
    }

    async fn cancel_range(&self, range: &RangeLock, deadline: Instant) -> Result<bool, Error> {
        self.client.cancel_range(range, deadline).await
    }

    async fn watch(
        &self,
        prefix: &str,
        from: Option<Revision>,
        mark: Duration,
        tell: mpsc::Sender<News>,
    ) -> Result<(), Error> {
        self.client.watch(&self.bucket, prefix, from, mark, &tell).await
    }
}
