//! Names: create, link, unlink, rename.

use std::cell::Cell;
use std::collections::BTreeMap;

use crate::apply::Txn;
use crate::command::mount::{CreateFile, FileRef, LinkFile, Onto, RenameFile, StepOutcome, UnlinkFile};
use crate::error::Error;
use crate::event::{EventKind, EventRow};
use crate::id::{ObjectId, ObjectKey};
use crate::keyspace::key;
use crate::mount::{IMPLICIT, LINKS_MAX, ORPHANS_MAX, Orphan, attribute};
use crate::record::{Attributes, BucketRow, NameRow, Version, Versioning};
use crate::rules::index;
use crate::rules::mount::files::{self, File, Named};
use crate::rules::mount::pages::{Editor, Holders};
use crate::rules::mount::patch::{self, Change};
use crate::rules::mount::{Commit, session};
use crate::rules::object::{self, Draft};
use crate::rules::rename::{move_name, names_under};
use crate::rules::{RENAME_ROWS_MAX, content, links};
use crate::state::Stop;

/// Rows of a name's history that are looked at for what it was.
const ADOPT_ROWS_MAX: u32 = 10_000;
/// Names of one file that are as much work as a row that is looked for: their rows follow each other, and are read for each
/// name that comes or goes.
const LINKS_OF_ROW: u64 = 8;
/// Bytes of metadata in a row that are as much work as a row.
const METADATA_OF_ROW: u64 = 256;

pub(super) fn create(txn: &mut Txn<'_>, commit: &mut Commit<'_>, step: &CreateFile) -> Result<StepOutcome, Stop> {
    let bucket = commit.state.bucket.id;
    files::check_new(txn.reader(), bucket, &step.key)?;
    if files::exists(txn.reader(), bucket, &step.key)? {
        return Err(Error::FileExists.into());
    }
    files::check_metadata(&step.metadata)?;
    step.content_type.iter().try_for_each(|value| files::check_header_value(value))?;
    let directory = files::is_directory(&step.key);
    if directory && !step.bytes.is_empty() {
        return Err(Error::invalid("a directory has no bytes").into());
    }
    let mut attributes = Attributes { metadata: step.metadata.clone(), ..Attributes::default() };
    attributes.headers.content_type.clone_from(&step.content_type);
    if directory && step.content_type.is_none() {
        attributes.headers.content_type = Some(attribute::DIRECTORY_TYPE.to_owned());
    }
    let mut version = object::blank(txn, attributes);
    patch::describe_empty(&mut version);
    if !step.bytes.is_empty() {
        patch::check_writes(None, &step.bytes)?;
        let editor = Editor::open(txn, &version, Holders { new: 1, kept: 0 }, key::name(bucket, step.key.as_str()))?;
        patch::write_bytes(txn, commit, &mut version, editor, None, &step.bytes)?;
        version.content_revision = txn.revision();
    }
    make(txn, commit, &step.key, version)?;
    touch_parent(txn, commit, &step.key)?;
    patch::outcome(txn, commit, &named_ref(&step.key))
}

/// Gives a key that has none its first version, and tells of it.
fn make(txn: &mut Txn<'_>, commit: &mut Commit<'_>, object: &ObjectKey, version: Version) -> Result<(), Stop> {
    let draft = Draft::new(txn, commit.op.nonce, version);
    object::write(txn, &mut commit.state.bucket, object, None, draft)?;
    patch::tell_put(txn, commit, object)
}

/// A reference for what is behind a key now.
fn named_ref(object: &ObjectKey) -> FileRef {
    FileRef { key: Some(object.clone()), object: IMPLICIT }
}

/// Gives a directory that only its entries make a row of its own.
fn make_marker(txn: &mut Txn<'_>, commit: &mut Commit<'_>, directory: &ObjectKey, set: &[&str]) -> Result<(), Stop> {
    let mut attributes = Attributes { metadata: commit.op.directory.clone(), ..Attributes::default() };
    for name in set {
        attributes.metadata.insert((*name).to_owned(), commit.op.now.clone());
    }
    files::check_metadata(&attributes.metadata)?;
    attributes.headers.content_type = Some(attribute::DIRECTORY_TYPE.to_owned());
    let mut version = object::blank(txn, attributes);
    patch::describe_empty(&mut version);
    make(txn, commit, directory, version)
}

