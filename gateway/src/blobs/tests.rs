//! Bytes in and out over a store in memory, with the real rules deciding what is visible.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use holdfast_core::apply::apply;
use holdfast_core::command::{
    AppendObject, BucketRef, Command, Conditions, CreateBucket, CreateUpload, DeleteEntry, DeleteObjects, Digests,
    NewContent, NewPlace, Op, PutObject, PutPart, Reply, Target, UploadRef,
};
use holdfast_core::effect::Effect;
use holdfast_core::id::{BucketName, ObjectId, ObjectKey, RequestId, UploadId};
use holdfast_core::kv::{Kv as _, MemKv};
use holdfast_core::record::{Attributes, BucketSettings, ContentId, Extent};
use holdfast_core::rules::BLOCK_BYTES;
use holdfast_core::rules::authorize::{Action, Caller, Context, authorize};
use holdfast_core::view::{Found, object_resource};
use tokio::sync::broadcast;

use super::compact::CrowdedPage;
use super::write::Piece;
use super::*;
use crate::backend::faulty::{Fault, Faulty, Op as Call, Rule};
use crate::backend::memory::Memory;
use crate::backend::{Body, Condition, GetOptions, ListOptions, ObjectPath, PutOptions};

/// The state machine in memory, and a clock that tests can push.
pub(crate) struct MemState {
    kv: MemKv,
    revision: std::sync::Mutex<Revision>,
    pub(crate) ahead_ms: AtomicU64,
    /// Revision up to which the archive is.
    pub(crate) archived: AtomicU64,
    pub(crate) effects: broadcast::Sender<Arc<[Effect]>>,
}

impl MemState {
    pub(crate) fn apply(&self, op: Op) -> Reply {
        let mut revision = self.revision.lock().unwrap();
        *revision += 1;
        let stamp_ms = now_ms() + self.ahead_ms.load(Ordering::Relaxed);
        let command =
            Command { request: RequestId::new(stamp_ms, rand::random()), stamp_ms, op, fences: None, extracted: None };
        // Through its stored form, as the log does.
        let command = Command::decode(&command.encode()).unwrap();
        let applied = apply(&self.kv.view(), *revision, &command).unwrap();
        self.kv.commit(applied.batch).unwrap();
        let _ = self.effects.send(applied.effects.into());
        applied.reply
    }
}

impl Facts for MemState {
    fn local(&self) -> LocalState {
        let revision = self.revision.lock().unwrap();
        LocalState::new(self.kv.view(), *revision)
    }
}

/// A store of blobs with one bucket.
pub(crate) struct World {
    pub(crate) state: Arc<MemState>,
    pub(crate) backend: Arc<Faulty>,
    pub(crate) blobs: Blobs,
    pub(crate) bucket: BucketRef,
}

pub(crate) const INLINE_BYTES: u64 = 1000;

pub(crate) fn bytes_of(length: usize, seed: u8) -> Bytes {
    (0..length).map(|i| (i * 31 % 251) as u8 ^ seed).collect::<Vec<u8>>().into()
}

pub(crate) fn verified(bytes: &[u8]) -> Verified {
    let sha256 = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    let digests = Digests {
        md5: [7; 16],
        sha256: sha256.as_ref().try_into().unwrap(),
        crc64nvme: crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, bytes),
        checksum: None,
    };
    let crcs = bytes.chunks(BLOCK_BYTES as usize).map(crc32c::crc32c).collect();
    Verified { size: bytes.len() as u64, digests, crcs }
}

pub(crate) fn incoming(bytes: &Bytes, declared: bool) -> Incoming {
    let pieces: Vec<Piece> = bytes.chunks(40_001).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    let (length, verified) = (bytes.len() as u64, verified(bytes));
    Incoming::new(declared.then_some(length), stream::iter(pieces), async move { Ok::<_, Error>(verified) })
}

impl World {
    pub(crate) fn new() -> Self {
        let state = Arc::new(MemState {
            kv: MemKv::default(),
            revision: Default::default(),
            ahead_ms: AtomicU64::new(0),
            archived: AtomicU64::new(Revision::MAX),
            effects: broadcast::Sender::new(64),
        });
        let backend = Arc::new(Faulty::scripted(Memory::shared(), vec![]));
        let settings = Settings { cache_bytes: 8 << 20, generation: 1 };
        let blobs = Blobs::new(backend.clone(), state.clone(), settings);
        let name: BucketName = "photos".parse().unwrap();
        let create = CreateBucket { name: name.clone(), settings: BucketSettings::default() };
        let Reply::BucketCreated(id) = state.apply(Op::CreateBucket(create)) else { panic!("no bucket") };
        Self { state, backend, blobs, bucket: BucketRef { name, id } }
    }

