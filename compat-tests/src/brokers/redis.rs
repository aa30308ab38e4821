//! Redis with an append-only file that is synced at each write.

use std::path::{Path, PathBuf};

use ::redis::{Client, Value as Found, cmd, from_redis_value};
use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{Broker, Only, Server, block_on, free_port, value};
use crate::skip;

/// A Redis server; messages go to a stream.
pub struct Redis {
    server: Server,
}

fn program() -> Result<PathBuf> {
    skip::program(&["/usr/bin/redis-server", "redis-server"], "apt-get install redis-server")
}

/// One over TLS.
pub(super) fn over_tls(dir: &Path, key: &str, certificate: &str) -> Result<Only> {
    let program = program()?;
    let port = free_port()?;
    let server = Server::new(program, dir, "redis-tls", port).args(&["--port", "0", "--tls-port", &port.to_string()]);
    let server = server.args(&["--tls-cert-file", certificate, "--tls-key-file", key, "--tls-auth-clients", "no"]);
    let mut server = server.args(&["--save", "", "--bind", "127.0.0.1"]);
    server.start()?;
    let url = format!("rediss://localhost:{port}");
    Ok(Only { server, settings: json!({ "kind": "redis", "url": url, "key": "events", "mode": "list" }) })
}

impl Redis {
    /// Starts it.
    ///
    /// # Errors
    /// A skip when it is not installed.
    pub fn new(dir: &Path) -> Result<Self> {
        let program = program()?;
        let port = free_port()?;
        let (number, data) = (port.to_string(), dir.display().to_string());
        let server = Server::new(program, dir, "redis", port).args(&["--port", &number, "--bind", "127.0.0.1"]);
        let mut server = server
            .args(&["--appendonly", "yes", "--appendfsync", "always", "--dir", &data])
            .args(&["--requirepass", "redis-secret"]);
        server.start()?;
        Ok(Self { server })
    }
}

impl Broker for Redis {
    fn settings(&self) -> Value {
        let url = format!("redis://127.0.0.1:{}/2", self.server.port);
        json!({ "kind": "redis", "url": url, "key": "events", "password": "redis-secret" })
    }

    fn messages(&mut self) -> Result<Vec<Value>> {
        block_on(async {
            let client = Client::open(format!("redis://:redis-secret@127.0.0.1:{}/2", self.server.port))?;
            let mut connection = client.get_multiplexed_async_connection().await?;
            let found: Vec<(String, Vec<Found>)> =
                cmd("XRANGE").arg("events").arg("-").arg("+").query_async(&mut connection).await?;
            let body = |(_, fields): (String, Vec<Found>)| {
                let texts: Vec<String> = fields.into_iter().map(from_redis_value).collect::<Result<_, _>>()?;
                let at = texts.iter().position(|text| text == "body").context("no body")?;
                value(texts[at + 1].as_bytes())
            };
            found.into_iter().map(body).collect()
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
