//! The mount as a map from paths to files. A file is known by a number, which is to the model what an object id is to the
//! rules.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_core::command::mount::*;
use holdfast_core::error::Error;
use holdfast_core::id::*;

use crate::runs::Runs;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct File {
    pub data: Runs,
    pub meta: BTreeMap<String, String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Versioned {
    #[default]
    Never,
    Enabled,
    Suspended,
}

/// What a commit brings along.
pub struct Brought {
    pub sent: Option<(BlobId, u64)>,
    pub parts: BTreeMap<u16, Runs>,
    pub directory: BTreeMap<String, String>,
    pub now: String,
    /// Which file an object was before the commit.
    pub objects: BTreeMap<ObjectId, u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    Done,
    /// The file of this name; none is one without a name.
    Node(Option<String>),
    Refused(Error),
}

#[derive(Clone, Debug, Default)]
pub struct Naive {
    pub files: BTreeMap<u64, File>,
    pub names: BTreeMap<String, u64>,
    pub orphans: BTreeSet<u64>,
    pub versioned: Versioned,
    /// Parts that steps have used.
    pub used: BTreeSet<u16>,
    next: u64,
}

fn path(key: &str) -> &str {
    key.strip_suffix('/').unwrap_or(key)
}

fn parent(key: &str) -> Option<&str> {
    path(key).rfind('/').map(|at| &key[..=at])
}

fn is_directory(key: &str) -> bool {
    key.ends_with('/')
}

type Outcome = Result<Expected, Error>;

impl Naive {
    pub fn add(&mut self, file: File) -> u64 {
        self.next += 1;
        self.files.insert(self.next, file);
        self.next
    }

    pub fn links(&self, file: u64) -> usize {
        self.names.values().filter(|other| **other == file).count()
    }

    fn any_under(&self, prefix: &str) -> bool {
        self.names.keys().any(|key| key.starts_with(prefix))
    }

    fn has_entries(&self, directory: &str) -> bool {
        self.names.keys().any(|key| key.starts_with(directory) && key != directory)
    }

    fn exists(&self, key: &str) -> bool {
        self.names.contains_key(path(key)) || self.any_under(&format!("{}/", path(key)))
    }

    fn check_new(&self, key: &str) -> Result<(), Error> {
        if path(key).split('/').any(|part| ["", ".", ".."].contains(&part)) {
            return Err(Error::invalid("a name in a directory is not empty, \".\" or \"..\""));
        }
        match parent(key) {
            Some(parent) if !self.any_under(parent) => {
                Err(if self.names.contains_key(path(parent)) { Error::NotDirectory } else { Error::NoSuchKey })
            }
            _ => Ok(()),
        }
    }

    fn find(&self, file: &FileRef, brought: &Brought) -> Result<u64, Error> {
        let known = brought.objects.get(&file.object);
        let Some(key) = &file.key else {
            return known.filter(|file| self.orphans.contains(file)).copied().ok_or(Error::NoSuchKey);
        };
        let found = *self.names.get(key.as_str()).ok_or(Error::NoSuchKey)?;
        let any = is_directory(key.as_str()) && file.object == ObjectId(0);
        if any || known == Some(&found) { Ok(found) } else { Err(Error::Changed) }
    }

    fn find_file(&self, file: &FileRef, brought: &Brought) -> Result<u64, Error> {
        match &file.key {
            None => {
                self.find(file, brought)?;
                Err(Error::NoSuchKey)
            }
            Some(key) if is_directory(key.as_str()) => Err(Error::IsDirectory),
            Some(_) => self.find(file, brought),
        }
    }

    fn marker(&mut self, directory: &str, brought: &Brought) {
        let mut meta = brought.directory.clone();
        for name in ["mtime", "ctime"] {
            meta.insert(name.to_owned(), brought.now.clone());
        }
        let file = self.add(File { meta, ..File::default() });
        self.names.insert(directory.to_owned(), file);
    }

    fn touch_parent(&mut self, key: &str, brought: &Brought) {
        let Some(parent) = parent(key) else { return };
        match self.names.get(parent).copied() {
            None => self.marker(parent, brought),
            Some(file) => {
                let times = ["mtime", "ctime"].map(|name| (name.to_owned(), Some(brought.now.clone())));
                self.set(file, &times.into());
            }
        }
    }

    fn set(&mut self, file: u64, set: &BTreeMap<String, Option<String>>) {
        let meta = &mut self.files.get_mut(&file).unwrap().meta;
        for (name, value) in set {
            match value {
                Some(value) => meta.insert(name.clone(), value.clone()),
                None => meta.remove(name),
            };
        }
    }

    /// A step, whole or not at all.
    pub fn step(&mut self, step: &Step, brought: &Brought) -> Expected {
        let before = self.clone();
        let outcome = match step {
            Step::Create(step) => self.create(step, brought),
            Step::Link(step) => self.link(step, brought),
            Step::Unlink(step) => self.unlink(step, brought),
            Step::RemoveDirectory(file) => self.remove_directory(file, brought),
            Step::Rename(step) => self.rename(step, brought),
            Step::SetAttributes(step) => self.set_attributes(step, brought),
            Step::Patch(step) => self.patch(step, brought),
            Step::Cut(file) => self.find(file, brought).map(|_| node(file)),
            Step::Release(object) => self.release(*object, brought),
            // Of a file of this name nothing has to be held; what was one before only the history knows.
            Step::Adopt(file) => self.find(file, brought).map(|_| node(file)),
        };
        outcome.unwrap_or_else(|refusal| {
            *self = before;
            Expected::Refused(refusal)
        })
    }

    fn create(&mut self, step: &CreateFile, brought: &Brought) -> Outcome {
        let key = step.key.as_str();
        self.check_new(key)?;
        if self.exists(key) {
            return Err(Error::FileExists);
        }
        if is_directory(key) && !step.bytes.is_empty() {
            return Err(Error::invalid("a directory has no bytes"));
        }
        let file = self.add(File { meta: step.metadata.clone(), ..File::default() });
        self.write(file, &step.bytes, brought)?;
        self.names.insert(key.to_owned(), file);
        self.touch_parent(key, brought);
        Ok(Expected::Node(Some(key.to_owned())))
    }

    fn write(&mut self, file: u64, writes: &[FileWrite], brought: &Brought) -> Result<(), Error> {
        // Files that are read are as they were before the step.
        let before = self.clone();
        for write in writes {
            let part = |runs: &Runs, at: u64| {
                let end = at.checked_add(write.length).filter(|end| *end <= runs.len()).ok_or(Error::InvalidRange)?;
                Ok(runs.slice(at..end))
            };
            let bytes = match &write.from {
                Origin::Hole => Runs::hole(write.length),
                Origin::Sent(at) => {
                    let (blob, length) = brought.sent.ok_or(Error::InvalidRange)?;
                    part(&Runs::of(blob, length), *at)?
                }
                Origin::Part(number, at) => {
                    let runs = brought.parts.get(number).ok_or(Error::InvalidPart { number: *number })?;
                    self.used.insert(*number);
                    part(runs, *at)?
                }
                Origin::File(source, at) => {
                    let source = before.find(source, brought)?;
                    part(&before.files[&source].data, *at)?
                }
            };
            self.files.get_mut(&file).unwrap().data.write(write.offset, &bytes);
        }
        Ok(())
    }

    fn link(&mut self, step: &LinkFile, brought: &Brought) -> Outcome {
        let file = self.find_file(&step.file, brought)?;
        let to = step.to.as_str();
        if is_directory(to) {
            return Err(Error::invalid("a file does not have a directory's name"));
        }
        self.check_new(to)?;
        if self.exists(to) {
            return Err(Error::FileExists);
        }
        self.set(file, &step.set);
        self.names.insert(to.to_owned(), file);
        self.touch_parent(to, brought);
        Ok(Expected::Node(Some(to.to_owned())))
    }

    fn unlink(&mut self, step: &UnlinkFile, brought: &Brought) -> Outcome {
        let file = self.find_file(&step.file, brought)?;
        let key = step.file.key.as_ref().unwrap().as_str();
        self.names.remove(key);
        if self.links(file) > 0 {
            self.set(file, &step.set);
        } else if step.keep {
            self.set(file, &step.set);
            self.orphans.insert(file);
        }
        self.touch_parent(key, brought);
        Ok(Expected::Done)
    }

    fn check_directory(&self, key: &str, object: ObjectId, brought: &Brought) -> Result<(), Error> {
        if !self.any_under(key) {
            return Err(if self.names.contains_key(path(key)) { Error::NotDirectory } else { Error::NoSuchKey });
        }
        let known = brought.objects.get(&object);
        if object != ObjectId(0) && (known.is_none() || known != self.names.get(key)) {
            return Err(Error::Changed);
        }
        Ok(())
    }

    fn remove_directory(&mut self, file: &FileRef, brought: &Brought) -> Outcome {
        let key = file.key.as_ref().ok_or(Error::NoSuchKey)?.as_str();
        if !is_directory(key) {
            return Err(Error::NotDirectory);
        }
        self.check_directory(key, file.object, brought)?;
        if self.has_entries(key) {
            return Err(Error::NotEmpty);
        }
        self.names.remove(key);
        self.touch_parent(key, brought);
        Ok(Expected::Done)
    }

    /// A name moves; where there are versions, what has it is another file from then on.
    pub fn move_name(&mut self, from: &str, to: &str) {
        let file = self.names.remove(from).unwrap();
        let moved = if self.versioned == Versioned::Never { file } else { self.add(self.files[&file].clone()) };
        self.names.insert(to.to_owned(), moved);
    }

    fn rename(&mut self, step: &RenameFile, brought: &Brought) -> Outcome {
        let from = step.file.key.as_ref().ok_or(Error::NoSuchKey)?.as_str();
        let to = step.to.as_str();
        let directory = is_directory(from);
        let target = if step.onto == Onto::Exchange {
            self.exchange(&step.file, from, to, brought)?;
            if directory { format!("{}/", path(to)) } else { path(to).to_owned() }
        } else {
            if directory != is_directory(to) {
                return Err(Error::invalid("a directory's name ends with a slash, and no file's does"));
            }
            self.check_new(to)?;
            let same = if directory {
                self.rename_directory(step, from, to, brought)?
            } else {
                self.rename_file(step, from, to, brought)?
            };
            if same {
                return Ok(Expected::Done);
            }
            to.to_owned()
        };
        if !step.set.is_empty() {
            if !self.names.contains_key(&target) {
                self.marker(&target, brought);
            }
            self.set(self.names[&target], &step.set);
        }
        self.touch_parent(from, brought);
        self.touch_parent(&target, brought);
        Ok(Expected::Node(Some(target)))
    }

    fn rename_file(&mut self, step: &RenameFile, from: &str, to: &str, brought: &Brought) -> Result<bool, Error> {
        let file = self.find_file(&step.file, brought)?;
        if step.onto == Onto::Nothing && self.exists(to) {
            return Err(Error::FileExists);
        }
        if self.any_under(&format!("{to}/")) {
            return Err(Error::IsDirectory);
        }
        let there = self.names.get(to).copied();
        if there == Some(file) {
            return Ok(true);
        }
        if let Some(there) = there.filter(|there| step.keep && self.links(*there) == 1) {
            self.set(there, &step.set);
            self.orphans.insert(there);
        }
        self.move_name(from, to);
        Ok(false)
    }

    fn rename_directory(&mut self, step: &RenameFile, from: &str, to: &str, brought: &Brought) -> Result<bool, Error> {
        self.check_directory(from, step.file.object, brought)?;
        if step.onto == Onto::Nothing && self.exists(to) {
            return Err(Error::FileExists);
        }
        if from == to {
            return Ok(true);
        }
        if to.starts_with(from) {
            return Err(Error::invalid("a directory cannot be moved into itself"));
        }
        if self.names.contains_key(path(to)) {
            return Err(Error::NotDirectory);
        }
        if self.has_entries(to) {
            return Err(Error::NotEmpty);
        }
        self.names.remove(to);
        self.move_all(from, to);
        Ok(false)
    }

    fn move_all(&mut self, from: &str, to: &str) {
        let keys: Vec<String> = self.names.keys().filter(|key| key.starts_with(from)).cloned().collect();
        for key in keys {
            let target = format!("{to}{}", &key[from.len()..]);
            self.move_name(&key, &target);
        }
    }

    fn exchange(&mut self, file: &FileRef, from: &str, to: &str, brought: &Brought) -> Result<(), Error> {
        if is_directory(from) {
            self.check_directory(from, file.object, brought)?;
        } else {
            self.find(file, brought)?;
        }
        if !is_directory(to) && !self.names.contains_key(to) {
            return Err(Error::NoSuchKey);
        }
        if is_directory(to) {
            self.check_directory(to, ObjectId(0), brought)?;
        }
        if path(from) == path(to) {
            return if from == to { Ok(()) } else { Err(Error::FileExists) };
        }
        let inside = |outer: &str, inner: &str| inner.starts_with(&format!("{}/", path(outer)));
        if inside(from, to) || inside(to, from) {
            return Err(Error::invalid("a directory cannot change places with what is in it"));
        }
        match (is_directory(from), is_directory(to)) {
            (false, false) if self.names[from] == self.names[to] => {}
            (false, false) => self.swap(from, to),
            (true, true) => {
                let under = |names: &BTreeMap<String, u64>, prefix: &str| -> Vec<String> {
                    names
                        .keys()
                        .filter(|key| key.starts_with(prefix))
                        .map(|key| key[prefix.len()..].to_owned())
                        .collect()
                };
                let (ours, theirs) = (under(&self.names, from), under(&self.names, to));
                for rest in ours.iter().filter(|rest| theirs.contains(rest)) {
                    let (one, two) = (format!("{from}{rest}"), format!("{to}{rest}"));
                    if self.names[&one] != self.names[&two] {
                        self.swap(&one, &two);
                    }
                }
                for rest in ours.iter().filter(|rest| !theirs.contains(rest)) {
                    self.move_name(&format!("{from}{rest}"), &format!("{to}{rest}"));
                }
                for rest in theirs.iter().filter(|rest| !ours.contains(rest)) {
                    self.move_name(&format!("{to}{rest}"), &format!("{from}{rest}"));
                }
            }
            (false, true) => self.swap_kinds(from, to)?,
            (true, false) => self.swap_kinds(to, from)?,
        }
        Ok(())
    }

    fn swap(&mut self, one: &str, two: &str) {
        let (first, second) = (self.names[one], self.names[two]);
        let moved = |model: &mut Self, file: u64| match model.versioned {
            Versioned::Never => file,
            _ => model.add(model.files[&file].clone()),
        };
        let (first, second) = (moved(self, first), moved(self, second));
        self.names.insert(two.to_owned(), first);
        self.names.insert(one.to_owned(), second);
    }

    fn swap_kinds(&mut self, file: &str, directory: &str) -> Result<(), Error> {
        if self.names.contains_key(path(directory)) || self.any_under(&format!("{file}/")) {
            return Err(Error::FileExists);
        }
        self.move_all(directory, &format!("{file}/"));
        self.move_name(file, path(directory));
        Ok(())
    }

    fn set_attributes(&mut self, step: &SetFileAttributes, brought: &Brought) -> Outcome {
        if let Some(key) = step.file.key.as_ref().map(ObjectKey::as_str)
            && is_directory(key)
            && step.file.object == ObjectId(0)
            && !self.names.contains_key(key)
            && self.any_under(key)
        {
            self.marker(key, brought);
        }
        let file = self.find(&step.file, brought)?;
        self.set(file, &step.set);
        Ok(node(&step.file))
    }

    fn patch(&mut self, step: &PatchFile, brought: &Brought) -> Outcome {
        if step.file.key.as_ref().is_some_and(|key| is_directory(key.as_str())) {
            return Err(Error::IsDirectory);
        }
        let file = self.find(&step.file, brought)?;
        let before = self.files[&file].data.clone();
        if let Some(size) = step.size {
            self.files.get_mut(&file).unwrap().data.resize(size);
        }
        let resized = self.files[&file].data.clone();
        // A file that is written from itself is read as it was before the step.
        self.files.get_mut(&file).unwrap().data = before;
        let mut data = self.clone();
        data.files.get_mut(&file).unwrap().data = resized;
        self.write_from(&mut data, file, &step.writes, brought)?;
        self.used.clone_from(&data.used);
        self.files.insert(file, data.files[&file].clone());
        self.set(file, &step.set);
        Ok(node(&step.file))
    }

    /// Writes into `target`, reading files as they are here.
    fn write_from(&self, target: &mut Self, file: u64, writes: &[FileWrite], brought: &Brought) -> Result<(), Error> {
        for write in writes {
            let mut scratch = self.clone();
            let blank = scratch.add(File::default());
            scratch.write(blank, &[FileWrite { offset: 0, ..write.clone() }], brought)?;
            target.used.extend(scratch.used);
            let bytes = scratch.files[&blank].data.clone();
            target.files.get_mut(&file).unwrap().data.write(write.offset, &bytes);
        }
        Ok(())
    }

    fn release(&mut self, object: ObjectId, brought: &Brought) -> Outcome {
        let file = brought.objects.get(&object).filter(|file| self.orphans.contains(file)).ok_or(Error::NoSuchKey)?;
        self.orphans.remove(file);
        Ok(Expected::Done)
    }
}

fn node(file: &FileRef) -> Expected {
    Expected::Node(file.key.as_ref().map(|key| key.as_str().to_owned()))
}
