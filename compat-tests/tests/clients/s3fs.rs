//! s3fs: a mounted bucket, used as a directory.

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};

use anyhow::{Result, ensure};
use holdfast_compat_tests::client::s3fs::S3fs;
use holdfast_compat_tests::fixture;
use holdfast_compat_tests::target::Endpoint;

use super::Case;

pub(super) const CASES: &[Case] = &[
    ("files_live_like_files", files_live_like_files),
    ("a_large_file_keeps_its_hash_through_patches", a_large_file_keeps_its_hash_through_patches),
];

fn files_live_like_files(endpoint: &Endpoint) -> Result<()> {
    let bucket = endpoint.new_bucket("s3fs")?;
    let mounted = S3fs::mount(endpoint, &bucket)?;
    let root = mounted.path();
    fs::create_dir_all(root.join("dir/deeper"))?;
    fs::write(root.join("dir/a file"), "content")?;
    ensure!(fs::read_to_string(root.join("dir/a file"))? == "content", "another content");
    ensure!(endpoint.raw().get(&bucket, "dir/a file", &[])?.expect(200)?.body == b"content", "not an object");
    fs::File::options().append(true).open(root.join("dir/a file"))?.write_all(b" and more")?;
    ensure!(fs::read_to_string(root.join("dir/a file"))? == "content and more", "append lost something");
    fs::rename(root.join("dir/a file"), root.join("dir/deeper/renamed"))?;
    let mut names: Vec<_> =
        fs::read_dir(root.join("dir/deeper"))?.map(|entry| entry.map(|e| e.file_name())).collect::<Result<_, _>>()?;
    names.sort();
    ensure!(names == ["renamed"], "listed: {names:?}");
    fs::remove_file(root.join("dir/deeper/renamed"))?;
    fs::remove_dir(root.join("dir/deeper"))?;
    ensure!(fs::read_dir(root.join("dir"))?.next().is_none(), "something is left");
    Ok(())
}

fn a_large_file_keeps_its_hash_through_patches(endpoint: &Endpoint) -> Result<()> {
    let bucket = endpoint.new_bucket("s3fs")?;
    let mounted = S3fs::mount(endpoint, &bucket)?;
    let dir = fixture::client_dir()?;
    let (here, there) = (dir.path().join("here"), mounted.path().join("large"));
    fixture::big_file(&here, 9, 30 << 20)?;
    fs::copy(&here, &there)?;
    ensure!(fixture::file_hash(&here)? == fixture::file_hash(&there)?, "another content");
    for path in [&here, &there] {
        let mut file = fs::File::options().read(true).write(true).open(path)?;
        file.seek(SeekFrom::Start(12_345_678))?;
        file.write_all(b"patched")?;
    }
    let mut patched = [0; 7];
    let mut file = fs::File::open(&there)?;
    file.seek(SeekFrom::Start(12_345_678))?;
    file.read_exact(&mut patched)?;
    ensure!(&patched == b"patched", "the patch is not there");
    ensure!(fixture::file_hash(&here)? == fixture::file_hash(&there)?, "another content after the patch");
    Ok(())
}
