//! What a query sees of this node: one caller's view of one state.
//!
//! A view is a snapshot of the engine, so a listing, a search and the definitions of indexes agree with each other. Bytes
//! are found by the state of the view and read as blobs are; what was overwritten since is there as long as the bucket's
//! history window, which is longer than a query may take.

use std::ops::Range;
use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt as _, TryStreamExt as _};
use holdfast_core::error::Error as Refusal;
use holdfast_core::id::{BucketName, ObjectKey, Place, Revision};
use holdfast_core::index::{Found as Searched, FoundObject, IndexInfo, Interval};
use holdfast_core::list::Query;
use holdfast_core::record::Version;
use holdfast_core::rules::authorize::{Action, Permit, Resource, authorize};
use holdfast_core::view::{Found, View, object_resource};
use holdfast_query::repository::{
    AsOf, Error as QueryError, Hits, Kind as QueryKind, ObjectVersion, Repository, Snapshot, SystemFilter, SystemTable,
    VersionKey,
};

use super::super::list::PAGE_ENTRIES_MAX;
use super::super::search::Search;
use super::super::{Call, view_of};
use super::system;
use crate::cluster::StateView;
use crate::error::{Error, Kind};
use crate::gateway::Gateway;

/// Opens views for one caller.
pub(crate) struct CallerRepository {
    gateway: Gateway,
    call: Call,
}

impl CallerRepository {
    pub(crate) fn new(gateway: Gateway, call: Call) -> Self {
        Self { gateway, call }
    }

    async fn state(&self) -> Result<StateView, QueryError> {
        self.gateway.read_view(&self.call).await.map_err(|error| answer(&error))
    }

    /// A view of what is read when nothing says otherwise.
    pub(crate) async fn now(&self) -> Result<CallerSnapshot, QueryError> {
        Ok(CallerSnapshot {
            gateway: self.gateway.clone(),
            call: self.call.clone(),
            state: self.state().await?,
            at: None,
        })
    }
}

#[async_trait]
impl Repository for CallerRepository {
    async fn open(&self, at: AsOf) -> Result<Arc<dyn Snapshot>, QueryError> {
        let mut snapshot = self.now().await?;
        match at {
            AsOf::Now => {}
            AsOf::Revision(revision) if revision > snapshot.state.revision() => {
                return Err(invalid(format!("revision {revision} has not come to be")));
            }
            AsOf::Revision(revision) => snapshot.at = Some(revision),
            AsOf::Timestamp(ms) => {
                let call = self.call.clone();
                snapshot.at = Some(snapshot.look(move |view| revision_at(view, &call, ms)).await?);
            }
        }
        // What is now needs no history.
        snapshot.at = snapshot.at.filter(|at| *at < snapshot.state.revision());
        Ok(Arc::new(snapshot))
    }
}

/// The revision of the last commit that happened by a time: found in the feed, by halving.
fn revision_at(view: &View<'_>, call: &Call, ms: u64) -> Result<Revision, Error> {
    let permit = call.permit(Action::WatchEvents, Resource::Service)?;
    let floor = view.feed()?.floor;
    let after = |revision: Revision| -> Result<Option<u64>, Error> {
        let page = view.events(&permit, Place { revision, ordinal: u16::MAX }, 1)?;
        Ok(page.events.first().map(|(_, event)| event.at_ms))
    };
    let (mut low, mut high) = (floor, view.revision());
    while low < high {
        let middle = low + (high - low) / 2;
        match after(middle)? {
            Some(at_ms) if at_ms <= ms => low = middle + 1,
            _ => high = middle,
        }
    }
    if low == floor && floor > 0 {
        return Err(Refusal::Compacted { oldest: floor }.into());
    }
    Ok(low)
}

/// One caller's view of one state.
#[derive(Clone)]
pub(crate) struct CallerSnapshot {
    gateway: Gateway,
    call: Call,
    state: StateView,
    at: Option<Revision>,
}

