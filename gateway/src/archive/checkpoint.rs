//! Checkpoints: all rows of one state, and the table of versions, streamed from a view into the backend.
//!
//! Each keyspace with rows is one file of sorted, checksummed blocks (`holdfast_core::snapshot`); the manifest, written last
//! and create-only, makes them a checkpoint. Every checkpoint is complete: there are no increments to chain. The newest
//! [`super::Settings::manifests_kept`] are kept, with the log from the oldest of them on.

use std::io::Write as _;

use bytes::Bytes;
use futures::StreamExt as _;
use holdfast_core::keyspace::Keyspace;
use holdfast_core::kv::{Direction, KeyRange, KvRead};
use holdfast_core::snapshot::{BLOCK_BYTES_MAX, Decoder, Encoder, Piece, SnapshotRow};
use holdfast_core::state::Stop;
use sha2::{Digest as _, Sha256};

use super::manifest::{self, KeyspaceFile, Manifest, VersionsFile};
use super::pipe::{self, Pipe};
use super::{Error, Owner, names, versions};
use crate::backend::{Backend, GetOptions};

/// Writes the checkpoint of `view`, which includes the command of `revision` and all before it; the log goes on at
/// `next_index`.
pub(super) async fn write<V: KvRead + Clone + Send + Sync + 'static>(
    backend: &dyn Backend,
    owner: &Owner,
    view: V,
    revision: u64,
    next_index: u64,
) -> Result<Manifest, Error> {
    let mut manifest = Manifest::new(owner, revision, next_index);
    let dir = names::checkpoint(owner.generation, revision);
    let applied_index = next_index.saturating_sub(1);
    for keyspace in Keyspace::ALL {
        if is_empty(&view, keyspace)? {
            continue;
        }
        let (path, view) = (format!("{dir}{}.blocks", keyspace.name()), view.clone());
        let stored = pipe::store(backend, &path, move |pipe| write_rows(&view, keyspace, applied_index, pipe)).await?;
        manifest.keyspaces.push(KeyspaceFile {
            keyspace: keyspace.name().to_owned(),
            path,
            bytes: stored.bytes,
            sha256: stored.sha256,
            rows: stored.value,
        });
    }
    let path = format!("{dir}versions.parquet");
    let stored = pipe::store(backend, &path, move |pipe| versions::write(&view, pipe)).await?;
    manifest.versions = VersionsFile { path, bytes: stored.bytes, sha256: stored.sha256, rows: stored.value };
    manifest::write(backend, &manifest).await?;
    Ok(manifest)
}

fn is_empty(view: &impl KvRead, keyspace: Keyspace) -> Result<bool, Error> {
    let first = view.scan(keyspace, KeyRange::prefix(&[]), Direction::Forward).next();
    Ok(first.transpose().map_err(Stop::from)?.is_none())
}

fn write_rows(view: &impl KvRead, keyspace: Keyspace, applied_index: u64, pipe: &mut Pipe) -> Result<u64, Error> {
    let incomplete = |error: &dyn std::fmt::Display| Error::Incomplete(error.to_string());
    let mut out = Vec::with_capacity(2 * BLOCK_BYTES_MAX);
    let mut encoder = Encoder::start(&mut out);
    for row in view.scan(keyspace, KeyRange::prefix(&[]), Direction::Forward) {
        let (key, value) = row.map_err(Stop::from)?;
        encoder.row(keyspace, &key, &value, &mut out).map_err(|error| incomplete(&error))?;
        if out.len() >= BLOCK_BYTES_MAX {
            pipe.write_all(&out).map_err(|error| incomplete(&error))?;
            out.clear();
        }
    }
    let trailer = encoder.finish(applied_index, &mut out);
    pipe.write_all(&out).map_err(|error| incomplete(&error))?;
    Ok(trailer.rows)
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
        if before.replace(keyspace) >= Some(keyspace) {
            return Err(damaged("its keyspace comes twice"));
        }
        read_file(backend, manifest, file, keyspace, &mut load).await?;
    }
    Ok(())
}

async fn read_file(
    backend: &dyn Backend,
    manifest: &Manifest,
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
                Piece::End(end) if end.applied_index != manifest.next_index.saturating_sub(1) => {
                    return Err(damaged(format!("it is of the state after entry {}", end.applied_index)));
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

/// Removes what the newest `keep` checkpoints make superfluous: older checkpoints, and the log before the oldest kept.
pub(super) async fn prune(backend: &dyn Backend, generation: u64, keep: usize) -> Result<(), Error> {
    let manifests = manifest::list(backend, generation).await?;
    if manifests.len() < keep {
        // The oldest checkpoint still needs the log that it begins with, and nothing is older than it.
        return Ok(());
    }
    let (old, kept) = manifests.split_at(manifests.len() - keep);
    let Some(&(oldest, _)) = kept.first() else { return Ok(()) };
    // First the document, then what it names: a reader never finds a manifest whose files were removed.
    for (_, name) in old {
        names::remove(backend, &names::path(name)).await?;
    }
    let prefix = names::checkpoints(generation);
    for entry in names::list(backend, &prefix, None).await? {
        match names::revision_in(entry.path.as_str(), &prefix) {
            Some(revision) if revision < oldest => names::remove(backend, &entry.path).await?,
            _ => break,
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
