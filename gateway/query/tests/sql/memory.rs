//! A repository in memory, with indexes that hold what the gateway's would: canonical values by row or by block, and
//! objects that are not indexed yet.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use holdfast_core::index::{Expression, IndexInfo, IndexKind, IndexState, Interval, Step, Value};
use holdfast_query::repository::{
    AsOf, Error, Hits, Kind, ObjectVersion, Repository, Snapshot, SystemFilter, SystemTable, VersionKey,
};

/// How the rows of an object stand in the indexes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Indexed {
    /// An entry for each row.
    Rows,
    /// A summary of so many rows.
    Blocks(usize),
    /// Not yet.
    Pending,
}

#[derive(Clone, Debug)]
struct Stored {
    version: Arc<ObjectVersion>,
    bytes: Bytes,
    indexed: Indexed,
}

#[derive(Clone, Debug, Default)]
struct State {
    objects: BTreeMap<(String, String), Stored>,
}

/// All revisions of everything.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    states: BTreeMap<u64, Arc<State>>,
    buckets: BTreeSet<String>,
    indexes: Vec<IndexInfo>,
    /// Reads of bytes, of all queries.
    pub reads: Arc<AtomicU64>,
    /// Searches of indexes, of all queries.
    pub searches: Arc<AtomicU64>,
    /// How long each piece of a read takes.
    pub delay: Duration,
    /// Bytes of a piece; 0 is all in one.
    pub piece_bytes: usize,
}

/// Time of the first revision, milliseconds of the Unix epoch; each further one is a second later.
pub const BEGAN_MS: u64 = 1_700_000_000_000;

impl Memory {
    pub fn revision(&self) -> u64 {
        self.states.keys().last().copied().unwrap_or(0)
    }

    fn next(&mut self) -> (u64, State) {
        let revision = self.revision() + 1;
        let state = self.states.values().last().map(|state| State::clone(state)).unwrap_or_default();
        (revision, state)
    }

    pub fn put(&mut self, path: &str, bytes: impl Into<Bytes>) {
        self.put_as(path, bytes, Indexed::Rows, |_| {});
    }

    /// Writes an object, and changes what is known of it.
    pub fn put_as(
        &mut self,
        path: &str,
        bytes: impl Into<Bytes>,
        indexed: Indexed,
        change: impl FnOnce(&mut ObjectVersion),
    ) {
        let (bucket, key) = path.split_once('/').unwrap();
        let (revision, mut state) = self.next();
        let bytes = bytes.into();
        let mut version = ObjectVersion {
            id: VersionKey { bucket: 1, revision, ordinal: 0, generation: revision },
            bucket: bucket.to_owned(),
            key: key.to_owned(),
            version_id: Some(format!("v{revision}")),
            size: bytes.len() as u64,
            etag: format!("etag-{revision}"),
            modified_ms: BEGAN_MS + revision * 1000,
            content_type: None,
            content_encoding: None,
            metadata: BTreeMap::new(),
            tags: BTreeMap::new(),
        };
        change(&mut version);
        self.buckets.insert(bucket.to_owned());
        let stored = Stored { version: Arc::new(version), bytes, indexed };
        state.objects.insert((bucket.to_owned(), key.to_owned()), stored);
        self.states.insert(revision, Arc::new(state));
    }

    pub fn delete(&mut self, path: &str) {
        let (bucket, key) = path.split_once('/').unwrap();
        let (revision, mut state) = self.next();
        state.objects.remove(&(bucket.to_owned(), key.to_owned()));
        self.states.insert(revision, Arc::new(state));
    }

    pub fn index(&mut self, name: &str, place: &str, kind: IndexKind, expressions: Vec<Expression>) {
        let (bucket, prefix) = place.split_once('/').unwrap();
        self.indexes.push(IndexInfo {
            id: self.indexes.len() as u64 + 1,
            name: name.to_owned(),
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
            kind,
            unique: false,
            expressions,
            state: IndexState::Ready,
            objects: 0,
            entries: 0,
            pending: 0,
            unparsed: 0,
            bytes: 0,
            block_bytes: 0,
            runs: 0,
            run_bytes: 0,
        });
    }

    pub fn without_indexes(&self) -> Self {
        Self { indexes: Vec::new(), ..self.clone() }
    }

    pub fn shared(&self) -> Arc<dyn Repository> {
        Arc::new(self.clone())
    }
}

#[async_trait]
impl Repository for Memory {
    async fn open(&self, at: AsOf) -> Result<Arc<dyn Snapshot>, Error> {
        let revision = match at {
            AsOf::Now => self.revision(),
            AsOf::Revision(revision) => revision,
            AsOf::Timestamp(time) => time.saturating_sub(BEGAN_MS) / 1000,
        };
        if revision > self.revision() || (revision == 0 && at != AsOf::Now) {
            let message = format!("revision {revision} is not kept");
            return Err(Error { kind: Kind::Invalid, code: "RevisionCompacted", message });
        }
        let state = self.states.get(&revision).cloned().unwrap_or_default();
        Ok(Arc::new(View { memory: self.clone(), revision, state }))
    }
}

