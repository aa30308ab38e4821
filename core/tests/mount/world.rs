//! The rules and the naive model side by side, and what is compared after each command.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_core::command::mount::*;
use holdfast_core::command::*;
use holdfast_core::event::EventKind;
use holdfast_core::id::*;
use holdfast_core::keyspace::{Keyspace, key};
use holdfast_core::kv::{Kv, MemKv, MemView};
use holdfast_core::list::{Entry, Query};
use holdfast_core::mount::*;
use holdfast_core::record::*;
use holdfast_core::rules::authorize::{Action, Permit, Resource};
use holdfast_core::view::View;

use crate::naive::{Brought, Expected, File, Naive, Versioned};
use crate::runs::Runs;
use crate::support::*;
use crate::{invariants, rows};

pub const CLIENT: MountId = MountId([9; 16]);

pub struct World {
    pub machine: Machine,
    pub bucket: BucketRef,
    pub lease: u64,
    pub number: u64,
    pub naive: Naive,
    /// The object of each file, as far as it was seen.
    pub objects: BTreeMap<u64, ObjectId>,
    /// What blobs that jobs wrote are made of.
    pub known: BTreeMap<BlobId, Runs>,
    pub upload: Option<(MountUpload, BTreeMap<u16, Runs>)>,
    pub log: Vec<(u64, Command)>,
    /// The bytes of every row of history when it was last seen as the latest.
    past: BTreeMap<(String, Place), Runs>,
    /// The rows that were the latest when it was last looked.
    latest: BTreeSet<(String, Place)>,
    /// The bytes of each generation that was seen.
    generations: BTreeMap<(ObjectId, Revision, String), Runs>,
    ticks: u64,
}

pub fn object_permit(bucket: &BucketRef, key: &str) -> Permit {
    permit(Action::GetObject, Resource::Object(bucket.name.clone(), key.parse().unwrap()))
}

impl World {
    pub fn new() -> Self {
        let mut machine = Machine::new();
        let bucket = machine.create_bucket("abc");
        let mut world = Self {
            machine,
            bucket,
            lease: 0,
            number: 0,
            naive: Naive::default(),
            objects: BTreeMap::new(),
            known: BTreeMap::new(),
            upload: None,
            log: Vec::new(),
            past: BTreeMap::new(),
            latest: BTreeSet::new(),
            generations: BTreeMap::new(),
            ticks: 0,
        };
        // Again, so that the log has it.
        world.machine = Machine::new();
        let op = CreateBucket { name: "abc".parse().unwrap(), settings: BucketSettings::default() };
        world.run(Op::CreateBucket(op));
        world.open();
        world
    }

    pub fn run(&mut self, op: Op) -> Reply {
        let command = self.machine.command(op);
        let applied = self.machine.apply(&command);
        self.log.push((self.machine.revision, command));
        applied.reply
    }

    pub fn open(&mut self) {
        let (bucket, owner) = (self.bucket.clone(), "test".into());
        let reply = self.run(Op::OpenMount(OpenMount { bucket, client: CLIENT, owner, ttl_ms: 30_000 }));
        let Reply::MountOpened(opened) = reply else { panic!("{reply:?}") };
        assert_eq!(opened.applied, self.number);
        self.lease = opened.lease;
        self.see_upload();
    }

    /// Gives the lease back: the session is forgotten.
    pub fn release(&mut self) {
        let end = ReleaseLease { lease: self.lease, name: None, unless_granted: false };
        assert_eq!(self.run(Op::ReleaseLease(end)), Reply::Done);
        self.naive.orphans.clear();
        self.number = 0;
        self.see_upload();
    }

    /// An upload that a commit has named goes when the session ends.
    fn see_upload(&mut self) {
        let Some((upload, _)) = &self.upload else { return };
        let row_key = key::upload(self.bucket.id, upload.key.as_str(), upload.upload.place);
        if row::<UploadRow>(&self.view(), Keyspace::Parts, &row_key).is_none() {
            self.upload = None;
        }
    }

