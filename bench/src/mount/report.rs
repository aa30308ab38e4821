//! Results of the mount experiment: what is stored as JSON, and the same as Markdown.

use std::fmt::Write as _;

use serde::{Serialize, Serializer};

use super::Options;
use super::peers::Side;
use crate::report::{number, or_dash, range};
use crate::run::Run;
use crate::stats::Spread;
use crate::system::{Disk, Machine};

/// Version of the JSON.
const FORMAT: u32 = 1;

/// A mount for the disk of a machine, and what it is held against.
pub const MACHINE: &str = "holdfast-mount, vm, journal";
/// See [`MACHINE`].
pub const LOCAL: &str = "local directory";

/// A whole experiment.
#[derive(Debug, Serialize)]
pub struct Report {
    #[serde(flatten)]
    pub run: Run,
    /// Of its start, UTC.
    pub date: String,
    pub rounds: usize,
    /// How long each rate was measured in each round, in seconds.
    pub round_s: f64,
    pub figures: Vec<Figure>,
}

impl Report {
    /// A report without results.
    #[must_use]
    pub fn new(name: &str, machine: Machine, disk: Disk, options: &Options) -> Self {
        Self {
            run: Run::new(FORMAT, name, machine, disk),
            date: time::OffsetDateTime::now_utc().date().to_string(),
            rounds: options.rounds,
            round_s: options.round_time.as_secs_f64(),
            figures: Vec::new(),
        }
    }

    /// What the mount under test could not do. A peer that cannot do a thing is a result; it is a failure.
    #[must_use]
    pub fn failures(&self) -> Vec<String> {
        let ours = |row: &&Row| row.side == Side::Mount.name() || row.side == MACHINE;
        let rows = self.figures.iter().flat_map(|figure| figure.rows.iter().filter(ours).map(move |row| (figure, row)));
        rows.filter_map(|(figure, row)| Some(format!("{}: {}", figure.what, row.error.as_ref()?))).collect()
    }
}

/// What a figure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// 10^6 bytes a second.
    MbPerS,
    /// Calls a second.
    PerS,
    /// Milliseconds.
    Ms,
}

impl Unit {
    /// As it is written.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::MbPerS => "MB/s",
            Self::PerS => "/s",
            Self::Ms => "ms",
        }
    }

    /// How many times `one` is as good as `other`: more of a rate, less of a time.
    fn times_as_good(self, one: f64, other: f64) -> f64 {
        let (one, other) = if self == Self::Ms { (other, one) } else { (one, other) };
        one / other.max(f64::EPSILON)
    }
}

impl Serialize for Unit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.text())
    }
}

