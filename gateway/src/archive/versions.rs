//! The table of versions as a Parquet file: what the bucket holds, for any tool that reads Parquet.
//!
//! One row per version and delete marker that S3 shows, in order of bucket id, key, newest first; the columns are those of
//! `holdfast.versions`. It is a second form of what the checkpoint's rows say and is not read back. Row groups are small,
//! so that writing one holds little.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

use holdfast_core::id::{BucketId, BucketName};
use holdfast_core::keyspace::{Keyspace, key};
use holdfast_core::kv::{Direction, KeyRange, KvRead};
use holdfast_core::record::{BlobRow, Body, BucketRow, Extent, HistoryRow, Location, PageRow, Record};
use holdfast_core::state::Stop;
use parquet::basic::Compression;
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DataType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;

use super::Error;

/// Most rows and bytes of text of one row group.
const GROUP_ROWS_MAX: usize = 16 << 10;
const GROUP_BYTES_MAX: usize = 8 << 20;

const SCHEMA: &str = "
message holdfast_versions {
  REQUIRED BYTE_ARRAY bucket (STRING);
  REQUIRED BYTE_ARRAY key (STRING);
  REQUIRED BYTE_ARRAY version_id (STRING);
  REQUIRED INT64 revision;
  REQUIRED BOOLEAN is_latest;
  REQUIRED BOOLEAN is_delete_marker;
  OPTIONAL INT64 size;
  OPTIONAL BYTE_ARRAY etag (STRING);
  OPTIONAL BYTE_ARRAY sha256 (STRING);
  OPTIONAL INT64 created (TIMESTAMP(MILLIS, true));
  REQUIRED INT64 last_modified (TIMESTAMP(MILLIS, true));
  OPTIONAL BYTE_ARRAY content_type (STRING);
  REQUIRED GROUP metadata (MAP) {
    REPEATED GROUP key_value {
      REQUIRED BYTE_ARRAY key (STRING);
      REQUIRED BYTE_ARRAY value (STRING);
    }
  }
  REQUIRED GROUP tags (MAP) {
    REPEATED GROUP key_value {
      REQUIRED BYTE_ARRAY key (STRING);
      REQUIRED BYTE_ARRAY value (STRING);
    }
  }
  OPTIONAL BYTE_ARRAY location (STRING);
}";

/// Writes the table of the state in `view`; gives the number of its rows.
pub(super) fn write(view: &impl KvRead, out: impl Write + Send) -> Result<u64, Error> {
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_created_by(concat!("holdfast ", env!("CARGO_PKG_VERSION")).to_owned())
        .build();
    let schema = Arc::new(parse_message_type(SCHEMA)?);
    let mut file = SerializedFileWriter::new(out, schema, Arc::new(properties))?;
    let (mut group, mut rows, mut before) = (Group::default(), 0, Vec::new());
    let buckets = buckets(view)?;
    for row in view.scan(Keyspace::History, KeyRange::prefix(&[]), Direction::Forward) {
        let (row_key, value) = row.map_err(Stop::from)?;
        let history = HistoryRow::decode(&value).map_err(Stop::from)?;
        let Some(bucket) = key::name_bucket(&row_key).and_then(|id| buckets.get(&id)) else { continue };
        if history.ended.is_some() {
            continue;
        }
        let (name, place) = key::history_parts(&row_key).map_err(Stop::from)?;
        // Newest first: the first row of a key that has not ended is the latest.
        let own = row_key.len() - PLACE_BYTES;
        let is_latest = before != row_key[..own];
        before.clear();
        before.extend_from_slice(&row_key[..own]);
        let location = location(view, &history)?;
        group.add(bucket, name, place, history, is_latest, location);
        rows += 1;
        if group.bucket.len() >= GROUP_ROWS_MAX || group.bytes >= GROUP_BYTES_MAX {
            std::mem::take(&mut group).write(file.next_row_group()?)?;
        }
    }
    if !group.bucket.is_empty() {
        group.write(file.next_row_group()?)?;
    }
    file.close()?;
    Ok(rows)
}