    pub fn versioning(&mut self, enabled: bool) {
        self.run(Op::SetVersioning(SetVersioning { bucket: self.bucket.clone(), enabled }));
        self.naive.versioned = if enabled { Versioned::Enabled } else { Versioned::Suspended };
    }

    pub fn view(&self) -> MemView {
        self.machine.kv.view()
    }

    /// A reference as a client would have it now.
    pub fn file(&self, key: &str) -> FileRef {
        let file = self.naive.names.get(key).and_then(|file| self.objects.get(file));
        FileRef { key: Some(key.parse().unwrap()), object: file.copied().unwrap_or_default() }
    }

    /// A command for these steps.
    pub fn commit_op(&mut self, steps: Vec<Step>, sent: Option<NewContent>) -> MountCommit {
        self.ticks += 1;
        let nonce = self.machine.blob_id();
        MountCommit {
            bucket: self.bucket.clone(),
            client: CLIENT,
            lease: self.lease,
            number: self.number + 1,
            steps,
            sent,
            upload: self.upload.as_ref().map(|(upload, _)| upload.clone()),
            nonce,
            directory: [("mode".to_owned(), "16877".to_owned())].into(),
            now: format!("17000.{}", self.ticks),
            id: self.ticks * 1_000_003,
        }
    }

    /// Commits steps, and does to the model what they say; checks that each came to the same.
    pub fn commit(&mut self, steps: Vec<Step>, sent: Option<NewContent>) -> Result<Vec<StepOutcome>, String> {
        let op = self.commit_op(steps, sent);
        self.commit_command(op)
    }

    pub fn commit_command(&mut self, op: MountCommit) -> Result<Vec<StepOutcome>, String> {
        let sent = op.sent.as_ref().and_then(|sent| Some((sent.blob.as_ref()?.id, sent.size)));
        let brought = Brought {
            sent,
            parts: self.upload.as_ref().map(|(_, parts)| parts.clone()).unwrap_or_default(),
            directory: op.directory.clone(),
            now: op.now.clone(),
            objects: self.objects.iter().map(|(file, object)| (*object, *file)).collect(),
        };
        self.naive.used.clear();
        let expected: Vec<Expected> = op.steps.iter().map(|step| self.naive.step(step, &brought)).collect();
        let reply = self.run(Op::MountCommit(op.clone()));
        let Reply::Mounted(outcomes) = reply else { return Err(format!("{reply:?} to {op:?}")) };
        self.number += 1;
        for ((step, expected), outcome) in op.steps.iter().zip(&expected).zip(&outcomes) {
            let same = match (expected, outcome) {
                (Expected::Done, StepOutcome::Done) => true,
                (Expected::Refused(expected), StepOutcome::Refused(refusal)) => expected == refusal,
                (Expected::Node(key), StepOutcome::Node(node)) => {
                    key.as_deref() == node.key.as_ref().map(ObjectKey::as_str)
                }
                _ => false,
            };
            if !same {
                return Err(format!("{step:?} comes to {outcome:?}, not {expected:?}"));
            }
        }
        if let Some((_, parts)) = &mut self.upload {
            for number in &self.naive.used {
                parts.remove(number);
            }
        }
        Ok(outcomes)
    }

    /// Compares all there is.
    pub fn check(&mut self) -> Result<(), String> {
        let view = self.view();
        invariants::check(&view)?;
        self.check_names(&view)?;
        self.check_orphans(&view)?;
        self.check_past(&view)?;
        self.check_parts(&view)?;
        self.check_lists(&view)
    }

