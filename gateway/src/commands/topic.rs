//! `holdfast topic`: publishing, reading, and running a command for each message.

use std::io::{BufRead as _, Read as _, Seek as _, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use holdfast::cli::topic::{Consume, TopicWords};
use holdfast::client::{Client, DEADLINE, Error};
use http::{Method, StatusCode};
use serde_json::{Value, json as object};
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep};

use super::running::Running;
use super::{ExitCode, FAILED, Failed, RECONNECT, Renewed, USAGE, ask, code, in_query, no_answer, print_value, renew};

/// One more than a message may have: the gateway refuses it with its own words.
const INPUT_BYTES_MAX: u64 = (1 << 20) + 1;
/// Bytes of a batch's lines after which it is sent.
const BATCH_BYTES: usize = 512 << 10;
/// Messages of a batch.
const BATCH_MESSAGES: usize = 1000;
/// How long one claim waits for messages.
const CLAIM_WAIT: Duration = Duration::from_secs(30);
/// After a message that failed, so that one that always fails is no busy loop.
const FAILURE_PAUSE: Duration = Duration::from_secs(1);
/// How long a consumer goes on without an answer before it gives up.
const PATIENCE: Duration = Duration::from_secs(60);

fn path(topic: &str) -> String {
    format!("/_holdfast/v1/topics/{}", in_query(topic))
}

pub(crate) async fn run(words: TopicWords) -> ExitCode {
    match words {
        TopicWords::Publish { topic, key, file, lines, json } => {
            let published = if lines {
                publish_lines(&topic, key.as_deref(), file, json).await
            } else {
                publish(&topic, key.as_deref(), file, json).await
            };
            code(published)
        }
        TopicWords::Read { topic, from, follow: true, json } => code(follow(&topic, &from, json).await),
        TopicWords::Read { topic, from, follow: false, json } => code(read(&topic, &from, json).await),
        TopicWords::Consume(want) => consume(&want).await,
        TopicWords::List { json } => code(list(json).await),
        TopicWords::Show { topic, json } => ask(Method::GET, path(&topic), None, json).await,
        TopicWords::Set { topic, keep, keep_bytes, json } => {
            let mut settings = serde_json::Map::new();
            settings.extend(keep.map(|keep| ("keep".to_owned(), object!(keep))));
            settings.extend(keep_bytes.map(|bytes| ("keep_bytes".to_owned(), object!(bytes))));
            ask(Method::PUT, path(&topic), Some(settings.into()), json).await
        }
        TopicWords::Delete { topic, group, json } => {
            let group = group.map(|group| format!("/groups/{}", in_query(&group))).unwrap_or_default();
            ask(Method::DELETE, format!("{}{group}", path(&topic)), None, json).await
        }
    }
}

fn no_input(error: std::io::Error) -> Failed {
    Failed::Here(format!("cannot read what is to be published: {error}"))
}

fn input(file: Option<PathBuf>) -> Result<Box<dyn std::io::BufRead>, Failed> {
    Ok(match file {
        Some(file) => Box::new(std::io::BufReader::new(std::fs::File::open(file).map_err(no_input)?)),
        None => Box::new(std::io::stdin().lock()),
    })
}

async fn publish(topic: &str, key: Option<&str>, file: Option<PathBuf>, json: bool) -> Result<(), Failed> {
    let mut value = Vec::new();
    input(file)?.take(INPUT_BYTES_MAX).read_to_end(&mut value).map_err(no_input)?;
    let client = Client::from_environment().await?;
    let key = key.map(|key| format!("?key={}", in_query(key))).unwrap_or_default();
    let path = format!("{}{key}", path(topic));
    let headers = [("content-type", "application/octet-stream")];
    let answer = client.json_bytes(Method::POST, &path, &headers, value).await?;
    print_value(&answer, json);
    Ok(())
}

/// Each line is a message; many travel together.
async fn publish_lines(topic: &str, key: Option<&str>, file: Option<PathBuf>, json: bool) -> Result<(), Failed> {
    let client = Client::from_environment().await?;
    let path = format!("{}?batch=true", path(topic));
    let mut input = input(file)?;
    let (mut batch, mut count, mut done) = (Vec::new(), 0, false);
    while !done {
        let mut line = Vec::new();
        done = input.read_until(b'\n', &mut line).map_err(no_input)? == 0;
        if !done {
            let value = line.strip_suffix(b"\n").unwrap_or(&line);
            let mut message = match std::str::from_utf8(value) {
                Ok(text) => object!({ "value": text }),
                Err(_) => object!({ "value_base64": BASE64.encode(value) }),
            };
            if let Some(key) = key {
                message["key"] = object!(key);
            }
            batch.extend_from_slice(message.to_string().as_bytes());
            batch.push(b'\n');
            count += 1;
        }
        let full = batch.len() >= BATCH_BYTES || count >= BATCH_MESSAGES;
        if count > 0 && (done || full) {
            let headers = [("content-type", "application/x-ndjson")];
            let answer = client.json_bytes(Method::POST, &path, &headers, std::mem::take(&mut batch)).await?;
            print_value(&answer, json);
            count = 0;
        }
    }
    Ok(())
}

