//! The archive over a real cluster and a store in memory that fails on command: what is shipped comes back.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use bytes::Bytes;
use holdfast_core::command::{
    AppendObject, BucketRef, Command, Conditions, CreateBucket, CreateUpload, DeleteEntry, DeleteObjects, Digests,
    NewBlob, NewContent, NewPlace, Op, PutObject, Reply, SetVersioning, Target,
};
use holdfast_core::id::{BlobId, RequestId};
use holdfast_core::keyspace::Keyspace;
use holdfast_core::kv::{Direction, KeyRange, KvRead};
use holdfast_core::record::{Attributes, BucketSettings, Headers};
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::record::RowAccessor as _;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::*;
use crate::backend::faulty::{Fault, Faulty, Op as Call, Rule};
use crate::backend::memory::Memory;
use crate::backend::{Body, Condition, PutOptions};
use crate::clock::now_ms;
use crate::cluster::restore::is_consensus_row;
use crate::cluster::{ClusterConfig, Consistency, ProposeOptions};

type Rows = BTreeMap<(Keyspace, Vec<u8>), Bytes>;

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

/// Quick intervals, so that tests wait little.
fn quick() -> Settings {
    Settings {
        verify_every: Duration::from_millis(50),
        verified_for: Duration::from_millis(400),
        ship_every: Duration::from_millis(10),
        ..Settings::default()
    }
}

struct Node {
    cluster: Arc<Cluster>,
    archive: Archive,
    bucket: BucketRef,
}

/// The whole outside of a test: a store, and directories.
struct Site {
    backend: Arc<Faulty>,
    root: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        let backend = Arc::new(Faulty::scripted(Memory::shared(), Vec::new()));
        Self { backend, root: tempfile::tempdir().unwrap() }
    }

    fn dir(&self, name: &str) -> std::path::PathBuf {
        self.root.path().join(name)
    }

    async fn start(&self, name: &str) -> Node {
        let cluster = open(&self.dir(name)).await;
        self.archive(cluster, quick()).await.unwrap()
    }

    async fn archive(&self, cluster: Arc<Cluster>, settings: Settings) -> Result<Node, Error> {
        self.claim(cluster.identity()).await;
        let archive = Archive::start(cluster.clone(), self.backend.clone(), settings).await?;
        let name: holdfast_core::id::BucketName = "bucket".parse().unwrap();
        let view = cluster.view(Consistency::Local, soon()).await.unwrap();
        let row = view.get(Keyspace::Buckets, &holdfast_core::keyspace::key::bucket("bucket")).unwrap();
        let id = match row {
            Some(row) => <holdfast_core::record::BucketRow as holdfast_core::record::Record>::decode(&row).unwrap().id,
            None => {
                let create = CreateBucket { name: name.clone(), settings: BucketSettings::default() };
                match propose(&cluster, Op::CreateBucket(create)).await.1 {
                    Reply::BucketCreated(id) => id,
                    other => panic!("{other:?}"),
                }
            }
        };
        Ok(Node { cluster, archive, bucket: BucketRef { name, id } })
    }

    /// As the first start of a node does, with a field that the archive does not know.
    async fn claim(&self, identity: &Identity) {
        let document = serde_json::json!({
            "format": 1, "cluster_id": identity.cluster_id, "generation": identity.generation, "voters": [1],
        });
        let put = PutOptions::default();
        let _ =
            self.backend.put(&names::path(names::CLUSTER), Body::from(document.to_string().into_bytes()), put).await;
    }

    fn options(&self, name: &str) -> RecoverOptions {
        RecoverOptions { dir: self.dir(name), force: false, dry_run: false, verify: Verify::All }
    }

    /// Recovers without the wait, which has a test of its own: nobody writes any more.
    async fn recover(&self, options: &RecoverOptions) -> Result<Report, Error> {
        self.backend.delete(&names::path(&names::heartbeat(1)), Default::default()).await.unwrap();
        self.backend.delete(&names::path(&names::heartbeat(2)), Default::default()).await.unwrap();
        recover(&*self.backend, options, |_| {}).await
    }

    async fn names(&self, prefix: &str) -> Vec<String> {
        let found = names::list(&*self.backend, prefix, None).await.unwrap();
        found.into_iter().map(|entry| entry.path.as_str().to_owned()).collect()
    }

    async fn manifest(&self, revision: u64) -> Manifest {
        let (bytes, _) = names::read(&*self.backend, &names::manifest(1, revision), u64::MAX).await.unwrap().unwrap();
        serde_json::from_slice(&bytes).unwrap()
    }

    /// Replaces a file by what `change` makes of it.
    async fn damage(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let (bytes, _) = names::read(&*self.backend, name, u64::MAX).await.unwrap().unwrap();
        let mut bytes = bytes.to_vec();
        change(&mut bytes);
        let options = PutOptions { condition: Condition::Overwrite, ..PutOptions::default() };
        self.backend.put(&names::path(name), Body::from(bytes), options).await.unwrap();
    }
}

