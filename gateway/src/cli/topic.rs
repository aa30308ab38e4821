//! The words of `holdfast topic`.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::{default_owner, duration_ms, word};

/// What to do with a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TopicWords {
    /// Publish a file, or its lines.
    Publish {
        /// The topic.
        topic: String,
        /// Key of each message.
        key: Option<String>,
        /// What to publish; standard input when there is none.
        file: Option<PathBuf>,
        /// One message a line.
        lines: bool,
        /// As it came.
        json: bool,
    },
    /// Print messages.
    Read {
        /// The topic.
        topic: String,
        /// `oldest`, `latest` or an offset.
        from: String,
        /// Go on with what is published.
        follow: bool,
        /// As they came.
        json: bool,
    },
    /// Run a command for each message.
    Consume(Consume),
    /// All topics.
    List {
        /// As it came.
        json: bool,
    },
    /// One topic with its groups.
    Show {
        /// The topic.
        topic: String,
        /// As it came.
        json: bool,
    },
    /// Create it, or change how long its messages are kept.
    Set {
        /// The topic.
        topic: String,
        /// How long, as text.
        keep: Option<String>,
        /// How many bytes.
        keep_bytes: Option<u64>,
        /// As it came.
        json: bool,
    },
    /// Remove it, or one of its groups.
    Delete {
        /// The topic.
        topic: String,
        /// Only this group.
        group: Option<String>,
        /// As it came.
        json: bool,
    },
}

/// How to consume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consume {
    /// The topic.
    pub topic: String,
    /// The group.
    pub group: String,
    /// Messages of one claim.
    pub max: u64,
    /// Life of a claim, milliseconds.
    pub ttl_ms: u64,
    /// Who, for others to see.
    pub owner: String,
    /// End when there is nothing to claim.
    pub until_empty: bool,
    /// The command and its words.
    pub command: Vec<String>,
}

pub(super) fn command() -> Command {
    let json = || Arg::new("json").long("json").action(ArgAction::SetTrue).help("print JSON");
    let name = || Arg::new("name").value_name("NAME").required(true);
    let flag = |name: &'static str, help: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue).help(help);
    let number =
        |name: &'static str| Arg::new(name).long(name).value_name("NUMBER").value_parser(clap::value_parser!(u64));
    let group = || Arg::new("group").long("group").value_name("GROUP");
    Command::new("topic")
        .about("Messages that are published, read and consumed")
        .subcommand_required(true)
        .subcommand(
            Command::new("publish")
                .about("Publishes FILE, or standard input, as one message")
                .arg(name())
                .arg(Arg::new("key").long("key").value_name("KEY").help("what the message is about"))
                .arg(flag("lines", "one message a line"))
                .arg(Arg::new("file").value_name("FILE").value_parser(clap::value_parser!(PathBuf)))
                .arg(json()),
        )
        .subcommand(
            Command::new("read")
                .about("Prints messages, one a line")
                .arg(name())
                .arg(
                    Arg::new("from")
                        .long("from")
                        .value_name("WHERE")
                        .default_value("oldest")
                        .help("oldest, latest or an offset"),
                )
                .arg(flag("follow", "go on with what is published, also after a lost connection"))
                .arg(json()),
        )
        .subcommand(consume_command())
        .subcommand(Command::new("list").about("All topics").arg(json()))
        .subcommand(Command::new("show").about("One topic with its groups").arg(name()).arg(json()))
        .subcommand(
            Command::new("set")
                .about("Creates a topic, or changes how long its messages are kept")
                .arg(name())
                .arg(Arg::new("keep").long("keep").value_name("DURATION").help("such as 7d"))
                .arg(number("keep-bytes"))
                .arg(json()),
        )
        .subcommand(
            Command::new("delete")
                .about("Removes a topic with its messages and groups")
                .arg(name())
                .arg(group().help("only this group"))
                .arg(json()),
        )
}

