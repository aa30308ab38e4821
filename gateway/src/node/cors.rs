//! Where the gate finds a bucket's CORS rules: in this node's state.

use std::sync::Arc;

use async_trait::async_trait;

use crate::api::gate::cors::{CorsRules, CorsSource};
use crate::gateway::Gateway;

/// Rules as stored, read anew for each request that carries an `Origin`.
pub(super) struct BucketCors(Gateway);

impl BucketCors {
    pub(super) fn new(gateway: Gateway) -> Self {
        Self(gateway)
    }
}

#[async_trait]
impl CorsSource for BucketCors {
    async fn cors(&self, bucket: &str) -> Option<Arc<CorsRules>> {
        let bucket = bucket.parse().ok()?;
        let document = self.0.cors_document(&bucket).await;
        let document = document.inspect_err(|error| tracing::error!(%error, "cannot read CORS rules")).ok()??;
        let rules = CorsRules::parse(&document);
        rules.inspect_err(|error| tracing::error!(%error, "stored CORS rules do not parse")).ok().map(Arc::new)
    }
}
