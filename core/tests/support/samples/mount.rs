//! Samples of the mount: its protocol, sessions and commands.

use std::collections::BTreeMap;

use holdfast_core::command::mount::*;
use holdfast_core::command::*;
use holdfast_core::error::Error;
use holdfast_core::id::*;
use holdfast_core::keyspace::key;
use holdfast_core::mount::*;
use holdfast_core::record::*;

use super::{CONTENT, Sample, blob, bucket, extent, far, sample, stamp, text_map, version};

pub const CLIENT: MountId = MountId([7; 16]);

fn key_of(text: &str) -> ObjectKey {
    text.parse().unwrap()
}

pub fn patched() -> Version {
    Version { patched: Some(300), open: Some(CLIENT), crc_pending: Some(true), ..version() }
}

pub fn orphan() -> Orphan {
    Orphan { bucket: BucketId(5), client: CLIENT, version: patched(), modified_ms: 1_700_000_000_001 }
}

pub fn node() -> Node {
    Node {
        key: Some(key_of("dir/k")),
        object: ObjectId(7),
        size: 300,
        links: 2,
        metadata: text_map(&[("mode", "33188")]),
        modified_ms: 1_700_000_000_001,
        created_ms: 1_700_000_000_000,
        generation: 300,
        etag: "0123-p".into(),
        content_type: Some("text/plain".into()),
        allocated: 200,
    }
}

pub fn records() -> Vec<Sample> {
    let row = MountRow {
        bucket: bucket(),
        owner: "host-1".into(),
        lease: 258,
        applied: 3,
        id: 77,
        seen_ms: 1_700_000_000_000,
        orphans: 2,
        due_ms: Some(1_700_000_000_009),
        applied_at: Some(257),
        upload: Some(upload()),
        released: Some(true),
    };
    let mut samples = vec![
        sample("record-mount", row.clone()),
        sample("record-mount-plain", MountRow { due_ms: None, released: None, ..row }),
        sample("record-object", ObjectRow { links: 0, orphan: Some(orphan()) }),
        sample("record-object-plain", ObjectRow { links: 2, orphan: None }),
    ];
    samples.extend(calls());
    samples.extend(answers());
    samples
}

fn calls() -> Vec<Sample> {
    let file = file();
    let commit = Commit {
        client: CLIENT,
        lease: 258,
        number: 4,
        steps: steps(),
        upload: Some(upload()),
        directory: text_map(&[("mode", "16877")]),
        now: "1700000000.000000001".into(),
        id: 77,
    };
    let calls = [
        ("open", Call::Open(Open { protocol: 1, client: CLIENT, owner: "host-1".into(), ttl_ms: 30_000 })),
        ("stat", Call::Stat(Stat { paths: vec!["dir/k".into(), String::new()] })),
        ("list", Call::List(List { prefix: "dir/".into(), after: Some("dir/a".into()), limit: 9, at: Some(258) })),
        ("map", Call::Map(Map { file: file.clone(), offset: 1, length: 2 })),
        ("read", Call::Read(ReadFile { file, generation: Some(300), offset: 1, length: 2 })),
        ("commit", Call::Commit(commit)),
        ("usage", Call::Usage),
    ];
    calls.into_iter().map(|(name, call)| sample(&format!("mount-call-{name}"), call)).collect()
}

fn answers() -> Vec<Sample> {
    let hole = Extent { offset: 310, length: 10, blob: BlobId::HOLE, blob_offset: 0 };
    let (sent_bytes_max, revision) = (16 << 20, Some(257));
    let opened = Opened { lease: 258, applied: 3, protocol: 1, sent_bytes_max, versioned: true, revision };
    let answers = [
        ("opened", Answer::Opened(opened)),
        ("entries", Answer::Entries(vec![Entry { file: Some(node()), directory: None }])),
        ("listed", Answer::Listed(Listed { nodes: vec![node()], after: Some("dir/k".into()) })),
        ("mapped", Answer::Mapped(Mapped { node: node(), extents: vec![extent(1), hole] })),
        ("bytes", Answer::Bytes(node())),
        ("outcomes", Answer::Outcomes(outcomes())),
        ("usage", Answer::Usage { bytes: 300, objects: 2 }),
    ];
    answers.into_iter().map(|(name, answer)| sample(&format!("mount-answer-{name}"), answer)).collect()
}

