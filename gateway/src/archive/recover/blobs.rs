//! Whether the bytes are there that the recovered state speaks of, and which bytes it does not know.

use std::sync::Arc;

use futures::{StreamExt as _, stream};
use holdfast_core::id::BlobId;
use holdfast_core::keyspace::{Keyspace, key};
use holdfast_core::kv::{Direction, KeyRange, KvRead};
use holdfast_core::path::{BLOBS_PREFIX, parse_blob_path};
use holdfast_core::record::{BlobRow, BucketRow, Location, Record};
use holdfast_core::state::Stop;
use serde::Serialize;

use super::{Report, Verify};
use crate::archive::{Error, names};
use crate::backend::{self, Backend, HeadOptions, ObjectPath};

/// About how many blobs a sample has.
const SAMPLE: u64 = 1000;
/// Blobs looked for at a time.
const HEADS: usize = 16;
/// Names that a report lists of each kind.
const NAMES_MAX: usize = 1000;

/// What was found of blobs.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Blobs {
    /// Blobs of the state that are files of the backend.
    pub known: u64,
    /// Of these, how many were looked for.
    pub checked: u64,
    /// Of these, how many are not there, or have another length.
    pub missing: u64,
    /// Their names, the first of them.
    pub missing_names: Vec<String>,
    /// Blobs in the backend that no row knows: lost and found. Nothing deletes them by itself.
    pub unknown: u64,
    /// Their bytes.
    pub unknown_bytes: u64,
    /// Their names, the first of them.
    pub unknown_names: Vec<String>,
}

/// Counts buckets and versions.
pub(super) fn count(view: &impl KvRead, report: &mut Report) -> Result<(), Error> {
    for row in view.scan(Keyspace::Buckets, KeyRange::prefix(&key::buckets()), Direction::Forward) {
        let (_, value) = row.map_err(Stop::from)?;
        let bucket = BucketRow::decode(&value).map_err(Stop::from)?;
        report.buckets += 1;
        report.versions += bucket.usage.versions;
    }
    Ok(())
}

/// Looks for blobs of the state in the backend, and for blobs that the state does not know.
pub(super) async fn look_for<V: KvRead + Clone + 'static>(
    backend: &dyn Backend,
    view: &V,
    verify: Verify,
    report: &mut Report,
    tell: &impl Fn(String),
) -> Result<(), Error> {
    report.blobs.known = live(view)?.count() as u64;
    let step = match verify {
        Verify::None => return Ok(()),
        Verify::All => 1,
        Verify::Sample => (report.blobs.known / SAMPLE).max(1),
    };
    tell(format!("looking for {} of {} blobs", report.blobs.known.div_ceil(step), report.blobs.known));
    let wanted = live(view)?.step_by(usize::try_from(step).unwrap_or(usize::MAX));
    let mut heads = stream::iter(wanted.map(|blob| async move {
        let blob = blob?;
        Ok::<_, Error>((head(backend, &blob).await?, blob))
    }))
    .buffer_unordered(HEADS);
    while let Some(found) = heads.next().await {
        let (there, blob) = found?;
        report.blobs.checked += 1;
        if !there {
            report.blobs.missing += 1;
            note(&mut report.blobs.missing_names, &blob.path);
        }
    }
    drop(heads);
    find_unknown(backend, view, &mut report.blobs).await
}

pub(super) fn note(names: &mut Vec<String>, name: &str) {
    if names.len() < NAMES_MAX {
        names.push(name.to_owned());
    }
}

pub(super) struct Wanted {
    pub(super) path: String,
    pub(super) length: u64,
}

/// Blobs that versions, pages or parts need and that are files.
fn live(view: &impl KvRead) -> Result<impl Iterator<Item = Result<Wanted, Error>>, Error> {
    let rows = view.scan(Keyspace::Blobs, KeyRange::prefix(&key::buckets()), Direction::Forward);
    Ok(rows.filter_map(|row| match row {
        Err(error) => Some(Err(Stop::from(error).into())),
        // Pages of checksums are no records of blobs.
        Ok((row_key, _)) if !matches!(key::blob_id(&row_key), Some((_, None))) => None,
        Ok((_, value)) => match BlobRow::decode(&value) {
            Err(error) => Some(Err(Error::State(Arc::new(error.into())))),
            Ok(row) if row.condemned.is_some() => None,
            Ok(row) => row.locations.iter().find_map(|location| match location {
                Location::Path(path) => Some(Ok(Wanted { path: path.clone(), length: row.length })),
                Location::Inline => None,
            }),
        },
    }))
}

pub(super) async fn head(backend: &dyn Backend, wanted: &Wanted) -> Result<bool, Error> {
    let path = ObjectPath::new(&wanted.path).map_err(names::failed("look for", &wanted.path))?;
    match backend.head(&path, HeadOptions { deadline: names::soon() }).await {
        Ok(head) => Ok(head.length == wanted.length),
        Err(backend::Error::NotFound { .. }) => Ok(false),
        Err(source) => Err(names::failed("look for", &wanted.path)(source)),
    }
}

async fn find_unknown(backend: &dyn Backend, view: &impl KvRead, blobs: &mut Blobs) -> Result<(), Error> {
    names::each(backend, BLOBS_PREFIX, None, |entry| {
        let Some((_, blob)) = parse_blob_path(entry.path.as_str()) else { return Ok(()) };
        if !is_known(view, blob)? {
            blobs.unknown += 1;
            blobs.unknown_bytes += entry.length;
            note(&mut blobs.unknown_names, entry.path.as_str());
        }
        Ok(())
    })
    .await
}

fn is_known(view: &impl KvRead, blob: BlobId) -> Result<bool, Error> {
    Ok(view.get(Keyspace::Blobs, &key::blob(blob)).map_err(Stop::from)?.is_some())
}
