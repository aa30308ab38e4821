//! The seam between the cluster and whatever carries its messages: [`Peers`] sends, [`PeerHandler`] receives.
//!
//! A message names a method and carries opaque bytes; what they mean belongs to the receiver. Everything here is bounded:
//! a body by [`MESSAGE_BYTES_MAX`], an upload by its receiver, every call by its deadline. Who sent a message is proved by
//! the transport and never read from the message.

pub mod client;
pub mod server;
pub mod switchboard;
#[cfg(test)]
mod tests;
pub mod trust;
mod wire;
mod x509;

use std::pin::Pin;

use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;
use tokio::time::Instant;

/// Most bytes of a message or of its reply. An append batch is smaller by far; a command may have 16 MiB.
pub const MESSAGE_BYTES_MAX: usize = 32 << 20;

/// The bytes of an upload, in pieces.
pub type Upload = Pin<Box<dyn Stream<Item = std::io::Result<Bytes>> + Send>>;

/// Whom a message is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PeerAddress {
    /// Host and port of its peer listener.
    pub address: String,
    /// The node id that its certificate must name; `None` while it is only known by its address.
    pub node: Option<u64>,
}

/// Who sent a message, as its certificate proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sender {
    /// Its node id; `None` for a node that has none yet and asks to join.
    pub node: Option<u64>,
}

/// Why a call did not end in a reply.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PeerError {
    /// The message did not reach the peer: it did nothing.
    #[error("{address} cannot be reached: {why}")]
    Unreachable {
        /// Whom.
        address: String,
        /// Why.
        why: String,
    },
    /// The message may have reached the peer; what it did is unknown.
    #[error("{address} did not answer: {why}")]
    NoAnswer {
        /// Whom.
        address: String,
        /// Why.
        why: String,
    },
    /// The peer answered that it refuses.
    #[error("{address} refuses: {why}")]
    Refused {
        /// Whom.
        address: String,
        /// What it said.
        why: String,
    },
}

/// Sends messages to peers.
#[async_trait]
pub trait Peers: Send + Sync + 'static {
    /// Sends one message and waits for its reply.
    ///
    /// # Errors
    /// [`PeerError`]; only [`PeerError::NoAnswer`] leaves open whether the peer acted.
    async fn call(
        &self,
        peer: &PeerAddress,
        method: &'static str,
        body: Bytes,
        deadline: Instant,
    ) -> Result<Bytes, PeerError>;

    /// Sends `head` and then a stream of any length, and waits for the reply.
    ///
    /// # Errors
    /// [`PeerError`].
    async fn upload(
        &self,
        peer: &PeerAddress,
        method: &'static str,
        head: Bytes,
        body: Upload,
        deadline: Instant,
    ) -> Result<Bytes, PeerError>;
}

/// Receives messages from peers.
#[async_trait]
pub trait PeerHandler: Send + Sync + 'static {
    /// Answers one message; an error is the text that the sender gets as [`PeerError::Refused`].
    async fn call(&self, from: Sender, method: &str, body: Bytes) -> Result<Bytes, String>;

    /// Answers an upload.
    async fn upload(&self, from: Sender, method: &str, head: Bytes, body: Upload) -> Result<Bytes, String>;
}
