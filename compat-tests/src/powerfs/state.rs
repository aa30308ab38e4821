//! The model: nodes with a live and a durable state, a journal of unsynced names, and the cut.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::sync::Arc;
use std::time::SystemTime;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// What a disk writes or loses as one.
pub(super) const PAGE: u64 = 4096;
/// The root directory.
pub(super) const ROOT: u64 = 1;
/// Dead nodes are swept after this many removals.
const SWEEP_EVERY: u32 = 512;

/// What a cut takes.
#[derive(Clone, Copy, Debug)]
pub enum Loss {
    /// Everything that was not synced.
    All,
    /// Chosen by a seed: some unsynced pages, and the unsynced names after some point.
    Some {
        /// The seed.
        seed: u64,
    },
}

/// What a cut took, for the log of a test.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cut {
    /// Unsynced pages that were lost.
    pub pages_lost: u64,
    /// Unsynced pages that reached the disk by luck.
    pub pages_kept: u64,
    /// Unsynced changes of names that were lost.
    pub names_lost: u64,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    NotFound,
    Exists,
    NotEmpty,
    NotDirectory,
    IsDirectory,
    Invalid,
}

type Page = Arc<[u8]>;

/// The bytes of a file. A page that is absent is zeros.
#[derive(Clone, Debug, Default)]
struct Content {
    pages: BTreeMap<u64, Page>,
    size: u64,
}

#[derive(Debug, Default)]
pub(super) struct FileState {
    live: Content,
    durable: Content,
    /// Pages that differ between the two.
    dirty: BTreeSet<u64>,
}

#[derive(Debug, Default)]
struct DirState {
    live: BTreeMap<OsString, u64>,
    durable: BTreeMap<OsString, u64>,
}

#[derive(Debug)]
enum Body {
    File(FileState),
    Dir(DirState),
    Link(OsString),
}

/// What kind of node it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Dir,
    Link,
}

#[derive(Debug)]
struct Node {
    body: Body,
    mode: u32,
    modified: SystemTime,
    links: u32,
    /// References the kernel holds: lookups and open handles.
    held: u64,
}

/// Attributes of a node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attributes {
    pub(super) ino: u64,
    pub(super) kind: Kind,
    pub(super) size: u64,
    pub(super) mode: u32,
    pub(super) links: u32,
    pub(super) modified: SystemTime,
}

/// One change of one name; `None` removes it.
#[derive(Debug)]
struct Edit {
    dir: u64,
    name: OsString,
    to: Option<u64>,
}

/// The file system.
#[derive(Debug)]
pub(super) struct State {
    nodes: BTreeMap<u64, Node>,
    /// Unsynced changes of names, oldest first. The edits of one entry become durable together.
    journal: Vec<Vec<Edit>>,
    next: u64,
    removals: u32,
    /// Raised by each cut: what began before a cut must not become durable after it.
    pub(super) epoch: u64,
}

/// What a sync of a file will make durable when it ends: the state at its beginning.
#[derive(Debug)]
pub(super) struct FileSync {
    ino: u64,
    epoch: u64,
    pages: Vec<(u64, Option<Page>)>,
    size: u64,
}

impl State {
    pub(super) fn new() -> Self {
        let root = Node::new(Body::Dir(DirState::default()), 0o755);
        Self { nodes: BTreeMap::from([(ROOT, root)]), journal: Vec::new(), next: ROOT + 1, removals: 0, epoch: 0 }
    }

    pub(super) fn attributes(&self, ino: u64) -> Result<Attributes, Refusal> {
        let node = self.node(ino)?;
        let (kind, size) = match &node.body {
            Body::File(file) => (Kind::File, file.live.size),
            Body::Dir(dir) => (Kind::Dir, dir.live.len() as u64),
            Body::Link(target) => (Kind::Link, target.len() as u64),
        };
        Ok(Attributes { ino, kind, size, mode: node.mode, links: node.links, modified: node.modified })
    }

    pub(super) fn lookup(&self, dir: u64, name: &OsStr) -> Result<u64, Refusal> {
        self.dir(dir)?.live.get(name).copied().ok_or(Refusal::NotFound)
    }

