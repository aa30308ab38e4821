//! The verbs over a real cluster and a real directory.

mod mount;
mod topics;

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use holdfast_core::command::{CompletedPart, Conditions, DeleteEntry, Match, SourceConditions};
use holdfast_core::error::Error as Refusal;
use holdfast_core::id::BucketName;
use holdfast_core::list::{Entry, Query};
use holdfast_core::record::{Attributes, ChecksumAlgorithm};
use tokio::time::Instant;

use super::copy::{Copy, CopySource};
use super::get::{Get, Part};
use super::multipart::{Completion, NewUpload, UploadName};
use super::put::{Put, at_hand};
use super::rename::Rename;
use super::*;
use crate::backend::{BackendUrl, Credentials};
use crate::blobs::Incoming;
use crate::gateway::Options;

fn queries(data: &std::path::Path) -> holdfast_query::engine::Limits {
    holdfast_query::engine::Limits {
        threads: std::num::NonZeroUsize::MIN,
        memory_bytes: 64 << 20,
        spill_dir: data.join("spill"),
        spill_bytes_max: 64 << 20,
        cache_bytes: 1 << 20,
        concurrent_max: 2,
        queue_max: 8,
        time_max: std::time::Duration::from_secs(60),
        scan_bytes_max: 1 << 30,
        result_bytes_max: 1 << 30,
    }
}

/// A node of its own, with one bucket.
pub(crate) struct Node {
    pub(crate) gateway: Gateway,
    _data: tempfile::TempDir,
}

impl Node {
    pub(crate) async fn start() -> Self {
        let data = tempfile::tempdir().unwrap();
        let options = Options {
            data: data.path().to_owned(),
            backend: BackendUrl::File { directory: data.path().join("store") },
            credentials: Credentials::Chain,
            region: "us-east-1".into(),
            cache_bytes: 8 << 20,
            inline_bytes: 1024,
            peers: None,
            queries: queries(data.path()),
        };
        let node = Self { gateway: Gateway::start(options).await.unwrap(), _data: data };
        node.gateway.create_bucket(&root(), &bucket()).await.unwrap();
        node
    }

    async fn put(&self, key: &str, bytes: &[u8]) -> Done<Written> {
        self.gateway.put(&root(), put(key, bytes, Conditions::default())).await.unwrap()
    }

    async fn read(&self, key: &str) -> Result<Vec<u8>, Error> {
        let Done { value: (got, mut body), .. } = self.gateway.get(&root(), &get(key)).await?;
        let mut bytes = Vec::new();
        while let Some(piece) = body.next().await {
            bytes.extend(piece?);
        }
        assert_eq!(bytes.len() as u64, got.version().size);
        Ok(bytes)
    }

    async fn keys(&self, at: Option<Revision>) -> Vec<String> {
        let query = Query { limit: 100, ..Query::default() };
        let page = self.gateway.list(&root(), &bucket(), query, at).await.unwrap().value;
        page.entries.iter().map(|entry| entry.marker().to_owned()).collect()
    }

    pub(crate) async fn stop(self) {
        self.gateway.stop(Instant::now() + Duration::from_secs(30)).await.unwrap();
    }
}

fn root() -> Call {
    Call {
        caller: Caller::Root,
        context: Context::default(),
        request: RequestId::new(crate::clock::now_ms(), rand::random()),
        freshness: Freshness::default(),
        fences: Vec::new(),
    }
}

fn bucket() -> BucketName {
    "photos".parse().unwrap()
}

fn incoming(bytes: &[u8]) -> Incoming {
    at_hand(Bytes::copy_from_slice(bytes))
}

fn put(key: &str, bytes: &[u8], conditions: Conditions) -> Put {
    let (bucket, key) = (bucket(), key.parse().unwrap());
    Put { bucket, key, conditions, attributes: Attributes::default(), body: incoming(bytes) }
}

fn get(key: &str) -> Get {
    let conditions = SourceConditions::default();
    Get { bucket: bucket(), key: key.parse().unwrap(), version: None, conditions, part: Part::Whole }
}

fn source(key: &str) -> CopySource {
    CopySource { bucket: bucket(), key: key.parse().unwrap(), version: None, conditions: SourceConditions::default() }
}

fn copy(from: &str, to: &str, checksum: Option<ChecksumAlgorithm>) -> Copy {
    Copy {
        source: source(from),
        bucket: bucket(),
        key: to.parse().unwrap(),
        conditions: Conditions::default(),
        attributes: None,
        tags: None,
        checksum,
    }
}

