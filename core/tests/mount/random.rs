//! Random commits, with what S3 and jobs do in between.

use std::collections::BTreeMap;

use holdfast_core::command::mount::*;
use holdfast_core::command::*;
use holdfast_core::id::*;
use holdfast_core::keyspace::{Keyspace, key};
use holdfast_core::queue::maintain_permit;
use holdfast_core::record::*;
use holdfast_core::rules::PAGE_BYTES;
use holdfast_core::view::View;

use crate::naive::{File, Versioned};
use crate::rows;
use crate::runs::Runs;
use crate::support::*;
use crate::world::World;

const KEYS: [&str; 9] = ["a", "b", "d/a", "d/b", "d/s/a", "e/a", "e/s/b", "f", "d/f"];
const DIRECTORIES: [&str; 6] = ["d/", "d/s/", "e/", "e/s/", "g/", "a/"];

pub struct Random {
    pub dice: Dice,
}

impl Random {
    fn key(&mut self, world: &World) -> String {
        let names: Vec<&String> = world.naive.names.keys().collect();
        if names.is_empty() || self.dice.once_in(4) {
            let all = [KEYS.as_slice(), DIRECTORIES.as_slice()].concat();
            return (*self.dice.pick(&all)).to_owned();
        }
        (*self.dice.pick(&names)).clone()
    }

    fn file_key(&mut self, world: &World) -> String {
        let names: Vec<&String> = world.naive.names.keys().filter(|key| !key.ends_with('/')).collect();
        if names.is_empty() || self.dice.once_in(9) { self.key(world) } else { (*self.dice.pick(&names)).clone() }
    }

    /// A file that is likely there, also one without a name.
    fn file(&mut self, world: &World) -> FileRef {
        if self.dice.once_in(5)
            && let Some(file) = world.naive.orphans.iter().next()
        {
            return FileRef { key: None, object: world.objects[file] };
        }
        let key = self.file_key(world);
        let mut file = world.file(&key);
        if self.dice.once_in(30) {
            file.object = ObjectId(self.dice.below(40));
        }
        file
    }

    fn set(&mut self) -> BTreeMap<String, Option<String>> {
        let mut set = BTreeMap::new();
        for name in ["mode", "mtime", "ctime"] {
            if self.dice.once_in(3) {
                let value = format!("{}", self.dice.below(1000));
                set.insert(name.to_owned(), Some(value).filter(|_| !self.dice.once_in(4)));
            }
        }
        set
    }

    /// A place in a file: near its start, its end, a boundary of pages, or anywhere.
    fn offset(&mut self, size: u64) -> u64 {
        match self.dice.below(6) {
            0 => self.dice.below(20),
            1 => size,
            2 => size.saturating_sub(self.dice.below(10)),
            3 => size + self.dice.below(20),
            4 => (self.dice.below(4) * PAGE_BYTES + self.dice.below(7)).saturating_sub(3),
            _ => self.dice.below(size.max(1)),
        }
    }

    fn length(&mut self) -> u64 {
        match self.dice.below(8) {
            0 => PAGE_BYTES + self.dice.below(5),
            1 => 2 * PAGE_BYTES + self.dice.below(PAGE_BYTES),
            2 => self.dice.below(PAGE_BYTES) + 1,
            _ => 1 + self.dice.below(30),
        }
    }

    fn writes(&mut self, world: &World, size: u64, sent: u64) -> Vec<FileWrite> {
        let count = 1 + self.dice.below(3);
        (0..count).map(|_| self.write(world, size, sent)).collect()
    }

    fn write(&mut self, world: &World, size: u64, sent: u64) -> FileWrite {
        let (offset, length) = (self.offset(size), self.length());
        let parts: Vec<(u16, u64)> = world
            .upload
            .iter()
            .flat_map(|(_, parts)| parts.iter().map(|(number, runs)| (*number, runs.len())))
            .filter(|(_, length)| *length > 0)
            .collect();
        match self.dice.below(6) {
            0 => FileWrite { offset, length, from: Origin::Hole },
            1 if !parts.is_empty() => {
                let (number, size) = *self.dice.pick(&parts);
                let at = self.dice.below(size);
                FileWrite { offset, length: 1 + self.dice.below(size - at), from: Origin::Part(number, at) }
            }
            2 => {
                let source = self.file(world);
                let size = self.size_of(world, &source);
                let at = self.dice.below(size.max(1));
                let length = 1 + self.dice.below((size - at.min(size)).max(1));
                FileWrite { offset, length, from: Origin::File(source, at) }
            }
            _ if sent > 0 => {
                let at = self.dice.below(sent);
                let length = if self.dice.once_in(30) { sent + 1 } else { 1 + self.dice.below(sent - at) };
                FileWrite { offset, length, from: Origin::Sent(at) }
            }
            _ => FileWrite { offset, length, from: Origin::Hole },
        }
    }

