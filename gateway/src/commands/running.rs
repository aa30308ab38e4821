//! A command that runs while something is held, and all that it starts.
//!
//! It stays in the process group of whoever started us, so that a terminal belongs to both: the command reads from it, Ctrl-C
//! reaches it, and Ctrl-Z stops both. What it started is known by a variable of its environment, which whatever it starts has
//! as well, also when it left the group or lost its parent. Deliberately absent: commands that clear their environment.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

/// How long what was killed may take to end: what does not hangs in the kernel.
const GRACE: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// The variable that all of them have.
const MARK: &str = "HOLDFAST_RUN";

pub(super) struct Running {
    child: Child,
    mark: String,
}

impl Running {
    /// # Errors
    /// When it does not start.
    pub(super) fn start(command: &mut Command) -> std::io::Result<Self> {
        let mark = format!("{:032x}", rand::random::<u128>());
        let child = command.env(MARK, &mark).kill_on_drop(true).spawn()?;
        Ok(Self { child, mark: format!("{MARK}={mark}") })
    }

    /// Until the command ends.
    pub(super) async fn wait(&mut self) -> std::io::Result<std::process::ExitStatus> {
        self.child.wait().await
    }

    /// Tells it, and all that it started.
    pub(super) fn tell(&self, signal: Signal) {
        for pid in self.all() {
            // It may have ended just now.
            let _ = kill_process(pid, signal);
        }
    }

    /// As [`Running::tell`], for a signal that a terminal sends to all who belong to it.
    pub(super) fn tell_once(&self, signal: Signal) {
        if !is_in_the_foreground() {
            self.tell(signal);
        }
    }

    /// Ends all of them.
    pub(super) async fn kill(mut self) {
        let until = Instant::now() + GRACE;
        let _ = self.child.start_kill();
        // Who is killed may have started another a moment ago.
        while Instant::now() < until {
            let ended = self.child.try_wait().is_ok_and(|status| status.is_some());
            let left = self.all();
            if ended && left.is_empty() {
                return;
            }
            for pid in left {
                let _ = kill_process(pid, Signal::KILL);
            }
            sleep(LOOK_EVERY).await;
        }
    }

    fn all(&self) -> Vec<Pid> {
        let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
        let is_marked = |pid: &Pid| {
            // Of a process that has ended, or is another user's, nothing can be read.
            let environment = std::fs::read(format!("/proc/{}/environ", pid.as_raw_nonzero())).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable == self.mark.as_bytes())
        };
        let pids = processes.filter_map(|process| process.ok()?.file_name().to_str()?.parse().ok());
        pids.filter_map(Pid::from_raw).filter(is_marked).collect()
    }
}

/// Whether our process group is the one that the terminal sends its signals to. Source: proc_pid_stat(5), fields 5 and 8.
fn is_in_the_foreground() -> bool {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name, in parentheses, may hold anything.
    let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
    let fields: Vec<&str> = fields.split(' ').collect();
    matches!(fields[..], [_, _, group, _, _, foreground, ..] if group == foreground)
}
