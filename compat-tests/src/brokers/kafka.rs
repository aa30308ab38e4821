//! Kafka: one broker that is its own controller.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use holdfast::outbound;
use rskafka::client::partition::{OffsetAt, UnknownTopicHandling};
use rskafka::client::{Client, ClientBuilder};
use serde_json::{Value, json};

use super::{Broker, Certificates, Server, block_on, free_port, value};
use crate::process::wait_until;
use crate::skip;

/// Kept in step with `tools.sh`.
const VERSION: &str = "3.9.1";
const TOPIC: &str = "photos";
const PARTITIONS: i32 = 3;

/// A Kafka broker with a topic of three partitions.
pub struct Kafka {
    server: Server,
    /// Of its certificate; clients are spoken to in TLS only when it has one.
    authority: Option<String>,
}

impl Kafka {
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
        let java = skip::program(&["java"], "apt-get install default-jre-headless")?;
        let jars = skip::tools_dir().join(format!("kafka-{VERSION}"));
        if !jars.join("complete").is_file() {
            return Err(skip::skip(format!("Kafka {VERSION} not found: make tools")));
        }
        let (port, controller) = (free_port()?, free_port()?);
        let config = dir.join("kafka.properties");
        let (protocol, tls) = match certificates {
            None => ("PLAINTEXT", String::new()),
            Some(certificates) => ("SSL", key_store(dir, certificates)?),
        };
        let text = format!(
            "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:{controller}\n\
             listeners=CLIENT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
             advertised.listeners=CLIENT://localhost:{port}\ncontroller.listener.names=CONTROLLER\n\
             listener.security.protocol.map=CLIENT:{protocol},CONTROLLER:PLAINTEXT\n\
             inter.broker.listener.name=CLIENT\n{tls}log.dirs={}\n\
             offsets.topic.replication.factor=1\nauto.create.topics.enable=false\n",
            dir.join("kafka").display()
        );
        std::fs::write(&config, text)?;
        let classes = format!("{}/*", jars.display());
        let config = config.display().to_string();
        let made = Command::new(&java)
            .args(["-cp", &classes, "kafka.tools.StorageTool", "format", "-t", "4L6g3nShT-eMCtK--X86sw", "-c", &config])
            .output()?;
        ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let mut server =
            Server::new(java, dir, "kafka", port).args(&["-Xmx256m", "-cp", &classes, "kafka.Kafka", &config]);
        server.start()?;
        let own = Self { server, authority: certificates.map(|made| made.authority.clone()) };
        wait_until("Kafka", std::time::Duration::from_secs(60), || Ok(own.make_topic().is_ok()))?;
        Ok(own)
    }

    async fn client(&self) -> Result<Client> {
        let mut builder = ClientBuilder::new(vec![format!("localhost:{}", self.server.port)]);
        if let Some(authority) = &self.authority {
            builder = builder.tls_config(Arc::new(outbound::tls(Some(authority))?));
        }
        Ok(builder.build().await?)
    }

    fn make_topic(&self) -> Result<()> {
        block_on(async {
            let client = self.client().await?;
            if client.list_topics().await?.iter().any(|topic| topic.name == TOPIC) {
                return Ok(());
            }
            client.controller_client()?.create_topic(TOPIC, PARTITIONS, 1, 5000).await?;
            Ok(())
        })
    }
}

/// The settings of a listener with this certificate, which Kafka wants in one file with its key. It trusts its authority, too:
/// brokers talk to each other by the same listener, and it does not start when it cannot reach itself.
fn key_store(dir: &Path, certificates: &Certificates) -> Result<String> {
    let store = dir.join("kafka.pem");
    let key = std::fs::read_to_string(&certificates.key)?;
    std::fs::write(&store, key + &std::fs::read_to_string(&certificates.certificate)?)?;
    Ok(format!(
        "ssl.keystore.type=PEM\nssl.keystore.location={}\nssl.truststore.type=PEM\nssl.truststore.location={}\n",
        store.display(),
        certificates.authority_file.display()
    ))
}

impl Broker for Kafka {
    fn settings(&self) -> Value {
        let scheme = if self.authority.is_some() { "kafkas" } else { "kafka" };
        let url = format!("{scheme}://localhost:{}", self.server.port);
        json!({ "kind": "kafka", "url": url, "topic": TOPIC, "batch": 10 })
    }

    /// In the order of their sequencers: Kafka orders only within a partition, which is checked here.
    fn messages(&mut self) -> Result<Vec<Value>> {
        let all = block_on(async {
            let client = self.client().await?;
            let mut all = Vec::new();
            for number in 0..PARTITIONS {
                let partition = client.partition_client(TOPIC, number, UnknownTopicHandling::Retry).await?;
                let (mut at, end) =
                    (partition.get_offset(OffsetAt::Earliest).await?, partition.get_offset(OffsetAt::Latest).await?);
                let mut own = Vec::new();
                while at < end {
                    let (records, _) = partition.fetch_records(at, 1..10_000_000, 1000).await?;
                    for record in &records {
                        own.push(value(record.record.value.as_ref().context("no value")?)?);
                    }
                    at = records.last().context("records are missing")?.offset + 1;
                }
                all.push(own);
            }
            Ok(all)
        })?;
        let sequencer = |message: &Value| message["Records"][0]["s3"]["object"]["sequencer"].to_string();
        let mut merged = Vec::new();
        for own in all {
            let own = own.into_iter().filter(|message| message["Records"].is_array());
            let mut highest = String::new();
            for message in own {
                let number = sequencer(&message);
                let copy = merged.iter().any(|other: &Value| sequencer(other) == number);
                ensure!(copy || number > highest, "{number} came after {highest} in one partition");
                highest = highest.max(number);
                merged.push(message);
            }
        }
        merged.sort_by_key(sequencer);
        Ok(merged)
    }

    fn stop(&mut self) -> Result<()> {
        self.server.kill();
        Ok(())
    }

    fn start(&mut self) -> Result<()> {
        self.server.start()?;
        wait_until("Kafka", std::time::Duration::from_secs(60), || Ok(self.make_topic().is_ok()))
    }
}