struct View {
    memory: Memory,
    revision: u64,
    state: Arc<State>,
}

impl View {
    fn under(&self, bucket: &str, prefix: &str) -> Result<Vec<Stored>, Error> {
        if bucket == "secret" {
            return Err(Error { kind: Kind::Denied, code: "AccessDenied", message: "access denied".to_owned() });
        }
        if !self.memory.buckets.contains(bucket) {
            let message = format!("there is no bucket {bucket}");
            return Err(Error { kind: Kind::NotFound, code: "NoSuchBucket", message });
        }
        let from = (bucket.to_owned(), prefix.to_owned());
        let found = self.state.objects.range(from..);
        let found = found.take_while(|((b, key), _)| b == bucket && key.starts_with(prefix));
        Ok(found.map(|(_, stored)| stored.clone()).collect())
    }
}

#[async_trait]
impl Snapshot for View {
    fn revision(&self) -> u64 {
        self.revision
    }

    async fn object(&self, bucket: &str, key: &str) -> Result<Arc<ObjectVersion>, Error> {
        let found = self.under(bucket, key)?.into_iter().map(|stored| stored.version).find(|found| found.key == key);
        found.ok_or_else(|| Error {
            kind: Kind::NotFound,
            code: "NoSuchKey",
            message: "The specified key does not exist.".to_owned(),
        })
    }

    async fn objects(
        &self,
        bucket: &str,
        prefix: &str,
    ) -> Result<BoxStream<'static, Result<Arc<ObjectVersion>, Error>>, Error> {
        let found: Vec<_> = self.under(bucket, prefix)?.into_iter().map(|stored| Ok(stored.version)).collect();
        Ok(stream::iter(found).boxed())
    }

    async fn read(
        &self,
        version: &ObjectVersion,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes, Error>>, Error> {
        self.memory.reads.fetch_add(1, Ordering::Relaxed);
        let key = (version.bucket.clone(), version.key.clone());
        let stored = self.memory.states[&version.id.revision].objects[&key].clone();
        let bytes = stored.bytes.slice(range.start as usize..range.end as usize);
        let step = if self.memory.piece_bytes == 0 { bytes.len().max(1) } else { self.memory.piece_bytes };
        let starts: Vec<usize> = (0..bytes.len()).step_by(step).collect();
        let delay = self.memory.delay;
        let pieces = stream::iter(starts).then(move |start| {
            let piece = bytes.slice(start..(start + step).min(bytes.len()));
            async move {
                if !delay.is_zero() {
                    tokio::time::sleep(delay).await;
                }
                Ok(piece)
            }
        });
        Ok(pieces.boxed())
    }

    async fn indexes(&self, bucket: &str, prefix: &str) -> Result<Vec<IndexInfo>, Error> {
        self.under(bucket, prefix)?;
        let covers = |index: &&IndexInfo| index.bucket == bucket && prefix.starts_with(&index.prefix);
        Ok(self.memory.indexes.iter().filter(covers).cloned().collect())
    }

    async fn search(
        &self,
        index: &IndexInfo,
        prefix: &str,
        intervals: &[Interval],
        rows_max: usize,
    ) -> Result<Option<Hits>, Error> {
        self.memory.searches.fetch_add(1, Ordering::Relaxed);
        let mut hits = Hits::default();
        let mut rows = 0;
        for stored in self.under(&index.bucket, prefix)? {
            let version = Arc::clone(&stored.version);
            let on_attributes = index.expressions.iter().all(|expression| !expression.of_content());
            let found: Vec<Range<u64>> = match stored.indexed {
                Indexed::Pending => {
                    hits.whole.push(version);
                    continue;
                }
                _ if on_attributes && holds(&tuple(index, &version, &Row::default()), intervals) => {
                    rows += 1;
                    hits.rows.push((version, Vec::new()));
                    continue;
                }
                _ if on_attributes => Vec::new(),
                Indexed::Rows => {
                    let rows = rows_of(&stored).into_iter();
                    rows.filter(|row| holds(&tuple(index, &version, row), intervals)).map(|row| row.range).collect()
                }
                Indexed::Blocks(count) => rows_of(&stored)
                    .chunks(count)
                    .filter(|block| block.iter().any(|row| holds(&tuple(index, &version, row), intervals)))
                    .map(|block| block[0].range.start..block[block.len() - 1].range.end)
                    .collect(),
            };
            let bytes: u64 = found.iter().map(|range| range.end - range.start).sum();
            if found.is_empty() {
                hits.pruned_objects += 1;
                hits.pruned_bytes += version.size;
                continue;
            }
            rows += found.len();
            hits.pruned_bytes += version.size - bytes;
            match stored.indexed {
                Indexed::Blocks(_) => hits.blocks.push((version, found)),
                _ => hits.rows.push((version, found)),
            }
        }
        Ok((rows <= rows_max).then_some(hits))
    }

    async fn system(
        &self,
        table: SystemTable,
        filter: SystemFilter,
    ) -> Result<BoxStream<'static, Result<RecordBatch, Error>>, Error> {
        let batch = super::system::rows(self.revision, &self.memory, table, &filter);
        Ok(stream::iter([Ok(batch)]).boxed())
    }
}

