//! The command line: words in, an [`Action`] out. What the actions do is `main`'s business.
//!
//! `serve`'s flags come from the table of settings.

pub mod sql;
pub mod topic;

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::IsTerminal as _;

use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::archive::Verify;
use crate::clock::seconds_or_duration;
use crate::cluster::peer::trust::ClusterSecret;
use crate::config::{self, Config, SETTINGS, Sources};
use crate::node::RecoverWords;

/// What the user wants.
#[derive(Debug)]
pub enum Action {
    /// Run the gateway.
    Serve(Box<Config>),
    /// Check a backend and a data directory.
    Doctor {
        /// As `serve` would read it.
        config: Box<Config>,
        /// Machine-readable findings.
        json: bool,
    },
    /// Build a cluster from the backend alone.
    Recover {
        /// Backend and new data directory.
        config: Box<Config>,
        /// How.
        words: RecoverWords,
        /// Machine-readable report.
        json: bool,
    },
    /// Ask a gateway about itself.
    Status {
        /// As it came.
        json: bool,
    },
    /// One object's metadata.
    Stat {
        /// Bucket.
        bucket: String,
        /// Key.
        key: String,
        /// As it came.
        json: bool,
    },
    /// Show a bucket's settings.
    BucketShow {
        /// Bucket.
        bucket: String,
        /// As it came.
        json: bool,
    },
    /// Change a bucket's settings.
    BucketSet {
        /// Bucket.
        bucket: String,
        /// The settings named.
        settings: serde_json::Map<String, serde_json::Value>,
        /// As it came.
        json: bool,
    },
    /// Show every setting and where it comes from.
    ConfigShow(Box<Config>),
    /// The members of the cluster.
    ClusterList {
        /// As it came.
        json: bool,
    },
    /// A member becomes a voter, or none.
    ClusterChange {
        /// Which.
        node: u64,
        /// Whether it goes.
        remove: bool,
        /// As it came.
        json: bool,
    },
    /// Follow events.
    Watch {
        /// Bucket; all when it is empty.
        bucket: String,
        /// Keys that begin so.
        prefix: String,
        /// After this position; from now on when it is empty.
        from: String,
        /// As they came.
        json: bool,
    },
    /// Something with a lock.
    Lock(LockWords),
    /// Something with a target of events.
    Target {
        /// What to do.
        verb: TargetVerb,
        /// The target; empty for a list.
        name: String,
        /// As it came.
        json: bool,
    },
    /// Something with a topic.
    Topic(topic::TopicWords),
    /// A statement in SQL.
    Sql(sql::SqlWords),
    /// Something with indexes.
    Index(sql::IndexWords),
    /// Print this, and be done.
    Print(String),
}

/// What to do with a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockWords {
    /// Take it, and leave it to the caller.
    Acquire {
        /// How.
        want: LockWant,
        /// As it came.
        json: bool,
    },
    /// Make a lease live on.
    Renew {
        /// The lock.
        name: String,
        /// The lease.
        lease: u64,
        /// Its life from now on; as before when it is empty.
        ttl: String,
        /// As it came.
        json: bool,
    },
    /// Give it back.
    Release {
        /// The lock.
        name: String,
        /// The lease.
        lease: u64,
        /// As it came.
        json: bool,
    },
    /// Who holds and who waits.
    List {
        /// One lock, or all when it is empty.
        name: String,
        /// As it came.
        json: bool,
    },
    /// Run a command while it is held.
    Run {
        /// How.
        want: LockWant,
        /// The command and its words.
        command: Vec<String>,
    },
}

/// What to do with a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetVerb {
    /// All of them.
    List,
    /// One.
    Show,
    /// Make it or change these settings; null removes one.
    Set(serde_json::Map<String, serde_json::Value>),
    /// Remove it.
    Remove,
    /// Send a test event.
    Test,
}

/// A lock, and how to take it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockWant {
    /// The lock.
    pub name: String,
    /// Life of the lease, milliseconds.
    pub ttl_ms: u64,
    /// How long to wait, milliseconds.
    pub wait_ms: u64,
    /// Together with others that share it.
    pub shared: bool,
    /// Who, for others to see.
    pub owner: String,
}

/// Why there is nothing to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// clap's own message, or its help.
    #[error(transparent)]
    Usage(#[from] clap::Error),
    /// A setting is wrong.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// A word has the wrong form.
    #[error("{0}")]
    Word(String),
}

