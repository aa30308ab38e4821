//! Which format and which columns a table has.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::datatypes::{FieldRef, Schema, SchemaRef};
use futures::{StreamExt, TryStreamExt, stream};
use moka::future::Cache;

use super::super::attribute::{HIDDEN, directories};
use super::super::error::{Error, Kind as ErrorKind};
use super::super::format::{Kind, Options, SAMPLE_OBJECTS, compression_of, kind_of};
use super::super::name::{Keys, Place};
use super::super::parquet::{self, FOOTERS_AHEAD_MAX, Footers};
use super::super::read::Reader;
use super::super::shape::{COLUMNS_MAX, Members, Shape};
use super::super::text::csv::Dialect;
use super::super::text::{Format, Sample, sample};
use super::{ObjectTable, Sampling, TableFormat};
use crate::repository::{ObjectVersion, VersionKey};

/// Footers that the columns of a table of Parquet come from at first: each is a request.
const FOOTERS_FEW: usize = 8;
/// Objects that are sampled at once.
const SAMPLES_AHEAD_MAX: usize = 16;
/// Bytes of one object that are sampled.
const OBJECT_BYTES: u64 = 4 << 20;
/// Objects of a table.
const OBJECTS_MAX: usize = 2_000_000;

/// What is kept of versions between queries.
#[derive(Clone, Debug)]
pub(crate) struct Caches {
    pub(crate) footers: Footers,
    samples: Cache<(VersionKey, u64), Arc<Sample>>,
}

impl Caches {
    pub(crate) fn new(bytes_max: u64) -> Self {
        let weigh = |_: &(VersionKey, u64), sample: &Arc<Sample>| {
            let names: usize = sample.members.names().map(|name| name.len() + 100).sum();
            u32::try_from(names + 200).unwrap_or(u32::MAX)
        };
        Self {
            footers: Footers::new(bytes_max / 2),
            samples: Cache::builder().max_capacity(bytes_max / 2).weigher(weigh).build(),
        }
    }

    async fn sample(
        &self,
        reader: &Reader,
        object: &Arc<ObjectVersion>,
        format: &Format,
        bytes: u64,
    ) -> Result<Arc<Sample>, Error> {
        let compression = compression_of(object);
        let mut hasher = DefaultHasher::new();
        (format, compression, bytes).hash(&mut hasher);
        let key = (object.id, hasher.finish());
        if let Some(sample) = self.samples.get(&key).await {
            return Ok(sample);
        }
        let sample = Arc::new(sample(reader, object, format, compression, bytes).await?);
        self.samples.insert(key, Arc::clone(&sample)).await;
        Ok(sample)
    }
}

