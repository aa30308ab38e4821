//! MQTT 3.1.1: with QoS 1 a message has arrived when the broker has acknowledged it, with QoS 2 when it has completed the
//! exchange, with QoS 0 when it was handed to the connection and the broker has answered a ping behind it.

use std::time::Duration;

use async_trait::async_trait;
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Outgoing, Packet, QoS, TlsConfiguration, Transport};

use super::{SendError, Sender, pinned};
use crate::notify::message::Message;
use crate::notify::settings::TargetSettings;
use crate::outbound::{self, Reach};

/// Requests that wait in the client.
const REQUESTS_MAX: usize = 128;
/// Bytes of a packet.
const PACKET_BYTES_MAX: usize = 1 << 20;
const KEEP_ALIVE: Duration = Duration::from_secs(5);

pub(super) struct Mqtt {
    client: AsyncClient,
    events: EventLoop,
    topic: String,
    qos: QoS,
}

impl Mqtt {
    pub(super) async fn connect(settings: &TargetSettings, reach: Reach) -> Result<Self, SendError> {
        let (host, port) = pinned(settings, reach).await?;
        let mut options = MqttOptions::new(format!("holdfast-{:016x}", rand::random::<u64>()), host, port);
        options.set_keep_alive(KEEP_ALIVE).set_max_packet_size(PACKET_BYTES_MAX, PACKET_BYTES_MAX);
        if let (Some(user), Some(password)) = (&settings.user, &settings.password) {
            options.set_credentials(user.clone(), password.expose());
        }
        if settings.secure {
            let tls = outbound::tls(settings.ca.as_deref())?;
            options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(tls.into())));
        }
        let (client, mut events) = AsyncClient::new(options, REQUESTS_MAX);
        events.network_options.set_connection_timeout(settings.timeout.as_secs().max(1));
        let qos = match settings.qos {
            0 => QoS::AtMostOnce,
            1 => QoS::AtLeastOnce,
            _ => QoS::ExactlyOnce,
        };
        let mut own = Self { client, events, topic: settings.name.clone(), qos };
        while !matches!(own.turn().await?, Event::Incoming(Packet::ConnAck(_))) {}
        Ok(own)
    }

    async fn turn(&mut self) -> Result<Event, SendError> {
        self.events.poll().await.map_err(SendError::failed)
    }
}

#[async_trait]
impl Sender for Mqtt {
    async fn send(&mut self, messages: &[Message]) -> Result<(), SendError> {
        for message in messages {
            let sent = self.client.publish(self.topic.as_str(), self.qos, false, message.body.to_vec()).await;
            sent.map_err(SendError::failed)?;
        }
        let mut open = messages.len();
        // Of QoS 0 nothing is acknowledged: the answer to the next ping says that the broker has read what came before.
        let mut handed_over = 0;
        while open > 0 {
            match self.turn().await? {
                Event::Incoming(Packet::PubAck(_)) if self.qos == QoS::AtLeastOnce => open -= 1,
                Event::Incoming(Packet::PubComp(_)) if self.qos == QoS::ExactlyOnce => open -= 1,
                Event::Outgoing(Outgoing::Publish(_)) if self.qos == QoS::AtMostOnce => handed_over += 1,
                Event::Incoming(Packet::PingResp) if handed_over >= messages.len() => open = 0,
                // The broker came back without what it had: nothing that was on its way counts.
                Event::Incoming(Packet::ConnAck(_)) => {
                    return Err(SendError::Failed("the connection was lost on the way".into()));
                }
                _ => {}
            }
        }
        Ok(())
    }
}