/// What a step names; a directory without a row of its own gets one.
pub(super) fn find_or_make(txn: &mut Txn<'_>, commit: &mut Commit<'_>, file: &FileRef) -> Result<File, Stop> {
    let bucket = commit.state.bucket.id;
    if let Some(directory) = file.key.as_ref().filter(|key| files::is_directory(key) && file.object == IMPLICIT)
        && !files::is_file(txn.reader(), bucket, directory.as_str())?
        && files::any_under(txn.reader(), bucket, directory.as_str())?
    {
        make_marker(txn, commit, directory, &[attribute::MTIME, attribute::CTIME])?;
    }
    files::find(txn.reader(), bucket, Some(commit.op.client), file)
}

/// The entries of the directory that holds `object` have changed: its times are now, and it stays when it is empty.
/// Nothing is told of it: whoever hears of the entry knows.
fn touch_parent(txn: &mut Txn<'_>, commit: &mut Commit<'_>, object: &ObjectKey) -> Result<(), Stop> {
    let Some(parent) = files::parent(object) else { return Ok(()) };
    let parent: ObjectKey = parent.parse().map_err(|_| Error::NoSuchKey)?;
    let times = [attribute::MTIME, attribute::CTIME];
    let Some(named) = files::named(txn.reader(), commit.state.bucket.id, &parent)? else {
        return make_marker(txn, commit, &parent, &times);
    };
    let now = &commit.op.now;
    if times.iter().all(|name| named.version.attributes.metadata.get(*name) == Some(now)) {
        return Ok(());
    }
    let set = times.map(|name| (name.to_owned(), Some(now.clone()))).into_iter().collect();
    describe(txn, commit, &File::Named(Box::new(named)), &set)
}

/// Changes metadata of a file in place.
fn describe(
    txn: &mut Txn<'_>,
    commit: &mut Commit<'_>,
    file: &File,
    set: &BTreeMap<String, Option<String>>,
) -> Result<(), Stop> {
    if set.is_empty() {
        return Ok(());
    }
    let mut version = file.version().clone();
    files::apply_metadata(&mut version.attributes.metadata, set)?;
    patch::rewrite(txn, commit, file, &version, Change::Attributes)
}

/// A file that has a name.
fn find_file(txn: &Txn<'_>, commit: &Commit<'_>, file: &FileRef) -> Result<Named, Stop> {
    if file.key.as_ref().is_some_and(files::is_directory) {
        return Err(Error::IsDirectory.into());
    }
    match files::find(txn.reader(), commit.state.bucket.id, Some(commit.op.client), file)? {
        File::Named(named) => Ok(*named),
        // It cannot come back.
        File::Orphan(_) => Err(Error::NoSuchKey.into()),
    }
}

pub(super) fn link(txn: &mut Txn<'_>, commit: &mut Commit<'_>, step: &LinkFile) -> Result<StepOutcome, Stop> {
    let bucket = commit.state.bucket.id;
    let file = find_file(txn, commit, &step.file)?;
    if files::is_directory(&step.to) {
        return Err(Error::invalid("a file does not have a directory's name").into());
    }
    files::check_new(txn.reader(), bucket, &step.to)?;
    if files::exists(txn.reader(), bucket, &step.to)? {
        return Err(Error::FileExists.into());
    }
    let others = links::count(txn.reader(), file.version.object)?;
    commit.charge(u64::from(others) / LINKS_OF_ROW)?;
    if others >= LINKS_MAX {
        return Err(Error::TooManyLinks.into());
    }
    describe(txn, commit, &File::Named(Box::new(file.clone())), &step.set)?;
    let mut version = file.version;
    files::apply_metadata(&mut version.attributes.metadata, &step.set)?;
    links::begin(txn, bucket, version.object, &file.key)?;
    links::started(txn, bucket, version.object, &step.to)?;
    content::retain_version(txn, &version)?;
    txn.carried = Some(index::Carried { key: file.key, place: file.name.place, moves: false });
    let draft = Draft::moved(commit.op.nonce, version, file.name.modified_ms);
    object::write(txn, &mut commit.state.bucket, &step.to, None, draft)?;
    patch::tell_put(txn, commit, &step.to)?;
    touch_parent(txn, commit, &step.to)?;
    patch::outcome(txn, commit, &named_ref(&step.to))
}