/// The whole command line, for completions and help.
#[must_use]
pub fn command() -> Command {
    let json = || Arg::new("json").long("json").action(ArgAction::SetTrue).help("print JSON");
    let bucket = || Arg::new("bucket").value_name("NAME").required(true);
    Command::new("holdfast")
        .about("A versioned, strictly consistent S3 over a local directory or any S3 store")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(with_settings(Command::new("serve").about("The gateway")))
        .subcommand(
            with_settings(Command::new("doctor").about("Checks a backend and a data directory; exit 0 only if fit"))
                .arg(json()),
        )
        .subcommand(recover_command().arg(json()))
        .subcommand(
            Command::new("status").about("Cluster, leader, log, backend, cache of a running gateway").arg(json()),
        )
        .subcommand(
            Command::new("stat")
                .about("One object's metadata")
                .arg(Arg::new("object").value_name("s3://BUCKET/KEY").required(true))
                .arg(json()),
        )
        .subcommand(
            Command::new("bucket")
                .about("Settings of a bucket")
                .subcommand_required(true)
                .subcommand(Command::new("show").arg(bucket()).arg(json()))
                .subcommand(
                    Command::new("set")
                        .arg(bucket())
                        .arg(Arg::new("settings").value_name("NAME=VALUE").num_args(1..).required(true))
                        .arg(json()),
                ),
        )
        .subcommand(
            Command::new("config")
                .about("Settings of `serve` and where they come from")
                .subcommand_required(true)
                .subcommand(with_settings(Command::new("show"))),
        )
        .subcommand(cluster_command())
        .subcommand(
            Command::new("watch")
                .about("Follows what changes, and goes on after a lost connection where it was")
                .arg(Arg::new("what").value_name("s3://BUCKET/PREFIX").help("all buckets when it is left out"))
                .arg(
                    Arg::new("from")
                        .long("from")
                        .value_name("POSITION")
                        .help("a revision, or the id of the last event that was seen; from now on when it is left out"),
                )
                .arg(json()),
        )
        .subcommand(lock_command())
        .subcommand(target_command())
        .subcommand(topic::command())
        .subcommand(sql::sql_command())
        .subcommand(sql::index_command())
        .subcommand(Command::new("version").about("The version"))
}

fn cluster_command() -> Command {
    let command = Command::new("cluster").about("Nodes that act as one").subcommand_required(true);
    let json = || Arg::new("json").long("json").action(ArgAction::SetTrue).help("print JSON");
    let node = || Arg::new("node").value_name("NODE-ID").required(true).value_parser(clap::value_parser!(u64));
    command
        .subcommand(Command::new("secret").about("Prints a new secret for HOLDFAST_CLUSTER_SECRET"))
        .subcommand(Command::new("list").about("Members, as the leader sees them").arg(json()))
        .subcommand(Command::new("remove").about("Removes a member for good").arg(node()).arg(json()))
        .subcommand(Command::new("promote").about("Makes a voter of a learner").arg(node()).arg(json()))
}

fn lock_command() -> Command {
    let json = || Arg::new("json").long("json").action(ArgAction::SetTrue).help("print JSON");
    let name = || Arg::new("name").value_name("NAME").required(true);
    let lease =
        || Arg::new("lease").long("lease").value_name("ID").required(true).value_parser(clap::value_parser!(u64));
    let duration = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name("DURATION").value_parser(duration_ms).help(help)
    };
    let want = |command: Command, wait: &'static str| {
        command
            .arg(name())
            .arg(duration("ttl", "life of the lease without a renewal").default_value("30s"))
            .arg(duration("wait", "how long to wait for it").default_value(wait))
            .arg(
                Arg::new("shared").long("shared").action(ArgAction::SetTrue).help("together with others that share it"),
            )
            .arg(
                Arg::new("owner")
                    .long("owner")
                    .value_name("TEXT")
                    .help("who, for others to see [default: host and process]"),
            )
    };
    let run = Arg::new("command").value_name("CMD").num_args(1..).required(true).last(true);
    Command::new("lock")
        .about("Locks with fencing tokens")
        .subcommand_required(true)
        .subcommand(
            want(
                Command::new("run").about(
                    "Runs CMD while the lock is held: renews it, kills CMD when it is lost, and gives CMD \
                     HOLDFAST_LOCK_NAME, HOLDFAST_LOCK_TOKEN and HOLDFAST_LOCK_LEASE",
                ),
                "24h",
            )
            .arg(run),
        )
        .subcommand(
            want(Command::new("acquire").about("Takes a lock; exit 1 when somebody else holds it"), "0s").arg(json()),
        )
        .subcommand(
            Command::new("renew")
                .about("Makes a lease live on")
                .arg(name())
                .arg(lease())
                .arg(duration("ttl", "its life from now on"))
                .arg(json()),
        )
        .subcommand(Command::new("release").about("Gives a lock back").arg(name()).arg(lease()).arg(json()))
        .subcommand(
            Command::new("list")
                .about("Who holds locks and who waits")
                .arg(Arg::new("name").value_name("NAME"))
                .arg(json()),
        )
}

