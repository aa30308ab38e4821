//! Listings, each of one state: names, versions, uploads, parts.

use holdfast_core::error::Error as Refusal;
use holdfast_core::id::{BucketName, ObjectKey, Revision, UploadId, VersionId};
use holdfast_core::index::IndexInfo;
use holdfast_core::list::{Entry, ListedVersion, Page, PartsPage, Query, name_of};
use holdfast_core::record::{NameRow, UploadRow};
use holdfast_core::rules::authorize::{Action, Permit, authorize};
use holdfast_core::state::Stop;
use holdfast_core::view::{Found, View, object_resource};
use holdfast_query::filter::Filter;

use super::query::shown;
use super::search::Search;
use super::{Call, Done};
use crate::cluster::StateView;
use crate::error::Error;
use crate::gateway::Gateway;

/// Entries of one page. Source: S3 API, ListObjectsV2.
pub const PAGE_ENTRIES_MAX: usize = 1000;

/// Names that one page of a filtered listing looks at.
pub const FILTERED_NAMES_MAX: usize = 20_000;

/// A page of a filtered listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilteredPage {
    /// The names.
    pub page: Page<NameRow>,
    /// Where the next page begins, when there may be more: after this key.
    pub more_after: Option<String>,
}

/// The indexes that may tell for a filter: none for a moment that they do not speak of.
fn usable(view: &View<'_>, permit: &Permit, query: &Query, at: Option<Revision>) -> Result<Vec<IndexInfo>, Error> {
    let bucket = view.bucket(permit)?;
    if at.is_some_and(|at| at < bucket.row.changed) {
        return Ok(Vec::new());
    }
    let mut indexes = view.indexes(&bucket)?;
    indexes.retain(|index| query.prefix.starts_with(&index.prefix));
    Ok(indexes)
}

fn by_index(
    view: &View<'_>,
    permit: &Permit,
    query: &Query,
    filter: &Filter,
    keys: Vec<ObjectKey>,
    may_read: impl Fn(&ObjectKey) -> Result<Permit, Refusal>,
) -> Result<FilteredPage, Error> {
    let page = empty(view.bucket(permit)?, view.revision());
    let mut filtered = FilteredPage { page, more_after: None };
    for key in keys.iter().filter(|key| key.as_str() > query.after.as_str()) {
        let Ok(permit) = may_read(key) else { continue };
        let found = match view.find(&permit, None, None) {
            Err(Stop::Refused(Refusal::NoSuchKey)) => continue,
            found => found?,
        };
        if filtered.take(&found, query.limit, filter) {
            break;
        }
    }
    Ok(filtered)
}

fn by_names(
    view: &View<'_>,
    permit: &Permit,
    query: Query,
    at: Option<Revision>,
    filter: &Filter,
    may_read: impl Fn(&ObjectKey) -> Result<Permit, Refusal>,
) -> Result<FilteredPage, Error> {
    let page = empty(view.bucket(permit)?, view.revision());
    let mut filtered = FilteredPage { page, more_after: None };
    let mut next = Query { limit: PAGE_ENTRIES_MAX, ..query.clone() };
    for _ in 0..FILTERED_NAMES_MAX / PAGE_ENTRIES_MAX {
        let listed = view.find_under(permit, &next, at, &may_read)?;
        filtered.page.revision = listed.revision;
        if listed.found.iter().any(|found| filtered.take(found, query.limit, filter)) {
            return Ok(filtered);
        }
        match listed.more_after {
            Some(after) => next.after = after,
            None => return Ok(filtered),
        }
    }
    filtered.page.truncated = true;
    filtered.more_after = Some(next.after);
    Ok(filtered)
}

impl FilteredPage {
    /// Takes an object in, when the filter holds for it. True when the page is full and there is more.
    fn take(&mut self, found: &Found, limit: usize, filter: &Filter) -> bool {
        if !filter.holds(&shown(found)) {
            return false;
        }
        let Some(name) = name_of(&found.row, found.place) else { return false };
        if self.page.entries.len() == limit {
            self.page.truncated = true;
            self.more_after = self.page.entries.last().map(|entry| entry.marker().to_owned());
            return true;
        }
        self.page.entries.push(Entry::Item(found.key.as_str().to_owned(), name));
        false
    }
}