fn outcomes() -> Vec<StepOutcome> {
    vec![StepOutcome::Done, StepOutcome::Node(node()), StepOutcome::Refused(Error::FileExists)]
}

fn file() -> FileRef {
    FileRef { key: Some(key_of("k")), object: ObjectId(7) }
}

fn upload() -> MountUpload {
    MountUpload { key: key_of("k"), upload: stamp() }
}

fn steps() -> Vec<Step> {
    let set: BTreeMap<String, Option<String>> =
        [("ctime".to_owned(), Some("1700000000.5".to_owned())), ("xattr".to_owned(), None)].into();
    let write = |offset, length, from| FileWrite { offset, length, from };
    let writes = vec![
        write(0, 10, Origin::Sent(5)),
        write(400, 20, Origin::Part(2, 7)),
        write(500, 30, Origin::Hole),
        write(600, 40, Origin::File(FileRef { key: None, object: ObjectId(9) }, 8)),
    ];
    let (key, metadata) = (key_of("dir/new"), text_map(&[("mode", "33188")]));
    let create = CreateFile { key, metadata, content_type: Some("text/plain".into()), bytes: vec![writes[0].clone()] };
    let (file, to) = (file(), key_of("dir/other"));
    vec![
        Step::Create(create),
        Step::Link(LinkFile { file: file.clone(), to: to.clone(), set: set.clone() }),
        Step::Unlink(UnlinkFile { file: file.clone(), keep: true, set: set.clone() }),
        Step::RemoveDirectory(FileRef { key: Some(key_of("dir/")), object: ObjectId(8) }),
        Step::Rename(RenameFile { file: file.clone(), to, onto: Onto::Exchange, keep: true, set: set.clone() }),
        Step::SetAttributes(SetFileAttributes { file: file.clone(), set: set.clone() }),
        Step::Patch(PatchFile { file: file.clone(), size: Some(300), writes, set, cut: true, base: Some(300) }),
        Step::Cut(file.clone()),
        Step::Release(ObjectId(9)),
        Step::Adopt(file),
    ]
}

pub fn ops() -> Vec<(&'static str, Op)> {
    let commit = MountCommit {
        bucket: bucket(),
        client: CLIENT,
        lease: 258,
        number: 4,
        steps: steps(),
        sent: Some(far()),
        upload: Some(upload()),
        nonce: blob(1),
        directory: text_map(&[("mode", "16877")]),
        now: "1700000000.000000001".into(),
        id: 77,
    };
    let (client, owner) = (CLIENT, "host-1".into());
    let blob = far().blob.unwrap();
    vec![
        ("open-mount", Op::OpenMount(OpenMount { bucket: bucket(), client, owner, ttl_ms: 30_000 })),
        ("mount-commit", Op::MountCommit(commit)),
        ("compact-page", Op::CompactPage(CompactPage { content: CONTENT, page: 9, extents: vec![extent(1)], blob })),
    ]
}

pub fn replies() -> Vec<Sample> {
    vec![
        sample("reply-mount-opened", Reply::MountOpened(MountOpened { lease: 258, applied: 3, revision: Some(257) })),
        sample("reply-mounted", Reply::Mounted(outcomes())),
    ]
}

pub fn errors() -> Vec<(&'static str, Error)> {
    vec![
        ("file-exists", Error::FileExists),
        ("not-empty", Error::NotEmpty),
        ("is-directory", Error::IsDirectory),
        ("not-directory", Error::NotDirectory),
        ("too-many-links", Error::TooManyLinks),
        ("no-such-mount", Error::NoSuchMount),
    ]
}

pub fn keys() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("key-mount", key::mount(CLIENT)),
        ("key-mount-of-lease", key::mount_of_lease(258)),
        ("key-mount-reply", key::mount_reply(CLIENT)),
        ("key-mount-open-file", key::mount_open_file(CLIENT, "a/b")),
        ("key-mount-count", key::mount_count()),
        ("key-mount-orphan", key::mount_orphan(CLIENT, ObjectId(7))),
        ("key-queue-compact", key::queued_page(CONTENT, 9)),
        ("key-queue-session", key::queued_session(1_700_000_000_000, CLIENT)),
    ]
}
