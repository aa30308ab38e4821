//! Recovery: a new data directory of the next generation, built from the backend alone.
//!
//! ```text
//! look (is there anything?) ─▶ claim the next generation ─▶ wait until the old one acknowledges no more
//!   ─▶ newest valid checkpoint ─▶ log segments, applied one after the other ─▶ revision offset raised
//!   ─▶ first checkpoint of the new generation ─▶ identity (from here on a node starts)
//! ```
//! Promises: nothing of the old generation is changed but the claim; a recovery that dies leaves a directory that no node
//! starts from, and the next one claims one generation more; a revision never repeats, also none of those that the old
//! cluster handed out and never archived ([`REVISION_GAP`]); what is damaged or missing is named, and without
//! [`RecoverOptions::force`] nothing incomplete becomes a data directory.
//!
//! This is the whole work of a process of its own, so it reads and writes the state on the reactor.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use super::document::{self, Document};
use super::manifest::{self, Manifest};
use super::segment;
use super::ship::SEGMENT_READ_MAX;
use super::{Error, Owner, VERIFIED_FOR, checkpoint, names};
use crate::backend::Backend;
use crate::cluster::restore::Restore;
use crate::cluster::{self, StoredEntry};

mod blobs;
mod runs;

pub use self::blobs::Blobs;
pub use self::runs::Runs;

/// Revisions that are left out. The old cluster may have handed out revisions that were never archived: at most as many as
/// entries fit into [`super::UNSHIPPED_BYTES_MAX`], and an entry with its frame takes more than 32 bytes: 8 Mi.
const REVISION_GAP: u64 = 16 << 20;
/// Added to the wait: stores tell times in whole seconds.
const CLOCK_SLACK: Duration = Duration::from_secs(2);
/// Largest revision (exclusive): clients keep it in floats.
const REVISION_MAX: u64 = 1 << 53;
/// Cache of the state while it is built.
const CACHE_BYTES: u64 = 64 << 20;
/// Most bytes of a heartbeat.
const HEARTBEAT_BYTES_MAX: u64 = 64 << 10;

/// Which blobs are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verify {
    /// Each.
    All,
    /// About a thousand.
    Sample,
    /// None.
    None,
}

/// How to recover.
#[derive(Clone, Debug)]
pub struct RecoverOptions {
    /// The cluster directory to make.
    pub dir: PathBuf,
    /// Do not wait for the old generation, and go on although something is damaged or missing.
    pub force: bool,
    /// Only look: claims nothing and leaves no directory.
    pub dry_run: bool,
    /// Which blobs are looked for.
    pub verify: Verify,
}

/// What became of it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// The cluster.
    pub cluster_id: String,
    /// Its generation from now on (of a dry run: what it would be).
    pub generation: u64,
    /// The generation that was read.
    pub from_generation: u64,
    /// Whether it was only looked.
    pub dry_run: bool,
    /// The node of the new data directory.
    pub node_id: u64,
    /// Revision of the checkpoint that was loaded; 0 when the log was read from its beginning.
    pub checkpoint: u64,
    /// Segments and entries that were applied after it.
    pub segments: u64,
    /// See `segments`.
    pub entries: u64,
    /// Revision that was reached.
    pub revision: u64,
    /// Revision that the new log begins with.
    pub next_revision: u64,
    /// Buckets.
    pub buckets: u64,
    /// Versions and delete markers.
    pub versions: u64,
    /// Files of the archive that are damaged or missing, and what was lost with them.
    pub problems: Vec<String>,
    /// The blobs.
    pub blobs: Blobs,
    /// The runs of indexes.
    pub runs: Runs,
}

impl Report {
    /// Whether everything that should be there is there. An index whose runs are not is built anew from data.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.problems.is_empty() && self.blobs.missing == 0
    }
}

/// Recovers. `tell` gets lines about what takes long.
///
/// # Errors
/// [`Error::Incomplete`] when what is archived does not suffice; [`Error::Foreign`] when another recovery came first.
pub async fn recover(backend: &dyn Backend, options: &RecoverOptions, tell: impl Fn(String)) -> Result<Report, Error> {
    let found = document::read(backend).await?;
    let nothing =
        || Error::Incomplete(format!("{} holds no repository: {} is not there", backend.name(), names::CLUSTER));
    let found = found.ok_or_else(nothing)?;
    let from = newest_generation(backend, found.generation).await?;
    let dir = if options.dry_run { dry_run_dir(&options.dir) } else { options.dir.clone() };
    // A directory that cannot be used is found before anything is claimed.
    let probe = Restore::begin(&dir, CACHE_BYTES).map_err(restoring)?;
    probe.discard().map_err(restoring)?;
    let mut report = Report {
        cluster_id: found.cluster_id.clone(),
        generation: found.generation + 1,
        from_generation: from,
        dry_run: options.dry_run,
        ..Report::default()
    };
    if !options.dry_run {
        claim(backend, &found, options.force, &tell).await?;
    }
    let done = rebuild(backend, options, &dir, &mut report, &tell).await;
    if options.dry_run {
        let removed = std::fs::remove_dir_all(&dir);
        if let Err(error) = removed {
            tell(format!("cannot remove {}: {error}", dir.display()));
        }
    }
    done.map(|()| report)
}

