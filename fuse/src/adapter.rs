//! FUSE: the kernel's requests become operations of [`crate::vfs`], and nothing more. Only this file names fuser.
//!
//! Reader threads take requests and hand them to the runtime, which answers them; a write for which there is room is done at
//! once, without a copy. A thread of its own tells the kernel what to forget: it serves nothing, so the kernel may wait for
//! any request meanwhile.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use fuser::{
    BackgroundSession, BsdFileFlags, Config, CopyFileRangeFlags, FileAttr, FileHandle, FileType, Filesystem,
    FopenFlags, Generation, INodeNo, InitFlags, KernelConfig, LockOwner, MountOption, Notifier, OpenFlags, RenameFlags,
    ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLock,
    ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, SessionACL, TimeOrNow, WriteFlags,
};
use holdfast_core::command::mount::Onto;
use tokio::runtime::Handle as Runtime;

use crate::attributes::{Attributes, Changes, Kind, Time};
use crate::error::Errno;
use crate::tree::{Ino, ROOT};
use crate::vfs::{AtomicFailures, Attr, Kernel, Listing, Make, Profile, Vfs, Wanted, Window};

/// Threads that take requests of the kernel.
const READERS: usize = 4;
/// Requests that the kernel keeps under way at a time.
const BACKGROUND_MAX: u16 = 128;
/// Bytes of one write or read.
const WRITE_BYTES_MAX: u32 = 1 << 20;
/// Bytes that the kernel reads ahead.
const READAHEAD_BYTES: u32 = 1 << 20;
/// What the kernel is to forget and was not told yet.
const FORGETS_MAX: usize = 65_536;
/// Size that is told of a bucket, which has none: finite, as programs compute with it.
const CAPACITY_BYTES: u64 = 1 << 50;
/// Names that are told to be free.
const NAMES_FREE: u64 = 1 << 32;

/// How the kernel is to mount.
#[derive(Clone, Debug)]
pub struct MountOptions {
    /// Shown as the device.
    pub source: String,
    /// Other users may look, as permissions say.
    pub allow_other: bool,
    /// No changes.
    pub read_only: bool,
    /// `flock` is cluster-wide, too; it is one kind of lock with `fcntl` then.
    pub flock: bool,
}

/// A mounted file system; unmounted when it is dropped.
pub struct Mounted {
    session: Option<BackgroundSession>,
}

impl std::fmt::Debug for Mounted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Mounted")
    }
}

impl Mounted {
    /// Waits until somebody has unmounted it.
    ///
    /// # Errors
    /// When the connection to the kernel broke.
    pub fn join(mut self) -> std::io::Result<()> {
        self.session.take().map_or(Ok(()), BackgroundSession::join)
    }
}

/// Mounts.
///
/// # Errors
/// When there is no fuse device, or the kernel refuses.
pub fn mount(vfs: &Arc<Vfs>, dir: &Path, options: &MountOptions, runtime: Runtime) -> std::io::Result<Mounted> {
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName(options.source.clone()),
        MountOption::Subtype("holdfast".to_owned()),
        MountOption::DefaultPermissions,
        MountOption::NoDev,
        MountOption::NoSuid,
        MountOption::NoAtime,
    ];
    if options.read_only {
        config.mount_options.push(MountOption::RO);
    }
    if options.allow_other {
        config.acl = SessionACL::All;
    }
    config.n_threads = Some(READERS);
    config.clone_fd = true;
    let view = View { vfs: Arc::clone(vfs), runtime, handles: Arc::new(Handles::default()), flock: options.flock };
    let session = fuser::spawn_mount(view, dir, &config)?;
    let (tell, told) = sync_channel(FORGETS_MAX);
    let notifier = session.notifier();
    std::thread::Builder::new().name("forget".to_owned()).spawn(move || forget_until_closed(&notifier, &told))?;
    vfs.set_kernel(Arc::new(Forgetter(tell)));
    Ok(Mounted { session: Some(session) })
}

/// Something that the kernel is to forget.
enum Forget {
    Content(Ino, Option<SyncSender<()>>),
    Name(Ino, std::ffi::OsString),
}

struct Forgetter(SyncSender<Forget>);

impl Kernel for Forgetter {
    fn forget_content(&self, ino: Ino) {
        // Fails only when the mount is gone.
        let _ = self.0.send(Forget::Content(ino, None));
    }