    /// The kernel holds one more reference.
    pub(super) fn hold(&mut self, ino: u64) {
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.held += 1;
        }
    }

    /// The kernel gave `count` references back.
    pub(super) fn let_go(&mut self, ino: u64, count: u64) {
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.held = node.held.saturating_sub(count);
        }
    }

    pub(super) fn entries(&self, dir: u64) -> Result<Vec<(u64, Kind, OsString)>, Refusal> {
        let entries = self.dir(dir)?.live.iter();
        entries.map(|(name, ino)| Ok((*ino, self.attributes(*ino)?.kind, name.clone()))).collect()
    }

    pub(super) fn create(&mut self, dir: u64, name: &OsStr, kind: Kind, mode: u32) -> Result<u64, Refusal> {
        let body = match kind {
            Kind::File => Body::File(FileState::default()),
            Kind::Dir => Body::Dir(DirState::default()),
            Kind::Link => return Err(Refusal::Invalid),
        };
        self.add(dir, name, Node::new(body, mode))
    }

    pub(super) fn symlink(&mut self, dir: u64, name: &OsStr, target: &OsStr) -> Result<u64, Refusal> {
        self.add(dir, name, Node::new(Body::Link(target.to_owned()), 0o777))
    }

    pub(super) fn read_link(&self, ino: u64) -> Result<OsString, Refusal> {
        match &self.node(ino)?.body {
            Body::Link(target) => Ok(target.clone()),
            _ => Err(Refusal::Invalid),
        }
    }

    fn add(&mut self, dir: u64, name: &OsStr, node: Node) -> Result<u64, Refusal> {
        if self.dir(dir)?.live.contains_key(name) {
            return Err(Refusal::Exists);
        }
        let ino = self.next;
        self.next += 1;
        self.nodes.insert(ino, node);
        self.change(vec![Edit { dir, name: name.to_owned(), to: Some(ino) }]);
        Ok(ino)
    }

    pub(super) fn link(&mut self, ino: u64, dir: u64, name: &OsStr) -> Result<(), Refusal> {
        if self.dir(dir)?.live.contains_key(name) {
            return Err(Refusal::Exists);
        }
        self.node(ino)?;
        self.change(vec![Edit { dir, name: name.to_owned(), to: Some(ino) }]);
        Ok(())
    }

    /// Removes a name; `kind` says which call it was.
    pub(super) fn remove(&mut self, dir: u64, name: &OsStr, kind: Kind) -> Result<(), Refusal> {
        let ino = self.lookup(dir, name)?;
        match (kind, &self.node(ino)?.body) {
            (Kind::Dir, Body::Dir(inside)) if !inside.live.is_empty() => return Err(Refusal::NotEmpty),
            (Kind::Dir, Body::Dir(_)) => {}
            (Kind::Dir, _) => return Err(Refusal::NotDirectory),
            (_, Body::Dir(_)) => return Err(Refusal::IsDirectory),
            _ => {}
        }
        self.change(vec![Edit { dir, name: name.to_owned(), to: None }]);
        self.removals += 1;
        if self.removals.is_multiple_of(SWEEP_EVERY) {
            self.sweep();
        }
        Ok(())
    }

    pub(super) fn rename(
        &mut self,
        from: (u64, &OsStr),
        to: (u64, &OsStr),
        no_replace: bool,
        exchange: bool,
    ) -> Result<(), Refusal> {
        let moved = self.lookup(from.0, from.1)?;
        let replaced = self.dir(to.0)?.live.get(to.1).copied();
        match replaced {
            Some(_) if no_replace => return Err(Refusal::Exists),
            None if exchange => return Err(Refusal::NotFound),
            Some(other) if other == moved => return Ok(()),
            Some(other) if !exchange => self.may_replace(moved, other)?,
            _ => {}
        }
        let back = if exchange { replaced } else { None };
        let edits = vec![
            Edit { dir: from.0, name: from.1.to_owned(), to: back },
            Edit { dir: to.0, name: to.1.to_owned(), to: Some(moved) },
        ];
        self.change(edits);
        Ok(())
    }

    fn may_replace(&self, moved: u64, other: u64) -> Result<(), Refusal> {
        match (&self.node(moved)?.body, &self.node(other)?.body) {
            (Body::Dir(_), Body::Dir(inside)) if inside.live.is_empty() => Ok(()),
            (Body::Dir(_), Body::Dir(_)) => Err(Refusal::NotEmpty),
            (Body::Dir(_), _) => Err(Refusal::NotDirectory),
            (_, Body::Dir(_)) => Err(Refusal::IsDirectory),
            _ => Ok(()),
        }
    }

    /// Applies `edits` to the live names and remembers them as unsynced.
    fn change(&mut self, edits: Vec<Edit>) {
        for edit in &edits {
            let before = self.set_name(edit, |dir| &mut dir.live);
            self.count_link(before, -1);
            self.count_link(edit.to, 1);
            if let Some(node) = self.nodes.get_mut(&edit.dir) {
                node.modified = SystemTime::now();
            }
        }
        self.journal.push(edits);
    }

    fn set_name(&mut self, edit: &Edit, names: impl Fn(&mut DirState) -> &mut BTreeMap<OsString, u64>) -> Option<u64> {
        let Some(Node { body: Body::Dir(dir), .. }) = self.nodes.get_mut(&edit.dir) else { return None };
        match edit.to {
            Some(ino) => names(dir).insert(edit.name.clone(), ino),
            None => names(dir).remove(&edit.name),
        }
    }

    fn count_link(&mut self, ino: Option<u64>, by: i32) {
        if let Some(node) = ino.and_then(|ino| self.nodes.get_mut(&ino)) {
            node.links = node.links.saturating_add_signed(by);
        }
    }

    pub(super) fn read(&self, ino: u64, offset: u64, length: usize) -> Result<Vec<u8>, Refusal> {
        Ok(self.file(ino)?.live.read(offset, length))
    }

    pub(super) fn write(&mut self, ino: u64, offset: u64, data: &[u8]) -> Result<(), Refusal> {
        self.touch(ino)?.write(offset, data);
        Ok(())
    }

    pub(super) fn resize(&mut self, ino: u64, size: u64) -> Result<(), Refusal> {
        self.touch(ino)?.resize(size);
        Ok(())
    }

    pub(super) fn zero(&mut self, ino: u64, offset: u64, length: u64) -> Result<(), Refusal> {
        self.touch(ino)?.zero(offset, length);
        Ok(())
    }

    pub(super) fn set_mode(&mut self, ino: u64, mode: u32) -> Result<(), Refusal> {
        self.node_mut(ino)?.mode = mode & 0o7777;
        Ok(())
    }

    pub(super) fn set_modified(&mut self, ino: u64, at: SystemTime) -> Result<(), Refusal> {
        self.node_mut(ino)?.modified = at;
        Ok(())
    }

    /// Begins a sync: remembers what the file holds now. Nothing is durable before [`State::end_sync`].
    pub(super) fn begin_sync(&self, ino: u64) -> Result<FileSync, Refusal> {
        let file = self.file(ino)?;
        let pages = file.dirty.iter().map(|page| (*page, file.live.pages.get(page).cloned())).collect();
        Ok(FileSync { ino, epoch: self.epoch, pages, size: file.live.size })
    }

    /// Ends a sync, unless power was cut in between.
    pub(super) fn end_sync(&mut self, sync: FileSync) {
        let current = self.epoch == sync.epoch;
        let Some(Node { body: Body::File(file), .. }) = self.nodes.get_mut(&sync.ino).filter(|_| current) else {
            return;
        };
        for (page, bytes) in sync.pages {
            if file.live.pages.get(&page).map(Arc::as_ptr) == bytes.as_ref().map(Arc::as_ptr) {
                file.dirty.remove(&page);
            }
            file.durable.set(page, bytes);
        }
        file.durable.size = sync.size;
    }

    /// Makes the names in `dir` durable, with what they are entangled with through renames, in order.
    pub(super) fn sync_dir(&mut self, dir: u64) -> Result<(), Refusal> {
        self.dir(dir)?;
        let mut wanted = BTreeSet::from([dir]);
        let mut chosen = BTreeSet::new();
        for (number, edits) in self.journal.iter().enumerate().rev() {
            if edits.iter().any(|edit| wanted.contains(&edit.dir)) {
                wanted.extend(edits.iter().map(|edit| edit.dir));
                chosen.insert(number);
            }
        }
        let journal = std::mem::take(&mut self.journal);
        for (number, edits) in journal.into_iter().enumerate() {
            if chosen.contains(&number) {
                self.keep_names(&edits);
            } else {
                self.journal.push(edits);
            }
        }
        Ok(())
    }

    fn keep_names(&mut self, edits: &[Edit]) {
        for edit in edits {
            self.set_name(edit, |dir| &mut dir.durable);
        }
    }

    /// Cuts the power: afterwards the live state is what the disk holds.
    pub(super) fn cut(&mut self, loss: Loss) -> Cut {
        let mut cut = Cut::default();
        let mut luck = match loss {
            Loss::All => None,
            Loss::Some { seed } => Some(StdRng::seed_from_u64(seed)),
        };
        let journal = std::mem::take(&mut self.journal);
        let kept = luck.as_mut().map_or(0, |luck| luck.random_range(0..=journal.len()));
        cut.names_lost = (journal.len() - kept) as u64;
        for edits in &journal[..kept] {
            self.keep_names(edits);
        }
        for node in self.nodes.values_mut() {
            node.held = 0;
            match &mut node.body {
                Body::File(file) => file.cut(luck.as_mut(), &mut cut),
                Body::Dir(dir) => dir.live = dir.durable.clone(),
                Body::Link(_) => {}
            }
        }
        self.epoch += 1;
        self.recount_links();
        self.sweep();
        cut
    }

    fn recount_links(&mut self) {
        let mut counts: BTreeMap<u64, u32> = BTreeMap::new();
        for node in self.nodes.values() {
            if let Body::Dir(dir) = &node.body {
                dir.live.values().for_each(|ino| *counts.entry(*ino).or_default() += 1);
            }
        }
        for (ino, node) in &mut self.nodes {
            node.links = counts.get(ino).copied().unwrap_or(0);
        }
    }

    /// Forgets nodes that no name, live, durable or journaled, and no reference of the kernel can reach.
    fn sweep(&mut self) {
        let mut reached = BTreeSet::from([ROOT]);
        let mut pending = vec![ROOT];
        pending.extend(self.nodes.iter().filter(|(_, node)| node.held > 0).map(|(ino, _)| *ino));
        pending.extend(self.journal.iter().flatten().filter_map(|edit| edit.to));
        while let Some(ino) = pending.pop() {
            reached.insert(ino);
            if let Some(Node { body: Body::Dir(dir), .. }) = self.nodes.get(&ino) {
                pending.extend(dir.live.values().chain(dir.durable.values()).filter(|ino| !reached.contains(*ino)));
            }
        }
        self.nodes.retain(|ino, _| reached.contains(ino));
    }

    fn node(&self, ino: u64) -> Result<&Node, Refusal> {
        self.nodes.get(&ino).ok_or(Refusal::NotFound)
    }

    fn node_mut(&mut self, ino: u64) -> Result<&mut Node, Refusal> {
        self.nodes.get_mut(&ino).ok_or(Refusal::NotFound)
    }

    fn dir(&self, ino: u64) -> Result<&DirState, Refusal> {
        match &self.node(ino)?.body {
            Body::Dir(dir) => Ok(dir),
            _ => Err(Refusal::NotDirectory),
        }
    }

    fn file(&self, ino: u64) -> Result<&FileState, Refusal> {
        match &self.node(ino)?.body {
            Body::File(file) => Ok(file),
            _ => Err(Refusal::IsDirectory),
        }
    }

    /// A file that is about to change.
    fn touch(&mut self, ino: u64) -> Result<&mut FileState, Refusal> {
        let node = self.node_mut(ino)?;
        node.modified = SystemTime::now();
        match &mut node.body {
            Body::File(file) => Ok(file),
            _ => Err(Refusal::IsDirectory),
        }
    }
}

