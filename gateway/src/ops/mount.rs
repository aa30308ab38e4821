//! The mount: files and directories of a bucket, as `docs/mount-protocol.md` specifies them.
//!
//! A session is opened by a command, and everything that it changes is a stream of numbered commits ([`commit`]). Reads look
//! at one view each, linearizable unless the caller wants it otherwise.

mod commit;

use bytes::Bytes;
use holdfast_core::command::mount::{FileRef, OpenMount, StepOutcome};
use holdfast_core::command::{MountOpened, Op, Reply};
use holdfast_core::error::Error as Refusal;
use holdfast_core::id::BucketName;
use holdfast_core::mount::{
    Commit, Entry, LIST_ENTRIES_MAX, List, Listed, Map, Mapped, Node, Open, Opened, PROTOCOL, ReadFile, SENT_BYTES_MAX,
    STAT_PATHS_MAX, Stat,
};
use holdfast_core::record::Versioning;
use holdfast_core::rules::authorize::{Action, Permit, authorize};
use holdfast_core::view::{View, object_resource};

use super::{ATTEMPTS_MAX, Call, Done, bucket_ref, view_of};
use crate::blobs::BodyStream;
use crate::cluster::Consistency;
use crate::error::Error;
use crate::gateway::Gateway;

/// What a bucket holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of all versions.
    pub bytes: u64,
    /// Live names.
    pub objects: u64,
}

impl Gateway {
    /// Opens the session of a mount, or takes it over from an earlier life of the same client.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Cluster`].
    pub async fn mount_open(&self, call: &Call, bucket: &BucketName, open: Open) -> Result<Done<Opened>, Error> {
        let permit = call.on_bucket(Action::ListBucket, bucket)?;
        let found = self.bucket_for(&permit).await?;
        let Open { client, owner, ttl_ms, .. } = open;
        let op = Op::OpenMount(OpenMount { bucket: bucket_ref(&found), client, owner, ttl_ms });
        let (revision, reply) = self.authorized(call, op).await?;
        let Reply::MountOpened(MountOpened { lease, applied, revision: applied_at }) = reply else {
            return Err(Error::UnexpectedReply);
        };
        // As of the session: a bucket that is versioned later is told by what commits answer.
        let state = self.view(Consistency::AtLeast(revision)).await?;
        let versioned = view_of(&state).bucket(&permit)?.row.versioning != Versioning::Never;
        let (protocol, sent_bytes_max) = (PROTOCOL, SENT_BYTES_MAX as u64);
        let value = Opened { lease, applied, protocol, sent_bytes_max, versioned, revision: applied_at };
        Ok(Done { revision, value })
    }

