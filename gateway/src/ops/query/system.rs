//! Rows of the system tables, in pages. Their columns are those of [`system_schema`].
//!
//! A caller sees what it may list or use; a version only when it may get the object, so that no count tells more.

use std::sync::Arc;

use arrow::array::RecordBatch;
use holdfast_core::id::{ObjectKey, Place, VersionId};
use holdfast_core::index::{IndexInfo, IndexKind, IndexState};
use holdfast_core::list::{Entry, ListedVersion, Query};
use holdfast_core::lock::LockMode;
use holdfast_core::record::{Location, Versioning};
use holdfast_core::rules::authorize::{Action, Resource};
use holdfast_core::view::{Bucket, Found, View, object_resource, shown_version};
use holdfast_query::repository::{SystemFilter, SystemTable};
use holdfast_query::sql::system_schema;
use serde_json::{Value, json};

use super::super::Call;
use super::super::list::PAGE_ENTRIES_MAX;
use crate::error::Error;
use crate::gateway::Gateway;

/// Buckets of one page.
const BUCKETS: usize = 100;
/// Holders and waiters of one lock.
const CLAIMS: usize = 1000;

/// Where the next page begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Cursor {
    /// After this bucket or lock, or inside of the bucket when there is a key.
    name: Option<String>,
    key: Option<(String, Option<VersionId>)>,
    place: Place,
}

/// A page of rows, and where the next one begins.
type Page = (Vec<Value>, Option<Cursor>);

pub(super) fn page(
    view: &View<'_>,
    call: &Call,
    table: SystemTable,
    filter: &SystemFilter,
    at: Option<u64>,
    cursor: Cursor,
) -> Result<(RecordBatch, Option<Cursor>), Error> {
    if at.is_some() {
        return Err(Error::NotBuilt("AS OF for a system table"));
    }
    let (rows, next) = match table {
        SystemTable::Versions => versions(view, call, filter, cursor)?,
        SystemTable::Buckets => buckets(view, call, filter, cursor)?,
        SystemTable::Indexes => indexes(view, call, filter, cursor)?,
        SystemTable::Locks => locks(view, call, cursor)?,
        SystemTable::Events => events(view, call, cursor)?,
        SystemTable::Peers => (Vec::new(), None),
    };
    Ok((batch(table, &rows)?, next))
}

/// The nodes of the cluster, as this one knows them.
pub(super) fn peers(gateway: &Gateway, call: &Call) -> Result<RecordBatch, Error> {
    call.permit(Action::ReadCluster, Resource::Service)?;
    let status = gateway.status();
    let own = status.identity.node_id;
    let row = |(id, node): &(u64, crate::cluster::Node)| {
        let peer = status.peers.iter().find(|peer| peer.id == *id);
        let role = if *id == own { status.role.to_lowercase() } else { "peer".to_owned() };
        json!({
            "node": id.to_string(),
            "address": Some(&node.peer).filter(|address| !address.is_empty()),
            "role": peer.map_or(role, |peer| if peer.voter { "voter" } else { "learner" }.to_owned()),
            "is_leader": status.leader == Some(*id),
            "is_reachable": peer.and_then(|peer| peer.last_contact_ms).map(|ms| ms < 5_000),
            "applied": peer.and_then(|peer| peer.matched).or((*id == own).then_some(status.revision)),
        })
    };
    batch(SystemTable::Peers, &status.members.iter().map(row).collect::<Vec<_>>())
}

fn batch(table: SystemTable, rows: &[Value]) -> Result<RecordBatch, Error> {
    let schema = system_schema(table);
    let decoder = arrow::json::ReaderBuilder::new(Arc::clone(&schema)).with_batch_size(rows.len().max(1));
    let decoded = decoder.build_decoder().and_then(|mut decoder| {
        decoder.serialize(rows)?;
        Ok(decoder.flush()?.unwrap_or_else(|| RecordBatch::new_empty(schema)))
    });
    decoded.map_err(|error| {
        tracing::error!(table = ?table, error = %error, "rows of a system table do not fit its columns");
        Error::UnexpectedReply
    })
}

/// The buckets of a page, and where the next one begins.
fn some_buckets(
    view: &View<'_>,
    call: &Call,
    filter: &SystemFilter,
    cursor: &Cursor,
    limit: usize,
) -> Result<(Vec<Bucket>, Option<Cursor>), Error> {
    let permit = call.permit(Action::ListBuckets, Resource::Service)?;
    let prefix = filter.bucket.as_deref().unwrap_or_default();
    let (mut buckets, more) = view.buckets(&permit, prefix, cursor.name.as_deref(), limit)?;
    let last = buckets.last().map(|bucket| bucket.name.as_str().to_owned());
    buckets.retain(|bucket| filter.bucket.as_deref().is_none_or(|name| bucket.name.as_str() == name));
    Ok((buckets, last.filter(|_| more).map(|name| Cursor { name: Some(name), ..Cursor::default() })))
}

