//! The cluster of one as a whole.

mod crash;
mod engine;
mod faults;
pub(super) mod faulty;
mod full_disk;
mod history;
mod peers;
pub(super) mod sample;
pub(super) mod sim;
mod snapshot;
mod speed;
mod world;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use holdfast_core::command::Command;
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::faulty::FaultyFiles;
use super::{Cluster, ClusterConfig, Consistency, Error, Kind, ProposeOptions};

/// Small segments, so that a test fills many.
const SEGMENT_BYTES: u64 = 1 << 20;

fn config(dir: &Path) -> ClusterConfig {
    ClusterConfig { segment_bytes: SEGMENT_BYTES, cache_bytes: 4 << 20, ..ClusterConfig::new(dir) }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

fn normal() -> ProposeOptions {
    ProposeOptions { deadline: soon(), frees_space: false }
}

fn frees() -> ProposeOptions {
    ProposeOptions { deadline: soon(), frees_space: true }
}

/// Opens a cluster; a new one gets the tests' bucket.
async fn open(config: ClusterConfig) -> Result<Cluster, Error> {
    let cluster = Cluster::open(config).await?;
    if cluster.identity().boots == 1 {
        propose(&cluster, sample::create_bucket(), normal()).await?;
    }
    Ok(cluster)
}

async fn propose(cluster: &Cluster, command: Command, options: ProposeOptions) -> Result<u64, Error> {
    let committed = cluster.propose(command, options).await?;
    assert!(sample::done(&committed.reply), "{:?}", committed.reply);
    Ok(committed.revision)
}

/// Opens what a node that was dropped a moment ago may still hold: a count of references says nothing about when the last
/// one has closed its files, and threads of the store, and a process that is being started by another test, may outlive it.
async fn open_when_let_go(config: ClusterConfig) -> Result<Cluster, Error> {
    const PATIENCE: u32 = 400;
    for _ in 0..PATIENCE {
        match Cluster::open(config.clone()).await {
            // Real time, also in a simulation.
            Err(Error::Store { .. } | Error::InUse { .. }) => std::thread::sleep(Duration::from_millis(5)),
            opened => return opened,
        }
    }
    Cluster::open(config).await
}

async fn put(cluster: &Cluster, key: &str, value: &[u8]) -> Result<u64, Error> {
    propose(cluster, sample::put(key, value), normal()).await
}

async fn value(cluster: &Cluster, key: &str) -> Option<Vec<u8>> {
    sample::value(&cluster.view(Consistency::Linearizable, soon()).await.unwrap(), key)
}

async fn close(cluster: Cluster) {
    cluster.shutdown(soon()).await.unwrap();
}

#[tokio::test]
async fn a_reply_means_that_every_later_view_shows_it() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = open(config(dir.path())).await.unwrap();
    assert!(cluster.is_ready());
    let mut before = 0;
    for number in 0..50 {
        let revision = put(&cluster, "key", &[number]).await.unwrap();
        assert!(revision > before, "revisions rise");
        before = revision;
        let view = cluster.view(Consistency::Linearizable, soon()).await.unwrap();
        assert_eq!(sample::value(&view, "key"), Some(vec![number]));
        assert_eq!(view.revision(), revision);
    }
    let status = cluster.status();
    assert_eq!((status.role.as_str(), status.leader, status.revision), ("Leader", Some(1), before));
    close(cluster).await;
}

#[tokio::test]
async fn a_view_does_not_change() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = open(config(dir.path())).await.unwrap();
    put(&cluster, "key", b"old").await.unwrap();
    let view = cluster.view(Consistency::Linearizable, soon()).await.unwrap();
    put(&cluster, "key", b"new").await.unwrap();
    assert_eq!(sample::value(&view, "key"), Some(b"old".to_vec()));
    assert_eq!(value(&cluster, "key").await, Some(b"new".to_vec()));
    close(cluster).await;
}

#[tokio::test]
async fn a_restart_keeps_state_revisions_and_identity() {
    let dir = tempfile::tempdir().unwrap();
    let (mut last, mut identity) = (0, None);
    for round in 0..4u8 {
        let cluster = open(config(dir.path())).await.unwrap();
        assert_eq!(cluster.identity().boots, u64::from(round) + 1);
        let id = (cluster.identity().cluster_id.clone(), cluster.identity().node_id);
        assert_eq!(*identity.get_or_insert(id.clone()), id);
        for earlier in 0..round {
            assert_eq!(value(&cluster, &format!("round-{earlier}")).await, Some(vec![earlier]));
        }
        let revision = put(&cluster, &format!("round-{round}"), &[round]).await.unwrap();
        assert!(revision > last);
        last = revision;
        close(cluster).await;
    }
}

#[tokio::test]
async fn a_directory_in_use_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = open(config(dir.path())).await.unwrap();
    let error = open(config(dir.path())).await.err().unwrap();
    assert!(matches!(error, Error::InUse { .. }), "{error}");
    close(cluster).await;
    close(open(config(dir.path())).await.unwrap()).await;
}

#[tokio::test]
async fn effects_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = open(config(dir.path())).await.unwrap();
    let mut effects = cluster.effects();
    put(&cluster, "key", b"value").await.unwrap();
    propose(&cluster, sample::append("key", 5, b"more"), normal()).await.unwrap();
    let told = tokio::time::timeout(Duration::from_secs(5), effects.recv()).await.unwrap().unwrap();
    assert!(!told.is_empty());
    close(cluster).await;
}

