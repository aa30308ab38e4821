//! Random statements over the columns of [`super::tables`]. `{table}` stands for the table.

use holdfast_compat_tests::answer::Order;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use super::tables::{DAYS, FLOATS, Format, TEXTS, day, integer, pick};

const COLUMNS: [&str; 6] = ["n", "f", "t", "d", "b", "\"two words\""];
const COMPARISONS: [&str; 6] = ["=", "<>", "<", "<=", ">", ">="];

/// A statement, and whether it says in which order rows come.
pub(super) fn statement(dice: &mut StdRng, format: Format) -> (String, Order) {
    let wanted =
        if dice.random_ratio(9, 10) { format!(" WHERE {}", predicate(dice, format, 2)) } else { String::new() };
    match dice.random_range(0..10) {
        0 => (format!("SELECT count(*), count(n), sum(n), min(f), max(f) FROM {{table}}{wanted}"), Order::Counts),
        1..4 => {
            let group = pick(dice, &COLUMNS);
            let computed = "count(*), count(f), sum(n), min(n), max(f), min(f), min(t), max(t), max(d), min(d)";
            let having = if dice.random_ratio(1, 4) { " HAVING count(*) > 2" } else { "" };
            let statement = format!("SELECT {group}, {computed} FROM {{table}}{wanted} GROUP BY {group}{having}");
            (statement, Order::DoesNot)
        }
        4 => (format!("SELECT DISTINCT {} FROM {{table}}{wanted}", pick(dice, &COLUMNS)), Order::DoesNot),
        5..7 => (format!("SELECT {} FROM {{table}}{wanted}", columns(dice).join(", ")), Order::DoesNot),
        _ => {
            // Rows that are equal in all that is shown are equal, so that the order is one.
            let shown = columns(dice);
            let by = shown.iter().map(|column| {
                let (way, nulls) = (pick(dice, &["ASC", "DESC"]), pick(dice, &["FIRST", "LAST"]));
                format!("{column} {way} NULLS {nulls}")
            });
            let by = by.collect::<Vec<_>>().join(", ");
            let limit = if dice.random() { format!(" LIMIT {}", dice.random_range(0..40)) } else { String::new() };
            (format!("SELECT {} FROM {{table}}{wanted} ORDER BY {by}{limit}", shown.join(", ")), Order::Counts)
        }
    }
}

fn columns(dice: &mut StdRng) -> Vec<&'static str> {
    let mut columns = COLUMNS;
    columns.shuffle(dice);
    columns[..dice.random_range(1..=COLUMNS.len())].to_vec()
}

fn predicate(dice: &mut StdRng, format: Format, depth: u32) -> String {
    if depth > 0 && dice.random_ratio(2, 5) {
        let (left, right) = (predicate(dice, format, depth - 1), predicate(dice, format, depth - 1));
        return match dice.random_range(0..5) {
            0 | 1 => format!("({left} AND {right})"),
            2 | 3 => format!("({left} OR {right})"),
            _ => format!("NOT ({left})"),
        };
    }
    match dice.random_range(0..12) {
        0 => format!("{} IS NULL", pick(dice, &COLUMNS)),
        1 => format!("{} IS NOT NULL", pick(dice, &COLUMNS)),
        2 => pick(dice, &["b", "NOT b", "b = true", "b IS TRUE", "b IS NOT FALSE"]).to_owned(),
        3 => format!("n {} f", pick(dice, &COMPARISONS)),
        4 => format!("t LIKE '{}'", pick(dice, &["O%", "%o%", "1%", "é%", "_0", "%", "say \"%", " %"])),
        5 => format!("\"two words\" = {}", dice.random_range(0..6)),
        6 | 7 => compared(dice, "n", |dice| integer(dice).to_string()),
        8 => compared(dice, "f", float),
        9 | 10 => compared(dice, "t", |dice| quoted(pick(dice, &TEXTS))),
        _ => compared(dice, "d", |dice| {
            let day = quoted(&day(dice.random_range(-DAYS..DAYS)));
            if format == Format::Ndjson { day } else { format!("DATE {day}") }
        }),
    }
}

fn float(dice: &mut StdRng) -> String {
    match dice.random_range(0..8) {
        0 => "CAST('NaN' AS DOUBLE)".to_owned(),
        1 => "CAST('inf' AS DOUBLE)".to_owned(),
        2 => "5".to_owned(),
        _ => format!("{:?}", pick(dice, &FLOATS)),
    }
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn compared(dice: &mut StdRng, column: &str, mut literal: impl FnMut(&mut StdRng) -> String) -> String {
    match dice.random_range(0..6) {
        0 => {
            let list: Vec<String> = (0..dice.random_range(1..5)).map(|_| literal(dice)).collect();
            let not = if dice.random_ratio(1, 4) { "NOT " } else { "" };
            format!("{column} {not}IN ({})", list.join(", "))
        }
        1 => format!("{column} BETWEEN {} AND {}", literal(dice), literal(dice)),
        2 => format!("{} {} {column}", literal(dice), pick(dice, &COMPARISONS)),
        3 | 4 => format!("{column} = {}", literal(dice)),
        _ => format!("{column} {} {}", pick(dice, &COMPARISONS), literal(dice)),
    }
}
