//! The AWS SDK for Rust, blocking: a case is a straight line.

use std::future::Future;

use anyhow::Result;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use tokio::runtime::Runtime;

use crate::target::{Endpoint, REGION};

/// The SDK with a runtime of its own.
#[derive(Debug)]
pub struct Sdk {
    runtime: Runtime,
    client: Client,
}

impl Sdk {
    /// The SDK for `endpoint`, path style, without retries.
    ///
    /// # Errors
    /// When no runtime can be started.
    pub fn new(endpoint: &Endpoint) -> Result<Self> {
        let credentials = Credentials::new(&endpoint.access_key, &endpoint.secret_key, None, None, "tests");
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(REGION))
            .endpoint_url(endpoint.url())
            .credentials_provider(credentials)
            .force_path_style(true)
            .retry_config(RetryConfig::disabled())
            .build();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        Ok(Self { runtime, client: Client::from_conf(config) })
    }

    /// The client, to build requests with.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Runs a request to its end.
    pub fn wait<T>(&self, request: impl Future<Output = T>) -> T {
        self.runtime.block_on(request)
    }
}
