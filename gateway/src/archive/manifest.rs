//! The document that makes a checkpoint valid: what its files are, and where the log goes on.

use serde::{Deserialize, Serialize};

use super::names;
use super::{Error, Owner};
use crate::backend::Backend;

/// The format that this release writes.
const FORMAT: u32 = 2;
/// Most bytes of a manifest.
const BYTES_MAX: u64 = 64 << 20;

/// A checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Format of this document.
    pub format: u32,
    /// Whose checkpoint it is.
    pub cluster_id: String,
    /// Generation of the cluster.
    pub generation: u64,
    /// Revision of the last command that the state includes.
    pub revision: u64,
    /// Index of the first log entry that it does not include.
    pub next_index: u64,
    /// Revision of that entry: revisions are indexes plus a constant within a generation.
    pub next_revision: u64,
    /// When it was written, milliseconds since 1970.
    pub created_ms: u64,
    /// The files of the state, by keyspace number and then by key. A keyspace without rows has none.
    pub keyspaces: Vec<KeyspaceFile>,
    /// The table of versions; not needed to rebuild the state.
    pub versions: VersionsFile,
}

/// A file of rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyspaceFile {
    /// Name of the keyspace.
    pub keyspace: String,
    /// Name under the repository.
    pub path: String,
    /// Length of the file.
    pub bytes: u64,
    /// SHA-256 of the file, hexadecimal.
    pub sha256: String,
    /// Its rows.
    pub rows: u64,
}

/// The table of versions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionsFile {
    /// Name under the repository.
    pub path: String,
    /// Length of the file.
    pub bytes: u64,
    /// SHA-256 of the file, hexadecimal.
    pub sha256: String,
    /// Its rows.
    pub rows: u64,
}

impl Manifest {
    /// A manifest without files yet.
    pub(super) fn new(owner: &Owner, revision: u64, next_index: u64) -> Self {
        Self {
            format: FORMAT,
            cluster_id: owner.cluster_id.clone(),
            generation: owner.generation,
            revision,
            next_index,
            next_revision: revision + 1,
            created_ms: crate::clock::now_ms(),
            keyspaces: Vec::new(),
            versions: VersionsFile { path: String::new(), bytes: 0, sha256: String::new(), rows: 0 },
        }
    }

    /// Bytes of all files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.keyspaces.iter().map(|file| file.bytes).sum::<u64>() + self.versions.bytes
    }

    /// Revision minus index.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.next_revision - self.next_index
    }

    fn check(&self, name: &str, cluster_id: &str, generation: u64) -> Result<(), String> {
        if self.format != FORMAT {
            return Err(format!("format {} is not one that this release reads", self.format));
        }
        if (self.cluster_id.as_str(), self.generation) != (cluster_id, generation) {
            return Err(format!("it is of cluster {} generation {}", self.cluster_id, self.generation));
        }
        let named = names::revision_in(name, &names::manifests(generation));
        if named != Some(self.revision) || self.next_revision != self.revision + 1 {
            return Err("its revisions do not fit its name".into());
        }
        if self.next_index > self.next_revision {
            return Err("its index is larger than its revision".into());
        }
        Ok(())
    }
}

/// Writes a manifest; one that is there already is as good.
pub(super) async fn write(backend: &dyn Backend, manifest: &Manifest) -> Result<(), Error> {
    let name = names::manifest(manifest.generation, manifest.revision);
    let bytes = serde_json::to_vec_pretty(manifest).expect("text and numbers are JSON");
    names::write_once(backend, &name, bytes).await
}

/// Reads and checks a manifest.
pub(super) async fn read(
    backend: &dyn Backend,
    name: &str,
    cluster_id: &str,
    generation: u64,
) -> Result<Manifest, Error> {
    let damaged = |what: String| Error::Damaged { name: name.to_owned(), what };
    let found = names::read(backend, name, BYTES_MAX).await?;
    let (bytes, _) = found.ok_or_else(|| damaged("it is gone".into()))?;
    let manifest: Manifest = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
    manifest.check(name, cluster_id, generation).map_err(damaged)?;
    Ok(manifest)
}

/// The names of all manifests of a generation, oldest first, with their revisions.
pub(super) async fn list(backend: &dyn Backend, generation: u64) -> Result<Vec<(u64, String)>, Error> {
    let prefix = names::manifests(generation);
    let entries = names::list(backend, &prefix, None).await?;
    let named = entries.into_iter().filter_map(|entry| {
        let name = entry.path.as_str().to_owned();
        Some((names::revision_in(&name, &prefix)?, name))
    });
    Ok(named.collect())
}
