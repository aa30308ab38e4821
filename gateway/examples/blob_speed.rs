//! Prints how fast blobs are written to and read from a directory: `cargo run --release --example blob_speed [DIR]`.
//!
//! Also compares the two CRC-32C implementations at hand. Nothing is asserted: rates depend on the machine.

#![expect(clippy::print_stdout, reason = "printing is what it is for")]

use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use holdfast::api::s3::digest::Digests as BodyDigests;
use holdfast::backend::local::Local;
use holdfast::blobs::{Blobs, BodyStream, Error, Facts, Incoming, LocalState, Settings, Verified, WriteOptions};
use holdfast_core::apply::apply;
use holdfast_core::command::{BucketRef, Command, Conditions, CreateBucket, Digests, Op, PutObject, Reply, Target};
use holdfast_core::id::{BucketName, ObjectKey, RequestId};
use holdfast_core::kv::{Kv as _, MemKv};
use holdfast_core::record::{Attributes, BucketSettings};
use holdfast_core::rules::authorize::{Action, Caller, Context, authorize};
use holdfast_core::view::object_resource;

const BYTES: usize = 64 << 20;
const ROUNDS: usize = 8;

#[derive(Default)]
struct State {
    kv: MemKv,
    revision: Mutex<u64>,
}

impl State {
    fn apply(&self, op: Op) -> Reply {
        let mut revision = self.revision.lock().expect("nobody panics");
        *revision += 1;
        let command = Command {
            request: RequestId::new(*revision, rand::random()),
            stamp_ms: holdfast::clock::now_ms(),
            op,
            fences: None,
            extracted: None,
        };
        let applied = apply(&self.kv.view(), *revision, &command).expect("memory does not fail");
        self.kv.commit(applied.batch).expect("memory does not fail");
        applied.reply
    }
}

impl Facts for State {
    fn local(&self) -> LocalState {
        LocalState::new(self.kv.view(), *self.revision.lock().expect("nobody panics"))
    }
}

fn rate(what: &str, started: Instant, bytes: usize) {
    let seconds = started.elapsed().as_secs_f64();
    println!("{what:<44} {:>8.0} MB/s", bytes as f64 / 1e6 / seconds);
}

fn checksums(bytes: &[u8]) {
    let started = Instant::now();
    let mut sum = 0u64;
    bytes.chunks(128 << 10).for_each(|block| sum += u64::from(crc32c::crc32c(block)));
    rate("crc32c, blocks of 128 KiB", started, bytes.len());
    let started = Instant::now();
    let mut other = 0u64;
    bytes.chunks(128 << 10).for_each(|block| other += crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, block));
    rate("crc-fast, blocks of 128 KiB", started, bytes.len());
    println!("{}", if sum == other { "the same checksums" } else { "DIFFERENT CHECKSUMS" });
}

fn incoming(bytes: &Bytes, digests: &BodyDigests) -> Incoming {
    let pieces: Vec<Result<Bytes, Error>> =
        (0..bytes.len()).step_by(64 << 10).map(|at| Ok(bytes.slice(at..(at + (64 << 10)).min(bytes.len())))).collect();
    let verified = Verified {
        size: bytes.len() as u64,
        digests: Digests { md5: digests.md5, sha256: digests.sha256, crc64nvme: digests.crc64nvme, checksum: None },
        crcs: digests.crc32c_blocks.clone(),
    };
    Incoming::new(Some(bytes.len() as u64), stream::iter(pieces), async move { Ok::<_, Error>(verified) })
}

async fn drink(mut stream: BodyStream) -> anyhow::Result<usize> {
    let mut bytes = 0;
    while let Some(piece) = stream.next().await {
        bytes += piece?.len();
    }
    Ok(bytes)
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let bytes: Bytes = (0..BYTES).map(|i| (i * 31 % 251) as u8).collect::<Vec<u8>>().into();
    checksums(&bytes);
    let directory =
        std::env::args().nth(1).map_or_else(|| std::env::temp_dir().join("holdfast-blob-speed"), Into::into);
    let state = Arc::new(State::default());
    let settings = Settings { cache_bytes: 64 << 20, generation: 1 };
    let blobs = Blobs::new(Arc::new(Local::open(&directory).await?), state.clone(), settings);
    let name: BucketName = "speed".parse()?;
    let created =
        state.apply(Op::CreateBucket(CreateBucket { name: name.clone(), settings: BucketSettings::default() }));
    let Reply::BucketCreated(id) = created else { anyhow::bail!("{created:?}") };
    let bucket = BucketRef { name: name.clone(), id };
    for (length, rounds) in [(BYTES, ROUNDS), (1 << 20, 64), (4 << 10, 500)] {
        let part = bytes.slice(..length);
        let digests = BodyDigests::of(&part, None);
        let started = Instant::now();
        for round in 0..rounds {
            let key: ObjectKey = format!("{length}-{round}.bin").parse()?;
            let written = blobs.write(&name, &key, incoming(&part, &digests), WriteOptions::default()).await?;
            let target = Target { bucket: bucket.clone(), key, conditions: Conditions::default() };
            let (content, attributes) = (written.content.clone(), Attributes::default());
            let reply = state.apply(Op::PutObject(PutObject { target, content, attributes, nonce: blobs.mint() }));
            anyhow::ensure!(matches!(reply, Reply::Written(_)), "{reply:?}");
        }
        rate(&format!("write {rounds} x {length} bytes, hashes aside"), started, length * rounds);
        for pass in ["read, first", "read, again"] {
            let started = Instant::now();
            for round in 0..rounds {
                let key: ObjectKey = format!("{length}-{round}.bin").parse()?;
                let permit =
                    authorize(Caller::Root, Action::GetObject, object_resource(&name, &key), &Context::default())?;
                let plan = {
                    let local = state.local();
                    let view = local.view();
                    let found = view.find(&permit, None, None)?;
                    blobs.plan(&view, &found, 0..length as u64)?
                };
                anyhow::ensure!(drink(blobs.open(plan).await?).await? == length, "a short read");
            }
            rate(&format!("{pass} {rounds} x {length} bytes"), started, length * rounds);
        }
    }
    std::fs::remove_dir_all(&directory)?;
    Ok(())
}