impl CallerSnapshot {
    /// Looks at the state, off the reactor.
    async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&View<'_>) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, QueryError> {
        let state = self.state.clone();
        let looked = tokio::task::spawn_blocking(move || look(&view_of(&state)));
        looked.await.map_err(|_| answer(&Error::Stopping))?.map_err(|error| answer(&error))
    }

    fn on_bucket(&self, bucket: &str, action: Action) -> Result<Permit, QueryError> {
        let bucket: BucketName = bucket.parse().map_err(|_| no_such_bucket())?;
        self.call.on_bucket(action, &bucket).map_err(|error| answer(&error))
    }

    fn on_object(&self, bucket: &str, key: &str) -> Result<Permit, QueryError> {
        let bucket: BucketName = bucket.parse().map_err(|_| no_such_bucket())?;
        let key: ObjectKey = key.parse().map_err(|_| answer(&Refusal::NoSuchKey.into()))?;
        self.call.permit(Action::GetObject, object_resource(&bucket, &key)).map_err(|error| answer(&error))
    }

    async fn page(self, permit: Permit, query: Query) -> Result<(Vec<Arc<ObjectVersion>>, Option<String>), QueryError> {
        let (caller, context, at) = (self.call.caller, self.call.context, self.at);
        self.look(move |view| {
            let bucket = view.bucket(&permit)?.name;
            let may_read =
                |key: &ObjectKey| authorize(caller, Action::GetObject, object_resource(&bucket, key), &context);
            let page = view.find_under(&permit, &query, at, may_read)?;
            Ok((page.found.iter().map(|found| Arc::new(shown(found))).collect(), page.more_after))
        })
        .await
    }
}

#[async_trait]
impl Snapshot for CallerSnapshot {
    fn revision(&self) -> u64 {
        self.at.unwrap_or_else(|| self.state.revision())
    }

    async fn object(&self, bucket: &str, key: &str) -> Result<Arc<ObjectVersion>, QueryError> {
        let (permit, at) = (self.on_object(bucket, key)?, self.at);
        self.look(move |view| {
            let found = view.find(&permit, None, at)?;
            let live = found.row.version.is_some();
            if live { Ok(Arc::new(shown(&found))) } else { Err(Refusal::NoSuchKey.into()) }
        })
        .await
    }