    fn target(&self, key: &str) -> Target {
        Target { bucket: self.bucket.clone(), key: key.parse().unwrap(), conditions: Conditions::default() }
    }

    pub(crate) async fn write(&self, key: &str, bytes: &Bytes, inline_bytes: u64) -> Written {
        let options = WriteOptions { inline_bytes, deadline: None };
        self.blobs.write(&self.bucket.name, &key.parse().unwrap(), incoming(bytes, true), options).await.unwrap()
    }

    pub(crate) async fn put(&self, key: &str, bytes: &Bytes) {
        let written = self.write(key, bytes, INLINE_BYTES).await;
        let content = written.content.clone();
        let reply = self.state.apply(self.put_op(key, content));
        assert!(matches!(reply, Reply::Written(_)), "{reply:?}");
    }

    pub(crate) fn put_op(&self, key: &str, content: NewContent) -> Op {
        let attributes = Attributes::default();
        Op::PutObject(PutObject { target: self.target(key), content, attributes, nonce: self.blobs.mint() })
    }

    pub(crate) async fn append(&self, key: &str, offset: u64, bytes: &Bytes, inline_bytes: u64) {
        let content = self.write(key, bytes, inline_bytes).await.content;
        let (target, attributes) = (self.target(key), Attributes::default());
        let op = AppendObject { target, offset, content, attributes, nonce: self.blobs.mint() };
        let reply = self.state.apply(Op::AppendObject(op));
        assert!(matches!(reply, Reply::Written(_)), "{reply:?}");
    }

    /// A finished upload of these parts.
    pub(crate) async fn upload(&self, key: &str, parts: &[Bytes]) {
        let key_of: ObjectKey = key.parse().unwrap();
        let create = CreateUpload {
            bucket: self.bucket.clone(),
            key: key_of.clone(),
            attributes: Attributes::default(),
            checksum: None,
            checksum_type: None,
            nonce: self.blobs.mint(),
        };
        let Reply::UploadCreated(upload) = self.state.apply(Op::CreateUpload(create)) else { panic!("no upload") };
        let mut completed = Vec::new();
        for (number, bytes) in (1u16..).zip(parts) {
            let content = self.write(key, bytes, 0).await.content;
            let upload = UploadRef { bucket: self.bucket.clone(), key: key_of.clone(), upload };
            let reply = self.state.apply(Op::PutPart(PutPart { upload, number, content }));
            let Reply::PartWritten(part) = reply else { panic!("{reply:?}") };
            completed.push(holdfast_core::command::CompletedPart { number, etag: part.etag, checksum: None });
        }
        self.complete(key, upload, completed);
    }

    fn complete(&self, key: &str, upload: UploadId, parts: Vec<holdfast_core::command::CompletedPart>) {
        let op = holdfast_core::command::CompleteUpload {
            target: self.target(key),
            upload,
            parts,
            checksum: None,
            checksum_type: None,
            size: None,
            nonce: self.blobs.mint(),
        };
        let reply = self.state.apply(Op::CompleteUpload(op));
        assert!(matches!(reply, Reply::Written(_)), "{reply:?}");
    }

    pub(crate) fn delete(&self, key: &str) {
        let entry = DeleteEntry {
            key: key.parse().unwrap(),
            version: None,
            if_match: vec![],
            if_size: None,
            if_modified_ms: None,
        };
        let (bucket, nonce) = (self.bucket.clone(), self.blobs.mint());
        self.state.apply(Op::DeleteObjects(DeleteObjects { bucket, entries: vec![entry], nonce }));
    }

    /// The state as it is now, and what a key is in it.
    pub(crate) fn find(&self, key: &str) -> (LocalState, Found) {
        let local = self.state.local();
        let resource = object_resource(&self.bucket.name, &key.parse().unwrap());
        let permit = authorize(Caller::Root, Action::GetObject, resource, &Context::default()).unwrap();
        let found = local.view().find(&permit, None, None).unwrap();
        (local, found)
    }

