//! MQTT 3.1.1: with QoS 1 a message has arrived when the broker has acknowledged it, with QoS 2 when it has completed the
//! exchange. QoS 0 says nothing, so there is none.

use std::time::Duration;

use async_trait::async_trait;
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, QoS, TlsConfiguration, Transport};

use super::{SendError, Sender, pinned};
use crate::notify::message::Message;
use crate::notify::settings::TargetSettings;
use crate::outbound::{self, Reach};

/// Requests that wait in the client.
const REQUESTS_MAX: usize = 128;
/// Bytes of a packet.
const PACKET_BYTES_MAX: usize = 1 << 20;

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
        // Nobody listens between two deliveries, so nobody would answer for the connection either.
        options.set_keep_alive(Duration::ZERO).set_max_packet_size(PACKET_BYTES_MAX, PACKET_BYTES_MAX);
        if let (Some(user), Some(password)) = (&settings.user, &settings.password) {
            options.set_credentials(user.clone(), password.expose());
        }
        if settings.secure {
            let tls = outbound::tls(settings.ca.as_deref())?;
            options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(tls.into())));
        }
        let (client, mut events) = AsyncClient::new(options, REQUESTS_MAX);
        events.network_options.set_connection_timeout(settings.timeout.as_secs().max(1));
        let qos = if settings.qos == 1 { QoS::AtLeastOnce } else { QoS::ExactlyOnce };
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
        while open > 0 {
            match self.turn().await? {
                Event::Incoming(Packet::PubAck(_)) if self.qos == QoS::AtLeastOnce => open -= 1,
                Event::Incoming(Packet::PubComp(_)) if self.qos == QoS::ExactlyOnce => open -= 1,
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
