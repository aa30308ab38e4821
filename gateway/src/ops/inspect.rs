//! What an operator may look at: every version of a key, with the places of its bytes.

use std::collections::BTreeSet;

use holdfast_core::id::{BlobId, BucketName, ObjectKey};
use holdfast_core::list::{Entry, Query};
use holdfast_core::record::Location;
use holdfast_core::rules::authorize::{Action, Permit};
use holdfast_core::view::{Found, View, object_resource};

use super::list::PAGE_ENTRIES_MAX;
use super::{Call, Done};
use crate::error::Error;
use crate::gateway::Gateway;

/// Versions that are looked at, at most.
pub const VERSIONS_MAX: usize = 1000;
/// Blobs of a version that are named, at most.
pub const BLOBS_MAX: usize = 100;

/// A version and where its bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspected {
    /// The version or delete marker.
    pub found: Found,
    /// Where its blobs are, in order of their first use.
    pub blobs: Vec<(BlobId, Vec<Location>)>,
    /// Whether it has more blobs than are named.
    pub more_blobs: bool,
}

/// A key's versions, newest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versions {
    /// At most [`VERSIONS_MAX`].
    pub versions: Vec<Inspected>,
    /// Whether there are more.
    pub truncated: bool,
}

impl Gateway {
    /// Looks at the latest version of a key, or at every one.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub async fn inspect(
        &self,
        call: &Call,
        bucket: &BucketName,
        key: &ObjectKey,
        all: bool,
    ) -> Result<Done<Versions>, Error> {
        let list = call.on_bucket(Action::ListBucketVersions, bucket)?;
        let latest = call.permit(Action::GetObject, object_resource(bucket, key))?;
        let each = call.permit(Action::GetObjectVersion, object_resource(bucket, key))?;
        let state = self.read_view(call).await?;
        let key = key.clone();
        self.read_many(state, move |view| {
            if all {
                every(view, &list, &each, &key)
            } else {
                let found = view.find(&latest, None, None)?;
                Ok(Versions { versions: vec![inspected(view, found)?], truncated: false })
            }
        })
        .await
    }
}

fn every(view: &View<'_>, list: &Permit, each: &Permit, key: &ObjectKey) -> Result<Versions, Error> {
    let query = Query { prefix: key.to_string(), limit: VERSIONS_MAX.min(PAGE_ENTRIES_MAX), ..Query::default() };
    let page = view.list_versions(list, &query, None)?;
    let mut found = Versions { versions: Vec::new(), truncated: page.truncated };
    for entry in page.entries {
        match entry {
            Entry::Item(listed, version) if listed == key.as_str() => {
                let version = view.find(each, Some(version.version_id()), None)?;
                found.versions.push(inspected(view, version)?);
            }
            // Keys that only begin like it come after all of its versions.
            Entry::Item(..) | Entry::Prefix(_) => {
                found.truncated = false;
                break;
            }
        }
    }
    if found.versions.is_empty() { Err(holdfast_core::error::Error::NoSuchKey.into()) } else { Ok(found) }
}

fn inspected(view: &View<'_>, found: Found) -> Result<Inspected, Error> {
    let size = found.row.size();
    let mut inspected = Inspected { found, blobs: Vec::new(), more_blobs: false };
    if inspected.found.row.version.is_none() {
        return Ok(inspected);
    }
    let mut seen = BTreeSet::new();
    for extent in view.extents(&inspected.found, 0..size)? {
        if extent.blob == BlobId::HOLE || !seen.insert(extent.blob) {
            continue;
        }
        if inspected.blobs.len() == BLOBS_MAX {
            inspected.more_blobs = true;
            break;
        }
        inspected.blobs.push((extent.blob, view.blob(&extent)?.row.locations));
    }
    Ok(inspected)
}
