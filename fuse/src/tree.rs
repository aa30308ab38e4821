//! What the mount knows of names and files: a table of inodes, and the names that lead to them.
//!
//! A key is never stored: it is the way from the root, so that a directory is renamed by moving one name. An inode is known
//! as long as the kernel knows it. What it says of a file counts while it is of the present *epoch*: whoever loses sight of
//! the feed begins a new one, and nothing that was known before is believed any more.
//!
//! The number of an inode is its object's number plus one; of a directory that only its entries make, a hash of its key with
//! the highest bit set. An inode keeps its number while the kernel knows it, also when its object becomes another.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use holdfast_core::command::mount::FileRef;
use holdfast_core::id::{ObjectId, ObjectKey, Revision};
use holdfast_core::mount::{IMPLICIT, Node};

/// Number of an inode.
pub type Ino = u64;
/// The directory that is mounted.
pub const ROOT: Ino = 1;

/// One step of a key. A file and a directory may have the same text: S3 does not forbid it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Segment {
    /// Without slashes; may be empty (`a//b`).
    pub text: String,
    /// Whether a slash follows.
    pub directory: bool,
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
    /// Names in it that are known.
    children: u32,
    /// Open handles.
    pub opens: u32,
    epoch: u64,
    /// The generation of the content that the kernel may have pages of.
    pub cached: Option<Revision>,
    /// The key that it had when it lost its last name.
    pub gone: Option<String>,
    /// It has no name, and the session holds it.
    pub held: bool,
}

/// The table.
#[derive(Debug)]
pub struct Tree {
    prefix: String,
    inodes: HashMap<Ino, Inode>,
    names: HashMap<(Ino, Segment), Ino>,
    by_object: HashMap<ObjectId, Ino>,
    epoch: u64,
}

impl Tree {
    /// The table of a mount of everything under `prefix`, which is empty or ends with a slash.
    #[must_use]
    pub fn new(prefix: &str, root: Node) -> Self {
        let inode = Inode {
            node: root,
            names: Vec::new(),
            directory: true,
            lookups: 1,
            children: 0,
            opens: 0,
            epoch: 0,
            cached: None,
            gone: None,
            held: false,
        };
        let inodes = HashMap::from([(ROOT, inode)]);
        Self { prefix: prefix.to_owned(), inodes, names: HashMap::new(), by_object: HashMap::new(), epoch: 0 }
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
        let ino = *self.names.get(&(parent, segment.clone()))?;
        Some((ino, self.is_fresh(ino)))
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

    /// What is known of one inode counts no more.
    pub fn expire(&mut self, ino: Ino) {
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.epoch = u64::MAX;
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

    /// Takes what the repository said of a name. The inode is the one that was known, unless another object is behind the
    /// name now; the caller counts a lookup when it tells the kernel.
    pub fn adopt(&mut self, parent: Ino, segment: &Segment, node: Node) -> Ino {
        let known = self.names.get(&(parent, segment.clone())).copied();
        let same = known.filter(|ino| {
            self.inodes.get(ino).is_some_and(|inode| {
                // A directory that becomes real, or loses its row, is the same directory.
                let directory = segment.directory && (inode.node.object == IMPLICIT || node.object == IMPLICIT);
                inode.node.object == node.object || directory
            })
        });
        if let Some(ino) = same {
            self.update(ino, node);
            return ino;
        }
        if known.is_some() {
            self.unname(parent, segment);
        }
        let by_object = self.by_object.get(&node.object).copied().filter(|_| node.object != IMPLICIT);
        let by_object =
            by_object.filter(|ino| self.inodes.get(ino).is_some_and(|inode| inode.directory == segment.directory));
        let ino = match by_object {
            Some(ino) => {
                self.update(ino, node);
                ino
            }
            None => {
                let key = self.key_in(parent, segment).unwrap_or_default();
                let ino = self.number(&key, node.object);
                self.by_object.insert(node.object, ino);
                let inode = Inode {
                    node,
                    names: Vec::new(),
                    directory: segment.directory,
                    lookups: 0,
                    children: 0,
                    opens: 0,
                    epoch: self.epoch,
                    cached: None,
                    gone: None,
                    held: false,
                };
                self.inodes.insert(ino, inode);
                ino
            }
        };
        self.name(ino, parent, segment);
        ino
    }

    fn name(&mut self, ino: Ino, parent: Ino, segment: &Segment) {
        self.names.insert((parent, segment.clone()), ino);
        if let Some(inode) = self.inodes.get_mut(&ino) {
            // A directory has one name; where another client moved it, the old one is gone.
            if inode.directory {
                for (old_parent, old) in std::mem::take(&mut inode.names) {
                    self.names.remove(&(old_parent, old));
                    if let Some(old_parent) = self.inodes.get_mut(&old_parent) {
                        old_parent.children = old_parent.children.saturating_sub(1);
                    }
                }
            }
        }
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.names.push((parent, segment.clone()));
        }
        if let Some(parent) = self.inodes.get_mut(&parent) {
            parent.children += 1;
        }
    }

    /// Takes what the repository said of an inode.
    pub fn update(&mut self, ino: Ino, node: Node) {
        let epoch = self.epoch;
        let Some(inode) = self.inodes.get_mut(&ino) else { return };
        if inode.node.object != node.object {
            if self.by_object.get(&inode.node.object) == Some(&ino) {
                self.by_object.remove(&inode.node.object);
            }
            self.by_object.insert(node.object, ino);
        }
        inode.node = node;
        inode.epoch = epoch;
    }

    /// One of the names of an inode, known here or not, is gone.
    pub fn one_link_less(&mut self, ino: Ino) {
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.node.links = inode.node.links.saturating_sub(1);
        }
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

    /// A name is gone. The inode stays while the kernel knows it.
    pub fn unname(&mut self, parent: Ino, segment: &Segment) -> Option<Ino> {
        let gone = self.key_in(parent, segment);
        let ino = self.names.remove(&(parent, segment.clone()))?;
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.names.retain(|(other, text)| *other != parent || text != segment);
            if inode.names.is_empty() {
                inode.gone = gone;
            }
        }
        if let Some(parent) = self.inodes.get_mut(&parent) {
            parent.children = parent.children.saturating_sub(1);
        }
        self.drop_unknown(ino);
        Some(ino)
    }