    fn check_names(&mut self, kv: &MemView) -> Result<(), String> {
        let view = View::new(kv, self.machine.revision);
        let query = Query { limit: 10_000, ..Query::default() };
        let page = view.list(&list(&self.bucket.name), &query, None).unwrap();
        let keys: Vec<&str> = page.entries.iter().map(Entry::marker).collect();
        let expected: Vec<&str> = self.naive.names.keys().map(String::as_str).collect();
        if keys != expected {
            return Err(format!("names are {keys:?}, not {expected:?}"));
        }
        let mut seen: BTreeMap<ObjectId, u64> = BTreeMap::new();
        for entry in &page.entries {
            let Entry::Item(key, name) = entry else { continue };
            let file = self.naive.names[key];
            // An object stays what it is.
            let object = *self.objects.entry(file).or_insert(name.object);
            if object != name.object || *seen.entry(object).or_insert(file) != file {
                return Err(format!("{key:?} is object {}, and was {object}", name.object));
            }
            let found = view.find(&read(&self.bucket.name, key), None, None).unwrap();
            let reference = FileRef { key: Some(key.parse().unwrap()), object };
            let node = view.mount_file(&object_permit(&self.bucket, key), &reference).map_err(|e| format!("{e:?}"))?;
            let links = self.naive.links(file) as u32;
            let extents = view.extents(&found, 0..node.size).map_err(|stop| format!("{key:?}: {stop:?}"))?;
            let bytes = Runs::from_extents(&extents, &self.known);
            self.compare(&node, &bytes, file, links)?;
            self.past.insert((key.clone(), found.place), bytes);
        }
        Ok(())
    }

    fn compare(&mut self, node: &Node, bytes: &Runs, file: u64, links: u32) -> Result<(), String> {
        let expected = &self.naive.files[&file];
        let key = &node.key;
        if *bytes != expected.data {
            return Err(format!("{key:?} has the bytes\n{bytes:?}\nnot\n{:?}", expected.data));
        }
        if node.size != expected.data.len() || node.links != links {
            return Err(format!("{node:?} is of {} bytes and {links} links", expected.data.len()));
        }
        if node.metadata != expected.meta {
            return Err(format!("{key:?} has metadata {:?}, not {:?}", node.metadata, expected.meta));
        }
        // What a job filled in a hole with is not known to the model.
        if self.known.is_empty() && node.allocated != node.size - expected.data.holes() {
            return Err(format!("{node:?} has {} bytes of holes", expected.data.holes()));
        }
        let generation = (node.object, node.generation, node.etag.clone());
        let before = self.generations.entry(generation).or_insert_with(|| bytes.clone());
        if before != bytes {
            return Err(format!("generation {} of {key:?} has other bytes than before", node.generation));
        }
        Ok(())
    }

    fn check_orphans(&mut self, kv: &MemView) -> Result<(), String> {
        let view = View::new(kv, self.machine.revision);
        let permit = permit(Action::GetObject, Resource::Bucket(self.bucket.name.clone()));
        // Files that came to be and lost their name in one commit: both sides number them in the same order.
        let seen: BTreeSet<ObjectId> = self.objects.values().copied().collect();
        let held = rows(kv, Keyspace::Locks).filter(|(row_key, _)| row_key[2] == 12);
        let unseen =
            held.map(|(row_key, _)| key::mount_orphan_object(&row_key).unwrap()).filter(|it| !seen.contains(it));
        let unknown: Vec<u64> =
            self.naive.orphans.iter().filter(|file| !self.objects.contains_key(file)).copied().collect();
        let unseen: Vec<ObjectId> = unseen.collect();
        if unseen.len() != unknown.len() {
            return Err(format!("{unseen:?} have no name, not {unknown:?}"));
        }
        self.objects.extend(unknown.into_iter().zip(unseen));
        for file in self.naive.orphans.clone() {
            let object = self.objects[&file];
            let reference = FileRef { key: None, object };
            let node = view.mount_file(&permit, &reference).map_err(|stop| format!("orphan {object}: {stop:?}"))?;
            let found = view.find_file(&permit, &reference).unwrap();
            let again = view.again(&found).map_err(|stop| format!("{stop:?}"))?;
            let extents = view.extents(&again, 0..node.size).map_err(|stop| format!("{stop:?}"))?;
            let bytes = Runs::from_extents(&extents, &self.known);
            self.compare(&node, &bytes, file, 0)?;
        }
        Ok(())
    }

