//! SQL over the repository, on DataFusion.
//!
//! Tables are objects (`"bucket/prefix/"`, `read_csv('s3://bucket/*.csv')`) and facts about them (`holdfast.versions`), at
//! one revision a statement or at those that `AS OF` names. A scan goes by the index that leaves the least to read, and
//! every row that an index names is checked again by the filter above it, so answers are the same with it and without.
//!
//! ```text
//! statement → tables → columns → plan ─→ table (bind, path) ─→ scan ─→ text | parquet ─→ read ─→ repository
//!     └→ ddl: carried out by the gateway
//! ```
//! Absent: statements that write, settings, access to files, to the network and to the environment.

mod attribute;
mod bounded;
mod columns;
mod constraint;
mod ddl;
mod encode;
mod error;
mod extremes;
mod floats;
mod format;
mod in_order;
mod name;
mod parquet;
mod plan;
mod query;
mod read;
mod scan;
mod session;
mod shape;
mod statement;
mod system;
mod table;
mod tables;
mod text;
mod yielding;

pub use self::attribute::{map_builder, map_type};
pub use self::ddl::{CreateIndex, DropIndex};
pub use self::encode::{Format, encode};
pub use self::error::{Error, Kind, Position};
pub use self::query::{Query, Statement};
pub use self::read::Progress;
pub use self::system::system_schema;

pub(crate) use self::constraint::{Key, Predicate, Wanted};
pub(crate) use self::format::compression_of;
pub(crate) use self::parquet::{Footers, Object as ParquetObject, bytes_of, touched};
pub(crate) use self::read::{Budget, Reader};
pub(crate) use self::session::{runtime, session};
pub(crate) use self::table::{Caches, Selected, by_index};
pub use self::text::Compression;
pub(crate) use self::text::Unpack;

fn of_arrow(error: arrow::error::ArrowError) -> Error {
    Error::from(datafusion::error::DataFusionError::from(error))
}
