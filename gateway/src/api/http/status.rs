//! `GET /_holdfast/v1/status`: what the node knows about itself.

use holdfast_core::index::IndexInfo;
use serde_json::{Value, json};

use crate::archive::Archive;
use crate::cluster::Status;
use crate::gateway::Gateway;

/// Indexes that the status names; `holdfast index list` names all.
const INDEXES_SHOWN_MAX: usize = 1000;

pub(super) async fn status(gateway: &Gateway) -> Value {
    let status = gateway.status();
    let cache = gateway.blobs().cache_stats();
    let peers = peers(&status);
    json!({
        "cluster_id": status.identity.cluster_id,
        "node_id": status.identity.node_id,
        "generation": status.identity.generation,
        "role": status.role.to_lowercase(),
        "leader": status.leader,
        "term": status.term,
        "revision": status.revision,
        "applied": status.revision,
        "ready": gateway.is_ready(),
        "not_ready": status.not_ready,
        "peers": peers,
        "log": {
            "first_index": status.log.first_index,
            "last_index": status.log.last_index,
            "bytes": status.log.bytes,
            "syncs": status.log.syncs,
            "entries_synced": status.log.entries_synced,
            "snapshot_index": status.snapshot_index,
        },
        "archive": gateway.archive().map(archive),
        "disk": { "free_bytes": status.free_bytes, "full": status.disk_full },
        "backend": {
            "name": gateway.blobs().backend().name(),
            "alive": gateway.is_backend_alive().await,
        },
        "indexes": indexes(gateway).await,
        "cache": { "hits": cache.hits, "misses": cache.misses, "bytes": cache.bytes },
        "reason": status.fatal,
    })
}

/// What indexes take, as this node knows it: in the state and in runs.
async fn indexes(gateway: &Gateway) -> Vec<Value> {
    let known = gateway.known_indexes(INDEXES_SHOWN_MAX).await.unwrap_or_default();
    let row = |index: &IndexInfo| {
        json!({
            "bucket": index.bucket,
            "name": index.name,
            "bytes": index.bytes,
            "runs": index.runs,
            "run_bytes": index.run_bytes,
            "pending": index.pending,
        })
    };
    known.iter().map(row).collect()
}

/// The members: with what the leader knows of each where this node leads.
fn peers(status: &Status) -> Vec<Value> {
    if status.peers.is_empty() {
        return status.members.iter().map(|(id, node)| json!({ "node_id": id, "address": node.peer })).collect();
    }
    let peer = |member: &crate::cluster::Member| {
        json!({
            "node_id": member.id,
            "address": member.address,
            "role": if member.leader { "leader" } else if member.voter { "follower" } else { "learner" },
            "matched": member.matched,
            "lag": member.lag,
            "last_contact_ms": member.last_contact_ms,
        })
    };
    status.peers.iter().map(peer).collect()
}

fn archive(archive: &Archive) -> Value {
    let status = archive.status();
    json!({
        "shipped": status.shipped,
        "lag_revisions": status.lag_revisions,
        "lag_bytes": status.lag_bytes,
        "lag_seconds": status.lag.as_secs_f64(),
        "checkpoint": status.checkpoint,
        "verified_seconds_ago": status.verified_ago.map(|ago| ago.as_secs_f64()),
        "writes": archive.allows(false).err().unwrap_or_else(|| "accepted".into()),
        "problem": status.problem,
    })
}