fn dry_run_dir(dir: &Path) -> PathBuf {
    let mut name = dir.as_os_str().to_owned();
    name.push(".dry-run");
    name.into()
}

fn restoring(source: cluster::Error) -> Error {
    Error::Cluster { doing: "build the data directory", source }
}

/// The newest generation that archived anything. One that was claimed by a recovery which then died did not.
async fn newest_generation(backend: &dyn Backend, latest: u64) -> Result<u64, Error> {
    for generation in (1..=latest).rev() {
        let manifests = manifest::list(backend, generation).await?;
        if !manifests.is_empty() || !segments(backend, generation).await?.is_empty() {
            return Ok(generation);
        }
    }
    Err(Error::Incomplete(format!("{} holds no checkpoint and no log of any generation", backend.name())))
}

/// The segments of a generation by first revision.
async fn segments(backend: &dyn Backend, generation: u64) -> Result<Vec<(u64, String)>, Error> {
    let prefix = names::segments(generation);
    let entries = names::list(backend, &prefix, None).await?;
    let named = |name: &str| Some((names::revision_in(name, &prefix)?, name.to_owned()));
    Ok(entries.iter().filter_map(|entry| named(entry.path.as_str())).collect())
}

/// Takes the repository over, and waits until the old generation acknowledges nothing any more.
async fn claim(backend: &dyn Backend, found: &Document, force: bool, tell: &impl Fn(String)) -> Result<(), Error> {
    let nonce = hex::encode(rand::random::<[u8; 8]>());
    let claimed = document::claim_next(backend, found, &nonce).await?;
    tell(format!("generation {} of cluster {} is claimed", claimed.generation, claimed.cluster_id));
    let heartbeat = names::read(backend, &names::heartbeat(found.generation), HEARTBEAT_BYTES_MAX).await?;
    let Some((_, heartbeat)) = heartbeat else { return Ok(()) };
    // Both times are the store's: the clock of this machine has no say.
    let age = claimed.head.last_modified.duration_since(heartbeat.last_modified).unwrap_or_default();
    let wait = (VERIFIED_FOR + CLOCK_SLACK).saturating_sub(age);
    if !wait.is_zero() && !force {
        tell(format!(
            "the old generation gave its last sign of life {} s ago: waiting {} s until it can acknowledge nothing any more",
            age.as_secs(),
            wait.as_secs() + 1
        ));
        tokio::time::sleep(wait).await;
    }
    Ok(())
}

async fn rebuild(
    backend: &dyn Backend,
    options: &RecoverOptions,
    dir: &Path,
    report: &mut Report,
    tell: &impl Fn(String),
) -> Result<(), Error> {
    let mut source = Source { backend, owner: Owner::new(&report.cluster_id, report.from_generation)?, report };
    let (mut restore, mut place) = source.load_newest(dir, tell).await?;
    let built = source.replay(&mut restore, &mut place).await;
    let known = source.highest_known().await?;
    if place.revision() < known {
        let what = format!("revisions {} to {known} were archived and cannot be read", place.revision() + 1);
        source.report.problems.push(what);
    }
    built?;
    if !source.report.problems.is_empty() && !options.force {
        restore.discard().map_err(restoring)?;
        return Err(Error::Incomplete(format!(
            "the archive is not whole; with --force the state of revision {} is recovered without the rest:\n  {}",
            place.revision(),
            source.report.problems.join("\n  ")
        )));
    }
    report.revision = place.revision();
    report.next_revision = next_revision(known.max(place.revision()))?;
    report.node_id = restore.begin_log_at(report.next_revision).map_err(restoring)?;
    blobs::count(&restore.view(), report)?;
    blobs::look_for(backend, &restore.view(), options.verify, report, tell).await?;
    runs::look_for(backend, &restore.view(), report, tell).await?;
    if options.dry_run {
        return restore.discard().map_err(restoring);
    }
    // The new generation is complete by itself from its first moment.
    let owner = Owner::new(&report.cluster_id, report.generation)?;
    checkpoint::write(backend, &owner, restore.view(), report.next_revision - 1, 1).await?;
    restore.finish(report.cluster_id.clone(), report.generation, report.node_id).map_err(restoring)?;
    Ok(())
}

fn next_revision(seen: u64) -> Result<u64, Error> {
    let next = (seen + REVISION_GAP).next_multiple_of(REVISION_GAP);
    let out = || Error::Incomplete(format!("no revisions are left after {seen}"));
    (next < REVISION_MAX).then_some(next).ok_or_else(out)
}

/// How far the state is.
struct Place {
    next_index: u64,
    offset: u64,
}

impl Place {
    fn revision(&self) -> u64 {
        (self.next_index + self.offset).saturating_sub(1)
    }
}

/// What is read.
struct Source<'a> {
    backend: &'a dyn Backend,
    owner: Owner,
    report: &'a mut Report,
}

