//! What goes wrong with a statement, in the words of whoever wrote it.

use std::sync::Arc;

use arrow::error::ArrowError;
use datafusion::error::DataFusionError;
use datafusion::sql::sqlparser::tokenizer::Location;

use crate::repository;
pub use crate::repository::Kind;

/// A place in the text of a statement; both count from 1, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Line.
    pub line: u64,
    /// Column.
    pub column: u64,
}

/// Why there is no answer, or no more of it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// What a client does with it.
    pub kind: Kind,
    /// Name for programs, such as `InvalidSql`.
    pub code: &'static str,
    /// For the client.
    pub message: String,
    /// Where in the statement, when that is known.
    pub position: Option<Position>,
    /// What it came from.
    #[source]
    pub source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    pub(crate) fn new(kind: Kind, code: &'static str, message: impl Into<String>) -> Self {
        Self { kind, code, message: message.into(), position: None, source: None }
    }

    /// The statement makes no sense.
    pub(super) fn sql(message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, "InvalidSql", message)
    }

    /// The statement makes sense, but is not built.
    pub(super) fn not_built(what: impl std::fmt::Display) -> Self {
        Self::new(Kind::Invalid, "NotImplemented", format!("{what} is not supported"))
    }

    /// An object does not hold what the query expects of it.
    pub(super) fn data(message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, "InvalidData", message)
    }

    pub(super) fn at(mut self, place: Location) -> Self {
        if place.line > 0 {
            self.position = Some(Position { line: place.line, column: place.column });
        }
        self
    }
}

impl From<Error> for DataFusionError {
    fn from(error: Error) -> Self {
        Self::External(Box::new(error))
    }
}

impl From<repository::Error> for Error {
    fn from(error: repository::Error) -> Self {
        Self {
            kind: error.kind,
            code: error.code,
            message: error.message.clone(),
            position: None,
            source: Some(Arc::new(error)),
        }
    }
}

impl From<DataFusionError> for Error {
    fn from(error: DataFusionError) -> Self {
        if let Some(own) = own(&error) {
            return own;
        }
        let position = error
            .diagnostic()
            .and_then(|diagnostic| diagnostic.span)
            .map(|span| Position { line: span.start.line, column: span.start.column });
        let (kind, code) = classify(error.find_root());
        // The chain of a planner's error repeats itself; a defect keeps its chain for the log only.
        let message = match kind {
            // What the engine says of it speaks of settings that nobody can make here.
            _ if code == "ResourcesExhausted" => {
                "the query needs more memory, and room on the disk, than queries have here".to_owned()
            }
            Kind::Internal => "the query failed by a defect of the engine".to_owned(),
            _ => shown(error.find_root()),
        };
        Self { kind, code, message, position, source: Some(Arc::new(error)) }
    }
}

/// The message without the name of its layer.
fn shown(error: &DataFusionError) -> String {
    match error {
        DataFusionError::ArrowError(inner, _) => match inner.as_ref() {
            ArrowError::CastError(text)
            | ArrowError::ComputeError(text)
            | ArrowError::ParseError(text)
            | ArrowError::InvalidArgumentError(text)
            | ArrowError::ArithmeticOverflow(text) => text.clone(),
            other => other.to_string(),
        },
        DataFusionError::ParquetError(inner) => inner.to_string(),
        other => other.strip_backtrace(),
    }
}

/// An error of ours that travelled through the engine in its wrapping.
fn own(error: &(dyn std::error::Error + 'static)) -> Option<Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(own) = error.downcast_ref::<Error>() {
            return Some(own.clone());
        }
        next = match error.downcast_ref::<DataFusionError>() {
            Some(DataFusionError::External(inner)) => Some(inner.as_ref()),
            Some(DataFusionError::ArrowError(inner, _)) => Some(inner.as_ref()),
            Some(DataFusionError::ParquetError(inner)) => Some(inner.as_ref()),
            Some(DataFusionError::Shared(inner)) => Some(inner.as_ref()),
            Some(DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner)) => Some(inner.as_ref()),
            _ => match error.downcast_ref::<ArrowError>() {
                Some(ArrowError::ExternalError(inner)) => Some(inner.as_ref()),
                _ => match error.downcast_ref::<parquet::errors::ParquetError>() {
                    Some(parquet::errors::ParquetError::External(inner)) => Some(inner.as_ref()),
                    _ => error.source(),
                },
            },
        };
    }
    None
}

fn classify(error: &DataFusionError) -> (Kind, &'static str) {
    match error {
        DataFusionError::SQL(..) | DataFusionError::Plan(_) | DataFusionError::SchemaError(..) => {
            (Kind::Invalid, "InvalidSql")
        }
        DataFusionError::NotImplemented(_) => (Kind::Invalid, "NotImplemented"),
        DataFusionError::ResourcesExhausted(_) | DataFusionError::IoError(_) => {
            (Kind::Unavailable, "ResourcesExhausted")
        }
        DataFusionError::ArrowError(inner, _) => match inner.as_ref() {
            // The one thing that the engine does with files is to spill rows.
            ArrowError::IoError(..) | ArrowError::MemoryError(_) => (Kind::Unavailable, "ResourcesExhausted"),
            ArrowError::DivideByZero
            | ArrowError::ArithmeticOverflow(_)
            | ArrowError::ComputeError(_)
            | ArrowError::CastError(_) => (Kind::Invalid, "InvalidQuery"),
            _ => (Kind::Invalid, "InvalidData"),
        },
        DataFusionError::ParquetError(_) => (Kind::Invalid, "InvalidData"),
        DataFusionError::Execution(_) | DataFusionError::Configuration(_) => (Kind::Invalid, "InvalidQuery"),
        _ => (Kind::Internal, "InternalError"),
    }
}
