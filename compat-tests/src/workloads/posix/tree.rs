//! Names: creation, links, renames, removal, directories.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags, linkat, open, renameat_with, unlink};
use rustix::io::Errno;

use super::{Check, equal, new_file, refused, refused_io};
use crate::workloads::names::listed;

pub(super) const CHECKS: &[(&str, Check)] = &[
    ("create_exclusive", exclusive),
    ("create_errors", create_errors),
    ("rename_over_a_file", rename_over),
    ("rename_of_an_open_file", rename_open),
    ("rename_between_links_of_one_file", rename_same),
    ("rename_directories", rename_directories),
    ("rename_noreplace", rename_noreplace),
    ("rename_exchange", rename_exchange),
    ("hard_links", hard_links),
    ("symbolic_links", symbolic_links),
    ("removal_errors", removal_errors),
    ("directory_links_and_times", directory_links),
    ("readdir_while_unlinking", readdir_unlinking),
    ("readdir_of_a_removed_directory", readdir_removed),
    ("deep_paths", deep_paths),
    ("odd_names_that_are_no_text", crate::workloads::names::not_utf8),
];

fn exclusive(dir: &Path) -> Result<()> {
    let path = dir.join("f");
    new_file(&path, b"one")?;
    let exclusive = || File::options().write(true).create_new(true).open(&path);
    refused_io(exclusive(), &[Errno::EXIST])?;
    fs::remove_file(&path)?;
    // A dangling link is a name that exists.
    symlink("nowhere", &path)?;
    refused_io(exclusive(), &[Errno::EXIST])?;
    ensure!(fs::symlink_metadata(dir.join("nowhere")).is_err(), "a file was made through the link");
    fs::remove_file(&path)?;
    // Of many at once exactly one wins.
    let wins = std::thread::scope(|scope| {
        let racers: Vec<_> = (0..8).map(|_| scope.spawn(|| exclusive().is_ok())).collect();
        racers.into_iter().filter_map(|racer| racer.join().ok()).filter(|won| *won).count()
    });
    equal("winners of a race", wins, 1)
}

fn create_errors(dir: &Path) -> Result<()> {
    new_file(&dir.join("f"), b"")?;
    fs::create_dir(dir.join("d"))?;
    refused_io(File::create(dir.join("missing/f")), &[Errno::NOENT])?;
    refused_io(File::create(dir.join("f/below")), &[Errno::NOTDIR])?;
    refused_io(File::create(dir.join("d")), &[Errno::ISDIR])?;
    refused_io(fs::create_dir(dir.join("d")), &[Errno::EXIST])?;
    refused_io(fs::create_dir(dir.join("f")), &[Errno::EXIST])?;
    refused_io(fs::create_dir(dir.join("missing/d")), &[Errno::NOENT])?;
    refused(open(dir.join("f"), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()), &[Errno::NOTDIR])?;
    refused(open(dir.join("f/"), OFlags::RDONLY, Mode::empty()), &[Errno::NOTDIR])?;
    refused_io(fs::read(dir.join("missing")), &[Errno::NOENT])?;
    refused_io(File::open(dir.join("d"))?.read(&mut [0; 4]), &[Errno::ISDIR])
}

fn rename_over(dir: &Path) -> Result<()> {
    let (from, to) = (dir.join("from"), dir.join("to"));
    new_file(&from, b"new")?;
    let mut old = new_file(&to, b"old")?;
    let moved = fs::metadata(&from)?.ino();
    fs::rename(&from, &to)?;
    equal("content", fs::read(&to)?, b"new".to_vec())?;
    equal("inode", fs::metadata(&to)?.ino(), moved)?;
    refused_io(fs::metadata(&from), &[Errno::NOENT])?;
    let mut content = String::new();
    old.read_to_string(&mut content)?;
    equal("what was open", content.as_str(), "old")?;
    equal("its links", old.metadata()?.nlink(), 0)?;
    equal("names", listed(dir)?.len(), 1)?;
    refused_io(fs::rename(&from, &to), &[Errno::NOENT])?;
    // To its own name: nothing happens.
    fs::rename(&to, &to)?;
    equal("content", fs::read(&to)?, b"new".to_vec())
}

