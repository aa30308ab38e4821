//! The mounts: what is started, how it is watched, and how it ends.
//!
//! A program that waits for a mount cannot be interrupted, but it gets an error as soon as the process behind the mount is
//! gone. So [`Mount::within`] lets a job run in a thread of its own, and kills the mount when the job takes too long.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use holdfast_compat_tests::client::command;
use holdfast_compat_tests::mounted::is_mounted;
use holdfast_compat_tests::process::{Launch, Process, tail, wait_until};
use holdfast_compat_tests::skip;
use holdfast_compat_tests::target::{Endpoint, REGION};
use rustix::process::{Pid, Signal, kill_process};

/// How long a mount may take to come up, and to be taken out of the tree when nothing uses it.
const UP_WITHIN: Duration = Duration::from_secs(60);
const UNMOUNT_WITHIN: Duration = Duration::from_secs(30);
/// How long it may take to end; holdfast-mount gives up after 300 s itself.
const END_WITHIN: Duration = Duration::from_secs(330);
/// How long any one job may take.
const JOB_WITHIN: Duration = Duration::from_secs(600);
/// Lines of a mount's output that a failure shows.
const SHOWN_LINES: usize = 10;

/// What is mounted by what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// holdfast-mount, on Holdfast.
    Mount,
    /// s3fs, on MinIO.
    S3fs,
    /// rclone, on MinIO.
    Rclone,
    /// s3fs, on Holdfast.
    S3fsOnHoldfast,
}

impl Side {
    /// All of them, the mount under test first.
    pub const ALL: [Self; 4] = [Self::Mount, Self::S3fs, Self::Rclone, Self::S3fsOnHoldfast];
    /// Each client once.
    pub const CLIENTS: [Self; 3] = [Self::Mount, Self::S3fs, Self::Rclone];

    /// Its name in results.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mount => "holdfast-mount",
            Self::S3fs => "s3fs",
            Self::Rclone => "rclone",
            Self::S3fsOnHoldfast => "s3fs on Holdfast",
        }
    }

    /// Whether its store is Holdfast, and not MinIO.
    #[must_use]
    pub fn on_holdfast(self) -> bool {
        matches!(self, Self::Mount | Self::S3fsOnHoldfast)
    }

    /// The bucket that only this side uses.
    #[must_use]
    pub fn bucket(self) -> &'static str {
        match self {
            Self::Mount => "mount-holdfast",
            Self::S3fs => "mount-s3fs",
            Self::Rclone => "mount-rclone",
            Self::S3fsOnHoldfast => "mount-s3fs-on-holdfast",
        }
    }

    /// Whether `fsync` and `close` return before the store has the bytes, so that the store must be asked.
    #[must_use]
    pub fn returns_early(self) -> bool {
        self == Self::Rclone
    }
}

/// s3fs on its usual store, for goals.
pub const S3FS: &[&str] = &[Side::S3fs.name()];
/// Everyone but the mount under test, for goals.
pub const OTHERS: &[&str] = &[Side::S3fs.name(), Side::Rclone.name(), Side::S3fsOnHoldfast.name()];

/// A mounted bucket. Dropping it kills its process, detaches the mount and removes its directories.
pub struct Mount {
    side: Side,
    process: Process,
    point: PathBuf,
    directory: PathBuf,
}

impl Mount {
    /// Mounts `bucket` and waits until the mount answers; `directory` is made for its mount point, cache and log.
    ///
    /// # Errors
    /// When its program is missing, or it does not come up.
    pub fn start(
        side: Side,
        own: &Path,
        endpoint: &Endpoint,
        bucket: &str,
        flags: &[&str],
        directory: PathBuf,
    ) -> Result<Self> {
        ensure!(Path::new("/dev/fuse").exists(), "there is no /dev/fuse");
        for folder in ["point", "cache", "state"] {
            std::fs::create_dir_all(directory.join(folder))?;
        }
        // The table of mounts shows the path without symbolic links.
        let directory = directory.canonicalize()?;
        let point = directory.join("point");
        let launch = match side {
            Side::Mount => ours(own, endpoint, bucket, flags, &directory),
            Side::S3fs | Side::S3fsOnHoldfast => s3fs(endpoint, bucket, &directory)?,
            Side::Rclone => rclone(endpoint, bucket, &directory)?,
        };
        let mut mount = Self { side, process: Process::start(&launch)?, point, directory };
        let up = mount.await_up();
        up.with_context(|| mount.printed())?;
        Ok(mount)
    }

