//! What the tests of core share: a state machine in memory, shapes of commands, and bytes that need no memory.

#![allow(dead_code, clippy::unwrap_used)]

pub mod cbor;
pub mod samples;

use std::collections::BTreeMap;

use bytes::Bytes;
use holdfast_core::apply::{Applied, apply};
use holdfast_core::command::*;
use holdfast_core::id::*;
use holdfast_core::keyspace::Keyspace;
use holdfast_core::kv::{Kv, KvRead, MemKv, MemView};
use holdfast_core::record::*;
use holdfast_core::rules::authorize::{Action, Caller, Context, Permit, Resource, authorize};
use holdfast_core::rules::digest;
use holdfast_core::view::{Found, View};
use md5::Digest;

/// When the tests' time begins.
pub const START_MS: u64 = 1_700_000_000_000;

/// A state machine in memory, fed with commands.
#[derive(Debug, Default)]
pub struct Machine {
    pub kv: MemKv,
    pub revision: u64,
    pub now_ms: u64,
    minted: u64,
}

impl Machine {
    pub fn new() -> Self {
        Self { now_ms: START_MS, ..Self::default() }
    }

    /// A command at the machine's time, with a request id of its own.
    pub fn command(&mut self, op: Op) -> Command {
        self.minted += 1;
        let mut random = [0; 10];
        random[2..].copy_from_slice(&self.minted.to_be_bytes());
        Command {
            request: RequestId::new(self.now_ms, random),
            stamp_ms: self.now_ms,
            op,
            fences: None,
            extracted: None,
        }
    }

    pub fn apply(&mut self, command: &Command) -> Applied {
        self.revision += 1;
        let applied = apply(&self.kv.view(), self.revision, command).unwrap();
        self.kv.commit(applied.batch.clone()).unwrap();
        applied
    }

    pub fn run(&mut self, op: Op) -> Reply {
        let command = self.command(op);
        self.apply(&command).reply
    }

    pub fn blob_id(&mut self) -> BlobId {
        self.minted += 1;
        blob_id(self.now_ms, self.minted)
    }

    pub fn create_bucket(&mut self, name: &str) -> BucketRef {
        let op = CreateBucket { name: name.parse().unwrap(), settings: BucketSettings::default() };
        match self.run(Op::CreateBucket(op)) {
            Reply::BucketCreated(id) => BucketRef { name: name.parse().unwrap(), id },
            reply => panic!("{reply:?}"),
        }
    }

    pub fn set_versioning(&mut self, bucket: &BucketRef, enabled: bool) {
        let reply = self.run(Op::SetVersioning(SetVersioning { bucket: bucket.clone(), enabled }));
        assert_eq!(reply, Reply::Done);
    }

    /// Bytes at a path of the backend, as many as `size`; nothing is stored for them here.
    pub fn content(&mut self, size: u64) -> NewContent {
        let id = self.blob_id();
        far_content(id, size)
    }

    pub fn put(&mut self, bucket: &BucketRef, key: &str, size: u64) -> Written {
        let (content, nonce) = (self.content(size), self.blob_id());
        let op = PutObject { target: target(bucket, key), content, attributes: Attributes::default(), nonce };
        written(self.run(Op::PutObject(op)))
    }

    pub fn append(&mut self, bucket: &BucketRef, key: &str, offset: u64, size: u64) -> Reply {
        let (content, nonce) = (self.content(size), self.blob_id());
        let attributes = Attributes::default();
        self.run(Op::AppendObject(AppendObject { target: target(bucket, key), offset, content, attributes, nonce }))
    }

    pub fn delete(&mut self, bucket: &BucketRef, key: &str, version: Option<VersionId>) -> Reply {
        let nonce = self.blob_id();
        let entries = vec![DeleteEntry { version, ..entry(key) }];
        self.run(Op::DeleteObjects(DeleteObjects { bucket: bucket.clone(), entries, nonce }))
    }

    pub fn trim(&mut self) -> Reply {
        self.run(Op::Trim(Trim { rows: 1000 }))
    }