    /// Looks up names: of each whether there is a file, and whether a directory. What the caller may not get does not exist
    /// for it.
    ///
    /// # Errors
    /// [`Error::Refused`], also for more than [`STAT_PATHS_MAX`] paths.
    pub async fn mount_stat(&self, call: &Call, bucket: &BucketName, stat: Stat) -> Result<Done<Vec<Entry>>, Error> {
        if stat.paths.len() > STAT_PATHS_MAX {
            return Err(Refusal::invalid("one call looks up at most 1,000 paths").into());
        }
        let permit = call.on_bucket(Action::ListBucket, bucket)?;
        let state = self.read_view(call).await?;
        let may_see = may_see(call, bucket);
        let look = move |view: &View<'_>| {
            let mut entries = view.mount_entries(&permit, &stat.paths)?;
            for entry in &mut entries {
                entry.file = entry.file.take().filter(&may_see);
                entry.directory = entry.directory.take().filter(&may_see);
            }
            Ok(entries)
        };
        self.read_many(state, look).await
    }

    /// A page of a directory.
    ///
    /// # Errors
    /// [`Error::Refused`]; [`Refusal::Changed`] when a later page is asked for at a revision that the bucket has forgotten.
    pub async fn mount_list(&self, call: &Call, bucket: &BucketName, list: List) -> Result<Done<Listed>, Error> {
        let list = List { limit: list.limit.clamp(1, LIST_ENTRIES_MAX as u32), ..list };
        let permit = call.on_bucket(Action::ListBucket, bucket)?;
        let state = self.read_view(call).await?;
        let may_see = may_see(call, bucket);
        let look = move |view: &View<'_>| {
            let mut listed = view.mount_list(&permit, &list)?;
            listed.nodes.retain(&may_see);
            Ok(listed)
        };
        self.read_many(state, look).await
    }

    /// Where the bytes of a file are.
    ///
    /// # Errors
    /// [`Error::Refused`]; [`Refusal::Changed`] when something else is behind the name.
    pub async fn mount_map(&self, call: &Call, bucket: &BucketName, map: Map) -> Result<Done<Mapped>, Error> {
        let permit = file_permit(call, bucket, &map.file)?;
        let state = self.read_view(call).await?;
        self.read_many(state, move |view| Ok(view.mount_map(&permit, &map)?)).await
    }

    /// A file now, and bytes of it: also of one that has no name any more. The first of them are at hand and verified when
    /// it returns.
    ///
    /// # Errors
    /// [`Error::Refused`]; [`Refusal::Changed`] when the file has another generation than the one that was asked for.
    ///
    /// # Cancel safety
    /// A dropped call or body ends the read.
    pub async fn mount_read(
        &self,
        call: &Call,
        bucket: &BucketName,
        read: ReadFile,
    ) -> Result<Done<(Node, BodyStream)>, Error> {
        let permit = file_permit(call, bucket, &read.file)?;
        let mut attempt = 1;
        loop {
            match self.mount_read_once(call, &permit, &read).await {
                // The bytes moved or went between the view and the read: what is there now can be read.
                Err(error) if error.is_changed() && attempt < ATTEMPTS_MAX => attempt += 1,
                done => return done,
            }
        }
    }

    async fn mount_read_once(
        &self,
        call: &Call,
        permit: &Permit,
        read: &ReadFile,
    ) -> Result<Done<(Node, BodyStream)>, Error> {
        let (revision, node, plan) = {
            let state = self.read_view(call).await?;
            let view = view_of(&state);
            let node = view.mount_file(permit, &read.file)?;
            if read.generation.is_some_and(|generation| generation != node.generation) {
                return Err(Refusal::Changed.into());
            }
            let found = view.find_file(permit, &read.file)?;
            let size = found.row.size();
            let start = read.offset.min(size);
            let end = read.offset.saturating_add(read.length).clamp(start, size);
            (state.revision(), node, self.blobs().plan(&view, &found, start..end)?)
        };
        let body = self.blobs().open(plan).await?;
        Ok(Done { revision, value: (node, body) })
    }

    /// What a bucket holds.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub async fn mount_usage(&self, call: &Call, bucket: &BucketName) -> Result<Done<Usage>, Error> {
        let permit = call.on_bucket(Action::ListBucket, bucket)?;
        let state = self.read_view(call).await?;
        let usage = view_of(&state).bucket(&permit)?.row.usage;
        Ok(Done { revision: state.revision(), value: Usage { bytes: usage.bytes, objects: usage.objects } })
    }

    /// Changes files and directories; `sent` are the raw bytes that steps refer to. An outcome for each step.
    ///
    /// The last commit of a session again, by its number and id, changes nothing and gives the first outcomes, so whoever does
    /// not know what became of it sends it again.
    ///
    /// # Errors
    /// [`Error::Refused`] for a session that may not commit (its lease has ended, a number that leaves a gap or that another
    /// commit has, which is [`Refusal::Changed`]), of which nothing was done; [`Error::Cluster`], of which
    /// [`crate::cluster::Error::UnknownOutcome`] may have been done, and so may [`Refusal::Expired`].
    ///
    /// # Cancel safety
    /// Dropped before the command is proposed, nothing is done; afterwards it runs to its end.
    pub async fn mount_commit(
        &self,
        call: &Call,
        bucket: &BucketName,
        commit: Commit,
        sent: Bytes,
    ) -> Result<Done<Vec<StepOutcome>>, Error> {
        commit::commit(self, call, bucket, commit, sent).await
    }
}

/// Whether the caller may know of a node: directories that only their entries make are part of what it may list.
fn may_see(call: &Call, bucket: &BucketName) -> impl Fn(&Node) -> bool + Send + 'static {
    let (caller, context, bucket) = (call.caller, call.context, bucket.clone());
    move |node| match &node.key {
        Some(key) if node.object != holdfast_core::mount::IMPLICIT => {
            authorize(caller, Action::GetObject, object_resource(&bucket, key), &context).is_ok()
        }
        _ => true,
    }
}

/// The permit for reading a file. One without a name is its session's, which could read it when it had one.
fn file_permit(call: &Call, bucket: &BucketName, file: &FileRef) -> Result<Permit, Error> {
    match &file.key {
        Some(key) => call.on_object(Action::GetObject, bucket, key),
        None => call.on_bucket(Action::GetObject, bucket),
    }
}
