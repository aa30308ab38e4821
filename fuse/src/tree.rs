//! What the mount knows of names and files: a table of inodes, and the names that lead to them.
//!
//! A key is never stored: it is the way from the root, so that a directory is renamed by moving one name. An inode is known
//! as long as the kernel knows it. What it says of a file counts while it is of the present *epoch*: whoever loses sight of
//! the feed begins a new one, and nothing that was known before is believed any more.
//!
//! **Older answers.** Answers come late: each says as of which revision it is, each inode remembers the newest that it was told,
//! and for each name that was changed lately it is known when. An older answer never undoes what is newer; what another
//! client has changed since counts only when it was asked for anew.
//!
//! **Complete directories.** Of a directory that this mount made, or listed to its end, every name is known: what is not known
//! of it is not there. That ends when the kernel forgets a name, when another client touches one that is not known, and with
//! the epoch.
//!
//! The number of an inode is its object's number plus one; of a directory that only its entries make, a hash of its key with
//! the highest bit set. An inode keeps its number while the kernel knows it, also when its object becomes another.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use holdfast_core::command::mount::FileRef;
use holdfast_core::id::{ObjectId, ObjectKey, Revision};
use holdfast_core::mount::{IMPLICIT, Node};

/// Number of an inode.
pub type Ino = u64;
/// The directory that is mounted.
pub const ROOT: Ino = 1;
/// Names of which it is remembered when they were changed; of older changes only that there were some.
const STAMPS_MAX: usize = 16_384;

/// One step of a key. A file and a directory may have the same text: S3 does not forbid it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Segment {
    /// Without slashes; may be empty (`a//b`).
    pub text: String,
    /// Whether a slash follows.
    pub directory: bool,
}

impl Segment {
    /// The steps of a path, and the last of them: `a/b` leads to a file, `a/b/` to a directory.
    #[must_use]
    pub fn of_path(path: &str) -> (Vec<Self>, Self) {
        let (path, directory) = path.strip_suffix('/').map_or((path, false), |path| (path, true));
        let (above, last) = path.rsplit_once('/').map_or((None, path), |(above, last)| (Some(above), last));
        let above = above.into_iter().flat_map(|above| above.split('/'));
        let above = above.map(|text| Self { text: text.to_owned(), directory: true });
        (above.collect(), Self { text: last.to_owned(), directory })
    }
}

/// A file or directory that the kernel knows.
#[derive(Clone, Debug)]
pub struct Inode {
    /// What the repository said last.
    pub node: Node,
    /// Its names that are known here, the latest last. Empty for one without a name.
    pub names: Vec<(Ino, Segment)>,
    /// Whether it is a directory.
    pub directory: bool,
    /// How often the kernel looked it up.
    lookups: u64,
    /// What is known in it, by name.
    entries: BTreeMap<Segment, Ino>,
    /// Open handles.
    pub opens: u32,
    /// It must stay known, whatever the kernel forgets: it has something to commit.
    pins: u32,
    epoch: u64,
    /// The revision of which `node` is.
    pub as_of: Revision,
    /// What is older does not count any more.
    expired_at: Revision,
    /// The epoch in which every name in it is known.
    complete: Option<u64>,
    /// How often it could be that not every name in it is known.
    doubts: u64,
    /// The generation of the content that the kernel may have pages of.
    pub cached: Option<Revision>,
    /// The key that it had when it lost its last name.
    pub gone: Option<String>,
    /// It has no name, and the session holds it.
    pub held: bool,
}

impl Inode {
    fn new(node: Node, directory: bool, epoch: u64, as_of: Revision) -> Self {
        Self {
            node,
            names: Vec::new(),
            directory,
            lookups: 0,
            entries: BTreeMap::new(),
            opens: 0,
            pins: 0,
            epoch,
            as_of,
            expired_at: 0,
            complete: None,
            doubts: 0,
            cached: None,
            gone: None,
            held: false,
        }
    }

    fn is_unknown(&self) -> bool {
        self.lookups == 0 && self.opens == 0 && self.pins == 0 && self.entries.is_empty()
    }