    /// What it is.
    #[must_use]
    pub fn side(&self) -> Side {
        self.side
    }

    /// The directory that shows the bucket.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.point
    }

    /// The last lines that it printed.
    #[must_use]
    pub fn printed(&self) -> String {
        tail(&self.process.output(), SHOWN_LINES)
    }

    /// Runs a job that uses the mount. When it takes too long the mount is killed, which makes the job fail.
    ///
    /// # Errors
    /// When it fails or takes too long.
    pub fn within<T: Send>(&self, what: &str, job: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        self.within_time(what, JOB_WITHIN, job)
    }

    fn within_time<T: Send>(
        &self,
        what: &str,
        deadline: Duration,
        job: impl FnOnce() -> Result<T> + Send,
    ) -> Result<T> {
        std::thread::scope(|scope| {
            let (sender, receiver) = channel();
            let worker = scope.spawn(move || {
                let done = job();
                // Nobody listens any more when the deadline has passed.
                let _ = sender.send(());
                done
            });
            let late = matches!(receiver.recv_timeout(deadline), Err(RecvTimeoutError::Timeout));
            if late {
                self.kill();
            }
            let done = worker.join().map_err(|_| anyhow!("{what}: the job panicked"))?;
            if late {
                bail!("{what}: not within {deadline:?}");
            }
            done.with_context(|| what.to_owned())
        })
    }

    /// Unmounts as a user does and waits for the end of the process.
    ///
    /// # Errors
    /// When something still uses it, or it does not end; of holdfast-mount also when it ends with an error, for then
    /// something was not stored.
    pub fn end(mut self) -> Result<()> {
        ensure!(self.process.is_running()?, "its process has ended before");
        // A program that looks at every new mount may have it open for a moment.
        wait_until("the unmount", UNMOUNT_WITHIN, || Ok(unmount(&self.point, false)))?;
        let status = self.process.wait(END_WITHIN).with_context(|| self.printed())?;
        if self.side == Side::Mount {
            ensure!(status.success(), "holdfast-mount ended with {status}: {}", self.printed());
        }
        Ok(())
    }

    fn await_up(&mut self) -> Result<()> {
        wait_until("the mount", UP_WITHIN, || {
            ensure!(self.process.is_running()?, "it ended before it was mounted");
            is_mounted(&self.point)
        })?;
        // The kernel has it; now the process must answer.
        self.within_time("the first answer", UP_WITHIN, || Ok(rustix::fs::statfs(&self.point).map(drop)?))
    }

    /// Ends the process at once; who waits for the mount gets an error.
    fn kill(&self) {
        let pid = i32::try_from(self.process.pid()).ok().and_then(Pid::from_raw);
        // One that has ended cannot be told to end.
        let _ = pid.map(|pid| kill_process(pid, Signal::KILL));
        unmount(&self.point, true);
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        self.process.kill();
        let mounted = || is_mounted(&self.point).unwrap_or(true);
        if mounted() {
            unmount(&self.point, true);
        }
        // Never through a mount, where it would remove objects.
        if !mounted() {
            let _ = std::fs::remove_dir_all(&self.directory);
        }
    }
}

