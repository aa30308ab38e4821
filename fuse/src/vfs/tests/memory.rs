//! A repository in memory: the rules themselves, and bytes of blobs. It loses answers, and sessions, when it is told to.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use holdfast_core::apply::apply;
use holdfast_core::command::mount::{FileRef, MountCommit, MountUpload, OpenMount};
use holdfast_core::command::*;
use holdfast_core::error::Error as Refusal;
use holdfast_core::id::*;
use holdfast_core::kv::{Kv as _, MemKv};
use holdfast_core::mount::*;
use holdfast_core::record::{Attributes, BucketSettings, Extent};
use holdfast_core::rules::authorize::{Action, Caller, Context, Permit, Resource, authorize};
use holdfast_core::state::Stop;
use holdfast_core::view::{Found, View, object_resource};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::{broadcast, mpsc};
use tokio::time::Instant;

use crate::client::Error;
use crate::remote::{Grant, Holder, News, RangeLock, Remote, Told};

/// When the tests' time begins.
const START_MS: u64 = 1_700_000_000_000;

struct State {
    kv: MemKv,
    revision: Revision,
    minted: u64,
    bucket: BucketRef,
    blobs: HashMap<BlobId, Bytes>,
    dice: StdRng,
}

/// How often, of a hundred, something goes wrong.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// A commit is applied and its answer lost.
    pub lost_answers: u64,
    /// A commit never arrives.
    pub lost_calls: u64,
    /// The session ends before a commit.
    pub lost_sessions: u64,
    /// A commit is refused as a whole, for now.
    pub refusals: u64,
    /// How long each question for names takes.
    pub slow_looks: Duration,
}

/// See the module.
pub struct Memory {
    state: Mutex<State>,
    pub faults: Mutex<Faults>,
    news: broadcast::Sender<News>,
    stats: AtomicU64,
}

impl Memory {
    pub fn new(seed: u64) -> Arc<Self> {
        let name: BucketName = "data".parse().unwrap();
        let mut state = State {
            kv: MemKv::default(),
            revision: 0,
            minted: 0,
            bucket: BucketRef { name: name.clone(), id: BucketId(0) },
            blobs: HashMap::new(),
            dice: StdRng::seed_from_u64(seed),
        };
        let op = CreateBucket { name, settings: BucketSettings::default() };
        let Reply::BucketCreated(id) = state.run(Op::CreateBucket(op)) else { panic!("no bucket") };
        state.bucket.id = id;
        let (news, _) = broadcast::channel(1024);
        Arc::new(Self { state: Mutex::new(state), faults: Mutex::default(), news, stats: AtomicU64::new(0) })
    }

