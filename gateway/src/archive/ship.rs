//! Ships committed entries into the bucket, as long as this node leads.
//!
//! The bucket says where to go on: names are create-only and each segment begins where the one before it ended, so of two
//! shippers at one place one wins and the other looks again. Entries that the log has purged before they were shipped (an
//! older release ran here, or the bounds were reached) are covered by a checkpoint instead.

use std::sync::atomic::Ordering;

use tokio::time::{Duration, Instant, timeout};

use super::segment::{self, Header};
use super::{Error, Inner, Position, checkpoint, manifest, names};
use crate::backend::{Body, Error as BackendError, PutOptions};
use crate::cluster::{CommittedEntries, Consistency, StoredEntry};

/// Most bytes of a segment that is read back: what is shipped at once, and one entry more.
pub(super) const SEGMENT_READ_MAX: u64 = 64 << 20;
/// Pause after a failure; also how often a follower looks at the bucket while somebody waits.
const RETRY: Duration = Duration::from_millis(500);

/// Ships until told to stop.
pub(super) async fn run(inner: &Inner) {
    let mut failing = false;
    loop {
        let done = if inner.leads() { ship_once(inner).await } else { follow(inner).await };
        match done {
            Ok(()) => failing = false,
            Err(Error::Foreign(reason)) => {
                tracing::error!(reason, "this node must not archive");
                inner.supersede(reason);
                return;
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(error = crate::backend::chain(&error), "the log could not be archived; tried again");
                }
                inner.out_of_space.store(error.is_no_space(), Ordering::Relaxed);
                inner.set_problem(Some(crate::backend::chain(&error)));
                inner.set_position(None);
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Looks where the bucket ends while another node ships; only when somebody waits for it.
async fn follow(inner: &Inner) -> Result<(), Error> {
    inner.set_position(None);
    inner.cluster.hold_log_from(u64::MAX);
    tokio::time::sleep(RETRY).await;
    let wanted = *inner.wanted.borrow();
    if wanted > *inner.shipped.borrow() {
        let found = resume_place(inner).await?;
        inner.shipped_through(found.last_revision);
    }
    Ok(())
}

/// Waits for entries and ships one segment of them.
pub(super) async fn ship_once(inner: &Inner) -> Result<(), Error> {
    let position = match inner.position() {
        Some(position) => position,
        None => resume(inner).await?,
    };
    inner.cluster.hold_log_from(position.next_index);
    let next_revision = position.next_index + inner.offset();
    // A leader that loses its place must notice.
    let waiting = inner.cluster.applied_after(next_revision.saturating_sub(1));
    if timeout(RETRY, waiting).await.is_err() {
        return Ok(());
    }
    gather(inner, &position).await;
    ship(inner, position).await
}

/// Lets a segment grow for a while, unless it is full or somebody waits for it.
async fn gather(inner: &Inner, position: &Position) {
    let mut wanted = inner.wanted.subscribe();
    let next_revision = position.next_index + inner.offset();
    let until = Instant::now() + inner.settings.ship_every;
    inner.behind_since(Some(Instant::now()));
    let full = async {
        /// How often the size of what waits is looked at.
        const LOOK: Duration = Duration::from_millis(50);
        while inner.unshipped(position) < inner.settings.segment_bytes as u64 {
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::select! {
        () = tokio::time::sleep_until(until) => {}
        _ = wanted.wait_for(|wanted| *wanted >= next_revision) => {}
        () = full => {}
        () = inner.stop.cancelled() => {}
    }
}

/// Ships one segment of what is committed from `position` on.
pub(super) async fn ship(inner: &Inner, position: Position) -> Result<(), Error> {
    let read_at = Instant::now();
    let read = inner.cluster.committed_entries(position.next_index, inner.settings.segment_bytes).await;
    let entries = match read.map_err(|source| Error::Cluster { doing: "read the log", source })? {
        CommittedEntries::Entries(entries) => entries,
        CommittedEntries::Purged { first } => return cover_gap(inner, first).await,
    };
    let Some(last) = entries.last().map(|entry| entry.index) else { return Ok(()) };
    let bytes = put_segment(inner, position.next_index, &entries).await?;
    inner.set_position(Some(Position { next_index: last + 1 }));
    inner.shipped_bytes.fetch_add(bytes, Ordering::Relaxed);
    inner.segments.fetch_add(1, Ordering::Relaxed);
    inner.out_of_space.store(false, Ordering::Relaxed);
    inner.set_problem(None);
    let revision = last + inner.offset();
    inner.shipped_through(revision);
    let behind = inner.cluster.status().revision > revision;
    inner.behind_since(behind.then_some(read_at));
    inner.look_behind();
    Ok(())
}

async fn put_segment(inner: &Inner, first_index: u64, entries: &[StoredEntry]) -> Result<u64, Error> {
    let header = Header {
        cluster: inner.owner.cluster,
        generation: inner.owner.generation,
        first_index,
        first_revision: first_index + inner.offset(),
    };
    let bytes = segment::encode(&header, entries);
    let (length, name) = (bytes.len() as u64, names::segment(header.generation, header.first_revision));
    let options = PutOptions { length: Some(length), deadline: names::soon(), ..PutOptions::default() };
    match inner.backend.put(&names::path(&name), Body::from(bytes), options).await {
        Ok(_) => Ok(length),
        // Somebody was here first, or an attempt of ours arrived whose reply was lost: the bucket says where to go on.
        Err(source @ BackendError::Exists { .. }) => {
            inner.set_position(None);
            Err(names::failed("create", &name)(source))
        }
        Err(source) => Err(names::failed("create", &name)(source)),
    }
}

/// A checkpoint takes the place of entries that are gone.
async fn cover_gap(inner: &Inner, first: u64) -> Result<(), Error> {
    tracing::warn!(first, "the log begins after what is archived: a checkpoint covers what is between");
    let manifest = take_checkpoint(inner).await?;
    inner.set_position(Some(Position { next_index: manifest.next_index }));
    inner.shipped_through(manifest.revision);
    Ok(())
}

/// Takes a checkpoint of the state of now.
pub(super) async fn take_checkpoint(inner: &Inner) -> Result<super::Manifest, Error> {
    let failed = |source| Error::Cluster { doing: "look at the state", source };
    let view = inner.cluster.view(Consistency::Local, Instant::now() + names::CALL_DEADLINE).await.map_err(failed)?;
    let revision = view.revision();
    let next_index = revision + 1 - inner.offset();
    let (manifest, cost) = checkpoint::write(&*inner.backend, &inner.owner, view, revision, next_index).await?;
    inner.set_checkpoint(&manifest);
    tracing::info!(
        revision,
        bytes = manifest.bytes(),
        versions = manifest.versions.rows,
        files_stored = cost.files,
        bytes_stored = cost.bytes,
        bytes_shared = cost.bytes_shared,
        "checkpoint archived"
    );
    checkpoint::prune(&*inner.backend, &inner.owner, inner.settings.manifests_kept).await?;
    Ok(manifest)
}

/// Where the bucket ends.
struct Place {
    next_index: u64,
    last_revision: u64,
    /// The last entry of the last segment.
    last: Option<StoredEntry>,
    newest: Option<super::Manifest>,
    /// Bytes of segments after the newest checkpoint.
    log_bytes: u64,
}

/// Finds out where to go on, and that this node's log continues what is there.
pub(super) async fn resume(inner: &Inner) -> Result<Position, Error> {
    let place = match resume_place(inner).await {
        Err(error @ Error::Damaged { .. }) => {
            tracing::error!(%error, "a checkpoint takes the place of what is damaged");
            let manifest = take_checkpoint(inner).await?;
            let position = Position { next_index: manifest.next_index };
            inner.set_position(Some(position));
            inner.shipped_through(manifest.revision);
            return Ok(position);
        }
        place => place?,
    };
    if let Some(manifest) = &place.newest {
        inner.set_checkpoint(manifest);
    }
    inner.shipped_bytes.store(place.log_bytes, Ordering::Relaxed);
    check_history(inner, &place).await?;
    let position = Position { next_index: place.next_index };
    inner.set_position(Some(position));
    inner.shipped_through(place.last_revision);
    Ok(position)
}

async fn resume_place(inner: &Inner) -> Result<Place, Error> {
    let (backend, generation) = (&*inner.backend, inner.owner.generation);
    let newest = newest_manifest(inner).await?;
    let segments = names::list(backend, &names::segments(generation), None).await?;
    let prefix = names::segments(generation);
    let after = newest.as_ref().map_or(0, |manifest| manifest.revision);
    let newer = segments.iter().filter(|entry| names::revision_in(entry.path.as_str(), &prefix) > Some(after));
    let log_bytes = newer.map(|entry| entry.length).sum();
    let checkpoint_next = newest.as_ref().map_or(0, |manifest| manifest.next_index);
    let mut place = Place { next_index: checkpoint_next, last_revision: after, last: None, newest, log_bytes };
    let Some(last) = segments.last() else { return Ok(place) };
    let segment = read_segment(inner, last.path.as_str()).await?;
    let Some(entry) = segment.entries.last() else { return Ok(place) };
    if entry.index + 1 >= place.next_index {
        place.next_index = entry.index + 1;
        place.last_revision = entry.index + inner.offset();
        place.last = Some(entry.clone());
    }
    Ok(place)
}

/// The newest manifest that can be read.
async fn newest_manifest(inner: &Inner) -> Result<Option<super::Manifest>, Error> {
    let owner = &inner.owner;
    for (_, name) in manifest::list(&*inner.backend, owner.generation).await?.iter().rev() {
        match manifest::read(&*inner.backend, name, &owner.cluster_id, owner.generation).await {
            Ok(manifest) => return Ok(Some(manifest)),
            Err(error @ Error::Damaged { .. }) => tracing::error!(%error, "an older checkpoint counts"),
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

async fn read_segment(inner: &Inner, name: &str) -> Result<segment::Segment, Error> {
    let damaged = |what: String| Error::Damaged { name: name.to_owned(), what };
    let found = names::read(&*inner.backend, name, SEGMENT_READ_MAX).await?;
    let (bytes, _) = found.ok_or_else(|| damaged("it is gone".into()))?;
    let segment = segment::decode(&bytes).map_err(damaged)?;
    if let Some(damage) = segment.damage {
        return Err(damaged(damage));
    }
    if (segment.header.cluster, segment.header.generation) != (inner.owner.cluster, inner.owner.generation) {
        return Err(damaged("it is of another cluster or generation".into()));
    }
    Ok(segment)
}

/// A leader has every committed entry. If the bucket has more, or others, this is an old copy of a data directory.
async fn check_history(inner: &Inner, place: &Place) -> Result<(), Error> {
    let applied = (inner.cluster.status().revision + 1).saturating_sub(inner.offset());
    let stale = |what: String| {
        Error::Foreign(format!(
            "{what}: this data directory is an older copy of the one that archived; start with that one, or recover from \
             the backend into a new one"
        ))
    };
    if place.next_index > applied {
        return Err(stale(format!(
            "the archive has entries up to {}, the log ends at {}",
            place.next_index.saturating_sub(1),
            applied.saturating_sub(1)
        )));
    }
    let Some(last) = &place.last else { return Ok(()) };
    let read = inner.cluster.committed_entries(last.index, 1).await;
    match read.map_err(|source| Error::Cluster { doing: "read the log", source })? {
        CommittedEntries::Entries(own) if own.first().is_some_and(|own| own != last) => {
            Err(stale(format!("entry {} of the archive is not the log's", last.index)))
        }
        _ => Ok(()),
    }
}
