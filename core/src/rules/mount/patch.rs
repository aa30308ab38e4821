//! Bytes and attributes of a file, and cuts.

use crate::apply::Txn;
use crate::command::mount::{FileRef, FileWrite, Origin, PatchFile, SetFileAttributes, StepOutcome};
use crate::command::{Digests, NewContent};
use crate::error::Error;
use crate::event::{EventKind, EventRow};
use crate::id::ObjectKey;
use crate::keyspace::{Keyspace, key};
use crate::list::name_of;
use crate::mount::Orphan;
use crate::record::{Body, Extent, HistoryRow, ObjectRow, PartRow, Version, Versioning};
use crate::rules::index::{self, Named as IndexedName};
use crate::rules::mount::files::{self, File, Named};
use crate::rules::mount::open_files;
use crate::rules::mount::pages::{Editor, Holders};
use crate::rules::mount::{Commit, SHARE_OF_ROW};
use crate::rules::object::{self, Draft};
use crate::rules::{OBJECT_BYTES_MAX, content, digest, links, multipart};
use crate::state::Stop;
use crate::view::{self, shown_version};

pub(super) fn set_attributes(
    txn: &mut Txn<'_>,
    commit: &mut Commit<'_>,
    step: &SetFileAttributes,
) -> Result<StepOutcome, Stop> {
    let file = super::names::find_or_make(txn, commit, &step.file)?;
    let mut version = file.version().clone();
    files::apply_metadata(&mut version.attributes.metadata, &step.set)?;
    rewrite(txn, commit, &file, &version, Change::Attributes)?;
    for object in told_names(txn, &file)? {
        txn.event(commit.event(EventKind::AttributesChanged, &object, version.object));
    }
    outcome(txn, commit, &step.file)
}

/// What a file is after a step.
pub(super) fn outcome(txn: &Txn<'_>, commit: &Commit<'_>, file: &FileRef) -> Result<StepOutcome, Stop> {
    let file = match &file.key {
        Some(object) => {
            let named = files::named(txn.reader(), commit.state.bucket.id, object)?.ok_or(Error::NoSuchKey)?;
            File::Named(Box::new(named))
        }
        None => files::find(txn.reader(), commit.state.bucket.id, Some(commit.op.client), file)?,
    };
    Ok(StepOutcome::Node(file.node(txn.reader())?))
}

pub(super) fn patch(txn: &mut Txn<'_>, commit: &mut Commit<'_>, step: &PatchFile) -> Result<StepOutcome, Stop> {
    if step.file.key.as_ref().is_some_and(files::is_directory) {
        return Err(Error::IsDirectory.into());
    }
    check_writes(step.size, &step.writes)?;
    let file = files::find(txn.reader(), commit.state.bucket.id, Some(commit.op.client), &step.file)?;
    let old = file.version().clone();
    if step.base.is_some_and(|base| base != old.generation()) {
        return Err(Error::Changed.into());
    }
    let patched = !step.writes.is_empty() || step.size.is_some_and(|size| size != old.size);
    let places = places(txn, commit, &file)?;
    let mut version = old.clone();
    if patched {
        let kept = places.iter().filter(|(_, in_place)| !in_place).count() as u64;
        let holders = Holders { new: places.len().max(1) as u64, kept };
        let name = step.file.key.as_ref().map(|key| key::name(commit.state.bucket.id, key.as_str()));
        let editor = Editor::open(txn, &version, holders, name.unwrap_or_default())?;
        write_bytes(txn, commit, &mut version, editor, step.size, &step.writes)?;
        version.patched = Some(txn.revision());
        version.open = Some(commit.op.client);
    }
    files::apply_metadata(&mut version.attributes.metadata, &step.set)?;
    let cut = step.cut && version.is_open();
    if cut {
        version.open = None;
    }
    if patched || cut || !step.set.is_empty() {
        let change = if patched { Change::Bytes } else { Change::Attributes };
        rewrite(txn, commit, &file, &version, change)?;
    }
    if patched || !step.set.is_empty() {
        let kind = if patched { EventKind::Patched } else { EventKind::AttributesChanged };
        for object in told_names(txn, &file)? {
            let event = commit.event(kind, &object, version.object);
            txn.event(EventRow { size: Some(version.size), etag: Some(version.etag.clone()), ..event });
        }
    }
    if let (File::Named(named), true) = (&file, cut) {
        finish_cut(txn, commit, &named.key)?;
    }
    outcome(txn, commit, &step.file)
}

