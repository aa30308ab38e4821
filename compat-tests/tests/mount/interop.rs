//! One bucket by other ways at the same time: S3 itself, and s3fs.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_compat_tests::client::raw::same_bytes;
use holdfast_compat_tests::client::s3fs::S3fs;
use holdfast_compat_tests::fixture::{bytes, same_tree, source_tree, tree_hashes};
use holdfast_compat_tests::mounted::{Gateway, Mounted, Plan};
use holdfast_compat_tests::process::wait_until;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};

use super::Case;

pub(super) const CASES: &[Case] = &[
    ("objects_are_files_and_files_are_objects", objects),
    ("odd_keys_are_shown_and_none_is_hidden_silently", odd_keys),
    ("what_s3fs_writes_the_mount_shows", from_s3fs),
    ("what_the_mount_writes_s3fs_shows", to_s3fs),
];

const SOON: Duration = Duration::from_secs(30);
const LONG_AGO: i64 = 1_000_000_000;

fn start() -> Result<(Mounted, Gateway, String)> {
    let gateway = Gateway::start(&[])?;
    let bucket = gateway.endpoint().new_bucket("interop")?;
    let mounted = Mounted::start(&gateway.endpoint(), &Plan::new(&bucket))?;
    Ok((mounted, gateway, bucket))
}

fn objects(_rounds: u32) -> Result<()> {
    let (mounted, gateway, bucket) = start()?;
    let mut raw = gateway.endpoint().raw();
    let root = mounted.path();
    let content = bytes(1, 3_000_000);
    raw.put(&bucket, "put/by/s3", &[("x-amz-meta-colour", "red")], &content)?.expect(200)?;
    wait_until("an object as a file", SOON, || Ok(root.join("put/by/s3").exists()))?;
    same_bytes("a file", &fs::read(root.join("put/by/s3"))?, &content)?;
    fs::create_dir(root.join("dir"))?;
    fs::write(root.join("dir/file"), &content)?;
    same_bytes("an object", &raw.get(&bucket, "dir/file", &[])?.expect(200)?.body, &content)?;
    // A few bytes in the middle, and what S3 says of the whole.
    let file = File::options().write(true).open(root.join("put/by/s3"))?;
    std::os::unix::fs::FileExt::write_all_at(&file, b"patched", 1_234_567)?;
    file.sync_all()?;
    drop(file);
    let mut want = content.clone();
    want[1_234_567..1_234_574].copy_from_slice(b"patched");
    let reply = raw.get(&bucket, "put/by/s3", &[])?.expect(200)?;
    same_bytes("a patched object", &reply.body, &want)?;
    ensure!(reply.header("x-amz-meta-colour") == Some("red"), "a patch loses the object's own metadata");
    // Replaced and deleted by S3.
    raw.put(&bucket, "dir/file", &[], b"replaced")?.expect(200)?;
    wait_until("a replaced file", SOON, || Ok(fs::read(root.join("dir/file"))? == b"replaced"))?;
    raw.delete(&bucket, "dir/file", &[])?.expect(204)?;
    wait_until("a deleted file", SOON, || Ok(!root.join("dir/file").exists()))?;
    fs::rename(root.join("put"), root.join("moved"))?;
    ensure!(raw.list(&bucket, "moved/")?.contains(&"moved/by/s3".to_owned()), "a rename is not in the listing");
    fs::remove_dir_all(root.join("moved"))?;
    ensure!(raw.list(&bucket, "moved/")?.is_empty(), "a removed tree is listed");
    Ok(())
}