    /// Maybe not every name in it is known.
    fn doubt(&mut self) {
        self.doubts += 1;
        self.complete = None;
    }
}

/// When a name was changed last.
#[derive(Clone, Copy, Debug, Default)]
struct Stamp {
    at: Revision,
    /// By a commit of this mount, after which nothing had it.
    gone: bool,
}

/// When names were changed, by this mount or another client, as far as is known.
#[derive(Debug, Default)]
struct Stamps {
    by_name: HashMap<(Ino, Segment), Stamp>,
    /// Names that are not in it were changed up to here, perhaps.
    floor: Revision,
}

impl Stamps {
    fn set(&mut self, parent: Ino, segment: &Segment, at: Revision, gone: bool) {
        if self.by_name.len() >= STAMPS_MAX {
            self.floor = self.by_name.values().map(|stamp| stamp.at).fold(self.floor, Revision::max);
            self.by_name.clear();
        }
        let stamp = self.by_name.entry((parent, segment.clone())).or_default();
        if stamp.at <= at {
            *stamp = Stamp { at, gone };
        }
    }

    /// The revision at which a name was taken for good, when no later change is known.
    fn gone(&self, parent: Ino, segment: &Segment) -> Revision {
        let stamp = self.by_name.get(&(parent, segment.clone()));
        stamp.filter(|stamp| stamp.gone).map_or(0, |stamp| stamp.at)
    }

    /// The last change of a name that may be.
    fn perhaps(&self, parent: Ino, segment: &Segment) -> Revision {
        self.by_name.get(&(parent, segment.clone())).map_or(0, |stamp| stamp.at).max(self.floor)
    }
}

/// What was known of a directory when a listing of it began: see [`Tree::completed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begun {
    epoch: u64,
    doubts: u64,
}

/// The table.
#[derive(Debug)]
pub struct Tree {
    prefix: String,
    inodes: HashMap<Ino, Inode>,
    by_object: HashMap<ObjectId, Ino>,
    stamps: Stamps,
    epoch: u64,
}

impl Tree {
    /// The table of a mount of everything under `prefix`, which is empty or ends with a slash.
    #[must_use]
    pub fn new(prefix: &str, root: Node) -> Self {
        let root = Inode { lookups: 1, ..Inode::new(root, true, 0, 0) };
        let inodes = HashMap::from([(ROOT, root)]);
        Self { prefix: prefix.to_owned(), inodes, by_object: HashMap::new(), stamps: Stamps::default(), epoch: 0 }
    }

    /// An inode.
    #[must_use]
    pub fn get(&self, ino: Ino) -> Option<&Inode> {
        self.inodes.get(&ino)
    }

    /// An inode, to be changed.
    pub fn get_mut(&mut self, ino: Ino) -> Option<&mut Inode> {
        self.inodes.get_mut(&ino)
    }

