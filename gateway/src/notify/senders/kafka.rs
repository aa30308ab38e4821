//! Kafka: a record has arrived when all in-sync replicas of its partition have it. Its key is `bucket/key`, and the partition
//! follows from the key as Kafka's own clients choose it (murmur2), so that the events of one object stay in order.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use async_trait::async_trait;
use rskafka::BackoffConfig;
use rskafka::chrono::{DateTime, Utc};
use rskafka::client::partition::{Compression, PartitionClient, UnknownTopicHandling};
use rskafka::client::{Client, ClientBuilder, Credentials, SaslConfig};
use rskafka::record::Record;

use super::{SendError, Sender};
use crate::notify::message::Message;
use crate::notify::settings::{Sasl, TargetSettings};
use crate::outbound::{self, Reach};

pub(super) struct Kafka {
    client: Client,
    topic: String,
    partitions: Vec<i32>,
    open: HashMap<i32, PartitionClient>,
}

impl Kafka {
    pub(super) async fn connect(settings: &TargetSettings, reach: Reach) -> Result<Self, SendError> {
        let mut brokers = Vec::new();
        for (host, port) in &settings.hosts {
            let addresses = reach.resolve(host, *port).await?;
            // A name may lead elsewhere later; under TLS a certificate has to fit it.
            match settings.secure {
                true => brokers.push(format!("{host}:{port}")),
                false => brokers.extend(addresses.iter().map(ToString::to_string)),
            }
        }
        // The attempts are counted outside. Within one, the library tries again for a while, and is left time to say why in vain.
        let backoff = BackoffConfig { deadline: Some(settings.timeout / 2), ..BackoffConfig::default() };
        let mut builder = ClientBuilder::new(brokers).client_id("holdfast").backoff_config(backoff);
        if settings.secure {
            builder = builder.tls_config(Arc::new(outbound::tls(settings.ca.as_deref())?));
        }
        if let (Some(user), Some(password)) = (&settings.user, &settings.password) {
            let credentials = Credentials::new(user.clone(), password.expose().to_owned());
            builder = builder.sasl_config(match settings.sasl {
                Sasl::Plain => SaslConfig::Plain(credentials),
                Sasl::ScramSha256 => SaslConfig::ScramSha256(credentials),
                Sasl::ScramSha512 => SaslConfig::ScramSha512(credentials),
            });
        }
        let client = builder.build().await.map_err(SendError::failed)?;
        let topics = client.list_topics().await.map_err(SendError::failed)?;
        let topic = topics.into_iter().find(|topic| topic.name == settings.name);
        let topic = topic.ok_or_else(|| SendError::Failed(format!("there is no topic {}", settings.name)))?;
        let partitions: Vec<i32> = topic.partitions.into_iter().collect();
        if partitions.is_empty() {
            return Err(SendError::Failed(format!("the topic {} has no partition", settings.name)));
        }
        Ok(Self { client, topic: topic.name, partitions, open: HashMap::new() })
    }
}

#[async_trait]
impl Sender for Kafka {
    async fn send(&mut self, messages: &[Message]) -> Result<(), SendError> {
        let mut by_partition: BTreeMap<i32, Vec<Record>> = BTreeMap::new();
        for message in messages {
            let number = murmur2(message.key.as_bytes()) & 0x7fff_ffff;
            let partition = self.partitions[number as usize % self.partitions.len()];
            by_partition.entry(partition).or_default().push(record(message));
        }
        for (partition, records) in by_partition {
            if !self.open.contains_key(&partition) {
                let topic = self.topic.clone();
                let client = self.client.partition_client(topic, partition, UnknownTopicHandling::Error).await;
                self.open.insert(partition, client.map_err(SendError::failed)?);
            }
            let sent = self.open[&partition].produce(records, Compression::NoCompression).await;
            sent.map_err(SendError::failed)?;
        }
        Ok(())
    }
}

fn record(message: &Message) -> Record {
    let header = |name: &str, value: &str| (name.to_owned(), value.as_bytes().to_vec());
    Record {
        key: Some(message.key.as_bytes().to_vec()),
        value: Some(message.body.to_vec()),
        headers: [header("content-type", message.content_type), header("holdfast-event-id", &message.id)].into(),
        timestamp: message.time.parse::<DateTime<Utc>>().unwrap_or_default(),
    }
}

/// Kafka's hash of keys. Source: `org.apache.kafka.common.utils.Utils.murmur2`, seed `0x9747b28c`, after A. Appleby's MurmurHash2.
fn murmur2(bytes: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c ^ bytes.len() as u32;
    let (words, rest) = bytes.as_chunks::<4>();
    for word in words {
        let mut word = u32::from_le_bytes(*word).wrapping_mul(M);
        word ^= word >> 24;
        hash = hash.wrapping_mul(M) ^ word.wrapping_mul(M);
    }
    if !rest.is_empty() {
        let mut last = [0; 4];
        last[..rest.len()].copy_from_slice(rest);
        hash = (hash ^ u32::from_le_bytes(last)).wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::murmur2;

    #[test]
    fn keys_go_where_other_clients_of_kafka_send_them() {
        // From the tests of Kafka's own `Utils`.
        let known: [(&str, i32); 6] = [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ];
        for (key, hash) in known {
            assert_eq!(murmur2(key.as_bytes()) as i32, hash, "{key}");
        }
    }
}