    pub(crate) async fn read(&self, key: &str, range: std::ops::Range<u64>) -> Result<Bytes, Error> {
        let (local, found) = self.find(key);
        let plan = self.blobs.plan(&local.view(), &found, range)?;
        collect(self.blobs.open(plan).await?).await
    }

    pub(crate) async fn files(&self) -> Vec<String> {
        let page = self.backend.list(ListOptions::under("partitions/")).await.unwrap();
        page.entries.into_iter().map(|entry| entry.path.as_str().to_owned()).collect()
    }
}

pub(crate) async fn collect(stream: BodyStream) -> Result<Bytes, Error> {
    let length = stream.length();
    let pieces: Vec<_> = stream.collect().await;
    let mut whole = Vec::new();
    for piece in pieces {
        let piece = piece?;
        assert!(!piece.is_empty());
        whole.extend_from_slice(&piece);
    }
    assert_eq!(whole.len() as u64, length, "a body that ends well is whole");
    Ok(whole.into())
}

const BLOCK: usize = BLOCK_BYTES as usize;

#[tokio::test]
async fn small_bodies_travel_in_the_command_and_others_are_stored() {
    let world = World::new();
    let (bucket, key): (BucketName, ObjectKey) = ("photos".parse().unwrap(), "a/b.txt".parse().unwrap());
    for declared in [true, false] {
        for (length, limit, inline) in
            [(1, 1, true), (2, 1, false), (1000, 1000, true), (1001, 1000, false), (1, 0, false)]
        {
            let bytes = bytes_of(length, 0);
            let options = WriteOptions { inline_bytes: limit, deadline: None };
            let written = world.blobs.write(&bucket, &key, incoming(&bytes, declared), options).await.unwrap();
            let blob = written.content.blob.as_ref().unwrap();
            match &blob.place {
                NewPlace::Inline(collected) => assert!(inline && *collected == bytes),
                NewPlace::Path(path) => {
                    assert!(!inline && path.starts_with("partitions/photos/a/b."), "{path}");
                    assert!(world.blobs.in_flight().contains(blob.id));
                }
            }
        }
        let options = WriteOptions::default();
        let empty = world.blobs.write(&bucket, &key, incoming(&Bytes::new(), declared), options).await.unwrap();
        assert_eq!((empty.content.size, empty.content.blob), (0, None));
    }
    assert_eq!(world.files().await.len(), 6);
    assert_eq!(world.blobs.in_flight().count(), 0, "nothing is in flight once it is dropped");
}

#[tokio::test]
async fn what_is_written_is_read_back_whole_and_in_ranges() {
    let world = World::new();
    let lengths = [1, 999, 1001, BLOCK, BLOCK + 1, (1 << 20) - 1, (1 << 20) + 1, 3 * BLOCK + 7, (9 << 20) + 13];
    for (seed, length) in (0u8..).zip(lengths) {
        let key = format!("dir/{length}.bin");
        let bytes = bytes_of(length, seed);
        world.put(&key, &bytes).await;
        let end = length as u64;
        let middle = (end / 2).min(BLOCK_BYTES + 3);
        for range in [0..end, 0..1, end - 1..end, middle..end, 0..middle, 0..0, end..end] {
            for _ in 0..2 {
                let read = world.read(&key, range.clone()).await.unwrap();
                assert!(read == bytes[range.start as usize..range.end as usize], "{length} {range:?}");
            }
        }
        assert!(matches!(world.read(&key, 0..end + 1).await, Err(Error::Refused(_))));
    }
    assert_eq!(world.blobs.readers().count(), 0);
}

