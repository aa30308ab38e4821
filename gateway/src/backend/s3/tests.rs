use futures::TryStreamExt;

use super::super::conformance;
use super::super::error::{BoxError, ErrorKind, chain};
use super::super::testing::{Damage, Minio, Proxy};
use super::super::{Condition, open};
use super::*;

const LONG: usize = 12 * MIB as usize;

fn path(name: &str) -> ObjectPath {
    ObjectPath::new(name).expect("valid")
}

fn impatient() -> Settings {
    Settings {
        attempt_timeout: Duration::from_millis(700),
        stall_timeout: Duration::from_millis(700),
        total_timeout: Duration::from_secs(5),
        pause_min: Duration::from_millis(5),
        ..Settings::default()
    }
}

/// A server, a proxy in front of it, the store through the proxy and the store beside it.
struct Bench {
    proxy: Proxy,
    through: Arc<dyn Backend>,
    beside: Arc<dyn Backend>,
    minio: Minio,
}

impl Bench {
    async fn start(settings: Settings) -> Option<Self> {
        let minio = Minio::start().await?;
        let proxy = Proxy::start(minio.port).await;
        let through = minio.store_at("bench", proxy.port, settings).await;
        let beside = minio.store_at("bench", minio.port, Settings::default()).await;
        Some(Bench { proxy, through, beside, minio })
    }

    async fn put(&self, name: &str, bytes: Vec<u8>) -> Result<Stored> {
        self.through.put(&path(name), bytes.into(), PutOptions::default()).await
    }

    async fn length(&self, name: &str) -> Option<u64> {
        self.beside.head(&path(name), HeadOptions::default()).await.map(|head| head.length).ok()
    }

    async fn uploads(&self, name: &str) -> usize {
        let client = self.minio.client(self.minio.port).await;
        let listed = client.list_multipart_uploads().bucket("blobs").prefix(format!("bench/{name}")).send().await;
        listed.expect("listed").uploads().len()
    }
}

#[tokio::test]
async fn minio_passes_the_suite() {
    let Some(minio) = Minio::start().await else { return };
    let kept = conformance::run(|| minio.store()).await.expect("conformance");
    assert!(kept.len() > 20, "{kept:?}");
}

#[tokio::test]
async fn a_half_received_get_is_an_error_and_never_short() {
    let Some(bench) = Bench::start(impatient()).await else { return };
    bench.put("blob", vec![7; LONG]).await.expect("stored");
    // The headers of a reply are shorter than the first of these.
    for after in [2000, 1 << 20, LONG as u64 - 1] {
        bench.proxy.plan("GET /blobs/bench/blob", Damage::CutReply(after), 1);
        let fetched = bench.through.get(&path("blob"), GetOptions::default()).await.expect("headers arrive");
        assert_eq!(fetched.length, LONG as u64);
        let read: Result<Vec<Bytes>> = fetched.stream.try_collect().await;
        let error =
            read.map(|pieces| pieces.iter().map(Bytes::len).sum::<usize>()).expect_err(&format!("cut after {after}"));
        assert!(matches!(error, Error::Unavailable { .. } | Error::Truncated { .. }), "{}", chain(&error));
    }
}

