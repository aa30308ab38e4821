//! Shows the model through FUSE. Cached reads and maps work as on a disk file system: `direct_io` is off, so the kernel
//! keeps pages; they go away with the mount, which a cut renews.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};

use super::state::{Attributes, Cut, Kind, Loss, PAGE, Refusal, State};
use crate::skip;

/// Names and attributes change through this mount alone, so the kernel may keep them for long.
const TTL: Duration = Duration::from_secs(60);
/// A sync takes as long as on a fast disk, so that other writes overlap with it and a cut can fall into it.
const SYNC_TAKES: Duration = Duration::from_micros(500);
const THREADS: usize = 4;
const BLOCKS: u64 = 1 << 24;

/// `FALLOC_FL_*` of fallocate(2).
const KEEP_SIZE: i32 = 1;
const PUNCH_HOLE: i32 = 2;
const ZERO_RANGE: i32 = 16;

/// A mounted file system that can lose power. Dropping it unmounts and forgets everything.
#[derive(Debug)]
pub struct PowerFs {
    state: Arc<Mutex<State>>,
    path: PathBuf,
    session: Option<BackgroundSession>,
}

impl PowerFs {
    /// Mounts an empty file system on the directory `path`.
    ///
    /// # Errors
    /// A skip when this machine has no FUSE; otherwise when mounting fails.
    pub fn mount(path: &Path) -> Result<Self> {
        if !Path::new("/dev/fuse").exists() {
            return Err(skip::skip("/dev/fuse not found: the kernel lacks FUSE"));
        }
        let mut mounted = Self { state: Arc::new(Mutex::new(State::new())), path: path.to_owned(), session: None };
        mounted.show()?;
        Ok(mounted)
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Cuts the power and mounts what is left. Whoever has files open here must be killed before.
    ///
    /// # Errors
    /// When unmounting or mounting fails.
    pub fn cut(&mut self, loss: Loss) -> Result<Cut> {
        let cut = lock(&self.state).cut(loss);
        self.hide()?;
        self.show()?;
        Ok(cut)
    }

    fn show(&mut self) -> Result<()> {
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("powerfs".to_owned()), MountOption::NoAtime];
        config.n_threads = Some(THREADS);
        let view = View { state: self.state.clone(), listings: Mutex::default(), handles: AtomicU64::new(1) };
        let session = fuser::spawn_mount(view, &self.path, &config).context("cannot mount powerfs")?;
        self.session = Some(session);
        Ok(())
    }

    fn hide(&mut self) -> Result<()> {
        match self.session.take() {
            Some(session) => match session.umount_and_join() {
                // A thread that was reading when the connection went: so it ends.
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::CONNABORTED.raw_os_error()) => Ok(()),
                done => done.context("cannot unmount powerfs"),
            },
            None => Ok(()),
        }
    }
}

/// An entry of a directory: inode, kind, name.
type Listed = (u64, Kind, OsString);

impl Drop for PowerFs {
    fn drop(&mut self) {
        // The directory below is temporary; a mount that stays only leaks until this process ends.
        let _ = self.hide();
    }
}

struct View {
    state: Arc<Mutex<State>>,
    /// What each open directory showed when it was opened: a listing must not skip because of a removal.
    listings: Mutex<BTreeMap<u64, Vec<Listed>>>,
    handles: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn errno(refusal: Refusal) -> Errno {
    match refusal {
        Refusal::NotFound => Errno::ENOENT,
        Refusal::Exists => Errno::EEXIST,
        Refusal::NotEmpty => Errno::ENOTEMPTY,
        Refusal::NotDirectory => Errno::ENOTDIR,
        Refusal::IsDirectory => Errno::EISDIR,
        Refusal::Invalid => Errno::EINVAL,
    }
}

fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Dir => FileType::Directory,
        Kind::Link => FileType::Symlink,
    }
}

fn attr(attributes: Attributes) -> FileAttr {
    let time = attributes.modified;
    FileAttr {
        ino: INodeNo(attributes.ino),
        size: attributes.size,
        blocks: attributes.size.div_ceil(512),
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind: file_type(attributes.kind),
        perm: u16::try_from(attributes.mode & 0o7777).unwrap_or(0o755),
        nlink: attributes.links.max(u32::from(attributes.kind == Kind::Dir)),
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: u32::try_from(PAGE).unwrap_or(4096),
        flags: 0,
    }
}

impl View {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Answers with the node that `find` names, which the kernel holds from now on.
    fn entry(&self, reply: ReplyEntry, find: impl FnOnce(&mut State) -> Result<u64, Refusal>) {
        let mut state = self.state();
        let found = find(&mut state).and_then(|ino| state.attributes(ino));
        match found {
            Ok(attributes) => {
                state.hold(attributes.ino);
                reply.entry(&TTL, &attr(attributes), Generation(state.epoch));
            }
            Err(refusal) => reply.error(errno(refusal)),
        }
    }

    fn done(reply: ReplyEmpty, result: Result<(), Refusal>) {
        match result {
            Ok(()) => reply.ok(),
            Err(refusal) => reply.error(errno(refusal)),
        }
    }
}