#[tokio::test]
async fn a_body_that_fails_stores_nothing() {
    let world = World::new();
    let (bucket, key): (BucketName, ObjectKey) = ("photos".parse().unwrap(), "k".parse().unwrap());
    let bytes = bytes_of(3 * BLOCK, 1);
    #[derive(Debug, thiserror::Error)]
    #[error("bad digest")]
    struct BadDigest;
    let good = verified(&bytes);
    let (half, whole) = (bytes.slice(..BLOCK), bytes.clone());
    let broken = stream::iter([Ok(half.clone()), Err(BadDigest)]);
    let cases: Vec<(Incoming, bool)> = vec![
        (Incoming::new(None, broken, async { Ok::<_, BadDigest>(verified(b"")) }), true),
        (
            Incoming::new(Some(whole.len() as u64), stream::iter([Ok::<_, BadDigest>(whole.clone())]), async {
                Err(BadDigest)
            }),
            true,
        ),
        (
            Incoming::new(Some(whole.len() as u64), stream::iter([Ok::<_, BadDigest>(half)]), async {
                Ok::<_, BadDigest>(good)
            }),
            false,
        ),
        (Incoming::new(Some(1), stream::iter([Ok::<_, BadDigest>(whole)]), async { Err(BadDigest) }), false),
    ];
    for (incoming, is_body) in cases {
        let error = world.blobs.write(&bucket, &key, incoming, WriteOptions::default()).await.unwrap_err();
        assert_eq!(error.body::<BadDigest>().is_some(), is_body, "{error:?}");
        assert_eq!(error.kind(), Kind::Invalid);
    }
    world.blobs.close().await;
    assert_eq!(world.files().await, Vec::<String>::new());
    assert_eq!(world.blobs.in_flight().count(), 0);
}

#[tokio::test]
async fn a_refused_write_is_taken_back() {
    let world = World::new();
    let written = world.write("k", &bytes_of(5000, 0), 0).await;
    assert_eq!(world.files().await.len(), 1);
    world.blobs.discard(written);
    world.blobs.close().await;
    assert_eq!(world.files().await.len(), 0);
}

#[tokio::test]
async fn a_bad_block_is_never_delivered_as_complete() {
    let world = World::new();
    for length in [5000, (4 << 20) + 9] {
        let bytes = bytes_of(length, 3);
        world.put("k", &bytes).await;
        let path = ObjectPath::new(world.files().await.pop().unwrap()).unwrap();
        for at in [0, length / 2, length - 1] {
            let mut bad = bytes.to_vec();
            bad[at] ^= 0x10;
            let options = PutOptions { condition: Condition::Overwrite, ..PutOptions::default() };
            world.backend.put(&path, Body::from(bad), options).await.unwrap();
            let (local, found) = world.find("k");
            let plan = world.blobs.plan(&local.view(), &found, 0..length as u64).unwrap();
            let (mut got, mut error) = (0, None);
            match world.blobs.open(plan).await {
                Err(failed) => error = Some(failed),
                Ok(stream) => {
                    for piece in stream.collect::<Vec<_>>().await {
                        match piece {
                            Ok(piece) => {
                                assert!(error.is_none() && piece == bytes[got..got + piece.len()]);
                                got += piece.len();
                            }
                            Err(failed) => error = Some(failed),
                        }
                    }
                }
            }
            let block = (at / BLOCK) as u64;
            assert!(matches!(error, Some(Error::Damaged { block: bad, .. }) if bad == block), "{error:?}");
            assert!(got <= block as usize * BLOCK);
        }
        world.delete("k");
        world.backend.delete(&path, Default::default()).await.unwrap();
    }
}

#[tokio::test]
async fn a_backend_that_stops_early_or_lacks_a_blob_is_an_error() {
    let world = World::new();
    let bytes = bytes_of(4 << 20, 3);
    world.put("k", &bytes).await;
    world.backend.set_script(vec![Rule::once(Call::Get, Fault::ShortGet(2 << 20))]);
    let error = world.read("k", 0..4 << 20).await.unwrap_err();
    assert!(matches!(error, Error::Backend { .. }), "{error:?}");
    world.backend.set_script(vec![Rule::once(Call::Get, Fault::Busy)]);
    assert_eq!(world.read("k", 0..4 << 20).await.unwrap_err().kind(), Kind::Busy);
    let path = ObjectPath::new(world.files().await.pop().unwrap()).unwrap();
    world.backend.delete(&path, Default::default()).await.unwrap();
    assert_eq!(world.read("k", 0..4 << 20).await.unwrap_err().kind(), Kind::Corrupt);
}

