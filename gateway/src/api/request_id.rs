//! One id per request: what the client gets as `x-amz-request-id`, what every log line of the request carries, and what a
//! command carries so that applying it twice changes nothing.
//!
//! Layout: six bytes of milliseconds since 1970, ten random bytes. Ids sort by time. The text is 32 lower-case hexadecimal
//! digits.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

/// One request's id, carried in the request's extensions from the gate to the verb.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub [u8; 16]);

impl RequestId {
    /// An id that no other request has.
    #[must_use]
    pub fn mint() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        let mut bytes = [0; 16];
        bytes[..6].copy_from_slice(&ms.to_be_bytes()[2..]);
        bytes[6..].copy_from_slice(&rand::random::<[u8; 10]>());
        Self(bytes)
    }

    /// The sixteen bytes, for the command.
    #[must_use]
    pub fn bytes(&self) -> [u8; 16] {
        self.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_and_read_as_hex() {
        let (one, two) = (RequestId::mint(), RequestId::mint());
        assert_ne!(one, two);
        let text = one.to_string();
        assert_eq!(text.len(), 32);
        assert!(text.bytes().all(|digit| digit.is_ascii_hexdigit()));
        assert_eq!(one.bytes(), one.0);
    }
}
