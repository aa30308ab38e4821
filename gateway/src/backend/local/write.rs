//! Writing: fill an unfinished file, sync it, give it its name, make the name durable. And the way back: deletes.

use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::num::NonZeroU64;
use std::os::fd::AsFd;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use cap_std::fs::Dir;
use rustix::fs::{Advice, RenameFlags};
use rustix::io::Errno;
use tokio::sync::SemaphorePermit;

use super::super::body::{Body, BodyReader};
use super::super::{Condition, Error, JoinSource, ObjectPath, PutOptions, Result, Stored};
use super::CHUNK_BYTES;
use super::durable::{Plan, sync_directories};
use super::read::{head_of, open};
use super::store::{Store, TempFile, io_error};

/// Bytes of an unfinished file after which the kernel is asked to begin writing them.
const WRITEBACK_BYTES: u64 = 8 * 1024 * 1024;
/// Most slices in one vectored write; the kernel takes no more.
const SLICES_MAX: usize = 1024;
/// Bytes that one blocking job copies in a join, so that a join nobody waits for any more stops soon.
const COPY_BYTES: u64 = 64 * 1024 * 1024;
/// How often a put makes its directory again when deletes keep removing it.
const PUBLISH_TRIES: u32 = 32;

pub(super) async fn put(store: &Arc<Store>, path: &ObjectPath, body: Body, options: PutOptions) -> Result<Stored> {
    store.check_writable()?;
    let mut reader = BodyReader::new(path, body, options.length)?;
    let mut chunk = reader.gather(CHUNK_BYTES).await?;
    let mut temp = None;
    while !chunk.last {
        let write_path = path.clone();
        let written = store.blocking("put", move |store| append(store, temp, &write_path, &chunk.pieces));
        // The next chunk arrives while this one is written.
        let (written, next) = tokio::join!(written, reader.gather(CHUNK_BYTES));
        temp = Some(written?);
        chunk = next?;
    }
    let (write_path, length) = (path.clone(), reader.seen());
    let _turn = turn(store).await?;
    let published = store.blocking("put", move |store| {
        let temp = append(store, temp, &write_path, &chunk.pieces)?;
        publish(store, temp, &write_path, length, &options.condition)
    });
    make_durable(store, published.await?).await
}

/// Waits until few enough others sync.
async fn turn(store: &Store) -> Result<SemaphorePermit<'_>> {
    store.publishing.acquire().await.map_err(|closed| Error::unavailable("put", store.name(), closed))
}

fn append(store: &Arc<Store>, temp: Option<TempFile>, path: &ObjectPath, pieces: &[Bytes]) -> Result<TempFile> {
    let failed = |error| io_error("put", path, error);
    let mut temp = match temp {
        Some(temp) => temp,
        None => store.create_temp().map_err(failed)?,
    };
    for some in pieces.chunks(SLICES_MAX) {
        write_all(&mut temp.file, some).map_err(failed)?;
    }
    temp.written += pieces.iter().map(|piece| piece.len() as u64).sum::<u64>();
    if temp.written - temp.started >= WRITEBACK_BYTES {
        start_writeback(&temp.file, temp.started..temp.written);
        temp.started = temp.written;
    }
    Ok(temp)
}

/// Makes the kernel begin to write what it holds of a file, so that the disk works while the rest arrives and the sync at the
/// end has less to wait for. Giving up cached pages has that side effect: pages that are still dirty are written, not dropped.
fn start_writeback(file: &File, range: std::ops::Range<u64>) {
    // Only advice: a file system may ignore it.
    let _ = rustix::fs::fadvise(file, range.start, NonZeroU64::new(range.end - range.start), Advice::DontNeed);
}