impl Node {
    fn new(body: Body, mode: u32) -> Self {
        Self { body, mode: mode & 0o7777, modified: SystemTime::now(), links: 0, held: 0 }
    }
}

impl Content {
    fn read(&self, offset: u64, length: usize) -> Vec<u8> {
        let end = self.size.min(offset.saturating_add(length as u64));
        let mut out = Vec::with_capacity(length);
        let mut at = offset;
        while at < end {
            let (page, inside) = (at / PAGE, (at % PAGE) as usize);
            let take = (PAGE - at % PAGE).min(end - at) as usize;
            match self.pages.get(&page) {
                Some(bytes) => out.extend_from_slice(&bytes[inside..inside + take]),
                None => out.resize(out.len() + take, 0),
            }
            at += take as u64;
        }
        out
    }

    fn set(&mut self, page: u64, bytes: Option<Page>) {
        match bytes {
            Some(bytes) => self.pages.insert(page, bytes),
            None => self.pages.remove(&page),
        };
    }
}

impl FileState {
    fn write(&mut self, offset: u64, data: &[u8]) {
        let mut at = offset;
        let mut rest = data;
        while !rest.is_empty() {
            let inside = (at % PAGE) as usize;
            let (now, later) = rest.split_at(rest.len().min(PAGE as usize - inside));
            self.edit_page(at / PAGE, |bytes| bytes[inside..inside + now.len()].copy_from_slice(now));
            at += now.len() as u64;
            rest = later;
        }
        self.live.size = self.live.size.max(at);
    }

