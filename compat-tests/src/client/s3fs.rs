//! s3fs: a bucket as a directory.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use super::command;
use crate::process::wait_until;
use crate::skip;
use crate::target::{Endpoint, REGION};

const MOUNT_WITHIN: Duration = Duration::from_secs(30);

/// A mounted bucket. Dropping it unmounts.
#[derive(Debug)]
pub struct S3fs {
    child: Child,
    dir: TempDir,
    mount: PathBuf,
}

impl S3fs {
    /// Mounts `bucket`.
    ///
    /// # Errors
    /// A skip when s3fs or `/dev/fuse` is missing; otherwise when the mount does not come up.
    pub fn mount(endpoint: &Endpoint, bucket: &str) -> Result<Self> {
        let program = skip::program(&["s3fs"], "apt-get install s3fs")?;
        if !Path::new("/dev/fuse").exists() {
            return Err(skip::skip("/dev/fuse not found: the kernel lacks FUSE"));
        }
        let dir = tempfile::tempdir()?;
        let mount = dir.path().join("mount");
        std::fs::create_dir(&mount)?;
        let log = std::fs::File::create(dir.path().join("log"))?;
        let mut command: Command = command::clean(&program, dir.path());
        command
            .env("AWSACCESSKEYID", &endpoint.access_key)
            .env("AWSSECRETACCESSKEY", &endpoint.secret_key)
            .arg(bucket)
            .arg(&mount)
            .arg("-f")
            .args(["-o", &format!("url={}", endpoint.url()), "-o", "use_path_request_style"])
            .args(["-o", &format!("endpoint={REGION}"), "-o", "retries=1", "-o", "stat_cache_expire=1"])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = command.spawn().context("cannot start s3fs")?;
        let mut mounted = Self { child, dir, mount };
        mounted.wait_mounted()?;
        Ok(mounted)
    }

    /// The directory that shows the bucket.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.mount
    }

    fn wait_mounted(&mut self) -> Result<()> {
        let outside = std::fs::metadata(self.dir.path())?;
        wait_until("the s3fs mount", MOUNT_WITHIN, || {
            if let Some(status) = self.child.try_wait()? {
                let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
                bail!("s3fs ended with {status}: {log}");
            }
            use std::os::unix::fs::MetadataExt;
            Ok(std::fs::metadata(&self.mount).is_ok_and(|inside| inside.dev() != outside.dev()))
        })
    }
}

impl Drop for S3fs {
    fn drop(&mut self) {
        // As root umount works everywhere; fusermount3 is for other users. One of the two being absent is fine.
        let unmounted = Command::new("fusermount3").arg("-u").arg(&self.mount).stderr(Stdio::null()).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            let _ = Command::new("umount").arg("-l").arg(&self.mount).stderr(Stdio::null()).status();
        }
        let ended = wait_until("the end of s3fs", Duration::from_secs(10), || Ok(self.child.try_wait()?.is_some()));
        if ended.is_err() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
