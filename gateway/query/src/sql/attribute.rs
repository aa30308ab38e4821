//! What is known of an object beside its content, as columns: `_key` and its kin, and directories `name=value`.
//!
//! They are constant over the rows of an object, so a predicate on them alone decides which objects are read.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, Int64Builder, MapBuilder, MapFieldNames, RecordBatch, RecordBatchOptions, StringBuilder,
    StringViewBuilder, TimestampMillisecondBuilder,
};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, TimeUnit};
use datafusion::scalar::ScalarValue;

use super::error::Error;
use super::name::hive_parts;
use crate::repository::ObjectVersion;

/// A column that is the same in all rows of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Attribute {
    Key,
    VersionId,
    Revision,
    LastModified,
    Size,
    Etag,
    ContentType,
    Metadata,
    Tags,
    /// A directory `name=value` of the key.
    Directory {
        name: String,
        number: bool,
    },
}

/// Those that only show when they are named.
pub(super) const HIDDEN: [Attribute; 9] = [
    Attribute::Key,
    Attribute::VersionId,
    Attribute::Revision,
    Attribute::LastModified,
    Attribute::Size,
    Attribute::Etag,
    Attribute::ContentType,
    Attribute::Metadata,
    Attribute::Tags,
];

/// Rows that lie one after the other in one object.
pub(super) type Run = (Arc<ObjectVersion>, usize);

impl Attribute {
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Key => "_key",
            Self::VersionId => "_version_id",
            Self::Revision => "_revision",
            Self::LastModified => "_last_modified",
            Self::Size => "_size",
            Self::Etag => "_etag",
            Self::ContentType => "_content_type",
            Self::Metadata => "_metadata",
            Self::Tags => "_tags",
            Self::Directory { name, .. } => name,
        }
    }

    pub(super) fn field(&self) -> FieldRef {
        let field = match self {
            Self::Key | Self::Etag => Field::new(self.name(), DataType::Utf8View, false),
            Self::VersionId | Self::ContentType | Self::Directory { number: false, .. } => {
                Field::new(self.name(), DataType::Utf8View, true)
            }
            Self::Revision | Self::Size => Field::new(self.name(), DataType::Int64, false),
            Self::Directory { number: true, .. } => Field::new(self.name(), DataType::Int64, true),
            Self::LastModified => {
                Field::new(self.name(), DataType::Timestamp(TimeUnit::Millisecond, Some("+00:00".into())), false)
            }
            Self::Metadata | Self::Tags => Field::new(self.name(), map_type(), false),
        };
        field.into()
    }

    /// The column of runs of rows.
    ///
    /// # Errors
    /// `InvalidData` when a directory is no number and those of the sample were.
    pub(super) fn column(&self, runs: &[Run]) -> Result<ArrayRef, Error> {
        Ok(match self {
            Self::Key => texts(runs, |object| Some(&object.key)),
            Self::VersionId => texts(runs, |object| object.version_id.as_deref()),
            Self::Etag => texts(runs, |object| Some(&object.etag)),
            Self::ContentType => texts(runs, |object| object.content_type.as_deref()),
            Self::Revision => numbers(runs, |object| Some(signed(object.id.revision))),
            Self::Size => numbers(runs, |object| Some(signed(object.size))),
            Self::LastModified => {
                let mut builder = TimestampMillisecondBuilder::new().with_timezone("+00:00");
                for (object, rows) in runs {
                    builder.append_value_n(signed(object.modified_ms), *rows);
                }
                Arc::new(builder.finish())
            }
            Self::Metadata => maps(runs, |object| &object.metadata),
            Self::Tags => maps(runs, |object| &object.tags),
            Self::Directory { name, number: false } => texts(runs, |object| directory(object, name)),
            Self::Directory { name, number: true } => {
                for (object, _) in runs {
                    if directory(object, name).is_some_and(|value| value.parse::<i64>().is_err()) {
                        let message = format!(
                            "{}/{}: {name} is no number, as it is in the keys before; name the objects with a narrower \
                             pattern",
                            object.bucket, object.key
                        );
                        return Err(Error::data(message));
                    }
                }
                numbers(runs, |object| directory(object, name)?.parse().ok())
            }
        })
    }

    /// The value of one object.
    pub(super) fn value(&self, object: &Arc<ObjectVersion>) -> Result<ScalarValue, Error> {
        let column = self.column(&[(Arc::clone(object), 1)])?;
        ScalarValue::try_from_array(&column, 0).map_err(Error::from)
    }
}

