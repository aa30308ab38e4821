//! A repository belongs to one cluster: `metadata/cluster.json` says to which.
//!
//! Without this, two gateways on one bucket and prefix would each take the other's blobs for orphans and delete them. The first
//! start writes the document by a create-only put; every start reads it back and refuses a foreign one. A lost reply is no
//! special case: whoever reads its own id has claimed it.

use bytes::Bytes;
use futures::TryStreamExt as _;
use serde::{Deserialize, Serialize};
use tokio::time::{Duration, Instant};

use crate::backend::{self, Backend, Body, GetOptions, ObjectPath, PutOptions};
use crate::cluster::Identity;

const PATH: &str = "metadata/cluster.json";
const FORMAT: u32 = 1;
/// How long claiming may take.
const DEADLINE: Duration = Duration::from_secs(30);
/// Most bytes of the document.
const BYTES_MAX: u64 = 64 << 10;
/// Reads before giving up: a put that fails because the document exists is followed by a read that finds it.
const ATTEMPTS: usize = 4;

/// The stored document.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
struct Document {
    format: u32,
    cluster_id: String,
    generation: u64,
}

/// Why the repository is not ours.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// Another cluster's.
    #[error(
        "the repository {repository} belongs to cluster {theirs}, and this data directory to cluster {ours}: start with the \
         data directory of {theirs}, or give this one a prefix of its own"
    )]
    Foreign {
        /// Which repository.
        repository: String,
        /// Whose it is.
        theirs: String,
        /// Who asks.
        ours: String,
    },
    /// A later generation of the same cluster has it.
    #[error(
        "this data directory is of generation {ours}, and the repository {repository} was recovered as generation {theirs}: \
         start with the recovered data directory, and remove this one; what it has beyond the archive is lost"
    )]
    Stale {
        /// Which repository.
        repository: String,
        /// Its generation.
        theirs: u64,
        /// The directory's.
        ours: u64,
    },
    /// The document is not one.
    #[error("{PATH} in {repository} is not a document this release knows")]
    Form {
        /// Which repository.
        repository: String,
        /// Why not.
        #[source]
        source: Option<serde_json::Error>,
    },
    /// The backend failed.
    #[error("cannot read or write {PATH}")]
    Backend(#[from] backend::Error),
    /// The document comes and goes.
    #[error("{PATH} can neither be created nor read")]
    Unsettled,
}

/// Claims the repository for the cluster of `identity`, or finds that it has it already.
pub(super) async fn claim(backend: &dyn Backend, identity: &Identity) -> Result<(), ClaimError> {
    let deadline = Some(Instant::now() + DEADLINE);
    let path = ObjectPath::new(PATH).expect("the path is a constant that has the form");
    let repository = backend.name().to_owned();
    let ours = Document { format: FORMAT, cluster_id: identity.cluster_id.clone(), generation: identity.generation };
    for _ in 0..ATTEMPTS {
        if let Some(bytes) = read(backend, &path, deadline).await? {
            let form = |source| ClaimError::Form { repository: repository.clone(), source };
            let found: Document = serde_json::from_slice(&bytes).map_err(|error| form(Some(error)))?;
            return match found {
                found if found.format != FORMAT => Err(form(None)),
                found if found.cluster_id == ours.cluster_id && found.generation > ours.generation => {
                    Err(ClaimError::Stale { repository, theirs: found.generation, ours: ours.generation })
                }
                found if found.cluster_id == ours.cluster_id => Ok(()),
                found => {
                    Err(ClaimError::Foreign { repository, theirs: found.cluster_id, ours: ours.cluster_id.clone() })
                }
            };
        }
        let bytes = serde_json::to_vec_pretty(&ours).expect("a document of numbers and text is JSON");
        let options = PutOptions { length: Some(bytes.len() as u64), deadline, ..PutOptions::default() };
        match backend.put(&path, Body::from(bytes), options).await {
            Ok(_) | Err(backend::Error::Exists { .. }) => {}
            Err(error) if error.is_unknown_outcome() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(ClaimError::Unsettled)
}

async fn read(
    backend: &dyn Backend,
    path: &ObjectPath,
    deadline: Option<Instant>,
) -> Result<Option<Bytes>, backend::Error> {
    let fetched = match backend.get(path, GetOptions { deadline, ..GetOptions::default() }).await {
        Ok(fetched) => fetched,
        Err(backend::Error::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    if fetched.length > BYTES_MAX {
        return Ok(Some(Bytes::new()));
    }
    let pieces: Vec<Bytes> = fetched.stream.try_collect().await?;
    Ok(Some(pieces.concat().into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::memory::Memory;

    fn identity(cluster_id: &str) -> Identity {
        Identity { format: 1, cluster_id: cluster_id.into(), generation: 1, node_id: 1, boots: 1, initialized: true }
    }

    #[tokio::test]
    async fn a_repository_belongs_to_the_cluster_that_claimed_it_first() {
        let backend = Memory::default();
        claim(&backend, &identity("a")).await.unwrap();
        claim(&backend, &identity("a")).await.unwrap();
        let error = claim(&backend, &identity("b")).await.unwrap_err();
        assert!(matches!(&error, ClaimError::Foreign { theirs, .. } if theirs == "a"), "{error}");
    }

    #[tokio::test]
    async fn of_many_first_starts_one_claims_the_repository() {
        let backend = std::sync::Arc::new(Memory::default());
        let claims = (0..16).map(|number| {
            let backend = backend.clone();
            async move { claim(&*backend, &identity(&number.to_string())).await.is_ok() }
        });
        let won = futures::future::join_all(claims).await.into_iter().filter(|won| *won).count();
        assert_eq!(won, 1);
    }

    #[tokio::test]
    async fn a_document_of_another_form_is_refused() {
        let backend = Memory::default();
        let path = ObjectPath::new(PATH).unwrap();
        backend.put(&path, Body::from(&b"{}"[..]), PutOptions::default()).await.unwrap();
        assert!(matches!(claim(&backend, &identity("a")).await.unwrap_err(), ClaimError::Form { .. }));
    }
}
