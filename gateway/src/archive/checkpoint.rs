//! Checkpoints: all rows of one state, and the table of versions, streamed from a view into the backend.
//!
//! The rows of each keyspace are cut into files of sorted, checksummed blocks (`holdfast_core::snapshot`). Where a file ends
//! depends on the keys around that place only (content-defined chunking, as in LBFS, SOSP 2001), and its name is its SHA-256:
//! rows that did not change since an earlier checkpoint make the same file again, which is there already. So a checkpoint
//! stores what changed, and still names everything: there are no increments to chain. The manifest, written last and
//! create-only, makes files a checkpoint. The newest [`super::Settings::manifests_kept`] are kept, with the log from the
//! oldest of them on.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use futures::StreamExt as _;
use holdfast_core::keyspace::Keyspace;
use holdfast_core::kv::{Direction, KeyRange, KvRead};
use holdfast_core::snapshot::{Decoder, Encoder, Piece, SnapshotRow};
use holdfast_core::state::Stop;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use super::manifest::{self, KeyspaceFile, Manifest, VersionsFile};
use super::{Error, Owner, names, pipe, versions};
use crate::backend::{Backend, GetOptions};

/// A file does not end before it has as many bytes.
const FILE_BYTES_MIN: usize = 512 << 10;
/// Bytes from there to the end of a file, on average.
const FILE_BYTES_MORE: u64 = 3 << 19;
/// A file ends after the row that reaches as many bytes.
const FILE_BYTES_MAX: usize = 8 << 20;
/// Files that wait for the backend, besides the one that is written and the one that is sent.
const FILES_WAITING_MAX: usize = 1;

/// What a checkpoint cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stored {
    /// Files and bytes of rows that were stored.
    pub(super) files: u64,
    /// See `files`.
    pub(super) bytes: u64,
    /// Bytes of rows that were there already.
    pub(super) bytes_shared: u64,
}

/// Writes the checkpoint of `view`, which includes the command of `revision` and all before it; the log goes on at
/// `next_index`.
pub(super) async fn write<V: KvRead + Clone + Send + Sync + 'static>(
    backend: &dyn Backend,
    owner: &Owner,
    view: V,
    revision: u64,
    next_index: u64,
) -> Result<(Manifest, Stored), Error> {
    let mut manifest = Manifest::new(owner, revision, next_index);
    let there = stored_files(backend, owner.generation).await?;
    let mut cost = Stored::default();
    for keyspace in Keyspace::ALL {
        let (files, mut written) = mpsc::channel(FILES_WAITING_MAX);
        let rows = view.clone();
        let writer = tokio::task::spawn_blocking(move || write_files(&rows, keyspace, &files));
        while let Some(file) = written.recv().await {
            let path = names::rows(owner.generation, keyspace.name(), &file.sha256);
            let bytes = file.bytes.len() as u64;
            if there.get(&path) == Some(&bytes) {
                cost.bytes_shared += bytes;
            } else {
                names::write_once(backend, &path, file.bytes).await?;
                cost.files += 1;
                cost.bytes += bytes;
            }
            let keyspace = keyspace.name().to_owned();
            manifest.keyspaces.push(KeyspaceFile { keyspace, path, bytes, sha256: file.sha256, rows: file.rows });
        }
        writer.await.map_err(|error| Error::Incomplete(format!("the writer of a checkpoint ended: {error}")))??;
    }
    let path = format!("{}versions.parquet", names::checkpoint(owner.generation, revision));
    let stored = pipe::store(backend, &path, move |pipe| versions::write(&view, pipe)).await?;
    manifest.versions = VersionsFile { path, bytes: stored.bytes, sha256: stored.sha256, rows: stored.value };
    manifest::write(backend, &manifest).await?;
    Ok((manifest, cost))
}

/// The files of rows that are there, with their lengths.
async fn stored_files(backend: &dyn Backend, generation: u64) -> Result<HashMap<String, u64>, Error> {
    let entries = names::list(backend, &names::all_rows(generation), None).await?;
    Ok(entries.into_iter().map(|entry| (entry.path.as_str().to_owned(), entry.length)).collect())
}

/// A file of rows.
struct RowFile {
    bytes: Vec<u8>,
    sha256: String,
    rows: u64,
}

/// Cuts the rows of a keyspace into files. Blocks until they are taken.
fn write_files(view: &impl KvRead, keyspace: Keyspace, files: &mpsc::Sender<RowFile>) -> Result<(), Error> {
    let incomplete = |error: &dyn std::fmt::Display| Error::Incomplete(error.to_string());
    let mut open: Option<(Encoder, Vec<u8>)> = None;
    for row in view.scan(keyspace, KeyRange::prefix(&[]), Direction::Forward) {
        let (key, value) = row.map_err(Stop::from)?;
        let (encoder, out) = open.get_or_insert_with(|| {
            let mut out = Vec::with_capacity(2 * FILE_BYTES_MIN);
            (Encoder::start(&mut out), out)
        });
        encoder.row(keyspace, &key, &value, out).map_err(|error| incomplete(&error))?;
        if ends_after(&key, key.len() + value.len(), out.len())
            && let Some((encoder, out)) = open.take()
        {
            // Whoever takes them failed, and tells why.
            if files.blocking_send(end_file(encoder, out)).is_err() {
                return Ok(());
            }
        }
    }
    if let Some((encoder, out)) = open {
        let _ = files.blocking_send(end_file(encoder, out));
    }
    Ok(())
}

/// Whether a file of `written` bytes ends after a row. The key decides, with odds by the row's bytes, so that files have
/// the same length on average whatever their rows are.
fn ends_after(key: &[u8], row_bytes: usize, written: usize) -> bool {
    if written < FILE_BYTES_MIN {
        return false;
    }
    let hash = Sha256::digest(key);
    let drawn = u64::from(u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]));
    written >= FILE_BYTES_MAX || drawn * FILE_BYTES_MORE < ((row_bytes as u64) << 32)
}