pub(super) fn unlink(txn: &mut Txn<'_>, commit: &mut Commit<'_>, step: &UnlinkFile) -> Result<StepOutcome, Stop> {
    let file = find_file(txn, commit, &step.file)?;
    let held = replaced(txn, commit, &file, step.keep, &step.set)?;
    if !held && !step.set.is_empty() && links::count(txn.reader(), file.version.object)? > 1 {
        describe(txn, commit, &File::Named(Box::new(file.clone())), &step.set)?;
    }
    remove(txn, commit, file)?;
    Ok(StepOutcome::Done)
}

/// A file is about to lose a name: when it is its last and the file is open, the session holds it. Whether it does.
fn replaced(
    txn: &mut Txn<'_>,
    commit: &mut Commit<'_>,
    file: &Named,
    keep: bool,
    set: &BTreeMap<String, Option<String>>,
) -> Result<bool, Stop> {
    if !keep || links::count(txn.reader(), file.version.object)? > 1 {
        return Ok(false);
    }
    if commit.state.orphans >= ORPHANS_MAX {
        return Err(Error::QueueFull.into());
    }
    let mut version = file.version.clone();
    files::apply_metadata(&mut version.attributes.metadata, set)?;
    let (bucket, client) = (commit.state.bucket.id, commit.op.client);
    session::hold(txn, Orphan { bucket, client, version, modified_ms: file.name.modified_ms })?;
    commit.state.orphans += 1;
    Ok(true)
}

/// The session holds what a name was until another client removed or replaced it: what the history has of it, as a file of
/// its own, because the object may be somebody else's, or come back.
pub(super) fn adopt(txn: &mut Txn<'_>, commit: &mut Commit<'_>, file: &FileRef) -> Result<StepOutcome, Stop> {
    let object = file.key.as_ref().filter(|key| !files::is_directory(key)).ok_or(Error::NoSuchKey)?;
    let (bucket, client) = (commit.state.bucket.id, commit.op.client);
    let named = files::named(txn.reader(), bucket, object)?;
    if let Some(named) = named.filter(|named| named.version.object == file.object) {
        return Ok(StepOutcome::Node(File::Named(Box::new(named)).node(txn.reader())?));
    }
    if links::count(txn.reader(), file.object)? > 1 || commit.state.orphans >= ORPHANS_MAX {
        return Err(Error::Changed.into());
    }
    let (rows, work) = (Cell::new(0), Cell::new(0));
    let found = txn.reader().newest_that(bucket, object, None, |_, row| {
        rows.set(rows.get() + 1);
        work.set(work.get() + 1 + row.version.as_ref().map_or(0, size_of_metadata) / METADATA_OF_ROW);
        let enough = rows.get() >= ADOPT_ROWS_MAX || commit.check(work.get()).is_err();
        enough || row.version.as_ref().is_some_and(|version| version.object == file.object)
    });
    commit.charge(work.get())?;
    let (_, row) = found?.ok_or(Error::Changed)?;
    let mut version = row.version.filter(|version| version.object == file.object).ok_or(Error::Changed)?;
    version.object = txn.next_object();
    version.content_revision = txn.revision();
    (version.patched, version.open) = (None, None);
    let orphan = Orphan { bucket, client, version, modified_ms: row.modified_ms };
    session::hold(txn, orphan.clone())?;
    commit.state.orphans += 1;
    Ok(StepOutcome::Node(File::Orphan(Box::new(orphan)).node(txn.reader())?))
}

