//! Whether the thread that waits for a lock has a signal to look at.
//!
//! The kernel asks for an interruption once, and the FUSE library answers that it knows none; from then on a thread in a
//! request waits until it is answered, whatever signals come. They are seen in `/proc`. Source: proc_pid_status(5).

use std::io::ErrorKind;

/// Longest file that is read.
const STATUS_BYTES_MAX: usize = 64 << 10;

/// A thread that waits for a lock.
#[derive(Debug)]
pub(super) struct Waiter {
    process: u32,
    thread: u32,
    /// It could be looked at: one that cannot be is not taken for gone.
    seen: bool,
}

impl Waiter {
    pub(super) fn new(process: u32, thread: u32) -> Self {
        Self { process, thread, seen: false }
    }

    /// Whether it should stop waiting: for a signal, or as it is gone.
    pub(super) async fn is_interrupted(&mut self) -> bool {
        // Of another name space of processes.
        if self.thread == 0 {
            return false;
        }
        let own = match signals(self.thread).await {
            Ok(own) => own,
            Err(error) => return error.kind() == ErrorKind::NotFound && self.seen,
        };
        self.seen = true;
        let other =
            if self.process == 0 || self.process == self.thread { None } else { signals(self.process).await.ok() };
        own.gone || own.wakes(other.as_ref())
    }
}

/// Signals of a thread, one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Signals {
    pending: u64,
    shared: u64,
    blocked: u64,
    ignored: u64,
    gone: bool,
}

impl Signals {
    fn of(status: &str) -> Self {
        let mut signals = Self::default();
        for (name, value) in status.lines().filter_map(|line| line.split_once(':')) {
            let value = value.trim();
            let bits = || u64::from_str_radix(value, 16).unwrap_or(0);
            match name {
                "SigPnd" => signals.pending = bits(),
                "ShdPnd" => signals.shared = bits(),
                "SigBlk" => signals.blocked = bits(),
                "SigIgn" => signals.ignored = bits(),
                "State" => signals.gone = value.starts_with(['Z', 'X']),
                _ => {}
            }
        }
        signals
    }

    /// Whether one of them wakes this thread. One that is sent to the process goes to its main thread, if that takes it.
    fn wakes(&self, main: Option<&Self>) -> bool {
        let shared = self.shared & main.map_or(u64::MAX, |main| main.blocked);
        (self.pending | shared) & !self.blocked & !self.ignored != 0
    }
}

async fn signals(thread: u32) -> std::io::Result<Signals> {
    let status = tokio::fs::read(format!("/proc/{thread}/status")).await?;
    let status = status.get(..STATUS_BYTES_MAX).unwrap_or(&status);
    Ok(Signals::of(&String::from_utf8_lossy(status)))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn status(pending: &str, shared: &str, blocked: &str, ignored: &str) -> Signals {
        Signals::of(&format!(
            "Name:\tSigPnd: x\nState:\tD (disk sleep)\nSigQ:\t0/63\nSigPnd:\t{pending}\nShdPnd:\t{shared}\nSigBlk:\t{blocked}\nSigIgn:\t{ignored}\n"
        ))
    }

    #[test]
    fn a_signal_wakes_unless_it_is_blocked_or_ignored_or_of_another_thread() {
        let none = "0000000000000000";
        assert!(!status(none, none, none, none).wakes(None));
        assert!(status("0000000000000100", none, none, none).wakes(None));
        assert!(status(none, "0000000000004000", none, none).wakes(None));
        assert!(!status(none, "0000000000004000", "0000000000004000", none).wakes(None));
        assert!(!status("0000000000004002", none, "0000000000000002", "0000000000004000").wakes(None));
        let shared = status(none, "0000000000000002", none, none);
        assert!(!shared.wakes(Some(&status(none, none, none, none))), "the main thread takes it");
        assert!(shared.wakes(Some(&status(none, none, "0000000000000002", none))));
        assert!(Signals::of("State:\tZ (zombie)\n").gone);
    }

    #[tokio::test]
    async fn a_thread_that_is_gone_waits_no_more_and_one_that_was_never_seen_does() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let mut waiter = Waiter::new(child.id(), child.id());
        assert!(!waiter.is_interrupted().await);
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(waiter.is_interrupted().await);
        assert!(!Waiter::new(child.id(), child.id()).is_interrupted().await);
        assert!(!Waiter::new(0, 0).is_interrupted().await);
    }
}
