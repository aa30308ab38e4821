//! A full disk: what goes on, what is refused, and that it ends by itself.

use std::path::Path;
use std::process::Command as Process;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::*;
use crate::cluster::space::{LOW_WATER_BYTES, PROBE, WORK_BYTES};

/// Waits until a normal proposal goes through again and returns how long that took.
async fn recovery(cluster: &Cluster) -> Duration {
    let begin = Instant::now();
    loop {
        match put(cluster, "recovered", b"value").await {
            Ok(_) => return begin.elapsed(),
            Err(Error::NoSpace { .. }) => tokio::time::sleep(Duration::from_millis(50)).await,
            Err(other) => panic!("{other}"),
        }
        assert!(begin.elapsed() < Duration::from_secs(10), "work resumes within 10 s");
    }
}

/// Waits until normal proposals are refused.
async fn refusal(cluster: &Cluster) -> Error {
    for _ in 0..200 {
        match put(cluster, "filler", &[1; 1000]).await {
            Ok(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            Err(error) => return error,
        }
    }
    panic!("a full disk refuses within 4 s");
}

async fn check_full(cluster: &Cluster) {
    let error = refusal(cluster).await;
    assert!(matches!(error, Error::NoSpace { .. }), "{error}");
    assert!(error.to_string().contains("the disk is full"), "{error}");
    assert_eq!(value(cluster, "kept").await, Some(b"value".to_vec()), "reads go on");
    for number in 0..50 {
        propose(cluster, sample::delete(&format!("old-{number}")), frees()).await.unwrap();
    }
    assert_eq!(value(cluster, "old-3").await, None, "deletes work");
    assert!(cluster.status().disk_full);
    assert!(cluster.status().fatal.is_none());
}

async fn prepare(cluster: &Cluster) {
    put(cluster, "kept", b"value").await.unwrap();
    for number in 0..60 {
        put(cluster, &format!("old-{number}"), &[2; 3000]).await.unwrap();
    }
}

#[tokio::test]
async fn full_disk_by_the_numbers_refuses_all_but_deletes_and_recovers() {
    let dir = tempfile::tempdir().unwrap();
    let (cluster, files) = open_faulty(dir.path()).await;
    prepare(&cluster).await;
    files.0.no_creation.store(true, Ordering::SeqCst);
    files.0.free_bytes.store(LOW_WATER_BYTES - 1, Ordering::SeqCst);
    check_full(&cluster).await;
    // Even the balloon is needed now.
    files.0.free_bytes.store(WORK_BYTES - 1, Ordering::SeqCst);
    tokio::time::sleep(3 * PROBE).await;
    assert!(!dir.path().join("balloon").exists(), "the balloon was given up");
    let error = propose(&cluster, sample::delete("old-55"), frees()).await.unwrap_err();
    assert!(matches!(error, Error::NoSpace { .. }), "nothing may enter when the store could not write: {error}");
    assert_eq!(value(&cluster, "kept").await, Some(b"value".to_vec()), "reads go on");
    files.0.no_creation.store(false, Ordering::SeqCst);
    files.0.free_bytes.store(u64::MAX, Ordering::SeqCst);
    let took = recovery(&cluster).await;
    println!("work resumed {took:?} after space returned");
    assert!(dir.path().join("balloon").exists(), "the balloon is back");
    close(cluster).await;
}

#[tokio::test]
async fn full_log_disk_lets_deletes_use_the_reserve() {
    let dir = tempfile::tempdir().unwrap();
    let (cluster, files) = open_faulty(dir.path()).await;
    prepare(&cluster).await;
    files.0.no_creation.store(true, Ordering::SeqCst);
    // The disk claims to have room, but nothing can be allocated: the log's own accounting refuses.
    let mut refused = None;
    for number in 0..4000 {
        let options = ProposeOptions { deadline: Instant::now() + Duration::from_millis(700), frees_space: false };
        if let Err(error) = propose(&cluster, sample::put(&format!("fill-{number}"), &[3; 3000]), options).await {
            refused = Some(error);
            break;
        }
    }
    assert!(matches!(refused, Some(Error::NoSpace { .. })), "{refused:?}");
    for number in 0..50 {
        propose(&cluster, sample::delete(&format!("old-{number}")), frees()).await.unwrap();
    }
    assert_eq!(value(&cluster, "kept").await, Some(b"value".to_vec()));
    assert!(cluster.status().fatal.is_none());
    files.0.no_creation.store(false, Ordering::SeqCst);
    recovery(&cluster).await;
    close(cluster).await;
}

/// A small file system of its own, or nothing when this machine does not let us mount one.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(bytes: u64) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let size = format!("size={bytes}");
        let mounted = Process::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(dir.path()).output();
        mounted.is_ok_and(|output| output.status.success()).then(|| Self(dir))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Process::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

/// Fills the disk until `left` bytes are free.
fn fill(disk: &SmallDisk, left: u64) {
    let stat = rustix::fs::statvfs(disk.path()).unwrap();
    let free = stat.f_bavail * stat.f_frsize;
    let file = std::fs::File::create(disk.path().join("others")).unwrap();
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, free - left).unwrap();
}

#[tokio::test]
async fn full_disk_on_a_real_file_system_refuses_all_but_deletes_and_recovers() {
    let Some(disk) = SmallDisk::new(400 << 20) else {
        println!("SKIPPED: this machine does not let us mount a tmpfs");
        return;
    };
    let data = disk.path().join("data");
    let cluster = open(config(&data)).await.unwrap();
    prepare(&cluster).await;
    fill(&disk, 4096);
    check_full(&cluster).await;
    close(cluster).await;
    // And a node starts on a full disk.
    let cluster = open(config(&data)).await.unwrap();
    assert_eq!(value(&cluster, "kept").await, Some(b"value".to_vec()));
    propose(&cluster, sample::delete("old-55"), frees()).await.unwrap();
    assert!(matches!(put(&cluster, "more", b"value").await, Err(Error::NoSpace { .. })));
    std::fs::remove_file(disk.path().join("others")).unwrap();
    let took = recovery(&cluster).await;
    println!("work resumed {took:?} after space returned");
    close(cluster).await;
}
