//! A bucket as a directory through the mount under test, and the gateway behind it.
//!
//! ```text
//! Gateway (a Holdfast, killed and started again) ◀── Door (one address for its whole life) ◀── Mounted ── the kernel
//!                                                                                          ◀── Mounted (another one)
//! ```
//!
//! Each mount has directories of its own: the mount point, the cache and the log; the cache outlives a kill, so that
//! [`Mounted::start_again`] is a start after a crash. Nothing is left when it is dropped: the process is killed and the mount
//! point detached.

mod door;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

pub use door::Door;

use crate::process::{Holdfast, HoldfastOptions, Launch, Process, tail, wait_until};
use crate::skip::skip;
use crate::target::{Endpoint, REGION, Target};

/// How long a mount may take to come up; a start after a crash replays its journal first.
const UP_WITHIN: Duration = Duration::from_secs(60);
/// How long it may take to end; it uploads what it still has.
const END_WITHIN: Duration = Duration::from_secs(120);

/// A gateway on its embedded store, whose address stays when it is started again.
#[derive(Debug)]
pub struct Gateway {
    // Dropped in this order.
    door: Door,
    server: Holdfast,
    _dir: TempDir,
}

impl Gateway {
    /// Starts one with these further flags.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn start(flags: &[&str]) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("holdfast-gateway-").tempdir()?;
        let mut options = HoldfastOptions::embedded(dir.path());
        options.args = flags.iter().copied().map(str::to_owned).collect();
        let server = Holdfast::start(options)?;
        let door = Door::open(server.address())?;
        Ok(Self { door, server, _dir: dir })
    }

    /// Where it is reached, whatever happens to it.
    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        Endpoint::of(Target::Embedded, self.door.address())
    }

    /// The way to it, to close or open.
    #[must_use]
    pub fn door(&self) -> &Door {
        &self.door
    }

    /// Another way to it, which can be closed for one mount alone.
    ///
    /// # Errors
    /// When no address is free.
    pub fn another_door(&self) -> Result<Door> {
        Door::open(self.server.address())
    }

    /// Kills it at once.
    pub fn kill(&mut self) {
        self.server.kill();
    }

    /// Starts it again on its data. Other doors than its own must be turned by their owners.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn restart(&mut self) -> Result<()> {
        self.server.restart()?;
        self.door.lead_to(self.server.address());
        Ok(())
    }

    /// The last lines of its log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        self.server.log_tail(20)
    }
}

/// What is mounted, and how.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The bucket.
    pub bucket: String,
    /// The part of it below this; empty for all.
    pub prefix: String,
    /// `--profile`.
    pub profile: &'static str,
    /// `--sync`.
    pub sync: &'static str,
    /// Further flags.
    pub args: Vec<String>,
}

impl Plan {
    /// All of `bucket` in the default profile, synced to the store.
    #[must_use]
    pub fn new(bucket: &str) -> Self {
        let (bucket, prefix) = (bucket.to_owned(), String::new());
        Self { bucket, prefix, profile: "shared", sync: "store", args: Vec::new() }
    }

    /// The same in another profile.
    #[must_use]
    pub fn profile(self, profile: &'static str) -> Self {
        Self { profile, ..self }
    }

    /// The same with another promise of `fsync`.
    #[must_use]
    pub fn sync(self, sync: &'static str) -> Self {
        Self { sync, ..self }
    }

    /// The same for a part of the bucket.
    #[must_use]
    pub fn prefix(self, prefix: &str) -> Self {
        Self { prefix: prefix.to_owned(), ..self }
    }
}

/// A mounted bucket.
#[derive(Debug)]
pub struct Mounted {
    endpoint: Endpoint,
    plan: Plan,
    process: Process,
    dir: TempDir,
    point: PathBuf,
}

impl Mounted {
    /// Mounts, and waits until the mount is up.
    ///
    /// # Errors
    /// A skip without FUSE; otherwise when it does not come up, with what it printed.
    pub fn start(endpoint: &Endpoint, plan: &Plan) -> Result<Self> {
        if !Path::new("/dev/fuse").exists() {
            return Err(skip("/dev/fuse not found: the kernel lacks FUSE"));
        }
        let dir = tempfile::Builder::new().prefix("holdfast-mount-").tempdir()?;
        // mountinfo shows the path without symbolic links.
        let point = dir.path().canonicalize()?.join("point");
        std::fs::create_dir(&point)?;
        std::fs::create_dir(dir.path().join("cache"))?;
        let process = Process::start(&launch(endpoint, plan, dir.path(), &point)?)?;
        let mut mounted = Self { endpoint: endpoint.clone(), plan: plan.clone(), process, dir, point };
        mounted.await_up()?;
        Ok(mounted)
    }

