//! One value of each stored kind, with every field set; and the plainest form where fields may be absent.

mod indexes;
pub mod mount;
mod topics;

use std::collections::BTreeMap;

use holdfast_core::command::*;
use holdfast_core::error::Error;
use holdfast_core::event::{EventKind, EventRow, FeedRow};
use holdfast_core::id::*;
use holdfast_core::keyspace::key::{self, Queue};
use holdfast_core::lock::{EphemeralRow, LeaseLock, LeaseRow, LockMode, LockRow};
use holdfast_core::notify::TargetRow;
use holdfast_core::range::{RangeCountRow, RangeFamily, RangeRow, RangeWaitRow};
use holdfast_core::record::*;

pub fn blob(number: u8) -> BlobId {
    BlobId::new(3, 1_700_000_000_123, [number; 6])
}

pub const PLACE: Place = Place { revision: 258, ordinal: 3 };
pub const CONTENT: ContentId = ContentId { object: ObjectId(7), revision: 258 };

pub fn stamp() -> Stamp {
    Stamp { place: PLACE, nonce: blob(1) }
}

fn extent(number: u8) -> Extent {
    Extent { offset: 10, length: 300, blob: blob(number), blob_offset: 5 }
}

fn checksum() -> Checksum {
    Checksum { algorithm: ChecksumAlgorithm::Crc32c, kind: ChecksumType::Composite, value: vec![1, 2, 3, 4] }
}

fn text_map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn attributes() -> Attributes {
    Attributes {
        headers: Headers {
            content_type: Some("text/plain".into()),
            cache_control: Some("no-cache".into()),
            content_disposition: Some("inline".into()),
            content_encoding: Some("gzip".into()),
            content_language: Some("de".into()),
            expires: Some("Thu, 01 Dec 1994 16:00:00 GMT".into()),
        },
        metadata: text_map(&[("color", "grün"), ("shape", "round")]),
        tags: text_map(&[("tag", "value")]),
    }
}

fn settings() -> BucketSettings {
    BucketSettings {
        durability: Some(Durability::Quorum),
        inline_bytes: Some(1024),
        history_ms: Some(60_000),
        on_parse_error: Some(OnParseError::Strict),
    }
}

pub fn version() -> Version {
    Version {
        object: ObjectId(7),
        size: 300,
        etag: "0123456789abcdef0123456789abcdef".into(),
        body: Body::Single(extent(2)),
        attributes: attributes(),
        sha256: Some([9; 32]),
        crc64nvme: 0x0102_0304_0506_0708,
        checksum: Some(checksum()),
        parts: Some(PartsRef { content: CONTENT, count: 2 }),
        created_ms: 1_700_000_000_000,
        content_revision: 258,
        patched: None,
        open: None,
        crc_pending: None,
    }
}

fn history(version: Option<Version>) -> HistoryRow {
    HistoryRow { nonce: blob(1), null: true, modified_ms: 1_700_000_000_001, version, ended: Some(300) }
}

/// A record, its bytes, and the way back from bytes to both.
pub struct Sample {
    pub name: String,
    pub text: String,
    pub bytes: Vec<u8>,
    /// The value that some bytes decode to, as text, and its bytes; or why they do not.
    pub decode: Decode,
}

/// See [`Sample::decode`].
pub type Decode = fn(&[u8]) -> Result<(String, Vec<u8>), DecodeError>;

fn sample<R: Record + std::fmt::Debug>(name: &str, record: R) -> Sample {
    Sample {
        name: name.to_owned(),
        text: format!("{record:?}"),
        bytes: record.encode(),
        decode: |bytes| R::decode(bytes).map(|record| (format!("{record:?}"), record.encode())),
    }
}

pub fn records() -> Vec<Sample> {
    let all = [
        records_of_names(),
        records_of_content(),
        records_of_state(),
        records_of_locks_and_events(),
        records_of_ranges(),
        topics::records(),
        indexes::records(),
        mount::records(),
    ];
    all.into_iter().flatten().collect()
}

