use bytes::Bytes;
use futures::TryStreamExt;

use super::super::conformance;
use super::super::memory::Memory;
use super::*;

fn path(name: &str) -> ObjectPath {
    ObjectPath::new(name).expect("valid")
}

fn scripted(rules: Vec<Rule>) -> Faulty {
    Faulty::scripted(Memory::shared(), rules)
}

async fn put(store: &Faulty, name: &str) -> Result<Stored> {
    let pieces = (0..10).map(|_| Ok::<_, std::io::Error>(Bytes::from(vec![1; 10])));
    let options = PutOptions { length: Some(100), ..PutOptions::default() };
    store.put(&path(name), Body::stream(futures::stream::iter(pieces)), options).await
}

async fn is_there(store: &Faulty, name: &str) -> bool {
    store.inner.head(&path(name), HeadOptions::default()).await.is_ok()
}

#[tokio::test]
async fn without_faults_it_passes_the_suite() {
    let make = || async { Arc::new(scripted(Vec::new())) as Arc<dyn Backend> };
    conformance::run(make).await.expect("conformance");
}

#[tokio::test]
async fn faults_hit_the_calls_they_are_meant_for() {
    let rule = Rule { prefix: "a/".into(), skip: 1, times: 2, ..Rule::once(Op::Put, Fault::Before) };
    let store = scripted(vec![rule]);
    let mut failed = Vec::new();
    for name in ["a/1", "b/1", "a/2", "a/3", "a/4"] {
        if put(&store, name).await.is_err() {
            failed.push(name);
            assert!(!is_there(&store, name).await);
        }
    }
    assert_eq!(failed, ["a/2", "a/3"]);
    assert_eq!(store.injected(), 2);
}

#[tokio::test]
async fn a_lost_reply_leaves_the_blob_and_an_unknown_outcome() {
    let store = scripted(vec![Rule::once(Op::Put, Fault::After)]);
    let error = put(&store, "a").await.expect_err("told so");
    assert!(error.is_unknown_outcome(), "{error}");
    assert!(is_there(&store, "a").await);
}

#[tokio::test]
async fn a_torn_body_stores_nothing() {
    for after in [0, 5, 10, 99, 100, 200] {
        let store = scripted(vec![Rule::once(Op::Put, Fault::TornBody(after))]);
        let error = put(&store, "a").await.expect_err("torn");
        assert!(matches!(error, Error::Unavailable { .. }), "{error}");
        assert!(!is_there(&store, "a").await);
    }
}

#[tokio::test]
async fn a_short_get_ends_with_an_error() {
    let store = scripted(vec![Rule::always(Op::Get, Fault::ShortGet(30))]);
    let bytes = Body::from(vec![7; 200_000]);
    store.put(&path("a"), bytes, PutOptions::default()).await.expect("stored");
    let fetched = store.get(&path("a"), GetOptions::default()).await.expect("opens");
    assert_eq!(fetched.length, 200_000);
    let mut stream = fetched.stream;
    assert_eq!(stream.try_next().await.expect("first bytes").expect("not the end").len(), 30);
    assert!(stream.try_next().await.is_err());
}

#[tokio::test]
async fn a_full_store_reads_and_deletes_and_recovers() {
    let store = scripted(Vec::new());
    put(&store, "a").await.expect("space");
    store.set_script(vec![Rule::always(Op::Put, Fault::NoSpace)]);
    assert!(put(&store, "b").await.expect_err("full").is_no_space());
    store.get(&path("a"), GetOptions::default()).await.expect("reads go on");
    store.delete(&path("a"), DeleteOptions::default()).await.expect("deletes work");
    store.set_script(Vec::new());
    put(&store, "b").await.expect("space returned");
}

#[tokio::test]
async fn a_failed_sync_closes_the_store_for_writes() {
    let store = scripted(vec![Rule::once(Op::Put, Fault::FailedSync)]);
    store.inner.put(&path("old"), Body::empty(), PutOptions::default()).await.expect("stored");
    for _ in 0..2 {
        let error = put(&store, "a").await.expect_err("closed");
        assert_eq!(error.kind(), super::super::ErrorKind::Internal);
    }
    assert!(store.delete(&path("old"), DeleteOptions::default()).await.is_err());
    assert!(store.probe(ProbeOptions::default()).await.is_err());
    store.head(&path("old"), HeadOptions::default()).await.expect("reads go on");
}

#[tokio::test]
async fn delays_respect_the_deadline() {
    let store = scripted(vec![Rule::once(Op::Head, Fault::Delay(Duration::from_secs(60)))]);
    let deadline = Some(tokio::time::Instant::now() + Duration::from_millis(20));
    let error = store.head(&path("a"), HeadOptions { deadline }).await.expect_err("late");
    assert!(matches!(error, Error::Deadline { .. }), "{error}");
}

#[tokio::test]
async fn a_seed_fails_the_same_way_again() {
    let mut runs = Vec::new();
    for _ in 0..2 {
        let store = Faulty::seeded(Memory::shared(), 42, 3, vec![Fault::Before, Fault::After, Fault::TornBody(30)]);
        let mut outcomes = Vec::new();
        for number in 0..50 {
            outcomes.push(put(&store, &format!("n/{number}")).await.map_err(|error| error.to_string()).err());
        }
        assert!(store.injected() > 5);
        runs.push(outcomes);
    }
    assert_eq!(runs[0], runs[1]);
}
