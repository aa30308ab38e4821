//! Random commands, most of them sensible: few keys, so that they collide, and now and then an argument that is stale,
//! wrong or impossible.

use std::collections::BTreeMap;

use holdfast_core::command::*;
use holdfast_core::id::*;
use holdfast_core::keyspace::{Keyspace, key, key::Queue};
use holdfast_core::kv::{Direction, KeyRange, KvRead, MemView};
use holdfast_core::record::*;
use holdfast_core::rules::BLOB_AGE_MS_MAX;

use crate::content::Content;
use crate::naive::{Bucket, Naive, Object, Row, Upload};
use crate::rows;
use crate::support::{Dice, START_MS, blob_id, crcs, entry, hex, source, target};

pub const BUCKETS: [&str; 3] = ["aaa", "bbb", "ccc"];
pub const KEYS: [&str; 16] = [
    "a",
    "a/",
    "a/b",
    "a/b/c",
    "a\0",
    "a\0b",
    "a/b\0",
    "a//",
    "b",
    "dir/1",
    "dir/2",
    "dir/sub/3",
    "d\u{10ffff}",
    "é/ü",
    "é",
    "z",
];
const PREFIXES: [&str; 5] = ["a/", "dir/", "dir/sub/", "new/", "é/"];
const ALGORITHMS: [ChecksumAlgorithm; 5] = [
    ChecksumAlgorithm::Crc32,
    ChecksumAlgorithm::Crc32c,
    ChecksumAlgorithm::Crc64Nvme,
    ChecksumAlgorithm::Sha1,
    ChecksumAlgorithm::Sha256,
];

/// What a seed dwells on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    Everything,
    Appends,
    Uploads,
    Renames,
}

/// A kind of command with its weight in each mood.
type Kind = ([u64; 4], fn(&mut Generator, &Naive, &MemView) -> Op);

const KINDS: [Kind; 21] = [
    ([2, 1, 1, 2], |generator, _, _| generator.create_bucket()),
    ([2, 1, 1, 3], |generator, naive, _| generator.delete_bucket(naive)),
    ([3, 1, 1, 1], |generator, naive, _| generator.set_versioning(naive)),
    ([1, 0, 0, 0], |generator, naive, _| generator.set_document(naive)),
    ([1, 1, 1, 1], |generator, naive, _| generator.set_settings(naive)),
    ([20, 4, 6, 30], |generator, naive, _| generator.put(naive)),
    ([15, 16, 8, 12], |generator, naive, _| generator.delete(naive)),
    ([8, 10, 5, 8], |generator, naive, _| generator.copy(naive)),
    ([7, 6, 3, 26], |generator, naive, _| generator.rename(naive)),
    ([9, 34, 4, 6], |generator, naive, _| generator.append(naive)),
    ([2, 1, 1, 1], |generator, naive, _| generator.set_tags(naive)),
    ([3, 1, 6, 1], |generator, naive, _| generator.create_upload(naive)),
    ([9, 3, 34, 3], |generator, naive, _| generator.put_part(naive)),
    ([4, 3, 10, 1], |generator, naive, _| generator.copy_part(naive)),
    ([5, 3, 14, 2], |generator, naive, _| generator.complete(naive)),
    ([1, 1, 1, 1], |generator, naive, _| generator.abort(naive)),
    ([2, 1, 1, 1], |generator, _, view| generator.condemn(view)),
    ([2, 3, 2, 2], |generator, _, view| generator.forget(view)),
    ([3, 6, 4, 4], |generator, _, _| generator.trim()),
    ([2, 7, 3, 1], |generator, _, view| generator.join(view)),
    ([1, 1, 1, 1], |generator, _, view| generator.set_digest(view)),
];

/// The commands of one seed.
#[derive(Debug)]
pub struct Generator {
    dice: Dice,
    mood: Mood,
    minted: u64,
    now_ms: u64,
    /// What the uploads of all commands put at their paths.
    pub uploaded: BTreeMap<BlobId, Content>,
}

impl Generator {
    pub fn new(seed: u64) -> Self {
        let mood = [Mood::Everything, Mood::Appends, Mood::Uploads, Mood::Renames][(seed % 4) as usize];
        Self { dice: Dice::new(seed), mood, minted: 0, now_ms: START_MS, uploaded: BTreeMap::new() }
    }

