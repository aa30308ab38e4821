//! What S3 Select refuses. Source: S3 API, "List of SELECT Object Content Error Codes".

use std::borrow::Cow;

use crate::repository::{self, Kind};
use crate::sql;

/// A refusal, or what went wrong while records were read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// What a client does with it.
    pub kind: Kind,
    /// AWS's name for it.
    pub code: &'static str,
    /// For the client.
    pub message: Cow<'static, str>,
}

impl Error {
    /// A request that makes no sense, by AWS's name for why.
    #[must_use]
    pub fn new(code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self { kind: Kind::Invalid, code, message: message.into() }
    }

    pub(super) fn internal(message: &'static str) -> Self {
        Self { kind: Kind::Internal, ..Self::new("InternalError", message) }
    }

    /// The operand of an operator or the argument of a function has a type that it cannot take.
    pub(super) fn type_of(what: &str) -> Self {
        Self::new("IncorrectSqlFunctionArgumentType", format!("{what} cannot take a value of this type"))
    }

    pub(super) fn cast(text: &str, kind: &str) -> Self {
        let text: String = text.chars().take(64).collect();
        Self::new("CastFailed", format!("{text:?} cannot be cast to {kind}"))
    }

    pub(super) fn overflow() -> Self {
        Self::new("IntegerOverflow", "a number is beyond what 64-bit integers, or decimals of 28 digits, can hold")
    }
}

impl From<repository::Error> for Error {
    fn from(error: repository::Error) -> Self {
        Self { kind: error.kind, ..Self::new(error.code, error.message) }
    }
}

impl From<sql::Error> for Error {
    fn from(error: sql::Error) -> Self {
        Self { kind: error.kind, ..Self::new(error.code, error.message) }
    }
}