    async fn objects(
        &self,
        bucket: &str,
        prefix: &str,
    ) -> Result<BoxStream<'static, Result<Arc<ObjectVersion>, QueryError>>, QueryError> {
        let permit = self.on_bucket(bucket, Action::ListBucket)?;
        let query = Query { prefix: prefix.to_owned(), limit: PAGE_ENTRIES_MAX, ..Query::default() };
        // The first page tells whether there is such a bucket.
        let first = self.clone().page(permit.clone(), query.clone()).await?;
        let rest = (self.clone(), permit, query, first.1);
        let pages = stream::try_unfold(rest, |(snapshot, permit, mut query, more_after)| async move {
            let Some(after) = more_after else { return Ok(None) };
            query.after = after;
            let (objects, more_after) = snapshot.clone().page(permit.clone(), query.clone()).await?;
            Ok(Some((objects, (snapshot, permit, query, more_after))))
        });
        let pages = stream::once(async move { Ok(first.0) }).chain(pages);
        Ok(pages.map_ok(|objects| stream::iter(objects.into_iter().map(Ok))).try_flatten().boxed())
    }

    async fn read(
        &self,
        version: &ObjectVersion,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes, QueryError>>, QueryError> {
        let permit = self.on_object(&version.bucket, &version.key)?;
        let (at, id, blobs) = (self.at, version.id, self.gateway.blobs().clone());
        let plan = self
            .look(move |view| {
                let found = view.find(&permit, None, at)?;
                if key_of(&found) != id {
                    return Err(Refusal::Changed.into());
                }
                Ok(blobs.plan(view, &found, range)?)
            })
            .await?;
        let body = self.gateway.blobs().open(plan).await.map_err(|error| answer(&error.into()))?;
        Ok(body.map_err(|error| answer(&error.into())).boxed())
    }

    async fn indexes(&self, bucket: &str, prefix: &str) -> Result<Vec<IndexInfo>, QueryError> {
        let permit = self.on_bucket(bucket, Action::ListBucket)?;
        let mut indexes = self.look(move |view| Ok(view.indexes(&view.bucket(&permit)?)?)).await?;
        indexes.retain(|index| prefix.starts_with(&index.prefix));
        Ok(indexes)
    }

    async fn search(
        &self,
        index: &IndexInfo,
        prefix: &str,
        intervals: &[Interval],
        rows_max: usize,
    ) -> Result<Option<Hits>, QueryError> {
        if self.at.is_some() {
            return Ok(None);
        }
        let permit = self.on_bucket(&index.bucket, Action::ListBucket)?;
        let (caller, context) = (self.call.caller, self.call.context);
        let (index, prefix, intervals) = (index.clone(), prefix.to_owned(), intervals.to_vec());
        let search = Search { index: index.clone(), prefix, intervals, rows_max };
        let searched = self.gateway.search_index(&self.state, &permit, search).await;
        let Some((searched, runs)) = searched.map_err(|error| answer(&error))? else { return Ok(None) };
        self.look(move |view| {
            let bucket = view.bucket(&permit)?;
            let find = |key: &ObjectKey| {
                let permit = authorize(caller, Action::GetObject, object_resource(&bucket.name, key), &context).ok()?;
                Some(view.find(&permit, None, None))
            };
            Ok(Some(Hits { runs, ..hits(searched, &index, find)? }))
        })
        .await
    }

    async fn system(
        &self,
        table: SystemTable,
        filter: SystemFilter,
    ) -> Result<BoxStream<'static, Result<RecordBatch, QueryError>>, QueryError> {
        if table == SystemTable::Peers {
            let peers = system::peers(&self.gateway, &self.call).map_err(|error| answer(&error))?;
            return Ok(stream::iter([Ok(peers)]).boxed());
        }
        let (own, call, at) = (self.clone(), self.call.clone(), self.at);
        let pages = stream::try_unfold(Some(system::Cursor::default()), move |cursor| {
            let (snapshot, call, filter) = (own.clone(), call.clone(), filter.clone());
            async move {
                let Some(cursor) = cursor else { return Ok(None) };
                let page = snapshot.look(move |view| system::page(view, &call, table, &filter, at, cursor)).await?;
                Ok(Some(page))
            }
        });
        Ok(pages.boxed())
    }
}

/// What an index found, as versions that the caller may get.
fn hits(
    searched: Searched,
    index: &IndexInfo,
    find: impl Fn(&ObjectKey) -> Option<Result<Found, holdfast_core::state::Stop>>,
) -> Result<Hits, Error> {
    let known = index.objects + index.pending + index.unparsed;
    let named = (searched.rows.len() + searched.blocks.len() + searched.whole.len()) as u64;
    let mut hits = Hits { pruned_objects: known.saturating_sub(named), ..Hits::default() };
    let version = |key: &ObjectKey, place: Option<Place>| -> Result<Option<Arc<ObjectVersion>>, Error> {
        let Some(found) = find(key).transpose()? else { return Ok(None) };
        let same = place.is_none_or(|place| place == found.place) && found.row.version.is_some();
        Ok(same.then(|| Arc::new(shown(&found))))
    };
    let listed = |objects: Vec<FoundObject>, pruned: &mut u64| -> Result<Vec<_>, Error> {
        let mut list = Vec::with_capacity(objects.len());
        for object in objects {
            if let Some(found) = version(&object.key, Some(object.place))? {
                let read: u64 = object.ranges.iter().map(|range| range.end - range.start).sum();
                *pruned += if object.ranges.is_empty() { 0 } else { found.size.saturating_sub(read) };
                list.push((found, object.ranges));
            }
        }
        Ok(list)
    };
    let mut pruned_bytes = 0;
    hits.rows = listed(searched.rows, &mut pruned_bytes)?;
    hits.blocks = listed(searched.blocks, &mut pruned_bytes)?;
    for key in &searched.whole {
        hits.whole.extend(version(key, None)?);
    }
    // Nobody counts the bytes of what was ruled out: it is taken to be as large as what was found.
    let found = hits.rows.iter().chain(&hits.blocks).map(|(object, _)| object).chain(&hits.whole);
    let sizes: Vec<u64> = found.map(|object| object.size).collect();
    let mean = sizes.iter().sum::<u64>().checked_div(sizes.len() as u64).unwrap_or_default();
    hits.pruned_bytes = pruned_bytes.saturating_add(mean.saturating_mul(hits.pruned_objects));
    Ok(hits)
}

