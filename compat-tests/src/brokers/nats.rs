//! NATS with JetStream.

use std::path::{Path, PathBuf};

use anyhow::Result;
use async_nats::jetstream::{self, consumer, stream};
use futures::StreamExt as _;
use serde_json::{Value, json};

use super::{Broker, Only, Server, block_on, free_port, value};
use crate::skip;

/// A NATS server with a stream over `events.>`.
pub struct Nats {
    server: Server,
    jetstream: bool,
}

fn program() -> Result<PathBuf> {
    skip::program(&["/usr/sbin/nats-server", "nats-server"], "apt-get install nats-server")
}

/// One over TLS.
pub(super) fn over_tls(dir: &Path, key: &str, certificate: &str) -> Result<Only> {
    let program = program()?;
    let port = free_port()?;
    let server = Server::new(program, dir, "nats-tls", port).args(&["-a", "127.0.0.1", "-p", &port.to_string()]);
    let mut server = server.args(&["--tls", "--tlscert", certificate, "--tlskey", key]);
    server.start()?;
    let url = format!("tls://localhost:{port}");
    Ok(Only { server, settings: json!({ "kind": "nats", "url": url, "subject": "events" }) })
}

impl Nats {
    /// Starts it. Messages come by JetStream's protocol, or as core NATS has them; the stream takes both.
    ///
    /// # Errors
    /// A skip when it is not installed.
    pub fn new(dir: &Path, jetstream: bool) -> Result<Self> {
        let program = program()?;
        let (port, store) = (free_port()?, dir.join("jetstream"));
        let server = Server::new(program, dir, "nats", port);
        let mut server =
            server.args(&["-a", "127.0.0.1", "-p", &port.to_string(), "-js", "-sd", &store.display().to_string()]);
        server.start()?;
        let own = Self { server, jetstream };
        block_on(async {
            let subjects = vec!["events.>".to_owned()];
            let config = stream::Config { name: "EVENTS".into(), subjects, ..stream::Config::default() };
            own.stream().await?.create_stream(config).await?;
            Ok(())
        })?;
        Ok(own)
    }

    async fn stream(&self) -> Result<jetstream::Context> {
        Ok(jetstream::new(async_nats::connect(format!("127.0.0.1:{}", self.server.port)).await?))
    }
}

impl Broker for Nats {
    fn settings(&self) -> Value {
        let url = format!("nats://127.0.0.1:{}", self.server.port);
        json!({ "kind": "nats", "url": url, "subject": "events.photos", "jetstream": self.jetstream, "batch": 10 })
    }

    fn messages(&mut self) -> Result<Vec<Value>> {
        block_on(async {
            let mut stream = self.stream().await?.get_stream("EVENTS").await?;
            let count = stream.info().await?.state.messages as usize;
            let config = consumer::pull::Config { ack_policy: consumer::AckPolicy::None, ..Default::default() };
            let consumer = stream.create_consumer(config).await?;
            if count == 0 {
                return Ok(Vec::new());
            }
            let wait = std::time::Duration::from_secs(2);
            let mut batch = consumer.fetch().max_messages(count).expires(wait).messages().await?;
            let mut found = Vec::new();
            while let Some(message) = batch.next().await {
                found.push(value(&message.map_err(|error| anyhow::anyhow!(error))?.payload)?);
            }
            Ok(found)
        })
    }

    fn stop(&mut self) -> Result<()> {
        self.server.kill();
        Ok(())
    }

    fn start(&mut self) -> Result<()> {
        self.server.start()
    }
}
