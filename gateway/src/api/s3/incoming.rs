//! A request's body on its way to the store of blobs: hashed and verified on the way.

use holdfast_core::command::Digests;
use holdfast_core::record::{Checksum, ChecksumAlgorithm, ChecksumType};
use s3s::dto::StreamingBlob;

use super::body::{BodyBudget, Expectation, HashedBody};
use super::digest;
use crate::blobs::{Incoming, Verified};

/// A body that ends well only when it is what it promised to be.
pub(super) fn incoming(body: StreamingBlob, expect: Expectation, budget: BodyBudget) -> Incoming {
    let hashed = HashedBody::new(body, expect, budget);
    let length = hashed.length();
    let (pieces, digests) = hashed.split();
    Incoming::new(length, pieces, async move { digests.wait().await.map(verified) })
}

fn verified(digests: digest::Digests) -> Verified {
    let checksum = digests.checksum.filter(|(algorithm, _)| *algorithm != ChecksumAlgorithm::Crc64Nvme);
    Verified {
        size: digests.length,
        digests: Digests {
            md5: digests.md5,
            sha256: digests.sha256,
            crc64nvme: digests.crc64nvme,
            checksum: checksum.map(|(algorithm, value)| Checksum { algorithm, kind: ChecksumType::FullObject, value }),
        },
        crcs: digests.crc32c_blocks,
    }
}
