//! Server processes: start, find out where they listen, wait until ready, kill, restart on the same data.
//!
//! Every process is in one register, so that a suite which ends early leaves none behind. A process's output goes to a
//! file of its own, which is what a failed case shows.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::client::raw;

/// How long a server may take until it answers as ready. A debug build on a busy machine, replaying a log, takes seconds.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// Pause between two looks at a condition.
const LOOK_EVERY: Duration = Duration::from_millis(10);

static REGISTER: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// Kills every server process that is still registered.
pub fn kill_all() {
    for pid in std::mem::take(&mut *register()) {
        signal(pid, Signal::KILL);
    }
}

/// Waits until `condition` holds.
///
/// # Errors
/// When it does not hold within `deadline`, or fails.
pub fn wait_until(what: &str, deadline: Duration, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let ends = Instant::now() + deadline;
    while !condition()? {
        ensure!(Instant::now() < ends, "{what}: not within {deadline:?}");
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

/// Variables of the caller that could change what a server, or a command of Holdfast, does.
pub const SETTINGS: [&str; 3] = ["AWS_", "MINIO_", "HOLDFAST_"];

/// Does not pass on variables of the caller that begin so.
pub fn forget(command: &mut Command, prefixes: &[&str]) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if prefixes.iter().any(|prefix| text.starts_with(prefix)) {
            command.env_remove(&name);
        }
    }
}

/// A program with its arguments and environment, and where its output goes.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Variables set on top of a cleaned environment.
    pub env: Vec<(String, String)>,
    /// The file that stdout and stderr are appended to.
    pub log: PathBuf,
}

/// A running process. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
    log_start: u64,
}

impl Process {
    /// Starts `launch`. Variables of the caller that could change what a server does (`AWS_*`, `MINIO_*`,
    /// `HOLDFAST_*`) are not passed on.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn start(launch: &Launch) -> Result<Self> {
        let log = File::options().create(true).append(true).open(&launch.log).context("cannot open the log")?;
        let log_start = log.metadata()?.len();
        let mut command = Command::new(&launch.program);
        command.args(&launch.args).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        forget(&mut command, &SETTINGS);
        command.envs(launch.env.iter().map(|(name, value)| (name, value)));
        let child = command.spawn().with_context(|| format!("cannot start {}", launch.program.display()))?;
        register().insert(child.id());
        Ok(Self { child, log: launch.log.clone(), log_start })
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What this process has printed so far.
    #[must_use]
    pub fn output(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        let from = usize::try_from(self.log_start).unwrap_or(0).min(bytes.len());
        String::from_utf8_lossy(&bytes[from..]).into_owned()
    }

    /// Asks the process to end (SIGTERM).
    pub fn terminate(&self) {
        signal(self.pid(), Signal::TERM);
    }

    /// Stops the process until [`Process::thaw`] (SIGSTOP).
    pub fn freeze(&self) {
        signal(self.pid(), Signal::STOP);
    }

    /// Lets a frozen process go on (SIGCONT).
    pub fn thaw(&self) {
        signal(self.pid(), Signal::CONT);
    }

    /// Ends the process at once (SIGKILL) and collects it.
    pub fn kill(&mut self) {
        signal(self.pid(), Signal::KILL);
        self.collect();
    }

    /// Whether the process still runs.
    ///
    /// # Errors
    /// When the operating system cannot tell.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Waits for the end of the process.
    ///
    /// # Errors
    /// When it is still running after `deadline`.
    pub fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let mut status = None;
        wait_until("end of the process", deadline, || {
            status = self.child.try_wait()?;
            Ok(status.is_some())
        })?;
        register().remove(&self.pid());
        status.context("the process ended without a status")
    }

    /// Resident memory now, in bytes.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn resident_bytes(&self) -> Result<u64> {
        self.status_bytes("VmRSS:")
    }

    /// The highest resident memory since the last call of [`Process::reset_peak`], in bytes.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn peak_bytes(&self) -> Result<u64> {
        self.status_bytes("VmHWM:")
    }

    /// Starts a new measurement of [`Process::peak_bytes`].
    ///
    /// # Errors
    /// When the process is gone.
    pub fn reset_peak(&self) -> Result<()> {
        // "5" resets the peak resident set size; see proc(5).
        std::fs::write(format!("/proc/{}/clear_refs", self.pid()), "5").context("cannot reset the memory peak")
    }

    fn status_bytes(&self, field: &str) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find(|line| line.starts_with(field)).context("field missing in /proc/PID/status")?;
        let kib: u64 = line.split_whitespace().nth(1).context("field without a value")?.parse()?;
        Ok(kib * 1024)
    }

    fn collect(&mut self) {
        let _ = self.child.wait();
        register().remove(&self.child.id());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// How to start Holdfast.
#[derive(Clone, Debug)]
pub struct HoldfastOptions {
    /// The program; `None` is the one under test.
    pub program: Option<PathBuf>,
    /// The node directory.
    pub data: PathBuf,
    /// `--backend`; `None` is the embedded default.
    pub backend: Option<String>,
    /// More arguments of `serve`.
    pub args: Vec<String>,
    /// More variables.
    pub env: Vec<(String, String)>,
    /// Where output goes; outlives restarts.
    pub log: PathBuf,
}

impl HoldfastOptions {
    /// The embedded store in `dir/data`, log in `dir/holdfast.log`.
    #[must_use]
    pub fn embedded(dir: &Path) -> Self {
        Self {
            program: None,
            data: dir.join("data"),
            backend: None,
            args: Vec::new(),
            env: Vec::new(),
            log: dir.join("holdfast.log"),
        }
    }
}

/// The root user that tests give to every server.
pub const ROOT_USER: &str = "holdfast-root";
/// The root password that tests give to every server.
pub const ROOT_PASSWORD: &str = "a-root-password-of-tests";

/// A Holdfast server process that can be crashed and started again on its data.
#[derive(Debug)]
pub struct Holdfast {
    options: HoldfastOptions,
    process: Process,
    address: String,
}

impl Holdfast {
    /// Starts a server on a free port and waits until it is ready.
    ///
    /// # Errors
    /// When it ends, prints no endpoint or is not ready in time; the error carries its output.
    pub fn start(options: HoldfastOptions) -> Result<Self> {
        let mut process = Process::start(&launch(&options)?)?;
        let address = printed_endpoint(&mut process)?;
        wait_ready(&mut process, &address)?;
        Ok(Self { options, process, address })
    }

    /// `127.0.0.1:PORT`; changes with each restart.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The process, to signal or measure it.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Kills the process at once, as power loss or the kernel would.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again on the same data; a process that still runs is killed first.
    ///
    /// # Errors
    /// As [`Holdfast::start`].
    pub fn restart(&mut self) -> Result<()> {
        self.process.kill();
        *self = Self::start(self.options.clone())?;
        Ok(())
    }

    /// The last `lines` lines of the output.
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        tail(&self.process.output(), lines)
    }
}

