//! Where the archive keeps what, and the few calls of the backend that all its parts need.
//!
//! Everything lies under `metadata/<generation>/`, so that a node of an older generation cannot write over a newer one's.
//! Revisions in names are padded to sixteen digits (they stay below 2^53): the order of names is that of revisions.

use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt as _;
use tokio::time::{Duration, Instant};

use super::Error;
use crate::backend::{self, Backend, Body, DeleteOptions, Entry, GetOptions, ListOptions, ObjectPath, PutOptions};

/// The document that says whose the repository is.
pub const CLUSTER: &str = "metadata/cluster.json";
/// How long one small call may take.
pub const CALL_DEADLINE: Duration = Duration::from_secs(30);
/// Most names that a listing gathers; more is refused, as it cannot come from this archive.
const NAMES_MAX: usize = 1 << 20;

/// A segment of the log.
#[must_use]
pub fn segment(generation: u64, first_revision: u64) -> String {
    format!("{}{first_revision:016}.log", segments(generation))
}

/// All segments.
#[must_use]
pub fn segments(generation: u64) -> String {
    format!("metadata/{generation}/log/")
}

/// A manifest.
#[must_use]
pub fn manifest(generation: u64, revision: u64) -> String {
    format!("{}{revision:016}.json", manifests(generation))
}

/// All manifests.
#[must_use]
pub fn manifests(generation: u64) -> String {
    format!("metadata/{generation}/manifest/")
}

/// A file of rows, named by its content.
#[must_use]
pub fn rows(generation: u64, keyspace: &str, sha256: &str) -> String {
    format!("{}{keyspace}/{sha256}.blocks", all_rows(generation))
}

/// All files of rows.
#[must_use]
pub fn all_rows(generation: u64) -> String {
    format!("{}rows/", checkpoints(generation))
}

/// What is of one checkpoint only.
#[must_use]
pub fn checkpoint(generation: u64, revision: u64) -> String {
    format!("{}{revision:016}/", checkpoints(generation))
}

/// All checkpoints.
#[must_use]
pub fn checkpoints(generation: u64) -> String {
    format!("metadata/{generation}/checkpoint/")
}

/// The last sign of life of a generation.
#[must_use]
pub fn heartbeat(generation: u64) -> String {
    format!("metadata/{generation}/heartbeat.json")
}

/// The revision in a name under `prefix`: the digits that follow it.
#[must_use]
pub fn revision_in(path: &str, prefix: &str) -> Option<u64> {
    let rest = path.strip_prefix(prefix)?;
    let digits = rest.split(['.', '/']).next()?;
    (digits.len() == 16).then(|| digits.parse().ok()).flatten()
}

/// When a small call that begins now must have ended.
#[must_use]
pub fn soon() -> Option<Instant> {
    Some(Instant::now() + CALL_DEADLINE)
}

/// A name that this module made.
///
/// # Panics
/// Never: the forms above are valid names.
#[must_use]
pub fn path(name: &str) -> ObjectPath {
    ObjectPath::new(name).expect("the archive's names are short and have no special characters")
}

pub(super) fn failed(doing: &'static str, name: &str) -> impl FnOnce(backend::Error) -> Error {
    let name = name.to_owned();
    move |source| Error::Backend { doing, name, source: Arc::new(source) }
}

/// Stores what this name always holds; one that is there already is as good.
pub(super) async fn write_once(backend: &dyn Backend, name: &str, bytes: Vec<u8>) -> Result<(), Error> {
    let options = PutOptions { length: Some(bytes.len() as u64), deadline: soon(), ..PutOptions::default() };
    match backend.put(&path(name), Body::from(bytes), options).await {
        Ok(_) | Err(backend::Error::Exists { .. }) => Ok(()),
        Err(error) => Err(failed("write", name)(error)),
    }
}

/// All of a small object with what the store knows of it, or `None` when it is absent.
pub(super) async fn read(
    backend: &dyn Backend,
    name: &str,
    bytes_max: u64,
) -> Result<Option<(Bytes, backend::Head)>, Error> {
    let options = GetOptions { deadline: soon(), ..GetOptions::default() };
    let fetched = match backend.get(&path(name), options).await {
        Ok(fetched) => fetched,
        Err(backend::Error::NotFound { .. }) => return Ok(None),
        Err(source) => return Err(failed("read", name)(source)),
    };
    if fetched.length > bytes_max {
        let what = format!("has {} bytes, at most {bytes_max} are expected", fetched.length);
        return Err(Error::Damaged { name: name.to_owned(), what });
    }
    let pieces: Vec<Bytes> = fetched.stream.try_collect().await.map_err(failed("read", name))?;
    let bytes = if pieces.len() == 1 { pieces[0].clone() } else { pieces.concat().into() };
    Ok(Some((bytes, fetched.head)))
}

/// All names that begin with `prefix` and come after `after`, in order.
pub(super) async fn list(backend: &dyn Backend, prefix: &str, after: Option<&str>) -> Result<Vec<Entry>, Error> {
    let mut found = Vec::new();
    each(backend, prefix, after, |entry| {
        if found.len() == NAMES_MAX {
            let what = format!("has more than {NAMES_MAX} names");
            return Err(Error::Damaged { name: prefix.to_owned(), what });
        }
        found.push(entry);
        Ok(())
    })
    .await?;
    Ok(found)
}

/// Does something with every name that begins with `prefix` and comes after `after`, in order.
pub(super) async fn each(
    backend: &dyn Backend,
    prefix: &str,
    after: Option<&str>,
    mut work: impl FnMut(Entry) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut start_after = after.map(path);
    loop {
        let options = ListOptions { start_after, deadline: soon(), ..ListOptions::under(prefix) };
        let page = backend.list(options).await.map_err(failed("list", prefix))?;
        page.entries.into_iter().try_for_each(&mut work)?;
        match page.next {
            Some(next) => start_after = Some(next),
            None => return Ok(()),
        }
    }
}

/// Removes a name; an absent one is removed.
pub(super) async fn remove(backend: &dyn Backend, path: &ObjectPath) -> Result<(), Error> {
    backend.delete(path, DeleteOptions { deadline: soon() }).await.map_err(failed("remove", path.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_sort_as_revisions_do() {
        assert_eq!(segment(3, 42), "metadata/3/log/0000000000000042.log");
        assert_eq!(manifest(1, (1 << 53) - 1), "metadata/1/manifest/9007199254740991.json");
        assert_eq!(checkpoint(1, 7), "metadata/1/checkpoint/0000000000000007/");
        assert!(segment(1, 9) < segment(1, 10) && segment(1, 999) < segment(1, 1 << 52));
        let check = |name: &str, expected| assert_eq!(revision_in(name, "metadata/3/log/"), expected, "{name}");
        check("metadata/3/log/0000000000000042.log", Some(42));
        check("metadata/3/log/42.log", None);
        check("metadata/3/log/x000000000000042.log", None);
        check("metadata/33/log/0000000000000042.log", None);
    }
}
