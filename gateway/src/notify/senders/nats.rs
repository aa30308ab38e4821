//! NATS: a core message has arrived when a message to an inbox of ours, sent behind it on the same connection, has come back:
//! the server handles a connection in order. With JetStream it has arrived when the stream has acknowledged it, one after
//! the other so that none overtakes. `Nats-Msg-Id` is the event's id, by which a stream drops copies.

use async_nats::jetstream;
use async_nats::{Client, ConnectOptions, HeaderMap, Subscriber};
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;

use super::{SendError, Sender, in_authority, pinned};
use crate::notify::message::Message;
use crate::notify::settings::TargetSettings;
use crate::outbound::{self, Reach};

pub(super) struct Nats {
    client: Client,
    stream: Option<jetstream::Context>,
    subject: String,
    inbox: String,
    echoes: Subscriber,
    /// The server's number of the connection: another one has not had the messages before.
    connection: u64,
}

impl Nats {
    pub(super) async fn connect(settings: &TargetSettings, reach: Reach) -> Result<Self, SendError> {
        let (host, port) = pinned(settings, reach).await?;
        let mut options = ConnectOptions::new()
            .name("holdfast")
            // Where the server says others are was not looked at.
            .ignore_discovered_servers()
            .connection_timeout(settings.timeout)
            .request_timeout(Some(settings.timeout))
            .max_reconnects(1);
        if let (Some(user), Some(password)) = (&settings.user, &settings.password) {
            options = options.user_and_password(user.clone(), password.expose().to_owned());
        }
        if let Some(token) = &settings.token {
            options = options.token(token.expose().to_owned());
        }
        if settings.secure {
            options = options.require_tls(true).tls_client_config(outbound::tls(settings.ca.as_deref())?);
        }
        let host = in_authority(host);
        let scheme = if settings.secure { "tls" } else { "nats" };
        let client = options.connect(format!("{scheme}://{host}:{port}")).await.map_err(SendError::failed)?;
        let stream = settings.jetstream.then(|| jetstream::new(client.clone()));
        let inbox = client.new_inbox();
        let echoes = client.subscribe(inbox.clone()).await.map_err(SendError::failed)?;
        let connection = client.server_info().client_id;
        Ok(Self { client, stream, subject: settings.name.clone(), inbox, echoes, connection })
    }
}

fn headers(message: &Message) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Msg-Id", message.unique.as_str());
    headers.insert("Content-Type", message.content_type);
    headers
}

#[async_trait]
impl Sender for Nats {
    async fn send(&mut self, messages: &[Message]) -> Result<(), SendError> {
        let Some(stream) = &self.stream else {
            for message in messages {
                let (subject, body) = (self.subject.clone(), message.body.clone());
                let sent = self.client.publish_with_headers(subject, headers(message), body).await;
                sent.map_err(SendError::failed)?;
            }
            let echo = self.client.publish(self.inbox.clone(), Bytes::new()).await;
            echo.map_err(SendError::failed)?;
            let came = self.echoes.next().await.is_some();
            let same = self.client.server_info().client_id == self.connection;
            let lost = || SendError::Failed("the connection was lost on the way".into());
            return (came && same).then_some(()).ok_or_else(lost);
        };
        for message in messages {
            let sent = stream.publish_with_headers(self.subject.clone(), headers(message), message.body.clone()).await;
            sent.map_err(SendError::failed)?.await.map_err(SendError::failed)?;
        }
        Ok(())
    }
}