fn records_of_ranges() -> Vec<Sample> {
    let wait = RangeWaitRow {
        lease: 258,
        owner: 7,
        family: RangeFamily::Fcntl,
        mode: LockMode::Shared,
        start: 10,
        end: u64::MAX,
        pid: 4711,
        ticket: 9,
        asker: Some(4712),
    };
    let wait_plain = RangeWaitRow { asker: None, ..wait.clone() };
    vec![
        sample("record-range", RangeRow { end: 299, mode: LockMode::Shared, pid: 4711, token: 260 }),
        sample("record-range-wait", wait),
        sample("record-range-wait-plain", wait_plain),
        sample("record-range-count", RangeCountRow { rows: 3 }),
    ]
}

fn records_of_locks_and_events() -> Vec<Sample> {
    let lock = LeaseLock { name: "a/b".into(), mode: LockMode::Shared, token: Some(260), wait_ms: 10_000 };
    let lease = LeaseRow { owner: "host-1".into(), ttl_ms: 30_000, renewals: 3, lock: Some(lock), keys: 2 };
    let event = EventRow {
        kind: EventKind::Put,
        at_ms: 1_700_000_000_001,
        request: RequestId::new(1_700_000_000_000, [8; 10]),
        last: true,
        bucket: Some("abc".parse().unwrap()),
        key: Some("k".into()),
        version: Some(VersionId::Stamp(stamp())),
        size: Some(300),
        etag: Some("0123".into()),
        source: Some("old".into()),
        token: Some(260),
        owner: Some("host-1".into()),
        object: Some(ObjectId(7)),
    };
    let target = TargetRow {
        id: 258,
        settings: b"{}".to_vec(),
        cursor: PLACE,
        delivered: 300,
        dead_lettered: 2,
        lost: 1,
        problem: Some("refused".into()),
        changed: 260,
    };
    vec![
        sample("record-lock", LockRow { holders: 2, waiters: 1, shared: true }),
        sample("record-lease", lease),
        sample("record-ephemeral", EphemeralRow { value: b"10.0.0.1:80".to_vec(), lease: 258, revision: 260 }),
        sample("record-event", event.clone()),
        sample("record-event-plain", EventRow { object: None, ..event }),
        sample("record-target", target),
        sample("record-feed", FeedRow { floor: 258, rows: 3, bytes: 400, floor_ordinal: 4 }),
    ]
}

fn records_of_names() -> Vec<Sample> {
    let plain = Version {
        body: Body::Empty,
        attributes: Attributes::default(),
        sha256: None,
        checksum: None,
        parts: None,
        ..version()
    };
    let bucket = BucketRow {
        id: BucketId(5),
        created_ms: 1_700_000_000_000,
        versioning: Versioning::Suspended,
        settings: settings(),
        usage: Usage { objects: 1, versions: 2, bytes: 300, uploads: 4 },
        changed: 258,
        indexes: Some(2),
    };
    vec![
        sample("record-bucket", bucket.clone()),
        sample("record-bucket-plain", BucketRow { settings: BucketSettings::default(), indexes: None, ..bucket }),
        sample(
            "record-name",
            NameRow {
                place: PLACE,
                object: ObjectId(7),
                size: 300,
                etag: "0123456789abcdef0123456789abcdef-2".into(),
                modified_ms: 1_700_000_000_001,
                null: false,
                checksum: ChecksumAlgorithm::Sha256,
                checksum_type: ChecksumType::Composite,
            },
        ),
        sample("record-version-patched", history(Some(mount::patched()))),
        sample("record-version-single", history(Some(version()))),
        sample("record-version-pages", history(Some(Version { body: Body::Pages(CONTENT), ..version() }))),
        sample("record-version-empty", HistoryRow { null: false, ended: None, ..history(Some(plain)) }),
        sample("record-version-marker", history(None)),
        sample("record-null-pointer", NullRow { place: PLACE }),
        sample("record-link", LinkRow { bucket: BucketId(5), key: "dir/é".into() }),
    ]
}

