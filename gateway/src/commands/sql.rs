//! `holdfast sql` and `holdfast index`: statements in, rows out.
//!
//! Rows are printed while they come, but for a table, whose columns are as wide as what is in them: it holds at most
//! [`TABLE_ROWS_MAX`] rows and says when there are more.

use std::io::{IsTerminal as _, Read as _, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::ipc::reader::StreamDecoder;
use arrow::util::pretty::pretty_format_batches;
use holdfast::cli::sql::{Format, IndexWords, SqlWords};
use holdfast::client::Client;
use http::Method;
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use tokio::time::Instant;

use super::{ExitCode, FAILED, Failed, ask, code, in_query, no_answer, print_value};

const PATH: &str = "/_holdfast/v1/sql";
/// Rows of a table; the others are only counted.
const TABLE_ROWS_MAX: usize = 10_000;
/// How often a terminal is told how far it is.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);
/// Statements that a prompt remembers.
const HISTORY_MAX: usize = 1000;

pub(crate) async fn sql(words: SqlWords) -> ExitCode {
    let client = match Client::from_environment().await {
        Ok(client) => client,
        Err(error) => return no_answer(&error),
    };
    if let Some(statement) = words.statement {
        return code(run(&client, &statement, words.format).await);
    }
    if std::io::stdin().is_terminal() {
        return prompt(&client, words.format).await;
    }
    let mut text = String::new();
    if let Err(error) = std::io::stdin().read_to_string(&mut text) {
        eprintln!("holdfast: cannot read the statement: {error}");
        return ExitCode::from(FAILED);
    }
    code(run(&client, &text, words.format).await)
}

pub(crate) async fn index(words: IndexWords) -> ExitCode {
    match words {
        IndexWords::Create { statement } | IndexWords::Drop { statement } => {
            let done = async {
                let client = Client::from_environment().await?;
                let headers = [("content-type", "application/sql")];
                let done = client.json_bytes(Method::POST, PATH, &headers, statement.into_bytes()).await?;
                print_value(&done, false);
                Ok(())
            };
            code(done.await)
        }
        IndexWords::List { bucket, json } => {
            let bucket = bucket.map(|bucket| format!("?bucket={}", in_query(&bucket))).unwrap_or_default();
            ask(Method::GET, format!("/_holdfast/v1/indexes{bucket}"), None, json).await
        }
    }
}

async fn run(client: &Client, statement: &str, format: Format) -> Result<(), Failed> {
    let accept = match format {
        Format::Csv => "text/csv",
        Format::Json => "application/x-ndjson",
        Format::Table | Format::Arrow => "application/vnd.apache.arrow.stream",
    };
    let headers = [("accept", accept), ("content-type", "application/sql")];
    let mut progress = Progress::new();
    if format == Format::Table {
        return table(client, statement, &headers, progress).await;
    }
    let (mut broken, mut last) = (None, b'\n');
    client
        .stream(Method::POST, PATH, &headers, statement.as_bytes().to_vec(), |bytes| {
            progress.show(bytes.len(), 0);
            last = bytes.last().copied().unwrap_or(last);
            broken = std::io::stdout().write_all(&bytes).err();
            broken.is_none()
        })
        .await?;
    progress.clear();
    // What a statement without rows did is one JSON object; as text it is a line like any other.
    if broken.is_none() && last != b'\n' && format != Format::Arrow {
        broken = std::io::stdout().write_all(b"\n").err();
    }
    match broken.or_else(|| std::io::stdout().flush().err()) {
        // Nobody reads any more, which is not our failure.
        Some(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failed::Here(format!("cannot write the rows: {error}")))
        }
        _ => Ok(()),
    }
}

