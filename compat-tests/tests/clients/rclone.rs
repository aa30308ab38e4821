//! rclone, as Debian ships it.

use anyhow::{Result, ensure};
use holdfast_compat_tests::client::rclone::Rclone;
use holdfast_compat_tests::fixture;
use holdfast_compat_tests::target::Endpoint;

use super::Case;

pub(super) const CASES: &[Case] = &[
    ("a_directory_is_synced_both_ways", a_directory_is_synced_both_ways),
    ("large_files_by_parts_keep_their_hash", large_files_by_parts_keep_their_hash),
    ("old_versions_are_seen", old_versions_are_seen),
];

fn a_directory_is_synced_both_ways(endpoint: &Endpoint) -> Result<()> {
    let rclone = Rclone::new(endpoint)?;
    let remote = format!("s3:{}/some dir", endpoint.new_bucket("rclone")?);
    let dir = fixture::client_dir()?;
    let (here, back) = (dir.path().join("here"), dir.path().join("back"));
    fixture::source_tree(&here, 60)?;
    for (name, content) in [("ünïcode ☃.txt", "a"), ("plus+and percent%41", "b"), ("empty", "")] {
        std::fs::write(here.join(name), content)?;
    }
    let local = here.to_string_lossy().into_owned();
    rclone.run(&["sync", &local, &remote])?;
    rclone.run(&["check", "--download", &local, &remote])?;
    rclone.run(&["check", &local, &remote])?;
    rclone.run(&["sync", &remote, &back.to_string_lossy()])?;
    fixture::same_tree(&fixture::tree_hashes(&here)?, &fixture::tree_hashes(&back)?)?;
    // A second sync finds nothing to do: modification times and sizes came back as they were sent.
    let second = rclone.run(&["sync", "--use-json-log", "-v", "--stats-one-line", &local, &remote])?;
    ensure!(!second.contains("Copied"), "a second sync copied again: {second}");
    std::fs::remove_file(here.join("empty"))?;
    rclone.run(&["sync", &local, &remote])?;
    ensure!(!rclone.run(&["lsf", &remote])?.contains("empty"), "a deletion was not synced");
    ensure!(rclone.run(&["cat", &format!("{remote}/plus+and percent%41")])? == "b", "another content");
    rclone.run(&["moveto", &format!("{remote}/plus+and percent%41"), &format!("{remote}/moved")])?;
    ensure!(rclone.run(&["cat", &format!("{remote}/moved")])? == "b", "another content after the move");
    rclone.run(&["purge", &remote])?;
    Ok(())
}

fn large_files_by_parts_keep_their_hash(endpoint: &Endpoint) -> Result<()> {
    let rclone = Rclone::new(endpoint)?;
    let bucket = endpoint.new_bucket("rclone")?;
    let dir = fixture::client_dir()?;
    let (here, back) = (dir.path().join("here"), dir.path().join("back"));
    fixture::big_file(&here, 5, 50 << 20)?;
    let remote = format!("s3:{bucket}/large");
    let parts = ["--s3-upload-cutoff", "8M", "--s3-chunk-size", "8M", "--s3-upload-concurrency", "4"];
    rclone.run(&[&["copyto", &here.to_string_lossy(), &remote][..], &parts].concat())?;
    rclone.run(&["copyto", &remote, &back.to_string_lossy(), "--multi-thread-cutoff", "8M"])?;
    ensure!(fixture::file_hash(&here)? == fixture::file_hash(&back)?, "another content came back");
    rclone.run(&["copyto", &remote, &format!("{remote}-copy"), "--s3-copy-cutoff", "16M"])?;
    rclone.run(&["check", "--download", &format!("s3:{bucket}"), &format!("s3:{bucket}")])?;
    Ok(())
}

fn old_versions_are_seen(endpoint: &Endpoint) -> Result<()> {
    let rclone = Rclone::new(endpoint)?;
    let bucket = endpoint.new_versioned_bucket("rclone")?;
    let mut raw = endpoint.raw();
    for content in [&b"one"[..], b"two"] {
        raw.put(&bucket, "k.txt", &[], content)?.expect(200)?;
    }
    raw.delete(&bucket, "k.txt", &[])?.expect(204)?;
    ensure!(rclone.run(&["lsf", &format!("s3:{bucket}")])?.is_empty(), "a deleted object is listed");
    let old = rclone.run(&["lsf", "--s3-versions", &format!("s3:{bucket}")])?;
    ensure!(old.lines().count() == 2, "versions listed: {old}");
    Ok(())
}
