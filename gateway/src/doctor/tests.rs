use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;

use super::*;
use crate::backend::faulty::{Fault, Faulty, Op, Rule};
use crate::backend::local::Local;
use crate::backend::memory::Memory;
use crate::backend::testing::Minio;
use crate::backend::*;

fn failed_checks(report: &Report) -> Vec<&'static str> {
    report.failures().map(|finding| finding.check).collect()
}

async fn is_empty(backend: &dyn Backend) -> bool {
    backend.list(ListOptions::default()).await.expect("lists").entries.is_empty()
}

#[tokio::test]
async fn sound_stores_are_fit_and_left_clean() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let local = Arc::new(Local::open(directory.path()).await.expect("opens")) as Arc<dyn Backend>;
    for backend in [Memory::shared(), local] {
        let report = check_backend(&*backend).await;
        assert!(report.is_fit(), "{report}");
        assert!(report.findings.iter().all(|finding| finding.verdict == Verdict::Ok), "{report}");
        assert!(is_empty(&*backend).await);
    }
}

#[tokio::test]
async fn minio_is_fit_and_checked_quickly() {
    let Some(minio) = Minio::start().await else { return };
    let store = minio.store().await;
    let report = check_backend(&*store).await;
    assert!(report.is_fit(), "{report}");
    assert_eq!(report.findings.len(), 11, "{report}");
    assert!(is_empty(&*store).await);
    // The promise is a second on an idle machine; tests share theirs.
    assert!(report.took < Duration::from_secs(10), "{report}");
}

/// A store that lies in one way.
#[derive(Debug)]
struct Liar {
    inner: Memory,
    lie: Lie,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lie {
    IgnoresConditions,
    ListsNothing,
    LosesReads,
    IgnoresRanges,
    KeepsDeleted,
    HasAnotherClock,
}

#[async_trait]
impl Backend for Liar {
    fn name(&self) -> &str {
        "liar"
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn put(&self, path: &ObjectPath, body: Body, options: PutOptions) -> Result<Stored> {
        let condition = if self.lie == Lie::IgnoresConditions { Condition::Overwrite } else { options.condition };
        self.inner.put(path, body, PutOptions { condition, ..options }).await
    }

    async fn get(&self, path: &ObjectPath, options: GetOptions) -> Result<Fetched> {
        match self.lie {
            Lie::LosesReads => Err(Error::NotFound { path: path.to_string() }),
            Lie::IgnoresRanges => self.inner.get(path, GetOptions { range: None, ..options }).await,
            _ => self.inner.get(path, options).await,
        }
    }

    async fn head(&self, path: &ObjectPath, options: HeadOptions) -> Result<Head> {
        let mut head = self.inner.head(path, options).await?;
        if self.lie == Lie::HasAnotherClock {
            head.last_modified -= Duration::from_secs(600);
        }
        Ok(head)
    }

    async fn delete(&self, path: &ObjectPath, options: DeleteOptions) -> Result<()> {
        if self.lie == Lie::KeepsDeleted {
            return Ok(());
        }
        self.inner.delete(path, options).await
    }

    async fn list(&self, options: ListOptions) -> Result<Page> {
        if self.lie == Lie::ListsNothing {
            return Ok(Page::default());
        }
        self.inner.list(options).await
    }

    async fn join(&self, sources: &[JoinSource], target: &ObjectPath, options: JoinOptions) -> Result<Stored> {
        self.inner.join(sources, target, options).await
    }

    async fn sweep_unfinished(&self, options: SweepOptions) -> Result<Swept> {
        self.inner.sweep_unfinished(options).await
    }

    async fn probe(&self, options: ProbeOptions) -> Result<Probe> {
        self.inner.probe(options).await
    }

    async fn close(&self) {}
}

#[tokio::test]
async fn each_lie_is_found_and_named() {
    for (lie, check, words) in [
        (Lie::IgnoresConditions, "create-only", "ignores If-None-Match"),
        (Lie::IgnoresConditions, "racing-creators", "of 8 racing creators 8 won"),
        (Lie::IgnoresConditions, "conditional-put", "ignores If-Match"),
        (Lie::ListsNothing, "list-after-write", "not listed right after its put"),
        (Lie::LosesReads, "read-after-write", "not found right after its put"),
        (Lie::IgnoresRanges, "ranges", "not what was asked for"),
        (Lie::KeepsDeleted, "delete", "found right after its delete"),
        (Lie::HasAnotherClock, "clock", "the clocks differ by 59"),
    ] {
        let report = check_backend(&Liar { inner: Memory::new(), lie }).await;
        let finding = report.failures().find(|finding| finding.check == check);
        assert!(finding.is_some_and(|finding| finding.text.contains(words)), "{lie:?} {check}:\n{report}");
        assert!(!report.is_fit());
    }
}

#[tokio::test]
async fn a_full_store_is_fit_and_an_unreachable_one_is_not() {
    let full = Faulty::scripted(
        Memory::shared(),
        vec![Rule::always(Op::Put, Fault::NoSpace), Rule::always(Op::Join, Fault::NoSpace)],
    );
    let report = check_backend(&full).await;
    assert!(report.is_fit(), "{report}");
    assert!(report.to_string().contains("the backend is full"), "{report}");
    let gone = Faulty::scripted(Memory::shared(), vec![Rule::always(Op::Probe, Fault::Before)]);
    let report = check_backend(&gone).await;
    assert_eq!(failed_checks(&report), ["reachable"]);
}

#[tokio::test]
async fn a_report_reads_well_and_serialises() {
    let report = Report {
        subject: "memory".into(),
        findings: vec![Finding { check: "clock", verdict: Verdict::Fail, text: "the clocks differ".into() }],
        took: Duration::from_millis(12),
    };
    insta::assert_snapshot!(report.to_string(), @r"
    memory
      FAIL clock              the clocks differ
    not fit, checked in 12 ms
    ");
    insta::assert_snapshot!(
        serde_json::to_string(&report).expect("serialises"),
        @r#"{"subject":"memory","fit":false,"findings":[{"check":"clock","verdict":"fail","text":"the clocks differ"}],"took_ms":12}"#
    );
}

fn set_mode(directory: &Path, mode: u32) {
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(mode)).expect("mode");
}

#[test]
fn data_directories_are_judged() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path();
    set_mode(path, 0o700);
    let report = check_data_directory(path, None);
    assert!(report.is_fit(), "{report}");
    assert_eq!(report.findings.len(), 5, "{report}");

    set_mode(path, 0o750);
    let report = check_data_directory(path, None);
    assert!(report.is_fit() && report.to_string().contains("others may look into it (mode 0750)"), "{report}");
    set_mode(path, 0o777);
    assert_eq!(failed_checks(&check_data_directory(path, None)), ["permissions"]);
    set_mode(path, 0o700);

    let lock = lock_data_directory(path).expect("free");
    assert_eq!(failed_checks(&check_data_directory(path, None)), ["lock"]);
    assert!(check_data_directory(path, Some(&lock)).is_fit());
    assert!(matches!(lock_data_directory(path), Err(LockError::InUse { .. })));
    drop(lock);
    assert!(check_data_directory(path, None).is_fit());
    let left: Vec<_> = std::fs::read_dir(path).expect("reads").map(|entry| entry.expect("entry").file_name()).collect();
    assert_eq!(left, ["lock"]);

    assert!(check_data_directory(&path.join("not/yet"), None).is_fit());
    assert!(!path.join("not").exists());
    assert_eq!(failed_checks(&check_data_directory(&path.join("lock"), None)), ["exists"]);
}
