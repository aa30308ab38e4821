//! The servers, and the way from a side to its mount and its store.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use holdfast_compat_tests::minio::Minio;
use holdfast_compat_tests::process::{Holdfast, HoldfastOptions};
use holdfast_compat_tests::skip;
use holdfast_compat_tests::target::{Endpoint, Target, in_front_of};

use super::peers::{Mount, Side};
use super::store::Store;
use super::{Options, Programs};
use crate::target::{version_of, version_of_minio};

/// How long the gateway may take to end when it is started again.
const STOP_WITHIN: Duration = Duration::from_secs(40);
/// The bucket of the machine's disk, on Holdfast.
const MACHINE_BUCKET: &str = "mount-machine";

/// What runs. Fields are dropped in this order.
pub struct Stack {
    holdfast: Holdfast,
    minio: Minio,
    programs: Programs,
    directory: PathBuf,
    mounts: u32,
}

impl Stack {
    /// Starts both servers and makes the buckets.
    ///
    /// # Errors
    /// When a program is missing or does not start.
    pub fn start(options: &Options) -> Result<Self> {
        let minio = Minio::start(&options.directory)?;
        let mut settings = HoldfastOptions::embedded(&options.directory);
        settings.program = Some(options.programs.holdfast.clone());
        in_front_of(&Endpoint::of(Target::Minio, minio.address()), &mut settings)?;
        let holdfast = Holdfast::start(settings)?;
        let (programs, directory) = (options.programs.clone(), options.directory.clone());
        let stack = Self { holdfast, minio, programs, directory, mounts: 0 };
        for side in Side::ALL {
            stack.endpoint(side).raw().put(side.bucket(), "", &[], b"")?.expect(200)?;
        }
        stack.endpoint(Side::Mount).raw().put(MACHINE_BUCKET, "", &[], b"")?.expect(200)?;
        Ok(stack)
    }

    /// Of each program that is there.
    #[must_use]
    pub fn versions(&self) -> BTreeMap<&'static str, String> {
        let of = |name: &'static str| skip::program(&[name], "").ok();
        let printed = |name| of(name).map(|program| version_of(&program, &["--version"]));
        let mut versions = BTreeMap::from([
            ("holdfast", version_of(&self.programs.holdfast, &["--version"])),
            ("holdfast-mount", version_of(&self.programs.mount, &["--version"])),
        ]);
        versions.extend(of("minio").map(|program| ("minio", version_of_minio(&program))));
        versions.extend(printed("rclone").map(|version| ("rclone", version)));
        // "Amazon Simple Storage Service File System V1.90 (commit:unknown) with GnuTLS(gcrypt)".
        let number = |version: String| version.split(' ').find_map(|word| word.strip_prefix('V')).map(str::to_owned);
        let s3fs = printed("s3fs").and_then(number);
        versions.extend(s3fs.map(|number| ("s3fs", format!("s3fs {number}"))));
        versions
    }

    /// Where files may be made.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    fn endpoint(&self, side: Side) -> Endpoint {
        if side.on_holdfast() {
            Endpoint::of(Target::OverMinio, self.holdfast.address())
        } else {
            Endpoint::of(Target::Minio, self.minio.address())
        }
    }

    /// The store of a side. Its address changes with [`Stack::restart_gateway`].
    #[must_use]
    pub fn store(&self, side: Side) -> Store {
        Store::new(self.endpoint(side), side.bucket())
    }

    /// A new mount of a side's bucket, with a new and empty cache.
    ///
    /// # Errors
    /// When its program is missing, or it does not come up.
    pub fn mount(&mut self, side: Side) -> Result<Mount> {
        self.mount_bucket(side, side.bucket(), &[])
    }

    /// A new mount for the disk of a machine.
    ///
    /// # Errors
    /// As [`Stack::mount`].
    pub fn mount_for_machine(&mut self) -> Result<Mount> {
        self.mount_bucket(Side::Mount, MACHINE_BUCKET, &["--profile", "vm", "--sync", "journal"])
    }

    fn mount_bucket(&mut self, side: Side, bucket: &str, flags: &[&str]) -> Result<Mount> {
        self.mounts += 1;
        let directory = self.directory.join(format!("mount-{}", self.mounts));
        let mount = Mount::start(side, &self.programs.mount, &self.endpoint(side), bucket, flags, directory);
        mount.with_context(|| format!("mounting by {}", side.name()))
    }

    /// Starts the gateway anew, so that nothing is in its memory. No mount may be on it: its address changes.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn restart_gateway(&mut self) -> Result<()> {
        let process = self.holdfast.process();
        process.terminate();
        process.wait(STOP_WITHIN).context("the gateway does not end")?;
        self.holdfast.restart()
    }

    /// Lets the disk finish what is behind, so that no turn pays for the one before.
    ///
    /// # Errors
    /// When the disk cannot be synced.
    pub fn sync(&self) -> Result<()> {
        rustix::fs::syncfs(File::open(&self.directory)?).context("the disk cannot be synced")
    }

    /// Fails unless both servers answer.
    ///
    /// # Errors
    /// When one does not: then nothing more can be measured.
    pub fn check(&self) -> Result<()> {
        for side in [Side::Mount, Side::S3fs] {
            let endpoint = self.endpoint(side);
            let answer =
                endpoint.raw().get("", "", &[]).map_err(anyhow::Error::new).and_then(|reply| reply.expect(200));
            answer.with_context(|| format!("the server {} does not answer", endpoint.target))?;
        }
        Ok(())
    }
}