fn rename_open(dir: &Path) -> Result<()> {
    let mut file = new_file(&dir.join("a"), b"")?;
    file.write_all(b"before ")?;
    fs::create_dir(dir.join("d"))?;
    fs::rename(dir.join("a"), dir.join("d/b"))?;
    file.write_all(b"after")?;
    equal("content", fs::read_to_string(dir.join("d/b"))?, "before after".to_owned())?;
    // The directory above an open file moves, too.
    fs::rename(dir.join("d"), dir.join("e"))?;
    file.write_all(b" all")?;
    file.sync_all()?;
    equal("content", fs::read_to_string(dir.join("e/b"))?, "before after all".to_owned())?;
    equal("inode", file.metadata()?.ino(), fs::metadata(dir.join("e/b"))?.ino())
}

/// POSIX: when both names are links of one file, rename does nothing and succeeds.
fn rename_same(dir: &Path) -> Result<()> {
    new_file(&dir.join("a"), b"x")?;
    fs::hard_link(dir.join("a"), dir.join("b"))?;
    fs::rename(dir.join("a"), dir.join("b"))?;
    equal("names", listed(dir)?.len(), 2)?;
    equal("links", fs::metadata(dir.join("a"))?.nlink(), 2)
}

fn rename_directories(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir.join("a/deep/er"))?;
    new_file(&dir.join("a/deep/er/f"), b"x")?;
    let inode = fs::metadata(dir.join("a/deep/er/f"))?.ino();
    fs::create_dir(dir.join("empty"))?;
    fs::rename(dir.join("a"), dir.join("empty"))?;
    equal("content", fs::read(dir.join("empty/deep/er/f"))?, b"x".to_vec())?;
    equal("inode", fs::metadata(dir.join("empty/deep/er/f"))?.ino(), inode)?;
    refused_io(fs::metadata(dir.join("a/deep")), &[Errno::NOENT])?;
    fs::create_dir_all(dir.join("full/x"))?;
    refused_io(fs::rename(dir.join("empty"), dir.join("full")), &[Errno::NOTEMPTY, Errno::EXIST])?;
    refused_io(fs::rename(dir.join("empty"), dir.join("empty/deep/inside")), &[Errno::INVAL])?;
    new_file(&dir.join("file"), b"")?;
    refused_io(fs::rename(dir.join("file"), dir.join("full")), &[Errno::ISDIR, Errno::EXIST, Errno::NOTEMPTY])?;
    refused_io(fs::rename(dir.join("full"), dir.join("file")), &[Errno::NOTDIR])?;
    refused_io(fs::rename(dir.join("full"), dir.join("missing/full")), &[Errno::NOENT])?;
    // Into another directory: `..` follows.
    fs::create_dir(dir.join("other"))?;
    fs::rename(dir.join("full"), dir.join("other/full"))?;
    equal("..", fs::metadata(dir.join("other/full/.."))?.ino(), fs::metadata(dir.join("other"))?.ino())
}

fn rename_noreplace(dir: &Path) -> Result<()> {
    let (a, b) = (dir.join("a"), dir.join("b"));
    new_file(&a, b"a")?;
    new_file(&b, b"b")?;
    let rename = || renameat_with(CWD, &a, CWD, &b, RenameFlags::NOREPLACE);
    refused(rename(), &[Errno::EXIST])?;
    equal("content", fs::read(&b)?, b"b".to_vec())?;
    fs::remove_file(&b)?;
    rename()?;
    equal("content", fs::read(&b)?, b"a".to_vec())?;
    refused_io(fs::metadata(&a), &[Errno::NOENT])
}

fn rename_exchange(dir: &Path) -> Result<()> {
    let (a, b) = (dir.join("a"), dir.join("b"));
    new_file(&a, b"file")?;
    fs::create_dir(&b)?;
    new_file(&b.join("inside"), b"x")?;
    let exchange = || renameat_with(CWD, &a, CWD, &b, RenameFlags::EXCHANGE);
    exchange()?;
    equal("content", fs::read(&b)?, b"file".to_vec())?;
    equal("content", fs::read(a.join("inside"))?, b"x".to_vec())?;
    fs::remove_file(&b)?;
    refused(exchange(), &[Errno::NOENT])
}

