//! Attributes: modes, owners, times, extended attributes, and figures of the file system.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, XattrFlags, getxattr, getxattr_query,
    listxattr, mkdir, open, removexattr, setxattr, statvfs, utimensat,
};
use rustix::io::Errno;

use super::{Check, equal, new_file, refused, refused_io};

pub(super) const CHECKS: &[(&str, Check)] = &[
    ("modes", modes),
    ("modes_of_new_files", new_modes),
    ("owners", owners),
    ("times_in_nanoseconds", times),
    ("times_change_as_they_must", times_change),
    ("extended_attributes", xattrs),
    ("large_and_many_extended_attributes", xattrs_large),
    ("attributes_live_through_renames_and_links", attributes_stay),
    ("figures_of_the_file_system", figures),
    ("inode_numbers_are_stable", inodes),
];

const LONG_AGO: i64 = 1_000_000_000;

fn mode(path: &Path) -> Result<u32> {
    Ok(fs::symlink_metadata(path)?.mode() & 0o7777)
}

fn modes(dir: &Path) -> Result<()> {
    new_file(&dir.join("f"), b"")?;
    fs::create_dir(dir.join("d"))?;
    for name in ["f", "d"] {
        for bits in [0o000, 0o600, 0o644, 0o755, 0o777, 0o1777, 0o2755, 0o4755, 0o7777, 0o400] {
            fs::set_permissions(dir.join(name), fs::Permissions::from_mode(bits))?;
            equal("mode", mode(&dir.join(name))?, bits)?;
        }
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o700))?;
    }
    refused_io(fs::set_permissions(dir.join("missing"), fs::Permissions::from_mode(0o600)), &[Errno::NOENT])?;
    // Through a link it is the file's.
    symlink("f", dir.join("s"))?;
    fs::set_permissions(dir.join("s"), fs::Permissions::from_mode(0o640))?;
    equal("mode", mode(&dir.join("f"))?, 0o640)
}

fn new_modes(dir: &Path) -> Result<()> {
    // The umask belongs to the whole process, so it is read and not set.
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:")).context("no umask")?;
    let umask = u32::from_str_radix(line.trim(), 8)?;
    for bits in [0o777, 0o666, 0o640, 0o000] {
        let (file, folder) = (dir.join(format!("f{bits:o}")), dir.join(format!("d{bits:o}")));
        open(&file, OFlags::CREATE | OFlags::WRONLY, Mode::from_raw_mode(bits))?;
        equal("mode of a file", mode(&file)?, bits & !umask)?;
        mkdir(&folder, Mode::from_raw_mode(bits))?;
        equal("mode of a directory", mode(&folder)? & 0o777, bits & !umask)?;
    }
    // A descriptor keeps the access that it was opened with, whatever the mode.
    let file = dir.join("without any mode");
    let made = open(&file, OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY, Mode::empty())?;
    File::from(made).write_all_at(b"x", 0)?;
    equal("size", fs::metadata(&file)?.len(), 1)
}

fn owners(dir: &Path) -> Result<()> {
    let file = new_file(&dir.join("f"), b"")?;
    let (uid, gid) = (file.metadata()?.uid(), file.metadata()?.gid());
    equal("owner of a new file", uid, rustix::process::geteuid().as_raw())?;
    if !rustix::process::geteuid().is_root() {
        return Ok(chown(dir.join("f"), Some(uid), Some(gid))?);
    }
    chown(dir.join("f"), Some(12_345), Some(4_000_000_000))?;
    equal("owners", (file.metadata()?.uid(), file.metadata()?.gid()), (12_345, 4_000_000_000))?;
    chown(dir.join("f"), None, Some(77))?;
    equal("owners", (file.metadata()?.uid(), file.metadata()?.gid()), (12_345, 77))?;
    symlink("f", dir.join("s"))?;
    std::os::unix::fs::lchown(dir.join("s"), Some(5), Some(6))?;
    let link = fs::symlink_metadata(dir.join("s"))?;
    equal("owners of the link", (link.uid(), link.gid()), (5, 6))?;
    equal("owner of its target", file.metadata()?.uid(), 12_345)?;
    // A directory with the set-group-ID bit gives its group to what is made in it.
    fs::create_dir(dir.join("d"))?;
    chown(dir.join("d"), None, Some(88))?;
    fs::set_permissions(dir.join("d"), fs::Permissions::from_mode(0o2775))?;
    fs::create_dir(dir.join("d/e"))?;
    new_file(&dir.join("d/f"), b"")?;
    equal("groups", (fs::metadata(dir.join("d/e"))?.gid(), fs::metadata(dir.join("d/f"))?.gid()), (88, 88))?;
    equal("mode of a directory in it", mode(&dir.join("d/e"))? & 0o2000, 0o2000)
}

fn stamp(seconds: i64, nanoseconds: i64) -> Timespec {
    Timespec { tv_sec: seconds, tv_nsec: nanoseconds }
}

