//! The state's place on disk, and how a snapshot replaces it.
//!
//! `state/` holds one store directory per installed state and `CURRENT`, which names the one in use. A snapshot is
//! installed into a new directory, verified to its last byte, synced, and only then named in `CURRENT`; the old directory
//! goes when the new one is open. A crash at any point leaves one complete state named and at most some garbage, which
//! the next start removes.
//!
//! Sending works the other way round: [`Store::export`] streams a view into a file, block by block.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use holdfast_core::keyspace::Keyspace;
use holdfast_core::kv::{Batch, Direction, KeyRange, Kv, KvError, KvRead};
use holdfast_core::snapshot::{Decoder, Encoder, Piece, Trailer};

use super::engine::{self, Engine, EngineView};
use super::error::Error;
use super::identity::replace_file;
use super::raft::{LogId, SnapshotMeta};

const CURRENT: &str = "CURRENT";
const STORE_PREFIX: &str = "store-";
/// Bytes read or written at once while a snapshot is streamed.
const CHUNK_BYTES: usize = 1 << 20;
/// Bytes of rows that one batch of an installation carries.
const INSTALL_BATCH_BYTES: usize = 4 << 20;

/// The state in use.
pub(super) struct Store {
    dir: PathBuf,
    cache_bytes: u64,
    engine: RwLock<Arc<Engine>>,
    files: AtomicU64,
}

/// Whether a state was found or begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Existing,
    New,
}

impl Store {
    /// Opens the state that `CURRENT` names; begins an empty one when there is none.
    pub(super) fn open(dir: &Path, cache_bytes: u64) -> Result<(Self, Found), Error> {
        crate::durable_dir::create(dir).map_err(|source| Error::io("create", dir, source))?;
        let current = dir.join(CURRENT);
        let (name, found) = match std::fs::read_to_string(&current) {
            Ok(name) => (name.trim().to_owned(), Found::Existing),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => (store_name(1), Found::New),
            Err(source) => return Err(Error::io("read", &current, source)),
        };
        if store_number(&name).is_none() {
            return Err(Error::StateMismatch(format!("{} does not name a state: {name:?}", current.display())));
        }
        let path = dir.join(&name);
        if found == Found::Existing && !path.is_dir() {
            return Err(Error::StateMismatch(format!(
                "the state is missing: {} names {}, which is not there: restore the data directory from a copy, or recover it from the backend",
                current.display(),
                path.display()
            )));
        }
        remove_others(dir, &name)?;
        let engine = Engine::open(&path, cache_bytes)?;
        if found == Found::New {
            replace_file(dir, CURRENT, name.as_bytes())?;
        }
        let store =
            Self { dir: dir.to_owned(), cache_bytes, engine: RwLock::new(Arc::new(engine)), files: AtomicU64::new(0) };
        Ok((store, found))
    }

    pub(super) fn engine(&self) -> Arc<Engine> {
        self.engine.read().expect("only held for a moment").clone()
    }

    pub(super) fn view(&self) -> EngineView {
        self.engine.read().expect("only held for a moment").view()
    }

    pub(super) fn failed(&self, error: KvError) -> Error {
        let KvError { doing, source } = error;
        Error::Store { dir: self.engine().dir().to_owned(), doing, source: Arc::from(source) }
    }

    /// A path for a snapshot in transfer; files of earlier processes are removed at start.
    pub(super) fn snapshot_path(&self) -> PathBuf {
        self.dir.join(format!("snapshot-{}", self.files.fetch_add(1, Ordering::Relaxed)))
    }

    /// Streams all rows of `view` into a new file at `path`.
    pub(super) fn export(&self, view: &EngineView, applied_index: u64, path: &Path) -> Result<Trailer, Error> {
        let failed = |source| Error::io("write", path, source);
        let mut file = File::create(path).map_err(failed)?;
        let mut out = Vec::with_capacity(2 * CHUNK_BYTES);
        let mut encoder = Encoder::start(&mut out);
        for keyspace in Keyspace::ALL {
            for row in view.scan(keyspace, KeyRange::prefix(&[]), Direction::Forward) {
                let (key, value) = row.map_err(|error| self.failed(error))?;
                encoder.row(keyspace, &key, &value, &mut out).map_err(|error| damaged(path, error))?;
                if out.len() >= CHUNK_BYTES {
                    file.write_all(&out).map_err(failed)?;
                    out.clear();
                }
            }
        }
        let trailer = encoder.finish(applied_index, &mut out);
        file.write_all(&out).and_then(|()| file.sync_all()).map_err(failed)?;
        Ok(trailer)
    }

