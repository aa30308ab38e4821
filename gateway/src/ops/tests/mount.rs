//! The mount over a real cluster and a real directory.

use std::collections::BTreeMap;

use holdfast_core::command::mount::{CreateFile, FileRef, FileWrite, Origin, PatchFile, Step, StepOutcome, UnlinkFile};
use holdfast_core::id::{BlobId, ObjectId};
use holdfast_core::mount::{
    Commit, List, Map, MountId, Node as File, Open, Opened, PROTOCOL, ReadFile, SENT_BYTES_MAX, Stat,
};
use holdfast_core::rules::EXTENTS_PER_PAGE_MAX;

use super::*;

/// A mount: its session, and the number of its last commit.
struct Mount<'n> {
    node: &'n Node,
    client: MountId,
    session: Opened,
    number: u64,
}

impl<'n> Mount<'n> {
    async fn open(node: &'n Node) -> Self {
        let client = MountId(rand::random());
        let open = Open { protocol: PROTOCOL, client, owner: "a test".into(), ttl_ms: 60_000 };
        let session = node.gateway.mount_open(&root(), &bucket(), open).await.unwrap().value;
        Self { node, client, number: session.applied, session }
    }

    fn next(&self, steps: Vec<Step>) -> Commit {
        Commit {
            client: self.client,
            lease: self.session.lease,
            number: self.number + 1,
            steps,
            upload: None,
            directory: BTreeMap::new(),
            now: "1700000000.000000000".into(),
            id: self.number + 77,
        }
    }

    async fn commit(&mut self, steps: Vec<Step>, sent: &[u8]) -> Vec<StepOutcome> {
        let commit = self.next(steps);
        let sent = Bytes::copy_from_slice(sent);
        let done = self.node.gateway.mount_commit(&root(), &bucket(), commit, sent).await.unwrap();
        self.number += 1;
        done.value
    }

    /// The one file that a commit of one step tells of.
    async fn one(&mut self, step: Step, sent: &[u8]) -> File {
        match &self.commit(vec![step], sent).await[..] {
            [StepOutcome::Node(file)] => file.clone(),
            other => panic!("{other:?}"),
        }
    }

    async fn create(&mut self, key: &str) -> File {
        let create =
            CreateFile { key: key.parse().unwrap(), metadata: BTreeMap::new(), content_type: None, bytes: vec![] };
        self.one(Step::Create(create), &[]).await
    }
}

fn file(node: &File) -> FileRef {
    FileRef { key: node.key.clone(), object: node.object }
}

fn sent(offset: u64, length: u64, from: u64) -> FileWrite {
    FileWrite { offset, length, from: Origin::Sent(from) }
}

