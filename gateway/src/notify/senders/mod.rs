//! One file per kind of target: how a batch of messages gets there, and what counts as arrived.
//!
//! A sender owns one connection. After an error it is dropped and a new one is made, so none has to repair itself. Each step
//! has a deadline ([`within`]).

mod amqp;
mod kafka;
mod mqtt;
mod nats;
mod postgresql;
mod redis;
mod webhook;

use async_trait::async_trait;
use tokio::time::timeout;

use super::message::Message;
use super::settings::{Kind, TargetSettings};
use crate::backend::chain;
use crate::outbound::{OutboundError, Reach, bare};

/// Why a batch did not arrive.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// It may work later: nothing answers, or not now.
    #[error("{0}")]
    Failed(String),
    /// The target will not have these messages.
    #[error("refused: {0}")]
    Refused(String),
}

impl SendError {
    fn failed(error: impl std::error::Error + 'static) -> Self {
        Self::Failed(chain(&error))
    }
}

impl From<OutboundError> for SendError {
    fn from(error: OutboundError) -> Self {
        Self::Failed(chain(&error))
    }
}

/// A connection to a target.
#[async_trait]
pub trait Sender: Send {
    /// Delivers messages in order. When it returns, the target has said that it has all of them.
    ///
    /// # Errors
    /// [`SendError`]: some of them may have arrived.
    async fn send(&mut self, messages: &[Message]) -> Result<(), SendError>;

    /// Delivers a message that is no event, so that one sees that it arrives, and leaves what orders events alone.
    ///
    /// # Errors
    /// [`SendError`].
    async fn send_test(&mut self, message: &Message) -> Result<(), SendError> {
        self.send(std::slice::from_ref(message)).await
    }
}

/// Connects to a target, within the time that an attempt has. `source` tells this target's messages from those of others.
///
/// # Errors
/// [`SendError::Failed`].
pub async fn connect(settings: &TargetSettings, reach: Reach, source: &str) -> Result<Box<dyn Sender>, SendError> {
    within(settings, open(settings, reach, source)).await
}

async fn open(settings: &TargetSettings, reach: Reach, source: &str) -> Result<Box<dyn Sender>, SendError> {
    Ok(match settings.kind {
        Kind::Webhook => Box::new(webhook::Webhook::new(settings, reach)?),
        Kind::Nats => Box::new(nats::Nats::connect(settings, reach).await?),
        Kind::Kafka => Box::new(kafka::Kafka::connect(settings, reach).await?),
        Kind::Amqp => Box::new(amqp::Amqp::connect(settings, reach).await?),
        Kind::Mqtt => Box::new(mqtt::Mqtt::connect(settings, reach).await?),
        Kind::Redis => Box::new(redis::Redis::connect(settings, reach, source).await?),
        Kind::PostgreSql => Box::new(postgresql::PostgreSql::connect(settings, reach).await?),
    })
}

/// A step of an attempt, which fails when it takes longer than the target's settings say.
///
/// # Errors
/// The step's, or [`SendError::Failed`] when it is late.
pub async fn within<T>(
    settings: &TargetSettings,
    step: impl Future<Output = Result<T, SendError>>,
) -> Result<T, SendError> {
    let late = |_| SendError::Failed(format!("no answer within {:?}", settings.timeout));
    timeout(settings.timeout, step).await.map_err(late)?
}

/// The first host as a client should be told: its address, when no certificate has to fit the name, so that the name cannot
/// lead elsewhere meanwhile.
async fn pinned(settings: &TargetSettings, reach: Reach) -> Result<(String, u16), SendError> {
    let (host, port) = &settings.hosts[0];
    let addresses = reach.resolve(host, *port).await?;
    let host = if settings.secure { bare(host).to_owned() } else { addresses[0].ip().to_string() };
    Ok((host, *port))
}

/// A bare host as it stands before a port.
fn in_authority(host: String) -> String {
    if host.contains(':') { format!("[{host}]") } else { host }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_ipv6_has_brackets_before_a_port_only() {
        for (host, bared, authority) in
            [("[::1]", "::1", "[::1]"), ("::1", "::1", "[::1]"), ("r.test", "r.test", "r.test")]
        {
            assert_eq!((bare(host), in_authority(bare(host).to_owned())), (bared, authority.to_owned()));
        }
    }
}