/// Bytes of the place at the end of a `history` key.
const PLACE_BYTES: usize = 10;

fn buckets(view: &impl KvRead) -> Result<BTreeMap<BucketId, BucketName>, Error> {
    let rows = view.scan(Keyspace::Buckets, KeyRange::prefix(&key::buckets()), Direction::Forward);
    let mut found = BTreeMap::new();
    for row in rows {
        let (row_key, value) = row.map_err(Stop::from)?;
        let bucket = BucketRow::decode(&value).map_err(Stop::from)?;
        if let Some(name) = key::bucket_name(&row_key) {
            found.insert(bucket.id, name);
        }
    }
    Ok(found)
}

/// Where all bytes of a version are, when they are in one place: a path in the backend, or `inline`.
fn location(view: &impl KvRead, row: &HistoryRow) -> Result<Option<String>, Error> {
    let Some(version) = &row.version else { return Ok(None) };
    let extent = match version.body {
        Body::Empty => return Ok(None),
        Body::Single(extent) => extent,
        Body::Pages(content) => {
            let page = view.get(Keyspace::Extents, &key::page(content, 0)).map_err(Stop::from)?;
            let Some(page) = page.map(|page| PageRow::decode(&page)).transpose().map_err(Stop::from)? else {
                return Ok(None);
            };
            match page.extents[..] {
                [extent] => extent,
                _ => return Ok(None),
            }
        }
    };
    whole_blob(view, &extent, version.size)
}

fn whole_blob(view: &impl KvRead, extent: &Extent, size: u64) -> Result<Option<String>, Error> {
    if (extent.offset, extent.length, extent.blob_offset) != (0, size, 0) {
        return Ok(None);
    }
    let blob = view.get(Keyspace::Blobs, &key::blob(extent.blob)).map_err(Stop::from)?;
    let Some(blob) = blob.map(|blob| BlobRow::decode(&blob)).transpose().map_err(Stop::from)? else {
        return Ok(None);
    };
    let path = blob.locations.iter().find_map(|location| match location {
        Location::Path(path) => Some(path.clone()),
        Location::Inline => None,
    });
    let exact = blob.length == size;
    Ok(path.filter(|_| exact).or_else(|| blob.locations.contains(&Location::Inline).then(|| "inline".to_owned())))
}

type Texts = BTreeMap<String, String>;

/// Rows on their way, by column.
#[derive(Default)]
struct Group {
    bytes: usize,
    bucket: Vec<ByteArray>,
    key: Vec<ByteArray>,
    version_id: Vec<ByteArray>,
    revision: Vec<i64>,
    is_latest: Vec<bool>,
    is_delete_marker: Vec<bool>,
    size: Vec<Option<i64>>,
    etag: Vec<Option<ByteArray>>,
    sha256: Vec<Option<ByteArray>>,
    created: Vec<Option<i64>>,
    last_modified: Vec<i64>,
    content_type: Vec<Option<ByteArray>>,
    metadata: Vec<Texts>,
    tags: Vec<Texts>,
    location: Vec<Option<ByteArray>>,
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

impl Group {
    fn add(
        &mut self,
        bucket: &BucketName,
        key: String,
        place: holdfast_core::id::Place,
        row: HistoryRow,
        is_latest: bool,
        location: Option<String>,
    ) {
        let version_id = row.version_id(place).to_string();
        let version = row.version;
        let attributes = version.as_ref().map(|version| version.attributes.clone()).unwrap_or_default();
        let text_bytes = |texts: &Texts| texts.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        self.bytes += key.len() + text_bytes(&attributes.metadata) + text_bytes(&attributes.tags);
        self.bytes += 256 + location.as_ref().map_or(0, String::len);
        self.bucket.push(text(bucket.as_str()));
        self.key.push(text(&key));
        self.version_id.push(text(&version_id));
        self.revision.push(signed(place.revision));
        self.is_latest.push(is_latest);
        self.is_delete_marker.push(version.is_none());
        self.size.push(version.as_ref().map(|version| signed(version.size)));
        self.etag.push(version.as_ref().map(|version| text(&version.etag)));
        self.sha256.push(version.as_ref().and_then(|version| version.sha256).map(|hash| text(&hex::encode(hash))));
        self.created.push(version.as_ref().map(|version| signed(version.created_ms)));
        self.last_modified.push(signed(row.modified_ms));
        self.content_type.push(attributes.headers.content_type.as_deref().map(text));
        self.metadata.push(attributes.metadata);
        self.tags.push(attributes.tags);
        self.location.push(location.as_deref().map(text));
    }

