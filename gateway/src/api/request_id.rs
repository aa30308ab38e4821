//! One id per request: what the client gets as `x-amz-request-id`, what every log line of the request carries, and what a
//! command carries so that applying it twice changes nothing.

use std::time::{SystemTime, UNIX_EPOCH};

pub use holdfast_core::id::RequestId;

/// An id that no other request has.
#[must_use]
pub fn mint() -> RequestId {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    RequestId::new(u64::try_from(since.as_millis()).unwrap_or(u64::MAX), rand::random())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_and_know_when_they_were_minted() {
        let (one, two) = (mint(), mint());
        assert_ne!(one, two);
        assert!(one.minted_ms() > 1_700_000_000_000 && one.minted_ms() <= two.minted_ms());
    }
}