    fn forget_content_now(&self, ino: Ino) {
        let (done, wait) = sync_channel(1);
        if self.0.send(Forget::Content(ino, Some(done))).is_ok() {
            let _ = wait.recv_timeout(Duration::from_secs(5));
        }
    }

    fn forget_name(&self, parent: Ino, name: &OsStr) {
        let _ = self.0.send(Forget::Name(parent, name.to_owned()));
    }
}

fn forget_until_closed(notifier: &Notifier, told: &Receiver<Forget>) {
    for forget in told {
        // The kernel may not know it any more: that is all that is wanted.
        match forget {
            Forget::Content(ino, done) => {
                let _ = notifier.inval_inode(INodeNo(ino), 0, 0);
                done.map(|done| done.send(()));
            }
            Forget::Name(parent, name) => drop(notifier.inval_entry(INodeNo(parent), &name)),
        }
    }
}

/// What a process has open.
enum Handle {
    File {
        window: Mutex<Window>,
        failures: AtomicFailures,
        /// Who locked ranges through it: the kernel does not tell when locks of an open file (OFD) end with it.
        lockers: Mutex<BTreeSet<u64>>,
    },
    Directory(tokio::sync::Mutex<Listing>),
}

#[derive(Default)]
struct Handles {
    next: AtomicU64,
    open: Mutex<HashMap<u64, Arc<Handle>>>,
}

impl Handles {
    fn open(&self) -> MutexGuard<'_, HashMap<u64, Arc<Handle>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, handle: Handle) -> FileHandle {
        let number = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        self.open().insert(number, Arc::new(handle));
        FileHandle(number)
    }

    fn add_file(&self, failures: u64) -> FileHandle {
        let failures = AtomicFailures(AtomicU64::new(failures));
        self.add(Handle::File { window: Mutex::default(), failures, lockers: Mutex::default() })
    }

    fn get(&self, handle: FileHandle) -> Result<Arc<Handle>, Errno> {
        self.open().get(&handle.0).cloned().ok_or(Errno::EBADF)
    }

    fn remove(&self, handle: FileHandle) -> Option<Arc<Handle>> {
        self.open().remove(&handle.0)
    }
}

struct View {
    vfs: Arc<Vfs>,
    runtime: Runtime,
    handles: Arc<Handles>,
    flock: bool,
}

/// Answers a request with a value, or an error number.
macro_rules! answer {
    ($view:expr, $reply:ident, |$vfs:ident| $work:expr, |$value:pat_param| $done:expr) => {{
        let $vfs = Arc::clone(&$view.vfs);
        $view.run(async move {
            match $work.await {
                Ok($value) => $done,
                Err(errno) => $reply.error(raw(errno)),
            }
        });
    }};
}

impl View {
    fn run(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.vfs.serve(&self.runtime, work);
    }
}

fn raw(errno: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(errno.raw())
}

const ANY_GENERATION: Generation = Generation(0);

fn system_time(time: Time) -> SystemTime {
    let nanos = Duration::from_nanos(u64::from(time.nanos));
    let whole = Duration::from_secs(time.seconds.unsigned_abs());
    let base = if time.seconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(whole)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(whole)
    };
    base.and_then(|base| base.checked_add(nanos)).unwrap_or(SystemTime::UNIX_EPOCH)
}

fn time_of(time: TimeOrNow) -> Time {
    match time {
        TimeOrNow::Now => Time::now(),
        TimeOrNow::SpecificTime(time) => time_of_system(time),
    }
}

fn time_of_system(time: SystemTime) -> Time {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => Time { seconds: since.as_secs() as i64, nanos: since.subsec_nanos() },
        // fuser takes the nanoseconds of a time before the epoch the wrong way: off the epoch, as the seconds.
        Err(before) => {
            let before = before.duration();
            Time { seconds: -(before.as_secs() as i64), nanos: before.subsec_nanos() }
        }
    }
}

fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Directory => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Fifo => FileType::NamedPipe,
        Kind::CharDevice => FileType::CharDevice,
        Kind::BlockDevice => FileType::BlockDevice,
        Kind::Socket => FileType::Socket,
    }
}

