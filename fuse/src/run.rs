//! The program: options, the process in the background, signals, and what is said when something is missing.
//!
//! Without `--foreground` the program starts itself again as the mount, and waits until that is mounted or has said why not.
//! Exit codes: 0 done, 1 it did not work or bytes remain, 2 usage.

mod metrics;
mod options;

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use clap::Parser as _;
use holdfast_core::mount::MountId;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

pub use self::options::Cli;
use self::options::Mount;
use crate::adapter::{self, MountOptions};
use crate::cache::{self, BlockCache};
use crate::client::{self, Client, Error, Repository};
use crate::journal::{self, Journal};
use crate::vfs::{Options, Parts, SNAPSHOT, Sync, UNSYNCED, Vfs};

/// What the mount says to whoever started it, when it is there.
const READY: &str = "mounted";
/// How long what is written may take to reach the repository when the mount ends.
const DRAIN: Duration = Duration::from_secs(300);
/// Bytes of a segment of the journal.
const SEGMENT_BYTES: u64 = 16 << 20;
/// Bytes that the cache leaves free on its disk.
const FREE_FLOOR_BYTES: u64 = 1 << 30;
/// Threads that serve.
const THREADS: usize = 4;

/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = match options::arguments(std::env::args_os()) {
        Ok(arguments) => arguments,
        Err(error) => return complain(&error, 2),
    };
    match options::Command::of(Cli::parse_from(arguments)) {
        Ok(options::Command::Mount(mount)) if mount.foreground => match serve(*mount) {
            Ok(code) => code,
            Err(error) => complain(&error, 1),
        },
        Ok(options::Command::Mount(_)) => match detach() {
            Ok(code) => code,
            Err(error) => complain(&error, 1),
        },
        Ok(options::Command::Warmup(paths)) => finish(warm(paths)),
        Ok(options::Command::Snapshot(paths)) => finish(snapshot(&paths)),
        Err(error) => complain(&error, 2),
    }
}

fn finish(done: anyhow::Result<()>) -> ExitCode {
    done.map_or_else(|error| complain(&error, 1), |()| ExitCode::SUCCESS)
}

fn complain(error: &anyhow::Error, code: u8) -> ExitCode {
    // There is nobody left to tell when this fails.
    let _ = writeln!(std::io::stderr(), "holdfast-mount: {error:#}");
    ExitCode::from(code)
}

/// Starts the mount as a process of its own, and waits until it is there.
fn detach() -> anyhow::Result<ExitCode> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let arguments = options::arguments(std::env::args_os())?;
    let mut child = Command::new(program)
        .args(arguments.into_iter().skip(1))
        .arg("--foreground")
        .env(options::DETACHED, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start the mount in the background")?;
    let said = child.stdout.take().context("the mount has no output")?;
    let mut line = String::new();
    BufReader::new(said).read_line(&mut line).context("the mount said nothing")?;
    if line.trim() == READY {
        return Ok(ExitCode::SUCCESS);
    }
    // It has said why on standard error, which is ours.
    let status = child.wait().context("the mount did not end")?;
    Ok(ExitCode::from(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1)))
}

/// Mounts, and serves until it is unmounted.
fn serve(mount: Mount) -> anyhow::Result<ExitCode> {
    let detached = std::env::var_os(options::DETACHED).is_some();
    if detached {
        rustix::process::setsid().context("cannot leave the session of the terminal")?;
    }
    log(&mount, detached)?;
    prepare_directory(&mount.dir)?;
    let state = mount.state_dir()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .thread_name("mount")
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let handle = runtime.handle().clone();
    runtime.block_on(async move {
        let vfs = start(&mount, &state).await?;
        if let Some(listen) = mount.metrics_listen {
            metrics::serve(&vfs, listen).await.with_context(|| format!("cannot listen on {listen} for metrics"))?;
        }
        let options = MountOptions {
            source: format!("holdfast:{}/{}", vfs.options.bucket, vfs.options.prefix),
            allow_other: mount.allow_other,
            read_only: mount.read_only,
            flock: mount.flock,
        };
        let mounted = match adapter::mount(&vfs, &mount.dir, &options, handle) {
            Ok(mounted) => mounted,
            Err(error) => {
                vfs.stop(Instant::now() + Duration::from_secs(5)).await;
                return Err(no_mount(error, &mount.dir));
            }
        };
        tracing::info!(bucket = vfs.options.bucket, prefix = vfs.options.prefix, dir = %mount.dir.display(), "mounted");
        say_ready(detached)?;
        let ended = tokio::task::spawn_blocking(move || mounted.join());
        let ended = until_unmounted(&vfs, &mount.dir, ended).await;
        let left = vfs.stop(Instant::now() + DRAIN).await;
        if left > 0 {
            bail!("{left} bytes could not be brought to the repository{}", kept(&vfs));
        }
        ended?;
        tracing::info!("unmounted");
        Ok(ExitCode::SUCCESS)
    })
}