/// What was aimed at.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    /// The median of a side is at most this, in the figure's unit.
    AtMost { side: &'static str, value: f64 },
    /// A side is at least so many times as good as the best of the others in the same round.
    Times { side: &'static str, others: &'static [&'static str], times: f64 },
    /// A side takes at most so many times as long as another in the same round.
    Longer { side: &'static str, than: &'static str, times: f64 },
}

/// A figure of all sides.
#[derive(Debug, Serialize)]
pub struct Figure {
    pub what: String,
    pub unit: Unit,
    pub rows: Vec<Row>,
    pub verdicts: Vec<Verdict>,
}

/// A figure of one side, in the figure's unit.
#[derive(Debug, Serialize)]
pub struct Row {
    pub side: &'static str,
    pub rounds: Vec<Option<f64>>,
    pub spread: Option<Spread>,
    pub note: Option<String>,
    /// Why it has no more rounds.
    pub error: Option<String>,
}

/// A goal and how it was met.
#[derive(Debug, Serialize)]
pub struct Verdict {
    pub goal: String,
    /// What the goal speaks of: a ratio of neighbouring rounds, or the side's own value.
    pub measured: Option<Spread>,
    /// Of the median.
    pub met: Option<bool>,
}

/// Holds rows against a goal.
#[must_use]
pub fn verdict(goal: &Goal, unit: Unit, rows: &[Row]) -> Verdict {
    let row = |side: &str| rows.iter().find(|row| row.side == side);
    let value = |side: &str, round: usize| row(side).and_then(|row| *row.rounds.get(round)?);
    let rounds = rows.iter().map(|row| row.rounds.len()).max().unwrap_or(0);
    let (goal, measured, limit, least) = match *goal {
        Goal::AtMost { side, value } => {
            let spread = row(side).and_then(|row| row.spread);
            (format!("{side} <= {} {}", number(value), unit.text()), spread, value, false)
        }
        Goal::Times { side, others, times } => {
            let ratios = (0..rounds).filter_map(|round| {
                let ours = value(side, round)?;
                let theirs = others.iter().filter_map(|other| value(other, round));
                theirs.map(|theirs| unit.times_as_good(ours, theirs)).min_by(f64::total_cmp)
            });
            let than = if let [other] = others { (*other).to_owned() } else { "the best other".to_owned() };
            (format!("{side} >= {times} x {than}"), Spread::of(ratios), times, true)
        }
        Goal::Longer { side, than, times } => {
            let ratios = (0..rounds).filter_map(|round| Some(value(side, round)? / value(than, round)?));
            (format!("{side} <= {times} x {than}"), Spread::of(ratios), times, false)
        }
    };
    let met = measured.map(|spread| if least { spread.median >= limit } else { spread.median <= limit });
    Verdict { goal, measured, met }
}

/// A line about a figure, while others are under way.
#[must_use]
pub fn progress(figure: &Figure) -> String {
    let rows = figure.rows.iter().map(|row| format!("{} {}", row.side, value(row)));
    let verdicts = figure.verdicts.iter().map(|verdict| format!(" [{}]", verdict_text(verdict)));
    format!(
        "{}, {}: {}{}\n",
        figure.what,
        figure.unit.text(),
        rows.collect::<Vec<_>>().join("; "),
        verdicts.collect::<String>()
    )
}

fn value(row: &Row) -> String {
    let spread = row.spread.map(|spread| format!("{} ({})", number(spread.median), range(spread)));
    match (spread, &row.error) {
        (Some(spread), None) => spread,
        (Some(spread), Some(_)) => format!("{spread}, then it failed"),
        (None, _) => "cannot".to_owned(),
    }
}

fn verdict_text(verdict: &Verdict) -> String {
    let measured = or_dash(verdict.measured.map(|spread| format!("{} ({})", number(spread.median), range(spread))));
    let met = match verdict.met {
        Some(true) => "met",
        Some(false) => "**missed**",
        None => "not measured",
    };
    format!("{}: {measured}, {met}", verdict.goal)
}

/// The whole report.
#[must_use]
pub fn markdown(report: &Report) -> String {
    let mut text = format!("# The mount beside s3fs and rclone: {}\n\n{}. ", report.run.name, report.date);
    text += &report.run.circumstances();
    let _ = writeln!(
        text,
        " One MinIO is the store of s3fs and rclone, and behind Holdfast.\n\nMedians of {} rounds in turns, lowest..highest; rates are of {} s. A goal is held against the median.",
        report.rounds, report.round_s
    );
    let of_machine = |figure: &&Figure| figure.rows.iter().any(|row| row.side == LOCAL);
    let (machine, mounts): (Vec<_>, Vec<_>) = report.figures.iter().partition(of_machine);
    text += &table(&mounts, &Side::ALL.map(Side::name));
    text += &table(&machine, &[MACHINE, LOCAL]);
    text += &remarks(report);
    text
}

fn table(figures: &[&Figure], sides: &[&str]) -> String {
    if figures.is_empty() {
        return String::new();
    }
    let mut text = format!("\n| figure | | {} | goals |\n", sides.join(" | "));
    let _ = writeln!(text, "| --- | --- |{} --- |", " ---: |".repeat(sides.len()));
    for figure in figures {
        let cell = |side: &&str| or_dash(figure.rows.iter().find(|row| row.side == *side).map(value));
        let cells: Vec<String> = sides.iter().map(cell).collect();
        let verdicts: Vec<String> = figure.verdicts.iter().map(verdict_text).collect();
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} |",
            figure.what,
            figure.unit.text(),
            cells.join(" | "),
            verdicts.join("<br>")
        );
    }
    text
}

/// What peers cannot do, and what a reader must know of a figure.
fn remarks(report: &Report) -> String {
    let mut text = String::new();
    for figure in &report.figures {
        for row in &figure.rows {
            for (kind, remark) in [("cannot", &row.error), ("but", &row.note)] {
                if let Some(remark) = remark {
                    let _ = writeln!(text, "- {}, {}, {kind}: {remark}", figure.what, row.side);
                }
            }
        }
    }
    if text.is_empty() { text } else { format!("\n{text}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(side: &'static str, rounds: &[Option<f64>]) -> Row {
        let spread = Spread::of(rounds.iter().copied().flatten());
        Row { side, rounds: rounds.to_vec(), spread, note: None, error: None }
    }

    #[test]
    fn a_rate_is_held_against_the_best_of_its_round() {
        let rows =
            [row("a", &[Some(9.0), Some(8.0)]), row("b", &[Some(10.0), None]), row("c", &[Some(1.0), Some(4.0)])];
        let goal = Goal::Times { side: "a", others: &["b", "c"], times: 0.9 };
        let found = verdict(&goal, Unit::PerS, &rows);
        assert_eq!(found.measured.map(|spread| (spread.low, spread.high)), Some((0.9, 2.0)));
        assert_eq!((found.met, found.goal.as_str()), (Some(true), "a >= 0.9 x the best other"));
    }

    #[test]
    fn less_time_is_better() {
        let rows = [row("a", &[Some(10.0)]), row("b", &[Some(40.0)])];
        let met = |goal: Goal| verdict(&goal, Unit::Ms, &rows).met;
        assert_eq!(met(Goal::Times { side: "a", others: &["b"], times: 4.0 }), Some(true));
        assert_eq!(met(Goal::Times { side: "b", others: &["a"], times: 1.0 }), Some(false));
        assert_eq!(met(Goal::Longer { side: "b", than: "a", times: 1.3 }), Some(false));
        assert_eq!(met(Goal::AtMost { side: "a", value: 10.0 }), Some(true));
        assert_eq!(met(Goal::AtMost { side: "nobody", value: 10.0 }), None);
    }
}