    /// Number of inodes that are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inodes.len()
    }

    /// Whether nothing but the root is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.inodes.len() <= 1
    }

    /// The key of an inode: of a directory with a slash at the end, of the whole bucket empty. None without a name.
    #[must_use]
    pub fn key(&self, ino: Ino) -> Option<String> {
        /// Deeper than any key is long.
        const DEPTH_MAX: usize = 1_100;
        let mut segments = Vec::new();
        let mut at = ino;
        while at != ROOT {
            let (parent, segment) = self.inodes.get(&at)?.names.last()?;
            segments.push(segment);
            at = *parent;
            if segments.len() > DEPTH_MAX {
                return None;
            }
        }
        let mut key = self.prefix.clone();
        for segment in segments.iter().rev() {
            key.push_str(&segment.text);
            if segment.directory {
                key.push('/');
            }
        }
        Some(key)
    }

    /// The key of a name in a directory.
    #[must_use]
    pub fn key_in(&self, parent: Ino, segment: &Segment) -> Option<String> {
        let mut key = self.key(parent)?;
        key.push_str(&segment.text);
        if segment.directory {
            key.push('/');
        }
        Some(key)
    }

    /// Whether a name of an inode is below the directory with a key.
    #[must_use]
    pub fn is_below(&self, ino: Ino, directory: &str) -> bool {
        let names = self.inodes.get(&ino).map(|inode| &inode.names[..]).unwrap_or_default();
        names.iter().filter_map(|(parent, _)| self.key(*parent)).any(|above| above.starts_with(directory))
    }

    /// A file or directory as the protocol names it. The root of a bucket has no key.
    #[must_use]
    pub fn file(&self, ino: Ino) -> Option<FileRef> {
        let object = self.inodes.get(&ino)?.node.object;
        let key: Option<ObjectKey> = self.key(ino).and_then(|key| key.parse().ok());
        Some(FileRef { key, object })
    }

    /// The inode of a name, and whether it is of the present epoch.
    #[must_use]
    pub fn child(&self, parent: Ino, segment: &Segment) -> Option<(Ino, bool)> {
        let ino = self.at(parent, segment)?;
        Some((ino, self.is_fresh(ino)))
    }

    fn at(&self, parent: Ino, segment: &Segment) -> Option<Ino> {
        self.inodes.get(&parent)?.entries.get(segment).copied()
    }

    /// Whether what is known of an inode counts.
    #[must_use]
    pub fn is_fresh(&self, ino: Ino) -> bool {
        self.inodes.get(&ino).is_some_and(|inode| inode.epoch == self.epoch)
    }

    /// What was known counts no more.
    pub fn begin_epoch(&mut self) {
        self.epoch += 1;
    }

    /// The present epoch.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Another client changed an inode: what is known of it counts no more, nor does an answer that is older than the change.
    pub fn expire(&mut self, ino: Ino, at: Revision) {
        self.look_again(ino);
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.expired_at = inode.expired_at.max(at);
            inode.doubt();
        }
    }

    /// An inode is to be asked for again before it is told of.
    pub fn look_again(&mut self, ino: Ino) {
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.epoch = u64::MAX;
        }
    }

    /// Maybe not every name in a directory is known.
    pub fn doubt(&mut self, directory: Ino) {
        if let Some(inode) = self.inodes.get_mut(&directory) {
            inode.doubt();
        }
    }

    /// Another client changed what is behind a key, which may have been unknown here. Where the key leaves what is known before
    /// its last step: the name of a directory that may be new.
    pub fn hear(&mut self, key: &str, at: Revision) -> Option<(Ino, Segment)> {
        let (above, last) = Segment::of_path(key.strip_prefix(&self.prefix)?);
        let mut parent = ROOT;
        for segment in above {
            match self.at(parent, &segment) {
                Some(ino) => parent = ino,
                None => {
                    self.changed_elsewhere(parent, &segment, at);
                    return Some((parent, segment));
                }
            }
        }
        self.changed_elsewhere(parent, &last, at);
        None
    }

    /// Another client changed a name.
    fn changed_elsewhere(&mut self, parent: Ino, segment: &Segment, at: Revision) {
        self.stamps.set(parent, segment, at, false);
        if self.at(parent, segment).is_none() {
            self.doubt(parent);
            // A file beside a directory is shown by another name.
            let file = Segment { directory: false, ..segment.clone() };
            let beside = self.at(parent, &file).filter(|_| segment.directory);
            beside.into_iter().for_each(|ino| self.expire(ino, at));
        }
    }

    /// A name came to be that the table does not know: what is above it is not complete.
    pub fn doubt_above(&mut self, key: &str) {
        // What is not newer than anything changes nothing else.
        self.hear(key, 0);
    }

    /// Whether every name in a directory is known, and what is known of it counts.
    #[must_use]
    pub fn is_complete(&self, directory: Ino) -> bool {
        self.is_fresh(directory) && self.inodes.get(&directory).is_some_and(|inode| inode.complete == Some(self.epoch))
    }

    /// A listing of a directory begins, before anything is asked.
    #[must_use]
    pub fn listing_begins(&self, directory: Ino) -> Option<Begun> {
        self.inodes.get(&directory).map(|inode| Begun { epoch: self.epoch, doubts: inode.doubts })
    }

    /// Everything that a listing told was adopted. The directory is complete, unless something came between.
    pub fn completed(&mut self, directory: Ino, begun: Begun) {
        let epoch = self.epoch;
        if let Some(inode) = self.inodes.get_mut(&directory)
            && (Begun { epoch, doubts: inode.doubts }) == begun
        {
            inode.complete = Some(epoch);
        }
    }

    /// This mount made a directory, and adopted it: it is empty.
    pub fn made(&mut self, directory: Ino) {
        let epoch = self.epoch;
        if let Some(inode) = self.inodes.get_mut(&directory)
            && inode.epoch == epoch
            && inode.directory
            && inode.entries.is_empty()
        {
            inode.complete = Some(epoch);
        }
    }

    fn number(&self, key: &str, object: ObjectId) -> Ino {
        if object == IMPLICIT {
            let mut hasher = DefaultHasher::new();
            key.hash(&mut hasher);
            let mut ino = hasher.finish() | 1 << 63;
            while self.inodes.contains_key(&ino) {
                ino = ino.wrapping_add(1) | 1 << 63;
            }
            return ino;
        }
        let mut ino = object.0 + 1;
        // Taken by an inode whose object has become another.
        while self.inodes.contains_key(&ino) {
            ino = ino.wrapping_add(1) | 1 << 62;
        }
        ino
    }

    /// Takes what the repository said of a name, as of a revision. The inode is the one that was known, unless another object
    /// is behind the name now; the caller counts a lookup when it tells the kernel. An answer that is older than what is known
    /// of the name changes nothing; then the inode may be without the name.
    pub fn adopt(&mut self, parent: Ino, segment: &Segment, node: Node, as_of: Revision) -> Ino {
        if let Some(ino) = self.at(parent, segment) {
            if self.is_same(ino, &node) {
                self.update(ino, node, as_of);
                return ino;
            }
            if self.is_newer(ino, parent, segment, as_of) {
                return ino;
            }
            self.take_off(parent, segment);
            self.drop_unknown(ino);
        }
        let by_object = self
            .by_object(node.object)
            .filter(|ino| self.inodes.get(ino).is_some_and(|inode| inode.directory == segment.directory));
        match by_object {
            Some(ino) => self.adopt_known(ino, parent, segment, node, as_of),
            None => self.adopt_new(parent, segment, node, as_of),
        }
    }

    /// A directory that becomes real, or loses its row, is the same directory.
    fn is_same(&self, ino: Ino, node: &Node) -> bool {
        self.inodes.get(&ino).is_some_and(|inode| {
            let implicit = inode.node.object == IMPLICIT || node.object == IMPLICIT;
            inode.node.object == node.object || inode.directory && implicit
        })
    }

    /// Whether what is known of a name and what it leads to is newer than an answer.
    fn is_newer(&self, ino: Ino, parent: Ino, segment: &Segment, as_of: Revision) -> bool {
        let known = self.inodes.get(&ino).map_or(0, |inode| inode.as_of);
        as_of < known.max(self.stamps.gone(parent, segment))
    }

    /// Whether a name is gone by a commit of this mount that is newer than an answer that tells of it.
    #[must_use]
    pub fn is_outdated(&self, parent: Ino, segment: &Segment, as_of: Revision) -> bool {
        self.at(parent, segment).is_none() && as_of < self.stamps.gone(parent, segment)
    }

    /// An inode is found by a name that was not known.
    fn adopt_known(&mut self, ino: Ino, parent: Ino, segment: &Segment, node: Node, as_of: Revision) -> Ino {
        let newer = self.inodes.get(&ino).filter(|inode| as_of < inode.as_of);
        // It may have lost the name since: by a newer commit, of which is only known that it was.
        let doubtful = newer.is_some_and(|inode| {
            inode.directory || inode.names.is_empty() || as_of < self.stamps.perhaps(parent, segment)
        });
        self.update(ino, node, as_of);
        if self.is_outdated(parent, segment, as_of) {
            return ino;
        }
        if doubtful {
            self.doubt(parent);
            return ino;
        }
        let changed = self.stamps.perhaps(parent, segment);
        if as_of < changed {
            self.expire(ino, changed);
        }
        self.put_on(ino, parent, segment);
        ino
    }

    fn adopt_new(&mut self, parent: Ino, segment: &Segment, node: Node, as_of: Revision) -> Ino {
        let outdated = self.is_outdated(parent, segment, as_of);
        let key = self.key_in(parent, segment).unwrap_or_default();
        let ino = self.number(&key, node.object);
        if node.object != IMPLICIT {
            self.by_object.insert(node.object, ino);
        }
        self.inodes.insert(ino, Inode::new(node, segment.directory, self.epoch, as_of));
        let changed = self.stamps.perhaps(parent, segment);
        if as_of < changed {
            self.expire(ino, changed);
        }
        if !outdated {
            self.put_on(ino, parent, segment);
        }
        ino
    }

    /// Gives an inode a name.
    fn put_on(&mut self, ino: Ino, parent: Ino, segment: &Segment) {
        self.take_off(parent, segment);
        let old = match self.inodes.get(&ino) {
            // A directory has one name; where another client moved it, the old one is gone, or another's.
            Some(inode) if inode.directory => inode.names.clone(),
            _ => Vec::new(),
        };
        for (old_parent, old) in old {
            self.take_off(old_parent, &old);
            self.doubt(old_parent);
        }
        if let Some(above) = self.inodes.get_mut(&parent) {
            above.entries.insert(segment.clone(), ino);
            if let Some(inode) = self.inodes.get_mut(&ino) {
                inode.names.push((parent, segment.clone()));
            }
        }
    }

    /// Takes a name off what has it.
    fn take_off(&mut self, parent: Ino, segment: &Segment) -> Option<Ino> {
        let ino = self.at(parent, segment)?;
        let gone = self.key_in(parent, segment);
        self.inodes.get_mut(&parent)?.entries.remove(segment);
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.names.retain(|(other, text)| *other != parent || text != segment);
            if inode.names.is_empty() {
                inode.gone = gone;
            }
        }
        Some(ino)
    }

    /// Takes what the repository said of an inode, as of a revision. An older answer than the last one changes nothing.
    pub fn update(&mut self, ino: Ino, node: Node, as_of: Revision) {
        let epoch = self.epoch;
        let Some(inode) = self.inodes.get_mut(&ino).filter(|inode| inode.as_of <= as_of) else { return };
        if inode.node.object != node.object {
            if self.by_object.get(&inode.node.object) == Some(&ino) {
                self.by_object.remove(&inode.node.object);
            }
            if node.object != IMPLICIT {
                self.by_object.insert(node.object, ino);
            }
        }
        inode.node = node;
        inode.as_of = as_of;
        if inode.expired_at <= as_of {
            inode.epoch = epoch;
        }
    }

    /// A commit of this mount took one of the names of an inode, known here or not.
    pub fn one_link_less(&mut self, ino: Ino, at: Revision) {
        // What is newer knows.
        if let Some(inode) = self.inodes.get_mut(&ino).filter(|inode| inode.as_of <= at) {
            inode.node.links = inode.node.links.saturating_sub(1);
            inode.as_of = at;
        }
    }

    /// A commit of this mount changed entries of a directory, and these attributes of it with them.
    pub fn entries_changed(&mut self, directory: Ino, set: BTreeMap<String, Option<String>>, at: Revision) {
        let Some(inode) = self.inodes.get_mut(&directory).filter(|inode| inode.as_of <= at) else { return };
        if inode.node.object == IMPLICIT {
            // The root of a bucket is never real.
            if directory == ROOT && self.prefix.is_empty() {
                return;
            }
            // The commit has made it real.
            return self.look_again(directory);
        }
        inode.as_of = at;
        inode.node.metadata.extend(set.into_iter().filter_map(|(name, value)| Some((name, value?))));
    }

    /// A commit of this mount took the last name of an open inode: the session holds it.
    pub fn held_if_nameless(&mut self, ino: Ino) {
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.held |= inode.names.is_empty() && inode.opens > 0 && inode.node.links == 0;
        }
    }

    /// What the session is to hold for an inode that another client took the name of.
    #[must_use]
    pub fn adoption(&self, ino: Ino) -> Option<FileRef> {
        let inode = self.inodes.get(&ino).filter(|inode| inode.names.is_empty() && !inode.held)?;
        Some(FileRef { key: Some(inode.gone.as_ref()?.parse().ok()?), object: inode.node.object })
    }

    /// A name does not lead to its inode any more; whether it leads to another is not known. The inode stays while the kernel
    /// knows it.
    pub fn unname(&mut self, parent: Ino, segment: &Segment) -> Option<Ino> {
        self.doubt(parent);
        let ino = self.take_off(parent, segment)?;
        self.drop_unknown(ino);
        Some(ino)
    }

    /// The repository said, as of a revision, that nothing has a name. Whether that is so, or known otherwise by what is newer.
    pub fn absent(&mut self, parent: Ino, segment: &Segment, as_of: Revision) -> bool {
        let Some(ino) = self.at(parent, segment) else { return true };
        if self.is_newer(ino, parent, segment, as_of) {
            return false;
        }
        if as_of < self.stamps.perhaps(parent, segment) {
            self.doubt(parent);
        }
        self.take_off(parent, segment);
        self.drop_unknown(ino);
        true
    }

    /// A commit of this mount made a name; as [`Tree::adopt`].
    pub fn created(&mut self, parent: Ino, segment: &Segment, node: Node, at: Revision) -> Ino {
        self.changed_here(parent, segment, at, false);
        self.adopt(parent, segment, node, at)
    }

    /// A commit of this mount removed a name of an inode.
    pub fn removed(&mut self, parent: Ino, segment: &Segment, ino: Ino, at: Revision) {
        self.changed_here(parent, segment, at, true);
        if self.at(parent, segment) == Some(ino) {
            self.take_off(parent, segment);
        }
        self.drop_unknown(ino);
    }

    /// A commit of this mount changed what a name leads to. Whether nothing newer is known of it.
    fn changed_here(&mut self, parent: Ino, segment: &Segment, at: Revision, gone: bool) -> bool {
        let last = self.stamps.perhaps(parent, segment) <= at;
        if !last {
            self.doubt(parent);
        }
        self.stamps.set(parent, segment, at, gone);
        last
    }

    /// A commit of this mount moved a name of an inode.
    pub fn renamed(&mut self, ino: Ino, from: (Ino, &Segment), to: (Ino, &Segment), at: Revision) {
        self.changed_here(from.0, from.1, at, true);
        let last = self.changed_here(to.0, to.1, at, false);
        if self.at(from.0, from.1) == Some(ino) {
            self.moved(from, to);
        } else {
            self.doubt(to.0);
        }
        if !last {
            self.look_again(ino);
        }
    }

    /// A name has moved; what was at the new one is without it.
    pub fn moved(&mut self, from: (Ino, &Segment), to: (Ino, &Segment)) -> Option<Ino> {
        if from == to {
            return self.at(from.0, from.1);
        }
        if let Some(replaced) = self.take_off(to.0, to.1) {
            self.drop_unknown(replaced);
        }
        let Some(ino) = self.take_off(from.0, from.1) else {
            self.doubt(to.0);
            return None;
        };
        self.put_on(ino, to.0, to.1);
        self.drop_unknown(from.0);
        Some(ino)
    }

    /// A commit of this mount let two names change places. A file and a directory take their kinds along.
    pub fn exchanged(&mut self, one: (Ino, &Segment), other: (Ino, &Segment), at: Revision) {
        let kind = |of: &Segment, text: &Segment| Segment { directory: of.directory, text: text.text.clone() };
        let (to_other, to_one) = (kind(one.1, other.1), kind(other.1, one.1));
        let found = (self.at(one.0, one.1), self.at(other.0, other.1));
        for (parent, segment) in [(one.0, one.1), (other.0, other.1), (other.0, &to_other), (one.0, &to_one)] {
            self.changed_here(parent, segment, at, false);
        }
        let (Some(first), Some(second)) = found else {
            [one.0, other.0].into_iter().for_each(|parent| self.doubt(parent));
            return;
        };
        self.take_off(one.0, one.1);
        self.take_off(other.0, other.1);
        self.put_on(first, other.0, &to_other);
        self.put_on(second, one.0, &to_one);
    }

    /// The kernel was told of an inode.
    pub fn looked_up(&mut self, ino: Ino) {
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.lookups += 1;
        }
    }

    /// The kernel forgets as many lookups.
    pub fn forget(&mut self, ino: Ino, lookups: u64) {
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.lookups = inode.lookups.saturating_sub(lookups);
        }
        self.drop_unknown(ino);
    }

    /// The kernel was not told of an inode after all, and will be at once: a listing that adopts it again is still whole.
    pub fn untold(&mut self, ino: Ino) {
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.lookups = inode.lookups.saturating_sub(1);
        }
        self.drop_with(ino, |above| above.complete = None);
    }

    /// An inode has something to commit: it stays known until [`Tree::unpin`], whatever the kernel forgets.
    pub fn pin(&mut self, ino: Ino) {
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.pins += 1;
        }
    }

    /// What an inode was pinned for is done.
    pub fn unpin(&mut self, ino: Ino) {
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.pins = inode.pins.saturating_sub(1);
        }
        self.drop_unknown(ino);
    }

    /// Forgets an inode that nobody knows any more, and its parents that stood only for it. What it was in is not complete.
    pub fn drop_unknown(&mut self, ino: Ino) {
        self.drop_with(ino, Inode::doubt);
    }

    /// As [`Tree::drop_unknown`], of one without a name.
    pub fn drop_nameless(&mut self, ino: Ino) {
        if self.inodes.get(&ino).is_some_and(|inode| inode.names.is_empty()) {
            self.drop_unknown(ino);
        }
    }

    fn drop_with(&mut self, ino: Ino, tell: impl Fn(&mut Inode)) {
        let mut next = vec![ino];
        while let Some(ino) = next.pop() {
            if ino == ROOT || !self.inodes.get(&ino).is_some_and(Inode::is_unknown) {
                continue;
            }
            let Some(inode) = self.inodes.remove(&ino) else { continue };
            if self.by_object.get(&inode.node.object) == Some(&ino) {
                self.by_object.remove(&inode.node.object);
            }
            for (parent, segment) in inode.names {
                if let Some(above) = self.inodes.get_mut(&parent) {
                    above.entries.remove(&segment);
                    tell(above);
                    next.push(parent);
                }
            }
        }
    }

    /// The inode that is known of a key below the prefix, with the name that leads to it: `a/b` is a file, `a/b/` a directory.
    #[must_use]
    pub fn find(&self, key: &str) -> Option<(Ino, Segment, Option<Ino>)> {
        let (above, last) = Segment::of_path(key.strip_prefix(&self.prefix)?);
        let parent = above.iter().try_fold(ROOT, |parent, segment| self.at(parent, segment))?;
        let ino = self.at(parent, &last);
        Some((parent, last, ino))
    }

    /// The inode of an object.
    #[must_use]
    pub fn by_object(&self, object: ObjectId) -> Option<Ino> {
        self.by_object.get(&object).copied().filter(|_| object != IMPLICIT)
    }

    /// The names in a directory that are known.
    #[must_use]
    pub fn children(&self, parent: Ino) -> Vec<(Segment, Ino)> {
        let entries = self.inodes.get(&parent).map(|inode| &inode.entries);
        entries.into_iter().flatten().map(|(segment, ino)| (segment.clone(), *ino)).collect()
    }
}
