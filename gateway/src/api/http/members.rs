//! `/_holdfast/v1/cluster`: the members, and changes of them.

use holdfast_core::rules::authorize::{Action, Resource, authorize};
use s3s::{Body, S3Request, S3Response, S3Result};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::json;
use crate::api::s3::error::invalid;
use crate::api::s3::{call_of, to_s3};
use crate::error::Error;
use crate::gateway::{COMMIT_DEADLINE, Gateway};

/// `GET`: every member as the leader sees it.
pub(super) async fn list(gateway: &Gateway, request: &S3Request<Body>) -> S3Result<S3Response<Body>> {
    let call = call_of(request)?;
    let refused = |error: Error| to_s3(&error, call.request);
    authorize(call.caller, Action::ReadCluster, Resource::Service, &call.context)
        .map_err(|refusal| refused(refusal.into()))?;
    let members = gateway.cluster().members(Instant::now() + COMMIT_DEADLINE).await;
    let members = members.map_err(|error| refused(error.into()))?;
    let members: Vec<Value> = members.iter().map(|member| json!(member)).collect();
    Ok(json(json!({ "members": members }), None))
}

/// `POST .../{node}` makes a voter of a learner; `DELETE .../{node}` removes a member.
pub(super) async fn change(gateway: &Gateway, request: &S3Request<Body>, node: &str) -> S3Result<S3Response<Body>> {
    let call = call_of(request)?;
    let refused = |error: Error| to_s3(&error, call.request);
    authorize(call.caller, Action::ManageCluster, Resource::Service, &call.context)
        .map_err(|refusal| refused(refusal.into()))?;
    let node: u64 = node.parse().map_err(|_| invalid("a node id is a number"))?;
    let deadline = Instant::now() + COMMIT_DEADLINE;
    let changed = match request.method.as_str() {
        "DELETE" => gateway.cluster().remove_member(node, deadline).await,
        _ => gateway.cluster().promote_member(node, deadline).await,
    };
    changed.map_err(|error| refused(error.into()))?;
    Ok(json(json!({ "node_id": node }), None))
}
