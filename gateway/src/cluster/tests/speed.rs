//! Numbers, printed; what is asserted does not depend on the machine.

use tokio::task::JoinSet;

use super::*;

/// `clients` propose small commands for a moment; returns commits, syncs and seconds.
async fn run(cluster: &Arc<Cluster>, clients: usize, each: usize) -> (u64, u64, f64) {
    let before = cluster.status().log;
    let begin = std::time::Instant::now();
    let mut tasks = JoinSet::new();
    for client in 0..clients {
        let cluster = cluster.clone();
        tasks.spawn(async move {
            for number in 0..each {
                put(&cluster, &format!("{clients}-{client}-{number}"), &[6; 200]).await.unwrap();
            }
        });
    }
    tasks.join_all().await;
    let after = cluster.status().log;
    let seconds = begin.elapsed().as_secs_f64();
    (after.entries_synced - before.entries_synced, after.syncs - before.syncs, seconds)
}

/// What the disk needs for one commit, for comparison.
fn sync_alone(dir: &Path) -> f64 {
    use std::os::unix::fs::FileExt as _;
    const SYNCS: u64 = 300;
    let file = std::fs::File::create(dir.join("alone")).unwrap();
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, 1 << 20).unwrap();
    let begin = std::time::Instant::now();
    for number in 0..SYNCS {
        file.write_all_at(&[7; 600], number * 600).unwrap();
        file.sync_data().unwrap();
    }
    begin.elapsed().as_secs_f64() * 1e6 / SYNCS as f64
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_commits_share_an_fsync_under_load() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Arc::new(open(ClusterConfig::new(dir.path())).await.unwrap());
    println!("write and sync alone: {:.0} us", sync_alone(dir.path()));
    for (clients, each) in [(1, 500), (16, 200), (128, 80), (1000, 20)] {
        let (commits, syncs, seconds) = run(&cluster, clients, each).await;
        println!(
            "{clients} clients: {:.0} commits/s, {:.1} commits per sync, {:.0} us per commit of one client",
            commits as f64 / seconds,
            commits as f64 / syncs as f64,
            seconds * 1e6 / each as f64
        );
        assert!(clients < 128 || syncs * 4 < commits, "{syncs} syncs for {commits} commits");
    }
    let begin = std::time::Instant::now();
    for _ in 0..20_000 {
        cluster.view(Consistency::Linearizable, soon()).await.unwrap();
    }
    println!("linearizable view: {:.2} us", begin.elapsed().as_secs_f64() * 1e6 / 20_000.0);
    cluster.shutdown(soon()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restart_with_100_000_entries() {
    const ENTRIES: usize = 100_000;
    const CLIENTS: usize = 500;
    let dir = tempfile::tempdir().unwrap();
    let keep_all = ClusterConfig { snapshot_bytes: u64::MAX, ..ClusterConfig::new(dir.path()) };
    let cluster = Arc::new(open(keep_all.clone()).await.unwrap());
    let (commits, _, seconds) = run(&cluster, CLIENTS, ENTRIES / CLIENTS).await;
    println!("{commits} commits in {seconds:.1} s");
    let revision = cluster.status().revision;
    cluster.shutdown(soon()).await.unwrap();
    drop(cluster);
    for what in ["state and log", "log alone"] {
        if what == "log alone" {
            std::fs::remove_dir_all(dir.path().join(super::super::STATE_DIR)).unwrap();
        }
        let begin = std::time::Instant::now();
        let cluster = open(keep_all.clone()).await.unwrap();
        println!("restart from {what}: {:.0} ms", begin.elapsed().as_secs_f64() * 1e3);
        assert!(cluster.status().revision >= revision);
        assert!(value(&cluster, &format!("{CLIENTS}-7-13")).await.is_some());
        close(cluster).await;
    }
}
