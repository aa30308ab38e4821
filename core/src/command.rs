//! Stand-in, replaced at merge.

use minicbor::{Decode, Encode};

use crate::record::DecodeError;

/// A mutation.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Command {
    /// Key.
    #[n(0)]
    #[cbor(with = "minicbor::bytes")]
    pub key: Vec<u8>,
    /// New value, or removal.
    #[n(1)]
    #[cbor(with = "minicbor::bytes")]
    pub value: Option<Vec<u8>>,
}

impl Command {
    /// The stored bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        minicbor::to_vec(self).expect("writing to a vector cannot fail")
    }

    /// The command that `bytes` store.
    ///
    /// # Errors
    /// When the bytes are not a command this build knows.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        minicbor::decode(bytes).map_err(|source| DecodeError { what: "command", source })
    }
}

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Reply {
    /// Done.
    #[n(0)]
    Done,
}

impl Reply {
    /// The stored bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        minicbor::to_vec(self).expect("writing to a vector cannot fail")
    }

    /// The reply that `bytes` store.
    ///
    /// # Errors
    /// When the bytes are not a reply this build knows.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        minicbor::decode(bytes).map_err(|source| DecodeError { what: "reply", source })
    }
}
