use std::io::ErrorKind as IoKind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::join_all;
use futures::{StreamExt, TryStreamExt, stream};
use tempfile::TempDir;

use super::super::conformance;
use super::super::error::{ErrorKind, chain};
use super::*;

struct Bench {
    local: Local,
    directory: TempDir,
}

impl Bench {
    async fn open() -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let local = Local::open(directory.path()).await.expect("opens");
        Bench { local, directory }
    }

    async fn put(&self, name: &str) -> Result<Stored> {
        self.local.put(&path(name), vec![7; 100].into(), PutOptions::default()).await
    }

    async fn is_there(&self, name: &str) -> bool {
        self.local.head(&path(name), HeadOptions::default()).await.is_ok()
    }

    fn fail_syncs(&self, kind: Option<IoKind>) {
        self.local.store.hooks.lock().expect("no panic").fail = kind;
    }

    /// What was synced since the last call.
    fn synced(&self) -> Vec<String> {
        std::mem::take(&mut self.local.store.hooks.lock().expect("no panic").synced)
    }

    fn temps(&self) -> usize {
        let entries = std::fs::read_dir(self.directory.path().join(".tmp")).expect("reads");
        entries.filter(|entry| entry.as_ref().expect("entry").file_name() != "lock").count()
    }
}

fn path(name: &str) -> ObjectPath {
    ObjectPath::new(name).expect("valid")
}

#[tokio::test]
async fn a_directory_passes_the_suite() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let count = AtomicU64::new(0);
    let make = || {
        let path = directory.path().join(count.fetch_add(1, Ordering::Relaxed).to_string());
        async move { Arc::new(Local::open(path).await.expect("opens")) as Arc<dyn Backend> }
    };
    conformance::run(make).await.expect("conformance");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_directory_passes_the_suite_on_many_threads() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let count = AtomicU64::new(0);
    let make = || {
        let path = directory.path().join(count.fetch_add(1, Ordering::Relaxed).to_string());
        async move { Arc::new(Local::open(path).await.expect("opens")) as Arc<dyn Backend> }
    };
    conformance::run(make).await.expect("conformance");
}

#[tokio::test]
async fn a_put_syncs_the_file_and_every_new_ancestor_directory() {
    let bench = Bench::open().await;
    bench.put("a/b/c").await.expect("stored");
    let mut synced = bench.synced();
    assert_eq!(synced.remove(0), "a/b/c", "the file, before it gets its name");
    synced.sort();
    assert_eq!(synced, ["", "a", "a/b"]);
    bench.put("a/b/d").await.expect("stored");
    assert_eq!(bench.synced(), ["a/b/d", "a/b"], "ancestors known to be durable are not synced again");
    // The directories go, come again, and must be synced again.
    for name in ["a/b/c", "a/b/d"] {
        bench.local.delete(&path(name), DeleteOptions::default()).await.expect("deleted");
    }
    assert_eq!(bench.synced(), ["a/b", ""], "the directory that still holds something, then the one that lost one");
    bench.put("a/b/c").await.expect("stored");
    let mut synced = bench.synced();
    synced.sort();
    assert_eq!(synced, ["", "a", "a/b", "a/b/c"]);
}

#[tokio::test]
async fn concurrent_puts_share_directory_syncs() {
    let bench = Bench::open().await;
    bench.put("d/first").await.expect("stored");
    bench.local.store.hooks.lock().expect("no panic").delay = Duration::from_millis(20);
    bench.synced();
    let names: Vec<String> = (0..100).map(|number| format!("d/{number}")).collect();
    for stored in join_all(names.iter().map(|name| bench.put(name))).await {
        stored.expect("stored");
    }
    let synced = bench.synced();
    let directory_syncs = synced.iter().filter(|what| *what == "d").count();
    assert!((1..=50).contains(&directory_syncs), "{directory_syncs} syncs of the directory for 100 puts");
}

#[tokio::test]
async fn a_failed_sync_closes_the_store_for_writes_and_not_for_reads() {
    let bench = Bench::open().await;
    bench.put("a/old").await.expect("stored");
    bench.fail_syncs(Some(IoKind::Other));
    let error = bench.put("a/new").await.expect_err("sync fails");
    assert!(matches!(error, Error::Poisoned { .. }), "{}", chain(&error));
    // A disk that works again proves nothing about what it lost.
    bench.fail_syncs(None);
    let error = bench.put("a/newer").await.expect_err("closed");
    assert_eq!(error.kind(), ErrorKind::Internal);
    assert!(error.to_string().contains("since a failed sync (sync of a/new"), "{error}");
    assert!(bench.local.delete(&path("a/old"), DeleteOptions::default()).await.is_err());
    assert!(bench.local.join(&[], &path("j"), JoinOptions::default()).await.is_err());
    assert!(bench.local.probe(ProbeOptions::default()).await.is_err());
    assert!(bench.is_there("a/old").await && !bench.is_there("a/new").await && !bench.is_there("a/newer").await);
    let fetched = bench.local.get(&path("a/old"), GetOptions::default()).await.expect("reads go on");
    assert_eq!(fetched.stream.try_collect::<Vec<_>>().await.expect("read").concat(), vec![7; 100]);
}

#[tokio::test]
async fn a_full_disk_is_no_failed_sync() {
    let bench = Bench::open().await;
    bench.fail_syncs(Some(IoKind::StorageFull));
    let error = bench.put("a/b").await.expect_err("full");
    assert!(error.is_no_space(), "{}", chain(&error));
    bench.fail_syncs(None);
    bench.put("a/b").await.expect("space returned");
    bench.local.close().await;
    assert_eq!(bench.temps(), 0);
}