#[tokio::test]
async fn a_view_at_least_at_a_revision_waits_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Arc::new(open(config(dir.path())).await.unwrap());
    let revision = put(&cluster, "key", b"one").await.unwrap();
    let waiter = cluster.view(Consistency::AtLeast(revision + 1), soon());
    let (view, _) = tokio::join!(waiter, put(&cluster, "key", b"two"));
    assert_eq!(sample::value(&view.unwrap(), "key"), Some(b"two".to_vec()));
    let late = Instant::now() + Duration::from_millis(50);
    let error = cluster.view(Consistency::AtLeast(revision + 100), late).await.err().unwrap();
    assert_eq!(error.kind(), Kind::Unavailable);
    cluster.shutdown(soon()).await.unwrap();
}

#[tokio::test]
async fn a_command_that_is_too_large_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = open(config(dir.path())).await.unwrap();
    let error = put(&cluster, "key", &vec![0; SEGMENT_BYTES as usize]).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }) && error.kind() == Kind::Invalid);
    put(&cluster, "key", &vec![0; SEGMENT_BYTES as usize / 4 - 500]).await.unwrap();
    close(cluster).await;
}

async fn open_faulty(dir: &Path) -> (Cluster, FaultyFiles) {
    let files = FaultyFiles::new();
    let cluster = open(ClusterConfig { files: Arc::new(files.clone()), ..config(dir) }).await.unwrap();
    (cluster, files)
}

#[tokio::test]
async fn a_deadline_after_the_hand_over_is_an_unknown_outcome() {
    let dir = tempfile::tempdir().unwrap();
    let (cluster, files) = open_faulty(dir.path()).await;
    let held = files.hold_syncs().await;
    let options = ProposeOptions { deadline: Instant::now() + Duration::from_millis(100), frees_space: false };
    let error = propose(&cluster, sample::put("key", b"value"), options).await.unwrap_err();
    assert!(matches!(error, Error::UnknownOutcome(_)), "{error}");
    assert_eq!(value(&cluster, "key").await, None, "nothing is visible before it is durable");
    drop(held);
    put(&cluster, "later", b"value").await.unwrap();
    assert_eq!(value(&cluster, "key").await, Some(b"value".to_vec()), "it ran to its end");
    close(cluster).await;
}

#[tokio::test]
async fn a_caller_that_is_gone_leaves_no_half_command() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Arc::new(open(config(dir.path())).await.unwrap());
    for number in 0..200 {
        let (key, own) = (format!("key-{number}"), cluster.clone());
        let mut task = JoinSet::new();
        task.spawn(async move { put(&own, &key, b"value").await });
        tokio::task::yield_now().await;
        if number % 3 == 0 {
            tokio::time::sleep(Duration::from_micros(number)).await;
        }
        task.shutdown().await;
    }
    put(&cluster, "last", b"value").await.unwrap();
    for number in 0..200 {
        // All of a command, or nothing of it.
        let found = value(&cluster, &format!("key-{number}")).await;
        assert!(found.is_none_or(|found| found == b"value"));
    }
    assert_eq!(cluster.status().in_flight_bytes, 0, "all that was held has been given back");
    cluster.shutdown(soon()).await.unwrap();
}

#[tokio::test]
async fn proposals_in_flight_are_bounded_and_wait_for_their_deadline() {
    let dir = tempfile::tempdir().unwrap();
    let files = FaultyFiles::new();
    let large = ClusterConfig { files: Arc::new(files.clone()), segment_bytes: 64 << 20, ..config(dir.path()) };
    let cluster = Arc::new(open(large).await.unwrap());
    let held = files.hold_syncs().await;
    let options = ProposeOptions { deadline: Instant::now() + Duration::from_millis(1500), frees_space: false };
    let mut tasks = JoinSet::new();
    for number in 0..24 {
        let cluster = cluster.clone();
        let command = sample::put(&format!("key-{number}"), &vec![1; 3_500_000]);
        tasks.spawn(async move { propose(&cluster, command, options).await });
    }
    let (mut unknown, mut busy) = (0, 0);
    for result in tasks.join_all().await {
        match result.unwrap_err() {
            Error::UnknownOutcome(_) => unknown += 1,
            Error::Busy => busy += 1,
            other => panic!("{other}"),
        }
    }
    let most = super::space::IN_FLIGHT_BYTES_MAX / 3_500_000;
    assert!(unknown <= most && busy >= 24 - most, "{unknown} entered, {busy} waited in vain");
    drop(held);
    put(&cluster, "after", b"value").await.unwrap();
    cluster.shutdown(soon()).await.unwrap();
}

#[tokio::test]
async fn failed_fsync_stops_the_node_and_acknowledges_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (cluster, files) = open_faulty(dir.path()).await;
    put(&cluster, "before", b"value").await.unwrap();
    files.0.fail_sync.store(true, Ordering::SeqCst);
    let error = put(&cluster, "during", b"value").await.unwrap_err();
    assert!(matches!(error, Error::UnknownOutcome(_) | Error::Fatal(_)), "{error}");
    let fatal = tokio::time::timeout(Duration::from_secs(5), cluster.fatal()).await.unwrap();
    assert!(fatal.to_string().contains("sync"), "{fatal}");
    files.0.fail_sync.store(false, Ordering::SeqCst);
    let error = put(&cluster, "after", b"value").await.unwrap_err();
    assert!(matches!(error, Error::Fatal(_)), "{error}");
    let view = cluster.view(Consistency::Local, soon()).await.unwrap();
    assert_eq!(sample::value(&view, "before"), Some(b"value".to_vec()));
    assert_eq!(sample::value(&view, "during"), None);
    assert!(!cluster.is_ready());
}
