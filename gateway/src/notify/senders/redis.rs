//! Redis: a message has arrived when the server has answered. In a stream its id is the place of the event, so that a copy is
//! not added; a list gets copies.

use std::net::SocketAddr;

use ::redis::aio::MultiplexedConnection;
use ::redis::io::AsyncDNSResolver;
use ::redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, IntoConnectionInfo as _, RedisConnectionInfo, RedisError,
    RedisFuture, TlsCertificates, Value, cmd,
};
use async_trait::async_trait;
use futures::FutureExt as _;

use super::{SendError, Sender};
use crate::notify::message::Message;
use crate::notify::settings::{RedisMode, TargetSettings};
use crate::outbound::Reach;

pub(super) struct Redis {
    connection: MultiplexedConnection,
    key: String,
    mode: RedisMode,
}

/// Names lead only where the node may connect to.
struct Resolver(Reach);

impl AsyncDNSResolver for Resolver {
    fn resolve<'a, 'b: 'a>(
        &'a self,
        host: &'b str,
        port: u16,
    ) -> RedisFuture<'a, Box<dyn Iterator<Item = SocketAddr> + Send + 'a>> {
        let resolve = async move {
            let found = self.0.resolve(host, port).await;
            let found =
                found.map_err(|error| RedisError::from(std::io::Error::other(crate::backend::chain(&error))))?;
            Ok(Box::new(found.into_iter()) as Box<dyn Iterator<Item = SocketAddr> + Send>)
        };
        resolve.boxed()
    }
}

impl Redis {
    pub(super) async fn connect(settings: &TargetSettings, reach: Reach) -> Result<Self, SendError> {
        let (host, port) = settings.hosts[0].clone();
        let host = host.trim_matches(['[', ']']).to_owned();
        let mut redis = RedisConnectionInfo::default();
        if let Some(user) = &settings.user {
            redis = redis.set_username(user);
        }
        if let Some(password) = &settings.password {
            redis = redis.set_password(password.expose());
        }
        if !settings.path.is_empty() {
            let number = settings.path.parse();
            redis = redis.set_db(number.map_err(|_| SendError::Failed("the database is a number".into()))?);
        }
        let address = match settings.secure {
            true => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
            false => ConnectionAddr::Tcp(host, port),
        };
        let info = address.into_connection_info().map_err(SendError::failed)?.set_redis_settings(redis);
        let client = match settings.secure {
            true => {
                let root_cert = settings.ca.as_ref().map(|pem| pem.as_bytes().to_vec());
                Client::build_with_tls(info, TlsCertificates { client_tls: None, root_cert })
            }
            false => Client::open(info),
        };
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(settings.timeout))
            .set_response_timeout(Some(settings.timeout))
            .set_dns_resolver(Resolver(reach));
        let connection = client.map_err(SendError::failed)?.get_multiplexed_async_connection_with_config(&config).await;
        Ok(Self { connection: connection.map_err(SendError::failed)?, key: settings.name.clone(), mode: settings.mode })
    }

    async fn add(&mut self, message: &Message) -> Result<(), SendError> {
        let (revision, ordinal) = message.place;
        // Ordinals begin at 0, and 0-0 is no id.
        let id = format!("{revision}-{}", u32::from(ordinal) + 1);
        let mut add = cmd("XADD");
        add.arg(&self.key).arg(&id);
        for (name, value) in [("event", message.name), ("key", &message.key), ("time", &message.time)] {
            add.arg(name).arg(value);
        }
        add.arg("body").arg(message.body.as_ref());
        let error = match add.query_async::<String>(&mut self.connection).await {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        // Not above the last id: it is there already, unless somebody else writes to this stream.
        let found = cmd("XRANGE").arg(&self.key).arg(&id).arg(&id).query_async::<Value>(&mut self.connection).await;
        match found {
            Ok(Value::Array(entries)) if !entries.is_empty() => Ok(()),
            _ => Err(SendError::failed(error)),
        }
    }
}

#[async_trait]
impl Sender for Redis {
    /// Only a ping: an entry with a place of its own would be above the places of events.
    async fn send_test(&mut self, message: &Message) -> Result<(), SendError> {
        match self.mode {
            RedisMode::List => self.send(std::slice::from_ref(message)).await,
            RedisMode::Stream => {
                let typed = cmd("TYPE").arg(&self.key).query_async::<String>(&mut self.connection).await;
                match typed.map_err(SendError::failed)?.as_str() {
                    "none" | "stream" => Ok(()),
                    other => Err(SendError::Failed(format!("the key {} holds a {other}", self.key))),
                }
            }
        }
    }

    async fn send(&mut self, messages: &[Message]) -> Result<(), SendError> {
        if self.mode == RedisMode::Stream {
            for message in messages {
                self.add(message).await?;
            }
            return Ok(());
        }
        let mut push = cmd("RPUSH");
        push.arg(&self.key);
        for message in messages {
            push.arg(message.body.as_ref());
        }
        push.query_async::<u64>(&mut self.connection).await.map(drop).map_err(SendError::failed)
    }
}