/// The last `lines` lines of `text`, each cut to a readable length.
#[must_use]
pub fn tail(text: &str, lines: usize) -> String {
    const LINE_CHARS_MAX: usize = 400;
    let all: Vec<String> = text.lines().map(|line| line.chars().take(LINE_CHARS_MAX).collect()).collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// The program under test: `HOLDFAST_BIN`, else the one that cargo built beside this test binary.
///
/// # Errors
/// When there is none.
pub fn holdfast_program() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("HOLDFAST_BIN") {
        return Ok(PathBuf::from(path));
    }
    let own = std::env::current_exe()?;
    let profile = own.parent().and_then(Path::parent).context("a test binary lives in target/PROFILE/deps")?;
    let program = profile.join("holdfast-under-test");
    ensure!(program.is_file(), "{} is not built", program.display());
    Ok(program)
}

fn launch(options: &HoldfastOptions) -> Result<Launch> {
    let mut args: Vec<OsString> = vec!["serve".into(), "--listen".into(), "127.0.0.1:0".into(), "--data".into()];
    args.push(options.data.clone().into_os_string());
    if let Some(backend) = &options.backend {
        args.extend(["--backend".into(), backend.into()]);
    }
    args.extend(options.args.iter().map(OsString::from));
    let mut env = vec![
        ("HOLDFAST_ROOT_USER".to_owned(), ROOT_USER.to_owned()),
        ("HOLDFAST_ROOT_PASSWORD".to_owned(), ROOT_PASSWORD.to_owned()),
    ];
    env.extend(options.env.iter().cloned());
    let program = options.program.clone().map_or_else(holdfast_program, Ok)?;
    Ok(Launch { program, args, env, log: options.log.clone() })
}

fn printed_endpoint(process: &mut Process) -> Result<String> {
    let mut address = None;
    wait_until("printed endpoint", READY_WITHIN, || {
        let running = process.is_running()?;
        address = find_endpoint(&process.output());
        if address.is_none() && !running {
            bail!("the server ended before it printed an endpoint:\n{}", tail(&process.output(), 15));
        }
        Ok(address.is_some())
    })
    .with_context(|| format!("output so far:\n{}", tail(&process.output(), 15)))?;
    address.context("no endpoint")
}

/// The address in the first line that says `endpoint http://127.0.0.1:PORT`. The line counts only when it is complete:
/// half a line could hold half a port.
fn find_endpoint(output: &str) -> Option<String> {
    let complete = &output[..output.rfind('\n')?];
    // The space matters: a backend's URL may hold `endpoint=http://...`, which is another server.
    let (_, rest) = complete.split_once("endpoint http://")?;
    let address: String = rest.chars().take_while(|c| c.is_ascii_digit() || matches!(c, '.' | ':')).collect();
    address.starts_with("127.0.0.1:").then_some(address)
}

fn wait_ready(process: &mut Process, address: &str) -> Result<()> {
    wait_until("readiness", READY_WITHIN, || {
        ensure!(process.is_running()?, "the server ended before it was ready:\n{}", tail(&process.output(), 15));
        Ok(raw::health(address, "/_holdfast/health/ready") == Some(200))
    })
    .with_context(|| format!("output so far:\n{}", tail(&process.output(), 15)))
}

fn signal(pid: u32, signal: Signal) {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return };
    // It may have ended by itself; then there is nothing to signal.
    let _ = kill_process(pid, signal);
}

/// Processes that [`kill_all`] ends.
pub(crate) fn register() -> std::sync::MutexGuard<'static, BTreeSet<u32>> {
    REGISTER.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::find_endpoint;

    #[test]
    fn the_endpoint_is_read_from_a_complete_line() {
        let check = |output: &str, expected: Option<&str>| assert_eq!(find_endpoint(output).as_deref(), expected);
        check("", None);
        check("endpoint http://127.0.0.1:98", None);
        check("starting\n  endpoint http://127.0.0.1:9877  keys\n", Some("127.0.0.1:9877"));
        check("{\"msg\":\"endpoint http://127.0.0.1:1\"}\n", Some("127.0.0.1:1"));
        check("console http://127.0.0.1:5\n", None);
        check("serves s3://b?endpoint=http://127.0.0.1:1&x\nendpoint http://127.0.0.1:2\n", Some("127.0.0.1:2"));
    }
}
