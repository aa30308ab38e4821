//! AMQP 0-9-1: a persistent message has arrived when the broker has confirmed it. One that no queue takes is returned by the
//! broker, and counts as failed: the binding may come later.
//!
//! The connection is made here, not by the library: it would look the name up once more, trust the machine's roots beside the
//! target's authority, and take no address of IPv6.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::tcp::RustlsConnector;
use lapin::types::ShortString;
use lapin::uri::{AMQPAuthority, AMQPUri, AMQPUserInfo};
use lapin::{AsyncTcpStream, BasicProperties, Channel, Connection, ConnectionProperties};

use super::{SendError, Sender};
use crate::notify::message::Message;
use crate::notify::settings::TargetSettings;
use crate::outbound::{self, Reach, bare};

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
        let (host, port) = settings.hosts[0].clone();
        let addresses = reach.resolve(&host, port).await?;
        let host = bare(&host).to_owned();
        let tls =
            settings.secure.then(|| outbound::tls(settings.ca.as_deref()).map(RustlsConnector::from)).transpose()?;
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
        let authority = AMQPAuthority { host: host.clone(), port, userinfo };
        let uri = AMQPUri { authority, vhost, ..AMQPUri::default() };
        let properties = ConnectionProperties::default().with_connection_name("holdfast".into());
        let runtime = lapin::runtime::default_runtime().map_err(SendError::failed)?;
        let unfinished = Arc::new(Unfinished::default());
        let held = Arc::downgrade(&unfinished);
        let connection = Connection::connector(
            uri,
            runtime,
            async move |_, runtime| {
                let stream = AsyncTcpStream::connect(&runtime, addresses.clone()).await?;
                if let AsyncTcpStream::Plain(plain) = &stream {
                    let unfinished = held.upgrade().ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionAborted))?;
                    unfinished.hold(plain.get_ref().as_fd().try_clone_to_owned()?.into());
                }
                Ok(match &tls {
                    Some(tls) => stream.into_rustls(tls, &host).await?,
                    None => stream,
                })
            },
            properties,
        );
        let connection = connection.await.map_err(SendError::failed)?;
        let channel = connection.create_channel().await.map_err(SendError::failed)?;
        channel.confirm_select(ConfirmSelectOptions::default()).await.map_err(SendError::failed)?;
        unfinished.finish();
        let (exchange, routing_key) = (settings.exchange.as_str().into(), settings.name.clone());
        Ok(Self { channel, exchange, routing_key, _connection: connection })
    }
}

/// The socket of a connection that is being made. It is shut when that is given up: the library, in a thread of its own, would
/// wait for an answer for as long as the other side keeps it open.
#[derive(Default)]
struct Unfinished(Mutex<Option<TcpStream>>);

impl Unfinished {
    fn hold(&self, socket: TcpStream) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(socket);
    }

    /// From here on heartbeats tell when nobody answers.
    fn finish(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(socket) = self.0.get_mut().unwrap_or_else(PoisonError::into_inner) {
            // One that is closed already needs no more.
            let _ = socket.shutdown(Shutdown::Both);
        }
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