/// Takes `point` out of the tree; `lazily` also when it is used or dead.
fn unmount(point: &Path, lazily: bool) -> bool {
    let quiet = |program: &str, flag: &str| {
        let mut unmounting = Command::new(program);
        unmounting.arg(flag).arg(point);
        command::finish(unmounting, b"").is_ok_and(|output| output.code == Some(0))
    };
    let (user, root) = if lazily { ("-uz", "-l") } else { ("-u", "-v") };
    // As root umount works everywhere; fusermount3 is for other users.
    quiet("fusermount3", user) || quiet("umount", root)
}

fn ours(program: &Path, endpoint: &Endpoint, bucket: &str, flags: &[&str], directory: &Path) -> Launch {
    let mut args: Vec<OsString> = vec![bucket.into(), directory.join("point").into(), "--foreground".into()];
    args.extend(["--cache-dir".into(), directory.join("cache").into()]);
    args.extend(["--state-dir".into(), directory.join("state").into()]);
    args.extend(flags.iter().map(Into::into));
    let env = [
        ("HOLDFAST_ENDPOINT", endpoint.url()),
        ("AWS_ACCESS_KEY_ID", endpoint.access_key.clone()),
        ("AWS_SECRET_ACCESS_KEY", endpoint.secret_key.clone()),
        ("AWS_REGION", REGION.to_owned()),
    ];
    launch(program.to_owned(), args, &env, directory)
}

/// Its defaults, and a cache of whole files: without one it would read a file again from the store each time.
fn s3fs(endpoint: &Endpoint, bucket: &str, directory: &Path) -> Result<Launch> {
    let program = skip::program(&["s3fs"], "apt-get install s3fs")?;
    let mut args: Vec<OsString> = vec![bucket.into(), directory.join("point").into(), "-f".into()];
    let cache = directory.join("cache");
    for option in [
        format!("url={}", endpoint.url()),
        "use_path_request_style".to_owned(),
        format!("endpoint={REGION}"),
        format!("use_cache={}", cache.display()),
    ] {
        args.extend(["-o".into(), option.into()]);
    }
    let env = [("AWSACCESSKEYID", endpoint.access_key.clone()), ("AWSSECRETACCESSKEY", endpoint.secret_key.clone())];
    Ok(launch(program, args, &env, directory))
}

/// Its defaults, a cache of files, and no pause before a closed file is uploaded.
fn rclone(endpoint: &Endpoint, bucket: &str, directory: &Path) -> Result<Launch> {
    let program = skip::program(&["rclone"], "apt-get install rclone")?;
    let mut args: Vec<OsString> = vec!["mount".into(), format!("s3:{bucket}").into(), directory.join("point").into()];
    args.extend(["--vfs-cache-mode", "full", "--vfs-write-back", "0s", "--cache-dir"].map(Into::into));
    args.push(directory.join("cache").into());
    let env = [
        ("RCLONE_CONFIG", directory.join("rclone.conf").to_string_lossy().into_owned()),
        ("RCLONE_CONFIG_S3_TYPE", "s3".to_owned()),
        ("RCLONE_CONFIG_S3_PROVIDER", "Minio".to_owned()),
        ("RCLONE_CONFIG_S3_ACCESS_KEY_ID", endpoint.access_key.clone()),
        ("RCLONE_CONFIG_S3_SECRET_ACCESS_KEY", endpoint.secret_key.clone()),
        ("RCLONE_CONFIG_S3_REGION", REGION.to_owned()),
        ("RCLONE_CONFIG_S3_ENDPOINT", endpoint.url()),
    ];
    Ok(launch(program, args, &env, directory))
}

/// Without the user's configuration: a home of its own, and no proxy.
fn launch(program: PathBuf, args: Vec<OsString>, env: &[(&str, String)], directory: &Path) -> Launch {
    let mut env: Vec<(String, String)> = env.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    env.push(("HOME".to_owned(), directory.to_string_lossy().into_owned()));
    env.extend(["NO_PROXY", "no_proxy"].map(|name| (name.to_owned(), "*".to_owned())));
    Launch { program, args, env, log: directory.join("log") }
}