    pub fn find(&self, bucket: &BucketRef, key: &str, version: Option<VersionId>) -> Found {
        View::new(&self.kv.view(), self.revision).find(&read(&bucket.name, key), version, None).unwrap()
    }

    pub fn extents(&self, found: &Found) -> Vec<Extent> {
        let size = found.row.version.as_ref().unwrap().size;
        View::new(&self.kv.view(), self.revision).extents(found, 0..size).unwrap()
    }

    /// Every row, in order.
    pub fn rows(&self) -> Vec<(Keyspace, Bytes, Bytes)> {
        rows(&self.kv.view())
    }
}

pub fn rows(view: &MemView) -> Vec<(Keyspace, Bytes, Bytes)> {
    view.rows().map(|(keyspace, key, value)| (keyspace, key.clone(), value.clone())).collect()
}

pub fn written(reply: Reply) -> Written {
    match reply {
        Reply::Written(written) => written,
        reply => panic!("{reply:?}"),
    }
}

pub fn blob_id(ms: u64, number: u64) -> BlobId {
    let mut random = [0; 6];
    random.copy_from_slice(&number.to_be_bytes()[2..]);
    BlobId::new(1, ms, random)
}

pub fn target(bucket: &BucketRef, key: &str) -> Target {
    Target { bucket: bucket.clone(), key: key.parse().unwrap(), conditions: Conditions::default() }
}

pub fn source(bucket: &BucketRef, key: &str) -> Source {
    Source {
        bucket: bucket.clone(),
        key: key.parse().unwrap(),
        version: None,
        conditions: SourceConditions::default(),
        pinned: None,
        generation: None,
    }
}

pub fn entry(key: &str) -> DeleteEntry {
    DeleteEntry { key: key.parse().unwrap(), version: None, if_match: vec![], if_size: None, if_modified_ms: None }
}

/// Bytes of a given size at a path, with made-up digests.
pub fn far_content(id: BlobId, size: u64) -> NewContent {
    let blob = (size > 0).then(|| NewBlob { id, place: NewPlace::Path(format!("p/{id}")), crcs: crcs(size) });
    let digests = Digests { md5: [size as u8; 16], sha256: [1; 32], crc64nvme: size, checksum: None };
    NewContent { size, blob, digests }
}

/// Checksums of as many blocks as `size` bytes have.
pub fn crcs(size: u64) -> Vec<u8> {
    (0..size.div_ceil(128 << 10) as u32).flat_map(|block| (block ^ 0x5a5a_5a5a).to_be_bytes()).collect()
}

pub fn read(bucket: &BucketName, key: &str) -> Permit {
    permit(Action::GetObject, Resource::Object(bucket.clone(), key.parse().unwrap()))
}

pub fn list(bucket: &BucketName) -> Permit {
    permit(Action::ListBucket, Resource::Bucket(bucket.clone()))
}

pub fn permit(action: Action, resource: Resource) -> Permit {
    let caller = if action == Action::Maintain { Caller::System } else { Caller::Root };
    authorize(caller, action, resource, &Context::default()).unwrap()
}

/// A small, seeded source of choices: the same seed gives the same choices on every machine.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed ^ 0x9e37_79b9_7f4a_7c15)
    }

    /// SplitMix64. Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.number() % bound
    }

    /// True once in `times`.
    pub fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }
}

/// MD5 of some bytes.
pub fn md5_of(bytes: &[u8]) -> [u8; 16] {
    md5::Md5::digest(bytes).into()
}

pub fn hex(bytes: &[u8]) -> String {
    digest::hex(bytes)
}

/// Number of rows by keyspace.
pub fn census(view: &MemView) -> BTreeMap<&'static str, usize> {
    let mut census = BTreeMap::new();
    for (keyspace, _, _) in view.rows() {
        *census.entry(keyspace.name()).or_default() += 1;
    }
    census
}

/// The value at a key.
pub fn row<R: Record>(view: &dyn KvRead, keyspace: Keyspace, key: &[u8]) -> Option<R> {
    view.get(keyspace, key).unwrap().map(|value| R::decode(&value).unwrap())
}
