use super::super::conformance;
use super::*;

#[tokio::test]
async fn a_directory_passes_the_suite() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let count = std::sync::atomic::AtomicU64::new(0);
    let make = || {
        let number = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = directory.path().join(number.to_string());
        async move { Arc::new(Local::open(path).await.expect("opens")) as Arc<dyn Backend> }
    };
    conformance::run(make).await.expect("conformance");
}
