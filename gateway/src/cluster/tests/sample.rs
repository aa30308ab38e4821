//! Commands and reads of the tests, in one place: small objects of one bucket, with their bytes in the command.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use holdfast_core::command::{
    AppendObject, BucketRef, Command, Conditions, CreateBucket, DeleteEntry, DeleteObjects, Digests, NewBlob,
    NewContent, NewPlace, Op, PutObject, Reply, Target,
};
use holdfast_core::id::{BlobId, BucketId, BucketName, ObjectKey, RequestId};
use holdfast_core::record::{Attributes, BucketSettings};
use holdfast_core::rules::authorize::{Action, Caller, Context, Resource, authorize};
use holdfast_core::view::View;

use crate::cluster::StateView;

/// Its creation is the first command of every cluster: after the membership and the leader's first entry.
const BUCKET_REVISION: u64 = 2;
const BLOCK_BYTES: usize = 128 << 10;

fn bucket_name() -> BucketName {
    "bucket".parse().unwrap()
}

fn bucket() -> BucketRef {
    BucketRef { name: bucket_name(), id: BucketId(BUCKET_REVISION) }
}

fn object_key(key: &str) -> ObjectKey {
    key.parse().unwrap()
}

fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

fn blob_id() -> BlobId {
    BlobId::new(1, now_ms(), rand::random())
}

fn command(op: Op) -> Command {
    Command { request: RequestId::new(now_ms(), rand::random()), stamp_ms: now_ms(), op, fences: None, extracted: None }
}

/// The first command of a cluster.
pub(in crate::cluster) fn create_bucket() -> Command {
    command(Op::CreateBucket(CreateBucket { name: bucket_name(), settings: BucketSettings::default() }))
}

/// A command that writes `value` under `key`.
pub(in crate::cluster) fn put(key: &str, value: &[u8]) -> Command {
    let crcs = value.chunks(BLOCK_BYTES).flat_map(|block| crc32c::crc32c(block).to_be_bytes()).collect();
    let place = NewPlace::Inline(Bytes::copy_from_slice(value));
    let blob = (!value.is_empty()).then(|| NewBlob { id: blob_id(), place, crcs });
    let digests = Digests { md5: [1; 16], sha256: [2; 32], crc64nvme: 3, checksum: None };
    command(Op::PutObject(PutObject {
        target: Target { bucket: bucket(), key: object_key(key), conditions: Conditions::default() },
        content: NewContent { size: value.len() as u64, blob, digests },
        attributes: Attributes::default(),
        nonce: blob_id(),
    }))
}

/// `command`, a put, for the bucket with this id: in a cluster of several nodes it is not known beforehand.
pub(in crate::cluster) fn in_bucket(mut command: Command, id: u64) -> Command {
    let Op::PutObject(put) = &mut command.op else { panic!("a put") };
    put.target.bucket.id = BucketId(id);
    command
}

/// The same command as of another moment, with ids that a run repeats.
pub(in crate::cluster) fn stamped(mut command: Command, stamp_ms: u64, number: u64) -> Command {
    let [.., a, b, c, d, e, f] = number.to_be_bytes();
    command.stamp_ms = stamp_ms;
    command.request = RequestId::new(stamp_ms, [0, 0, 0, 0, a, b, c, d, e, f]);
    if let Op::PutObject(put) = &mut command.op {
        put.nonce = BlobId::new(1, stamp_ms, [a, b, c, d, e, f]);
        if let Some(blob) = &mut put.content.blob {
            blob.id = put.nonce;
        }
    }
    command
}

/// The id of the bucket that was created.
pub(in crate::cluster) fn bucket_id(reply: &Reply) -> u64 {
    let Reply::BucketCreated(id) = reply else { panic!("{reply:?}") };
    id.0
}

/// The key and bytes that [`put`] was given.
pub(in crate::cluster) fn put_of(command: &Command) -> (String, Vec<u8>) {
    let Op::PutObject(put) = &command.op else { panic!("a put") };
    let bytes = match &put.content.blob {
        Some(NewBlob { place: NewPlace::Inline(bytes), .. }) => bytes.to_vec(),
        _ => Vec::new(),
    };
    (put.target.key.as_str().to_owned(), bytes)
}

/// A command that removes `key`.
pub(in crate::cluster) fn delete(key: &str) -> Command {
    let entry =
        DeleteEntry { key: object_key(key), version: None, if_match: Vec::new(), if_size: None, if_modified_ms: None };
    command(Op::DeleteObjects(DeleteObjects { bucket: bucket(), entries: vec![entry], nonce: blob_id() }))
}

/// A command that writes at the end of `key`; it has an effect.
pub(in crate::cluster) fn append(key: &str, offset: u64, value: &[u8]) -> Command {
    let Op::PutObject(PutObject { target, content, attributes, nonce }) = put(key, value).op else { unreachable!() };
    command(Op::AppendObject(AppendObject { target, offset, content, attributes, nonce }))
}

/// Whether the rules did what was asked.
pub(in crate::cluster) fn done(reply: &Reply) -> bool {
    match reply {
        Reply::Refused(_) => false,
        Reply::BucketCreated(id) => *id == BucketId(BUCKET_REVISION),
        _ => true,
    }
}

/// What `key` holds.
pub(in crate::cluster) fn value(view: &StateView, key: &str) -> Option<Vec<u8>> {
    let resource = Resource::Object(bucket_name(), object_key(key));
    let permit = authorize(Caller::Root, Action::GetObject, resource, &Context::default()).unwrap();
    let state = View::new(view, view.revision());
    let found = state.find(&permit, None, None).ok()?;
    let size = found.row.version.as_ref()?.size;
    let mut bytes = Vec::new();
    for extent in state.extents(&found, 0..size).unwrap() {
        bytes.extend_from_slice(&state.blob(&extent).unwrap().inline.unwrap());
    }
    Some(bytes)
}