    fn size_of(&self, world: &World, file: &FileRef) -> u64 {
        let object = world.objects.iter().find(|(_, object)| **object == file.object);
        object.map_or(0, |(file, _)| world.naive.files[file].data.len())
    }

    fn patch(&mut self, world: &World, sent: u64) -> Step {
        let file = self.file(world);
        let size = self.size_of(world, &file);
        let set = self.set();
        let cut = self.dice.once_in(3);
        let (resize, writes) = match self.dice.below(5) {
            0 => (Some(self.offset(size)), Vec::new()),
            1 => (Some(self.offset(size)), self.writes(world, size, sent)),
            2 if sent > 0 => (Some(0), vec![FileWrite { offset: 0, length: sent, from: Origin::Sent(0) }]),
            _ => (None, self.writes(world, size, sent)),
        };
        Step::Patch(PatchFile { file, size: resize, writes, set, cut, base: None })
    }

    fn step(&mut self, world: &World, sent: u64) -> Step {
        match self.dice.below(16) {
            0 | 1 => {
                let key = self.key(world);
                let key = if self.dice.once_in(2) { (*self.dice.pick(&KEYS)).to_owned() } else { key };
                let bytes = match self.dice.below(3) {
                    0 if !key.ends_with('/') => self.writes(world, 0, sent),
                    _ => Vec::new(),
                };
                let metadata = [("mode".to_owned(), format!("{}", self.dice.below(9)))].into();
                Step::Create(CreateFile { key: key.parse().unwrap(), metadata, content_type: None, bytes })
            }
            2 => {
                let key = *self.dice.pick(&DIRECTORIES);
                let (metadata, bytes) = (BTreeMap::new(), Vec::new());
                Step::Create(CreateFile { key: key.parse().unwrap(), metadata, content_type: None, bytes })
            }
            3 | 4 => {
                let (file, to) = (self.file(world), (*self.dice.pick(&KEYS)).parse().unwrap());
                Step::Link(LinkFile { file, to, set: self.set() })
            }
            5 | 6 => Step::Unlink(UnlinkFile { file: self.file(world), keep: self.dice.once_in(2), set: self.set() }),
            7 => Step::RemoveDirectory(world.file(DIRECTORIES[self.dice.below(6) as usize])),
            8 | 9 => self.rename(world),
            10 => {
                let key = self.key(world);
                Step::SetAttributes(SetFileAttributes { file: world.file(&key), set: self.set() })
            }
            11 => Step::Cut(self.file(world)),
            12 if self.dice.once_in(2) => {
                let orphans: Vec<ObjectId> = world.naive.orphans.iter().map(|file| world.objects[file]).collect();
                Step::Release(if orphans.is_empty() { ObjectId(3) } else { *self.dice.pick(&orphans) })
            }
            _ => self.patch(world, sent),
        }
    }

    fn rename(&mut self, world: &World) -> Step {
        let from = if self.dice.once_in(3) { (*self.dice.pick(&DIRECTORIES)).to_owned() } else { self.key(world) };
        let directory = from.ends_with('/');
        let mut to = match (directory, self.dice.once_in(3)) {
            (true, false) => (*self.dice.pick(&DIRECTORIES)).to_owned(),
            (false, false) => (*self.dice.pick(&KEYS)).to_owned(),
            _ => self.key(world),
        };
        if self.dice.once_in(20) {
            to = "x//y".to_owned();
        }
        let onto = *self.dice.pick(&[Onto::Any, Onto::Any, Onto::Nothing, Onto::Exchange]);
        let (file, to, keep) = (world.file(&from), to.parse().unwrap(), self.dice.once_in(2));
        Step::Rename(RenameFile { file, to, onto, keep, set: self.set() })
    }

