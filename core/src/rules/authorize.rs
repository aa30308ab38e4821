//! Who may do what: one pure decision for every front door.
//!
//! [`authorize`] is the only maker of a [`Permit`]; the functions that read take a permit and read exactly the resource
//! it names, the one that commits takes an [`AuthorizedOp`], which needs a permit for each resource the operation
//! touches. A handler without a check does not compile. Today root may do everything, jobs may do what jobs do, and
//! nobody else may do anything.

use crate::command::mount::{FileWrite, MountCommit, Onto, Origin, Step, UnlinkFile};
use crate::command::{DeleteEntry, DeleteObjects, Op, Source};
use crate::error::Error;
use crate::id::{BucketName, ObjectKey};

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// The holder of the root keys.
    Root,
    /// A job of this node.
    System,
    /// Nobody: the request carries no valid signature.
    Anonymous,
}

/// What is asked, by the names of IAM's S3 actions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// `s3:ListAllMyBuckets`
    ListBuckets,
    /// `s3:CreateBucket`
    CreateBucket,
    /// `s3:DeleteBucket`
    DeleteBucket,
    /// `s3:ListBucket`
    ListBucket,
    /// `s3:ListBucketVersions`
    ListBucketVersions,
    /// `s3:ListBucketMultipartUploads`
    ListUploads,
    /// `s3:GetBucketLocation`, `s3:GetBucketVersioning`, `s3:GetBucketCORS`, `s3:GetBucketTagging`
    ReadBucketSettings,
    /// `s3:PutBucketVersioning`, `s3:PutBucketCORS`, `s3:PutBucketTagging`
    WriteBucketSettings,
    /// `s3:GetObject`, `s3:GetObjectAttributes`
    GetObject,
    /// `s3:GetObjectVersion`
    GetObjectVersion,
    /// `s3:PutObject`
    PutObject,
    /// `s3:DeleteObject`
    DeleteObject,
    /// `s3:DeleteObjectVersion`
    DeleteObjectVersion,
    /// `s3:GetObjectTagging`
    GetObjectTagging,
    /// `s3:PutObjectTagging`, `s3:DeleteObjectTagging`
    PutObjectTagging,
    /// `s3:AbortMultipartUpload`
    AbortUpload,
    /// `s3:ListMultipartUploadParts`
    ListParts,
    /// Status and metrics of the cluster.
    ReadCluster,
    /// Change its membership.
    ManageCluster,
    /// Read the feed of events.
    WatchEvents,
    /// Locks, leases and ephemeral keys.
    UseLocks,
    /// `s3:PutBucketNotification` of the service: the targets of events.
    ManageTargets,
    /// Topics: publish, read, claim.
    UseTopics,
    /// Create and drop indexes of a bucket.
    ManageIndexes,
    /// What jobs do.
    Maintain,
}

/// What it is asked of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resource {
    /// The service.
    Service,
    /// A bucket.
    Bucket(BucketName),
    /// A key of a bucket.
    Object(BucketName, ObjectKey),
}

/// What a decision may look at besides. Typed, so that no header can pose as a fact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// Whether the request came over TLS.
    pub secure_transport: bool,
}

/// Proof that a caller may do an action on a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permit {
    action: Action,
    resource: Resource,
}

/// Decides. Whatever is not allowed is denied.
///
/// # Errors
/// [`Error::Denied`].
pub fn authorize(caller: Caller, action: Action, resource: Resource, _context: &Context) -> Result<Permit, Error> {
    let allowed = match caller {
        Caller::Root => action != Action::Maintain,
        Caller::System => action == Action::Maintain,
        Caller::Anonymous => false,
    };
    if allowed { Ok(Permit { action, resource }) } else { Err(Error::Denied) }
}

impl Permit {
    /// The action it allows.
    #[must_use]
    pub fn action(&self) -> Action {
        self.action
    }

    /// The resource it allows it on.
    #[must_use]
    pub fn resource(&self) -> &Resource {
        &self.resource
    }

    /// The bucket it is about.
    pub(crate) fn bucket(&self) -> Result<&BucketName, Error> {
        match &self.resource {
            Resource::Service => Err(Error::Denied),
            Resource::Bucket(bucket) | Resource::Object(bucket, _) => Ok(bucket),
        }
    }

    /// The bucket and key it is about, for one of `actions`.
    pub(crate) fn object(&self, actions: &[Action]) -> Result<(&BucketName, &ObjectKey), Error> {
        match &self.resource {
            Resource::Object(bucket, key) if actions.contains(&self.action) => Ok((bucket, key)),
            _ => Err(Error::Denied),
        }
    }

    /// Checks that it is for one of `actions`.
    pub(crate) fn require(&self, actions: &[Action]) -> Result<(), Error> {
        if actions.contains(&self.action) { Ok(()) } else { Err(Error::Denied) }
    }
}

/// An operation with a permit for everything it touches.
#[derive(Clone, Debug)]
pub struct AuthorizedOp(Op);