pub(super) fn cut(txn: &mut Txn<'_>, commit: &mut Commit<'_>, file: &FileRef) -> Result<StepOutcome, Stop> {
    let found = files::find(txn.reader(), commit.state.bucket.id, Some(commit.op.client), file)?;
    if found.version().is_open() {
        let version = Version { open: None, ..found.version().clone() };
        rewrite(txn, commit, &found, &version, Change::Attributes)?;
        if let File::Named(named) = &found {
            finish_cut(txn, commit, &named.key)?;
        }
    }
    outcome(txn, commit, file)
}

/// What was written is a version from now on: its digest is computed, its pieces may be joined, watchers are told.
fn finish_cut(txn: &mut Txn<'_>, commit: &Commit<'_>, object: &ObjectKey) -> Result<(), Stop> {
    let bucket = &commit.state.bucket;
    let Some(named) = files::named(txn.reader(), bucket.id, object)? else { return Ok(()) };
    let Named { name, version, .. } = &named;
    if version.sha256.is_none() {
        object::queue_digest(txn, bucket, object, name.place);
    }
    if let Body::Pages(id) = version.body {
        content::queue_written(txn, id, bucket.id, object)?;
    }
    for object in told_names(txn, &File::Named(Box::new(named)))? {
        tell_put(txn, commit, &object)?;
    }
    Ok(())
}

/// Work that an event of a file with many names counts for besides its row: a command has fewer than 65,536 of them.
const EVENT_WORK: u64 = 4;

/// The names of a file, each of which is told of.
fn told_names(txn: &mut Txn<'_>, file: &File) -> Result<Vec<ObjectKey>, Stop> {
    let File::Named(named) = file else { return Ok(Vec::new()) };
    let names = links::names(txn.reader(), named.version.object, &named.key)?;
    txn.looked_at(names.len() as u64 * EVENT_WORK);
    Ok(names)
}

/// Tells of an object that was put, as of the version that its key has.
pub(super) fn tell_put(txn: &mut Txn<'_>, commit: &Commit<'_>, object: &ObjectKey) -> Result<(), Stop> {
    let bucket = &commit.state.bucket;
    let Some(name) = txn.reader().name(bucket.id, object)? else { return Ok(()) };
    let Some(row) = txn.reader().history(bucket.id, object, name.place)? else { return Ok(()) };
    let event = commit.event(EventKind::Put, object, name.object);
    let version = shown_version(bucket, &row, name.place);
    txn.event(EventRow { version, size: Some(name.size), etag: Some(name.etag), ..event });
    Ok(())
}

pub(super) fn check_writes(size: Option<u64>, writes: &[FileWrite]) -> Result<(), Error> {
    let ends = writes.iter().map(|write| write.offset.checked_add(write.length));
    if size.into_iter().map(Some).chain(ends).any(|end| end.is_none_or(|end| end > OBJECT_BYTES_MAX)) {
        return Err(Error::TooLarge);
    }
    if writes.iter().any(|write| write.length == 0) {
        return Err(Error::invalid("a write has at least one byte"));
    }
    Ok(())
}

/// The names of a file, each with whether its version changes where it is. A file without a name has none.
fn places(txn: &Txn<'_>, commit: &mut Commit<'_>, file: &File) -> Result<Vec<(ObjectKey, bool)>, Stop> {
    let File::Named(named) = file else { return Ok(Vec::new()) };
    let names = links::names(txn.reader(), named.version.object, &named.key)?;
    commit.charge(names.len() as u64)?;
    let bucket = &commit.state.bucket;
    let mut places = Vec::new();
    for object in names {
        let in_place = match bucket.versioning {
            Versioning::Never => true,
            Versioning::Enabled => named.version.open == Some(commit.op.client),
            Versioning::Suspended => txn.reader().name(bucket.id, &object)?.is_some_and(|name| name.null),
        };
        places.push((object, in_place));
    }
    Ok(places)
}

