//! `metadata/cluster.json` as the archive sees it: whose the repository is, in which generation. Fields that others keep in
//! the document are carried along untouched.

use serde_json::Value;

use super::names::{self, CLUSTER};
use super::{Error, Owner};
use crate::backend::{self, Backend, Body, Condition, ETag, Head, PutOptions};

/// Most bytes of the document.
const BYTES_MAX: u64 = 64 << 10;

/// The document, with the version that was read.
#[derive(Clone, Debug)]
pub(super) struct Document {
    value: Value,
    pub(super) head: Head,
    /// The cluster.
    pub(super) cluster_id: String,
    /// Its generation.
    pub(super) generation: u64,
}

/// The document, or `None` when nobody has claimed the repository.
pub(super) async fn read(backend: &dyn Backend) -> Result<Option<Document>, Error> {
    let Some((bytes, head)) = names::read(backend, CLUSTER, BYTES_MAX).await? else { return Ok(None) };
    let unknown = |what: &str| Error::Damaged { name: CLUSTER.to_owned(), what: what.to_owned() };
    let value: Value = serde_json::from_slice(&bytes).map_err(|_| unknown("it is not JSON"))?;
    if value["format"].as_u64() != Some(1) {
        return Err(unknown("its format is not one that this release reads"));
    }
    let cluster_id = value["cluster_id"].as_str().ok_or_else(|| unknown("it names no cluster"))?.to_owned();
    let generation = value["generation"].as_u64().ok_or_else(|| unknown("it names no generation"))?;
    Ok(Some(Document { value, head, cluster_id, generation }))
}

/// Replaces exactly the document that was read by one that names the next generation.
pub(super) async fn claim_next(backend: &dyn Backend, found: &Document, nonce: &str) -> Result<Document, Error> {
    let generation = found.generation + 1;
    let mut value = found.value.clone();
    value["generation"] = generation.into();
    value["recovery"] = nonce.into();
    // The nodes that began the first generation do not begin this one.
    if let Some(fields) = value.as_object_mut() {
        fields.remove("voters");
        fields.remove("nonce");
    }
    let put = replace(backend, &value, found.head.etag.clone()).await;
    // Whoever reads its own claim has it, whatever became of the reply.
    let now = read(backend).await?;
    match now {
        Some(now) if now.generation == generation && now.value["recovery"] == *nonce => Ok(now),
        now => {
            put.map_err(names::failed("replace", CLUSTER))?;
            Err(Error::Foreign(format!(
                "another recovery has claimed generation {} meanwhile: look at it before you try again",
                now.map_or(generation, |now| now.generation)
            )))
        }
    }
}

async fn replace(backend: &dyn Backend, value: &Value, etag: ETag) -> backend::Result<()> {
    let bytes = serde_json::to_vec_pretty(value).expect("it was JSON before");
    let options = PutOptions {
        length: Some(bytes.len() as u64),
        condition: Condition::IfMatch(etag),
        deadline: names::soon(),
        ..PutOptions::default()
    };
    backend.put(&names::path(CLUSTER), Body::from(bytes), options).await.map(drop)
}

impl Document {
    /// Whether the repository is still `owner`'s.
    ///
    /// # Errors
    /// [`Error::Foreign`], with what to do.
    pub(super) fn check(&self, owner: &Owner) -> Result<(), Error> {
        if self.cluster_id != owner.cluster_id {
            return Err(Error::Foreign(format!(
                "the repository belongs to cluster {}, and this data directory to cluster {}",
                self.cluster_id, owner.cluster_id
            )));
        }
        if self.generation > owner.generation {
            return Err(Error::Foreign(format!(
                "this data directory is of generation {}, and the cluster was recovered as generation {}: start with the \
                 recovered data directory, and remove this one; what it has beyond the archive is lost",
                owner.generation, self.generation
            )));
        }
        if self.generation < owner.generation {
            return Err(Error::Foreign(format!(
                "this data directory is of generation {}, and {CLUSTER} says {}: the repository was set back; \
                 restore it, or recover into a new data directory",
                owner.generation, self.generation
            )));
        }
        Ok(())
    }
}
