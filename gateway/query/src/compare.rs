//! The six comparisons, as listings and S3 Select have them.

use std::cmp::Ordering;

/// An operator that compares two values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compare {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Compare {
    /// Whether it holds of two values in this order. Those without one are not equal; whether one is less is not known.
    pub(crate) fn holds(self, order: Option<Ordering>) -> Option<bool> {
        Some(match self {
            Self::Equal => order == Some(Ordering::Equal),
            Self::NotEqual => order != Some(Ordering::Equal),
            Self::Less => order?.is_lt(),
            Self::LessOrEqual => order?.is_le(),
            Self::Greater => order?.is_gt(),
            Self::GreaterOrEqual => order?.is_ge(),
        })
    }

    /// The one that says the same of the two values the other way around.
    pub(crate) fn flipped(self) -> Self {
        match self {
            Self::Less => Self::Greater,
            Self::LessOrEqual => Self::GreaterOrEqual,
            Self::Greater => Self::Less,
            Self::GreaterOrEqual => Self::LessOrEqual,
            same => same,
        }
    }
}