    pub fn commit(&mut self, world: &mut World) -> Result<(), String> {
        let size = if self.dice.once_in(3) { 0 } else { self.length() };
        let sent = (size > 0).then(|| world.machine.content(size));
        let count = 1 + self.dice.below(4);
        let steps = (0..count).map(|_| self.step(world, size)).collect();
        let op = world.commit_op(steps, sent);
        world.commit_command(op.clone())?;
        if self.dice.once_in(10) {
            // The same again, in another request.
            let before = world.machine.rows();
            let reply = world.run(Op::MountCommit(op));
            if !matches!(reply, Reply::Mounted(_)) {
                return Err(format!("the last commit again: {reply:?}"));
            }
            let changed = |keyspace: &Keyspace| !matches!(keyspace, Keyspace::Dedupe | Keyspace::Sys);
            let rows = |rows: Vec<(Keyspace, bytes::Bytes, bytes::Bytes)>| -> Vec<_> {
                rows.into_iter().filter(|(keyspace, ..)| changed(keyspace)).collect()
            };
            if rows(before) != rows(world.machine.rows()) {
                return Err("the last commit again changes rows".to_owned());
            }
        }
        Ok(())
    }

    /// What S3, jobs and time do.
    pub fn other(&mut self, world: &mut World) -> Result<(), String> {
        match self.dice.below(22) {
            0 | 1 => self.put(world),
            2 | 3 => self.delete(world),
            4 => self.copy(world),
            5 | 6 => self.s3_rename(world),
            7 => self.append(world),
            8 | 9 => self.delete_version(world),
            10 => {
                let key = self.key(world);
                let tags = [("tag".to_owned(), format!("{}", self.dice.below(9)))].into();
                let (bucket, key) = (world.bucket.clone(), key.parse().unwrap());
                world.run(Op::SetTags(SetTags { bucket, key, version: None, tags }));
            }
            11 | 12 => self.part(world),
            20 if self.dice.once_in(2) => self.complete(world),
            13 => self.join(world),
            14 | 15 => self.compact(world),
            16 => self.digests(world),
            17 | 18 => {
                world.machine.now_ms += self.dice.below(8 * 60 * 1000);
                world.run(Op::Trim(Trim { rows: 1000 }));
            }
            19 => {
                world.open();
            }
            20 if self.dice.once_in(3) => {
                world.release();
                world.check()?;
                world.open();
            }
            _ if world.naive.versioned != Versioned::Never => {
                let enabled = self.dice.once_in(2);
                world.versioning(enabled);
            }
            _ => {}
        }
        Ok(())
    }

    fn put(&mut self, world: &mut World) {
        let key = self.key(world);
        let (size, bucket) = (self.length(), world.bucket.clone());
        let (content, nonce) = (world.machine.content(size), world.machine.blob_id());
        let data = Runs::of(content.blob.as_ref().unwrap().id, size);
        let op = PutObject { target: target(&bucket, &key), content, attributes: Attributes::default(), nonce };
        written(world.run(Op::PutObject(op)));
        let file = world.naive.add(File { data, meta: BTreeMap::new() });
        world.naive.names.insert(key, file);
    }

    fn delete(&mut self, world: &mut World) {
        let key = self.key(world);
        let entries = vec![entry(&key)];
        let (bucket, nonce) = (world.bucket.clone(), world.machine.blob_id());
        world.run(Op::DeleteObjects(DeleteObjects { bucket, entries, nonce }));
        world.naive.names.remove(&key);
    }

    fn copy(&mut self, world: &mut World) {
        let (from, to) = (self.key(world), self.key(world));
        let bucket = world.bucket.clone();
        let (source, target, nonce) = (source(&bucket, &from), target(&bucket, &to), world.machine.blob_id());
        let op = CopyObject { source, target, attributes: None, tags: None, checksum: None, nonce };
        if matches!(world.run(Op::CopyObject(op)), Reply::Written(_)) {
            let file = world.naive.files[&world.naive.names[&from]].clone();
            let file = world.naive.add(file);
            world.naive.names.insert(to, file);
        }
    }

    fn s3_rename(&mut self, world: &mut World) {
        let (from, to) = (self.key(world), self.key(world));
        let bucket = world.bucket.clone();
        let (source, target, nonce) = (source(&bucket, &from), target(&bucket, &to), world.machine.blob_id());
        let op = RenameObject { source, target, prefix: false, nonce };
        if matches!(world.run(Op::RenameObject(op)), Reply::Renamed(_)) {
            world.naive.move_name(&from, &to);
        }
    }

