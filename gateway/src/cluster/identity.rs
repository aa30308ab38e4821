//! Who this node is, and that it is alone on its directory.
//!
//! `identity.json` is written before anything else and decides at every start: with it the node goes on as what it was
//! and never starts afresh, whatever else is missing. `lock` is held with `flock` for the life of the process.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::error::Error;
use super::log::LogOwner;

const FORMAT: u32 = 1;
pub(super) const FILE: &str = "identity.json";

/// A node's identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Format of the file.
    pub format: u32,
    /// Random, made with the cluster: 32 hexadecimal digits.
    pub cluster_id: String,
    /// Raised when the cluster is recovered from its backend.
    pub generation: u64,
    /// Never used again by another node of the cluster.
    pub node_id: u64,
    /// Starts of this node, this one included.
    pub boots: u64,
    /// Whether the first start was completed: from then on a missing log or state is a loss, not a beginning.
    pub initialized: bool,
}

impl Identity {
    /// Of the first node of a recovered cluster. Its log has begun.
    pub(super) fn restored(cluster_id: String, generation: u64, node_id: u64) -> Self {
        Self { format: FORMAT, cluster_id, generation, node_id, boots: 0, initialized: true }
    }

    /// The owner that each log segment names.
    ///
    /// # Errors
    /// [`Error::Identity`] when the cluster id is not hexadecimal.
    pub(super) fn owner(&self, path: &Path) -> Result<LogOwner, Error> {
        let mut cluster = [0; 16];
        hex::decode_to_slice(&self.cluster_id, &mut cluster).map_err(|_| damaged(path))?;
        Ok(LogOwner { cluster, generation: self.generation, node: self.node_id })
    }
}

fn damaged(path: &Path) -> Error {
    let what = "is damaged: restore it from a copy; without it the node's log and state cannot be trusted".to_owned();
    Error::Identity { path: path.to_owned(), what }
}

/// The exclusive use of a data directory.
pub(super) struct DirLock {
    // Held for its lock only.
    _file: File,
}

/// Takes the directory for this process.
pub(super) fn lock(dir: &Path) -> Result<DirLock, Error> {
    crate::durable_dir::create(dir).map_err(|source| Error::io("create", dir, source))?;
    let path = dir.join("lock");
    let opened = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = opened.map_err(|source| Error::io("open", &path, source))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(DirLock { _file: file }),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::InUse { dir: dir.to_owned() }),
        Err(errno) => Err(Error::io("lock", path, errno.into())),
    }
}

/// The identity file of a directory.
#[derive(Clone)]
pub(super) struct IdentityFile {
    dir: PathBuf,
    pub(super) path: PathBuf,
}

impl IdentityFile {
    pub(super) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), path: dir.join(FILE) }
    }

    /// Reads the identity and counts this start; makes a new one when the directory has none.
    pub(super) fn begin(&self) -> Result<Identity, Error> {
        let mut identity = match std::fs::read(&self.path) {
            Ok(bytes) => serde_json::from_slice::<Identity>(&bytes).map_err(|_| damaged(&self.path))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => self.create()?,
            Err(source) => return Err(Error::io("read", &self.path, source)),
        };
        if identity.format != FORMAT {
            let what = format!("has format {}, which is not one that this release reads", identity.format);
            return Err(Error::Identity { path: self.path.clone(), what });
        }
        identity.boots += 1;
        match self.write(&identity) {
            // The count is for people: a full disk does not keep a node from starting.
            Err(Error::Io { source, .. }) if super::log::files::is_full(&source) => {
                tracing::warn!(path = %self.path.display(), "the disk is full: this start is not counted");
            }
            other => other?,
        }
        Ok(identity)
    }

    pub(super) fn exists(&self) -> bool {
        self.path.exists()
    }

    /// Makes this directory that of a node of a cluster. The next [`IdentityFile::begin`] goes on as that.
    pub(super) fn adopt(&self, cluster_id: String, generation: u64, node_id: u64) -> Result<(), Error> {
        self.check_new()?;
        self.write(&Identity { format: FORMAT, cluster_id, generation, node_id, boots: 0, initialized: false })
    }

    fn create(&self) -> Result<Identity, Error> {
        self.check_new()?;
        Ok(Identity {
            format: FORMAT,
            cluster_id: hex::encode(rand::random::<[u8; 16]>()),
            generation: 1,
            node_id: 1,
            boots: 0,
            initialized: false,
        })
    }

    pub(super) fn check_new(&self) -> Result<(), Error> {
        // The log and the state are never made without an identity: if they are there, it was lost.
        for name in [super::LOG_DIR, super::STATE_DIR] {
            if self.dir.join(name).exists() {
                let what = format!("is missing but {} is there: restore it from a copy", self.dir.join(name).display());
                return Err(Error::Identity { path: self.path.clone(), what });
            }
        }
        Ok(())
    }

    /// Replaces the file atomically and durably.
    pub(super) fn write(&self, identity: &Identity) -> Result<(), Error> {
        let text = serde_json::to_vec_pretty(identity).expect("plain fields");
        replace_file(&self.dir, FILE, &text)
    }
}

/// Replaces `dir/name` atomically and durably.
pub(super) fn replace_file(dir: &Path, name: &str, bytes: &[u8]) -> Result<(), Error> {
    let (path, temporary) = (dir.join(name), dir.join(format!("{name}.tmp")));
    let written = File::create(&temporary)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::rename(&temporary, &path))
        .and_then(|()| File::open(dir)?.sync_all());
    written.map_err(|source| {
        let _ = std::fs::remove_file(&temporary);
        Error::io("write", path, source)
    })
}