    /// Writes the columns in the order of the schema.
    fn write<W: Write + Send>(self, mut group: SerializedRowGroupWriter<'_, W>) -> Result<(), Error> {
        let group_writer = &mut group;
        required::<ByteArrayType, W>(group_writer, &self.bucket)?;
        required::<ByteArrayType, W>(group_writer, &self.key)?;
        required::<ByteArrayType, W>(group_writer, &self.version_id)?;
        required::<Int64Type, W>(group_writer, &self.revision)?;
        required::<BoolType, W>(group_writer, &self.is_latest)?;
        required::<BoolType, W>(group_writer, &self.is_delete_marker)?;
        optional::<Int64Type, W>(group_writer, self.size)?;
        optional::<ByteArrayType, W>(group_writer, self.etag)?;
        optional::<ByteArrayType, W>(group_writer, self.sha256)?;
        optional::<Int64Type, W>(group_writer, self.created)?;
        required::<Int64Type, W>(group_writer, &self.last_modified)?;
        optional::<ByteArrayType, W>(group_writer, self.content_type)?;
        map(group_writer, &self.metadata)?;
        map(group_writer, &self.tags)?;
        optional::<ByteArrayType, W>(group_writer, self.location)?;
        group.close()?;
        Ok(())
    }
}

fn text(text: &str) -> ByteArray {
    ByteArray::from(text.as_bytes().to_vec())
}

fn column<D: DataType, W: Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    values: &[D::T],
    definitions: Option<&[i16]>,
    repetitions: Option<&[i16]>,
) -> Result<(), Error> {
    let mut column = group.next_column()?.expect("as many columns are written as the schema has");
    column.typed::<D>().write_batch(values, definitions, repetitions)?;
    Ok(column.close()?)
}

fn required<D: DataType, W: Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    values: &[D::T],
) -> Result<(), Error> {
    column::<D, W>(group, values, None, None)
}

fn optional<D: DataType, W: Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    values: Vec<Option<D::T>>,
) -> Result<(), Error> {
    let definitions: Vec<i16> = values.iter().map(|value| i16::from(value.is_some())).collect();
    let present: Vec<D::T> = values.into_iter().flatten().collect();
    column::<D, W>(group, &present, Some(&definitions), None)
}

/// A map is two columns with the same levels: definition 0 is a row without entries, repetition 1 a further entry.
fn map<W: Write + Send>(group: &mut SerializedRowGroupWriter<'_, W>, rows: &[Texts]) -> Result<(), Error> {
    let (mut definitions, mut repetitions) = (Vec::new(), Vec::new());
    for row in rows {
        definitions.extend(if row.is_empty() { vec![0] } else { vec![1; row.len()] });
        repetitions.extend((0..row.len().max(1)).map(|at| i16::from(at > 0)));
    }
    let names: Vec<ByteArray> = rows.iter().flat_map(|row| row.keys()).map(|name| text(name)).collect();
    let values: Vec<ByteArray> = rows.iter().flat_map(|row| row.values()).map(|value| text(value)).collect();
    column::<ByteArrayType, W>(group, &names, Some(&definitions), Some(&repetitions))?;
    column::<ByteArrayType, W>(group, &values, Some(&definitions), Some(&repetitions))
}
