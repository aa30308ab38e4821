//! The way to the rows: by the index that leaves the least to read, or by all objects.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::AsArray;
use datafusion::common::Result as EngineResult;
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::PhysicalExpr;
use holdfast_core::index::{Expression, IndexInfo, IndexKind, Interval, intervals};

use super::super::attribute;
use super::super::constraint::{Predicate, Wanted, predicates};
use super::super::error::Error;
use super::super::name::Place;
use super::{ObjectTable, bind};
use crate::repository::{Hits, ObjectVersion, Snapshot};

/// Rows that an index may name; more are cheaper to scan for.
const HITS_MAX: usize = 100_000;
/// Indexes that are asked for one table.
const SEARCHES_MAX: usize = 4;
/// Bytes that are so few that no other index is asked.
const BYTES_ENOUGH: u64 = 256 << 10;
/// Objects whose attributes are tested at once.
const TEST_OBJECTS: usize = 8192;

/// An object that is read.
#[derive(Debug)]
pub(crate) struct Selected {
    pub(crate) object: Arc<ObjectVersion>,
    /// Ranges of whole rows, or of row groups; `None` is all of it.
    pub(crate) ranges: Option<Vec<Range<u64>>>,
}

/// What is read of a table.
#[derive(Debug)]
pub(crate) struct Path {
    /// In the order of their keys.
    pub(crate) selected: Vec<Selected>,
    /// Bytes of it.
    pub(super) bytes: u64,
    /// Whether something is left out.
    pub(super) partial: bool,
    how: String,
    objects_all: u64,
    bytes_all: u64,
}

impl Path {
    pub(super) fn shown(&self, place: &Place, kind: &str) -> String {
        format!(
            "{place}, format={kind}, path={}, objects={}/{}, bytes={}/{}",
            self.how,
            self.selected.len(),
            self.objects_all,
            self.bytes,
            self.bytes_all
        )
    }
}

impl Selected {
    fn bytes(&self) -> u64 {
        match &self.ranges {
            Some(ranges) => ranges.iter().map(|range| range.end.saturating_sub(range.start)).sum(),
            None => self.object.size,
        }
    }
}

/// The way that reads the least.
pub(super) async fn choose(
    table: &ObjectTable,
    filters: &[Expr],
    by_attributes: &[Arc<dyn PhysicalExpr>],
) -> EngineResult<Path> {
    let mut found = predicates(filters, &table.names());
    if !bind::reads_as_indexes_do(&table.place, &table.options) {
        found.retain(|predicate| !matches!(predicate.of, Expression::Field(_)));
    }
    let (bucket, prefix) = (&table.place.bucket, table.place.prefix());
    let holds = |key: &str| table.place.holds(key);
    let mut path = match by_index(&*table.reader.snapshot, bucket, prefix, &found, &holds).await? {
        Some(path) => {
            let objects = path.selected.iter().map(|selected| &selected.object);
            bind::agreed(table.first.iter().take(1).chain(objects), &table.options)?;
            path
        }
        None => by_listing(table, &found).await?,
    };
    if !by_attributes.is_empty() {
        let kept = kept(table, &path.selected, by_attributes)?;
        let mut kept = kept.into_iter();
        path.selected.retain(|_| kept.next().unwrap_or(true));
    }
    path.bytes = path.selected.iter().map(Selected::bytes).sum();
    path.partial |= path.bytes < path.bytes_all;
    Ok(path)
}

async fn by_listing(table: &ObjectTable, found: &[Predicate]) -> EngineResult<Path> {
    let objects = if table.complete {
        table.first.clone()
    } else {
        bind::list_all(table, &listed_prefix(table.place.prefix(), found)).await?
    };
    Ok(Path {
        bytes: 0,
        partial: false,
        how: "scan".to_owned(),
        objects_all: objects.len() as u64,
        bytes_all: objects.iter().map(|object| object.size).sum(),
        selected: objects.into_iter().map(|object| Selected { object, ranges: None }).collect(),
    })
}

/// What the keys that are wanted begin with.
fn listed_prefix(prefix: &str, found: &[Predicate]) -> String {
    let of_key = found.iter().find(|predicate| predicate.of == Expression::Key);
    match of_key.map(|predicate| &predicate.wanted) {
        Some(Wanted::Prefix(start)) if start.starts_with(prefix) => start.clone(),
        _ => prefix.to_owned(),
    }
}

