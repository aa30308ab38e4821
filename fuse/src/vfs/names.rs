//! Names and attributes: lookups, directories, and what changes them.
//!
//! What the tree knows is answered without asking while the feed of changes is live; else the repository is asked each time.
//! Changes are steps of the stream of commits; a step that is refused because a name moved meanwhile is made again from what
//! the tree knows by then.

use std::collections::{BTreeMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use holdfast_core::command::mount::{
    CreateFile, FileRef, FileWrite, LinkFile, Onto, Origin, RenameFile, SetFileAttributes, Step, StepOutcome,
    UnlinkFile,
};
use holdfast_core::error::Error as Refusal;
use holdfast_core::id::{ObjectId, Revision};
use holdfast_core::mount::{Answer, Call, LIST_ENTRIES_MAX, List, Node, STAT_PATHS_MAX, Stat, attribute};

use super::fetch::Missed;
use super::{Attr, Vfs};
use crate::attributes::{Attributes, Changes, Kind, time_changes};
use crate::error::{Errno, errno_of_refusal};
use crate::file::File;
use crate::names;
use crate::tree::{Begun, Ino, ROOT, Segment, Tree};

/// Times that a change is made again when names moved under it.
const ATTEMPTS_MAX: usize = 4;
/// Entries of the first page of a directory: small ones need no second, large ones come in full pages.
const FIRST_PAGE: u32 = 1_000;
/// Setting this attribute of a file or directory makes a snapshot of it; it is not kept.
pub const SNAPSHOT: &str = "user.holdfast.snapshot";
/// This attribute of every file and directory says what is written and not in the repository yet.
pub const UNSYNCED: &str = "user.holdfast.unsynced";
/// Longest target of a symbolic link. Source: POSIX, SYMLINK_MAX; Linux, PATH_MAX.
const TARGET_BYTES_MAX: usize = 4_095;

/// An entry of a directory.
#[derive(Clone, Debug)]
pub struct Shown {
    /// The name.
    pub name: OsString,
    /// What it is.
    pub segment: Segment,
    /// As the repository said it.
    pub node: Node,
    /// The revision of which that is.
    pub as_of: Revision,
    epoch: u64,
}

/// A directory that is read: what was listed stays, so that a position means the same entry while others come and go.
#[derive(Debug, Default)]
pub struct Listing {
    /// Entries, in the order of keys.
    pub entries: Vec<Shown>,
    /// How many of them the kernel was told of, from the first on.
    told: usize,
    held_back: Vec<Node>,
    after: Option<String>,
    at: Option<Revision>,
    /// The directory's key when it began, which that revision knows it by.
    prefix: String,
    epoch: u64,
    begun: Option<Begun>,
    /// Whether there are no more.
    pub done: bool,
}

impl Listing {
    /// Shows what was listed, as far as is known how.
    fn show(&mut self, as_of: Revision) {
        let nodes = std::mem::take(&mut self.held_back);
        let directories: HashSet<String> =
            nodes.iter().filter_map(|node| node.key.as_ref()?.as_str().strip_suffix('/').map(str::to_owned)).collect();
        let last = nodes.last().and_then(|node| node.key.clone());
        let mut nodes = nodes.into_iter();
        while let Some(node) = nodes.next() {
            let Some(key) = node.key.as_ref().map(|key| key.as_str().to_owned()) else { continue };
            let Some(name) = key.strip_prefix(&self.prefix) else { continue };
            let is_directory = name.ends_with('/');
            // Whether a directory has the name of a file is known once the listing is past it.
            let known =
                self.done || is_directory || last.as_ref().is_some_and(|last| *last.as_str() >= *format!("{key}/"));
            if !known {
                self.held_back.push(node);
                self.held_back.extend(nodes);
                break;
            }
            let text = if is_directory { &name[..name.len() - 1] } else { name };
            let alias = !is_directory && directories.contains(&key);
            let (name, segment) = (names::show(text, alias), segment(text, is_directory));
            self.entries.push(Shown { name, segment, node, as_of, epoch: self.epoch });
        }
    }

    /// The kernel was told of an entry, or it is gone.
    pub fn tell(&mut self, entry: usize) {
        if entry == self.told {
            self.told += 1;
        }
    }
}

/// What a name leads to, as far as is known without asking.
enum Known {
    Here(Ino),
    Nothing,
    Unknown,
}

/// Which object a commit was told to keep when its last name goes, if any.
type Kept = Arc<Mutex<Option<ObjectId>>>;

/// What a new file is.
#[derive(Clone, Debug)]
pub struct Make {
    /// Type and permissions.
    pub attributes: Attributes,
    /// Target, of a symbolic link.
    pub target: Option<Vec<u8>>,
}

impl Vfs {
    /// What has a name in a directory.
    ///
    /// # Errors
    /// `ENOENT`.
    pub async fn lookup(&self, parent: Ino, name: &OsStr) -> Result<Attr, Errno> {
        let name = names::parse(name)?;
        let known = {
            let mut tree = self.tree();
            let known = self.known(&tree, parent, &name);
            if let Known::Here(ino) = known {
                tree.looked_up(ino);
            }
            known
        };
        match known {
            Known::Here(ino) => return self.attr_of(ino),
            Known::Nothing => return Err(Errno::ENOENT),
            Known::Unknown => {}
        }
        if name.is_shortened {
            return self.lookup_listed(parent, &name.shown).await;
        }
        let ino = self.ask(parent, &name.text, name.alias).await?;
        self.tree().looked_up(ino);
        self.attr_of(ino)
    }

    fn known(&self, tree: &Tree, parent: Ino, name: &names::Name) -> Known {
        if name.alias || name.is_shortened || !self.trusts_tree() {
            return Known::Unknown;
        }
        let of = |directory| tree.child(parent, &segment(&name.text, directory));
        match (of(true), of(false)) {
            (Some((ino, true)), _) | (None, Some((ino, true))) => Known::Here(ino),
            // Where others may make names, the next open must see what they closed a moment ago.
            (None, None) if self.is_alone() && tree.is_complete(parent) => Known::Nothing,
            _ => Known::Unknown,
        }
    }

    /// Whether the kernel may keep that nothing has a name: nobody else makes names here, or all in the directory are known.
    #[must_use]
    pub fn is_absent(&self, parent: Ino, name: &OsStr) -> bool {
        let Ok(name) = names::parse(name) else { return false };
        match self.known(&self.tree(), parent, &name) {
            Known::Nothing => true,
            Known::Here(_) => false,
            Known::Unknown => self.is_alone() && !name.alias && !name.is_shortened,
        }
    }

    /// A name that is too long to be shown whole is found by listing.
    async fn lookup_listed(&self, parent: Ino, shown: &OsStr) -> Result<Attr, Errno> {
        let mut listing = Listing::default();
        while !listing.done {
            self.list_more(parent, &mut listing).await?;
        }
        let found = listing.entries.into_iter().find(|entry| entry.name == shown).ok_or(Errno::ENOENT)?;
        self.adopt_attr(parent, &found)
    }

    /// Asks for a name; its inode.
    async fn ask(&self, parent: Ino, text: &str, alias: bool) -> Result<Ino, Errno> {
        for _ in 0..ATTEMPTS_MAX {
            let path = self.tree().key_in(parent, &segment(text, false)).ok_or(Errno::ENOENT)?;
            let (entry, as_of) = self.stat_one(path).await?;
            let mut tree = self.tree();
            let mut unsure = false;
            let told = [(entry.directory, true), (entry.file, false)].map(|(node, directory)| {
                let segment = segment(text, directory);
                match node {
                    Some(node) => {
                        let there = tree.adopt(parent, &segment, node, as_of);
                        // An older answer than what is known gives no name.
                        unsure |= tree.child(parent, &segment).is_none() && !tree.is_outdated(parent, &segment, as_of);
                        tree.drop_nameless(there);
                    }
                    None => drop(tree.absent(parent, &segment, as_of)),
                }
                tree.child(parent, &segment).map(|(ino, _)| ino)
            });
            match told {
                _ if unsure => {}
                [Some(directory), _] if !alias => return Ok(directory),
                [directory, Some(file)] if alias == directory.is_some() => return Ok(file),
                _ => return Err(Errno::ENOENT),
            }
        }
        Err(Errno::EIO)
    }

    /// The inode of a name, for whoever walks.
    pub(super) async fn find_segment(&self, parent: Ino, wanted: Segment) -> Result<Ino, Errno> {
        let path = self.tree().key_in(parent, &segment(&wanted.text, false)).ok_or(Errno::ENOENT)?;
        let (entry, as_of) = self.stat_one(path).await?;
        let node = if wanted.directory { entry.directory } else { entry.file };
        let mut tree = self.tree();
        let ino = tree.adopt(parent, &wanted, node.ok_or(Errno::ENOENT)?, as_of);
        tree.looked_up(ino);
        Ok(ino)
    }

    pub(super) async fn refresh_root(&self) -> Result<(), crate::client::Error> {
        let path = self.options.prefix.trim_end_matches('/').to_owned();
        let call = Call::Stat(Stat { paths: vec![path] });
        let told = self.remote.call(&call, Bytes::new(), &[], Vfs::deadline()).await?;
        let Answer::Entries(entries) = told.answer else { return Err(crate::client::Error::unexpected()) };
        let node = entries.into_iter().next().and_then(|entry| entry.directory).unwrap_or_default();
        self.tree().update(ROOT, node, told.revision);
        Ok(())
    }

    /// Asks what an inode is now.
    ///
    /// # Errors
    /// `ESTALE` when its name is gone or leads to something else.
    pub(super) async fn refresh(&self, ino: Ino) -> Result<(), Errno> {
        if ino == ROOT {
            return self.refresh_root().await.map_err(|error| error.errno());
        }
        for _ in 0..ATTEMPTS_MAX {
            let name = self.tree().get(ino).ok_or(Errno::ESTALE)?.names.last().cloned();
            let Some((parent, segment)) = name else { return self.hold_what_is_open(ino).await };
            let path = self.tree().key_in(parent, &Segment { directory: false, ..segment.clone() });
            let (entry, as_of) = self.stat_one(path.ok_or(Errno::ESTALE)?).await?;
            let node = if segment.directory { entry.directory } else { entry.file };
            let mut tree = self.tree();
            if tree.child(parent, &segment).map(|(there, _)| there) != Some(ino) {
                // This mount moved it meanwhile, or it was found to be another's.
                match tree.get(ino).is_some_and(|inode| !inode.names.is_empty()) {
                    true => continue,
                    false => return Err(Errno::ESTALE),
                }
            }
            let there = node.map(|node| tree.adopt(parent, &segment, node, as_of));
            let is_there = match there {
                Some(there) => {
                    tree.drop_unknown(there);
                    there == ino
                }
                None => !tree.absent(parent, &segment, as_of),
            };
            return if is_there { Ok(()) } else { Err(Errno::ESTALE) };
        }
        Err(Errno::ESTALE)
    }

    /// An inode without a name that is open here and that the session does not hold: another client removed or replaced it. What
    /// it was is held from now on, as after an unlink here.
    async fn hold_what_is_open(&self, ino: Ino) -> Result<(), Errno> {
        if self.is_held_or_closed(ino) {
            return Ok(());
        }
        let make = move |tree: &Tree| {
            let step = tree.adoption(ino).map(Step::Adopt).ok_or(Errno::ESTALE)?;
            Ok((vec![step], Bytes::new()))
        };
        let (outcomes, at) = self.submit_at(make).await?;
        self.adopted(ino, outcomes.into_iter().next().ok_or(Errno::EIO)?, at)
    }

    fn is_held_or_closed(&self, ino: Ino) -> bool {
        self.tree().get(ino).is_none_or(|inode| inode.directory || inode.opens == 0 || inode.held)
    }

    /// What became of an adoption, by a commit at a revision.
    pub(super) fn adopted(&self, ino: Ino, outcome: StepOutcome, at: Revision) -> Result<(), Errno> {
        match outcome {
            StepOutcome::Node(node) if node.key.is_none() => {
                if let Some(file) = self.open_file(ino) {
                    file.state().rebase(&node, at);
                }
                let mut tree = self.tree();
                tree.update(ino, node, at);
                if let Some(inode) = tree.get_mut(ino) {
                    inode.held = true;
                }
                Ok(())
            }
            StepOutcome::Node(_) | StepOutcome::Done => Err(Errno::ESTALE),
            StepOutcome::Refused(refusal) => Err(errno_of_refusal(&refusal)),
        }
    }

    /// Attributes of an inode: as known while the feed is live, else as the repository says.
    ///
    /// # Errors
    /// `ESTALE`.
    pub async fn getattr(&self, ino: Ino) -> Result<Attr, Errno> {
        let known = self.trusts_tree() && self.tree().is_fresh(ino);
        if !known {
            let open = self.open_file(ino).is_some();
            match self.refresh(ino).await {
                // An open file that another client removed is still what it was.
                Err(Errno::ESTALE) if open => {}
                refreshed => refreshed?,
            }
        }
        self.attr_of(ino)
    }

    /// Attributes of an inode, with what is written and not committed.
    pub(super) fn attr_of(&self, ino: Ino) -> Result<Attr, Errno> {
        let file = self.open_file(ino);
        let tree = self.tree();
        let inode = tree.get(ino).ok_or(Errno::ESTALE)?;
        let node = &inode.node;
        let mut attributes = Attributes::of(node, inode.directory, &self.options.defaults);
        let (mut size, mut allocated) = (node.size, node.allocated);
        if let Some(file) = file {
            let state = file.state();
            size = state.shown_size();
            allocated = allocated.max(size.min(allocated + state.dirty.as_ref().map_or(0, crate::layer::Layer::bytes)));
            if let Some(time) = state.mtime {
                (attributes.mtime, attributes.ctime) = (time, time);
            }
        }
        let links = if inode.names.is_empty() && ino != ROOT { 0 } else { node.links.max(1) };
        // What is in a directory is not counted: 1 says so.
        let links = if inode.directory { 1 } else { links };
        if inode.directory {
            (size, allocated) = (4096, 4096);
        }
        Ok(Attr { ino, size, links, allocated, attributes, generation: node.generation })
    }

    /// Changes attributes.
    ///
    /// # Errors
    /// As POSIX says of chmod, chown, utimensat.
    pub async fn setattr(&self, ino: Ino, changes: Changes) -> Result<Attr, Errno> {
        self.writable()?;
        if let Some(size) = changes.size {
            self.truncate(ino, size).await?;
        }
        if changes.is_of_metadata() {
            let current = self.attr_of(ino)?.attributes;
            // The root of a bucket is no object, so nothing of it can change; what it is already may be said.
            if ino == ROOT && self.options.prefix.is_empty() {
                return if changes.leaves(&current) { self.attr_of(ino) } else { Err(Errno::EPERM) };
            }
            let set = changes.metadata(&current, Vfs::now());
            self.set_metadata(ino, set).await?;
            if changes.mtime.is_some()
                && let Some(file) = self.open_file(ino)
            {
                file.state().mtime = None;
            }
        }
        self.attr_of(ino)
    }

    async fn set_metadata(&self, ino: Ino, set: BTreeMap<String, Option<String>>) -> Result<(), Errno> {
        let (outcome, at) = self
            .change(Some(ino), move |tree| {
                let file = tree.file(ino).ok_or(Errno::ESTALE)?;
                // The root of a bucket is no object.
                if file.key.is_none() && ino == ROOT {
                    return Err(Errno::EPERM);
                }
                Ok((Step::SetAttributes(SetFileAttributes { file, set: set.clone() }), Bytes::new()))
            })
            .await?;
        if let StepOutcome::Node(node) = outcome {
            let mut tree = self.tree();
            // A directory that becomes real is another object, and the same inode.
            if tree.by_object(node.object).is_none() {
                tree.update(ino, node, at);
            }
        }
        Ok(())
    }

    /// One step, made again while names move under it; `ino` is looked up again then. What became of it, and the revision.
    async fn change(
        &self,
        ino: Option<Ino>,
        make: impl Fn(&Tree) -> Result<(Step, Bytes), Errno> + Clone + Send + 'static,
    ) -> Result<(StepOutcome, Revision), Errno> {
        self.writable()?;
        for attempt in 1.. {
            let make = make.clone();
            let (outcomes, at) = self
                .submit_at(move |tree| {
                    let (step, bytes) = make(tree)?;
                    Ok((vec![step], bytes))
                })
                .await?;
            match outcomes.into_iter().next().ok_or(Errno::EIO)? {
                StepOutcome::Refused(Refusal::Changed | Refusal::NoSuchKey)
                    if attempt < ATTEMPTS_MAX && ino.is_some() =>
                {
                    if let Some(ino) = ino {
                        self.refresh(ino).await?;
                    }
                }
                StepOutcome::Refused(refusal) => return Err(errno_of_refusal(&refusal)),
                outcome => return Ok((outcome, at)),
            }
        }
        Err(Errno::EIO)
    }

    /// Makes a file, directory, symbolic link or special file.
    ///
    /// # Errors
    /// `EEXIST`, `ENOENT`, `ENOTDIR`, `ENAMETOOLONG`.
    pub async fn make(&self, parent: Ino, name: &OsStr, make: Make) -> Result<Attr, Errno> {
        let name = names::parse(name)?;
        if name.alias || name.is_shortened {
            return Err(Errno::EINVAL);
        }
        let directory = make.attributes.kind == Kind::Directory;
        let target = make.target.unwrap_or_default();
        if target.len() > TARGET_BYTES_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        let segment = segment(&name.text, directory);
        let attributes = self.inherit(parent, make.attributes)?;
        let (metadata, place) = (attributes.metadata(), segment.clone());
        let made = self
            .change(None, move |tree| {
                let key = tree.key_in(parent, &place).ok_or(Errno::ENOENT)?;
                let key = key.parse().map_err(|_| Errno::ENAMETOOLONG)?;
                let write = FileWrite { offset: 0, length: target.len() as u64, from: Origin::Sent(0) };
                let bytes = if target.is_empty() { Vec::new() } else { vec![write] };
                let content_type = directory.then(|| attribute::DIRECTORY_TYPE.to_owned());
                let create = CreateFile { key, metadata: metadata.clone(), content_type, bytes };
                Ok((Step::Create(create), Bytes::copy_from_slice(&target)))
            })
            .await;
        let ino = self.named_by_commit(parent, &segment, made)?;
        if directory {
            self.tree().made(ino);
        }
        self.attr_of(ino)
    }

    /// A commit gave something a name; the kernel is told of it.
    fn named_by_commit(
        &self,
        parent: Ino,
        segment: &Segment,
        outcome: Result<(StepOutcome, Revision), Errno>,
    ) -> Result<Ino, Errno> {
        let told = match outcome {
            Ok((StepOutcome::Node(node), at)) => Ok((node, at)),
            Ok(_) => Err(Errno::EIO),
            Err(errno) => Err(errno),
        };
        // What is there instead may be another client's, and was not told yet.
        let (node, at) = told.inspect_err(|_| self.tree().doubt(parent))?;
        let ino = {
            let mut tree = self.tree();
            let ino = tree.created(parent, segment, node, at);
            tree.looked_up(ino);
            ino
        };
        self.entries_changed(parent, at);
        Ok(ino)
    }

    /// What is made in a directory with the set-group-id bit has its group, and a directory the bit, too. Source: Linux,
    /// inode(7).
    fn inherit(&self, parent: Ino, mut attributes: Attributes) -> Result<Attributes, Errno> {
        const SET_GROUP_ID: u32 = 0o2000;
        let above = self.attr_of(parent)?.attributes;
        if above.mode & SET_GROUP_ID != 0 {
            attributes.gid = above.gid;
            if attributes.kind == Kind::Directory {
                attributes.mode |= SET_GROUP_ID;
            }
        }
        Ok(attributes)
    }

    /// The times of a directory changed with its entries.
    fn entries_changed(&self, directory: Ino, at: Revision) {
        let now = Vfs::now();
        self.tree().entries_changed(directory, time_changes(Some(now), Some(now)), at);
    }

    /// Opens a file that was just made: nobody has to be asked what it is.
    ///
    /// # Errors
    /// `ESTALE`.
    pub async fn open_new(&self, ino: Ino) -> Result<(), Errno> {
        let _turn = self.lock_file(ino).await?;
        let mut files = self.files();
        let mut tree = self.tree();
        let inode = tree.get_mut(ino).ok_or(Errno::ESTALE)?;
        inode.opens += 1;
        inode.cached = Some(inode.node.generation);
        self.file_in(&mut files, &mut tree, ino)?;
        Ok(())
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// `EINVAL` when it is none.
    pub async fn readlink(self: &Arc<Self>, ino: Ino) -> Result<Bytes, Errno> {
        let attr = self.getattr(ino).await?;
        if attr.attributes.kind != Kind::Symlink {
            return Err(Errno::EINVAL);
        }
        let file = {
            let tree = self.tree();
            let inode = tree.get(ino).ok_or(Errno::ESTALE)?;
            File::new(ino, &inode.node, inode.as_of)
        };
        let base = file.state().base();
        if base.size > TARGET_BYTES_MAX as u64 {
            return Err(Errno::ENAMETOOLONG);
        }
        if base.size == 0 {
            return Ok(Bytes::new());
        }
        self.base_bytes(&file, &base, &(0..base.size), 0..0).await.map_err(|missed| match missed {
            Missed::Changed => Errno::ESTALE,
            Missed::Failed(errno) => errno,
        })
    }

    /// Gives a file one more name.
    ///
    /// # Errors
    /// `EEXIST`, `EMLINK`, `EPERM` for a directory.
    pub async fn link(&self, ino: Ino, parent: Ino, name: &OsStr) -> Result<Attr, Errno> {
        let name = names::parse(name)?;
        if name.alias || name.is_shortened {
            return Err(Errno::EINVAL);
        }
        if self.tree().get(ino).is_some_and(|inode| inode.directory) {
            return Err(Errno::EPERM);
        }
        let segment = segment(&name.text, false);
        let place = segment.clone();
        let now = Vfs::now();
        let linked = self
            .change(Some(ino), move |tree| {
                let to = tree.key_in(parent, &place).ok_or(Errno::ENOENT)?;
                let file = tree.file(ino).ok_or(Errno::ESTALE)?;
                let to = to.parse().map_err(|_| Errno::ENAMETOOLONG)?;
                Ok((Step::Link(LinkFile { file, to, set: time_changes(None, Some(now)) }), Bytes::new()))
            })
            .await;
        self.named_by_commit(parent, &segment, linked)?;
        self.attr_of(ino)
    }

    /// The inode and segment of a name that is to be removed or moved: the kernel has looked it up.
    async fn named(&self, parent: Ino, name: &OsStr) -> Result<(Ino, Segment), Errno> {
        let parsed = names::parse(name)?;
        let known = {
            let tree = self.tree();
            let directory = segment(&parsed.text, true);
            let file = segment(&parsed.text, false);
            let of = |segment: Segment| tree.child(parent, &segment).map(|(ino, _)| (ino, segment));
            if parsed.alias { of(file) } else { of(directory).or_else(|| of(file)) }
        };
        if let Some(known) = known {
            return Ok(known);
        }
        let ino = self.lookup(parent, name).await?.ino;
        let mut tree = self.tree();
        let names = tree.get(ino).map(|inode| inode.names.clone()).unwrap_or_default();
        tree.forget(ino, 1);
        let segment = names.into_iter().rev().find(|(of, _)| *of == parent).map(|(_, segment)| segment);
        Ok((ino, segment.ok_or(Errno::ENOENT)?))
    }

    /// Removes a name of a file. An open file lives on.
    ///
    /// # Errors
    /// `ENOENT`, `EISDIR`.
    pub async fn unlink(&self, parent: Ino, name: &OsStr) -> Result<(), Errno> {
        let (ino, segment) = self.named(parent, name).await?;
        if segment.directory {
            return Err(Errno::EISDIR);
        }
        let (now, place, kept) = (Vfs::now(), segment.clone(), Kept::default());
        let keeps = Arc::clone(&kept);
        let outcome = self
            .change(Some(ino), move |tree| {
                let key = tree.key_in(parent, &place).and_then(|key| key.parse().ok());
                let file = FileRef { key, object: tree.get(ino).ok_or(Errno::ENOENT)?.node.object };
                let set = time_changes(None, Some(now));
                Ok((Step::Unlink(UnlinkFile { file, keep: keep_if_open(tree, ino, &keeps), set }), Bytes::new()))
            })
            .await;
        let (_, at) = match outcome {
            Ok(done) => done,
            Err(errno) => {
                self.is_doubtful(parent, &segment);
                return Err(if errno == Errno::ESTALE { Errno::ENOENT } else { errno });
            }
        };
        {
            let mut tree = self.tree();
            tree.one_link_less(ino, at);
            tree.removed(parent, &segment, ino, at);
            tree.held_if_nameless(ino);
        }
        self.entries_changed(parent, at);
        self.release_if_closed(ino, &kept).await;
        Ok(())
    }

    /// What a name leads to after a change of it did not get through is to be asked for.
    fn is_doubtful(&self, parent: Ino, segment: &Segment) {
        let mut tree = self.tree();
        tree.doubt(parent);
        if let Some((ino, _)) = tree.child(parent, segment) {
            tree.look_again(ino);
        }
    }

    /// A commit was told to keep a file that was open; when it was closed meanwhile, nobody else gives it up.
    async fn release_if_closed(&self, ino: Ino, kept: &Kept) {
        let kept = kept.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(object) = kept else { return };
        let closed = self.tree().get(ino).is_none_or(|inode| inode.opens == 0 && inode.names.is_empty());
        if closed {
            // Refused when it has other names, and ends with the session at the latest.
            let _ = self.submit_one(move |_| Ok(Step::Release(object))).await;
        }
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// `ENOTEMPTY`, `ENOTDIR`, `ENOENT`.
    pub async fn rmdir(&self, parent: Ino, name: &OsStr) -> Result<(), Errno> {
        let (ino, segment) = self.named(parent, name).await?;
        if !segment.directory {
            return Err(Errno::ENOTDIR);
        }
        let removed = self
            .change(Some(ino), move |tree| {
                Ok((Step::RemoveDirectory(tree.file(ino).ok_or(Errno::ENOENT)?), Bytes::new()))
            })
            .await;
        let (_, at) = removed.inspect_err(|_| {
            self.is_doubtful(parent, &segment);
            self.tree().doubt(ino);
        })?;
        self.tree().removed(parent, &segment, ino, at);
        self.entries_changed(parent, at);
        Ok(())
    }

    /// Moves a name.
    ///
    /// # Errors
    /// As renameat2; `EXDEV` for a directory that holds too many names for one commit, so that `mv` copies.
    pub async fn rename(&self, from: (Ino, &OsStr), to: (Ino, &OsStr), onto: Onto) -> Result<(), Errno> {
        let (ino, source) = self.named(from.0, from.1).await?;
        let name = names::parse(to.1)?;
        let there = match self.named(to.0, to.1).await {
            Ok(there) => Some(there),
            Err(Errno::ENOENT) => None,
            Err(errno) => return Err(errno),
        };
        if there.is_none() && (name.alias || name.is_shortened) {
            return Err(Errno::EINVAL);
        }
        let target = match (&there, onto) {
            (Some((_, there)), Onto::Exchange) => there.clone(),
            _ => segment(&name.text, source.directory),
        };
        let kinds = there.as_ref().map(|(_, there)| (source.directory, there.directory));
        match kinds {
            Some((false, true)) if onto == Onto::Any => return Err(Errno::EISDIR),
            Some((true, false)) if onto == Onto::Any => return Err(Errno::ENOTDIR),
            _ => {}
        }
        let (now, place, open) = (Vfs::now(), target.clone(), there.as_ref().map(|(ino, _)| *ino));
        let (old_parent, new_parent) = (from.0, to.0);
        let (old, kept) = (source.clone(), Kept::default());
        let keeps = Arc::clone(&kept);
        let outcome = self
            .change(Some(ino), move |tree| {
                let key = tree.key_in(old_parent, &old).and_then(|key| key.parse().ok());
                let object = tree.get(ino).ok_or(Errno::ENOENT)?.node.object;
                let file = FileRef { key, object };
                let to = tree.key_in(new_parent, &place).ok_or(Errno::ENOENT)?;
                let to = to.parse().map_err(|_| Errno::ENAMETOOLONG)?;
                let keep = open.is_some_and(|ino| keep_if_open(tree, ino, &keeps));
                Ok((
                    Step::Rename(RenameFile { file, to, onto, keep, set: time_changes(None, Some(now)) }),
                    Bytes::new(),
                ))
            })
            .await;
        let outcome = outcome.inspect_err(|_| {
            self.is_doubtful(from.0, &source);
            self.is_doubtful(to.0, &target);
        })?;
        self.renamed(ino, (from.0, &source), (to.0, &target), onto, outcome).await?;
        if let Some(replaced) = open.filter(|replaced| *replaced != ino) {
            self.release_if_closed(replaced, &kept).await;
        }
        Ok(())
    }

    /// What a rename did to the tree.
    async fn renamed(
        &self,
        ino: Ino,
        from: (Ino, &Segment),
        to: (Ino, &Segment),
        onto: Onto,
        (outcome, at): (StepOutcome, Revision),
    ) -> Result<(), Errno> {
        {
            let mut tree = self.tree();
            let other = tree.child(to.0, to.1).map(|(ino, _)| ino);
            if let StepOutcome::Node(node) = outcome {
                tree.update(ino, node, at);
            }
            if onto == Onto::Exchange {
                tree.exchanged(from, to, at);
                other.into_iter().for_each(|ino| tree.look_again(ino));
            } else if other != Some(ino) || from == to {
                let replaced = other.filter(|other| *other != ino);
                replaced.into_iter().for_each(|other| tree.one_link_less(other, at));
                tree.renamed(ino, from, to, at);
                replaced.into_iter().for_each(|other| tree.held_if_nameless(other));
            }
        }
        self.entries_changed(from.0, at);
        self.entries_changed(to.0, at);
        if self.session.is_versioned() && from.1.directory {
            self.refresh_below(ino).await?;
        }
        Ok(())
    }

    /// In a bucket with versions a rename makes files other objects: their inodes stay.
    async fn refresh_below(&self, directory: Ino) -> Result<(), Errno> {
        let mut below = Vec::new();
        {
            let tree = self.tree();
            let mut open = vec![directory];
            while let Some(parent) = open.pop() {
                for (segment, ino) in tree.children(parent) {
                    open.extend(segment.directory.then_some(ino));
                    let path = tree.key_in(parent, &Segment { directory: false, ..segment.clone() });
                    below.extend(path.map(|path| (ino, segment.directory, path)));
                }
            }
        }
        for some in below.chunks(STAT_PATHS_MAX) {
            let (entries, as_of) = self.stat(some.iter().map(|(_, _, path)| path.clone()).collect()).await?;
            for ((ino, directory, _), entry) in some.iter().zip(entries) {
                let node = if *directory { entry.directory } else { entry.file };
                let Some(node) = node else { continue };
                if let Some(file) = self.open_file(*ino) {
                    file.state().rebase(&node, as_of);
                }
                self.tree().update(*ino, node, as_of);
            }
        }
        Ok(())
    }

    /// Lists more of a directory.
    ///
    /// # Errors
    /// `EIO` when the repository does not answer.
    pub async fn list_more(&self, directory: Ino, listing: &mut Listing) -> Result<(), Errno> {
        if listing.done {
            return Ok(());
        }
        let limit = if listing.at.is_none() {
            let tree = self.tree();
            listing.prefix = tree.key(directory).ok_or(Errno::ENOENT)?;
            (listing.epoch, listing.begun) = (tree.epoch(), tree.listing_begins(directory));
            FIRST_PAGE
        } else {
            LIST_ENTRIES_MAX as u32
        };
        let list = List { prefix: listing.prefix.clone(), after: listing.after.take(), limit, at: listing.at };
        let told = self.remote.call(&Call::List(list), Bytes::new(), &[], Vfs::deadline()).await;
        let told = told.map_err(|error| error.errno())?;
        let Answer::Listed(listed) = told.answer else { return Err(Errno::EIO) };
        let as_of = *listing.at.get_or_insert(told.revision);
        listing.after = listed.after;
        listing.done = listing.after.is_none();
        listing.held_back.extend(listed.nodes);
        listing.show(as_of);
        Ok(())
    }

    /// The kernel was told of everything that a listing found: the directory is complete, if nothing came between.
    pub fn listed(&self, directory: Ino, listing: &Listing) {
        if let Some(begun) = listing.begun.filter(|_| listing.done && listing.told == listing.entries.len())
            && self.trusts_tree()
        {
            self.tree().completed(directory, begun);
        }
    }

    /// Takes an entry of a directory into the tree, with its attributes; the kernel is told of it.
    ///
    /// # Errors
    /// `ESTALE`, when it went since it was listed.
    pub fn adopt_attr(&self, directory: Ino, entry: &Shown) -> Result<Attr, Errno> {
        let ino = {
            let mut tree = self.tree();
            if tree.is_outdated(directory, &entry.segment, entry.as_of) {
                return Err(Errno::ESTALE);
            }
            let ino = tree.adopt(directory, &entry.segment, entry.node.clone(), entry.as_of);
            let inode = tree.get(ino).ok_or(Errno::ESTALE)?;
            let (nameless, newer) = (inode.names.is_empty(), inode.as_of > entry.as_of);
            if nameless {
                tree.drop_unknown(ino);
                return Err(Errno::ESTALE);
            }
            if entry.epoch != tree.epoch() && !newer {
                tree.look_again(ino);
            }
            tree.looked_up(ino);
            ino
        };
        self.attr_of(ino)
    }

    /// The kernel had no room for an entry: it is told of it with the next ones.
    pub fn not_told(&self, ino: Ino) {
        self.tree().untold(ino);
    }

    /// The directory above one.
    #[must_use]
    pub fn parent_of(&self, directory: Ino) -> Ino {
        self.tree().get(directory).and_then(|inode| inode.names.last().map(|(parent, _)| *parent)).unwrap_or(ROOT)
    }

    /// The kernel forgets lookups of an inode.
    pub fn forget(&self, ino: Ino, lookups: u64) {
        self.tree().forget(ino, lookups);
    }

    /// Extended attributes of a file.
    ///
    /// # Errors
    /// `ESTALE`.
    pub async fn xattrs(&self, ino: Ino) -> Result<BTreeMap<String, Vec<u8>>, Errno> {
        let mut xattrs = self.getattr(ino).await?.attributes.xattrs;
        let (bytes, age) = self.unsynced();
        xattrs.insert(UNSYNCED.into(), format!("{bytes} bytes {} ms", age.as_millis()).into_bytes());
        Ok(xattrs)
    }

    /// An extended attribute of a file, if that is known without asking; `None` when it is not.
    ///
    /// # Errors
    /// `ESTALE`.
    #[must_use]
    pub fn known_xattr(&self, ino: Ino, name: &str) -> Option<Result<Option<Vec<u8>>, Errno>> {
        if name == UNSYNCED || !self.trusts_tree() || !self.tree().is_fresh(ino) {
            return None;
        }
        Some(self.attr_of(ino).map(|mut attr| attr.attributes.xattrs.remove(name)))
    }

    /// Sets an extended attribute, or removes it. `must` demands that it is there, or is not.
    ///
    /// # Errors
    /// `EEXIST`, `ENODATA`, `ENOSPC`, `EOPNOTSUPP` for names that are not of users, `EPERM` for ours.
    pub async fn set_xattr(&self, ino: Ino, name: &str, value: Option<&[u8]>, must: Option<bool>) -> Result<(), Errno> {
        self.writable()?;
        if name == SNAPSHOT && value.is_some() {
            return self.snapshot(ino).await;
        }
        if name.starts_with("user.holdfast.") {
            return Err(Errno::EPERM);
        }
        if !["user.", "trusted.", "security."].iter().any(|space| name.starts_with(space)) {
            return Err(Errno::EOPNOTSUPP);
        }
        let current = self.getattr(ino).await?.attributes;
        let there = current.xattrs.contains_key(name);
        match must {
            Some(true) if !there => return Err(Errno::ENODATA),
            Some(false) if there => return Err(Errno::EEXIST),
            _ => {}
        }
        let set = current.xattr_changes(name, value, Vfs::now())?;
        self.set_metadata(ino, set).await
    }

    /// Bytes and names that the bucket holds.
    ///
    /// # Errors
    /// `EIO`.
    pub async fn usage(&self) -> Result<(u64, u64), Errno> {
        let told = self.remote.call(&Call::Usage, Bytes::new(), &[], Vfs::deadline()).await;
        match told.map_err(|error| error.errno())?.answer {
            Answer::Usage { bytes, objects } => Ok((bytes, objects)),
            _ => Err(Errno::EIO),
        }
    }

    /// What is known counts again, or no more.
    pub(super) fn set_live(&self, live: bool) {
        if self.live.swap(live, Ordering::AcqRel) != live || !live {
            self.tree().begin_epoch();
        }
    }
}

fn segment(text: &str, directory: bool) -> Segment {
    Segment { text: text.to_owned(), directory }
}

/// Whether a file that loses a name is to be kept, as it is open; remembers what.
fn keep_if_open(tree: &Tree, ino: Ino, kept: &Kept) -> bool {
    let object = tree.get(ino).filter(|inode| inode.opens > 0).map(|inode| inode.node.object);
    *kept.lock().unwrap_or_else(PoisonError::into_inner) = object;
    object.is_some()
}