fn records_of_content() -> Vec<Sample> {
    let content = ContentRow {
        refs: 2,
        base: Some(ContentId { object: ObjectId(6), revision: 200 }),
        depth: 1,
        size: 600,
        extents: 2,
        parts_pages: 3,
        hole_bytes: Some(300),
    };
    vec![
        sample("record-content", content),
        sample("record-content-plain", ContentRow { hole_bytes: None, ..content }),
        sample("record-extent-page", PageRow { extents: vec![extent(1), extent(2)] }),
        sample(
            "record-upload",
            UploadRow {
                nonce: blob(1),
                initiated_ms: 1_700_000_000_000,
                attributes: attributes(),
                checksum: Some(ChecksumAlgorithm::Sha1),
                checksum_type: Some(ChecksumType::Composite),
                extra_extents: Some(3),
            },
        ),
        sample(
            "record-part",
            PartRow {
                extents: vec![extent(1)],
                size: 300,
                md5: [5; 16],
                crc64nvme: 77,
                checksum: Some(checksum()),
                modified_ms: 1_700_000_000_001,
                crc_pending: Some(true),
            },
        ),
        sample(
            "record-boundaries",
            BoundariesRow {
                parts: vec![
                    Boundary { number: 1, size: 5 << 20, checksum: Some(vec![1, 2, 3, 4]) },
                    Boundary { number: 10_000, size: 0, checksum: None },
                ],
            },
        ),
    ]
}

fn records_of_state() -> Vec<Sample> {
    vec![
        sample("record-finished-upload", FinishedRow { reply: Reply::Done.encode(), parts_md5: [6; 16] }),
        sample(
            "record-blob",
            BlobRow {
                length: 131_073,
                refs: 2,
                locations: vec![Location::Inline, Location::Path("partitions/abc/k.bin".into())],
                envelope: Envelope::None,
                crcs: vec![1, 2, 3, 4, 5, 6, 7, 8],
                condemned: Some(300),
            },
        ),
        sample(
            "record-state",
            StateRow {
                feature_level: 1,
                now_ms: 1_700_000_000_000,
                next_object: 8,
                replies: 12,
                replies_floor_ms: 1_699_999_000_000,
            },
        ),
        sample("record-reply", ReplyRow { reply: Reply::Done.encode(), revision: 258 }),
    ]
}

pub fn keys() -> Vec<(&'static str, Vec<u8>)> {
    [keys_of_objects_and_locks(), topics::keys(), indexes::keys(), mount::keys()].into_iter().flatten().collect()
}

fn keys_of_objects_and_locks() -> Vec<(&'static str, Vec<u8>)> {
    let bucket = BucketId(5);
    let object = "a\0é";
    vec![
        ("key-sys", key::sys("state")),
        ("key-lock", key::lock("a/b")),
        ("key-lock-holder", key::lock_holder("a/b", 260, 258)),
        ("key-lock-waiter", key::lock_waiter("a/b", 258)),
        ("key-lease", key::lease(258)),
        ("key-ephemeral", key::ephemeral("a/b")),
        ("key-ephemeral-link", key::ephemeral_link(258, "a/b")),
        ("key-range", key::range("a/b", RangeFamily::Flock, 258, 7, 10)),
        ("key-range-wait", key::range_wait("a/b", 260)),
        ("key-range-count", key::range_count(258)),
        ("key-range-count-of-file", key::range_count_of(258, "a/b")),
        ("key-range-wait-of-owner", key::range_wait_of(258, 7, 260, "a/b")),
        ("key-event", key::event(PLACE)),
        ("key-target", key::target("audit")),
        ("key-notification", key::notification(&"abc".parse().unwrap(), 258)),
        ("key-ended-notification", key::ended_notification(260, 258, &"abc".parse().unwrap())),
        ("key-bucket", key::bucket("abc")),
        ("key-document", key::document(bucket, 1)),
        ("key-history-floor", key::history_floor(bucket)),
        ("key-name", key::name(bucket, object)),
        ("key-history", key::history(bucket, object, PLACE)),
        ("key-history-prefix", key::history_prefix(bucket, object)),
        ("key-object", key::object(ObjectId(7))),
        ("key-content", key::content(CONTENT)),
        ("key-link", key::link(ObjectId(7), 2)),
        ("key-page", key::page(CONTENT, 9)),
        ("key-upload", key::upload(bucket, object, PLACE)),
        ("key-part", key::part(PLACE, 10_000)),
        ("key-boundaries", key::boundaries(CONTENT, 1)),
        ("key-finished", key::finished(PLACE)),
        ("key-blob", key::blob(blob(1))),
        ("key-blob-checksums", key::blob_checksums(blob(1), 2)),
        ("key-queue-ended", key::ended(1_700_000_000_000, bucket, object, PLACE)),
        ("key-queue-condemned", key::queued_blob(Queue::Condemned, 258, blob(1))),
        ("key-queue-join", key::queued_content(CONTENT)),
        ("key-queue-finished", key::queued_upload(1_700_000_000_000, PLACE)),
        ("key-queue-forgotten", key::queued_blob(Queue::Forgotten, 1_700_000_000_000, blob(1))),
        ("key-queue-digest", key::queued_digest(bucket, object, PLACE)),
        ("key-reply", key::reply(1_700_000_000_000, RequestId::new(1_700_000_000_000, [8; 10]))),
    ]
}

