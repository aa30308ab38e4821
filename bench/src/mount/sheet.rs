//! Rounds in turns, and what each side did or could not do in each of them.

use anyhow::{Result, anyhow};

use super::peers::Mount;
use super::report::{Figure, Goal, Row, Unit, verdict};
use super::stack::Stack;
use crate::stats::Spread;

/// Characters of an error that a result shows.
const ERROR_CHARS: usize = 300;

/// A figure that is wanted.
pub struct Wanted {
    pub what: String,
    pub unit: Unit,
    pub goals: Vec<Goal>,
}

impl Wanted {
    /// One without goals.
    #[must_use]
    pub fn new(what: impl Into<String>, unit: Unit) -> Self {
        Self { what: what.into(), unit, goals: Vec::new() }
    }

    /// The same with one more goal.
    #[must_use]
    pub fn goal(mut self, goal: Goal) -> Self {
        self.goals.push(goal);
        self
    }
}

#[derive(Clone, Default)]
struct Cell {
    rounds: Vec<Option<f64>>,
    note: Option<String>,
    error: Option<String>,
}

/// Some figures of some sides under way.
pub struct Sheet {
    wanted: Vec<Wanted>,
    sides: Vec<&'static str>,
    /// By figure, then by side.
    cells: Vec<Vec<Cell>>,
    /// What no result may name: the directory of the run.
    hidden: String,
}

impl Sheet {
    fn new(wanted: Vec<Wanted>, sides: Vec<&'static str>, rounds: usize, hidden: String) -> Self {
        let cell = Cell { rounds: vec![None; rounds], ..Cell::default() };
        Self { cells: vec![vec![cell; sides.len()]; wanted.len()], wanted, sides, hidden }
    }

    fn fail(&mut self, figure: usize, at: usize, error: &anyhow::Error) {
        let text = format!("{error:#}").replace(&self.hidden, "DIR").replace('\n', "; ");
        eprintln!("{}: {}: {text}", self.wanted[figure].what, self.sides[at]);
        self.cells[figure][at].error.get_or_insert_with(|| text.chars().take(ERROR_CHARS).collect());
    }

    /// The error of a turn is that of every figure that it has not come to, or of the last when it came to all.
    fn fail_turn(&mut self, at: usize, round: usize, error: &anyhow::Error) {
        let open = |cells: &Vec<Cell>| cells[at].rounds[round].is_none() && cells[at].error.is_none();
        let figures: Vec<usize> = (0..self.cells.len()).filter(|figure| open(&self.cells[*figure])).collect();
        let last = self.cells.len().saturating_sub(1);
        for figure in if figures.is_empty() { vec![last] } else { figures } {
            self.fail(figure, at, error);
        }
    }

    fn finish(self) -> Vec<Figure> {
        let figures = self.wanted.into_iter().zip(self.cells).map(|(wanted, cells)| {
            let rows = self.sides.iter().copied().zip(cells).map(|(side, cell)| Row {
                side,
                spread: Spread::of(cell.rounds.iter().copied().flatten()),
                rounds: cell.rounds,
                note: cell.note,
                error: cell.error,
            });
            let rows: Vec<Row> = rows.collect();
            let verdicts = wanted.goals.iter().map(|goal| verdict(goal, wanted.unit, &rows)).collect();
            Figure { what: wanted.what, unit: wanted.unit, rows, verdicts }
        });
        figures.collect()
    }
}

/// One side's turn in one round.
pub struct Turn<'a> {
    sheet: &'a mut Sheet,
    /// Which side.
    pub at: usize,
    /// Which round, from 0.
    pub round: usize,
}

impl Turn<'_> {
    /// A value of a figure.
    pub fn put(&mut self, figure: usize, value: f64) {
        self.sheet.cells[figure][self.at].rounds[self.round] = Some(value);
    }

    /// Measures a figure. A failure is the figure's, the turn goes on, and the side is not asked for it again.
    pub fn measure(&mut self, figure: usize, one: impl FnOnce() -> Result<f64>) {
        if self.sheet.cells[figure][self.at].error.is_none() {
            match one() {
                Ok(value) => self.put(figure, value),
                Err(error) => self.sheet.fail(figure, self.at, &error),
            }
        }
    }

    /// Something that a reader of a figure must know of this side.
    pub fn note(&mut self, figure: usize, text: &str) {
        self.sheet.cells[figure][self.at].note = Some(text.to_owned());
    }
}