    /// Questions for names so far.
    pub fn stats(&self) -> u64 {
        self.stats.load(Ordering::Relaxed)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The bytes of an object, as S3 would give them.
    pub fn get(&self, key: &str) -> Option<Vec<u8>> {
        let state = self.state();
        let found = state.find(key).ok()?;
        let size = found.row.size();
        Some(state.bytes(&found, 0..size).unwrap())
    }

    /// Keys below a prefix.
    pub fn keys(&self) -> Vec<String> {
        let state = self.state();
        let kv = state.kv.view();
        let permit = state.on_bucket(Action::ListBucket);
        let list = List { prefix: String::new(), after: None, limit: 10_000, at: None };
        let listed = View::new(&kv, state.revision).mount_list(&permit, &list).unwrap();
        listed.nodes.into_iter().filter_map(|node| Some(node.key?.as_str().to_owned())).collect()
    }

    /// Another client puts an object; the feed tells of it.
    pub fn put(&self, key: &str, bytes: &[u8]) {
        let revision = {
            let mut state = self.state();
            let (content, nonce) = (state.store(Bytes::copy_from_slice(bytes)), state.mint());
            let target =
                Target { bucket: state.bucket.clone(), key: key.parse().unwrap(), conditions: Conditions::default() };
            let attributes = Attributes::default();
            let reply = state.run(Op::PutObject(PutObject { target, content, attributes, nonce }));
            assert!(matches!(reply, Reply::Written(_)), "{reply:?}");
            state.revision
        };
        let kind = "s3:ObjectCreated:Put".to_owned();
        let _ = self.news.send(News::Change { revision, kind, key: key.to_owned(), source: None });
    }

    fn wrong(&self, often: u64) -> bool {
        often > 0 && self.state().dice.random_range(0..100) < often
    }

    fn commit(&self, commit: Commit, raw: Bytes) -> Result<Told, Error> {
        let faults = *self.faults.lock().unwrap();
        if self.wrong(faults.refusals) {
            return Err(Error::of_answer("memory", 507, "InsufficientStorage", "full, for now", "1"));
        }
        let mut state = self.state();
        if faults.lost_sessions > 0 && state.dice.random_range(0..100) < faults.lost_sessions {
            // It is never renewed here.
            state.run(Op::ExpireLease(ExpireLease { lease: commit.lease, renewals: 0 }));
        }
        let sent = (!raw.is_empty()).then(|| state.store(raw));
        let (bucket, nonce) = (state.bucket.clone(), state.mint());
        let Commit { client, lease, number, steps, upload, directory, now, id } = commit;
        let op = MountCommit { bucket, client, lease, number, steps, sent, upload, nonce, directory, now, id };
        let reply = state.run(Op::MountCommit(op));
        let revision = state.revision;
        drop(state);
        if self.wrong(faults.lost_answers) {
            return Err(unavailable());
        }
        match reply {
            Reply::Mounted(outcomes) => Ok(Told { answer: Answer::Outcomes(outcomes), raw: Bytes::new(), revision }),
            Reply::Refused(refusal) => Err(refused(&refusal)),
            reply => panic!("{reply:?}"),
        }
    }

    fn open(&self, open: Open) -> Result<Told, Error> {
        let mut state = self.state();
        let bucket = state.bucket.clone();
        let Open { client, owner, ttl_ms, .. } = open;
        match state.run(Op::OpenMount(OpenMount { bucket, client, owner, ttl_ms })) {
            Reply::MountOpened(MountOpened { lease, applied, revision }) => {
                let (protocol, sent_bytes_max, versioned) = (PROTOCOL, SENT_BYTES_MAX as u64, false);
                let opened = Opened { lease, applied, protocol, sent_bytes_max, versioned, revision };
                Ok(Told { answer: Answer::Opened(opened), raw: Bytes::new(), revision: state.revision })
            }
            Reply::Refused(refusal) => Err(refused(&refusal)),
            reply => panic!("{reply:?}"),
        }
    }
}

impl State {
    fn run(&mut self, op: Op) -> Reply {
        self.minted += 1;
        let mut random = [0; 10];
        random[2..].copy_from_slice(&self.minted.to_be_bytes());
        let (request, stamp_ms) = (RequestId::new(START_MS, random), START_MS + self.minted);
        let command = Command { request, stamp_ms, op, fences: None, extracted: None };
        self.revision += 1;
        let applied = apply(&self.kv.view(), self.revision, &command).unwrap();
        self.kv.commit(applied.batch).unwrap();
        applied.reply
    }

    fn mint(&mut self) -> BlobId {
        self.minted += 1;
        let mut random = [0; 6];
        random.copy_from_slice(&self.minted.to_be_bytes()[2..]);
        BlobId::new(1, START_MS + self.minted, random)
    }

    fn store(&mut self, bytes: Bytes) -> NewContent {
        let id = self.mint();
        let crcs = bytes.chunks(128 << 10).flat_map(|block| crc32c::crc32c(block).to_be_bytes()).collect();
        let size = bytes.len() as u64;
        let blob = (size > 0).then(|| NewBlob { id, place: NewPlace::Path(format!("p/{id}")), crcs });
        self.blobs.insert(id, bytes);
        let digests = Digests { md5: id.0, sha256: [1; 32], crc64nvme: size, checksum: None };
        NewContent { size, blob, digests }
    }