fn file_attr(attr: &Attr) -> FileAttr {
    let Attributes { kind, mode, uid, gid, rdev, atime, mtime, ctime, .. } = &attr.attributes;
    FileAttr {
        ino: INodeNo(attr.ino),
        size: attr.size,
        blocks: attr.allocated.div_ceil(512),
        atime: system_time(*atime),
        mtime: system_time(*mtime),
        ctime: system_time(*ctime),
        crtime: system_time(*ctime),
        kind: file_type(*kind),
        perm: (*mode & 0o7777) as u16,
        nlink: attr.links,
        uid: *uid,
        gid: *gid,
        rdev: *rdev,
        blksize: 4096,
        flags: 0,
    }
}

fn kind_of(mode: u32) -> Kind {
    Kind::of_mode(mode).unwrap_or(Kind::File)
}

fn new_attributes(kind: Kind, mode: u32, request: &Request, rdev: u32) -> Attributes {
    Attributes { rdev, ..Attributes::new(kind, mode, (request.uid(), request.gid()), Time::now()) }
}

impl Filesystem for View {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // Flags that are served here, and none of which fuser only says that it does.
        let mut wanted = InitFlags::FUSE_ASYNC_DIO
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_POSIX_LOCKS
            | InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_READDIRPLUS_AUTO
            | InitFlags::FUSE_EXPLICIT_INVAL_DATA;
        if self.flock {
            wanted |= InitFlags::FUSE_FLOCK_LOCKS;
        }
        if self.vfs.options.profile == Profile::Vm {
            wanted |= InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP;
        }
        // An older kernel lacks some; then it does not ask.
        let _ = config.add_capabilities(wanted & config.capabilities());
        let _ = config.set_max_write(WRITE_BYTES_MAX);
        let _ = config.set_max_readahead(READAHEAD_BYTES);
        let _ = config.set_max_background(BACKGROUND_MAX);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = name.to_owned();
        let (ttl, vfs) = (self.vfs.ttl(), Arc::clone(&self.vfs));
        self.run(async move {
            match vfs.lookup(parent.0, &name).await {
                Ok(attr) => reply.entry(&ttl, &file_attr(&attr), ANY_GENERATION),
                // Inode 0: the kernel keeps for the time that nothing has the name. Source: libfuse, fuse_reply_entry.
                Err(Errno::ENOENT) if vfs.is_absent(parent.0, &name) => {
                    reply.entry(&ttl, &FileAttr { ino: INodeNo(0), ..dot_attr() }, ANY_GENERATION);
                }
                Err(errno) => reply.error(raw(errno)),
            }
        });
    }

    fn forget(&self, _: &Request, ino: INodeNo, lookups: u64) {
        self.vfs.forget(ino.0, lookups);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let ttl = self.vfs.ttl();
        answer!(self, reply, |vfs| vfs.getattr(ino.0), |attr| reply.attr(&ttl, &file_attr(&attr)));
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let changes =
            Changes { mode, uid, gid, size, atime: atime.map(time_of), mtime: mtime.map(time_of), ctime: None };
        let ttl = self.vfs.ttl();
        answer!(self, reply, |vfs| vfs.setattr(ino.0, changes), |attr| reply.attr(&ttl, &file_attr(&attr)));
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        answer!(self, reply, |vfs| vfs.readlink(ino.0), |target| reply.data(&target));
    }

    fn mknod(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, rdev: u32, reply: ReplyEntry) {
        let make = Make { attributes: new_attributes(kind_of(mode), mode, req, rdev), target: None };
        self.make(parent, name, make, reply);
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, reply: ReplyEntry) {
        let make = Make { attributes: new_attributes(Kind::Directory, mode, req, 0), target: None };
        self.make(parent, name, make, reply);
    }

    fn symlink(&self, req: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let target = std::os::unix::ffi::OsStrExt::as_bytes(target.as_os_str()).to_vec();
        let make = Make { attributes: new_attributes(Kind::Symlink, 0o777, req, 0), target: Some(target) };
        self.make(parent, name, make, reply);
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.to_owned();
        answer!(self, reply, |vfs| vfs.unlink(parent.0, &name), |()| reply.ok());
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.to_owned();
        answer!(self, reply, |vfs| vfs.rmdir(parent.0, &name), |()| reply.ok());
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let onto = match flags {
            flags if flags.is_empty() => Onto::Any,
            RenameFlags::RENAME_NOREPLACE => Onto::Nothing,
            RenameFlags::RENAME_EXCHANGE => Onto::Exchange,
            _ => return reply.error(fuser::Errno::EINVAL),
        };
        let (name, newname) = (name.to_owned(), newname.to_owned());
        answer!(self, reply, |vfs| vfs.rename((parent.0, &name), (newparent.0, &newname), onto), |()| reply.ok());
    }

    fn link(&self, _: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        let name = newname.to_owned();
        let ttl = self.vfs.ttl();
        let entry = move |reply: ReplyEntry, attr: &Attr| reply.entry(&ttl, &file_attr(attr), ANY_GENERATION);
        answer!(self, reply, |vfs| vfs.link(ino.0, newparent.0, &name), |attr| entry(reply, &attr));
    }

    fn open(&self, _: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let handles = Arc::clone(&self.handles);
        let direct = self.vfs.options.profile == Profile::Vm;
        let truncates = flags.0 & rustix::fs::OFlags::TRUNC.bits() as i32 != 0;
        let vfs = Arc::clone(&self.vfs);
        self.run(async move {
            match vfs.open(ino.0, truncates).await {
                Ok(keep) => {
                    let handle = handles.add_file(vfs.failures(ino.0));
                    reply.opened(handle, open_flags(direct, keep));
                }
                Err(errno) => reply.error(raw(errno)),
            }
        });
    }

    fn create(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, flags: i32, reply: ReplyCreate) {
        let make = Make { attributes: new_attributes(Kind::File, mode, req, 0), target: None };
        let exclusive = flags & rustix::fs::OFlags::EXCL.bits() as i32 != 0;
        let (name, ttl, handles) = (name.to_owned(), self.vfs.ttl(), Arc::clone(&self.handles));
        let direct = self.vfs.options.profile == Profile::Vm;
        let vfs = Arc::clone(&self.vfs);
        self.run(async move {
            let made = match vfs.make(parent.0, &name, make).await {
                Ok(attr) => vfs.open_new(attr.ino).await.map(|()| attr),
                // Another client was first.
                Err(Errno::EEXIST) if !exclusive => match vfs.lookup(parent.0, &name).await {
                    Ok(attr) => vfs.open(attr.ino, false).await.map(|_| attr),
                    Err(errno) => Err(errno),
                },
                Err(errno) => Err(errno),
            };
            match made {
                Ok(attr) => {
                    let handle = handles.add_file(vfs.failures(attr.ino));
                    reply.created(&ttl, &file_attr(&attr), ANY_GENERATION, handle, open_flags(direct, true));
                }
                Err(errno) => reply.error(raw(errno)),
            }
        });
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let handle = self.handles.get(fh);
        let vfs = Arc::clone(&self.vfs);
        self.run(async move {
            let read = match handle.as_deref() {
                Ok(Handle::File { window, .. }) => vfs.read(ino.0, offset, size, window).await,
                Ok(Handle::Directory(_)) | Err(_) => Err(Errno::EBADF),
            };
            match read {
                Ok(bytes) => reply.data(&bytes),
                Err(errno) => reply.error(raw(errno)),
            }
        });
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
        let length = data.len() as u32;
        match self.vfs.write_now(ino.0, offset, data) {
            Ok(true) => reply.written(length),
            Ok(false) => {
                let data = Bytes::copy_from_slice(data);
                answer!(self, reply, |vfs| vfs.write(ino.0, offset, &data), |()| reply.written(length));
            }
            Err(errno) => reply.error(raw(errno)),
        }
    }

    fn flush(&self, _: &Request, ino: INodeNo, fh: FileHandle, owner: LockOwner, reply: ReplyEmpty) {
        let handle = self.handles.get(fh);
        let vfs = Arc::clone(&self.vfs);
        self.run(async move {
            let closed = match handle.as_deref() {
                Ok(Handle::File { failures, .. }) => vfs.close(ino.0, failures).await,
                Ok(Handle::Directory(_)) | Err(_) => Ok(()),
            };
            // A process that closes a file gives up all its ranges of it. Source: POSIX, close.
            let unlocked = vfs.set_lock(ino.0, Wanted::nothing(owner.0), None).await;
            match closed.and(unlocked) {
                Ok(()) => reply.ok(),
                Err(errno) => reply.error(raw(errno)),
            }
        });
    }

    fn release(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        let handle = self.handles.remove(fh);
        let vfs = Arc::clone(&self.vfs);
        self.run(async move {
            if let Some(Handle::File { lockers, .. }) = handle.as_deref() {
                let lockers = std::mem::take(&mut *lockers.lock().unwrap_or_else(PoisonError::into_inner));
                for owner in lockers {
                    // What is not unlocked now ends with the session.
                    let _ = vfs.set_lock(ino.0, Wanted::nothing(owner), None).await;
                }
            }
            vfs.release(ino.0).await;
            reply.ok();
        });
    }

    fn fsync(&self, _: &Request, ino: INodeNo, fh: FileHandle, _: bool, reply: ReplyEmpty) {
        let handle = self.handles.get(fh);
        let vfs = Arc::clone(&self.vfs);
        self.run(async move {
            let synced = match handle.as_deref() {
                Ok(Handle::File { failures, .. }) => vfs.sync(ino.0, failures).await,
                Ok(Handle::Directory(_)) | Err(_) => Err(Errno::EBADF),
            };
            match synced {
                Ok(()) => reply.ok(),
                Err(errno) => reply.error(raw(errno)),
            }
        });
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let handle = self.handles.add(Handle::Directory(tokio::sync::Mutex::default()));
        reply.opened(handle, FopenFlags::empty());
    }

    fn readdir(&self, _: &Request, ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let (handle, vfs) = (self.handles.get(fh), Arc::clone(&self.vfs));
        self.run(async move {
            let done = walk(&vfs, handle, ino.0, offset, |vfs, at, entry| match entry {
                Walked::Dot(ino, name) => Ok(reply.add(INodeNo(ino), at, FileType::Directory, name)),
                Walked::Entry(entry) => {
                    let attr = vfs.adopt_attr(ino.0, entry)?;
                    // A plain listing is no lookup.
                    vfs.forget(attr.ino, 1);
                    Ok(reply.add(INodeNo(attr.ino), at, file_type(attr.attributes.kind), &entry.name))
                }
            });
            match done.await {
                Ok(()) => reply.ok(),
                Err(errno) => reply.error(raw(errno)),
            }
        });
    }

    fn readdirplus(&self, _: &Request, ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        let (handle, vfs) = (self.handles.get(fh), Arc::clone(&self.vfs));
        let ttl = vfs.ttl();
        self.run(async move {
            let done = walk(&vfs, handle, ino.0, offset, |vfs, at, entry| match entry {
                Walked::Dot(ino, name) => {
                    let attr = FileAttr { ino: INodeNo(ino), ..dot_attr() };
                    Ok(reply.add(INodeNo(ino), at, name, &Duration::ZERO, &attr, ANY_GENERATION))
                }
                Walked::Entry(entry) => {
                    let attr = vfs.adopt_attr(ino.0, entry)?;
                    let full = reply.add(INodeNo(attr.ino), at, &entry.name, &ttl, &file_attr(&attr), ANY_GENERATION);
                    if full {
                        vfs.not_told(attr.ino);
                    }
                    Ok(full)
                }
            });
            match done.await {
                Ok(()) => reply.ok(),
                Err(errno) => reply.error(raw(errno)),
            }
        });
    }

    fn releasedir(&self, _: &Request, _: INodeNo, fh: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        drop(self.handles.remove(fh));
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        // Names are in the repository before whoever changed them is answered.
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        const BLOCK: u64 = 4096;
        answer!(self, reply, |vfs| vfs.usage(), |(bytes, objects)| {
            let used = bytes.div_ceil(BLOCK);
            let all = (CAPACITY_BYTES / BLOCK).max(used * 2);
            let free = all - used;
            reply.statfs(all, free, free, objects + NAMES_FREE, NAMES_FREE, BLOCK as u32, 255, BLOCK as u32);
        });
    }

    fn setxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, value: &[u8], flags: i32, _: u32, reply: ReplyEmpty) {
        const CREATE: i32 = 1;
        const REPLACE: i32 = 2;
        let Some(name) = name.to_str().map(str::to_owned) else { return reply.error(fuser::Errno::EILSEQ) };
        let must = match flags & (CREATE | REPLACE) {
            CREATE => Some(false),
            REPLACE => Some(true),
            _ => None,
        };
        let value = value.to_vec();
        answer!(self, reply, |vfs| vfs.set_xattr(ino.0, &name, Some(&value), must), |()| reply.ok());
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        // The kernel asks for this before every write.
        if name == "security.capability" {
            return reply.error(fuser::Errno::ENODATA);
        }
        let name = name.to_string_lossy().into_owned();
        // ACLs; `ls` asks for no more of them when it is told so.
        if name.starts_with("system.") {
            return reply.error(fuser::Errno::EOPNOTSUPP);
        }
        // In this thread: `ls -l` asks for one of every file.
        match self.vfs.known_xattr(ino.0, &name) {
            Some(Ok(Some(value))) => return tell_xattr(reply, &value, size),
            Some(Ok(None)) => return reply.error(fuser::Errno::ENODATA),
            Some(Err(errno)) => return reply.error(raw(errno)),
            None => {}
        }
        answer!(self, reply, |vfs| vfs.xattrs(ino.0), |xattrs| match xattrs.get(&name) {
            Some(value) => tell_xattr(reply, value, size),
            None => reply.error(fuser::Errno::ENODATA),
        });
    }

    fn listxattr(&self, _: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        answer!(self, reply, |vfs| vfs.xattrs(ino.0), |xattrs| {
            let shown = xattrs.keys().filter(|name| !name.starts_with("user.holdfast."));
            let names: Vec<u8> = shown.flat_map(|name| name.bytes().chain([0])).collect();
            tell_xattr(reply, &names, size);
        });
    }

    fn removexattr(&self, _: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let Some(name) = name.to_str().map(str::to_owned) else { return reply.error(fuser::Errno::ENODATA) };
        answer!(self, reply, |vfs| vfs.set_xattr(ino.0, &name, None, Some(true)), |()| reply.ok());
    }

    fn getlk(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        owner: LockOwner,
        start: u64,
        end: u64,
        typ: i32,
        pid: u32,
        reply: ReplyLock,
    ) {
        let wanted = Wanted { owner: owner.0, pid, start, end: last_byte(end), exclusive: exclusive(typ) };
        answer!(self, reply, |vfs| vfs.test_lock(ino.0, wanted), |holder| match holder {
            Some(holder) => {
                let typ = if holder.exclusive { F_WRLCK } else { F_RDLCK };
                reply.locked(holder.start, kernel_end(holder.end), typ, holder.pid);
            }
            None => reply.locked(start, end, F_UNLCK, 0),
        });
    }

    fn setlk(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        owner: LockOwner,
        start: u64,
        end: u64,
        typ: i32,
        pid: u32,
        sleep: bool,
        reply: ReplyEmpty,
    ) {
        let waits = sleep.then(|| request.pid());
        let wanted = Wanted { owner: owner.0, pid, start, end: last_byte(end), exclusive: exclusive(typ) };
        if wanted.exclusive.is_some()
            && let Ok(handle) = self.handles.get(fh)
            && let Handle::File { lockers, .. } = &*handle
        {
            lockers.lock().unwrap_or_else(PoisonError::into_inner).insert(owner.0);
        }
        answer!(self, reply, |vfs| vfs.set_lock(ino.0, wanted, waits), |()| reply.ok());
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
        use rustix::fs::FallocateFlags as Flags;
        let flags = Flags::from_bits_retain(mode as u32);
        let known = Flags::KEEP_SIZE | Flags::PUNCH_HOLE | Flags::ZERO_RANGE;
        if !known.contains(flags) || flags == Flags::PUNCH_HOLE {
            return reply.error(fuser::Errno::EOPNOTSUPP);
        }
        let Some(end) = offset.checked_add(length) else { return reply.error(fuser::Errno::EFBIG) };
        let hole = flags.intersects(Flags::PUNCH_HOLE | Flags::ZERO_RANGE);
        let keep_size = flags.contains(Flags::KEEP_SIZE);
        answer!(self, reply, |vfs| vfs.allocate(ino.0, offset..end, hole, keep_size), |()| reply.ok());
    }

    fn lseek(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        const SEEK_DATA: i32 = 3;
        const SEEK_HOLE: i32 = 4;
        let Ok(offset) = u64::try_from(offset) else { return reply.error(fuser::Errno::ENXIO) };
        if !matches!(whence, SEEK_DATA | SEEK_HOLE) {
            return reply.error(fuser::Errno::EINVAL);
        }
        answer!(self, reply, |vfs| vfs.seek(ino.0, offset, whence == SEEK_DATA), |at| reply.offset(at as i64));
    }

    fn copy_file_range(
        &self,
        _: &Request,
        ino_in: INodeNo,
        _: FileHandle,
        offset_in: u64,
        ino_out: INodeNo,
        _: FileHandle,
        offset_out: u64,
        len: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        // The answer is a 32-bit number.
        let length = len.min(1 << 30);
        let (from, to) = ((ino_in.0, offset_in), (ino_out.0, offset_out));
        answer!(self, reply, |vfs| vfs.copy_range(from, to, length), |copied| reply.written(copied as u32));
    }
}

