//! Stand-in, replaced at merge.

/// A hint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Effect {
    /// Blobs were condemned: their bytes can go.
    BlobsCondemned,
}