    fn on_bucket(&self, action: Action) -> Permit {
        authorize(Caller::Root, action, Resource::Bucket(self.bucket.name.clone()), &Context::default()).unwrap()
    }

    fn permit(&self, file: &FileRef) -> Permit {
        match &file.key {
            Some(key) => self.on_object(key),
            None => self.on_bucket(Action::GetObject),
        }
    }

    fn on_object(&self, key: &ObjectKey) -> Permit {
        let resource = object_resource(&self.bucket.name, key);
        authorize(Caller::Root, Action::GetObject, resource, &Context::default()).unwrap()
    }

    fn find(&self, key: &str) -> Result<Found, Stop> {
        let kv = self.kv.view();
        View::new(&kv, self.revision).find(&self.on_object(&key.parse().unwrap()), None, None)
    }

    fn bytes(&self, found: &Found, range: Range<u64>) -> Result<Vec<u8>, Stop> {
        let kv = self.kv.view();
        let mut bytes = Vec::new();
        for Extent { blob, blob_offset, length, .. } in View::new(&kv, self.revision).extents(found, range)? {
            if blob == BlobId::HOLE {
                bytes.resize(bytes.len() + length as usize, 0);
            } else {
                let at = blob_offset as usize;
                bytes.extend_from_slice(&self.blobs[&blob][at..at + length as usize]);
            }
        }
        Ok(bytes)
    }
}

fn unavailable() -> Error {
    Error::Unavailable { endpoint: "memory".into(), status: None, source: "lost".into() }
}

fn refused(refusal: &Refusal) -> Error {
    let (status, code) = match refusal {
        Refusal::NoSuchLease => (404, "NoSuchLease"),
        Refusal::NoSuchMount => (404, "NoSuchMount"),
        Refusal::NoSuchKey => (404, "NoSuchKey"),
        Refusal::Changed => (409, "ConditionalRequestConflict"),
        Refusal::Expired => (409, "Expired"),
        _ => (400, "InvalidArgument"),
    };
    Error::of_answer("memory", status, code, &refusal.to_string(), "1")
}

fn stopped(stop: Stop) -> Error {
    match stop {
        Stop::Refused(refusal) => refused(&refusal),
        stop => panic!("{stop:?}"),
    }
}

#[async_trait]
impl Remote for Memory {
    async fn call(&self, call: &Call, raw: Bytes, _: &[Fence], _: Instant) -> Result<Told, Error> {
        tokio::task::yield_now().await;
        // A client asks again by itself until it is answered; only commits are told what is not known.
        let Faults { lost_calls, slow_looks, .. } = *self.faults.lock().unwrap();
        if matches!(call, Call::Stat(_)) && !slow_looks.is_zero() {
            tokio::time::sleep(slow_looks).await;
        }
        if matches!(call, Call::Commit(_)) && self.wrong(lost_calls) {
            return Err(unavailable());
        }
        let look = |look: &dyn Fn(&State, &View<'_>) -> Result<(Answer, Bytes), Stop>| {
            let state = self.state();
            let kv = state.kv.view();
            let (answer, raw) = look(&state, &View::new(&kv, state.revision)).map_err(stopped)?;
            Ok(Told { answer, raw, revision: state.revision })
        };
        match call {
            Call::Open(open) => self.open(open.clone()),
            Call::Commit(commit) => self.commit(commit.clone(), raw),
            Call::Stat(stat) => look(&|state, view| {
                self.stats.fetch_add(1, Ordering::Relaxed);
                let permit = state.on_bucket(Action::ListBucket);
                Ok((Answer::Entries(view.mount_entries(&permit, &stat.paths)?), Bytes::new()))
            }),
            Call::List(list) => look(&|state, view| {
                let permit = state.on_bucket(Action::ListBucket);
                Ok((Answer::Listed(view.mount_list(&permit, list)?), Bytes::new()))
            }),
            Call::Map(map) => {
                look(&|state, view| Ok((Answer::Mapped(view.mount_map(&state.permit(&map.file), map)?), Bytes::new())))
            }
            Call::Read(read) => look(&|state, view| {
                let permit = state.permit(&read.file);
                let node = view.mount_file(&permit, &read.file)?;
                if read.generation.is_some_and(|generation| generation != node.generation) {
                    return Err(Refusal::Changed.into());
                }
                let found = view.find_file(&permit, &read.file)?;
                let end = (read.offset + read.length).min(found.row.size());
                let bytes = state.bytes(&found, read.offset.min(end)..end)?;
                Ok((Answer::Bytes(node), Bytes::from(bytes)))
            }),
            Call::Usage => Ok(Told { answer: Answer::Usage { bytes: 0, objects: 0 }, raw: Bytes::new(), revision: 0 }),
        }
    }