impl Gateway {
    /// Live names, now or at a revision that the bucket still remembers.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub async fn list(
        &self,
        call: &Call,
        bucket: &BucketName,
        query: Query,
        at: Option<Revision>,
    ) -> Result<Done<Page<NameRow>>, Error> {
        let permit = call.on_bucket(Action::ListBucket, bucket)?;
        let state = self.read_view(call).await?;
        self.read_many(state, move |view| {
            Ok(match query.limit {
                0 => empty(view.bucket(&permit)?, view.revision()),
                _ => view.list(&permit, &query, at)?,
            })
        })
        .await
    }

    /// Live names for which a filter holds, now or at a revision that the bucket still remembers; by an index where one can
    /// tell. One page looks at no more than [`FILTERED_NAMES_MAX`] names, so it may hold fewer than there are: it says where
    /// the next one begins.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub async fn list_where(
        &self,
        call: &Call,
        bucket: &BucketName,
        query: Query,
        at: Option<Revision>,
        filter: Filter,
    ) -> Result<Done<FilteredPage>, Error> {
        let permit = call.on_bucket(Action::ListBucket, bucket)?;
        let (caller, context, name) = (call.caller, call.context, bucket.clone());
        let may_read =
            move |key: &ObjectKey| authorize(caller, Action::GetObject, object_resource(&name, key), &context);
        let state = self.read_view(call).await?;
        let at = at.filter(|at| *at < state.revision());
        let keys = self.indexed(&state, &permit, &query, at, &filter).await?;
        self.read_many(state, move |view| match keys {
            Some(keys) => by_index(view, &permit, &query, &filter, keys, may_read),
            None => by_names(view, &permit, query, at, &filter, may_read),
        })
        .await
    }

    /// The keys that an index names for a filter, in order; `None` when none can tell.
    async fn indexed(
        &self,
        state: &StateView,
        permit: &Permit,
        query: &Query,
        at: Option<Revision>,
        filter: &Filter,
    ) -> Result<Option<Vec<ObjectKey>>, Error> {
        let (own, wanted) = (permit.clone(), query.clone());
        let indexes = self.read_many(state.clone(), move |view| usable(view, &own, &wanted, at)).await?.value;
        for index in indexes {
            let Some(intervals) = filter.intervals(&index) else { continue };
            let prefix = query.prefix.clone();
            let search = Search { index, prefix, intervals, rows_max: FILTERED_NAMES_MAX };
            if let Some((found, _)) = self.search_index(state, permit, search).await? {
                let listed = found.rows.into_iter().chain(found.blocks).map(|object| object.key);
                let mut keys: Vec<ObjectKey> = listed.chain(found.whole).collect();
                keys.sort();
                return Ok(Some(keys));
            }
        }
        Ok(None)
    }

    /// Versions and delete markers.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub async fn list_versions(
        &self,
        call: &Call,
        bucket: &BucketName,
        query: Query,
        after_version: Option<VersionId>,
    ) -> Result<Done<Page<ListedVersion>>, Error> {
        let permit = call.on_bucket(Action::ListBucketVersions, bucket)?;
        let state = self.read_view(call).await?;
        self.read_many(state, move |view| {
            Ok(match query.limit {
                0 => empty(view.bucket(&permit)?, view.revision()),
                _ => view.list_versions(&permit, &query, after_version)?,
            })
        })
        .await
    }

    /// Uploads in progress.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub async fn list_uploads(
        &self,
        call: &Call,
        bucket: &BucketName,
        query: Query,
        after_upload: Option<UploadId>,
    ) -> Result<Done<Page<(UploadId, UploadRow)>>, Error> {
        let permit = call.on_bucket(Action::ListUploads, bucket)?;
        let state = self.read_view(call).await?;
        self.read_many(state, move |view| {
            Ok(match query.limit {
                0 => empty(view.bucket(&permit)?, view.revision()),
                _ => view.list_uploads(&permit, &query, after_upload)?,
            })
        })
        .await
    }

    /// Parts of an upload in progress, those above number `after`.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub async fn list_parts(
        &self,
        call: &Call,
        bucket: &BucketName,
        key: &ObjectKey,
        upload: UploadId,
        after: u16,
        limit: usize,
    ) -> Result<Done<PartsPage>, Error> {
        let permit = call.on_object(Action::ListParts, bucket, key)?;
        let state = self.read_view(call).await?;
        self.read_many(state, move |view| {
            let mut page = view.parts(&permit, upload, after, limit)?;
            page.truncated &= limit > 0;
            Ok(page)
        })
        .await
    }
}

/// What was asked for is nothing: not even whether there is more.
fn empty<T>(bucket: holdfast_core::view::Bucket, revision: Revision) -> Page<T> {
    Page { bucket, entries: Vec::new(), truncated: false, revision }
}