fn target_command() -> Command {
    let json = || Arg::new("json").long("json").action(ArgAction::SetTrue).help("print JSON");
    let name = || Arg::new("name").value_name("NAME").required(true);
    let pairs = Arg::new("settings").value_name("NAME=VALUE").num_args(1..).required(true).help(
        "kind and url first; NAME=@FILE reads the value from a file, as a secret or a certificate should be; NAME= removes it",
    );
    Command::new("target")
        .about("Where buckets may send events: webhooks, NATS, Kafka, AMQP, MQTT, Redis, PostgreSQL")
        .subcommand_required(true)
        .subcommand(Command::new("list").about("All, with their cursors and problems").arg(json()))
        .subcommand(Command::new("show").about("One").arg(name()).arg(json()))
        .subcommand(Command::new("set").about("Makes one, or changes settings").arg(name()).arg(pairs).arg(json()))
        .subcommand(Command::new("remove").about("Removes one").arg(name()).arg(json()))
        .subcommand(
            Command::new("test").about("Sends a test event; exit 1 when it does not arrive").arg(name()).arg(json()),
        )
}

fn target(matches: &ArgMatches) -> Result<Action, Error> {
    let (verb, matches) = matches.subcommand().expect("a subcommand is required");
    let json = matches.get_flag("json");
    if verb == "list" {
        return Ok(Action::Target { verb: TargetVerb::List, name: String::new(), json });
    }
    let name = word(matches, "name").to_owned();
    let verb = match verb {
        "set" => {
            let mut settings = serde_json::Map::new();
            for pair in matches.get_many::<String>("settings").into_iter().flatten() {
                let pair = pair.split_once('=').ok_or_else(|| Error::Word(format!("{pair:?} is not NAME=VALUE")))?;
                settings.insert(pair.0.to_owned(), target_value(pair.1)?);
            }
            TargetVerb::Set(settings)
        }
        "show" => TargetVerb::Show,
        "remove" => TargetVerb::Remove,
        _ => TargetVerb::Test,
    };
    Ok(Action::Target { verb, name, json })
}

fn target_value(text: &str) -> Result<serde_json::Value, Error> {
    match text.strip_prefix('@') {
        None if text.is_empty() => Ok(serde_json::Value::Null),
        None => Ok(text.into()),
        Some(file) => {
            let read = std::fs::read_to_string(file);
            let read = read.map_err(|error| Error::Word(format!("cannot read {file}: {error}")))?;
            Ok(read.trim_end_matches(['\r', '\n']).into())
        }
    }
}

fn duration_ms(text: &str) -> Result<u64, String> {
    seconds_or_duration(text).ok_or_else(|| format!("{text:?} is not a duration such as 500ms, 30s or 10m"))
}

fn lock(matches: &ArgMatches) -> LockWords {
    let (verb, matches) = matches.subcommand().expect("a subcommand is required");
    let name = word(matches, "name").to_owned();
    let json = || matches.get_flag("json");
    let number = |name: &str| matches.get_one::<u64>(name).copied().unwrap_or_default();
    let want = || LockWant {
        name: name.clone(),
        ttl_ms: number("ttl"),
        wait_ms: number("wait"),
        shared: matches.get_flag("shared"),
        owner: matches.get_one::<String>("owner").cloned().unwrap_or_else(default_owner),
    };
    match verb {
        "run" => {
            let command = matches.get_many::<String>("command").into_iter().flatten().cloned().collect();
            LockWords::Run { want: want(), command }
        }
        "acquire" => LockWords::Acquire { want: want(), json: json() },
        "renew" => {
            let ttl = matches.get_one::<u64>("ttl").map(|ms| format!("{ms}ms")).unwrap_or_default();
            LockWords::Renew { lease: number("lease"), ttl, json: json(), name }
        }
        "release" => LockWords::Release { lease: number("lease"), json: json(), name },
        _ => LockWords::List { json: json(), name },
    }
}