pub fn bucket() -> BucketRef {
    BucketRef { name: "abc".parse().unwrap(), id: BucketId(1) }
}

fn key(text: &str) -> ObjectKey {
    text.parse().unwrap()
}

fn target(text: &str) -> Target {
    let conditions = Conditions { if_match: vec![Match::Etag("0123".into())], if_none_match: true };
    Target { bucket: bucket(), key: key(text), conditions }
}

fn source() -> Source {
    let conditions = SourceConditions {
        if_match: vec![Match::Any],
        if_none_match: vec![Match::Etag("4567".into())],
        if_modified_since_ms: Some(1_700_000_000_000),
        if_unmodified_since_ms: Some(1_700_000_001_000),
    };
    Source {
        bucket: bucket(),
        key: key("k"),
        version: Some(VersionId::Stamp(stamp())),
        conditions,
        pinned: Some(PLACE),
        generation: None,
    }
}

fn digests() -> Digests {
    Digests { md5: [5; 16], sha256: [9; 32], crc64nvme: 77, checksum: Some(checksum()) }
}

fn far() -> NewContent {
    let blob = NewBlob { id: blob(2), place: NewPlace::Path("partitions/abc/k.bin".into()), crcs: vec![1, 2, 3, 4] };
    NewContent { size: 300, blob: Some(blob), digests: digests() }
}

fn inline() -> NewContent {
    let blob = NewBlob { id: blob(3), place: NewPlace::Inline(b"hello".as_slice().into()), crcs: vec![1, 2, 3, 4] };
    NewContent { size: 5, blob: Some(blob), digests: Digests { checksum: None, ..digests() } }
}

fn empty() -> NewContent {
    NewContent { size: 0, blob: None, digests: digests() }
}

fn upload() -> UploadRef {
    UploadRef { bucket: bucket(), key: key("k"), upload: stamp() }
}

/// Each mutation, some in two forms.
pub fn ops() -> Vec<(&'static str, Op)> {
    let all = [
        object_ops(),
        upload_and_job_ops(),
        lock_and_feed_ops(),
        range_ops(),
        topics::ops(),
        indexes::ops(),
        mount::ops(),
    ];
    all.into_iter().flatten().collect()
}