fn size_of_metadata(version: &Version) -> u64 {
    version.attributes.metadata.iter().map(|(name, value)| (name.len() + value.len()) as u64).sum()
}

/// Removes a name, as S3 does, and tells of it.
fn remove(txn: &mut Txn<'_>, commit: &mut Commit<'_>, file: Named) -> Result<(), Stop> {
    let Named { key, name, version } = file;
    let others = links::names(txn.reader(), version.object, &key)?;
    commit.charge(others.len() as u64 / LINKS_OF_ROW)?;
    let deleted = object::delete_name(txn, &mut commit.state.bucket, &key, Some(name), commit.op.nonce)?;
    let kind = if deleted.delete_marker { EventKind::Marker } else { EventKind::Delete };
    txn.event(EventRow { version: deleted.version, ..commit.event(kind, &key, version.object) });
    touch_parent(txn, commit, &key)
}

pub(super) fn remove_directory(
    txn: &mut Txn<'_>,
    commit: &mut Commit<'_>,
    file: &FileRef,
) -> Result<StepOutcome, Stop> {
    let bucket = commit.state.bucket.id;
    let directory = file.key.as_ref().ok_or(Error::NoSuchKey)?;
    if !files::is_directory(directory) {
        return Err(Error::NotDirectory.into());
    }
    check_directory(txn, &commit.state.bucket, directory, file.object)?;
    if files::has_entries(txn.reader(), bucket, directory.as_str())? {
        return Err(Error::NotEmpty.into());
    }
    let marker = files::named(txn.reader(), bucket, directory)?.ok_or(Error::NoSuchKey)?;
    remove(txn, commit, marker)?;
    Ok(StepOutcome::Done)
}

/// Whether there is a directory of this key, and it is the one that the client knows. One that was implicit when the client
/// saw it may have a marker by now.
fn check_directory(txn: &Txn<'_>, bucket: &BucketRow, directory: &ObjectKey, object: ObjectId) -> Result<(), Stop> {
    if !files::any_under(txn.reader(), bucket.id, directory.as_str())? {
        let file = files::is_file(txn.reader(), bucket.id, files::path(directory))?;
        return Err(if file { Error::NotDirectory } else { Error::NoSuchKey }.into());
    }
    let marker = txn.reader().name(bucket.id, directory)?.map_or(IMPLICIT, |name| name.object);
    if object != IMPLICIT && object != marker {
        return Err(Error::Changed.into());
    }
    Ok(())
}

pub(super) fn rename(txn: &mut Txn<'_>, commit: &mut Commit<'_>, step: &RenameFile) -> Result<StepOutcome, Stop> {
    let from = step.file.key.as_ref().ok_or(Error::NoSuchKey)?;
    let directory = files::is_directory(from);
    if step.onto == Onto::Exchange {
        exchange(txn, commit, &step.file, from, &step.to)?;
        let to = if directory { format!("{}/", files::path(&step.to)) } else { files::path(&step.to).to_owned() };
        let to: ObjectKey = to.parse().map_err(|_| too_long())?;
        return renamed(txn, commit, step, from, &to);
    }
    if directory != files::is_directory(&step.to) {
        return Err(Error::invalid("a directory's name ends with a slash, and no file's does").into());
    }
    files::check_new(txn.reader(), commit.state.bucket.id, &step.to)?;
    let same = if directory { rename_directory(txn, commit, step, from)? } else { rename_file(txn, commit, step)? };
    if same {
        return Ok(StepOutcome::Done);
    }
    renamed(txn, commit, step, from, &step.to)
}

fn too_long() -> Error {
    Error::invalid("a renamed key would be longer than 1,024 bytes")
}