    fn resize(&mut self, size: u64) {
        if size < self.live.size {
            // What lies beyond the end must read as zeros when the file grows again.
            let end = self.live.size.next_multiple_of(PAGE);
            self.zero(size, end - size);
        }
        self.live.size = size;
    }

    fn zero(&mut self, offset: u64, length: u64) {
        let end = offset + length;
        let pages: Vec<u64> = self.live.pages.range(offset / PAGE..end.div_ceil(PAGE)).map(|(page, _)| *page).collect();
        for page in pages {
            let (start, stop) = (page * PAGE, (page + 1) * PAGE);
            if offset <= start && stop <= end {
                self.live.pages.remove(&page);
                self.dirty.insert(page);
            } else {
                let range = (offset.max(start) - start) as usize..(end.min(stop) - start) as usize;
                self.edit_page(page, |bytes| bytes[range].fill(0));
            }
        }
    }

    fn edit_page(&mut self, page: u64, edit: impl FnOnce(&mut [u8])) {
        // A page may be shared with the durable content or with a running sync, so it is copied, never changed in place.
        let mut bytes = self.live.pages.get(&page).map_or_else(|| vec![0; PAGE as usize], |bytes| bytes.to_vec());
        edit(&mut bytes);
        self.live.pages.insert(page, bytes.into());
        self.dirty.insert(page);
    }

