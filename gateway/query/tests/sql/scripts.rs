//! The scripts under `tests/slt`: objects and indexes, then statements with their answers.
//!
//! | block | what follows it, until an empty line |
//! | --- | --- |
//! | `object bucket/key` | its text |
//! | `index NAME bucket/prefix/ btree\|hash EXPRESSION` | nothing |
//! | `query [sorted]` | the statement, `----`, the rows |
//! | `error CODE` | the statement, `----`, a part of the message |
//!
//! A script is compared with what it becomes when each answer is written anew; that is kept beside the build for looking
//! at, when it differs.

use holdfast_core::index::{Expression, IndexKind, parse_path};

use super::memory::Memory;
use super::{Bench, bench};

async fn answer(bench: &Bench, memory: &Memory, head: &str, body: &str) -> String {
    let sql = body.split("\n----").next().unwrap();
    let repository = memory.shared();
    let result = bench.rows(&repository, sql).await;
    let lines = match (head.starts_with("query"), result) {
        (true, Ok(mut rows)) => {
            if head.ends_with("sorted") {
                rows.sort();
            }
            rows.join("\n")
        }
        (true, Err(error)) => format!("FAILED {}: {}", error.code, error.message),
        (false, Ok(rows)) => format!("ANSWERED {} rows", rows.len()),
        (false, Err(error)) => {
            let wanted = body.split("\n----\n").nth(1).unwrap_or_default().trim_end();
            let code = head.strip_prefix("error ").unwrap();
            if error.code == code && !wanted.is_empty() && error.message.contains(wanted) {
                wanted.to_owned()
            } else {
                format!("FAILED {}: {}", error.code, error.message)
            }
        }
    };
    let lines = if lines.is_empty() { String::new() } else { format!("{lines}\n") };
    format!("{head}\n{sql}\n----\n{lines}")
}

fn add_index(memory: &mut Memory, words: &[&str]) {
    let [name, place, kind, expression] = words else { panic!("an index has four words: {words:?}") };
    let kind = if *kind == "hash" { IndexKind::Hash } else { IndexKind::BTree };
    memory.index(name, place, kind, vec![Expression::Field(parse_path(expression).unwrap())]);
}

async fn run(name: &str, script: &str) {
    let (bench, mut memory) = (bench(), Memory::default());
    let mut written = String::new();
    for block in script.trim_end().split("\n\n") {
        let (comment, rest): (Vec<&str>, Vec<&str>) = block.lines().partition(|line| line.starts_with('#'));
        comment.iter().for_each(|line| written.push_str(&format!("{line}\n")));
        let Some((head, body)) = rest.split_first() else {
            written.push('\n');
            continue;
        };
        let body = body.join("\n");
        let words: Vec<&str> = head.split(' ').collect();
        match words[0] {
            "object" => {
                memory.put(words[1], format!("{body}\n"));
                written.push_str(&format!("{head}\n{body}\n"));
            }
            "index" => {
                add_index(&mut memory, &words[1..]);
                written.push_str(&format!("{head}\n"));
            }
            "query" | "error" => written.push_str(&answer(&bench, &memory, head, &body).await),
            other => panic!("{name}: there is no block {other}"),
        }
        written.push('\n');
    }
    if written.trim_end() != script.trim_end() {
        let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::write(&path, format!("{}\n", written.trim_end())).unwrap();
        let line = written.lines().zip(script.lines()).position(|(a, b)| a != b).unwrap_or_default();
        let (found, expected) = (written.lines().nth(line), script.lines().nth(line));
        panic!("{name}:{}: expected {expected:?}, found {found:?}; all of it is in {}", line + 1, path.display());
    }
}

macro_rules! scripts {
    ($($name:ident),+ $(,)?) => {
        $(#[tokio::test]
        async fn $name() {
            run(concat!(stringify!($name), ".slt"), include_str!(concat!("../slt/", stringify!($name), ".slt"))).await;
        })+
    };
}

scripts!(documents, errors, explain, names, sql, tables);