/// Cuts a file to `size` and writes, in order; what follows from that for its size, body and digests.
pub(super) fn write_bytes(
    txn: &mut Txn<'_>,
    commit: &mut Commit<'_>,
    version: &mut Version,
    mut editor: Editor,
    size: Option<u64>,
    writes: &[FileWrite],
) -> Result<(), Stop> {
    let written = write_all(txn, commit, &mut editor, size, writes);
    commit.spend(editor.work());
    written?;
    let size = editor.size();
    version.body = editor.finish(txn, version)?;
    version.size = size;
    if let Body::Pages(id) = version.body {
        version.content_revision = id.revision;
    }
    version.parts = None;
    version.checksum = None;
    match (whole(commit, size, writes), size) {
        (Some(sent), _) => {
            object::describe(version, &sent.digests);
            version.crc_pending = None;
        }
        (None, 0) => describe_empty(version),
        (None, _) => {
            version.etag = digest::patched_etag(&version.etag, txn.revision(), size);
            version.sha256 = None;
            version.crc64nvme = 0;
            version.crc_pending = Some(true);
        }
    }
    Ok(())
}

fn write_all(
    txn: &Txn<'_>,
    commit: &mut Commit<'_>,
    editor: &mut Editor,
    size: Option<u64>,
    writes: &[FileWrite],
) -> Result<(), Stop> {
    if let Some(size) = size {
        editor.resize(txn, size)?;
    }
    for write in writes {
        let extents = resolve(txn, commit, write)?;
        editor.write(txn, &extents)?;
        commit.check(editor.work())?;
    }
    Ok(())
}

/// The commit's own bytes, when they are all that the file holds: then its digests are known.
fn whole<'c>(commit: &Commit<'c>, size: u64, writes: &[FileWrite]) -> Option<&'c NewContent> {
    let [FileWrite { offset: 0, length, from: Origin::Sent(0) }] = writes else { return None };
    commit.op.sent.as_ref().filter(|sent| sent.size == *length && sent.size == size)
}

pub(super) fn describe_empty(version: &mut Version) {
    use md5::Digest as _;
    let (md5, sha256) = (md5::Md5::digest(b"").into(), sha2::Sha256::digest(b"").into());
    object::describe(version, &Digests { md5, sha256, crc64nvme: 0, checksum: None });
    version.crc_pending = None;
}

/// The extents that a write brings, at their places in the file.
fn resolve(txn: &Txn<'_>, commit: &mut Commit<'_>, write: &FileWrite) -> Result<Vec<Extent>, Stop> {
    let range = |at: u64, size: u64| {
        let end = at.checked_add(write.length).filter(|end| *end <= size).ok_or(Error::InvalidRange)?;
        Ok::<_, Stop>(at..end)
    };
    let moved = |at: u64, extent: Extent| Extent { offset: extent.offset - at + write.offset, ..extent };
    let extents: Vec<Extent> = match &write.from {
        Origin::Hole => {
            let blob = crate::id::BlobId::HOLE;
            vec![Extent { offset: write.offset, length: write.length, blob, blob_offset: 0 }]
        }
        Origin::Sent(at) => {
            let sent = commit.sent.ok_or(Error::InvalidRange)?;
            let range = range(*at, sent.length)?;
            view::clip(&sent, &range).map(|extent| moved(*at, extent)).into_iter().collect()
        }
        Origin::Part(number, at) => {
            let part = part(txn, commit, *number)?;
            commit.charge(1 + part.extents.len() as u64 / SHARE_OF_ROW)?;
            let range = range(*at, part.size)?;
            commit.state.used.insert(*number);
            part.extents.iter().filter_map(|extent| view::clip(extent, &range)).map(|part| moved(*at, part)).collect()
        }
        Origin::File(source, at) => {
            let file = files::find(txn.reader(), commit.state.bucket.id, Some(commit.op.client), source)?;
            let range = range(*at, file.version().size)?;
            // No more are looked for than may be brought.
            let most = commit.state.extents_left.saturating_add(1);
            let extents = match file.version().body {
                Body::Pages(content) => view::first_extents(txn.reader(), content, range, most)?,
                Body::Empty | Body::Single(_) => view::extents(txn.reader(), file.version(), range)?,
            };
            extents.into_iter().map(|extent| moved(*at, extent)).collect()
        }
    };
    commit.charge(1 + extents.len() as u64)?;
    let left = commit.state.extents_left.checked_sub(extents.len());
    commit.state.extents_left = left.ok_or(Error::TooManyExtents)?;
    Ok(extents)
}