/// After a rename: attributes of what moved, and the directories around it.
fn renamed(
    txn: &mut Txn<'_>,
    commit: &mut Commit<'_>,
    step: &RenameFile,
    from: &ObjectKey,
    to: &ObjectKey,
) -> Result<StepOutcome, Stop> {
    if !step.set.is_empty() {
        let moved = match files::named(txn.reader(), commit.state.bucket.id, to)? {
            Some(named) => File::Named(Box::new(named)),
            None => find_or_make(txn, commit, &named_ref(to))?,
        };
        describe(txn, commit, &moved, &step.set)?;
    }
    touch_parent(txn, commit, from)?;
    touch_parent(txn, commit, to)?;
    match files::named(txn.reader(), commit.state.bucket.id, to)? {
        Some(named) => Ok(StepOutcome::Node(File::Named(Box::new(named)).node(txn.reader())?)),
        None => Ok(StepOutcome::Node(files::implicit(Some(to.clone())))),
    }
}

/// Moves a file; whether its two names are of one file, which stay as they are.
fn rename_file(txn: &mut Txn<'_>, commit: &mut Commit<'_>, step: &RenameFile) -> Result<bool, Stop> {
    let bucket = commit.state.bucket.id;
    let file = find_file(txn, commit, &step.file)?;
    let (from, to) = (file.key.clone(), &step.to);
    if step.onto == Onto::Nothing && files::exists(txn.reader(), bucket, to)? {
        return Err(Error::FileExists.into());
    }
    if files::any_under(txn.reader(), bucket, &format!("{to}/"))? {
        return Err(Error::IsDirectory.into());
    }
    let target = files::named(txn.reader(), bucket, to)?;
    if target.as_ref().is_some_and(|target| target.version.object == file.version.object) {
        return Ok(true);
    }
    if let Some(target) = &target {
        replaced(txn, commit, target, step.keep, &step.set)?;
    }
    let target = target.map(|target| target.name);
    move_file(txn, commit, &from, file.name, to, target)?;
    Ok(false)
}

/// Moves a name, as S3's rename does, and tells of it.
fn move_file(
    txn: &mut Txn<'_>,
    commit: &mut Commit<'_>,
    from: &ObjectKey,
    name: NameRow,
    to: &ObjectKey,
    target: Option<NameRow>,
) -> Result<(), Stop> {
    let object = name.object;
    let written = move_name(txn, &mut commit.state.bucket, from, name, to, target, commit.op.nonce)?;
    let moved = txn.reader().name(commit.state.bucket.id, to)?.map_or(object, |name| name.object);
    let event = commit.event(EventKind::RenamedTo, to, moved).of_version(&written);
    txn.event(EventRow { source: Some(from.as_str().to_owned()), ..event });
    let event = commit.event(EventKind::RenamedFrom, from, object);
    txn.event(EventRow { source: Some(to.as_str().to_owned()), ..event });
    Ok(())
}

/// Moves a directory with all that is in it; whether its two names are one.
fn rename_directory(
    txn: &mut Txn<'_>,
    commit: &mut Commit<'_>,
    step: &RenameFile,
    from: &ObjectKey,
) -> Result<bool, Stop> {
    let (bucket, to) = (commit.state.bucket.id, &step.to);
    check_directory(txn, &commit.state.bucket, from, step.file.object)?;
    if step.onto == Onto::Nothing && files::exists(txn.reader(), bucket, to)? {
        return Err(Error::FileExists.into());
    }
    if from == to {
        return Ok(true);
    }
    if to.as_str().starts_with(from.as_str()) {
        return Err(Error::invalid("a directory cannot be moved into itself").into());
    }
    if files::is_file(txn.reader(), bucket, files::path(to))? {
        return Err(Error::NotDirectory.into());
    }
    if files::has_entries(txn.reader(), bucket, to.as_str())? {
        return Err(Error::NotEmpty.into());
    }
    if let Some(marker) = files::named(txn.reader(), bucket, to)? {
        let nonce = commit.op.nonce;
        object::delete_name(txn, &mut commit.state.bucket, to, Some(marker.name), nonce)?;
    }
    for (source, name, target) in listed(txn, commit, from.as_str(), to.as_str())? {
        take_along(txn, commit, &source, name, &target)?;
    }
    tell_prefix(txn, commit, from, to)?;
    Ok(false)
}

