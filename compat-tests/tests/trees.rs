//! Whole trees of files through whole clients, hashes compared: twenty thousand by rclone on the embedded store, a
//! thousand by the others on both backends.

use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_compat_tests::client::aws_cli::AwsCli;
use holdfast_compat_tests::client::boto3;
use holdfast_compat_tests::client::mc::Mc;
use holdfast_compat_tests::client::rclone::Rclone;
use holdfast_compat_tests::client::s3fs::S3fs;
use holdfast_compat_tests::fixture;
use holdfast_compat_tests::suite::Suite;
use holdfast_compat_tests::target::{Endpoint, Fleet, Target};
use tempfile::TempDir;

const LARGE: usize = 20_000;
const SMALL: usize = 1_000;
const LARGE_DEADLINE: Duration = Duration::from_secs(600);

type Case = (&'static str, fn(&Endpoint, &Path) -> Result<()>);

const CASES: &[Case] =
    &[("aws_cli", aws_cli), ("boto3", boto3_threads), ("mc", mc), ("rclone", rclone), ("s3fs", s3fs)];

/// A source tree of [`SMALL`] files, made when the first case asks.
type Source = Arc<Mutex<Option<TempDir>>>;

fn main() -> ExitCode {
    let Ok(fleet) = Fleet::new() else { return ExitCode::FAILURE };
    let mut suite = Suite::new(1);
    let targets = Target::selected(&Target::HOLDFAST);
    let source: Source = Arc::default();
    for target in &targets {
        for (name, run) in CASES {
            let (fleet, source, target) = (fleet.clone(), source.clone(), *target);
            suite.case(format!("a_thousand_files_by_{name} [{target}]"), move || {
                let tree = small_tree(&source)?;
                run(&fleet.endpoint(target)?, &tree)
            });
        }
    }
    for target in targets.into_iter().filter(|target| *target != Target::OverMinio) {
        let fleet = fleet.clone();
        suite.case_within(LARGE_DEADLINE, format!("twenty_thousand_files_by_rclone [{target}]"), move || {
            let dir = fixture::client_dir()?;
            fixture::source_tree(dir.path(), LARGE)?;
            rclone(&fleet.endpoint(target)?, dir.path())
        });
    }
    drop(fleet);
    suite.run()
}

fn small_tree(source: &Source) -> Result<std::path::PathBuf> {
    let mut made = source.lock().unwrap_or_else(PoisonError::into_inner);
    if made.is_none() {
        let dir = fixture::client_dir()?;
        fixture::source_tree(dir.path(), SMALL)?;
        *made = Some(dir);
    }
    Ok(made.as_ref().context("the tree was just made")?.path().to_owned())
}

/// Fails unless `back` equals `tree`, and the bucket lists as many keys as the tree has files.
fn compare(endpoint: &Endpoint, bucket: &str, tree: &Path, back: &Path) -> Result<()> {
    let want = fixture::tree_hashes(tree)?;
    ensure!(want.len() >= SMALL, "the source tree has only {} files", want.len());
    fixture::same_tree(&want, &fixture::tree_hashes(back)?)?;
    let mut listed = endpoint.raw().list(bucket, "")?;
    // s3fs keeps directories as keys of their own.
    listed.retain(|key| !key.ends_with('/'));
    let keys: Vec<String> = want.keys().map(|path| path.to_string_lossy().into_owned()).collect();
    let mut keys_in_order = keys;
    keys_in_order.sort();
    ensure!(listed == keys_in_order, "{} keys listed for {} files", listed.len(), keys_in_order.len());
    Ok(())
}

fn rclone(endpoint: &Endpoint, tree: &Path) -> Result<()> {
    let bucket = endpoint.new_bucket("tree")?;
    let rclone = Rclone::new(endpoint)?;
    let back = fixture::client_dir()?;
    let remote = format!("s3:{bucket}");
    let parallel = ["--transfers", "16", "--checkers", "16", "--fast-list"];
    rclone.run(&[&["copy", &tree.to_string_lossy(), &remote][..], &parallel].concat())?;
    rclone.run(&[&["copy", &remote, &back.path().to_string_lossy()][..], &parallel].concat())?;
    compare(endpoint, &bucket, tree, back.path())
}

fn aws_cli(endpoint: &Endpoint, tree: &Path) -> Result<()> {
    let bucket = endpoint.new_bucket("tree")?;
    let aws = AwsCli::new(endpoint)?;
    let back = fixture::client_dir()?;
    let remote = format!("s3://{bucket}");
    aws.run(&["s3", "sync", "--quiet", &tree.to_string_lossy(), &remote])?;
    aws.run(&["s3", "sync", "--quiet", &remote, &back.path().to_string_lossy()])?;
    compare(endpoint, &bucket, tree, back.path())?;
    let again = aws.run(&["s3", "sync", "--dryrun", &remote, &back.path().to_string_lossy()])?;
    ensure!(again.is_empty(), "a second sync would copy again: {again}");
    Ok(())
}

fn mc(endpoint: &Endpoint, tree: &Path) -> Result<()> {
    let bucket = endpoint.new_bucket("tree")?;
    let mc = Mc::new(endpoint)?;
    let back = fixture::client_dir()?;
    mc.run(&["mirror", "--quiet", &tree.to_string_lossy(), &format!("t/{bucket}")])?;
    mc.run(&["mirror", "--quiet", &format!("t/{bucket}"), &back.path().to_string_lossy()])?;
    compare(endpoint, &bucket, tree, back.path())
}

fn boto3_threads(endpoint: &Endpoint, tree: &Path) -> Result<()> {
    let bucket = endpoint.new_bucket("tree")?;
    let back = fixture::client_dir()?;
    let paths = [&*tree.to_string_lossy(), &*back.path().to_string_lossy(), &bucket];
    boto3::run(endpoint, include_str!("../boto3/tree.py"), &paths)?;
    compare(endpoint, &bucket, tree, back.path())
}

fn s3fs(endpoint: &Endpoint, tree: &Path) -> Result<()> {
    let bucket = endpoint.new_bucket("tree")?;
    let mounted = S3fs::mount(endpoint, &bucket)?;
    copy_tree(tree, mounted.path())?;
    compare(endpoint, &bucket, tree, mounted.path())
}

/// Copies files and directories, content only: attributes would each cost another request and are not the point.
fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            std::fs::create_dir(&target)?;
            copy_tree(&entry.path(), &target)?;
        } else {
            std::fs::write(&target, std::fs::read(entry.path())?)
                .with_context(|| format!("cannot write {}", target.display()))?;
        }
    }
    Ok(())
}