/// The host's name and this process.
fn default_owner() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}:{}", host.trim(), std::process::id())
}

fn watch(matches: &ArgMatches) -> Result<Action, Error> {
    let what = word(matches, "what");
    let rest = what.strip_prefix("s3://");
    if rest.is_none() && !what.is_empty() {
        return Err(Error::Word(format!("{what:?} is not s3://BUCKET/PREFIX")));
    }
    let rest = rest.unwrap_or_default();
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let (bucket, prefix, from) = (bucket.to_owned(), prefix.to_owned(), word(matches, "from").to_owned());
    Ok(Action::Watch { bucket, prefix, from, json: matches.get_flag("json") })
}

fn recover_command() -> Command {
    let flag = |name: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue);
    with_settings(Command::new("recover").about("Builds a cluster from the backend alone, into a new data directory"))
        .arg(flag("force").help("do not wait for the old cluster, and go on although something is damaged or missing"))
        .arg(flag("dry-run").help("only look: claim nothing, make nothing"))
        .arg(
            Arg::new("verify")
                .long("verify")
                .value_name("WHICH")
                .value_parser(["all", "sample", "none"])
                .default_value("sample")
                .help("which blobs to look for in the backend"),
        )
}

fn recover_words(matches: &ArgMatches) -> RecoverWords {
    RecoverWords {
        force: matches.get_flag("force"),
        dry_run: matches.get_flag("dry-run"),
        verify: match word(matches, "verify") {
            "all" => Verify::All,
            "none" => Verify::None,
            _ => Verify::Sample,
        },
    }
}

fn with_settings(mut command: Command) -> Command {
    for setting in SETTINGS.iter().filter(|setting| setting.flag) {
        let default = if setting.default.is_empty() { setting.default_note } else { setting.default };
        let help =
            format!("{} [default: {}] [env: {}]", setting.meaning, default.replace('`', ""), setting.environment);
        command = command.arg(Arg::new(setting.name).long(setting.flag_name()).value_name("VALUE").help(help));
    }
    command
}

/// Reads the command line and the settings it needs.
///
/// # Errors
/// [`Error`], after which the process exits with 2 (0 for help).
pub fn parse(words: impl IntoIterator<Item = OsString>, environment: HashMap<String, String>) -> Result<Action, Error> {
    let matches = command().try_get_matches_from(words)?;
    let (name, matches) = matches.subcommand().expect("a subcommand is required");
    let json = || matches.get_flag("json");
    match name {
        "serve" => Ok(Action::Serve(settings(matches, environment)?)),
        "doctor" => Ok(Action::Doctor { config: settings(matches, environment)?, json: json() }),
        "recover" => {
            let config = Box::new(Config::resolve(&sources(matches, environment)?.alone())?);
            Ok(Action::Recover { config, words: recover_words(matches), json: json() })
        }
        "status" => Ok(Action::Status { json: json() }),
        "stat" => {
            let (bucket, key) = object(word(matches, "object"))?;
            Ok(Action::Stat { bucket, key, json: json() })
        }
        "bucket" => bucket(matches),
        "config" => {
            let (_, matches) = matches.subcommand().expect("a subcommand is required");
            Ok(Action::ConfigShow(settings(matches, environment)?))
        }
        "cluster" => cluster(matches),
        "watch" => watch(matches),
        "lock" => Ok(Action::Lock(lock(matches))),
        "target" => target(matches),
        "topic" => Ok(Action::Topic(topic::words(matches))),
        "sql" => Ok(Action::Sql(sql::sql_words(matches, std::io::stdout().is_terminal()))),
        "index" => Ok(Action::Index(sql::index_words(matches))),
        "version" => Ok(Action::Print(format!("holdfast {}", env!("CARGO_PKG_VERSION")))),
        other => unreachable!("clap knows no command {other}"),
    }
}

fn cluster(matches: &ArgMatches) -> Result<Action, Error> {
    let (verb, matches) = matches.subcommand().expect("a subcommand is required");
    if verb == "secret" {
        return Ok(Action::Print(ClusterSecret::generate().expose().to_owned()));
    }
    let json = matches.get_flag("json");
    if verb == "list" {
        return Ok(Action::ClusterList { json });
    }
    let node = *matches.get_one::<u64>("node").expect("clap requires it");
    Ok(Action::ClusterChange { node, remove: verb == "remove", json })
}