fn object_ops() -> Vec<(&'static str, Op)> {
    let nonce = blob(1);
    let put = PutObject { target: target("k"), content: far(), attributes: attributes(), nonce };
    let entry = DeleteEntry {
        key: key("k"),
        version: Some(VersionId::Null),
        if_match: vec![Match::Any],
        if_size: Some(300),
        if_modified_ms: Some(1_700_000_000_000),
    };
    let copy = CopyObject {
        source: source(),
        target: target("copy"),
        attributes: Some(attributes()),
        tags: Some(text_map(&[("tag", "value")])),
        checksum: Some(checksum()),
        nonce,
    };
    let plain = DeleteEntry { version: None, if_match: vec![], if_size: None, if_modified_ms: None, ..entry.clone() };
    vec![
        ("create-bucket", Op::CreateBucket(CreateBucket { name: bucket().name, settings: settings() })),
        ("delete-bucket", Op::DeleteBucket(bucket())),
        ("set-versioning", Op::SetVersioning(SetVersioning { bucket: bucket(), enabled: true })),
        (
            "set-document",
            Op::SetDocument(SetDocument { bucket: bucket(), kind: Document::Tags, document: Some(vec![1]) }),
        ),
        ("set-settings", Op::SetSettings(SetSettings { bucket: bucket(), settings: settings() })),
        ("put-object", Op::PutObject(put.clone())),
        ("put-object-inline", Op::PutObject(PutObject { content: inline(), ..put.clone() })),
        ("put-object-empty", Op::PutObject(PutObject { content: empty(), ..put })),
        ("delete-objects", Op::DeleteObjects(DeleteObjects { bucket: bucket(), entries: vec![entry, plain], nonce })),
        ("copy-object", Op::CopyObject(copy.clone())),
        (
            "copy-object-patched",
            Op::CopyObject(CopyObject { source: Source { generation: Some(300), ..source() }, ..copy }),
        ),
        (
            "rename-object",
            Op::RenameObject(RenameObject { source: source(), target: target("new"), prefix: false, nonce }),
        ),
        (
            "append-object",
            Op::AppendObject(AppendObject {
                target: target("k"),
                offset: 300,
                content: inline(),
                attributes: attributes(),
                nonce,
            }),
        ),
        (
            "set-tags",
            Op::SetTags(SetTags {
                bucket: bucket(),
                key: key("k"),
                version: Some(VersionId::Null),
                tags: text_map(&[("tag", "value")]),
            }),
        ),
    ]
}

fn upload_and_job_ops() -> Vec<(&'static str, Op)> {
    let nonce = blob(1);
    let part = CompletedPart { number: 1, etag: "0123".into(), checksum: Some(checksum()) };
    let joined = far().blob.unwrap();
    let (generation, crc64nvme) = (None, None);
    let (bucket_id, sha256) = (BucketId(1), Some([9; 32]));
    let digest = SetDigest { bucket: bucket_id, key: key("k"), place: PLACE, sha256, generation, crc64nvme };
    vec![
        (
            "create-upload",
            Op::CreateUpload(CreateUpload {
                bucket: bucket(),
                key: key("k"),
                attributes: attributes(),
                checksum: Some(ChecksumAlgorithm::Crc32),
                checksum_type: Some(ChecksumType::FullObject),
                nonce,
            }),
        ),
        ("put-part", Op::PutPart(PutPart { upload: upload(), number: 10_000, content: far() })),
        (
            "copy-part",
            Op::CopyPart(CopyPart {
                upload: upload(),
                number: 2,
                source: source(),
                offset: 10,
                length: 20,
                digests: digests(),
                crc_pending: Some(true),
            }),
        ),
        (
            "complete-upload",
            Op::CompleteUpload(CompleteUpload {
                target: target("k"),
                upload: stamp(),
                parts: vec![part],
                checksum: Some(checksum()),
                checksum_type: Some(ChecksumType::Composite),
                size: Some(300),
                nonce,
            }),
        ),
        ("abort-upload", Op::AbortUpload(upload())),
        ("condemn", Op::Condemn(Blobs { blobs: vec![blob(4), blob(5)] })),
        ("forget", Op::Forget(Blobs { blobs: vec![blob(4)] })),
        ("trim", Op::Trim(Trim { rows: 1000 })),
        ("join", Op::Join(Join { content: CONTENT, joined: vec![extent(1), extent(2)], blob: joined, size: 600 })),
        (
            "set-digest-patched",
            Op::SetDigest(SetDigest { generation: Some(300), crc64nvme: Some(77), ..digest.clone() }),
        ),
        ("set-digest", Op::SetDigest(digest)),
    ]
}