fn hard_links(dir: &Path) -> Result<()> {
    let (a, b) = (dir.join("a"), dir.join("sub/b"));
    fs::create_dir(dir.join("sub"))?;
    new_file(&a, b"one")?;
    fs::hard_link(&a, &b)?;
    let same = |left: &Path, right: &Path| -> Result<bool> {
        Ok(fs::symlink_metadata(left)?.ino() == fs::symlink_metadata(right)?.ino())
    };
    ensure!(same(&a, &b)?, "two files");
    equal("links", fs::metadata(&a)?.nlink(), 2)?;
    fs::write(&b, b"two, and longer")?;
    equal("content", fs::read(&a)?, b"two, and longer".to_vec())?;
    equal("size", fs::metadata(&a)?.len(), 15)?;
    fs::set_permissions(&b, std::os::unix::fs::PermissionsExt::from_mode(0o640))?;
    equal("mode", fs::metadata(&a)?.mode() & 0o7777, 0o640)?;
    refused_io(fs::hard_link(&a, &b), &[Errno::EXIST])?;
    refused_io(fs::hard_link(dir.join("sub"), dir.join("sub2")), &[Errno::PERM])?;
    refused_io(fs::hard_link(dir.join("missing"), dir.join("c")), &[Errno::NOENT])?;
    fs::remove_file(&a)?;
    equal("links", fs::metadata(&b)?.nlink(), 1)?;
    equal("content", fs::read(&b)?, b"two, and longer".to_vec())?;
    // A link to a link, not to what it points at.
    symlink("sub/b", dir.join("s"))?;
    linkat(CWD, dir.join("s"), CWD, dir.join("t"), AtFlags::empty())?;
    ensure!(same(&dir.join("s"), &dir.join("t"))?, "two links");
    linkat(CWD, dir.join("s"), CWD, dir.join("u"), AtFlags::SYMLINK_FOLLOW)?;
    ensure!(same(&dir.join("u"), &b)?, "the link was not followed");
    Ok(())
}

fn symbolic_links(dir: &Path) -> Result<()> {
    let link = dir.join("link");
    fs::create_dir(dir.join("d"))?;
    new_file(&dir.join("d/f"), b"x")?;
    symlink("d/f", &link)?;
    equal("content", fs::read(&link)?, b"x".to_vec())?;
    equal("target", fs::read_link(&link)?, "d/f".into())?;
    equal("size of a link", fs::symlink_metadata(&link)?.len(), 3)?;
    ensure!(fs::symlink_metadata(&link)?.is_symlink(), "no link");
    refused(open(&link, OFlags::RDONLY | OFlags::NOFOLLOW, Mode::empty()), &[Errno::LOOP])?;
    refused_io(symlink("x", &link), &[Errno::EXIST])?;
    refused_io(fs::read_link(dir.join("d/f")), &[Errno::INVAL])?;
    let long = "../".repeat(1300) + "end";
    symlink(&long, dir.join("long"))?;
    equal("long target", fs::read_link(dir.join("long"))?, long.into())?;
    symlink("loop", dir.join("loop"))?;
    refused_io(fs::read(dir.join("loop")), &[Errno::LOOP])?;
    symlink("not yet", dir.join("dangling"))?;
    refused_io(fs::read(dir.join("dangling")), &[Errno::NOENT])?;
    fs::write(dir.join("dangling"), b"made through it")?;
    equal("content", fs::read(dir.join("not yet"))?, b"made through it".to_vec())?;
    symlink("d", dir.join("to d"))?;
    equal("through a directory", fs::read(dir.join("to d/f"))?, b"x".to_vec())?;
    refused_io(fs::remove_dir(dir.join("to d")), &[Errno::NOTDIR])?;
    // Removing and renaming take the link, not what it points at.
    fs::rename(&link, dir.join("renamed"))?;
    fs::remove_file(dir.join("renamed"))?;
    equal("what it pointed at", fs::read(dir.join("d/f"))?, b"x".to_vec())
}

fn removal_errors(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir.join("d/sub"))?;
    new_file(&dir.join("f"), b"")?;
    refused_io(fs::remove_dir(dir.join("d")), &[Errno::NOTEMPTY, Errno::EXIST])?;
    refused_io(fs::remove_dir(dir.join("f")), &[Errno::NOTDIR])?;
    refused_io(fs::remove_dir(dir.join("missing")), &[Errno::NOENT])?;
    refused(unlink(dir.join("d")), &[Errno::ISDIR, Errno::PERM])?;
    refused(unlink(dir.join("missing")), &[Errno::NOENT])?;
    refused(unlink(dir.join("f/below")), &[Errno::NOTDIR])?;
    refused_io(fs::remove_dir(dir.join("d/sub/.")), &[Errno::INVAL])?;
    refused_io(fs::remove_dir(dir.join("d/sub/..")), &[Errno::NOTEMPTY, Errno::EXIST])?;
    fs::remove_dir(dir.join("d/sub"))?;
    fs::remove_dir(dir.join("d"))?;
    Ok(())
}

