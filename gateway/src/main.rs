//! The `holdfast` binary: reads the command line, runs the action, and turns its end into an exit code.
//!
//! 0 done; 1 ran, and failed or the answer is no; 2 wrong usage or configuration. Only this file exits and prints.

#![expect(clippy::print_stdout, reason = "this file is the one that prints")]

mod commands;

use std::process::ExitCode;

use holdfast::cli::{self, Action};
use holdfast::client::{self, Client};
use holdfast::doctor;
use holdfast::node;
use http::Method;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

const FAILED: u8 = 1;
const USAGE: u8 = 2;
/// In a path: everything but the unreserved characters and the slashes of the key.
const IN_PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');

fn main() -> ExitCode {
    let environment =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let action = match cli::parse(std::env::args_os(), environment.collect()) {
        Ok(action) => action,
        Err(cli::Error::Usage(error)) => {
            // Help and version are no mistakes; clap knows which it is and where it belongs.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(USAGE));
        }
        Err(error) => return failed(&error, USAGE),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(run(action)),
        Err(error) => failed(&error, FAILED),
    }
}

async fn run(action: Action) -> ExitCode {
    match action {
        Action::Serve(config) => match node::serve(*config, |line| println!("{line}")).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                let code = if error.is_configuration() { USAGE } else { FAILED };
                failed(&error, code)
            }
        },
        Action::Doctor { config, json } => match node::doctor(&config).await {
            Ok(reports) => {
                if json {
                    println!("{:#}", serde_json::json!(reports));
                } else {
                    reports.iter().for_each(|report| println!("{report}"));
                }
                if reports.iter().all(doctor::Report::is_fit) { ExitCode::SUCCESS } else { ExitCode::from(FAILED) }
            }
            Err(error) => failed(&error, FAILED),
        },
        Action::Recover { config, words, json } => {
            match node::recover(&config, words, |line| eprintln!("{line}")).await {
                Ok(report) => {
                    let value = serde_json::json!(report);
                    println!(
                        "{}",
                        if json { format!("{value:#}") } else { cli::readable(&value).trim_end().to_owned() }
                    );
                    if report.is_whole() { ExitCode::SUCCESS } else { ExitCode::from(FAILED) }
                }
                Err(error) => failed(&error, if error.is_configuration() { USAGE } else { FAILED }),
            }
        }
        Action::Status { json } => ask(Method::GET, "/_holdfast/v1/status".to_owned(), None, json).await,
        Action::Stat { bucket, key, json } => {
            let path = format!("/_holdfast/v1/objects/{bucket}/{}?versions", utf8_percent_encode(&key, IN_PATH));
            ask(Method::GET, path, None, json).await
        }
        Action::BucketShow { bucket, json } => {
            ask(Method::GET, format!("/_holdfast/v1/buckets/{bucket}"), None, json).await
        }
        Action::BucketSet { bucket, settings, json } => {
            ask(Method::PUT, format!("/_holdfast/v1/buckets/{bucket}"), Some(settings.into()), json).await
        }
        Action::ClusterList { json } => ask(Method::GET, "/_holdfast/v1/cluster".to_owned(), None, json).await,
        Action::ClusterChange { node, remove, json } => {
            let method = if remove { Method::DELETE } else { Method::POST };
            ask(method, format!("/_holdfast/v1/cluster/{node}"), None, json).await
        }
        Action::ConfigShow(config) => {
            for (name, value, origin) in &config.shown {
                println!("{name} = {value:?}  # {origin}");
            }
            ExitCode::SUCCESS
        }
        Action::Watch { bucket, prefix, from, json } => match commands::watch(&bucket, &prefix, &from, json).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => no_answer(&error),
        },
        Action::Target { verb, name, json } => commands::target(verb, &name, json).await,
        Action::Lock(words) => commands::lock(words).await,
        Action::Topic(words) => commands::topic::run(words).await,
        Action::Sql(words) => commands::sql::sql(words).await,
        Action::Index(words) => commands::sql::index(words).await,
        Action::Print(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
    }
}

/// A command that got no answer, or a refusal.
fn no_answer(error: &client::Error) -> ExitCode {
    let is_usage = matches!(error, client::Error::Endpoint(_) | client::Error::Credentials);
    failed(error, if is_usage { USAGE } else { FAILED })
}

async fn ask(method: Method, path: String, body: Option<Value>, json: bool) -> ExitCode {
    let answer = async { Client::from_environment().await?.json(method, &path, body.as_ref()).await };
    match answer.await {
        Ok(value) => {
            print_value(&value, json);
            ExitCode::SUCCESS
        }
        Err(error) => no_answer(&error),
    }
}

fn print_value(value: &Value, json: bool) {
    if json {
        println!("{value:#}");
    } else {
        print!("{}", cli::readable(value));
    }
}

/// Prints the whole chain, once.
fn failed(error: &dyn std::error::Error, code: u8) -> ExitCode {
    eprint!("holdfast: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        eprint!(": {error}");
        cause = error.source();
    }
    eprintln!();
    ExitCode::from(code)
}