async fn open(dir: &Path) -> Arc<Cluster> {
    let config = ClusterConfig { segment_bytes: 1 << 20, cache_bytes: 4 << 20, ..ClusterConfig::new(dir) };
    Arc::new(Cluster::open(config).await.unwrap())
}

async fn propose(cluster: &Cluster, op: Op) -> (u64, Reply) {
    let command = Command {
        request: RequestId::new(now_ms(), rand::random()),
        stamp_ms: now_ms(),
        op,
        fences: None,
        extracted: None,
    };
    let committed = cluster.propose(command, ProposeOptions { deadline: soon(), frees_space: false }).await.unwrap();
    (committed.revision, committed.reply)
}

fn blob_id() -> BlobId {
    BlobId::new(1, now_ms(), rand::random())
}

impl Node {
    fn target(&self, key: &str) -> Target {
        Target { bucket: self.bucket.clone(), key: key.parse().unwrap(), conditions: Conditions::default() }
    }

    fn content(value: &[u8]) -> NewContent {
        let crcs = value.chunks(128 << 10).flat_map(|block| crc32c::crc32c(block).to_be_bytes()).collect();
        let place = NewPlace::Inline(Bytes::copy_from_slice(value));
        let digests = Digests { md5: [1; 16], sha256: [2; 32], crc64nvme: 3, checksum: None };
        NewContent { size: value.len() as u64, blob: Some(NewBlob { id: blob_id(), place, crcs }), digests }
    }

    fn put_op(&self, key: &str, value: &[u8]) -> Op {
        let text = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let attributes = Attributes {
            headers: Headers { content_type: Some("text/plain".into()), ..Headers::default() },
            metadata: BTreeMap::from([text("colour", "red"), text("shape", key)]),
            tags: if value.len().is_multiple_of(2) { BTreeMap::from([text("even", "yes")]) } else { BTreeMap::new() },
        };
        let (target, content) = (self.target(key), Self::content(value));
        Op::PutObject(PutObject { target, content, attributes, nonce: blob_id() })
    }

    async fn put(&self, key: &str, value: &[u8]) -> u64 {
        let (revision, reply) = propose(&self.cluster, self.put_op(key, value)).await;
        assert!(!matches!(reply, Reply::Refused(_)), "{reply:?}");
        revision
    }

    /// One of many things that change the state; a refusal is one of them.
    async fn change(&self, random: &mut StdRng) -> u64 {
        let key = format!("key-{}", random.random_range(0..20));
        let length = random.random_range(1..3000);
        let op = match random.random_range(0..10) {
            0..5 => self.put_op(&key, &vec![random.random(); length]),
            5..7 => {
                let entry = DeleteEntry {
                    key: key.parse().unwrap(),
                    version: None,
                    if_match: Vec::new(),
                    if_size: None,
                    if_modified_ms: None,
                };
                Op::DeleteObjects(DeleteObjects { bucket: self.bucket.clone(), entries: vec![entry], nonce: blob_id() })
            }
            7 => {
                let (target, content) = (self.target(&key), Self::content(&vec![7; length]));
                let attributes = Attributes::default();
                Op::AppendObject(AppendObject { target, offset: 0, content, attributes, nonce: blob_id() })
            }
            8 => Op::SetVersioning(SetVersioning { bucket: self.bucket.clone(), enabled: random.random() }),
            _ => Op::CreateUpload(CreateUpload {
                bucket: self.bucket.clone(),
                key: key.parse().unwrap(),
                attributes: Attributes::default(),
                checksum: None,
                checksum_type: None,
                nonce: blob_id(),
            }),
        };
        propose(&self.cluster, op).await.0
    }