    /// The next command, given what is there.
    pub fn next(&mut self, naive: &Naive, view: &MemView) -> Command {
        self.now_ms += match self.dice.below(200) {
            0 => 30 * 60 * 1000,
            1 => BLOB_AGE_MS_MAX + 1000,
            2..=9 => 4 * 60 * 1000,
            _ => self.dice.below(3000),
        };
        // A proposer whose clock is behind.
        let stamp_ms = self.now_ms - if self.dice.once_in(10) { self.dice.below(5000) } else { 0 };
        self.minted += 1;
        let mut random = [0; 10];
        random[2..].copy_from_slice(&self.minted.to_be_bytes());
        Command {
            request: RequestId::new(stamp_ms, random),
            stamp_ms,
            op: self.op(naive, view),
            fences: None,
            extracted: None,
        }
    }

    fn op(&mut self, naive: &Naive, view: &MemView) -> Op {
        if naive.buckets.is_empty() {
            return self.create_bucket();
        }
        let weight = |kind: &Kind| kind.0[self.mood as usize];
        let mut at = self.dice.below(KINDS.iter().map(weight).sum());
        for kind in &KINDS {
            match at.checked_sub(kind.0[self.mood as usize]) {
                Some(rest) => at = rest,
                None => return kind.1(self, naive, view),
            }
        }
        unreachable!("the number is below the sum of the weights")
    }

    fn trim(&mut self) -> Op {
        Op::Trim(Trim { rows: *self.dice.pick(&[0, 1, 3, 1000, 1000, 1001]) })
    }

    fn set_versioning(&mut self, naive: &Naive) -> Op {
        let enabled = !self.dice.once_in(3);
        Op::SetVersioning(SetVersioning { bucket: self.bucket(naive), enabled })
    }

    fn set_settings(&mut self, naive: &Naive) -> Op {
        Op::SetSettings(SetSettings { bucket: self.bucket(naive), settings: self.settings() })
    }

    /// An empty bucket, if there is one.
    fn delete_bucket(&mut self, naive: &Naive) -> Op {
        let empty = naive.buckets.iter().find(|(_, bucket)| bucket.keys.is_empty());
        Op::DeleteBucket(match empty {
            Some((name, bucket)) => BucketRef { name: name.parse().unwrap(), id: bucket.id },
            None => self.bucket(naive),
        })
    }

    fn nonce(&mut self) -> BlobId {
        self.minted += 1;
        blob_id(self.now_ms, self.minted)
    }

    fn create_bucket(&mut self) -> Op {
        let name = self.dice.pick(&BUCKETS).parse().unwrap();
        Op::CreateBucket(CreateBucket { name, settings: self.settings() })
    }

    fn settings(&mut self) -> BucketSettings {
        BucketSettings {
            durability: self.dice.once_in(4).then_some(Durability::Quorum),
            inline_bytes: self.dice.once_in(4).then(|| self.dice.below(1 << 20)),
            history_ms: self.dice.once_in(2).then(|| *self.dice.pick(&[0, 1000, 60_000, 3_600_000])),
            on_parse_error: self.dice.once_in(4).then_some(OnParseError::Strict),
        }
    }

    fn bucket(&mut self, naive: &Naive) -> BucketRef {
        let name = match naive.buckets.len() as u64 {
            _ if self.dice.once_in(30) => *self.dice.pick(&BUCKETS),
            many => naive.buckets.keys().nth(self.dice.below(many) as usize).unwrap(),
        };
        let id = naive.buckets.get(name).map_or(BucketId(1), |bucket| bucket.id);
        let stale = u64::from(self.dice.once_in(60));
        BucketRef { name: name.parse().unwrap(), id: BucketId(id.0.wrapping_sub(stale)) }
    }