fn lock_and_feed_ops() -> Vec<(&'static str, Op)> {
    vec![
        (
            "acquire-lock",
            Op::AcquireLock(AcquireLock {
                name: "jobs/nightly".into(),
                mode: LockMode::Shared,
                owner: "host-1".into(),
                ttl_ms: 30_000,
                wait_ms: 10_000,
            }),
        ),
        (
            "renew-lease",
            Op::RenewLease(RenewLease { lease: 258, name: Some("jobs/nightly".into()), ttl_ms: Some(30_000) }),
        ),
        (
            "release-lease",
            Op::ReleaseLease(ReleaseLease { lease: 258, name: Some("jobs/nightly".into()), unless_granted: true }),
        ),
        ("expire-lease", Op::ExpireLease(ExpireLease { lease: 258, renewals: 3 })),
        ("grant-lease", Op::GrantLease(GrantLease { owner: "host-1".into(), ttl_ms: 30_000 })),
        (
            "put-ephemeral",
            Op::PutEphemeral(PutEphemeral {
                name: "services/api/1".into(),
                value: b"10.0.0.1:80".as_slice().into(),
                lease: 258,
                if_absent: true,
            }),
        ),
        ("remove-ephemeral", Op::RemoveEphemeral(RemoveEphemeral { name: "services/api/1".into() })),
        ("set-target", Op::SetTarget(SetTarget { name: "audit".into(), settings: b"{}".to_vec() })),
        ("remove-target", Op::RemoveTarget(RemoveTarget { name: "audit".into() })),
        (
            "advance-target",
            Op::AdvanceTarget(AdvanceTarget {
                name: "audit".into(),
                id: 258,
                from: PLACE,
                to: Place { revision: 300, ordinal: 1 },
                delivered: 10,
                dead_lettered: 2,
                lost: 1,
                problem: Some("refused".into()),
            }),
        ),
        ("trim-events", Op::TrimEvents(TrimEvents { before_ms: 1_700_000_000_000, keep_bytes: 1 << 30, rows: 1000 })),
    ]
}

fn range_ops() -> Vec<(&'static str, Op)> {
    let set = SetRange {
        resource: "abc/7".into(),
        lease: 258,
        owner: 7,
        family: RangeFamily::Fcntl,
        mode: Some(LockMode::Shared),
        start: 10,
        end: 299,
        ticket: Some(9),
        pid: 4711,
        asker: Some(4712),
    };
    let unlock = SetRange {
        family: RangeFamily::Flock,
        mode: None,
        start: 0,
        end: u64::MAX,
        ticket: None,
        asker: None,
        ..set.clone()
    };
    vec![
        ("set-range", Op::SetRange(set.clone())),
        ("set-range-plain", Op::SetRange(unlock)),
        ("cancel-range", Op::CancelRange(set)),
    ]
}

fn range_holder() -> RangeHolder {
    RangeHolder { lease: 258, owner: 7, pid: 4711, mode: LockMode::Exclusive, start: 10, end: 299 }
}

pub fn commands() -> Vec<Sample> {
    let request = RequestId::new(1_700_000_000_000, [8; 10]);
    let command = |op| Command { request, stamp_ms: 1_700_000_000_001, op, fences: None, extracted: None };
    let fences = Some(vec![Fence { name: "jobs/nightly".into(), token: 258 }]);
    let fenced = Command { fences, ..command(Op::Trim(Trim { rows: 1000 })) };
    let plain = ops().into_iter().map(|(name, op)| sample(&format!("command-{name}"), command(op)));
    let extracted = Command { extracted: Some(indexes::extracted()), ..fenced.clone() };
    plain.chain([sample("command-fenced", fenced), sample("command-extracted", extracted)]).collect()
}