fn consume_command() -> Command {
    Command::new("consume")
        .about(
            "Runs CMD for each message, with its value on standard input and HOLDFAST_TOPIC, _OFFSET, _KEY and \
             _DELIVERIES; exit 0 acknowledges it, else it is delivered again",
        )
        .arg(Arg::new("name").value_name("NAME").required(true))
        .arg(Arg::new("group").long("group").value_name("GROUP").required(true).help("who share the messages"))
        .arg(
            Arg::new("max")
                .long("max")
                .value_name("NUMBER")
                .value_parser(clap::value_parser!(u64).range(1..=1000))
                .default_value("1")
                .help("messages that are claimed together"),
        )
        .arg(
            Arg::new("ttl")
                .long("ttl")
                .value_name("DURATION")
                .value_parser(duration_ms)
                .default_value("30s")
                .help("life of a claim without a renewal"),
        )
        .arg(
            Arg::new("owner")
                .long("owner")
                .value_name("TEXT")
                .help("who, for others to see [default: host and process]"),
        )
        .arg(
            Arg::new("until-empty")
                .long("until-empty")
                .action(ArgAction::SetTrue)
                .help("end when there is nothing to claim"),
        )
        .arg(Arg::new("command").value_name("CMD").num_args(1..).required(true).last(true))
}

pub(super) fn words(matches: &ArgMatches) -> TopicWords {
    let (verb, matches) = matches.subcommand().expect("a subcommand is required");
    let text = |name: &str| matches.get_one::<String>(name).cloned();
    let flag = |name: &str| matches.get_flag(name);
    let topic = if verb == "list" { String::new() } else { word(matches, "name").to_owned() };
    match verb {
        "publish" => {
            let file = matches.get_one::<PathBuf>("file").filter(|file| file.as_os_str() != "-").cloned();
            TopicWords::Publish { topic, key: text("key"), file, lines: flag("lines"), json: flag("json") }
        }
        "read" => {
            let from = word(matches, "from").to_owned();
            TopicWords::Read { topic, from, follow: flag("follow"), json: flag("json") }
        }
        "consume" => TopicWords::Consume(Consume {
            topic,
            group: word(matches, "group").to_owned(),
            max: matches.get_one::<u64>("max").copied().unwrap_or(1),
            ttl_ms: matches.get_one::<u64>("ttl").copied().unwrap_or_default(),
            owner: text("owner").unwrap_or_else(default_owner),
            until_empty: flag("until-empty"),
            command: matches.get_many::<String>("command").into_iter().flatten().cloned().collect(),
        }),
        "list" => TopicWords::List { json: flag("json") },
        "show" => TopicWords::Show { topic, json: flag("json") },
        "set" => {
            let keep_bytes = matches.get_one::<u64>("keep-bytes").copied();
            TopicWords::Set { topic, keep: text("keep"), keep_bytes, json: flag("json") }
        }
        _ => TopicWords::Delete { topic, group: text("group"), json: flag("json") },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::cli::{Action, Error, parse};

    fn run(line: &str) -> Result<TopicWords, Error> {
        match parse(line.split(' ').map(Into::into), HashMap::new())? {
            Action::Topic(words) => Ok(words),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn topics_become_actions() {
        let publish = run("holdfast topic publish orders --key k -").unwrap();
        let (topic, key, file) = ("orders".to_owned(), Some("k".to_owned()), None);
        assert_eq!(publish, TopicWords::Publish { topic, key, file, lines: false, json: false });
        let TopicWords::Consume(consume) = run("holdfast topic consume orders --group g --ttl 5s -- wc -c").unwrap()
        else {
            panic!("not consume")
        };
        assert_eq!((consume.group.as_str(), consume.max, consume.ttl_ms), ("g", 1, 5000));
        assert_eq!(consume.command, ["wc", "-c"]);
        let read = run("holdfast topic read orders --from 7 --follow").unwrap();
        assert!(matches!(read, TopicWords::Read { ref from, follow: true, json: false, .. } if from == "7"));
        assert_eq!(run("holdfast topic list --json").unwrap(), TopicWords::List { json: true });
        for bad in ["holdfast topic consume orders -- wc", "holdfast topic consume o --group g --max 0 -- wc"] {
            assert!(run(bad).is_err(), "{bad}");
        }
    }
}