#[tokio::test]
async fn a_get_that_stalls_ends() {
    let Some(bench) = Bench::start(impatient()).await else { return };
    bench.put("blob", vec![7; LONG]).await.expect("stored");
    bench.proxy.plan("GET /blobs/bench/blob", Damage::StallReply(1 << 20), 1);
    let started = Instant::now();
    let fetched = bench.through.get(&path("blob"), GetOptions::default()).await.expect("headers arrive");
    let read: Result<Vec<Bytes>> = fetched.stream.try_collect().await;
    assert!(matches!(read, Err(Error::Deadline { .. })), "{read:?}");
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_put_whose_reply_is_lost_is_found_to_be_stored() {
    let Some(bench) = Bench::start(impatient()).await else { return };
    // Every attempt stores and loses its reply; the first one wins, the others meet its blob.
    bench.proxy.plan("PUT /blobs/bench/blob", Damage::LoseReply, 3);
    let stored = bench.put("blob", vec![7; 1000]).await.expect("resolved by head");
    assert_eq!(stored.length, 1000);
    assert_eq!(bench.length("blob").await, Some(1000));
    let head = bench.beside.head(&path("blob"), HeadOptions::default()).await.expect("there");
    assert_eq!(head.etag, stored.etag);
}

#[tokio::test]
async fn a_lost_reply_is_not_mistaken_for_somebody_elses_blob() {
    let Some(bench) = Bench::start(impatient()).await else { return };
    bench.beside.put(&path("blob"), vec![1; 1000].into(), PutOptions::default()).await.expect("theirs");
    bench.proxy.plan("PUT /blobs/bench/blob", Damage::LoseReply, 3);
    let error = bench.put("blob", vec![2; 1000]).await.expect_err("taken");
    assert!(matches!(error, Error::Exists { .. }), "{}", chain(&error));
    let condition = Condition::IfMatch(ETag("\"00000000000000000000000000000000\"".into()));
    bench.proxy.plan("PUT /blobs/bench/blob", Damage::LoseReply, 1);
    let options = PutOptions { condition, ..PutOptions::default() };
    let error = bench.through.put(&path("blob"), vec![2; 1000].into(), options).await.expect_err("stale");
    assert!(matches!(error, Error::Changed { .. }), "{}", chain(&error));
}

#[tokio::test]
async fn an_upload_whose_completion_is_lost_is_found_to_be_stored() {
    let Some(bench) = Bench::start(impatient()).await else { return };
    bench.proxy.plan("POST /blobs/bench/blob?uploadId", Damage::LoseReply, 3);
    let pieces = (0..20).map(|_| Ok::<_, BoxError>(Bytes::from(vec![7; MIB as usize])));
    let stored = bench.through.put(&path("blob"), Body::stream(stream::iter(pieces)), PutOptions::default()).await;
    assert_eq!(stored.expect("resolved by head").length, 20 * MIB);
    assert_eq!(bench.length("blob").await, Some(20 * MIB));
}

#[tokio::test]
async fn a_put_that_never_gets_through_is_unknown_after_bounded_tries() {
    let Some(bench) = Bench::start(impatient()).await else { return };
    bench.proxy.plan("PUT /blobs/bench/blob", Damage::StallRequest(0), 100);
    let started = Instant::now();
    let error = bench.put("blob", vec![7; 1000]).await.expect_err("never arrives");
    assert!(error.is_unknown_outcome(), "{}", chain(&error));
    assert_eq!(bench.proxy.seen(&["PUT /blobs/bench/blob"]), 3);
    assert!(started.elapsed() < Duration::from_secs(6), "{:?}", started.elapsed());
    assert_eq!(bench.length("blob").await, None);
}

#[tokio::test]
async fn a_slow_put_is_not_a_stalled_one_and_a_stalled_part_is_sent_again() {
    let Some(bench) = Bench::start(impatient()).await else { return };
    bench.proxy.plan("partNumber=2", Damage::StallRequest(1 << 20), 1);
    let pieces = (0..20).map(|_| Ok::<_, BoxError>(Bytes::from(vec![7; MIB as usize])));
    let stored = bench.through.put(&path("blob"), Body::stream(stream::iter(pieces)), PutOptions::default()).await;
    assert_eq!(stored.expect("second try").length, 20 * MIB);
    assert_eq!(bench.proxy.seen(&["partNumber=2"]), 2);
    // A body that dribbles takes longer than any limit for a silent one.
    let dribble = stream::unfold(0, |n| async move {
        tokio::time::sleep(Duration::from_millis(200)).await;
        (n < 8).then(|| (Ok::<_, BoxError>(Bytes::from(vec![7; 10])), n + 1))
    });
    bench.through.put(&path("slow"), Body::stream(dribble), PutOptions::default()).await.expect("slow is fine");
}

#[tokio::test]
async fn a_failed_or_dropped_upload_is_aborted() {
    let Some(bench) = Bench::start(impatient()).await else { return };
    let pieces = (0..20).map(|_| Ok::<_, BoxError>(Bytes::from(vec![7; MIB as usize])));
    let failing = Body::stream(stream::iter(pieces.clone().chain([Err("gone".into())])));
    bench.through.put(&path("failed"), failing, PutOptions::default()).await.expect_err("body fails");
    assert_eq!(bench.uploads("failed").await, 0);
    let endless = Body::stream(futures::StreamExt::chain(stream::iter(pieces), stream::pending()));
    let options = PutOptions { deadline: Some(Instant::now() + Duration::from_millis(600)), ..PutOptions::default() };
    let error = bench.through.put(&path("dropped"), endless, options).await.expect_err("deadline");
    assert!(matches!(error, Error::Deadline { .. }), "{}", chain(&error));
    assert!(bench.proxy.seen(&["POST /blobs/bench/dropped?uploads"]) == 1, "it was an upload");
    bench.through.close().await;
    assert_eq!(bench.uploads("dropped").await, 0);
}

#[tokio::test]
async fn retries_are_bounded_and_help() {
    let Some(bench) = Bench::start(impatient()).await else { return };
    bench.put("blob", vec![7; 10]).await.expect("stored");
    bench.proxy.plan("HEAD /blobs/bench/blob", Damage::LoseReply, 2);
    bench.through.head(&path("blob"), HeadOptions::default()).await.expect("third try");
    assert_eq!(bench.proxy.seen(&["HEAD /blobs/bench/blob"]), 3);
    bench.proxy.plan("HEAD /blobs/bench/blob", Damage::LoseReply, 100);
    let error = bench.through.head(&path("blob"), HeadOptions::default()).await.expect_err("never");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", chain(&error));
    assert_eq!(bench.proxy.seen(&["HEAD /blobs/bench/blob"]), 6);
    // A final answer is not asked for again.
    bench.through.head(&path("absent"), HeadOptions::default()).await.expect_err("absent");
    assert_eq!(bench.proxy.seen(&["HEAD /blobs/bench/absent"]), 1);
}

#[tokio::test]
async fn a_call_ends_at_the_callers_deadline() {
    let Some(bench) = Bench::start(Settings::default()).await else { return };
    bench.proxy.plan("HEAD", Damage::StallRequest(0), 100);
    let started = Instant::now();
    let options = HeadOptions { deadline: Some(started + Duration::from_millis(300)) };
    let error = bench.through.head(&path("blob"), options).await.expect_err("late");
    assert!(matches!(error, Error::Deadline { .. }), "{}", chain(&error));
    assert!(started.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn errors_say_what_is_wrong() {
    let Some(minio) = Minio::start().await else { return };
    let mut url = minio.url("x", minio.port);
    url.bucket = "no-such-bucket".into();
    let store = S3::open(&url, Minio::credentials(), Settings::default()).await.expect("opens");
    let error = store.put(&path("a"), Body::empty(), PutOptions::default()).await.expect_err("no bucket");
    assert!(error.to_string().contains("bucket of the backend does not exist"), "{}", chain(&error));

    let wrong = Credentials::from_pair(Some("holdfast-test".into()), Some("wrong-secret".into())).expect("both halves");
    let url = super::super::BackendUrl::S3(minio.url("x", minio.port));
    let store = open(&url, wrong).await.expect("opens");
    let error = store.probe(ProbeOptions::default()).await.expect_err("denied");
    assert_eq!(error.kind(), ErrorKind::Denied, "{}", chain(&error));

    // Nobody listens: the put was never sent, so it is known not to have happened.
    let closed =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("port").port();
    let store = minio.store_at("x", closed, impatient()).await;
    let error = store.put(&path("a"), Body::empty(), PutOptions::default()).await.expect_err("nobody there");
    assert!(matches!(error, Error::Unavailable { .. }), "{}", chain(&error));
}

#[tokio::test]
async fn foreign_keys_are_not_listed_and_do_not_stop_a_listing() {
    let Some(bench) = Bench::start(Settings::default()).await else { return };
    let client = bench.minio.client(bench.minio.port).await;
    for number in 0..5 {
        let key = format!("bench/.tmp/{number}");
        client.put_object().bucket("blobs").key(key).body(Bytes::from_static(b"x").into()).send().await.expect("put");
    }
    bench.put("z/blob", vec![1; 3]).await.expect("stored");
    let page = bench.through.list(ListOptions { limit: 2, ..ListOptions::default() }).await.expect("listed");
    let names: Vec<&str> = page.entries.iter().map(|entry| entry.path.as_str()).collect();
    assert_eq!(names, ["z/blob"]);
}