#[tokio::test]
async fn many_readers_of_a_cold_object_make_one_fetch() {
    let world = World::new();
    let bytes = bytes_of(500_000, 9);
    world.put("k", &bytes).await;
    world.backend.set_script(vec![Rule::always(Call::Get, Fault::Delay(std::time::Duration::from_millis(5)))]);
    let reads = (0..1000u64).map(|i| world.read("k", i..500_000));
    let found = futures::future::join_all(reads).await;
    for (i, read) in found.into_iter().enumerate() {
        assert!(read.unwrap() == bytes[i..]);
    }
    assert_eq!(world.backend.injected(), 1);
    let before = world.blobs.cache_stats();
    let (local, found) = world.find("k");
    let plan = world.blobs.plan(&local.view(), &found, 0..500_000).unwrap();
    let whole = world.blobs.open(plan).await.unwrap().into_whole();
    assert!(whole.is_ok_and(|whole| whole == bytes), "a hot object is at hand");
    assert_eq!(world.blobs.cache_stats().hits, before.hits + 1);
}

#[tokio::test]
async fn an_object_of_many_blobs_is_read_across_its_windows() {
    let world = World::new();
    let mut whole = Vec::new();
    for i in 0..200usize {
        // Inline and stored pieces in turn.
        let piece = bytes_of(300 + i * 7, i as u8);
        world.append("log", whole.len() as u64, &piece, if i % 2 == 0 { 1 << 20 } else { 0 }).await;
        whole.extend_from_slice(&piece);
    }
    let end = whole.len() as u64;
    for range in [0..end, 1..end - 1, 5000..5001, end / 2..end] {
        let read = world.read("log", range.clone()).await.unwrap();
        assert!(read == whole[range.start as usize..range.end as usize], "{range:?}");
    }
}

#[tokio::test]
async fn a_multipart_object_is_read_across_its_parts() {
    let world = World::new();
    let parts = [bytes_of(5 << 20, 1), bytes_of((5 << 20) + 77, 2), bytes_of(99, 3)];
    world.upload("big.bin", &parts).await;
    let whole = parts.concat();
    let end = whole.len() as u64;
    let edge = 5u64 << 20;
    for range in [0..end, edge - 1..edge + 1, edge..end, 3 << 20..end - 98] {
        let read = world.read("big.bin", range.clone()).await.unwrap();
        assert!(read == whole[range.start as usize..range.end as usize], "{range:?}");
    }
}

#[tokio::test]
async fn a_read_goes_on_when_its_version_is_replaced() {
    let world = World::new();
    let mut whole = Vec::new();
    for i in 0..150usize {
        let piece = bytes_of(2000, i as u8);
        world.append("log", whole.len() as u64, &piece, 0).await;
        whole.extend_from_slice(&piece);
    }
    let (local, found) = world.find("log");
    let plan = world.blobs.plan(&local.view(), &found, 0..whole.len() as u64).unwrap();
    drop(local);
    let mut stream = world.blobs.open(plan).await.unwrap();
    let mut got = stream.next().await.unwrap().unwrap().to_vec();
    world.put("log", &bytes_of(10, 0)).await;
    let revision = world.state.local().revision();
    assert!(!world.blobs.readers().clear_below(revision), "the reader holds back what it needs");
    while let Some(piece) = stream.next().await {
        got.extend_from_slice(&piece.unwrap());
    }
    assert!(got == whole);
    drop(stream);
    assert!(world.blobs.readers().clear_below(revision));
}

#[tokio::test]
async fn a_plan_on_a_state_whose_blobs_may_be_gone_looks_at_the_state_of_now() {
    let world = World::new();
    let bytes = bytes_of(2 << 20, 5);
    world.put("k", &bytes).await;
    let (old, found) = world.find("k");
    world.put("other", &bytes_of(1, 0)).await;
    assert!(world.blobs.readers().clear_below(world.state.local().revision()));
    let plan = world.blobs.plan(&old.view(), &found, 0..2 << 20).unwrap();
    assert!(collect(world.blobs.open(plan).await.unwrap()).await.unwrap() == bytes);
}

#[tokio::test]
async fn a_dropped_body_ends_its_read() {
    let world = World::new();
    world.put("k", &bytes_of(8 << 20, 5)).await;
    let (local, found) = world.find("k");
    let plan = world.blobs.plan(&local.view(), &found, 0..8 << 20).unwrap();
    let mut stream = world.blobs.open(plan).await.unwrap();
    stream.next().await.unwrap().unwrap();
    assert_eq!((world.blobs.readers().count(), world.blobs.busy().quiet_for()), (1, None));
    drop(stream);
    assert_eq!(world.blobs.readers().count(), 0);
    assert!(world.blobs.busy().quiet_for().is_some());
}