    /// A name has moved; what was at the new one is without it.
    pub fn moved(&mut self, from: (Ino, &Segment), to: (Ino, &Segment)) -> Option<Ino> {
        if from == to {
            return self.child(from.0, from.1).map(|(ino, _)| ino);
        }
        self.unname(to.0, to.1);
        let ino = self.names.remove(&(from.0, from.1.clone()))?;
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.names.retain(|(other, text)| *other != from.0 || text != from.1);
        }
        if let Some(parent) = self.inodes.get_mut(&from.0) {
            parent.children = parent.children.saturating_sub(1);
        }
        self.name(ino, to.0, to.1);
        Some(ino)
    }

    /// Two names have changed places.
    pub fn exchanged(&mut self, one: (Ino, &Segment), other: (Ino, &Segment)) {
        let (Some(first), Some(second)) =
            (self.names.get(&(one.0, one.1.clone())).copied(), self.names.get(&(other.0, other.1.clone())).copied())
        else {
            return;
        };
        let swap = |inode: &mut Inode, from: (Ino, &Segment), to: (Ino, &Segment)| {
            for name in &mut inode.names {
                if (name.0, &name.1) == from {
                    *name = (to.0, to.1.clone());
                }
            }
        };
        if let Some(inode) = self.inodes.get_mut(&first) {
            swap(inode, one, other);
        }
        if let Some(inode) = self.inodes.get_mut(&second) {
            swap(inode, other, one);
        }
        self.names.insert((one.0, one.1.clone()), second);
        self.names.insert((other.0, other.1.clone()), first);
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

    /// Forgets an inode that nobody knows any more, and its parents that stood only for it.
    pub fn drop_unknown(&mut self, ino: Ino) {
        let mut next = Some(ino);
        while let Some(ino) = next.take() {
            let Some(inode) = self.inodes.get(&ino) else { return };
            if ino == ROOT || inode.lookups > 0 || inode.opens > 0 || inode.children > 0 {
                return;
            }
            let Some(inode) = self.inodes.remove(&ino) else { return };
            if self.by_object.get(&inode.node.object) == Some(&ino) {
                self.by_object.remove(&inode.node.object);
            }
            for (parent, segment) in inode.names {
                self.names.remove(&(parent, segment));
                if let Some(above) = self.inodes.get_mut(&parent) {
                    above.children = above.children.saturating_sub(1);
                    next = Some(parent);
                }
            }
        }
    }

    /// The inode that is known of a key below the prefix, with the name that leads to it: `a/b` is a file, `a/b/` a directory.
    #[must_use]
    pub fn find(&self, key: &str) -> Option<(Ino, Segment, Option<Ino>)> {
        let key = key.strip_prefix(&self.prefix)?;
        let (path, directory) = match key.strip_suffix('/') {
            Some(path) => (path, true),
            None => (key, false),
        };
        let mut parent = ROOT;
        let mut segments = path.split('/').peekable();
        while let Some(text) = segments.next() {
            if segments.peek().is_none() {
                let segment = Segment { text: text.to_owned(), directory };
                let ino = self.names.get(&(parent, segment.clone())).copied();
                return Some((parent, segment, ino));
            }
            parent = *self.names.get(&(parent, Segment { text: text.to_owned(), directory: true }))?;
        }
        None
    }

    /// The inode of an object.
    #[must_use]
    pub fn by_object(&self, object: ObjectId) -> Option<Ino> {
        self.by_object.get(&object).copied().filter(|_| object != IMPLICIT)
    }

    /// The names in a directory that are known.
    #[must_use]
    pub fn children(&self, parent: Ino) -> Vec<(Segment, Ino)> {
        self.names
            .iter()
            .filter(|((of, _), _)| *of == parent)
            .map(|((_, segment), ino)| (segment.clone(), *ino))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(object: u64) -> Node {
        Node { object: ObjectId(object), ..Node::default() }
    }

    fn segment(text: &str, directory: bool) -> Segment {
        Segment { text: text.to_owned(), directory }
    }

    #[test]
    fn a_directory_moves_with_everything_in_it() {
        let mut tree = Tree::new("p/", node(0));
        let (a, b, f) = (segment("a", true), segment("b", true), segment("f", false));
        let dir = tree.adopt(ROOT, &a, node(0));
        assert!(dir >> 63 == 1);
        let file = tree.adopt(dir, &f, node(7));
        assert_eq!((file, tree.key(file).as_deref()), (8, Some("p/a/f")));
        tree.moved((ROOT, &a), (ROOT, &b));
        assert_eq!(tree.key(file).as_deref(), Some("p/b/f"));
        assert_eq!(tree.find("p/b/f").unwrap().2, Some(file));
        assert!(tree.find("p/a/f").is_none());
    }

    #[test]
    fn an_object_has_one_inode_by_all_its_names_and_another_object_another() {
        let mut tree = Tree::new("", node(0));
        let (one, two) = (segment("one", false), segment("two", false));
        let ino = tree.adopt(ROOT, &one, node(5));
        tree.looked_up(ino);
        assert_eq!(tree.adopt(ROOT, &two, node(5)), ino);
        tree.unname(ROOT, &one);
        assert_eq!(tree.key(ino).as_deref(), Some("two"));
        let other = tree.adopt(ROOT, &two, node(6));
        assert_ne!(other, ino);
        assert_eq!(tree.key(ino), None, "the kernel still knows it, without a name");
        tree.forget(ino, 1);
        assert!(tree.get(ino).is_none());
    }

    #[test]
    fn what_nobody_knows_is_forgotten_up_to_the_root() {
        let mut tree = Tree::new("", node(0));
        let dir = tree.adopt(ROOT, &segment("d", true), node(3));
        let file = tree.adopt(dir, &segment("f", false), node(4));
        tree.looked_up(file);
        tree.forget(dir, 0);
        assert!(tree.get(dir).is_some(), "it leads to a file that is known");
        tree.forget(file, 1);
        assert!(tree.is_empty());
    }

    #[test]
    fn a_directory_that_becomes_real_stays_the_same_inode() {
        let mut tree = Tree::new("", node(0));
        let dir = tree.adopt(ROOT, &segment("d", true), node(0));
        assert_eq!(tree.adopt(ROOT, &segment("d", true), node(9)), dir);
        assert_eq!(tree.by_object(ObjectId(9)), Some(dir));
        tree.begin_epoch();
        assert!(!tree.is_fresh(dir));
    }
}
