//! Runs an outside program to its end, under a deadline, and shows what it printed when it fails.

use std::ffi::OsStr;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::process::{forget, tail, wait_until};

/// How long a client may run. The longest honest run moves a few thousand files on a busy machine.
const CLIENT_DEADLINE: Duration = Duration::from_secs(240);
const SHOWN_LINES: usize = 30;

/// What a program printed and how it ended.
#[derive(Debug)]
pub struct Output {
    /// The exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Standard output as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// An environment without the user's configuration: nothing of `AWS_*`, `RCLONE_*`, `MC_*`, and `home` as home.
#[must_use]
pub fn clean(program: &Path, home: &Path) -> Command {
    let mut command = Command::new(program);
    forget(&mut command, &["AWS_", "RCLONE_", "MC_", "HTTP_PROXY", "http_proxy"]);
    command.env("HOME", home).env("LC_ALL", "C.UTF-8").env("NO_PROXY", "*").env("no_proxy", "*");
    command
}

/// Runs `command` with `input` on standard input.
///
/// # Errors
/// When it cannot start or runs past the deadline. A failing exit is not an error here.
pub fn finish(mut command: Command, input: &[u8]) -> Result<Output> {
    let name = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
    let stdin = child.stdin.take().context("no stdin")?;
    let mut stdout = child.stdout.take().context("no stdout")?;
    let mut stderr = child.stderr.take().context("no stderr")?;
    // Three pipes, three threads: a program that fills one must not wait for us to empty another.
    std::thread::scope(|scope| {
        let feed = scope.spawn(move || {
            let mut stdin = stdin;
            // A program that ends without reading its input breaks the pipe, which is its business.
            let _ = std::io::Write::write_all(&mut stdin, input);
        });
        let out = scope.spawn(move || {
            let mut bytes = Vec::new();
            stdout.read_to_end(&mut bytes).map(|_| bytes)
        });
        let err = scope.spawn(move || {
            let mut bytes = Vec::new();
            stderr.read_to_end(&mut bytes).map(|_| bytes)
        });
        let mut status = None;
        let waited = wait_until(&name, CLIENT_DEADLINE, || {
            status = child.try_wait()?;
            Ok(status.is_some())
        });
        if waited.is_err() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let stdout = out.join().ok().context("reader of stdout panicked")??;
        let stderr = err.join().ok().context("reader of stderr panicked")??;
        let _ = feed.join();
        let stderr = String::from_utf8_lossy(&stderr).into_owned();
        waited.with_context(|| tail(&stderr, SHOWN_LINES))?;
        Ok(Output { code: status.and_then(|status| status.code()), stdout, stderr })
    })
}

/// Runs `command`; its standard output.
///
/// # Errors
/// When it fails, with what it printed.
pub fn succeed(command: Command) -> Result<String> {
    let shown = show(&command);
    let output = finish(command, b"")?;
    ensure!(
        output.code == Some(0),
        "{shown}\nended with {:?}\n{}\n{}",
        output.code,
        tail(&output.text(), SHOWN_LINES),
        tail(&output.stderr, SHOWN_LINES)
    );
    Ok(output.text())
}

/// Runs `command`, which must fail and say `word`.
///
/// # Errors
/// When it succeeds, or fails without the word.
pub fn fail_with(command: Command, word: &str) -> Result<()> {
    let shown = show(&command);
    let output = finish(command, b"")?;
    if output.code == Some(0) {
        bail!("{shown}\nsucceeded instead of failing with {word}");
    }
    let said = format!("{}\n{}", output.text(), output.stderr);
    ensure!(said.contains(word), "{shown}\nfailed without saying {word}:\n{}", tail(&said, SHOWN_LINES));
    Ok(())
}

fn show(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}
