//! A repository belongs to one cluster: `metadata/cluster.json` says to which.
//!
//! Without this, two gateways on one bucket and prefix would each take the other's blobs for orphans and delete them. The first
//! start writes the document by a create-only put; every start reads it back and refuses a foreign one. A lost reply is no
//! special case: whoever reads its own id has claimed it.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::TryStreamExt as _;
use serde::{Deserialize, Serialize};
use tokio::time::{Duration, Instant};

use crate::backend::{self, Backend, Body, GetOptions, ObjectPath, PutOptions};
use crate::cluster::Identity;
use crate::cluster::claim::{Claim, ClaimFailure, ClusterClaim, FirstVoter};

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
    /// The nodes that begin the cluster together. Absent in documents of a cluster of one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    voters: Vec<FirstVoter>,
    /// Of whoever wrote it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    nonce: String,
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
pub async fn claim(backend: &dyn Backend, identity: &Identity) -> Result<(), ClaimError> {
    let ours = Document {
        format: FORMAT,
        cluster_id: identity.cluster_id.clone(),
        generation: identity.generation,
        voters: Vec::new(),
        nonce: String::new(),
    };
    let found = create(backend, &ours).await?;
    let repository = backend.name().to_owned();
    if found.cluster_id != ours.cluster_id {
        return Err(ClaimError::Foreign { repository, theirs: found.cluster_id, ours: ours.cluster_id });
    }
    if found.generation > ours.generation {
        return Err(ClaimError::Stale { repository, theirs: found.generation, ours: ours.generation });
    }
    Ok(())
}

/// Writes the document unless there is one, and reads back the one that stands.
async fn create(backend: &dyn Backend, ours: &Document) -> Result<Document, ClaimError> {
    let deadline = Some(Instant::now() + DEADLINE);
    for _ in 0..ATTEMPTS {
        if let Some(found) = find(backend, deadline).await? {
            return Ok(found);
        }
        let bytes = serde_json::to_vec_pretty(ours).expect("a document of numbers and text is JSON");
        let options = PutOptions { length: Some(bytes.len() as u64), deadline, ..PutOptions::default() };
        match backend.put(&path(), Body::from(bytes), options).await {
            Ok(_) | Err(backend::Error::Exists { .. }) => {}
            Err(error) if error.is_unknown_outcome() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(ClaimError::Unsettled)
}

/// The document that stands, if any.
async fn find(backend: &dyn Backend, deadline: Option<Instant>) -> Result<Option<Document>, ClaimError> {
    let Some(bytes) = read(backend, &path(), deadline).await? else { return Ok(None) };
    let form = |source| ClaimError::Form { repository: backend.name().to_owned(), source };
    let found: Document = serde_json::from_slice(&bytes).map_err(|error| form(Some(error)))?;
    if found.format == FORMAT { Ok(Some(found)) } else { Err(form(None)) }
}

fn path() -> ObjectPath {
    ObjectPath::new(PATH).expect("the path is a constant that has the form")
}

/// The repository's document, for nodes that begin a cluster.
pub struct BackendClaim(pub Arc<dyn Backend>);

#[async_trait]
impl ClusterClaim for BackendClaim {
    async fn read(&self) -> Result<Option<Claim>, ClaimFailure> {
        Ok(find(&*self.0, Some(Instant::now() + DEADLINE)).await?.map(Document::into_claim))
    }

    async fn create(&self, claim: &Claim) -> Result<Claim, ClaimFailure> {
        let Claim { cluster_id, generation, voters, nonce } = claim.clone();
        let ours = Document { format: FORMAT, cluster_id, generation, voters, nonce };
        Ok(create(&*self.0, &ours).await?.into_claim())
    }
}

impl Document {
    fn into_claim(self) -> Claim {
        let Self { cluster_id, generation, voters, nonce, format: _ } = self;
        Claim { cluster_id, generation, voters, nonce }
    }
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
    async fn of_many_clusters_that_begin_one_document_stands_and_all_read_it() {
        let backend: Arc<dyn Backend> = Arc::new(Memory::default());
        let claims = (0..8).map(|number: u64| {
            let claim = BackendClaim(backend.clone());
            async move {
                let voters = vec![FirstVoter { id: 1, address: format!("{number}:1"), nonce: number.to_string() }];
                let own = Claim { cluster_id: number.to_string(), generation: 1, voters, nonce: number.to_string() };
                claim.create(&own).await.unwrap()
            }
        });
        let stood = futures::future::join_all(claims).await;
        assert!(stood.iter().all(|claim| *claim == stood[0]));
        assert_eq!(BackendClaim(backend.clone()).read().await.unwrap(), Some(stood[0].clone()));
        claim(&*backend, &identity(&stood[0].cluster_id)).await.unwrap();
    }

    #[tokio::test]
    async fn a_document_of_an_earlier_release_is_read() {
        let backend: Arc<dyn Backend> = Arc::new(Memory::default());
        let bytes = &br#"{"format": 1, "cluster_id": "a", "generation": 3}"#[..];
        backend.put(&path(), Body::from(bytes), PutOptions::default()).await.unwrap();
        let found = BackendClaim(backend).read().await.unwrap().unwrap();
        assert_eq!((found.cluster_id.as_str(), found.generation, found.voters), ("a", 3, Vec::new()));
    }

    #[tokio::test]
    async fn a_document_of_another_form_is_refused() {
        let backend = Memory::default();
        let path = ObjectPath::new(PATH).unwrap();
        backend.put(&path, Body::from(&b"{}"[..]), PutOptions::default()).await.unwrap();
        assert!(matches!(claim(&backend, &identity("a")).await.unwrap_err(), ClaimError::Form { .. }));
    }
}