fn kept(vfs: &Vfs) -> &'static str {
    if vfs.options.sync == Sync::Journal { "; the journal keeps them for the next mount" } else { "" }
}

/// Waits until the kernel has unmounted; a signal asks it to.
async fn until_unmounted(
    vfs: &Arc<Vfs>,
    dir: &Path,
    mut ended: tokio::task::JoinHandle<std::io::Result<()>>,
) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot hear signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot hear signals")?;
    loop {
        tokio::select! {
            ended = &mut ended => {
                return match ended.context("the mount broke")? {
                    // A reader was in the kernel when the connection went: so it ends.
                    Err(error) if error.raw_os_error() == Some(rustix::io::Errno::CONNABORTED.raw_os_error()) => Ok(()),
                    Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) => Ok(()),
                    ended => ended.context("the connection to the kernel broke"),
                };
            }
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("asked to end: bringing everything to the repository");
        let _ = tokio::time::timeout(DRAIN, vfs.flush_all()).await;
        unmount(dir);
    }
}

/// Asks the kernel to unmount; files that are open keep it until they are closed.
fn unmount(dir: &Path) {
    let dir = dir.to_owned();
    let done = Command::new("fusermount3").arg("-u").arg("-z").arg(&dir).stderr(Stdio::null()).status();
    if !done.is_ok_and(|status| status.success()) {
        let done = Command::new("umount").arg("-l").arg(&dir).status();
        if !done.is_ok_and(|status| status.success()) {
            tracing::error!(dir = %dir.display(), "cannot unmount");
        }
    }
}

fn say_ready(detached: bool) -> anyhow::Result<()> {
    if !detached {
        return Ok(());
    }
    let mut out = std::io::stdout();
    writeln!(out, "{READY}").and_then(|()| out.flush()).context("nobody waits for the mount")
}

fn no_mount(error: std::io::Error, dir: &Path) -> anyhow::Error {
    if !Path::new("/dev/fuse").exists() {
        return anyhow::anyhow!(
            "there is no /dev/fuse: load the kernel's module (modprobe fuse), or give the container the device"
        );
    }
    match error.kind() {
        std::io::ErrorKind::PermissionDenied => anyhow::anyhow!(
            "the kernel does not let this user mount on {}: be root, or install fuse3; for --allow-other, user_allow_other must be set in /etc/fuse.conf",
            dir.display()
        ),
        std::io::ErrorKind::NotFound => {
            anyhow::anyhow!("there is no fusermount3: install fuse3, or be root")
        }
        _ => anyhow::Error::new(error).context(format!("cannot mount on {}", dir.display())),
    }
}

/// The directory must be there; what a mount that was killed left on it goes.
fn prepare_directory(dir: &Path) -> anyhow::Result<()> {
    match std::fs::metadata(dir) {
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NOTCONN.raw_os_error()) => unmount(dir),
        Err(error) => return Err(error).with_context(|| format!("cannot mount on {}", dir.display())),
        Ok(_) => {}
    }
    let metadata = std::fs::metadata(dir).with_context(|| format!("cannot mount on {}", dir.display()))?;
    ensure!(metadata.is_dir(), "{} is not a directory", dir.display());
    Ok(())
}