/// The table that a name stands for.
///
/// # Errors
/// Those of the repository; `InvalidData` when the objects have no one format, or do not parse.
pub(crate) async fn bind(
    reader: Reader,
    caches: Caches,
    place: Place,
    options: Options,
    mentioned: &[String],
    sampling: Sampling,
) -> Result<ObjectTable, Error> {
    let count_max = options.sample_objects.unwrap_or(SAMPLE_OBJECTS);
    let (place, first, complete) = first(&reader, place, count_max).await?;
    let kind = agreed(&first, &options)?;
    let format = match kind {
        Some(Kind::Parquet) => TableFormat::Parquet,
        Some(Kind::Csv(delimiter)) => {
            let mut dialect = options.dialect.clone();
            dialect.delimiter = delimiter;
            TableFormat::Text(Format::Csv(dialect))
        }
        Some(Kind::Json) | None => TableFormat::Text(Format::Json),
    };
    let mut density = 0.0;
    let few = sampling == Sampling::Few
        && format == TableFormat::Parquet
        && options.sample_objects.is_none()
        && first.len() > FOOTERS_FEW;
    let columns = match &format {
        TableFormat::Parquet if few => parquet_columns(&reader, &caches, &far_apart(&first)).await?,
        TableFormat::Parquet => parquet_columns(&reader, &caches, &first).await?,
        TableFormat::Text(format) => {
            let sample = sampled(&reader, &caches, &first, format, &options).await?;
            #[expect(clippy::cast_precision_loss, reason = "it is an estimate")]
            let estimate = sample.rows as f64 / sample.bytes.max(1) as f64;
            density = estimate;
            shaped(sample.members, format, &options)?.fields().iter().cloned().collect()
        }
    };
    if columns.len() > COLUMNS_MAX {
        return Err(Error::data(format!("{place} has more than {COLUMNS_MAX} columns")));
    }
    let taken = |name: &str| columns.iter().any(|column: &FieldRef| column.name() == name);
    let mut attributes = directories(first.iter().map(|object| object.key.as_str()));
    attributes.extend(HIDDEN.into_iter().filter(|hidden| mentioned.iter().any(|name| name == hidden.name())));
    // What the objects hold comes before what is known of them.
    attributes.retain(|attribute| !taken(attribute.name()));
    let all = columns.iter().cloned().chain(attributes.iter().map(super::Attribute::field));
    let schema: SchemaRef = Arc::new(Schema::new(all.collect::<Vec<FieldRef>>()));
    let hidden = attributes.iter().filter(|attribute| HIDDEN.contains(attribute));
    Ok(ObjectTable {
        hidden: hidden.map(|attribute| attribute.name().to_owned()).collect(),
        content: Arc::new(Schema::new(columns)),
        kind: kind.map_or_else(|| "none".to_owned(), |kind| kind.to_string()),
        place,
        reader,
        caches,
        options,
        format,
        first,
        complete,
        attributes,
        schema,
        density,
        few,
    })
}

/// Whether an object has rows. One without bytes has neither rows nor a format: a mark of a directory, or of a job.
fn has_rows(place: &Place, object: &ObjectVersion) -> bool {
    object.size > 0 && place.holds(&object.key)
}

/// The first objects of a place, and whether those are all. A name without a slash at its end is an object, or else a
/// directory.
async fn first(
    reader: &Reader,
    place: Place,
    count_max: usize,
) -> Result<(Place, Vec<Arc<ObjectVersion>>, bool), Error> {
    let (found, complete) = list(reader, &place, place.prefix(), count_max).await?;
    let Keys::Named(name) = &place.keys else { return Ok((place, found, complete)) };
    if !found.is_empty() {
        return Ok((place, found, true));
    }
    let directory = Place { bucket: place.bucket.clone(), keys: Keys::Prefix(format!("{name}/")) };
    let (found, complete) = list(reader, &directory, directory.prefix(), count_max).await?;
    if found.is_empty() {
        let message = format!("there is no object {place}, and none under it");
        return Err(Error::new(ErrorKind::NotFound, "NoSuchKey", message));
    }
    Ok((directory, found, complete))
}

/// Objects of a place whose keys begin with `prefix`, at most so many, and whether those are all.
pub(super) async fn list(
    reader: &Reader,
    place: &Place,
    prefix: &str,
    count_max: usize,
) -> Result<(Vec<Arc<ObjectVersion>>, bool), Error> {
    let mut listed = reader.snapshot.objects(&place.bucket, prefix).await?;
    let mut found = Vec::new();
    while let Some(object) = listed.try_next().await? {
        if !has_rows(place, &object) {
            // No key after this one is the name itself.
            if matches!(&place.keys, Keys::Named(name) if object.key > *name) {
                break;
            }
            continue;
        }
        if found.len() == count_max {
            return Ok((found, false));
        }
        found.push(object);
    }
    Ok((found, true))
}

/// All objects of a place whose keys begin with `prefix`.
pub(super) async fn list_all(table: &ObjectTable, prefix: &str) -> Result<Vec<Arc<ObjectVersion>>, Error> {
    let (found, complete) = list(&table.reader, &table.place, prefix, OBJECTS_MAX).await?;
    if !complete {
        let message = format!("{} has more than {OBJECTS_MAX} objects", table.place);
        return Err(Error::new(ErrorKind::Invalid, "TooManyObjects", message));
    }
    agreed(&found, &table.options)?;
    Ok(found)
}

