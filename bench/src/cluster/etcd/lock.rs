//! Leases, and the lock service: the caller brings a lease, and the lock is a key that lives as long as it.
//!
//! Source: etcd `rpc.proto` (Lease), `v3lock.proto`.

use anyhow::{Context, Result};
use bytes::{Bytes, BytesMut};

use super::{Client, bytes_of, field, number, number_of};

const GRANT: &str = "/etcdserverpb.Lease/LeaseGrant";
const REVOKE: &str = "/etcdserverpb.Lease/LeaseRevoke";
const LOCK: &str = "/v3lockpb.Lock/Lock";
const UNLOCK: &str = "/v3lockpb.Lock/Unlock";

impl Client {
    /// A new lease of so many seconds.
    ///
    /// # Errors
    /// When the call does not succeed.
    pub async fn grant(&mut self, seconds: u64) -> Result<u64> {
        let mut message = BytesMut::with_capacity(16);
        number(&mut message, 1, seconds);
        let reply = self.call(GRANT, &message).await?;
        number_of(&reply, 2).context("a lease without a number")
    }

    /// Ends a lease.
    ///
    /// # Errors
    /// When the call does not succeed.
    pub async fn revoke(&mut self, lease: u64) -> Result<()> {
        let mut message = BytesMut::with_capacity(16);
        number(&mut message, 1, lease);
        self.call(REVOKE, &message).await.map(drop)
    }

    /// Waits for a lock, as long as it takes; gives the revision, and the key to unlock it with.
    ///
    /// # Errors
    /// When the call does not succeed.
    pub async fn lock(&mut self, name: &[u8], lease: u64) -> Result<(u64, Bytes)> {
        let reply = self.call(LOCK, &wanted(name, lease)).await?;
        let key = bytes_of(&reply, 2).map(Bytes::copy_from_slice).context("a lock without a key")?;
        Ok((revision(&reply)?, key))
    }

    /// Gives a lock back; gives the revision.
    ///
    /// # Errors
    /// When the call does not succeed.
    pub async fn unlock(&mut self, key: &[u8]) -> Result<u64> {
        let mut message = BytesMut::with_capacity(key.len() + 8);
        field(&mut message, 1, key);
        revision(&self.call(UNLOCK, &message).await?)
    }
}

/// The store's, by a reply's header.
fn revision(reply: &[u8]) -> Result<u64> {
    bytes_of(reply, 1).and_then(|header| number_of(header, 3)).context("a reply without a revision")
}

fn wanted(name: &[u8], lease: u64) -> BytesMut {
    let mut message = BytesMut::with_capacity(name.len() + 16);
    field(&mut message, 1, name);
    number(&mut message, 2, lease);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_revision_is_in_the_header() {
        let reply = [0x0a, 5, 0x08, 1, 0x18, 0xac, 0x02, 0x12, 1, b'k'];
        assert_eq!(revision(&reply).unwrap(), 300);
        assert!(revision(&reply[7..]).is_err(), "no header");
    }

    #[test]
    fn a_lock_is_a_name_and_a_lease() {
        assert_eq!(&wanted(b"job", 300)[..], [0x0a, 3, b'j', b'o', b'b', 0x10, 0xac, 0x02]);
        // Leases have 63 bits.
        let lease = 0x3249_9af5_0f0a_7b31;
        assert_eq!(number_of(&wanted(b"job", lease), 2), Some(lease));
    }
}