impl View {
    fn make(&self, parent: INodeNo, name: &OsStr, make: Make, reply: ReplyEntry) {
        let name = name.to_owned();
        let ttl = self.vfs.ttl();
        answer!(self, reply, |vfs| vfs.make(parent.0, &name, make), |attr| {
            reply.entry(&ttl, &file_attr(&attr), ANY_GENERATION);
        });
    }
}

const F_RDLCK: i32 = 0;
const F_WRLCK: i32 = 1;
const F_UNLCK: i32 = 2;

fn exclusive(typ: i32) -> Option<bool> {
    match typ {
        F_RDLCK => Some(false),
        F_WRLCK => Some(true),
        _ => None,
    }
}

/// The kernel's end of every file is the largest signed number.
fn last_byte(end: u64) -> u64 {
    if end >= i64::MAX as u64 { u64::MAX } else { end }
}

fn kernel_end(end: u64) -> u64 {
    end.min(i64::MAX as u64)
}

fn open_flags(direct: bool, keep: bool) -> FopenFlags {
    match (direct, keep) {
        (true, _) => FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES,
        (false, true) => FopenFlags::FOPEN_KEEP_CACHE,
        (false, false) => FopenFlags::empty(),
    }
}

fn tell_xattr(reply: ReplyXattr, value: &[u8], size: u32) {
    if size == 0 {
        reply.size(value.len() as u32);
    } else if value.len() > size as usize {
        reply.error(fuser::Errno::ERANGE);
    } else {
        reply.data(value);
    }
}