fn part(txn: &Txn<'_>, commit: &Commit<'_>, number: u16) -> Result<PartRow, Stop> {
    let missing = Error::InvalidPart { number };
    let Some(upload) = commit.upload() else { return Err(missing.into()) };
    multipart::load(txn, &upload)?;
    let row: Option<PartRow> = txn.reader().row(Keyspace::Parts, &key::part(upload.upload.place, number))?;
    Ok(row.ok_or(missing)?)
}

/// What of a version is changed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// Also its bytes, whose references are counted already.
    Bytes,
    /// Only its attributes, and whether it is open.
    Attributes,
}

/// Gives a file a changed version: in place, or as a new one where its bytes may not change in place. Its other names
/// follow.
pub(super) fn rewrite(
    txn: &mut Txn<'_>,
    commit: &mut Commit<'_>,
    file: &File,
    version: &Version,
    change: Change,
) -> Result<(), Stop> {
    if let File::Orphan(orphan) = file {
        let modified_ms = if change == Change::Bytes { txn.now_ms() } else { orphan.modified_ms };
        let orphan = Orphan { version: version.clone(), modified_ms, ..orphan.as_ref().clone() };
        let row = ObjectRow { links: 0, orphan: Some(orphan) };
        txn.put(Keyspace::Objects, key::object(version.object), &row);
        return Ok(());
    }
    for (object, in_place) in places(txn, commit, file)? {
        if in_place || change == Change::Attributes {
            rewrite_in_place(txn, commit, &object, version, change)?;
        } else {
            let name = txn.reader().name(commit.state.bucket.id, &object)?;
            let draft = Draft::new(txn, commit.op.nonce, version.clone());
            object::write(txn, &mut commit.state.bucket, &object, name, draft)?;
        }
    }
    Ok(())
}

fn rewrite_in_place(
    txn: &mut Txn<'_>,
    commit: &mut Commit<'_>,
    object: &ObjectKey,
    version: &Version,
    change: Change,
) -> Result<(), Stop> {
    let bucket = &mut commit.state.bucket;
    let Some(name) = txn.reader().name(bucket.id, object)? else { return Err(Error::Changed.into()) };
    let place = name.place;
    let Some(old) = txn.reader().history(bucket.id, object, place)? else { return Err(Error::Changed.into()) };
    let created_ms = old.version.as_ref().map_or(version.created_ms, |old| old.created_ms);
    let before = old.size();
    open_files::changed(txn, object, old.version.as_ref().and_then(|old| old.open), version.open);
    let mut row = HistoryRow { version: Some(Version { created_ms, ..version.clone() }), ..old };
    if change == Change::Bytes {
        row.modified_ms = txn.now_ms();
    }
    txn.put(Keyspace::History, key::history(bucket.id, object.as_str(), place), &row);
    let indexed = IndexedName { object, place, row: &row };
    if change == Change::Attributes {
        return index::remarked(txn, bucket, indexed);
    }
    bucket.usage.bytes = (bucket.usage.bytes + version.size).saturating_sub(before);
    bucket.changed = txn.revision();
    let queued = key::queued_digest(bucket.id, object.as_str(), place);
    if txn.reader().0.get(Keyspace::Queues, &queued)?.is_some() {
        txn.delete(Keyspace::Queues, queued);
    }
    if let Some(name) = name_of(&row, place) {
        txn.put(Keyspace::Names, key::name(bucket.id, object.as_str()), &name);
    }
    index::named(txn, bucket, indexed)
}