impl AuthorizedOp {
    /// Joins an operation with its permits.
    ///
    /// # Errors
    /// [`Error::Denied`] when a needed permit is missing.
    pub fn new(op: Op, permits: &[Permit]) -> Result<Self, Error> {
        let held = |action, resource: &Resource| permits.iter().any(|p| p.action == action && p.resource == *resource);
        if needs(&op).iter().all(|(action, resource)| held(*action, resource)) {
            Ok(Self(op))
        } else {
            Err(Error::Denied)
        }
    }

    /// Asks [`authorize`] for every permit that `op` needs.
    ///
    /// # Errors
    /// [`Error::Denied`] when one is refused.
    pub fn authorize(op: Op, caller: Caller, context: &Context) -> Result<Self, Error> {
        for (action, resource) in needs(&op) {
            authorize(caller, action, resource, context)?;
        }
        Ok(Self(op))
    }

    /// The operation.
    #[must_use]
    pub fn into_op(self) -> Op {
        self.0
    }

    /// The operation.
    #[must_use]
    pub fn op(&self) -> &Op {
        &self.0
    }
}

/// What an operation touches: every action with its resource.
#[must_use]
pub fn needs(op: &Op) -> Vec<(Action, Resource)> {
    let bucket = |action, name: &BucketName| vec![(action, Resource::Bucket(name.clone()))];
    let object = |action, name: &BucketName, key: &ObjectKey| (action, Resource::Object(name.clone(), key.clone()));
    let read = |source: &Source| {
        let action = if source.version.is_some() { Action::GetObjectVersion } else { Action::GetObject };
        object(action, &source.bucket.name, &source.key)
    };
    match op {
        Op::CreateBucket(op) => bucket(Action::CreateBucket, &op.name),
        Op::CreateIndex(op) => bucket(Action::ManageIndexes, &op.bucket.name),
        Op::DropIndex(op) => bucket(Action::ManageIndexes, &op.bucket.name),
        Op::DeleteBucket(op) => bucket(Action::DeleteBucket, &op.name),
        Op::SetVersioning(op) => bucket(Action::WriteBucketSettings, &op.bucket.name),
        Op::SetDocument(op) => bucket(Action::WriteBucketSettings, &op.bucket.name),
        Op::SetSettings(op) => bucket(Action::WriteBucketSettings, &op.bucket.name),
        Op::PutObject(op) => vec![object(Action::PutObject, &op.target.bucket.name, &op.target.key)],
        Op::AppendObject(op) => vec![object(Action::PutObject, &op.target.bucket.name, &op.target.key)],
        Op::CompleteUpload(op) => vec![object(Action::PutObject, &op.target.bucket.name, &op.target.key)],
        Op::CreateUpload(op) => vec![object(Action::PutObject, &op.bucket.name, &op.key)],
        Op::PutPart(op) => vec![object(Action::PutObject, &op.upload.bucket.name, &op.upload.key)],
        Op::CopyPart(op) => {
            vec![object(Action::PutObject, &op.upload.bucket.name, &op.upload.key), read(&op.source)]
        }
        Op::CopyObject(op) => {
            vec![object(Action::PutObject, &op.target.bucket.name, &op.target.key), read(&op.source)]
        }
        Op::RenameObject(op) => vec![
            read(&op.source),
            object(Action::DeleteObject, &op.source.bucket.name, &op.source.key),
            object(Action::PutObject, &op.target.bucket.name, &op.target.key),
        ],
        Op::SetTags(op) => vec![object(Action::PutObjectTagging, &op.bucket.name, &op.key)],
        Op::AbortUpload(op) => vec![object(Action::AbortUpload, &op.bucket.name, &op.key)],
        Op::DeleteObjects(op) => deletes(op),
        Op::AcquireLock(_)
        | Op::RenewLease(_)
        | Op::ReleaseLease(_)
        | Op::GrantLease(_)
        | Op::PutEphemeral(_)
        | Op::RemoveEphemeral(_)
        | Op::SetRange(_)
        | Op::CancelRange(_) => vec![(Action::UseLocks, Resource::Service)],
        Op::OpenMount(op) => bucket(Action::ListBucket, &op.bucket.name),
        Op::MountCommit(op) => mounted(op),
        Op::SetTarget(_) | Op::RemoveTarget(_) => vec![(Action::ManageTargets, Resource::Service)],
        Op::SetTopic(_) | Op::DeleteTopic(_) | Op::Publish(_) | Op::SetGroup(_) | Op::Claim(_) | Op::Acknowledge(_) => {
            vec![(Action::UseTopics, Resource::Service)]
        }
        Op::Condemn(_)
        | Op::Forget(_)
        | Op::Trim(_)
        | Op::Join(_)
        | Op::SetDigest(_)
        | Op::ExpireLease(_)
        | Op::TrimEvents(_)
        | Op::AdvanceTarget(_)
        | Op::TrimTopic(_)
        | Op::IndexObjects(_)
        | Op::TrimIndexes(_)
        | Op::BeginRun(_)
        | Op::AddRun(_)
        | Op::DemoteEntries(_)
        | Op::LoseRun(_)
        | Op::ForgetRuns(_)
        | Op::CompactPage(_) => {
            vec![(Action::Maintain, Resource::Service)]
        }
    }
}

