//! Keys of `topics`.

use super::{Key, bad, text_from, u64_at};
use crate::record::DecodeError;

const TOPIC: u8 = 0;
const MESSAGE: u8 = 1;
const GROUP: u8 = 2;
const CLAIM: u8 = 3;
const PENDING: u8 = 4;
const REDELIVERY: u8 = 5;
const DOOMED: u8 = 6;

/// One topic; also the start of those whose name begins with it.
#[must_use]
pub fn topic(name: &str) -> Vec<u8> {
    Key::new().u8(TOPIC).bytes(name.as_bytes()).0
}

/// The name in the key of a topic.
///
/// # Errors
/// [`DecodeError`] when the row key has no such form.
pub fn topic_name(key: &[u8]) -> Result<String, DecodeError> {
    text_from(key, 3).ok_or_else(|| bad("topic key"))
}

/// One message.
#[must_use]
pub fn message(topic: u64, offset: u64) -> Vec<u8> {
    Key::new().u8(MESSAGE).u64(topic).u64(offset).0
}

/// Start of a topic's messages.
#[must_use]
pub fn messages(topic: u64) -> Vec<u8> {
    Key::new().u8(MESSAGE).u64(topic).0
}

/// One group; also the start of the topic's groups whose name begins with it.
#[must_use]
pub fn group(topic: u64, name: &str) -> Vec<u8> {
    Key::new().u8(GROUP).u64(topic).bytes(name.as_bytes()).0
}

/// The name in the key of a group.
///
/// # Errors
/// [`DecodeError`] when the row key has no such form.
pub fn group_name(key: &[u8]) -> Result<String, DecodeError> {
    text_from(key, 11).ok_or_else(|| bad("group key"))
}

/// What a lease has claimed.
#[must_use]
pub fn claim(lease: u64) -> Vec<u8> {
    Key::new().u8(CLAIM).u64(lease).0
}

/// A message that a lease holds.
#[must_use]
pub fn pending(lease: u64, offset: u64) -> Vec<u8> {
    Key::new().u8(PENDING).u64(lease).u64(offset).0
}

/// Start of the messages that a lease holds.
#[must_use]
pub fn pending_of(lease: u64) -> Vec<u8> {
    Key::new().u8(PENDING).u64(lease).0
}

/// A message that a group is to get again.
#[must_use]
pub fn redelivery(group: u64, offset: u64) -> Vec<u8> {
    Key::new().u8(REDELIVERY).u64(group).u64(offset).0
}

/// Start of the messages that a group is to get again.
#[must_use]
pub fn redeliveries(group: u64) -> Vec<u8> {
    Key::new().u8(REDELIVERY).u64(group).0
}

/// The offset in the key of a message, of one that a lease holds or that a group is to get again.
///
/// # Errors
/// [`DecodeError`] when the row key has no such form.
pub fn offset(key: &[u8]) -> Result<u64, DecodeError> {
    u64_at(key, 11).ok_or_else(|| bad("message key"))
}

/// Start of the deleted topics and groups.
#[must_use]
pub fn all_doomed() -> Vec<u8> {
    Key::new().u8(DOOMED).0
}

/// A deleted topic or group whose rows are to go.
#[must_use]
pub fn doomed(id: u64) -> Vec<u8> {
    Key::new().u8(DOOMED).u64(id).0
}

/// The id in the key of a deleted topic or group.
///
/// # Errors
/// [`DecodeError`] when the row key has no such form.
pub fn doomed_id(key: &[u8]) -> Result<u64, DecodeError> {
    u64_at(key, 3).ok_or_else(|| bad("key of a deleted topic"))
}