    fn cut(&mut self, luck: Option<&mut StdRng>, cut: &mut Cut) {
        let dirty = std::mem::take(&mut self.dirty);
        if let Some(luck) = luck {
            for page in &dirty {
                if luck.random_bool(0.5) {
                    self.durable.set(*page, self.live.pages.get(page).cloned());
                    let end = self.live.size.min((page + 1) * PAGE);
                    self.durable.size = self.durable.size.max(end);
                    cut.pages_kept += 1;
                }
            }
        }
        cut.pages_lost += dirty.len() as u64;
        self.live = self.durable.clone();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> &OsStr {
        OsStr::new(text)
    }

    fn sync(state: &mut State, ino: u64) {
        let sync = state.begin_sync(ino).unwrap();
        state.end_sync(sync);
    }

    fn text(state: &State, ino: u64) -> String {
        String::from_utf8(state.read(ino, 0, 1 << 16).unwrap()).unwrap()
    }

    fn file(state: &mut State, dir: u64, called: &str, content: &str) -> u64 {
        let ino = state.create(dir, name(called), Kind::File, 0o644).unwrap();
        state.write(ino, 0, content.as_bytes()).unwrap();
        ino
    }

    #[test]
    fn data_that_was_not_synced_is_gone() {
        let mut state = State::new();
        let ino = file(&mut state, ROOT, "log", "first");
        sync(&mut state, ino);
        state.sync_dir(ROOT).unwrap();
        state.write(ino, 5, b" second").unwrap();
        assert_eq!(text(&state, ino), "first second");
        let cut = state.cut(Loss::All);
        assert_eq!(text(&state, ino), "first");
        assert_eq!(cut.pages_lost, 1);
    }

    #[test]
    fn a_synced_file_in_an_unsynced_directory_has_no_name() {
        let mut state = State::new();
        let ino = file(&mut state, ROOT, "a", "x");
        sync(&mut state, ino);
        state.cut(Loss::All);
        assert_eq!(state.lookup(ROOT, name("a")), Err(Refusal::NotFound));
    }

    #[test]
    fn a_synced_name_of_an_unsynced_file_shows_an_empty_file() {
        let mut state = State::new();
        let ino = file(&mut state, ROOT, "a", "x");
        state.sync_dir(ROOT).unwrap();
        state.cut(Loss::All);
        assert_eq!(state.lookup(ROOT, name("a")), Ok(ino));
        assert_eq!(text(&state, ino), "");
    }

    #[test]
    fn an_unsynced_rename_goes_back_and_brings_back_what_it_replaced() {
        let mut state = State::new();
        let old = file(&mut state, ROOT, "target", "old");
        let new = file(&mut state, ROOT, "temporary", "new");
        sync(&mut state, old);
        sync(&mut state, new);
        state.sync_dir(ROOT).unwrap();
        state.rename((ROOT, name("temporary")), (ROOT, name("target")), false, false).unwrap();
        assert_eq!(state.lookup(ROOT, name("target")), Ok(new));
        state.cut(Loss::All);
        assert_eq!(state.lookup(ROOT, name("target")), Ok(old));
        assert_eq!(state.lookup(ROOT, name("temporary")), Ok(new));
    }

    #[test]
    fn a_rename_between_directories_is_kept_whole_by_a_sync_of_either() {
        for synced in [0, 1] {
            let mut state = State::new();
            let dirs = ["left", "right"].map(|dir| state.create(ROOT, name(dir), Kind::Dir, 0o755).unwrap());
            state.sync_dir(ROOT).unwrap();
            let ino = file(&mut state, dirs[0], "f", "x");
            state.sync_dir(dirs[0]).unwrap();
            state.rename((dirs[0], name("f")), (dirs[1], name("g")), false, false).unwrap();
            state.sync_dir(dirs[synced]).unwrap();
            state.cut(Loss::All);
            assert_eq!(state.lookup(dirs[0], name("f")), Err(Refusal::NotFound));
            assert_eq!(state.lookup(dirs[1], name("g")), Ok(ino));
        }
    }

    #[test]
    fn a_sync_keeps_what_was_written_before_it_began_and_not_after_a_cut() {
        let mut state = State::new();
        let ino = file(&mut state, ROOT, "a", "before");
        state.sync_dir(ROOT).unwrap();
        let running = state.begin_sync(ino).unwrap();
        state.write(ino, 0, b"AFTER!").unwrap();
        state.end_sync(running);
        let late = state.begin_sync(ino).unwrap();
        state.cut(Loss::All);
        assert_eq!(text(&state, ino), "before");
        state.end_sync(late);
        state.cut(Loss::All);
        assert_eq!(text(&state, ino), "before");
    }

    #[test]
    fn a_shrunk_file_grows_with_zeros() {
        let mut state = State::new();
        let ino = file(&mut state, ROOT, "a", "abcdef");
        state.resize(ino, 2).unwrap();
        state.resize(ino, 4).unwrap();
        assert_eq!(text(&state, ino), "ab\0\0");
    }

    #[test]
    fn partial_loss_keeps_synced_bytes_and_replays_from_its_seed() {
        let run = |seed| {
            let mut state = State::new();
            let ino = file(&mut state, ROOT, "a", "");
            state.write(ino, 0, &vec![1; 40 * PAGE as usize]).unwrap();
            sync(&mut state, ino);
            state.sync_dir(ROOT).unwrap();
            state.write(ino, 40 * PAGE, &vec![2; 40 * PAGE as usize]).unwrap();
            let cut = state.cut(Loss::Some { seed });
            let bytes = state.read(ino, 0, 80 * PAGE as usize).unwrap();
            assert!(bytes[..40 * PAGE as usize].iter().all(|byte| *byte == 1));
            (cut, bytes)
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
        let (cut, _) = run(7);
        assert!(cut.pages_kept > 0 && cut.pages_lost > cut.pages_kept);
    }

    #[test]
    fn an_unlinked_file_lives_while_it_is_held() {
        let mut state = State::new();
        let ino = file(&mut state, ROOT, "a", "x");
        state.hold(ino);
        state.remove(ROOT, name("a"), Kind::File).unwrap();
        state.sync_dir(ROOT).unwrap();
        state.sweep();
        assert_eq!(text(&state, ino), "x");
        state.let_go(ino, 1);
        state.sweep();
        assert!(state.attributes(ino).is_err());
    }
}