fn set_times(path: &Path, access: Timespec, modification: Timespec, flags: AtFlags) -> Result<()> {
    let times = Timestamps { last_access: access, last_modification: modification };
    Ok(utimensat(CWD, path, &times, flags)?)
}

fn times(dir: &Path) -> Result<()> {
    let path = dir.join("f");
    new_file(&path, b"x")?;
    let read = || -> Result<(i64, i64, i64, i64)> {
        let stat = fs::symlink_metadata(&path)?;
        Ok((stat.atime(), stat.atime_nsec(), stat.mtime(), stat.mtime_nsec()))
    };
    let follow = AtFlags::empty();
    set_times(&path, stamp(LONG_AGO, 123_456_789), stamp(LONG_AGO + 1, 987_654_321), follow)?;
    equal("times", read()?, (LONG_AGO, 123_456_789, LONG_AGO + 1, 987_654_321))?;
    set_times(&path, stamp(0, UTIME_OMIT), stamp(LONG_AGO + 2, 1), follow)?;
    equal("times", read()?, (LONG_AGO, 123_456_789, LONG_AGO + 2, 1))?;
    set_times(&path, stamp(0, UTIME_NOW), stamp(0, UTIME_OMIT), follow)?;
    let now = i64::try_from(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs())?;
    ensure!((read()?.0 - now).abs() < 300, "now is {now}, and not {}", read()?.0);
    equal("modification", read()?.2, LONG_AGO + 2)?;
    // Before 1970, and after 2038.
    set_times(&path, stamp(-5, 5), stamp(5_000_000_000, 7), follow)?;
    equal("times", read()?, (-5, 5, 5_000_000_000, 7))?;
    symlink("f", dir.join("s"))?;
    set_times(&dir.join("s"), stamp(1, 2), stamp(3, 4), AtFlags::SYMLINK_NOFOLLOW)?;
    equal("time of the link", fs::symlink_metadata(dir.join("s"))?.mtime(), 3)?;
    equal("time of its target", read()?.2, 5_000_000_000)
}

fn times_change(dir: &Path) -> Result<()> {
    let path = dir.join("f");
    let file = new_file(&path, b"content")?;
    let set = || -> Result<()> {
        let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(LONG_AGO.unsigned_abs());
        file.set_modified(long_ago)?;
        ensure!(file.metadata()?.mtime() == LONG_AGO, "a time was not kept");
        Ok(())
    };
    let modified = || -> Result<bool> { Ok(fs::metadata(&path)?.mtime() != LONG_AGO) };
    set()?;
    file.read_exact_at(&mut [0; 3], 0)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    fs::rename(&path, dir.join("g"))?;
    fs::rename(dir.join("g"), &path)?;
    file.sync_all()?;
    ensure!(!modified()?, "reading, chmod, rename or fsync changes the time of modification");
    file.write_all_at(b"x", 0)?;
    ensure!(modified()?, "a write does not change it");
    set()?;
    file.set_len(3)?;
    ensure!(modified()?, "a truncation does not change it");
    set()?;
    drop(File::create(&path)?);
    ensure!(modified()?, "opening with truncation does not change it");
    // The time of change cannot be set, and goes with every change: it is never older than what was set.
    set()?;
    let stat = fs::metadata(&path)?;
    ensure!(stat.ctime() > LONG_AGO + 500_000_000, "the time of change was set: {}", stat.ctime());
    // After a write a later sync, or a close, does not move the time again.
    file.write_all_at(b"y", 0)?;
    let written = fs::metadata(&path)?;
    file.sync_all()?;
    let synced = fs::metadata(&path)?;
    let pair = |stat: &fs::Metadata| (stat.mtime(), stat.mtime_nsec());
    equal("time after a sync", pair(&synced), pair(&written))
}

fn xattrs(dir: &Path) -> Result<()> {
    let path = dir.join("f");
    new_file(&path, b"")?;
    let set = |name: &str, value: &[u8], flags| setxattr(&path, name, value, flags);
    let get = |name: &str| -> rustix::io::Result<Vec<u8>> {
        let mut buffer = vec![0; 65_536];
        getxattr(&path, name, &mut buffer[..]).map(|length| buffer[..length].to_vec())
    };
    refused(get("user.missing"), &[Errno::NODATA])?;
    set("user.one", b"value", XattrFlags::CREATE)?;
    refused(set("user.one", b"x", XattrFlags::CREATE), &[Errno::EXIST])?;
    refused(set("user.two", b"x", XattrFlags::REPLACE), &[Errno::NODATA])?;
    equal("value", get("user.one")?, b"value".to_vec())?;
    set("user.one", b"another\0\xff", XattrFlags::REPLACE)?;
    equal("value", get("user.one")?, b"another\0\xff".to_vec())?;
    set("user.empty", b"", XattrFlags::empty())?;
    equal("value", get("user.empty")?, Vec::new())?;
    let names = || -> Result<Vec<String>> {
        let mut buffer = vec![0; 65_536];
        let length = listxattr(&path, &mut buffer[..])?;
        let text = String::from_utf8(buffer[..length].to_vec())?;
        let mut names: Vec<String> =
            text.split_terminator('\0').filter(|name| name.starts_with("user.")).map(str::to_owned).collect();
        names.sort();
        Ok(names)
    };
    names()?.iter().try_for_each(|name| get(name).map(|_| ()))?;
    let own = |name: &String| ["user.one", "user.empty"].contains(&name.as_str());
    equal("names", names()?.iter().filter(|name| own(name)).count(), 2)?;
    equal("the size that is asked for", getxattr_query(&path, "user.one")?, 9)?;
    refused(getxattr(&path, "user.one", &mut [0_u8; 3][..]), &[Errno::RANGE])?;
    removexattr(&path, "user.one")?;
    refused(removexattr(&path, "user.one"), &[Errno::NODATA])?;
    equal("names", names()?.iter().filter(|name| own(name)).count(), 1)?;
    fs::create_dir(dir.join("d"))?;
    setxattr(dir.join("d"), "user.of a directory", b"x", XattrFlags::empty())?;
    Ok(())
}