    /// Versions that are not the latest never change.
    fn check_past(&mut self, kv: &MemView) -> Result<(), String> {
        let view = View::new(kv, self.machine.revision);
        let mut left = BTreeMap::new();
        for (row_key, value) in rows(kv, Keyspace::History) {
            let (object, place) = key::history_parts(&row_key).unwrap();
            let row = HistoryRow::decode(&value).unwrap();
            let (Some(version), at) = (&row.version, (object, place)) else { continue };
            let bucket = view.bucket(&list(&self.bucket.name)).unwrap();
            let (key, size) = (at.0.parse().unwrap(), version.size);
            let found = holdfast_core::view::Found { bucket, key, place, row: row.clone(), is_latest: false };
            let extents = view.extents(&found, 0..size).map_err(|stop| format!("{at:?}: {stop:?}"))?;
            let bytes = Runs::from_extents(&extents, &self.known);
            // What was the latest may have been written once more before it gave way in the same commit.
            let settled = !self.latest.contains(&at);
            // What came and went in one commit was never seen.
            if let Some(expected) = self.past.get(&at).filter(|expected| bytes != **expected && settled) {
                return Err(format!("{at:?} had the bytes\n{expected:?}\nand has\n{bytes:?}"));
            }
            left.insert(at, bytes);
        }
        self.past = left;
        self.latest = rows(kv, Keyspace::Names)
            .map(|(row_key, value)| {
                (key::name_key(&row_key).unwrap().to_owned(), NameRow::decode(&value).unwrap().place)
            })
            .collect();
        Ok(())
    }

    fn check_parts(&self, kv: &MemView) -> Result<(), String> {
        let Some((upload, parts)) = &self.upload else { return Ok(()) };
        let view = View::new(kv, self.machine.revision);
        let resource = Resource::Object(self.bucket.name.clone(), upload.key.clone());
        let page = view.parts(&permit(Action::ListParts, resource), upload.upload, 0, 1000).unwrap();
        let there: Vec<u16> = page.parts.iter().map(|(number, _)| *number).collect();
        let expected: Vec<u16> = parts.keys().copied().collect();
        if there == expected { Ok(()) } else { Err(format!("parts are {there:?}, not {expected:?}")) }
    }

    /// Directories as a mount lists them, by pages of two.
    fn check_lists(&self, kv: &MemView) -> Result<(), String> {
        let view = View::new(kv, self.machine.revision);
        let mut directories = BTreeSet::from([String::new()]);
        for key in self.naive.names.keys() {
            directories.extend(key.match_indices('/').map(|(at, _)| key[..=at].to_owned()));
        }
        for directory in &directories {
            let mut expected = BTreeSet::new();
            for key in self.naive.names.keys().filter(|key| key.starts_with(directory.as_str()) && *key != directory) {
                let end = key[directory.len()..].find('/').map_or(key.len(), |at| directory.len() + at + 1);
                expected.insert(key[..end].to_owned());
            }
            let (mut listed, mut after) = (Vec::new(), None);
            loop {
                let at = Some(self.machine.revision);
                let list_call = List { prefix: directory.clone(), after: after.clone(), limit: 2, at };
                let page = view.mount_list(&list(&self.bucket.name), &list_call).map_err(|stop| format!("{stop:?}"))?;
                listed.extend(page.nodes);
                after = page.after;
                if after.is_none() {
                    break;
                }
            }
            let keys: Vec<&str> = listed.iter().map(|node| node.key.as_ref().unwrap().as_str()).collect();
            if keys != expected.iter().map(String::as_str).collect::<Vec<_>>() {
                return Err(format!("{directory:?} lists {keys:?}, not {expected:?}"));
            }
            let paths: Vec<String> = keys.iter().map(|key| key.trim_end_matches('/').to_owned()).collect();
            let entries = view.mount_entries(&list(&self.bucket.name), &paths).unwrap();
            for (node, entry) in listed.iter().zip(entries) {
                let is_directory = node.key.as_ref().unwrap().as_str().ends_with('/');
                let found = if is_directory { entry.directory } else { entry.file };
                if found.as_ref() != Some(node) {
                    return Err(format!("{node:?} is found as {found:?}"));
                }
            }
        }
        Ok(())
    }