fn patch(of: &File, writes: Vec<FileWrite>) -> Step {
    Step::Patch(PatchFile { file: file(of), size: None, writes, set: BTreeMap::new(), cut: false, base: None })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_of_a_mount_is_done_once_however_often_it_comes() {
    let node = Node::start().await;
    let mut mount = Mount::open(&node).await;
    assert_eq!((mount.session.applied, mount.session.protocol, mount.session.versioned), (0, PROTOCOL, false));
    mount.create("dir/").await;
    let made = mount.create("dir/a").await;
    let commit = mount.next(vec![patch(&made, vec![sent(0, 5, 0)])]);
    let (node_of, sent_bytes) = (&node, Bytes::from_static(b"hello"));
    let send = |commit: Commit| {
        let bytes = sent_bytes.clone();
        async move { node_of.gateway.mount_commit(&root(), &bucket(), commit, bytes).await }
    };
    let first = send(commit.clone()).await.unwrap();
    let again = send(commit.clone()).await.unwrap();
    assert_eq!(first.value, again.value);
    assert_eq!(node.read("dir/a").await.unwrap(), b"hello");
    let gap = Commit { number: commit.number + 2, ..commit.clone() };
    assert!(matches!(refusal(send(gap).await), Refusal::InvalidArgument { .. }));
    send(Commit { number: commit.number + 1, ..commit.clone() }).await.unwrap();
    assert_eq!(refusal(send(commit.clone()).await), Refusal::Changed);
    // Another life of the client has the session now.
    let open = Open { protocol: PROTOCOL, client: mount.client, owner: String::new(), ttl_ms: 60_000 };
    let session = node.gateway.mount_open(&root(), &bucket(), open).await.unwrap().value;
    assert_eq!(session.applied, commit.number + 1);
    assert_eq!(refusal(send(Commit { number: commit.number + 2, ..commit }).await), Refusal::NoSuchLease);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_of_a_commit_are_answered_one_by_one() {
    let node = Node::start().await;
    let mut mount = Mount::open(&node).await;
    let made = mount.create("a").await;
    let gone = FileRef { object: ObjectId(u64::MAX), ..file(&made) };
    let create = |key: &str| {
        let (key, metadata) = (key.parse().unwrap(), BTreeMap::from([("mode".to_owned(), "33188".to_owned())]));
        Step::Create(CreateFile { key, metadata, content_type: None, bytes: vec![sent(0, 3, 2)] })
    };
    let outcomes = mount.commit(vec![create("a"), Step::Cut(gone), create("b")], b"xxabc").await;
    assert!(matches!(outcomes[0], StepOutcome::Refused(Refusal::FileExists)), "{outcomes:?}");
    assert!(matches!(outcomes[1], StepOutcome::Refused(Refusal::Changed)), "{outcomes:?}");
    assert!(matches!(&outcomes[2], StepOutcome::Node(node) if node.size == 3), "{outcomes:?}");
    assert_eq!(node.read("b").await.unwrap(), b"abc");
    let head = node.gateway.head(&root(), &get("b")).await.unwrap().value;
    assert_eq!(head.version().attributes.metadata["mode"], "33188");
    let paths = ["a", "b", "c", ""].map(str::to_owned).to_vec();
    let entries = node.gateway.mount_stat(&root(), &bucket(), Stat { paths }).await.unwrap().value;
    let shown: Vec<_> = entries.iter().map(|entry| (entry.file.is_some(), entry.directory.is_some())).collect();
    assert_eq!(shown, [(true, false), (true, false), (false, false), (false, true)]);
    let usage = node.gateway.mount_usage(&root(), &bucket()).await.unwrap().value;
    assert_eq!((usage.objects, usage.bytes), (2, 3));
    let too_long = Bytes::from(vec![0; SENT_BYTES_MAX + 1]);
    let refused = node.gateway.mount_commit(&root(), &bucket(), mount.next(vec![create("d")]), too_long).await;
    assert!(matches!(refusal(refused), Refusal::InvalidArgument { .. }));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn holes_and_patches_are_read_as_they_are_mapped() {
    let node = Node::start().await;
    let mut mount = Mount::open(&node).await;
    let made = mount.create("sparse").await;
    let big: Vec<u8> = (0..300_000u32).map(|n| (n % 251) as u8).collect();
    let writes = vec![sent(1 << 20, 300_000, 0), sent((1 << 20) + 1000, 10, 5)];
    let patched = mount.one(patch(&made, writes), &big).await;
    assert_eq!((patched.object, patched.size), (made.object, (1 << 20) + 300_000));
    assert_ne!(patched.generation, made.generation);
    let mut expected = vec![0; 1 << 20];
    expected.extend_from_slice(&big);
    expected[(1 << 20) + 1000..][..10].copy_from_slice(&big[5..15]);
    assert!(node.read("sparse").await.unwrap() == expected);
    let map = Map { file: file(&patched), offset: 100, length: u64::MAX };
    let mapped = node.gateway.mount_map(&root(), &bucket(), map).await.unwrap().value;
    assert_eq!(mapped.node.generation, patched.generation);
    let hole = mapped.extents[0];
    assert_eq!((hole.blob, hole.offset, hole.length), (BlobId::HOLE, 100, (1 << 20) - 100));
    assert_eq!(mapped.extents.len(), 4);
    // Nobody has read it yet.
    let head = node.gateway.head(&root(), &get("sparse")).await.unwrap().value;
    assert_eq!((head.version().shown_checksum(), head.version().sha256), (None, None));
    assert!(head.version().etag.contains('-'));
    let seen = node.gateway.inspect(&root(), &bucket(), &"sparse".parse().unwrap(), false).await.unwrap().value;
    assert_eq!(seen.versions[0].blobs.len(), 1);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_without_a_name_is_read_until_it_is_given_up() {
    let node = Node::start().await;
    let mut mount = Mount::open(&node).await;
    mount.create("t/").await;
    let made = mount.create("t/tmp").await;
    let patched = mount.one(patch(&made, vec![sent(0, 4, 0)]), b"kept").await;
    let unlink = UnlinkFile { file: file(&patched), keep: true, set: BTreeMap::new() };
    mount.commit(vec![Step::Unlink(unlink)], &[]).await;
    assert_eq!(refusal(node.read("t/tmp").await), Refusal::NoSuchKey);
    let without = FileRef { key: None, object: patched.object };
    let read = |generation| ReadFile { file: without.clone(), generation, offset: 1, length: 99 };
    let Done { value: (now, mut body), .. } =
        node.gateway.mount_read(&root(), &bucket(), read(Some(patched.generation))).await.unwrap();
    assert_eq!(
        (now.key.clone(), now.links, body.next().await.unwrap().unwrap()),
        (None, 0, Bytes::from_static(b"ept"))
    );
    // It is still written.
    let unnamed = File { key: None, ..now };
    let longer = mount.one(patch(&unnamed, vec![sent(4, 5, 0)]), b" here").await;
    assert_eq!(longer.size, 9);
    let stale = node.gateway.mount_read(&root(), &bucket(), read(Some(patched.generation))).await;
    assert_eq!(refusal(stale.map(|_| ())), Refusal::Changed);
    mount.commit(vec![Step::Release(patched.object)], &[]).await;
    let gone = node.gateway.mount_read(&root(), &bucket(), read(None)).await;
    assert_eq!(refusal(gone.map(|_| ())), Refusal::NoSuchKey);
    let list = List { prefix: "t/".into(), after: None, limit: 10, at: None };
    assert_eq!(node.gateway.mount_list(&root(), &bucket(), list).await.unwrap().value.nodes, []);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_is_nearly_full_is_compacted_before_a_commit_writes_to_it() {
    let node = Node::start().await;
    let mut mount = Mount::open(&node).await;
    let mut made = mount.create("random").await;
    // Every second block of 64 bytes of a file without holes, in three commits: more pieces than a page holds.
    let base: Vec<u8> = (0..200_000u32).map(|n| (n % 241) as u8).collect();
    made = mount.one(patch(&made, vec![sent(0, 200_000, 0)]), &base).await;
    let mut expected = base;
    for round in 0..4u64 {
        let bytes = [round as u8 + 1; 64];
        let places = (0..300).map(|n| (round * 300 + n) * 128);
        let writes: Vec<FileWrite> = places.clone().map(|at| sent(at, 64, 0)).collect();
        places.for_each(|at| expected[at as usize..][..64].copy_from_slice(&bytes));
        made = mount.one(patch(&made, writes), &bytes).await;
    }
    let map = Map { file: file(&made), offset: 0, length: u64::MAX };
    let mapped = node.gateway.mount_map(&root(), &bucket(), map).await.unwrap().value;
    assert!(mapped.extents.len() <= EXTENTS_PER_PAGE_MAX, "{}", mapped.extents.len());
    assert!(node.read("random").await.unwrap() == expected);
    node.stop().await;
}
