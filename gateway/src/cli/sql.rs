//! The words of `holdfast sql` and `holdfast index`.

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::word;

/// How rows are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A table for a person.
    Table,
    /// CSV with a header.
    Csv,
    /// One JSON object a line.
    Json,
    /// An Arrow IPC stream.
    Arrow,
}

/// What to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqlWords {
    /// The statement; standard input, or a prompt, when there is none.
    pub statement: Option<String>,
    /// How rows are printed.
    pub format: Format,
}

/// What to do with indexes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IndexWords {
    /// Make one.
    Create {
        /// The statement that does it.
        statement: String,
    },
    /// Those of a bucket, or of all.
    List {
        /// The bucket.
        bucket: Option<String>,
        /// As it came.
        json: bool,
    },
    /// Remove one.
    Drop {
        /// The statement that does it.
        statement: String,
    },
}

fn format_arg() -> Arg {
    Arg::new("format")
        .long("format")
        .value_name("FORMAT")
        .value_parser(["table", "csv", "json", "arrow"])
        .help("table, csv, json (one object a line) or arrow [default: table on a terminal, else csv]")
}

pub(super) fn sql_command() -> Command {
    Command::new("sql")
        .about("Asks in SQL; without a statement it reads standard input, or prompts on a terminal")
        .arg(Arg::new("statement").value_name("STATEMENT"))
        .arg(format_arg())
        .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("as --format json").conflicts_with("format"))
}

pub(super) fn sql_words(matches: &ArgMatches, terminal: bool) -> SqlWords {
    let named = matches.get_one::<String>("format").map(String::as_str);
    let format = match named {
        _ if matches.get_flag("json") => Format::Json,
        Some("csv") => Format::Csv,
        Some("json") => Format::Json,
        Some("arrow") => Format::Arrow,
        Some(_) => Format::Table,
        None if terminal => Format::Table,
        None => Format::Csv,
    };
    SqlWords { statement: matches.get_one::<String>("statement").cloned(), format }
}

pub(super) fn index_command() -> Command {
    let name = || Arg::new("name").value_name("NAME").required(true);
    let flag = |name: &'static str, help: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue).help(help);
    let on = |help: &'static str| Arg::new("on").value_name("s3://BUCKET/PREFIX/").required(true).help(help);
    Command::new("index")
        .about("Indexes of a bucket or prefix")
        .subcommand_required(true)
        .subcommand(
            Command::new("create")
                .about("Makes an index; what is there already is read in the background")
                .arg(name())
                .arg(on("what is indexed; a prefix ends with a slash"))
                .arg(Arg::new("expressions").value_name("EXPR").num_args(1..).required(true).help(
                    "key, size, last_modified, metadata['x'], tags['x'], a column of CSV or Parquet, \
                         or a path in JSON such as $.customer.id",
                ))
                .arg(
                    Arg::new("using")
                        .long("using")
                        .value_name("KIND")
                        .value_parser(["btree", "hash"])
                        .default_value("btree")
                        .help("btree for ranges and prefixes, hash for equality"),
                )
                .arg(flag("unique", "refuse a second row with the same values"))
                .arg(flag("if-not-exists", "an index of this name is no error")),
        )
        .subcommand(
            Command::new("list")
                .about("Indexes with their progress, and objects that do not parse")
                .arg(Arg::new("bucket").value_name("BUCKET"))
                .arg(flag("json", "print JSON")),
        )
        .subcommand(
            Command::new("drop")
                .about("Removes an index")
                .arg(name())
                .arg(Arg::new("on").value_name("s3://BUCKET").required(true))
                .arg(flag("if-exists", "its absence is no error")),
        )
}

/// A name as SQL quotes it.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

pub(super) fn index_words(matches: &ArgMatches) -> IndexWords {
    let (verb, matches) = matches.subcommand().expect("a subcommand is required");
    let place = |name: &str| {
        let place = word(matches, name);
        quoted(place.strip_prefix("s3://").unwrap_or(place))
    };
    match verb {
        "create" => {
            let unique = if matches.get_flag("unique") { "UNIQUE " } else { "" };
            let unless = if matches.get_flag("if-not-exists") { "IF NOT EXISTS " } else { "" };
            let expressions: Vec<&str> =
                matches.get_many::<String>("expressions").into_iter().flatten().map(String::as_str).collect();
            let statement = format!(
                "CREATE {unique}INDEX {unless}{} ON {} USING {} ({})",
                quoted(word(matches, "name")),
                place("on"),
                word(matches, "using").to_uppercase(),
                expressions.join(", "),
            );
            IndexWords::Create { statement }
        }
        "drop" => {
            let unless = if matches.get_flag("if-exists") { "IF EXISTS " } else { "" };
            let bucket = place("on");
            let bucket = bucket.trim_matches('"').split('/').next().unwrap_or_default();
            let name = quoted(word(matches, "name"));
            IndexWords::Drop { statement: format!("DROP INDEX {unless}{name} ON {}", quoted(bucket)) }
        }
        _ => IndexWords::List { bucket: matches.get_one::<String>("bucket").cloned(), json: matches.get_flag("json") },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(words: &str) -> IndexWords {
        let matches = index_command().try_get_matches_from(words.split(' ')).expect("words of a test");
        index_words(&matches)
    }

    #[test]
    fn an_index_is_made_by_a_statement() {
        let statement = |statement: &str| IndexWords::Create { statement: statement.to_owned() };
        assert_eq!(
            index("index create by-city s3://abc/people/ city tags['x'] --unique --using hash"),
            statement("CREATE UNIQUE INDEX \"by-city\" ON \"abc/people/\" USING HASH (city, tags['x'])")
        );
        assert_eq!(
            index("index create --if-not-exists a abc $.a.b"),
            statement("CREATE INDEX IF NOT EXISTS \"a\" ON \"abc\" USING BTREE ($.a.b)")
        );
        assert_eq!(
            index("index drop --if-exists a s3://abc/x/"),
            IndexWords::Drop { statement: "DROP INDEX IF EXISTS \"a\" ON \"abc\"".to_owned() }
        );
        assert_eq!(index("index list"), IndexWords::List { bucket: None, json: false });
    }

    #[test]
    fn a_format_is_chosen_by_where_rows_go() {
        let words = |words: &str, terminal| {
            sql_words(&sql_command().try_get_matches_from(words.split(' ')).expect("words of a test"), terminal)
        };
        assert_eq!(words("sql --format arrow", true).format, Format::Arrow);
        assert_eq!(words("sql --json", true).format, Format::Json);
        assert_eq!(words("sql", true), SqlWords { statement: None, format: Format::Table });
        assert_eq!(words("sql select", false), SqlWords { statement: Some("select".into()), format: Format::Csv });
    }
}