fn settings(matches: &ArgMatches, environment: HashMap<String, String>) -> Result<Box<Config>, Error> {
    Ok(Box::new(Config::resolve(&sources(matches, environment)?)?))
}

fn sources(matches: &ArgMatches, environment: HashMap<String, String>) -> Result<Sources, Error> {
    let given = SETTINGS.iter().filter(|setting| setting.flag);
    let flags =
        given.filter_map(|setting| Some((setting.name, matches.get_one::<String>(setting.name)?.clone()))).collect();
    Ok(Sources::gather(flags, environment)?)
}

fn word<'a>(matches: &'a ArgMatches, name: &str) -> &'a str {
    matches.get_one::<String>(name).map(String::as_str).unwrap_or_default()
}

fn object(text: &str) -> Result<(String, String), Error> {
    let parts = text
        .strip_prefix("s3://")
        .and_then(|rest| rest.split_once('/'))
        .filter(|(bucket, key)| !bucket.is_empty() && !key.is_empty());
    let (bucket, key) = parts.ok_or_else(|| Error::Word(format!("{text:?} is not s3://BUCKET/KEY")))?;
    Ok((bucket.to_owned(), key.to_owned()))
}

fn bucket(matches: &ArgMatches) -> Result<Action, Error> {
    let (verb, matches) = matches.subcommand().expect("a subcommand is required");
    let (bucket, json) = (word(matches, "bucket").to_owned(), matches.get_flag("json"));
    if verb == "show" {
        return Ok(Action::BucketShow { bucket, json });
    }
    let mut settings = serde_json::Map::new();
    for pair in matches.get_many::<String>("settings").into_iter().flatten() {
        let (name, value) = pair.split_once('=').ok_or_else(|| Error::Word(format!("{pair:?} is not NAME=VALUE")))?;
        settings.insert(name.to_owned(), setting_value(name, value)?);
    }
    Ok(Action::BucketSet { bucket, settings, json })
}

fn setting_value(name: &str, value: &str) -> Result<serde_json::Value, Error> {
    match name {
        "inline_bytes" => config::parse_bytes(value)
            .map(Into::into)
            .ok_or_else(|| Error::Word(format!("{value:?} is not a size such as 65536, 64KiB or 4GiB"))),
        "durability" | "history" | "on_parse_error" => Ok(value.into()),
        _ => Err(Error::Word(format!(
            "a bucket has no setting {name:?}; it has durability, inline_bytes, history, on_parse_error"
        ))),
    }
}

/// JSON as lines for a person: `name: value`, nested values indented.
#[must_use]
pub fn readable(value: &serde_json::Value) -> String {
    let mut out = String::new();
    write_readable(value, 0, &mut out);
    out
}

fn write_readable(value: &serde_json::Value, depth: usize, out: &mut String) {
    use serde_json::Value;
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::Object(_) | Value::Array(_) => {
                        out.push_str(&format!("{indent}{name}:\n"));
                        write_readable(value, depth + 1, out);
                    }
                    plain => out.push_str(&format!("{indent}{name}: {}\n", plain_text(plain))),
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                let mut text = String::new();
                write_readable(item, depth + 1, &mut text);
                let text = text.trim_start();
                out.push_str(&format!("{indent}- {text}"));
            }
        }
        plain => out.push_str(&format!("{indent}{}\n", plain_text(plain))),
    }
}

