//! Commands about buckets.

use minicbor::{Decode, Encode};

use super::BucketRef;
use crate::id::BucketName;
use crate::record::{BucketSettings, stored_enum};

/// See [`super::Op::CreateBucket`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct CreateBucket {
    /// Name.
    #[n(0)]
    pub name: BucketName,
    /// Initial settings.
    #[n(1)]
    pub settings: BucketSettings,
}

/// See [`super::Op::SetVersioning`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SetVersioning {
    /// Which bucket.
    #[n(0)]
    pub bucket: BucketRef,
    /// Enabled, or suspended.
    #[n(1)]
    pub enabled: bool,
}

stored_enum! {
    /// Documents of a bucket.
    pub enum Document {
        /// CORS configuration, XML as validated by the front door.
        Cors = 0,
        /// Bucket tags, an encoded map.
        Tags = 1,
        /// Notification configuration, XML as validated by the front door; kept by the revision that set it.
        Notification = 2,
    }
}

/// See [`super::Op::SetDocument`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SetDocument {
    /// Which bucket.
    #[n(0)]
    pub bucket: BucketRef,
    /// Which document.
    #[n(1)]
    pub kind: Document,
    /// Its bytes; `None` removes it.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub document: Option<Vec<u8>>,
}

/// See [`super::Op::SetSettings`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SetSettings {
    /// Which bucket.
    #[n(0)]
    pub bucket: BucketRef,
    /// Settings to change.
    #[n(1)]
    pub settings: BucketSettings,
}