fn key_of(found: &Found) -> VersionKey {
    let Place { revision, ordinal } = found.place;
    let generation = found.row.version.as_ref().map_or(revision, Version::generation);
    VersionKey { bucket: found.bucket.row.id.0, revision, ordinal, generation }
}

/// A version as queries see it.
pub(in crate::ops) fn shown(found: &Found) -> ObjectVersion {
    let version = found.row.version.as_ref();
    let attributes = version.map(|version| version.attributes.clone()).unwrap_or_default();
    ObjectVersion {
        id: key_of(found),
        bucket: found.bucket.name.as_str().to_owned(),
        key: found.key.as_str().to_owned(),
        version_id: found.shown_version().map(|version| version.to_string()),
        size: found.row.size(),
        etag: version.map(|version| version.etag.clone()).unwrap_or_default(),
        modified_ms: found.row.modified_ms,
        content_type: attributes.headers.content_type,
        content_encoding: attributes.headers.content_encoding,
        metadata: attributes.metadata,
        tags: attributes.tags,
    }
}

fn invalid(message: String) -> QueryError {
    QueryError { kind: QueryKind::Invalid, code: "InvalidArgument", message }
}

fn no_such_bucket() -> QueryError {
    answer(&Error::Refused(Refusal::NoSuchBucket))
}

/// What a query says of what the gateway could not do.
pub(crate) fn answer(error: &Error) -> QueryError {
    let (kind, code) = match (error, error.kind()) {
        (Error::Refused(Refusal::NoSuchBucket), _) => (QueryKind::NotFound, "NoSuchBucket"),
        (Error::Refused(Refusal::NoSuchIndex), _) => (QueryKind::NotFound, "NoSuchIndex"),
        (Error::Refused(Refusal::IndexExists), _) => (QueryKind::Invalid, "IndexAlreadyExists"),
        (Error::Refused(Refusal::Compacted { .. } | Refusal::Changed), _) => (QueryKind::Invalid, "Compacted"),
        (_, Kind::NotFound) => (QueryKind::NotFound, "NoSuchKey"),
        (_, Kind::Denied) => (QueryKind::Denied, "AccessDenied"),
        (_, Kind::Invalid | Kind::Conflict) => (QueryKind::Invalid, "InvalidArgument"),
        (_, Kind::Busy | Kind::Unavailable) => (QueryKind::Unavailable, "ServiceUnavailable"),
        (_, Kind::Corrupt | Kind::Internal) => (QueryKind::Internal, "InternalError"),
    };
    let message = match (error, kind) {
        (Error::Refused(Refusal::Changed), _) => "the bucket does not remember that moment any more".to_owned(),
        (Error::Refused(refusal), _) => refusal.to_string(),
        (_, QueryKind::Internal) => "an internal error occurred".to_owned(),
        (error, _) => crate::backend::chain(error),
    };
    QueryError { kind, code, message }
}