fn plain_text(value: &serde_json::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), |text| text.escape_debug().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(line: &str) -> Result<Action, Error> {
        parse(line.split(' ').map(Into::into), HashMap::new())
    }

    fn fails(line: &str) -> String {
        run(line).expect_err(line).to_string()
    }

    #[test]
    fn commands_become_actions() {
        let Action::Serve(config) = run("holdfast serve --listen :1 --data /d").unwrap() else { panic!("not serve") };
        assert_eq!((config.listen.as_str(), config.backend.as_str()), (":1", "file:/d/store"));
        assert!(matches!(run("holdfast doctor --backend file:/x --json").unwrap(), Action::Doctor { json: true, .. }));
        assert!(matches!(run("holdfast status").unwrap(), Action::Status { json: false }));
        let Action::Stat { bucket, key, .. } = run("holdfast stat s3://b/a/k").unwrap() else { panic!("not stat") };
        assert_eq!((bucket.as_str(), key.as_str()), ("b", "a/k"));
        let set = run("holdfast bucket set b durability=quorum inline_bytes=64KiB").unwrap();
        let Action::BucketSet { settings, .. } = set else { panic!("not bucket set") };
        assert_eq!(
            serde_json::Value::from(settings),
            serde_json::json!({ "durability": "quorum", "inline_bytes": 65536 })
        );
        assert!(matches!(run("holdfast bucket show b --json").unwrap(), Action::BucketShow { json: true, .. }));
        assert!(matches!(run("holdfast config show").unwrap(), Action::ConfigShow(_)));
        let recover = run("holdfast recover --backend file:/s --data /new --dry-run --verify all").unwrap();
        let Action::Recover { config, words, json: false } = recover else { panic!("not recover") };
        assert_eq!(config.data, std::path::Path::new("/new"));
        assert_eq!(words, RecoverWords { force: false, dry_run: true, verify: Verify::All });
        // The environment of a node of a cluster is no obstacle.
        let node = [("HOLDFAST_CLUSTER_SECRET", "secret"), ("HOLDFAST_BOOTSTRAP_EXPECT", "3")];
        let node = node.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let words = "holdfast recover --backend file:/s --data /new --peer-advertise a:1".split(' ').map(Into::into);
        assert!(matches!(parse(words, node), Ok(Action::Recover { .. })));
    }

    #[test]
    fn mistakes_and_missing_parts_are_named() {
        assert!(fails("holdfast stat b/k").contains("is not s3://BUCKET/KEY"));
        assert!(fails("holdfast bucket set b colour=red").contains("has no setting"));
        assert!(fails("holdfast serve --lisen x").contains("unexpected argument"));
        assert!(fails("holdfast serve --cluster c").contains("at least 32 characters"));
        assert!(fails("holdfast serve --console-listen x:1").contains("not built yet"));
    }

    #[test]
    fn locks_and_watches_become_actions() {
        let Action::Lock(LockWords::Run { want, command }) =
            run("holdfast lock run jobs/nightly --ttl 10s --shared -- make -j 2").unwrap()
        else {
            panic!("not lock run")
        };
        assert_eq!(
            (want.name.as_str(), want.ttl_ms, want.wait_ms, want.shared),
            ("jobs/nightly", 10_000, 86_400_000, true)
        );
        assert_eq!(command, ["make", "-j", "2"]);
        assert!(!want.owner.is_empty());
        let renew = run("holdfast lock renew n --lease 7").unwrap();
        assert!(matches!(renew, Action::Lock(LockWords::Renew { lease: 7, ref ttl, .. }) if ttl.is_empty()));
        assert!(fails("holdfast lock acquire n --wait soon").contains("is not a duration"));
        assert!(fails("holdfast lock run n").contains("CMD"));
        let Action::Watch { bucket, prefix, from, json } =
            run("holdfast watch s3://b/p/q --from 7.end --json").unwrap()
        else {
            panic!("not watch")
        };
        assert_eq!((bucket.as_str(), prefix.as_str(), from.as_str(), json), ("b", "p/q", "7.end", true));
        assert!(fails("holdfast watch b/p").contains("is not s3://BUCKET/PREFIX"));
    }

    #[test]
    fn a_new_secret_is_good_for_a_cluster() {
        let secret = || match run("holdfast cluster secret").unwrap() {
            Action::Print(secret) => secret,
            other => panic!("{other:?}"),
        };
        assert!(ClusterSecret::new(&secret()).is_ok());
        assert_ne!(secret(), secret());
        assert!(matches!(
            run("holdfast cluster remove 3").unwrap(),
            Action::ClusterChange { node: 3, remove: true, json: false }
        ));
        assert!(matches!(run("holdfast cluster list --json").unwrap(), Action::ClusterList { json: true }));
    }

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn answers_read_well() {
        let value = serde_json::json!({ "role": "leader", "term": 3, "peers": [{ "id": "a", "lag": 0 }, { "id": "b", "lag": 1 }], "backend": { "url": "file:x" } });
        insta::assert_snapshot!(readable(&value), @r"
        backend:
          url: file:x
        peers:
          - id: a
            lag: 0
          - id: b
            lag: 1
        role: leader
        term: 3
        ");
    }
}
