//! AMQP 0-9-1: a persistent message has arrived when the broker has confirmed it. One that no queue takes is returned by the
//! broker, and counts as failed: the binding may come later.

use async_trait::async_trait;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::tcp::OwnedTLSConfig;
use lapin::types::ShortString;
use lapin::uri::{AMQPAuthority, AMQPScheme, AMQPUri, AMQPUserInfo};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, DefaultConnectionBuilder};

use super::{SendError, Sender, in_authority, pinned};
use crate::notify::message::Message;
use crate::notify::settings::TargetSettings;
use crate::outbound::Reach;

/// Delivery mode of a message that is kept on disk.
const PERSISTENT: u8 = 2;

pub(super) struct Amqp {
    channel: Channel,
    exchange: ShortString,
    routing_key: String,
    /// Ends when it is dropped.
    _connection: Connection,
}

impl Amqp {
    pub(super) async fn connect(settings: &TargetSettings, reach: Reach) -> Result<Self, SendError> {
        let (host, port) = pinned(settings, reach).await?;
        let userinfo = match (&settings.user, &settings.password) {
            (Some(user), Some(password)) => {
                AMQPUserInfo { username: user.clone(), password: password.expose().to_owned() }
            }
            _ => AMQPUserInfo::default(),
        };
        let vhost = match settings.path.as_str() {
            "" => "/".to_owned(),
            path => percent_encoding::percent_decode_str(path).decode_utf8_lossy().into_owned(),
        };
        let scheme = if settings.secure { AMQPScheme::AMQPS } else { AMQPScheme::AMQP };
        let authority = AMQPAuthority { host: in_authority(host), port, userinfo };
        let uri = AMQPUri { scheme, authority, vhost, ..AMQPUri::default() };
        let tls = OwnedTLSConfig { identity: None, cert_chain: settings.ca.clone() };
        let properties = ConnectionProperties::default().with_connection_name("holdfast".into());
        let builder = DefaultConnectionBuilder::new().map_err(SendError::failed)?;
        let builder = builder.with_uri(uri).with_properties(properties).with_tls_config(tls);
        let connection = builder.connect().await.map_err(SendError::failed)?;
        let channel = connection.create_channel().await.map_err(SendError::failed)?;
        channel.confirm_select(ConfirmSelectOptions::default()).await.map_err(SendError::failed)?;
        let (exchange, routing_key) = (settings.exchange.as_str().into(), settings.name.clone());
        Ok(Self { channel, exchange, routing_key, _connection: connection })
    }
}

#[async_trait]
impl Sender for Amqp {
    async fn send(&mut self, messages: &[Message]) -> Result<(), SendError> {
        let mut confirmations = Vec::new();
        for message in messages {
            let properties = BasicProperties::default()
                .with_content_type(message.content_type.into())
                .with_delivery_mode(PERSISTENT)
                .with_message_id(message.id.as_str().into())
                .with_type(message.name.into());
            let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
            let (exchange, routing_key) = (self.exchange.clone(), self.routing_key.as_str().into());
            let sent = self.channel.basic_publish(exchange, routing_key, options, &message.body, properties).await;
            confirmations.push(sent.map_err(SendError::failed)?);
        }
        for confirmation in confirmations {
            let confirmed = confirmation.await.map_err(SendError::failed)?;
            if !confirmed.is_ack() {
                return Err(SendError::Failed("the broker does not take the message".into()));
            }
            if let Some(returned) = confirmed.take_message() {
                return Err(SendError::Failed(format!("no queue takes it: {}", returned.reply_text)));
            }
        }
        Ok(())
    }
}
