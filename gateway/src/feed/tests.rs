//! Watchers against the history of commits: nothing lost, nothing twice, nothing out of order, however slow they are.

use std::collections::BTreeSet;

use holdfast_core::command::{BucketRef, Op, Reply, TrimEvents};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio_util::sync::DropGuard;

use super::*;
use crate::clock::now_ms;
use crate::cluster::{ClusterConfig, ProposeOptions};

struct Node {
    cluster: Arc<Cluster>,
    feed: Feed,
    buckets: Vec<BucketRef>,
    _stop: DropGuard,
    _dir: tempfile::TempDir,
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

fn permit() -> Permit {
    authorize(Caller::Root, Action::WatchEvents, Resource::Service, &Context::default()).unwrap()
}

impl Node {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = ClusterConfig { cache_bytes: 4 << 20, ..ClusterConfig::new(dir.path()) };
        let cluster = Arc::new(Cluster::open(config).await.unwrap());
        let stop = CancellationToken::new();
        let feed = Feed::start(cluster.clone(), &TaskTracker::new(), stop.clone());
        let mut node = Self { cluster, feed, buckets: Vec::new(), _stop: stop.drop_guard(), _dir: dir };
        for name in ["first", "second"] {
            let name: BucketName = name.parse().unwrap();
            let create = holdfast_core::command::CreateBucket { name: name.clone(), settings: Default::default() };
            let (_, reply) = node.propose(Op::CreateBucket(create)).await;
            let Reply::BucketCreated(id) = reply else { panic!("{reply:?}") };
            node.buckets.push(BucketRef { name, id });
        }
        node
    }

    async fn propose(&self, op: Op) -> (Revision, Reply) {
        let request = holdfast_core::id::RequestId::new(now_ms(), rand::random());
        let command =
            holdfast_core::command::Command { request, stamp_ms: now_ms(), op, fences: None, extracted: None };
        let options = ProposeOptions { deadline: soon(), frees_space: false };
        let done = self.cluster.propose(command, options).await.unwrap();
        (done.revision, done.reply)
    }

    /// An empty object.
    async fn put(&self, bucket: usize, key: &str) -> Revision {
        use holdfast_core::command::{Conditions, Digests, NewContent, PutObject, Target};
        use sha2::Digest as _;
        let digests = Digests {
            md5: md5::Md5::digest(b"").into(),
            sha256: sha2::Sha256::digest(b"").into(),
            crc64nvme: 0,
            checksum: None,
        };
        let content = NewContent { size: 0, blob: None, digests };
        let target = Target {
            bucket: self.buckets[bucket].clone(),
            key: key.parse().unwrap(),
            conditions: Conditions::default(),
        };
        let nonce = holdfast_core::id::BlobId::new(1, now_ms(), rand::random());
        let (revision, reply) =
            self.propose(Op::PutObject(PutObject { target, content, attributes: Default::default(), nonce })).await;
        assert!(matches!(reply, Reply::Written(_)), "{reply:?}");
        revision
    }

    fn all(&self) -> Vec<Event> {
        let view = self.cluster.view_now().unwrap();
        let page = View::new(&view, view.revision()).events(&permit(), Place::default(), usize::MAX).unwrap();
        page.events.into_iter().map(|(place, row)| Event { place, row }).collect()
    }
}

/// Everything until a mark that is at or after `until`.
async fn events_until(watcher: &mut Watcher, until: Revision) -> Vec<Event> {
    let mut events = Vec::new();
    loop {
        match watcher.next(Instant::now() + Duration::from_millis(50)).await.unwrap() {
            Next::Event(event) => events.push(*event),
            Next::Mark(revision) if revision >= until => return events,
            Next::Mark(_) => {}
        }
    }
}

fn places(events: &[Event]) -> Vec<Place> {
    events.iter().map(|event| event.place).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_watcher_sees_the_history_of_what_it_asked_for() {
    let node = Arc::new(Node::start().await);
    let filters = [
        Filter::default(),
        Filter { bucket: Some("first".parse().unwrap()), ..Filter::default() },
        Filter { bucket: Some("second".parse().unwrap()), prefix: "a/".into(), ..Filter::default() },
        Filter { suffix: ".jpg".into(), names: vec!["s3:ObjectCreated:*".into()], ..Filter::default() },
        Filter { names: vec!["s3:ObjectRemoved:Delete".into()], ..Filter::default() },
    ];
    let mut watchers = Vec::new();
    for filter in &filters {
        watchers
            .push((filter.clone(), node.feed.watch(&permit(), filter.clone(), Some(Place::default())).await.unwrap()));
    }
    let writer = node.clone();
    let writing = async move {
        let mut last = 0;
        for number in 0..300 {
            let key = format!("{}/{number}{}", ["a", "b"][number % 2], [".jpg", ".txt"][number / 2 % 2]);
            last = writer.put(number % 3 % 2, &key).await;
        }
        last
    };
    let reading = async {
        // These start while it is written, at places of their own.
        let mut late = Vec::new();
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let after = Place { revision: node.cluster.status().revision / 2, ordinal: u16::MAX };
            late.push((after, node.feed.watch(&permit(), Filter::default(), Some(after)).await.unwrap()));
        }
        late
    };
    let (last, late) = tokio::join!(writing, reading);
    let all = node.all();
    for (filter, mut watcher) in watchers {
        let seen = events_until(&mut watcher, last).await;
        let expected: Vec<Event> = all.iter().filter(|event| filter.wants(&event.row)).cloned().collect();
        assert_eq!(places(&seen), places(&expected), "{filter:?}");
        assert!(seen.iter().all(|event| event.row.last), "each is all of its commit");
    }
    for (after, mut watcher) in late {
        let seen = events_until(&mut watcher, last).await;
        let expected: Vec<Event> = all.iter().filter(|event| event.place > after).cloned().collect();
        assert_eq!(places(&seen), places(&expected), "after {after:?}");
    }
}