/// Plays all rounds: in each of them every side has a turn. A turn that fails leaves its error in every figure that it has
/// not come to; a side whose figures have all failed has no more turns.
///
/// # Errors
/// When a server does not answer any more.
pub fn play(
    stack: &mut Stack,
    (wanted, sides, rounds): (Vec<Wanted>, Vec<&'static str>, usize),
    mut turn: impl FnMut(&mut Stack, &mut Turn<'_>) -> Result<()>,
) -> Result<Vec<Figure>> {
    let hidden = stack.directory().to_string_lossy().into_owned();
    let mut sheet = Sheet::new(wanted, sides, rounds, hidden);
    for round in 0..rounds {
        for at in 0..sheet.sides.len() {
            if sheet.cells.iter().all(|cells| cells[at].error.is_some()) {
                continue;
            }
            eprintln!("  round {}: {}", round + 1, sheet.sides[at]);
            let done = turn(stack, &mut Turn { sheet: &mut sheet, at, round });
            if let Err(error) = done {
                sheet.fail_turn(at, round, &error);
            }
            stack.check()?;
        }
    }
    Ok(sheet.finish())
}

/// The mount of a side, which stays from its first turn to the last. One that could not be made is tried once.
pub enum Seat<T> {
    Empty,
    Taken(T),
    Lost,
}

impl<T> Seat<T> {
    /// Who sits here, made at the first call.
    ///
    /// # Errors
    /// When it cannot be made, now or before.
    pub fn take(&mut self, make: impl FnOnce() -> Result<T>) -> Result<&mut T> {
        if matches!(self, Self::Empty) {
            *self = Self::Lost;
            *self = Self::Taken(make()?);
        }
        match self {
            Self::Taken(one) => Ok(one),
            _ => Err(anyhow!("it was not made")),
        }
    }

    /// Who sits here.
    pub fn leave(self) -> Option<T> {
        match self {
            Self::Taken(one) => Some(one),
            _ => None,
        }
    }
}

/// Ends mounts that stayed. An error then is one of the last of their figures, in the row `name`.
pub fn end_all(figures: &mut [Figure], mounts: impl Iterator<Item = (&'static str, Mount)>) {
    for (name, mount) in mounts {
        let Err(error) = mount.end() else { continue };
        eprintln!("{name}, at its end: {error:#}");
        let rows = figures.last_mut().into_iter().flat_map(|figure| &mut figure.rows);
        for row in rows.filter(|row| row.side == name) {
            // The output of the mount may name paths; it has been shown above.
            row.error.get_or_insert_with(|| format!("at its end: {error}"));
        }
    }
}

/// An empty seat for each of `count` sides.
#[must_use]
pub fn seats<T>(count: usize) -> Vec<Seat<T>> {
    (0..count).map(|_| Seat::Empty).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_no_path_and_stay_with_their_figure() {
        let wanted = vec![Wanted::new("a", Unit::Ms), Wanted::new("b", Unit::Ms)];
        let mut sheet = Sheet::new(wanted, vec!["x", "y"], 2, "/secret/dir".to_owned());
        let mut turn = Turn { sheet: &mut sheet, at: 1, round: 0 };
        turn.measure(0, || Err(anyhow!("cannot open /secret/dir/f\nat all")));
        turn.measure(0, || Ok(1.0));
        turn.measure(1, || Ok(2.0));
        let figures = sheet.finish();
        assert_eq!(figures[0].rows[1].error.as_deref(), Some("cannot open DIR/f; at all"));
        assert_eq!(figures[0].rows[1].spread, None);
        assert_eq!(figures[1].rows[1].rounds, [Some(2.0), None]);
        assert!(figures[1].rows[0].error.is_none());
    }

    #[test]
    fn the_error_of_a_turn_is_never_lost() {
        let wanted = vec![Wanted::new("a", Unit::Ms), Wanted::new("b", Unit::Ms)];
        let mut sheet = Sheet::new(wanted, vec!["x"], 2, "/secret".to_owned());
        for figure in [0, 1] {
            Turn { sheet: &mut sheet, at: 0, round: 0 }.put(figure, 1.0);
        }
        sheet.fail_turn(0, 0, &anyhow!("at the end"));
        sheet.fail_turn(0, 1, &anyhow!("at the start"));
        let figures = sheet.finish();
        let error = |figure: usize| figures[figure].rows[0].error.as_deref();
        assert_eq!((error(0), error(1)), (Some("at the start"), Some("at the end")));
    }
}