fn end_file(encoder: Encoder, mut bytes: Vec<u8>) -> RowFile {
    // The same rows are the same file in every checkpoint, so it does not say of which state it is.
    let trailer = encoder.finish(0, &mut bytes);
    RowFile { sha256: hex::encode(Sha256::digest(&bytes)), rows: trailer.rows, bytes }
}

/// Reads all rows of a checkpoint in order and hands them on in batches. Nothing may be believed before it returns.
pub(super) async fn read(
    backend: &dyn Backend,
    manifest: &Manifest,
    mut load: impl FnMut(Vec<SnapshotRow>) -> Result<(), Error> + Send,
) -> Result<(), Error> {
    let mut before = None;
    for file in &manifest.keyspaces {
        let damaged = |what: &str| Error::Damaged { name: file.path.clone(), what: what.to_owned() };
        let keyspace = Keyspace::ALL.into_iter().find(|keyspace| keyspace.name() == file.keyspace);
        let keyspace = keyspace.ok_or_else(|| damaged("it is of a keyspace that this release does not know"))?;
        if before.replace(keyspace) > Some(keyspace) {
            return Err(damaged("its keyspace comes too late"));
        }
        read_file(backend, file, keyspace, &mut load).await?;
    }
    Ok(())
}

async fn read_file(
    backend: &dyn Backend,
    file: &KeyspaceFile,
    keyspace: Keyspace,
    load: &mut (impl FnMut(Vec<SnapshotRow>) -> Result<(), Error> + Send),
) -> Result<(), Error> {
    let damaged = |what: String| Error::Damaged { name: file.path.clone(), what };
    let fetched = backend.get(&names::path(&file.path), GetOptions::default()).await;
    let mut fetched = match fetched {
        Err(crate::backend::Error::NotFound { .. }) => return Err(damaged("it is gone".into())),
        fetched => fetched.map_err(names::failed("read", &file.path))?,
    };
    if fetched.length != file.bytes {
        return Err(damaged(format!("it has {} bytes, not {}", fetched.length, file.bytes)));
    }
    let (mut decoder, mut hash, mut rows) = (Decoder::default(), Sha256::new(), 0);
    while let Some(piece) = fetched.stream.next().await {
        let piece: Bytes = piece.map_err(names::failed("read", &file.path))?;
        hash.update(&piece);
        decoder.feed(&piece);
        while let Some(piece) = decoder.next_piece().map_err(|error| damaged(error.to_string()))? {
            match piece {
                Piece::Rows(read) => {
                    if read.iter().any(|row| row.keyspace != keyspace) {
                        return Err(damaged("it has rows of another keyspace".into()));
                    }
                    rows += read.len() as u64;
                    load(read)?;
                }
                Piece::End(_) => {}
            }
        }
    }
    decoder.finish().map_err(|error| damaged(error.to_string()))?;
    if rows != file.rows || hex::encode(hash.finalize()) != file.sha256 {
        return Err(damaged("its checksum is not the manifest's".into()));
    }
    Ok(())
}

/// Removes what the newest `keep` checkpoints make superfluous: older checkpoints, files of rows that none of them names, and
/// the log before the oldest kept. A checkpoint that lacks a file does not count, and goes: another leader may have removed
/// a file between the moment when it was found and the manifest that names it.
pub(super) async fn prune(backend: &dyn Backend, owner: &Owner, keep: usize) -> Result<(), Error> {
    let generation = owner.generation;
    let there = stored_files(backend, generation).await?;
    let (mut kept, mut superfluous) = (Vec::new(), Vec::new());
    for (revision, name) in manifest::list(backend, generation).await?.into_iter().rev() {
        if kept.len() >= keep {
            superfluous.push(name);
            continue;
        }
        let whole = match manifest::read(backend, &name, &owner.cluster_id, generation).await {
            Ok(manifest) if manifest.keyspaces.iter().all(|file| there.get(&file.path) == Some(&file.bytes)) => {
                manifest
            }
            Ok(_) | Err(Error::Damaged { .. }) => {
                tracing::error!(name, "a checkpoint is not whole and does not count");
                superfluous.push(name);
                continue;
            }
            Err(error) => return Err(error),
        };
        kept.push((revision, whole));
    }
    // Without as many whole ones nothing goes: the oldest still needs the log that it begins with.
    let Some(&(oldest, _)) = kept.last().filter(|_| kept.len() >= keep) else { return Ok(()) };
    // First the document, then what it names: a reader never finds a manifest whose files were removed.
    for name in &superfluous {
        names::remove(backend, &names::path(name)).await?;
    }
    let named: HashSet<&str> =
        kept.iter().flat_map(|(_, manifest)| &manifest.keyspaces).map(|file| file.path.as_str()).collect();
    for path in there.keys().filter(|path| !named.contains(path.as_str())) {
        names::remove(backend, &names::path(path)).await?;
    }
    let prefix = names::checkpoints(generation);
    for entry in names::list(backend, &prefix, None).await? {
        if names::revision_in(entry.path.as_str(), &prefix).is_some_and(|revision| revision < oldest) {
            names::remove(backend, &entry.path).await?;
        }
    }
    let prefix = names::segments(generation);
    let segments = names::list(backend, &prefix, None).await?;
    for pair in segments.windows(2) {
        // A segment ends before the next one begins.
        match names::revision_in(pair[1].path.as_str(), &prefix) {
            Some(next) if next <= oldest + 1 => names::remove(backend, &pair[0].path).await?,
            _ => break,
        }
    }
    Ok(())
}