impl Memory {
    /// Every version until a revision, with whether it lives then.
    pub fn versions(&self, revision: u64) -> Vec<(Arc<ObjectVersion>, bool)> {
        let empty = Arc::new(State::default());
        let live = self.states.get(&revision).unwrap_or(&empty);
        let mut all = BTreeMap::new();
        for state in self.states.range(..=revision).map(|(_, state)| state) {
            for (place, stored) in &state.objects {
                let latest = live.objects.get(place).is_some_and(|now| now.version.id == stored.version.id);
                all.insert((place.clone(), stored.version.id), (Arc::clone(&stored.version), latest));
            }
        }
        all.into_values().collect()
    }

    pub fn index_list(&self) -> &[IndexInfo] {
        &self.indexes
    }

    pub fn bucket_list(&self) -> impl Iterator<Item = &String> {
        self.buckets.iter()
    }
}

/// A row of an object, as JSON.
#[derive(Default)]
struct Row {
    range: Range<u64>,
    fields: serde_json::Value,
}

/// Plain reading of plain objects: no quotes in CSV.
fn rows_of(stored: &Stored) -> Vec<Row> {
    let text = std::str::from_utf8(&stored.bytes).unwrap();
    if stored.version.key.ends_with(".csv") {
        let mut at = 0;
        let lines = text.split_inclusive('\n').map(|line| {
            at += line.len() as u64;
            (at - line.len() as u64..at, line.trim_end_matches(['\r', '\n']))
        });
        let lines: Vec<_> = lines.collect();
        let names: Vec<&str> = lines[0].1.split(',').collect();
        let row = |(range, line): &(Range<u64>, &str)| {
            let values = names.iter().zip(line.split(','));
            let fields = values.map(|(name, value)| ((*name).to_owned(), serde_json::Value::from(value))).collect();
            Row { range: range.clone(), fields: serde_json::Value::Object(fields) }
        };
        return lines[1..].iter().map(row).collect();
    }
    let mut rows = Vec::new();
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<serde_json::Value>();
    let mut from = 0;
    while let Some(fields) = values.next() {
        let end = values.byte_offset() as u64;
        rows.push(Row { range: from..end, fields: fields.unwrap() });
        from = end;
    }
    rows
}

fn tuple(index: &IndexInfo, version: &ObjectVersion, row: &Row) -> Option<Vec<u8>> {
    let mut encoded = Vec::new();
    for (at, expression) in index.expressions.iter().enumerate() {
        let number;
        let value = match expression {
            Expression::Key => Value::canonical(&version.key),
            Expression::KeyPart(part) => {
                version.key.split('/').nth(usize::from(*part) - 1).map_or(Value::Null, Value::canonical)
            }
            Expression::Size => Value::number(version.size as f64),
            Expression::LastModified => Value::Time(version.modified_ms as i64 * 1000),
            Expression::Etag => Value::canonical(&version.etag),
            Expression::ContentType => version.content_type.as_deref().map_or(Value::Null, Value::canonical),
            Expression::Metadata(name) => version.metadata.get(name).map_or(Value::Null, |text| Value::canonical(text)),
            Expression::Tag(name) => version.tags.get(name).map_or(Value::Null, |text| Value::canonical(text)),
            Expression::Field(path) => match follow(&row.fields, path) {
                Some(serde_json::Value::String(text)) => Value::canonical(text),
                Some(serde_json::Value::Bool(flag)) => Value::Bool(*flag),
                Some(serde_json::Value::Number(found)) => {
                    number = found.to_string();
                    Value::canonical(&number)
                }
                _ => Value::Null,
            },
        };
        if at == 0 && value == Value::Null {
            return None;
        }
        value.encode(&mut encoded);
    }
    Some(encoded)
}

fn follow<'a>(value: &'a serde_json::Value, path: &[Step]) -> Option<&'a serde_json::Value> {
    path.iter().try_fold(value, |value, step| match step {
        Step::Name(name) => value.get(name),
        Step::Element(at) => value.get(*at as usize),
    })
}

fn holds(tuple: &Option<Vec<u8>>, intervals: &[Interval]) -> bool {
    tuple.as_ref().is_some_and(|tuple| {
        intervals.iter().any(|interval| interval.from.as_slice() <= tuple.as_slice() && tuple < &interval.to)
    })
}