pub fn replies() -> Vec<Sample> {
    let version = Some(VersionId::Stamp(stamp()));
    let written = Written {
        version,
        etag: "0123".into(),
        checksum: Some(checksum()),
        modified_ms: 1_700_000_000_001,
        size: 300,
        source_version: Some(VersionId::Null),
    };
    let part = PartWritten {
        etag: "0123".into(),
        modified_ms: 1_700_000_000_001,
        checksum: Some(checksum()),
        source_version: version,
    };
    let deleted = vec![
        Deleted { delete_marker: true, version, refused: vec![] },
        Deleted { delete_marker: false, version: None, refused: vec![Error::NoSuchKey] },
    ];
    vec![
        sample("reply-done", Reply::Done),
        sample("reply-bucket-created", Reply::BucketCreated(BucketId(5))),
        sample("reply-written", Reply::Written(written.clone())),
        sample("reply-written-plain", Reply::Written(Written { version: None, source_version: None, ..written })),
        sample("reply-deleted", Reply::Deleted(deleted)),
        sample("reply-renamed", Reply::Renamed(10_000)),
        sample("reply-upload-created", Reply::UploadCreated(stamp())),
        sample("reply-part-written", Reply::PartWritten(part)),
        sample("reply-trimmed", Reply::Trimmed { rows: 1000, more: true }),
        sample("reply-condemned", Reply::Condemned(vec![blob(4), blob(5)])),
        sample("reply-ranged", Reply::Ranged(Ranged { token: Some(260), wait: Some(259), held: Some(range_holder()) })),
        sample("reply-granted", Reply::Granted(Granted { lease: 258, token: Some(260), ttl_ms: 30_000 })),
    ]
}

/// Each refusal, as the reply that carries it.
pub fn errors() -> Vec<Sample> {
    let what = || "something".to_owned();
    let errors = [
        ("no-such-bucket", Error::NoSuchBucket),
        ("bucket-exists", Error::BucketExists),
        ("bucket-not-empty", Error::BucketNotEmpty),
        ("no-such-key", Error::NoSuchKey),
        ("no-such-version", Error::NoSuchVersion),
        ("is-delete-marker", Error::IsDeleteMarker),
        ("no-such-upload", Error::NoSuchUpload),
        ("invalid-part", Error::InvalidPart { number: 10_000 }),
        ("invalid-part-order", Error::InvalidPartOrder),
        ("part-too-small", Error::PartTooSmall { number: 1 }),
        ("too-large", Error::TooLarge),
        ("precondition-failed", Error::failed("If-Match")),
        ("content-mismatch", Error::ContentMismatch { what: what() }),
        ("invalid-range", Error::InvalidRange),
        ("invalid-write-offset", Error::InvalidWriteOffset { size: 300 }),
        ("too-many-extents", Error::TooManyExtents),
        ("too-many-rows", Error::TooManyRows { most: 10_000 }),
        ("invalid-argument", Error::InvalidArgument { what: what() }),
        ("blob-condemned", Error::BlobCondemned),
        ("expired", Error::Expired),
        ("changed", Error::Changed),
        ("not-built", Error::NotBuilt),
        ("denied", Error::Denied),
        ("copy-to-itself", Error::CopyToItself),
        ("invalid-tag", Error::InvalidTag { what: what() }),
        ("prefix-exists", Error::PrefixExists),
        ("lock-held", Error::LockHeld),
        ("queue-full", Error::QueueFull),
        ("no-such-lease", Error::NoSuchLease),
        ("fencing-token-stale", Error::FencingTokenStale { name: "jobs/nightly".into() }),
        ("compacted", Error::Compacted { oldest: 258 }),
        ("range-held", Error::RangeHeld { holder: range_holder() }),
        ("deadlock", Error::Deadlock),
        ("no-locks", Error::NoLocks),
        ("fence-lease-ended", Error::FenceLeaseEnded { lease: 258 }),
        ("no-such-target", Error::NoSuchTarget),
    ];
    let errors = errors.into_iter().chain(topics::errors()).chain(indexes::errors()).chain(mount::errors());
    errors.map(|(name, error)| sample(&format!("refused-{name}"), Reply::Refused(error))).collect()
}

pub fn all() -> Vec<Sample> {
    [records(), commands(), replies(), topics::replies(), mount::replies(), errors()].into_iter().flatten().collect()
}
