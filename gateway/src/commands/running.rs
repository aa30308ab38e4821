//! A command that runs while something is held, and all that it starts.
//!
//! It stays in the process group of whoever started us, so that a terminal belongs to both: the command reads from it, Ctrl-C
//! reaches it, and Ctrl-Z stops both. What it started is known by its parent, and by a variable of the environment, which
//! whatever it starts has as well, also when its parent has ended.

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

    /// Those that are marked or were started by one of them, the command first.
    fn all(&self) -> Vec<Pid> {
        let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
        let pids = processes.filter_map(|process| process.ok()?.file_name().to_str()?.parse::<i32>().ok());
        let parents: Vec<(i32, i32)> = pids.filter_map(|pid| Some((pid, stat(pid, 4)?.parse().ok()?))).collect();
        let command = self.child.id().and_then(|pid| i32::try_from(pid).ok());
        let marked = parents.iter().map(|(pid, _)| *pid).filter(|pid| Some(*pid) != command && self.is_marked(*pid));
        let mut found: Vec<i32> = command.into_iter().chain(marked).collect();
        let mut next = 0;
        while let Some(parent) = found.get(next).copied() {
            next += 1;
            for (pid, of) in &parents {
                if *of == parent && !found.contains(pid) {
                    found.push(*pid);
                }
            }
        }
        found.into_iter().filter_map(Pid::from_raw).collect()
    }

    fn is_marked(&self, pid: i32) -> bool {
        // Of a process that has ended, or is another user's, nothing can be read.
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == self.mark.as_bytes())
    }
}

/// A field of what the kernel says of a process, from the third on. Source: proc_pid_stat(5).
fn stat(process: impl std::fmt::Display, number: usize) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name, in parentheses, may hold anything.
    Some(stat.rsplit_once(") ")?.1.split(' ').nth(number - 3)?.to_owned())
}

/// Whether our process group is the one that the terminal sends its signals to.
fn is_in_the_foreground() -> bool {
    let group = stat("self", 5);
    group.is_some() && group == stat("self", 8)
}