    async fn shipped(&self, revision: u64) {
        self.archive.await_shipped(revision, soon()).await.unwrap();
    }

    async fn rows(&self) -> Rows {
        rows(&self.cluster.view(Consistency::Local, soon()).await.unwrap())
    }

    async fn stop(self) {
        self.archive.stop().await;
        self.cluster.shutdown(soon()).await.unwrap();
    }

    /// As if the process had died: nothing more is shipped.
    async fn die(self) {
        self.archive.inner.stop.cancel();
        self.archive.tasks.close();
        self.archive.tasks.wait().await;
        self.cluster.shutdown(soon()).await.unwrap();
    }
}

/// All rows but the consensus' own.
fn rows(view: &impl KvRead) -> Rows {
    let mut found = Rows::new();
    for keyspace in Keyspace::ALL {
        for row in view.scan(keyspace, KeyRange::prefix(&[]), Direction::Forward) {
            let (key, value) = row.unwrap();
            if !is_consensus_row(keyspace, &key) {
                found.insert((keyspace, key.to_vec()), value);
            }
        }
    }
    found
}

impl Site {
    /// A node starts from the directory, and has these rows.
    async fn assert_holds(&self, name: &str, expected: &Rows) {
        let node = self.start(name).await;
        assert_same(&node.rows().await, expected);
        node.stop().await;
    }
}

#[track_caller]
fn assert_same(found: &Rows, expected: &Rows) {
    let differ = expected.iter().find(|(key, value)| found.get(*key) != Some(value));
    assert_eq!(differ, None, "missing or different");
    let more = found.keys().find(|key| !expected.contains_key(*key));
    assert_eq!(more, None, "too much");
}

/// A site with a history of two checkpoints with log before, between and after them, and its rows at the end.
async fn history(seed: u64) -> (Site, Rows, u64) {
    let site = Site::new();
    let node = site.start("old").await;
    let mut random = StdRng::seed_from_u64(seed);
    let mut last = 0;
    for step in 0..120 {
        last = node.change(&mut random).await;
        if step % 7 == 0 {
            node.shipped(last).await;
        }
        if step == 40 || step == 80 {
            node.archive.checkpoint().await.unwrap();
        }
    }
    node.shipped(last).await;
    let rows = node.rows().await;
    node.stop().await;
    (site, rows, last)
}

#[tokio::test]
async fn a_recovered_state_equals_the_archived_one() {
    for seed in 0..3 {
        let (site, expected, last) = history(seed).await;
        let report = site.recover(&site.options("new")).await.unwrap();
        assert!(report.is_whole(), "{report:?}");
        assert_eq!((report.generation, report.revision, report.buckets), (2, last, 1));
        assert!(report.checkpoint > 0 && report.segments > 0, "{report:?}");
        let node = site.start("new").await;
        assert_same(&node.rows().await, &expected);
        let revision = node.put("after", b"value").await;
        assert!(revision >= report.next_revision && revision > last, "revisions go on above all that were seen");
        node.shipped(revision).await;
        node.stop().await;
    }
}

#[tokio::test]
async fn a_log_from_its_beginning_needs_no_checkpoint() {
    let site = Site::new();
    let node = site.start("old").await;
    let last = node.put("key", b"value").await;
    node.shipped(last).await;
    let expected = node.rows().await;
    node.stop().await;
    assert!(site.names("metadata/1/manifest/").await.is_empty());
    let report = site.recover(&site.options("new")).await.unwrap();
    assert_eq!((report.checkpoint, report.revision), (0, last));
    site.assert_holds("new", &expected).await;
}

