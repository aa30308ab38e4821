//! The settings of a target: what a user gives, what is stored, and what is shown.
//!
//! Stored as JSON in the target's row. Its secrets are sealed (AES-256-GCM) with a key derived from root's secret key, so that
//! neither the state nor its archive in the bucket holds them in the clear; other root keys mean giving them again.

use std::time::Duration;

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use holdfast_core::id::BucketName;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use url::Url;
use zeroize::Zeroizing;

use super::message::Format;
use crate::clock::parse_duration;
use crate::config::secret::Secret;

const TIMEOUT_MS_DEFAULT: u64 = 10_000;
const TIMEOUT_MS_MAX: u64 = 60_000;
const GIVE_UP_MS_DEFAULT: u64 = 60 * 60 * 1000;
const ATTEMPTS_DEFAULT: u32 = 10;
/// Events of one message or transaction at most.
const BATCH_MAX: usize = 100;
const SECRETS: [&str; 2] = ["password", "token"];

/// What kind of service a target is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// `POST` to an HTTP or HTTPS URL.
    Webhook,
    /// NATS, or JetStream.
    Nats,
    /// Kafka.
    Kafka,
    /// AMQP 0-9-1, RabbitMQ.
    Amqp,
    /// MQTT 3.1.1.
    Mqtt,
    /// Redis: a list or a stream.
    Redis,
    /// PostgreSQL: a table.
    PostgreSql,
}

impl Kind {
    const ALL: [Self; 7] =
        [Self::Webhook, Self::Nats, Self::Kafka, Self::Amqp, Self::Mqtt, Self::Redis, Self::PostgreSql];

    /// As ARNs name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Webhook => "webhook",
            Self::Nats => "nats",
            Self::Kafka => "kafka",
            Self::Amqp => "amqp",
            Self::Mqtt => "mqtt",
            Self::Redis => "redis",
            Self::PostgreSql => "postgresql",
        }
    }

    /// Schemes of its URLs without and with TLS, and their ports.
    fn schemes(self) -> [(&'static str, u16); 2] {
        match self {
            Self::Webhook => [("http", 80), ("https", 443)],
            Self::Nats => [("nats", 4222), ("tls", 4222)],
            Self::Kafka => [("kafka", 9092), ("kafkas", 9093)],
            Self::Amqp => [("amqp", 5672), ("amqps", 5671)],
            Self::Mqtt => [("mqtt", 1883), ("mqtts", 8883)],
            Self::Redis => [("redis", 6379), ("rediss", 6379)],
            Self::PostgreSql => [("postgres", 5432), ("postgress", 5432)],
        }
    }

    /// Settings that only some kinds have.
    fn own(self) -> &'static [&'static str] {
        match self {
            Self::Webhook => &["token"],
            Self::Nats => &["subject", "jetstream", "user", "password", "token"],
            Self::Kafka => &["topic", "user", "password", "sasl"],
            Self::Amqp => &["exchange", "routing_key", "user", "password"],
            Self::Mqtt => &["topic", "qos", "user", "password"],
            Self::Redis => &["key", "mode", "user", "password"],
            Self::PostgreSql => &["table", "user", "password"],
        }
    }
}

/// How Kafka is told who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sasl {
    /// PLAIN.
    #[serde(rename = "plain")]
    Plain,
    /// SCRAM-SHA-256.
    #[serde(rename = "scram-sha-256")]
    ScramSha256,
    /// SCRAM-SHA-512.
    #[serde(rename = "scram-sha-512")]
    ScramSha512,
}

/// Where in Redis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RedisMode {
    /// `XADD`.
    #[default]
    Stream,
    /// `RPUSH`.
    List,
}

/// What a user gives.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Given {
    kind: Kind,
    url: String,
    #[serde(default)]
    format: Format,
    subject: Option<String>,
    topic: Option<String>,
    exchange: Option<String>,
    routing_key: Option<String>,
    key: Option<String>,
    table: Option<String>,
    #[serde(default, deserialize_with = "loose_bool")]
    jetstream: bool,
    #[serde(default, deserialize_with = "loose_number")]
    qos: Option<u64>,
    #[serde(default)]
    mode: RedisMode,
    sasl: Option<Sasl>,
    user: Option<String>,
    password: Option<String>,
    token: Option<String>,
    ca: Option<String>,
    #[serde(default, deserialize_with = "loose_number")]
    batch: Option<u64>,
    timeout: Option<String>,
    dead_letter: Option<String>,
    give_up: Option<String>,
    #[serde(default, deserialize_with = "loose_number")]
    attempts: Option<u64>,
}