/// Sizes that every file system of Linux takes in one block of 4 KiB.
fn xattrs_large(dir: &Path) -> Result<()> {
    let path = dir.join("f");
    new_file(&path, b"")?;
    let value = crate::fixture::bytes(1, 2_000);
    setxattr(&path, "user.large", &value, XattrFlags::empty())?;
    let mut found = vec![0; 2_000];
    equal("size", getxattr(&path, "user.large", &mut found[..])?, 2_000)?;
    ensure!(found == value, "the value differs");
    for number in 0..30 {
        setxattr(&path, format!("user.number.{number}"), b"0123456789", XattrFlags::empty())?;
    }
    let length = listxattr(&path, &mut vec![0_u8; 65_536][..])?;
    ensure!(length >= 30 * 14, "a list of {length} bytes");
    // More than the system passes on (XATTR_SIZE_MAX) is refused before any file system sees it.
    let result = setxattr(&path, "user.huge", &vec![0; 70_000], XattrFlags::empty());
    refused(result, &[Errno::TOOBIG])
}

fn attributes_stay(dir: &Path) -> Result<()> {
    let path = dir.join("f");
    let file = new_file(&path, b"content")?;
    setxattr(&path, "user.kept", b"value", XattrFlags::empty())?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o4710))?;
    set_times(&path, stamp(LONG_AGO, 1), stamp(LONG_AGO, 2), AtFlags::empty())?;
    fs::rename(&path, dir.join("g"))?;
    fs::hard_link(dir.join("g"), dir.join("h"))?;
    fs::remove_file(dir.join("g"))?;
    let stat = fs::metadata(dir.join("h"))?;
    equal("mode", stat.mode() & 0o7777, 0o4710)?;
    equal("time", (stat.mtime(), stat.mtime_nsec()), (LONG_AGO, 2))?;
    let mut value = [0; 5];
    getxattr(dir.join("h"), "user.kept", &mut value[..])?;
    equal("value", &value, b"value")?;
    // A new file of the old name has none of it.
    new_file(&path, b"")?;
    refused(getxattr(&path, "user.kept", &mut value[..]), &[Errno::NODATA])?;
    equal("links", file.metadata()?.nlink(), 1)
}

fn figures(dir: &Path) -> Result<()> {
    let stat = statvfs(dir)?;
    let size = |blocks: u64| blocks.checked_mul(stat.f_frsize).context("more bytes than 64 bits count");
    let (all, free, available) = (size(stat.f_blocks)?, size(stat.f_bfree)?, size(stat.f_bavail)?);
    ensure!(all > 0 && free > 0, "{all} bytes, {free} free");
    ensure!(available <= free && free <= all, "{available} available of {free} free of {all}");
    // Programs add and multiply these; beyond this some overflow.
    ensure!(all < 1 << 62, "{all} bytes are no finite size");
    ensure!(stat.f_namemax >= 255, "names of {} bytes", stat.f_namemax);
    ensure!(stat.f_bsize.is_power_of_two() && stat.f_bsize >= 512, "blocks of {}", stat.f_bsize);
    let file = new_file(&dir.join("f"), &[1; 100_000])?;
    file.sync_all()?;
    let stat = file.metadata()?;
    ensure!(stat.blocks() * 512 >= 100_000, "100,000 bytes in {} blocks", stat.blocks());
    ensure!(stat.blksize() >= 512, "blksize {}", stat.blksize());
    Ok(())
}

fn inodes(dir: &Path) -> Result<()> {
    let mut seen = std::collections::BTreeMap::new();
    for number in 0..50 {
        let path = dir.join(format!("f{number}"));
        new_file(&path, b"")?;
        let other = seen.insert(fs::metadata(&path)?.ino(), number);
        ensure!(other.is_none(), "{number} and {other:?} share a number");
    }
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let (listed, own) = (std::os::unix::fs::DirEntryExt::ino(&entry), entry.metadata()?.ino());
        equal("the number in the listing", listed, own)?;
        ensure!(seen.contains_key(&own), "a number changed: {own}");
    }
    Ok(())
}
