//! Options of the command line, and those of `/etc/fstab`.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use clap::{Parser, ValueEnum};

use crate::attributes::Defaults;
use crate::vfs;

/// Set in the environment of a mount that was started in the background.
pub(super) const DETACHED: &str = "HOLDFAST_MOUNT_DETACHED";
/// The name under which `mount -t holdfast` calls this program.
const HELPER: &str = "mount.holdfast";

/// Mounts a bucket of a Holdfast gateway, or a part of it, as a file system.
///
/// The gateway is HOLDFAST_ENDPOINT (http://127.0.0.1:9900), the keys are those of the AWS credential chain.
/// `holdfast-mount warmup PATH...` reads files of a mount, so that its cache has them; `holdfast-mount snapshot PATH...` makes
/// S3 versions of what is written to them by now.
#[derive(Debug, Parser)]
#[command(name = "holdfast-mount", version, max_term_width = 110)]
pub struct Cli {
    /// BUCKET or BUCKET/PREFIX; or `warmup` or `snapshot`
    bucket: String,
    /// Where to mount; files and directories, of `warmup` and `snapshot`
    #[arg(required = true)]
    dir: Vec<PathBuf>,
    /// Who else writes: anybody, nobody under the prefix, nobody in files that are open here
    #[arg(long, value_enum, default_value = "shared", env = "HOLDFAST_MOUNT_PROFILE")]
    profile: Profile,
    /// When fsync returns: bytes are in the store, on the local disk, or nowhere yet
    #[arg(long, value_enum, default_value = "store", env = "HOLDFAST_MOUNT_SYNC")]
    sync: Sync,
    /// How long, and how much, written data may be only here: TIME,BYTES
    #[arg(long, default_value = "5s,256MiB", value_parser = loss_window)]
    loss_window: LossWindow,
    /// Directory of a cache that survives restarts
    #[arg(long)]
    cache_dir: Option<PathBuf>,
    /// Most bytes in the cache directory
    #[arg(long, default_value = "10GiB", value_parser = byte_size)]
    cache_bytes: u64,
    /// Most bytes of the cache in memory
    #[arg(long, default_value = "256MiB", value_parser = byte_size)]
    memory_bytes: u64,
    /// Directory of the identity and the journal of this mount
    #[arg(long, env = "HOLDFAST_MOUNT_STATE_DIR")]
    state_dir: Option<PathBuf>,
    /// Stays in the foreground
    #[arg(long)]
    foreground: bool,
    /// Other users may use the mount, as permissions say
    #[arg(long)]
    allow_other: bool,
    /// Refuses every change
    #[arg(long)]
    read_only: bool,
    /// flock(2) is cluster-wide, too; it and fcntl locks are one kind then
    #[arg(long)]
    flock: bool,
    /// Owner of what has none
    #[arg(long)]
    uid: Option<u32>,
    /// Group of what has none
    #[arg(long)]
    gid: Option<u32>,
    /// Numbers for Prometheus on this address
    #[arg(long)]
    metrics_listen: Option<SocketAddr>,
    /// What to log
    #[arg(long, default_value = "info", env = "HOLDFAST_LOG")]
    log: String,
    /// Where to log, instead of standard error
    #[arg(long)]
    log_file: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Profile {
    Shared,
    Exclusive,
    Vm,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Sync {
    Store,
    Journal,
    Async,
}

impl From<Profile> for vfs::Profile {
    fn from(profile: Profile) -> Self {
        match profile {
            Profile::Shared => Self::Shared,
            Profile::Exclusive => Self::Exclusive,
            Profile::Vm => Self::Vm,
        }
    }
}

impl From<Sync> for vfs::Sync {
    fn from(sync: Sync) -> Self {
        match sync {
            Sync::Store => Self::Store,
            Sync::Journal => Self::Journal,
            Sync::Async => Self::Async,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LossWindow {
    pub(super) time: Duration,
    pub(super) bytes: u64,
}

/// What was asked for.
#[derive(Debug)]
pub(super) enum Command {
    Mount(Box<Mount>),
    /// Of these files, and of those below these directories.
    Warmup(Vec<PathBuf>),
    /// As [`Command::Warmup`].
    Snapshot(Vec<PathBuf>),
}

/// A mount, checked.
#[derive(Debug)]
pub(super) struct Mount {
    pub(super) bucket: String,
    pub(super) prefix: String,
    pub(super) dir: PathBuf,
    pub(super) profile: Profile,
    pub(super) sync: Sync,
    pub(super) loss_window: LossWindow,
    pub(super) cache_dir: Option<PathBuf>,
    pub(super) cache_bytes: u64,
    pub(super) memory_bytes: u64,
    state: Option<PathBuf>,
    pub(super) foreground: bool,
    pub(super) allow_other: bool,
    pub(super) read_only: bool,
    pub(super) flock: bool,
    uid: Option<u32>,
    gid: Option<u32>,
    pub(super) metrics_listen: Option<SocketAddr>,
    pub(super) log: String,
    pub(super) log_file: Option<PathBuf>,
}

impl Command {
    pub(super) fn of(cli: Cli) -> anyhow::Result<Self> {
        match cli.bucket.as_str() {
            "warmup" => return Ok(Self::Warmup(cli.dir)),
            "snapshot" => return Ok(Self::Snapshot(cli.dir)),
            _ => {}
        }
        let [dir] = &cli.dir[..] else { bail!("one directory to mount on is needed, not {}", cli.dir.len()) };
        // A mount that was killed leaves a directory that cannot be looked at; its path is right as it is given.
        let dir = std::path::absolute(dir).with_context(|| format!("{} is no path", dir.display()))?;
        for (what, path) in [("--cache-dir", &cli.cache_dir), ("--state-dir", &cli.state_dir)] {
            if let Some(path) = path {
                let path = std::path::absolute(path).with_context(|| format!("{what} is no path"))?;
                ensure!(!path.starts_with(&dir), "{what} may not be inside the mount: it would wait for itself");
            }
        }
        let (bucket, prefix) = cli.bucket.split_once('/').unwrap_or((&cli.bucket, ""));
        ensure!(!bucket.is_empty(), "the bucket's name is empty");
        let prefix = if prefix.is_empty() || prefix.ends_with('/') { prefix.to_owned() } else { format!("{prefix}/") };
        Ok(Self::Mount(Box::new(Mount {
            bucket: bucket.to_owned(),
            prefix,
            dir,
            profile: cli.profile,
            sync: cli.sync,
            loss_window: cli.loss_window,
            cache_dir: cli.cache_dir,
            cache_bytes: cli.cache_bytes,
            memory_bytes: cli.memory_bytes,
            state: cli.state_dir,
            foreground: cli.foreground,
            allow_other: cli.allow_other,
            read_only: cli.read_only,
            flock: cli.flock,
            uid: cli.uid,
            gid: cli.gid,
            metrics_listen: cli.metrics_listen,
            log: cli.log,
            log_file: cli.log_file,
        })))
    }
}

impl Mount {
    /// Where this mount keeps its identity and journal: one directory for each bucket, prefix and mount point.
    pub(super) fn state_dir(&self) -> anyhow::Result<PathBuf> {
        if let Some(dir) = &self.state {
            return Ok(dir.clone());
        }
        let base = if rustix::process::getuid().is_root() {
            PathBuf::from("/var/lib/holdfast-mount")
        } else {
            let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".local/state"));
            let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).or_else(home);
            state.context("neither HOME nor XDG_STATE_HOME is set: give --state-dir")?.join("holdfast-mount")
        };
        let name = format!("{}/{} {}", self.bucket, self.prefix, self.dir.display());
        let name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect();
        let hash = crc32c::crc32c(format!("{}\0{}\0{}", self.bucket, self.prefix, self.dir.display()).as_bytes());
        /// Of the directory's name, beside the hash that tells it from others.
        const NAME_CHARS: usize = 100;
        Ok(base.join(format!("{}-{hash:08x}", name.chars().take(NAME_CHARS).collect::<String>())))
    }

    /// Attributes of what has none.
    pub(super) fn defaults(&self) -> Defaults {
        let uid = self.uid.unwrap_or_else(|| rustix::process::getuid().as_raw());
        let gid = self.gid.unwrap_or_else(|| rustix::process::getgid().as_raw());
        Defaults::of(uid, gid)
    }

    /// Who mounts, for operators.
    pub(super) fn owner(&self) -> String {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        format!("mount {host}:{} pid {}", self.dir.display(), std::process::id())
    }
}

/// The arguments of the program. As `mount.holdfast SOURCE DIR -o OPTIONS`, which mount(8) calls, the options of the mount
/// become those of the command line.
pub(super) fn arguments(given: impl Iterator<Item = OsString>) -> anyhow::Result<Vec<OsString>> {
    let given: Vec<OsString> = given.collect();
    let called = given.first().map(PathBuf::from).unwrap_or_default();
    if called.file_name().is_none_or(|name| name != HELPER) {
        return Ok(given);
    }
    let mut arguments = vec![OsString::from("holdfast-mount")];
    let mut rest = given.into_iter().skip(1);
    while let Some(argument) = rest.next() {
        match argument.to_str() {
            Some("-o") => {
                let options = rest.next().context("-o needs options")?;
                for option in
                    options.to_str().context("options are text")?.split(',').filter(|option| !option.is_empty())
                {
                    arguments.extend(of_fstab(option)?.map(OsString::from));
                }
            }
            // Verbose, sloppy, no mtab, fake: nothing that changes what is mounted.
            Some("-v" | "-s" | "-n") => {}
            Some("-f") => bail!("a mount is not faked"),
            _ => arguments.push(argument),
        }
    }
    Ok(arguments)
}

/// An option of `/etc/fstab` as one of the command line.
fn of_fstab(option: &str) -> anyhow::Result<Option<String>> {
    let (name, value) = option.split_once('=').map_or((option, None), |(name, value)| (name, Some(value)));
    Ok(match (name, value) {
        (
            "rw" | "defaults" | "auto" | "noauto" | "user" | "nouser" | "users" | "_netdev" | "nofail" | "noatime",
            None,
        )
        | ("nodev" | "nosuid" | "exec" | "relatime", None) => None,
        (name, _) if name.starts_with("x-") || name == "comment" => None,
        ("ro", None) => Some("--read-only".to_owned()),
        ("allow_other" | "flock" | "foreground", None) => Some(format!("--{}", name.replace('_', "-"))),
        // A comma ends an option there: the two halves of the window are two options.
        ("loss_window", Some(value)) => Some(format!("--loss-window={}", value.replace('+', ","))),
        (
            "profile" | "sync" | "cache_dir" | "cache_bytes" | "memory_bytes" | "state_dir" | "uid" | "gid" | "log"
            | "log_file" | "metrics_listen",
            Some(value),
        ) => Some(format!("--{}={value}", name.replace('_', "-"))),
        _ => bail!("the mount option {option} is not known"),
    })
}

fn loss_window(text: &str) -> Result<LossWindow, String> {
    let wrong = || "a loss window is TIME,BYTES such as 5s,256MiB".to_owned();
    let (time, bytes) = text.split_once(',').ok_or_else(wrong)?;
    let time = duration(time).ok_or_else(wrong)?;
    let bytes = byte_size(bytes)?;
    if time < Duration::from_millis(100) || bytes < 8 << 20 {
        return Err("a loss window is at least 100ms,8MiB".to_owned());
    }
    Ok(LossWindow { time, bytes })
}

fn duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let ms = match &text[digits..] {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60_000,
        _ => return None,
    };
    number.checked_mul(ms).map(Duration::from_millis)
}

fn byte_size(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text} is no number of bytes such as 512MiB or 10GiB");
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().map_err(|_| wrong())?;
    let unit = match text[digits..].to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err(wrong()),
    };
    number.checked_mul(unit).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn helper(line: &str) -> anyhow::Result<Vec<String>> {
        let given = line.split(' ').map(OsString::from).collect::<Vec<_>>().into_iter();
        Ok(arguments(given)?.into_iter().map(|argument| argument.into_string().unwrap()).collect())
    }

    #[test]
    fn options_of_fstab_become_those_of_the_command_line() {
        let line =
            "/sbin/mount.holdfast data/vm /mnt -o rw,_netdev,profile=vm,sync=journal,loss_window=2s+64MiB,allow_other";
        let wanted = "holdfast-mount data/vm /mnt --profile=vm --sync=journal --loss-window=2s,64MiB --allow-other";
        assert_eq!(helper(line).unwrap().join(" "), wanted);
        assert!(helper("/sbin/mount.holdfast a /mnt -o suid_everything").is_err());
        assert_eq!(helper("holdfast-mount a /mnt").unwrap().join(" "), "holdfast-mount a /mnt");
    }

    #[test]
    fn a_mount_is_checked() {
        let of = |line: &str| Command::of(Cli::parse_from(line.split(' ')));
        let Command::Mount(mount) = of("holdfast-mount data/vm/a /mnt --profile vm").unwrap() else { panic!() };
        assert_eq!((mount.bucket.as_str(), mount.prefix.as_str()), ("data", "vm/a/"));
        assert_eq!(mount.loss_window, LossWindow { time: Duration::from_secs(5), bytes: 256 << 20 });
        assert!(of("holdfast-mount data /mnt --cache-dir /mnt/cache").is_err());
        assert!(
            matches!(of("holdfast-mount warmup /mnt/a /mnt/b").unwrap(), Command::Warmup(paths) if paths.len() == 2)
        );
        assert!(matches!(of("holdfast-mount snapshot /mnt/a").unwrap(), Command::Snapshot(paths) if paths.len() == 1));
        assert!(loss_window("5s").is_err());
        assert!(loss_window("1ms,1GiB").is_err());
    }
}
