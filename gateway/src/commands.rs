//! The commands that do more than ask once: following events, running something under a lock, consuming messages.

mod running;
pub(super) mod sql;
pub(super) mod topic;

use std::io::Write as _;
use std::time::Duration;

use holdfast::cli::{LockWant, LockWords, TargetVerb};
use holdfast::client::{Client, DEADLINE, Error};
use http::{Method, StatusCode};
use percent_encoding::utf8_percent_encode;
use serde_json::Value;
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep, sleep_until};

use self::running::Running;
use super::{ExitCode, FAILED, IN_PATH, USAGE, ask, no_answer, print_value};

/// Pause before a lost connection is made again.
const RECONNECT: Duration = Duration::from_millis(500);
const NOT_RELEASED: &str = "the lock could not be released";

/// Follows events and prints them, until nobody reads what is printed.
///
/// # Errors
/// Why it could not go on.
pub(super) async fn watch(bucket: &str, prefix: &str, from: &str, json: bool) -> Result<(), Error> {
    let client = Client::from_environment().await?;
    let mut path = format!("/_holdfast/v1/watch?prefix={}", in_query(prefix));
    if !bucket.is_empty() {
        path.push_str(&format!("&bucket={}", in_query(bucket)));
    }
    let from = (!from.is_empty()).then(|| from.to_owned());
    let print = |id: &str, data: &str| {
        let line = if json { data.to_owned() } else { line(id, data) };
        writeln!(std::io::stdout(), "{line}").is_ok()
    };
    follow(&client, &path, from, "change", print).await
}

/// Follows a stream after `last` and goes on after a lost connection where it was, until `print` says that nobody reads what
/// it gets: the id and data of each message of a kind.
async fn follow(
    client: &Client,
    path: &str,
    mut last: Option<String>,
    wanted: &str,
    print: impl Fn(&str, &str) -> bool,
) -> Result<(), Error> {
    let (mut connected, mut is_read) = (false, true);
    loop {
        let mut ended = None;
        let after = last.clone();
        let followed = client.follow(path, after.as_deref(), |id, kind, data| {
            connected = true;
            match kind {
                kind if kind == wanted => is_read = print(id, data),
                "error" => ended = Some(data.to_owned()),
                _ => {}
            }
            if !id.is_empty() {
                last = Some(id.to_owned());
            }
            is_read
        });
        let followed = followed.await;
        if !is_read {
            return Ok(());
        }
        if let Some(data) = ended {
            let answer: Value = serde_json::from_str(&data).unwrap_or_default();
            let text = |name: &str| answer[name].as_str().unwrap_or_default().to_owned();
            let (code, message, request_id) = (text("code"), text("message"), String::new());
            return Err(Error::Refused {
                status: StatusCode::GONE,
                code,
                message,
                request_id,
                answer: Box::new(answer),
            });
        }
        match followed {
            // A node that is going, or one that was reached before and will be back.
            Ok(()) => {}
            Err(Error::Unreachable { .. }) if connected => {}
            Err(Error::Refused { status, .. }) if connected && status == StatusCode::SERVICE_UNAVAILABLE => {}
            Err(error) => return Err(error),
        }
        sleep(RECONNECT).await;
    }
}

/// An event for a person: its id, what happened, to what, how large.
fn line(id: &str, data: &str) -> String {
    let event: Value = serde_json::from_str(data).unwrap_or_default();
    let text = |name: &str| event[name].as_str().map(|text| text.escape_debug().to_string());
    let mut line = format!("{id}\t{}", text("event").unwrap_or_default());
    if let Some(bucket) = text("bucket") {
        line.push_str(&format!("\ts3://{bucket}/{}", text("key").unwrap_or_default()));
    } else if let Some(name) = text("lock").or_else(|| text("key")) {
        line.push_str(&format!("\t{name}"));
    }
    if let Some(source) = text("source") {
        line.push_str(&format!("\t({source})"));
    }
    if let Some(size) = event["size"].as_u64() {
        line.push_str(&format!("\t{size}"));
    }
    if let Some(token) = event["token"].as_u64() {
        line.push_str(&format!("\ttoken {token}"));
    }
    line
}