/// A message for a person is its value alone; whether anybody reads it.
fn print(message: &Value, json: bool) -> bool {
    let mut out = std::io::stdout().lock();
    if json {
        return writeln!(out, "{message}").is_ok();
    }
    let printed = out.write_all(&value_of(message)).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush());
    printed.is_ok()
}

fn value_of(message: &Value) -> Vec<u8> {
    match message["value"].as_str() {
        Some(text) => text.as_bytes().to_vec(),
        None => BASE64.decode(message["value_base64"].as_str().unwrap_or_default()).unwrap_or_default(),
    }
}

/// What there is now, to its end.
async fn read(topic: &str, from: &str, json: bool) -> Result<(), Failed> {
    let client = Client::from_environment().await?;
    let mut from = from.to_owned();
    loop {
        let path = format!("{}/messages?from={}&max=1000", path(topic), in_query(&from));
        let page = client.json(Method::GET, &path, None).await?;
        let messages = page["messages"].as_array().map(Vec::as_slice).unwrap_or_default();
        if messages.is_empty() || !messages.iter().all(|message| print(message, json)) {
            return Ok(());
        }
        from = page["next"].to_string();
    }
}

/// What there is and what comes, until nobody reads what is printed.
async fn follow(topic: &str, from: &str, json: bool) -> Result<(), Failed> {
    let client = Client::from_environment().await?;
    let path = format!("{}/messages?from={}", path(topic), in_query(from));
    let print = |_: &str, data: &str| print(&serde_json::from_str(data).unwrap_or_default(), json);
    Ok(super::follow(&client, &path, None, "message", print).await?)
}

async fn list(json: bool) -> Result<(), Failed> {
    let client = Client::from_environment().await?;
    let (mut topics, mut after) = (Vec::new(), String::new());
    loop {
        let page = client.json(Method::GET, &format!("/_holdfast/v1/topics?after={}", in_query(&after)), None).await?;
        let page = page["topics"].as_array().cloned().unwrap_or_default();
        let Some(last) = page.last() else { break };
        last["topic"].as_str().unwrap_or_default().clone_into(&mut after);
        topics.extend(page);
    }
    print_value(&object!({ "topics": topics }), json);
    Ok(())
}

/// What became of a message.
enum Handled {
    Acknowledge,
    Redeliver,
    /// The claim was lost: others may have its messages.
    Lost,
    /// This process was told to end.
    Stop,
}

/// Signals by which a consumer ends.
struct Signals([tokio::signal::unix::Signal; 4]);

impl Signals {
    fn new() -> std::io::Result<Self> {
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup(), SignalKind::quit()];
        let [one, two, three, four] = kinds.map(signal);
        Ok(Self([one?, two?, three?, four?]))
    }

    async fn any(&mut self) {
        let [one, two, three, four] = &mut self.0;
        tokio::select! {
            _ = one.recv() => {}
            _ = two.recv() => {}
            _ = three.recv() => {}
            _ = four.recv() => {}
        }
    }
}

/// A claim that is being worked on.
struct Claim<'a> {
    client: &'a Client,
    lease: u64,
    ttl: Duration,
    valid_from: Instant,
    renew_at: Instant,
}

impl Claim<'_> {
    fn path(&self) -> String {
        format!("/_holdfast/v1/leases/{}", self.lease)
    }
}

/// Claims and handles messages until it is told to end.
async fn consume(want: &Consume) -> ExitCode {
    let client = match Client::from_environment().await {
        Ok(client) => client,
        Err(error) => return no_answer(&error),
    };
    let Ok(mut signals) = Signals::new() else {
        eprintln!("holdfast: cannot handle signals");
        return ExitCode::from(FAILED);
    };
    let group = format!("{}/groups/{}", path(&want.topic), in_query(&want.group));
    let wait = if want.until_empty { Duration::ZERO } else { CLAIM_WAIT };
    let query =
        format!("max={}&owner={}&ttl={}ms&wait={}s", want.max, in_query(&want.owner), want.ttl_ms, wait.as_secs());
    let (claim, mut heard) = (format!("{group}/claim?{query}"), Instant::now());
    loop {
        let claimed = tokio::select! {
            claimed = client.json_within(DEADLINE + wait, Method::POST, &claim, None) => claimed,
            () = signals.any() => return ExitCode::SUCCESS,
        };
        let claimed = match claimed {
            Ok(claimed) => claimed,
            Err(error) if may_pass(&error) && heard.elapsed() < PATIENCE => {
                sleep(RECONNECT).await;
                continue;
            }
            Err(error) => return no_answer(&error),
        };
        heard = Instant::now();
        let Some(lease) = claimed["lease"].as_u64() else {
            if want.until_empty {
                return ExitCode::SUCCESS;
            }
            continue;
        };
        // A claim that was lost without being noticed does no harm: its acknowledgement is refused.
        let ttl = Duration::from_millis(want.ttl_ms);
        let mut claim = Claim { client: &client, lease, ttl, valid_from: heard, renew_at: heard + ttl / 3 };
        let messages = claimed["messages"].as_array().cloned().unwrap_or_default();
        if let Some(ended) = work(want, &group, &mut claim, &messages, &mut signals).await {
            return ended;
        }
    }
}