/// The links of a directory count its subdirectories, or are 1 where a file system does not count them; its times change with
/// its entries. Times are set back first, so that no clock's step hides a change.
fn directory_links(dir: &Path) -> Result<()> {
    let counted = fs::metadata(dir)?.nlink() >= 2;
    let change = |what: &str, action: &dyn Fn() -> std::io::Result<()>| -> Result<()> {
        let long_ago = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
        File::open(dir)?.set_modified(long_ago)?;
        equal("a time that was set", fs::metadata(dir)?.mtime(), 1_000_000_000)?;
        action()?;
        ensure!(fs::metadata(dir)?.mtime() > 1_500_000_000, "{what} does not change the directory's time");
        Ok(())
    };
    change("creating a file", &|| fs::write(dir.join("f"), b""))?;
    change("creating a directory", &|| fs::create_dir(dir.join("d")))?;
    if counted {
        equal("links", fs::metadata(dir)?.nlink(), 3)?;
    }
    change("linking", &|| fs::hard_link(dir.join("f"), dir.join("g")))?;
    change("a symbolic link", &|| symlink("f", dir.join("s")))?;
    change("renaming", &|| fs::rename(dir.join("f"), dir.join("h")))?;
    change("renaming over", &|| fs::rename(dir.join("s"), dir.join("h")))?;
    change("removing", &|| fs::remove_file(dir.join("g")))?;
    change("moving in", &|| fs::create_dir(dir.join("d/e")).and_then(|()| fs::rename(dir.join("d/e"), dir.join("e"))))?;
    if counted {
        equal("links", fs::metadata(dir)?.nlink(), 4)?;
    }
    change("removing a directory", &|| fs::remove_dir(dir.join("d")))?;
    fs::remove_dir(dir.join("e"))?;
    if counted {
        equal("links", fs::metadata(dir)?.nlink(), 2)?;
    }
    Ok(())
}

/// Entries that stay are returned exactly once, however many others come and go meanwhile.
fn readdir_unlinking(dir: &Path) -> Result<()> {
    const STAY: usize = 400;
    for number in 0..STAY {
        fs::write(dir.join(format!("stay-{number}")), b"")?;
        fs::write(dir.join(format!("go-{number}")), b"")?;
    }
    let mut stayed = std::collections::BTreeSet::new();
    for (count, entry) in fs::read_dir(dir)?.enumerate() {
        let name = entry?.file_name().into_string().ok().context("a name")?;
        if name.starts_with("stay-") {
            ensure!(stayed.insert(name.clone()), "{name} comes twice");
        }
        if count < STAY {
            fs::remove_file(dir.join(format!("go-{count}")))?;
            fs::write(dir.join(format!("new-{count}")), b"")?;
        }
    }
    equal("entries that stayed", stayed.len(), STAY)?;
    equal("entries at the end", listed(dir)?.len(), 2 * STAY)
}

fn readdir_removed(dir: &Path) -> Result<()> {
    let gone = dir.join("gone");
    fs::create_dir(&gone)?;
    let handle = File::open(&gone)?;
    fs::remove_dir(&gone)?;
    ensure!(handle.metadata()?.is_dir(), "an open directory is something else after its removal");
    refused_io(fs::write(gone.join("f"), b""), &[Errno::NOENT])?;
    fs::write(&gone, b"now a file")?;
    ensure!(fs::metadata(&gone)?.is_file() && handle.metadata()?.is_dir(), "the two are mixed up");
    Ok(())
}

fn deep_paths(dir: &Path) -> Result<()> {
    let mut path = dir.to_owned();
    for level in 0..60 {
        path.push(format!("level-{level}"));
    }
    fs::create_dir_all(&path)?;
    fs::write(path.join("f"), b"deep")?;
    equal("content", fs::read(path.join("f"))?, b"deep".to_vec())?;
    fs::rename(dir.join("level-0"), dir.join("moved"))?;
    let moved = dir.join("moved").join(path.strip_prefix(dir.join("level-0"))?);
    equal("content", fs::read(moved.join("f"))?, b"deep".to_vec())
}