#[tokio::test]
async fn what_is_committed_before_the_reader_of_rows_runs_is_handed_out_too() {
    let node = Node::start().await;
    let last = node.put(0, "before").await;
    // On this thread the reader begins only when the test first waits.
    let feed = Feed::start(node.cluster.clone(), &TaskTracker::new(), CancellationToken::new());
    assert_eq!(*feed.hub.position.borrow(), last, "from here on, whenever it begins");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_watcher_catches_up_from_rows_and_holds_nobody_up() {
    let node = Node::start().await;
    let mut slow = node.feed.watch(&permit(), Filter::default(), None).await.unwrap();
    let mut quick = node.feed.watch(&permit(), Filter::default(), None).await.unwrap();
    let mut last = 0;
    let mut seen = Vec::new();
    for number in 0..(QUEUE_COMMITS_MAX * 3) {
        last = node.put(0, &format!("k{number}")).await;
        seen.extend(events_until(&mut quick, last).await);
    }
    assert!(node.feed.counts().1 >= 1, "the slow one lost its queue");
    let caught_up = events_until(&mut slow, last).await;
    assert_eq!(places(&caught_up), places(&seen));
    assert_eq!(caught_up.len(), QUEUE_COMMITS_MAX * 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn reconnecting_anywhere_loses_nothing() {
    let node = Node::start().await;
    let mut random = StdRng::seed_from_u64(7);
    let (mut after, mut seen, mut last) = (Place::default(), Vec::new(), 0);
    for round in 0..40 {
        for number in 0..random.random_range(1..5) {
            last = node.put(0, &format!("{round}-{number}")).await;
        }
        // Reads a little, and goes away.
        let mut watcher = node.feed.watch(&permit(), Filter::default(), Some(after)).await.unwrap();
        for _ in 0..random.random_range(0..4) {
            match watcher.next(Instant::now() + Duration::from_millis(20)).await.unwrap() {
                Next::Event(event) => {
                    after = event.place;
                    seen.push(*event);
                }
                Next::Mark(revision) => after = after.max(Place { revision, ordinal: u16::MAX }),
            }
        }
    }
    let mut watcher = node.feed.watch(&permit(), Filter::default(), Some(after)).await.unwrap();
    seen.extend(events_until(&mut watcher, last).await);
    assert_eq!(places(&seen), places(&node.all()));
    drop(watcher);
    assert_eq!(node.feed.counts().0, 0, "whoever goes leaves no seat");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_compacted_is_said_and_not_skipped() {
    let node = Node::start().await;
    for number in 0..20 {
        node.put(0, &format!("k{number}")).await;
    }
    let all = node.all();
    let (_, reply) = node.propose(Op::TrimEvents(TrimEvents { before_ms: 0, keep_bytes: 0, rows: 10 })).await;
    assert!(matches!(reply, Reply::Trimmed { rows: 10, .. }), "{reply:?}");
    let floor = all[9].place.revision;
    let refused = node.feed.watch(&permit(), Filter::default(), Some(all[3].place)).await.err().unwrap();
    assert!(matches!(refused, Error::Refused(Refusal::Compacted { oldest }) if oldest == floor), "{refused}");
    let after = Place { revision: floor, ordinal: u16::MAX };
    let mut watcher = node.feed.watch(&permit(), Filter::default(), Some(after)).await.unwrap();
    let seen = events_until(&mut watcher, all.last().unwrap().place.revision).await;
    assert_eq!(places(&seen), places(&all[10..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_of_many_events_comes_together_with_its_last_marked() {
    let node = Node::start().await;
    for number in 0..50 {
        node.put(0, &format!("k{number}")).await;
    }
    let filter = Filter { prefix: "k1".into(), ..Filter::default() };
    let mut some = node.feed.watch(&permit(), filter, None).await.unwrap();
    let entries = (0..50).map(|number| holdfast_core::command::DeleteEntry {
        key: format!("k{number}").parse().unwrap(),
        version: None,
        if_match: Vec::new(),
        if_size: None,
        if_modified_ms: None,
    });
    let nonce = holdfast_core::id::BlobId::new(1, now_ms(), rand::random());
    let delete =
        holdfast_core::command::DeleteObjects { bucket: node.buckets[0].clone(), entries: entries.collect(), nonce };
    let (revision, _) = node.propose(Op::DeleteObjects(delete)).await;
    let seen = events_until(&mut some, revision).await;
    assert_eq!(seen.len(), 11, "k1 and k10 to k19");
    assert_eq!(seen.iter().map(|event| event.place.revision).collect::<BTreeSet<_>>(), [revision].into());
    let marked: Vec<_> = seen.iter().map(|event| event.row.last).collect();
    assert!(marked[..10].iter().all(|last| !last) && marked[10], "{marked:?}");
}
