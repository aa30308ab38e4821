//! `GET /_holdfast/v1/status`: what the node knows about itself.

use serde_json::{Value, json};

use crate::archive::Archive;
use crate::gateway::Gateway;

pub(super) async fn status(gateway: &Gateway) -> Value {
    let status = gateway.status();
    let cache = gateway.blobs().cache_stats();
    let peers: Vec<Value> = status.members.iter().map(|(id, _)| json!({ "node_id": id })).collect();
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
        "cache": { "hits": cache.hits, "misses": cache.misses, "bytes": cache.bytes },
        "reason": status.fatal,
    })
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