/// Everything that a mount stands on, and the mount itself.
async fn start(mount: &Mount, state: &Path) -> anyhow::Result<Arc<Vfs>> {
    let bucket = mount.bucket.parse().map_err(|error| anyhow::anyhow!("{}: {error}", mount.bucket))?;
    let reach = client::Options::from_environment().await.map_err(explain)?;
    let client = Client::new(reach).map_err(explain)?;
    // Twice the window: while one half is on its way, the other is filled.
    let bytes_max = mount.loss_window.bytes.saturating_mul(2).max(4 * SEGMENT_BYTES);
    let limits = journal::Limits { bytes_max, segment_bytes: SEGMENT_BYTES };
    let (journal, replay) = Journal::open(state, limits)
        .with_context(|| format!("the state of this mount in {} cannot be used", state.display()))?;
    let id = MountId(journal.client());
    let cache = cache::Options {
        dir: mount.cache_dir.clone(),
        disk_bytes: mount.cache_bytes,
        memory_bytes: mount.memory_bytes,
        free_floor_bytes: FREE_FLOOR_BYTES,
    };
    let cache = BlockCache::open(cache).context("the cache cannot be used")?;
    let options = Options {
        bucket: mount.bucket.clone(),
        prefix: mount.prefix.clone(),
        profile: mount.profile.into(),
        sync: mount.sync.into(),
        loss_time: mount.loss_window.time,
        loss_bytes: mount.loss_window.bytes,
        defaults: mount.defaults(),
        read_only: mount.read_only,
    };
    let parts = Parts {
        remote: Arc::new(Repository::new(client, bucket)),
        cache,
        journal: Some(journal),
        journals: options.sync == Sync::Journal,
        client: id,
        owner: mount.owner(),
    };
    Vfs::start(options, parts, replay)
        .await
        .map_err(|error| explain(error).context(format!("cannot mount the bucket {}", mount.bucket)))
}

/// One line that says what to do.
fn explain(error: Error) -> anyhow::Error {
    match error {
        // Says already which gateway, and what to do.
        error @ Error::TooOld { .. } => anyhow::anyhow!("{error}"),
        error => anyhow::Error::new(error),
    }
}

/// Reads files of a mount, so that what is read again comes from its cache.
fn warm(mut open: Vec<PathBuf>) -> anyhow::Result<()> {
    let (mut files, mut bytes) = (0_u64, 0_u64);
    let mut buffer = vec![0; 1 << 20];
    while let Some(path) = open.pop() {
        let metadata = std::fs::symlink_metadata(&path).with_context(|| format!("cannot read {}", path.display()))?;
        if metadata.is_dir() {
            for entry in std::fs::read_dir(&path).with_context(|| format!("cannot list {}", path.display()))? {
                open.push(entry?.path());
            }
        } else if metadata.is_file() {
            let mut file = std::fs::File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
            loop {
                match std::io::Read::read(&mut file, &mut buffer)
                    .with_context(|| format!("cannot read {}", path.display()))?
                {
                    0 => break,
                    read => bytes += read as u64,
                }
            }
            files += 1;
        }
    }
    writeln!(std::io::stdout(), "read {files} files, {bytes} bytes")?;
    Ok(())
}

/// Has versions cut of files of a mount. Each path is a moment of its own.
fn snapshot(paths: &[PathBuf]) -> anyhow::Result<()> {
    for path in paths {
        // Other file systems would keep the attribute.
        let is_ours = rustix::fs::getxattr(path, UNSYNCED, &mut [0_u8; 0]).is_ok();
        anyhow::ensure!(is_ours, "{} is not on a mount of Holdfast", path.display());
        rustix::fs::setxattr(path, SNAPSHOT, b"1", rustix::fs::XattrFlags::empty())
            .with_context(|| format!("no snapshot of {}", path.display()))?;
    }
    Ok(())
}

fn log(mount: &Mount, detached: bool) -> anyhow::Result<()> {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_new(&mount.log).with_context(|| format!("--log {} is no filter", mount.log))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_target(false);
    match &mount.log_file {
        Some(path) => {
            let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
            let file = file.with_context(|| format!("cannot write the log {}", path.display()))?;
            builder.with_ansi(false).with_writer(std::sync::Mutex::new(file)).init();
        }
        None => builder.with_ansi(!detached).with_writer(std::io::stderr).init(),
    }
    Ok(())
}