/// The one format of objects; `None` without objects.
pub(super) fn agreed<'a>(
    objects: impl IntoIterator<Item = &'a Arc<ObjectVersion>>,
    options: &Options,
) -> Result<Option<Kind>, Error> {
    if options.kind.is_some() {
        return Ok(options.kind);
    }
    let mut known: Option<(Kind, &str)> = None;
    for object in objects {
        let kind = kind_of(&object.key).ok_or_else(|| {
            let message = format!(
                "{}/{} does not tell its format: read_csv, read_json and read_parquet name one, for keys such as \
                 's3://bucket/prefix/*.csv'",
                object.bucket, object.key
            );
            Error::data(message)
        })?;
        match known {
            None => known = Some((kind, &object.key)),
            Some((first, key)) if first != kind => {
                let message = format!(
                    "a table has one format, but {:?} is {first} and {:?} is {kind}; name one of them, such as \
                     \"{}/*.{kind}\"",
                    key, object.key, object.bucket
                );
                return Err(Error::data(message));
            }
            Some(_) => {}
        }
    }
    Ok(known.map(|(kind, _)| kind))
}

/// Whether rows are what indexes on content take them for: those know the keys of objects, and no options of a statement.
pub(super) fn reads_as_indexes_do(place: &Place, options: &Options) -> bool {
    options.kind.is_none() || (options.dialect == Dialect::default() && kind_of(place.keys.text()) == options.kind)
}

/// [`FOOTERS_FEW`] objects of more, the first and the last among them.
fn far_apart(objects: &[Arc<ObjectVersion>]) -> Vec<Arc<ObjectVersion>> {
    let last = objects.len() - 1;
    (0..FOOTERS_FEW).map(|number| Arc::clone(&objects[number * last / (FOOTERS_FEW - 1)])).collect()
}

async fn parquet_columns(
    reader: &Reader,
    caches: &Caches,
    objects: &[Arc<ObjectVersion>],
) -> Result<Vec<FieldRef>, Error> {
    let mut footers = stream::iter(objects.to_vec())
        .map(|object| {
            let (reader, footers) = (reader.clone(), caches.footers.clone());
            async move { footers.of(&reader, &object).await.map(|footer| (object, footer)) }
        })
        .buffered(FOOTERS_AHEAD_MAX);
    let mut columns = Vec::new();
    while let Some((object, footer)) = footers.try_next().await? {
        parquet::merge(&mut columns, &object, &footer.columns)?;
    }
    Ok(columns)
}

/// The samples of objects together, until they have bytes enough.
async fn sampled(
    reader: &Reader,
    caches: &Caches,
    objects: &[Arc<ObjectVersion>],
    format: &Format,
    options: &Options,
) -> Result<Sample, Error> {
    let bytes_each = OBJECT_BYTES.min(options.sample_bytes).max(options.sample_bytes / objects.len().max(1) as u64);
    let mut samples = stream::iter(objects.to_vec())
        .map(|object| {
            let (reader, caches, format) = (reader.clone(), caches.clone(), format.clone());
            async move { caches.sample(&reader, &object, &format, bytes_each).await }
        })
        .buffered(SAMPLES_AHEAD_MAX);
    let mut all = Sample::default();
    while all.bytes < options.sample_bytes {
        let Some(sample) = samples.try_next().await? else { break };
        all.members.merge_all(sample.members.clone());
        all.rows += sample.rows;
        all.bytes += sample.bytes;
    }
    Ok(all)
}

/// The columns of a sample, with the types that the statement names.
fn shaped(mut members: Members, format: &Format, options: &Options) -> Result<Schema, Error> {
    if options.all_text {
        let names: Vec<String> = members.names().map(str::to_owned).collect();
        for name in &names {
            members.set(name, Shape::Text);
        }
    }
    for (name, shape) in &options.types {
        if *shape == Shape::Mixed && *format != Format::Json {
            return Err(Error::sql("only JSON has columns of type json"));
        }
        if !members.set(name, shape.clone()) {
            return Err(Error::sql(format!("types names a column {name:?} that is not in the sample")));
        }
    }
    Ok(Schema::new(members.fields()))
}