fn refusal<T: std::fmt::Debug>(result: Result<T, Error>) -> Refusal {
    match result.unwrap_err() {
        Error::Refused(refusal) => refusal,
        error => panic!("{error:?} is no refusal"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_put_is_read_until_it_is_deleted() {
    let node = Node::start().await;
    let big = vec![7; 3 << 20];
    for (key, bytes) in [("empty", &b""[..]), ("inline", b"small"), ("file", &big)] {
        let put = node.put(key, bytes).await;
        assert_eq!(node.read(key).await.unwrap(), bytes);
        let head = node.gateway.head(&root(), &get(key)).await.unwrap();
        assert!(head.revision >= put.revision);
        assert_eq!(head.value.version().etag, put.value.etag);
    }
    assert_eq!(node.keys(None).await, ["empty", "file", "inline"]);
    let middle = Get { part: Part::From(1 << 20, Some((1 << 20) + 9)), ..get("file") };
    let Done { value: (got, body), .. } = node.gateway.get(&root(), &middle).await.unwrap();
    assert_eq!((got.partial, body.length()), (true, 10));
    drop(body);
    let entry = |key: &str| DeleteEntry {
        key: key.parse().unwrap(),
        version: None,
        if_match: vec![],
        if_size: None,
        if_modified_ms: None,
    };
    let entries = vec![entry("file"), entry("absent"), entry("inline")];
    let deleted = node.gateway.delete(&root(), &bucket(), entries).await.unwrap().value;
    assert!(deleted.iter().all(|deleted| deleted.refused.is_empty()));
    assert_eq!(refusal(node.read("file").await), Refusal::NoSuchKey);
    assert_eq!(node.keys(None).await, ["empty"]);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exactly_one_of_many_racing_creators_wins() {
    let node = Node::start().await;
    let create = |n: usize| {
        let (gateway, body) = (node.gateway.clone(), format!("writer {n}"));
        async move {
            let conditions = Conditions { if_none_match: true, ..Conditions::default() };
            gateway.put(&root(), put("one", body.as_bytes(), conditions)).await
        }
    };
    let results = futures::future::join_all((0..32).map(create)).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    for result in results.into_iter().filter(Result::is_err) {
        assert_eq!(refusal(result), Refusal::failed("If-None-Match"));
    }
    let wrong = Conditions { if_match: vec![Match::Etag("wrong".into())], ..Conditions::default() };
    assert_eq!(refusal(node.gateway.put(&root(), put("one", b"x", wrong)).await), Refusal::failed("If-Match"));
    let any = Conditions { if_match: vec![Match::Any], ..Conditions::default() };
    assert_eq!(refusal(node.gateway.put(&root(), put("two", b"x", any)).await), Refusal::NoSuchKey);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_goes_on_at_the_revision_where_it_began() {
    let node = Node::start().await;
    node.put("a", b"1").await;
    let at = node.put("b", b"2").await.revision;
    node.put("c", b"3").await;
    node.gateway.rename(&root(), rename("a", "z")).await.unwrap();
    assert_eq!(node.keys(Some(at)).await, ["a", "b"]);
    assert_eq!(node.keys(None).await, ["b", "c", "z"]);
    let query = Query { limit: 0, ..Query::default() };
    let nothing = node.gateway.list(&root(), &bucket(), query, None).await.unwrap().value;
    assert!(nothing.entries.is_empty() && !nothing.truncated);
    node.stop().await;
}

fn rename(from: &str, to: &str) -> Rename {
    Rename {
        bucket: bucket(),
        source: from.parse().unwrap(),
        source_conditions: SourceConditions::default(),
        target: to.parse().unwrap(),
        conditions: Conditions::default(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_share_bytes_and_may_ask_for_another_checksum() {
    let node = Node::start().await;
    let bytes = vec![3; 300_000];
    node.put("from", &bytes).await;
    let plain = node.gateway.copy(&root(), copy("from", "plain", None)).await.unwrap().value;
    assert_eq!(plain.checksum.unwrap().algorithm, ChecksumAlgorithm::Crc64Nvme);
    for algorithm in [ChecksumAlgorithm::Crc32, ChecksumAlgorithm::Sha1, ChecksumAlgorithm::Sha256] {
        let copied = node.gateway.copy(&root(), copy("from", "other", Some(algorithm))).await.unwrap().value;
        assert_eq!(copied.checksum.unwrap().value, holdfast_core::rules::digest::hash(algorithm, &bytes));
    }
    assert_eq!(node.read("other").await.unwrap(), bytes);
    assert_eq!(refusal(node.gateway.copy(&root(), copy("from", "from", None)).await), Refusal::CopyToItself);
    assert_eq!(refusal(node.gateway.copy(&root(), copy("absent", "x", None)).await), Refusal::NoSuchKey);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_of_put_and_copied_parts_is_completed_twice_with_one_answer() {
    let node = Node::start().await;
    let whole = vec![1; 5 << 20];
    node.put("source", &whole).await;
    let new = NewUpload {
        bucket: bucket(),
        key: "many".parse().unwrap(),
        attributes: Attributes::default(),
        checksum: None,
        checksum_type: None,
    };
    let upload = node.gateway.create_upload(&root(), new).await.unwrap().value;
    let name = UploadName { bucket: bucket(), key: "many".parse().unwrap(), upload };
    let first = node.gateway.copy_part(&root(), &name, 1, &source("source"), Part::Whole).await.unwrap().value;
    let outside = node.gateway.copy_part(&root(), &name, 2, &source("source"), Part::From(0, Some(5 << 20))).await;
    assert_eq!(refusal(outside), Refusal::InvalidRange);
    let open = node.gateway.open_upload(&root(), &name).await.unwrap();
    let second = node.gateway.put_part(&root(), open, name.clone(), 2, incoming(b"end")).await.unwrap().value;
    let part = |number, etag: &str| CompletedPart { number, etag: etag.to_owned(), checksum: None };
    let completion = Completion {
        name,
        conditions: Conditions::default(),
        parts: vec![part(1, &first.etag), part(2, &second.etag)],
        checksum: None,
        checksum_type: None,
        size: Some(whole.len() as u64 + 3),
    };
    let once = node.gateway.complete_upload(&root(), completion.clone()).await.unwrap().value;
    assert_eq!(node.gateway.complete_upload(&root(), completion).await.unwrap().value, once);
    assert_eq!(node.read("many").await.unwrap(), [whole, b"end".to_vec()].concat());
    let last = Get { part: Part::Number(2), ..get("many") };
    assert_eq!(node.gateway.head(&root(), &last).await.unwrap().value.range, (5 << 20)..(5 << 20) + 3);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_may_do_nothing() {
    let node = Node::start().await;
    node.put("key", b"secret").await;
    let stranger = Call { caller: Caller::Anonymous, ..root() };
    let gateway = &node.gateway;
    let key = "key".parse().unwrap();
    assert_eq!(refusal(gateway.get(&stranger, &get("key")).await), Refusal::Denied);
    assert_eq!(refusal(gateway.head(&stranger, &get("absent")).await), Refusal::Denied);
    assert_eq!(refusal(gateway.put(&stranger, put("key", b"x", Conditions::default())).await), Refusal::Denied);
    assert_eq!(refusal(gateway.list(&stranger, &bucket(), Query::default(), None).await), Refusal::Denied);
    assert_eq!(refusal(gateway.copy(&stranger, copy("key", "x", None)).await), Refusal::Denied);
    assert_eq!(refusal(gateway.rename(&stranger, rename("key", "x")).await), Refusal::Denied);
    assert_eq!(refusal(gateway.inspect(&stranger, &bucket(), &key, true).await), Refusal::Denied);
    assert_eq!(refusal(gateway.delete_bucket(&stranger, &bucket()).await), Refusal::Denied);
    let other = "no-such-bucket".parse().unwrap();
    assert_eq!(refusal(gateway.head_bucket(&stranger, &other).await), Refusal::Denied);
    assert_eq!(node.read("key").await.unwrap(), b"secret");
    let seen = gateway.inspect(&root(), &bucket(), &key, true).await.unwrap().value;
    assert_eq!((seen.versions.len(), seen.truncated), (1, false));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_are_listed_and_a_marker_hides_the_key() {
    let node = Node::start().await;
    node.gateway.set_versioning(&root(), &bucket(), true).await.unwrap();
    let first = node.put("key", b"1").await.value.version;
    node.put("key", b"2").await;
    let entry = DeleteEntry {
        key: "key".parse().unwrap(),
        version: None,
        if_match: vec![],
        if_size: None,
        if_modified_ms: None,
    };
    let deleted = node.gateway.delete(&root(), &bucket(), vec![entry]).await.unwrap().value;
    let marker = deleted[0].version;
    let hidden = node.gateway.head(&root(), &get("key")).await.unwrap_err();
    assert!(matches!(hidden, Error::DeleteMarker { named: false, .. }), "{hidden:?}");
    let named = node.gateway.head(&root(), &Get { version: marker, ..get("key") }).await.unwrap_err();
    assert!(matches!(named, Error::DeleteMarker { named: true, .. }), "{named:?}");
    let old = node.gateway.head(&root(), &Get { version: first, ..get("key") }).await.unwrap();
    assert_eq!(old.value.version().size, 1);
    let query = Query { limit: 10, ..Query::default() };
    let listed = node.gateway.list_versions(&root(), &bucket(), query, None).await.unwrap().value;
    let latest: Vec<_> = listed.entries.iter().map(|entry| matches!(entry, Entry::Item(_, v) if v.is_latest)).collect();
    assert_eq!(latest, [true, false, false]);
    let from_marker = Copy { source: CopySource { version: marker, ..source("key") }, ..copy("key", "x", None) };
    let copied = node.gateway.copy(&root(), from_marker).await;
    assert!(matches!(copied.unwrap_err(), Error::SourceIsDeleteMarker));
    node.stop().await;
}
