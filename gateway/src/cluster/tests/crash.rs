//! Kills, and directories from which something is missing.

use std::io::{BufRead as _, BufReader};
use std::process::{Command as Process, Stdio};

use tokio::task::JoinSet;

use super::*;
use crate::cluster::{LOG_DIR, STATE_DIR};

const CHILD_DIR: &str = "HOLDFAST_TEST_CRASH_DIR";
const WRITERS: usize = 16;

/// Not a test by itself: the process that is killed. Prints each acknowledged command.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crash_child() {
    let Ok(dir) = std::env::var(CHILD_DIR) else { return };
    let (dir, round) = dir.split_once('#').unwrap();
    let small = ClusterConfig { snapshot_bytes: 256 << 10, log_keep_bytes: 512 << 10, ..config(Path::new(dir)) };
    let cluster = Arc::new(open(small).await.unwrap());
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let (cluster, round) = (cluster.clone(), round.to_owned());
        writers.spawn(async move {
            for number in 0.. {
                let key = format!("{round}-{writer}-{number}");
                put(&cluster, &key, key.repeat(20).as_bytes()).await.unwrap();
                println!("\nacknowledged {key}");
            }
        });
    }
    writers.join_all().await;
}

#[tokio::test]
async fn kill_9_loses_no_acknowledged_command() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = Vec::new();
    for round in 0..5 {
        let mut child = Process::new(std::env::current_exe().unwrap())
            .args(["--exact", "cluster::tests::crash::crash_child", "--nocapture"])
            .env(CHILD_DIR, format!("{}#{round}", dir.path().display()))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let until = acknowledged.len() + 700 + round * 331;
        for line in lines {
            let Ok(line) = line else { break };
            acknowledged.extend(line.strip_prefix("acknowledged ").map(str::to_owned));
            if acknowledged.len() == until {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(acknowledged.len() >= until, "the child wrote until it was killed");
    }
    let cluster = open(config(dir.path())).await.unwrap();
    let view = cluster.view(Consistency::Linearizable, soon()).await.unwrap();
    for key in &acknowledged {
        assert_eq!(sample::value(&view, key), Some(key.repeat(20).into_bytes()), "{key}");
    }
    println!("{} acknowledged commands survived 5 kills", acknowledged.len());
    close(cluster).await;
}

async fn refused(dir: &Path) -> String {
    let error = open(config(dir)).await.err().expect("the node does not start");
    assert_eq!(error.kind(), Kind::Corrupt, "{error}");
    error.to_string()
}

/// Writes enough that a snapshot is taken and the log is purged.
async fn purged_cluster(dir: &Path) {
    let small = ClusterConfig { snapshot_bytes: 100 << 10, log_keep_bytes: 0, ..config(dir) };
    let cluster = open(small).await.unwrap();
    for number in 0.. {
        put(&cluster, &format!("key-{}", number % 500), &[4; 20_000]).await.unwrap();
        if cluster.status().log.first_index > Some(20) {
            break;
        }
        assert!(number < 3000, "the log is purged");
    }
    close(cluster).await;
}

#[tokio::test]
async fn snapshots_let_the_log_go_and_a_restart_needs_it_not() {
    let dir = tempfile::tempdir().unwrap();
    purged_cluster(dir.path()).await;
    let cluster = open(config(dir.path())).await.unwrap();
    assert_eq!(value(&cluster, "key-3").await, Some(vec![4; 20_000]));
    assert!(cluster.status().snapshot_index.is_some());
    close(cluster).await;
}

#[tokio::test]
async fn missing_state_with_a_purged_log_refuses_to_start() {
    let dir = tempfile::tempdir().unwrap();
    purged_cluster(dir.path()).await;
    std::fs::remove_dir_all(dir.path().join(STATE_DIR)).unwrap();
    let text = refused(dir.path()).await;
    assert!(text.contains("the state in") && text.contains("is empty") && text.contains("begins at entry"), "{text}");
}

#[tokio::test]
async fn missing_state_with_a_whole_log_is_rebuilt() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = open(config(dir.path())).await.unwrap();
    for number in 0..200 {
        put(&cluster, &format!("key-{number}"), &[5]).await.unwrap();
    }
    close(cluster).await;
    std::fs::remove_dir_all(dir.path().join(STATE_DIR)).unwrap();
    let cluster = open(config(dir.path())).await.unwrap();
    for number in 0..200 {
        assert_eq!(value(&cluster, &format!("key-{number}")).await, Some(vec![5]));
    }
    close(cluster).await;
}

#[tokio::test]
async fn missing_snapshot_that_current_names_refuses_to_start() {
    let dir = tempfile::tempdir().unwrap();
    purged_cluster(dir.path()).await;
    std::fs::remove_dir_all(dir.path().join(STATE_DIR).join("store-000001")).unwrap();
    let text = refused(dir.path()).await;
    assert!(text.contains("the state is missing") && text.contains("store-000001"), "{text}");
}

#[tokio::test]
async fn missing_log_refuses_to_start() {
    let dir = tempfile::tempdir().unwrap();
    purged_cluster(dir.path()).await;
    std::fs::remove_dir_all(dir.path().join(LOG_DIR)).unwrap();
    let text = refused(dir.path()).await;
    assert!(text.contains("has run before"), "{text}");
    std::fs::create_dir(dir.path().join(LOG_DIR)).unwrap();
    let text = refused(dir.path()).await;
    assert!(text.contains("has run before"), "{text}");
}

#[tokio::test]
async fn missing_identity_refuses_to_start() {
    let dir = tempfile::tempdir().unwrap();
    purged_cluster(dir.path()).await;
    std::fs::remove_file(dir.path().join("identity.json")).unwrap();
    assert!(refused(dir.path()).await.contains("is missing but"));
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &to.join(entry.file_name()));
        } else {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

#[tokio::test]
async fn state_and_log_of_different_times_refuse_to_start() {
    let (dir, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let cluster = open(config(dir.path())).await.unwrap();
    put(&cluster, "key", b"old").await.unwrap();
    close(cluster).await;
    copy_dir(dir.path(), copy.path());
    let cluster = open(config(dir.path())).await.unwrap();
    for _ in 0..20 {
        put(&cluster, "key", b"new").await.unwrap();
    }
    close(cluster).await;
    std::fs::remove_dir_all(dir.path().join(LOG_DIR)).unwrap();
    copy_dir(&copy.path().join(LOG_DIR), &dir.path().join(LOG_DIR));
    let text = refused(dir.path()).await;
    assert!(text.contains("has lost acknowledged entries"), "{text}");
}