/// Why a command failed.
enum Failed {
    /// The gateway did not answer, or refused.
    Client(Error),
    /// Something on this side, in words.
    Here(String),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Client(error)
    }
}

fn code(done: Result<(), Failed>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failed::Client(error)) => no_answer(&error),
        Err(Failed::Here(why)) => {
            eprintln!("holdfast: {why}");
            ExitCode::from(FAILED)
        }
    }
}

fn in_query(text: &str) -> String {
    in_path(text).replace('/', "%2F")
}

fn in_path(text: &str) -> String {
    utf8_percent_encode(text, IN_PATH).to_string()
}

fn lock_path(name: &str) -> String {
    format!("/_holdfast/v1/locks/{}", in_path(name))
}

/// Does something with a target of events.
pub(super) async fn target(verb: TargetVerb, name: &str, json: bool) -> ExitCode {
    let path = format!("/_holdfast/v1/targets/{}", in_path(name));
    match verb {
        TargetVerb::List => ask(Method::GET, "/_holdfast/v1/targets".to_owned(), None, json).await,
        TargetVerb::Show => ask(Method::GET, path, None, json).await,
        TargetVerb::Set(settings) => ask(Method::PUT, path, Some(settings.into()), json).await,
        TargetVerb::Remove => ask(Method::DELETE, path, None, json).await,
        TargetVerb::Test => ask(Method::POST, format!("{path}/test"), None, json).await,
    }
}

/// Does something with a lock.
pub(super) async fn lock(words: LockWords) -> ExitCode {
    match words {
        LockWords::Acquire { want, json } => match acquire(&want).await {
            Ok((_, granted)) => {
                print_value(&granted, json);
                ExitCode::SUCCESS
            }
            Err(error) => refused(&error),
        },
        LockWords::Renew { name, lease, ttl, json } => {
            let ttl = if ttl.is_empty() { ttl } else { format!("&ttl={ttl}") };
            ask(Method::POST, format!("{}?lease={lease}{ttl}", lock_path(&name)), None, json).await
        }
        LockWords::Release { name, lease, json } => {
            ask(Method::DELETE, format!("{}?lease={lease}", lock_path(&name)), None, json).await
        }
        LockWords::List { name, json } if name.is_empty() => {
            ask(Method::GET, "/_holdfast/v1/locks".to_owned(), None, json).await
        }
        LockWords::List { name, json } => ask(Method::GET, lock_path(&name), None, json).await,
        LockWords::Run { want, command } => run(&want, &command).await,
    }
}

fn refused(error: &Error) -> ExitCode {
    if let Error::Refused { code, answer, .. } = error
        && code == "LockHeld"
    {
        let holder = &answer["holders"][0];
        eprintln!("holdfast: the lock is held by {} (lease {})", holder["owner"], holder["lease"]);
        return ExitCode::from(FAILED);
    }
    no_answer(error)
}

async fn acquire(want: &LockWant) -> Result<(Client, Value), Error> {
    let client = Client::from_environment().await?;
    let LockWant { name, ttl_ms, wait_ms, shared, owner } = want;
    let mode = if *shared { "shared" } else { "exclusive" };
    let path = format!("{}?ttl={ttl_ms}ms&wait={wait_ms}ms&mode={mode}&owner={}", lock_path(name), in_query(owner));
    let deadline = DEADLINE + Duration::from_millis(*wait_ms);
    let granted = client.json_within(deadline, Method::PUT, &path, None).await?;
    Ok((client, granted))
}