fn write_all(file: &mut File, pieces: &[Bytes]) -> io::Result<()> {
    let mut slices: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
    let mut left = &mut slices[..];
    while !left.is_empty() {
        match file.write_vectored(left) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut left, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A file that has its name, which is not durable yet.
struct Published {
    stored: Stored,
    plan: Plan,
}

async fn make_durable(store: &Arc<Store>, published: Published) -> Result<Stored> {
    sync_directories(store, &store.durable.to_sync(&published.plan)).await?;
    store.durable.learn(published.plan);
    Ok(published.stored)
}

/// Syncs an unfinished file and gives it its name, with all directories this takes.
fn publish(
    store: &Store,
    mut temp: TempFile,
    path: &ObjectPath,
    length: u64,
    condition: &Condition,
) -> Result<Published> {
    store.check_writable()?;
    store.sync_file(&temp.file, path.as_str())?;
    let failed = |error| io_error("put", path, error);
    let head = head_of(&temp.file.metadata().map_err(failed)?);
    let stored = Stored { length, etag: head.etag };
    for _ in 0..PUBLISH_TRIES {
        let plan = store.durable.plan(path.parent());
        match create_directories(store, &plan).and_then(|()| open_parent(store, path)).map_err(blocked(path)) {
            Ok(parent) => match give_name(store, &mut temp, &parent, path, condition) {
                Ok(()) => return Ok(Published { stored, plan }),
                Err(Error::NotFound { .. }) if !matches!(condition, Condition::IfMatch(_)) => {}
                Err(error) => return Err(error),
            },
            Err(Error::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
        // A delete removed the directory between our making it and our using it.
        store.durable.forget(path.parent());
    }
    let source = io::Error::other("its directory keeps disappearing");
    Err(Error::Busy { action: "put", path: path.to_string(), retry_after: None, source: source.into() })
}

/// A file stands where the name needs a directory: the name cannot be given as long as that file is there.
fn blocked(path: &ObjectPath) -> impl Fn(io::Error) -> Error {
    move |error| match error.kind() {
        io::ErrorKind::NotADirectory => {
            Error::invalid(format_args!("a blob is in the way of {path}: a part of its name is a blob itself"))
        }
        _ => io_error("put", path, error),
    }
}

fn create_directories(store: &Store, plan: &Plan) -> io::Result<()> {
    for directory in &plan.unknown {
        match store.root.create_dir(directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn open_parent(store: &Store, path: &ObjectPath) -> io::Result<Dir> {
    match path.parent() {
        "" => store.root.try_clone(),
        parent => store.root.open_dir(parent),
    }
}

fn give_name(store: &Store, temp: &mut TempFile, parent: &Dir, path: &ObjectPath, condition: &Condition) -> Result<()> {
    let failed = |error: Errno| match error {
        Errno::EXIST => Error::exists(path),
        Errno::ISDIR | Errno::NOTEMPTY => Error::invalid(format_args!("the name {path} is a directory of other blobs")),
        other => io_error("put", path, other.into()),
    };
    let name = path.file_name();
    match condition {
        Condition::IfAbsent => create_only(store, temp, parent, name).map_err(failed),
        Condition::Overwrite => replace(store, temp, parent, name).map_err(failed),
        Condition::IfMatch(wanted) => {
            let _alone = store.replacing.write().unwrap_or_else(PoisonError::into_inner);
            let (_, current) = open(store, "put", path)?;
            if current.etag != *wanted {
                return Err(Error::Changed { path: path.to_string() });
            }
            replace(store, temp, parent, name).map_err(failed)
        }
    }
}

fn replace(store: &Store, temp: &mut TempFile, parent: &Dir, name: &str) -> rustix::io::Result<()> {
    rustix::fs::renameat(store.temps.as_fd(), &temp.name, parent.as_fd(), name)?;
    temp.is_moved = true;
    Ok(())
}

fn create_only(store: &Store, temp: &mut TempFile, parent: &Dir, name: &str) -> rustix::io::Result<()> {
    let (from, to) = (store.temps.as_fd(), parent.as_fd());
    match rustix::fs::renameat_with(from, &temp.name, to, name, RenameFlags::NOREPLACE) {
        Ok(()) => {
            temp.is_moved = true;
            Ok(())
        }
        // Some file systems cannot rename without replacing. A link never replaces; the first name goes with the drop.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            rustix::fs::linkat(from, &temp.name, to, name, rustix::fs::AtFlags::empty())
        }
        Err(error) => Err(error),
    }
}

pub(super) async fn join(
    store: &Arc<Store>,
    sources: &[JoinSource],
    target: &ObjectPath,
    condition: Condition,
) -> Result<Stored> {
    store.check_writable()?;
    let path = target.clone();
    let failed = move |error| io_error("join", &path, error);
    let mut temp = store.blocking("join", move |store| store.create_temp().map_err(failed)).await?;
    for source in sources {
        let mut done = 0;
        let (mut from, expected) = (None, source.length);
        while done < expected || from.is_none() {
            let path = source.path.clone();
            let copied = store.blocking("join", move |store| {
                let from = match from {
                    Some(from) => from,
                    None => open_source(store, &path, expected)?,
                };
                let copied = copy(&from, &mut temp, &path, done..expected)?;
                Ok((from, temp, copied))
            });
            let (open, same, copied) = copied.await?;
            (from, temp, done) = (Some(open), same, done + copied);
        }
    }
    let (path, length) = (target.clone(), sources.iter().map(|source| source.length).sum());
    let _turn = turn(store).await?;
    let published = store.blocking("join", move |store| publish(store, temp, &path, length, &condition));
    make_durable(store, published.await?).await
}

fn open_source(store: &Store, path: &ObjectPath, expected: u64) -> Result<File> {
    let (file, head) = open(store, "join", path)?;
    match head.length == expected {
        true => Ok(file),
        false => Err(Error::Truncated { path: path.to_string(), expected, got: head.length }),
    }
}

/// Copies some bytes inside of the kernel, sharing blocks where the file system can.
fn copy(from: &File, temp: &mut TempFile, path: &ObjectPath, range: std::ops::Range<u64>) -> Result<u64> {
    let mut offset = range.start;
    let end = range.end.min(range.start + COPY_BYTES);
    while offset < end {
        // A slice of a copy fits into memory.
        let wanted = (end - offset) as usize;
        // This call moves `offset` forward by itself.
        match rustix::fs::copy_file_range(from, Some(&mut offset), &temp.file, None, wanted) {
            Ok(0) => return Err(Error::Truncated { path: path.to_string(), expected: range.end, got: offset }),
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL) => {
                offset += copy_by_hand(from, &mut temp.file, offset, wanted)
                    .map_err(|error| io_error("join", path, error))?;
            }
            Err(error) => return Err(io_error("join", path, error.into())),
        }
    }
    Ok(end - range.start)
}

fn copy_by_hand(from: &File, to: &mut File, offset: u64, wanted: usize) -> io::Result<u64> {
    use std::os::unix::fs::FileExt;
    let mut bytes = vec![0; wanted.min(CHUNK_BYTES as usize)];
    from.read_exact_at(&mut bytes, offset)?;
    to.write_all(&bytes)?;
    Ok(bytes.len() as u64)
}

pub(super) async fn delete(store: &Arc<Store>, path: &ObjectPath) -> Result<()> {
    store.check_writable()?;
    let path = path.clone();
    let survivor = store.blocking("delete", move |store| {
        {
            let _apart = store.replacing.read().unwrap_or_else(PoisonError::into_inner);
            match store.root.remove_file(path.as_str()) {
                // No blob has a name that is missing, or that only directories have.
                Err(error) if is_no_file(&error) => {}
                removed => removed.map_err(|error| io_error("delete", &path, error))?,
            }
        }
        Ok(prune(store, path.parent()))
    });
    // Also when the blob was absent: whoever removed it may not have synced yet.
    sync_directories(store, &[survivor.await?]).await
}

fn is_no_file(error: &io::Error) -> bool {
    use io::ErrorKind::{IsADirectory, NotADirectory, NotFound};
    matches!(error.kind(), NotFound | NotADirectory | IsADirectory)
}

/// Removes directories that have become empty, upwards, and returns the first one that stays.
fn prune(store: &Store, mut directory: &str) -> String {
    while !directory.is_empty() {
        match store.durable.remove(store, directory) {
            Ok(()) => {}
            // Gone already, or part of a name that is no directory.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            // Not empty, or not ours to remove.
            Err(_) => break,
        }
        directory = directory.rsplit_once('/').map_or("", |(parent, _)| parent);
    }
    directory.to_owned()
}