impl Filesystem for View {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.entry(reply, |state| state.lookup(parent.0, name));
    }

    fn forget(&self, _: &Request, ino: INodeNo, count: u64) {
        self.state().let_go(ino.0, count);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.state().attributes(ino.0) {
            Ok(attributes) => reply.attr(&TTL, &attr(attributes)),
            Err(refusal) => reply.error(errno(refusal)),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut state = self.state();
        let at = mtime.map(|time| match time {
            TimeOrNow::SpecificTime(time) => time,
            TimeOrNow::Now => SystemTime::now(),
        });
        let changed = mode
            .map_or(Ok(()), |mode| state.set_mode(ino.0, mode))
            .and_then(|()| size.map_or(Ok(()), |size| state.resize(ino.0, size)))
            .and_then(|()| at.map_or(Ok(()), |at| state.set_modified(ino.0, at)))
            .and_then(|()| state.attributes(ino.0));
        match changed {
            Ok(attributes) => reply.attr(&TTL, &attr(attributes)),
            Err(refusal) => reply.error(errno(refusal)),
        }
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        match self.state().read_link(ino.0) {
            Ok(target) => reply.data(target.as_encoded_bytes()),
            Err(refusal) => reply.error(errno(refusal)),
        }
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        self.entry(reply, |state| state.create(parent.0, name, Kind::Dir, mode & !umask));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        Self::done(reply, self.state().remove(parent.0, name, Kind::File));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        Self::done(reply, self.state().remove(parent.0, name, Kind::Dir));
    }

    fn symlink(&self, _: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        self.entry(reply, |state| state.symlink(parent.0, name, target.as_os_str()));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        to: INodeNo,
        to_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let no_replace = flags.contains(RenameFlags::RENAME_NOREPLACE);
        let exchange = flags.contains(RenameFlags::RENAME_EXCHANGE);
        Self::done(reply, self.state().rename((parent.0, name), (to.0, to_name), no_replace, exchange));
    }

    fn link(&self, _: &Request, ino: INodeNo, to: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.entry(reply, |state| state.link(ino.0, to.0, name).map(|()| ino.0));
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        self.state().hold(ino.0);
        reply.opened(FileHandle(0), FopenFlags::empty());
    }

    fn create(&self, _: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, _: i32, reply: ReplyCreate) {
        let mut state = self.state();
        let created = state.create(parent.0, name, Kind::File, mode & !umask).and_then(|ino| state.attributes(ino));
        match created {
            Ok(attributes) => {
                // Once for the name the kernel now knows, once for the handle.
                state.hold(attributes.ino);
                state.hold(attributes.ino);
                let generation = Generation(state.epoch);
                reply.created(&TTL, &attr(attributes), generation, FileHandle(0), FopenFlags::empty());
            }
            Err(refusal) => reply.error(errno(refusal)),
        }
    }

    fn release(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.state().let_go(ino.0, 1);
        reply.ok();
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.state().read(ino.0, offset, size as usize) {
            Ok(bytes) => reply.data(&bytes),
            Err(refusal) => reply.error(errno(refusal)),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.state().write(ino.0, offset, data) {
            Ok(()) => reply.written(u32::try_from(data.len()).unwrap_or(u32::MAX)),
            Err(refusal) => reply.error(errno(refusal)),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // close(2) makes nothing durable.
        reply.ok();
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let begun = self.state().begin_sync(ino.0);
        std::thread::sleep(SYNC_TAKES);
        Self::done(reply, begun.map(|sync| self.state().end_sync(sync)));
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let epoch = self.state().epoch;
        std::thread::sleep(SYNC_TAKES);
        let mut state = self.state();
        let synced = if state.epoch == epoch { state.sync_dir(ino.0) } else { Ok(()) };
        Self::done(reply, synced);
    }

    fn fallocate(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let mut state = self.state();
        if mode & !(KEEP_SIZE | PUNCH_HOLE | ZERO_RANGE) != 0 {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let zeroed = if mode & (PUNCH_HOLE | ZERO_RANGE) == 0 { Ok(()) } else { state.zero(ino.0, offset, length) };
        let size = zeroed.and_then(|()| state.attributes(ino.0)).map(|attributes| attributes.size);
        let grown = size.and_then(|size| {
            let grows = mode & KEEP_SIZE == 0 && offset + length > size;
            if grows { state.resize(ino.0, offset + length) } else { Ok(()) }
        });
        Self::done(reply, grown);
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.state().entries(ino.0) {
            Ok(entries) => {
                let handle = self.handles.fetch_add(1, Ordering::Relaxed);
                lock(&self.listings).insert(handle, entries);
                reply.opened(FileHandle(handle), FopenFlags::empty());
            }
            Err(refusal) => reply.error(errno(refusal)),
        }
    }

    fn readdir(&self, _: &Request, ino: INodeNo, handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let listings = lock(&self.listings);
        let Some(entries) = listings.get(&handle.0) else { return reply.error(Errno::EBADF) };
        let dots = [(ino.0, Kind::Dir, OsString::from(".")), (ino.0, Kind::Dir, OsString::from(".."))];
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        for (number, (ino, kind, name)) in dots.iter().chain(entries).enumerate().skip(from) {
            if reply.add(INodeNo(*ino), number as u64 + 1, file_type(*kind), name) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(&self, _: &Request, _: INodeNo, handle: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        lock(&self.listings).remove(&handle.0);
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let page = u32::try_from(PAGE).unwrap_or(4096);
        reply.statfs(BLOCKS, BLOCKS / 2, BLOCKS / 2, 1 << 20, 1 << 19, page, 255, page);
    }
}