/// The names in a directory, each with its new one.
fn listed(
    txn: &Txn<'_>,
    commit: &mut Commit<'_>,
    from: &str,
    to: &str,
) -> Result<Vec<(ObjectKey, NameRow, ObjectKey)>, Stop> {
    let names = names_under(txn, &commit.state.bucket, from, to);
    commit.charge(names.as_ref().map_or(u64::from(RENAME_ROWS_MAX), |names| names.len() as u64))?;
    names
}

/// Moves a name that goes with its directory.
fn take_along(
    txn: &mut Txn<'_>,
    commit: &mut Commit<'_>,
    from: &ObjectKey,
    name: NameRow,
    to: &ObjectKey,
) -> Result<(), Stop> {
    // All names of the file are looked at, twice.
    commit.charge(1 + u64::from(links::count(txn.reader(), name.object)?) / LINKS_OF_ROW)?;
    move_name(txn, &mut commit.state.bucket, from, name, to, None, commit.op.nonce)?;
    Ok(())
}

fn tell_prefix(txn: &mut Txn<'_>, commit: &Commit<'_>, from: &ObjectKey, to: &ObjectKey) -> Result<(), Stop> {
    let object = txn.reader().name(commit.state.bucket.id, to)?.map_or(IMPLICIT, |name| name.object);
    let event = commit.event(EventKind::PrefixRenamed, to, object);
    txn.event(EventRow { source: Some(from.as_str().to_owned()), ..event });
    Ok(())
}

/// Two names change places.
fn exchange(
    txn: &mut Txn<'_>,
    commit: &mut Commit<'_>,
    file: &FileRef,
    from: &ObjectKey,
    to: &ObjectKey,
) -> Result<(), Stop> {
    let bucket = commit.state.bucket.clone();
    let check = |txn: &Txn<'_>, object: &ObjectKey, of: &FileRef| match files::is_directory(object) {
        true => check_directory(txn, &bucket, object, of.object),
        false => files::find(txn.reader(), bucket.id, None, of).map(|_| ()),
    };
    check(txn, from, file)?;
    let there = txn.reader().name(bucket.id, to)?.map_or(IMPLICIT, |name| name.object);
    if !files::is_directory(to) && there == IMPLICIT {
        return Err(Error::NoSuchKey.into());
    }
    check(txn, to, &FileRef { key: Some(to.clone()), object: there })?;
    if files::path(from) == files::path(to) {
        // One is the file and the other the directory of a name that S3 gave twice: there is no other name to take.
        return if from == to { Ok(()) } else { Err(Error::FileExists.into()) };
    }
    let inside = |outer: &ObjectKey, inner: &ObjectKey| inner.as_str().starts_with(&format!("{}/", files::path(outer)));
    if inside(from, to) || inside(to, from) {
        return Err(Error::invalid("a directory cannot change places with what is in it").into());
    }
    match (files::is_directory(from), files::is_directory(to)) {
        (false, false) => exchange_files(txn, commit, from, to),
        (true, true) => exchange_directories(txn, commit, from, to),
        (false, true) => exchange_kinds(txn, commit, from, to),
        (true, false) => exchange_kinds(txn, commit, to, from),
    }
}

fn exchange_files(txn: &mut Txn<'_>, commit: &mut Commit<'_>, one: &ObjectKey, two: &ObjectKey) -> Result<(), Stop> {
    let bucket = commit.state.bucket.id;
    let first = files::named(txn.reader(), bucket, one)?.ok_or(Error::NoSuchKey)?;
    let second = files::named(txn.reader(), bucket, two)?.ok_or(Error::NoSuchKey)?;
    if first.version.object == second.version.object {
        return Ok(());
    }
    swap(txn, commit, first, second)?;
    for (to, from) in [(two, one), (one, two)] {
        let object = txn.reader().name(bucket, to)?.map_or(IMPLICIT, |name| name.object);
        let event = commit.event(EventKind::RenamedTo, to, object);
        txn.event(EventRow { source: Some(from.as_str().to_owned()), ..event });
    }
    Ok(())
}

