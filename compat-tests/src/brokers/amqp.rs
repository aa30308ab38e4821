//! RabbitMQ.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use lapin::options::{BasicAckOptions, BasicGetOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::tcp::OwnedTLSConfig;
use lapin::types::FieldTable;
use lapin::{Channel, Connection, DefaultConnectionBuilder, ExchangeKind};
use serde_json::{Value, json};

use super::{Broker, Certificates, Server, block_on, free_port, value};
use crate::process::wait_until;
use crate::skip;

const EXCHANGE: &str = "holdfast";
const QUEUE: &str = "photos";

/// A RabbitMQ server with a durable queue behind a topic exchange.
pub struct Amqp {
    server: Server,
    seen: Vec<Value>,
    /// Of its certificate; it speaks TLS only when it has one.
    authority: Option<String>,
    /// Of the Erlang machine, which the started program is only the parent of.
    pid_file: PathBuf,
    mapper: u16,
}

impl Amqp {
    /// Starts it.
    ///
    /// # Errors
    /// A skip when it is not installed.
    pub fn new(dir: &Path) -> Result<Self> {
        Self::with(dir, None)
    }

    /// Starts one that speaks TLS only.
    ///
    /// # Errors
    /// A skip when it is not installed.
    pub fn over_tls(dir: &Path, certificates: &Certificates) -> Result<Self> {
        Self::with(dir, Some(certificates))
    }

    fn with(dir: &Path, certificates: Option<&Certificates>) -> Result<Self> {
        let program = skip::program(&["/usr/lib/rabbitmq/bin/rabbitmq-server"], "apt-get install rabbitmq-server")?;
        let (port, distribution, mapper) = (free_port()?, free_port()?, free_port()?);
        let at = |name: &str| dir.join(name).display().to_string();
        if let Some(Certificates { certificate, key, .. }) = certificates {
            let text = format!(
                "listeners.tcp = none\nlisteners.ssl.1 = 127.0.0.1:{port}\nssl_options.certfile = {}\nssl_options.keyfile = {}\n",
                certificate.display(),
                key.display()
            );
            std::fs::write(dir.join("rabbitmq.conf"), text)?;
        }
        let mut server = Server::new(program, dir, "rabbitmq", port)
            .env("HOME", at("home"))
            .env("RABBITMQ_NODENAME", format!("r{port}@localhost"))
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODE_PORT", port.to_string())
            .env("RABBITMQ_DIST_PORT", distribution.to_string())
            .env("ERL_EPMD_PORT", mapper.to_string())
            .env("RABBITMQ_MNESIA_BASE", at("mnesia"))
            .env("RABBITMQ_LOG_BASE", at("logs"))
            .env("RABBITMQ_PID_FILE", at("pid"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", at("plugins"))
            .env("RABBITMQ_CONFIG_FILE", at("rabbitmq.conf"))
            .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "+S 1:1");
        std::fs::create_dir_all(dir.join("home"))?;
        server.start()?;
        let authority = certificates.map(|made| made.authority.clone());
        let own = Self { server, seen: Vec::new(), authority, pid_file: dir.join("pid"), mapper };
        wait_until("RabbitMQ", std::time::Duration::from_secs(60), || Ok(own.declare().is_ok()))?;
        Ok(own)
    }

    fn scheme(&self) -> &'static str {
        if self.authority.is_some() { "amqps" } else { "amqp" }
    }

    async fn connect(&self) -> Result<(Connection, Channel)> {
        let scheme = self.scheme();
        let uri = format!("{scheme}://guest:guest@localhost:{}/%2f", self.server.port);
        let tls = OwnedTLSConfig { identity: None, cert_chain: self.authority.clone() };
        let connection = DefaultConnectionBuilder::new()?.with_uri_str(uri).with_tls_config(tls).connect().await?;
        let channel = connection.create_channel().await?;
        Ok((connection, channel))
    }

    fn declare(&self) -> Result<()> {
        block_on(async {
            let (_connection, channel) = self.connect().await?;
            let durable = ExchangeDeclareOptions { durable: true, ..Default::default() };
            channel.exchange_declare(EXCHANGE.into(), ExchangeKind::Topic, durable, FieldTable::default()).await?;
            let durable = QueueDeclareOptions { durable: true, ..Default::default() };
            channel.queue_declare(QUEUE.into(), durable, FieldTable::default()).await?;
            let bind = QueueBindOptions::default();
            channel.queue_bind(QUEUE.into(), EXCHANGE.into(), "events.#".into(), bind, FieldTable::default()).await?;
            Ok(())
        })
    }
}

impl Drop for Amqp {
    fn drop(&mut self) {
        self.server.kill();
        let text = std::fs::read_to_string(&self.pid_file).unwrap_or_default();
        if let Some(pid) = text.trim().parse().ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        // The machine started its port mapper, which outlives it, and does not end before it has seen that it is gone.
        let mapper = self.mapper.to_string();
        let _ = wait_until("a port mapper to end", std::time::Duration::from_secs(10), || {
            Ok(Command::new("epmd").args(["-port", &mapper, "-kill"]).output()?.status.success())
        });
    }
}

impl Broker for Amqp {
    fn settings(&self) -> Value {
        let url = format!("{}://localhost:{}/%2f", self.scheme(), self.server.port);
        json!({
            "kind": "amqp", "url": url, "exchange": EXCHANGE, "routing_key": "events.photos",
            "user": "guest", "password": "guest", "batch": 10,
        })
    }

    fn messages(&mut self) -> Result<Vec<Value>> {
        let new = block_on(async {
            let (_connection, channel) = self.connect().await?;
            let mut found = Vec::new();
            while let Some(message) = channel.basic_get(QUEUE.into(), BasicGetOptions::default()).await? {
                found.push(value(&message.data)?);
                message.ack(BasicAckOptions::default()).await?;
            }
            Ok(found)
        })?;
        self.seen.extend(new);
        Ok(self.seen.clone())
    }

    fn stop(&mut self) -> Result<()> {
        self.server.stop()
    }

    fn start(&mut self) -> Result<()> {
        self.server.start()?;
        wait_until("RabbitMQ", std::time::Duration::from_secs(60), || Ok(self.declare().is_ok()))
    }
}