    fn key(&mut self) -> &'static str {
        // Half of the commands meet at three keys.
        let keys: &[&'static str] = match self.mood {
            Mood::Appends | Mood::Uploads => &KEYS[..3],
            _ if self.dice.once_in(2) => &KEYS[..3],
            _ => &KEYS,
        };
        self.dice.pick::<&str>(keys)
    }

    /// A key that has a row, if there is one.
    fn used_key(&mut self, bucket: Option<&Bucket>) -> String {
        match bucket.map(|bucket| &bucket.keys).filter(|keys| !keys.is_empty()) {
            Some(keys) if !self.dice.once_in(8) => {
                keys.keys().nth(self.dice.below(keys.len() as u64) as usize).unwrap().clone()
            }
            _ => self.key().to_owned(),
        }
    }

    fn version(&mut self, rows: &[Row]) -> VersionId {
        if rows.is_empty() || self.dice.once_in(12) {
            let place = Place { revision: self.dice.below(50), ordinal: 0 };
            return if self.dice.once_in(2) {
                VersionId::Null
            } else {
                VersionId::Stamp(Stamp { place, nonce: self.nonce() })
            };
        }
        self.dice.pick(rows).id()
    }

    fn attributes(&mut self) -> Attributes {
        let mut attributes = Attributes::default();
        if self.dice.once_in(2) {
            attributes.headers.content_type = Some("text/plain".into());
            attributes.metadata.insert("number".into(), self.minted.to_string());
        }
        attributes.tags = if self.dice.once_in(2) { self.tags() } else { BTreeMap::new() };
        attributes
    }

    fn tags(&mut self) -> BTreeMap<String, String> {
        (0..self.dice.below(3)).map(|tag| (format!("tag{tag}"), self.dice.below(9).to_string())).collect()
    }

    /// New bytes, uploaded.
    fn content(&mut self, large_once_in: u64) -> NewContent {
        let (seed, size) = match self.dice.below(60) {
            0..=5 => (0, 0),
            _ if self.dice.once_in(large_once_in) => match self.dice.below(12) {
                huge if huge == 0 || huge < 5 && self.mood == Mood::Appends => (self.dice.below(2) + 100, 70 << 20),
                _ => (self.dice.below(4) + 200, (5 << 20) + self.dice.below(2)),
            },
            6..=12 => (self.minted + 1000, 100_000 + self.dice.below(200_000)),
            _ => (self.minted + 1000, 1 + self.dice.below(300)),
        };
        self.minted += 1;
        let minted_ms = match self.dice.below(200) {
            0 => self.now_ms - BLOB_AGE_MS_MAX - 60_000,
            1 => self.now_ms + 60_000,
            _ => self.now_ms - self.dice.below(10_000),
        };
        let (mut id, mut content) = (blob_id(minted_ms, self.minted), Content::of(seed, size));
        // Two writers cannot mint the same id, but one may send its command again under another request.
        if self.dice.once_in(60) && !self.uploaded.is_empty() {
            let known = self.uploaded.iter().nth(self.dice.below(self.uploaded.len() as u64) as usize).unwrap();
            (id, content) = (*known.0, known.1.clone());
        }
        let size = content.len();
        self.uploaded.insert(id, content.clone());
        let checksum = self.dice.once_in(3).then(|| content.checksum(*self.dice.pick(&ALGORITHMS)));
        let place = if size < 400 && self.dice.once_in(2) {
            NewPlace::Inline(content.bytes().into())
        } else {
            NewPlace::Path(format!("partitions/{id}"))
        };
        let mut blob = NewBlob { id, place, crcs: crcs(size) };
        if self.dice.once_in(80) {
            blob.crcs.push(1);
        }
        let lost = self.dice.once_in(120);
        let digests = digests(&content, checksum);
        NewContent { size, blob: Some(blob).filter(|_| size > 0 && !lost), digests }
    }

    fn conditions(&mut self, live: Option<&Object>) -> Conditions {
        let mut conditions = Conditions::default();
        match self.dice.below(16) {
            0 => conditions.if_none_match = true,
            1 => conditions.if_match = vec![Match::Any],
            2 => conditions.if_match = vec![Match::Etag("0123".into())],
            3 | 4 => conditions.if_match = live.map(|live| Match::Etag(live.etag.clone())).into_iter().collect(),
            _ => {}
        }
        conditions
    }

    fn target(&mut self, naive: &Naive, bucket: &BucketRef, key: &str) -> Target {
        let live = naive.buckets.get(bucket.name.as_str()).and_then(|bucket| bucket.live(key));
        Target { conditions: self.conditions(live.map(|(_, object)| object)), ..target(bucket, key) }
    }

    fn source_conditions(&mut self, row: Option<&Row>) -> SourceConditions {
        let mut conditions = SourceConditions::default();
        let etag = row.and_then(|row| row.version.as_ref()).map_or("none".into(), |object| object.etag.clone());
        let modified_ms = row.map_or(self.now_ms, |row| row.modified_ms);
        if self.dice.once_in(8) {
            conditions.if_match =
                vec![self.dice.pick(&[Match::Any, Match::Etag(etag.clone()), Match::Etag("x".into())]).clone()];
        }
        if self.dice.once_in(12) {
            conditions.if_none_match = vec![self.dice.pick(&[Match::Etag(etag), Match::Etag("x".into())]).clone()];
        }
        if self.dice.once_in(12) {
            conditions.if_unmodified_since_ms = Some(modified_ms + self.dice.below(3000) - 1500);
        }
        if self.dice.once_in(12) {
            conditions.if_modified_since_ms = Some(modified_ms + self.dice.below(3000) - 1500);
        }
        conditions
    }

    fn source(&mut self, naive: &Naive) -> (Source, Option<Row>) {
        let bucket = self.bucket(naive);
        let found = naive.buckets.get(bucket.name.as_str());
        let key = self.used_key(found);
        let rows = found.and_then(|found| found.keys.get(&key)).map(Vec::as_slice).unwrap_or_default();
        let version = self.dice.once_in(3).then(|| self.version(rows));
        let row = match version {
            Some(version) => rows.iter().find(|row| row.id() == version),
            None => rows.last(),
        };
        let conditions = self.source_conditions(row);
        (Source { version, conditions, ..source(&bucket, &key) }, row.cloned())
    }

    /// The row that a proposer read a while ago: it may have ended since.
    fn pin(&mut self, naive: &Naive, source: &mut Source, row: &mut Option<Row>) {
        if self.dice.once_in(6) {
            let mut ended =
                naive.ended.iter().filter(|(at, _)| at.1 == source.bucket.id && at.2 == source.key.as_str());
            if let Some((_, (ended, _))) = ended.next_back() {
                *row = Some(ended.clone());
            }
        }
        source.pinned = row.as_ref().map(|row| row.place);
        if self.dice.once_in(40) {
            source.pinned = Some(Place { revision: 1, ordinal: 7 });
        }
    }

    fn set_document(&mut self, naive: &Naive) -> Op {
        let bucket = self.bucket(naive);
        let kind = *self.dice.pick(&[Document::Cors, Document::Tags]);
        let document = (!self.dice.once_in(3)).then(|| vec![self.dice.below(256) as u8; 3]);
        Op::SetDocument(SetDocument { bucket, kind, document })
    }

    fn put(&mut self, naive: &Naive) -> Op {
        let (bucket, key) = (self.bucket(naive), self.key());
        let (target, content) = (self.target(naive, &bucket, key), self.content(12));
        Op::PutObject(PutObject { target, content, attributes: self.attributes(), nonce: self.nonce() })
    }

    fn delete(&mut self, naive: &Naive) -> Op {
        let bucket = self.bucket(naive);
        let found = naive.buckets.get(bucket.name.as_str());
        let entries = if self.dice.once_in(3) { self.dice.below(6) } else { 1 };
        let entries = (0..entries).map(|_| self.delete_entry(found)).collect();
        Op::DeleteObjects(DeleteObjects { bucket, entries, nonce: self.nonce() })
    }

    fn delete_entry(&mut self, bucket: Option<&Bucket>) -> DeleteEntry {
        let key = self.used_key(bucket);
        let rows = bucket.and_then(|bucket| bucket.keys.get(&key)).map(Vec::as_slice).unwrap_or_default();
        let mut delete = entry(&key);
        delete.version = self.dice.once_in(2).then(|| self.version(rows));
        if let (true, Some(row)) = (self.dice.once_in(3), rows.last()) {
            delete.version = Some(row.id());
        }
        if self.dice.once_in(6) {
            let object = rows.last().and_then(|row| row.version.as_ref());
            let etag = object.map_or("x".into(), |object| object.etag.clone());
            delete.if_match = vec![self.dice.pick(&[Match::Any, Match::Etag(etag), Match::Etag("y".into())]).clone()];
            delete.if_size = self.dice.once_in(3).then(|| object.map_or(0, |object| object.content.len()));
            delete.if_modified_ms = self.dice.once_in(3).then(|| rows.last().map_or(0, |row| row.modified_ms));
        }
        delete
    }

    fn copy(&mut self, naive: &Naive) -> Op {
        let (mut source, mut row) = self.source(naive);
        let small =
            |row: &Option<Row>| row.as_ref().and_then(|row| row.version.clone()).filter(|v| v.content.len() < 6 << 20);
        let mut checksum = None;
        if self.dice.once_in(4) && small(&row).is_some() {
            self.pin(naive, &mut source, &mut row);
            checksum = small(&row).map(|object| object.content.checksum(*self.dice.pick(&ALGORITHMS)));
        }
        let bucket = if self.dice.once_in(3) { self.bucket(naive) } else { source.bucket.clone() };
        let key = if self.dice.once_in(5) { source.key.to_string() } else { self.key().to_owned() };
        Op::CopyObject(CopyObject {
            target: self.target(naive, &bucket, &key),
            attributes: self.dice.once_in(3).then(|| self.attributes()),
            tags: self.dice.once_in(3).then(|| self.tags()),
            checksum,
            nonce: self.nonce(),
            source,
        })
    }

    fn rename(&mut self, naive: &Naive) -> Op {
        let prefix = self.dice.once_in(2);
        let (mut source, _) = self.source(naive);
        if !self.dice.once_in(12) {
            source.version = None;
        }
        let bucket = if self.dice.once_in(20) { self.bucket(naive) } else { source.bucket.clone() };
        let mut key = self.key().to_owned();
        if prefix {
            source.key = self.dice.pick(&PREFIXES).parse().unwrap();
            key = (*self.dice.pick(&PREFIXES)).to_owned();
            if !self.dice.once_in(6) {
                source.conditions = SourceConditions::default();
            }
        }
        let mut target = self.target(naive, &bucket, &key);
        if prefix && !self.dice.once_in(6) {
            target.conditions = Conditions::default();
        }
        Op::RenameObject(RenameObject { source, target, prefix, nonce: self.nonce() })
    }

    fn append(&mut self, naive: &Naive) -> Op {
        let bucket = self.bucket(naive);
        let found = naive.buckets.get(bucket.name.as_str());
        let key = if self.dice.once_in(3) { self.key().to_owned() } else { self.used_key(found) };
        let size = found.and_then(|found| found.live(&key)).map_or(0, |(_, object)| object.content.len());
        let offset = if self.dice.once_in(12) { *self.dice.pick(&[0, 1, u64::MAX]) } else { size };
        let target = self.target(naive, &bucket, &key);
        let (content, attributes) = (self.content(3), self.attributes());
        Op::AppendObject(AppendObject { target, offset, content, attributes, nonce: self.nonce() })
    }

    fn set_tags(&mut self, naive: &Naive) -> Op {
        let (source, _) = self.source(naive);
        let tags = self.tags();
        Op::SetTags(SetTags { bucket: source.bucket, key: source.key, version: source.version, tags })
    }

    fn create_upload(&mut self, naive: &Naive) -> Op {
        let (bucket, key, attributes) = (self.bucket(naive), self.key().parse().unwrap(), self.attributes());
        let checksum = self.dice.once_in(2).then(|| *self.dice.pick(&ALGORITHMS));
        let kinds: &[ChecksumType] = match checksum {
            None | Some(ChecksumAlgorithm::Crc64Nvme) => &[ChecksumType::FullObject],
            Some(ChecksumAlgorithm::Sha1 | ChecksumAlgorithm::Sha256) => &[ChecksumType::Composite],
            Some(_) => &[ChecksumType::FullObject, ChecksumType::Composite],
        };
        let checksum_type = self.dice.once_in(2).then(|| *self.dice.pick(kinds));
        Op::CreateUpload(CreateUpload { bucket, key, attributes, checksum, checksum_type, nonce: self.nonce() })
    }

    /// An upload in progress, if there is one.
    fn upload<'n>(&mut self, naive: &'n Naive) -> (UploadRef, Option<&'n Upload>) {
        let all: Vec<_> = naive
            .buckets
            .iter()
            .flat_map(|(name, bucket)| bucket.uploads.iter().map(move |upload| (name, bucket.id, upload)))
            .collect();
        if all.is_empty() || self.dice.once_in(30) {
            let upload = UploadId { place: Place { revision: 2, ordinal: 0 }, nonce: self.nonce() };
            return (UploadRef { bucket: self.bucket(naive), key: self.key().parse().unwrap(), upload }, None);
        }
        // The oldest are met most often, so that some gather many parts.
        let at = self.dice.below(all.len() as u64).min(self.dice.below(all.len() as u64));
        let (name, id, ((key, place), upload)) = all[at as usize];
        let bucket = BucketRef { name: name.parse().unwrap(), id };
        let id = UploadId { place: *place, nonce: upload.nonce };
        (UploadRef { bucket, key: key.parse().unwrap(), upload: id }, Some(upload))
    }

    fn part_number(&mut self) -> u16 {
        match self.dice.below(60) {
            0 => 0,
            1 => 10_001,
            _ => *self.dice.pick(&[1, 1, 1, 2, 2, 2, 3, 7, 10_000]),
        }
    }

    fn part_checksum(&mut self, upload: Option<&Upload>, content: &Content) -> Option<Checksum> {
        let declared = upload.and_then(|upload| upload.checksum).filter(|_| !self.dice.once_in(30));
        declared.map(|algorithm| content.checksum(algorithm))
    }

    fn put_part(&mut self, naive: &Naive) -> Op {
        let (upload_ref, upload) = self.upload(naive);
        let mut content = self.content(2);
        let bytes = content.blob.as_ref().map(|blob| self.uploaded[&blob.id].clone()).unwrap_or_default();
        if bytes.len() == content.size {
            content.digests.checksum = self.part_checksum(upload, &bytes);
        }
        Op::PutPart(PutPart { upload: upload_ref, number: self.part_number(), content })
    }

    fn copy_part(&mut self, naive: &Naive) -> Op {
        let (upload_ref, upload) = self.upload(naive);
        let (mut source, mut row) = self.source(naive);
        self.pin(naive, &mut source, &mut row);
        if self.dice.once_in(40) {
            source.pinned = None;
        }
        let whole = row.and_then(|row| row.version).map(|object| object.content).unwrap_or_default();
        let (mut offset, mut length) = (0, whole.len());
        if length > 6 << 20 || self.dice.once_in(2) {
            offset = self.dice.below(whole.len() + 1);
            length = (whole.len() - offset).min(5 << 20);
        }
        match self.dice.below(30) {
            0 => length += 1,
            1 => offset = u64::MAX,
            _ => {}
        }
        // One byte more may still be within a long source: the digests are of what is copied then.
        let content = whole.slice(offset..offset.saturating_add(length));
        let digests = digests(&content, self.part_checksum(upload, &content));
        let number = self.part_number();
        let crc_pending = None;
        Op::CopyPart(CopyPart { upload: upload_ref, number, source, offset, length, digests, crc_pending })
    }

    fn complete(&mut self, naive: &Naive) -> Op {
        if self.dice.once_in(6)
            && let Some(again) = self.complete_again(naive)
        {
            return again;
        }
        let (upload_ref, upload) = self.upload(naive);
        let mut parts = Vec::new();
        for (number, part) in upload.iter().flat_map(|upload| &upload.parts) {
            if self.dice.once_in(9) {
                continue;
            }
            let etag = if self.dice.once_in(40) { "0".repeat(32) } else { hex(&part.md5) };
            let checksum = part.checksum.clone().filter(|_| self.dice.once_in(2));
            parts.push(CompletedPart { number: *number, etag, checksum });
        }
        if self.dice.once_in(40) {
            parts.push(CompletedPart { number: self.part_number(), etag: "0".repeat(32), checksum: None });
        }
        let size: u64 = upload.iter().flat_map(|upload| upload.parts.values()).map(|part| part.content.len()).sum();
        Op::CompleteUpload(CompleteUpload {
            target: self.target(naive, &upload_ref.bucket, upload_ref.key.as_str()),
            upload: upload_ref.upload,
            parts,
            checksum: self.declared(upload),
            checksum_type: self
                .dice
                .once_in(20)
                .then(|| *self.dice.pick(&[ChecksumType::FullObject, ChecksumType::Composite])),
            size: self.dice.once_in(6).then_some(size),
            nonce: self.nonce(),
        })
    }

    /// A checksum of the object, right if all parts are named.
    fn declared(&mut self, upload: Option<&Upload>) -> Option<Checksum> {
        let upload = upload.filter(|_| self.dice.once_in(5))?;
        let mut content = Content::default();
        upload.parts.values().for_each(|part| content.extend(&part.content));
        let algorithm = if self.dice.once_in(2) { ChecksumAlgorithm::Crc64Nvme } else { *self.dice.pick(&ALGORITHMS) };
        Some(content.checksum(algorithm))
    }

    fn complete_again(&mut self, naive: &Naive) -> Option<Op> {
        let at = self.dice.below(naive.finished.len().max(1) as u64) as usize;
        let (place, finished) = naive.finished.iter().nth(at)?;
        let bucket = self.bucket(naive);
        let mut parts = finished.parts.clone();
        if self.dice.once_in(6) {
            parts.pop();
        }
        Some(Op::CompleteUpload(CompleteUpload {
            target: target(&bucket, &finished.key),
            upload: UploadId { place: *place, nonce: finished.nonce },
            parts,
            checksum: None,
            checksum_type: None,
            size: None,
            nonce: self.nonce(),
        }))
    }

    fn abort(&mut self, naive: &Naive) -> Op {
        let (upload, _) = self.upload(naive);
        Op::AbortUpload(upload)
    }

    fn condemn(&mut self, view: &MemView) -> Op {
        let mut blobs = vec![self.nonce()];
        for row in rows(view, Keyspace::Blobs) {
            if let Some((blob, None)) = key::blob_id(&row.0).filter(|_| self.dice.once_in(6)) {
                blobs.push(blob);
            }
        }
        Op::Condemn(Blobs { blobs })
    }

    fn forget(&mut self, view: &MemView) -> Op {
        let mut blobs = vec![self.nonce()];
        for row in view.scan(Keyspace::Queues, KeyRange::prefix(&key::queue(Queue::Condemned)), Direction::Forward) {
            if !self.dice.once_in(3) {
                blobs.push(key::queued_blob_parts(&row.unwrap().0).unwrap().1);
            }
        }
        Op::Forget(Blobs { blobs })
    }

    fn join(&mut self, view: &MemView) -> Op {
        let queued = view.scan(Keyspace::Queues, KeyRange::prefix(&key::queue(Queue::Join)), Direction::Forward);
        let queued: Vec<_> = queued.map(|row| key::queued_content_id(&row.unwrap().0).unwrap()).collect();
        let mut content = ContentId { object: ObjectId(1), revision: 1 };
        if !queued.is_empty() {
            content = *self.dice.pick(&queued);
        }
        let extents = crate::invariants::extents_of(view, content).unwrap_or_default();
        let mut bytes = Content::default();
        for extent in &extents {
            let range = extent.blob_offset..extent.blob_offset + extent.length;
            bytes.extend(&self.uploaded[&extent.blob].slice(range));
        }
        let mut joined = extents.clone();
        if self.dice.once_in(10) {
            joined.pop();
        }
        let size = extents.iter().map(|extent| extent.length).sum();
        let id = self.nonce();
        self.uploaded.insert(id, bytes.clone());
        let blob = NewBlob { id, place: NewPlace::Path(format!("partitions/{id}")), crcs: crcs(bytes.len()) };
        Op::Join(Join { content, joined, blob, size })
    }

    fn set_digest(&mut self, view: &MemView) -> Op {
        let queued = view.scan(Keyspace::Queues, KeyRange::prefix(&key::queue(Queue::Digest)), Direction::Forward);
        let queued: Vec<_> = queued.map(|row| key::queued_digest_parts(&row.unwrap().0).unwrap()).collect();
        let (mut bucket, mut object, mut place) = (BucketId(1), "a".to_owned(), Place::default());
        if !queued.is_empty() {
            (bucket, object, place) = self.dice.pick(&queued).clone();
        }
        let sha256 = (!self.dice.once_in(8)).then(|| [self.dice.below(256) as u8; 32]);
        let key = object.parse().unwrap();
        Op::SetDigest(SetDigest { bucket, key, place, sha256, generation: None, crc64nvme: None })
    }
}

fn digests(content: &Content, checksum: Option<Checksum>) -> Digests {
    Digests { md5: content.md5(), sha256: content.sha256(), crc64nvme: content.crc64(), checksum }
}