/// Each of two names gets what the other has.
fn swap(txn: &mut Txn<'_>, commit: &mut Commit<'_>, first: Named, second: Named) -> Result<(), Stop> {
    let never = commit.state.bucket.versioning == Versioning::Never;
    // Both are told of before any name changes, so that a file with two names does not lose count of one.
    for (file, to) in [(&first, &second.key), (&second, &first.key)] {
        content::retain_version(txn, &file.version)?;
        if never {
            links::started(txn, commit.state.bucket.id, file.version.object, to)?;
        }
    }
    let targets = [(second.key.clone(), second.name.clone()), (first.key.clone(), first.name.clone())];
    for (file, (to, there)) in [first, second].into_iter().zip(targets) {
        let mut version = file.version;
        if !never {
            version.object = txn.next_object();
            version.content_revision = txn.revision();
            version.patched = None;
        }
        txn.carried = Some(index::Carried { key: file.key, place: file.name.place, moves: true });
        let draft = Draft::moved(commit.op.nonce, version, file.name.modified_ms);
        object::write(txn, &mut commit.state.bucket, &to, Some(there), draft)?;
    }
    Ok(())
}

/// All that is in two directories, each name by itself: those that both have are swapped.
fn exchange_directories(
    txn: &mut Txn<'_>,
    commit: &mut Commit<'_>,
    one: &ObjectKey,
    two: &ObjectKey,
) -> Result<(), Stop> {
    let bucket = commit.state.bucket.clone();
    let ours = listed(txn, commit, one.as_str(), two.as_str())?;
    let theirs = listed(txn, commit, two.as_str(), one.as_str())?;
    if ours.len() + theirs.len() > RENAME_ROWS_MAX as usize {
        return Err(Error::TooManyRows { most: RENAME_ROWS_MAX }.into());
    }
    let both: BTreeMap<ObjectKey, ()> = theirs.iter().map(|(source, ..)| (source.clone(), ())).collect();
    let mut swapped = BTreeMap::new();
    for (source, name, target) in ours {
        if both.contains_key(&target) {
            let first = files::named(txn.reader(), bucket.id, &source)?.ok_or(Error::NoSuchKey)?;
            let second = files::named(txn.reader(), bucket.id, &target)?.ok_or(Error::NoSuchKey)?;
            if first.version.object != second.version.object {
                swap(txn, commit, first, second)?;
            }
            swapped.insert(target, ());
        } else {
            take_along(txn, commit, &source, name, &target)?;
        }
    }
    for (source, name, target) in theirs.into_iter().filter(|(source, ..)| !swapped.contains_key(source)) {
        take_along(txn, commit, &source, name, &target)?;
    }
    tell_prefix(txn, commit, one, two)?;
    tell_prefix(txn, commit, two, one)
}

/// A file and a directory: each takes the other's name, with or without the slash.
fn exchange_kinds(
    txn: &mut Txn<'_>,
    commit: &mut Commit<'_>,
    file: &ObjectKey,
    directory: &ObjectKey,
) -> Result<(), Stop> {
    let bucket = commit.state.bucket.id;
    let new_directory: ObjectKey = format!("{file}/").parse().map_err(|_| too_long())?;
    let new_file: ObjectKey = files::path(directory).parse().map_err(|_| Error::NoSuchKey)?;
    let taken = files::is_file(txn.reader(), bucket, new_file.as_str())?
        || files::any_under(txn.reader(), bucket, new_directory.as_str())?;
    if taken {
        return Err(Error::FileExists.into());
    }
    let names = listed(txn, commit, directory.as_str(), new_directory.as_str())?;
    for (source, name, target) in names {
        take_along(txn, commit, &source, name, &target)?;
    }
    tell_prefix(txn, commit, directory, &new_directory)?;
    let name = txn.reader().name(bucket, file)?.ok_or(Error::NoSuchKey)?;
    move_file(txn, commit, file, name, &new_file, None)
}