fn buckets(view: &View<'_>, call: &Call, filter: &SystemFilter, cursor: Cursor) -> Result<Page, Error> {
    let (buckets, next) = some_buckets(view, call, filter, &cursor, PAGE_ENTRIES_MAX)?;
    let row = |bucket: &Bucket| {
        let versioning = match bucket.row.versioning {
            Versioning::Never => "never",
            Versioning::Enabled => "enabled",
            Versioning::Suspended => "suspended",
        };
        // What a bucket holds may be known to those only who may list it.
        let usage = call.on_bucket(Action::ListBucket, &bucket.name).ok().map(|_| bucket.row.usage);
        json!({
            "bucket": bucket.name.as_str(),
            "id": bucket.row.id.0,
            "created": bucket.row.created_ms,
            "versioning": versioning,
            "objects": usage.map(|usage| usage.objects),
            "bytes": usage.map(|usage| usage.bytes),
        })
    };
    Ok((buckets.iter().map(row).collect(), next))
}

fn indexes(view: &View<'_>, call: &Call, filter: &SystemFilter, cursor: Cursor) -> Result<Page, Error> {
    let (buckets, next) = some_buckets(view, call, filter, &cursor, BUCKETS)?;
    let mut rows = Vec::new();
    for bucket in buckets {
        if call.on_bucket(Action::ListBucket, &bucket.name).is_ok() {
            rows.extend(view.indexes(&bucket)?.iter().map(index_row));
        }
    }
    Ok((rows, next))
}

/// An index, as `holdfast.indexes` tells of it.
pub(crate) fn index_row(index: &IndexInfo) -> Value {
    let kind = match index.kind {
        IndexKind::BTree => "btree",
        IndexKind::Hash => "hash",
    };
    json!({
        "bucket": index.bucket,
        "prefix": index.prefix,
        "name": index.name,
        "id": index.id,
        "kind": kind,
        "is_unique": index.unique,
        "expressions": index.expressions.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "state": state(&index.state),
        "objects": index.objects,
        "entries": index.entries,
        "pending": index.pending,
        "unparsed": index.unparsed,
        "bytes": index.bytes,
        "runs": index.runs,
        "run_bytes": index.run_bytes,
    })
}

/// The state of an index in words.
fn state(state: &IndexState) -> String {
    match state {
        IndexState::Building(cursor) if cursor.is_empty() => "building".to_owned(),
        IndexState::Building(cursor) => format!("building, at {cursor}"),
        IndexState::Ready => "ready".to_owned(),
        IndexState::Failed(why) => format!("failed: {why}"),
    }
}

fn versions(view: &View<'_>, call: &Call, filter: &SystemFilter, cursor: Cursor) -> Result<Page, Error> {
    // One bucket at a time: the one that the cursor is in, or the next one.
    let inside = cursor.key.is_some();
    let (bucket, after_bucket) = if inside {
        let name = cursor.name.clone().unwrap_or_default();
        let within = SystemFilter { bucket: Some(name), ..SystemFilter::default() };
        (some_buckets(view, call, &within, &Cursor::default(), 1)?.0.pop(), cursor.name.clone())
    } else {
        let (mut buckets, _) = some_buckets(view, call, filter, &cursor, 1)?;
        let bucket = buckets.pop();
        let name = bucket.as_ref().map(|bucket| bucket.name.as_str().to_owned());
        (bucket, name)
    };
    let next_bucket = match (&filter.bucket, after_bucket) {
        (Some(_), _) | (None, None) => None,
        (None, Some(name)) => Some(Cursor { name: Some(name), ..Cursor::default() }),
    };
    let Some(bucket) = bucket else { return Ok((Vec::new(), next_bucket)) };
    let Ok(permit) = call.on_bucket(Action::ListBucketVersions, &bucket.name) else {
        return Ok((Vec::new(), next_bucket));
    };
    let (after, after_version) = cursor.key.unwrap_or_default();
    let prefix = filter.prefix.clone().unwrap_or_default();
    let query = Query { prefix, after, limit: PAGE_ENTRIES_MAX, ..Query::default() };
    let listed = view.list_versions(&permit, &query, after_version)?;
    let last = listed.entries.iter().rev().find_map(|entry| match entry {
        Entry::Item(key, version) => Some((key.clone(), Some(version.version_id()))),
        Entry::Prefix(_) => None,
    });
    let mut rows = Vec::new();
    for entry in listed.entries {
        let Entry::Item(key, listed) = entry else { continue };
        let Ok(key) = key.parse::<ObjectKey>() else { continue };
        let may_read = call.permit(Action::GetObject, object_resource(&bucket.name, &key)).is_ok();
        if may_read && (listed.is_latest || !filter.latest) {
            rows.push(version(view, &bucket, key, listed)?);
        }
    }
    let name = Some(bucket.name.as_str().to_owned());
    let inside = last.filter(|_| listed.truncated).map(|key| Cursor { name, key: Some(key), ..Cursor::default() });
    Ok((rows, inside.or(next_bucket)))
}