#[tokio::test]
async fn a_damaged_checkpoint_falls_back_to_an_older_one() {
    let (site, expected, last) = history(7).await;
    let newest = site.names("metadata/1/manifest/").await.pop().unwrap();
    let revision = names::revision_in(&newest, "metadata/1/manifest/").unwrap();
    let of_history = |file: &&manifest::KeyspaceFile| file.keyspace == Keyspace::History.name();
    let path = site.manifest(revision).await.keyspaces.iter().find(of_history).unwrap().path.clone();
    site.damage(&path, |bytes| bytes[100] ^= 1).await;
    let report = site.recover(&site.options("new")).await.unwrap();
    assert!(report.is_whole() && report.checkpoint < revision && report.revision == last, "{report:?}");
    site.assert_holds("new", &expected).await;
}

#[tokio::test]
async fn a_missing_segment_is_reported_and_refused_without_force() {
    let (site, _, last) = history(8).await;
    let segments = site.names("metadata/1/log/").await;
    let lost = &segments[segments.len() - 2];
    site.backend.delete(&names::path(lost), Default::default()).await.unwrap();
    let error = site.recover(&site.options("new")).await.unwrap_err();
    assert!(error.to_string().contains("is missing") && error.to_string().contains("--force"), "{error}");
    assert!(!site.dir("new").join("identity.json").exists(), "no node starts from it");
    let report = site.recover(&RecoverOptions { force: true, ..site.options("new") }).await.unwrap();
    assert!(!report.is_whole() && report.revision < last, "{report:?}");
    assert!(report.next_revision > last, "what was seen is not handed out again");
    let node = site.start("new").await;
    node.put("after", b"value").await;
    node.stop().await;
}

#[tokio::test]
async fn a_torn_segment_is_reported_and_refused_without_force() {
    let (site, _, last) = history(9).await;
    let torn = site.names("metadata/1/log/").await.pop().unwrap();
    site.damage(&torn, |bytes| bytes.truncate(bytes.len() - 60)).await;
    let error = site.recover(&site.options("new")).await.unwrap_err();
    assert!(error.to_string().contains(&torn), "{error}");
    let report = site.recover(&RecoverOptions { force: true, ..site.options("new") }).await.unwrap();
    assert!(!report.is_whole() && report.revision <= last, "{report:?}");
}

#[tokio::test]
async fn a_second_recovery_makes_generation_three() {
    let (site, _, _) = history(10).await;
    let second = site.recover(&site.options("second")).await.unwrap();
    let node = site.start("second").await;
    assert_eq!((node.cluster.identity().generation, node.cluster.identity().node_id), (2, second.node_id));
    let revision = node.put("of the second", b"value").await;
    node.shipped(revision).await;
    let expected = node.rows().await;
    node.stop().await;
    let report = site.recover(&site.options("third")).await.unwrap();
    assert_eq!((report.generation, report.from_generation, report.revision), (3, 2, revision));
    let node = site.start("third").await;
    assert_eq!((node.cluster.identity().generation, node.cluster.identity().node_id), (3, report.node_id));
    assert!(second.node_id > 1 && report.node_id > second.node_id, "ids are not used again");
    assert_same(&node.rows().await, &expected);
    assert!(node.put("of the third", b"value").await > revision);
    node.stop().await;
    let (bytes, _) = names::read(&*site.backend, names::CLUSTER, u64::MAX).await.unwrap().unwrap();
    let document: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(document["generation"], 3);
    assert_eq!(document.get("voters"), None, "who began the first generation does not begin this one");
}

