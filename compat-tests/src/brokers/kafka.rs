//! Kafka: one broker that is its own controller.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use rskafka::client::ClientBuilder;
use rskafka::client::partition::{OffsetAt, UnknownTopicHandling};
use serde_json::{Value, json};

use super::{Broker, Server, block_on, free_port, value};
use crate::process::wait_until;
use crate::skip;

/// Kept in step with `tools.sh`.
const VERSION: &str = "3.9.1";
const TOPIC: &str = "photos";
const PARTITIONS: i32 = 3;

/// A Kafka broker with a topic of three partitions.
pub struct Kafka {
    server: Server,
}

impl Kafka {
    /// Starts it.
    ///
    /// # Errors
    /// A skip when it is not installed.
    pub fn new(dir: &Path) -> Result<Self> {
        let java = skip::program(&["java"], "apt-get install default-jre-headless")?;
        let jars = skip::tools_dir().join(format!("kafka-{VERSION}"));
        if !jars.join("complete").is_file() {
            return Err(skip::skip(format!("Kafka {VERSION} not found: make tools")));
        }
        let (port, controller) = (free_port()?, free_port()?);
        let config = dir.join("kafka.properties");
        let text = format!(
            "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:{controller}\n\
             listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
             advertised.listeners=PLAINTEXT://127.0.0.1:{port}\ncontroller.listener.names=CONTROLLER\n\
             listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT\nlog.dirs={}\n\
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
        let own = Self { server };
        wait_until("Kafka", std::time::Duration::from_secs(60), || Ok(own.make_topic().is_ok()))?;
        Ok(own)
    }

    fn make_topic(&self) -> Result<()> {
        block_on(async {
            let client = ClientBuilder::new(vec![format!("127.0.0.1:{}", self.server.port)]).build().await?;
            if client.list_topics().await?.iter().any(|topic| topic.name == TOPIC) {
                return Ok(());
            }
            client.controller_client()?.create_topic(TOPIC, PARTITIONS, 1, 5000).await?;
            Ok(())
        })
    }
}

impl Broker for Kafka {
    fn settings(&self) -> Value {
        let url = format!("kafka://127.0.0.1:{}", self.server.port);
        json!({ "kind": "kafka", "url": url, "topic": TOPIC, "batch": 10 })
    }

    /// In the order of their sequencers: Kafka orders only within a partition, which is checked here.
    fn messages(&mut self) -> Result<Vec<Value>> {
        let all = block_on(async {
            let client = ClientBuilder::new(vec![format!("127.0.0.1:{}", self.server.port)]).build().await?;
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