/// Runs a command while the lock is held; its exit code, or 1 when the lock was not had or was lost.
async fn run(want: &LockWant, command: &[String]) -> ExitCode {
    let (client, granted) = match acquire(want).await {
        Ok(acquired) => acquired,
        Err(error) => return refused(&error),
    };
    let (lease, token) = (granted["lease"].as_u64().unwrap_or_default(), granted["token"].as_u64().unwrap_or_default());
    let Some((program, words)) = command.split_first() else { return ExitCode::from(USAGE) };
    let path = format!("{}?lease={lease}", lock_path(&want.name));
    // How long the grant was on its way is not known; how long this renewal is asked for is.
    let mut valid_from = Instant::now();
    if let Err(error) = client.json(Method::POST, &path, None).await {
        release(&client, &path, NOT_RELEASED).await;
        return refused(&error);
    }
    let mut command = Command::new(program);
    command
        .args(words)
        .env("HOLDFAST_LOCK_NAME", &want.name)
        .env("HOLDFAST_LOCK_TOKEN", token.to_string())
        .env("HOLDFAST_LOCK_LEASE", lease.to_string());
    let mut child = match Running::start(&mut command) {
        Ok(child) => child,
        Err(error) => {
            eprintln!("holdfast: cannot run {program}: {error}");
            release(&client, &path, NOT_RELEASED).await;
            return ExitCode::from(FAILED);
        }
    };
    let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup(), SignalKind::quit()];
    let [Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup), Ok(mut quit)] = kinds.map(signal) else {
        eprintln!("holdfast: cannot handle signals");
        return ExitCode::from(FAILED);
    };
    let ttl = Duration::from_millis(want.ttl_ms);
    let mut renew_at = valid_from + ttl / 3;
    loop {
        tokio::select! {
            ended = child.wait() => {
                release(&client, &path, NOT_RELEASED).await;
                return match ended.ok().and_then(|status| status.code()) {
                    Some(code) => ExitCode::from(u8::try_from(code).unwrap_or(FAILED)),
                    None => ExitCode::from(FAILED),
                };
            }
            _ = interrupt.recv() => child.tell_once(rustix::process::Signal::INT),
            _ = terminate.recv() => child.tell(rustix::process::Signal::TERM),
            _ = hangup.recv() => child.tell(rustix::process::Signal::HUP),
            _ = quit.recv() => child.tell_once(rustix::process::Signal::QUIT),
            renewed = renew(&client, &path, renew_at, valid_from + ttl) => match renewed {
                Renewed::At(asked) => {
                    valid_from = asked;
                    renew_at = asked + ttl / 3;
                }
                Renewed::Late => renew_at = Instant::now() + ttl / 10,
                Renewed::Lost => {
                    eprintln!("holdfast: the lock {:?} was lost: the command is killed", want.name);
                    child.kill().await;
                    return ExitCode::from(FAILED);
                }
            },
        }
    }
}

enum Renewed {
    /// It lives on from the moment when it was asked for.
    At(Instant),
    /// No answer, and it may still live.
    Late,
    /// It has ended, or may have.
    Lost,
}

async fn renew(client: &Client, path: &str, at: Instant, ends: Instant) -> Renewed {
    sleep_until(at.min(ends)).await;
    let asked = Instant::now();
    if asked >= ends {
        return Renewed::Lost;
    }
    match tokio::time::timeout_at(ends, client.json(Method::POST, path, None)).await {
        Ok(Ok(_)) => Renewed::At(asked),
        Ok(Err(Error::Refused { code, .. })) if code == "NoSuchLease" => Renewed::Lost,
        Ok(Err(_)) => Renewed::Late,
        Err(_) => Renewed::Lost,
    }
}

/// Ends a lease; `otherwise` says what is the matter when that fails.
async fn release(client: &Client, path: &str, otherwise: &str) {
    match client.json(Method::DELETE, path, None).await {
        Ok(_) => {}
        Err(Error::Refused { code, .. }) if code == "NoSuchLease" => {}
        Err(error) => eprintln!("holdfast: {otherwise} and ends by itself: {error}"),
    }
}
