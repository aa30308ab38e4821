//! What the first bytes of an object say of its columns.

use std::sync::Arc;

use super::super::error::Error;
use super::super::of_arrow;
use super::super::read::Reader;
use super::super::shape::Members;
use super::chunks::{Chunks, name};
use super::decode::of_fault;
use super::json::Cursor;
use super::{Compression, Format};
use crate::repository::ObjectVersion;

/// Bytes after which a sample without a whole row gives up.
const SAMPLE_BYTES_MAX: u64 = 64 << 20;

/// The columns of some rows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample {
    pub(crate) members: Members,
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
}

/// The columns of the rows in the first bytes of an object; more bytes when not even one row ends in them.
pub(crate) async fn sample(
    reader: &Reader,
    object: &Arc<ObjectVersion>,
    format: &Format,
    compression: Compression,
    bytes: u64,
) -> Result<Sample, Error> {
    let mut bytes_max = bytes.max(1);
    loop {
        let mut chunks = Chunks::open(reader, Arc::clone(object), format, compression, bytes_max).await?;
        let mut sample = Sample { bytes: object.size.min(bytes_max), ..Sample::default() };
        while let Some(chunk) = chunks.next().await? {
            let (members, rows) = match format {
                Format::Json => of_json(object, &chunk.bytes)?,
                Format::Csv(dialect) => {
                    let names = chunk.names.as_ref().map_or(&[][..], |names| names.as_slice());
                    let shapes = dialect.shapes(names, &chunk.bytes);
                    shapes.map_err(|error| named(object, of_arrow(error)))?
                }
            };
            sample.members.merge_all(members);
            sample.rows += rows as u64;
        }
        if sample.rows == 0 && bytes_max < object.size.min(SAMPLE_BYTES_MAX) {
            bytes_max *= 4;
            continue;
        }
        // A head without rows has columns, too.
        for column in chunks.names().map(|names| names.as_slice()).unwrap_or_default() {
            sample.members.merge(column, super::super::shape::Shape::Null);
        }
        return Ok(sample);
    }
}

fn of_json(object: &Arc<ObjectVersion>, bytes: &[u8]) -> Result<(Members, usize), Error> {
    let text =
        std::str::from_utf8(bytes).map_err(|error| Error::data(format!("{} is no UTF-8: {error}", name(object))))?;
    let (mut members, mut rows, mut cursor) = (Members::default(), 0, Cursor::new(text));
    while cursor.more().map_err(|fault| of_fault(object, fault))? {
        members.merge_all(cursor.row_shape().map_err(|fault| of_fault(object, fault))?);
        rows += 1;
    }
    Ok((members, rows))
}

fn named(object: &ObjectVersion, error: Error) -> Error {
    let source = error.source.clone();
    Error { source, ..Error::data(format!("{}: {}", name(object), error.message)) }
}