/// Which objects meet the filters on attributes.
fn kept(table: &ObjectTable, selected: &[Selected], filters: &[Arc<dyn PhysicalExpr>]) -> EngineResult<Vec<bool>> {
    let mut kept = Vec::with_capacity(selected.len());
    for some in selected.chunks(TEST_OBJECTS) {
        let objects: Vec<Arc<ObjectVersion>> = some.iter().map(|selected| Arc::clone(&selected.object)).collect();
        let batch = attribute::batch(&table.attributes, &objects)?;
        let mut all = vec![true; objects.len()];
        for filter in filters {
            let met = filter.evaluate(&batch)?.into_array(objects.len())?;
            for (kept, met) in all.iter_mut().zip(met.as_boolean()) {
                *kept &= met == Some(true);
            }
        }
        kept.append(&mut all);
    }
    Ok(kept)
}

/// An index with what it is asked for.
struct Candidate {
    index: IndexInfo,
    intervals: Vec<Interval>,
    /// Expressions that are fixed, and whether one more is narrowed: what is likely to leave out the most.
    rank: (usize, bool),
}

/// By the index of `prefix` that leaves the least to read, when one leaves out at least half. `holds` tells the keys that
/// count.
pub(crate) async fn by_index(
    snapshot: &dyn Snapshot,
    bucket: &str,
    prefix: &str,
    found: &[Predicate],
    holds: &(dyn Fn(&str) -> bool + Sync),
) -> Result<Option<Path>, Error> {
    if found.is_empty() {
        return Ok(None);
    }
    let indexes = snapshot.indexes(bucket, prefix).await?;
    let mut candidates: Vec<Candidate> = indexes.into_iter().filter_map(|index| candidate(index, found)).collect();
    candidates.sort_by(|a, b| b.rank.cmp(&a.rank).then_with(|| a.index.name.cmp(&b.index.name)));
    let mut best: Option<Path> = None;
    for candidate in candidates.iter().take(SEARCHES_MAX) {
        let hits = snapshot.search(&candidate.index, prefix, &candidate.intervals, HITS_MAX).await?;
        let Some(hits) = hits else { continue };
        let path = of_hits(candidate, hits, holds);
        if best.as_ref().is_none_or(|best| path.bytes < best.bytes) {
            best = Some(path);
        }
        if best.as_ref().is_some_and(|best| best.bytes <= BYTES_ENOUGH) {
            break;
        }
    }
    // An index that leaves out less than half costs more than it spares.
    Ok(best.filter(|path| path.bytes <= path.bytes_all / 2))
}

fn candidate(index: IndexInfo, found: &[Predicate]) -> Option<Candidate> {
    let mut wanted = Vec::new();
    for expression in &index.expressions {
        let Some(predicate) = found.iter().find(|predicate| predicate.of == *expression) else { break };
        wanted.push(&predicate.wanted);
        if !matches!(predicate.wanted, Wanted::Equal(_)) {
            break;
        }
    }
    let fixed = wanted.iter().filter(|wanted| matches!(wanted, Wanted::Equal(_))).count();
    if index.kind == IndexKind::Hash && fixed < index.expressions.len() {
        return None;
    }
    let constraints: Vec<_> = wanted.iter().map(|wanted| wanted.constraint()).collect();
    let intervals = intervals(&constraints)?;
    Some(Candidate { rank: (fixed, wanted.len() > fixed), index, intervals })
}

fn of_hits(candidate: &Candidate, hits: Hits, holds: &(dyn Fn(&str) -> bool + Sync)) -> Path {
    let ranged = hits.rows.into_iter().chain(hits.blocks).map(|(object, ranges)| {
        // Without ranges the object itself was found.
        Selected { object, ranges: Some(ranges).filter(|ranges| !ranges.is_empty()) }
    });
    let whole = hits.whole.into_iter().map(|object| Selected { object, ranges: None });
    let mut selected: Vec<Selected> = ranged.chain(whole).collect();
    let objects_all = selected.len() as u64 + hits.pruned_objects;
    let bytes_all = selected.iter().map(Selected::bytes).sum::<u64>() + hits.pruned_bytes;
    selected.retain(|selected| selected.object.size > 0 && holds(&selected.object.key));
    selected.sort_by(|a, b| a.object.key.cmp(&b.object.key));
    let kind = match candidate.index.kind {
        IndexKind::BTree => "btree",
        IndexKind::Hash => "hash",
    };
    let runs = if hits.runs > 0 { format!(" runs={}", hits.runs) } else { String::new() };
    Path {
        bytes: selected.iter().map(Selected::bytes).sum(),
        partial: true,
        how: format!("index {} ({kind}) intervals={}{runs}", candidate.index.name, candidate.intervals.len()),
        objects_all,
        bytes_all,
        selected,
    }
}