/// A number, or text that is one: a command line has only text.
fn loose_number<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    match Option::<Value>::deserialize(deserializer)? {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => text.parse().map(Some).map_err(serde::de::Error::custom),
        Some(value) => value.as_u64().map(Some).ok_or_else(|| serde::de::Error::custom("not a number")),
    }
}

fn loose_bool<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::Bool(value) => Ok(value),
        Value::String(text) => text.parse().map_err(serde::de::Error::custom),
        _ => Err(serde::de::Error::custom("not true or false")),
    }
}

/// Why settings are refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SettingsError(pub String);

fn refused<T>(what: impl Into<String>) -> Result<T, SettingsError> {
    Err(SettingsError(what.into()))
}

/// Understood settings.
#[derive(Clone, Debug)]
pub struct TargetSettings {
    /// Kind.
    pub kind: Kind,
    /// Hosts and ports; several for Kafka only.
    pub hosts: Vec<(String, u16)>,
    /// Whether TLS is spoken.
    pub secure: bool,
    /// Path and query of a webhook; virtual host, database or number of a database for others, without the slash.
    pub path: String,
    /// How events are written.
    pub format: Format,
    /// Subject, topic, routing key, Redis key or table.
    pub name: String,
    /// AMQP's exchange.
    pub exchange: String,
    /// Whether NATS keeps what it gets.
    pub jetstream: bool,
    /// MQTT's quality of service, 1 or 2.
    pub qos: u8,
    /// Redis's form.
    pub mode: RedisMode,
    /// Kafka's mechanism.
    pub sasl: Sasl,
    /// User.
    pub user: Option<String>,
    /// Password.
    pub password: Option<Secret>,
    /// Token.
    pub token: Option<Secret>,
    /// Certificate authority, PEM.
    pub ca: Option<String>,
    /// Events sent together.
    pub batch: usize,
    /// How long one attempt may take.
    pub timeout: Duration,
    /// Where to put what cannot be delivered.
    pub dead_letter: Option<(BucketName, String)>,
    /// Age at which an event that cannot be delivered is put there.
    pub give_up: Duration,
    /// Attempts after which an event that is refused is put there.
    pub attempts: u32,
}

impl TargetSettings {
    /// Understands settings.
    ///
    /// # Errors
    /// [`SettingsError`] says what is wrong.
    pub fn parse(settings: &Map<String, Value>) -> Result<Self, SettingsError> {
        let given: Given = match serde_json::from_value(Value::Object(settings.clone())) {
            Ok(given) => given,
            Err(error) => return refused(error.to_string()),
        };
        check_own(given.kind, settings)?;
        let (hosts, secure, path) = address(given.kind, &given.url)?;
        // As AMQP has them, in one byte of length.
        let short = [Some(&path), given.exchange.as_ref(), given.routing_key.as_ref()];
        if given.kind == Kind::Amqp && short.into_iter().flatten().any(|text| text.len() > 255) {
            return refused("a virtual host, exchange or routing_key has at most 255 bytes");
        }
        let duration = |text: &Option<String>, default_ms: u64| match text {
            None => Ok(default_ms),
            Some(text) => parse_duration(text)
                .ok_or_else(|| SettingsError(format!("{text} is no duration such as 500ms, 30s, 10m or 24h"))),
        };
        let timeout_ms = duration(&given.timeout, TIMEOUT_MS_DEFAULT)?;
        if !(100..=TIMEOUT_MS_MAX).contains(&timeout_ms) {
            return refused("timeout is from 100ms to 60s");
        }
        let batch = given.batch.unwrap_or(1);
        if !(1..=BATCH_MAX as u64).contains(&batch) || (batch > 1 && !batches(given.kind, given.format)) {
            return refused("batch is from 1 to 100, and 1 for a webhook with another format than s3");
        }
        if given.qos.is_some_and(|qos| !(1..=2).contains(&qos)) {
            return refused("qos is 1 or 2: with 0 nobody says that an event has arrived");
        }
        if given.dead_letter.is_none() && (given.give_up.is_some() || given.attempts.is_some()) {
            return refused(
                "give_up and attempts need a dead_letter to put events in; without one they are tried until they are compacted",
            );
        }
        if given.user.is_some() != given.password.is_some()
            && given.kind != Kind::Redis
            && given.kind != Kind::PostgreSql
        {
            return refused("user and password come together");
        }
        Ok(Self {
            kind: given.kind,
            hosts,
            secure,
            path,
            format: given.format,
            name: own_name(&given)?,
            exchange: given.exchange.clone().unwrap_or_default(),
            jetstream: given.jetstream,
            qos: given.qos.map_or(1, |qos| qos as u8),
            mode: given.mode,
            sasl: given.sasl.unwrap_or(Sasl::Plain),
            user: given.user.clone(),
            password: given.password.map(Secret::new),
            token: given.token.map(Secret::new),
            ca: given.ca.clone(),
            batch: batch as usize,
            timeout: Duration::from_millis(timeout_ms),
            dead_letter: given.dead_letter.as_deref().map(dead_letter).transpose()?,
            give_up: Duration::from_millis(duration(&given.give_up, GIVE_UP_MS_DEFAULT)?),
            attempts: given.attempts.map_or(ATTEMPTS_DEFAULT, |attempts| attempts.clamp(1, 1000) as u32),
        })
    }
}