/// S3 takes keys that are no paths. Each is shown under some name, with its content.
fn odd_keys(_rounds: u32) -> Result<()> {
    let (mounted, gateway, bucket) = start()?;
    let mut raw = gateway.endpoint().raw();
    let keys = ["plain", "a//b", "a/./b", "a/../b", "both", "both/below", "/leading", "trailing/", ".", "x/..", "%2F"];
    for key in keys {
        raw.put(&bucket, key, &[], key.as_bytes())?.expect(200).with_context(|| key)?;
    }
    let mut missing: Vec<&str> = Vec::new();
    wait_until("all keys", SOON, || {
        let mut contents = Vec::new();
        collect(mounted.path(), &mut contents)?;
        // A key with a slash at its end is a directory, which has no content.
        let shown = |key: &str| key.ends_with('/') || contents.iter().any(|content| content == key.as_bytes());
        missing = keys.into_iter().filter(|key| !shown(key)).collect();
        Ok(missing.is_empty())
    })
    .with_context(|| format!("not shown: {missing:?}"))?;
    ensure!(mounted.path().join("trailing").is_dir(), "a key with a slash at its end is no directory");
    Ok(())
}

fn collect(dir: &Path, contents: &mut Vec<Vec<u8>>) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), contents)?;
        } else {
            contents.push(fs::read(entry.path())?);
        }
    }
    Ok(())
}

/// Makes a tree with everything that both know: contents, modes, owners, times, links.
fn fill(root: &Path) -> Result<()> {
    source_tree(&root.join("tree"), 40)?;
    let path = root.join("attributes");
    File::create(&path)?.write_all(&bytes(7, 100_000))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640))?;
    if rustix::process::geteuid().is_root() {
        chown(&path, Some(1234), Some(5678))?;
    }
    // By name: s3fs stamps a file again when a descriptor that could write is closed.
    let long_ago = Timespec { tv_sec: LONG_AGO, tv_nsec: 0 };
    utimensat(CWD, &path, &Timestamps { last_access: long_ago, last_modification: long_ago }, AtFlags::empty())?;
    symlink("attributes", root.join("link"))?;
    fs::create_dir(root.join("private"))?;
    fs::set_permissions(root.join("private"), fs::Permissions::from_mode(0o700))?;
    Ok(())
}

/// Fails unless `root` shows what [`fill`] made at `origin`.
fn check(root: &Path, origin: &Path) -> Result<()> {
    wait_until("the last entry", SOON, || Ok(root.join("private").is_dir()))?;
    same_tree(&tree_hashes(&origin.join("tree"))?, &tree_hashes(&root.join("tree"))?)?;
    let (have, want) = (fs::metadata(root.join("attributes"))?, fs::metadata(origin.join("attributes"))?);
    let figures = |stat: &fs::Metadata| (stat.len(), stat.mode(), stat.uid(), stat.gid(), stat.mtime());
    ensure!(figures(&have) == figures(&want), "{:?} instead of {:?}", figures(&have), figures(&want));
    ensure!(have.mtime() == LONG_AGO, "the time is {}", have.mtime());
    ensure!(fs::read_link(root.join("link"))? == Path::new("attributes"), "a link leads elsewhere");
    ensure!(fs::read(root.join("link"))? == bytes(7, 100_000), "another content through a link");
    let mode = fs::metadata(root.join("private"))?.mode() & 0o7777;
    ensure!(mode == 0o700, "a directory of mode {mode:o}");
    Ok(())
}

fn from_s3fs(_rounds: u32) -> Result<()> {
    let (mounted, gateway, bucket) = start()?;
    let other = S3fs::mount(&gateway.endpoint(), &bucket)?;
    fill(other.path())?;
    check(mounted.path(), other.path())?;
    // Changed here, and still a file of s3fs.
    fs::set_permissions(mounted.path().join("attributes"), fs::Permissions::from_mode(0o600))?;
    File::options().append(true).open(mounted.path().join("attributes"))?.write_all(b"more")?;
    wait_until("the change", SOON, || {
        let stat = fs::metadata(other.path().join("attributes"))?;
        Ok(stat.mode() & 0o7777 == 0o600 && stat.len() == 100_004)
    })?;
    ensure!(fs::read(other.path().join("attributes"))?.ends_with(b"more"), "another content");
    Ok(())
}

fn to_s3fs(_rounds: u32) -> Result<()> {
    let (mounted, gateway, bucket) = start()?;
    fill(mounted.path())?;
    let other = S3fs::mount(&gateway.endpoint(), &bucket)?;
    check(other.path(), mounted.path())
}