    async fn read(&self, key: &ObjectKey, etag: &str, range: Range<u64>, _: Instant) -> Result<Bytes, Error> {
        tokio::task::yield_now().await;
        let state = self.state();
        let found = state.find(key.as_str()).map_err(stopped)?;
        if found.row.version.as_ref().is_none_or(|version| version.etag != etag) {
            return Err(Error::Changed);
        }
        Ok(Bytes::from(state.bytes(&found, range).map_err(stopped)?))
    }

    async fn create_upload(&self, key: &ObjectKey, _: Instant) -> Result<MountUpload, Error> {
        let mut state = self.state();
        let (bucket, nonce, key) = (state.bucket.clone(), state.mint(), key.clone());
        let (attributes, checksum, checksum_type) = (Attributes::default(), None, None);
        let op = CreateUpload { bucket, key: key.clone(), attributes, checksum, checksum_type, nonce };
        match state.run(Op::CreateUpload(op)) {
            Reply::UploadCreated(upload) => Ok(MountUpload { key, upload }),
            reply => panic!("{reply:?}"),
        }
    }

    async fn upload_part(&self, upload: &MountUpload, number: u16, bytes: Bytes, _: Instant) -> Result<(), Error> {
        let mut state = self.state();
        let content = state.store(bytes);
        let upload = UploadRef { bucket: state.bucket.clone(), key: upload.key.clone(), upload: upload.upload };
        match state.run(Op::PutPart(PutPart { upload, number, content })) {
            Reply::PartWritten(_) => Ok(()),
            Reply::Refused(Refusal::NoSuchUpload) => {
                Err(Error::of_answer("memory", 404, "NoSuchUpload", "it is gone", "1"))
            }
            reply => panic!("{reply:?}"),
        }
    }

    async fn abort_upload(&self, _: &MountUpload, _: Instant) -> Result<(), Error> {
        Ok(())
    }

    async fn renew(&self, _: Revision, _: Instant) -> Result<(), Error> {
        Ok(())
    }

    async fn release(&self, lease: Revision, _: Instant) -> Result<(), Error> {
        self.state().run(Op::ReleaseLease(ReleaseLease { lease, name: None, unless_granted: false }));
        Ok(())
    }

    async fn lock(&self, _: &str, _: &str, _: Instant) -> Result<Grant, Error> {
        Err(Error::unexpected())
    }

    async fn set_range(&self, _: &RangeLock, _: Duration, _: Instant) -> Result<Option<Holder>, Error> {
        Err(Error::unexpected())
    }

    async fn cancel_range(&self, _: &RangeLock, _: Instant) -> Result<bool, Error> {
        Ok(false)
    }

    async fn test_range(&self, _: &RangeLock, _: Instant) -> Result<Option<Holder>, Error> {
        Ok(None)
    }

    async fn watch(&self, _: &str, _: Option<Revision>, mark: Duration, tell: mpsc::Sender<News>) -> Result<(), Error> {
        let mut news = self.news.subscribe();
        loop {
            let next = match tokio::time::timeout(mark, news.recv()).await {
                Ok(Ok(news)) => news,
                Ok(Err(_)) => return Ok(()),
                Err(_) => News::Mark(self.state().revision),
            };
            if tell.send(next).await.is_err() {
                return Ok(());
            }
        }
    }
}