/// What a commit of a mount touches: each key is read, written or removed; with a directory that moves, all that is in it.
fn mounted(op: &MountCommit) -> Vec<(Action, Resource)> {
    let on = |action, key: &ObjectKey| (action, Resource::Object(op.bucket.name.clone(), key.clone()));
    let mut needed = Vec::new();
    for step in &op.steps {
        match step {
            Step::Unlink(UnlinkFile { file, .. }) | Step::RemoveDirectory(file) => {
                needed.extend(file.key.iter().map(|key| on(Action::DeleteObject, key)));
            }
            Step::Rename(step) if step.onto == Onto::Exchange => {
                let both = step.file.key.iter().chain([&step.to]);
                let actions = [Action::GetObject, Action::DeleteObject, Action::PutObject];
                needed.extend(both.flat_map(|key| actions.map(|action| on(action, key))));
            }
            Step::Rename(step) => {
                needed.extend(
                    step.file.key.iter().flat_map(|key| [on(Action::GetObject, key), on(Action::DeleteObject, key)]),
                );
                needed.push(on(Action::PutObject, &step.to));
            }
            Step::Link(step) => {
                // What is written under the new name is written under the old one, too.
                let source = step.file.key.iter();
                needed.extend(source.flat_map(|key| [on(Action::GetObject, key), on(Action::PutObject, key)]));
                needed.push(on(Action::PutObject, &step.to));
            }
            Step::Patch(step) => {
                needed.extend(step.file.key.iter().map(|key| on(Action::PutObject, key)));
                needed.extend(sources(&step.writes).map(|key| on(Action::GetObject, key)));
            }
            Step::Create(step) => {
                needed.push(on(Action::PutObject, &step.key));
                needed.extend(sources(&step.bytes).map(|key| on(Action::GetObject, key)));
            }
            Step::SetAttributes(_) | Step::Cut(_) => {
                needed.extend(step.keys().into_iter().map(|key| on(Action::PutObject, key)));
            }
            // A file without a name is the session's, and the session is its opener's.
            Step::Release(_) => {}
            Step::Adopt(file) => needed.extend(file.key.iter().map(|key| on(Action::GetObject, key))),
        }
    }
    needed.extend(op.upload.iter().map(|upload| on(Action::PutObject, &upload.key)));
    if needed.is_empty() {
        needed.push((Action::ListBucket, Resource::Bucket(op.bucket.name.clone())));
    }
    needed
}

/// The files that writes take bytes of.
fn sources(writes: &[FileWrite]) -> impl Iterator<Item = &ObjectKey> {
    writes.iter().filter_map(|write| match &write.from {
        Origin::File(file, _) => file.key.as_ref(),
        Origin::Sent(_) | Origin::Part(..) | Origin::Hole => None,
    })
}

fn deletes(op: &DeleteObjects) -> Vec<(Action, Resource)> {
    let bucket = &op.bucket.name;
    if op.entries.is_empty() {
        return vec![(Action::DeleteObject, Resource::Bucket(bucket.clone()))];
    }
    let delete = |entry: &DeleteEntry| {
        let action = if entry.version.is_some() { Action::DeleteObjectVersion } else { Action::DeleteObject };
        (action, Resource::Object(bucket.clone(), entry.key.clone()))
    };
    op.entries.iter().map(delete).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(key: &str) -> Resource {
        Resource::Object("abc".parse().unwrap(), key.parse().unwrap())
    }

    #[test]
    fn only_root_is_allowed_and_jobs_are_kept_apart() {
        let context = Context::default();
        assert!(authorize(Caller::Root, Action::PutObject, object("k"), &context).is_ok());
        assert!(authorize(Caller::Root, Action::Maintain, Resource::Service, &context).is_err());
        assert!(authorize(Caller::System, Action::GetObject, object("k"), &context).is_err());
        assert!(authorize(Caller::Anonymous, Action::ListBuckets, Resource::Service, &context).is_err());
    }

    #[test]
    fn a_copy_needs_its_source_too_and_a_multi_delete_every_key() {
        use crate::command::{BucketRef, DeleteEntry, DeleteObjects};
        let context = Context::default();
        let entry = |key: &str| DeleteEntry {
            key: key.parse().unwrap(),
            version: None,
            if_match: vec![],
            if_size: None,
            if_modified_ms: None,
        };
        let bucket = BucketRef { name: "abc".parse().unwrap(), id: Default::default() };
        let op = Op::DeleteObjects(DeleteObjects {
            bucket,
            entries: vec![entry("a"), entry("b")],
            nonce: Default::default(),
        });
        let permit = |key| authorize(Caller::Root, Action::DeleteObject, object(key), &context).unwrap();
        assert!(AuthorizedOp::new(op.clone(), &[permit("a")]).is_err());
        assert!(AuthorizedOp::new(op, &[permit("a"), permit("b")]).is_ok());
    }
}
