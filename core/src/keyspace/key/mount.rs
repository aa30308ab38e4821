//! Keys of the sessions of mounts, in `locks`.

use super::{Key, bad, u64_at};
use crate::id::ObjectId;
use crate::mount::MountId;
use crate::record::DecodeError;

const SESSION: u8 = 10;
const OF_LEASE: u8 = 11;
const ORPHAN: u8 = 12;
const REPLY: u8 = 13;
const OPEN_FILE: u8 = 14;
const COUNT: u8 = 15;

/// `locks`: the session of a client.
#[must_use]
pub fn mount(client: MountId) -> Vec<u8> {
    Key::new().u8(SESSION).bytes(&client.0).0
}

/// The client in the key of a session.
#[must_use]
pub fn mount_client(key: &[u8]) -> Option<MountId> {
    Some(MountId(key.get(3..19)?.try_into().ok()?))
}

/// `locks`: how many sessions there are.
#[must_use]
pub fn mount_count() -> Vec<u8> {
    Key::new().u8(COUNT).0
}

/// `locks`: start of the names whose version a session has open.
#[must_use]
pub fn mount_open_files(client: MountId) -> Vec<u8> {
    Key::new().u8(OPEN_FILE).bytes(&client.0).0
}

/// `locks`: a name whose version a session has open.
#[must_use]
pub fn mount_open_file(client: MountId, key: &str) -> Vec<u8> {
    Key::new().u8(OPEN_FILE).bytes(&client.0).bytes(key.as_bytes()).0
}

/// The name in the key of one whose version a session has open.
///
/// # Errors
/// [`DecodeError`] when the row key has no such form.
pub fn mount_open_file_key(key: &[u8]) -> Result<&str, DecodeError> {
    key.get(19..).and_then(|key| std::str::from_utf8(key).ok()).ok_or_else(|| bad("key of a file that is open"))
}

/// `locks`: whose session lives by a lease.
#[must_use]
pub fn mount_of_lease(lease: u64) -> Vec<u8> {
    Key::new().u8(OF_LEASE).u64(lease).0
}

/// `locks`: the reply to the last commit of a client's session.
#[must_use]
pub fn mount_reply(client: MountId) -> Vec<u8> {
    Key::new().u8(REPLY).bytes(&client.0).0
}

/// `locks`: start of the files without a name that a session holds.
#[must_use]
pub fn mount_orphans(client: MountId) -> Vec<u8> {
    Key::new().u8(ORPHAN).bytes(&client.0).0
}

/// `locks`: a file without a name that a session holds.
#[must_use]
pub fn mount_orphan(client: MountId, object: ObjectId) -> Vec<u8> {
    Key::new().u8(ORPHAN).bytes(&client.0).u64(object.0).0
}

/// The file in the key of a file without a name.
///
/// # Errors
/// [`DecodeError`] when the row key has no such form.
pub fn mount_orphan_object(key: &[u8]) -> Result<ObjectId, DecodeError> {
    u64_at(key, 19).map(ObjectId).ok_or_else(|| bad("key of a file without a name"))
}