#[tokio::test]
async fn unfinished_files_of_an_earlier_run_are_removed() {
    let bench = Bench::open().await;
    bench.put("a/b").await.expect("stored");
    let temps = bench.directory.path().join(".tmp");
    std::fs::write(temps.join("put-0123456789abcdef-7"), b"torn").expect("written");
    std::fs::write(temps.join("not ours"), b"kept").expect("written");
    // Somebody else is still open: it may be theirs.
    let second = Local::open(bench.directory.path()).await.expect("opens");
    assert_eq!(bench.temps(), 2);
    let options = SweepOptions { prefix: String::new(), older_than: Duration::from_secs(60), deadline: None };
    assert_eq!(second.sweep_unfinished(options).await.expect("sweeps"), Swept { removed: 0, kept: 1 });
    drop(second);
    let Bench { local, directory } = bench;
    drop(local);
    let local = Local::open(directory.path()).await.expect("opens");
    let bench = Bench { local, directory };
    assert_eq!(bench.temps(), 1);
    assert!(bench.is_there("a/b").await);
}

#[tokio::test]
async fn dropped_puts_leave_no_file_behind() {
    let bench = Bench::open().await;
    let pieces =
        stream::iter((0..5).map(|_| Ok::<_, std::io::Error>(vec![1; 1 << 20].into()))).chain(stream::pending());
    let options = PutOptions { deadline: Some(Instant::now() + Duration::from_millis(300)), ..PutOptions::default() };
    bench.local.put(&path("a"), Body::stream(pieces), options).await.expect_err("never ends");
    bench.local.close().await;
    assert_eq!(bench.temps(), 0);
}

#[tokio::test]
async fn no_name_and_no_link_leads_out_of_the_directory() {
    let bench = Bench::open().await;
    let outside = tempfile::tempdir().expect("temporary directory");
    std::fs::write(outside.path().join("secret"), b"secret").expect("written");
    std::os::unix::fs::symlink(outside.path(), bench.directory.path().join("link")).expect("link");
    std::os::unix::fs::symlink(outside.path().join("secret"), bench.directory.path().join("file")).expect("link");
    for name in ["link/secret", "file"] {
        let error = bench.local.get(&path(name), GetOptions::default()).await.expect_err("outside");
        assert!(matches!(error.kind(), ErrorKind::Denied | ErrorKind::NotFound), "{}", chain(&error));
    }
    bench.put("link/new").await.expect_err("outside");
    bench.local.delete(&path("link/secret"), DeleteOptions::default()).await.expect_err("outside");
    assert_eq!(std::fs::read_dir(outside.path()).expect("reads").count(), 1);
    let names = bench.local.list(ListOptions::default()).await.expect("lists").entries;
    assert!(names.is_empty(), "{names:?}");
    for prefix in ["../", "/etc/", "..", "link/"] {
        let listed = bench.local.list(ListOptions::under(prefix)).await;
        assert!(listed.is_err() || listed.is_ok_and(|page| page.entries.is_empty()), "{prefix}");
    }
}

#[tokio::test]
async fn empty_directories_are_removed() {
    let bench = Bench::open().await;
    for name in ["a/b/c/1", "a/b/c/2", "a/d"] {
        bench.put(name).await.expect("stored");
    }
    let exists = |name: &str| bench.directory.path().join(name).exists();
    let delete = async |name| bench.local.delete(&path(name), DeleteOptions::default()).await.expect("deleted");
    delete("a/b/c/1").await;
    assert!(exists("a/b/c"));
    delete("a/b/c/2").await;
    assert!(!exists("a/b") && exists("a"));
    delete("a/d").await;
    assert!(!exists("a") && exists(".tmp"));
}

#[tokio::test]
async fn a_new_directory_is_private_and_files_that_are_no_blobs_are_left_alone() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().expect("temporary directory");
    let inner = directory.path().join("new/store");
    let local = Local::open(&inner).await.expect("created");
    let mode = std::fs::metadata(&inner).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    std::fs::write(inner.join("bad\nname"), b"x").expect("written");
    local.put(&path("blob"), Body::empty(), PutOptions::default()).await.expect("stored");
    let names: Vec<String> = local
        .list(ListOptions::default())
        .await
        .expect("lists")
        .entries
        .iter()
        .map(|entry| entry.path.to_string())
        .collect();
    assert_eq!(names, ["blob"]);
}

#[tokio::test]
async fn a_name_below_a_blob_is_refused() {
    let bench = Bench::open().await;
    bench.put("a").await.expect("stored");
    let error = bench.put("a/b").await.expect_err("in the way");
    assert!(matches!(error, Error::Invalid { .. }), "{}", chain(&error));
}

#[tokio::test]
async fn a_directory_of_many_files_is_listed_page_by_page() {
    let bench = Bench::open().await;
    std::fs::create_dir_all(bench.directory.path().join("many")).expect("created");
    for number in 0..9000 {
        std::fs::write(bench.directory.path().join(format!("many/{number:05}")), b"").expect("written");
    }
    let mut options = ListOptions::under("many/");
    let (mut total, mut pages) = (0, 0);
    loop {
        let page = bench.local.list(options.clone()).await.expect("lists");
        assert_eq!(page.entries[0].path.as_str(), format!("many/{total:05}"));
        (total, pages) = (total + page.entries.len(), pages + 1);
        match page.next {
            Some(next) => options.start_after = Some(next),
            None => break,
        }
    }
    assert_eq!((total, pages), (9000, 9));
}
