//! What an expression says, once it was read.

use super::eval::Function;
use super::like::Pattern;
use super::value::{Arithmetic, Value};
use crate::compare::Compare;

/// A step from a value to one inside of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A member of an object, or a column. In quotes the case of letters counts.
    Name { name: String, quoted: bool },
    /// An element of an array, from 0.
    Element(usize),
    /// All elements of an array: only after `FROM`.
    All,
}

impl Step {
    /// Whether it names `candidate`: without quotes the case of letters does not count.
    pub(super) fn names(&self, candidate: &str) -> bool {
        match self {
            Self::Name { name, quoted: true } => name == candidate,
            Self::Name { name, quoted: false } => name.eq_ignore_ascii_case(candidate),
            _ => false,
        }
    }
}

/// What a statement reads of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Column {
    /// Steps from the record; none for the record itself.
    pub(super) steps: Vec<Step>,
}

impl Column {
    /// The number, from 0, that a name like `_2` stands for.
    pub(super) fn position(&self) -> Option<usize> {
        let Some(Step::Name { name, .. }) = self.steps.first() else { return None };
        name.strip_prefix('_')?.parse::<usize>().ok()?.checked_sub(1)
    }
}

/// A statement.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Statement {
    /// `None` for `*`.
    pub(super) items: Option<Vec<Item>>,
    /// Steps from the document to its records.
    pub(super) from: Vec<Step>,
    pub(super) filter: Option<Expr>,
    pub(super) limit: Option<u64>,
    pub(super) columns: Vec<Column>,
    pub(super) aggregates: Vec<Aggregate>,
}

/// What is selected.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Item {
    pub(super) name: String,
    pub(super) value: Expr,
}

/// An aggregate function of a statement.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Aggregate {
    pub(super) kind: AggregateKind,
    /// `None` for `COUNT(*)`.
    pub(super) argument: Option<Expr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AggregateKind {
    Count,
    Sum,
    Average,
    Min,
    Max,
}

/// Types of `CAST`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Bool,
    Int,
    Float,
    /// Digits after the point, where they are given.
    Decimal(Option<u32>),
    Text,
    Timestamp,
}

/// An expression.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Expr {
    Literal(Value<'static>),
    /// The number of the column in [`Statement::columns`].
    Column(usize),
    /// The number of the aggregate in [`Statement::aggregates`].
    Aggregate(usize),
    And(Vec<Expr>),
    Or(Vec<Expr>),
    Not(Box<Expr>),
    Compare(Compare, Box<Expr>, Box<Expr>),
    /// The value, the least and the greatest.
    Between(Box<Expr>, Box<Expr>, Box<Expr>),
    In(Box<Expr>, Vec<Expr>),
    Like(Box<Expr>, Like),
    IsNull(Box<Expr>),
    IsMissing(Box<Expr>),
    Arithmetic(Arithmetic, Box<Expr>, Box<Expr>),
    Negate(Box<Expr>),
    Concat(Box<Expr>, Box<Expr>),
    /// What is compared, if anything; conditions, or values that it may equal, with their values; and the value of the rest.
    Case(Option<Box<Expr>>, Vec<(Expr, Expr)>, Box<Expr>),
    Cast(Box<Expr>, Type),
    Call(Function, Vec<Expr>),
}

/// A pattern that is known when the statement is read, or one that is computed.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Like {
    Known(Pattern),
    Computed(Box<Expr>, Option<Box<Expr>>),
}