    fn append(&mut self, world: &mut World) {
        let key = self.key(world);
        let Some(file) = world.naive.names.get(&key).copied() else { return };
        let (offset, size, bucket) = (world.naive.files[&file].data.len(), self.length(), world.bucket.clone());
        let (content, nonce) = (world.machine.content(size), world.machine.blob_id());
        let blob = content.blob.as_ref().unwrap().id;
        let (target, attributes) = (target(&bucket, &key), Attributes::default());
        written(world.run(Op::AppendObject(AppendObject { target, offset, content, attributes, nonce })));
        let mut appended = world.naive.files[&file].clone();
        appended.data.extend(&Runs::of(blob, size));
        // It may be another object from now on.
        let file = world.naive.add(appended);
        world.naive.names.insert(key, file);
    }

    fn delete_version(&mut self, world: &mut World) {
        if world.naive.versioned == Versioned::Never {
            return;
        }
        let key = self.key(world);
        let mut versions = Vec::new();
        for (row_key, value) in rows(&world.view(), Keyspace::History) {
            let (object, place) = key::history_parts(&row_key).unwrap();
            let row = HistoryRow::decode(&value).unwrap();
            if object == key && row.ended.is_none() {
                versions.push((place, row.version_id(place)));
            }
        }
        // The latest comes first, and is taken most often.
        let Some((place, version)) = versions.first().copied() else { return };
        let (place, version) = if self.dice.once_in(3) { *self.dice.pick(&versions) } else { (place, version) };
        let latest = place == versions[0].0;
        let entries = vec![DeleteEntry { version: Some(version), ..entry(&key) }];
        let (bucket, nonce) = (world.bucket.clone(), world.machine.blob_id());
        world.run(Op::DeleteObjects(DeleteObjects { bucket, entries, nonce }));
        if latest {
            world.resync(&key);
        }
    }

    fn part(&mut self, world: &mut World) {
        let bucket = world.bucket.clone();
        if world.upload.is_none() {
            let (key, nonce): (ObjectKey, _) = ("up".parse().unwrap(), world.machine.blob_id());
            let attributes = Attributes::default();
            let (checksum, checksum_type) = (None, None);
            let op = CreateUpload { bucket, key: key.clone(), attributes, checksum, checksum_type, nonce };
            let reply = world.run(Op::CreateUpload(op));
            let Reply::UploadCreated(upload) = reply else { panic!("{reply:?}") };
            world.upload = Some((MountUpload { key, upload }, BTreeMap::new()));
            return;
        }
        let (size, number) = (self.length(), 1 + self.dice.below(4) as u16);
        let copied = self.file_key(world);
        let upload = world.upload.as_ref().unwrap().0.clone();
        let upload_ref = UploadRef { bucket: bucket.clone(), key: upload.key, upload: upload.upload };
        let runs = match world.naive.names.get(&copied).map(|file| world.naive.files[file].data.clone()) {
            // A copy of a file may have many extents, and holes.
            Some(data) if self.dice.once_in(2) => {
                let found = world.machine.find(&bucket, &copied, None);
                let generation = found.row.version.as_ref().map(Version::generation);
                let source = Source { pinned: Some(found.place), generation, ..source(&bucket, &copied) };
                let (offset, length) = (0, data.len());
                let digests = Digests { md5: [1; 16], sha256: [1; 32], crc64nvme: 1, checksum: None };
                let crc_pending = self.dice.once_in(2).then_some(true);
                let op = CopyPart { upload: upload_ref, number, source, offset, length, digests, crc_pending };
                match world.run(Op::CopyPart(op)) {
                    Reply::PartWritten(_) => data,
                    _ => return,
                }
            }
            _ => {
                let content = world.machine.content(size);
                let blob = content.blob.as_ref().unwrap().id;
                let reply = world.run(Op::PutPart(PutPart { upload: upload_ref, number, content }));
                assert!(matches!(reply, Reply::PartWritten(_)), "{reply:?}");
                Runs::of(blob, size)
            }
        };
        world.upload.as_mut().unwrap().1.insert(number, runs);
    }

