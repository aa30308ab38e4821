//! Commands and reads of the tests, in one place.

use holdfast_core::command::Command;
use holdfast_core::keyspace::Keyspace;
use holdfast_core::kv::KvRead;

/// A command that sets `key`.
pub(in crate::cluster) fn put(key: &str, value: &[u8]) -> Command {
    Command { key: key.as_bytes().to_vec(), value: Some(value.to_vec()) }
}

/// A command that removes `key`.
pub(in crate::cluster) fn delete(key: &str) -> Command {
    Command { key: key.as_bytes().to_vec(), value: None }
}

/// What `key` holds.
pub(in crate::cluster) fn value(view: &impl KvRead, key: &str) -> Option<Vec<u8>> {
    view.get(Keyspace::Inline, key.as_bytes()).unwrap().map(|value| value.to_vec())
}