    /// The same commands on another node give the same rows.
    pub fn replay(&self) {
        let kv = MemKv::default();
        for (revision, command) in &self.log {
            let applied = holdfast_core::apply::apply(&kv.view(), *revision, command).unwrap();
            kv.commit(applied.batch).unwrap();
        }
        assert!(kv.view() == self.view(), "replayed, the rows differ");
    }

    /// Removes everything, lets all time pass, and looks for what is left.
    pub fn nothing_is_left(&mut self) -> Result<(), String> {
        if let Some((upload, _)) = self.upload.take() {
            let (bucket, key) = (self.bucket.clone(), upload.key);
            self.run(Op::AbortUpload(UploadRef { bucket, key, upload: upload.upload }));
        }
        let reply = self.run(Op::ReleaseLease(ReleaseLease { lease: self.lease, name: None, unless_granted: false }));
        assert_eq!(reply, Reply::Done);
        let mut versions = Vec::new();
        for (row_key, value) in rows(&self.view(), Keyspace::History) {
            let (object, place) = key::history_parts(&row_key).unwrap();
            let row = HistoryRow::decode(&value).unwrap();
            if row.ended.is_none() {
                versions.push((object, row.version_id(place)));
            }
        }
        for (key, version) in versions {
            self.machine.delete(&self.bucket.clone(), &key, Some(version));
        }
        for days in [1, 2, 40] {
            self.machine.now_ms += days * 24 * 60 * 60 * 1000;
            let mut more = true;
            while more {
                let reply = self.machine.trim();
                let Reply::Trimmed { more: left, .. } = reply else { return Err(format!("{reply:?}")) };
                more = left;
                let condemned: Vec<BlobId> = rows(&self.view(), Keyspace::Queues)
                    .filter(|(row_key, _)| row_key[2] == 1)
                    .map(|(row_key, _)| key::queued_blob_parts(&row_key).unwrap().1)
                    .take(1000)
                    .collect();
                more |= !condemned.is_empty();
                self.machine.run(Op::Forget(Blobs { blobs: condemned }));
            }
            invariants::check(&self.view())?;
        }
        let census = census(&self.view());
        let left = ["names", "history", "objects", "links", "extents", "parts", "blobs", "inline", "queues", "locks"];
        let left: Vec<_> = left.iter().filter_map(|name| Some((name, census.get(name)?))).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("left are {left:?}")) }
    }

    /// Events since a revision.
    pub fn events(&self, after: u64) -> Vec<(EventKind, String, Option<ObjectId>)> {
        let kv = self.view();
        let view = View::new(&kv, self.machine.revision);
        let permit = permit(Action::WatchEvents, Resource::Service);
        let page = view.events(&permit, Place { revision: after, ordinal: u16::MAX }, 1000).unwrap();
        page.events.into_iter().map(|(_, event)| (event.kind, event.key.unwrap_or_default(), event.object)).collect()
    }

    /// The file of the model for a name that got an older version again.
    pub fn resync(&mut self, key: &str) {
        self.naive.names.remove(key);
        let kv = self.view();
        let view = View::new(&kv, self.machine.revision);
        let Ok(found) = view.find(&read(&self.bucket.name, key), None, None) else { return };
        let Some(version) = &found.row.version else { return };
        // As it was when it was the latest.
        let data = self.past[&(key.to_owned(), found.place)].clone();
        let meta = version.attributes.metadata.clone();
        let file = self.naive.add(File { data, meta });
        self.naive.names.insert(key.to_owned(), file);
    }
}