/// Whether several events fit into one delivery.
fn batches(kind: Kind, format: Format) -> bool {
    kind != Kind::Webhook || format == Format::S3
}

/// A setting of another kind is a mistake, not something to leave out.
fn check_own(kind: Kind, settings: &Map<String, Value>) -> Result<(), SettingsError> {
    let own = kind.own();
    let mut of_some = Kind::ALL.iter().flat_map(|kind| kind.own());
    match of_some.find(|name| settings.contains_key(**name) && !own.contains(name)) {
        Some(name) => refused(format!("{} has no {name}; it has {}", kind.name(), own.join(", "))),
        None => Ok(()),
    }
}

/// Hosts with ports, whether TLS is spoken, and the path of a URL.
type Address = (Vec<(String, u16)>, bool, String);

/// Takes a URL apart.
fn address(kind: Kind, text: &str) -> Result<Address, SettingsError> {
    let schemes = kind.schemes();
    let wrong = || {
        let [(plain, _), (secure, _)] = schemes;
        SettingsError(format!("the url of a {} target begins with {plain}:// or {secure}://", kind.name()))
    };
    let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
    let number = schemes.iter().position(|(known, _)| *known == scheme).ok_or_else(wrong)?;
    let port = schemes[number].1;
    let (authority, path) = rest.split_once('/').map_or((rest, None), |(authority, path)| (authority, Some(path)));
    let hosts: Vec<&str> = authority.split(',').collect();
    if hosts.len() > 1 && kind != Kind::Kafka {
        return refused("only Kafka has several hosts");
    }
    let mut found = Vec::new();
    for host in hosts {
        // The parser knows IPv6, ports and what no host may have.
        let url = Url::parse(&format!("http://{host}/"));
        let url = url.map_err(|error| SettingsError(format!("the url does not parse: {error}")))?;
        if !url.username().is_empty() || url.password().is_some() {
            return refused("the url holds a user or password: give them as user= and password=, which are sealed");
        }
        let name = url.host_str().filter(|name| !name.is_empty()).ok_or_else(wrong)?;
        let explicit = host.rsplit_once(':').is_some_and(|(_, port)| port == "80");
        found.push((name.to_owned(), url.port().unwrap_or(if explicit { 80 } else { port })));
    }
    let path = match kind {
        Kind::Webhook => match Url::parse(text) {
            Ok(url) => url[url::Position::BeforePath..url::Position::AfterQuery].to_owned(),
            Err(error) => return refused(format!("the url does not parse: {error}")),
        },
        _ => path.unwrap_or_default().to_owned(),
    };
    Ok((found, number == 1, path))
}

fn own_name(given: &Given) -> Result<String, SettingsError> {
    let (what, value) = match given.kind {
        Kind::Webhook => return Ok(String::new()),
        Kind::Nats => ("subject", &given.subject),
        Kind::Kafka | Kind::Mqtt => ("topic", &given.topic),
        // The default exchange goes by it, a fanout has none.
        Kind::Amqp if given.exchange.is_some() => return Ok(given.routing_key.clone().unwrap_or_default()),
        Kind::Amqp => ("routing_key", &given.routing_key),
        Kind::Redis => ("key", &given.key),
        Kind::PostgreSql => ("table", &given.table),
    };
    let name = value.clone().filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| SettingsError(format!("a {} target needs a {what}", given.kind.name())))?;
    if given.kind == Kind::Nats && name.split('.').any(|part| part.is_empty() || part.contains(['*', '>', ' '])) {
        return refused("a subject has no wildcards, spaces or empty parts");
    }
    if given.kind == Kind::Mqtt && name.contains(['+', '#']) {
        return refused("a topic to publish to has no wildcards");
    }
    if name.contains('\0') {
        return refused(format!("the {what} has a zero byte"));
    }
    Ok(name)
}

