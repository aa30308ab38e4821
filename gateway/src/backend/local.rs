//! A directory as the store: the embedded default.
//!
//! ```text
//! DIR/partitions/...  DIR/metadata/...  DIR/indexes/...    blobs, one plain file each
//! DIR/.tmp/put-*                                           unfinished writes, removed at the next start
//! DIR/.tmp/lock                                            held shared while open; who gets it alone may sweep
//! ```
//!
//! A put writes to a file in `.tmp`, syncs it, moves it to its name with a call that refuses to overwrite, then syncs the
//! directory of the name and the parent of every directory that may not be durable yet. Directory syncs are shared: puts that
//! arrive while one sync of a directory runs are all served by the next one ([`durable`]).
//!
//! Invariants:
//! - Everything is opened through a directory capability, so no name, however odd, and no symbolic link leads out of DIR.
//! - File work never runs on the reactor; bytes cross to the blocking threads a mebibyte at a time.
//! - After a failed sync nobody knows what the disk holds, so the store refuses every later write ([`Error::Poisoned`]). A full
//!   disk is not such a failure: the unfinished file is dropped and the next put may succeed.
//!
//! Absent: use by several machines, and conditional puts that are atomic between two processes on one directory.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::time::Instant;

use super::body::Body;
use super::{
    Backend, Capabilities, DeleteOptions, Error, Fetched, GetOptions, Head, HeadOptions, JoinOptions, JoinSource,
    ListOptions, ObjectPath, Page, Probe, ProbeOptions, PutOptions, Result, Stored, SweepOptions, Swept, check_limit,
    within,
};

mod durable;
mod list;
mod read;
mod store;
mod write;

use store::Store;

/// Bytes handed to a blocking thread at once. Large enough that the hand-over costs little, small enough for the cache.
const CHUNK_BYTES: u64 = 1024 * 1024;

/// A directory as the store.
#[derive(Debug)]
pub struct Local {
    store: Arc<Store>,
}

impl Local {
    /// Opens a directory, creates it (0700) when absent, and removes what unfinished writes of earlier runs left.
    ///
    /// # Errors
    /// [`Error::Denied`] or [`Error::Unavailable`] when the directory cannot be created, opened or synced.
    pub async fn open(directory: impl AsRef<Path>) -> Result<Self> {
        let directory = directory.as_ref().to_path_buf();
        let opened = tokio::task::spawn_blocking(move || Store::open(&directory)).await;
        match opened {
            Ok(store) => Ok(Local { store: Arc::new(store?) }),
            Err(cause) => Err(Error::unavailable("open", "the store", cause)),
        }
    }
}

#[async_trait]
impl Backend for Local {
    fn name(&self) -> &str {
        self.store.name()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { shared: false, join_source_bytes_min: Some(0), blob_bytes_max: i64::MAX as u64 }
    }

    async fn put(&self, path: &ObjectPath, body: Body, options: PutOptions) -> Result<Stored> {
        within(options.deadline, "put", path, write::put(&self.store, path, body, options)).await
    }

    async fn get(&self, path: &ObjectPath, options: GetOptions) -> Result<Fetched> {
        within(options.deadline, "get", path, read::get(&self.store, path, options)).await
    }

    async fn head(&self, path: &ObjectPath, options: HeadOptions) -> Result<Head> {
        within(options.deadline, "head", path, read::head(&self.store, path)).await
    }

    async fn delete(&self, path: &ObjectPath, options: DeleteOptions) -> Result<()> {
        within(options.deadline, "delete", path, write::delete(&self.store, path)).await
    }

    async fn list(&self, options: ListOptions) -> Result<Page> {
        check_limit(options.limit)?;
        let (deadline, prefix) = (options.deadline, options.prefix.clone());
        within(deadline, "list", prefix, self.store.blocking("list", move |store| list::page(store, &options))).await
    }

    async fn join(&self, sources: &[JoinSource], target: &ObjectPath, options: JoinOptions) -> Result<Stored> {
        within(options.deadline, "join", target, write::join(&self.store, sources, target, options.condition)).await
    }

    async fn sweep_unfinished(&self, options: SweepOptions) -> Result<Swept> {
        let sweep = self.store.blocking("sweep", move |store| store.sweep(options.older_than));
        within(options.deadline, "sweep", self.name(), sweep).await
    }

    async fn probe(&self, options: ProbeOptions) -> Result<Probe> {
        let started = Instant::now();
        let free = self.store.blocking("probe", |store| store.free_bytes());
        let free_bytes = within(options.deadline, "probe", self.name(), free).await?;
        self.store.check_writable()?;
        Ok(Probe { took: started.elapsed(), free_bytes: Some(free_bytes) })
    }

    async fn close(&self) {
        self.store.close().await;
    }
}

#[cfg(test)]
mod tests;