#[test]
fn bodies_can_be_sent_by_a_server() {
    fn check<T: Send + Sync + 'static>() {}
    check::<BodyStream>();
    check::<ReadPlan>();
    check::<Blobs>();
    let _ = GetOptions::default();
}

/// A hole of `length` bytes at `offset`.
fn hole(offset: u64, length: u64) -> Extent {
    Extent { offset, length, blob: BlobId::HOLE, blob_offset: 0 }
}

#[tokio::test]
async fn holes_read_as_zeros_of_no_blob_however_long_they_are() {
    let world = World::new();
    let bytes = bytes_of(5000, 9);
    world.put("a", &bytes).await;
    let (local, found) = world.find("a");
    let [data] = local.view().extents(&found, 0..5000).unwrap()[..] else { panic!("it is one blob") };
    let (before, tail) = (700_000, 1u64 << 40);
    let extents = vec![hole(0, before), Extent { offset: before, ..data }, hole(before + 5000, tail)];
    let read = |extents: Vec<Extent>, range: std::ops::Range<u64>| {
        let guard = world.blobs.readers().enter(local.revision()).unwrap();
        let plan = world.blobs.plan_extents(&local.view(), None, extents, range, guard).unwrap();
        world.blobs.open(plan)
    };
    let mut body = read(extents.clone(), 0..before + 5000 + tail).await.unwrap();
    assert_eq!(body.length(), before + 5000 + tail);
    let mut got = Vec::new();
    while got.len() < 2 << 20 {
        let piece = body.next().await.unwrap().unwrap();
        assert!(piece.len() <= read::PIECE_BYTES_MAX);
        got.extend_from_slice(&piece);
    }
    let at = before as usize;
    assert!(got[..at].iter().all(|byte| *byte == 0));
    assert_eq!(got[at..at + 5000], bytes[..]);
    assert!(got[at + 5000..].iter().all(|byte| *byte == 0));
    let only = collect(read(vec![hole(10, 30)], 10..40).await.unwrap()).await.unwrap();
    assert_eq!(only, [0; 30][..]);
}

#[tokio::test]
async fn a_run_of_short_extents_becomes_one_blob_with_the_same_bytes() {
    let world = World::new();
    let parts: Vec<Bytes> = (0u8..40).map(|seed| bytes_of(9000, seed)).collect();
    let mut offset = 0;
    for part in &parts {
        world.append("dir/a.bin", offset, part, 0).await;
        offset += part.len() as u64;
    }
    let (local, found) = world.find("dir/a.bin");
    let mut extents = local.view().extents(&found, 0..offset).unwrap();
    // As a mount leaves it: with a hole in the midst.
    extents.insert(20, hole(extents[19].end(), 4096));
    extents[21..].iter_mut().for_each(|extent| extent.offset += 4096);
    let content = ContentId { object: ObjectId(1), revision: 1 };
    let page = CrowdedPage { content, page: 0, extents, name: Some((world.bucket.name.clone(), found.key)) };
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(30);
    let compacted = world.blobs.compact(&page, 0..41, deadline).await.unwrap();
    let NewPlace::Path(path) = &compacted.op.blob.place else { panic!("it is too long for the state") };
    assert!(path.starts_with("partitions/photos/dir/a."), "{path}");
    let whole: Vec<u8> = [parts[..20].concat(), vec![0; 4096], parts[20..].concat()].concat();
    let path = ObjectPath::new(path).unwrap();
    let stored = world.backend.get(&path, GetOptions::default()).await.unwrap();
    let stored: Vec<Bytes> = stored.stream.map(|piece| piece.unwrap()).collect().await;
    assert_eq!(stored.concat(), whole);
    let crcs: Vec<u8> =
        whole.chunks(BLOCK_BYTES as usize).flat_map(|block| crc32c::crc32c(block).to_be_bytes()).collect();
    assert_eq!(compacted.op.blob.crcs, crcs);
    assert_eq!(compacted.op.extents, page.extents);
    // Nothing tells a name: then not.
    let nameless = CrowdedPage { name: None, extents: vec![hole(0, 1), hole(1, 200_000)], ..page };
    let refused = world.blobs.compact(&nameless, 0..2, deadline).await;
    assert!(matches!(refused.map(|_| ()), Err(Error::Refused(_))));
}