fn dead_letter(text: &str) -> Result<(BucketName, String), SettingsError> {
    let wrong = || SettingsError(format!("{text} is no place such as s3://bucket/prefix/"));
    let rest = text.strip_prefix("s3://").ok_or_else(wrong)?;
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if !prefix.is_empty() && !prefix.ends_with('/') {
        return refused("the prefix of dead_letter ends with a slash");
    }
    if prefix.len() > 512 {
        return refused("the prefix of dead_letter has at most 512 bytes");
    }
    Ok((bucket.parse().map_err(|_| wrong())?, prefix.to_owned()))
}

/// Seals the secrets of settings.
#[derive(Clone)]
pub struct Sealer(std::sync::Arc<RandomizedNonceKey>);

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealer")
    }
}

impl Sealer {
    /// A sealer by root's secret key.
    ///
    /// # Panics
    /// Never: the key has the length that the cipher wants.
    #[must_use]
    pub fn new(root_secret: &str) -> Self {
        let mut key = Zeroizing::new([0; 32]);
        let pseudorandom = Salt::new(HKDF_SHA256, b"holdfast target secrets 1").extract(root_secret.as_bytes());
        let filled = pseudorandom.expand(&[b"seal"], HKDF_SHA256).and_then(|okm| okm.fill(key.as_mut()));
        filled.expect("a key of one block can be derived");
        let key = RandomizedNonceKey::new(&AES_256_GCM, key.as_ref()).expect("a key of 32 bytes");
        Self(std::sync::Arc::new(key))
    }

    /// The bytes to store.
    #[must_use]
    pub fn seal(&self, target: &str, settings: &Map<String, Value>) -> Vec<u8> {
        let mut open = settings.clone();
        let secrets: Map<String, Value> =
            SECRETS.iter().filter_map(|name| Some(((*name).to_owned(), open.remove(*name)?))).collect();
        if !secrets.is_empty() {
            let mut bytes = Value::Object(secrets).to_string().into_bytes();
            let sealed = self.0.seal_in_place_append_tag(Aad::from(target.as_bytes()), &mut bytes);
            let nonce = sealed.expect("a few bytes can be sealed");
            let sealed = [nonce.as_ref().as_slice(), &bytes].concat();
            open.insert("sealed".into(), Value::String(BASE64.encode(sealed)));
        }
        Value::Object(open).to_string().into_bytes()
    }

    /// The settings that are stored.
    ///
    /// # Errors
    /// [`SettingsError`] when they cannot be opened with this root's key.
    pub fn open(&self, target: &str, stored: &[u8]) -> Result<Map<String, Value>, SettingsError> {
        let mut settings = parsed(stored)?;
        let Some(sealed) = settings.remove("sealed") else { return Ok(settings) };
        let other = || SettingsError("its secrets were sealed with other root keys: set them again".into());
        let sealed = sealed.as_str().and_then(|text| BASE64.decode(text).ok()).ok_or_else(other)?;
        let (nonce, bytes) = sealed.split_at_checked(12).ok_or_else(other)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| other())?;
        let mut bytes = Zeroizing::new(bytes.to_vec());
        let opened = self.0.open_in_place(nonce, Aad::from(target.as_bytes()), &mut bytes).map_err(|_| other())?;
        let secrets: Map<String, Value> = serde_json::from_slice(opened).map_err(|_| other())?;
        settings.extend(secrets);
        Ok(settings)
    }
}

fn parsed(stored: &[u8]) -> Result<Map<String, Value>, SettingsError> {
    serde_json::from_slice(stored).map_err(|_| SettingsError("the stored settings do not parse".into()))
}

/// Settings as they are shown: of secrets only that they are set.
#[must_use]
pub fn shown(stored: &[u8]) -> Map<String, Value> {
    let mut settings = parsed(stored).unwrap_or_default();
    if settings.remove("sealed").is_some() {
        settings.insert("secrets".into(), Value::String("sealed".into()));
    }
    settings
}

