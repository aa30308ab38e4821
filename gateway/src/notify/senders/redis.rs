//! Redis: a message has arrived when the server has answered. Beside the stream or list a key holds the place of the last event
//! that this target added, moved by the same script: a copy is not added, whatever consumers have removed meanwhile and
//! whoever else writes there.

use std::net::SocketAddr;

use ::redis::aio::MultiplexedConnection;
use ::redis::io::AsyncDNSResolver;
use ::redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, IntoConnectionInfo as _, RedisConnectionInfo, RedisError,
    RedisFuture, TlsCertificates, cmd,
};
use async_trait::async_trait;
use futures::FutureExt as _;

use super::{SendError, Sender};
use crate::notify::message::Message;
use crate::notify::settings::{RedisMode, TargetSettings};
use crate::outbound::{Reach, bare};

pub(super) struct Redis {
    connection: MultiplexedConnection,
    key: String,
    mode: RedisMode,
    mark: String,
}

/// Adds a message and moves the mark, both or neither; a place that is not above the mark is a copy.
const ADD: &str = "local mark = redis.call('GET', KEYS[2])
if mark then
  local revision, ordinal = string.match(mark, '^(%d+) (%d+)$')
  revision, ordinal = tonumber(revision), tonumber(ordinal)
  local r, o = tonumber(ARGV[1]), tonumber(ARGV[2])
  if r < revision or (r == revision and o <= ordinal) then return 'copy' end
end
if ARGV[3] == 'stream' then
  redis.call('XADD', KEYS[1], '*', 'event', ARGV[5], 'key', ARGV[6], 'time', ARGV[7], 'body', ARGV[4])
else
  redis.call('RPUSH', KEYS[1], ARGV[4])
end
redis.call('SET', KEYS[2], ARGV[1] .. ' ' .. ARGV[2])
return 'added'";

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
    pub(super) async fn connect(settings: &TargetSettings, reach: Reach, source: &str) -> Result<Self, SendError> {
        let (host, port) = settings.hosts[0].clone();
        let host = bare(&host).to_owned();
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
        let (connection, key) = (connection.map_err(SendError::failed)?, settings.name.clone());
        let mark = format!("{key}:holdfast:{source}");
        Ok(Self { connection, key, mode: settings.mode, mark })
    }

    /// Adds it, unless the mark says that it was added before.
    async fn add(&mut self, message: &Message) -> Result<(), SendError> {
        let (revision, ordinal) = message.place;
        let mut add = cmd("EVAL");
        add.arg(ADD).arg(2).arg(&self.key).arg(&self.mark).arg(revision).arg(ordinal);
        match self.mode {
            RedisMode::Stream => add.arg("stream"),
            RedisMode::List => add.arg("list"),
        };
        add.arg(message.body.as_ref()).arg(message.name).arg(&message.key).arg(&message.time);
        add.query_async::<String>(&mut self.connection).await.map(drop).map_err(SendError::failed)
    }
}

#[async_trait]
impl Sender for Redis {
    /// Only looks: a message that is no event would move the mark.
    async fn send_test(&mut self, _: &Message) -> Result<(), SendError> {
        let wanted = if self.mode == RedisMode::Stream { "stream" } else { "list" };
        let typed = cmd("TYPE").arg(&self.key).query_async::<String>(&mut self.connection).await;
        match typed.map_err(SendError::failed)?.as_str() {
            found if found == "none" || found == wanted => Ok(()),
            other => Err(SendError::Failed(format!("the key {} holds a {other}", self.key))),
        }
    }

    async fn send(&mut self, messages: &[Message]) -> Result<(), SendError> {
        for message in messages {
            self.add(message).await?;
        }
        Ok(())
    }
}