    /// Completes the upload with one part that is a copy: an object with boundaries, perhaps of many extents.
    fn complete(&mut self, world: &mut World) {
        let Some((upload, parts)) = world.upload.take() else { return };
        let mut copied = parts.iter().filter(|(_, runs)| runs.len() > 0);
        let (bucket, Some((number, runs))) = (world.bucket.clone(), copied.next()) else {
            world.upload = Some((upload, parts));
            return;
        };
        let kv = world.view();
        let row_key = key::part(upload.upload.place, *number);
        let part: PartRow = row(&kv, Keyspace::Parts, &row_key).unwrap();
        let named = vec![CompletedPart { number: *number, etag: hex(&part.md5), checksum: None }];
        let key = self.file_key(world);
        // The object gets the upload's key, then the name that is wanted.
        let op = CompleteUpload {
            target: target(&bucket, upload.key.as_str()),
            upload: upload.upload,
            parts: named,
            checksum: None,
            checksum_type: None,
            size: None,
            nonce: world.machine.blob_id(),
        };
        written(world.run(Op::CompleteUpload(op)));
        let file = world.naive.add(File { data: runs.clone(), meta: BTreeMap::new() });
        world.naive.names.insert(upload.key.as_str().to_owned(), file);
        let nonce = world.machine.blob_id();
        let (source, target) = (source(&bucket, upload.key.as_str()), target(&bucket, &key));
        let op = RenameObject { source, target, prefix: false, nonce };
        if matches!(world.run(Op::RenameObject(op)), Reply::Renamed(_)) {
            world.naive.move_name(upload.key.as_str(), &key);
        }
    }

    fn join(&mut self, world: &mut World) {
        let kv = world.view();
        let view = View::new(&kv, world.machine.revision);
        let permit = maintain_permit().unwrap();
        for waiting in view.to_join(&permit, None, 100).unwrap() {
            let Some(fragmented) = view.fragmented(&permit, waiting.content).unwrap() else { continue };
            let id = world.machine.blob_id();
            let blob = NewBlob { id, place: NewPlace::Path("joined".into()), crcs: crcs(fragmented.size) };
            let runs = Runs::from_extents(&fragmented.extents, &world.known);
            let (joined, size) = (fragmented.extents, fragmented.size);
            let op = Join { content: waiting.content, joined, blob, size };
            if world.run(Op::Join(op)) == Reply::Done {
                world.known.insert(id, runs);
            }
        }
    }

    /// Compacts a random run of a random page.
    fn compact(&mut self, world: &mut World) {
        let kv = world.view();
        let contents: Vec<ContentId> =
            rows(&kv, Keyspace::Objects).filter_map(|(row_key, _)| key::content_id(&row_key)).collect();
        if contents.is_empty() {
            return;
        }
        let content = *self.dice.pick(&contents);
        let pages: Vec<(u32, PageRow)> = rows(&kv, Keyspace::Extents)
            .filter(|(row_key, _)| row_key[2..10] == content.object.0.to_be_bytes())
            .map(|(row_key, value)| (key::page_parts(&row_key).unwrap().0, PageRow::decode(&value).unwrap()))
            .filter(|(_, page)| page.extents.len() > 1)
            .collect();
        if pages.is_empty() {
            return;
        }
        let (page, row) = self.dice.pick(&pages).clone();
        let from = self.dice.below(row.extents.len() as u64 - 1) as usize;
        let to = from + 2 + self.dice.below((row.extents.len() - from - 1) as u64) as usize;
        let extents: Vec<Extent> = row.extents[from..to.min(row.extents.len())].to_vec();
        let length: u64 = extents.iter().map(|extent| extent.length).sum();
        if length > 4 * PAGE_BYTES || extents.windows(2).any(|pair| pair[0].end() != pair[1].offset) {
            return;
        }
        let (id, runs) = (world.machine.blob_id(), Runs::from_extents(&extents, &world.known));
        let blob = NewBlob { id, place: NewPlace::Path("compacted".into()), crcs: crcs(length) };
        if world.run(Op::CompactPage(CompactPage { content, page, extents, blob })) == Reply::Done {
            world.known.insert(id, runs);
        }
    }

    fn digests(&mut self, world: &mut World) {
        let kv = world.view();
        let view = View::new(&kv, world.machine.revision);
        let permit = maintain_permit().unwrap();
        for pending in view.pending_digests(&permit, None, 100).unwrap() {
            let found = view.find_pending(&permit, &pending).unwrap();
            let version = found.and_then(|found| found.row.version);
            let stale = u64::from(self.dice.once_in(4));
            let generation = version.as_ref().map(|version| version.generation() + stale);
            let (bucket, key, place) = (pending.bucket, pending.key.clone(), pending.place);
            let (sha256, crc64nvme) = (Some([3; 32]), Some(7));
            world.run(Op::SetDigest(SetDigest { bucket, key, place, sha256, generation, crc64nvme }));
            if stale == 0 && version.is_some() {
                let kv = world.view();
                let view = View::new(&kv, world.machine.revision);
                let found = view.find_pending(&permit, &pending).unwrap().unwrap();
                let version = found.row.version.unwrap();
                assert!(version.sha256.is_some() && version.shown_checksum().is_some(), "{version:?}");
            }
        }
    }
}
