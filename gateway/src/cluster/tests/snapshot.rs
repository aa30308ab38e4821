//! Snapshots in files: out of one state, into another, damaged ones nowhere.

use openraft::storage::{RaftSnapshotBuilder as _, RaftStateMachine as _};

use super::*;
use crate::cluster::engine::{EngineView, put_applied};
use crate::cluster::machine::{self, Machine, SnapshotData};
use crate::cluster::raft::{LeaderId, LogId, SnapshotMeta, StoredMembership};
use crate::cluster::store::Store;
use crate::cluster::threads::Threads;
use holdfast_core::keyspace::Keyspace;
use holdfast_core::kv::{Batch, Kv as _};

struct Side {
    shared: Arc<machine::Shared>,
    machine: Machine,
}

fn open(dir: &Path) -> Side {
    let (store, _) = Store::open(dir, 4 << 20).unwrap();
    let shared = Arc::new(machine::Shared::new(store, None, Threads::default()));
    Side { machine: Machine::new(shared.clone()).unwrap(), shared }
}

/// A state that ends at entry `index`.
fn fill(side: &Side, rows: u32, index: u64) {
    let mut batch = Batch::default();
    for row in 0..rows {
        batch.put(Keyspace::Inline, row.to_be_bytes().to_vec(), vec![row as u8; 3000]);
    }
    let applied = LogId { leader_id: LeaderId { term: 2, node_id: 1 }, index };
    put_applied(&applied, Some(&StoredMembership::default()), &mut batch);
    side.shared.store.engine().commit(batch).unwrap();
}

async fn snapshot(side: &mut Side) -> (SnapshotMeta, EngineView) {
    let built = side.machine.get_snapshot_builder().await.build_snapshot().await.unwrap();
    let SnapshotData::View(view) = built.snapshot else { panic!("a view") };
    (built.meta, view)
}

fn row(side: &Side, row: u32) -> Option<bytes::Bytes> {
    use holdfast_core::kv::KvRead as _;
    side.shared.store.view().get(Keyspace::Inline, &row.to_be_bytes()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_file_replaces_the_state_and_survives_reopening() {
    let (from_dir, to_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (mut from, mut to) = (open(from_dir.path()), open(to_dir.path()));
    fill(&from, 2000, 70);
    fill(&to, 5, 3);
    let old_view = to.shared.store.view();
    let (meta, view) = snapshot(&mut from).await;
    let path = to.shared.store.snapshot_path();
    from.shared.store.export(&view, 70, &path).unwrap();
    to.machine.install_snapshot(&meta, SnapshotData::File(path.clone())).await.unwrap();
    assert_eq!(row(&to, 1999), Some(vec![1999_u32 as u8; 3000].into()));
    assert_eq!(to.shared.applied.get(), 70);
    assert!(!path.exists(), "the transferred file is gone");
    // A view from before still shows its own state.
    use holdfast_core::kv::KvRead as _;
    assert_eq!(old_view.get(Keyspace::Inline, &4u32.to_be_bytes()).unwrap(), Some(vec![4; 3000].into()));
    assert_eq!(old_view.get(Keyspace::Inline, &9u32.to_be_bytes()).unwrap(), None);
    drop((old_view, to));
    let mut to = open(to_dir.path());
    assert_eq!(row(&to, 1000), Some(vec![1000_u32 as u8; 3000].into()));
    assert_eq!(to.machine.applied_state().await.unwrap().0, meta.last_log_id);
    assert!(!to_dir.path().join("store-000001").exists() && to_dir.path().join("store-000002").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_snapshot_replaces_nothing() {
    let (from_dir, to_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (mut from, mut to) = (open(from_dir.path()), open(to_dir.path()));
    fill(&from, 1000, 70);
    fill(&to, 5, 3);
    let (meta, view) = snapshot(&mut from).await;
    let damages: [fn(&mut Vec<u8>); 3] =
        [|bytes| bytes[2_000_000] ^= 1, |bytes| bytes.truncate(2_500_000), |bytes| bytes.push(0)];
    for damage in damages {
        let path = to.shared.store.snapshot_path();
        from.shared.store.export(&view, 70, &path).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        damage(&mut bytes);
        std::fs::write(&path, bytes).unwrap();
        let error = to.machine.install_snapshot(&meta, SnapshotData::File(path)).await.unwrap_err();
        assert!(error.to_string().contains("snapshot"), "{error}");
        assert_eq!(row(&to, 4), Some(vec![4; 3000].into()), "the old state is in use");
        assert_eq!(row(&to, 5), None);
    }
    drop(to);
    let to = open(to_dir.path());
    assert_eq!((row(&to, 4).is_some(), row(&to, 5).is_some()), (true, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_installation_that_was_cut_short_leaves_the_old_state() {
    let dir = tempfile::tempdir().unwrap();
    let side = open(dir.path());
    fill(&side, 5, 3);
    drop(side);
    // As after a crash before CURRENT was replaced.
    drop(crate::cluster::Engine::open(&dir.path().join("store-000002"), 1 << 20).unwrap());
    std::fs::write(dir.path().join("snapshot-0"), b"half").unwrap();
    let side = open(dir.path());
    assert!(row(&side, 4).is_some());
    assert!(!dir.path().join("store-000002").exists() && !dir.path().join("snapshot-0").exists());
}