/// The directories that all of the keys have, as columns.
pub(super) fn directories<'a>(keys: impl Iterator<Item = &'a str>) -> Vec<Attribute> {
    let mut common: Option<Vec<(String, bool)>> = None;
    for key in keys {
        let parts: Vec<(&str, &str)> = hive_parts(key).collect();
        let known = common.get_or_insert_with(|| parts.iter().map(|(name, _)| ((*name).to_owned(), true)).collect());
        known.retain(|(name, _)| parts.iter().any(|(part, _)| part == name));
        for (name, number) in known {
            let value = parts.iter().find(|(part, _)| part == name).map_or("", |(_, value)| value);
            // A value such as 01 stays a text.
            *number &= value.parse::<i64>().is_ok_and(|parsed| parsed.to_string() == value);
        }
    }
    let mut found = common.unwrap_or_default();
    let mut seen = std::collections::HashSet::new();
    found.retain(|(name, _)| seen.insert(name.clone()));
    found.into_iter().map(|(name, number)| Attribute::Directory { name, number }).collect()
}

/// A batch of attributes, a row for each object.
pub(super) fn batch(attributes: &[Attribute], objects: &[Arc<ObjectVersion>]) -> Result<RecordBatch, Error> {
    let runs: Vec<Run> = objects.iter().map(|object| (Arc::clone(object), 1)).collect();
    let columns: Result<Vec<ArrayRef>, Error> = attributes.iter().map(|attribute| attribute.column(&runs)).collect();
    let fields: Vec<FieldRef> = attributes.iter().map(Attribute::field).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(objects.len()));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns?, &options)
        .map_err(|error| Error::from(datafusion::error::DataFusionError::from(error)))
}

fn directory<'a>(object: &'a ObjectVersion, name: &str) -> Option<&'a str> {
    hive_parts(&object.key).find(|(part, _)| *part == name).map(|(_, value)| value)
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn texts<'a>(runs: &'a [Run], value: impl Fn(&'a ObjectVersion) -> Option<&'a str>) -> ArrayRef {
    let mut builder = StringViewBuilder::new();
    for (object, rows) in runs {
        match value(object) {
            Some(text) => (0..*rows).for_each(|_| builder.append_value(text)),
            None => (0..*rows).for_each(|_| builder.append_null()),
        }
    }
    Arc::new(builder.finish())
}

fn numbers(runs: &[Run], value: impl Fn(&ObjectVersion) -> Option<i64>) -> ArrayRef {
    let mut builder = Int64Builder::new();
    for (object, rows) in runs {
        match value(object) {
            Some(number) => builder.append_value_n(number, *rows),
            None => builder.append_nulls(*rows),
        }
    }
    Arc::new(builder.finish())
}

fn maps(runs: &[Run], value: impl Fn(&ObjectVersion) -> &std::collections::BTreeMap<String, String>) -> ArrayRef {
    let mut builder = map_builder();
    for (object, rows) in runs {
        for _ in 0..*rows {
            for (name, text) in value(object) {
                builder.keys().append_value(name);
                builder.values().append_value(text);
            }
            builder.append(true).expect("keys and values are appended in pairs");
        }
    }
    Arc::new(builder.finish())
}

fn map_names() -> MapFieldNames {
    MapFieldNames { entry: "entries".into(), key: "key".into(), value: "value".into() }
}

/// Builds columns of names and values, of [`map_type`].
#[must_use]
pub fn map_builder() -> MapBuilder<StringBuilder, StringBuilder> {
    MapBuilder::new(Some(map_names()), StringBuilder::new(), StringBuilder::new())
        .with_keys_field(Field::new("key", DataType::Utf8, false))
        .with_values_field(Field::new("value", DataType::Utf8, true))
}

/// The type of names and values.
#[must_use]
pub fn map_type() -> DataType {
    let entries =
        Fields::from(vec![Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Utf8, true)]);
    DataType::Map(Arc::new(Field::new("entries", DataType::Struct(entries), false)), false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_that_all_keys_have_are_columns() {
        let check = |keys: &[&str], expected: &[(&str, bool)]| {
            let found = directories(keys.iter().copied());
            let found: Vec<(&str, bool)> = found
                .iter()
                .map(|attribute| match attribute {
                    Attribute::Directory { name, number } => (name.as_str(), *number),
                    other => panic!("{other:?}"),
                })
                .collect();
            assert_eq!(found, expected, "{keys:?}");
        };
        check(&[], &[]);
        check(&["y=2024/m=01/a.csv", "y=2023/m=12/b.csv"], &[("y", true), ("m", false)]);
        check(&["y=2024/m=1/a", "y=x/b"], &[("y", false)]);
        check(&["y=1/y=2/a"], &[("y", true)]);
    }
}