#[tokio::test]
async fn a_dry_run_claims_and_makes_nothing() {
    let (site, _, last) = history(11).await;
    let before = site.names("").await;
    let report = site.recover(&RecoverOptions { dry_run: true, ..site.options("new") }).await.unwrap();
    assert_eq!((report.dry_run, report.generation, report.revision), (true, 2, last));
    let made: Vec<_> = std::fs::read_dir(site.root.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(made, ["old"]);
    let after: Vec<_> = site.names("").await;
    assert_eq!(after, before.into_iter().filter(|name| !name.ends_with("heartbeat.json")).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_recovery_that_died_is_followed_by_another() {
    let (site, expected, last) = history(12).await;
    site.backend.set_script(vec![Rule { prefix: "metadata/2/".into(), ..Rule::always(Call::Put, Fault::Before) }]);
    site.recover(&site.options("half")).await.unwrap_err();
    site.backend.set_script(Vec::new());
    assert!(!site.dir("half").join("identity.json").exists());
    let report = site.recover(&site.options("new")).await.unwrap();
    assert_eq!((report.generation, report.from_generation, report.revision), (3, 1, last));
    site.assert_holds("new", &expected).await;
}

#[tokio::test]
async fn a_directory_that_holds_a_node_is_not_recovered_into() {
    let (site, _, _) = history(13).await;
    let error = site.recover(&site.options("old")).await.unwrap_err();
    let Error::Cluster { source, .. } = &error else { panic!("{error}") };
    assert!(source.to_string().contains("is there already"), "{source}");
    let (bytes, _) = names::read(&*site.backend, names::CLUSTER, u64::MAX).await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&bytes).contains("\"generation\":1"), "nothing was claimed");
}

#[tokio::test]
async fn a_node_of_an_old_generation_stops_acknowledging() {
    let site = Site::new();
    let node = site.start("old").await;
    let last = node.put("key", b"value").await;
    node.shipped(last).await;
    assert_eq!(node.archive.allows(false), Ok(()));
    recover(&*site.backend, &RecoverOptions { force: true, ..site.options("new") }, |_| {}).await.unwrap();
    let reason = tokio::time::timeout(Duration::from_secs(5), node.archive.superseded()).await.unwrap();
    assert!(
        reason.contains("recovered as generation 2") && node.archive.allows(false) == Err(reason),
        "refused for good"
    );
    let identity = node.cluster.identity().clone();
    let cluster = node.cluster.clone();
    drop(node);
    let error = Archive::start(cluster, site.backend.clone(), quick()).await.err().unwrap();
    assert!(matches!(error, Error::Foreign(_)) && identity.generation == 1, "{error}");
}

#[tokio::test]
async fn recover_waits_until_the_old_generation_is_silent() {
    let site = Site::new();
    let node = site.start("old").await;
    node.stop().await;
    let options = site.options("new");
    let recovering = recover(&*site.backend, &options, |_| {});
    let early = tokio::time::timeout(Duration::from_millis(1500), recovering).await;
    assert!(early.is_err(), "its last sign of life was a moment ago");
    assert!(!site.dir("new").join("identity.json").exists());
}

#[tokio::test]
async fn writes_stop_while_the_backend_is_silent_and_come_back() {
    let site = Site::new();
    let node = site.start("old").await;
    site.backend.set_script(vec![Rule::always(Call::Put, Fault::Before), Rule::always(Call::Get, Fault::Before)]);
    assert_eq!(node.archive.allows(false), Ok(()), "for a while it knows");
    let mut refused = None;
    for _ in 0..200 {
        refused = node.archive.allows(false).err();
        if refused.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(refused.unwrap().contains("has not confirmed"));
    site.backend.set_script(Vec::new());
    for _ in 0..300 {
        if node.archive.allows(false).is_ok() {
            return node.stop().await;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("writes did not come back: {:?}", node.archive.status());
}

#[tokio::test]
async fn a_full_store_still_takes_deletes() {
    let site = Site::new();
    let node = site.start("old").await;
    site.backend.set_script(vec![Rule::always(Call::Put, Fault::NoSpace)]);
    let revision = node.put("key", b"value").await;
    for _ in 0..100 {
        if node.archive.allows(false).is_err() && node.archive.may_delete_through() > revision {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(node.archive.allows(false).is_err());
    assert_eq!(node.archive.allows(true), Ok(()));
    assert_eq!(node.archive.may_delete_through(), u64::MAX, "or the space would never come back");
    site.backend.set_script(Vec::new());
    node.shipped(revision).await;
    assert!(node.archive.may_delete_through() < u64::MAX);
    node.stop().await;
}

#[tokio::test]
async fn the_unshipped_log_is_bounded() {
    let site = Site::new();
    let settings = Settings { unshipped_bytes_max: 100_000, verified_for: VERIFIED_FOR, ..quick() };
    let node = site.archive(open(&site.dir("old")).await, settings).await.unwrap();
    let log = Rule { prefix: "metadata/1/log/".into(), ..Rule::always(Call::Put, Fault::Before) };
    site.backend.set_script(vec![log]);
    for _ in 0..30 {
        node.put("key", &[5; 5000]).await;
    }
    let mut allowed = true;
    for _ in 0..100 {
        allowed = node.archive.allows(false).is_ok();
        if !allowed {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(!allowed, "{:?}", node.archive.status());
    assert!(node.archive.status().lag_bytes > 100_000 && node.archive.status().problem.is_some());
    site.backend.set_script(Vec::new());
    node.shipped(node.cluster.status().revision).await;
    assert_eq!(node.archive.allows(false), Ok(()));
    node.stop().await;
}

#[tokio::test]
async fn waiting_for_the_bucket_ends_when_it_has_the_segment_and_not_before() {
    let site = Site::new();
    let node = site.start("old").await;
    let log = Rule { prefix: "metadata/1/log/".into(), ..Rule::always(Call::Put, Fault::Before) };
    site.backend.set_script(vec![log]);
    let revision = node.put("key", b"value").await;
    let early = node.archive.await_shipped(revision, Instant::now() + Duration::from_millis(300)).await;
    assert!(early.unwrap_err().contains("not archived yet"));
    site.backend.set_script(Vec::new());
    node.shipped(revision).await;
    let segments = site.names("metadata/1/log/").await;
    assert!(!segments.is_empty());
    node.die().await;
    let report = site.recover(&site.options("new")).await.unwrap();
    assert!(report.revision >= revision);
}

#[tokio::test]
async fn a_lost_reply_leaves_no_gap_and_no_repeat() {
    let site = Site::new();
    let node = site.start("old").await;
    let rule = Rule { prefix: "metadata/1/log/".into(), ..Rule::once(Call::Put, Fault::After) };
    for step in 0..10 {
        site.backend.set_script(vec![rule.clone()]);
        let revision = node.put(&format!("key-{step}"), b"value").await;
        node.shipped(revision).await;
    }
    let expected = node.rows().await;
    node.die().await;
    let report = site.recover(&site.options("new")).await.unwrap();
    assert!(report.is_whole(), "{report:?}");
    site.assert_holds("new", &expected).await;
}

#[tokio::test]
async fn a_restart_goes_on_where_the_bucket_ends() {
    let site = Site::new();
    let mut last = 0;
    for round in 0..4 {
        let node = site.start("old").await;
        for step in 0..10 {
            last = node.put(&format!("key-{round}-{step}"), b"value").await;
        }
        // Every other time it dies in the middle.
        if round % 2 == 0 { node.stop().await } else { node.die().await }
    }
    let node = site.start("old").await;
    node.shipped(last).await;
    let expected = node.rows().await;
    node.stop().await;
    let report = site.recover(&site.options("new")).await.unwrap();
    assert!(report.is_whole(), "{report:?}");
    site.assert_holds("new", &expected).await;
}

#[tokio::test]
async fn an_older_copy_of_a_data_directory_is_refused() {
    let site = Site::new();
    let node = site.start("old").await;
    node.put("key", b"value").await;
    node.stop().await;
    copy_dir(&site.dir("old"), &site.dir("copy"));
    let node = site.start("old").await;
    let mut last = 0;
    for step in 0..20 {
        last = node.put(&format!("key-{step}"), b"value").await;
    }
    node.shipped(last).await;
    node.stop().await;
    let cluster = open(&site.dir("copy")).await;
    let error = Archive::start(cluster, site.backend.clone(), quick()).await.err().unwrap();
    assert!(error.to_string().contains("older copy"), "{error}");
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test]
async fn superfluous_checkpoints_and_segments_go() {
    let site = Site::new();
    let node = site.start("old").await;
    let mut revisions = Vec::new();
    for round in 0..6 {
        for step in 0..5 {
            let revision = node.put(&format!("key-{round}-{step}"), b"value").await;
            node.shipped(revision).await;
        }
        revisions.push(node.archive.checkpoint().await.unwrap().revision);
    }
    let expected = node.rows().await;
    let kept: Vec<String> = revisions[3..].iter().map(|revision| names::manifest(1, *revision)).collect();
    assert_eq!(site.names("metadata/1/manifest/").await, kept);
    let mut named = BTreeSet::new();
    for revision in &revisions[3..] {
        let manifest = site.manifest(*revision).await;
        named.extend(manifest.keyspaces.into_iter().map(|file| file.path));
        named.insert(manifest.versions.path);
    }
    assert_eq!(site.names("metadata/1/checkpoint/").await, named.into_iter().collect::<Vec<_>>());
    let first = names::revision_in(&site.names("metadata/1/log/").await[0], "metadata/1/log/").unwrap();
    assert!(first > 10 && first <= revisions[3] + 1, "the log begins at {first}");
    node.stop().await;
    // Also the oldest that is kept suffices.
    for revision in &revisions[4..] {
        site.damage(&names::manifest(1, *revision), |bytes| bytes[0] = b'x').await;
    }
    let report = site.recover(&site.options("new")).await.unwrap();
    assert!(report.is_whole() && report.checkpoint == revisions[3], "{report:?}");
    site.assert_holds("new", &expected).await;
}

#[tokio::test]
async fn a_checkpoint_stores_only_what_changed() {
    let site = Site::new();
    let node = site.start("old").await;
    for number in 0..300 {
        node.put(&format!("key-{number:03}"), &[number as u8; 60_000]).await;
    }
    let first = node.archive.checkpoint().await.unwrap();
    let files = site.names("metadata/1/checkpoint/rows/").await;
    assert!(files.len() > 4, "{files:?}");
    let last = node.put("key-150", b"another value").await;
    node.shipped(last).await;
    let second = node.archive.checkpoint().await.unwrap();
    let before: BTreeSet<_> = first.keyspaces.iter().map(|file| &file.path).collect();
    let stored: u64 = second.keyspaces.iter().filter(|file| !before.contains(&file.path)).map(|file| file.bytes).sum();
    let all: u64 = second.keyspaces.iter().map(|file| file.bytes).sum();
    assert!(all > 15_000_000 && stored * 4 < all * 3, "{stored} of {all} bytes were stored again");
    let expected = node.rows().await;
    node.stop().await;
    let report = site.recover(&site.options("new")).await.unwrap();
    assert!(report.is_whole() && report.checkpoint == second.revision, "{report:?}");
    site.assert_holds("new", &expected).await;
}

#[tokio::test]
async fn a_checkpoint_that_lacks_a_file_does_not_count() {
    let site = Site::new();
    let node = site.start("old").await;
    let mut manifests = Vec::new();
    for round in 0..3 {
        let revision = node.put(&format!("key-{round}"), b"value").await;
        node.shipped(revision).await;
        manifests.push(node.archive.checkpoint().await.unwrap());
    }
    let of_history = |file: &&manifest::KeyspaceFile| file.keyspace == Keyspace::History.name();
    let lost = manifests[1].keyspaces.iter().find(of_history).unwrap();
    site.backend.delete(&names::path(&lost.path), Default::default()).await.unwrap();
    let revision = node.put("key-3", b"value").await;
    node.shipped(revision).await;
    manifests.push(node.archive.checkpoint().await.unwrap());
    let kept: Vec<_> = [0, 2, 3].iter().map(|at: &usize| names::manifest(1, manifests[*at].revision)).collect();
    // The one with the hole neither counts nor hides: the three whole ones are the newest.
    let there = site.names("metadata/1/manifest/").await;
    assert!(there.iter().all(|name| kept.contains(name) || *name == names::manifest(1, manifests[1].revision)));
    assert!(kept.iter().all(|name| there.contains(name)), "{there:?}");
    node.stop().await;
}

#[tokio::test]
async fn entries_purged_before_they_were_shipped_are_covered_by_a_checkpoint() {
    let site = Site::new();
    let dir = site.dir("old");
    let config = || ClusterConfig {
        segment_bytes: 256 << 10,
        snapshot_bytes: 64 << 10,
        log_keep_bytes: 0,
        cache_bytes: 4 << 20,
        ..ClusterConfig::new(&dir)
    };
    let cluster = Arc::new(Cluster::open(config()).await.unwrap());
    let name = "bucket".parse().unwrap();
    let create = Op::CreateBucket(CreateBucket { name, settings: BucketSettings::default() });
    propose(&cluster, create).await;
    let bucket = BucketRef { name: "bucket".parse().unwrap(), id: holdfast_core::id::BucketId(2) };
    site.claim(cluster.identity()).await;
    let fill = Arc::clone(&cluster);
    for number in 0..60 {
        let target = Target {
            bucket: bucket.clone(),
            key: format!("key-{number}").parse().unwrap(),
            conditions: Conditions::default(),
        };
        let (content, attributes) = (Node::content(&[9; 30_000]), Attributes::default());
        propose(&fill, Op::PutObject(PutObject { target, content, attributes, nonce: blob_id() })).await;
    }
    for _ in 0..100 {
        if cluster.status().log.first_index > Some(3) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(cluster.status().log.first_index > Some(3), "the log was purged");
    let node = site.archive(cluster, quick()).await.unwrap();
    node.shipped(node.cluster.status().revision).await;
    let expected = node.rows().await;
    node.stop().await;
    assert!(!site.names("metadata/1/manifest/").await.is_empty());
    let report = site.recover(&site.options("new")).await.unwrap();
    assert!(report.is_whole(), "{report:?}");
    site.assert_holds("new", &expected).await;
}

#[tokio::test]
async fn the_table_of_versions_says_what_the_state_says() {
    let site = Site::new();
    let node = site.start("old").await;
    let enable = SetVersioning { bucket: node.bucket.clone(), enabled: true };
    propose(&node.cluster, Op::SetVersioning(enable)).await;
    node.put("a", b"one").await;
    let newest = node.put("a", b"four").await;
    let marked = DeleteEntry {
        key: "b".parse().unwrap(),
        version: None,
        if_match: Vec::new(),
        if_size: None,
        if_modified_ms: None,
    };
    node.put("b", b"value").await;
    let delete = DeleteObjects { bucket: node.bucket.clone(), entries: vec![marked], nonce: blob_id() };
    propose(&node.cluster, Op::DeleteObjects(delete)).await;
    let manifest = node.archive.checkpoint().await.unwrap();
    node.stop().await;
    assert_eq!(manifest.versions.rows, 4);
    let (bytes, _) = names::read(&*site.backend, &manifest.versions.path, u64::MAX).await.unwrap().unwrap();
    let rows: Vec<_> =
        SerializedFileReader::new(bytes).unwrap().get_row_iter(None).unwrap().map(Result::unwrap).collect();
    let text = |row: usize, column: usize| rows[row].get_string(column).unwrap().clone();
    let flags = |row: usize| (rows[row].get_bool(4).unwrap(), rows[row].get_bool(5).unwrap());
    assert_eq!((0..4).map(|row| text(row, 1)).collect::<Vec<_>>(), ["a", "a", "b", "b"]);
    assert_eq!((0..4).map(flags).collect::<Vec<_>>(), [(true, false), (false, false), (true, true), (false, false)]);
    assert_eq!(
        (text(0, 0), rows[0].get_long(3).unwrap() as u64, rows[0].get_long(6).unwrap()),
        ("bucket".into(), newest, 4)
    );
    assert_eq!((text(0, 8), text(0, 11), text(0, 14)), ("02".repeat(32), "text/plain".into(), "inline".into()));
    let printed: Vec<String> = rows.iter().map(ToString::to_string).collect();
    assert!(printed[0].contains(r#"metadata: {"colour" -> "red", "shape" -> "a"}"#), "{}", printed[0]);
    assert!(printed[0].contains(r#"tags: {"even" -> "yes"}"#) && printed[1].contains("tags: {}"), "{printed:?}");
}