/// `changes` on top of `settings`; null removes one.
pub fn merge(settings: &mut Map<String, Value>, changes: Map<String, Value>) {
    for (name, value) in changes {
        match value {
            Value::Null => drop(settings.remove(&name)),
            value => drop(settings.insert(name, value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(value: Value) -> Result<TargetSettings, SettingsError> {
        let Value::Object(map) = value else { panic!("settings are a map") };
        TargetSettings::parse(&map)
    }

    #[test]
    fn each_kind_says_what_it_needs() {
        let good = [
            json!({"kind": "webhook", "url": "https://example.com/a?b=c", "token": "t"}),
            json!({"kind": "nats", "url": "nats://n1", "subject": "a.b", "jetstream": "true"}),
            json!({"kind": "kafka", "url": "kafka://k1:9092,k2", "topic": "t", "batch": "50"}),
            json!({"kind": "amqp", "url": "amqp://r/vhost", "exchange": "e"}),
            json!({"kind": "mqtt", "url": "mqtts://m", "topic": "t", "qos": 2}),
            json!({"kind": "redis", "url": "redis://r/3", "key": "k", "mode": "list"}),
            json!({"kind": "postgresql", "url": "postgres://p/db", "table": "t", "user": "u"}),
        ];
        for value in good {
            parse(value.clone()).unwrap_or_else(|error| panic!("{value}: {error}"));
        }
        let bad = [
            json!({"kind": "webhook", "url": "ftp://example.com"}),
            json!({"kind": "webhook", "url": "http://user:pass@example.com"}),
            json!({"kind": "webhook", "url": "http://example.com", "subject": "x"}),
            json!({"kind": "webhook", "url": "http://example.com", "unknown": 1}),
            json!({"kind": "webhook", "url": "http://example.com", "format": "cloudevents", "batch": 2}),
            json!({"kind": "webhook", "url": "http://example.com", "give_up": "1h"}),
            json!({"kind": "webhook", "url": "http://example.com", "timeout": "1h"}),
            json!({"kind": "webhook", "url": "http://example.com", "dead_letter": "s3://b/no-slash"}),
            json!({"kind": "nats", "url": "nats://n1"}),
            json!({"kind": "nats", "url": "nats://n1", "subject": "a.*"}),
            json!({"kind": "nats", "url": "nats://n1,n2", "subject": "a"}),
            json!({"kind": "mqtt", "url": "mqtt://m", "topic": "a/#"}),
            json!({"kind": "mqtt", "url": "mqtt://m", "topic": "a", "qos": 3}),
            json!({"kind": "amqp", "url": "amqp://r"}),
            json!({"kind": "amqp", "url": "amqp://r", "exchange": "e".repeat(256)}),
            json!({"kind": "mqtt", "url": "mqtt://m", "topic": "a", "qos": 0}),
            json!({"kind": "other", "url": "http://x"}),
        ];
        for value in bad {
            assert!(parse(value.clone()).is_err(), "{value}");
        }
    }

    #[test]
    fn addresses_have_their_parts() {
        let settings = parse(json!({"kind": "webhook", "url": "https://example.com/a?b=c"})).unwrap();
        assert_eq!((settings.hosts.as_slice(), settings.secure), (&[("example.com".to_owned(), 443)][..], true));
        assert_eq!(settings.path, "/a?b=c");
        let settings = parse(json!({"kind": "kafka", "url": "kafka://k1:99,[::1]", "topic": "t"})).unwrap();
        assert_eq!(settings.hosts, [("k1".to_owned(), 99), ("[::1]".to_owned(), 9092)]);
        let settings = parse(json!({"kind": "redis", "url": "redis://r:80/3", "key": "k"})).unwrap();
        assert_eq!((settings.hosts[0].1, settings.path.as_str()), (80, "3"));
    }

    #[test]
    fn secrets_are_stored_sealed_and_never_shown() {
        let Value::Object(map) = json!({"kind": "webhook", "url": "https://example.com", "token": "hush"}) else {
            panic!()
        };
        let sealer = Sealer::new("root's secret");
        let stored = sealer.seal("audit", &map);
        assert!(!String::from_utf8_lossy(&stored).contains("hush"));
        assert_eq!(sealer.open("audit", &stored).unwrap(), map);
        assert!(sealer.open("other", &stored).is_err(), "of another target");
        assert!(Sealer::new("another secret").open("audit", &stored).is_err());
        let shown = Value::Object(shown(&stored)).to_string();
        assert!(shown.contains("example.com") && !shown.contains("hush") && !shown.contains("token"), "{shown}");
    }

    #[test]
    fn changes_are_merged_and_null_removes() {
        let Value::Object(mut map) = json!({"a": 1, "b": 2}) else { panic!() };
        let Value::Object(changes) = json!({"a": null, "c": 3}) else { panic!() };
        merge(&mut map, changes);
        assert_eq!(Value::Object(map), json!({"b": 2, "c": 3}));
    }
}
