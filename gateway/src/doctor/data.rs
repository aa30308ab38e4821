//! Checks of a node's data directory, and the lock that keeps a second process out of it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Finding, Report, Verdict};

/// The file whose lock stands for the whole directory.
const LOCK_FILE: &str = "lock";
/// Free bytes below which somebody should know.
const FREE_BYTES_WARN: u64 = 1024 * 1024 * 1024;
/// A sync that takes longer makes every write slow.
const SYNC_WARN: Duration = Duration::from_millis(100);

/// Keeps every other process out of a data directory, until dropped.
#[derive(Debug)]
pub struct DataLock {
    _file: File,
}

/// Why a data directory cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error("data directory {} is in use by another process", directory.display())]
    InUse {
        /// The directory.
        directory: PathBuf,
    },
    /// The lock file cannot be used.
    #[error("cannot lock data directory {}", directory.display())]
    Io {
        /// The directory.
        directory: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Takes an existing data directory for this process. The lock goes with the process, also when it is killed.
pub fn lock_data_directory(directory: &Path) -> Result<DataLock, LockError> {
    let failed = |source| LockError::Io { directory: directory.to_owned(), source };
    let mut options = OpenOptions::new();
    let file =
        options.write(true).create(true).truncate(false).mode(0o600).open(directory.join(LOCK_FILE)).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(DataLock { _file: file }),
        Err(TryLockError::WouldBlock) => Err(LockError::InUse { directory: directory.to_owned() }),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// Checks a data directory: local, private, syncing, with space, and free. Blocking.
///
/// `held` is this process's own lock, where it has taken the directory already.
pub fn check_data_directory(directory: &Path, held: Option<&DataLock>) -> Report {
    let started = Instant::now();
    let subject = format!("data directory {}", directory.display());
    let mut findings = Vec::new();
    let report = |findings| Report { subject: subject.clone(), findings, took: started.elapsed() };
    match existing(directory) {
        Existing::Directory => {}
        Existing::Absent(ancestor) => {
            let text = format!("does not exist yet; it will be created in {}", ancestor.display());
            findings.push(finding("exists", Verdict::Ok, text));
            findings.push(file_system(&ancestor));
            findings.push(space(&ancestor));
            return report(findings);
        }
        Existing::Other(text) => return report(vec![finding("exists", Verdict::Fail, text)]),
    }
    findings.push(permissions(directory));
    findings.push(file_system(directory));
    findings.push(space(directory));
    findings.push(sync(directory));
    if held.is_none() {
        findings.push(lock(directory));
    }
    report(findings)
}

enum Existing {
    Directory,
    /// The nearest ancestor that is there.
    Absent(PathBuf),
    /// What is in the way.
    Other(String),
}

fn existing(directory: &Path) -> Existing {
    match std::fs::metadata(directory) {
        Ok(metadata) if metadata.is_dir() => Existing::Directory,
        Ok(_) => Existing::Other("is not a directory".into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let absolute = std::path::absolute(directory).unwrap_or_else(|_| directory.to_owned());
            let ancestor = absolute.ancestors().skip(1).find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"));
            Existing::Absent(ancestor.to_owned())
        }
        Err(error) => Existing::Other(format!("cannot be looked at: {error}")),
    }
}

fn finding(check: &'static str, verdict: Verdict, text: impl Into<String>) -> Finding {
    Finding { check, verdict, text: text.into() }
}

fn permissions(directory: &Path) -> Finding {
    let check = |verdict, text: String| finding("permissions", verdict, text);
    let metadata = match std::fs::metadata(directory) {
        Ok(metadata) => metadata,
        Err(error) => return check(Verdict::Fail, format!("cannot be looked at: {error}")),
    };
    let mode = metadata.mode() & 0o777;
    let own = rustix::process::geteuid();
    match mode {
        _ if metadata.uid() != own.as_raw() => {
            check(Verdict::Fail, format!("belongs to user {}, this process is user {}", metadata.uid(), own.as_raw()))
        }
        _ if mode & 0o022 != 0 => {
            check(Verdict::Fail, format!("others may write to it (mode {mode:04o}); run chmod 700"))
        }
        _ if mode & 0o077 != 0 => {
            check(Verdict::Warn, format!("others may look into it (mode {mode:04o}); run chmod 700"))
        }
        _ => check(Verdict::Ok, "only its owner has access".into()),
    }
}

/// Kinds of file systems by the number that `statfs` tells, with a verdict on those that need one.
const FILE_SYSTEMS: &[(u64, &str, Verdict)] = &[
    (0xef53, "ext4", Verdict::Ok),
    (0x5846_5342, "xfs", Verdict::Ok),
    (0x9123_683e, "btrfs", Verdict::Ok),
    (0x2fc1_2fc1, "zfs", Verdict::Ok),
    (0xf2f5_2010, "f2fs", Verdict::Ok),
    (0x794c_7630, "overlayfs", Verdict::Warn),
    (0x6573_5546, "FUSE", Verdict::Warn),
    (0x0102_1994, "tmpfs", Verdict::Warn),
    (0x8584_58f6, "ramfs", Verdict::Warn),
    (0x6969, "NFS", Verdict::Fail),
    (0x517b, "SMB", Verdict::Fail),
    (0xff53_4d42, "CIFS", Verdict::Fail),
    (0xfe53_4d42, "SMB2", Verdict::Fail),
    (0x0102_1997, "9p", Verdict::Fail),
    (0x00c3_6400, "CephFS", Verdict::Fail),
    (0x6a65_6a63, "virtiofs", Verdict::Warn),
];

fn file_system(directory: &Path) -> Finding {
    let check = |verdict, text: String| finding("file-system", verdict, text);
    let kind = match rustix::fs::statfs(directory) {
        // A magic number fills at most 32 bits, whatever the width of the field.
        Ok(stat) => u64::try_from(stat.f_type).unwrap_or_default() & 0xffff_ffff,
        Err(error) => return check(Verdict::Fail, format!("the file system cannot be determined: {error}")),
    };
    match FILE_SYSTEMS.iter().find(|(number, ..)| *number == kind) {
        Some((_, name, Verdict::Ok)) => check(Verdict::Ok, format!("on {name}, a local file system")),
        Some((_, name @ ("tmpfs" | "ramfs"), _)) => {
            check(Verdict::Warn, format!("on {name}: everything is lost at a restart"))
        }
        Some((_, name, Verdict::Warn)) => {
            check(Verdict::Warn, format!("on {name}: whether syncs reach a disk depends on what is below it"))
        }
        Some((_, name, Verdict::Fail)) => {
            check(Verdict::Fail, format!("on {name}, a network file system; use a local disk"))
        }
        None => check(Verdict::Warn, format!("on a file system of unknown kind ({kind:#x})")),
    }
}

fn space(directory: &Path) -> Finding {
    let check = |verdict, text: String| finding("space", verdict, text);
    let stat = match rustix::fs::statvfs(directory) {
        Ok(stat) => stat,
        Err(error) => return check(Verdict::Fail, format!("the free space cannot be determined: {error}")),
    };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let text = format!("{} MiB are free", free / (1024 * 1024));
    // A full disk is no reason to refuse: reads and deletes work on it.
    let is_scarce = free < FREE_BYTES_WARN || (stat.f_files > 0 && stat.f_favail == 0);
    check(if is_scarce { Verdict::Warn } else { Verdict::Ok }, text)
}

fn sync(directory: &Path) -> Finding {
    let check = |verdict, text: String| finding("sync", verdict, text);
    let path = directory.join(format!(".doctor-{:016x}", rand::random::<u64>()));
    let tried = try_sync(directory, &path);
    let removed = match std::fs::remove_file(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    };
    match (tried, removed) {
        (Err(error), _) if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
            check(Verdict::Warn, "could not be tried because the disk is full; reads and deletes still work".into())
        }
        (Err(error), _) => check(Verdict::Fail, format!("a file cannot be written and synced: {error}")),
        (Ok(_), Err(error)) => check(Verdict::Fail, format!("a file cannot be removed: {error}")),
        (Ok(took), Ok(())) if took > SYNC_WARN => {
            check(Verdict::Warn, format!("a sync takes {} ms; every write waits for one", took.as_millis()))
        }
        (Ok(took), Ok(())) => {
            check(Verdict::Ok, format!("files and directories sync in {:.1} ms", took.as_secs_f64() * 1000.0))
        }
    }
}

fn try_sync(directory: &Path, path: &Path) -> io::Result<Duration> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(b"holdfast doctor")?;
    let started = Instant::now();
    file.sync_all()?;
    File::open(directory)?.sync_all()?;
    Ok(started.elapsed())
}

fn lock(directory: &Path) -> Finding {
    match lock_data_directory(directory) {
        Ok(_lock) => finding("lock", Verdict::Ok, "no other process uses it"),
        Err(LockError::InUse { .. }) => finding("lock", Verdict::Fail, "another process is using it"),
        Err(LockError::Io { source, .. }) => finding("lock", Verdict::Fail, format!("cannot be locked: {source}")),
    }
}