fn version(view: &View<'_>, bucket: &Bucket, key: ObjectKey, listed: ListedVersion) -> Result<Value, Error> {
    let ListedVersion { place, row, is_latest } = listed;
    let found = Found { bucket: bucket.clone(), key, place, row, is_latest };
    let location = match &found.row.version {
        Some(version) if version.size > 0 => location(view, &found)?,
        _ => None,
    };
    let version = found.row.version.as_ref();
    Ok(json!({
        "bucket": bucket.name.as_str(),
        "key": found.key.as_str(),
        "version_id": shown_version(&bucket.row, &found.row, place).map(|version| version.to_string()),
        "revision": place.revision,
        "is_latest": is_latest,
        "is_delete_marker": version.is_none(),
        "size": version.map(|version| version.size),
        "etag": version.map(|version| &version.etag),
        "sha256": version.and_then(|version| version.sha256).map(hex::encode),
        "created": version.map(|version| version.created_ms),
        "last_modified": found.row.modified_ms,
        "content_type": version.and_then(|version| version.attributes.headers.content_type.as_ref()),
        "metadata": version.map(|version| version.attributes.metadata.clone()).unwrap_or_default(),
        "tags": version.map(|version| version.attributes.tags.clone()).unwrap_or_default(),
        "location": location,
    }))
}

/// Where the first bytes of a version are: a path of the backend, or `inline`.
fn location(view: &View<'_>, found: &Found) -> Result<Option<String>, Error> {
    let Some(extent) = view.extents(found, 0..1)?.into_iter().next() else { return Ok(None) };
    // A hole is nowhere.
    let Ok(blob) = view.blob(&extent) else { return Ok(None) };
    Ok(blob.row.locations.into_iter().next().map(|location| match location {
        Location::Inline => "inline".to_owned(),
        Location::Path(path) => path,
    }))
}

fn locks(view: &View<'_>, call: &Call, cursor: Cursor) -> Result<Page, Error> {
    let permit = call.permit(Action::UseLocks, Resource::Service)?;
    let names = view.lock_names(&permit, cursor.name.as_deref().unwrap_or_default(), PAGE_ENTRIES_MAX)?;
    let next = names.last().filter(|_| names.len() == PAGE_ENTRIES_MAX).cloned();
    let mut rows = Vec::new();
    for name in names {
        let lock = view.lock(&permit, &name, CLAIMS)?;
        let claims = lock.holders.iter().map(|claim| ("held", claim));
        for (state, claim) in claims.chain(lock.waiters.iter().map(|claim| ("waiting", claim))) {
            let of_lock = claim.row.lock.as_ref();
            let shared = of_lock.is_some_and(|lock| lock.mode == LockMode::Shared);
            rows.push(json!({
                "name": name,
                "mode": if shared { "shared" } else { "exclusive" },
                "state": state,
                "owner": Some(&claim.row.owner).filter(|owner| !owner.is_empty()),
                "lease": claim.lease.to_string(),
                "token": of_lock.and_then(|lock| lock.token),
                "ttl_ms": claim.row.ttl_ms,
            }));
        }
    }
    Ok((rows, next.map(|name| Cursor { name: Some(name), ..Cursor::default() })))
}

fn events(view: &View<'_>, call: &Call, cursor: Cursor) -> Result<Page, Error> {
    let permit = call.permit(Action::WatchEvents, Resource::Service)?;
    let feed = view.feed()?;
    let floor = Place { revision: feed.floor, ordinal: feed.floor_ordinal };
    let page = view.events(&permit, cursor.place.max(floor), PAGE_ENTRIES_MAX)?;
    let next = page.events.last().filter(|_| page.more).map(|(place, _)| Cursor { place: *place, ..Cursor::default() });
    let rows = page.events.into_iter().map(|(place, event)| {
        json!({
            "revision": place.revision,
            "ordinal": place.ordinal,
            "time": event.at_ms,
            "kind": event.kind.name(),
            "bucket": event.bucket.map(|bucket| bucket.to_string()),
            "key": event.key,
            "version_id": event.version.map(|version| version.to_string()),
            "size": event.size,
            "etag": event.etag,
        })
    });
    Ok((rows.collect(), next))
}