    /// The directory that shows the bucket.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.point
    }

    /// Where it keeps its cache and its journal.
    #[must_use]
    pub fn cache(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    /// What it was started with.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The process, to signal or measure it.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The last lines that it printed.
    #[must_use]
    pub fn log_tail(&self) -> String {
        tail(&self.process.output(), 20)
    }

    /// Unmounts as a user does, and waits for the end of the process.
    ///
    /// # Errors
    /// When something still uses it, or the process ends with an error: then something was not stored.
    pub fn unmount(&mut self) -> Result<()> {
        ensure!(detach(&self.point, false), "cannot unmount {}:\n{}", self.point.display(), self.log_tail());
        let status = self.await_end()?;
        ensure!(status.success(), "it ended with {status} after an unmount:\n{}", self.log_tail());
        ensure!(!is_mounted(&self.point)?, "it is still mounted");
        Ok(())
    }

    /// Asks the process to end (SIGTERM), which drains and unmounts.
    ///
    /// # Errors
    /// As [`Mounted::unmount`].
    pub fn terminate(&mut self) -> Result<()> {
        self.process.terminate();
        let status = self.await_end()?;
        ensure!(status.success(), "it ended with {status} after SIGTERM:\n{}", self.log_tail());
        ensure!(!is_mounted(&self.point)?, "it is still mounted");
        Ok(())
    }

    /// Waits for the end of the process.
    ///
    /// # Errors
    /// When it does not come.
    pub fn await_end(&mut self) -> Result<ExitStatus> {
        self.process.wait(END_WITHIN).with_context(|| self.log_tail())
    }

    /// Kills the process at once and detaches the dead mount. Cache and journal stay.
    pub fn kill(&mut self) {
        self.process.kill();
        detach(&self.point, true);
    }

    /// Mounts again with the same cache, after an end of whatever kind.
    ///
    /// # Errors
    /// As [`Mounted::start`].
    pub fn start_again(&mut self) -> Result<()> {
        self.kill();
        self.process = Process::start(&launch(&self.endpoint, &self.plan, self.dir.path(), &self.point)?)?;
        self.await_up()
    }

    fn await_up(&mut self) -> Result<()> {
        wait_until("the mount", UP_WITHIN, || {
            if !self.process.is_running()? {
                bail!("the mount ended");
            }
            // In the table, and answering: the first says that the kernel has it, the second that the process has.
            Ok(is_mounted(&self.point)? && rustix::fs::statfs(&self.point).is_ok())
        })
        .with_context(|| self.log_tail())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The mount under test: `HOLDFAST_MOUNT_BIN`, else the one that cargo built beside this test binary.
///
/// # Errors
/// When there is none.
pub fn mount_program() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("HOLDFAST_MOUNT_BIN") {
        return Ok(PathBuf::from(path));
    }
    let own = std::env::current_exe()?;
    let profile = own.parent().and_then(Path::parent).context("a test binary lives in target/PROFILE/deps")?;
    let program = profile.join("holdfast-mount-under-test");
    ensure!(program.is_file(), "{} is not built", program.display());
    Ok(program)
}

fn launch(endpoint: &Endpoint, plan: &Plan, dir: &Path, point: &Path) -> Result<Launch> {
    let what = if plan.prefix.is_empty() { plan.bucket.clone() } else { format!("{}/{}", plan.bucket, plan.prefix) };
    let mut args = vec![what.into(), point.as_os_str().to_owned()];
    args.extend(["--foreground", "--profile", plan.profile, "--sync", plan.sync, "--cache-dir"].map(Into::into));
    args.push(dir.join("cache").into());
    args.extend(plan.args.iter().map(Into::into));
    let env = [
        ("HOLDFAST_ENDPOINT", endpoint.url()),
        ("AWS_ACCESS_KEY_ID", endpoint.access_key.clone()),
        ("AWS_SECRET_ACCESS_KEY", endpoint.secret_key.clone()),
        ("AWS_REGION", REGION.to_owned()),
    ];
    let env = env.map(|(name, value)| (name.to_owned(), value)).to_vec();
    Ok(Launch { program: mount_program()?, args, env, log: dir.join("log") })
}

/// Whether something of FUSE is mounted on `point`.
///
/// # Errors
/// When the table of mounts cannot be read.
pub fn is_mounted(point: &Path) -> Result<bool> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    Ok(table.lines().any(|line| is_mount(line, point)))
}

/// Whether a line of mountinfo (proc(5)) is a mount of FUSE on `point`, which must hold no space.
fn is_mount(line: &str, point: &Path) -> bool {
    let Some((front, back)) = line.split_once(" - ") else { return false };
    front.split(' ').nth(4) == point.to_str() && back.starts_with("fuse")
}

/// Takes `point` out of the tree; `lazily` also when it is used or dead.
fn detach(point: &Path, lazily: bool) -> bool {
    let quiet = |command: &mut Command| {
        command.arg(point).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    };
    let (user, root) = if lazily { ("-uz", "-l") } else { ("-u", "-v") };
    // As root umount works everywhere; fusermount3 is for other users.
    quiet(Command::new("fusermount3").arg(user)) || quiet(Command::new("umount").arg(root))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::is_mount;

    #[test]
    fn a_mount_is_found_in_the_table() {
        let line = "52 29 0:47 / /tmp/x/point rw,nosuid,nodev,relatime shared:32 - fuse.holdfast holdfast rw,user_id=0";
        let check = |line: &str, point: &str, expected| assert_eq!(is_mount(line, Path::new(point)), expected);
        check(line, "/tmp/x/point", true);
        check(line, "/tmp/x", false);
        check(&line.replace("fuse.holdfast", "ext4"), "/tmp/x/point", false);
        check("", "/tmp/x/point", false);
    }
}