/// Whether the same request may work later.
fn may_pass(error: &Error) -> bool {
    match error {
        Error::Unreachable { .. } => true,
        Error::Refused { status, .. } => *status == StatusCode::SERVICE_UNAVAILABLE,
        Error::Endpoint(_) | Error::Credentials | Error::Form(_) => false,
    }
}

/// Handles the messages of a claim; the exit code when this process is to end.
async fn work(
    want: &Consume,
    group: &str,
    claim: &mut Claim<'_>,
    messages: &[Value],
    signals: &mut Signals,
) -> Option<ExitCode> {
    let mut failed = false;
    for message in messages {
        let handled = match handle(want, claim, message, signals).await {
            Ok(handled) => handled,
            Err(error) => {
                eprintln!("holdfast: cannot run {}: {error}", want.command.join(" "));
                release(claim).await;
                return Some(ExitCode::from(USAGE));
            }
        };
        match handled {
            Handled::Acknowledge => match acknowledge(group, claim, &message["offset"]).await {
                Ok(()) => {}
                Err(Error::Refused { code, .. }) if matches!(code.as_str(), "NoSuchLease" | "NoSuchGroup") => {
                    eprintln!("holdfast: the claim was lost: message {} is delivered again", message["offset"]);
                    return None;
                }
                Err(error) => return Some(no_answer(&error)),
            },
            Handled::Redeliver => failed = true,
            Handled::Lost => {
                eprintln!("holdfast: the claim was lost: the command was killed, and its message is delivered again");
                return None;
            }
            Handled::Stop => {
                release(claim).await;
                return Some(ExitCode::SUCCESS);
            }
        }
    }
    if failed || messages.is_empty() {
        release(claim).await;
    }
    if failed {
        tokio::select! {
            () = sleep(FAILURE_PAUSE) => {}
            () = signals.any() => return Some(ExitCode::SUCCESS),
        }
    }
    None
}

/// Runs the command for one message, and renews the claim meanwhile.
async fn handle(
    want: &Consume,
    claim: &mut Claim<'_>,
    message: &Value,
    signals: &mut Signals,
) -> std::io::Result<Handled> {
    let mut child = start(want, message)?;
    let path = claim.path();
    loop {
        tokio::select! {
            ended = child.wait() => {
                return Ok(if ended?.success() { Handled::Acknowledge } else { Handled::Redeliver });
            }
            () = signals.any() => {
                child.kill().await;
                return Ok(Handled::Stop);
            }
            renewed = renew(claim.client, &path, claim.renew_at, claim.valid_from + claim.ttl) => match renewed {
                Renewed::At(asked) => {
                    claim.valid_from = asked;
                    claim.renew_at = asked + claim.ttl / 3;
                }
                Renewed::Late => claim.renew_at = Instant::now() + claim.ttl / 10,
                Renewed::Lost => {
                    child.kill().await;
                    return Ok(Handled::Lost);
                }
            },
        }
    }
}

fn start(want: &Consume, message: &Value) -> std::io::Result<Running> {
    let (program, words) = want.command.split_first().ok_or(std::io::ErrorKind::InvalidInput)?;
    let text = |name: &str| message[name].as_str().unwrap_or_default().to_owned();
    // A file in memory and not a pipe: a command whose consumer is killed must not take a part for the whole.
    let mut input = std::fs::File::from(rustix::fs::memfd_create("message", rustix::fs::MemfdFlags::CLOEXEC)?);
    input.write_all(&value_of(message))?;
    input.rewind()?;
    let mut command = Command::new(program);
    command
        .args(words)
        .env("HOLDFAST_TOPIC", &want.topic)
        .env("HOLDFAST_OFFSET", message["offset"].to_string())
        .env("HOLDFAST_KEY", text("key"))
        .env("HOLDFAST_DELIVERIES", message["deliveries"].to_string())
        .stdin(input);
    Running::start(&mut command)
}

/// Asks again while there is no answer and the claim lives: an acknowledgement that comes twice counts once.
async fn acknowledge(group: &str, claim: &Claim<'_>, offset: &Value) -> Result<(), Error> {
    let path = format!("{group}/ack?lease={}", claim.lease);
    let ends = Instant::now() + claim.ttl;
    loop {
        match claim.client.json(Method::POST, &path, Some(&object!({ "offsets": [offset] }))).await {
            Ok(_) => return Ok(()),
            Err(error) if may_pass(&error) && Instant::now() < ends => sleep(RECONNECT).await,
            Err(error) => return Err(error),
        }
    }
}

async fn release(claim: &Claim<'_>) {
    super::release(claim.client, &claim.path(), "the claim could not be given back").await;
}