fn dot_attr() -> FileAttr {
    let time = SystemTime::UNIX_EPOCH;
    FileAttr {
        ino: INodeNo(ROOT),
        size: 0,
        blocks: 0,
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind: FileType::Directory,
        perm: 0o755,
        nlink: 2,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

/// An entry of a directory that is read.
enum Walked<'a> {
    /// `.` or `..`, which are no lookups.
    Dot(Ino, &'static str),
    Entry(&'a crate::vfs::Shown),
}

/// Gives entries from a position on until `add` is full. A position is a number in the handle's own list, which only grows.
async fn walk(
    vfs: &Vfs,
    handle: Result<Arc<Handle>, Errno>,
    ino: Ino,
    offset: u64,
    mut add: impl FnMut(&Vfs, u64, Walked<'_>) -> Result<bool, Errno>,
) -> Result<(), Errno> {
    let handle = handle?;
    let Handle::Directory(listing) = &*handle else { return Err(Errno::ENOTDIR) };
    let mut listing = listing.lock().await;
    if offset == 0 && !listing.entries.is_empty() {
        // Read from the start: what is there now.
        *listing = Listing::default();
    }
    let dots = [(ino, "."), (vfs.parent_of(ino), "..")];
    let mut at = offset;
    loop {
        let next = at + 1;
        let full = match usize::try_from(at).map_err(|_| Errno::EINVAL)? {
            dot @ (0 | 1) => add(vfs, next, Walked::Dot(dots[dot].0, dots[dot].1))?,
            entry => {
                while listing.entries.len() <= entry - 2 && !listing.done {
                    vfs.list_more(ino, &mut listing).await?;
                }
                let full = match listing.entries.get(entry - 2) {
                    Some(entry) => match add(vfs, next, Walked::Entry(entry)) {
                        // It went while it was listed.
                        Err(Errno::ESTALE) => false,
                        added => added?,
                    },
                    None => {
                        vfs.listed(ino, &listing);
                        return Ok(());
                    }
                };
                if !full {
                    listing.tell(entry - 2);
                }
                full
            }
        };
        if full {
            return Ok(());
        }
        at = next;
    }
}