async fn table(
    client: &Client,
    statement: &str,
    headers: &[(&'static str, &str)],
    mut progress: Progress,
) -> Result<(), Failed> {
    let started = Instant::now();
    let (mut decoder, mut batches, mut rows, mut torn) = (StreamDecoder::new(), Vec::new(), 0usize, None);
    let mut done = None;
    client
        .stream(Method::POST, PATH, headers, statement.as_bytes().to_vec(), |bytes| {
            if done.is_none() && rows == 0 && bytes.first() == Some(&b'{') {
                // A statement without rows says in JSON what it did.
                done = Some(String::from_utf8_lossy(&bytes).into_owned());
                return true;
            }
            let length = bytes.len();
            match decode(&mut decoder, bytes.into(), &mut batches, &mut rows) {
                Ok(()) => progress.show(length, rows),
                Err(error) => torn = Some(error.to_string()),
            }
            torn.is_none()
        })
        .await?;
    progress.clear();
    if let Some(text) = done {
        println!("{text}");
        return Ok(());
    }
    if let Some(error) = torn {
        return Err(Failed::Here(format!("the rows do not read: {error}")));
    }
    let shown = batches.iter().map(RecordBatch::num_rows).sum::<usize>();
    let text = pretty_format_batches(&batches).map_err(|error| Failed::Here(error.to_string()))?;
    let more = if rows > shown { format!(", of which the first {shown} are shown") } else { String::new() };
    println!("{text}\n{rows} rows in {:.3} s{more}", started.elapsed().as_secs_f64());
    Ok(())
}

fn decode(
    decoder: &mut StreamDecoder,
    mut bytes: Buffer,
    batches: &mut Vec<RecordBatch>,
    rows: &mut usize,
) -> Result<(), arrow::error::ArrowError> {
    while !bytes.is_empty() {
        if let Some(batch) = decoder.decode(&mut bytes)? {
            let kept = batches.iter().map(RecordBatch::num_rows).sum::<usize>();
            *rows += batch.num_rows();
            // The first one also when it is empty: it has the names of the columns.
            if batches.is_empty() || kept < TABLE_ROWS_MAX {
                batches.push(batch.slice(0, batch.num_rows().min(TABLE_ROWS_MAX - kept)));
            }
        }
    }
    Ok(())
}

/// What a terminal is told while rows come.
struct Progress {
    started: Instant,
    told: Option<Instant>,
    bytes: usize,
    enabled: bool,
}

impl Progress {
    fn new() -> Self {
        let enabled = std::io::stderr().is_terminal() && !std::io::stdout().is_terminal();
        Self { started: Instant::now(), told: None, bytes: 0, enabled }
    }

    fn show(&mut self, bytes: usize, rows: usize) {
        self.bytes += bytes;
        if !self.enabled || self.told.unwrap_or(self.started).elapsed() < PROGRESS_EVERY {
            return;
        }
        self.told = Some(Instant::now());
        let rows = if rows > 0 { format!(", {rows} rows") } else { String::new() };
        eprint!("\r{} KiB{rows}, {:.1} s ", self.bytes >> 10, self.started.elapsed().as_secs_f64());
    }

    fn clear(&self) {
        if self.told.is_some() {
            eprint!("\r\x1b[K");
        }
    }
}

/// Reads statements, each up to its semicolon, until the end of the input.
async fn prompt(client: &Client, format: Format) -> ExitCode {
    let config = rustyline::Config::builder().max_history_size(HISTORY_MAX).map(|builder| builder.build());
    let editor = config.and_then(DefaultEditor::with_config);
    let mut editor: DefaultEditor = match editor {
        Ok(editor) => editor,
        Err(error) => {
            eprintln!("holdfast: cannot prompt: {error}");
            return ExitCode::from(FAILED);
        }
    };
    let history = history_file();
    if let Some(file) = &history {
        // There is none at first.
        let _ = editor.load_history(file);
    }
    let mut statement = String::new();
    loop {
        let line =
            tokio::task::block_in_place(|| editor.readline(if statement.is_empty() { "sql> " } else { "...> " }));
        match line {
            Ok(line) => {
                statement.push_str(&line);
                statement.push('\n');
                let text = statement.trim();
                if matches!(text, "" | "quit" | "exit" | "\\q") {
                    if !text.is_empty() {
                        break;
                    }
                    statement.clear();
                } else if text.ends_with(';') {
                    // A history that cannot be kept is no reason not to answer.
                    let _ = editor.add_history_entry(text);
                    code(run(client, text, format).await);
                    statement.clear();
                }
            }
            Err(ReadlineError::Interrupted) => statement.clear(),
            Err(ReadlineError::Eof) => break,
            Err(error) => {
                eprintln!("holdfast: cannot read a line: {error}");
                return ExitCode::from(FAILED);
            }
        }
    }
    if let Some(file) = &history
        && let Err(error) = editor.save_history(file)
    {
        eprintln!("holdfast: cannot keep the history in {}: {error}", file.display());
    }
    ExitCode::SUCCESS
}

/// Where statements are remembered. Source: XDG Base Directory Specification.
fn history_file() -> Option<PathBuf> {
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
    let directory = state.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/state")))?;
    let directory = directory.join("holdfast");
    std::fs::create_dir_all(&directory).ok()?;
    Some(directory.join("sql-history"))
}