impl Source<'_> {
    /// A state with the rows of the newest checkpoint that is whole, or an empty one when the log is there from its
    /// beginning.
    async fn load_newest(&mut self, dir: &Path, tell: &impl Fn(String)) -> Result<(Restore, Place), Error> {
        let manifests = manifest::list(self.backend, self.owner.generation).await?;
        for (revision, name) in manifests.iter().rev() {
            tell(format!("loading the checkpoint of revision {revision}"));
            let mut restore = Restore::begin(dir, CACHE_BYTES).map_err(restoring)?;
            match self.load(&mut restore, name).await {
                Ok(manifest) => {
                    self.report.checkpoint = manifest.revision;
                    return Ok((restore, Place { next_index: manifest.next_index, offset: manifest.offset() }));
                }
                Err(error @ Error::Damaged { .. }) => {
                    // The log since an older one may make up for it: then nothing is lost.
                    tell(format!("{error}; an older checkpoint is tried"));
                    restore.discard().map_err(restoring)?;
                }
                Err(error) => return Err(error),
            }
        }
        let Some((first_revision, name)) = segments(self.backend, self.owner.generation).await?.into_iter().next()
        else {
            return Err(Error::Incomplete("no checkpoint is whole, and there is no log".into()));
        };
        let first = self.read_segment(&name).await?;
        if first.header.first_index != 0 {
            return Err(Error::Incomplete(format!(
                "no checkpoint is whole, and the log begins only at revision {first_revision}"
            )));
        }
        let restore = Restore::begin(dir, CACHE_BYTES).map_err(restoring)?;
        Ok((restore, Place { next_index: 0, offset: first.header.first_revision }))
    }

    async fn load(&self, restore: &mut Restore, name: &str) -> Result<Manifest, Error> {
        let manifest = manifest::read(self.backend, name, &self.owner.cluster_id, self.owner.generation).await?;
        checkpoint::read(self.backend, &manifest, |rows| restore.load(rows).map_err(restoring)).await?;
        Ok(manifest)
    }

    async fn read_segment(&self, name: &str) -> Result<segment::Segment, Error> {
        let damaged = |what: String| Error::Damaged { name: name.to_owned(), what };
        let found = names::read(self.backend, name, SEGMENT_READ_MAX).await?;
        let (bytes, _) = found.ok_or_else(|| damaged("it is gone".into()))?;
        let segment = segment::decode(&bytes).map_err(damaged)?;
        if (segment.header.cluster, segment.header.generation) != (self.owner.cluster, self.owner.generation) {
            return Err(damaged("it is of another cluster or generation".into()));
        }
        Ok(segment)
    }

    /// Applies the log from `place` on, up to its end or the first thing that is not whole.
    async fn replay(&mut self, restore: &mut Restore, place: &mut Place) -> Result<(), Error> {
        let segments = segments(self.backend, self.owner.generation).await?;
        let next_revision = place.next_index + place.offset;
        // The last one that begins at or before the place may reach beyond it.
        let begin = segments.partition_point(|(first, _)| *first <= next_revision).saturating_sub(1);
        for (first, name) in &segments[begin..] {
            if *first > place.next_index + place.offset {
                let what = format!("the log from revision {} to {} is missing", place.revision() + 1, first - 1);
                self.report.problems.push(what);
                return Ok(());
            }
            let segment = match self.read_segment(name).await {
                Ok(segment) => segment,
                Err(error @ Error::Damaged { .. }) => {
                    self.report.problems.push(error.to_string());
                    return Ok(());
                }
                Err(error) => return Err(error),
            };
            if segment.header.first_revision != segment.header.first_index + place.offset {
                self.report.problems.push(format!("{name} counts revisions from another start"));
                return Ok(());
            }
            let skip = segment.entries.partition_point(|entry| entry.index < place.next_index);
            self.apply(restore, place, &segment.entries[skip..])?;
            if let Some(damage) = segment.damage {
                self.report.problems.push(format!("{name} is damaged: {damage}"));
                return Ok(());
            }
        }
        Ok(())
    }

    fn apply(&mut self, restore: &mut Restore, place: &mut Place, entries: &[StoredEntry]) -> Result<(), Error> {
        let Some(last) = entries.last() else { return Ok(()) };
        restore.apply(entries, place.offset).map_err(restoring)?;
        place.next_index = last.index + 1;
        self.report.segments += 1;
        self.report.entries += entries.len() as u64;
        Ok(())
    }

    /// The highest revision that the names and the heartbeat speak of as archived.
    async fn highest_known(&self) -> Result<u64, Error> {
        let generation = self.owner.generation;
        let manifest = manifest::list(self.backend, generation).await?.last().map_or(0, |(revision, _)| *revision);
        let segment = segments(self.backend, generation).await?.last().map_or(0, |(first, _)| *first);
        let heartbeat = names::read(self.backend, &names::heartbeat(generation), HEARTBEAT_BYTES_MAX).await?;
        let beat = heartbeat.and_then(|(bytes, _)| serde_json::from_slice::<serde_json::Value>(&bytes).ok());
        let shipped = beat.and_then(|beat| beat["shipped"].as_u64()).unwrap_or(0);
        Ok(manifest.max(segment).max(shipped))
    }
}