    /// Reads the snapshot in the file at `path` to its last byte: whole, and of the state that `meta` describes.
    pub(super) fn verify(meta: &SnapshotMeta, path: &Path) -> Result<(), Error> {
        let trailer = read_rows(path, |_| Ok(()))?;
        check_end(meta, &trailer, path).map(|_| ())
    }

    /// Replaces the state by the snapshot in the file at `path`, which `meta` describes. The file is removed.
    pub(super) fn install(&self, meta: &SnapshotMeta, path: &Path) -> Result<(), Error> {
        let old = self.engine();
        let number = old.dir().file_name().and_then(|name| store_number(&name.to_string_lossy())).unwrap_or(0);
        let name = store_name(number + 1);
        let target = self.dir.join(&name);
        // Left over from an installation that failed.
        remove_dir(&target)?;
        let engine = match self.fill(meta, path, &target) {
            Ok(engine) => engine,
            Err(error) => {
                remove_dir(&target)?;
                return Err(error);
            }
        };
        replace_file(&self.dir, CURRENT, name.as_bytes())?;
        *self.engine.write().expect("only held for a moment") = Arc::new(engine);
        // Views that are still open keep the old files alive until they end.
        if let Err(error) = remove_dir(old.dir()).and_then(|()| remove_file(path)) {
            tracing::warn!(%error, "cannot remove what an installed snapshot replaced");
        }
        Ok(())
    }

    fn fill(&self, meta: &SnapshotMeta, path: &Path, target: &Path) -> Result<Engine, Error> {
        let engine = Engine::open(target, self.cache_bytes)?;
        let trailer = read_rows(path, |batch| engine.commit(batch).map_err(|error| self.failed(error)))?;
        let applied = check_end(meta, &trailer, path)?;
        let mut batch = Batch::default();
        engine::put_applied(&applied, Some(&meta.last_membership), &mut batch);
        engine.commit(batch).and_then(|()| engine.sync()).map_err(|error| self.failed(error))?;
        Ok(engine)
    }
}

fn check_end(meta: &SnapshotMeta, trailer: &Trailer, path: &Path) -> Result<LogId, Error> {
    let applied = meta.last_log_id.ok_or_else(|| damaged(path, "its description has no log id"))?;
    if trailer.applied_index == applied.index {
        return Ok(applied);
    }
    Err(damaged(path, format!("it ends at entry {}, not at {}", trailer.applied_index, applied.index)))
}

fn damaged(path: &Path, what: impl std::fmt::Display) -> Error {
    Error::Snapshot { path: path.to_owned(), what: what.to_string() }
}

/// Reads a snapshot file and hands its rows on in batches; everything has been verified when it returns.
fn read_rows(path: &Path, mut commit: impl FnMut(Batch) -> Result<(), Error>) -> Result<Trailer, Error> {
    let failed = |source| Error::io("read", path, source);
    let mut file = File::open(path).map_err(failed)?;
    let (mut decoder, mut chunk) = (Decoder::default(), vec![0; CHUNK_BYTES]);
    let (mut batch, mut bytes, mut trailer) = (Batch::default(), 0, None);
    loop {
        let read = file.read(&mut chunk).map_err(failed)?;
        if read == 0 {
            break;
        }
        decoder.feed(&chunk[..read]);
        while let Some(piece) = decoder.next_piece().map_err(|error| damaged(path, error))? {
            match piece {
                Piece::Rows(rows) => {
                    for row in rows {
                        bytes += row.key.len() + row.value.len();
                        batch.put(row.keyspace, row.key.to_vec(), row.value);
                    }
                }
                Piece::End(end) => trailer = Some(end),
            }
            if bytes >= INSTALL_BATCH_BYTES {
                commit(std::mem::take(&mut batch))?;
                bytes = 0;
            }
        }
    }
    decoder.finish().map_err(|error| damaged(path, error))?;
    commit(batch)?;
    trailer.ok_or_else(|| damaged(path, "it has no trailer"))
}

fn store_name(number: u64) -> String {
    format!("{STORE_PREFIX}{number:06}")
}

fn store_number(name: &str) -> Option<u64> {
    name.strip_prefix(STORE_PREFIX)?.parse().ok()
}

/// Removes states that are not `current` and snapshots in transfer.
fn remove_others(dir: &Path, current: &str) -> Result<(), Error> {
    let failed = |source| Error::io("list", dir, source);
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if store_number(&name).is_some() && name != current {
            remove_dir(&entry.path())?;
        } else if name.starts_with("snapshot-") {
            remove_file(&entry.path())?;
        }
    }
    Ok(())
}

fn remove_dir(path: &Path) -> Result<(), Error> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", path, error)),
        _ => Ok(()),
    }
}

fn remove_file(path: &Path) -> Result<(), Error> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", path, error)),
        _ => Ok(()),
    }
}
